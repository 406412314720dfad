"""What a contrast says at every voxel, given the sufficient statistics of a fit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from gpustats import effect_sizes
from gpustats.contrasts import Contrast, DesignError
from gpustats.design import Design
from gpustats.engines import Engine, Regression, resolve
from gpustats.spaces import Grid


@dataclass(frozen=True, eq=False)
class ContrastMaps:
    """Hold what a contrast says at every voxel.

    Parameters
    ----------
    contrast
        The hypothesis.
    grid
        Which voxels these are.
    df
        Degrees of freedom of the residuals; ``(n_voxels,)`` where voxels lack subjects.
    dimension
        Rank of the contrast: the first degrees of freedom of F, 1 for t.
    effect
        For t, ``(n_voxels,)``: the estimate, in the units of the maps. For F,
        ``(n_rows, n_voxels)``: the estimates whitened by their covariance, as nilearn gives them,
        so that ``F = (effect**2).sum(0) / dimension / variance``.
    variance
        ``(n_voxels,)``: for t the variance of the estimate, for F that of the residuals.
    statistic
        ``(n_voxels,)``: t or F.
    device
        Where z is computed.
    n
        ``(n_voxels,)``: how many subjects have data, where voxels lack some; None elsewhere.
    dropped
        How many voxels of the fit are not in ``grid`` because the contrast is not estimable there.
    unscaled_variance
        c'(X'X)⁻c of a t contrast, ``(n_voxels,)`` where voxels lack subjects; None where it is
        not known: of F, and of maps from the file of a permutation test of an earlier version.
    slopes
        The columns with weights whose coefficients are slopes (`effect_sizes.slopes_of`).
    """

    contrast: Contrast
    grid: Grid
    df: int | NDArray[np.int64]
    dimension: int
    effect: NDArray[np.float64]
    variance: NDArray[np.float64]
    statistic: NDArray[np.float64]
    device: str = "auto"
    n: NDArray[np.int64] | None = None
    dropped: int = 0
    unscaled_variance: float | NDArray[np.float64] | None = None
    slopes: tuple[str, ...] = ()

    @cached_property
    def z(self) -> NDArray[np.float64]:
        """The z value with the same upper tail, ``(n_voxels,)``, without any cap.

        That of F is negative where F is below its median: F has one tail.
        """
        if isinstance(self.df, int):
            return self._to_z(self.statistic, self.df)
        z = np.empty_like(self.statistic)
        for df in np.unique(self.df).tolist():
            alike = self.df == df
            z[alike] = self._to_z(self.statistic[alike], df)
        return z

    def _to_z(self, statistic: NDArray[np.float64], df: int) -> NDArray[np.float64]:
        """Turn the statistic of voxels of equal degrees of freedom into z."""
        engine = resolve(self.device)
        if self.contrast.statistic == "t":
            return engine.t_to_z(statistic, df)
        return engine.f_to_z(statistic, self.dimension, df)

    @cached_property
    def p(self) -> NDArray[np.float64]:
        """One-sided p of the upper tail, ``(n_voxels,)``; 0 only below 1e-308 (z above 37.5)."""
        return np.asarray(ndtr(-self.z))

    @property
    def cohen_d(self) -> NDArray[np.float64]:
        """Cohen's d of a contrast of means, ``(n_voxels,)``.

        Raises
        ------
        DesignError
            For F, for slopes, and where c'(X'X)⁻c is not known.
        """
        return effect_sizes.cohen_d(self.statistic, self._unscaled_variance("Cohen's d"))

    @property
    def hedges_g(self) -> NDArray[np.float64]:
        """Hedges' g, d without its bias, ``(n_voxels,)``; raises what ``cohen_d`` does."""
        scale = self._unscaled_variance("Hedges' g")
        return effect_sizes.hedges_g(self.statistic, self.df, scale)

    @property
    def hedges_g_variance(self) -> NDArray[np.float64]:
        """Sampling variance of g, ``(n_voxels,)``; raises what ``cohen_d`` does."""
        scale = self._unscaled_variance("Hedges' g")
        return effect_sizes.hedges_g_variance(self.hedges_g, self.df, scale)

    @property
    def partial_r(self) -> NDArray[np.float64]:
        """Partial correlation of maps and contrast, ``(n_voxels,)``.

        Raises
        ------
        DesignError
            For F, which has no sign.
        """
        self._require_t("partial r", "partial_r_square")
        return effect_sizes.partial_r(self.statistic, self.df)

    @property
    def partial_r_square(self) -> NDArray[np.float64]:
        """Share of variance explained beyond the other regressors, ``(n_voxels,)``.

        For F this is partial eta squared.
        """
        f = self.statistic if self.contrast.statistic == "F" else np.square(self.statistic)
        return effect_sizes.partial_r_square(f, self.dimension, self.df)

    def confidence_interval(
        self, level: float = 0.95
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lower and the upper limits of the effect, ``(n_voxels,)`` each.

        Raises
        ------
        DesignError
            For F, which has several effects.
        ValueError
            If the level is not between 0 and 1.
        """
        self._require_t("a confidence interval", "a t contrast of each row")
        return effect_sizes.confidence_interval(self.effect, self.variance, self.df, level)

    def _unscaled_variance(self, wanted: str) -> float | NDArray[np.float64]:
        """Return c'(X'X)⁻c, or say why a standardised difference of means makes no sense."""
        self._require_t(wanted, "partial_r_square")
        if self.slopes:
            raise DesignError(
                f"{wanted} of contrast {self.contrast.name!r} would depend on the unit of "
                f"{', '.join(self.slopes)}: it is defined for columns that are 1 throughout or "
                "take two values that differ by 1; take partial_r"
            )
        if self.unscaled_variance is None:
            raise DesignError(
                f"{wanted} of contrast {self.contrast.name!r} needs the design, which a file of "
                "results of an earlier version does not hold; take fit(maps, design).contrast(...)"
            )
        return self.unscaled_variance

    def _require_t(self, wanted: str, instead: str) -> None:
        """Refuse what only t contrasts have."""
        if self.contrast.statistic == "F":
            raise DesignError(
                f"{wanted} is defined for t contrasts, {self.contrast.name!r} is an F contrast; "
                f"take {instead}"
            )


class ContrastArrays(NamedTuple):
    """What `ContrastMaps` holds, of some voxels."""

    effect: NDArray[np.float64]
    variance: NDArray[np.float64]
    statistic: NDArray[np.float64]
    dimension: int
    unscaled_variance: float | None = None


def contrast_of(
    engine: Engine, design: Design, regression: Regression, contrast: Contrast
) -> ContrastArrays:
    """Test a contrast at the voxels of a regression."""
    estimator = design.estimator(contrast)
    if contrast.statistic == "t":
        tested = engine.contrast(regression, estimator[0], design.df)
        return ContrastArrays(*tested, 1, float(estimator[0] @ estimator[0]))
    coordinates, residual_ss = map(engine.to_host, regression)
    mean_square = residual_ss / design.df
    whitener, rank = _polar_factor(estimator)
    effect = whitener @ coordinates
    f = np.einsum("kv,kv->v", effect, effect) / (rank * mean_square)
    return ContrastArrays(effect, mean_square, f, rank)


def r_square(engine: Engine, design: Design, regression: Regression) -> NDArray[np.float64]:
    """Return the share of variance explained at the voxels of a regression."""
    explained, residual_ss = map(engine.to_host, regression)
    constant = design.basis.sum(axis=0)
    if np.isclose(constant @ constant, design.n_subjects):
        unit = constant / np.linalg.norm(constant)
        explained = explained - np.outer(unit, unit @ explained)
    model_ss = np.einsum("kv,kv->v", explained, explained)
    return np.asarray(model_ss / (model_ss + residual_ss))


def _polar_factor(estimator: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return W with W'W the projection on the rows of A, W = (AA')^(+1/2) A, and A's rank."""
    u, s, vt = np.linalg.svd(estimator, full_matrices=False)
    rank = int(np.count_nonzero(s > 1e-10 * s[0]))
    return u[:, :rank] @ vt[:rank], rank
