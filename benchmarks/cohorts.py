"""What a test of a cohort on disk takes: memory, time beside the product in memory, checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from nilearn.datasets import load_mni152_brain_mask

from benchmarks.harness import Check, check_below, run_alone, time_interleaved, wall_seconds
from benchmarks.records import Result, Row, describe_environment
from benchmarks.second_level import ellipsoid
from benchmarks.studies import ALL_STATISTICS
from gpustats import Cohort, Grid, cli, fit, images, permutation_test
from gpustats.cohort_header import Entry, Reading, commit, new_header, write_grid
from gpustats.cohort_layout import Layout, checksum, shard_height
from gpustats.cohort_places import find_place
from gpustats.cohort_writer import Writer
from gpustats.engines import SHUFFLE_TILE

PACKAGES = ("gpustats", "numpy", "numba", "google-crc32c")
MEMORY_LIMIT_MIB = 1.3 * 1024
MATMUL_TARGET = 0.6
CHECKPOINT_TARGET = 0.98
"""2 % longer."""
NAMES = {statistic.name: statistic for statistic in ALL_STATISTICS}
SPARE = 1.2
"""Room on the disk beside what is written."""


class Size(NamedTuple):
    """Say how much is done."""

    n_subjects: int
    memory: str
    n_shuffles: int
    n_maps: int
    """Shuffles of maps."""
    many_subjects: int
    many_voxels: int
    many_shuffles: int
    repeats: int


FULL = Size(4000, "1G", 1000, 192, 40_000, 4096, 10_000, 3)
QUICK = Size(40, "120M", 100, 20, 400, 1024, 200, 1)


def run(*, quick: bool) -> Result:
    """Write cohorts of noise, compare tests from disk with those in memory, then measure.

    Parameters
    ----------
    quick
        Take few subjects on a coarse grid: to see that everything runs, not for the numbers.
    """
    size = QUICK if quick else FULL
    grid = ellipsoid() if quick else images.read_mask(load_mni152_brain_mask(resolution=2))
    with TemporaryDirectory() as name:
        folder = Path(name)
        check_room(folder, 4 * size.n_subjects * grid.n_voxels)
        cohort = write_cohort(folder / "cohort.zarr", grid, size.n_subjects)
        checks = compare(cohort, size)
        rows = [*memories(cohort, size), *speeds(cohort, folder, size)]
        shutil.rmtree(cohort.name)
        rows += many_subjects(folder, grid, size, rows)
    workload = (
        f"{size.n_subjects:,} maps of {grid.n_voxels:,} voxels of noise in a store, under --memory "
        f"{size.memory}; medians of {size.repeats} interleaved repeats, processes run once"
    )
    return Result("cohorts", workload, describe_environment(PACKAGES), checks, tuple(rows))


def check_room(folder: Path, n_bytes: int) -> None:
    """Refuse to fill a disk."""
    free = shutil.disk_usage(folder).free
    if free < SPARE * n_bytes:
        raise OSError(f"{folder}: {free:,} bytes are free, {SPARE * n_bytes:,.0f} are needed")


def write_cohort(path: Path, grid: Grid, n_subjects: int) -> Cohort:
    """Write a store of independent noise, without files of maps before it."""
    place = find_place(path)
    layout = Layout(grid.n_voxels, shard_height(grid.n_voxels, n_subjects))
    header = new_header(layout, grid, Reading())
    noise = np.random.Generator(np.random.SFC64(0))
    with place.exclusive():
        write_grid(place, grid)
        commit(place, header)
        with Writer(place, header) as writer:
            for number in range(n_subjects):
                values = noise.standard_normal(grid.n_voxels, dtype=np.float32)
                crc = int.from_bytes(checksum(values), "little")
                label = f"{number:05d}"
                writer.add(values, Entry(label, None, 0, None, None, values.size, crc))
    return Cohort.open(path)


def compare(cohort: Cohort, size: Size) -> tuple[Check, ...]:
    """Check a test in blocks against one of all in memory, on a part of the subjects."""
    few = cohort.subset(np.arange(40))
    options = {"statistics": ALL_STATISTICS, "n_permutations": 20, "device": "cpu"}
    ours = permutation_test(few, memory=size.memory, **options)
    theirs = permutation_test(few.load(), **options)
    different = sum(
        np.count_nonzero(one.maxima != other.maxima)
        for one, other in zip(ours.outcomes, theirs.outcomes, strict=True)
    )
    return (check_below("maxima that differ from those in memory", float(different), 1),)


def one_test(path: str, memory: str, statistic: str, n_shuffles: str) -> None:
    """Test the mean of a store; only fit it without a statistic."""
    cohort = Cohort.open(path)
    if not statistic:
        fit(cohort, memory=memory, device="cpu").contrast()
        return
    permutation_test(
        cohort,
        statistics=(NAMES[statistic],),
        n_permutations=int(n_shuffles),
        memory=memory,
        device="cpu",
    )


def memories(cohort: Cohort, size: Size) -> list[Row]:
    """Measure the peak memory of processes that fit and test the store."""
    rows = []
    for statistic in ("", *NAMES):
        n_shuffles = size.n_shuffles if statistic == "voxelwise" else size.n_maps
        words = cohort.name, size.memory, statistic, str(n_shuffles)
        peak = run_alone(one_test, *words).peak_mib
        what = f"{statistic or 'fit'} of a store under {size.memory}: peak memory"
        rows.append(Row(what, "MiB", (peak,), (MEMORY_LIMIT_MIB,), "limit", 1.0))
    return rows


def speeds(cohort: Cohort, folder: Path, size: Size) -> list[Row]:
    """Time the largest t of shuffles from the store against the product in memory."""
    data = cohort.read().T
    signs = np.where(np.random.default_rng(0).random((SHUFFLE_TILE, len(data))) < 0.5, -1, 1)
    rows = signs.astype(np.float32)
    products = np.empty((SHUFFLE_TILE, data.shape[1]), dtype=np.float32)
    options = {"n_permutations": size.n_shuffles, "memory": size.memory, "device": "cpu"}

    def with_checkpoint() -> None:
        permutation_test(cohort, checkpoint=folder / "unfinished", **options)
        shutil.rmtree(folder / "unfinished")

    seconds = time_interleaved(
        {
            "np.matmul": lambda: np.matmul(rows, data, out=products),
            "test": lambda: permutation_test(cohort, **options),
            "checkpoint": with_checkpoint,
        },
        size.repeats,
    )
    n_tiles = size.n_shuffles / SHUFFLE_TILE
    product = tuple(n_tiles * second for second in seconds["np.matmul"])
    what = f"fit and largest t of {size.n_shuffles:,} shuffles from a store"
    operations = 2.0 * data.size * size.n_shuffles
    return [
        Row(
            what,
            "s",
            seconds["test"],
            product,
            "np.matmul, in memory",
            MATMUL_TARGET,
            operations=operations,
        ),
        Row(
            f"{what}, with checkpoints",
            "s",
            seconds["checkpoint"],
            seconds["test"],
            "without",
            CHECKPOINT_TARGET,
        ),
    ]


def analyse(path: str, memory: str, n_shuffles: str, folder: str) -> None:
    """Fit and report a store, then test it with sign flips, as a user does."""
    words = [path, "--memory", memory, "--device", "cpu", "--output-dir", folder]
    flips = ["--statistics", "voxelwise", "--n-permutations", n_shuffles, "--no-report"]
    seconds = {
        "fit and report": wall_seconds(lambda: cli.main(["fit", *words])),
        "sign flips": wall_seconds(lambda: cli.main(["permute", *words, *flips])),
    }
    Path(folder, "seconds.json").write_text(json.dumps(seconds))


def many_subjects(folder: Path, grid: Grid, size: Size, rows: list[Row]) -> list[Row]:
    """Measure the whole way of a very large cohort on a reduced mask, and extrapolate."""
    mask = np.zeros(grid.mask.size, dtype=bool)
    mask[np.flatnonzero(grid.mask)[: size.many_voxels]] = True
    small = Grid(mask.reshape(grid.mask.shape), grid.affine)
    check_room(folder, 4 * size.many_subjects * small.n_voxels)
    written: list[Cohort] = []
    stacking = wall_seconds(
        lambda: written.append(write_cohort(folder / "many.zarr", small, size.many_subjects))
    )
    words = written[0].name, "2G", str(size.many_shuffles), str(folder)
    usage = run_alone(analyse, *words)
    seconds: Mapping[str, float] = json.loads((folder / "seconds.json").read_text())
    return [
        *cohort_rows(small, size, seconds, stacking, rows),
        Row(
            f"{size.many_subjects:,} subjects, {small.n_voxels:,} voxels: peak memory",
            "MiB",
            (usage.peak_mib,),
            (2048.0,),
            "--memory 2G",
        ),
    ]


def cohort_rows(
    small: Grid, size: Size, seconds: Mapping[str, float], stacking: float, rows: list[Row]
) -> list[Row]:
    """Set the seconds of a very large cohort beside the cost model: 2 N V P over the product."""
    product = next(row for row in rows if row.operations)
    rate = product.operations / float(np.median(product.reference))
    group = f"{size.many_subjects:,} subjects"
    operations = 2.0 * size.many_subjects * size.many_shuffles
    many = 235_375 / small.n_voxels
    flips, modelled = seconds["sign flips"], operations * small.n_voxels / rate
    what = f"{group}, {size.many_shuffles:,} sign flips"
    model = "cost model, 2 N V P at np.matmul's rate"
    return [
        Row(f"{what}, {small.n_voxels:,} voxels", "s", (flips,), (modelled,), model),
        Row(
            f"{what}, {small.n_voxels:,} voxels; noise to store, fit and report before them",
            "s",
            (stacking + sum(seconds.values()),),
            (modelled,),
            model,
        ),
        Row(
            f"{what}, 235,375 voxels, extrapolated", "s", (many * flips,), (many * modelled,), model
        ),
    ]
