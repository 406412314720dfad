"""Permutation tests of voxels that lack subjects: each pattern of them is a test of its own.

The subjects of a pattern have their design, their nuisance and their degrees of freedom, and are
shuffled by what the shuffle of all subjects induces on them (`gpustats.induced`); so one shuffle
serves all patterns. Within a pattern values are compared as ever. Across patterns they are
compared as z, since t and F of unequal degrees of freedom are not comparable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpustats.contrasts import Contrast
from gpustats.engines import SHUFFLE_TILE, Array, Engine, Exceedances, Form, Group, Peaks, Units
from gpustats.fits import Fit, PairwiseFit
from gpustats.glm import fit
from gpustats.maps import Maps
from gpustats.partition import Projection, partition, projection
from gpustats.planning import Task, form_of
from gpustats.shuffles import Shuffles
from gpustats.sweeping import Finish, Scale, by_tiles


class Part(NamedTuple):
    """Hold voxels that are shuffled alike.

    Parameters
    ----------
    subjects, voxels
        Which they are, ascending.
    rule
        How shuffles of these subjects meet their nuisance.
    """

    subjects: NDArray[np.intp]
    voxels: NDArray[np.intp]
    rule: Projection


def testable(fitted: Fit, contrast: Contrast, plan: Shuffles) -> Fit:
    """Return the fit of the voxels whose subjects can answer the question.

    Raises
    ------
    ValueError
        If there are none, or blocks that move as wholes are missing in part.
    """
    if not isinstance(fitted, PairwiseFit):
        return fitted
    estimable, moved = np.empty((2, fitted.maps.n_voxels), dtype=bool)
    for one in fitted.patterns:
        estimable[one.voxels] = one.design.can_estimate(contrast)
        moved[one.voxels] = plan.among(one.subjects, one.design.matrix).n_distinct > 1
    maps, left = fitted.maps, np.ones(fitted.maps.n_voxels, dtype=bool)
    for reason, able in (
        (f"{contrast.name} is not estimable", estimable),
        (f"no shuffle changes the design of {contrast.name}", moved),
    ):
        complaint = f"no voxel can be tested from the subjects with data there: {reason}"
        maps = maps.without(able[left], reason, complaint)
        left &= able
    return fitted if left.all() else fit(maps, fitted.design, device=fitted.device)


def parts_of(fitted: PairwiseFit, task: Task) -> list[Part]:
    """Return the voxels of each pattern with how its shuffles meet its nuisance."""
    parts = []
    for one in fitted.patterns:
        unmoved = task.shuffles.among(one.subjects, one.design.matrix).unmoved
        rule = projection(partition(one.design, task.contrast), task.scheme, unmoved)
        parts.append(Part(one.subjects, one.voxels, rule))
    return parts


class _Draw(NamedTuple):
    """Hold shuffles of all subjects, and the place of the first in its tile."""

    permutation: NDArray[np.int32]
    signs: NDArray[np.int8]
    start: int


class _Member(NamedTuple):
    """Hold voxels that are swept together: their data, their counts, their places in maps."""

    part: Part
    form: Form
    units: Units
    exceeding: Exceedances
    places: Array

    def tile(self, draw: _Draw) -> NDArray[np.float32]:
        """Return the rows of a tile, in which each shuffle has its place."""
        rows = _rows(self.part, draw)
        if len(rows) == SHUFFLE_TILE:
            return rows
        tile = np.zeros((SHUFFLE_TILE, *rows.shape[1:]), dtype=np.float32)
        tile[draw.start : draw.start + len(rows)] = rows
        return tile


class Pairwise:
    """Sweep voxels each of which has data of some subjects.

    Parameters
    ----------
    engine
        What computes.
    maps
        The data.
    parts
        Their voxels by pattern, from `parts_of`.
    task
        What is tested, under which shuffles of all subjects.
    """

    scale: Scale = "z"
    df = None

    def __init__(
        self,
        engine: Engine,
        maps: Maps,
        parts: Sequence[Part],
        task: Task,
    ) -> None:
        self.engine = engine
        self.plan = task.shuffles
        self.contrast = task.contrast
        self.two_sided = task.two_sided
        self.n_voxels = maps.n_voxels
        # many voxels first: threads that are left with the last tasks wait for small ones
        parts = sorted(_merged(parts, self.plan), key=self._form_of, reverse=True)
        self.order = np.argsort(np.concatenate([part.voxels for part in parts]))
        members = [self._member(maps, part) for part in parts]
        self.members = [member for member, _ in members]
        self.observed = self._together([first for _, first in members]).astype(np.float32)
        self.observed_statistic = self.observed

    def _member(self, maps: Maps, part: Part) -> tuple[_Member, NDArray[np.float32]]:
        """Prepare the voxels of a part; return them and the values of shuffle 0."""
        engine, form = self.engine, self._form_of(part)
        values = maps.part(part.subjects, part.voxels)
        values[~np.isfinite(values)] = 0
        units = engine.unit_tiles(values, part.rule.removed, narrow=True)
        rows = _rows(part, _Draw(*self.plan.draw(range(1)), start=0))
        first = engine.values_of(engine.to_device(rows[0]), units, form)
        exceeding = engine.exceedances(first, form, two_sided=self.two_sided)
        return _Member(part, form, units, exceeding, engine.to_device(part.voxels)), first

    def _form_of(self, part: Part) -> Form:
        """Return what the rows of a part are."""
        return form_of(part.rule, self.contrast)

    @property
    def limits(self) -> NDArray[np.float64]:
        """What a maximum must reach to be no smaller than the observed values, ``(n_voxels,)``."""
        return self._together([self.engine.to_host(one.exceeding.limits) for one in self.members])

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many of the shuffles so far reach the observed value, ``(n_voxels,)``."""
        counts = [self.engine.to_host(one.exceeding.counts) for one in self.members]
        return np.asarray(np.concatenate(counts)[self.order])

    def begin(self, task: Task) -> None:
        """Start counting anew."""
        del task
        self.go_on(np.zeros(self.n_voxels, dtype=np.int64))

    def go_on(self, counts: NDArray[np.int64]) -> None:
        """Take the counts that another process came to."""
        ends = np.cumsum([one.units.n_voxels for one in self.members])
        in_order = np.empty_like(counts)
        in_order[self.order] = counts
        for number, (member, own) in enumerate(
            zip(self.members, np.split(in_order, ends[:-1]), strict=True)
        ):
            exceeding = member.exceeding._replace(counts=self.engine.to_device(own.copy()))
            self.members[number] = member._replace(exceeding=exceeding)

    def sweep(self, batch: range, maps: Sequence[Array], finish: Finish) -> NDArray[np.float64]:
        """Compute a batch of shuffles: fill their maps, count, return what compares with limits."""
        maxima = []
        for part, target in by_tiles(batch, maps):
            start = part.start % SHUFFLE_TILE
            draw = _Draw(*self.plan.draw(part), start)
            groups = [
                Group(
                    one.units,
                    one.form,
                    partial(one.tile, draw),
                    one.exceeding,
                    None if target is None else self._room(len(part), one.units.n_voxels),
                )
                for one in self.members
            ]
            shuffles = range(start, start + len(part))
            maxima.append(self._largest(self.engine.sweep_groups(groups, shuffles=shuffles)))
            if target is not None:
                self._fill(target, groups)
            finish(len(part))
        return np.concatenate(maxima)

    def to_z(self, maps: Sequence[Array]) -> None:
        """Leave maps as they are: they were filled with z."""

    def null_maxima(self, maxima: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the maxima: they are z."""
        return maxima

    def _room(self, n_maps: int, n_voxels: int) -> Array:
        """Return room for maps of some of the voxels."""
        return self.engine.empty_maps(1, n_maps * n_voxels).reshape(n_maps, n_voxels)

    def _fill(self, maps: Array, groups: Sequence[Group]) -> None:
        """Write the z of the members' maps to their places."""
        for group, member in zip(groups, self.members, strict=True):
            # one long map: what is done once a map costs more than few voxels
            room: Array = group.maps
            flat, form = room.reshape(1, -1), group.form
            if self.contrast.statistic == "t":
                self.engine.t_maps_to_z(flat, form.df)
            else:
                self.engine.f_maps_to_z(flat, form.n_tested, form.df)
            maps[:, member.places] = room

    def _largest(self, peaks: Sequence[Peaks]) -> NDArray[np.float64]:
        """Return the largest z of each shuffle."""
        to_host = self.engine.to_host
        values = [to_host(of_one.upper) for of_one in peaks]
        if self.two_sided:
            values = [
                np.maximum(upper, to_host(of_one.lower))
                for upper, of_one in zip(values, peaks, strict=True)
            ]
        # z rises with what is compared as long as the form is one
        highest = [self._to_z(np.max(alike, axis=0), form) for form, alike in self._by_form(values)]
        return np.asarray(np.max(highest, axis=0))

    def _together(self, values: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return the z of what is compared, given by member, in the order of the voxels."""
        z = [self._to_z(np.concatenate(alike), form) for form, alike in self._by_form(values)]
        return np.asarray(np.concatenate(z)[self.order])

    def _by_form(
        self, values: Sequence[NDArray[np.float32]]
    ) -> Iterator[tuple[Form, list[NDArray[np.float32]]]]:
        """Yield the values of the members of each form."""
        pairs = zip(self.members, values, strict=True)
        for form, alike in groupby(pairs, key=lambda pair: pair[0].form):
            yield form, [of_one for _, of_one in alike]

    def _to_z(self, values: NDArray[np.float32], form: Form) -> NDArray[np.float64]:
        """Turn what is compared into z."""
        statistic = self.engine.statistic_of(values, form).astype(np.float64)
        if self.contrast.statistic == "t":
            return self.engine.t_to_z(statistic, form.df)
        # limits, lowered by the tolerance, may lie below 0
        return self.engine.f_to_z(np.maximum(statistic, 0), form.n_tested, form.df)


def _rows(part: Part, draw: _Draw) -> NDArray[np.float32]:
    """Return the rows of shuffles, ``(b, k, n)``."""
    # Numba is imported by the first computation, not by `import gpustats`
    from gpustats.induced import induced_rows

    shuffles = draw.permutation, draw.signs, part.rule.columns, part.subjects
    if part.rule.refit is None:
        return induced_rows(*shuffles, dtype=np.float32)
    return np.ascontiguousarray(part.rule.refit(induced_rows(*shuffles)), dtype=np.float32)


def _merged(parts: Sequence[Part], plan: Shuffles) -> list[Part]:
    """Put voxels of equally many subjects together, where the signs of a mean are flipped.

    With 0 for data that are not there, the sum of the flipped data is that of the observed ones:
    the rows are signs whatever the pattern is.
    """
    if plan.errors != "ise" or not all(_is_mean(part.rule) for part in parts):
        return list(parts)
    merged = []
    by_size = sorted(parts, key=lambda part: part.subjects.size)
    for _, group in groupby(by_size, key=lambda part: part.subjects.size):
        alike = list(group)
        columns = np.zeros((1, plan.n_subjects))
        for part in alike:
            columns[:, part.subjects] = part.rule.columns
        rule = replace(alike[0].rule, removed=np.empty((plan.n_subjects, 0)), columns=columns)
        voxels = np.sort(np.concatenate([part.voxels for part in alike]))
        merged.append(Part(np.arange(plan.n_subjects), voxels, rule))
    return merged


def _is_mean(rule: Projection) -> bool:
    """Tell whether a rule weighs all subjects alike, but for signs, and fits nothing else."""
    alone = rule.refit is None and rule.n_rows == 1 and rule.removed.shape[1] == 0
    return alone and bool(np.allclose(np.abs(rule.columns), rule.columns.shape[1] ** -0.5))
