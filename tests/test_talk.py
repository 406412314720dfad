import io
import itertools
import json
import logging
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from simulate import make_maps, save_group

from gpustats import cli
from gpustats.cli_talk import talking
from gpustats.progress import counted, shown

logger = logging.getLogger("gpustats")


@pytest.fixture
def files(tmp_path, rng):
    maps = make_maps(rng, n_subjects=6)
    maps.values[3, 2] = np.nan  # worth a warning
    folder = tmp_path / "maps"
    folder.mkdir()
    return [str(path) for path in save_group(folder, maps)]


@pytest.fixture
def clock(monkeypatch):
    """A second passes each time that tqdm asks for the time."""
    seconds = itertools.count()
    monkeypatch.setattr("tqdm.std.time", lambda: next(seconds))


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def talk(**chosen):
    return talking(
        SimpleNamespace(**{"verbose": False, "quiet": False, "json_log": False} | chosen)
    )


def work():
    for number in shown(range(10), "reading maps", 10, "map"):
        if number == 5:
            logger.warning("half of it is done")


@pytest.mark.parametrize("words", [("--quiet", "stack"), ("stack", "--quiet")])
def test_quiet_leaves_warnings_and_errors(run, files, words):
    status, out, err = run(*words, *files, "--mask", files[0], "-o", "cohort.zarr")
    assert (status, out) == (0, "")
    assert err == ""
    assert Path("cohort.zarr").is_dir()
    status, out, err = run("fit", "--quiet", *files)
    assert (status, out) == (0, "")
    assert err.startswith("gpustats: 1 voxels left the mask: missing in some map; --missing pair")
    assert len(err.splitlines()) == 1
    status, out, err = run("--quiet", "fit", "nowhere.nii.gz")
    assert (status, out) == (2, "")
    assert err == "gpustats: error: nowhere.nii.gz: no such file\n"


def test_quiet_does_not_take_answers_away(run):
    assert "numpy" in run("info", "--quiet")[1]


def test_verbose_says_more(run, files):
    # what 'auto' took is said once in the life of a process
    words = [*files, "--device", "cpu"]
    plain = run("fit", *words)[2].splitlines()
    more = run("-v", "fit", *words)[2].splitlines()
    assert set(plain) < set(more)
    assert more[0] == f"gpustats: gpustats -v fit {' '.join(words)}"
    assert any(files[3] in line and "read" in line for line in more)
    assert run("fit", *words)[2].splitlines() == plain  # the next run is as before
    recorded = json.loads(Path("gpustats-results/result.json").read_text())["parameters"]
    assert not {"verbose", "quiet", "json_log"} & set(recorded)


@pytest.mark.parametrize("words", [("-v", "fit", "--quiet"), ("fit", "-v", "--quiet")])
def test_verbose_and_quiet_exclude_each_other(run, files, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(*words, *files)
    assert "--quiet: not allowed with argument -v/--verbose" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--json-log", "fit"), ("fit", "--json-log")])
def test_json_log_has_one_object_a_line(run, files, words):
    told = [json.loads(line) for line in run(*words, *files, "-v")[2].splitlines()]
    assert all(set(one) == {"time", "level", "message"} for one in told)
    assert {one["level"] for one in told} >= {"debug", "warning"}
    assert told == sorted(told, key=lambda one: one["time"])
    (error,) = map(json.loads, run(*words, "nowhere.nii.gz")[2].splitlines())
    assert (error["level"], error["message"]) == ("error", "nowhere.nii.gz: no such file")


@pytest.mark.usefixtures("clock")
def test_progress_in_json_has_numbers(capsys):
    with talk(json_log=True):
        work()
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    progress = [one["progress"] for one in told if "progress" in one]
    assert [one["done"] for one in progress] == sorted(one["done"] for one in progress)
    assert progress[-1]["done"] == progress[-1]["total"] == 10
    assert progress[-1]["seconds_left"] == 0
    for one in progress:
        assert (one["task"], one["unit"]) == ("reading maps", "map")
        left = (10 - one["done"]) / one["per_second"]
        assert one["seconds_left"] == pytest.approx(left, abs=0.06 + 0.002 * left)


@pytest.mark.usefixtures("clock")
def test_a_bar_and_messages_do_not_mix():
    with redirect_stderr(Terminal()) as terminal, talk():
        work()
    lines = [part.rstrip() for part in terminal.getvalue().replace("\r", "\n").split("\n")]
    assert "gpustats: half of it is done" in lines
    bars = [line for line in lines if line and not line.startswith("gpustats: ")]
    assert bars
    assert all(
        re.match(r"reading maps: .* \d+/10 \[\d+:\d+<\d+:\d+, .*/map\]", bar) for bar in bars
    )
    assert "10/10" in bars[-1]


@pytest.mark.usefixtures("clock")
def test_no_progress_without_a_terminal_unless_it_is_asked_for(capsys):
    with talk():
        work()
    assert capsys.readouterr().err == "gpustats: half of it is done\n"
    with talk(verbose=True), counted(40) as finish:
        for _ in range(40):
            finish(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("gpustats: shuffles: 40 of 40, ")
    assert lines[-1].endswith(" a second, 0 s left")


@pytest.mark.usefixtures("clock")
def test_quiet_shows_no_bar_on_a_terminal():
    with redirect_stderr(Terminal()) as terminal, talk(quiet=True):
        work()
    assert terminal.getvalue() == "gpustats: half of it is done\n"


def test_a_program_that_imports_the_package_decides_what_it_hears():
    code = (
        "import logging, gpustats\n"
        "logging.getLogger('gpustats').warning('nobody listens')\n"
        "assert not logging.getLogger().handlers\n"
        "logging.basicConfig(format='heard: %(message)s')\n"
        "logging.getLogger('gpustats').warning('all voxels left')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "heard: all voxels left\n"


def completions(script, *words):
    """What bash makes of words, the last of which is not finished."""
    quoted = " ".join(f"'{word}'" for word in words)
    code = (
        f"source {script}\nCOMP_WORDS=({quoted})\nCOMP_CWORD={len(words) - 1}\n"
        "_shtab_gpustats\nprintf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return {word.strip() for word in done.stdout.splitlines()}


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is what completes")
def test_bash_completes_commands_options_choices_and_files(run, files):
    script = Path("gpustats.bash")
    script.write_text(run("completion", "bash")[1])
    assert completions(script, "gpustats", "me") == {"merge"}
    assert completions(script, "gpustats", "fit", "--int") == {"--intercept"}
    assert completions(script, "gpustats", "fit", "--missing", "p") == {"pairwise"}
    assert completions(script, "gpustats", "fit", "--mask", files[0][:-5]) == {files[0]}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_their_completion(run, shell):
    script = Path(f"gpustats.{shell}")
    script.write_text(run("completion", shell)[1])
    assert "gpustats" in script.read_text()
    assert "pairwise" in script.read_text()
    if shutil.which(shell):
        subprocess.run([shell, "-n", script], check=True)


def test_every_command_can_be_told_how_much_to_say(capsys):
    for command in ("fit", "permute", "merge", "stack", "selftest", "info", "demo"):
        with pytest.raises(SystemExit, match="0"):
            cli.main([command, "--help"])
        shown_help = capsys.readouterr().out
        assert all(word in shown_help for word in ("--verbose", "--quiet", "--json-log"))
