"""What every kernel does on reference workloads, counted by executing it without a GPU.

The functions of the CUDA engine run on the stand-in for CuPy of ``tests/emulator``; kernels are
executed as the PTX that NVRTC makes of them, in check mode, which counts instructions and memory
traffic. Threads run in turn, seeds are fixed, and values are rounded so that last bits of the host
cannot matter: counts depend on nothing but the sources and the version of NVRTC.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import ROOT
from gpustats import sources
from gpustats.engines import SHUFFLE_TILE, Form, ScoreCounts
from gpustats.maps import gaussian
from gpustats.shuffles import Shuffles
from gpustats.spaces import Grid

SHAPE, FILLED = (91, 109, 91), 0.7945
"""The box of the 2 mm MNI template, and the share of its edges that an ellipsoid takes: as many
voxels as a brain has."""
FWHM_VOXELS = 3.53
THRESHOLD_T = np.float32(3.1)
EXTENT, HEIGHT = 0.5, 2.0
STEP = 2.0**-16
"""Values are multiples of it."""
SEED = 21

N_DRAWN, N_FITTED, N_SWEPT = 1000, 128, 8
"""Subjects of what is counted for each subject, and of products, which are not counted."""
FEW_SHUFFLES = 16
FEW_VOXELS, TILE_VOXELS = 4096, 16384
"""Voxels of what costs the same at each, and those of one tile."""
N_NUISANCE = 5
DEVICE_BYTES = 8 << 30

SHARED_BY_MAPS = {
    "cluster_peaks": ("cells", "runs"),
    "label_merge": ("cells", "voxel_at", "backward_steps"),
    "t_statistic_peaks": ("products",),
    "tfce_count": ("voxels", "limits", "counts"),
    "tfce_redo": ("neighbours", "weights"),
    "tfce_sort": ("cells", "weights", "sums"),
    "tfce_sweep": ("neighbours", "weights"),
}
"""Arrays that all maps share, or that were written just before: at best the L2 cache has them."""
BEYOND_CACHES = {
    "tfce_redo": ("components", "labels", "parents"),
    "tfce_sort": ("maps", "sorted", "order"),
    "tfce_sweep": ("components", "labels"),
}
"""Arrays that are read more than once, and are larger than caches with all maps in flight: at worst
every request goes to memory."""

MOVES = ("ld", "st", "mov", "selp", "ldu")
"""Opcodes that move numbers and do not compute."""


class Counts(NamedTuple):
    """What a kernel does for one map, shuffle or whatever its case is about.

    Parameters
    ----------
    case, unit, kernel
        Which, and of what it is one.
    least_bytes, most_bytes
        Traffic with memory: with caches that hold what they can at best, and at worst.
    sectors
        Sectors of 32 bytes that warps ask for.
    passes
        Accesses of warps to shared memory, one for each word in the same bank.
    instructions
        Of PTX, for whole warps, as if all lanes always took part.
    fp32, fp64
        Arithmetic instructions of threads.
    atomics
        Of threads.
    """

    case: str
    unit: str
    kernel: str
    least_bytes: float
    most_bytes: float
    sectors: float
    passes: float
    instructions: float
    fp32: float
    fp64: float
    atomics: float


class Case(NamedTuple):
    """A call of the engine, and how many maps (or shuffles, or subjects) of a brain it does."""

    what: str
    unit: str
    amount: float
    work: Callable[[], object]


@cache
def brain() -> Grid:
    """Return an ellipsoid of as many voxels as a brain has at 2 mm."""
    axes = (np.linspace(-1, 1, length) / FILLED for length in SHAPE)
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return Grid(x**2 + y**2 + z**2 <= 1, np.diag([2.0, 2.0, 2.0, 1.0]))


@cache
def null_map() -> NDArray[np.float32]:
    """Return a map of smooth noise, ``(1, n_voxels)``: t of a large group without an effect."""
    noise = np.random.default_rng(SEED).standard_normal(SHAPE)
    smooth = gaussian(noise, np.full(3, FWHM_VOXELS))[brain().mask]
    return rounded(smooth / smooth.std())[np.newaxis]


@cache
def rough_map() -> NDArray[np.float32]:
    """Return a map of noise that is not smooth, ``(1, n_voxels)``."""
    return rounded(np.random.default_rng(SEED).standard_normal((1, brain().n_voxels)))


def rounded(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round to what does not show last bits."""
    return (np.rint(values / STEP) * STEP).astype(np.float32)


@contextmanager
def emulator_at_hand() -> Iterator[None]:
    """Let ``import emulator`` find the emulator: it is part of the tests, which nobody installs."""
    folder = str(ROOT / "tests")
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def compiler() -> str:
    """Name the compiler whose instructions are counted; nothing if there is none."""
    with emulator_at_hand():
        from emulator import nvrtc

        return "NVRTC {}.{}".format(*nvrtc.version()) if nvrtc.installed() else ""


def counts_of_all() -> list[Counts]:
    """Execute every case and return what its kernels did, in order."""
    with emulator_at_hand():
        from emulator import stand_in
        from emulator.stand_in_modules import executed, launches

    stand_in.install(DEVICE_BYTES)
    try:
        from gpustats.engines import gpu

        cases = (*voxelwise_cases(gpu), *spatial_cases(gpu))
        with executed(front="ptx", mode="check"):
            return [counts for case in cases for counts in _counts(case, launches)]
    finally:
        stand_in.uninstall()


def voxelwise_cases(gpu: ModuleType) -> Iterator[Case]:
    """Yield what is done at each voxel, or for each subject, by itself."""
    yield from _draws(gpu)
    share = FEW_VOXELS / brain().n_voxels
    values, mean = noise(FEW_VOXELS, N_FITTED), np.full((N_FITTED, 1), N_FITTED**-0.5)
    fitted = N_FITTED * share
    yield Case("fit, rank 1", "subject", fitted, lambda: gpu.regress(values, mean))
    tiles = partial(gpu.unit_tiles, values, mean[:, :0])
    yield Case("residuals, rank 0", "subject", fitted, tiles)
    contrast = partial(gpu.contrast, gpu.regress(values, mean), np.ones(1), N_FITTED - 1.0)
    yield Case("contrast", "map", share, contrast)
    t = np.float64(null_map()[0, :FEW_VOXELS])
    f = np.square(t)
    maps = gpu.to_device(rounded(f[np.newaxis]))
    yield Case("z of t", "map", share, lambda: gpu.t_to_z(t, 99.0))
    yield Case("z of F", "map", share, lambda: gpu.f_to_z(f, 2, 97.0))
    yield Case("z of F in place", "map", share, lambda: gpu.f_maps_to_z(maps, 2, 97.0))
    yield from _sweeps(gpu, TILE_VOXELS / brain().n_voxels)


def _draws(gpu: ModuleType) -> Iterator[Case]:
    """Yield draws of shuffles."""
    design, blocks = noise(N_DRAWN, 1).astype(float), np.arange(N_DRAWN) // 4
    plans = {
        "sign flips": Shuffles(N_DRAWN, "ise", 10_000),
        "permutations": Shuffles(N_DRAWN, "ee", 10_000, design),
        "permutations of blocks": Shuffles(N_DRAWN, "ee", 10_000, design, blocks, "whole"),
    }
    for what, plan in plans.items():
        yield Case(f"{what}, {N_DRAWN:,} subjects", "shuffle", FEW_SHUFFLES, _rows(gpu, plan))


def _rows(gpu: ModuleType, plan: Shuffles) -> Callable[[], object]:
    """Draw a few shuffles of one column."""
    column = np.ones((1, plan.n_subjects))
    return lambda: gpu.shuffled_rows(plan, column, range(1, 1 + FEW_SHUFFLES))


def _sweeps(gpu: ModuleType, amount: float) -> Iterator[Case]:
    """Yield sweeps of a tile of shuffles over a tile of voxels, which is a part of a map."""
    units = gpu.unit_tiles(noise(TILE_VOXELS, N_SWEPT), np.empty((N_SWEPT, 0)))
    maps = gpu.to_device(np.empty((SHUFFLE_TILE, TILE_VOXELS), dtype=np.float32))
    mean = Form(1, 0, N_SWEPT - 1.0, is_f=False)
    nuisance = Form(1, N_NUISANCE, N_SWEPT - 6.0, is_f=False)

    def sweep(form: Form, into: Any = None) -> Callable[[], object]:
        n_rows = form.n_tested + form.n_nuisance
        rows = noise(SHUFFLE_TILE * n_rows, N_SWEPT).reshape(SHUFFLE_TILE, n_rows, N_SWEPT)
        limits = np.ones(TILE_VOXELS, dtype=np.float32)
        options = {
            "shuffles": range(SHUFFLE_TILE),
            "exceeding": gpu.exceedances(limits, form, two_sided=True),
            "maps": into,
        }
        on_device = gpu.to_device(rows / np.float32(4 * N_SWEPT))
        return lambda: gpu.sweep(on_device, units, form, **options)

    first = gpu.to_device(noise(1, N_SWEPT))
    yield Case("r of shuffle 0", "map", amount, lambda: gpu.values_of(first, units, mean))
    yield Case("largest r, counts", "shuffle", SHUFFLE_TILE * amount, sweep(mean))
    yield Case("largest r, counts, maps", "shuffle", SHUFFLE_TILE * amount, sweep(mean, maps))
    yield Case(
        f"largest t, counts, {N_NUISANCE} nuisance",
        "shuffle",
        SHUFFLE_TILE * amount,
        sweep(nuisance),
    )


def noise(*shape: int) -> NDArray[np.float32]:
    """Return seeded noise, its first axis contiguous if there are two."""
    values = rounded(np.random.default_rng(SEED).standard_normal(shape))
    return np.asfortranarray(values) if len(shape) == 2 else values


def spatial_cases(gpu: ModuleType) -> Iterator[Case]:
    """Yield what is done to whole maps."""
    lattices = {connectivity: brain().lattice(connectivity) for connectivity in (6, 26)}
    smooth, rough = gpu.to_device(null_map()), gpu.to_device(rough_map())
    clusters = {"threshold": THRESHOLD_T, "lattice": lattices[26], "above": False}

    def tfce(maps: Any, connectivity: int) -> Callable[[], object]:
        return lambda: gpu.tfce_peaks(maps, lattices[connectivity], EXTENT, HEIGHT, 0.0)

    above = null_map() >= THRESHOLD_T
    yield Case("labels, 26", "map", 1, lambda: gpu.label(above, lattices[26]))
    yield Case("largest cluster, 26", "map", 1, lambda: gpu.cluster_peaks(smooth, **clusters))
    yield Case("every cluster, 26", "map", 1, lambda: gpu.cluster_scores(null_map()[0], **clusters))
    for connectivity in lattices:
        yield Case(f"TFCE, {connectivity}", "map", 1, tfce(smooth, connectivity))
    limits = gpu.to_device(np.full(brain().n_voxels, 1.0))
    counts = gpu.to_device(np.zeros(brain().n_voxels, dtype=np.int64))
    reaching = ScoreCounts(limits, counts)
    yield Case(
        "TFCE and counts, 6",
        "map",
        1,
        lambda: gpu.tfce_counts(smooth, lattices[6], EXTENT, HEIGHT, 0.0, reaching),
    )
    yield Case(
        "every score, 6",
        "map",
        1,
        lambda: gpu.tfce_scores(null_map()[0], lattices[6], EXTENT, HEIGHT, 0.0),
    )
    yield Case("TFCE, 6, white noise", "map", 1, tfce(rough, 6))


def _counts(case: Case, launches: list[Any]) -> Iterator[Counts]:
    """Execute a case and yield what each of its kernels did, launches added up."""
    launches.clear()
    case.work()
    by_kernel: dict[str, list[Any]] = {}
    for launch in launches:
        by_kernel.setdefault(launch.kernel, []).append(launch.report)
    names = {
        kernel: [parameter.name for parameter in parameters]
        for path in sources.kernel_folder().glob("*.cu")
        for kernel, parameters in sources.parameters(sources.source(path.stem)).items()
    }
    for kernel, reports in by_kernel.items():
        sums = np.sum([_of_launch(report, kernel, names[kernel]) for report in reports], axis=0)
        yield Counts(case.what, case.unit, kernel, *map(float, sums / case.amount))


def _of_launch(report: Any, kernel: str, names: list[str]) -> tuple[float, ...]:
    """Return the numbers of `Counts` for one launch."""
    least = most = sectors = 0
    for array in report.arrays:
        name = names[int(array.name.split()[-1])]
        requested = array.sectors_requested_read + array.sectors_requested_written
        sectors += requested
        least += 0 if name in SHARED_BY_MAPS.get(kernel, ()) else array.dram_bytes
        most += 32 * requested if name in BEYOND_CACHES.get(kernel, ()) else array.dram_bytes
    passes = sum(site.sectors for site in report.sites if site.is_shared)
    instructions = report.instructions
    return (
        least,
        most,
        sectors,
        passes,
        sum(instructions.values()) / 32,
        _arithmetic(instructions, "f32"),
        _arithmetic(instructions, "f64"),
        report.atomics,
    )


def _arithmetic(instructions: dict[str, int], kind: str) -> int:
    """Count the instructions that compute with numbers of a kind; conversions are float64's."""
    return sum(
        count
        for opcode, count in instructions.items()
        if opcode.partition(".")[0] not in MOVES
        and kind == next((each for each in ("f64", "f32") if each in opcode.split(".")), None)
    )
