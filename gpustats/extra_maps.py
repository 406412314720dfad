"""The maps of a contrast that are written on request: effect sizes, intervals, q, -log10 p."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.special import ndtr

from gpustats.contrast_maps import ContrastMaps
from gpustats.significance import fdr_q, log10_p

logger = logging.getLogger("gpustats")


class ExtraMap(NamedTuple):
    """A map, what its file is called and what its values are."""

    entities: str
    values: NDArray[np.float64]
    description: str
    dtype: DTypeLike = np.float32


@dataclass(frozen=True)
class ExtraMaps:
    """Say which maps are wanted besides effect, variance, statistic, z and p.

    Parameters
    ----------
    effect_size
        d, g and the variance of g for means and differences of groups; partial r and R² for
        slopes; partial R² for F.
    confidence
        Level of the intervals of the effect, for t; none by default.
    q
        p adjusted for the false discovery rate.
    log10_p
        -log10 p, of every map of p.
    one_minus_p
        1 - p, of every map of p, as FSL writes it.
    """

    effect_size: bool = False
    confidence: float | None = None
    q: bool = False
    log10_p: bool = False
    one_minus_p: bool = False

    def of(self, maps: ContrastMaps, two_sided: bool) -> Iterator[ExtraMap]:
        """Make the maps of a contrast; q is of both tails where ``two_sided``."""
        if self.effect_size:
            yield from _effect_sizes(maps)
        if self.confidence is not None:
            yield from _interval(maps, self.confidence)
        if self.q:
            q = fdr_q(maps.z, two_sided=two_sided)
            tails = "two-sided" if two_sided else "one-sided, upper tail"
            # float32 would turn q below 1e-45 into 0
            yield ExtraMap("stat-q", q, f"p adjusted by Benjamini-Hochberg, {tails}", np.float64)
        if self.log10_p:
            yield ExtraMap("stat-log10p", log10_p(maps.z), "-log10 p, one-sided, upper tail")
        if self.one_minus_p:
            yield ExtraMap(
                "stat-oneminusp", ndtr(maps.z), "1 - p, one-sided, upper tail", np.float64
            )

    def of_p(self, p: NDArray[np.float64], label: str, description: str) -> Iterator[ExtraMap]:
        """Make the other forms of a map of p, which are 0 where p is 1."""
        if self.log10_p:
            # plus 0, because -0 would be written as such
            yield ExtraMap(f"stat-log10p_desc-{label}", 0 - np.log10(p), f"-log10 {description}")
        if self.one_minus_p:
            words = f"1 - {description}"
            yield ExtraMap(f"stat-oneminusp_desc-{label}", 1 - p, words, np.float64)


def _effect_sizes(maps: ContrastMaps) -> Iterator[ExtraMap]:
    """Make the maps of effect size that have a meaning for the contrast."""
    if maps.contrast.statistic == "F":
        yield ExtraMap("stat-partialr2", maps.partial_r_square, "partial R2 (partial eta squared)")
    elif maps.slopes:
        yield ExtraMap("stat-partialr", maps.partial_r, "partial correlation")
        yield ExtraMap("stat-partialr2", maps.partial_r_square, "partial R2")
    else:
        yield ExtraMap("stat-cohend", maps.cohen_d, "Cohen's d, t sqrt(c'(X'X)^-1 c)")
        yield ExtraMap("stat-hedgesg", maps.hedges_g, "Hedges' g, d without its bias")
        variance = maps.hedges_g_variance
        yield ExtraMap("stat-hedgesgvariance", variance, "sampling variance of Hedges' g")


def _interval(maps: ContrastMaps, level: float) -> Iterator[ExtraMap]:
    """Make the limits of the effect of a t contrast."""
    if maps.contrast.statistic == "F":
        logger.info("%r is an F contrast: no interval of an effect", maps.contrast.name)
        return
    limits = maps.confidence_interval(level)
    for side, values in zip(("lower", "upper"), limits, strict=True):
        words = f"{side} limit of the effect, {100 * level:g}% confidence at each voxel"
        yield ExtraMap(f"stat-effect_desc-{side}", values, words)
