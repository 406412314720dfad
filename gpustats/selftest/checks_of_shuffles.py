"""Checks of shuffles: their rows, the data in tiles, and the sweep over both."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from gpustats.design import Design
from gpustats.engines import SHUFFLE_TILE, Form, Group
from gpustats.glm import group_mean
from gpustats.partition import Projection, partition, projection
from gpustats.selftest import plain
from gpustats.selftest.promises import EQUAL, Arrays, Check, Machine, Promise
from gpustats.selftest.sample import N_SUBJECTS, SIZES, Sample
from gpustats.shuffles import Shuffles

ROUNDED = Promise(2e-7)
"""Numbers of float64, rounded to float32."""
PRODUCTS = Promise(1e-5)
"""Statistics formed of float32 products, whose sums run in any order."""

ROWS = {
    "sign flips": range(192, 384),
    "permutations": range(197, 230),
    "flips and permutations": range(33),
    "within blocks": range(33),
    "whole blocks": range(33),
    "all sign flips": range(64),
    "numbers beyond 32 bits": range(192 * 2**27 + 5, 192 * 2**27 + 38),
}
"""Ways to shuffle, and which shuffles are drawn."""
WEIGHTS = {
    "cosine": [1.0],
    "R²": [[1.0, -1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "Freedman-Lane t": [1.0, -1, 0, 0],
    "Freedman-Lane F": [[0.0, 0, 1, 0], [0, 0, 0, 1]],
    "Freedman-Lane F of one row": [1.0, -1, 0, 0],
}
"""What a sweep compares, and a contrast that leads to it."""
N_REFITTED = 24
"""Shuffles that are fitted again by definition."""

COUNTED = {
    "cosine": (Form(1, 0, 13.0, is_f=False), False),
    "cosine, two-sided": (Form(1, 0, 13.0, is_f=False), True),
    "R²": (Form(2, 0, 13.0, is_f=True), False),
    "Freedman-Lane t": (Form(1, 2, 13.0, is_f=False), True),
    "Freedman-Lane F": (Form(2, 2, 13.0, is_f=True), False),
    "r²": (Form(1, 0, 13.0, is_f=True), False),
    "Freedman-Lane F of one row": (Form(1, 2, 13.0, is_f=True), False),
}
"""What is counted: any degrees of freedom will do."""


def shuffle_checks() -> Iterator[Check]:
    """Return the checks of what makes the null maps."""
    for name in ROWS:
        yield Check(f"shuffled_rows, {name}", _rows, _rows_plain, EQUAL, EQUAL, (name,))
    yield Check("unit_tiles", _unit_tiles, _unit_tiles_plain, ROUNDED, ROUNDED)
    yield Check("sweep_groups", _groups, _groups_plain, PRODUCTS, PRODUCTS)
    for name in WEIGHTS:
        yield Check(f"sweep, {name}", _sweep, _sweep_plain, PRODUCTS, PRODUCTS, (name,))
        yield Check(f"sweep in parts, {name}", _in_parts, _no_difference, EQUAL, EQUAL, (name,))
    for name, case in COUNTED.items():
        yield Check(f"sweep, counts of {name}", _counts, _counts_plain, EQUAL, EQUAL, case)


def _plan(sample: Sample, name: str) -> Shuffles:
    """Return shuffles under a seed of more than 32 bits."""
    seed, blocks = 2**40 + sample.seed, np.arange(24) % 6
    plans = {
        "sign flips": Shuffles(N_SUBJECTS, "ise", seed=seed),
        "permutations": Shuffles(N_SUBJECTS, "ee", seed=seed),
        "flips and permutations": Shuffles(N_SUBJECTS, "both", seed=seed),
        "within blocks": Shuffles(24, "both", blocks=blocks, seed=seed),
        "whole blocks": Shuffles(24, "both", blocks=blocks, block_exchange="whole", seed=seed),
        "all sign flips": Shuffles(6, "ise", seed=seed),
        "numbers beyond 32 bits": Shuffles(N_SUBJECTS, "both", 2**40, seed=seed),
    }
    return plans[name]


def _rows(machine: Machine, sample: Sample, name: str) -> Arrays:
    """Draw rows, and take them from their places in the tile."""
    plan, indices = _plan(sample, name), ROWS[name]
    tile = machine.engine.shuffled_rows(plan, _columns(sample, plan), indices)
    start = indices.start % SHUFFLE_TILE
    return (machine.engine.to_host(tile)[start : start + len(indices)],)


def _rows_plain(sample: Sample, name: str) -> Arrays:
    """Draw rows one by one."""
    plan = _plan(sample, name)
    columns = _columns(sample, plan)
    rows = [plain.shuffled(plan, columns, index) for index in ROWS[name]]
    return (np.array(rows, dtype=np.float32),)


def _columns(sample: Sample, plan: Shuffles) -> NDArray[np.float64]:
    """Return what is shuffled, ``(2, n_subjects)``."""
    return sample.rng(5).standard_normal((2, plan.n_subjects))


def _unit_tiles(machine: Machine, sample: Sample) -> Arrays:
    """Lay out residuals of unit length, and put the tiles side by side again."""
    units = machine.engine.unit_tiles(sample.values, sample.design.basis)
    tiles = machine.engine.to_host(units.tiles).swapaxes(0, 1)
    rows = tiles.reshape(N_SUBJECTS, -1)
    beyond = rows[:, units.n_voxels :]
    return rows[:, : units.n_voxels], np.abs(beyond).max(axis=1, initial=0)


def _unit_tiles_plain(sample: Sample) -> Arrays:
    """Return residuals of unit length, and the zeros beyond the last voxel."""
    return plain.unit_residuals(sample.values, sample.design.basis), np.zeros(N_SUBJECTS)


class _Swept(NamedTuple):
    """A contrast, and how it is shuffled."""

    values: NDArray[np.float32]
    rule: Projection
    plan: Shuffles
    is_f: bool

    @property
    def form(self) -> Form:
        """What the rows are."""
        n_tested = self.rule.n_tested
        return Form(n_tested, self.rule.n_rows - n_tested, float(self.rule.df), self.is_f)

    @property
    def tile(self) -> NDArray[np.float32]:
        """The first shuffles."""
        return self.rule.rows(self.plan, range(SHUFFLE_TILE))


def _swept(sample: Sample, name: str) -> _Swept:
    """Return the contrast that leads to a form."""
    design: Design = group_mean(N_SUBJECTS) if name == "cosine" else sample.design
    is_f = name.startswith(("R²", "Freedman-Lane F"))
    parts = partition(design, design.contrast(WEIGHTS[name], statistic="F" if is_f else "t"))
    plan = Shuffles(N_SUBJECTS, "ise" if name == "cosine" else "ee", seed=sample.seed)
    values = sample.effects if name == "cosine" else sample.values
    return _Swept(values, projection(parts, "freedman-lane", plan.unmoved), plan, is_f)


def _sweep(machine: Machine, sample: Sample, name: str) -> Arrays:
    """Compute what was observed, and maps and extremes of the first shuffles."""
    engine, swept = machine.engine, _swept(sample, name)
    form = swept.form
    units = engine.unit_tiles(swept.values, swept.rule.removed)
    rows = engine.to_device(swept.tile)
    maps = engine.empty_maps(N_REFITTED, units.n_voxels)
    peaks = engine.sweep(rows, units, form, shuffles=range(N_REFITTED), exceeding=None, maps=maps)
    observed = engine.statistic_of(engine.values_of(rows[0], units, form), form)
    upper = engine.statistic_of(engine.to_host(peaks.upper), form)
    if form.is_f:
        return observed, engine.to_host(maps), upper
    lower = engine.statistic_of(engine.to_host(peaks.lower), form)
    return observed, engine.to_host(maps), upper, lower


def _sweep_plain(sample: Sample, name: str) -> Arrays:
    """Fit every shuffle again."""
    swept = _swept(sample, name)
    residuals = plain.unit_residuals(swept.values, swept.rule.removed)
    shuffles = swept.plan.shuffled(swept.rule.columns, range(N_REFITTED))
    maps = np.array([plain.statistic_by_refit(residuals, rows, swept.form) for rows in shuffles])
    extremes = maps.max(axis=1), -maps.min(axis=1)
    return maps[0], maps, *extremes[: 1 if swept.form.is_f else 2]


def _groups(machine: Machine, sample: Sample) -> Arrays:
    """Compute maps and largest values of the first shuffles of all forms at once."""
    engine, groups = machine.engine, []
    for name in WEIGHTS:
        swept = _swept(sample, name)
        units = engine.unit_tiles(swept.values, swept.rule.removed, narrow=True)
        observed = engine.values_of(engine.to_device(swept.tile[0]), units, swept.form)
        exceeding = engine.exceedances(observed, swept.form, two_sided=False)
        maps = engine.empty_maps(N_REFITTED, units.n_voxels)
        rows = partial(swept.rule.rows, swept.plan, range(SHUFFLE_TILE))
        groups.append(Group(units, swept.form, rows, exceeding, maps))
    peaks = engine.sweep_groups(groups, shuffles=range(N_REFITTED))
    pairs = list(zip(groups, peaks, strict=True))
    return (
        *(engine.to_host(group.maps) for group in groups),
        *(engine.statistic_of(engine.to_host(one.upper), group.form) for group, one in pairs),
    )


def _groups_plain(sample: Sample) -> Arrays:
    """Fit every shuffle again, form by form."""
    found = [_sweep_plain(sample, name) for name in WEIGHTS]
    return *(maps for _, maps, *_ in found), *(upper for _, _, upper, *_ in found)


def _in_parts(machine: Machine, sample: Sample, name: str) -> Arrays:
    """Return what two parts of a tile differ by from the whole: maps, maxima and counts."""
    engine, swept = machine.engine, _swept(sample, name)
    form, tile = swept.form, engine.to_device(swept.tile)
    units = engine.unit_tiles(swept.values, swept.rule.removed)
    observed = engine.values_of(tile[0], units, form)

    def results(*parts: range) -> Arrays:
        exceeding = engine.exceedances(observed, form, two_sided=not form.is_f)
        maps, peaks = [], []
        for part in parts:
            room = engine.to_device(np.zeros((len(part), units.n_voxels), dtype=np.float32))
            found = engine.sweep(tile, units, form, shuffles=part, exceeding=exceeding, maps=room)
            maps.append(engine.to_host(room))
            peaks.append(engine.to_host(found.upper))
        return np.concatenate(maps), np.concatenate(peaks), engine.to_host(exceeding.counts)

    whole = results(range(SHUFFLE_TILE))
    parts = results(range(77), range(77, SHUFFLE_TILE))
    return tuple(one - other for one, other in zip(whole, parts, strict=True))


def _no_difference(sample: Sample, name: str) -> Arrays:
    """Return the differences that there should be."""
    del name
    n_voxels = sample.grid.n_voxels
    return np.zeros((SHUFFLE_TILE, n_voxels)), np.zeros(SHUFFLE_TILE), np.zeros(n_voxels)


def _counts(machine: Machine, sample: Sample, form: Form, two_sided: bool) -> Arrays:
    """Count in two sweeps the shuffles that reach what was observed."""
    engine = machine.engine
    units = engine.unit_tiles(sample.wholes, np.empty((SIZES.size, 0)))
    tile = engine.to_device(_exact_tile(sample, form))
    observed = engine.values_of(tile[0], units, form)
    exceeding = engine.exceedances(observed, form, two_sided=two_sided)
    for part in (range(1, 100), range(100, 160)):
        engine.sweep(tile, units, form, shuffles=part, exceeding=exceeding, maps=None)
    return (engine.to_host(exceeding.counts),)


def _counts_plain(sample: Sample, form: Form, two_sided: bool) -> Arrays:
    """Count the shuffles that reach what was observed, shuffle by shuffle."""
    units = sample.wholes.T.astype(np.float64) / np.linalg.norm(SIZES)
    values = [
        plain.compared(rows @ units, form) for rows in _exact_tile(sample, form).astype(np.float64)
    ]
    compared = np.abs(values) if two_sided else np.array(values)
    limits = plain.limits(compared[0], is_share=form.n_nuisance == 0)
    return ((compared[1:160] >= limits).sum(axis=0),)


def _exact_tile(sample: Sample, form: Form) -> NDArray[np.float32]:
    """Shuffle rows of 1/4 and -1/4, whose products with whole numbers are exact."""
    rng, n = sample.rng(6), SIZES.size
    rows = hadamard(n)[1 : 1 + form.n_tested + form.n_nuisance] / np.sqrt(n)
    orders = [np.arange(n), *(rng.permutation(n) for _ in range(SHUFFLE_TILE - 1))]
    return np.array([rows[:, order] for order in orders], dtype=np.float32)
