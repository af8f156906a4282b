"""Parquet files without their footer: finds the row groups that are whole and writes the footer anew.

A parquet writer puts the footer, which says where everything lies, at the very end. A recorder that
was killed leaves the row groups without it. Each column of a row group is a sequence of pages, each
with a header that tells its size and number of values; so with the schema known, from info.json,
the pages can be walked through and told apart.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from visuomotor.data.thrift import I32, I64, LIST, STRUCT, Struct, read_struct, write_struct

__all__ = ["complete"]

_MAGIC = b"PAR1"
_DATA, _DICTIONARY, _DATA_2 = 0, 2, 3  # kinds of pages
_PLAIN, _RLE = 0, 3  # encodings
_UNCOMPRESSED, _SNAPPY = 0, 1

_Page = tuple[int, int, Struct]
"""Begin, end and header of a page."""


@dataclass
class _Chunk:
    """The pages of one column in one row group."""

    begin: int
    packed: bool
    end: int = 0
    values: int = 0
    unpacked: int = 0
    dictionary: int | None = None
    first_data: int = 0
    encodings: set[int] = field(default_factory=lambda: {_PLAIN, _RLE})


def complete(data: bytes, like: pa.Table) -> tuple[bytes, int, int]:
    """A readable file made of the row groups of `data` that are whole.

    Args:
        data: A parquet file whose footer is missing or cut off; columns are compressed with snappy or not
            at all.
        like: A table of one row with the columns that the file has, in their order.

    Returns:
        The bytes of the new file, how many row groups it has, and how many bytes of `data` they take; none
        gives (b"", 0, 0).
    """
    buffer = io.BytesIO()
    pq.write_table(like, buffer, compression="snappy")
    template = buffer.getvalue()
    length = int.from_bytes(template[-8:-4], "little")
    footer, _ = read_struct(template, len(template) - 8 - length)
    group = footer[4][1][1][0]
    columns: list[Struct] = group[1][1][1]
    groups = _walk(data, [column[3][1][5][1] for column in columns]) if data[:4] == _MAGIC else []
    if not groups:
        return b"", 0, 0
    footer[3] = (I64, sum(rows for rows, _ in groups))
    footer[4] = (LIST, (STRUCT, [_group(columns, rows, chunks) for rows, chunks in groups]))
    packed = write_struct(footer)
    body = data[: groups[-1][1][-1].end]
    return body + packed + len(packed).to_bytes(4, "little") + _MAGIC, len(groups), len(body)


def _walk(data: bytes, sizes: Sequence[int]) -> list[tuple[int, list[_Chunk]]]:
    """Rows and columns of each whole row group; `sizes` has the values of each column in a row."""
    pages = _pages(data, len(_MAGIC))
    groups: list[tuple[int, list[_Chunk]]] = []
    while True:
        rows, chunks = _next_group(data, pages, sizes)
        if not chunks:
            return groups
        groups.append((rows, chunks))
        pages = [page for page in pages if page[0] >= chunks[-1].end]


def _pages(data: bytes, at: int) -> list[_Page]:
    """Begin, end and header of every page from a place on, up to the first that is none."""
    found: list[_Page] = []
    known = {_DATA: 5, _DICTIONARY: 7, _DATA_2: 8}
    while True:
        try:
            header, body = read_struct(data, at)
            kind, size = header[1][1], header[3][1]
            if kind not in known or header[known[kind]][0] != STRUCT or size < 0 or body + size > len(data):
                return found
        except (ValueError, KeyError, IndexError, TypeError):
            return found
        found.append((at, body + size, header))
        at = body + size


def _next_group(data: bytes, pages: Sequence[_Page], sizes: Sequence[int]) -> tuple[int, list[_Chunk]]:
    """Rows and columns of the next row group; no columns if it is not whole.

    How many rows it has is said nowhere: as many as some of the first pages hold, so that all columns
    have that many.
    """
    values = 0
    for place, (_, _, header) in enumerate(pages):
        if header[1][1] == _DICTIONARY:
            if place:
                break  # the next column begins
            continue
        values += _values(header)
        if values and values % sizes[0] == 0:
            chunks = _split(data, pages, sizes, values // sizes[0])
            if chunks:
                return values // sizes[0], chunks
    return 0, []


def _values(header: Struct) -> int:
    """Values in a page of data."""
    told: int = header[5 if header[1][1] == _DATA else 8][1][1][1]
    return told


def _split(data: bytes, pages: Sequence[_Page], sizes: Sequence[int], rows: int) -> list[_Chunk]:
    """The columns of a row group of `rows` rows; none if the pages do not make one."""
    chunks, at = [], 0
    for size in sizes:
        if at == len(pages):
            return []
        chunk = _Chunk(begin=pages[at][0], packed=_is_packed(data, pages[at]))
        if pages[at][2][1][1] == _DICTIONARY:
            chunk.dictionary, chunk.unpacked = chunk.begin, _unpacked(pages[at])
            at += 1
        while chunk.values < rows * size and at < len(pages) and pages[at][2][1][1] != _DICTIONARY:
            begin, chunk.end, header = pages[at]
            chunk.first_data = chunk.first_data or begin
            chunk.values += _values(header)
            chunk.unpacked += _unpacked(pages[at])
            chunk.packed = chunk.packed or _is_packed(data, pages[at])
            chunk.encodings.add(header[5][1][2][1] if header[1][1] == _DATA else header[8][1][4][1])
            at += 1
        if chunk.values != rows * size:
            return []
        chunks.append(chunk)
    return chunks


def _is_packed(data: bytes, page: _Page) -> bool:
    """Whether a page is compressed with snappy, which begins with the size of what comes out."""
    _, end, header = page
    packed, unpacked = header[3][1], header[2][1]
    if packed != unpacked:
        return True
    told, shift = 0, 0
    for byte in data[end - packed : end - packed + 5]:
        told |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return bool(told == unpacked)


def _unpacked(page: _Page) -> int:
    """Bytes of a page once it is unpacked, its header included."""
    begin, end, header = page
    size: int = end - begin - header[3][1] + header[2][1]
    return size


def _group(columns: Sequence[Struct], rows: int, chunks: Sequence[_Chunk]) -> Struct:
    """The entry of a row group in the footer."""
    entries = []
    for like, chunk in zip(columns, chunks):
        told = like[3][1]
        meta: Struct = {number: told[number] for number in (1, 3)}
        meta[2] = (LIST, (I32, sorted(chunk.encodings)))
        meta[4] = (I32, _SNAPPY if chunk.packed else _UNCOMPRESSED)
        meta[5] = (I64, chunk.values)
        meta[6] = (I64, chunk.unpacked)
        meta[7] = (I64, chunk.end - chunk.begin)
        meta[9] = (I64, chunk.first_data)
        if chunk.dictionary is not None:
            meta[11] = (I64, chunk.dictionary)
        entries.append({2: (I64, 0), 3: (STRUCT, meta)})
    size = sum(chunk.end - chunk.begin for chunk in chunks)
    return {
        1: (LIST, (STRUCT, entries)),
        2: (I64, sum(chunk.unpacked for chunk in chunks)),
        3: (I64, rows),
        5: (I64, chunks[0].begin),
        6: (I64, size),
    }
