"""How the loops of the CPU are compiled: once per machine, where it can keep what it compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile without the interpreter lock and without checks.

    The machine code is kept beside the package or in the user's cache folder; where neither can
    be written to (a container without a home), it is compiled in every process.

    Numba's cache notices changes in the function's own file, not in those of the kernels it calls:
    clear it after editing one of them.
    """
    try:
        return cast(Function, njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:
        return cast(Function, njit(nogil=True, error_model="numpy")(function))
