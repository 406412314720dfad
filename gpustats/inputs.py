"""What a second level is made of: images, a table of maps, or fitted first-level models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd

from gpustats import images
from gpustats.cohort import Cohort, is_store
from gpustats.contrasts import DesignError
from gpustats.maps import check_labels, file_labels
from gpustats.progress import shown
from gpustats.spaces import Grid

MAP_COLUMNS = ("subject_label", "map_name", "effects_map_path")
"""Columns of a table of maps, nilearn's names."""


class GroupInput(Protocol):
    """One map per subject and first-level contrast, in files or in memory."""

    @property
    def subjects(self) -> tuple[str, ...] | None:
        """The subjects' labels, in the order of the maps, if they are known."""
        ...

    @property
    def n_maps(self) -> int:
        """How many subjects there are."""
        ...

    @property
    def one_contrast(self) -> bool:
        """Whether no first-level contrast needs to be named."""
        ...

    def key(self, first_level_contrast: Any) -> str:
        """Return a key that is equal for equal maps; refuse a contrast that is not there."""
        ...

    def images(self, first_level_contrast: Any) -> Any:
        """Return the subjects' maps of a first-level contrast, as `load_maps` takes them."""
        ...

    def mask(self) -> Grid | None:
        """Return the mask that the input itself brings along."""
        ...


@dataclass(frozen=True, eq=False)
class StoredGroup:
    """A store with one map per subject, of which all subjects are taken.

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

    @property
    def one_contrast(self) -> bool:
        """Whether there is one map per subject: yes."""
        return True

    def key(self, first_level_contrast: Any) -> str:
        """Return one key for all: there is one map per subject."""
        del first_level_contrast
        return ""


Group: TypeAlias = GroupInput | StoredGroup


def group_input(second_level_input: Any) -> Group:
    """Recognise what a second level is to be computed from.

    Parameters
    ----------
    second_level_input
        A table with the columns ``subject_label``, ``map_name`` and ``effects_map_path``; a list
        of fitted first-level models (anything with nilearn's ``compute_contrast``); a list or
        Series of images or paths; one 4D image; a `Cohort`, or the path or URL of one.

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If models are not fitted, labels repeat, columns are missing, there are fewer than two
        maps, or a store is damaged.
    """
    group = _recognised(second_level_input)
    if group.n_maps < 2:
        raise ValueError(f"a group needs at least 2 maps, got {group.n_maps}")
    return group


def _recognised(second_level_input: Any) -> Group:
    """Return the input by its kind."""
    if isinstance(second_level_input, Cohort):
        return StoredGroup(second_level_input)
    if is_store(second_level_input):
        return StoredGroup(Cohort.open(second_level_input))
    if isinstance(second_level_input, pd.DataFrame):
        return MapTable(second_level_input)
    if isinstance(second_level_input, str | os.PathLike) or images.is_image(second_level_input):
        return Images(second_level_input)
    if not isinstance(second_level_input, Sequence | pd.Series | np.ndarray):
        raise TypeError(
            "second_level_input must be a list of images or of fitted first-level models, a 4D "
            f"image, a table of maps or a cohort, got {type(second_level_input).__name__}"
        )
    items = list(second_level_input)
    if items and all(hasattr(item, "compute_contrast") for item in items):
        return FirstLevelModels(items)
    return Images(items)


@dataclass(frozen=True, eq=False)
class Images:
    """Images in memory or on disk, one per subject, or one 4D image."""

    source: Any

    @property
    def subjects(self) -> tuple[str, ...] | None:
        """The ``sub-`` entities of the file names, if each has one and none repeats."""
        several = isinstance(self.source, list) and len(self.source) > 1
        return file_labels(self.source) if several else None

    @property
    def n_maps(self) -> int:
        """How many maps there are."""
        if isinstance(self.source, list) and len(self.source) != 1:
            return len(self.source)
        only = self.source[0] if isinstance(self.source, list) else self.source
        return images.open_image(only).n_volumes

    @property
    def one_contrast(self) -> bool:
        """Whether there is one map per subject: yes."""
        return True

    def key(self, first_level_contrast: Any) -> str:
        """Return one key for all: there is one map per subject."""
        del first_level_contrast
        return ""

    def images(self, first_level_contrast: Any) -> Any:
        """Return the images, whatever the first-level contrast."""
        del first_level_contrast
        return self.source

    def mask(self) -> Grid | None:
        """Return no mask: images bring none."""
        return None


class MapTable:
    """A table that names the map of each subject and first-level contrast."""

    def __init__(self, table: pd.DataFrame) -> None:
        missing = [name for name in MAP_COLUMNS if name not in table.columns]
        if missing:
            raise ValueError(
                f"a table of maps needs the columns {', '.join(MAP_COLUMNS)}; "
                f"missing: {', '.join(missing)}"
            )
        if table[list(MAP_COLUMNS)].isna().any(axis=None):
            rows = np.flatnonzero(table[list(MAP_COLUMNS)].isna().any(axis=1)) + 1
            raise ValueError(f"the table of maps has empty cells in row(s) {rows.tolist()[:10]}")
        text = {name: table[name].astype(str) for name in MAP_COLUMNS[:2]}
        self.table = table.assign(**text)
        self.names = list(dict.fromkeys(self.table["map_name"]))

    @property
    def subjects(self) -> tuple[str, ...]:
        """The labels in the order of their first appearance."""
        return tuple(pd.unique(self.table["subject_label"]))

    @property
    def n_maps(self) -> int:
        """How many subjects there are."""
        return len(self.subjects)

    @property
    def one_contrast(self) -> bool:
        """Whether the table has maps of one name only."""
        return len(self.names) == 1

    def key(self, first_level_contrast: Any) -> str:
        """Return the name of the maps; the only one by default."""
        if first_level_contrast is None and self.one_contrast:
            return str(self.names[0])
        if str(first_level_contrast) not in self.names:
            raise ValueError(
                f"first_level_contrast must be a map_name of the table ({self.names}), "
                f"got {first_level_contrast!r}"
            )
        return str(first_level_contrast)

    def images(self, first_level_contrast: Any) -> list[Path]:
        """Return the paths of the maps of that name, one per subject."""
        name = self.key(first_level_contrast)
        rows = self.table[self.table["map_name"] == name]
        check_labels(tuple(rows["subject_label"]), self.n_maps, f"maps named {name!r}")
        paths = dict(zip(rows["subject_label"], rows["effects_map_path"], strict=True))
        return [Path(paths[subject]) for subject in self.subjects]

    def mask(self) -> Grid | None:
        """Return no mask: a table brings none."""
        return None


class FirstLevelModels:
    """Fitted first-level models, of nilearn, nistats, or alike."""

    def __init__(self, models: Sequence[Any]) -> None:
        for number, model in enumerate(models, start=1):
            is_fitted = getattr(model, "__sklearn_is_fitted__", None)
            fitted = is_fitted() if is_fitted is not None else hasattr(model, "masker_")
            if not fitted:
                raise ValueError(f"first-level model {number} has not been fitted; fit it first")
        self.models = list(models)
        labels = [getattr(model, "subject_label", None) for model in models]
        self.labels = None if None in labels else tuple(map(str, labels))
        if self.labels is not None:
            check_labels(self.labels, len(models), "first-level models")

    @property
    def subjects(self) -> tuple[str, ...] | None:
        """The models' ``subject_label``, if all have one."""
        return self.labels

    @property
    def n_maps(self) -> int:
        """How many models there are."""
        return len(self.models)

    @property
    def one_contrast(self) -> bool:
        """Whether there is one map per subject: no, a model has many contrasts."""
        return False

    def key(self, first_level_contrast: Any) -> str:
        """Return the contrast in full: the text of a long vector would be cut."""
        if first_level_contrast is None:
            raise ValueError(
                "first_level_contrast is needed with first-level models: the contrast to compute "
                "in each of them"
            )
        if isinstance(first_level_contrast, np.ndarray):
            first_level_contrast = first_level_contrast.tolist()
        return repr(first_level_contrast)

    def images(self, first_level_contrast: Any) -> list[Any]:
        """Compute the effect of a contrast in every model."""
        self.key(first_level_contrast)
        models = shown(self.models, "first-level contrasts", len(self.models), "model")
        return [
            model.compute_contrast(first_level_contrast, output_type="effect_size")
            for model in models
        ]

    def mask(self) -> Grid | None:
        """Return the voxels that are in the masks of all models."""
        maskers = [getattr(model, "masker_", None) for model in self.models]
        if any(getattr(masker, "mask_img_", None) is None for masker in maskers):
            return None
        grids = [images.read_mask(masker) for masker in maskers]
        first = grids[0]
        for number, grid in enumerate(grids, start=1):
            if not images.same_grid(first.mask.shape, first.affine, grid.mask.shape, grid.affine):
                raise DesignError(
                    f"first-level model {number} has a mask of shape {grid.mask.shape} and affine "
                    f"{grid.affine[:3].tolist()}, model 1 of {first.mask.shape} and "
                    f"{first.affine[:3].tolist()}; all models must share one grid"
                )
        return Grid(np.logical_and.reduce([grid.mask for grid in grids]), first.affine)
