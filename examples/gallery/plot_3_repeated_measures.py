"""
Repeated measures: exchangeability blocks
=========================================

Maps of the same people before, during and after a treatment. Measurements of one person are
more alike than those of two, so that only those of one person may be exchanged.
"""

# %%
# The study
# ---------
#
# 14 people with three visits each. Every person has a map of their own, which would drown a small
# effect, and a region that rises from visit to visit.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from nilearn.datasets import load_mni152_brain_mask
from nilearn.plotting import plot_stat_map

from gpustats import ClusterMass, Design, Maps, Voxelwise, fit, permutation_test
from gpustats.images import read_mask, unmask
from gpustats.simulation import Blob, effect_map, simulate_maps

grid = read_mask(load_mni152_brain_mask(resolution=4))
n_people, n_visits = 14, 3
person = np.repeat(np.arange(n_people), n_visits)
visit = np.tile(np.arange(n_visits), n_people)

rise = effect_map(grid, [Blob((36.0, 20.0, 0.0), 14.0, 1.0)])
own = 2 * np.array(list(simulate_maps(grid, 0 * rise, n_people, fwhm_mm=12.0, seed=1)))
noise = np.array(list(simulate_maps(grid, 0 * rise, person.size, fwhm_mm=8.0, seed=2)))
values = own[person] + noise + np.outer(visit - 1, rise)
maps = Maps(np.asfortranarray(values.T, dtype=np.float32), grid)

# %%
# The design
# ----------
#
# A column of ones for each person takes out what is theirs; ``visit`` is the slope over visits.

table = pd.DataFrame(
    {f"person{number:02d}": 1.0 * (person == number) for number in range(n_people)}
)
table["visit"] = visit - 1.0
design = Design(table)

# %%
# The test
# --------
#
# ``blocks`` names the person of each map; ``block_exchange="within"`` shuffles visits inside a
# person and never between people. Clusters are formed at p = 0.001.

result = permutation_test(
    maps,
    design,
    "visit",
    statistics=[ClusterMass(connectivity=26, threshold_p=0.001), Voxelwise()],
    n_permutations=1000,
    blocks=person,
    block_exchange="within",
)
print(result.settings["shuffles"]["visit"])
mass = result["cluster_mass"]
p = mass.p_corrected[mass.observed != 0]
print(f"smallest corrected p of a cluster: {p.min():.3f}")

# %%
# With the people left in
# -----------------------
#
# Without the columns of the people their differences are noise: the slope is the same, its error
# is not. (And shuffling visits of different people would be wrong: they are not exchangeable.)

t_within = result.maps["visit"].statistic
without_people = Design(table[["visit"]], intercept=True)
t_unpaired = fit(maps, without_people).contrast("visit").statistic

figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
axes.plot(t_unpaired[rise == 0][::20], t_within[rise == 0][::20], ".", color="0.7", label="noise")
axes.plot(t_unpaired[rise > 0], t_within[rise > 0], ".", color="#D55E00", label="rises")
axes.axline((0, 0), slope=1, color="0.4", lw=1)
axes.set(xlabel="t, people ignored", ylabel="t, people taken out")
axes.legend()

# %%
# The clusters that survive
# -------------------------

surviving = np.where(mass.p_corrected <= 0.05, t_within, 0)
plot_stat_map(
    unmask(surviving, grid), cut_coords=(36, 20, 0), draw_cross=False, symmetric_cbar=True
)
print(f"found in the region that rises: {np.mean(surviving[rise > 0] != 0):.0%}")
