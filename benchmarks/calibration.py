"""How often permutation tests reject where there is nothing to find.

Smooth noise is tested at a family-wise error rate of 0.05. With exchangeable data and a statistic
without ties the number of rejections is binomial; counts must lie in its central interval, at a
level shared among all cells of the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binom

from benchmarks.null_group import FWHM_VOXELS, null_group, subject_labels
from benchmarks.records import Rate, Result, describe_environment
from gpustats import (
    ClusterExtent,
    ClusterMass,
    Design,
    Grid,
    Tfce,
    Voxelwise,
    permutation_test,
)
from gpustats.enhancements import Statistic

N_DATA_SETS, N_DATA_SETS_QUICK = 1000, 20
N_SHUFFLES = 200
ALPHA = 0.05
MISJUDGED = 0.01
"""Probability that any cell is outside although all tests are right."""

WIDTH = 16
THRESHOLD_Z = 2.3
SEED = 30
PACKAGES = ("gpustats", "numpy", "scipy", "numba")

STATISTICS: dict[str, Statistic] = {
    "voxels": Voxelwise(),
    "cluster extent": ClusterExtent(connectivity=26, threshold_z=THRESHOLD_Z),
    "cluster mass": ClusterMass(connectivity=26, threshold_z=THRESHOLD_Z),
    "TFCE": Tfce(),
}
DISCRETE = "cluster extent"
"""Largest extents tie, which makes a test reject less often."""


class Study(NamedTuple):
    """Say what is tested: a design, a contrast, and what the nuisance does to each subject."""

    design: Design
    contrast: str
    nuisance: NDArray[np.float64]


def one_sample(rng: np.random.Generator) -> Study:
    """Test the mean of 20 subjects."""
    del rng
    return Study(Design(pd.DataFrame({"mean": np.ones(20)})), "mean", np.zeros(20))


def covariate(rng: np.random.Generator) -> Study:
    """Test a covariate of 24 subjects among nuisance that goes with it and shows in the maps."""
    columns = rng.standard_normal((24, 4))
    columns[:, 0] += 0.7 * columns[:, 1]
    table = pd.DataFrame(columns, columns=["tested", "age", "motion", "volume"])
    return Study(labelled(table, intercept=True), "tested", 1 + columns[:, 1:].sum(axis=1))


def unequal_groups(rng: np.random.Generator) -> Study:
    """Test the difference of groups of 8 and 16 subjects."""
    del rng
    patient = np.arange(24) < 8
    table = pd.DataFrame({"patients": patient, "controls": ~patient}, dtype=float)
    return Study(labelled(table), "patients - controls", np.ones(24))


def labelled(table: pd.DataFrame, *, intercept: bool = False) -> Design:
    """Make a design of a table, and name its subjects."""
    return Design(table.assign(subject_label=subject_labels(len(table))), intercept=intercept)


STUDIES: dict[str, Callable[[np.random.Generator], Study]] = {
    "mean of 20": one_sample,
    "covariate with nuisance, 24": covariate,
    "groups of 8 and 16": unequal_groups,
}


def run(*, quick: bool) -> Result:
    """Test data sets of noise, and count those in which a test found something.

    Parameters
    ----------
    quick
        Take few data sets: to see that everything runs.
    """
    n_data_sets = N_DATA_SETS_QUICK if quick else N_DATA_SETS
    grid = ball()
    rates = [
        Rate(f"{study}: {name}", count, n_data_sets, allowed(name, n_data_sets))
        for number, study in enumerate(STUDIES)
        for name, count in rejections(grid, number, n_data_sets).items()
    ]
    workload = (
        f"Family-wise errors at {ALPHA:g} in {n_data_sets:,} data sets of smooth noise "
        f"({grid.n_voxels:,} voxels, FWHM {FWHM_VOXELS:g} voxels), {N_SHUFFLES} shuffles each, "
        f"two-sided, clusters at z = {THRESHOLD_Z:g}; allowed is the exact binomial interval at "
        f"level 1 - {MISJUDGED:g}/{len(rates)}, for extents its upper limit"
    )
    return Result("calibration", workload, describe_environment(PACKAGES), rates=tuple(rates))


def ball() -> Grid:
    """Return a ball of voxels, the mask of the data sets."""
    squares = (np.arange(WIDTH) - (WIDTH - 1) / 2) ** 2
    radii = squares[:, None, None] + squares[:, None] + squares
    return Grid(radii <= (WIDTH / 2) ** 2, np.eye(4))


def allowed(statistic: str, n_data_sets: int) -> tuple[int, int]:
    """Return the least and the largest number of rejections that pass."""
    tail = MISJUDGED / (len(STUDIES) * len(STATISTICS)) / 2
    least, most = binom.ppf(tail, n_data_sets, ALPHA), binom.isf(tail, n_data_sets, ALPHA)
    return 0 if statistic == DISCRETE else int(least), int(most)


def rejections(grid: Grid, study_number: int, n_data_sets: int) -> dict[str, int]:
    """Count by statistic the data sets of a study in which any voxel has p <= `ALPHA`."""
    study = list(STUDIES.values())[study_number]
    found: Counter[str] = Counter()
    for data_set in range(n_data_sets):
        seed = SEED + n_data_sets * study_number + data_set
        found.update(found_in(grid, study(np.random.default_rng(seed)), seed))
    return {name: found[name] for name in STATISTICS}


def found_in(grid: Grid, study: Study, seed: int) -> Sequence[str]:
    """Test one data set, and return the names of the statistics that found something."""
    noise = null_group(grid, study.design.n_subjects, seed)
    values = np.asfortranarray(noise.values + study.nuisance, dtype=np.float32)
    inference = permutation_test(
        replace(noise, values=values),
        study.design,
        study.contrast,
        statistics=tuple(STATISTICS.values()),
        n_permutations=N_SHUFFLES,
        seed=seed,
        device="cpu",
    )
    return [
        name
        for name, statistic in STATISTICS.items()
        if inference[statistic.name].p_corrected.min() <= ALPHA
    ]
