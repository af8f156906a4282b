"""A tokenizer that needs no download: one id a byte, and the marks that PaliGemma has."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

__all__ = ["save_byte_tokenizer"]


def save_byte_tokenizer(folder: Path, vocabulary: int) -> str:
    """Write it into a folder, and return that; ids behind the bytes are those of words that nobody writes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {"<pad>": 0, "<eos>": 1, "<bos>": 2} | {letter: 3 + n for n, letter in enumerate(alphabet)}
    words |= {f"<unused{n}>": n for n in range(len(words), vocabulary)}
    table = Tokenizer(models.BPE(words, []))
    table.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    table.decoder = decoders.ByteLevel()
    table.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}'
    )
    return str(folder)
