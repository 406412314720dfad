"""The text of PTX, as NVRTC prints it, taken apart into variables, functions and statements.

PTX is line-oriented assembly with scopes: ``{`` and ``}`` around a group of statements declare
registers and labels that end with it, while braces inside a statement group the parts of a vector.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

SKIPPED = re.compile(r"//[^\n]*|/\*.*?\*/|\.section\s[^{]*\{[^}]*\}", re.DOTALL)
"""Comments, and sections of debugging information."""
STOP = re.compile(r'"[^"]*"|[;:{}\n]')
LABEL = re.compile(r"[A-Za-z_$%][\w$]*")
ENDS_WITH_LINE = (".loc", ".file", ".version", ".target", ".address_size")
TYPE = r"\.(pred|[bsuf]\d+)"
VARIABLE = re.compile(
    r"(?P<linkage>(?:\.(?:visible|weak|extern|common)\s+)*)\.(?P<space>global|const|shared|local)\s+"
    rf"(?:\.align\s+(?P<align>\d+)\s+)?{TYPE}\s+(?P<name>[\w$]+)"
    r"(?P<array>\[(?P<length>\d*)\])?(?:\s*=\s*(?P<values>.*))?",
    re.DOTALL,
)
PARAMETER = re.compile(
    rf"\.param\s+(?:\.align\s+\d+\s+)?{TYPE}\s+"
    r"(?:\.ptr\s+(?:\.(?:global|const|shared|local)\s+)?(?:\.align\s+\d+\s+)?)?"
    r"(?P<name>[\w$]+)(?:\[(?P<length>\d+)\])?"
)
FUNCTION = re.compile(
    r"\.(?P<kind>entry|func)\s+(?:\((?P<results>[^)]*)\)\s*)?(?P<name>[\w$]+)\s*"
    r"(?:\((?P<parameters>[^)]*)\))?(?P<limits>.*)",
    re.DOTALL,
)
LOCATION = re.compile(r"\.loc\s+(\d+)\s+(\d+)\s+\d+(?:.*inlined_at\s+(\d+)\s+(\d+))?")


class Statement(NamedTuple):
    """One statement; ``kind`` is "open", "close", "label", "directive" or "instruction"."""

    kind: str
    text: str
    line: int


class Variable(NamedTuple):
    """A variable in memory: its state space, its bytes, and the values that it starts with."""

    name: str
    space: str
    alignment: int
    n_bytes: int
    values: bytes
    is_extern: bool


class Parameter(NamedTuple):
    """One parameter or result of a function."""

    name: str
    n_bytes: int


class Function(NamedTuple):
    """A kernel or a function that kernels call."""

    name: str
    is_kernel: bool
    results: tuple[Parameter, ...]
    parameters: tuple[Parameter, ...]
    max_threads: int
    body: tuple[Statement, ...]


class Module(NamedTuple):
    """All that one PTX text defines; ``files`` gives the names behind the numbers in ``.loc``."""

    variables: tuple[Variable, ...]
    functions: tuple[Function, ...]
    files: dict[str, str]


def parse(text: str) -> Module:
    """Take a PTX text apart."""
    statements = list(_statements(SKIPPED.sub(_only_newlines, text)))
    variables, functions, position = [], [], 0
    while position < len(statements):
        statement = statements[position]
        end = position + 1
        if statement.kind == "header":
            end = _end_of_scope(statements, position)
            functions.append(_function(statement.text, statements[position + 2 : end - 1]))
        elif variable := variable_of(statement.text):
            variables.append(variable)
        position = end
    files = re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', text)
    return Module(tuple(variables), tuple(functions), dict(files))


def bits_of(type_name: str) -> int:
    """Return the width of a type: 32 for ``f32``, 1 for ``pred``."""
    return 1 if type_name == "pred" else int(type_name[1:])


def variable_of(text: str) -> Variable | None:
    """Read the declaration of a variable in memory; None if the text is something else."""
    match = VARIABLE.match(text)
    if match is None:
        return None
    n_bytes_each = bits_of(match[4]) // 8
    n_bytes = n_bytes_each * int(match["length"] or "1")
    is_open_array = match["array"] is not None and not match["length"]
    return Variable(
        match["name"],
        match["space"],
        int(match["align"] or n_bytes_each),
        0 if is_open_array else n_bytes,
        _values(match["values"], n_bytes_each),
        ".extern" in match["linkage"],
    )


def parameters_of(text: str) -> tuple[Parameter, ...]:
    """Read the declarations of parameters, of a function or of a call."""
    return tuple(
        Parameter(match["name"], bits_of(match[1]) // 8 * int(match["length"] or 1))
        for match in PARAMETER.finditer(text)
    )


def operands_of(text: str) -> list[str]:
    """Split operands at commas that no bracket encloses."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\([^)]*\)|\[[^\]]*\]|[^,])+", text)]


def number_of(text: str) -> int | None:
    """Return the bits of a literal, as an integer; None if the text is no literal."""
    if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})", text):
        return int(match[1] or match[2], 16)
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
        return int(text.rstrip("U"), 0)
    return None


def _only_newlines(match: re.Match[str]) -> str:
    """Keep the numbers of lines when text goes."""
    return "\n" * match[0].count("\n")


def _statements(text: str) -> Iterator[Statement]:
    """Yield the statements of a text whose comments and sections are gone."""
    start, line, depth_of_vector = 0, 1, 0
    for stop in STOP.finditer(text):
        so_far, mark = text[start : stop.start()].strip(), stop[0]
        kind = _kind(so_far, mark, depth_of_vector)
        if kind is None:
            depth_of_vector += (mark == "{") - (mark == "}")
        else:
            if kind != "nothing":
                yield Statement(kind, " ".join(so_far.split()), line)
            if kind == "header":
                yield Statement("open", "", line)
            start = stop.end()
        line += mark.count("\n")


def _kind(so_far: str, mark: str, depth_of_vector: int) -> str | None:
    """Say what ends at a mark; None if the statement goes on."""
    if mark == "\n":
        if not so_far:
            return "nothing"
        return "directive" if so_far.startswith(ENDS_WITH_LINE) else None
    if mark == ";":
        return "directive" if so_far.startswith(".") else "instruction"
    if mark == ":":
        return "label" if LABEL.fullmatch(so_far) else None
    if mark == "{" and re.search(r"\.(entry|func)\b", so_far):
        return "header"
    if mark in "{}" and not so_far and not depth_of_vector:
        return "open" if mark == "{" else "close"
    return None


def _end_of_scope(statements: list[Statement], position: int) -> int:
    """Return the position after the closing brace of the scope that opens after a header."""
    depth = 0
    for end in range(position + 1, len(statements)):
        depth += {"open": 1, "close": -1}.get(statements[end].kind, 0)
        if depth == 0:
            return end + 1
    raise ValueError("PTX ends inside a function")


def _function(header: str, body: list[Statement]) -> Function:
    """Read the header of a function."""
    match = FUNCTION.search(header)
    if match is None:
        raise ValueError(f"not the header of a function: {header}")
    threads = re.findall(r"\.maxntid\s+([\d,\s]+)", match["limits"])
    max_threads = 1
    for length in threads[0].split(",") if threads else ["1024"]:
        max_threads *= int(length)
    return Function(
        match["name"],
        match["kind"] == "entry",
        parameters_of(match["results"] or ""),
        parameters_of(match["parameters"] or ""),
        max_threads,
        tuple(body),
    )


def _values(text: str | None, n_bytes_each: int) -> bytes:
    """Return the bytes of an initialiser."""
    if text is None:
        return b""
    mask = 2 ** (8 * n_bytes_each) - 1
    values = bytearray()
    for part in text.strip().strip("{}").split(","):
        number = number_of(part.strip())
        if number is None:
            raise NotImplementedError(f"the address of a variable as an initial value: {part}")
        values += (number & mask).to_bytes(n_bytes_each, "little")
    return bytes(values)
