"""Arrays of a pretended device: NumPy arrays that refuse what CuPy's arrays refuse.

Everything that computes goes through `submit`, which gives it to the current stream; views are
made at once. Where CuPy takes arrays of the host in silence (as an index, or by computing on the
host after all) the stand-in refuses them: an engine must say when it copies.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .stand_in_devices import current_device_id
from .stand_in_memory import Memory, pinned_view, poison
from .stand_in_runtime import Device
from .stand_in_streams import (
    Queue,
    Stream,
    finish_queue,
    get_current_stream,
    null_queue,
    schedule,
)

Host = NDArray[Any]

BINARY = "add sub mul truediv floordiv mod pow and or xor lshift rshift matmul"
OTHER = "lt le eq ne gt ge neg pos abs invert"
"""Operators of arrays; the binary ones also exist reflected and in place."""


class MemoryPointer(NamedTuple):
    """Where an array begins: ``array.data``."""

    ptr: int
    device_id: int
    mem: Memory

    @property
    def device(self) -> Device:
        return Device(self.device_id)


class Flags:
    """The memory layout of an array: ``array.flags``."""

    def __init__(self, host: Host, owndata: bool) -> None:
        self.c_contiguous = host.flags.c_contiguous
        self.f_contiguous = host.flags.f_contiguous
        self.owndata = owndata

    def __getitem__(self, name: str) -> bool:
        return bool(getattr(self, name.lower()))


class ndarray:  # noqa: N801
    """``cupy.ndarray``: bytes of a pretended device, seen through a NumPy array."""

    __array_ufunc__ = None
    _host: Host
    _memory: Memory

    def __init__(self, shape: Any, dtype: DTypeLike = float, *, order: str = "C") -> None:
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._memory = Memory(n_bytes)
        block = self._memory.bytes[:n_bytes]
        self._host = np.ndarray(shape, dtype, block, order=order)
        self.base = None
        poison(self._host)

    def _seen_as(self, host: Host) -> ndarray:
        """Return a view of the same memory."""
        view = object.__new__(ndarray)
        view._memory, view._host, view.base = self._memory, host, self
        return view

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: Flags(self._host, self.base is None))
    device = property(lambda self: Device(self._memory.device_id))
    T = property(lambda self: self.transpose())

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(self._host.ctypes.data, self._memory.device_id, self._memory)

    def __array__(self, *_: object, **__: object) -> Host:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_function__(self, function: Any, *_: object) -> Any:
        raise TypeError(f"numpy.{function.__name__} of a cupy.ndarray: use cupy's function")

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<cupy.ndarray {self.dtype} {self.shape} on device {self._memory.device_id}>"

    def __getitem__(self, key: Any) -> ndarray:
        keys = key if isinstance(key, tuple) else (key,)
        chosen = [part for part in keys if isinstance(part, (ndarray, np.ndarray, list))]
        if not chosen:
            part = self._host[key]
            # an element is a view of no dimension on a device, not a copied number
            return self._seen_as(part if isinstance(part, np.ndarray) else self._host[(*keys, ...)])
        masks = any(isinstance(part, ndarray) and part.dtype == bool for part in chosen)
        return (submit_counted if masks else submit)(operator.getitem, self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, (np.ndarray, list, tuple)):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        submit_in_place(operator.setitem, self, key, value)

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        return self._viewed(lambda host: host.reshape(*shape, order=order))

    def ravel(self, order: str = "C") -> ndarray:
        return self._viewed(lambda host: host.ravel(order))

    def transpose(self, *axes: Any) -> ndarray:
        return self._viewed(lambda host: host.transpose(*axes))

    def squeeze(self, axis: Any = None) -> ndarray:
        return self._viewed(lambda host: host.squeeze(axis))

    def swapaxes(self, axis1: int, axis2: int) -> ndarray:
        return self._viewed(lambda host: host.swapaxes(axis1, axis2))

    def view(self, dtype: DTypeLike = None) -> ndarray:
        return self._viewed(lambda host: host.view() if dtype is None else host.view(dtype))

    def _viewed(self, look: Callable[[Host], Host]) -> ndarray:
        """Return another view, or the copy that it takes."""
        seen = look(self._host)
        if np.may_share_memory(seen, self._host) or not self.size:
            return self._seen_as(seen)
        return submit(look, self)

    def astype(
        self,
        dtype: DTypeLike,
        order: str = "K",
        casting: str | None = None,
        *,
        copy: bool = True,
    ) -> ndarray:
        if not copy and self.dtype == dtype:
            return self
        return submit(np.ndarray.astype, self, dtype, order, casting or "unsafe")

    def copy(self, order: str = "C") -> ndarray:
        """Return a copy on the current device, wherever the array is."""
        return filled(lambda host: host.copy(order), self._host)

    def fill(self, value: Any) -> None:
        submit_in_place(np.ndarray.fill, self, value)

    def sort(self, axis: int = -1) -> None:
        submit_in_place(np.ndarray.sort, self, axis, "stable")

    def get(
        self,
        stream: Stream | None = None,
        order: str = "C",
        out: Host | None = None,
        blocking: bool = True,
    ) -> Host:
        if out is not None:
            self._check_destination(out)
        elif order not in ("C", "F", "A"):
            raise ValueError(f"unsupported order: {order}")
        chosen = get_current_stream(self._memory.device_id) if stream is None else stream
        laid_out = self._laid_out(order if out is None else _order_of(out), chosen)
        source = laid_out._host
        host = np.empty_like(source) if out is None else out
        pinned = pinned_view(host)
        target = host if pinned is None else pinned
        queue = self._queue(chosen)
        schedule.give(queue, lambda: np.copyto(target, source))
        # CUDA returns from a copy to memory that is not pinned when it is done
        if blocking or pinned is None:
            finish_queue(queue, "ndarray.get")
        return host

    def _laid_out(self, order: str, stream: Stream) -> ndarray:
        """Return the array in a layout, copied on its device if it has another."""
        if order == "A" or self.flags[f"{order}_CONTIGUOUS"]:
            return self
        with self.device, stream:
            return self.copy(order)

    def _queue(self, stream: Stream) -> Queue:
        """Return where copies between the host and this array go: the null stream is everywhere."""
        return null_queue(self._memory.device_id) if stream.ptr == 0 else stream._queue

    def _check_destination(self, out: Any) -> None:
        """Refuse a destination of `get` that CuPy refuses."""
        if not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained fromcupy.ndarray")
        if out.dtype != self.dtype:
            raise TypeError(f"{out.dtype} array cannot be obtained from {self.dtype} array")
        if out.shape != self.shape:
            raise ValueError(
                f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}"
            )

    def set(self, arr: Host, stream: Stream | None = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self._host.flags.c_contiguous or self._host.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        target = self._host
        # CUDA has read memory that is not pinned when it returns; pinned memory it reads later
        layout = "C_CONTIGUOUS" if target.flags.c_contiguous else "F_CONTIGUOUS"
        pinned = pinned_view(arr) if arr.flags[layout] else None
        source = arr.copy() if pinned is None else pinned
        queue = self._queue(get_current_stream() if stream is None else stream)
        schedule.give(queue, lambda: np.copyto(target, source))

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __bool__(self) -> bool:
        if self.size > 1:
            raise ValueError(
                "The truth value of an array with more than one element is ambiguous. "
                "Use a.any() or a.all()"
            )
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __index__(self) -> int:
        return operator.index(self.get())

    __hash__ = None  # type: ignore[assignment]


def _order_of(out: Host) -> str:
    """Return the layout of a destination of `get`."""
    if not (out.flags.c_contiguous or out.flags.f_contiguous):
        raise RuntimeError("`out` cannot be specified when copying to non-contiguous ndarray")
    return "C" if out.flags.c_contiguous else "F"


def hosts_of(value: Any) -> Any:
    """Return NumPy arrays in place of a device's, and refuse what is not on this device."""
    if isinstance(value, ndarray):
        home, here = value.data.device_id, current_device_id()
        if home != here:
            raise ValueError(
                f"The device where the array resides ({home}) is different from the current "
                f"device ({here}). Peer access is unavailable between these devices."
            )
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    return _each(hosts_of, value)


def _blank(value: Any) -> Any:
    """Return zeros in place of NumPy arrays, to learn the shape of a result."""
    return np.zeros_like(value) if isinstance(value, np.ndarray) else _each(_blank, value)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """Change what a tuple, list or dictionary holds."""
    if isinstance(value, (tuple, list)):
        return type(value)([change(part) for part in value])
    if isinstance(value, dict):
        return {name: change(part) for name, part in value.items()}
    return value


def submit(function: Callable[..., Any], *arguments: Any, out: Any = None, **keywords: Any) -> Any:
    """Give a function of arrays to the current stream; return the array that it will fill."""
    if out is not None:
        submit_in_place(lambda into, *rest: function(*rest, **keywords, out=into), out, *arguments)
        return out
    hosts, options = hosts_of((arguments, keywords))
    return filled(lambda values: function(*values, **options), hosts)


def filled(compute: Callable[[Any], Any], hosts: Any) -> ndarray:
    """Allocate what a function of NumPy arrays returns and let the current stream fill it."""
    expected = np.asarray(_quietly(compute, _blank(hosts) if schedule.random else hosts))
    is_fortran = expected.flags.f_contiguous and not expected.flags.c_contiguous
    result = ndarray(expected.shape, expected.dtype, order="F" if is_fortran else "C")
    target = result._host
    if schedule.random:
        give_to_current(lambda: np.copyto(target, _quietly(compute, hosts)))
    else:
        np.copyto(target, expected)
    return result


def submit_in_place(function: Callable[..., Any], array: ndarray, *arguments: Any) -> None:
    """Give a function that changes its first array to the current stream."""
    hosts = hosts_of((array, *arguments))
    if schedule.random:
        _quietly(lambda values: function(*values), _blank(hosts))
    give_to_current(lambda: _quietly(lambda values: function(*values), hosts))


def submit_counted(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Compute what has as many elements as the values say: the host waits to learn how many."""
    finish_queue(get_current_stream()._queue, f"shape of {function.__name__}")
    hosts, options = hosts_of((arguments, keywords))
    found = _quietly(lambda values: function(*values, **options), hosts)
    return tuple(map(_sent, found)) if isinstance(found, tuple) else _sent(found)


def _sent(host: Host) -> ndarray:
    """Return a new array of the device with the values of one of the host."""
    result = ndarray(np.shape(host), host.dtype)
    np.copyto(result._host, host)
    return result


def give_to_current(action: Callable[[], object]) -> None:
    """Give work to the stream that is current."""
    schedule.give(get_current_stream()._queue, action)


def _quietly(compute: Callable[[Any], Any], hosts: Any) -> Any:
    """Compute without warnings, as devices do."""
    with np.errstate(all="ignore"):
        return compute(hosts)


def _operator(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *operands: submit(function, *operands)


def _reflected(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, other: submit(lambda mine, others: function(others, mine), self, other)


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def change(self: ndarray, other: Any) -> ndarray:
        submit_in_place(function, self, other)
        return self

    return change


for _name in BINARY.split():
    _binary = getattr(operator, f"__{_name}__")
    setattr(ndarray, f"__{_name}__", _operator(_binary))
    setattr(ndarray, f"__r{_name}__", _reflected(_binary))
    setattr(ndarray, f"__i{_name}__", _in_place(getattr(operator, f"__i{_name}__")))
for _name in OTHER.split():
    setattr(ndarray, f"__{_name}__", _operator(getattr(operator, f"__{_name}__")))
