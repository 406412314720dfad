"""Exact threshold-free cluster enhancement for the CPU.

The score of a voxel of height t integrates, over the heights h below t, the extent e(h) of the
voxel's cluster at h to the power E times h to the power H [1]_. Between two heights at which its
cluster changes the extent is constant, so the integral is a sum: a cluster of S voxels from
height a down to height b contributes

    S**E * (g(a) - g(b)),    g(h) = h**(H + 1),

and the sum is divided by H + 1 at the end. The usual sum over levels ``step, 2 step, ...`` is the
same with another g, the sum of the levels' heights to the power H up to h; see `Height`.

Scores are integers, so that no sum depends on an order and every device that obeys one rule
finds the same bits. With ``G(h) = g(h) * 2**exponent``, an exact scaling, an increment is

    rint(S**E * (G(a) - G(b)))

where S**E comes from a table, every operation is rounded once to float64 and none is fused. The
exponent is `score_exponent` of this one map, so a score never depends on what else is computed.
Voxels of equal height add increments of zero: their order does not matter.

All functions score the positive side of a map; negate `values` for the other side. They assume
what `cpu_basins` does, and that ``g`` of the highest value times ``n_voxels**E`` is finite.

References
----------
.. [1] Smith & Nichols (2009), NeuroImage 44, 83-98.
"""

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpustats.engines.cpu_basins import find_basins, rank_voxels
from gpustats.engines.cpu_grid import MOST_BASINS, Geometry, Index, Scratch
from gpustats.engines.cpu_sweeps import settle_scores, sweep_basins, sweep_voxels
from gpustats.jit import kernel

SCORE_BITS: Final = 61
"""Scores stay below 2**61, so that the difference of two, rounding included, fits 64 bits."""

MOST_EXPONENT: Final = 1022
"""Keeps 2**exponent finite and its inverse normal."""


LEVEL_SLACK: Final = 1.0 + 2.0**-40
"""Lets a height that is a multiple of the step, rounding aside, reach its level: more than the
errors of float64, far less than the distance of two float32."""


class Height(NamedTuple):
    """How height counts: the exponent H, and the levels of a stepped sum or the exact integral."""

    exponent: float
    """H, at least 0."""
    step: float = 0.0
    """Distance of the levels ``step, 2 step, ...``, in the units of the map; 0 integrates exactly.
    A voxel is in the first ``floor(value * (1 + 2**-40) / step)`` levels, in float64: in all that
    are at most its value, so that the maximum is in the last of the levels of maximum / 100."""
    multiply_by_step: bool = False
    """Let a level weigh ``step``, so that a stepped sum approximates the integral."""

    @property
    def divisor(self) -> float:
        """What a sum of increments is divided by."""
        return 1.0 if self.step else self.exponent + 1.0


def extent_weights(n_voxels: int, exponent: float) -> NDArray[np.float64]:
    """Tabulate S**E for clusters of S = 0 to `n_voxels` voxels; 0 for S = 0.

    Parameters
    ----------
    n_voxels
        Voxels of the mask.
    exponent
        E, at least 0.

    Returns
    -------
    ndarray
        ``(n_voxels + 1,)``.
    """
    weights: NDArray[np.float64] = np.arange(n_voxels + 1, dtype=np.float64) ** exponent
    weights[0] = 0.0
    return weights


def tfce_peak(
    values: NDArray[np.float32],
    geometry: Geometry,
    scratch: Scratch,
    weights: NDArray[np.float64],
    height: Height,
) -> float:
    """Find the largest TFCE score of the positive side of a map, for a null distribution.

    Parameters
    ----------
    values
        Map, ``(n_voxels,)``.
    geometry
        From `prepare`.
    scratch
        From `scratch_for`; one per thread.
    weights
        From `extent_weights`, for the voxels of the mask.
    height
        Exponent and form of the integral.

    Returns
    -------
    float
        The maximum of `tfce_map`, to the bit; 0 if nothing is positive.

    Examples
    --------
    >>> from gpustats.engines.cpu_grid import prepare, scratch_for
    >>> geometry = prepare(np.ones((4, 4, 4), bool), connectivity=26)
    >>> values = np.full(64, 3.0, np.float32)
    >>> weights = extent_weights(64, exponent=0.5)
    >>> tfce_peak(values, geometry, scratch_for(geometry), weights, Height(2.0))
    72.0
    """
    peak, exponent, _, _ = _sweep(values, geometry, scratch, weights, height)
    return float(peak) * math.ldexp(1.0, -exponent) / height.divisor


def tfce_map(
    values: NDArray[np.float32],
    geometry: Geometry,
    scratch: Scratch,
    weights: NDArray[np.float64],
    height: Height,
    out: NDArray[np.float64],
) -> None:
    """Enhance the positive side of a map by TFCE.

    Parameters
    ----------
    values, geometry, scratch, weights, height
        As for `tfce_peak`.
    out
        Scores, ``(n_voxels,)``; 0 where the map is not positive.

    Examples
    --------
    >>> from gpustats.engines.cpu_grid import prepare, scratch_for
    >>> geometry = prepare(np.ones((1, 1, 4), bool), connectivity=6)
    >>> values = np.array([3.0, 0.0, 3.0, 3.0], np.float32)
    >>> weights, out = extent_weights(4, exponent=1.0), np.empty(4)
    >>> tfce_map(values, geometry, scratch_for(geometry), weights, Height(2.0), out)
    >>> out
    array([ 9.,  0., 18., 18.])
    """
    exponent = _scores(values, geometry, scratch, weights, height)
    _rescale(scratch.scores, math.ldexp(1.0, -exponent), height.divisor, out)


def integer_scores(
    values: NDArray[np.float32],
    geometry: Geometry,
    scratch: Scratch,
    weights: NDArray[np.float64],
    height: Height,
) -> tuple[NDArray[np.int64], int]:
    """Enhance the positive side of a map in fixed point, the form that devices agree on.

    Parameters
    ----------
    values, geometry, scratch, weights, height
        As for `tfce_peak`.

    Returns
    -------
    scores
        ``(n_voxels,)``, in `scratch`: the next map overwrites it.
    exponent
        The score is ``scores / 2**exponent / height.divisor``.
    """
    exponent = _scores(values, geometry, scratch, weights, height)
    return scratch.scores, exponent


def integer_scores_by_voxel(
    values: NDArray[np.float32],
    geometry: Geometry,
    scratch: Scratch,
    weights: NDArray[np.float64],
    height: Height,
) -> tuple[NDArray[np.int64], int]:
    """Do what `integer_scores` does by a union-find over voxels: slower, for any number of maxima.

    Parameters, results and bits are those of `integer_scores`.
    """
    exponent = _scores_by_voxel(values, geometry, scratch, weights, height)
    return scratch.scores, exponent


@kernel
def _sweep(
    values: NDArray[np.float32],
    geometry: Geometry,
    scratch: Scratch,
    weights: NDArray[np.float64],
    height: Height,
) -> tuple[np.int64, int, Index, Index]:
    """Sweep a map: its largest score, the exponent, how many voxels are positive, the basins."""
    n_positive, exponent = integrate_heights(values, geometry.cells, scratch, weights, height)
    n_basins = find_basins(n_positive, geometry, scratch)
    if n_basins > MOST_BASINS:
        peak = sweep_voxels(n_positive, geometry, scratch, weights)
    else:
        peak = sweep_basins(n_positive, n_basins, geometry.cliques, scratch, weights)
    return peak, exponent, n_positive, n_basins


@kernel
def _scores(
    values: NDArray[np.float32],
    geometry: Geometry,
    scratch: Scratch,
    weights: NDArray[np.float64],
    height: Height,
) -> int:
    """Leave the scores of a map in the scratch, in fixed point, and return the exponent."""
    _, exponent, n_positive, n_basins = _sweep(values, geometry, scratch, weights, height)
    if n_basins <= MOST_BASINS:
        settle_scores(n_positive, geometry.voxels, scratch)
    return exponent


@kernel
def _scores_by_voxel(
    values: NDArray[np.float32],
    geometry: Geometry,
    scratch: Scratch,
    weights: NDArray[np.float64],
    height: Height,
) -> int:
    """Do what `_scores` does, by voxels."""
    n_positive, exponent = integrate_heights(values, geometry.cells, scratch, weights, height)
    sweep_voxels(n_positive, geometry, scratch, weights)
    return exponent


@kernel
def _rescale(
    scores: NDArray[np.int64], unit: float, divisor: float, out: NDArray[np.float64]
) -> None:
    """Turn scores in fixed point into numbers."""
    for voxel in range(scores.size):
        out[voxel] = np.float64(scores[voxel]) * unit / divisor


@kernel
def integrate_heights(
    values: NDArray[np.float32],
    cells: NDArray[np.uint32],
    scratch: Scratch,
    weights: NDArray[np.float64],
    height: Height,
) -> tuple[Index, int]:
    """Rank the positive voxels and integrate their heights in units of 2**-exponent."""
    n_positive = rank_voxels(values, cells, scratch)
    heights, integrals = scratch.heights[:n_positive], scratch.integrals[:n_positive]
    if height.step > 0.0:
        _sum_levels(heights, height, integrals)
    else:
        for i in range(heights.size):
            integrals[i] = _power(np.float64(heights[i]), height.exponent + 1.0)
    exponent = score_exponent(integrals[0] * weights[-1]) if n_positive else 0
    scale = math.ldexp(1.0, exponent)
    for i in range(integrals.size):
        integrals[i] *= scale
    return n_positive, exponent


@kernel
def score_exponent(bound: float) -> int:
    """Choose the fixed point of a map whose scores, undivided, do not exceed `bound`."""
    return min(SCORE_BITS - math.frexp(bound)[1], MOST_EXPONENT)


@kernel
def _power(height: float, exponent: float) -> float:
    """Raise a height to a power; products where they will do, as they round alike everywhere."""
    if exponent == 2.0:
        return height * height
    if exponent == 3.0:
        return height * height * height
    if exponent == 4.0:
        return height * height * height * height
    return float(height**exponent)


@kernel
def _sum_levels(
    heights: NDArray[np.float32], height: Height, integrals: NDArray[np.float64]
) -> None:
    """Sum the powers of the levels up to each of these descending heights."""
    if heights.size == 0:
        return
    sums = level_sums(_level(np.float64(heights[0]), height.step), height)
    for i in range(heights.size):
        integrals[i] = sums[_level(np.float64(heights[i]), height.step)]


@kernel
def level_sums(n_levels: int, height: Height) -> NDArray[np.float64]:
    """Sum the powers of the first 0, 1, ... and of all of so many levels, one after the other."""
    sums = np.zeros(n_levels + 1)
    for level in range(1, sums.size):
        sums[level] = sums[level - 1] + _power(level * height.step, height.exponent)
    if height.multiply_by_step:
        sums *= height.step
    return sums


@kernel
def _level(height: float, step: float) -> int:
    """Count the levels ``step, 2 step, ...`` that are at most a height; see `Height.step`."""
    return int(height * LEVEL_SLACK / step)
