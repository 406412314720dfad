import html
import json
import re
import subprocess
import sys
import webbrowser
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from pages import SCRIPT, Model, Page, draw_nothing, group, has_blue, has_red, unpacked
from simulate import make_maps

from gpustats import glm, pictures
from gpustats.design import Design
from gpustats.maps import Maps
from gpustats.report import Report, make_glm_report, view_img
from gpustats.spaces import Grid

LINKS = {"src", "srcset", "data", "action", "poster", "background", "cite", "xlink:href"}
PAGE = '<!DOCTYPE html><p title="é">"1" < 2 & \'3\'</p>'
RULE = {"alpha": 0.001, "cluster_threshold": 3, "two_sided": True, "connectivity": 18}


@pytest.fixture(scope="module")
def fitted():
    return group(np.random.default_rng(5), ["age $in$ years", SCRIPT])


@pytest.fixture(scope="module")
def report(fitted):
    contrasts = {
        "mean": "intercept",
        SCRIPT: f"`{SCRIPT}`",
        "both \"quoted\" & 'so'": [[1, 0, 0], [0, 1, 0]],
    }
    told = {"rows matched by": "order", "mask": f"/data/{SCRIPT}.nii.gz"}
    return make_glm_report(Model(fitted, **told), contrasts, title=f"A {SCRIPT} title", **RULE)


@pytest.fixture(scope="module")
def page(report):
    return Page(report.html)


def test_page_asks_the_network_for_nothing(page):
    links = [value for _, a, _ in page.elements for name, value in a.items() if name in LINKS]
    assert links
    assert [link for link in links if not link.startswith("data:")] == []
    targets = [a["href"] for _, a, _ in page.all("a", "link")]
    assert [one for one in targets if not one.startswith(("#", "data:", "https://doi.org/"))] == []
    for style in page.texts("style"):
        assert not re.search(r"@import|url\((?!['\"]?data:)", style)
    policies = [a["content"] for _, a, _ in page.all("meta") if "http-equiv" in a]
    assert policies[0].startswith("default-src 'none'; img-src data:;")
    assert "unsafe-inline'; script-src 'sha256-" in policies[0]


def test_page_can_be_read_without_seeing_it(page):
    assert page.all("html")[0][1]["lang"] == "en"
    levels = [int(tag[1]) for tag, _, _ in page.all("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert max(np.diff(levels)) == 1
    assert all(a["alt"] for _, a, _ in page.all("img") if a.get("id") != "backdrop")
    scopes = {a.get("scope") for _, a, _ in page.all("th")}
    assert scopes == {"row", "col", "colgroup"}
    assert len(page.all("caption")) == len(page.all("table")) > 3
    identifiers = [a["id"] for _, a, _ in page.elements if "id" in a]
    assert len(set(identifiers)) == len(identifiers)
    targets = {a["href"][1:] for _, a, _ in page.all("a") if a["href"].startswith("#")}
    assert {"contrast-1", "contrast-2", "contrast-3"} == targets <= set(identifiers)
    labelled = {a["aria-labelledby"] for _, a, _ in page.all("section")}
    assert labelled <= set(identifiers)


def test_what_users_write_is_text_and_nothing_else(page, report):
    sources = [text for _, a, text in page.all("script") if a.get("type") != "application/json"]
    assert len(sources) == 2
    assert all("alert(1)" not in source for source in sources)
    assert page.texts("h1") == page.texts("title") == [f"A {SCRIPT} title"]
    assert SCRIPT in page.texts("h2")
    assert "both \"quoted\" & 'so'" in page.texts("h2")
    cells = page.texts("th", "td")
    assert SCRIPT in cells
    assert f"/data/{SCRIPT}.nii.gz" in cells
    assert SCRIPT not in report.html


def test_summary_says_what_was_done_and_found(page, fitted):
    summary = page.texts("section")[0]
    z = fitted.contrast("intercept").z
    where = np.argwhere(fitted.maps.grid.mask)[np.abs(z).argmax()]
    place = ", ".join(f"{x:.1f}" for x in fitted.maps.grid.to_mm(where))
    for words in (
        "The maps of 14 subjects",
        f"({fitted.maps.n_voxels:,} voxels of 6 \N{MULTIPLICATION SIGN} 6",
        f"with the regressors age $in$ years, {SCRIPT} and intercept",
        "left out: 17 (missing in some map)",
        "“mean” was tested by a two-sided t test with 11 degrees of freedom",
        "tested by an F test with 2 and 11 degrees of freedom",
        "those of fewer than 3 voxels were left out",
        "(|z| ≥ 3.29, p ≤ 0.001 at a single voxel)",
        f"the largest peak is z = {z[np.abs(z).argmax()]:.2f} at ({place}) mm".replace(
            "-", "\N{MINUS SIGN}"
        ),
        f"{SCRIPT}: No voxel survives",
    ):
        assert words in summary
    assert "Holmes & Friston, 1998" in summary
    assert any("10.1016/S1053-8119(18)31587-8" in text for text in page.texts("li"))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"alpha": 0.01}, "false positive rate of each single voxel at 0.01, uncorrected"),
        ({"height_control": "fdr", "alpha": 0.05}, "5 % of the voxels that reach it are false"),
        ({"height_control": "bonferroni"}, "family-wise error rate at 0.001 (Bonferroni"),
        ({"height_control": None, "threshold": 2.5}, "chosen by hand and controls no error"),
    ],
)
def test_threshold_is_explained(fitted, rule, words, monkeypatch):
    draw_nothing(monkeypatch)
    page = Page(make_glm_report(Model(fitted), "intercept", **rule).html)
    assert words in page.texts("section")[0]
    cited = any("Benjamini" in text for text in page.texts("li"))
    assert cited == (rule.get("height_control") == "fdr")


def test_one_sample_test_is_called_so(rng, monkeypatch):
    draw_nothing(monkeypatch)
    fitted = glm.fit(make_maps(rng), device="cpu")
    report = make_glm_report(Model(fitted))
    summary = Page(report.html).texts("section")[0]
    assert "the mean over subjects against 0" in summary
    assert (
        "“intercept” was tested by a one-sided one-sample t test with 11 degrees of freedom"
        in summary
    )
    assert report.title == "Group analysis of 12 subjects: intercept"


def test_page_is_small(report):
    assert len(report.html) < 4e6


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


def test_clusters_table_speaks_of_the_label_map(page, fitted):
    labels = set(np.unique(unpacked(page.data["contrasts"][0]["labels"]))) - {0}
    rows = [a for _, a, _ in page.all("tr") if a.get("id", "").startswith("contrast-1-cluster-")]
    names = {row["id"].removeprefix("contrast-1-cluster-") for row in rows}
    assert {str(int(label)) for label in labels} == {one for one in names if one[-1].isdecimal()}
    assert min(labels) < 0 < max(labels)
    buttons = [a for _, a, _ in page.all("button")]
    assert len(buttons) == len([a for _, a, _ in page.all("tr") if "data-cluster" in a])
    z, grid = fitted.contrast("intercept").z, fitted.maps.grid
    highest = json.loads(buttons[0]["data-mm"])
    assert highest == grid.to_mm(np.argwhere(grid.mask)[z.argmax()]).tolist()


def test_parameters_and_versions_are_listed(page, fitted):
    cells = page.texts("th", "td")
    for words in (
        *("rows matched by", "smoothing fwhm", "5 mm", "python", "engine"),
        *(np.__version__, nib.__version__, fitted.engine.describe()),
    ):
        assert words in cells


def test_pictures_show_both_signs_and_plot_type_comes_first(fitted):
    for plot_type, words in {"slice": ("Slices", "Glass"), "glass": ("Glass", "Slices")}.items():
        page = Page(make_glm_report(Model(fitted), "intercept", plot_type=plot_type, **RULE).html)
        first, second, design = [a for _, a, _ in page.all("img") if a["alt"]]
        assert first["alt"].startswith(words[0])
        assert second["alt"].startswith(words[1])
        assert design["alt"].startswith("Design matrix with 3 columns and, below it, the weights")
        for brain in (first, second):
            assert has_red(brain["src"])
            assert has_blue(brain["src"])


def test_when_nothing_survives_the_page_says_so_and_shows_the_largest(rng):
    fitted = group(rng, [], effect=0.0)
    strict = {"alpha": 1e-6, "height_control": "bonferroni", "two_sided": True}
    page = Page(make_glm_report(Model(fitted), **strict).html)
    assert "No voxel survives" in page.texts("section")[0]
    assert "Highest peaks, not significant" in page.texts("h3")
    assert "Clusters" not in page.texts("h3")
    for _, attributes, _ in page.all("img")[1:3]:
        assert attributes["alt"].endswith("the largest effects, not significant.")
        assert has_red(attributes["src"])
        assert has_blue(attributes["src"])
    z = fitted.contrast().z
    assert f"{z[np.argmax(np.abs(z))]:.2f}".replace("-", "\N{MINUS SIGN}") in page.texts("td")
    (told,) = page.data["contrasts"]
    shown = np.sort(np.abs(z))[-max(10, round(0.01 * z.size)) :]
    assert shown[0] - 0.01 < told["threshold"] <= shown[0]
    assert not told["survives"]


def test_no_effect_in_the_tested_direction_is_said(rng):
    page = Page(make_glm_report(Model(glm.fit(make_maps(rng, mean=-5.0), device="cpu"))).html)
    assert "No voxel has an effect in the tested direction." in page.texts("p")
    assert "none has an effect in the tested direction" in page.texts("section")[0]
    assert not has_red(page.all("img")[1][1]["src"])


@pytest.mark.parametrize(
    ("contrasts", "asked", "names"),
    [
        (None, [None], ["a"]),
        ("a", ["a"], ["a"]),
        ([1, 0], [[1, 0]], ["a"]),
        (np.array([[1, 0], [0, 1]]), [np.array([[1, 0], [0, 1]])], ["a; b"]),
        (["a", "b - a"], ["a", "b - a"], ["a", "b - a"]),
        ([[1, 0], [1.0, 0.0]], [[1, 0], [1.0, 0.0]], ["a", "a (2)"]),
        ({"a-b": "a", "a - b": [0, 1]}, ["a", [0, 1]], ["a-b", "a - b"]),
    ],
)
def test_contrasts_are_one_several_or_named(rng, contrasts, asked, names, monkeypatch):
    draw_nothing(monkeypatch)
    columns = ["a"] if contrasts is None else ["a", "b"]
    table = pd.DataFrame({name: rng.standard_normal(12) for name in columns})
    model = Model(glm.fit(make_maps(rng), Design(table), device="cpu"))
    page = Page(make_glm_report(model, contrasts, "faces").html)
    assert [str(definition) for definition, _ in model.asked] == [str(one) for one in asked]
    assert {first_level for _, first_level in model.asked} == {"faces"}
    assert page.texts("h2")[1:-3] == names
    for told, definition in zip(page.data["contrasts"], asked, strict=True):
        z = model.fitted.contrast(definition).z
        values = next(one["values"] for one in told["maps"] if one["name"] == "z")
        np.testing.assert_allclose(unpacked(values), z, rtol=2.0**-14)


def test_arguments_reach_the_words_and_the_frame(fitted, monkeypatch):
    draw_nothing(monkeypatch)
    report = make_glm_report(
        Model(fitted),
        "intercept",
        threshold=2.5,
        height_control=None,
        cluster_threshold=4,
        two_sided=True,
        report_dims=(900, 500),
        connectivity=26,
        title="Mine",
    )
    summary = Page(report.html).texts("section")[0]
    for words in ("|z| ≥ 2.50", "fewer than 4 voxels", "(26 neighbours)"):
        assert words in summary
    assert (report.title, report.width, report.height) == ("Mine", 900, 500)


def test_view_reaches_the_pictures(fitted, monkeypatch):
    draw_nothing(monkeypatch)
    asked = []
    monkeypatch.setattr(pictures, "slices", lambda *args: asked.append(args) or "data:,")
    options = {"bg_img": None, "plot_type": "glass", "cut_coords": 4, "display_mode": "xz"}
    make_glm_report(Model(fitted), "intercept", **RULE, **options)
    ((brain, view),) = asked
    assert vars(view) == options
    z = fitted.contrast("intercept").z
    assert set(brain.values[brain.values != 0]) <= set(z[np.abs(z) >= 3.2905267])


def test_maps_outside_the_template_are_told(rng, monkeypatch):
    draw_nothing(monkeypatch)
    maps = make_maps(rng)
    far = Grid(maps.grid.mask, maps.grid.affine + np.outer([0, 500, 0, 0], [0, 0, 0, 1]))
    told = {}
    for name, grid in {"near": maps.grid, "far": far}.items():
        fitted = glm.fit(Maps(maps.values, grid), device="cpu")
        text = make_glm_report(Model(fitted)).html
        told[name] = "The maps lie outside the MNI152 template" in text
    assert told == {"near": False, "far": True}


@pytest.mark.parametrize("package", ["nilearn", "matplotlib", "jinja2"])
def test_missing_packages_are_named_with_their_cure(fitted, package, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    cure = r"pip install 'gpustats\[report\]'"
    with pytest.raises(ImportError, match=cure):
        make_glm_report(Model(fitted), "intercept")
    with pytest.raises(ImportError, match=cure):
        view_img("map.nii.gz")
