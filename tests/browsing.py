"""Reports opened in a real browser, without a network."""

import os
import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
COUNT_OPAQUE = """e => {
  const copy = new OffscreenCanvas(e.width, e.height);
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(e, 0, 0);
  const bytes = context.getImageData(0, 0, e.width, e.height).data;
  return bytes.filter((byte, i) => i % 4 === 3 && byte > 0).length;
}"""
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND"


def find_browser():
    """The path of a Chromium; in CI there must be one."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None and not os.environ.get("CI"):
        pytest.skip("no Chromium here: apt-get install chromium")
    assert found is not None, "CI must have a Chromium: apt-get install chromium"
    return found


@contextmanager
def chromium():
    """A headless Chromium that finds no host."""
    path = find_browser()
    with sync_playwright() as playwright:
        # a sandbox is not to be had as root
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=[OFFLINE, *options])
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A report in a tab, and all that it asked for and complained of."""

    def __init__(self, browser, path, **options):
        self.requests, self.complaints = [], []
        self.page = browser.new_page(**options)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.goto(path.resolve().as_uri())
        count = self.page.locator(".explorer").count()
        expect(self.page.locator(".explorer[data-state=ready]")).to_have_count(count)

    def explorer(self, number=1):
        """The viewer of a contrast."""
        return self.page.locator(f"#contrast-{number} .explorer")

    def read(self, number=1):
        """What the viewer says of the voxel under its crosshair, by name."""
        pairs = self.explorer(number).locator("dl div")
        texts = [pair.split("\n") for pair in pairs.all_inner_texts()]
        return {name: value.replace("\N{MINUS SIGN}", "-") for name, value in texts}

    def place(self, number=1):
        """Where the crosshair is, in mm."""
        inputs = self.explorer(number).locator("input[type=number]")
        return [float(one.input_value()) for one in inputs.all()]

    def slices(self, number=1):
        """What is drawn, as numbers that differ where pictures do."""
        return self.explorer(number).locator("canvas.slices").evaluate("e => e.toDataURL()")

    def painted(self, number=1):
        """How many pixels of the sprite have a colour of the map."""
        return self.explorer(number).locator("canvas.overlay").evaluate(COUNT_OPAQUE)
