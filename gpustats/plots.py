"""What a report draws besides brains: the design with its contrasts, and null distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpustats.pictures import data_uri, drawing

FAR = 4.0
"""How many times the median the largest score must be for the axis to be drawn as its root."""

MAX_LABEL = 24
"""Characters of a name that fit beside a picture."""

MAX_WRITTEN = 12
"""Columns whose weights still fit into their fields as numbers."""

INK, SOFT, OBSERVED, THRESHOLD = "#1b1f24", "#aab4be", "#0550ae", "#b35900"
"""Blue and orange: the colour-blind tell them apart, and the lines are dashed differently."""


def design_picture(
    columns: Sequence[str],
    matrix: NDArray[np.float64],
    contrasts: Sequence[tuple[str, NDArray[np.float64]]],
) -> str:
    """Draw a design, each column relative to its largest size, and the weights of contrasts.

    Parameters
    ----------
    columns
        Names of the columns.
    matrix
        ``(n_rows, n_columns)``.
    contrasts
        Names and weights, ``(n_weights, n_columns)``.

    Returns
    -------
    str
        A PNG as data URI.
    """
    n_rows, n_columns = matrix.shape
    names = [name for name, weights in contrasts for _ in weights]
    weights = np.concatenate([weights for _, weights in contrasts])
    heights = min(1.2 + 0.1 * n_rows, 5.5), 0.28 * len(weights) + 0.1
    with drawing() as library:
        size = min(4.2 + 0.5 * n_columns, 11.0), sum(heights) + 1.9
        figure = library.matplotlib.figure.Figure(size, layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=heights)
        picture = above.imshow(_relative(matrix, 0), **_COLOURS)
        above.set_ylabel("map")
        above.xaxis.tick_top()
        # names are the user's: a dollar in them starts no formula
        above.set_xticks(
            range(n_columns), [_short(name) for name in columns], rotation=40, ha="left",
            parse_math=False,
        )  # fmt: skip
        below.imshow(_relative(weights, 1), **_COLOURS)
        below.set_xticks([])
        below.set_yticks(range(len(names)), [_short(name) for name in names], parse_math=False)
        if n_columns <= MAX_WRITTEN:
            _write_weights(below, weights)
        figure.colorbar(picture, ax=above, aspect=25, label="relative to the largest")
        return data_uri(figure)


_COLOURS: dict[str, Any] = {
    "cmap": "RdBu_r", "vmin": -1, "vmax": 1, "aspect": "auto", "interpolation": "none",
}  # fmt: skip


def _relative(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Divide by the largest size along an axis, where that is not 0."""
    largest = np.abs(values).max(axis=axis, keepdims=True)
    return values / np.where(largest > 0, largest, 1)


def _write_weights(axes: Any, weights: NDArray[np.float64]) -> None:
    """Write the weights as numbers into their fields, light on dark."""
    for (row, column), share in np.ndenumerate(_relative(weights, 1)):
        colour = "white" if abs(share) > 0.6 else INK
        words = f"{weights[row, column]:.3g}".replace("-", "\N{MINUS SIGN}")
        axes.text(column, row, words, ha="center", va="center", color=colour, fontsize=8)


def _short(name: str) -> str:
    """Shorten a name that is too long to be written beside a picture."""
    return name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}…"


@dataclass(frozen=True, eq=False)
class NullDistribution:
    """Hold the largest scores of all shuffles, to draw them.

    Parameters
    ----------
    unit
        What the scores are called.
    maxima
        ``(n_shuffles,)``, the observed one among them.
    observed
        The largest score of the data as they are.
    threshold
        The score that ``alpha`` allows; None if it is out of reach.
    alpha
        The error rate.
    """

    unit: str
    maxima: NDArray[np.float64]
    observed: float
    threshold: float | None
    alpha: float


def null_picture(null: NullDistribution) -> str:
    """Draw the distribution of the maximum with the observed one and the threshold; an SVG."""
    with drawing() as library:
        figure = library.matplotlib.figure.Figure((4.6, 2.3), layout="constrained")
        axes = figure.add_subplot()
        reach = max(float(null.maxima.max()), null.observed, null.threshold or 0.0)
        least = float(null.maxima.min())
        # of few or equal maxima too: a range without width has no bins
        ends = (least, reach) if reach > least else (least - 0.5, least + 0.5)
        n_bins = int(np.clip(2 * np.sqrt(null.maxima.size), 8, 60))
        edges = np.linspace(*ends, n_bins + 1)
        if least >= 0 and reach > FAR * float(np.median(null.maxima)):
            axes.set_xscale("function", functions=(np.sqrt, np.square))
            edges = np.linspace(least**0.5, reach**0.5, n_bins + 1) ** 2
            # what squaring takes from the ends is given back
            edges[0], edges[-1] = ends
            axes.set_xlim(least, 1.02 * reach)
            axes.set_xticks([float(f"{reach * share**2:.2g}") for share in np.linspace(0, 1, 5)])
        axes.stairs(*np.histogram(null.maxima, edges), fill=True, color=SOFT)
        if null.threshold is not None:
            label = f"threshold (p ≤ {null.alpha:g})"
            axes.axvline(null.threshold, color=THRESHOLD, ls="--", lw=1.6, label=label)
        axes.axvline(null.observed, color=OBSERVED, lw=1.8, label="observed")
        is_root = axes.get_xscale() != "linear"
        axes.set_xlabel(f"largest {null.unit}{' (square-root scale)' if is_root else ''}")
        axes.set_ylabel("shuffles")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize="small")
        with library.matplotlib.rc_context({"svg.hashsalt": "gpustats"}):
            return data_uri(figure, "svg")
