import pytest
from simulate import make_maps, save_group

from gpustats import cohort_writer


@pytest.fixture(autouse=True)
def _commit_every_shard(monkeypatch):
    monkeypatch.setattr(cohort_writer, "COMMIT_SECONDS", 0.0)


@pytest.fixture
def maps(rng):
    return make_maps(rng, n_subjects=14)


@pytest.fixture
def files(tmp_path, maps):
    folder = tmp_path / "maps"
    folder.mkdir()
    return save_group(folder, maps)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cohort.zarr"
