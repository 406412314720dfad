"""The seam: the few functions that a device must have, and how a device is chosen.

An engine is a module: `gpustats.engines.cpu` (NumPy and Numba) or `gpustats.engines.gpu` (CuPy and
the kernels of ``kernels/``). Above this package no code knows which one it works with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpustats.engines.found import Exceedances as Exceedances
from gpustats.engines.found import Peaks as Peaks
from gpustats.engines.gpu_devices import why_no_gpu
from gpustats.engines.scores import ScoreCounts as ScoreCounts
from gpustats.engines.smoothing import Smoothing as Smoothing
from gpustats.shuffles import Shuffles
from gpustats.spaces import Lattice

logger = logging.getLogger("gpustats")

Array: TypeAlias = Any
"""An array of an engine: of NumPy on the CPU, of CuPy on a GPU."""

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

    coordinates: Array
    residual_ss: Array


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
    is_f
        Whether values are sums of squares, for F; else they have the sign of the tested row.
    """

    n_tested: int
    n_nuisance: int
    df: float
    is_f: bool


class Units(NamedTuple):
    """Hold the residuals of unit length in tiles.

    Parameters
    ----------
    tiles
        ``(n_tiles, n, width)`` float32, of a width that the engine chooses; columns beyond the last
        voxel are zero.
    n_voxels
        Number of voxels.
    """

    tiles: Array
    n_voxels: int


class Group(NamedTuple):
    """Hold voxels whose shuffles have rows of their own, and what `sweep_groups` does with them.

    Parameters
    ----------
    units
        The data.
    form
        What the rows are.
    rows
        Makes the rows of a tile, ``(192, k, n)`` float32 on the host; called from any thread, and
        as often as the engine likes.
    exceeding
        Where to count.
    maps
        Where to write t or F, if at all.
    """

    units: Units
    form: Form
    rows: Callable[[], NDArray[np.float32]]
    exceeding: Exceedances
    maps: Array | None


class Engine(Protocol):
    """List what every engine module provides.

    Arguments are contiguous, finite and not empty unless a function says otherwise: the callers
    in `maps`, `design` and `glm` establish that once, engines check nothing.

    What belongs to the maps that are observed is held in NumPy arrays, on whichever device it is
    computed. What belongs to a fit or to shuffles is an `Array` of the engine, which callers hand
    from one function to the next, cut along its first axis, and fetch by `to_host`, so that
    nothing but maxima and counts need leave the device.
    """

    def describe(self) -> str:
        """Return one line that names libraries, versions and the device."""
        ...

    def fingerprint(self) -> str:
        """Name what the last bits of a result depend on."""
        ...

    def free_bytes(self) -> int:
        """Return how much memory can still be used."""
        ...

    def voxel_tile(self) -> int:
        """Return how many voxels share a product: blocks of whole tiles change no bit."""
        ...

    def elapsed(self, work: Callable[[], object]) -> float:
        """Run work, and return the seconds until the device has finished it."""
        ...

    def to_host(self, array: Array) -> NDArray[Any]:
        """Return an array of the engine as a NumPy array."""
        ...

    def to_device(self, array: NDArray[Any]) -> Array:
        """Return a NumPy array as an array of the engine."""
        ...

    def regress(self, values: NDArray[np.float32], basis: NDArray[np.float64]) -> Regression:
        """Fit every voxel of ``(n_voxels, n_subjects)`` values, in float64 and two passes."""
        ...

    def contrast(
        self, regression: Regression, estimator: NDArray[np.float64], df: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return effect, variance and t of the linear form ``estimator`` (rank,) of coordinates."""
        ...

    def t_to_z(self, t: NDArray[np.float64], df: float) -> NDArray[np.float64]:
        """Turn t values, any shape, into z values of the same upper tail."""
        ...

    def f_to_z(self, f: NDArray[np.float64], dimension: int, df: float) -> NDArray[np.float64]:
        """Turn F values, any shape, into z values of the same upper tail."""
        ...

    def label(self, above: NDArray[np.bool_], lattice: Lattice) -> NDArray[np.int32]:
        """Label connected voxels of ``(n_maps, n_voxels)`` by 1 + their smallest voxel number."""
        ...

    def unit_tiles(
        self,
        values: NDArray[np.float32],
        removed: NDArray[np.float64],
        *,
        narrow: bool = False,
    ) -> Units:
        """Take a space out of every voxel, scale to unit length, and lay out in tiles.

        Tiles have one width; narrow ones are no wider than few voxels need.
        """
        ...

    def shuffled_rows(self, plan: Shuffles, columns: NDArray[np.float64], indices: range) -> Array:
        """Shuffle ``(k, n)`` columns into a tile ``(192, k, n)``: shuffle i is at i mod 192."""
        ...

    def values_of(self, rows: Array, units: Units, form: Form) -> NDArray[np.float32]:
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
        rows: Array,
        units: Units,
        form: Form,
        *,
        shuffles: range,
        exceeding: Exceedances | None,
        maps: Array | None,
    ) -> Peaks:
        """Compute a tile of shuffles at every voxel: maxima, counts, and t or F maps on request."""
        ...

    def sweep_groups(self, groups: Sequence[Group], *, shuffles: range) -> tuple[Peaks, ...]:
        """Do what `sweep` does for groups of voxels whose rows differ."""
        ...

    def empty_maps(self, most: int, n_voxels: int) -> Array:
        """Return room for as many float32 maps as pay off at a time, ``most`` at most."""
        ...

    def put(self, block: Array, maps: Array, start: int) -> None:
        """Write ``(b, width)`` values of voxels ``start``, ... into ``(b, n_voxels)`` maps."""
        ...

    def pseudo_t(
        self,
        maps: Sequence[Array],
        odds: Sequence[Array] | None,
        smoothing: Smoothing,
        exceeding: Exceedances | None,
    ) -> Peaks:
        """Turn maps of t, each ``(n_voxels,)``, into pseudo-t in place: maxima, and counts.

        Odds are R² / (1 - R²) of all rows of a shuffle, given where that is not t² / df.
        """
        ...

    def negate(self, maps: Array) -> None:
        """Turn maps over, in place."""
        ...

    def t_maps_to_z(self, maps: Array, df: float) -> None:
        """Turn maps of t into z, in place: what `t_to_z` gives, as float32."""
        ...

    def f_maps_to_z(self, maps: Array, dimension: int, df: float) -> None:
        """Turn maps of F into z, in place: what `f_to_z` gives, as float32."""
        ...

    def cluster_peaks(
        self, maps: Array, threshold: np.float32, lattice: Lattice, *, above: bool
    ) -> tuple[Array, Array]:
        """Return the largest extent and mass (in 2**-24) of the clusters of each map."""
        ...

    def cluster_counts(
        self,
        maps: Array,
        threshold: np.float32,
        lattice: Lattice,
        reaching: ScoreCounts,
        *,
        above: bool,
        of_mass: bool,
    ) -> None:
        """Count the maps in which the extent, or the mass, of a voxel's cluster reaches a limit.

        Limits of masses are in the unit of the maps.
        """
        ...

    def cluster_scores(
        self, values: NDArray[np.float32], threshold: np.float32, lattice: Lattice, *, above: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the extent and mass (in 2**-24) of each voxel's cluster in a map."""
        ...

    def tfce_peaks(
        self, maps: Array, lattice: Lattice, extent: float, height: float, step: float
    ) -> Array:
        """Return the largest TFCE score of the positive side of each map, ``(b, n_voxels)``."""
        ...

    def tfce_counts(
        self,
        maps: Array,
        lattice: Lattice,
        extent: float,
        height: float,
        step: float,
        reaching: ScoreCounts,
    ) -> Array:
        """Do what `tfce_peaks` does, and count the maps whose score of a voxel reaches a limit."""
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

    def rank_peaks(
        self, maps: Array, heights: NDArray[np.float64], reaching: ScoreCounts | None
    ) -> tuple[Array, Array]:
        """Return the largest height + log10 of a rank of each map, and the height there.

        A voxel has the height of its step (`scores.step_of`), and as rank how many are no lower.
        """
        ...


def resolve(device: str = "auto") -> Engine:
    """Choose the engine for a device.

    Parameters
    ----------
    device
        ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"`` (the first GPU) or
        ``"cuda:<index>"``.

    Raises
    ------
    DeviceError
        If a GPU is asked for that is not there; it says why, and what to do.
    ValueError
        If ``device`` is no device's name.
    """
    name, colon, index = device.partition(":")
    wants_gpu = name == "cuda" and (index.isdecimal() if colon else True)
    if not wants_gpu and device not in ("auto", "cpu"):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:<index>', got {device!r}")
    if wants_gpu:
        missing = why_no_gpu(int(index or 0))
        if missing:
            raise DeviceError(f"device {device!r}: {missing}; or use device='cpu'")
        return _gpu(int(index or 0))
    if device == "cpu":
        return _cpu()
    engine = _cpu() if why_no_gpu() else _gpu(0)
    _announce(engine.describe())
    return engine


def _cpu() -> Engine:
    """Return the engine of the CPU."""
    # Numba is imported by the first computation, not by `import gpustats`
    from gpustats.engines import cpu

    return cpu


@cache
def _gpu(index: int) -> Engine:
    """Return the engine of a GPU that is there."""
    from gpustats.engines import gpu

    return gpu.on_device(index)


@cache
def _announce(description: str) -> None:
    """Say once what ``"auto"`` took."""
    logger.info("device 'auto' took %s", description)
