"""Where a result is computed: versions of what it depends on, and how many cores there are."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version

THREADS = "GPUSTATS_THREADS"
"""The environment variable that says how many cores to use at most."""

PACKAGES = ("gpustats", "numpy", "scipy", "numba", "nibabel", "pandas", "nilearn")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    found = {package: version_of(package) for package in PACKAGES}
    return {"python": platform.python_version(), **found}


@cache
def version_of(package: str) -> str:
    """Return the version of a package; finding it takes a look through all that is installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


class Terminated(KeyboardInterrupt):
    """The process was asked to end, as clusters do shortly before they kill a job."""


def n_cores() -> int:
    """Return how many cores this process may use: those it has, at most ``GPUSTATS_THREADS``.

    Raises
    ------
    ValueError
        If the environment variable is no number of cores.
    """
    if hasattr(os, "sched_getaffinity"):
        there = len(os.sched_getaffinity(0))
    else:
        there = os.cpu_count() or 1
    most = os.environ.get(THREADS)
    if not most:
        return there
    if not most.isdecimal() or int(most) == 0:
        raise ValueError(f"{THREADS} must be a number of cores, 1 or more, got {most!r}")
    return min(there, int(most))


@contextmanager
def using_cores(most: int) -> Iterator[None]:
    """Let this process use so many cores at most for a while, all its threads together."""
    before = os.environ.get(THREADS)
    os.environ[THREADS] = str(min(most, n_cores()))
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before
