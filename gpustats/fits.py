"""A fitted general linear model: what is known of every voxel, and contrasts of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpustats.contrast_maps import (
    ContrastArrays,
    ContrastMaps,
    contrast_of,
    r_square,
)
from gpustats.contrasts import DesignError, StatisticName
from gpustats.design import Design
from gpustats.effect_sizes import slopes_of
from gpustats.engines import Engine, Regression, resolve
from gpustats.maps import Maps
from gpustats.memory import Plan
from gpustats.stored import StoredMaps

logger = logging.getLogger("gpustats")

BLOCK_OF_RESIDUALS = 2**14
"""Voxels whose residuals are formed at a time."""


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
    def df(self) -> int | NDArray[np.int64]:
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
        tested = contrast_of(self.engine, self.design, self.regression, contrast)
        return ContrastMaps(
            contrast,
            self.maps.grid,
            self.design.df,
            tested.dimension,
            tested.effect,
            tested.variance,
            tested.statistic,
            self.device,
            unscaled_variance=tested.unscaled_variance,
            slopes=slopes_of(contrast, self.design.matrix),
        )

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

    def sum_of_squares(self, removed: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what the data square to without a part of the design, ``(n_voxels,)``.

        Parameters
        ----------
        removed
            ``(n_subjects, k)``: orthonormal basis of the part, inside the design's span.
        """
        # einsum makes the same bits for any number of threads of BLAS
        inside = np.einsum("nr,nk->rk", self.design.basis, removed)
        parts = np.einsum("rk,rv->kv", inside, self.coordinates)
        left = self.coordinates - np.einsum("rk,kv->rv", inside, parts)
        return np.asarray(self.residual_ss + np.einsum("kv,kv->v", left, left))

    def r_square(self) -> NDArray[np.float64]:
        """Return the share of variance explained, ``(n_voxels,)``.

        Variance is taken about the mean where the design can express a constant, else about 0.
        """
        return r_square(self.engine, self.design, self.regression)


class PatternFit(NamedTuple):
    """Hold a fit of the voxels of one pattern of missing subjects, to the subjects that it has.

    Parameters
    ----------
    subjects, voxels
        Which they are, ascending.
    design
        The design of these subjects.
    regression
        What is known of these voxels, on the device.
    """

    subjects: NDArray[np.intp]
    voxels: NDArray[np.intp]
    design: Design
    regression: Regression


@dataclass(frozen=True, eq=False)
class PairwiseFit(Fit):
    """Hold a model that was fitted at each voxel to the subjects with data there.

    ``coordinates`` give fitted values as those of `Fit` do, of subjects without data too;
    ``residuals`` are NaN there.

    Parameters
    ----------
    maps, design, regression, device, plan
        As of `Fit`; the maps are in memory.
    patterns
        The fit of each pattern of missing subjects.
    """

    maps: Maps
    patterns: tuple[PatternFit, ...] = ()

    @property
    def df(self) -> NDArray[np.int64]:
        """Degrees of freedom of the residuals, ``(n_voxels,)``."""
        return _each([one.design.df for one in self.patterns], self.patterns)

    def contrast(
        self, definition: Any = None, *, statistic: StatisticName | None = None
    ) -> ContrastMaps:
        """Test a contrast at every voxel where it is estimable; the parameters are `Fit`'s.

        Other voxels are counted, and are not in the grid of the result.

        Raises
        ------
        DesignError
            If the contrast does not fit the design, or is not estimable at any voxel.
        """
        contrast = self.design.contrast(definition, statistic=statistic)
        patterns = [one for one in self.patterns if one.design.can_estimate(contrast)]
        if not patterns:
            raise DesignError(
                f"contrast {contrast.name!r} is not estimable at any voxel from the subjects that "
                "have data there"
            )
        tested = [
            contrast_of(self.engine, one.design, one.regression, contrast) for one in patterns
        ]
        voxels = np.concatenate([one.voxels for one in patterns])
        keep = np.zeros(self.maps.n_voxels, dtype=bool)
        keep[voxels] = True
        dropped = int(np.count_nonzero(~keep))
        if dropped:
            logger.warning(
                "%d voxels left the mask of %r: not estimable; the subjects with data there lack a "
                "group, or a column does not vary in them: --min-subjects (min_subjects) asks for "
                "more of them",
                dropped,
                contrast.name,
            )
        return ContrastMaps(
            contrast,
            self.maps.grid.subset(keep),
            _each([one.design.df for one in patterns], patterns),
            tested[0].dimension,
            joined([one.effect for one in tested], patterns),
            joined([one.variance for one in tested], patterns),
            joined([one.statistic for one in tested], patterns),
            self.device,
            _each([one.subjects.size for one in patterns], patterns),
            dropped,
            _unscaled_variances(tested, patterns),
            slopes_of(contrast, self.design.matrix),
        )

    def r_square(self) -> NDArray[np.float64]:
        """Return the share of variance explained, ``(n_voxels,)``, as `Fit` does."""
        shares = [r_square(self.engine, one.design, one.regression) for one in self.patterns]
        return joined(shares, self.patterns)


def joined(arrays: Sequence[NDArray[Any]], patterns: Sequence[PatternFit]) -> NDArray[Any]:
    """Put arrays ``(..., n)`` of the voxels of each pattern into the order of the voxels."""
    order = np.argsort(np.concatenate([one.voxels for one in patterns]))
    return np.asarray(np.concatenate(arrays, axis=-1)[..., order])


def _unscaled_variances(
    tested: Sequence[ContrastArrays], patterns: Sequence[PatternFit]
) -> NDArray[np.float64] | None:
    """Give each voxel the c'(X'X)⁻c of its subjects; None for F."""
    known = [one.unscaled_variance for one in tested if one.unscaled_variance is not None]
    return _each(known, patterns) if known else None


def _each(numbers: Sequence[float], patterns: Sequence[PatternFit]) -> NDArray[Any]:
    """Give each voxel the number of its pattern."""
    filled = [np.full(one.voxels.size, n) for n, one in zip(numbers, patterns, strict=True)]
    return joined(filled, patterns)
