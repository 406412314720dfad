"""What a shuffle of the largest t costs, with and without nuisance, and what z costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from benchmarks import peers
from benchmarks.harness import Check, check_below, time_interleaved
from benchmarks.null_group import Effort, each, limited, subject_labels
from benchmarks.records import Row
from gpustats import Design, Maps, fit
from gpustats.engines import (
    SHUFFLE_TILE,
    Array,
    Engine,
    Exceedances,
    Form,
    Units,
    resolve,
)
from gpustats.partition import Projection, partition, projection
from gpustats.shuffles import Shuffles

ENGINE = resolve("cpu")
FEW, MANY = 10, 60
"""Shuffles of a peer."""

SHUFFLE_LIMITS = {20: 0.2e-3, 100: 0.45e-3}
"""Seconds of a shuffle, by number of subjects."""
MATMUL_TARGETS = {20: 0.741, 100: 0.834}
"""1.35 and 1.2 times the product alone."""
NUISANCE_TARGET = 0.154
"""6.5 times as long as without nuisance."""
N_NUISANCE = 5
Z_LIMIT, Z_LIMIT_PER_SHUFFLE = 60e-3, 12e-3

N_CHECKED = 4
"""Shuffles that are computed plainly, too."""
T_ERROR = 1e-5
COUNT_ERROR = 1e-3
Z_ERROR = 1e-9
Z_CHECKED = 5.0
"""scipy's z goes through p."""


@dataclass(frozen=True)
class Job:
    """Hold a test of which a tile of shuffles is to be drawn and computed, two-sided."""

    engine: Engine
    plan: Shuffles
    rule: Projection
    form: Form
    units: Units
    exceeding: Exceedances

    def __call__(self) -> object:
        """Find maxima and counts of the first tile."""
        return self.sweep(range(SHUFFLE_TILE))

    def sweep(self, shuffles: range) -> NDArray[np.float32]:
        """Find the largest sizes of t of the first shuffles, and count."""
        peaks = self.engine.sweep(
            self.rows(range(SHUFFLE_TILE)),
            self.units,
            self.form,
            shuffles=shuffles,
            exceeding=self.exceeding,
            maps=None,
        )
        largest = np.maximum(*map(self.engine.to_host, peaks))
        return self.engine.statistic_of(largest, self.form)

    def rows(self, shuffles: range) -> Array:
        """Draw shuffles of a tile."""
        return self.engine.shuffled_rows(self.plan, self.rule.columns, shuffles)

    def null_maps(self, maps: Array, first: int = 0) -> None:
        """Write the maps of t of shuffles ``first``, ... of one tile, ``(b, n_voxels)``."""
        indices = range(first, first + len(maps))
        start = first % SHUFFLE_TILE
        shuffles = range(start, start + len(maps))
        self.engine.sweep(
            self.rows(indices),
            self.units,
            self.form,
            shuffles=shuffles,
            exceeding=None,
            maps=maps,
        )


def prepare(maps: Maps, design: Design, engine: Engine = ENGINE) -> Job:
    """Prepare the test of a design's first column."""
    parts = partition(design, design.contrast(design.columns[0]))
    plan = Shuffles(maps.n_subjects, "ise" if parts.tests_the_mean else "ee", design=design.matrix)
    rule = projection(parts, "freedman-lane", plan.unmoved)
    form = Form(rule.n_tested, rule.n_rows - rule.n_tested, float(rule.df), is_f=False)
    units = engine.unit_tiles(maps.values, rule.removed)
    rows = engine.shuffled_rows(plan, rule.columns, range(1))
    observed = engine.values_of(rows[0], units, form)
    exceeding = engine.exceedances(observed, form, two_sided=True)
    return Job(engine, plan, rule, form, units, exceeding)


def mean_design(n_subjects: int) -> Design:
    """Return the design of the one-sample test."""
    return Design(pd.DataFrame({"mean": np.ones(n_subjects)}))


def nuisance_design(n_subjects: int) -> Design:
    """Return a tested column, nuisance columns, and the intercept."""
    columns = np.random.default_rng(0).standard_normal((n_subjects, 1 + N_NUISANCE))
    names = ["tested", *(f"nuisance_{k}" for k in range(1, 1 + N_NUISANCE))]
    table = pd.DataFrame(columns, columns=names)
    return Design(table.assign(subject_label=subject_labels(n_subjects)), intercept=True)


def compare(maps: Maps, design: Design, what: str, engine: Engine = ENGINE) -> list[Check]:
    """Check maxima and counts of the first shuffles against plain refits."""
    job = prepare(maps, design, engine)
    largest = job.sweep(range(N_CHECKED))
    t = plain_t(maps, design, job.plan)
    error = float(np.abs(largest / np.abs(t).max(axis=1) - 1).max())
    reached = np.abs(t) >= np.abs(t[0]) - T_ERROR * np.maximum(np.abs(t[0]), 1)
    miscounted = float(np.mean(reached.sum(axis=0) != engine.to_host(job.exceeding.counts)))
    return [
        check_below(f"relative error of the largest t, {what}", error, T_ERROR),
        check_below(f"share of voxels with another count, {what}", miscounted, COUNT_ERROR),
    ]


def plain_t(maps: Maps, design: Design, plan: Shuffles) -> NDArray[np.float64]:
    """Refit the whole model to shuffled residuals, in float64: t of the first column."""
    matrix, data = design.matrix, maps.values.T.astype(np.float64)
    nuisance = matrix[:, 1:]
    residuals = data - nuisance @ (np.linalg.pinv(nuisance) @ data)
    inverse = np.linalg.pinv(matrix)
    t = np.empty((N_CHECKED, maps.n_voxels))
    for shuffle, (permutation, signs) in enumerate(zip(*plan.draw(range(N_CHECKED)), strict=True)):
        shuffled = np.empty_like(residuals)
        shuffled[permutation] = signs[:, None] * residuals
        estimates = inverse @ shuffled
        variance = ((shuffled - matrix @ estimates) ** 2).sum(axis=0) / design.df
        t[shuffle] = estimates[0] / np.sqrt(variance * (inverse[0] @ inverse[0]))
    return t


def largest_t(maps: Maps, n_subjects: int, effort: Effort) -> list[Row]:
    """Time the one-sample test against its matrix product, and against the peers."""
    data = maps.values.T[:n_subjects]
    group = Maps(maps.values[:, :n_subjects], maps.grid)
    job = prepare(group, mean_design(n_subjects))
    signs = job.rows(range(SHUFFLE_TILE))[:, 0]
    products = np.empty((SHUFFLE_TILE, maps.n_voxels), dtype=np.float32)
    seconds = time_interleaved(
        {"gpustats": job, "np.matmul": lambda: np.matmul(signs, data, out=products)},
        effort.repeats,
    )
    ours, product = (each(seconds[name], SHUFFLE_TILE) for name in ("gpustats", "np.matmul"))
    what = f"largest t and counts, {n_subjects} subjects, a shuffle"
    return [
        limited(what, ours, SHUFFLE_LIMITS[n_subjects]),
        Row(what, "s", ours, product, "np.matmul", MATMUL_TARGETS[n_subjects]),
        *(Row(what, "s", ours, theirs, peer) for peer, theirs in others(data, effort).items()),
    ]


def others(data: NDArray[np.float32], effort: Effort) -> dict[str, tuple[float, ...]]:
    """Time a shuffle of the one-sample test of ``(n, n_voxels)`` data in other packages."""
    makers = {"nilearn": peers.nilearn_shuffles, "MNE": peers.mne_shuffles}
    jobs = {peer: make(data) for peer, make in makers.items() if peers.is_installed(peer)}
    seconds = peers.per_shuffle(jobs, FEW, MANY, effort.long_repeats)
    return {peer: seconds.get(peer, ()) for peer in makers}


def with_nuisance(maps: Maps, effort: Effort) -> Row:
    """Time Freedman and Lane's scheme against the test without nuisance."""
    n = maps.n_subjects
    seconds = time_interleaved(
        {
            "with": prepare(maps, nuisance_design(n)),
            "without": prepare(maps, mean_design(n)),
        },
        effort.repeats,
    )
    return Row(
        f"Freedman-Lane, {N_NUISANCE} nuisance columns, {n} subjects, a shuffle",
        "s",
        each(seconds["with"], SHUFFLE_TILE),
        each(seconds["without"], SHUFFLE_TILE),
        "no nuisance",
        NUISANCE_TARGET,
    )


def compare_z(maps: Maps) -> Check:
    """Check z of t against scipy's."""
    t, df = fit(maps, device="cpu").contrast().statistic, maps.n_subjects - 1
    theirs = scipy_z(t, df)
    error = np.abs(ENGINE.t_to_z(t, df) - theirs)[np.abs(theirs) < Z_CHECKED].max()
    what = f"largest difference from scipy's z where |z| < {Z_CHECKED:g}"
    return check_below(what, float(error), Z_ERROR)


def z_maps(maps: Maps, effort: Effort) -> list[Row]:
    """Time the z of a whole map of t, and of F."""
    t, df = fit(maps, device="cpu").contrast().statistic, maps.n_subjects - 1
    f_maps = fit(maps, nuisance_design(maps.n_subjects), device="cpu").contrast(
        ["tested", "nuisance_1"]
    )
    seconds = time_interleaved(
        {
            "t": lambda: ENGINE.t_to_z(t, df),
            "scipy": lambda: scipy_z(t, df),
            "F": lambda: ENGINE.f_to_z(f_maps.statistic, 2, f_maps.df),
        },
        effort.repeats,
    )
    what = "t to z, a map"
    return [
        limited(what, seconds["t"], Z_LIMIT),
        limited(f"{what}, where every shuffle needs it", seconds["t"], Z_LIMIT_PER_SHUFFLE),
        Row(what, "s", seconds["t"], seconds["scipy"], "scipy"),
        limited("F to z, a map, which every shuffle needs", seconds["F"], Z_LIMIT_PER_SHUFFLE),
    ]


def scipy_z(t: NDArray[np.float64], df: int) -> NDArray[np.float64]:
    """Turn t into z through p."""
    return np.asarray(stats.norm.isf(stats.t.sf(t, df)))
