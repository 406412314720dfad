"""Run the benchmarks: ``python -m benchmarks [--quick] [NAME ...]``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.harness import CheckError
from benchmarks.records import Result, plain_table, save
from gpustats.engines import why_no_gpu

WORKLOADS = {
    name: f"benchmarks.{name}"
    for name in (
        "second_level",
        "permutation",
        "missing",
        "calibration",
        "stacking",
        "cohorts",
        "distributed",
        "gpu",
    )
}
"""The workloads, and the modules whose function ``run`` carries them out."""
NEEDS: dict[str, Callable[[], str]] = {"gpu": why_no_gpu}
"""What tells why a workload cannot run here, or nothing if it can."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run workloads, print their tables, keep their results; 1 if anything was wrong.

    2 if a workload that was asked for cannot run here; where all are run it is left out.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"all by default: {', '.join(WORKLOADS)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small workloads, to see that all runs; not kept"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(WORKLOADS):
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    missing = {name: NEEDS[name]() for name in options.names or WORKLOADS if name in NEEDS}
    for name, reason in missing.items():
        if reason:
            print(f"{name}: not measured: {reason}", file=sys.stderr)
            if options.names:
                return 2
    names = [name for name in options.names or WORKLOADS if not missing.get(name)]
    failed = [name for name in names if not _run(name, quick=options.quick)]
    return 1 if failed else 0


def _run(name: str, *, quick: bool) -> bool:
    """Run one workload and tell whether its results were right."""
    try:
        result = importlib.import_module(WORKLOADS[name]).run(quick=quick)
    except CheckError as error:
        print(f"{name}: WRONG RESULT: {error}", file=sys.stderr)
        return False
    if quick:
        # what is promised is promised for the whole workload
        rows = tuple(replace(row, target=None) for row in result.rows)
        rates = tuple(replace(rate, allowed=None) for rate in result.rates)
        result = replace(result, rows=rows, rates=rates)
    else:
        save(result)
    _show(result)
    return all(rate.verdict != "outside" for rate in result.rates)


def _show(result: Result) -> None:
    """Print what a workload found."""
    print(f"{result.name}: {result.workload}\n")
    print(plain_table(result), end="\n\n")
    for check in result.checks:
        print(f"{check.what}: {check.value:.2g} (limit {check.limit:.0e})")


if __name__ == "__main__":
    sys.exit(main())
