"""Shuffles against the plain definition of what may be exchanged, flipped and told apart."""

import pickle
from collections import Counter
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from gpustats.philox import random_words
from gpustats.shuffles import Shuffles

PAIRS = np.array([0, 0, 1, 1, 2, 2])
TWO_GROUPS = np.repeat(np.eye(2), 3, axis=0)
ALTERNATING = np.tile([[1.0], [-1.0]], (3, 1))
REPEATED_AGES = np.column_stack([np.ones(6), [30, 25, 30, 41, 25, 30]])
ONE_ZERO_ROW = np.array([[1.0, 2], [0, -0.0], [1, 2], [-1, -2], [3, 1], [0, 1]])
MIRROR_BLOCKS = np.array([[1.0], [2], [-2], [-1], [2], [1]])
BALANCED_BLOCKS = np.array([[1.0], [-1], [-1], [1], [1], [2]])


def members(blocks):
    """Subjects of every block."""
    return [np.flatnonzero(blocks == block).tolist() for block in np.unique(blocks)]


def is_allowed(permutation, blocks, block_exchange):
    """Whether a permutation of the subjects respects the blocks."""
    if block_exchange == "within":
        return np.array_equal(blocks[list(permutation)], blocks)
    order = sorted if block_exchange == "both" else list
    images = [order(permutation[subject] for subject in block) for block in members(blocks)]
    return all(image in members(blocks) for image in images)


def allowed(shuffles):
    """Every permitted pair of a permutation and signs, by brute force."""
    n = shuffles.n_subjects
    blocks = np.zeros(n, int) if shuffles.blocks is None else shuffles.blocks
    orders, signs = [tuple(range(n))], [(1,) * n]
    if shuffles.errors != "ise":
        orders = [
            p for p in permutations(range(n)) if is_allowed(p, blocks, shuffles.block_exchange)
        ]
    if shuffles.errors != "ee":
        units = np.arange(n) if shuffles.block_exchange == "within" else blocks
        unit = np.unique(units, return_inverse=True)[1]
        signs = [tuple(np.array(s)[unit]) for s in product((1, -1), repeat=unit.max() + 1)]
    return list(product(orders, signs))


def effect(shuffles, permutation, signs):
    """Give the design that the subjects meet after a shuffle."""
    design = np.diag(np.arange(1, len(signs) + 1)) if shuffles.design is None else shuffles.design
    return tuple(map(tuple, np.asarray(signs)[:, np.newaxis] * design[list(permutation)] + 0.0))


def effects(shuffles, indices):
    """Give the designs that the subjects meet after the shuffles with these indices."""
    return [effect(shuffles, *shuffle) for shuffle in zip(*shuffles.draw(indices), strict=True)]


SMALL = {
    "one sample": Shuffles(5, "ise", design=np.ones((5, 1))),
    "one subject": Shuffles(1, "ise"),
    "one sample, covariate": Shuffles(6, "ise", design=REPEATED_AGES),
    "flips with a zero row": Shuffles(6, "ise", design=ONE_ZERO_ROW),
    "flips within": Shuffles(6, "ise", design=ONE_ZERO_ROW, blocks=PAIRS),
    "flips of pairs": Shuffles(6, "ise", blocks=PAIRS[::-1], block_exchange="whole"),
    "flips of unequal blocks": Shuffles(
        6, "ise", blocks=np.array([1, 7, 1, 1, 7, 5]), block_exchange="both"
    ),
    "flips of balanced blocks": Shuffles(
        6, "ise", design=BALANCED_BLOCKS, blocks=PAIRS, block_exchange="both"
    ),
    "all rows unlike": Shuffles(5, "ee"),
    "two groups": Shuffles(6, "ee", design=TWO_GROUPS),
    "groups alternating": Shuffles(6, "ee", design=ALTERNATING),
    "repeated covariate": Shuffles(6, "ee", design=REPEATED_AGES),
    "within unequal blocks": Shuffles(
        6, "ee", design=REPEATED_AGES, blocks=np.array([3, -1, 3, 3, -1, 2])
    ),
    "within pairs": Shuffles(6, "ee", design=ALTERNATING, blocks=PAIRS),
    "whole pairs": Shuffles(6, "ee", design=MIRROR_BLOCKS, blocks=PAIRS, block_exchange="whole"),
    "whole scattered": Shuffles(
        6, "ee", design=REPEATED_AGES, blocks=np.array([5, 9, 5, 9, 1, 1]), block_exchange="whole"
    ),
    "whole and within": Shuffles(
        6, "ee", design=REPEATED_AGES, blocks=PAIRS, block_exchange="both"
    ),
    "whole and within, mirror": Shuffles(
        6, "ee", design=MIRROR_BLOCKS, blocks=np.array([0, 1, 0, 2, 1, 2]), block_exchange="both"
    ),
    "permute and flip": Shuffles(4, "both"),
    "permute and flip, equal rows": Shuffles(6, "both", design=np.ones((6, 1))),
    "permute and flip, zero row": Shuffles(6, "both", design=ONE_ZERO_ROW, blocks=PAIRS),
    "permute and flip wholes": Shuffles(
        6, "both", design=MIRROR_BLOCKS, blocks=PAIRS, block_exchange="whole"
    ),
    "permute and flip at both levels": Shuffles(
        6, "both", design=MIRROR_BLOCKS, blocks=PAIRS, block_exchange="both"
    ),
    "a flip that is also a permutation": Shuffles(
        6, "both", design=BALANCED_BLOCKS, blocks=PAIRS, block_exchange="both"
    ),
}
small = pytest.mark.parametrize("shuffles", SMALL.values(), ids=SMALL.keys())


@small
def test_enumeration_is_every_distinct_shuffle_once(shuffles):
    expected = Counter(effect(shuffles, *shuffle) for shuffle in allowed(shuffles))
    shuffles = replace(shuffles, n_permutations=shuffles.n_distinct)
    found = effects(shuffles, range(shuffles.n_distinct))
    assert shuffles.exhaustive
    assert shuffles.n_shuffles == shuffles.n_distinct == len(expected)
    assert sorted(found) == sorted(expected)
    # Each effect arises from equally many shuffles, so none weighs more than another in p.
    assert len(set(expected.values())) == 1


@small
def test_shuffles_are_permitted(shuffles):
    permitted = {(*permutation, *signs) for permutation, signs in allowed(shuffles)}
    for scheme in (shuffles, replace(shuffles, n_permutations=shuffles.n_distinct - 1)):
        drawn = np.hstack(scheme.draw(range(scheme.n_shuffles)))
        assert set(map(tuple, drawn.tolist())) <= permitted


@small
def test_shuffle_zero_is_the_identity(shuffles):
    for scheme in (shuffles, replace(shuffles, n_permutations=1)):
        permutation, signs = scheme.draw([0])
        assert permutation.tolist() == [list(range(shuffles.n_subjects))]
        assert signs.tolist() == [[1] * shuffles.n_subjects]


@pytest.mark.parametrize(
    ("shuffles", "n_distinct"),
    [
        (Shuffles(20, "ise", design=np.ones((20, 1))), 2**20),
        (Shuffles(100, "ise"), 2**100),
        (Shuffles(6, "ee", design=TWO_GROUPS), 20),
        (Shuffles(60, "ee", design=np.repeat(np.eye(2), 30, axis=0)), 118264581564861424),
        (Shuffles(9, "ee", blocks=np.repeat([0, 1, 2], 3)), 6**3),
        (Shuffles(9, "ee", blocks=np.repeat([0, 1, 2], 3), block_exchange="whole"), 6),
        (Shuffles(9, "ee", blocks=np.repeat([0, 1, 2], 3), block_exchange="both"), 6 * 6**3),
        (Shuffles(9, "both", blocks=np.repeat([0, 1, 2], 3), block_exchange="both"), 8 * 6 * 6**3),
        (Shuffles(5, "both"), 120 * 32),
    ],
)
def test_counts_known_in_closed_form(shuffles, n_distinct):
    assert shuffles.n_distinct == n_distinct


def test_order_of_the_enumeration():
    flips = Shuffles(3, "ise").draw(range(8))[1]
    assert flips.tolist() == [
        [1 - 2 * (number >> bit & 1) for bit in range(3)] for number in range(8)
    ]
    orders = Shuffles(3, "ee").draw(range(6))[0]
    assert orders.tolist() == [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 1, 0], [2, 0, 1]]
    nested = Shuffles(4, "ee", blocks=np.array([0, 0, 1, 1]), block_exchange="both").draw(range(5))[
        0
    ]
    assert nested.tolist() == [[0, 1, 2, 3], [0, 1, 3, 2], [1, 0, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1]]
    within = Shuffles(4, "both", design=np.eye(4)[[0, 1, 2, 2]], blocks=np.array([0, 0, 1, 1]))
    permutation, signs = within.draw(range(16, 32))
    assert (permutation == [1, 0, 2, 3]).all()
    assert (signs[:, [1, 0, 2, 3]] == Shuffles(4, "ise").draw(range(16))[1]).all()


LARGE = {
    "flips": Shuffles(70, "ise", n_permutations=300, seed=3),
    "permutations": Shuffles(70, "ee", n_permutations=300, seed=2**64 - 1),
    "within": Shuffles(30, "both", n_permutations=300, blocks=np.arange(30) % 4),
    "whole": Shuffles(
        66, "both", n_permutations=300, blocks=np.arange(66) % 33, block_exchange="whole"
    ),
    "both": Shuffles(
        30, "both", n_permutations=300, blocks=np.arange(30) // 5 % 3, block_exchange="both"
    ),
}


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
@given(data=st.data())
def test_a_shuffle_depends_on_its_index_only(name, data):
    shuffles = {**SMALL, **LARGE}[name]
    index = st.integers(0, shuffles.n_shuffles - 1)
    indices = data.draw(st.lists(index, max_size=6))
    together = np.hstack(shuffles.draw(indices))
    alone = [np.hstack(shuffles.draw(np.array([index], np.uint32)))[0] for index in indices]
    assert together.shape == (len(indices), 2 * shuffles.n_subjects)
    assert together.tolist() == [row.tolist() for row in alone]


def plain_shuffle(shuffles, index):
    """Draw a random shuffle, word by word as the notes of `Shuffles` define it."""
    blocks = np.zeros(shuffles.n_subjects, int) if shuffles.blocks is None else shuffles.blocks
    groups = [np.flatnonzero(blocks == block).tolist() for block in dict.fromkeys(blocks.tolist())]
    moves_blocks = shuffles.block_exchange != "within"
    subjects = range(shuffles.n_subjects)

    numbers = np.array([index], np.uint64)

    def word(stream, number):
        return int(random_words(shuffles.seed, numbers, stream, number + 1)[0, number])

    def key(unit):
        return word(1, 2 * unit) + 2**32 * word(1, 2 * unit + 1)

    first_key = len(groups) if shuffles.block_exchange == "both" else 0
    source = list(subjects)
    if shuffles.errors != "ise" and shuffles.block_exchange != "whole":
        for group in groups:
            ordered = sorted(group, key=lambda subject: key(first_key + subject))
            for place, subject in zip(group, ordered, strict=True):
                source[place] = subject
    permutation = list(source)
    if shuffles.errors != "ise" and moves_blocks:
        for place, moved in zip(groups, sorted(range(len(groups)), key=key), strict=True):
            for subject, replaced in zip(groups[moved], place, strict=True):
                permutation[replaced] = source[subject]
    unit = {s: number for number, group in enumerate(groups) for s in group}
    units = [unit[subject] if moves_blocks else subject for subject in subjects]
    bits = [word(0, u // 32) >> u % 32 & 1 for u in units]
    return permutation, [1 - 2 * bit if shuffles.errors != "ee" else 1 for bit in bits]


@pytest.mark.parametrize("shuffles", LARGE.values(), ids=LARGE.keys())
def test_random_shuffles_follow_their_definition(shuffles):
    permutation, signs = shuffles.draw([1, 2, 299])
    assert permutation.dtype == np.int32
    assert signs.dtype == np.int8
    for row, index in enumerate((1, 2, 299)):
        expected_permutation, expected_signs = plain_shuffle(shuffles, index)
        assert permutation[row].tolist() == expected_permutation
        assert signs[row].tolist() == expected_signs


def test_permutations_are_uniform_and_blocks_independent():
    shuffles = Shuffles(12, "ee", n_permutations=13_000, blocks=np.repeat([0, 1, 2], 4), seed=11)
    permutation, _ = shuffles.draw(range(1, 13_000))
    cell = {order: number for number, order in enumerate(permutations(range(4)))}
    first = np.array([cell[tuple(row)] for row in permutation[:, :4]])
    last = np.array([cell[tuple(row)] for row in permutation[:, 8:] - 8])
    for cells, n_cells in ((first, 24), (last, 24), (24 * first + last, 576)):
        assert chisquare(np.bincount(cells, minlength=n_cells)).pvalue > 1e-3


def test_signs_are_balanced_and_uncorrelated():
    n = 20_000
    _, signs = Shuffles(100, "ise", n_permutations=n, seed=1).draw(range(1, n))
    moments = signs.T.astype(float) @ signs / n
    # Standard error 1/sqrt(n); 4950 correlations stay within five of them.
    assert np.abs(signs.mean(axis=0)).max() < 4 / np.sqrt(n)
    assert np.abs(moments - np.diag(np.diag(moments))).max() < 5 / np.sqrt(n)


def test_signs_and_permutations_are_independent():
    n = 20_000
    permutation, signs = Shuffles(8, "both", n_permutations=n, seed=5).draw(range(1, n))
    cells = 2 * permutation[:, 0] + (signs[:, 0] > 0)
    assert chisquare(np.bincount(cells, minlength=16)).pvalue > 1e-3


@pytest.mark.parametrize("shuffles", LARGE.values(), ids=LARGE.keys())
def test_the_seed_matters_and_the_number_of_shuffles_does_not(shuffles):
    drawn = np.hstack(shuffles.draw(range(300)))
    longer = np.hstack(replace(shuffles, n_permutations=4000).draw(range(300)))
    other = np.hstack(replace(shuffles, seed=shuffles.seed ^ 2**40).draw(range(300)))
    assert (drawn == longer).all()
    assert (drawn[1:] != other[1:]).any(axis=1).mean() > 0.99


@pytest.mark.parametrize("block_exchange", ["within", "whole", "both"])
def test_names_of_blocks_do_not_matter(block_exchange):
    shuffles = Shuffles(12, "both", 40, blocks=np.arange(12) % 3, block_exchange=block_exchange)
    renamed = replace(shuffles, blocks=np.array([40, -7, 12], np.int16)[shuffles.blocks])
    for one, other in zip(shuffles.draw(range(40)), renamed.draw(range(40)), strict=True):
        assert (one == other).all()


def test_a_shuffle_of_the_design_is_the_inverse_shuffle_of_the_data():
    rng = np.random.default_rng(0)
    regressor, maps = rng.normal(size=8), rng.normal(size=(8, 3))
    permutation, signs = Shuffles(8, "both", n_permutations=5).draw(range(5))
    for source, sign, product_ in zip(
        permutation, signs, (signs * regressor[permutation]) @ maps, strict=True
    ):
        shuffled_maps = np.empty_like(maps)
        shuffled_maps[source] = sign[:, np.newaxis] * maps
        np.testing.assert_allclose(regressor @ shuffled_maps, product_, rtol=1e-12)


@pytest.mark.parametrize("name", ["two groups", "flips within", "permute and flip at both levels"])
def test_distinct_draws_are_counted_by_their_effect(name):
    drawn = replace(SMALL[name], n_permutations=SMALL[name].n_distinct - 1, seed=2)
    n_distinct = len(set(effects(drawn, range(drawn.n_shuffles))))
    assert not drawn.exhaustive
    assert drawn.count_distinct_drawn() == n_distinct < drawn.n_shuffles
    assert SMALL[name].count_distinct_drawn() == SMALL[name].n_distinct


def test_more_subjects_than_a_machine_word_has_bits():
    _, signs = Shuffles(130, "ise", n_permutations=2000).draw(range(1, 2000))
    assert len(np.unique(signs, axis=0)) == 1999
    assert (signs.min(axis=0) == -1).all()
    one_odd = np.ones((130, 1))
    one_odd[77] = 2
    shuffles = Shuffles(130, "ee", design=one_odd)
    permutation, _ = shuffles.draw(range(130))
    assert sorted(np.nonzero(permutation == 77)[1]) == list(range(130))


@pytest.mark.parametrize(
    ("shuffles", "sentence"),
    [
        (
            Shuffles(20, "ise"),
            "sign flips of 20 subjects: 5,000 of 1,048,576 distinct, drawn at random, seed 0",
        ),
        (SMALL["two groups"], "permutations of 6 subjects: all 20 distinct"),
        (SMALL["within pairs"], "permutations of 6 subjects within 3 blocks: all 8 distinct"),
        (SMALL["flips of pairs"], "sign flips of 6 subjects in 3 blocks as wholes: all 8 distinct"),
        (
            Shuffles(40_000, "ee", seed=4),
            "permutations of 40,000 subjects: 5,000 of about 2.1e+166713 distinct, "
            "drawn at random, seed 4",
        ),
        (
            LARGE["both"],
            "permutations and sign flips of 30 subjects within and between 3 blocks: 300 of "
            "about 2.3e+21 distinct, drawn at random, seed 0",
        ),
    ],
)
def test_describe(shuffles, sentence):
    assert shuffles.describe() == sentence


def test_arrays_are_copied():
    design, blocks = TWO_GROUPS.copy(), PAIRS.copy()
    shuffles = Shuffles(6, "ee", design=design, blocks=blocks)
    before = shuffles.draw(range(shuffles.n_shuffles))
    design[:], blocks[:] = 0, 0
    with pytest.raises(ValueError, match="read-only"):
        shuffles.design[:] = 0
    with pytest.raises(ValueError, match="read-only"):
        shuffles.blocks[:] = 0
    for one, other in zip(before, shuffles.draw(range(shuffles.n_shuffles)), strict=True):
        assert (one == other).all()


def test_workers_can_be_sent_shuffles():
    for shuffles in (LARGE["both"], SMALL["permute and flip wholes"]):
        drawn, sent = shuffles.draw(range(9)), pickle.loads(pickle.dumps(shuffles)).draw(range(9))
        assert all((one == other).all() for one, other in zip(drawn, sent, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_subjects": 0}, "n_subjects must be an integer from 1 to 8388608, got 0"),
        ({"n_subjects": 6.0}, "n_subjects must be an integer .* got 6.0"),
        ({"n_permutations": 0}, "n_permutations must be an integer from 1 to .*, got 0"),
        ({"seed": -1}, "seed must be an integer from 0 to 18446744073709551615, got -1"),
        ({"errors": "iid"}, "errors must be one of 'ee', 'ise', 'both', got 'iid'"),
        ({"block_exchange": "across"}, "block_exchange must be one of .* got 'across'"),
        ({"block_exchange": "whole"}, "block_exchange='whole' moves blocks, but blocks is None"),
        ({"blocks": PAIRS[:5]}, r"blocks must be 6 integers.* shape \(5,\)"),
        ({"blocks": PAIRS / 2}, "blocks must be 6 integers.* float64"),
        ({"design": np.ones(6)}, r"design must be \(n_subjects, n_regressors\).* shape \(6,\)"),
        ({"design": np.ones((5, 2))}, r"expected 6 rows, got shape \(5, 2\)"),
        ({"design": np.full((6, 1), np.nan)}, "design must be finite, got .* in 6 places"),
        ({"design": np.zeros((6, 1))}, "all sign flips of 6 subjects leave every row as it is"),
        ({"errors": "ee", "design": np.ones((6, 1))}, "one-sample design needs sign flips"),
        ({"errors": "ee", "blocks": np.arange(6)}, "permutations of 6 subjects within 6 blocks"),
        (
            {"errors": "ee", "blocks": [0, 0, 0, 1, 1, 2], "block_exchange": "both"},
            "equal sizes, got blocks of 1, 2, 3 subjects",
        ),
    ],
)
def test_refusals_say_what_must_hold(arguments, message):
    with pytest.raises(ValueError, match=message):
        Shuffles(**{"n_subjects": 6, "errors": "ise", **arguments})


@pytest.mark.parametrize("indices", [[-1], [20], [[0]], [0.5], 3])
def test_indices_outside_the_shuffles_are_refused(indices):
    with pytest.raises(ValueError, match="indices must be integers from 0 to 19"):
        SMALL["two groups"].draw(indices)
