import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpustats.contrasts import DesignError, expression_weights, file_label

COLUMNS = ["a", "b", "age (years)", "group-A", "group", "2", "x.y", "naïve", "a;b"]


def weights(**named):
    return [named.get(column, 0.0) for column in ("a", "b")]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a", {"a": 1}),
        ("a - b", {"a": 1, "b": -1}),
        ("-a+b", {"a": -1, "b": 1}),
        ("0.5*a + b/4", {"a": 0.5, "b": 0.25}),
        ("(a + b) * 2 - a", {"a": 1, "b": 2}),
        ("1e-1 * a", {"a": 0.1}),
        ("age (years)", {"age (years)": 1}),
        ("age (years) - a", {"age (years)": 1, "a": -1}),
        ("`age (years)` * 2", {"age (years)": 2}),
        ("group-A", {"group-A": 1}),
        ("group-A - group", {"group-A": 1, "group": -1}),
        ("group - a", {"group": 1, "a": -1}),
        ("2", {"2": 1}),
        ("2*a", {"a": 2}),
        ("`2` - a", {"2": 1, "a": -1}),
        ("x.y + naïve", {"x.y": 1, "naïve": 1}),
        ("a - a + b", {"b": 1}),
        ("`a;b` - a", {"a;b": 1, "a": -1}),
        ("+a", {"a": 1}),
    ],
)
def test_expressions_are_sums_of_columns(expression, expected):
    row = [expected.get(column, 0.0) for column in COLUMNS]
    assert expression_weights(expression, COLUMNS).tolist() == [row]


def test_semicolons_separate_the_rows_of_an_f_contrast():
    assert expression_weights("a - b; b", ["a", "b"]).tolist() == [[1, -1], [0, 1]]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("c", "no column 'c' in the design; the columns are a, b"),
        ("a - controls", "no column 'controls'"),
        ("aa", "no column 'aa'"),
        ("a b", "it is not a sum of columns"),
        ("a * b", "by non-zero numbers only"),
        ("1 / a", "by non-zero numbers only"),
        ("a / 0", "by non-zero numbers only"),
        ("a + 1", "a number cannot be added"),
        ("", "it is not a sum of columns"),
        ("a > b", "unexpected '>'"),
        ("a ** 2", "only [+] - [*] / and parentheses"),
        ("a.__class__", "unexpected|no column"),
        ("(a", "it is not a sum of columns"),
        ("1" + "0" * 400 + " * a", "only [+] - [*] / and parentheses"),
    ],
)
def test_wrong_expressions_are_named(expression, message):
    with pytest.raises(DesignError, match=message):
        expression_weights(expression, ["a", "b"])


@given(st.text(max_size=30))
def test_any_text_is_weights_or_one_clear_error(text):
    try:
        rows = expression_weights(text, ["a", "b"])
    except DesignError:
        return
    assert rows.shape[1] == 2
    assert np.isfinite(rows).all()


@given(st.lists(st.integers(-9, 9), min_size=3, max_size=3))
def test_writing_weights_and_reading_them_back(row):
    expression = " + ".join(f"({w}) * {c}" for w, c in zip(row, ["a", "b", "group-A"], strict=True))
    assert expression_weights(expression, ["a", "b", "group-A"]).tolist() == [row]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("patients - controls", "patientsMinusControls"),
        ("age", "age"),
        ("0.5*a", "0p5TimesA"),
        ("a_b", "aB"),
        ("../../etc/passwd", "ByByEtcByPasswd"),
        ("<script>", "UnderScriptOver"),
        ("***", "TimesTimesTimes"),
        ("%%", "contrast"),
    ],
)
def test_labels_are_letters_and_digits(name, label):
    assert file_label(name) == label
