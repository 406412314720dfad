"""What the table of clusters tells, against plain definitions on the maps that lie beside it."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage, stats
from simulate import AFFINE, make_incomplete, make_maps, save_group

from gpustats import (
    ClusterExtent,
    Design,
    ExtraMaps,
    Voxelwise,
    fit,
    get_clusters_table,
    permutation_test,
    save_maps,
)
from gpustats.archives import load_inference, save_inference
from gpustats.atlases import Atlas
from gpustats.cluster_facts import TableChoices
from gpustats.outputs import USUAL_TABLE, contrast_results
from gpustats.thresholding import ThresholdRule
from gpustats.true_discoveries import true_discoveries

RULE = ThresholdRule(0.05, 1.8, None, 0, True, 6)
BOX = (slice(3, 6), slice(3, 6), slice(2, 5))


def grouped(rng, n_subjects=16):
    """Maps with effects of group and of age, of both signs, and their design."""
    maps = make_maps(rng, n_subjects, mean=0)
    age = rng.normal(40, 9, n_subjects)
    patients = np.repeat([1.0, 0.0], n_subjects // 2)
    maps.values[:70] += 2 * patients.astype(np.float32)
    maps.values[-60:] -= 2 * patients.astype(np.float32)
    maps.values[120:170] += 0.1 * age.astype(np.float32)
    table = pd.DataFrame({"patients": patients, "controls": 1 - patients, "age": age})
    return maps, Design(table)


def halves():
    """An atlas whose regions are the halves of the field of view."""
    labels = np.ones((9, 10, 8), dtype=np.int64)
    labels[5:] = 2
    return Atlas("halves", labels, AFFINE, {1: "right", 2: "left"})


def written(folder, maps, table=USUAL_TABLE, rule=RULE):
    summary = contrast_results(maps, rule, table).write(folder)
    text = json.dumps(summary, allow_nan=False)
    stem = f"contrast-{maps.contrast.label}"
    labels = nib.load(folder / f"{stem}_desc-clusters_dseg.nii.gz").get_fdata()
    tsv = pd.read_csv(folder / f"{stem}_clusters.tsv", sep="\t", dtype={"Cluster ID": str})
    return json.loads(text), labels, tsv


@pytest.mark.parametrize("contrast", ["patients - controls", "age", "patients - controls; age"])
def test_each_cluster_is_told_as_defined(rng, tmp_path, contrast):
    maps, design = grouped(rng)
    found = fit(maps, design).contrast(contrast)
    summary, labels, _ = written(tmp_path, found, TableChoices(atlases=(halves(),)))
    grid, clusters = found.grid, summary["clusters"]
    volume = grid.unmask(found.statistic)
    two_sided = found.contrast.statistic == "t"
    p = (2 if two_sided else 1) * stats.norm.sf(np.abs(found.z) if two_sided else found.z)
    bounds = true_discoveries(p, labels[grid.mask].astype(int), 0.05)
    assert sorted(one["id"] for one in clusters) == bounds.names.tolist()
    assert summary["n_clusters"] == len(clusters) > 1
    for one in clusters:
        inside = labels == one["id"]
        assert one["n_voxels"] == np.count_nonzero(inside)
        assert one["size_mm3"] == pytest.approx(42 * one["n_voxels"])
        assert one["mass"] == pytest.approx(volume[inside].sum())
        centre = ndimage.center_of_mass(np.abs(volume), labels, one["id"])
        assert one["centre_of_mass_mm"] == pytest.approx(list(grid.to_mm(centre)), abs=1e-4)
        assert one["centre_of_mass_inside"] == inside[tuple(np.round(centre).astype(int))]
        share = bounds.proportions[bounds.names == one["id"]].item()
        assert one["true_discovery_proportion"] == share
        left = np.count_nonzero(inside[5:]) / one["n_voxels"]
        shares = {"left": left, "right": 1 - left}
        assert dict(one["atlas"]["halves"]) == pytest.approx({k: v for k, v in shares.items() if v})
        assert [s for _, s in one["atlas"]["halves"]] == sorted(shares.values(), reverse=True)[
            : len(one["atlas"]["halves"])
        ]


@pytest.mark.parametrize("contrast", ["patients - controls", "age", "patients - controls; age"])
def test_each_peak_is_told_as_defined(rng, tmp_path, contrast):
    maps, design = grouped(rng)
    found = fit(maps, design).contrast(contrast)
    summary, labels, tsv = written(tmp_path, found, TableChoices(5.0, atlases=(halves(),)))
    z = nib.Nifti1Image(np.where(labels, found.grid.unmask(found.z), 0), AFFINE)
    table = get_clusters_table(z, 0, two_sided=RULE.two_sided, min_distance=5.0)
    peaks = [peak for one in summary["clusters"] for peak in one["peaks"]]
    assert [peak["id"] for peak in peaks] == table["Cluster ID"].astype(str).tolist()
    assert tsv["Cluster ID"].tolist() == [peak["id"] for peak in peaks]
    assert len(peaks) > len(summary["clusters"])
    name = "hedges_g" if contrast == "patients - controls" else "partial_r"
    name = name if found.contrast.statistic == "t" else "partial_r_square"
    sizes = getattr(found, name)
    numbers = found.grid.unmask(np.arange(found.grid.n_voxels))
    for row, peak in zip(table.itertuples(), peaks, strict=True):
        v = int(numbers[tuple(peak["voxel"])])
        assert peak["mm"] == pytest.approx([row.X, row.Y, row.Z])
        assert peak["z"] == found.z[v] == row[5]
        assert (peak["statistic"], peak["df"]) == (found.statistic[v], 13)
        expected = stats.f.sf(found.statistic[v], 2, 13)
        if found.contrast.statistic == "t":  # both tails count, so p is small in negative clusters
            expected = 2 * stats.t.sf(abs(found.statistic[v]), 13)
        assert peak["p"] == pytest.approx(expected)
        assert peak["effect_size"]["value"] == pytest.approx(sizes[v])
        low, high = peak["effect_size"]["interval"]
        assert low < sizes[v] < high
        assert peak["atlas"] == {"halves": "right" if peak["voxel"][0] < 5 else "left"}
        if found.contrast.statistic == "t":
            assert peak["effect"] == found.effect[v]
            limits = [limit[v] for limit in found.confidence_interval(0.95)]
            assert peak["effect_interval"] == pytest.approx(limits)


def test_the_table_holds_the_same_facts(rng, tmp_path):
    maps, design = grouped(rng)
    found = fit(maps, design).contrast("patients - controls")
    summary, _, tsv = written(tmp_path, found, TableChoices(5.0, atlases=(halves(),)))
    main = tsv[tsv["Cluster Mass"].notna()]
    assert len(main) < len(tsv)
    lines = Path(tmp_path, f"contrast-{found.contrast.label}_clusters.tsv").read_text().splitlines()
    cell = lines[1].split("\t")[tsv.columns.get_loc("Cluster Size (voxels)")]
    assert cell == str(summary["clusters"][0]["n_voxels"])
    assert main["Cluster ID"].tolist() == [str(one["id"]) for one in summary["clusters"]]
    for (_, row), one in zip(main.iterrows(), summary["clusters"], strict=True):
        peak = one["peaks"][0]
        told = {
            "Cluster Size (mm3)": one["size_mm3"],
            "Cluster Size (voxels)": one["n_voxels"],
            "Cluster Mass": one["mass"],
            "Centre of Mass Y": one["centre_of_mass_mm"][1],
            "True Discovery Proportion": one["true_discovery_proportion"],
            "Peak Stat": peak["z"],
            "Statistic": peak["statistic"],
            "Effect, lower": peak["effect_interval"][0],
            "Hedges' g": peak["effect_size"]["value"],
            "Hedges' g, upper": peak["effect_size"]["interval"][1],
        }
        assert row[list(told)].to_dict() == pytest.approx(told)
        assert str(row["Centre of Mass Inside"]) == str(one["centre_of_mass_inside"])
        assert row["halves, peak"] == peak["atlas"]["halves"]
        assert row["halves, cluster"].startswith(one["atlas"]["halves"][0][0])


def test_a_centre_outside_its_cluster_is_flagged(rng, tmp_path):
    maps = make_maps(rng, 12, mean=0)
    shell = np.zeros(maps.grid.mask.shape, dtype=bool)
    shell[BOX] = True
    shell[4, 4, 3] = False
    maps.values[shell[maps.grid.mask]] += 4
    found = fit(maps).contrast()
    rule = ThresholdRule(0.05, 5.0, None, 20, True, 26)
    summary, labels, _ = written(tmp_path, found, rule=rule)
    (one,) = summary["clusters"]
    assert labels[4, 4, 3] == 0
    assert not one["centre_of_mass_inside"]


def test_corrected_p_are_the_smallest_of_the_cluster(rng, tmp_path):
    maps, design = grouped(rng)
    forming = ClusterExtent(connectivity=6, threshold_z=2.0)
    test = permutation_test(
        maps, design, "patients - controls", statistics=[Voxelwise(), forming], n_permutations=200
    )
    save_inference(test, tmp_path / "inference.npz")
    for name in ("direct", "restored"):
        save_maps(test, tmp_path / name, alpha=0.2, atlases=[halves()])
        test = load_inference(tmp_path / "inference.npz")
    first, second = (
        json.loads(Path(tmp_path, name, "result.json").read_text())["contrasts"][0]
        for name in ("direct", "restored")
    )
    assert first == second  # the archive knows what effect sizes need
    assert first["clusters"][0]["peaks"][0]["effect_size"]["name"] == "Hedges' g"
    stem = f"contrast-{first['label']}"
    labels = nib.load(tmp_path / "direct" / f"{stem}_desc-clusters_dseg.nii.gz").get_fdata()
    for one in first["clusters"]:
        for outcome in test.outcomes:
            p = test.grid.unmask(outcome.p_corrected)
            assert one["p_corrected"][outcome.statistic] == p[labels == one["id"]].min()
            for peak in one["peaks"]:
                assert peak["p_corrected"][outcome.statistic] == p[tuple(peak["voxel"])]
    for told in first["statistics"]:
        assert (tmp_path / "direct" / told["null_maxima"]).exists()


def test_python_writes_what_the_command_line_does(rng, tmp_path):
    maps, design = grouped(rng)
    test = permutation_test(maps, design, "age", n_permutations=50)
    extra = ExtraMaps(effect_size=True, confidence=0.9, log10_p=True)
    save_maps(test, tmp_path, alpha=0.3, true_discovery_alpha=0.2, extra_maps=extra)
    (contrast,) = json.loads((tmp_path / "result.json").read_text())["contrasts"]
    r = nib.load(tmp_path / "contrast-age_stat-partialr_statmap.nii.gz").get_fdata()
    np.testing.assert_allclose(r[test.grid.mask], test.maps["age"].partial_r, rtol=1e-6)
    assert len(contrast["extra_maps"]) == 7
    p = test.maps["age"].p
    labels = nib.load(tmp_path / "contrast-age_desc-clusters_dseg.nii.gz").get_fdata()
    bounds = true_discoveries(
        2 * np.minimum(p, 1 - p), labels[test.grid.mask].astype(int), alpha=0.2
    )
    told = {one["id"]: one["true_discovery_proportion"] for one in contrast["clusters"]}
    assert told == dict(zip(bounds.names.tolist(), bounds.proportions.tolist(), strict=True))
    assert told
    with pytest.raises(ValueError, match="alpha must be an error rate"):
        save_maps(test, tmp_path / "none", true_discovery_alpha=5)
    assert not (tmp_path / "none").exists()


def test_results_of_earlier_versions_are_told_as_far_as_they_go(rng, tmp_path):
    maps, design = grouped(rng)
    test = permutation_test(maps, design, "patients - controls", n_permutations=50)
    save_inference(test, tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as archive:
        arrays = dict(archive)
    header = json.loads(arrays["gpustats_inference"].tobytes())
    del header["maps"][0]["unscaled_variance"], header["maps"][0]["slopes"]
    arrays["gpustats_inference"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(tmp_path / "old.npz", **arrays)
    save_maps(load_inference(tmp_path / "old.npz"), tmp_path / "results", alpha=0.2)
    (contrast,) = json.loads((tmp_path / "results" / "result.json").read_text())["contrasts"]
    for one in contrast["clusters"]:
        for peak in one["peaks"]:
            r = peak["statistic"] / np.sqrt(peak["statistic"] ** 2 + 13)
            assert peak["effect_size"]["name"] == "partial r"
            assert peak["effect_size"]["value"] == pytest.approx(r)
    assert contrast["clusters"]


def test_voxels_that_lack_subjects_are_told_by_their_own_df(rng, tmp_path):
    maps = make_incomplete(rng, 14, 0.15, mean=1.0)
    found = fit(maps).contrast()
    summary, labels, _ = written(tmp_path, found, TableChoices(3.0))
    z, df = found.grid.unmask(found.z), found.grid.unmask(found.df)
    g = found.grid.unmask(found.hedges_g)
    assert len({peak["df"] for one in summary["clusters"] for peak in one["peaks"]}) > 1
    for one in summary["clusters"]:
        assert one["mass"] == pytest.approx(z[labels == one["id"]].sum())
        for peak in one["peaks"]:
            assert peak["df"] == df[tuple(peak["voxel"])]
            assert peak["effect_size"]["value"] == pytest.approx(g[tuple(peak["voxel"])])


def test_two_subjects_have_no_effect_size(rng, tmp_path):
    found = fit(make_maps(rng, 2)).contrast()
    summary, _, tsv = written(tmp_path, found, rule=ThresholdRule(0.05, 0.5, None, 0, True, 6))
    peaks = [peak for one in summary["clusters"] for peak in one["peaks"]]
    assert {(peak["df"], peak["effect_size"]) for peak in peaks} == {(1, None)}
    assert not any("Hedges" in column for column in tsv.columns)


def test_one_sided_p_is_that_of_the_upper_tail(rng, tmp_path):
    found = fit(make_maps(rng)).contrast()
    summary, _, _ = written(tmp_path, found, rule=ThresholdRule(0.05, 1.8, None, 0, False, 6))
    for one in summary["clusters"]:
        for peak in one["peaks"]:
            assert peak["p"] == pytest.approx(stats.t.sf(peak["statistic"], peak["df"]))
    assert summary["clusters"]
    assert summary["p_of_peaks"] == "one-sided, upper tail"


def test_nothing_survives(rng, tmp_path):
    found = fit(make_maps(rng)).contrast()
    rule = ThresholdRule(0.05, 50.0, None, 0, True, 6)
    summary, _, tsv = written(tmp_path, found, rule=rule)
    assert summary["clusters"] == []
    assert len(tsv) == 0
    assert tsv.columns[0] == "Cluster ID"


def test_the_command_line_writes_other_forms_of_p_and_names_of_places(run, tmp_path, rng):
    maps, design = grouped(rng)
    design.table.to_csv(tmp_path / "design.csv", index=False)
    labels = halves().labels.astype(np.int16)
    nib.save(nib.Nifti1Image(labels, AFFINE), tmp_path / "halves.nii.gz")
    (tmp_path / "halves.csv").write_text("index,name\n1,right\n2,left\n")
    words = [*map(str, save_group(tmp_path, maps)), "--design", str(tmp_path / "design.csv")]
    words += [
        "--contrast",
        "age",
        "--atlas",
        f"{tmp_path / 'halves.nii.gz'},{tmp_path / 'halves.csv'}",
    ]
    words += ["--logp", "--one-minus-p", "--effect-size", "--alpha", "0.2"]
    assert run("permute", *words, "--n-permutations", "100", "--statistics", "voxelwise")[0] == 0
    folder = Path("gpustats-results")
    stem = "contrast-age_stat-"
    for label in ("voxelwisefwe", "voxelwiseunc"):
        p, log10_p, one_minus_p = (
            nib.load(folder / f"{stem}{form}_desc-{label}_statmap.nii.gz").get_fdata()
            for form in ("p", "log10p", "oneminusp")
        )
        np.testing.assert_allclose(log10_p, -np.log10(p), rtol=1e-6)
        np.testing.assert_array_equal(one_minus_p, 1 - p)
    assert (folder / f"{stem}partialr_statmap.nii.gz").exists()
    (contrast,) = json.loads((folder / "result.json").read_text())["contrasts"]
    assert contrast["clusters"][0]["peaks"][0]["atlas"]["halves"] in ("left", "right")
    status, _, err = run("permute", *words[:-2], "--atlas", "nowhere")
    assert status == 2
    assert "no atlas is called nowhere" in err
