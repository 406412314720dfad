"""Wrong words, failed writes and interruptions: one line, and nothing half written."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from permute_words import (
    fails,
)
from simulate import make_maps, save_group, save_mask

from gpustats import cli_permute
from gpustats.engines import cpu

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
    "sigma": (["--variance-smoothing", "0"], "standard deviation of a Gaussian, > 0 mm, got 0.0"),
    "smoothed F": (["--variance-smoothing", "4", "--stat-type", "F"], "is an F contrast"),
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
    subprocess.run([*command, "10", "--no-report"], cwd=tmp_path, check=True, capture_output=True)
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
