"""How a contrast splits a design into tested and nuisance, and what a shuffle does to both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpustats.contrasts import Contrast
from gpustats.design import Design
from gpustats.shuffles import Shuffles

Scheme: TypeAlias = Literal["freedman-lane", "dekker", "manly"]

IN_SPAN = 1e-8
"""Squared distance of the constant, of unit length, from a space that contains it."""

NO_REGRESSOR = 1e-8
"""Length of a shuffled regressor, of 1, that is left when the nuisance explains it."""


@dataclass(frozen=True, eq=False)
class Partition:
    """Split the columns' span of a design by a contrast.

    Parameters
    ----------
    tested
        ``(n_subjects, n_tested)``: orthonormal directions that the null hypothesis forbids;
        ``tested' y`` are the contrast's estimates up to a rotation (for one row, up to a
        positive factor).
    nuisance
        ``(n_subjects, n_nuisance)``: orthonormal basis of what the design can express under the
        null hypothesis.
    df
        Degrees of freedom of the residuals.

    Notes
    -----
    The reduced model of the hypothesis C b = 0 is {X b : C b = 0}, of which ``nuisance`` is a
    basis; ``tested`` is its orthogonal complement in the span of X. That is the partition of
    Beckmann, Jenkinson & Smith, with which the t of the effective regressor is the ordinary
    least squares t of the contrast [1]_.

    References
    ----------
    .. [1] Winkler et al. (2014), NeuroImage 92, 381-397, appendix A.
    """

    tested: NDArray[np.float64]
    nuisance: NDArray[np.float64]
    df: int

    @property
    def n_tested(self) -> int:
        """Rank of the contrast."""
        return int(self.tested.shape[1])

    @property
    def tests_the_mean(self) -> bool:
        """Whether a constant is expressed by the design, and forbidden by the null hypothesis.

        Permuting subjects would leave such an effect where it is: their signs must be flipped.
        """
        n = len(self.tested)
        constant = np.full(n, n**-0.5)
        inside = np.column_stack([self.tested, self.nuisance]).T @ constant
        under_null = self.nuisance.T @ constant
        return bool(inside @ inside > 1 - IN_SPAN and under_null @ under_null < 1 - IN_SPAN)


def partition(design: Design, contrast: Contrast) -> Partition:
    """Split a design by a contrast."""
    estimator = design.estimator(contrast)
    _, s, vt = np.linalg.svd(estimator, full_matrices=True)
    rank = int(np.count_nonzero(s > 1e-10 * s[0]))
    directions = vt[:rank].T
    if len(estimator) == 1:
        directions = estimator.T / np.linalg.norm(estimator)  # keeps the sign of the contrast
    return Partition(design.basis @ directions, design.basis @ vt[rank:].T, design.df)


@dataclass(frozen=True, eq=False)
class Projection:
    """Turn shuffles into rows of a product with the data.

    With ``E`` the data without ``removed``, each voxel scaled to unit length, and P a shuffle, the
    rows are such that the squared length of the tested ones' products is the share of variance
    that the tested columns explain, and that of the others is the share of the nuisance.

    Parameters
    ----------
    removed
        ``(n_subjects, k)``: orthonormal basis of what is taken out of the data beforehand.
    columns
        ``(n_rows, n_subjects)``: what is shuffled, the tested ones first.
    n_tested
        How many of them are tested ones.
    df
        Degrees of freedom of the residuals.
    refit
        What makes rows of shuffled columns, ``(b, n_rows, n_subjects)``, where they are not rows
        already.
    """

    removed: NDArray[np.float64]
    columns: NDArray[np.float64]
    n_tested: int
    df: int
    refit: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None

    @property
    def n_rows(self) -> int:
        """How many rows a shuffle has."""
        return len(self.columns)

    def rows(self, plan: Shuffles, indices: range) -> NDArray[np.float32]:
        """Return the rows of shuffles, ``(b, n_rows, n_subjects)``."""
        shuffled = plan.shuffled(self.columns, indices)
        rows = shuffled if self.refit is None else self.refit(shuffled)
        return np.ascontiguousarray(rows, dtype=np.float32)


def projection(parts: Partition, scheme: Scheme, fixed: NDArray[np.float64]) -> Projection:
    """Choose how shuffles meet the nuisance.

    Parameters
    ----------
    parts
        The partition of the design.
    scheme
        ``"freedman-lane"``: the residuals of the reduced model are shuffled and the whole model
        is fitted to them. ``"dekker"``: the tested regressors, free of the nuisance, are
        shuffled, which needs one product instead of one per column. ``"manly"``: the data are
        shuffled as they are. Without nuisance all three are one.
    fixed
        ``(n_subjects, k)``: orthonormal basis of the vectors that no shuffle changes,
        `Shuffles.unmoved`. Nuisance among them is fitted once and for all.

    Raises
    ------
    ValueError
        If ``scheme`` is none of these.

    References
    ----------
    .. [1] Freedman & Lane (1983), J. Bus. Econ. Stat. 1, 292-298.
    .. [2] Dekker, Krackhardt & Snijders (2007), Psychometrika 72, 563-581.
    .. [3] Manly (1997), Randomization, Bootstrap and Monte Carlo Methods in Biology.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    return SCHEMES[scheme](parts, fixed)


def _freedman_lane(parts: Partition, fixed: NDArray[np.float64]) -> Projection:
    """Shuffle residuals: the nuisance is taken out of the data, and fitted again."""
    return _refitted(parts, parts.nuisance, _split(parts.nuisance, fixed)[1])


def _manly(parts: Partition, fixed: NDArray[np.float64]) -> Projection:
    """Shuffle data; nuisance that shuffles cannot move is taken out at once."""
    still, moving = _split(parts.nuisance, fixed)
    return _refitted(parts, still, moving)


def _split(
    nuisance: NDArray[np.float64], fixed: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split the nuisance into what lies in ``fixed``, and what is orthogonal to that."""
    _, cosines, vt = np.linalg.svd(fixed.T @ nuisance)
    inside = np.zeros(len(vt), dtype=bool)
    inside[: cosines.size] = cosines > 1 - IN_SPAN
    return nuisance @ vt[inside].T, nuisance @ vt[~inside].T


def _refitted(
    parts: Partition, removed: NDArray[np.float64], nuisance: NDArray[np.float64]
) -> Projection:
    """Fit the tested columns and the nuisance to every shuffle of the data without ``removed``."""
    columns = np.column_stack([parts.tested, nuisance]).T
    return Projection(removed, columns, parts.n_tested, parts.df)


def _dekker(parts: Partition, fixed: NDArray[np.float64]) -> Projection:
    """Shuffle the tested regressors, then take the nuisance out of them."""
    del fixed

    def refit(shuffled: NDArray[np.float64]) -> NDArray[np.float64]:
        regressors = shuffled.swapaxes(1, 2)
        left = regressors - parts.nuisance @ (parts.nuisance.T @ regressors)
        basis, triangle = np.linalg.qr(left)
        diagonal = np.diagonal(triangle, axis1=1, axis2=2)
        kept = np.where(np.abs(diagonal) > NO_REGRESSOR, np.sign(diagonal), 0.0)
        return np.asarray((basis * kept[:, None, :]).swapaxes(1, 2))

    return Projection(parts.nuisance, parts.tested.T, parts.n_tested, parts.df, refit)


SCHEMES: dict[str, Callable[[Partition, NDArray[np.float64]], Projection]] = {
    "freedman-lane": _freedman_lane,
    "dekker": _dekker,
    "manly": _manly,
}
