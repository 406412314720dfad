"""What clusters and TFCE cost on smooth null maps of t, one core and all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.ndimage import generate_binary_structure, label

from benchmarks import peers
from benchmarks.harness import Check, check_below, n_cores, time_interleaved
from benchmarks.null_group import Effort, each, limited
from benchmarks.records import Row
from gpustats import (
    ClusterExtent,
    ClusterMass,
    Grid,
    Maps,
    Tfce,
    Voxelwise,
    images,
    permutation_test,
)
from gpustats.engines import SHUFFLE_TILE, resolve
from gpustats.engines.cpu_clusters import cluster_peaks
from gpustats.engines.cpu_clusters import scratch_for as cluster_scratch
from gpustats.engines.cpu_grid import prepare, scratch_for
from gpustats.engines.cpu_tfce import Height, extent_weights, tfce_peak
from gpustats.enhancements import MASS_UNIT, Statistic

ENGINE = resolve("cpu")
THRESHOLD = 3.1
CLUSTER_CONNECTIVITY = 26
EXTENT, HEIGHT = 0.5, 2.0
CONNECTIVITIES = {6: 1, 26: 3}
"""Numbers of neighbours, and along how many axes they may differ."""

CLUSTERS_ON_TOP = 0.4e-3
"""Seconds of a shuffle."""
ONE_CORE_LIMITS = {6: 5.5e-3, 26: 6e-3}
ALL_CORES_LIMITS = {6: 3.2e-3, 26: 3.5e-3}
"""Seconds of a map, by number of neighbours."""

FEW, MANY = SHUFFLE_TILE, 5 * SHUFFLE_TILE
PEER_FEW, PEER_MANY = 5, 15
SLOW_FEW, SLOW_MANY = 2, 4
"""Shuffles of ours, of a peer, and of one that takes seconds for each."""
MAPS_ONE_CORE, MAPS_ALL_CORES = 6, 32
TFCE_ERROR = 1e-6
MASS_ERROR = 1e-6
SMALLEST_COMPARED = 1e-6
"""Share of the largest score below which float32 scores are not compared."""


def compare_definition(maps: NDArray[np.float32], grid: Grid) -> list[Check]:
    """Check the largest scores in a corner of the mask against the definition of TFCE."""
    mask = np.zeros_like(grid.mask)
    # a few hundred voxels: each of their heights is labelled afresh
    centre = tuple(slice(length // 2 - 4, length // 2 + 5) for length in mask.shape)
    mask[centre] = grid.mask[centre]
    inside = mask[grid.mask]
    small = np.ascontiguousarray(maps[:MAPS_ONE_CORE, inside])
    checks = []
    for connectivity in CONNECTIVITIES:
        lattice = Grid(mask, grid.affine).lattice(connectivity)
        ours = ENGINE.tfce_peaks(small, lattice, EXTENT, HEIGHT, 0.0)
        volumes = (np.where(mask, grid.unmask(one), 0.0) for one in maps[:MAPS_ONE_CORE])
        theirs = np.array([plain_tfce(volume, connectivity).max() for volume in volumes])
        what = f"relative error of the largest TFCE score, {connectivity} neighbours, small mask"
        checks.append(check_below(what, float(np.abs(ours / theirs - 1).max()), TFCE_ERROR))
    return checks


def plain_tfce(volume: NDArray[np.float64], connectivity: int) -> NDArray[np.float64]:
    """Integrate extent**E height**H from each distinct height to the next."""
    structure = generate_binary_structure(3, CONNECTIVITIES[connectivity])
    scores, below = np.zeros(volume.shape), 0.0
    for level in np.unique(volume[volume > 0]):
        above = volume >= level
        labels, _ = label(above, structure)
        extents = np.bincount(labels.ravel())[labels[above]]
        scores[above] += extents**EXTENT * (level ** (HEIGHT + 1) - below ** (HEIGHT + 1))
        below = level
    return scores / (HEIGHT + 1)


def compare_peer(one: NDArray[np.float32], grid: Grid) -> list[Check]:
    """Check the scores of a whole map against those of `tfce`."""
    if not peers.is_installed("tfce"):
        return []
    checks = []
    for connectivity in CONNECTIVITIES:
        ours = ENGINE.tfce_scores(one, grid.lattice(connectivity), EXTENT, HEIGHT, 0.0)
        volume = np.asarray(grid.unmask(one), dtype=np.float32)[..., None]
        theirs = peers.tfce_maps(volume, connectivity, 1)[..., 0][grid.mask]
        compared = ours > SMALLEST_COMPARED * ours.max()
        error = np.abs(theirs[compared] / ours[compared] - 1).max()
        what = f"relative difference from the scores of tfce, {connectivity} neighbours"
        checks.append(check_below(what, float(error), TFCE_ERROR))
    return checks


def compare_clusters(maps: NDArray[np.float32], grid: Grid) -> list[Check]:
    """Check the largest extents and masses against scipy's labels."""
    few = maps[:MAPS_ONE_CORE]
    lattice = grid.lattice(CLUSTER_CONNECTIVITY)
    extents, masses = ENGINE.cluster_peaks(few, np.float32(THRESHOLD), lattice, above=False)
    theirs = np.array([peers.scipy_clusters(volume, THRESHOLD) for volume in volumes(few, grid)])
    extent_error = float(np.abs(extents - theirs[:, 0]).max())
    mass_error = float(np.abs(masses * MASS_UNIT - theirs[:, 1]).max() / theirs[:, 1].max())
    return [
        check_below("largest difference from the extents of scipy's clusters", extent_error, 1),
        check_below("relative difference from their masses", mass_error, MASS_ERROR),
    ]


def volumes(maps: NDArray[np.float32], grid: Grid) -> list[NDArray[np.float32]]:
    """Return the smallest box around the mask of every map, 0 outside the mask."""
    inside = np.argwhere(grid.mask)
    box = tuple(map(slice, inside.min(axis=0), inside.max(axis=0) + 1))
    return [np.ascontiguousarray(grid.unmask(one)[box], dtype=np.float32) for one in maps]


def clusters_on_top(group: Maps, effort: Effort) -> list[Row]:
    """Time a shuffle of a one-sided test with clusters against one without."""
    extent = ClusterExtent(connectivity=CLUSTER_CONNECTIVITY, threshold_t=THRESHOLD)
    mass = ClusterMass(connectivity=CLUSTER_CONNECTIVITY, threshold_t=THRESHOLD)
    jobs = {
        "without": study(group, Voxelwise()),
        "with": study(group, Voxelwise(), extent, mass),
    }
    seconds = peers.per_shuffle(jobs, FEW, MANY, effort.long_repeats)
    limit = tuple(second + CLUSTERS_ON_TOP for second in seconds["without"])
    what = f"extent and mass of clusters too, t = {THRESHOLD:g}, {group.n_subjects} subjects"
    name = f"no clusters, and {1000 * CLUSTERS_ON_TOP:g} ms:"
    return [
        Row(f"{what}, a shuffle", "s", seconds["with"], limit, name, 1.0),
        Row(f"{what}, a shuffle", "s", seconds["with"], nilearn_clusters(group, effort), "nilearn"),
    ]


def study(
    group: Maps, *statistics: Statistic, uncorrected: bool = False
) -> Callable[[int], object]:
    """Make the one-sided test of the group's mean, a job that takes a number of shuffles."""
    return lambda n_shuffles: permutation_test(
        group,
        statistics=statistics,
        n_permutations=n_shuffles,
        two_sided=False,
        uncorrected=uncorrected,
        device="cpu",
    )


def nilearn_clusters(group: Maps, effort: Effort) -> tuple[float, ...]:
    """Time a shuffle of nilearn's clusters, which have 6 neighbours."""
    threshold_p = float(stats.t.sf(THRESHOLD, group.n_subjects - 1))
    return nilearn(group, PEER_FEW, PEER_MANY, effort.long_repeats, threshold=threshold_p)


def nilearn(group: Maps, few: int, many: int, repeats: int, **options: Any) -> tuple[float, ...]:
    """Time a shuffle of nilearn's one-sided test with clusters or TFCE."""
    if not peers.is_installed("nilearn"):
        return ()
    masker = peers.nilearn_masker(images.to_image(group.grid.mask, group.grid.affine))
    job = peers.nilearn_shuffles(group.values.T, two_sided_test=False, masker=masker, **options)
    return peers.per_shuffle({"nilearn": job}, few, many, repeats)["nilearn"]


def clusters_of_maps(maps: NDArray[np.float32], grid: Grid, effort: Effort) -> list[Row]:
    """Time the largest cluster of a map on one core."""
    few, boxes = maps[:MAPS_ONE_CORE], volumes(maps[:MAPS_ONE_CORE], grid)
    lattice = grid.lattice(CLUSTER_CONNECTIVITY)
    scratch = cluster_scratch(lattice)
    jobs: dict[str, Callable[[], object]] = {
        "gpustats": lambda: [cluster_peaks(one, THRESHOLD, lattice, scratch) for one in few],
        "scipy.label": lambda: [peers.scipy_clusters(box, THRESHOLD) for box in boxes],
    }
    if peers.is_installed("cc3d"):
        jobs["cc3d"] = lambda: [peers.cc3d_clusters(box, THRESHOLD) for box in boxes]
    seconds = {
        name: each(times, len(few))
        for name, times in time_interleaved(jobs, effort.repeats).items()
    }
    what = f"largest cluster of a map, t = {THRESHOLD:g}, one core"
    return [
        Row(what, "s", seconds["gpustats"], seconds.get(peer, ()), peer)
        for peer in ("scipy.label", "cc3d")
    ]


def tfce_one_core(
    maps: NDArray[np.float32], group: Maps, folder: Path, effort: Effort
) -> list[Row]:
    """Time the largest TFCE score of a map on one core."""
    few = maps[:MAPS_ONE_CORE]
    rows = []
    for connectivity, limit in ONE_CORE_LIMITS.items():
        ours, theirs = tfce_times(few, group.grid, connectivity, effort, threads=1)
        what = f"largest TFCE score of a map, {connectivity} neighbours, one core"
        in_steps = niimath(few[0], group.grid, folder, connectivity, effort)
        rows += [
            limited(what, ours, limit),
            Row(what, "s", ours, theirs, "tfce"),
            Row(what, "s", ours, in_steps, "niimath"),
        ]
        if connectivity == 6:
            shuffle = nilearn(group, SLOW_FEW, SLOW_MANY, 1, tfce=True)
            rows.append(Row(what, "s", ours, shuffle, "nilearn (a shuffle)"))
    return rows


def tfce_all_cores(
    maps: NDArray[np.float32], group: Maps, folder: Path, effort: Effort
) -> list[Row]:
    """Time the largest TFCE score of a map where all cores work on maps."""
    few = maps[:MAPS_ALL_CORES]
    rows = []
    for connectivity, limit in ALL_CORES_LIMITS.items():
        ours, theirs = tfce_times(few, group.grid, connectivity, effort, threads=n_cores())
        what = f"largest TFCE score of a map, {connectivity} neighbours, all cores"
        rows += [limited(what, ours, limit), Row(what, "s", ours, theirs, "tfce")]
        if connectivity == 6:
            shuffle = mrtrix(group, folder)
            rows.append(Row(what, "s", ours, shuffle, "MRtrix3 (a shuffle)"))
    return rows


def tfce_times(
    maps: NDArray[np.float32], grid: Grid, connectivity: int, effort: Effort, *, threads: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Time a map of ours and of the package `tfce`, which writes it in full."""
    lattice = grid.lattice(connectivity)
    stacked = np.stack(volumes(maps, grid), axis=-1)
    jobs: dict[str, Callable[[], object]] = {"gpustats": one_core(maps, grid, connectivity)}
    if threads > 1:
        jobs["gpustats"] = lambda: ENGINE.tfce_peaks(maps, lattice, EXTENT, HEIGHT, 0.0)
    if peers.is_installed("tfce"):
        jobs["tfce"] = lambda: peers.tfce_maps(stacked, connectivity, threads)
    seconds = time_interleaved(jobs, effort.long_repeats)
    return each(seconds["gpustats"], len(maps)), each(seconds.get("tfce", ()), len(maps))


def one_core(maps: NDArray[np.float32], grid: Grid, connectivity: int) -> Callable[[], object]:
    """Make the enhancement of maps in this thread."""
    geometry = prepare(grid.mask, connectivity)
    scratch, weights = scratch_for(geometry), extent_weights(grid.n_voxels, EXTENT)
    height = Height(HEIGHT)
    return lambda: [tfce_peak(one, geometry, scratch, weights, height) for one in maps]


def niimath(
    one: NDArray[np.float32], grid: Grid, folder: Path, connectivity: int, effort: Effort
) -> tuple[float, ...]:
    """Time FSL's steps on a map, without reading and writing it."""
    if not peers.is_installed("niimath"):
        return ()
    path = folder / "t.nii"
    # FSL never enhances voxels at the border of a volume
    nib.save(nib.Nifti1Image(np.pad(volumes(one[None], grid)[0], 1), np.eye(4)), path)
    job = peers.niimath_maps(path, folder, connectivity)
    return peers.per_shuffle({"niimath": job}, 0, 1, effort.repeats)["niimath"]


def mrtrix(group: Maps, folder: Path) -> tuple[float, ...]:
    """Time a shuffle of MRtrix3's test with TFCE."""
    if not peers.is_installed("MRtrix3"):
        return ()
    paths = [folder / f"null-{number:02d}.nii" for number in range(group.n_subjects)]
    for path, values in zip(paths, group.values.T, strict=True):
        images.save_image(images.unmask(values, group.grid), path)
    mask = folder / "null-mask.nii"
    images.save_image(images.to_image(group.grid.mask, group.grid.affine), mask)
    job = peers.mrtrix_shuffles(paths, mask, folder)
    return peers.per_shuffle({"MRtrix3": job}, PEER_FEW, PEER_MANY, 1)["MRtrix3"]


def uncorrected_too(group: Maps, effort: Effort) -> Row:
    """Time a shuffle of TFCE that counts at every voxel against one that does not."""
    jobs = {
        "with": study(group, Tfce(), uncorrected=True),
        "without": study(group, Tfce()),
    }
    seconds = peers.per_shuffle(jobs, PEER_FEW, PEER_MANY * 4, effort.long_repeats)
    what = "TFCE with uncorrected p, one-sided, a shuffle"
    return Row(what, "s", seconds["with"], seconds["without"], "without")
