"""What ``cupy.cuda`` tells about the pretended devices."""

from __future__ import annotations

from .stand_in_devices import (
    COMPUTE_CAPABILITY,
    SHARED_BYTES,
    SHARED_BYTES_ON_REQUEST,
    CUDARuntimeError,
    current_device_id,
    machine,
    set_device,
)
from .stand_in_streams import schedule


class Device:
    """``cupy.cuda.Device``."""

    def __init__(self, device: Device | int | None = None) -> None:
        self.id = current_device_id() if device is None else int(device)
        self._before: list[int] = []

    def __int__(self) -> int:
        return self.id

    def __index__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __enter__(self) -> Device:
        before = current_device_id()
        set_device(self.id)
        self._before.append(before)
        return self

    def __exit__(self, *_: object) -> None:
        set_device(self._before.pop())

    def use(self) -> None:
        set_device(self.id)

    def synchronize(self) -> None:
        machine.synchronizations.append("Device.synchronize")
        schedule.finish(lambda: not schedule.pending_on(self.id))

    @property
    def compute_capability(self) -> str:
        return "".join(map(str, COMPUTE_CAPABILITY))

    @property
    def mem_info(self) -> tuple[int, int]:
        device = machine.devices[self.id]
        return device.free_bytes, device.total_bytes

    @property
    def attributes(self) -> dict[str, int]:
        return {
            "ComputeCapabilityMajor": COMPUTE_CAPABILITY[0],
            "ComputeCapabilityMinor": COMPUTE_CAPABILITY[1],
            "MaxSharedMemoryPerBlock": SHARED_BYTES,
            "MaxSharedMemoryPerBlockOptin": SHARED_BYTES_ON_REQUEST,
            "MaxThreadsPerBlock": 1024,
            "MultiProcessorCount": 4,
            "WarpSize": 32,
        }

    @property
    def pci_bus_id(self) -> str:
        return f"0000:0{self.id + 1}:00.0"

    @property
    def cublas_handle(self) -> int:
        return 1 + self.id


def get_cublas_handle() -> int:
    """Return a number that stands for the cuBLAS handle of the current device."""
    return 1 + current_device_id()


def math_mode(handle: int) -> int:
    """Return which arithmetic the products of a cuBLAS handle use."""
    return machine.devices[handle - 1].math_mode


def set_math_mode(handle: int, mode: int) -> None:
    """Choose which arithmetic the products of a cuBLAS handle use."""
    machine.devices[handle - 1].math_mode = mode


def device_properties(device: int) -> dict[str, int | bytes]:
    """Return what ``cupy.cuda.runtime.getDeviceProperties`` tells, its plainer part."""
    if not 0 <= device < len(machine.devices):
        raise CUDARuntimeError(101)
    return {
        "name": b"Pretended GPU (executed on the CPU)",
        "totalGlobalMem": machine.devices[device].total_bytes,
        "major": COMPUTE_CAPABILITY[0],
        "minor": COMPUTE_CAPABILITY[1],
        "multiProcessorCount": 4,
        "warpSize": 32,
        "maxThreadsPerBlock": 1024,
        "sharedMemPerBlock": SHARED_BYTES,
        "sharedMemPerBlockOptin": SHARED_BYTES_ON_REQUEST,
        "l2CacheSize": 4 << 20,
    }
