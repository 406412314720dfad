"""How fast an engine is on this machine, beside what the machine can do at best.

Every function is run as a test runs it, on a mask as large as that of the 2 mm brain. Most of them
are bound by memory: their rate is the least traffic that they could do with, over their time, and
stands beside the bandwidth of a copy, on a CPU that of one thread. The sweep stands beside a
product of square matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from textwrap import shorten
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import SHUFFLE_TILE, Array, Engine, Form, Units, resolve
from gpustats.selftest.promises import one_line
from gpustats.selftest.sample import AFFINE, FWHM_MM, ellipsoid
from gpustats.shuffles import Shuffles
from gpustats.simulation import simulate_maps
from gpustats.spaces import Grid

LONG_ENOUGH = 0.5
"""Seconds of repetitions that make a median."""
MOST_REPEATS = 9
COPIED = {False: 2**26, True: 2**24}
"""Numbers that are copied to measure the bandwidth, and if it is to be quick."""
MULTIPLIED = {False: 4096, True: 1024}
"""Rows of the matrices that are multiplied."""
SHAPES = {False: (91, 109, 91), True: (45, 55, 45)}
"""The field of the MNI template, in voxels of 2 mm and of 4 mm."""
N_SUBJECTS = (20, 100, 1000)
"""Sizes of groups that are swept."""
MOST_MAPS = 6 * SHUFFLE_TILE
"""Maps of a batch where the engine has room for them."""
N_LABELLED = 16
"""Maps that are labelled: they come from the host."""
HEIGHT = np.float32(3.0)
"""Cluster-forming threshold, in t."""


class Workload(NamedTuple):
    """Work to be timed.

    Parameters
    ----------
    work
        Does it.
    items
        How many maps or rows it makes.
    traffic
        Bytes that it has to read and write.
    operations
        Additions and multiplications of a product; 0 where memory binds.
    """

    work: Callable[[], object]
    items: int
    traffic: int
    operations: int = 0


class Rate(NamedTuple):
    """What was measured of a workload.

    Parameters
    ----------
    name
        Which.
    seconds
        The median of its repetitions; None if it was not measured.
    items
        How many maps or rows that makes.
    per_second
        Bytes per second, or operations per second of a product.
    unit
        ``"B/s"`` or ``"FLOP/s"``.
    fraction
        ``per_second`` over that of the copy, or of the product of square matrices; None if that
        was not measured.
    left_out
        Why it was not measured.
    error
        What was raised.
    """

    name: str
    seconds: float | None = None
    items: int = 0
    per_second: float = 0.0
    unit: str = "B/s"
    fraction: float | None = None
    left_out: str | None = None
    error: str | None = None


@dataclass(frozen=True, eq=False)
class Brain:
    """Hold what is worked on.

    Parameters
    ----------
    engine
        Whose memory it is in.
    seed
        Seed of all that is drawn.
    quick
        Whether to take an eighth of the voxels.
    """

    engine: Engine
    seed: int
    quick: bool

    @cached_property
    def grid(self) -> Grid:
        """About 223,000 voxels, or 27,000."""
        return Grid(ellipsoid(SHAPES[self.quick], 0.787), AFFINE)

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """Smooth noise of the smallest group, ``(n_voxels, 20)``."""
        nothing = np.zeros(self.grid.n_voxels, dtype=np.float32)
        maps = simulate_maps(self.grid, nothing, N_SUBJECTS[0], fwhm_mm=FWHM_MM, seed=self.seed)
        return np.array(list(maps)).T

    @cached_property
    def null_maps(self) -> Array:
        """Maps of t under sign flips, as many as the engine takes at a time."""
        room = self.engine.empty_maps(MOST_MAPS, self.grid.n_voxels)
        units, form = self.units(self.values), one_sample(self.values)
        for first in range(0, len(room), SHUFFLE_TILE):
            part = room[first : first + SHUFFLE_TILE]
            rows = self.rows(form, range(first, first + len(part)))
            wanted = range(len(part))
            self.engine.sweep(rows, units, form, shuffles=wanted, exceeding=None, maps=part)
        return room

    def units(self, values: NDArray[np.float32]) -> Units:
        """Lay out data for sign flips."""
        return self.engine.unit_tiles(values, np.empty((values.shape[1], 0)))

    def rows(self, form: Form, shuffles: range) -> Array:
        """Flip the signs of a constant."""
        n = int(form.df) + 1
        plan = Shuffles(n, "ise", 10_000, seed=self.seed)
        return self.engine.shuffled_rows(plan, np.full((1, n), n**-0.5), shuffles)


def one_sample(values: NDArray[np.float32]) -> Form:
    """Return the form of a test of the mean."""
    return Form(1, 0, values.shape[1] - 1.0, is_f=False)


def timed(engine: Engine, work: Callable[[], object]) -> list[float]:
    """Return the seconds of repetitions, after one that compiles and fills caches."""
    work()
    seconds = [engine.elapsed(work)]
    while sum(seconds) < LONG_ENOUGH and len(seconds) < MOST_REPEATS:
        seconds.append(engine.elapsed(work))
    return seconds


def rates(brain: Brain) -> Iterator[Rate]:
    """Time every workload, the machine's best first; yield what was measured, or why not."""
    best: dict[str, float] = {}
    for name, prepare in WORKLOADS.items():
        try:
            rate = _rate(name, brain.engine, prepare(brain), best)
        except MemoryError as error:
            rate = Rate(name, left_out=shorten(f"not enough memory: {error}", 500))
        except Exception as error:
            rate = Rate(name, error=one_line(error))
        yield rate


def _rate(name: str, engine: Engine, workload: Workload, best: dict[str, float]) -> Rate:
    """Time a workload, and set it beside the best of its unit."""
    seconds = median(timed(engine, workload.work))
    unit = "FLOP/s" if workload.operations else "B/s"
    per_second = (workload.operations or workload.traffic) / seconds
    if name in BEST:
        best[unit] = per_second
    fraction = per_second / best[unit] if unit in best else None
    return Rate(name, seconds, workload.items, per_second, unit, fraction)


def _copy(brain: Brain) -> Workload:
    """Copy an array that caches do not hold."""
    engine, source = brain.engine, np.ones(COPIED[brain.quick], dtype=np.float32)
    given, taken = engine.to_device(source), engine.to_device(source.copy())

    def work() -> None:
        taken[...] = given

    return Workload(work, 1, 2 * source.nbytes)


def _product(brain: Brain) -> Workload:
    """Multiply square matrices."""
    engine, size = brain.engine, MULTIPLIED[brain.quick]
    matrix = np.random.default_rng(brain.seed).standard_normal((size, size), dtype=np.float32)
    left, right = engine.to_device(matrix), engine.to_device(matrix.T.copy())
    return Workload(lambda: left @ right, 1, 3 * matrix.nbytes, 2 * size**3)


def _regress(brain: Brain) -> Workload:
    """Fit the mean of 20 maps."""
    values, engine = brain.values, brain.engine
    n_voxels, n = values.shape
    basis = np.full((n, 1), n**-0.5)
    return Workload(lambda: engine.regress(values, basis), 1, values.nbytes + 16 * n_voxels)


def _t_to_z(brain: Brain) -> Workload:
    """Turn a map of t into z."""
    engine = brain.engine
    t = engine.to_host(brain.null_maps[0]).astype(np.float64)
    return Workload(lambda: engine.t_to_z(t, 19.0), 1, 2 * t.nbytes)


def _shuffled_rows(brain: Brain) -> Workload:
    """Draw a tile of permutations of 1,000 subjects."""
    n = N_SUBJECTS[-1]
    plan = Shuffles(n, "both", 10_000, seed=brain.seed)
    columns = np.random.default_rng(brain.seed).standard_normal((1, n))
    tile = range(SHUFFLE_TILE)
    return Workload(
        lambda: brain.engine.shuffled_rows(plan, columns, tile),
        SHUFFLE_TILE,
        4 * SHUFFLE_TILE * n,
    )


def _sweep(n_subjects: int) -> Callable[[Brain], Workload]:
    """Return what prepares a sweep of a tile of shuffles of a group."""

    def prepare(brain: Brain) -> Workload:
        engine, n_voxels = brain.engine, brain.grid.n_voxels
        values = _noise(brain, n_subjects)
        units, form = brain.units(values), one_sample(values)
        del values
        rows = brain.rows(form, range(SHUFFLE_TILE))
        observed = engine.values_of(rows[0], units, form)
        exceeding = engine.exceedances(observed, form, two_sided=True)

        def work() -> None:
            shuffles = range(SHUFFLE_TILE)
            engine.sweep(rows, units, form, shuffles=shuffles, exceeding=exceeding, maps=None)

        size = n_subjects * n_voxels
        return Workload(work, SHUFFLE_TILE, 4 * size, 2 * SHUFFLE_TILE * size)

    return prepare


def _noise(brain: Brain, n_subjects: int) -> NDArray[np.float32]:
    """Return maps of a group; those of large ones are rough, which a product does not mind.

    Raises
    ------
    MemoryError
        If host or device have not twice the room for the maps and their unit residuals.
    """
    if n_subjects == N_SUBJECTS[0]:
        return brain.values
    shape = n_subjects, brain.grid.n_voxels
    needed = 4 * 4 * shape[0] * shape[1]
    free = min(brain.engine.free_bytes(), resolve("cpu").free_bytes())
    if needed > free:
        raise MemoryError(f"{needed / 2**30:.1f} GiB are needed, {free / 2**30:.1f} GiB are free")
    return np.random.default_rng(brain.seed).standard_normal(shape, dtype=np.float32).T


def _label(brain: Brain) -> Workload:
    """Label the voxels above the threshold."""
    lattice, engine = brain.grid.lattice(26), brain.engine
    above = engine.to_host(brain.null_maps[:N_LABELLED]) >= HEIGHT
    return Workload(lambda: engine.label(above, lattice), len(above), 5 * above.size)


def _cluster_peaks(brain: Brain) -> Workload:
    """Find the largest clusters."""
    lattice, maps = brain.grid.lattice(26), brain.null_maps
    return Workload(
        lambda: brain.engine.cluster_peaks(maps, HEIGHT, lattice, above=False),
        len(maps),
        4 * len(maps) * lattice.n_voxels,
    )


def _tfce_peaks(brain: Brain) -> Workload:
    """Find the largest scores of TFCE."""
    lattice, maps = brain.grid.lattice(26), brain.null_maps
    return Workload(
        lambda: brain.engine.tfce_peaks(maps, lattice, 0.5, 2.0, 0.0),
        len(maps),
        4 * len(maps) * lattice.n_voxels,
    )


BEST: dict[str, Callable[[Brain], Workload]] = {
    "copy": _copy,
    "product of square matrices": _product,
}
"""What the machine can do at best, and what prepares it."""
WORKLOADS: dict[str, Callable[[Brain], Workload]] = {
    **BEST,
    f"regress, {N_SUBJECTS[0]} maps of the host": _regress,
    "t_to_z, a map of the host": _t_to_z,
    f"shuffled_rows, {N_SUBJECTS[-1]} subjects": _shuffled_rows,
    **{f"sweep, {n} subjects": _sweep(n) for n in N_SUBJECTS},
    "label, maps of the host": _label,
    "cluster_peaks": _cluster_peaks,
    "tfce_peaks": _tfce_peaks,
}
"""What is timed, and what prepares it."""
