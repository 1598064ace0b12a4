"""Random calls, compared in everything that can be seen with the plain expressions.

``pytest tests/test_differential.py --hypothesis-profile=fuzz`` goes 20,000 examples deep. What a
failure prints as ``call=`` can be pasted into an ``@example(call=...)`` above the test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import plain
from hypothesis import given
from hypothesis import strategies as st
from operands import LAYOUTS, VALUES, Literal, Operand
from outcome import arrays_in, described, everything, sharing


@dataclass(frozen=True)
class Call:
    """What every function and layer is called with; equal operands are one object."""

    x: Operand | Literal
    y: Operand | Literal
    dout: Operand | Literal
    errstate: dict[str, str] = field(default_factory=dict)

    def build(self) -> list[Any]:
        built = {}
        return [built.setdefault(one, one.build()) for one in (self.x, self.y, self.dout)]


# ------------------------------------------------------------------------------------ strategies
# Few draws from precomputed lists: an example costs more to draw than to compute.

KERNEL_DTYPES = ["f4", "f8", "i4", "i8"]
DTYPES = [
    *("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "q", "Q", "f2", "f4", "f8", "g"),
    *("F", "D", "G", ">f4", ">f8", ">i4", ">i8", ">c16", "O", "m8[s]", "M8[D]", "U2", "S2"),
]
LITERALS = [
    *("True", "0", "1", "-1", "2", "3", "255", "2**31 - 1", "2**31", "-2**63", "2**64", "10**400"),
    *("0.0", "-0.0", "1.0", "0.5", "1.1", "1e-45", "5e-324", "1e-310", "1e39", "1e308", "-1e308"),
    *("nan", "inf", "-inf", "1j", "complex(inf, nan)", "None"),
    *("np.float32(1.1)", "np.float64(1.1)", "np.float64(-0.0)", "np.int32(2**31 - 1)"),
    *("np.int64(-2**63)", "np.float32(3e38)", "np.float64(1e308)", "np.float16(2)"),
    *("np.longdouble(3) / 7", "np.complex64(1 + 2j)", "np.uint8(255)", "np.True_"),
    *("np.timedelta64(3, 's')", "np.float64(nan)", "np.array(2.5)", "np.array(3, 'i4')"),
]
MODES = ["ignore", "warn", "raise", "call", "log"]
ERRSTATES = [
    *[{}] * 5,
    *[{"all": mode} for mode in MODES] * 2,
    *[{category: mode} for category in ("over", "under", "invalid") for mode in MODES],
    {"over": "raise", "under": "call", "invalid": "log"},
    {"over": "log", "under": "raise", "invalid": "warn"},
]

# Around the powers of two: vector widths, tiles, thresholds.
_around = [2**k + d for k in (8, 9, 10, 11, 12, 13, 14) for d in (-1, 0, 1)]
_large = [(32_769,), (65_537,), (100_003,), (257, 255), (33, 1_001), (3, 11, 1_009), (2, 3, 97, 89)]


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
    st.just(()),
    st.sampled_from([*_large, *[(17,)] * 10]),
)
SEEDS = st.integers(0, 2**16)
STYLES = st.sampled_from([*VALUES, "bits"])
ORDERS = st.sampled_from([*["C", "C", "F"] * 6, *LAYOUTS])
ANY_LAYOUT = st.sampled_from(["C", "C", "F", *LAYOUTS])
ANY_LITERAL = st.sampled_from([*["2", "-1", "1.1", "0.5"] * 6, *LITERALS]).map(Literal)
ANY_DTYPE = st.sampled_from(DTYPES)
KERNEL_DTYPE = st.sampled_from(KERNEL_DTYPES)


@st.composite
def alike(draw):
    """Three arrays of one shape and dtype, for the most part in one memory order."""
    dtype, shape, layout, style = draw(KERNEL_DTYPE), draw(SHAPES), draw(ORDERS), draw(STYLES)
    layouts = [layout] * 3 if draw(st.booleans()) else [draw(ANY_LAYOUT) for _ in range(3)]
    return [Operand(dtype, shape, layouts[i], style, draw(SEEDS)) for i in range(3)]


@st.composite
def with_numbers(draw):
    """Arrays and numbers: one of each at least."""
    dtype = draw(st.one_of(KERNEL_DTYPE, KERNEL_DTYPE, ANY_DTYPE))
    shape, style = draw(SHAPES), draw(STYLES)
    kinds = draw(st.sampled_from(["ana", "ann", "naa", "nan", "aan", "nna", "a0n", "0aa", "0n0"]))
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
        Operand(dtype, draw(_narrowed(shape)), draw(ANY_LAYOUT), style, draw(SEEDS))
        for _ in range(3)
    ]


@st.composite
def anything(draw):
    """Arrays of any dtypes and layouts, of shapes that may not fit, and numbers."""
    shape = draw(SHAPES)
    shapes = [st.just(shape), st.just(shape), _narrowed(shape)]
    if math.prod(shape) < 5_000:
        # Two shapes that do not fit may still broadcast, to their product.
        shapes.append(SHAPES.filter(_is_small))
    operand = st.builds(Operand, ANY_DTYPE, st.one_of(shapes), ANY_LAYOUT, STYLES, SEEDS)
    return [draw(st.one_of(operand, operand, operand, ANY_LITERAL)) for _ in range(3)]


def _narrowed(shape):
    """Shapes that broadcast to ``shape``."""
    dropped = st.integers(0, len(shape)).map(lambda n: n // 2)
    kept = st.integers(0, 2 ** len(shape) - 1)
    return st.builds(
        lambda first, bits: tuple(
            1 if bits >> axis & 1 else size for axis, size in enumerate(shape) if axis >= first
        ),
        dropped,
        kept,
    )


def _is_small(shape):
    return math.prod(shape) <= 200


@st.composite
def calls(draw):
    operands = draw(st.one_of(alike(), alike(), with_numbers(), broadcast(), anything()))
    if draw(st.integers(0, 9)) == 9:
        operands[draw(st.integers(0, 2))] = operands[draw(st.integers(0, 2))]
    return Call(*operands, draw(st.sampled_from(ERRSTATES)))


# ------------------------------------------------------------------------------------------ test


@given(call=calls())
def test_call_does_what_the_plain_expressions_do(implementation, call):
    operands = call.build()
    before = described(operands)
    expected = everything(plain, *operands, call.errstate)
    actual = everything(implementation, *operands, call.errstate)
    assert actual == expected
    assert described(operands) == before
    results = [array for one in actual.values() for array in arrays_in(one.value)]
    earlier = [array for one in expected.values() for array in arrays_in(one.value)]
    assert sharing(results, [*arrays_in(tuple(operands)), *earlier]) == []
