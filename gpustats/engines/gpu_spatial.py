"""Clusters and TFCE of many maps on a GPU: what the seam asks for, in parts that fit (CUDA)."""

from __future__ import annotations

import logging
from functools import cache

import cupy
import numpy as np
from numpy.typing import NDArray

from gpustats.engines import Array, ScoreCounts, gpu_clusters, gpu_tfce
from gpustats.engines.gpu_batches import in_parts
from gpustats.engines.gpu_clusters import label
from gpustats.spaces import Lattice

__all__ = [
    "cluster_counts",
    "cluster_peaks",
    "cluster_scores",
    "label",
    "tfce_counts",
    "tfce_peaks",
    "tfce_scores",
]

logger = logging.getLogger("gpustats")

MASS_UNIT = 2.0**-24
"""What 1 stands for in a mass in fixed point."""
EXACT_HEIGHTS = (0.0, 1.0, 2.0, 3.0)
"""Exponents of TFCE that are products of heights: those round alike on every device."""


def cluster_peaks(
    maps: Array, threshold: np.float32, lattice: Lattice, *, above: bool
) -> tuple[Array, Array]:
    """Return the largest extent and mass (in 2**-24) of the clusters of each map."""
    return gpu_clusters.cluster_peaks(maps, threshold, lattice, above=above)


def cluster_counts(
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

    def count(part: slice) -> None:
        extents, masses = gpu_clusters.cluster_scores(maps[part], threshold, lattice, above=above)
        scores = masses * MASS_UNIT if of_mass else extents
        reached = (scores >= reaching.limits).sum(axis=0)
        reaching.counts[...] += reached

    in_parts(len(maps), gpu_clusters.scratch_bytes_per_map(lattice), count)


def cluster_scores(
    values: NDArray[np.float32], threshold: np.float32, lattice: Lattice, *, above: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the extent and mass (in 2**-24) of each voxel's cluster in a map."""
    maps = cupy.asarray(values)[np.newaxis]
    extents, masses = gpu_clusters.cluster_scores(maps, threshold, lattice, above=above)
    return extents.get()[0], masses.get()[0]


def tfce_peaks(maps: Array, lattice: Lattice, extent: float, height: float, step: float) -> Array:
    """Return the largest TFCE score of the positive side of each map, ``(b, n_voxels)``."""
    _say_if_powers_differ(height)
    form = lattice, extent, height, step
    need = gpu_tfce.scratch_bytes_per_map(lattice, full=False)
    parts = in_parts(len(maps), need, lambda part: gpu_tfce.tfce_peaks(maps[part], *form))
    return cupy.concatenate(parts)


def tfce_counts(
    maps: Array,
    lattice: Lattice,
    extent: float,
    height: float,
    step: float,
    reaching: ScoreCounts,
) -> Array:
    """Do what `tfce_peaks` does, and count the maps whose score of a voxel reaches a limit."""
    _say_if_powers_differ(height)
    form = lattice, extent, height, step, *reaching
    need = gpu_tfce.scratch_bytes_per_map(lattice, full=True)
    parts = in_parts(len(maps), need, lambda part: gpu_tfce.tfce_counts(maps[part], *form))
    return cupy.concatenate(parts)


def tfce_scores(
    values: NDArray[np.float32], lattice: Lattice, extent: float, height: float, step: float
) -> NDArray[np.float64]:
    """Return the TFCE scores of the positive side of a map, ``(n_voxels,)``."""
    maps = cupy.asarray(values)[np.newaxis]
    scores: NDArray[np.float64] = gpu_tfce.tfce_scores(maps, lattice, extent, height, step).get()
    return scores[0]


@cache
def _say_if_powers_differ(height: float) -> None:
    """Say once that a GPU's powers of heights are not those of the CPU to the last bit."""
    if height not in EXACT_HEIGHTS:
        logger.info("TFCE with H = %g on a GPU: scores equal the CPU's to 1e-6 only", height)
