"""What a run found of a contrast: the facts that a report puts into words and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpustats import simes
from gpustats.records import Record
from gpustats.spaces import Grid
from gpustats.tables import find_clusters

LARGEST_SHARE = 0.01
LEAST_VOXELS = 10
"""What stands for the largest effects when no voxel survives: a share of all, at least so many."""

LISTED_PEAKS = 10

STATISTIC_NAMES = {
    "voxelwise": "Voxels",
    "cluster_extent": "Cluster extent",
    "cluster_mass": "Cluster mass",
    "tfce": "TFCE",
    "true_discoveries": "True discoveries",
}
ADJECTIVES = {
    "voxelwise": "voxelwise",
    "cluster_extent": "cluster-extent",
    "cluster_mass": "cluster-mass",
    "tfce": "TFCE",
    "true_discoveries": "true-discovery",
}
SCORES = {
    "cluster_extent": "voxels",
    "cluster_mass": "mass",
    "tfce": "TFCE score",
    "true_discoveries": "log10 of rank / p",
}


@dataclass(frozen=True, eq=False)
class Finding:
    """Hold what a run found of a contrast.

    Parameters
    ----------
    entry
        What the JSON says of it.
    record
        The run.
    grid
        The voxels that were tested.
    z
        ``(n_voxels,)``.
    labels
        ``(n_voxels,)``: the ID of each voxel's cluster; 0 where it does not survive.
    """

    entry: Mapping[str, Any]
    record: Record
    grid: Grid
    z: NDArray[np.float64]
    labels: NDArray[np.int32]

    @property
    def name(self) -> str:
        """What the contrast is called."""
        return str(self.entry["name"])

    @property
    def statistic(self) -> str:
        """``"t"`` or ``"F"``."""
        return str(self.entry["statistic"])

    @property
    def two_sided(self) -> bool:
        """Whether large negative values count."""
        return bool(self.entry["two_sided"])

    @property
    def tests(self) -> Sequence[Mapping[str, Any]]:
        """What each statistic of a permutation test found; none of a fit."""
        tests: Sequence[Mapping[str, Any]] = self.entry.get("statistics", ())
        return tests

    @property
    def of_voxels(self) -> Sequence[Mapping[str, Any]]:
        """What the statistics found that score voxels, not their ranks."""
        return [test for test in self.tests if test["statistic"] != simes.NAME]

    @property
    def kept(self) -> Mapping[str, Any]:
        """What is said of the voxels that survive."""
        kept: Mapping[str, Any] = self.entry.get("thresholded", self.entry)
        return kept

    @property
    def n_surviving(self) -> int:
        """Number of voxels that survive."""
        return int(np.count_nonzero(self.labels))

    @property
    def n_clusters(self) -> int:
        """Number of clusters of either sign."""
        return int(self.labels.max()) - int(self.labels.min())

    @property
    def df(self) -> str:
        """The degrees of freedom of the residuals in words."""
        df = self.entry["df"]
        least, most = (df, df) if np.ndim(df) == 0 else df
        return f"{least}" if least == most else f"{least} to {most}"

    @property
    def surviving(self) -> NDArray[np.float64]:
        """The z that survive, ``(n_voxels,)``; 0 elsewhere."""
        return np.where(self.labels != 0, self.z, 0.0)

    @property
    def shown(self) -> NDArray[np.float64]:
        """What survives or, where nothing does, the largest z, ``(n_voxels,)``; 0 elsewhere."""
        return self.surviving if self.n_surviving else self.largest

    @cached_property
    def largest(self) -> NDArray[np.float64]:
        """The largest z in a tested direction, surviving or not, ``(n_voxels,)``; 0 elsewhere."""
        size = np.abs(self.z) if self.two_sided else self.z
        count = min(max(round(LARGEST_SHARE * size.size), LEAST_VOXELS), size.size)
        least = np.partition(size, -count)[-count]
        return np.where((size >= least) & (size > 0), self.z, 0.0)

    @property
    def clusters(self) -> Sequence[Mapping[str, Any]]:
        """The clusters, each with all that is told of it."""
        clusters: Sequence[Mapping[str, Any]] = self.entry["clusters"]
        return clusters

    @cached_property
    def highest_peaks(self) -> list[dict[str, Any]]:
        """The highest peaks of either tested sign, surviving or not: their ``mm`` and ``z``."""
        found = find_clusters(
            self.grid.unmask(self.largest),
            self.grid.affine,
            0.0,
            two_sided=self.two_sided,
            min_distance=float(self.entry["min_distance_mm"]),
            connectivity=self.kept["connectivity"],
        ).table
        highest = found.sort_values("Peak Stat", key=np.abs, ascending=False, kind="stable")
        columns = highest[["X", "Y", "Z", "Peak Stat"]].head(LISTED_PEAKS).to_numpy(float)
        return [{"mm": row[:3].tolist(), "z": float(row[3])} for row in columns]

    @cached_property
    def peak(self) -> Mapping[str, Any]:
        """The largest peak of either sign, surviving or not: its ``mm`` and ``z``."""
        size = np.abs(self.shown)
        voxel = int(size.argmax())
        place = self.grid.to_mm(np.argwhere(self.grid.mask)[voxel])
        return {"mm": place.tolist(), "z": float(self.z[voxel])}

    def file(self, entities: str) -> str:
        """Return the name of a file of this contrast."""
        return f"contrast-{self.entry['label']}_{entities}"

    def values(self, entities: str) -> NDArray[np.float64] | None:
        """Return the voxels ``(n_voxels,)`` of a map of this contrast; None if there is none."""
        name = self.file(f"{entities}_statmap.nii.gz")
        if name not in self.entry["files"]:
            return None
        volume, affine = self.record.volume(name)
        _check_grid(name, volume, affine, self.grid)
        return volume[self.grid.mask]

    def null_maxima(self, test: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return the largest score of every shuffle, ``(n_shuffles,)``; the first is observed."""
        table = self.record.open_table(test["null_maxima"])
        return table["maximum"].to_numpy(dtype=np.float64)


def find(record: Record, entry: Mapping[str, Any]) -> Finding:
    """Read what a run found of a contrast.

    Parameters
    ----------
    record
        The run.
    entry
        What its JSON says of the contrast.

    Raises
    ------
    ValueError
        If the images are not those that the JSON speaks of.
    """
    prefix = f"contrast-{entry['label']}"
    z, affine = record.volume(f"{prefix}_stat-z_statmap.nii.gz")
    p, _ = record.volume(f"{prefix}_stat-p_statmap.nii.gz")
    labels_name = f"{prefix}_desc-clusters_dseg.nii.gz"
    labels, labels_affine = record.volume(labels_name)
    # inside the mask z is 0 where p is 1/2, and p is 0 only beyond z = 38
    grid = Grid((z != 0) | (p != 0), affine)
    _check_grid(labels_name, labels, labels_affine, grid)
    finding = Finding(entry, record, grid, z[grid.mask], labels[grid.mask].astype(np.int32))
    there = (grid.n_voxels, finding.n_surviving)
    data = record.content.get("data", {})
    expected = entry.get("n_voxels", data.get("n_voxels", grid.n_voxels))
    if there != (expected, finding.kept["n_surviving_voxels"]):
        raise ValueError(
            f"the images of contrast {finding.name!r} have {there[0]:,} voxels, of which "
            f"{there[1]:,} survive; the JSON says {expected:,} and "
            f"{finding.kept['n_surviving_voxels']:,}; keep the files of a run together, or run "
            "it again"
        )
    return finding


def _check_grid(name: str, volume: NDArray[Any], affine: NDArray[Any], grid: Grid) -> None:
    """Refuse an image whose voxels are others than those of the z map."""
    if volume.shape != grid.mask.shape or not np.allclose(affine, grid.affine, atol=1e-4):
        raise ValueError(f"{name} has another grid than the z map of its contrast; run it again")
