"""What a command says while it works: how much of it, and in words or in JSON."""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import UTC, datetime
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from gpustats.progress import STYLE

logger = logging.getLogger("gpustats")

OF_TALK = ("verbose", "quiet", "json_log")
"""Options that change no result."""


def add_talk(command: Any, *, default: Any = argparse.SUPPRESS) -> None:
    """Add what says how much is said, and how; without a default what stands before it counts."""
    group = command.add_argument_group("messages")
    amount = group.add_mutually_exclusive_group()
    amount.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        default=default,
        help="say more, for bug reports, and progress even where there is no terminal",
    )
    amount.add_argument(
        "--quiet",
        action="store_true",
        default=default,
        help="say nothing but warnings and errors: no summary, no progress",
    )
    group.add_argument(
        "--json-log",
        action="store_true",
        default=default,
        help="messages and progress as JSON on stderr, one object a line: time, level, message, "
        "and progress with task, done, total, unit, per_second and seconds_left",
    )


def check_talk(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what is said before and after a command and does not go together."""
    if getattr(options, "verbose", False) and getattr(options, "quiet", False):
        parser.error("argument --quiet: not allowed with argument -v/--verbose")


class _Words(logging.Formatter):
    """Messages as people read them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message behind the name of the package."""
        level = "error: " if record.levelno >= logging.ERROR else ""
        return f"gpustats: {level}{record.getMessage()}"


class _Json(logging.Formatter):
    """Messages as programs read them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        progress = getattr(record, "progress", None)
        return json.dumps(told if progress is None else {**told, "progress": progress})


@contextmanager
def talking(options: argparse.Namespace) -> Iterator[None]:
    """Let the package say what the options ask for, while a command runs."""
    verbose, quiet, as_json = (getattr(options, name, False) for name in OF_TALK)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Words())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    in_lines = as_json or (verbose and not sys.stderr.isatty())
    style = STYLE.set("none" if quiet else "log" if in_lines else "bar")
    try:
        with ExitStack() as stack:
            if not as_json:
                # lines go above a bar, not into it
                stack.enter_context(logging_redirect_tqdm([logger]))
            # what some commands print is all that they are for
            if quiet and not getattr(options, "answers", False):
                stack.enter_context(redirect_stdout(io.StringIO()))
            stack.enter_context(warnings.catch_warnings())
            warnings.showwarning = lambda message, *_, **__: logger.warning("%s", message)
            yield
    finally:
        STYLE.reset(style)
        logger.setLevel(before)
        logger.removeHandler(handler)
