"""How arrays of the stand-in come to be, and products through cuBLAS."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .stand_in_arrays import filled, ndarray, submit, submit_in_place
from .stand_in_devices import current_device, current_device_id
from .stand_in_streams import Stream, finish_queue, get_current_stream

Shape = int | tuple[int, ...]

TF32_MATH = 3
MATH_MODES = {
    "CUBLAS_DEFAULT_MATH": 0,
    "CUBLAS_TENSOR_OP_MATH": 1,
    "CUBLAS_PEDANTIC_MATH": 2,
    "CUBLAS_TF32_TENSOR_OP_MATH": TF32_MATH,
}
TRANSPOSITIONS = {"N": 0, "T": 1, "H": 2, 0: 0, 1: 1, 2: 2}


def array(
    obj: Any,
    dtype: DTypeLike = None,
    copy: bool | None = True,
    order: str = "K",
    *,
    ndmin: int = 0,
    blocking: bool = False,
) -> ndarray:
    """Return an array of the current device with the values of one of the host or a device.

    CuPy copies memory of the host, pinned or not, into a buffer of its own first: the source may
    change as soon as this returns.
    """
    already = isinstance(obj, ndarray) and _is_already(obj, dtype, order)
    if already and not copy:
        return obj
    if copy is False:
        raise ValueError("Unable to avoid copy while creating an array as requested.")
    if isinstance(obj, ndarray):
        return filled(lambda host: np.array(host, dtype, order=order, ndmin=ndmin), obj._host)
    result = filled(lambda host: host, np.array(obj, dtype, order=order, ndmin=ndmin))
    if blocking:
        finish_queue(get_current_stream()._queue, "array")
    return result


def _is_already(obj: ndarray, dtype: DTypeLike, order: str) -> bool:
    """Tell whether an array is on this device in a type and layout."""
    flags = {"C": obj.flags.c_contiguous, "F": obj.flags.f_contiguous}
    same_type = dtype is None or obj.dtype == dtype
    return same_type and obj.data.device_id == current_device_id() and flags.get(order, True)


def asarray(
    a: Any,
    dtype: DTypeLike = None,
    order: str | None = None,
    *,
    copy: bool | None = None,
    blocking: bool = False,
) -> ndarray:
    return array(a, dtype, copy, order or "K", blocking=blocking)


def ascontiguousarray(a: ndarray, dtype: DTypeLike = None) -> ndarray:
    _check_on_device(a)
    return array(a, dtype, copy=None, order="C")


def asfortranarray(a: ndarray, dtype: DTypeLike = None) -> ndarray:
    _check_on_device(a)
    return array(a, dtype, copy=None, order="F")


def _check_on_device(a: Any) -> None:
    """Refuse an array of the host as CuPy's compiled functions do."""
    if not isinstance(a, ndarray):
        raise TypeError(
            "Argument 'a' has incorrect type (expected cupy._core.core._ndarray_base, "
            f"got {type(a).__module__}.{type(a).__name__})"
        )


def asnumpy(
    a: Any,
    stream: Stream | None = None,
    order: str = "C",
    out: NDArray[Any] | None = None,
    *,
    blocking: bool = True,
) -> NDArray[Any]:
    if isinstance(a, ndarray):
        return a.get(stream, order, out, blocking)
    return np.asarray(a, order=order)


def empty(shape: Shape, dtype: DTypeLike = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def zeros(shape: Shape, dtype: DTypeLike = float, order: str = "C") -> ndarray:
    return full(shape, 0, dtype, order)


def ones(shape: Shape, dtype: DTypeLike = float, order: str = "C") -> ndarray:
    return full(shape, 1, dtype, order)


def full(shape: Shape, fill_value: Any, dtype: DTypeLike = None, order: str = "C") -> ndarray:
    kind = np.asarray(fill_value).dtype if dtype is None else dtype
    result = ndarray(shape, kind, order=order)
    result.fill(fill_value)
    return result


def empty_like(
    prototype: ndarray,
    dtype: DTypeLike = None,
    order: str = "K",
    *,
    shape: Shape | None = None,
) -> ndarray:
    _check_on_device(prototype)
    is_fortran = prototype.flags.f_contiguous and not prototype.flags.c_contiguous
    layout = ("F" if is_fortran else "C") if order in "KA" else order
    lengths = prototype.shape if shape is None else shape
    return ndarray(lengths, dtype or prototype.dtype, order=layout)


def zeros_like(
    a: ndarray,
    dtype: DTypeLike = None,
    order: str = "K",
    *,
    shape: Shape | None = None,
) -> ndarray:
    return full_like(a, 0, dtype, order, shape=shape)


def full_like(
    a: ndarray,
    fill_value: Any,
    dtype: DTypeLike = None,
    order: str = "K",
    *,
    shape: Shape | None = None,
) -> ndarray:
    result = empty_like(a, dtype, order, shape=shape)
    result.fill(fill_value)
    return result


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: DTypeLike = None) -> ndarray:
    first, last = (0, start) if stop is None else (start, stop)
    return filled(lambda host: host, np.arange(first, last, step, dtype))


def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    if isinstance(src, np.ndarray):
        raise ValueError("non-scalar numpy.ndarray cannot be used for copyto")
    _check_on_device(dst)
    submit_in_place(np.copyto, dst, src, casting, True if where is None else where)


def may_share_memory(a: ndarray, b: ndarray) -> bool:
    return np.may_share_memory(a._host, b._host)


def get_array_module(*args: Any) -> ModuleType:
    """Return CuPy if one of the arguments is an array of a device, NumPy otherwise."""
    import cupy

    return cupy if any(isinstance(arg, ndarray) for arg in args) else np


def gemm(
    transa: str | int,
    transb: str | int,
    a: ndarray,
    b: ndarray,
    out: ndarray | None = None,
    alpha: float = 1.0,
    beta: float = 0.0,
) -> ndarray:
    """Return alpha op(a) op(b) + beta out, with the arithmetic that the handle was given."""
    assert a.ndim == b.ndim == 2
    assert a.dtype == b.dtype
    if a.dtype.char not in "fd":
        raise TypeError("invalid dtype")
    left, right = (_transposed(each, which) for each, which in ((a, transa), (b, transb)))
    assert left.shape[1] == right.shape[0]
    tf32 = current_device().math_mode == TF32_MATH and a.dtype == np.float32

    def product(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        return alpha * np.matmul(*map(_rounded_to_tf32, (x, y)) if tf32 else (x, y))

    if out is None:
        return submit(lambda x, y: np.asfortranarray(product(x, y)), left, right)
    assert out.ndim == 2
    assert out.shape == (left.shape[0], right.shape[1])
    assert out.dtype == a.dtype

    def update(into: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> None:
        # cuBLAS does not read what beta = 0 removes: it may be anything
        into[...] = product(x, y) + (beta * into if beta else 0)

    submit_in_place(update, out, left, right)
    return out


def _transposed(matrix: ndarray, which: str | int) -> ndarray:
    """Return the matrix that a letter of cuBLAS means."""
    if which not in TRANSPOSITIONS:
        raise TypeError(f"invalid trans (actual: {which})")
    return matrix.T if TRANSPOSITIONS[which] else matrix


def _rounded_to_tf32(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to the 10 bits of mantissa that tensor cores multiply."""
    bits = np.ascontiguousarray(matrix).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
