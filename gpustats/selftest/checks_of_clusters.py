"""Checks of labels, clusters and TFCE: the same of one map on every device, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import ScoreCounts
from gpustats.selftest import plain
from gpustats.selftest.promises import EQUAL, Arrays, Check, Machine, Promise
from gpustats.selftest.sample import Sample
from gpustats.spaces import CONNECTIVITIES

SCORES = Promise(1e-9)
"""Scores in fixed point: the share of a score by which two may differ and still tie."""

HEIGHT = np.float32(1.5)
"""Cluster-forming threshold: some voxels of the maps with ties are at it."""
NO_TIE = 0.937
"""Keeps limits away from the scores of TFCE, whose last digits depend on the order of a sum."""
FORMS = {
    "H = 1, 6 neighbours": (6, 0.5, 1.0, 0.0),
    "H = 2, 26 neighbours": (26, 0.5, 2.0, 0.0),
    "H = 3, 18 neighbours": (18, 1.0, 3.0, 0.0),
    "H = 2, steps of 0.1": (6, 0.5, 2.0, 0.1),
}
"""Neighbours, E, H and step."""


def cluster_checks() -> Iterator[Check]:
    """Return the checks of labels and of clusters above a threshold."""
    for neighbours in CONNECTIVITIES:
        case = f"{neighbours} neighbours"
        yield Check(f"label, {case}", _label, _label_plain, EQUAL, EQUAL, (neighbours,))
    for neighbours, above in product(CONNECTIVITIES, (False, True)):
        case = f"{neighbours} neighbours, {'above' if above else 'full'}"
        for name, (compute, defined) in CLUSTERS.items():
            yield Check(f"{name}, {case}", compute, defined, EQUAL, EQUAL, (neighbours, above))


def tfce_checks() -> Iterator[Check]:
    """Return the checks of threshold-free clusters."""
    for case, form in FORMS.items():
        for name, (compute, defined, promise) in TFCE.items():
            yield Check(f"{name}, {case}", compute, defined, EQUAL, promise, form)


def _label(machine: Machine, sample: Sample, neighbours: int) -> Arrays:
    """Label sets of voxels, from none to all."""
    return (machine.engine.label(_above(sample), sample.grid.lattice(neighbours)),)


def _label_plain(sample: Sample, neighbours: int) -> Arrays:
    """Label sets of voxels, one by one."""
    mask = sample.grid.mask
    return (np.array([plain.labels(one, mask, neighbours) for one in _above(sample)]),)


def _above(sample: Sample) -> NDArray[np.bool_]:
    """Return sets of voxels: of maps, and random ones about the densities at which they connect."""
    densities = np.array([[0.1], [0.2], [0.3]])
    random = sample.rng(7).random((3, sample.grid.n_voxels)) < densities
    return np.concatenate([sample.maps >= HEIGHT, random])


def _cluster_scores(machine: Machine, sample: Sample, neighbours: int, above: bool) -> Arrays:
    """Write the sums of clusters on their voxels."""
    lattice, engine = sample.grid.lattice(neighbours), machine.engine
    scores = [engine.cluster_scores(one, HEIGHT, lattice, above=above) for one in sample.maps]
    return tuple(map(np.array, zip(*scores, strict=True)))


def _cluster_scores_plain(sample: Sample, neighbours: int, above: bool) -> Arrays:
    """Write the sums of clusters on their voxels."""
    mask = sample.grid.mask
    scores = [plain.cluster_sums(one, HEIGHT, mask, neighbours, above=above) for one in sample.maps]
    return tuple(map(np.array, zip(*scores, strict=True)))


def _cluster_peaks(machine: Machine, sample: Sample, neighbours: int, above: bool) -> Arrays:
    """Find the largest extent and mass of every map."""
    engine, lattice = machine.engine, sample.grid.lattice(neighbours)
    peaks = engine.cluster_peaks(engine.to_device(sample.maps), HEIGHT, lattice, above=above)
    return tuple(map(engine.to_host, peaks))


def _cluster_peaks_plain(sample: Sample, neighbours: int, above: bool) -> Arrays:
    """Find the largest extent and mass of every map."""
    return tuple(scores.max(axis=1) for scores in _cluster_scores_plain(sample, neighbours, above))


def _cluster_counts(machine: Machine, sample: Sample, neighbours: int, above: bool) -> Arrays:
    """Count the maps in which a voxel's cluster reaches a limit, by extent and by mass."""
    engine, lattice = machine.engine, sample.grid.lattice(neighbours)
    maps, counts = engine.to_device(sample.maps), []
    for of_mass in (False, True):
        zeros = engine.to_device(np.zeros(lattice.n_voxels, dtype=np.int64))
        reaching = ScoreCounts(engine.to_device(_limits(sample)), zeros)
        engine.cluster_counts(maps, HEIGHT, lattice, reaching, above=above, of_mass=of_mass)
        counts.append(engine.to_host(reaching.counts))
    return tuple(counts)


def _cluster_counts_plain(sample: Sample, neighbours: int, above: bool) -> Arrays:
    """Count the maps in which a voxel's cluster reaches a limit, by extent and by mass."""
    extents, masses = _cluster_scores_plain(sample, neighbours, above)
    limits = _limits(sample)
    return (extents >= limits).sum(axis=0), (masses / 2**24 >= limits).sum(axis=0)


def _limits(sample: Sample) -> NDArray[np.float64]:
    """Return a limit for every voxel: whole numbers, so that extents tie, and some infinite."""
    limits = np.ceil(10 ** sample.rng(8).uniform(0, 3, sample.grid.n_voxels))
    limits[::7] = np.inf
    return limits


def _tfce_scores(machine: Machine, sample: Sample, neighbours: int, *form: float) -> Arrays:
    """Enhance maps one by one."""
    lattice = sample.grid.lattice(neighbours)
    return (np.array([machine.engine.tfce_scores(one, lattice, *form) for one in sample.maps]),)


@lru_cache(maxsize=1)
def _tfce_scores_plain(sample: Sample, neighbours: int, *form: float) -> Arrays:
    """Enhance maps height by height."""
    mask = sample.grid.mask
    return (np.array([plain.tfce(one, mask, neighbours, *form) for one in sample.maps]),)


def _tfce_peaks(machine: Machine, sample: Sample, neighbours: int, *form: float) -> Arrays:
    """Find the largest score of every map."""
    engine, lattice = machine.engine, sample.grid.lattice(neighbours)
    return (engine.to_host(engine.tfce_peaks(engine.to_device(sample.maps), lattice, *form)),)


def _tfce_peaks_plain(sample: Sample, neighbours: int, *form: float) -> Arrays:
    """Find the largest score of every map."""
    (scores,) = _tfce_scores_plain(sample, neighbours, *form)
    return (scores.max(axis=1),)


def _tfce_counts(
    machine: Machine, sample: Sample, neighbours: int, extent: float, height: float, step: float
) -> Arrays:
    """Count the maps in which a voxel's score reaches a limit."""
    engine, lattice = machine.engine, sample.grid.lattice(neighbours)
    zeros = engine.to_device(np.zeros(lattice.n_voxels, dtype=np.int64))
    reaching = ScoreCounts(engine.to_device(_limits(sample) * NO_TIE), zeros)
    engine.tfce_counts(engine.to_device(sample.maps), lattice, extent, height, step, reaching)
    return (engine.to_host(reaching.counts),)


def _tfce_counts_plain(sample: Sample, neighbours: int, *form: float) -> Arrays:
    """Count the maps in which a voxel's score reaches a limit."""
    (scores,) = _tfce_scores_plain(sample, neighbours, *form)
    return ((scores >= _limits(sample) * NO_TIE).sum(axis=0),)


CLUSTERS: dict[str, tuple[Callable[..., Arrays], Callable[..., Arrays]]] = {
    "cluster_scores": (_cluster_scores, _cluster_scores_plain),
    "cluster_peaks": (_cluster_peaks, _cluster_peaks_plain),
    "cluster_counts": (_cluster_counts, _cluster_counts_plain),
}
"""Functions of clusters, and their definitions."""
TFCE: dict[str, tuple[Callable[..., Arrays], Callable[..., Arrays], Promise]] = {
    "tfce_scores": (_tfce_scores, _tfce_scores_plain, SCORES),
    "tfce_peaks": (_tfce_peaks, _tfce_peaks_plain, SCORES),
    "tfce_counts": (_tfce_counts, _tfce_counts_plain, EQUAL),
}
"""Functions of TFCE, their definitions, and how near they come to them."""
