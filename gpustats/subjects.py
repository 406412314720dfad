"""Who is in the rows: tables of subjects, their labels, and how rows find their maps."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from gpustats.contrasts import DesignError

logger = logging.getLogger("gpustats")

ID_COLUMNS = ("subject_label", "participant_id")
"""Columns that name subjects, the first that is there counts."""


def split_labels(
    table: pd.DataFrame, id_column: str | None = None
) -> tuple[tuple[str, ...] | None, pd.DataFrame]:
    """Take the column (or the index) that names subjects off a table.

    Raises
    ------
    DesignError
        If ``id_column`` is not there, or labels are empty or repeat.
    """
    if table.index.name in (id_column, *ID_COLUMNS) and table.index.name is not None:
        table = table.reset_index(drop=table.index.name in table.columns)
    if id_column is not None:
        require_columns(table, [id_column])
    found = [name for name in (id_column, *ID_COLUMNS) if name in table.columns]
    if not found:
        return None, table
    labels = table[found[0]]
    if labels.isna().any():
        raise DesignError(f"column {found[0]!r} has rows without a subject label")
    repeated = repeated_labels(labels.astype(str))
    if repeated:
        raise DesignError(f"subject labels must be unique; repeated in {found[0]!r}: {repeated}")
    return tuple(labels.astype(str)), table.drop(columns=found)


def matched_by(labels: Sequence[str] | None, table_labels: Sequence[str] | None) -> str:
    """Say what maps and rows are matched by: label where both sides have them, else order."""
    return "order" if labels is None or table_labels is None else "subject label"


def aligned_rows(
    table: pd.DataFrame,
    table_labels: Sequence[str] | None,
    labels: Sequence[str] | None,
    n_maps: int,
    owner: str,
) -> pd.DataFrame:
    """Return the row of each map: by label if both sides have them, else by order.

    One line in the log says which, where it matters.

    Raises
    ------
    DesignError
        If, by order, the numbers differ, or, by label, a map has no row.
    """
    if len(table.drop_duplicates()) > 1:  # rows that are all equal match anyhow
        by = matched_by(labels, table_labels)
        if by == "subject label":
            logger.info("rows of the %s match the maps by %s", owner, by)
        else:
            logger.warning(
                "rows of the %s match the maps by %s; see that it is the same, or give labels to "
                "both: a column of them, and file names that begin with sub-<label>_ or a table "
                "of maps",
                owner,
                by,
            )
    if labels is None or table_labels is None:
        if len(table) != n_maps:
            raise DesignError(
                f"{owner} has {len(table)} rows but {n_maps} maps were given; order and number "
                "must match, or both sides must carry subject labels"
            )
        return table
    row_of = {_bare(label): row for row, label in enumerate(table_labels)}
    missing = [label for label in labels if _bare(label) not in row_of]
    if missing:
        raise DesignError(
            f"{owner} has no row for {len(missing)} of {n_maps} maps' subjects: {missing[:10]}; "
            "mend the labels, or leave out the label column to match by order"
        )
    return table.iloc[[row_of[_bare(label)] for label in labels]]


def repeated_labels(labels: Iterable[str]) -> list[str]:
    """Return the labels, with and without ``sub-`` the same, that stand more than once."""
    counts = Counter(_bare(label) for label in labels)
    return sorted(label for label, count in counts.items() if count > 1)


def _bare(label: str) -> str:
    """Return a label without BIDS's prefix, so that ``01`` and ``sub-01`` are one subject."""
    return label.removeprefix("sub-")


def join_columns(table: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    """Put the columns of two tables side by side, row by row.

    Raises
    ------
    DesignError
        If a column is in both.
    """
    twice = [str(name) for name in more.columns if name in table.columns]
    if twice:
        raise DesignError(f"already in the design: {', '.join(twice)}; leave out one of the two")
    return pd.concat([table.reset_index(drop=True), more.reset_index(drop=True)], axis=1)


def read_table(path: str | os.PathLike[str], id_column: str | None = None) -> pd.DataFrame:
    """Read a table of subjects: comma-separated if it is called ``.csv``, else tab-separated.

    Columns that name subjects are text, so that ``01`` stays ``01``.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    DesignError
        If it is not a table.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        separator = "," if path.suffix.lower() == ".csv" else "\t"
        labels: dict[str, type] = {name: str for name in (*ID_COLUMNS, id_column) if name}
        # spreadsheets mark their text with a byte order
        text = path.read_text(encoding="utf-8-sig")
        return pd.read_csv(StringIO(text), sep=separator, dtype=labels)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DesignError(f"{path}: not a table ({error})") from error


def require_columns(table: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuse names that the table does not have."""
    unknown = [name for name in names if name not in table.columns]
    if unknown:
        there = ", ".join(map(str, table.columns))
        raise DesignError(f"no column {', '.join(map(repr, unknown))} in the table; it has {there}")


def check_numeric(table: pd.DataFrame) -> None:
    """Refuse columns that are repeated, not numbers, or not finite, by name."""
    if table.columns.has_duplicates:
        twice = sorted(set(table.columns[table.columns.duplicated()]))
        raise DesignError(f"columns of the design must have different names; repeated: {twice}")
    text = [name for name in table.columns.astype(str) if not is_numeric_dtype(table[name])]
    if text:
        raise DesignError(
            f"columns of the design must be numbers, these are not: {', '.join(text)}; "
            "select columns, name the label column, or code them as numbers"
        )
    for name in table:
        wrong = np.flatnonzero(~np.isfinite(table[name].to_numpy(np.float64, na_value=np.nan)))
        if wrong.size:
            rows = ", ".join(str(row + 1) for row in wrong[:10])
            raise DesignError(f"column {name!r} of the design is not finite in row(s) {rows}")
