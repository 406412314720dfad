"""Sweeps of groups of voxels with rows of their own, beside a sweep of each."""

import numpy as np
import pytest

from gpustats.engines import SHUFFLE_TILE, Form, Group

SIZES = {
    1: Form(1, 0, 17, is_f=False),
    33: Form(3, 0, 15, is_f=True),
    700: Form(1, 2, 15, is_f=False),
    2600: Form(1, 0, 17, is_f=False),
}
"""Voxels of the groups, and what their rows are."""
SHUFFLES = range(7, 150)


class Part:
    """A group's data and rows, and what it counts into."""

    def __init__(self, engine, rng, n_voxels, form, n, *, narrow=True):
        self.engine, self.form = engine, form
        directions = np.linalg.qr(rng.normal(size=(n, form.n_tested + form.n_nuisance)))[0]
        orders = np.stack([np.arange(n), *(rng.permutation(n) for _ in range(SHUFFLE_TILE - 1))])
        rows = directions.T[:, orders].transpose(1, 0, 2)
        self.rows = np.ascontiguousarray(rows, dtype=np.float32)
        self.values = np.asfortranarray(rng.normal(0.5, 1, (n_voxels, n)), dtype=np.float32)
        self.removed = directions[:, form.n_tested :]
        self.units = engine.unit_tiles(self.values, self.removed, narrow=narrow)
        first = engine.values_of(engine.to_device(self.rows[0]), self.units, form)
        self.exceeding = engine.exceedances(first, form, two_sided=True)
        self.maps = engine.to_device(np.zeros((len(SHUFFLES), n_voxels), np.float32))

    @property
    def group(self):
        return Group(self.units, self.form, lambda: self.rows, self.exceeding, self.maps)

    def found(self, peaks):
        """Everything that was found, on the host."""
        arrays = (self.maps, self.exceeding.counts, *peaks)
        return [np.array(self.engine.to_host(array)) for array in arrays]


@pytest.fixture
def make(engine):
    """Make the groups, the same ones at every call."""

    def make_parts(sizes=tuple(SIZES), **options):
        rngs = {size: np.random.default_rng(size) for size in sizes}
        return [
            Part(engine, rngs[size], size, SIZES[size], 18 + size % 5, **options) for size in sizes
        ]

    return make_parts


def swept(engine, parts):
    peaks = engine.sweep_groups([part.group for part in parts], shuffles=SHUFFLES)
    return [part.found(one) for part, one in zip(parts, peaks, strict=True)]


def test_each_group_is_swept_as_if_alone(engine, make):
    for part, found in zip(make(narrow=False), swept(engine, make()), strict=True):
        peaks = engine.sweep(
            engine.to_device(part.rows),
            part.units,
            part.form,
            shuffles=SHUFFLES,
            exceeding=part.exceeding,
            maps=part.maps,
        )
        maps, counts, upper, lower = part.found(peaks)
        np.testing.assert_allclose(found[0], maps, rtol=1e-5, atol=1e-5)
        assert np.mean(found[1] != counts) < 1e-3
        np.testing.assert_allclose(found[2], upper, rtol=1e-5)
        if not part.form.is_f:
            np.testing.assert_allclose(found[3], lower, rtol=1e-5)


def test_peaks_are_the_extremes_of_a_groups_own_maps(engine, make):
    parts = make()
    for part, (maps, _, upper, lower) in zip(parts, swept(engine, parts), strict=True):
        assert np.array_equal(engine.statistic_of(upper, part.form), maps.max(axis=1))
        if not part.form.is_f:
            assert np.array_equal(engine.statistic_of(lower, part.form), -maps.min(axis=1))


def test_company_order_and_threads_change_no_bit(engine, device, make, monkeypatch):
    together = swept(engine, make())
    sizes = tuple(SIZES)[::-1]
    for found, expected in zip(swept(engine, make(sizes))[::-1], together, strict=True):
        assert all(map(np.array_equal, found, expected))
    for size, expected in zip(SIZES, together, strict=True):
        (found,) = swept(engine, make((size,)))
        assert all(map(np.array_equal, found, expected))
    if device == "cpu":
        for threads in (1, 5):
            monkeypatch.setattr("gpustats.engines.cpu_sweep.n_threads", lambda n=threads: n)
            monkeypatch.setattr("gpustats.engines.cpu_sweep.TILES_AT_A_TIME", 1)
            for found, expected in zip(swept(engine, make()), together, strict=True):
                assert all(map(np.array_equal, found, expected))


@pytest.mark.parametrize("n_voxels", [1, 32, 100, 1024, 1025, 5000])
def test_narrow_tiles_hold_the_same_and_waste_little(engine, device, rng, n_voxels):
    values = np.asfortranarray(rng.normal(size=(n_voxels, 9)), dtype=np.float32)
    removed = np.full((9, 1), 1 / 3)
    wide, narrow = (engine.unit_tiles(values, removed, narrow=word) for word in (False, True))
    side_by_side = [engine.to_host(u.tiles).swapaxes(0, 1).reshape(9, -1) for u in (wide, narrow)]
    assert np.array_equal(*(rows[:, :n_voxels] for rows in side_by_side))
    assert not side_by_side[1][:, n_voxels:].any()
    if device == "cpu":
        assert side_by_side[1].shape[1] - n_voxels < 32 * len(narrow.tiles)
    else:
        assert side_by_side[1].shape[1] <= side_by_side[0].shape[1]
