"""PALM's text files: designs, contrasts, exchangeability blocks and variance groups, csv or vest.

A table of blocks with several columns is a tree: a positive number says that what is under it is
exchanged as wholes, a negative one that it stays and only what is under that is exchanged. Trees
that say no more than ``-within`` and ``-whole`` do are understood.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpustats.contrasts import DesignError
from gpustats.exchangeability import BlockExchange
from gpustats.vest import NUMBER, Vest, read_vest

VEST_ENDINGS = (".mat", ".con", ".fts", ".grp")


class Blocks(NamedTuple):
    """Hold which rows are exchanged.

    Parameters
    ----------
    labels
        Block of every row; None if all are in one.
    exchange
        How blocks move.
    """

    labels: NDArray[np.int64] | None
    exchange: BlockExchange


FREE = Blocks(None, "within")


def read_table(path: Path) -> Vest:
    """Read a matrix from a file of numbers, ``.csv``, or one of FSL's.

    Parameters
    ----------
    path
        The ending says which it is, as PALM has it.

    Raises
    ------
    DesignError
        If the ending is another, the file is no text, rows differ in length, or a word is no
        finite decimal number. The message names file and line.
    OSError
        If the file cannot be read.
    """
    ending = path.suffix.lower()
    if ending in VEST_ENDINGS:
        return read_vest(path)
    if ending != ".csv":
        raise DesignError(
            f"{path}: PALM reads tables that end in .csv, and FSL's that end in "
            f"{', '.join(VEST_ENDINGS)}; name it so"
        )
    return parse_csv(path.read_bytes(), path)


def parse_csv(data: bytes, path: Path) -> Vest:
    """Read rows of numbers that are separated by commas; as `read_table`.

    Parameters
    ----------
    data
        What is in the file.
    path
        What errors call it.
    """
    text = data.decode("utf-8-sig", "replace")
    if "\0" in text or "\ufffd" in text:
        raise DesignError(f"{path}: not a text file, so no table that PALM would read")
    lines = re.split(r"\r\n|\n|\r", text.rstrip())
    rows = [
        [_number(word.strip(" \t"), f"{path}, line {number}") for word in line.split(",")]
        for number, line in enumerate(lines, start=1)
    ]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise DesignError(
                f"{path}, line {number}: a row needs {len(rows[0])} numbers, got {len(row)}"
            )
    return Vest(np.array(rows), ("",) * len(rows))


def _number(word: str, where: str) -> float:
    """Read a number; PALM would take what is missing for 0."""
    if not NUMBER.fullmatch(word):
        raise DesignError(
            f"{where}: {word!r} is no decimal number like 1, -0.5 or 1.5e-3; a csv has numbers "
            "only, separated by commas"
        )
    value = float(word)
    vanished = value == 0 and re.search("[1-9]", re.split("[eE]", word)[0])
    if math.isinf(value) or vanished:
        raise DesignError(f"{where}: {word!r} is beyond the range of numbers")
    return value


def read_f_tests(path: Path, n_contrasts: int) -> NDArray[np.bool_]:
    """Read which t contrasts each F test takes together, ``(n_f_tests, n_contrasts)``.

    Raises
    ------
    DesignError
        As `read_table`; or if there is not one column per t contrast, a number is neither 0 nor
        1, or an F test takes no contrast.
    """
    matrix = read_table(path).matrix
    if matrix.shape[1] != n_contrasts:
        raise DesignError(
            f"{path}: an F test needs one column per t contrast, {n_contrasts}; "
            f"got {matrix.shape[1]}"
        )
    if not np.isin(matrix, (0, 1)).all():
        raise DesignError(f"{path}: F tests are made of 0 and 1 only")
    if not matrix.any(axis=1).all():
        number = int(np.argmin(matrix.any(axis=1))) + 1
        raise DesignError(f"{path}: F test {number} takes no t contrast")
    return matrix.astype(np.bool_)


def read_blocks(path: Path, n_rows: int, *, within: bool, whole: bool) -> Blocks:
    """Read which rows are exchanged, the file of ``-eb``.

    Parameters
    ----------
    path
        One column, or a tree.
    n_rows
        How many rows there must be.
    within, whole
        What ``-within`` and ``-whole`` say of one column; a tree says it itself.

    Raises
    ------
    DesignError
        As `read_table`; or if rows are missing, numbers are not whole, or the tree has more
        levels than blocks and what is in them.
    """
    table = _whole_numbers(read_table(path).matrix, path, n_rows)
    if table.shape[1] > 1:
        return _of_tree(table, path)
    labels = table[:, 0]
    if labels.min() < 1:
        raise DesignError(f"{path}: a single column of blocks has numbers from 1, as in PALM")
    if whole:
        return Blocks(labels, "both" if within else "whole")
    return FREE if np.unique(labels).size == 1 else Blocks(labels, "within")


def _whole_numbers(matrix: NDArray[np.float64], path: Path, n_rows: int) -> NDArray[np.int64]:
    """Return labels of rows, if that is what they are."""
    if len(matrix) != n_rows:
        raise DesignError(
            f"{path}: one row per row of the design is needed, {n_rows}; got {len(matrix)}"
        )
    if not ((matrix == np.rint(matrix)) & (np.abs(matrix) < 2**53) & (matrix != 0)).all():
        raise DesignError(f"{path}: blocks and groups are whole numbers other than 0")
    return matrix.astype(np.int64)


def _of_tree(table: NDArray[np.int64], path: Path) -> Blocks:
    """Understand a tree of two or three levels."""
    n_rows = len(table)
    root, *others = table.T
    leaves = np.unique(np.abs(others[-1])).size == n_rows
    levels = others[:-1] if leaves else others
    if np.unique(root).size > 1 or len(levels) > 1 or any(_mixed(level) for level in levels):
        raise DesignError(
            f"{path}: trees of blocks with more levels, or with blocks that differ in kind, are "
            "not built; one level of blocks is, by a single column with -within, -whole or both"
        )
    exchanged = root[0] > 0
    if not levels:
        if not exchanged:
            raise DesignError(f"{path}: every row stays where it is, so nothing is exchanged")
        return FREE
    labels = np.abs(levels[0])
    if not leaves:  # PALM exchanges either the blocks, or what is in them
        return Blocks(labels, "whole" if exchanged else "within")
    inside = levels[0][0] > 0
    if not exchanged and not inside:
        raise DesignError(f"{path}: every row stays where it is, so nothing is exchanged")
    return Blocks(labels, "both" if exchanged and inside else "whole" if exchanged else "within")


def _mixed(level: NDArray[np.int64]) -> bool:
    """Tell whether some numbers of a level are positive, and others negative."""
    return bool((level > 0).any() and (level < 0).any())


def check_variance_groups(words: str, n_rows: int, blocks: Blocks) -> None:
    """Refuse several variance groups, the value of ``-vg``.

    Parameters
    ----------
    words
        The name of a file, or ``single`` or ``auto``.
    n_rows
        How many rows the file must have.
    blocks
        Which ``auto`` makes groups of.

    Raises
    ------
    DesignError
        As `read_table`; or if there is more than one group.
    """
    if words.lower() == "single":
        return
    if words.lower() in ("auto", "automatic"):
        n_groups = 1 if blocks.labels is None else np.unique(blocks.labels).size
    else:
        table = _whole_numbers(read_table(Path(words)).matrix, Path(words), n_rows)
        n_groups = len(np.unique(table, axis=0))
    if n_groups > 1:
        raise DesignError(
            f"-vg {words}: {n_groups} variance groups are not built, as statistics other than t "
            "and F would be needed; leave -vg out if one variance will do"
        )
