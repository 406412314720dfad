"""Maps that stay on disk: the voxels of a cohort that can be analysed, read block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpustats.cohort import Cohort
from gpustats.cohort_layout import VOXELS_PER_CHUNK
from gpustats.spaces import Grid
from gpustats.stacking import logged, prefetch

STRETCH_BYTES = 2**25
"""What is read at a time where some of it is left out."""


@dataclass(frozen=True, eq=False)
class StoredMaps:
    """Hold one map per subject in a store, for analyses that read blocks of voxels.

    Parameters
    ----------
    cohort
        The store.
    kept
        ``(n_voxels,)``: which voxels of the store these are, ascending.
    grid
        The same voxels, in space.
    dropped
        How many voxels left the mask, by reason.
    """

    cohort: Cohort
    kept: NDArray[np.intp]
    grid: Grid
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def subjects(self) -> tuple[str, ...] | None:
        """Label of each subject, or None when they carry none."""
        return self.cohort.subjects

    @property
    def n_voxels(self) -> int:
        """Number of voxels in the mask."""
        return int(self.kept.size)

    @property
    def n_subjects(self) -> int:
        """Number of maps."""
        return self.cohort.n_subjects

    def digest(self) -> str:
        """Return a word that is equal for equal values in the same voxels."""
        return self.cohort.fingerprint

    def read(self, span: range) -> NDArray[np.float32]:
        """Read a block of voxels, ``(len(span), n_subjects)`` in Fortran order."""
        places = self.kept[span.start : span.stop]
        first, last = int(places[0]), int(places[-1]) + 1
        if last - first == places.size:
            return self.cohort.read(first, last)
        # stretch by stretch: voxels that left the mask may be many
        block = np.empty((self.n_subjects, places.size), dtype=np.float32)
        step = max(1, STRETCH_BYTES // (4 * self.n_subjects * VOXELS_PER_CHUNK)) * VOXELS_PER_CHUNK
        for start in range(first // step * step, last, step):
            low, high = np.searchsorted(places, (start, start + step))
            if low == high:
                continue
            here = places[low:high]
            values = self.cohort.read(int(here[0]), int(here[-1]) + 1)
            np.take(values.T, here - here[0], axis=1, out=block[:, low:high], mode="clip")
        return block.T

    def blocks(self, size: int) -> Iterator[tuple[range, NDArray[np.float32]]]:
        """Read all voxels block by block, each while the one before is worked on."""

        def block(first: int) -> tuple[range, NDArray[np.float32]]:
            span = range(first, min(first + size, self.n_voxels))
            return span, self.read(span)

        yield from prefetch(block, range(0, self.n_voxels, size), 1, n_ahead=1)


class Sieve:
    """Decide block by block which voxels of a store can be analysed, as `Cohort.load` does.

    Parameters
    ----------
    maps
        The store, or some of its voxels.
    """

    def __init__(self, maps: StoredMaps | Cohort) -> None:
        self.whole = maps if isinstance(maps, StoredMaps) else everything(maps)
        self.kept: list[NDArray[np.intp]] = []
        self.dropped = {"missing in some map": 0, "equal in all maps": 0}

    def usable(self, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Tell which voxels of a block are finite in every map and differ between some."""
        maps = values.T
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(maps.sum(axis=0))
        if not finite.all():
            finite = np.isfinite(maps).all(axis=0)
        varies = np.zeros_like(finite)
        for one in maps[1:]:
            varies |= one != maps[0]
            if varies.all():
                break
        self.dropped["missing in some map"] += int(np.count_nonzero(~finite))
        self.dropped["equal in all maps"] += int(np.count_nonzero(finite & ~varies))
        return np.asarray(finite & varies)

    def keep(self, voxels: NDArray[np.intp], reason: str, n_dropped: int) -> None:
        """Note which voxels of the store will be analysed, and how many left for a reason."""
        self.kept.append(voxels)
        if n_dropped:
            self.dropped[reason] = self.dropped.get(reason, 0) + n_dropped

    def maps(self) -> StoredMaps:
        """Return the maps of what was kept, and log what was not.

        Raises
        ------
        ValueError
            If no voxel is left.
        """
        kept = np.concatenate([np.empty(0, dtype=np.intp), *self.kept])
        logged(self.dropped)
        if kept.size == 0:
            raise ValueError("no voxel is left that is finite in all maps and differs between some")
        keep = np.zeros(self.whole.n_voxels, dtype=bool)
        keep[kept] = True
        dropped = dict(self.whole.dropped)
        for reason, count in self.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
        whole = self.whole
        return StoredMaps(whole.cohort, whole.kept[kept], whole.grid.subset(keep), dropped)


def everything(cohort: Cohort) -> StoredMaps:
    """Return the maps of all voxels of a store, missing ones and all."""
    return StoredMaps(cohort, np.arange(cohort.n_voxels), cohort.grid)
