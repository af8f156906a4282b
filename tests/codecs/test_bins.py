from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visuomotor.codecs.base import Codec, DecodeFailure
from visuomotor.codecs.bins import OctoBins, OpenVLABins, RT1Bins, RT2Bins, UniformBins
from visuomotor.testing import check_codec

NUMBERS = st.floats(-1, 1, width=32)


@given(st.data(), st.integers(1, 1000), st.integers(1, 4), st.integers(1, 4))
def test_a_round_trip_stays_within_the_stated_bound(data, bins: int, horizon: int, action: int) -> None:
    codec = UniformBins(bins, horizon=horizon, action=action)
    actions = data.draw(hnp.arrays(np.float32, (horizon, action), elements=NUMBERS))
    tokens = codec.encode(actions)
    assert tokens.shape == (horizon * action,)
    assert ((tokens >= 0) & (tokens < codec.vocabulary)).all()
    back = codec.decode(tokens)
    assert back.shape == actions.shape
    assert np.abs(back.astype(np.float64) - actions).max() <= codec.error_bound


@given(hnp.arrays(np.int64, (6,), elements=st.integers(0, 255)))
def test_tokens_come_back_exactly(tokens: np.ndarray) -> None:
    codec = UniformBins(horizon=3, action=2)
    np.testing.assert_array_equal(codec.encode(codec.decode(tokens)), tokens)


def test_it_speaks_the_protocol() -> None:
    assert isinstance(UniformBins(horizon=1, action=1), Codec)


def test_the_ends_belong_to_the_outermost_cells_and_so_does_what_lies_beyond() -> None:
    codec = UniformBins(4, horizon=1, action=4)
    assert codec.encode(np.array([[-1.0, 1.0, -7.0, 7.0]])).tolist() == [0, 3, 0, 3]
    np.testing.assert_allclose(codec.decode(np.array([0, 1, 2, 3])), [[-0.75, -0.25, 0.25, 0.75]])


@pytest.mark.parametrize(
    ("tokens", "reason"), [([0, 1, 4], "got 4"), ([0, -1, 2], "got -1"), ([0, 1], "got 2"), ([], "got 0")]
)
def test_tokens_that_stand_for_nothing_are_a_typed_failure(tokens, reason) -> None:
    failure = UniformBins(4, horizon=1, action=3).decode(np.array(tokens, dtype=np.int64))
    assert isinstance(failure, DecodeFailure)
    assert reason in failure.reason
    assert failure.tokens == tuple(tokens)


def test_bad_arguments_are_refused() -> None:
    codec = UniformBins(4, horizon=1, action=3)
    with pytest.raises(ValueError, match=r"expected actions \(1, 3\)"):
        codec.encode(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="NaN"):
        codec.encode(np.full((1, 3), np.nan))
    with pytest.raises(ValueError, match="integer"):
        codec.decode(np.zeros(3))
    with pytest.raises(ValueError, match="positive"):
        UniformBins(0, horizon=1, action=3)


# ---- the rules of released models --------------------------------------------------------------

RULES = {
    "rt1": lambda **sizes: RT1Bins(**sizes),
    "rt2": lambda **sizes: RT2Bins(**sizes),
    "openvla": lambda **sizes: OpenVLABins(**sizes),
    "octo": lambda **sizes: OctoBins(**sizes),
    "octo normal": lambda **sizes: OctoBins(spacing="normal", **sizes),
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_keeps_the_contract(rule: str) -> None:
    codec = RULES[rule](horizon=5, action=3)
    assert isinstance(codec, Codec)
    check_codec(codec, horizon=5, action=3)


@pytest.mark.parametrize("rule", RULES)
@given(actions=hnp.arrays(np.float32, (2, 3), elements=NUMBERS))
def test_every_rule_stays_within_its_bound(rule: str, actions: np.ndarray) -> None:
    codec = RULES[rule](horizon=2, action=3)
    back = codec.decode(codec.encode(actions))
    assert np.abs(back.astype(np.float64) - actions).max() <= codec.error_bound


@pytest.mark.parametrize(
    ("rule", "bias", "largest"),
    # over numbers spread evenly in [-1, 1]: mean of what comes back less what went in, and the largest error
    [
        ("rt1", -1 / 255, 2 / 255),
        ("rt2", 0, 1 / 256),
        ("openvla", 0, 1 / 255),
        ("octo", 0, 1 / 256),
    ],
)
def test_bias_and_largest_error_are_what_the_table_says(rule: str, bias: float, largest: float) -> None:
    numbers = ((np.arange(100_000) + 0.5) / 50_000 - 1).reshape(-1, 1)
    codec = RULES[rule](horizon=len(numbers), action=1)
    error = codec.decode(codec.encode(numbers)).astype(np.float64) - numbers
    assert error.mean() == pytest.approx(bias, abs=2e-5)  # 390 numbers in each cell
    assert np.abs(error).max() == pytest.approx(largest, rel=0.01)
    assert np.abs(error).max() <= codec.error_bound


@pytest.mark.parametrize(
    ("rule", "tokens", "numbers"),
    [
        ("rt1", [0, 0, 127, 254, 255, 255], [-1, -1, 127 / 255 * 2 - 1, 254 / 255 * 2 - 1, 1, 1]),
        ("rt2", [0, 0, 128, 255, 255, 255], [-255 / 256, -255 / 256, 1 / 256, *[255 / 256] * 3]),
        ("openvla", [0, 0, 127, 254, 255, 255], [-254 / 255, -254 / 255, 0, *[254 / 255] * 3]),
        ("octo", [0, 0, 128, 255, 255, 255], [-255 / 256, -255 / 256, 1 / 256, *[255 / 256] * 3]),
    ],
)
def test_ends_and_middle(rule: str, tokens: list[int], numbers: list[float]) -> None:
    codec = RULES[rule](horizon=1, action=6)
    assert codec.encode(np.array([[-7.0, -1.0, 0.0, 0.9999, 1.0, 7.0]])).tolist() == tokens
    np.testing.assert_allclose(codec.decode(np.array(tokens)), [numbers], atol=1e-7)


def test_rt1_never_comes_back_above_what_went_in() -> None:
    numbers = np.random.default_rng(0).uniform(-1, 1, (500, 4)).astype(np.float32)
    codec = RT1Bins(horizon=500, action=4)
    assert (codec.decode(codec.encode(numbers)) <= numbers + 1e-7).all()


def test_openvla_has_two_tokens_that_decode_alike_and_ids_at_the_end_of_the_vocabulary() -> None:
    codec = OpenVLABins(horizon=1, action=3)
    tokens = codec.encode(np.array([[-1.0, 0.9999, 1.0]]))
    assert tokens.tolist() == [0, 254, 255]
    low, high, top = codec.decode(tokens)[0]
    assert (low, high) == (-top, top)
    ids = codec.model_ids(tokens)
    assert ids.tolist() == [31_999, 31_745, 31_744]
    np.testing.assert_array_equal(codec.model_ids(ids), tokens)


def test_openvla_agrees_with_counting_edges() -> None:
    numbers = np.random.default_rng(1).uniform(-1.2, 1.2, (300, 1))
    edges = [-1 + 2 * edge / 255 for edge in range(256)]
    expected = [sum(edge <= min(max(number, -1), 1) for edge in edges) - 1 for number in numbers[:, 0]]
    assert OpenVLABins(horizon=300, action=1).encode(numbers).tolist() == expected


def test_octo_cells_of_the_normal_spacing_are_equally_likely() -> None:
    numbers = np.random.default_rng(2).normal(size=(20_000, 1))
    tokens = OctoBins(16, horizon=20_000, action=1, spacing="normal").encode(numbers)
    counts = np.bincount(tokens, minlength=16)
    assert np.abs(counts - 1250).max() < 5 * 1250**0.5
    assert OctoBins(16, horizon=1, action=2, spacing="normal").encode(np.array([[-9.0, 9.0]])).tolist() == [
        0,
        15,
    ]


def test_rt2_writes_words_and_reads_them() -> None:
    codec = RT2Bins(horizon=1, action=3)
    tokens = codec.encode(np.array([[-1.0, 0.0, 1.0]]))
    text = codec.write(tokens)
    assert text == "0 0 128 255"
    ends, found = codec.read(text)
    assert not ends
    np.testing.assert_array_equal(found, tokens)
    assert codec.read(codec.write(tokens, terminate=True))[0] is True


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected 0 or 1 first"),
        ("2 1 2 3", "expected 0 or 1 first"),
        ("0 1 2", "expected 3 tokens, got 2"),
        ("0 1 2 256", "got 256"),
        ("0 1 2 99999999999999999999", "got 99999999999999999999"),
        ("0 1 2 -3", "expected numbers"),
        ("0 1 2 ²", "expected numbers"),
        ("0 1 two 3", "expected numbers"),
    ],
)
def test_rt2_words_that_are_no_action_are_a_failure(text: str, reason: str) -> None:
    failure = RT2Bins(horizon=1, action=3).read(text)
    assert isinstance(failure, DecodeFailure)
    assert reason in failure.reason


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_refuses_bad_arguments(rule: str) -> None:
    codec = RULES[rule](horizon=1, action=3)
    with pytest.raises(ValueError, match=r"expected actions \(1, 3\)"):
        codec.encode(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="NaN"):
        codec.encode(np.full((1, 3), np.nan))
    with pytest.raises(ValueError, match="integer"):
        codec.decode(np.zeros(3))
    with pytest.raises(ValueError, match="positive"):
        RULES[rule](horizon=0, action=3)


def test_octo_answers_an_unknown_spacing_with_the_closest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'normal'"):
        OctoBins(horizon=1, action=1, spacing="norma")
