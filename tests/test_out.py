"""``out=`` follows NumPy's conventions, and nothing is written before all is known to be good."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from implementations import FUNCTIONS, PAIRED, PARAMETERS, SINGLE, operands_of
from operands import KERNEL_DTYPES, LAYOUTS, Literal, Operand, command
from outcome import arrays_in, described, outcome, sharing
from paths import ANY_PATH, taken
from plain import ufunc_calls
from random_calls import ANY_LITERAL, CALLS, DIGITS, DTYPES


class Layers:
    """The functions, done by layers where there are such."""

    def __init__(self, implementation):
        self.implementation = implementation

    def __getattr__(self, name):
        return getattr(self.implementation, name)

    def __repr__(self):
        return f"Layers({self.implementation})"

    def multiply(self, x, y, *, out):
        return self.implementation.MulLayer().forward(x, y, out=out)

    def add(self, x, y, *, out):
        return self.implementation.AddLayer().forward(x, y, out=out)

    def multiply_backward(self, dout, x, y, *, out):
        layer = self.implementation.MulLayer()
        layer.x, layer.y = x, y
        return layer.backward(dout, out=out)

    def add_backward(self, dout, *, out):
        return self.implementation.AddLayer().backward(dout, out=out)


APIS = [lambda implementation: implementation, Layers]
ANY_API = st.sampled_from(APIS)


@pytest.fixture(scope="session", params=APIS, ids=["functions", "layers"])
def api(implementation, request):
    return request.param(implementation)


def numbers(n=5, dtype="f8", seed=0):
    return np.random.default_rng(seed).uniform(1, 9, n).astype(dtype)


def three(n=5, dtype="f8"):
    """dout, x and y."""
    return tuple(numbers(n, dtype, seed) for seed in range(3))


# --------------------------------------------------------------------------------- what it writes


@pytest.mark.parametrize("dtype", [*KERNEL_DTYPES, "f2", "D", "g", "O", ">f8"])
@pytest.mark.parametrize("operation", SINGLE)
def test_out_is_returned(api, operation, dtype):
    operands = operands_of(operation, *three(7, dtype))
    out = np.empty(7, dtype)
    assert getattr(api, operation)(*operands, out=out) is out
    ((ufunc, inputs),) = ufunc_calls(operation, operands)
    np.testing.assert_array_equal(out, ufunc(*inputs))


@pytest.mark.parametrize("dtype", [*KERNEL_DTYPES, "f2", "D", "g", "O", ">f8"])
@pytest.mark.parametrize("operation", PAIRED)
def test_a_pair_is_returned(api, operation, dtype):
    operands = operands_of(operation, *three(7, dtype))
    out = np.empty(7, dtype), np.empty(7, dtype)
    dx, dy = getattr(api, operation)(*operands, out=out)
    assert dx is out[0]
    assert dy is out[1]
    for result, (ufunc, inputs) in zip(out, ufunc_calls(operation, operands), strict=True):
        np.testing.assert_array_equal(result, ufunc(*inputs))


# Newer NumPys then return an array, be it of no axes; older ones refuse.
OF_DOTS = outcome(np.multiply, np.float64(2), np.float64(3), out=...)


@pytest.mark.parametrize("size", [None, 0, 7])
@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("outs", [(..., ...), ("given", ...), (..., "given"), (..., None)])
def test_three_dots_ask_for_an_array(implementation, outs, summed, size):
    dout, x, y = (np.float64(2),) * 3 if size is None else three(size)
    given = np.full(np.shape(dout), 7.0)
    out = tuple(given if one == "given" else one for one in outs)
    actual = outcome(implementation.multiply_backward, dout, x, y, out=out, sum_to_shape=summed)
    if OF_DOTS.exception:
        assert actual.exception == OF_DOTS.exception
        assert np.all(given == 7.0)
        return
    assert actual.exception is None
    assert actual.warnings == ()
    for result, asked, factor in zip(actual.value, outs, (y, x), strict=True):
        assert asked is None or type(result) is np.ndarray
        assert (result is given) == (asked == "given")
        np.testing.assert_array_equal(result, dout * factor)


def test_three_dots_beside_an_output_over_an_operand(implementation):
    dout, x, y = three()
    right = dout * y, dout * x
    actual = outcome(implementation.multiply_backward, dout, x, y, out=(dout, ...))
    assert actual.exception == OF_DOTS.exception
    if actual.exception is None:
        assert actual.value[0] is dout
        np.testing.assert_array_equal(actual.value, right)


@pytest.mark.parametrize("operation", PAIRED)
@pytest.mark.parametrize("given_positions", [(), (0,), (1,)])
def test_a_pair_is_allocated_for_none(api, operation, given_positions):
    operands = operands_of(operation, *three(7))
    out = tuple(np.empty(7) if i in given_positions else None for i in range(2))
    results = getattr(api, operation)(*operands, out=out)
    for i, (ufunc, inputs) in enumerate(ufunc_calls(operation, operands)):
        assert described(results[i]) == described(ufunc(*inputs))
        assert (results[i] is out[i]) == (i in given_positions)
    assert sharing(arrays_in(results), operands) == []


@pytest.mark.parametrize("operation", SINGLE)
def test_tuple_of_one(api, operation):
    # What numpy.multiply takes.
    operands = operands_of(operation, *three(3))
    out = np.empty(3)
    ((ufunc, inputs),) = ufunc_calls(operation, operands)
    assert getattr(api, operation)(*operands, out=(out,)) is out
    assert out.tolist() == ufunc(*inputs).tolist()
    assert getattr(api, operation)(*operands, out=(None,)).tolist() == out.tolist()


@pytest.mark.parametrize("operation", SINGLE)
@pytest.mark.parametrize(
    ("x", "y", "shape"),
    [
        (np.arange(6.0).reshape(2, 3), np.arange(3.0), (2, 3)),
        (np.arange(2.0)[:, None], np.arange(3.0), (2, 3)),
        (np.arange(3.0), 2.5, (3,)),
        (2, np.arange(3.0), (3,)),
        (2.0, 3.0, ()),
        (2, 3, ()),
        (np.float32(2), np.array(3.0), ()),
        (np.array(2.0), np.array(3.0), ()),
        ([1.0, 2.0], [3.0, 4.0], (2,)),
        (np.arange(3.0), np.arange(3.0), (4, 3)),  # out may be larger than what it is given
        (np.array(2.0), 3.0, (2, 2)),
        (np.empty((0, 3)), np.arange(3.0), (0, 3)),
        (np.empty(0), np.empty(0), (0,)),
        (np.empty(0), np.ones(1), (0,)),
    ],
    ids=str,
)
def test_out_by_shape_and_kind(api, operation, x, y, shape):
    expected, out = np.full(shape, -1.0), np.full(shape, -1.0)
    operands = operands_of(operation, y, x, y)
    ((ufunc, inputs),) = ufunc_calls(operation, operands)
    ufunc(*inputs, out=expected)
    assert getattr(api, operation)(*operands, out=out) is out
    assert described(out) == described(expected)


@pytest.mark.parametrize("shape", [(2, 3), (4, 2, 3)])
@pytest.mark.parametrize("operation", PAIRED)
def test_pairs_are_broadcast_up_to_out(api, operation, shape):
    dout, x, y = numbers(6).reshape(2, 3), numbers(3, seed=1), numbers((2, 1), seed=2)
    operands = operands_of(operation, dout, x, y)
    out = np.full(shape, -1.0), np.full(shape, -1.0)
    getattr(api, operation)(*operands, out=out)
    for result, (ufunc, inputs) in zip(out, ufunc_calls(operation, operands), strict=True):
        np.testing.assert_array_equal(result, np.broadcast_to(ufunc(*inputs), shape))


STRIDED = {
    "every second": lambda n: np.full(2 * n, -1.0)[::2],
    "backwards": lambda n: np.full(n, -1.0)[::-1],
    "column": lambda n: np.full((n, 3), -1.0)[:, 1],
    "unaligned": lambda n: np.full(8 * n + 1, 0xFF, np.uint8)[1:].view("f8"),
    "byte-swapped": lambda n: np.full(n, -1.0, ">f8"),
    "single precision": lambda n: np.full(n, -1.0, "f4"),
    "wider": lambda n: np.full(n, -1.0, "g"),
    "complex": lambda n: np.full(n, -1.0, "D"),
    "object": lambda n: np.full(n, -1.0, "O"),
}


# No kernel, and so no thread, has to do with objects.
STRIDED_AND_SIZES = [
    (kind, n) for kind in STRIDED for n in (3, 100, 20_000) if kind != "object" or n <= 100
]


@pytest.mark.parametrize(("kind", "n"), STRIDED_AND_SIZES)
def test_out_of_any_layout_and_same_kind_of_dtype(api, kind, n):
    out, other, expected = (STRIDED[kind](n) for _ in range(3))
    for operation in FUNCTIONS:
        operands = operands_of(operation, *three(n))
        given_out = (out, other) if operation in PAIRED else out
        getattr(api, operation)(*operands, out=given_out)
        written = zip((out, other), ufunc_calls(operation, operands), strict=False)
        for one, (ufunc, inputs) in written:
            ufunc(*inputs, out=expected)
            assert described(one) == described(expected)
            assert described(one.base) == described(expected.base)  # nothing between the elements


@pytest.mark.parametrize("kind", [np.matrix, np.ma.MaskedArray])
def test_out_of_a_subclass(api, kind):
    x, y = numbers((2, 3)), numbers((2, 3), seed=1)
    out, expected = np.zeros((2, 3)).view(kind), np.zeros((2, 3)).view(kind)
    np.multiply(x, y, out=expected)
    assert api.multiply(x, y, out=out) is out
    assert described(out) == described(expected)
    other = np.zeros((2, 3)).view(kind)
    api.add_backward(x, out=(out, other))
    np.multiply(x, 1, out=expected)
    assert described(out) == described(expected)
    assert described(other) == described(expected)


def test_ellipsis(implementation):
    # NumPy 2.3 and later take it for "an array, even where a scalar is usual".
    for operation in SINGLE:
        operands = operands_of(operation, 1.5, 2.0, 3.0)
        ((ufunc, inputs),) = ufunc_calls(operation, operands)
        expected = outcome(ufunc, *inputs, out=...)
        assert outcome(getattr(implementation, operation), *operands, out=...) == expected


# ----------------------------------------------------------------------------------------- errors


def read_only(array):
    array.flags.writeable = False
    return array


BAD = {
    "too short": lambda: np.full(4, -1.0),
    "too long": lambda: np.full(6, -1.0),
    "a single element": lambda: np.full(1, -1.0),
    "no dimension": lambda: np.array(-1.0),
    "transposed": lambda: np.full((5, 1), -1.0)[:, :0],
    "integers": lambda: np.full(5, -1),
    "small integers": lambda: np.full(5, -1, "i1"),
    "booleans": lambda: np.full(5, True),
    "dates": lambda: np.full(5, "2020-01-01", "M8[D]"),
    "structured": lambda: np.zeros(5, "f8,f8"),
    "read-only": lambda: read_only(np.full(5, -1.0)),
    "repeated": lambda: np.broadcast_to(-1.0, 5),
    "a list": lambda: [-1.0] * 5,
    "a number": lambda: -1.0,
    "a scalar": lambda: np.float64(-1.0),
    "a string": lambda: "array",
    "bytes": lambda: bytearray(40),
}


@pytest.mark.parametrize("operation", SINGLE)
@pytest.mark.parametrize("bad", BAD)
def test_what_numpy_refuses_is_refused(api, operation, bad):
    operands, out = operands_of(operation, *three()), BAD[bad]()
    before = described(out)
    ((ufunc, inputs),) = ufunc_calls(operation, operands)
    expected = outcome(ufunc, *inputs, out=out)
    assert expected.exception is not None
    assert outcome(getattr(api, operation), *operands, out=out) == expected
    assert described(out) == before


@pytest.mark.parametrize("operation", PAIRED)
@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("bad", BAD)
def test_pairs_are_refused_before_they_are_written(api, operation, position, bad):
    operands = operands_of(operation, *three())
    pair = [np.full(5, -1.0), np.full(5, -1.0)]
    pair[position] = BAD[bad]()
    before = described(pair)
    expected = outcome(np.multiply, operands[0], operands[-1], out=pair[position]).exception
    with pytest.raises(expected[0]):
        getattr(api, operation)(*operands, out=tuple(pair))
    assert described(pair) == before


@pytest.mark.parametrize("operation", SINGLE)
@pytest.mark.parametrize("count", [0, 2, 3])
def test_a_tuple_of_another_length_is_refused(api, operation, count):
    operands, arrays = operands_of(operation, *three()), tuple(np.full((count, 5), -1.0))
    ((ufunc, inputs),) = ufunc_calls(operation, operands)
    expected = outcome(ufunc, *inputs, out=arrays)
    assert expected.exception is not None
    assert outcome(getattr(api, operation), *operands, out=arrays) == expected
    assert all(np.all(array == -1.0) for array in arrays)


@pytest.mark.parametrize("operation", PAIRED)
@pytest.mark.parametrize(
    "out",
    [
        (),
        (np.full(5, -1.0),),
        tuple(np.full(5, -1.0) for _ in range(3)),
        [np.full(5, -1.0), np.full(5, -1.0)],
        np.full(5, -1.0),
        np.full((2, 5), -1.0),
        {0: None, 1: None},
        "ab",
        5,
    ],
    ids=lambda out: f"{type(out).__name__} of {len(out)}" if hasattr(out, "__len__") else "int",
)
def test_what_is_not_a_pair_is_refused(api, operation, out):
    operands = operands_of(operation, *three())
    before = described(out)
    # np.divmod is a ufunc of two results, as backward is.
    expected = outcome(np.divmod, operands[0], operands[-1], out=out).exception
    with pytest.raises(expected[0], match="out"):
        getattr(api, operation)(*operands, out=out)
    assert described(out) == before


@pytest.mark.parametrize(
    "operands",
    [
        (np.arange(5.0), np.arange(5.0), np.arange(4.0)),
        (np.arange(5.0), np.arange(4.0), np.arange(5.0)),
        (np.arange(4.0), np.arange(5.0), np.arange(5.0)),
        (np.arange(5.0), None, np.arange(5.0)),
        (np.arange(5.0), "a", np.arange(5.0)),
        (np.arange(5.0), np.arange(5.0), 1j),
        (np.arange(5.0), 1j, np.arange(5.0)),
        (np.arange(5), np.arange(5), 10**30),
        (np.arange(5.0), np.arange(5.0), np.array("2020-01-01", "M8[D]")),
    ],
    ids=str,
)
def test_bad_operands_leave_the_pair_as_it_was(api, operands):
    pair = np.full(5, -1.0), np.full(5, -1.0)
    errors = [
        outcome(f, *args, out=np.empty(5)) for f, args in ufunc_calls("multiply_backward", operands)
    ]
    expected = next(error.exception for error in errors if error.exception)
    with pytest.raises(expected[0]):
        api.multiply_backward(*operands, out=pair)
    assert described(pair) == described((np.full(5, -1.0), np.full(5, -1.0)))


@pytest.mark.parametrize(
    "x", [np.arange(4.0), "a", 1j * np.arange(4), None], ids=["shape", "text", "complex", "None"]
)
def test_a_gradient_that_cannot_be_leaves_the_other_as_it_was(api, x):
    dx, y = np.full(5, -1.0), np.arange(5.0)
    expected = outcome(np.multiply, y, x).exception
    assert outcome(api.multiply_backward, y, x, y, out=(dx, None)).exception == expected
    assert dx.tolist() == [-1.0] * 5


def test_a_refusal_leaves_masks_as_they_were(api):
    x, dx = np.arange(3.0), np.ma.array([1.0, 2.0, 3.0], mask=[True, False, False])
    before = described(dx)
    with pytest.raises(TypeError, match="Cannot cast"):
        api.multiply_backward(
            np.ma.array(x, mask=[False, False, True]), x, x, out=(dx, np.ones(3, int))
        )
    assert described(dx) == before


@pytest.mark.parametrize("operation", FUNCTIONS)
def test_an_array_that_numpy_warns_of_writing_to(api, operation):
    def broadcast():  # of which nothing is repeated
        return np.broadcast_arrays(np.zeros((1, 3)), np.zeros((1, 1, 3)))[0]

    x = numbers(3).reshape(1, 1, 3)
    operands = operands_of(operation, x, x, x)
    out = broadcast() if operation in SINGLE else (broadcast(), broadcast())
    one = outcome(getattr(api, operation), *operands, out=out)
    assert one.warnings == outcome(np.multiply, x, x, out=broadcast()).warnings * (
        1 if operation in SINGLE else 2
    )
    assert one.value is out or one.value == out


def test_an_overflow_over_unaligned_operands(api):
    # NumPy, which words the warning, must find the operands as they were.
    def given():
        memory = np.full(60, 0x7F, np.uint8)
        return memory[1:49].view("f8"), memory[:48].view("f8")

    x, out = given()
    one = outcome(api.multiply, x, x, out=out)
    x, expected = given()
    assert one.warnings == outcome(np.multiply, x, x, out=expected).warnings != ()
    assert described(one.value) == described(expected)
    x, out = given()
    one = outcome(api.multiply_backward, x, x, x, out=(out, None))
    assert one.warnings != ()
    assert described(one.value[0]) == described(expected)


def test_layer_works_on_after_a_refusal(implementation):
    layer, x, y = implementation.MulLayer(), numbers(5), numbers(5, seed=1)
    out = np.empty(5)
    with pytest.raises(ValueError, match=r"\(4,\)"):
        layer.forward(x, y, out=np.empty(4))
    assert layer.forward(x, y, out=out) is out
    with pytest.raises(ValueError, match="out"):
        layer.backward(x, out=(out,))
    dx, dy = layer.backward(x, out=(out, None))
    assert (dx.tolist(), dy.tolist()) == ((x * y).tolist(), (x * x).tolist())


# --------------------------------------------------------------------------------------- errstate


# A row, a tail, threads' shares.
LENGTHS = [(5, "f4"), (3_000, "f8"), (100_000, "f4"), (100_000, "f8")]
TWO_SIGNS = {"multiply": 1, "add": 1, "subtract": -1}  # of operands whose result overflows


@pytest.mark.parametrize(("n", "dtype"), LENGTHS)
@pytest.mark.parametrize("mode", ["ignore", "warn", "raise", "call", "log"])
@pytest.mark.parametrize("operation", TWO_SIGNS)
def test_errstate_when_the_operand_is_overwritten(api, operation, mode, n, dtype):
    # Whoever computes the result again, for NumPy to word the warning, needs operands that
    # are no longer there.
    def operands():
        x, y = numbers(n, dtype), numbers(n, dtype, seed=1)
        x[n // 2] = np.finfo(dtype).max
        y[n // 2] = np.finfo(dtype).max * TWO_SIGNS[operation]
        return x, y

    x, y = operands()
    expected = outcome(getattr(np, operation), x, y, out=x, errstate={"all": mode})
    x_again, y = operands()
    actual = outcome(getattr(api, operation), x_again, y, out=x_again, errstate={"all": mode})
    assert actual == expected
    assert (actual.exception is not None) == (mode == "raise")
    assert (actual.warnings + actual.handled == ()) == (mode in ("ignore", "raise"))
    assert described(x_again) == described(x)


@pytest.mark.parametrize(("n", "dtype"), LENGTHS)
@pytest.mark.parametrize("mode", ["ignore", "warn", "call", "log"])
@pytest.mark.parametrize("overwritten", [(0, 1), (1, 0), (2, 1), (2, 0), (1, 2)])
def test_errstate_when_backward_overwrites(api, mode, n, dtype, overwritten):
    def operands():
        dout, x, y = (numbers(n, dtype, seed) for seed in range(3))
        y[n // 3] = np.finfo(dtype).max
        return dout, x, y

    dout, x, y = operands()
    first = outcome(np.multiply, dout, y, errstate={"all": mode})
    second = outcome(np.multiply, dout, x, errstate={"all": mode})
    given_operands = operands()
    pair = tuple(given_operands[i] for i in overwritten)
    actual = outcome(api.multiply_backward, *given_operands, out=pair, errstate={"all": mode})
    assert described(pair) == described((first.value, second.value))
    assert actual.warnings == first.warnings + second.warnings
    assert actual.handled == first.handled + second.handled
    assert (actual.warnings + actual.handled == ()) == (mode == "ignore")


def test_errstate_raise_from_backward(api):
    dout, x, y = np.full(5, 2.0), np.ones(5), np.full(5, 1e308)
    pair = np.empty(5), np.empty(5)
    with (
        np.errstate(over="raise"),
        pytest.raises(FloatingPointError, match=r"^overflow encountered in multiply$"),
    ):
        api.multiply_backward(dout, x, y, out=pair)
    api.multiply_backward(dout, x, x, out=pair)
    assert pair[0].tolist() == [2.0] * 5


@pytest.mark.parametrize(
    ("operands", "dtype"),
    [
        (
            (np.ones(5, "f4"), np.ones(5, "f4"), 1e300),
            "f4",
        ),  # the number overflows, not the product
        ((np.full(5, 2.0), np.ones(5), 1e300), "f4"),  # neither, but the result as it is cast
    ],
)
def test_casts_warn_once_a_product(api, operands, dtype):
    expected = [
        outcome(f, *args, out=np.empty(5, dtype)).warnings
        for f, args in ufunc_calls("multiply_backward", operands)
    ]
    pair = np.empty(5, dtype), np.empty(5, dtype)
    actual = outcome(api.multiply_backward, *operands, out=pair)
    assert len(expected[0]) == 1
    assert actual.warnings == expected[0] + expected[1]


# ------------------------------------------------------------------------------------ any output


def assert_said(actual, expected):
    """Assert that a call warned and handed over what its products do, in whichever order."""
    for said in ("warnings", "handled"):
        products = itertools.chain(*(getattr(one, said) for one in expected))
        assert sorted(getattr(actual, said), key=repr) == sorted(products, key=repr)


# These take outputs for themselves.
OUT_LAYOUTS = [name for name in LAYOUTS if name not in ("answering", "retreating")]
# Anything may be cast into void, but nothing back: with two results, where NumPy is asked before
# either is written whether it could write them, it says that it could not.
OUT_DTYPES = [dtype for dtype in DTYPES if np.dtype(dtype).kind != "V"]
OUT_DTYPE = st.sampled_from([*KERNEL_DTYPES * 4, *OUT_DTYPES])
OUT_LAYOUT = st.sampled_from(["C", "C", "F", *OUT_LAYOUTS])
ANY_OPERATION = st.sampled_from(FUNCTIONS)
NO_ARRAY = ANY_LITERAL.filter(lambda literal: literal.source != "None")


@st.composite
def calls_with_out(draw):
    """An operation, its operands, and for each result an array or None."""
    call, operation = draw(CALLS), draw(ANY_OPERATION)
    operands = operands_of(operation, call.dout, call.x, call.y)
    shapes = [part.shape for part in operands if isinstance(part, Operand)]
    dtypes = [part.dtype for part in operands if getattr(part, "dtype", None) in OUT_DTYPES]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        shape = ()
    out = []
    for _ in range(2 if operation in PAIRED else 1):
        kind, size = draw(DIGITS), draw(DIGITS)
        if kind == 9 or (kind > 6 and operation in PAIRED):
            out.append(draw(NO_ARRAY) if kind == 9 else None)
            continue
        dtype = dtypes[size % len(dtypes)] if dtypes and kind < 4 else draw(OUT_DTYPE)
        larger = {7: (2, *shape), 8: shape[1:], 9: (1, *shape)}.get(size, shape)
        out.append(Operand(dtype, larger, draw(OUT_LAYOUT)))
    return operation, operands, tuple(out), call.errstate


@given(path=ANY_PATH, call=calls_with_out())
def test_out_does_what_it_does_in_numpy(implementation, path, call):
    note(command(check_out, implementation, path, *call))
    check_out(implementation, path, *call)


def check_out(implementation, path, operation, operands, out, errstate):
    def build():
        built = {part: part.build() for part in operands}
        return [built[part] for part in operands], [part and part.build() for part in out]

    expected, targets = [], []
    for position in range(len(out)):
        inputs, arrays = build()
        ufunc, inputs = ufunc_calls(operation, inputs)[position]
        expected.append(outcome(ufunc, *inputs, out=arrays[position], errstate=errstate))
        targets.append(arrays[position])
    inputs, arrays = build()
    untouched = described(arrays)
    given_out = tuple(arrays) if operation in PAIRED else arrays[0]
    with taken(path):
        actual = outcome(
            getattr(implementation, operation), *inputs, out=given_out, errstate=errstate
        )
    if operation in SINGLE:
        assert actual == expected[0]
        assert described(arrays) == described(targets)
        return
    errors = [one.exception for one in expected if one.exception]
    if errors:
        assert actual.exception[0] in [error[0] for error in errors]
        # What objects raise, and floating-point exceptions, is not known before it happens.
        if actual.exception[0] is not FloatingPointError and all(
            getattr(part, "dtype", None) != "O" for part in out
        ):
            assert described(arrays) == untouched
        return
    assert actual.exception is None
    assert described(arrays) == described(targets)
    for i, one in enumerate(expected):
        assert described(actual.value[i]) == one.result
        # A subclass may return something else.
        assert (actual.value[i] is arrays[i]) == (one.value is targets[i])
    assert_said(actual, expected)


@pytest.mark.parametrize("dtype", ["O", "U5", "S5", np.dtypes.StringDType()])
def test_what_an_output_holds_does_not_matter(api, dtype):
    # Some of it cannot be converted to what is computed.
    x, y, dout = np.array([2, 3], "u2"), np.array([True, True]), np.array([True, True])
    out = np.array(["-4", "a"], dtype)
    dx, dy = api.multiply_backward(dout, x, y, out=(None, out))
    assert described(dx) == described(dout * y)
    assert dy is out
    assert described(out) == described(np.multiply(dout, x, out=np.array(["-4", "a"], dtype)))


# ---------------------------------------------------------------------------------------- overlap


@dataclass(frozen=True)
class View:
    """A window on memory; offset and strides count elements, ``shift`` bytes."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    shift: int = 0

    def of(self, memory: np.ndarray) -> np.ndarray:
        size = memory.itemsize
        strides = tuple(size * stride for stride in self.strides)
        offset = size * self.offset + self.shift
        return np.ndarray(self.shape, memory.dtype, memory, offset, strides)


@dataclass(frozen=True)
class Overlap:
    """Operands and results that lie in one piece of memory; equal views are one object."""

    operation: str
    memory: Operand
    operands: tuple[View | Literal, ...]
    out: tuple[View | None, ...]
    errstate: dict[str, str] = field(default_factory=dict)

    def build(self) -> tuple[np.ndarray, list[Any], tuple[np.ndarray | None, ...]]:
        memory, built = self.memory.build(), {None: None}

        def one(part):
            if part not in built:
                built[part] = part.of(memory) if isinstance(part, View) else part.build()
            return built[part]

        return memory, [one(part) for part in self.operands], tuple(one(part) for part in self.out)

    def by_numpy(self) -> tuple[list[Any], np.ndarray, np.ndarray]:
        """The outcome of each product, alone on untouched memory; and memory, both written.

        Also which bytes of it belong to a NaN: what is written across these may look like a number,
        and is another one for each NaN.
        """
        outcomes, (memory, _, written) = [], self.build()
        blank = np.zeros_like(memory)
        for position, result in enumerate(written):
            _, operands, out = self.build()
            ufunc, inputs = ufunc_calls(self.operation, operands)[position]
            one = outcome(ufunc, *inputs, out=out[position], errstate=self.errstate)
            outcomes.append(one)
            if result is not None and one.exception is None:
                result[...] = out[position]
                bits = self.out[position].of(blank).view(f"u{blank.itemsize}")
                bits[...] = np.where(np.isnan(out[position]), ~bits.dtype.type(0), 0)
        return outcomes, memory, blank.view(bool)


@st.composite
def views(draw, shape):
    axes = range(len(shape))
    order = axes if draw(st.booleans()) else reversed(axes)
    strides, extent = [0] * len(shape), draw(st.sampled_from([1, 1, 1, 2]))
    offset = draw(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5, 8]))
    backwards = draw(st.sampled_from([0, 0, 0, 0, 1, 2, 3]))
    for axis in order:
        strides[axis] = extent
        extent *= shape[axis]
        if backwards >> axis & 1 and shape[axis]:
            offset += strides[axis] * (shape[axis] - 1)
            strides[axis] *= -1
    return View(offset, shape, tuple(strides), draw(st.sampled_from([*[0] * 15, 1, 2, 4])))


@st.composite
def overlaps(draw):
    operation = draw(st.sampled_from([*FUNCTIONS, *PAIRED]))
    shape = draw(
        st.one_of(
            st.tuples(st.integers(0, 130)),
            st.tuples(st.integers(0, 130)),
            st.tuples(st.integers(0, 5), st.integers(0, 19)),
            st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9)),
        )
    )
    same = views(shape)
    narrower = st.sampled_from([shape[1:], (1, *shape[1:]), (*shape[:-1], 1), ()]).flatmap(views)
    # Of numbers whose products fit every dtype: which step of a conversion NumPy names in its
    # warning depends on the overlap.
    number = st.sampled_from(["2", "-3", "1.5", "nan"]).map(Literal)
    part = st.one_of(same, same, same, same, narrower, number)
    operands = [draw(part) for _ in PARAMETERS[operation]]
    in_place = [part for part in operands if getattr(part, "shape", None) == shape]
    target = st.one_of(same, same, st.sampled_from(in_place) if in_place else same)
    if operation in PAIRED:
        target = st.one_of(target, target, target, st.none())
    if draw(st.integers(0, 19)) == 19:
        target = st.one_of(target, narrower, views((2, *shape)))
    return Overlap(
        operation,
        Operand(
            # Not complex: whether NumPy uses FMA for that depends on the overlap.
            draw(st.sampled_from([*KERNEL_DTYPES, "f8", "f2", ">f8"])),
            (700,),
            values=draw(st.sampled_from(["ordinary", "ordinary", "spot", "special", "bits"])),
            seed=draw(st.integers(0, 2**16)),
        ),
        tuple(operands),
        tuple(draw(target) for _ in range(2 if operation in PAIRED else 1)),
        draw(st.sampled_from([{}, {}, {"all": "ignore"}, {"all": "warn"}, {"all": "call"}])),
    )


@given(path=ANY_PATH, of=ANY_API, overlap=overlaps())
def test_overlap_does_what_numpy_does_on_copies(implementation, path, of, overlap):
    api = of(implementation)
    note(command(check_overlap, api, path, overlap))
    check_overlap(api, path, overlap)


def check_overlap(api, path, overlap):
    expected, expected_memory, nan_bytes = overlap.by_numpy()
    memory, operands, out = overlap.build()
    untouched = described(memory)
    with taken(path):
        actual = outcome(
            getattr(api, overlap.operation),
            *operands,
            out=out if overlap.operation in PAIRED else out[0],
            errstate=overlap.errstate,
        )
    errors = [one.exception for one in expected if one.exception]
    if errors:
        assert actual.exception[0] is errors[0][0]
        assert described(memory) == untouched
        return
    assert actual.exception is None
    if any(part and part.shift for part in overlap.out):
        last = [part for part in overlap.out if part][-1]  # nothing is written across its NaNs
        assert described(last.of(memory)) == described(last.of(expected_memory))
        for array in (memory, expected_memory):
            array.view(np.uint8)[nan_bytes] = 0
    assert described(memory) == described(expected_memory)
    results = actual.value if overlap.operation in PAIRED else (actual.value,)
    for result, target, one in zip(results, out, expected, strict=True):
        assert result is target if target is not None else described(result) == one.result
    assert_said(actual, expected)


IN_PLACE = {
    "dx in dout": lambda dout, x, y: (dout, None),
    "dy in dout": lambda dout, x, y: (None, dout),
    "dx in x, dy in y": lambda dout, x, y: (x, y),
    "dx in y, dy in x": lambda dout, x, y: (y, x),
    "dx in dout, dy in x": lambda dout, x, y: (dout, x),
    "dx in y, dy in dout": lambda dout, x, y: (y, dout),
    "both in one": lambda dout, x, y: (x, x),
}


@pytest.mark.parametrize("n", [3, 100, 40_000])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("operation", SINGLE)
def test_results_written_over_an_operand(api, operation, dtype, n):
    for position in range(len(PARAMETERS[operation])):
        operands = operands_of(operation, *three(n, dtype))
        ((ufunc, inputs),) = ufunc_calls(operation, operands)
        expected, out = ufunc(*inputs), operands[position]
        assert getattr(api, operation)(*operands, out=out) is out
        assert described(out) == described(expected)


@pytest.mark.parametrize("n", [3, 100, 40_000])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("kind", IN_PLACE)
def test_gradients_written_over_the_operands(api, kind, dtype, n):
    dout, x, y = (numbers(n, dtype, seed) for seed in range(3))
    dx, dy = dout * y, dout * x
    out = IN_PLACE[kind](dout, x, y)
    results = api.multiply_backward(dout, x, y, out=out)
    # Where both are one array, dy was written last.
    assert described(results[0]) == described(dy if out[0] is out[1] else dx)
    assert described(results[1]) == described(dy)


@pytest.mark.parametrize("shift", [-40, -9, -1, 1, 3, 8, 40])
@pytest.mark.parametrize("n", [50, 100_000])
def test_results_shifted_against_the_operands(api, n, shift):
    # Long enough for threads: a chunk must not read what its neighbour has written.
    start = max(0, -shift)
    for operation in FUNCTIONS:
        memory = numbers(n + 40)
        x, out = memory[start : start + n], memory[start + shift :][:n]
        operands, other = operands_of(operation, x, x, x), np.empty(n)
        expected = [ufunc(*inputs) for ufunc, inputs in ufunc_calls(operation, operands)]
        given_out = (out, other) if operation in PAIRED else out
        getattr(api, operation)(*operands, out=given_out)
        for result, one in zip((out, other), expected, strict=False):
            np.testing.assert_array_equal(result, one)


@pytest.mark.parametrize("shift", [-40, -9, -1, 0, 1, 3, 8, 40])
@pytest.mark.parametrize("n", [50, 100_000])
def test_results_shifted_against_each_other(api, n, shift):
    dout, x, y = (numbers(n, "f8", seed) for seed in range(3))
    memory, expected = np.full((2, n + 40), -1.0)
    first, second = max(0, -shift), max(0, shift)
    expected[first : first + n] = dout * y
    expected[second : second + n] = dout * x  # is written last
    api.multiply_backward(dout, x, y, out=(memory[first:][:n], memory[second:][:n]))
    np.testing.assert_array_equal(memory, expected)
