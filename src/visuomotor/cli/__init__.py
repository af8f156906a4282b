"""The command line: each command is a thin twin of a public function.

Only the chosen command is imported, so `visuomotor --help` loads neither torch nor MuJoCo nor tyro.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module

from visuomotor import __version__
from visuomotor.errors import UnknownNameError, VisuomotorError, unknown_name

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "demo": "demonstrations, policy, measured success, report: all in minutes",
    "collect": "let an expert demonstrate, into a LeRobot data set",
    "data info": "what is in a data set",
    "data spec": "a draft, to be filled in, of what the numbers of a foreign data set mean",
    "data check": "find what spoils policies in a data set; exit code 1 if there is something",
    "data view": "a page to look through a data set: videos, plots, findings",
    "data repair": "recover what an interrupted recording left",
    "data convert": "HDF5 and zarr demonstrations into a LeRobot data set",
    "train": "train a policy on data sets",
    "merge": "a checkpoint with adapters (--training.lora.rank) as a plain one",
    "dagger": "train a policy on states that it meets itself, labeled by the expert",
    "evaluate": "measure a policy in unseen scenes, with probes, videos and a report",
    "compare": "train and evaluate policies on equal terms, or compare evaluations, scene by scene",
    "policies": "list policy families",
    "models": "list published models: size, license, what they need, whether they are at hand",
    "envs": "list environments with their tasks, suites, bodies and worlds",
    "recipes": "list recipes",
    "doctor": "check this machine, or a checkpoint",
}
"""Command -> what it does; the function of the same name in `visuomotor.cli.commands` does it."""

_HELP = """usage: visuomotor COMMAND [OPTIONS]

{commands}

visuomotor COMMAND --help lists the options of a command. Every command also takes
  --json     print the report as one line of JSON at the end
  --debug    show the traceback of an error
visuomotor --version prints the version."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after the name of the program; those of this process if None.

    Returns:
        Exit code: 0 done, 1 an error that the user can mend, 2 wrong usage, 130 stopped by Ctrl-C; or what
        the report of the command says under "exit_code".
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    typed = shlex.join([os.environ.get("VISUOMOTOR_COMMAND", "visuomotor"), *words])
    as_json, debug = _take(words, "--json"), _take(words, "--debug")
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(len(name) for name in COMMANDS)
        lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
        print(_HELP.format(commands="\n".join(lines)))
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    try:
        name = _find(words)
        command = getattr(import_module("visuomotor.cli.commands"), name.replace(" ", "_"))
        report = command(words[len(name.split()) :], prog=f"visuomotor {name}")
    except KeyboardInterrupt as stop:
        return _stopped(stop, typed)
    except (VisuomotorError, ValueError, OSError) as error:
        if debug:
            raise
        print(f"visuomotor: {error}", file=sys.stderr)
        return 2 if isinstance(error, UnknownNameError) else 1
    if as_json:
        print(json.dumps(report, allow_nan=False))
    return int(report.get("exit_code", 0))


def _take(words: list[str], flag: str) -> bool:
    """Whether `flag` stands among the words; it is taken out."""
    found = flag in words
    while flag in words:
        words.remove(flag)
    return found


def _find(words: Sequence[str]) -> str:
    """The command that the first words name.

    Raises:
        UnknownNameError: None does; the message has the closest one.
    """
    for count in (1, 2):
        name = " ".join(words[:count])
        if name in COMMANDS:
            return name
    group = [name for name in COMMANDS if name.startswith(f"{words[0]} ")]
    raise unknown_name("command", " ".join(words[: 2 if group else 1]), group or COMMANDS)


def _stopped(stop: KeyboardInterrupt, typed: str) -> int:
    """Say what was saved and how to go on."""
    said = str(stop) or "stopped; whatever was finished is saved."
    print(f"\nvisuomotor: {said}\nGo on with:\n  {typed}", file=sys.stderr)
    return 130
