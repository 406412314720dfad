import pytest
from randomising import Group


@pytest.fixture
def group_of(tmp_path, rng):
    """Make a group of so many maps, in one 4D file."""
    return lambda n_maps: Group(tmp_path, rng, n_maps)
