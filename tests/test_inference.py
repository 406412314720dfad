"""Permutation tests give the p of their definitions, whatever is tested."""

from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import pytest
from oracles import least_squares
from permuting import EVERYTHING
from simulate import make_maps

from gpustats import Design, DesignError
from gpustats.engines import cpu as cpu_engine
from gpustats.enhancements import ClusterExtent, ClusterMass, Voxelwise
from gpustats.inference import permutation_test
from gpustats.maps import Maps
from gpustats.shuffles import Shuffles
from gpustats.tfce import Tfce

NAMES = ("voxelwise", "cluster_extent", "cluster_mass", "tfce")


@pytest.fixture
def run_test(device):
    """Run a permutation test on a device."""
    return partial(permutation_test, device=device)


def two_groups(rng, n=9):
    """Two groups and an age."""
    group = np.arange(n) < n // 2
    return pd.DataFrame({"g": 1.0 * group, "h": 1.0 - group, "age": rng.normal(40, 9, n)})


def exact_p(statistics, two_sided):
    """Corrected and uncorrected p from the statistics of every shuffle, the identity first."""
    sizes = np.abs(statistics) if two_sided else statistics
    reach = sizes[0] - 1e-9
    corrected = (sizes.max(axis=1)[:, None] >= reach).mean(axis=0)
    return corrected, (sizes >= reach).mean(axis=0)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("whole_numbers", [True, False])
def test_all_sign_flips_equal_enumeration(run_test, rng, two_sided, whole_numbers):
    maps = make_maps(rng, n_subjects=7)
    if whole_numbers:
        maps = Maps(np.asfortranarray(np.round(maps.values * 2)), maps.grid)
        maps.values[np.ptp(maps.values, axis=1) == 0, 0] += 1
    y = maps.values.astype(float)
    statistics = np.array(
        [
            least_squares(y * np.array(signs), np.ones((7, 1)), [1])[2]
            for signs in product([1, -1], repeat=7)
        ]
    )
    result = run_test(maps, n_permutations=128, two_sided=two_sided)["voxelwise"]
    corrected, uncorrected = exact_p(statistics, two_sided)
    assert np.array_equal(result.p_corrected, corrected)
    assert np.array_equal(result.p_uncorrected, uncorrected)
    assert result.minimum_p == 1 / 128


def freedman_lane(values, table, weights, permutation, signs):
    """Fit the full model to shuffled residuals of the reduced one, by its definition."""
    x, c = table.to_numpy(), np.atleast_2d(weights)
    null = np.linalg.svd(c)[2][np.linalg.matrix_rank(c) :].T
    z = x @ null
    y = values.astype(float).T
    residuals = y - z @ np.linalg.pinv(z) @ y
    shuffled = np.empty_like(residuals)
    shuffled[permutation] = signs[:, None] * residuals
    return least_squares(shuffled.T, x, weights)[2]


@pytest.mark.parametrize("weights", [[1, -1, 0], [0, 0, 1], [[1, -1, 0], [0, 0, 1]]])
def test_exhaustive_permutations_equal_enumeration(run_test, rng, weights):
    maps = make_maps(rng, n_subjects=6, shape=(6, 7, 5))
    table = two_groups(rng, 6).round(1)
    result = run_test(maps, Design(table), weights, n_permutations=720)["voxelwise"]
    assert result.n_shuffles == 720
    shuffles = Shuffles(6, "ee", 720, table.to_numpy()).draw(range(720))
    statistics = np.array(
        [freedman_lane(maps.values, table, weights, p, s) for p, s in zip(*shuffles, strict=True)]
    )
    corrected, uncorrected = exact_p(statistics, two_sided=np.ndim(weights) == 1)
    assert np.array_equal(result.p_corrected, corrected)
    assert np.array_equal(result.p_uncorrected, uncorrected)


def test_two_groups_without_covariates_are_all_their_splits(run_test, rng):
    maps = make_maps(rng, n_subjects=7)
    table = two_groups(rng, 7)[["g", "h"]]
    result = run_test(maps, Design(table), "g - h", n_permutations=1000)["voxelwise"]
    assert result.n_shuffles == 35
    statistics = []
    y = maps.values.astype(float)
    for members in product([0.0, 1.0], repeat=7):
        if sum(members) == 3:
            x = np.column_stack([members, 1 - np.array(members)])
            statistics.append(least_squares(y, x, [1, -1])[2])
    observed = least_squares(y, table, [1, -1])[2]
    sizes = np.abs(statistics)
    p = (sizes.max(1)[:, None] >= np.abs(observed) - 1e-9).mean(0)
    assert np.array_equal(result.p_corrected, p)


def test_blocks_are_respected(run_test, rng):
    pairs = np.repeat(np.arange(4), 2)
    maps = make_maps(rng, n_subjects=8)
    table = pd.DataFrame((pairs[:, None] == np.arange(4)) * 1.0, columns=list("abcd"))
    table.insert(0, "condition", np.tile([1.0, 0.0], 4))
    result = run_test(maps, Design(table), "condition", blocks=pairs, n_permutations=100)[
        "voxelwise"
    ]
    assert result.n_shuffles == 16
    y = maps.values.astype(float)
    difference = y[:, ::2] - y[:, 1::2]
    statistics = np.array(
        [
            least_squares(difference * np.array(signs), np.ones((4, 1)), [1])[2]
            for signs in product([1, -1], repeat=4)
        ]
    )
    corrected, uncorrected = exact_p(statistics, two_sided=True)
    assert np.array_equal(result.p_corrected, corrected)
    assert np.array_equal(result.p_uncorrected, uncorrected)


@pytest.mark.parametrize("scheme", ["freedman-lane", "dekker", "manly"])
@pytest.mark.parametrize("errors", ["ee", "ise", "both"])
def test_null_maxima_equal_explicit_refits(run_test, rng, scheme, errors):
    n = 11
    maps = make_maps(rng, n_subjects=n, mean=0)
    table = two_groups(rng, n)
    result = run_test(
        maps, Design(table), "g - h", scheme=scheme, errors=errors, n_permutations=300
    )["voxelwise"]
    permutations, signs = Shuffles(n, errors, 300, table.to_numpy()).draw(range(300))
    z = np.column_stack([np.ones(n), table["age"]])
    rest = np.eye(n) - z @ np.linalg.pinv(z)
    tested = rest @ (table["g"] - table["h"]).to_numpy()
    y = maps.values.astype(float).T
    for index in range(0, 300, 13):
        permutation, sign = permutations[index], signs[index][:, None]
        shuffled = np.empty_like(y)
        if scheme == "dekker":
            x = np.column_stack([rest @ (sign[:, 0] * tested[permutation]), z])
            t = least_squares(y.T, x, [1, 0, 0])[2]
        else:
            shuffled[permutation] = sign * (rest @ y if scheme == "freedman-lane" else y)
            t = least_squares(shuffled.T, table, [1, -1, 0])[2]
        assert result.null_maxima[index] == pytest.approx(np.abs(t).max(), rel=2e-5)


def test_the_reported_map_is_that_of_fit_and_close_to_what_is_compared(run_test, rng):
    maps = make_maps(rng)
    result = run_test(maps, n_permutations=50)["voxelwise"]
    expected = least_squares(maps.values, np.ones((12, 1)), [1])[2]
    np.testing.assert_allclose(result.observed, expected, rtol=1e-6)
    assert result.null_maxima[0] == pytest.approx(np.abs(expected).max(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_data_times_minus_one_swaps_the_tails_exactly(run_test, rng, name):
    maps = make_maps(rng, n_subjects=9)
    negated = Maps(np.asfortranarray(-maps.values), maps.grid)
    options = {"statistics": EVERYTHING, "n_permutations": 300, "uncorrected": True}
    one, other = (run_test(m, **options)[name] for m in (maps, negated))
    assert np.array_equal(one.observed, -other.observed)
    assert np.array_equal(one.p_corrected, other.p_corrected)
    assert np.array_equal(one.p_uncorrected, other.p_uncorrected)
    assert np.array_equal(one.null_maxima, other.null_maxima)


@pytest.mark.parametrize("name", NAMES)
def test_two_sided_maxima_are_the_larger_of_both_tails(run_test, rng, name):
    maps = make_maps(rng, n_subjects=9)
    negated = Maps(np.asfortranarray(-maps.values), maps.grid)
    statistics = (
        Voxelwise(),
        ClusterExtent(connectivity=26, threshold_t=1.5),
        ClusterMass(connectivity=18, threshold_t=1.5),
        Tfce(),
    )
    options = {"statistics": statistics, "n_permutations": 100}
    both = run_test(maps, **options)[name]
    up, down = (run_test(m, two_sided=False, **options)[name] for m in (maps, negated))
    assert np.array_equal(both.null_maxima, np.maximum(up.null_maxima, down.null_maxima))


@pytest.mark.parametrize("name", NAMES)
def test_p_follows_from_the_scores_of_every_shuffle(run_test, rng, name):
    maps = make_maps(rng, n_subjects=6, mean=0.3)
    result = run_test(maps, statistics=EVERYTHING, n_permutations=64, uncorrected=True)[name]
    assert result.n_shuffles == 64
    assert result.null_maxima.max() >= result.null_maxima[0]
    p = result.p_corrected
    assert p.min() >= 1 / 64
    # identity and its mirror tie exactly in a two-sided test
    assert (result.p_uncorrected >= 2 / 64).all()
    assert (p >= result.p_uncorrected - 1e-12).all()
    order = np.argsort(np.abs(result.observed))
    assert (np.diff(p[order]) <= 1e-12).all()


def test_spatial_statistics_of_f_run_on_its_z(run_test, rng):
    maps = make_maps(rng, n_subjects=12)
    table = pd.DataFrame(np.eye(3)[np.arange(12) % 3], columns=list("abc"))
    statistics = (Voxelwise(), Tfce(), ClusterExtent(connectivity=6, threshold_z=1.0))
    result = run_test(maps, Design(table), "a - b; b - c", statistics=statistics, n_permutations=99)
    *_, f, _ = least_squares(maps.values, table, [[1, -1, 0], [0, 1, -1]])
    np.testing.assert_allclose(result["voxelwise"].observed, f, rtol=1e-6)
    assert result["voxelwise"].null_maxima[0] == pytest.approx(f.max(), rel=1e-5)
    assert (result["tfce"].observed >= 0).all()
    assert result["cluster_extent"].observed.max() >= 1
    with pytest.raises(ValueError, match="F contrast, which has one tail"):
        run_test(maps, Design(table), "a - b; b - c", two_sided=True, n_permutations=99)
    with pytest.raises(ValueError, match="clusters of F are formed on its z; give threshold_z"):
        run_test(
            maps,
            Design(table),
            "a - b; b - c",
            statistics=[ClusterExtent(connectivity=6, threshold_t=2.0)],
        )


def test_several_contrasts_and_correction_over_them(run_test, rng):
    maps = make_maps(rng, n_subjects=12)
    design = Design(pd.DataFrame({"x": rng.normal(size=12), "y": rng.normal(size=12), "one": 1.0}))
    result = run_test(maps, design, {"x": "x", "y": "y"}, n_permutations=200)
    alone = run_test(maps, design, "y", n_permutations=200)
    assert np.array_equal(result["y", "voxelwise"].p_corrected, alone["voxelwise"].p_corrected)
    joint = result.p_corrected_over_contrasts("voxelwise")
    assert set(joint) == {"x", "y"}
    for name, p in joint.items():
        assert (p >= result[name, "voxelwise"].p_corrected - 1e-12).all()
    single = run_test(maps, design, "y", n_permutations=200)
    alone_joint = single.p_corrected_over_contrasts("voxelwise")["y"]
    assert np.array_equal(alone_joint, single["voxelwise"].p_corrected)
    with pytest.raises(KeyError, match="names 2 outcomes; there are: 'x', 'voxelwise'"):
        _ = result["voxelwise"]


def test_correction_over_contrasts_is_one_sided_where_the_test_is(run_test, rng):
    maps = make_maps(rng, n_subjects=12, mean=0)
    maps.values[:20] -= 5
    contrasts = {"up": [1.0], "down": [-1.0]}
    one = pd.DataFrame({"one": np.ones(12)})
    result = run_test(maps, Design(one), contrasts, n_permutations=300, two_sided=False)
    joint = result.p_corrected_over_contrasts("voxelwise")
    assert (joint["up"][:20] > 0.9).all()
    assert (joint["down"][:20] < 0.05).all()
    mixed = run_test(maps, Design(one), {"t": [1.0], "f": [[1.0], [2.0]]}, n_permutations=50)
    with pytest.raises(ValueError, match="needs contrasts of one statistic and rank"):
        mixed.p_corrected_over_contrasts("voxelwise")


def test_what_does_not_fit_is_refused_before_the_first_contrast_is_computed(
    run_test, rng, monkeypatch
):
    monkeypatch.setattr("gpustats.loop.ContrastTest.run", None)
    maps = make_maps(rng, n_subjects=12)
    design = Design(pd.DataFrame({"x": rng.normal(size=12), "one": 1.0}))
    mixed = {"t": "x", "f": "x; one"}
    forming = ClusterExtent(connectivity=6, threshold_t=2.0)
    for options, message in (
        ({"two_sided": True}, "'f' is an F contrast, which has one tail"),
        ({"statistics": [forming]}, "clusters of F are formed on its z"),
        ({"statistics": []}, "statistics must be one or more, each kind once"),
        ({"statistics": [Tfce(), Tfce(extent=1.0)]}, "each kind once; got .'tfce', 'tfce'"),
        ({"scheme": "smith"}, "scheme must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            run_test(maps, design, mixed, n_permutations=50, **options)


def test_thresholds_have_the_asked_p(run_test, rng):
    result = run_test(make_maps(rng), n_permutations=200)["voxelwise"]
    height = result.threshold(0.05)
    assert (result.null_maxima >= height).mean() <= 0.05
    assert result.threshold(0.001) is None


def test_a_fitted_tail_goes_below_what_counting_can(run_test, rng):
    maps = make_maps(rng, n_subjects=24, mean=0)
    maps.values[:10] += 2.5
    result = run_test(maps, statistics=[Voxelwise(), Tfce()], n_permutations=2000)
    for name in ("voxelwise", "tfce"):
        p, fitted, tail = result[name].tail("gpd")
        assert tail.reason == ""
        assert p.min() < result[name].minimum_p
        assert np.array_equal(p[~fitted], result[name].p_corrected[~fitted])
        counted = result[name].p_corrected
        both = fitted & (counted > 0.02)
        np.testing.assert_allclose(p[both], counted[both], rtol=0.5)
    assert not result["tfce"].tail("none")[1].any()


def test_errors_are_chosen_by_what_is_tested(run_test, rng, log):
    maps = make_maps(rng, n_subjects=12)
    design = Design(pd.DataFrame({"x": rng.normal(size=12), "one": 1.0}))
    run_test(maps, design, {"mean": "one", "slope": "x"}, n_permutations=50)
    assert "mean: sign flips of 12 subjects: 50 of 4,096 distinct" in log.text
    assert "slope: permutations of 12 subjects" in log.text
    run_test(maps, design, "x", errors="ise", n_permutations=50)
    assert "x: sign flips of 12 subjects" in log.text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"contrast": "z"}, DesignError, "no column 'z'"),
        ({"n_permutations": 0}, ValueError, "n_permutations must be an integer from 1"),
        ({"seed": -1}, ValueError, "seed must be an integer from 0"),
        ({"shuffles": range(0, 10, 2)}, ValueError, "a range without gaps inside 0 to 50"),
        ({"shuffles": range(40, 51)}, ValueError, "a range without gaps inside 0 to 50"),
        ({"blocks": [1, 2]}, ValueError, "blocks must be 12 integers"),
        ({"block_exchange": "whole"}, ValueError, "blocks is None; give the block of every"),
        ({"errors": "iid"}, ValueError, "errors must be one of"),
        ({"scheme": "smith"}, ValueError, "scheme must be one of"),
    ],
)
def test_wrong_options(run_test, rng, options, error, message):
    maps = make_maps(rng, n_subjects=12)
    design = Design(pd.DataFrame({"x": rng.normal(size=12), "one": 1.0}))
    settings = {"contrast": "x", "n_permutations": 50, **options}
    with pytest.raises(error, match=message):
        run_test(maps, design, **settings)


def test_uncorrected_p_of_spatial_statistics_is_there_on_request(run_test, rng):
    maps = make_maps(rng, n_subjects=9)
    result = run_test(maps, statistics=[Tfce(), Voxelwise()], n_permutations=60)
    assert result["voxelwise"].p_uncorrected.shape == (maps.n_voxels,)
    with pytest.raises(ValueError, match="tfce was not counted at every voxel; run the test with"):
        _ = result["tfce"].p_uncorrected


def test_the_cpu_engine_names_its_arithmetic():
    assert "cpu" in cpu_engine.fingerprint()
