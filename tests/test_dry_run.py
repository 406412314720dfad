import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulate import make_maps, save_group, save_mask

from gpustats.cohort import Cohort
from gpustats.maps import Reader


@pytest.fixture
def maps(rng):
    return make_maps(rng, n_subjects=10)


@pytest.fixture
def files(tmp_path, maps):
    folder = tmp_path / "maps"
    folder.mkdir()
    return [str(path) for path in save_group(folder, maps)]


@pytest.fixture
def mask(tmp_path, maps):
    return str(save_mask(tmp_path, maps))


@pytest.fixture
def design(tmp_path, rng):
    path = tmp_path / "design.tsv"
    labels = [f"sub-{number:02d}" for number in range(1, 11)]
    table = {"subject_label": labels, "age": rng.normal(40, 5, 10), "group": np.arange(10) % 2}
    pd.DataFrame(table).to_csv(path, sep="\t", index=False)
    return ["--design", str(path), "--intercept"]


@pytest.fixture
def unread(monkeypatch):
    """Reading a map is an error."""

    def refuse(*_, **__):
        raise AssertionError("a map was read")

    monkeypatch.setattr(Reader, "__call__", refuse)
    monkeypatch.setattr(Cohort, "read", refuse)


def everything():
    return sorted(str(path) for path in Path().rglob("*"))


def listed(out):
    """The files that a plan names, and its other lines by what they are about."""
    lines = out.splitlines()
    (first,) = [n for n, line in enumerate(lines) if line.startswith("output ")]
    return [line.strip() for line in lines[first + 1 :]], lines[:first]


ANALYSES = [
    ("fit",),
    ("fit", "--contrast", "age", "--contrast", "age; group", "--effect-size", "--q"),
    ("fit", "--contrast", "age", "--missing", "pairwise", "--one-minus-p"),
    ("permute", "--contrast", "age", "--n-permutations", "20"),
    ("permute", "--contrast", "group", "--statistics", "voxelwise", "--shard", "2/3"),
    (
        *("permute", "--contrast", "age; group", "--n-permutations", "20", "--logp"),
        *("--statistics", "cluster-mass,tfce", "--cluster-forming-p", "0.01"),
        *("--cluster-connectivity", "26", "--uncorrected"),
    ),
]


@pytest.mark.parametrize("words", ANALYSES)
def test_the_plan_names_the_files_that_are_written(run, files, mask, design, words, monkeypatch):
    command = [*words, *files, "--mask", mask]
    if "--contrast" in words:
        command += design
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "__call__", None)  # reading a map would be an error
        status, out, _ = run(*command, "--dry-run")
    assert status == 0
    assert everything() == []
    names, _ = listed(out)
    if "pairwise" in words:  # files with n and df are written where maps lack voxels: here one does
        monkeypatch.setattr(Reader, "__call__", _with_a_hole(Reader.__call__))
    assert run(*command)[0] == 0
    assert names == sorted(os.listdir("gpustats-results"))
    replaced, _ = listed(run(*command, "--dry-run")[1])
    assert replaced == [f"{name}  (replaces a file)" for name in names]


def _with_a_hole(read):
    def reading(self, item):
        values = read(self, item)
        if "sub-03" in item[0].name:
            values[0] = np.nan
        return values

    return reading


@pytest.mark.usefixtures("unread")
def test_a_plan_tells_design_shuffles_and_device(run, files, mask, design):
    words = ("--contrast", "age - 2 * group", "--n-permutations", "1000", "--device", "cpu")
    status, out, err = run("permute", *files, "--mask", mask, *design, *words, "--dry-run")
    assert status == 0
    text = "\n".join(listed(out)[1])
    assert "10 in 10 files" in text
    assert "columns age, group, intercept; rank 3, 7 degrees of freedom" in text
    assert "t of +1 age, -2 group; estimable" in text
    assert "1,000 of 3,628,800 distinct, drawn at random, seed 0" in text
    assert "NumPy" in text
    assert "time       about " in text
    assert "distinct" not in err


def test_the_shuffles_of_a_plan_are_those_of_the_test(run, files, mask, design):
    words = ("permute", *files, "--mask", mask, *design, "--contrast", "group", "--errors", "both")
    _, lines = listed(run(*words, "--dry-run")[1])
    run(*words, "--n-permutations", "5000", "--statistics", "voxelwise")
    summary = json.loads(Path("gpustats-results/result.json").read_text())
    assert f"shuffles   group: {summary['test']['shuffles']['group']}" in lines


def test_a_store_is_planned_in_blocks(run, tmp_path, rng, monkeypatch):
    maps = make_maps(rng, n_subjects=400, shape=(40, 40, 40))
    folder = tmp_path / "many"
    folder.mkdir()
    paths, mask = save_group(folder, maps, ending=".nii"), save_mask(folder, maps)
    assert run("stack", *paths, "--mask", mask, "-o", "cohort.zarr")[0] == 0
    there = everything()
    monkeypatch.setattr(Cohort, "read", None)
    words = ("cohort.zarr", "--memory", "80M", "--dry-run")
    _, lines = listed(run("fit", *words)[1])
    assert any("blocks of" in line and "1 pass over the data" in line for line in lines)
    _, lines = listed(run("permute", *words, "--statistics", "voxelwise")[1])
    assert any(line.startswith("memory     intercept: ") and "blocks of" in line for line in lines)
    status, _, err = run("fit", "cohort.zarr", "--memory", "1M", "--dry-run")
    assert (status, run("fit", "cohort.zarr", "--memory", "1M")[2]) == (2, err)
    assert everything() == there


def _bad(files, design, tmp_path):
    other = tmp_path / "other.tsv"
    pd.DataFrame({"subject_label": ["sub-01"], "age": [1.0]}).to_csv(other, sep="\t", index=False)
    (tmp_path / "file").touch()
    of_other_grid = make_maps(np.random.default_rng(1), shape=(5, 6, 7))
    folder = tmp_path / "grid"
    folder.mkdir()
    grid = str(save_group(folder, of_other_grid)[0])
    whole = Path(files[0]).read_bytes()
    cut = tmp_path / "cut_con.nii.gz"
    cut.write_bytes(whole[:200])
    return {
        "file": ("fit", *files, "nowhere.nii.gz"),
        "damage": ("fit", *files, str(cut)),
        "grid": ("fit", *files, grid),
        "mask": ("fit", *files, "--mask", "nowhere.nii.gz"),
        "rows": ("fit", *files, "--design", str(other)),
        "column": ("fit", *files, *design, "--contrast", "height"),
        "minimum": ("fit", *files, "--min-subjects", "3"),
        "folder": ("fit", *files, "--output-dir", str(tmp_path / "file")),
        "below": ("fit", *files, "--output-dir", str(tmp_path / "file" / "results")),
        "device": ("fit", *files, "--device", "abacus"),
        "atlas": ("fit", *files, "--atlas", "unknown"),
        "memory": ("fit", *files, "--memory", "1G"),
        "unit": ("permute", *files, *design, "--contrast", "age", "--shuffles", "7:3"),
        "range": ("permute", *files, *design, "--contrast", "age", "--shard", "7/3"),
        "statistics": ("permute", *files, "--statistics", "tfce,mean"),
        "errors": ("permute", *files, *design, "--contrast", "age", "--blocks", "nothing"),
        "checkpoint": ("permute", *files, "--checkpoint", "kept", "--dask-local", "1"),
    }


BAD = [
    *("file", "damage", "grid", "mask", "rows", "column", "minimum", "folder", "below", "device"),
    *("atlas", "memory", "unit", "range", "statistics", "errors", "checkpoint"),
]


@pytest.mark.parametrize("what", BAD)
def test_what_a_run_refuses_its_dry_run_refuses_in_the_same_words(
    run, files, design, tmp_path, what
):
    bad = _bad(files, design, tmp_path)
    assert set(bad) == set(BAD)
    words = bad[what]
    status, out, err = run(*words)
    if what == "checkpoint":
        status, out = 2, ""  # the error comes before work, but after processes have started
        err = err[err.index("gpustats: error") :]
    dry = run(*words, "--dry-run")
    assert (status, out) == dry[:2] == (2, "")
    assert err.splitlines()[-1] == dry[2].splitlines()[-1]
    assert "gpustats: error: " in err
    assert everything() == []
