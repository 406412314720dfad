"""What is compared in a permutation test: voxels, clusters, or threshold-free clusters.

A statistic is an enhancement of a map of t (or of the z of F): it writes a score on every voxel.
Voxelwise scores are the map itself. All but `Voxelwise` look at the positive side of a map; the
test looks at both sides apart where it is two-sided.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import t as student

from gpustats.engines import Array, Engine, ScoreCounts
from gpustats.spaces import Grid, Lattice, check_connectivity

MASS_UNIT = 2.0**-24
"""What 1 stands for in a cluster mass in fixed point."""

RELATIVE_TIE = {"t": 1e-9, "F": 1e-5}
"""Scores in fixed point that differ by less, relatively, tie.

Shuffles that do the same to a contrast give maps of t with the same bits. Those of F differ by
roundings: groups that change names leave F as it is, but for the basis in which it is computed.
"""


ABOVE_THE_PEAK = 1 + 1e-5
"""How far the last of a number of levels lies above the largest value, whatever rounds that.

A voxel is in the levels below its value (FSL's rule), so the last one is empty: it must be so for
the map that is compared and for the one that is reported, which may differ in their last digits.
"""


@dataclass(frozen=True)
class MapKind:
    """Say what the maps of a test hold.

    Parameters
    ----------
    statistic
        ``"t"`` or ``"F"``.
    df
        Degrees of freedom of the residuals; None where the maps hold z, as they do of F, and of t
        where degrees of freedom differ.
    two_sided
        Whether both tails count.
    peak
        The largest value, of either tail if both count, that was observed.
    """

    statistic: Literal["t", "F"]
    df: float | None
    two_sided: bool
    peak: float


class Enhancer(Protocol):
    """Score the positive side of maps, on one grid and for one kind of map."""

    def peaks(self, maps: Array, reaching: ScoreCounts | None) -> NDArray[np.float64]:
        """Return the largest score of each map ``(b, n_voxels)``; 0 where there is none.

        The maps are the engine's. Where asked to, count those in which a voxel's score reaches
        its limit.
        """
        ...

    def scores(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the score of every voxel of a map, ``(n_voxels,)``; 0 where it has none."""
        ...

    def limits(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what a null score must reach to count as no smaller than each of ``scores``."""
        ...


class Statistic(Protocol):
    """What is compared: an options object that makes its enhancer."""

    @property
    def name(self) -> str:
        """The key of its results."""
        ...

    def enhancer(self, engine: Engine, grid: Grid, kind: MapKind) -> Enhancer | None:
        """Return what scores maps of a grid; None for the voxel's own value."""
        ...


@dataclass(frozen=True)
class Voxelwise:
    """Compare the value of every voxel with the largest values of the shuffles."""

    @property
    def name(self) -> str:
        """The key of its results."""
        return "voxelwise"

    def enhancer(self, engine: Engine, grid: Grid, kind: MapKind) -> None:
        """Return nothing: a voxel's score is its value."""
        del engine, grid, kind


@dataclass(frozen=True, kw_only=True)
class _ClusterStatistic:
    """What cluster statistics share: one threshold, in a unit that is named, and neighbours."""

    connectivity: int
    threshold_t: float | None = None
    threshold_z: float | None = None
    threshold_p: float | None = None
    threshold_f: float | None = None

    def __post_init__(self) -> None:
        check_connectivity(self.connectivity)
        named = (self.threshold_t, self.threshold_z, self.threshold_p, self.threshold_f)
        given = [threshold for threshold in named if threshold is not None]
        if len(given) != 1:
            raise ValueError(
                "clusters need one threshold: give threshold_t, threshold_z, threshold_p or "
                f"threshold_f; got {len(given)}"
            )
        if self.threshold_p is not None and not 0 < self.threshold_p <= 0.5:
            raise ValueError(f"threshold_p must be a p in (0, 0.5], got {self.threshold_p!r}")
        if self.threshold_p is None and not 0 <= given[0] < np.inf:
            raise ValueError(f"a cluster-forming threshold must be >= 0, got {given[0]!r}")

    def height(self, kind: MapKind) -> np.float32:
        """Return the threshold in the unit of the maps."""
        if self.threshold_f is not None:
            if kind.statistic != "F":
                raise ValueError(
                    f"threshold_f={self.threshold_f:g} is for F contrasts; give threshold_t, "
                    "threshold_z or threshold_p for clusters of t"
                )
            return np.float32(self.threshold_f)
        if kind.df is None and self.threshold_t is not None:
            what = "F" if kind.statistic == "F" else "t with unequal degrees of freedom"
            raise ValueError(
                f"clusters of {what} are formed on its z; give threshold_z or threshold_p"
                f"{', or threshold_f' * (what == 'F')}, not threshold_t={self.threshold_t:g}"
            )
        if self.threshold_t is not None:
            return np.float32(self.threshold_t)
        z = self.threshold_z
        if self.threshold_p is not None:
            tail = self.threshold_p / 2 if kind.two_sided else self.threshold_p
            z = -float(ndtri(tail))
        if kind.df is None:
            return np.float32(z)
        return np.float32(student.isf(ndtr(-float(z or 0.0)), kind.df))


@dataclass(frozen=True, kw_only=True)
class ClusterExtent(_ClusterStatistic):
    """Compare the number of voxels of every cluster with the largest of the shuffles.

    Parameters
    ----------
    connectivity
        Which voxels touch: 6, 18 or 26 neighbours.
    threshold_t, threshold_z, threshold_p, threshold_f
        The cluster-forming threshold, in one of these units; a voxel at it is in. p is that of
        the whole test: two-sided ones share it between the tails. In F, clusters are formed and
        their mass is summed on F itself, else on its z.
    """

    @property
    def name(self) -> str:
        """The key of its results."""
        return "cluster_extent"

    def enhancer(self, engine: Engine, grid: Grid, kind: MapKind) -> Enhancer:
        """Return what scores maps of a grid."""
        return _Clusters(engine, grid.lattice(self.connectivity), self.height(kind), None, 0.0)


@dataclass(frozen=True, kw_only=True)
class ClusterMass(_ClusterStatistic):
    """Compare the mass of every cluster with the largest of the shuffles.

    Parameters
    ----------
    connectivity, threshold_t, threshold_z, threshold_p, threshold_f
        As of `ClusterExtent`.
    mass
        ``"full"``: the sum of the cluster's values; ``"above"``: of what exceeds the threshold.
    """

    mass: Literal["full", "above"] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mass not in ("full", "above"):
            raise ValueError(f"mass must be 'full' or 'above', got {self.mass!r}")

    @property
    def name(self) -> str:
        """The key of its results."""
        return "cluster_mass"

    def enhancer(self, engine: Engine, grid: Grid, kind: MapKind) -> Enhancer:
        """Return what scores maps of a grid."""
        tie = RELATIVE_TIE[kind.statistic]
        lattice = grid.lattice(self.connectivity)
        return _Clusters(engine, lattice, self.height(kind), self.mass, tie)


def looks_at_f(statistic: Statistic) -> bool:
    """Tell whether a statistic looks at maps of F as they are, rather than at their z."""
    return isinstance(statistic, _ClusterStatistic) and statistic.threshold_f is not None


class _Clusters:
    """Score voxels by the extent (``mass`` None) or the mass of their cluster."""

    def __init__(
        self,
        engine: Engine,
        lattice: Lattice,
        height: np.float32,
        mass: Literal["full", "above"] | None,
        tie: float,
    ) -> None:
        self.engine = engine
        self.lattice = lattice
        self.height = height
        self.mass = mass
        self.tie = tie

    def peaks(self, maps: Array, reaching: ScoreCounts | None) -> NDArray[np.float64]:
        """Return the largest extent or mass of each map, and count."""
        above = self.mass == "above"
        if reaching is not None:
            of_mass = self.mass is not None
            self.engine.cluster_counts(
                maps, self.height, self.lattice, reaching, above=above, of_mass=of_mass
            )
        peaks = self.engine.cluster_peaks(maps, self.height, self.lattice, above=above)
        return self._in_units(*map(self.engine.to_host, peaks))

    def scores(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the extent or mass of each voxel's cluster."""
        scores = self.engine.cluster_scores(
            values, self.height, self.lattice, above=self.mass == "above"
        )
        return self._in_units(*scores)

    def _in_units(
        self, extents: NDArray[np.int64], masses: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return what is compared, in voxels or in the map's unit."""
        return np.asarray(extents if self.mass is None else masses * MASS_UNIT, dtype=np.float64)

    def limits(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores: extents tie exactly, masses to their last digits."""
        return scores * (1 - self.tie)


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

    def __post_init__(self) -> None:
        check_connectivity(self.connectivity)
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
        enhanced = _Enhanced(engine, lattice, (self.extent, self.height), step, tie)
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

    def peaks(self, maps: Array, reaching: ScoreCounts | None) -> NDArray[np.float64]:
        """Return the largest TFCE score of each map, and count."""
        form = self.lattice, *self.exponents, self.step
        if reaching is None:
            return self.engine.to_host(self.engine.tfce_peaks(maps, *form))
        return self.engine.to_host(self.engine.tfce_counts(maps, *form, reaching))

    def scores(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the TFCE score of every voxel."""
        return self.engine.tfce_scores(values, self.lattice, *self.exponents, self.step)

    def limits(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores, but for their last digits."""
        return scores * (1 - self.tie)


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

    def _for(self, values: NDArray[np.float32]) -> _Enhanced:
        """Return what enhances one map, with the distance of its levels."""
        peak = float(np.abs(values).max() if self.two_sided else values.max())
        return replace(self.enhanced, step=max(peak, 0.0) / self.levels or 1.0)
