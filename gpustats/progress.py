"""How far a permutation test has come: shown while it runs, and said when it is interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def counted(n_shuffles: int) -> Iterator[Callable[[float], None]]:
    """Show the rate and the time left of shuffles, and say how many were finished after Ctrl-C.

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

    with tqdm(total=n_shuffles, unit="shuffle", disable=None, delay=1) as progress:
        try:
            yield finish
        except KeyboardInterrupt as interruption:
            done = int(finished + 1e-6)
            message = f"interrupted after {done:,} of {n_shuffles:,} shuffles"
            raise type(interruption)(message) from None
