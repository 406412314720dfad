"""Philox4x32-10 against the published answers and a plain restatement of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpustats.philox import philox_block, random_words

ONES = 2**32 - 1
# Random123, kat_vectors: counter, key, output.
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([ONES] * 4, [ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def plain_philox(counter, key):
    """Salmon et al. (2011), section 3.2, in Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        (high_0, low_0), (high_1, low_1) = (
            divmod(0xD2511F53 * c[0], 2**32),
            divmod(0xCD9E8D57 * c[2], 2**32),
        )
        c = [high_1 ^ c[1] ^ k[0], low_1, high_0 ^ c[3] ^ k[1], low_0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def plain_word(seed, index, stream, number):
    """Output ``number`` of the sequence of an index, by the definition of `random_words`."""
    counter = (number // 4, index % 2**32, index // 2**32, stream)
    return plain_philox(counter, (seed % 2**32, seed // 2**32))[number % 4]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter, key, answer):
    assert [int(word) for word in philox_block(*map(np.uint64, counter + key))] == answer
    assert plain_philox(counter, key) == answer


@given(
    seed=st.integers(0, 2**64 - 1),
    indices=st.lists(st.integers(0, 2**64 - 1), max_size=3),
    stream=st.integers(0, 2**32 - 1),
    n_words=st.integers(0, 9),
)
def test_words_are_numbered_as_documented(seed, indices, stream, n_words):
    words = random_words(seed, np.array(indices, np.uint64), stream, n_words)
    assert words.dtype == np.uint32
    assert words.shape == (len(indices), n_words)
    for index, row in zip(indices, words.tolist(), strict=True):
        assert row == [plain_word(seed, index, stream, number) for number in range(n_words)]
