"""nilearn's names take stores too: a cohort, or the path of one, instead of images."""

import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from simulate import ellipsoid, make_maps, volumes_of

from gpustats import (
    Cohort,
    DesignError,
    SecondLevelModel,
    Tfce,
    Voxelwise,
    non_parametric_inference,
    permutation_test,
    stack_maps,
)
from gpustats.memory import FITTED, Load

N = 12
SHAPE = (22, 24, 20)
"""Of volumes whose mask takes three chunks of 1,024 voxels."""
LABELS = tuple(f"s{number}" for number in range(N))


@pytest.fixture
def maps(rng):
    """Twelve labelled maps; some subjects lack a voxel."""
    maps = make_maps(rng, N, SHAPE, subjects=LABELS)
    maps.values[[0, 1030, 2500], [3, 9, 3]] = np.nan
    return maps


@pytest.fixture
def cohort(tmp_path, maps):
    return stack_maps(volumes_of(maps, np.nan), maps.grid, tmp_path / "c.zarr", subjects=LABELS)


@pytest.fixture
def table(rng):
    """A design whose rows are in another order than the maps."""
    table = pd.DataFrame({"subject_label": LABELS, "age": rng.normal(size=N), "one": 1.0})
    return table.sample(frac=1, random_state=1)


@pytest.fixture
def count(monkeypatch):
    """Note how large the blocks are that are read."""
    sizes, read = [], Cohort.read

    def counted(self, start=0, stop=None):
        block = read(self, start, stop)
        sizes.append(len(block))
        return block

    monkeypatch.setattr(Cohort, "read", counted)
    return sizes


def ways(cohort):
    """A cohort, and its path as a path and as words."""
    return {"cohort": cohort, "path": Path(cohort.name), "words": str(cohort.name)}


def same_images(one, other):
    """Whether images hold the same bits."""
    assert np.array_equal(one.affine, other.affine)
    return np.array_equal(one.get_fdata(), other.get_fdata())


def files_of(tmp_path, maps):
    """A table of the maps' files, labelled as the store is."""
    rows = []
    for label, volume in zip(LABELS, volumes_of(maps, np.nan), strict=True):
        nib.save(volume, tmp_path / f"{label}.nii.gz")
        rows.append((label, "con", tmp_path / f"{label}.nii.gz"))
    return pd.DataFrame(rows, columns=["subject_label", "map_name", "effects_map_path"])


@pytest.mark.parametrize("way", ["cohort", "path", "words"])
def test_a_model_of_a_store_is_that_of_its_files(tmp_path, maps, cohort, table, way):
    files = SecondLevelModel(maps.grid, device="cpu").fit(files_of(tmp_path, maps), None, table)
    stored = SecondLevelModel(device="cpu").fit(ways(cohort)[way], None, table)
    assert stored.design_.matched_by == files.design_.matched_by
    assert stored.design_matrix_.equals(files.design_matrix_)
    ours, theirs = (model.compute_contrast("age", output_type="all") for model in (stored, files))
    assert all(same_images(ours[name], theirs[name]) for name in theirs)
    for name in ("residuals", "predicted", "r_square", "mask_img_"):
        assert same_images(getattr(stored, name), getattr(files, name))


def test_rows_must_be_those_of_the_subjects(cohort, table):
    other = table.replace({"subject_label": {"s3": "s33"}})
    with pytest.raises(DesignError, match="s3"):
        SecondLevelModel(device="cpu").fit(cohort, design_matrix=other)


def test_a_limit_of_memory_makes_blocks(cohort, table, count):
    design = SecondLevelModel(device="cpu").fit(cohort, None, table).design_
    statistics = (Tfce(), Voxelwise())
    options = {"statistics": statistics, "n_permutations": 30}
    expected = permutation_test(cohort.load(), design, "age", device="cpu", **options)
    count.clear()
    load = Load(cohort.n_voxels, N, rank=2, n_rows=2)
    limit = load.fixed_bytes + FITTED * N * 1024 + 2 * load.tile_bytes
    model = SecondLevelModel(device="cpu", memory_limit=limit).fit(cohort, None, table)
    found = model.permutation_test("age", n_permutations=30)
    assert model.fit_for().plan.n_blocks == 3
    assert found.settings["plan"]["contrasts"]["age"]["n_blocks"] == 3
    assert max(count) <= 1024 + 3  # voxels that left the mask lie between
    assert np.array_equal(found.outcomes[0].maxima, expected["voxelwise"].maxima)
    # what is said of one test counts for that one
    found = model.permutation_test("age", memory="1G", **options)
    assert found.settings["plan"]["contrasts"]["age"]["n_blocks"] == 1
    for mine, theirs in zip(found.outcomes, expected.outcomes, strict=True):
        assert np.array_equal(mine.maxima, theirs.maxima)
        assert np.array_equal(mine.counts, theirs.counts)


@pytest.mark.parametrize("way", ["cohort", "words"])
def test_non_parametric_inference_takes_stores(tmp_path, maps, cohort, table, way):
    options = {"n_perm": 40, "tfce": True, "design_matrix": table[["subject_label", "age"]]}
    files = files_of(tmp_path, maps)
    expected = non_parametric_inference(files, mask=maps.grid, device="cpu", **options)
    found = non_parametric_inference(ways(cohort)[way], device="cpu", memory_limit="1G", **options)
    assert list(found) == list(expected)
    assert all(same_images(found[name], expected[name]) for name in expected)


def test_voxels_that_lack_subjects_are_read_into_memory(tmp_path, maps, cohort, table):
    options = {"missing": "pairwise", "min_subjects": 10, "device": "cpu"}
    files = SecondLevelModel(maps.grid, **options).fit(files_of(tmp_path, maps), None, table)
    stored = SecondLevelModel(**options).fit(cohort, None, table)
    assert stored.fit_for().maps.missing.n_patterns == 3
    assert same_images(stored.compute_contrast("age"), files.compute_contrast("age"))
    p = [model.permutation_test("age", n_permutations=20) for model in (stored, files)]
    assert np.array_equal(p[0].outcomes[0].maxima, p[1].outcomes[0].maxima)


def test_a_model_of_a_store_can_be_kept(cohort):
    model = pickle.loads(pickle.dumps(SecondLevelModel(device="cpu").fit(cohort)))
    again = SecondLevelModel(device="cpu").fit(cohort)
    assert same_images(model.compute_contrast(), again.compute_contrast())
    assert np.array_equal(*(one.residuals.get_fdata() for one in (model, again)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_img": ellipsoid()}, "mask_img: .*c.zarr is a store, whose maps have been read"),
        ({"smoothing_fwhm": 5.0}, "smoothing_fwhm: .* is a store"),
        ({"resample": True, "zero_is_missing": True}, "resample, zero_is_missing: .* is a store"),
        ({"missing": "raise"}, "2 maps have voxels without data"),
        ({"min_subjects": 4}, "min_subjects goes with missing='pairwise'"),
        ({"missing": "pairwise", "memory_limit": "1G"}, "memory_limit: .* as a whole; leave it"),
        ({"memory_limit": "1M"}, "1 MiB of memory are too little for 12 subjects"),
    ],
)
@pytest.mark.parametrize("way", ["cohort", "path"])
def test_what_speaks_of_files_is_refused_before_anything_is_read(
    cohort, count, options, message, way
):
    with pytest.raises(ValueError, match=message):
        SecondLevelModel(device="cpu", **options).fit(ways(cohort)[way])
    assert count == []


def test_what_speaks_of_stores_is_refused_for_files(maps):
    with pytest.raises(ValueError, match="memory_limit speaks of a store; make one with"):
        SecondLevelModel(device="cpu", memory_limit="1G").fit(volumes_of(maps))
    with pytest.raises(ValueError, match="memory must be a size"):
        SecondLevelModel(memory_limit="much")


def test_one_subject_is_no_group(cohort):
    with pytest.raises(ValueError, match="a group needs at least 2 maps, got 1"):
        SecondLevelModel(device="cpu").fit(cohort.subset([3]))


def test_memory_is_still_the_cache_of_nilearn(cohort):
    model = SecondLevelModel(memory="nilearn_cache", device="cpu").fit(cohort)
    assert model.memory_limit is None
