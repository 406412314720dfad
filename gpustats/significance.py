"""p values as people read them: adjusted for the false discovery rate, and as -log10 p."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, ndtr

Float64Array = NDArray[np.float64]

LOG_2, LOG_10 = float(np.log(2.0)), float(np.log(10.0))


def upper_tail_p(z: ArrayLike, *, two_sided: bool = False) -> Float64Array:
    """Return p of the upper tail of z, or of both tails.

    Parameters
    ----------
    z
        Any shape.
    two_sided
        Whether negative z counts as much as positive.

    Returns
    -------
    ndarray
        p, 0 only below 1e-308.
    """
    z = np.asarray(z, dtype=np.float64)
    return np.asarray(2 * ndtr(-np.abs(z)) if two_sided else ndtr(-z))


def log10_p(z: ArrayLike, *, two_sided: bool = False) -> Float64Array:
    """Return -log10 p, which keeps its digits where p is too small for a float64.

    Parameters
    ----------
    z
        Any shape.
    two_sided
        Whether p is that of both tails.

    Returns
    -------
    ndarray
        -log10 p >= 0, finite for any finite z.

    Examples
    --------
    >>> log10_p([1.6448536, 40.0]).round(3)
    array([  1.301, 349.437])
    """
    z = np.asarray(z, dtype=np.float64)
    log_p = LOG_2 + log_ndtr(-np.abs(z)) if two_sided else log_ndtr(-z)
    return np.asarray(np.maximum(-log_p / LOG_10, 0.0))


def fdr_q(z: ArrayLike, *, two_sided: bool = False) -> Float64Array:
    """Adjust the p of z values for the false discovery rate.

    Parameters
    ----------
    z
        ``(n_tests,)``; of the tested voxels only.
    two_sided
        Whether p is that of both tails.

    Returns
    -------
    ndarray
        ``(n_tests,)``: q, the smallest rate at which Benjamini and Hochberg's procedure [1]_
        rejects the hypothesis.

    Raises
    ------
    ValueError
        If there is not one dimension, or a value is NaN.

    References
    ----------
    .. [1] Benjamini & Hochberg (1995), J. R. Stat. Soc. B 57, 289-300.

    Examples
    --------
    >>> fdr_q([3.0, 0.0, 2.5]).round(4)
    array([0.004 , 0.5   , 0.0093])
    """
    p = upper_tail_p(z, two_sided=two_sided)
    if p.ndim != 1 or np.isnan(p).any():
        raise ValueError(
            f"z must be the values of the tested voxels in one dimension, none of them NaN; got "
            f"shape {p.shape}, {np.count_nonzero(np.isnan(p))} NaN"
        )
    order = np.argsort(p)[::-1]
    scaled = p[order] * (p.size / np.arange(p.size, 0, -1))
    q = np.empty_like(p)
    q[order] = np.minimum.accumulate(np.minimum(scaled, 1.0))
    return q
