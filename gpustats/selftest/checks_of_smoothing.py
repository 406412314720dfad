"""Check of smoothed variances: what turns t into pseudo-t."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import Exceedances, Smoothing
from gpustats.selftest.promises import Arrays, Check, Machine, Promise
from gpustats.selftest.sample import Sample
from gpustats.smoothing import Blur

SIGMA_MM = 5.0
DF = 19.0

ROUNDED = Promise(1e-5)
"""Variances are blurred in float32."""


def smoothing_checks() -> Iterator[Check]:
    """Return the check of pseudo-t, where t alone tells the variance and where it does not."""
    yield Check("pseudo_t", _pseudo_t, _pseudo_t_plain, ROUNDED, ROUNDED)


def _pseudo_t(machine: Machine, sample: Sample) -> Arrays:
    """Turn maps into pseudo-t twice, and count those above 0 at every voxel."""
    engine = machine.engine
    blur = Blur(sample.grid, SIGMA_MM)
    smoothing = Smoothing.prepared(blur, _sum_of_squares(sample), DF, engine.to_device)
    found: list[NDArray[np.float64]] = []
    for odds in (None, _odds(sample)):
        maps = [engine.to_device(one.copy()) for one in sample.maps]
        given = None if odds is None else [engine.to_device(one) for one in odds]
        counting = Exceedances(
            engine.to_device(np.zeros(sample.grid.n_voxels, dtype=np.float32)),
            False,
            engine.to_device(np.zeros(sample.grid.n_voxels, dtype=np.int64)),
        )
        peaks = engine.pseudo_t(maps, given, smoothing, counting)
        found += [np.array([engine.to_host(one) for one in maps])]
        found += [engine.to_host(one) for one in (peaks.upper, peaks.lower, counting.counts)]
    return tuple(found)


def _pseudo_t_plain(sample: Sample) -> Arrays:
    """Divide t by the root of blurred over own variance, by the definition of the blur."""
    blur = Blur(sample.grid, SIGMA_MM)
    found: list[NDArray[np.float64]] = []
    for odds in (sample.maps.astype(np.float64) ** 2 / DF, _odds(sample)):
        variances = _sum_of_squares(sample) / (1 + odds)
        blurred = np.array([blur(one) for one in variances])
        maps = sample.maps * np.sqrt(variances / blurred)
        found += [maps, maps.max(axis=1), -maps.min(axis=1), (maps >= 0).sum(axis=0)]
    return tuple(found)


def _sum_of_squares(sample: Sample) -> NDArray[np.float64]:
    """Return a sum of squares for every voxel."""
    return sample.rng(10).uniform(0.5, 3.0, sample.grid.n_voxels)


def _odds(sample: Sample) -> NDArray[np.float32]:
    """Return what rows explain, in relation to what they do not, at every voxel of every map."""
    return sample.rng(11).exponential(0.3, sample.maps.shape).astype(np.float32)
