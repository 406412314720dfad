"""PALM by definition: all arrangements of a design one by one, with PALM's conventions."""

import nibabel as nib
import numpy as np
from oracles import components, least_squares, statistic_to_z
from oracles_tfce import sum_levels
from randomising import Group, null_space


class Tables(Group):
    """Maps in a 4D file, with tables of a design beside it."""

    def tables(self, **tables):
        """Write tables as csv, named by PALM's options; return the words that name them."""
        words = ["-i", str(self.folder / "all.nii.gz")]
        for name, table in tables.items():
            path = self.folder / f"{name}.csv"
            np.savetxt(path, np.atleast_2d(table), delimiter=",", fmt="%.17g")
            words += [f"-{name}", str(path)]
        return words

    def image(self, name):
        """Values of an image inside the mask."""
        values = nib.load(self.folder / f"{name}.nii.gz").get_fdata()
        assert (values[~self.inside] == 0).all()
        return values[self.inside]


def scores_of(z, grid, threshold, tfce, peak):
    """What PALM makes of the upper tail of a map of z, with levels up to a peak."""
    volume = grid.unmask(z)
    above = volume >= threshold
    labels, inside = components(above, 26), above[grid.mask]
    extent, mass = np.zeros(z.size), np.zeros(z.size)
    extent[inside] = np.bincount(labels)[labels]
    mass[inside] = np.bincount(labels, z[inside])[labels]
    height, power, neighbours = tfce
    step = max(peak, 1e-9) / 100
    levels = step * np.arange(1, 101) * (1 - 1e-9)  # the highest one is the maximum
    enhanced = step * sum_levels(volume, neighbours, power, height, levels)[grid.mask]
    return {"vox": z, "clustere": extent, "clusterm": mass, "tfce": enhanced}


def palm(maps, designs, contrast, threshold, *, two_tailed=False, tfce=(2, 0.5, 6), flips=None):
    """Corrected and uncorrected p, and scores, of all arrangements of a design, by definition.

    Designs are arranged, or with ``flips`` what is left of the data without the nuisance is.
    """
    contrast = np.atleast_2d(contrast)
    designs = list(designs)
    nuisance = designs[0] @ null_space(contrast)
    values = maps.values.T.astype(float)
    residuals = (values - nuisance @ np.linalg.pinv(nuisance) @ values).T
    dimension = np.linalg.matrix_rank(contrast) if len(contrast) > 1 else None
    found = []
    for number, design in enumerate(designs):
        data = residuals if flips is None else residuals * flips[number]
        _, _, statistic, df = least_squares(data, design, contrast)
        z = statistic_to_z(statistic, df, dimension)
        peak = np.abs(z).max() if two_tailed else z.max()
        scores = scores_of(z, maps.grid, threshold, tfce, peak)
        if two_tailed:
            lower = scores_of(-z, maps.grid, threshold, tfce, peak)
            scores = {name: np.maximum(one, lower[name]) for name, one in scores.items()}
        found.append(scores)
    results = {}
    for name in found[0]:
        null = np.array([scores[name] for scores in found])
        limit = null[0] - 1e-5 * np.maximum(np.abs(null[0]), 1e-3)
        corrected = (null.max(axis=1)[:, None] >= limit).mean(axis=0)
        results[name] = (corrected, (null >= limit).mean(axis=0), null)
    return results
