"""Commands and tests that are interrupted, killed or out of disk lose nothing, and go on."""

import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from permuting import CHECKPOINT, StoppedError, same, stop_after
from simulate import make_maps, save_group
from stores import make_store, memory_for

from gpustats import checkpoints, permutation_test, remove_checkpoint
from gpustats.archives import load_inference
from gpustats.complete_sweeping import Complete


@pytest.fixture
def files(tmp_path, rng):
    folder = tmp_path / "maps"
    folder.mkdir()
    return [str(path) for path in save_group(folder, make_maps(rng))]


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
    assert os.listdir("unfinished") == [CHECKPOINT]
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
        f"gpustats: error: kept/{CHECKPOINT}: No space left on device while writing a checkpoint; "
        "none is there"
    )


def test_a_store_that_vanishes_is_one_line(run, rng, monkeypatch, tmp_path):
    cohort = make_store(rng, tmp_path / "cohort.zarr")
    words = ["permute", cohort.name, "--statistics", "voxelwise", "--n-permutations", "400"]
    words += ["--checkpoint", "kept", "--checkpoint-seconds", "0"]
    words += ["--memory", memory_for(cohort, 1, rank=1)]
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
    assert os.listdir("kept") == [CHECKPOINT]
    (tmp_path / "moved").rename(shard)
    assert run(*words)[0] == 0


@pytest.fixture
def begun(tmp_path, rng, monkeypatch):
    """A test that stopped after its first step, to go on with."""
    run = partial(permutation_test, make_maps(rng), n_permutations=400, device="cpu")
    run = partial(run, checkpoint=tmp_path / "kept")
    with monkeypatch.context() as patched:
        stop_after(patched, 1)
        with pytest.raises(StoppedError):
            run(checkpoint_seconds=0)
    return run


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
    path = tmp_path / "kept" / CHECKPOINT
    before = path.read_bytes()
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
    assert error.value.filename == str(path)
    assert "the checkpoint before it is whole" in error.value.strerror
    assert os.listdir(path.parent) == [CHECKPOINT]
    assert path.read_bytes() == before
    assert same(begun(), begun(checkpoint=None))


def test_the_first_checkpoint_on_a_full_disk(tmp_path, rng, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(OSError, match="none is there"):
        permutation_test(
            make_maps(rng), checkpoint=tmp_path / "kept", device="cpu", checkpoint_seconds=0
        )
    assert os.listdir(tmp_path / "kept") == []


def test_what_a_kill_left_half_written_is_swept_up(begun, tmp_path):
    litter = tmp_path / "kept" / f".partial-0123abcd-{CHECKPOINT}"
    litter.write_bytes(b"x" * 100)
    assert same(begun(), begun(checkpoint=None))
    assert os.listdir(litter.parent) == [CHECKPOINT]
    litter.write_bytes(b"x" * 100)
    remove_checkpoint(litter.parent)
    assert not litter.parent.exists()


@pytest.fixture
def commands(tmp_path, rng):
    """Tests of a second or two: of files, batch by batch, and of a store, block by block."""
    store = make_store(rng, tmp_path / "cohort.zarr", n_subjects=40)
    memory = memory_for(store, 1, rank=1)
    files = save_group(tmp_path, make_maps(rng, n_subjects=24, shape=(16, 18, 14)))
    voxelwise = ["--statistics", "voxelwise"]
    return {
        "files": [*map(str, files), "--n-permutations", "10000"],
        "store": [store.name, *voxelwise, "--memory", f"{memory}", "--n-permutations", "60000"],
    }


def written(path):
    """When a file was last written; 0 if it is not there, or is just being removed."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize(("source", "n_kills"), [("files", 13), ("store", 12)])
def test_a_test_that_is_killed_at_any_moment_ends_as_one_that_is_not(
    tmp_path, commands, rng, source, n_kills
):
    command = [sys.executable, "-m", "gpustats", "permute", "--no-report", *commands[source]]
    subprocess.run([*command, "--output-dir", "whole"], cwd=tmp_path, check=True)
    whole = load_inference(tmp_path / "whole" / "inference.npz")
    command += ["--checkpoint", "unfinished", "--checkpoint-seconds", "0.02"]
    kept = tmp_path / "unfinished" / CHECKPOINT
    left = []

    def finished(kill):
        """Run the command, and kill it at some moment, every other time after a checkpoint."""
        before = written(kept)
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert any("drawn at random" in line for line in process.stderr)
            if kill:
                while len(left) % 2 and process.poll() is None:
                    if written(kept) not in (0, before):
                        break
                    time.sleep(0.002)
                time.sleep(rng.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
            errors = process.stderr.read()
        assert process.returncode in (0, -signal.SIGKILL), errors
        if process.returncode == 0:
            assert same(load_inference(tmp_path / "gpustats-results" / "inference.npz"), whole)
            assert not kept.parent.exists()
        return process.returncode == 0

    while len(left) < n_kills:
        if not finished(kill=True):  # it may have been faster
            left.append(kept.read_bytes() if kept.exists() else b"")
    assert finished(kill=False)
    # they were working, and went on
    assert len(set(left) - {b""}) >= 4
