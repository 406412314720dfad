"""Groups and null maps for measurements on a GPU, and how much is measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from benchmarks import voxelwise
from benchmarks.null_group import null_group, subject_labels
from gpustats import Grid, Maps
from gpustats.engines import SHUFFLE_TILE, Array, Engine, resolve

SIMULATED = 100
"""Subjects that are simulated; larger groups consist of their maps, turned over at random."""
ROOM_FOR_STACK = 2.2
"""Stacks that the host needs room for: the maps, and their residuals if the device has no room."""
ROOM_FOR_MAPS = 1.5
SEED = 21


class Sizes(NamedTuple):
    """Say how much is measured.

    Parameters
    ----------
    subjects
        Sizes of groups.
    nuisance_subjects
        Size of the group with nuisance.
    few_voxels
        Voxels on which the engine of the CPU does the same.
    labelled, clustered, rough
        Maps whose components are labelled, whose clusters are summed, and that are not smooth.
    enhanced
        Batches of maps with TFCE.
    checked
        Maps on which the engine of the CPU does the same.
    copied_bytes
        What is copied to measure bandwidth.
    repeats, long_repeats
        Of a call, and of what takes seconds.
    study_shuffles, study_subjects
        Shuffles of a whole study, and the groups.
    """

    subjects: tuple[int, ...] = (20, 100, 1000, 40_000)
    nuisance_subjects: int = 100
    few_voxels: int = 4096
    labelled: int = 16
    clustered: int = 1152
    rough: int = 132
    enhanced: tuple[int, ...] = (1, 132, 1024, 4096)
    checked: int = 4
    copied_bytes: int = 2**30
    repeats: int = 9
    long_repeats: int = 3
    study_shuffles: int = 10_000
    study_subjects: tuple[int, ...] = (20, 100)


QUICK = Sizes(
    subjects=(20,),
    nuisance_subjects=20,
    labelled=4,
    clustered=32,
    rough=4,
    enhanced=(1, 32),
    copied_bytes=2**28,
    repeats=3,
    long_repeats=1,
    study_shuffles=400,
    study_subjects=(20,),
)


@dataclass(frozen=True, eq=False)
class Data:
    """Hold what is worked on.

    Parameters
    ----------
    grid
        Where.
    sizes
        How much.
    """

    grid: Grid
    sizes: Sizes

    @cached_property
    def engine(self) -> Engine:
        """The engine of the first GPU."""
        return resolve("cuda")

    @property
    def cpu(self) -> Engine:
        """The engine that does the same on the CPU."""
        return voxelwise.ENGINE

    @cached_property
    def simulated(self) -> Maps:
        """Maps of smooth noise."""
        return null_group(self.grid, min(SIMULATED, max(self.sizes.subjects)))

    def group(self, n_subjects: int) -> Maps:
        """Return a group of a size.

        Raises
        ------
        MemoryError
            If the host has no room for it.
        """
        needed = ROOM_FOR_STACK * 4 * n_subjects * self.grid.n_voxels
        check_room(f"{n_subjects:,} subjects", needed, self.cpu)
        own = self.simulated.values
        values = np.empty((self.grid.n_voxels, n_subjects), dtype=np.float32, order="F")
        signs = np.random.default_rng(SEED).choice(np.float32([-1, 1]), n_subjects)
        signs[: own.shape[1]] = 1
        for number, sign in enumerate(signs):
            np.multiply(own[:, number % own.shape[1]], sign, out=values[:, number])
        return Maps(values, self.grid, subject_labels(n_subjects))

    def few_voxels_of(self, maps: Maps) -> Maps:
        """Return the maps at the first voxels."""
        keep = np.arange(self.grid.n_voxels) < self.sizes.few_voxels
        values = np.asfortranarray(maps.values[: self.sizes.few_voxels])
        return Maps(values, self.grid.subset(keep), maps.subjects)

    def null_maps(self, n_maps: int) -> Array:
        """Return maps of t of shuffles, on the device.

        Raises
        ------
        MemoryError
            If the device has no room for them.
        """
        import cupy

        shape = n_maps, self.grid.n_voxels
        check_room(f"{n_maps:,} maps", ROOM_FOR_MAPS * 4 * n_maps * shape[1], self.engine)
        room = cupy.empty(shape, dtype=np.float32)
        group = self.group(self.sizes.subjects[0])
        design = voxelwise.mean_design(group.n_subjects)
        job = voxelwise.prepare(group, design, self.engine)
        for first in range(0, n_maps, SHUFFLE_TILE):
            job.null_maps(room[first : first + SHUFFLE_TILE], first)
        return room


def check_room(what: str, needed: float, engine: Engine) -> None:
    """Refuse what a device or the host has no room for."""
    free = engine.free_bytes()
    if needed > free:
        gigabytes = f"{needed / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB are free"
        raise MemoryError(f"{what} need {gigabytes}")
