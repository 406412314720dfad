"""From the text of a kernel to its launch on the GPU: the only module that calls CuPy's compiler.

Kernels are compiled with constants (``-DNAME=value``) at their first launch. CuPy passes arguments
as they come and checks nothing, so that an ``int`` too wide shifts all that follow; hence every
launch compares the arguments with the parameters that the source declares.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cupy

from gpustats.sources import OPTIONS, Parameter, parameters, source


class Kernels:
    """The kernels of one source, compiled with constants.

    Parameters
    ----------
    text
        What `source` returns.
    constants
        Values of the macros that the source leaves open.

    Examples
    --------
    >>> compiled = kernels("label", THREADS=256)  # doctest: +SKIP
    >>> compiled.launch("label_init", (n_blocks, n_maps), 256, above, labels, n_voxels)
    ... # doctest: +SKIP
    """

    def __init__(self, text: str, **constants: int) -> None:
        defined = tuple(f"-D{name}={value}" for name, value in sorted(constants.items()))
        self._module = cupy.RawModule(code=text, options=OPTIONS + defined, backend="nvrtc")
        self._parameters = parameters(text)

    def launch(
        self,
        name: str,
        grid: int | tuple[int, ...],
        block: int | tuple[int, ...],
        *arguments: Any,
        shared_bytes: int = 0,
    ) -> None:
        """Launch a kernel on the current stream; scalars are cast to what it declares.

        Raises
        ------
        TypeError
            If the arguments are not what the kernel declares: their number, an array of another
            type or one that is not contiguous, a number that its type cannot hold.
        """
        declared = self._parameters[name]
        if len(arguments) != len(declared):
            raise TypeError(f"{name} takes {len(declared)} arguments, got {len(arguments)}")
        passed = tuple(
            _argument(name, parameter, value)
            for parameter, value in zip(declared, arguments, strict=True)
        )
        self.function(name, shared_bytes)(
            _triple(grid), _triple(block), passed, shared_mem=shared_bytes
        )

    def function(self, name: str, shared_bytes: int = 0) -> Any:
        """Return a kernel that may use so much dynamic shared memory."""
        function = self._module.get_function(name)
        if shared_bytes > DEFAULT_SHARED_BYTES:
            function.max_dynamic_shared_size_bytes = shared_bytes
        return function


DEFAULT_SHARED_BYTES = 48 * 1024
"""Shared memory of a block that a kernel may use without asking for more."""


def kernels(name: str, **constants: int) -> Kernels:
    """Return the kernels of ``kernels/<name>.cu``, compiled with constants once per process."""
    return _compiled(source(name), tuple(sorted(constants.items())))


@cache
def _compiled(text: str, constants: tuple[tuple[str, int], ...]) -> Kernels:
    """Keep what was compiled."""
    return Kernels(text, **dict(constants))


def _triple(size: int | tuple[int, ...]) -> tuple[int, int, int]:
    """Return the three lengths of a grid or block."""
    lengths = (size,) if isinstance(size, int) else size
    x, y, z = (*lengths, 1, 1)[:3]
    return x, y, z


def _argument(kernel: str, parameter: Parameter, value: Any) -> Any:
    """Return an argument in the type of its parameter, or say why it has none."""
    what = f"{kernel}: {parameter.name}"
    if not parameter.is_array:
        number = parameter.dtype(value)
        if number != value:
            raise TypeError(f"{what} is {parameter.dtype.__name__}, which cannot hold {value!r}")
        return number
    if not isinstance(value, cupy.ndarray):
        raise TypeError(f"{what} is an array on the device, got {type(value).__name__}")
    if value.dtype != parameter.dtype:
        raise TypeError(f"{what} holds {parameter.dtype.__name__}, got {value.dtype}")
    if not value.flags.c_contiguous:
        raise TypeError(f"{what} must be C-contiguous, got strides {value.strides}")
    return value
