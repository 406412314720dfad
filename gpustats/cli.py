"""The command line, ``gpustats COMMAND``: its parser and its exit status."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

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
from gpustats.engines import DeviceError
from gpustats.environment import Terminated

logger = logging.getLogger("gpustats")

USER_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143
"""What a shell makes of SIGTERM."""


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
    options = _parser().parse_args(_with_expressions(words))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("gpustats: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings(), _terminable():
            warnings.showwarning = lambda message, *_, **__: logger.warning("%s", message)
            status: int | None = options.run(options)
    except (ValueError, TypeError, OSError, DeviceError, ImportError) as error:
        if os.environ.get("GPUSTATS_DEBUG"):
            raise
        print(f"gpustats: error: {_one_line(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as interruption:
        what = str(interruption) or "interrupted; no results were written"
        print(f"gpustats: {what}", file=sys.stderr)
        return TERMINATED if isinstance(interruption, Terminated) else INTERRUPTED
    finally:
        logger.removeHandler(handler)
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
    demonstration = commands.add_parser("demo", help="simulate a group, analyse it, report it")
    demonstration.add_argument(
        "--output-dir", type=Path, default=Path("gpustats-demo"), help="default: %(default)s"
    )
    demonstration.add_argument("--n-subjects", type=int, default=20, help="default: %(default)s")
    demonstration.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    demonstration.set_defaults(run=_demo)
    return parser


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
