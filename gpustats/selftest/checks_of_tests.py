"""Check of a whole permutation test, small enough to be done by definition."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gpustats.enhancements import ClusterExtent, ClusterMass, Voxelwise
from gpustats.inference import permutation_test
from gpustats.maps import Maps
from gpustats.selftest import plain
from gpustats.selftest.promises import Arrays, Check, Machine, Promise
from gpustats.selftest.sample import SIZES, Sample
from gpustats.shuffles import Shuffles
from gpustats.tfce import Tfce

PRODUCTS = Promise(1e-5)
"""Statistics formed of float32 products; p that differ at all differ by more."""

N_SHUFFLES = 30
HEIGHT = np.float32(2.0)
"""Cluster-forming threshold: t of few distinct values jumps over it, from 1.88 to 2.24."""
NEIGHBOURS = 26
STATISTICS = (
    Voxelwise(),
    ClusterExtent(connectivity=NEIGHBOURS, threshold_t=float(HEIGHT)),
    ClusterMass(connectivity=NEIGHBOURS, threshold_t=float(HEIGHT)),
    Tfce(connectivity=NEIGHBOURS),
)


def permutation_checks() -> Iterator[Check]:
    """Return the check of a test of the mean on maps of whole numbers: shuffles often tie."""
    yield Check("permutation_test", _tested, _tested_plain, PRODUCTS, PRODUCTS)


def _tested(machine: Machine, sample: Sample) -> Arrays:
    """Run the test; return null maxima and p, corrected and not, of each statistic."""
    inference = permutation_test(
        Maps(sample.wholes, sample.grid),
        statistics=STATISTICS,
        n_permutations=N_SHUFFLES,
        seed=sample.seed,
        uncorrected=True,
        device=machine.device,
    )
    return tuple(
        np.concatenate([outcome.null_maxima, outcome.p_corrected, outcome.p_uncorrected])
        for outcome in inference.outcomes
    )


def _tested_plain(sample: Sample) -> Arrays:
    """Flip, test and score shuffle by shuffle, and count what reaches the observed scores."""
    plan = Shuffles(SIZES.size, "ise", N_SHUFFLES, seed=sample.seed)
    _, signs = plan.draw(range(N_SHUFFLES))
    scores = np.array([_scores(sample, sample.wholes * one) for one in signs])
    maxima = scores.max(axis=2)
    limits = scores[0] - 1e-6 * np.maximum(scores[0], 1)
    corrected = (maxima[:, :, np.newaxis] >= limits).mean(axis=0)
    uncorrected = (scores >= limits).mean(axis=0)
    return tuple(map(np.concatenate, zip(maxima.T, corrected, uncorrected, strict=True)))


def _scores(sample: Sample, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the four scores of every voxel, those of its own side: ``(4, n_voxels)``."""
    one_sample = np.ones((SIZES.size, 1))
    _, _, t = plain.contrast(values, one_sample, np.ones(1))
    mask = sample.grid.mask
    sides = []
    for side in (t.astype(np.float32), -t.astype(np.float32)):
        extents, masses = plain.cluster_sums(side, HEIGHT, mask, NEIGHBOURS, above=False)
        enhanced = plain.tfce(side, mask, NEIGHBOURS, 0.5, 2.0, 0.0)
        sides.append(np.array([side, extents, masses / 2**24, enhanced], dtype=np.float64))
    return np.maximum(*sides)
