"""The side of `peers/beside.py` that runs in another environment. Imports nothing of visuomotor."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

__all__ = ["cores", "serve", "timed", "versions"]


def serve(actions: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer requests, one line of JSON each, from stdin.

    Answers are lines of JSON on the file descriptor that the first argument names; stdout and stderr are
    those of the libraries.

    Args:
        actions: What may be asked for.
    """
    with os.fdopen(int(sys.argv[1]), "w") as answers:
        for line in sys.stdin:
            request = json.loads(line)
            answer = actions[request.pop("do")](**request)
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def cores(cores: list[int]) -> dict[str, Any]:
    """Pin this process, the threads that libraries have started among it."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)
    return {}


def versions(*names: str) -> dict[str, Any]:
    """Of Python and of some packages."""
    return {name: version(name) for name in names} | {"python": sys.version.split()[0]}


def timed(function: Callable[[], object], calls: int = 1) -> dict[str, Any]:
    """Seconds on the wall, and of the processor, that some calls take."""
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        function()
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
