"""Laws for the upper tail of null maxima: fitted by moments, tested with Anderson-Darling's A²."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

Float64Array = NDArray[np.float64]

PERCENTILES = range(75, 100)
"""Where a tail may begin, in percent of the null maxima."""
MIN_EXCEEDANCES = 25
"""How many null maxima a tail must have."""
# With fewer exceedances than this beyond, a fitted upper end is an accident of the sample.
GUARDED_EXCEEDANCES = 10
# 499 replicates know a p of 0.05 to within 0.01. The law of A² has settled at a few hundred
# exceedances, so replicates of 500 stand for larger samples too.
N_REPLICATES = 499
MAX_REPLICATE_SIZE = 500
# From this shape on the density rises towards its end, which is no tail; a skew above this one
# is made by a few outliers.
MAX_SHAPE = 1.0
MAX_SKEW = 4.0
# Nearer to 0 than this, the laws equal their limits: exponential and normal.
MIN_SHAPE = 1e-9
MIN_SKEW = 1e-3


@dataclass(frozen=True)
class GeneralisedPareto:
    """P(T >= t) = (1 - shape (t - threshold) / scale)^(1 / shape), by two moments.

    A positive shape has an upper end, from which p would be 0 although a null value may yet get
    there. So the law is followed only while ten of the exceedances are expected beyond; from there
    on its hazard stays what it is: an exponential tail, which joins without a jump and has no end.
    """

    threshold: float
    n_exceedances: int
    shape: float
    scale: float

    def log_survival(self, values: Float64Array) -> Float64Array:
        """Return the log probability that an exceedance reaches values above the threshold."""
        distance = np.asarray(values - self.threshold)
        return _pareto_log_survival(distance, self.n_exceedances, self.shape, self.scale)


@dataclass(frozen=True)
class PearsonIII:
    """A shifted gamma distribution, by three moments of all null maxima; its tail alone is used.

    Without skew it is the normal distribution. That also stands in for a negative skew, which
    would have an upper end.
    """

    threshold: float
    n_exceedances: int
    mean: float
    sd: float
    skew: float

    def log_survival(self, values: Float64Array) -> Float64Array:
        """Return the log probability that an exceedance reaches values above the threshold."""
        return _pearson_log_survival(values, self.threshold, self.mean, self.sd, self.skew)


Law: TypeAlias = GeneralisedPareto | PearsonIII


@dataclass(frozen=True)
class TailFit:
    """An accepted law, the Anderson-Darling statistic of its exceedances, and that one's p."""

    law: Law
    anderson_darling: float
    anderson_darling_p: float


class Candidate(NamedTuple):
    """A fitted law, its A², and the A² of samples of the law to which it was fitted again."""

    law: Law
    anderson_darling: Float64Array
    replicates: Float64Array


def pareto_candidates(maxima: Float64Array) -> Iterator[Candidate]:
    """Yield generalised Pareto laws of sorted maxima above higher and higher thresholds."""
    for threshold, exceedances in _thresholds(maxima):
        distance = exceedances - threshold
        shape, scale = _pareto_moments(distance).ravel().tolist()
        if shape >= MAX_SHAPE:
            continue
        size = min(distance.size, MAX_REPLICATE_SIZE)
        # the seed is fixed: the same maxima give the same p values
        uniform = np.random.default_rng(0).random((N_REPLICATES, size))
        samples = np.sort(np.asarray(-special.boxcox(1 - uniform, shape), np.float64))
        law = GeneralisedPareto(threshold, distance.size, shape, scale)
        yield Candidate(
            law,
            _anderson_darling(law.log_survival(exceedances)),
            _anderson_darling(_pareto_log_survival(samples, size, *_pareto_moments(samples))),
        )


def pearson_candidates(maxima: Float64Array) -> Iterator[Candidate]:
    """Yield the Pearson III law of sorted maxima, if enough of them exceed the first threshold."""
    for threshold, exceedances in islice(_thresholds(maxima), 1):
        moments = _pearson_moments(maxima).ravel().tolist()
        if moments[-1] > MAX_SKEW:
            continue
        size = min(maxima.size, MAX_REPLICATE_SIZE * 100 // (100 - PERCENTILES.start))
        shape = 4 / moments[-1] ** 2
        samples = np.sort(np.random.default_rng(0).gamma(shape, size=(N_REPLICATES, size)))
        first = size * PERCENTILES.start // 100
        between = samples[:, first - 1 : first + 1].mean(axis=1, keepdims=True)
        refitted = _pearson_moments(samples)
        law = PearsonIII(threshold, exceedances.size, *moments)
        yield Candidate(
            law,
            _anderson_darling(law.log_survival(exceedances)),
            _anderson_darling(_pearson_log_survival(samples[:, first:], between, *refitted)),
        )


def _thresholds(maxima: Float64Array) -> Iterator[tuple[float, Float64Array]]:
    """Yield thresholds at percentiles of sorted maxima, and the maxima that exceed them.

    A threshold is half way between two values: no value ties with it, and whole numbers are fitted
    with a correction for continuity.
    """
    ranks = maxima.size * np.array(PERCENTILES) // 100
    ranks = ranks[maxima.size - ranks >= MIN_EXCEEDANCES]
    for first in np.unique(np.searchsorted(maxima, maxima[ranks - 1], side="right")):
        if maxima.size - first >= MIN_EXCEEDANCES:
            yield float(maxima[first - 1 : first + 1].mean()), maxima[first:]


def _anderson_darling(log_survival: Float64Array) -> Float64Array:
    """Return A² of samples in ascending order, along the last axis."""
    n = log_survival.shape[-1]
    with np.errstate(divide="ignore"):
        log_cumulative = np.log(-np.expm1(log_survival))
    weights = (2 * np.arange(n) + 1) / n
    return np.asarray(-n - (log_cumulative + log_survival[..., ::-1]) @ weights)


def _pareto_moments(distance: Float64Array) -> Float64Array:
    """Return shape and scale of samples along the last axis, which is kept with length 1."""
    mean = distance.mean(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        ratio = mean**2 / distance.var(axis=-1, ddof=1, keepdims=True)
    return np.stack([(ratio - 1) / 2, mean * (ratio + 1) / 2])


def _pareto_log_survival(
    distance: Float64Array, n_exceedances: int, shape: Any, scale: Any
) -> Float64Array:
    """Return the log survival at distances above the threshold, with the guard of its end."""
    shape = np.where(np.abs(shape) < MIN_SHAPE, MIN_SHAPE, shape)
    guarded = GUARDED_EXCEEDANCES / n_exceedances
    followed = np.where(shape > 0, -scale * special.boxcox(guarded, shape), np.inf)
    hazard = guarded**-shape / scale
    law = np.log1p(-shape * np.minimum(distance, followed) / scale) / shape
    with np.errstate(invalid="ignore"):  # an infinite distance that is followed for ever
        beyond = np.fmax(distance - followed, 0)
    return np.asarray(law - hazard * beyond)


def _pearson_moments(samples: Float64Array) -> Float64Array:
    """Return mean, sd and skew along the last axis, which is kept with length 1."""
    mean = samples.mean(axis=-1, keepdims=True)
    sd = samples.std(axis=-1, keepdims=True)
    skew = (((samples - mean) / sd) ** 3).mean(axis=-1, keepdims=True)
    return np.stack([mean, sd, np.maximum(skew, MIN_SKEW)])


def _pearson_log_survival(
    values: Float64Array, threshold: Any, mean: Any, sd: Any, skew: Any
) -> Float64Array:
    """Return the log survival given that the threshold is exceeded."""
    kappa, theta = 4 / skew**2, skew * sd / 2
    location = mean - kappa * theta
    with np.errstate(divide="ignore"):
        reached, exceeded = (
            np.log(special.gammaincc(kappa, np.maximum((height - location) / theta, 0)))
            for height in (values, threshold)
        )
    return np.asarray(np.minimum(reached - exceeded, 0))  # never above, as rounding might have it
