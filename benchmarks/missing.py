"""What it costs that voxels lack subjects: many patterns of missing data beside complete data."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from nilearn.datasets import load_mni152_brain_mask
from numpy.typing import NDArray
from scipy import stats

from benchmarks.harness import Check, check_below, time_interleaved
from benchmarks.null_group import null_group
from benchmarks.records import Result, Row, describe_environment
from benchmarks.second_level import ellipsoid
from gpustats import Design, Maps, fit, images, permutation_test
from gpustats.engines import SHUFFLE_TILE
from gpustats.patterns import find_patterns
from gpustats.shuffles import Shuffles

N_SUBJECTS, N_PATTERNS = 200, 500
LARGEST_SHARE = 0.2
"""Of the subjects, that a pattern lacks."""
MOST_TIMES_COMPLETE = 3.0
Z_ERROR = 1e-4
N_CHECKED = 3
"""Shuffles that are computed plainly, too."""
CHECKED_VOXELS = 400

PACKAGES = ("gpustats", "numpy", "scipy", "numba")


class Effort(NamedTuple):
    """Say how much is done."""

    n_shuffles: int
    repeats: int
    n_patterns: int


FULL = Effort(1000, 5, N_PATTERNS)
QUICK = Effort(100, 1, 20)


def run(*, quick: bool) -> Result:
    """Simulate a group with and without missing data, compare with plain refits, then measure.

    Parameters
    ----------
    quick
        Take a coarse grid, few patterns and few shuffles: to see that everything runs.
    """
    effort = QUICK if quick else FULL
    grid = ellipsoid() if quick else images.read_mask(load_mni152_brain_mask(resolution=2))
    complete = null_group(grid, N_SUBJECTS)
    lacking = with_missing(complete, effort.n_patterns)
    checks = [compare(lacking, name, design) for name, design in designs().items()]
    rows = [
        *(whole_tests(complete, lacking, name, effort) for name in designs()),
        fits(complete, lacking, effort),
        product(complete, lacking, effort),
    ]
    workload = (
        f"{grid.n_voxels:,} voxels of smooth noise, {N_SUBJECTS} subjects, {effort.n_patterns} "
        f"patterns of up to {LARGEST_SHARE:.0%} missing subjects; {effort.n_shuffles:,} shuffles; "
        f"medians of {effort.repeats} interleaved repeats"
    )
    return Result("missing", workload, describe_environment(PACKAGES), tuple(checks), tuple(rows))


def designs() -> dict[str, tuple[Design, str]]:
    """Return designs and the contrasts to test: each meets missing data in its own way."""
    group = np.arange(N_SUBJECTS) % 2 * 1.0
    groups = pd.DataFrame({"a": group, "b": 1 - group})
    age = np.random.default_rng(1).normal(40, 9, N_SUBJECTS)
    labels = {"subject_label": [str(number) for number in range(N_SUBJECTS)]}
    mean = pd.DataFrame({"mean": np.ones(N_SUBJECTS)})
    return {
        "sign flips of the mean": (Design(mean.assign(**labels)), "mean"),
        "two groups": (Design(groups.assign(**labels)), "a - b"),
        "two groups and a covariate": (Design(groups.assign(age=age, **labels)), "a - b"),
    }


def with_missing(maps: Maps, n_patterns: int) -> Maps:
    """Take subjects out, other ones in each of equally large regions; the first lacks none."""
    rng = np.random.default_rng(2)
    values = maps.values.copy(order="F")
    regions = np.array_split(np.arange(maps.n_voxels), n_patterns)
    for region in regions[1:]:
        n_missing = rng.integers(1, int(LARGEST_SHARE * maps.n_subjects))
        for subject in rng.choice(maps.n_subjects, n_missing, replace=False):
            values[region, subject] = np.nan
    return Maps(values, maps.grid, maps.subjects, missing=find_patterns(values))


def compare(maps: Maps, name: str, design: tuple[Design, str]) -> Check:
    """Check maxima of the first shuffles against plain refits, at some voxels."""
    keep = np.zeros(maps.n_voxels, dtype=bool)
    keep[:: -(-maps.n_voxels // CHECKED_VOXELS)] = True
    few = maps.subset(keep, "not checked")
    found = permutation_test(few, *design, n_permutations=N_CHECKED, device="cpu")["voxelwise"]
    errors = "ise" if len(design[0].columns) == 1 else "ee"
    order, signs = Shuffles(maps.n_subjects, errors, N_CHECKED).draw(range(N_CHECKED))
    weights = design[0].contrast(design[1]).weights[0]
    plain = [
        max(abs(plain_z(y, design[0].matrix, weights, *shuffle)) for y in few.values.astype(float))
        for shuffle in zip(order, signs, strict=True)
    ]
    error = float(np.abs(found.null_maxima / plain - 1).max())
    return check_below(f"relative error of the largest z, {name}", error, Z_ERROR)


def plain_z(
    y: NDArray[np.float64],
    matrix: NDArray[np.float64],
    weights: NDArray[np.float64],
    order: NDArray[np.int32],
    signs: NDArray[np.int8],
) -> float:
    """Refit the model to a voxel's residuals, shuffled by the cycles of those who are here."""
    here = np.flatnonzero(np.isfinite(y))
    met = order[here]
    while (away := ~np.isin(met, here)).any():
        met[away] = order[met[away]]
    x = matrix[here]
    nuisance = x @ np.linalg.svd(weights[np.newaxis])[2][1:].T
    residuals = y[here] - nuisance @ (np.linalg.pinv(nuisance) @ y[here])
    shuffled = np.empty_like(residuals)
    shuffled[np.searchsorted(here, met)] = signs[here] * residuals
    inverse = np.linalg.pinv(x)
    left = shuffled - x @ (inverse @ shuffled)
    df = len(here) - x.shape[1]
    estimator = weights @ inverse
    t = estimator @ shuffled / np.sqrt(left @ left / df * (estimator @ estimator))
    return float(np.sign(t) * stats.norm.isf(stats.t.sf(abs(t), df)))


def whole_tests(complete: Maps, lacking: Maps, name: str, effort: Effort) -> Row:
    """Time whole tests of the largest z, with and without missing data."""
    design = designs()[name]
    options = {"n_permutations": effort.n_shuffles, "device": "cpu"}
    seconds = time_interleaved(
        {
            "lacking": partial(permutation_test, lacking, *design, **options),
            "complete": partial(permutation_test, complete, *design, **options),
        },
        effort.repeats,
    )
    what = f"maximum z, {name}, a test"
    target = 1 / MOST_TIMES_COMPLETE
    return Row(what, "s", seconds["lacking"], seconds["complete"], "complete data", target)


def fits(complete: Maps, lacking: Maps, effort: Effort) -> Row:
    """Time a fit of two groups and a covariate."""
    design, contrast = designs()["two groups and a covariate"]
    seconds = time_interleaved(
        {
            "lacking": lambda: fit(lacking, design, device="cpu").contrast(contrast).z,
            "complete": lambda: fit(complete, design, device="cpu").contrast(contrast).z,
        },
        effort.repeats,
    )
    return Row("z map of a fit", "s", seconds["lacking"], seconds["complete"], "complete data")


def product(complete: Maps, lacking: Maps, effort: Effort) -> Row:
    """Time whole tests of two groups beside the matrix product that complete data would need."""
    design = designs()["two groups"]
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((SHUFFLE_TILE, N_SUBJECTS), dtype=np.float32)
    data = complete.values.T
    products = np.empty((SHUFFLE_TILE, complete.n_voxels), dtype=np.float32)
    n_products = -(-effort.n_shuffles // SHUFFLE_TILE)
    options = {"n_permutations": effort.n_shuffles, "device": "cpu"}
    seconds = time_interleaved(
        {
            "test": partial(permutation_test, lacking, *design, **options),
            "np.matmul": lambda: [np.matmul(rows, data, out=products) for _ in range(n_products)],
        },
        effort.repeats,
    )
    what = "maximum z, two groups, a test"
    return Row(what, "s", seconds["test"], seconds["np.matmul"], "np.matmul")
