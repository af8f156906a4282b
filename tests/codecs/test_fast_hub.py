from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.trainers import BpeTrainer

from visuomotor.codecs.base import DecodeFailure
from visuomotor.codecs.fast import FAST
from visuomotor.codecs.fast_hub import read_fast, write_fast
from visuomotor.codecs.spelling import ByteSpelling, NumberSpelling
from visuomotor.errors import DataError
from visuomotor.testing import check_codec

HORIZON, ACTION = 10, 4


def wild(count: int, seed: int) -> np.ndarray:
    """float64 (chunk, horizon, action): smooth paths and large jumps, so that the range is wide."""
    generator = np.random.default_rng(seed)
    paths = np.cumsum(generator.normal(0, 0.15, (count, HORIZON, ACTION)), axis=1)
    return paths + generator.choice([0.0, 0.0, 0.0, 3.0, -3.0], (count, 1, ACTION))


def transform(chunk: np.ndarray) -> np.ndarray:
    """The orthonormal cosine transform along the first axis, through a Fourier transform."""
    count = len(chunk)
    frequency = np.arange(count)[:, None]
    mirrored = np.fft.fft(np.concatenate([chunk, chunk[::-1]]), axis=0)[:count]
    unscaled = np.real(mirrored * np.exp(-1j * np.pi * frequency / (2 * count)))
    return unscaled / np.where(frequency == 0, np.sqrt(4 * count), np.sqrt(2 * count))


def invert(coefficients: np.ndarray) -> np.ndarray:
    """Its inverse, summed as defined."""
    count = len(coefficients)
    weight = np.where(np.arange(count) == 0, np.sqrt(1 / count), np.sqrt(2 / count))
    return np.stack(
        [
            sum(
                weight[k] * coefficients[k] * np.cos(np.pi * k * (2 * tick + 1) / (2 * count))
                for k in range(count)
            )
            for tick in range(count)
        ]
    )


class Published:
    """What the published processor does, built anew on the `tokenizers` library."""

    def __init__(self, chunks: np.ndarray, scale: float, vocabulary: int) -> None:
        self.scale = scale
        rounded = np.stack([np.around(transform(chunk) * scale) for chunk in chunks]).astype(int)
        self.min_token = int(rounded.min())
        self.tokenizer = ByteLevelBPETokenizer()._tokenizer
        self.tokenizer.train_from_iterator(
            ("".join(chr(value - self.min_token) for value in chunk.flatten()) for chunk in rounded),
            trainer=BpeTrainer(
                vocab_size=vocabulary,
                min_frequency=2,
                show_progress=False,
                special_tokens=[],
                initial_alphabet=[chr(i) for i in range(int(rounded.max()) - self.min_token + 1)],
                max_token_length=10_000,
            ),
        )

    def encode(self, chunk: np.ndarray) -> list[int]:
        rounded = np.around(transform(chunk) * self.scale).flatten() - self.min_token
        return self.tokenizer.encode("".join(chr(int(value)) for value in np.maximum(rounded, 0))).ids

    def coefficients(self, tokens: list[int]) -> list[int]:
        return [ord(character) + self.min_token for character in self.tokenizer.decode(tokens)]

    def save(self, folder: Path, **changes) -> None:
        self.tokenizer.save(str(folder / "tokenizer.json"))
        config = {
            "processor_class": "UniversalActionProcessor",
            "auto_map": {"AutoProcessor": "processing_action_tokenizer.UniversalActionProcessor"},
            "scale": self.scale,
            "vocab_size": self.tokenizer.get_vocab_size(),
            "min_token": self.min_token,
            "time_horizon": None,
            "action_dim": None,
            **changes,
        }
        (folder / "processor_config.json").write_text(json.dumps(config))


@pytest.fixture(
    scope="module", params=[(10, 1000), (40, 1700), (3, 500)], ids=lambda made: f"scale {made[0]}"
)
def published(request: pytest.FixtureRequest) -> Published:
    """With the code points of letters, digits, spaces and controls, with two bytes and with one."""
    return Published(wild(150, 0), *request.param)


@pytest.fixture(scope="module")
def ours(published: Published, tmp_path_factory: pytest.TempPathFactory) -> FAST:
    folder = tmp_path_factory.mktemp("published")
    published.save(folder)
    return read_fast(folder, horizon=HORIZON, action=ACTION)


def test_tokens_and_decoded_actions_are_those_of_the_published_processor(
    published: Published, ours: FAST
) -> None:
    assert isinstance(ours.spelling, ByteSpelling)
    assert ours.vocabulary == published.tokenizer.get_vocab_size()
    merged = 0
    for chunk in wild(150, 0):
        tokens = published.encode(chunk)
        merged += len(tokens) < HORIZON * ACTION
        assert ours.encode(chunk).tolist() == tokens
        expected = np.array(published.coefficients(tokens)).reshape(HORIZON, ACTION)
        np.testing.assert_array_equal(ours.coefficients(chunk), expected)
        np.testing.assert_allclose(
            ours.decode(np.array(tokens)), invert(expected / published.scale), atol=1e-5
        )
    assert merged > 75  # so that merges, and not single bytes alone, were compared


def test_chunks_that_were_not_fitted_agree_within_the_fitted_range(published: Published, ours: FAST) -> None:
    compared = 0
    for chunk in wild(60, 1):
        rounded = np.around(transform(chunk) * published.scale)
        tokens = published.encode(chunk)
        within = ours.lowest <= rounded.min() and rounded.max() <= ours.highest
        if within and len(published.coefficients(tokens)) == HORIZON * ACTION:
            compared += 1
            assert ours.encode(chunk).tolist() == tokens
    assert compared > 20


def test_it_keeps_the_contract(ours: FAST) -> None:
    check_codec(ours, horizon=HORIZON, action=ACTION, trials=20)


def test_any_tokens_are_read_as_the_published_decoder_reads_them_or_are_a_failure(
    published: Published, ours: FAST
) -> None:
    generator, failures, alike = np.random.default_rng(2), 0, 0
    for _ in range(300):
        tokens = generator.integers(0, ours.vocabulary, generator.integers(1, 6)).tolist()
        numbers = ours.spelling.read(tokens)
        text = published.tokenizer.decode(tokens)
        if isinstance(numbers, str):
            failures += 1
            assert "\ufffd" in text or max(map(ord, text)) > ours.spelling.top
        else:
            alike += 1
            assert numbers == [ord(character) for character in text]
    assert alike
    assert bool(failures) == (ours.spelling.top >= 128)  # below, each byte is a whole character


def test_broken_characters_are_a_failure_and_no_coefficient_of_65533(ours: FAST) -> None:
    generator, failed = np.random.default_rng(3), 0
    for chunk in wild(40, 4):
        tokens = ours.encode(chunk)
        tokens[generator.integers(len(tokens))] = generator.integers(ours.vocabulary)
        back = ours.decode(tokens)
        failed += isinstance(back, DecodeFailure)
        if not isinstance(back, DecodeFailure):
            most = np.abs([ours.lowest, ours.highest]).max() / ours.scale * HORIZON**0.5 * 2**0.5
            assert np.abs(back).max() <= most
    assert failed


def test_random_allowed_tokens_always_end_in_a_whole_chunk(ours: FAST) -> None:
    generator = np.random.default_rng(5)
    for _ in range(3):
        tokens: list[int] = []
        while (allowed := ours.allowed(np.array(tokens, np.int64))).any():
            tokens.append(int(generator.choice(np.flatnonzero(allowed))))
        assert not isinstance(ours.decode(np.array(tokens)), DecodeFailure)


def test_its_own_tokens_are_allowed(ours: FAST) -> None:
    for chunk in wild(2, 6):
        tokens = ours.encode(chunk)
        for place, token in enumerate(tokens):
            assert ours.allowed(tokens[:place])[token]
        assert not ours.allowed(tokens).any()


def test_what_was_read_is_written_and_read_again(published: Published, ours: FAST, tmp_path: Path) -> None:
    write_fast(ours, tmp_path / "again")
    again = read_fast(tmp_path / "again")
    assert again.to_json() == ours.to_json()
    theirs = Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    for chunk in wild(15, 0):
        assert again.encode(chunk).tolist() == published.encode(chunk)
        text = "".join(chr(value - published.min_token) for value in ours.coefficients(chunk).reshape(-1))
        assert theirs.encode(text).ids == published.encode(chunk)


def test_a_read_codec_survives_our_own_file(ours: FAST, tmp_path: Path) -> None:
    ours.save(tmp_path / "fast.json")
    loaded = FAST.load(tmp_path / "fast.json")
    for chunk in wild(10, 0):
        np.testing.assert_array_equal(loaded.encode(chunk), ours.encode(chunk))


def test_a_codec_of_ours_is_written_so_that_the_library_makes_the_same_tokens(tmp_path: Path) -> None:
    chunks = wild(100, 7)
    codec = FAST.fit(chunks, vocabulary=800)
    write_fast(codec, tmp_path)
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    config = json.loads((tmp_path / "processor_config.json").read_text())
    assert (config["time_horizon"], config["action_dim"], config["scale"]) == (HORIZON, ACTION, 10)
    for chunk in chunks[:30]:
        text = "".join(chr(value - config["min_token"]) for value in codec.coefficients(chunk).reshape(-1))
        encoded = theirs.encode(text).ids
        assert codec.encode(chunk).tolist() == encoded
        assert theirs.decode(encoded) == text
    again = read_fast(tmp_path, limits=codec.limits)
    assert isinstance(again.spelling, NumberSpelling)
    assert again.to_json() == codec.to_json()


# ---- what is refused ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Published(wild(50, 8), 3, 500).save(tmp_path, time_horizon=HORIZON)
    return tmp_path


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_sizes_must_be_told_once_and_alike(folder: Path) -> None:
    assert read_fast(folder, action=ACTION).horizon == HORIZON
    with pytest.raises(DataError, match=r"tells no action_dim. Pass action="):
        read_fast(folder)
    with pytest.raises(DataError, match="expected horizon 5, but it was fitted for time_horizon 10"):
        read_fast(folder, horizon=5, action=ACTION)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("processor_config.json", {"processor_class": "Other"}, "UniversalActionProcessor"),
        ("processor_config.json", {"scale": None}, "scale and min_token"),
        ("tokenizer.json", {"normalizer": {"type": "NFC"}}, "no normalizer"),
        ("tokenizer.json", {"added_tokens": [{"id": 0}]}, "no added tokens"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}, "ByteLevel"),
        ("tokenizer.json", {"model": {"type": "Unigram"}}, "pair encoding"),
        ("tokenizer.json", {"model": {"type": "BPE"}}, "vocabulary and pairs"),
        ("tokenizer.json", {"model": {"vocab": {"a": 0}, "merges": []}}, "fitted range"),
        ("tokenizer.json", {"model": {"vocab": {"\0": 1}, "merges": []}}, "without gaps"),
        ("tokenizer.json", {"model": {"vocab": {"\0": 0}, "merges": [["a", "b"]]}}, "is no token"),
        ("tokenizer.json", {"model": {"vocab": {}, "merges": [], "dropout": 0.1}}, "dropout"),
    ],
)
def test_files_of_another_kind_are_refused(folder: Path, name: str, changes: dict, message: str) -> None:
    edit(folder / name, **changes)
    with pytest.raises(DataError, match=message):
        read_fast(folder, action=ACTION)


def test_missing_and_broken_files_are_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("[]")
    with pytest.raises(DataError, match="JSON object"):
        read_fast(folder, action=ACTION)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read_fast(folder, action=ACTION)
