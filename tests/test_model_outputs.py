import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm import save_glm_to_bids as nilearns
from nilearn.glm.second_level import SecondLevelModel as NilearnsModel
from nilearn.glm.thresholding import threshold_stats_img
from nilearn.reporting import get_clusters_table
from simulate import make_maps, volumes_of
from test_bids import assert_named_by_the_rules

from gpustats import SecondLevelModel, save_glm_to_bids

CONTRASTS = {"Old - young_2": np.array([1.0, 0, 0]), "both": np.eye(3)[:2], "mean": "intercept"}
OWN = {"cluster_threshold": 2, "alpha": 0.01, "two_sided": True}


def mask_of(maps):
    return nib.Nifti1Image(maps.grid.mask.astype(np.uint8), maps.grid.affine)


@pytest.fixture(scope="module")
def group():
    rng = np.random.default_rng(3)
    maps = make_maps(rng, n_subjects=14)
    maps.values[:50] += 2
    table = {"age": rng.normal(0, 1, 14), "group": np.arange(14) % 2, "intercept": 1.0}
    return volumes_of(maps), mask_of(maps), pd.DataFrame(table)


@pytest.fixture(scope="module")
def folders(group, tmp_path_factory):
    """What nilearn writes of a model, and what we write."""
    import matplotlib

    matplotlib.use("agg")
    folder = tmp_path_factory.mktemp("written")
    volumes, mask, design = group
    theirs = NilearnsModel(mask_img=mask, minimize_memory=False)
    ours = SecondLevelModel(mask_img=mask, device="cpu")
    with pytest.warns():  # names that change, and maps in which nothing survives
        nilearns(
            theirs.fit(volumes, design_matrix=design),
            CONTRASTS,
            out_dir=folder / "theirs",
            prefix="study",
            **OWN,
        )
    fitted = ours.fit(volumes, design_matrix=design)
    returned = save_glm_to_bids(fitted, CONTRASTS, out_dir=folder / "ours", prefix="study", **OWN)
    assert returned is fitted
    return folder / "theirs", folder / "ours"


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_files_are_called_as_nilearn_calls_them(folders):
    theirs, ours = folders
    assert files(ours) == files(theirs)
    data = [name for name in files(ours) if "contrast-" in name and not name.endswith(".png")]
    assert_named_by_the_rules(Path(name).name.removeprefix("study_") for name in data)


def test_maps_hold_what_nilearns_hold(folders, group):
    theirs, ours = folders
    inside = group[1].get_fdata() > 0
    names = [name for name in files(theirs) if name.endswith(".nii.gz")]
    assert len(names) == 3 * 5 + 3
    for name in names:
        one, other = (nib.load(folder / name) for folder in (ours, theirs))
        assert np.allclose(one.affine, other.affine)
        shape = other.shape[:3] if name.endswith("rsquared_statmap.nii.gz") else other.shape
        values, expected = one.get_fdata(), other.get_fdata().reshape(shape)
        np.testing.assert_allclose(values[inside], expected[inside], rtol=2e-5, atol=2e-6)
        assert not values[~inside].any()


def test_sidecars_have_nilearns_keys(folders):
    theirs, ours = folders
    for name in (name for name in files(theirs) if name.endswith(".json")):
        one, other = (json.loads((folder / name).read_text()) for folder in (ours, theirs))
        if name == "dataset_description.json":
            assert set(other) <= set(one)
            assert set(one["GeneratedBy"][0]) >= {"Name", "Version", "Description"}
            assert one["GeneratedBy"][0]["Name"] == "gpustats"
        else:
            assert set(one) == set(other), name
        if name.endswith("clusters.json"):
            assert one["Cluster size threshold (voxels)"] == 2
    tables = [pd.read_csv(folder / "group" / "study_design.tsv", sep="\t") for folder in folders]
    pd.testing.assert_frame_equal(*tables, check_dtype=False)


def test_clusters_are_those_of_z(folders):
    ours = folders[1] / "group"
    start = "study_contrast-mean"
    rules = {"cluster_threshold": 2, "two_sided": True}
    kept, height = threshold_stats_img(
        ours / f"{start}_stat-z_statmap.nii.gz", alpha=0.01, height_control="fpr", **rules
    )
    with pytest.warns(match="No clusters found with stat lower"):
        expected = get_clusters_table(kept, height, **rules)
    table = pd.read_csv(ours / f"{start}_clusters.tsv", sep="\t")
    assert len(table) > 0
    assert list(table) == list(expected)
    main = table["Cluster Size (mm3)"].notna()
    theirs = pd.to_numeric(expected["Cluster Size (mm3)"], errors="coerce").dropna()
    assert table["Cluster Size (mm3)"][main].sum() == pytest.approx(theirs.sum(), abs=len(theirs))
    told = json.loads((ours / f"{start}_clusters.json").read_text())
    assert told["Threshold (computed)"] == round(height, 3)


@pytest.mark.parametrize(
    ("contrasts", "labels"),
    [
        ("age", {"age"}),
        (["age", "intercept - age"], {"age", "interceptMinusAge"}),
        ([1, 0, 0], {"100"}),
        ([np.array([1, 0, 0]), np.array([1, -1, 0])], {"100", "1Minus10"}),
    ],
)
def test_contrasts_are_named_as_nilearn_names_them(group, tmp_path, contrasts, labels):
    volumes, mask, design = group
    model = SecondLevelModel(mask_img=mask, device="cpu").fit(volumes, design_matrix=design)
    save_glm_to_bids(model, contrasts, out_dir=tmp_path)
    found = {path.name.split("_")[0] for path in tmp_path.glob("group/contrast-*_clusters.tsv")}
    assert found == {f"contrast-{label}" for label in labels}


def test_types_of_contrasts_can_be_said(group, tmp_path):
    volumes, mask, design = group
    model = SecondLevelModel(mask_img=mask, device="cpu").fit(volumes, design_matrix=design)
    save_glm_to_bids(model, "age", contrast_types={"age": "F"}, out_dir=tmp_path)
    f = nib.load(tmp_path / "group" / "contrast-age_stat-F_statmap.nii.gz").get_fdata()
    t = model.compute_contrast("age", output_type="stat").get_fdata()
    np.testing.assert_allclose(f, t**2, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"contrasts": ["age", "Age"]}, ValueError, "would be written to files named"),
        ({"contrasts": "height"}, ValueError, "height"),
        ({"contrasts": None}, TypeError, "contrasts must be"),
        ({"contrasts": "age", "colour": "red"}, TypeError, "colour: no option of make_glm_report"),
        ({"contrasts": "age", "contrast_types": {"b": "t"}}, ValueError, "names b, which no"),
        ({"contrasts": "age", "alpha": 2}, ValueError, "alpha"),
    ],
)
def test_nothing_is_written_of_what_is_refused(group, tmp_path, arguments, error, words):
    volumes, mask, design = group
    model = SecondLevelModel(mask_img=mask, device="cpu").fit(volumes, design_matrix=design)
    with pytest.raises(error, match=words):
        save_glm_to_bids(model, out_dir=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_without_the_packages_of_reports_maps_are_written(group, tmp_path, monkeypatch, log):
    def missing():
        raise ImportError("reports need nilearn")

    monkeypatch.setattr("gpustats.model_outputs.require_nilearn", missing)
    volumes, mask, design = group
    model = SecondLevelModel(mask_img=mask, device="cpu").fit(volumes, design_matrix=design)
    save_glm_to_bids(model, "age", out_dir=tmp_path)
    endings = {path.name.split(".", 1)[1] for path in (tmp_path / "group").iterdir()}
    assert endings == {"nii.gz", "tsv", "json"}
    assert "no pictures and no report.html: reports need nilearn" in log.text
