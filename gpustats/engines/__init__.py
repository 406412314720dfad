"""The seam: the few functions that a device must have, and how a device is chosen.

An engine is a module. `gpustats.engines.cpu` (NumPy and Numba) is one; above this package no
code knows which one it works with.
"""

from __future__ import annotations

import logging
from functools import cache
from types import ModuleType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpustats.spaces import Lattice

logger = logging.getLogger("gpustats")


SHUFFLE_TILE = 192
"""Shuffles that are computed at a time: a multiple of the row blocks (12, 16) of BLAS kernels."""


class DeviceError(RuntimeError):
    """A device that was asked for by name is not there."""


class Regression(NamedTuple):
    """Sufficient statistics of a least squares fit at every voxel.

    Parameters
    ----------
    coordinates
        ``(rank, n_voxels)`` float64, Q'y for an orthonormal basis Q of the design.
    residual_ss
        ``(n_voxels,)`` float64, the sum of squared residuals.
    """

    coordinates: NDArray[np.float64]
    residual_ss: NDArray[np.float64]


class Form(NamedTuple):
    """Say what the rows of a shuffle are.

    Parameters
    ----------
    n_tested
        Number of tested directions: the first rows.
    n_nuisance
        Number of nuisance directions: the rows after them. 0 where they do not matter: the sign
        flips of a one-sample test, or schemes that shuffle the design.
    df
        Degrees of freedom of the residuals.
    """

    n_tested: int
    n_nuisance: int
    df: float


class Units(NamedTuple):
    """Hold the residuals of unit length in tiles.

    Parameters
    ----------
    tiles
        ``(n_tiles, n, 1024)`` float32; columns beyond the last voxel are zero.
    n_voxels
        Number of voxels.
    """

    tiles: NDArray[np.float32]
    n_voxels: int


class Exceedances(NamedTuple):
    """Count the shuffles that reach the observed value of a voxel.

    Parameters
    ----------
    limits
        ``(n_voxels,)`` float32, what a value must reach.
    two_sided
        Whether its size must, whatever its sign.
    counts
        ``(n_voxels,)`` int64, to which `sweep` adds.
    """

    limits: NDArray[np.float32]
    two_sided: bool
    counts: NDArray[np.int64]


class Peaks(NamedTuple):
    """Hold the largest values of shuffles over all voxels, as `Form` has them.

    Parameters
    ----------
    upper
        ``(n_shuffles,)`` float32, the largest value.
    lower
        ``(n_shuffles,)`` float32, the largest negated value; of no use for R² and F.
    """

    upper: NDArray[np.float32]
    lower: NDArray[np.float32]


class Engine(Protocol):
    """List what every engine module provides.

    Arguments are contiguous, finite and not empty unless a function says otherwise: the callers
    in `maps`, `design` and `glm` establish that once, engines check nothing.
    """

    @property
    def xp(self) -> ModuleType:
        """The array library of the device: plain array algebra needs no engine function."""
        ...

    def describe(self) -> str:
        """Return one line that names libraries, versions and the device."""
        ...

    def free_bytes(self) -> int:
        """Return how much memory can still be used."""
        ...

    def to_host(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return a NumPy array of a device array."""
        ...

    def regress(self, values: NDArray[np.float32], basis: NDArray[np.float64]) -> Regression:
        """Fit every voxel of ``(n_voxels, n_subjects)`` values, in float64 and two passes."""
        ...

    def t_to_z(self, t: NDArray[np.float64], df: float) -> NDArray[np.float64]:
        """Turn t values, any shape, into z values of the same upper tail."""
        ...

    def f_to_z(self, f: NDArray[np.float64], dimension: int, df: float) -> NDArray[np.float64]:
        """Turn F values, any shape, into z values of the same upper tail."""
        ...

    def unit_tiles(self, values: NDArray[np.float32], removed: NDArray[np.float64]) -> Units:
        """Take a space out of every voxel, scale to unit length, and lay out in tiles."""
        ...

    def values_of(self, rows: NDArray[np.float32], units: Units, form: Form) -> NDArray[np.float32]:
        """Return what is compared of shuffle 0 at every voxel, given its rows ``(k, n)``."""
        ...

    def exceedances(
        self, observed: NDArray[np.float32], form: Form, *, two_sided: bool
    ) -> Exceedances:
        """Prepare to count the shuffles that reach the observed values, rounding aside."""
        ...

    def statistic_of(self, values: NDArray[np.float32], form: Form) -> NDArray[np.float32]:
        """Turn what is compared into t or F."""
        ...

    def sweep(
        self,
        rows: NDArray[np.float32],
        units: Units,
        form: Form,
        *,
        shuffles: range,
        exceeding: Exceedances | None,
        maps: NDArray[np.float32] | None,
    ) -> Peaks:
        """Compute a tile of shuffles at every voxel: maxima, counts, and t or F maps on request."""
        ...

    def tfce_peaks(
        self,
        maps: NDArray[np.float32],
        lattice: Lattice,
        extent: float,
        height: float,
        step: float,
    ) -> NDArray[np.float64]:
        """Return the largest TFCE score of the positive side of each map, ``(b, n_voxels)``."""
        ...

    def tfce_scores(
        self,
        values: NDArray[np.float32],
        lattice: Lattice,
        extent: float,
        height: float,
        step: float,
    ) -> NDArray[np.float64]:
        """Return the TFCE scores of the positive side of a map, ``(n_voxels,)``."""
        ...

    def cluster_peaks(
        self, maps: NDArray[np.float32], threshold: np.float32, lattice: Lattice, *, above: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the largest extent and mass (in 2**-24) of the clusters of each map."""
        ...

    def cluster_scores(
        self, values: NDArray[np.float32], threshold: np.float32, lattice: Lattice, *, above: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the extent and mass (in 2**-24) of each voxel's cluster in a map."""
        ...

    def fingerprint(self) -> str:
        """Name what the last bits of a result depend on."""
        ...

    def label(self, above: NDArray[np.bool_], lattice: Lattice) -> NDArray[np.int32]:
        """Label connected voxels of ``(n_maps, n_voxels)`` by 1 + their smallest voxel number."""
        ...


def resolve(device: str = "auto") -> Engine:
    """Choose the engine for a device.

    Parameters
    ----------
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.

    Raises
    ------
    DeviceError
        If a GPU is asked for: this version has no CUDA engine.
    ValueError
        If ``device`` is no device's name.
    """
    name, _, index = device.partition(":")
    if name == "cuda" and (index == "" or index.isdecimal()) and device != "cuda:":
        raise DeviceError(
            f"device {device!r}: this version of gpustats has no CUDA engine yet; "
            "use device='cpu' or 'auto'"
        )
    if device not in ("auto", "cpu"):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:<index>', got {device!r}")
    # Numba is imported by the first computation, not by `import gpustats`
    from gpustats.engines import cpu

    engine: Engine = cpu
    if device == "auto":
        _announce(engine.describe())
    return engine


@cache
def _announce(description: str) -> None:
    """Say once what ``"auto"`` took."""
    logger.info("device 'auto' took the CPU: %s", description)
