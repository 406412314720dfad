"""The functions of ``cupy`` that an engine uses or may come to use, with CuPy's own signatures.

A name that is missing here is refused. To add one, write its signature as CuPy 14 has it into a
table below; `test_stand_in` compares the tables with CuPy where it is installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from .stand_in_arrays import ndarray, submit, submit_counted

COMPUTED = {
    "all": "a, axis=None, out=None, keepdims=False",
    "amax": "a, axis=None, out=None, keepdims=False",
    "amin": "a, axis=None, out=None, keepdims=False",
    "any": "a, axis=None, out=None, keepdims=False",
    "argmax": "a, axis=None, dtype=None, out=None, keepdims=False",
    "argmin": "a, axis=None, dtype=None, out=None, keepdims=False",
    "argsort": "a, axis=-1, kind=None",
    "clip": "a, a_min, a_max, out=None",
    "concatenate": "tup, axis=0, out=None, *, dtype=None, casting='same_kind'",
    "count_nonzero": "a, axis=None",
    "cumsum": "a, axis=None, dtype=None, out=None",
    "diff": "a, n=1, axis=-1, prepend=None, append=None",
    "dot": "a, b, out=None",
    "flip": "a, axis=None",
    "lexsort": "keys",
    "matmul": "x1, x2, /, out=None, *, casting='same_kind', dtype=None",
    "max": "a, axis=None, out=None, keepdims=False",
    "mean": "a, axis=None, dtype=None, out=None, keepdims=False",
    "min": "a, axis=None, out=None, keepdims=False",
    "repeat": "a, repeats, axis=None",
    "searchsorted": "a, v, side='left', sorter=None",
    "sort": "a, axis=-1, kind=None",
    "stack": "tup, axis=0, out=None, *, dtype=None, casting='same_kind'",
    "sum": "a, axis=None, dtype=None, out=None, keepdims=False",
    "take": "a, indices, axis=None, out=None",
    "take_along_axis": "a, indices, axis",
    "tile": "A, reps",
    "where": "condition, x=None, y=None",
}
"""Functions that give an array whose shape follows from the shapes of their arguments."""

COUNTED = {
    "bincount": "x, weights=None, minlength=None",
    "flatnonzero": "a",
    "nonzero": "a",
    "unique": "ar, return_index=False, return_inverse=False, return_counts=False, axis=None, "
    "*, equal_nan=True",
}
"""Functions that give as many elements as the values say: the host waits for them."""

VIEWS = {
    "broadcast_to": "array, shape",
    "expand_dims": "a, axis",
    "moveaxis": "a, source, destination",
    "ravel": "a, order='C'",
    "reshape": "a, newshape, order='C', *, copy=None",
    "squeeze": "a, axis=None",
    "transpose": "a, axes=None",
}
"""Functions that look at the same memory in another way where they can."""

METHODS = {
    "all": "axis=None, out=None, keepdims=False",
    "any": "axis=None, out=None, keepdims=False",
    "argmax": "axis=None, out=None, dtype=None, keepdims=False",
    "argmin": "axis=None, out=None, dtype=None, keepdims=False",
    "argsort": "axis=-1, kind=None",
    "clip": "min=None, max=None, out=None",
    "cumsum": "axis=None, dtype=None, out=None",
    "dot": "b, out=None",
    "max": "axis=None, out=None, keepdims=False",
    "mean": "axis=None, dtype=None, out=None, keepdims=False",
    "min": "axis=None, out=None, keepdims=False",
    "nonzero": "",
    "repeat": "repeats, axis=None",
    "searchsorted": "v, side='left', sorter=None",
    "sum": "axis=None, dtype=None, out=None, keepdims=False",
    "take": "indices, axis=None, out=None",
}

UNARY = (
    "abs absolute bitwise_not ceil exp expm1 floor invert isfinite isinf isnan log log10 log1p "
    "logical_not negative rint sign signbit sqrt square trunc"
)
BINARY = (
    "add bitwise_and bitwise_or bitwise_xor copysign divide equal floor_divide fmax fmin greater "
    "greater_equal left_shift less less_equal logical_and logical_or logical_xor maximum minimum "
    "multiply nextafter not_equal power remainder right_shift subtract true_divide"
)
UFUNC_OPTIONS = "/, out=None, *, casting='same_kind', dtype=None"

CONSTANTS = (
    "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 dtype generic "
    "newaxis inf nan pi iinfo finfo isscalar"
)
"""Names that are NumPy's in CuPy too."""


def signature(parameters: str) -> inspect.Signature:
    """Return a signature from the text of its parameters."""
    return inspect.signature(eval(f"lambda {parameters}: None"))


def _call(run: Callable[..., Any], name: str, parameters: str) -> Callable[..., Any]:
    """Return a function of CuPy: it takes CuPy's arguments and computes as NumPy's."""
    taken = signature(parameters)
    compute = SPECIAL.get(name) or getattr(np, name)

    @wraps(compute)
    def function(*arguments: Any, **keywords: Any) -> Any:
        try:
            bound = taken.bind(*arguments, **keywords)
        except TypeError as refused:
            raise TypeError(f"{name}() {refused}") from None
        out = bound.arguments.pop("out", None)
        options = {} if out is None else {"out": out}
        return run(compute, *bound.args, **bound.kwargs, **options)

    function.__signature__ = taken
    return function


def _stable(sort: Callable[..., Any]) -> Callable[..., Any]:
    """Return a sort that keeps the order of equals, as CuPy's sorts do."""

    def sorted_(a: Any, axis: int = -1, kind: str | None = None) -> Any:
        if kind not in (None, "stable"):
            raise ValueError("kind can only be None or 'stable'")
        return sort(a, axis, "stable")

    return sorted_


def _where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """Choose between two arrays; the form that counts is `nonzero`."""
    if x is None or y is None:
        raise ValueError("the stand-in knows where with three arguments; use nonzero for one")
    return np.where(condition, x, y)


def _lexsort(keys: Any) -> Any:
    """Sort by the rows of a matrix: CuPy takes no tuple of keys."""
    if isinstance(keys, (tuple, list)):
        raise AttributeError(f"{type(keys).__name__!r} object has no attribute 'ndim'")
    return np.lexsort(keys)


SPECIAL: dict[str, Callable[..., Any]] = {
    "argsort": _stable(np.argsort),
    "sort": _stable(np.sort),
    "where": _where,
    "lexsort": _lexsort,
}


def _viewed(compute: Callable[..., Any], array: Any, *arguments: Any, **keywords: Any) -> ndarray:
    """Look at an array in another way."""
    if not isinstance(array, ndarray):
        raise TypeError(f"Unsupported type {type(array)}")
    return array._viewed(lambda host: compute(host, *arguments, **keywords))


def functions() -> dict[str, Any]:
    """Return the functions and constants of ``cupy`` that are NumPy's on another device."""
    made = {name: _call(submit, name, parameters) for name, parameters in COMPUTED.items()}
    made |= {name: _call(submit_counted, name, parameters) for name, parameters in COUNTED.items()}
    made |= {name: _call(_viewed, name, parameters) for name, parameters in VIEWS.items()}
    made |= {name: _call(submit, name, f"x, {UFUNC_OPTIONS}") for name in UNARY.split()}
    made |= {name: _call(submit, name, f"x1, x2, {UFUNC_OPTIONS}") for name in BINARY.split()}
    return made | {name: getattr(np, name) for name in CONSTANTS.split()}


def add_methods() -> None:
    """Give the arrays their methods that compute."""
    for name, parameters in METHODS.items():
        run = submit_counted if name in COUNTED else submit
        setattr(ndarray, name, _call(run, name, f"self, {parameters}"))


add_methods()
