"""A cache folder that processes share: one builds an entry, the others wait, and the oldest make room.

Each entry is a folder with a lock file beside it. Whoever reads the entry holds the lock together with
other readers; whoever builds or removes it holds it alone. The system gives up the locks of a process
that dies, so nothing has to be cleaned up after a kill but a half-built folder, which the next builder
removes. The lock file also tells those who wait how far the builder is, and its time is the last use.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: no locks, so two builders both build, and nothing is ever removed
    fcntl = None  # type: ignore[assignment]

__all__ = ["Hold", "Progress", "build_once", "evict", "in_use", "sizes"]

Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is."""
_POLL_SECONDS = 0.1
_TELL_SECONDS = 0.5
_HALF_BUILT = ".tmp-"


class Hold:
    """Says that this process reads an entry, so that nobody removes it, as long as the object lives.

    Args:
        place: The entry, a folder.
    """

    def __init__(self, place: Path) -> None:
        if fcntl is None or not os.access(place.parent, os.W_OK):
            return  # a cache that may only be read: nobody removes entries of it from here
        descriptor = os.open(_lock_path(place), os.O_RDWR | os.O_CREAT, 0o666)
        weakref.finalize(self, os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.utime(descriptor)


def build_once(place: Path, build: Callable[[Path, Progress], object], progress: Progress | None) -> None:
    """Make the folder `place` by `build(temporary folder, progress)`, unless it is there already.

    If another process builds it at this moment, wait for that one, and tell its progress.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(place, progress) as lock:
        if place.exists():
            return
        if lock is not None:
            for path in place.parent.glob(f"{place.name}{_HALF_BUILT}*"):
                shutil.rmtree(path, ignore_errors=True)
        temporary = place.with_name(f"{place.name}{_HALF_BUILT}{uuid.uuid4().hex[:8]}")
        temporary.mkdir()
        try:
            build(temporary, _telling(lock, progress))
            try:
                temporary.rename(place)
            except OSError:
                if not place.exists():  # without locks another process may have been faster
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def sizes(folder: Path) -> dict[Path, int]:
    """Every whole entry of a cache with its bytes, the least recently used one first."""
    found = {}
    for place in folder.iterdir() if folder.is_dir() else ():
        if place.is_dir() and _HALF_BUILT not in place.name:
            with suppress(FileNotFoundError):  # removed meanwhile
                found[place] = sum(path.stat().st_size for path in place.iterdir())
    return dict(sorted(found.items(), key=lambda item: _last_use(item[0])))


def evict(place: Path) -> bool:
    """Remove an entry unless somebody reads or builds it; whether it was removed."""
    if fcntl is None:
        return False
    with _lock_path(place).open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        gone = place.with_name(f"{place.name}{_HALF_BUILT}{uuid.uuid4().hex[:8]}")
        with suppress(FileNotFoundError):
            place.rename(gone)  # at once, so that no reader finds half of it
            shutil.rmtree(gone)
        return True


def in_use(place: Path) -> bool:
    """Whether some process reads or builds an entry."""
    if fcntl is None:
        return True
    with _lock_path(place).open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _lock_path(place: Path) -> Path:
    return place.with_name(f"{place.name}.lock")


def _last_use(place: Path) -> float:
    path = _lock_path(place)
    return path.stat().st_mtime if path.exists() else place.stat().st_mtime


@contextmanager
def _alone(place: Path, progress: Progress | None) -> Iterator[IO[Any] | None]:
    """The lock of an entry, held alone; progress of the one who has it is told while waiting.

    None without locks, and for an entry that is there by now.
    """
    if fcntl is None:
        yield None
        return
    with _lock_path(place).open("a+b") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if place.exists():  # it was built, and is held by who reads it: for as long as that one likes
                    yield None
                    return
                lock.seek(0)
                words = lock.read().split()
                if progress is not None and len(words) == 2:
                    progress(int(words[0]), int(words[1]))
                time.sleep(_POLL_SECONDS)
        try:
            yield lock
        finally:
            lock.truncate(0)


def _telling(lock: IO[Any] | None, progress: Progress | None) -> Progress:
    """Tells progress to the caller and, now and then, to those who wait."""
    told = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if progress is not None:
            progress(done, total)
        if lock is not None and time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            lock.truncate(0)
            lock.write(b"%d %d" % (done, total))  # a file opened for appending writes at its end
            lock.flush()

    return tell
