"""Byte-pair encoding over integers: what often stands side by side becomes one token.

Source: Gage 1994, C Users Journal 12(2); Sennrich et al. 2016 for learning the merges and applying them in
the order in which they were learned. Sequences here hold symbols 0, 1, ..., `alphabet` - 1, whatever they
stand for, and are never joined: no pair reaches over the end of one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from itertools import chain, pairwise

import numpy as np
from jaxtyping import Int, Int32, Int64

__all__ = ["PairEncoding", "learn_pairs"]


class PairEncoding:
    """Symbols to tokens and back, given what each token stands for and which pairs merge, first ones first.

    Args:
        pieces: Of each token, the symbols it stands for. A symbol is a token, not always of the same number.
        merges: (left, right, made): tokens, and the one that both become; earlier ones go first.
    """

    def __init__(self, pieces: Sequence[tuple[int, ...]], merges: Sequence[tuple[int, int, int]]) -> None:
        self.pieces = tuple(pieces)
        self.merges = tuple(merges)
        self._made = [made for _, _, made in self.merges]
        size = len(self.pieces)
        self._rank = {left * size + right: rank for rank, (left, right, _) in enumerate(self.merges)}

    @classmethod
    def from_merges(cls, alphabet: int, merges: Sequence[tuple[int, int]]) -> PairEncoding:
        """Tokens 0 to `alphabet` - 1 are the symbols; each merge adds one, if none stands for that already.

        Raises:
            ValueError: A merge of a token that does not exist yet, or one that comes twice.
        """
        pieces: list[tuple[int, ...]] = [(symbol,) for symbol in range(alphabet)]
        number = {piece: token for token, piece in enumerate(pieces)}
        triples: list[tuple[int, int, int]] = []
        for left, right in merges:
            if not (0 <= left < len(pieces) and 0 <= right < len(pieces)):
                raise ValueError(
                    f"pair encoding: merge {len(triples)} joins tokens {left} and {right}, "
                    f"but only {len(pieces)} exist by then."
                )
            piece = pieces[left] + pieces[right]
            if piece not in number:
                number[piece] = len(pieces)
                pieces.append(piece)
            triples.append((left, right, number[piece]))
        if len({(left, right) for left, right, _ in triples}) != len(triples):
            raise ValueError("pair encoding: a merge comes twice.")
        return cls(pieces, triples)

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.pieces)

    def merge(self, tokens: Sequence[int]) -> list[int]:
        """`tokens` of single symbols, merged: always the earliest merge, at its leftmost place.

        A heap holds the merges that are possible, and links lead over what was swallowed, so that n symbols
        take about n log n steps.
        """
        end, size, rank_of = len(tokens), len(self.pieces), self._rank
        token, before, after = list(tokens), list(range(-1, end - 1)), list(range(1, end + 1))
        heap = [
            (rank_of[pair], place)
            for place, (left, right) in enumerate(pairwise(token))
            if (pair := left * size + right) in rank_of
        ]
        heapq.heapify(heap)
        while heap:
            rank, place = heapq.heappop(heap)
            swallowed = after[place]
            if token[place] < 0 or swallowed == end:
                continue
            if rank_of.get(token[place] * size + token[swallowed]) != rank:
                continue  # one of the two has become another token since
            token[place], token[swallowed] = self._made[rank], -1
            after[place] = following = after[swallowed]
            if following < end:
                before[following] = place
                self._offer(heap, token[place] * size + token[following], place)
            if before[place] >= 0:
                self._offer(heap, token[before[place]] * size + token[place], before[place])
        return [one for one in token if one >= 0]

    def _offer(self, heap: list[tuple[int, int]], pair: int, place: int) -> None:
        rank = self._rank.get(pair)
        if rank is not None:
            heapq.heappush(heap, (rank, place))

    def expand(self, tokens: Sequence[int]) -> list[int]:
        """The symbols that `tokens` stand for."""
        return list(chain.from_iterable([self.pieces[token] for token in tokens]))


def learn_pairs(
    sequences: Int[np.ndarray, "sequence symbol"],
    *,
    alphabet: int,
    vocabulary: int,
    least: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[int, int]]:
    """The merges of a pair encoding: again and again the most frequent pair of neighbors.

    Of equally frequent pairs the one with the smaller left token is taken, then that with the smaller right
    one, so that equal data give equal merges. It stops early when no pair is left that comes `least` times.

    Args:
        sequences: In which pairs are counted, symbols in [0, alphabet).
        alphabet: Number of symbols.
        vocabulary: Number of tokens to reach, symbols included.
        least: How often a pair must come to be worth a token.
        progress: Called with the number of tokens so far and the number wanted.
    """
    wall = vocabulary  # stands between sequences, so that no pair reaches over it
    rows = np.full((len(sequences), sequences.shape[1] + 1), wall, np.int32)
    rows[:, :-1] = sequences
    text = rows.reshape(-1)
    counts = np.zeros((wall + 1, wall + 1), np.int64)
    np.add.at(counts, (text[:-1], text[1:]), 1)
    merges: list[tuple[int, int]] = []
    number: dict[tuple[int, ...], int] = {(symbol,): symbol for symbol in range(alphabet)}
    pieces = list(number)
    while len(pieces) < vocabulary:
        counts[wall] = counts[:, wall] = 0
        left, right = divmod(int(counts.argmax()), wall + 1)  # the first of equal ones
        if counts[left, right] < least:
            break
        piece = pieces[left] + pieces[right]
        if piece not in number:
            number[piece] = len(pieces)
            pieces.append(piece)
        if (left, right) not in merges:  # it can come up again where two ways make the same token
            merges.append((left, right))
        text = _replace(text, left, right, number[piece], counts)
        if progress is not None:
            progress(len(pieces), vocabulary)
    return merges


def _replace(
    text: Int32[np.ndarray, " before"], left: int, right: int, made: int, counts: Int64[np.ndarray, "t t"]
) -> Int32[np.ndarray, " after"]:
    """`text` with each `left`, `right` as `made`, from left to right without overlap.

    `counts`, of the pairs in `text`, is brought up to date in place: it is far larger than what changes.
    """
    places = np.flatnonzero((text[:-1] == left) & (text[1:] == right))
    if left == right:  # of a run of n equal tokens every other place
        starts = np.diff(places, prepend=-2) != 1
        first = np.maximum.accumulate(np.where(starts, places, 0))
        places = places[(places - first) % 2 == 0]
    gone = _neighbors(text, places - 1, places, places + 1)
    np.subtract.at(counts, gone, 1)
    kept = np.ones(len(text), bool)
    kept[places + 1] = False
    changed = text.copy()
    changed[places] = made
    text = changed[kept]
    places = places - np.arange(len(places))  # each one before it has swallowed a token
    np.add.at(counts, _neighbors(text, places - 1, places), 1)
    return text


def _neighbors(text: Int32[np.ndarray, " token"], *starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left and right token of the pairs that begin at these places, each pair once."""
    places = np.unique(np.concatenate(starts))
    places = places[(places >= 0) & (places < len(text) - 1)]
    return text[places], text[places + 1]
