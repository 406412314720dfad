"""What may be exchanged under the null hypothesis, and which exchanges have different effects.

Shuffles move units: subjects, whole exchangeability blocks, or first blocks and then the subjects
in them. This module knows the units of a design, counts the shuffles that differ in their effect
and numbers them; `gpustats.shuffles` chooses among them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Errors = Literal["ee", "ise", "both"]
BlockExchange = Literal["within", "whole", "both"]
Positions = NDArray[np.intp]

WHAT_IS_SHUFFLED = {
    "ee": "permutations",
    "ise": "sign flips",
    "both": "permutations and sign flips",
}
HOW_BLOCKS_MOVE = {
    "within": "within {} blocks",
    "whole": "in {} blocks as wholes",
    "both": "within and between {} blocks",
}


class Sampling(NamedTuple):
    """Describe the units of random shuffles, for whoever draws them.

    Parameters
    ----------
    places
        ``(n_units,)`` int32: the units, those of a set that is exchanged side by side; empty if
        none are exchanged. Behind the blocks come, under "both", their subjects.
    set_start
        ``(n_units,)`` int32: where in ``places`` the set of every unit starts.
    set_size
        ``(n_units,)`` int32: how many units the set of every unit has.
    blocks
        ``(n_blocks, size)`` int32: subjects of the blocks that are exchanged; None if none are.
    sign_unit
        ``(n_subjects,)`` int32: number of the sign of every subject.
    n_sign_units
        Number of signs that are flipped; 0 if none are.
    """

    places: NDArray[np.int32]
    set_start: NDArray[np.int32]
    set_size: NDArray[np.int32]
    blocks: NDArray[np.int32] | None
    sign_unit: NDArray[np.int32]
    n_sign_units: int


@dataclass(frozen=True, eq=False)
class Exchangeability:
    """Know the units that shuffles exchange or flip; `Shuffles` describes fields and errors."""

    n_subjects: int
    errors: Errors
    design: NDArray[np.float64] | None = None
    blocks: NDArray[np.integer] | None = None
    block_exchange: BlockExchange = "within"

    def __post_init__(self) -> None:
        """Check every argument and copy the arrays; the methods rely on both."""
        check_integer("n_subjects", self.n_subjects, 1, 2**23)
        _check_choice("errors", self.errors, get_args(Errors))
        _check_choice("block_exchange", self.block_exchange, get_args(BlockExchange))
        if self.design is not None:
            object.__setattr__(self, "design", _checked_design(self.design, self.n_subjects))
        if self.blocks is not None:
            object.__setattr__(self, "blocks", _checked_blocks(self.blocks, self.n_subjects))
        elif self._moves_blocks:
            raise ValueError(
                f"block_exchange={self.block_exchange!r} moves blocks, but blocks is None; "
                "give the block of every subject or use block_exchange='within'"
            )
        if self.permutes and self._moves_blocks:
            _check_equal_sizes([block.size for block in self._block_members])

    def check_effect(self) -> None:
        """Refuse shuffles of which none changes the design."""
        if self.n_distinct == 1:
            raise ValueError(
                "a shuffle must be able to change the design, but all "
                f"{self.describe()} leave every row as it is; check errors (a one-sample design "
                "needs sign flips, 'ise'), design and blocks"
            )

    @property
    def permutes(self) -> bool:
        """Whether any units are exchanged with one another."""
        return self.errors != "ise"

    @property
    def flips(self) -> bool:
        """Whether any signs are flipped."""
        return self.errors != "ee"

    @cached_property
    def n_distinct(self) -> int:
        """Number of shuffles, the identity included, that differ in their effect on the design."""
        arrangements = (_n_arrangements(labels) for _, labels in self.exchanges)
        return math.prod(arrangements) << self.effective_flips.size

    def describe(self) -> str:
        """Say what is shuffled, for a log line or an error."""
        what = f"{WHAT_IS_SHUFFLED[self.errors]} of {self.n_subjects:,} subjects"
        if self.blocks is None:
            return what
        n_blocks = f"{len(self._block_members):,}"
        return f"{what} {HOW_BLOCKS_MOVE[self.block_exchange].format(n_blocks)}"

    @cached_property
    def row_labels(self) -> tuple[Positions, Positions]:
        """Label of every design row and of its negative; equal labels mean equal rows."""
        if self.design is None:
            own = np.arange(1, self.n_subjects + 1)
            return own, -own
        rows = np.concatenate([self.design, -self.design])
        _, labels = np.unique(rows, axis=0, return_inverse=True)
        own, negated = labels.reshape(2, self.n_subjects)
        return own, negated

    @cached_property
    def sign_unit(self) -> Positions:
        """Number of the sign of every subject: its own, or that of its block."""
        return self._block_of if self._moves_blocks else np.arange(self.n_subjects)

    @cached_property
    def n_sign_units(self) -> int:
        """Number of signs that are flipped independently of one another."""
        return int(self.sign_unit.max()) + 1

    @property
    def n_units(self) -> int:
        """Number of units: the sign units, and under "both" the subjects after the blocks."""
        return self.n_sign_units + (self.n_subjects if self.block_exchange == "both" else 0)

    @cached_property
    def effective_flips(self) -> Positions:
        """Sign units whose flip changes the design in a way that no permutation does."""
        own, negated = self._unit_labels
        return np.flatnonzero(own != negated) if self.flips else np.empty(0, np.intp)

    @cached_property
    def exchanges(self) -> list[tuple[Positions, Positions]]:
        """Sets of units that are exchanged with one another, with the labels of their rows."""
        if not self.permutes:
            return []
        own, negated = self._unit_labels
        # Where signs flip as well, rows and their negatives lead to the same arrangements.
        labels = np.minimum(own, negated) if self.flips else own
        if not self._moves_blocks:
            return [(block, labels[block]) for block in self._block_members]
        n_blocks = len(self._block_members)
        wholes = [(np.arange(n_blocks), labels)]
        if self.block_exchange == "whole":
            return wholes
        rows, _ = self.row_labels
        return wholes + [(n_blocks + block, rows[block]) for block in self._block_members]

    @cached_property
    def sampling(self) -> Sampling:
        """How the units are drawn at random."""
        sets = [members for members, _ in self.exchanges]
        sizes = np.array([members.size for members in sets], np.int32)
        places = np.concatenate([np.empty(0, np.int32), *sets], dtype=np.int32)
        set_start, set_size = np.empty_like(places), np.empty_like(places)
        set_start[places] = np.repeat(np.cumsum(sizes) - sizes, sizes)
        set_size[places] = np.repeat(sizes, sizes)
        exchanged = self.permutes and self._moves_blocks
        return Sampling(
            places,
            set_start,
            set_size,
            np.array(self._block_members, np.int32) if exchanged else None,
            self.sign_unit.astype(np.int32),
            self.n_sign_units if self.flips else 0,
        )

    @cached_property
    def places(self) -> Positions | None:
        """Group of every subject within which subjects take each other's place; None if signs flip.

        What is constant within the groups, no shuffle changes.
        """
        if self.flips:
            return None
        if not self._moves_blocks:
            return self._block_of
        if self.block_exchange == "both":
            return np.zeros(self.n_subjects, np.intp)
        position = np.empty(self.n_subjects, np.intp)
        for block in self._block_members:
            position[block] = np.arange(block.size)
        return position

    @property
    def unmoved(self) -> NDArray[np.float64]:
        """Orthonormal basis of the vectors that no shuffle changes, ``(n_subjects, k)``."""
        places = self.places
        if places is None:
            return np.empty((self.n_subjects, 0))
        indicators = (places[:, np.newaxis] == np.unique(places)).astype(np.float64)
        return np.asarray(indicators / np.sqrt(indicators.sum(axis=0)))

    def ranked_units(self, ranks: NDArray[np.int64]) -> Positions:
        """Give the source of every unit in the numbered arrangements: (b, n_units)."""
        units = np.tile(np.arange(self.n_units), (ranks.size, 1))
        for members, labels in reversed(self.exchanges):
            n_arrangements = _n_arrangements(labels)
            if n_arrangements > 1:
                ranks, digit = np.divmod(ranks, n_arrangements)
                units[:, members] = members[_nth_arrangements(labels, digit)]
        return units

    def ranked_flips(self, ranks: NDArray[np.int64], units: Positions) -> NDArray[np.bool_]:
        """Give which sign units are flipped in the numbered sets of flips: (b, n_sign_units)."""
        flipped = np.zeros((ranks.size, self.n_sign_units), np.bool_)
        bits = np.arange(self.effective_flips.size)
        flipped[:, self.effective_flips] = (ranks[:, np.newaxis] >> bits) & 1
        # Whether a flip has an effect depends on the rows, so it goes where they go.
        return np.take_along_axis(flipped, units[:, : self.n_sign_units], axis=1)

    def permutation_of_subjects(self, units: Positions) -> Positions:
        """Turn the sources of the units into the design row of every subject."""
        if not self._moves_blocks:
            return units
        blocks = self.sampling.blocks
        if blocks is None:
            return np.tile(np.arange(self.n_subjects), (len(units), 1))
        permutation = np.empty((len(units), self.n_subjects), np.intp)
        permutation[:, blocks.ravel()] = blocks[units[:, : len(blocks)]].reshape(permutation.shape)
        if self.block_exchange == "whole":
            return permutation
        inside = units[:, len(blocks) :] - len(blocks)
        return np.take_along_axis(inside, permutation, axis=1)

    @property
    def _moves_blocks(self) -> bool:
        """Whether blocks are exchanged, and flipped, as wholes."""
        return self.block_exchange != "within"

    @cached_property
    def _block_of(self) -> Positions:
        """Block of every subject, numbered from 0 in order of first appearance."""
        if self.blocks is None:
            return np.zeros(self.n_subjects, np.intp)
        _, first, block = np.unique(self.blocks, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[block]

    @cached_property
    def _block_members(self) -> list[Positions]:
        """Subjects of every block, ascending."""
        ends = np.cumsum(np.bincount(self._block_of))
        return np.split(np.argsort(self._block_of, kind="stable"), ends[:-1])

    @cached_property
    def _unit_labels(self) -> tuple[Positions, Positions]:
        """Label of the design rows of every sign unit, and of their negatives."""
        own, negated = self.row_labels
        if not self._moves_blocks:
            return own, negated
        # Where the subjects of a block are exchanged too, the order of its rows is immaterial.
        in_order = sorted if self.permutes and self.block_exchange == "both" else list
        numbers: dict[tuple[int, ...], int] = {}
        labels = [
            numbers.setdefault(tuple(in_order(rows[block].tolist())), len(numbers))
            for rows in (own, negated)
            for block in self._block_members
        ]
        own, negated = np.array(labels).reshape(2, len(self._block_members))
        return own, negated


def _n_arrangements(labels: Positions) -> int:
    """Count the different orders of a sequence in which equal labels are interchangeable."""
    _, counts = np.unique(labels, return_counts=True)
    repeats = math.prod(math.factorial(count) for count in counts.tolist())
    return math.factorial(labels.size) // repeats


def _nth_arrangements(labels: Positions, ranks: NDArray[np.int64]) -> Positions:
    """Give the numbered arrangements of a sequence as positions in it: (b, n).

    The order is lexicographic, except that at every place the label of the sequence itself comes
    before the others; so number 0 is the sequence as it stands.
    """
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_label = np.argsort(labels, kind="stable")
    ends = np.cumsum(counts)
    batch = np.arange(ranks.size)
    left = np.tile(counts, (ranks.size, 1))
    n_orders = np.full(ranks.size, _n_arrangements(labels))
    positions = np.empty((ranks.size, labels.size), np.intp)
    for place, observed in enumerate(labels):
        choices = np.append(observed, np.delete(np.arange(counts.size), observed))
        # Of the orders that remain, a label opens a share equal to its share of the labels left.
        orders = n_orders[:, np.newaxis] * left[:, choices] // (labels.size - place)
        passed = np.cumsum(orders, axis=1)
        choice = np.sum(passed <= ranks[:, np.newaxis], axis=1)
        n_orders = orders[batch, choice]
        ranks = ranks - (passed[batch, choice] - n_orders)
        label = choices[choice]
        positions[:, place] = by_label[ends[label] - left[batch, label]]
        left[batch, label] -= 1
    return positions


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Refuse a value that is not an integer from ``low`` to ``high``."""
    if not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _checked_design(design: ArrayLike, n_subjects: int) -> NDArray[np.float64]:
    """Copy the design as float64, or say what is wrong with it."""
    rows = np.array(design, np.float64)
    if rows.ndim != 2 or len(rows) != n_subjects:
        raise ValueError(
            "design must be (n_subjects, n_regressors), one row per subject: expected "
            f"{n_subjects} rows, got shape {rows.shape}"
        )
    if not np.isfinite(rows).all():
        raise ValueError(
            f"design must be finite, got NaN or infinity in {np.sum(~np.isfinite(rows))} places; "
            "leave these subjects out or impute the values"
        )
    rows.setflags(write=False)
    return rows


def _checked_blocks(blocks: ArrayLike, n_subjects: int) -> NDArray[np.integer]:
    """Copy the labels of the blocks, or say what is wrong with them."""
    labels = np.array(blocks)
    if labels.shape != (n_subjects,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"blocks must be {n_subjects} integers, the block of every subject, got dtype "
            f"{labels.dtype} and shape {labels.shape}; "
            "numpy.unique(..., return_inverse=True) numbers other labels"
        )
    labels.setflags(write=False)
    return labels


def _check_equal_sizes(sizes: list[int]) -> None:
    """Refuse to permute blocks of different size as wholes, as PALM does."""
    if len(set(sizes)) > 1:
        raise ValueError(
            "blocks that are permuted as wholes must have equal sizes, got blocks of "
            f"{', '.join(map(str, sorted(set(sizes))))} subjects; use block_exchange='within', "
            "or errors='ise' to flip the signs of whole blocks"
        )
