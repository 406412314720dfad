"""Maps that lack subjects at some voxels: how they are read, and what a fit makes of them."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import least_squares, statistic_to_z
from simulate import incomplete, make_incomplete, make_maps, volumes_of

from gpustats import Design, DesignError, Grid, SecondLevelModel, fit, load_maps
from gpustats.pairwise_stack import PairwiseStack

N = 14


def design_tables(rng):
    """Designs of every kind, each with contrasts to try."""
    group = np.repeat([1.0, 0.0], N // 2)
    age, site = rng.normal(40, 9, N), (np.arange(N) % 3 == 0) * 1.0
    two = pd.DataFrame({"a": group, "b": 1 - group, "age": age})
    return {
        "mean": (pd.DataFrame({"mean": np.ones(N)}), ["mean"]),
        "two groups": (two, ["a - b", "age", "a; b", "a - b; age"]),
        "rank deficient": (two.assign(intercept=1.0, site=site), ["a - b", "site", "age; site"]),
    }


CASES = [
    (name, contrast)
    for name, (_, contrasts) in design_tables(np.random.default_rng(0)).items()
    for contrast in contrasts
]


@pytest.mark.parametrize(("name", "expression"), CASES)
def test_every_voxel_is_a_least_squares_fit_to_its_own_subjects(rng, device, name, expression):
    maps = make_incomplete(rng, N, share=0.2, least=7)
    assert maps.missing.n_patterns > 30
    table = design_tables(rng)[name][0]
    design = Design(table)
    result = fit(maps, design, device=device).contrast(expression)
    weights = design.contrast(expression).weights
    assert result.dropped == 0
    for voxel in range(0, maps.n_voxels, 3):
        here = np.isfinite(maps.values[voxel])
        effect, variance, statistic, df = least_squares(
            maps.values[voxel : voxel + 1, here], table[here], weights
        )
        assert (result.df[voxel], result.n[voxel]) == (df, here.sum())
        np.testing.assert_allclose(result.statistic[voxel], statistic, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(result.variance[voxel], variance, rtol=1e-8)
        dimension = None if len(weights) == 1 else result.dimension
        z = statistic_to_z(statistic, df, dimension)
        np.testing.assert_allclose(result.z[voxel], z, rtol=1e-6, atol=1e-7)
        if len(weights) == 1:
            np.testing.assert_allclose(result.effect[voxel], effect, rtol=1e-6, atol=1e-9)


def test_patterns_that_lose_rank_count_their_own(rng, device):
    maps = make_maps(rng, N)
    values = maps.values.copy(order="F")
    values[:40, : N // 2] = np.nan
    table = design_tables(rng)["two groups"][0]
    fitted = fit(incomplete(values, maps), Design(table), device=device)
    result = fitted.contrast("age")
    assert result.df[:40].tolist() == [N // 2 - 2] * 40
    here = np.arange(N) >= N // 2
    *_, expected, _ = least_squares(values[:40, here], table[here], [0, 0, 1])
    np.testing.assert_allclose(result.statistic[:40], expected, rtol=1e-6)


def test_voxels_at_which_a_contrast_is_not_estimable_leave_its_mask(rng, log, device):
    maps = make_maps(rng, N)
    values = maps.values.copy(order="F")
    values[:40, : N // 2] = np.nan
    values[50, 0] = np.nan
    fitted = fit(
        incomplete(values, maps), Design(design_tables(rng)["two groups"][0]), device=device
    )
    difference, age = fitted.contrast("a - b"), fitted.contrast("age")
    assert (difference.dropped, age.dropped) == (40, 0)
    assert "40 voxels left the mask of 'a - b': not estimable" in log.text
    assert np.array_equal(difference.grid.mask, maps.grid.subset(np.arange(164) >= 40).mask)
    assert difference.z.shape == difference.n.shape == (124,)
    assert np.isfinite(difference.z).all()
    assert difference.n[10] == N - 1
    values[:, : N // 2] = np.nan
    fitted = fit(
        incomplete(values, maps), Design(design_tables(rng)["two groups"][0]), device=device
    )
    with pytest.raises(DesignError, match="'a - b' is not estimable at any voxel from the subj"):
        fitted.contrast("a - b")


def test_voxels_that_cannot_be_fitted_leave_the_mask(rng, log):
    maps = make_maps(rng, N)
    values = maps.values.copy(order="F")
    values[5, 2:] = np.nan
    values[6, 2] = np.nan
    values[7] = 3.0
    values[7, 0] = np.nan
    table = design_tables(rng)["two groups"][0]
    fitted = fit(incomplete(values, maps), Design(table), device="cpu")
    assert fitted.maps.dropped == {
        "too few subjects for the design": 1,
        "no residual variance": 1,
    }
    assert "1 voxels left the mask: too few subjects for the design" in log.text
    assert fitted.maps.n_voxels == maps.n_voxels - 2
    assert (fitted.maps.missing.n_observed < N).sum() == 1
    values[:, 2:] = np.nan
    with pytest.raises(ValueError, match="no voxel has data of more subjects than the design"):
        fit(incomplete(values, maps), Design(table), device="cpu")


def test_what_is_left_complete_is_fitted_as_ever(rng):
    maps = make_maps(rng, N)
    values = maps.values.copy(order="F")
    values[5, 2:] = np.nan
    table = design_tables(rng)["two groups"][0]
    fitted = fit(incomplete(values, maps), Design(table), device="cpu")
    expected = fit(maps.subset(np.arange(164) != 5, ""), Design(table), device="cpu")
    assert fitted.maps.missing is None
    assert np.array_equal(fitted.contrast("age").z, expected.contrast("age").z)


@pytest.mark.parametrize("name", ["two groups", "rank deficient"])
def test_predicted_residuals_and_r_square(rng, device, name):
    maps = make_incomplete(rng, N, share=0.2, least=7)
    table = design_tables(rng)[name][0]
    fitted = fit(maps, Design(table), device=device)
    missing = ~np.isfinite(maps.values)
    assert np.array_equal(np.isnan(fitted.residuals()), missing)
    for voxel in range(0, maps.n_voxels, 11):
        here = ~missing[voxel]
        x, y = table.to_numpy()[here], maps.values[voxel, here].astype(float)
        explained = x @ np.linalg.lstsq(x, y, rcond=None)[0]
        np.testing.assert_allclose(fitted.predicted()[voxel, here], explained, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            fitted.residuals()[voxel, here], y - explained, rtol=1e-3, atol=1e-5
        )
        share = 1 - ((y - explained) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        np.testing.assert_allclose(fitted.r_square()[voxel], share, rtol=1e-6)


@pytest.mark.parametrize("with_mask", [True, False])
@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_voxels_stay_that_enough_maps_have(rng, log, with_mask, fill):
    maps = make_incomplete(rng, N, share=0.4, least=0)
    count = np.isfinite(maps.values).sum(axis=1)
    assert (count < 8).any()
    options = {"missing": "pairwise", "min_subjects": 8}
    loaded = load_maps(volumes_of(maps, fill), maps.grid if with_mask else None, **options)
    assert np.array_equal(loaded.values, maps.values[count >= 8], equal_nan=True)
    assert np.array_equal(loaded.grid.mask, maps.grid.subset(count >= 8).mask)
    assert np.array_equal(loaded.missing.n_observed, count[count >= 8])
    n_few = np.count_nonzero(count < 8)
    # with zeros around the brain, these are data of no use but data
    assert loaded.dropped["observed in fewer than 8 maps"] == n_few
    assert f"{n_few} voxels left the mask: observed in fewer than 8 maps" in log.text


def test_half_of_the_maps_are_enough_unless_said_otherwise(rng):
    maps = make_maps(rng, 5)
    values = maps.values.copy(order="F")
    values[0, :2] = np.nan
    values[1, :3] = np.nan
    loaded = load_maps(volumes_of(incomplete(values, maps)), maps.grid, missing="pairwise")
    assert loaded.dropped["observed in fewer than 3 maps"] == 1
    assert loaded.missing.n_observed.min() == 3


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=40)
def test_a_voxel_joins_whenever_it_first_varies_or_is_missing(seed, with_mask):
    rng = np.random.default_rng(seed)
    maps = make_maps(rng, n_subjects=6, shape=(6, 7, 5))
    values = maps.values.copy(order="F")
    for voxel, first in enumerate(rng.integers(0, 8, maps.n_voxels)):
        values[voxel, :first] = values[voxel, 0]
    values[rng.random(values.shape) < 0.2] = np.nan
    values[rng.random(values.shape) < 0.05] = np.inf
    here = np.isfinite(values)
    low, high = (
        pick(np.where(here, values, fill), axis=1)
        for pick, fill in ((np.min, np.inf), (np.max, -np.inf))
    )
    keep = (here.sum(axis=1) >= 3) & (low < high)
    images = volumes_of(incomplete(values, maps))
    loaded = load_maps(images, maps.grid if with_mask else None, missing="pairwise")
    expected = np.where(here, values, np.nan)[keep]
    assert np.array_equal(loaded.values, expected, equal_nan=True)


def test_zeros_are_missing_where_it_is_said(rng):
    maps = make_incomplete(rng, N)
    images = [
        nib.Nifti1Image(np.nan_to_num(image.get_fdata(dtype=np.float32)), image.affine)
        for image in volumes_of(maps)
    ]
    options = {"missing": "pairwise", "zero_is_missing": True}
    loaded = load_maps(images, maps.grid, **options)
    assert np.array_equal(loaded.values, maps.values, equal_nan=True)
    assert load_maps(images, maps.grid, missing="pairwise").missing is None


def test_space_without_data_in_any_map_takes_no_memory(rng):
    maps = make_incomplete(rng, 6, least=3)
    volumes = [volume.get_fdata(dtype=np.float32) for volume in volumes_of(maps, np.nan)]
    grid = Grid(np.ones(maps.grid.mask.shape, bool), maps.grid.affine)
    stack = PairwiseStack(grid, 6, 2, all_rows=False)
    for volume in volumes:
        stack.add(volume.ravel(order="F"), "map")
    assert stack.rows.size == maps.n_voxels


def test_complete_maps_are_read_and_fitted_to_the_same_bits(rng):
    maps = make_maps(rng)
    images = volumes_of(maps)
    one, other = (load_maps(images, missing=word) for word in ("drop_voxel", "pairwise"))
    assert other.missing is None
    assert np.array_equal(one.values, other.values)
    assert np.array_equal(one.grid.mask, other.grid.mask)
    z, expected = (fit(m, device="cpu").contrast().z for m in (other, one))
    assert np.array_equal(z, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missing": "listwise"}, "one of 'drop_voxel', 'raise', 'pairwise', got 'listwise'"),
        ({"min_subjects": 3}, "min_subjects goes with missing='pairwise', got missing='drop_"),
        ({"missing": "pairwise", "min_subjects": 1}, "min_subjects must be an integer from 2 to 3"),
        ({"missing": "pairwise", "min_subjects": 4}, "min_subjects must be an integer from 2 to 3"),
    ],
)
def test_wrong_options(rng, options, message):
    with pytest.raises(ValueError, match=message):
        load_maps(volumes_of(make_maps(rng, n_subjects=3)), **options)


def test_no_voxel_with_enough_maps_is_an_error(rng):
    maps = make_maps(rng, 4)
    values = maps.values.copy(order="F")
    values[:100, :2] = values[100:, 2:] = np.nan
    with pytest.raises(ValueError, match="no voxel is finite in 3 maps and differs between them"):
        load_maps(volumes_of(incomplete(values, maps)), missing="pairwise", min_subjects=3)


def test_a_second_level_model_takes_them(rng):
    maps = make_incomplete(rng, N)
    model = SecondLevelModel(maps.grid, device="cpu", missing="pairwise", min_subjects=4)
    model.fit(volumes_of(maps, np.nan))
    expected = fit(maps, device="cpu").contrast().z
    assert np.array_equal(model.compute_contrast().get_fdata()[maps.grid.mask], expected)
    assert model.parameters()["missing"] == "pairwise (min_subjects=4)"
    assert np.isnan(model.residuals.get_fdata()[maps.grid.mask]).any()
