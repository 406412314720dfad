"""What a shuffle costs: the largest t, nuisance, clusters and TFCE; and what whole studies cost.

Where a time or a memory is wanted below a number, that number stands as "limit", with target 1.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from nilearn.datasets import load_mni152_brain_mask
from numpy.typing import NDArray

from benchmarks import peers, spatial, voxelwise
from benchmarks.harness import Check, run_alone
from benchmarks.null_group import FULL, FWHM_VOXELS, QUICK, Effort, limited, null_group
from benchmarks.records import Result, Row, describe_environment
from benchmarks.second_level import ellipsoid, write_maps
from benchmarks.studies import tfce_study, time_first_calls
from gpustats import Maps, images

PACKAGES = ("gpustats", "numpy", "scipy", "numba")
N_SUBJECTS, N_SUBJECTS_LARGE = 20, 100

STUDY_LIMITS = {"one-sided": 45.0, "two-sided": 85.0}
"""Seconds of a whole study."""
BESIDE_STACK_MIB = 1024.0
FIRST_USE = "first use ever"
COMPILATION_LIMITS = {FIRST_USE: 12.0, "each new process": 1.0}
"""Seconds."""


def run(*, quick: bool) -> Result:
    """Simulate groups, compare with plain definitions and peers, then measure.

    Parameters
    ----------
    quick
        Take a coarse grid and few shuffles, and compile nothing anew: to see that everything
        runs, not for the numbers.
    """
    effort = QUICK if quick else FULL
    grid = ellipsoid() if quick else images.read_mask(load_mni152_brain_mask(resolution=2))
    large = null_group(grid, N_SUBJECTS_LARGE)
    group = null_group(grid, N_SUBJECTS)
    maps = null_maps(group)
    with TemporaryDirectory() as name:
        folder = Path(name)
        checks = compare(group, large, maps)
        write_maps(grid, N_SUBJECTS, folder)
        rows = (
            *voxelwise_rows(large, effort),
            *spatial_rows(maps, group, folder, effort),
            *studies(folder, 4 * N_SUBJECTS * grid.n_voxels / 2**20, effort),
            *compilation(folder, effort),
        )
    environment = describe_environment(PACKAGES)
    environment = replace(environment, packages=environment.packages | peers.versions())
    workload = (
        f"{grid.n_voxels:,} voxels of smooth noise, FWHM {FWHM_VOXELS:g} voxels; medians of "
        f"{effort.repeats} interleaved repeats ({effort.long_repeats} of TFCE and of peers), "
        f"processes run once; studies: {N_SUBJECTS} files of noise and an effect"
    )
    return Result("permutation", workload, environment, tuple(checks), rows)


def null_maps(group: Maps) -> NDArray[np.float32]:
    """Return maps of t of the group's first shuffles."""
    job = voxelwise.prepare(group, voxelwise.mean_design(group.n_subjects))
    maps = np.empty((spatial.MAPS_ALL_CORES, group.n_voxels), dtype=np.float32)
    job.null_maps(maps)
    return maps


def compare(group: Maps, large: Maps, maps: NDArray[np.float32]) -> list[Check]:
    """Check everything that is to be timed."""
    return [
        *voxelwise.compare(group, voxelwise.mean_design(N_SUBJECTS), "one sample"),
        *voxelwise.compare(large, voxelwise.nuisance_design(N_SUBJECTS_LARGE), "with nuisance"),
        voxelwise.compare_z(group),
        *spatial.compare_clusters(maps, group.grid),
        *spatial.compare_definition(maps, group.grid),
        *spatial.compare_peer(maps[0], group.grid),
    ]


def voxelwise_rows(large: Maps, effort: Effort) -> list[Row]:
    """Measure what has no neighbours."""
    return [
        *voxelwise.largest_t(large, N_SUBJECTS, effort),
        *voxelwise.largest_t(large, N_SUBJECTS_LARGE, effort),
        voxelwise.with_nuisance(large, effort),
        *voxelwise.z_maps(large, effort),
    ]


def spatial_rows(maps: NDArray[np.float32], group: Maps, folder: Path, effort: Effort) -> list[Row]:
    """Measure clusters and TFCE."""
    return [
        *spatial.clusters_on_top(group, effort),
        *spatial.clusters_of_maps(maps, group.grid, effort),
        *spatial.tfce_one_core(maps, group, folder, effort),
        *spatial.tfce_all_cores(maps, group, folder, effort),
        spatial.uncorrected_too(group, effort),
    ]


def studies(folder: Path, stack_mib: float, effort: Effort) -> list[Row]:
    """Measure processes from files to maps of p."""
    rows = []
    limit = stack_mib + BESIDE_STACK_MIB
    for sides, seconds in STUDY_LIMITS.items():
        usage = run_alone(tfce_study, str(folder), str(effort.study_shuffles), sides)
        what = f"whole study, {effort.study_shuffles:,} shuffles of TFCE, {sides}"
        rows += [
            limited(f"{what}, files to p", (usage.seconds,), seconds),
            Row(f"{what}: peak memory", "MiB", (usage.peak_mib,), (limit,), "limit", 1.0),
        ]
    return rows


def compilation(folder: Path, effort: Effort) -> list[Row]:
    """Measure by how much the first study of a process takes longer than the second."""
    report = folder / "seconds.json"
    rows = []
    for what, limit in COMPILATION_LIMITS.items():
        if what == FIRST_USE and not effort.first_use:
            continue
        run_alone(time_first_calls, str(folder), str(report), cold=what == FIRST_USE)
        first, second = json.loads(report.read_text())
        extra = (max(first - second, peers.LEAST_SECONDS),)
        rows.append(limited(f"compilation of all statistics, {what}", extra, limit))
    return rows
