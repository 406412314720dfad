"""The harness of the benchmarks: order, medians, memory, files and tables; no time is judged."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import __main__ as command
from benchmarks import harness, peers, records, tables
from benchmarks.harness import Check, CheckError
from benchmarks.records import Environment, Rate, Result, Row

ENVIRONMENT = Environment(
    cpu="Zilog Z80",
    cores=1,
    memory_gib=0.1,
    system="CP/M",
    python="3.11.0",
    blas="none",
    packages={"gpustats": "0.1.0", "nilearn": "0.14.1"},
    date="2026-01-02",
    commit="0123456789ab",
)
ROWS = (
    Row("files to z", "s", (0.5, 0.25, 9.0), (8.0, 7.0, 5.0), "nilearn", 8.0),
    Row("peak memory", "MiB", (300.0,), (1500.0,), "limit"),
)
RESULT = Result("toy", "3 maps", ENVIRONMENT, (Check("difference of z", 1e-7, 1e-5),), ROWS)
RATES = (Rate("voxels", 52, 1000, (29, 74)), Rate("extent", 3, 20))
COUNTED = replace(RESULT, name="counted", rows=(), rates=RATES)
MIB = 2**20


@pytest.fixture
def results(tmp_path):
    records.save(RESULT, tmp_path / "results")
    return tmp_path / "results"


def test_competitors_take_turns_after_one_call_each():
    calls = []
    competitors = {name: lambda name=name: calls.append(name) for name in "AB"}
    seconds = harness.time_interleaved(competitors, 3)
    assert calls == list("AB" * 4)
    assert {name: len(values) for name, values in seconds.items()} == {"A": 3, "B": 3}


def test_only_the_calls_after_the_first_are_timed(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])
    durations = {"A": iter([100.0, 1.0, 2.0]), "B": iter([200.0, 4.0, 8.0])}

    def spend(name):
        clock[0] += next(durations[name])

    competitors = {name: lambda name=name: spend(name) for name in "AB"}
    assert harness.time_interleaved(competitors, 2) == {"A": (1.0, 2.0), "B": (4.0, 8.0)}


def test_the_release_of_an_outcome_is_not_timed(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])

    class Large:
        def __del__(self):
            clock[0] += 10.0

    assert harness.time_interleaved({"A": Large}, 2) == {"A": (0.0, 0.0)}


@pytest.mark.parametrize(
    ("target", "verdict"), [(13.9, "met"), (14.0, "met"), (14.1, "missed"), (None, "")]
)
def test_the_ratio_is_of_medians_and_judged_by_the_target(target, verdict):
    row = replace(ROWS[0], target=target)
    assert row.ratio == 7.0 / 0.5
    assert row.verdict == verdict


def test_a_row_without_its_peer_says_so_and_is_not_judged():
    row = replace(ROWS[0], reference=())
    assert row.ratio is None
    assert row.verdict == ""
    assert records.cells(row) == ("files to z", "500 ms", "nilearn not installed", "", "")


@pytest.mark.parametrize(
    ("count", "verdict"), [(28, "outside"), (29, "inside"), (74, "inside"), (75, "outside")]
)
def test_a_rate_is_judged_by_what_is_allowed(count, verdict):
    assert replace(RATES[0], count=count).verdict == verdict
    assert replace(RATES[0], count=count, allowed=None).verdict == ""


@pytest.mark.parametrize("value", [1e-5, 2e-5, float("nan")])
def test_a_wrong_result_is_refused(value):
    with pytest.raises(CheckError, match=r"difference is .*; it must be below 1e-05"):
        harness.check_below("difference", value, 1e-5)


def test_a_right_result_is_recorded():
    assert harness.check_below("difference", 1e-7, 1e-5) == Check("difference", 1e-7, 1e-5)


def test_memory_is_that_of_the_process_alone():
    ballast = b"x" * (400 * MIB)
    idle = harness.run_alone(exec, "pass")
    large = harness.run_alone(exec, f"x = b'x' * {150 * MIB}")
    assert idle.peak_mib < 100
    assert large.peak_mib - idle.peak_mib == pytest.approx(150, abs=5)
    assert large.seconds > 0
    assert len(ballast) > 0


def test_a_failed_process_is_an_error(capfd):
    with pytest.raises(subprocess.CalledProcessError):
        harness.run_alone(exec, "raise SystemExit(3)")
    assert capfd.readouterr().out == ""


def test_a_cold_process_finds_nothing_compiled():
    source = "import os; assert os.listdir(os.environ['NUMBA_CACHE_DIR']) == []"
    harness.run_alone(exec, source, cold=True)


def test_the_environment_names_no_path():
    environment = records.describe_environment(["numpy", "no-such-package"])
    assert environment.cores >= 1
    assert environment.packages["no-such-package"] == "unknown"
    text = json.dumps(asdict(environment))
    for path in (harness.ROOT, Path.home(), sys.prefix, sys.base_prefix):
        assert str(path) not in text


@pytest.mark.parametrize("result", [RESULT, COUNTED])
def test_results_survive_the_way_through_the_file(result, tmp_path):
    assert records.load(records.save(result, tmp_path)) == result


def test_an_interrupted_write_leaves_the_old_results(results, monkeypatch):
    def write_half(path, text):
        with path.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(OSError, match="no space"):
        records.save(replace(RESULT, workload="4 maps"), results)
    assert [path.name for path in results.iterdir()] == ["toy.json"]
    assert records.load(results / "toy.json") == RESULT


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (12.345, "s", "12.3 s"),
        (1.0, "s", "1.00 s"),
        (0.04523, "s", "45.2 ms"),
        (0.000770, "s", "0.770 ms"),
        (0.0000991, "s", "99.1 µs"),
        (333.4, "MiB", "333 MiB"),
        (1567.2, "MiB", "1,567 MiB"),
    ],
)
def test_quantities_have_three_digits(value, unit, text):
    assert records.quantity(value, unit) == text


def test_the_plain_table_has_a_line_per_row_in_columns():
    header, first, second = records.plain_table(RESULT).splitlines()
    assert first.index("nilearn 7.00 s") == second.index("limit") == header.index("compared with")
    assert first.endswith("14.0x  ≥ 8x, met")
    assert second.endswith("5.00x")


def test_rates_have_a_table_of_their_own():
    header, first, second = records.plain_table(COUNTED).splitlines()
    assert header.split() == ["rejections", "share", "allowed", "verdict"]
    assert first.split() == ["voxels", "52", "of", "1,000", "5.2%", "29", "to", "74", "inside"]
    assert second.split() == ["extent", "3", "of", "20", "15.0%"]
    assert "| voxels | 52 of 1,000 | 5.2% | 29 to 74 | inside |" in tables.markdown(COUNTED)


def test_what_a_job_does_once_is_not_part_of_a_shuffle(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])

    def job(n_shuffles):
        clock[0] += 100.0 + 0.5 * n_shuffles

    seconds = peers.per_shuffle({"A": job, "idle": lambda _: None}, 2, 10, repeats=2)
    assert seconds["A"] == (0.5, 0.5)
    assert min(seconds["idle"]) > 0


def test_a_peer_that_is_not_there_is_not_installed(monkeypatch):
    monkeypatch.setitem(peers.DISTRIBUTIONS, "there", "numpy")
    monkeypatch.setitem(peers.DISTRIBUTIONS, "absent", "no-such-package")
    monkeypatch.setitem(peers.COMMANDS, "absent command", "no-such-command")
    assert peers.is_installed("there")
    assert not peers.is_installed("absent")
    assert not peers.is_installed("absent command")


def test_only_what_stands_between_the_markers_is_replaced(results):
    text = "# Title\n<!-- benchmark:toy -->\nold\n<!-- /benchmark -->\nrest <!-- a remark -->\n"
    spliced = tables.splice(text, results)
    assert spliced.startswith("# Title\n<!-- benchmark:toy -->\n\n|  | gpustats |")
    assert spliced.endswith("\n\n<!-- /benchmark -->\nrest <!-- a remark -->\n")
    assert "| files to z | 500 ms | nilearn 7.00 s | 14.0x | ≥ 8x, met |\n" in spliced
    assert "on Zilog Z80, 1 cores, with Python 3.11.0, gpustats 0.1.0, nilearn 0.14.1" in spliced
    assert "old" not in spliced
    assert tables.splice(spliced, results) == spliced


@pytest.mark.parametrize(
    "text",
    [
        "<!-- benchmark:toy -->\nno end\n",
        "<!-- benchmark:toy -->\n<!-- benchmark:toy -->\n<!-- /benchmark -->\n",
        "<!-- benchmark: toy -->\n<!-- /benchmark -->\n",
    ],
)
def test_a_marker_that_is_not_closed_is_refused(text, results):
    with pytest.raises(ValueError, match="needs a '<!-- /benchmark -->' after it"):
        tables.splice(text, results)


def test_a_marker_without_a_result_is_refused(results):
    with pytest.raises(FileNotFoundError, match=r"other\.json"):
        tables.splice("<!-- benchmark:other -->\n<!-- /benchmark -->\n", results)


def test_check_tells_an_outdated_readme_and_changes_nothing(results, tmp_path, capsys):
    readme = tmp_path / "README.md"
    outdated = "<!-- benchmark:toy -->\n<!-- /benchmark -->\n"
    readme.write_text(outdated)
    options = ["--readme", str(readme), "--results", str(results)]
    assert tables.main(["--check", *options]) == 1
    assert "README.md is outdated" in capsys.readouterr().out
    assert readme.read_text() == outdated
    assert tables.main(options) == 0
    assert tables.main(["--check", *options]) == 0


@pytest.fixture
def saved(monkeypatch):
    """Replace the workloads by three that end differently; return the results that are kept."""

    def wrong(*, quick):
        raise CheckError(f"z is off, quick={quick}")

    outside = replace(COUNTED, rates=(*RATES, replace(RATES[0], count=99)))
    modules = {"right": lambda **_: RESULT, "wrong": wrong, "outside": lambda **_: outside}
    for name, run in modules.items():
        module = ModuleType(f"toy_{name}")
        module.run = run
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(command, "WORKLOADS", {name: f"toy_{name}" for name in modules})
    kept = []
    monkeypatch.setattr(command, "save", kept.append)
    return kept


def test_all_workloads_run_and_a_wrong_one_fails_the_run(saved, capsys):
    assert command.main([]) == 1
    assert [result.name for result in saved] == ["toy", "counted"]
    captured = capsys.readouterr()
    assert "WRONG RESULT: z is off, quick=False" in captured.err
    assert "≥ 8x, met" in captured.out


def test_quick_results_are_neither_kept_nor_judged(saved, capsys):
    assert command.main(["--quick", "right"]) == 0
    assert saved == []
    output = capsys.readouterr().out
    assert "files to z" in output
    assert "met" not in output


def test_a_rate_outside_fails_the_run_unless_it_is_quick(saved, capsys):
    assert command.main(["outside"]) == 1
    assert len(saved) == 1
    assert "99 of 1,000" in capsys.readouterr().out
    assert command.main(["--quick", "outside"]) == 0
    assert "outside" not in capsys.readouterr().out


def test_an_unknown_workload_is_named(saved, capsys):
    with pytest.raises(SystemExit):
        command.main(["third"])
    assert "no workload third; there are right, wrong, outside" in capsys.readouterr().err
    assert saved == []


@pytest.mark.slow
@pytest.mark.parametrize("name", command.WORKLOADS)
def test_every_workload_runs(name):
    is_missing = command.NEEDS.get(name, str)() != ""
    run = [sys.executable, "-m", "benchmarks", "--quick", name]
    status = subprocess.run(run, cwd=harness.ROOT, check=False, timeout=300).returncode
    assert status == (2 if is_missing else 0)
