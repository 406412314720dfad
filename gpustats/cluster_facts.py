"""What is told of every cluster: how large, how sure, where, and how strong the effect is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpustats import effect_intervals, effect_sizes
from gpustats.atlases import Atlas
from gpustats.contrast_maps import ContrastMaps
from gpustats.significance import upper_tail_p
from gpustats.tables import COLUMNS, Clusters
from gpustats.true_discoveries import Discoveries

LEVEL = 0.95
"""Level of confidence of the intervals in the table."""

CENTRE = ("Centre of Mass X", "Centre of Mass Y", "Centre of Mass Z")

PARAMETRIC = "true_discovery_proportion"
PERMUTATION = "true_discovery_proportion_permutation"
"""What the proportions of the parametric method, and those from permutations, are called."""

PROPORTIONS = {
    PARAMETRIC: "True Discovery Proportion",
    PERMUTATION: "True Discovery Proportion (permutation)",
}
"""What their columns are called."""

Facts = dict[str, Any]


class TableChoices(NamedTuple):
    """Say what the table of clusters tells, and how.

    Parameters
    ----------
    min_distance
        Sub-peaks of a cluster are further than this from each other, in mm.
    true_discovery_alpha
        The probability with which a true-discovery proportion may be too large.
    atlases
        Where the names of places come from.
    """

    min_distance: float = 8.0
    true_discovery_alpha: float = 0.05
    atlases: tuple[Atlas, ...] = ()


def describe_clusters(
    clusters: Clusters,
    maps: ContrastMaps,
    p_corrected: Mapping[str, NDArray[np.float64]],
    proportions: Mapping[str, Discoveries],
    atlases: Sequence[Atlas] = (),
    *,
    two_sided: bool,
) -> list[Facts]:
    """Tell all that is known of each cluster.

    Parameters
    ----------
    clusters
        The clusters, in the voxels of ``maps``.
    maps
        The maps of the contrast.
    p_corrected
        ``(n_voxels,)`` each: corrected p, by the name of the statistic; empty without a
        permutation test.
    proportions
        True-discovery proportions of the clusters, by the name that they get.
    atlases
        Where the names of places come from.
    two_sided
        Whether p of a peak is that of both tails, or of the upper one.

    Returns
    -------
    list of dict
        For each cluster, in the order of the table, what JSON can hold: ``id`` (its value in the
        label map), ``n_voxels``, ``size_mm3``, ``mass`` (the sum of the statistic, or of z where
        degrees of freedom differ), ``centre_of_mass_mm`` (weighted by its size),
        ``centre_of_mass_inside``, the proportions by name, ``p_corrected`` (the smallest p of the
        cluster's voxels), ``atlas`` (the share of each region) and ``peaks``. What is not known
        is absent, or None.
    """
    labels = clusters.labels[maps.grid.mask]
    order = np.argsort(labels, kind="stable")
    names, starts = np.unique(labels[order], return_index=True)
    members = dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))
    regions = [(one, one.at(maps.grid)) for one in atlases]
    teller = _Teller(clusters, maps, p_corrected, regions, two_sided)
    return [
        {
            **teller.whole(number, members[number]),
            **_proportion(number, proportions),
            **teller.places_of(members[number]),
            "peaks": [teller.peak(*row) for row in rows],
        }
        for number, rows in _rows_by_cluster(clusters)
    ]


def _rows_by_cluster(clusters: Clusters) -> Iterator[tuple[int, list[tuple[str, Any]]]]:
    """Yield the number of each cluster with the names and voxels of its peaks."""
    rows: list[tuple[str, Any]] = []
    number = 0
    for name, voxel in zip(clusters.table["Cluster ID"], clusters.voxels, strict=True):
        if isinstance(name, int):
            if rows:
                yield number, rows
            number, rows = name, []
        rows.append((str(name), voxel))
    if rows:
        yield number, rows


def _proportion(number: int, proportions: Mapping[str, Discoveries]) -> Facts:
    """Return the proportions of a cluster by name."""
    told = {}
    for name, found in proportions.items():
        told[name] = float(found.proportions[np.searchsorted(found.names, number)])
    return told


class _Teller:
    """Tell of clusters and peaks, given the maps."""

    def __init__(
        self,
        clusters: Clusters,
        maps: ContrastMaps,
        p_corrected: Mapping[str, NDArray[np.float64]],
        regions: Sequence[tuple[Atlas, NDArray[np.int64]]],
        two_sided: bool,
    ) -> None:
        self.clusters = clusters
        self.maps = maps
        self.p_corrected = p_corrected
        self.regions = regions
        self.two_sided = two_sided
        self.indices = np.argwhere(maps.grid.mask)
        self.numbers = np.full(maps.grid.mask.shape, -1)
        self.numbers[maps.grid.mask] = np.arange(maps.grid.n_voxels)
        self.values = maps.statistic if maps.n is None else maps.z

    def whole(self, number: int, voxels: NDArray[np.int64]) -> Facts:
        """Tell of a cluster, given its number and its voxels."""
        grid, values = self.maps.grid, self.values[voxels]
        weights = np.abs(values) if values.any() else np.ones(values.size)
        centre = weights @ self.indices[voxels] / weights.sum()
        there = tuple(np.floor(centre + 0.5).astype(np.int64))
        facts: Facts = {
            "id": number,
            "n_voxels": int(voxels.size),
            "size_mm3": voxels.size * grid.voxel_volume_mm3,
            "mass": float(values.sum()),
            "centre_of_mass_mm": _place(grid.to_mm(centre)),
            "centre_of_mass_inside": bool(self.clusters.labels[there] == number),
        }
        if self.p_corrected:
            facts["p_corrected"] = {
                name: float(p[voxels].min()) for name, p in self.p_corrected.items()
            }
        return facts

    def places_of(self, voxels: NDArray[np.int64]) -> Facts:
        """Tell which regions a cluster is in, and which share of it is in each."""
        if not self.regions:
            return {}
        told = {}
        for atlas, regions in self.regions:
            numbers, counts = np.unique(regions[voxels], return_counts=True)
            shares = sorted(zip(-counts, numbers.tolist(), strict=True))
            told[atlas.name] = [
                [atlas.name_of(number), float(-count / voxels.size)]
                for count, number in shares
                if number
            ]
        return {"atlas": told}

    def peak(self, name: str, index: NDArray[np.int64]) -> Facts:
        """Tell of a peak, given what it is called and where it is."""
        maps, voxel = self.maps, int(self.numbers[tuple(index)])
        facts: Facts = {
            "id": name,
            "mm": _place(maps.grid.to_mm(index)),
            "voxel": index.tolist(),
            "z": float(maps.z[voxel]),
            "statistic": float(maps.statistic[voxel]),
            "df": _df(maps, voxel),
            "p": float(upper_tail_p(maps.z[voxel], two_sided=self.two_sided)),
            **_effect(maps, voxel),
            "effect_size": _effect_size(maps, voxel),
        }
        if self.p_corrected:
            facts["p_corrected"] = {
                statistic: float(p[voxel]) for statistic, p in self.p_corrected.items()
            }
        if self.regions:
            facts["atlas"] = {
                atlas.name: atlas.name_of(int(regions[voxel])) for atlas, regions in self.regions
            }
        return facts


def _df(maps: ContrastMaps, voxel: int) -> int:
    """Return the degrees of freedom of the residuals at a voxel."""
    return maps.df if isinstance(maps.df, int) else int(maps.df[voxel])


def _effect(maps: ContrastMaps, voxel: int) -> Facts:
    """Tell the effect of a t contrast at a voxel, and its limits."""
    if maps.contrast.statistic == "F":
        return {}
    effect, variance = float(maps.effect[voxel]), float(maps.variance[voxel])
    limits = effect_sizes.confidence_interval(effect, variance, _df(maps, voxel), LEVEL)
    return {"effect": effect, "effect_interval": [float(limit) for limit in limits]}


def _effect_size(maps: ContrastMaps, voxel: int) -> Facts | None:
    """Tell how large the effect at a voxel is, free of units and of the number of subjects.

    None where there are too few subjects to tell.
    """
    statistic, df = float(maps.statistic[voxel]), _df(maps, voxel)
    scale = maps.unscaled_variance
    limits: effect_intervals.Limits | None
    if maps.contrast.statistic == "F":
        name = "partial R2"
        value = effect_sizes.partial_r_square(statistic, maps.dimension, df)
        limits = effect_intervals.partial_r_square_interval(statistic, maps.dimension, df, LEVEL)
    elif maps.slopes or scale is None:
        name, value = "partial r", effect_sizes.partial_r(statistic, df)
        limits = effect_intervals.partial_r_interval(float(value), df, LEVEL)
    else:
        name, scale = "Hedges' g", float(np.broadcast_to(scale, maps.statistic.shape)[voxel])
        value = effect_sizes.hedges_g(statistic, df, scale)
        limits = effect_intervals.hedges_g_interval(statistic, df, scale, LEVEL)
    if not np.isfinite(value):
        return None
    interval = None if limits is None else list(limits)
    return {"name": name, "value": float(value), "interval": interval}


def _place(mm: NDArray[np.float64]) -> list[float]:
    """Return coordinates as people write them."""
    return [round(float(x), 4) for x in mm]


def clusters_table(facts: Sequence[Facts]) -> pd.DataFrame:
    """Return the table of clusters, a row for each peak and sub-peak.

    Parameters
    ----------
    facts
        What `describe_clusters` tells.

    Returns
    -------
    pandas.DataFrame
        The columns of `gpustats.get_clusters_table`, of z, then all the others. What belongs to
        a whole cluster is in the row of its peak, and empty in those of its sub-peaks.
    """
    rows = []
    for cluster in facts:
        for number, peak in enumerate(cluster["peaks"]):
            of_cluster = _of_cluster(cluster) if number == 0 else {}
            rows.append({**_first_columns(cluster, peak, number), **_of_peak(peak), **of_cluster})
    # columns of objects keep whole numbers whole beside what is empty
    table = pd.DataFrame(rows, dtype=object) if rows else pd.DataFrame(columns=COLUMNS)
    return table.where(table.notna(), "")


def _first_columns(cluster: Facts, peak: Facts, number: int) -> Facts:
    """Return nilearn's columns."""
    name = cluster["id"] if number == 0 else peak["id"]
    size = cluster["size_mm3"] if number == 0 else ""
    return dict(zip(COLUMNS, [name, *peak["mm"], peak["z"], size], strict=True))


def _of_peak(peak: Facts) -> Facts:
    """Return the columns of a peak."""
    size = peak["effect_size"]
    columns: Facts = {"Statistic": peak["statistic"], "df": peak["df"], "p": peak["p"]}
    if "effect" in peak:
        columns["Effect"] = peak["effect"]
        columns |= _limits("Effect", peak["effect_interval"])
    if size is not None:
        columns[size["name"]] = size["value"]
        columns |= _limits(size["name"], size["interval"])
    columns |= {f"Corrected p, {name}": p for name, p in peak.get("p_corrected", {}).items()}
    return columns | {f"{name}, peak": label for name, label in peak.get("atlas", {}).items()}


def _limits(name: str, interval: Sequence[float] | None) -> Facts:
    """Return the columns of an interval."""
    lower, upper = interval or ("", "")
    return {f"{name}, lower": lower, f"{name}, upper": upper}


def _of_cluster(cluster: Facts) -> Facts:
    """Return the columns of a whole cluster."""
    columns: Facts = {
        "Cluster Size (voxels)": cluster["n_voxels"],
        "Cluster Mass": cluster["mass"],
        **dict(zip(CENTRE, cluster["centre_of_mass_mm"], strict=True)),
        "Centre of Mass Inside": cluster["centre_of_mass_inside"],
    }
    for name, p in cluster.get("p_corrected", {}).items():
        columns[f"Smallest corrected p, {name}"] = p
    for key, words in PROPORTIONS.items():
        if key in cluster:
            columns[words] = cluster[key]
    for name, shares in cluster.get("atlas", {}).items():
        columns[f"{name}, cluster"] = "; ".join(f"{label} {share:.0%}" for label, share in shares)
    return columns
