"""``gpustats merge``: the parts of a permutation test become the whole."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpustats import cli_options
from gpustats.archives import load_inference, save_inference
from gpustats.cli_report import report_name, write_report
from gpustats.cli_results import (
    PART_PREFIX,
    file_of,
    print_summary,
    wanted_results,
    with_run,
    write_results,
)
from gpustats.environment import versions
from gpustats.merging import Merger
from gpustats.outcomes import Inference
from gpustats.outputs import result_folder
from gpustats.progress import shown

logger = logging.getLogger("gpustats")


def add_merge(commands: Any) -> None:
    """Add the command that puts parts of a permutation test together."""
    merging = commands.add_parser(
        "merge",
        help="put the parts of a permutation test together",
        description="Put parts of a permutation test (gpustats permute --shard, --shuffles) "
        "together: the outputs are those of one run over all shuffles, and what is asked for here.",
    )
    merging.add_argument(
        "parts",
        nargs="+",
        type=Path,
        metavar="PARTS",
        help=f"files, or folders with files {PART_PREFIX}*.npz",
    )
    cli_options.add_output(merging)
    cli_options.add_report(merging)
    cli_options.add_allow_mixed(merging)
    cli_options.add_extra_maps(merging.add_argument_group("further results"), rate=None)
    merging.set_defaults(run=_merge)


def _merge(options: argparse.Namespace) -> None:
    """Put parts together, one by one, and write the results."""
    started = time.perf_counter()
    merger = Merger(allow_mixed=options.allow_mixed)
    runs: dict[Path, Mapping[str, Any]] = {}
    files = _part_files(options.parts)
    for path in shown(files, "merging", len(files), "part"):
        logger.debug("reading %s", path)
        part = load_inference(path)
        runs[path] = part.settings.get("run", {})
        _check_rule(runs)
        merger.add(part, str(path))
    inference = merger.whole()
    run = _run_of_all(runs, inference, options)
    wanted = wanted_results(run["parameters"])
    report = report_name(wanted=not options.no_report)
    with result_folder(options.output_dir) as partial:
        inference = with_run(inference, run)
        summary = write_results(partial, inference, wanted, started, report)
        save_inference(inference, partial / file_of(None))
    write_report(summary, options.output_dir)
    print_summary(summary, options.output_dir)


def _check_rule(runs: Mapping[Path, Mapping[str, Any]]) -> None:
    """Refuse parts of the command line whose options ask for different results."""
    known = [run["parameters"] for run in runs.values() if run]
    differing = [
        f"--{name.replace('_', '-')}"
        for name in cli_options.OF_RESULTS
        if known and known[-1].get(name) != known[0].get(name)
    ]
    if differing:
        raise ValueError(
            f"{list(runs)[-1]} was computed with different {', '.join(differing)} than the parts "
            "before; they must agree"
        )


def _run_of_all(
    runs: Mapping[Path, Mapping[str, Any]], inference: Inference, options: argparse.Namespace
) -> dict[str, Any]:
    """Return what the command line knows of the whole; of parts from Python it is little."""
    known = next((run for run in runs.values() if run), None)
    if known is None:
        known = {
            "versions": versions(),
            "engine": inference.settings["engine"],
            "parameters": {
                **cli_options.SURVIVAL,
                "one_sided": not any(outcome.two_sided for outcome in inference.outcomes),
            },
            "data": {"n_voxels": inference.grid.n_voxels},
        }
    whole = {"shuffles": None, "shard": None, "output_dir": str(options.output_dir)}
    if options.title is not None:
        whole["title"] = options.title
    asked = {name: getattr(options, name) for name in cli_options.FURTHER_RESULTS}
    asked = {name: value for name, value in asked.items() if value}
    return {
        **known,
        "command": "merge",
        "parameters": {**known["parameters"], **asked, **whole},
        "parts": [{"file": str(path), "seconds": run.get("seconds")} for path, run in runs.items()],
    }


def _part_files(given: Sequence[Path]) -> list[Path]:
    """Return the files, and those that are in the folders."""
    files: list[Path] = []
    for path in given:
        found = sorted(path.glob(f"{PART_PREFIX}*.npz")) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{path}: no file in this folder is called {PART_PREFIX}*.npz")
        files += found
    return files
