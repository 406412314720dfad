"""Options and tables of PALM: read as PALM reads them, or refused in one line; never guessed."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
from mutations import mutated

from gpustats.contrasts import DesignError
from gpustats.palm_files import parse_csv
from gpustats.palm_options import (
    BY_WORD,
    HARMLESS,
    HELP,
    NOT_HERE,
    OPTIONS,
    PalmOptions,
    parse,
    usage,
)

LINES = (
    "-i all -o out -d design.csv -t design.con -T -n 500 -logp",
    "-i all -ise -C 3.1 -Cstat mass -twotail -save1-p -fdr -accel tail -nouncorrected",
    "-i a -d d.csv -t t.csv -f f.csv -eb eb.csv -within -whole -vg single -m mask -reversemasks",
    "-i a -tfce_H 2 -tfce_E .5 -tfce_C 26 -tfce_dh auto -seed twist -rmethod Dekker -fdr BH -T",
    "-i a -noniiclass -precision double -saveglm -savedof -accel gamma in -zstat -corrcon -quiet",
    "-i a -i b -npc -mv Wilks -s surf 1 -evperdat ev.nii 2 -help -advanced",
)
PIECES = (
    *("-", "--", "5", "-5", "1e9", "nan", "inf", "0", "26", " ", "", "-T", "-n", "-seed", "-ISE"),
    *("--T", "-t2", "-C=3", "1,5", "1_0", "\u0665", "\0", "BH", "BKY", "0.05", "out", "mass"),
    *("-logP", "file", "-io", "-tfce1D", "ö", "-help=1", "--device", "1d0", "-fonly", "-n=5"),
)


def as_palm_takes(words):
    """PALM's own loop: an option, and the words behind it that it takes."""
    taken, k = [], 0
    while k < len(words):
        word = words[k]
        k += 1
        assert word in BY_WORD or word in HARMLESS or word in HELP
        if word in HELP:
            taken.append(("help", None))
        elif word in HARMLESS:
            k += HARMLESS[word][0]
        elif BY_WORD[word].convert is not None:
            taken.append((BY_WORD[word].field, words[k]))
            k += 1
        else:
            taken.append((BY_WORD[word].field, None))
        if word in ("-fdr", "-accel", "-approx"):
            while k < len(words) and not words[k].startswith("-"):
                k += 1
    return taken


def test_no_mutated_line_is_taken_for_another():
    rng = random.Random(20263)
    plain, accepted, refusals = PalmOptions(), 0, []
    for _ in range(6_000):
        words = mutated(rng.choice(LINES), rng, PIECES, LINES)
        try:
            found, _ = parse(words)
        except ValueError as error:
            refusals.append(str(error))
            continue
        accepted += 1
        fields = dict(as_palm_takes(words))
        for option in OPTIONS:
            value = getattr(found, option.field)
            if option.field not in fields:
                assert value == getattr(plain, option.field), (option, words)
            elif fields[option.field] is None:
                assert value is True
            elif isinstance(value, float | int):
                assert float(fields[option.field]) == value
            elif value is not None:
                assert str(value).lower() == str(Path(fields[option.field])).lower()
            else:
                assert fields[option.field].lower() in ("twist", "auto", "0")
    assert accepted > 300
    assert len(refusals) > 500
    assert all(line and "\n" not in line for line in refusals)


def as_octave_reads(text):
    """Octave's dlmread of a well-formed table, by float."""
    rows = [row.split(",") for row in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return np.array([[float(word) for word in row] for row in rows if row != [""]])


def test_no_mutated_table_changes_a_design_silently():
    rng = random.Random(7)
    table = "1,0,23.5\n1,0,-18.25\n0,1,4.5e-1\n0,1,31\n"
    pieces = (*"0123456789,.-+eE \t\n\r;:\"'#\0n", ",,", "nan", "Inf", "1e999", "1e-999", "\ufeff")
    accepted, refusals = 0, []
    for _ in range(6_000):
        text = table
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(("", *pieces)) + text[at + rng.randint(0, 1) :]
        try:
            found = parse_csv(text.encode(), Path("d.csv")).matrix
        except DesignError as error:
            refusals.append(str(error))
            continue
        accepted += 1
        expected = as_octave_reads(text.removeprefix("\ufeff").rstrip() + "\n")
        assert np.array_equal(found, expected), text
        assert np.isfinite(found).all()
    assert accepted > 700
    assert all(line.startswith("d.csv") and "\n" not in line for line in refusals)


def test_mutated_lines_end_in_one_line(run, group_of):
    group = group_of(4)
    group.tables(d=np.eye(2)[[0, 0, 1, 1]], t=[[1, -1]], f=[[1]], eb=np.ones((4, 1)))
    rng = random.Random(5)
    n_done = 0
    for _ in range(250):
        words = mutated(rng.choice(LINES[:5]), rng, PIECES, LINES)
        words = ["all.nii.gz" if word in ("a", "all", "mask") else word for word in words]
        words = ["d.csv" if word == "design.csv" else word for word in words]
        words = ["t.csv" if word == "design.con" else word for word in words]
        status, _, err = run("palm", "-n", "20", *(w for w in words if w not in ("-n", "500")))
        assert status in (0, 2), words
        assert "Traceback" not in err
        assert sum("error" in line for line in err.splitlines()) == (status == 2), words
        n_done += status == 0
    assert 10 < n_done < 240


@pytest.mark.parametrize("word", NOT_HERE)
def test_what_is_not_here_is_refused_with_what_to_do(word):
    with pytest.raises(ValueError, match=f"^{word} of PALM is refused: {NOT_HERE[word][:20]}"):
        parse(["-ise", word, "3"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-T -Tuni", "-Tuni came twice"),
        ("-i a -i b", "-i came twice: joint inference is not built; test one input"),
        ("-d a -t b -d c", "-d came twice: joint inference"),
        ("-n", "-n takes a value: -n <integer>"),
        ("-i -d design.csv", "-i takes a value: -i <file>; got '-d'"),
        ("-precision", "-precision takes a value"),
        ("-n 5e3", "-n needs a whole number, 0 or more, got '5e3'"),
        ("-C -2", "-C needs a number above 0, got '-2'"),
        ("-C nan", "-C needs a number above 0"),
        ("-Cstat density", "needs one of extent, mass here, got 'density'; clusters are compared"),
        ("-rmethod terBraak", "got 'terBraak'; of PALM's methods freedman-lane, dekker and manly"),
        ("-pmethodr Guttman", "got 'Guttman'; the nuisance is what spans the null hypothesis"),
        ("-accel negbin", "got 'negbin'; fits to the null distribution of the maximum are built"),
        ("-accel tail 0.05", "-accel tail has its usual settings only, got '0.05'"),
        ("-fdr BKY", "-fdr is Benjamini and Hochberg's, BH; got BKY"),
        ("-tfce_C 8", "-tfce_C needs 6, 18 or 26"),
        ("-seed 5000000000", "needs a number up to 2^32"),
        ("-o out/", "-o needs what names of files begin with"),
        ("-logP", "PALM has no option -logP"),
        ("all", "'all' is no option; see gpustats palm -help"),
    ],
)
def test_wrong_lines_say_what_is_wrong(line, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(line.split(" "))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3\n", "d.csv, line 2: a row needs 2 numbers, got 1"),
        ("1,,2\n", "line 1: '' is no decimal number"),
        ("group,age\n1,2\n", "line 1: 'group' is no decimal number"),
        ("1 2\n", "line 1: '1 2' is no decimal number"),
        ("1;2\n", "numbers only, separated by commas"),
        ("1\n\n2\n", "line 2: '' is no decimal number"),
        ("1e999\n", "beyond the range"),
        ("", "line 1: '' is no decimal number"),
        ("\x1f\x8b\x00", "not a text file"),
    ],
)
def test_wrong_tables_say_where(text, message):
    with pytest.raises(DesignError) as caught:
        parse_csv(text.encode(), Path("d.csv"))
    assert message in str(caught.value)


def test_help_names_every_option():
    text = usage()
    assert all(word in text for word in (*BY_WORD, *HARMLESS, *NOT_HERE))
