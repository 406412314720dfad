"""What an engine promises, and whether it keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import Engine
from gpustats.selftest.sample import Sample

Arrays: TypeAlias = tuple[NDArray[Any], ...]


class Machine(NamedTuple):
    """A device by its name, and its engine."""

    device: str
    engine: Engine


@dataclass(frozen=True)
class Promise:
    """Say how far a result may be from its reference.

    Parameters
    ----------
    tolerance
        The largest difference; 0 promises equal numbers.
    relative
        Whether differences from a number whose size exceeds 1 are divided by that size.
    """

    tolerance: float
    relative: bool = True

    def __str__(self) -> str:
        """Say it in a word or two."""
        if self.tolerance == 0:
            return "equal"
        return f"{self.tolerance:.0e}{' relative' if self.relative else ''}"

    def difference(self, found: Arrays, expected: Arrays) -> float:
        """Return the largest difference of any number; infinite where one is not finite.

        Raises
        ------
        ValueError
            If there are other arrays than expected, or arrays of other shapes.
        """
        shapes = [[array.shape for array in arrays] for arrays in (found, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"arrays of shapes {shapes[0]} instead of {shapes[1]}")
        pairs = zip(found, expected, strict=True)
        return max(self._largest(np.asarray(a), np.asarray(b)) for a, b in pairs)

    def _largest(self, found: NDArray[Any], expected: NDArray[Any]) -> float:
        """Return the largest difference of two arrays."""
        different = found != expected
        if found.dtype == bool:
            return float(different.any())
        # integers are subtracted as integers: float64 cannot hold all of them
        off = np.abs(found[different] - expected[different]).astype(np.float64)
        if self.relative:
            off /= np.maximum(np.abs(expected[different]).astype(np.float64), 1)
        return float(np.where(np.isfinite(off), off, np.inf).max(initial=0))


EQUAL = Promise(0)


@dataclass(frozen=True)
class Check:
    """One promise of an engine.

    Parameters
    ----------
    name
        Which function, and in which case.
    compute
        Computes on a machine what is compared, given a sample.
    plain
        Computes the same by definition.
    as_twin
        What is promised of a GPU, whose reference is the CPU engine.
    as_defined
        What is promised of the CPU engine, whose reference is the definition.
    case
        What both are given besides.
    """

    name: str
    compute: Callable[..., Arrays]
    plain: Callable[..., Arrays]
    as_twin: Promise
    as_defined: Promise
    case: tuple[Any, ...] = ()


class Finding(NamedTuple):
    """What came of a check.

    Parameters
    ----------
    name
        That of the check.
    promise
        What was promised.
    difference
        The largest difference; None if there was nothing to compare.
    error
        What was raised, if anything was.
    """

    name: str
    promise: Promise
    difference: float | None
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the promise was kept."""
        return self.difference is not None and self.difference <= self.promise.tolerance


def carry_out(check: Check, machine: Machine, twin: Machine | None, sample: Sample) -> Finding:
    """Compare what a machine computes with its twin, or with the definition where it has none.

    Parameters
    ----------
    check
        What to compare.
    machine
        The machine in question.
    twin
        The machine that it must agree with, if not with the definition.
    sample
        The data.

    Returns
    -------
    Finding
        A failed one where anything is raised.
    """
    promise = check.as_twin if twin else check.as_defined
    try:
        found = check.compute(machine, sample, *check.case)
        expected = (
            check.compute(twin, sample, *check.case) if twin else check.plain(sample, *check.case)
        )
        return Finding(check.name, promise, promise.difference(found, expected))
    except Exception as error:
        return Finding(check.name, promise, None, one_line(error))


def one_line(error: Exception) -> str:
    """Name an error and tell its message in one line, shortened: compilers write pages."""
    return shorten(f"{type(error).__name__}: {error}", 500)
