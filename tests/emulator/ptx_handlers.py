"""The PTX instructions that are more than an expression: memory, conversions, control and warps."""

from __future__ import annotations

from collections.abc import Callable

from .ptx_opcodes import (
    ATOMICS,
    CLASSES,
    COHERENT,
    COMPARISONS,
    FLOATS,
    FUNCTIONS,
    INTEGERS,
    REDUCTIONS,
    SPACES,
    TO_INTEGRAL,
    VOTES,
    Instruction,
    UnsupportedError,
)
from .ptx_parse import bits_of

Handler = Callable[[Instruction], str]
HANDLERS: dict[str, Handler] = {}


def opcode(*names: str) -> Callable[[Handler], Handler]:
    """Enter a function into the table under these opcodes."""

    def enter(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return enter


def statement(instruction: Instruction) -> str:
    """Return the C++ of an instruction.

    Raises
    ------
    UnsupportedError
        If no table knows the instruction; the message names it.
    """
    word, t = instruction.word, instruction.type
    if word in ("addc", "subc", "madc") or instruction.has("cc"):
        return _with_carry(instruction)
    if word in HANDLERS:
        return HANDLERS[word](instruction)
    if word in FLOATS and instruction.is_float():
        return instruction.write_float(FLOATS[word], instruction.reads())
    if word in INTEGERS and not instruction.is_float():
        return instruction.write(INTEGERS[word].format(*instruction.reads(), t=t))
    if word in FUNCTIONS:
        result, name, types = FUNCTIONS[word]
        values = [instruction.read(k + 1, kind.format(t=t)) for k, kind in enumerate(types)]
        return instruction.write(f"{name.format(t=t)}({', '.join(values)})", result.format(t=t))
    raise UnsupportedError(f"no entry for {word}")


def _parts(operand: str) -> list[str]:
    """Return the elements of a vector operand, or the only operand."""
    return [part.strip() for part in operand.strip("{}").split(",")]


# ---- control -------------------------------------------------------------------------------------


@opcode("bra")
def _branch(i: Instruction) -> str:
    return f"goto {i.scope.label(i.operands[0])};"


@opcode("brx")
def _jump_table(i: Instruction) -> str:
    labels = [i.scope.label(name) for name in i.scope.targets(i.operands[1])]
    cases = " ".join(f"case {k}: goto {label};" for k, label in enumerate(labels))
    return f"switch ({i.read(0, 'u32')}) {{ {cases} }}"


@opcode("ret", "exit")
def _return(_: Instruction) -> str:
    return "return;"


@opcode("trap")
def _trap(_: Instruction) -> str:
    return 'emu_fail("trap");'


@opcode("call")
def _call(i: Instruction) -> str:
    """Pass the addresses of results and parameters, as PTX does through its parameter space."""
    name = next(operand for operand in i.operands if not operand.startswith("("))
    if name == "__assertfail":
        return 'emu_fail("assertion failed");'
    function = i.scope.function(name)
    if function is None:
        raise UnsupportedError(f"a call of {name}, which this PTX does not define")
    variables = [
        i.scope.address(f"[{variable.strip()}]", "param")
        for operand in i.operands
        if operand.startswith("(")
        for variable in operand.strip("()").split(",")
        if variable.strip()
    ]
    return f"{function}({', '.join(variables)});"


@opcode("membar", "fence", "prefetch", "prefetchu", "discard", "griddepcontrol")
def _nothing(_: Instruction) -> str:
    """One thread runs at a time and sees memory as it is: fences and hints do nothing."""
    return ";"


@opcode("nanosleep")
def _sleep(_: Instruction) -> str:
    return "let_others_run();"


# ---- moving data ---------------------------------------------------------------------------------


@opcode("mov")
def _move(i: Instruction) -> str:
    source, target = _parts(i.operands[1]), _parts(i.operands[0])
    if len(source) == len(target) == 1:
        return i.write(i.read(1, _raw(i.type)), _raw(i.type))
    if len(source) == 1:
        each = f"u{bits_of(i.type) // len(target)}"
        whole = i.read(1, _raw(i.type))
        moves = [
            i.write(f"whole >> {k * bits_of(each)}", each, part) for k, part in enumerate(target)
        ]
        return f"{{ const u64 whole = {whole}; {' '.join(moves)} }}"
    each = f"u{bits_of(i.type) // len(source)}"
    parts = [
        f"(u64){i.scope.value(part, each)} << {k * bits_of(each)}" for k, part in enumerate(source)
    ]
    return i.write(" | ".join(parts), f"u{bits_of(i.type)}")


@opcode("selp")
def _select(i: Instruction) -> str:
    raw = _raw(i.type)
    return i.write(f"{i.read(3, 'pred')} ? {i.read(1, raw)} : {i.read(2, raw)}", raw)


@opcode("cvta")
def _convert_address(i: Instruction) -> str:
    """Generic addresses are addresses of the host; those of shared memory count from its start."""
    address = i.read(1, "u64")
    if i.has("shared"):
        sign = "-" if i.has("to") else "+"
        address = f"{address} {sign} (u64)shared"
    return i.write(address)


@opcode("isspacep")
def _is_in_space(i: Instruction) -> str:
    if not i.has("shared", "global"):
        raise UnsupportedError("isspacep of a space other than shared and global")
    test = f"{i.read(1, 'u64')} - (u64)shared < sizeof emu_shared"
    return i.write(f"!({test})" if i.has("global") else test, "pred")


@opcode("ld", "ldu")
def _load(i: Instruction) -> str:
    size, targets = bits_of(i.type) // 8, _parts(i.operands[0])
    loads = [
        i.write(f"load<{i.type}>(address + {k * size})", operand=target)
        for k, target in enumerate(targets)
    ]
    return _access(i, i.operands[1], size * len(targets), loads)


@opcode("st")
def _store(i: Instruction) -> str:
    size, sources = bits_of(i.type) // 8, _parts(i.operands[1])
    stores = [
        f"store<{i.type}>(address + {k * size}, {i.scope.value(source, i.type)});"
        for k, source in enumerate(sources)
    ]
    return _access(i, i.operands[0], size * len(sources), stores)


def _access(i: Instruction, operand: str, n_bytes: int, moves: list[str]) -> str:
    """Return loads or stores; the runtime hears of those that other threads may see."""
    space = _space(i, operand)
    lines = [f"const u64 address = {i.scope.address(operand, space)};"]
    if space not in ("local", "param"):
        is_write = "true" if i.word == "st" else "false"
        kind = "EMU_RELAXED" if i.has(*COHERENT) else "EMU_PLAIN"
        lines.append(f"announce(address, {n_bytes}, {is_write}, {kind}, {i.line});")
    return f"{{ {' '.join(lines + moves)} }}"


@opcode("atom", "red")
def _atomic(i: Instruction) -> str:
    position = 1 if i.word == "atom" else 0
    values = [i.read(k) for k in range(position + 1, len(i.operands))]
    new = next(ATOMICS[word] for word in i.modifiers if word in ATOMICS).format(*values, t=i.type)
    address = i.scope.address(i.operands[position], _space(i, i.operands[position]))
    change = f"[&]({i.type} old) {{ return {new}; }}"
    operation = f"atomic<{i.type}>({address}, {i.line}, {change})"
    return i.write(operation) if i.word == "atom" else f"{operation};"


def _space(i: Instruction, operand: str) -> str:
    """Return the state space that an instruction addresses."""
    named = next((word for word in i.modifiers if word.split("::")[0] in SPACES), "generic")
    return i.scope.space_of(operand, named.split("::")[0])


def _raw(type_name: str) -> str:
    """Return the type that holds the bits of a type."""
    return "pred" if type_name == "pred" else f"b{bits_of(type_name)}"


# ---- arithmetic ----------------------------------------------------------------------------------


@opcode("mul", "mad")
def _product(i: Instruction) -> str:
    """Integers: the lower or upper half of a product, or all of it, and a sum with a third."""
    if i.is_float():
        return i.write_float(FLOATS[i.word], i.reads())
    result, factors = i.type, (i.read(1), i.read(2))
    if i.has("wide"):
        result = f"{i.type[0]}{2 * bits_of(i.type)}"
        product = f"({result}){factors[0]} * ({result}){factors[1]}"
    elif i.has("hi"):
        product = f"high_half<{i.type}>({factors[0]}, {factors[1]})"
    else:
        product = f"{factors[0]} * {factors[1]}"
    return i.write(f"{product} + {i.read(3, result)}" if i.word == "mad" else product, result)


@opcode("min", "max")
def _extreme(i: Instruction) -> str:
    if i.has("xorsign"):
        raise UnsupportedError("xorsign")
    if not i.is_float():
        return i.write(INTEGERS[i.word].format(*i.reads(), t=i.type))
    chosen = FLOATS[i.word]
    return i.write_float(f"with_nan({{0}}, {{1}}, {chosen})" if i.has("NaN") else chosen, i.reads())


@opcode("rcp", "rsqrt")
def _reciprocal(i: Instruction) -> str:
    """Approximations in float64 see and give the upper half of a number."""
    template = FLOATS[i.word]
    if i.type == "f64" and i.has("approx"):
        template = f"upper_half(flushed({template.format('upper_half(flushed({0}))', t='f64')}))"
    return i.write_float(template, i.reads())


@opcode("not")
def _complement(i: Instruction) -> str:
    return i.write(f"{'!' if i.type == 'pred' else '~'}{i.read(1)}")


@opcode("shf")
def _funnel_shift(i: Instruction) -> str:
    is_left, wraps = (str(i.has(word)).lower() for word in ("l", "wrap"))
    return i.write(f"shf<{is_left}, {wraps}>({', '.join(i.reads('u32'))})")


@opcode("bfind")
def _find_bit(i: Instruction) -> str:
    return i.write(f"bfind<{i.type}, {str(i.has('shiftamt')).lower()}>({i.read(1)})", "u32")


def _with_carry(i: Instruction) -> str:
    """Sums and products of numbers of several words: the carry goes through a variable."""
    width, base = bits_of(i.type), i.word[:3]
    a, b = (f"(u128){i.read(k, f'u{width}')}" for k in (1, 2))
    if base == "mad":
        half = f"(u{width})({a} * {b} >> {width if i.has('hi') else 0})"
        a, b = f"(u128){half}", f"(u128){i.read(3, f'u{width}')}"
    sign = "-" if base == "sub" else "+"
    carry = f" {sign} carry" if i.word.endswith("c") else ""
    keep = f"carry = (u32)(wide >> {width}) & 1;" if i.has("cc") else ""
    return f"{{ const u128 wide = {a} {sign} {b}{carry}; {keep} {i.write('wide')} }}"


@opcode("setp", "set")
def _compare(i: Instruction) -> str:
    name = i.modifiers[0]
    is_plain = name == "ne" and not i.is_float()
    holds = COMPARISONS["neu" if is_plain else name].format(i.read(1), i.read(2))
    combined = i.first_of({"and": "&&", "or": "||", "xor": "!="})
    other = f" {combined} {i.read(3, 'pred')}" if combined else ""
    if i.word == "set":
        result = i.modifiers[-2]
        true = "1.0f" if result == "f32" else "-1"
        return i.write(f"({holds}){other} ? {true} : 0", result)
    first, _, second = i.operands[0].partition("|")
    writes = [i.write(f"(holds){other}", "pred", first)]
    if second:
        writes.append(i.write(f"(!holds){other}", "pred", second))
    return f"{{ const bool holds = {holds}; {' '.join(writes)} }}"


@opcode("testp")
def _classify(i: Instruction) -> str:
    return i.write(CLASSES[i.modifiers[0]].format(i.read(1)), "pred")


@opcode("cvt")
def _convert(i: Instruction) -> str:
    to, source = i.modifiers[-2:]
    if "f16" in to or "f16" in source:
        raise UnsupportedError("half precision")
    value, integral = i.read(1), i.first_of(TO_INTEGRAL)
    if to[0] == "f":
        template = f"{integral}({{0}})" if integral else "({t}){0}"
        return i.write_float(template, [value], to)
    if source[0] == "f":
        return i.write(f"to_integer<{to}>({integral or 'std::trunc'}({value}))", to)
    return i.write(f"clamped<{to}>({value})" if i.has("sat") else value, to)


# ---- warps and blocks ----------------------------------------------------------------------------


@opcode("bar", "barrier")
def _barrier(i: Instruction) -> str:
    if i.has("warp"):
        return f"collective(CW_SYNC, {i.read(0, 'u32')}, 0);"
    number = i.operands[1 if i.has("red") else 0]
    if number != "0" or len(i.operands) != (3 if i.has("red") else 1) or i.has("arrive"):
        raise UnsupportedError("a barrier of a part of the block")
    if not i.has("red"):
        return "emu_block_sync(EMU_BARRIER, 0, nullptr);"
    operation = next(REDUCTIONS[word] for word in i.modifiers if word in REDUCTIONS)
    barrier = f"emu_block_sync({operation}, {i.read(2, 'pred')}, &result);"
    return f"{{ int result; {barrier} {i.write('result')} }}"


@opcode("shfl")
def _shuffle(i: Instruction) -> str:
    target, _, inside = i.operands[0].partition("|")
    values = ", ".join(i.reads("u32"))
    moved = i.write(f"shfl<{i.modifiers[1].upper()}>({values}, is_inside)", "u32", target)
    told = i.write("is_inside", "pred", inside) if inside else ""
    return f"{{ bool is_inside; {moved} {told} }}"


@opcode("vote")
def _vote(i: Instruction) -> str:
    result = i.first_of(VOTES)
    write = i.write(result, "pred") if result else i.write("votes", "u32")
    votes = f"ballot(mask, {i.read(1, 'pred')})"
    return f"{{ const u32 mask = {i.read(2, 'u32')}, votes = {votes}; {write} }}"


@opcode("match")
def _match(i: Instruction) -> str:
    mask, same = i.read(2, "u32"), f"(u32)collective(CW_MATCH, mask, {i.read(1)})"
    if i.has("any"):
        return f"{{ const u32 mask = {mask}; {i.write(same, 'u32')} }}"
    target, _, equal = i.operands[0].partition("|")
    writes = [i.write("same == mask ? mask : 0", "u32", target)]
    if equal:
        writes.append(i.write("same == mask", "pred", equal))
    return f"{{ const u32 mask = {mask}, same = {same}; {' '.join(writes)} }}"


@opcode("redux")
def _reduce(i: Instruction) -> str:
    operation, is_signed = f"CW_R{i.modifiers[1].upper()}", int(i.type[0] == "s")
    return i.write(
        f"collective({operation}, {i.read(2, 'u32')}, {i.read(1, 'u32')}, {is_signed})", "u32"
    )


@opcode("activemask")
def _active(i: Instruction) -> str:
    """Threads run one at a time: each finds itself alone."""
    return i.write("1u << lane()", "u32")
