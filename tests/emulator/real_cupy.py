"""Ask the real CuPy what it refuses and what its functions take: no driver is needed for that.

``python real_cupy.py`` reads expressions and names of modules as JSON and writes the answers. It
runs in a process of its own, so that CuPy and its stand-in never meet.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Names = dict[str, Any]
TYPE_BEFORE_NAME = re.compile(r"^\w+ (?=\w+$)")


def raised(error: Exception) -> None:
    """Raise an error, as an expression."""
    raise error


def answer(expression: str, names: Names) -> tuple[str, str]:
    """Return the type and the message of the error that an expression raises."""
    try:
        eval(expression, {"np": np, "raised": raised} | names)
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def parameters(function: Callable[..., Any]) -> dict[str, str] | None:
    """Return names and defaults of what a function takes, compiled ones by their documentation."""
    if isinstance(function, type):
        function = function.__init__
    try:
        found = inspect.signature(function).parameters.values()
        return {
            each.name: "" if each.default is each.empty else repr(each.default)
            for each in found
            if each.name != "self"
        }
    except (TypeError, ValueError):
        return _documented(function.__doc__ or "")


def _documented(text: str) -> dict[str, str] | None:
    r"""Read ``ndarray.sort(self, int axis=-1)`` or ``maximum(x1, x2, /, out=None, \*, ...)``."""
    match = re.match(r"[\w.]+\((.*?)\)(?: ->.*)?\s*$", text.partition("\n")[0])
    if match is None:
        return None
    words = [word.partition("=") for word in match[1].split(", ") if word]
    named = {TYPE_BEFORE_NAME.sub("", name.lstrip("*")): default for name, _, default in words}
    return {name: named[name] for name in named if name.isidentifier() and name != "self"}


def main() -> None:
    import cupy
    from cupy.cuda.memory import MemoryPointer, UnownedMemory

    expressions, contents = json.load(sys.stdin)
    host = np.arange(4, dtype=np.float32)
    block = UnownedMemory(host.ctypes.data, host.nbytes, host, 0)
    array = cupy.ndarray(host.shape, host.dtype, MemoryPointer(block, 0))
    names = {"cupy": cupy, "host": host, "a": array}
    answers = {each: answer(each, names) for each in expressions}
    holders = {"ndarray": cupy.ndarray}
    for name in contents:
        try:
            holders.setdefault(name, importlib.import_module(name))
        except ImportError:  # what needs cuBLAS, where it is not installed
            continue
    known = {
        name: {
            each: parameters(getattr(holder, each)) if callable(getattr(holder, each)) else None
            for each in contents[name]
            if hasattr(holder, each)
        }
        for name, holder in holders.items()
    }
    json.dump([answers, known], sys.stdout)


if __name__ == "__main__":
    main()
