"""``sum_to_shape=True``: gradients of the operands' own shapes, summed exactly enough."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, note
from hypothesis import strategies as st
from implementations import INSTALLED, LAYERS, PAIRED, REFERENCE
from operands import FLOATS, INTEGERS, KERNEL_DTYPES, LAYOUTS, Operand, command
from outcome import arrays_in, described, outcome, sharing
from paths import ANY_PATH, PATHS, taken
from plain import ufunc_calls

import fastlayers
from fastlayers import gradcheck, reference

SHAPES = {  # of x and of y, None for a Python number; dout has the shape of the result
    "row": ((7, 45), (45,)),
    "row, first": ((45,), (7, 45)),
    "column": ((7, 45), (7, 1)),
    "row and column": ((7, 1), (45,)),
    "number": ((7, 45), None),
    "number, first": (None, (45,)),
    "no axes": ((7, 45), ()),
    "one element, fewer axes": ((1,), (7, 45)),
    "channel": ((2, 3, 5, 7), (3, 1, 1)),
    "sequence": ((3, 5, 20), (3, 5, 1)),
    "sequence, along time": ((3, 5, 20), (3, 1, 20)),
    "short inner axis": ((300, 3), (3,)),
    "inner axis of 2": ((300, 2), (300, 1)),
    "outer axis of 1": ((1, 45), (45,)),
    "long row": ((3, 1_000), (1_000,)),
    "long column": ((3, 1_000), (3, 1)),
    "several chunks, row": ((260, 257), (257,)),
    "several chunks, column": ((260, 257), (260, 1)),
    "several chunks, both": ((260, 1), (257,)),
    "several chunks, number": ((66_820,), None),
    "several chunks, short rows": ((30_011, 3), (3,)),
    "several chunks, short columns": ((30_011, 3), (30_011, 1)),
    "several chunks, short channel": ((30, 300, 3, 3), (300, 1, 1)),
    "rows of 49": ((40, 17, 7, 7), (17, 1, 1)),
    "many chunks, row": ((1_000, 257), (257,)),
    "many chunks, column": ((1_000, 257), (1_000, 1)),
}


def full_shape(x, y):
    return np.broadcast_shapes(() if x is None else x, () if y is None else y)


def operands_of(case, dtype, make):
    """dout, x and y; ``make`` is given a shape, a dtype and a seed."""
    x, y = SHAPES[case]
    number = {"f": 1.5, "i": 3, "D": 1.5 + 2j, "e": 1.5}[np.dtype(dtype).kind.replace("c", "D")]
    return [
        number if shape is None else make(shape, dtype, seed)
        for seed, shape in enumerate((full_shape(x, y), x, y))
    ]


def whole(shape, dtype="f8", seed=0):
    """Small whole numbers, whose sums are exact in any order."""
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(dtype)


def normal(shape, dtype="f8", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def wide(shape, dtype="f8", seed=0):
    """All signs and magnitudes."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 2.0 ** rng.integers(-30, 31, shape)).astype(dtype)


def cancelling(shape, dtype="f8", seed=0):
    """Huge and tiny in turns; the huge ones cancel each other for the most part."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.1, 1, math.prod(shape))
    values[::2] *= 2.0 / np.finfo(dtype).eps
    values[::4] *= -1
    return values.astype(dtype).reshape(shape)


# The functions, and the layers whose gradients are those of one.
WAYS = dict(zip([*PAIRED, *LAYERS], [*PAIRED, *PAIRED], strict=False))
each_way = pytest.mark.parametrize("way", WAYS)
each_function = pytest.mark.parametrize("function", PAIRED)


def gradients(implementation, way, dout, x, y, out=None):
    if way in PAIRED:
        return getattr(implementation, way)(dout, x, y, out=out, sum_to_shape=True)
    layer = getattr(implementation, way)(sum_to_shape=True)
    layer.forward(x, y)
    return layer.backward(dout, out=out)


def all_gradients(implementation, dout, x, y, out=None):
    """Those of all functions, in a list."""
    return [one for way in PAIRED for one in gradients(implementation, way, dout, x, y, out)]


def groups(products, shape):
    """The elements that are summed for each element of a gradient of ``shape``, a row each."""
    kept, summed = axes_of(products, shape)
    return products.transpose(*kept, *summed).reshape(math.prod(shape), -1)


def numpy_sums(products, shape):
    """What NumPy sums them to, of the products' dtype."""
    _, summed = axes_of(products, shape)
    return np.sum(products, axis=tuple(summed), dtype=products.dtype).ravel()


def axes_of(products, shape):
    lead = products.ndim - len(shape)
    kept = [lead + axis for axis, length in enumerate(shape) if length != 1]
    return kept, [axis for axis in range(products.ndim) if axis not in kept]


def products_of(way, dout, x, y):
    """The two products of the full shape, and the shapes that these are summed to."""
    full = np.broadcast_shapes(np.shape(dout), np.shape(x), np.shape(y))
    calls = ufunc_calls(WAYS[way], (dout, x, y))
    return [
        (np.broadcast_to(ufunc(*inputs), full), np.shape(operand))
        for operand, (ufunc, inputs) in zip((x, y), calls, strict=True)
    ]


# ------------------------------------------------------------------------------- shapes and types


# Chunks there are where the kernels sum.
SHAPES_AND_DTYPES = [
    (case, dtype)
    for case in SHAPES
    for dtype in (*KERNEL_DTYPES, "f2", "D")
    if dtype in KERNEL_DTYPES or "chunks" not in case
]


@each_way
@pytest.mark.parametrize(("case", "dtype"), SHAPES_AND_DTYPES)
def test_shapes_dtypes_and_whole_numbers(implementation, case, dtype, way):
    dout, x, y = operands_of(case, dtype, whole)
    before = described((dout, x, y))
    results = gradients(implementation, way, dout, x, y)
    assert type(results) is tuple
    with np.errstate(over="ignore"):
        assert_exact(results, way, dout, x, y)
    for result, operand in zip(results, (x, y), strict=True):
        assert np.asarray(result).dtype == dtype or not hasattr(operand, "dtype")
        assert isinstance(result, np.ndarray) == (np.shape(operand) != ())
    assert described((dout, x, y)) == before


def assert_exact(results, way, *operands):
    """As NumPy's sums of whole numbers; in arrays that are the caller's alone."""
    for result, (products, shape) in zip(results, products_of(way, *operands), strict=True):
        assert np.shape(result) == shape
        assert np.ravel(result).tolist() == numpy_sums(products, shape).tolist()
    arrays = arrays_in(tuple(results))
    assert all(one.flags.owndata and one.flags.writeable for one in arrays)
    assert sharing(arrays, arrays_in(operands)) == []


ROW = np.arange(3.0)
KINDS = {  # dout, x, y; the types of dx and dy
    "float": (ROW, 2.0, ROW, float, np.ndarray),
    "int": (ROW, 2, ROW, float, np.ndarray),
    "float32 and float": (ROW.astype("f4"), 2.0, ROW.astype("f4"), float, np.ndarray),
    "int array and int": (np.arange(3), np.arange(3), 2, np.ndarray, int),
    "bool": (np.arange(3), np.arange(3), True, np.ndarray, int),
    "complex": (ROW * 1j, ROW, 2j, np.ndarray, complex),
    "three numbers": (1.0, 2, 3, float, float),
    "three ints": (1, 2, 3, int, int),
    "dout a number": (1.0, 2.0, ROW, float, np.ndarray),
    "dout an int": (1, ROW, 2.0, np.ndarray, float),
    "NumPy scalar": (ROW, np.float64(2), ROW, np.float64, np.ndarray),
    "float32 scalar": (ROW.astype("f4"), ROW.astype("f4"), np.float32(2), np.ndarray, np.float32),
    "int scalar": (np.arange(3), np.arange(3), np.int64(2), np.ndarray, np.int64),
    "0-d array": (ROW, np.array(2.0), ROW, np.float64, np.ndarray),
    "all 0-d": (np.array(1.0), np.array(2.0), np.array(3.0), np.float64, np.float64),
    "0-d and number": (np.array(1.0), np.array(2.0), 3.0, np.float64, float),
    "one element and number": (np.ones(1), 2.0, np.ones(1), float, np.ndarray),
    "backward(1)": (1, ROW, ROW, np.ndarray, np.ndarray),
    "backward(1), broadcast": (1, np.ones((4, 3)), ROW, np.ndarray, np.ndarray),
    "dout of one element": (np.ones(1), ROW, np.ones(1), np.ndarray, np.ndarray),
    "one element and 0-d": (np.ones((1, 1)), np.array(2.0), 2.0, np.float64, float),
}


@each_way
@pytest.mark.parametrize("case", KINDS)
def test_types_of_gradients(implementation, case, way):
    dout, x, y, *kinds = KINDS[case]
    results = gradients(implementation, way, dout, x, y)
    if WAYS[way] == "multiply_backward":
        assert [type(result) for result in results] == kinds
    assert_exact(results, way, dout, x, y)


@pytest.mark.parametrize("y", [3, np.array(3, dtype=object)], ids=["number", "0-d"])
def test_objects_can_be_summed_over_all_axes(implementation, y):
    x = np.array([2**70, 1], dtype=object)
    _, dy = implementation.multiply_backward(x, x, y, sum_to_shape=True)
    assert (dy if isinstance(y, int) else dy[()]) == 2**140 + 1
    assert type(dy) is type(y)


# -------------------------------------------------------------------------------------- accuracy


# Of the sums of several chunks, whose exact sums take long, the hardest alone.
ACCURACY = [
    (name, make)
    for name in SHAPES
    if not name.startswith("many")
    for make in ((cancelling,) if name.startswith("several") else (normal, wide, cancelling))
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("case", "make"), ACCURACY)
def test_at_least_as_accurate_as_numpy(case, make, dtype):
    dout, x, y = operands_of(case, dtype, make)
    orders = [dout] if dout.size > 10_000 else [dout, np.array(dout, order="F")]
    for gradient in orders:
        results = fastlayers.multiply_backward(gradient, x, y, sum_to_shape=True)
        products = products_of("multiply_backward", gradient, x, y)
        for result, (product, shape) in zip(results, products, strict=True):
            assert_accurate(result, product, shape)
    results = fastlayers.add_backward(dout, x, y, sum_to_shape=True)
    for result, operand in zip(results, (x, y), strict=True):
        assert_accurate(result, dout, np.shape(operand))
    # Rounding knows no signs.
    dx, dy = INSTALLED.subtract_backward(dout, x, y, sum_to_shape=True)
    assert np.array_equal(dx, results[0])
    assert np.array_equal(dy, np.negative(results[1]))


def assert_accurate(result, products, shape):
    """No farther from the exact sum than NumPy's sum of the same products and half an ulp."""
    result, by_numpy = np.ravel(result), numpy_sums(products, shape)
    terms = groups(products, shape)
    if terms.shape[1] == 1:  # nothing was summed
        assert np.array_equal(result, terms[:, 0])
        return
    errors = distances(result, terms.tolist())
    allowed = 0.5 * np.spacing(np.abs(by_numpy)).astype("f8")
    over = np.flatnonzero(~(errors <= allowed))  # the others NumPy need not be looked at for
    allowed[over] += distances(by_numpy[over], terms[over].tolist())
    worst = np.argmax(errors - allowed)
    assert np.all(errors <= allowed), (
        f"{np.count_nonzero(errors > allowed)} of {len(errors)} sums are too far off; the worst is "
        f"{result[worst]!r}, by {errors[worst]:.3g}, where {allowed[worst]:.3g} is allowed"
    )


def distances(sums, rows):
    """How far each is from the exact sum of its row, correctly rounded."""
    return np.array(
        [abs(math.fsum([*row, -total])) for row, total in zip(rows, sums.tolist(), strict=True)]
    )


native_only = pytest.mark.skipif(
    fastlayers.IMPLEMENTATION != "native", reason="plain NumPy sums, and stores, as NumPy does"
)


@native_only
@pytest.mark.parametrize("shape", [(3, 1_001), (1_001, 3), (3_003,), (40, 2_500)], ids=str)
def test_nothing_is_lost_to_cancellation(shape):
    # On the way the sums need more digits than a double has.
    dout = whole(shape)
    dout.flat[0], dout.flat[-1] = 2.0**60, -(2.0**60)
    total = math.fsum(dout.ravel().tolist())
    assert fastlayers.add_backward(dout, 1.0, 2.0, sum_to_shape=True) == (total, total)


# ------------------------------------------------------------------------ the same bits everywhere

SUBCLASSES = ["tagged", "answering", "retreating", "matrix", "masked", "mapped"]


def any_integers(shape, dtype, seed=0):
    """Of which most sums, and most products, are too large for the dtype."""
    return np.random.default_rng(seed).integers(
        np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True
    )


def sums_in_c_order(implementation, *operands):
    return [described(np.array(one, order="C")) for one in all_gradients(implementation, *operands)]


@native_only
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("case", SHAPES)
def test_same_bits_on_every_path(case, dtype):
    # Integers wrap around as NumPy's do.
    dout, x, y = operands_of(case, dtype, wide if dtype in FLOATS else any_integers)
    for one in (dout, np.array(dout, order="F")):
        seen = [sums_in_c_order(REFERENCE, one, x, y)] if dtype in INTEGERS else []
        for path in PATHS:
            with taken(path):
                seen.append(sums_in_c_order(INSTALLED, one, x, y))
        assert [sums == seen[0] for sums in seen] == [True] * len(seen)


# Of subclasses one that hands its type on.
PLAIN_LAYOUTS = [*(name for name in LAYOUTS if name not in SUBCLASSES), "tagged"]


@st.composite
def broadcast_shapes(draw):
    """Three shapes that broadcast; dout's is mostly that of the result."""
    full = draw(st.lists(st.sampled_from([1, 2, 3, 5, 8, 33]), min_size=1, max_size=5))
    if math.prod(full) < 300:
        # A row is summed 256 elements at a time in 32 lanes; 32k elements are a chunk.
        full[draw(st.integers(0, len(full) - 1))] = draw(st.integers(0, 130) | WIDTHS)
    while math.prod(full) > 70_000:
        full.pop()
    narrowed = [
        tuple(1 if draw(st.booleans()) else length for length in full[draw(st.integers(0, 2)) :])
        for _ in range(3)
    ]
    kind = draw(st.integers(0, 9))
    if kind == 9:  # a number
        narrowed[draw(st.integers(0, 2))] = None
    return [narrowed[0] if kind > 7 else tuple(full), *narrowed[1:]]


WIDTHS = st.sampled_from([255, 256, 257, 511, 512, 513, 1_024, 1_025])
THREE_LAYOUTS = st.lists(st.sampled_from(PLAIN_LAYOUTS), min_size=3, max_size=3)


@given(
    path=ANY_PATH,
    shapes=broadcast_shapes(),
    layouts=THREE_LAYOUTS,
    dtype=st.sampled_from(["f4", "f8", "f4", "f8", "i4"]),
    values=st.sampled_from(["whole", "normal", "wide", "cancelling"]),
)
@example(None, [(0, 3), (0, 3), (3,)], ["C"] * 3, "f8", "whole")
@example(None, [(2, 0), (), (2, 1)], ["C"] * 3, "f8", "whole")
@example(None, [None, (2, 1), (3,)], ["C"] * 3, "f8", "whole")
def test_random_shapes(path, shapes, layouts, dtype, values):
    note(command(check_random, path, shapes, layouts, dtype, values))
    check_random(path, shapes, layouts, dtype, values)


def check_random(path, shapes, layouts, dtype, values):
    make = {"normal": normal, "wide": wide, "cancelling": cancelling}.get(values, whole)
    make = whole if dtype == "i4" else make
    dout, x, y = (
        3 if shape is None else LAYOUTS[layout](np.asarray(make(shape, dtype, seed)))
        for seed, (shape, layout) in enumerate(zip(shapes, layouts, strict=True))
    )
    products = [product for way in PAIRED for product in products_of(way, dout, x, y)]
    with taken(path):
        results = all_gradients(INSTALLED, dout, x, y)
    assert described(results) == described(all_gradients(INSTALLED, dout, x, y))
    plain = all_gradients(REFERENCE, dout, x, y)
    for i, way in enumerate(PAIRED if make is whole else ()):
        for both in (results, plain):
            assert_exact(both[2 * i : 2 * i + 2], way, dout, x, y)
    for result, by_numpy, (product, shape) in zip(results, plain, products, strict=True):
        assert type(result) is type(by_numpy)
        assert np.shape(result) == shape
        if make is not whole and described(result) != described(by_numpy):
            assert_accurate(result, product, shape)
    assert sharing(arrays_in(tuple(results)), arrays_in((dout, x, y))) == []


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "D"])
@pytest.mark.parametrize("layout", ["C", "F", "gate", "reversed", "rotated"])
def test_equal_shapes_have_nothing_to_sum(implementation, layout, dtype):
    for shape in ((77,), (7, 45), (3, 4, 21), (400, 200)):
        dout, x, y = (Operand(dtype, shape, layout, seed=seed).build() for seed in range(3))
        for errstate in ({"all": "ignore"}, {"all": "raise"}):
            for name in PAIRED:
                function = getattr(implementation, name)
                expected = outcome(function, dout, x, y, errstate=errstate)
                actual = outcome(function, dout, x, y, sum_to_shape=True, errstate=errstate)
                assert actual == expected


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_equal_shapes_are_left_to_the_kernels(dtype, monkeypatch):
    for function in PAIRED:
        monkeypatch.setattr(reference, function, None)
    dout, x, y = (whole((7, 45), dtype, seed) for seed in range(3))
    for function in PAIRED:
        expected = [ufunc(*inputs) for ufunc, inputs in ufunc_calls(function, (dout, x, y))]
        results = gradients(INSTALLED, function, dout, x, y)
        assert described([*results]) == described(expected)


# The kinds of array that one and the same program gets in different processes.
KINDS_OF_ARRAY = {
    "plain": lambda array: array,
    "mapped": LAYOUTS["mapped"],
    "unaligned": LAYOUTS["unaligned"],
    "swapped": lambda array: array.astype(array.dtype.newbyteorder()),
    "swapped and unaligned": lambda array: LAYOUTS["unaligned"](
        array.astype(array.dtype.newbyteorder())
    ),
}


@native_only
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", ["row", "column", "number", "no axes", "several chunks, both"])
def test_sums_do_not_depend_on_the_kind_of_array(case, dtype):
    operands = operands_of(case, dtype, wide)

    expected = all_gradients(INSTALLED, *operands)
    for kinds in itertools.product(KINDS_OF_ARRAY, repeat=3):
        given = [
            KINDS_OF_ARRAY[kind](one) if isinstance(one, np.ndarray) else one
            for kind, one in zip(kinds, operands, strict=True)
        ]
        assert described(all_gradients(INSTALLED, *given)) == described(expected)
    # Nor do they if they are to be written somewhere.
    for way in PAIRED:
        out = tuple(np.empty(np.shape(one), dtype) for one in expected[:2])
        written = gradients(INSTALLED, way, *operands, out)
        for one, other in zip(written, gradients(INSTALLED, way, *operands), strict=True):
            assert np.array_equal(one, other)
    # Of the operands of a sum, or of a difference, the shapes count alone.
    dout, x, y = operands
    others = [one.astype("D") if isinstance(one, np.ndarray) else one for one in (x, y)]
    assert described(all_gradients(INSTALLED, dout, *others)[2:]) == described(expected[2:])


def vanishing(rows, columns, dtype="f8"):
    """All magnitudes, of which each row and each column adds up to 0.

    What is computed instead is what rounding has left, which another order of additions changes.
    """
    rng = np.random.default_rng(0)
    quarter = wide((rows // 2, columns // 2), dtype)
    half = np.concatenate([quarter, -rng.permutation(quarter)])
    return np.concatenate([half, -rng.permutation(half, axis=1)], axis=1)


FOLDED = {  # the shape of what is summed, and those that it is summed to
    "matrix": ((260, 300), [(300,), (260, 1), (1,), (1, 1)]),
    "outer axis of 2": ((2, 70_000), [(70_000,), (2, 1), (1,)]),
    "short rows": ((6_000, 12), [(12,), (6_000, 1), (1,)]),
    "rows of 2": ((40_000, 2), [(2,), (40_000, 1), (1,)]),
    "channels": ((40, 50, 6, 6), [(50, 1, 1), (6,), (6, 6), (40, 1, 1, 1), (40, 1, 6, 1), (1,)]),
    "inner axes": ((20, 4, 200, 6), [(6,), (4, 1, 1), (4, 1, 6), (20, 1, 1, 6), (200, 6), (1,)]),
}


def shapes_within(shape):
    """All shapes of as many axes that broadcast to this one."""
    return itertools.product(*({1, length} for length in shape))


@native_only
@pytest.mark.parametrize("case", FOLDED)
@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_do_not_depend_on_the_other_operand(case, dtype):
    shape, targets = FOLDED[case]
    inner = math.prod(shape[1:])
    for order in "CF":
        dout = np.array(vanishing(shape[0], inner, dtype).reshape(shape), order=order)
        for target in targets:
            x = np.ones(target, dtype)
            expected = fastlayers.add_backward(dout, x, 1.0, sum_to_shape=True)[0].tobytes()
            for other in [(), *shapes_within(shape)]:
                y = np.ones(other, dtype)
                across = np.ones(other[::-1], dtype).T
                for sibling in (y, across, np.repeat(y[..., None], 2, axis=-1)[..., 0]):
                    for way in PAIRED:
                        dx, _ = gradients(INSTALLED, way, dout, x, sibling)
                        assert dx.tobytes() == expected
                    _, dy = fastlayers.multiply_backward(dout, sibling, x, sum_to_shape=True)
                    assert dy.tobytes() == expected


@native_only
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("trouble", ["subnormal", "infinity", "overflow"])
@pytest.mark.parametrize("mode", ["ignore", "warn"])
def test_a_flag_leaves_the_other_sums_as_they_are(dtype, trouble, mode):
    info = np.finfo(dtype)
    dout, x, y = wide((1_000, 30), dtype), normal((1_000, 30), dtype, 1), normal(30, dtype, 2)
    expected = fastlayers.multiply_backward(dout, x, y, sum_to_shape=True)
    value = {"subnormal": info.tiny, "infinity": np.inf, "overflow": info.max}[trouble]
    dout[500, 7] = value
    x[500, 7] = {"subnormal": 1e-3, "infinity": 1, "overflow": 2}[trouble]
    one = outcome(
        fastlayers.multiply_backward, dout, x, y, sum_to_shape=True, errstate={"all": mode}
    )
    assert trouble == "infinity" or (mode == "warn") == bool(one.warnings)
    others = np.arange(30) != 7
    assert one.value[1][others].tobytes() == expected[1][others].tobytes()
    assert trouble == "subnormal" or one.value[1][7] == np.inf


@pytest.mark.parametrize("name", LAYERS)
def test_what_cannot_be_summed_is_told_of(implementation, name):
    class Frame:
        """As pandas' are: with shapes and operators, but not NumPy's interface."""

        shape, ndim = (2, 3), 2
        __array_ufunc__ = None

        def __mul__(self, other):
            return self

        __rmul__ = __add__ = __radd__ = __mul__

    layer = getattr(implementation, name)(sum_to_shape=True)
    frame = Frame()
    layer.forward(frame, frame)
    assert layer.backward(frame) == (frame, frame)  # with nothing to sum
    layer.forward(frame, 2.0)
    with pytest.raises(TypeError, match="sum arrays, not a Frame: give them arrays"):
        layer.backward(frame)


def test_masked_arrays(implementation):
    dout = np.ma.array(whole((4, 3)), mask=np.arange(12).reshape(4, 3) % 5 == 0)
    x, y = whole((4, 3), seed=1), whole(3, seed=2)
    dx, dy = implementation.multiply_backward(dout, x, y, sum_to_shape=True)
    assert described(dx) == described(dout * y)
    expected = np.ma.sum(dout * x, axis=0)
    assert type(dy) is np.ma.MaskedArray
    assert dy.tolist() == expected.tolist()


@native_only
def test_no_temporary_of_full_size():
    dout, x, y = whole((1, 200_000)), whole((1, 1)), whole((1, 1), seed=1)
    tracemalloc.start()
    try:
        fastlayers.multiply_backward(dout, x, y, sum_to_shape=True)
        assert tracemalloc.get_traced_memory()[1] < dout.nbytes / 10
        reference.multiply_backward(dout, x, y, sum_to_shape=True)
        assert tracemalloc.get_traced_memory()[1] > dout.nbytes
    finally:
        tracemalloc.stop()


# --------------------------------------------------------------------------- exceptions and errors

TROUBLE = {
    "inf": (np.inf, 1),
    "inf times 0": (np.inf, 0),
    "nan": (np.nan, 1),
    "product overflows": (1e30, 1e30),
    "product underflows": (1e-30, 1e-30),
}


def assert_sums_as_numpys(errstate, *operands):
    """Compare outcomes with plain NumPy's, of gradients the values alone."""
    for name in PAIRED:
        seen = []
        for implementation in (REFERENCE, INSTALLED):
            function = getattr(implementation, name)
            one = outcome(function, *operands, sum_to_shape=True, errstate=errstate)
            values = [described(np.array(v, order="C")).values for v in one.value or ()]
            shapes = [np.shape(v) for v in one.value or ()]
            seen.append((values, shapes, one.exception, one.warnings, one.handled))
        assert seen[1] == seen[0]


@pytest.mark.parametrize("mode", ["ignore", "warn", "raise", "call"])
@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize("case", ["row", "column", "number, first", "several chunks, both"])
def test_exceptions_as_in_plain_numpy(case, trouble, mode):
    for dtype in FLOATS:
        dout, x, y = operands_of(case, dtype, whole)
        first, second = np.array(TROUBLE[trouble], "f8")
        if dtype == "f8":
            first, second = (np.sign(one) * np.abs(one) ** 6 for one in (first, second))
        for where in (0, dout.size // 2, -1):
            gradient, troubled = np.array(dout), np.array(x)
            gradient.flat[where] = first
            troubled.flat[where % troubled.size] = second
            factor = float(second) if isinstance(x, float) else troubled
            assert_sums_as_numpys({"all": mode}, gradient, factor, y)


@pytest.mark.parametrize("mode", ["ignore", "warn", "raise"])
@pytest.mark.parametrize("shape", [(2, 40), (40, 2), (80,)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_that_overflow(shape, dtype, mode):
    dout, ones = np.full(shape, np.finfo(dtype).max, dtype), np.ones(shape, dtype)
    for y in (1.0, np.ones(shape[-1:], dtype), np.ones((*shape[:-1], 1), dtype)):
        assert_sums_as_numpys({"all": mode}, dout, ones, y)


def test_sum_that_overflows_on_the_way_only(implementation):
    # NumPy's passes infinity, and says so; what is summed more exactly may pass it by.
    top = np.finfo("f8").max
    for terms, total in (([top, top, -top], top), ([-top, -top, 1.0, top, top], 1.0)):
        dout = np.array(terms)
        one = outcome(implementation.add_backward, dout, 1.0, dout, sum_to_shape=True)
        assert one.value[0] == total or [w[1] for w in one.warnings] != []


@pytest.mark.parametrize("operands", [(), (np.ones(3),), (None, np.ones(3)), (np.ones(3), None)])
def test_sums_need_the_operands(implementation, operands):
    for name in ("add_backward", "subtract_backward"):
        for dout in (np.ones((2, 3)), 1.0, np.ones(3, "D")):
            with pytest.raises(TypeError, match=f"^{name} needs x and y to sum"):
                getattr(implementation, name)(dout, *operands, sum_to_shape=True)
    layer = implementation.AddLayer(sum_to_shape=True)
    with pytest.raises(TypeError, match="x and y"):
        layer.backward(np.ones(3))


@pytest.mark.parametrize(
    ("dout", "x", "y"),
    [((3,), (4,), (3,)), ((3,), (3,), (4,)), ((2, 3), (3, 2), (3,)), ((4,), (3,), (3,))],
)
def test_shapes_that_do_not_broadcast(implementation, dout, x, y):
    operands = [np.ones(shape) for shape in (dout, x, y)]
    expected = outcome(np.broadcast_shapes, dout, x, y).exception
    for function in PAIRED:
        one = outcome(getattr(implementation, function), *operands, sum_to_shape=True)
        assert one.exception == expected
        assert one.exception[0] is ValueError


# ------------------------------------------------------------------------------------------- out


@each_function
@pytest.mark.parametrize("given_positions", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize(
    "case", ["row", "column", "row and column", "channel", "no axes", "number"]
)
def test_out(implementation, case, given_positions, function):
    for dtype in ("f4", "f8", "i4", "D"):
        dout, x, y = operands_of(case, dtype, whole)
        expected = gradients(implementation, function, dout, x, y)
        for way in [way for way in WAYS if WAYS[way] == function]:
            out = tuple(
                np.full(np.shape(one), -1, dtype) if i in given_positions else None
                for i, one in enumerate((x, y))
            )
            results = gradients(implementation, way, dout, x, y, out)
            for i, (result, one) in enumerate(zip(results, expected, strict=True)):
                assert (result is out[i]) == (i in given_positions)
                assert np.array_equal(result, one)
                # A number stays a number where an array was not asked for.
                assert i in given_positions or type(result) is type(one)


def test_out_of_booleans(implementation):
    # Without `out` a product of booleans is boolean, and so is the gradient of an operand that
    # was not broadcast.
    true = np.array([True, False, True])
    out = np.zeros(3, bool), np.zeros(3, bool)
    expected = implementation.multiply_backward(true, true, true, sum_to_shape=True)
    results = implementation.multiply_backward(true, true, true, out=out, sum_to_shape=True)
    assert described(results) == described(expected)
    assert results[0] is out[0]


def test_out_over_the_operands(implementation):
    x, y, dout = whole((4, 3)), whole(3, seed=1), whole((4, 3), seed=2)
    expected = described([dout * y, np.sum(dout * x, axis=0)])
    results = implementation.multiply_backward(dout, x, y, out=(x, y), sum_to_shape=True)
    assert results[0] is x
    assert results[1] is y
    assert described(list(results)) == expected


@pytest.mark.parametrize("dout", [np.float64(2), np.empty(0), np.ones(7)], ids=str)
@pytest.mark.parametrize("outs", [(..., ...), ("given", ...), (..., "given"), (..., None)])
def test_dots_ask_for_an_array(implementation, outs, dout):
    given = np.full(np.shape(dout), 7.0)
    out = tuple(given if one == "given" else one for one in outs)
    actual = outcome(implementation.multiply_backward, *[dout] * 3, out=out, sum_to_shape=True)
    expected = outcome(np.multiply, dout, dout, out=...)
    assert actual.exception == expected.exception
    if expected.exception is None:  # as from NumPy 2.3 on
        for result, asked in zip(actual.value, outs, strict=True):
            assert asked is None or described(result) == expected.result
            assert (result is given) == (asked == "given")


@each_function
@pytest.mark.parametrize("bad", [np.full(4, -1.0), np.full((4, 3), -1.0)[:, :2], np.full(3, -1)])
def test_out_is_checked_before_anything_is_written(implementation, function, bad):
    x, y, dout = whole((4, 3)), whole(3, seed=1), whole((4, 3), seed=2)
    for out in ((np.full((4, 3), -1.0), bad), (bad, np.full(3, -1.0))):
        before = described(out)
        with pytest.raises((ValueError, TypeError)):
            gradients(implementation, function, dout, x, y, out)
        assert described(out) == before


# ------------------------------------------------------------------------------------------ layers


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("y_shape", [(4,), (3, 1), ()], ids=str)
def test_gradcheck(implementation, name, y_shape):
    layer = getattr(implementation, name)(sum_to_shape=True)
    assert gradcheck(layer, normal((3, 4)), normal(y_shape, seed=1))
    assert gradcheck(layer, 1.5, normal(y_shape, seed=1))


@pytest.mark.parametrize("name", LAYERS)
def test_attribute_of_layers(implementation, name):
    layer_class = getattr(implementation, name)
    assert layer_class().sum_to_shape is False
    layer = layer_class(sum_to_shape=True)
    assert layer.sum_to_shape is True
    layer.forward(whole((4, 3)), whole(3))
    for same in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert same.backward(np.ones((4, 3)))[1].shape == (3,)
        same.sum_to_shape = False
        assert same.backward(np.ones((4, 3)))[1].shape == (4, 3)
    with pytest.raises(TypeError):
        layer_class(True)
