"""Names of places: atlases read from files of several kinds, and looked up on another grid."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import map_coordinates
from simulate import AFFINE, ellipsoid

from gpustats.atlases import Atlas, load_atlas, with_distinct_names
from gpustats.spaces import Grid

LABELS = {1: "Insula", 2: "Left Thalamus", 7: "Vermis"}
XML = """<?xml version="1.0"?><atlas><header><type>{kind}</type></header><data>
<label index="{one}" x="1" y="2" z="3">Insula</label><label index="{two}">Left Thalamus</label>
<label index="{seven}">Vermis</label></data></atlas>"""

AAL = """<?xml version="1.0"?><atlas><data><label><index>1</index><name>Insula</name></label>
<label><index>2</index><name>Left Thalamus</name></label>
<label><index>7</index><name>Vermis</name></label></data></atlas>"""


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
        ("fsl.xml", XML.format(kind="Probabilistic", one=0, two=1, seven=6)),
        ("fsl.xml", XML.format(kind="Label", one=1, two=2, seven=7)),
        ("aal.xml", AAL),
        ("plain.txt", "1 Insula\n2 Left Thalamus\n7\tVermis\n"),
        ("lut.ctab", "# No.\n\n 1  Insula  1 2 3 0\n2 Left Thalamus 0 0 0 0\n7 Vermis 9 9 9\n"),
    ],
)
def test_tables_of_each_kind_are_read(tmp_path, image, volume, name, text):
    (tmp_path / name).write_text(text)
    atlas = load_atlas(str(image), tmp_path / name)
    assert atlas.name == "regions"
    assert atlas.names == LABELS
    np.testing.assert_array_equal(atlas.labels, volume)


def test_numbers_without_a_name_are_told_by_their_number(tmp_path, image):
    (tmp_path / "dseg.tsv").write_text("index\tname\n1\tNA\n2\t\n")
    atlas = load_atlas(image, tmp_path / "dseg.tsv", name="aseg")
    assert [atlas.name_of(n) for n in (0, 1, 2, 7)] == ["", "NA", "label 2", "label 7"]
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
        ("a.csv", "index,name\n", "the table of labels is empty"),
        ("a.xml", "<atlas/>", "the table of labels is empty"),
        ("a.xml", "<atlas><label>Insula</label></atlas>", "column 'index' must hold whole"),
        ("a.xml", XML.format(kind="Probabilistic", one=0, two="b", seven=2), "must hold whole"),
        ("a.txt", "1 Insula\nThalamus\n", "must be a number and a name, got 'Thalamus'"),
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


def test_atlases_of_one_name_are_refused(volume):
    one, other = (Atlas(name, volume.astype(np.int64), AFFINE, {}) for name in "ab")
    assert with_distinct_names([one, other]) == (one, other)
    with pytest.raises(ValueError, match="two atlases are called 'b'"):
        with_distinct_names([one, other, other])


def test_an_atlas_of_another_space_is_told(caplog, volume):
    far = AFFINE.copy()
    far[0, 3] = 4000
    grid = Grid(ellipsoid(), AFFINE)
    assert not Atlas("far", volume.astype(np.int64), far, {}).at(grid).any()
    assert "atlas far has no region at any voxel" in caplog.text


def make_nilearn_data(folder, volume):
    """Lay the files of three atlases where nilearn looks for them."""
    regions = nib.Nifti1Image(volume, np.diag([2.0, 2, 2, 1]))
    schaefer = folder / "schaefer_2018"
    oxford = folder / "fsl" / "data" / "atlases"
    aal = folder / "aal_3v2" / "AAL3"
    for place in (schaefer, oxford / "HarvardOxford", aal):
        place.mkdir(parents=True)
    stem = "Schaefer2018_400Parcels_7Networks_order"
    nib.save(regions, schaefer / f"{stem}_FSLMNI152_2mm.nii.gz")
    rows = [f"{n}\t{name}\t1\t2\t3\t0\n" for n, name in LABELS.items()]
    (schaefer / f"{stem}.txt").write_text("".join(rows))
    nib.save(regions, oxford / "HarvardOxford" / "HarvardOxford-cort-maxprob-thr25-2mm.nii.gz")
    names = [LABELS.get(n, "other") for n in range(1, 8)]
    labels = "".join(f'<label index="{n}">{name}</label>' for n, name in enumerate(names))
    (oxford / "HarvardOxford-Cortical.xml").write_text(f"<atlas>{labels}</atlas>")
    nib.save(regions, aal / "AAL3v1.nii")
    (aal / "AAL3v1.xml").write_text(AAL)


@pytest.mark.filterwarnings("ignore:\\s*The following regions are present")
@pytest.mark.parametrize("name", ["schaefer", "harvard-oxford-cortical", "aal"])
def test_atlases_in_nilearns_data_folder_are_found_by_name(monkeypatch, tmp_path, volume, name):
    make_nilearn_data(tmp_path, volume)
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path))
    atlas = load_atlas(name)
    assert atlas.name == name
    assert LABELS.items() <= atlas.names.items()
    np.testing.assert_array_equal(atlas.labels, volume)


def test_atlases_that_cannot_be_fetched_are_told(monkeypatch):
    def fail(**_):
        raise RuntimeError("no network")

    monkeypatch.setattr("nilearn.datasets.fetch_atlas_juelich", fail)
    with pytest.raises(OSError, match="atlas juelich is not in nilearn's data folder"):
        load_atlas("juelich")
