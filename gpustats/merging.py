"""How results of ranges of shuffles become that of all of them, one by one and in any order."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpustats.outcomes import Inference, Outcome

ENGINE = "engine"
"""The part of a fingerprint that names the device and the libraries of its products."""

COUNTED = ("counts", "null_contributions")
"""The counts of an outcome, which add up where they were asked for."""


def merge(inferences: Iterable[Inference], *, allow_mixed: bool = False) -> Inference:
    """Put results of different ranges of shuffles together.

    Parameters
    ----------
    inferences
        Results of `permutation_test` with different ``shuffles``, in any order. They are taken
        one by one: of an iterator that reads files, one at a time is held in memory.
    allow_mixed
        Whether they may come from different engines, of which the last bits depend: maxima
        then agree to 1e-5 with those of one engine.

    Returns
    -------
    Inference
        Exactly what one run over all of the ranges would have given.

    Raises
    ------
    ValueError
        If there are none, their fingerprints differ (the message says in what), or their ranges
        overlap or leave a gap.
    """
    merger = Merger(allow_mixed=allow_mixed)
    for number, one in enumerate(inferences, start=1):
        merger.add(one, f"result {number}")
    return merger.whole()


class Merger:
    """Take results of ranges of shuffles one by one, in any order.

    Beside one whole result only the maxima of the others are held.

    Parameters
    ----------
    allow_mixed
        As in `merge`.
    """

    def __init__(self, *, allow_mixed: bool = False) -> None:
        self.allow_mixed = allow_mixed
        self.engines: set[str] = set()
        self.head: Inference | None = None
        self.sums: list[OutcomeSum] = []
        self.name = ""

    def add(self, part: Inference, name: str) -> None:
        """Take a result; its name is for messages.

        Raises
        ------
        ValueError
            If it is of another run, or has shuffles that are there already.
        """
        if self.head is None:
            self.head, self.name = part, name
            self.sums = [OutcomeSum() for _ in part.outcomes]
        self._check_fingerprint(self.head.fingerprint, part.fingerprint, name)
        for total, outcome in zip(self.sums, part.outcomes, strict=True):
            total.add(outcome, name)
        self.engines.add(part.fingerprint[ENGINE])
        if part.outcomes[0].indices.start < self.head.outcomes[0].indices.start:
            self.head, self.name = part, name

    def whole(self) -> Inference:
        """Return the result of all shuffles that were taken.

        Raises
        ------
        ValueError
            If there are none, or some between them are missing.
        """
        if self.head is None:
            raise ValueError("nothing to merge; give at least one result")
        fingerprint = {**self.head.fingerprint, ENGINE: " and ".join(sorted(self.engines))}
        outcomes = tuple(total.whole() for total in self.sums)
        return replace(self.head, outcomes=outcomes, fingerprint=fingerprint)

    def _check_fingerprint(
        self, one: Mapping[str, str], other: Mapping[str, str], name: str
    ) -> None:
        """Refuse a result of another run, and say in what it differs."""
        different = [key for key in one if one[key] != other.get(key)]
        if self.allow_mixed and ENGINE in different:
            different.remove(ENGINE)
        if not different:
            return
        details = ", ".join(f"{key} ({one[key]} and {other.get(key)})" for key in different)
        advice = ""
        if different == [ENGINE]:
            advice = "; allow mixed engines if agreement to 1e-5 will do (--allow-mixed)"
        raise ValueError(
            f"{self.name} and {name}: results of different runs cannot be merged; they differ in "
            f"{details}{advice}"
        )


class _Piece(NamedTuple):
    """The maxima of a range of shuffles, and where they come from."""

    start: int
    stop: int
    name: str
    maxima: NDArray[np.float64]
    null_maxima: NDArray[np.float64]


class OutcomeSum:
    """Put what was found of one statistic together: counts add up, maxima find their place."""

    def __init__(self) -> None:
        self.pieces: list[_Piece] = []
        self.first: Outcome | None = None
        self.sums: dict[str, NDArray[np.int64]] = {}

    def add(self, outcome: Outcome, name: str) -> None:
        """Take the outcome of a range of shuffles; its name is for messages.

        Raises
        ------
        ValueError
            If one of its shuffles is there already.
        """
        start, stop = outcome.indices.start, outcome.indices.stop
        piece = _Piece(start, stop, name, outcome.maxima, outcome.null_maxima)
        place = bisect_left(self.pieces, start, key=attrgetter("start"))
        near = [*self.pieces[max(place - 1, 0) : place], piece, *self.pieces[place : place + 1]]
        for before, after in pairwise(near):
            _check_apart(before, after)
        self.pieces.insert(place, piece)
        for which in COUNTED:
            if (counts := getattr(outcome, which)) is not None:
                self.sums[which] = self.sums.get(which, 0) + counts
        if self.first is None or start < self.first.indices.start:
            self.first = outcome

    def whole(self) -> Outcome:
        """Return the outcome of all shuffles that were taken.

        Raises
        ------
        ValueError
            If there are none, or some between them are missing.
        """
        if self.first is None:
            raise ValueError("nothing to merge; give at least one result")
        for before, after in pairwise(self.pieces):
            if before.stop < after.start:
                raise ValueError(
                    f"ranges of shuffles leave a gap between {before.stop} and {after.start}, "
                    f"after {before.name} and before {after.name}; each shuffle must be there once"
                )
        return replace(
            self.first,
            indices=range(self.pieces[0].start, self.pieces[-1].stop),
            maxima=np.concatenate([piece.maxima for piece in self.pieces]),
            null_maxima=np.concatenate([piece.null_maxima for piece in self.pieces]),
            counts=self.sums.get("counts"),
            null_contributions=self.sums.get("null_contributions"),
        )


def _check_apart(before: _Piece, after: _Piece) -> None:
    """Refuse two ranges, by their starts, that have shuffles in common."""
    if after.start < before.stop:
        raise ValueError(
            f"ranges of shuffles overlap at {after.start}: {before.name} has {before.start} to "
            f"{before.stop}, {after.name} {after.start} to {after.stop}; each shuffle must be "
            "there once"
        )
