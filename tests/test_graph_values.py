"""What graphs compute: values and gradients, to the bit as plain NumPy's, node by node.

`assert_same` calls a graph in every way, and compares all that can be seen with its nodes. Here are
the tables of what it is given, and the corners in which others are wrong.
"""

from __future__ import annotations

import itertools
import pickle
from contextlib import nullcontext

import numpy as np
import pytest
from graphs import (
    GRAPHS,
    horner,
    in_passes,
    inputs,
    momentum,
    normal,
    parameters,
    polynomial,
    shop,
)
from operands import FLOATS, KERNEL_DTYPES, Operand
from outcome import described
from paths import LEVELS, PATHS, Path, taken
from plain_graph import assert_same
from random_graphs import ANY_LAYOUT, function_of

import fastlayers
from fastlayers import Graph

ALL_PATHS = [*PATHS, None]
TAILS = [*range(1, 71), *range(250, 261), *range(510, 516), *range(1020, 1031)]


def uneven(*shapes, dtype="f8"):
    """Arrays of numbers of all magnitudes: another order of additions would show."""
    return [Operand(dtype, shape, "C", "uneven", seed).build() for seed, shape in enumerate(shapes)]


def like_values(function, operands):
    """An array for each output."""
    with np.errstate(all="ignore"):
        values = function(*operands)
    many = isinstance(values, tuple)
    every = values if many else (values,)
    douts = uneven(*(np.shape(one) for one in every), dtype=every[0].dtype)
    return tuple(douts) if many else douts[0]


# ------------------------------------------------------------------------- every graph, every path


# Of integers, averages have other dtypes, which no pass serves.
SERVED = [
    (name, dtype)
    for name, dtype in itertools.product(GRAPHS, KERNEL_DTYPES)
    if name != "averages" or dtype in FLOATS
]


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
@pytest.mark.parametrize(("name", "dtype"), SERVED)
def test_every_graph(name, dtype, path):
    function = GRAPHS[name]
    few, many = inputs(function, 257, dtype), inputs(function, 5_003, dtype)
    with taken(path), in_passes():
        assert_same(function, *few, dout=3)
        assert_same(function, *many, dout=like_values(function, many))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_rounds_as_its_nodes_do(name, dtype):
    # A product that is not rounded would show, as would another order of additions.
    operands = uneven(*[(1_030,)] * parameters(GRAPHS[name]), dtype=dtype)
    assert_same(GRAPHS[name], *operands, dout=like_values(GRAPHS[name], operands))


@pytest.mark.parametrize("dout", [1, 1.0, -0.0, 3, 2**70])
@pytest.mark.parametrize("numbers", [(100, 2, 150, 3, 1.1), (2**80, -0.0, 1, 0, 7), (1e308,) * 5])
def test_every_graph_of_numbers(numbers, dout):
    for function in GRAPHS.values():
        with in_passes():
            assert_same(function, *numbers[: parameters(function)], dout=dout)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_every_length_of_a_tail(dtype):
    for n in TAILS:
        x, a, b, dout = (normal(n, dtype, seed) for seed in range(4))
        with taken(ALL_PATHS[n % len(ALL_PATHS)]):
            assert_same(horner, x, a, b, 3, dout=dout, errstate={"all": "raise"})


# ----------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("layout", ANY_LAYOUT)
def test_every_layout(layout):
    for dtype in KERNEL_DTYPES:
        for shapes in ([(7, 9)] * 3, [(40, 33), (33,), (40, 1)], [(3, 4, 21), (4, 1), (3, 4, 21)]):
            x, a, b = (normal(shape, dtype, i, layout) for i, shape in enumerate(shapes))
            assert_same(horner, x, a, b, 3, dout=x)
            assert_same(horner, x, a, b, np.ones(x.shape, dtype))
            assert_same(horner, normal(shapes[0], dtype), a, b, x[:1])


@pytest.mark.parametrize("layout", ["F", "stepped", "reversed", "mapped"])
@pytest.mark.parametrize("name", GRAPHS)
def test_layouts_that_are_served(name, layout):
    operands = inputs(GRAPHS[name], (6, 40), layout=layout)
    with in_passes():
        assert_same(GRAPHS[name], *operands, dout=GRAPHS[name](*operands))


@pytest.mark.parametrize("size", [3, 150])
def test_transposed_operands(size):
    x, y = normal((size, size)), normal((size, size), seed=1)
    assert_same(lambda x, y: x * y - x, x, y.T, dout=x.T)
    assert_same(lambda x, y: x * y - x, x.T, y.T, dout=x.T)
    assert_same(lambda x, y: x * y - x, x, x.T)


def fourteen(a, b, c, d, e, f, g, h, i, j, k, m, n, o):
    return (a * b + c * d) * (e * f - g * h) + (i * j - k * m) * (n * o) * a


# Rows are longer than a tile, or as short as to be run crosswise. Of fourteen operands and as many
# gradients, not all find room to be copied.
LIE_OTHERWISE = {
    "strided": ((3, 700), lambda first, *rest: [strided(one) for one in (first, *rest)]),
    "one strided": ((3, 700), lambda first, *rest: [strided(first), *rest]),
    "another strided": ((3, 700), lambda *most: [*most[:-1], strided(most[-1])]),
    "a column": ((3, 700), lambda *most: [*most[:-1], most[-1][:, :1].copy()]),
    "short rows": ((700, 3), lambda *most: [*most[:-1], most[-1][:, :1].copy()]),
}


def strided(array):
    return np.repeat(array, 2, axis=-1)[..., ::2]


@pytest.mark.parametrize("path", [*PATHS, Path(LEVELS[-1], 2, streaming=True)] if PATHS else [None])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("which", LIE_OTHERWISE)
def test_operands_that_lie_otherwise(which, dtype, path):
    shape, lie = LIE_OTHERWISE[which]
    for function in (shop, polynomial, fourteen):
        operands = lie(*inputs(function, shape, dtype))
        with taken(path), in_passes():
            assert_same(function, *operands, dout=operands[0])


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_arrays_from_pickle_beside_new_ones(dtype):
    # Their descriptor is equal to NumPy's own, but another object.
    new = inputs(shop, 300, dtype)
    stored = pickle.loads(pickle.dumps(new))
    assert stored[0].dtype is not new[0].dtype
    with in_passes():
        assert_same(shop, stored[0], *new[1:])
        assert_same(shop, new[0], *stored[1:], dout=stored[0])
        assert Graph(shop)(*new, out=stored[4]) is stored[4]


# ------------------------------------------------------------------------------------------ shapes


def norm(x, mean, scale, gamma, beta):
    """Of statistics by row, and parameters by column."""
    return (x - mean) * scale * gamma + beta


def outer(x, y, z):
    return (x + y) * (x * z) - y


def blend(alpha, x, y):
    return alpha * x + (1 - alpha) * y


def repeated(x, y, z):
    """x gets gradients of several shapes: each is summed to its own, then added."""
    return (x * x) * y - (x - z) * (x + z) + x


def outer_values(x, y):
    """Outputs of three shapes."""
    return x * y, x + x, y * y


def counted(x, row, column, n):
    """The gradients of what is added or subtracted count elements, if ``dout`` is 1."""
    return x * x - row + (column - n)


SERVED_SHAPES = [
    (norm, (20, 30), (20, 1), (20, 1), (30,), (30,)),
    (norm, (20, 30), (20, 1), (20, 1), (1, 30), (30,)),
    (norm, (600, 300), (600, 1), (600, 1), (300,), (300,)),
    (outer, (20, 1), (30,), (20, 30)),
    (outer, (20, 1), (1, 30), (30,)),
    (outer, (4, 1, 6), (5, 1), (6,)),
    (outer, (4, 5, 6), (5, 1), (4, 1, 6)),
    (outer, (1,), (3, 1), (1, 1)),
    # Small parts are computed first, once.
    (blend, (20, 30, 1), (20, 30, 3), (20, 30, 3)),
    # Sums along rows, along columns, and of what several threads share.
    (blend, (300, 257), (257,), (257,)),
    (blend, (300, 257), (300, 1), (300, 1)),
    (blend, (70_000,), (1,), (1,)),
    (repeated, (45,), (7, 45), (7, 1)),
    (repeated, (3, 1), (3, 5), ()),
    (outer_values, (3, 1), (1, 5)),
    (outer_values, (300, 1), (1, 257)),
    (outer_values, (70, 1), (1, 1)),
    (counted, (300, 257), (257,), (300, 1), ()),
    # More axes than most have.
    (outer_values, (1, 2, 1, 2, 3, 1, 2, 3), (2, 1, 2, 2, 1, 3, 1, 3)),
]
SHAPES = [
    *SERVED_SHAPES,
    # Passes may leave these to the nodes.
    (norm, (2, 10, 30), (2, 10, 1), (10, 1), (30,), (1, 1, 30)),
    (norm, (1, 30), (1, 1), (1, 30), (30,), (30,)),
    (norm, (3, 30), (30,), (1,), (1, 1), (3, 1)),
    (norm, (4, 5, 6), (5, 1), (4, 1, 1), (4, 5, 6), (6,)),
    (counted, (1, 5), (5,), (1, 1), ()),
    # No elements, with one.
    (outer_values, (0, 1), (1, 5)),
    (outer_values, (4, 0), (4, 1)),
    (counted, (0, 4), (4,), (0, 1), ()),
    (counted, (4, 0), (0,), (4, 1), ()),
    # More kinds of shapes than a pass knows.
    (
        lambda a, b, c, d, e, f, g, h, i: a * b + c * d + e * f + g * h + i,
        *(tuple(1 if axes >> i & 1 else 2 for i in range(4)) for axes in range(9)),
    ),
]


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
@pytest.mark.parametrize("row", SHAPES, ids=lambda row: f"{row[0].__name__} {row[1:]}")
def test_shapes(row, path):
    function, *shapes = row
    for dtype in KERNEL_DTYPES if path is None else ["f4"]:
        operands = uneven(*shapes, dtype=dtype)
        with taken(path), in_passes() if row in SERVED_SHAPES else nullcontext():
            assert_same(function, *operands)
            assert_same(function, *operands, dout=like_values(function, operands))


def names(function):
    return function.__code__.co_varnames[: parameters(function)]


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_length_of_a_summed_tail(dtype):
    for n in TAILS:
        x, row, column = normal((3, n), dtype), normal(n, dtype, 1), normal((3, 1), dtype, 2)
        assert_same(horner, x, row, column, 1.5, dout=x, errstate={"all": "raise"})


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_ones_are_counted_for_whichever_operand(dtype):
    x, row, column = (np.full(shape, 3, dtype) for shape in ((300, 7), (7,), (300, 1)))
    for operands in ((x, row, column, 2), (x, row, 4, 2), (x, 1, 3, row), (row, x, 5, column)):
        for name in names(counted):
            with in_passes():
                assert_same(counted, *operands, wrt=(name,))


def test_sums_have_the_bits_of_the_layers_in_any_memory_order():
    """Where the sum is ill-conditioned, and ``dout`` does not lie in one piece."""
    rng = np.random.default_rng(0)
    total, difference = Graph(lambda x, y: x + y), Graph(lambda x, y: x - y)
    layer = fastlayers.AddLayer(sum_to_shape=True)
    for _ in range(100):
        values = rng.standard_normal(10) * 10.0 ** rng.integers(0, 40, 10)
        others = -values * (1 + rng.integers(0, 2, 10) * 2.0 ** -rng.integers(20, 52, 10))
        dout = np.zeros((4, 10))[:, :5]
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


def test_shapes_that_do_not_broadcast():
    x, y = np.ones((3, 4)), np.ones(5)
    for function in (lambda x, y: x * y, lambda x, y: x * x - y, lambda x, y: x * x * (y + y)):
        assert assert_same(function, x, y).exception[0] is ValueError


# ----------------------------------------------------------------------------------------- corners

BIG = 1e16
ORDERS = list(itertools.permutations([BIG, 1.0, -BIG]))


def three_uses(x, a, b, c):
    t0, t1, t2 = x * a, x * b, x * c
    return t0 + t1 + t2


def made_in_another_order(x, a, b, c):
    t2, t0, t1 = x * c, x * a, x * b
    return t0 + t1 + t2


def an_output_between(x, y, a, b):
    t = x * y
    return t * a + t * b, t


def fan_out(uses):
    return function_of(f"def graph(x, y):\n    return {' + '.join(['x * y'] * uses)}\n")


def returning(*outputs):
    """`three_uses`, of which the products are returned."""
    products = "t0, t1, t2 = x * a, x * b, x * c"
    return function_of(f"def graph(x, a, b, c):\n    {products}\n    return {', '.join(outputs)}")


# Function, operands, dout; the value, and the gradient by x. Each number stands for itself, and for
# arrays of several lengths. They are compared as Python writes them, since 0.0 == -0.0.
CORNERS = {
    # Contracted to one fused multiply-add, a difference is what the first product lost.
    "products are rounded": (lambda x, y, z: x * y + z * y, (1e20, 1e10, -1e20), 1, 0.0, 1e10),
    "and the second one": (lambda x, y, z: z * y + x * y, (1e20, 1e10, -1e20), 1, 0.0, 1e10),
    "differences": (lambda x, y: x * y - x * y, (1e20, 1e10), 1, 0.0, 0.0),
    "a square": (lambda x, y: x * x - y, (1 + 2.0**-30, 1 + 2.0**-29), 1, 0.0, 2 + 2.0**-29),
    "from a square": (lambda x, y: y - x * x, (1 + 2.0**-30, 1 + 2.0**-29), 1, 0.0, -2 - 2.0**-29),
    "a square less": (lambda x, y: -y + x * x, (1 + 2.0**-30, 1 + 2.0**-29), 1, 0.0, 2 + 2.0**-29),
    "gradients": (lambda x, y, z: x * y + x * z, (3.0, 1e20, -1e20), 1e10, 0.0, 0.0),
    # Sums begin with their first term, not with zero: 0.0 + -0.0 is 0.0.
    **{
        f"-0.0 used {uses} times": (fan_out(uses), (-0.0, 1.0), -0.0, -0.0, -0.0)
        for uses in (1, 2, 3, 5)
    },
    "-0.0 of minus": (lambda x, y: -x - y, (0.0, 0.0), 0.0, -0.0, -0.0),
    # Gradients are added in the reverse order of making, whatever that of use and of outputs. (The
    # sum of Python's floats, from 3.12 on, does not round each addition.)
    **{
        f"last made first {a, b, c}": (three_uses, (1.0, a, b, c), 1, (a + b) + c, (c + b) + a)
        for a, b, c in ORDERS
    },
    **{
        f"made, not used {a, b, c}": (
            made_in_another_order,
            (1.0, a, b, c),
            1,
            (a + b) + c,
            (b + a) + c,
        )
        for a, b, c in ORDERS
    },
    **{
        f"outputs {outputs} {a, b, c}": (returning(*outputs), (1.0, a, b, c), 1, None, (c + b) + a)
        for a, b, c in ORDERS[:2]
        for outputs in itertools.permutations(["t0", "t1", "t2"])
    },
    # What is given for a value comes before all of them.
    **{
        f"given first {a, b, c}": (an_output_between, (1.0, 1.0, a, b), (1.0, c), None, (c + b) + a)
        for a, b, c in ORDERS
    },
    # A third contribution makes the order of the two visible: (made later + x) + y.
    "x before y": (lambda x, a: (x * a) * x - x * BIG, (1.0, 3.0), 1, 3 - BIG, (-BIG + 3.0) + 3.0),
    # A second output, whose own gradient overflows, has no part in the first one's.
    "two outputs": (
        lambda x, a, b, z: (z * z, x * a + x * b),
        (1.0, BIG, 1.0, 1e150),
        1,
        None,
        1.0 + BIG,
    ),
    "itself times itself": (lambda x: x * x, (3.0,), 1, 9.0, 6.0),
    "plus itself": (lambda x: x + x, (3.0,), 1, 6.0, 2.0),
    "less itself": (lambda x: x - x, (3.0,), 1, 0.0, 0.0),
    "a square of a square": (lambda x: (x * x) * (x * x), (3.0,), 1, 81.0, 108.0),
    "minus a square": (lambda x: -x * x, (3.0,), 1, -9.0, -6.0),
}


@pytest.mark.parametrize("n", [None, 7, 5_000])
@pytest.mark.parametrize("name", CORNERS)
def test_corners(name, n):
    function, operands, dout, value, gradient = CORNERS[name]
    with in_passes():
        found = assert_same(
            function,
            *(one if n is None else np.full(n, one) for one in operands),
            dout=tuple(map(sized(n), dout)) if isinstance(dout, tuple) else sized(n)(dout),
        )
    if value is not None:
        assert written(found.value[0]) == {repr(value)}
    assert written(found.value[1][0]) == {repr(gradient)}


def sized(n):
    return lambda number: number if n is None or number == 1 else np.full(n, number)


def written(values):
    return {repr(float(one)) for one in np.ravel(values)}


# ----------------------------------------------------------------------------------------- outputs


def momentum_of_numbers(w, v, g):
    return momentum(w, v, g, 0.9, 0.1)


# Function and dout, of operands x, y and z that are arrays; dout is of names of theirs and numbers.
OUTPUTS = {
    "an intermediate": (lambda x, y, z: (x * y, x * y * z), ("z", "x")),
    "an input": (lambda x, y, z: (x, x * y * z), 0.1),
    "an input alone": (lambda x, y, z: x, "y"),
    "an input twice": (lambda x, y, z: (x, x), ("y", "z")),
    "an input among others": (lambda x, y, z: (x * y, x, x * y), ("x", "y", "z")),
    "one value twice": (lambda x, y, z: (x * y + z,) * 2, ("z", "x")),
    "a dout for each": (momentum_of_numbers, ("x", "y")),
    "a number among them": (momentum_of_numbers, ("x", -0.0)),
    "a number for all": (momentum_of_numbers, 0.5),
    "no output depends on z": (lambda x, y, z: x * y, "x"),
}


@pytest.mark.parametrize("layout", ["C", "reversed", "mapped", "repeated rows"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs(name, layout):
    function, dout = OUTPUTS[name]
    for shape in ((40,), (5, 8)):
        x, y, z = (normal(shape, seed=seed, layout=layout) for seed in range(3))
        named = {"x": x, "y": y, "z": z}
        chosen = [named.get(one, one) for one in (dout if isinstance(dout, tuple) else (dout,))]
        assert_same(function, x, y, z, dout=tuple(chosen) if isinstance(dout, tuple) else chosen[0])
        assert_same(function, x, x, z)  # one array as two operands


@pytest.mark.parametrize("number", [1, 1.0, 0.1, True])
def test_input_of_any_kind_that_is_the_output(number):
    x = normal(40)
    for operand in (x, x[::-1], x.reshape(5, 8).T, normal((3, 4), "f4"), 2.5, 3):
        gradient = assert_same(lambda x: x, operand, dout=number).value[1].x
        assert np.all(gradient == np.float64(number).astype(getattr(operand, "dtype", "f8")))


# ------------------------------------------------------------------------------------------- types


def scaled(x, k):
    return (x - k) * k + x * 2


# With a float32 array: what the value's dtype is, and whether a pass serves it.
BESIDE_FLOAT32 = {
    "a float": (2.5, "f4", True),
    "an int": (3, "f4", True),
    "a bool": (True, "f4", False),
    "an int too large for float32": (10**40, "f4", False),
    "float32": (np.float32(0.1), "f4", True),
    "a float32 array without axes": (np.array(0.1, "f4"), "f4", True),
    "one from pickle": (pickle.loads(pickle.dumps(np.array(0.1, "f4"))), "f4", True),
    "NumPy's bool": (np.True_, "f4", False),
    "float64": (np.float64(0.1), "f8", False),
    "a float64 array without axes": (np.array(0.1), "f8", False),
    "a float64 array": (np.array([0.1]), "f8", False),
    "complex": (1j, "F", False),
}


@pytest.mark.parametrize("name", BESIDE_FLOAT32)
def test_dtypes_beside_float32(name):
    number, dtype, served = BESIDE_FLOAT32[name]
    x = normal(40, "f4")
    for dout in (1, 0.1, True, x, np.array(0.5), np.float32(0.1)):
        found = assert_same(scaled, x, number, dout=dout, errstate={"all": "ignore"})
        assert found.exception or found.value[0].dtype == dtype
    with in_passes() if served else nullcontext():
        assert_same(scaled, x, number, dout=x)
        assert_same(lambda k, x: 0.1 * x + (1 - k) * (k * k - 2), number, x)


I4 = np.array([2**31 - 1, -(2**31), 3], "i4")
TYPES = {
    "ints of any size": (shop, (10**30, 3, 2, 10**30, 7)),
    "ints and a float": (horner, (2, 3, 5, 0.5)),
    # As NumPy's scalars they would be float64, or overflow.
    "numbers alone are Python's": (
        lambda x, k: (k * k - (k * k - 2)) * x,
        (normal(40, "f4"), 10**30),
    ),
    "a number that no array holds": (lambda x, k: (k * k) * x, (np.arange(3), 10**30)),
    "the gradient of a number": (lambda x, k: x * (k * k + 1) - k, (normal((30, 7)), 2.5)),
    "of an int": (lambda x, k: x * (k * k + 1) - k, (normal((30, 7)), 3)),
    "of an int among ints": (lambda x, k: x * k, (np.arange(5), 2**40)),
    "integers that wrap": (lambda x, y: x * x * y - y, (I4, I4)),
    "and a number": (lambda x, k: x * k + k, (I4, 2)),
    **{
        f"{kind}({one!r}) in the function": (
            function_of(f"def graph(x):\n    return np.{kind}({one}) * x + x * np.{kind}({one})\n"),
            (np.arange(20).astype(dtype),),
        )
        for kind, one, dtype in (("float64", 0.1, "f4"), ("float32", 0.1, "f8"), ("int64", 3, "i4"))
    },
}


@pytest.mark.parametrize("name", TYPES)
def test_types(name):
    function, operands = TYPES[name]
    for dout in (1, 2, 0.5, True):
        assert_same(function, *operands, dout=dout)


@pytest.mark.parametrize("dtype", ["?", "u1", "f2", "g", "D", ">f8", "O"])
def test_dtypes_that_no_pass_serves(dtype):
    x, y, dout = (normal((4, 6), dtype, seed) for seed in range(3))
    for function in (horner, lambda x, a, b, c: x * a + b * c, lambda x, a, b, c: -x * a):
        assert_same(function, x, y, x, y[0], dout=dout)
        assert_same(function, x, y, 2, normal(6), dout=dout)


def test_scalars_and_arrays_without_axes():
    for x, y in itertools.product([np.array(2.5), np.float64(1.5), np.float32(3), 2], repeat=2):
        for dout in (1, np.array(0.5), np.float32(0.1)):
            assert_same(lambda x, y: (x * y - x, x + y, x), x, y, dout=(dout, 0.5, dout))


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("shape", [(300,), (7, 5), (1, 3)])
def test_numpys_scalars_among_arrays(shape, dtype):
    x, y, scalar = normal(shape, dtype), normal(shape[-1], dtype), np.dtype(dtype).type
    for one in (scalar(3), np.array(3, dtype), pickle.loads(pickle.dumps(np.array(3, dtype)))):
        for mean, scale in ((one, 2), (2, one), (one, one)):
            with in_passes():
                assert_same(lambda x, m, s: (x - m) * s + m * 2, x, mean, scale, dout=3)
            assert_same(lambda x, m, y, s: (x * y + m) * s, x, mean, y, scale)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_matrices_multiply_as_matrices():
    x, y = normal((3, 3)).view(np.matrix), normal((3, 3), seed=1).view(np.matrix)
    value = Graph(lambda x, y: x * y + x)(x, y)
    assert described(value) == described(x * y + x)
