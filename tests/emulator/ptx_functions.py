"""PTX to C++: the functions of a module, their scopes, registers, variables and basic blocks."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import NamedTuple

from .ptx_handlers import statement
from .ptx_opcodes import Instruction, UnsupportedError
from .ptx_parse import (
    LOCATION,
    Function,
    Statement,
    Variable,
    bits_of,
    number_of,
    parameters_of,
    variable_of,
)

SPECIAL_REGISTERS = {
    "WARP_SZ": "32",
    "%laneid": "lane()",
    "%warpid": "(thread_of_block() / 32)",
    "%lanemask_eq": "(1u << lane())",
    "%lanemask_lt": "((1u << lane()) - 1)",
    "%lanemask_le": "((2u << lane()) - 1)",
    "%lanemask_gt": "~((2u << lane()) - 1)",
    "%lanemask_ge": "~((1u << lane()) - 1)",
    "%clock": "0u",
    "%clock64": "0ull",
    "%globaltimer": "0ull",
}
SPECIAL_REGISTERS |= {
    f"%{register}.{axis}": f"emu_cur.{field}.{axis}"
    for register, field in (("tid", "tid"), ("ntid", "bdim"), ("ctaid", "bid"), ("nctaid", "gdim"))
    for axis in "xyz"
}
"""What the launch tells a thread, in C++; the clocks stand still."""

BLOCK_ENDS = {"bra", "brx", "ret", "exit"}
"""After these the next instruction may run less often than the one before."""


class Memory(NamedTuple):
    """Where a variable lies: the C++ of its address, or of its offset in shared memory."""

    space: str
    address: str


class Body:
    """Translates the statements of one function; knows what names mean at the present one."""

    def __init__(
        self, function: Function, outside: dict[str, Memory], functions: dict[str, str]
    ) -> None:
        self._functions = functions
        self._memory = [dict(outside)]
        self._registers: list[dict[str, str]] = [{}]
        self._ranges: list[dict[str, int]] = [{}]
        self._serials = [0]
        self._labels = _labels_of(function.body)
        self._tables = _tables_of(function.body)
        self._location = ""
        self._directives = {
            ".loc": self._note_location,
            ".local": self._declare_local,
            ".param": self._declare_parameters,
            ".reg": self._declare_registers,
            ".shared": self._declare_shared,
        }
        self.declarations: list[str] = []
        self.lines: list[str] = []
        self.blocks: list[Counter[str]] = []
        self.locations: dict[int, str] = {}
        self.shared: list[Variable] = []
        self.n_scopes = 1

    # ---- what instructions ask: `ptx_opcodes.Scope` ----

    def value(self, operand: str, type_name: str) -> str:
        """Return the C++ of an operand that is read."""
        if operand.startswith("!"):
            return f"!{self.value(operand[1:], type_name)}"
        if operand in SPECIAL_REGISTERS:
            return f"({type_name}){SPECIAL_REGISTERS[operand]}"
        if (number := number_of(operand)) is not None:
            width = max(bits_of(type_name), 8)
            return f"as<{type_name}>((u{width}){number & 2**width - 1:#x}ull)"
        if self._find_register(operand):
            return f"as<{type_name}>({self.register(operand)})"
        name, _, offset = operand.partition("+")
        return f"({type_name})({self._variable(name).address} + {offset or 0})"

    def register(self, name: str) -> str:
        """Return the C++ name of a register."""
        found = self._find_register(name)
        if found is None:
            raise UnsupportedError(f"the operand {name}")
        return found

    def label(self, name: str) -> str:
        """Return the C++ name of a label."""
        return next(
            self._labels[serial, name]
            for serial in reversed(self._serials)
            if (serial, name) in self._labels
        )

    def targets(self, table: str) -> list[str]:
        """Return the labels of a jump table."""
        return self._tables[table]

    def function(self, name: str) -> str | None:
        """Return the C++ name of a function of this module."""
        return self._functions.get(name)

    def address(self, operand: str, space: str) -> str:
        """Return the C++ of the address in ``[register + offset]``."""
        base, offset = _base_and_offset(operand)
        if (number := number_of(base)) is not None:
            address = str(number)
        elif found := self._find_register(base):
            address = found
        else:
            address = self._variable(base).address
        address = f"{address} + {offset}" if offset else address
        return f"(u64)shared + (u32)({address})" if space == "shared" else address

    def space_of(self, operand: str, space: str) -> str:
        """Return the state space of an address whose instruction names none."""
        base, _ = _base_and_offset(operand)
        is_variable = number_of(base) is None and not self._find_register(base)
        return self._variable(base).space if is_variable else space

    # ---- statements ----

    def translate(self, statements: tuple[Statement, ...]) -> None:
        """Translate all statements of the function."""
        self._open_block()
        for part in statements:
            try:
                getattr(self, f"_{part.kind}")(part)
            except NotImplementedError as error:
                raise UnsupportedError(f"PTX line {part.line}: {part.text}: {error}") from error

    def _open(self, _: Statement) -> None:
        """Enter a scope."""
        self._serials.append(self.n_scopes)
        self.n_scopes += 1
        for scopes in (self._memory, self._registers, self._ranges):
            scopes.append({})

    def _close(self, _: Statement) -> None:
        """Leave a scope: its names end."""
        for scopes in (self._serials, self._memory, self._registers, self._ranges):
            scopes.pop()

    def _label(self, part: Statement) -> None:
        """Set a label; a basic block begins."""
        self.lines.append(f"{self.label(part.text)}:;")
        self._open_block()

    def _directive(self, part: Statement) -> None:
        """Declare registers or variables, or note the line of the source."""
        word = part.text.split(maxsplit=1)[0]
        if word in self._directives:
            self._directives[word](part.text)
        elif word not in (".pragma", ".branchtargets"):
            raise UnsupportedError("no such directive")

    def _instruction(self, part: Statement) -> None:
        """Translate an instruction and its guard."""
        guard, text = "", part.text
        if text.startswith("@"):
            guard, _, text = text[1:].partition(" ")
        instruction = Instruction(text, part.line, self)
        code = statement(instruction)
        self.blocks[-1][instruction.kind()] += 1
        self.locations[part.line] = self._location
        self.lines.append(f"if ({self.value(guard, 'pred')}) {{ {code} }}" if guard else code)
        if instruction.word in BLOCK_ENDS:
            self._open_block()

    def _open_block(self) -> None:
        """Begin a basic block, whose executions are counted."""
        self.lines.append(f"COUNT({len(self.blocks)});")
        self.blocks.append(Counter())

    # ---- names ----

    def _note_location(self, text: str) -> None:
        """Read ``.loc 1 12 5, function_name ..., inlined_at 1 60 3``."""
        if location := LOCATION.match(text):
            file, line, outer_file, outer_line = location.groups()
            outer = f" {outer_file}:{outer_line}" if outer_file else ""
            self._location = f"{file}:{line}{outer}"

    def _declare_parameters(self, text: str) -> None:
        """Make room for the parameters of a call."""
        for parameter in parameters_of(text):
            self._declare_array(parameter.name, "param", parameter.n_bytes, 16)

    def _declare_local(self, text: str) -> None:
        """Make an array of the thread."""
        if variable := variable_of(text):
            self._declare_array(variable.name, "local", variable.n_bytes, variable.alignment)

    def _declare_shared(self, text: str) -> None:
        """Note an array of the block; its place is known when all of them are."""
        if variable := variable_of(text):
            self.shared.append(variable)
            self._memory[-1][variable.name] = Memory("shared", f"OFFSET_{plain(variable.name)}")

    def _declare_registers(self, text: str) -> None:
        """Read ``.reg .b32 %r<12>, p, q;``."""
        _, type_name, names = text.split(maxsplit=2)
        width = bits_of(type_name.lstrip("."))
        for name in names.split(","):
            match = re.fullmatch(r"([%\w$]+)(?:<\d+>)?", name.strip())
            assert match is not None, text
            if "<" in name:
                self._ranges[-1][match[1]] = width
            else:
                self._declare_register(match[1], width, len(self._serials) - 1)

    def _declare_register(self, name: str, width: int, depth: int) -> str:
        """Make the C++ variable of a register."""
        suffix = f"_{self._serials[depth]}" if depth else ""
        variable = f"r_{plain(name)}{suffix}"
        self._registers[depth][name] = variable
        self.declarations.append(f"{'bool' if width == 1 else f'u{width}'} {variable} = 0;")
        return variable

    def _find_register(self, name: str) -> str | None:
        """Return the C++ name of a register; those of a range are declared when first used."""
        family = name.rstrip("0123456789")
        for depth in reversed(range(len(self._serials))):
            if name in self._registers[depth]:
                return self._registers[depth][name]
            if name != family and family in self._ranges[depth]:
                return self._declare_register(name, self._ranges[depth][family], depth)
        return None

    def _declare_array(self, name: str, space: str, n_bytes: int, alignment: int) -> None:
        """Make the C++ variable of an array that belongs to the thread."""
        variable = f"m_{plain(name)}_{self._serials[-1]}"
        self.declarations.append(f"alignas({alignment}) char {variable}[{n_bytes}];")
        self._memory[-1][name] = Memory(space, f"(u64){variable}")

    def _variable(self, name: str) -> Memory:
        """Return where a variable lies."""
        for scope in reversed(self._memory):
            if name in scope:
                return scope[name]
        raise UnsupportedError(f"the operand {name}")


def plain(name: str) -> str:
    """Return a name with letters that C++ allows."""
    return re.sub(r"\W", "_", name)


def _base_and_offset(operand: str) -> tuple[str, str]:
    """Take ``[base + offset]`` apart."""
    match = re.fullmatch(r"\[\s*([%\w$.]+)\s*(?:\+\s*(-?\w+))?\s*\]", operand)
    if match is None:
        raise UnsupportedError(f"the address {operand}")
    return match[1], match[2] or ""


def _labels_of(statements: tuple[Statement, ...]) -> dict[tuple[int, str], str]:
    """Return the C++ names of labels by scope and name: equal names may stand in two scopes."""
    labels, scopes, n_scopes = {}, [0], 1
    for part in statements:
        if part.kind == "open":
            scopes.append(n_scopes)
            n_scopes += 1
        elif part.kind == "close":
            scopes.pop()
        elif part.kind == "label":
            labels[scopes[-1], part.text] = f"L_{plain(part.text)}_{scopes[-1]}"
    return labels


def _tables_of(statements: tuple[Statement, ...]) -> dict[str, list[str]]:
    """Return the labels of jump tables, by the label in front of ``.branchtargets``."""
    return {
        label.text: [name.strip() for name in part.text.split(maxsplit=1)[1].split(",")]
        for label, part in pairwise(statements)
        if part.text.startswith(".branchtargets")
    }
