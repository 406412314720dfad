"""Which voxels supply the maxima of the shuffles: counts of voxels, statistic by statistic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import Array, Engine, ScoreCounts
from gpustats.enhancements import Enhancer


class Contributions:
    """Count how many shuffles have their maximum at each voxel.

    Every voxel counts whose score is the maximum of its shuffle, ties included: one voxel, mostly,
    of the voxels' own values and of TFCE, and all voxels of the winning cluster. A shuffle without
    any score counts nowhere.

    Parameters
    ----------
    engine
        What computes.
    n_voxels
        How many voxels there are.
    two_sided
        Whether both tails count.
    """

    def __init__(self, engine: Engine, n_voxels: int, two_sided: bool) -> None:
        self.engine = engine
        self.n_voxels = n_voxels
        self.two_sided = two_sided
        self.go_on(np.zeros(n_voxels, dtype=np.int64))

    @property
    def counts(self) -> NDArray[np.int64]:
        """The counts so far, ``(n_voxels,)``."""
        counts: NDArray[np.int64] = self.engine.to_host(self._counts)
        return counts

    def go_on(self, counts: NDArray[np.int64]) -> None:
        """Take the counts that another process came to."""
        self._counts = self.engine.to_device(counts.copy())

    def add_values(self, maps: Array) -> None:
        """Count where maps have their largest values."""
        upper = self.engine.to_host(maps.max(axis=1))
        peaks = np.maximum(upper, -self.engine.to_host(maps.min(axis=1)))
        for values, peak in zip(maps, (peaks if self.two_sided else upper).tolist(), strict=True):
            self._counts += values >= peak
            if self.two_sided:
                self._counts += values <= -peak

    def add_scores(self, enhancer: Enhancer, maps: Array, peaks: NDArray[np.float64]) -> None:
        """Count where one side of maps has scores that supply the peaks, those of either side."""
        for number, limit in enumerate(enhancer.supplying(maps, peaks)):
            if limit < np.inf:
                limits = self.engine.to_device(np.full(self.n_voxels, limit))
                one = maps[number : number + 1]
                enhancer.peaks(one, ScoreCounts(limits, self._counts))
