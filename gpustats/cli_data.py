"""From options to data: the maps, the design and the contrasts that a command line names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpustats import glm
from gpustats.cohort import Cohort, is_store
from gpustats.contrasts import Contrast, DesignError
from gpustats.design import Design
from gpustats.inputs import GroupInput, group_input
from gpustats.maps import Maps, checked_minimum, load_maps
from gpustats.spaces import Grid
from gpustats.subjects import aligned_rows, read_table, require_columns, split_labels

OF_FILES = ("mask", "smoothing_fwhm", "resample", "zero_is_missing", "map_name")
"""Options that say how files are read."""


@dataclass(frozen=True, eq=False)
class StoredGroup:
    """A store, of which all subjects are taken.

    Parameters
    ----------
    cohort
        The store.
    """

    cohort: Cohort

    @property
    def subjects(self) -> tuple[str, ...] | None:
        """The subjects' labels."""
        return self.cohort.subjects

    @property
    def n_maps(self) -> int:
        """How many subjects there are."""
        return self.cohort.n_subjects


Group: TypeAlias = GroupInput | StoredGroup


def find_group(options: argparse.Namespace) -> Group:
    """Return the maps: a store, or files, or those that a table names, relative to it."""
    first = options.maps[0]
    if len(options.maps) == 1 and is_store(first):
        _check_stored(options, first)
        return StoredGroup(Cohort.open(first))
    if options.memory is not None:
        raise ValueError("--memory speaks of a store; make one with gpustats stack")
    return find_files(options)


def _check_stored(options: argparse.Namespace, store: Path) -> None:
    """Refuse options that say how files are read."""
    given = [f"--{name.replace('_', '-')}" for name in OF_FILES if getattr(options, name)]
    if given:
        raise ValueError(
            f"{', '.join(given)}: {store} is a store, whose maps have been read already; give "
            "such options to gpustats stack"
        )


def find_files(options: argparse.Namespace, *, at_least: int = 2) -> GroupInput:
    """Return the maps: files, or those that a table names, relative to it."""
    first = options.maps[0]
    if len(options.maps) > 1 or first.suffix.lower() not in (".tsv", ".csv"):
        if options.map_name is not None:
            raise ValueError("--map-name speaks of a table of maps; give one as MAPS")
        return group_input(first if len(options.maps) == 1 else options.maps, at_least=at_least)
    table = read_table(first)
    if "map_name" not in table.columns:
        table["map_name"] = "map"
    if "effects_map_path" in table.columns:
        table["effects_map_path"] = [
            first.parent / path if isinstance(path, str) else None
            for path in table["effects_map_path"]
        ]
    return group_input(table, at_least=at_least)


def read_maps(options: argparse.Namespace, group: Group) -> Maps | Cohort:
    """Read the maps of a group; those of a store stay where they are."""
    if isinstance(group, StoredGroup):
        checked_minimum(options.missing, options.min_subjects, group.n_maps)
        if options.missing == "pairwise":
            if options.memory is not None:
                raise ValueError(
                    "--memory: maps whose voxels lack subjects (--missing pairwise) are read into "
                    "memory as a whole; leave it out"
                )
            return group.cohort.load("pairwise", min_subjects=options.min_subjects)
        if options.missing == "raise":
            _check_complete(group.cohort)
        return group.cohort
    return load_maps(
        group.images(options.map_name),
        options.mask,
        subjects=group.subjects,
        missing=options.missing,
        min_subjects=options.min_subjects,
        zero_is_missing=options.zero_is_missing,
        smoothing_fwhm=options.smoothing_fwhm,
        resample=options.resample,
    )


def _check_complete(cohort: Cohort) -> None:
    """Refuse subjects without data in some voxel."""
    holes = np.flatnonzero(cohort.n_finite < cohort.n_voxels)
    if holes.size:
        first = cohort.header.entries[cohort.rows[holes[0]]].name
        raise ValueError(
            f"{cohort.name}: {holes.size} maps have voxels without data, {first} the first of "
            "them; stack them with another mask, or drop these voxels (--missing drop_voxel)"
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
    kept = {name: value for name, value in vars(options).items() if name != "run"}
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
