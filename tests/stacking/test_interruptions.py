"""Stacking that is killed, interrupted or out of disk goes on where it was stopped."""

import errno
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from simulate import AFFINE, make_maps, save_group
from stores import contents, stack

from gpustats import Cohort, cohort_places, cohort_writer, stack_maps

KILLER = """
import os, shutil, signal, sys, threading, time
from pathlib import Path
import numpy as np
from tqdm import tqdm
from gpustats import Cohort, cohort_writer, images, stack_maps

# a lock that a killed child took with it would be held for ever
tqdm.set_lock(threading.RLock())
tqdm.monitor_interval = 0
cohort_writer.COMMIT_SECONDS = 0.0
folder, mask, path, dtype, n_first, seed = sys.argv[1:]
n_first = int(n_first)
files = sorted(Path(folder).glob("*.nii.gz"))
rng = np.random.default_rng(int(seed))
expected = Cohort.open(path + ".whole")
values = expected.read()
n_kills = n_partial = attempt = 0
first = path + ".first"
if n_first:
    shutil.copytree(path, first)

def written():
    header = Path(path, "zarr.json")
    return header.stat().st_mtime_ns if header.exists() else 0

while True:
    attempt += 1
    before, latest = written(), time.monotonic() + 1
    child = os.fork()
    if child == 0:
        stack_maps(files, mask, path, subjects_per_shard=4, dtype=dtype, append=n_first > 0)
        os._exit(0)
    # at any moment, and every other time after a commit: some maps are in, and not all
    if attempt % 2:
        while written() == before and time.monotonic() < latest:
            time.sleep(0.0005)
    else:
        time.sleep(rng.uniform(0, 0.004 * attempt))
    os.kill(child, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    n_kills += killed
    try:
        cohort = Cohort.open(path)
    except (FileNotFoundError, ValueError) as error:
        early = ("no cohort store is there", "no subject is in it yet")
        assert any(reason in str(error) for reason in early), error
        continue
    cohort.verify()
    n = cohort.n_subjects
    n_partial += n_first < n < len(files)
    assert n in (n_first, len(files)) or n % 4 == 0
    assert np.array_equal(cohort.read(), values[:, :n])
    if not killed and n_kills >= 5 and n_partial >= 1:
        break
    if not killed:
        # a busy machine lets children finish first
        attempt = 0
        shutil.rmtree(path)
        if n_first:
            shutil.copytree(first, path)
print(n_kills, n_partial)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize(
    ("dtype", "n_first", "seed"),
    [("float32", 0, 1), ("float32", 0, 2), ("int16", 0, 3), ("float32", 6, 4), ("float32", 7, 5)],
)
def test_a_killed_run_goes_on_where_it_stopped(tmp_path, rng, dtype, n_first, seed):
    maps = make_maps(rng, n_subjects=46, shape=(24, 26, 20))
    folder = tmp_path / "maps"
    folder.mkdir()
    files = save_group(folder, maps)
    mask = tmp_path / "mask.nii"
    nib.save(nib.Nifti1Image(maps.grid.mask.astype(np.uint8), AFFINE), mask)
    whole = tmp_path / "cohort.zarr.whole"
    stack_maps(files, mask, whole, subjects_per_shard=4, dtype=dtype)
    path = tmp_path / "cohort.zarr"
    if n_first:
        stack_maps(files[:n_first], mask, path, subjects_per_shard=4)
    words = [folder, mask, path, dtype, n_first, seed]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    n_kills, n_partial = map(int, done.stdout.split())
    assert n_kills >= 5
    assert n_partial >= 1
    assert contents(path) == contents(whole)


def test_ctrl_c_keeps_what_was_read(files, maps, path, monkeypatch):
    put = cohort_writer.Writer.add

    def interrupted(self, values, entry):
        if len(self.entries) == 6:
            raise KeyboardInterrupt
        put(self, values, entry)

    monkeypatch.setattr(cohort_writer.Writer, "add", interrupted)
    message = "interrupted; 6 of 14 maps are in .*cohort.zarr, and the same command goes on"
    with pytest.raises(KeyboardInterrupt, match=message):
        stack(files, maps, path)
    monkeypatch.undo()
    assert np.array_equal(Cohort.open(path).read(), maps.values[:, :6])
    assert np.array_equal(stack(files, maps, path).read(), maps.values)


def fill_the_disk(monkeypatch, n_bytes):
    """Let no more than so many bytes be written to stores."""
    write = cohort_places._write_all
    room = [n_bytes]

    def limited(file, part):
        view = memoryview(part).cast("B")
        write(file, view[: room[0]])
        room[0] -= min(room[0], len(view))
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cohort_places, "_write_all", limited)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.999])
def test_a_full_disk_is_told_and_loses_nothing(tmp_path, files, maps, path, monkeypatch, share):
    stack(files, maps, tmp_path / "whole.zarr")
    n_bytes = sum(map(len, contents(tmp_path / "whole.zarr").values()))
    with monkeypatch.context() as patch:
        fill_the_disk(patch, int(share * n_bytes))
        with pytest.raises(OSError, match="No space left on device") as caught:
            stack(files, maps, path)
    assert caught.value.errno == errno.ENOSPC
    assert str(path) in caught.value.filename
    n_safe = 0
    if (path / "zarr.json").exists() and share > 0.1:
        cohort = Cohort.open(path)
        cohort.verify()
        n_safe = cohort.n_subjects
        assert f"{n_safe} maps are safe in the store; the same command goes on" in str(caught.value)
        assert np.array_equal(cohort.read(), maps.values[:, :n_safe])
    assert n_safe >= 4 or share < 0.5
    assert not list(path.rglob(".partial-*"))
    stack(files, maps, path)
    assert contents(path) == contents(tmp_path / "whole.zarr")


def test_a_nearly_full_disk_takes_a_part_at_a_time():
    class Nearly:
        taken = b""

        def write(self, part):
            self.taken += bytes(part[:3])
            return min(3, len(part))

    file = Nearly()
    cohort_places._write_all(file, np.arange(5, dtype=np.int16))
    assert file.taken == np.arange(5, dtype=np.int16).tobytes()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_real_limit_of_the_system_is_told_too(tmp_path, files, maps, path):
    limited = (
        "import resource, signal, sys; from pathlib import Path; from gpustats import stack_maps;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, -1));"
        "stack_maps(sorted(Path(sys.argv[1]).glob('*.gz')), sys.argv[2], sys.argv[3])"
    )
    mask = tmp_path / "mask.nii"
    nib.save(nib.Nifti1Image(maps.grid.mask.astype(np.uint8), AFFINE), mask)
    done = subprocess.run(
        [sys.executable, "-c", limited, files[0].parent, mask, path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
        capture_output=True,
        text=True,
    )
    assert "OSError: [Errno 27] File too large; 0 maps are safe" in done.stderr
    assert stack_maps(files, mask, path).n_subjects == len(files)


def test_a_writer_that_was_killed_leaves_no_litter(files, maps, path):
    stack(files[:6], maps, path)
    before = contents(path)
    (path / "values/c/1/.partial-0123-0").write_bytes(b"x" * 100)
    stack(files[:6], maps, path)
    assert contents(path) == before


def test_a_store_that_was_never_committed_is_begun_anew(files, maps, path):
    stack(files, maps, path)
    whole = contents(path)
    (path / "zarr.json").unlink()
    shutil.rmtree(path / "values" / "c")
    stack(files, maps, path)
    assert contents(path) == whole
