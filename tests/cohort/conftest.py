import numpy as np
import pytest
from simulate import make_maps, save_group
from stores import THREE_CHUNKS

from gpustats import stack_maps


@pytest.fixture
def maps(rng):
    """Ten maps with holes, and a voxel that is equal in all of them."""
    maps = make_maps(rng, n_subjects=10, shape=THREE_CHUNKS)
    assert 2048 < maps.n_voxels < 3072
    maps.values[[5, 1030, 2500], [0, 3, 9]] = np.nan
    maps.values[1500, 4] = np.inf
    maps.values[77] = -2.5
    return maps


@pytest.fixture
def files(tmp_path, maps):
    return save_group(tmp_path, maps)


@pytest.fixture
def store(tmp_path, files, maps):
    """A store of three shards, of which the last is not full."""
    stack_maps(files, maps.grid, tmp_path / "cohort.zarr", subjects_per_shard=4)
    return tmp_path / "cohort.zarr"
