"""Groups without an effect, and how much is measured on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from benchmarks.records import Row
from gpustats import Grid, Maps
from gpustats.simulation import simulate_maps

FWHM_VOXELS = 3.53
"""A Gaussian of standard deviation 1.5."""
SEED = 21


class Effort(NamedTuple):
    """Say how much is done."""

    repeats: int
    """Of what takes milliseconds."""
    long_repeats: int
    """Of what takes seconds."""
    study_shuffles: int
    """Shuffles of a whole study."""
    first_use: bool
    """Whether to compile everything anew, which takes as long for any grid."""


FULL = Effort(15, 3, 10_000, first_use=True)
QUICK = Effort(3, 1, 200, first_use=False)


def null_group(grid: Grid, n_maps: int, seed: int = SEED) -> Maps:
    """Simulate maps of smooth noise and nothing else."""
    effect = np.zeros(grid.n_voxels, dtype=np.float32)
    fwhm_mm = FWHM_VOXELS * float(grid.voxel_sizes_mm.mean())
    values = np.empty((grid.n_voxels, n_maps), dtype=np.float32, order="F")
    for number, one in enumerate(simulate_maps(grid, effect, n_maps, fwhm_mm=fwhm_mm, seed=seed)):
        values[:, number] = one
    return Maps(values, grid, subject_labels(n_maps))


def subject_labels(n_subjects: int) -> tuple[str, ...]:
    """Name the subjects of a group: labelled designs are matched without a word."""
    return tuple(map(str, range(n_subjects)))


def each(seconds: Iterable[float], n: int) -> tuple[float, ...]:
    """Share every time among n maps or shuffles."""
    return tuple(second / n for second in seconds)


def limited(what: str, seconds: tuple[float, ...], limit: float) -> Row:
    """Compare times with the longest wanted one."""
    return Row(what, "s", seconds, (limit,), "limit", 1.0)
