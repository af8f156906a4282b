from __future__ import annotations

import pytest

from visuomotor.errors import UnknownNameError
from visuomotor.nn.patterns import choose, matches

NAMES = ("trunk.layers.0.norm.weight", "trunk.layers.1.norm.weight", "trunk.layers.1.mlp.weight", "head.bias")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("trunk", NAMES[:3]),
        ("trunk.layers.1", NAMES[1:3]),
        ("trunk.layers.?", NAMES[:3]),
        ("*.norm", NAMES[:2]),
        ("*.bias", NAMES[3:]),
        ("head.bias", NAMES[3:]),
        ("*", NAMES),
    ],
)
def test_a_pattern_stands_for_a_name_and_all_below_it(pattern: str, found: tuple[str, ...]) -> None:
    assert choose(NAMES, [pattern], "weights") == set(found)
    assert [name for name in NAMES if matches(name, pattern)] == list(found)


def test_a_part_of_a_word_is_no_match() -> None:
    assert not matches("trunks.weight", "trunk")


def test_a_pattern_without_a_match_is_answered_with_the_closest_names() -> None:
    with pytest.raises(UnknownNameError, match=r"'trunk.layer' matches none of 4 names.*'trunk.layers'"):
        choose(NAMES, ["head", "trunk.layer"], "weights to freeze")
    with pytest.raises(UnknownNameError, match=r"Names begin with head, trunk"):
        choose(NAMES, ["0"], "weights to freeze")
