"""How long the test of a store will take: an estimate from a moment's work on this machine.

A few chunks are read, one product of the test's shape is computed, a few shuffles are drawn, and
the observed map is scored some times. Nothing of it enters a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np

from gpustats.complete_sweeping import Complete
from gpustats.engines import SHUFFLE_TILE
from gpustats.environment import n_cores
from gpustats.loop import ContrastTest
from gpustats.stored import StoredMaps

WORTH_MEASURING = 2**35
"""Products of a test that takes a second or more."""
PRODUCTS_OF_SCORING = 2**11
"""Scoring a voxel takes about as long as so many products."""
MEASURED_VALUES = 2**23
"""Values that are read, and multiplied by a tile of shuffles: 32 MiB."""
VOXELS_PER_CORE = 1024
DRAWN_VALUES = 2**20
MOST_DRAWN = 100
LONG_ENOUGH = 0.1
"""Seconds of scoring that tell how long a map takes."""


class Pace(NamedTuple):
    """Say how fast the values of a test are gone through.

    Parameters
    ----------
    taking
        Seconds to read a value and to bring it to unit length.
    sweeping
        Seconds to take a value through a shuffle.
    """

    taking: float
    sweeping: float


def expected_seconds(test: ContrastTest) -> float | None:
    """Estimate how long a test will take, as if it began anew; None where that is not worth it.

    There is no estimate where variances are smoothed either.

    Reading is counted as if nothing were computed meanwhile. Machines that others use too, stores
    that are cached in part, and clusters that shuffles seldom have make it a rough estimate.

    Parameters
    ----------
    test
        The test, whose data have been fitted already: a store that is cached is cached by now.
    """
    maps, voxels, plan, load = test.maps, test.voxels, test.task.plan, test.task.load
    if plan is None or not isinstance(maps, StoredMaps) or not isinstance(voxels, Complete):
        return None
    n_shuffles, n_values = len(test.task.indices), maps.n_voxels * maps.n_subjects
    products = n_shuffles * n_values * load.n_rows
    if load.spatial:
        products += n_shuffles * maps.n_voxels * PRODUCTS_OF_SCORING
    if products < WORTH_MEASURING:
        return None
    pace = _pace(voxels, maps)
    n_draws = 1 if plan.keeps_rows or load.spatial else plan.n_blocks
    per_shuffle = n_values * pace.sweeping + n_draws * _drawing(voxels, load.n_rows)
    if load.spatial:
        per_shuffle += _scoring(test)
    return plan.passes * n_values * pace.taking + n_shuffles * per_shuffle


def in_words(seconds: Sequence[float | None]) -> str | None:
    """Return about how long some tests take together; None where none was estimated.

    Examples
    --------
    >>> in_words([3600.0, None, 300.0]), in_words([42.1]), in_words([None])
    ('about 1 h 5 min', 'about 42 s', None)
    """
    known = [one for one in seconds if one is not None]
    if not known:
        return None
    minutes = round(sum(known) / 60)
    if minutes < 2:
        return f"about {max(1, round(sum(known)))} s"
    hours = f"{minutes // 60:,} h " if minutes >= 60 else ""
    return f"about {hours}{minutes % 60} min"


def _pace(voxels: Complete, maps: StoredMaps) -> Pace:
    """Read some voxels of some subjects, and take them through a tile of shuffles."""
    engine, task = voxels.engine, voxels.task
    most = max(engine.voxel_tile(), VOXELS_PER_CORE * n_cores())
    span = range(min(most, voxels.size, maps.n_voxels))
    # chunks are read as a whole
    height = maps.cohort.header.layout.height
    n = max(1, MEASURED_VALUES // (len(span) * task.rule.n_rows * height)) * height
    n = min(n, maps.n_subjects)
    some = replace(maps, cohort=maps.cohort.subset(np.arange(n)))
    started = perf_counter()
    values = some.read(span)
    reading = perf_counter() - started
    removed = task.rule.removed[:n]
    # what runs first is compiled
    units = engine.unit_tiles(values, removed)
    preparing = engine.elapsed(lambda: engine.unit_tiles(values, removed))
    columns = np.ascontiguousarray(task.rule.columns[:, :n], dtype=np.float32)
    tile = engine.to_device(np.tile(columns, (SHUFFLE_TILE, 1, 1)))
    observed = engine.values_of(tile[0], units, task.form)
    exceeding = engine.exceedances(observed, task.form, two_sided=task.two_sided)
    room = engine.empty_maps(SHUFFLE_TILE, len(span)) if task.load.spatial else None
    shuffles = range(SHUFFLE_TILE if room is None else len(room))

    def sweep() -> None:
        engine.sweep(tile, units, task.form, shuffles=shuffles, exceeding=exceeding, maps=room)

    sweep()
    sweeping = engine.elapsed(sweep)
    return Pace((reading + preparing) / values.size, sweeping / (values.size * len(shuffles)))


def _drawing(voxels: Complete, n_rows: int) -> float:
    """Return the seconds in which a shuffle is drawn."""
    shuffles = voxels.task.shuffles
    most = min(MOST_DRAWN, shuffles.n_shuffles)
    drawn = range(int(np.clip(DRAWN_VALUES // (n_rows * shuffles.n_subjects), 1, most)))
    voxels.tile(drawn[:1])
    return voxels.engine.elapsed(lambda: voxels.tile(drawn)) / len(drawn)


def _scoring(test: ContrastTest) -> float:
    """Return the seconds in which a map of a batch is scored, by those of the observed map."""
    engine, form, plan = test.engine, test.task.form, test.task.plan
    statistic = test.reported.statistic.astype(np.float32)
    scored = test.scored(
        lambda: test.reported.z.astype(np.float32), statistic, None if form.is_f else form.df
    )
    most = min(len(test.task.indices), (plan and plan.maps) or SHUFFLE_TILE)
    room, one = engine.empty_maps(most, statistic.size), engine.to_device(statistic)

    def score(n_maps: int) -> None:
        maps = room[:n_maps]
        maps[...] = one
        if form.is_f:
            engine.f_maps_to_z(maps, form.n_tested, form.df)
        for each in scored.values():
            each.add(maps)

    n_maps = min(n_cores(), len(room))
    score(1)
    while (seconds := engine.elapsed(partial(score, n_maps))) < LONG_ENOUGH and n_maps < len(room):
        n_maps = min(2 * n_maps, len(room))
    return seconds / n_maps
