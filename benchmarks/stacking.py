"""What stacking a cohort on disk costs beside inflating its files, and what reading it brings."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from nilearn.datasets import load_mni152_brain_mask
from nilearn.maskers import NiftiMasker

from benchmarks.harness import Check, check_below, n_cores, run_alone, time_interleaved
from benchmarks.pipelines import map_paths
from benchmarks.records import Result, Row, describe_environment
from benchmarks.second_level import ellipsoid, inflate_all, write_maps
from gpustats import Cohort, images, load_maps, stack_maps
from gpustats.cohort_layout import DType

N_MAPS, N_MAPS_QUICK = 200, 8
REPEATS, QUICK_REPEATS = 7, 2
BLOCK = 8192
PACKAGES = ("gpustats", "nilearn", "numpy", "nibabel", "isal", "google-crc32c")

STACKING_TARGET = 0.8
SHARDS_IN_MEMORY = 2
SHARD_MIB = 128.0
LIBRARIES_MIB = 300.0


def run(*, quick: bool) -> Result:
    """Simulate a cohort, compare its store with its files, then measure.

    Parameters
    ----------
    quick
        Take a few maps on a coarse grid: to see that everything runs, not for the numbers.
    """
    n_maps, repeats = (N_MAPS_QUICK, QUICK_REPEATS) if quick else (N_MAPS, REPEATS)
    grid = ellipsoid() if quick else images.read_mask(load_mni152_brain_mask(resolution=2))
    with TemporaryDirectory() as name:
        folder = Path(name)
        mask = write_maps(grid, n_maps, folder)
        paths = map_paths(folder)
        checks = compare(paths, mask, folder)
        rows = [
            *stacking(paths, mask, folder, repeats),
            *reading(paths, mask, folder, repeats),
            memory(folder),
        ]
    workload = (
        f"{n_maps} simulated maps of {grid.n_voxels:,} voxels, compressed float32 files, mask "
        f"given; medians of {repeats} interleaved repeats, memory of one process"
    )
    return Result("stacking", workload, describe_environment(PACKAGES), checks, tuple(rows))


def compare(paths: Sequence[Path], mask: Path, folder: Path) -> tuple[Check, ...]:
    """Check what comes out of stores against what comes out of the files."""
    expected = load_maps(paths, mask).values
    exact, rounded = (
        np.abs(stack(paths, mask, folder, dtype).load().values - expected)
        for dtype in ("float32", "int16")
    )
    largest = np.abs(expected).max(axis=1, keepdims=True)
    return (
        check_below("values that a float32 store changes", float(np.count_nonzero(exact)), 1),
        check_below(
            "largest error of an int16 store, of the voxel's largest value",
            float((rounded / largest).max()),
            1 / 32767,
        ),
    )


def stack(paths: Sequence[Path], mask: Path, folder: Path, dtype: DType = "float32") -> Cohort:
    """Stack files anew."""
    store = folder / f"{dtype}.zarr"
    shutil.rmtree(store, ignore_errors=True)
    return stack_maps(paths, mask, store, dtype=dtype)


def stack_folder(folder: str) -> None:
    """Stack all maps of a folder."""
    stack(map_paths(Path(folder)), Path(folder, "mask.nii.gz"), Path(folder))


def stacking(paths: Sequence[Path], mask: Path, folder: Path, repeats: int) -> list[Row]:
    """Time the way from files to stores against the least it takes, and against nilearn."""
    competitors: dict[str, Callable[[], object]] = {
        "zlib": lambda: inflate_all(paths),
        "float32": lambda: stack(paths, mask, folder),
        "inflating": lambda: inflate_as_gpustats(paths),
        "int16": lambda: stack(paths, mask, folder, "int16"),
        "nilearn": lambda: NiftiMasker(mask, standardize=None).fit().transform(list(paths)),
    }
    seconds = time_interleaved(competitors, repeats)
    merely = {"zlib": "merely inflating them", "inflating": "inflating them as gpustats does"}
    return [
        Row(
            "files to store",
            "s",
            seconds["float32"],
            seconds["zlib"],
            merely["zlib"],
            STACKING_TARGET,
        ),
        Row("files to store", "s", seconds["float32"], seconds["inflating"], merely["inflating"]),
        Row("files to store", "s", seconds["float32"], seconds["nilearn"], "nilearn's NiftiMasker"),
        Row("files to store, int16", "s", seconds["int16"], seconds["zlib"], merely["zlib"]),
    ]


def inflate_as_gpustats(paths: Sequence[Path]) -> int:
    """Do what `inflate_all` does with the inflater that gpustats takes."""

    def inflate(path: Path) -> int:
        data = path.read_bytes()
        return len(images.inflate(data, int.from_bytes(data[-4:], "little")))

    with ThreadPoolExecutor(n_cores()) as pool:
        return sum(pool.map(inflate, paths))


def reading(paths: Sequence[Path], mask: Path, folder: Path, repeats: int) -> list[Row]:
    """Time reading from the store against reading from files, and against merely reading bytes."""
    cohort = stack(paths, mask, folder)
    shards = [file for file in (folder / "float32.zarr" / "values").rglob("*/0") if file.is_file()]
    seconds = time_interleaved(
        {
            "load": cohort.load,
            "files": lambda: load_maps(paths, mask),
            "blocks": lambda: sum(values.shape[0] for _, values in cohort.blocks(BLOCK)),
            "bytes": lambda: sum(len(shard.read_bytes()) for shard in shards),
        },
        repeats,
    )
    return [
        Row("store to memory", "s", seconds["load"], seconds["files"], "from the files"),
        Row(
            f"store in blocks of {BLOCK:,} voxels",
            "s",
            seconds["blocks"],
            seconds["bytes"],
            "merely reading its bytes",
        ),
    ]


def memory(folder: Path) -> Row:
    """Measure the memory of a process that stacks."""
    peak = run_alone(stack_folder, str(folder)).peak_mib
    limit = SHARDS_IN_MEMORY * SHARD_MIB + LIBRARIES_MIB
    return Row("files to store: peak memory", "MiB", (peak,), (limit,), "limit", 1.0)
