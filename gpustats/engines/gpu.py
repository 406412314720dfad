"""The CUDA engine: CuPy arrays, products of cuBLAS, and the kernels of ``kernels/``.

Assumes what `gpustats.engines.Engine` lists. The functions work on CuPy's current device;
`on_device` gives them for one of several. Given the same seed a result has the same bits for any
batch: products are made in whole tiles of one shape, in which a shuffle and a voxel have their
places, and whatever is summed across voxels is summed in integers. Labels, cluster sums and TFCE of
a map are those of the CPU, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

import cupy
import numpy as np
from numpy.typing import NDArray

from gpustats.engines import Array, Engine
from gpustats.engines.gpu_batches import free_bytes, halved_until_it_fits
from gpustats.engines.gpu_distributions import f_maps_to_z, f_to_z, t_maps_to_z, t_to_z
from gpustats.engines.gpu_glm import contrast, regress, unit_tiles
from gpustats.engines.gpu_ranks import rank_peaks
from gpustats.engines.gpu_shuffles import shuffled_rows
from gpustats.engines.gpu_smoothing import pseudo_t
from gpustats.engines.gpu_spatial import (
    cluster_counts,
    cluster_peaks,
    cluster_scores,
    label,
    tfce_counts,
    tfce_peaks,
    tfce_scores,
)
from gpustats.engines.gpu_sweep import (
    VOXEL_TILE,
    exceedances,
    statistic_of,
    sweep,
    sweep_groups,
    values_of,
)

__all__ = [
    "cluster_counts",
    "cluster_peaks",
    "cluster_scores",
    "contrast",
    "describe",
    "elapsed",
    "empty_maps",
    "exceedances",
    "f_maps_to_z",
    "f_to_z",
    "fingerprint",
    "free_bytes",
    "label",
    "negate",
    "on_device",
    "pseudo_t",
    "put",
    "rank_peaks",
    "regress",
    "shuffled_rows",
    "statistic_of",
    "sweep",
    "sweep_groups",
    "t_maps_to_z",
    "t_to_z",
    "tfce_counts",
    "tfce_peaks",
    "tfce_scores",
    "to_device",
    "to_host",
    "unit_tiles",
    "values_of",
    "voxel_tile",
]

MOST_MAPS = 6 * 192
"""Maps of a batch: a warp sweeps a map, and about a thousand of them keep a GPU busy."""
SHARE_OF_MAPS = 0.25
"""What the maps of a batch may take of the memory that is free: their scores need more."""


def describe() -> str:
    """Return one line that names libraries, versions and the device."""
    properties = _properties()
    version = cupy.cuda.runtime.runtimeGetVersion()
    return (
        f"{properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} GiB, "
        f"CUDA {version // 1000}.{version % 1000 // 10}, CuPy {cupy.__version__}, "
        f"NumPy {np.__version__}"
    )


def fingerprint() -> str:
    """Name what the last bits of a result depend on: the GPU and the library of its products."""
    properties = _properties()
    cublas = cupy.cuda.cublas.getVersion(cupy.cuda.device.get_cublas_handle())
    architecture = f"sm_{properties['major']}{properties['minor']}"
    return f"cuda {properties['name'].decode()} {architecture}, cuBLAS {cublas}"


def _properties() -> dict[str, Any]:
    """Return what CUDA says of the current device."""
    return cast(
        "dict[str, Any]", cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    )


def elapsed(work: Callable[[], object]) -> float:
    """Run work, and return the seconds until the device has finished it, by its own clock."""
    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    work()
    stop.record()
    stop.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, stop)) / 1000


def to_host(array: Array) -> NDArray[Any]:
    """Return an array of the engine as a NumPy array."""
    return cast("NDArray[Any]", array.get())


def to_device(array: NDArray[Any]) -> Array:
    """Return a NumPy array as an array of the engine."""
    return cupy.asarray(np.ascontiguousarray(array))


def empty_maps(most: int, n_voxels: int) -> Array:
    """Return room for as many float32 maps as pay off at a time, ``most`` at most."""
    fitting = int(SHARE_OF_MAPS * free_bytes() / (4 * n_voxels))
    count = max(1, min(most, MOST_MAPS, fitting))
    return halved_until_it_fits(count, lambda n: cupy.empty((n, n_voxels), dtype=np.float32))


def put(block: Array, maps: Array, start: int) -> None:
    """Write ``(b, width)`` values of voxels ``start``, ... into ``(b, n_voxels)`` maps."""
    maps[:, start : start + block.shape[1]] = block


def voxel_tile() -> int:
    """Return how many voxels share a product: blocks of whole tiles change no bit."""
    return VOXEL_TILE


def negate(maps: Array) -> None:
    """Turn maps over, in place."""
    cupy.negative(maps, out=maps)


class _OnDevice:
    """The functions of this module, on one GPU whichever is current."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"the CUDA engine has no function {name!r}")
        function = globals()[name]

        @wraps(function)
        def there(*arguments: Any, **options: Any) -> Any:
            with cupy.cuda.Device(self.index):
                return function(*arguments, **options)

        return there


def on_device(index: int) -> Engine:
    """Return the engine of one GPU.

    Parameters
    ----------
    index
        Its number, as CUDA counts.
    """
    return cast("Engine", _OnDevice(index))
