"""Check results, and measure callables and processes.

Nothing here knows what is measured: gpustats is not imported. Memory is measured on POSIX only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

CALL = (
    "import importlib, sys; module, function, *arguments = sys.argv[1:]; "
    "getattr(importlib.import_module(module), function)(*arguments)"
)
"""Call a function by its name."""
LAUNCHER = """
import os, sys, time
start = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print(time.perf_counter() - start, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Run a command and print its seconds and its peak memory, in the unit of the system."""


class CheckError(RuntimeError):
    """What was to be timed computes something wrong."""


@dataclass(frozen=True)
class Check:
    """Record how far a result is from that of the peer.

    Parameters
    ----------
    what
        The quantity.
    value
        What came out.
    limit
        What it had to stay below.
    """

    what: str
    value: float
    limit: float


@dataclass(frozen=True)
class Usage:
    """Hold what a process of its own took.

    Parameters
    ----------
    seconds
        From its start to its end, imports included.
    peak_mib
        Largest resident memory in MiB.
    """

    seconds: float
    peak_mib: float


def check_below(what: str, value: float, limit: float) -> Check:
    """Refuse to go on, and to report any time, if ``value`` is not below ``limit``."""
    if not value < limit:
        raise CheckError(f"{what} is {value:.3g}; it must be below {limit:.3g}")
    return Check(what, value, limit)


def wall_seconds(work: Callable[[], object]) -> float:
    """Return the seconds that work takes; what it returns is released afterwards."""
    start = time.perf_counter()
    outcome = work()
    seconds = time.perf_counter() - start
    del outcome
    return seconds


def time_interleaved(
    competitors: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[Callable[[], object]], float] = wall_seconds,
) -> dict[str, tuple[float, ...]]:
    """Time competitors in turn, so that what slows the machine for a while slows them all.

    Parameters
    ----------
    competitors
        What to call, by name. Each is called once beforehand: compilation and caches that fill
        are not timed, nor is the release of what a call returns.
    repeats
        How often to call each.
    clock
        What calls and returns the seconds.

    Returns
    -------
    dict
        Seconds of every repeat, by name.
    """
    for competitor in competitors.values():
        competitor()
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for _ in range(repeats):
        for name, competitor in competitors.items():
            seconds[name].append(clock(competitor))
    return {name: tuple(values) for name, values in seconds.items()}


def run_alone(function: Callable[..., object], *arguments: str, cold: bool = False) -> Usage:
    """Call a function in a process of its own and tell what that process took.

    Parameters
    ----------
    function
        A function of an importable module.
    arguments
        Its arguments.
    cold
        Whether Numba must compile everything anew, as in the first run after installation.

    Raises
    ------
    subprocess.CalledProcessError
        If the process failed.
    """
    call = [sys.executable, "-c", CALL, function.__module__, function.__qualname__, *arguments]
    with tempfile.TemporaryDirectory() as empty:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        if cold:
            environment["NUMBA_CACHE_DIR"] = empty
        # Linux counts the memory of the process that starts another as the other's:
        # between this large one and the one to measure there must be a small one
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER]
        output = subprocess.run(
            [*launcher, *call], env=environment, check=True, text=True, stdout=subprocess.PIPE
        ).stdout
    seconds, peak = output.splitlines()[-1].split()
    units_per_mib = 2**20 if sys.platform == "darwin" else 2**10
    return Usage(float(seconds), float(peak) / units_per_mib)


def n_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
