"""The page of a report in Chromium, from file:// and without a network."""

import nibabel as nib
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import Tab, chromium
from pages import SCRIPT, group
from playwright.sync_api import expect

from gpustats.contrasts import file_label
from gpustats.design import Design
from gpustats.enhancements import Voxelwise
from gpustats.inference import permutation_test
from gpustats.outputs import contrast_results, write_json
from gpustats.permutation_outputs import save_maps
from gpustats.records import read_record
from gpustats.report import build_report
from gpustats.tfce import Tfce
from gpustats.thresholding import ThresholdRule

pytestmark = pytest.mark.browser

STATISTICS = {
    "t": "stat-t",
    "z": "stat-z",
    "effect": "stat-effect",
    "p (uncorrected, upper tail)": "stat-p",
    "p (voxelwise corrected)": "stat-p_desc-voxelwisefwe",
    "p (TFCE corrected)": "stat-p_desc-tfcefwe",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A permutation test of which much survives, and a fit of which nothing does."""
    rng = np.random.default_rng(8)
    fitted = group(rng, [])
    test = permutation_test(
        fitted.maps,
        Design(fitted.design.table),
        statistics=[Voxelwise(), Tfce()],
        n_permutations=200,
        device="cpu",
    )
    survives = tmp_path_factory.mktemp("survives")
    save_maps(test, survives)
    nothing = tmp_path_factory.mktemp("nothing")
    dull = group(rng, [SCRIPT], effect=0.0)
    rule = ThresholdRule(1e-6, None, "bonferroni")
    entries = [
        contrast_results(dull.contrast(name), rule).write(nothing)
        for name in (f"`{SCRIPT}`", "intercept")
    ]
    design = dull.design.table.to_dict(orient="list")
    told = {"versions": {"gpustats": "0"}, "design": design, "contrasts": entries}
    write_json(nothing / "result.json", told)
    for folder in (survives, nothing):
        build_report(read_record(folder)).save_as_html(folder / "report.html")
    return {"survives": survives, "nothing": nothing}


@pytest.fixture(scope="module")
def browser():
    with chromium() as one:
        yield one


@pytest.fixture(params=["survives", "nothing"])
def folder(request, folders):
    return folders[request.param]


@pytest.fixture
def tab(browser, folder):
    one = Tab(browser, folder / "report.html", viewport={"width": 1280, "height": 900})
    yield one
    # whatever a test did, the page asked for nothing but itself and had nothing to say
    assert one.requests[0].startswith("file://")
    assert [url for url in one.requests[1:] if not url.startswith("data:")] == []
    assert one.complaints == []
    one.page.close()


def volume(folder, name):
    (path,) = folder.glob(f"contrast-{name}")
    return nib.load(path).get_fdata(), nib.load(path).affine


def check_voxel(tab, folder, label="intercept", number=1):
    """Compare what is read at the crosshair with the voxel in the images."""
    z, affine = volume(folder, f"{label}_stat-z_statmap.nii.gz")
    index = np.linalg.solve(affine, [*tab.place(number), 1])[:3]
    voxel = tuple(np.round(index).astype(int))
    read = tab.read(number)
    labels, _ = volume(folder, f"{label}_desc-clusters_dseg.nii.gz")
    assert read.pop("cluster") == (f"{labels[voxel]:.0f}" if labels[voxel] else "none")
    for name, shown in read.items():
        values, _ = volume(folder, f"{label}_{STATISTICS[name]}_statmap.nii.gz")
        # p has three digits, other values have four
        digits = 5e-3 if name.startswith("p ") else 6e-4
        assert float(shown) == pytest.approx(values[voxel], rel=digits)
    assert z[voxel] != 0
    return voxel


def test_crosshair_follows_the_table(tab, folder):
    survives = folder.name.startswith("survives")
    label = "intercept" if survives else file_label(f"`{SCRIPT}`")
    buttons = tab.page.locator("#contrast-1 table.clusters button")
    seen = set()
    for button in buttons.all()[:4]:
        button.click()
        mm = [float(x) for x in button.get_attribute("data-mm").strip("[]").split(",")]
        np.testing.assert_allclose(tab.place(), mm, atol=0.05)
        check_voxel(tab, folder, label)
        assert button.get_attribute("aria-current") == "true"
        seen.add(tab.slices())
    assert len(seen) == min(buttons.count(), 4) > 1
    marked = tab.page.locator("#contrast-1 [aria-current]")
    assert marked.count() == 1


def test_keyboard_reaches_and_works_everything(tab):
    page = tab.page
    second = page.locator("#contrast-1 table.clusters button").nth(1)
    second.focus()
    page.keyboard.press("Enter")
    before = tab.place()
    tab.explorer().locator("canvas.slices").focus()
    for key in ("ArrowRight", "ArrowUp", "PageUp"):
        page.keyboard.press(key)
    steps = np.subtract(tab.place(), before)
    assert ((steps > 0) & (steps < 4)).all()
    status = tab.explorer().locator("[role=status]")
    place = ", ".join(f"{x:.1f}" for x in tab.place()).replace("-", "\N{MINUS SIGN}")
    expect(status).to_contain_text(f"({place}) mm: t = ")
    field = tab.explorer().locator("input[type=number]").first
    field.fill(str(before[0]))
    field.press("Enter")
    assert tab.place()[0] == before[0]


def test_a_click_reads_the_voxel_and_its_cluster(browser, folders):
    folder = folders["survives"]
    tab = Tab(browser, folder / "report.html", viewport={"width": 1280, "height": 900})
    canvas = tab.explorer().locator("canvas.slices")
    size = canvas.bounding_box()
    read = []
    for x, y in [(0.18, 0.4), (0.2, 0.55), (0.5, 0.4), (0.55, 0.5), (0.8, 0.35), (0.86, 0.5)]:
        canvas.click(position={"x": x * size["width"], "y": y * size["height"]})
        if tab.read()["cluster"] != "outside the mask":
            read.append(check_voxel(tab, folder))
    assert len(set(read)) > 2
    tab.page.locator("#contrast-1 table.clusters button").first.click()
    link = tab.explorer().locator("dl a")
    link.click()
    assert tab.page.url.endswith("#contrast-1-cluster-1")
    assert tab.page.locator("#contrast-1-cluster-1").is_visible()
    tab.page.close()


def test_slider_says_which_voxels_are_painted(tab, folder):
    explorer = tab.explorer()
    only = explorer.get_by_label("only voxels that survive")
    slider = explorer.get_by_label("Threshold")
    survives = folder.name.startswith("survives")
    assert only.count() == survives
    first = tab.painted()
    if survives:
        slider.fill("1")
        assert tab.painted() == first > 0
        only.uncheck()
        assert tab.painted() > first
    counts, pictures = [], []
    for height in ("0", "1.5", "2.5"):
        slider.fill(height)
        assert explorer.locator("output").text_content() == f"{float(height):.2f}"
        counts.append(tab.painted())
        pictures.append(tab.slices())
    assert counts[0] > counts[1] > counts[2] > 0
    assert len(set(pictures)) == 3
    slider.focus()
    tab.page.keyboard.press("End")
    assert tab.painted() < counts[2]


def test_axe_finds_no_barrier(tab):
    found = Axe().run(tab.page).response["violations"]
    grave = [(one["id"], one["nodes"][0]["target"]) for one in found
             if one["impact"] in ("serious", "critical")]  # fmt: skip
    assert grave == []


def test_page_fits_a_phone(browser, folder):
    tab = Tab(browser, folder / "report.html", viewport={"width": 390, "height": 844})
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 390
    tab.page.close()


def test_print_has_no_viewer_and_all_rows(tab):
    tab.page.emulate_media(media="print")
    assert not tab.explorer().is_visible()
    for table in tab.page.locator(".scroll").all():
        assert table.evaluate("e => e.scrollHeight - e.clientHeight") <= 1
    assert tab.page.pdf(format="A4").startswith(b"%PDF")


def test_names_from_designs_do_nothing(tab, folder):
    assert tab.page.evaluate("document.querySelectorAll('script').length") == 3
    if folder.name.startswith("nothing"):
        assert tab.page.locator("h2", has_text="alert(1)").text_content() == f"`{SCRIPT}`"
