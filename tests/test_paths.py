"""The same bits on every path: instruction set, threads, streaming, recycled memory or not."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import plain
import pytest
from implementations import FUNCTIONS, INSTALLED, PAIRED, operands_of
from operands import FLOATS, KERNEL_DTYPES, Literal, Operand
from outcome import arrays_in, described, everything, outcome, sharing

import fastlayers
from fastlayers import reference

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy has one path only", allow_module_level=True)

from paths import PATHS, taken
from plain import ufunc_calls

from fastlayers._core import memory


@pytest.fixture(params=PATHS, ids=str)
def path(request):
    with taken(request.param):
        yield request.param


@pytest.fixture(params=[False, True], ids=["stored", "streamed"])
def any_path(request, path):
    # Streaming is for rows of 256 elements and more; other tests are content with `path`.
    with taken(replace(path, streaming=request.param)):
        yield


@pytest.fixture(scope="module", autouse=True)
def forget():
    yield
    operands_and_expected.cache_clear()
    errors.cache_clear()


# What the plain layers do is the same on every path. With random bits most calls overflow: were
# that not ignored, NumPy would compute them again, and nothing be seen of the kernels.
IGNORE = {"all": "ignore"}


@cache
def operands_and_expected(x, y, dout, errstate=()):
    operands = [one.build() for one in (x, y, dout)]
    return operands, everything(plain, *operands, dict(errstate) or IGNORE)


def check(x, y, dout, errstate=()):
    """Compare all functions and layers with the plain ones."""
    operands, expected = operands_and_expected(x, y, dout, errstate)
    actual = everything(INSTALLED, *operands, dict(errstate) or IGNORE)
    assert actual == expected
    results = [array for one in actual.values() for array in arrays_in(one.value)]
    assert sharing(results, arrays_in(tuple(operands))) == []


def three(dtype, shapes, layouts=("C", "C", "C"), values="bits"):
    """Operands for `check`; a number for the shape None."""
    number = "3" if dtype[0] == "i" else "1.5"
    return [
        Literal(number) if shape is None else Operand(dtype, shape, layout, values, seed)
        for seed, (shape, layout) in enumerate(zip(shapes, layouts, strict=True))
    ]


# ------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_every_short_length(path, dtype):
    for n in (*range(70), 127, 128, 129, 130):
        check(*three(dtype, [(n,)] * 3))


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_lengths_around_thresholds(any_path, dtype):
    for n in (255, 256, 257, 320, 1_023, 1_024, 1_025, 16_383, 16_384, 16_385):
        check(*three(dtype, [(n,)] * 3))


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_numbers(any_path, dtype):
    for n in (1, 5, 64, 67, 300, 1_025):
        check(*three(dtype, [(n,), None, (n,)]))
        check(*three(dtype, [None, (n,), (n,)]))
        check(*three(dtype, [(n,), (), (n,)]))
        check(*three(dtype, [(), (n,), ()]))
        check(*three(dtype, [(n,), (n,), None]))


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_starts_anywhere_in_a_cache_line(any_path, dtype):
    # Vector loops, and streaming, begin at the first cache line of the results.
    line = 64 // np.dtype(dtype).itemsize
    memory = [aligned(400 + line, dtype, "bits", seed) for seed in range(5)]
    before = [one.copy() for one in memory[3:]]
    for start in range(line):
        # The second result starts elsewhere than the first one.
        starts = (start, 0, line - 1, start, (start + 4) % line)
        x, y, dout, dx, dy = (
            one[first : first + 389] for one, first in zip(memory, starts, strict=True)
        )
        with np.errstate(all="ignore"):
            for function in FUNCTIONS:
                given, call = operands_of(function, dout, x, y), getattr(INSTALLED, function)
                expected = described(expected_of(function, given))
                assert described(arrays_in(call(*given))) == expected
                written = (dx, dy) if function in PAIRED else (dx,)
                call(*given, out=written)
                assert described([one.copy() for one in written]) == expected
        # Nothing is written beside them.
        for one, first, untouched in zip(memory[3:], starts[3:], before, strict=True):
            one[first : first + 389] = untouched[first : first + 389]
            assert one.tobytes() == untouched.tobytes()


def expected_of(function, operands):
    """The results of a function, of one or two, as a list."""
    return [ufunc(*inputs) for ufunc, inputs in ufunc_calls(function, operands)]


def aligned(n, dtype, values="ordinary", seed=0):
    """An array that starts at a cache line."""
    size = np.dtype(dtype).itemsize
    memory = np.zeros(n * size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    array = memory[start : start + n * size].view(dtype)
    array[...] = Operand(dtype, (n,), "C", values, seed).build()
    return array


# ---------------------------------------------------------------------------- broadcasting, layouts

BROADCAST = {  # shapes of x and of y; dout's is that of the result
    "row": ((7, 45), (45,)),
    "row, first": ((45,), (7, 45)),
    "long row": ((3, 290), (290,)),
    "one long row": ((1, 700), (700,)),
    "column": ((7, 45), (7, 1)),
    "column, first": ((7, 1), (7, 45)),
    "long column": ((3, 290), (3, 1)),
    "row and column": ((7, 1), (45,)),
    "row and long column": ((70, 1), (5,)),
    "sequence": ((3, 5, 20), (3, 5, 1)),
    "sequence, along time": ((3, 5, 20), (3, 1, 20)),
    "sequence, bias": ((3, 5, 20), (20,)),
    "channel": ((2, 3, 5, 7), (3, 1, 1)),
    "channel of each image": ((2, 3, 5, 7), (2, 3, 1, 1)),
    "last of five axes": ((2, 3, 2, 3, 4), (4,)),
    "all but the middle": ((2, 3, 4, 5, 2), (4, 1, 1)),
    "one of one": ((1, 1), (1,)),
    "one and many": ((1, 1), (9, 31)),
    "inner axis of 1": ((300, 1), (300, 1)),
    "inner axis of 2": ((300, 2), (2,)),
    "inner axis of 3": ((300, 3), (300, 1)),
    "inner axis of 15": ((140, 15), (15,)),
    "inner axis of 16": ((140, 16), (140, 1)),
    "inner axis of 5, of three": ((2, 140, 5), (140, 1)),
    "inner axes of 2 and 2": ((75, 2, 2), (2, 1)),
}
LAYOUTS = ["C", "F", "gate", "rows", "stepped", "mirrored", "reversed", "offset", "rotated"]


# Axes are walked by the size of an element, whatever that is.
OF_BOTH_SIZES = ["f4", "i8"]


@pytest.mark.parametrize("case", BROADCAST)
def test_broadcasting(path, case):
    x, y = BROADCAST[case]
    full = np.broadcast_shapes(x, y)
    for dtype in KERNEL_DTYPES:
        check(*three(dtype, (x, y, full)))
        check(*three(dtype, (x, y, None)))
    for dtype in OF_BOTH_SIZES:
        check(*three(dtype, (x, y, full), ("F", "offset", "C")))
        check(*three(dtype, (x, y, full), ("gate", "stepped", "reversed")))
        check(*three(dtype, (x, y, x)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(path, layout):
    for shape in ((7, 45), (3, 4, 21), (2, 300), (150, 2), (77,)):
        for dtype in KERNEL_DTYPES:
            check(*three(dtype, [shape] * 3, [layout] * 3))
        for dtype in OF_BOTH_SIZES:
            check(*three(dtype, [shape] * 3, ("C", layout, "C")))
            check(*three(dtype, [shape] * 3, (layout, "F", layout)))


@pytest.mark.parametrize("layout", ["repeated rows", "repeated columns", "windows"])
def test_memory_that_repeats(path, layout):
    for shape in ((7, 45), (3, 4, 21), (2, 300)):
        check(*three("f8", [shape] * 3, [layout] * 3))
        check(*three("f8", [shape] * 3, ("C", layout, "C")))
        check(*three("f8", [shape] * 3, ("F", "C", layout)))


# Around the blocks in which transposed operands are walked, and the rows that are run across.
EDGES = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129]


@pytest.mark.parametrize("rows", EDGES)
def test_transposed(path, rows):
    for columns in EDGES[::2] if rows % 2 else EDGES[1::2]:
        shape = (rows, columns)
        check(*three("f8", [shape] * 3, ("C", "F", "C")))
        check(*three("f4", [shape] * 3, ("F", "C", "F")))
        check(*three("f8", (shape, (columns,), shape), ("F", "C", "C")))


@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_one_operand_lies_otherwise(path, dtype, position):
    # With elements whole multiples of 2 KiB apart, too.
    apart = 2_048 // np.dtype(dtype).itemsize
    cases = [((n,), "stepped") for n in (*range(18), 31, 32, 33, 34)]
    cases += [(shape, "F") for shape in ((20, 33), (2, 300), (apart, 19), (apart + 1, 19))]
    for shape, layout in [*cases, ((77,), "reversed")]:
        check(*three(dtype, [shape] * 3, [layout if i == position else "C" for i in range(3)]))


@dataclass(frozen=True)
class Transposed:
    """An array whose axes are a permutation of those that it has in memory."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    seed: int

    def build(self):
        return Operand("f8", self.shape, seed=self.seed).build().transpose(self.axes)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_axes_in_any_order(path, axes):
    for shape in ((3, 33, 34), (33, 2, 5), (2, 70, 130)):
        x, y, dout = (Transposed(shape, axes, seed) for seed in range(3))
        a, b, c = (shape[axis] for axis in axes)
        check(x, y, dout)
        check(x, Operand("f8", (a, b, c), seed=3), dout)
        check(x, Operand("f8", (a, 1, c), seed=4), dout)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_large(dtype, streaming):
    # Shares, blocks and tiles as they are in earnest.
    path = replace(PATHS[-1], threads=2, streaming=streaming)
    full = (130, 515)
    with taken(path):
        for x, layout in ((full, "C"), (full, "F"), (full, "gate"), ((515,), "C"), ((130, 1), "C")):
            check(*three(dtype, (full, x, full), ("C", layout, "C")))


def test_integers_wrap(any_path):
    for dtype in ("i4", "i8"):
        info = np.iinfo(dtype)
        x = np.full(300, info.max, dtype)
        assert np.all(fastlayers.add(x, 1) == info.min)
        assert np.all(fastlayers.multiply(x, 2) == -2)
        dx, dy = fastlayers.multiply_backward(x, x[::-1], np.full(300, info.min, dtype))
        assert np.all(dx == info.min)
        assert np.all(dy == 1)
        least = np.full(300, info.min, dtype)
        assert np.all(INSTALLED.subtract(least, 1) == info.max)
        assert np.all(INSTALLED.negative(least) == info.min)
        assert np.all(INSTALLED.subtract_backward(least)[1] == info.min)


# ------------------------------------------------------------------------- what the kernels serve


@pytest.fixture
def no_fall_back(monkeypatch):
    def refuse(*args, **kwargs):
        raise LookupError("fell through to plain NumPy")

    for function in FUNCTIONS:
        monkeypatch.setattr(reference, function, refuse)
    # What NumPy computes is recycled, too, and for that NumPy is given another handler.
    monkeypatch.setattr(memory, "set_handler", refuse)
    with taken(PATHS[0]):
        yield


@pytest.mark.parametrize("function", FUNCTIONS)
def test_falling_through_is_noticed(no_fall_back, function):
    x = np.ones(5, "D")
    out = (x.copy(), None) if function in PAIRED else x.copy()
    for given_out in (None, out):
        with pytest.raises(LookupError, match="fell through"):
            getattr(INSTALLED, function)(*operands_of(function, x, x, x), out=given_out)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("case", BROADCAST)
def test_broadcasting_is_served(no_fall_back, case, dtype):
    x, y = BROADCAST[case]
    served(*three(dtype, (x, y, np.broadcast_shapes(x, y)), values="ordinary"))


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_served(no_fall_back, layout, dtype):
    for shape in ((7, 45), (3, 4, 21), (77,)):
        served(*three(dtype, [shape] * 3, ("C", layout, "C"), "ordinary"))
        served(*three(dtype, (shape, None, shape), (layout, "C", "F"), "ordinary"))
        served(*three(dtype, (shape, (), shape), (layout, "C", "F"), "ordinary"))


def served(*operands):
    x, y, dout = (one.build() for one in operands)
    layer = fastlayers.MulLayer()
    layer.forward(x, y)
    layer.backward(dout)
    layer = fastlayers.AddLayer()
    out, other = (np.empty_like(layer.forward(x, y), order="A") for _ in range(2))
    layer.backward(dout)
    for function in FUNCTIONS:
        given, call = operands_of(function, dout, x, y), getattr(INSTALLED, function)
        if any(isinstance(one, np.ndarray) and one.ndim for one in given):
            call(*given)
            if np.broadcast_shapes(*map(np.shape, given)) == out.shape:
                call(*given, out=(out, other) if function in PAIRED else out)


OUTPUTS = {  # of shape (7, 45)
    "gate": lambda dtype: np.full((7, 90), 5, dtype)[:, 45:],
    "every second": lambda dtype: np.full((14, 90), 5, dtype)[::2, 1::2],
    "backwards": lambda dtype: np.full((7, 45), 5, dtype)[::-1, ::-1],
    "transposed": lambda dtype: np.full((45, 7), 5, dtype).T,
    "inner axis": lambda dtype: np.full((7, 3, 45), 5, dtype)[:, 1],
    "channels last": lambda dtype: np.full((7, 45, 3), 5, dtype)[..., 2],
}


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("y_shape", [(7, 45), (45,), (7, 1), None], ids=str)
@pytest.mark.parametrize("layout", ["C", "F", "gate"])
def test_outputs_of_any_layout_are_served(no_fall_back, layout, y_shape, dtype):
    operands = three(dtype, ((7, 45), y_shape, (7, 45)), (layout, "C", layout), "ordinary")
    x, y, dout = (one.build() for one in operands)
    for (first, make_first), (second, make_second) in itertools.product(OUTPUTS.items(), repeat=2):
        for function in FUNCTIONS if first == second else PAIRED:
            given, call = operands_of(function, dout, x, y), getattr(INSTALLED, function)
            expected, out = expected_of(function, given), (make_first(dtype), make_second(dtype))
            call(*given, out=out if function in PAIRED else out[0])
            made = zip((make_first, make_second), out, expected, strict=False)
            for make, result, values in made:
                assert described(result.base) == described(written(make(dtype), values)), first
            if function in PAIRED:
                new, result = call(*given, out=(None, make_second(dtype)))
                assert described(new) == described(expected[0])
                there = written(make_second(dtype), expected[1])
                assert described(result.base) == described(there), second


def written(out, values):
    """The memory that ``out`` is a view of, with values in place of its elements."""
    out[...] = values
    return out.base


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("layout", ["gate", "every second", "transposed", "channels last"])
def test_outputs_of_any_layout(path, layout, dtype):
    make = OUTPUTS[layout]
    x, y, dout = (one.build() for one in three(dtype, [(7, 45)] * 3, values="bits"))
    with np.errstate(all="ignore"):
        for function in FUNCTIONS:
            given, call = operands_of(function, dout, x, y), getattr(INSTALLED, function)
            expected = [written(make(dtype), one) for one in expected_of(function, given)]
            out = (make(dtype), make(dtype)) if function in PAIRED else make(dtype)
            results = arrays_in(call(*given, out=out))
            assert described([one.base for one in results]) == described(expected)


@pytest.mark.parametrize("strides", [(1, 1), (2, 3), (5, 9), (0, 1), (1, 0), (-4, 1), (1, -4)])
def test_outputs_that_overlap_themselves(strides):
    # The element that is written last remains: that is NumPy's to choose.
    x = np.arange(200.0).reshape(40, 5)

    def overlapping(memory):
        bytes_of = [8 * step for step in strides]
        return np.lib.stride_tricks.as_strided(memory[200:], (40, 5), bytes_of)

    for function in FUNCTIONS:
        given, memories = operands_of(function, x, x, x), np.full((2, 600), -1.0)
        ufunc, inputs = ufunc_calls(function, given)[0]
        ufunc(*inputs, out=overlapping(memories[0]))
        out = overlapping(memories[1])
        with taken(PATHS[0]):
            getattr(INSTALLED, function)(*given, out=(out, None) if function in PAIRED else out)
        assert np.array_equal(memories[1], memories[0])


# ------------------------------------------------------------------------ floating-point exceptions

TROUBLE = [  # x, y, and what raises which exception for them
    ("over", "max", "max", ("multiply", "add", "multiply_backward")),
    ("under", "tiny", "tiny", ("multiply", "multiply_backward")),
    ("invalid", "inf", "zero", ("multiply", "multiply_backward")),
    ("over", "max", "-max", ("multiply", "subtract", "multiply_backward")),
    ("invalid", "inf", "inf", ("subtract",)),
]
# Elements of 5 x 90: the first and the last, each of five threads' shares, vectors and their tail.
POSITIONS = [0, 63, 64, 89, 90, 140, 225, 333, 440, 447, 448, 449]
ARRANGEMENTS = {  # y's shape and layout, x's layout
    "contiguous": ((5, 90), "C", "C"),
    "strided": ((5, 90), "gate", "C"),
    "transposed": ((5, 90), "F", "C"),
    "row": ((90,), "C", "C"),
    "column": ((5, 1), "C", "C"),
    "number": (None, "C", "C"),
}


def troubled(dtype, shape, layout, value, position):
    """Ones, and at one position a value at which arithmetic goes wrong."""
    info = np.finfo(dtype)
    values = {"max": info.max, "-max": -info.max, "tiny": info.tiny, "inf": np.inf, "zero": 0}
    value = values[value]
    if shape is None:
        return float(value)
    array = Operand(dtype, shape, layout).build()
    array[...] = 1
    index = np.unravel_index(position, (5, 90))
    array[tuple(0 if n == 1 else i for i, n in zip(index[-len(shape) :], shape, strict=True))] = (
        value
    )
    return array


@pytest.mark.parametrize("mode", ["warn", "raise", "call"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_errors_in_one_place(path, arrangement, mode):
    shape, layout, x_layout = ARRANGEMENTS[arrangement]
    with taken(replace(path, streaming=True)):
        for i, position in enumerate(POSITIONS):
            trouble, dtype = TROUBLE[i % len(TROUBLE)], FLOATS[i % 2]
            operands, expected = errors(shape, layout, x_layout, trouble, dtype, position, mode)
            errstate = {"all": "ignore", trouble[0]: mode}
            assert everything(INSTALLED, *operands, errstate) == expected
            with np.errstate(all="ignore"):
                actual = fastlayers.multiply(*operands[:2])
                assert described(actual) == described(plain.multiply(*operands[:2]))


@cache
def errors(shape, layout, x_layout, trouble, dtype, position, mode):
    category, first, second, raising = trouble
    x = troubled(dtype, (5, 90), x_layout, first, position)
    y = troubled(dtype, shape, layout, second, position)
    operands = x, y, np.array(x)
    expected = everything(plain, *operands, {"all": "ignore", category: mode})
    for name in raising:
        one = expected[name]
        assert one.exception or one.warnings or one.handled
    return operands, expected


@pytest.mark.parametrize("mode", ["ignore", "warn", "raise", "call"])
def test_errors_with_out(any_path, mode):
    for position in (0, 299, 512, 599):
        x = np.ones(600)
        x[position] = np.finfo("f8").max
        for function, y in (("multiply", x), ("add", x), ("subtract", -x)):
            ufunc, result = getattr(np, function), np.full(600, -1.0)
            expected = outcome(ufunc, x, y, out=np.empty(600), errstate={"all": mode})
            assert (expected.warnings + expected.handled == ()) == (mode in ("ignore", "raise"))
            actual = outcome(getattr(INSTALLED, function), x, y, out=result, errstate={"all": mode})
            assert actual == expected
            assert actual.value is (None if mode == "raise" else result)
        expected = outcome(np.multiply, x, x, errstate={"all": mode})
        pair = np.full(600, -1.0), np.full(600, -1.0)
        both = outcome(fastlayers.multiply_backward, x, x, x, out=pair, errstate={"all": mode})
        assert both.exception == expected.exception
        assert both.warnings == expected.warnings * 2
        assert both.handled == expected.handled * 2
        if mode != "raise":
            assert described(pair) == described((expected.value, expected.value))


@pytest.mark.parametrize("values", ["special", "spot"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values(path, dtype, values):
    modes = ["warn", "raise", "call"]
    for n in (3, 17, 70, 300):
        for mode in modes:
            check(*three(dtype, [(n,)] * 3, values=values), (("all", mode),))
            check(*three(dtype, ((n, 3), (n, 1), (n, 3)), values=values), (("all", mode),))
            check(*three(dtype, [(n, 3)] * 3, ("C", "F", "C"), values), (("all", mode),))


# --------------------------------------------------------------------------------------------- out


@pytest.mark.parametrize("case", BROADCAST)
def test_out(path, case):
    shapes = BROADCAST[case]
    full = np.broadcast_shapes(*shapes)
    for dtype, order in itertools.product(KERNEL_DTYPES, ("C", "F")):
        (x, y, dout), _ = operands_and_expected(*three(dtype, (*shapes, full)))
        with np.errstate(all="ignore"):
            for function in FUNCTIONS:
                given, call = operands_of(function, dout, x, y), getattr(INSTALLED, function)
                out = np.empty(full, dtype, order), np.empty(full, dtype, order)
                results = call(*given, out=out if function in PAIRED else out[0])
                results = results if function in PAIRED else (results,)
                for result, one, values in zip(
                    results, out, expected_of(function, given), strict=False
                ):
                    assert result is one
                    assert values_of(result) == values_of(np.broadcast_to(values, full))
            first, second = INSTALLED.subtract_backward(dout, out=(out[0], None))
            assert first is out[0]
            assert described(second) == described(dout * -1)


def values_of(array):
    """What an array holds, whatever its memory order."""
    return described(np.array(array, order="C")).values
