from __future__ import annotations

import multiprocessing
from multiprocessing.process import BaseProcess
from unittest.mock import Mock

import pytest

from visuomotor.errors import VisuomotorError
from visuomotor.experts.workers import Stop, _serve


@pytest.mark.parametrize(
    ("last", "error", "message"),
    [
        (
            (1, None, "no way to the mark"),
            RuntimeError,
            "seed 1 failed in a worker process:\nno way to the mark",
        ),
        (None, VisuomotorError, "ended with code 7"),
    ],
)
def test_a_worker_that_ended_before_it_was_asked_again_is_still_heard(
    last: tuple[int, None, str] | None, error: type[Exception], message: str
) -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.send((0, "done", None))
    if last is not None:
        theirs.send(last)
    theirs.close()
    served = _serve({ours: Mock(spec=BaseProcess, exitcode=7)}, 0, Stop())
    assert next(served) == (0, "done")
    with pytest.raises(error, match=message):
        next(served)
    ours.close()
