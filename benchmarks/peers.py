"""The jobs of `permutation` in other packages; none of them has to be installed.

A job takes a number of shuffles, or works on one map. Packages are imported when a job is made.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import n_cores, time_interleaved

DISTRIBUTIONS = {
    "MNE": "mne",
    "cc3d": "connected-components-3d",
    "niimath": "niimath",
    "nilearn": "nilearn",
    "tfce": "tfce",
}
"""Peers from PyPI."""
COMMANDS = {"MRtrix3": "mrclusterstats"}
"""Peers from the system's packages."""
LEAST_SECONDS = 1e-6
"""What is put in place of a difference of times that noise made smaller."""


def is_installed(peer: str) -> bool:
    """Tell whether a peer is there."""
    if peer in COMMANDS:
        return shutil.which(COMMANDS[peer]) is not None
    try:
        importlib.metadata.version(DISTRIBUTIONS[peer])
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def versions() -> dict[str, str]:
    """Return the version of every peer that is there."""
    found = {
        peer: importlib.metadata.version(name)
        for peer, name in DISTRIBUTIONS.items()
        if is_installed(peer)
    }
    for peer in filter(is_installed, COMMANDS):
        # the first line is "== mrclusterstats 3.0.3 =="
        output = subprocess.run([COMMANDS[peer], "-version"], capture_output=True, text=True)
        found[peer] = output.stdout.split()[2]
    return found


def per_shuffle(
    jobs: Mapping[str, Callable[[int], object]], few: int, many: int, repeats: int
) -> dict[str, tuple[float, ...]]:
    """Time what one shuffle takes, without what a job does once.

    Parameters
    ----------
    jobs
        What to call with a number of shuffles, by name.
    few, many
        Two numbers of shuffles: the difference of their times counts.
    repeats
        How often to call each, after a first call of each that is not timed.

    Returns
    -------
    dict
        Seconds of a shuffle in every repeat, by name.
    """
    competitors = {
        f"{name}, {n}": partial(job, n) for name, job in jobs.items() for n in (few, many)
    }
    seconds = time_interleaved(competitors, repeats)
    return {
        name: tuple(
            max(longer - shorter, LEAST_SECONDS) / (many - few)
            for shorter, longer in zip(
                seconds[f"{name}, {few}"], seconds[f"{name}, {many}"], strict=True
            )
        )
        for name in jobs
    }


def nilearn_shuffles(data: NDArray[np.float32], **options: Any) -> Callable[[int], object]:
    """Make the one-sample test of ``(n, n_voxels)`` data by sign flips."""
    from nilearn.mass_univariate import permuted_ols

    tested = np.ones((len(data), 1))

    def job(n_shuffles: int) -> object:
        with warnings.catch_warnings():
            # of images in 64-bit integers, which nilearn makes itself
            warnings.simplefilter("ignore")
            return permuted_ols(
                tested, data, model_intercept=False, n_perm=n_shuffles, random_state=0, **options
            )

    return job


def nilearn_masker(mask: Any) -> Any:
    """Make what nilearn needs to know of space for clusters and TFCE."""
    from nilearn.maskers import NiftiMasker

    return NiftiMasker(mask).fit()


def mne_shuffles(data: NDArray[np.float32]) -> Callable[[int], object]:
    """Make the one-sample test of ``(n, n_voxels)`` data by sign flips."""
    from mne.stats import permutation_t_test

    return lambda n_shuffles: permutation_t_test(data, n_shuffles, verbose=False)


def mrtrix_shuffles(paths: Sequence[Path], mask: Path, folder: Path) -> Callable[[int], object]:
    """Make the one-sample test of files with TFCE in steps of 0.1, 6 neighbours, all cores."""
    inputs = folder / "inputs.txt"
    # names are relative to the file that lists them
    inputs.write_text("".join(f"{os.path.relpath(path, folder)}\n" for path in paths))
    design, contrast = folder / "design.txt", folder / "contrast.txt"
    design.write_text("1\n" * len(paths))
    contrast.write_text("1\n")
    command = [COMMANDS["MRtrix3"], "-quiet", "-force", "-errors", "ise"]
    files = [inputs, design, contrast, mask, folder / "mrtrix_"]

    def job(n_shuffles: int) -> object:
        options = ["-nthreads", str(n_cores()), "-nshuffles", str(n_shuffles)]
        return subprocess.run([*command, *options, *files], check=True)

    return job


def niimath_maps(path: Path, folder: Path, connectivity: int) -> Callable[[int], object]:
    """Make the TFCE of a map, an uncompressed file, in FSL's steps; 0 maps is only the copying."""
    import niimath

    environment = {**os.environ, "FSLOUTPUTTYPE": "NIFTI", "OMP_NUM_THREADS": "1"}

    def job(n_maps: int) -> object:
        operation = ["-tfce", "2", "0.5", str(connectivity)] if n_maps else ["-add", "0"]
        command = [niimath.bin, path, *operation, folder / "niimath.nii"]
        return subprocess.run(command, env=environment, check=True)

    return job


def tfce_maps(volumes: NDArray[np.float32], connectivity: int, threads: int) -> Any:
    """Enhance the positive side of volumes ``(nx, ny, nz, n_maps)``."""
    from tfce import tfce

    return tfce(volumes, connectivity=connectivity, two_sided=False, n_jobs=threads)


def scipy_clusters(volume: NDArray[np.float32], threshold: float) -> tuple[int, float]:
    """Return the largest extent and mass of the clusters of a volume, 26 neighbours."""
    from scipy.ndimage import label

    above = volume >= threshold
    return largest(label(above, np.ones((3, 3, 3)))[0], above, volume)


def cc3d_clusters(volume: NDArray[np.float32], threshold: float) -> tuple[int, float]:
    """Do what `scipy_clusters` does with cc3d."""
    from cc3d import connected_components

    above = volume >= threshold
    return largest(connected_components(above, connectivity=26), above, volume)


def largest(
    labels: NDArray[Any], above: NDArray[np.bool_], volume: NDArray[np.float32]
) -> tuple[int, float]:
    """Return the largest extent and mass of labelled clusters."""
    inside = labels[above]
    if inside.size == 0:
        return 0, 0.0
    return int(np.bincount(inside).max()), float(np.bincount(inside, volume[above]).max())
