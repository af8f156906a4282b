from __future__ import annotations

import pytest
import torch

from visuomotor.backbones import gemma3, llama
from visuomotor.backbones.generation import generate
from visuomotor.backbones.language_model import LanguageModel

START = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 0], [12, 13, 0, 0]])
REAL = torch.tensor([[True] * 4, [True] * 3 + [False], [True] * 2 + [False] * 2])


@pytest.fixture(params=[llama.tiny(), gemma3.tiny()], ids=["llama", "gemma3"])
def model(request) -> LanguageModel:
    torch.manual_seed(0)
    network = LanguageModel(request.param).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return network


@torch.no_grad()
def slow(model: LanguageModel, start: list[int], limit: int, stop=(), allow=None) -> list[int]:
    """One row, everything computed again for each token."""
    ids: list[int] = []
    while len(ids) < limit and (not ids or ids[-1] not in stop):
        scores = model(torch.tensor([start + ids]))[0, -1]
        if allow is not None:
            scores = scores.masked_fill(
                ~allow(torch.tensor([ids], dtype=torch.long).reshape(1, -1))[0], -torch.inf
            )
        ids.append(int(scores.argmax()))
    return ids


def rows() -> list[list[int]]:
    return [row[real].tolist() for row, real in zip(START, REAL)]


def test_rows_of_different_length_are_written_as_each_alone(model) -> None:
    written = generate(model, model.embed(START), REAL, limit=8)
    assert written.ids.shape == (3, 8)
    assert written.mask.all()
    assert not written.stopped.any()
    assert written.rows() == [slow(model, row, 8) for row in rows()]


def test_a_row_that_stops_is_left_alone_and_the_others_go_on(model) -> None:
    free = [slow(model, row, 8) for row in rows()]
    stop = [free[0][2]]
    written = generate(model, model.embed(START), REAL, limit=8, stop=stop)
    expected = [slow(model, row, 8, stop) for row in rows()]
    assert written.rows() == expected
    assert written.stopped.tolist() == [row[-1] in stop for row in expected]
    assert (written.ids[~written.mask] == stop[0]).all()
    assert len(written.rows()[0]) <= 3


def test_writing_ends_when_all_rows_have_stopped(model) -> None:
    everything = range(model.config.vocabulary)
    written = generate(model, model.embed(START), REAL, limit=8, stop=everything)
    assert written.ids.shape == (3, 1)
    assert written.stopped.all()


def test_only_what_is_allowed_is_written(model) -> None:
    vocabulary = model.config.vocabulary

    def allow(ids: torch.Tensor) -> torch.Tensor:
        """First one of 20 to 29, then only what is greater than the last; 63 ends."""
        last = ids[:, -1:] if ids.shape[1] else torch.full((len(ids), 1), 19)
        places = torch.arange(vocabulary)
        below = places < 30 if not ids.shape[1] else places < vocabulary
        return (places > last) & below

    written = generate(model, model.embed(START), REAL, limit=60, stop=[63], allow=allow)
    assert written.rows() == [slow(model, row, 60, [63], allow) for row in rows()]
    for row in written.rows():
        assert 20 <= row[0] < 30
        assert row == sorted(set(row))
        assert row[-1] == 63


def test_a_row_without_an_allowed_token_is_refused(model) -> None:
    def nothing(ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(ids), model.config.vocabulary, dtype=torch.bool)

    with pytest.raises(ValueError, match="leaves a row without a token"):
        generate(model, model.embed(START), REAL, limit=2, allow=nothing)


def test_chance_comes_from_the_generator_and_cools_down_to_the_likeliest(model) -> None:
    def draw(seed: int, temperature: float) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        given = model.embed(START)
        return generate(model, given, REAL, limit=6, temperature=temperature, generator=generator).rows()

    assert draw(0, 1.0) == draw(0, 1.0)
    assert draw(0, 1.0) != draw(1, 1.0)
    assert draw(0, 1e-4) == [slow(model, row, 6) for row in rows()]


@torch.no_grad()
def test_drawn_tokens_have_their_probabilities(model) -> None:
    given = model.embed(START[:1])
    expected = model(START[:1])[0, -1].div(3.0).softmax(-1)
    generator = torch.Generator().manual_seed(0)
    many = generate(model, given.expand(4000, -1, -1), limit=1, temperature=3.0, generator=generator).ids[
        :, 0
    ]
    shares = torch.bincount(many, minlength=model.config.vocabulary) / 4000
    error = (expected * (1 - expected) / 4000).sqrt()
    assert ((shares - expected).abs() < 5 * error + 1e-3).all()  # five standard errors


def test_wrong_arguments_are_refused(model) -> None:
    given = model.embed(START)
    with pytest.raises(ValueError, match="with a generator above 0"):
        generate(model, given, REAL, limit=2, temperature=1.0)
    with pytest.raises(ValueError, match="limit >= 1"):
        generate(model, given, REAL, limit=0)
    with pytest.raises(ValueError, match="no real token"):
        generate(model, given, torch.zeros_like(REAL), limit=1)
