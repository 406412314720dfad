"""Permutation tests of voxels that lack subjects, against refits of what each shuffle induces."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from oracles import components, induced, least_squares, statistic_to_z
from scipy import stats
from simulate import incomplete, make_incomplete, make_maps, volumes_of

from gpustats import Design, load_inference, merge, non_parametric_inference, save_inference
from gpustats.enhancements import ClusterExtent, Voxelwise
from gpustats.inference import permutation_test
from gpustats.maps import Maps
from gpustats.shuffles import Shuffles
from gpustats.simulation import simulate_maps
from gpustats.tfce import Tfce

EVERYTHING = (Voxelwise(), Tfce(), ClusterExtent(connectivity=6, threshold_z=1.0))
NAMES = ("voxelwise", "tfce", "cluster_extent")


@pytest.fixture
def run_test(device):
    """Run a permutation test on a device."""
    return partial(permutation_test, device=device)


def two_groups(rng, n):
    """Two groups and an age."""
    group = np.arange(n) % 2
    return pd.DataFrame({"g": 1.0 * group, "h": 1.0 - group, "age": rng.normal(40, 9, n)})


def refitted(maps, table, weights, permutation, signs, scheme="freedman-lane"):
    """z of every voxel, refitted to what a shuffle of all subjects does to those that it has."""
    z = np.empty(maps.n_voxels)
    for voxel, y in enumerate(maps.values.astype(float)):
        here = np.isfinite(y)
        # numbers among those who are here
        order = (np.cumsum(here) - 1)[induced(permutation, here)]
        z[voxel] = refitted_z(y[here], table[here], weights, order, signs[here], scheme)
    return z


def refitted_z(y, table, weights, order, signs, scheme):
    """z of one voxel, of a shuffle of its own subjects."""
    x, c = table.to_numpy(), np.atleast_2d(weights)
    nuisance = x @ np.linalg.svd(c)[2][np.linalg.matrix_rank(c) :].T
    rest = np.eye(len(y)) - nuisance @ np.linalg.pinv(nuisance)
    if scheme == "dekker":
        # the contrast's own direction, free of the nuisance
        tested = rest @ x @ np.linalg.pinv(x.T @ x) @ c.T
        shuffled = signs[:, None] * tested[order]
        x = np.column_stack([rest @ shuffled, nuisance])
        weights = np.eye(1, x.shape[1])
        data = y
    else:
        data = np.empty_like(y)
        data[order] = signs * (rest @ y if scheme == "freedman-lane" else y)
    *_, statistic, df = least_squares(data[None], x, weights)
    dimension = None if len(np.atleast_2d(weights)) == 1 else np.linalg.matrix_rank(c)
    return statistic_to_z(statistic, df, dimension)[0]


def enumerated(maps, table, weights, plan, **options):
    """z of every voxel in every shuffle, by its definition."""
    shuffles = zip(*plan.draw(range(plan.n_shuffles)), strict=True)
    return np.array([refitted(maps, table, weights, p, s, **options) for p, s in shuffles])


def assert_p_equal(result, z, two_sided):
    """Compare p with those from z of every shuffle, the identity first."""
    sizes = np.abs(z) if two_sided else z
    reach = sizes[0] - 1e-6
    assert np.array_equal(result.p_corrected, (sizes.max(1)[:, None] >= reach).mean(0))
    assert np.array_equal(result.p_uncorrected, (sizes >= reach).mean(0))
    # with one degree of freedom the residual share is a small difference of float32
    np.testing.assert_allclose(result.null_maxima, sizes.max(1), rtol=1e-4)
    np.testing.assert_allclose(result.observed, z[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("two_sided", [True, False])
def test_all_sign_flips_equal_enumeration(run_test, rng, two_sided):
    maps = make_incomplete(rng, 7, share=0.3, least=4, shape=(6, 7, 5))
    result = run_test(maps, n_permutations=128, two_sided=two_sided)["voxelwise"]
    assert (result.n_shuffles, result.scale) == (128, "z")
    table = pd.DataFrame({"one": np.ones(7)})
    assert_p_equal(result, enumerated(maps, table, [1.0], Shuffles(7, "ise", 128)), two_sided)


@pytest.mark.parametrize("weights", [[1, -1, 0], [0, 0, 1], [[1, -1, 0], [0, 0, 1]]])
def test_all_permutations_equal_enumeration(run_test, rng, weights):
    maps = make_incomplete(rng, 6, share=0.2, least=4, shape=(5, 4, 4))
    table = two_groups(rng, 6)
    result = run_test(maps, Design(table), weights, n_permutations=720)["voxelwise"]
    z = enumerated(maps, table, weights, Shuffles(6, "ee", 720))
    assert len(z) == result.n_shuffles == 720
    assert_p_equal(result, z, two_sided=np.ndim(weights) == 1)


def test_subjects_of_equal_rows_are_told_apart(run_test, rng):
    maps = make_incomplete(rng, 6, share=0.2, least=4, shape=(5, 4, 4))
    table = two_groups(rng, 6)[["g", "h"]]
    result = run_test(maps, Design(table), "g - h", n_permutations=720)["voxelwise"]
    # 20 splits of all subjects do not make the splits of five equally likely
    assert result.n_shuffles == 720
    assert_p_equal(result, enumerated(maps, table, [1, -1], Shuffles(6, "ee", 720)), two_sided=True)


@pytest.mark.parametrize("scheme", ["freedman-lane", "dekker", "manly"])
@pytest.mark.parametrize("errors", ["ee", "ise", "both"])
def test_null_maxima_equal_explicit_refits(run_test, rng, scheme, errors):
    n = 11
    maps = make_incomplete(rng, n, share=0.1, least=8, shape=(5, 5, 4))
    table = two_groups(rng, n)
    result = run_test(
        maps, Design(table), "g - h", scheme=scheme, errors=errors, n_permutations=300
    )["voxelwise"]
    plan = Shuffles(n, errors, 300, table.to_numpy() if errors == "ise" else None)
    indices = range(0, 300, 37)
    for index, permutation, signs in zip(indices, *plan.draw(indices), strict=True):
        z = refitted(maps, table, [1, -1, 0], permutation, signs, scheme)
        assert result.null_maxima[index] == pytest.approx(np.abs(z).max(), rel=2e-5)


def test_blocks_are_respected(run_test, rng):
    pairs = np.repeat(np.arange(5), 2)
    maps = make_incomplete(rng, 10, share=0.1, least=7, shape=(5, 5, 4))
    table = pd.DataFrame((pairs[:, None] == np.arange(5)) * 1.0, columns=list("abcde"))
    table.insert(0, "condition", np.tile([1.0, 0.0], 5))
    result = run_test(maps, Design(table), "condition", blocks=pairs, n_permutations=32)
    z = enumerated(maps, table, np.eye(6)[0], Shuffles(10, "ee", 32, blocks=pairs))
    assert_p_equal(result["voxelwise"], z, two_sided=True)


def test_whole_blocks_are_there_or_not(run_test, rng):
    pairs = np.repeat(np.arange(5), 2)
    maps = make_maps(rng, 10, shape=(5, 5, 4))
    values = maps.values.copy(order="F")
    values[:9, 4:6] = np.nan
    table = pd.DataFrame({"x": np.repeat(rng.normal(size=5), 2), "one": 1.0})
    options = {"blocks": pairs, "block_exchange": "whole", "n_permutations": 120}
    result = run_test(incomplete(values, maps), Design(table), "x", **options)["voxelwise"]
    plan = Shuffles(10, "ee", 120, blocks=pairs, block_exchange="whole")
    z = enumerated(incomplete(values, maps), table, [1, 0], plan)
    assert_p_equal(result, z, two_sided=True)
    values[3, 0] = np.nan
    with pytest.raises(
        ValueError, match="must be there as wholes, but there are voxels at which 1"
    ):
        run_test(incomplete(values, maps), Design(table), "x", **options)


def test_spatial_statistics_look_at_z(run_test, rng):
    n = 9
    maps = make_incomplete(rng, n, share=0.2, least=6)
    table = two_groups(rng, n)
    result = run_test(maps, Design(table), "age", statistics=EVERYTHING, n_permutations=60)
    plan = Shuffles(n, "ee", 60)
    for index, permutation, signs in zip((0, 7, 41), *plan.draw([0, 7, 41]), strict=True):
        z = refitted(maps, table, [0, 0, 1], permutation, signs)
        extents = []
        for sign in (1, -1):
            above = maps.grid.unmask(sign * z >= 1.0) > 0
            extents.append(np.bincount(components(above, 6)).max(initial=0))
        assert result["cluster_extent"].null_maxima[index] == max(extents)
        assert result["voxelwise"].null_maxima[index] == pytest.approx(np.abs(z).max(), rel=1e-5)
    tfce = result["tfce"]
    assert tfce.null_maxima[0] == pytest.approx(np.abs(tfce.observed).max(), rel=1e-5)
    with pytest.raises(ValueError, match="t with unequal degrees of freedom are formed on its z"):
        run_test(maps, statistics=[ClusterExtent(connectivity=6, threshold_t=2.0)])


def test_spatial_statistics_of_f_look_at_z(run_test, rng):
    maps = make_incomplete(rng, 10, share=0.2, least=7)
    table = two_groups(rng, 10)
    result = run_test(maps, Design(table), "g - h; age", statistics=EVERYTHING, n_permutations=30)
    z = refitted(maps, table, [[1, -1, 0], [0, 0, 1]], np.arange(10), np.ones(10))
    above = maps.grid.unmask(z >= 1.0) > 0
    assert result["cluster_extent"].observed.max() == np.bincount(components(above, 6)).max()
    assert result["voxelwise"].null_maxima[0] == pytest.approx(z.max(), rel=1e-5)


@pytest.fixture(params=["mean", "covariate"])
def whole_test(run_test, rng, request):
    """A test with every statistic, of voxels that share their rows or do not."""
    maps = make_incomplete(rng, 10, share=0.1)
    design = Design(pd.DataFrame({"x": rng.normal(size=10), "one": 1.0}))
    given = (design, "x") if request.param == "covariate" else ()
    options = {"statistics": EVERYTHING, "n_permutations": 420, "uncorrected": True}
    return lambda **more: run_test(maps, *given, **options, **more)


def assert_same(one, other):
    for name in NAMES:
        for array in ("observed", "limits", "maxima", "null_maxima", "counts", "p_corrected"):
            assert np.array_equal(getattr(one[name], array), getattr(other[name], array))


def test_ranges_merge_to_the_whole(whole_test):
    parts = [whole_test(shuffles=r) for r in (range(100), range(100, 307), range(307, 420))]
    assert_same(merge(parts), whole_test())


def test_threads_and_batches_change_no_bit(whole_test, monkeypatch):
    whole = whole_test()
    for threads, map_bytes in ((1, 4 * 164 * 7), (3, 2**28)):
        monkeypatch.setattr("gpustats.engines.cpu.MAP_BYTES", map_bytes)
        for module in ("cpu", "cpu_sweep", "cpu_spatial"):
            monkeypatch.setattr(f"gpustats.engines.{module}.n_threads", lambda n=threads: n)
        assert_same(whole_test(), whole)


def test_a_result_is_the_same_after_a_file(whole_test, tmp_path):
    whole = whole_test()
    save_inference(whole, tmp_path / "inference.npz")
    restored = load_inference(tmp_path / "inference.npz")
    assert_same(restored, whole)
    assert restored["voxelwise"].scale == "z"
    (maps,), (expected,) = restored.maps.values(), whole.maps.values()
    for array in ("n", "df", "z", "statistic"):
        assert np.array_equal(getattr(maps, array), getattr(expected, array))


def test_complete_voxels_count_as_if_alone(run_test, rng):
    maps = make_incomplete(rng, 10, share=0.1)
    complete = np.isfinite(maps.values).all(axis=1)
    together = run_test(maps, n_permutations=300)["voxelwise"]
    alone = run_test(maps.subset(complete, "missing"), n_permutations=300)["voxelwise"]
    assert alone.scale == "statistic"
    assert np.array_equal(together.p_uncorrected[complete], alone.p_uncorrected)


def test_data_times_minus_one_swaps_the_tails(run_test, rng):
    maps = make_incomplete(rng, 9, share=0.1)
    negated = incomplete(np.asfortranarray(-maps.values), maps)
    one, other = (run_test(m, n_permutations=200, two_sided=False) for m in (maps, negated))
    both = run_test(maps, n_permutations=200)["voxelwise"]
    tails = [result["voxelwise"].null_maxima for result in (one, other)]
    assert np.array_equal(both.null_maxima, np.maximum(*tails))


def test_voxels_that_cannot_answer_leave_the_mask(run_test, rng, log):
    n = 10
    maps = make_maps(rng, n)
    values = maps.values.copy(order="F")
    group = np.arange(n) % 2 == 1
    values[:30, group] = np.nan
    values[40, 0] = np.nan
    table = two_groups(rng, n)
    contrasts = {"difference": "g - h", "age": "age"}
    result = run_test(incomplete(values, maps), Design(table), contrasts, n_permutations=50)
    assert result.grid.n_voxels == maps.n_voxels - 30
    assert "30 voxels left the mask: difference is not estimable" in log.text
    joint = result.p_corrected_over_contrasts("voxelwise")
    assert joint["age"].shape == (maps.n_voxels - 30,)
    values[:, group] = np.nan
    with pytest.raises(ValueError, match="no voxel can be tested .*: g - h is not estimable"):
        run_test(incomplete(values, maps), Design(table[["g", "h"]]), "g - h", n_permutations=50)


def test_voxels_that_no_shuffle_changes_leave_the_mask(run_test, rng, log):
    pairs = np.repeat(np.arange(4), 2)
    maps = make_maps(rng, 8)
    values = maps.values.copy(order="F")
    values[3, ::2] = np.nan
    table = pd.DataFrame({"x": rng.normal(size=8), "one": 1.0})
    result = run_test(incomplete(values, maps), Design(table), "x", blocks=pairs, n_permutations=16)
    assert "1 voxels left the mask: no shuffle changes the design of x" in log.text
    assert result.grid.n_voxels == maps.n_voxels - 1
    with pytest.raises(ValueError, match="no shuffle changes the design of one"):
        run_test(incomplete(values, maps), Design(table[["one"]]), errors="ee", n_permutations=16)


def null_group(rng, seed, n):
    """Smooth noise in regions each of which, every other one, lacks three subjects of its own."""
    grid = make_maps(rng, n, shape=(12, 12, 12)).grid
    zero = np.zeros(grid.n_voxels, np.float32)
    noise = list(simulate_maps(grid, zero, n, fwhm_mm=14.0, seed=seed))
    values = np.asfortranarray(np.column_stack(noise), np.float32)
    for region in np.array_split(np.arange(grid.n_voxels), 8)[1::2]:
        values[np.ix_(region, rng.choice(n, 3, replace=False))] = np.nan
    return incomplete(values, Maps(values, grid))


@pytest.mark.slow
def test_errors_are_at_their_rate_where_there_is_nothing(rng):
    # clusters cross from one region into the next: neighbours that are shuffled unlike each other
    # make null clusters too small, and errors thrice as frequent
    n, n_groups, rejected = 20, 300, dict.fromkeys(NAMES, 0)
    group = np.arange(n) % 2 * 1.0
    design = Design(pd.DataFrame({"x": group, "y": 1 - group}))
    statistics = (Voxelwise(), Tfce(), ClusterExtent(connectivity=6, threshold_z=1.65))
    options = {"statistics": statistics, "n_permutations": 100, "device": "cpu"}
    for seed in range(n_groups):
        result = permutation_test(null_group(rng, seed, n), design, "x - y", seed=seed, **options)
        for name in NAMES:
            rejected[name] += result[name].p_corrected.min() <= 0.05
    least, most = stats.binom.interval(0.999, n_groups, 0.05)
    assert all(least <= count <= most for count in rejected.values()), rejected


def test_nilearns_door_gives_t(rng):
    maps = make_incomplete(rng, 9)
    images = volumes_of(maps, np.nan)
    options = {"missing": "pairwise", "min_subjects": 4, "mask": maps.grid, "n_perm": 99}
    found = non_parametric_inference(
        images, tfce=True, two_sided_test=True, device="cpu", **options
    )
    result = permutation_test(maps, n_permutations=100, statistics=[Voxelwise()], device="cpu")
    (expected,) = result.maps.values()
    inside = maps.grid.mask
    np.testing.assert_allclose(found["t"].get_fdata()[inside], expected.statistic)
    log_p = -np.log10(result["voxelwise"].p_corrected)
    np.testing.assert_allclose(found["logp_max_t"].get_fdata()[inside], log_p)
