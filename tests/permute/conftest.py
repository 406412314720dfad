import numpy as np
import pandas as pd
import pytest
from simulate import make_maps, save_group


@pytest.fixture
def group(rng):
    """Twelve maps with a region that responds."""
    maps = make_maps(rng, mean=0)
    maps.values[:30] += 1.2
    return maps


@pytest.fixture
def files(tmp_path, group):
    """The maps on disk, as the command line takes them."""
    folder = tmp_path / "maps"
    folder.mkdir()
    return [str(path) for path in save_group(folder, group)]


@pytest.fixture
def table(rng):
    """Two groups, families of three and an age."""
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{n:02d}" for n in range(1, 13)],
            "patients": [1.0] * 6 + [0] * 6,
            "controls": [0.0] * 6 + [1] * 6,
            "age": rng.normal(40, 5, 12).round(2),
            "family": np.repeat(["d", "b", "c", "a"], 3),
        }
    )


@pytest.fixture
def design(tmp_path, table):
    """The table on disk, rows in another order than the maps, as the command line takes it."""
    path = tmp_path / "participants.tsv"
    table.sample(frac=1, random_state=5).to_csv(path, sep="\t", index=False)
    return ["--design", path]
