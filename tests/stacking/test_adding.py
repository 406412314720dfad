"""A store grows only by whole maps that belong together, in the hands of one writer."""

import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from simulate import AFFINE, make_maps, save_group, volumes_of
from stores import contents, stack

from gpustats import Cohort, load_maps, stack_maps
from gpustats.cohort_places import find_place


@pytest.mark.parametrize("cuts", [[7], [4, 8], [1, 2, 3, 4, 5], [3, 13]])
def test_appending_makes_the_store_that_stacking_at_once_makes(tmp_path, files, maps, path, cuts):
    stack(files, maps, path)
    parts = np.split(np.arange(len(files)), cuts)
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
    assert stack(files, maps, tmp_path / "empty").n_subjects == len(files)


# two at a time


def test_a_second_writer_is_refused(files, maps, path):
    stack(files[:6], maps, path)
    before = contents(path)
    with find_place(path).exclusive(), pytest.raises(BlockingIOError, match="another process"):
        stack(files, maps, path)
    assert contents(path) == before
    assert stack(files, maps, path).n_subjects == len(files)


def test_a_second_writer_of_a_url_is_refused(files, maps):
    name = f"/{uuid.uuid4().hex}"
    url = f"memory:/{name}/cohort.zarr"
    with find_place(url).exclusive(), pytest.raises(BlockingIOError, match="if it was killed, rem"):
        stack(files, maps, url)
    assert stack(files, maps, url).n_subjects == len(files)
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
    assert stack(files, maps, path).n_subjects == len(files)


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
