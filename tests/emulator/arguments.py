"""Arguments of a launch, held against the parameters of the kernel.

CuPy passes arguments as they come; what the device would misread is an error here: another number
of them, another width, another type of element, an array with gaps, a Python number (which CuPy
passes as 8 bytes).
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

KINDS = {"f": "f", "i": "i", "u": "u", "?": "b"}
POINTEE_KINDS = {"f": "f", "i": "i", "u": "ub", "?": "b", "s": "fiu"}
"""NumPy's kinds for a type's letter; a struct is a vector of elements."""
CODE = re.compile(r"(?P<pointer>P?)K?(?P<kind>\w|\?)(?P<n_bytes>\d+)")
POINTER_BYTES = 8
MARGIN_BYTES = 16 << 20
ALIGNMENT = 512
"""Of CuPy's memory pool; copies keep an array's place relative to it."""


class ArgumentError(TypeError):
    """An argument does not fit its parameter."""


class Parameter(NamedTuple):
    """A parameter of a kernel.

    ``kind`` is a letter, ``f``, ``i``, ``u``, ``?`` (bool), ``s`` (a struct) or empty if only the
    size is known; of a pointer, kind and size are those of what it points to.
    """

    is_pointer: bool
    kind: str
    n_bytes: int

    def __str__(self) -> str:
        names = {"f": "float", "i": "int", "u": "uint", "?": "bool", "s": "struct of bytes "}
        what = f"{names.get(self.kind, 'bytes ')}{self.n_bytes * (8 if self.kind in 'fiu' else 1)}"
        return f"pointer to {what}" if self.is_pointer else what


def read_parameters(codes: str) -> tuple[Parameter, ...]:
    """Read the codes that a compiled library gives (``include/emulator/kernels.h``)."""
    matches = [CODE.fullmatch(code) for code in codes.split()]
    return tuple(
        Parameter(bool(match["pointer"]), match["kind"], int(match["n_bytes"]))
        for match in matches
        if match
    )


def check_arguments(parameters: Sequence[Parameter], values: Sequence[Any]) -> None:
    """Raise if the arguments are not what a kernel declares."""
    if len(values) != len(parameters):
        raise ArgumentError(f"{len(values)} arguments for {len(parameters)} parameters")
    for position, (parameter, value) in enumerate(zip(parameters, values, strict=True)):
        reason = _misfit(parameter, value)
        if reason:
            raise ArgumentError(f"argument {position} {reason}; the parameter is {parameter}")


def _misfit(parameter: Parameter, value: Any) -> str:
    """Say what is wrong with an argument, or nothing."""
    if isinstance(value, np.ndarray):
        return _array_misfit(parameter, value)
    if not isinstance(value, np.generic):
        return f"is a Python {type(value).__name__}: wrap it in a NumPy type"
    kinds = KINDS.get(parameter.kind, value.dtype.kind)
    fits = value.dtype.kind in kinds and value.itemsize == parameter.n_bytes
    return "" if fits and not parameter.is_pointer else f"is {value.dtype}"


def _array_misfit(parameter: Parameter, array: np.ndarray) -> str:
    """Say what is wrong with an array, or nothing."""
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        return f"is an array with strides {array.strides}: it must be contiguous"
    if not parameter.kind:
        return "" if parameter.n_bytes == POINTER_BYTES else "is an array"
    n_bytes = parameter.n_bytes
    fits = array.dtype.kind in POINTEE_KINDS[parameter.kind]
    if parameter.kind == "s":
        fits = fits and n_bytes % array.itemsize == 0 and array.ctypes.data % n_bytes == 0
    else:
        fits = fits and array.itemsize == n_bytes
    return "" if parameter.is_pointer and fits else f"is an array of {array.dtype}"


class Copies:
    """Copies of arrays that lie far from each other.

    An index that is wrong by less than `MARGIN_BYTES` then never hits another array. Arrays that
    share memory share it in the copy as well.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._pieces = [_Piece(*bounds) for bounds in _disjoint(arrays)]

    def address(self, array: np.ndarray) -> int:
        """Return where the copy of an array lies."""
        begin = array.ctypes.data
        holding = (piece for piece in self._pieces if piece.begin <= begin < piece.end)
        return next((begin + piece.shift for piece in holding), begin)

    def copy_back(self) -> None:
        """Write what the kernel left in the copies into the arrays."""
        for piece in self._pieces:
            if piece.is_writable:
                ctypes.memmove(piece.begin, piece.begin + piece.shift, piece.end - piece.begin)


class _Piece:
    """Host memory from ``begin`` to ``end``, and its copy, ``shift`` bytes away."""

    def __init__(self, begin: int, end: int, is_writable: bool) -> None:
        self.begin, self.end, self.is_writable = begin, end, is_writable
        size = end - begin
        margin = max(MARGIN_BYTES, -(-size // ALIGNMENT) * ALIGNMENT)
        self._memory = np.frombuffer(mmap.mmap(-1, size + 2 * margin + ALIGNMENT), np.uint8)
        place = self._memory.ctypes.data + margin + begin % ALIGNMENT
        ctypes.memmove(place, begin, size)
        self.shift = place - begin


def _disjoint(arrays: Sequence[np.ndarray]) -> list[tuple[int, int, bool]]:
    """Return begin, end and whether anyone may write, of arrays that overlap taken together."""
    merged: list[tuple[int, int, bool]] = []
    spans = ((a.ctypes.data, a.ctypes.data + a.nbytes, a.flags.writeable) for a in arrays if a.size)
    for begin, end, writable in sorted(spans):
        if merged and begin < merged[-1][1]:
            first, last, any_writable = merged.pop()
            merged.append((first, max(last, end), any_writable or writable))
        else:
            merged.append((begin, end, writable))
    return merged
