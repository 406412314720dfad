"""
Two groups, adjusted for age: TFCE by permutation
=================================================

Do patients differ from controls, when the groups differ in age and age has an effect of its own?
The family-wise error over voxels is controlled by permutation; nuisance is handled after Freedman
and Lane.
"""

# %%
# The study
# ---------
#
# 12 patients and 16 controls; the patients are older. One region grows with age, another is
# larger in disease.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from nilearn.datasets import load_mni152_brain_mask
from nilearn.plotting import plot_stat_map

from gpustats import Design, Maps, Tfce, Voxelwise, permutation_test
from gpustats.images import read_mask, unmask
from gpustats.simulation import Blob, effect_map, simulate_maps

grid = read_mask(load_mni152_brain_mask(resolution=4))
rng = np.random.default_rng(1)
patients = np.repeat([1.0, 0.0], [12, 16])
age = rng.normal(40, 8, 28) + 10 * patients

of_disease = effect_map(grid, [Blob((-24.0, -4.0, -18.0), 18.0, 2.4)])
of_age = effect_map(grid, [Blob((0.0, 40.0, 8.0), 20.0, 0.12)])
noise = np.array(list(simulate_maps(grid, 0 * of_age, 28, fwhm_mm=8.0, seed=1)))
values = noise + np.outer(patients, of_disease) + np.outer(age - age.mean(), of_age)
maps = Maps(np.asfortranarray(values.T, dtype=np.float32), grid)

# %%
# The design
# ----------
#
# A table is the design matrix, as it stands. The contrast is an expression over its columns.

design = Design(pd.DataFrame({"patients": patients, "controls": 1 - patients, "age": age}))
contrast = design.contrast("patients - controls")

figure, axes = plt.subplots(figsize=(3, 5), layout="constrained")
shown = design.matrix / np.abs(design.matrix).max(axis=0)
axes.imshow(shown, aspect="auto", cmap="cividis", interpolation="nearest")
axes.set(xticks=range(3), xticklabels=design.columns, ylabel="subject", title="design matrix")

# %%
# The test
# --------
#
# One pass over 1,000 permutations serves both statistics.

result = permutation_test(
    maps, design, contrast, statistics=[Tfce(), Voxelwise()], n_permutations=1000, seed=0
)
for outcome in result.outcomes:
    n_found = np.count_nonzero(outcome.p_corrected <= 0.05)
    print(f"{outcome.statistic}: {n_found} voxels at corrected p <= 0.05")

# %%
# The null distribution of the largest score anywhere in the brain, the threshold that holds the
# family-wise error at 5%, and what was observed:

tfce = result["tfce"]
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.hist(tfce.null_maxima[1:], bins=60, color="0.6", label="1,000 permutations")
axes.axvline(tfce.threshold(0.05), color="#0072B2", ls="--", label="corrected p = 0.05")
axes.axvline(tfce.scores.max(), color="#D55E00", label="observed")
axes.set(xlabel="largest TFCE score", ylabel="permutations")
axes.legend()

# %%
# What is found
# -------------
#
# t of the difference where TFCE is significant; the region that only grows with age stays empty.

t = np.where(tfce.p_corrected <= 0.05, result.maps[contrast.name].statistic, 0)
plot_stat_map(
    unmask(t, grid),
    display_mode="ortho",
    cut_coords=(-24, -4, -18),
    draw_cross=False,
    symmetric_cbar=True,
)

print(f"found in the region of disease: {np.mean(t[of_disease > 0] != 0):.0%}")
print(f"found in the region of age: {np.mean(t[of_age > 0] != 0):.0%}")
