"""What the CUDA engine makes of a GPU: every function and kernel of it, and whole studies.

Functions are compared with the same on the CPU, then timed by events of the device, in turn with
what limits them: a copy of as many bytes, or the matrix product alone. It runs in one command:
``python -m benchmarks gpu``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from nilearn.datasets import load_mni152_brain_mask

from benchmarks import gpu_spatial, gpu_studies, gpu_voxelwise
from benchmarks.gpu_clock import Case, device_copy, measure
from benchmarks.gpu_data import QUICK, Data, Sizes
from benchmarks.harness import Check
from benchmarks.null_group import FWHM_VOXELS
from benchmarks.records import Result, Row, describe_environment
from benchmarks.second_level import ellipsoid
from gpustats import images

PACKAGES = ("gpustats", "cupy", "numpy", "numba")


def run(*, quick: bool) -> Result:
    """Compare and measure.

    Parameters
    ----------
    quick
        Take a coarse grid, small groups and few maps: to see that everything runs, not for the
        numbers.
    """
    if quick:
        return run_all(Data(ellipsoid(), QUICK))
    return run_all(Data(images.read_mask(load_mni152_brain_mask(resolution=2)), Sizes()))


def run_all(data: Data) -> Result:
    """Compare and measure on given data."""
    sizes = data.sizes
    found = [each for part in parts(data) for each in carried_out(part, data)]
    workload = (
        f"{data.grid.n_voxels:,} voxels of smooth noise, FWHM {FWHM_VOXELS:g} voxels; a tile of "
        f"192 shuffles; medians of {sizes.repeats} repeats by the clock of the GPU, of studies "
        f"{sizes.long_repeats} by that of the host; compared with the same run's copies"
    )
    environment = replace(describe_environment(PACKAGES), gpu=data.engine.describe())
    checks = tuple(each for each in found if isinstance(each, Check))
    rows = tuple(each for each in found if isinstance(each, Row))
    return Result("gpu", workload, environment, checks, rows)


Part = Callable[[], Iterator[Check | Case | Row]]


def parts(data: Data) -> list[Part]:
    """List what is done, each with memory of its own."""
    return [
        *(partial(gpu_voxelwise.of_group, data, n) for n in data.sizes.subjects),
        partial(gpu_voxelwise.with_maps, data),
        partial(gpu_voxelwise.with_nuisance, data),
        partial(gpu_voxelwise.z_maps, data),
        partial(gpu_spatial.labels, data),
        partial(gpu_spatial.clusters, data),
        *(partial(gpu_spatial.tfce, data, n) for n in data.sizes.enhanced),
        partial(gpu_spatial.rough_tfce, data),
        partial(gpu_spatial.tfce_of_one, data),
        partial(gpu_studies.studies, data),
    ]


def carried_out(part: Part, data: Data) -> Iterator[Check | Row]:
    """Yield the checks of a part, and the rows that its cases give.

    What there is no memory for is left out, and said.
    """
    copy = device_copy(data.sizes.copied_bytes)
    try:
        for each in part():
            if isinstance(each, Case):
                yield from measure(each, copy, data.engine, data.sizes.repeats)
            else:
                yield each
    except MemoryError as error:
        print(f"gpu: left out: {error}", file=sys.stderr)
