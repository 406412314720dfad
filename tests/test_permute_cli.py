import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from oracles import components, least_squares
from simulate import make_maps, save_group, save_mask

from gpustats import cli_permute, load_maps
from gpustats.archives import load_inference, save_inference
from gpustats.design import Design
from gpustats.engines import cpu
from gpustats.enhancements import ClusterExtent, ClusterMass, Tfce, Voxelwise
from gpustats.inference import permutation_test
from gpustats.tables import get_clusters_table

RESULTS = "gpustats-results"
ALL_FOUR = [
    *["--statistics", "tfce,voxelwise,cluster-extent,cluster-mass"],
    *["--cluster-forming-z", "1.6", "--cluster-connectivity", "18"],
]
FOUR_STATISTICS = (
    Tfce(),
    Voxelwise(),
    ClusterExtent(connectivity=18, threshold_z=1.6),
    ClusterMass(connectivity=18, threshold_z=1.6),
)
NEVER_EQUAL = ("command", "parameters", "parts", "seconds")
"""What in result.json depends on how the work was cut."""


@pytest.fixture
def group(rng):
    """Twelve maps with a region that responds."""
    maps = make_maps(rng, mean=0)
    maps.values[:30] += 1.2
    return maps


@pytest.fixture
def files(tmp_path, group):
    """The maps on disk, as the command line takes them."""
    folder = tmp_path / "maps"
    folder.mkdir()
    return [str(path) for path in save_group(folder, group)]


@pytest.fixture
def table(rng):
    """Two groups, families of three and an age."""
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{n:02d}" for n in range(1, 13)],
            "patients": [1.0] * 6 + [0] * 6,
            "controls": [0.0] * 6 + [1] * 6,
            "age": rng.normal(40, 5, 12).round(2),
            "family": np.repeat(["d", "b", "c", "a"], 3),
        }
    )


@pytest.fixture
def design(tmp_path, table):
    """The table on disk, rows in another order than the maps, as the command line takes it."""
    path = tmp_path / "participants.tsv"
    table.sample(frac=1, random_state=5).to_csv(path, sep="\t", index=False)
    return ["--design", path]


def volume(name, folder=RESULTS):
    return nib.load(Path(folder, name)).get_fdata()


def result(folder=RESULTS):
    return json.loads(Path(folder, "result.json").read_text())


def summaries(contrast):
    return {found["statistic"]: found for found in contrast["statistics"]}


def check_files(outcome, grid, folder=RESULTS):
    """Compare the files of a statistic with its outcome."""
    stem, label = f"contrast-{outcome.contrast.label}", outcome.statistic.replace("_", "")
    corrected = volume(f"{stem}_stat-p_desc-{label}fwe_statmap.nii.gz", folder)
    assert np.array_equal(corrected[grid.mask], outcome.p_corrected)
    assert (corrected[~grid.mask] == 1).all()
    unc_name = f"{stem}_stat-p_desc-{label}unc_statmap.nii.gz"
    assert Path(folder, unc_name).exists() == (outcome.counts is not None)
    if outcome.counts is not None:
        uncorrected = volume(unc_name, folder)
        assert np.array_equal(uncorrected[grid.mask], outcome.p_uncorrected)
        assert (uncorrected[~grid.mask] == 1).all()
    kind = outcome.contrast.statistic if outcome.statistic == "voxelwise" else label
    score = volume(f"{stem}_stat-{kind}_statmap.nii.gz", folder)
    assert np.array_equal(score[grid.mask], outcome.observed.astype(np.float32))
    null = pd.read_csv(Path(folder, f"{stem}_desc-{label}_nullmax.tsv"), sep="\t")
    assert np.array_equal(null["index"], outcome.indices)
    assert np.array_equal(null["maximum"], outcome.null_maxima)


@pytest.mark.parametrize("uncorrected", [False, True])
def test_files_hold_what_the_test_found(run, files, group, uncorrected):
    extra = ["--uncorrected"] if uncorrected else []
    status, out, _ = run("permute", *files, *ALL_FOUR, "--n-permutations", "300", *extra)
    assert status == 0
    expected = permutation_test(
        load_maps(files),
        statistics=FOUR_STATISTICS,
        n_permutations=300,
        uncorrected=uncorrected,
        device="cpu",
    )
    assert len(expected.outcomes) == 4
    for outcome in expected.outcomes:
        check_files(outcome, group.grid)
    summary = result()
    contrast = summary["contrasts"][0]
    for outcome in expected.outcomes:
        found = summaries(contrast)[outcome.statistic]
        survives = outcome.p_corrected <= 0.05
        assert survives.any()
        assert found["n_surviving_voxels"] == survives.sum()
        assert found["smallest_p_corrected"]["value"] == outcome.p_corrected.min()
        voxel = tuple(found["smallest_p_corrected"]["voxel"])
        v = np.flatnonzero(
            np.flatnonzero(group.grid.mask) == np.ravel_multi_index(voxel, (9, 10, 8))
        )
        assert outcome.p_corrected[v] == outcome.p_corrected.min()
        assert outcome.observed[v] == found["score_there"]
        height = found["fwe_thresholds"]["0.05"]
        assert np.array_equal(np.abs(outcome.observed) >= height, survives)
        assert f"{survives.sum():,} voxels survive" in out
    assert contrast["shuffles"] == {
        "description": "sign flips of 12 subjects: 300 of 4,096 distinct, drawn at random, seed 0",
        "n_shuffles": 300,
        "n_distinct": 4096,
        "minimum_p": 1 / 300,
    }
    listed = {name for entry in summary["contrasts"] for name in entry["files"]}
    assert {*listed, "result.json", "inference.npz"} == set(os.listdir(RESULTS))
    assert summary["parameters"]["uncorrected"] == uncorrected
    assert summary["p_outside_mask"] == 1


def test_p_are_exact_by_enumeration(run, tmp_path, rng):
    maps = make_maps(rng, n_subjects=6, mean=0.4)
    assert run("permute", *save_group(tmp_path, maps), "--statistics", "voxelwise")[0] == 0
    y = maps.values.astype(float)
    t = np.array(
        [
            least_squares(y * np.array(signs), np.ones((6, 1)), [1])[2]
            for signs in product([1, -1], repeat=6)
        ]
    )
    reached = np.abs(t).max(axis=1)[:, None] >= np.abs(t[0]) - 1e-9
    p = volume("contrast-intercept_stat-p_desc-voxelwisefwe_statmap.nii.gz")[maps.grid.mask]
    assert np.array_equal(p, reached.sum(axis=0) / 64)
    assert result()["contrasts"][0]["shuffles"]["n_distinct"] == 64


def test_observed_maps_are_those_of_fit(run, files, design):
    words = [*files, *design, "--columns", "patients,controls,age"]
    words += ["--contrast", "patients - controls", "--contrast", "patients; controls"]
    assert run("fit", *words, "--output-dir", "fit")[0] == 0
    assert run("permute", *words, "--n-permutations", "60", "--output-dir", "permute")[0] == 0
    compared = 0
    for label, kind in (("patientsMinusControls", "t"), ("patientsAndControls", "F")):
        for stat in ("effect", "variance", kind, "z", "p"):
            name = f"contrast-{label}_stat-{stat}_statmap.nii.gz"
            assert Path("fit", name).read_bytes() == Path("permute", name).read_bytes()
            compared += 1
    assert compared == 10
    for ours, theirs in zip(
        result("permute")["contrasts"], result("fit")["contrasts"], strict=True
    ):
        same = ("name", "weights", "statistic", "df", "maximum")
        assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("least", [0, 12])
def test_the_first_statistic_thresholds(run, files, group, one_sided, least):
    group.values[-25:] -= 2
    words = ["--statistics", "cluster-mass,voxelwise", "--cluster-forming-p", "0.05"]
    words += ["--cluster-connectivity", "26", "--cluster-threshold", least, "--alpha", "0.2"]
    words += ["--connectivity", "26", *(["--one-sided"] if one_sided else [])]
    paths = save_group(Path(files[0]).parent, group)
    assert run("permute", *paths, *words, "--n-permutations", "200")[0] == 0
    stem = "contrast-intercept"
    p = volume(f"{stem}_stat-p_desc-clustermassfwe_statmap.nii.gz")
    z = volume(f"{stem}_stat-z_statmap.nii.gz")
    kept = np.zeros(p.shape)
    for side in (z,) if one_sided else (z, -z):
        above = (p <= 0.2) & (side > 0)
        labels = np.zeros(p.shape, int)
        labels[above] = components(above, 26)
        large = np.isin(
            labels, [k for k in np.unique(labels[above]) if (labels == k).sum() >= least]
        )
        kept[above & large] = z[above & large]
    assert kept.any()
    assert (kept < 0).any() == (not one_sided)
    assert np.array_equal(volume(f"{stem}_stat-z_desc-thresholded_statmap.nii.gz"), kept)
    thresholded = result()["contrasts"][0]["thresholded"]
    labels = volume(f"{stem}_desc-clusters_dseg.nii.gz")
    assert np.array_equal(labels != 0, kept != 0)
    assert thresholded["n_clusters"] == np.ptp(labels)
    assert thresholded["n_surviving_voxels"] == np.count_nonzero(kept)
    table = get_clusters_table(
        f"{RESULTS}/{stem}_stat-z_desc-thresholded_statmap.nii.gz",
        0,
        two_sided=not one_sided,
        connectivity=26,
    )
    written = pd.read_csv(f"{RESULTS}/{stem}_clusters.tsv", sep="\t")
    np.testing.assert_allclose(written["Peak Stat"], table["Peak Stat"].astype(float), rtol=1e-6)
    assert [str(name) for name in written["Cluster ID"]] == [str(n) for n in table["Cluster ID"]]


@pytest.mark.parametrize("exchange", ["within", "whole", "both"])
def test_blocks_are_a_column_of_the_table(run, files, design, table, exchange):
    words = ["--blocks", "family", "--block-exchange", exchange, "--n-permutations", "150"]
    words += ["--columns", "age", "--intercept", "--contrast", "age"]
    assert run("permute", *files, *design, *words)[0] == 0
    maps = load_maps(files)
    expected = permutation_test(
        maps,
        Design(table[["age"]], intercept=True),
        "age",
        statistics=[Voxelwise(), Tfce()],
        n_permutations=150,
        blocks=[1] * 3 + [2] * 3 + [3] * 3 + [4] * 3,
        block_exchange=exchange,
        device="cpu",
    )
    for outcome in expected.outcomes:
        check_files(outcome, maps.grid)
    summary = result()
    assert (
        summary["contrasts"][0]["shuffles"]["description"] == expected.settings["shuffles"]["age"]
    )
    assert summary["blocks"] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_a_column_of_blocks_is_a_regressor_only_where_it_is_named(run, files, tmp_path, rng):
    x = rng.normal(size=12).round(3)
    frame = pd.DataFrame({"x": x, "pair": np.repeat(range(6), 2), "one": 1.0})
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    words = ["--design", tmp_path / "pairs.csv", "--blocks", "pair", "--contrast", "x"]
    words += ["--n-permutations", "50", "--statistics", "voxelwise"]
    assert run("permute", *files, *words)[0] == 0
    assert list(result()["design"]) == ["x", "one"]
    assert "64 distinct" in result()["contrasts"][0]["shuffles"]["description"]
    assert run("permute", *files, *words, "--columns", "x,pair,one")[0] == 0
    assert list(result()["design"]) == ["x", "pair", "one"]


def test_blocks_may_be_the_subjects_of_repeated_maps(run, files, tmp_path):
    frame = pd.DataFrame({"participant_id": list("aabbccddeeff"), "drug": [1.0, -1.0] * 6})
    frame.to_csv(tmp_path / "paired.tsv", sep="\t", index=False)
    words = ["--design", tmp_path / "paired.tsv", "--blocks", "participant_id", "--intercept"]
    status, out, _ = run("permute", *files, *words, "--contrast", "drug")
    assert status == 0
    assert "permutations of 12 subjects within 6 blocks: all 64 distinct" in out


def test_f_contrasts_have_one_tail(run, files, design, table):
    words = ["--columns", "patients,controls,age", "--contrast", "patients - controls; age"]
    status, out, _ = run("permute", *files, *design, *words, *ALL_FOUR, "--n-permutations", "90")
    assert status == 0
    maps = load_maps(files)
    expected = permutation_test(
        maps,
        Design(table.drop(columns=["family", "participant_id"])),
        "patients - controls; age",
        statistics=FOUR_STATISTICS,
        n_permutations=90,
        device="cpu",
    )
    for outcome in expected.outcomes:
        check_files(outcome, maps.grid)
    contrast = result()["contrasts"][0]
    assert not contrast["two_sided"]
    assert contrast["dimension"] == 2
    assert "corrected p <= 0.05: F > " in out
    with_side = run("permute", *files, *design, *words, "--one-sided", "--n-permutations", "90")
    assert with_side[0] == 0


def cut(run, words, parts):
    """Run a test in parts, into one folder."""
    for part in parts:
        status, out, _ = run("permute", *words, *part, "--output-dir", "parts")
        assert status == 0
        assert "gpustats merge" in out
    names = sorted(os.listdir("parts"))
    assert len(names) == len(parts)
    return names


def assert_equal_folders(one, other):
    """Compare the results of two runs, of which one was cut and merged."""
    assert sorted(os.listdir(one)) == sorted(os.listdir(other))
    names = [name for name in os.listdir(one) if name.endswith((".nii.gz", ".tsv"))]
    assert len(names) > 10
    for name in names:
        assert Path(one, name).read_bytes() == Path(other, name).read_bytes(), name
    ours, theirs = result(one), result(other)
    for key in {*ours, *theirs} - set(NEVER_EQUAL):
        assert ours[key] == theirs[key]
    assert len(load_inference(f"{one}/inference.npz").outcomes) > 1
    with np.load(f"{one}/inference.npz") as a, np.load(f"{other}/inference.npz") as b:
        assert set(a) == set(b)
        for name in set(a) - {"gpustats_inference"}:
            assert np.array_equal(a[name], b[name])


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        (
            [["--shard", f"{k}/3"] for k in (2, 1, 3)],
            [f"inference_shard-{k}of3.npz" for k in (1, 2, 3)],
        ),
        ([["--shard", "1/1"]], ["inference_shard-1of1.npz"]),
        (
            [["--shuffles", part] for part in ("0:100", "250:260", "100:250")],
            [f"inference_shuffles-{part}.npz" for part in ("0to100", "100to250", "250to260")],
        ),
    ],
)
def test_merged_parts_are_one_run(run, files, design, parts, names):
    words = [*files, *design, "--columns", "patients,controls,age", *ALL_FOUR, "--uncorrected"]
    words += ["--contrast", "patients - controls", "--contrast", "patients; age"]
    words += ["--n-permutations", "260", "--alpha", "0.1", "--connectivity", "18"]
    assert run("permute", *words, "--output-dir", "whole")[0] == 0
    assert cut(run, words, parts) == names
    status, out, _ = run("merge", "parts", "--output-dir", "merged")
    assert status == 0
    assert "voxels survive" in out
    assert_equal_folders("whole", "merged")
    assert [Path(part["file"]).name for part in result("merged")["parts"]] == names
    assert result("merged")["parameters"]["output_dir"] == "merged"
    assert result("merged")["parameters"]["shard"] is None


def test_shards_cut_contrasts_of_different_numbers_of_shuffles(run, files, design):
    words = [*files, *design, "--columns", "patients,controls", "--blocks", "family"]
    words += ["--errors", "both", "--n-permutations", "40", "--block-exchange", "whole"]
    words += ["--contrast", "patients - controls", "--contrast", "patients + controls"]
    assert run("permute", *words, "--output-dir", "whole")[0] == 0
    cut(run, words, [["--shard", f"{k}/4"] for k in (1, 2, 3, 4)])
    first = load_inference("parts/inference_shard-1of4.npz")
    assert run("merge", "parts", "--output-dir", "merged")[0] == 0
    assert_equal_folders("whole", "merged")
    assert {o.n_shuffles for o in first.outcomes} == {
        entry["shuffles"]["n_shuffles"] for entry in result("whole")["contrasts"]
    }


def test_the_same_seed_gives_the_same_files(run, files):
    for folder, seed in (("one", 3), ("other", 3), ("else", 4)):
        words = ["--seed", seed, "--n-permutations", "100", "--output-dir", folder]
        assert run("permute", *files, *words)[0] == 0
    assert_equal_folders("one", "other")
    null = "contrast-intercept_desc-tfce_nullmax.tsv"
    assert Path("one", null).read_bytes() != Path("else", null).read_bytes()


def test_options_reach_the_statistics(run, files):
    words = ["--statistics", "tfce,cluster-extent", "--cluster-forming-p", "0.02"]
    words += ["--cluster-connectivity", "6", "--tfce-connectivity", "26", "--tfce-extent", "1"]
    words += ["--tfce-height", "1.5", "--tfce-step", "0.1", "--n-permutations", "40"]
    assert run("permute", *files, *words, "--errors", "ise", "--scheme", "manly")[0] == 0
    test = result()["test"]
    assert test["statistics"] == [
        repr(Tfce(extent=1.0, height=1.5, connectivity=26, step=0.1)),
        repr(ClusterExtent(connectivity=6, threshold_p=0.02)),
    ]
    assert (test["errors"], test["scheme"]) == ("ise", "manly")


def test_too_few_shuffles_are_said(run, files):
    status, out, _ = run("permute", *files, "--n-permutations", "10", "--statistics", "voxelwise")
    assert status == 0
    assert "corrected p <= 0.05: out of reach" in out
    assert "0 voxels in 0 clusters" in out
    assert summaries(result()["contrasts"][0])["voxelwise"]["fwe_thresholds"] == {"0.05": None}


CLUSTERS = ["--statistics", "cluster-extent"]
WRONG = {
    "unknown statistic": (["--statistics", "tfce,cluster"], "--statistics takes any of voxelwise"),
    "repeated statistic": (["--statistics", "tfce,tfce"], "each once"),
    "no connectivity": ([*CLUSTERS, "--cluster-forming-t", "3"], "need --cluster-connectivity"),
    "no threshold": ([*CLUSTERS, "--cluster-connectivity", "6"], "one of --cluster-forming-t"),
    "threshold unused": (["--cluster-forming-t", "3"], "are for statistics of clusters"),
    "connectivity unused": (["--cluster-connectivity", "6"], "are for statistics of clusters"),
    "p too large": (
        [*CLUSTERS, "--cluster-connectivity", "6", "--cluster-forming-p", "3.1"],
        "threshold_p must be a p",
    ),
    "no permutations": (["--n-permutations", "0"], "n_permutations must be an integer"),
    "seed": (["--seed", "-1"], "seed must be an integer from 0"),
    "step": (["--tfce-step", "0"], "step must be a height > 0"),
    "alpha": (["--alpha", "3"], "alpha must be an error rate"),
    "shard zero": (["--shard", "0/3"], "shards are numbered 1 to 3, got 0 of 3"),
    "shard four": (["--shard", "4/3"], "shards are numbered 1 to 3, got 4 of 3"),
    "shard words": (["--shard", "one/3"], "--shard must be K/N, two whole numbers"),
    "too many shards": (["--n-permutations", "5", "--shard", "1/6"], "5 shuffles cannot be cut"),
    "range words": (["--shuffles", "5"], "--shuffles must be A:B, two whole numbers"),
    "empty range": (["--shuffles", "7:7"], "a range without gaps inside 0 to 4096"),
    "long range": (["--shuffles", "0:4097"], "a range without gaps inside 0 to 4096"),
    "no table": (["--blocks", "family"], "--blocks speaks of a table"),
    "no blocks": (["--block-exchange", "whole"], "moves blocks, but blocks is None"),
    "exchangeable mean": (["--errors", "ee"], "a shuffle must be able to change the design"),
    "min distance": (
        ["--n-permutations", "20", "--min-distance", "0"],
        "--min-distance: must be a distance",
    ),
    "device": (["--device", "cuda"], "device 'cuda'"),
    "two thresholds": (
        ["--cluster-forming-t", "3", "--cluster-forming-p", "0.001"],
        "not allowed with argument",
    ),
    "two parts": (["--shard", "1/2", "--shuffles", "0:10"], "not allowed with argument"),
    "connectivity 8": (["--cluster-connectivity", "8"], "invalid choice"),
    "number": (["--n-permutations", "many"], "invalid int value"),
    "height of fit": (["--height-control", "fdr"], "unrecognized arguments"),
}


def fails(run, *words):
    """Run what must fail and return its line of error, with what else was printed."""
    try:
        status, out, err = run(*words)
    except SystemExit as stop:
        return stop.code, None
    lines = [line for line in err.splitlines() if "error" in line]
    assert "Traceback" not in err
    assert out == ""
    assert len(lines) == 1
    return status, lines[0]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_are_one_line_and_leave_nothing(run, capsys, files, name):
    words, message = WRONG[name]
    status, line = fails(run, "permute", *files, *words)
    if line is None:
        (line,) = capsys.readouterr().err.splitlines()
    assert status == 2
    assert line.startswith("gpustats: error: ")
    assert message in line
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--blocks", "clan"], "no column 'clan' in the table; it has participant_id"),
        (["--blocks", "holes"], "column 'holes' has rows without a block"),
        (
            ["--blocks", "uneven", "--block-exchange", "whole", "--errors", "ee"],
            "blocks that are permuted as wholes must have equal sizes",
        ),
        (
            [
                *["--contrast", "age; patients", *CLUSTERS, "--cluster-connectivity", "6"],
                *["--cluster-forming-t", "3"],
            ],
            "contrast 'age; patients' is an F contrast, whose clusters are formed on z",
        ),
    ],
)
def test_wrong_tables_are_one_line_and_leave_nothing(run, tmp_path, files, table, words, message):
    table = table.assign(holes=[None, *range(11)], uneven=[0] * 5 + [1] * 7)
    table.to_csv(tmp_path / "wrong.tsv", sep="\t", index=False)
    words = ["--design", tmp_path / "wrong.tsv", "--columns", "patients,controls,age", *words]
    words += [] if "--contrast" in words else ["--contrast", "age"]
    status, line = fails(run, "permute", *files, *words)
    assert status == 2
    assert message in line
    assert os.listdir() == []


def test_parts_that_do_not_fit_are_one_line_and_leave_nothing(run, tmp_path, files, group):
    def part(*words):
        folder = tmp_path / f"part{len(os.listdir(tmp_path))}"
        assert (
            run("permute", *files, "--n-permutations", "60", *words, "--output-dir", folder)[0] == 0
        )
        (name,) = os.listdir(folder)
        return folder / name

    first, second = part("--shard", "1/2"), part("--shard", "2/2")
    cut_short = tmp_path / "cut.npz"
    cut_short.write_bytes(first.read_bytes()[:-100])
    (tmp_path / "empty").mkdir()
    by_hand = tmp_path / "by_hand.npz"
    save_inference(permutation_test(group, n_permutations=60, device="cpu"), by_hand)
    across, late = part("--shuffles", "10:60"), part("--shuffles", "31:60")
    reseeded = part("--shard", "2/2", "--seed", "1")
    for words, message in [
        ([first], "shuffles 0 to 30 of 60 were computed; merge the results of all ranges first"),
        ([second], "shuffles 30 to 60 of 60 were computed"),
        ([first, second, across], f"ranges of shuffles overlap at 10: {first} has 0 to 30, "),
        ([first, late], f"leave a gap between 30 and 31, after {first} and before {late};"),
        ([first, reseeded], f"{first} and {reseeded}: results of different runs cannot be merged"),
        ([first, reseeded], "they differ in settings"),
        ([first, part("--shard", "2/2", "--one-sided")], "computed with different --alpha"),
        ([first, part("--shard", "2/2", "--alpha", "0.01")], "computed with different --alpha"),
        ([first, cut_short], "cut.npz: not a whole result of a permutation test"),
        ([first, tmp_path / "nowhere.npz"], "nowhere.npz: no such file"),
        ([tmp_path / "empty"], "empty: no file in this folder is called inference_*.npz"),
        ([first, by_hand], f"{first} and {by_hand}: results of different runs cannot be merged"),
    ]:
        status, line = fails(run, "merge", *words)
        assert status == 2
        assert message in line
        assert os.listdir() == []


def test_parts_saved_from_python_merge_too(run, tmp_path, files, group):
    def in_python(indices):
        return permutation_test(group, shuffles=indices, n_permutations=60, device="cpu")

    whole = in_python(None)
    for number, indices in enumerate([range(20), range(20, 60)]):
        save_inference(in_python(indices), tmp_path / f"inference_{number}.npz")
    status, out, _ = run("merge", tmp_path)
    assert status == 0
    assert out.startswith(f"{group.n_voxels:,} voxels\n")
    check_files(whole["voxelwise"], group.grid)
    assert result()["contrasts"][0]["alpha"] == 0.05
    assert [part["seconds"] for part in result()["parts"]] == [None, None]
    # the rest of the shuffles may as well come from the command line
    words = ["--statistics", "voxelwise", "--n-permutations", "60", "--alpha", "0.2"]
    assert run("permute", *files, *words, "--shuffles", "20:60", "--output-dir", "parts")[0] == 0
    parts = [tmp_path / "inference_0.npz", "parts/inference_shuffles-20to60.npz"]
    status, _, err = run("merge", *parts, "--output-dir", "both")
    assert (status, err) == (0, "")
    check_files(whole["voxelwise"], group.grid, "both")
    assert result("both")["contrasts"][0]["alpha"] == 0.2


def test_parts_of_other_engines_merge_on_request(run, tmp_path, group):
    for number, indices in enumerate([range(20), range(20, 60)]):
        part = permutation_test(group, shuffles=indices, n_permutations=60, device="cpu")
        engine = {"engine": f"engine {number}"}
        part = replace(part, fingerprint={**part.fingerprint, **engine})
        save_inference(part, tmp_path / f"inference_{number}.npz")
    status, line = fails(run, "merge", tmp_path)
    assert status == 2
    assert "they differ in engine (engine 0 and engine 1); allow mixed engines" in line
    assert run("merge", tmp_path, "--allow-mixed")[0] == 0
    assert result()["fingerprint"]["engine"] == "engine 0 and engine 1"
    check_files(permutation_test(group, n_permutations=60, device="cpu")["voxelwise"], group.grid)


def test_parts_of_one_and_two_sided_tests_are_told_apart(group):
    fingerprints = [
        permutation_test(
            group, n_permutations=20, two_sided=two_sided, uncorrected=uncorrected, device="cpu"
        ).fingerprint
        for two_sided, uncorrected in product([True, False], repeat=2)
    ]
    assert len({mark["settings"] for mark in fingerprints}) == 4


def test_an_interruption_says_how_many_shuffles_were_finished(run, files, monkeypatch):
    calls = []
    whole_sweep = cpu.sweep

    def sweep(*arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole_sweep(*arguments, **options)

    monkeypatch.setattr(cpu, "sweep", sweep)
    status, out, err = run("permute", *files, "--n-permutations", "2000")
    assert status == 130
    assert out == ""
    assert err.splitlines()[-1] == (
        "gpustats: interrupted after 576 of 2,000 shuffles; no results were written"
    )
    assert os.listdir() == []


def test_a_failed_write_leaves_nothing(run, files, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "inference.npz")

    monkeypatch.setattr(cli_permute, "save_inference", full)
    status, line = fails(run, "permute", *files, "--n-permutations", "20")
    assert (status, line) == (2, "gpustats: error: inference.npz: No space left on device")
    assert os.listdir() == []


def test_control_c_stops_within_a_second(tmp_path, rng):
    maps = make_maps(rng, n_subjects=40, shape=(30, 30, 30))
    words = ["permute", *save_group(tmp_path, maps), "--mask", save_mask(tmp_path, maps)]
    command = [sys.executable, "-m", "gpustats", *map(str, words), "--n-permutations"]
    subprocess.run([*command, "10"], cwd=tmp_path, check=True, capture_output=True)
    with subprocess.Popen(
        [*command, "10000000", "--output-dir", "never"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # a shell may have left the signal ignored for background processes
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert any("drawn at random" in line for line in process.stderr)
        time.sleep(2)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
    assert time.monotonic() - started < 3  # a second, and some more on a busy machine
    assert process.returncode == 130
    said = re.fullmatch(
        r"gpustats: interrupted after ([\d,]+) of 10,000,000 shuffles; no results were written",
        err.splitlines()[-1],
    )
    assert said
    assert int(said[1].replace(",", "")) > 0
    assert "Traceback" not in err
    assert not (tmp_path / "never").exists()
