from __future__ import annotations

import torch

from visuomotor.nn.film import FiLM


def test_a_fresh_layer_is_the_identity() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 5)
    assert torch.equal(FiLM(3, 6)(features, torch.randn(2, 6)), features)


def test_it_equals_the_formula_channel_by_channel() -> None:
    torch.manual_seed(0)
    film = FiLM(3, 6)
    torch.nn.init.normal_(film.project.weight)
    torch.nn.init.normal_(film.project.bias)
    condition = torch.randn(2, 6)
    numbers = film.project(condition)
    for space in [(), (7,), (4, 5)]:
        features = torch.randn(2, 3, *space)
        found = film(features, condition)
        for b in range(2):
            for c in range(3):
                expected = (1 + numbers[b, c]) * features[b, c] + numbers[b, 3 + c]
                torch.testing.assert_close(found[b, c], expected)
