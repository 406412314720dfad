"""What a permutation test leaves behind: scores, p maps and null maxima, beside a fit's maps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpustats import images, simes
from gpustats.atlases import Atlas, with_distinct_names
from gpustats.bids import write_dataset_description, write_sidecars
from gpustats.cluster_facts import PERMUTATION, TableChoices, describe_clusters
from gpustats.contrast_maps import ContrastMaps
from gpustats.environment import versions
from gpustats.extra_maps import ExtraMap, ExtraMaps
from gpustats.outcomes import Inference, Outcome
from gpustats.outputs import (
    ONLY_THE_USUAL,
    USUAL_TABLE,
    Pictures,
    contrast_images,
    contrast_summary,
    extra_images,
    extreme,
    parametric_proportions,
    result_folder,
    save_images,
    table_summary,
    write_clusters,
    write_json,
)
from gpustats.spaces import Grid
from gpustats.tables import clusters_at
from gpustats.thresholding import ThresholdRule
from gpustats.true_discoveries import Discoveries, check_rate, permutation_true_discoveries

USUAL_ALPHA = 0.05
"""The error rate whose threshold is written down whatever was asked for."""

NOT_ZERO = float(np.nextafter(0, 1))
"""The height that keeps all of a map but its zeros."""


def write_inference(
    folder: Path,
    inference: Inference,
    rule: ThresholdRule,
    table: TableChoices = USUAL_TABLE,
    extra: ExtraMaps = ONLY_THE_USUAL,
) -> list[dict[str, Any]]:
    """Write the maps and tables of a permutation test.

    Parameters
    ----------
    folder
        Where to; it exists.
    inference
        The result, of all shuffles.
    rule
        ``alpha``: voxels count whose p of the first statistic, corrected over voxels, is at most
        that; and which of their clusters do. Its heights are not used.
    table
        What the table of clusters tells.
    extra
        Which maps to write besides the usual ones.

    Returns
    -------
    list of dict
        What happened, for the JSON, contrast by contrast.

    Raises
    ------
    ValueError
        If shuffles are missing.
    """
    return [
        _write_contrast(folder, inference, maps, rule, table, extra)
        for maps in inference.maps.values()
    ]


def save_maps(
    inference: Inference,
    folder: str | os.PathLike[str],
    *,
    alpha: float = USUAL_ALPHA,
    cluster_threshold: int = 0,
    connectivity: int = 6,
    min_distance: float = 8.0,
    true_discovery_alpha: float = 0.05,
    atlases: Sequence[Atlas] = (),
    extra_maps: ExtraMaps = ONLY_THE_USUAL,
) -> None:
    """Write a permutation test as NIfTI maps, tables and a JSON, whole or not at all.

    Parameters
    ----------
    inference
        The result of `permutation_test` or `merge`, of all shuffles.
    folder
        Where to; made if absent, files of the same names are replaced.
    alpha
        Voxels count whose p of the first statistic, corrected over voxels, is at most that.
    cluster_threshold, connectivity, min_distance
        Least number of voxels of a cluster, which voxels touch, and least distance of sub-peaks
        in mm.
    true_discovery_alpha
        The probability that any true-discovery proportion in the table is too large.
    atlases
        Where the names of places in the table come from; see `gpustats.load_atlas`.
    extra_maps
        Which maps to write besides the usual ones: effect sizes, intervals, other forms of p.

    Raises
    ------
    ValueError
        If shuffles are missing, a number is not in its unit, or two atlases have one name.
    OSError
        If the folder cannot be written to.
    """
    check_rate(true_discovery_alpha)
    table = TableChoices(min_distance, true_discovery_alpha, with_distinct_names(atlases))
    two_sided = any(outcome.two_sided for outcome in inference.outcomes)
    rule = ThresholdRule(alpha, None, None, cluster_threshold, two_sided, connectivity)
    folder = Path(folder)
    with result_folder(folder) as partial:
        contrasts = write_inference(partial, inference, rule, table, extra_maps)
        write_sidecars(partial, contrasts, [])
        write_dataset_description(partial, folder, "gpustats: a permutation test of a group model")
        summary = {
            "versions": versions(),
            "test": dict(inference.settings),
            "fingerprint": dict(inference.fingerprint),
            "p_outside_mask": 1,
            "contrasts": contrasts,
        }
        write_json(partial / "result.json", summary)


def _write_contrast(
    folder: Path,
    inference: Inference,
    maps: ContrastMaps,
    rule: ThresholdRule,
    table: TableChoices,
    extra: ExtraMaps,
) -> dict[str, Any]:
    """Write what was found of one contrast, and describe it."""
    rule = rule.for_statistic(maps.contrast.statistic)
    name, grid = maps.contrast.name, inference.grid
    outcomes = [outcome for outcome in inference.outcomes if outcome.contrast.name == name]
    corrected = [outcome.p_corrected for outcome in outcomes]
    z = np.where(corrected[0] <= rule.alpha, maps.z, 0.0)
    thresholded, clusters = clusters_at(NOT_ZERO, z, grid, rule, table.min_distance)
    pictures = contrast_images(maps, thresholded, clusters)
    further = list(extra.of(maps, rule.two_sided))
    for outcome, p in zip(outcomes, corrected, strict=True):
        pictures |= _images(outcome, p, grid)
        further += _other_forms(outcome, p, extra)
    further_pictures, described = extra_images(maps, further)
    pictures |= further_pictures
    save_images(folder, pictures)
    labels = clusters.labels[grid.mask]
    facts = describe_clusters(
        clusters,
        maps,
        {
            outcome.statistic: p
            for outcome, p in zip(outcomes, corrected, strict=True)
            if outcome.statistic != simes.NAME  # whose maxima are of ranks, not of voxels
        },
        parametric_proportions(maps, clusters, rule.two_sided, table)
        | _proportions(outcomes, labels, table.true_discovery_alpha),
        table.atlases,
        two_sided=rule.two_sided,
    )
    tables = [write_clusters(folder, maps, facts)]
    null_maxima = [_write_null_maxima(folder, outcome) for outcome in outcomes]
    return {
        **contrast_summary(maps),
        "shuffles": {
            "description": inference.settings["shuffles"][name],
            "n_shuffles": outcomes[0].n_shuffles,
            "n_distinct": inference.settings["n_distinct"][name],
            "minimum_p": outcomes[0].minimum_p,
        },
        "alpha": rule.alpha,
        "two_sided": rule.two_sided,
        "statistics": [
            {**_summary(outcome, p, grid, rule), "null_maxima": name}
            for outcome, p, name in zip(outcomes, corrected, null_maxima, strict=True)
        ],
        "thresholded": {
            "description": f"{outcomes[0].statistic}: corrected p <= {rule.alpha:g}",
            "cluster_threshold": rule.cluster_threshold,
            "connectivity": rule.connectivity,
            "n_surviving_voxels": int(np.count_nonzero(thresholded)),
            "n_clusters": clusters.n_clusters,
        },
        "extra_maps": described,
        "files": [*sorted(pictures), *sorted([*tables, *null_maxima])],
        **table_summary(facts, table, rule.two_sided),
    }


def _proportions(
    outcomes: Sequence[Outcome], labels: NDArray[np.int32], alpha: float
) -> dict[str, Discoveries]:
    """Bound the discoveries of clusters if `TrueDiscoveries` was among the statistics."""
    for outcome in outcomes:
        if outcome.statistic == simes.NAME:
            return {PERMUTATION: permutation_true_discoveries(outcome, labels, alpha)}
    return {}


def _images(outcome: Outcome, p_corrected: NDArray[np.float64], grid: Grid) -> Pictures:
    """Return the images of a statistic's scores and p by file; p is 1 outside the mask."""
    prefix = f"contrast-{outcome.contrast.label}"
    label = _file_label(outcome)
    p_maps = {"fwe": p_corrected}
    if outcome.counts is not None:
        p_maps["unc"] = outcome.p_uncorrected
    # k / P to the last digit, so that p <= alpha means the same in the file
    pictures: Pictures = {
        f"{prefix}_stat-p_desc-{label}{kind}_statmap.nii.gz": (
            images.to_image(grid.unmask(p, fill=1.0), grid.affine, outcome.contrast.name),
            np.float64,
        )
        for kind, p in p_maps.items()
    }
    if outcome.null_contributions is not None:
        counts = grid.unmask(outcome.null_contributions)
        pictures[f"{prefix}_desc-{label}nullcontributions_statmap.nii.gz"] = (
            images.to_image(counts, grid.affine, outcome.contrast.name),
            np.int32,
        )
    # t, F and their z are the fit's maps
    fitted = outcome.statistic == "voxelwise" and outcome.scale != "pseudo-t"
    if not fitted:
        score = images.unmask(outcome.observed, grid, outcome.contrast.name)
        its_label = "pseudot" if outcome.scale == "pseudo-t" else label
        pictures[f"{prefix}_stat-{its_label}_statmap.nii.gz"] = (score, np.float32)
    return pictures


def _other_forms(
    outcome: Outcome, p_corrected: NDArray[np.float64], extra: ExtraMaps
) -> Iterator[ExtraMap]:
    """Make the other forms of a statistic's maps of p."""
    label, name = _file_label(outcome), outcome.statistic
    yield from extra.of_p(p_corrected, f"{label}fwe", f"corrected p of {name}")
    if outcome.counts is not None:
        yield from extra.of_p(outcome.p_uncorrected, f"{label}unc", f"uncorrected p of {name}")


def _write_null_maxima(folder: Path, outcome: Outcome) -> str:
    """Write the largest score of every shuffle as a table; return the name of the file."""
    name = f"contrast-{outcome.contrast.label}_desc-{_file_label(outcome)}_nullmax.tsv"
    table = pd.DataFrame({"index": outcome.indices, "maximum": outcome.null_maxima})
    table.to_csv(folder / name, sep="\t", index=False)
    return name


def _file_label(outcome: Outcome) -> str:
    """Return a statistic's name as a BIDS label: letters only."""
    return outcome.statistic.replace("_", "")


def _summary(
    outcome: Outcome, p_corrected: NDArray[np.float64], grid: Grid, rule: ThresholdRule
) -> dict[str, Any]:
    """Describe what a statistic found."""
    size = np.abs(outcome.observed) if outcome.two_sided else outcome.observed
    peak = int(np.lexsort((-size, p_corrected))[0])
    return {
        "statistic": outcome.statistic,
        "scale": outcome.scale,
        "fwe_thresholds": {
            f"{alpha:g}": outcome.threshold(alpha) for alpha in sorted({USUAL_ALPHA, rule.alpha})
        },
        "smallest_p_corrected": extreme(p_corrected, peak, grid),
        "score_there": float(outcome.observed[peak]),
        "n_surviving_voxels": int(np.count_nonzero(p_corrected <= rule.alpha)),
    }
