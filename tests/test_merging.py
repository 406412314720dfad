"""Results of ranges of shuffles merge to the whole, however they were computed."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from permuting import EVERYTHING, same
from simulate import make_maps

from gpustats import Design
from gpustats.inference import permutation_test
from gpustats.merging import merge


@pytest.fixture
def covariate(device, rng):
    """A covariate test with every statistic."""
    maps = make_maps(rng, n_subjects=10)
    design = Design(pd.DataFrame({"x": rng.normal(size=10), "one": 1.0}))
    options = {"statistics": EVERYTHING, "n_permutations": 420, "uncorrected": True}
    return partial(permutation_test, maps, design, "x", device=device, **options)


def test_ranges_merge_to_the_whole_in_any_order(covariate):
    whole = covariate()
    parts = [covariate(shuffles=r) for r in (range(100), range(100, 307), range(307, 420))]
    assert same(merge([parts[1], parts[2], parts[0]]), whole)
    assert same(merge([covariate(shuffles=range(420))]), whole)


def test_threads_and_batches_change_no_bit(covariate, monkeypatch):
    whole = covariate()
    for threads, map_bytes in ((1, 4 * 164 * 7), (2, 4 * 164), (3, 2**28)):
        monkeypatch.setattr("gpustats.engines.cpu.MAP_BYTES", map_bytes)
        for module in ("cpu", "cpu_ranks", "cpu_spatial", "cpu_sweep"):
            monkeypatch.setattr(f"gpustats.engines.{module}.n_threads", lambda n=threads: n)
        assert same(covariate(), whole)


def test_a_part_gives_no_p(covariate):
    part = covariate(shuffles=range(5, 60))
    with pytest.raises(ValueError, match="shuffles 5 to 60 of 420 were computed; merge"):
        _ = part["tfce"].p_corrected


def test_merging_refuses_gaps_overlaps_and_other_runs(covariate):
    first, second = covariate(shuffles=range(50)), covariate(shuffles=range(60, 420))
    with pytest.raises(ValueError, match="gap between 50 and 60, after result 1 and before"):
        merge([first, second])
    with pytest.raises(ValueError, match="overlap at 40: result 2 has 0 to 50, result 1 40"):
        merge([covariate(shuffles=range(40, 420)), first])
    with pytest.raises(ValueError, match="overlap at 60: result 3 has 55 to 65"):
        merge([first, second, covariate(shuffles=range(55, 65))])
    with pytest.raises(ValueError, match="result 1 and result 2: .* they differ in settings"):
        merge([first, covariate(shuffles=range(50, 420), seed=1)])
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([])


def test_seeds_decide(covariate):
    assert same(covariate(seed=3), covariate(seed=3))
    assert not np.array_equal(covariate(seed=4)["tfce"].maxima, covariate()["tfce"].maxima)
