"""What ``gpustats randomise`` decides by itself, writes, and refuses."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from oracles import least_squares
from permute_words import fails

from gpustats import ClusterMass, Design, cli, compat, load_inference, permutation_test
from gpustats.maps import load_maps

GROUPS = np.repeat(np.eye(2), 6, axis=0)


def image(name):
    return nib.load(f"{name}.nii.gz").get_fdata()


def summary(root="out"):
    return json.loads(Path(f"{root}.json").read_text())


@pytest.fixture
def group(group_of):
    return group_of(12)


def check_against_python(group, name, design, contrast, errors, blocks=None):
    """Compare the files of a test with the same in Python, by the presets for FSL."""
    kind = {"t": "t", "f": "F"}[name[0]]
    direct = permutation_test(
        load_maps(group.folder / "all.nii.gz"),
        Design(pd.DataFrame(design).add_prefix("EV")),
        Design(pd.DataFrame(design).add_prefix("EV")).contrast(contrast, statistic=kind),
        statistics=compat("fsl", 2.0, statistic=kind),
        n_permutations=200,
        two_sided=False,
        errors=errors,
        blocks=blocks,
        device="cpu",
    )
    stems = {"vox": "voxelwise", "tfce": "tfce", "clustere": "cluster_extent"}
    for stem, statistic in {**stems, "clusterm": "cluster_mass"}.items():
        found = image(f"out_{stem}_corrp_{name}")[group.inside]
        np.testing.assert_allclose(found, 1 - direct[statistic].p_corrected, atol=1e-7)
        if kind == "F":
            assert "threshold_f=2.0" in repr(direct.settings["statistics"])


STATISTICS = ["-x", "-T", "-c", 2, "-C", 2, "-F", 2, "-S", 2, "-n", 200, "-o", "out"]


def test_two_groups_adjusting_for_age(run, group, rng):
    design = np.column_stack([GROUPS, rng.normal(size=12).round(2)])
    words = group.write(design, [[1, -1, 0], [-1, 1, 0]], names=["A > B", "B > A"])
    assert run("randomise", *words, *STATISTICS)[0] == 0
    check_against_python(group, "tstat1", design, [1, -1, 0], "ee")
    check_against_python(group, "tstat2", design, [-1, 1, 0], "ee")
    assert [one["title"] for one in summary()["contrasts"]] == ["A > B", "B > A"]
    assert summary()["contrasts"][0]["df"] == 9


def test_pairs(run, group):
    blocks = np.repeat(np.arange(1, 7), 2)
    design = np.column_stack([[1, -1] * 6, np.repeat(np.eye(6), 2, axis=0)])
    contrast = [1, 0, 0, 0, 0, 0, 0]
    assert run("randomise", *group.write(design, [contrast], blocks=blocks), *STATISTICS)[0] == 0
    check_against_python(group, "tstat1", design, contrast, "ee", blocks)
    shuffles = summary()["contrasts"][0]["shuffles"]
    assert shuffles["n_distinct"] == shuffles["n_shuffles"] == 64


def test_one_group(run, group):
    assert run("randomise", "-i", group.folder / "all", "-1", *STATISTICS)[0] == 0
    check_against_python(group, "tstat1", np.ones((12, 1)), [1], "ise")


def test_f_of_three_groups(run, group):
    design = np.eye(3)[np.arange(12) % 3]
    contrasts = np.array([[1, -1, 0], [0, 1, -1]])
    words = group.write(design, contrasts, f_tests=[[1, 1]])
    assert run("randomise", *words, *STATISTICS)[0] == 0
    check_against_python(group, "fstat1", design, contrasts, "ee")
    check_against_python(group, "tstat2", design, contrasts[1], "ee")
    assert [one["name"] for one in summary()["contrasts"]] == ["fstat1", "tstat1", "tstat2"]


ONES, HALF = np.ones((12, 1)), np.repeat([1.0, 2], 6)
CENTRED = np.linspace(-1, 1, 12)


@pytest.mark.parametrize(
    ("design", "contrast", "blocks", "words", "how"),
    [
        (ONES, [1], None, [], "4096 sign-flips"),
        (3 * ONES, [-2], None, [], "4096 sign-flips"),
        (np.column_stack([ONES, CENTRED]), [1, 0], None, [], "4096 sign-flips"),
        (np.column_stack([ONES, CENTRED]), [0, 1], None, [], "479001600 permutations"),
        (GROUPS, [1, -1], None, [], "924 permutations"),
        (GROUPS, [1, -1], None, ["-D"], "924 permutations"),
        (GROUPS, [1, -1], None, ["-1"], "4096 sign-flips"),
        (GROUPS, [1, 0], None, [], "924 permutations"),
        (GROUPS, [1, 1], None, [], "no permutation changes what this contrast tests"),
        (GROUPS, [1, 1], None, ["-1"], "4096 sign-flips"),
        (ONES, [1], HALF, [], "no permutation changes what this contrast tests"),
        (ONES, [1], HALF, ["-1"], "4096 sign-flips"),
        (GROUPS, [1, -1], HALF, [], "no permutation changes what this contrast tests"),
        (GROUPS, [1, -1], HALF, ["--permuteBlocks"], "2 permutations"),
        (GROUPS, [1, -1], HALF, ["--permuteBlocks", "-1"], "4 sign-flips"),
        (GROUPS, [1, -1], np.repeat([1, 2], [4, 8]), ["--permuteBlocks"], "got sizes .4, 8."),
        (ONES, [1], None, ["-D", "-x"], "EV1 is zero for every subject"),
    ],
)
def test_signs_or_permutations(run, group, design, contrast, blocks, words, how):
    files = group.write(design, [contrast], blocks=blocks)
    status, out, err = run("randomise", *files, "-o", "out", "-q", *words)
    assert how in out if status == 0 else how in err.replace("[", ".").replace("]", ".")
    assert not list(Path().iterdir())


def test_a_mean_that_is_permuted_is_warned_of(run, group):
    *_, err = run("randomise", *group.write(GROUPS, [[1, 0]]), "-o", "out", "-q")
    assert "tstat1 tests a mean; as in randomise rows are permuted" in err
    *_, err = run("randomise", *group.write(GROUPS, [[1, -1]]), "-o", "out", "-q")
    assert "tests a mean" not in err


def test_demeaning_costs_a_degree_of_freedom(run, group, rng):
    design = np.column_stack([rng.normal(50, 3, 12), rng.normal(size=12)])
    words = [*group.write(design, [[1, 0], [0, 1]]), "-o", "out", "-n", 30, "-x", "--glm_output"]
    status, _, err = run("randomise", *words, "-D")
    assert status == 0
    assert "-D takes the mean out of the regressors, too" in err
    whole = np.column_stack([design, np.ones(12)])
    for number, contrast in enumerate(([1, 0, 0], [0, 1, 0]), start=1):
        effect, variance, t, df = least_squares(group.maps.values, whole, contrast)
        assert summary()["contrasts"][number - 1]["df"] == df == 9
        np.testing.assert_allclose(image(f"out_tstat{number}")[group.inside], t, rtol=1e-5)
        cope, varcope = image("out_glm_cope"), image("out_glm_varcope")
        np.testing.assert_allclose(cope[group.inside, number - 1], effect, rtol=1e-4)
        np.testing.assert_allclose(varcope[group.inside, number - 1], variance, rtol=1e-5)
        np.testing.assert_allclose(image("out_glm_pe")[group.inside, number - 1], effect, rtol=1e-4)
    assert image("out_glm_pe").shape[3] == 2


def test_estimates_of_a_design_with_a_column_too_many(run, group):
    design = np.column_stack([np.ones(12), GROUPS])
    words = [*group.write(design, [[0, 1, -1]]), "-o", "out", "--glm_output"]
    assert run("randomise", *words)[0] == 0
    estimates = np.linalg.pinv(design) @ group.maps.values.T.astype(float)
    np.testing.assert_allclose(image("out_glm_pe")[group.inside], estimates.T, rtol=1e-4, atol=1e-6)
    residual = (group.maps.values.T - design @ estimates).var(axis=0) * 12 / 10
    np.testing.assert_allclose(image("out_glm_sigmasqr")[group.inside, 0], residual, rtol=1e-4)


def test_without_a_statistic_only_t_is_written(run, group):
    status, _, err = run("randomise", *group.write(GROUPS, [[1, -1]]), "-o", "out", "--uncorrp")
    assert status == 0
    assert "tstat1: only the statistic is written" in err
    assert sorted(path.name for path in Path().iterdir()) == ["out.json", "out_tstat1.nii.gz"]
    t = least_squares(group.maps.values, GROUPS, [1, -1])[2]
    found = nib.load("out_tstat1.nii.gz")
    np.testing.assert_allclose(found.get_fdata()[group.inside], t, rtol=1e-5)
    assert np.array_equal(found.affine, group.affine)
    assert found.get_data_dtype() == np.float32
    assert summary()["contrasts"][0]["shuffles"] is None


def test_files_come_as_they_are_asked_for(run, group, monkeypatch):
    words = [*group.write(GROUPS, [[1, -1], [-1, 1]]), "-n", 20, "-c", 2, "--quiet"]
    monkeypatch.setenv("FSLOUTPUTTYPE", "NIFTI")
    status, out, err = run("randomise", *words, "-o", "here/two", "--skipTo=2")
    assert (status, out, err) == (0, "", "")
    names = sorted(path.name for path in Path("here").iterdir())
    assert names == ["two.json", "two_clustere_corrp_tstat2.nii", "two_tstat2.nii"]
    monkeypatch.setenv("FSLOUTPUTTYPE", "ANALYZE")
    status, line = fails(run, "randomise", *words, "-o", "three")
    assert status == 2
    assert "FSLOUTPUTTYPE must be NIFTI_GZ or NIFTI, got 'ANALYZE'" in line
    assert names == sorted(path.name for path in Path("here").iterdir())
    assert not Path("three.json").exists()


def test_masks_hold_what_is_above_a_half(run, group):
    weights = np.where(group.inside, 1.0, 0.0)
    weights[group.inside.nonzero()[0][0]] *= 0.4
    nib.save(nib.Nifti1Image(weights.astype(np.float32), group.affine), "mask.nii")
    words = [*group.write(GROUPS, [[1, -1]]), "-m", "mask", "-o", "out", "-x", "-n", 10]
    assert run("randomise", *words)[0] == 0
    assert np.array_equal(image("out_tstat1") != 0, weights > 0.5)
    assert summary()["data"]["n_voxels"] == np.count_nonzero(weights > 0.5)
    nib.save(nib.Nifti1Image(weights * 0.5, group.affine), "mask.nii")
    assert "the mask is empty; no voxel is above 0.5" in fails(run, "randomise", *words)[1]


def test_settings_of_tfce_reach_the_test(run, group):
    words = ["-i", group.folder / "all", "-1", "-n", 10, "-T"]
    seen = {}
    for name, extra in {
        "usual": [],
        "skeleton": ["--T2"],
        "own": ["--tfce_H=1.5", "--tfce_E=1", "--tfce_C=18"],
        "step": ["--tfce_D=0.1"],
    }.items():
        assert run("randomise", *words, *extra, "-o", name)[0] == 0
        assert summary(name)["words"][-2:] == ["-o", name]
        seen[name] = image(f"{name}_tfce_corrp_tstat1").sum(), summary(name)["parameters"]
    assert seen["own"][1]["tfce_height"] == 1.5
    *_, err = run("randomise", *words, "--T2", "--tfce_H=1", "-o", "both")
    assert "--T2 sets H=2, E=1, C=26" in err
    assert Path("both_tfce_corrp_tstat1.nii.gz").read_bytes() == (
        Path("skeleton_tfce_corrp_tstat1.nii.gz").read_bytes()
    )


def test_presets_know_f_and_skeletons():
    *_, mass = compat("fsl", 4.0, statistic="F")
    assert mass == ClusterMass(connectivity=26, threshold_f=4.0)
    _, tfce = compat("fsl", tfce_2d=True)
    assert (tfce.height, tfce.extent, tfce.connectivity, tfce.levels) == (2, 1, 26, 100)
    with pytest.raises(ValueError, match="nilearn has no settings of TFCE in 2D"):
        compat("nilearn", tfce_2d=True)
    with pytest.raises(ValueError, match="statistic must be 't' or 'F'"):
        compat("fsl", statistic="z")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-i", "all", "-o", "x"], "a design (-d) and its t contrasts (-t) are needed, or -1"),
        (["-i", "all", "-o", "x", "-1", "-t", "c"], "-d and -t go together"),
        (["-i", "all", "-1"], "needs -i <input> and -o <out_root>"),
        (["-i", "all", "-o", "x", "-1", "-D"], "-1 tests the mean, which -D takes out"),
        (["-i", "all", "-o", "x", "-1", "--fonly"], "--fonly does the F tests that -f"),
        (["-i", "all", "-o", "x", "-1", "--permuteBlocks"], "add -e"),
        (["-i", "all", "-o", "x", "-1", "--skipTo=2"], "beyond the last of 1 tests"),
        (["-i", "all", "-o", "x", "-1", "-m", "nomask"], "nomask: no such file"),
        (["-i", "nothing", "-o", "x", "-1"], "nothing: no such file"),
        (["-i", "one", "-o", "x", "-1"], "at least 2 volumes, got 1"),
        (["-i", "all", "-o", "x", "-d", "short.mat", "-t", "c"], "has 3 rows, but all has 12"),
        (["-i", "all", "-o", "x", "-d", "wide.mat", "-t", "c"], "1 columns, but the design of"),
        (["-i", "all", "-o", "x", "-d", "no.mat", "-t", "c"], "no.mat: No such file"),
    ],
)
def test_wrong_arguments_end_in_one_line(run, group, monkeypatch, words, message):
    monkeypatch.chdir(group.folder)
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3)), np.eye(4)), "one.nii.gz")
    Path("c").write_text("1\n")
    Path("short.mat").write_text("1\n1\n1\n")
    Path("wide.mat").write_text("1 0\n" * 6 + "0 1\n" * 6)
    before = sorted(path.name for path in Path().iterdir())
    status, line = fails(run, "randomise", *words)
    assert status == 2
    assert message in line
    assert before == sorted(path.name for path in Path().iterdir())


def test_all_arrangements_may_be_too_many(run, group, rng):
    design = np.column_stack([np.ones(12), rng.normal(size=12)])
    words = [*group.write(design, [[0, 1]]), "-o", "out", "-x"]
    assert "has about 4.79e+08; say how many" in fails(run, "randomise", *words, "-n", 0)[1]
    assert run("randomise", *words, "-n", 1)[0] == 0
    assert (image("out_vox_corrp_tstat1") == 0).all()


def test_an_interrupted_run_leaves_nothing(run, group, monkeypatch):
    def interrupted(*arguments, **options):
        permutation_test(*arguments, **options)
        raise KeyboardInterrupt("interrupted after 3 of 5 shuffles")

    monkeypatch.setattr("gpustats.cli_randomise.permutation_test", interrupted)
    words = [*group.write(GROUPS, [[1, -1]]), "-x", "-n", 10, "-P", "-N"]
    status, _, err = run("randomise", *words, "-o", "folder/out")
    assert status == 130
    assert err.splitlines()[-1].endswith("after 3 of 5 shuffles; no results were written")
    assert not Path("folder").exists()


def test_the_command_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpustats-randomise", "-h"])
    assert cli.randomise() == 0
    assert capsys.readouterr().out.startswith("usage: gpustats randomise -i <input>")


def test_results_are_those_of_permute(run, group, rng):
    design = np.column_stack([GROUPS, rng.normal(size=12).round(2)])
    words = group.write(design, [[1, -1, 0], [0, 0, 1]], f_tests=[[1, 1]], names=["A > B", "age"])
    status, out, _ = run("randomise", *words, *STATISTICS, "--results=own")
    assert status == 0
    assert "clusters and maps of z and p are in own; start with own/report.html" in out
    assert Path("own/report.html").exists()
    told = json.loads(Path("own/result.json").read_text())
    assert [one["name"] for one in told["contrasts"]] == ["fstat1", "tstat1 A > B", "tstat2 age"]
    again = load_inference("own/inference.npz")
    for entry, name in zip(told["contrasts"], ("fstat1", "tstat1", "tstat2"), strict=True):
        assert entry["shuffles"]["n_shuffles"] == 200
        assert len(entry["statistics"]) == 4
        assert all(Path("own", file).exists() for file in entry["files"])
        corrected = again[entry["name"], "tfce"].p_corrected
        found = image(f"out_tfce_corrp_{name}")[group.inside]
        np.testing.assert_allclose(found, 1 - corrected, atol=1e-7)
    words = [*words, "-o", "two", "--results=two", "-n", 9]
    assert "--results holds p of every test" in fails(run, "randomise", *words, "-c", 2)[1]
    assert not Path("two").exists()


@pytest.mark.parametrize("words", [[], ["-1"], ["-e"], ["-e", "--permuteBlocks"]])
def test_lines_of_permutations_are_those_of_the_null_distribution(run, group, words):
    blocks = np.repeat([1, 2, 3], 4) if "-e" in words else None
    design = np.column_stack([np.ones(12), np.tile([1, 1, 0, 0], 3) * np.arange(1, 13)])
    files = group.write(design, [[0, 1]], blocks=blocks)
    extra = [word for word in words if word != "-e"]
    options = ["-o", "out", "-x", "-n", 25, "-P", "-N", "--seed=4"]
    assert run("randomise", *files, *options, *extra)[0] == 0
    lines = np.loadtxt("out_perm_tstat1.txt", dtype=int)
    maxima = np.loadtxt("out_vox_corrp_tstat1.txt")
    assert len(lines) == len(maxima) == (6 if "--permuteBlocks" in words else 25)
    mean = group.maps.values.mean(axis=1, keepdims=True)
    for line, maximum in zip(lines, maxima, strict=True):
        arranged = design * line[:, None] if "-1" in words else design[line - 1]
        t = least_squares(group.maps.values - mean, arranged, [0, 1])[2]
        assert t.max() == pytest.approx(maximum, rel=1e-4)
