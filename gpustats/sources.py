"""The text of a kernel, and what it declares: needs no GPU, and no CuPy.

Sources are the ``.cu`` files of ``kernels/``. CuPy keeps what it compiled on disk, under the text:
that is why our own headers are pasted into it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

OPTIONS = ("-std=c++17", "--fmad=false")
"""Products and sums are rounded apart, as on the CPU; where a kernel may fuse them it says so."""

KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)'
)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)

TYPES: dict[str, type[np.generic]] = {
    "char": np.int8,
    "signed char": np.int8,
    "unsigned char": np.uint8,
    "bool": np.bool_,
    "unsigned short": np.uint16,
    "int": np.int32,
    "unsigned": np.uint32,
    "unsigned int": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "float": np.float32,
    "double": np.float64,
}
"""Types that a kernel's parameters may have, by their names in CUDA C++."""
VECTORS: dict[str, type[np.generic]] = {
    "float4": np.float32,
    "int4": np.int32,
    "uint4": np.uint32,
    "double2": np.float64,
}
"""Types of the elements of vectors that are loaded at once; arrays hold a multiple of them."""


class Parameter(NamedTuple):
    """One parameter of a kernel: an array of elements of a type, or a scalar."""

    name: str
    is_array: bool
    dtype: type[np.generic]


@cache
def source(name: str) -> str:
    """Return the text of ``kernels/<name>.cu`` with our own headers pasted in.

    Raises
    ------
    FileNotFoundError
        If neither the installed package nor the checkout has the file.
    """
    folder = kernel_folder()

    def pasted(match: re.Match[str]) -> str:
        text = (folder / match[1]).read_text(encoding="utf-8")
        following = body.count("\n", 0, match.end()) + 2
        return f'#line 1 "{match[1]}"\n{text}\n#line {following} "{name}.cu"'

    body = (folder / f"{name}.cu").read_text(encoding="utf-8")
    return f'#line 1 "{name}.cu"\n' + INCLUDE.sub(pasted, body)


def kernel_folder() -> Path:
    """Return where the sources are: in the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "kernels", package.parent / "kernels"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no folder of kernels in {package} or beside it; reinstall gpustats")


def parameters(text: str) -> dict[str, tuple[Parameter, ...]]:
    """Return the parameters of every kernel of a source."""
    declarations = KERNEL.finditer(COMMENT.sub("", text))
    return {match[1]: tuple(_parameters_of(match[2])) for match in declarations}


def _parameters_of(declarations: str) -> Iterator[Parameter]:
    """Read the parameters between the brackets of a kernel."""
    for declaration in declarations.split(","):
        words = declaration.replace("*", " * ").replace("__restrict__", "").split()
        type_name = " ".join(word for word in words[:-1] if word not in ("const", "*"))
        is_array = "*" in words
        types = TYPES | VECTORS if is_array else TYPES
        yield Parameter(words[-1], is_array, types[type_name])
