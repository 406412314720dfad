"""One PTX instruction to one statement of C++: a table of opcodes.

Most instructions are an expression over their operands (`FLOATS`, `INTEGERS`, `FUNCTIONS`); the
others have a small function of their own in `ptx_handlers`. The functions of C++ that expressions
call are in ``include/ptx.h``. To add an instruction, add a line to a table.
"""

from __future__ import annotations

from typing import Protocol

from .ptx_parse import operands_of

ROUNDING = {"rz": "FE_TOWARDZERO", "rm": "FE_DOWNWARD", "rp": "FE_UPWARD"}
"""Rounding modes other than to nearest, as C names them."""
TO_INTEGRAL = {
    "rni": "std::nearbyint",
    "rzi": "std::trunc",
    "rmi": "std::floor",
    "rpi": "std::ceil",
}
"""Functions that round to an integral value."""

FLOATS = {
    "abs": "std::fabs({0})",
    "add": "{0} + {1}",
    "copysign": "std::copysign({1}, {0})",
    "cos": "({t})std::cos((f64){0})",
    "div": "{0} / {1}",
    "ex2": "({t})std::exp2((f64){0})",
    "fma": "std::fma({0}, {1}, {2})",
    "lg2": "({t})std::log2((f64){0})",
    "mad": "std::fma({0}, {1}, {2})",
    "max": "maximum<{t}>({0}, {1})",
    "min": "minimum<{t}>({0}, {1})",
    "mul": "{0} * {1}",
    "neg": "-{0}",
    "rcp": "1 / {0}",
    "rsqrt": "({t})(1 / std::sqrt((f64){0}))",
    "sin": "({t})std::sin((f64){0})",
    "sqrt": "std::sqrt({0})",
    "sub": "{0} - {1}",
    "tanh": "({t})std::tanh((f64){0})",
}
"""Instructions on floating point numbers, by opcode."""

INTEGERS = {
    "abs": "{0} < 0 ? -{0} : {0}",
    "add": "{0} + {1}",
    "and": "{0} & {1}",
    "div": "quotient<{t}>({0}, {1})",
    "max": "maximum<{t}>({0}, {1})",
    "min": "minimum<{t}>({0}, {1})",
    "neg": "-{0}",
    "or": "{0} | {1}",
    "rem": "remainder<{t}>({0}, {1})",
    "sub": "{0} - {1}",
    "xor": "{0} ^ {1}",
}
"""Instructions on integers (and predicates) whose operands all have the type of the result."""

FUNCTIONS = {
    "bfe": ("{t}", "bfe<{t}>", ("{t}", "u32", "u32")),
    "bfi": ("{t}", "bfi<{t}>", ("{t}", "{t}", "u32", "u32")),
    "bmsk": ("u32", "bmsk", ("u32", "u32")),
    "brev": ("{t}", "brev<{t}>", ("{t}",)),
    "clz": ("u32", "clz<{t}>", ("{t}",)),
    "lop3": ("u32", "lop3", ("u32", "u32", "u32", "u32")),
    "popc": ("u32", "popc<{t}>", ("{t}",)),
    "prmt": ("u32", "prmt", ("u32", "u32", "u32")),
    "shl": ("{t}", "shl<{t}>", ("{t}", "u32")),
    "shr": ("{t}", "shr<{t}>", ("{t}", "u32")),
}
"""Type of the result, function and types of the operands of instructions that mix types."""

COMPARISONS = {
    "eq": "{0} == {1}",
    "ne": "{0} < {1} || {0} > {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "lo": "{0} < {1}",
    "ls": "{0} <= {1}",
    "hi": "{0} > {1}",
    "hs": "{0} >= {1}",
    "equ": "!({0} < {1} || {0} > {1})",
    "neu": "{0} != {1}",
    "ltu": "!({0} >= {1})",
    "leu": "!({0} > {1})",
    "gtu": "!({0} <= {1})",
    "geu": "!({0} < {1})",
    "num": "{0} == {0} && {1} == {1}",
    "nan": "{0} != {0} || {1} != {1}",
}
"""Comparisons; those of floating point numbers that end in u hold if an operand is NaN."""

CLASSES = {
    "finite": "std::isfinite({0})",
    "infinite": "std::isinf({0})",
    "notanumber": "std::isnan({0})",
    "number": "!std::isnan({0})",
    "normal": "std::isnormal({0})",
    "subnormal": "std::fpclassify({0}) == FP_SUBNORMAL",
}
"""Kinds of floating point numbers that `testp` knows."""

ATOMICS = {
    "add": "old + {0}",
    "and": "old & {0}",
    "cas": "old == {0} ? {1} : old",
    "dec": "old == 0 || old > {0} ? {0} : old - 1",
    "exch": "{0}",
    "inc": "old >= {0} ? 0 : old + 1",
    "max": "maximum<{t}>(old, {0})",
    "min": "minimum<{t}>(old, {0})",
    "or": "old | {0}",
    "xor": "old ^ {0}",
}
"""What an atomic operation leaves in memory."""

VOTES = {"any": "votes != 0", "all": "votes == mask", "uni": "votes == 0 || votes == mask"}
"""Results of the votes that give a predicate."""
REDUCTIONS = {
    "popc": "EMU_BARRIER_COUNT",
    "and": "EMU_BARRIER_AND",
    "or": "EMU_BARRIER_OR",
}
"""Barriers that reduce a predicate, by their name in the runtime."""
SPACES = ("global", "shared", "local", "const", "param")
COHERENT = {"volatile", "relaxed", "acquire", "release", "cg", "cv", "mmio"}
"""Loads and stores that other threads may see while they run; the others are plain."""
DULL = {"rn", "rz", "rm", "rp", "ftz", "sat", "lo", "sync", "uni", "aligned", "to"}
"""Modifiers that make no difference to the kind under which an instruction is counted."""


class UnsupportedError(NotImplementedError):
    """An instruction that the emulator does not know."""


class Scope(Protocol):
    """What an instruction needs to know of the function that it stands in."""

    def value(self, operand: str, type_name: str) -> str:
        """Return the C++ of an operand that is read."""

    def register(self, name: str) -> str:
        """Return the C++ name of a register."""

    def label(self, name: str) -> str:
        """Return the C++ name of a label."""

    def address(self, operand: str, space: str) -> str:
        """Return the C++ of the address in ``[register + offset]``."""

    def space_of(self, operand: str, space: str) -> str:
        """Return the state space of an address whose instruction names none."""

    def targets(self, table: str) -> list[str]:
        """Return the labels of a jump table."""

    def function(self, name: str) -> str | None:
        """Return the C++ name of a function of this module."""


class Instruction:
    """An instruction, taken apart, and the scope that gives its operands a meaning."""

    def __init__(self, text: str, line: int, scope: Scope) -> None:
        words, _, operands = text.partition(" ")
        self.word, *self.modifiers = words.split(".")
        self.type = self.modifiers[-1] if self.modifiers else ""
        self.operands = operands_of(operands)
        self.text, self.line, self.scope = text, line, scope

    def kind(self) -> str:
        """Return the name under which the instruction is counted: ``ld.global.f32``."""
        return ".".join((self.word, *(word for word in self.modifiers if word not in DULL)))

    def is_float(self) -> bool:
        """Return whether the instruction computes with floating point numbers."""
        return self.type in ("f32", "f64")

    def has(self, *modifiers: str) -> bool:
        """Return whether the instruction carries one of these modifiers."""
        return not set(modifiers).isdisjoint(self.modifiers)

    def first_of(self, names: dict[str, str]) -> str | None:
        """Return what a table says of the first modifier that it knows."""
        return next((names[word] for word in self.modifiers if word in names), None)

    def read(self, position: int, type_name: str = "") -> str:
        """Return the C++ of an operand; float32 is flushed where the instruction says so."""
        type_name = type_name or self.type
        value = self.scope.value(self.operands[position], type_name)
        return f"flushed({value})" if type_name == "f32" and self.has("ftz") else value

    def reads(self, type_name: str = "") -> list[str]:
        """Return the C++ of all operands after the first."""
        return [self.read(position, type_name) for position in range(1, len(self.operands))]

    def write(self, expression: str, type_name: str = "", operand: str = "") -> str:
        """Return the statement that puts an expression into the destination."""
        type_name, operand = type_name or self.type, operand or self.operands[0]
        if operand == "_":
            return f"(void)({expression});"
        return f"put<{type_name}>({self.scope.register(operand)}, ({type_name})({expression}));"

    def write_float(self, template: str, values: list[str], type_name: str = "") -> str:
        """Return the statement of an instruction that rounds; ``template`` is an expression."""
        type_name = type_name or self.type
        value = self._rounded(template, values, type_name)
        value = f"unit_clamped({value})" if self.has("sat") else f"canonical({value})"
        if type_name == "f32" and self.has("ftz"):
            value = f"flushed({value})"
        return self.write(value, type_name)

    def _rounded(self, template: str, values: list[str], type_name: str) -> str:
        """Return the C++ that computes a value in the rounding mode of the instruction."""
        mode = self.first_of(ROUNDING)
        if mode is None:
            return f"({type_name})({template.format(*values, t=type_name)})"
        names = "abc"[: len(values)]
        declared = ", ".join(f"auto {name}" for name in names)
        body = f"return ({type_name})({template.format(*names, t=type_name)});"
        passed = ", ".join([mode, f"[]({declared}) {{ {body} }}", *values])
        return f"rounded<{type_name}>({passed})"
