"""Execute CUDA kernels on a machine without a GPU, and see what they do wrong there."""

from .host import HostModule
from .launch import HostKernel, KernelError, RaceError, Schedule
from .report import ArrayTraffic, Race, Report, Site

__all__ = [
    "ArrayTraffic",
    "HostKernel",
    "HostModule",
    "KernelError",
    "Race",
    "RaceError",
    "Report",
    "Schedule",
    "Site",
]
