import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from simulate import make_maps, save_group, save_mask

from gpustats import Design, __version__, permutation_test, save_maps
from gpustats.contrasts import file_label

FOLDER = Path("gpustats-results")
OF_THE_RUN = {"dataset_description.json", "result.json", "report.html", "inference.npz"}
ENTITIES = ["contrast", "stat", "desc"]
"""In this order; BIDS puts desc last."""
# the rule for names: pairs of a lower-case key and an alphanumeric label, then a suffix
NAME = r"((?:[a-z]+-[0-9a-zA-Z]+_)+)[a-zA-Z0-9]+(\.nii\.gz|\.tsv|\.json)"


def assert_named_by_the_rules(names):
    for name in names:
        match = re.fullmatch(NAME, name)
        assert match, name
        keys = [pair.split("-")[0] for pair in match[1].rstrip("_").split("_")]
        assert keys == [key for key in ENTITIES if key in keys], name


def sidecars(folder):
    """The sidecar of every map and table; each must have one, and none is alone."""
    names = {path.name for path in Path(folder).iterdir()} - OF_THE_RUN
    assert_named_by_the_rules(names)
    data = {name for name in names if not name.endswith(".json")}
    of = {name: re.sub(r"\.(nii\.gz|tsv)$", ".json", name) for name in data}
    assert names - data == set(of.values())
    return {name: json.loads(Path(folder, one).read_text()) for name, one in of.items()}


@pytest.fixture
def maps(rng):
    maps = make_maps(rng, n_subjects=10, mean=0)
    maps.values[:40] += 3
    return maps


@pytest.fixture
def files(tmp_path, maps):
    folder = tmp_path / "maps"
    folder.mkdir()
    return [str(path) for path in save_group(folder, maps)]


@pytest.fixture
def words(tmp_path, rng, maps, files):
    table = pd.DataFrame({"Größe (cm)": rng.normal(170, 9, 10), "group": np.arange(10) % 2})
    path = tmp_path / "design.tsv"
    table.to_csv(path, sep="\t", index=False)
    mask = str(save_mask(tmp_path, maps))
    return [*files, "--mask", mask, "--design", str(path), "--intercept"]


def test_a_fit_describes_every_file(run, words, files):
    further = ("--effect-size", "--confidence", "0.9", "--q", "--logp", "--one-minus-p")
    contrasts = ("--contrast", "`Größe (cm)`", "--contrast", "`Größe (cm)`; group")
    assert run("fit", *words, *contrasts, *further)[0] == 0
    told = sidecars(FOLDER)
    summary = json.loads((FOLDER / "result.json").read_text())
    listed = {name for one in summary["contrasts"] for name in one["files"]}
    assert listed == {path.name for path in FOLDER.iterdir()} - OF_THE_RUN
    for contrast in summary["contrasts"]:
        own = {name: one for name, one in told.items() if f"-{contrast['label']}_" in name}
        for name, one in own.items():
            assert one["Contrast"] == contrast["name"]
            assert np.array_equal(one["ContrastWeights"], contrast["weights"])
            assert (one["Statistic"], one["DegreesOfFreedom"]) == (contrast["statistic"], 7)
            assert one.get("NumeratorDegreesOfFreedom") == contrast.get("dimension")
            assert one["Sources"] == files
            assert one["SoftwareVersion"] == __version__
            assert re.fullmatch(r".{5,}[^.]\.", one["Description"]), name
            assert ("Units" in one) == name.endswith(".nii.gz")
        thresholded = own[f"contrast-{contrast['label']}_stat-z_desc-thresholded_statmap.nii.gz"]
        assert thresholded["ThresholdZ"] == contrast["threshold_z"]
        assert thresholded["Threshold"] == contrast["description"]
        image = nib.load(FOLDER / f"contrast-{contrast['label']}_stat-z_statmap.nii.gz")
        kept = nib.load(
            FOLDER / f"contrast-{contrast['label']}_stat-z_desc-thresholded_statmap.nii.gz"
        )
        size = image.get_fdata() if contrast["statistic"] == "F" else np.abs(image.get_fdata())
        above = size >= thresholded["ThresholdZ"]
        assert np.array_equal(kept.get_fdata() != 0, above)
        assert thresholded["TwoSided"] == (contrast["statistic"] == "t")
        assert own[f"contrast-{contrast['label']}_stat-effect_statmap.nii.gz"]["Units"] == (
            "units of the input maps"
        )


@pytest.mark.parametrize(
    "further", [("--null-contributions",), ("--variance-smoothing", "4", "--null-contributions")]
)
def test_a_permutation_test_describes_every_file(run, words, further):
    chosen = (
        *further,
        "--statistics",
        "voxelwise,tfce",
        "--n-permutations",
        "40",
        "--uncorrected",
        "--logp",
    )
    assert run("permute", *words, "--contrast", "group", *chosen)[0] == 0
    told = sidecars(FOLDER)
    (contrast,) = json.loads((FOLDER / "result.json").read_text())["contrasts"]
    for found in contrast["statistics"]:
        label = found["statistic"].replace("_", "")
        for kind, words_ in {"fwe": "corrected over voxels", "unc": "of each voxel alone"}.items():
            name = f"contrast-group_stat-p_desc-{label}{kind}_statmap.nii.gz"
            one = told[name]
            assert words_ in one["Description"]
            assert one["TwoSided"] is True
            assert one["MinimumP"] == 1 / 40
            assert ("FWEThresholds" in one) == (kind == "fwe")
        table = f"contrast-group_desc-{label}_nullmax.tsv"
        columns = set(pd.read_csv(FOLDER / table, sep="\t").columns)
        assert columns <= set(told[table])
        assert told[table]["FWEThresholds"] == found["fwe_thresholds"]
    assert all("40 of" in one["Shuffles"] for one in told.values())


def test_a_result_from_python_is_described_too(tmp_path, maps):
    design = Design(pd.DataFrame({"intercept": np.ones(10)}))
    save_maps(permutation_test(maps, design, n_permutations=20, device="cpu"), tmp_path / "saved")
    told = sidecars(tmp_path / "saved")
    assert {one["Contrast"] for one in told.values()} == {"intercept"}


def test_a_merged_test_is_described_as_the_whole(run, words):
    chosen = ("--contrast", "group", "--statistics", "voxelwise", "--n-permutations", "40")
    assert run("permute", *words, *chosen)[0] == 0
    whole = sidecars(FOLDER)
    for number in (1, 2):
        run("permute", *words, *chosen, "--shard", f"{number}/2", "--output-dir", "parts")
    assert run("merge", "parts", "--output-dir", "merged")[0] == 0
    assert sidecars("merged") == whole


def described():
    return json.loads((FOLDER / "dataset_description.json").read_text())


def test_the_dataset_says_who_made_it(run, files):
    assert run("fit", *files)[0] == 0
    own = described()
    assert own["DatasetType"] == "derivative"
    assert re.fullmatch(r"\d+\.\d+\.\d+", own["BIDSVersion"])
    assert isinstance(own["Name"], str)
    (maker,) = own["GeneratedBy"]
    assert (maker["Name"], maker["Version"]) == ("gpustats", __version__)
    # what others said stays, and a second run adds nothing
    other = {"Name": "fmriprep", "Version": "25.0.0"}
    path = FOLDER / "dataset_description.json"
    path.write_text(json.dumps({**own, "Authors": ["A. Nother"], "GeneratedBy": [other, maker]}))
    assert run("fit", *files)[0] == 0
    assert described() == {**own, "Authors": ["A. Nother"], "GeneratedBy": [other, maker]}
    path.write_text("not JSON")
    assert run("fit", *files)[0] == 0
    assert described() == own


@pytest.mark.parametrize(
    "name",
    [
        "später",
        "groß - klein",
        "年齢",
        "a_b.c",
        "0.5*x",
        "\u03b1>\u03b2",
        "",
        "٣ x",
        "\u00d7\u00f7",
    ],
)
def test_labels_are_ascii_letters_and_digits(name):
    assert re.fullmatch("[0-9a-zA-Z]+", file_label(name))


def test_names_in_other_scripts_stay_apart():
    assert len({file_label(name) for name in ("年齢", "性別", "возраст", "пол")}) == 4
