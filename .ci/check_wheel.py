"""Check an installed wheel, outside of any checkout and without the optional packages."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import numpy as np

import gpustats
from gpustats import images
from gpustats.simulation import Blob, effect_map, simulate_maps
from gpustats.sources import source

installed = Path(gpustats.__file__).parent
assert "site-packages" in installed.parts, f"not the installed package: {installed}"
for optional in ("nilearn", "matplotlib", "jinja2", "cupy"):
    assert importlib.util.find_spec(optional) is None, f"{optional} came with the plain wheel"
assert "tfce_sweep" in source("tfce"), "the kernels did not come with the wheel"
for packaged in ("kernels/README.md", "templates/viewer.js", "py.typed"):
    assert files("gpustats").joinpath(packaged).is_file(), f"not in the wheel: {packaged}"

grid = gpustats.Grid(np.ones((12, 12, 12), bool), np.diag([4.0, 4.0, 4.0, 1.0]))
effect = effect_map(grid, [Blob((24.0, 24.0, 24.0), 10.0, 3.0)])
with tempfile.TemporaryDirectory() as folder:
    paths = []
    for number, values in enumerate(simulate_maps(grid, effect, 10, fwhm_mm=6, seed=0)):
        paths.append(Path(folder, f"sub-{number:02d}_con.nii.gz"))
        images.save_image(images.unmask(values, grid), paths[-1])
    command = [Path(sys.executable).with_name("gpustats"), "fit", *paths]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert "no report.html" in done.stderr, done.stderr
    summary = json.loads(Path(folder, "gpustats-results", "result.json").read_text())
    assert summary["contrasts"][0]["n_clusters"] >= 1, summary
    version = summary["versions"]["gpustats"]
assert version == gpustats.__version__
print(f"wheel of gpustats {version}: fits without the optional packages")
