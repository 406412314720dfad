import pytest
from palming import Tables


@pytest.fixture
def group_of(tmp_path, rng, monkeypatch):
    """Make a group of so many maps, in one 4D file."""
    monkeypatch.chdir(tmp_path)
    return lambda n_maps: Tables(tmp_path, rng, n_maps)
