"""What "drop-in" promises, point by point: see the headings.

The plain layers of `plain` say what is right; test_differential.py looks in the corners.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import fractions
import gc
import math
import pickle
import sys
import warnings

import numpy as np
import plain
import pytest
from operands import KERNEL_DTYPES, LAYOUTS, Operand, Tagged, signalling_nan
from outcome import arrays_in, described, everything, outcome, sharing

from fastlayers import BaseLayer

LAYERS = ["MulLayer", "AddLayer"]


@pytest.fixture(params=LAYERS)
def layer_class(implementation, request):
    return getattr(implementation, request.param)


@pytest.fixture
def layer(layer_class):
    return layer_class()


def floats(shape, dtype="f8", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# ------------------------------------------------------------------------------- values and types


def test_apples_with_tax(implementation):
    # The numbers of the book, to the last bit, from plain Python numbers.
    apples, tax = implementation.MulLayer(), implementation.MulLayer()
    price = tax.forward(apples.forward(100, 2), 1.1)
    assert described(price) == described(220.00000000000003)
    dapples, dtax = tax.backward(1)
    assert described((dapples, dtax)) == described((1.1, 200))
    assert described(apples.backward(dapples)) == described((2.2, 110.00000000000001))


def test_apples_and_oranges(implementation):
    apples, oranges, tax = (implementation.MulLayer() for _ in range(3))
    both = implementation.AddLayer()
    total = both.forward(apples.forward(100, 2), oranges.forward(150, 3))
    assert described(tax.forward(total, 1.1)) == described(715.0000000000001)
    dtotal, dtax = tax.backward(1)
    dapples, doranges = both.backward(dtotal)
    assert apples.backward(dapples) == (2.2, 110.00000000000001)
    assert oranges.backward(doranges) == (3.3000000000000003, 165.0)
    assert dtax == 650


class Watt:
    """A foreign class that knows how to deal with arrays on both of its sides."""

    __array_ufunc__ = None

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return f"Watt({self.text!r})"

    def __mul__(self, other):
        return Watt(f"{self.text} * {np.asarray(other).tolist()}")

    def __rmul__(self, other):
        return Watt(f"{np.asarray(other).tolist()} * {self.text}")

    def __add__(self, other):
        return Watt(f"{self.text} + {np.asarray(other).tolist()}")

    def __radd__(self, other):
        return Watt(f"{np.asarray(other).tolist()} + {self.text}")

    def __sub__(self, other):
        return Watt(f"{self.text} - {np.asarray(other).tolist()}")

    def __rsub__(self, other):
        return Watt(f"{np.asarray(other).tolist()} - {self.text}")

    def __neg__(self):
        return Watt(f"-{self.text}")


class Lazy:
    """A foreign array that takes part in NumPy's own functions, as Dask and CuPy arrays do."""

    def __init__(self, *graph):
        self.graph = graph

    def __repr__(self):
        return f"Lazy{self.graph}"

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        parts = [i.graph if isinstance(i, Lazy) else np.asarray(i).tolist() for i in inputs]
        return Lazy(ufunc.__name__, method, *parts, kwargs)

    def __mul__(self, other):
        return np.multiply(self, other)

    def __rmul__(self, other):
        return np.multiply(other, self)

    def __add__(self, other):
        return np.add(self, other)

    def __radd__(self, other):
        return np.add(other, self)

    def __sub__(self, other):
        return np.subtract(self, other)

    def __rsub__(self, other):
        return np.subtract(other, self)

    def __neg__(self):
        return np.negative(self)


class Listed(list):
    """A sequence, which NumPy would convert, with a product of its own."""

    __array_priority__ = 1_000

    def __rmul__(self, other):
        return "product of Listed"

    def __radd__(self, other):
        return "sum of Listed"

    def __rsub__(self, other):
        return "difference of Listed"


class Grams(float):
    """A subclass of a Python number: no business of the kernels."""

    def __mul__(self, other):
        return f"{float(self)} g"

    __rmul__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__

    def __neg__(self):
        return f"-{float(self)} g"


class Sixth(np.float64):
    """A subclass of a NumPy scalar type."""


def with_metadata(values):
    return np.array(values, np.dtype("f8", metadata={"unit": "W"}))


def long_text(values):
    return np.array(values, np.dtypes.StringDType())


def long_long(values):
    return np.array(values, np.longlong)


ROW, COLUMN = np.arange(3.0), np.arange(2.0)[:, None]
OPERANDS = {  # x, y, dout
    "int": (100, 2, 1),
    "float": (100.0, 1.1, 0.5),
    "int and float": (100, 1.1, 1),
    "huge int": (10**30, -(3**70), 7**50),
    "int that overflows a float": (10**400, 2, 3),
    "bool": (True, False, True),
    "complex": (1 + 2j, 3.0, -1j),
    "nan and inf": (float("nan"), float("inf"), -0.0),
    "Fraction": (fractions.Fraction(1, 3), fractions.Fraction(2, 7), 2),
    "Decimal": (decimal.Decimal("0.1"), decimal.Decimal("0.2"), 3),
    "timedelta": (datetime.timedelta(1), 2, 1),
    "text": ("ab", 2, 3),
    "float and text": (1.1, "ab", 2.5),
    "int and text": (2, "ab", 3),
    "two texts": ("ab", "cd", "ef"),
    "list": ([1, 2], 2, 3),
    "two lists": ([1], [2], [3]),
    "tuple": ((1, 2), 2, (3,)),
    "list and array": ([1.0, 2.0], np.arange(2.0), [1.0, 1.0]),
    "float64 scalar": (np.float64(1.1), np.float64(2.2), np.float64(3)),
    "float32 scalar": (np.float32(1.1), np.float32(2.2), np.float32(3)),
    "scalar and number": (np.float32(1.1), 2.2, 3),
    "mixed scalars": (np.float32(1.1), np.int8(2), np.float64(3)),
    "scalar of another type": (Sixth(1.5), np.ones(3), Sixth(2)),
    "0-d": (np.array(1.1), np.array(2.2), np.array(3.0)),
    "0-d float32": (np.array(1.1, "f4"), np.array(2.2, "f4"), np.array(3, "f4")),
    "0-d int": (np.array(3), np.array(4), np.array(5)),
    "0-d and number": (np.array(1.1), 2, 1),
    "0-d and array": (np.array(1.1), ROW, np.array(2.0)),
    "0-d of a wider dtype": (np.array(1.1), ROW.astype("f4"), np.float64(2)),
    "array and numbers": (ROW, 2, 1.5),
    "numbers and array": (2.5, ROW, 1),
    "float32 and numbers": (ROW.astype("f4"), 1.1, 2),
    "float32 and a float that is not one": (ROW.astype("f4"), 1e39, 1e-46),
    "float32 and a huge int": (ROW.astype("f4"), 10**38, 10**39),
    "int32 and numbers": (np.arange(3, dtype="i4"), 7, -1),
    "int32 and its limits": (np.arange(3, dtype="i4"), 2**31 - 1, -(2**31)),
    "int32 and too large an int": (np.arange(3, dtype="i4"), 2**31, -(2**31) - 1),
    "int64 and too large an int": (np.arange(3), 2**63, -(2**63) - 1),
    "int and float array": (np.arange(3), 2.5, 1.0),
    "int array and bool": (np.arange(3), True, False),
    "array and complex": (ROW, 2j, 1 + 0j),
    "array and Fraction": (ROW, fractions.Fraction(1, 3), 1),
    "array and None": (ROW, None, 1),
    "array and text": (ROW, "a", 1),
    "array and Decimal": (ROW, decimal.Decimal(1), 1),
    "array and a float's subclass": (ROW, Grams(2), Grams(3)),
    "float64": (floats(17), floats(17, seed=1), floats(17, seed=2)),
    "float32": (floats(17, "f4"), floats(17, "f4", 1), floats(17, "f4", 2)),
    "float16": (floats(17, "f2"), floats(17, "f2", 1), floats(17, "f2", 2)),
    "longdouble": (floats(17, "g"), floats(17, "g", 1), floats(17, "g", 2)),
    "complex128": (
        floats(16).view("D"),
        floats(16, seed=1).view("D"),
        floats(16, seed=2).view("D"),
    ),
    "int32 that wraps": tuple(np.array([2**31 - 1, -(2**31), n], "i4") for n in (-1, 2, 3)),
    "int64 that wraps": tuple(np.array([2**63 - 1, -(2**63), n]) for n in (-1, 2, 3)),
    "long long": (long_long([1, 2]), long_long([3, 4]), long_long([5, 6])),
    "long and long long": (long_long([1, 2]), np.array([3, 4]), long_long([5, 6])),
    "unsigned": (np.arange(3, dtype="u1"), np.full(3, 200, "u1"), np.full(3, 2, "u1")),
    "bool arrays": (np.array([True, False]), np.array([True, True]), np.array([True, False])),
    "mixed dtypes": (floats(5, "f4"), floats(5), np.arange(5)),
    "byte-swapped": (floats(5, ">f8"), floats(5, ">f8", 1), floats(5, ">f8", 2)),
    "timedelta64": (np.array([1, 2], "m8[s]"), np.array([3, 4]), np.array([1, 2], "m8[s]")),
    "datetime64": (np.array(["2020"], "M8[Y]"), np.array([3]), np.array(["2020"], "M8[Y]")),
    "strings": (np.array(["a"]), np.array(["b"]), np.array(["c"])),
    "strings of any length": (long_text(["a"]), long_text(["b"]), np.array([2])),
    "objects": (np.array([1, 1.5, None]), np.array([2, 10**30, 3]), np.array([1, 2, "a"])),
    "structured": (np.zeros(2, "i4,f4"), np.zeros(2, "i4,f4"), np.zeros(2, "i4,f4")),
    "dtype with metadata": (with_metadata([1, 2]), with_metadata([3, 4]), with_metadata([5, 6])),
    "rows": (floats((2, 3)), ROW, floats((2, 3), seed=1)),
    "columns": (floats((2, 3)), COLUMN, floats((2, 3), seed=1)),
    "outer": (ROW, COLUMN, floats((2, 3))),
    "channels": (floats((2, 3, 4, 5)), floats((3, 1, 1)), floats((2, 3, 4, 5), seed=1)),
    "dout smaller": (floats((2, 3)), floats((2, 3)), ROW),
    "dout larger": (ROW, ROW, floats((2, 3))),
    "C and F order": (floats((4, 5)), np.asfortranarray(floats((4, 5))), floats((5, 4)).T),
    "F order": tuple(np.asfortranarray(floats((4, 5), seed=i)) for i in range(3)),
    "axes in any order": tuple(floats((3, 4, 5), seed=i).transpose(2, 0, 1) for i in range(3)),
    "of one element": (floats((1, 1)), floats((1,)), floats((1, 1, 1))),
    "empty": (np.empty(0), np.empty(0), np.empty(0)),
    "empty and F order": tuple(np.empty((0, 3), order="F") for _ in range(3)),
    "empty, broadcast": (np.empty((0, 3)), ROW, np.empty((4, 0, 3))),
    "empty and one": (np.empty((2, 0)), np.empty((2, 1)), 1.0),
    "empty and very long": (np.empty((0, 1 << 40)), np.empty((1, 1 << 40, 0)).T, 1.0),
    "64 dimensions": tuple(np.full((1,) * 63 + (n,), 2.0) for n in (3, 3, 1)),
    "33 dimensions and a row": (np.full((1,) * 32 + (3,), 2.0), ROW, ROW),
    "31 dimensions of 2, repeated": (np.broadcast_to(2.0, (2,) * 10 + (1,) * 21), ROW, ROW),
    "matrix": (np.eye(2).view(np.matrix), np.ones((2, 2)), np.ones((2, 2)).view(np.matrix)),
    "matrix and number": (np.eye(2).view(np.matrix), 3, 2),
    "matrices that do not multiply": tuple(np.ones((2, 3)).view(np.matrix) for _ in range(3)),
    "masked": (np.ma.array([1.0, 2], mask=[0, 1]), np.ones(2), np.ma.array([3.0, 4], mask=[1, 0])),
    "masked, nothing masked": (np.ma.array([1.0, 2]), 2.0, np.ma.array([3.0, 4])),
    "masked constant": (np.ma.masked, ROW, 1.0),
    "subclass": (ROW.view(Tagged), ROW, ROW.view(Tagged)),
    "subclass, 0-d": (np.array(1.0).view(Tagged), 2.0, np.array(3.0).view(Tagged)),
    "record array": tuple(np.rec.array(np.zeros(2, "i4,f4")) for _ in range(3)),
    "foreign operators": (ROW, Watt("w"), ROW),
    "foreign operators first": (Watt("w"), ROW, Watt("v")),
    "foreign array": (ROW, Lazy("graph"), ROW),
    "foreign array first": (Lazy("graph"), ROW, Lazy("gradient")),
    "foreign array and number": (Lazy("graph"), 2, 1),
    "priority": (ROW, Listed([1, 2, 3]), ROW),
    "dates": (datetime.date(2020, 1, 1), datetime.timedelta(1), datetime.timedelta(2)),
    "mismatched shapes": (np.ones(3), np.ones(4), np.ones(5)),
    "mismatched in two dimensions": (np.ones((2, 3)), np.ones((3, 2)), np.ones((2, 2))),
    "mismatched dout": (np.ones(3), np.ones(3), np.ones(4)),
    "None": (None, None, None),
    "objects without operators": ({}, {1}, {2: 3}),
    "array and object": (ROW, object, dict),
}


@pytest.mark.parametrize("case", OPERANDS)
def test_as_the_plain_layers(implementation, case):
    x, y, dout = OPERANDS[case]
    before = described((x, y, dout))
    assert everything(implementation, x, y, dout) == everything(plain, x, y, dout)
    assert described((x, y, dout)) == before


@pytest.mark.parametrize("case", ["foreign operators", "foreign array", "priority"])
def test_the_plain_layers_ask_the_operands(case):
    # Or else the cases above would show nothing.
    x, y, _ = OPERANDS[case]
    assert type(plain.multiply(x, y)) is not np.ndarray


PYTHON_NUMBERS = [
    *(0, 1, -1, 2, -3, 2**31, 2**63, -(2**63), 10**30, 10**400, True, False),
    *(0.0, -0.0, 1.0, -1.0, 1.5, 5e-324, -1e308, math.inf, -math.inf, math.nan),
    *(0j, 1j, complex(-0.0, math.inf)),
]


@pytest.mark.parametrize("x", PYTHON_NUMBERS)
def test_python_numbers(implementation, x):
    # Signs of zeros, ints that no float holds: a compiler's short cuts are not Python's arithmetic.
    for y in PYTHON_NUMBERS:
        assert everything(implementation, x, y, x) == everything(plain, x, y, x)
        assert everything(implementation, y, x, y) == everything(plain, y, x, y)


@pytest.mark.parametrize("elements", [1 << 45, 1 << 58])
def test_result_too_large_for_memory(implementation, elements):
    # A stride of zero makes the operand; the result would need 256 TiB.
    x = np.broadcast_to(1.0, elements)
    expected = everything(plain, x, 2.0, x)
    assert {one.exception is not None for one in expected.values()} == {True}
    assert everything(implementation, x, 2.0, x) == expected
    assert everything(implementation, 2.0, 3.0, 1.0) == everything(plain, 2.0, 3.0, 1.0)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 15, 16, 17, 63, 64, 65, 1_000, 16_384, 100_003])
def test_every_element(implementation, n, dtype):
    rng = np.random.default_rng(n)
    x, y, dout = (rng.integers(-9, 9, n).astype(dtype) for _ in range(3))
    assert everything(implementation, x, y, dout) == everything(plain, x, y, dout)
    assert everything(implementation, x, 3, 2) == everything(plain, x, 3, 2)
    assert everything(implementation, 3, x, dout) == everything(plain, 3, x, dout)


@pytest.mark.parametrize("dtype", [*KERNEL_DTYPES, "f2", "D"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(implementation, layout, dtype):
    # Where strides are negative NumPy 2.0.0 rounds a complex product once (by FMA) or twice,
    # depending on where the result lies in memory. Products of small whole numbers are exact.
    values = "ordinary" if dtype == "D" else "bits"
    for shape in ((5, 7), (3, 4, 5)):
        x, y, dout = (Operand(dtype, shape, layout, values, seed).build() for seed in range(3))
        for other in (y, np.array(y, order="C"), np.array(y, order="F")):
            expected = everything(plain, x, other, dout)
            assert everything(implementation, x, other, dout) == expected


def test_larger_than_any_cache(implementation):
    x, y, dout = (np.random.default_rng(i).standard_normal(5_000_003, "f4") for i in range(3))
    expected, actual = (
        plain.multiply_backward(dout, x, y),
        implementation.multiply_backward(dout, x, y),
    )
    assert np.array_equal(actual[0], expected[0])
    assert np.array_equal(actual[1], expected[1])
    assert np.array_equal(implementation.multiply(x, y), x * y)
    assert np.array_equal(implementation.add(x, y), x + y)
    assert all(np.array_equal(gradient, dout) for gradient in implementation.add_backward(dout))


def test_negative_zero_and_subnormals(implementation):
    x = np.array([-0.0, 0.0, 5e-324, -5e-324, 2.2e-308, -1.0])
    assert everything(implementation, x, x[::-1].copy(), x) == everything(
        plain, x, x[::-1].copy(), x
    )
    assert np.signbit(implementation.add_backward(x)[0]).tolist() == np.signbit(x).tolist()


# ----------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "case",
    ["mismatched shapes", "array and None", "array and text", "None", "objects without operators"],
)
def test_layer_works_on_after_an_error(layer, case):
    x, y, dout = OPERANDS[case]
    with pytest.raises((TypeError, ValueError)):
        layer.forward(x, y)
    assert layer.x is x
    assert layer.y is y
    good = floats(3)
    plain_layer = getattr(plain, type(layer).__name__)()
    assert outcome(layer.forward, good, 2.0) == outcome(plain_layer.forward, good, 2.0)
    assert outcome(layer.backward, dout) == outcome(plain_layer.backward, dout)
    assert outcome(layer.backward, good) == outcome(plain_layer.backward, good)


def test_backward_before_forward(implementation):
    # The product with None is the plain layer's error.
    expected = outcome(plain.MulLayer().backward, np.ones(3))
    assert expected.exception is not None
    assert outcome(implementation.MulLayer().backward, np.ones(3)) == expected
    assert outcome(implementation.MulLayer().backward, 1).exception[0] is TypeError
    assert implementation.AddLayer().backward(1) == (1, 1)


def test_an_operand_that_raises(implementation):
    class Broken:
        __array_ufunc__ = None

        def __rmul__(self, other):
            raise LookupError("no such thing")

        __radd__ = __mul__ = __rmul__

    assert outcome(implementation.multiply, np.ones(3), Broken()).exception == (
        LookupError,
        "no such thing",
    )
    assert outcome(implementation.add, np.ones(3), Broken()).exception[0] is LookupError
    assert outcome(implementation.add_backward, Broken()).exception[0] is LookupError


@pytest.mark.parametrize(
    ("method", "args", "kwargs"),
    [
        ("forward", (), {}),
        ("forward", (1,), {}),
        ("forward", (1, 2), {"z": 3}),
        ("forward", (1, 2), {"x": 3}),
        ("backward", (), {}),
        ("backward", (1,), {"x": 3}),
        ("backward", (1,), {"dout": 3}),
    ],
)
def test_wrong_arguments(layer, method, args, kwargs):
    with pytest.raises(TypeError, match=method):
        getattr(layer, method)(*args, **kwargs)


# --------------------------------------------------------------------------------- np.errstate


SIZES = {  # as many elements; () makes a scalar, whose warnings are worded otherwise
    "scalar": (),
    "short": (7,),
    "1k": (1_000,),
    "100k": (100_000,),
}
CATEGORIES = {
    "over": ("max", "max"),
    "under": ("tiny", "tiny"),
    "invalid": ("inf", "zero"),
}


def troubled(shape, dtype, name, where):
    """Ones, and a single element at which arithmetic goes wrong."""
    info = np.finfo(dtype)
    value = {"max": info.max, "tiny": info.tiny, "inf": np.inf, "-inf": -np.inf, "zero": 0}[name]
    array = np.ones(shape, dtype)
    array.flat[int(where * (array.size - 1))] = value
    return array if shape else array[()]


@pytest.mark.parametrize("mode", ["ignore", "warn", "raise", "call", "log"])
@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("size", SIZES)
def test_errstate(implementation, size, dtype, category, mode):
    reported = []
    for where in (0, 0.5, 1):  # the first vector, another thread's share, the tail
        x, y = (troubled(SIZES[size], dtype, name, where) for name in CATEGORIES[category])
        errstate = {"all": "ignore", category: mode}
        expected = everything(plain, x, y, y, errstate)
        assert everything(implementation, x, y, y, errstate) == expected
        reported += [one.exception or one.warnings or one.handled for one in expected.values()]
    assert any(reported) == (mode != "ignore")


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("size", SIZES)
def test_sums_that_overflow(implementation, size, dtype):
    for pair in (("max", "max"), ("inf", "-inf")):
        x, y = (troubled(SIZES[size], dtype, name, 1) for name in pair)
        expected = everything(plain, x, y, y)
        assert expected["add"].warnings != ()
        assert everything(implementation, x, y, y) == expected


@pytest.mark.parametrize("n", [7, 100_000])
def test_warning_texts(implementation, n):
    x = np.full(n, 1e308)
    text = "overflow encountered in"
    with pytest.warns(RuntimeWarning, match=f"^{text} multiply$"):
        implementation.multiply(x, x)
    with pytest.warns(RuntimeWarning, match=f"^{text} add$"):
        implementation.AddLayer().forward(x, x)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError, match=f"^{text} multiply$"):
        implementation.multiply_backward(x, 1.0, x)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n", [1, 7, 64, 1_000, 100_000])
@pytest.mark.parametrize("mode", ["warn", "raise"])
def test_signalling_nan(implementation, dtype, n, mode):
    # Even ``dout * 1`` is arithmetic, and says so.
    x = np.ones(n, dtype)
    x[-1:] = signalling_nan(dtype)
    y = np.full(n, 3, dtype)
    errstate = {"invalid": mode}
    assert everything(implementation, x, y, x, errstate) == everything(plain, x, y, x, errstate)
    assert everything(implementation, y, 2, x, errstate) == everything(plain, y, 2, x, errstate)


@pytest.mark.parametrize("n", [7, 1_000, 100_003])
def test_no_warning_without_cause(implementation, n):
    # Neither the lanes past the end of a vector nor what a kernel leaves in a register may raise.
    with np.errstate(all="raise"):
        for dtype in ("f4", "f8"):
            x = np.ones(n, dtype)
            assert implementation.multiply(x, x).sum() == n
            assert implementation.multiply_backward(x, x, x)[1].sum() == n
            quiet = np.full(n, np.nan, dtype)
            assert np.isnan(implementation.multiply(quiet, x)).all()
            assert np.isnan(implementation.add_backward(quiet)[1]).all()


def test_earlier_flags_are_not_reported(implementation):
    # The processor's flags are sticky.
    with np.errstate(all="ignore"):
        assert np.isinf(np.full(9, 1e308) * 10).all()
        assert np.isinf(implementation.multiply(np.full(9, 1e308), 10.0)).all()
    with np.errstate(all="raise"):
        assert implementation.add(np.ones(9), 1.0).tolist() == [2.0] * 9
        assert (np.ones(9) * 2).tolist() == [2.0] * 9


def test_errstate_print(implementation, capfd):
    x = np.full(9, 1e308)
    with np.errstate(over="print"):
        plain.multiply(x, x)
        expected = capfd.readouterr()
        implementation.multiply(x, x)
    assert "overflow" in expected.out + expected.err
    assert capfd.readouterr() == expected


def test_errstate_handler_that_raises_or_is_missing(implementation):
    def handler(text, flags):
        raise LookupError(text)

    x = np.full(9, 1e308)
    for bad in (handler, None):
        errstate = {"over": "call", "call": bad}
        expected = everything(plain, x, x, x, errstate)
        assert expected["multiply"].exception is not None
        assert everything(implementation, x, x, x, errstate) == expected


def test_warnings_turned_into_errors(implementation):
    x = np.full(100_000, 1e308)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="overflow"):
            implementation.multiply_backward(x, x, x)
    assert implementation.multiply(x, 0.5).tolist() == (x * 0.5).tolist()


# ------------------------------------------------------------------------------------------ state


def test_operands_are_kept_not_copied(layer):
    assert layer.x is None
    assert layer.y is None
    x, y = np.ones(3), [1.0, 2.0, 3.0]
    layer.forward(x, y)
    assert layer.x is x
    assert layer.y is y
    layer.backward(np.ones(3))
    assert layer.x is x
    assert layer.y is y


def test_backward_sees_changes_in_place(implementation):
    layer, x, y = implementation.MulLayer(), np.ones(3), np.ones(3)
    layer.forward(x, y)
    x[1] = 5.0
    y *= 2
    dx, dy = layer.backward(np.ones(3))
    assert dx.tolist() == [2.0, 2.0, 2.0]
    assert dy.tolist() == [1.0, 5.0, 1.0]


def test_operands_can_be_assigned(implementation):
    layer = implementation.MulLayer()
    layer.x, layer.y = np.array([2.0]), 3
    dx, dy = layer.backward(np.array([10.0]))
    assert (dx.tolist(), dy.tolist()) == ([30.0], [20.0])
    layer.note = "layers are ordinary objects"
    assert layer.note in vars(layer).values()


def test_operands_by_keyword(implementation):
    layer = implementation.MulLayer()
    assert layer.forward(y=2, x=100) == 200
    assert (layer.x, layer.y) == (100, 2)
    assert layer.forward(100, y=3) == 300
    assert layer.backward(dout=1.5) == (4.5, 150.0)
    layer = implementation.AddLayer()
    assert layer.forward(y=2, x=100) == 102
    assert layer.backward(dout=1.5) == (1.5, 1.5)
    assert implementation.multiply(y=2, x=3) == 6
    assert implementation.add(3, y=2) == 5
    assert implementation.multiply_backward(y=2, dout=10, x=3) == (20, 30)
    assert implementation.add_backward(dout=10) == (10, 10)


def test_forward_again_replaces_the_operands(layer):
    layer.forward(np.ones(3), np.ones(3))
    x, y = np.zeros(2), np.zeros(2)
    layer.forward(x, y)
    assert layer.x is x
    assert layer.y is y


def test_layers_are_independent(layer_class):
    one, other = layer_class(), layer_class()
    one.forward(1, 2)
    assert other.x is None
    assert other.y is None


# -------------------------------------------------------------------- subclasses, copies, pickles


def test_subclass(layer_class):
    class Named(layer_class):
        def __init__(self, name):
            super().__init__()
            self.label = name

        def forward(self, x, y):
            return super().forward(x, y) + 1

    layer = Named("first")
    plain_layer = getattr(plain, layer_class.__name__)()
    x = floats(3)
    assert layer.forward(x, x).tolist() == (plain_layer.forward(x, x) + 1).tolist()
    assert described(layer.backward(x)) == described(plain_layer.backward(x))
    assert layer.label == "first"


def test_subclass_that_does_not_call_init(layer_class):
    class Careless(layer_class):
        def __init__(self):
            pass

    layer, x = Careless(), floats(3)
    plain_layer = getattr(plain, layer_class.__name__)()
    assert described(layer.forward(x, x)) == described(plain_layer.forward(x, x))
    assert described(layer.backward(x)) == described(plain_layer.backward(x))


def test_layers_are_base_layers(layer):
    assert isinstance(layer, BaseLayer)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(layer, protocol):
    x, y = floats((2, 3)), floats((2, 3), seed=1)
    layer.forward(x, y)
    layer.note = "kept"
    again = pickle.loads(pickle.dumps(layer, protocol))
    assert type(again) is type(layer)
    assert again.note == "kept"
    assert again.x is not x
    assert np.array_equal([again.x, again.y], [x, y])
    assert described(again.backward(x)) == described(layer.backward(x))
    assert pickle.loads(pickle.dumps(type(layer)(), protocol)).x is None


def test_deepcopy_and_copy(layer):
    x = floats(3)
    layer.forward(x, x)
    deep = copy.deepcopy(layer)
    assert type(deep) is type(layer)
    assert deep.x is deep.y
    assert sharing([deep.x], [x]) == []
    assert described(deep.backward(x)) == described(layer.backward(x))
    assert copy.copy(layer).x is x


def test_functions_can_be_pickled(implementation):
    for name in ("multiply", "add", "multiply_backward", "add_backward"):
        function = getattr(implementation, name)
        assert pickle.loads(pickle.dumps(function)) is function


# --------------------------------------------------------------------------------------- aliasing

SHAPES = [(1,), (7,), (3, 4), (1_000,), (100_000,), (300, 1_000)]
DTYPES = [*KERNEL_DTYPES, "f2", "D", "?"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_a_sum_are_two_arrays(implementation, shape, dtype):
    # The book's Relu.backward writes into the gradient that it is given.
    dout = np.ones(shape, dtype)
    layer = implementation.AddLayer()
    layer.forward(dout, dout)
    dx, dy = layer.backward(dout)
    assert all(one.flags.owndata and one.flags.writeable for one in (dx, dy))
    assert sharing([dx, dy], [dout]) == []
    dx[...] = 0
    assert np.all(dy == 1)
    assert np.all(dout == 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_live_results_share_nothing(implementation, shape):
    x = floats(shape)
    alive = []
    for _ in range(5):
        alive += arrays_in(implementation.multiply(x, x))
        alive += arrays_in(implementation.add(x, 1.0))
        alive += arrays_in(implementation.multiply_backward(x, x, x))
        alive += arrays_in(implementation.add_backward(x))
        # Some die in between, so that their memory may serve again.
        del alive[::3]
    assert len(alive) >= 10
    assert sharing(alive, [x]) == []


@pytest.mark.parametrize("n", [100, 100_000, 1_000_000])
def test_view_outlives_its_array(implementation, n):
    x = floats(n)
    view = implementation.multiply(x, 2.0)[::2]
    expected = view.copy()
    for factor in range(8):
        implementation.multiply(x, float(factor))
        implementation.add_backward(x)
    assert np.array_equal(view, expected)


@pytest.mark.parametrize("n", [100, 100_000])
def test_results_are_ordinary_arrays(implementation, n):
    x = floats(n)
    result = implementation.multiply(x, 2.0)
    assert result.base is None
    result.resize(2 * n, refcheck=False)
    assert np.array_equal(result[:n], 2 * x)
    assert not result[n:].any()
    result.resize(n // 2, refcheck=False)
    assert np.array_equal(result, (2 * x)[: n // 2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7,), (300, 1_000)])
def test_temporaries_are_not_overwritten(implementation, shape, dtype):
    # NumPy computes a large expression in the memory of a temporary operand. The one here is
    # needed for the second gradient.
    x, y = np.full(shape, 3, dtype), np.full(shape[-1:], 5, dtype)
    expected = described(plain.multiply_backward(x, x, y))
    assert described(implementation.multiply_backward(x.copy(), x, y)) == expected
    layer = implementation.MulLayer()
    layer.forward(x.copy(), y.copy())
    assert described(layer.backward(x.copy())) == expected
    first, second = implementation.add_backward(x.copy())
    assert sharing([first, second]) == []
    assert described((first, second)) == described(plain.add_backward(x))


@pytest.mark.parametrize("n", [3, 100_000])
def test_no_reference_is_leaked_or_lost(implementation, n):
    x, y, number = np.ones(n), np.ones(n), float(n)
    bad = np.ones(n + 1)

    def counts():
        gc.collect()
        return [sys.getrefcount(one) for one in (x, y, number, bad, np.dtype("f8"), None)]

    def use():
        for _ in range(20):
            everything(implementation, x, y, x)
            everything(implementation, x, number, number)
            everything(implementation, x, bad, x)
            implementation.multiply(x, y, out=y)
            implementation.add_backward(x, out=(y, None))

    use()
    before = counts()
    use()
    # Caches may come and go; a leak would show in the hundreds.
    assert all(abs(a - b) < 10 for a, b in zip(counts(), before, strict=True))


# ----------------------------------------------------------------------------------- broadcasting


@pytest.mark.parametrize(
    ("x", "y", "dout", "dx", "dy"),
    [
        ((4, 3), (3,), (4, 3), (4, 3), (4, 3)),
        ((4, 3), (4, 1), (4, 3), (4, 3), (4, 3)),
        ((4, 3), (), (4, 3), (4, 3), (4, 3)),
        ((4, 3), (3,), (), (3,), (4, 3)),
        ((4, 1), (3,), (), (3,), (4, 1)),
        ((2, 3, 4, 5), (3, 1, 1), (2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5)),
        ((0, 3), (3,), (0, 3), (0, 3), (0, 3)),
    ],
    ids=str,
)
def test_gradients_have_the_shape_of_their_products(implementation, x, y, dout, dx, dy):
    layer = implementation.MulLayer()
    layer.forward(np.ones(x), np.ones(y))
    gradients = layer.backward(np.ones(dout))
    assert [gradient.shape for gradient in gradients] == [dx, dy]
    layer = implementation.AddLayer()
    layer.forward(np.ones(x), np.ones(y))
    assert [np.shape(gradient) for gradient in layer.backward(np.ones(dout))] == [dout, dout]


@pytest.mark.parametrize("dtype", [*KERNEL_DTYPES, "u1", "f2", "D"])
@pytest.mark.parametrize(
    "dout", [1, 1.0, True, np.float32(1), np.float64(1), np.int32(1), np.ones(())]
)
def test_dout_may_be_a_number(implementation, dout, dtype):
    x, y = np.arange(5, dtype=dtype), np.arange(5, 10).astype(dtype)
    assert everything(implementation, x, y, dout) == everything(plain, x, y, dout)


# ------------------------------------------------------------------- what errors of backward note


def note_of(function, *args):
    """The one note of the error that a call raises, which is otherwise as it was."""
    with pytest.raises((TypeError, ValueError)) as caught:
        function(*args)
    (note,) = caught.value.__notes__
    return note


def test_note_of_backward_before_forward(implementation):
    layer, plain_layer = implementation.MulLayer(), plain.MulLayer()
    for dout in (1.5, np.ones(3), "text"):
        assert outcome(layer.backward, dout) == outcome(plain_layer.backward, dout)
        note = note_of(layer.backward, dout)
        assert note == (
            "MulLayer.backward(dout): x and y are None; call forward(x, y) first, "
            "it keeps the operands"
        )
    note = note_of(implementation.AddLayer(sum_to_shape=True).backward, 1.5)
    assert note.startswith("AddLayer.backward(dout): x and y are None; call forward(x, y) first")


def test_note_of_a_dout_that_does_not_fit(implementation):
    layer, plain_layer = implementation.MulLayer(), plain.MulLayer()
    for one in (layer, plain_layer):
        one.forward(np.ones((2, 3)), 2.0)
    for dout, kind in ((np.ones(4), "ndarray of shape (4,)"), (None, "NoneType")):
        assert outcome(layer.backward, dout) == outcome(plain_layer.backward, dout)
        assert note_of(layer.backward, dout) == (
            f"MulLayer.backward(dout): dout is {kind}, x is ndarray of shape (2, 3), y is float; "
            "dout must fit what forward(x, y) returned"
        )


def test_note_runs_no_code_of_the_operands(layer):
    class Hostile:
        __slots__ = ()

        def __getattribute__(self, name):
            raise RuntimeError(name)

    layer.forward(3, 10**5_000)  # too long for Python to print
    assert "dout is Hostile" in note_of(layer.backward, Hostile())


def test_errors_of_a_subclass_are_noted_once(layer_class):
    class Passing(layer_class):
        def backward(self, dout):
            return super().backward(dout)

    layer = Passing(sum_to_shape=True)
    assert note_of(layer.backward, 1.5).startswith("Passing.backward(dout): x and y are None")


# -------------------------------------------------------------------- BaseLayer, toString, __repr__


@pytest.mark.parametrize(
    ("method", "args"),
    [("forward", (1, 2)), ("forward", (1,)), ("backward", (1,)), ("toString", ())],
)
def test_base_layer_is_an_interface(method, args):
    with pytest.raises(NotImplementedError):
        getattr(BaseLayer(), method)(*args)


@pytest.mark.parametrize("name", LAYERS)
def test_to_string_as_the_plain_layers(implementation, name, capsys):
    for x, y in ((np.ones((2, 3)), np.ones(3)), (np.float64(1), np.ones(())), (np.ones(0), ROW)):
        printed = []
        for layer in (getattr(plain, name)(), getattr(implementation, name)()):
            layer.x, layer.y = x, y
            assert layer.toString() is None
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1]
        assert printed[0] != ""


@pytest.mark.parametrize("attribute", ["name", "_name", "_shape", "shape", "print"])
def test_to_string_whatever_a_subclass_calls_its_attributes(layer_class, attribute, capsys):
    class OfTheInstance(layer_class):
        def __init__(self, value):
            super().__init__()
            setattr(self, attribute, value)

    class OfTheClass(layer_class):
        pass

    setattr(OfTheClass, attribute, "price")
    plain_layer = getattr(plain, layer_class.__name__)()
    for layer in (plain_layer, OfTheInstance("price"), OfTheClass()):
        layer.forward(np.ones((2, 3)), np.ones(3))
        layer.toString()
    printed = capsys.readouterr().out.splitlines()
    assert printed == printed[:3] * 3


def test_to_string_texts(implementation, capsys):
    layer = implementation.MulLayer()
    layer.forward(np.ones((2, 3)), np.ones(3))
    layer.toString()
    assert capsys.readouterr().out == "name: Multi\nx.shape (2, 3)\ny.shape (3,)\n"
    layer = implementation.AddLayer()
    layer.forward(100, 1.5)
    layer.toString()
    assert capsys.readouterr().out == "name: Add\nx.shape ()\ny.shape ()\n"
    layer.forward(np.ones(4), True)
    layer.toString()
    assert capsys.readouterr().out == "name: Add\nx.shape (4,)\ny.shape ()\n"


def test_to_string_before_forward(layer, capsys):
    with pytest.raises(AttributeError, match="forward") as caught:
        layer.toString()
    assert "NoneType" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_to_string_of_what_has_no_shape(layer, capsys):
    # A list has none; the plain layers raise the same.
    layer.x = layer.y = [1.0, 2.0]
    with pytest.raises(AttributeError, match="'list' object has no attribute 'shape'"):
        layer.toString()
    assert capsys.readouterr().out == ""


def test_repr(layer):
    name = type(layer).__name__
    assert name in repr(layer)
    layer.forward(np.ones((2, 3), "f4"), 1.5)
    assert all(part in repr(layer) for part in (name, "float32", "(2, 3)", "1.5"))
    assert len(repr(layer)) < 100
    layer.x, layer.y = [1] * 1_000, None
    assert len(repr(layer)) < 100
    layer.x = 10**5_000  # more digits than Python writes
    assert "x=<int of 16610 bits>" in repr(layer)


def test_repr_tells_which_gradients(layer_class):
    plain_text, summed = repr(layer_class()), repr(layer_class(sum_to_shape=True))
    assert "sum_to_shape" not in plain_text
    assert summed == plain_text.replace(">", ", sum_to_shape=True>")


@pytest.mark.parametrize("arguments", [(3,), (True,), (1, 2)])
def test_arguments_that_a_layer_does_not_take(layer_class, arguments):
    name = layer_class.__name__
    with pytest.raises(TypeError, match=rf"^{name}.__init__\(\) takes 1 positional argument but"):
        layer_class(*arguments)
    with pytest.raises(TypeError, match=rf"^{name}.__init__\(\) got an unexpected keyword arg"):
        layer_class(sum_to="shape")


def test_repr_of_a_subclass_that_does_not_call_init(layer_class):
    class Careless(layer_class):
        def __init__(self):
            pass

    assert "Careless" in repr(Careless())
