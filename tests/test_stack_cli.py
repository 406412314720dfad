"""``gpustats stack`` as users meet it: words, last lines, exit status, signals."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from simulate import AFFINE, make_maps, save_group, save_mask

from gpustats import Cohort


@pytest.fixture
def maps(rng):
    return make_maps(rng)


@pytest.fixture
def files(tmp_path, maps):
    folder = tmp_path / "maps"
    folder.mkdir()
    return save_group(folder, maps)


@pytest.fixture
def mask(tmp_path, maps):
    return save_mask(tmp_path, maps)


def test_the_last_line_says_what_there_is(run, files, mask, maps):
    status, out, _ = run("stack", *files, "--mask", mask, "-o", "cohort.zarr")
    assert status == 0
    size = sum(f.stat().st_size for f in Path("cohort.zarr/values/c").rglob("*") if f.is_file())
    said = f"cohort.zarr: 12 subjects, {maps.n_voxels} voxels, {size / 1e6:.1f} MB, in "
    assert out.splitlines()[-1].startswith(said)
    assert np.array_equal(Cohort.open("cohort.zarr").read(), maps.values)


def test_appending_and_going_on(run, files, mask, maps):
    assert run("stack", *files[:5], "--mask", mask, "-o", "cohort.zarr")[0] == 0
    status, _, err = run("stack", *files, "-o", "cohort.zarr")
    assert status == 0
    assert "cohort.zarr: holds 5 of the 12 maps already" in err
    status, out, _ = run("stack", *files[3:], "--append", "-o", "cohort.zarr")
    assert status == 0
    assert "12 subjects" in out
    assert np.array_equal(Cohort.open("cohort.zarr").read(), maps.values)


def test_one_more_subject(run, tmp_path, files, mask, maps):
    assert run("stack", *files[:10], "--mask", mask, "-o", "cohort.zarr")[0] == 0
    assert run("stack", files[10], "--append", "-o", "cohort.zarr")[0] == 0
    row = {"subject_label": ["sub-12"], "effects_map_path": [files[11]]}
    pd.DataFrame(row).to_csv(tmp_path / "last.tsv", sep="\t", index=False)
    assert run("stack", tmp_path / "last.tsv", "--append", "-o", "cohort.zarr")[0] == 0
    cohort = Cohort.open("cohort.zarr")
    assert cohort.subjects[9:] == ("sub-10", "sub-11", "sub-12")
    assert np.array_equal(cohort.read(), maps.values)


def test_bad_files_are_left_out_on_request(run, files, mask, maps):
    files[4].write_text("hello")
    files[7].unlink()
    words = ["stack", *files, "--mask", mask, "-o", "cohort.zarr"]
    status, _, err = run(*words)
    assert status == 2
    assert err.splitlines()[-1] == f"gpustats: error: {files[7]}: no such file"
    assert os.listdir() == []
    status, out, err = run(*words, "--skip-bad")
    assert status == 0
    assert f"left out: {files[7]}: no such file" in err
    assert "2 maps were left out: see cohort.zarr.skipped.tsv" in out
    table = pd.read_csv("cohort.zarr.skipped.tsv", sep="\t")
    assert table["label"].tolist() == ["sub-05", "sub-08"]
    kept = np.delete(maps.values, [4, 7], axis=1)
    assert np.array_equal(Cohort.open("cohort.zarr").read(), kept)


def test_a_table_names_maps_and_subjects(run, tmp_path, files, mask, maps):
    table = pd.DataFrame({"subject_label": [f"p{n:02d}" for n in range(12)]})
    table["effects_map_path"] = [file.name for file in files]
    both = pd.concat([table.assign(map_name="a"), table.iloc[::-1].assign(map_name="b")])
    both.to_csv(tmp_path / "maps" / "maps.tsv", sep="\t", index=False)
    words = ["stack", tmp_path / "maps" / "maps.tsv", "--mask", mask, "-o", "cohort.zarr"]
    assert run(*words, "--map-name", "b")[0] == 0
    cohort = Cohort.open("cohort.zarr")
    assert cohort.subjects == tuple(table["subject_label"])
    assert np.array_equal(cohort.read(), maps.values)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--dtype", "int16"], {"dtype": "int16"}),
        (["--zero-is-missing"], {"zero_is_missing": True}),
        (["--resample"], {"resample": True}),
        (["--smoothing-fwhm", "5"], {"smoothing_fwhm": 5.0}),
    ],
)
def test_options_are_kept_and_must_agree(run, files, mask, words, says):
    assert run("stack", *files, "--mask", mask, "-o", "cohort.zarr", *words)[0] == 0
    header = Cohort.open("cohort.zarr").header
    kept = {"dtype": header.layout.dtype, **vars(header.reading)}
    assert says.items() <= kept.items()
    status, _, err = run("stack", *files, "-o", "cohort.zarr", "--append")
    name, value = next(iter(says.items()))
    assert status == 2
    assert f"cohort.zarr: was made with {name}={value}; give the same" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a new store needs a mask: which voxels to keep (mask=, --mask)"),
        (["--mask", "nowhere.nii"], "nowhere.nii: no such file"),
        (["--mask", "MASK", "--smoothing-fwhm", "-2"], "smoothing_fwhm must be a width in mm"),
        (["--mask", "MASK", "--map-name", "a"], "--map-name speaks of a table of maps"),
        (["--mask", "MASK", "-o", "/proc/x.zarr"], "/proc/x.zarr"),
        (["--mask", "MASK", "-o", "FOLDER"], "maps: holds something that is not a cohort"),
        (["--mask", "MASK", "-o", "nosuch://b/x.zarr"], "nosuch"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(run, files, mask, words, message):
    names = {"MASK": mask, "FOLDER": files[0].parent}
    words = [names.get(word, word) for word in words]
    status, out, err = run("stack", *files, "-o", "cohort.zarr", *words)
    assert status == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert message in err
    assert os.listdir() == []


def test_a_store_is_needed(run, files, capsys):
    with pytest.raises(SystemExit) as stop:
        run("stack", *files)
    assert stop.value.code == 2
    assert "required: -o/--output" in capsys.readouterr().err


def test_a_damaged_store_is_told_in_one_line(run, files, mask):
    run("stack", *files[:5], "--mask", mask, "-o", "cohort.zarr")
    shard = Path("cohort.zarr/values/c/0/0")
    shard.write_bytes(shard.read_bytes()[:-1])
    status, _, err = run("stack", *files, "-o", "cohort.zarr")
    assert status == 2
    assert "cohort.zarr: the store is damaged (values/c/0/0, subjects 1 to 5: wrong length)" in err


def _as_started_by_hand():
    """A shell may have left the signal ignored; and many cores would be done too soon."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_with_one_line_and_the_same_command_goes_on(tmp_path, rng, signum):
    # 300 names of one map that takes a while to inflate: seconds of reading on one core
    volume = rng.normal(size=(80, 80, 80)).astype(np.float32)
    names = [tmp_path / f"sub-{number:03d}.nii.gz" for number in range(300)]
    nib.save(nib.Nifti1Image(volume, AFFINE), names[0])
    for name in names[1:]:
        os.link(names[0], name)
    mask = np.zeros(volume.shape, np.uint8)
    mask[30:40] = 1
    nib.save(nib.Nifti1Image(mask, AFFINE), tmp_path / "mask.nii")
    command = [sys.executable, "-m", "gpustats", "stack", *map(str, names)]
    command += ["--mask", "mask.nii", "-o", "cohort.zarr"]
    paths = os.pathsep.join(map(os.path.abspath, sys.path))
    where = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": paths}, "text": True}
    process = subprocess.Popen(
        command,
        **where,
        stderr=subprocess.PIPE,
        preexec_fn=_as_started_by_hand,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "cohort.zarr" / "zarr.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.3)
    started = time.monotonic()
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - started < 5
    assert process.returncode == 128 + signum
    assert "Traceback" not in err
    said = re.fullmatch(
        r"gpustats: interrupted; (\d+) of 300 maps are in cohort\.zarr, "
        r"and the same command goes on from there",
        err.splitlines()[-1],
    )
    n_done = int(said[1])
    cohort = Cohort.open(tmp_path / "cohort.zarr")
    cohort.verify()
    assert 0 < cohort.n_subjects == n_done < 300
    done = subprocess.run(command, **where, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"cohort.zarr: holds {n_done} of the 300 maps already" in done.stderr
    assert Cohort.open(tmp_path / "cohort.zarr").n_subjects == 300
