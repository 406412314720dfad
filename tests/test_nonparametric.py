import json
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.second_level import non_parametric_inference as nilearn_inference
from nilearn.mass_univariate._utils import calculate_tfce
from oracles import least_squares
from scipy import ndimage
from simulate import make_maps, volumes_of

from gpustats import (
    ClusterExtent,
    DesignError,
    Tfce,
    Voxelwise,
    map_threshold,
    non_parametric_inference,
    permutation_test,
    save_maps,
)
from gpustats.presets import CONVENTIONS, compat


@pytest.fixture
def group(rng):
    """Fourteen maps, of which the first voxels respond."""
    maps = make_maps(rng, n_subjects=14, mean=0)
    maps.values[:30] += 1.2
    return maps


def values(image, maps):
    return image.get_fdata()[maps.grid.mask]


def test_the_plain_call_returns_one_image(group):
    image = non_parametric_inference(volumes_of(group), mask=group.grid, n_perm=300)
    direct = permutation_test(group, n_permutations=301, two_sided=False, device="cpu")
    expected = -np.log10(direct["voxelwise"].p_corrected)
    assert np.array_equal(values(image, group), expected)
    assert values(image, group).max() == pytest.approx(np.log10(301))


@pytest.mark.parametrize("two_sided", [True, False])
def test_names_and_observed_maps_are_nilearns(rng, group, two_sided):
    design = pd.DataFrame({"x": rng.normal(size=14), "z": rng.normal(size=14)})
    options = {"n_perm": 60, "threshold": 0.05, "tfce": True, "two_sided_test": two_sided}
    ours = non_parametric_inference(
        volumes_of(group), design_matrix=design, second_level_contrast="x", **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = nilearn_inference(
            volumes_of(group),
            design_matrix=design,
            second_level_contrast="x",
            random_state=0,
            **options,
        )
    assert set(ours) == set(theirs)
    expected = design.assign(one=1.0)
    t = least_squares(group.values, expected, [1, 0, 0])[2]
    np.testing.assert_allclose(values(ours["t"], group), t, rtol=1e-5)
    np.testing.assert_allclose(values(theirs["t"], group), t, rtol=1e-4)
    for name in ("size", "mass"):
        np.testing.assert_allclose(
            np.abs(values(ours[name], group)), np.abs(values(theirs[name], group)), rtol=1e-4
        )


def test_p_agrees_with_nilearns_up_to_chance(group):
    ours = non_parametric_inference(volumes_of(group), mask=group.grid, n_perm=4000)
    design = pd.DataFrame({"intercept": np.ones(14)})
    theirs = nilearn_inference(volumes_of(group), design_matrix=design, n_perm=4000, random_state=1)
    p, q = 10 ** -values(ours, group), 10 ** -values(theirs, group)
    error = np.sqrt(2 * p * (1 - p) / 4000) + 1e-3
    assert (np.abs(p - q) < 5 * error).all()


def test_an_intercept_is_added_where_none_is_there(rng, group):
    x = pd.DataFrame({"x": rng.normal(size=14)})
    options = {"second_level_contrast": "x", "n_perm": 20, "tfce": True}
    added = non_parametric_inference(volumes_of(group), design_matrix=x, **options)
    given = non_parametric_inference(volumes_of(group), design_matrix=x.assign(one=1.0), **options)
    assert np.array_equal(added["t"].get_fdata(), given["t"].get_fdata())
    bare = non_parametric_inference(
        volumes_of(group), design_matrix=x, model_intercept=False, **options
    )
    t = least_squares(group.values, x, [1])[2]
    np.testing.assert_allclose(values(bare["t"], group), t, rtol=1e-5)


def test_confounds_are_used(rng, group):
    motion = pd.DataFrame({"motion": rng.normal(size=14)})
    result = non_parametric_inference(
        volumes_of(group), motion, second_level_contrast="intercept", n_perm=20, tfce=True
    )
    t = least_squares(group.values, motion.assign(one=1.0), [0, 1])[2]
    np.testing.assert_allclose(values(result["t"], group), t, rtol=1e-5)
    with pytest.raises(DesignError, match="a contrast is needed"):
        non_parametric_inference(
            volumes_of(group), motion.assign(more=rng.normal(size=14)), n_perm=20
        )


def test_map_threshold_takes_the_inference(group):
    inference = permutation_test(
        group, statistics=[Voxelwise()], n_permutations=400, two_sided=False, device="cpu"
    )
    outcome = inference["voxelwise"]
    image = non_parametric_inference(volumes_of(group), mask=group.grid, n_perm=10, tfce=True)["t"]
    kept, height = map_threshold(image, alpha=0.05, height_control="fwe", inference=inference)
    assert height == outcome.threshold(0.05)
    assert np.array_equal(values(kept, group) != 0, outcome.p_corrected <= 0.05)
    assert np.array_equal(
        values(kept, group)[outcome.p_corrected <= 0.05],
        values(image, group)[outcome.p_corrected <= 0.05],
    )
    clusters, _ = map_threshold(
        image, alpha=0.05, height_control="fwe", inference=inference, cluster_threshold=500
    )
    assert not clusters.get_fdata().any()


def test_map_threshold_says_what_it_needs(group):
    image = volumes_of(group)[0]
    inference = permutation_test(group, n_permutations=50, device="cpu")
    with pytest.raises(ValueError, match="'fwe' needs stat_img, and inference=permutation_test"):
        map_threshold(image, height_control="fwe")
    with pytest.raises(ValueError, match="50 shuffles cannot give p <= 0.001; take at least 1000"):
        map_threshold(image, height_control="fwe", inference=inference)
    with pytest.raises(ValueError, match="inference goes with height_control='fwe'"):
        map_threshold(image, inference=inference)


@pytest.mark.parametrize(
    ("package", "threshold"),
    [("fsl", 2.0), ("palm", 2.0), ("nilearn", 0.01), ("snpm", 2.0), ("mrtrix", 2.0)],
)
def test_presets_run(group, package, threshold):
    statistics = compat(package, threshold)
    result = permutation_test(group, statistics=statistics, n_permutations=40, device="cpu")
    assert {o.statistic for o in result.outcomes} == {s.name for s in statistics}
    extent = next(s for s in statistics if isinstance(s, ClusterExtent))
    assert extent.connectivity == CONVENTIONS[package].cluster_connectivity


@pytest.mark.parametrize("two_sided", [True, False])
def test_own_levels_are_nilearns_scores(group, two_sided):
    result = permutation_test(
        group,
        statistics=[Voxelwise(), compat("nilearn")[1]],
        n_permutations=20,
        two_sided=two_sided,
        device="cpu",
    )
    t = group.grid.unmask(result["voxelwise"].observed)
    structure = ndimage.generate_binary_structure(3, 1)
    theirs = calculate_tfce(t[..., np.newaxis], structure, two_sided_test=two_sided)
    expected = theirs[..., 0][group.grid.mask]
    np.testing.assert_allclose(result["tfce"].observed, expected, rtol=1e-3, atol=1e-6)


def test_maps_and_json_are_written_from_python(group, tmp_path):
    result = permutation_test(
        group, statistics=[Tfce(), Voxelwise()], n_permutations=200, device="cpu"
    )
    save_maps(result, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "contrast-intercept_stat-p_desc-tfcefwe_statmap.nii.gz" in names
    p = nib.load(tmp_path / "out" / "contrast-intercept_stat-p_desc-tfcefwe_statmap.nii.gz")
    assert np.array_equal(values(p, group), result["tfce"].p_corrected)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["test"]["seed"] == 0


def test_levels_approximate_the_integral(group):
    statistics = [Tfce(), Tfce(levels=1000)]
    exact, summed = (
        permutation_test(group, statistics=[s], n_permutations=30, device="cpu")["tfce"]
        for s in statistics
    )
    # FSL's sum leaves out the distance of the levels
    t = permutation_test(group, n_permutations=2, device="cpu")["voxelwise"].null_maxima[0]
    ratio = summed.null_maxima * t / 1000 / exact.null_maxima
    np.testing.assert_allclose(ratio, 1, atol=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClusterExtent(connectivity=26), "clusters need one threshold.* got 0"),
        (lambda: ClusterExtent(connectivity=26, threshold_t=2, threshold_z=2), "got 2"),
        (lambda: ClusterExtent(connectivity=26, threshold_p=2.3), "threshold_p must be a p in"),
        (lambda: ClusterExtent(connectivity=26, threshold_t=-1), "must be >= 0, got -1"),
        (lambda: ClusterExtent(connectivity=8, threshold_t=2), "connectivity must be 6, 18 or 26"),
        (lambda: Tfce(step=0.1, levels=100), "give step or levels to TFCE, not both"),
        (lambda: Tfce(step=0), "step must be a height > 0"),
        (lambda: Tfce(own_levels=True), "own_levels needs the number of levels"),
        (lambda: Tfce(levels=0), "levels must be a number of heights"),
        (lambda: Tfce(extent=-1), "extent must be an exponent >= 0"),
        (lambda: compat("spm"), "package must be one of fsl, palm, nilearn"),
    ],
)
def test_wrong_options_of_statistics(make, message):
    with pytest.raises(ValueError, match=message):
        make()
