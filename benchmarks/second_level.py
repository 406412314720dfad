"""How much faster than nilearn a fit and its z map are, from files and from the array."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from nilearn.datasets import load_mni152_brain_mask
from nilearn.glm.contrasts import compute_contrast
from nilearn.glm.first_level import run_glm
from numpy.typing import NDArray

from benchmarks.harness import Check, check_below, n_cores, run_alone, time_interleaved
from benchmarks.pipelines import fit_files, map_paths, z_map, z_map_of_folder
from benchmarks.records import Result, Row, describe_environment
from gpustats import Grid, Maps, fit, images, load_maps
from gpustats.simulation import Blob, effect_map, simulate_maps

N_MAPS, N_MAPS_QUICK = 100, 8
LONG_REPEATS, SHORT_REPEATS, QUICK_REPEATS = 5, 15, 3
FWHM_MM = 6.0
BLOB = Blob((-40.0, -24.0, 36.0), 16.0, 1.5)
SEED = 20
PACKAGES = ("gpustats", "nilearn", "numpy", "scipy", "numba", "nibabel")

FROM_FILES_TARGET = 8.0
FROM_ARRAY_TARGET = 50.0
CONTRAST_TARGET = 50.0
LOADING_TARGET = 0.8
STACKS_IN_MEMORY = 1.5
LIBRARIES_MIB = 300.0

Z_ERROR = 1e-5
Z_CHECKED = 8.0
"""nilearn's z is coarse beyond: it goes through 1 - p."""


def run(*, quick: bool) -> Result:
    """Simulate a group, compare the z maps, then measure.

    Parameters
    ----------
    quick
        Take a few maps on a coarse grid: to see that everything runs, not for the numbers.
    """
    n_maps = N_MAPS_QUICK if quick else N_MAPS
    long, short = (QUICK_REPEATS,) * 2 if quick else (LONG_REPEATS, SHORT_REPEATS)
    grid = ellipsoid() if quick else images.read_mask(load_mni152_brain_mask(resolution=2))
    with TemporaryDirectory() as name:
        folder = Path(name)
        mask = write_maps(grid, n_maps, folder)
        paths = map_paths(folder)
        checks = (compare(paths, None), compare(paths, mask))
        rows = [
            from_files("files to z map, no mask given", paths, None, long),
            from_files("files to z map, mask given", paths, mask, long),
            from_array(load_maps(paths, mask), short),
            further_contrast(paths, mask, long),
            *loading(paths, mask, short),
            *processes(folder, 4 * n_maps * grid.n_voxels / 2**20),
        ]
    workload = (
        f"{n_maps} simulated maps of {grid.n_voxels:,} voxels, compressed float32 files; "
        f"medians of {long} interleaved repeats ({short} of the array and of loading), "
        "processes run once"
    )
    environment = describe_environment(PACKAGES)
    return Result("second_level", workload, environment, checks, tuple(rows))


def ellipsoid() -> Grid:
    """Return a brain-like mask on an 8 mm grid that needs no template."""
    shape = np.array([24, 28, 24])
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    affine[:3, 3] = -8.0 * (shape - 1) / 2
    indices = np.moveaxis(np.indices(tuple(shape)), 0, -1)
    radii = (indices - (shape - 1) / 2) / (shape / 2 - 3)
    return Grid((radii**2).sum(axis=-1) <= 1, affine)


def write_maps(grid: Grid, n_maps: int, folder: Path) -> Path:
    """Write the maps of a simulated group and its mask, and return the path of the mask."""
    effect = effect_map(grid, [BLOB])
    simulated = simulate_maps(grid, effect, n_maps, fwhm_mm=FWHM_MM, seed=SEED)
    for number, values in enumerate(simulated, start=1):
        images.save_image(images.unmask(values, grid), folder / f"sub-{number:03d}_con.nii.gz")
    mask = folder / "mask.nii.gz"
    images.save_image(images.to_image(grid.mask, grid.affine), mask)
    return mask


def compare(paths: Sequence[Path], mask: Path | None) -> Check:
    """Check our z map against nilearn's on the voxels that both analysed."""
    ours, theirs = (
        np.asarray(z_map(package, paths, mask).dataobj) for package in ("gpustats", "nilearn")
    )
    given = "no mask given" if mask is None else "mask given"
    both = (ours != 0) & (theirs != 0)
    alone = 1 - np.count_nonzero(both) / np.count_nonzero((ours != 0) | (theirs != 0))
    check_below(f"share of voxels that only one of the two analysed, {given}", alone, 0.05)
    both &= np.abs(ours) < Z_CHECKED
    error = float(np.abs(ours - theirs)[both].max())
    return check_below(
        f"largest difference from nilearn's z where |z| < {Z_CHECKED:g}, {given}", error, Z_ERROR
    )


def from_files(what: str, paths: Sequence[Path], mask: Path | None, repeats: int) -> Row:
    """Time the way from files to the image of z."""
    seconds = time_interleaved(
        {
            "gpustats": lambda: z_map("gpustats", paths, mask),
            "nilearn": lambda: z_map("nilearn", paths, mask),
        },
        repeats,
    )
    return Row(what, "s", seconds["gpustats"], seconds["nilearn"], "nilearn", FROM_FILES_TARGET)


def from_array(maps: Maps, repeats: int) -> Row:
    """Time the way from the stacked array to the array of z."""
    # (n_maps, n_voxels), float32, C order: what nilearn's own masker would hand over
    stacked = maps.values.T
    seconds = time_interleaved(
        {
            "gpustats": lambda: fit(maps, device="cpu").contrast().z,
            "nilearn": lambda: nilearn_z(stacked),
        },
        repeats,
    )
    return Row(
        "stacked array to z",
        "s",
        seconds["gpustats"],
        seconds["nilearn"],
        "nilearn",
        FROM_ARRAY_TARGET,
    )


def nilearn_z(stacked: NDArray[np.float32]) -> Any:
    """Fit and test the group mean of ``(n_maps, n_voxels)`` values as nilearn's model does."""
    labels, results = run_glm(stacked, np.ones((stacked.shape[0], 1)), noise_model="ols")
    return compute_contrast(labels, results, np.ones(1), stat_type="t").z_score()


def further_contrast(paths: Sequence[Path], mask: Path, repeats: int) -> Row:
    """Time the image of z of one more contrast on a fitted model; nilearn reads the files anew."""
    ours, theirs = (fit_files(package, paths, mask) for package in ("gpustats", "nilearn"))
    seconds = time_interleaved(
        {
            "gpustats": lambda: ours.compute_contrast([-1.0]),
            "nilearn": lambda: theirs.compute_contrast([-1.0]),
        },
        repeats,
    )
    return Row(
        "a further contrast, fitted model to z map",
        "s",
        seconds["gpustats"],
        seconds["nilearn"],
        "nilearn",
        CONTRAST_TARGET,
    )


def loading(paths: Sequence[Path], mask: Path, repeats: int) -> list[Row]:
    """Time loading against what it cannot do without: inflating the files."""
    seconds = time_interleaved(
        {
            "no mask given": lambda: load_maps(paths),
            "zlib": lambda: inflate_all(paths),
            "mask given": lambda: load_maps(paths, mask),
        },
        repeats,
    )
    return [
        Row(
            f"files to stacked array, {given}",
            "s",
            seconds[given],
            seconds["zlib"],
            "merely inflating them",
            LOADING_TARGET,
        )
        for given in ("no mask given", "mask given")
    ]


def inflate_all(paths: Sequence[Path]) -> int:
    """Read and inflate files with zlib on all cores, and return how many bytes they hold."""
    with ThreadPoolExecutor(n_cores()) as pool:
        return sum(pool.map(inflate, paths))


def inflate(path: Path) -> int:
    """Inflate one file at once: the last four bytes of gzip tell how much room it takes."""
    data = path.read_bytes()
    length = int.from_bytes(data[-4:], "little")
    return len(zlib.decompress(data, wbits=31, bufsize=length))


def processes(folder: Path, stack_mib: float) -> list[Row]:
    """Measure a process of its own from its start to the image of z, no mask given."""
    ours, theirs = (
        run_alone(z_map_of_folder, package, str(folder)) for package in ("gpustats", "nilearn")
    )
    first = run_alone(z_map_of_folder, "gpustats", str(folder), cold=True)
    limit = STACKS_IN_MEMORY * stack_mib + LIBRARIES_MIB
    what = "whole process, files to z map"
    peak = (ours.peak_mib,)
    return [
        Row(what, "s", (ours.seconds,), (theirs.seconds,), "nilearn"),
        Row(f"{what}, nothing compiled yet", "s", (first.seconds,), (theirs.seconds,), "nilearn"),
        Row(f"{what}: peak memory", "MiB", peak, (theirs.peak_mib,), "nilearn"),
        Row(f"{what}: peak memory", "MiB", peak, (limit,), "limit", 1.0),
    ]
