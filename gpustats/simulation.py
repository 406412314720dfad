"""Groups of maps whose truth is known: for the demonstration, the examples and the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpustats.maps import gaussian
from gpustats.spaces import Grid


@dataclass(frozen=True)
class Blob:
    """A ball in which the maps have an effect.

    Parameters
    ----------
    centre_mm
        Its centre.
    radius_mm
        Its radius.
    effect
        The mean over subjects, in standard deviations between subjects (Cohen's d).
    """

    centre_mm: tuple[float, float, float]
    radius_mm: float
    effect: float


def effect_map(grid: Grid, blobs: Sequence[Blob]) -> NDArray[np.float32]:
    """Return the true effect at every voxel of a grid, ``(n_voxels,)``."""
    coordinates = grid.to_mm(np.argwhere(grid.mask))
    effect = np.zeros(grid.n_voxels, dtype=np.float32)
    for blob in blobs:
        distance = np.linalg.norm(coordinates - blob.centre_mm, axis=1)
        effect[distance <= blob.radius_mm] = blob.effect
    return effect


def simulate_maps(
    grid: Grid, effect: NDArray[np.float32], n_subjects: int, *, fwhm_mm: float, seed: int
) -> Iterator[NDArray[np.float32]]:
    """Yield the map of each subject: the effect, and smooth noise of unit variance.

    Parameters
    ----------
    grid
        Where.
    effect
        ``(n_voxels,)``, see `effect_map`.
    n_subjects
        How many.
    fwhm_mm
        Full width at half maximum of the noise's smoothing, in mm.
    seed
        Seed of the noise; subject ``i`` is the same whatever the number of subjects.

    Yields
    ------
    ndarray
        ``(n_voxels,)`` float32.
    """
    fwhm_voxels = fwhm_mm / grid.voxel_sizes_mm
    for subject in range(n_subjects):
        rng = np.random.default_rng([seed, subject])
        noise = rng.standard_normal(grid.mask.shape, dtype=np.float32)
        noise = gaussian(noise, fwhm_voxels)
        yield noise[grid.mask] / noise.std() + effect
