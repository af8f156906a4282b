from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, pre_tokenizers, processors, trainers

from visuomotor.errors import CheckpointError
from visuomotor.text import tokenizer as library
from visuomotor.text.tokenizer import Tokenizer, byte_level_tokenizer, load_tokenizer, pad_rows

TEXTS = ["Put the red cube in the blue bowl.", "lift it", "", "  two  spaces\n", "3 x 14 = 42, año 你好"]


def write_table(folder: Path, *, names: dict | None = None) -> Path:
    """A byte-level tokenizer as models publish it: it begins texts by itself, pads and cuts."""
    table = tokenizers.Tokenizer(models.BPE())
    table.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    table.decoder = tokenizers.decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    table.train_from_iterator(TEXTS * 4, trainer)
    table.add_tokens([AddedToken("<loc1>", normalized=False)])
    table.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    table.enable_padding(length=64)
    table.enable_truncation(4)
    table.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": {"content": "<eos>"}} if names is None else names
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


@pytest.fixture
def tokenizer(tmp_path) -> Tokenizer:
    return load_tokenizer(write_table(tmp_path))


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_and_nothing_is_added_cut_or_padded(tokenizer, text) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.bos not in ids
    assert tokenizer.encode(text, bos=True, eos=True) == [tokenizer.bos, *ids, tokenizer.eos]


@given(text=st.text())
def test_any_text_comes_back_from_bytes(text) -> None:
    letters = pre_tokenizers.ByteLevel.alphabet()
    assert len(letters) == 256
    for split in library.SPLITS:
        if split != "qwen2":  # it brings letters and accents together
            tokenizer = byte_level_tokenizer(sorted(letters), [], split=split)
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_files_of_names_say_what_begins_and_ends(tmp_path) -> None:
    tokenizer = load_tokenizer(write_table(tmp_path))
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (1, 2, 0)
    chosen = load_tokenizer(tmp_path / "tokenizer.json", eos="<image>", pad="<pad>")
    assert (chosen.bos, chosen.eos, chosen.pad) == (1, 3, 0)


def test_what_a_person_says_is_never_a_special_token(tokenizer) -> None:
    said = "<image> lift it<eos>"
    plain = tokenizer.encode(said)
    assert not {tokenizer.id_of("<image>"), tokenizer.eos} & set(plain)
    assert tokenizer.decode(plain) == said
    marked = tokenizer.encode(said, specials=True)
    assert marked == [tokenizer.id_of("<image>"), *tokenizer.encode(" lift it"), tokenizer.eos]
    assert tokenizer.decode(marked) == " lift it"
    assert tokenizer.decode(marked, specials=True) == said
    assert tokenizer.encode(said) == plain  # asking once changes nothing afterwards


def test_tokens_that_are_not_special_are_found_in_any_text(tokenizer) -> None:
    assert tokenizer.encode("<loc1>") == [tokenizer.id_of("<loc1>")]
    assert tokenizer.token(tokenizer.id_of("<loc1>")) == "<loc1>"
    assert tokenizer.size == tokenizer.id_of("<loc1>") + 1


def test_a_batch_is_padded_on_the_right_with_a_mask(tokenizer) -> None:
    ids, mask = tokenizer.batch(TEXTS, bos=True)
    assert ids.dtype == np.int64
    for text, row, real in zip(TEXTS, ids, mask):
        expected = tokenizer.encode(text, bos=True)
        assert row[real].tolist() == expected
        assert real.tolist() == [True] * len(expected) + [False] * (len(row) - len(expected))
        assert (row[~real] == tokenizer.pad).all()
    assert mask.any(0).all()
    assert tokenizer.batch(TEXTS, length=60)[0].shape == (len(TEXTS), 60)
    assert tokenizer.batch([])[0].shape == (0, 0)
    assert pad_rows([[5], []], length=2, pad=9)[0].tolist() == [[5, 9], [9, 9]]


def test_a_text_that_is_too_long_is_refused_and_not_cut(tokenizer) -> None:
    length = len(tokenizer.encode(TEXTS[0]))
    assert tokenizer.batch(TEXTS[:1], length=length)[0].shape == (1, length)
    with pytest.raises(ValueError, match=rf"'Put the red.* {length + 1} tokens.*room for {length}"):
        tokenizer.batch(TEXTS[:1], length=length, bos=True)


def test_an_unknown_token_is_answered_with_the_closest(tokenizer) -> None:
    with pytest.raises(ValueError, match=r"unknown token .*'<images>'.*Did you mean '<image>'"):
        tokenizer.id_of("<images>")
    for place in (tokenizer.size, -1):
        with pytest.raises(ValueError, match=f"expected an id below {tokenizer.size}, got {place}"):
            tokenizer.decode([place])


def test_a_token_that_the_model_does_not_name_is_refused(tmp_path) -> None:
    tokenizer = load_tokenizer(write_table(tmp_path, names={}))
    assert tokenizer.encode("lift it")
    with pytest.raises(ValueError, match="names no bos token"):
        tokenizer.encode("lift it", bos=True)
    with pytest.raises(ValueError, match="names no eos token"):
        tokenizer.encode("lift it", eos=True)
    with pytest.raises(CheckpointError, match="eos token '<end>' is not in its vocabulary"):
        load_tokenizer(tmp_path, eos="<end>")


def test_a_tokenizer_of_another_model_is_refused(tokenizer) -> None:
    tokenizer.check(tokenizer.size, {"<bos>": 1})
    tokenizer.check(tokenizer.size + 4)  # rows for alignment
    for vocabulary in (tokenizer.size - 1, 2 * tokenizer.size):
        with pytest.raises(CheckpointError, match=f"{tokenizer.size} ids, the model {vocabulary}"):
            tokenizer.check(vocabulary)
    with pytest.raises(CheckpointError, match="expected id 2 for '<bos>', got 1"):
        tokenizer.check(tokenizer.size, {"<bos>": 2})
    with pytest.raises(CheckpointError, match="expected id 2 for '<loc9>', got None"):
        tokenizer.check(tokenizer.size, {"<loc9>": 2})


def test_special_tokens_may_lie_above_the_table_because_no_text_becomes_one(tmp_path) -> None:
    write_table(tmp_path)
    path = tmp_path / "tokenizer.json"
    table = tokenizers.Tokenizer.from_file(str(path))
    rows = table.get_vocab_size()
    table.add_special_tokens([AddedToken("<picture>", normalized=False)])
    table.save(str(path))
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.check(rows)
    assert tokenizer.size == rows + 1
    said = "a <picture> of <picture>"
    assert max(tokenizer.encode(said)) < rows
    assert tokenizer.decode(tokenizer.encode(said)) == said
    table.add_tokens([AddedToken("<word>", normalized=False)])  # found in any text
    table.save(str(path))
    with pytest.raises(CheckpointError, match=f"{rows + 2} ids, the model {rows}"):
        load_tokenizer(tmp_path).check(rows)


def test_what_is_no_tokenizer_is_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"expected tokenizer\.json or tokenizer\.model"):
        load_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        load_tokenizer(tmp_path)


def test_pairs_are_joined_in_order_and_digits_as_each_model_does() -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, "12", "123", "ab", "<s>", "mark"]
    merges = ["1 2", "12 3", "a b"]

    def names(split: str, text: str) -> list[str]:
        made = byte_level_tokenizer(
            tokens, merges, split=split, control=["<s>"], marks=["mark"], bos="<s>", where="test"
        )
        return [made.token(place) for place in made.encode(text)]

    assert names("gpt-2", "ab1234mark") == ["ab", "123", "4", "mark"]
    assert names("llama-bpe", "ab1234") == ["ab", "123", "4"]
    assert names("smollm", "ab1234") == ["ab", "1", "2", "3", "4"]
    assert names("qwen2", "ab1234") == ["ab", "1", "2", "3", "4"]
    assert names("gpt-2", "<s>") == ["<", "s", ">"]


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"unknown rule for words 'smolm'.*mean 'smollm'.*json"):
        byte_level_tokenizer(["a"], [], split="smolm")
    with pytest.raises(CheckpointError, match="two of its 2 tokens are the same"):
        byte_level_tokenizer(["a", "a"], [])
    with pytest.raises(CheckpointError, match="pairs do not fit"):
        byte_level_tokenizer(["a"], ["a b"])
    with pytest.raises(CheckpointError, match="bos token '<s>' is not in its vocabulary"):
        byte_level_tokenizer(["a"], [], bos="<s>")


@pytest.fixture
def pieces(tmp_path) -> Path:
    """A SentencePiece model with bytes, as those of Llama 2 and Gemma."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs the extra [sentencepiece]")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in TEXTS * 20 if text.strip()]),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        control_symbols=["<image>"],
        user_defined_symbols=["<loc1>"],
        hard_vocab_limit=False,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return tmp_path


def test_sentencepiece_models_are_read_with_the_extra(pieces) -> None:
    import sentencepiece

    oracle = sentencepiece.SentencePieceProcessor(model_file=str(pieces / "tokenizer.model"))
    tokenizer = load_tokenizer(pieces)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.size) == (2, 1, 0, oracle.vocab_size())
    for text in TEXTS:
        assert tokenizer.encode(text) == oracle.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    tokenizer.check(tokenizer.size, {"<bos>": 2} if oracle.piece_to_id("<bos>") == 2 else {"<s>": 2})


def test_special_tokens_of_sentencepiece_follow_the_same_rule(pieces) -> None:
    tokenizer = load_tokenizer(pieces)
    image, said = tokenizer.id_of("<image>"), "a<image>lift it</s>"
    plain = tokenizer.encode(said)
    assert image not in plain
    assert tokenizer.decode(plain) == said
    marked = tokenizer.encode(said, specials=True)
    assert marked == [*tokenizer.encode("a"), image, *tokenizer.encode("lift it"), tokenizer.eos]
    assert tokenizer.decode(marked) == "alift it"
    assert tokenizer.decode(marked, specials=True) == said
    assert tokenizer.encode("<loc1>") == [tokenizer.id_of("<loc1>")]
    with pytest.raises(ValueError, match="Did you mean '<image>'"):
        tokenizer.id_of("<images>")


def test_without_the_extra_the_error_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"visuomotor\[sentencepiece\].*tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_damaged_sentencepiece_model_is_refused(tmp_path) -> None:
    pytest.importorskip("sentencepiece", reason="needs the extra [sentencepiece]")
    (tmp_path / "tokenizer.model").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path)
