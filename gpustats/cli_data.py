"""From options to data: the maps, the design and the contrasts that a command line names."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpustats import glm
from gpustats.contrasts import Contrast, DesignError
from gpustats.design import Design
from gpustats.glm import Fit
from gpustats.inputs import GroupInput, group_input
from gpustats.maps import Maps, load_maps
from gpustats.subjects import aligned_rows, read_table, require_columns, split_labels


def find_group(options: argparse.Namespace) -> GroupInput:
    """Return the maps: files, or those that a table names, relative to it."""
    first = options.maps[0]
    if len(options.maps) > 1 or first.suffix.lower() not in (".tsv", ".csv"):
        if options.map_name is not None:
            raise ValueError("--map-name speaks of a table of maps; give one as MAPS")
        return group_input(first if len(options.maps) == 1 else options.maps)
    table = read_table(first)
    if "map_name" not in table.columns:
        table["map_name"] = "map"
    if "effects_map_path" in table.columns:
        table["effects_map_path"] = [
            first.parent / path if isinstance(path, str) else None
            for path in table["effects_map_path"]
        ]
    return group_input(table)


def read_maps(options: argparse.Namespace, group: GroupInput) -> Maps:
    """Read the maps of a group."""
    return load_maps(
        group.images(options.map_name),
        options.mask,
        subjects=group.subjects,
        missing=options.missing,
        zero_is_missing=options.zero_is_missing,
        smoothing_fwhm=options.smoothing_fwhm,
        resample=options.resample,
    )


def read_design_table(options: argparse.Namespace) -> pd.DataFrame | None:
    """Read the table of regressors, if there is one."""
    if options.design is not None:
        return read_table(options.design, options.id)
    if options.columns or options.id:
        raise ValueError("--columns and --id speak of a table; give it with --design")
    return None


def make_design(
    options: argparse.Namespace, table: pd.DataFrame | None, group: GroupInput
) -> Design:
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
    options: argparse.Namespace, table: pd.DataFrame | None, group: GroupInput
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
    kept = {name: value for name, value in vars(options).items() if name != "run"}
    kept["maps"] = [str(path) for path in options.maps]
    return {name: str(v) if isinstance(v, Path) else v for name, v in kept.items()}


def describe_data(fitted: Fit) -> dict[str, Any]:
    """Describe the stack."""
    return {
        "n_subjects": fitted.maps.n_subjects,
        "n_voxels": fitted.maps.n_voxels,
        "dropped_voxels": fitted.maps.dropped,
        "voxel_volume_mm3": fitted.maps.grid.voxel_volume_mm3,
        "subjects": fitted.maps.subjects,
        "rows_matched_by": fitted.design.matched_by,
    }
