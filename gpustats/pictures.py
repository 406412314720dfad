"""Brains as a report shows them, drawn by nilearn, and nilearn's own interactive viewer.

nilearn, matplotlib and jinja2 are imported by the functions that draw, so that everything else
works without them. Pictures are drawn on figures that pyplot never hears of: neither the user's
backend nor their open figures change.
"""

from __future__ import annotations

import warnings
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpustats import images
from gpustats.spaces import Grid

PlotType: TypeAlias = Literal["slice", "glass"]

TEMPLATES = ("MNI152TEMPLATE", "MNI152")
TEMPLATE_BOX_MM = ((-98, -134, -72), (98, 98, 116))
"""Field of view of nilearn's template: its lowest and highest x, y and z."""

N_SLICES = 7
N_PLANES = {"ortho": 3}
"""How many views a display mode has, where that is not the number of its letters."""

HIDES_ZERO = 1e-6
"""The threshold, nilearn's own default, that hides voxels of value 0 only."""

DOTS_PER_INCH = 150

HARMLESS = (
    "Warning: 'partition' will ignore the 'mask'",  # nilearn, on its own masked template
    "Given img is empty",  # an empty map is drawn as an empty map
    "The given float value must not exceed 0",  # the same, from nilearn's threshold of 1e-6
    "empty mask",  # the same, from the search for slices
    "Resampling binary images with continuous",  # an empty map looks binary
    "Too many cuts requested",  # a grid of few slices shows them all
    "A non-diagonal affine is found",  # nilearn reorders the axes itself
    "Glyph .* missing from font",  # a column's name in a script that matplotlib's font lacks
)
"""Warnings, as regular expressions, about which the reader of a report can do nothing."""


class Libraries(NamedTuple):
    """The packages that reports need and the rest of gpustats does not."""

    jinja2: Any
    matplotlib: Any
    plotting: Any
    datasets: Any
    pillow: Any


def require_nilearn() -> Libraries:
    """Import what reports need.

    Raises
    ------
    ImportError
        If one of the packages is missing; the message says how to get them.
    """
    try:
        import jinja2
        import matplotlib.figure
        import matplotlib.style
        from nilearn import datasets, plotting
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "reports need nilearn, matplotlib and jinja2: pip install 'gpustats[report]'"
        ) from error
    return Libraries(jinja2, matplotlib, plotting, datasets, Image)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what is listed as harmless, and what nilearn is told about its use of matplotlib."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", category)
        for message in HARMLESS:
            warnings.filterwarnings("ignore", message, UserWarning)
        yield


@contextmanager
def drawing() -> Iterator[Libraries]:
    """Draw with matplotlib's own settings, whatever the user's are, and without noise."""
    found = require_nilearn()
    with quiet(), found.matplotlib.style.context("default"):
        yield found


@dataclass(frozen=True, eq=False)
class View:
    """Say how brains are drawn; the parameters are those of `gpustats.report.make_glm_report`.

    Raises
    ------
    ValueError
        If ``plot_type`` is unknown, or ``bg_img`` is not an image.
    FileNotFoundError
        If ``bg_img`` is a path and no file is there.
    """

    bg_img: Any = TEMPLATES[0]
    plot_type: PlotType = "slice"
    cut_coords: Any = None
    display_mode: str | None = None

    def __post_init__(self) -> None:
        if self.plot_type not in ("slice", "glass"):
            raise ValueError(f"plot_type must be 'slice' or 'glass', got {self.plot_type!r}")
        if self.bg_img is False:
            object.__setattr__(self, "bg_img", None)
        if self.bg_img is not None and not self.on_template:
            image = images.open_image(self.bg_img, "bg_img").image
            object.__setattr__(self, "bg_img", image)

    @property
    def on_template(self) -> bool:
        """Whether the background is nilearn's template."""
        return isinstance(self.bg_img, str) and self.bg_img in TEMPLATES

    def holds(self, places: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell which places ``(n, 3)``, in mm, nilearn's template shows."""
        low, high = TEMPLATE_BOX_MM
        return np.asarray(((places >= low) & (places <= high)).all(axis=1))

    def fits(self, grid: Grid) -> bool:
        """Tell whether some voxel of the grid lies on the background, as far as that is known."""
        return not self.on_template or bool(self.holds(grid.to_mm(np.argwhere(grid.mask))).any())

    def background(self, grid: Grid) -> dict[str, Any]:
        """Return the arguments that tell nilearn's functions the background of a grid."""
        if not self.fits(grid):
            return {"bg_img": None}
        return {} if self.on_template else {"bg_img": self.bg_img}

    @property
    def slice_mode(self) -> str:
        """Directions of the slices, for `nilearn.plotting.plot_stat_map`."""
        return (self.display_mode if self.plot_type == "slice" else None) or "z"

    @property
    def glass_mode(self) -> str:
        """Directions of the glass brain, for `nilearn.plotting.plot_glass_brain`."""
        return (self.display_mode if self.plot_type == "glass" else None) or "lyrz"

    @property
    def n_slices(self) -> int:
        """Number of slices side by side."""
        if len(self.slice_mode) > 1:
            return N_PLANES.get(self.slice_mode, len(self.slice_mode))
        if self.cut_coords is None:
            return N_SLICES
        return int(self.cut_coords) if np.ndim(self.cut_coords) == 0 else len(self.cut_coords)

    @property
    def slices_size(self) -> tuple[float, float]:
        """Width and height of the slices, in inches."""
        if self.slice_mode in ("tiled", "mosaic"):
            return 9.0, 6.5
        return 1.7 * self.n_slices + 0.6, 2.1

    @property
    def glass_size(self) -> tuple[float, float]:
        """Width and height of the glass brain, in inches."""
        return 2.7 * N_PLANES.get(self.glass_mode, len(self.glass_mode)) + 0.6, 2.5


@dataclass(frozen=True, eq=False)
class Brain:
    """Hold a map to draw.

    Parameters
    ----------
    values
        ``(n_voxels,)``, 0 where nothing is to be seen.
    grid
        The voxels that were tested.
    two_sided
        Whether both signs count: the scale of colours is then diverging and symmetric, else it
        starts at 0. The colour-blind can read both.
    """

    values: NDArray[np.float64]
    grid: Grid
    two_sided: bool

    @cached_property
    def image(self) -> Any:
        """The map as a NIfTI image."""
        return images.unmask(self.values.astype(np.float32), self.grid)

    @cached_property
    def threshold(self) -> float:
        """The threshold for nilearn, which hides values that are equal to it."""
        sizes = np.abs(self.values[self.values != 0])
        return max(0.999 * float(sizes.min()), HIDES_ZERO) if sizes.size else HIDES_ZERO

    @property
    def peak_mm(self) -> NDArray[np.float64]:
        """Place of the largest value of either sign, ``(3,)``."""
        return self.grid.to_mm(np.argwhere(self.grid.mask)[np.abs(self.values).argmax()])

    @property
    def cmap(self) -> str:
        """Name of the colours."""
        return "RdBu_r" if self.two_sided else "Reds"

    @property
    def colours(self) -> dict[str, Any]:
        """Arguments of nilearn's static pictures."""
        if self.two_sided:
            return {"cmap": self.cmap, "symmetric_cbar": True}
        return {"cmap": self.cmap, "symmetric_cbar": False, "vmin": 0}


def slices(brain: Brain, view: View) -> str:
    """Draw a map as slices on the background; a PNG as data URI."""
    with drawing() as library:
        figure = library.matplotlib.figure.Figure(view.slices_size)
        display = library.plotting.plot_stat_map(
            brain.image,
            figure=figure,
            display_mode=view.slice_mode,
            cut_coords=view.cut_coords,
            threshold=brain.threshold,
            draw_cross=False,
            **brain.colours,
            **view.background(brain.grid),
        )
        if display.black_bg:
            figure.set_facecolor("black")
        return data_uri(figure)


def glass_brain(brain: Brain, view: View) -> str:
    """Draw a map as projections through a glass brain; a PNG as data URI."""
    with drawing() as library:
        figure = library.matplotlib.figure.Figure(view.glass_size)
        library.plotting.plot_glass_brain(
            brain.image,
            figure=figure,
            display_mode=view.glass_mode,
            threshold=brain.threshold,
            colorbar=True,
            plot_abs=False,
            **brain.colours,
        )
        return data_uri(figure)


def view_img(stat_map_img: Any, bg_img: Any = "MNI152", **kwargs: Any) -> Any:
    """Look at a map interactively, with nilearn's viewer as it is.

    Parameters
    ----------
    stat_map_img
        A 3D map; path or image. It may be empty.
    bg_img
        The background; path, image, ``"MNI152"`` or None.
    **kwargs
        All else that ``nilearn.plotting.view_img`` takes. Its ``threshold`` is on the size of the
        values, and its default of 1e-6 hides only voxels that are 0: thresholded maps are shown
        as they are, unthresholded ones hide the background. None hides nothing, 0 included.

    Returns
    -------
    nilearn.plotting.html_stat_map.StatMapView
        With ``save_as_html(path)`` and ``open_in_browser()``; notebooks show it.

    Raises
    ------
    ImportError
        If nilearn or matplotlib is missing; the message says how to get them.
    """
    with quiet():
        return require_nilearn().plotting.view_img(stat_map_img, bg_img=bg_img, **kwargs)


def data_uri(figure: Any, kind: Literal["png", "svg"] = "png") -> str:
    """Return a figure in a data URI."""
    buffer = BytesIO()
    # a picture drawn twice is the same to the last byte
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    media = {"png": "image/png", "svg": "image/svg+xml"}[kind]
    return f"data:{media};base64,{b64encode(buffer.getvalue()).decode()}"
