"""Extent and mass of the clusters of one map (CPU).

A cluster is a connected set of voxels whose values reach a threshold; values below minus the
threshold are the caller's affair, who negates the map. Extents count voxels. Masses are integers,
in units of 2**-24: every voxel adds rint(x 2**24), with x its value or what of it lies above the
threshold, computed in float64, where the product is exact. So no sum depends on an order.

Few voxels reach a threshold, so the cost of a map is one look at it: blocks of 64 voxels are
tested at once, and only the voxels found are united with their earlier neighbours, in the mask's
bounding box, whose cells are cleared again one by one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpustats.jit import kernel
from gpustats.spaces import Lattice

Mass: TypeAlias = Literal["full", "above"]
"""What a voxel adds to its cluster's mass: its value, or its value less the threshold."""

MASS_SCALE = 2.0**24
"""Units of mass in 1: as many bits as float32 has."""
BLOCK = np.uint64(64)
"""Voxels that are tested at once."""
ONE = np.uint64(1)


class Scratch(NamedTuple):
    """Working memory of one thread, about 30 bytes per voxel of a brain mask; reused by every map.

    The voxels that reach the threshold are numbered from 1 in the order of the mask.
    """

    box: NDArray[np.uint32]
    """Number of the voxel in every cell, ``(n_cells,)``; zeros between two calls."""
    voxels: NDArray[np.uint32]
    """Place of number 1, 2, ... in the mask, ``(n_voxels,)``."""
    parents: NDArray[np.uint32]
    """A smaller number of the same cluster, or the same number: ``(1 + n_voxels,)``."""
    extents: NDArray[np.int64]
    """Sums of the numbers below one in the forest of parents, ``(1 + n_voxels,)``."""
    masses: NDArray[np.int64]
    """The same for the masses."""


class ClusterPeaks(NamedTuple):
    """Hold the extent and the mass of the largest clusters, which may be two; 0 without any."""

    extent: int
    """In voxels."""
    mass: int
    """In units of 2**-24."""


class ClusterMaps(NamedTuple):
    """Hold the extent and the mass of every voxel's cluster; 0 below the threshold."""

    extents: NDArray[np.int64]
    """In voxels, ``(n_voxels,)``."""
    masses: NDArray[np.int64]
    """In units of 2**-24, ``(n_voxels,)``."""


def scratch_for(lattice: Lattice) -> Scratch:
    """Allocate the working memory of one thread for `cluster_peaks` and `cluster_maps`."""
    n_voxels = lattice.n_voxels
    return Scratch(
        box=np.zeros(int(np.prod(lattice.box)), dtype=np.uint32),
        voxels=np.empty(n_voxels, dtype=np.uint32),
        parents=np.empty(1 + n_voxels, dtype=np.uint32),
        extents=np.empty(1 + n_voxels, dtype=np.int64),
        masses=np.empty(1 + n_voxels, dtype=np.int64),
    )


def cluster_peaks(
    values: NDArray[np.float32],
    threshold: float,
    lattice: Lattice,
    scratch: Scratch,
    mass: Mass = "full",
) -> ClusterPeaks:
    """Return the largest extent and the largest mass of any cluster of a map.

    Parameters
    ----------
    values
        ``(n_voxels,)`` float32, contiguous.
    threshold
        In the units of the values, positive; compared as float32. A voxel is in a cluster if its
        value is at least this.
    lattice
        Which voxels touch.
    scratch
        Of this lattice, in use by this thread only.
    mass
        What a voxel adds to the mass.
    """
    n_above = _find_clusters(values, *_levels(threshold, mass), *_adjacency(lattice), scratch)
    return ClusterPeaks(*_largest(n_above, scratch))


def cluster_maps(
    values: NDArray[np.float32],
    threshold: float,
    lattice: Lattice,
    scratch: Scratch,
    mass: Mass = "full",
) -> ClusterMaps:
    """Return the extent and the mass of the cluster of every voxel; see `cluster_peaks`."""
    n_above = _find_clusters(values, *_levels(threshold, mass), *_adjacency(lattice), scratch)
    maps = ClusterMaps(np.zeros(values.size, np.int64), np.zeros(values.size, np.int64))
    _spread(n_above, scratch, maps)
    return maps


def _levels(threshold: float, mass: Mass) -> tuple[np.float32, np.float64]:
    """Return the threshold, and the height from which masses count."""
    level = np.float32(threshold)
    return level, np.float64(level if mass == "above" else 0.0)


def _adjacency(lattice: Lattice) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return cells and steps as unsigned numbers: Numba tests signed indices for wrap-around."""
    return lattice.cells.view(np.uint64), lattice.backward_steps.view(np.uint64)


@kernel
def _find_clusters(values, threshold, base, cells, backward_steps, scratch):  # type: ignore[no-untyped-def]
    """Unite the voxels above threshold; their sums are then at the smallest number of a cluster.

    Returns how many voxels there are.
    """
    box, voxels, parents, extents, masses = scratch
    n_above = _compact(values, threshold, voxels)
    for number in range(ONE, n_above + ONE):
        voxel = voxels[number - ONE]
        cell = cells[voxel]
        root = np.uint32(number)
        box[cell] = root
        parents[root] = root
        extents[root] = 1
        masses[root] = np.int64(np.rint((np.float64(values[voxel]) - base) * MASS_SCALE))
        # written out: a call would count references to the arrays, at five times the cost
        for step in backward_steps:
            other = box[cell - step]
            if other == 0:
                continue
            while parents[other] != other:
                parents[other] = parents[parents[other]]
                other = parents[other]
            if other < root:
                parents[root] = other
                root = other
            elif other > root:
                parents[other] = root
    # parents come before their children
    for number in range(n_above, 0, -1):
        parent = parents[number]
        if parent != number:
            extents[parent] += extents[number]
            masses[parent] += masses[number]
    for number in range(n_above):
        box[cells[voxels[number]]] = 0
    return n_above


@kernel
def _compact(values, threshold, voxels):  # type: ignore[no-untyped-def]
    """List the voxels whose values reach the threshold; return how many they are."""
    n_voxels = np.uint64(values.size)
    whole_blocks = n_voxels - n_voxels % BLOCK
    n_above = np.uint64(0)
    for start in range(np.uint64(0), whole_blocks, BLOCK):
        hits = np.uint32(0)
        for voxel in range(start, start + BLOCK):
            hits |= np.uint32(values[voxel] >= threshold)
        if hits:
            n_above = _append(values, threshold, start, start + BLOCK, voxels, n_above)
    return _append(values, threshold, whole_blocks, n_voxels, voxels, n_above)


@kernel
def _append(values, threshold, start, stop, voxels, n_above):  # type: ignore[no-untyped-def]
    """Add those of voxels ``start`` to ``stop`` to the list, without a branch."""
    for voxel in range(start, stop):
        voxels[n_above] = voxel
        n_above += np.uint64(values[voxel] >= threshold)
    return n_above


@kernel
def _largest(n_above, scratch):  # type: ignore[no-untyped-def]
    """Return the largest extent and mass: no part of a cluster exceeds the whole."""
    extent = mass = 0
    for number in range(1, n_above + 1):
        extent = max(extent, scratch.extents[number])
        mass = max(mass, scratch.masses[number])
    return extent, mass


@kernel
def _spread(n_above, scratch, maps):  # type: ignore[no-untyped-def]
    """Write the sums of every cluster on its voxels."""
    for number in range(1, n_above + 1):
        root = scratch.parents[scratch.parents[number]]
        scratch.parents[number] = root
        maps.extents[scratch.voxels[number - 1]] = scratch.extents[root]
        maps.masses[scratch.voxels[number - 1]] = scratch.masses[root]
