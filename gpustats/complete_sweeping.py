"""Sweeps of shuffles over voxels that have data of every subject.

Voxels come in blocks, one of all of them where they fit in memory. A test of voxels alone takes the
blocks one by one, all shuffles inside, so that a stack on disk is read once. Clusters and TFCE
need whole maps: batches of shuffles then come first, and every batch reads the stack again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import SHUFFLE_TILE, Array, Engine, Exceedances, Form, Units
from gpustats.maps import Maps
from gpustats.memory import cut
from gpustats.planning import Task
from gpustats.stored import StoredMaps
from gpustats.sweeping import Finish, Keeper, Scale, State, by_tiles
from gpustats.unit_blocks import UnitBlocks


class Found(NamedTuple):
    """Hold what a test of voxels alone came to.

    Parameters
    ----------
    maxima, limits, counts
        As of `Swept`, maxima of all shuffles.
    """

    maxima: NDArray[np.float64]
    limits: NDArray[np.float64]
    counts: NDArray[np.int64]


class Complete:
    """Sweep voxels that have data of every subject.

    Parameters
    ----------
    engine
        What computes.
    maps
        The data.
    task
        What is tested, under which shuffles, in which blocks.
    """

    scale: Scale = "statistic"

    def __init__(self, engine: Engine, maps: Maps | StoredMaps, task: Task) -> None:
        self.engine = engine
        self.form = task.form
        self.two_sided = task.two_sided
        self.n_voxels = maps.n_voxels
        self.df = None if self.form.is_f else self.form.df
        self.begin(task)
        self.blocks = UnitBlocks(maps, engine, task.rule.removed)

    def begin(self, task: Task) -> None:
        """Start counting anew, for other shuffles of the test perhaps."""
        self.task = task
        self.size = task.plan.block_voxels if task.plan else self.n_voxels
        self.__dict__.pop("_exceeding", None)

    # ---- batches of shuffles, all voxels inside

    @cached_property
    def _first(self) -> NDArray[np.float32]:
        """What is compared of shuffle 0."""
        rows = self.tile(range(1))[0]
        values = np.empty(self.n_voxels, dtype=np.float32)
        for span, units in self.blocks(self.size):
            values[span.start : span.stop] = self.engine.values_of(rows, units, self.form)
            del units
        return values

    @cached_property
    def _exceeding(self) -> Exceedances:
        """Counts of the shuffles so far."""
        return self.engine.exceedances(self._first, self.form, two_sided=self.two_sided)

    @property
    def observed(self) -> NDArray[np.float32]:
        """The z of shuffle 0, ``(n_voxels,)``."""
        values, form = self.observed_statistic.astype(np.float64), self.form
        if form.is_f:
            return self.engine.f_to_z(values, form.n_tested, form.df).astype(np.float32)
        return self.engine.t_to_z(values, form.df).astype(np.float32)

    @property
    def observed_statistic(self) -> NDArray[np.float32]:
        """The same as t or F, as `sweep` fills maps, ``(n_voxels,)``."""
        return self.engine.statistic_of(self._first, self.form)

    @property
    def limits(self) -> NDArray[np.float64]:
        """What a maximum must reach to be no smaller than the observed values, ``(n_voxels,)``."""
        return self.engine.to_host(self._exceeding.limits).astype(np.float64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many of the shuffles so far reach the observed value, ``(n_voxels,)``."""
        return self.engine.to_host(self._exceeding.counts)

    def go_on(self, counts: NDArray[np.int64]) -> None:
        """Take the counts that another process came to."""
        self._exceeding = self._exceeding._replace(counts=self.engine.to_device(counts))

    def sweep(self, batch: range, maps: Sequence[Array], finish: Finish) -> NDArray[np.float64]:
        """Compute a batch of shuffles: fill their maps, count, return what compares with limits."""
        maxima = self._sweep_blocks(batch, maps, self.form, self._exceeding, finish)
        return maxima.astype(np.float64)

    def to_z(self, maps: Sequence[Array]) -> None:
        """Turn maps of t or F, as `sweep` filled them, into their z."""
        for some in maps:
            if self.form.is_f:
                self.engine.f_maps_to_z(some, self.form.n_tested, self.form.df)
            else:
                self.engine.t_maps_to_z(some, self.form.df)

    def fill(self, batch: range, maps: Sequence[Array], form: Form) -> None:
        """Fill the maps of a batch with t, or with what another form makes of the same rows."""
        self._sweep_blocks(batch, maps, form, None, lambda _: None)

    def _sweep_blocks(
        self,
        batch: range,
        maps: Sequence[Array],
        form: Form,
        exceeding: Exceedances | None,
        finish: Finish,
    ) -> NDArray[np.float32]:
        """Sweep a batch over the blocks of voxels, and return its maxima."""
        maxima = np.full(len(batch), -np.inf, dtype=np.float32)
        places = by_tiles(batch, maps)
        tiles = [self.tile(part) for part, _ in places]
        for span, units in self.blocks(self.size):
            here = exceeding and _of_span(exceeding, span)
            for (part, target), tile in zip(places, tiles, strict=True):
                rows = slice(part.start - batch.start, part.stop - batch.start)
                found = self._sweep_into(target, span, tile, units, part, form, here)
                np.maximum(maxima[rows], found, out=maxima[rows])
                finish(len(part) * len(span) / self.n_voxels)
            del units
        return maxima

    def null_maxima(self, maxima: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn what `sweep` returned into t or F."""
        values = maxima.astype(np.float32)
        return self.engine.statistic_of(values, self.form).astype(np.float64)

    def _sweep_into(
        self,
        maps: Array | None,
        span: range,
        tile: Array,
        units: Units,
        part: range,
        form: Form,
        exceeding: Exceedances | None,
    ) -> NDArray[np.float32]:
        """Compute shuffles of a tile at the voxels of a block, and put them into their maps."""
        if maps is None or len(span) == self.n_voxels:
            return self._sweep(tile, units, part, form, exceeding, maps)
        found = []
        room = self.engine.empty_maps(len(part), len(span))
        for piece in (part[a : a + len(room)] for a in range(0, len(part), len(room))):
            block = room[: len(piece)]
            found.append(self._sweep(tile, units, piece, form, exceeding, block))
            start = piece.start - part.start
            self.engine.put(block, maps[start : start + len(piece)], span.start)
        return np.concatenate(found)

    # ---- blocks of voxels, all shuffles inside

    def block_by_block(self, finish: Finish, keeper: Keeper) -> Found:
        """Take the blocks of voxels one by one, all shuffles of the task inside."""
        indices, plan = self.task.indices, self.task.plan
        state = _BlockState.begin(indices, self.n_voxels, self.size, keeper.resumed())
        first = self.tile(range(1))[0]
        tile_of = cache(self.tile) if plan and plan.keeps_rows else self.tile
        finish(len(indices) * int(state.voxels) / self.n_voxels)
        for span, units in self.blocks(int(state.size), int(state.voxels)):
            here = slice(span.start, span.stop)
            share = len(span) / self.n_voxels
            values = self.engine.values_of(first, units, self.form)
            limits, *_ = self.engine.exceedances(values, self.form, two_sided=self.two_sided)
            state.limits[here] = self.engine.to_host(limits)
            # the engine's own: the state stays as it is until the step is done
            counts = self.engine.to_device(state.counts[here].copy())
            exceeding = Exceedances(limits, self.two_sided, counts)
            finish(int(state.done) * share)
            for part in cut(range(indices.start + int(state.done), indices.stop), SHUFFLE_TILE):
                found = self._sweep(tile_of(part), units, part, self.form, exceeding, None)
                place = slice(part.start - indices.start, part.stop - indices.start)
                np.maximum(state.maxima[place], found, out=state.maxima[place])
                state.done[...] = place.stop
                finish(len(part) * share)
                keeper.offer(partial(self._with_counts, state, here, counts), last=False)
            state.counts[here] = self.engine.to_host(counts)
            state.done[...] = 0
            state.voxels[...] = span.stop
            keeper.offer(state._asdict, last=span.stop == self.n_voxels)
            del units
        maxima, limits = (each.astype(np.float64) for each in (state.maxima, state.limits))
        return Found(maxima, limits, state.counts)

    def _with_counts(self, state: _BlockState, here: slice, counts: Array) -> State:
        """Return a state with the counts of the block that is worked on."""
        whole = state.counts.copy()
        whole[here] = self.engine.to_host(counts)
        return state._replace(counts=whole)._asdict()

    # ---- what both do

    def _sweep(
        self,
        tile: Array,
        units: Units,
        part: range,
        form: Form,
        exceeding: Exceedances | None,
        maps: Array | None,
    ) -> NDArray[np.float32]:
        """Compute shuffles of a tile at the voxels of a block, and return their maxima."""
        start = part.start % SHUFFLE_TILE
        peaks = self.engine.sweep(
            tile,
            units,
            form,
            shuffles=range(start, start + len(part)),
            exceeding=exceeding,
            maps=maps,
        )
        upper = self.engine.to_host(peaks.upper)
        if not self.two_sided:
            return upper
        return np.asarray(np.maximum(upper, self.engine.to_host(peaks.lower)))

    def tile(self, part: range) -> Array:
        """Return the rows of a whole tile, on the device, in which each shuffle has its place."""
        rule, shuffles = self.task.rule, self.task.shuffles
        if rule.refit is None:
            return self.engine.shuffled_rows(shuffles, rule.columns, part)
        rows = rule.rows(shuffles, part)
        tile = np.zeros((SHUFFLE_TILE, *rows.shape[1:]), dtype=np.float32)
        start = part.start % SHUFFLE_TILE
        tile[start : start + len(part)] = rows
        return self.engine.to_device(tile)


def _of_span(exceeding: Exceedances, span: range) -> Exceedances:
    """Return limits and counts of the voxels of a block."""
    here = slice(span.start, span.stop)
    return exceeding._replace(limits=exceeding.limits[here], counts=exceeding.counts[here])


class _BlockState(NamedTuple):
    """What is known when the blocks of voxels come one by one."""

    maxima: NDArray[np.float32]
    """Largest value of each shuffle, ``(n_shuffles,)``."""
    limits: NDArray[np.float32]
    """What reaches the observed value of each voxel, ``(n_voxels,)``."""
    counts: NDArray[np.int64]
    """How many shuffles do, ``(n_voxels,)``."""
    size: NDArray[np.int64]
    """Voxels of a block."""
    voxels: NDArray[np.int64]
    """How many voxels are done."""
    done: NDArray[np.int64]
    """How many shuffles of the next block are."""

    @classmethod
    def begin(cls, indices: range, n_voxels: int, size: int, resumed: State | None) -> _BlockState:
        """Return the state to go on from, by blocks of ``size`` voxels."""
        if resumed is None:
            return cls(
                np.full(len(indices), -np.inf, dtype=np.float32),
                np.zeros(n_voxels, dtype=np.float32),
                np.zeros(n_voxels, dtype=np.int64),
                np.array(size),
                np.array(0),
                np.array(0),
            )
        state = cls(**{name: np.array(resumed[name]) for name in cls._fields})
        if state.size > size or not state.done:
            # another block than the one that was worked on: its maxima stay, its counts do not
            state.counts[state.voxels :] = 0
            state.done[...] = 0
            state.size[...] = size
        return state
