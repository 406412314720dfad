"""The warning of groups that differ in size and in variance."""

import logging
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulate import make_maps, volumes_of

from gpustats import Design, SecondLevelModel, fit, permutation_test, stack_maps
from gpustats.maps import Maps
from gpustats.pooled_variance import warn_of_unequal_variances


def study(rng, sizes, spreads, shape=(14, 15, 12)):
    """Groups of noise of several sizes and standard deviations, and a design of group and age."""
    maps = make_maps(rng, sum(sizes), shape, mean=0)
    maps.values[:] *= np.repeat(spreads, sizes).astype(np.float32)
    groups = np.repeat(np.eye(len(sizes)), sizes, axis=0)
    table = pd.DataFrame(groups, columns=["a", "b", "c"][: len(sizes)])
    return maps, Design(table.assign(age=rng.normal(0, 9, sum(sizes))))


def warnings_of(caplog, maps, design, contrast):
    caplog.clear()
    with caplog.at_level(logging.WARNING, "gpustats"):
        warn_of_unequal_variances(maps, design, design.contrast(contrast))
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("sizes", "spreads", "contrast"),
    [
        ((10, 40), (2.0, 1.0), "a - b"),
        ((40, 10), (2.0, 1.0), "a - b"),
        ((10, 40), (2.0, 1.0), "a"),
        ((10, 40), (2.0, 1.0), "b"),
    ],
)
def test_the_ratio_is_that_of_effects_drawn_again(rng, caplog, sizes, spreads, contrast):
    maps, design = study(rng, sizes, spreads)
    (line,) = warnings_of(caplog, maps, design, contrast)
    ratio = float(re.search(r"is (\S+) times", line)[1])
    found = fit(maps, design).contrast(contrast)  # each voxel is another draw
    assert ratio == pytest.approx(found.effect.var() / found.variance.mean(), rel=0.2)
    assert f"of {min(sizes)} to {max(sizes)} maps" in line
    p = stats.norm.sf(found.z)
    share = np.mean(np.minimum(p, 1 - p) < 0.025)
    if "p will be too small" in line:
        assert share > 0.07
    else:
        assert "p will be too large" in line
        assert share < 0.035


def test_three_groups_are_told_too(rng, caplog):
    (line,) = warnings_of(caplog, *study(rng, (8, 16, 40), (2, 1, 1)), "a - b; b - c")
    assert "of 8 to 40 maps" in line


@pytest.mark.parametrize(
    ("sizes", "spreads", "contrast"),
    [
        ((25, 25), (3.0, 1.0), "a - b"),  # of like size
        ((10, 40), (1.0, 1.0), "a - b"),  # of like variance
        ((10, 40), (3.0, 1.0), "age"),  # no groups
        ((1, 40), (3.0, 1.0), "a - b"),  # one map has no variance
        ((3, 20), (1.0, 1.0), "a - b"),  # of like variance, which three maps tell badly
        ((60, 5), (1.0, 1.0), "a - b"),
    ],
)
def test_there_is_no_warning_where_p_holds(rng, caplog, sizes, spreads, contrast):
    assert warnings_of(caplog, *study(rng, sizes, spreads), contrast) == []


def test_doors_warn_and_sign_flips_do_not(rng, caplog):
    maps, design = study(rng, (10, 30), (2.5, 1.0), (9, 10, 8))
    with caplog.at_level(logging.WARNING, "gpustats"):
        permutation_test(maps, design, "a - b", n_permutations=20)
        assert "one variance is assumed" in caplog.text
        caplog.clear()
        permutation_test(maps, design, "a - b", n_permutations=20, errors="ise")
        assert "one variance is assumed" not in caplog.text

        model = SecondLevelModel(maps.grid).fit(volumes_of(maps), design_matrix=design.table)
        model.compute_contrast("a - b")
    assert "one variance is assumed" in caplog.text


def test_voxels_that_lack_subjects_are_not_looked_at(rng, caplog):
    maps, design = study(rng, (10, 40), (2.0, 1.0))
    values = maps.values.copy(order="F")
    values[::2, 3] = np.nan
    assert len(warnings_of(caplog, Maps(values, maps.grid), design, "a - b")) == 1
    values[1::2, 3] = np.nan
    assert warnings_of(caplog, Maps(values, maps.grid), design, "a - b") == []


def test_voxels_of_a_store_are_looked_at(rng, tmp_path, caplog):
    maps, design = study(rng, (10, 30), (2.0, 1.0), (22, 24, 20))
    cohort = stack_maps(volumes_of(maps), maps.grid, tmp_path / "cohort.zarr")
    with caplog.at_level(logging.WARNING, "gpustats"):
        permutation_test(cohort, design, "a - b", n_permutations=20)
    (stored,) = [one for one in caplog.messages if "one variance is assumed" in one]
    assert warnings_of(caplog, maps, design, "a - b") == [stored]
