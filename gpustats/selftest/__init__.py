"""The self-test: whether what this machine computes is right, and how fast it is.

Every function of the engine is tried on seeded data. A GPU must agree with the CPU engine; the CPU
engine must agree with the definitions in `gpustats.selftest.plain`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gpustats import engines
from gpustats.engines import Engine
from gpustats.engines.gpu_devices import cuda_versions, gpus, why_no_gpu
from gpustats.environment import versions
from gpustats.selftest.checks import all_checks
from gpustats.selftest.promises import Finding, Machine, carry_out
from gpustats.selftest.sample import sample
from gpustats.selftest.speed import Brain, Rate, rates

MOST_SEED = 2**32 - 1
"""Largest seed."""


@dataclass(frozen=True)
class SelfTest:
    """Check an engine on this machine, and time it.

    Parameters
    ----------
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
    seed
        Seed of all data.
    quick
        Whether to take less data.

    Raises
    ------
    DeviceError
        If the device is not there.
    ValueError
        If ``device`` is no device's name, or the seed is out of range.

    Examples
    --------
    >>> findings = list(SelfTest("cpu", quick=True).findings())
    >>> all(finding.passed for finding in findings)
    True
    """

    device: str = "auto"
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MOST_SEED:
            raise ValueError(f"seed must be a whole number from 0 to {MOST_SEED}, got {self.seed}")
        engines.resolve(self.device)

    @property
    def engine(self) -> Engine:
        """What is tested."""
        return engines.resolve(self.device)

    @property
    def twin(self) -> Machine | None:
        """What it must agree with; None for the CPU engine, which obeys the definitions."""
        cpu = engines.resolve("cpu")
        return None if self.engine is cpu else Machine("cpu", cpu)

    def findings(self) -> Iterator[Finding]:
        """Carry out one check after the other."""
        data = sample(self.seed, quick=self.quick)
        machine, twin = Machine(self.device, self.engine), self.twin
        for check in all_checks():
            yield carry_out(check, machine, twin, data)

    def rates(self) -> Iterator[Rate]:
        """Time one workload after the other, a copy and a product first."""
        return rates(Brain(self.engine, self.seed, self.quick))

    def report(self, findings: Sequence[Finding], rates: Sequence[Rate]) -> dict[str, Any]:
        """Put what was found into the form of the JSON report."""
        return {
            "command": "selftest",
            "passed": has_passed(findings, rates),
            "device": self.engine.describe(),
            "fingerprint": self.engine.fingerprint(),
            "reference": self.twin.engine.describe() if self.twin else "definitions",
            "no_gpu": why_no_gpu() or None,
            "gpus": [gpu._asdict() for gpu in gpus()],
            "versions": {**versions(), **cuda_versions()},
            "parameters": {"device": self.device, "seed": self.seed, "quick": self.quick},
            "checks": [_entry(finding) for finding in findings],
            "rates": [rate._asdict() for rate in rates],
        }


def has_passed(findings: Sequence[Finding], rates: Sequence[Rate]) -> bool:
    """Tell whether every promise was kept and no workload failed; one left out did not fail."""
    kept = all(finding.passed for finding in findings)
    return kept and not any(rate.error for rate in rates)


def _entry(finding: Finding) -> dict[str, Any]:
    """Return a finding for the report, where JSON has no infinity."""
    difference = finding.difference
    return {
        "name": finding.name,
        "promised": str(finding.promise),
        "tolerance": finding.promise.tolerance,
        "relative": finding.promise.relative,
        "found": difference if difference is not None and math.isfinite(difference) else None,
        "passed": finding.passed,
        "error": finding.error,
    }
