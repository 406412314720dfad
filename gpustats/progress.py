"""How far long work has come: its rate and the time left, shown while it runs."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeAlias

from tqdm import tqdm

logger = logging.getLogger("gpustats")

Style: TypeAlias = Literal["bar", "log", "none"]
"""A bar where there is a terminal, lines of the log, or nothing."""

STYLE: ContextVar[Style] = ContextVar("style of progress", default="bar")

SECONDS_BETWEEN_LINES = 5.0
DELAY = 1.0
"""Seconds before anything is shown: what takes less needs no progress."""


class _Lines(tqdm):  # type: ignore[type-arg]
    """Progress as lines of the log, with the numbers beside the words."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options |= {"file": io.StringIO(), "mininterval": SECONDS_BETWEEN_LINES, "disable": False}
        super().__init__(*arguments, **options)

    def display(self, *_: Any, **__: Any) -> None:
        """Log a line in place of drawing a bar."""
        done, total, facts = self.n, self.total, self.format_dict
        if not done:
            return
        # the first rate is known when the second line is due
        rate = facts["rate"] or (done / facts["elapsed"] if facts["elapsed"] else None)
        seconds_left = (total - done) / rate if rate and total is not None else None
        numbers = {
            "task": self.desc or f"{self.unit}s",
            "done": done,
            "total": total,
            "unit": self.unit,
            "per_second": None if rate is None else round(rate, 3),
            "seconds_left": None if seconds_left is None else round(seconds_left, 1),
        }
        pace = "" if seconds_left is None else f", {rate:.3g} a second, {seconds_left:.0f} s left"
        words = f"{numbers['task']}: {done} of {total}{pace}"
        logger.info("%s", words, extra={"progress": numbers})


def shown(items: Iterable[Any] | None, what: str | None, total: int, unit: str) -> Any:
    """Show the rate of work and the time that is left, as the command line was told to.

    Parameters
    ----------
    items
        What is worked on, one after the other; None if ``update`` is called instead.
    what
        What is being done.
    total
        How many there are.
    unit
        What one of them is called.

    Returns
    -------
    tqdm
        To be iterated over, or updated and closed.
    """
    style = STYLE.get()
    if style == "log":
        return _Lines(items, what, total, unit=unit, delay=DELAY)
    # None: only where it is seen, on a terminal
    return tqdm(items, what, total, unit=unit, disable=style == "none" or None, delay=DELAY)


@contextmanager
def counted(n_shuffles: int) -> Iterator[Callable[[float], None]]:
    """Show the progress of shuffles, and say how many were finished after Ctrl-C.

    Parameters
    ----------
    n_shuffles
        How many are to be computed.

    Yields
    ------
    callable
        To be called with the number of shuffles that have just been finished; a part of the voxels
        is that part of a shuffle.

    Raises
    ------
    KeyboardInterrupt
        With a message, if one comes: ``interrupted after 1,152 of 5,000 shuffles``.
    """
    finished = 0.0

    def finish(n_more: float) -> None:
        nonlocal finished
        finished += n_more
        # sums of parts fall short of whole numbers by a rounding
        progress.update(int(finished + 1e-6) - progress.n)

    with shown(None, None, n_shuffles, "shuffle") as progress:
        try:
            yield finish
        except KeyboardInterrupt as interruption:
            done = int(finished + 1e-6)
            message = f"interrupted after {done:,} of {n_shuffles:,} shuffles"
            raise type(interruption)(message) from None
