"""Graphs of products, reductions and views: the bits of their nodes, in as few passes as may be."""

from __future__ import annotations

import inspect
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from graphs import NodesGraph, in_passes, normal
from outcome import described, differences, outcome
from paths import PATHS, taken

import fastlayers
from fastlayers import Graph

NATIVE = fastlayers.IMPLEMENTATION == "native"
# From this version on NumPy adds up a whole array in one order.
TOTALS = np.lib.NumpyVersion(np.__version__) >= "2.3.0"


def same(found, expected):
    lines = differences(described(found), described(expected))
    assert lines == [], "\n".join(lines)


def assert_like_nodes(function, *operands, dout=1, passes=None):
    """Value and gradients, together and one after the other, are those of the nodes.

    With ``passes``, that is how many there are for both together.
    """
    graph = Graph(function)
    with np.errstate(all="ignore"):
        value, gradients = NodesGraph(function).value_and_grad(*operands, dout=dout)
        graph.value_and_grad(*operands, dout=dout)
        before = fastlayers.graph_info()
        found = graph.value_and_grad(*operands, dout=dout)
        after = fastlayers.graph_info()
        same(found[0], value)
        same(tuple(found[1]), tuple(gradients))
        same(graph(*operands), value)
        same(graph.forward(*operands), value)
        same(tuple(graph.backward(dout)), tuple(gradients))
    if passes is not None and NATIVE:
        assert (after.passes - before.passes, after.nodes) == (passes, before.nodes)


def softmax_loss(x, t):
    shifted = x - np.max(x, axis=1, keepdims=True)
    logarithms = shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))
    return -np.sum(t * logarithms) / x.shape[0]


def layer_norm(x, gamma, beta):
    away = x - x.mean(axis=-1, keepdims=True)
    return gamma * (away / np.sqrt((away * away).mean(axis=-1, keepdims=True) + 1e-5)) + beta


def standardized(x):
    return (x - x.mean(axis=-1, keepdims=True)) / (x.std(axis=-1, keepdims=True) + 1e-3)


def squared_error(x, t):
    return np.mean((x - t) ** 2)


def logistic_loss(x, t):
    return np.sum(np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x))))


def rosenbrock(x):
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def network(x, t, w, b, v, c):
    return softmax_loss(np.maximum(x @ w + b, 0) @ v + c, t)


def row_losses(x, t):
    return np.mean(np.sum((x - t) ** 2, axis=1) / 2)


# Function, shapes of operands, and the passes of value and gradients.
PROGRAMS = {
    "softmax": (softmax_loss, [(33, 10), (33, 10)], 1),
    "layer norm": (layer_norm, [(33, 64), (64,), (64,)], None),
    "standardized": (standardized, [(4, 5, 17)], 1),
    "squared error": (squared_error, [(31, 17), (31, 17)], 1),
    "logistic": (logistic_loss, [(500,), (500,)], 1),
    "rosenbrock": (rosenbrock, [(300,)], 1),
    "network": (network, [(16, 20), (16, 5), (20, 12), (12,), (12, 5), (5,)], 3),
    "rows": (row_losses, [(40, 9), (40, 9)], None),
    "max of rows": (lambda x: (x * 2).max(axis=1), [(20, 7)], 1),
    "by columns": (lambda x: (x - x.mean(axis=0)) / x.std(axis=0), [(20, 7)], None),
    "middle axis": (lambda x: x - (x * x).sum(axis=1, keepdims=True), [(4, 5, 6)], None),
    "transposed": (lambda x, w: (x @ w.T).T * 2, [(5, 6), (3, 6)], None),
    "products": (lambda x, w: np.tanh(x @ w) @ w.T, [(5, 6), (6, 3)], None),
    "indexed": (lambda x: np.sum(np.exp(x)[[0, 2, 2], [1, 1, 0]]), [(3, 4)], None),
    "joined": (lambda x, y: np.concatenate((x * 2, y)) ** 2, [(3, 4), (2, 4)], None),
    "sum that is read": (lambda x, y: np.sum(x / y) * (x - y), [(9, 8), (9, 8)], None),
    "two sums": (lambda x, y: (x * y).sum() + (x * x).mean(), [(9, 8), (9, 8)], 1),
}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_like_its_nodes(name, dtype):
    function, shapes, passes = PROGRAMS[name]
    operands = [normal(shape, dtype, seed=i) for i, shape in enumerate(shapes)]
    value = function(*operands)
    if not np.ndim(value):
        assert_like_nodes(function, *operands, passes=passes if TOTALS else None)
    assert_like_nodes(function, *operands, dout=normal(np.shape(value), dtype, seed=9))


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_on_every_path(path):
    with taken(path):
        for function, shapes, _ in PROGRAMS.values():
            assert_like_nodes(function, *[normal(s, seed=i) for i, s in enumerate(shapes)])


def reductions(x, y):
    z = x * y
    return (
        z.sum(axis=-1),
        z.mean(axis=-1),
        z.max(axis=-1),
        z.min(axis=-1, keepdims=True),
        z.var(axis=-1),
        z - z.sum(axis=-1, keepdims=True),
    )


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_rows_of_every_length(dtype):
    graph = Graph(reductions)
    for columns in [*range(1, 300), *range(500, 2100, 97), 4095, 4096, 4097]:
        rows = max(1, (700 if columns % 25 else 40_000) // columns)  # more than NumPy's buffer
        x, y = (normal((rows, columns), dtype, seed=columns + i) for i in range(2))
        same(graph(x, y), reductions(x, y))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_totals_of_every_length(dtype):
    def totals(x, y):
        return (x * y).sum(), (x - y).mean(), x + y

    graph = Graph(totals)
    around = [2**k + i for k in range(12, 18) for i in (-9, -1, 0, 1, 8)]
    for size in [*range(1, 1100), *around, 100_000, 300_001]:
        x, y = (normal((size,), dtype, seed=size + i) for i in range(2))
        same(graph(x, y), totals(x, y))


SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 3e38, -3e38, 1.0]


@pytest.mark.parametrize("path", PATHS[:4], ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_special_values(dtype, path):
    rng = np.random.default_rng(0)
    for columns in (2, 3, 9, 40):
        x = rng.choice(SPECIAL, (60, columns)).astype(dtype)
        y = rng.choice(SPECIAL, (60, columns)).astype(dtype)
        with taken(path), np.errstate(all="ignore"):
            for function in (reductions, softmax_loss, squared_error, logistic_loss):
                dout = 1.0 if function is not reductions else (1.0,) * 6
                assert_like_nodes(function, x, y, dout=dout)


@pytest.mark.skipif(not NATIVE, reason="there are no passes")
def test_sums_of_rows_are_those_of_other_passes():
    """The gradient of an operand with an element for each row, alone and beside a reduction."""
    for columns in (2, 5, 15, 16, 17, 100, 255, 256, 257, 1000):
        for dtype in ("f4", "f8"):
            x = normal((300, columns), dtype) * 10.0 ** normal((300, columns), dtype, seed=1)
            r = normal((300, 1), dtype, seed=2)
            alone = Graph(lambda x, r: x * x - r)
            beside = Graph(lambda x, r: x * x - r + np.max(x, axis=1, keepdims=True))
            with in_passes():
                expected = alone.value_and_grad(x, r, dout=x)[1].r
                assert np.array_equal(beside.value_and_grad(x, r, dout=x)[1].r, expected)


LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "backwards": lambda x: x[::-1, ::-1],
    "offset": lambda x: np.concatenate((x, x), axis=1)[:, 1 : 1 + x.shape[1]],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    x, y = (LAYOUTS[layout](normal((12, 10), seed=i)) for i in range(2))
    for function in (softmax_loss, squared_error, standardized_product, row_losses):
        assert_like_nodes(function, x, y)


def standardized_product(x, y):
    return standardized(x * y)


REPEATED = {
    "a number": lambda x, r, n: x.max(axis=1, keepdims=True) + x * r * n,
    "a row": lambda x, r, n: np.sum(r * n, axis=-1) + np.sum(x + r, axis=1),
    "for each row": lambda x, r, n: (x * r - x.mean(axis=1, keepdims=True) * n).sum(axis=1),
    "numbers alone": lambda x, r, n: x * np.sum(n) - np.max(n) + np.mean(x * n) + r,
    "of one element": lambda x, r, n: np.sum(x[:1] * r, axis=1, keepdims=True) - n * x[:1],
}


@pytest.mark.parametrize("name", REPEATED)
def test_what_is_reduced_may_be_repeated(name):
    x, r, function = normal((7, 5)), normal((5,), seed=1), REPEATED[name]
    for dout in (1, 0.5, normal(np.shape(function(x, r, 3.0)), seed=2)):
        assert_like_nodes(function, x, r, 3.0, dout=dout)


def test_outputs_of_a_graph_that_waits_for_shapes():
    x, value, gradient = normal((4, 3)), np.empty(3), np.empty((4, 3))
    graph = Graph(lambda x: np.sum(x * x, axis=0) / x.shape[0])
    found, gradients = graph.value_and_grad(x, out=(value, (gradient,)))
    assert found is value
    assert gradients.x is gradient
    same((value, gradient), (np.sum(x * x, axis=0) / 4, graph.value_and_grad(x)[1].x))
    for call in (graph, graph.forward):
        for given, named in (((x,), {}), ((), {"x": x})):
            value[:] = 0
            assert call(*given, **named, out=value) is value
            same(value, np.sum(x * x, axis=0) / 4)
    assert graph.backward(1, out=(gradient,)).x is gradient


def test_operands_of_several_dtypes():
    x, t = normal((6, 4), "f4"), np.eye(6, 4)
    assert_like_nodes(softmax_loss, x, t)
    labels = np.array([0, 3, 1, 2, 0, 1])
    rows = np.arange(6)
    assert_like_nodes(lambda x: -np.mean((x * 2)[rows, labels]), x)
    assert_like_nodes(lambda x, i: np.sum((x * 2)[i] ** 2), x, labels)


def logistic_regression(w, b, x, y):
    z = x @ w + b
    return np.mean(np.logaddexp(0, z) - y * z)


@pytest.mark.parametrize("dtype", ["i8", "i4", "u1", "?"])
def test_integers_and_bools_beside_floats(dtype):
    x, y = normal((20, 3)), (np.arange(20) % 2).astype(dtype)
    assert_like_nodes(logistic_regression, normal(3, seed=1), 0.5, x, y, passes=None)
    if NATIVE:
        before = fastlayers.graph_info()
        Graph(logistic_regression)(normal(3), 0.0, x, y)
        assert fastlayers.graph_info().nodes == before.nodes
    for function in (
        lambda y, x: np.sum(y + y * x[:, 0]),
        lambda y, x: np.sum(y * y) + np.sum(x),
        lambda y, x: (np.sum(x * 2), y),
        lambda y, x: np.sum((y > 0) * x[:, 0]),
        lambda y, x: np.sum(x[:, 0] / (2 + y)),
    ):
        assert_like_nodes(function, y, x)
    single = x.astype("f4")
    assert_like_nodes(lambda y, x: np.sum(x[:, 0] * y), y, single)


def test_gradients_of_the_parts_of_a_split():
    def some(x, w):
        first, _, third, fourth = np.split(x @ w, 4, axis=1)
        return np.tanh(first) * third - fourth

    def twice(x, w):
        rows = np.split(x @ w, 4)
        return rows[0] * rows[1] + rows[2] * rows[3] - rows[0]

    x, w = normal((8, 3)), normal((3, 12), seed=1)
    x[0] = 0
    for function in some, twice:
        shape = function(x, w).shape
        for dout in 1, -0.0, -normal(shape) * np.arange(shape[1]):
            assert_like_nodes(function, x, w, dout=dout)


CAST = {  # of a float64 and of a lesser dtype, which is cast wherever it is read
    "product": lambda x, y: x * y,
    "the other way": lambda x, y: y * x + x,
    "mask": lambda x, y: np.where(x > y, np.exp(x) * y, 0),
    "quotient": lambda x, y: np.maximum(x, y) - x / (x * x + 1) - y / x,
}


@pytest.mark.parametrize("dtype", ["i8", "i4", "u1", "?", "f4", "f2"])
@pytest.mark.parametrize("name", CAST)
def test_lesser_dtypes_in_one_pass(name, dtype):
    x = np.abs(normal((40, 3))) + 1
    y = np.arange(120).reshape(40, 3).astype(dtype)
    assert_like_nodes(CAST[name], x, y, passes=1)
    assert_like_nodes(CAST[name], x.T, y[:3].T.copy("F")[:, :1], passes=None)
    assert_like_nodes(CAST[name], x, np.broadcast_to(y[0], y.shape))


def test_signalling_nan_is_told_of_where_it_is_read():
    x = np.array([0x7F800001, 0x3F800000], "u4").view("f4")
    for function in (lambda x, y: x + y, lambda x, y: np.sum(x * y)):
        y = normal(2)
        assert outcome(Graph(function), x, y) == outcome(function, x, y)


def test_a_scalar_of_a_wider_dtype():
    x = normal(50, "f4")
    assert_like_nodes(lambda x, y: x * y - x, x, np.float64(1.1), passes=1)
    assert_like_nodes(lambda x, y: np.exp(x) * y, x, np.float64(1.1))  # NumPy's in float32
    assert_like_nodes(lambda x, y: (x + y, x * 2), x, normal(50))
    assert_like_nodes(lambda x, y, n: x - n * y, normal(50), x, 0.1)  # n * y is of float32
    assert_like_nodes(lambda x, y, n: x - n * y, normal(50), x, np.float64(0.1), passes=1)


@pytest.mark.parametrize("shape", [(17,), (1, 17), (5, 1, 17), (3, 1)])
def test_integers_that_are_repeated(shape):
    """Their memory order is that of their strides, and so is that of what is made of them."""
    y, row = np.broadcast_to(np.arange(np.prod(shape)).reshape(shape), (5, 3, 17)), normal(17)
    for function in (lambda y: y * row, lambda y: np.exp(y * row) + row):
        same(Graph(function)(y), function(y))
        same(Graph(function)(y.T[::-1].T), function(y.T[::-1].T))


WARNING = {
    "divide": lambda x: np.sum(1 / (x - x)),
    "invalid": lambda x: np.log(x - x.max(axis=1, keepdims=True)).sum(axis=1),
    "overflow": lambda x: np.sum(np.exp(x * 1000)),
    "in a call": lambda x: np.sum(x * 2) / np.sum(x - x),
}


@pytest.mark.parametrize("name", WARNING)
@pytest.mark.parametrize("mode", ["ignore", "warn", "raise"])
def test_warns_as_numpy_does(name, mode):
    function, x = WARNING[name], normal((5, 6))

    def called(graph):
        with np.errstate(all=mode), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = outcome(graph, x)
        return result, [str(one.message) for one in caught]

    assert called(Graph(function)) == called(NodesGraph(function))


def test_backward_that_warns_has_the_values_of_forward():
    """Its nodes are run one by one then, with what forward has kept."""
    x = np.where(normal((4, 5)) > 1, np.inf, normal((4, 5), seed=1))
    function = lambda x: np.std(x, axis=-2, keepdims=True) * np.tanh(x)  # noqa: E731
    graphs = Graph(function), NodesGraph(function)
    with np.errstate(all="ignore"):
        for graph in graphs:
            graph.forward(x)
    with np.errstate(all="warn"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found, expected = (tuple(graph.backward(x)) for graph in graphs)
    same(found, expected)
    assert caught


def test_gradients_of_ones_lie_as_the_value_does():
    x, y = np.asfortranarray(normal((5, 6, 7))), normal((5, 6, 7), seed=1)
    assert_like_nodes(lambda a, x, y: (np.dot(a, x), np.arcsin(y / 9)), -1.25, x, y)


def test_a_variance_of_too_few_warns_once():
    graph = Graph(lambda x: np.var(x * 1.0, axis=0, ddof=1) * 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph(np.ones((1, 3)))
    assert [str(one.message) for one in caught].count("Degrees of freedom <= 0 for slice") == 1


def test_errors_name_the_node():
    graph = Graph(lambda x, w: np.exp(x @ w) * 2)
    with pytest.raises(ValueError, match="matmul") as raised:
        graph.value_and_grad(np.ones((2, 3)), np.ones((2, 3)))
    assert "x @ w" in raised.value.__notes__[0]
    assert "float64 (2, 3)" in raised.value.__notes__[0]
    graph = Graph(lambda x: np.sum(x * 2, axis=2))
    with pytest.raises(np.exceptions.AxisError) as axis:
        graph(np.ones((2, 3)))
    assert "axis=2" in axis.value.__notes__[0]


def test_a_wrong_dout_is_refused():
    graph = Graph(lambda x: np.sum(x * 2, axis=1))
    for call in (graph.value_and_grad, lambda x, dout: (graph.forward(x), graph.backward(dout))):
        with pytest.raises(ValueError, match=r"dout has shape \(3,\)"):
            call(np.ones((2, 3)), dout=np.ones(3))


@pytest.mark.skipif(not NATIVE, reason="nothing is kept where there are no passes")
def test_calls_are_made_once():
    """Products are made in forward, and what they gave is kept for backward."""
    calls = []

    def product(x, w):
        return np.tanh(x @ w) @ w.T

    graph, x, w = Graph(product), normal((8, 5)), normal((5, 3))
    multiply = graph._operations["matmul"]
    graph._networks._run = {
        **graph._operations,
        "matmul": lambda *xs: calls.append(xs) or multiply(*xs),
    }
    graph.forward(x, w)
    assert len(calls) == 2
    same(tuple(graph.backward(x)), tuple(NodesGraph(product).value_and_grad(x, w, dout=x)[1]))
    assert len(calls) == 2


def test_backward_reads_operands_at_their_current_values():
    """As a layer: what is kept of calls is of forward, operands are what they are now."""
    x = normal((4, 3))
    graph = Graph(lambda x: np.sum(x * x, axis=1))
    graph.forward(x)
    x *= 2
    assert np.array_equal(graph.backward(1).x, 2 * x)


def deep(x, w):
    """A thousand nodes, each of which reads the one before."""
    for _ in range(100):
        x = np.tanh(x @ w * 0.5 + 0.1) * 1.5 - 0.01
        x = x - np.max(x, axis=-1, keepdims=True)
    return np.sum(x)


def test_long_graphs_need_no_recursion():
    x, w = normal((4, 5)), normal((5, 5), seed=1)
    squared_error(x, x)  # imports what NumPy imports late
    limit, depth = sys.getrecursionlimit(), len(inspect.stack(0))
    sys.setrecursionlimit(depth + 100)
    try:
        graph, nodes = Graph(deep), NodesGraph(deep)
        found = graph.value_and_grad(x, w)
        graph.forward(x, w)
        later = graph.backward(1)
        expected = nodes.value_and_grad(x, w)
    finally:
        sys.setrecursionlimit(limit)
    same(found, expected)
    same(tuple(later), tuple(expected[1]))


@pytest.mark.skipif(not NATIVE, reason="node by node nothing is given back early")
def test_peak_memory_is_that_of_the_program_by_hand():
    x, t = normal((256, 400), "f4"), np.eye(256, 10, dtype="f4")
    w, b, v, c = (
        normal(s, "f4", seed=i) / 9 for i, s in enumerate([(400, 300), 300, (300, 10), 10])
    )
    graph = Graph(network)

    def by_hand():
        a = x @ w + b
        h = np.maximum(a, 0)
        z = h @ v + c
        z -= z.max(axis=1, keepdims=True)
        e = np.exp(z)
        s = e.sum(axis=1, keepdims=True)
        value = -np.sum(t * (z - np.log(s))) / len(x)
        dz = (e / s - t) / len(x)
        dv, dc = h.T @ dz, dz.sum(axis=0)
        dh = dz @ v.T * (a > 0)
        return value, (x.T @ dh, dh.sum(axis=0), dv, dc)

    def peak(call):
        call()
        tracemalloc.start()
        call()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    found = peak(lambda: graph.value_and_grad(x, t, w, b, v, c, wrt=("w", "b", "v", "c")))
    assert found <= 1.1 * peak(by_hand)


def test_gradients_of_numbers_beside_sums_are_numbers():
    c = normal((2, 3))

    def function(a):
        return np.exp(-np.sum(a * a)) + (a * a) * c

    for graph in (Graph(function), NodesGraph(function)):
        gradient = graph.value_and_grad(0.5)[1].a
        assert type(gradient) is float
        expected = 6 * -np.exp(-0.25) + np.sum(c)
        assert gradient == pytest.approx(expected, rel=1e-14)
