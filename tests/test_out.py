"""``out=`` follows NumPy's conventions, and nothing is written before all is known to be good."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, note
from hypothesis import strategies as st
from implementations import FUNCTIONS, PAIRED, PARAMETERS, SINGLE, operands_of
from operands import KERNEL_DTYPES, LAYOUTS, Literal, Operand, command
from outcome import described, outcome
from outputs import assert_said, check_out
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


# ------------------------------------------------------------------------------------ any output


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


@given(path=ANY_PATH, of=ANY_API, call=calls_with_out())
def test_out_does_what_it_does_in_numpy(implementation, path, of, call):
    note(command(check_out, of(implementation), path, *call))
    check_out(of(implementation), path, *call)


# ------------------------------------------------------------------------------- what it writes


def of_shapes(*shapes, dtype="f8", values="ordinary"):
    return [Operand(dtype, shape, "C", values, seed) for seed, shape in enumerate(shapes)]


def literals(*sources):
    return [Literal(source) for source in sources]


FIVE, OUT = of_shapes((5,), (5,), (5,)), Operand("f8", (5,), seed=7)
DOTS = Literal("...")  # newer NumPys then return an array, be it of no axes; older ones refuse
CASES = {  # dout, x and y; and two outputs, of which calls with one result take the first
    "none": (FIVE, (None, None)),
    "one": (FIVE, (OUT, None)),
    "the other": (FIVE, (None, OUT)),
    "pair": (FIVE, (OUT, OUT)),
    "row": (of_shapes((2, 3), (2, 3), (3,)), of_shapes((2, 3), (2, 3))),
    "outer": (of_shapes((2, 3), (2, 1), (3,)), of_shapes((2, 3), (2, 3))),
    "larger than what it is given": (
        of_shapes((2, 3), (3,), (2, 1)),
        of_shapes((4, 2, 3), (4, 2, 3)),
    ),
    "operands that are copied": (
        [Operand("f8", (5,), "unaligned"), Operand(">f8", (5,)), Operand(">f8", (5,), seed=1)],
        (OUT, OUT),
    ),
    "empty": (of_shapes((0, 3), (3,), (3,)), of_shapes((0, 3), (0, 3))),
    "nothing of one": (of_shapes((0,), (0,), (1,)), of_shapes((0,), (0,))),
    "numbers": (literals("2.0", "3.0", "4.0"), of_shapes((), ())),
    "int": (literals("2", "3", "4"), of_shapes((), (2, 2))),
    "scalars": (literals("np.float32(2)", "np.array(3.0)", "np.float64(2)"), of_shapes((), ())),
    "lists": (literals("[1.0, 2.0]", "[3.0, 4.0]", "(5.0, 6.0)"), of_shapes((2,), (2,))),
    "an array and numbers": ([*of_shapes((3,)), *literals("2.5", "2")], of_shapes((3,), (3,))),
    "dots": (FIVE, (DOTS, DOTS)),
    "dots of nothing": (of_shapes((0,), (0,), (0,)), (DOTS, DOTS)),
    "dots of scalars": (literals(*["np.float64(2)"] * 3), (DOTS, DOTS)),
    "dots and an array": (FIVE, (DOTS, OUT)),
    "an array and dots": (FIVE, (OUT, DOTS)),
    "dots and none": (FIVE, (DOTS, None)),
    # What an output held cannot always be converted to what is computed.
    "text as objects": (
        [*of_shapes((2,), dtype="u2"), *literals("np.array([True, True])") * 2],
        (None, Literal("np.array(['-4', 'a'], 'O')")),
    ),
    "text": (
        [*of_shapes((2,), dtype="u2"), *literals("np.array([True, True])") * 2],
        (None, Literal("np.array(['-4', 'a'], 'U5')")),
    ),
    # The number overflows, not the product; neither, but the result as it is cast.
    "a number that is cast": (
        [*of_shapes((5,), (5,), dtype="f4"), Literal("1e300")],
        of_shapes((5,), (5,), dtype="f4"),
    ),
    "results that are cast": (
        [*of_shapes((5,), (5,)), Literal("1e300")],
        of_shapes((5,), (5,), dtype="f4"),
    ),
}


@pytest.mark.parametrize("operation", FUNCTIONS)
@pytest.mark.parametrize("case", CASES)
def test_out_as_numpys(api, case, operation):
    operands, out = CASES[case]
    out = out if operation in PAIRED else out[:1]
    check_out(api, None, operation, operands_of(operation, *operands), out)


@pytest.mark.parametrize("operation", FUNCTIONS)
def test_an_array_that_numpy_warns_of_writing_to(api, operation):
    def broadcast():  # of which nothing is repeated
        return np.broadcast_arrays(np.zeros((1, 3)), np.zeros((1, 1, 3)))[0]

    x = np.ones((1, 1, 3))
    operands = operands_of(operation, x, x, x)
    out = broadcast() if operation in SINGLE else (broadcast(), broadcast())
    one = outcome(getattr(api, operation), *operands, out=out)
    assert one.warnings == outcome(np.multiply, x, x, out=broadcast()).warnings * (
        1 if operation in SINGLE else 2
    )
    assert one.value is out or one.value == out


# --------------------------------------------------------------------------------------- refusals

BAD = {
    "too short": Operand("f8", (4,)),
    "too long": Operand("f8", (6,)),
    "a single element": Operand("f8", (1,)),
    "no dimension": Operand("f8", ()),
    "transposed": Operand("f8", (5, 0)),
    "integers": Operand("i8", (5,)),
    "small integers": Operand("i1", (5,)),
    "booleans": Operand("?", (5,)),
    "dates": Operand("M8[D]", (5,)),
    "structured": Operand("f8,f8", (5,)),
    "read-only": Operand("f8", (5,), "readonly"),
    "repeated": Operand("f8", (5,), "repeated rows"),
    "a list": Literal("[-1.0] * 5"),
    "a number": Literal("-1.0"),
    "a scalar": Literal("np.float64(-1)"),
    "a string": Literal("'array'"),
    "bytes": Literal("bytearray(40)"),
}
POSITIONS = [*((name, 0) for name in FUNCTIONS), *((name, 1) for name in PAIRED)]


@pytest.mark.parametrize(("operation", "position"), POSITIONS)
@pytest.mark.parametrize("bad", BAD)
def test_what_numpy_refuses_is_refused(api, operation, position, bad):
    # Of a pair neither is written, nor is the mask of one.
    for good in (OUT, Operand("f8", (5,), "masked")):
        out = [good] * (2 if operation in PAIRED else 1)
        out[position] = BAD[bad]
        operands = operands_of(operation, *FIVE)
        assert check_out(api, None, operation, operands, out).exception is not None


BAD_OPERANDS = {
    "y of another shape": of_shapes((5,), (5,), (4,)),
    "x of another shape": of_shapes((5,), (4,), (5,)),
    "dout of another shape": of_shapes((4,), (5,), (5,)),
    "None": [OUT, Literal("None"), OUT],
    "text": [OUT, Literal("'a'"), OUT],
    "complex y": [OUT, OUT, Literal("1j")],
    "complex x": [OUT, Literal("1j"), OUT],
    "too large an int": [*of_shapes((5,), (5,), dtype="i8"), Literal("10**30")],
    "date": [OUT, OUT, Literal("np.array('2020-01-01', 'M8[D]')")],
}


@pytest.mark.parametrize("out", [(OUT, OUT), (OUT, None), (None, OUT)], ids=["both", "dx", "dy"])
@pytest.mark.parametrize("case", BAD_OPERANDS)
def test_bad_operands_leave_outputs_as_they_were(api, case, out):
    one = check_out(api, None, "multiply_backward", BAD_OPERANDS[case], out)
    assert one.exception is not None or None in out


@pytest.mark.parametrize("operation", SINGLE)
@pytest.mark.parametrize("count", range(4))
def test_tuples_of_outputs_as_numpys(api, operation, count):
    operands, written = operands_of(operation, *np.ones((3, 5))), np.full((2, count, 5), -1.0)
    ((ufunc, inputs),) = ufunc_calls(operation, operands)
    for one, other in ((*written[0],), (*written[1],)), ((None,) * count,) * 2:
        expected = outcome(ufunc, *inputs, out=one)
        assert (expected.exception is None) == (count == 1)
        actual = outcome(getattr(api, operation), *operands, out=other)
        assert actual == expected
        assert actual.exception or other[0] is None or actual.value is other[0]
    assert described(written[1]) == described(written[0])


@pytest.mark.parametrize("operation", PAIRED)
@pytest.mark.parametrize(
    "out",
    [
        (),
        (np.full(5, -1.0),),
        (np.full(5, -1.0),) * 3,
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
    operands = operands_of(operation, *np.ones((3, 5)))
    before = described(out)
    # np.divmod is a ufunc of two results, as backward is.
    expected = outcome(np.divmod, operands[0], operands[-1], out=out).exception
    with pytest.raises(expected[0], match="out"):
        getattr(api, operation)(*operands, out=out)
    assert described(out) == before


def test_layer_works_on_after_a_refusal(implementation):
    layer, x, y = implementation.MulLayer(), np.arange(5.0), np.ones(5)
    out = np.empty(5)
    with pytest.raises(ValueError, match=r"\(4,\)"):
        layer.forward(x, y, out=np.empty(4))
    assert layer.forward(x, y, out=out) is out
    with pytest.raises(ValueError, match="out"):
        layer.backward(x, out=(out,))
    dx, dy = layer.backward(x, out=(out, None))
    assert (dx.tolist(), dy.tolist()) == ((x * y).tolist(), (x * x).tolist())


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


# A kernel has read them by then, but NumPy, which words a warning, must find them as they were.
BITS, ROW, UNALIGNED = (
    Operand("f8", (130,), values="bits", seed=1),
    View(0, (60,), (1,)),
    View(0, (60,), (1,), 1),
)
OVERWRITTEN = [
    Overlap("multiply", BITS, (UNALIGNED, UNALIGNED), (ROW,)),
    Overlap("multiply_backward", BITS, (UNALIGNED,) * 3, (ROW, None)),
    Overlap("multiply", BITS, (View(65, (60,), (1,)), View(3, (), ())), (ROW,)),
]


@given(path=ANY_PATH, of=ANY_API, overlap=overlaps())
@example(None, APIS[0], OVERWRITTEN[0])
@example(None, APIS[0], OVERWRITTEN[1])
@example(None, APIS[0], OVERWRITTEN[2])
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


# In one piece of memory, apart from each other.
PLACES = {"dout": 0, "x": 1, "y": 2, "elsewhere": 3}
IN_PLACE = [("dout", None), (None, "dout"), ("x", "y"), ("y", "x"), ("dout", "x"), ("y", "dout")]
IN_PLACE += [("x", "x"), ("elsewhere", "x")]
IN_PLACE_OF = [(name, out) for name in PAIRED for out in IN_PLACE]
IN_PLACE_OF += [(name, (parameter,)) for name in SINGLE for parameter in PARAMETERS[name]]


def view(place, n, shift=0):
    return place and View(PLACES[place] * (n + 50) + 50 + shift, (n,), (1,))


@pytest.mark.parametrize("values", ["ordinary", "special"])
@pytest.mark.parametrize("n", [3, 40_000])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize(("operation", "out"), IN_PLACE_OF, ids=str)
def test_results_written_over_the_operands(api, operation, out, dtype, n, values):
    # Whoever computes a result again, for NumPy to word a warning, needs operands that are no
    # longer there.
    memory = Operand(dtype, (4 * (n + 50) + 50,), values=values)
    operands = operands_of(operation, *(view(place, n) for place in ("dout", "x", "y")))
    for mode in ("ignore", "warn", "call", "log") if values == "special" else ("warn",):
        out_views = tuple(view(place, n) for place in out)
        check_overlap(api, None, Overlap(operation, memory, operands, out_views, {"all": mode}))


@pytest.mark.parametrize("n", [5, 3_000, 100_000])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("operation", ["multiply", "add"])
def test_errors_raised_after_the_operand_is_overwritten(api, operation, dtype, n):
    written = []
    for function in (getattr(np, operation), getattr(api, operation)):
        x = np.ones(n, dtype)
        x[n // 2] = np.finfo(dtype).max
        one = outcome(function, x, x, out=x, errstate={"over": "raise"})
        assert one.exception == (FloatingPointError, f"overflow encountered in {operation}")
        written.append(described(x))
    assert written[1] == written[0]


def test_dots_beside_an_output_over_an_operand(implementation):
    dout, x, y = np.arange(15.0).reshape(3, 5)
    right = dout * y, dout * x
    actual = outcome(implementation.multiply_backward, dout, x, y, out=(dout, ...))
    assert actual.exception == outcome(np.multiply, x, y, out=...).exception
    if actual.exception is None:  # as from NumPy 2.3 on
        assert actual.value[0] is dout
        np.testing.assert_array_equal(actual.value, right)
