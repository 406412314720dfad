"""Bounds calibrated by shuffles: what is compared, the bounds defined, how often they err."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from oracles import least_squares
from scipy import stats
from scipy.ndimage import gaussian_filter
from simulate import make_maps, save_group, save_mask

from gpustats import (
    Design,
    Grid,
    TrueDiscoveries,
    Voxelwise,
    permutation_test,
    permutation_true_discoveries,
)
from gpustats.enhancements import MapKind
from gpustats.maps import Maps
from gpustats.shuffles import Shuffles
from gpustats.significance import upper_tail_p
from gpustats.true_discoveries import true_discoveries

STATISTICS = [TrueDiscoveries()]


def on_steps(t):
    """Round down to 12 bits, as far as there are steps; 0 below the lowest."""
    mantissa, exponent = np.frexp(t.astype(np.float64))
    rounded = np.ldexp(np.floor(mantissa * 2**12) / 2**12, exponent)
    highest = 2.0**26 * (1 - 2**-12)
    return np.where(t < 2.0**-6, 0.0, np.minimum(rounded, highest))


def heights(t, df, tails):
    """-log10 p of what is on a step; 0 elsewhere."""
    steps = on_steps(t)
    log_p = stats.norm.logsf(steps) if df is None else stats.t.logsf(steps, df)
    return np.where(steps > 0, -(log_p + np.log(tails)) / np.log(10), 0.0)


def largest_excess(t, df, tails):
    """The largest -log10 (p of rank k / k), by sorting."""
    h = np.sort(heights(t, df, tails))[::-1]
    h = h[h > 0]
    return max((h + np.log10(np.arange(1, h.size + 1))).max(initial=0), 0.0)


@pytest.mark.parametrize(("df", "two_sided"), [(11.0, True), (200.0, False), (None, True)])
def test_peaks_are_those_of_sorted_p(engine, rng, df, two_sided):
    maps = rng.standard_t(11, (6, 500)).astype(np.float32)
    maps[1] = np.round(maps[1] * 4) / 4
    maps[2] = -np.abs(maps[2])
    maps[3] = np.float32(0.01)
    if df == 11.0:
        maps[4, :3] = 1e30, 2.0**26, 1e7
    enhancer = TrueDiscoveries().enhancer(engine, None, MapKind("t", df, two_sided, 0.0))
    tails = 2 if two_sided else 1
    expected = [largest_excess(one, df, tails) for one in maps]
    found = enhancer.peaks(engine.to_device(maps), None)
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    assert found[2] == found[3] == 0
    for one in maps:
        np.testing.assert_allclose(enhancer.scores(one), heights(one, df, tails), rtol=1e-7)


@pytest.mark.parametrize("two_sided", [True, False])
def test_null_maxima_and_scores_are_those_of_refits(device, rng, two_sided):
    maps = make_maps(rng, n_subjects=9)
    found = permutation_test(
        maps, statistics=STATISTICS, n_permutations=80, two_sided=two_sided, device=device
    )["true_discoveries"]
    tails, expected = 1 + two_sided, []
    for signs in Shuffles(9, "ise", 80).draw(range(80))[1]:
        t = least_squares(maps.values * signs, np.ones((9, 1)), [1])[2].astype(np.float32)
        sides = (t, -t) if two_sided else (t,)
        expected.append(max(largest_excess(side, 8, tails) for side in sides))
    # products of float32 may bring a value to the next step
    np.testing.assert_allclose(found.null_maxima, expected, atol=2e-3)
    observed = least_squares(maps.values, np.ones((9, 1)), [1])[2]
    sizes = np.abs(observed) if two_sided else np.maximum(observed, 0)
    np.testing.assert_allclose(np.abs(found.observed), heights(sizes, 8, tails), atol=5e-3)
    assert (found.limits <= np.abs(found.observed)).all()
    clear = sizes > 0.1
    assert np.array_equal(np.sign(found.observed[clear]), np.sign(observed[clear]))


def bound(outcome, members, alpha):
    """Discoveries among voxels of one side: the least over k of false ones, by its definition."""
    threshold, false = outcome.threshold(alpha), members.size
    for k in range(1, members.size + 1):
        above = outcome.limits[members] + np.log10(k) < threshold * (1 + 1e-15)
        above |= outcome.limits[members] == 0
        false = min(false, np.count_nonzero(above) + k - 1)
    return members.size - false


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_bounds_are_those_of_the_definition(rng, two_sided, alpha):
    found = 0
    for mean in (0.0, 0.6, 1.2):
        maps = make_maps(rng, mean=mean, shape=(6, 7, 5))
        maps.values[::3] *= -1
        outcome = permutation_test(
            maps, statistics=STATISTICS, n_permutations=100, two_sided=two_sided, device="cpu"
        )["true_discoveries"]
        sets = rng.integers(-2, 3, maps.n_voxels)
        bounds = permutation_true_discoveries(outcome, sets, alpha)
        assert bounds.names.tolist() == [-2, -1, 1, 2]
        for name, least, size in zip(*bounds, strict=True):
            negative = outcome.observed < 0
            sides = [np.flatnonzero((sets == name) & (negative == side)) for side in (False, True)]
            assert least == sum(bound(outcome, side, alpha) for side in sides)
            assert size == np.count_nonzero(sets == name)
            found += least
    assert found > 0


def test_one_voxel_is_a_discovery_where_its_corrected_p_is_small(rng):
    maps = make_maps(rng, mean=0.9)
    outcome = permutation_test(maps, statistics=STATISTICS, n_permutations=200, device="cpu")[
        "true_discoveries"
    ]
    single = permutation_true_discoveries(outcome, np.arange(1, maps.n_voxels + 1), 0.1)
    assert np.array_equal(single.least == 1, outcome.p_corrected <= 0.1)
    assert 0 < single.least.sum() < maps.n_voxels


def smooth_group(seed, active, effect):
    """Twelve smooth maps, with an effect where voxels are active."""
    noise = np.random.default_rng(seed).normal(size=(12, *active.shape))
    maps = np.array([gaussian_filter(one, 1.2) for one in noise])
    maps = maps / maps.std() + effect * active
    values = maps.reshape(12, -1).astype(np.float32).T
    return Maps(np.asfortranarray(values), Grid(np.ones(active.shape, bool), np.eye(4)))


@pytest.mark.parametrize("effect", [0.0, 0.9])
def test_bounds_err_as_seldom_as_said_and_tell_more_than_without_shuffles(effect):
    active = np.zeros((8, 8, 7), bool)
    active[:4, :4, :4] = effect > 0
    sets, alpha, n_groups = np.where(active, 1, 2).ravel(), 0.2, 150
    wrong, least = 0, []
    for seed in range(n_groups):
        inference = permutation_test(
            smooth_group(seed, active, effect),
            statistics=STATISTICS,
            n_permutations=50,
            seed=seed,
            device="cpu",
        )
        found = permutation_true_discoveries(inference["true_discoveries"], sets, alpha)
        # the bound of all inactive voxels is too large whenever that of any set of them is
        wrong += found.least[-1] > 0
        p = upper_tail_p(inference.maps["intercept"].z, two_sided=True)
        least.append([found.least[0], true_discoveries(p, sets, alpha).least[0]])
    assert wrong <= stats.binom.ppf(0.999, n_groups, alpha)
    if effect:
        permuted, parametric = np.mean(least, axis=0)
        assert permuted > 1.1 * parametric > 0
    else:
        # without an effect the rate is used up
        assert wrong >= stats.binom.ppf(0.001, n_groups, alpha)


def test_what_does_not_fit_is_refused(rng):
    maps = make_maps(rng)
    run = {"statistics": [TrueDiscoveries(), Voxelwise()], "n_permutations": 40, "device": "cpu"}
    result = permutation_test(maps, **run)
    outcome, sets = result["true_discoveries"], np.ones(maps.n_voxels, int)
    # 40 shuffles cannot tell of one in a hundred
    assert permutation_true_discoveries(outcome, sets, 0.01).least.tolist() == [0]
    with pytest.raises(ValueError, match="the outcome of TrueDiscoveries, .* got 'voxelwise'"):
        permutation_true_discoveries(result["voxelwise"], sets)
    with pytest.raises(ValueError, match=f"each of {maps.n_voxels} voxels, got shape \\(3,\\)"):
        permutation_true_discoveries(outcome, [1, 2, 3])
    with pytest.raises(ValueError, match="alpha must be an error rate"):
        permutation_true_discoveries(outcome, sets, 5)
    part = permutation_test(maps, **run, shuffles=range(5, 20))
    with pytest.raises(ValueError, match="shuffles 5 to 20 of 40 were computed; merge"):
        permutation_true_discoveries(part["true_discoveries"], sets)


def test_an_f_contrast_has_one_side(device, rng):
    maps = make_maps(rng, n_subjects=14)
    table = pd.DataFrame({"x": rng.normal(size=14), "y": rng.normal(size=14), "one": 1.0})
    options = {"statistics": STATISTICS, "n_permutations": 60, "device": device}
    inference = permutation_test(maps, Design(table), "x; y", **options)
    (outcome,) = inference.outcomes
    z = next(iter(inference.maps.values())).z.astype(np.float32)
    np.testing.assert_allclose(outcome.observed, heights(z, None, 1), atol=5e-3)


def test_the_command_line_tells_the_proportion_of_each_cluster(run, rng):
    maps = make_maps(rng, n_subjects=14, mean=1.1)
    maps.values[::2] *= -1
    paths, mask = save_group(Path(), maps), save_mask(Path(), maps)
    words = ["permute", *paths, "--mask", mask, "--n-permutations", 100, "--device", "cpu"]
    status, out, _ = run(*words, "--statistics", "voxelwise,true-discoveries")
    assert status == 0
    assert "true_discoveries: corrected p <= 0.05: |-log10 p| > " in out
    folder = Path("gpustats-results")
    contrast = json.loads((folder / "result.json").read_text())["contrasts"][0]
    table = pd.read_csv(folder / "contrast-intercept_clusters.tsv", sep="\t")
    peaks = table.dropna(subset=["Cluster Size (mm3)"])
    column = peaks["True Discovery Proportion (permutation)"].tolist()
    assert [one["id"] for one in contrast["clusters"]] == peaks["Cluster ID"].astype(int).tolist()
    assert [one["true_discovery_proportion_permutation"] for one in contrast["clusters"]] == column
    assert set(contrast["clusters"][0]["p_corrected"]) == {"voxelwise"}
    # a voxel may survive alone and be no discovery: the line through all ranks is lower
    assert 0 <= min(column) < max(column) == 1
    status, _, _ = run(*words, "--output-dir", "without")
    (contrast,) = json.loads(Path("without/result.json").read_text())["contrasts"]
    assert "true_discovery_proportion" in contrast["clusters"][0]
    assert "true_discovery_proportion_permutation" not in contrast["clusters"][0]
