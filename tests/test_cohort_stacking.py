"""A store grows only by whole maps, goes on wherever it was stopped, and says what is wrong."""

import errno
import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from simulate import AFFINE, make_maps, save_group, volumes_of

from gpustats import Cohort, cohort_places, cohort_writer, load_maps, stack_maps
from gpustats.cohort_places import find_place

N_MAPS = 14


@pytest.fixture(autouse=True)
def _commit_every_shard(monkeypatch):
    monkeypatch.setattr(cohort_writer, "COMMIT_SECONDS", 0.0)


@pytest.fixture
def maps(rng):
    return make_maps(rng, n_subjects=N_MAPS)


@pytest.fixture
def files(tmp_path, maps):
    folder = tmp_path / "maps"
    folder.mkdir()
    return save_group(folder, maps)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cohort.zarr"


def stack(files, maps, path, **options):
    return stack_maps(files, maps.grid, path, **{"subjects_per_shard": 4, **options})


def contents(path):
    """Every file of a store."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


# adding subjects


@pytest.mark.parametrize("cuts", [[7], [4, 8], [1, 2, 3, 4, 5], [3, 13]])
def test_appending_makes_the_store_that_stacking_at_once_makes(tmp_path, files, maps, path, cuts):
    stack(files, maps, path)
    parts = np.split(np.arange(N_MAPS), cuts)
    stack([files[row] for row in parts[0]], maps, tmp_path / "parts.zarr")
    for part in parts[1:]:
        before = Cohort.open(tmp_path / "parts.zarr")
        stack_maps([files[row] for row in part], None, tmp_path / "parts.zarr", append=True)
        assert before.n_subjects == part[0]
        assert np.array_equal(before.read(), maps.values[:, : part[0]])
    assert contents(tmp_path / "parts.zarr") == contents(path)
    assert np.array_equal(Cohort.open(path).read(), maps.values)


def test_files_that_are_there_already_are_passed_over(files, maps, path, log):
    stack(files[:6], maps, path)
    cohort = stack_maps(files, None, path, append=True)
    assert "holds 6 of the 14 maps already" in log.text
    assert np.array_equal(cohort.read(), maps.values)
    before = contents(path)
    stack_maps(files[2:5], None, path, append=True)
    stack(files, maps, path)
    assert contents(path) == before


def test_a_moved_file_is_known_by_its_subject(tmp_path, files, maps, path):
    stack(files[:5], maps, path)
    moved = tmp_path / "elsewhere"
    shutil.move(files[0].parent, moved)
    cohort = stack([moved / file.name for file in files], maps, path)
    assert np.array_equal(cohort.read(), maps.values)


def other(maps, files):
    """What cannot be added to a store of the first six maps, and why."""
    shifted = AFFINE.copy()
    shifted[0, 3] += 2
    keep = np.arange(maps.n_voxels) != 3
    memory = volumes_of(maps)
    return {
        "another subject's file": (
            {"maps": [files[9]], "subjects": ["02"], "append": True},
            "holds another map of sub-02",
        ),
        "other maps without append": ({"maps": files[3:]}, "not the first of those given"),
        "another order": ({"maps": files[::-1]}, "not the first of those given"),
        "a mask of other voxels": ({"mask": maps.grid.subset(keep)}, "made with another mask"),
        "a mask elsewhere": ({"mask": type(maps.grid)(maps.grid.mask, shifted)}, "another mask"),
        "other options": (
            {"dtype": "int16", "zero_is_missing": True, "smoothing_fwhm": 4.0, "resample": True},
            "dtype=float32, zero_is_missing=False, resample=False, smoothing_fwhm=None; give",
        ),
        "other shards": ({"subjects_per_shard": 5}, "subjects_per_shard=4"),
        "maps in memory": ({"maps": memory, "subjects": list("abcdefghijklmn")}, "in memory"),
        "no labels": ({"maps": memory, "append": True}, "its subjects have labels, unlike"),
        "a label that is taken": (
            {"maps": memory[7:9], "subjects": ["x", "04"], "append": True},
            r"labels already: \['04'\]",
        ),
    }


@pytest.mark.parametrize("what", other(make_maps(np.random.default_rng(0)), [Path()] * 14))
def test_what_does_not_belong_together_is_refused(files, maps, path, what):
    stack(files[:6], maps, path)
    before = contents(path)
    options, message = other(maps, files)[what]
    options = {"maps": files, "mask": maps.grid, **options}
    with pytest.raises(ValueError, match=message):
        stack_maps(path=path, **options)
    assert contents(path) == before


def test_a_file_that_has_changed_is_refused(files, maps, path):
    stack(files[:6], maps, path)
    shutil.copy(files[7], files[2])
    with pytest.raises(ValueError, match=r"sub-03_con\.nii\.gz: .* holds another map of sub-03"):
        stack(files, maps, path)


def test_files_without_labels_are_known_by_their_paths(tmp_path, files, maps, path):
    names = [file.rename(tmp_path / f"{number}.nii.gz") for number, file in enumerate(files)]
    stack(names[:6], maps, path)
    cohort = stack_maps(names, None, path, append=True)
    assert cohort.subjects is None
    assert np.array_equal(cohort.read(), maps.values)
    with pytest.raises(ValueError, match="given twice; a store holds every map once"):
        stack([*names, names[3]], maps, path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mask": None}, ValueError, "a new store needs a mask"),
        ({"maps": []}, ValueError, "no maps were given"),
        ({"dtype": "float16"}, ValueError, "dtype must be 'float32' or 'int16', got 'float16'"),
        ({"smoothing_fwhm": -1}, ValueError, "smoothing_fwhm must be a width"),
        ({"subjects": ["a"]}, ValueError, "1 subject labels for 14 maps"),
        ({"subjects": ["a"] * 14}, ValueError, "must be unique"),
        ({"maps": ["nowhere.nii"]}, FileNotFoundError, "nowhere.nii: no such file"),
        ({"maps": ["nowhere.nii", "b.nii"]}, FileNotFoundError, "nowhere.nii: no such file"),
    ],
)
def test_wrong_options_leave_nothing_behind(files, maps, path, options, error, message):
    with pytest.raises(error, match=message):
        stack_maps(**{"maps": files, "mask": maps.grid, "path": path, **options})
    assert not path.exists()


def test_other_folders_are_left_alone(tmp_path, files, maps):
    with pytest.raises(FileExistsError, match="holds something that is not a cohort"):
        stack(files, maps, tmp_path)
    with pytest.raises(OSError, match="sub-01_con"):
        stack(files[1:], maps, files[0])
    (tmp_path / "empty").mkdir()
    assert stack(files, maps, tmp_path / "empty").n_subjects == N_MAPS


# files that cannot be used


def spoil(file, how):
    """Make a file unusable in one way."""
    content = bytearray(file.read_bytes())
    shape = (9, 10, 8)
    if how == "truncated":
        file.write_bytes(content[:-300])
    elif how == "flipped":
        content[-200] ^= 1
        file.write_bytes(content)
    elif how == "text":
        file.write_text("hello")
    elif how == "other grid":
        nib.save(nib.Nifti1Image(np.ones(shape, np.float32), AFFINE + np.eye(4, k=3)), file)
    elif how == "no data":
        nib.save(nib.Nifti1Image(np.full(shape, np.nan, np.float32), AFFINE), file)
    elif how == "four dimensions":
        nib.save(nib.Nifti1Image(np.ones((*shape, 2), np.float32), AFFINE), file)
    else:
        file.unlink()


REASONS = {
    "truncated": "truncated or damaged",
    "flipped": "truncated or damaged",
    "text": "not a readable NIfTI image",
    "other grid": "differs from affine .* of the mask",
    "no data": "no finite voxel in the mask",
    "four dimensions": "images in a list must be 3D",
    "vanished": "no such file",
}


@pytest.mark.parametrize(("how", "reason"), REASONS.items())
def test_a_bad_file_is_named_and_the_rest_goes_on_once_it_is_mended(files, maps, path, how, reason):
    whole = files[9].read_bytes()
    spoil(files[9], how)
    kind = FileNotFoundError if how == "vanished" else ValueError
    with pytest.raises(kind, match=rf"sub-10_con\.nii\.gz: .*{reason}"):
        stack(files, maps, path)
    if how != "vanished":
        assert np.array_equal(Cohort.open(path).read(), maps.values[:, :9])
    files[9].write_bytes(whole)
    assert np.array_equal(stack(files, maps, path).read(), maps.values)


def test_bad_files_are_left_out_and_listed(files, maps, path, log):
    for file, how in zip(files, REASONS, strict=False):
        spoil(file, how)
    cohort = stack(files, maps, path, skip_bad=True)
    assert np.array_equal(cohort.read(), maps.values[:, 7:])
    assert cohort.subjects == tuple(f"sub-{n:02d}" for n in range(8, 15))
    for skipped, file, reason in zip(cohort.skipped, files, REASONS.values(), strict=False):
        assert skipped.file == str(file)
        assert re.search(reason, skipped.reason)
        assert f"left out: {skipped.reason}" in log.text
    lines = Path(f"{path}.skipped.tsv").read_text().splitlines()
    assert lines[0] == "label\tfile\tvolume\treason"
    assert len(lines) == 8
    assert lines[1].startswith(f"sub-01\t{files[0]}\t0\t{files[0]}: the file is truncated")
    # the same command does not try them again, and adding them mended does
    before = contents(path)
    stack(files, maps, path, skip_bad=True)
    assert contents(path) == before
    mended = save_group(files[0].parent, maps)
    cohort = stack_maps([mended[2]], None, path, append=True)
    assert cohort.subjects[-1] == "sub-03"
    assert len(cohort.skipped) == 6


def test_a_store_of_bad_files_only_has_no_subjects(files, maps, path):
    for file in files:
        spoil(file, "text")
    with pytest.raises(ValueError, match="no subject is in it yet"):
        stack(files, maps, path, skip_bad=True)
    mended = save_group(files[0].parent, maps)
    assert stack_maps(mended, None, path, append=True).n_subjects == N_MAPS


def test_nothing_is_said_of_bad_files_where_there_are_none(files, maps, path):
    assert stack(files, maps, path, skip_bad=True).skipped == ()
    assert not Path(f"{path}.skipped.tsv").exists()


# interruptions


KILLER = """
import os, signal, sys, threading, time
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
while True:
    attempt += 1
    child = os.fork()
    if child == 0:
        stack_maps(files, mask, path, subjects_per_shard=4, dtype=dtype, append=n_first > 0)
        os._exit(0)
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
    if not killed:
        break
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
    assert stack_maps(files, mask, path).n_subjects == N_MAPS


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


# two at a time


def test_a_second_writer_is_refused(files, maps, path):
    stack(files[:6], maps, path)
    before = contents(path)
    with find_place(path).exclusive(), pytest.raises(BlockingIOError, match="another process"):
        stack(files, maps, path)
    assert contents(path) == before
    assert stack(files, maps, path).n_subjects == N_MAPS


def test_a_second_writer_of_a_url_is_refused(files, maps):
    name = f"/{uuid.uuid4().hex}"
    url = f"memory:/{name}/cohort.zarr"
    with find_place(url).exclusive(), pytest.raises(BlockingIOError, match="if it was killed, rem"):
        stack(files, maps, url)
    assert stack(files, maps, url).n_subjects == N_MAPS
    MemoryFileSystem().rm(name, recursive=True)


def test_a_reader_sees_no_subject_that_is_not_committed(files, maps, path):
    stack(files[:6], maps, path)
    (path.parent / "zarr.json").write_bytes((path / "zarr.json").read_bytes())
    stack(files, maps, path)
    # as if the last act of the second run had not taken place
    (path.parent / "zarr.json").replace(path / "zarr.json")
    cohort = Cohort.open(path)
    cohort.verify()
    assert np.array_equal(cohort.read(), maps.values[:, :6])
    assert stack(files, maps, path).n_subjects == N_MAPS


def test_memory_is_that_of_two_shards(files, maps, path):
    import tracemalloc

    many = make_maps(np.random.default_rng(3), n_subjects=40, shape=(40, 40, 40))
    folder = path.parent / "many"
    folder.mkdir()
    paths = save_group(folder, many)
    del files, maps
    tracemalloc.start()
    cohort = stack(paths, many, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    shard_bytes = cohort.header.layout.shard_bytes
    assert peak < 2 * shard_bytes + 30 * 4 * 40**3
    assert cohort.stored_bytes == 10 * shard_bytes
    expected = load_maps(paths, many.grid).values
    assert np.array_equal(cohort.load().values, expected)
