import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles import components
from scipy import ndimage
from scipy.special import ndtr
from simulate import ellipsoid

from gpustats import engines
from gpustats.engines import DeviceError, resolve
from gpustats.engines import cpu as cpu_engine
from gpustats.spaces import Grid

CONNECTIVITIES = (6, 18, 26)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_asked_for_by_name_must_be_there(device):
    with pytest.raises(DeviceError, match=f"device '{device}'.*device='cpu'"):
        resolve(device)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "", "CPU"])
def test_unknown_devices_are_refused(device):
    with pytest.raises(ValueError, match="device must be 'auto', 'cpu'"):
        resolve(device)


def test_auto_says_once_what_it_took(log):
    engines._announce.cache_clear()
    assert resolve("auto").describe() in log.text
    resolve("auto")
    assert log.text.count("device 'auto' took") == 1


def test_an_engine_describes_itself_and_its_memory(engine):
    assert np.__version__ in engine.describe()
    assert engine.free_bytes() > 2**20
    assert engine.to_host(engine.to_device(np.arange(3))).tolist() == [0, 1, 2]


@pytest.mark.parametrize("n_voxels", [1, 1023, 1024, 1025, 3000])
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_regression_equals_its_definition(engine, rng, n_voxels, rank):
    values = np.asfortranarray(rng.normal(3, 1, (n_voxels, 12)).astype(np.float32))
    basis = np.linalg.qr(rng.normal(size=(12, rank)))[0]
    coordinates, residual_ss = map(engine.to_host, engine.regress(values, basis))
    exact = basis.T @ values.T.astype(float)
    residuals = values.T - basis @ exact
    np.testing.assert_allclose(coordinates, exact, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(residual_ss, (residuals**2).sum(0), rtol=1e-11)


def test_regression_does_not_depend_on_threads(rng, monkeypatch):
    values = np.asfortranarray(rng.normal(size=(5000, 9)).astype(np.float32))
    basis = np.full((9, 1), 1 / 3)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(cpu_engine, "n_threads", lambda threads=threads: threads)
        results.append(cpu_engine.regress(values, basis))
    for other in results[1:]:
        assert np.array_equal(results[0].coordinates, other.coordinates)
        assert np.array_equal(results[0].residual_ss, other.residual_ss)


def test_t_to_z_keeps_shape_and_sign(engine, rng):
    t = rng.normal(0, 3, (3, 20_000))
    z = engine.t_to_z(t, 11.0)
    assert z.shape == t.shape
    assert np.array_equal(z, -engine.t_to_z(-t, 11.0))
    assert np.array_equal(np.sign(z), np.sign(t))


def test_f_of_one_dimension_is_two_sided_t(engine, rng):
    t = rng.normal(0, 3, 500)
    z_of_f = engine.f_to_z(t**2, 1, 17)
    p_of_t = 2 * ndtr(-engine.t_to_z(np.abs(t), 17))
    np.testing.assert_allclose(ndtr(-z_of_f), p_of_t, rtol=1e-9)


@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
@given(above=arrays(bool, st.tuples(*[st.integers(1, 6)] * 3)))
@settings(max_examples=40, deadline=None)
def test_labels_are_canonical(connectivity, above):
    grid = Grid(np.ones(above.shape, bool), np.eye(4))
    labels = resolve("cpu").label(above.reshape(1, -1), grid.lattice(connectivity))[0]
    places = np.flatnonzero(above)
    expected = components(above, connectivity)
    # the oracle numbers the true voxels only, the engine all voxels of the mask
    assert np.array_equal(labels[places], places[expected - 1] + 1 if places.size else [])
    assert not labels[~above.ravel()].any()


@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
@pytest.mark.parametrize("density", [0.02, 0.12, 0.3, 0.7, 1.0])
def test_labels_within_a_mask_equal_scipys(engine, rng, connectivity, density):
    mask = ellipsoid((20, 24, 17))
    grid = Grid(mask, np.eye(4))
    above = rng.random((3, grid.n_voxels)) < density
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    for one, labels in zip(above, engine.label(above, grid.lattice(connectivity)), strict=True):
        volume = np.zeros(mask.shape, bool)
        volume[mask] = one
        theirs = ndimage.label(volume, structure)[0][mask]
        for cluster in range(1, theirs.max() + 1):
            assert (labels[theirs == cluster] == np.flatnonzero(theirs == cluster)[0] + 1).all()
        assert not labels[theirs == 0].any()


@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
def test_labels_do_not_leak_over_the_edge_of_a_volume(engine, connectivity):
    above = np.zeros((4, 4, 4), bool)
    above[0, 0, 3] = above[0, 1, 0] = above[1, 0, 0] = True
    grid = Grid(np.ones(above.shape, bool), np.eye(4))
    labels = engine.label(above.reshape(1, -1), grid.lattice(connectivity))[0]
    assert np.count_nonzero(np.unique(labels)) == (2 if connectivity > 6 else 3)


@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
def test_a_spiral_is_one_component(engine, connectivity):
    above = np.zeros((13, 13, 1), bool)
    place, step = np.array([0, 0]), np.array([0, 1])
    for length in (12, 12, 12, 10, 10, 8, 8, 6, 6, 4, 4, 2, 2):
        for _ in range(length):
            above[*place, 0] = True
            place += step
        step = np.array([step[1], -step[0]])
    grid = Grid(np.ones(above.shape, bool), np.eye(4))
    labels = engine.label(above.reshape(1, -1), grid.lattice(connectivity))[0]
    expected = components(above, connectivity)
    places = np.flatnonzero(above)
    assert np.array_equal(labels[places], places[expected - 1] + 1)
    assert (labels[places] == 1).all()


def test_labelling_twice_gives_the_same(engine, rng):
    grid = Grid(ellipsoid(), np.eye(4))
    above = rng.random((2, grid.n_voxels)) < 0.4
    lattice = grid.lattice(18)
    assert np.array_equal(engine.label(above, lattice), engine.label(above, lattice))
