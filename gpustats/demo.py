"""The demonstration: a group of simulated subjects on the 2 mm MNI brain, and its truth."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpustats import images
from gpustats.pictures import require_nilearn
from gpustats.progress import shown
from gpustats.simulation import Blob, effect_map, simulate_maps

FWHM_MM = 6.0
BLOBS = (
    Blob((-40.0, -24.0, 56.0), 12.0, 1.5),
    Blob((40.0, -24.0, 56.0), 10.0, 1.2),
    Blob((0.0, 4.0, 54.0), 9.0, 1.2),
    Blob((-30.0, -78.0, -8.0), 12.0, 1.0),
    Blob((24.0, -4.0, -18.0), 8.0, 1.5),
    Blob((0.0, -52.0, 28.0), 12.0, -1.2),
)
"""Where the simulated subjects respond: five regions, and one that goes down."""


@dataclass(frozen=True, eq=False)
class Group:
    """Hold the files of a simulated group, and the truth.

    Parameters
    ----------
    paths
        One map per subject.
    mask_path
        The mask.
    effect
        ``(nx, ny, nz)``: the true effect.
    """

    paths: tuple[Path, ...]
    mask_path: Path
    effect: NDArray[np.float32]


def simulate(folder: Path, *, n_subjects: int, seed: int) -> Group:
    """Write the maps of a simulated group to a folder.

    Parameters
    ----------
    folder
        Where to; made if absent.
    n_subjects
        How many subjects, at least 2.
    seed
        Seed of the noise.

    Raises
    ------
    ImportError
        If nilearn, which brings the brain mask, is not installed.
    ValueError
        If there are fewer than two subjects.
    """
    if n_subjects < 2:
        raise ValueError(f"a group needs at least 2 subjects, got {n_subjects}")
    if seed < 0:
        raise ValueError(f"seed must be a whole number >= 0, got {seed}")
    require_nilearn()
    from nilearn.datasets import load_mni152_brain_mask

    mask = load_mni152_brain_mask(resolution=2)
    grid = images.read_mask(mask)
    folder.mkdir(parents=True, exist_ok=True)
    images.save_image(mask, folder / "mask.nii.gz", np.uint8)
    effect = effect_map(grid, BLOBS)
    paths = tuple(folder / f"sub-{n:02d}_con.nii.gz" for n in range(1, n_subjects + 1))
    simulated = simulate_maps(grid, effect, n_subjects, fwhm_mm=FWHM_MM, seed=seed)
    with ThreadPoolExecutor() as pool:
        saved = [
            pool.submit(images.save_image, images.unmask(values, grid), path)
            for values, path in zip(
                shown(simulated, "simulating", n_subjects, "map"),
                paths,
                strict=True,
            )
        ]
        for task in saved:
            task.result()
    return Group(paths, folder / "mask.nii.gz", grid.unmask(effect).astype(np.float32))


def compare(group: Group, results: Path) -> str:
    """Say how much of the truth the thresholded map of a result folder found.

    Parameters
    ----------
    group
        What was simulated.
    results
        Where ``gpustats fit`` wrote.
    """
    path = results / "contrast-intercept_stat-z_desc-thresholded_statmap.nii.gz"
    found, _ = images.read_map(path)
    responds = group.effect != 0
    n_true, n_found = int(responds.sum()), int((found != 0).sum())
    n_right = int((responds & (np.sign(found) == np.sign(group.effect))).sum())
    n_false = n_found - n_right
    return (
        f"found {n_right:,} of {n_true:,} voxels that truly respond; "
        f"{n_false:,} of {n_found:,} found voxels ({n_false / max(n_found, 1):.1%}) do not"
    )
