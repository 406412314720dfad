"""Threshold-free cluster enhancement as a statistic of permutation tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import Array, Engine, ScoreCounts
from gpustats.enhancements import RELATIVE_TIE, Enhancer, MapKind, peak_scores
from gpustats.spaces import Grid, Lattice, check_connectivity

ABOVE_THE_PEAK = 1 + 1e-5
"""How far the last of a number of levels lies above the largest value, whatever rounds that.

A voxel is in the levels below its value (FSL's rule), so the last one is empty: it must be so for
the map that is compared and for the one that is reported, which may differ in their last digits.
"""


@dataclass(frozen=True)
class Tfce:
    """Enhance by threshold-free clusters, and compare with the largest scores of the shuffles.

    Parameters
    ----------
    extent
        Exponent E of the extent of a voxel's cluster at each height.
    height
        Exponent H of the height.
    connectivity
        Which voxels touch: 6, 18 or 26 neighbours.
    step
        Distance of the heights that are summed, in units of t (of z for F). None, the default,
        is the exact integral.
    levels
        How many heights to sum up to the largest value that was observed, the same for every
        shuffle: FSL's way with 100. Instead of ``step``.
    own_levels
        Whether the levels of every shuffle reach up to its own largest value: nilearn's way. Its
        scores are then in units of their own, which costs power.
    times_step
        Whether the sum is multiplied by the distance of the heights, as an integral is: PALM's
        way, whose levels are each shuffle's own.
    of_z
        Whether z is enhanced instead of t: PALM's way, too. Of F it always is.

    References
    ----------
    .. [1] Smith & Nichols (2009), NeuroImage 44, 83-98.
    """

    extent: float = 0.5
    height: float = 2.0
    connectivity: int = 6
    step: float | None = None
    levels: int | None = None
    own_levels: bool = False
    times_step: bool = False
    of_z: bool = False

    def __post_init__(self) -> None:
        check_connectivity(self.connectivity)
        if self.times_step and self.step is None and self.levels is None:
            raise ValueError("times_step needs step or levels; the exact integral has no step")
        if self.own_levels and self.levels is None:
            raise ValueError("own_levels needs the number of levels")
        if self.step is not None and self.levels is not None:
            raise ValueError("give step or levels to TFCE, not both")
        if self.levels is not None and not self.levels >= 1:
            raise ValueError(f"levels must be a number of heights >= 1, got {self.levels!r}")
        for name in ("extent", "height"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be an exponent >= 0, got {getattr(self, name)!r}")
        if self.step is not None and not 0 < self.step < np.inf:
            raise ValueError(f"step must be a height > 0 or None, got {self.step!r}")

    @property
    def name(self) -> str:
        """The key of its results."""
        return "tfce"

    def enhancer(self, engine: Engine, grid: Grid, kind: MapKind) -> Enhancer:
        """Return what scores maps of a grid."""
        step = self.step or 0.0
        if self.levels is not None and kind.peak > 0:
            step = kind.peak * ABOVE_THE_PEAK / self.levels
        lattice = grid.lattice(self.connectivity)
        tie = RELATIVE_TIE[kind.statistic]
        exponents = self.extent, self.height
        enhanced = _Enhanced(engine, lattice, exponents, step, tie, self.times_step)
        if self.own_levels and self.levels is not None:
            return _OwnLevels(enhanced, self.levels, kind.two_sided)
        return enhanced


@dataclass(frozen=True, eq=False)
class _Enhanced:
    """Score voxels by TFCE."""

    engine: Engine
    lattice: Lattice
    exponents: tuple[float, float]
    step: float
    tie: float
    times_step: bool

    @property
    def unit(self) -> float:
        """What the engine's sums are multiplied by."""
        return self.step if self.times_step and self.step else 1.0

    def peaks(self, maps: Array, reaching: ScoreCounts | None) -> NDArray[np.float64]:
        """Return the largest TFCE score of each map, and count."""
        form = self.lattice, *self.exponents, self.step
        if reaching is None:
            return self.unit * self.engine.to_host(self.engine.tfce_peaks(maps, *form))
        if self.unit != 1:
            reaching = reaching._replace(limits=reaching.limits / self.unit)
        return self.unit * self.engine.to_host(self.engine.tfce_counts(maps, *form, reaching))

    def scores(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the TFCE score of every voxel."""
        scores = self.engine.tfce_scores(values, self.lattice, *self.exponents, self.step)
        return self.unit * scores

    def limits(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores, but for their last digits."""
        return scores * (1 - self.tie)

    def supplying(self, maps: Array, peaks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the peaks: the voxels that have them supply them."""
        del maps
        return peak_scores(self, peaks)


@dataclass(frozen=True, eq=False)
class _OwnLevels:
    """Score voxels by TFCE summed over levels that reach up to each map's own largest value."""

    enhanced: _Enhanced
    levels: int
    two_sided: bool

    def peaks(self, maps: Array, reaching: ScoreCounts | None) -> NDArray[np.float64]:
        """Return the largest TFCE score of each map, and count."""
        on_host = self.enhanced.engine.to_host(maps)
        peaks = [
            self._for(values).peaks(maps[number : number + 1], reaching)
            for number, values in enumerate(on_host)
        ]
        return np.concatenate(peaks)

    def scores(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the TFCE score of every voxel."""
        return self._for(values).scores(values)

    def limits(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores, but for their last digits."""
        return self.enhanced.limits(scores)

    def supplying(self, maps: Array, peaks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the peaks: the voxels that have them supply them."""
        del maps
        return peak_scores(self, peaks)

    def _for(self, values: NDArray[np.float32]) -> _Enhanced:
        """Return what enhances one map, with the distance of its levels."""
        peak = float(np.abs(values).max() if self.two_sided else values.max())
        return replace(self.enhanced, step=max(peak, 0.0) / self.levels or 1.0)
