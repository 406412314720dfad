"""The CUDA engine where voxels and subjects do not meet their neighbours: check, then time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks import voxelwise
from benchmarks.gpu_clock import Case, host_copy, plain_products
from benchmarks.gpu_data import SEED, Data
from benchmarks.harness import Check, check_below
from gpustats import Design, Maps
from gpustats.engines import SHUFFLE_TILE, Array, Engine, Regression
from gpustats.shuffles import Shuffles

Found: TypeAlias = Iterator[Check | Case]
"""Checks, each before the cases that it is for."""

FIT_ERROR = 1e-11
"""Relative to the largest number."""
Z_ERROR = 1e-9
Z_ERROR_FLOAT32 = 1e-6
"""Relative where z is larger than 1."""
SAME = 0.5
"""Counts of what differs must be smaller."""
BLOCK = 2
"""Subjects of a block where blocks are exchanged."""
F_MAPS = 8


def of_group(data: Data, n_subjects: int) -> Found:
    """Check and time what depends on the number of subjects."""
    yield from draws(data, n_subjects)
    maps = data.group(n_subjects)
    yield from fits(data, maps)
    yield from products(data, maps, voxelwise.mean_design(n_subjects), "mean")


def draws(data: Data, n_subjects: int) -> Found:
    """Draw a tile of shuffles of one column."""
    column = np.random.default_rng(SEED).standard_normal((1, n_subjects))
    blocks = np.arange(n_subjects) // BLOCK
    rows = 4.0 * SHUFFLE_TILE * n_subjects
    plans = {
        "sign flips": Shuffles(n_subjects, "ise", 10_000),
        "permutations": Shuffles(n_subjects, "ee", 10_000, column.T),
        "permutations of blocks": Shuffles(n_subjects, "ee", 10_000, column.T, blocks, "whole"),
    }
    traffic = {
        "sign flips": {"shuffles_words": rows / 32, "shuffles_signs": rows / 4},
        "permutations": {"shuffles_words": 2 * rows, "shuffles_order": 3 * rows},
        "permutations of blocks": {"shuffles_blocks": (1 + 1 / BLOCK) * rows},
    }
    for name, plan in plans.items():
        what = f"{name} of {n_subjects:,} subjects"

        def draw(engine: Engine, plan: Shuffles = plan) -> Array:
            return engine.shuffled_rows(plan, column, range(SHUFFLE_TILE))

        differing = np.sum(data.engine.to_host(draw(data.engine)) != draw(data.cpu))
        yield check_below(f"differing rows of {what}", float(differing), SAME)
        yield Case(
            f"rows of {what}",
            "a shuffle",
            SHUFFLE_TILE,
            lambda draw=draw: draw(data.engine),
            rows,
            kernels=traffic[name] | {"shuffles_rows": 2.25 * rows},
        )


def fits(data: Data, maps: Maps) -> Found:
    """Fit the mean, form its contrast, and lay out residuals."""
    n_voxels, n = maps.values.shape
    basis = np.full((n, 1), n**-0.5)
    few = data.few_voxels_of(maps).values
    ours, theirs = (engine.regress(few, basis) for engine in (data.engine, data.cpu))
    yield check_below(f"error of a fit, {n:,} subjects", misfit(data, ours, theirs), FIT_ERROR)
    stack, from_host = 4.0 * n * n_voxels, host_copy(data.sizes.copied_bytes)
    yield Case(
        f"fit of the mean, {n:,} maps of the host",
        "a map",
        n,
        lambda: data.engine.regress(maps.values, basis),
        stack,
        against=from_host,
        kernels={
            "t_statistic_project": stack + 8 * n_voxels,
            "t_statistic_residual_ss": stack + 16 * n_voxels,
        },
    )
    yield Case(
        f"residuals in tiles, {n:,} maps of the host",
        "a map",
        n,
        lambda: data.engine.unit_tiles(maps.values, basis[:, :0]),
        stack,
        against=from_host,
        kernels={"t_statistic_unit": 2 * stack},
    )


def misfit(data: Data, ours: Regression, theirs: Regression) -> float:
    """Return the largest difference of two fits, relative to what is fitted."""
    pairs = zip(map(data.engine.to_host, ours), theirs, strict=True)
    return max(
        float(np.abs(found - wanted).max() / np.abs(wanted).max()) for found, wanted in pairs
    )


def products(data: Data, maps: Maps, design: Design, what: str) -> Found:
    """Sweep a tile of shuffles: largest values and counts."""
    n_voxels, n = maps.values.shape
    what = f"{what}, {n:,} subjects"
    yield from compare(data, data.few_voxels_of(maps), design, what)
    job = voxelwise.prepare(maps, design, data.engine)
    rows = job.rows(range(SHUFFLE_TILE))
    plain = plain_products(rows, job.units)
    n_products = float(rows.shape[0] * rows.shape[1])
    yield Case(
        f"largest t and counts, {what}",
        "a shuffle",
        SHUFFLE_TILE,
        lambda: sweep(job, rows),
        operations=2.0 * n_products * n * n_voxels,
        against=plain,
        kernels={"t_statistic_peaks": (4 * n_products + 20) * n_voxels},
    )
    yield Case(
        f"t of shuffle 0, {what}",
        "a map",
        1,
        lambda: data.engine.values_of(rows[0], job.units, job.form),
        4.0 * n * n_voxels,
        kernels={"t_statistic_values": (4 * rows.shape[1] + 4) * n_voxels},
    )


def compare(data: Data, few: Maps, design: Design, what: str) -> Iterator[Check]:
    """Check maxima, counts and maps of a tile of shuffles."""
    ours, theirs = (voxelwise.prepare(few, design, engine) for engine in (data.engine, data.cpu))
    tile = range(SHUFFLE_TILE)
    error = float(np.abs(ours.sweep(tile) / theirs.sweep(tile) - 1).max())
    yield check_below(f"relative error of the largest t, {what}", error, voxelwise.T_ERROR)
    counts = data.engine.to_host(ours.exceeding.counts)
    miscounted = float(np.mean(counts != theirs.exceeding.counts))
    name = f"share of voxels with another count, {what}"
    yield check_below(name, miscounted, voxelwise.COUNT_ERROR)
    found, wanted = (np.array(null_maps(job, few.n_voxels)) for job in (ours, theirs))
    error = float((np.abs(found - wanted) / np.maximum(np.abs(wanted), 1)).max())
    yield check_below(f"error of maps of t, {what}", error, voxelwise.T_ERROR)


def null_maps(job: voxelwise.Job, n_voxels: int) -> NDArray[np.float32]:
    """Return the maps of t of the first shuffles, on the host."""
    maps = job.engine.empty_maps(SHUFFLE_TILE, n_voxels)
    job.null_maps(maps)
    return job.engine.to_host(maps)


def sweep(job: voxelwise.Job, rows: Array, maps: Array | None = None) -> None:
    """Compute a tile of shuffles whose rows are drawn already."""
    job.engine.sweep(
        rows,
        job.units,
        job.form,
        shuffles=range(SHUFFLE_TILE if maps is None else len(maps)),
        exceeding=job.exceeding,
        maps=maps,
    )


def with_maps(data: Data) -> Found:
    """Sweep a tile of shuffles and keep its maps, as clusters and TFCE need them."""
    maps = data.simulated
    n_voxels, n = maps.values.shape
    design = voxelwise.mean_design(n)
    yield from compare(data, data.few_voxels_of(maps), design, f"{n:,} simulated subjects")
    job = voxelwise.prepare(maps, design, data.engine)
    rows, room = job.rows(range(SHUFFLE_TILE)), data.engine.empty_maps(SHUFFLE_TILE, n_voxels)
    yield Case(
        f"largest t, counts and maps, {n:,} subjects",
        "a shuffle",
        len(room),
        lambda: sweep(job, rows, room),
        operations=2.0 * len(room) * n * n_voxels,
        against=plain_products(rows, job.units),
        kernels={"t_statistic_peaks": (8 * len(room) + 20) * n_voxels},
    )


def with_nuisance(data: Data) -> Found:
    """Sweep with nuisance columns, which takes as many more rows."""
    n = data.sizes.nuisance_subjects
    design = voxelwise.nuisance_design(n)
    yield from products(data, data.group(n), design, f"{voxelwise.N_NUISANCE} nuisance columns")


def z_maps(data: Data) -> Found:
    """Form a contrast of a fit, and turn maps of t and F into z."""
    engine, values = data.engine, data.simulated.values
    n_voxels, n = values.shape
    basis, estimator, df = np.full((n, 1), n**-0.5), np.full(1, n**-0.5), n - 1.0
    regression = engine.regress(values, basis)
    t = engine.contrast(regression, estimator, df)[2]
    expected = data.cpu.contrast(data.cpu.regress(values, basis), estimator, df)[2]
    yield check_below("error of t", float(np.abs(t - expected).max()), FIT_ERROR * np.abs(t).max())
    f = np.square(t)
    for what, ours, theirs in (
        ("t", engine.t_to_z(t, df), data.cpu.t_to_z(t, df)),
        ("F", engine.f_to_z(f, 2, df), data.cpu.f_to_z(f, 2, df)),
    ):
        error = float(np.abs(ours - theirs).max())
        yield check_below(f"largest difference of z of {what}", error, Z_ERROR)
    from_host, doubles = host_copy(data.sizes.copied_bytes), 8.0 * n_voxels
    for what, work, passed, kernel, moved in (
        (
            "contrast",
            lambda: engine.contrast(regression, estimator, df),
            3,
            "t_statistic_contrast",
            5,
        ),
        ("t to z, map of the host", lambda: engine.t_to_z(t, df), 2, "t_to_z", 2),
        ("F to z, map of the host", lambda: engine.f_to_z(f, 2, df), 2, "f_to_z", 2),
    ):
        kernels = {kernel: moved * doubles}
        yield Case(what, "a map", 1, work, passed * doubles, against=from_host, kernels=kernels)
    yield from f_maps(data, f, df)


def f_maps(data: Data, f: NDArray[np.float64], df: float) -> Found:
    """Turn maps of F on the device into z, after a copy: they are overwritten."""
    import cupy

    maps = data.engine.to_device(np.tile(f.astype(np.float32), (F_MAPS, 1)))
    z = cupy.empty(maps.shape, dtype=np.float32)

    def work() -> None:
        cupy.copyto(z, maps)
        data.engine.f_maps_to_z(z, 2, df)

    work()
    wanted = data.cpu.f_to_z(f.astype(np.float32).astype(np.float64), 2, df)
    error = np.abs(data.engine.to_host(z[0]) - wanted) / np.maximum(np.abs(wanted), 1)
    yield check_below("error of z of F as float32", float(error.max()), Z_ERROR_FLOAT32)
    traffic = 2.0 * z.nbytes
    kernels = {"f_to_z_maps": traffic}
    yield Case("F to z and a copy", "a map", F_MAPS, work, 2 * traffic, kernels=kernels)
