import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulate import make_maps

from gpustats import Design
from gpustats.archives import FORMAT, HEADER, load_inference, save_inference
from gpustats.enhancements import ClusterMass, Voxelwise
from gpustats.inference import permutation_test
from gpustats.merging import merge
from gpustats.tfce import Tfce

OUTCOME = ("observed", "limits", "maxima", "null_maxima", "counts", "null_contributions")
MAPS = ("effect", "variance", "statistic", "z", "p")


def infer(shuffles=None, **options):
    """A t and an F contrast, voxels and two spatial statistics."""
    rng = np.random.default_rng(7)
    table = pd.DataFrame({"x": rng.normal(size=10), "y": rng.normal(size=10), "one": 1.0})
    return permutation_test(
        make_maps(rng, n_subjects=10),
        Design(table),
        {"x": "x", "both ways": "x; y"},
        statistics=[Voxelwise(), Tfce(), ClusterMass(connectivity=18, threshold_z=1.5)],
        n_permutations=120,
        shuffles=shuffles,
        device="cpu",
        **options,
    )


@pytest.fixture(scope="module")
def inference():
    return infer()


def bits(array):
    return None if array is None else (array.dtype, array.shape, array.tobytes())


def assert_equal_to_the_bit(one, other):
    assert dict(one.settings) == dict(other.settings)
    assert dict(one.fingerprint) == dict(other.fingerprint)
    assert bits(one.grid.mask) == bits(other.grid.mask)
    assert bits(one.grid.affine) == bits(other.grid.affine)
    assert list(one.maps) == list(other.maps)
    pairs = [*zip(one.outcomes, other.outcomes, strict=True)]
    for a, b in pairs:
        for name in ("statistic", "indices", "n_shuffles", "two_sided"):
            assert getattr(a, name) == getattr(b, name)
        assert [bits(getattr(a, name)) for name in OUTCOME] == [
            bits(getattr(b, name)) for name in OUTCOME
        ]
    for name, maps in one.maps.items():
        theirs = other.maps[name]
        assert (maps.df, maps.dimension) == (theirs.df, theirs.dimension)
        assert [bits(getattr(maps, kind)) for kind in MAPS] == [
            bits(getattr(theirs, kind)) for kind in MAPS
        ]
    contrasts = [(a.contrast, b.contrast) for a, b in pairs]
    contrasts += [(maps.contrast, other.maps[name].contrast) for name, maps in one.maps.items()]
    for a, b in contrasts:
        assert (a.name, a.statistic, a.columns) == (b.name, b.statistic, b.columns)
        assert bits(a.weights) == bits(b.weights)


@pytest.mark.parametrize(
    "options", [{}, {"uncorrected": True, "null_contributions": True}, {"shuffles": range(7, 60)}]
)
def test_a_result_comes_back_to_the_last_bit(tmp_path, options):
    saved = infer(**options)
    save_inference(saved, tmp_path / "result.npz")
    assert os.listdir(tmp_path) == ["result.npz"]
    assert_equal_to_the_bit(load_inference(tmp_path / "result.npz"), saved)


def test_equal_results_are_equal_files(tmp_path, inference):
    for name in ("one", "other"):
        save_inference(inference, tmp_path / f"{name}.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "other.npz").read_bytes()


def test_parts_from_disk_merge_into_one_run(tmp_path, inference):
    for number, part in enumerate((range(50, 51), range(51, 120), range(50))):
        save_inference(infer(part), tmp_path / f"{number}.npz")
    parts = [load_inference(tmp_path / f"{number}.npz") for number in range(3)]
    assert_equal_to_the_bit(merge(parts), inference)


def test_the_file_needs_no_pickle(tmp_path, inference):
    save_inference(inference, tmp_path / "result.npz")
    with np.load(tmp_path / "result.npz", allow_pickle=False) as members:
        assert all(members[name].dtype.kind in "biuf" for name in members)


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path, inference):
    wrong = replace(inference, settings={"seed": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        save_inference(wrong, tmp_path / "result.npz")
    with pytest.raises(OSError, match="result.npz"):
        save_inference(inference, tmp_path / "nowhere" / "result.npz")
    (tmp_path / "taken.npz").mkdir()
    with pytest.raises(OSError, match="taken.npz"):
        save_inference(inference, tmp_path / "taken.npz")
    assert os.listdir(tmp_path) == ["taken.npz"]


@pytest.fixture(scope="module")
def content(tmp_path_factory, inference):
    """The bytes of a file, and where to write them when they have been damaged."""
    path = tmp_path_factory.mktemp("damaged") / "result.npz"
    save_inference(inference, path)
    return path.read_bytes(), path


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_found_or_does_no_harm(content, inference, data):
    whole, path = content
    place = data.draw(
        st.integers(0, len(whole) - 1) | st.integers(len(whole) - 3000, len(whole) - 1)
    )
    damaged = bytearray(whole)
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    try:
        loaded = load_inference(path)
    except ValueError as error:
        loaded, message = None, str(error)
    if loaded is None:
        assert message.startswith(f"{path}: not a whole result of a permutation test")
    else:
        # dates and attributes of an archive's files are of no consequence
        assert_equal_to_the_bit(loaded, inference)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_cut_file_is_refused(content, data):
    whole, path = content
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ValueError, match=r"result.npz: not a whole result of a permutation test"):
        load_inference(path)


def test_other_files_are_refused(tmp_path, inference):
    path = tmp_path / "other.npz"
    with pytest.raises(FileNotFoundError, match=r"other.npz: no such file"):
        load_inference(path)
    np.savez(path, t=np.zeros(3))
    with pytest.raises(ValueError, match=r"other.npz: not a whole result.*gpustats did not write"):
        load_inference(path)
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"other.npz: not a whole result"):
        load_inference(path)
    save_inference(inference, path)
    with np.load(path) as members:
        arrays = dict(members)
    header = json.loads(arrays[HEADER].tobytes()) | {"format": FORMAT + 1}
    arrays[HEADER] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=rf"its format is {FORMAT + 1}, this version reads"):
        load_inference(path)
    np.savez(path, **{**arrays, HEADER: np.array([{}])})
    with pytest.raises(ValueError, match=r"allow_pickle"):
        load_inference(path)
