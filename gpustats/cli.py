"""The command line: ``gpustats fit``, ``gpustats info`` and ``gpustats demo``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gpustats
from gpustats import demo, glm, report
from gpustats.contrasts import Contrast
from gpustats.design import Design
from gpustats.engines import DeviceError, resolve
from gpustats.environment import versions
from gpustats.glm import ContrastMaps, Fit
from gpustats.inputs import GroupInput, group_input
from gpustats.maps import load_maps
from gpustats.outputs import result_folder, write_contrast, write_json
from gpustats.subjects import read_table
from gpustats.thresholding import ThresholdRule

logger = logging.getLogger("gpustats")

USER_ERROR = 2
INTERRUPTED = 130

FIT_EXAMPLES = """\
examples:
  gpustats fit sub-*_con.nii.gz
  gpustats fit con.nii.gz --design participants.tsv --columns age,sex --intercept --contrast age
  gpustats fit sub-*_con.nii.gz --design groups.tsv --contrast "patients - controls"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments
        The words after ``gpustats``; those of the process by default.

    Returns
    -------
    int
        0, or 2 after a user's error, which is told in one line, or 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("gpustats: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        options.run(options)
    except (ValueError, TypeError, OSError, DeviceError, ImportError) as error:
        if os.environ.get("GPUSTATS_DEBUG"):
            raise
        print(f"gpustats: error: {_one_line(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("gpustats: interrupted; no output was written", file=sys.stderr)
        return INTERRUPTED
    finally:
        logger.removeHandler(handler)
    return 0


def _one_line(error: Exception) -> str:
    """Return an error's message on one line, with the file of a system error."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    parser = argparse.ArgumentParser(prog="gpustats", description=gpustats.__doc__)
    parser.add_argument("--version", action="version", version=f"gpustats {gpustats.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_fit(commands)
    info = commands.add_parser("info", help="print versions, the engine and the free memory")
    info.set_defaults(run=_info)
    demonstration = commands.add_parser("demo", help="simulate a group, analyse it, report it")
    demonstration.add_argument(
        "--output-dir", type=Path, default=Path("gpustats-demo"), help="default: %(default)s"
    )
    demonstration.add_argument("--n-subjects", type=int, default=20, help="default: %(default)s")
    demonstration.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    demonstration.set_defaults(run=_demo)
    return parser


def _add_fit(commands: Any) -> None:
    """Add the command that fits a model."""
    fit = commands.add_parser(
        "fit",
        help="fit a group model to one map per subject, and report it",
        description="Fit a group model to one map per subject: maps, clusters and a report.",
        epilog=FIT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fit.add_argument(
        "maps",
        nargs="+",
        type=Path,
        metavar="MAPS",
        help="3D NIfTI files, one 4D file, or a table (.tsv, .csv) with the columns "
        "subject_label and effects_map_path (relative to the table)",
    )
    fit.add_argument("--output-dir", type=Path, default=Path("gpustats-results"))
    _add_data_options(fit.add_argument_group("data"))
    _add_model_options(fit.add_argument_group("model"))
    _add_threshold_options(fit.add_argument_group("thresholds"))
    fit.add_argument("--title", help="title of the report")
    fit.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<index>")
    fit.set_defaults(run=_fit)


def _add_data_options(group: Any) -> None:
    """Add what says how maps are read."""
    group.add_argument("--mask", type=Path, help="voxels to analyse; made from the maps if absent")
    group.add_argument("--missing", choices=["drop_voxel", "raise"], default="drop_voxel")
    group.add_argument("--zero-is-missing", action="store_true", help="0 means no data here")
    group.add_argument("--resample", action="store_true", help="align maps of another grid")
    group.add_argument("--smoothing-fwhm", type=float, metavar="MM")
    group.add_argument("--map-name", help="which map_name of a table of maps")


def _add_model_options(group: Any) -> None:
    """Add what says what is tested."""
    group.add_argument("--design", type=Path, help="table of regressors; one-sample if absent")
    group.add_argument("--columns", metavar="A,B", help="columns of the table to use")
    group.add_argument("--intercept", action="store_true", help="add a column of ones")
    group.add_argument("--id", metavar="COLUMN", help="column with the subjects' labels")
    group.add_argument(
        "--contrast",
        action="append",
        metavar="EXPRESSION",
        help='over column names, "patients - controls"; rows of F apart by ";"; may be repeated',
    )
    group.add_argument("--stat-type", choices=["t", "F"], help="default: t for one row, else F")


def _add_threshold_options(group: Any) -> None:
    """Add what says which voxels count."""
    group.add_argument("--alpha", type=float, default=0.001, help="default: %(default)s")
    group.add_argument(
        "--height-control",
        choices=["fpr", "fdr", "bonferroni", "none"],
        help="default: fpr, or none with --threshold",
    )
    group.add_argument("--threshold", type=float, metavar="Z", help="z threshold chosen by hand")
    group.add_argument("--cluster-threshold", type=int, default=0, metavar="VOXELS")
    group.add_argument("--connectivity", type=int, choices=[6, 18, 26], default=6)
    group.add_argument("--one-sided", action="store_true", help="only positive values count")
    group.add_argument("--min-distance", type=float, default=8.0, metavar="MM", help="of sub-peaks")


def _fit(options: argparse.Namespace) -> None:
    """Fit, write, report."""
    started = time.perf_counter()
    rule = _threshold_rule(options)
    engine = resolve(options.device)
    maps_of_group = _group_input(options)
    design = _design(options, maps_of_group)
    contrasts = _contrasts(options, design)
    with result_folder(options.output_dir) as partial:
        maps = load_maps(
            maps_of_group.images(options.map_name),
            options.mask,
            subjects=maps_of_group.subjects,
            missing=options.missing,
            zero_is_missing=options.zero_is_missing,
            smoothing_fwhm=options.smoothing_fwhm,
            resample=options.resample,
        )
        fitted = glm.fit(maps, design, device=options.device)
        results = {contrast.name: fitted.contrast(contrast) for contrast in contrasts}
        summary: dict[str, Any] = {
            "command": "fit",
            "versions": versions(),
            "engine": engine.describe(),
            "parameters": _parameters(options),
            "data": _data_summary(fitted),
            "design": fitted.design.table.to_dict(orient="list"),
            "contrasts": [
                write_contrast(partial, result, rule, options.min_distance)
                for result in results.values()
            ],
            "report": _write_report(partial / "report.html", fitted, results, rule, options),
        }
        summary["seconds"] = round(time.perf_counter() - started, 3)
        write_json(partial / "result.json", summary)
    _print_summary(summary, options.output_dir)


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


def _group_input(options: argparse.Namespace) -> GroupInput:
    """Return the maps: files, or those that a table names, relative to it."""
    first = options.maps[0]
    if len(options.maps) > 1 or first.suffix.lower() not in (".tsv", ".csv"):
        return group_input(first if len(options.maps) == 1 else options.maps)
    table = read_table(first)
    if "map_name" not in table.columns:
        table["map_name"] = "map"
    if "effects_map_path" in table.columns:
        table["effects_map_path"] = [first.parent / path for path in table["effects_map_path"]]
    return group_input(table)


def _design(options: argparse.Namespace, maps_of_group: GroupInput) -> Design:
    """Return the design, rows in the order of the maps."""
    subjects, n_maps = maps_of_group.subjects, maps_of_group.n_maps
    if options.design is None:
        if options.columns or options.id:
            raise ValueError("--columns and --id speak of a table; give it with --design")
        return glm.group_mean(n_maps).aligned(subjects, n_maps)
    columns = None
    if options.columns is not None:
        columns = [name.strip() for name in options.columns.split(",")]
    table = read_table(options.design)
    design = Design(table, columns=columns, intercept=options.intercept, id_column=options.id)
    return design.aligned(subjects, n_maps)


def _contrasts(options: argparse.Namespace, design: Design) -> list[Contrast]:
    """Return the contrasts; names that would share files are refused."""
    contrasts = [
        design.contrast(expression, statistic=options.stat_type)
        for expression in options.contrast or [None]
    ]
    labels = [contrast.label for contrast in contrasts]
    for contrast in contrasts:
        if labels.count(contrast.label) > 1:
            raise ValueError(
                f"contrast {contrast.name!r} and another would both be written to files named "
                f"contrast-{contrast.label}; run them apart, with an --output-dir each"
            )
    return contrasts


def _parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Return every option as the JSON keeps it."""
    kept = {name: value for name, value in vars(options).items() if name != "run"}
    kept["maps"] = [str(path) for path in options.maps]
    return {name: str(v) if isinstance(v, Path) else v for name, v in kept.items()}


def _data_summary(fitted: Fit) -> dict[str, Any]:
    """Describe the stack."""
    return {
        "n_subjects": fitted.maps.n_subjects,
        "n_voxels": fitted.maps.n_voxels,
        "dropped_voxels": fitted.maps.dropped,
        "voxel_volume_mm3": fitted.maps.grid.voxel_volume_mm3,
        "subjects": fitted.maps.subjects,
        "rows_matched_by": fitted.design.matched_by,
    }


def _write_report(
    path: Path,
    fitted: Fit,
    results: dict[str, ContrastMaps],
    rule: ThresholdRule,
    options: argparse.Namespace,
) -> str | None:
    """Write the report, or say why there is none; return its name."""
    parameters = {name: str(value) for name, value in _parameters(options).items()}
    parameters["rows matched by"] = fitted.design.matched_by
    try:
        page = report.build_report(
            fitted,
            results,
            rule,
            title=options.title,
            min_distance=options.min_distance,
            parameters=parameters,
        )
    except ImportError as error:
        logger.warning("no report.html: %s", error)
        return None
    page.save_as_html(path)
    return path.name


def _print_summary(summary: dict[str, Any], folder: Path) -> None:
    """Tell what was found and where it is."""
    data = summary["data"]
    print(f"{data['n_subjects']} maps, {data['n_voxels']:,} voxels")
    for contrast in summary["contrasts"]:
        name, statistic, peak = contrast["name"], contrast["statistic"], contrast["maximum"]
        place = ", ".join(f"{x:.1f}" for x in peak["mm"])
        dimension = f"{contrast['dimension']}, " if statistic == "F" else ""
        print(
            f"{name}: maximum {statistic}({dimension}{contrast['df']}) = {peak['value']:.4f} "
            f"at [{place}] mm"
        )
        print(
            f"  {contrast['description']}: {contrast['n_surviving_voxels']:,} voxels "
            f"in {contrast['n_clusters']} clusters"
        )
    entry = summary["report"] or "result.json"
    print(f"written to {folder} in {summary['seconds']:.1f} s; start with {folder / entry}")


def _info(options: argparse.Namespace) -> None:
    """Print what a bug report should start with."""
    del options
    for package, version in versions().items():
        print(f"{package:10} {version}")
    engine = resolve("auto")
    print(f"{'engine':10} {engine.describe()}")
    print(f"{'memory':10} {engine.free_bytes() / 2**30:.1f} GiB free")


def _demo(options: argparse.Namespace) -> None:
    """Simulate a group, analyse it with the command above, and compare with the truth."""
    group = demo.simulate(options.output_dir, n_subjects=options.n_subjects, seed=options.seed)
    words = ["fit", *map(str, group.paths), "--mask", str(group.mask_path)]
    words += ["--height-control", "fdr", "--alpha", "0.05"]
    words += ["--output-dir", str(options.output_dir / "results"), "--title", "gpustats demo"]
    print("gpustats " + " ".join([*words[:2], "...", *words[-10:]]))
    fit_options = _parser().parse_args(words)
    fit_options.run(fit_options)
    print(demo.compare(group, options.output_dir / "results"))
