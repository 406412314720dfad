"""Options that commands share, each said once, and what those of results stand for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpustats.atlases import FETCHERS, load_atlas, with_distinct_names
from gpustats.cluster_facts import TableChoices
from gpustats.effect_sizes import check_level
from gpustats.extra_maps import ExtraMaps
from gpustats.memory import parse_bytes
from gpustats.true_discoveries import check_rate

SURVIVAL: dict[str, Any] = {
    "alpha": 0.05,
    "cluster_threshold": 0,
    "connectivity": 6,
    "one_sided": False,
    "min_distance": 8.0,
}
"""Which voxels count of a permutation test, unless it is said otherwise."""


FURTHER_MAPS = ("effect_size", "confidence", "q", "log10_p", "one_minus_p")
"""Options that ask for maps besides the usual ones."""

FURTHER_RESULTS = (*FURTHER_MAPS, "true_discoveries", "atlas")
"""Options that ask for more than the usual maps and table."""

OF_RESULTS = (*SURVIVAL, *FURTHER_RESULTS)
"""Options that say what is written of a permutation test."""


def add_maps(command: Any) -> None:
    """Add the maps, and where results go."""
    command.add_argument(
        "maps",
        nargs="+",
        type=Path,
        metavar="MAPS",
        help="3D NIfTI files, one 4D file, a table (.tsv, .csv) with the columns subject_label "
        "and effects_map_path (relative to the table), or a store that gpustats stack made",
    )
    add_output(command)


def add_output(command: Any) -> None:
    """Add where results go."""
    command.add_argument(
        "--output-dir", type=Path, default=Path("gpustats-results"), help="default: %(default)s"
    )


def add_dry_run(command: Any) -> None:
    """Add what asks for the plan alone."""
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="check all that can be checked without reading the maps, print what would be done, "
        "how long it may take and which files it would write, and write nothing",
    )


def add_device(command: Any) -> None:
    """Add what computes."""
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<index>")


def add_memory(group: Any) -> None:
    """Add what blocks of a store may take."""
    group.add_argument(
        "--memory",
        type=size_in_bytes,
        metavar="2G",
        help="what working on a store may take; half of what is free if absent",
    )


def add_machines(group: Any) -> None:
    """Add what says which workers of a Dask cluster compute."""
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="spread the shuffles over the workers of the Dask scheduler there, tcp://host:port; "
        "each computes on --device, GPUs as CUDA_VISIBLE_DEVICES shares them out (dask-cuda)",
    )
    where.add_argument(
        "--dask-local", type=int, metavar="N", help="over N processes that share these cores"
    )
    add_allow_mixed(group)


def add_allow_mixed(group: Any) -> None:
    """Add whether machines may differ."""
    group.add_argument(
        "--allow-mixed",
        action="store_true",
        help="let processors, libraries or devices differ: maxima then agree to 1e-5, not to the "
        "last bit",
    )


def add_data(group: Any) -> None:
    """Add what says how maps are read."""
    group.add_argument("--mask", type=Path, help="voxels to analyse; made from the maps if absent")
    group.add_argument(
        "--missing",
        choices=["drop_voxel", "raise", "pairwise"],
        default="drop_voxel",
        help="what to do with voxels that some map has no data for: leave them out, refuse them, "
        "or analyse them in the other maps; default: %(default)s",
    )
    group.add_argument(
        "--min-subjects",
        type=int,
        metavar="N",
        help="with --missing pairwise, how many maps must have data; default: half of them",
    )
    group.add_argument("--zero-is-missing", action="store_true", help="0 means no data here")
    group.add_argument("--resample", action="store_true", help="align maps of another grid")
    group.add_argument("--smoothing-fwhm", type=float, metavar="MM")
    group.add_argument("--map-name", help="which map_name of a table of maps")


def add_model(group: Any) -> None:
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


def add_survival(group: Any, alpha: float) -> None:
    """Add what says which voxels count, however their height is controlled."""
    group.add_argument("--alpha", type=float, help="default: %(default)s")
    group.add_argument("--cluster-threshold", type=int, metavar="VOXELS")
    group.add_argument("--connectivity", type=int, choices=[6, 18, 26])
    group.add_argument("--one-sided", action="store_true", help="only positive values count")
    group.add_argument("--min-distance", type=distance, metavar="MM", help="of sub-peaks")
    group.set_defaults(**SURVIVAL | {"alpha": alpha})


def add_report(group: Any) -> None:
    """Add what says whether, and under which title, results are reported."""
    group.add_argument("--title", help="title of report.html; made from the contrasts by default")
    group.add_argument("--no-report", action="store_true", help="write no report.html")


def add_extra_maps(group: Any, rate: float | None = 0.05) -> None:
    """Add what says which maps, and what of the table, are written on request.

    ``rate`` is that of true discoveries unless it is said otherwise; None stands for what is known
    from elsewhere.
    """
    group.add_argument(
        "--effect-size",
        action="store_true",
        help="Cohen's d, Hedges' g and its variance for means and differences of groups (columns "
        "that are 1 throughout or take two values that differ by 1), partial r and R2 for other "
        "columns, partial R2 for F",
    )
    group.add_argument(
        "--confidence",
        type=confidence,
        metavar="0.95",
        help="lower and upper limits of the effect of a t contrast, at every voxel by itself",
    )
    group.add_argument(
        "--q",
        action="store_true",
        help="p adjusted for the false discovery rate (Benjamini-Hochberg), two-sided without "
        "--one-sided",
    )
    group.add_argument(
        "--log10-p", "--logp", action="store_true", help="-log10 p, beside every map of p"
    )
    group.add_argument(
        "--one-minus-p", action="store_true", help="1 - p as FSL writes it, beside every map of p"
    )
    group.add_argument(
        "--true-discoveries",
        type=error_rate,
        default=rate,
        metavar="ALPHA",
        help="error rate of the share of active voxels of each cluster, at least, in the table "
        "(all-resolutions inference, two-sided without --one-sided); default: "
        f"{'as of the parts' if rate is None else rate}",
    )
    group.add_argument(
        "--atlas",
        action="append",
        default=[],
        metavar="IMAGE,LABELS",
        help="name the places in the table: a label image and its table (.tsv, .csv, FSL's .xml, "
        f"FreeSurfer's .txt), or {', '.join(FETCHERS)}; may be repeated",
    )


def extra_maps(chosen: Mapping[str, Any]) -> ExtraMaps:
    """Return which further maps are wanted, given the options by name."""
    return ExtraMaps(**{name: chosen[name] for name in FURTHER_MAPS if name in chosen})


def table_choices(chosen: Mapping[str, Any]) -> TableChoices:
    """Return what the table of clusters is to tell, given the options by name; read the atlases."""
    usual = TableChoices()
    atlases = [
        load_atlas(*one.split(",", maxsplit=1)) if "," in one else load_atlas(one)
        for one in chosen.get("atlas", [])
        # a dry run fetches nothing
        if not (chosen.get("dry_run") and one in FETCHERS)
    ]
    return TableChoices(
        chosen["min_distance"],
        chosen.get("true_discoveries", usual.true_discovery_alpha),
        with_distinct_names(atlases),
    )


def size_in_bytes(word: str) -> int:
    """Read an amount of memory."""
    try:
        n_bytes = parse_bytes(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    assert n_bytes is not None
    return n_bytes


def distance(word: str) -> float:
    """Read a distance in mm, more than 0."""
    value = float(word)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a distance in mm > 0, got {word}")
    return value


def confidence(word: str) -> float:
    """Read a level of confidence."""
    return _checked(float(word), check_level)


def error_rate(word: str) -> float:
    """Read an error rate."""
    return _checked(float(word), check_rate)


def _checked(value: float, check: Callable[[float], None]) -> float:
    """Return a number that passes a check; what the check says is the parser's error."""
    try:
        check(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return value
