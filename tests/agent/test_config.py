from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.agent.config import differences, from_plain, to_plain


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 3
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    kind: Literal["small", "large"]
    rate: float = 0.5
    pair: tuple[int, float] = (1, 2.0)
    inner: Inner = Inner()
    other: Inner | None = None
    weights: dict[str, float] = field(default_factory=dict)
    on: bool = False
    text: str | int = "a"


inners = st.builds(Inner, size=st.integers(), names=st.lists(st.text(), max_size=3).map(tuple))
numbers = st.floats(allow_nan=False, allow_infinity=False)
outers = st.builds(
    Outer,
    kind=st.sampled_from(["small", "large"]),
    rate=numbers,
    pair=st.tuples(st.integers(), numbers),
    inner=inners,
    other=st.none() | inners,
    weights=st.dictionaries(st.text(), numbers, max_size=3),
    on=st.booleans(),
    text=st.text() | st.integers(),
)


@given(outers)
def test_a_config_comes_back_from_json_as_it_was(config: Outer) -> None:
    assert from_plain(Outer, json.loads(json.dumps(to_plain(config))), "config") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rat": 1.0}, "config: unknown key 'rat'.*'rate'"),
        ({"kind": "smal"}, r"config\.kind: unknown choice 'smal'.*'small'"),
        ({"rate": "fast"}, r"config\.rate: expected float, got 'fast'"),
        ({"on": 1}, r"config\.on: expected bool, got 1"),
        ({"inner": {"size": True}}, r"config\.inner\.size: expected int, got True"),
        ({"inner": {"names": "ab"}}, r"config\.inner\.names: expected a list, got 'ab'"),
        ({"inner": {"names": ["a", 1]}}, r"config\.inner\.names\[1\]: expected str, got 1"),
        ({"pair": [1]}, r"config\.pair: expected 2 values, got 1"),
        ({"other": {"sise": 1}}, r"config\.other: unknown key 'sise'.*'size'"),
        ({"text": 1.5}, r"config\.text: no type of the union takes 1\.5"),
        ({"weights": [1]}, r"config\.weights: expected an object"),
    ],
)
def test_what_a_config_does_not_know_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_plain(Outer, {"kind": "small", **change}, "config")


def test_a_field_with_a_default_may_be_missing_and_others_may_not() -> None:
    assert from_plain(Outer, {"kind": "large"}, "config") == Outer(kind="large")
    with pytest.raises(ValueError, match="key 'kind' is missing"):
        from_plain(Outer, {}, "config")


def test_tensors_do_not_belong_in_a_config() -> None:
    with pytest.raises(TypeError, match="expected plain data"):
        to_plain({"a": object()})


def test_differences_name_the_place() -> None:
    there = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert differences(there, {"a": {"b": 1, "c": [1, 3]}, "e": 1}) == [
        "a.c: [1, 2] there, [1, 3] here",
        "d: 1 there, None here",
        "e: None there, 1 here",
    ]
    assert differences(there, there) == []
