"""How much of a cluster is active, at least: by all-resolutions inference, and by permutation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpustats import images
from gpustats.engines import resolve
from gpustats.outcomes import Outcome
from gpustats.significance import upper_tail_p
from gpustats.simes import NAME as PERMUTED
from gpustats.thresholding import tested_voxels

logger = logging.getLogger("gpustats")

SMALL_Z = 1.0
"""A whole map has voxels whose z is smaller."""
ROUNDING = 1e-12
"""What p and a line may differ by, relatively, and tie: ties are no discoveries."""


class Discoveries(NamedTuple):
    """Hold how many hypotheses of each set are false, at least.

    Parameters
    ----------
    names
        ``(n_sets,)``: the numbers of the sets, ascending.
    least
        ``(n_sets,)``: the lower confidence bound.
    sizes
        ``(n_sets,)``: how many hypotheses there are.
    """

    names: NDArray[np.int64]
    least: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @property
    def proportions(self) -> NDArray[np.float64]:
        """The true-discovery proportion of each set, at least, ``(n_sets,)``."""
        return self.least / self.sizes


def hommel_number(p: ArrayLike, alpha: float) -> int:
    """Return the largest number of hypotheses that Simes' test does not reject together.

    Parameters
    ----------
    p
        ``(n_tests,)``.
    alpha
        The error rate.

    Returns
    -------
    int
        h = max {i : i p₍m-i+j₎ > j alpha for j = 1 ... i} [1]_, with m tests, 0 if there is none.
        At most so many hypotheses are true, with confidence 1 - alpha.

    Notes
    -----
    What holds for i holds for i - 1, so that bisection over the sorted p finds h in O(m log m), by
    the very comparisons of the definition.

    References
    ----------
    .. [1] Hommel (1988), Biometrika 75, 383-386.

    Examples
    --------
    >>> hommel_number([0.01, 0.02, 0.6], alpha=0.05)
    1
    """
    ordered = np.sort(np.asarray(p, dtype=np.float64))
    low, high = 0, ordered.size
    while low < high:
        middle = (low + high + 1) // 2
        largest = ordered[ordered.size - middle :]
        if (middle * largest > alpha * np.arange(1, middle + 1)).all():
            low = middle
        else:
            high = middle - 1
    return low


def true_discoveries(p: ArrayLike, sets: ArrayLike, alpha: float = 0.05) -> Discoveries:
    """Bound the number of false hypotheses in sets of hypotheses, however they were chosen.

    Parameters
    ----------
    p
        ``(n_tests,)``, of all the hypotheses that were tested.
    sets
        ``(n_tests,)`` integers: the set that each is in, 0 for none.
    alpha
        The probability with which any bound, of these and of all other sets, may be too large.

    Returns
    -------
    Discoveries
        For each set S the bound max over u ≥ 1 of 1 - u + #{i in S : h p_i ≤ u alpha}, with h
        the `hommel_number` [1]_.

    Raises
    ------
    ValueError
        If p and sets differ in shape, p is NaN, or alpha is no rate.

    Notes
    -----
    This is closed testing with Simes' test, which holds for independent and for positively
    dependent tests, as those of smooth maps are [2]_. It takes O(n log n) for any number of sets.

    References
    ----------
    .. [1] Goeman, Meijer, Krebs & Solari (2019), Biometrika 106, 841-856.
    .. [2] Rosenblatt, Finos, Weeda, Solari & Goeman (2018), NeuroImage 181, 786-796.

    Examples
    --------
    >>> true_discoveries([0.001, 0.002, 0.6, 0.01], [1, 1, 1, 2]).least
    array([2, 1])
    """
    p, sets = np.asarray(p, dtype=np.float64), np.asarray(sets)
    if p.ndim != 1 or sets.shape != p.shape or np.isnan(p).any():
        raise ValueError(
            "p and sets must be given for each test, without NaN; got shapes "
            f"{p.shape} and {sets.shape}, {np.count_nonzero(np.isnan(p))} NaN"
        )
    check_rate(alpha)
    u = np.maximum(np.ceil(hommel_number(p, alpha) * p / alpha), 1)
    return _bounds(u.astype(np.int64), sets)


def permutation_true_discoveries(
    outcome: Outcome, sets: ArrayLike, alpha: float = 0.05
) -> Discoveries:
    """Bound the number of active voxels in sets of voxels, however they were chosen.

    The bounds adapt to the dependence of voxels: of smooth maps they are larger than those of
    `true_discoveries`, of independent voxels about as large. Those need positive dependence; these
    do not.

    Parameters
    ----------
    outcome
        What a `gpustats.permutation_test` found of `TrueDiscoveries`, of all shuffles.
    sets
        ``(n_voxels,)`` integers: the set that each voxel is in, 0 for none; the labels of clusters
        of any threshold, or of regions.
    alpha
        The probability with which any bound, of these and of all other sets, may be too large.

    Returns
    -------
    Discoveries
        For each set S the bound max over u ≥ 1 of 1 - u + #{i in S : p_i < u t} [1]_ [2]_, where
        t is 10 to the power of minus the threshold of the outcome. Where both tails count, voxels
        of either sign are bounded apart, and the bounds of a set added up.

    Raises
    ------
    ValueError
        If the outcome is of another statistic or lacks shuffles, there is not one number for each
        voxel, or alpha is no rate.

    Notes
    -----
    With probability 1 - alpha at least, for no u are there u inactive voxels of one side whose p
    is below u t: that is what the shuffles say of the largest excess, the observed map included.
    It needs inactive voxels to be jointly as they are under shuffles, and no law of p.

    References
    ----------
    .. [1] Blanchard, Neuvial & Roquain (2020), Ann. Stat. 48, 1281-1303.
    .. [2] Andreella, Hemerik, Finos, Weeda & Goeman (2023), Stat. Med. 42, 2311-2340.
    """
    sets = np.asarray(sets)
    if outcome.statistic != PERMUTED:
        raise ValueError(
            f"bounds need the outcome of TrueDiscoveries, {PERMUTED!r}; got {outcome.statistic!r}"
        )
    if sets.shape != outcome.observed.shape:
        raise ValueError(
            f"sets must have a number for each of {outcome.observed.size} voxels, got shape "
            f"{sets.shape}"
        )
    check_rate(alpha)
    u = np.full(sets.size, sets.size + 1)
    if (threshold := outcome.threshold(alpha)) is not None:
        counts = np.flatnonzero(outcome.limits)
        missing = np.minimum(threshold - outcome.limits[counts], np.log10(u[0]))
        u[counts] = np.maximum(np.ceil(10**missing * (1 + ROUNDING)), 1)
    names, which = np.unique(sets, return_inverse=True)
    of_sides = _bounds(u, np.where(sets == 0, 0, 1 + 2 * which + (outcome.observed < 0)))
    place = (of_sides.names - 1) // 2
    least, sizes = (
        np.bincount(place, each, names.size).astype(np.int64)[names != 0]
        for each in (of_sides.least, of_sides.sizes)
    )
    return Discoveries(names[names != 0], least, sizes)


def _bounds(u: NDArray[np.int64], sets: NDArray[Any]) -> Discoveries:
    """Bound discoveries, given of each test how many false ones its p allows for, plus 1."""
    inside = np.flatnonzero(sets)
    order = inside[np.lexsort((u[inside], sets[inside]))]
    names, starts, sizes = np.unique(sets[order], return_index=True, return_counts=True)
    if names.size == 0:
        return Discoveries(names, sizes, sizes)
    rank = np.arange(1, order.size + 1) - np.repeat(starts, sizes)
    least = np.maximum.reduceat(1 - u[order] + rank, starts)
    return Discoveries(names, np.maximum(least, 0), sizes)


def check_rate(alpha: float) -> None:
    """Refuse an error rate that is none."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be an error rate between 0 and 1, got {alpha!r}")


def cluster_level_inference(
    stat_img: Any,
    mask_img: Any = None,
    threshold: float | Sequence[float] = 3.0,
    alpha: float = 0.05,
    verbose: int = 0,
    *,
    connectivity: int = 6,
) -> Any:
    """Report the proportion of active voxels of all clusters, at least; as nilearn does.

    Parameters
    ----------
    stat_img
        The whole z map, not thresholded; path or image.
    mask_img
        The tested voxels: path, image or `Grid`. By default those that are finite and not 0.
    threshold
        Voxels strictly above it form clusters, in z; several may be given, as bounds hold for all
        clusters at once. A voxel tells of its cluster at the highest of them that it exceeds.
    alpha
        The probability that any bound is too large.
    verbose
        Taken and not used, for nilearn's sake.
    connectivity
        Which voxels touch: 6, 18 or 26 neighbours.

    Returns
    -------
    nibabel image
        On each voxel of a cluster the true-discovery proportion, 0 elsewhere.

    Raises
    ------
    ValueError
        If a threshold is negative, alpha is no rate, or no voxel is tested.

    Notes
    -----
    All-resolutions inference [1]_, of the upper tail, by `true_discoveries`. nilearn's proportion
    exceeds 1 where every p, or the p of a voxel, is below the smallest that it tells from 0.

    References
    ----------
    .. [1] Rosenblatt, Finos, Weeda, Solari & Goeman (2018), NeuroImage 181, 786-796.
    """
    del verbose
    thresholds = np.sort(np.atleast_1d(np.asarray(threshold, dtype=np.float64)))
    if thresholds.size == 0 or not (np.isfinite(thresholds) & (thresholds >= 0)).all():
        raise ValueError(f"threshold must be z values >= 0, got {threshold!r}")
    check_rate(alpha)
    volume, affine = images.read_map(stat_img)
    grid = tested_voxels(volume, affine, mask_img)
    z = volume[grid.mask]
    warn_of_thresholded(z)
    above = z > thresholds[:, np.newaxis]
    p, proportions = upper_tail_p(z), np.zeros(grid.n_voxels)
    for labels in resolve("cpu").label(above, grid.lattice(connectivity)):
        found = true_discoveries(p, labels, alpha)
        here = labels > 0
        proportions[here] = found.proportions[np.searchsorted(found.names, labels[here])]
    return images.unmask(proportions, grid, "proportion of true discoveries")


def warn_of_thresholded(z: NDArray[np.float64]) -> None:
    """Warn of a map without small values, whose voxels cannot be all that were tested."""
    if np.abs(z).min() > SMALL_Z:
        logger.warning(
            "no z of the map is between -%g and %g: bounds hold for a whole map only; give the map "
            "before it was thresholded",
            SMALL_Z,
            SMALL_Z,
        )
