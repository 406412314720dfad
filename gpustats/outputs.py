"""What a run leaves behind: maps, tables, a report and a JSON, whole or not at all."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from uuid import uuid4

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray

from gpustats import images
from gpustats.cluster_facts import (
    PARAMETRIC,
    Facts,
    TableChoices,
    clusters_table,
    describe_clusters,
)
from gpustats.contrast_maps import ContrastMaps
from gpustats.extra_maps import ExtraMap, ExtraMaps
from gpustats.significance import upper_tail_p
from gpustats.spaces import Grid
from gpustats.tables import Clusters, surviving_clusters
from gpustats.thresholding import ThresholdRule
from gpustats.true_discoveries import Discoveries, true_discoveries

logger = logging.getLogger("gpustats")

Pictures: TypeAlias = dict[str, tuple[Any, DTypeLike]]
"""Images by the name of their file, and the type of their voxels on disk."""

ONLY_THE_USUAL = ExtraMaps()
USUAL_TABLE = TableChoices()

EXTREMES = (np.argmax, np.argmin)
"""Where the values are that a summary names."""


@contextmanager
def result_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write to; its files move to ``folder`` when all went well.

    Files of the same names are replaced, others are left alone.

    Raises
    ------
    OSError
        Before anything is done, if ``folder`` cannot be made or written to.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".partial-{uuid4().hex[:8]}"
    try:
        partial.mkdir()
        yield partial
        for path in sorted(partial.iterdir()):
            logger.debug("writing %s", folder / path.name)
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for place in made:
            if place.exists() and not any(place.iterdir()):
                place.rmdir()


class Results(NamedTuple):
    """What is known of a contrast: a description for the JSON, and files by name."""

    summary: dict[str, Any]
    pictures: Pictures
    tables: dict[str, pd.DataFrame]

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the files to a folder that exists, and return the description."""
        save_images(folder, self.pictures)
        for name, table in self.tables.items():
            table.to_csv(folder / name, sep="\t", index=False)
        return self.summary


def contrast_results(
    maps: ContrastMaps,
    rule: ThresholdRule,
    table: TableChoices = USUAL_TABLE,
    extra: ExtraMaps = ONLY_THE_USUAL,
) -> Results:
    """Make the maps, the thresholded map and the clusters of a contrast.

    Parameters
    ----------
    maps
        The contrast's maps.
    rule
        Which voxels count.
    table
        What the table of clusters tells.
    extra
        Which maps to write besides the usual ones.

    Returns
    -------
    Results
        What happened, for the JSON: the contrast, its threshold, peaks and files; and the files.
    """
    rule = rule.for_statistic(maps.contrast.statistic)
    height, thresholded, clusters = surviving_clusters(maps.z, maps.grid, rule, table.min_distance)
    further, described = extra_images(maps, extra.of(maps, rule.two_sided))
    pictures = contrast_images(maps, thresholded, clusters) | further
    proportions = parametric_proportions(maps, clusters, rule.two_sided, table)
    facts = describe_clusters(
        clusters, maps, {}, proportions, table.atlases, two_sided=rule.two_sided
    )
    table_name = clusters_file(maps)
    summary = {
        **contrast_summary(maps),
        **_threshold_summary(rule, height, clusters, int(np.count_nonzero(thresholded))),
        "extra_maps": described,
        "files": [*sorted(pictures), table_name],
        **table_summary(facts, table, rule.two_sided),
    }
    return Results(summary, pictures, {table_name: clusters_table(facts)})


def parametric_proportions(
    maps: ContrastMaps, clusters: Clusters, two_sided: bool, table: TableChoices
) -> dict[str, Discoveries]:
    """Return the parametric true-discovery proportions of clusters, by name."""
    p = upper_tail_p(maps.z, two_sided=two_sided)
    labels = clusters.labels[maps.grid.mask]
    return {PARAMETRIC: true_discoveries(p, labels, table.true_discovery_alpha)}


def table_summary(facts: list[Facts], table: TableChoices, two_sided: bool) -> dict[str, Any]:
    """Describe the clusters and how they were told."""
    return {
        "min_distance_mm": table.min_distance,
        "true_discovery_alpha": table.true_discovery_alpha,
        "p_of_peaks": "two-sided" if two_sided else "one-sided, upper tail",
        "clusters": facts,
    }


def extra_images(maps: ContrastMaps, extra: Iterable[ExtraMap]) -> tuple[Pictures, dict[str, str]]:
    """Return the images of further maps by file, and what each of them is."""
    pictures: Pictures = {}
    described = {}
    for one in extra:
        name = f"contrast-{maps.contrast.label}_{one.entities}_statmap.nii.gz"
        pictures[name] = (images.unmask(one.values, maps.grid, one.description), one.dtype)
        described[name] = one.description
    return pictures, described


def contrast_images(
    maps: ContrastMaps, thresholded: NDArray[np.float64], clusters: Clusters
) -> Pictures:
    """Return the images of a contrast's maps, of what survives and of its clusters, by file."""
    prefix = f"contrast-{maps.contrast.label}"
    arrays: dict[str, NDArray[Any]] = {
        f"{prefix}_stat-effect_statmap.nii.gz": maps.effect,
        f"{prefix}_stat-variance_statmap.nii.gz": maps.variance,
        f"{prefix}_stat-{maps.contrast.statistic}_statmap.nii.gz": maps.statistic,
        f"{prefix}_stat-z_statmap.nii.gz": maps.z,
        f"{prefix}_stat-z_desc-thresholded_statmap.nii.gz": thresholded,
    }
    if maps.n is not None:
        arrays[f"{prefix}_stat-n_statmap.nii.gz"] = maps.n
        arrays[f"{prefix}_stat-df_statmap.nii.gz"] = np.asarray(maps.df)
    pictures: Pictures = {
        name: (images.unmask(array, maps.grid, maps.contrast.name), np.float32)
        for name, array in arrays.items()
    }
    # float32 would turn p below 1e-45 into 0
    p_image = images.unmask(maps.p, maps.grid, maps.contrast.name)
    pictures[f"{prefix}_stat-p_statmap.nii.gz"] = (p_image, np.float64)
    labels = images.to_image(clusters.labels, maps.grid.affine, maps.contrast.name)
    pictures[f"{prefix}_desc-clusters_dseg.nii.gz"] = (labels, np.int32)
    return pictures


def write_clusters(folder: Path, maps: ContrastMaps, facts: list[Facts]) -> str:
    """Write the table of a contrast's clusters; return the name of the file."""
    name = clusters_file(maps)
    clusters_table(facts).to_csv(folder / name, sep="\t", index=False)
    return name


def clusters_file(maps: ContrastMaps) -> str:
    """Return the name of the file with the table of a contrast's clusters."""
    return f"contrast-{maps.contrast.label}_clusters.tsv"


def save_images(folder: Path, pictures: Pictures) -> None:
    """Write images on all cores: compression is most of the work."""
    with ThreadPoolExecutor() as pool:
        tasks = [
            pool.submit(images.save_image, image, folder / name, dtype)
            for name, (image, dtype) in pictures.items()
        ]
        for task in tasks:
            task.result()


def contrast_summary(maps: ContrastMaps) -> dict[str, Any]:
    """Describe a contrast and the largest values of its statistic.

    Where degrees of freedom differ they are those with the largest z, each with its own.
    """
    peaks = [int(place(maps.statistic if maps.n is None else maps.z)) for place in EXTREMES]
    found = [extreme(maps.statistic, peak, maps.grid) for peak in peaks]
    if maps.n is not None:
        for one, peak in zip(found, peaks, strict=True):
            one |= {"df": int(np.asarray(maps.df)[peak]), "n": int(maps.n[peak])}
    summary: dict[str, Any] = {
        "name": maps.contrast.name,
        "label": maps.contrast.label,
        "weights": maps.contrast.weights.tolist(),
        "statistic": maps.contrast.statistic,
        "df": maps.df if maps.n is None else _range(maps.df),
        "maximum": found[0],
        "p": "one-sided, upper tail",
    }
    if maps.contrast.statistic == "F":
        summary["dimension"] = maps.dimension
    else:
        summary["minimum"] = found[1]
    if maps.n is not None:
        summary |= {
            "n": _range(maps.n),
            "n_voxels": maps.grid.n_voxels,
            "not_estimable_voxels": maps.dropped,
        }
    return summary


def _range(numbers: Any) -> list[int]:
    """Return the smallest and the largest number."""
    return [int(numbers.min()), int(numbers.max())]


def extreme(values: Any, voxel: int, grid: Grid) -> dict[str, Any]:
    """Return a value, its voxel and its place."""
    index = np.argwhere(grid.mask)[voxel]
    return {
        "value": float(values[voxel]),
        "voxel": index.tolist(),
        "mm": [round(float(x), 4) for x in grid.to_mm(index)],
    }


def _threshold_summary(
    rule: ThresholdRule, height: float, clusters: Clusters, n_voxels: int
) -> dict[str, Any]:
    """Describe a threshold and what survived it."""
    return {
        "height_control": rule.height_control,
        "alpha": None if rule.height_control is None else rule.alpha,
        "threshold_z": height,
        "two_sided": rule.two_sided,
        "cluster_threshold": rule.cluster_threshold,
        "connectivity": rule.connectivity,
        "description": rule.describe(height),
        "n_surviving_voxels": n_voxels,
        "n_clusters": clusters.n_clusters,
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON that other programs can read: no NaN, keys in the order given."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
