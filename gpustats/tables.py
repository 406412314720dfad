"""Where the clusters are: peaks, sub-peaks and sizes, as a table and as a label map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from string import ascii_lowercase
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass, find_objects, maximum_filter, minimum_filter
from scipy.ndimage import label as label_volume

from gpustats import images
from gpustats.engines import resolve
from gpustats.significance import upper_tail_p
from gpustats.spaces import Grid
from gpustats.thresholding import ThresholdRule, tested_voxels
from gpustats.true_discoveries import true_discoveries, warn_of_thresholded

COLUMNS = ["Cluster ID", "X", "Y", "Z", "Peak Stat", "Cluster Size (mm3)"]
TRUE_DISCOVERIES = "True Discovery Proportion"
MAX_SUBPEAKS = 3


@dataclass(frozen=True, eq=False)
class Clusters:
    """Hold the clusters of a map: one signed label map, and the table that speaks of it.

    Parameters
    ----------
    labels
        ``(nx, ny, nz)`` int32: 1 to k for positive clusters from the highest peak down, -1 to -m
        for negative ones, 0 elsewhere.
    affine
        ``(4, 4)``.
    table
        One row per cluster and sub-peak, columns as in `get_clusters_table`.
    voxels
        ``(n_rows, 3)`` int64: the voxel of the peak or sub-peak in each row.
    """

    labels: NDArray[np.int32]
    affine: NDArray[np.float64]
    table: pd.DataFrame
    voxels: NDArray[np.int64]

    @property
    def n_clusters(self) -> int:
        """Number of clusters of either sign."""
        return int(self.labels.max()) - int(self.labels.min())


def get_clusters_table(
    stat_img: Any,
    stat_threshold: float,
    cluster_threshold: int | None = None,
    two_sided: bool = False,
    min_distance: float = 8.0,
    return_label_maps: bool = False,
    *,
    connectivity: int = 6,
    true_discovery_alpha: float | None = None,
) -> pd.DataFrame | tuple[pd.DataFrame, list[Any]]:
    """List the clusters of a statistical map with their peaks and sizes.

    Parameters
    ----------
    stat_img
        A map in which large values speak against the hypothesis (z, t, -log10 p); path or image,
        left unchanged.
    stat_threshold
        Voxels strictly above it form clusters, in the unit of the map; 0 for a map that has been
        thresholded already (`map_threshold` keeps voxels that are equal to its threshold). A
        negative threshold with ``two_sided=False`` lists the clusters below it.
    cluster_threshold
        Clusters of fewer voxels are left out; None or 0 keeps all.
    two_sided
        Whether to list the clusters below ``-stat_threshold`` too.
    min_distance
        Sub-peaks of a cluster are further than this from each other, in mm.
    return_label_maps
        Whether to return the label maps as well.
    connectivity
        Which voxels touch: 6, 18 or 26 neighbours.
    true_discovery_alpha
        Adds a column ``True Discovery Proportion``: the share of active voxels of each cluster, at
        least, by all-resolutions inference at this rate (`cluster_level_inference`). ``stat_img``
        must then be a whole z map, not thresholded, 0 or not finite outside the mask. With
        ``two_sided`` p is that of both tails.

    Returns
    -------
    table : pandas.DataFrame
        ``Cluster ID``, ``X``, ``Y``, ``Z`` (mm), ``Peak Stat`` and ``Cluster Size (mm3)``. The ID
        is the cluster's value in the label map: 1, 2, ... for positive clusters from the highest
        peak down, then -1, -2, ... for negative ones. Up to three sub-peaks follow, ``1a``,
        ``1b``, ..., with an empty size. No rows if no voxel passes.
    label_maps : list of nibabel images
        Only with ``return_label_maps``: the label map of the positive clusters, then, if
        ``two_sided``, that of the negative ones. Their sum is the signed label map.

    Raises
    ------
    ValueError
        If a threshold is not a number, ``two_sided`` goes with a negative one, ``min_distance``
        is not positive, the connectivity is unknown, or ``true_discovery_alpha`` is no rate.

    Notes
    -----
    A peak is a voxel, or the centre of a plateau of equal voxels, that none of its 26 neighbours
    in the cluster exceeds; sizes are multiples of the voxel volume ``|det(affine)|``.
    """
    volume, affine = images.read_map(stat_img)
    clusters = find_clusters(
        volume,
        affine,
        stat_threshold,
        cluster_threshold=cluster_threshold or 0,
        two_sided=two_sided,
        min_distance=min_distance,
        connectivity=connectivity,
    )
    signs = _signs(stat_threshold, two_sided)
    if true_discovery_alpha is not None:
        grid = tested_voxels(volume, affine, None)
        z = signs[0] * volume[grid.mask]
        warn_of_thresholded(z)
        clusters = with_true_discoveries(clusters, z, grid, true_discovery_alpha, two_sided)
    if not return_label_maps:
        return clusters.table
    parts = [np.where(np.sign(clusters.labels) == sign, clusters.labels, 0) for sign in signs]
    return clusters.table, [images.to_image(part, affine, "cluster labels") for part in parts]


def surviving_clusters(
    z: NDArray[np.float64], grid: Grid, rule: ThresholdRule, min_distance: float = 8.0
) -> tuple[float, NDArray[np.float64], Clusters]:
    """Threshold z values ``(n_voxels,)`` and find the clusters of what survives.

    Returns
    -------
    height : float
        The z threshold.
    thresholded : ndarray
        ``(n_voxels,)``: the values, 0 where they do not survive.
    clusters : Clusters
        The clusters that those voxels form.
    """
    height = rule.height(z)
    return height, *clusters_at(height, z, grid, rule, min_distance)


def clusters_at(
    height: float,
    z: NDArray[np.float64],
    grid: Grid,
    rule: ThresholdRule,
    min_distance: float,
) -> tuple[NDArray[np.float64], Clusters]:
    """Keep what is at or beyond a height, as `surviving_clusters` with a height found otherwise."""
    thresholded = np.where(rule.surviving(z, height, grid.lattice(rule.connectivity)), z, 0.0)
    clusters = find_clusters(
        grid.unmask(thresholded),
        grid.affine,
        0.0,
        two_sided=rule.two_sided,
        min_distance=min_distance,
        connectivity=rule.connectivity,
    )
    return thresholded, clusters


def find_clusters(
    volume: NDArray[np.float64],
    affine: NDArray[np.float64],
    threshold: float,
    *,
    cluster_threshold: int = 0,
    two_sided: bool = False,
    min_distance: float = 8.0,
    connectivity: int = 6,
) -> Clusters:
    """Find the clusters of a volume; the arguments are those of `get_clusters_table`."""
    if not _is_number(threshold) or (two_sided and threshold < 0):
        raise ValueError(
            f"stat_threshold must be a number, not negative with two_sided=True; got {threshold!r}"
        )
    if cluster_threshold < 0:
        raise ValueError(f"cluster_threshold must be a number of voxels, got {cluster_threshold!r}")
    if not min_distance > 0:
        raise ValueError(f"min_distance must be a distance in mm > 0, got {min_distance!r}")
    labels = np.zeros(volume.shape, dtype=np.int32)
    rows: list[list[Any]] = []
    voxels = [np.empty((0, 3), dtype=np.int64)]
    for sign in _signs(threshold, two_sided):
        side = volume * sign
        with np.errstate(invalid="ignore"):
            grid = Grid(np.isfinite(side) & (side > abs(threshold)), affine)
        if grid.n_voxels == 0:
            continue
        numbers = _numbered_clusters(side, grid, cluster_threshold, connectivity)
        labels += sign * numbers
        for number, box in enumerate(find_objects(numbers), start=1):
            around = tuple(slice(max(edge.start - 1, 0), edge.stop + 1) for edge in box)
            inside = numbers[around] == number
            size_mm3 = np.count_nonzero(inside) * grid.voxel_volume_mm3
            indices, heights = _peaks(np.where(inside, side[around], 0.0))
            indices += np.array([edge.start for edge in around])
            coordinates = grid.to_mm(indices)
            apart = _far_apart(coordinates, min_distance)[: MAX_SUBPEAKS + 1]
            rows += _rows(sign * number, coordinates[apart], sign * heights[apart], size_mm3)
            voxels.append(indices[apart])
    table = pd.DataFrame(rows, columns=COLUMNS)
    return Clusters(labels, affine, table, np.concatenate(voxels))


def with_true_discoveries(
    clusters: Clusters, z: NDArray[np.float64], grid: Grid, alpha: float, two_sided: bool
) -> Clusters:
    """Add the true-discovery proportion of each cluster to the table.

    Parameters
    ----------
    clusters
        The clusters, of the voxels of ``grid``.
    z
        ``(n_voxels,)``, of all voxels that were tested.
    grid
        Which voxels these are.
    alpha
        The probability that any proportion is too large.
    two_sided
        Whether p is that of both tails.
    """
    p = upper_tail_p(z, two_sided=two_sided)
    found = true_discoveries(p, clusters.labels[grid.mask], alpha)
    proportions = dict(zip(found.names.tolist(), found.proportions.tolist(), strict=True))
    column = [proportions.get(name, "") for name in clusters.table["Cluster ID"]]
    return replace(clusters, table=clusters.table.assign(**{TRUE_DISCOVERIES: column}))


def _is_number(value: object) -> bool:
    """Tell a finite number from anything else."""
    return isinstance(value, int | float | np.number) and bool(np.isfinite(value))


def _signs(threshold: float, two_sided: bool) -> tuple[int, ...]:
    """Return the sides of the map to look at, in the order of the table."""
    if two_sided:
        return (1, -1)
    return (1,) if threshold >= 0 else (-1,)


def _numbered_clusters(
    side: NDArray[np.float64], grid: Grid, cluster_threshold: int, connectivity: int
) -> NDArray[np.int32]:
    """Give the clusters of a grid's voxels numbers 1, 2, ... by falling peak."""
    above = np.ones((1, grid.n_voxels), dtype=bool)
    labels = resolve("cpu").label(above, grid.lattice(connectivity))[0]
    roots, which, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    peaks = np.full(roots.size, -np.inf)
    np.maximum.at(peaks, which, side[grid.mask])
    order = np.argsort(-peaks, kind="stable")
    order = order[sizes[order] >= cluster_threshold]
    numbers = np.zeros(roots.size, dtype=np.int32)
    numbers[order] = np.arange(1, order.size + 1)
    return grid.unmask(numbers[which]).astype(np.int32, copy=False)


def _peaks(cluster: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the voxels and heights of a cluster's local maxima, the highest first.

    ``cluster`` is 0 outside. A plateau counts as one peak at the voxel of it nearest to its
    centre; inside a cluster that is not flat, a voxel amid equal neighbours is no peak.
    """
    highest = maximum_filter(cluster, 3)
    maxima = (cluster == highest) & (cluster > 0)
    values = cluster[cluster > 0]
    if not np.isclose(values.max(), values.min()):
        maxima &= highest > minimum_filter(cluster, 3)
    plateaus, n_plateaus = label_volume(maxima)
    centres = center_of_mass(cluster, plateaus, np.arange(1, n_plateaus + 1))
    indices = np.round(np.array(centres)).astype(np.int64)
    for number in np.flatnonzero(plateaus[tuple(indices.T)] != np.arange(1, n_plateaus + 1)):
        members = np.argwhere(plateaus == number + 1)
        nearest = np.argmin(((members - indices[number]) ** 2).sum(axis=1))
        indices[number] = members[nearest]
    heights = cluster[tuple(indices.T)]
    order = np.argsort(-heights, kind="stable")
    return indices[order], heights[order]


def _far_apart(coordinates: NDArray[np.float64], min_distance: float) -> NDArray[np.int64]:
    """Return which peaks stay when each removes the lower ones within ``min_distance`` mm."""
    kept: list[int] = []
    for number, place in enumerate(coordinates):
        gaps = np.linalg.norm(coordinates[kept] - place, axis=1)
        if (gaps > min_distance).all():
            kept.append(number)
    return np.array(kept)


def _rows(
    cluster_id: int,
    coordinates: NDArray[np.float64],
    heights: NDArray[np.float64],
    size_mm3: float,
) -> Iterator[list[Any]]:
    """Yield the table's rows of one cluster: the peak with its size, then the sub-peaks."""
    names = [cluster_id, *(f"{cluster_id}{letter}" for letter in ascii_lowercase)]
    sizes = [size_mm3, *[""] * MAX_SUBPEAKS]
    for name, place, height, size in zip(names, coordinates, heights, sizes, strict=False):
        yield [name, *map(float, place), float(height), size]
