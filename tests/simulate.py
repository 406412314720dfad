"""Small groups to test with."""

import nibabel as nib
import numpy as np

from gpustats.maps import Maps
from gpustats.patterns import find_patterns
from gpustats.spaces import Grid

AFFINE = np.array([[-3.0, 0, 0, 12], [0, 3.5, 0, -20], [0, 0, 4.0, 8], [0, 0, 0, 1]])


def ellipsoid(shape=(9, 10, 8)):
    """A mask that touches no border and is symmetric in no axis."""
    axes = np.meshgrid(*[np.linspace(-1.1, 1.25, n) for n in shape], indexing="ij")
    return sum(axis**2 for axis in axes) < 1


def make_maps(rng, n_subjects=12, shape=(9, 10, 8), mean=0.5, subjects=None):
    """A stack of noise about a mean."""
    grid = Grid(ellipsoid(shape), AFFINE)
    values = rng.normal(mean, 1, (n_subjects, grid.n_voxels)).astype(np.float32).T
    return Maps(np.asfortranarray(values), grid, subjects)


def make_incomplete(rng, n_subjects=12, share=0.03, least=6, **options):
    """A stack in which each value is missing with some probability, but for the least needed."""
    maps = make_maps(rng, n_subjects, **options)
    values = maps.values.copy(order="F")
    values[:, : n_subjects - least][rng.random((maps.n_voxels, n_subjects - least)) < share] = (
        np.nan
    )
    stack = incomplete(values, maps)
    assert stack.missing is not None
    return stack


def incomplete(values, maps):
    """A stack of other values, NaN where data are missing."""
    return Maps(values, maps.grid, maps.subjects, missing=find_patterns(values))


def volumes_of(maps, fill=0.0):
    """The maps of a stack as NIfTI images."""
    return [
        nib.Nifti1Image(np.asarray(maps.grid.unmask(column, fill), np.float32), maps.grid.affine)
        for column in maps.values.T
    ]


def save_group(folder, maps, fill=0.0, ending=".nii.gz"):
    """Write the maps of a stack and return their paths."""
    paths = []
    for number, image in enumerate(volumes_of(maps, fill), start=1):
        paths.append(folder / f"sub-{number:02d}_con{ending}")
        nib.save(image, paths[-1])
    return paths


def save_mask(folder, maps):
    """Write the mask of a stack and return its path."""
    path = folder / "mask.nii.gz"
    nib.save(nib.Nifti1Image(maps.grid.mask.astype(np.uint8), maps.grid.affine), path)
    return path
