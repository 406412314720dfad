"""``gpustats stack``: the maps of a cohort become one store on disk."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from gpustats.cli_data import is_table, table_of_maps
from gpustats.cohort_stacking import stack_maps
from gpustats.cohort_writer import REPORT_ENDING
from gpustats.inputs import MapTable

EXAMPLES = """\
examples:
  gpustats stack sub-*_con.nii.gz --mask mask.nii.gz -o cohort.zarr
  gpustats stack wave2/sub-*_con.nii.gz --append -o cohort.zarr
  gpustats fit cohort.zarr --design participants.tsv --columns age,sex --intercept --contrast age

When it is interrupted, the same command goes on where it stopped.
"""


def add_stack(commands: Any) -> None:
    """Add the command that stacks maps on disk."""
    stack = commands.add_parser(
        "stack",
        help="stack maps on disk, for cohorts larger than memory",
        description="Stack one map per subject into a store on disk, from which every command "
        "reads many times faster than from files, and however large it is.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    stack.add_argument(
        "maps",
        nargs="+",
        type=Path,
        metavar="MAPS",
        help="3D NIfTI files, one 4D file, or a table (.tsv, .csv) with the columns "
        "subject_label and effects_map_path (relative to the table)",
    )
    stack.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="STORE",
        help="folder or URL (s3://...) of the store",
    )
    stack.add_argument(
        "--mask", type=Path, help="voxels to keep; needed for a new store, then that of the store"
    )
    stack.add_argument("--append", action="store_true", help="add subjects to the store")
    stack.add_argument(
        "--skip-bad",
        action="store_true",
        help=f"leave out files that cannot be used, and list them in STORE{REPORT_ENDING}",
    )
    stack.add_argument(
        "--dtype",
        choices=["float32", "int16"],
        default="float32",
        help="int16 takes half the room, and rounds to 1/32767 of a voxel's largest value; "
        "default: %(default)s",
    )
    stack.add_argument("--zero-is-missing", action="store_true", help="0 means no data here")
    stack.add_argument("--resample", action="store_true", help="align maps of another grid")
    stack.add_argument("--smoothing-fwhm", type=float, metavar="MM")
    stack.add_argument("--map-name", help="which map_name of a table of maps")
    stack.set_defaults(run=_stack)


def _stack(options: argparse.Namespace) -> None:
    """Stack, and say what there is now."""
    started = time.perf_counter()
    maps, subjects = _given_maps(options)
    cohort = stack_maps(
        maps,
        options.mask,
        options.output,
        subjects=subjects,
        append=options.append,
        skip_bad=options.skip_bad,
        dtype=options.dtype,
        zero_is_missing=options.zero_is_missing,
        resample=options.resample,
        smoothing_fwhm=options.smoothing_fwhm,
    )
    if cohort.skipped:
        print(f"{len(cohort.skipped)} maps were left out: see {cohort.name}{REPORT_ENDING}")
    print(
        f"{cohort.name}: {cohort.n_subjects:,} subjects, {cohort.n_voxels:,} voxels, "
        f"{cohort.stored_bytes / 1e6:,.1f} MB, in {time.perf_counter() - started:.1f} s"
    )


def _given_maps(options: argparse.Namespace) -> tuple[Any, Any]:
    """Return the maps, and their labels if a table has them."""
    if len(options.maps) == 1 and is_table(options.maps[0]):
        group = MapTable(table_of_maps(options.maps[0]))
        return group.images(options.map_name), group.subjects
    if options.map_name is not None:
        raise ValueError("--map-name speaks of a table of maps; give one as MAPS")
    return options.maps, None
