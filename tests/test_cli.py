import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from oracles import least_squares
from simulate import AFFINE, make_maps, save_group, save_mask

from gpustats import __version__


@pytest.fixture
def group(rng):
    """Twelve maps with a region that responds."""
    maps = make_maps(rng, mean=0)
    maps.values[:40] += 3
    return maps


@pytest.fixture
def files(tmp_path, group):
    """The maps on disk, as the command line takes them."""
    folder = tmp_path / "maps"
    folder.mkdir()
    return [str(path) for path in save_group(folder, group)]


def saved(name):
    return nib.load(f"gpustats-results/{name}").get_fdata()


def result(folder="gpustats-results"):
    return json.loads(Path(folder, "result.json").read_text())


def test_one_sample(run, files, group):
    status, out, _ = run("fit", *files)
    assert status == 0
    summary = result()
    effect, variance, t, df = least_squares(group.values, np.ones((12, 1)), [1])
    inside = group.grid.mask
    stem = "contrast-intercept_stat"
    np.testing.assert_allclose(saved(f"{stem}-t_statmap.nii.gz")[inside], t, rtol=1e-6)
    np.testing.assert_allclose(saved(f"{stem}-effect_statmap.nii.gz")[inside], effect, rtol=1e-5)
    np.testing.assert_allclose(
        saved(f"{stem}-variance_statmap.nii.gz")[inside], variance, rtol=1e-6
    )
    z = saved(f"{stem}-z_statmap.nii.gz")
    kept = saved(f"{stem}-z_desc-thresholded_statmap.nii.gz")
    contrast = summary["contrasts"][0]
    assert np.array_equal(kept, np.where(np.abs(z) >= contrast["threshold_z"], z, 0))
    assert contrast["n_surviving_voxels"] == np.count_nonzero(kept)
    assert contrast["df"] == df == 11
    assert contrast["maximum"]["value"] == pytest.approx(t.max(), rel=1e-6)
    assert contrast["connectivity"] == 6
    assert f"maximum t(11) = {t.max():.4f}" in out
    table = pd.read_csv("gpustats-results/contrast-intercept_clusters.tsv", sep="\t")
    labels = saved("contrast-intercept_desc-clusters_dseg.nii.gz")
    assert (labels != 0).sum() == np.count_nonzero(kept)
    main = table["Cluster ID"].astype(str).str.fullmatch(r"-?\d+")
    assert sorted(table["Cluster ID"][main].astype(int)) == sorted(set(np.unique(labels)) - {0})
    listed = {name for entry in summary["contrasts"] for name in entry["files"]}
    assert {*listed, "dataset_description.json", "result.json", "report.html"} == set(
        os.listdir("gpustats-results")
    )
    assert summary["versions"]["gpustats"] == __version__
    assert summary["parameters"]["alpha"] == 0.001
    assert summary["data"]["n_voxels"] == group.n_voxels


def test_p_maps_keep_what_float32_would_lose(run, tmp_path, rng):
    maps = make_maps(rng, n_subjects=100, mean=12)
    paths = save_group(tmp_path, maps)
    assert run("fit", *paths)[0] == 0
    p = saved("contrast-intercept_stat-p_statmap.nii.gz")[maps.grid.mask]
    assert (p > 0).all()
    assert p.min() < 1e-45


@pytest.fixture
def design(tmp_path, rng):
    """A table of two groups in another order than the maps, with text beside the numbers."""
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{n:02d}" for n in range(1, 13)],
            "site": list("xyxyxyxyxyxy"),
            "patients": [1.0] * 6 + [0] * 6,
            "controls": [0.0] * 6 + [1] * 6,
            "age": rng.normal(40, 5, 12).round(2),
        }
    )
    path = tmp_path / "participants.tsv"
    table.sample(frac=1, random_state=5).to_csv(path, sep="\t", index=False)
    return path, table


def test_contrasts_of_a_design(run, files, group, design):
    path, table = design
    status, out, err = run(
        *["fit", *files, "--design", path, "--columns", "patients,controls,age"],
        *["--contrast", "patients - controls", "--contrast", "patients; controls"],
        *["--output-dir", "deep/er", "--height-control", "bonferroni", "--alpha", "0.05"],
    )
    assert status == 0
    assert "match the maps by subject label" in err
    x = table[["patients", "controls", "age"]]
    *_, t, _ = least_squares(group.values, x, [1, -1, 0])
    *_, f, _ = least_squares(group.values, x, [[1, 0, 0], [0, 1, 0]])
    stem = "deep/er/contrast-patients"
    t_map = nib.load(f"{stem}MinusControls_stat-t_statmap.nii.gz").get_fdata()
    f_map = nib.load(f"{stem}AndControls_stat-F_statmap.nii.gz").get_fdata()
    np.testing.assert_allclose(t_map[group.grid.mask], t, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(f_map[group.grid.mask], f, rtol=1e-5)
    first, second = result("deep/er")["contrasts"]
    assert (first["two_sided"], second["two_sided"]) == (True, False)
    assert second["dimension"] == 2
    assert "F(2, 9)" in out


def test_an_intercept_is_added_on_request(run, files, group, design):
    path, table = design
    words = ["--design", path, "--columns", "age", "--intercept", "--contrast", "age"]
    assert run("fit", *files, *words)[0] == 0
    x = np.column_stack([table["age"], np.ones(12)])
    *_, t, _ = least_squares(group.values, x, [1, 0])
    np.testing.assert_allclose(
        saved("contrast-age_stat-t_statmap.nii.gz")[group.grid.mask], t, rtol=1e-5, atol=1e-6
    )


def test_a_table_of_maps_names_them_relative_to_itself(run, tmp_path, files, group):
    table = pd.DataFrame(
        {"subject_label": range(12), "effects_map_path": [os.path.basename(f) for f in files]}
    )
    table.to_csv(tmp_path / "maps" / "maps.csv", index=False)
    assert run("fit", tmp_path / "maps" / "maps.csv")[0] == 0
    *_, t, _ = least_squares(group.values, np.ones((12, 1)), [1])
    inside = group.grid.mask
    np.testing.assert_allclose(
        saved("contrast-intercept_stat-t_statmap.nii.gz")[inside], t, rtol=1e-6
    )


def test_thresholds_of_the_command_line(run, files):
    words = ["--threshold", "2.5", "--cluster-threshold", "4", "--connectivity", "26"]
    assert run("fit", *files, *words, "--one-sided", "--min-distance", "12")[0] == 0
    contrast = result()["contrasts"][0]
    kept = {k: contrast[k] for k in ("threshold_z", "cluster_threshold", "connectivity")}
    assert kept == {"threshold_z": 2.5, "cluster_threshold": 4, "connectivity": 26}
    assert contrast["height_control"] is None
    assert contrast["alpha"] is None
    assert not contrast["two_sided"]
    assert contrast["min_distance_mm"] == 12
    assert (saved("contrast-intercept_stat-z_desc-thresholded_statmap.nii.gz") >= 0).all()


def test_nothing_surviving_is_said(run, files):
    status, out, _ = run("fit", *files, "--threshold", "30")
    assert status == 0
    assert "0 voxels in 0 clusters" in out
    assert len(pd.read_csv("gpustats-results/contrast-intercept_clusters.tsv", sep="\t")) == 0


def test_the_report_needs_an_extra_and_the_rest_does_not(run, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    status, out, err = run("fit", *files)
    assert status == 0
    assert "no report.html" in err
    assert "pip install" in err
    assert "report.html" not in os.listdir("gpustats-results")
    assert result()["report"] is None
    assert "start with gpustats-results/result.json" in out
    status, _, err = run("demo")
    assert status == 2
    assert "pip install" in err
    assert not os.path.exists("gpustats-demo")


def bad_inputs(tmp_path, files, group):
    """Wrong words, and what the one line of error must say."""
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(Path(files[0]).read_bytes()[:-300])
    text = tmp_path / "text.nii"
    text.write_text("hello")
    shifted = AFFINE.copy()
    shifted[1, 3] += 2
    other = tmp_path / "other.nii"
    nib.save(nib.Nifti1Image(np.ones((9, 10, 8), np.float32), shifted), other)
    nan = tmp_path / "nan.nii"
    nib.save(nib.Nifti1Image(np.full((9, 10, 8), np.nan, np.float32), AFFINE), nan)
    empty = tmp_path / "empty.nii"
    nib.save(nib.Nifti1Image(np.zeros((9, 10, 8), np.uint8), AFFINE), empty)
    table = pd.DataFrame({"a": [1.0] * 6 + [0] * 6, "b": [0.0] * 6 + [1] * 6, "one": 1.0})

    def design(name, frame):
        frame.to_csv(tmp_path / name, sep="\t", index=False)
        return ["--design", tmp_path / name]

    rows = design("rows.tsv", table.iloc[:7])
    whole = design("whole.tsv", table)
    holes = design("holes.tsv", table.assign(a=[np.nan] + [1.0] * 11))
    names = design("names.tsv", table.assign(subject_label=["s"] * 12))
    words = design("words.tsv", table.assign(sex=list("fm" * 6)))
    wide = design("wide.tsv", pd.DataFrame(np.eye(12), columns=[f"c{n}" for n in range(12)]))
    return [
        ([*files, tmp_path / "nowhere.nii"], "nowhere.nii: no such file"),
        ([*files, cut], "cut.nii.gz: the file is truncated or damaged"),
        ([*files, text], "text.nii: not a readable NIfTI image"),
        ([*files, other], "other.nii: affine"),
        ([*files, nan, "--mask", save_mask(tmp_path, group)], "nan.nii: no finite voxel"),
        ([*files, "--mask", empty], "empty.nii: the mask is empty"),
        ([*files, *rows, "--contrast", "a"], "design has 7 rows but 12 maps were given"),
        ([*files, *whole, "--columns", "a,sex"], "no column 'sex' in the table"),
        ([*files, *whole], "a contrast is needed; the columns are a, b, one"),
        ([*files, *whole, "--contrast", "a - c"], "no column 'c' in the design"),
        ([*files, *whole, "--contrast", "a"], "not estimable: the columns a, b, one depend"),
        ([*files, *whole, "--contrast", "a-b", "--contrast", "a - b"], "would both be written"),
        ([*files, *holes, "--contrast", "a"], "column 'a' of the design is not finite in row(s) 1"),
        ([*files, *names, "--contrast", "a"], "subject labels must be unique"),
        ([*files, *words, "--contrast", "a"], "must be numbers, these are not: sex"),
        ([*files, *wide, "--contrast", "c0"], "12 rows and 12 columns"),
        ([*files, "--columns", "a"], "--columns and --id speak of a table"),
        ([*files, "--alpha", "1.5"], "alpha must be an error rate"),
        ([*files, "--threshold", "-2"], "threshold must be a z value >= 0"),
        ([*files, "--threshold", "2", "--height-control", "fdr"], "give one of the two"),
        ([*files, "--device", "cuda"], "device 'cuda'"),
        ([*files, "--output-dir", "/proc/here"], "/proc/here"),
        ([*files, "--output-dir", files[0]], "sub-01_con.nii.gz: File exists"),
        ([files[0]], "a group needs at least 2 maps, got 1"),
        ([*files, "--min-distance", "0"], "argument --min-distance"),
        ([*files, "--smoothing-fwhm", "inf"], "smoothing_fwhm must be a width"),
        ([*files, "--map-name", "a"], "--map-name speaks of a table of maps"),
    ]


@pytest.mark.parametrize("number", range(27))
def test_bad_input_is_one_line_and_leaves_nothing(run, capsys, tmp_path, files, group, number):
    words, message = bad_inputs(tmp_path, files, group)[number]
    try:
        status, out, err = run("fit", *words)
    except SystemExit as stop:  # the parser's own refusal
        captured = capsys.readouterr()
        status, out, err = stop.code, captured.out, captured.err
    lines = [line for line in err.splitlines() if "error" in line]
    assert status == 2
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err
    assert out == ""
    assert os.listdir() == []


def test_every_bad_input_is_tried(tmp_path, files, group):
    assert len(bad_inputs(tmp_path, files, group)) == 27


def test_options_that_do_not_exist_exit_with_two(run, files):
    with pytest.raises(SystemExit) as stop:
        run("fit", *files, "--connectivity", "8")
    assert stop.value.code == 2


def test_a_failed_run_keeps_an_earlier_result(run, files):
    run("fit", *files)
    before = modified("gpustats-results")
    assert run("fit", *files, "--mask", "nowhere.nii")[0] == 2
    assert modified("gpustats-results") == before


def modified(folder):
    return {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(folder)}


def test_info_tells_versions_engine_and_memory(run):
    status, out, _ = run("info")
    assert status == 0
    for word in (__version__, np.__version__, "Numba", "GiB free"):
        assert word in out


def test_version(run, capsys):
    with pytest.raises(SystemExit) as stop:
        run("--version")
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"gpustats {__version__}"


def test_control_c_stops_with_one_line_and_no_output(tmp_path, rng):
    # 400 names of one map that takes a while to inflate: seconds of reading
    volume = rng.normal(size=(96, 96, 96)).astype(np.float32)
    names = [tmp_path / f"sub-{number:03d}.nii.gz" for number in range(400)]
    nib.save(nib.Nifti1Image(volume, AFFINE), names[0])
    for name in names[1:]:
        os.link(names[0], name)
    process = subprocess.Popen(
        [sys.executable, "-m", "gpustats", "fit", *map(str, names)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # a shell may have left the signal ignored for background processes
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("gpustats-results/.partial-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.3)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - started < 5
    assert process.returncode == 130
    assert "interrupted; no results were written" in err
    assert "Traceback" not in err
    assert not (tmp_path / "gpustats-results").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--smoothing-fwhm", "8"], {"smoothing_fwhm": 8.0}),
        (["--resample"], {"resample": True}),
        (["--contrast", "-intercept"], {"contrast": ["-intercept"]}),
        (["--stat-type", "F"], {"stat_type": "F"}),
        (["--device", "cpu"], {"device": "cpu"}),
    ],
)
def test_options_have_an_effect(run, files, group, words, says):
    assert run("fit", *files)[0] == 0
    plain = saved("contrast-intercept_stat-effect_statmap.nii.gz")
    assert run("fit", *files, *words, "--output-dir", "other")[0] == 0
    summary = result("other")
    assert says.items() <= summary["parameters"].items()
    contrast = summary["contrasts"][0]
    path = f"other/contrast-{contrast['label']}_stat-effect_statmap.nii.gz"
    effect = nib.load(path).get_fdata()[group.grid.mask]
    before = plain[group.grid.mask]
    if "--smoothing-fwhm" in words:
        assert effect.std() < 0.9 * before.std()
    elif "-intercept" in words:
        np.testing.assert_allclose(effect, -before, rtol=1e-6)
    elif "F" in words:
        assert contrast["statistic"] == "F"
    else:
        np.testing.assert_allclose(effect, before, rtol=1e-5, atol=1e-6)


def test_missing_raise_map_names_and_id_columns(run, tmp_path, files, group):
    holes = group.values.copy(order="F")
    holes[:3, 4] = 0
    image = nib.Nifti1Image(group.grid.unmask(holes[:, 4]).astype(np.float32), AFFINE)
    nib.save(image, files[4])
    words = ["--zero-is-missing", "--missing", "raise", "--mask", save_mask(tmp_path, group)]
    status, _, err = run("fit", *files, *words)
    assert status == 2
    assert "3 of" in err
    table = pd.DataFrame({"subject_label": [f"{n:02d}" for n in range(12)]})
    table["effects_map_path"] = [Path(f).name for f in files]
    both = pd.concat([table.assign(map_name="a"), table.assign(map_name="b")])
    both.to_csv(tmp_path / "maps" / "maps.tsv", sep="\t", index=False)
    assert run("fit", tmp_path / "maps" / "maps.tsv")[0] == 2
    ids = pd.DataFrame({"code": table["subject_label"], "x": np.arange(12.0), "one": 1.0})
    ids.iloc[::-1].to_csv(tmp_path / "ids.csv", index=False)
    words = ["--design", tmp_path / "ids.csv", "--id", "code", "--contrast", "x"]
    status, _, err = run("fit", tmp_path / "maps" / "maps.tsv", "--map-name", "b", *words)
    assert status == 0
    assert "match the maps by subject label" in err
    assert result()["design"]["x"] == list(range(12))


def test_importing_the_package_imports_nothing_slow_or_optional():
    slow = "{'numba', 'nilearn', 'matplotlib', 'jinja2'}"
    check = f"import sys, gpustats; print(*({slow} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
