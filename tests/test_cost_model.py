"""What kernels are said to cost: that it is counted right, computed right, and up to date."""

import numpy as np
import pytest
from emulator import nvrtc

from benchmarks import cost_counts, cost_model, cost_workloads
from benchmarks.cost_counts import Case, Counts
from benchmarks.cost_devices import DEVICES, bound, seconds_at_worst
from gpustats import Grid, sources

H100 = DEVICES[0]
NOTHING = Counts("labels", "map", "label_init", *[0.0] * 8)
README = "# Kernels\n<!-- costs -->\n<!-- /costs -->\nThe end.\n"

needs_nvrtc = pytest.mark.skipif(
    not nvrtc.installed(), reason="NVRTC is not installed: pip install nvidia-cuda-nvrtc"
)


@pytest.mark.parametrize(
    ("work", "resource"),
    [
        ({"least_bytes": 3.35e12, "most_bytes": 3.35e12}, "memory"),
        ({"sectors": 4 * 132 * 1.98e9}, "L1"),
        ({"passes": 132 * 1.98e9}, "L1"),
        ({"instructions": 4 * 132 * 1.98e9}, "issue"),
        ({"fp32": 128 * 132 * 1.98e9}, "FP32"),
        ({"fp64": 64 * 132 * 1.98e9}, "FP64"),
    ],
)
def test_what_takes_longest_is_the_bound(work, resource):
    counts = NOTHING._replace(**work)
    assert bound(counts, H100) == pytest.approx((1.0, resource))
    assert bound(counts._replace(instructions=1e11), H100).resource == resource
    assert seconds_at_worst(counts, H100) >= 1 / 0.6


@needs_nvrtc
def test_bytes_and_instructions_of_a_launch_are_counted(emulated):
    from emulator.stand_in_modules import launches

    from gpustats.engines import gpu

    lattice = Grid(np.ones((16, 16, 16), dtype=bool), np.eye(4)).lattice(26)
    above = np.zeros((1, 4096), dtype=bool)
    case = Case("labels", "map", 0.5, lambda: gpu.label(above, lattice))
    with emulated.executed(front="ptx", mode="check"):
        init, merge, flatten = cost_counts._counts(case, launches)
    assert [each.kernel for each in (init, merge, flatten)] == [
        "label_init",
        "label_merge",
        "label_flatten",
    ]
    # half a map is a byte read and four written, of 4,096 voxels
    assert init.least_bytes == init.most_bytes == 2 * 5 * 4096
    assert init.sectors == 2 * 5 * 4096 / 32
    assert merge.least_bytes == 2 * 4 * 4096
    assert init.instructions > 2 * 4096 / 32
    assert init.fp32 == init.fp64 == init.atomics == init.passes == 0


@pytest.mark.parametrize(("kernel", "names"), cost_counts.SHARED_BY_MAPS.items())
def test_arrays_that_are_treated_apart_are_parameters(kernel, names):
    declared = {
        name: {parameter.name for parameter in parameters if parameter.is_array}
        for path in sources.kernel_folder().glob("*.cu")
        for name, parameters in sources.parameters(sources.source(path.stem)).items()
    }
    assert set(names) <= declared[kernel]
    assert set(cost_counts.BEYOND_CACHES.get(kernel, ())) <= declared[kernel]


def test_a_study_is_the_sum_of_its_parts():
    study = cost_workloads.Workload("maps", 100, {"labels": 1000.0}, n_passes=0)
    counts = [NOTHING._replace(least_bytes=3.35e6, most_bytes=3.35e6), NOTHING]
    assert cost_workloads.seconds(study, counts, H100) == pytest.approx((1e-3, 1e-3 / 0.6))
    # 2 P N V operations at 50 TFLOP/s
    products = study._replace(amounts={}, n_rows=1, n_subjects=40_000)
    operations = 2 * 53 * 192 * 40_000 * cost_workloads.n_voxel_tiles() * 16384
    assert cost_workloads.seconds(products, [], H100)[0] == pytest.approx(operations / 50e12)


def test_a_stack_that_does_not_fit_is_copied_again_and_again():
    large = cost_workloads._study("largest t", 40_000, "largest r, counts")
    on_h100, on_4090 = (cost_workloads._bus_bytes(large, each) for each in (H100, DEVICES[2]))
    assert on_h100 == 2 * large.stack_bytes
    assert on_4090 == on_h100 + 54 * large.tiles_bytes


@pytest.mark.usefixtures("emulated")
def test_studies_consist_of_counted_cases():
    from gpustats.engines import gpu

    cases = (*cost_counts.voxelwise_cases(gpu), *cost_counts.spatial_cases(gpu))
    counted = {case.what for case in cases}
    assert counted >= {case for study in cost_workloads.workloads() for case in study.amounts}


@pytest.fixture
def readme(tmp_path, monkeypatch):
    """A README, and counts that take no time."""
    path = tmp_path / "README.md"
    path.write_text(README)
    counts = [NOTHING._replace(least_bytes=1e6, most_bytes=2e6, instructions=5000.0)]
    monkeypatch.setattr(cost_model, "counts_of_all", lambda: counts)
    monkeypatch.setattr(cost_model, "compiler", lambda: "NVRTC 13.5")
    return path


def test_tables_are_written_once_and_then_up_to_date(readme, capsys):
    options = ["--readme", str(readme)]
    assert cost_model.main(["--write", *options]) == 0
    text = readme.read_text()
    assert text.startswith("# Kernels\n<!-- costs -->\nComputed, not measured: PTX by NVRTC 13.5")
    assert text.endswith("<!-- /costs -->\nThe end.\n")
    assert "| `label_init` | labels | map | 1.0 to 2.0 |  |  | 5.0 k |" in text
    assert "0.30 µs, memory | 0.49 µs, memory | 0.99 µs, memory |" in text
    assert cost_model.main(["--check", *options]) == 0
    readme.write_text(text.replace("0.30 µs", "0.31 µs"))
    assert cost_model.main(["--check", *options]) == 1
    assert "README.md is outdated" in capsys.readouterr().out


def test_another_compiler_is_not_compared(readme, monkeypatch, capsys):
    options = ["--readme", str(readme)]
    assert cost_model.main(["--write", *options]) == 0
    monkeypatch.setattr(cost_model, "compiler", lambda: "NVRTC 12.9")
    monkeypatch.setattr(cost_model, "counts_of_all", lambda: pytest.fail("counted"))
    assert cost_model.main(["--check", *options]) == 0
    assert "are not of NVRTC 12.9: they were not compared" in capsys.readouterr().out
    monkeypatch.setattr(cost_model, "compiler", lambda: "")
    assert cost_model.main(["--check", *options]) == 0
    assert cost_model.main(["--write", *options]) == 2


def test_a_readme_without_marks_is_refused():
    with pytest.raises(ValueError, match="the lines <!-- costs --> and <!-- /costs --> must be"):
        cost_model.with_costs("# Kernels\n", "")


@pytest.mark.slow
@needs_nvrtc
def test_the_costs_in_the_readme_are_those_of_the_kernels(capsys):
    assert cost_model.main(["--check"]) == 0, capsys.readouterr().out


def test_every_kernel_has_a_cost():
    costs = cost_model.costs_in(cost_model.README.read_text())
    texts = (sources.source(path.stem) for path in sources.kernel_folder().glob("*.cu"))
    kernels = {name for text in texts for name in sources.parameters(text)}
    assert {name for name in kernels if f"`{name}`" not in costs} == set()
