"""Tests that are stopped go on from their checkpoint, and nothing else is taken for one."""

import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulate import make_maps, save_group, volumes_of
from test_streaming import same

from gpustats import Design, checkpoints, permutation_test, remove_checkpoint, stack_maps
from gpustats.archives import load_inference
from gpustats.complete_sweeping import Complete
from gpustats.enhancements import ClusterExtent, ClusterMass, Tfce, Voxelwise
from gpustats.maps import Maps
from gpustats.memory import Load
from gpustats.shuffles import Shard

N = 12
EVERYTHING = (
    Voxelwise(),
    ClusterExtent(connectivity=26, threshold_t=1.5),
    ClusterMass(connectivity=18, threshold_p=0.1),
    Tfce(),
)
FILE = "contrast-1.checkpoint"


@pytest.fixture
def maps(rng):
    return make_maps(rng, n_subjects=N)


@pytest.fixture
def design(rng):
    return Design(pd.DataFrame(rng.normal(size=(N, 3)), columns=list("abc")))


@pytest.fixture
def cohort(tmp_path, rng):
    """A store of three tiles of voxels."""
    maps = make_maps(rng, n_subjects=N, shape=(22, 24, 20))
    return stack_maps(volumes_of(maps), maps.grid, tmp_path / "cohort.zarr")


def small_memory(cohort, n_tiles, n_maps=0, **of_load):
    """Memory for blocks of so many tiles of voxels, and so many maps."""
    load = Load(cohort.n_voxels, N, **{"rank": 3, **of_load})
    per_tile = 1024 * (8 * N + (4 * 192 if n_maps else 0))
    held = 2 * load.tile_bytes + 4 * N * 1024 + 4 * cohort.n_voxels * n_maps
    return load.fixed_bytes + held + per_tile * n_tiles


class StoppedError(Exception):
    """What stops a test in these tests."""


def stop_after(monkeypatch, n_steps):
    """Let a test take so many steps."""
    offer = checkpoints.ContrastCheckpoint.offer
    steps = []

    def counted(self, state, *, last):
        offer(self, state, last=last)
        steps.append(last)
        if len(steps) == n_steps:
            raise StoppedError

    monkeypatch.setattr(checkpoints.ContrastCheckpoint, "offer", counted)
    return steps


def finished_by_steps(run, folder, monkeypatch, n_steps=1):
    """Run a test again and again, so many steps each time; return the result and the runs."""
    for n_runs in range(1, 1000):
        with monkeypatch.context() as patched:
            stop_after(patched, n_steps)
            try:
                return run(checkpoint=folder, checkpoint_seconds=0), n_runs
            except StoppedError:
                continue
    raise AssertionError("it never ends")


CASES = {
    "voxels": {"contrast": "a", "n_permutations": 900},
    "F of a shard": {"contrast": ["a", "b"], "n_permutations": 1500, "shuffles": Shard(2, 3)},
    "three contrasts": {"contrast": {"x": "a", "y": "b", "z": "c"}, "n_permutations": 300},
    "maps": {"contrast": "a", "n_permutations": 500, "statistics": EVERYTHING},
    "counts of a range": {
        "contrast": {"x": "a", "y": ["b", "c"]},
        "statistics": (Tfce(), Voxelwise(), ClusterMass(connectivity=6, threshold_p=0.1)),
        "uncorrected": True,
        "shuffles": range(100, 450),
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_test_that_stops_after_every_step_ends_as_one_that_does_not(
    tmp_path, maps, design, monkeypatch, case
):
    run = partial(permutation_test, maps, design, device="cpu", **CASES[case])
    result, n_runs = finished_by_steps(run, tmp_path / "kept", monkeypatch)
    assert n_runs > 2
    assert same(result, run())


@pytest.mark.parametrize("statistics", [(Voxelwise(),), EVERYTHING])
@pytest.mark.parametrize("two_sided", [True, False])
def test_tests_of_a_store_stop_after_every_step(
    tmp_path, cohort, design, monkeypatch, statistics, two_sided
):
    n_maps = 192 if len(statistics) > 1 else 0
    size = small_memory(
        cohort, 1, n_maps, n_rows=3, n_statistics=len(statistics), spatial=n_maps > 0
    )
    run = partial(permutation_test, design=design, contrast="a", statistics=statistics)
    run = partial(run, two_sided=two_sided, n_permutations=400, device="cpu")
    stored = partial(run, cohort, memory=size)
    result, n_runs = finished_by_steps(stored, tmp_path / "kept", monkeypatch)
    assert n_runs > 2
    assert same(result, run(cohort.load()))
    # what is finished is not computed again
    sweeps = []
    monkeypatch.setattr(Complete, "_sweep", lambda *_: sweeps.append(1))
    assert same(stored(checkpoint=tmp_path / "kept"), result)
    assert sweeps == []


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
@pytest.mark.parametrize("statistics", [(Voxelwise(),), (Tfce(), Voxelwise())])
def test_a_gpu_goes_on_too(tmp_path, rng, design, monkeypatch, device, statistics):
    maps = make_maps(rng, n_subjects=N, shape=(6, 7, 5))
    run = partial(permutation_test, maps, design, "a", statistics=statistics, device=device)
    run = partial(run, uncorrected=True, n_permutations=250 if len(statistics) == 1 else 30)
    if len(statistics) == 2:
        from gpustats.engines import gpu

        monkeypatch.setattr(gpu, "MOST_MAPS", 12)
    result, n_runs = finished_by_steps(run, tmp_path / "kept", monkeypatch)
    assert n_runs > 2
    assert same(result, run())


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (1, 3), (3, 1)])
@pytest.mark.parametrize("n_steps", [1, 2, 4, 5])
def test_a_test_goes_on_with_other_memory(
    tmp_path, cohort, design, monkeypatch, before, after, n_steps
):
    run = partial(permutation_test, cohort, design, "a", n_permutations=400, device="cpu")
    sizes = [small_memory(cohort, n_tiles, n_rows=3) for n_tiles in (before, after)]
    with monkeypatch.context() as patched:
        steps = stop_after(patched, n_steps)
        try:
            run(memory=sizes[0], checkpoint=tmp_path, checkpoint_seconds=0)
        except StoppedError:
            assert len(steps) == n_steps
    assert same(run(memory=sizes[1], checkpoint=tmp_path), run(memory="1G"))


def test_checkpoints_are_written_when_it_is_time_and_at_the_end(
    tmp_path, maps, design, monkeypatch
):
    written = []
    replace = os.fsync
    monkeypatch.setattr(checkpoints.os, "fsync", lambda file: written.append(replace(file)))
    contrasts = {"x": "a", "y": "b"}
    run = partial(permutation_test, maps, design, contrasts, n_permutations=3000, device="cpu")
    expected = run(checkpoint=tmp_path / "kept", checkpoint_seconds=1e9)
    assert len(written) == 2
    assert sorted(os.listdir(tmp_path / "kept")) == [FILE, "contrast-2.checkpoint"]
    clock = iter(np.arange(1e6))
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: next(clock))
    written.clear()
    again = run(checkpoint=tmp_path / "other", checkpoint_seconds=4)
    assert 5 < len(written) < 20
    assert same(again, expected)
    remove_checkpoint(tmp_path / "kept")
    (tmp_path / "other" / "mine.txt").write_text("kept")
    remove_checkpoint(tmp_path / "other")
    assert os.listdir(tmp_path) == ["other"]
    assert os.listdir(tmp_path / "other") == ["mine.txt"]


@pytest.fixture
def begun(tmp_path, maps, design, monkeypatch):
    """A test that stopped, and how to go on with it, with some options changed."""
    told = {"contrast": "a", "n_permutations": 400, "device": "cpu", "checkpoint": tmp_path}

    def run(maps=maps, design=design, **options):
        return permutation_test(maps, design, **{**told, **options})

    with monkeypatch.context() as patched:
        stop_after(patched, 1)
        with pytest.raises(StoppedError):
            run(checkpoint_seconds=0)
    return run


def other_maps(maps):
    values = maps.values.copy(order="F")
    values[3, 4] = np.nextafter(values[3, 4], np.float32(9))
    return Maps(values, maps.grid)


def other_design(design):
    return Design(design.table.assign(b=design.table["b"] + 1e-9))


OTHERS = {
    "data": lambda maps, _: {"maps": other_maps(maps)},
    "design": lambda _, design: {"design": other_design(design)},
    "contrasts": lambda *_: {"contrast": "b"},
    "seed (0, now 3)": lambda *_: {"seed": 3},
    "n_permutations (400, now 500)": lambda *_: {"n_permutations": 500},
    "range (['range(0, 400)'], now ['range(0, 200)'])": lambda *_: {"shuffles": range(200)},
    "two_sided (True, now False)": lambda *_: {"two_sided": False},
    "scheme (freedman-lane, now manly)": lambda *_: {"scheme": "manly"},
    "errors (auto, now ise)": lambda *_: {"errors": "ise"},
    "uncorrected (False, now True)": lambda *_: {"uncorrected": True},
    "statistics (['Voxelwise()'], now ['Tfce(": lambda *_: {"statistics": (Tfce(),)},
    "blocks (none, now": lambda *_: {"blocks": [0, 1] * 6},
}


@pytest.mark.parametrize("difference", OTHERS)
def test_the_checkpoint_of_another_test_is_refused_with_the_difference(
    begun, maps, design, difference
):
    with pytest.raises(ValueError, match="checkpoint is of a test with other") as refused:
        begun(**OTHERS[difference](maps, design))
    assert f"{difference}" in str(refused.value)
    listed = str(refused.value).split("other ")[1].split("; give")[0]
    n_differences = 2 if difference.startswith("n_permutations") else 1  # the range differs, too
    assert listed.count(", now ") == n_differences
    assert same(begun(), begun(checkpoint=None))


@pytest.mark.parametrize(("name", "key"), [("versions", "version"), ("engine", "engine")])
def test_the_checkpoint_of_another_version_or_device_is_refused(begun, monkeypatch, name, key):
    from gpustats import fingerprints
    from gpustats.engines import cpu

    if name == "versions":
        monkeypatch.setattr(fingerprints, "versions", lambda: {"gpustats": "9.9"})
    else:
        monkeypatch.setattr(cpu, "fingerprint", lambda: "cpu of another kind")
    with pytest.raises(ValueError, match=rf"with other {key} \(.*, now "):
        begun()


def test_a_flipped_bit_or_a_cut_is_refused_wherever_it_is(begun, tmp_path, rng):
    whole = (tmp_path / FILE).read_bytes()
    places = {0, 21, 22, 30, 37, 38, 39, len(whole) - 1, *rng.integers(0, len(whole), 150).tolist()}
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        (tmp_path / FILE).write_bytes(changed)
        with pytest.raises(ValueError, match=f"{FILE}: the checkpoint is damaged"):
            begun()
    for content in (b"", *(whole[:place] for place in places), whole + b"\0", b"x" * len(whole)):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(ValueError, match="delete it to begin anew"):
            begun()
    (tmp_path / FILE).write_bytes(whole)
    assert same(begun(), begun(checkpoint=None))


class Full:
    """A file on a disk that takes so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content):
        if len(content) > self.room:
            self.file.write(bytes(content)[: self.room])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(content)
        return self.file.write(content)


@pytest.mark.parametrize("room", [0, 10, 22, 38, 1000, 6000])
def test_a_full_disk_stops_the_test_and_leaves_the_checkpoint(begun, tmp_path, monkeypatch, room):
    before = (tmp_path / FILE).read_bytes()
    assert len(before) > 6000
    opened = Path.open

    def full(self, *words, **options):
        file = opened(self, *words, **options)
        return Full(file, room) if self.name.startswith(".partial") else file

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space left on device while writing") as error:
            begun(checkpoint_seconds=0)
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(tmp_path / FILE)
    assert "the checkpoint before it is whole" in error.value.strerror
    assert os.listdir(tmp_path) == [FILE]
    assert (tmp_path / FILE).read_bytes() == before
    assert same(begun(), begun(checkpoint=None))


def test_the_first_checkpoint_on_a_full_disk(tmp_path, maps, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(OSError, match="none is there"):
        permutation_test(maps, checkpoint=tmp_path / "kept", device="cpu", checkpoint_seconds=0)
    assert os.listdir(tmp_path / "kept") == []


# the command line


@pytest.fixture
def files(tmp_path, maps):
    folder = tmp_path / "maps"
    folder.mkdir()
    return [str(path) for path in save_group(folder, maps)]


def interrupting(monkeypatch, error, n_steps=3):
    """Interrupt the command after some steps."""
    offer = checkpoints.ContrastCheckpoint.offer
    steps = []

    def counted(self, state, *, last):
        offer(self, state, last=last)
        steps.append(1)
        if len(steps) == n_steps:
            if error is signal.SIGTERM:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
            raise error

    monkeypatch.setattr(checkpoints.ContrastCheckpoint, "offer", counted)


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, 130), (signal.SIGTERM, 143)])
def test_an_interruption_names_the_checkpoint_from_which_the_command_goes_on(
    run, files, monkeypatch, error, status
):
    words = ["permute", *files, "--statistics", "voxelwise", "--n-permutations", "2000"]
    words += ["--checkpoint", "unfinished", "--checkpoint-seconds", "0"]
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        interrupting(patched, error)
        found, out, err = run(*words)
    assert signal.getsignal(signal.SIGTERM) is before
    assert (found, out) == (status, "")
    assert err.splitlines()[-1] == (
        "gpustats: interrupted after 576 of 2,000 shuffles; the same command goes on from the "
        "checkpoint in unfinished"
    )
    assert os.listdir() == ["unfinished"]
    assert run(*words)[0] == 0
    assert os.listdir() == ["gpustats-results"]
    assert run(*words[:-4], "--output-dir", "whole")[0] == 0
    whole, resumed = (
        load_inference(Path(f, "inference.npz")) for f in ("whole", "gpustats-results")
    )
    assert same(whole, resumed)


def test_a_failed_write_of_results_keeps_the_checkpoint(run, files, monkeypatch):
    from gpustats import cli_permute

    def full(*_):
        raise OSError(28, "No space left on device", "inference.npz")

    words = ["permute", *files, "--n-permutations", "20", "--checkpoint", "unfinished"]
    with monkeypatch.context() as patched:
        patched.setattr(cli_permute, "save_inference", full)
        status, _, err = run(*words)
    assert status == 2
    assert err.splitlines()[-1] == "gpustats: error: inference.npz: No space left on device"
    assert os.listdir("unfinished") == [FILE]
    with monkeypatch.context() as patched:
        patched.setattr(Complete, "_sweep", None)
        assert run(*words)[0] == 0
    assert os.listdir() == ["gpustats-results"]


def test_a_full_disk_is_one_line(run, files, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    status, out, err = run("permute", *files, "--checkpoint", "kept", "--checkpoint-seconds", "0")
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == (
        f"gpustats: error: kept/{FILE}: No space left on device while writing a checkpoint; "
        "none is there"
    )


def test_a_store_that_vanishes_is_one_line(run, cohort, monkeypatch, tmp_path):
    words = ["permute", cohort.name, "--statistics", "voxelwise", "--n-permutations", "400"]
    words += ["--checkpoint", "kept", "--checkpoint-seconds", "0"]
    words += ["--memory", small_memory(cohort, 1, rank=1)]
    shard = tmp_path / "cohort.zarr" / "values" / "c" / "0" / "0"
    offer = checkpoints.ContrastCheckpoint.offer

    def vanishing(self, state, *, last):
        offer(self, state, last=last)
        if shard.exists():
            shard.rename(tmp_path / "moved")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.ContrastCheckpoint, "offer", vanishing)
        status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert "the store is damaged" in err.splitlines()[-1]
    assert os.listdir("kept") == [FILE]
    (tmp_path / "moved").rename(shard)
    assert run(*words)[0] == 0


@pytest.fixture
def commands(tmp_path, rng):
    """Tests of a second or two: of files, batch by batch, and of a store, block by block."""
    maps = make_maps(rng, n_subjects=40, shape=(22, 24, 20))
    store = stack_maps(volumes_of(maps), maps.grid, tmp_path / "cohort.zarr")
    load = Load(maps.n_voxels, 40, 1)
    memory = load.fixed_bytes + 2 * load.tile_bytes + 12 * 40 * 1024
    files = save_group(tmp_path, make_maps(rng, n_subjects=24, shape=(16, 18, 14)))
    voxelwise = ["--statistics", "voxelwise"]
    return {
        "files": [*map(str, files), "--n-permutations", "10000"],
        "store": [store.name, *voxelwise, "--memory", f"{memory}", "--n-permutations", "60000"],
    }


@pytest.mark.slow
@pytest.mark.parametrize(("source", "n_kills"), [("files", 13), ("store", 12)])
def test_a_test_that_is_killed_at_any_moment_ends_as_one_that_is_not(
    tmp_path, commands, rng, source, n_kills
):
    command = [sys.executable, "-m", "gpustats", "permute", *commands[source]]
    subprocess.run([*command, "--output-dir", "whole"], cwd=tmp_path, check=True)
    whole = load_inference(tmp_path / "whole" / "inference.npz")
    command += ["--checkpoint", "unfinished", "--checkpoint-seconds", "0.02"]
    kept = tmp_path / "unfinished" / FILE
    left = []

    def started(kill):
        """Run the command, and kill it at some moment, every other time after a checkpoint."""
        before = kept.stat().st_mtime_ns if kept.exists() else 0
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert any("drawn at random" in line for line in process.stderr)
            if kill:
                while len(left) % 2 and process.poll() is None:
                    if kept.exists() and kept.stat().st_mtime_ns != before:
                        break
                    time.sleep(0.002)
                time.sleep(rng.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
            process.stderr.read()
        return process.returncode

    while len(left) < n_kills or started(kill=False) != 0:
        if started(kill=True) == 0:  # it was faster
            assert same(load_inference(tmp_path / "gpustats-results" / "inference.npz"), whole)
            assert not kept.parent.exists()
        else:
            left.append(kept.read_bytes() if kept.exists() else b"")
    assert same(load_inference(tmp_path / "gpustats-results" / "inference.npz"), whole)
    # they were working, and went on
    assert len(set(left) - {b""}) >= 4
