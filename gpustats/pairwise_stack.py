"""How a stack grows whose voxels may lack some of the subjects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpustats.spaces import Grid
from gpustats.stacking import Stack, logged


class PairwiseStack(Stack):
    """Grow an array in which NaN says that a subject has no data at a voxel.

    Parameters
    ----------
    grid, n_maps, all_rows
        As of `Stack`.
    min_subjects
        How many maps must have data at a voxel.
    """

    def __init__(self, grid: Grid, n_maps: int, min_subjects: int, *, all_rows: bool) -> None:
        super().__init__(grid, n_maps, all_rows=all_rows)
        self.wanted = f"{min_subjects} maps"
        self.min_subjects = min_subjects
        self.n_observed = np.zeros(self.cells.size, dtype=np.int32)
        self.first_observed = np.full(self.cells.size, np.nan, dtype=np.float32)
        self.varies = np.zeros(self.cells.size, dtype=bool)

    def add(self, values: NDArray[np.float32], name: str) -> None:
        """Append a map: what is not finite in it becomes NaN."""
        super().add(np.where(np.isfinite(values), values, np.float32(np.nan)), name)

    def _note_missing(self, values: NDArray[np.float32], name: str) -> None:
        """Keep account of how many maps have data, and whether these differ."""
        super()._note_missing(values, name)
        observed = ~np.isnan(values)
        self.n_observed += observed
        np.copyto(self.first_observed, values, where=np.isnan(self.first_observed))
        self.varies |= observed & (values != self.first_observed)

    def _differs(self, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Tell which candidates have other data than the first map, or data where it has none."""
        both_missing = np.isnan(values) & np.isnan(self.first)
        return np.asarray((values != self.first) & ~both_missing)

    def _usable(self) -> NDArray[np.bool_]:
        """Tell which candidates have data in enough maps, and vary."""
        return np.asarray((self.n_observed >= self.min_subjects) & self.varies)

    def dropped(self, *, allow_missing: bool) -> dict[str, int]:
        """Count, and log, the voxels that cannot be analysed, by reason."""
        del allow_missing
        expected = self.ever_finite | self.all_rows
        few = self.n_observed < self.min_subjects
        dropped = {
            f"observed in fewer than {self.min_subjects} maps": int(
                np.count_nonzero(expected & few)
            )
        }
        if self.all_rows:
            dropped["equal in all maps"] = int(np.count_nonzero(~few & ~self.varies))
        return logged(dropped)
