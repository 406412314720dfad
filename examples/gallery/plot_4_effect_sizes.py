"""
Effect sizes, and how much of a cluster is active
=================================================

A p tells that there is an effect, not how large it is or where in a cluster. Here are maps of
Hedges' g with its variance, ready for a meta-analysis, intervals, and the share of active voxels
of clusters at many thresholds at once.
"""

# %%
# The study
# ---------
#
# 20 patients and 20 controls. One region differs by 1.5 standard deviations, one by 0.8.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from nilearn.datasets import load_mni152_brain_mask
from nilearn.plotting import plot_stat_map

from gpustats import Design, Maps, cluster_level_inference, fit
from gpustats.images import read_mask, unmask
from gpustats.simulation import Blob, effect_map, simulate_maps

mask = load_mni152_brain_mask(resolution=4)
grid = read_mask(mask)
patients = np.repeat([1.0, 0.0], 20)
truth = effect_map(
    grid, [Blob((-40.0, -24.0, 52.0), 18.0, 1.5), Blob((30.0, 30.0, 20.0), 18.0, 0.8)]
)
noise = np.array(list(simulate_maps(grid, 0 * truth, 40, fwhm_mm=8.0, seed=5)))
values = noise + np.outer(patients, truth)
maps = Maps(np.asfortranarray(values.T, dtype=np.float32), grid)

# %%
# How large
# ---------
#
# g is the difference in standard deviations, without the bias of small samples. Its variance is
# what a meta-analysis weights studies with.

fitted = fit(maps, Design(pd.DataFrame({"patients": patients, "controls": 1 - patients})))
difference = fitted.contrast("patients - controls")
g, variance = difference.hedges_g, difference.hedges_g_variance
lower, upper = difference.confidence_interval(0.95)

for name, region in {"strong": truth == truth.max(), "weak": (truth > 0) & (truth < 1)}.items():
    print(
        f"{name}: true {truth[region][0]:.1f}, g {g[region].mean():.2f} "
        f"± {np.sqrt(variance[region].mean()):.2f} in a voxel"
    )
inside = np.mean((lower <= truth) & (truth <= upper))
print(f"{inside:.1%} of the 95% intervals hold the truth")

plot_stat_map(unmask(g, grid), cut_coords=(-40, -24, 52), draw_cross=False, vmax=2)

# %%
# Pooling it with another study, voxel by voxel, by the inverse of the variances:

other = np.array(list(simulate_maps(grid, 0 * truth, 24, fwhm_mm=8.0, seed=99)))
half = np.repeat([1.0, 0.0], 12)
second = fit(
    Maps(np.asfortranarray((other + np.outer(half, truth)).T, dtype=np.float32), grid),
    Design(pd.DataFrame({"patients": half, "controls": 1 - half})),
).contrast("patients - controls")
weights = 1 / np.array([variance, second.hedges_g_variance])
pooled = np.average([g, second.hedges_g], axis=0, weights=weights)
error = np.sqrt(1 / weights.sum(axis=0))
print(f"standard error in a voxel: {np.sqrt(variance).mean():.2f} alone, {error.mean():.2f} pooled")

# %%
# Where in the cluster
# --------------------
#
# All-resolutions inference bounds the share of active voxels of every cluster at every threshold
# at once, with 95% confidence: one may look at all of these and choose.

z_map = unmask(difference.z, grid)
thresholds = [2.5, 3.5, 4.5]
figure, axes = plt.subplots(len(thresholds), 1, figsize=(7, 7))
for threshold, one in zip(thresholds, axes, strict=True):
    share = cluster_level_inference(z_map, mask, threshold=threshold, alpha=0.05)
    plot_stat_map(
        share,
        axes=one,
        display_mode="z",
        cut_coords=[40, 52, 60],
        vmin=0,
        vmax=1,
        cmap="viridis",
        title=f"z > {threshold}",
    )
