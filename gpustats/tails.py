"""Turn the null maxima of a permutation test into p values and thresholds, by one rule."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpustats import tail_laws

Float64Array = NDArray[np.float64]
TailMethod: TypeAlias = Literal["gpd", "gamma", "none"]

EMPIRICAL_FROM_P = 0.10
"""Counting is precise enough for p values from here up, whatever was fitted."""
ACCEPTED_ABOVE_P = 0.05
"""The Anderson-Darling p that a fit must exceed."""


def counts_to_p(counts: ArrayLike, n_shuffles: int) -> Float64Array:
    """Turn counts of shuffles that reach the observed values into p values.

    Parameters
    ----------
    counts
        Any shape: how many shuffles reach the value, the identity included.
    n_shuffles
        How many shuffles there are, the identity included.

    Returns
    -------
    ndarray
        counts / n_shuffles, the shape of ``counts``, never 0.

    Raises
    ------
    ValueError
        If a count is not from 1 to ``n_shuffles``.
    """
    counts = np.asarray(counts)
    if counts.size and not (counts.min() >= 1 and counts.max() <= n_shuffles):
        raise ValueError(
            f"counts must be from 1 (the identity reaches every value) to {n_shuffles} shuffles, "
            f"got {counts.min()} to {counts.max()}"
        )
    return np.asarray(counts / n_shuffles, np.float64)


def empirical_p(
    observed: ArrayLike, null: ArrayLike, *, tolerance: ArrayLike = 0.0
) -> Float64Array:
    """Compare observed values with the null maxima: the one rule for every p value.

    p is the number of shuffles with ``null >= observed - tolerance`` divided by the number of
    shuffles. Both include the identity, which reaches every value by definition, so p is never 0
    and the test is exact [1]_.

    Parameters
    ----------
    observed
        Any shape; compared as float64.
    null
        ``(n_shuffles,)`` maxima, the identity's first; that one's value is not looked at.
    tolerance
        How far below the observed value a null value still ties with it, in the units of the
        statistic: a number, or the shape of ``observed``.

    Returns
    -------
    ndarray
        float64, the shape of ``observed``; NaN where that is NaN.

    Raises
    ------
    ValueError
        If ``null`` is empty, not 1-D or has NaN, or a tolerance is negative or not finite.

    References
    ----------
    .. [1] Phipson & Smyth (2010), Stat. Appl. Genet. Mol. Biol. 9, 39.

    Examples
    --------
    >>> empirical_p([2.0, 3.5, 9.0], [9.0, 1.0, 2.0, 3.0])
    array([0.75, 0.25, 0.25])
    """
    null = _checked_null(null)
    reached = _lowered(observed, tolerance)
    below = np.searchsorted(np.sort(null[1:]), reached, side="left")
    return np.where(np.isnan(reached), np.nan, counts_to_p(null.size - below, null.size))


def threshold_for(null: ArrayLike, alpha: float) -> float | None:
    """Find the height from which on values are significant, to draw it or print it.

    Parameters
    ----------
    null
        ``(n_shuffles,)`` maxima, the identity's first.
    alpha
        Family-wise error rate in (0, 1).

    Returns
    -------
    float or None
        The smallest float64 whose `empirical_p` is at most ``alpha``, just above a null maximum:
        round it up for whole numbers, and add a tolerance to it where one is used. None if no
        value can pass, as when ``n_shuffles < 1 / alpha``.

    Raises
    ------
    ValueError
        If ``alpha`` is not in (0, 1), or ``null`` is empty, not 1-D or has NaN.

    Examples
    --------
    >>> np.ceil(threshold_for([16, *range(19)], alpha=0.10))
    np.float64(18.0)
    """
    null = _checked_null(null)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be an error rate in (0, 1), got {alpha!r}")
    # dividing as counts_to_p does: 29 of 100 shuffles are at most 0.29, which 0.29 * 100 denies
    allowed = np.searchsorted(np.arange(1, null.size + 1) / null.size, alpha, side="right")
    if allowed == 0:
        return None
    threshold = float(np.nextafter(np.sort(null[1:])[-allowed], np.inf))
    return threshold if threshold < np.inf else None


@dataclass(frozen=True, eq=False)
class Tail:
    """Null maxima and the law of their upper tail: p values that can be below 1 / n_shuffles.

    Attributes
    ----------
    method
        What was asked for.
    null
        ``(n_shuffles,)`` maxima, the identity's first.
    fit
        The accepted fit, or None: then every p is empirical.
    reason
        Why there is no fit; empty if there is one.
    """

    method: TailMethod
    null: Float64Array
    fit: tail_laws.TailFit | None
    reason: str

    @property
    def smallest_p(self) -> float:
        """The floor of p: n_shuffles^-2 with a fit, 1 / n_shuffles without.

        Counting reaches 1 / n_shuffles; the square is as many decades again, and what a fit says
        about still rarer values is less than its own error.
        """
        return float(self.null.size) ** (-1 if self.fit is None else -2)

    def p(
        self, observed: ArrayLike, *, tolerance: ArrayLike = 0.0
    ) -> tuple[Float64Array, NDArray[np.bool_]]:
        """Return p values, and which of them come from the fit instead of from counting.

        Parameters
        ----------
        observed, tolerance
            As in `empirical_p`, which also says what is an error.

        Returns
        -------
        p : ndarray
            float64, the shape of ``observed``; never rises with it, never below `smallest_p`.
        fitted : ndarray
            Where the empirical p is below 0.10 and the value above the law's threshold: p is then
            the share of shuffles above the threshold times the law's survival.
        """
        reached = _lowered(observed, tolerance)
        p = empirical_p(reached, self.null)
        if self.fit is None:
            return p, np.zeros(p.shape, np.bool_)
        law = self.fit.law
        share = float(counts_to_p(1 + law.n_exceedances, self.null.size))
        fitted = np.asarray((p < EMPIRICAL_FROM_P) & (reached > law.threshold))
        survival = np.exp(law.log_survival(reached[fitted]))
        p[fitted] = np.clip(share * survival, self.smallest_p, min(share, EMPIRICAL_FROM_P))
        return p, fitted

    def describe(self) -> dict[str, Any]:
        """Return the method, the fit and its goodness as plain numbers and words, for JSON."""
        return {
            "method": self.method,
            "n_shuffles": self.null.size,
            "empirical_from_p": EMPIRICAL_FROM_P,
            "smallest_p": self.smallest_p,
            "fit": None if self.fit is None else asdict(self.fit),
            "reason": self.reason,
        }


def fit_tail(null: ArrayLike, method: TailMethod) -> Tail:
    """Fit the upper tail of the null maxima, so that few shuffles resolve small p values.

    Parameters
    ----------
    null
        ``(n_shuffles,)`` maxima, the identity's first. That one takes no part in the fit: a true
        effect would widen the very tail that it is compared with.
    method
        ``"gpd"``: a generalised Pareto law above the 75th percentile, by moments [1]_ [2]_. While
        its Anderson-Darling p is not above 0.05, the threshold moves up by one percent, as long as
        25 null maxima exceed it. ``"gamma"``: a Pearson III law by moments [1]_, whose tail above
        the 75th percentile must pass the same test. ``"none"``: empirical p values only.

    Returns
    -------
    Tail
        Without a fit, and with the reason, if none was acceptable.

    Raises
    ------
    ValueError
        If the method is unknown, or ``null`` is empty, not 1-D or has NaN.

    Notes
    -----
    The Anderson-Darling p is from a parametric bootstrap of fixed seed: published tables [3]_
    hold for maximum likelihood, not for moments. Fitted p values are estimates, which may be too
    small; the guarantee of `empirical_p` does not extend to them.

    References
    ----------
    .. [1] Winkler et al. (2016), NeuroImage 141, 502-516.
    .. [2] Hosking & Wallis (1987), Technometrics 29, 339-349.
    .. [3] Choulakian & Stephens (2001), Technometrics 43, 478-484.

    Examples
    --------
    >>> null = np.random.default_rng(1).gumbel(size=2000)
    >>> p, fitted = fit_tail(null, "gpd").p([0.0, 9.0])
    >>> fitted
    array([False,  True])
    """
    if method not in FITTERS:
        raise ValueError(f"method must be one of {', '.join(FITTERS)}, got {method!r}")
    null = _checked_null(null)
    return Tail(method, null, *FITTERS[method](np.sort(null[1:])))


def _first_accepted(
    candidates: Callable[[Float64Array], Iterator[tail_laws.Candidate]], maxima: Float64Array
) -> tuple[tail_laws.TailFit | None, str]:
    """Return the first candidate that passes the test of its goodness, or None and why."""
    if not np.isfinite(maxima).all():
        return None, "some null maxima are infinite"
    n_rejected = 0
    for law, statistic, replicates in candidates(maxima):
        p = float(empirical_p(statistic, np.append(statistic, replicates)))
        if p > ACCEPTED_ABOVE_P:
            return tail_laws.TailFit(law, float(statistic), p), ""
        n_rejected += 1
    return None, (
        f"{n_rejected} laws of {tail_laws.MIN_EXCEEDANCES} or more null maxima were tried, none "
        f"has an Anderson-Darling p above {ACCEPTED_ABOVE_P}"
    )


FITTERS: dict[str, Callable[[Float64Array], tuple[tail_laws.TailFit | None, str]]] = {
    "gpd": partial(_first_accepted, tail_laws.pareto_candidates),
    "gamma": partial(_first_accepted, tail_laws.pearson_candidates),
    "none": lambda _: (None, "no fit was asked for"),
}


def _checked_null(null: ArrayLike) -> Float64Array:
    """Return the null maxima as float64."""
    null = np.asarray(null, np.float64)
    if null.ndim != 1 or null.size == 0 or np.isnan(null).any():
        raise ValueError(
            "null must be the maxima of one or more shuffles, (n_shuffles,) without NaN, got shape "
            f"{null.shape} with {np.count_nonzero(np.isnan(null))} NaN"
        )
    return null


def _lowered(observed: ArrayLike, tolerance: ArrayLike) -> Float64Array:
    """Return the heights that null values have to reach."""
    tolerance = np.asarray(tolerance, np.float64)
    if not ((tolerance >= 0) & (tolerance < np.inf)).all():
        raise ValueError(f"a tolerance must be finite and not negative, got {tolerance}")
    return np.asarray(np.asarray(observed, np.float64) - tolerance)
