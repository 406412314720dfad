"""Measure callables, keep the numbers with what they were measured on.

Nothing here knows what is measured: gpustats is not imported. Memory is measured on POSIX only.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

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
class Row:
    """Compare one quantity of ours, of which less is better, with a reference.

    Parameters
    ----------
    what
        What was measured.
    unit
        ``"s"`` or ``"MiB"``.
    ours
        Every repeat.
    reference
        Every repeat of what it is compared with.
    reference_name
        The peer, or what sets the limit.
    target
        The least wanted ratio, or None if there is no promise.
    """

    what: str
    unit: Literal["s", "MiB"]
    ours: tuple[float, ...]
    reference: tuple[float, ...]
    reference_name: str
    target: float | None = None

    @property
    def ratio(self) -> float:
        """How many times less ours is: median of the reference over median of ours."""
        return median(self.reference) / median(self.ours)

    @property
    def verdict(self) -> str:
        """``"met"``, ``"missed"``, or nothing if there is no target."""
        if self.target is None:
            return ""
        return "met" if self.ratio >= self.target else "missed"


@dataclass(frozen=True)
class Environment:
    """Say what the numbers were measured on; no path and no host name is in it.

    Parameters
    ----------
    cpu
        Model name.
    cores
        How many this process may use.
    memory_gib
        Physical memory.
    system
        Operating system and architecture.
    python
        Version.
    blas
        What NumPy was built with.
    packages
        Version of each package that was measured.
    date
        ISO date, UTC.
    commit
        The commit of the checkout, with ``-dirty`` if it was changed; None outside one.
    """

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    blas: str
    packages: dict[str, str]
    date: str
    commit: str | None


@dataclass(frozen=True)
class Result:
    """Hold all that one workload found.

    Parameters
    ----------
    name
        The workload.
    workload
        What it consisted of, in a sentence.
    environment
        What it ran on.
    checks
        How well the results agreed.
    rows
        What was measured.
    """

    name: str
    workload: str
    environment: Environment
    checks: tuple[Check, ...]
    rows: tuple[Row, ...]


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


def time_interleaved(
    competitors: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, tuple[float, ...]]:
    """Time competitors in turn, so that what slows the machine for a while slows them all.

    Parameters
    ----------
    competitors
        What to call, by name. Each is called once beforehand: compilation and caches that fill
        are not timed, nor is the release of what a call returns.
    repeats
        How often to call each.

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
            start = time.perf_counter()
            outcome = competitor()
            seconds[name].append(time.perf_counter() - start)
            del outcome
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


def describe_environment(packages: Sequence[str]) -> Environment:
    """Record the machine, and the versions of Python and of these packages."""
    blas: Any = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Environment(
        cpu=_cpu_model(),
        cores=n_cores(),
        memory_gib=round(memory / 2**30, 1),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        blas=f"{blas['name']} {blas['version']}",
        packages={name: _version(name) for name in packages},
        date=datetime.now(UTC).date().isoformat(),
        commit=_commit(),
    )


def n_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    """Return the processor's name as Linux tells it, or else as Python does."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _version(package: str) -> str:
    """Return the version of a package, installed or merely imported from a checkout."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", "unknown"))


def _commit() -> str | None:
    """Return the commit of the checkout if there is one."""
    describe = [
        "git",
        "-C",
        str(ROOT),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        git = subprocess.run(describe, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return git.stdout.strip()


def save(result: Result, folder: Path = RESULTS) -> Path:
    """Write ``<name>.json``, whole or not at all, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(json.dumps(asdict(result), indent=1) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load(path: Path) -> Result:
    """Read what `save` wrote."""
    stored = json.loads(path.read_text())
    rows = (
        Row(**{**row, "ours": tuple(row["ours"]), "reference": tuple(row["reference"])})
        for row in stored["rows"]
    )
    return Result(
        stored["name"],
        stored["workload"],
        Environment(**stored["environment"]),
        tuple(Check(**check) for check in stored["checks"]),
        tuple(rows),
    )


def quantity(value: float, unit: str) -> str:
    """Write a quantity with three digits: ``0.0452, "s"`` as ``45.2 ms``."""
    if unit == "s" and value < 1:
        value, unit = value * 1000, "ms"
    return f"{three_digits(value)} {unit}"


def three_digits(value: float) -> str:
    """Round a positive number to three significant digits, or to a whole number if it is large."""
    decimals = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{decimals}f}"


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """Write a row for a table: what, ours, reference, ratio, target and verdict."""
    return (
        row.what,
        quantity(median(row.ours), row.unit),
        f"{row.reference_name} {quantity(median(row.reference), row.unit)}",
        f"{three_digits(row.ratio)}x",
        "" if row.target is None else f"≥ {row.target:g}x, {row.verdict}",
    )


HEADINGS = ("", "gpustats", "compared with", "ratio", "target")


def plain_table(rows: Sequence[Row]) -> str:
    """Write rows for a terminal."""
    lines = [HEADINGS, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
