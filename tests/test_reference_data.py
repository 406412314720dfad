"""Results of other software on real data: CanlabCore's, nistats', and what the folder says."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from nilearn.glm import cluster_level_inference
from nilearn.glm.second_level import SecondLevelModel as NilearnModel
from nilearn.reporting import get_clusters_table as nilearn_table
from oracles import statistic_to_z
from scipy import ndimage, stats

import gpustats
from gpustats import cli
from gpustats.tables import find_clusters

ROOT = Path(__file__).parents[1]


@pytest.fixture
def emotion(reference_data):
    return reference_data / "emotion_regulation_30"


@pytest.fixture
def pain(reference_data):
    return reference_data / "pain_21"


@pytest.fixture
def seed(reference_data):
    return reference_data / "seed_workflow_8"


def summary(folder):
    return json.loads((folder / "result.json").read_text())


def test_emotion_regulation_from_the_command_line(emotion, tmp_path):
    words = ["fit", emotion / "contrasts_4d.nii.gz", "--mask", emotion / "mask.nii.gz"]
    assert cli.main([*map(str, words), "--output-dir", str(tmp_path)]) == 0
    peak = summary(tmp_path)["contrasts"][0]["maximum"]
    assert peak["value"] == pytest.approx(7.2547, abs=5e-5)
    np.testing.assert_allclose(peak["mm"], [6.9, 24.1, 54.0], atol=0.05)
    assert summary(tmp_path)["data"]["dropped_voxels"]["missing in some map"] == 43
    t = nib.load(tmp_path / "contrast-intercept_stat-t_statmap.nii.gz")
    height = stats.t.isf(0.0025, 29)
    clusters = find_clusters(
        t.get_fdata(), t.affine, height, cluster_threshold=10, two_sided=True, connectivity=18
    )
    published = nib.load(emotion / "published_t_p005_k10_conn18.nii.gz").get_fdata()
    assert np.count_nonzero(published) == 2606
    assert np.array_equal(clusters.labels != 0, published != 0)
    inside = published != 0
    np.testing.assert_allclose(t.get_fdata()[inside], published[inside], atol=3e-6)


def test_the_clusters_of_emotion_regulation_are_those_of_nilearn(emotion, tmp_path):
    words = ["fit", emotion / "contrasts_4d.nii.gz", "--mask", emotion / "mask.nii.gz"]
    words += ["--threshold", "3.2", "--cluster-threshold", "10", "--one-sided"]
    assert cli.main([*map(str, words), "--output-dir", str(tmp_path)]) == 0
    clusters = summary(tmp_path)["contrasts"][0]["clusters"]
    z = nib.load(tmp_path / "contrast-intercept_stat-z_statmap.nii.gz")
    expected = nilearn_table(z, 3.2, cluster_threshold=10)
    peaks = expected[expected["Cluster Size (mm3)"] != ""]
    assert [one["id"] for one in clusters] == peaks["Cluster ID"].astype(int).tolist()
    proportions = cluster_level_inference(z, threshold=3.2, verbose=0).get_fdata()
    labels = nib.load(tmp_path / "contrast-intercept_desc-clusters_dseg.nii.gz").get_fdata()
    t = nib.load(tmp_path / "contrast-intercept_stat-t_statmap.nii.gz").get_fdata()
    for one, row in zip(clusters, peaks.itertuples(), strict=True):
        peak = one["peaks"][0]
        np.testing.assert_allclose(peak["mm"], [row.X, row.Y, row.Z])
        assert peak["z"] == pytest.approx(row[5], abs=1e-5)
        assert one["size_mm3"] == pytest.approx(row[6], abs=1)  # nilearn cuts to integers
        centre = ndimage.center_of_mass(t, labels, one["id"])
        mm = (z.affine @ [*centre, 1])[:3]
        np.testing.assert_allclose(one["centre_of_mass_mm"], mm, atol=1e-4)
        inside = labels == one["id"]
        assert one["true_discovery_proportion"] == pytest.approx(proportions[inside].max())
        # Hedges' g of one sample is the mean in standard deviations, times J
        assert peak["effect_size"]["value"] == pytest.approx(
            peak["statistic"] / np.sqrt(30) * (1 - 3 / (4 * 29 - 1)), rel=1e-4
        )


def test_emotion_regulation_with_a_covariate(emotion, tmp_path):
    words = ["fit", emotion / "contrasts_4d.nii.gz", "--mask", emotion / "mask.nii.gz"]
    words += ["--design", emotion / "participants.tsv", "--columns", "Reappraisal_Success"]
    words += ["--intercept", "--contrast", "Reappraisal_Success", "--output-dir", tmp_path]
    assert cli.main([*map(str, words)]) == 0
    t = nib.load(tmp_path / "contrast-ReappraisalSuccess_stat-t_statmap.nii.gz").get_fdata()
    values = nib.load(emotion / "contrasts_4d.nii.gz").get_fdata(dtype=np.float32)
    table = pd.read_csv(emotion / "participants.tsv", sep="\t")
    design = sm.add_constant(table[["Reappraisal_Success"]])
    for place in np.argwhere(t != 0)[::997]:
        model = sm.OLS(values[tuple(place)].astype(float), design).fit()
        expected = model.tvalues["Reappraisal_Success"]
        assert t[tuple(place)] == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_pain_with_zeros_as_missing_data(pain, tmp_path):
    words = ["fit", *sorted(pain.glob("contrast_*.nii.gz")), "--mask", pain / "mask.nii.gz"]
    words += ["--zero-is-missing", "--missing", "drop_voxel", "--output-dir", tmp_path]
    assert cli.main([*map(str, words)]) == 0
    assert summary(tmp_path)["data"]["n_voxels"] == 192_885


def assert_equal_to_statsmodels(folder, label, values, table, mask, column):
    """Compare maps with a fit of statsmodels to the complete cases of a voxel, at many voxels."""
    names = ("t", "z", "n", "df", "effect", "variance")
    found = {
        name: nib.load(folder / f"contrast-{label}_stat-{name}_statmap.nii.gz").get_fdata()
        for name in names
    }
    n_observed = np.isfinite(values).sum(axis=-1)
    tested = mask & (n_observed >= -(-values.shape[-1] // 2))
    assert np.array_equal(found["n"], np.where(tested, n_observed, 0))
    lacking = np.argwhere(tested & (n_observed < values.shape[-1]))
    places = [*lacking[:: max(1, len(lacking) // 600)], *np.argwhere(tested)[::499]]
    for place in map(tuple, places):
        here = np.isfinite(values[place])
        model = sm.OLS(values[place][here].astype(float), table[here]).fit()
        assert found["df"][place] == model.df_resid
        t, df = model.tvalues[column], model.df_resid
        expected = {
            "t": t,
            "z": np.sign(t) * stats.norm.isf(stats.t.sf(abs(t), df)),
            "effect": model.params[column],
            "variance": model.bse[column] ** 2,
        }
        for name, value in expected.items():
            assert found[name][place] == pytest.approx(value, rel=1e-6, abs=1e-7)
    return len(lacking)


def test_pain_with_zeros_as_missing_data_pairwise(pain, tmp_path):
    paths = sorted(pain.glob("contrast_*.nii.gz"))
    words = ["fit", *paths, "--mask", pain / "mask.nii.gz", "--zero-is-missing"]
    words += ["--missing", "pairwise", "--output-dir", tmp_path]
    assert cli.main([*map(str, words)]) == 0
    values = np.stack([nib.load(path).get_fdata(dtype=np.float32) for path in paths], axis=-1)
    values[values == 0] = np.nan
    mask = nib.load(pain / "mask.nii.gz").get_fdata() > 0
    table = pd.DataFrame({"intercept": np.ones(21)})
    n_lacking = assert_equal_to_statsmodels(tmp_path, "intercept", values, table, mask, "intercept")
    data = summary(tmp_path)["data"]
    assert data["n_voxels"] - n_lacking == 192_885
    assert data["n_voxels"] + data["dropped_voxels"]["observed in fewer than 11 maps"] == 259_353
    assert data["missing_patterns"] > 1000


def test_pain_by_permutation_pairwise(pain):
    paths = sorted(pain.glob("contrast_*.nii.gz"))
    options = {"zero_is_missing": True, "missing": "pairwise"}
    maps = gpustats.load_maps(paths, pain / "mask.nii.gz", **options)
    result = gpustats.permutation_test(maps, n_permutations=500, device="cpu")["voxelwise"]
    dropped = gpustats.load_maps(paths, pain / "mask.nii.gz", zero_is_missing=True)
    alone = gpustats.permutation_test(dropped, n_permutations=500, device="cpu")["voxelwise"]
    complete = maps.missing.n_observed == 21
    assert np.array_equal(result.p_uncorrected[complete], alone.p_uncorrected)
    # z of the same voxels, in the same shuffles: more voxels, no smaller maxima
    z_alone = statistic_to_z(alone.null_maxima, 20)
    assert (result.null_maxima >= z_alone - 1e-6).all()


def test_emotion_regulation_pairwise_with_a_covariate(emotion, tmp_path):
    words = ["fit", emotion / "contrasts_4d.nii.gz", "--mask", emotion / "mask.nii.gz"]
    words += ["--design", emotion / "participants.tsv", "--columns", "Reappraisal_Success"]
    words += ["--intercept", "--contrast", "Reappraisal_Success", "--output-dir", tmp_path]
    assert cli.main([*map(str, words), "--missing", "pairwise"]) == 0
    values = nib.load(emotion / "contrasts_4d.nii.gz").get_fdata(dtype=np.float32)
    mask = nib.load(emotion / "mask.nii.gz").get_fdata() > 0
    table = pd.read_csv(emotion / "participants.tsv", sep="\t")
    design = sm.add_constant(table[["Reappraisal_Success"]])
    n_lacking = assert_equal_to_statsmodels(
        tmp_path, "ReappraisalSuccess", values, design, mask, "Reappraisal_Success"
    )
    assert n_lacking == 43


def test_pain_peaks(pain):
    paths = sorted(pain.glob("contrast_*.nii.gz"))
    raw = gpustats.fit(gpustats.load_maps(paths, pain / "mask.nii.gz"), device="cpu").contrast()
    assert raw.statistic.max() == pytest.approx(8.07, abs=0.005)
    scaled = []
    for path in paths:
        effect = nib.load(path)
        variance = nib.load(path.parent / path.name.replace("contrast_", "var_")).get_fdata()
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(variance > 0, effect.get_fdata() / np.sqrt(variance), 0)
        scaled.append(nib.Nifti1Image(ratio.astype(np.float32), effect.affine))
    maps = gpustats.load_maps(scaled, pain / "mask.nii.gz")
    result = gpustats.fit(maps, device="cpu").contrast()
    peak = result.statistic.argmax()
    assert result.statistic[peak] == pytest.approx(17.595, abs=0.0005)
    assert maps.grid.to_mm(np.argwhere(maps.grid.mask)[peak]).tolist() == [48, -22, 24]


@pytest.fixture
def nistats(seed):
    """What nistats made: arrays by name, the mask image, and thresholds."""
    folder = seed / "nistats_ols"
    with np.load(folder / "arrays.npz") as arrays:
        stored = dict(arrays)
    mask = nib.load(seed / "bold" / "mask.nii.gz")
    thresholds = json.loads((folder / "meta.json").read_text())["other_thresholds"]
    return stored, mask, thresholds


@pytest.fixture
def z_map(nistats):
    """Our z map of nistats' first-level maps."""
    stored, mask, _ = nistats
    inside = mask.get_fdata() > 0
    images = []
    for number in range(1, 9):
        volume = np.zeros(inside.shape)
        volume[inside] = stored[f"sub-{number:02d}_Finger_effect_size"]
        images.append(nib.Nifti1Image(volume, mask.affine))
    model = gpustats.SecondLevelModel(mask).fit(images)
    return model.compute_contrast(second_level_stat_type="t", output_type="z_score")


def test_the_second_level_equals_nistats(nistats, z_map):
    stored, _, _ = nistats
    np.testing.assert_allclose(z_map.get_fdata(), stored["z_map"], atol=1e-6)


@pytest.mark.parametrize("two_sided", [1, 0])
@pytest.mark.parametrize("control", ["fpr", "fdr", "bonferroni"])
def test_thresholds_equal_nistats(nistats, z_map, control, two_sided):
    stored, _, thresholds = nistats
    kept, height = gpustats.map_threshold(
        z_map,
        alpha=0.05,
        height_control=control,
        cluster_threshold=5,
        two_sided=bool(two_sided),
    )
    assert height == pytest.approx(thresholds[f"{control}_two{two_sided}"], abs=1e-6)
    expected = stored[f"thr_{control}_two{two_sided}_k5"]
    assert np.array_equal(kept.get_fdata() != 0, expected != 0)
    np.testing.assert_allclose(kept.get_fdata(), expected, atol=1e-6)


def test_a_threshold_by_hand_equals_nistats(nistats, z_map):
    stored, _, _ = nistats
    kept, height = gpustats.map_threshold(z_map, threshold=1.96, height_control=None)
    assert height == 1.96
    np.testing.assert_allclose(kept.get_fdata(), stored["thresholded_1.96"], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "threshold", "extent"),
    [("1.96_k10", 1.96, 10), ("1.96_nok", 1.96, None), ("3.09_k5", 3.09, 5)],
)
def test_tables_equal_nistats(seed, z_map, name, threshold, extent):
    expected = pd.read_csv(seed / "nistats_ols" / f"clusters_{name}.csv", dtype={"Cluster ID": str})
    table = gpustats.get_clusters_table(z_map, stat_threshold=threshold, cluster_threshold=extent)
    assert table["Cluster ID"].astype(str).tolist() == expected["Cluster ID"].tolist()
    assert np.array_equal(table[["X", "Y", "Z"]], expected[["X", "Y", "Z"]])
    np.testing.assert_allclose(table["Peak Stat"].astype(float), expected["Peak Stat"], atol=1e-6)
    sizes = pd.to_numeric(table["Cluster Size (mm3)"]).to_numpy(float)
    assert np.array_equal(sizes, expected["Cluster Size (mm3)"].to_numpy(float), equal_nan=True)


def test_the_workflow_on_pickled_first_level_models(seed, tmp_path):
    script = ROOT / "examples" / "second_level_workflow.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, seed / "bold", tmp_path],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Peak Stat" in done.stdout
    for name in ("z_map.html", "thresholded.html", "report.html", "clusters.csv"):
        assert (tmp_path / name).stat().st_size > 100
    # the same models in nilearn
    models = pickle.loads((tmp_path / "first_level_models.p").read_bytes())
    design = pd.DataFrame({"intercept": np.ones(8)})
    theirs = NilearnModel().fit(models, design_matrix=design)
    z_theirs = theirs.compute_contrast(first_level_contrast="Finger").get_fdata()
    ours = gpustats.SecondLevelModel().fit(models, design_matrix=design)
    z_ours = ours.compute_contrast(first_level_contrast="Finger").get_fdata()
    both = (z_theirs != 0) & (z_ours != 0)
    assert both.sum() > 7000
    np.testing.assert_allclose(z_ours[both], z_theirs[both], atol=2e-6)
    table = pd.read_csv(tmp_path / "clusters.csv")
    peak = table["Peak Stat"].max()
    assert peak == pytest.approx(z_ours.max(), abs=1e-9)
