from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visuomotor.codecs.base import Codec, DecodeFailure
from visuomotor.codecs.fast import FAST, cosine_matrix
from visuomotor.errors import DataError
from visuomotor.testing import check_codec

HORIZON, ACTION = 8, 3


def smooth(count: int, seed: int, horizon: int = HORIZON, action: int = ACTION) -> np.ndarray:
    """float32 (chunk, horizon, action) in [-1, 1]: what robots do, more or less."""
    generator = np.random.default_rng(seed)
    start, speed = generator.uniform(-0.8, 0.8, (2, count, 1, action))
    path = (
        start
        + speed * np.linspace(0, 1, horizon)[:, None]
        + generator.normal(0, 0.02, (count, horizon, action))
    )
    return np.clip(path, -1, 1).astype(np.float32)


def corners() -> np.ndarray:
    """Chunks that drive every coefficient to its largest and smallest over chunks in [-1, 1]."""
    signs = np.sign(cosine_matrix(HORIZON)).astype(np.float32)  # frequency horizon
    return np.concatenate([sign * signs[:, :, None].repeat(ACTION, 2) for sign in (1, -1)])


@pytest.fixture(scope="module")
def codec() -> FAST:
    return FAST.fit(smooth(200, 0), vocabulary=260)


@pytest.fixture(scope="module")
def whole() -> FAST:
    """Fitted on chunks that reach everything in [-1, 1]."""
    return FAST.fit(np.concatenate([smooth(200, 0), corners()]), vocabulary=260)


def test_the_cosine_transform_is_that_of_the_mirrored_fourier_transform() -> None:
    for horizon in (1, 2, 5, 16):
        signal = np.random.default_rng(horizon).normal(size=horizon)
        mirrored = np.fft.fft(np.concatenate([signal, signal[::-1]]))[:horizon]
        frequency = np.arange(horizon)
        unscaled = np.real(mirrored * np.exp(-1j * np.pi * frequency / (2 * horizon)))  # 2 sum x cos
        expected = unscaled * np.where(frequency == 0, np.sqrt(1 / (4 * horizon)), np.sqrt(1 / (2 * horizon)))
        np.testing.assert_allclose(cosine_matrix(horizon) @ signal, expected, atol=1e-12)
        np.testing.assert_allclose(
            cosine_matrix(horizon) @ cosine_matrix(horizon).T, np.eye(horizon), atol=1e-12
        )


@pytest.mark.parametrize("which", ["codec", "whole"])
def test_it_keeps_the_contract(which: str, request: pytest.FixtureRequest) -> None:
    fitted: FAST = request.getfixturevalue(which)
    assert isinstance(fitted, Codec)
    check_codec(fitted, horizon=HORIZON, action=ACTION, trials=40)


def test_the_bound_is_stated_only_where_the_fitted_range_takes_in_everything(
    codec: FAST, whole: FAST
) -> None:
    assert codec.error_bound is None
    assert whole.error_bound == whole.rounding_bound
    # half a unit of each coefficient, all with the sign that hurts most: it is reached but for the rounding
    assert whole.rounding_bound == pytest.approx(
        max(0.05 * np.abs(cosine_matrix(HORIZON)[:, tick]).sum() for tick in range(HORIZON)), abs=1e-5
    )


@pytest.mark.parametrize("scale", [1.0, 10.0, 25.0])
def test_a_round_trip_of_fitted_data_stays_within_the_bound(scale: float) -> None:
    chunks = smooth(60, 11)
    fitted = FAST.fit(chunks, scale=scale, vocabulary=240)
    for chunk in chunks:
        back = fitted.decode(fitted.encode(chunk))
        assert np.abs(back.astype(np.float64) - chunk).max() <= fitted.rounding_bound


@given(actions=hnp.arrays(np.float32, (HORIZON, ACTION), elements=st.floats(-1, 1, width=32)))
def test_a_round_trip_of_anything_stays_within_the_bound_if_one_is_stated(whole: FAST, actions) -> None:
    back = whole.decode(whole.encode(actions))
    assert np.abs(back.astype(np.float64) - actions).max() <= whole.error_bound


def test_coefficients_come_back_exactly(codec: FAST) -> None:
    for chunk in smooth(50, 1):
        coefficients = codec.coefficients(chunk)
        numbers = codec.spelling.read(codec.encode(chunk).tolist())
        np.testing.assert_array_equal(np.array(numbers) + codec.lowest, coefficients.reshape(-1))


def test_low_frequencies_come_first_all_dimensions_of_one_after_another() -> None:
    chunk = np.zeros((4, 2), np.float32)
    chunk[:, 1] = 0.5  # constant: only frequency 0 of dimension 1
    fitted = FAST.fit(np.stack([chunk, -chunk, smooth(1, 0, 4, 2)[0]]), vocabulary=60)
    flat = np.array(fitted.spelling.read(fitted.encode(chunk).tolist())) + fitted.lowest
    assert flat.tolist() == [0, 10, 0, 0, 0, 0, 0, 0]


def test_it_needs_fewer_tokens_than_numbers(codec: FAST) -> None:
    lengths = [len(codec.encode(chunk)) for chunk in smooth(100, 2)]
    assert np.mean(lengths) < 0.5 * HORIZON * ACTION


def test_fitting_is_deterministic_and_tells_progress() -> None:
    told: list[tuple[int, int]] = []
    first = FAST.fit(smooth(50, 3), vocabulary=200, progress=lambda *parts: told.append(parts))
    assert first.to_json() == FAST.fit(smooth(50, 3), vocabulary=200).to_json()
    assert told[-1] == (first.vocabulary, 200)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_what_lies_beyond_the_fitted_range_is_clamped_on_both_ways(codec: FAST) -> None:
    low, high = codec.limits
    far = np.full((HORIZON, ACTION), 50.0, np.float32)
    back = codec.decode(codec.encode(far))
    assert not isinstance(back, DecodeFailure)
    assert (back <= high).all()
    assert (back >= low).all()
    assert back.mean() > 0.5 * high.mean()


@given(tokens=st.lists(st.integers(0, 270), max_size=40))
def test_any_tokens_are_a_failure_or_a_chunk_within_the_fitted_range(codec: FAST, tokens) -> None:
    low, high = codec.limits
    back = codec.decode(np.array(tokens, np.int64))
    if isinstance(back, DecodeFailure):
        assert back.reason
        assert back.tokens == tuple(tokens)
    else:
        assert ((back >= low.astype(np.float32)) & (back <= high.astype(np.float32))).all()


def test_one_wrong_token_is_a_failure_or_a_chunk_within_the_fitted_range(codec: FAST) -> None:
    generator, decoded = np.random.default_rng(5), 0
    low, high = codec.limits
    for chunk in smooth(100, 6):
        tokens = codec.encode(chunk)
        tokens[generator.integers(len(tokens))] = generator.integers(codec.vocabulary)
        back = codec.decode(tokens)
        if not isinstance(back, DecodeFailure):
            decoded += 1
            assert ((back >= low.astype(np.float32)) & (back <= high.astype(np.float32))).all()
    assert 0 < decoded < 100  # both happen


# ---- constrained decoding ----------------------------------------------------------------------


def test_random_allowed_tokens_always_end_in_a_whole_chunk(codec: FAST) -> None:
    generator = np.random.default_rng(7)
    for _ in range(4):
        tokens: list[int] = []
        while (allowed := codec.allowed(np.array(tokens, np.int64))).any():
            tokens.append(int(generator.choice(np.flatnonzero(allowed))))
        assert not isinstance(codec.decode(np.array(tokens)), DecodeFailure)


def test_its_own_tokens_are_allowed_one_after_another(codec: FAST) -> None:
    for chunk in smooth(3, 8):
        tokens = codec.encode(chunk)
        for place, token in enumerate(tokens):
            assert codec.allowed(tokens[:place])[token]
        assert not codec.allowed(tokens).any()


def test_allowed_is_what_fits(codec: FAST) -> None:
    lengths = np.array([len(piece) for piece in codec.spelling.pairs.pieces])
    tokens = codec.encode(smooth(1, 9)[0])[:-1]
    missing = HORIZON * ACTION - lengths[tokens].sum()
    np.testing.assert_array_equal(codec.allowed(tokens), lengths <= missing)
    assert not codec.allowed(np.array([codec.vocabulary])).any()


def test_many_sequences_step_together(codec: FAST) -> None:
    state, missing = codec.completion.start(2)
    mask = codec.completion.mask(state, missing)
    assert mask.shape == (2, codec.vocabulary)
    longest = max(range(codec.vocabulary), key=lambda token: len(codec.spelling.pairs.pieces[token]))
    state, missing = codec.completion.step(state, missing, np.array([0, longest]))
    assert missing.tolist() == [
        HORIZON * ACTION - 1,
        HORIZON * ACTION - len(codec.spelling.pairs.pieces[longest]),
    ]
    np.testing.assert_array_equal(
        codec.completion.mask(state, missing)[1], codec.allowed(np.array([longest]))
    )


# ---- the file ----------------------------------------------------------------------------------


def test_saving_and_loading_give_the_same_codec(codec: FAST, tmp_path: Path) -> None:
    codec.save(tmp_path / "fast.json")
    loaded = FAST.load(tmp_path / "fast.json")
    assert loaded.to_json() == codec.to_json()
    for chunk in smooth(20, 10):
        tokens = codec.encode(chunk)
        np.testing.assert_array_equal(loaded.encode(chunk), tokens)
        np.testing.assert_array_equal(loaded.decode(tokens), codec.decode(tokens))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format="other"), "read_fast"),
        (lambda data: data.update(version=2), "Update visuomotor"),
        (lambda data: data.update(scale=20.0), "damaged or edited"),
        (lambda data: data["spelling"]["merges"].pop(), "damaged or edited"),
        (lambda data: data.pop("sha256"), "damaged or edited"),
    ],
)
def test_a_file_that_is_something_else_is_refused(change, message: str, codec: FAST, tmp_path: Path) -> None:
    data = codec.to_json()
    change(data)
    (tmp_path / "fast.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=rf"fast\.json: .*{message}"):
        FAST.load(tmp_path / "fast.json")


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fast.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        FAST.load(tmp_path / "fast.json")
    with pytest.raises(DataError, match="cannot be read"):
        FAST.load(tmp_path / "none.json")
    (tmp_path / "fast.json").write_text("[]")
    with pytest.raises(DataError, match="another kind"):
        FAST.load(tmp_path / "fast.json")


def test_bad_arguments_are_refused(codec: FAST) -> None:
    with pytest.raises(ValueError, match=r"expected actions \(8, 3\)"):
        codec.encode(np.zeros((3, 8)))
    with pytest.raises(ValueError, match="finite"):
        codec.encode(np.full((HORIZON, ACTION), np.inf))
    with pytest.raises(ValueError, match="integer"):
        codec.decode(np.zeros(3))
    with pytest.raises(ValueError, match="got none"):
        FAST.fit(np.zeros((0, 2, 2)))
    with pytest.raises(ValueError, match="finite"):
        FAST.fit(np.full((1, 2, 2), np.nan))
    with pytest.raises(ValueError, match="far outside"):
        FAST.fit(np.array([[[0.0], [1000.0]]]))
