from __future__ import annotations

import struct
import warnings
from pathlib import Path

import pytest

from visuomotor.training.events import EventWriter, crc32c, flatten


def test_the_checksum_has_its_published_values() -> None:
    """RFC 3720, B.4, and the customary check value."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes([0xFF] * 32)) == 0x62A8AB43
    assert crc32c(b"") == 0


def test_nested_numbers_become_paths() -> None:
    values = {"loss": 1, "terms": {"flow": 0.5}, "name": "x", "on": True}
    assert list(flatten(values)) == [("loss", 1.0), ("terms/flow", 0.5)]


def test_records_are_framed_with_their_length(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, time=1.0)
    writer.write(300, {"loss": 0.5}, time=2.0)
    writer.close()
    data = (tmp_path / EventWriter.NAME).read_bytes()
    payloads = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        payloads.append(data[12 : 12 + length])
        data = data[16 + length :]
    assert payloads[0] == b"\x09" + struct.pack("<d", 1.0) + b"\x10\x00\x1a\x0dbrain.Event:2"
    assert payloads[1] == (
        b"\x09"
        + struct.pack("<d", 2.0)
        + b"\x10\xac\x02"
        + b"\x2a\x0d\x0a\x0b\x0a\x04loss\x15"
        + struct.pack("<f", 0.5)
    )


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies use what their dependencies deprecate
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        writer = EventWriter(tmp_path, time=1.0)
        for step in (10, 20, 70_000):
            writer.write(step, {"loss": 1 / step, "terms": {"flow": -2.5}}, time=100.0 + step)
        writer.close()
        events = accumulator.EventAccumulator(str(tmp_path))
        events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["loss", "terms/flow"]
    found = events.Scalars("loss")
    assert [event.step for event in found] == [10, 20, 70_000]
    assert [event.value for event in found] == pytest.approx([1 / 10, 1 / 20, 1 / 70_000])
    assert [event.wall_time for event in found] == [110, 120, 70_100]
