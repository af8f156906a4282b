"""Text to the ids of a language model and back, strictly: nothing is cut, guessed or marked unasked.

A tokenizer is read from `tokenizer.json`, from a SentencePiece model (extra `[sentencepiece]`), or made of
the parts that a GGUF file holds. The files differ in what they put around a text by themselves; here a
beginning or an end is put there only when it is asked for, and what people write never becomes a
special token unless the caller says that it may.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tokenizers
from jaxtyping import Bool, Int64
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from visuomotor.errors import CheckpointError, unknown_name

__all__ = [
    "FILES",
    "SPLITS",
    "Engine",
    "Tokenizer",
    "byte_level_tokenizer",
    "copy_tokenizer",
    "load_tokenizer",
    "pad_rows",
]

TABLE, PIECES = "tokenizer.json", "tokenizer.model"
_NAMES = ("tokenizer_config.json", "special_tokens_map.json")
FILES = (TABLE, PIECES, *_NAMES)
"""Files of a published model that its tokenizer needs."""
_ROLES = ("bos", "eos", "pad")


@runtime_checkable
class Engine(Protocol):
    """What does the work: one library or another."""

    @property
    def size(self) -> int:
        """One more than the highest id."""
        ...

    def encode(self, text: str, specials: bool) -> list[int]:
        """Ids of a text alone; `specials`: names of special tokens in it are those tokens."""
        ...

    def decode(self, ids: list[int], specials: bool) -> str:
        """The text of ids, with or without special tokens."""
        ...

    def id_of(self, token: str) -> int | None:
        """The id of a token by its name."""
        ...

    def token(self, place: int) -> str | None:
        """The name of the token with an id."""
        ...

    def special(self) -> list[str]:
        """Names of the special tokens."""
        ...

    def silent(self) -> set[int]:
        """Ids that no text becomes unless special tokens are asked for."""
        ...


class Tokenizer:
    """Text to ids and back.

    Args:
        engine: Does the work.
        bos: Name of the token that begins a text; None if the model has none.
        eos: Name of the token that ends an answer.
        pad: Name of the token that fills rows; None for id 0. It is masked, so it means nothing.
        where: Named in errors.

    Raises:
        CheckpointError: One of the three is no token.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        where: str = "tokenizer",
    ) -> None:
        self.engine = engine
        self.where = where
        for role, name in zip(_ROLES, (bos, eos, pad)):
            if name is not None and engine.id_of(name) is None:
                raise CheckpointError(f"{where}: its {role} token {name!r} is not in its vocabulary.")
        self.bos = None if bos is None else engine.id_of(bos)
        self.eos = None if eos is None else engine.id_of(eos)
        self.pad = 0 if pad is None else self.id_of(pad)

    @property
    def size(self) -> int:
        """One more than the highest id."""
        return self.engine.size

    def id_of(self, token: str) -> int:
        """The id of a token by its name, such as "<loc0000>".

        Raises:
            ValueError: There is none; the message has the closest special token.
        """
        found = self.engine.id_of(token)
        if found is None:
            raise unknown_name(f"token of {self.where}", token, self.engine.special())
        return found

    def token(self, place: int) -> str:
        """The name of the token with the id `place`.

        Raises:
            ValueError: There is none.
        """
        found = self.engine.token(place) if 0 <= place < self.size else None
        if found is None:
            raise ValueError(f"{self.where}: expected an id below {self.size}, got {place}.")
        return found

    def encode(self, text: str, *, bos: bool = False, eos: bool = False, specials: bool = False) -> list[int]:
        """Ids of a text.

        Args:
            text: Any text, also an empty one.
            bos: Whether the token that begins a text goes before it.
            eos: Whether the token that ends one goes behind it.
            specials: Whether a special token's name in the text is that token. Only for text that a
                template made: what a person says is never to end a turn or claim a picture.

        Raises:
            ValueError: A token that is asked for does not exist.
        """
        for asked, place, role in ((bos, self.bos, "bos"), (eos, self.eos, "eos")):
            if asked and place is None:
                raise ValueError(f"{self.where}: it names no {role} token. Pass {role}=... when loading it.")
        ids = self.engine.encode(text, specials)
        return [*([self.bos] if bos else []), *ids, *([self.eos] if eos else [])]  # type: ignore[list-item]

    def decode(self, ids: Iterable[int], *, specials: bool = False) -> str:
        """The text of ids.

        Args:
            ids: Any that the tokenizer knows.
            specials: Whether special tokens are written out; left out otherwise.

        Raises:
            ValueError: It does not know one.
        """
        ids = [int(place) for place in ids]
        for place in ids:
            self.token(place)
        return self.engine.decode(ids, specials)

    def batch(
        self,
        texts: Sequence[str],
        *,
        length: int | None = None,
        bos: bool = False,
        eos: bool = False,
        specials: bool = False,
    ) -> tuple[Int64[np.ndarray, "batch token"], Bool[np.ndarray, "batch token"]]:
        """Ids of several texts, padded on the right, and which of them are real.

        Args:
            texts: In order.
            length: Tokens of a row; the longest of these if None.
            bos: As in `encode`.
            eos: As in `encode`.
            specials: As in `encode`.

        Raises:
            ValueError: A text is longer than `length`: it is never cut.
        """
        rows = [self.encode(text, bos=bos, eos=eos, specials=specials) for text in texts]
        for text, row in zip(texts, rows):
            if length is not None and len(row) > length:
                raise ValueError(
                    f"{self.where}: {text[:40]!r}... has {len(row)} tokens, and there is room for {length}. "
                    "Shorten it, or make more room."
                )
        return pad_rows(rows, length=length, pad=self.pad)

    def check(self, vocabulary: int, tokens: Mapping[str, int] | None = None) -> None:
        """Refuse to be used with a model of another vocabulary.

        Special tokens may lie above the table, such as "<image>" of PaliGemma's files, where pictures are
        put in by themselves: no text becomes one.

        Args:
            vocabulary: Rows of the model's table of embeddings; some models have more of them than
                tokens, for alignment, but at most a twentieth.
            tokens: Names and ids that the model was trained with.

        Raises:
            CheckpointError: It does not belong to the model.
        """
        above = set(range(vocabulary, self.size)) - self.engine.silent()
        if self.size < 0.95 * vocabulary or above:
            raise CheckpointError(
                f"{self.where}: it has {self.size} ids, the model {vocabulary}. "
                "Choose the tokenizer that was published with these weights."
            )
        for token, place in (tokens or {}).items():
            if self.engine.id_of(token) != place:
                raise CheckpointError(
                    f"{self.where}: expected id {place} for {token!r}, got {self.engine.id_of(token)}. "
                    "Choose the tokenizer that was published with these weights."
                )


def pad_rows(
    rows: Sequence[Sequence[int]], *, length: int | None = None, pad: int = 0
) -> tuple[Int64[np.ndarray, "batch token"], Bool[np.ndarray, "batch token"]]:
    """Rows of ids as one array, padded on the right, and a mask that is `True` where an id is real."""
    longest = max((len(row) for row in rows), default=0) if length is None else length
    ids = np.full((len(rows), longest), pad, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = True
    return ids, mask


def load_tokenizer(
    path: str | Path, *, bos: str | None = None, eos: str | None = None, pad: str | None = None
) -> Tokenizer:
    """The tokenizer of a published model.

    Args:
        path: A `tokenizer.json`, a SentencePiece `.model`, or a folder with one of them. Files beside it
            (tokenizer_config.json, special_tokens_map.json) say which tokens begin, end and fill.
        bos: Name of the token that begins a text, over what those files say.
        eos: Name of the token that ends an answer, over what those files say.
        pad: Name of the token that fills rows, over what those files say.

    Raises:
        CheckpointError: No such file, or it holds no tokenizer.
    """
    path = _locate(Path(path))
    engine: Engine = _read_json(path) if path.suffix == ".json" else _read_pieces(path)
    names = _stated_names(path.parent)
    if isinstance(engine, _Pieces):
        names = engine.roles() | names
    chosen = {role: value for role, value in zip(_ROLES, (bos, eos, pad)) if value is not None}
    return Tokenizer(engine, **{**names, **chosen}, where=str(path))


def copy_tokenizer(path: str | Path, folder: Path) -> None:
    """Put the files that `load_tokenizer` reads of `path` into a new folder, under their usual names.

    Raises:
        CheckpointError: `path` holds no tokenizer.
    """
    path = _locate(Path(path))
    folder.mkdir()
    shutil.copyfile(path, folder / (TABLE if path.suffix == ".json" else PIECES))
    for name in _NAMES:
        if (path.parent / name).is_file():
            shutil.copyfile(path.parent / name, folder / name)


def _locate(path: Path) -> Path:
    """The file of a tokenizer, which may stand for its folder."""
    if path.is_dir():
        found = next((path / name for name in (TABLE, PIECES) if (path / name).is_file()), None)
        if found is None:
            raise CheckpointError(f"{path}: expected {TABLE} or {PIECES}. Is it the folder of a model?")
        return found
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Expected {TABLE} or a SentencePiece .model.")
    return path


def _stated_names(folder: Path) -> dict[str, str]:
    """Which tokens begin, end and fill, as far as the files in a folder say."""
    names: dict[str, str] = {}
    for file in _NAMES:
        if (folder / file).is_file():
            stated = json.loads((folder / file).read_text())
            for role in _ROLES:
                value = stated.get(f"{role}_token")
                value = value.get("content") if isinstance(value, dict) else value
                if isinstance(value, str):
                    names.setdefault(role, value)
    return names


# tokenizer.json


class _Table:
    """The library `tokenizers`."""

    def __init__(self, table: tokenizers.Tokenizer) -> None:
        table.no_padding()
        table.no_truncation()
        self.table = table
        vocabulary = table.get_vocab(with_added_tokens=True)
        self.size = max(vocabulary.values(), default=-1) + 1

    def encode(self, text: str, specials: bool) -> list[int]:
        self.table.encode_special_tokens = not specials  # True: as if they were ordinary text
        return self.table.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int], specials: bool) -> str:
        return self.table.decode(ids, skip_special_tokens=not specials)

    def id_of(self, token: str) -> int | None:
        return self.table.token_to_id(token)

    def token(self, place: int) -> str | None:
        return self.table.id_to_token(place)

    def special(self) -> list[str]:
        return [token.content for token in self.table.get_added_tokens_decoder().values()]

    def silent(self) -> set[int]:
        return {place for place, token in self.table.get_added_tokens_decoder().items() if token.special}


def _read_json(path: Path) -> _Table:
    try:
        return _Table(tokenizers.Tokenizer.from_file(str(path)))
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(f"{path}: not a tokenizer of the library tokenizers: {error}") from error


# SentencePiece


class _Pieces:
    """The library `sentencepiece`.

    What a person writes never becomes a control token there, whatever is asked for; so for text of a
    template the names of control tokens are looked for here, the longest first.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.size = model.vocab_size()
        self._control = {
            model.id_to_piece(place): place for place in range(self.size) if model.is_control(place)
        }

    def encode(self, text: str, specials: bool) -> list[int]:
        if not specials:
            return self.model.encode(text)
        ids: list[int] = []
        while text:
            found = min(
                ((text.index(name), -len(name), name) for name in self._control if name in text), default=None
            )
            if found is None:
                return [*ids, *self.model.encode(text)]
            place, _, name = found
            before, text = text[:place], text[place + len(name) :]
            ids += [*(self.model.encode(before) if before else []), self._control[name]]
        return ids

    def decode(self, ids: list[int], specials: bool) -> str:
        if not specials:
            return self.model.decode([place for place in ids if not self.model.is_control(place)])
        parts: list[str] = []
        run: list[int] = []
        for place in ids:
            if self.model.is_control(place):
                parts += [self.model.decode(run), self.model.id_to_piece(place)]
                run = []
            else:
                run.append(place)
        return "".join([*parts, self.model.decode(run)])

    def id_of(self, token: str) -> int | None:
        place = self.model.piece_to_id(token)
        return place if self.model.id_to_piece(place) == token else None  # unknown ones get the id of <unk>

    def token(self, place: int) -> str | None:
        return self.model.id_to_piece(place)

    def special(self) -> list[str]:
        return list(self._control)

    def silent(self) -> set[int]:
        return set(self._control.values())

    def roles(self) -> dict[str, str]:
        """Which tokens begin, end and fill, as the model itself says."""
        places = zip(_ROLES, (self.model.bos_id(), self.model.eos_id(), self.model.pad_id()))
        return {role: self.model.id_to_piece(place) for role, place in places if place >= 0}


def _read_pieces(path: Path) -> _Pieces:
    try:
        import sentencepiece
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f'{path}: SentencePiece models need an extra. Run: pip install "visuomotor[sentencepiece]"; '
            f"or pass the model's {TABLE}."
        ) from error
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.load_from_serialized_proto(path.read_bytes())
    except RuntimeError as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error}") from error
    return _Pieces(model)


# Byte-level pairs

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = ("gpt-2", "llama-bpe", "qwen2", "smollm")
"""How a text falls into words before pairs are joined, by the names that GGUF files use."""


def _words(split: str) -> list[Any]:
    """The steps from a text to bytes of words.

    GPT-2 has a rule of its own, which the library knows; SmolLM2 takes digits one by one before it;
    Llama 3 (three digits together) and Qwen (one) have newer ones.
    """
    if split in ("gpt-2", "smollm"):
        digits = [pre_tokenizers.Digits(individual_digits=True)] if split == "smollm" else []
        return [*digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    words = tokenizers.Regex(_WORDS % ("{1,3}" if split == "llama-bpe" else ""))
    return [
        pre_tokenizers.Split(words, "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def byte_level_tokenizer(
    tokens: Sequence[str],
    merges: Sequence[str],
    *,
    split: str = "gpt-2",
    control: Sequence[str] = (),
    marks: Sequence[str] = (),
    bos: str | None = None,
    eos: str | None = None,
    pad: str | None = None,
    where: str = "tokenizer",
) -> Tokenizer:
    """A tokenizer of byte-level pairs from its parts, as GGUF files hold them.

    Args:
        tokens: In the order of their ids.
        merges: Pairs in the order in which they are joined, "left right".
        split: One of `SPLITS`.
        control: Tokens that are special.
        marks: Tokens that are found in any text as a whole, but are not special.
        bos: Name of the token that begins a text.
        eos: Name of the token that ends an answer.
        pad: Name of the token that fills rows.
        where: Named in errors.

    Raises:
        CheckpointError: The parts do not fit together, or `split` is not known.

    Source: Radford et al. (2019), GPT-2, section 2.2.
    """
    if split not in SPLITS:
        raise CheckpointError(
            f"{where}: {unknown_name('rule for words', split, SPLITS)} Pass its {TABLE} instead."
        )
    vocabulary = {token: place for place, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise CheckpointError(f"{where}: two of its {len(tokens)} tokens are the same. It is damaged.")
    pairs = [(pair[0], pair[2]) for pair in (merge.partition(" ") for merge in merges)]
    try:
        table = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(f"{where}: its pairs do not fit its tokens: {error}") from error
    if split == "qwen2":
        table.normalizer = normalizers.NFC()
    table.pre_tokenizer = pre_tokenizers.Sequence(_words(split))
    table.decoder = decoders.ByteLevel()
    table.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    table.add_tokens([AddedToken(token, normalized=False) for token in marks])
    return Tokenizer(_Table(table), bos=bos, eos=eos, pad=pad, where=where)
