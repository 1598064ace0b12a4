"""The same bits on every path: instruction set, threads, streaming, recycled memory or not."""

from __future__ import annotations

import itertools
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import plain
import pytest
from implementations import FUNCTIONS, INSTALLED, PAIRED, operands_of
from operands import FLOATS, KERNEL_DTYPES, Literal, Operand
from outcome import arrays_in, described, everything, sharing
from outputs import check_out

import fastlayers
from fastlayers import reference

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy has one path only", allow_module_level=True)

from paths import PATHS, taken
from plain import ufunc_calls

from fastlayers._core import memory


@pytest.fixture(params=[False, True], ids=["stored", "streamed"])
def any_path(request, path):
    # Streaming is for rows of 256 elements and more; other tests are content with `path`.
    with taken(replace(path, streaming=request.param)):
        yield


@pytest.fixture(scope="module", autouse=True)
def forget():
    yield
    operands_and_expected.cache_clear()


# What the plain layers do is the same on every path. With random bits most calls overflow: were
# that not ignored, NumPy would compute them again, and nothing be seen of the kernels.
IGNORE = {"all": "ignore"}


@cache
def operands_and_expected(x, y, dout, errstate=()):
    operands = [one.build() for one in (x, y, dout)]
    return operands, everything(plain, *operands, dict(errstate) or IGNORE)


@contextmanager
def no_fall_back():
    """While this is in force, a call that leaves its work to plain NumPy fails."""

    def refuse(*args, **kwargs):
        raise LookupError("fell through to plain NumPy")

    with pytest.MonkeyPatch.context() as patch:
        for function in FUNCTIONS:
            patch.setattr(reference, function, refuse)
        # What NumPy computes is recycled, too, and for that NumPy is given another handler.
        patch.setattr(memory, "set_handler", refuse)
        yield


def check(x, y, dout, errstate=()):
    """Compare all that there is with the plain layers; arrays are served by kernels alone."""
    operands, expected = operands_and_expected(x, y, dout, errstate)
    first, _, gradient = map(np.shape, operands)
    full = np.broadcast_shapes(*map(np.shape, operands))
    served = first and gradient == full and 0 not in full and not errstate
    with no_fall_back() if served else nullcontext():
        actual = everything(INSTALLED, *operands, dict(errstate) or IGNORE)
    assert actual == expected
    results = [array for one in actual.values() for array in arrays_in(one.value)]
    assert sharing(results, arrays_in(tuple(operands))) == []


def three(dtype, shapes, layouts=("C", "C", "C"), values="bits", first_seed=0):
    """Operands for `check`; a number for the shape None."""
    number = "3" if dtype[0] == "i" else "1.5"
    return [
        Literal(number) if shape is None else Operand(dtype, shape, layout, values, seed)
        for seed, (shape, layout) in enumerate(zip(shapes, layouts, strict=True), first_seed)
    ]


# ------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_every_short_length(path, dtype):
    for n in (*range(70), 127, 128, 129, 130):
        check(*three(dtype, [(n,)] * 3))


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_lengths_around_thresholds_and_numbers(any_path, dtype):
    for n in (255, 256, 257, 320, 1_023, 1_024, 1_025, 16_383, 16_384, 16_385):
        check(*three(dtype, [(n,)] * 3))
    for n in (1, 5, 64, 67, 300, 1_025):
        row = (n,)
        for shapes in (
            (row, None, row),
            (None, row, row),
            (row, (), row),
            ((), row, ()),
            (row, row, None),
        ):
            check(*three(dtype, shapes))


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
    "column": ((7, 45), (7, 1)),
    "long column": ((3, 290), (3, 1)),
    "row and column": ((7, 1), (45,)),
    "row and long column": ((70, 1), (5,)),
    "sequence": ((3, 5, 20), (3, 5, 1)),
    "sequence, along time": ((3, 5, 20), (3, 1, 20)),
    "channel": ((2, 3, 5, 7), (3, 1, 1)),
    "last of five axes": ((2, 3, 2, 3, 4), (4,)),
    "all but the middle": ((2, 3, 4, 5, 2), (4, 1, 1)),
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
LAYOUTS += ["repeated rows", "repeated columns", "windows"]  # memory that repeats


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


# ------------------------------------------------------------------------------------------ outputs


@pytest.mark.parametrize("function", FUNCTIONS)
def test_falling_through_is_noticed(function):
    x = np.ones(5, "D")
    out = (x.copy(), None) if function in PAIRED else x.copy()
    for given_out in (None, out):
        with taken(PATHS[0]), no_fall_back(), pytest.raises(LookupError, match="fell through"):
            getattr(INSTALLED, function)(*operands_of(function, x, x, x), out=given_out)


# Of these the memory between the elements is compared, too.
OUTPUTS = ["C", "F", "gate", "rows", "stepped", "mirrored", "reversed", "offset"]


def check_outputs(operands, out, only=FUNCTIONS):
    """Compare what each function writes; of two outputs, calls with one result take the first."""
    for function in only:
        given = operands_of(function, *(operands[i] for i in (2, 0, 1)))
        full = np.broadcast_shapes(*(getattr(one, "shape", ()) for one in given))
        # Operands that are broadcast up to an output are NumPy's.
        with no_fall_back() if full == out[-1].shape else nullcontext():
            check_out(INSTALLED, None, function, given, out[: 1 + (function in PAIRED)], IGNORE)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("y_shape", [(7, 45), (45,), (7, 1), None], ids=str)
@pytest.mark.parametrize("layout", ["C", "F", "gate"])
def test_pairs_of_outputs_of_any_layout(layout, y_shape, dtype):
    operands = three(dtype, ((7, 45), y_shape, (7, 45)), (layout, "C", layout))
    with taken(PATHS[0]):
        for layouts in itertools.product((None, "F", "gate", "reversed"), OUTPUTS):
            out = [one and Operand(dtype, (7, 45), one) for one in layouts]
            check_outputs(operands, out, PAIRED)


@pytest.mark.parametrize("layout", OUTPUTS)
def test_outputs_of_any_layout(path, layout):
    for dtype in KERNEL_DTYPES:
        check_outputs(three(dtype, [(7, 45)] * 3), [Operand(dtype, (7, 45), layout)] * 2)


@pytest.mark.parametrize("case", BROADCAST)
def test_outputs_of_broadcast_operands(path, case):
    x, y = BROADCAST[case]
    full = np.broadcast_shapes(x, y)
    for dtype, order in itertools.product(KERNEL_DTYPES, ("C", "F")):
        check_outputs(three(dtype, (x, y, full)), [Operand(dtype, full, order)] * 2)


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

MODES = ["warn", "raise", "call", "log"]
# Shapes of x and y, and their layouts: elements of five threads' shares, with vectors and tails.
ARRANGEMENTS = {
    "contiguous": ((5, 90), (5, 90), "C"),
    "strided": ((5, 90), (5, 90), "gate"),
    "transposed": ((5, 90), (5, 90), "F"),
    "row": ((5, 90), (90,), "C"),
    "column": ((5, 90), (5, 1), "C"),
    "number": ((5, 90), None, "C"),
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_exceptions_of_one_element(any_path, arrangement):
    # One of each operand is special: it may be the first, the last, or lie in any share.
    x, y, layout = ARRANGEMENTS[arrangement]
    for seed in range(0, 120, 3):
        operands = three(FLOATS[seed % 2], (x, y, x), ("C", layout, "C"), "spot", seed)
        check(*operands, (("all", MODES[seed % 4]),))


@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values(path, dtype):
    # Subnormals are among them.
    for n in (3, 17, 70, 300):
        for mode in MODES:
            for shapes, layout in (
                ([(n,)] * 3, "C"),
                ([(n, 3)] * 3, "F"),
                (((n, 3), (n, 1), (n, 3)), "C"),
            ):
                check(*three(dtype, shapes, ("C", layout, "C"), "special"), (("all", mode),))
