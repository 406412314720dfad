"""Philox4x32-10, the counter-based generator behind every shuffle.

A counter-based generator has no state: block ``c`` of key ``k`` is a function of ``(c, k)``
alone, so any shuffle can be drawn anywhere, in any order, and is the same everywhere. It is
written out here because NumPy's and CuPy's generators do not give each other's numbers.

References
----------
Salmon, Moraes, Dror & Shaw (2011), Parallel random numbers: as easy as 1, 2, 3, SC'11.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpustats.jit import kernel

N_ROUNDS = 10
# Every constant is uint64: Numba turns uint64 combined with a signed integer into float64.
MULTIPLIER_0 = np.uint64(0xD2511F53)
MULTIPLIER_1 = np.uint64(0xCD9E8D57)
WEYL_0 = np.uint64(0x9E3779B9)
WEYL_1 = np.uint64(0xBB67AE85)
LOW_32 = np.uint64(0xFFFFFFFF)
SHIFT_32 = np.uint64(32)


@kernel
def philox_block(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, k0: np.uint64, k1: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Turn one counter into four random 32-bit words; all words are held in uint64."""
    for _ in range(N_ROUNDS):
        product_0 = MULTIPLIER_0 * c0
        product_1 = MULTIPLIER_1 * c2
        c0 = (product_1 >> SHIFT_32) ^ c1 ^ k0
        c1 = product_1 & LOW_32
        c2 = (product_0 >> SHIFT_32) ^ c3 ^ k1
        c3 = product_0 & LOW_32
        k0 = (k0 + WEYL_0) & LOW_32
        k1 = (k1 + WEYL_1) & LOW_32
    return c0, c1, c2, c3


@kernel
def _fill(
    words: NDArray[np.uint32], indices: NDArray[np.uint64], seed: np.uint64, stream: np.uint64
) -> None:
    """Write the blocks of every index side by side into ``words``, ``(b, 4 * n_blocks)``."""
    k0, k1 = seed & LOW_32, seed >> SHIFT_32
    for row in range(indices.size):
        low, high = indices[row] & LOW_32, indices[row] >> SHIFT_32
        for block in range(words.shape[1] // 4):
            output = philox_block(np.uint64(block), low, high, stream, k0, k1)
            for word in range(4):
                words[row, 4 * block + word] = output[word]


def random_words(
    seed: int, indices: NDArray[np.uint64], stream: int, n_words: int
) -> NDArray[np.uint32]:
    """Draw the first words of many independent random sequences.

    Output word ``s`` (0, 1, 2, ...) of a sequence is word ``s mod 4`` of the Philox block with
    counter ``(s div 4, index mod 2^32, index div 2^32, stream)`` and key
    ``(seed mod 2^32, seed div 2^32)``.

    Parameters
    ----------
    seed
        Seed, 0 to 2^64 - 1.
    indices
        Numbers of the sequences, ``(b,)``.
    stream
        Which of the unrelated sequences of an index to draw from, 0 to 2^32 - 1.
    n_words
        Words to draw from each sequence.

    Returns
    -------
    ndarray
        Uniform 32-bit words, ``(b, n_words)``.
    """
    words = np.empty((indices.size, -(-n_words // 4) * 4), np.uint32)
    _fill(words, indices, np.uint64(seed), np.uint64(stream))
    return words[:, :n_words]
