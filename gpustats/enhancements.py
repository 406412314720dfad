"""What is compared in a permutation test: voxels, clusters, or threshold-free clusters.

A statistic is an enhancement of a map of t (or of the z of F): it writes a score on every voxel.
Voxelwise scores are the map itself. All but `Voxelwise` look at the positive side of a map; the
test looks at both sides apart where it is two-sided.
"""

from __future__ import annotations

from dataclasses import dataclass
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

    def supplying(self, maps: Array, peaks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return which score makes a voxel supply the peak of its map; infinite where none does."""
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
    of_z: bool = False

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
        if self.of_z and (self.threshold_t, self.threshold_f) != (None, None):
            raise ValueError("clusters of z (of_z) need threshold_z or threshold_p")

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
    of_z
        Whether clusters are formed, and their mass is summed, on z instead of t: PALM's way.
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
    connectivity, threshold_t, threshold_z, threshold_p, threshold_f, of_z
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


def looks_at_z(statistic: Statistic, of: Literal["t", "F"]) -> bool:
    """Tell whether a statistic looks at the z of maps of t, or of F, rather than at these."""
    return bool(getattr(statistic, "of_z", False)) if of == "t" else not looks_at_f(statistic)


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

    def supplying(self, maps: Array, peaks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the peaks: the voxels that have them supply them."""
        del maps
        return peak_scores(self, peaks)


def peak_scores(enhancer: Enhancer, peaks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return which score is no smaller than the peak of a map; infinite where there is no peak."""
    return np.where(peaks > 0, enhancer.limits(peaks), np.inf)
