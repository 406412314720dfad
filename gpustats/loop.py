"""The loop of a permutation test: shuffles, blocks of voxels, statistics, maxima.

Voxels come in blocks, one of all of them where they fit in memory. A test of voxels alone takes the
blocks one by one, all shuffles inside, so that a stack on disk is read once. Clusters and TFCE
need whole maps: batches of shuffles then come first, and every batch reads the stack again.

What is known between two steps is a `State`, arrays by name: a test can stop there, and be
continued by another process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import SHUFFLE_TILE, Array, Engine, Exceedances, Units
from gpustats.enhancements import MapKind, Statistic
from gpustats.glm import Fit
from gpustats.memory import cut
from gpustats.outcomes import Outcome
from gpustats.planning import Task
from gpustats.scored import Scored
from gpustats.unit_blocks import UnitBlocks

State: TypeAlias = Mapping[str, NDArray[Any]]
Finish: TypeAlias = Callable[[float], None]
"""Takes the number of shuffles that have just been finished."""


class Keeper(Protocol):
    """Keep the state of a test, so that it can go on where it was stopped."""

    def resumed(self) -> State | None:
        """Return the state to go on from; None to begin."""
        ...

    def offer(self, state: Callable[[], State], *, last: bool) -> None:
        """Take the state after a step, if it is time to, or the last one."""
        ...


class ContrastTest:
    """One contrast: its data in blocks, its shuffles, and what each statistic looks at.

    Parameters
    ----------
    fitted
        The data.
    task
        What is to be done.
    statistics
        What is compared.
    uncorrected
        Whether scores of voxels are counted.
    """

    def __init__(
        self, fitted: Fit, task: Task, statistics: Sequence[Statistic], uncorrected: bool
    ) -> None:
        self.engine: Engine = fitted.engine
        self.grid = fitted.maps.grid
        self.n_voxels = fitted.maps.n_voxels
        self.task = task
        self.form = task.form
        self.two_sided = task.two_sided
        self.statistics = statistics
        self.uncorrected = uncorrected
        self.reported = fitted.contrast(task.contrast)
        self.maps = fitted.maps
        # voxels of a block
        self.size = task.plan.block_voxels if task.plan else fitted.maps.n_voxels

    def run(self, finish: Finish, keeper: Keeper) -> list[Outcome]:
        """Compute the shuffles of the task."""
        # made here, so that the data of one contrast are gone when the next begins
        blocks = UnitBlocks(self.maps, self.engine, self.task.rule.removed)
        if all(statistic.name == "voxelwise" for statistic in self.statistics):
            return [self._by_voxels(blocks, finish, keeper)]
        return self._by_shuffles(blocks, finish, keeper)

    def _by_voxels(self, blocks: UnitBlocks, finish: Finish, keeper: Keeper) -> Outcome:
        """Take the blocks of voxels one by one, all shuffles inside."""
        indices, plan = self.task.indices, self.task.plan
        state = _VoxelState.begin(indices, self.n_voxels, self.size, keeper.resumed())
        first = self._tile(range(1))[0]
        tile_of = cache(self._tile) if plan and plan.keeps_rows else self._tile
        finish(len(indices) * int(state.voxels) / self.n_voxels)
        for span, units in blocks(int(state.size), int(state.voxels)):
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
                found = self._sweep(tile_of(part), units, part, exceeding, None)
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
        return self._voxelwise(state.maxima, state.limits, state.counts)

    def _with_counts(self, state: _VoxelState, here: slice, counts: Array) -> State:
        """Return a state with the counts of the block that is worked on."""
        whole = state.counts.copy()
        whole[here] = self.engine.to_host(counts)
        return state._replace(counts=whole)._asdict()

    def _by_shuffles(self, blocks: UnitBlocks, finish: Finish, keeper: Keeper) -> list[Outcome]:
        """Take batches of shuffles one by one, all voxels inside: whole maps can be scored."""
        indices = self.task.indices
        observed = self._observed(blocks)
        exceeding = self.engine.exceedances(observed, self.form, two_sided=self.two_sided)
        spatial = self._spatial(self._map_of(observed))
        rooms = self._rooms()
        maxima, done = np.empty(len(indices), dtype=np.float32), 0
        if (resumed := keeper.resumed()) is not None:
            done = int(resumed["done"])
            maxima[:done] = resumed["maxima"]
            exceeding = exceeding._replace(counts=self.engine.to_device(resumed["counts"]))
            for name, scored in spatial.items():
                scored.go_on(resumed[f"{name}_maxima"], resumed.get(f"{name}_counts"))
            finish(done)

        def state() -> State:
            return {
                "done": np.array(done),
                "maxima": maxima[:done],
                "counts": self.engine.to_host(exceeding.counts),
                **{k: v for name, scored in spatial.items() for k, v in scored.state(name)},
            }

        for batch in cut(range(indices.start + done, indices.stop), sum(map(len, rooms))):
            place = slice(batch.start - indices.start, batch.stop - indices.start)
            maps = _filling(rooms, len(batch))
            maxima[place] = self._fill(blocks, batch, exceeding, maps, finish)
            for scored in spatial.values():
                for some in maps:
                    scored.add(some)
            done = place.stop
            keeper.offer(state, last=done == len(indices))
        counts = self.engine.to_host(exceeding.counts)
        voxelwise = self._voxelwise(maxima, self.engine.to_host(exceeding.limits), counts)
        return [
            voxelwise if name == "voxelwise" else self._of_scores(name, spatial[name])
            for name in [statistic.name for statistic in self.statistics]
        ]

    def _observed(self, blocks: UnitBlocks) -> NDArray[np.float32]:
        """Return what is compared of shuffle 0."""
        first = self._tile(range(1))[0]
        observed = np.empty(self.n_voxels, dtype=np.float32)
        for span, units in blocks(self.size):
            observed[span.start : span.stop] = self.engine.values_of(first, units, self.form)
            del units
        return observed

    def _spatial(self, observed: NDArray[np.float32]) -> dict[str, Scored]:
        """Prepare every statistic but the voxels' own value, given the observed map."""
        peak = float(np.abs(observed).max() if self.two_sided else observed.max())
        kind = MapKind(self.task.contrast.statistic, self.form.df, self.two_sided, peak)
        enhancers = {s.name: s.enhancer(self.engine, self.grid, kind) for s in self.statistics}
        return {
            name: Scored(self.engine, enhancer, observed, self.two_sided, self.uncorrected)
            for name, enhancer in enhancers.items()
            if enhancer is not None
        }

    def _rooms(self) -> list[Array]:
        """Return room for the maps of a batch: as many as pay off, or as were planned."""
        most, plan = len(self.task.indices), self.task.plan
        if not plan or not plan.maps:
            return [self.engine.empty_maps(most, self.n_voxels)]
        rooms: list[Array] = []
        while (missing := min(most, plan.maps) - sum(map(len, rooms))) > 0:
            rooms.append(self.engine.empty_maps(missing, self.n_voxels))
        return rooms

    def _fill(
        self,
        blocks: UnitBlocks,
        batch: range,
        exceeding: Exceedances,
        maps: Sequence[Array],
        finish: Finish,
    ) -> NDArray[np.float32]:
        """Compute a batch of shuffles: fill their maps, count, return the voxels' maxima."""
        maxima = np.full(len(batch), -np.inf, dtype=np.float32)
        places = _places(batch, maps)
        tiles = [self._tile(part) for part, _ in places]
        for span, units in blocks(self.size):
            limits, counts = (
                each[span.start : span.stop] for each in (exceeding.limits, exceeding.counts)
            )
            here = Exceedances(limits, self.two_sided, counts)
            for (part, target), tile in zip(places, tiles, strict=True):
                rows = slice(part.start - batch.start, part.stop - batch.start)
                found = self._sweep_into(target, span, tile, units, part, here)
                np.maximum(maxima[rows], found, out=maxima[rows])
                finish(len(part) * len(span) / self.n_voxels)
            del units
        if self.task.contrast.statistic == "F":
            for some in maps:
                self.engine.f_maps_to_z(some, self.form.n_tested, self.form.df)
        return maxima

    def _sweep_into(
        self,
        maps: Array,
        span: range,
        tile: Array,
        units: Units,
        part: range,
        exceeding: Exceedances,
    ) -> NDArray[np.float32]:
        """Compute shuffles of a tile at the voxels of a block, and put them into their maps."""
        if len(span) == self.n_voxels:
            return self._sweep(tile, units, part, exceeding, maps)
        found = []
        room = self.engine.empty_maps(len(part), len(span))
        for piece in (part[a : a + len(room)] for a in range(0, len(part), len(room))):
            block = room[: len(piece)]
            found.append(self._sweep(tile, units, piece, exceeding, block))
            start = piece.start - part.start
            self.engine.put(block, maps[start : start + len(piece)], span.start)
        return np.concatenate(found)

    def _sweep(
        self, tile: Array, units: Units, part: range, exceeding: Exceedances, maps: Array | None
    ) -> NDArray[np.float32]:
        """Compute shuffles of a tile at the voxels of a block, and return their maxima."""
        start = part.start % SHUFFLE_TILE
        peaks = self.engine.sweep(
            tile,
            units,
            self.form,
            shuffles=range(start, start + len(part)),
            exceeding=exceeding,
            maps=maps,
        )
        upper = self.engine.to_host(peaks.upper)
        if not self.two_sided:
            return upper
        return np.asarray(np.maximum(upper, self.engine.to_host(peaks.lower)))

    def _tile(self, part: range) -> Array:
        """Return the rows of a whole tile, on the device, in which each shuffle has its place."""
        rule, shuffles = self.task.rule, self.task.shuffles
        if rule.refit is None:
            return self.engine.shuffled_rows(shuffles, rule.columns, part)
        rows = rule.rows(shuffles, part)
        tile = np.zeros((SHUFFLE_TILE, *rows.shape[1:]), dtype=np.float32)
        start = part.start % SHUFFLE_TILE
        tile[start : start + len(part)] = rows
        return self.engine.to_device(tile)

    def _map_of(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the map that spatial statistics look at, from what `sweep` compares."""
        one = self.engine.statistic_of(values, self.form)
        if self.task.contrast.statistic == "t":
            return one
        f = one.astype(np.float64)
        return self.engine.f_to_z(f, self.form.n_tested, self.form.df).astype(np.float32)

    def _voxelwise(
        self,
        maxima: NDArray[np.float32],
        limits: NDArray[np.float32],
        counts: NDArray[np.int64],
    ) -> Outcome:
        """Collect what was found of the voxels' own values."""
        return Outcome(
            statistic="voxelwise",
            contrast=self.task.contrast,
            observed=self.reported.statistic,
            limits=limits.astype(np.float64),
            indices=self.task.indices,
            n_shuffles=self.task.shuffles.n_shuffles,
            two_sided=self.two_sided,
            maxima=maxima.astype(np.float64),
            null_maxima=self.engine.statistic_of(maxima, self.form).astype(np.float64),
            counts=counts,
        )

    def _of_scores(self, name: str, scored: Scored) -> Outcome:
        """Collect what was found of a spatial statistic."""
        reported = self.reported
        is_f = self.task.contrast.statistic == "F"
        observed = (reported.z if is_f else reported.statistic).astype(np.float32)
        maxima, counts = scored.found(len(self.task.indices))
        return Outcome(
            statistic=name,
            contrast=self.task.contrast,
            observed=scored.scores(observed),
            limits=scored.limits,
            indices=self.task.indices,
            n_shuffles=self.task.shuffles.n_shuffles,
            two_sided=self.two_sided,
            maxima=maxima,
            null_maxima=maxima,
            counts=counts,
        )


class _VoxelState(NamedTuple):
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
    def begin(cls, indices: range, n_voxels: int, size: int, resumed: State | None) -> _VoxelState:
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


def _filling(rooms: Sequence[Array], n_maps: int) -> list[Array]:
    """Return the front of some rooms, as many maps as are wanted."""
    starts = np.cumsum([0, *map(len, rooms)])
    cuts = zip(rooms, starts[:-1].tolist(), strict=True)
    return [room[: n_maps - start] for room, start in cuts if start < n_maps]


def _places(batch: range, maps: Sequence[Array]) -> list[tuple[range, Array]]:
    """Return the parts of a batch that lie in one tile of shuffles and one array of maps."""
    found: list[tuple[range, Array]] = []
    start = batch.start
    for some in maps:
        parts = cut(range(start, start + len(some)), SHUFFLE_TILE)
        found += [(part, some[part.start - start : part.stop - start]) for part in parts]
        start += len(some)
    return found
