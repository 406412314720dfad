"""The shuffles of a permutation test: sign flips, permutations or both, all of them or a sample.

A shuffle is a pure function of the scheme, the seed and its index; shuffle 0 changes nothing.
Ranges of indices can therefore be drawn in any order, batch or process and put together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from gpustats.exchangeability import (
    BlockExchange,
    Errors,
    Exchangeability,
    Positions,
    Sampling,
    check_integer,
)

SIGN_STREAM = 0
PERMUTATION_STREAM = 1
# Keeps the 64-bit arithmetic of the enumeration exact with up to 2^23 subjects.
MAX_PERMUTATIONS = 2**40


@dataclass(frozen=True, eq=False)
class Shuffles:
    """Choose the shuffles of a permutation test, and draw any of them.

    When no more than ``n_permutations`` distinct shuffles exist, each of them is used once and
    the test is exact. Otherwise all but the identity are drawn at random, with replacement.

    Parameters
    ----------
    n_subjects
        Number of subjects (maps, rows of the design), at most 2^23.
    errors
        What is assumed of the errors. ``"ee"``: exchangeable, so permute; ``"ise"``: independent
        and symmetric, so flip signs; ``"both"``: do both.
    n_permutations
        Shuffles to use, the identity included; at most 2^40.
    design
        Full design with the nuisance columns, ``(n_subjects, n_regressors)``. Shuffles that
        give every subject the same design row, sign included, have equal statistics and count
        as one. Rows are compared exactly: pass the columns as they came, before any projection.
        None takes every row to be unlike the others.
    blocks
        Integer label of the exchangeability block of every subject, ``(n_subjects,)``; only
        which labels are equal matters. None puts all subjects into one block.
    block_exchange
        ``"within"``: subjects are exchanged inside their block, and each subject has a sign.
        ``"whole"``: blocks of equal size are exchanged, their subjects in order, and each block
        has one sign. ``"both"``: blocks are exchanged and so are the subjects inside each; the
        sign still belongs to the block, because subjects of one block are not independent.
    seed
        Seed of the shuffles that are drawn at random, 0 to 2^64 - 1.

    Raises
    ------
    ValueError
        If an argument is not as described above, blocks of unequal size are to be permuted as
        wholes, or no shuffle changes the design.

    Notes
    -----
    Random shuffles take the words of ``gpustats.philox.random_words`` under ``seed`` and the
    index of the shuffle. Sign units (subjects, or whole blocks in order of first appearance)
    are numbered from 0: unit ``s`` is flipped if bit ``s mod 32`` of output ``s div 32`` of
    stream 0 is 1. A permutation is the stable argsort of 64-bit keys inside every set of units
    that are exchanged with one another: key ``u`` is output ``2u`` of stream 1 plus 2^32 times
    output ``2u + 1``. Keys belong to the subjects (``"within"``), to the blocks (``"whole"``),
    or first to the blocks and then to the subjects (``"both"``).

    Signs follow PALM [1]_: they belong to the topmost level that is exchanged as a whole.
    Distinct shuffles are the different signed arrangements of the design's rows. Each arises
    from equally many of the permitted rearrangements, so using each once leaves p unchanged.
    A set of flips and its mirror image both count, though a two-sided statistic ties on them.

    References
    ----------
    .. [1] Winkler, Webster, Vidaurre, Nichols & Smith (2015), NeuroImage 123, 253-268.
    .. [2] Winkler, Ridgway, Webster, Smith & Nichols (2014), NeuroImage 92, 381-397.

    Examples
    --------
    >>> shuffles = Shuffles(6, "ee", design=np.repeat(np.eye(2), 3, axis=0))
    >>> shuffles.describe()
    'permutations of 6 subjects: all 20 distinct'
    >>> permutation, signs = shuffles.draw(range(2))
    >>> permutation
    array([[0, 1, 2, 3, 4, 5],
           [0, 1, 3, 4, 5, 2]], dtype=int32)
    """

    n_subjects: int
    errors: Errors
    n_permutations: int = 5000
    design: NDArray[np.float64] | None = None
    blocks: NDArray[np.integer] | None = None
    block_exchange: BlockExchange = "within"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every argument; the methods rely on it."""
        check_integer("n_permutations", self.n_permutations, 1, MAX_PERMUTATIONS)
        check_integer("seed", self.seed, 0, 2**64 - 1)
        # Keep the scheme's copies: the caller may change its own arrays later.
        self._scheme.check_effect()
        object.__setattr__(self, "design", self._scheme.design)
        object.__setattr__(self, "blocks", self._scheme.blocks)

    @cached_property
    def _scheme(self) -> Exchangeability:
        """What may be exchanged or flipped."""
        return Exchangeability(
            self.n_subjects, self.errors, self.design, self.blocks, self.block_exchange
        )

    @property
    def n_distinct(self) -> int:
        """Number of shuffles, the identity included, that differ in their effect on the design."""
        return self._scheme.n_distinct

    @property
    def exhaustive(self) -> bool:
        """Whether every distinct shuffle is used exactly once."""
        return self.n_distinct <= self.n_permutations

    @property
    def n_shuffles(self) -> int:
        """Number of shuffles that are used, the identity included; indices stay below it."""
        return min(self.n_distinct, self.n_permutations)

    @property
    def unmoved(self) -> NDArray[np.float64]:
        """Orthonormal basis of the vectors that no shuffle changes, ``(n_subjects, k)``."""
        return self._scheme.unmoved

    @property
    def sampling(self) -> Sampling:
        """Units of the shuffles that are drawn at random, for engines that draw them too."""
        return self._scheme.sampling

    def among(self, subjects: NDArray[np.intp], design: NDArray[np.float64]) -> Exchangeability:
        """Return what may be exchanged or flipped among some of the subjects.

        Parameters
        ----------
        subjects
            Who they are.
        design
            Their rows of the design, which tell whether a shuffle has an effect.

        Raises
        ------
        ValueError
            If blocks that move as wholes are there in part.
        """
        if self.blocks is None:
            return Exchangeability(subjects.size, self.errors, design)
        blocks = self.blocks[subjects]
        n_partly = np.count_nonzero(np.isin(self.blocks, blocks)) - subjects.size
        if n_partly and self.block_exchange != "within":
            raise ValueError(
                "blocks that move as wholes must be there as wholes, but there are voxels at which "
                f"{n_partly} subjects of such blocks have no data; use block_exchange='within', or "
                "missing='drop_voxel'"
            )
        return Exchangeability(subjects.size, self.errors, design, blocks, self.block_exchange)

    def draw(
        self, indices: Sequence[int] | NDArray[np.integer]
    ) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
        """Give the shuffles with these indices; none depends on which others are asked for.

        In shuffle ``i`` the map of subject ``k``, times ``signs[i, k]``, meets row
        ``permutation[i, k]`` of the design: ``signs * regressor[permutation]`` is the left
        factor of the matrix product with the maps.

        Parameters
        ----------
        indices
            Any indices from 0 to ``n_shuffles - 1``, ``(b,)``, in any order.

        Returns
        -------
        permutation : ndarray
            Design row of every subject, ``(b, n_subjects)`` int32.
        signs : ndarray
            1 or -1 for every subject, ``(b, n_subjects)`` int8.

        Raises
        ------
        ValueError
            If ``indices`` is not a sequence of integers from 0 to ``n_shuffles - 1``.

        Notes
        -----
        When `exhaustive`, index = arrangement * 2^f + flips. Bit ``e`` of ``flips`` belongs to the
        design rows of the ``e``-th of the f sign units whose flip changes the design in a way
        that no permutation does, wherever the arrangement puts these rows. Arrangements of each
        set of units that are exchanged are in lexicographic order, except that at every place
        what was observed there comes first. The sets (the blocks among themselves, then the
        subjects of each block) are the digits of the arrangement's number, the last one fastest.

        Temporary memory is about 32 bytes per subject and shuffle: draw large sets in batches.
        """
        numbers = _checked_indices(indices, self.n_shuffles)
        if self.exhaustive:
            arrangements, flip_sets = np.divmod(numbers, 1 << self._scheme.effective_flips.size)
            units = self._scheme.ranked_units(arrangements)
            flipped = self._scheme.ranked_flips(flip_sets, units)
        else:
            units, flipped = self._random_units(numbers), self._random_flips(numbers)
            units[numbers == 0] = np.arange(units.shape[1])
            flipped[numbers == 0] = False
        permutation = self._scheme.permutation_of_subjects(units).astype(np.int32)
        return permutation, 1 - 2 * flipped[:, self._scheme.sign_unit].astype(np.int8)

    def shuffled(
        self, columns: NDArray[np.float64], indices: Sequence[int] | NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """Shuffle regressors: what meets the maps instead of ``columns`` in these shuffles.

        Parameters
        ----------
        columns
            ``(k, n_subjects)``, the observed regressors.
        indices
            As for `draw`.

        Returns
        -------
        ndarray
            ``(b, k, n_subjects)``.
        """
        permutation, signs = self.draw(indices)
        return (columns[:, permutation] * signs).swapaxes(0, 1)

    def count_distinct_drawn(self) -> int:
        """Count how many of the shuffles that are used differ in effect, by drawing them all again.

        Returns
        -------
        int
            At most ``n_shuffles``, and less where random shuffles repeat.
        """
        if self.exhaustive:
            return self.n_distinct
        rows, negated_rows = self._scheme.row_labels
        n_batch = max(1, 2**20 // self.n_subjects)
        digests: set[bytes] = set()
        for start in range(0, self.n_shuffles, n_batch):
            batch = range(start, min(start + n_batch, self.n_shuffles))
            permutation, signs = self.draw(batch)
            met = np.where(signs > 0, rows[permutation], negated_rows[permutation])
            digests.update(blake2b(shuffle, digest_size=16).digest() for shuffle in met)
        return len(digests)

    def describe(self) -> str:
        """Say in one line which shuffles are used, out of how many, for the log."""
        if self.exhaustive:
            return f"{self._scheme.describe()}: all {_in_words(self.n_distinct)} distinct"
        return (
            f"{self._scheme.describe()}: {self.n_shuffles:,} of {_in_words(self.n_distinct)} "
            f"distinct, drawn at random, seed {self.seed}"
        )

    def _random_units(self, numbers: NDArray[np.int64]) -> Positions:
        """Draw the source of every unit: (b, n_units)."""
        units = np.tile(np.arange(self._scheme.n_units), (numbers.size, 1))
        places, set_start = self.sampling.places, self.sampling.set_start
        if places.size == 0:
            return units
        words = self._words(numbers, PERMUTATION_STREAM, 2 * units.shape[1])
        keys = words[:, 0::2] + (words[:, 1::2].astype(np.uint64) << np.uint64(32))
        units[:, places] = np.lexsort((keys, np.broadcast_to(set_start, keys.shape)), axis=1)
        return units

    def _random_flips(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Draw which sign units are flipped: (b, n_sign_units)."""
        n_signs = self.sampling.n_sign_units
        if n_signs == 0:
            return np.zeros((numbers.size, self._scheme.n_sign_units), np.bool_)
        words = self._words(numbers, SIGN_STREAM, -(-n_signs // 32))
        # Stored little-endian, bit s of a word is bit s mod 8 of its byte s div 8.
        octets = np.ascontiguousarray(words, "<u4").view(np.uint8)
        return np.unpackbits(octets, axis=1, count=n_signs, bitorder="little").view(np.bool_)

    def _words(self, numbers: NDArray[np.int64], stream: int, n_words: int) -> NDArray[np.uint32]:
        """Draw the first random words of the numbered shuffles: (b, n_words)."""
        # Numba is imported by the first computation, not by `import gpustats`
        from gpustats.philox import random_words

        return random_words(self.seed, numbers.astype(np.uint64), stream, n_words)


@dataclass(frozen=True)
class Shard:
    """Name one of equal parts of the shuffles of a test, for runs that are merged later.

    Parameters
    ----------
    number
        Which part, from 1.
    n_shards
        How many there are.

    Raises
    ------
    ValueError
        If there is no such part.

    Examples
    --------
    >>> [Shard(number, 3).range_of(5000) for number in (1, 2, 3)]
    [range(0, 1666), range(1666, 3333), range(3333, 5000)]
    """

    number: int
    n_shards: int

    def __post_init__(self) -> None:
        """Refuse a part that there is not."""
        if not 1 <= self.number <= self.n_shards:
            raise ValueError(
                f"shards are numbered 1 to {self.n_shards}, got {self.number} of {self.n_shards}"
            )

    def range_of(self, n_shuffles: int) -> range:
        """Return the part's range of ``n_shuffles`` shuffles; parts differ by one at most.

        Raises
        ------
        ValueError
            If there are more parts than shuffles.
        """
        if self.n_shards > n_shuffles:
            raise ValueError(
                f"{n_shuffles:,} shuffles cannot be cut into {self.n_shards:,} shards; "
                "take fewer shards"
            )
        start = (self.number - 1) * n_shuffles // self.n_shards
        return range(start, self.number * n_shuffles // self.n_shards)


def _checked_indices(
    indices: Sequence[int] | NDArray[np.integer], n_shuffles: int
) -> NDArray[np.int64]:
    """Give the indices as an array, or refuse what is no index of a shuffle."""
    numbers = np.asarray(indices)
    integers = numbers.ndim == 1 and (numbers.dtype.kind in "iu" or numbers.size == 0)
    if not integers or np.any((numbers < 0) | (numbers >= n_shuffles)):
        raise ValueError(
            f"indices must be integers from 0 to {n_shuffles - 1}, one-dimensional, got {indices!r}"
        )
    return numbers.astype(np.int64)


def _in_words(count: int) -> str:
    """Write a count in full where a reader can take it in, else to two digits."""
    return f"{count:,}" if count < 10**15 else f"about {Decimal(count):.1e}"
