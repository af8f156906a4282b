from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from leaky import Keeps

from visuomotor.data.frames import VideoFrames
from visuomotor.data.loader import Loader
from visuomotor.data.shared import Slot, open_slot
from visuomotor.data.windows import Windows
from visuomotor.data.workers import WorkerDied
from visuomotor.errors import DataError
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.base import Pipeline
from visuomotor.types import Observation, Sample, Window


@pytest.fixture
def windows(reader):
    return Windows(reader, VideoFrames(reader), Window(history=(-1, 0), horizon=4), "moves")


def equal(a, b) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("state", "actions", "horizon_mask")
    ) and all(torch.equal(a.images[name], b.images[name]) for name in a.images)


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_batches_are_those_without_workers_in_whatever_order(windows):
    plain = Loader(windows, batch_size=8, seed=3)
    with Loader(windows, batch_size=8, seed=3, workers=2) as loader:
        kept = loader.batch(0)
        for step in (0, 1, 2, 3, 4, 5, 90, 91, 2, 2, 7):
            assert equal(loader.batch(step), plain.batch(step))
        assert equal(kept, plain.batch(0))  # memory of its own
        assert loader._workers is not None
        processes = loader._workers.processes
        assert all(running(pid) for pid in processes)
    assert not any(running(pid) for pid in processes)


def test_a_worker_that_is_killed_is_an_error_and_no_hang(windows):
    with Loader(windows, batch_size=8, seed=3, workers=1) as loader:
        loader.batch(0)
        assert loader._workers is not None
        os.kill(loader._workers.processes[0], signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"worker 0 .* killed by SIGKILL .* memory ran out"):
            loader.batch(50)


def test_an_error_in_a_worker_reaches_the_caller_with_its_place(dataset, tmp_path):
    import shutil

    from visuomotor.data.lerobot import LeRobotReader

    folder = shutil.copytree(dataset, tmp_path / "set")
    reader = LeRobotReader(folder)
    for path in folder.glob("videos/*wrist/*/*.mp4"):
        path.write_bytes(b"no video")
    windows = Windows(reader, VideoFrames(reader), Window(horizon=4), "moves")
    with Loader(windows, batch_size=2, seed=0, workers=1) as loader:
        with pytest.raises(DataError, match="camera 'wrist'") as caught:
            loader.batch(0)
        assert "in worker 0 of the loader, at step 0" in caught.value.__notes__[0]


@dataclass
class Unsendable:
    """Holds what cannot be pickled."""

    what: object

    def apply(self, sample: Sample) -> Sample:
        return sample

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        return actions


def test_what_cannot_be_sent_is_said(windows):
    with pytest.raises(ValueError, match="cannot be sent to another process"):
        Loader(windows, {"moves": Pipeline([Unsendable(lambda: 0)])}, batch_size=2, seed=0, workers=1)


SCRIPT = """
import signal
import sys
import torch
from visuomotor.data.frames import VideoFrames
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.loader import Loader
from visuomotor.data.windows import Windows
from visuomotor.types import Window

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
reader = LeRobotReader(sys.argv[1])
loader = Loader(Windows(reader, VideoFrames(reader), Window(horizon=4), "k"), batch_size=4, seed=0, workers=2)
loader.batch(0)
print(*loader._workers.processes, flush=True)
while True:
    loader.batch(1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_workers_load_no_torch_and_end_with_the_process_that_started_them(dataset, end):
    shared = set(os.listdir("/dev/shm"))
    process = subprocess.Popen(  # a plain script: no guard for __main__
        [sys.executable, "-c", SCRIPT, str(dataset)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    for pid in pids:
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
    process.send_signal(end)
    try:
        process.wait(timeout=120)
    finally:
        process.kill()
        process.stdout.close()
    deadline = time.monotonic() + 60
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(running(pid) for pid in pids)
    assert set(os.listdir("/dev/shm")) <= shared


def test_arrays_go_through_shared_memory_and_may_grow():
    ours = Slot(open_slot())
    theirs = Slot(os.dup(ours.descriptor))
    for size in (3, 1_000_000, 5):
        value = {"a": np.arange(size), "b": [np.ones((2, 2), bool), "text", None]}
        message = ours.put(value)
        assert len(message) < 1000
        for copy in (True, False):
            found = theirs.get(message, copy=copy)
            np.testing.assert_array_equal(found["a"], value["a"])
            np.testing.assert_array_equal(found["b"][0], value["b"][0])
            assert found["b"][1:] == ["text", None]
            assert found["a"].flags.writeable == copy
    kept = theirs.get(message, copy=True)
    ours.put({"a": np.zeros(5), "b": []})
    np.testing.assert_array_equal(kept["a"], np.arange(5))
    assert theirs.get(ours.put({}), copy=True) == {}
    ours.close()
    theirs.close()


def private_memory(windows: Windows, pipeline: Pipeline, batches: int) -> list[float]:
    """Megabytes of a worker's own memory after each quarter of `batches` batches of 100 samples."""
    found = []
    with Loader(windows, {"moves": pipeline}, batch_size=100, seed=0, workers=1) as loader:
        assert loader._workers is not None
        for step in range(batches):
            loader.batch(step)
            if (step + 1) % (batches // 4) == 0:
                rollup = Path(f"/proc/{loader._workers.processes[0]}/smaps_rollup").read_text()
                (line,) = (line for line in rollup.splitlines() if line.startswith("Anonymous:"))
                found.append(int(line.split()[1]) / 1024)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("source", ["store", "videos"])
def test_the_memory_of_a_worker_does_not_grow(reader, store, source):
    """`./run bench data --memory` does it for 50,000 samples."""
    frames = store if source == "store" else VideoFrames(reader)
    windows = Windows(reader, frames, Window(history=(-1, 0), horizon=4), "moves")
    # keeping the 6 KB of pictures of a sample would be 6 MB from one half to the other
    flat = private_memory(windows, Pipeline([]), 20)
    assert min(flat[2:]) - min(flat[:2]) < 3
    if source == "store":
        leaky = private_memory(windows, Pipeline([Keeps()]), 20)
        assert min(leaky[2:]) - min(leaky[:2]) > 4


class Encoder:
    hash, width = "abc", 2

    def encode(self, sentences):
        return [np.full((len(sentence), 2), 1.0, np.float32) for sentence in sentences]


def test_a_worker_looks_sentences_up_and_has_no_encoder():
    cache = SentenceCache(Encoder())
    cache.warm(["known"])
    sent = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(sent.encode("known"), cache.encode("known"))
    assert (sent.hash, sent.width) == ("abc", 2)
    with pytest.raises(DataError, match=r"sentence 'new'.*Call `warm`"):
        sent.encode("new")
