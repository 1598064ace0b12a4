"""What graphs of others get wrong: rounding, order, shapes, types, aliasing, flags, and sizes."""

from __future__ import annotations

import itertools
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from operands import FLOATS, KERNEL_DTYPES, LAYOUTS, Operand
from outcome import arrays_in, described, sharing
from paths import PATHS, taken
from plain_graph import PlainGraph, assert_same
from random_graphs import ANY_LAYOUT, function_of

import fastlayers
from fastlayers import Graph

ALL_PATHS = [*PATHS, None]
ARRAYS = [1, 7, 300, 5_000]  # numbers of elements


def shop(apple, apple_num, orange, orange_num, tax):
    return (apple * apple_num + orange * orange_num) * tax


def horner(x, a, b, c):
    return (a * x + b) * x - c


def momentum(w, v, g, mu, lr):
    v = mu * v - lr * g
    return w + v, v


def normal(shape, dtype="f8", seed=0):
    """Ordinary numbers, or integers; ``shape`` may be a number of elements."""
    return Operand(dtype, shape if isinstance(shape, tuple) else (shape,), seed=seed).build()


# --------------------------------------------------------------------------------------- the book


def test_the_shop_of_the_book():
    graph = Graph(shop)
    assert graph.forward(100, 2, 150, 3, 1.1) == 715.0000000000001
    gradients = graph.backward(1)
    assert gradients == (2.2, 110.00000000000001, 3.3000000000000003, 165.0, 650)
    assert [type(one) for one in gradients] == [float] * 4 + [int]
    assert (gradients.apple, gradients.tax) == (2.2, 650)
    assert assert_same(shop, 100, 2, 150, 3, 1.1).value == (715.0000000000001, gradients)


# --------------------------------------------------------------------------------------- rounding


@pytest.mark.parametrize("n", ARRAYS)
def test_products_are_rounded_before_they_are_added(n):
    # Contracted to one fused multiply-add, the difference is what the first product lost.
    a, b = np.full(n, 1e20), np.full(n, 1e10)
    for function in (lambda a, b, c: a * b + c * b, lambda a, b, c: c * b + a * b):
        value, _ = assert_same(function, a, b, -a).value
        assert value.tolist() == [0.0] * n
    value, _ = assert_same(lambda a, b: a * b - a * b, a, b).value
    assert value.tolist() == [0.0] * n


@pytest.mark.parametrize("n", ARRAYS)
@pytest.mark.parametrize(("dtype", "bits"), [("f4", 12), ("f8", 30)])
def test_squares_are_rounded_before_they_are_subtracted(dtype, bits, n):
    x = np.full(n, 1 + 2.0**-bits, dtype)
    rounded = np.full(n, 1 + 2.0 ** (1 - bits), dtype)
    assert (x * x).tolist() == rounded.tolist()
    for function in (
        lambda x, y: x * x - y,
        lambda x, y: -y + x * x,
        lambda x, y: x * x + y * -1,
        lambda x, y: y - x * x,
    ):
        value, _ = assert_same(function, x, rounded).value
        assert value.tolist() == [0.0] * n


@pytest.mark.parametrize("n", ARRAYS)
def test_products_are_rounded_before_gradients_are_added(n):
    x, y, dout = np.full(n, 3.0), np.full(n, 1e20), np.full(n, 1e10)
    _, gradients = assert_same(lambda x, y, z: x * y + x * z, x, y, -y, dout=dout).value
    assert gradients.x.tolist() == [0.0] * n


# ------------------------------------------------------------------------------------------ zeros


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("fan_out", [1, 2, 3, 5])
def test_minus_zero_through_fan_out(fan_out, dtype):
    uses = " + ".join(["x * y"] * fan_out)
    function = function_of(f"def graph(x, y):\n    return {uses}\n")
    for shape in ((1,), (40,), (3, 5)):
        zeros, ones = np.full(shape, -0.0, dtype), np.ones(shape, dtype)
        value, gradients = assert_same(function, zeros, ones, dout=zeros).value
        assert np.signbit(value).all()
        assert np.signbit(gradients.x).all()
    assert str(assert_same(function, -0.0, 1.0, dout=-0.0).value[1].x) == "-0.0"


def test_minus_zero_that_is_summed():
    for shape in ((1,), (3, 1), (1, 5), ()):
        zeros, x = np.full((3, 5), -0.0), np.full(shape, 2.0)
        assert_same(lambda x, y: x * y + x, x, np.ones((3, 5)), dout=zeros)


def test_minus_zero_from_minus():
    zero = np.zeros(3)
    (value, gradients) = assert_same(lambda x, y: -x - y, zero, zero, dout=zero).value
    assert np.signbit(value).all()
    assert np.signbit(gradients.x).all()


# ------------------------------------------------------------------------------------------ order

ORDERS = list(itertools.permutations([1e16, 1.0, -1e16]))


@pytest.mark.parametrize("weights", ORDERS)
@pytest.mark.parametrize("n", [None, *ARRAYS])
def test_last_made_is_added_first(n, weights):
    def function(x, a, b, c):
        t0 = x * a
        t1 = x * b
        t2 = x * c
        return t0 + t1 + t2

    operands = [one if n is None else np.full(n, one) for one in (1.0, *weights)]
    a, b, c = weights
    value, gradients = assert_same(function, *operands).value
    assert np.unique(value).tolist() == [(a + b) + c]
    assert np.unique(gradients.x).tolist() == [(c + b) + a]


@pytest.mark.parametrize("weights", ORDERS)
def test_order_is_that_of_making_not_of_use(weights):
    def function(x, a, b, c):
        t2 = x * c
        t0 = x * a
        t1 = x * b
        return (t0 + t1) + t2

    a, b, c = weights
    operands = [np.full(9, one) for one in (1.0, *weights)]
    _, gradients = assert_same(function, *operands).value
    assert gradients.x.tolist() == [(b + a) + c] * 9


@pytest.mark.parametrize("weights", ORDERS)
@pytest.mark.parametrize("outputs", list(itertools.permutations(["t0", "t1", "t2"])))
def test_order_of_outputs_does_not_matter(outputs, weights):
    lines = ["def graph(x, a, b, c):", "t0 = x * a", "t1 = x * b", "t2 = x * c"]
    function = function_of("\n    ".join([*lines, f"return {', '.join(outputs)}"]))
    a, b, c = weights
    _, gradients = assert_same(function, *(np.full(9, one) for one in (1.0, *weights))).value
    assert gradients.x.tolist() == [(c + b) + a] * 9


@pytest.mark.parametrize("given", [1e16, 1.0, -1e16])
def test_what_is_given_comes_first(given):
    a, b = {1e16, 1.0, -1e16} - {given}
    ones = np.ones(9)

    def function(x, y, a, b):
        t = x * y
        return t * a + t * b, t

    for m, n in ((a, b), (b, a)):
        douts = ones, ones * given
        _, gradients = assert_same(function, ones, ones, ones * m, ones * n, dout=douts).value
        assert gradients.x.tolist() == [(given + n) + m] * 9


def test_x_comes_before_y_within_a_node():
    # A third contribution makes the order of the two visible: (made later + x) + y.
    def function(x, a):
        return (x * a) * x - x * 1e16

    x, a = np.full(5, 1.0), np.full(5, 3.0)
    _, gradients = assert_same(function, x, a).value
    assert gradients.x.tolist() == [(-1e16 + 3.0) + 3.0] * 5


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("n", [None, *ARRAYS])
def test_same_operand_twice(n, dtype):
    x = 3 if n is None else np.full(n, 3, dtype)
    for function, expected, slope in (
        (lambda x: x * x, 9, 6),
        (lambda x: x + x, 6, 2),
        (lambda x: x - x, 0, 0),
        (lambda x: (x * x) * (x * x), 81, 108),
        (lambda x: -x * x, -9, -6),
    ):
        value, gradients = assert_same(function, x).value
        assert np.unique(value).tolist() == [expected]
        assert np.unique(gradients.x).tolist() == [slope]


def test_one_array_as_two_operands():
    x = normal(40)
    assert_same(lambda a, b: a * b + a, x, x, dout=x)


# ---------------------------------------------------------------------------------------- outputs


@pytest.mark.parametrize("shape", [(40,), (3, 5)])
def test_output_that_is_an_intermediate(shape):
    x, y, z, dout = (normal(shape, seed=seed) for seed in range(4))

    def function(x, y, z):
        t = x * y
        return t, t * z

    (first, second), gradients = assert_same(function, x, y, z, dout=(dout, x)).value
    assert first.tolist() == (x * y).tolist()
    assert second.tolist() == (x * y * z).tolist()
    assert gradients.x.tolist() == ((dout + x * z) * y).tolist()


@pytest.mark.parametrize("number", [1, 1.0, 0.1, True])
def test_input_that_is_an_output(number):
    x, y = normal(40), normal(40, seed=1)
    (same, _), gradients = assert_same(lambda x, y: (x, x * y), x, y, dout=number).value
    assert same.tolist() == x.tolist()
    assert gradients.x.tolist() == (number + number * y).tolist()
    for operand in (x, x[::-1], x.reshape(5, 8).T, normal((3, 4), "f4"), 2.5, 3):
        value, gradients = assert_same(lambda x: x, operand, dout=number).value
        assert np.all(value == operand)
        assert np.all(gradients.x == np.float64(number).astype(getattr(operand, "dtype", "f8")))


def test_input_that_is_an_output_twice():
    x, dout = normal(40), normal(40, seed=1)
    assert_same(lambda x: (x, x), x, dout=(dout, dout))
    assert_same(lambda x, y: (x * y, x, x * y), x, dout, dout=(x, dout, x))


def test_output_twice():
    def function(x, y):
        t = x * y
        return t, t

    x, y, dout = (normal(40, seed=seed) for seed in range(3))
    _, gradients = assert_same(function, x, y, dout=(dout, x)).value
    assert gradients.y.tolist() == ((dout + x) * x).tolist()


@pytest.mark.parametrize("weights", ORDERS)
def test_second_output_does_not_change_the_first_ones_gradient(weights):
    def alone(x, a, b, c, z):
        return x * a + x * b + x * c

    def first(x, a, b, c, z):
        return x * a + x * b + x * c, z * z

    def last(x, a, b, c, z):
        other = z * z
        return other, x * a + x * b + x * c

    operands = [np.full(9, one) for one in (1.0, *weights, 1e300)]
    expected = assert_same(alone, *operands).value[1]
    with np.errstate(over="ignore"):
        for function in (first, last):
            gradients = Graph(function).value_and_grad(*operands)[1]
            assert described(tuple(gradients[:4])) == described(tuple(expected[:4]))


def test_dout_for_each_output():
    operands = [normal(40, seed=seed) for seed in range(3)]
    douts = normal(40, seed=3), normal(40, seed=4)
    assert_same(momentum, *operands, 0.9, 0.1, dout=douts)
    assert_same(momentum, *operands, 0.9, 0.1, dout=(douts[0], 0.0))
    assert_same(momentum, *operands, 0.9, 0.1, dout=0.5)


def test_input_that_reaches_no_output():
    x, y = normal((3, 4), "f4"), normal(7)
    _, gradients = assert_same(lambda x, y, n: x * 2, x, y, 2.5).value
    assert gradients.y.tolist() == [0.0] * 7
    assert gradients.n == 0


# ------------------------------------------------------------------------------------------ types


@pytest.mark.parametrize("dout", [1, 1.0, 0.1, True])
@pytest.mark.parametrize("number", [2.5, 3, True, -1])
def test_float32_stays_float32(number, dout):
    x = normal(40, "f4")
    for function in (
        lambda x, k: x * k + x,
        lambda x, k: (1 - k) * x,
        lambda x, k: k * (k + 0.1) * x - k,
        lambda x, k: x + x - x,
        lambda x, k: 0.1 * x - 1e-3,
    ):
        value, gradients = assert_same(function, x, number, dout=dout).value
        assert value.dtype == np.float32
        assert gradients.x.dtype == np.float32
        assert type(gradients.k) in (int, float)


@pytest.mark.parametrize("strong", [np.float64(0.1), np.array(0.1), np.array([0.1])])
def test_float32_with_what_is_float64(strong):
    x = normal(40, "f4")
    for function in (lambda x, k: x * k + x, lambda x, k: (1 - k) * x, lambda x, k: k - x * x):
        value, gradients = assert_same(function, x, strong).value
        assert value.dtype == np.float64
        assert gradients.k.dtype == np.float64
        assert_same(function, x, strong, dout=x)


@pytest.mark.parametrize("weak", [np.float32(0.1), np.array(0.1, "f4"), np.array(True), np.True_])
def test_float32_with_what_is_not_wider(weak):
    x = normal(40, "f4")
    for function in (lambda x, k: x * k + x, lambda x, k: k * x - x):
        assert assert_same(function, x, weak).value[0].dtype == np.float32


@pytest.mark.parametrize("number", ["np.float64(0.1)", "np.float32(0.1)", "np.int64(3)"])
def test_typed_number_in_the_function(number):
    function = function_of(f"def graph(x):\n    return {number} * x + x * {number}\n")
    for dtype in KERNEL_DTYPES:
        assert_same(function, np.arange(20).astype(dtype))
    assert_same(function, 2.5)


def test_numbers_stay_python_numbers():
    big = 10**30
    value, gradients = assert_same(shop, big, 3, 2, big, 7).value
    assert value == (big * 3 + 2 * big) * 7
    assert gradients == (21, 7 * big, 7 * big, 14, 5 * big)
    value, gradients = assert_same(horner, 2, 3, 5, 0.5).value
    assert (value, gradients.x) == (21.5, 17)
    assert type(gradients.x) is int


def test_numbers_alone_are_computed_in_python_first():
    # As NumPy scalars they would be float64, or overflow.
    x = normal(40, "f4")
    value, _ = assert_same(lambda x, k: (k * k - (k * k - 2)) * x, x, 10**30).value
    assert value.tolist() == (x + x).tolist()
    assert value.dtype == np.float32
    with pytest.raises(OverflowError):
        Graph(lambda x, k: (k * k) * x)(np.arange(3), 10**30)
    assert_same(lambda x, k: (k * k) * x, np.arange(3), 10**30)


def test_gradient_of_a_number_is_a_number():
    x = normal((30, 7))
    for k in (2.5, 3, True):
        _, gradients = assert_same(lambda x, k: x * (k * k + 1) - k, x, k, dout=x).value
        assert type(gradients.k) is float
    _, gradients = assert_same(lambda x, k: x * k, np.arange(5), 2**40, dout=2).value
    assert (type(gradients.k), gradients.k) == (int, 20)


def test_zero_axes_and_scalars():
    for x, y in itertools.product([np.array(2.5), np.float64(1.5), np.float32(3), 2], repeat=2):
        for dout in (1, np.array(0.5), np.float32(0.1)):
            assert_same(lambda x, y: (x * y - x, x + y, x), x, y, dout=(dout, 0.5, dout))


def test_integers_wrap():
    x = np.array([2**31 - 1, -(2**31), 3], "i4")
    assert_same(lambda x, y: x * x * y - y, x, x, dout=x)
    assert_same(lambda x, k: x * k + k, x, 2)


@pytest.mark.parametrize("dtype", ["?", "u1", "f2", "g", "D", ">f8", "O"])
def test_other_dtypes(dtype):
    x, y, dout = (Operand(dtype, (4, 6), seed=seed).build() for seed in range(3))
    for function in (horner, lambda x, a, b, c: x * a + b * c, lambda x, a, b, c: -x * a):
        assert_same(function, x, y, x, y[0], dout=dout)
        assert_same(function, x, y, 2, normal(6), dout=dout)


# ----------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize(("m", "n"), [(3, 5), (1, 7), (300, 257), (70, 1)])
def test_column_with_row(m, n, dtype):
    column, row = (Operand(dtype, shape, seed=9).build() for shape in ((m, 1), (1, n)))
    full, dout = normal((m, n), dtype, 2), normal((m, n), dtype, 3)
    for function in (
        lambda c, r: c * r,
        lambda c, r: (c * c + 1) * (r - r * r),
        lambda c, r: (c * r, c + c, r * r),
    ):
        douts = (dout, column, row) if function(1, 1).__class__ is tuple else dout
        _, gradients = assert_same(function, column, row, dout=douts).value
        assert (gradients.c.shape, gradients.r.shape) == ((m, 1), (1, n))
        assert_same(function, column, row[0])
    assert_same(lambda c, r, x: (c + r) * x - c * x, column, row, full, dout=dout)


def test_no_elements_with_one():
    none, row, column = np.ones((0, 1)), np.arange(5.0).reshape(1, 5), np.ones((4, 0))
    value, gradients = assert_same(lambda x, y: x * y + y, none, row).value
    assert value.shape == (0, 5)
    assert gradients.x.shape == (0, 1)
    assert gradients.y.tolist() == [[0.0] * 5]
    for y in (2.0, np.ones(1), np.ones((4, 1)), np.array(3.0)):
        assert_same(lambda x, y: x * y - x, column, y)
    assert_same(lambda x: x * x, np.ones((0,)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_parts_are_summed_each_before_they_are_added(dtype):
    # x is a row here, and whole there; every contribution is summed to its shape, then added.
    x, y, z = normal(45, dtype), normal((7, 45), dtype, 1), normal((7, 1), dtype, 2)
    for function in (
        lambda x, y, z: x * y + x * z + x,
        lambda x, y, z: (x * x) * y - (x - z) * (x + z),
        lambda x, y, z: (x * y) * (z * z) + x * x,
        lambda x, y, z: (x + 1) * 2 + z * x * y,
    ):
        assert_same(function, x, y, z, dout=normal((7, 45), dtype, 3))
        assert_same(function, x, y, z)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 1), (1, 1), (2, 3, 4), (4, 3)])
def test_dout_of_another_shape_is_refused(shape):
    graph = Graph(lambda x, y: x * y + y)
    operands = normal((3, 4)), normal(4, seed=1)
    graph.forward(*operands)
    for call in (graph.backward, lambda dout: graph.value_and_grad(*operands, dout=dout)):
        with pytest.raises(ValueError, match=r"dout has shape .*\(3, 4\)"):
            call(np.ones(shape))


def test_dout_without_axes_stands_for_itself_everywhere():
    x, y = normal((3, 4)), normal(4, seed=1)
    for dout in (np.array(0.1), np.float64(0.1), np.float32(0.1), np.array(3), 0.1):
        assert_same(lambda x, y: x * y + y, x, y, dout=dout)
        assert_same(lambda x, y: y - x, x, y, dout=dout)


def test_shapes_that_do_not_broadcast():
    x, y = np.ones((3, 4)), np.ones(5)
    for function in (lambda x, y: x * y, lambda x, y: x * x - y, lambda x, y: x * x * (y + y)):
        assert assert_same(function, x, y).exception[0] is ValueError
    graph = Graph(horner)
    graph.forward(x, x, x, x)
    with pytest.raises(ValueError, match="shape"):
        graph.backward(y)
    assert graph.backward(x).x.shape == x.shape  # it works on


def test_eight_axes():
    x, y = normal((1, 2, 1, 2, 3, 1, 2, 3)), normal((2, 1, 2, 2, 1, 3, 1, 3), seed=1)
    assert_same(lambda x, y: x * y - x, x, y)


# -------------------------------------------------------------------------------- tails and paths

TAILS = [*range(1, 71), *range(250, 261), *range(510, 516), *range(1020, 1031)]


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_every_length_of_a_tail(dtype):
    for n in TAILS:
        x, a, b, dout = (normal(n, dtype, seed) for seed in range(4))
        with taken(ALL_PATHS[n % len(ALL_PATHS)]):
            assert_same(horner, x, a, b, 3, dout=dout, errstate={"all": "raise"})


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_length_of_a_summed_tail(dtype):
    for n in TAILS:
        x, row, column = normal((3, n), dtype), normal(n, dtype, 1), normal((3, 1), dtype, 2)
        assert_same(horner, x, row, column, 1.5, dout=x, errstate={"all": "raise"})


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
def test_every_path(path):
    for shape in ((3_000,), (40, 33), (129, 65)):
        for dtype in KERNEL_DTYPES:
            operands = [normal(shape, dtype, seed) for seed in range(5)]
            with taken(path):
                assert_same(shop, *operands)
                assert_same(shop, *operands[:2], operands[2][:1], operands[3], 2, dout=operands[4])
                assert_same(momentum, *operands[:3], 3, 2)


@pytest.mark.parametrize("layout", ANY_LAYOUT)
def test_layouts(layout):
    for dtype in KERNEL_DTYPES:
        for shapes in ([(7, 9)] * 3, [(40, 33), (33,), (40, 1)], [(3, 4, 21), (4, 1), (3, 4, 21)]):
            x, a, b = (
                Operand(dtype, shape, layout, seed=i).build() for i, shape in enumerate(shapes)
            )
            assert_same(horner, x, a, b, 3, dout=x)
            assert_same(horner, x, a, b, np.ones(x.shape, dtype))
            assert_same(horner, normal(shapes[0], dtype), a, b, x[:1])


@pytest.mark.parametrize("size", [3, 150])
def test_transposed_operands(size):
    x, y = normal((size, size)), normal((size, size), seed=1)
    assert_same(lambda x, y: x * y - x, x, y.T, dout=x.T)
    assert_same(lambda x, y: x * y - x, x.T, y.T, dout=x.T)
    assert_same(lambda x, y: x * y - x, x, x.T)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_matrices_multiply_as_matrices():
    x, y = normal((3, 3)).view(np.matrix), normal((3, 3), seed=1).view(np.matrix)
    value = Graph(lambda x, y: x * y + x)(x, y)
    assert described(value) == described(x * y + x)


# ------------------------------------------------------------------------------------------ flags


@pytest.mark.parametrize("mode", ["ignore", "warn", "raise", "call", "log"])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 257, 1_025, 70_001])
@pytest.mark.parametrize("where", [0, -1])
def test_flag_at_the_first_or_last_element(where, n, mode):
    x, y = np.ones(n), np.ones(n)
    x[where] = 1e300
    one = assert_same(lambda x, y: (x * y) * x - y, x, y, errstate={"all": mode})
    noticed = [mode == "warn", mode == "raise", mode in ("call", "log")]
    heard = [bool(one.warnings), bool(one.exception), bool(one.handled)]
    assert heard == noticed


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
def test_flag_of_the_last_thread(path):
    x = np.ones(4_099)
    x[-1] = 1e300
    with taken(path):
        one = assert_same(lambda x, y: x * y * y + x * x, x, np.ones(4_099))
    assert [text for _, text in one.warnings] == ["overflow encountered in multiply"]


def test_each_node_warns_in_its_turn():
    x, infinite = np.full(5, 1e300), np.full(5, np.inf)
    one = assert_same(
        lambda x, y: ((x * x) - y) + (x + x), x, infinite, dout=np.full(5, 1e308), wrt=("x",)
    )
    assert [text for _, text in one.warnings] == [
        "overflow encountered in multiply",  # x * x
        "invalid value encountered in subtract",
        "overflow encountered in add",  # of the two gradients of x + x
        *["overflow encountered in multiply"] * 2,  # dout * x, twice
    ]


def test_backward_recomputes_silently():
    graph = Graph(lambda x, y: (x * x) * y)
    x, y = np.full(5, 1e200), np.full(5, 1e-300)
    with np.errstate(over="ignore"):
        graph.forward(x, y)
    with np.errstate(all="raise", under="ignore"):
        # x * x is infinite, and 0 * inf is not a number: that is the gradient's own.
        with pytest.raises(FloatingPointError, match="invalid value encountered in multiply"):
            graph.backward(0.0)
        assert graph.backward(1.0).y.tolist() == [np.inf] * 5


def test_no_flag_from_gradients_that_nobody_asked_for():
    x, y, dout = np.full(70, 1e300), np.full(70, 1e-300), np.full(70, 1e300)
    with np.errstate(all="raise"):
        _, gradients = Graph(lambda x, y: x * y).value_and_grad(x, y, dout=dout, wrt=("x",))
        assert gradients.x.tolist() == (dout * y).tolist()
        _, gradients = Graph(lambda x: x * 1e-300).value_and_grad(x, dout=dout)
        assert gradients.x.tolist() == (dout * 1e-300).tolist()
        with pytest.raises(FloatingPointError):
            Graph(lambda x, y: x * y).value_and_grad(x, y, dout=dout)
        # A number that no float32 can hold is not looked at, if no output depends on b.
        with pytest.warns(UserWarning, match="no output depends on b"):
            idle = Graph(lambda a, b: a * 2)
        for a in (np.ones((0, 2), "f4"), np.ones(3, "f4"), np.ones(3, "f2")):
            assert idle.value_and_grad(a, x, dout=1e300, wrt=("b",))[1].b.tolist() == [0] * 70


@pytest.mark.parametrize("dtype", FLOATS)
def test_no_flag_from_padding(dtype):
    for n in TAILS:
        x = normal(n, dtype) + np.array(9, dtype)
        assert assert_same(horner, x, x, x, x, errstate={"all": "raise"}).exception is None


def test_sums_that_overflow():
    top = np.full((2, 40), 1e308)
    for shape in ((40,), (2, 1), (1,)):
        for mode in ("ignore", "warn", "raise"):
            assert_same(lambda x, y: x * y, np.ones(shape), top, errstate={"all": mode})


# -------------------------------------------------------------------------------------------- out


def copies(arrays):
    return [np.array(one) for one in arrays]


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("n", ARRAYS)
def test_out_is_an_operand(n, dtype):
    operands = [normal(n, dtype, seed) for seed in range(4)]
    expected = described(PlainGraph(horner, fastlayers)(*operands))
    for i in range(4):
        fresh = copies(operands)
        assert Graph(horner)(*fresh, out=fresh[i]) is fresh[i]
        assert described(fresh[i]) == expected
        assert all(
            np.array_equal(one, other)
            for j, (one, other) in enumerate(zip(fresh, operands, strict=True))
            if j != i
        )


@pytest.mark.parametrize("n", ARRAYS)
def test_an_optimisers_update_in_place(n):
    w, v, g = (normal(n, seed=seed) for seed in range(3))
    expected_w, expected_v = PlainGraph(momentum, fastlayers)(w, v, g, 0.9, 0.1)
    results = Graph(momentum)(w, v, g, 0.9, 0.1, out=(w, v))
    assert results[0] is w
    assert results[1] is v
    assert described(copies((w, v))) == described([expected_w, expected_v])


@pytest.mark.parametrize("offset", [-3, -1, 1, 2, 64, 300])
@pytest.mark.parametrize("dtype", FLOATS)
def test_out_overlaps_an_operand_by_an_offset(dtype, offset):
    n, start = 1_000, 300
    memory = normal(2_000, dtype)
    a, b = normal(n, dtype, 1), normal(n, dtype, 2)
    x, out = memory[start : start + n], memory[start + offset : start + offset + n]
    expected = described(PlainGraph(horner, fastlayers)(x, a, b, 2.5))
    assert Graph(horner)(x, a, b, 2.5, out=out) is out
    assert described(np.array(out)) == expected


@pytest.mark.parametrize("size", [3, 40, 150])
def test_out_is_an_operand_transposed(size):
    x, a = normal((size, size)), normal((size, size), seed=1)
    expected = x * a - x
    result = Graph(lambda x, a: x * a - x)(x, a, out=x.T)
    assert result.tolist() == expected.tolist()
    assert x.T.tolist() == expected.tolist()


@pytest.mark.parametrize("layout", ["F", "stepped", "reversed", "gate", "offset", "unaligned"])
def test_layouts_of_out(layout):
    operands = [normal((30, 40), seed=seed) for seed in range(4)]
    out = LAYOUTS[layout](np.zeros((30, 40)))
    assert Graph(horner)(*operands, out=out) is out
    assert out.tolist() == PlainGraph(horner, fastlayers)(*operands).tolist()


def test_out_of_another_dtype():
    operands = [normal(40, "f4", seed) for seed in range(4)]
    expected = PlainGraph(horner, fastlayers)(*operands)
    out = np.zeros(40)
    assert Graph(horner)(*operands, out=out) is out
    np.testing.assert_allclose(out, expected, rtol=1e-5)
    integers = np.full(40, -7)
    with pytest.raises(TypeError, match="same_kind"):
        Graph(horner)(*operands, out=integers)
    assert integers.tolist() == [-7] * 40


def test_two_outputs_that_overlap():
    # Each is written whole, in their order: the second one is right, the first one where it is not
    # overwritten.
    w, v, g = (normal(1_000, seed=seed) for seed in range(3))
    expected_w, expected_v = PlainGraph(momentum, fastlayers)(w, v, g, 0.9, 0.1)
    for offset in (0, 1, 100):
        memory = np.zeros(1_000 + offset)
        Graph(momentum)(w, v, g, 0.9, 0.1, out=(memory[:1_000], memory[offset:]))
        assert memory[offset:].tolist() == expected_v.tolist()
        assert memory[:offset].tolist() == expected_w[:offset].tolist()


@pytest.mark.parametrize("given", [(), (0,), (1,), (0, 1)])
def test_none_in_out_makes_an_array(given):
    operands = [normal(40, seed=seed) for seed in range(3)]
    out = tuple(np.zeros(40) if i in given else None for i in range(2))
    results = Graph(momentum)(*operands, 0.9, 0.1, out=out)
    expected = PlainGraph(momentum, fastlayers)(*operands, 0.9, 0.1)
    assert described(tuple(results)) == described(expected)
    assert [result is one for result, one in zip(results, out, strict=True)] == [
        i in given for i in range(2)
    ]


@pytest.mark.parametrize("n", [3, 5_000])
def test_out_meets_an_operand_that_another_output_is(n):
    buffer, x = np.arange(4.0 * n).reshape(4, n), np.full((4, n), 2.0)
    expected = buffer[0].copy()
    value, row = Graph(lambda x, row: (x * x, row))(x, buffer[0], out=(buffer, None))
    assert value is buffer
    assert (buffer == 4).all()
    assert np.array_equal(row, expected)


@pytest.mark.parametrize("n", [3, 5_000])
def test_out_meets_an_operand_that_is_read_after_the_pass(n):
    buffer, x = np.arange(4.0 * n).reshape(4, n), np.full((4, n), 2.0)
    row = buffer[0].copy()
    value, gradients = Graph(lambda x, row: x * (row * row)).value_and_grad(
        x, buffer[0], out=(buffer, (None, None))
    )
    assert value is buffer
    assert np.array_equal(buffer, x * (row * row))
    assert np.array_equal(gradients.row, 16 * row)


@pytest.mark.parametrize("n", [3, 5_000])
def test_out_meets_an_operand_that_numpy_needs_to_warn(n):
    buffer, x = np.full((4, n), 1e150), np.full((4, n), 1e150)
    with pytest.warns(RuntimeWarning, match="overflow encountered in multiply"):
        Graph(lambda x, row: x * (row * row))(x, buffer[0], out=buffer)
    assert (buffer == np.inf).all()


def test_what_is_written_is_told_where_memory_runs_out_in_place(monkeypatch):
    if fastlayers.IMPLEMENTATION != "native":
        pytest.skip("plain NumPy computes all before it writes anything")
    x = np.ones(2_000)
    x[1_500] = 1e200

    def exhausted(*_):
        raise MemoryError("no memory")

    monkeypatch.setattr(np, "concatenate", exhausted)  # of what NumPy is to look at again
    with pytest.raises(MemoryError) as caught:
        Graph(lambda x: x * x + 1)(x, out=x)
    (note,) = caught.value.__notes__
    start, stop = map(int, re.search(r"the elements (\d+):(\d+),", note).groups())
    assert start <= 1_500 < stop <= 2_000
    assert (x[:start] == 2).all()
    assert (x[stop:] == 2).all()
    assert np.array_equal(x[start:stop], np.where(np.arange(start, stop) == 1_500, 1e200, 1))


def test_out_of_backward():
    operands = [normal((7, 45)), normal(45, seed=1), normal((7, 1), seed=2), 2.5]
    plain = PlainGraph(horner, fastlayers)
    plain.forward(*operands)
    expected = plain.backward(operands[0])
    out = np.zeros((7, 45)), np.zeros(45), np.zeros((7, 1)), None
    graph = Graph(horner)
    graph.forward(*operands)
    results = graph.backward(operands[0], out=out)
    assert [one is other for one, other in zip(results, out, strict=True)] == [True] * 3 + [False]
    assert described(tuple(results)) == described(tuple(expected))


def test_out_of_backward_over_the_operands():
    operands = [normal(300, seed=seed) for seed in range(4)]
    plain = PlainGraph(horner, fastlayers)
    plain.forward(*operands)
    expected = described(tuple(plain.backward(operands[3])))
    for shift in range(4):
        fresh = copies(operands)
        graph = Graph(horner)
        graph.forward(*fresh)
        out = tuple(fresh[(i + shift) % 4] for i in range(4))
        results = graph.backward(fresh[3], out=out)
        assert described(tuple(results)) == expected
        assert [one is other for one, other in zip(results, out, strict=True)] == [True] * 4


BAD_OUTS = [
    np.zeros(4),
    np.zeros((40, 1)),
    LAYOUTS["readonly"](np.zeros(40)),
    2.5,
    "out",
    (np.zeros(40), np.zeros(40)),
    (),
]


@pytest.mark.parametrize("out", BAD_OUTS, ids=lambda out: str(type(out).__name__))
def test_out_that_cannot_be_written(out):
    operands = [normal(40, seed=seed) for seed in range(4)]
    graph = Graph(horner)
    before = described(out)
    with pytest.raises((TypeError, ValueError)):
        graph(*operands, out=out)
    assert described(out) == before
    assert graph(*operands).tolist() == PlainGraph(horner, fastlayers)(*operands).tolist()


def test_nothing_is_written_before_all_of_out_is_known_to_be_good():
    operands = [normal(40, seed=seed) for seed in range(3)]
    good, bad = np.full(40, -1.0), np.full(41, -1.0)
    for out in ((good, bad), (bad, good)):
        with pytest.raises(ValueError):  # noqa: PT011  the words are NumPy's
            Graph(momentum)(*operands, 0.9, 0.1, out=out)
    assert good.tolist() == [-1.0] * 40
    assert bad.tolist() == [-1.0] * 41


def test_out_is_whole_where_an_error_is_raised():
    # An optimiser's operands must not be lost to an overflow that raises.
    w, v, g = np.ones(2_000), np.ones(2_000), np.ones(2_000)
    g[-1] = 1e300
    before = described((w, v))
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        Graph(momentum)(w, v, g, 0.9, 1e300, out=(w, v))
    assert described((w, v)) == before


# -------------------------------------------------------------------------- between two calls


def test_change_between_forward_and_backward_is_seen():
    x, a = np.arange(5.0), np.ones(5)
    graph = Graph(lambda x, a: (x * a) * x)
    graph.forward(x, a)
    x *= 2
    gradients = graph.backward(1)
    assert gradients.x.tolist() == (2 * x).tolist()
    assert gradients.a.tolist() == (x * x).tolist()


def test_value_and_grad_leaves_forwards_operands_alone():
    graph = Graph(horner)
    operands = [normal(40, seed=seed) for seed in range(4)]
    graph.forward(*operands)
    graph.value_and_grad(1, 2, 3, 4)
    graph(1, 2, 3, 4)
    assert graph.backward(1).x.shape == (40,)


def test_backward_can_be_repeated():
    graph = Graph(horner)
    graph.forward(*(normal(40, seed=seed) for seed in range(4)))
    one, other = graph.backward(1), graph.backward(1)
    assert described(tuple(one)) == described(tuple(other))
    assert sharing(arrays_in(tuple(one)), arrays_in(tuple(other))) == []


# ------------------------------------------------------------------------------ threads, processes


@pytest.mark.parametrize("path", ALL_PATHS[:: max(1, len(ALL_PATHS) // 3)], ids=str)
def test_one_graph_in_sixteen_threads(path):
    graph = Graph(shop)
    work = [
        [normal(n, seed=seed + k) for k in range(5)]
        for seed, n in enumerate([1, 7, 300, 4_000, 20_000, 60_000] * 4)
    ]
    expected = [described(PlainGraph(shop, fastlayers).value_and_grad(*one)[0]) for one in work]
    gradients = [
        described(tuple(PlainGraph(shop, fastlayers).value_and_grad(*one)[1])) for one in work
    ]

    def run(i):
        value, found = graph.value_and_grad(*work[i])
        return described(value) == expected[i] and described(tuple(found)) == gradients[i]

    with taken(path), ThreadPoolExecutor(16) as executor:
        assert all(executor.map(run, list(range(len(work))) * 6))


# ------------------------------------------------------------------------------------------ sizes


def assert_same_pass(function, *operands):
    """As `assert_same`, of one call."""
    with np.errstate(all="ignore"):
        expected = PlainGraph(function, fastlayers).value_and_grad(*operands)
        value, gradients = Graph(function).value_and_grad(*operands)
    assert described(value) == described(expected[0])
    assert described(tuple(gradients)) == described(tuple(expected[1]))


def test_chain_of_ten_thousand_nodes():
    def chain(x, y):
        for _ in range(5_000):
            x = x * y + y
        return x

    assert_same_pass(chain, np.full(3, 1.5), 0.5)
    graph = Graph(chain)
    assert graph.forward(1.5, 1.0) == 5_001.5
    assert graph.backward(1).x == 1.0


def test_three_hundred_inputs():
    names = [f"x{i}" for i in range(300)]
    lines = ["t = x0", *(f"t = t * 0.5 + {one} * {one}" for one in names[1:]), "return t"]
    function = function_of("\n    ".join([f"def graph({', '.join(names)}):", *lines]))
    assert_same_pass(function, *(normal(40, seed=i) for i in range(300)))
    assert_same_pass(function, *(normal((40, 1) if i % 2 else 33, seed=i) for i in range(300)))


def test_five_thousand_uses_of_one_input():
    def function(x, y):
        total = x
        for i in range(5_000):
            total = total + x * (y * i)
        return total

    assert_same_pass(function, normal(20), 1e-3)


def test_sums_have_the_bits_of_the_layers_in_any_memory_order():
    """Where the sum is ill-conditioned, and ``dout`` does not lie in one piece."""
    rng = np.random.default_rng(0)
    total = Graph(lambda x, y: x + y)
    difference = Graph(lambda x, y: x - y)
    layer = fastlayers.AddLayer(sum_to_shape=True)
    for _ in range(100):
        values = rng.standard_normal(10) * 10.0 ** rng.integers(0, 40, 10)
        others = -values * (1 + rng.integers(0, 2, 10) * 2.0 ** -rng.integers(20, 52, 10))
        padded = np.zeros((4, 10))
        dout = padded[:, :5]
        dout[:] = rng.permutation([*values, *others]).reshape(4, 5)
        x, y = np.ones((4, 5)), np.ones((4, 1))
        for operands in ((x, y), (y, x), (x, np.ones(())), (np.ones(5), x)):
            layer.forward(*operands)
            expected = layer.backward(dout)
            gradients = total.value_and_grad(*operands, dout=dout)[1]
            assert described(tuple(gradients)) == described(expected)
            negated = difference.value_and_grad(*operands, dout=dout)[1]
            assert described((negated[0], 0.0 - negated[1])) == described(expected)
            contiguous = layer.backward(np.ascontiguousarray(dout))
            assert described(contiguous) == described(expected)
