"""Threads of the CPU engine: one pool for the process, one BLAS thread in each of its threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from gpustats.environment import n_cores as n_threads

__all__ = ["blas_libraries", "n_threads", "one_blas_thread", "pool", "share_out"]

Result = TypeVar("Result")


@lru_cache(maxsize=1)
def pool(size: int) -> ThreadPoolExecutor:
    """Return the threads of this process."""
    return ThreadPoolExecutor(size, thread_name_prefix="gpustats")


def share_out(work: Callable[[Iterator[int]], Result], n_tasks: int, threads: int) -> list[Result]:
    """Let every thread take tasks 0 to ``n_tasks`` - 1 from one queue, with what it sets up once.

    Parameters
    ----------
    work
        Works off the numbers that it draws from its iterator. Called once by every thread.
    n_tasks
        How many tasks there are.
    threads
        How many threads to use; no more than there are tasks.

    Returns
    -------
    list
        What each call returned. Which tasks a call had is a matter of chance.
    """
    # next() of this iterator is one step under the interpreter lock
    queue = iter(range(n_tasks))
    n_workers = min(threads, n_tasks)
    if n_workers == 1:
        return [work(queue)]
    try:
        return list(pool(threads).map(work, [queue] * n_workers))
    except BaseException:
        for _ in queue:  # leaves nothing to do for the threads that still run
            pass
        raise


def one_blas_thread() -> AbstractContextManager[object]:
    """Keep BLAS in its caller's thread: a matrix that it splits has other last bits.

    Libraries that threadpoolctl does not know, such as Apple's Accelerate, stay as they are.
    """
    return _blas().limit(limits=1, user_api="blas")


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    """Find the BLAS libraries of this process, a search of some milliseconds."""
    return ThreadpoolController()


def blas_libraries() -> list[dict[str, str]]:
    """Describe the BLAS libraries of this process."""
    return [info for info in _blas().info() if info["user_api"] == "blas"]
