"""FSL's design files: written ones are read again, no mutated one changes a design unseen."""

import random
import re
from pathlib import Path

import numpy as np
import pytest

from gpustats.contrasts import DesignError
from gpustats.vest import parse_vest, read_blocks, read_f_tests, read_vest, write_vest

DESIGN = """/NumWaves\t3
/NumPoints\t4
/PPheights\t\t1.000000e+00\t1.000000e+00\t2.150000e+01

/Matrix
1.000000e+00\t0.000000e+00\t-3.250000e+00\t
1.000000e+00\t0.000000e+00\t1.825000e+01\t
0.000000e+00\t1.000000e+00\t4.500000e-01\t
0.000000e+00\t1.000000e+00\t1.000000e+01\t
"""
CONTRASTS = """/ContrastName1\tpatients > controls
/ContrastName2\tage
/NumWaves\t3
/NumContrasts\t2
/PPheights\t\t1.000000e+00\t1.000000e+00
/RequiredEffect\t\t1.234\t2.345

/Matrix
1.000000e+00 -1.000000e+00 0.000000e+00
0.000000e+00 0.000000e+00 1.000000e+00
"""
TESTS = "/NumWaves\t2\n/NumContrasts\t1\n\n/Matrix\n1 1\n"
BLOCKS = "! VEST-Waveform File\n/NumWaves\t1\n/NumPoints\t4\n/Skip\n\n/Matrix\n1\n1\n2\n2\n"
PLAIN = "# from a spreadsheet\n1 0 -3.25\n1 0 18.25\n0 1 .45\n0 1 10.\n"
FILES = (DESIGN, CONTRASTS, TESTS, BLOCKS, PLAIN)

PIECES = (
    *("/Matrix", "/NumWaves", "/NumPoints", "/NumContrasts", "/ContrastName1", "/numwaves", "/"),
    *("nan", "inf", "-", "+", ".", "e", "1d0", "1.5D+00", "1,5", "1_0", "0x10", "1e999", "1e-999"),
    *("\u0663", "\u2028", "\x1c", "\x85", "\x0b", "\x0c", "\xa0", "\r", "\r\n", "\n", " ", "\t"),
    *("\0", "!", "#", "%", "3", "-1", "1.0 ", "\ufeff", "'", '"', ";", "<script>", "/Matrix\n"),
)


def as_fsl_reads(text):
    """FSL's own reader: words, two counts, and as many numbers as they say."""
    words = re.split(r"[ \t\n\v\f\r]+", text.removeprefix("\ufeff").strip(" \t\n\v\f\r"))
    n_rows = n_columns = 0
    while words:
        word = words.pop(0)
        if word == "/Matrix":
            break
        if word == "/NumWaves":
            n_columns = int(words.pop(0))
        elif word in ("/NumPoints", "/NumContrasts"):
            n_rows = int(words.pop(0))
    return np.reshape([float(word) for word in words[: n_rows * n_columns]], (n_rows, n_columns))


def as_rows(text):
    """A file without a header: its lines of numbers."""
    lines = re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff"))
    rows = [line.split() for line in lines if line.strip() and line.strip()[0] not in "!#%"]
    return np.array([[float(word) for word in row] for row in rows])


def mutated(text, rng):
    """A text with up to three accidents."""
    for _ in range(rng.randint(1, 3)):
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        lines = text.split("\n")
        line = rng.randrange(len(lines))
        text = (
            rng.choice(
                (
                    lambda a=a, text=text: text[:a] + rng.choice(PIECES) + text[a:],
                    lambda a=a, text=text: text[:a] + text[a + 1 :],
                    lambda a=a, b=b, text=text: text[:a] + text[min(b, a + 12) :],
                    lambda a=a, text=text: (
                        text[:a] + rng.choice("0123456789.-+eE/ \n") + text[a + 1 :]
                    ),
                    lambda a=a, text=text: text[:a],
                    lambda lines=lines, k=line: "\n".join([*lines[:k], *lines[k + 1 :]]),
                    lambda lines=lines, k=line: "\n".join([*lines[: k + 1], *lines[k:]]),
                    lambda lines=lines, k=line: "\n".join([*lines[k:], *lines[:k]]),
                    lambda text=text: text.replace("\n", rng.choice(("\r\n", "\r", " ", "\n\n"))),
                    lambda text=text: text.replace("\t", rng.choice((" ", ",", ""))),
                    lambda text=text: text.replace(".", ","),
                    lambda text=text: text.replace("e", "D"),
                )
            )()
            or " "
        )
    return text


def test_no_mutated_file_changes_a_design_unseen():
    rng = random.Random(20260)
    accepted, refusals = 0, []
    path = Path("mutated.mat")
    for _ in range(10_000):
        text = mutated(rng.choice(FILES), rng)
        try:
            found = parse_vest(text.encode(), path)
        except DesignError as error:
            refusals.append(str(error))
            continue
        accepted += 1
        meant = as_fsl_reads(text) if "/Matrix" in text.split() else as_rows(text)
        np.testing.assert_array_equal(found.matrix, meant, err_msg=repr(text))
        assert len(found.names) == len(found.matrix)
    assert accepted > 1000
    assert len(refusals) > 1000
    assert all(str(path) in line and "\n" not in line for line in refusals)


@pytest.mark.parametrize(("n_rows", "n_columns"), [(1, 1), (7, 1), (4, 9)])
@pytest.mark.parametrize("suffix", [".mat", ".con", ".fts", ".grp"])
def test_what_is_written_is_read_again_by_us_and_by_fsl(tmp_path, suffix, n_rows, n_columns):
    rng = np.random.default_rng(3)
    values = rng.normal(size=(n_rows, n_columns)) * 10.0 ** rng.integers(-30, 30, n_columns)
    path = tmp_path / f"design{suffix}"
    names = [f"row {k}, größer" for k in range(n_rows)] if suffix == ".con" else []
    write_vest(path, values, names=names)
    found = read_vest(path)
    np.testing.assert_array_equal(found.matrix, values)
    np.testing.assert_array_equal(as_fsl_reads(path.read_text(encoding="utf-8")), values)
    assert list(found.names) == (names or [""] * n_rows)
    write_vest(path, found.matrix, names=names, heights=found.heights)
    assert read_vest(path).heights == found.heights
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_files_of_the_gui_are_read(tmp_path):
    design, contrasts = tmp_path / "design.mat", tmp_path / "design.con"
    design.write_bytes(DESIGN.replace("\n", "\r\n").encode())
    contrasts.write_text(CONTRASTS)
    assert read_vest(design).matrix.tolist()[1] == [1, 0, 18.25]
    found = read_vest(contrasts)
    assert found.names == ("patients > controls", "age")
    assert found.heights["/RequiredEffect"] == "1.234 2.345"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (DESIGN.replace("Points\t4", "Points\t3"), None, "says 3 rows, but 4 follow"),
        (DESIGN.replace("Waves\t3", "Waves\t2"), 6, "a row needs 2 numbers, got 3"),
        (DESIGN.replace("/NumWaves\t3\n", ""), None, "no line says /NumWaves"),
        (
            DESIGN.replace("/NumPoints\t4\n", ""),
            None,
            "/NumPoints or /NumContrasts, is needed; got 0",
        ),
        (DESIGN.replace("/NumPoints\t4", "/NumPoints\t4\n/NumContrasts\t5"), None, "got 2"),
        (DESIGN.replace("Waves\t3", "Waves\t3.0"), 1, "one whole number"),
        (DESIGN.replace("/Matrix", "/matrix"), 1, "no line begins with /Matrix"),
        (DESIGN + "/Matrix\n", 10, "comes twice"),
        (DESIGN.replace("4.500000e-01", "nan"), 8, "'nan' is no decimal number"),
        (DESIGN.replace("4.500000e-01", "4.5D-01"), 8, "'4.5D-01' is no decimal number"),
        (DESIGN.replace("4.500000e-01", "4e999"), 8, "beyond the range"),
        (DESIGN.replace("4.500000e-01", "4e-999"), 8, "beyond the range"),
        (DESIGN.replace("/PP", "7 /PP"), 3, "stands before /Matrix"),
        (CONTRASTS.replace("controls", "/NumWaves 9"), 1, "take a word of"),
        (CONTRASTS.replace("Name2", "Name1"), 2, "comes twice"),
        (PLAIN.replace("from", "/Matrix from"), 1, "part of a header"),
        (PLAIN.replace(".45", ""), 4, "a row needs 3 numbers, got 2"),
        ("", None, "no numbers"),
        ("\n\n# nothing\n", None, "no numbers"),
        ("\x1f\x8b\x08", None, "no decimal number"),
    ],
)
def test_what_would_change_a_design_is_refused(tmp_path, text, line, reason):
    path = tmp_path / "design.mat"
    path.write_text(text, newline="")
    with pytest.raises(DesignError) as caught:
        read_vest(path)
    assert reason in str(caught.value)
    if line is not None:
        assert str(caught.value).startswith(f"{path}, line {line}: ")


def test_f_tests_take_whole_contrasts(tmp_path):
    path = tmp_path / "design.fts"
    write_vest(path, [[1, 1], [0, 1]])
    assert read_f_tests(path, 2).tolist() == [[True, True], [False, True]]
    with pytest.raises(DesignError, match="one column per t contrast, 3; got 2"):
        read_f_tests(path, 3)
    write_vest(path, [[1, 2]])
    with pytest.raises(DesignError, match="made of 0 and 1, got 2"):
        read_f_tests(path, 2)
    write_vest(path, [[1, 1], [0, 0]])
    with pytest.raises(DesignError, match="F test 2 takes no t contrast"):
        read_f_tests(path, 2)


def test_blocks_are_numbered_from_1_without_a_gap(tmp_path):
    path = tmp_path / "design.grp"
    write_vest(path, [[2], [1], [2]])
    assert read_blocks(path, 3).tolist() == [2, 1, 2]
    for wrong, message in (
        ([[1], [3], [1]], "got 3 among 2 blocks"),
        ([[1], [0], [1]], "got 0 among 2 blocks"),
        ([[1], [1.5], [1]], "got 1.5 among"),
        ([[1, 1], [1, 1], [1, 1]], "got 3 rows and 2 columns"),
        ([[1], [1]], "got 2 rows"),
    ):
        write_vest(path, wrong)
        with pytest.raises(DesignError, match=message):
            read_blocks(path, 3)


def test_nothing_is_written_that_fsl_would_misread(tmp_path):
    path = tmp_path / "design.con"
    for names in (["a\nb"], ["/Matrix"], ["x /NumWaves 3"], ["a", "b"], [" a"]):
        with pytest.raises(DesignError):
            write_vest(path, [[1, -1]], names=names)
    for matrix in ([[np.nan]], [[np.inf]], [], [[]], [1, 2]):
        with pytest.raises(DesignError, match="finite matrix"):
            write_vest(path, matrix)
    assert not list(tmp_path.iterdir())
