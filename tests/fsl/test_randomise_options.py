"""Options of randomise: read as FSL reads them, or refused in one line; never guessed."""

import random

import numpy as np
import pytest
from mutations import mutated

from gpustats.fsl_options import NOT_HERE, OPTIONS, RandomiseOptions, parse, usage

VALUES = {option.word: option.convert is not None for option in OPTIONS}
FIELDS = {option.word: option.field for option in OPTIONS}
LINES = (
    "-i all -o out -d design.mat -t design.con -T -x -n 500",
    "-i all -o out -1 -T2",
    "-i all -o out -d a.mat -t a.con -f a.fts -e a.grp -m mask -DTxRPN -c 2.3 -C 3.1 -F 4 -S 4.5",
    "-i all -o out -1xn 5000 --T2 --seed=7 --uncorrp --quiet --tfce_H=2 --tfce_E=.5 --tfce_C=26",
    "-xTi all -no 0 out --glm_output --permuteBlocks --fonly --skipTo=2 -V -q --device=cpu",
    "--vxl=1 --vxf=age -i all -o out -1v 5 --twopass -h --help",
)
PIECES = (
    *("-", "--", "=", "5", "-5", "1e9", "nan", "inf", "0", "26", " ", "", "-x", "-n", "--seed"),
    *("--seed=", "--see=5", "--T", "--T2=1", "-T2", "-c=3", "-nx", "1,5", "1_0", "\u0665", "\0"),
    *("--uncorr", "--tfce_h=2", "file", "-io", "--", "-ii", "ö", "--help=1", "--device", "1d0"),
)


def as_fsl_takes(words):
    """FSL's own loop: letters take the words that follow, long options what is behind ``=``."""
    taken, k = [], 0
    while k < len(words):
        word = words[k]
        k += 1
        assert word[0] == "-"
        if word[1] == "-":
            name, _, value = word.partition("=")
            taken.append((name, value if VALUES[name] else None))
            continue
        for letter in word[1:]:
            value = None
            if VALUES[f"-{letter}"]:
                value = words[k]
                k += 1
            taken.append((f"-{letter}", value))
    return taken


def test_no_mutated_line_is_taken_for_another():
    rng = random.Random(20261)
    plain, accepted, refusals = RandomiseOptions(), 0, []
    for _ in range(10_000):
        words = mutated(rng.choice(LINES), rng, PIECES, LINES)
        try:
            found = parse(words)
        except ValueError as error:
            refusals.append(str(error))
            continue
        accepted += 1
        taken = as_fsl_takes(words)
        fields = {FIELDS[word]: value for word, value in taken}
        assert len(fields) == len(taken)
        for field in set(FIELDS.values()):
            value = getattr(found, field)
            if field not in fields:
                assert value == getattr(plain, field), (field, words)
            elif fields[field] is None:
                assert value is True
            elif isinstance(value, float | int):
                assert float(fields[field]) == value
            else:
                assert value == type(value)(fields[field])
    assert accepted > 500
    assert len(refusals) > 500
    assert all(line and "\n" not in line for line in refusals)


def test_mutated_lines_end_in_one_line(run, group_of):
    group = group_of(4)
    group.write(np.eye(2)[[0, 0, 1, 1]], [[1, -1]], f_tests=[[1]], blocks=[1, 1, 1, 1])
    names = {"all": "all.nii.gz", "mask": "all.nii.gz"}
    rng = random.Random(7)
    for _ in range(300):
        words = mutated(rng.choice(LINES[:5]), rng, PIECES, LINES)
        words = [
            str(group.folder / names.get(word, word.replace("a.", "design.", 1)))
            if word in names or word.startswith(("a.", "design."))
            else word
            for word in words
        ]
        status, out, err = run("randomise", "-q", *words)
        assert status in (0, 2), words
        assert "Traceback" not in err
        if status == 2:
            assert sum("error" in line for line in err.splitlines()) == 1, words
        else:
            assert "required for exhaustive test" in out or "usage" in out


@pytest.mark.parametrize("word", NOT_HERE)
def test_what_is_not_here_is_refused_with_its_reason(word):
    with pytest.raises(ValueError, match=f"^{word} of randomise is refused: {NOT_HERE[word][:20]}"):
        parse(["-1", word, "3"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-x -x", "-x came twice"),
        ("-h --help", "--help came twice"),
        ("-n", "-n takes a value: -n <n_perm>"),
        ("--seed 5", "--seed takes a value: --seed=<seed>"),
        ("--see=5", "no option --see"),
        ("-T2", "no option -2 .in '-T2'.; did you mean --T2"),
        ("--T2=1", "--T2 takes no value, got '1'"),
        ("-n 5e3", "-n needs a whole number, 0 or more, got '5e3'"),
        ("-n -5", "-n needs a whole number, 0 or more, got '-5'"),
        ("-c 0", "-c needs a number above 0"),
        ("-c nan", "-c needs a number above 0"),
        ("--tfce_C=8", "--tfce_C needs 6, 18 or 26"),
        ("-o out/", "-o needs what names of files begin with"),
        ("all", "'all' is no option; files come behind theirs, like -i all"),
    ],
)
def test_wrong_lines_say_what_is_wrong(line, message):
    with pytest.raises(ValueError, match=message):
        parse(line.split(" "))


def test_help_names_every_option():
    text = usage()
    assert all(option.word in text for option in OPTIONS if option.word != "-h")
    assert all(word in text for word in NOT_HERE)
