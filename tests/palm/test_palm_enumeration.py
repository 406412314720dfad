"""``gpustats palm`` against all arrangements of a design, one by one, as PALM has it."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from oracles import least_squares
from palming import palm
from randomising import arrangements

Z = 1.1
"""What clusters are formed at."""


def run_all(run, words, *extra):
    """Run with every statistic; clusters by extent and by mass are two runs."""
    for statistic, root in (("extent", "out"), ("mass", "outm")):
        words_of = (*words, "-T", "-C", Z, "-Cstat", statistic, "-n", 0, "-o", root)
        status, _, err = run("palm", *words_of, *extra)
        assert status == 0, err


def check(group, kind, expected, suffix="", as_p=lambda written: written):
    """Compare p of every voxel, and scores."""
    for stem, (corrected, uncorrected, null) in expected.items():
        root = "outm" if stem == "clusterm" else "out"
        n, pairs = len(null), [("fwep", corrected)]
        if stem in ("vox", "tfce"):
            pairs.append(("uncp", uncorrected))
        for name, wanted in pairs:
            found = as_p(group.image(f"{root}_{stem}_{kind}_{name}{suffix}"))
            difference = np.abs(found - wanted)
            # but for scores that tie in float32 all are equal
            assert np.mean(difference > 1e-6) < 0.02, (stem, name)
            assert difference.max() <= 1 / n + 1e-6, (stem, name)
            if stem in ("vox", "clustere"):
                assert difference.max() < 1e-6, (stem, name)
        if stem != "vox":
            score = group.image(f"{root}_{stem}_{kind}{suffix}")
            np.testing.assert_allclose(score, null[0], rtol=0.04, atol=1e-3)
            assert np.mean(np.isclose(score, null[0], rtol=1e-4, atol=1e-4)) > 0.98
        assert (corrected < 1).any()


@pytest.mark.parametrize("two_tailed", [False, True])
def test_one_sample(run, group_of, two_tailed):
    group = group_of(7)
    design = np.ones((7, 1))
    run_all(run, group.tables(d=design, t=[[1]]), "-ise", *["-twotail"] * two_tailed)
    designs = list(arrangements(design, np.ones(7), flips=True))
    assert len(designs) == 128
    check(group, "tstat", palm(group.maps, designs, [1.0], Z, two_tailed=two_tailed))
    t = least_squares(group.maps.values, design, [1.0])[2]
    np.testing.assert_allclose(group.image("out_vox_tstat"), t, rtol=1e-5)


def test_without_a_design_the_mean_is_tested_up_and_down(run, group_of):
    group = group_of(6)
    run_all(run, group.tables())
    designs = list(arrangements(np.ones((6, 1)), np.ones(6), flips=True))
    check(group, "tstat", palm(group.maps, designs, [1.0], Z), "_c1")
    check(group, "tstat", palm(group.maps, designs, [-1.0], Z), "_c2")


@pytest.mark.parametrize(
    ("words", "as_p"),
    [(["-save1-p"], lambda saved: 1 - saved), (["-logp"], lambda saved: 10.0**-saved)],
)
def test_a_covariate_with_nuisance(run, group_of, rng, words, as_p):
    group = group_of(6)
    design = np.column_stack([np.ones(6), rng.normal(40, 9, 6).round(1), [0, 0, 0, 1, 1, 1]])
    contrasts = [[0, 1, 0], [0, 0, 1]]
    run_all(run, group.tables(d=design, t=contrasts), "-twotail", *words)
    designs = list(arrangements(design, np.ones(6)))
    assert len(designs) == 720
    expected = palm(group.maps, designs, contrasts[0], Z, two_tailed=True)
    check(group, "tstat", expected, "_c1", as_p)


@pytest.mark.parametrize(
    ("words", "whole", "tree"),
    [([], False, -1), (["-within"], False, -1), (["-whole"], True, 1)],
)
def test_blocks(run, group_of, words, whole, tree):
    group = group_of(8)
    blocks = np.array([3, 3, 1, 1, 7, 7, 5, 5])
    tested = np.isin(blocks, (1, 3)) if whole else np.tile([1, -1], 4)
    design = np.column_stack([np.ones(8), tested, np.tile([1, 0], 4) * blocks])
    if not whole:
        design = np.column_stack([tested, *(blocks == b for b in (1, 3, 5, 7))])
    contrast = np.eye(design.shape[1])[1 if whole else 0]
    table = blocks[:, np.newaxis]
    run_all(run, group.tables(d=design, t=[contrast], eb=table), *words)
    designs = list(arrangements(design.astype(float), blocks, whole=whole))
    check(group, "tstat", palm(group.maps, designs, contrast, Z))
    before = group.image("out_tfce_tstat_fwep")
    trees = [
        np.column_stack([np.full(8, tree), blocks]),
        np.column_stack([np.full(8, tree), -tree * blocks, np.arange(1, 9)]),
    ]
    for one in trees:
        run_all(run, group.tables(d=design, t=[contrast], eb=one))
        assert np.array_equal(group.image("out_tfce_tstat_fwep"), before)


def test_blocks_as_wholes_and_within(run, group_of):
    group = group_of(6)
    blocks = np.array([1, 1, 2, 2, 3, 3])
    values = np.array([0.3, 1.0, -2.0, 0.5, 1.5, -0.7])
    design = np.column_stack([np.ones(6), values])
    run_all(run, group.tables(d=design, t=[[0, 1]], eb=blocks[:, None]), "-whole", "-within")
    rows = np.arange(6).reshape(3, 2)
    orders = [
        [rows[b][i] for b, flip in zip(order, flips, strict=True) for i in (flip, 1 - flip)]
        for order in arrangements(np.arange(3)[:, None], np.ones(3))
        for order in [order.ravel()]
        for flips in product((0, 1), repeat=3)
    ]
    assert len(orders) == 48
    check(group, "tstat", palm(group.maps, [design[order] for order in orders], [0.0, 1], Z))


def test_permutations_and_sign_flips(run, group_of):
    group = group_of(4)
    design = np.array([[1.0], [2.0], [4.0], [-1.5]])
    run_all(run, group.tables(d=design, t=[[1]]), "-ee", "-ise")
    signs = [np.array(one)[:, None] for one in product((1, -1), repeat=4)]
    designs = [sign * one for one in arrangements(design, np.ones(4)) for sign in signs]
    assert len(designs) == 384
    check(group, "tstat", palm(group.maps, designs, [1.0], Z))


def test_f_of_three_groups(run, group_of):
    group = group_of(7)
    design = pd.get_dummies(pd.Series([0, 1, 2, 0, 1, 2, 2])).to_numpy(float)
    contrasts = [[1, -1, 0], [0, 1, -1]]
    words = group.tables(d=design, t=contrasts, f=[[1, 1], [0, 1]])
    run_all(run, words)
    designs = list(arrangements(design, np.ones(7)))
    assert len(designs) == 210
    check(group, "fstat", palm(group.maps, designs, contrasts, Z), "_c3")
    # of one t contrast, an F test is t
    check(group, "tstat", palm(group.maps, designs, contrasts[1], Z), "_c4")
    run_all(run, words, "-fonly", "-zstat")
    assert np.array_equal(group.image("out_vox_zfstat_fwep"), group.image("out_vox_fstat_fwep_c3"))


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["-tfce2D"], (2, 1, 26)),
        (["-tfce1D"], (2, 2, 6)),
        (["-tfce_H", 1.5, "-tfce_E", 0.7, "-tfce_C", 18], (1.5, 0.7, 18)),
    ],
)
def test_settings_of_tfce(run, group_of, words, settings):
    group = group_of(6)
    run_all(run, group.tables(), *words)
    designs = list(arrangements(np.ones((6, 1)), np.ones(6), flips=True))
    check(group, "tstat", palm(group.maps, designs, [1.0], Z, tfce=settings), "_c1")


def test_corrections_over_contrasts_and_for_false_discoveries(run, group_of, rng):
    group = group_of(6)
    design = np.column_stack([np.ones(6), rng.normal(size=6), rng.normal(size=6)])
    contrasts = [[0.0, 1, 0], [0, 0, 1]]
    run_all(run, group.tables(d=design, t=contrasts), "-corrcon", "-fdr")
    designs = list(arrangements(design, np.ones(6)))
    both = [palm(group.maps, designs, contrast, Z)["vox"] for contrast in contrasts]
    joint = np.max([null.max(axis=1) for _, _, null in both], axis=0)
    together = np.concatenate([uncorrected for _, uncorrected, _ in both])
    for number, (_, uncorrected, null) in enumerate(both, start=1):
        corrected = (joint[:, None] >= null[0] - 1e-5).mean(axis=0)
        found = group.image(f"out_vox_tstat_cfwep_c{number}")
        np.testing.assert_allclose(found, corrected, atol=1e-6)
        for name, p in (("fdrp", uncorrected), ("cfdrp", together)):
            ranks = np.searchsorted(np.sort(p), p, side="right")
            q = [(p[p >= one] * p.size / ranks[p >= one]).min() for one in uncorrected]
            found = group.image(f"out_vox_tstat_{name}_c{number}")
            np.testing.assert_allclose(found, np.minimum(q, 1), atol=1e-6)
