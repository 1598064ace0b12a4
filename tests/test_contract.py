"""What "drop-in" promises, point by point: see the headings.

The plain layers of `plain` say what is right. Other dtypes, shapes and layouts, and values at which
arithmetic goes wrong, test_differential.py draws.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import fractions
import math
import pickle

import numpy as np
import plain
import pytest
from implementations import FUNCTIONS, LAYERS, operands_of
from operands import KERNEL_DTYPES
from outcome import arrays_in, described, everything, outcome, sharing

from fastlayers import BaseLayer


@pytest.fixture(params=LAYERS)
def layer_class(implementation, request):
    return getattr(implementation, request.param)


@pytest.fixture
def layer(layer_class):
    return layer_class()


def plain_layer_of(layer_class):
    return getattr(plain, layer_class.__name__)()


def floats(shape, dtype="f8", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# ------------------------------------------------------------------------------- values and types


class Watt:
    """A foreign class that knows how to deal with arrays on both of its sides."""

    __array_ufunc__ = None

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return f"Watt({self.text!r})"


def watts(operator):
    return lambda self, *other: Watt(f"{operator} {self.text} {np.asarray(other).tolist()}")


for operator in ("mul", "rmul", "add", "radd", "sub", "rsub", "neg"):
    setattr(Watt, f"__{operator}__", watts(operator))


class Lazy(np.lib.mixins.NDArrayOperatorsMixin):
    """A foreign array that takes part in NumPy's own functions, as Dask and CuPy arrays do."""

    def __init__(self, *graph):
        self.graph = graph

    def __repr__(self):
        return f"Lazy{self.graph}"

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        parts = [i.graph if isinstance(i, Lazy) else np.asarray(i).tolist() for i in inputs]
        return Lazy(ufunc.__name__, method, *parts, kwargs)


class Listed(list):
    """A sequence, which NumPy would convert, with a product of its own."""

    __array_priority__ = 1_000

    def __rmul__(self, other):
        return "of Listed"

    __radd__ = __rsub__ = __rmul__


class Grams(float):
    """A subclass of a Python number, with arithmetic of its own."""

    def __mul__(self, other):
        return f"{float(self)} g"

    __rmul__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__

    def __neg__(self):
        return f"-{float(self)} g"


class Sixth(np.float64):
    """A subclass of a NumPy scalar type."""


class Broken:
    """An operand that raises, whatever is done with it."""

    __array_ufunc__ = None

    def __rmul__(self, other):
        raise LookupError("no such thing")

    __radd__ = __rsub__ = __mul__ = __add__ = __sub__ = __rmul__


def with_metadata(values):
    return np.array(values, np.dtype("f8", metadata={"unit": "W"}))


def long_long(values):
    return np.array(values, np.longlong)


ROW, SINGLE_ROW = np.arange(3.0), np.arange(3, dtype="f4")
TEXTS = np.array(["a"], np.dtypes.StringDType())
OPERANDS = {  # x, y, dout
    "Fraction": (fractions.Fraction(1, 3), fractions.Fraction(2, 7), 2),
    "Decimal": (decimal.Decimal("0.1"), decimal.Decimal("0.2"), 3),
    "timedelta": (datetime.timedelta(1), 2, 1),
    "text": ("ab", 2, 3),
    "two texts": ("ab", "cd", "ef"),
    "list and array": ([1.0, 2.0], np.arange(2.0), (1.0, 1.0)),
    "scalar of another type": (Sixth(1.5), np.ones(3), Sixth(2)),
    "0-d of a wider dtype": (np.array(1.1), SINGLE_ROW, np.float64(2)),
    "float32 and a float that is none": (SINGLE_ROW, 1e39, 1e-46),
    "float32 and a huge int": (SINGLE_ROW, 10**38, 10**39),
    "int32 and its limits": (np.arange(3, dtype="i4"), 2**31 - 1, -(2**31)),
    "int32 and too large an int": (np.arange(3, dtype="i4"), 2**31, -(2**31) - 1),
    "int64 and its limits": (np.arange(3), 2**63 - 1, -(2**63)),
    "int64 and too large an int": (np.arange(3), 2**63, -(2**63) - 1),
    "array and a float's subclass": (ROW, Grams(2), Grams(3)),
    "array and None": (ROW, None, 1),
    "array and text": (ROW, "a", 1),
    "long long": (long_long([1, 2]), long_long([3, 4]), long_long([5, 6])),
    "long and long long": (long_long([1, 2]), np.array([3, 4]), long_long([5, 6])),
    "strings of any length": (TEXTS, TEXTS, np.array([2])),
    "dtype with metadata": (with_metadata([1, 2]), with_metadata([3, 4]), with_metadata([5, 6])),
    "-0.0 and subnormals": tuple(np.array([-0.0, 5e-324, 2.2e-308])[::step] for step in (1, -1, 1)),
    "empty and very long": (np.empty((0, 1 << 40)), np.empty((1, 1 << 40, 0)).T, 1.0),
    "64 dimensions": tuple(np.full((1,) * 63 + (n,), 2.0) for n in (3, 3, 1)),
    "33 dimensions and a row": (np.full((1,) * 32 + (3,), 2.0), ROW, ROW),
    "31 dimensions of 2, repeated": (np.broadcast_to(2.0, (2,) * 10 + (1,) * 21), ROW, ROW),
    "matrix": (np.eye(2).view(np.matrix), np.ones((2, 2)), np.ones((2, 2)).view(np.matrix)),
    "nothing masked": (np.ma.array([1.0, 2]), 2.0, np.ma.array([3.0, 4])),
    "record array": tuple(np.rec.array(np.zeros(2, "i4,f4")) for _ in range(3)),
    # The warnings of scalars are worded otherwise.
    "scalars that overflow": (np.float64(1e308), np.float64(1e308), np.float32(3e38)),
    "scalars that underflow": (np.float64(1e-300), np.float64(1e-300), np.float32(1e-38)),
    "scalars that are invalid": (np.float64(math.inf), np.float64(0), np.float32(-math.inf)),
    "foreign operators": (ROW, Watt("w"), ROW),
    "foreign operators first": (Watt("w"), ROW, Watt("v")),
    "foreign array": (ROW, Lazy("graph"), ROW),
    "foreign array first": (Lazy("graph"), ROW, Lazy("gradient")),
    "foreign array and number": (Lazy("graph"), 2, 1),
    "priority": (ROW, Listed([1, 2, 3]), ROW),
    "an operand that raises": (ROW, Broken(), Broken()),
    "mismatched shapes": (np.ones(3), np.ones(4), np.ones(5)),
    "None": (None, None, None),
    "objects without operators": ({}, {1}, {2: 3}),
    "array and object": (ROW, object, dict),
}


@pytest.mark.parametrize("case", OPERANDS)
def test_as_the_plain_layers(implementation, case):
    x, y, dout = OPERANDS[case]
    before = described((x, y, dout))
    for mode in ("warn", "ignore", "raise", "call", "log"):
        expected = everything(plain, x, y, dout, {"all": mode})
        assert everything(implementation, x, y, dout, {"all": mode}) == expected
    assert described((x, y, dout)) == before


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


@pytest.mark.parametrize("elements", [1 << 45, 1 << 58])
def test_result_too_large_for_memory(implementation, elements):
    # A stride of zero makes the operand; the result would need 256 TiB.
    x = np.broadcast_to(1.0, elements)
    expected = everything(plain, x, 2.0, x)
    assert {one.exception is not None for one in expected.values()} == {True}
    assert everything(implementation, x, 2.0, x) == expected
    assert everything(implementation, 2.0, 3.0, 1.0) == everything(plain, 2.0, 3.0, 1.0)


def test_larger_than_any_cache(implementation):
    x, y, dout = (np.random.default_rng(i).standard_normal(5_000_003, "f4") for i in range(3))
    for function in FUNCTIONS:
        given = operands_of(function, dout, x, y)
        actual, expected = (
            arrays_in(getattr(one, function)(*given)) for one in (implementation, plain)
        )
        assert all(map(np.array_equal, actual, expected))


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
    good, plain_layer = floats(3), plain_layer_of(type(layer))
    assert outcome(layer.forward, good, 2.0) == outcome(plain_layer.forward, good, 2.0)
    assert outcome(layer.backward, dout) == outcome(plain_layer.backward, dout)
    assert outcome(layer.backward, good) == outcome(plain_layer.backward, good)


@pytest.mark.parametrize(
    ("method", "args", "kwargs"),
    [
        ("__init__", (True,), {}),
        ("__init__", (1, 2), {}),
        ("__init__", (), {"sum_to": "shape"}),
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
    with pytest.raises(TypeError, match=rf"^{type(layer).__name__}\.{method}\(\) "):
        getattr(layer, method)(*args, **kwargs)


# --------------------------------------------------------------------------------- np.errstate


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


@pytest.mark.filterwarnings("error")
def test_warnings_turned_into_errors(implementation):
    x = np.full(100_000, 1e308)
    with pytest.raises(RuntimeWarning, match=r"^overflow encountered in multiply$"):
        implementation.multiply_backward(x, x, x)
    assert implementation.multiply(x, 0.5).tolist() == (x * 0.5).tolist()


# ------------------------------------------------------------------------------------------ state


def test_operands_are_kept_not_copied(layer):
    other = type(layer)()
    assert isinstance(layer, BaseLayer)
    assert (layer.x, layer.y) == (None, None)
    for x, y in ((np.ones(3), [1.0, 2.0, 3.0]), (np.zeros(2), np.zeros(2))):
        layer.forward(x, y)
        layer.backward(np.ones(len(x)))
        assert layer.x is x
        assert layer.y is y
    assert (other.x, other.y) == (None, None)


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


# -------------------------------------------------------------------- subclasses, copies, pickles


@pytest.mark.parametrize("calls_init", [True, False])
def test_subclass(layer_class, calls_init):
    class Named(layer_class):
        def __init__(self, name):
            if calls_init:
                super().__init__()
            self.label = name

        def forward(self, x, y):
            return super().forward(x, y) + 1

    layer, plain_layer, x = Named("first"), plain_layer_of(layer_class), floats(3)
    assert "Named" in repr(layer)
    assert described(layer.forward(x, x)) == described(plain_layer.forward(x, x) + 1)
    assert described(layer.backward(x)) == described(plain_layer.backward(x))
    assert layer.label == "first"


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


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_can_be_pickled(implementation, name):
    function = getattr(implementation, name)
    assert pickle.loads(pickle.dumps(function)) is function


# --------------------------------------------------------------------------------------- aliasing

DTYPES = [*KERNEL_DTYPES, "f2", "D", "?"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (7,), (100_000,), (300, 1_000)])
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
    assert described(implementation.add_backward(x.copy())) == described(plain.add_backward(x))


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
        expected = outcome(plain_layer.backward, dout)
        assert expected.exception is not None
        assert outcome(layer.backward, dout) == expected
        note = note_of(layer.backward, dout)
        assert note == (
            "MulLayer.backward(dout): x and y are None; call forward(x, y) first, "
            "it keeps the operands"
        )
    note = note_of(implementation.AddLayer(sum_to_shape=True).backward, 1.5)
    assert note.startswith("AddLayer.backward(dout): x and y are None; call forward(x, y) first")
    assert implementation.AddLayer().backward(1) == (1, 1)


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


@pytest.mark.parametrize("attribute", ["name", "_name", "_shape", "shape", "print"])
def test_to_string_whatever_a_subclass_calls_its_attributes(layer_class, attribute, capsys):
    class OfTheInstance(layer_class):
        def __init__(self, value):
            super().__init__()
            setattr(self, attribute, value)

    class OfTheClass(layer_class):
        pass

    setattr(OfTheClass, attribute, "price")
    layers = plain_layer_of(layer_class), layer_class(), OfTheInstance("price"), OfTheClass()
    for layer in layers:
        for x, y in ((np.ones((2, 3)), ROW), (np.float64(1), np.ones(())), (np.ones(0), ROW)):
            layer.x, layer.y = x, y
            assert layer.toString() is None
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4 * 9
    assert printed == printed[:9] * 4


def test_to_string_of_numbers(implementation, capsys):
    layer = implementation.AddLayer()
    layer.forward(100, True)
    layer.toString()
    assert capsys.readouterr().out == "name: Add\nx.shape ()\ny.shape ()\n"


def test_to_string_of_what_has_no_shape(layer, capsys):
    with pytest.raises(AttributeError, match="forward") as caught:
        layer.toString()
    assert "NoneType" not in str(caught.value)
    layer.x = layer.y = [1.0, 2.0]  # of which the plain layers say the same
    with pytest.raises(AttributeError, match="'list' object has no attribute 'shape'"):
        layer.toString()
    assert capsys.readouterr().out == ""


def test_repr(layer):
    name = type(layer).__name__
    assert name in repr(layer)
    assert "sum_to_shape" not in repr(layer)
    layer.forward(np.ones((2, 3), "f4"), 1.5)
    assert all(part in repr(layer) for part in (name, "float32", "(2, 3)", "1.5"))
    assert len(repr(layer)) < 100
    layer.x, layer.y = [1] * 1_000, None
    assert len(repr(layer)) < 100
    layer.x = 10**5_000  # more digits than Python writes
    assert "x=<int of 16610 bits>" in repr(layer)
    summed = repr(type(layer)(sum_to_shape=True))
    assert summed == repr(type(layer)()).replace(">", ", sum_to_shape=True>")
