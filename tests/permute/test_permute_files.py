"""What ``gpustats permute`` computes and writes, and how its words reach the test."""

import os
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from oracles import components, least_squares
from permute_words import (
    ALL_FOUR,
    FOUR_STATISTICS,
    RESULTS,
    assert_equal_folders,
    check_files,
    result,
    summaries,
    volume,
)
from simulate import make_maps, save_group

from gpustats import load_maps
from gpustats.design import Design
from gpustats.enhancements import ClusterExtent, Voxelwise
from gpustats.inference import permutation_test
from gpustats.tables import get_clusters_table
from gpustats.tfce import Tfce


def test_files_of_a_pseudo_t_say_so(run, files, group):
    words = ["--n-permutations", "300", "--variance-smoothing", "4.5"]
    status, out, _ = run("permute", *files, *ALL_FOUR, *words)
    assert status == 0
    expected = permutation_test(
        load_maps(files),
        statistics=FOUR_STATISTICS,
        n_permutations=300,
        variance_smoothing_mm=4.5,
        device="cpu",
    )
    for outcome in expected.outcomes:
        check_files(outcome, group.grid)
    fitted = volume("contrast-intercept_stat-t_statmap.nii.gz")[group.grid.mask]
    assert np.array_equal(fitted, expected.maps["intercept"].statistic.astype(np.float32))
    assert "|pseudo-t| > " in out
    summary = result()
    assert summary["test"]["variance_smoothing_mm"] == 4.5
    assert summaries(summary["contrasts"][0])["voxelwise"]["scale"] == "pseudo-t"


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
    own = {"dataset_description.json", "result.json", "report.html", "inference.npz"}
    assert {*listed, *own} == set(os.listdir(RESULTS))
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
