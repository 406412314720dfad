"""Ranges of shuffles on the command line, and ``gpustats merge``."""

import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from permute_words import (
    ALL_FOUR,
    assert_equal_folders,
    check_files,
    cut,
    fails,
    result,
)

from gpustats.archives import load_inference, save_inference
from gpustats.inference import permutation_test


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
        ([first, part("--shard", "2/2", "--one-sided")], "computed with different --one-sided"),
        (
            [first, part("--shard", "2/2", "--alpha", "0.01")],
            "computed with different --alpha than",
        ),
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
    assert (status, err) == (0, "gpustats: drawing the report\n")
    check_files(whole["voxelwise"], group.grid, "both")
    assert result("both")["contrasts"][0]["alpha"] == 0.2


def test_further_results_can_be_asked_for_when_parts_merge(run, files, design):
    words = [*files, *design, "--columns", "patients,controls", "--n-permutations", "40"]
    words += ["--contrast", "patients - controls", "--alpha", "0.3", "--one-minus-p"]
    further = ["--effect-size", "--confidence", "0.9", "--logp", "--true-discoveries", "0.2"]
    assert run("permute", *words, *further, "--output-dir", "whole")[0] == 0
    cut(run, words, [["--shard", "1/2"], ["--shard", "2/2"]])
    assert run("merge", "parts", *further, "--output-dir", "merged")[0] == 0
    assert_equal_folders("whole", "merged")
    (contrast,) = result("merged")["contrasts"]
    assert contrast["true_discovery_alpha"] == 0.2
    asked = result("merged")["parameters"]
    assert (asked["confidence"], asked["one_minus_p"], asked["q"]) == (0.9, True, False)


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
