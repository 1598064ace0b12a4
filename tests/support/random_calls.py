"""Random calls of every function and layer, and the strategies that they are drawn by."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from operands import KERNEL_DTYPES, LAYOUTS, VALUES, Literal, Operand


@dataclass(frozen=True)
class Call:
    """What every function and layer is called with; equal operands are one object.

    ``change`` is executed between a layer's forward and backward.
    """

    x: Operand | Literal
    y: Operand | Literal
    dout: Operand | Literal
    errstate: dict[str, str] = field(default_factory=dict)
    change: str = ""

    def build(self) -> list[Any]:
        built = {}
        return [built.setdefault(one, one.build()) for one in (self.x, self.y, self.dout)]


# ------------------------------------------------------------------------------------ strategies
# Few draws from precomputed lists: an example costs more to draw than to compute.

# Not StringDType: it is multiplied by repetition, which would fill the memory.
DTYPES = [
    *("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "q", "Q", "f2", "f4", "f8", "g"),
    *("F", "D", "G", ">f2", ">f4", ">f8", ">u2", ">i4", ">i8", ">c16", ">g", "O", "m8[s]"),
    *(">m8[ns]", "M8[D]", "M8[us]", "U2", "S2", "V4", "f4,i8"),
]
LITERALS = [
    *("True", "0", "1", "-1", "2", "3", "255", "2**31 - 1", "2**31", "-2**63", "2**64", "10**400"),
    *("0.0", "-0.0", "1.0", "0.5", "1.1", "1e-45", "5e-324", "1e-310", "1e39", "1e308", "-1e308"),
    *("nan", "inf", "-inf", "1j", "complex(inf, nan)", "None"),
    *("np.float32(1.1)", "np.float64(1.1)", "np.float64(-0.0)", "np.int32(2**31 - 1)"),
    *("np.int64(-2**63)", "np.float32(3e38)", "np.float64(1e308)", "np.float16(2)"),
    *("np.longdouble(3) / 7", "np.complex64(1 + 2j)", "np.uint8(255)", "np.True_"),
    *("np.timedelta64(3, 's')", "np.float64(nan)", "np.array(2.5)", "np.array(3, 'i4')"),
    *("np.ma.masked", "np.datetime64('NaT', 's')", "np.str_()", "np.void(b'ab')", "''", "b''"),
    *("[]", "()", "{}", "object", "Decimal('1.1')", "Fraction(1, 3)", "float('-nan')", "..."),
]
MODES = ["ignore", "warn", "raise", "call", "log"]
ERRSTATES = [
    *[{}] * 5,
    *[{"all": mode} for mode in MODES] * 2,
    *[{category: mode} for category in ("over", "under", "invalid") for mode in MODES],
    {"over": "raise", "under": "call", "invalid": "log"},
    {"over": "log", "under": "raise", "invalid": "warn"},
]

CHANGES = [
    *("x[...] = y", "y *= 2", "x += x", "dout[...] = x", "x.shape = -1", "y[..., :1] = 0"),
    *("layer.x = dout", "layer.y = 3", "layer.x, layer.y = y, x", "x.fill(0)", "x.strides = 0"),
]

# Around the powers of two: vector widths, tiles, blocks, thresholds; threads begin at 9 << 13 bytes
_around = [n + d for n in (*(2**k for k in range(8, 15)), 9 << 10, 9 << 11) for d in (-1, 0, 1)]
_large = [
    *[(32_769,), (65_537,), (100_003,), (131_071,), (131_073,), (262_145,)],
    *[(257, 255), (33, 1_001), (513, 70), (20_001, 3), (3, 11, 1_009), (2, 3, 97, 89)],
]


def _axes(*most):
    return st.tuples(*(st.integers(0, size) for size in most))


SHAPES = st.one_of(
    _axes(130),
    _axes(130),
    st.sampled_from([(n,) for n in _around]),
    _axes(9, 70),
    _axes(70, 5),
    _axes(5, 4, 20),
    _axes(3, 4, 5, 6),
    _axes(2, 3, 3, 3, 6),
    st.sampled_from([(), (1, 2, 1, 2, 3, 1, 2, 3), (1, 2, 1, 2, 3, 1, 2, 3, 2)]),
    st.sampled_from([*_large, *[(17,)] * 10]),
)
SMALL_SHAPES = st.sampled_from([(3,), (1,), (17,), (2, 3), (7, 1), (3, 17), (2, 1, 3), ()])
SEEDS = st.integers(0, 2**16)
BITS = st.integers(0, 2**19 - 1)
DIGITS = st.integers(0, 9)
POSITIONS = st.integers(0, 2)
ANY_CHANGE = st.sampled_from(CHANGES)
ANY_ERRSTATE = st.sampled_from(ERRSTATES)
NUMBERS_OR_ARRAYS = st.sampled_from(["ana", "ann", "naa", "nan", "aan", "nna", "a0n", "0aa", "0n0"])
STYLES = st.sampled_from([*VALUES, "bits"])
ORDERS = st.sampled_from([*["C", "C", "F"] * 6, *LAYOUTS])
ANY_LAYOUT = st.sampled_from(["C", "C", "F", *LAYOUTS])
ANY_LITERAL = st.sampled_from([*["2", "-1", "1.1", "0.5"] * 6, *LITERALS]).map(Literal)
ANY_DTYPE = st.sampled_from(DTYPES)
KERNEL_DTYPE = st.sampled_from(KERNEL_DTYPES)
MOSTLY_KERNEL_DTYPE = st.sampled_from([*KERNEL_DTYPES * 15, *DTYPES])
NUMERIC_DTYPE = st.sampled_from([*KERNEL_DTYPES * 2, "?", "i1", "u2", "f2", "q", ">f8", "F", "g"])


@st.composite
def alike(draw):
    """Three arrays of one shape and dtype, for the most part in one memory order."""
    dtype, shape, layout, style = draw(KERNEL_DTYPE), draw(SHAPES), draw(ORDERS), draw(STYLES)
    layouts = [layout] * 3 if draw(DIGITS) < 5 else [draw(ANY_LAYOUT) for _ in range(3)]
    return [Operand(dtype, shape, layouts[i], style, draw(SEEDS)) for i in range(3)]


@st.composite
def with_numbers(draw):
    """Arrays and numbers: one of each at least."""
    dtype = draw(MOSTLY_KERNEL_DTYPE)
    shape, style = draw(SHAPES), draw(STYLES)
    kinds = draw(NUMBERS_OR_ARRAYS)
    return [
        draw(ANY_LITERAL)
        if kind == "n"
        else Operand(dtype, () if kind == "0" else shape, draw(ORDERS), style, draw(SEEDS))
        for kind in kinds
    ]


@st.composite
def broadcast(draw):
    """Arrays of one dtype, axes of which are 1 or missing."""
    dtype, shape, style = draw(KERNEL_DTYPE), draw(SHAPES), draw(STYLES)
    return [
        Operand(dtype, narrowed(draw, shape), draw(ANY_LAYOUT), style, draw(SEEDS))
        for _ in range(3)
    ]


def narrowed(draw, shape):
    """A shape that broadcasts to ``shape``."""
    bits = draw(BITS)
    first = min(bits >> 16, len(shape)) // 2
    return tuple(1 if bits >> i & 1 else shape[i] for i in range(first, len(shape)))


@st.composite
def mixed(draw):
    """Arrays of one shape, the dtypes of which NumPy finds a common one for."""
    shape, style = draw(SHAPES), draw(STYLES)
    return [Operand(draw(NUMERIC_DTYPE), shape, draw(ORDERS), style, draw(SEEDS)) for _ in range(3)]


@st.composite
def anything(draw):
    """Arrays of any dtypes and layouts, of shapes that may not fit, and numbers."""
    shape = draw(SHAPES)
    # Two shapes that do not fit may still broadcast, to their product.
    others = draw(SMALL_SHAPES) if math.prod(shape) < 5_000 else shape
    operands = []
    for _ in range(3):
        kind = draw(DIGITS)
        if kind < 3:
            operands.append(draw(ANY_LITERAL))
            continue
        one = shape if kind < 7 else others if kind == 7 else narrowed(draw, shape)
        operands.append(Operand(draw(ANY_DTYPE), one, draw(ANY_LAYOUT), draw(STYLES), draw(SEEDS)))
    return operands


KINDS = st.one_of(alike(), alike(), with_numbers(), broadcast(), mixed(), anything())


@st.composite
def calls(draw):
    operands = draw(KINDS)
    kind = draw(DIGITS)
    if kind == 8:
        operands[draw(POSITIONS)] = operands[draw(POSITIONS)]
    change = draw(ANY_CHANGE) if kind == 9 else ""
    if any(getattr(one, "dtype", "") in ("U2", "S2") for one in operands):
        change = ""  # objects that become text, many times over, would fill the memory
    return Call(*operands, draw(ANY_ERRSTATE), change)


CALLS = calls()
