"""TFCE by definition: clusters are labelled afresh at every height, in a few plain lines."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import generate_binary_structure, label

STRUCTURES = {
    connectivity: generate_binary_structure(3, rank)
    for rank, connectivity in enumerate((6, 18, 26), start=1)
}


def cluster_extents(above: NDArray[np.bool_], connectivity: int) -> NDArray[np.int64]:
    """Extent of the cluster of every voxel above a threshold, 0 below it."""
    labels, _ = label(above, STRUCTURES[connectivity])
    extents = np.bincount(labels.ravel())
    extents[0] = 0
    return extents[labels]


def integrate_exactly(
    volume: NDArray[np.float32], connectivity: int, extent: float, height: float
) -> NDArray[np.float64]:
    """Integral of extent**E * h**H over h, piece by piece between the distinct heights."""
    scores = np.zeros(volume.shape)
    below = 0.0
    for level in np.unique(volume[volume > 0]).astype(np.float64):
        above = volume >= level
        piece = (level ** (height + 1) - below ** (height + 1)) / (height + 1)
        scores[above] += cluster_extents(above, connectivity)[above] ** extent * piece
        below = level
    return scores


def sum_levels(
    volume: NDArray[np.float32],
    connectivity: int,
    extent: float,
    height: float,
    levels: Iterable[float],
) -> NDArray[np.float64]:
    """Sum of extent**E * h**H over these levels."""
    scores = np.zeros(volume.shape)
    for level in levels:
        above = volume >= level
        scores[above] += cluster_extents(above, connectivity)[above] ** extent * level**height
    return scores


def sum_integers(
    volume: NDArray[np.float32],
    connectivity: int,
    weights: NDArray[np.float64],
    integral: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    exponent: int,
) -> NDArray[np.int64]:
    """The rule of the fixed point: one rounded increment whenever a cluster's extent changes."""
    scores, extents = np.zeros(volume.shape, np.int64), np.zeros(volume.shape, np.int64)
    since = np.zeros(volume.shape)
    distinct = np.unique(volume[volume > 0])[::-1].astype(np.float64)
    for level, reached in zip([*distinct, 0.0], [*integral(distinct), 0.0], strict=True):
        now = cluster_extents(volume >= level, connectivity) if level else np.zeros_like(extents)
        changed = now != extents
        gained = weights[extents] * (since - reached) * 2.0**exponent
        scores[changed] += np.rint(gained[changed]).astype(np.int64)
        since[changed] = reached
        extents = now
    return scores
