"""Every block of code in the README and in the documentation runs as it stands.

What cannot run here says why, in a comment right before it: ``<!-- not run: needs a GPU -->``.
"""

import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from nilearn.datasets import load_mni152_brain_mask

import gpustats
from gpustats import cli, images
from gpustats.simulation import Blob, effect_map, simulate_maps
from gpustats.vest import write_vest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
EMULATOR = ROOT / "tests" / "emulator" / "README.md"
NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
PAGES = [
    *sorted(set((ROOT / "docs").rglob("*.md")) - set((ROOT / "docs" / "_build").rglob("*.md"))),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "kernels")),
    ROOT / "CONTRIBUTING.md",
    pytest.param(EMULATOR, marks=NEEDS_COMPILER),
]
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>\S.*\S) -->\s*", re.DOTALL)
RUN = ("python", "bash", "console")
SHOWN = ("text", "json", "cpp")
"""Languages of blocks that nobody would run."""
PLAIN = re.compile(r"gpustats [^|&;<>$()`]*")
"""A command that is words only, which saves a process."""
SECONDS = 60


class Block(NamedTuple):
    """Code of a page."""

    place: str
    language: str
    code: str


def blocks_of(page, text):
    """Return the blocks of a page that run; refuse those that neither run nor say why not."""
    tokens = MarkdownIt().parse(text)
    blocks = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "code_block":
            raise ValueError(f"{page}:{token.map[0] + 1}: indented code; fence it and name it")
        directive = token.info.startswith("{") and not token.info.startswith("{code")
        if token.type != "fence" or directive:
            continue
        place, language = f"{page}:{token.map[0] + 1}", token.info.strip()
        if before is not None and before.type == "html_block" and "not run" in before.content:
            if not NOT_RUN.fullmatch(before.content):
                raise ValueError(f"{place}: write <!-- not run: the reason -->")
        elif language == "console" and not commands_of(token.content):
            raise ValueError(f"{place}: a console needs a prompt, '$ ', before each command")
        elif language in RUN:
            blocks.append(Block(place, language, token.content))
        elif language not in SHOWN:
            raise ValueError(
                f"{place}: {language or 'no'} language; name one of {RUN} or {SHOWN}, or say "
                "<!-- not run: the reason -->"
            )
    return blocks


def commands_of(console):
    """Return what is typed after the prompts of a console, lines that go on included."""
    commands, goes_on = [], False
    for line in console.splitlines():
        if goes_on:
            commands[-1] += f"\n{line}"
        elif line.startswith("$ "):
            commands.append(line[2:])
        goes_on = (goes_on or line.startswith("$ ")) and line.endswith("\\")
    return commands


def words_of(command):
    """Return the words of a plain command as a shell gives them to a program."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    return [name for word in words for name in sorted(glob.glob(word)) or [word]]


def write_design_files(folder, groups):
    """Write what FSL's users have: a 4D file, and the files of a design."""
    (folder / "all_con.nii.gz").symlink_to(folder / "con_4d.nii.gz")
    regressors = groups[["patients", "controls"]]
    write_vest(folder / "design.mat", regressors)
    write_vest(folder / "design.con", [[1, -1], [-1, 1]], names=["more", "less"])
    write_vest(folder / "design.fts", [[1, 0]])
    write_vest(folder / "design.grp", np.ones((len(groups), 1)))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with what the pages name: maps of 20 subjects on a coarse brain, and tables."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(7)
    mask = load_mni152_brain_mask(resolution=8)
    grid = images.read_mask(mask)
    images.save_image(mask, folder / "mask.nii.gz", np.uint8)
    subjects = [f"sub-{number:02d}" for number in range(1, 21)]
    group, age = np.repeat([1.0, 0.0], 10), rng.integers(20, 70, 20).astype(float)
    responds = effect_map(grid, [Blob((-40.0, -24.0, 48.0), 24.0, 2.0)])
    noise = simulate_maps(grid, 0 * responds, 20, fwhm_mm=12, seed=1)
    weights = 0.5 + group + 0.05 * (age - age.mean())
    maps = [
        images.unmask(values + weight * responds, grid)
        for values, weight in zip(noise, weights, strict=True)
    ]
    for name in ("maps", "wave2", "bin"):
        (folder / name).mkdir()
    for number, (subject, image) in enumerate(zip(subjects, maps, strict=True)):
        images.save_image(image, folder / f"{subject}_con.nii.gz")
        part = folder / ("maps" if number < 16 else "wave2")
        (part / f"{subject}_con.nii.gz").symlink_to(folder / f"{subject}_con.nii.gz")
    nib.save(nib.concat_images(maps), folder / "con_4d.nii.gz")
    groups = pd.DataFrame({"patients": group, "controls": 1 - group, "age": age})
    tables = {
        "groups.tsv": groups,
        "participants.tsv": pd.DataFrame({"age": age, "sex": rng.integers(0, 2, 20)}),
    }
    for name, table in tables.items():
        table.insert(0, "participant_id", subjects)
        table.to_csv(folder / name, sep="\t", index=False)
    write_design_files(folder, groups)
    program = folder / "bin" / "gpustats"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gpustats "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.fixture
def shell(study, tmp_path, monkeypatch):
    """Run a script with ``gpustats`` at hand, in a folder of links to the study."""
    for path in study.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    searched = os.pathsep.join([str(study / "bin"), str(Path(sys.executable).parent)])
    monkeypatch.setenv("PATH", searched, prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)

    def run(script):
        if PLAIN.fullmatch(script):
            try:
                return cli.main(words_of(script)[1:])
            except SystemExit as end:  # argparse's way
                return end.code
        strict = ["bash", "-euo", "pipefail", "-c", script]
        return subprocess.run(strict, timeout=SECONDS, check=False).returncode

    return run


def run_blocks(page, shell):
    """Run the blocks of a page in order; return what its Python has defined."""
    names = {
        "__name__": "__main__",
        "contrast_images": sorted(str(path) for path in Path().glob("sub-*_con.nii.gz")),
        "design": pd.read_csv("groups.tsv", sep="\t", index_col=0),
    }
    for block in blocks_of(page.name, page.read_text()):
        if block.language == "python":
            exec(compile(block.code, block.place, "exec"), names)
            continue
        scripts = commands_of(block.code) if block.language == "console" else [block.code]
        for script in scripts:
            assert shell(script) == 0, f"{block.place}: {script}"
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_of_the_documentation_run(page, shell):
    run_blocks(page, shell)


def test_blocks_of_the_readme_run_and_find_what_is_there(shell):
    names = run_blocks(README, shell)
    assert len(names["clusters"]) > 0
    assert names["result"]["tfce"].p_corrected.min() < 0.05


def test_every_public_name_is_in_the_api():
    listed = re.findall(r"^   (\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert {*gpustats.__all__} - {"__version__"} <= {*listed}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```\ngpustats\n```", "no language"),
        ("```sh\ngpustats\n```", "sh language"),
        ("```{code-block} python\n1\n```", "python language"),
        ("```console\ngpustats\n```", "a prompt"),
        ("<!-- not run: -->\n```python\n1\n```", "the reason"),
        ("<!-- not run -->\n\n```python\n1\n```", "the reason"),
        ("    indented()", "fence it"),
    ],
)
def test_blocks_that_neither_run_nor_say_why_are_refused(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        blocks_of("page.md", text)


def test_marked_blocks_and_directives_are_left_out():
    text = "<!-- not run: needs a GPU -->\n```bash\nfalse\n```\n\n```{math}\nx\n```\n"
    text += "1. item\n\n   ```python\n   x = 1\n   ```\n\n```text\nshown\n```\n"
    assert blocks_of("page.md", text) == [Block("page.md:11", "python", "x = 1\n")]


def test_a_console_gives_its_commands_only():
    console = "$ echo a \\\n    b\nits output\n$ echo c\n"
    assert commands_of(console) == ["echo a \\\n    b", "echo c"]


def test_plain_words_are_those_of_a_shell(shell, tmp_path):
    command = "gpustats fit \\\n    sub-0*_con.nii.gz --contrast 'a - b'  # of nine"
    assert PLAIN.fullmatch(command)
    assert shell(f"> words.txt printf '%s\\n' {command}") == 0
    assert words_of(command) == (tmp_path / "words.txt").read_text().splitlines()


@pytest.mark.parametrize(
    "script", ["gpustats fit nothing.nii.gz", "gpustats fit --no", "gpustats info | false", "false"]
)
def test_commands_that_fail_are_noticed(script, shell):
    assert shell(script) != 0
