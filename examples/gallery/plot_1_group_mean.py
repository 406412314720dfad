"""
One group: clusters and a report
================================

Where does a group of 20 subjects respond? A one-sample test, thresholded at a false discovery
rate of 5%, with the table of clusters and the report.
"""

# %%
# The group
# ---------
#
# Maps of 20 subjects on the MNI brain at 4 mm: smooth noise of unit variance, and five regions
# that respond. The number behind each is its true effect in standard deviations.

import matplotlib.pyplot as plt
import numpy as np
from nilearn.datasets import load_mni152_brain_mask
from nilearn.plotting import plot_glass_brain, plot_stat_map

from gpustats import SecondLevelModel, get_clusters_table, make_glm_report, map_threshold
from gpustats.images import read_mask, unmask
from gpustats.simulation import Blob, effect_map, simulate_maps

mask = load_mni152_brain_mask(resolution=4)
grid = read_mask(mask)
truth = effect_map(
    grid,
    [
        Blob((-40.0, -24.0, 56.0), 14.0, 1.5),
        Blob((40.0, -24.0, 56.0), 12.0, 1.2),
        Blob((0.0, 4.0, 54.0), 12.0, 1.2),
        Blob((-30.0, -78.0, -8.0), 14.0, 1.2),
        Blob((0.0, -52.0, 28.0), 14.0, -1.2),
    ],
)
subjects = [unmask(values, grid) for values in simulate_maps(grid, truth, 20, fwhm_mm=8.0, seed=0)]

# %%
# The model
# ---------
#
# Without a design the model is the group mean. z has no cap, and its p are one-sided.

model = SecondLevelModel(mask).fit(subjects)
z_map = model.compute_contrast(output_type="z_score")

# %%
# What survives
# -------------
#
# Both tails count; clusters of fewer than ten voxels are left out.

thresholded, height = map_threshold(
    z_map, mask, alpha=0.05, height_control="fdr", cluster_threshold=10
)
print(f"|z| >= {height:.2f}")

figure, (above, below) = plt.subplots(2, 1, figsize=(8, 6))
plot_glass_brain(
    thresholded, axes=above, threshold=height, plot_abs=False, colorbar=True, title="z, FDR 5%"
)
plot_stat_map(thresholded, axes=below, display_mode="z", cut_coords=[-8, 28, 54], threshold=height)

# %%
# The table
# ---------
#
# The ID of a cluster is its value in the label map; negative clusters have negative IDs. The
# last column is the share of active voxels of a cluster, at least, by all-resolutions inference:
# it is made of the whole z map, not of the thresholded one.

table = get_clusters_table(
    z_map,
    stat_threshold=height,
    cluster_threshold=10,
    two_sided=True,
    true_discovery_alpha=0.05,
)
table[table["Cluster Size (mm3)"] != ""].round(2)

# %%
# Was it true? At most about 5% of the voxels found should not respond; fewer, as small clusters are
# left out.

found = thresholded.get_fdata()[grid.mask] != 0
print(f"{np.mean(truth[found] == 0):.1%} of the voxels found are false")
print(f"{np.mean(found[truth != 0]):.0%} of the voxels that respond are found")

# %%
# The report
# ----------
#
# One HTML file for colleagues and supplements; it needs no network.

report = make_glm_report(
    model, alpha=0.05, height_control="fdr", two_sided=True, cluster_threshold=10
)
report.resize(740, 700)
