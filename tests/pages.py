"""Reports and pictures, looked at the way a reader does."""

import base64
import gzip
import io
import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from simulate import ellipsoid

from gpustats import glm, pictures, plots, viewer
from gpustats.design import Design
from gpustats.maps import Maps
from gpustats.spaces import Grid

SCRIPT = "<script>alert(1)</script>"
AFFINE = np.array([[6.0, 0, 0, -33], [0, 6, 0, -36], [0, 0, 6, -20], [0, 0, 0, 1]])
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """A parsed page: its elements with their attributes and text, in the order they start."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, *tags):
        return [element for element in self.elements if element[0] in tags]

    def texts(self, *tags):
        return [" ".join(element[2].split()) for element in self.all(*tags)]

    @property
    def data(self):
        """What the script of the page is told."""
        return json.loads(next(text for _, a, text in self.all("script") if a.get("id") == "data"))


def pixels(uri):
    """The colours of a PNG in a data URI, ``(height, width, 3)``."""
    kind, data = uri.split(",")
    assert kind == "data:image/png;base64"
    image = plt.imread(io.BytesIO(base64.b64decode(data)))
    return (image[..., None].repeat(3, axis=2) if image.ndim == 2 else image)[..., :3]


def has_red(uri):
    image = pixels(uri)
    return bool((image[..., 0] - image[..., 2] > 0.3).any())


def has_blue(uri):
    image = pixels(uri)
    return bool((image[..., 2] - image[..., 0] > 0.3).any())


def unpacked(text):
    """The numbers that the script of a page makes of what it is given, by its own definition."""
    planes = np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8).reshape(4, -1)
    return np.ascontiguousarray(planes.T).view("<f4")[:, 0]


def group(rng, columns, n_subjects=14, effect=3.0):
    """Subjects with a region that goes up and one that goes down, and their fit."""
    grid = Grid(ellipsoid((12, 13, 11)), AFFINE)
    truth = np.zeros(grid.mask.shape)
    truth[3:5, 4:7, 4:6] = effect
    truth[7:9, 6:8, 5:7] = -effect
    noise = rng.standard_normal((n_subjects, grid.n_voxels))
    values = np.asfortranarray((noise + truth[grid.mask]).astype(np.float32).T)
    maps = Maps(values, grid, dropped={"missing in some map": 17, "equal in all maps": 0})
    table = {name: rng.standard_normal(n_subjects) for name in columns}
    return glm.fit(
        maps, Design(pd.DataFrame(table, index=range(n_subjects)), intercept=True), device="cpu"
    )


class Model:
    """What a report asks of a model."""

    def __init__(self, fitted, **parameters):
        self.fitted, self.asked, self.told = fitted, [], parameters

    def contrast_maps(self, definition=None, first_level_contrast=None):
        self.asked.append((definition, first_level_contrast))
        return self.fitted.contrast(definition)

    def fit_for(self, first_level_contrast=None):
        del first_level_contrast
        return self.fitted

    def parameters(self):
        return {"smoothing_fwhm": "5 mm", **self.told}


def draw_nothing(monkeypatch):
    """Leave out the pictures where only words are looked at."""
    for module, name in [
        (pictures, "slices"),
        (pictures, "glass_brain"),
        (plots, "design_picture"),
        (plots, "null_picture"),
        (viewer.Backdrop, "sprite"),
    ]:
        monkeypatch.setattr(module, name, lambda *_: "data:,")
