"""The example for SLURM, by a stand-in for ``sbatch`` that runs every job at once."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulate import make_maps, save_group, save_mask

from gpustats.archives import load_inference
from gpustats.cohort import Cohort
from gpustats.design import Design
from gpustats.enhancements import Voxelwise
from gpustats.inference import permutation_test
from gpustats.tfce import Tfce

EXAMPLE = Path(__file__).parents[1] / "examples" / "slurm.sh"
N_PARTS = 20

SBATCH = """#!{python}
import os, subprocess, sys
from pathlib import Path

options = dict(w[2:].split("=", 1) for w in sys.argv[1:] if w.startswith("--") and "=" in w)
words = [w for w in sys.argv[1:] if not w.startswith("--")]
log = Path("jobs.txt")
jobs = log.read_text().splitlines() if log.exists() else []
number = len(jobs) + 1
waits_for = options.get("dependency", "afterok:0").removeprefix("afterok:")
assert int(waits_for) < number
first, _, last = options.get("array", "0").partition("-")
for task in range(int(first), int(last or first) + 1):
    job = dict(os.environ, SLURM_JOB_ID=str(number), SLURM_CPUS_PER_TASK="1")
    if "array" in options:
        job["SLURM_ARRAY_TASK_ID"] = str(task)
    subprocess.run(["bash", *words], env=job, check=True, stdout=sys.stderr)
with log.open("a") as file:
    print(options["job-name"], waits_for, options.get("array", ""), file=file)
print(number)
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="the example is a script for bash")
def test_the_example_stacks_computes_parts_and_merges_them(tmp_path, rng):
    maps = make_maps(rng, n_subjects=12)
    (tmp_path / "maps").mkdir()
    save_group(tmp_path / "maps", maps)
    save_mask(tmp_path, maps)
    subjects = [f"sub-{number:02d}" for number in range(1, 13)]
    table = pd.DataFrame({"participant_id": subjects, "age": rng.normal(40, 5, 12)})
    table["sex"] = np.arange(12) % 2
    table.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name, text in {
        "sbatch": SBATCH.format(python=sys.executable),
        "gpustats": f'#!/bin/sh\nexec {sys.executable} -m gpustats "$@"\n',
    }.items():
        (stand_ins / name).write_text(text)
        (stand_ins / name).chmod(stat.S_IRWXU)
    path = os.pathsep.join([str(stand_ins), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    script = tmp_path / "slurm.sh"
    text = EXAMPLE.read_text()
    assert f"n_parts={N_PARTS}\n" in text
    script.write_text(text.replace(f"n_parts={N_PARTS}\n", "n_parts=3\n").replace("10000", "500"))
    subprocess.run(["bash", script], cwd=tmp_path, env=environment, check=True)
    jobs = (tmp_path / "jobs.txt").read_text().splitlines()
    assert jobs == ["stack 0 ", "part 1 1-3", "merge 2 "]
    folder = tmp_path / "age"
    merged = load_inference(folder / "results" / "inference.npz")
    expected = permutation_test(
        Cohort.open(folder / "cohort.zarr"),
        Design(table.set_index("participant_id"), intercept=True),
        "age",
        statistics=[Voxelwise(), Tfce()],
        n_permutations=500,
        device="cpu",
    )
    for ours, theirs in zip(expected.outcomes, merged.outcomes, strict=True):
        assert ours.statistic == theirs.statistic
        np.testing.assert_array_equal(ours.maxima, theirs.maxima)
        np.testing.assert_array_equal(ours.observed, theirs.observed)
        np.testing.assert_array_equal(ours.p_corrected, theirs.p_corrected)
    assert sorted(os.listdir(folder)) == ["cohort.zarr", "logs", "parts", "results", "unfinished"]
    assert os.listdir(folder / "unfinished") == []
    # what the last job needs is what the others left
    shutil.rmtree(folder / "results")
    (folder / "parts" / "inference_shard-2of3.npz").unlink()
    refused = subprocess.run(
        ["bash", script, "merge"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "leave a gap" in refused.stderr
