"""What calibrates bounds on true discoveries: how far the ranked p of a map fall below a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import Array, Engine, ScoreCounts
from gpustats.engines.scores import step_of, steps
from gpustats.enhancements import Enhancer, MapKind
from gpustats.significance import log10_p
from gpustats.spaces import Grid

NAME = "true_discoveries"
"""The key of its results."""


@dataclass(frozen=True)
class TrueDiscoveries:
    """Compare ranked p of each map, to bound how many voxels of any cluster are active.

    The score of a voxel is -log10 of its p, as the statistic's law has it, on the side of its sign:
    two-sided p where both tails count, and 0 where the statistic is below 1/64. What is kept of a
    shuffle is the largest score + log10 k of a side, where k is the rank of the voxel there: -log10
    of the smallest p₍k₎ / k. With t the p that the outcome's threshold stands for, at most alpha of
    the shuffles have a p₍k₎ below k t for any k; from that line
    `gpustats.permutation_true_discoveries` bounds the discoveries in any set of voxels [1]_ [2]_.
    Corrected p are valid, and seldom smaller than those of `Voxelwise`.

    Notes
    -----
    p are rounded up to one of 65,536 values, by 2.5 % at t = 5 with many degrees of freedom, in
    all maps alike: a map takes no sorting, and the error rate is kept.

    References
    ----------
    .. [1] Blanchard, Neuvial & Roquain (2020), Ann. Stat. 48, 1281-1303.
    .. [2] Andreella, Hemerik, Finos, Weeda & Goeman (2023), Stat. Med. 42, 2311-2340.
    """

    @property
    def name(self) -> str:
        """The key of its results."""
        return NAME

    def enhancer(self, engine: Engine, grid: Grid, kind: MapKind) -> Enhancer:
        """Return what scores maps."""
        # Numba is imported by the first computation, not by `import gpustats`
        from gpustats.distributions import t_to_z

        del grid
        values: Any = steps()
        z = values if kind.df is None else t_to_z(values, kind.df)
        return _Ranked(engine, log10_p(z, two_sided=kind.two_sided))


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Score voxels by the -log10 p of their steps."""

    engine: Engine
    heights: NDArray[np.float64]

    def peaks(self, maps: Array, reaching: ScoreCounts | None) -> NDArray[np.float64]:
        """Return the largest score + log10 of a rank of each map, and count."""
        peaks, _ = self.engine.rank_peaks(maps, self.heights, reaching)
        return self.engine.to_host(peaks)

    def scores(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the score of every voxel; 0 below the lowest step."""
        places = step_of(values)
        return np.where(places < 0, 0.0, self.heights[places])

    def limits(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the score of the next lower step, into which rounding may bring a tie."""
        places = np.searchsorted(self.heights, scores) - 1
        return np.where(places < 0, scores, self.heights[places])

    def supplying(self, maps: Array, peaks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the score of the lowest of the voxels whose number and scores make the peak."""
        own, levels = map(self.engine.to_host, self.engine.rank_peaks(maps, self.heights, None))
        return np.where((peaks > 0) & (own >= peaks), levels, np.inf)
