import numpy as np
import pandas as pd
import pytest

from gpustats.contrasts import Contrast
from gpustats.design import Design, DesignError, group_design
from gpustats.subjects import read_table


@pytest.fixture
def groups():
    """Two groups of three, with an age, a constant, and labels."""
    return pd.DataFrame(
        {
            "subject_label": list("abcdef"),
            "patients": [1, 1, 1, 0, 0, 0],
            "controls": [0, 0, 0, 1, 1, 1],
            "age": [30.5, 41, 28, 35, 60, 33],
        }
    )


def test_columns_stand_as_they_are(groups):
    design = Design(groups)
    assert design.columns == ("patients", "controls", "age")
    assert design.subjects == tuple("abcdef")
    assert np.array_equal(design.matrix[:, 2], groups["age"])
    assert (design.rank, design.df, design.n_subjects) == (3, 3, 6)
    np.testing.assert_allclose(design.basis.T @ design.basis, np.eye(3), atol=1e-14)


def test_columns_can_be_selected_and_an_intercept_added(groups):
    assert Design(groups, columns=["age"], intercept=True).columns == ("age", "intercept")
    with pytest.raises(DesignError, match="already in the design: intercept"):
        Design(groups.assign(intercept=1.0), intercept=True)
    with pytest.raises(DesignError, match="no column 'sex' in the table; it has patients"):
        Design(groups, columns=["sex"])


def test_booleans_are_numbers(groups):
    assert Design(groups.assign(patients=groups["patients"] == 1)).matrix[:, 0].sum() == 3


def test_the_label_column_may_be_called_otherwise_or_be_the_index(groups):
    renamed = groups.rename(columns={"subject_label": "file"})
    with pytest.raises(DesignError, match="these are not: file; select columns, name the label"):
        Design(renamed)
    assert Design(renamed, id_column="file").subjects == tuple("abcdef")
    assert Design(groups.set_index("subject_label")).subjects == tuple("abcdef")
    both = groups.set_index("subject_label", drop=False)
    assert Design(both).columns == ("patients", "controls", "age")
    with pytest.raises(DesignError, match="no column 'code'"):
        Design(groups, id_column="code")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"age": [30.5, 41, np.nan, 35, np.inf, 33]},
            "'age' .* is not finite in row.s. 3, 5",
        ),
        ({"site": list("xyxyxy")}, "these are not: site"),
        (
            {"subject_label": list("abcdea")},
            r"unique; repeated in 'subject_label': \['a'\]",
        ),
        ({"subject_label": ["a", None, "c", "d", "e", "f"]}, "rows without a subject label"),
    ],
)
def test_unusable_tables_are_refused_by_name(groups, change, message):
    with pytest.raises(DesignError, match=message):
        Design(groups.assign(**change))


def test_repeated_columns_are_refused(groups):
    table = groups[["age", "patients"]].copy()
    table.columns = ["age", "age"]
    with pytest.raises(DesignError, match=r"different names; repeated: \['age'\]"):
        Design(table)


def test_more_subjects_than_columns(groups):
    with pytest.raises(DesignError, match=r"3 rows and 3 columns; .* one subject more than"):
        Design(groups.iloc[:3])
    with pytest.raises(DesignError, match="the design has no columns"):
        Design(groups[["subject_label"]])


def test_contrasts_by_expression_vector_matrix_and_list(groups):
    design = Design(groups)
    by_name = design.contrast("patients - controls")
    assert by_name.weights.tolist() == [[1, -1, 0]]
    assert (by_name.name, by_name.statistic) == ("patients - controls", "t")
    by_vector = design.contrast([1, -1, 0])
    assert np.array_equal(by_vector.weights, by_name.weights)
    assert by_vector.name == "patients - controls"
    assert design.contrast([[1, 0, 0], [0, 1, 0]]).statistic == "F"
    assert design.contrast(["patients", "controls"]).weights.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert design.contrast("patients; controls").weights.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert design.contrast("age", statistic="F").statistic == "F"
    assert np.array_equal(design.contrast(by_name).weights, by_name.weights)
    assert design.contrast(by_name, statistic="F").statistic == "F"
    assert design.contrast([-0.5, 0, 2], name="mine").name == "mine"
    assert design.contrast([-0.5, 0, 2]).name == "-0.5*patients + 2*age"


def test_a_contrast_belongs_to_the_columns_it_was_made_for(groups):
    contrast = Design(groups).contrast("patients - controls")
    with pytest.raises(DesignError, match="made for the columns patients, controls, age, the desi"):
        Design(groups, columns=["controls", "patients", "age"]).contrast(contrast)


def test_a_series_of_weights_is_read_by_name(groups):
    weights = pd.Series({"controls": -1.0, "patients": 1.0})
    assert Design(groups).contrast(weights).weights.tolist() == [[1, -1, 0]]
    with pytest.raises(DesignError, match="no column 'sex'"):
        Design(groups).contrast(pd.Series({"sex": 1.0}))


def test_the_callers_table_is_left_alone():
    table = pd.DataFrame(np.eye(4)[:, :2])
    Design(table)
    assert table.columns.tolist() == [0, 1]
    with pytest.raises(TypeError, match="a design is made of a pandas DataFrame, got ndarray"):
        Design(np.eye(4))


def test_labels_that_differ_by_their_prefix_only_are_repeated(groups):
    labels = ["01", "sub-01", "c", "d", "e", "f"]
    with pytest.raises(DesignError, match=r"repeated in 'subject_label': \['01'\]"):
        Design(groups.assign(subject_label=labels))


def test_one_column_needs_no_contrast(groups):
    assert Design(groups, columns=["age"]).contrast().weights.tolist() == [[1.0]]
    with pytest.raises(DesignError, match="a contrast is needed; the columns are patients, contr"):
        Design(groups).contrast()


def test_several_rows_are_an_f_contrast_and_that_is_said(groups, log):
    assert Design(groups).contrast("patients; age", statistic="t").statistic == "F"
    assert "a contrast of 2 rows is an F contrast, not t" in log.text


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ([1, -1], r"2 weights but the design has 3 columns \(patients, controls, age\)"),
        ([0, 0, 0], "needs finite weights, not all 0"),
        ([[1, 0, 0], [0, 0, 0]], "needs finite weights, not all 0"),
        ([1, np.nan, 0], "needs finite weights"),
        ("patients - sex", "no column 'sex'"),
        ({"a": 1}, "must be an expression or numbers"),
        ([], "0 weights"),
        (np.ones((1, 1, 3)), "3 weights"),
    ],
)
def test_wrong_contrasts(groups, definition, message):
    with pytest.raises(DesignError, match=message):
        Design(groups).contrast(definition)


def test_the_statistic_is_t_or_f(groups):
    with pytest.raises(DesignError, match="'t' or 'F', got 'z'"):
        Design(groups).contrast("age", statistic="z")


def test_inestimable_contrasts_name_the_columns_at_fault(groups):
    design = Design(groups, columns=["patients", "controls", "age"], intercept=True)
    assert design.rank == 3
    assert design.contrast("patients - controls").weights.tolist() == [[1, -1, 0, 0]]
    assert design.contrast("patients + intercept").statistic == "t"
    with pytest.raises(DesignError, match="the columns patients, controls, intercept depend"):
        design.contrast("patients")
    design.contrast("age")


def test_a_column_of_zeros_is_at_fault_alone(groups):
    design = Design(groups.assign(none=0.0))
    with pytest.raises(DesignError, match="none is zero for every subject"):
        design.contrast("none")
    assert isinstance(design.contrast("age"), Contrast)


def test_scale_of_a_column_does_not_decide_on_rank(groups):
    scaled = groups.assign(age=groups["age"] * 1e9, patients=groups["patients"] * 1e-9)
    assert Design(scaled).rank == 3


def test_years_are_not_collinear_with_a_constant():
    years = pd.DataFrame({"year": [2001, 2002, 2003, 2004, 2005, 2007]})
    design = Design(years, intercept=True)
    assert design.rank == 2
    design.contrast("year")


def test_rows_find_their_maps_by_label(groups, log):
    design = Design(groups).aligned(("sub-c", "sub-a", "sub-b", "sub-d", "sub-e", "sub-f"), 6)
    assert design.table["age"].tolist() == [28, 30.5, 41, 35, 60, 33]
    assert design.matched_by == "subject label"
    assert "rows of the design match the maps by subject label" in log.text


def test_rows_match_by_order_without_labels(groups, log):
    design = Design(groups.drop(columns="subject_label")).aligned(tuple("fedcba"), 6)
    assert design.table["age"].tolist() == groups["age"].tolist()
    assert "match the maps by order" in log.text


def test_matching_is_told_once(groups, log):
    design = Design(groups).aligned(tuple("fedcba"), 6)
    assert design.aligned(tuple("fedcba"), 6) is design
    assert log.text.count("rows of the design match") == 1


def test_rows_that_do_not_match(groups):
    design = Design(groups)
    with pytest.raises(DesignError, match="design has 6 rows but 5 maps were given; order"):
        design.aligned(None, 5)
    with pytest.raises(DesignError, match=r"no row for 1 of 6 maps' subjects: \['x'\]"):
        design.aligned(tuple("abcdex"), 6)
    with pytest.raises(DesignError, match=r"6 rows but 5 maps were given; no map for \['c'\]"):
        design.aligned(tuple("abdef"), 5)


def test_confounds_join_the_design_by_label(groups):
    confounds = pd.DataFrame({"subject_label": list("gfedcba"), "motion": np.arange(7.0)})
    design = group_design(groups, confounds, tuple("bacdef"), 6)
    assert design.columns == ("patients", "controls", "age", "motion")
    assert design.table["motion"].tolist() == [5, 6, 4, 3, 2, 1]
    assert design.table["age"].tolist() == [41, 30.5, 28, 35, 60, 33]


def test_confounds_alone_get_an_intercept(groups):
    design = group_design(None, groups[["subject_label", "age"]], tuple("fedcba"), 6)
    assert design.columns == ("age", "intercept")
    assert design.table["age"].tolist() == groups["age"].tolist()[::-1]
    by_order = group_design(None, groups[["age"]], None, 6)
    assert by_order.table["age"].tolist() == groups["age"].tolist()


def test_a_confound_in_the_design_already_is_refused(groups):
    with pytest.raises(DesignError, match="already in the design: age"):
        group_design(groups, groups[["subject_label", "age"]], tuple("abcdef"), 6)


@pytest.mark.parametrize(("name", "separator"), [("design.tsv", "\t"), ("design.csv", ",")])
def test_tables_are_read_by_their_ending(tmp_path, groups, name, separator):
    path = tmp_path / name
    groups.assign(participant_id=[f"{n:02d}" for n in range(6)]).drop(
        columns="subject_label"
    ).to_csv(path, sep=separator, index=False)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as spreadsheets write it
    assert Design(read_table(path)).subjects == ("00", "01", "02", "03", "04", "05")


def test_any_label_column_is_text(tmp_path):
    path = tmp_path / "design.csv"
    path.write_text("code,x\n01,1\n02,2\n03,4\n")
    assert Design(read_table(path, "code"), id_column="code").subjects == ("01", "02", "03")


def test_tables_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tsv: no such file"):
        read_table(tmp_path / "nowhere.tsv")
    for name, content in {"empty.tsv": b"", "binary.csv": b"\xff\xfe\x00\x80,\x00"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DesignError, match=f"{name}: not a table"):
            read_table(tmp_path / name)
