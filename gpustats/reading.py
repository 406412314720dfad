"""How the maps of a group are read, and which of that can be said of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpustats.cohort import Cohort
from gpustats.inputs import Group, GroupInput, StoredGroup
from gpustats.maps import (
    Maps,
    Missing,
    Survey,
    check_width,
    checked_minimum,
    load_maps,
    survey,
)

OF_FILES = ("mask", "smoothing_fwhm", "resample", "zero_is_missing", "first_level_contrast")
"""What says how files are read, and nothing of a store."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Say how maps are read.

    Parameters
    ----------
    mask, smoothing_fwhm, resample, zero_is_missing, missing, min_subjects
        As in `load_maps`.
    first_level_contrast
        Which of a subject's maps are meant.
    memory
        What working on a store may take.
    names
        What users call these, where that is not the name here.
    """

    mask: Any = None
    smoothing_fwhm: float | None = None
    resample: bool = False
    zero_is_missing: bool = False
    missing: Missing = "drop_voxel"
    min_subjects: int | None = None
    first_level_contrast: Any = None
    memory: str | int | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def check(self, group: Group) -> None:
        """Refuse what does not go with a group, before anything is read.

        Raises
        ------
        ValueError
            If something is said of files that are a store, or of a store that is files; or if
            maps must have data everywhere and have not.
        """
        memory = self.names.get("memory", "memory")
        if not isinstance(group, StoredGroup):
            if self.memory is not None:
                raise ValueError(
                    f"{memory} speaks of a store; make one with gpustats stack or stack_maps"
                )
            return
        said = {name: getattr(self, name) for name in OF_FILES}
        given = [
            self.names.get(name, name)
            for name, value in said.items()
            if value is not None and value is not False
        ]
        if given:
            raise ValueError(
                f"{', '.join(given)}: {group.cohort.name} is a store, whose maps have been read "
                "already; give such options to gpustats stack or stack_maps"
            )
        checked_minimum(self.missing, self.min_subjects, group.n_maps)
        if self.missing == "raise":
            _check_complete(group.cohort)
        if self.missing == "pairwise" and self.memory is not None:
            raise ValueError(
                f"{memory}: maps whose voxels lack subjects (missing: pairwise) are read into "
                "memory as a whole; leave it out"
            )

    def read(self, group: Group) -> Maps | Cohort:
        """Read the maps of a group; those of a store stay there, unless voxels lack subjects.

        Raises
        ------
        ValueError, FileNotFoundError
            If they are not readable (`load_maps`, `Cohort.load`).
        """
        if isinstance(group, StoredGroup):
            if self.missing == "pairwise":
                return group.cohort.load("pairwise", min_subjects=self.min_subjects)
            return group.cohort
        return load_maps(
            *self._sources(group),
            **self._rules(group),
            zero_is_missing=self.zero_is_missing,
            smoothing_fwhm=self.smoothing_fwhm,
        )

    def survey(self, group: Group) -> Survey | Cohort:
        """Look at headers and the mask only; raises what `read` would raise there."""
        if isinstance(group, StoredGroup):
            return group.cohort
        check_width(self.smoothing_fwhm)
        return survey(*self._sources(group), **self._rules(group))

    def _sources(self, group: GroupInput) -> tuple[Any, Any]:
        """Return the maps and the mask."""
        mask = self.mask if self.mask is not None else group.mask()
        return group.images(self.first_level_contrast), mask

    def _rules(self, group: GroupInput) -> dict[str, Any]:
        """Return what is checked before maps are read."""
        return {
            "subjects": group.subjects,
            "missing": self.missing,
            "min_subjects": self.min_subjects,
            "resample": self.resample,
        }


def _check_complete(cohort: Cohort) -> None:
    """Refuse subjects without data in some voxel."""
    holes = np.flatnonzero(cohort.n_finite < cohort.n_voxels)
    if holes.size:
        first = cohort.header.entries[cohort.rows[holes[0]]].name
        raise ValueError(
            f"{cohort.name}: {holes.size} maps have voxels without data, {first} the first of "
            "them; stack them with another mask, or drop these voxels (missing: drop_voxel)"
        )
