import numpy as np
import pytest
from simulate import AFFINE, ellipsoid

from gpustats.spaces import Grid, Lattice


def test_voxels_are_numbered_in_the_order_of_boolean_indexing(rng):
    volume = rng.normal(size=(9, 10, 8))
    grid = Grid(ellipsoid(), AFFINE)
    assert np.array_equal(grid.unmask(volume[grid.mask])[grid.mask], volume[grid.mask])


def test_unmask_fills_and_moves_leading_axes_to_the_end(rng):
    grid = Grid(ellipsoid(), AFFINE)
    values = rng.normal(size=(3, grid.n_voxels))
    volume = grid.unmask(values, fill=-1)
    assert volume.shape == (9, 10, 8, 3)
    assert np.array_equal(volume[..., 2][grid.mask], values[2])
    assert (volume[~grid.mask] == -1).all()


def test_volume_of_a_sheared_voxel_is_the_determinant():
    sheared = np.array([[3, 1.0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
    assert Grid(np.ones((2, 2, 2), bool), sheared).voxel_volume_mm3 == 27.0


def test_volume_of_a_plain_voxel_has_no_rounding():
    assert Grid(np.ones((2, 2, 2), bool), np.diag([-4.0, 4, 4, 1])).voxel_volume_mm3 == 64.0


def test_to_mm_applies_the_affine():
    grid = Grid(ellipsoid(), AFFINE)
    assert grid.to_mm([1, 2, 3]).tolist() == (AFFINE @ [1, 2, 3, 1])[:3].tolist()
    assert grid.to_mm(np.zeros((5, 3))).shape == (5, 3)


def test_subset_keeps_the_order(rng):
    grid = Grid(ellipsoid(), AFFINE)
    values = rng.normal(size=grid.n_voxels)
    keep = values > 0
    smaller = grid.subset(keep)
    assert smaller.n_voxels == keep.sum()
    assert np.array_equal(grid.unmask(values)[smaller.mask], values[keep])


@pytest.mark.parametrize(("connectivity", "n_steps"), [(6, 3), (18, 9), (26, 13)])
def test_lattice_has_half_of_the_neighbours_before_a_voxel(connectivity, n_steps):
    lattice = Lattice(ellipsoid(), connectivity)
    assert lattice.backward_steps.size == n_steps
    assert (lattice.backward_steps > 0).all()
    assert (np.diff(lattice.cells) > 0).all()


def test_lattice_of_an_empty_mask_has_no_cells():
    assert Lattice(np.zeros((2, 2, 2), bool), 6).cells.size == 0


@pytest.mark.parametrize("connectivity", [0, 4, 8, 27, None])
def test_other_connectivities_are_refused(connectivity):
    with pytest.raises(ValueError, match="connectivity must be 6, 18 or 26"):
        Lattice(ellipsoid(), connectivity)


def test_a_mask_must_be_a_volume():
    with pytest.raises(ValueError, match=r"3 dimensions, got shape \(4, 4\)"):
        Grid(np.ones((4, 4), bool), np.eye(4))
