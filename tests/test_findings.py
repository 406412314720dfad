from dataclasses import replace

import numpy as np
import pytest
from pages import group
from simulate import make_maps

from gpustats import glm
from gpustats.findings import find
from gpustats.outputs import contrast_results
from gpustats.records import Record
from gpustats.thresholding import ThresholdRule


def found(maps, rule, **changes):
    """What is found of a contrast in what a fit keeps in memory."""
    results = contrast_results(maps, rule)
    content = {"versions": {}, "contrasts": [{**results.summary, **changes}]}
    record = Record(content, lambda name: results.pictures[name][0], results.tables.__getitem__)
    return find(record, record.contrasts[0])


@pytest.mark.parametrize("sign", [1, -1])
def test_highest_peaks_are_of_either_sign(rng, sign):
    maps = group(rng, [], effect=0.0).contrast([sign])
    peaks = found(maps, ThresholdRule(1e-6, None, "bonferroni")).highest_peaks
    heights = np.array([peak["z"] for peak in peaks])
    assert 1 < len(peaks) <= 10
    assert (np.diff(np.abs(heights)) <= 0).all()
    highest = np.argmax(np.abs(maps.z))
    assert heights[0] == maps.z[highest]
    place = maps.grid.to_mm(np.argwhere(maps.grid.mask)[highest])
    assert peaks[0]["mm"] == place.tolist()


@pytest.mark.parametrize("two_sided", [True, False])
def test_largest_effects_are_one_per_cent_of_the_tested_side(rng, two_sided):
    fitted = glm.fit(make_maps(rng, shape=(20, 20, 20), mean=0.0), device="cpu")
    maps = fitted.contrast()
    rule = ThresholdRule(1e-6, None, "bonferroni", two_sided=two_sided)
    largest = found(maps, rule).largest
    size = np.abs(maps.z) if two_sided else maps.z
    expected = np.argsort(size)[-round(0.01 * size.size) :]
    np.testing.assert_array_equal(np.flatnonzero(largest), np.sort(expected))
    np.testing.assert_array_equal(largest[expected], maps.z[expected])


def test_f_has_one_side_and_shows_what_survives(rng):
    maps = group(rng, ["a"]).contrast([[1, 0], [0, 1]])
    rule = ThresholdRule(alpha=0.01)
    finding = found(maps, rule)
    height = rule.for_statistic("F").height(maps.z)
    np.testing.assert_array_equal(finding.shown, np.where(maps.z >= height, maps.z, 0))
    assert finding.n_surviving == (maps.z >= height).sum() > 0
    assert not finding.two_sided
    assert finding.peak["z"] == maps.z.max()


def test_mask_is_read_from_the_maps(rng):
    """A z of 0 is inside: there p is 1/2."""
    fitted = glm.fit(make_maps(rng), device="cpu").contrast()
    statistic = fitted.statistic.copy()
    statistic[5] = 0
    maps = replace(fitted, statistic=statistic)
    assert maps.z[5] == 0
    finding = found(maps, ThresholdRule())
    np.testing.assert_array_equal(finding.grid.mask, maps.grid.mask)
    np.testing.assert_array_equal(finding.z, maps.z)


def test_files_of_another_run_are_refused(rng):
    maps = group(rng, []).contrast()
    with pytest.raises(ValueError, match="of which .* survive; the JSON says"):
        found(maps, ThresholdRule(), n_surviving_voxels=3)
    with pytest.raises(ValueError, match="the JSON says 7 and"):
        found(maps, ThresholdRule(), n_voxels=7)
