"""``gpustats merge``: the parts of a permutation test become the whole."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpustats import cli_options
from gpustats.archives import load_inference, save_inference
from gpustats.cli_results import (
    PART_PREFIX,
    file_of,
    print_summary,
    survival_rule,
    with_run,
    write_results,
)
from gpustats.outcomes import Inference, merge
from gpustats.outputs import result_folder
from gpustats.thresholding import ThresholdRule


def add_merge(commands: Any) -> None:
    """Add the command that puts parts of a permutation test together."""
    merging = commands.add_parser(
        "merge",
        help="put the parts of a permutation test together",
        description="Put parts of a permutation test (gpustats permute --shard, --shuffles) "
        "together: the outputs are those of one run over all shuffles.",
    )
    merging.add_argument(
        "parts",
        nargs="+",
        type=Path,
        metavar="PARTS",
        help=f"files, or folders with files {PART_PREFIX}*.npz",
    )
    cli_options.add_output(merging)
    merging.set_defaults(run=_merge)


def _merge(options: argparse.Namespace) -> None:
    """Put parts together, and write the results."""
    started = time.perf_counter()
    parts = {path: load_inference(path) for path in _part_files(options.parts)}
    rule = _common_rule(parts)
    inference = merge(parts.values())
    run = inference.settings["run"]
    whole = {"shuffles": None, "shard": None, "output_dir": str(options.output_dir)}
    run = {
        **run,
        "command": "merge",
        "parameters": {**run["parameters"], **whole},
        "parts": [
            {"file": str(path), "seconds": part.settings["run"]["seconds"]}
            for path, part in parts.items()
        ],
    }
    with result_folder(options.output_dir) as partial:
        inference = with_run(inference, run)
        summary = write_results(partial, inference, rule, started)
        save_inference(inference, partial / file_of(None))
    print_summary(summary, options.output_dir)


def _common_rule(parts: Mapping[Path, Inference]) -> ThresholdRule:
    """Return which voxels count by the options of all parts, if these agree."""
    rules = set()
    for path, part in parts.items():
        if "run" not in part.settings:
            raise ValueError(
                f"{path}: not written by gpustats permute; use gpustats.merge in Python"
            )
        chosen = part.settings["run"]["parameters"]
        rules.add((survival_rule(chosen), chosen["min_distance"]))
    if len(rules) > 1:
        raise ValueError(
            "the parts were computed with different --alpha, --cluster-threshold, "
            "--connectivity, --one-sided or --min-distance; they must agree"
        )
    return rules.pop()[0]


def _part_files(given: Sequence[Path]) -> list[Path]:
    """Return the files, and those that are in the folders."""
    files: list[Path] = []
    for path in given:
        found = sorted(path.glob(f"{PART_PREFIX}*.npz")) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{path}: no file in this folder is called {PART_PREFIX}*.npz")
        files += found
    return files
