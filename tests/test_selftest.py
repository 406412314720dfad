import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gpustats import __version__, engines
from gpustats.engines import Engine, cpu
from gpustats.engines.gpu_devices import INSTALL_LINE, Gpu
from gpustats.selftest import SelfTest, speed
from gpustats.selftest.checks import all_checks
from gpustats.selftest.promises import EQUAL, Machine, Promise, carry_out
from gpustats.selftest.sample import sample

# what engines tell of themselves, and how they time, is no result
NO_RESULTS = {"describe", "elapsed", "fingerprint", "free_bytes", "voxel_tile"}
FUNCTIONS = sorted({name for name in vars(Engine) if not name.startswith("_")} - NO_RESULTS)


@pytest.fixture(scope="module")
def data():
    return sample(0, quick=True)


@pytest.fixture
def small(monkeypatch):
    """Workloads that take no time."""
    monkeypatch.setattr(speed, "SHAPES", dict.fromkeys((False, True), (15, 17, 13)))
    monkeypatch.setattr(speed, "COPIED", dict.fromkeys((False, True), 1000))
    monkeypatch.setattr(speed, "MULTIPLIED", dict.fromkeys((False, True), 16))
    monkeypatch.setattr(speed, "LONG_ENOUGH", 0.0)


@pytest.fixture
def no_cupy(monkeypatch):
    """A machine on which CuPy is not installed."""
    monkeypatch.setitem(sys.modules, "cupy", None)


@pytest.fixture
def pretend_gpu(monkeypatch):
    """Let the functions of the CPU engine, but for some, be those of a GPU."""

    def pretend(**replaced):
        functions = {name: getattr(cpu, name) for name in (*FUNCTIONS, *NO_RESULTS)}
        stub = SimpleNamespace(**functions | {"describe": lambda: "a pretended GPU"} | replaced)
        monkeypatch.setattr(engines, "why_no_gpu", lambda _=0: "")
        monkeypatch.setattr(engines, "_gpu", lambda _: stub)
        listed = (Gpu("pretended", "1.0", 2**34, 2**33),)
        for module in ("gpustats.selftest", "gpustats.cli_selftest"):
            monkeypatch.setattr(f"{module}.why_no_gpu", lambda: "")
            monkeypatch.setattr(f"{module}.gpus", lambda: listed)
            monkeypatch.setattr(f"{module}.cuda_versions", lambda: {"cupy": "0.0"})
        return stub

    return pretend


def out_of_order(*_, **__):
    raise RuntimeError("out of\norder")


def altered(result):
    """A copy of a result whose last number is the next one."""
    if isinstance(result, tuple):
        parts = altered(result[0]), *result[1:]
        return type(result)(*parts) if hasattr(result, "_fields") else parts
    copied = np.array(result)
    last = copied.flat[copied.size - 1]
    copied.flat[copied.size - 1] = (
        ~last if last.dtype == bool else last + 1 if last.dtype.kind == "i" else last * 1.001 + 0.01
    )
    return copied


# what functions write to that return little or nothing
WRITTEN = {
    "negate": lambda maps: maps,
    "put": lambda _, maps, __: maps,
    "f_maps_to_z": lambda maps, *_: maps,
    "t_maps_to_z": lambda maps, *_: maps,
    "cluster_counts": lambda *arguments, **_: arguments[3].counts,
    "tfce_counts": lambda *arguments: arguments[5].counts,
    "sweep": lambda *_, maps, **__: maps,
}


def spoiled(name):
    """A function of the CPU engine that gets one number wrong."""
    function = getattr(cpu, name)

    def wrong(*arguments, **options):
        result = function(*arguments, **options)
        if name == "empty_maps":
            return result[1:]
        if name not in WRITTEN:
            return altered(result)
        written = WRITTEN[name](*arguments, **options)
        if written is not None:
            written[...] = altered(written)
        return result

    return wrong


def failed(findings):
    return [finding.name for finding in findings if not finding.passed]


@pytest.mark.parametrize("quick", [False, True])
def test_the_cpu_engine_keeps_every_promise(quick):
    findings = list(SelfTest("cpu", seed=3, quick=quick).findings())
    assert len(findings) == len(all_checks()) == len({finding.name for finding in findings}) > 60
    assert failed(findings) == []


@pytest.mark.usefixtures("cuda", "small")
def test_the_cuda_engine_keeps_every_promise():
    test = SelfTest("cuda", quick=True)
    assert test.twin.engine is cpu
    assert failed(test.findings()) == []
    assert [rate.name for rate in test.rates() if rate.seconds is None] == []


def test_two_engines_that_are_the_same_agree_to_the_bit(pretend_gpu):
    pretend_gpu()
    findings = list(SelfTest("cuda", quick=True).findings())
    assert failed(findings) == []
    assert {finding.difference for finding in findings} == {0.0}


def test_every_function_of_the_seam_is_called(pretend_gpu):
    called = set()

    def spy(name):
        function = getattr(cpu, name)

        def called_by_name(*arguments, **options):
            called.add(name)
            return function(*arguments, **options)

        return called_by_name

    pretend_gpu(**{name: spy(name) for name in FUNCTIONS})
    assert failed(SelfTest("cuda", quick=True).findings()) == []
    assert called == set(FUNCTIONS)


@pytest.mark.parametrize("against", ["cpu", "definitions"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_wrong_number_is_found(monkeypatch, data, name, against):
    twin = Machine("cpu", SimpleNamespace(**vars(cpu))) if against == "cpu" else None
    monkeypatch.setattr(cpu, name, spoiled(name))
    machine = Machine("cpu", cpu)
    group = name if any(name in check.name for check in all_checks()) else "sweep"
    named = [check for check in all_checks() if group in check.name]
    assert failed(carry_out(check, machine, twin, data) for check in named)


@pytest.mark.parametrize("name", ["label", "cluster_scores", "tfce_scores", "shuffled_rows"])
def test_the_last_bit_counts_where_equality_is_promised(pretend_gpu, name):
    def last_bit(*arguments, **options):
        result = getattr(cpu, name)(*arguments, **options)
        array = result[0] if isinstance(result, tuple) else result
        bits = array.reshape(-1).view(np.int64 if array.itemsize == 8 else np.int32)
        bits[bits.size // 2] ^= 1
        return result

    pretend_gpu(**{name: last_bit})
    found = failed(SelfTest("cuda", quick=True).findings())
    assert found
    assert all(name in one or one == "permutation_test" for one in found)


def test_counts_and_extremes_of_a_sweep_are_checked(pretend_gpu):
    def short_of_one(rows, units, form, *, shuffles, exceeding, maps):
        peaks = cpu.sweep(rows, units, form, shuffles=shuffles, exceeding=exceeding, maps=maps)
        if exceeding is not None:
            exceeding.counts[0] -= 1
        return peaks

    def without_lower(*arguments, **options):
        peaks = cpu.sweep(*arguments, **options)
        return peaks._replace(lower=peaks.upper)

    pretend_gpu(sweep=short_of_one)
    found = failed(SelfTest("cuda", quick=True).findings())
    assert {name for name in found if "counts of" in name} == {
        check.name for check in all_checks() if "counts of" in check.name
    }
    pretend_gpu(sweep=without_lower)
    found = failed(SelfTest("cuda", quick=True).findings())
    assert {"sweep, cosine", "sweep, Freedman-Lane t"} <= set(found)


def test_a_function_that_depends_on_its_batch_is_found(pretend_gpu):
    def by_batch(*arguments, shuffles, maps, **options):
        peaks = cpu.sweep(*arguments, shuffles=shuffles, maps=maps, **options)
        if maps is not None and shuffles.start:
            maps *= np.float32(1 + 2**-22)
        return peaks

    pretend_gpu(sweep=by_batch)
    found = failed(SelfTest("cuda", quick=True).findings())
    assert found == [check.name for check in all_checks() if "in parts" in check.name]


def test_what_is_raised_fails_one_check_and_the_rest_goes_on(monkeypatch):
    monkeypatch.setattr(cpu, "t_to_z", out_of_order)
    findings = list(SelfTest("cpu", quick=True).findings())
    wrong = [finding for finding in findings if not finding.passed]
    assert [finding.name for finding in wrong] == [
        check.name for check in all_checks() if check.name.startswith(("t_to_z", "t_maps_to_z"))
    ]
    assert {finding.error for finding in wrong} == {"RuntimeError: out of order"}
    assert len(findings) == len(all_checks())


@pytest.mark.parametrize(
    ("found", "expected", "difference"),
    [
        (np.array([2**60 + 1]), np.array([2**60]), 2.0**-60),
        (np.array([np.nan]), np.array([1.0]), np.inf),
        (np.array([np.nan]), np.array([np.nan]), np.inf),
        (np.array([np.inf]), np.array([np.inf]), 0.0),
        (np.array([True, False]), np.array([True, True]), 1.0),
        (np.array([0.5, 30.0]), np.array([0.25, 10.0]), 2.0),
        (np.empty(0), np.empty(0), 0.0),
    ],
)
def test_differences(found, expected, difference):
    with np.errstate(invalid="ignore"):
        assert EQUAL.difference((found,), (expected,)) == difference


def test_differences_need_equal_shapes():
    with pytest.raises(ValueError, match="shapes"):
        EQUAL.difference((np.zeros(3),), (np.zeros((1, 3)),))
    with pytest.raises(ValueError, match="shapes"):
        EQUAL.difference((), (np.zeros(3),))
    assert Promise(1, relative=False).difference((np.array([30.0]),), (np.array([10.0]),)) == 20


@pytest.mark.usefixtures("small", "no_cupy")
def test_the_command_reports_to_terminal_and_file(run):
    status, out, _ = run("selftest", "--quick", "--seed", "5", "--output-file", "report.json")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == f"no GPU: CuPy is not installed; {INSTALL_LINE}"
    assert lines[1] == f"checking the CPU engine against plain definitions: {cpu.describe()}"
    assert lines[-1] == f"all {len(all_checks())} checks passed on {cpu.describe()}"
    for check in all_checks():
        assert any(line.startswith(check.name) and line.endswith("ok") for line in lines)
    assert os.listdir() == ["report.json"]
    with open("report.json") as file:
        report = json.load(file)
    assert report["passed"]
    assert report["device"] == cpu.describe()
    assert report["fingerprint"] == cpu.fingerprint()
    assert report["reference"] == "definitions"
    assert "CuPy is not installed" in report["no_gpu"]
    assert report["gpus"] == []
    assert report["versions"]["gpustats"] == __version__
    assert report["parameters"] == {"device": "auto", "seed": 5, "quick": True}
    assert [check["name"] for check in report["checks"]] == [check.name for check in all_checks()]
    for check in report["checks"]:
        assert check["passed"]
        assert 0 <= check["found"] <= check["tolerance"]
    rates = {rate["name"]: rate for rate in report["rates"]}
    assert list(rates) == list(speed.WORKLOADS)
    assert rates["copy"]["fraction"] == rates["product of square matrices"]["fraction"] == 1
    for rate in rates.values():
        assert rate["seconds"] > 0
        assert rate["error"] is rate["left_out"] is None
        best = rates["copy" if rate["unit"] == "B/s" else "product of square matrices"]
        assert rate["fraction"] == pytest.approx(rate["per_second"] / best["per_second"])


@pytest.mark.usefixtures("small")
def test_a_mismatch_is_named_and_exits_with_one(run, pretend_gpu):
    def off_by_one(above, lattice):
        return cpu.label(above, lattice) + above

    pretend_gpu(label=off_by_one, f_to_z=out_of_order)
    status, out, err = run("selftest", "--quick", "--output-file", "report.json")
    assert status == 1
    assert "Traceback" not in err
    lines = out.splitlines()
    assert lines[0] == "checking a pretended GPU"
    assert lines[1] == f"against the CPU engine: {cpu.describe()}"
    wrong = [line.split("  ")[0] for line in lines if line.endswith("MISMATCH")]
    assert wrong == ["f_to_z", *(f"label, {n} neighbours" for n in (6, 18, 26))]
    assert "    RuntimeError: out of order" in lines
    n_checks = len(all_checks())
    assert lines[-1] == f"4 of {n_checks} checks FAILED on a pretended GPU"
    with open("report.json") as file:
        report = json.load(file)
    assert not report["passed"]
    assert report["no_gpu"] is None
    assert report["gpus"][0]["name"] == "pretended"
    assert report["versions"]["cupy"] == "0.0"
    assert report["reference"] == cpu.describe()
    entries = {check["name"]: check for check in report["checks"]}
    assert entries["f_to_z"]["error"] == "RuntimeError: out of order"
    assert entries["f_to_z"]["found"] is None
    assert entries["label, 6 neighbours"]["found"] > 0


@pytest.mark.usefixtures("small")
def test_a_workload_that_fails_exits_with_one(run, monkeypatch, pretend_gpu):
    pretend_gpu()
    monkeypatch.setitem(speed.WORKLOADS, "copy", out_of_order)
    status, out, _ = run("selftest", "--quick")
    assert status == 1
    assert "FAILED: RuntimeError: out of order" in out
    assert any(
        line.startswith("cluster_peaks ") and line.endswith(" -") for line in out.splitlines()
    )
    n_checks, n_workloads = len(all_checks()), len(speed.WORKLOADS)
    last = f"all {n_checks} checks passed, 1 of {n_workloads} workloads FAILED on a pretended GPU"
    assert out.splitlines()[-1] == last


@pytest.mark.usefixtures("small")
def test_a_workload_without_room_is_left_out(run, monkeypatch):
    monkeypatch.setattr(cpu, "free_bytes", lambda: 2**20)
    status, out, _ = run("selftest", "--quick", "--device", "cpu")
    assert status == 0
    left_out = [line for line in out.splitlines() if "not enough memory" in line]
    assert [line.split("  ")[0] for line in left_out] == [
        "sweep, 100 subjects",
        "sweep, 1000 subjects",
    ]


@pytest.mark.usefixtures("small")
def test_control_c_leaves_no_report(run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cpu, "regress", interrupted)
    status, _, err = run("selftest", "--quick", "--device", "cpu", "--output-file", "report.json")
    assert status == 130
    assert "Traceback" not in err
    assert os.listdir() == []


@pytest.mark.usefixtures("no_cupy")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda"], "device 'cuda': CuPy is not installed"),
        (["--device", "gpu"], "device must be 'auto', 'cpu', 'cuda' or 'cuda:<index>'"),
        (["--output-file", "missing/report.json"], "missing: No such file or directory"),
        (["--output-file", "."], ".: Is a directory"),
        (["--seed", "-1"], "seed must be a whole number from 0 to 4294967295, got -1"),
        (["--seed", "4294967296"], "seed must be a whole number from 0 to 4294967295"),
    ],
)
def test_a_users_error_is_one_line_before_anything_is_done(run, words, message):
    status, out, err = run("selftest", *words)
    lines = [line for line in err.splitlines() if "error" in line]
    assert status == 2
    assert len(lines) == 1
    assert message in lines[0]
    assert out == ""
    assert os.listdir() == []
