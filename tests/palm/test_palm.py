"""What ``gpustats palm`` decides by itself, writes, and refuses."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from oracles import least_squares, statistic_to_z
from permute_words import fails
from scipy.stats import f as fisher
from scipy.stats import t as student

from gpustats import ClusterExtent, ClusterMass, Tfce, cli, compat, load_inference, permutation_test
from gpustats.vest import write_vest

GROUPS = np.repeat(np.eye(2), 6, axis=0)
CONTRAST = [[1, -1]]
PAIRS = np.repeat(np.arange(1, 7), 2)


def summary(root="out"):
    return json.loads(Path(f"{root}.json").read_text())


def names(folder="."):
    """Names of images, without their endings."""
    return {path.name.partition(".")[0] for path in Path(folder).glob("*.nii*")} - {"all"}


@pytest.fixture
def group(group_of):
    return group_of(12)


def test_every_file_has_palms_name(run, group, rng):
    design = np.column_stack([GROUPS, rng.normal(size=12)])
    words = group.tables(d=design, t=[[1, -1, 0], [0, 0, 1]], f=[[1, 1]])
    saved = ["-saveparametric", "-saveglm", "-savemask", "-savedof", "-fdr"]
    assert run("palm", *words, "-n", 50, "-T", "-C", 2, *saved, "-o", "out")[0] == 0
    wanted = {
        "outmask",
        *(f"out_vox_{one}_{c}" for one in ("cope", "varcope") for c in ("c1", "c2")),
    }
    for test in ("tstat{}_c1", "tstat{}_c2", "fstat{}_c3"):
        of_voxels = ("", "_uncp", "_fwep", "_fdrp", "_uncparap", "_fdrparap")
        wanted |= {f"out_vox_{test.format(one)}" for one in of_voxels}
        wanted |= {f"out_tfce_{test.format(one)}" for one in ("", "_uncp", "_fwep", "_fdrp")}
        wanted |= {f"out_clustere_{test.format(one)}" for one in ("", "_fwep")}
    assert names() == wanted
    texts = {path.name for path in Path().glob("out*.txt")}
    dofs = {f"out_vox_{one}_dof.txt" for one in ("tstat_c1", "tstat_c2", "fstat_c3")}
    assert texts == {"out_palmconfig.txt", *dofs}
    assert Path("out_vox_fstat_c3_dof.txt").read_text().split() == ["2", "9"]
    files = {f for one in summary()["contrasts"] for f in one["files"]} | set(summary()["files"])
    written = {p.name for p in Path().glob("out*")}
    assert files | {"out.json"} == written


def test_values_of_files(run, group):
    words = [*group.tables(d=GROUPS, t=CONTRAST), "-n", 30, "-saveglm", "-saveparametric"]
    assert run("palm", *words, "-o", "out", "-twotail")[0] == 0
    effect, variance, t, df = least_squares(group.maps.values, GROUPS, CONTRAST)
    np.testing.assert_allclose(group.image("out_vox_tstat"), t, rtol=1e-5)
    np.testing.assert_allclose(group.image("out_vox_cope"), effect, rtol=1e-4)
    np.testing.assert_allclose(group.image("out_vox_varcope"), variance, rtol=1e-5)
    p = 2 * student.sf(np.abs(t), df)
    np.testing.assert_allclose(group.image("out_vox_tstat_uncparap"), p, rtol=1e-5)
    assert run("palm", *words, "-o", "z", "-zstat")[0] == 0
    np.testing.assert_allclose(group.image("z_vox_ztstat"), statistic_to_z(t, df), rtol=1e-5)
    p = student.sf(t, df)
    np.testing.assert_allclose(group.image("z_vox_ztstat_uncparap"), p, rtol=1e-5)
    found = nib.load("out_vox_tstat.nii.gz")
    assert np.array_equal(found.affine, group.affine)
    assert found.get_data_dtype() == np.float32


def test_p_is_written_as_it_is_asked_for(run, group):
    words = [*group.tables(d=GROUPS, t=CONTRAST), "-n", 40, "-T", "-C", 2]
    for root, extra in (("p", []), ("q", ["-save1-p"]), ("cdf", ["-savecdf"]), ("log", ["-logp"])):
        assert run("palm", *words, "-o", root, *extra)[0] == 0
    for name in ("vox_tstat_fwep", "vox_tstat_uncp", "tfce_tstat_uncp", "clustere_tstat_fwep"):
        p = group.image(f"p_{name}")
        assert p.min() >= 1 / 40 - 1e-7
        np.testing.assert_allclose(group.image(f"q_{name}"), 1 - p, atol=1e-7)
        np.testing.assert_allclose(group.image(f"cdf_{name}"), 1 - p, atol=1e-7)
        np.testing.assert_allclose(group.image(f"log_{name}"), -np.log10(p), atol=1e-6)
    assert np.array_equal(group.image("p_tfce_tstat"), group.image("log_tfce_tstat"))
    assert run("palm", *words, "-o", "few", "-nouncorrected")[0] == 0
    assert not {name for name in names() if name.startswith("few") and "uncp" in name}
    assert np.array_equal(group.image("few_tfce_tstat_fwep"), group.image("p_tfce_tstat_fwep"))


def test_csv_and_vest_are_the_same(run, group):
    tables = {"d": GROUPS, "t": [[1, -1], [-1, 1]], "f": [[1, 0]], "eb": PAIRS[:, None] % 3 + 1}
    options = ["-n", 60, "-T", "-C", 1.5]
    assert run("palm", *group.tables(**tables), *options, "-o", "csv")[0] == 0
    words = ["-i", "all"]
    for (name, table), ending in zip(tables.items(), ("mat", "con", "fts", "grp"), strict=True):
        titles = ["A > B", "B > A"] if ending == "con" else ()
        write_vest(f"design.{ending}", table, names=titles)
        words += [f"-{name}", f"design.{ending}"]
    assert run("palm", *words, *options, "-o", "vest")[0] == 0
    of_csv = {name.removeprefix("csv") for name in names() if name.startswith("csv")}
    assert len(of_csv) == 24
    for name in of_csv:
        assert np.array_equal(group.image(f"csv{name}"), group.image(f"vest{name}"))
    assert [one["title"] for one in summary("vest")["contrasts"]] == ["A > B", "B > A", ""]
    # an F test of one t contrast is that
    assert np.array_equal(group.image("csv_vox_tstat_c3"), group.image("csv_vox_tstat_c1"))


@pytest.mark.parametrize(
    ("tables", "words", "how"),
    [
        ({}, [], "sign flips of 12 subjects: 50 of 4,096"),
        ({"d": np.ones((12, 1)), "t": [[1]]}, ["-ise"], "sign flips of 12 subjects"),
        ({"d": np.ones((12, 1)), "t": [[1]]}, [], "no permutation changes what this contrast"),
        ({"d": GROUPS, "t": CONTRAST}, [], ": permutations of 12 subjects: 50 of 924"),
        ({"d": GROUPS, "t": CONTRAST}, ["-ee", "-ise"], "permutations and sign flips"),
        ({"d": GROUPS}, [], "fstat_c1: permutations"),
        ({"d": GROUPS, "t": [[1, 0]]}, [], "tstat_c1 tests a mean; as in PALM rows are permuted"),
        ({"d": GROUPS, "t": CONTRAST, "eb": GROUPS[:, :1] + 1}, [], "no permutation changes"),
        ({"d": GROUPS, "t": CONTRAST, "eb": GROUPS[:, :1] + 1}, ["-whole"], "2 blocks as wholes"),
        ({"d": GROUPS, "t": CONTRAST, "eb": PAIRS[:, None]}, ["-whole"], "20 distinct"),
        ({"d": GROUPS, "t": CONTRAST, "eb": PAIRS[:, None]}, ["-whole", "-within"], "and between"),
        ({"d": GROUPS, "t": CONTRAST, "eb": PAIRS[:, None]}, ["-ise", "-whole"], "6 blocks as who"),
        ({"d": GROUPS, "t": CONTRAST, "eb": PAIRS[:, None] - 7}, [], "has numbers from 1"),
        ({"d": GROUPS, "t": CONTRAST, "eb": PAIRS[:6, None]}, [], "is needed, 12; got 6"),
        ({"d": GROUPS, "t": CONTRAST, "eb": PAIRS[:, None] + 0.5}, [], "are whole numbers"),
        (
            {"d": GROUPS, "t": CONTRAST, "eb": np.repeat([1, 2], [4, 8])[:, None]},
            ["-whole"],
            "-whole needs blocks of one size, got sizes [4, 8]",
        ),
        (
            {"d": GROUPS, "t": CONTRAST, "eb": np.c_[PAIRS, -PAIRS, np.arange(1, 13)]},
            [],
            "trees of blocks with more levels",
        ),
        (
            {"d": GROUPS, "t": CONTRAST, "eb": np.c_[-np.ones(12), -PAIRS, np.arange(1, 13)]},
            [],
            "every row stays where it is",
        ),
        (
            {"d": GROUPS, "t": CONTRAST, "eb": np.c_[np.ones(12), np.arange(1, 13)]},
            [],
            ": permutations of 12 subjects: 50 of 924",
        ),
        ({"d": GROUPS, "t": CONTRAST, "vg": np.ones((12, 1))}, [], "50 of 924"),
        ({"d": GROUPS, "t": CONTRAST, "vg": GROUPS[:, :1] + 1}, [], "2 variance groups are not"),
        ({"d": GROUPS, "t": CONTRAST}, ["-vg", "auto"], "50 of 924"),
        ({"d": GROUPS, "t": CONTRAST, "eb": PAIRS[:, None]}, ["-vg", "auto"], "6 variance groups"),
        ({"d": GROUPS, "t": [[1, -1], [2, -2]], "f": [[1, 1]]}, [], "t contrasts say the same"),
        (
            {"d": GROUPS, "t": [[1, -1], [1, 0]], "f": [[1, 1]]},
            ["-corrcon"],
            "contrasts of one kin",
        ),
    ],
)
def test_what_is_shuffled(run, group, tables, words, how):
    status, _, err = run("palm", *group.tables(**tables), "-n", 50, "-o", "x/out", *words)
    assert how in err
    assert status == (2 if "error" in err else 0)
    assert Path("x").exists() == (status == 0)


def test_demeaning_costs_a_degree_of_freedom(run, group, rng):
    covariate = rng.normal(50, 3, 12)
    words = group.tables(d=np.column_stack([np.ones(12), covariate]), t=[[0, 1]])
    status, _, err = run("palm", *words, "-demean", "-n", 20, "-o", "out")
    assert status == 0
    assert "t has a degree of freedom less than in PALM" in err
    whole = np.column_stack([np.ones(12), covariate - covariate.mean()])
    _, _, t, df = least_squares(group.maps.values, whole, [0, 1])
    assert summary()["contrasts"][0]["df"] == df == 10
    np.testing.assert_allclose(group.image("out_vox_tstat"), t, rtol=1e-5)
    words = group.tables(d=np.column_stack([np.ones(12), covariate]), t=[[1, 0]])
    assert "takes out the constant that" in fails(run, "palm", *words, "-demean", "-o", "two")[1]


def test_masks_hold_what_is_not_0(run, group):
    weights = np.where(group.inside, -0.1, 0.0)
    weights[tuple(np.argwhere(group.inside)[0])] = np.nan
    nib.save(nib.Nifti1Image(weights.astype(np.float32), group.affine), "mask.nii")
    words = [*group.tables(), "-m", "mask", "-n", 8]
    assert run("palm", *words, "-o", "out", "-savemask")[0] == 0
    inside = np.nan_to_num(weights) != 0
    assert np.array_equal(nib.load("outmask.nii.gz").get_fdata() == 1, inside)
    nib.save(nib.Nifti1Image((~inside).astype(np.uint8), group.affine), "mask.nii")
    assert run("palm", *words, "-o", "two", "-reversemasks")[0] == 0
    pair = [nib.load(f"{root}_vox_tstat_c1.nii.gz").get_fdata() for root in ("out", "two")]
    assert np.array_equal(*pair)
    nib.save(nib.Nifti1Image(np.zeros(inside.shape), group.affine), "mask.nii")
    assert "the mask is empty; no voxel is other than 0" in fails(run, "palm", *words)[1]


def test_numbers_and_names(run, group):
    nib.save(nib.load("all.nii.gz"), "plain.nii")
    words = group.tables(d=GROUPS, t=[[1, -1], [0, 1]], f=[[1, 1]])
    words[1] = "plain"
    assert run("palm", *words, "-n", 9, "-conskipcount", 4, "-fonly", "-o", "in/f")[0] == 0
    assert "f_vox_fstat" in names("in")
    assert Path("in/f_vox_fstat_fwep.nii").exists()
    assert run("palm", *words, "-n", 9, "-conskipcount", 4, "-tonly", "-o", "in/t")[0] == 0
    assert {"t_vox_tstat_c5", "t_vox_tstat_c6"} < names("in")
    assert run("palm", *words, "-n", 9, "-verbosefilenames", "-fonly", "-o", "in/v")[0] == 0
    assert "v_vox_fstat_fwep_m1_d1_c1" in names("in")
    assert run("palm", *words, "-n", 9)[0] == 0
    assert "palm_vox_tstat_fwep_c1" in names()


def test_a_configuration_repeats_the_run(run, group):
    words = [*group.tables(d=GROUPS, t=CONTRAST), "-n", 30, "-T", "-seed", 3]
    assert run("palm", *words, "-o", "out")[0] == 0
    text = Path("out_palmconfig.txt").read_text()
    assert text.startswith("# Configuration file for PALM.\n# ")
    assert "\n-n 30\n-T\n-seed 3\n-o out\n" in text
    before = {path: path.read_bytes() for path in Path().glob("out*.nii.gz")}
    for path in before:
        path.unlink()
    assert run("palm", "out_palmconfig.txt")[0] == 0
    assert before == {path: path.read_bytes() for path in Path().glob("out*.nii.gz")}
    assert Path("out_palmconfig.txt").read_text().splitlines()[2:] == text.splitlines()[2:]


def test_seeds_of_chance_are_told(run, group):
    words = [*group.tables(d=GROUPS, t=CONTRAST), "-n", 20]
    _, _, err = run("palm", *words, "-seed", "twist", "-o", "out")
    seed = summary()["parameters"]["seed"]
    assert f"seed {seed} was drawn" in err
    assert run("palm", *words, "-seed", seed, "-o", "two")[0] == 0
    assert np.array_equal(group.image("out_vox_tstat_uncp"), group.image("two_vox_tstat_uncp"))


@pytest.mark.parametrize(("word", "method"), [("tail", "gpd"), ("gamma", "gamma")])
def test_fits_give_corrected_p(run, group, word, method):
    words = [*group.tables(d=GROUPS, t=CONTRAST), "-n", 200, "-T", "-o", "out", "--results", "own"]
    status, _, err = run("palm", *words, "-accel", word)
    assert status == 0
    assert "-accel fits corrected p; uncorrected p are counts" in err
    again = load_inference("own/inference.npz")
    for stem, statistic in (("vox", "voxelwise"), ("tfce", "tfce")):
        p, *_ = again[statistic].tail(method)
        np.testing.assert_allclose(group.image(f"out_{stem}_tstat_fwep"), p, rtol=1e-5)
    assert json.loads(Path("own/result.json").read_text())["command"] == "palm"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "palm needs -i <input>"),
        (["-i", "nothing"], "nothing: no such file"),
        (["-i", "one"], "at least 2 volumes, got 1"),
        (["-i", "all", "-t", "t.csv"], "-t needs the design of its contrasts"),
        (["-i", "all", "-d", "d.csv", "-f", "t.csv"], "add -t"),
        (["-i", "all", "-d", "short.csv"], "has 3 rows, but all has 12 volumes"),
        (["-i", "all", "-d", "d.csv", "-t", "short.csv"], "contrasts have 1 columns"),
        (["-i", "all", "-d", "d.txt"], "PALM reads tables that end in .csv"),
        (["-i", "all", "-d", "no.csv"], "no.csv: No such file"),
        (["-i", "all", "-whole"], "need the blocks of -eb"),
        (["-i", "all", "-reversemasks"], "add -m"),
        (["-i", "all", "-save1-p", "-logp"], "exclude each other"),
        (["-i", "all", "-fdr", "-nouncorrected"], "-nouncorrected leaves out"),
        (["-i", "all", "-tfce1D", "-tfce_H", "2"], "leave out -tfce_H"),
        (["-i", "all", "-fonly"], "no contrast is left"),
        (["-i", "all", "-d", "wide.csv", "-t", "wide.csv", "-n", "0"], "about 4.79e+08; say how"),
    ],
)
def test_wrong_arguments_end_in_one_line(run, group, words, message):
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3)), np.eye(4)), "one.nii.gz")
    group.tables(d=GROUPS, t=CONTRAST)
    Path("short.csv").write_text("1\n1\n1\n")
    Path("wide.csv").write_text("".join(f"{k}\n" for k in range(1, 13)))
    before = sorted(path.name for path in Path().iterdir())
    status, line = fails(run, "palm", *(words or ["-T"]))
    assert status == 2
    assert message in line
    assert before == sorted(path.name for path in Path().iterdir())


def test_an_interrupted_run_leaves_nothing(run, group, monkeypatch):
    def interrupted(*arguments, **options):
        permutation_test(*arguments, **options)
        raise KeyboardInterrupt("interrupted after 3 of 5 shuffles")

    monkeypatch.setattr("gpustats.cli_palm.permutation_test", interrupted)
    status, _, err = run("palm", *group.tables(), "-n", 9, "-o", "folder/out")
    assert status == 130
    assert err.splitlines()[-1].endswith("after 3 of 5 shuffles; no results were written")
    assert not Path("folder").exists()


def test_quiet_runs_say_nothing(run, group):
    status, out, err = run("palm", *group.tables(), "-n", 9, "-quiet", "-noniiclass")
    assert (status, out, err) == (0, "", "")
    _, out, err = run("palm", *group.tables(), "-n", 9, "-noniiclass")
    assert "-noniiclass does nothing here" in err
    assert out.startswith("written to palm*")


def test_the_command_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpustats-palm", "-help"])
    assert cli.palm() == 0
    assert capsys.readouterr().out.startswith("usage: gpustats palm -i <file>")


def test_presets_are_palms():
    _, tfce, extent, mass = compat("palm", 3.1)
    assert tfce == Tfce(levels=100, own_levels=True, times_step=True, of_z=True)
    assert extent == ClusterExtent(connectivity=26, threshold_z=3.1, of_z=True)
    assert mass == ClusterMass(connectivity=26, threshold_z=3.1, of_z=True)
    assert compat("palm", tfce_2d=True)[1].connectivity == 26


def test_parametric_p_of_f(run, group):
    words = [*group.tables(d=GROUPS), "-n", 20, "-saveparametric", "-twotail", "-o", "out"]
    assert run("palm", *words)[0] == 0
    _, _, statistic, df = least_squares(group.maps.values, GROUPS, np.eye(2))
    p = fisher.sf(statistic, 2, df)
    np.testing.assert_allclose(group.image("out_vox_fstat_uncparap"), p, rtol=1e-4, atol=1e-30)


def test_results_tell_of_both_tails(run, group):
    words = [*group.tables(d=GROUPS, t=CONTRAST), "-n", 20, "-o", "out"]
    for extra, two_sided in (([], False), (["-twotail"], True)):
        assert run("palm", *words, *extra, "--results", "own")[0] == 0
        told = json.loads(Path("own/result.json").read_text())
        assert told["contrasts"][0]["two_sided"] is two_sided
        assert told["p"] == ("two-sided" if two_sided else "one-sided")
