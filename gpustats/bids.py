"""BIDS derivatives: what stands beside each file of results, and beside all of them.

The files of a result are named by BIDS' rules, ``<entity>-<label>_..._<suffix>.<extension>``; this
module writes the sidecars, JSON that says of each file what it holds and how it came about.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpustats.environment import versions
from gpustats.outputs import write_json

BIDS_VERSION = "1.10.0"
DESCRIPTION_FILE = "dataset_description.json"
NAME = "gpustats"

OWN_UNIT, NO_UNIT = "units of the input maps", "1"

STATISTICS: dict[str, tuple[str, str]] = {
    "effect": ("Estimate of the contrast.", OWN_UNIT),
    "variance": ("Variance of the estimate of the contrast.", f"{OWN_UNIT}, squared"),
    "t": ("t of the contrast.", NO_UNIT),
    "F": ("F of the contrast.", NO_UNIT),
    "z": ("z with the same upper tail as the statistic.", NO_UNIT),
    "p": ("p of the contrast, one-sided, upper tail.", NO_UNIT),
    "n": ("Number of subjects with data.", NO_UNIT),
    "df": ("Degrees of freedom of the residuals.", NO_UNIT),
    "pseudot": ("Estimate of the contrast over the root of its smoothed variance.", NO_UNIT),
}
"""What maps hold, by the label of ``stat``, and their units."""

OF_F = {
    "effect": ("Estimates of the rows, whitened by their covariance.", OWN_UNIT),
    "variance": ("Variance of the residuals.", f"{OWN_UNIT}, squared"),
}
"""What is different of F contrasts."""

CONTRIBUTIONS = "nullcontributions"
"""How labels of maps end that count the maxima at each voxel."""

OF_THRESHOLD = {
    "height_control": "HeightControl",
    "alpha": "Alpha",
    "threshold_z": "ThresholdZ",
    "two_sided": "TwoSided",
    "cluster_threshold": "ClusterThresholdVoxels",
    "connectivity": "Connectivity",
}
"""What a summary says of a threshold, and what the sidecar calls it."""


def entities_of(name: str) -> dict[str, str]:
    """Return the entities, suffix and extension of a file name.

    Examples
    --------
    >>> entities_of("contrast-age_stat-z_statmap.nii.gz")
    {'contrast': 'age', 'stat': 'z', 'suffix': 'statmap', 'extension': '.nii.gz'}
    """
    stem, dot, extension = name.partition(".")
    *pairs, suffix = stem.split("_")
    entities = dict(pair.split("-", maxsplit=1) for pair in pairs)
    return {**entities, "suffix": suffix, "extension": dot + extension}


def write_sidecars(
    folder: Path, contrasts: Iterable[dict[str, Any]], sources: Sequence[str]
) -> None:
    """Write a JSON beside each map and table of some contrasts, and add it to their files.

    Parameters
    ----------
    folder
        Where the files are.
    contrasts
        What a result's JSON says of each contrast; its ``files`` become more.
    sources
        The maps that the results were computed from.
    """
    for contrast in contrasts:
        written = []
        for name in contrast["files"]:
            sidecar = re.sub(r"\..*", ".json", name)
            write_json(folder / sidecar, {**_sidecar(name, contrast), "Sources": list(sources)})
            written.append(sidecar)
        contrast["files"] = [*contrast["files"], *written]


def write_dataset_description(folder: Path, kept: Path, what: str) -> None:
    """Write what BIDS wants beside all files of a dataset: which program made them.

    Parameters
    ----------
    folder
        Where to.
    kept
        The folder of results. What other programs said in it, and what users added, stays.
    what
        What was done, for ``GeneratedBy``.
    """
    own = {"Name": NAME, "Version": versions()["gpustats"], "Description": what}
    before: dict[str, Any] = {}
    with suppress(FileNotFoundError, ValueError):
        found = json.loads((kept / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        before = found if isinstance(found, dict) else {}
    makers = before.get("GeneratedBy")
    others = [one for one in makers if one != own] if isinstance(makers, list) else []
    usual = {
        "Name": "Group statistics by gpustats",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
    }
    write_json(folder / DESCRIPTION_FILE, {**usual, **before, "GeneratedBy": [*others, own]})


def _sidecar(name: str, contrast: Mapping[str, Any]) -> dict[str, Any]:
    """Say what a file of a contrast holds."""
    entities = entities_of(name)
    told: dict[str, Any] = {
        "Description": "",
        "Contrast": contrast["name"],
        "ContrastWeights": contrast["weights"],
        "Statistic": contrast["statistic"],
        "DegreesOfFreedom": contrast["df"],
        "SoftwareName": NAME,
        "SoftwareVersion": versions()["gpustats"],
    }
    if "dimension" in contrast:
        told["NumeratorDegreesOfFreedom"] = contrast["dimension"]
    if "shuffles" in contrast:
        told["Shuffles"] = contrast["shuffles"]["description"]
    return told | _particulars(name, entities, contrast)


def _particulars(
    name: str, entities: Mapping[str, str], contrast: Mapping[str, Any]
) -> dict[str, Any]:
    """Say what one kind of file holds, by the entities of its name."""
    stat, label, suffix = entities.get("stat"), entities.get("desc"), entities["suffix"]
    if suffix == "nullmax":
        return _of_null_maxima(_test_of(str(label), contrast))
    if suffix == "clusters":
        words = "Clusters of the thresholded map, their peaks and sub-peaks."
        return {"Description": words, **_threshold(contrast)}
    if suffix == "dseg":
        words = "Clusters of the thresholded map: values are their IDs in the table."
        return {"Description": words, "Units": NO_UNIT, **_threshold(contrast)}
    if name in contrast["extra_maps"]:
        words = contrast["extra_maps"][name]
        of_effect = stat == "effect"
        return {"Description": f"{words}.", "Units": OWN_UNIT if of_effect else NO_UNIT}
    if label == "thresholded":
        words = "z of the voxels that survive the threshold, 0 elsewhere."
        return {"Description": words, "Units": NO_UNIT, **_threshold(contrast)}
    if stat == "p" and label is not None:
        return _of_p(label, contrast)
    if stat is None and label is not None and label.endswith(CONTRIBUTIONS):
        return _of_contributions(_test_of(label.removesuffix(CONTRIBUTIONS), contrast))
    known = STATISTICS | (OF_F if contrast["statistic"] == "F" else {})
    if stat in known:
        words, units = known[stat]
        return {"Description": words, "Units": units}
    test = _test_of(str(stat), contrast)
    words = f"Scores of the statistic {test['statistic']}."
    return {"Description": words, "Units": NO_UNIT, "FWEThresholds": test["fwe_thresholds"]}


def _threshold(contrast: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a threshold was, under the names of sidecars."""
    told = {**contrast, **contrast.get("thresholded", {})}
    return {
        "Threshold": told["description"],
        **{to: told[name] for name, to in OF_THRESHOLD.items() if name in told},
        "MinimumDistanceMm": contrast["min_distance_mm"],
    }


def _test_of(label: str, contrast: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a summary says of the statistic whose label a file has."""
    tests: Sequence[Mapping[str, Any]] = contrast["statistics"]
    return next(one for one in tests if one["statistic"].replace("_", "") == label)


def _of_p(label: str, contrast: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a map of p of a permutation test."""
    test = _test_of(label.removesuffix("fwe").removesuffix("unc"), contrast)
    corrected = label.endswith("fwe")
    how = "corrected over voxels (family-wise error)" if corrected else "of each voxel alone"
    told = {
        "Description": f"p of the statistic {test['statistic']}, {how}; 1 outside the mask.",
        "Units": NO_UNIT,
        "TwoSided": contrast["two_sided"],
        "MinimumP": contrast["shuffles"]["minimum_p"],
    }
    return {**told, "FWEThresholds": test["fwe_thresholds"]} if corrected else told


def _of_contributions(test: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a map of which voxels supply the null maxima."""
    words = f"Number of shuffles whose largest score of {test['statistic']} is at the voxel."
    return {"Description": words, "Units": NO_UNIT}


def _of_null_maxima(test: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a table of null maxima, and its columns."""
    return {
        "Description": f"Largest score of the statistic {test['statistic']} in every shuffle.",
        "FWEThresholds": test["fwe_thresholds"],
        "index": {"Description": "Number of the shuffle; 0 is the data as observed."},
        "maximum": {"Description": "Largest score anywhere in the mask."},
    }
