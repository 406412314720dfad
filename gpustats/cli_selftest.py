"""``gpustats selftest`` and ``info``: what this machine is, and whether it computes right."""

from __future__ import annotations

import argparse
import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from gpustats import cli_options, engines
from gpustats.engines.gpu_devices import cuda_versions, gpus, why_no_gpu
from gpustats.environment import versions
from gpustats.outputs import result_folder, write_json
from gpustats.selftest import SelfTest, has_passed
from gpustats.selftest.promises import Finding
from gpustats.selftest.speed import Rate

logger = logging.getLogger("gpustats")

Result = TypeVar("Result")

MISMATCH = 1
"""Exit status where a promise was not kept."""
GIB = 2**30


def add_selftest(commands: Any) -> None:
    """Add the command that checks and times the engine."""
    testing = commands.add_parser(
        "selftest",
        help="check what this machine computes, and time it",
        description="Check every function of the engine on seeded data, on this machine: a GPU "
        "against the CPU engine, the CPU engine against plain definitions. Then time it beside the "
        "machine's own copy and matrix product. The exit status is 1 if anything mismatches.",
    )
    cli_options.add_device(testing)
    testing.add_argument("--output-file", type=Path, metavar="JSON", help="where to report to")
    testing.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    testing.add_argument("--quick", action="store_true", help="take less data")
    testing.set_defaults(run=_selftest, answers=True)


def add_info(commands: Any) -> None:
    """Add the command that a bug report should start with."""
    info = commands.add_parser("info", help="print versions, the engine, the GPUs and the memory")
    info.set_defaults(run=_info, answers=True)


def _selftest(options: argparse.Namespace) -> int:
    """Check, time, report; return the exit status."""
    test = SelfTest(options.device, options.seed, options.quick)
    with _whole_or_not_at_all(options.output_file) as path:
        # the permutation test among the checks need not say what it does
        logger.setLevel(logging.WARNING)
        print(_subject(test))
        print(f"\n{'check':<44}{'promised':<18}{'found':<10}")
        findings = _told(test.findings(), _finding_line)
        print(f"\n{'workload':<34}{'time':<24}{'rate':<18}of the best")
        rates = _told(test.rates(), _rate_line)
        if path is not None:
            write_json(path, test.report(findings, rates))
    print(f"\n{_verdict(findings, rates)} on {test.engine.describe()}")
    return 0 if has_passed(findings, rates) else MISMATCH


@contextmanager
def _whole_or_not_at_all(path: Path | None) -> Iterator[Path | None]:
    """Give a place to write a file to, from where it moves to ``path`` when all went well."""
    if path is None:
        yield None
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    with result_folder(path.parent) as partial:
        yield partial / path.name


def _subject(test: SelfTest) -> str:
    """Say what is checked against what, and why it is no GPU."""
    engine = test.engine.describe()
    if test.twin is not None:
        return f"checking {engine}\nagainst the CPU engine: {test.twin.engine.describe()}"
    missing = why_no_gpu()
    reason = f"no GPU: {missing}\n" if missing else ""
    return f"{reason}checking the CPU engine against plain definitions: {engine}"


def _told(results: Iterable[Result], line: Callable[[Result], str]) -> list[Result]:
    """Print the line of each result as soon as it is there; return all results."""
    kept = []
    for result in results:
        print(line(result), flush=True)
        kept.append(result)
    return kept


def _finding_line(finding: Finding) -> str:
    """Tell what came of a check."""
    off = finding.difference
    found = "-" if off is None else "equal" if off == 0 else f"{off:.1e}"
    verdict = "ok" if finding.passed else "MISMATCH"
    error = f"\n    {finding.error}" if finding.error else ""
    return f"{finding.name:<44}{finding.promise!s:<18}{found:<10}{verdict}{error}"


def _rate_line(rate: Rate) -> str:
    """Tell what was measured of a workload."""
    if rate.seconds is None:
        return f"{rate.name:<34}{rate.left_out or f'FAILED: {rate.error}'}"
    each = f"{_scaled(rate.seconds / rate.items)}s" + (" each" if rate.items > 1 else "")
    per_second = f"{_scaled(rate.per_second)}{rate.unit}"
    fraction = "-" if rate.fraction is None else f"{rate.fraction:.1%}"
    return f"{rate.name:<34}{each:<24}{per_second:<18}{fraction}"


def _scaled(number: float) -> str:
    """Write a number to three digits with the prefix of its size."""
    prefixes = {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k", 1.0: "", 1e-3: "m", 1e-6: "µ"}
    for size, prefix in prefixes.items():
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number / 1e-9:.3g} n"


def _verdict(findings: Sequence[Finding], rates: Sequence[Rate]) -> str:
    """Say in a few words how many checks and workloads failed."""
    failed = sum(not finding.passed for finding in findings)
    verdict = f"all {len(findings)} checks passed"
    if failed:
        verdict = f"{failed} of {len(findings)} checks FAILED"
    broken = sum(rate.error is not None for rate in rates)
    return f"{verdict}, {broken} of {len(rates)} workloads FAILED" if broken else verdict


def _info(options: argparse.Namespace) -> None:
    """Print what a bug report should start with."""
    del options
    lines = dict(versions())
    lines["engine"] = engines.resolve("auto").describe()
    lines["memory"] = f"{engines.resolve('cpu').free_bytes() / GIB:.1f} GiB free"
    for number, gpu in enumerate(gpus()):
        lines[f"cuda:{number}"] = (
            f"{gpu.name}, compute capability {gpu.compute_capability}, "
            f"{gpu.total_bytes / GIB:.1f} GiB, {gpu.free_bytes / GIB:.1f} GiB free"
        )
    lines |= cuda_versions()
    missing = why_no_gpu()
    if missing:
        lines["gpu"] = f"none: {missing}"
    for name, value in lines.items():
        print(f"{name:13} {value}")
