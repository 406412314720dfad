"""Keep what was measured with what it was measured on, and write it as tables."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from benchmarks.harness import ROOT, Check, n_cores

RESULTS = ROOT / "benchmarks" / "results"


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
        Every repeat of what it is compared with; nothing if that is not installed.
    reference_name
        The peer, or what sets the limit; empty if there is nothing to compare with.
    target
        The least wanted ratio, or None if there is no promise.
    traffic
        Bytes that ours has to read and write, if that says something.
    operations
        Additions and multiplications of ours, if they do.
    """

    what: str
    unit: Literal["s", "MiB"]
    ours: tuple[float, ...]
    reference: tuple[float, ...]
    reference_name: str
    target: float | None = None
    traffic: float = 0.0
    operations: float = 0.0

    @property
    def ratio(self) -> float | None:
        """How many times less ours is: median of the reference over median of ours."""
        return median(self.reference) / median(self.ours) if self.reference else None

    @property
    def verdict(self) -> str:
        """``"met"``, ``"missed"``, or nothing if there is no target or nothing to compare with."""
        if self.target is None or self.ratio is None:
            return ""
        return "met" if self.ratio >= self.target else "missed"


@dataclass(frozen=True)
class Rate:
    """Judge how often a test rejected a hypothesis that is true.

    Parameters
    ----------
    what
        The test.
    count
        How often it rejected.
    n
        Of how many times.
    allowed
        The least and the largest count that pass, or None if it is not judged.
    """

    what: str
    count: int
    n: int
    allowed: tuple[int, int] | None = None

    @property
    def verdict(self) -> str:
        """``"inside"`` or ``"outside"`` what is allowed, or nothing if it is not judged."""
        if self.allowed is None:
            return ""
        least, most = self.allowed
        return "inside" if least <= self.count <= most else "outside"


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
    gpu
        The GPU, if one was measured.
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
    gpu: str | None = None


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
    rates
        What was counted, in place of rows.
    """

    name: str
    workload: str
    environment: Environment
    checks: tuple[Check, ...] = ()
    rows: tuple[Row, ...] = ()
    rates: tuple[Rate, ...] = ()


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
    rates = (
        Rate(**{**rate, "allowed": rate["allowed"] and tuple(rate["allowed"])})
        for rate in stored["rates"]
    )
    return Result(
        stored["name"],
        stored["workload"],
        Environment(**stored["environment"]),
        tuple(Check(**check) for check in stored["checks"]),
        tuple(rows),
        tuple(rates),
    )


def quantity(value: float, unit: str) -> str:
    """Write a quantity with three digits: ``0.0452, "s"`` as ``45.2 ms``."""
    if unit == "s" and value < 1e-4:
        value, unit = value * 1e6, "µs"
    elif unit == "s" and value < 1:
        value, unit = value * 1000, "ms"
    return f"{three_digits(value)} {unit}"


def three_digits(value: float) -> str:
    """Round a positive number to three significant digits, or to a whole number if it is large."""
    decimals = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{decimals}f}"


def rate(row: Row) -> str:
    """Write how fast ours moves or computes, in brackets, or nothing."""
    seconds = median(row.ours)
    if row.operations:
        return f" ({three_digits(row.operations / seconds / 1e12)} TFLOP/s)"
    return f" ({three_digits(row.traffic / seconds / 1e9)} GB/s)" if row.traffic else ""


def cells(row: Row) -> tuple[str, ...]:
    """Write a row for a table: what, ours, reference, ratio, target and verdict."""
    reference = quantity(median(row.reference), row.unit) if row.reference else "not installed"
    beside = f"{row.reference_name} {reference}" if row.reference_name else ""
    target = f"≥ {row.target:g}x, {row.verdict}" if row.verdict else ""
    return (
        row.what,
        quantity(median(row.ours), row.unit) + rate(row),
        beside,
        "" if row.ratio is None else f"{three_digits(row.ratio)}x",
        target,
    )


def rate_cells(rate: Rate) -> tuple[str, ...]:
    """Write a rate for a table: what, count, share, what is allowed, verdict."""
    allowed = "" if rate.allowed is None else "{} to {}".format(*rate.allowed)
    count = f"{rate.count} of {rate.n:,}"
    return rate.what, count, f"{rate.count / rate.n:.1%}", allowed, rate.verdict


HEADINGS = ("", "gpustats", "compared with", "ratio", "target")
RATE_HEADINGS = ("", "rejections", "share", "allowed", "verdict")


def table(result: Result) -> list[tuple[str, ...]]:
    """Return the headings and the lines of a result's table, five cells each."""
    if result.rates:
        return [RATE_HEADINGS, *map(rate_cells, result.rates)]
    return [HEADINGS, *map(cells, result.rows)]


def plain_table(result: Result) -> str:
    """Write a result for a terminal."""
    lines = table(result)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
