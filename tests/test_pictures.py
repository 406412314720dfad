import warnings

import matplotlib as mpl
import nibabel as nib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from pages import AFFINE, has_red, pixels
from simulate import ellipsoid

from gpustats import pictures, plots
from gpustats.report import view_img
from gpustats.spaces import Grid


@pytest.fixture(scope="module")
def brain():
    grid = Grid(ellipsoid((12, 13, 11)), AFFINE)
    values = np.random.default_rng(3).normal(0, 2, grid.n_voxels)
    return pictures.Brain(np.where(np.abs(values) > 3, values, 0), grid, two_sided=True)


def rotated(angle):
    cosine, sine = 6 * np.cos(angle), 6 * np.sin(angle)
    affine = AFFINE.copy()
    affine[:2, :2] = [[cosine, -sine], [sine, cosine]]
    return affine


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((12, 13, 11), AFFINE @ np.diag([-1, 1, 1, 1])),
        ((12, 13, 11), AFFINE[[1, 2, 0, 3]]),
        ((12, 13, 11), rotated(0.3)),
        ((12, 13, 1), AFFINE),
        ((5, 6, 7), np.eye(4)),
        ((5, 6, 7), AFFINE + np.outer([1000, 0, 0, 0], [0, 0, 0, 1])),
    ],
    ids=["left-handed", "axes swapped", "rotated", "one slice", "unit", "outside"],
)
def test_odd_grids_are_drawn(rng, shape, affine):
    grid = Grid(np.ones(shape, bool), affine)
    values = np.where(rng.random(grid.n_voxels) < 0.5, rng.uniform(3, 6, grid.n_voxels), 0)
    brain = pictures.Brain(values, grid, two_sided=False)
    view = pictures.View()
    assert has_red(pictures.slices(brain, view))
    assert pixels(pictures.glass_brain(brain, view)).size
    assert view.fits(grid) == (affine[0, 3] < 500)


@pytest.mark.parametrize("kind", ["none", "false", "image", "path"])
def test_backgrounds(brain, kind, tmp_path):
    anatomy = nib.Nifti1Image(np.pad(np.full((8, 9, 7), 90.0), 2), AFFINE)
    nib.save(anatomy, tmp_path / "anatomy.nii.gz")
    background = {
        "none": None,
        "false": False,
        "image": anatomy,
        "path": tmp_path / "anatomy.nii.gz",
    }[kind]
    view = pictures.View(background, display_mode="tiled")
    picture = pixels(pictures.slices(brain, view))
    # a dark anatomy makes a dark picture, so that its labels can be read
    assert (picture[-1, -1] == 0).all() == (kind in ("image", "path"))


@pytest.mark.parametrize(
    ("plot_type", "display_mode", "cut_coords", "panels"),
    [
        ("slice", None, None, 7),
        ("slice", "z", 3, 3),
        ("slice", "x", [0, 6], 2),
        ("slice", "ortho", (0, 0, 6), 3),
        ("slice", "xz", None, 2),
        ("slice", "mosaic", None, None),
        ("glass", "lzry", None, 4),
        ("glass", "ortho", None, 3),
    ],
)
def test_directions_and_cuts(brain, plot_type, display_mode, cut_coords, panels):
    view = pictures.View("MNI152", plot_type, cut_coords, display_mode)
    draw = {"slice": pictures.slices, "glass": pictures.glass_brain}[plot_type]
    picture = draw(brain, view)
    assert has_red(picture)
    if panels is not None:
        inches = {"slice": 1.7, "glass": 2.7}[plot_type] * panels + 0.6
        assert pixels(picture).shape[1] == pytest.approx(150 * inches, abs=1)


@pytest.mark.parametrize("two_sided", [True, False])
def test_colours_span_the_values(two_sided):
    """The smallest value is drawn too, though nilearn hides what equals its threshold."""
    volume = np.zeros((12, 13, 11))
    volume[2:5, 5:8, 4:7], volume[7:10, 5:8, 4:7] = 3.0, 6.0
    grid = Grid(np.ones(volume.shape, bool), AFFINE)
    brain = pictures.Brain(volume[grid.mask], grid, two_sided)
    lowest = -6.0 if two_sided else 0.0
    cmap = mpl.colormaps[brain.cmap]
    for draw in (pictures.slices, pictures.glass_brain):
        image = pixels(draw(brain, pictures.View(display_mode="ortho", cut_coords=(0, 0, 10))))
        for value in (3.0, 6.0):
            colour = np.array(cmap((value - lowest) / (6 - lowest))[:3])
            assert (np.abs(image - colour).max(axis=-1) < 0.02).sum() > 50


def test_figures_settings_and_backend_of_the_user_are_left_alone(brain):
    with mpl.rc_context({"text.usetex": True, "savefig.dpi": 17, "font.size": 40}):
        figure = plt.figure()
        before = mpl.get_backend(), plt.get_fignums(), dict(mpl.rcParams)
        for draw in (pictures.slices, pictures.glass_brain):
            draw(brain, pictures.View())
        plots.design_picture(["a_b"], np.ones((9, 1)), [("a", np.ones((1, 1)))])
        plots.null_picture(plots.NullDistribution("t", np.arange(9.0), 8.0, None, 0.05))
        assert (mpl.get_backend(), plt.get_fignums(), dict(mpl.rcParams)) == before
        plt.close(figure)


def test_view_img_is_nilearns(brain):
    view = view_img(brain.image, title="mine", width_view=300)
    assert type(view).__name__ == "StatMapView"
    assert "mine" in view.html
    assert view.width == 300


@pytest.mark.parametrize("bg_img", ["MNI152", None])
def test_view_img_shows_an_empty_map(bg_img):
    empty = nib.Nifti1Image(np.zeros((5, 6, 7), np.float32), AFFINE)
    assert "canvas" in view_img(empty, bg_img).html


def test_view_img_warns_of_what_the_user_can_mend(brain):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        view_img(brain.image, threshold=99)
    assert any("threshold=99" in str(warning.message) for warning in caught)
