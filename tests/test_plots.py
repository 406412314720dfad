import base64
from xml.etree import ElementTree

import numpy as np
import pytest
from pages import SCRIPT, has_blue, has_red

from gpustats.plots import NullDistribution, design_picture, null_picture


def svg(uri):
    """The root of an SVG in a data URI."""
    kind, data = uri.split(",")
    assert kind == "data:image/svg+xml;base64"
    return ElementTree.fromstring(base64.b64decode(data))


@pytest.mark.parametrize("name", [r"$\frac{$", "身長", "x" * 200, SCRIPT])
def test_any_name_can_head_a_column_of_the_picture(rng, name):
    matrix = np.column_stack([rng.standard_normal(9), np.zeros(9)])
    weights = [(name, np.array([[1.0, 0.0]])), ("F", np.eye(2))]
    assert has_red(design_picture([name, "zero"], matrix, weights))


def test_weights_have_the_colour_of_their_sign():
    zero = np.zeros((4, 2))
    picture = design_picture(["a", "b"], zero, [("difference", np.array([[3.0, -3.0]]))])
    assert has_red(picture)
    assert has_blue(picture)


@pytest.mark.parametrize(
    ("maxima", "observed", "threshold"),
    [
        (np.linspace(2, 5, 500), 7.0, 4.8),
        (np.r_[np.zeros(400), np.arange(100.0)], 883.0, 38.0),
        (np.zeros(20), 0.0, None),
        (np.array([3.0]), 3.0, None),
        (np.linspace(-1, 2, 50), 1.0, 2.0),
    ],
    ids=["usual", "far away", "nothing found", "one shuffle", "one-sided"],
)
def test_null_distributions_are_drawn(maxima, observed, threshold):
    null = NullDistribution("|t|", maxima, observed, threshold, 0.05)
    picture = null_picture(null)
    assert svg(picture).tag.endswith("svg")
    assert null_picture(null) == picture
