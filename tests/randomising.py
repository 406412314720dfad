"""randomise by definition: all arrangements of a design one by one, with FSL's conventions."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
from oracles import components, least_squares, statistic_to_z
from oracles_tfce import sum_levels
from scipy.ndimage import gaussian_filter1d
from simulate import make_maps, volumes_of

from gpustats.vest import write_vest

SHAPE = (8, 8, 7)


class Group:
    """Maps in a 4D file, with a design beside it."""

    def __init__(self, folder, rng, n_maps):
        self.folder = folder
        self.maps = make_maps(rng, n_maps, SHAPE, mean=0.2)
        self.inside = self.maps.grid.mask
        data = np.stack([image.get_fdata() for image in volumes_of(self.maps)], axis=-1)
        self.affine = self.maps.grid.affine
        nib.save(nib.Nifti1Image(data.astype(np.float32), self.affine), folder / "all.nii.gz")

    def write(self, design, contrasts, f_tests=None, blocks=None, names=()):
        """Write the files of a design; return the words that name them."""
        write_vest(self.folder / "design.mat", design)
        write_vest(self.folder / "design.con", contrasts, names=names)
        words = ["-i", self.folder / "all", "-d", self.folder / "design.mat"]
        words += ["-t", self.folder / "design.con"]
        if f_tests is not None:
            write_vest(self.folder / "design.fts", f_tests)
            words += ["-f", self.folder / "design.fts"]
        if blocks is not None:
            write_vest(self.folder / "design.grp", np.reshape(blocks, (-1, 1)))
            words += ["-e", self.folder / "design.grp"]
        return words


def orders(blocks, whole=False):
    """All orders of rows within blocks, or of blocks as wholes."""
    members = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
    if whole:
        for order in permutations(range(len(members))):
            rows = np.empty(len(blocks), int)
            for place, source in zip(members, (members[k] for k in order), strict=True):
                rows[place] = source
            yield rows
        return
    for inside in product(*(permutations(rows) for rows in members)):
        rows = np.empty(len(blocks), int)
        for place, source in zip(members, inside, strict=True):
            rows[place] = source
        yield rows


def arrangements(design, blocks, *, flips=False, whole=False):
    """All designs that rearrangements lead to, each once, the observed one first."""
    if flips:
        yield from (design * np.array(s)[:, None] for s in product((1, -1), repeat=len(design)))
        return
    seen = set()
    for rows in orders(blocks, whole):
        if (key := design[rows].tobytes()) not in seen:
            seen.add(key)
            yield design[rows]


def null_space(contrast):
    """Columns that span what a contrast does not see."""
    _, s, vt = np.linalg.svd(contrast)
    return vt[np.count_nonzero(s > 1e-10) :].T


def scores_of(statistic, grid, df, dimension, threshold, tfce):
    """What randomise makes of a map: voxels, extent and mass of clusters, TFCE."""
    volume = grid.unmask(statistic)
    above = volume >= threshold
    labels, inside = components(above, 26), above[grid.mask]
    extent, mass = np.zeros(statistic.size), np.zeros(statistic.size)
    extent[inside] = np.bincount(labels)[labels]
    mass[inside] = np.bincount(labels, statistic[inside])[labels]
    height = volume
    if dimension is not None:
        height = grid.unmask(statistic_to_z(statistic, df, dimension))
    exponents, neighbours, step = tfce
    enhanced = np.zeros(height.shape)
    if step is None:
        step = height.max() / 100
    if height.max() > 0:
        # above, not at, a level, which at the maximum itself only roundings would tell apart
        levels = step * (1 + 1e-5) * np.arange(1, int(height.max() / step / (1 + 1e-5)) + 1)
        enhanced = sum_levels(height, neighbours, exponents[1], exponents[0], levels)
    return {"vox": statistic, "clustere": extent, "clusterm": mass, "tfce": enhanced[grid.mask]}


def smoothed(values, grid, sigma_mm):
    """A Gaussian of voxels over one of the mask, out to the radius of FSL's kernel."""
    volumes = [grid.unmask(values), 1.0 * grid.mask]
    for axis, sigma in enumerate(sigma_mm / grid.voxel_sizes_mm):
        radius = 2 * int(sigma - 0.001) + 3
        volumes = [
            gaussian_filter1d(volume, sigma, axis, mode="constant", radius=radius)
            for volume in volumes
        ]
    return (volumes[0][grid.mask]) / volumes[1][grid.mask]


def randomise(
    maps, designs, contrast, threshold, *, is_f=False, settings=((2, 0.5), 6), sigma_mm=None
):
    """1 - p, corrected and not, and scores, of all arrangements of a design, by definition."""
    contrast = np.atleast_2d(contrast)
    designs = list(designs)
    nuisance = designs[0] @ null_space(contrast)
    values = maps.values.T.astype(float)
    residuals = (values - nuisance @ np.linalg.pinv(nuisance) @ values).T
    found, step = [], None
    for number, design in enumerate(designs):
        effect, variance, statistic, df = least_squares(residuals, design, contrast)
        if sigma_mm is not None:
            statistic = effect / np.sqrt(smoothed(variance, maps.grid, sigma_mm))
        dimension = np.linalg.matrix_rank(contrast) if is_f else None
        if is_f and len(contrast) == 1:
            statistic = statistic**2
        if number == 0:
            height = statistic if dimension is None else statistic_to_z(statistic, df, dimension)
            step = max(height.max(), 1e-9) / 100
        scores = scores_of(statistic, maps.grid, df, dimension, threshold, (*settings, step))
        found.append(scores)
    results = {}
    for name in found[0]:
        null = np.array([scores[name] for scores in found])
        limit = null[0] - 1e-5 * np.maximum(np.abs(null[0]), 1e-3)
        corrected = (null.max(axis=1)[:, None] >= limit).mean(axis=0)
        results[name] = (1 - corrected, 1 - (null >= limit).mean(axis=0), null)
    return results
