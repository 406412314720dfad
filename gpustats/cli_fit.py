"""``gpustats fit``: a group model, its maps, clusters and report."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpustats import cli_options, glm
from gpustats.bids import write_dataset_description, write_sidecars
from gpustats.cli_data import (
    describe_data,
    find_group,
    make_contrasts,
    make_design,
    parameters,
    read_design_table,
    reading,
)
from gpustats.cli_rehearsal import Rehearsal, check_folder, print_plan, time_row
from gpustats.cli_report import report_name, write_report
from gpustats.cli_results import Wanted
from gpustats.cohort import Cohort
from gpustats.contrast_maps import ContrastMaps
from gpustats.contrasts import Contrast
from gpustats.design import Design
from gpustats.engines import resolve
from gpustats.environment import versions
from gpustats.inputs import Group
from gpustats.maps import Maps
from gpustats.memory import Load, for_fit, parse_bytes
from gpustats.outputs import contrast_results, result_folder, write_json
from gpustats.planning import described_maps
from gpustats.pooled_variance import warn_of_unequal_variances
from gpustats.thresholding import ThresholdRule

EXAMPLES = """\
examples:
  gpustats fit sub-*_con.nii.gz
  gpustats fit con.nii.gz --design participants.tsv --columns age,sex --intercept --contrast age
  gpustats fit sub-*_con.nii.gz --design groups.tsv --contrast "patients - controls"
  gpustats fit cohort.zarr --memory 2G    (a store that gpustats stack made)
"""


def add_fit(commands: Any) -> None:
    """Add the command that fits a model."""
    fit = commands.add_parser(
        "fit",
        help="fit a group model to one map per subject, and report it",
        description="Fit a group model to one map per subject: maps, clusters and a report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli_options.add_maps(fit)
    cli_options.add_data(fit.add_argument_group("data"))
    cli_options.add_model(fit.add_argument_group("model"))
    thresholds = fit.add_argument_group("thresholds")
    thresholds.add_argument(
        "--height-control",
        choices=["fpr", "fdr", "bonferroni", "none"],
        help="default: fpr, or none with --threshold",
    )
    thresholds.add_argument("--threshold", type=float, metavar="Z", help="z chosen by hand")
    cli_options.add_survival(thresholds, alpha=0.001)
    cli_options.add_extra_maps(fit.add_argument_group("further results"))
    cli_options.add_report(fit.add_argument_group("report"))
    cli_options.add_device(fit)
    cli_options.add_memory(fit)
    cli_options.add_dry_run(fit)
    fit.set_defaults(run=_fit)


def _fit(options: argparse.Namespace) -> None:
    """Fit, write, report."""
    started = time.perf_counter()
    rule = _threshold_rule(options)
    extra = cli_options.extra_maps(vars(options))
    table = cli_options.table_choices(vars(options))
    engine = resolve(options.device)
    group = find_group(options)
    design = make_design(options, read_design_table(options), group)
    contrasts = make_contrasts(options, design)
    wanted = Wanted(rule, table, extra)
    if options.dry_run:
        _print_plan(options, group, design, contrasts, wanted)
        return
    with result_folder(options.output_dir) as partial:
        maps = reading(options).read(group)
        fitted = glm.fit(maps, design, device=options.device, memory=options.memory)
        for contrast in contrasts:
            warn_of_unequal_variances(fitted.maps, fitted.design, contrast)
        summary: dict[str, Any] = {
            "command": "fit",
            "versions": versions(),
            "engine": engine.describe(),
            "parameters": parameters(options),
            "data": describe_data(group, design, fitted.maps.grid, described_maps(fitted.maps)),
            "plan": None if fitted.plan is None else fitted.plan.as_settings(),
            "design": fitted.design.table.to_dict(orient="list"),
            "contrasts": _write_contrasts(
                partial, map(fitted.contrast, contrasts), wanted, options
            ),
            "report": report_name(wanted=not options.no_report),
        }
        summary["seconds"] = round(time.perf_counter() - started, 3)
        write_json(partial / "result.json", summary)
    write_report(summary, options.output_dir)
    _print_summary(summary, options.output_dir)


def _write_contrasts(
    folder: Path, results: Iterable[ContrastMaps], wanted: Wanted, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Write maps, tables and what BIDS wants beside them; describe the contrasts for the JSON."""
    described = [contrast_results(one, *wanted).write(folder) for one in results]
    write_sidecars(folder, described, [str(path) for path in options.maps])
    write_dataset_description(folder, options.output_dir, "gpustats fit: a group model")
    return described


def _print_plan(
    options: argparse.Namespace,
    group: Group,
    design: Design,
    contrasts: list[Contrast],
    wanted: Wanted,
) -> None:
    """Say what would be done, and do it with a few voxels of noise."""
    found = reading(options).survey(group)
    check_folder(options.output_dir)
    rehearsal = Rehearsal(found, design, contrasts, options.missing == "pairwise")

    def compute(maps: Maps) -> list[ContrastMaps]:
        fitted = glm.fit(maps, design, device=options.device)
        return [fitted.contrast(contrast) for contrast in contrasts]

    def write(folder: Path, maps: Maps) -> None:
        _write_contrasts(folder, compute(maps), wanted, options)

    rows = list(rehearsal.rows())
    engine = resolve(options.device)
    if isinstance(found, Cohort) and not rehearsal.pairwise:
        load = Load(found.n_voxels, found.n_subjects, design.rank)
        rows.append(("memory", for_fit(engine, load, parse_bytes(options.memory)).describe()))
    rows.append(("device", engine.describe()))
    seconds = rehearsal.timed(lambda maps: [one.z for one in compute(maps)])
    rows.append(time_row(seconds, "reading the maps and drawing the report take longer"))
    report = report_name(wanted=not options.no_report)
    names = [*rehearsal.names(write), "result.json", *([report] if report else [])]
    print_plan(rows, options.output_dir, sorted(names))


def _threshold_rule(options: argparse.Namespace) -> ThresholdRule:
    """Return which voxels count; a threshold chosen by hand excludes control of a rate."""
    if options.threshold is not None and options.height_control not in (None, "none"):
        raise ValueError(
            f"--threshold sets the z threshold by hand, --height-control {options.height_control} "
            "computes it from --alpha; give one of the two"
        )
    by_hand = options.threshold is not None or options.height_control == "none"
    return ThresholdRule(
        options.alpha,
        options.threshold,
        None if by_hand else options.height_control or "fpr",
        options.cluster_threshold,
        not options.one_sided,
        options.connectivity,
    )


def _print_summary(summary: dict[str, Any], folder: Path) -> None:
    """Tell what was found and where it is."""
    data = summary["data"]
    print(f"{data['n_subjects']} maps, {data['n_voxels']:,} voxels")
    for contrast in summary["contrasts"]:
        name, statistic, peak = contrast["name"], contrast["statistic"], contrast["maximum"]
        place = ", ".join(f"{x:.1f}" for x in peak["mm"])
        dimension = f"{contrast['dimension']}, " if statistic == "F" else ""
        df = peak.get("df", contrast["df"])
        print(f"{name}: maximum {statistic}({dimension}{df}) = {peak['value']:.4f} at [{place}] mm")
        print(
            f"  {contrast['description']}: {contrast['n_surviving_voxels']:,} voxels "
            f"in {contrast['n_clusters']} clusters"
        )
    entry = summary["report"] or "result.json"
    print(f"written to {folder} in {summary['seconds']:.1f} s; start with {folder / entry}")
