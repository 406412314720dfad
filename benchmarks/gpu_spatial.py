"""The CUDA engine on whole maps: components, clusters and TFCE; check, then time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.gpu_clock import Case, host_copy
from benchmarks.gpu_data import SEED, Data
from benchmarks.gpu_voxelwise import SAME, Found
from benchmarks.harness import check_below
from benchmarks.spatial import CLUSTER_CONNECTIVITY, EXTENT, HEIGHT, THRESHOLD
from gpustats.engines import Array, Engine, ScoreCounts

CONNECTIVITIES = (6, 26)
TFCE = EXTENT, HEIGHT, 0.0
LIMIT = 10.0
"""What masses and scores must reach to be counted."""
MOST_COUNTED = 1024
"""Maps of the largest batch that is enhanced in full."""
SORT_BYTES, SWEEP_BYTES, COUNT_BYTES = 10.0, 10.0, 14.0
"""Least traffic of the kernels of TFCE, for each voxel of a map of which half is positive: the map
and 12 bytes of each positive voxel; these, and its label; its score, its limit and its count."""


def labels(data: Data) -> Found:
    """Label the components of maps of the host."""
    above = data.engine.to_host(data.null_maps(data.sizes.labelled)) >= THRESHOLD
    from_host = host_copy(data.sizes.copied_bytes)
    for connectivity in CONNECTIVITIES:
        lattice = data.grid.lattice(connectivity)
        ours, theirs = (engine.label(above, lattice) for engine in (data.engine, data.cpu))
        differing = float(np.sum(ours != theirs))
        yield check_below(f"differing labels, {connectivity} neighbours", differing, SAME)
        n = 1.0 * above.size
        yield Case(
            f"labels, {connectivity} neighbours, {len(above)} maps of the host",
            "a map",
            len(above),
            lambda lattice=lattice: data.engine.label(above, lattice),
            5 * n,
            against=from_host,
            kernels={"label_init": 5 * n, "label_merge": 4 * n, "label_flatten": 4 * n},
        )


def clusters(data: Data) -> Found:
    """Find the largest clusters of maps, and count the clusters that reach a limit."""
    maps, lattice = data.null_maps(data.sizes.clustered), data.grid.lattice(CLUSTER_CONNECTIVITY)
    form, n = (np.float32(THRESHOLD), lattice), 1.0 * maps.size

    def peaks(engine: Engine, some: Array) -> tuple[Array, ...]:
        return engine.cluster_peaks(some, *form, above=False)

    def count(engine: Engine, some: Array, reaching: ScoreCounts) -> None:
        engine.cluster_counts(some, *form, reaching, above=False, of_mass=True)

    for number, what in enumerate(("extents", "masses")):
        differing = mismatches(data, maps, lambda *each, i=number: peaks(*each)[i])
        yield check_below(f"differing largest {what}", differing, SAME)
    yield Case(
        f"largest clusters, batch of {len(maps):,}",
        "a map",
        len(maps),
        lambda: peaks(data.engine, maps),
        4 * n,
        kernels={"cluster_peaks": 4 * n},
    )
    yield check_below("differing counts of masses", mismatches(data, maps, counted(count)), SAME)
    reaching = limits(data.engine, maps)
    sums = ("label_merge", "label_flatten", "cluster_add", "cluster_spread")
    yield Case(
        f"counts of clusters, batch of {len(maps):,}",
        "a map",
        len(maps),
        lambda: count(data.engine, maps, reaching),
        4 * n,
        kernels={"cluster_init": 24 * n} | dict.fromkeys(sums, 4 * n),
    )


def mismatches(data: Data, maps: Array, work: Callable[[Engine, Array], Array]) -> float:
    """Count the numbers in which both engines differ over the first maps."""
    few = maps[: data.sizes.checked]
    ours = data.engine.to_host(work(data.engine, few))
    theirs = work(data.cpu, data.engine.to_host(few))
    return float(np.sum(ours != theirs))


def limits(engine: Engine, maps: Array) -> ScoreCounts:
    """Prepare to count the scores that reach a limit at every voxel, none so far."""
    n_voxels = maps.shape[1]
    counts = np.zeros(n_voxels, dtype=np.int64)
    return ScoreCounts(engine.to_device(np.full(n_voxels, LIMIT)), engine.to_device(counts))


def counted(
    count: Callable[[Engine, Array, ScoreCounts], object],
) -> Callable[[Engine, Array], Array]:
    """Return what counts from the beginning and gives the counts."""

    def counts(engine: Engine, maps: Array) -> Array:
        reaching = limits(engine, maps)
        count(engine, maps, reaching)
        return reaching.counts

    return counts


def tfce(data: Data, n_maps: int) -> Found:
    """Enhance a batch of maps, for 6 and 26 neighbours."""
    maps = data.null_maps(n_maps)
    for connectivity in CONNECTIVITIES:
        yield from enhance(data, maps, connectivity, "")
    if n_maps <= MOST_COUNTED:
        yield from tfce_counts(data, maps)


def rough_tfce(data: Data) -> Found:
    """Enhance maps of noise that is not smooth: the tables of components overflow."""
    shape = data.sizes.rough, data.grid.n_voxels
    noise = np.random.default_rng(SEED).standard_normal(shape, dtype=np.float32)
    yield from enhance(data, data.engine.to_device(noise), CONNECTIVITIES[0], " with white noise")


def enhance(data: Data, maps: Array, connectivity: int, kind: str) -> Found:
    """Find the largest scores of maps."""
    lattice = data.grid.lattice(connectivity)

    def peaks(engine: Engine, some: Array) -> Array:
        return engine.tfce_peaks(some, lattice, *TFCE)

    what = f"TFCE, {connectivity} neighbours, batch of {len(maps):,}{kind}"
    yield check_below(f"differing scores, {what}", mismatches(data, maps, peaks), SAME)
    sweep = "tfce_redo" if kind else "tfce_sweep"
    yield Case(
        what,
        "a map",
        len(maps),
        lambda: peaks(data.engine, maps),
        4.0 * maps.size,
        kernels={"tfce_sort": SORT_BYTES * maps.size, sweep: SWEEP_BYTES * maps.size},
    )


def tfce_counts(data: Data, maps: Array) -> Found:
    """Enhance maps in full, and count."""
    lattice = data.grid.lattice(CONNECTIVITIES[0])

    def count(engine: Engine, some: Array, reaching: ScoreCounts) -> None:
        engine.tfce_counts(some, lattice, *TFCE, reaching)

    what = f"TFCE and counts, {CONNECTIVITIES[0]} neighbours, batch of {len(maps):,}"
    yield check_below(f"differing counts, {what}", mismatches(data, maps, counted(count)), SAME)
    reaching = limits(data.engine, maps)
    yield Case(
        what,
        "a map",
        len(maps),
        lambda: count(data.engine, maps, reaching),
        4.0 * maps.size,
        kernels={
            "tfce_sweep": (SWEEP_BYTES + 4) * maps.size,
            "tfce_count": COUNT_BYTES * maps.size,
        },
    )


def tfce_of_one(data: Data) -> Found:
    """Enhance a map of the host in full."""
    one, lattice = data.engine.to_host(data.null_maps(1))[0], data.grid.lattice(CONNECTIVITIES[0])
    ours, theirs = (engine.tfce_scores(one, lattice, *TFCE) for engine in (data.engine, data.cpu))
    yield check_below("differing scores of a map", float(np.sum(ours != theirs)), SAME)
    yield Case(
        "TFCE, map of the host, scores to it",
        "a map",
        1,
        lambda: data.engine.tfce_scores(one, lattice, *TFCE),
        12.0 * one.size,
        against=host_copy(data.sizes.copied_bytes),
        kernels={"tfce_spread": 14.0 * one.size},
    )
