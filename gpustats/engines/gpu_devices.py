"""Which GPUs there are, and what drives them (CUDA).

Unlike the engine itself this can be imported, and asked, where there is no CuPy.
"""

from __future__ import annotations

from typing import NamedTuple

INSTALL_LINE = (
    "install it with pip install 'gpustats[cuda13]' (driver 580 or newer) or 'gpustats[cuda12]'"
)


class Gpu(NamedTuple):
    """Describe a GPU of this machine.

    Parameters
    ----------
    name
        Its maker's name for it.
    compute_capability
        ``"9.0"``: which instructions it has.
    total_bytes, free_bytes
        Its memory, and what no process uses of it.
    """

    name: str
    compute_capability: str
    total_bytes: int
    free_bytes: int


def why_no_gpu(index: int = 0) -> str:
    """Say why a GPU cannot be used, and what to do about it; nothing if it can.

    Parameters
    ----------
    index
        Number of the GPU.
    """
    try:
        import cupy
    except ImportError as error:
        reason = "CuPy is not installed" if isinstance(error, ModuleNotFoundError) else str(error)
        return f"{reason}; {INSTALL_LINE}"
    if not cupy.is_available():
        return f"CuPy {cupy.__version__} finds no GPU; see that nvidia-smi lists one"
    found = cupy.cuda.runtime.getDeviceCount()
    if index >= found:
        numbers = "number 0" if found == 1 else f"numbers 0 to {found - 1}"
        return f"this machine has no GPU of that number; it has {numbers}"
    try:
        # CuPy looks for these libraries when they are first asked for
        cupy.cuda.cublas.getVersion, cupy.cuda.nvrtc.getVersion  # noqa: B018
    except ImportError as error:
        line = str(error).splitlines()[0]
        return f"CuPy {cupy.__version__} lacks libraries of CUDA ({line}); {INSTALL_LINE}"
    return ""


def gpus() -> tuple[Gpu, ...]:
    """Describe the GPUs that can be used, as CUDA counts them; none where `why_no_gpu` says why."""
    if why_no_gpu():
        return ()
    from cupy.cuda import runtime

    return tuple(_describe(index) for index in range(runtime.getDeviceCount()))


def _describe(index: int) -> Gpu:
    """Describe one GPU."""
    from cupy.cuda import Device, runtime

    properties = runtime.getDeviceProperties(index)
    with Device(index):
        free, total = runtime.memGetInfo()
    capability = f"{properties['major']}.{properties['minor']}"
    return Gpu(properties["name"].decode(), capability, int(total), int(free))


def cuda_versions() -> dict[str, str]:
    """Return the versions of CuPy, of its CUDA and of the newest that the driver can run."""
    if why_no_gpu():
        return {}
    import cupy
    from cupy.cuda import runtime

    return {
        "cupy": cupy.__version__,
        "cuda runtime": _in_words(runtime.runtimeGetVersion()),
        "cuda driver": _in_words(runtime.driverGetVersion()),
    }


def _in_words(version: int) -> str:
    """Turn CUDA's number of a version, 13010, into the usual 13.1."""
    return f"{version // 1000}.{version % 1000 // 10}"
