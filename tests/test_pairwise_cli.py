"""Maps that lack subjects at some voxels, on the command line: files, summaries and reports."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from simulate import incomplete, make_incomplete, save_group, save_mask

from gpustats import Design, fit, permutation_test

WORDS = ("--missing", "pairwise", "--min-subjects", "5", "--device", "cpu")


@pytest.fixture
def group(rng):
    """Twelve maps with a region that responds, and holes."""
    maps = make_incomplete(rng, 12, share=0.3, least=5, mean=0)
    maps.values[:40] += 3
    maps.values[100:110, :7] = np.nan
    return incomplete(maps.values, maps)


@pytest.fixture
def files(tmp_path, group):
    """The maps and their mask on disk, as the command line takes them."""
    mask = save_mask(tmp_path, group)
    folder = tmp_path / "maps"
    folder.mkdir()
    return [*map(str, save_group(folder, group, np.nan)), "--mask", str(mask)]


@pytest.fixture
def table(tmp_path, rng):
    """Two groups, of which the last five maps are one."""
    group = (np.arange(12) >= 7) * 1.0
    frame = pd.DataFrame({"a": group, "b": 1 - group, "age": rng.normal(size=12)})
    frame.to_csv(tmp_path / "table.tsv", sep="\t", index=False)
    return str(tmp_path / "table.tsv"), frame


def saved(name, group):
    return nib.load(f"gpustats-results/contrast-{name}").get_fdata()[group.grid.mask]


def summary():
    return json.loads(Path("gpustats-results/result.json").read_text())


@pytest.mark.draws
def test_a_fit_writes_numbers_and_degrees_of_freedom(run, files, group):
    status, out, _ = run("fit", *files, *WORDS)
    assert status == 0
    expected = fit(group, device="cpu").contrast()
    n = np.isfinite(group.values).sum(axis=1)
    assert np.array_equal(saved("intercept_stat-n_statmap.nii.gz", group), n)
    assert np.array_equal(saved("intercept_stat-df_statmap.nii.gz", group), n - 1)
    z = saved("intercept_stat-z_statmap.nii.gz", group)
    np.testing.assert_allclose(z, expected.z, rtol=1e-6)
    contrast, data = summary()["contrasts"][0], summary()["data"]
    assert contrast["df"] == [n.min() - 1, n.max() - 1]
    assert contrast["n"] == [n.min(), n.max()]
    # the largest t is not the one with the smallest p
    peak = expected.z.argmax()
    assert contrast["maximum"]["value"] == expected.statistic[peak]
    assert (contrast["maximum"]["df"], contrast["maximum"]["n"]) == (n[peak] - 1, n[peak])
    assert f"maximum t({n[peak] - 1}) = " in out
    assert data["missing_patterns"] == group.missing.n_patterns
    page = Path("gpustats-results/report.html").read_text()
    assert f"t test with {n.min() - 1} to {n.max() - 1} degrees of freedom" in page


def test_a_contrast_has_the_voxels_at_which_it_is_estimable(run, files, group, table):
    path, frame = table
    model = ["--design", path, "--contrast", "a - b", "--contrast", "age"]
    assert run("fit", *files, *WORDS, *model)[0] == 0
    fitted = fit(group, Design(frame), device="cpu")
    lacking = [fitted.contrast(name).dropped for name in ("a - b", "age")]
    assert lacking[0] > lacking[1] == 0
    for contrast, dropped in zip(summary()["contrasts"], lacking, strict=True):
        assert contrast["not_estimable_voxels"] == dropped
        assert contrast["n_voxels"] == fitted.maps.n_voxels - dropped


def test_a_permutation_test_compares_z(run, files, group):
    options = ["--n-permutations", "200", "--statistics", "voxelwise,tfce"]
    status, out, _ = run("permute", *files, *WORDS, *options)
    assert status == 0
    result = permutation_test(group, n_permutations=200, device="cpu")["voxelwise"]
    p = saved("intercept_stat-p_desc-voxelwisefwe_statmap.nii.gz", group)
    assert np.array_equal(p, result.p_corrected)
    n = np.isfinite(group.values).sum(axis=1)
    assert np.array_equal(saved("intercept_stat-n_statmap.nii.gz", group), n)
    found = summary()["contrasts"][0]["statistics"][0]
    assert (found["statistic"], found["scale"]) == ("voxelwise", "z")
    assert f"voxelwise: corrected p <= 0.05: |z| > {result.threshold(0.05):.6g}" in out


def test_parts_merge_to_the_whole(run, files, group):
    options = ["--n-permutations", "200", "--statistics", "voxelwise"]
    for number in (1, 2):
        assert run("permute", *files, *WORDS, *options, "--shard", f"{number}/2")[0] == 0
    status, _, err = run("merge", "gpustats-results", "--output-dir", "gpustats-results")
    assert (status, err) == (0, "gpustats: drawing the report\n")
    result = permutation_test(group, n_permutations=200, device="cpu")["voxelwise"]
    p = saved("intercept_stat-p_desc-voxelwisefwe_statmap.nii.gz", group)
    assert np.array_equal(p, result.p_corrected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--min-subjects", "5", "--device", "cpu"], "min_subjects goes with missing='pairwise'"),
        ([*WORDS, "--min-subjects", "13"], "min_subjects must be an integer from 2 to 12"),
    ],
)
def test_wrong_options_are_one_line(run, files, words, message):
    status, _, err = run("fit", *files, *words)
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_threshold_in_t_is_refused(run, files):
    words = ["--statistics", "cluster-mass", "--cluster-forming-t", "2"]
    status, _, err = run("permute", *files, *WORDS, *words, "--cluster-connectivity", "6")
    assert status == 2
    assert "t with unequal degrees of freedom are formed on its z; give threshold_z" in err
