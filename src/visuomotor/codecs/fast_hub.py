"""The published FAST tokenizers: a folder of `processor_config.json` and `tokenizer.json`, read and written.

`physical-intelligence/fast` (FAST+, 2048 tokens, fitted on a million chunks of many robots) and what is
fitted with its code: scale and smallest coefficient stand in `processor_config.json`, the pair encoding in
the format of the `tokenizers` library. Only these two are read; the Python module that lies beside them is
never run. Tokens are those of the published processor, for every chunk whose coefficients lie in the range
of the fitted data.

Source: Pertsch et al. 2025 (FAST), and the processor published with the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.codecs.fast import FAST
from visuomotor.codecs.spelling import ByteSpelling, NumberSpelling
from visuomotor.errors import DataError

__all__ = ["read_fast", "write_fast"]

_PROCESSOR = "processor_config.json"
_TOKENIZER = "tokenizer.json"
_CLASS = "UniversalActionProcessor"
_KEPT_OUT = {
    "dropout": (None,),
    "unk_token": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}
"""Settings of a pair encoding that would change its tokens, and the values that do not."""


def read_fast(
    folder: str | Path,
    *,
    horizon: int | None = None,
    action: int | None = None,
    limits: tuple[np.ndarray | float, np.ndarray | float] = (-np.inf, np.inf),
) -> FAST:
    """The codec of a published tokenizer, with the same tokens.

    The files tell the smallest coefficient of the fitted data but not the largest. That is taken from the
    characters 0, 1, 2, ... at the beginning of the vocabulary, which are the fitted range; where it ends
    between 255 and 323, up to 323 may be taken, as bytes stand there under these characters as well.

    Args:
        folder: With both files.
        horizon: Ticks of a chunk; what the file says if None. FAST+ says nothing and takes any.
        action: Numbers of one action; likewise.
        limits: Range of actions that may be decoded; the files do not say.

    Raises:
        DataError: A file is missing or of another kind, or horizon or action are neither told nor given, or
            told otherwise.
    """
    folder = Path(folder)
    config, tokenizer = _load(folder / _PROCESSOR), _load(folder / _TOKENIZER)
    if config.get("processor_class") != _CLASS:
        raise DataError(
            f"{folder / _PROCESSOR}: expected a processor_class {_CLASS!r}, "
            f"got {config.get('processor_class')!r}."
        )
    sizes = {}
    for name, key, given in (("horizon", "time_horizon", horizon), ("action", "action_dim", action)):
        told = config.get(key)
        size = told if given is None else given
        if size is None:
            raise DataError(f"{folder / _PROCESSOR}: it tells no {key}. Pass {name}=...")
        if told is not None and given is not None and told != given:
            raise DataError(
                f"{folder / _PROCESSOR}: expected {name} {given}, but it was fitted for {key} {told}."
            )
        sizes[name] = int(size)
    try:
        scale, lowest = float(config["scale"]), int(config["min_token"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / _PROCESSOR}: expected numbers scale and min_token ({error}).") from error
    spelling = _spelling(folder / _TOKENIZER, tokenizer)
    return FAST(scale=scale, lowest=lowest, spelling=spelling, limits=limits, **sizes)


def write_fast(codec: FAST, folder: str | Path) -> None:
    """Write a codec so that the published processor, put beside it, makes the same tokens of it.

    A codec of ours becomes a pair encoding of characters without bytes and words; one that was read is
    written as it was. What the format has no place for is lost: the limits of actions, and the end of the
    range beyond the vocabulary.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(codec.spelling, ByteSpelling):
        texts, words = codec.spelling.texts, codec.spelling.words
        level: dict[str, Any] | None = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": words,
        }
        decoder = level
    else:
        texts = tuple("".join(map(chr, piece)) for piece in codec.spelling.pairs.pieces)
        level, decoder = None, {"type": "Fuse"}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {text: token for token, text in enumerate(texts)},
        "merges": [[texts[left], texts[right]] for left, right, _ in codec.spelling.pairs.merges],
    }
    nothing = ("truncation", "padding", "normalizer", "post_processor")
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        **dict.fromkeys(nothing),
        "added_tokens": [],
        "pre_tokenizer": level,
        "decoder": decoder,
        "model": model,
    }
    scale = int(codec.scale) if codec.scale.is_integer() else codec.scale
    config = {
        "processor_class": _CLASS,
        "auto_map": {"AutoProcessor": f"processing_action_tokenizer.{_CLASS}"},
        "scale": scale,
        "vocab_size": codec.vocabulary,
        "min_token": codec.lowest,
        "time_horizon": codec.horizon,
        "action_dim": codec.action,
    }
    _save(folder / _PROCESSOR, config)
    _save(folder / _TOKENIZER, tokenizer)
    _save(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False},
    )


def _spelling(path: Path, tokenizer: Mapping[str, Any]) -> ByteSpelling | NumberSpelling:
    """The pair encoding of a tokenizer file, if it is one that does nothing else."""
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise DataError(f"{path}: expected a pair encoding (model.type 'BPE'), got something else.")
    for key, known in _KEPT_OUT.items():
        if model.get(key) not in known:
            raise DataError(f"{path}: {key} {model[key]!r} is not supported; FAST tokenizers have none.")
    if tokenizer.get("normalizer") is not None or tokenizer.get("added_tokens"):
        raise DataError(f"{path}: expected no normalizer and no added tokens; FAST tokenizers have none.")
    try:
        texts = [text for text, _ in sorted(model["vocab"].items(), key=lambda entry: entry[1])]
        numbered = sorted(model["vocab"].values()) == list(range(len(texts)))
        pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        merges = [(left, right) for left, right in pairs]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: expected a vocabulary and pairs to merge ({error}).") from error
    if not numbered:
        raise DataError(f"{path}: expected tokens numbered from 0 on without gaps.")
    top = _top(path, texts)
    level = tokenizer.get("pre_tokenizer")
    if level is None:
        return _numbers(path, top, texts, merges)
    if level.get("type") != "ByteLevel" or level.get("add_prefix_space"):
        raise DataError(f"{path}: expected a pre_tokenizer ByteLevel without prefix space, got {level}.")
    return ByteSpelling(top, texts, merges, words=level.get("use_regex", True))


def _numbers(path: Path, top: int, texts: list[str], merges: list[tuple[str, str]]) -> NumberSpelling:
    """A pair encoding of characters, without bytes, as `write_fast` makes it."""
    number = {text: token for token, text in enumerate(texts)}
    try:
        spelling = NumberSpelling(top, [(number[left], number[right]) for left, right in merges])
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: a merge of {error}, which is no token.") from error
    if ["".join(map(chr, piece)) for piece in spelling.pairs.pieces] != texts:
        raise DataError(f"{path}: expected characters 0 to {top} first, and then what merges make, in order.")
    return spelling


def _top(path: Path, texts: list[str]) -> int:
    """The last of the characters 0, 1, 2, ... that are tokens without a gap."""
    known = set(texts)
    top = -1
    while chr(top + 1) in known:
        top += 1
    if top < 0:
        raise DataError(f"{path}: expected the characters of the fitted range from 0 on among the tokens.")
    return top


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}). Is this the folder of a FAST tokenizer?"
        ) from error
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected a JSON object.")
    return data


def _save(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
