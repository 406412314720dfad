"""A stand-in for CuPy on a machine without a GPU: ``install()``, and ``import cupy`` finds it.

It has the few names that a CUDA engine of arrays and own kernels needs, and refuses all others.
Arrays are NumPy arrays that refuse what CuPy's arrays refuse (`stand_in_arrays`); their memory is
counted, poisoned and belongs to one of two devices (`stand_in_memory`, `stand_in_devices`); work
goes to streams and can be put off (`stand_in_streams`); kernels are compiled and executed by the
emulators (`stand_in_modules`).

Nothing here measures a GPU, and products and sums are NumPy's: their last bits are not cuBLAS'.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from . import stand_in_creation as creation
from . import stand_in_functions as functions
from . import stand_in_memory as memory
from . import stand_in_modules as modules
from . import stand_in_runtime as runtime
from . import stand_in_streams as streams
from .stand_in_arrays import MemoryPointer, ndarray
from .stand_in_devices import (
    CUDA_VERSION,
    DEFAULT_MEMORY_BYTES,
    N_DEVICES,
    CUDADriverError,
    CUDARuntimeError,
    OutOfMemoryError,
    current_device_id,
    machine,
    set_device,
)

VERSION = "14.2.0"
"""The version of CuPy whose names and signatures these are."""

OWNERS = ("cupy", "cupyx", "cupy_backends")
BOUND_TO_CUPY = ("gpustats.cuda", "gpustats.engines.gpu")
"""Modules of the project, and of names that begin so, that hold on to the CuPy they imported."""


CREATION = (
    "array asarray ascontiguousarray asfortranarray asnumpy arange copyto empty empty_like full "
    "full_like get_array_module may_share_memory ones zeros zeros_like"
)
"""Functions of ``cupy`` in `stand_in_creation`."""
LATE = ("cupy.cublas",)
"""Modules that must be imported by their own name, as in CuPy."""

ALIASES = {
    "cupy_backends.cuda.api.driver": "cupy.cuda.driver",
    "cupy_backends.cuda.libs.cublas": "cupy.cuda.cublas",
    "cupy_backends.cuda.libs.nvrtc": "cupy.cuda.nvrtc",
}
"""Modules that are attributes of others too; by those names they cannot be imported."""


class StrictModule(ModuleType):
    """A module that says what to do about a name that it lacks."""

    def __init__(self, name: str, **contents: Any) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None, is_package=True)
        self.__path__ = []
        self.__dict__.update(contents)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"module {self.__name__!r} has no attribute {name!r}; if CuPy has it, add it to the "
            "stand-in (tests/emulator/stand_in.py)"
        )


def _contents() -> dict[str, dict[str, Any]]:
    """Return what each module of CuPy holds, its submodules aside."""
    pool = memory.MemoryPool()
    return {
        "cupy": functions.functions()
        | {name: getattr(creation, name) for name in CREATION.split()}
        | {
            "__version__": VERSION,
            "ndarray": ndarray,
            "RawModule": modules.RawModule,
            "RawKernel": modules.RawKernel,
            "is_available": lambda: True,
            "get_default_memory_pool": lambda: pool,
        },
        "cupy.cublas": {"gemm": creation.gemm},
        "cupy.cuda": {
            "Device": runtime.Device,
            "Event": streams.Event,
            "MemoryPointer": MemoryPointer,
            "PinnedMemory": memory.PinnedMemory,
            "PinnedMemoryPointer": memory.PinnedMemoryPointer,
            "Stream": streams.Stream,
            "alloc_pinned_memory": memory.alloc_pinned_memory,
            "get_cublas_handle": runtime.get_cublas_handle,
            "get_current_stream": streams.get_current_stream,
            "get_elapsed_time": streams.get_elapsed_time,
            "is_available": lambda: True,
        },
        "cupy.cuda.device": {
            "Device": runtime.Device,
            "get_cublas_handle": runtime.get_cublas_handle,
        },
        "cupy.cuda.memory": {"OutOfMemoryError": OutOfMemoryError},
        "cupy.cuda.runtime": {
            "CUDARuntimeError": CUDARuntimeError,
            "deviceSynchronize": lambda: runtime.Device().synchronize(),
            "driverGetVersion": lambda: CUDA_VERSION,
            "getDevice": current_device_id,
            "getDeviceCount": lambda: N_DEVICES,
            "getDeviceProperties": runtime.device_properties,
            "memGetInfo": lambda: runtime.Device().mem_info,
            "runtimeGetVersion": lambda: CUDA_VERSION,
            "setDevice": set_device,
        },
        "cupyx": {"empty_pinned": memory.empty_pinned, "zeros_pinned": memory.zeros_pinned},
        "cupy_backends": {},
        "cupy_backends.cuda": {},
        "cupy_backends.cuda.api": {},
        "cupy_backends.cuda.api.driver": {"CUDADriverError": CUDADriverError},
        "cupy_backends.cuda.libs": {},
        "cupy_backends.cuda.libs.cublas": {
            **creation.MATH_MODES,
            "getMathMode": runtime.math_mode,
            "getVersion": lambda _: 10 * CUDA_VERSION,
            "setMathMode": runtime.set_math_mode,
        },
        "cupy_backends.cuda.libs.nvrtc": {"getVersion": lambda: (CUDA_VERSION // 1000, 0)},
    }


def _built() -> dict[str, ModuleType]:
    """Return the modules of the stand-in by their names, each in the one that holds it."""
    contents = _contents()
    built: dict[str, ModuleType] = {name: StrictModule(name, **contents[name]) for name in contents}
    for name, module in built.items():
        parent, _, last = name.rpartition(".")
        if parent and name not in LATE:
            setattr(built[parent], last, module)
    for name, seen_as in ALIASES.items():
        parent, _, last = seen_as.rpartition(".")
        setattr(built[parent], last, built[name])
    return built


class _Finder(MetaPathFinder, Loader):
    """Find the modules that ``import cupy`` alone does not bring."""

    modules: dict[str, ModuleType]

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self.modules else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        pass


@dataclass
class _Installation:
    """The modules of the stand-in, what they replaced, and what of the project is bound to them."""

    modules: dict[str, ModuleType]
    replaced: dict[str, ModuleType] | None = None
    bound: dict[str, ModuleType] = field(default_factory=dict)


_finder = _Finder()
_installation = _Installation(_built())


def install(memory_bytes: int = DEFAULT_MEMORY_BYTES) -> ModuleType:
    """Let ``import cupy`` find the stand-in, with fresh devices of so much memory."""
    state = _installation
    if state.replaced is None:
        state.replaced = _removed(OWNERS) | _removed(BOUND_TO_CUPY)
        _finder.modules = {name: state.modules[name] for name in LATE}
        sys.meta_path.insert(0, _finder)
        _restore({name: state.modules[name] for name in state.modules if name not in LATE})
        _restore(state.bound)
    reset(memory_bytes)
    return sys.modules["cupy"]


def uninstall() -> None:
    """Take the stand-in away, and the modules of the project that hold on to it.

    They come back with the next `install`, so that what they compiled is kept.
    """
    state = _installation
    if state.replaced is None:
        return
    state.bound = _removed(BOUND_TO_CUPY)
    sys.meta_path.remove(_finder)
    for name in LATE:
        parent, _, last = name.rpartition(".")
        vars(sys.modules[parent]).pop(last, None)
    _removed(OWNERS)
    _restore(state.replaced)
    state.replaced = None


def reset(memory_bytes: int = DEFAULT_MEMORY_BYTES) -> None:
    """Forget arrays, launches, streams and work that was put off."""
    streams.forget_streams()
    modules.launches.clear()
    machine.reset(memory_bytes)


def _removed(beginnings: tuple[str, ...]) -> dict[str, ModuleType]:
    """Take modules out of Python's table, and out of the packages that hold them."""
    names = [name for name in sys.modules if _begins(name, beginnings)]
    removed = {name: sys.modules.pop(name) for name in names}
    for name in names:
        parent, _, last = name.rpartition(".")
        if parent in sys.modules and hasattr(sys.modules[parent], last):
            delattr(sys.modules[parent], last)
    return removed


def _begins(name: str, beginnings: tuple[str, ...]) -> bool:
    """Tell whether a module is one of some, lies in one, or is named after one (``gpu_label``)."""
    return any(name == each or name.startswith((f"{each}.", f"{each}_")) for each in beginnings)


def _restore(removed: dict[str, ModuleType]) -> None:
    """Put modules back into Python's table, and into the packages that hold them."""
    sys.modules.update(removed)
    for name, module in removed.items():
        parent, _, last = name.rpartition(".")
        if parent in sys.modules and parent not in removed:
            setattr(importlib.import_module(parent), last, module)
