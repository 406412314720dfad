"""``gpustats randomise`` against all arrangements of a design, one by one, as randomise has it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from randomising import arrangements, randomise

EVERYTHING = ["-x", "-T", "-c", "1.2", "-C", "1.2", "-F", "1.5", "-S", "1.5", "-R", "-N", "-P"]


def image(name):
    return nib.load(Path(f"{name}.nii.gz")).get_fdata()


def close_but_for_a_level(found, expected, stem):
    """Compare scores; those of TFCE may have a level more or less where a value is at one."""
    np.testing.assert_allclose(found, expected, rtol=0.04 if stem == "tfce" else 1e-3, atol=1e-3)
    assert np.mean(np.isclose(found, expected, rtol=1e-4, atol=1e-4)) > 0.98


def check_test(group, name, expected):
    """Compare every file of a test with the enumeration."""
    n = len(next(iter(expected.values()))[2])
    for stem, (corrected, uncorrected, null) in expected.items():
        found = image(f"out_{stem}_corrp_{name}")
        assert (found[~group.inside] == 0).all()
        for kind, wanted in (("corrp", corrected), ("p", uncorrected)):
            difference = image(f"out_{stem}_{kind}_{name}")[group.inside] - wanted
            # but for ties in float32 both are equal
            assert np.abs(difference).max() <= 1 / n + 1e-6, (stem, kind)
            assert np.mean(np.abs(difference) > 1e-6) < 0.02, (stem, kind)
        raw = image(f"out_{name}" if stem == "vox" else f"out_{stem}_{name}")
        close_but_for_a_level(raw[group.inside], null[0], stem)
        maxima = np.loadtxt(f"out_{stem}_corrp_{name}.txt")
        largest = np.sort(null.max(axis=1))
        close_but_for_a_level(np.sort(maxima), largest, stem)
        assert maxima[0] == pytest.approx(null[0].max(), rel=1e-3)
    assert (corrected > 0).any()


def check_permutations(name, design, designs, *, flips=False):
    """Compare the text of permutations with the enumeration, as sets of designs."""
    lines = np.loadtxt(f"out_perm_{name}.txt", dtype=int)
    made = [design * row[:, None] if flips else design[row - 1] for row in lines]
    assert np.array_equal(made[0], design)
    assert {one.tobytes() for one in made} == {(one + 0.0).tobytes() for one in designs}
    assert len(made) == len(designs)


def run_all(run, words, *extra):
    status, _, err = run(
        "randomise", *words, "-o", "out", *EVERYTHING, "--uncorrp", "-n", 0, *extra
    )
    assert status == 0, err
    return err


def test_one_sample(run, group_of):
    group = group_of(7)
    words = ["-i", group.folder / "all.nii.gz", "-1"]
    run_all(run, words)
    design = np.ones((7, 1))
    designs = list(arrangements(design, np.ones(7), flips=True))
    assert len(designs) == 128
    check_test(group, "tstat1", randomise(group.maps, designs, [1.0], 1.2))
    check_permutations("tstat1", design, designs, flips=True)
    # the same from files: one constant regressor flips signs by itself
    before = {path.name: path.read_bytes() for path in Path().glob("*.nii.gz")}
    run_all(run, group.write(design, [[1]]))
    assert before == {path.name: path.read_bytes() for path in Path().glob("*.nii.gz")}


def test_two_samples(run, group_of):
    group = group_of(7)
    design = np.repeat(np.eye(2), [3, 4], axis=0)
    contrasts = [[1, -1], [-1, 1]]
    run_all(run, group.write(design, contrasts))
    designs = list(arrangements(design, np.ones(7)))
    assert len(designs) == 35
    for number, contrast in enumerate(contrasts, start=1):
        expected = randomise(group.maps, designs, contrast, 1.2)
        check_test(group, f"tstat{number}", expected)
    check_permutations("tstat2", design, designs)


@pytest.mark.parametrize("demean", [False, True])
def test_a_covariate_with_nuisance(run, group_of, rng, demean):
    group = group_of(6)
    ages = rng.normal(40, 9, 6).round(1)
    if demean:
        # two of six ages are equal: fewer arrangements
        ages[1] = ages[0]
        design, contrast = np.column_stack([ages, [1, 1, 0, 1, 0, 0]]), [1.0, 0]
        whole = np.column_stack([design - design.mean(axis=0), np.ones(6)])
        tested = [*contrast, 0]
    else:
        design = whole = np.column_stack([np.ones(6), ages, [0, 0, 0, 1, 1, 1]])
        contrast = tested = [0.0, 1, 0]
    run_all(run, group.write(design, [contrast]), *["-D"] * demean)
    designs = list(arrangements(whole, np.ones(6)))
    assert len(designs) == (360 if demean else 720)
    check_test(group, "tstat1", randomise(group.maps, designs, tested, 1.2))


def test_blocks(run, group_of):
    group = group_of(8)
    pairs = np.repeat(np.eye(4), 2, axis=0)
    design = np.column_stack([[1, -1] * 4, pairs])
    contrast = [1.0, 0, 0, 0, 0]
    blocks = np.repeat([1, 2, 3, 4], 2)
    run_all(run, group.write(design, [contrast], blocks=blocks))
    designs = list(arrangements(design, blocks))
    assert len(designs) == 16
    check_test(group, "tstat1", randomise(group.maps, designs, contrast, 1.2))
    check_permutations("tstat1", design, designs)


def test_blocks_as_wholes(run, group_of):
    group = group_of(10)
    blocks = np.repeat([2, 1, 3, 5, 4], 2)
    design = np.column_stack([np.ones(10), np.isin(blocks, (1, 2)), [1, 0] * 5])
    contrast = [0.0, 1, 0]
    run_all(run, group.write(design, [contrast], blocks=blocks), "--permuteBlocks")
    designs = list(arrangements(design, blocks, whole=True))
    assert len(designs) == 10
    check_test(group, "tstat1", randomise(group.maps, designs, contrast, 1.2))
    check_permutations("tstat1", design, designs)


def test_f_of_three_groups(run, group_of):
    group = group_of(7)
    design = pd.get_dummies(pd.Series([0, 1, 2, 0, 1, 2, 2])).to_numpy(float)
    contrasts = [[1, -1, 0], [0, 1, -1], [0, -1, 1]]
    run_all(run, group.write(design, contrasts, f_tests=[[1, 1, 0], [0, 1, 0]]), "--fonly")
    designs = list(arrangements(design, np.ones(7)))
    assert len(designs) == 210
    for number, rows in enumerate(([0, 1], [1]), start=1):
        expected = randomise(group.maps, designs, np.array(contrasts)[rows], 1.5, is_f=True)
        check_test(group, f"fstat{number}", expected)
    assert not Path("out_tstat1.nii.gz").exists()


def test_tfce_of_skeletons(run, group_of):
    group = group_of(6)
    run_all(run, ["-i", group.folder / "all", "-1"], "--T2")
    designs = list(arrangements(np.ones((6, 1)), np.ones(6), flips=True))
    expected = randomise(group.maps, designs, [1.0], 1.2, settings=((2, 1), 26))
    check_test(group, "tstat1", expected)


def test_smoothed_variances(run, group_of):
    group = group_of(6)
    design = np.column_stack([np.ones(6), [0, 0, 0, 1, 1, 1], [1, 0, 0, 1, 0, 0]])
    contrasts = [[0.0, 1, 0], [0.0, 0, 1]]
    words = group.write(design, contrasts, f_tests=[[1, 1]])
    run_all(run, words, "-v", 5)
    designs = list(arrangements(design, np.ones(6)))
    assert len(designs) == 180
    expected = randomise(group.maps, designs, contrasts[0], 1.2, sigma_mm=5)
    check_test(group, "tstat1", expected)
    # F stays as it is
    expected = randomise(group.maps, designs, contrasts, 1.5, is_f=True)
    check_test(group, "fstat1", expected)
