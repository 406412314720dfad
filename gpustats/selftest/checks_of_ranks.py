"""Check of ranked heights: what calibrates bounds on true discoveries."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gpustats.engines.scores import ScoreCounts, steps
from gpustats.selftest.promises import Arrays, Check, Machine, Promise
from gpustats.selftest.sample import Sample
from gpustats.significance import log10_p

LOGARITHMS = Promise(1e-12)
"""Heights are read from one table; logarithms of ranks may differ in their last digits."""


def rank_checks() -> Iterator[Check]:
    """Return the check of the largest height of a rank, and of counts of heights."""
    yield Check("rank_peaks", _rank_peaks, _rank_peaks_plain, LOGARITHMS, LOGARITHMS)


def _rank_peaks(machine: Machine, sample: Sample) -> Arrays:
    """Find the peak of every map, and count the maps whose height of a voxel reaches a limit."""
    engine = machine.engine
    zeros = engine.to_device(np.zeros(sample.grid.n_voxels, dtype=np.int64))
    reaching = ScoreCounts(engine.to_device(_limits(sample)), zeros)
    found = engine.rank_peaks(engine.to_device(sample.maps), _heights(), reaching)
    peaks, levels = map(engine.to_host, found)
    return peaks, levels, engine.to_host(reaching.counts)


def _rank_peaks_plain(sample: Sample) -> Arrays:
    """Rank the voxels of every map by the steps that they reach."""
    places = np.searchsorted(steps(), sample.maps, side="right") - 1
    heights = np.where(places >= 0, _heights()[places], 0.0)
    peaks, levels = np.zeros((2, len(heights)))
    for number, of_map in enumerate(heights):
        distinct, counts = np.unique(of_map[of_map > 0], return_counts=True)
        sums = distinct + np.log10(np.cumsum(counts[::-1])[::-1])
        if sums.size:
            best = np.flatnonzero(sums == sums.max())[-1]
            peaks[number], levels[number] = sums[best], distinct[best]
    return peaks, levels, (heights >= _limits(sample)).sum(axis=0)


def _heights() -> NDArray[np.float64]:
    """Return the height of every step: -log10 of the p of z."""
    return log10_p(steps(), two_sided=True)


def _limits(sample: Sample) -> NDArray[np.float64]:
    """Return a limit for every voxel: heights of steps, so that they tie, and some infinite."""
    limits = sample.rng(9).choice(_heights()[:20_000], sample.grid.n_voxels)
    limits[::7] = np.inf
    return limits
