"""Clusters and TFCE of many maps on the CPU: one map a task, one scratch a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import ScoreCounts, cpu_clusters, cpu_grid
from gpustats.engines.cpu_tfce import Height, extent_weights, tfce_map, tfce_peak
from gpustats.engines.cpu_threads import n_threads, share_out
from gpustats.spaces import Lattice


def cluster_peaks(
    maps: NDArray[np.float32], threshold: np.float32, lattice: Lattice, *, above: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the largest extent and mass (in 2**-24) of the clusters of each map."""
    extents = np.empty(len(maps), dtype=np.int64)
    masses = np.empty(len(maps), dtype=np.int64)

    def work(queue: Iterator[int]) -> None:
        scratch = _scratch(lattice, cpu_clusters.scratch_for)
        for number in queue:
            extents[number], masses[number] = cpu_clusters.cluster_peaks(
                maps[number], float(threshold), lattice, scratch, _mass(above)
            )

    share_out(work, len(maps), n_threads())
    return extents, masses


def cluster_counts(
    maps: NDArray[np.float32],
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

    def work(queue: Iterator[int]) -> NDArray[np.int64]:
        scratch = _scratch(lattice, cpu_clusters.scratch_for)
        counts = np.zeros(lattice.n_voxels, dtype=np.int64)
        for number in queue:
            found = cpu_clusters.cluster_maps(
                maps[number], float(threshold), lattice, scratch, _mass(above)
            )
            scores = found.masses / cpu_clusters.MASS_SCALE if of_mass else found.extents
            counts += scores >= reaching.limits
        return counts

    reaching.counts[:] += sum(share_out(work, len(maps), n_threads()))


def cluster_scores(
    values: NDArray[np.float32], threshold: np.float32, lattice: Lattice, *, above: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the extent and mass (in 2**-24) of each voxel's cluster in a map."""
    scratch = _scratch(lattice, cpu_clusters.scratch_for)
    return cpu_clusters.cluster_maps(values, float(threshold), lattice, scratch, _mass(above))


def _mass(above: bool) -> cpu_clusters.Mass:
    """Name what a voxel adds to the mass of its cluster."""
    return "above" if above else "full"


def tfce_peaks(
    maps: NDArray[np.float32], lattice: Lattice, extent: float, height: float, step: float
) -> NDArray[np.float64]:
    """Return the largest TFCE score of the positive side of each map, ``(b, n_voxels)``."""
    geometry = _geometry(lattice)
    weights = _weights(lattice.n_voxels, float(extent))
    form = Height(float(height), float(step))
    peaks = np.empty(len(maps))

    def work(queue: Iterator[int]) -> None:
        scratch = _scratch(geometry, cpu_grid.scratch_for)
        for number in queue:
            peaks[number] = tfce_peak(maps[number], geometry, scratch, weights, form)

    share_out(work, len(maps), n_threads())
    return peaks


def tfce_counts(
    maps: NDArray[np.float32],
    lattice: Lattice,
    extent: float,
    height: float,
    step: float,
    reaching: ScoreCounts,
) -> NDArray[np.float64]:
    """Do what `tfce_peaks` does, and count the maps whose score of a voxel reaches a limit."""
    geometry = _geometry(lattice)
    weights = _weights(lattice.n_voxels, float(extent))
    form = Height(float(height), float(step))
    peaks = np.empty(len(maps))

    def work(queue: Iterator[int]) -> NDArray[np.int64]:
        scratch = _scratch(geometry, cpu_grid.scratch_for)
        scores = np.empty(lattice.n_voxels)
        counts = np.zeros(lattice.n_voxels, dtype=np.int64)
        for number in queue:
            tfce_map(maps[number], geometry, scratch, weights, form, scores)
            peaks[number] = scores.max()
            counts += scores >= reaching.limits
        return counts

    reaching.counts[:] += sum(share_out(work, len(maps), n_threads()))
    return peaks


def tfce_scores(
    values: NDArray[np.float32], lattice: Lattice, extent: float, height: float, step: float
) -> NDArray[np.float64]:
    """Return the TFCE scores of the positive side of a map, ``(n_voxels,)``."""
    geometry = _geometry(lattice)
    weights = _weights(lattice.n_voxels, float(extent))
    scores = np.empty(lattice.n_voxels)
    form = Height(float(height), float(step))
    tfce_map(values, geometry, _scratch(geometry, cpu_grid.scratch_for), weights, form, scores)
    return scores


@lru_cache(maxsize=2)
def _geometry(lattice: Lattice) -> cpu_grid.Geometry:
    """Prepare a lattice; the last two are kept."""
    return cpu_grid.prepare(lattice.mask, lattice.connectivity)


@lru_cache(maxsize=2)
def _weights(n_voxels: int, extent: float) -> NDArray[np.float64]:
    """Tabulate the weights of extents; the last two tables are kept."""
    return extent_weights(n_voxels, extent)


_of_thread = threading.local()

T = TypeVar("T")
S = TypeVar("S")


def _scratch(shape: T, allocate: Callable[[T], S]) -> S:
    """Return this thread's working memory for a lattice or geometry; the last of a kind is kept."""
    kept = _of_thread.__dict__.setdefault("kept", {})
    if kept.get(allocate, (None, None))[0] is not shape:
        kept[allocate] = shape, allocate(shape)
    scratch: S = kept[allocate][1]
    return scratch
