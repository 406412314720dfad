"""Voxels that lack subjects, at the size of a cohort: stores, checkpoints, ranges, machines."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster
from permuting import StoppedError, same
from simulate import make_incomplete, save_group, save_mask

from gpustats import Design, fit, load_maps, merge, stack_maps
from gpustats.enhancements import ClusterExtent, Voxelwise
from gpustats.inference import permutation_test
from gpustats.pairwise_sweeping import Pairwise
from gpustats.tfce import Tfce

EVERYTHING = (Voxelwise(), Tfce(), ClusterExtent(connectivity=6, threshold_z=1.0))


@pytest.fixture
def run_test(rng):
    """Test two groups with an age where 12 subjects lack a tenth of the voxels."""
    maps = make_incomplete(rng, 12, share=0.1)
    table = pd.DataFrame({"a": np.arange(12) % 2, "age": rng.normal(size=12), "one": 1.0})
    return partial(
        permutation_test,
        maps,
        Design(table),
        {"a": "a", "either": "a; age"},
        statistics=EVERYTHING,
        n_permutations=400,
        uncorrected=True,
        device="cpu",
    )


@pytest.fixture
def paths(tmp_path, rng):
    """Maps with holes on disk, and their mask."""
    maps = make_incomplete(rng, 12, share=0.4, least=3)
    folder = tmp_path / "maps"
    folder.mkdir()
    return save_group(folder, maps, np.nan, ".nii"), save_mask(tmp_path, maps)


def test_a_store_gives_what_its_files_give(tmp_path, paths):
    files, mask = paths
    cohort = stack_maps(files, mask, tmp_path / "cohort.zarr")
    stored = cohort.load("pairwise", min_subjects=8)
    read = load_maps(files, mask, missing="pairwise", min_subjects=8)
    assert np.array_equal(stored.values, read.values, equal_nan=True)
    assert np.array_equal(stored.missing.of_voxel, read.missing.of_voxel)
    assert np.array_equal(stored.missing.observed, read.missing.observed)
    assert stored.dropped == read.dropped
    assert sum(stored.dropped.values()) > 0
    assert np.array_equal(fit(stored).contrast().z, fit(read).contrast().z)
    with pytest.raises(ValueError, match="min_subjects goes with missing='pairwise'"):
        cohort.load(min_subjects=8)


def test_a_store_on_the_command_line(run, tmp_path, paths):
    import nibabel as nib

    files, mask = paths
    stack_maps(files, mask, tmp_path / "cohort.zarr")
    words = ("--missing", "pairwise", "--min-subjects", "8", "--device", "cpu", "--output-dir")
    names = ("contrast-intercept_stat-z_statmap.nii.gz", "contrast-intercept_stat-n_statmap.nii.gz")
    assert run("fit", str(tmp_path / "cohort.zarr"), *words, "stored")[0] == 0
    assert run("fit", *map(str, files), "--mask", str(mask), *words, "read")[0] == 0
    for name in names:
        stored, read = (nib.load(f"{folder}/{name}").get_fdata() for folder in ("stored", "read"))
        assert np.array_equal(stored, read)
    store = str(tmp_path / "cohort.zarr")
    status, _, errors = run("fit", store, *words, "bounded", "--memory", "1G")
    assert status == 2
    assert "missing: pairwise" in errors
    status, _, errors = run("fit", store, "--min-subjects", "8", "--device", "cpu")
    assert status == 2
    assert "min_subjects goes with missing='pairwise'" in errors


def test_a_test_that_stops_ends_as_one_that_does_not(run_test, tmp_path, monkeypatch):
    sweep, swept = Pairwise.sweep, []

    def stopping(self, batch, maps, finish):
        if len(swept) % 3 == 2:
            swept.append(batch)
            raise StoppedError
        swept.append(batch)
        return sweep(self, batch, maps, finish)

    # maps of a batch: few, for many steps
    monkeypatch.setattr("gpustats.engines.cpu.MAP_BYTES", 2**16)
    monkeypatch.setattr(Pairwise, "sweep", stopping)
    kept = partial(run_test, checkpoint=tmp_path / "kept", checkpoint_seconds=0)
    n_stops, result = 0, None
    while result is None:
        try:
            result = kept()
        except StoppedError:
            n_stops += 1
    assert n_stops > 2
    monkeypatch.setattr(Pairwise, "sweep", sweep)
    assert same(result, run_test())


def test_ranges_over_machines_merge_to_the_whole(run_test):
    whole = run_test()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        assert same(run_test(client=client), whole)
        parts = [run_test(shuffles=range(250), client=client), run_test(shuffles=range(250, 400))]
    assert same(merge(parts), whole)
