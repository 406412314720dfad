"""What a contrast shows under a threshold: the facts that a report puts into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr

from gpustats.contrast_maps import ContrastMaps
from gpustats.tables import Clusters, find_clusters, surviving_clusters
from gpustats.thresholding import ThresholdRule

LARGEST_SHARE = 0.01
LEAST_VOXELS = 10
"""What stands for the largest effects when no voxel survives: a share of all, at least so many."""

LISTED_PEAKS = 5


@dataclass(frozen=True, eq=False)
class Finding:
    """Hold what a contrast shows under a threshold.

    Parameters
    ----------
    name
        What the contrast is called.
    maps
        Its maps; what is thresholded is z.
    rule
        The threshold, as it applies to the contrast's statistic.
    height
        The threshold in z units.
    thresholded
        ``(n_voxels,)``: z, 0 where it does not survive.
    clusters
        The clusters of what survives.
    min_distance
        Sub-peaks of a cluster are further than this from each other, in mm.
    """

    name: str
    maps: ContrastMaps
    rule: ThresholdRule
    height: float
    thresholded: NDArray[np.float64]
    clusters: Clusters
    min_distance: float

    @property
    def df(self) -> str:
        """The degrees of freedom in words."""
        return degrees_of_freedom(self.maps.df)

    @property
    def n_surviving(self) -> int:
        """Number of voxels that survive."""
        return int(np.count_nonzero(self.thresholded))

    @property
    def p_height(self) -> float:
        """The p value of the threshold at a single voxel, of one or both sides as tested."""
        return float(ndtr(-self.height)) * (2 if self.rule.two_sided else 1)

    @property
    def peak(self) -> Mapping[Any, Any]:
        """The row of the clusters table with the largest peak of either sign."""
        return _by_size(self.clusters.table).iloc[0].to_dict()

    @property
    def shown(self) -> NDArray[np.float64]:
        """What survives or, where nothing does, the largest z, ``(n_voxels,)``; 0 elsewhere."""
        return self.thresholded if self.n_surviving else self.largest

    @cached_property
    def largest(self) -> NDArray[np.float64]:
        """The largest z in a tested direction, surviving or not, ``(n_voxels,)``; 0 elsewhere."""
        z = self.maps.z
        size = np.abs(z) if self.rule.two_sided else z
        count = min(max(round(LARGEST_SHARE * z.size), LEAST_VOXELS), z.size)
        least = np.partition(size, -count)[-count]
        return np.where((size >= least) & (size > 0), z, 0.0)

    @cached_property
    def highest_peaks(self) -> pd.DataFrame:
        """The highest peaks, surviving or not: their places in mm and their z."""
        grid = self.maps.grid
        clusters = find_clusters(
            grid.unmask(self.largest),
            grid.affine,
            0.0,
            two_sided=self.rule.two_sided,
            min_distance=self.min_distance,
            connectivity=self.rule.connectivity,
        )
        return _by_size(clusters.table).head(LISTED_PEAKS)[["X", "Y", "Z", "Peak Stat"]]


def degrees_of_freedom(df: int | NDArray[np.int64]) -> str:
    """Return degrees of freedom as a number, or the smallest and the largest."""
    least, most = np.min(df), np.max(df)
    return f"{least}" if least == most else f"{least} to {most}"


def find(name: str, maps: ContrastMaps, rule: ThresholdRule, min_distance: float) -> Finding:
    """Apply a threshold to a contrast.

    Raises
    ------
    ValueError
        If ``min_distance`` is not positive.
    """
    rule = rule.for_statistic(maps.contrast.statistic)
    height, thresholded, clusters = surviving_clusters(maps.z, maps.grid, rule, min_distance)
    return Finding(name, maps, rule, height, thresholded, clusters, min_distance)


def _by_size(table: pd.DataFrame) -> pd.DataFrame:
    """Sort a clusters table by the size of the peaks, the largest first."""
    return table.sort_values("Peak Stat", key=np.abs, ascending=False, kind="stable")
