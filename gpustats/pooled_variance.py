"""A word of warning where groups of unequal size share one variance that they do not have."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from gpustats.contrasts import Contrast
from gpustats.design import Design
from gpustats.effect_sizes import slopes_of
from gpustats.maps import Maps
from gpustats.stored import StoredMaps

logger = logging.getLogger("gpustats")

TELLING = 1.25
"""How far the variance of an effect must be off: p of 0.05 then stands for 0.08, or for 0.03."""

N_STRETCHES, STRETCH = 8, 256
"""At how many voxels variances are compared: stretches of neighbours, as stores are read."""


def warn_of_unequal_variances(maps: Maps | StoredMaps, design: Design, contrast: Contrast) -> None:
    """Warn where a contrast compares groups whose sizes and variances differ.

    Parameters
    ----------
    maps
        The maps that are analysed.
    design
        Their design, of full residual degrees of freedom.
    contrast
        The hypothesis; groups are the subjects that agree in the columns with weights, where none
        of these is a slope.

    Notes
    -----
    An effect w'y varies by the sum over groups of σ²(group) ‖w(group)‖². One variance for all
    makes it s²‖w‖², with s² the mean of the groups' variances by their degrees of freedom: too
    little where small groups vary more, too much where they vary less [1]_. The ratio of the two
    is estimated from the residuals. What counts is its mean over voxels, which is 1 for groups of
    equal variance, however small they are; the median is not.

    References
    ----------
    .. [1] Scheffé (1959), The Analysis of Variance, section 10.4.
    """
    group_of = _groups(design, contrast)
    sizes = np.bincount(group_of)
    if sizes.size < 2 or sizes.min() < 2:
        return
    ratio = _variance_ratio(_sample(maps), design, contrast, group_of)
    if ratio is None or 1 / TELLING < ratio < TELLING:
        return
    logger.warning(
        "%r: groups (of %d to %d maps) differ in variance, and one variance is assumed for all: "
        "the variance of the effect is %.2f times what that says, on average, and p will be too "
        "%s; take groups of like size, or flip signs (gpustats permute --errors ise), which needs "
        "no equal variances",
        contrast.name,
        sizes.min(),
        sizes.max(),
        ratio,
        "small" if ratio > 1 else "large",
    )


def _groups(design: Design, contrast: Contrast) -> NDArray[np.intp]:
    """Return the number of each subject's group; all are in one if there are slopes."""
    columns = design.matrix[:, (contrast.weights != 0).any(axis=0)]
    if slopes_of(contrast, design.matrix):
        return np.zeros(len(columns), dtype=np.intp)
    return np.unique(columns, axis=0, return_inverse=True)[1].ravel()


def _sample(maps: Maps | StoredMaps) -> NDArray[np.float64]:
    """Return the values of some voxels, ``(n, n_subjects)``, that lack no subject."""
    length = min(STRETCH, maps.n_voxels)
    starts = np.unique(np.linspace(0, maps.n_voxels - length, N_STRETCHES).astype(np.intp))
    stretches = [range(first, first + length) for first in starts.tolist()]
    if isinstance(maps, StoredMaps):
        blocks = [maps.read(span) for span in stretches]
    else:
        blocks = [maps.values[span.start : span.stop] for span in stretches]
    values = np.concatenate(blocks).astype(np.float64)
    return np.asarray(values[np.isfinite(values).all(axis=1)])


def _variance_ratio(
    values: NDArray[np.float64], design: Design, contrast: Contrast, group_of: NDArray[np.intp]
) -> float | None:
    """Return how many times the variance of the effect is that of equal variances, or None."""
    basis = design.basis
    rows = np.linalg.svd(design.estimator(contrast), full_matrices=False)[2] @ basis.T
    groups = np.arange(group_of.max() + 1) == group_of[:, np.newaxis]
    freedom = (1 - (basis**2).sum(axis=1)) @ groups
    weights = (rows**2).sum(axis=0) @ groups
    if freedom.min() < 1:
        return None
    squares = (values - values @ basis @ basis.T) ** 2 @ groups
    pooled = squares.sum(axis=1) / freedom.sum()
    known = pooled > 0
    if not known.any():
        return None
    actual = squares[known] / freedom @ (weights / weights.sum())
    return float(np.mean(actual / pooled[known]))
