"""How many maps a GPU works on at a time: what its memory holds, and less if it did not (CUDA).

What the driver calls free can still be refused, because other processes take it, or because it lies
in pieces. Then half as much is tried, down to one map, and a line of the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import cupy

logger = logging.getLogger("gpustats")

Result = TypeVar("Result")

SHARE_OF_SCRATCH = 0.8
"""What the working memory of a batch may take of the memory that is free."""


def free_bytes() -> int:
    """Return how much memory of the current device can still be used.

    CuPy keeps what was freed for itself: that counts as free.
    """
    free, _ = cupy.cuda.runtime.memGetInfo()
    return int(free + cupy.get_default_memory_pool().free_bytes())


def halved_until_it_fits(count: int, allocate: Callable[[int], Result]) -> Result:
    """Return what ``allocate`` gives for ``count``, or for the first half of it that fits.

    Raises
    ------
    MemoryError
        If not even one fits.
    """
    while True:
        try:
            return allocate(count)
        except MemoryError:
            count = _half(count)


def in_parts(n_maps: int, bytes_per_map: int, work: Callable[[slice], Result]) -> list[Result]:
    """Work on the maps of a batch, as many at a time as the free memory allows.

    Parameters
    ----------
    n_maps
        How many there are.
    bytes_per_map
        What ``work`` allocates for each map.
    work
        Called with the slice of a part. It allocates all that it needs before it changes
        anything: where memory is refused it is called again, with less.

    Returns
    -------
    list
        What each call returned, in order.

    Raises
    ------
    MemoryError
        If not even one map fits.
    """
    size = max(1, min(n_maps, int(SHARE_OF_SCRATCH * free_bytes()) // max(bytes_per_map, 1)))
    results: list[Result] = []
    start = 0
    while start < n_maps:
        try:
            results.append(work(slice(start, min(start + size, n_maps))))
            start += size
        except MemoryError:
            size = _half(size)
    return results


def _half(count: int) -> int:
    """Give back what nobody uses, and return the half that is tried next."""
    cupy.get_default_memory_pool().free_all_blocks()
    if count == 1:
        raise MemoryError(
            f"the GPU has no room for one map: {free_bytes() / 2**20:.0f} MiB are free; "
            "close what else uses it, or take device='cpu'"
        )
    logger.warning(
        "out of memory on the GPU: going on with %d maps at a time; close what else uses it to be "
        "faster",
        count // 2,
    )
    return count // 2
