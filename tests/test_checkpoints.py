"""Tests that are stopped go on from their checkpoint, and nothing else is taken for one."""

import os
from functools import partial

import numpy as np
import pandas as pd
import pytest
from permuting import CHECKPOINT, EVERYTHING, StoppedError, finished_by_steps, same, stop_after
from simulate import make_maps
from stores import make_store, memory_for

from gpustats import Design, checkpoints, permutation_test, remove_checkpoint
from gpustats.complete_sweeping import Complete
from gpustats.enhancements import ClusterMass, Voxelwise
from gpustats.maps import Maps
from gpustats.shuffles import Shard
from gpustats.tfce import Tfce

N = 12


@pytest.fixture
def maps(rng):
    return make_maps(rng, n_subjects=N)


@pytest.fixture
def design(rng):
    return Design(pd.DataFrame(rng.normal(size=(N, 3)), columns=list("abc")))


@pytest.fixture
def cohort(tmp_path, rng):
    """A store of three tiles of voxels."""
    return make_store(rng, tmp_path / "cohort.zarr", N)


CASES = {
    "voxels": {"contrast": "a", "n_permutations": 900},
    "where voxels peak": {"contrast": "a", "n_permutations": 400, "null_contributions": True},
    "F of a shard": {"contrast": ["a", "b"], "n_permutations": 1500, "shuffles": Shard(2, 3)},
    "three contrasts": {"contrast": {"x": "a", "y": "b", "z": "c"}, "n_permutations": 300},
    "maps": {"contrast": "a", "n_permutations": 500, "statistics": EVERYTHING},
    "counts of a range": {
        "contrast": {"x": "a", "y": ["b", "c"]},
        "statistics": (Tfce(), Voxelwise(), ClusterMass(connectivity=6, threshold_p=0.1)),
        "uncorrected": True,
        "null_contributions": True,
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
    size = memory_for(cohort, 1, n_maps, n_rows=3, n_statistics=len(statistics), spatial=n_maps > 0)
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
    sizes = [memory_for(cohort, n_tiles, n_rows=3) for n_tiles in (before, after)]
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
    assert sorted(os.listdir(tmp_path / "kept")) == [CHECKPOINT, "contrast-2.checkpoint"]
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
    whole = (tmp_path / CHECKPOINT).read_bytes()
    places = {0, 21, 22, 30, 37, 38, 39, len(whole) - 1, *rng.integers(0, len(whole), 150).tolist()}
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        (tmp_path / CHECKPOINT).write_bytes(changed)
        with pytest.raises(ValueError, match=f"{CHECKPOINT}: the checkpoint is damaged"):
            begun()
    for content in (b"", *(whole[:place] for place in places), whole + b"\0", b"x" * len(whole)):
        (tmp_path / CHECKPOINT).write_bytes(content)
        with pytest.raises(ValueError, match="delete it to begin anew"):
            begun()
    (tmp_path / CHECKPOINT).write_bytes(whole)
    assert same(begun(), begun(checkpoint=None))
