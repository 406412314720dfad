"""What the interactive viewer of a report is given: a background, and the values of every voxel.

The slices are drawn by brainsprite, the viewer that nilearn ships; our own script paints the map
that brainsprite lays over the background, so that a threshold can be moved, and reads values from
the arrays that are packed here. NiiVue, which nilearn ships too, needs WebGL 2, without which it
shows nothing, and 2.3 MB a page; brainsprite needs a canvas and 12 kB.
"""

from __future__ import annotations

import gzip
from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpustats import images
from gpustats.findings import ADJECTIVES, Finding
from gpustats.pictures import Brain, View, quiet, require_nilearn
from gpustats.significance import log10_p
from gpustats.spaces import Grid

BRAINSPRITE = "brainsprite.min.js"

TEMPLATE_STEP_MM = 2
MOST_STEPS = 120
"""Voxels along the longest side of a background other than the template."""

DARKEST, LIGHTEST, NOTHING = 55.0, 235.0, 255
"""Greys of a background, and of where there is none: dark colours of a map stand out from them."""
OF_THE_MASK = 215

KEPT_BITS = 13
"""Of the 23 bits after the point of a float32: four digits are right, and the page is small."""
KEPT_BITS_OF_Z = 21
"""p, which is read off z, needs more of them: three of its digits are right up to z = 30."""
ALL_BITS = 23

UNCORRECTED = "p (uncorrected, upper tail)"
STEPS_OF_Z = 64
"""In how many steps between whole numbers of z the script is told p."""


@dataclass(frozen=True, eq=False)
class Backdrop:
    """Hold what slices are laid over: an upright grid of cubes.

    Parameters
    ----------
    grey
        ``(nx, ny, nz)`` uint8.
    step_mm
        Length of a cube's side.
    origin_mm
        Centre of the first one, ``(3,)``.
    """

    grey: NDArray[np.uint8]
    step_mm: float
    origin_mm: NDArray[np.float64]

    def described(self) -> dict[str, Any]:
        """Return what the script is told of it."""
        return {
            "shape": list(self.grey.shape),
            "step": self.step_mm,
            "origin": self.origin_mm.tolist(),
            "columns": self.n_columns,
        }

    @property
    def n_columns(self) -> int:
        """Number of sagittal slices side by side in the picture."""
        return int(np.ceil(np.sqrt(self.grey.shape[0])))

    def sprite(self) -> str:
        """Return all sagittal slices as one PNG in a data URI, as brainsprite wants them."""
        n_x, n_y, n_z = self.grey.shape
        n_rows = -(-n_x // self.n_columns)
        slices = np.full((n_rows * self.n_columns, n_z, n_y), NOTHING, np.uint8)
        slices[:n_x] = self.grey.transpose(0, 2, 1)[:, ::-1]
        tiles = slices.reshape(n_rows, self.n_columns, n_z, n_y).transpose(0, 2, 1, 3)
        grey = tiles.reshape(n_rows * n_z, self.n_columns * n_y)
        buffer = BytesIO()
        require_nilearn().pillow.fromarray(grey).save(buffer, format="png", optimize=True)
        return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def backdrop(grid: Grid, view: View) -> Backdrop:
    """Return what the slices of a grid are laid over: the template, an image, or the mask."""
    if view.on_template and view.fits(grid):
        datasets = require_nilearn().datasets
        with quiet():
            volume, affine = images.read_map(datasets.load_mni152_template(TEMPLATE_STEP_MM))
            brain, _ = images.read_map(datasets.load_mni152_brain_mask(TEMPLATE_STEP_MM))
        return Backdrop(_greys(volume, brain > 0), TEMPLATE_STEP_MM, affine[:3, 3])
    field, step = _upright(grid)
    if view.on_template or view.bg_img is None:
        inside = images.resample(grid.mask.astype(np.float32), grid.affine, field) > 0.5
        grey = np.where(inside, OF_THE_MASK, NOTHING).astype(np.uint8)
    else:
        volume, affine = images.read_map(view.bg_img)
        moved = images.resample(volume.astype(np.float32), affine, field)
        grey = _greys(moved, np.isfinite(moved) & (moved != 0))
    return Backdrop(grey, step, field.affine[:3, 3])


def _upright(grid: Grid) -> tuple[Grid, float]:
    """Return cubes along the axes of space that hold a mask and a margin, and their side in mm."""
    places = grid.to_mm(np.argwhere(grid.mask))
    low, high = places.min(axis=0), places.max(axis=0)
    margin = grid.voxel_sizes_mm.max()
    step = max(float(grid.voxel_sizes_mm.min()), float((high - low).max()) / MOST_STEPS)
    shape = np.ceil((high - low + 2 * margin) / step).astype(int) + 1
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = low - margin
    return Grid(np.ones(shape, dtype=bool), affine), step


def _greys(volume: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Turn the values of a background into greys, nearly all of them within the scale."""
    grey = np.full(volume.shape, NOTHING, np.uint8)
    if inside.any():
        low, high = np.percentile(volume[inside], [1, 99])
        share = np.clip((volume[inside] - low) / max(high - low, 1e-30), 0, 1)
        grey[inside] = np.round(DARKEST + share * (LIGHTEST - DARKEST))
    return grey


def voxel_maps(finding: Finding) -> dict[str, NDArray[np.float64]]:
    """Return the maps that are read at a voxel, by what they are called; p as -log10 p."""
    found = {
        finding.statistic: finding.values(f"stat-{finding.statistic}"),
        "z": finding.z,
        "effect": None if finding.statistic == "F" else finding.values("stat-effect"),
    }
    for test in finding.of_voxels:
        label = test["statistic"].replace("_", "")
        p = finding.values(f"stat-p_desc-{label}fwe")
        name = ADJECTIVES.get(test["statistic"], test["statistic"])
        found[f"p ({name} corrected)"] = None if p is None else -np.log10(p)
    found["maps"] = finding.values("stat-n")
    found["degrees of freedom"] = finding.values("stat-df")
    return {name: values for name, values in found.items() if values is not None}


def explored(finding: Finding) -> dict[str, Any]:
    """Return what the script is told of a contrast."""
    grid, survives = finding.grid, finding.n_surviving > 0
    size = np.abs(finding.z) if finding.two_sided else finding.z
    sizes = size[finding.shown != 0]
    maps = [
        {
            "name": name,
            "values": packed(values, KEPT_BITS_OF_Z if name == "z" else KEPT_BITS),
            "logarithmic": name.startswith("p "),
        }
        for name, values in voxel_maps(finding).items()
    ]
    return {
        "shape": list(grid.mask.shape),
        "affine": grid.affine.tolist(),
        "inverse": np.linalg.inv(grid.affine).tolist(),
        "mask": _compressed(grid.mask.astype(np.uint8)),
        "labels": packed(finding.labels, ALL_BITS),
        "maps": maps,
        "uncorrected": {"name": UNCORRECTED, **_p_of_z(finding.z)},
        "twoSided": finding.two_sided,
        "survives": survives,
        # the smallest one that is shown must not fall below it
        "threshold": float(np.floor(sizes.min() * 100) / 100) if sizes.size else 0.0,
        "limit": max(float(np.ceil(size.max() * 100) / 100), 0.01),
        "colours": b64encode(_colours(finding)).decode(),
        "start": list(finding.peak["mm"]),
    }


def _p_of_z(z: NDArray[np.float64]) -> dict[str, Any]:
    """Return -log10 p over the range of z, in steps small enough to be interpolated."""
    first, last = np.floor(z.min() * STEPS_OF_Z), np.ceil(z.max() * STEPS_OF_Z)
    steps = np.arange(first, last + 1) / STEPS_OF_Z
    return {"first": first, "steps": STEPS_OF_Z, "values": packed(log10_p(steps), ALL_BITS)}


def _colours(finding: Finding) -> bytes:
    """Return the scale of colours, from the smallest value to the largest, 256 times RGB."""
    name = Brain(finding.z, finding.grid, finding.two_sided).cmap
    scale = require_nilearn().matplotlib.colormaps[name](np.arange(256), bytes=True)
    return np.asarray(scale)[:, :3].tobytes()


def packed(values: NDArray[Any], kept_bits: int = KEPT_BITS) -> str:
    """Write voxels as float32 for the script: rounded, byte planes apart, gzip, base64.

    Parameters
    ----------
    values
        ``(n_voxels,)``.
    kept_bits
        How many of the 23 bits after the point are kept, to the nearest.
    """
    bits = np.asarray(values, dtype="<f4").view("<u4")
    dropped = ALL_BITS - kept_bits
    if dropped:
        half = np.uint32(1 << (dropped - 1))
        bits = (bits + half) & np.uint32((0xFFFFFFFF << dropped) & 0xFFFFFFFF)
    # bytes of one weight resemble each other, so that they compress better side by side
    planes = np.ascontiguousarray(bits.astype("<u4").view(np.uint8).reshape(-1, 4).T)
    return _compressed(planes)


def _compressed(array: NDArray[np.uint8]) -> str:
    """Compress bytes into text; the same bytes give the same text."""
    return b64encode(gzip.compress(array.tobytes(), 6, mtime=0)).decode()


def brainsprite() -> str:
    """Read the script of brainsprite out of the installed nilearn.

    Raises
    ------
    ImportError
        If this nilearn has none.
    """
    nilearn = Path(require_nilearn().plotting.__file__).parents[1]
    for path in sorted(nilearn.rglob(BRAINSPRITE)):
        return path.read_text(encoding="utf-8")
    raise ImportError(
        f"this nilearn has no {BRAINSPRITE}, which shows brains in reports; "
        "pip install -U 'gpustats[report]'"
    )
