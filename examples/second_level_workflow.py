# %% [markdown]
# # From first-level models to a group report
#
# Scripts written for nistats or nilearn run with nothing but their imports changed. This one
# fits a first-level model to eight subjects with nilearn, pickles the models as a study would,
# and does the second level here.
#
#     python examples/second_level_workflow.py FOLDER [OUTPUT]
#
# FOLDER holds `sub-<n>_bold.nii.gz` and `sub-<n>_events.csv` of every subject, `mask.nii.gz`,
# and `meta.json` with the repetition time `tr`.

# %%
import json
import pickle
import sys
from pathlib import Path

import pandas as pd
from nilearn.glm.first_level import FirstLevelModel

from gpustats import SecondLevelModel, get_clusters_table, make_glm_report, map_threshold, view_img

folder = Path(sys.argv[1])
output = Path(sys.argv[2]) if len(sys.argv) > 2 else Path()

# %% [markdown]
# ## First level, in nilearn

# %%
repetition_time = json.loads((folder / "meta.json").read_text())["tr"]
models = []
for bold in sorted(folder.glob("sub-*_bold.nii.gz")):
    subject = bold.name.split("_")[0]
    model = FirstLevelModel(
        t_r=repetition_time,
        mask_img=folder / "mask.nii.gz",
        noise_model="ols",
        subject_label=subject,
        standardize=False,
    )
    models.append(model.fit(bold, pd.read_csv(folder / f"{subject}_events.csv")))

with (output / "first_level_models.p").open("wb") as file:
    pickle.dump(models, file)

# %% [markdown]
# ## Second level, here

# %%
with (output / "first_level_models.p").open("rb") as file:
    glms = pickle.load(file)

second_level = SecondLevelModel()
second_level.fit(glms)
z_map = second_level.compute_contrast(
    first_level_contrast="Finger", second_level_stat_type="t", output_type="z_score"
)
view_img(z_map).save_as_html(output / "z_map.html")

# %%
thresh_img, thresh = map_threshold(z_map, threshold=1.96, height_control=None)
view_img(thresh_img).save_as_html(output / "thresholded.html")

# %%
results = get_clusters_table(z_map, stat_threshold=1.96, cluster_threshold=10)
results.to_csv(output / "clusters.csv", index=False)
print(results)

# %%
make_glm_report(
    second_level,
    contrasts="intercept",
    first_level_contrast="Finger",
    threshold=1.96,
    height_control=None,
).save_as_html(output / "report.html")
