import pickle
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.second_level import SecondLevelModel as NilearnModel
from nilearn.glm.second_level import make_second_level_design_matrix as nilearn_design
from nilearn.maskers import NiftiMasker
from oracles import least_squares
from simulate import AFFINE, make_maps, save_group, save_mask, volumes_of

from gpustats import (
    DesignError,
    SecondLevelModel,
    make_second_level_design_matrix,
    permutation_test,
)

OUTPUTS = ["z_score", "stat", "p_value", "effect_size", "effect_variance"]


class FirstLevel:
    """A fitted first-level model with the signature of nistats 0.0.1: one map per contrast."""

    def __init__(self, maps, mask, subject_label=None):
        self.maps = maps
        self.subject_label = subject_label
        self.masker_ = type("Masker", (), {"mask_img_": mask})()
        self.calls = 0

    def compute_contrast(self, contrast_def, stat_type=None, output_type="z_score"):
        assert (stat_type, output_type) == (None, "effect_size")
        self.calls += 1
        return self.maps[contrast_def]


@pytest.fixture
def group(rng):
    """Twelve maps, as a stack."""
    return make_maps(rng)


@pytest.fixture
def models(rng, group):
    """Twelve first-level models with two contrasts."""
    mask = nib.Nifti1Image(group.grid.mask.astype(np.uint8), AFFINE)
    other = make_maps(rng, mean=-1)
    return [
        FirstLevel({"Finger": finger, "Foot": foot}, mask, f"s{number}")
        for number, (finger, foot) in enumerate(
            zip(volumes_of(group), volumes_of(other), strict=True)
        )
    ]


def values(image, maps):
    return image.get_fdata()[maps.grid.mask]


@pytest.mark.parametrize(
    ("contrast", "statistic"),
    [("a - b", None), ("age", None), ([1, 0, 0], "t"), (np.eye(3)[:2], "F"), ("age", "F")],
)
def test_equals_nilearn(rng, group, contrast, statistic):
    design = pd.DataFrame({"a": [1.0] * 6 + [0] * 6, "b": [0.0] * 6 + [1] * 6})
    design["age"] = rng.normal(size=12)
    images = volumes_of(group)
    mask = nib.Nifti1Image(group.grid.mask.astype(np.uint8), AFFINE)
    ours = SecondLevelModel(mask).fit(images, design_matrix=design)
    theirs = NilearnModel(mask).fit(images, design_matrix=design)
    mine = ours.compute_contrast(contrast, second_level_stat_type=statistic, output_type="all")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = theirs.compute_contrast(
            contrast, second_level_stat_type=statistic, output_type="all"
        )
    for name in OUTPUTS:
        a, b = values(mine[name], group), values(other[name], group)
        np.testing.assert_allclose(np.squeeze(a), np.squeeze(b), rtol=2e-5, atol=1e-6)
        assert not mine[name].get_fdata()[~group.grid.mask].any()
        assert np.array_equal(mine[name].affine, AFFINE)


def test_one_output_is_one_image(group):
    model = SecondLevelModel().fit(volumes_of(group))
    everything = model.compute_contrast(output_type="all")
    for name in OUTPUTS:
        one = model.compute_contrast(output_type=name)
        assert np.array_equal(one.get_fdata(), everything[name].get_fdata())
    with pytest.raises(ValueError, match="output_type must be one of .* got 'zmap'"):
        model.compute_contrast(output_type="zmap")


def test_a_second_contrast_neither_reads_nor_fits(models, monkeypatch):
    model = SecondLevelModel().fit(models, design_matrix=pd.DataFrame({"one": [1.0] * 12}))
    first = model.compute_contrast("one", "Finger")
    calls = [m.calls for m in models]
    monkeypatch.setattr("gpustats.glm.fit", None)
    monkeypatch.setattr("gpustats.reading.load_maps", None)
    second = model.compute_contrast("2 * one", "Finger", output_type="z_score")
    np.testing.assert_allclose(first.get_fdata(), second.get_fdata(), rtol=1e-12)
    assert [m.calls for m in models] == calls == [1] * 12


def test_first_level_models_by_duck_type(group, models):
    model = SecondLevelModel().fit(models)
    *_, statistic, _ = least_squares(group.values, np.ones((12, 1)), [1])
    finger = model.compute_contrast(first_level_contrast="Finger", output_type="stat")
    np.testing.assert_allclose(values(finger, group), statistic, rtol=1e-6)
    foot = model.compute_contrast(first_level_contrast="Foot", output_type="stat")
    assert values(foot, group).mean() < 0
    again = model.compute_contrast(first_level_contrast="Finger", output_type="stat")
    assert np.array_equal(again.get_fdata(), finger.get_fdata())


def test_the_mask_is_what_all_first_level_models_share(group, models):
    smaller = group.grid.mask.copy()
    smaller[4] = False
    models[3].masker_.mask_img_ = nib.Nifti1Image(smaller.astype(np.uint8), AFFINE)
    model = SecondLevelModel().fit(models)
    model.compute_contrast(first_level_contrast="Finger")
    assert np.array_equal(model.mask_img_.get_fdata() > 0, group.grid.mask & smaller)
    models[5].masker_.mask_img_ = nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), AFFINE)
    with pytest.raises(DesignError, match=r"model 6 has a mask of shape \(3, 3, 3\)"):
        SecondLevelModel().fit(models).compute_contrast(first_level_contrast="Finger")


def test_long_contrasts_are_told_apart(models):
    for model in models:
        model.compute_contrast = lambda c, model=model, **_: model.maps[
            "Finger" if c[600] else "Foot"
        ]
    fitted = SecondLevelModel().fit(models)
    one, other = (
        fitted.compute_contrast(first_level_contrast=np.eye(1200)[k]).get_fdata()
        for k in (600, 700)
    )
    assert not np.array_equal(one, other)


def test_models_without_masks_are_masked_by_their_maps(group, models):
    for model in models:
        del model.masker_
        model.__sklearn_is_fitted__ = lambda: True
    fitted = SecondLevelModel().fit(models)
    fitted.compute_contrast(first_level_contrast="Finger")
    assert np.array_equal(fitted.mask_img_.get_fdata() > 0, group.grid.mask)


def test_models_must_be_fitted_and_their_contrast_named(models):
    with pytest.raises(ValueError, match="first_level_contrast is needed with first-level models"):
        SecondLevelModel().fit(models).compute_contrast()
    del models[2].masker_
    with pytest.raises(ValueError, match="first-level model 3 has not been fitted"):
        SecondLevelModel().fit(models)
    with pytest.raises(ValueError, match="a group needs at least 2 maps, got 1"):
        SecondLevelModel().fit(models[:1])


def test_models_match_design_and_confounds_by_label(rng, group, models):
    labels = [model.subject_label for model in models]
    design = pd.DataFrame({"subject_label": labels[::-1], "x": rng.normal(size=12), "one": 1.0})
    confounds = pd.DataFrame({"subject_label": sorted(labels), "motion": rng.normal(size=12)})
    model = SecondLevelModel().fit(models, confounds, design)
    joined = design.merge(confounds, on="subject_label").set_index("subject_label").loc[labels]
    np.testing.assert_array_equal(model.design_matrix_, joined)
    stat = model.compute_contrast("x", "Finger", output_type="stat")
    *_, expected, _ = least_squares(group.values, joined, [1, 0, 0])
    np.testing.assert_allclose(values(stat, group), expected, rtol=1e-6)
    assert model.parameters()["rows matched by"] == "subject label"


def test_repeated_labels_are_refused(models):
    models[1].subject_label = "s0"
    with pytest.raises(ValueError, match=r"unique; repeated: \['s0'\]"):
        SecondLevelModel().fit(models)


def test_models_without_labels_match_by_order(rng, models):
    for model in models:
        model.subject_label = None
    design = pd.DataFrame({"subject_label": list("lkjihgfedcba"), "x": rng.normal(size=12)})
    fitted = SecondLevelModel().fit(models, design_matrix=design)
    assert fitted.design_matrix_["x"].tolist() == design["x"].tolist()
    assert fitted.parameters()["rows matched by"] == "order"


def test_a_table_of_maps_matches_by_label_in_any_order(tmp_path, rng, group):
    paths = save_group(tmp_path, group)
    table = pd.DataFrame(
        {
            "subject_label": [f"s{n:02d}" for n in range(12)],
            "map_name": "con",
            "effects_map_path": [str(path) for path in paths],
        }
    ).sample(frac=1, random_state=1)
    design = pd.DataFrame({"x": rng.normal(size=12), "one": 1.0})
    design.insert(0, "subject_label", [f"s{n:02d}" for n in range(12)])
    model = SecondLevelModel().fit(table, design_matrix=design)
    stat = model.compute_contrast("x", output_type="stat")
    *_, expected, _ = least_squares(group.values, design[["x", "one"]], [1, 0])
    np.testing.assert_allclose(values(stat, group), expected, rtol=1e-6)


def test_a_table_may_hold_several_maps_per_subject(tmp_path, group):
    paths = save_group(tmp_path, group)
    table = pd.DataFrame(
        {
            "subject_label": [f"s{n % 6}" for n in range(12)],
            "map_name": ["left"] * 6 + ["right"] * 6,
            "effects_map_path": paths,
        }
    )
    model = SecondLevelModel(group.grid).fit(table)
    stat = model.compute_contrast(first_level_contrast="right", output_type="stat")
    *_, expected, _ = least_squares(group.values[:, 6:], np.ones((6, 1)), [1])
    np.testing.assert_allclose(values(stat, group), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"a map_name of the table \(\['left', 'right'\]\)"):
        model.compute_contrast()
    single = SecondLevelModel(group.grid).fit(table.iloc[:6])
    with pytest.raises(ValueError, match="got 'right'"):
        single.compute_contrast(first_level_contrast="right")
    with pytest.raises(ValueError, match=r"empty cells in row\(s\) \[12\]"):
        SecondLevelModel().fit(table.replace({"effects_map_path": {paths[-1]: None}}))
    with pytest.raises(ValueError, match="got 'middle'"):
        model.compute_contrast(first_level_contrast="middle")
    with pytest.raises(ValueError, match="missing: map_name"):
        SecondLevelModel().fit(table.drop(columns="map_name"))
    incomplete = SecondLevelModel().fit(table.iloc[:-1])
    with pytest.raises(ValueError, match="5 subject labels for 6 maps named 'right'"):
        incomplete.compute_contrast(first_level_contrast="right")
    repeated = pd.concat([table.iloc[:5], table.iloc[:1], table.iloc[6:]])
    model = SecondLevelModel().fit(repeated)
    with pytest.raises(ValueError, match="6 maps named 'left'|maps named 'left' must be unique"):
        model.compute_contrast(first_level_contrast="left")


def test_paths_a_series_and_a_4d_image_are_the_same_group(tmp_path, group):
    paths = save_group(tmp_path, group)
    data = np.stack([image.get_fdata() for image in volumes_of(group)], axis=-1)
    expected = SecondLevelModel().fit(volumes_of(group)).compute_contrast().get_fdata()
    whole = nib.Nifti1Image(data, AFFINE)
    nib.save(whole, tmp_path / "sub-all_con.nii.gz")
    four = [str(tmp_path / "sub-all_con.nii.gz")]
    for source in (paths, pd.Series([str(p) for p in paths]), whole, four):
        assert np.array_equal(
            SecondLevelModel().fit(source).compute_contrast().get_fdata(), expected
        )


def test_design_matrices_may_be_paths(tmp_path, rng, group):
    design = pd.DataFrame({"x": rng.normal(size=12), "one": 1.0})
    design.to_csv(tmp_path / "design.tsv", sep="\t", index=False)
    model = SecondLevelModel().fit(volumes_of(group), design_matrix=tmp_path / "design.tsv")
    np.testing.assert_allclose(model.design_matrix_, design)


@pytest.mark.parametrize("source", [3, None, {"a": 1}])
def test_other_inputs_are_refused(source):
    with pytest.raises(TypeError, match="second_level_input must be a list of images or of fitted"):
        SecondLevelModel().fit(source)


def test_wrong_tables_are_refused_before_maps_are_read(group):
    images = volumes_of(group)
    with pytest.raises(TypeError, match="design_matrix must be a pandas DataFrame, got ndarray"):
        SecondLevelModel().fit(images, design_matrix=np.ones((12, 1)))
    with pytest.raises(TypeError, match="confounds must be a pandas DataFrame, got list"):
        SecondLevelModel().fit(images, [1, 2])
    with pytest.raises(DesignError, match="design has 5 rows but 12 maps"):
        SecondLevelModel().fit(images, design_matrix=pd.DataFrame({"one": [1.0] * 5}))


def test_arguments_of_nilearn_are_accepted_or_refused_by_name():
    SecondLevelModel(memory=None, memory_level=1, verbose=0, n_jobs=2, minimize_memory=False)
    with pytest.raises(ValueError, match="target_affine is not supported; give a mask_img"):
        SecondLevelModel(target_affine=np.eye(3))
    with pytest.raises(ValueError, match="target_shape is not supported"):
        SecondLevelModel(target_shape=(3, 3, 3))


def test_a_model_works_after_fit_only():
    model = SecondLevelModel()
    for use in (model.compute_contrast, lambda: model.design_matrix_, lambda: model.masker_):
        with pytest.raises(ValueError, match="has not been fitted"):
            use()


def test_maps_of_models_are_there_after_a_contrast(models):
    model = SecondLevelModel().fit(models)
    with pytest.raises(ValueError, match="no contrast has been computed yet"):
        _ = model.residuals


def test_residuals_predicted_and_r_square_equal_nilearns(rng, group):
    design = pd.DataFrame({"x": rng.normal(size=12), "one": 1.0})
    mask = nib.Nifti1Image(group.grid.mask.astype(np.uint8), AFFINE)
    images = volumes_of(group)
    ours = SecondLevelModel(mask).fit(images, design_matrix=design)
    theirs = NilearnModel(mask, minimize_memory=False).fit(images, design_matrix=design)
    theirs.compute_contrast("x")
    for name in ("residuals_", "predicted_", "r_square_"):
        a, b = (values(getattr(model, name), group) for model in (ours, theirs))
        np.testing.assert_allclose(np.squeeze(a), np.squeeze(b), rtol=1e-4, atol=1e-5)
    assert np.array_equal(ours.residuals.get_fdata(), ours.residuals_.get_fdata())


def test_a_model_tests_by_permutation(group, models):
    model = SecondLevelModel(device="cpu").fit(models)
    result = model.permutation_test(first_level_contrast="Finger", n_permutations=100)
    direct = permutation_test(group, n_permutations=100, device="cpu")
    assert np.array_equal(result["voxelwise"].p_corrected, direct["voxelwise"].p_corrected)


def test_masker_goes_both_ways(group):
    model = SecondLevelModel().fit(volumes_of(group))
    stacked = model.masker_.transform(volumes_of(group))
    assert np.array_equal(stacked, group.values.T)
    image = model.masker_.inverse_transform(stacked[3])
    assert np.array_equal(model.masker_.transform(image)[0], stacked[3])
    assert np.array_equal(model.masker_.affine_, AFFINE)
    other = nib.Nifti1Image(np.ones((9, 10, 8), np.float32), np.eye(4))
    with pytest.raises(ValueError, match="are not those of the mask; resample it first"):
        model.masker_.transform(other)


def test_fitted_models_can_be_pickled(group):
    model = pickle.loads(pickle.dumps(SecondLevelModel(device="cpu").fit(volumes_of(group))))
    again = SecondLevelModel(device="cpu").fit(volumes_of(group))
    assert np.array_equal(
        model.compute_contrast().get_fdata(), again.compute_contrast().get_fdata()
    )


def test_the_smoothing_of_a_masker_counts(group):
    masker = NiftiMasker(
        nib.Nifti1Image(group.grid.mask.astype(np.uint8), AFFINE),
        smoothing_fwhm=8,
        standardize=None,
    ).fit()
    by_masker = SecondLevelModel(masker).fit(volumes_of(group)).compute_contrast()
    by_hand = SecondLevelModel(group.grid, smoothing_fwhm=8).fit(volumes_of(group))
    assert np.array_equal(by_masker.get_fdata(), by_hand.compute_contrast().get_fdata())


def test_options_reach_the_reading(tmp_path, group):
    images = volumes_of(group)
    holes = group.values.copy(order="F")
    holes[:5, 2] = 0
    with_holes = [*images[:2], volumes_of(type(group)(holes, group.grid))[2], *images[3:]]
    assert SecondLevelModel(group.grid, zero_is_missing=True).fit(
        with_holes
    ).masker_.grid.n_voxels == (group.n_voxels - 5)
    with pytest.raises(ValueError, match="5 of .* voxels are missing"):
        SecondLevelModel(group.grid, missing="raise", zero_is_missing=True).fit(with_holes)
    rough = SecondLevelModel().fit(images).compute_contrast(output_type="effect_size")
    smooth = SecondLevelModel(smoothing_fwhm=8).fit(images)
    effect = smooth.compute_contrast(output_type="effect_size")
    assert values(effect, group).std() < values(rough, group).std()
    assert smooth.parameters()["smoothing_fwhm"] == "8 mm"
    assert (
        SecondLevelModel(save_mask(tmp_path, group))
        .fit(images)
        .parameters()["mask_img"]
        .endswith("mask.nii.gz")
    )


def test_second_level_design_matrix_equals_nilearns(rng):
    labels = ["b", "a", "c"]
    confounds = pd.DataFrame({"subject_label": list("abcd"), "x": rng.normal(size=4)})
    pd.testing.assert_frame_equal(
        make_second_level_design_matrix(labels), nilearn_design(labels), check_dtype=False
    )
    ours = make_second_level_design_matrix([*labels, "d"], confounds)
    pd.testing.assert_frame_equal(ours, nilearn_design([*labels, "d"], confounds))
    with pytest.raises(DesignError, match=r"confounds has no row for 1 of 4 maps"):
        make_second_level_design_matrix([*labels, "e"], confounds)
