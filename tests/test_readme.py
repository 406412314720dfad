"""What the README shows runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulate import make_maps, volumes_of

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_blocks_run(number, rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    maps = make_maps(rng, n_subjects=16)
    maps.values[:60, :8] += 4
    names = {
        "contrast_images": volumes_of(maps),
        "design": pd.DataFrame(
            {
                "patients": np.repeat([1.0, 0.0], 8),
                "controls": np.repeat([0.0, 1.0], 8),
                "age": rng.normal(40, 9, 16),
            }
        ),
    }
    exec(compile(BLOCKS[number], f"README.md block {number + 1}", "exec"), names)
    if "clusters" in names:
        assert len(names["clusters"]) > 0
    if "result" in names:
        assert names["result"]["tfce"].p_corrected.min() < 0.05


def test_there_are_python_blocks():
    assert len(BLOCKS) == 3
