"""The pretended devices: how much memory they have, which one is current, CUDA's errors.

Two devices without access to each other's memory stand for all machines: code that forgets
which device it is on fails here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

N_DEVICES = 2
DEFAULT_MEMORY_BYTES = 2 << 30
COMPUTE_CAPABILITY = (8, 6)
SHARED_BYTES = 48 << 10
"""Shared memory of a block, and what it may have when the kernel asks for it (8.6: 99 KiB)."""
SHARED_BYTES_ON_REQUEST = 99 << 10
CUDA_VERSION = 13_000

RUNTIME_ERRORS = {
    1: "cudaErrorInvalidValue: invalid argument",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
    400: "cudaErrorInvalidResourceHandle: invalid resource handle",
    600: "cudaErrorNotReady: device not ready",
}
DRIVER_ERRORS = {
    1: "CUDA_ERROR_INVALID_VALUE: invalid argument",
    500: "CUDA_ERROR_NOT_FOUND: named symbol not found",
}


class CUDARuntimeError(RuntimeError):
    """What CUDA's runtime refuses."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(RUNTIME_ERRORS[status])


class CUDADriverError(RuntimeError):
    """What CUDA's driver refuses."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(DRIVER_ERRORS[status])

    def because(self, reason: str) -> CUDADriverError:
        """Say why, which the driver does not."""
        self.args = (f"{self.args[0]} ({reason})",)
        return self


class OutOfMemoryError(MemoryError):
    """An allocation beyond the memory of a device."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        limited = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{limited})."
        )


@dataclass
class PretendedDevice:
    """One device: its memory, as CuPy's pool divides it, and the state of its cuBLAS handle.

    The pool keeps what arrays give back: `cached_bytes` are free for the pool only, as on a GPU.
    """

    total_bytes: int = DEFAULT_MEMORY_BYTES
    limit_bytes: int = 0
    used_bytes: int = 0
    cached_bytes: int = 0
    math_mode: int = 0

    @property
    def free_bytes(self) -> int:
        """What CUDA calls free: neither used nor kept by the pool."""
        return self.total_bytes - self.used_bytes - self.cached_bytes

    def take(self, size: int) -> None:
        """Count an allocation, or refuse it."""
        within = min(self.total_bytes, self.limit_bytes or self.total_bytes)
        if self.used_bytes + size > within:
            held = self.used_bytes + self.cached_bytes
            raise OutOfMemoryError(size, held, self.limit_bytes)
        self.used_bytes += size
        self.cached_bytes = max(0, self.cached_bytes - size)

    def give_back(self, size: int) -> None:
        """Count memory that nothing refers to any more."""
        self.used_bytes -= size
        self.cached_bytes += size


@dataclass
class Machine:
    """All there is to forget between two tests."""

    devices: list[PretendedDevice] = field(default_factory=list)
    synchronizations: list[str] = field(default_factory=list)
    """Why the host waited for a device, each time."""

    def reset(self, memory_bytes: int = DEFAULT_MEMORY_BYTES) -> None:
        """Return to fresh devices; arrays of before stay readable and count no more."""
        self.devices[:] = [PretendedDevice(memory_bytes) for _ in range(N_DEVICES)]
        self.synchronizations.clear()
        _selected.__dict__.clear()

    @contextmanager
    def limited(self, n_bytes: int) -> Iterator[None]:
        """Let every device have so many bytes of memory for a while."""
        before = [device.total_bytes for device in self.devices]
        for device in self.devices:
            device.total_bytes, device.cached_bytes = n_bytes, 0
        try:
            yield
        finally:
            for device, total_bytes in zip(self.devices, before, strict=True):
                device.total_bytes = total_bytes


_selected = threading.local()
machine = Machine()
machine.reset()


def current_device_id() -> int:
    """Return the device that this thread has chosen."""
    return getattr(_selected, "device_id", 0)


def current_device() -> PretendedDevice:
    """Return the memory and state of the device that this thread has chosen."""
    return machine.devices[current_device_id()]


def set_device(device: int) -> None:
    """Choose a device for this thread (cudaSetDevice)."""
    if not 0 <= device < len(machine.devices):
        raise CUDARuntimeError(101)
    _selected.device_id = device
