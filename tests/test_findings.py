import numpy as np
import pytest
from pages import group
from simulate import make_maps

from gpustats import glm
from gpustats.findings import find
from gpustats.thresholding import ThresholdRule


@pytest.mark.parametrize("sign", [1, -1])
def test_highest_peaks_are_of_either_sign(rng, sign):
    maps = group(rng, [], effect=0.0).contrast([sign])
    peaks = find("mean", maps, ThresholdRule(1e-6, None, "bonferroni"), 8.0).highest_peaks
    assert len(peaks) == 5
    assert (np.diff(peaks["Peak Stat"].abs()) <= 0).all()
    highest = np.argmax(np.abs(maps.z))
    assert peaks["Peak Stat"].iloc[0] == maps.z[highest]
    place = maps.grid.to_mm(np.argwhere(maps.grid.mask)[highest])
    assert peaks[["X", "Y", "Z"]].iloc[0].tolist() == place.tolist()


@pytest.mark.parametrize("two_sided", [True, False])
def test_largest_effects_are_one_per_cent_of_the_tested_side(rng, two_sided):
    fitted = glm.fit(make_maps(rng, shape=(20, 20, 20), mean=0.0), device="cpu")
    maps = fitted.contrast()
    rule = ThresholdRule(1e-6, None, "bonferroni", two_sided=two_sided)
    largest = find("mean", maps, rule, 8.0).largest
    size = np.abs(maps.z) if two_sided else maps.z
    expected = np.argsort(size)[-round(0.01 * size.size) :]
    np.testing.assert_array_equal(np.flatnonzero(largest), np.sort(expected))
    np.testing.assert_array_equal(largest[expected], maps.z[expected])


def test_f_has_one_side_and_its_threshold_one_tail(rng):
    fitted = group(rng, ["a"])
    maps = fitted.contrast([[1, 0], [0, 1]])
    found = find("both", maps, ThresholdRule(alpha=0.01), 8.0)
    assert found.height == pytest.approx(2.3263479)
    assert found.p_height == pytest.approx(0.01)
    np.testing.assert_array_equal(found.shown, np.where(maps.z >= found.height, maps.z, 0))
    assert found.n_surviving == (maps.z >= found.height).sum() > 0
    assert found.peak["Peak Stat"] == maps.z.max()
