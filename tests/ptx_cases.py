"""PTX instructions with their definition in plain Python, for the tests of the emulator."""

import math
import re
from fractions import Fraction
from typing import NamedTuple

import numpy as np

DTYPES = {
    f"{kind}{width}": np.dtype(f"{'u' if kind in 'ub' else ''}int{width}")
    for kind in "bsu"
    for width in (8, 16, 32, 64)
} | {"f32": np.dtype(np.float32), "f64": np.dtype(np.float64), "pred": np.dtype(np.uint32)}


class Case(NamedTuple):
    """An instruction: types of operands and result, and what it gives for Python numbers."""

    text: str
    operands: tuple[str, ...]
    result: str
    expected: object

    @property
    def name(self):
        return re.sub(r"\W+", "_", self.text.split(" {d}")[0])


def signed(value, width):
    value %= 2**width
    return value - 2**width if value >> (width - 1) else value


def bits(value, width=32):
    """Bits of a non-negative number, the lowest first."""
    return [value >> k & 1 for k in range(width)]


def number(digits):
    return sum(digit << k for k, digit in enumerate(digits))


def bit_field_extract(width, is_signed):
    def extract(a, position, length):
        digits, position, length = bits(a % 2**width, width), position % 256, length % 256
        fill = digits[min(position + length - 1, width - 1)] if is_signed and length else 0
        return number(
            digits[position + k] if k < length and position + k < width else fill
            for k in range(width)
        )

    return extract


def bit_field_insert(a, b, position, length):
    digits, position, length = bits(b), position % 256, length % 256
    for k in range(min(length, max(32 - position, 0))):
        digits[position + k] = bits(a)[k]
    return number(digits)


def highest_bit(width, is_signed, as_shift):
    def find(a):
        digits = bits((~a if is_signed and a < 0 else a) % 2**width, width)
        if 1 not in digits:
            return 2**32 - 1
        place = max(k for k, digit in enumerate(digits) if digit)
        return width - 1 - place if as_shift else place

    return find


def permute_bytes(a, b, selector):
    octets = (a | b << 32).to_bytes(8, "little")
    chosen = [selector >> 4 * k & 15 for k in range(4)]
    filled = [255 * (octets[s & 7] >> 7) if s & 8 else octets[s & 7] for s in chosen]
    return int.from_bytes(bytes(filled), "little")


def look_up(table):
    def combine(a, b, c):
        rows = zip(bits(a), bits(b), bits(c), strict=True)
        return number(table >> (4 * x + 2 * y + z) & 1 for x, y, z in rows)

    return combine


def truncated_quotient(a, b):
    return int(Fraction(a, b)) if b else -1


def shift_right(a, n):
    return a >> min(n, 64)


INTEGERS = [
    Case("add.s32 {d}, {0}, {1};", ("s32", "s32"), "s32", lambda a, b: a + b),
    Case("sub.u64 {d}, {0}, {1};", ("u64", "u64"), "u64", lambda a, b: a - b),
    Case("add.s16 {d}, {0}, {1};", ("s16", "s16"), "s16", lambda a, b: a + b),
    Case("mul.lo.s32 {d}, {0}, {1};", ("s32", "s32"), "s32", lambda a, b: a * b),
    Case("mul.lo.s64 {d}, {0}, {1};", ("s64", "s64"), "s64", lambda a, b: a * b),
    Case("mul.hi.s32 {d}, {0}, {1};", ("s32", "s32"), "s32", lambda a, b: a * b >> 32),
    Case("mul.hi.u64 {d}, {0}, {1};", ("u64", "u64"), "u64", lambda a, b: a * b >> 64),
    Case("mul.wide.s32 {d}, {0}, {1};", ("s32", "s32"), "s64", lambda a, b: a * b),
    Case("mul.wide.u16 {d}, {0}, {1};", ("u16", "u16"), "u32", lambda a, b: a * b),
    Case("mad.lo.s32 {d}, {0}, {1}, {2};", ("s32",) * 3, "s32", lambda a, b, c: a * b + c),
    Case("mad.hi.u32 {d}, {0}, {1}, {2};", ("u32",) * 3, "u32", lambda a, b, c: (a * b >> 32) + c),
    Case("mad.wide.s32 {d}, {0}, {1}, {2};", ("s32", "s32", "s64"), "s64",
         lambda a, b, c: a * b + c),
    Case("div.s32 {d}, {0}, {1};", ("s32", "s32"), "s32", truncated_quotient),
    Case("rem.s32 {d}, {0}, {1};", ("s32", "s32"), "s32",
         lambda a, b: a - b * truncated_quotient(a, b)),
    Case("div.u64 {d}, {0}, {1};", ("u64", "u64"), "u64", truncated_quotient),
    Case("neg.s64 {d}, {0};", ("s64",), "s64", lambda a: -a),
    Case("abs.s32 {d}, {0};", ("s32",), "s32", abs),
    Case("min.s32 {d}, {0}, {1};", ("s32", "s32"), "s32", min),
    Case("max.u32 {d}, {0}, {1};", ("u32", "u32"), "u32", max),
    Case("and.b32 {d}, {0}, {1};", ("b32", "b32"), "b32", lambda a, b: a & b),
    Case("or.b64 {d}, {0}, {1};", ("b64", "b64"), "b64", lambda a, b: a | b),
    Case("xor.b16 {d}, {0}, {1};", ("b16", "b16"), "b16", lambda a, b: a ^ b),
    Case("not.b32 {d}, {0};", ("b32",), "b32", lambda a: ~a),
    Case("shl.b32 {d}, {0}, {1};", ("b32", "u32"), "b32", lambda a, n: a << min(n, 64)),
    Case("shr.u32 {d}, {0}, {1};", ("u32", "u32"), "u32", shift_right),
    Case("shr.s32 {d}, {0}, {1};", ("s32", "u32"), "s32", shift_right),
    Case("shr.s64 {d}, {0}, {1};", ("s64", "u32"), "s64", shift_right),
    Case("popc.b64 {d}, {0};", ("b64",), "u32", int.bit_count),
    Case("clz.b32 {d}, {0};", ("b32",), "u32", lambda a: 32 - a.bit_length()),
    Case("clz.b64 {d}, {0};", ("b64",), "u32", lambda a: 64 - a.bit_length()),
    Case("brev.b32 {d}, {0};", ("b32",), "b32", lambda a: number(bits(a)[::-1])),
    Case("brev.b64 {d}, {0};", ("b64",), "b64", lambda a: number(bits(a, 64)[::-1])),
    Case("bfind.s32 {d}, {0};", ("s32",), "u32", highest_bit(32, True, False)),
    Case("bfind.shiftamt.u32 {d}, {0};", ("u32",), "u32", highest_bit(32, False, True)),
    Case("bfind.u64 {d}, {0};", ("u64",), "u32", highest_bit(64, False, False)),
    Case("bfe.u32 {d}, {0}, {1}, {2};", ("u32",) * 3, "u32", bit_field_extract(32, False)),
    Case("bfe.s32 {d}, {0}, {1}, {2};", ("s32", "u32", "u32"), "s32", bit_field_extract(32, True)),
    Case("bfe.s64 {d}, {0}, {1}, {2};", ("s64", "u32", "u32"), "s64", bit_field_extract(64, True)),
    Case("bfi.b32 {d}, {0}, {1}, {2}, {3};", ("b32", "b32", "u32", "u32"), "b32", bit_field_insert),
    Case("prmt.b32 {d}, {0}, {1}, {2};", ("b32",) * 3, "b32", permute_bytes),
    Case("lop3.b32 {d}, {0}, {1}, {2}, 0x1E;", ("b32",) * 3, "b32", look_up(0x1E)),
    Case("shf.l.wrap.b32 {d}, {0}, {1}, {2};", ("b32", "b32", "u32"), "b32",
         lambda low, high, n: (high << 32 | low) << n % 32 >> 32),
    Case("shf.r.clamp.b32 {d}, {0}, {1}, {2};", ("b32", "b32", "u32"), "b32",
         lambda low, high, n: (high << 32 | low) >> min(n, 32)),
    Case("cvt.s64.s32 {d}, {0};", ("s32",), "s64", int),
    Case("cvt.u64.u32 {d}, {0};", ("u32",), "u64", int),
    Case("cvt.u16.u32 {d}, {0};", ("u32",), "u16", int),
    Case("cvt.s32.s8 {d}, {0};", ("s16",), "s32", lambda a: signed(a, 8)),
    Case("cvt.sat.u8.s32 {d}, {0};", ("s32",), "u16", lambda a: min(max(a, 0), 255)),
    Case("cvt.sat.s16.s32 {d}, {0};", ("s32",), "s16", lambda a: min(max(a, -(2**15)), 2**15 - 1)),
    Case("setp.lt.s32 {d}, {0}, {1};", ("s32", "s32"), "pred", lambda a, b: a < b),
    Case("setp.hi.u32 {d}, {0}, {1};", ("u32", "u32"), "pred", lambda a, b: a > b),
    Case("setp.ne.b64 {d}, {0}, {1};", ("b64", "b64"), "pred", lambda a, b: a != b),
    Case("set.ge.u32.s32 {d}, {0}, {1};", ("s32", "s32"), "u32", lambda a, b: -(a >= b)),
]  # fmt: skip


FORMATS = {"f32": (24, -149, 127), "f64": (53, -1074, 1023)}
"""Digits, exponent of the last digit of the smallest number, exponent of the largest."""
WHOLE = {"rn": round, "rz": math.trunc, "rm": math.floor, "rp": math.ceil}
"""From an exact number to an integer, by rounding mode."""


def rounded(exact, mode, type_name):
    """Round a fraction to a floating point format; None if it overflows."""
    digits, lowest, highest = FORMATS[type_name]
    exponent = 0
    magnitude = abs(exact)
    if magnitude:
        exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
        exponent -= magnitude < Fraction(2) ** exponent
    unit = Fraction(2) ** max(exponent - digits + 1, lowest)
    result = WHOLE[mode](exact / unit) * unit
    return None if abs(result) >= Fraction(2) ** (highest + 1) else result


def flushed(x):
    return math.copysign(0.0, x) if abs(x) < 2.0**-126 else x


def arithmetic(operation, type_name, mode="rn", ftz=False):
    """An operation on finite numbers that is exact but for its last rounding; None to skip."""

    def compute(*operands):
        operands = [flushed(x) for x in operands] if ftz else operands
        if not all(map(math.isfinite, operands)):
            return None
        exact = operation(*map(Fraction, operands))
        result = None if exact is None else rounded(exact, mode, type_name)
        if not result:  # the signs of zeros have a test of their own
            return None
        return flushed(float(result)) if ftz else float(result)

    return compute


def quotient(a, b):
    return a / b if b else None


OPERATIONS = {
    "add": (2, lambda a, b: a + b),
    "sub": (2, lambda a, b: a - b),
    "mul": (2, lambda a, b: a * b),
    "fma": (3, lambda a, b, c: a * b + c),
    "div": (2, quotient),
}
PLACES = ["{0}, {1}", "{0}, {1}, {2}"]
ARITHMETIC = [
    Case(f"{name}.{mode}.{kind} {{d}}, {PLACES[n - 2]};", (t,) * n, t,
         arithmetic(operation, t, mode, "ftz" in kind))
    for name, (n, operation) in OPERATIONS.items()
    for mode in WHOLE
    for kind, t in (("f32", "f32"), ("ftz.f32", "f32"), ("f64", "f64"))
]  # fmt: skip


def to_integer(mode, type_name, source):
    """A conversion to an integer saturates; NaN becomes 0, or the top bit if 64 bits take part."""
    width = int(type_name[1:])
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1)
    low, high = (low, high) if type_name[0] == "s" else (0, 2**width - 1)

    def convert(x):
        if math.isnan(x):
            return 2 ** (width - 1) if "64" in type_name + source else 0
        if math.isinf(x):
            return high if x > 0 else low
        return min(max(WHOLE[mode](Fraction(x)), low), high)

    return convert


def to_float(mode, type_name):
    def convert(x):
        if not math.isfinite(x):
            return None
        result = rounded(Fraction(x), mode, type_name)
        return None if not result else float(result)

    return convert


CONVERSIONS = [
    Case(f"cvt.{mode}i.{to}.{t} {{d}}, {{0}};", (t,), to, to_integer(mode, to, t))
    for mode in WHOLE
    for to in ("s32", "u32", "s64", "u64", "s16")
    for t in ("f32", "f64")
] + [
    Case(f"cvt.{mode}.{to}.{t} {{d}}, {{0}};", (t,), to, to_float(mode, to))
    for mode in WHOLE
    for to, t in (("f32", "s32"), ("f32", "u64"), ("f64", "s64"), ("f32", "f64"))
]


def comparison(name):
    plain = {"eq": "__eq__", "ne": "__ne__", "lt": "__lt__", "le": "__le__", "gt": "__gt__",
             "ge": "__ge__"}  # fmt: skip

    def holds(a, b):
        unordered = math.isnan(a) or math.isnan(b)
        if name in ("num", "nan"):
            return unordered == (name == "nan")
        if unordered:
            return name.endswith("u")
        return getattr(float(a), plain[name[:2]])(float(b))

    return holds


def extreme(choose):
    """The number that is not NaN, if there is one; -0 is below 0."""

    def pick(a, b):
        if math.isnan(a) or math.isnan(b):
            return b if math.isnan(a) else a
        return choose(a, b, key=lambda x: (x, math.copysign(1, x)))

    return pick


def saturated(a, b):
    total = np.float32(a) + np.float32(b)
    return float(min(max(total, 0), 1)) if total == total else 0.0


FLOATS = [
    Case(f"setp.{name}.{t} {{d}}, {{0}}, {{1}};", (t, t), "pred", comparison(name))
    for name in ("eq", "ne", "lt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")
    for t in ("f32", "f64")
] + [
    Case("min.f32 {d}, {0}, {1};", ("f32", "f32"), "f32", extreme(min)),
    Case("max.f64 {d}, {0}, {1};", ("f64", "f64"), "f64", extreme(max)),
    Case("abs.ftz.f32 {d}, {0};", ("f32",), "f32", lambda a: abs(flushed(a))),
    Case("neg.f64 {d}, {0};", ("f64",), "f64", lambda a: -a),
    Case("add.sat.f32 {d}, {0}, {1};", ("f32", "f32"), "f32", saturated),
    Case("copysign.f32 {d}, {0}, {1};", ("f32", "f32"), "f32", lambda a, b: math.copysign(b, a)),
    Case("testp.finite.f64 {d}, {0};", ("f64",), "pred", math.isfinite),
]  # fmt: skip


def text_of(case):
    """Return a kernel that applies an instruction to every element of its arrays."""
    types = [*case.operands, case.result]
    lines = [".reg .b64 %a<9>; .reg .b32 %i<4>; .reg .pred %q; .reg .b32 %w;"]
    lines += ["mov.u32 %i0, %ctaid.x; mov.u32 %i1, %ntid.x; mov.u32 %i2, %tid.x;"]
    lines += ["mad.lo.s32 %i3, %i0, %i1, %i2;"]
    for k, t in enumerate(types):
        register = "q" if t == "pred" else f"x{k}"
        if t != "pred":
            lines.append(f".reg .{t} %{register};")
        lines.append(f"ld.param.u64 %a{k}, [{case.name}_{k}];")
        lines.append(f"mad.wide.u32 %a{k}, %i3, {DTYPES[t].itemsize}, %a{k};")
        if k < len(case.operands):
            lines.append(f"ld.global.{t} %{register}, [%a{k}];")
    last = len(case.operands)
    target = "%q" if case.result == "pred" else f"%x{last}"
    lines.append(case.text.format(*(f"%x{k}" for k in range(last)), d=target))
    if case.result == "pred":
        lines += ["selp.u32 %w, 1, 0, %q;", f"st.global.u32 [%a{last}], %w;"]
    else:
        lines.append(f"st.global.{case.result} [%a{last}], {target};")
    parameters = ", ".join(f".param .u64 {case.name}_{k}" for k in range(len(types)))
    return f".visible .entry {case.name}({parameters})\n{{\n" + "\n".join(lines) + "\nret;\n}\n"


def edge_values(type_name, rng):
    """Values of a type at which instructions change their mind, and some between."""
    dtype = DTYPES[type_name]
    if dtype.kind == "f":
        info, top = np.finfo(dtype), 2.0**31
        some = [0, 1, 1.5, 2.5, 0.1, 3, top, 2 * top, 2.0**63, 2.0**64, info.tiny, info.max]
        some += [info.smallest_subnormal, info.tiny * 0.75, info.eps, 1 + info.eps, np.inf, 0.5]
        values = np.array([*some, np.nan], dtype)
        scattered = rng.standard_normal(12) * 2.0 ** rng.integers(-40, 40, 12)
        return np.concatenate([values, -values, scattered.astype(dtype)])
    info = np.iinfo(dtype)
    some = {
        0,
        1,
        2,
        3,
        7,
        31,
        32,
        33,
        64,
        100,
        200,
        info.min,
        info.max,
        info.max // 2,
        info.max // 3,
    }
    some |= {-1, -2, -7, -33, -100} if info.min else {info.max - 1}
    kept = [value for value in sorted(some) if info.min <= value <= info.max]
    return np.concatenate([np.array(kept, dtype), rng.integers(info.min, info.max, 12, dtype)])


def operands_for(case, n, rng):
    """Return arrays of operands: random combinations of edge values."""
    return [rng.choice(edge_values(t, rng), n) for t in case.operands]
