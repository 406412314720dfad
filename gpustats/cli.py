"""The command line, ``gpustats COMMAND``: its parser, its messages and its exit status."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import shtab

import gpustats
from gpustats import demo
from gpustats.cli_fit import add_fit
from gpustats.cli_merge import add_merge
from gpustats.cli_palm import add_palm
from gpustats.cli_permute import add_permute
from gpustats.cli_randomise import add_randomise
from gpustats.cli_report import add_report
from gpustats.cli_selftest import add_info, add_selftest
from gpustats.cli_stack import add_stack
from gpustats.cli_talk import add_talk, check_talk, talking
from gpustats.engines import DeviceError
from gpustats.environment import Terminated, versions

logger = logging.getLogger("gpustats")

USER_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143
"""What a shell makes of SIGTERM."""

SHELLS = ("bash", "zsh", "fish", "tcsh")
COMPLETION = """\
examples:
  gpustats completion bash > ~/.local/share/bash-completion/completions/gpustats
  gpustats completion zsh > ~/.zsh/functions/_gpustats    (a folder of $fpath)
  gpustats completion fish > ~/.config/fish/completions/gpustats.fish
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments
        The words after ``gpustats``; those of the process by default.

    Returns
    -------
    int
        0, or 1 if a self-test found a mismatch, or 2 after a user's error, which is told in one
        line, or 130 after Ctrl-C, or 143 after SIGTERM.
    """
    words = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options = parser.parse_args(_with_expressions(words))
    check_talk(parser, options)
    with talking(options):
        logger.debug("%s", " ".join(["gpustats", *map(str, words)]))
        logger.debug("%s", ", ".join(f"{name} {one}" for name, one in versions().items()))
        return _status_of(options)


def _status_of(options: argparse.Namespace) -> int:
    """Run a command and return its exit status; tell errors of users in one line."""
    started = time.perf_counter()
    try:
        with _terminable():
            status: int | None = options.run(options)
        logger.debug("done in %.1f s", time.perf_counter() - started)
    except (ValueError, TypeError, OSError, DeviceError, ImportError) as error:
        if os.environ.get("GPUSTATS_DEBUG"):
            raise
        logger.error("%s", _one_line(error))
        return USER_ERROR
    except KeyboardInterrupt as interruption:
        logger.warning("%s", str(interruption) or "interrupted; no results were written")
        return TERMINATED if isinstance(interruption, Terminated) else INTERRUPTED
    return status or 0


def palm() -> int:
    """Run ``gpustats-palm``, which is ``gpustats palm``."""
    return main(["palm", *sys.argv[1:]])


def randomise() -> int:
    """Run ``gpustats-randomise``, which is ``gpustats randomise``."""
    return main(["randomise", *sys.argv[1:]])


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, with which clusters announce the end of a job, end a run in good order."""

    def stop(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield  # no other thread may say what a signal does
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _with_expressions(words: Sequence[str]) -> list[str]:
    """Join ``--contrast`` and its expression, which may begin with a minus as options do."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--contrast":
            joined[-1] = f"--contrast={word}"
        else:
            joined.append(word)
    return joined


def _one_line(error: Exception) -> str:
    """Return an error's message on one line, with the file of a system error."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


class _Parser(argparse.ArgumentParser):
    """Tell a wrong option in one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit."""
        self.exit(USER_ERROR, f"gpustats: error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    parser = _Parser(prog="gpustats", description=gpustats.__doc__)
    parser.add_argument("--version", action="version", version=f"gpustats {gpustats.__version__}")
    add_talk(parser, default=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_fit(commands)
    add_permute(commands)
    add_merge(commands)
    add_report(commands)
    add_stack(commands)
    add_randomise(commands)
    add_palm(commands)
    add_selftest(commands)
    add_info(commands)
    _add_demo(commands)
    for command in commands.choices.values():
        if "-" in command.prefix_chars:  # others have the options of other programs
            add_talk(command)
    _add_completion(commands)
    return parser


def _add_demo(commands: Any) -> None:
    """Add the command that shows the package at work."""
    demonstration = commands.add_parser("demo", help="simulate a group, analyse it, report it")
    demonstration.add_argument(
        "--output-dir", type=Path, default=Path("gpustats-demo"), help="default: %(default)s"
    )
    demonstration.add_argument("--n-subjects", type=int, default=20, help="default: %(default)s")
    demonstration.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    demonstration.set_defaults(run=_demo)


def _add_completion(commands: Any) -> None:
    """Add the command that teaches a shell the others."""
    completion = commands.add_parser(
        "completion",
        help="print what lets a shell complete the words of commands",
        description="Print a script that lets a shell complete commands, options and files.",
        epilog=COMPLETION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(run=_complete)


def _complete(options: argparse.Namespace) -> None:
    """Print the script of a shell."""
    parser = _parser()
    for command in _commands_of(parser):
        for action in command._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, options.shell))


def _commands_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parser of each command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def _demo(options: argparse.Namespace) -> None:
    """Simulate a group, analyse it with the command above, and compare with the truth."""
    group = demo.simulate(options.output_dir, n_subjects=options.n_subjects, seed=options.seed)
    words = ["fit", *map(str, group.paths), "--mask", str(group.mask_path)]
    words += ["--height-control", "fdr", "--alpha", "0.05"]
    words += ["--output-dir", str(options.output_dir / "results"), "--title", "gpustats demo"]
    print("gpustats " + " ".join([*words[:2], "...", *words[-10:]]))
    fit_options = _parser().parse_args(words)
    fit_options.run(fit_options)
    print(demo.compare(group, options.output_dir / "results"))
