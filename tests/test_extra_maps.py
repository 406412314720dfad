"""The maps that `gpustats fit` writes on request."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from oracles import benjamini_hochberg
from scipy import stats
from simulate import make_incomplete, make_maps, save_group

from gpustats import Design, fit

WORDS = ["--effect-size", "--confidence", "0.9", "--q", "--log10-p"]
EXTRA = {
    "patients - controls": ["cohend", "hedgesg", "hedgesgvariance", "interval"],
    "age": ["partialr", "partialr2", "interval"],
    "patients; age": ["partialr2"],
}


@pytest.fixture
def study(tmp_path, rng):
    """Sixteen maps with an effect of group, and their design."""
    maps = make_maps(rng, 16, mean=0)
    maps.values[:60, :8] += 2
    patients = (np.arange(16) < 8) * 1.0
    age = rng.normal(40, 9, 16)
    table = pd.DataFrame({"patients": patients, "controls": 1 - patients, "age": age})
    table.to_csv(tmp_path / "design.csv", index=False)
    folder = tmp_path / "maps"
    folder.mkdir()
    return maps, Design(table), [str(path) for path in save_group(folder, maps)]


def written(contrast):
    """The values of each further map of a contrast, by what its name says, and the JSON."""
    summary = json.loads(Path("gpustats-results/result.json").read_text())["contrasts"][0]
    assert summary["name"] == contrast
    stem = f"contrast-{summary['label']}_stat-"
    assert set(summary["extra_maps"]) <= set(summary["files"])
    names = {name.removeprefix(stem).removesuffix("_statmap.nii.gz") for name in summary["files"]}
    values = {
        name: nib.load(f"gpustats-results/{stem}{name}_statmap.nii.gz")
        for name in names
        if f"{stem}{name}_statmap.nii.gz" in summary["extra_maps"]
    }
    return values, summary


@pytest.mark.parametrize("contrast", EXTRA)
def test_each_contrast_has_the_maps_that_fit_it(run, tmp_path, study, contrast):
    maps, design, files = study
    table = str(tmp_path / "design.csv")
    words = ["--design", table, "--contrast", contrast, "--min-distance", "12"]
    assert run("fit", *files, *words, *WORDS, "--alpha", "0.01")[0] == 0
    images, summary = written(contrast)
    values = {name: image.get_fdata()[maps.grid.mask] for name, image in images.items()}
    expected = fit(maps, design, device="cpu").contrast(contrast)
    attributes = {
        "cohend": "cohen_d",
        "hedgesg": "hedges_g",
        "hedgesgvariance": "hedges_g_variance",
        "partialr": "partial_r",
        "partialr2": "partial_r_square",
    }
    names = set()
    for name in EXTRA[contrast]:
        if name == "interval":
            limits = expected.confidence_interval(0.9)
            for side, limit in zip(["lower", "upper"], limits, strict=True):
                np.testing.assert_allclose(values[f"effect_desc-{side}"], limit, rtol=1e-6)
                names.add(f"effect_desc-{side}")
            continue
        np.testing.assert_allclose(values[name], getattr(expected, attributes[name]), rtol=1e-6)
        names.add(name)
    assert set(values) == names | {"q", "log10p"}
    np.testing.assert_allclose(values["log10p"], -np.log10(expected.p), rtol=1e-6, atol=1e-7)
    two_sided = summary["statistic"] == "t"
    p = 2 * stats.norm.sf(np.abs(expected.z)) if two_sided else expected.p
    np.testing.assert_allclose(values["q"], stats.false_discovery_control(p), rtol=1e-9)
    assert images["q"].get_data_dtype() == np.float64
    stem = f"contrast-{summary['label']}_stat-q_statmap.nii.gz"
    assert ("two-sided" in summary["extra_maps"][stem]) is two_sided


def test_q_at_a_rate_is_what_the_threshold_of_that_rate_keeps(run, study):
    maps, _, files = study
    words = ["--height-control", "fdr", "--alpha", "0.2", "--one-sided", "--q"]
    assert run("fit", *files, *words)[0] == 0
    images, summary = written("intercept")
    kept = nib.load(
        "gpustats-results/contrast-intercept_stat-z_desc-thresholded_statmap.nii.gz"
    ).get_fdata()[maps.grid.mask]
    q = images["q"].get_fdata()[maps.grid.mask]
    assert summary["n_surviving_voxels"] > 0
    assert np.array_equal(q <= 0.2, kept != 0)
    p = fit(maps, device="cpu").contrast().p
    assert np.array_equal(q <= 0.2, benjamini_hochberg(p, 0.2))


def test_nothing_further_is_written_unasked(run, study):
    assert run("fit", *study[2])[0] == 0
    images, _ = written("intercept")
    assert images == {}
    assert not [name for name in os.listdir("gpustats-results") if "cohend" in name]


def test_voxels_that_lack_subjects_have_their_own_degrees_of_freedom(run, tmp_path, rng):
    maps = make_incomplete(rng, 12, share=0.2, least=7)
    files = save_group(tmp_path, maps, fill=np.nan)
    words = ["--missing", "pairwise", "--effect-size", "--confidence", "0.9"]
    assert run("fit", *files, *words)[0] == 0
    images, _ = written("intercept")
    inside = maps.grid.mask
    d = images["cohend"].get_fdata()[inside]
    lower = images["effect_desc-lower"].get_fdata()[inside]
    for voxel in range(0, maps.n_voxels, 5):
        here = maps.values[voxel][np.isfinite(maps.values[voxel])].astype(float)
        assert d[voxel] == pytest.approx(here.mean() / here.std(ddof=1), rel=1e-5)
        limit, _ = stats.t.interval(0.9, here.size - 1, here.mean(), stats.sem(here))
        assert lower[voxel] == pytest.approx(limit, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("level", ["0", "1", "95", "nan", "wide"])
def test_a_level_that_is_none_is_refused_at_once(run, capsys, study, level):
    with pytest.raises(SystemExit) as refused:
        run("fit", *study[2], "--confidence", level)
    assert refused.value.code == 2
    assert "argument --confidence: " in capsys.readouterr().err
    assert not Path("gpustats-results").exists()
