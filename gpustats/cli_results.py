"""What ``gpustats permute`` and ``gpustats merge`` write and print."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from gpustats.bids import write_dataset_description, write_sidecars
from gpustats.cli_options import extra_maps, table_choices
from gpustats.cluster_facts import TableChoices
from gpustats.extra_maps import ExtraMaps
from gpustats.outcomes import Inference
from gpustats.outputs import write_json
from gpustats.permutation_outputs import write_inference
from gpustats.shuffles import Shard
from gpustats.thresholding import ThresholdRule

PART_PREFIX = "inference_"
"""How files with the results of some of the shuffles begin."""

WHAT = "gpustats permute: a permutation test of a group model"
"""What was done, for BIDS."""

SCORES = {
    "cluster_extent": "extent",
    "cluster_mass": "mass",
    "tfce": "TFCE",
    "true_discoveries": "-log10 p",
}
"""What the scores of a statistic are called; those of voxels are t or F, or their z."""


class Wanted(NamedTuple):
    """What is to be written of a test: which voxels count, the table and the further maps."""

    rule: ThresholdRule
    table: TableChoices
    extra: ExtraMaps


def wanted_results(chosen: Mapping[str, Any]) -> Wanted:
    """Return what is to be written, given the options by name; voxels count by corrected p."""
    rule = ThresholdRule(
        chosen["alpha"],
        None,
        None,
        chosen["cluster_threshold"],
        not chosen["one_sided"],
        chosen["connectivity"],
    )
    return Wanted(rule, table_choices(chosen), extra_maps(chosen))


def file_of(part: range | Shard | None) -> str:
    """Return the name of the file with a part, or the whole, of a test."""
    if part is None:
        return "inference.npz"
    if isinstance(part, Shard):
        digits = len(str(part.n_shards))
        return f"{PART_PREFIX}shard-{part.number:0{digits}d}of{part.n_shards}.npz"
    return f"{PART_PREFIX}shuffles-{part.start}to{part.stop}.npz"


def with_run(inference: Inference, run: Mapping[str, Any]) -> Inference:
    """Return the result with what the command line knows of it, which goes into its file."""
    return replace(inference, settings={**inference.settings, "run": run})


def seconds_since(started: float) -> float:
    """Return the seconds since a time of the performance counter."""
    return round(time.perf_counter() - started, 3)


def write_results(
    folder: Path, inference: Inference, wanted: Wanted, started: float, report: str | None
) -> dict[str, Any]:
    """Write maps, tables and the JSON, which names the report; return what is in it."""
    test = dict(inference.settings)
    run = test.pop("run")
    contrasts = write_inference(folder, inference, *wanted)
    chosen = run["parameters"]
    write_sidecars(folder, contrasts, chosen.get("maps", []))
    write_dataset_description(folder, Path(chosen["output_dir"]), WHAT)
    summary = {
        **run,
        "test": test,
        "fingerprint": dict(inference.fingerprint),
        "p_outside_mask": 1,
        "contrasts": contrasts,
        "report": report,
        "seconds": seconds_since(started),
    }
    write_json(folder / "result.json", summary)
    return summary


def print_summary(summary: Mapping[str, Any], folder: Path) -> None:
    """Tell what was found and where it is."""
    data = summary["data"]
    n_maps = f"{data['n_subjects']} maps, " if "n_subjects" in data else ""
    print(f"{n_maps}{data['n_voxels']:,} voxels")
    for contrast in summary["contrasts"]:
        print(f"{contrast['name']}: {contrast['shuffles']['description']}")
        for found in contrast["statistics"]:
            print(f"  {_sentence(found, contrast)}")
        kept = contrast["thresholded"]
        print(
            f"  {kept['description']}: {kept['n_surviving_voxels']:,} voxels "
            f"in {kept['n_clusters']} clusters"
        )
    entry = folder / (summary["report"] or "result.json")
    print(f"written to {folder} in {summary['seconds']:.1f} s; start with {entry}")


def _sentence(found: Mapping[str, Any], contrast: Mapping[str, Any]) -> str:
    """Say in a line what a statistic found."""
    scale = found["scale"]
    of_voxels = contrast["statistic"] if scale == "statistic" else scale
    score = SCORES.get(found["statistic"], of_voxels)
    if contrast["two_sided"]:
        score = f"|{score}|"
    alpha = f"{contrast['alpha']:g}"
    height = found["fwe_thresholds"][alpha]
    # what is written is the next number above the largest score that is too small
    reach = "out of reach" if height is None else f"{score} > {height:.6g}"
    smallest = found["smallest_p_corrected"]
    place = ", ".join(f"{x:.1f}" for x in smallest["mm"])
    return (
        f"{found['statistic']}: corrected p <= {alpha}: {reach}; "
        f"smallest p = {smallest['value']:.6g} at [{place}] mm; "
        f"{found['n_surviving_voxels']:,} voxels survive"
    )


def print_part(inference: Inference, path: Path) -> None:
    """Tell which shuffles were computed and where they are."""
    computed = {one.contrast.name: (one.indices, one.n_shuffles) for one in inference.outcomes}
    for name, (indices, n_shuffles) in computed.items():
        last = indices.stop - 1
        print(f"{name}: shuffles {indices.start:,} to {last:,} of {n_shuffles:,}, counted from 0")
    seconds = inference.settings["run"]["seconds"]
    print(f"written to {path} in {seconds:.1f} s; gpustats merge puts all parts together")
