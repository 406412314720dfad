"""From options to data: the maps, the design and the contrasts that a command line names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpustats import glm
from gpustats.cli_talk import OF_TALK
from gpustats.contrasts import Contrast, DesignError
from gpustats.design import Design
from gpustats.inputs import Group, StoredGroup, group_input
from gpustats.reading import Reading
from gpustats.spaces import Grid
from gpustats.subjects import aligned_rows, read_table, require_columns, split_labels

OF_READING = (
    "mask",
    "smoothing_fwhm",
    "resample",
    "zero_is_missing",
    "missing",
    "min_subjects",
    "memory",
)
"""Options that say how maps are read."""

NO_PARAMETERS = ("run", "dry_run", *OF_TALK)
"""What a command knows that has no part in its result."""


def find_group(options: argparse.Namespace) -> Group:
    """Return the maps: a store, or files, or those that a table names, relative to it."""
    first, *others = options.maps
    if not others and is_table(first):
        group = group_input(table_of_maps(first))
    else:
        group = group_input(options.maps if others else first)
        if options.map_name is not None and not isinstance(group, StoredGroup):
            raise ValueError("--map-name speaks of a table of maps; give one as MAPS")
    reading(options).check(group)
    return group


def is_table(path: Path) -> bool:
    """Tell a table by its name."""
    return path.suffix.lower() in (".tsv", ".csv")


def table_of_maps(path: Path) -> pd.DataFrame:
    """Read a table that names maps relative to it."""
    table = read_table(path)
    if "map_name" not in table.columns:
        table["map_name"] = "map"
    if "effects_map_path" in table.columns:
        table["effects_map_path"] = [
            str(path.parent / one) if isinstance(one, str) else None
            for one in table["effects_map_path"]
        ]
    return table


def reading(options: argparse.Namespace) -> Reading:
    """Return how the maps are to be read."""
    names = {name: f"--{name.replace('_', '-')}" for name in OF_READING}
    return Reading(
        **{name: getattr(options, name) for name in OF_READING},
        first_level_contrast=options.map_name,
        names={**names, "first_level_contrast": "--map-name"},
    )


def read_design_table(options: argparse.Namespace) -> pd.DataFrame | None:
    """Read the table of regressors, if there is one."""
    if options.design is not None:
        return read_table(options.design, options.id)
    if options.columns or options.id:
        raise ValueError("--columns and --id speak of a table; give it with --design")
    return None


def make_design(options: argparse.Namespace, table: pd.DataFrame | None, group: Group) -> Design:
    """Return the design, rows in the order of the maps; the group mean without a table."""
    if table is None:
        design = glm.group_mean(group.n_maps)
    else:
        design = Design(
            table,
            columns=_names(options.columns),
            intercept=options.intercept,
            id_column=options.id,
        )
    return design.aligned(group.subjects, group.n_maps)


def take_blocks(
    options: argparse.Namespace, table: pd.DataFrame | None, group: Group
) -> tuple[pd.DataFrame | None, NDArray[np.int64] | None]:
    """Return the table without the column of blocks, and the number of each map's block.

    The column stays where ``--columns`` names it: then it is a regressor, too.
    """
    if options.blocks is None:
        return table, None
    if table is None:
        raise ValueError("--blocks speaks of a table; give it with --design")
    require_columns(table, [options.blocks])
    rest = table.drop(columns=options.blocks)
    labels, _ = split_labels(rest, options.id)
    column = aligned_rows(
        table[[options.blocks]], labels, group.subjects, group.n_maps, "column of blocks"
    )[options.blocks]
    if column.isna().any():
        raise DesignError(f"column {options.blocks!r} has rows without a block; name one in each")
    is_regressor = options.blocks in (_names(options.columns) or [])
    numbers, _ = pd.factorize(column)
    return table if is_regressor else rest, numbers.astype(np.int64)


def _names(words: str | None) -> list[str] | None:
    """Return the names in a list with commas."""
    return None if words is None else [word.strip() for word in words.split(",")]


def make_contrasts(options: argparse.Namespace, design: Design) -> list[Contrast]:
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


def parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Return every option as the JSON keeps it."""
    kept = {name: value for name, value in vars(options).items() if name not in NO_PARAMETERS}
    kept["maps"] = [str(path) for path in options.maps]
    return {name: str(v) if isinstance(v, Path) else v for name, v in kept.items()}


def describe_data(
    group: Group, design: Design, grid: Grid, left_out: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe the stack, given the voxels that were analysed and what is known of the others."""
    return {
        "n_subjects": group.n_maps,
        "n_voxels": grid.n_voxels,
        "dropped_voxels": left_out["dropped_voxels"],
        "missing_patterns": left_out["missing_patterns"],
        "voxel_volume_mm3": grid.voxel_volume_mm3,
        "subjects": group.subjects,
        "rows_matched_by": design.matched_by,
    }
