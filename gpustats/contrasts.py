"""What a hypothesis is: weights over the columns of a design, or an expression over their names."""

from __future__ import annotations

import ast
import operator
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

StatisticName: TypeAlias = Literal["t", "F"]

ROW_END = re.compile(r";(?=(?:[^`]*`[^`]*`)*[^`]*$)")
"""A semicolon outside of backticks."""
NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
LARGEST_NUMBER = 1e100
WORDS = {"+": "Plus", "-": "Minus", "*": "Times", "/": "By", ";": "And", ">": "Over", "<": "Under"}


class DesignError(ValueError):
    """A design or a contrast that cannot answer the question asked of it."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """Hold the weights of a hypothesis, as checked against its design by `Design.contrast`.

    Parameters
    ----------
    name
        How the user calls it.
    weights
        ``(n_rows, n_columns)``, one row for t.
    statistic
        ``"t"``, one row, with a sign; or ``"F"``, any number of rows, without.
    columns
        Names of the columns that the weights belong to.
    """

    name: str
    weights: NDArray[np.float64]
    statistic: StatisticName
    columns: tuple[str, ...]

    @property
    def label(self) -> str:
        """The name as letters and digits, for file names: ``patientsMinusControls``."""
        return file_label(self.name)


def file_label(name: str) -> str:
    """Turn a name into a BIDS label, letters and digits only.

    Examples
    --------
    >>> file_label("patients - 0.5*controls_b")
    'patientsMinus0p5TimesControlsB'
    >>> file_label("später")
    'spater'
    """
    # accents go, and letters beyond them become their numbers: labels are of ASCII
    plain = "".join(
        letter if letter.isascii() or not letter.isalnum() else f"u{ord(letter):x}"
        for letter in unicodedata.normalize("NFKD", name)
        if not unicodedata.combining(letter)
    )
    text = re.sub(r"(?<=\d)\.(?=\d)", "p", plain)
    for symbol, word in WORDS.items():
        text = text.replace(symbol, f" {word} ")
    parts = re.findall(r"[^\W_]+", text)
    return "".join([*parts[:1], *(part[0].upper() + part[1:] for part in parts[1:])]) or "contrast"


def expression_weights(expression: str, columns: Sequence[str]) -> NDArray[np.float64]:
    """Turn an expression over column names into weights.

    Parameters
    ----------
    expression
        A column name, or sums, differences and multiples of them: ``"patients - controls"``,
        ``"0.5 * (a + b) - c"``. Names may hold any characters; backticks enclose doubtful ones.
        Rows of an F contrast are separated by semicolons.
    columns
        Names of the design's columns.

    Returns
    -------
    ndarray
        ``(n_rows, n_columns)``.

    Raises
    ------
    DesignError
        If a name is no column, or the expression is not a weighted sum of columns.
    """
    rows = [expression] if expression in columns else ROW_END.split(expression)
    return np.array([_Expression(row.strip(), columns).weights() for row in rows])


class _Expression:
    """Evaluate one row: every value is a weight per column and, last, a constant."""

    def __init__(self, text: str, columns: Sequence[str]) -> None:
        self.text = text
        self.columns = list(columns)
        self.units = np.eye(len(columns) + 1)

    def weights(self) -> NDArray[np.float64]:
        """Return the ``(n_columns,)`` weights."""
        if self.text in self.columns:
            return np.asarray(self.units[self.columns.index(self.text), :-1])
        try:
            tree = ast.parse(self._with_placeholders(), mode="eval")
        except SyntaxError as error:
            raise self._wrong("it is not a sum of columns") from error
        value = self._evaluate(tree.body)
        if value[-1] != 0:
            raise self._wrong(f"a number cannot be added to columns ({value[-1]:g})")
        return np.asarray(value[:-1])

    def _with_placeholders(self) -> str:
        """Replace each column name by ``c<index>``, the longest fitting name first."""
        names = sorted(self.columns, key=len, reverse=True)
        plain = [_as_word(name) for name in names if not re.fullmatch(NUMBER, name)]
        pattern = re.compile(
            rf"`(?P<quoted>[^`]*)`|(?P<name>{'|'.join(plain) or '(?!)'})"
            rf"|(?P<number>{NUMBER})|(?P<unknown>[^\W\d]\w*)|(?P<symbol>[-+*/() ])|(?P<other>.)"
        )
        return "".join(self._piece(match) for match in pattern.finditer(self.text))

    def _piece(self, match: re.Match[str]) -> str:
        """Translate one token."""
        token = match.group("quoted") or match.group("name")
        if token in self.columns:
            return f"c{self.columns.index(token)}"
        if token or match.group("unknown"):
            raise self._wrong(f"no column {token or match.group('unknown')!r} in the design")
        if match.group("other"):
            raise self._wrong(f"unexpected {match.group('other')!r}")
        return match.group()

    def _evaluate(self, node: ast.expr) -> NDArray[np.float64]:
        """Evaluate a syntax tree of numbers, columns, + - * / and signs."""
        match node:
            case ast.Name(id=name):
                return np.asarray(self.units[int(name[1:])])
            case ast.Constant(value=int() | float() as number) if abs(number) < LARGEST_NUMBER:
                return np.asarray(self.units[-1] * number)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return np.negative(self._evaluate(operand))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._evaluate(operand)
            case ast.BinOp(left=left, op=symbol, right=right) if type(symbol) in OPERATIONS:
                return self._combine(symbol, self._evaluate(left), self._evaluate(right))
        raise self._wrong("only + - * / and parentheses may join columns")

    def _combine(
        self, symbol: ast.operator, left: NDArray[np.float64], right: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Add and subtract anything; multiply and divide by numbers only."""
        operation = OPERATIONS[type(symbol)]
        if isinstance(symbol, ast.Add | ast.Sub):
            return np.asarray(operation(left, right))
        if isinstance(symbol, ast.Mult) and not left[:-1].any():
            left, right = right, left
        if right[:-1].any() or (isinstance(symbol, ast.Div) and right[-1] == 0):
            raise self._wrong("columns can be multiplied and divided by non-zero numbers only")
        return np.asarray(operation(left, right[-1]))

    def _wrong(self, reason: str) -> DesignError:
        """Return the error with the expression, the reason and the columns there are."""
        columns = ", ".join(self.columns)
        return DesignError(f"contrast {self.text!r}: {reason}; the columns are {columns}")


def _as_word(name: str) -> str:
    """Return a pattern for a name that is not part of a longer word."""
    before = r"(?<!\w)" if re.match(r"\w", name) else ""
    after = r"(?!\w)" if re.search(r"\w$", name) else ""
    return f"{before}{re.escape(name)}{after}"
