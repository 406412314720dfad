from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles import induced

from gpustats.induced import induced_rows
from gpustats.patterns import Patterns, find_patterns

SHAPES = st.tuples(st.integers(1, 30), st.integers(1, 5))


@given(arrays(bool, SHAPES))
def test_voxels_are_of_one_pattern_if_they_lack_the_same_subjects(missing):
    values = np.where(missing, np.float32(np.nan), np.float32(1))
    patterns = find_patterns(np.asfortranarray(values))
    if not missing.any():
        assert patterns is None
        return
    assert np.array_equal(patterns.observed[patterns.of_voxel], ~missing)
    assert len(np.unique(patterns.observed, axis=0)) == patterns.n_patterns
    assert np.array_equal(patterns.n_observed, (~missing).sum(axis=1))
    seen = []
    for subjects, voxels in patterns:
        assert not missing[np.ix_(voxels, subjects)].any()
        seen += voxels.tolist()
    assert sorted(seen) == list(range(len(missing)))


@given(arrays(bool, SHAPES), st.data())
def test_a_subset_of_voxels_has_the_patterns_that_it_would_have_alone(missing, data):
    values = np.where(missing, np.float32(np.nan), np.float32(1))
    patterns = find_patterns(values)
    keep = data.draw(arrays(bool, len(missing)))
    if patterns is None or not keep.any():
        return
    left, alone = patterns.subset(keep), find_patterns(values[keep])
    if alone is None:
        assert left is None
    else:
        assert np.array_equal(left.observed[left.of_voxel], alone.observed[alone.of_voxel])


def test_infinite_values_are_missing_too():
    values = np.array([[1, 2], [np.inf, 2]], np.float32)
    assert find_patterns(values).n_observed.tolist() == [2, 1]


def test_patterns_without_a_voxel_are_refused():
    with pytest.raises(ValueError, match="each have a voxel, got shape .2, 3. and 1 patterns"):
        Patterns(np.ones((2, 3), bool), np.zeros(4, np.intp))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_follow_the_cycles_of_the_permutation(rng, dtype):
    n, here = 12, rng.random(12) < 0.6
    order = np.array([rng.permutation(n) for _ in range(50)], np.int32)
    signs = rng.choice(np.array([-1, 1], np.int8), (50, n))
    columns = rng.normal(size=(3, n))
    rows = induced_rows(order, signs, columns[:, here], np.flatnonzero(here), dtype)
    assert rows.dtype == dtype
    for found, permutation, sign in zip(rows, order, signs, strict=True):
        expected = sign[here] * columns[:, induced(permutation, here)]
        assert np.array_equal(found, expected.astype(dtype))


def all_induced(orders, here):
    """How often each order of the subjects that are here is induced."""
    subjects = np.flatnonzero(here)
    orders = np.array(orders, np.int32)
    rows = induced_rows(orders, np.ones(orders.shape, np.int8), subjects[None] * 1.0, subjects)
    return Counter(map(tuple, rows[:, 0].astype(int).tolist()))


def test_what_a_uniform_permutation_induces_is_uniform():
    counts = all_induced(list(permutations(range(5))), np.array([1, 0, 1, 1, 0], bool))
    assert set(counts) == set(permutations([0, 2, 3]))
    assert set(counts.values()) == {20}


def test_what_is_induced_inside_blocks_stays_there_and_is_uniform():
    within = [
        (a[0], b[0], a[1], b[1], a[2])
        for a in permutations([0, 2, 4])
        for b in permutations([1, 3])
    ]
    counts = all_induced(within, np.array([1, 1, 0, 1, 1], bool))
    assert set(counts) == {(a, b, d, c) for a, c in [(0, 4), (4, 0)] for b, d in [(1, 3), (3, 1)]}
    assert set(counts.values()) == {3}


def test_blocks_that_move_as_wholes_stay_whole():
    whole = [[2 * b + k for b in order for k in (0, 1)] for order in permutations(range(3))]
    counts = all_induced(whole, np.array([1, 1, 0, 0, 1, 1], bool))
    assert counts == {(0, 1, 4, 5): 3, (4, 5, 0, 1): 3}


def test_few_missing_subjects_change_the_rows_of_few_others(rng):
    n, n_missing = 100, 4
    order = np.array([rng.permutation(n) for _ in range(200)], np.int32)
    subjects = np.sort(rng.choice(n, n - n_missing, replace=False))
    ones = np.ones(order.shape, np.int8)
    rows = induced_rows(order, ones, subjects[None] * 1.0, subjects)[:, 0]
    assert ((rows != order[:, subjects]).sum(axis=1) <= n_missing).all()
