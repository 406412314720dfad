"""The general linear model at every voxel: one fit, any number of contrasts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr

from gpustats.cohort import Cohort
from gpustats.contrasts import Contrast, StatisticName
from gpustats.design import Design
from gpustats.engines import Engine, Regression, resolve
from gpustats.maps import Maps
from gpustats.memory import Load, Plan, for_fit, parse_bytes
from gpustats.spaces import Grid
from gpustats.stored import Sieve, StoredMaps

logger = logging.getLogger("gpustats")

UNEXPLAINED = "no residual variance"
"""Why voxels leave the mask that the design explains entirely."""
BLOCK_OF_RESIDUALS = 2**14
"""Voxels whose residuals are formed at a time."""
NO_VARIANCE = 2.0**-46
"""Residual share of a voxel's sum of squares that float32 rounding alone leaves: (2**-23)²."""


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
        Degrees of freedom of the residuals.
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
    """

    contrast: Contrast
    grid: Grid
    df: int
    dimension: int
    effect: NDArray[np.float64]
    variance: NDArray[np.float64]
    statistic: NDArray[np.float64]
    device: str = "auto"

    @cached_property
    def z(self) -> NDArray[np.float64]:
        """The z value with the same upper tail, ``(n_voxels,)``, without any cap.

        That of F is negative where F is below its median: F has one tail.
        """
        if self.contrast.statistic == "t":
            return resolve(self.device).t_to_z(self.statistic, self.df)
        return resolve(self.device).f_to_z(self.statistic, self.dimension, self.df)

    @cached_property
    def p(self) -> NDArray[np.float64]:
        """One-sided p of the upper tail, ``(n_voxels,)``; 0 only below 1e-308 (z above 37.5)."""
        return np.asarray(ndtr(-self.z))


@dataclass(frozen=True, eq=False)
class Fit:
    """Hold a fitted model: every contrast is a small product away.

    Parameters
    ----------
    maps
        The stack; its grid holds the voxels that were fitted.
    design
        The design, rows in the order of the maps.
    regression
        What is known of every voxel, on the device.
    device
        Where it was computed.
    plan
        How a store was read.
    """

    maps: Maps | StoredMaps
    design: Design
    regression: Regression
    device: str
    plan: Plan | None = None

    @property
    def engine(self) -> Engine:
        """The engine of the device."""
        return resolve(self.device)

    @cached_property
    def coordinates(self) -> NDArray[np.float64]:
        """Q'y, with Q the design's orthonormal basis, ``(rank, n_voxels)``."""
        return self.engine.to_host(self.regression.coordinates)

    @cached_property
    def residual_ss(self) -> NDArray[np.float64]:
        """Sum of squared residuals, ``(n_voxels,)``."""
        return self.engine.to_host(self.regression.residual_ss)

    @property
    def df(self) -> int:
        """Degrees of freedom of the residuals, n - rank(X)."""
        return self.design.df

    def contrast(
        self, definition: Any = None, *, statistic: StatisticName | None = None
    ) -> ContrastMaps:
        """Test a contrast at every voxel.

        Parameters
        ----------
        definition
            A `Contrast`, or what `Design.contrast` takes.
        statistic
            ``"t"`` or ``"F"``; t for one row and F for several by default.

        Raises
        ------
        DesignError
            If the contrast does not fit the design or is not estimable.

        Notes
        -----
        With X = Q S V' (singular values), c'b = c'V S^-1 Q'y, so that the estimate is a linear
        form of the coordinates Q'y and t = c'b / sqrt(s² c'(X'X)^- c) for any design, of full
        rank or not, for which the contrast is estimable.
        """
        contrast = self.design.contrast(definition, statistic=statistic)
        estimator = self.design.estimator(contrast)
        grid, df = self.maps.grid, self.df
        if contrast.statistic == "t":
            effect, variance, t = self.engine.contrast(self.regression, estimator[0], df)
            return ContrastMaps(contrast, grid, df, 1, effect, variance, t, self.device)
        mean_square = self.residual_ss / df
        whitener, rank = _polar_factor(estimator)
        effect = whitener @ self.coordinates
        f = np.einsum("kv,kv->v", effect, effect) / (rank * mean_square)
        return ContrastMaps(contrast, grid, df, rank, effect, mean_square, f, self.device)

    def predicted(self) -> NDArray[np.float32]:
        """Return the fitted values, ``(n_voxels, n_subjects)`` float32 like the maps."""
        shape = self.maps.n_voxels, self.maps.n_subjects
        predicted = np.empty(shape, dtype=np.float32, order="F")
        for subject, row in enumerate(self.design.basis):
            predicted[:, subject] = row @ self.coordinates
        return predicted

    def residuals(self) -> NDArray[np.float32]:
        """Return what the model leaves unexplained, ``(n_voxels, n_subjects)`` float32.

        Of a store too they are made in memory, all of them.
        """
        shape = self.maps.n_voxels, self.maps.n_subjects
        residuals = np.empty(shape, dtype=np.float32, order="F")
        for span, values in self.maps.blocks(BLOCK_OF_RESIDUALS):
            here = slice(span.start, span.stop)
            for subject, row in enumerate(self.design.basis):
                residuals[here, subject] = values[:, subject] - row @ self.coordinates[:, here]
        return residuals

    def r_square(self) -> NDArray[np.float64]:
        """Return the share of variance explained, ``(n_voxels,)``.

        Variance is taken about the mean where the design can express a constant, else about 0.
        """
        constant = self.design.basis.sum(axis=0)
        explained = self.coordinates
        if np.isclose(constant @ constant, self.design.n_subjects):
            unit = constant / np.linalg.norm(constant)
            explained = explained - np.outer(unit, unit @ explained)
        model_ss = np.einsum("kv,kv->v", explained, explained)
        return np.asarray(model_ss / (model_ss + self.residual_ss))


def fit(
    maps: Maps | StoredMaps | Cohort,
    design: Design | None = None,
    *,
    device: str = "auto",
    memory: str | int | None = None,
) -> Fit:
    """Fit a design to the maps by ordinary least squares.

    Parameters
    ----------
    maps
        One map per subject, in memory or in a store, which is then read once, block by block.
    design
        The regressors; rows are matched to the maps by subject label where both have labels,
        else by order. One column of ones (the group mean) by default.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
    memory
        What blocks of a store may take, ``"2G"`` or a number of bytes; half of what is free by
        default.

    Returns
    -------
    Fit
        Its mask is that of ``maps`` without the voxels that the design explains entirely, which
        have no residual variance to test against; their number is logged. Of a store, voxels
        that are missing in some map or equal in all leave it too.

    Raises
    ------
    DesignError
        If maps and rows do not match.
    ValueError
        If no voxel has residual variance.
    DeviceError
        If the device is not there.

    Examples
    --------
    >>> import nibabel as nib
    >>> from gpustats import load_maps
    >>> noise = np.random.default_rng(0).standard_normal((4, 5, 6, 10), dtype=np.float32)
    >>> fitted = fit(load_maps(nib.Nifti1Image(noise, np.eye(4))), device="cpu")
    >>> fitted.contrast("intercept").z.shape, fitted.df
    ((120,), 9)
    """
    engine = resolve(device)
    design = design_for(maps, design)
    if not isinstance(maps, Maps):
        return _fit_stored(maps, design, device, parse_bytes(memory))
    fitted = Fit(maps, design, engine.regress(maps.values, design.basis), device)
    model_ss = np.einsum("kv,kv->v", fitted.coordinates, fitted.coordinates)
    varies = fitted.residual_ss > NO_VARIANCE * (model_ss + fitted.residual_ss)
    if varies.all():
        return fitted
    if not varies.any():
        raise ValueError("the design explains every voxel entirely; no residual variance is left")
    logger.warning("%d voxels left the mask: %s", np.count_nonzero(~varies), UNEXPLAINED)
    maps = maps.subset(varies, UNEXPLAINED)
    return Fit(maps, design, engine.regress(maps.values, design.basis), device)


def _fit_stored(maps: StoredMaps | Cohort, design: Design, device: str, memory: int | None) -> Fit:
    """Fit a store block by block, sorting out the voxels that cannot be analysed on the way."""
    engine = resolve(device)
    plan = for_fit(engine, Load(maps.n_voxels, maps.n_subjects, design.rank), memory)
    logger.info("plan of the fit: %s", plan.describe())
    sieve = Sieve(maps)
    found: list[Regression] = []
    for span, values in sieve.whole.blocks(plan.block_voxels):
        usable = np.flatnonzero(sieve.usable(values))
        if usable.size == 0:
            continue
        taken = values if usable.size == len(values) else values.T.take(usable, axis=1).T
        coordinates, residual_ss = map(engine.to_host, engine.regress(taken, design.basis))
        model_ss = np.einsum("kv,kv->v", coordinates, coordinates)
        varies = residual_ss > NO_VARIANCE * (model_ss + residual_ss)
        sieve.keep(span.start + usable[varies], UNEXPLAINED, int(np.count_nonzero(~varies)))
        found.append(Regression(coordinates[:, varies], residual_ss[varies]))
        del values, taken
    kept = sieve.maps()
    joined = (np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
    # in the layout of a fit in memory: products would have other last bits
    arrays = (engine.to_device(np.ascontiguousarray(array)) for array in joined)
    return Fit(kept, design, Regression(*arrays), device, plan)


def design_for(maps: Maps | StoredMaps | Cohort, design: Design | None) -> Design:
    """Return a design, of the group mean by default, with its rows in the order of the maps.

    Raises
    ------
    DesignError
        If maps and rows do not match.
    """
    if design is None:
        design = group_mean(maps.n_subjects)
    return design.aligned(maps.subjects, maps.n_subjects)


def group_mean(n_subjects: int) -> Design:
    """Return the design of the one-sample test: a column ``intercept`` of ones."""
    return Design(pd.DataFrame({"intercept": np.ones(n_subjects)}))


def _polar_factor(estimator: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return W with W'W the projection on the rows of A, W = (AA')^(+1/2) A, and A's rank."""
    u, s, vt = np.linalg.svd(estimator, full_matrices=False)
    rank = int(np.count_nonzero(s > 1e-10 * s[0]))
    return u[:, :rank] @ vt[:rank], rank
