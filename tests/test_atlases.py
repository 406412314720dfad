"""Names of places: atlases read from files of several kinds, and looked up on another grid."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import map_coordinates
from simulate import AFFINE, ellipsoid

from gpustats.atlases import Atlas, load_atlas
from gpustats.spaces import Grid

LABELS = {1: "Insula", 2: "Left Thalamus", 7: "Vermis"}
XML = """<?xml version="1.0"?><atlas><header><type>{kind}</type></header><data>
<label index="{one}" x="1" y="2" z="3">Insula</label><label index="{two}">Left Thalamus</label>
<label index="{seven}">Vermis</label></data></atlas>"""


@pytest.fixture
def volume(rng):
    return rng.choice([0, 1, 2, 7], (8, 9, 7)).astype(np.int16)


@pytest.fixture
def image(tmp_path, volume):
    path = tmp_path / "regions.nii.gz"
    nib.save(nib.Nifti1Image(volume, AFFINE), path)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dseg.tsv", "index\tname\tcolor\n1\tInsula\tred\n2\tLeft Thalamus\t\n7\tVermis\t\n"),
        ("table.csv", "Label,Value\nInsula,1\nLeft Thalamus,2\n Vermis ,7\n"),
        ("fsl.xml", XML.format(kind="Probabalistic", one=0, two=1, seven=6)),
        ("fsl.xml", XML.format(kind="Label", one=1, two=2, seven=7)),
    ],
)
def test_tables_of_each_kind_are_read(tmp_path, image, volume, name, text):
    (tmp_path / name).write_text(text)
    atlas = load_atlas(str(image), tmp_path / name)
    assert atlas.name == "regions"
    assert atlas.names == LABELS
    np.testing.assert_array_equal(atlas.labels, volume)


def test_lookup_tables_of_freesurfer_are_read(tmp_path, image):
    (tmp_path / "lut.txt").write_text("# No. Name R G B A\n\n1 Insula 1 2 3 0\n7 Vermis 1 1 1 0\n")
    atlas = load_atlas(image, tmp_path / "lut.txt", name="aseg")
    assert [atlas.name_of(n) for n in (0, 1, 2, 7)] == ["", "Insula", "label 2", "Vermis"]
    assert atlas.name == "aseg"


def test_the_nearest_voxel_gives_the_region(volume):
    turned = np.array([[0, -2.5, 0, 10], [2.5, 0, 0.1, -18], [0, 0, 3.1, 9], [0, 0, 0, 1.0]])
    grid = Grid(ellipsoid(), AFFINE)
    found = Atlas("a", volume.astype(np.int64), turned, {}).at(grid)
    places = grid.to_mm(np.argwhere(grid.mask))
    inside = np.linalg.inv(turned) @ np.column_stack([places, np.ones(len(places))]).T
    expected = map_coordinates(volume, inside[:3], order=0, mode="grid-constant", cval=0)
    np.testing.assert_array_equal(found, expected)
    assert 0 < np.count_nonzero(found) < found.size


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.tsv", "number\tcolor\n1\tred\n", "needs a column .* it has number, color"),
        ("a.csv", "index,name\n1.5,a\n", "column 'index' must hold whole numbers"),
        ("a.csv", "index,name\n1,a\n1,b\n", "number 1 has two names"),
        ("a.xml", "<atlas><label>", "not a table of labels"),
        ("a.csv", "", "the table of labels is empty"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, image, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=says):
        load_atlas(image, tmp_path / name)


def test_what_is_no_atlas_is_refused(tmp_path, image, volume):
    table = pd.DataFrame({"index": LABELS.keys(), "name": LABELS.values()})
    with pytest.raises(ValueError, match="whole numbers from 0 on"):
        load_atlas(nib.Nifti1Image(volume / 3, AFFINE), table)
    with pytest.raises(ValueError, match="no voxel has a region"):
        load_atlas(nib.Nifti1Image(0 * volume, AFFINE), table)
    with pytest.raises(ValueError, match="must be one 3D map"):
        load_atlas(nib.Nifti1Image(np.stack([volume] * 2, axis=-1), AFFINE), table)
    with pytest.raises(FileNotFoundError, match=r"labels\.tsv: no such file"):
        load_atlas(image, tmp_path / "labels.tsv")
    with pytest.raises(FileNotFoundError, match="no atlas is called brodmann: .* one of aal"):
        load_atlas("brodmann")


def test_atlases_of_nilearn_are_found_by_name(monkeypatch, image):
    table = pd.DataFrame({"index": LABELS.keys(), "name": LABELS.values()})

    class Found:
        maps, lut = str(image), table

    monkeypatch.setattr("nilearn.datasets.fetch_atlas_aal", lambda **_: Found)
    atlas = load_atlas("aal")
    assert atlas.name == "aal"
    assert atlas.names == LABELS


def test_atlases_that_cannot_be_fetched_are_told(monkeypatch):
    def fail(**_):
        raise RuntimeError("no network")

    monkeypatch.setattr("nilearn.datasets.fetch_atlas_juelich", fail)
    with pytest.raises(OSError, match="atlas juelich is not in nilearn's data folder"):
        load_atlas("juelich")
