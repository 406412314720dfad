"""FSL's text files of designs: design.mat, design.con, design.fts and design.grp, read and written.

FSL's own reader takes the words up to ``/Matrix`` for a header, remembers two counts of them, and
reads as many numbers as these say; numbers beyond are not looked at, and a count that is missing
makes an empty matrix. What that reader and this one would understand differently is refused here.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeAlias
from uuid import uuid4

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpustats.contrasts import DesignError

PathLike: TypeAlias = str | os.PathLike[str]

NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
"""A decimal number as C and Fortran and Python write it; no comma, no D exponent, no NaN."""
COUNT = re.compile(r"[0-9]{1,9}")
NAME = re.compile(r"/ContrastName([0-9]{1,9})")
LINE_END = re.compile(r"\r\n|\n|\r")
BLANKS = " \t\v\f"
"""What C's isspace knows, without the ends of lines."""

COUNTS_OF_ROWS = ("/NumPoints", "/NumContrasts")
COUNTS = ("/NumWaves", *COUNTS_OF_ROWS)
HEIGHTS = ("/PPheights", "/RequiredEffect")
MATRIX = "/Matrix"
COMMENTS = ("!", "#", "%")


@dataclass(frozen=True, eq=False)
class Vest:
    """Hold what a file of a design says.

    Parameters
    ----------
    matrix
        ``(n_rows, n_columns)``: points by EVs of a ``.mat``, contrasts by EVs of a ``.con``,
        F tests by t contrasts of a ``.fts``, points by one of a ``.grp``.
    names
        ``/ContrastName`` of every row, empty where there is none.
    heights
        ``/PPheights`` and ``/RequiredEffect``, which no computation needs, as they were written.
    """

    matrix: NDArray[np.float64]
    names: tuple[str, ...]
    heights: dict[str, str] = field(default_factory=dict)


class _Line(NamedTuple):
    """One line of a file that says something."""

    number: int
    words: list[str]
    text: str


class _Source(NamedTuple):
    """The lines of a file, and what errors call it."""

    path: Path
    lines: list[_Line]

    def wrong(self, line: int | None, reason: str) -> NoReturn:
        """Raise the error with the file and the line."""
        raise DesignError(f"{self.path}{'' if line is None else f', line {line}'}: {reason}")


def read_vest(path: PathLike) -> Vest:
    """Read a matrix that FSL, or the GUI of FSL, wrote: ``.mat``, ``.con``, ``.fts`` or ``.grp``.

    Rows of numbers without any header are read, too.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Vest
        The matrix and the names of its rows.

    Raises
    ------
    DesignError
        If the file is no text, counts of the header are missing, repeated or contradict the
        matrix, rows differ in length, or a word is no finite decimal number. The message names
        file and line.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_vest(Path(folder, "design.con"), [[1, -1]], names=["patients > controls"])
    ...     contrasts = read_vest(Path(folder, "design.con"))
    >>> contrasts.names, contrasts.matrix.tolist()
    (('patients > controls',), [[1.0, -1.0]])
    """
    return parse_vest(Path(path).read_bytes(), path)


def parse_vest(data: bytes, path: PathLike) -> Vest:
    """Read the bytes of a file; as `read_vest`, which says what is raised but for OSError.

    Parameters
    ----------
    data
        What is in the file.
    path
        What errors call it.
    """
    source = _open(data, Path(path))
    start = next((k for k, line in enumerate(source.lines) if line.words[0] == MATRIX), None)
    if start is None:
        return _plain(source)
    header = _Header.read(source, source.lines[:start])
    first, *rows = source.lines[start:]
    if len(first.words) > 1:
        rows = [first._replace(words=first.words[1:]), *rows]
    matrix = _matrix(source, rows, header.n_columns)
    if len(matrix) != header.n_rows:
        source.wrong(
            None, f"the header says {header.n_rows} rows, but {len(matrix)} follow {MATRIX}"
        )
    names = tuple(header.names.get(number, "") for number in range(1, header.n_rows + 1))
    return Vest(matrix, names, header.heights)


def read_f_tests(path: PathLike, n_contrasts: int) -> NDArray[np.bool_]:
    """Read which t contrasts each F test takes together, a ``.fts`` file.

    Returns
    -------
    ndarray
        ``(n_f_tests, n_contrasts)``.

    Raises
    ------
    DesignError
        As `read_vest`; or if there is not one column per t contrast, a number is neither 0 nor 1
        (randomise would leave out what is not 1), or an F test has no contrast.
    """
    matrix = read_vest(path).matrix
    if matrix.shape[1] != n_contrasts:
        raise DesignError(
            f"{path}: an F test needs one column per t contrast, {n_contrasts}; "
            f"got {matrix.shape[1]}"
        )
    if not np.isin(matrix, (0, 1)).all():
        raise DesignError(f"{path}: F tests are made of 0 and 1, got {_odd(matrix, (0, 1)):g}")
    if not matrix.any(axis=1).all():
        number = int(np.argmin(matrix.any(axis=1))) + 1
        raise DesignError(f"{path}: F test {number} takes no t contrast")
    return matrix.astype(np.bool_)


def read_blocks(path: PathLike, n_rows: int) -> NDArray[np.int64]:
    """Read the exchangeability block of every row of a design, a ``.grp`` file.

    Returns
    -------
    ndarray
        ``(n_rows,)``, from 1.

    Raises
    ------
    DesignError
        As `read_vest`; or if there is not one row per row of the design and one column, or blocks
        are not numbered 1, 2, ... without a gap.
    """
    matrix = read_vest(path).matrix
    if matrix.shape != (n_rows, 1):
        raise DesignError(
            f"{path}: blocks need one column and one row per row of the design, {n_rows}; "
            f"got {matrix.shape[0]} rows and {matrix.shape[1]} columns"
        )
    labels = matrix[:, 0]
    expected = np.arange(1, np.unique(labels).size + 1)
    if not np.isin(labels, expected).all():
        raise DesignError(
            f"{path}: blocks are numbered 1, 2, ... without a gap, got {_odd(labels, expected):g}"
            f" among {expected.size} blocks; rows that must stay get a block of their own"
        )
    return labels.astype(np.int64)


def write_vest(
    path: PathLike,
    matrix: ArrayLike,
    *,
    names: Sequence[str] = (),
    heights: dict[str, str] | None = None,
) -> None:
    """Write a matrix as FSL reads it, whole or not at all.

    Parameters
    ----------
    path
        Where to; the suffix says what it is: ``.con`` and ``.fts`` have contrasts for rows,
        ``.mat``, ``.grp`` and others points.
    matrix
        ``(n_rows, n_columns)``; every number is read again as it is.
    names
        Of the rows of a ``.con``.
    heights
        ``/PPheights`` and ``/RequiredEffect`` as `Vest` holds them; by default the range of every
        column, and 1 for contrasts.

    Raises
    ------
    DesignError
        If the matrix is empty or not finite, or a name cannot stand in such a file.
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    values = np.asarray(matrix, np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise DesignError(f"{path}: what is written must be a finite matrix, got {matrix!r}")
    text = "\n".join(_as_lines(path, values, names, heights)) + "\n"
    beside = path.with_name(f".{path.name}-{uuid4().hex[:8]}")
    try:
        beside.write_bytes(text.encode())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _as_lines(
    path: Path, values: NDArray[np.float64], names: Sequence[str], heights: dict[str, str] | None
) -> Iterator[str]:
    """Yield the lines of a file."""
    if names and (path.suffix != ".con" or len(names) != len(values)):
        raise DesignError(
            f"{path}: names belong to the rows of a .con file, one each; got {len(names)} names "
            f"for {len(values)} rows"
        )
    for number, name in enumerate(names, start=1):
        if len(LINE_END.split(name)) > 1 or _is_misread(name) or name != name.strip():
            raise DesignError(f"{path}: {name!r} cannot name a contrast in FSL's files")
        yield f"/ContrastName{number}\t{name}"
    yield f"/NumWaves\t{values.shape[1]}"
    rows = COUNTS_OF_ROWS[path.suffix in (".con", ".fts")]
    yield f"{rows}\t{len(values)}"
    for key, words in (_usual_heights(path, values) if heights is None else heights).items():
        yield f"{key}\t\t{words}"
    yield ""
    yield MATRIX
    for row in values:
        yield " ".join(_word(value) for value in row)


def _usual_heights(path: Path, values: NDArray[np.float64]) -> dict[str, str]:
    """Return what is said of heights: of EVs their range, and of contrasts 1."""
    if path.suffix == ".mat":
        return {HEIGHTS[0]: " ".join(_word(value) for value in np.ptp(values, axis=0))}
    if path.suffix == ".con":
        return dict.fromkeys(HEIGHTS, " ".join(["1"] * len(values)))
    return {}


def _word(value: float) -> str:
    """Write a number so that it is read as itself; whole ones without a point."""
    return f"{int(value)}" if value.is_integer() and abs(value) < 2**53 else repr(float(value))


def _open(data: bytes, path: Path) -> _Source:
    """Read the lines that are not empty."""
    text = data.decode("utf-8-sig", "replace")
    if "\0" in text or "\ufffd" in text:
        raise DesignError(f"{path}: not a text file, so no design that FSL would read")
    lines = [
        _Line(number, re.split(rf"[{BLANKS}]+", line.strip(BLANKS)), line)
        for number, line in enumerate(LINE_END.split(text), start=1)
    ]
    return _Source(path, [line for line in lines if line.words != [""]])


@dataclass
class _Header:
    """Gather what stands before the matrix."""

    counts: dict[str, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    heights: dict[str, str] = field(default_factory=dict)

    @property
    def n_columns(self) -> int:
        """How many columns are announced."""
        return self.counts[COUNTS[0]]

    @property
    def n_rows(self) -> int:
        """How many rows are announced."""
        return next(self.counts[key] for key in COUNTS_OF_ROWS if key in self.counts)

    @classmethod
    def read(cls, source: _Source, lines: Iterable[_Line]) -> _Header:
        """Read the lines before the matrix."""
        header = cls()
        for line in lines:
            header._take(source, line)
        if COUNTS[0] not in header.counts:
            source.wrong(None, f"no line says /NumWaves and a number before {MATRIX}")
        found = {header.counts[key] for key in COUNTS_OF_ROWS if key in header.counts}
        if len(found) != 1:
            source.wrong(
                None,
                f"one number of rows, {' or '.join(COUNTS_OF_ROWS)}, is needed; got {len(found)}",
            )
        return header

    def _take(self, source: _Source, line: _Line) -> None:
        """Take one line; what FSL would read otherwise is refused."""
        key, *words = line.words
        if key.startswith(COMMENTS) and not _is_misread(line.text):
            return
        if not key.startswith("/"):
            source.wrong(line.number, f"{key!r} stands before {MATRIX} and would not be read")
        if key in COUNTS:
            self._count(source, line)
        elif _is_misread(" ".join(words)):
            source.wrong(line.number, f"FSL would take a word of {line.text.strip()!r} for a count")
        elif named := NAME.fullmatch(key):
            if int(named[1]) in self.names:
                source.wrong(line.number, f"{key} comes twice")
            self.names[int(named[1])] = line.text.strip(BLANKS)[len(key) :].strip(BLANKS)
        elif key in HEIGHTS:
            self.heights[key] = " ".join(words)
        elif key.lower() in map(str.lower, (*COUNTS, MATRIX)):
            source.wrong(line.number, f"{key!r} is written in other letters than FSL reads")

    def _count(self, source: _Source, line: _Line) -> None:
        """Take a count."""
        key, *words = line.words
        if len(words) != 1 or not COUNT.fullmatch(words[0]) or int(words[0]) < 1:
            source.wrong(line.number, f"{key} needs one whole number > 0, got {' '.join(words)!r}")
        if key in self.counts:
            source.wrong(line.number, f"{key} comes twice")
        self.counts[key] = int(words[0])


def _is_misread(text: str) -> bool:
    """Tell whether FSL, which reads word by word, would find a count or the matrix in a text."""
    return any(word in (*COUNTS, MATRIX) for word in text.split())


def _plain(source: _Source) -> Vest:
    """Read rows of numbers without a header."""
    for line in source.lines:
        if line.words[0].startswith("/") or _is_misread(line.text):
            source.wrong(line.number, f"part of a header, but no line begins with {MATRIX}")
    lines = list(dropwhile(lambda line: line.words[0].startswith(COMMENTS), source.lines))
    matrix = _matrix(source, lines, len(lines[0].words) if lines else 0)
    return Vest(matrix, ("",) * len(matrix))


def _matrix(source: _Source, lines: Sequence[_Line], n_columns: int) -> NDArray[np.float64]:
    """Read rows of equal length."""
    for line in lines:
        if line.words[0] == MATRIX:
            source.wrong(line.number, f"{MATRIX} comes twice")
        for word in line.words:
            if not NUMBER.fullmatch(word):
                source.wrong(line.number, f"{word!r} is no decimal number like 1, -0.5 or 1.5e-3")
            _check_range(source, line, word)
        if len(line.words) != n_columns:
            source.wrong(line.number, f"a row needs {n_columns} numbers, got {len(line.words)}")
    if not lines:
        source.wrong(None, "there are no numbers in it")
    return np.array([[float(word) for word in line.words] for line in lines])


def _check_range(source: _Source, line: _Line, word: str) -> None:
    """Refuse a number that a double cannot hold but as infinity or 0."""
    value = float(word)
    vanished = value == 0 and re.search("[1-9]", re.split("[eE]", word)[0])
    if math.isinf(value) or vanished:
        source.wrong(line.number, f"{word!r} is beyond the range of numbers")


def _odd(values: NDArray[np.float64], usual: ArrayLike) -> float:
    """Return the first value that is none of the usual ones."""
    return float(values[~np.isin(values, usual)][0])
