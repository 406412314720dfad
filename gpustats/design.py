"""Who differs from whom, and in what: the design of a group analysis and its contrasts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property, reduce
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpustats.contrasts import Contrast, DesignError, StatisticName, expression_weights
from gpustats.subjects import (
    ID_COLUMNS,
    aligned_rows,
    check_numeric,
    join_columns,
    matched_by,
    require_columns,
    split_labels,
)

logger = logging.getLogger("gpustats")

RANK_TOLERANCE = 1e-10
"""Singular values of the design (columns of unit length) below this share of the largest are 0."""

ESTIMABLE_TOLERANCE = 1e-8
"""Largest part of a contrast, relative to its length, that may lie outside the design's rows."""


class Design:
    """Name what each subject contributes: regressors by column, subjects by row.

    Parameters
    ----------
    table
        One row per subject. Numeric columns are regressors as they stand: nothing is demeaned,
        dummy-coded or added in secret. A column ``subject_label`` or ``participant_id`` names
        the subjects instead.
    columns
        The regressors to use; all columns by default.
    intercept
        Whether to add a column of ones, named ``intercept``.
    id_column
        The column that names the subjects, if it is called otherwise.

    Attributes
    ----------
    table : pandas.DataFrame
        The regressors, ``(n_subjects, n_columns)`` float64.
    subjects : tuple of str or None
        The subjects' labels, if the table has them.
    matched_by : str
        ``"subject label"`` or ``"order"`` once `aligned` has put the rows in the order of the
        maps, empty before.

    Raises
    ------
    DesignError
        If a column is missing, repeated, not numeric or not finite, labels repeat, or there are
        not more subjects than columns.

    Examples
    --------
    >>> table = pd.DataFrame({"patients": [1, 1, 1, 0, 0, 0], "controls": [0, 0, 0, 1, 1, 1]})
    >>> design = Design(table)
    >>> design.contrast("patients - controls").weights
    array([[ 1., -1.]])
    >>> design.df
    4
    """

    def __init__(
        self,
        table: pd.DataFrame,
        *,
        columns: Sequence[str] | None = None,
        intercept: bool = False,
        id_column: str | None = None,
    ) -> None:
        if not isinstance(table, pd.DataFrame):
            raise TypeError(f"a design is made of a pandas DataFrame, got {type(table).__name__}")
        self.matched_by = ""
        self.subjects, regressors = split_labels(table, id_column)
        if columns is not None:
            require_columns(regressors, columns)
            regressors = regressors[list(columns)]
        if intercept:
            regressors = join_columns(regressors, pd.DataFrame({"intercept": np.ones(len(table))}))
        regressors = regressors.rename(columns=str)
        check_numeric(regressors)
        self.table = regressors.astype(np.float64).reset_index(drop=True)
        n, p = self.table.shape
        if p == 0:
            raise DesignError("the design has no columns; select some, or add an intercept")
        if n < p + 1:
            raise DesignError(
                f"design has {n} rows and {p} columns; it needs at least one subject more than "
                f"columns ({p + 1}): leave out columns or add subjects"
            )

    def __repr__(self) -> str:
        return f"Design({self.n_subjects} subjects: {', '.join(self.columns)})"

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The design matrix X, ``(n_subjects, n_columns)``."""
        return self.table.to_numpy()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the regressors."""
        return tuple(self.table.columns)

    @property
    def n_subjects(self) -> int:
        """Number of rows."""
        return len(self.table)

    @property
    def rank(self) -> int:
        """Number of independent columns."""
        return int(self.basis.shape[1])

    @property
    def df(self) -> int:
        """Degrees of freedom of the residuals, n - rank(X)."""
        return self.n_subjects - self.rank

    @property
    def basis(self) -> NDArray[np.float64]:
        """Orthonormal basis Q of the columns' span, ``(n_subjects, rank)``."""
        return self._decomposition.basis

    @cached_property
    def _decomposition(self) -> _Decomposition:
        """Singular value decomposition of X with columns of unit length."""
        lengths = np.linalg.norm(self.matrix, axis=0)
        lengths[lengths == 0] = 1.0
        u, s, vt = np.linalg.svd(self.matrix / lengths, full_matrices=False)
        rank = int(np.count_nonzero(s > RANK_TOLERANCE * s[0])) if s[0] > 0 else 0
        if rank == 0:
            raise DesignError("all columns of the design are zero")
        return _Decomposition(u[:, :rank], s[:rank], vt[:rank], lengths)

    def estimator(self, contrast: Contrast) -> NDArray[np.float64]:
        """Return A, ``(n_rows, rank)``, with which the contrast's estimates are A Q'y."""
        svd = self._decomposition
        estimator: NDArray[np.float64] = (contrast.weights / svd.lengths) @ svd.vt.T / svd.s
        return estimator

    def restricted(self, subjects: NDArray[np.intp]) -> Design:
        """Return the design of some of the subjects, with a basis and a rank of its own."""
        part = copy(self)
        part.table = self.table.iloc[subjects]
        part.subjects = None
        part.__dict__.pop("_decomposition", None)
        return part

    def change_of_basis(self, whole: Design) -> NDArray[np.float64]:
        """Return what turns coordinates of a restricted design into those of the whole one."""
        ours, theirs = self._decomposition, whole._decomposition
        coefficients = ours.vt.T / ours.s / ours.lengths[:, np.newaxis]
        changed = (theirs.vt * theirs.lengths * theirs.s[:, np.newaxis]) @ coefficients
        return np.asarray(changed)

    @property
    def has_residuals(self) -> bool:
        """Whether the design is more than zeros and leaves degrees of freedom."""
        return bool(self.matrix.any()) and self.df > 0

    def can_estimate(self, contrast: Contrast) -> bool:
        """Tell whether a contrast for columns like these is estimable."""
        return not self._not_estimable(contrast.weights).any()

    def contrast(
        self,
        definition: Any = None,
        *,
        name: str | None = None,
        statistic: StatisticName | None = None,
    ) -> Contrast:
        """Turn a column name, an expression or weights into a checked contrast.

        Parameters
        ----------
        definition
            A column name or an expression over column names (``"patients - controls"``; rows of
            an F contrast separated by semicolons), a list of them (one per row), a vector
            ``(n_columns,)`` or a matrix ``(n_rows, n_columns)`` of weights. None is allowed
            where the design has one column.
        name
            What to call it; made from the definition by default.
        statistic
            ``"t"`` or ``"F"``; t for one row and F for several by default.

        Raises
        ------
        DesignError
            If a column is unknown, the number of weights is wrong, a row is zero, or the
            contrast is not estimable: the message names the columns that depend on each other.
        """
        if isinstance(definition, Contrast):
            return self._adopted(definition, statistic)
        if definition is None and len(self.columns) > 1:
            raise DesignError(f"a contrast is needed; the columns are {', '.join(self.columns)}")
        weights = self._weights(self.columns[0] if definition is None else definition)
        self._check_weights(weights, definition)
        if statistic not in ("t", "F", None):
            raise DesignError(f"the statistic of a contrast is 't' or 'F', got {statistic!r}")
        if statistic == "t" and len(weights) > 1:
            logger.info("a contrast of %d rows is an F contrast, not t", len(weights))
            statistic = None
        default: StatisticName = "t" if len(weights) == 1 else "F"
        name = name or self._name(definition, weights)
        return Contrast(name, weights, statistic or default, self.columns)

    def _adopted(self, contrast: Contrast, statistic: StatisticName | None) -> Contrast:
        """Check that a contrast was made for columns like these."""
        if contrast.columns != self.columns:
            raise DesignError(
                f"contrast {contrast.name!r} was made for the columns "
                f"{', '.join(contrast.columns)}, the design has {', '.join(self.columns)}"
            )
        self._check_weights(contrast.weights, contrast.name)
        return replace(contrast, statistic=statistic or contrast.statistic)

    def _weights(self, definition: Any) -> NDArray[np.float64]:
        """Return the weights of a definition, ``(n_rows, n_columns)``."""
        if isinstance(definition, str):
            return expression_weights(definition, self.columns)
        if isinstance(definition, pd.Series) and definition.index.dtype != np.int64:
            definition = definition.rename(index=str)
            require_columns(self.table, list(definition.index))
            definition = definition.reindex(self.columns, fill_value=0)
        if isinstance(definition, Sequence) and definition and isinstance(definition[0], str):
            return np.vstack([expression_weights(row, self.columns) for row in definition])
        try:
            return np.atleast_2d(np.asarray(definition, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise DesignError(
                f"a contrast must be an expression or numbers, got {definition!r}"
            ) from error

    def _check_weights(self, weights: NDArray[np.float64], definition: Any) -> None:
        """Refuse weights of wrong number, not finite, all zero, or not estimable."""
        p = len(self.columns)
        if weights.ndim != 2 or weights.shape[1] != p:
            raise DesignError(
                f"contrast has {weights.shape[-1]} weights but the design has {p} columns "
                f"({', '.join(self.columns)}); give one weight per column"
            )
        if not np.isfinite(weights).all() or not weights.any(axis=1).all():
            raise DesignError(f"every row of a contrast needs finite weights, not all 0: {weights}")
        at_fault = self._not_estimable(weights)
        if at_fault.any():
            names = ", ".join(np.array(self.columns)[at_fault])
            if not self.matrix[:, at_fault].any():
                raise DesignError(
                    f"contrast {definition!r} is not estimable: {names} is zero for every subject"
                )
            raise DesignError(
                f"contrast {definition!r} is not estimable: the columns {names} depend on each "
                "other; leave one out, or ask for a difference that they determine"
            )

    def _not_estimable(self, weights: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell at which columns ``(n_rows, n_columns)`` weights leave the span of the rows."""
        svd = self._decomposition
        scaled = weights / svd.lengths
        outside = scaled - scaled @ svd.vt.T @ svd.vt
        lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
        return np.asarray((np.abs(outside) > ESTIMABLE_TOLERANCE * lengths).any(axis=0))

    def _name(self, definition: Any, weights: NDArray[np.float64]) -> str:
        """Name a contrast by its expression, or write its weights as one."""
        if isinstance(definition, str):
            return definition
        rows = []
        for row in weights:
            terms = [
                f"{'-' if w < 0 else '+'} {'' if abs(w) == 1 else f'{abs(w):g}*'}{column}"
                for w, column in zip(row, self.columns, strict=True)
                if w
            ]
            rows.append(" ".join(terms).removeprefix("+ ").replace("- ", "-", terms[0][0] == "-"))
        return "; ".join(rows)

    def aligned(self, labels: tuple[str, ...] | None, n_maps: int) -> Design:
        """Return the design with its rows in the order of the maps, saying how they were matched.

        Raises
        ------
        DesignError
            If numbers differ, or labels on both sides do not name the same subjects.
        """
        if self.matched_by and self.subjects == labels and self.n_subjects == n_maps:
            return self
        table = aligned_rows(self.table, self.subjects, labels, n_maps, "design")
        if len(table) < self.n_subjects and self.subjects is not None:
            extra = [self.subjects[row] for row in self.table.index.difference(table.index)]
            raise DesignError(
                f"design has {self.n_subjects} rows but {n_maps} maps were given; "
                f"no map for {extra[:10]}"
            )
        return _matched(table, labels, matched_by(labels, self.subjects))


class _Decomposition(NamedTuple):
    """X diag(1 / lengths) = basis diag(s) vt."""

    basis: NDArray[np.float64]
    s: NDArray[np.float64]
    vt: NDArray[np.float64]
    lengths: NDArray[np.float64]


def group_design(
    table: pd.DataFrame | None,
    confounds: pd.DataFrame | None,
    labels: tuple[str, ...] | None,
    n_maps: int,
) -> Design:
    """Make the design of a group from a table of regressors and one of confounds.

    Parameters
    ----------
    table
        The regressors; a column ``intercept`` of ones, after the confounds, if None.
    confounds
        Regressors to join, or None. Rows of subjects without a map are left out.
    labels
        The maps' subject labels, in their order, if they have any.
    n_maps
        The number of maps.

    Raises
    ------
    DesignError
        If rows and maps do not match, or a confound is in the design already.
    """
    parts = []
    by = "order"
    if table is not None:
        aligned = Design(table).aligned(labels, n_maps)
        parts.append(aligned.table)
        by = aligned.matched_by
    if confounds is not None:
        confound_labels, nuisance = split_labels(confounds)
        parts.append(aligned_rows(nuisance, confound_labels, labels, n_maps, "confounds"))
    if table is None:
        parts.append(pd.DataFrame({"intercept": np.ones(n_maps)}))
        by = matched_by(labels, None if confounds is None else confound_labels)
    return _matched(reduce(join_columns, parts), labels, by)


def _matched(table: pd.DataFrame, labels: Sequence[str] | None, by: str) -> Design:
    """Return the design of rows that are in the order of the maps."""
    if labels is not None:
        table = table.assign(**{ID_COLUMNS[0]: list(labels)})
    design = Design(table)
    design.matched_by = by
    return design
