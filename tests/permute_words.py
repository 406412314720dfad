"""What tests of ``gpustats permute`` share: words, files, folders of results, lines of error."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from gpustats.archives import load_inference
from gpustats.enhancements import ClusterExtent, ClusterMass, Voxelwise
from gpustats.tfce import Tfce

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
    of_voxels = "pseudot" if outcome.scale == "pseudo-t" else outcome.contrast.statistic
    kind = of_voxels if outcome.statistic == "voxelwise" else label
    score = volume(f"{stem}_stat-{kind}_statmap.nii.gz", folder)
    assert np.array_equal(score[grid.mask], outcome.observed.astype(np.float32))
    null = pd.read_csv(Path(folder, f"{stem}_desc-{label}_nullmax.tsv"), sep="\t")
    assert np.array_equal(null["index"], outcome.indices)
    assert np.array_equal(null["maximum"], outcome.null_maxima)


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
