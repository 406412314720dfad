"""The voxels of a test, and what sweeps of shuffles over them find: maxima, counts and maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import SHUFFLE_TILE, Array, Engine
from gpustats.memory import cut
from gpustats.planning import Task

Scale: TypeAlias = Literal["statistic", "z", "pseudo-t"]
"""What the values of voxels are compared as: t or F, their z where degrees of freedom differ, or
the pseudo-t of a smoothed variance."""
State: TypeAlias = Mapping[str, NDArray[Any]]
"""What is known between two steps of a test, by name."""
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


class Swept(Protocol):
    """List what a test asks of its voxels."""

    @property
    def n_voxels(self) -> int:
        """How many there are."""
        ...

    @property
    def scale(self) -> Scale:
        """What null maxima are given as."""
        ...

    @property
    def df(self) -> float | None:
        """Degrees of freedom of the maps of t; None where all maps are z."""
        ...

    @property
    def observed(self) -> NDArray[np.float32]:
        """The z of shuffle 0, where statistics look at z, ``(n_voxels,)``."""
        ...

    @property
    def observed_statistic(self) -> NDArray[np.float32]:
        """The same in the unit of the maps that `sweep` fills: t or F, ``(n_voxels,)``."""
        ...

    @property
    def limits(self) -> NDArray[np.float64]:
        """What a maximum must reach to be no smaller than the observed values, ``(n_voxels,)``."""
        ...

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many of the shuffles so far reach the observed value, ``(n_voxels,)``."""
        ...

    def begin(self, task: Task) -> None:
        """Start counting anew, for other shuffles of the test perhaps."""
        ...

    def go_on(self, counts: NDArray[np.int64]) -> None:
        """Take the counts that another process came to."""
        ...

    def sweep(self, batch: range, maps: Sequence[Array], finish: Finish) -> NDArray[np.float64]:
        """Compute a batch of shuffles: fill their maps, count, return what compares with limits.

        Maps may come in several arrays, which together have one for every shuffle, or not at all.
        """
        ...

    def to_z(self, maps: Sequence[Array]) -> None:
        """Turn maps that `sweep` filled with t or F into z."""
        ...

    def null_maxima(self, maxima: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn what `sweep` returned into the unit of ``scale``."""
        ...


def by_tiles(batch: range, maps: Sequence[Array]) -> list[tuple[range, Array | None]]:
    """Cut a batch into parts that lie in one tile of shuffles, and in one array of maps if any."""
    if not maps:
        return [(part, None) for part in cut(batch, SHUFFLE_TILE)]
    found: list[tuple[range, Array | None]] = []
    start = batch.start
    for some in maps:
        parts = cut(range(start, start + len(some)), SHUFFLE_TILE)
        found += [(part, some[part.start - start : part.stop - start]) for part in parts]
        start += len(some)
    return found


def rooms_for(engine: Engine, n_maps: int, n_voxels: int) -> list[Array]:
    """Return room for so many maps, in as few arrays as the engine makes of it."""
    rooms: list[Array] = []
    while (missing := n_maps - sum(map(len, rooms))) > 0:
        rooms.append(engine.empty_maps(missing, n_voxels))
    return rooms


def filling(rooms: Sequence[Array], n_maps: int) -> list[Array]:
    """Return the front of some rooms, as many maps as are wanted."""
    starts = np.cumsum([0, *map(len, rooms)])
    cuts = zip(rooms, starts[:-1].tolist(), strict=True)
    return [room[: n_maps - start] for room, start in cuts if start < n_maps]
