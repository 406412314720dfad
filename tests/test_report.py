import html
import re
import subprocess
import sys
import webbrowser
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from pages import SCRIPT, Model, Page, draw_nothing, group, has_blue, has_red
from simulate import make_maps

from gpustats import glm, pictures
from gpustats.design import Design
from gpustats.findings import find
from gpustats.maps import Maps
from gpustats.report import Report, build_report, make_glm_report, view_img
from gpustats.spaces import Grid
from gpustats.thresholding import ThresholdRule

LINKS = {"src", "href", "srcset", "data", "action", "poster", "background", "cite", "xlink:href"}
PAGE = '<!DOCTYPE html><p title="é">"1" < 2 & \'3\'</p>'


@pytest.fixture(scope="module")
def fitted():
    return group(np.random.default_rng(5), ["age $in$ years", SCRIPT])


@pytest.fixture(scope="module")
def rule():
    return ThresholdRule(alpha=0.001, cluster_threshold=3, connectivity=18)


@pytest.fixture(scope="module")
def report(fitted, rule):
    results = {
        "mean": fitted.contrast("intercept"),
        SCRIPT: fitted.contrast(SCRIPT),
        "both \"quoted\" & 'so'": fitted.contrast([[1, 0, 0], [0, 1, 0]]),
    }
    settings = {
        "rows matched by": "order",
        "connectivity": "mine",
        "mask": f"/data/{SCRIPT}.nii.gz",
    }
    return build_report(fitted, results, rule, title=f"A {SCRIPT} title", parameters=settings)


@pytest.fixture(scope="module")
def page(report):
    return Page(report.html)


def test_page_asks_the_network_for_nothing(page):
    documents = [page, *map(Page, page.viewers)]
    assert len(documents) == 4
    for document in documents:
        links = [
            value
            for _, attributes, _ in document.elements
            for name, value in attributes.items()
            if name in LINKS
        ]
        assert links
        assert [link for link in links if not link.startswith(("data:", "#"))] == []
        for style in document.texts("style"):
            assert not re.search(r"@import|url\((?!['\"]?data:)", style)
    assert {attributes["sandbox"] for _, attributes, _ in page.all("iframe")} == {"allow-scripts"}
    policies = [a["content"] for _, a, _ in page.all("meta") if "http-equiv" in a]
    assert policies[0].startswith("default-src 'none'; img-src data:;")


def test_page_can_be_read_without_seeing_it(page):
    assert page.all("html")[0][1]["lang"] == "en"
    levels = [int(tag[1]) for tag, _, _ in page.all("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert max(np.diff(levels)) == 1
    assert all(attributes["alt"] for _, attributes, _ in page.all("img"))
    assert all(attributes["title"] for _, attributes, _ in page.all("iframe"))
    assert all(attributes.get("scope") in ("row", "col") for _, attributes, _ in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) > 3
    identifiers = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    targets = [attributes["href"][1:] for _, attributes, _ in page.all("a")]
    assert sorted(set(identifiers)) == sorted(identifiers) == sorted(targets)


def test_what_users_write_is_text_and_nothing_else(page, report):
    assert page.all("script") == []
    assert page.texts("h1") == page.texts("title") == [f"A {SCRIPT} title"]
    assert f"Contrast: {SCRIPT}" in page.texts("h2")
    assert "Contrast: both \"quoted\" & 'so'" in page.texts("h2")
    cells = page.texts("th", "td")
    assert SCRIPT in cells
    assert f"/data/{SCRIPT}.nii.gz" in cells
    assert f"age $in$ years, {SCRIPT}, intercept (rank 3)" in cells
    assert all("alert(1)" not in viewer for viewer in page.viewers)
    assert SCRIPT not in report.html


def test_summary_says_what_was_done_and_found(page, fitted, rule):
    summary = page.texts("section")[0]
    found = find("mean", fitted.contrast("intercept"), rule, 8.0)
    peak = found.clusters.table.set_index("Peak Stat").sort_index(key=np.abs).iloc[-1]
    for words in (
        "14 subjects",
        f"{fitted.maps.n_voxels:,} voxels each",
        "3 regressors",
        "mean: t test with 11 degrees of freedom, two-sided",
        "F test with 2 and 11 degrees of freedom. Voxels count where z ≥ 3.09",
        "|z| ≥ 3.29 in clusters of at least 3 voxels (p ≤ 0.001 at a single voxel)",
        f"{found.n_surviving} voxels survive, in {found.clusters.n_clusters} clusters",
        f"largest peak is z = {peak.name:.2f} at ({peak['X']:g}, {peak['Y']:g}, {peak['Z']:g}) mm",
        "No voxel survives. Details",
    ):
        assert words in summary


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (ThresholdRule(alpha=0.01), "false positive rate of each single voxel at 0.01, uncorr"),
        (ThresholdRule(0.05, None, "fdr"), "at most 5 % of the voxels that reach it are false"),
        (ThresholdRule(0.05, None, "bonferroni"), "family-wise error rate at 0.05 (Bonferroni"),
        (ThresholdRule(0.05, 2.5, None, two_sided=False), "chosen by hand and controls no error"),
    ],
)
def test_threshold_is_explained(fitted, rule, words, monkeypatch):
    draw_nothing(monkeypatch)
    page = Page(build_report(fitted, {"mean": fitted.contrast("intercept")}, rule).html)
    summary = page.texts("section")[0]
    height = rule.height(fitted.contrast("intercept").z)
    assert words in summary
    assert f"{'|z|' if rule.two_sided else 'z'} ≥ {height:.2f} (p" in summary


def test_one_sample_test_is_called_so(rng, monkeypatch):
    draw_nothing(monkeypatch)
    fitted = glm.fit(make_maps(rng), device="cpu")
    report = make_glm_report(Model(fitted))
    summary = Page(report.html).texts("section")[0]
    assert "the mean over subjects against 0" in summary
    assert "intercept: one-sample t test with 11 degrees of freedom, one-sided" in summary
    assert report.title == "Group analysis of 12 subjects: intercept"


def test_cluster_table_speaks_of_the_label_map(page, fitted, rule):
    clusters = find("mean", fitted.contrast("intercept"), rule, 8.0).clusters
    text = page.texts("table")[0]
    body = re.split(r"Size \(mm³\) ?", text)[1]
    expected = "".join(
        f"{row['Cluster ID']}{row['X']:.1f}{row['Y']:.1f}{row['Z']:.1f}{row['Peak Stat']:.2f}"
        + (f"{size:,.0f}" if (size := row["Cluster Size (mm3)"]) != "" else "")
        for row in clusters.table.to_dict("records")
    )
    assert body.replace(" ", "") == expected
    whole = {row for row in clusters.table["Cluster ID"] if isinstance(row, int)}
    assert whole == set(np.unique(clusters.labels)) - {0}
    assert min(whole) < 0 < max(whole)


def test_parameters_and_versions_are_listed(page, fitted):
    names, values = page.texts("th"), page.texts("td")
    for name in ("connectivity", "distance of sub-peaks", "rows matched by", "python", "engine"):
        assert name in names
    for value in (
        "18 neighbours",
        "mine",
        "more than 8 mm",
        "17 missing in some map",
        "6 x 6 x 6 mm",
        np.__version__,
        nib.__version__,
        fitted.engine.describe(),
    ):
        assert value in values


def test_pictures_show_both_signs_and_plot_type_comes_first(fitted, rule):
    results = {"mean": fitted.contrast("intercept")}
    for plot_type, words in {"slice": ("Slices", "Glass"), "glass": ("Glass", "Slices")}.items():
        page = Page(build_report(fitted, results, rule, plot_type=plot_type).html)
        first, second, design = [attributes for _, attributes, _ in page.all("img")]
        assert first["alt"].startswith(words[0])
        assert second["alt"].startswith(words[1])
        assert design["alt"] == "Design matrix of 14 rows and 3 columns."
        for brain in (first, second):
            assert has_red(brain["src"])
            assert has_blue(brain["src"])


def test_page_is_small(report):
    assert len(report.html) < 4e6


def test_when_nothing_survives_the_page_says_so_and_shows_the_largest(rng):
    fitted = group(rng, [], effect=0.0)
    maps = fitted.contrast()
    report = build_report(fitted, {"mean": maps}, ThresholdRule(1e-6, None, "bonferroni"))
    page = Page(report.html)
    assert "No voxel survives." in page.texts("section")[0]
    assert (
        page.texts("p").count(
            "The map of all z values, without a threshold: click into a slice to move the cross."
        )
        == 1
    )
    assert "Highest peaks, not significant" in page.texts("h3")
    assert "Clusters" not in page.texts("h3")
    for _, attributes, _ in page.all("img")[:2]:
        assert attributes["alt"].endswith("the largest effects, not significant.")
        assert has_red(attributes["src"])
        assert has_blue(attributes["src"])
    assert f"{maps.z[np.argmax(np.abs(maps.z))]:.2f}" in page.texts("td")


def test_no_effect_in_the_tested_direction_is_said(rng):
    fitted = glm.fit(make_maps(rng, mean=-5.0), device="cpu")
    rule = ThresholdRule(two_sided=False)
    assert not find("mean", fitted.contrast(), rule, 8.0).largest.any()
    page = Page(build_report(fitted, {"mean": fitted.contrast()}, rule).html)
    assert "No voxel has an effect in the tested direction." in page.texts("p")
    assert not has_red(page.all("img")[0][1]["src"])


@pytest.mark.parametrize(
    ("contrasts", "asked", "names"),
    [
        (None, [None], ["a"]),
        ("a", ["a"], ["a"]),
        ([1, 0], [[1, 0]], ["a"]),
        (np.array([[1, 0], [0, 1]]), [np.array([[1, 0], [0, 1]])], ["a; b"]),
        (["a", "b - a"], ["a", "b - a"], ["a", "b - a"]),
        ([[1, 0], [1.0, 0.0]], [[1, 0], [1.0, 0.0]], ["a", "a (2)"]),
        ({"first": "a", 2: [0, 1]}, ["a", [0, 1]], ["first", "2"]),
    ],
)
def test_contrasts_are_one_several_or_named(rng, contrasts, asked, names, monkeypatch):
    draw_nothing(monkeypatch)
    columns = ["a"] if contrasts is None else ["a", "b"]
    table = pd.DataFrame({name: rng.standard_normal(12) for name in columns})
    model = Model(glm.fit(make_maps(rng), Design(table), device="cpu"))
    report = make_glm_report(model, contrasts, "faces")
    assert [str(definition) for definition, _ in model.asked] == [str(one) for one in asked]
    assert {first_level for _, first_level in model.asked} == {"faces"}
    page = Page(report.html)
    assert [h for h in page.texts("h2") if h.startswith("Contrast: ")] == [
        f"Contrast: {name}" for name in names
    ]
    assert "5 mm" in page.texts("td")


def test_arguments_reach_the_rule_and_the_frame(fitted, monkeypatch):
    draw_nothing(monkeypatch)
    report = make_glm_report(
        Model(fitted),
        "intercept",
        threshold=2.5,
        height_control=None,
        cluster_threshold=4,
        two_sided=True,
        min_distance=5.0,
        report_dims=(900, 500),
        connectivity=26,
        title="Mine",
    )
    page = Page(report.html)
    assert "Weights of intercept (t contrast); those of 2 other columns are 0." in page.texts(
        "caption"
    )
    values = page.texts("td")
    for value in ("z = 2.5", "4 voxels", "two (one for F)", "26 neighbours", "more than 5 mm"):
        assert value in values
    assert (report.title, report.width, report.height) == ("Mine", 900, 500)


def test_viewer_explores_what_survives_or_else_everything(fitted, monkeypatch):
    draw_nothing(monkeypatch)
    asked = []
    nothing = pictures.Viewer("", 2, 1)
    monkeypatch.setattr(pictures, "viewer", lambda *args: asked.append(args) or nothing)
    maps = fitted.contrast("intercept")
    options = {"bg_img": None, "plot_type": "glass", "cut_coords": 4, "display_mode": "xz"}
    build_report(fitted, {"mean": maps}, ThresholdRule(), **options)
    strict = {"alpha": 1e-12, "height_control": "bonferroni", "two_sided": True}
    make_glm_report(Model(fitted), "intercept", **strict, **options)
    (some, view), (everything, same) = asked
    np.testing.assert_array_equal(some.values, np.where(np.abs(maps.z) >= 3.2905267, maps.z, 0))
    np.testing.assert_array_equal(everything.values, maps.z)
    assert vars(view) == vars(same) == options


def test_many_contrasts_are_counted_in_the_title(fitted, monkeypatch):
    draw_nothing(monkeypatch)
    report = make_glm_report(Model(fitted), ["intercept"] * 4)
    assert report.title == "Group analysis of 14 subjects: 4 contrasts"


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"plot_type": "cube"}, ValueError, "plot_type must be 'slice' or 'glass', got 'cube'"),
        ({"bg_img": "none/such.nii"}, FileNotFoundError, r"such.nii: no such file"),
        ({"bg_img": 5}, TypeError, "must be a path or a NIfTI image, got int"),
        ({"min_distance": 0}, ValueError, "min_distance must be a distance in mm > 0"),
        ({"contrasts": {}}, ValueError, "there is no contrast to report"),
        ({"alpha": 3}, ValueError, "alpha must be an error rate"),
    ],
)
def test_what_cannot_be_done_is_said(fitted, options, error, match):
    with pytest.raises(error, match=match):
        make_glm_report(Model(fitted), **{"contrasts": "intercept", **options})


def test_maps_outside_the_template_are_told(rng, monkeypatch):
    draw_nothing(monkeypatch)
    maps = make_maps(rng)
    far = Grid(maps.grid.mask, maps.grid.affine + np.outer([0, 500, 0, 0], [0, 0, 0, 1]))
    told = {}
    for name, grid in {"near": maps.grid, "far": far}.items():
        fitted = glm.fit(Maps(maps.values, grid), device="cpu")
        text = build_report(fitted, {"mean": fitted.contrast()}, ThresholdRule()).html
        told[name] = "The maps lie outside the MNI152 template" in text
    assert told == {"near": False, "far": True}


@pytest.mark.parametrize("package", ["nilearn", "matplotlib", "jinja2"])
def test_missing_packages_are_named_with_their_cure(fitted, rule, package, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    cure = r"pip install 'gpustats\[report\]'"
    with pytest.raises(ImportError, match=cure):
        build_report(fitted, {"mean": fitted.contrast("intercept")}, rule)
    with pytest.raises(ImportError, match=cure):
        view_img("map.nii.gz")


def test_import_needs_none_of_them():
    code = (
        "import sys, gpustats.report; "
        "print({'nilearn', 'matplotlib', 'jinja2'} & {name.split('.')[0] for name in sys.modules})"
    )
    folder = Path(pictures.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")


def test_report_is_saved_whole(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    Report(PAGE, "t").save_as_html(str(path))
    assert path.read_text(encoding="utf-8") == PAGE
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        Report(PAGE, "t").save_as_html(tmp_path / "nowhere" / "page.html")


def test_report_in_a_notebook():
    report = Report(PAGE, 'a "title"').resize(700, 300)
    ((_, attributes, _),) = Page(report._repr_html_()).elements
    assert attributes["srcdoc"] == report.get_standalone() == PAGE
    assert (attributes["width"], attributes["height"]) == ("700", "300")
    assert attributes["title"] == 'a "title"'
    assert 'width="50" height="60"' in report.get_iframe(50, 60)
    assert html.escape(PAGE) in report.get_iframe()


def test_report_opens_in_the_browser(monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Report(PAGE, "t").open_in_browser()
    Report(PAGE, "t").open_in_browser(tmp_path / "mine.html")
    assert opened[1] == (tmp_path / "mine.html").as_uri()
    (path,) = tmp_path.glob("gpustats-*/report.html")
    assert opened[0] == path.as_uri()
    assert path.read_text(encoding="utf-8") == PAGE


def test_report_is_printed_short(report):
    assert str(report) == repr(report)
    assert re.fullmatch(r"Report\('A .* title', \d\.\d MB; .*\)", str(report))
