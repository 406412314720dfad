"""Reports on the command line: those that runs add, and those made again from their JSON."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pages import SCRIPT, Page, draw_nothing, unpacked
from simulate import make_maps, save_group

from gpustats import cli_report
from gpustats.design import Design
from gpustats.enhancements import Voxelwise
from gpustats.inference import permutation_test
from gpustats.permutation_outputs import save_maps
from gpustats.records import read_record
from gpustats.report import build_report
from gpustats.tfce import Tfce

RESULTS = Path("gpustats-results")
PERMUTE = ["--n-permutations", "40", "--statistics", "tfce,voxelwise", "--device", "cpu"]
CLUSTER = {
    "id": -1,
    "n_voxels": 123,
    "size_mm3": 984.0,
    "mass": -512.34,
    "centre_of_mass_mm": [1.0, -2.04, 3.0],
    "centre_of_mass_inside": False,
    "true_discovery_proportion": 0.61,
    "true_discovery_proportion_permutation": 0.7,
    "p_corrected": {"voxelwise": 0.001, "tfce": 0.0004},
    "atlas": {"An <i>atlas</i>": [["Left Insula", 0.62], ["Left Putamen", 0.2]]},
    "peaks": [
        {
            "id": "-1",
            "mm": [1.0, 2.0, 3.0],
            "voxel": [1, 2, 3],
            "z": -6.1,
            "statistic": -7.25,
            "df": 29,
            "p": 1.25e-9,
            "effect": -0.8,
            "effect_interval": [-1.1, -0.5],
            "effect_size": {"name": "Hedges' g", "value": -1.3, "interval": [-1.8, -0.8]},
            "p_corrected": {"voxelwise": 0.001, "tfce": 0.0006},
            "atlas": {"An <i>atlas</i>": "Left Insula"},
        },
        {
            "id": "-1a",
            "mm": [5.0, 2.0, 3.0],
            "z": -4.1,
            "statistic": -4.25,
            "p": 1e-5,
            "p_corrected": {"voxelwise": 0.03, "tfce": 0.0008},
            "atlas": {"An <i>atlas</i>": "Right Insula"},
        },
    ],
}
"""A cluster with all that is known of one."""


@pytest.fixture
def files(tmp_path, rng):
    """Maps on disk, some of which respond."""
    maps = make_maps(rng, mean=0)
    maps.values[:30] += 2
    folder = tmp_path / "maps"
    folder.mkdir()
    return [str(path) for path in save_group(folder, maps)]


def content(folder=RESULTS):
    return json.loads(Path(folder, "result.json").read_text())


def rewrite(change, folder=RESULTS):
    """Change what the JSON of a run says."""
    told = content(folder)
    change(told)
    Path(folder, "result.json").write_text(json.dumps(told))


@pytest.mark.draws
def test_a_report_is_made_again_from_the_json(run, files):
    words = ["--contrast", "intercept", "--contrast", "-intercept", "--title", f"A {SCRIPT}"]
    status, out, _ = run("fit", *files, *words)
    assert status == 0
    assert "start with gpustats-results/report.html" in out
    assert content()["report"] == "report.html"
    first = (RESULTS / "report.html").read_text()
    assert Page(first).texts("title") == [f"A {SCRIPT}"]
    shutil.move(RESULTS, "elsewhere")
    status, out, err = run("report", "elsewhere/result.json", "--output", "again.html")
    assert (status, err) == (0, "")
    assert out.startswith("written to again.html (")
    assert Path("again.html").read_text() == first


@pytest.mark.draws
def test_permute_and_merge_add_the_same_report(run, files):
    status, out, _ = run("permute", *files, *PERMUTE)
    assert status == 0
    assert "start with gpustats-results/report.html" in out
    for shard in ("1/2", "2/2"):
        assert run("permute", *files, *PERMUTE, "--shard", shard, "--output-dir", "parts")[0] == 0
    assert not Path("parts/report.html").exists()
    assert run("merge", "parts", "--output-dir", "merged", "--title", "Merged")[0] == 0
    whole, merged = (Page(Path(one, "report.html").read_text()) for one in (RESULTS, "merged"))
    assert merged.texts("title") == ["Merged"]
    assert whole.texts("section")[1] == merged.texts("section")[1]
    summary = whole.texts("section")[0]
    for words in (
        "sign flips of 12 subjects: 40 of 4,096 distinct, drawn at random, seed 0",
        "threshold-free cluster enhancement (Smith & Nichols, 2009) with E = 0.5, H = 2",
        "the statistic of each voxel",
        "TFCE corrected p is at most 0.05",
    ):
        assert words in summary


@pytest.mark.draws
def test_null_distributions_thresholds_and_p_are_those_of_the_test(run, files, monkeypatch):
    draw_nothing(monkeypatch)
    assert run("permute", *files, *PERMUTE)[0] == 0
    (contrast,) = content()["contrasts"]
    page = Page((RESULTS / "report.html").read_text())
    cells = page.texts("td")
    for test in contrast["statistics"]:
        assert f"{test['fwe_thresholds']['0.05']:.5g}" in cells
        assert f"{test['smallest_p_corrected']['value']:.3g}" in cells
        assert f"{test['n_surviving_voxels']:,}" in cells
    (told,) = page.data["contrasts"]
    named = {one["name"]: unpacked(one["values"]) for one in told["maps"]}
    p = 10.0 ** -named["p (TFCE corrected)"]
    tfce = contrast["statistics"][0]
    assert p.min() == pytest.approx(tfce["smallest_p_corrected"]["value"], rel=1e-3)
    assert (p <= 0.0501).sum() == tfce["n_surviving_voxels"]
    assert "p (voxelwise corrected)" in named


@pytest.mark.draws
def test_tests_saved_from_python_are_reported(run, rng, monkeypatch):
    draw_nothing(monkeypatch)
    maps = make_maps(rng)
    table = pd.DataFrame({"a": rng.normal(size=12), "b": 1.0})
    test = permutation_test(
        maps, Design(table), "a", statistics=[Voxelwise(), Tfce()], n_permutations=20, device="cpu"
    )
    save_maps(test, "saved")
    assert run("report", "saved")[0] == 0
    page = Page(Path("saved/report.html").read_text())
    assert page.texts("title") == ["Group analysis: a"]
    assert "(164 voxels" in page.texts("section")[0]
    assert "20 of 479,001,600 distinct" in page.texts("section")[0]


def test_no_report_is_written_where_none_is_wanted(run, files):
    assert run("fit", *files)[0] == 0
    for command in (["fit"], ["permute", *PERMUTE]):
        status, out, err = run(*command, *files, "--no-report")
        assert status == 0
        assert "gpustats-results/report.html is of an earlier run" in err
        assert "start with gpustats-results/result.json" in out
        assert content()["report"] is None


def test_a_permutation_test_needs_no_extra(run, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    status, _, err = run("permute", *files, *PERMUTE)
    assert status == 0
    assert err.count("no report.html") == err.count("pip install") == 1
    assert "report.html" not in os.listdir(RESULTS)


@pytest.mark.parametrize("command", [["fit"], ["permute", *PERMUTE]])
@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "gpustats-results, without the report: gpustats report gpu"),
        (OSError("disk full"), 2, "gpustats-results, but no report.html: disk full"),
    ],
)
def test_results_outlive_what_happens_to_the_report(
    run, files, command, error, status, words, monkeypatch
):
    def fail(_):
        raise error

    monkeypatch.setattr(cli_report, "build_report", fail)
    said = run(*command, *files)
    assert said[0] == status
    assert f"the results are in {words}" in said[2]
    assert {*content()["contrasts"][0]["files"], "result.json"} <= set(os.listdir(RESULTS))


@pytest.mark.draws
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: told.clear(), "this is not the result.json of gpustats fit"),
        (lambda told: told.update(contrasts=[]), "lists no contrasts"),
        (lambda told: told["contrasts"][0].pop("weights"), "lacks what this version reports (wei"),
        (lambda told: told["contrasts"][0].pop("threshold_z"), "(a threshold); run it again"),
        (lambda told: told["contrasts"][0]["files"].append("gone.tsv"), "gone.tsv: no such file"),
        (lambda told: told["contrasts"][0].pop("height_control"), "garbles what this version"),
        (lambda told: told["data"].update(n_voxels=5), "the JSON says 5 and"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(run, files, change, words):
    assert run("fit", *files, "--no-report")[0] == 0
    rewrite(change)
    status, out, err = run("report", RESULTS / "result.json")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert words in err
    assert not (RESULTS / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("absent.json", None, "absent.json: no such file; name the result.json of a run"),
        ("words.json", "{'no': json", "words.json: this is no JSON"),
        ("list.json", "[1, 2]", "list.json: this is not the result.json"),
    ],
)
def test_files_that_are_no_json_of_a_run_are_named(run, name, text, words):
    if text is not None:
        Path(name).write_text(text)
    status, _, err = run("report", name)
    assert status == 2
    assert err.count("\n") == 1
    assert words in err


def test_clusters_are_told_with_all_that_the_json_knows(run, files, monkeypatch):
    draw_nothing(monkeypatch)
    assert run("permute", *files, *PERMUTE)[0] == 0
    rewrite(lambda told: told["contrasts"][0].update(clusters=[CLUSTER]))
    page = Page(build_report(read_record(RESULTS)).html)
    rows = [text for text in page.texts("tr") if text.startswith("\N{MINUS SIGN}1")]
    assert rows == [
        "−11.0, 2.0, 3.0−6.10−7.251.25e−09−0.800 [−1.10, −0.500]−1.30 [−1.80, −0.800]0.00040.001"  # noqa: RUF001
        "123984−512.31.0, −2.0, 3.0 (outside)61 %70 %Left Insula 62 %, Left Putamen 20 %",  # noqa: RUF001
        "−1a5.0, 2.0, 3.0−4.10−4.251e−050.00080.03Right Insula",  # noqa: RUF001
    ]
    heads = [text for _, a, text in page.all("th") if a.get("scope") == "colgroup"]
    assert heads == ["Peak", "Corrected p", "Cluster", "Active, at least", "Atlas"]
    assert "An <i>atlas</i>" in page.texts("th")
    summary = page.texts("section")[0]
    assert "Hedges' g (Hedges, 1981)" in summary
    assert "all-resolutions inference (Rosenblatt et al., 2018)" in summary


def test_columns_of_which_nothing_is_known_are_absent(run, files, monkeypatch):
    draw_nothing(monkeypatch)
    assert run("permute", *files, *PERMUTE)[0] == 0
    bare = {key: CLUSTER[key] for key in ("id", "n_voxels", "size_mm3")}
    bare["peaks"] = [{"id": "-1", "mm": [1.0, 2.0, 3.0], "z": -6.1}]
    rewrite(lambda told: told["contrasts"][0].update(clusters=[bare]))
    page = Page(build_report(read_record(RESULTS)).html)
    heads = [text for _, a, text in page.all("th") if a.get("scope") == "colgroup"]
    assert heads == ["Peak", "Cluster"]
    assert np.isin(["voxels", "mm³"], page.texts("th")).all()
    assert "mass" not in page.texts("th")
