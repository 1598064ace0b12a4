"""Graphs that are run in one pass over memory: that they are, and give what their nodes give."""

from __future__ import annotations

import contextvars
import copy
import functools
import gc
import pickle
import tracemalloc
import warnings
import weakref
from types import MappingProxyType

import numpy as np
import pytest
from operands import FLOATS, KERNEL_DTYPES
from outcome import described, outcome
from paths import LEVELS, PATHS, Path, taken

import fastlayers
from fastlayers import BaseLayer, Graph

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy runs the nodes one by one", allow_module_level=True)

from fastlayers.graph import operations, planner
from fastlayers.graph.compounds import joined
from fastlayers.graph.segments import Segment


def shop(a, b, c, d, e):
    return (a * b + c * d) * e


def horner(x, a, b, c):
    return ((c * x + b) * x + a) * x - 2


def gates(f, c, g, i):
    return f * c + g * i


def momentum(w, v, g, mu, lr):
    v = mu * v - lr * g
    return w + v, v


def averages(m, v, g):
    return m * 0.75 + g * 0.25, v * 0.5 + g * g * 0.5


def fans(x, y):
    t = x * y - y
    return t * t - (-t) * x + t, t


def product(a, b, c, d):
    return a * b * (c * d) * a


def pairs(a, b, c, d, x):
    total = a * b + c * d
    return total * x, total * (a + x), x * (a * d)


def polynomial(x, a, b, c):
    # x is used five times: so many gradients are added, each beside the product that goes on.
    return ((((c * x + b) * x + a) * x - b) * x + 3) * x + c


ALL = [shop, horner, gates, momentum, averages, fans, product, pairs, polynomial]
INTEGRAL = [shop, horner, gates, fans, product, pairs, polynomial]
SIZES = [1, 31, 255, 256, 257, 1_000, 5_003]


@pytest.fixture
def in_one_pass():
    """No node is run by itself."""
    before = fastlayers.graph_info()
    yield
    after = fastlayers.graph_info()
    assert after.nodes == before.nodes
    assert after.passes > before.passes


class PlainGraph(Graph):
    """A graph of which the nodes are run one by one, by plain NumPy."""

    _operations = operations.PLAIN


def layered(function):
    """A graph whose nodes are run one by one by the layers: sums have their bits."""
    return LayeredGraph(function)


class LayeredGraph(Graph):
    _operations = MappingProxyType(operations.FUNCTIONS)  # of which no pass is made


def inputs(function, shape, dtype, layout="C"):
    count = function.__code__.co_argcount
    rng = np.random.default_rng(0)
    return [np.array(rng.integers(-9, 10, shape) / 4, dtype, order=layout) for _ in range(count)]


def outcomes(graph, operands, dout):
    value = graph.forward(*operands)
    return described(
        [value, graph.backward(dout), graph.value_and_grad(*operands), graph(*operands)]
    )


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_bits_of_the_nodes(in_one_pass, path, dtype):
    for function in ALL if dtype in FLOATS else INTEGRAL:
        graph = Graph(function)
        for size in SIZES:
            for operands, dout, expected in plain_outcomes(function, size, dtype):
                with taken(path):
                    assert outcomes(graph, operands, dout) == expected


@functools.cache
def plain_outcomes(function, size, dtype):
    """Operands, gradients of the outputs, and what the nodes give, the same on all paths."""
    plain = PlainGraph(function)
    operands = inputs(function, size, dtype)
    ones = np.ones_like(plain(*operands), dtype)
    douts = 3, tuple(ones * 2) if ones.ndim > 1 else operands[0] + ones
    return [(operands, dout, outcomes(plain, operands, dout)) for dout in douts]


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_arrays_from_pickle_beside_new_ones(in_one_pass, dtype):
    # Their descriptor is equal to NumPy's own, but another object.
    new = inputs(shop, 300, dtype)
    stored = pickle.loads(pickle.dumps(new))
    assert stored[0].dtype is not new[0].dtype
    expected = outcomes(PlainGraph(shop), new, 3)
    assert outcomes(Graph(shop), [stored[0], *new[1:]], 3) == expected
    assert outcomes(Graph(shop), [new[0], *stored[1:]], 3) == expected
    out = pickle.loads(pickle.dumps(new[0]))
    assert Graph(shop)(*new, out=out) is out


SCALARS = {
    "scalar": lambda value: value,
    "array without axes": np.array,
    "stored": lambda value: pickle.loads(pickle.dumps(np.array(value))),
}


@pytest.mark.parametrize("form", SCALARS.values(), ids=SCALARS)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_numpys_scalars_among_arrays(in_one_pass, dtype, form):
    def scaled(x, mean, scale):
        return (x - mean) * scale + mean * 2

    for shape in ((300,), (7, 5), (1, 3)):
        x = np.arange(1, 1 + np.prod(shape), dtype=dtype).reshape(shape)
        for mean in (form(x.dtype.type(3)), 3, 0.5 if dtype in FLOATS else 5):
            operands = x, mean, form(x.dtype.type(2))
            expected = outcomes(layered(scaled), operands, 3)
            assert outcomes(Graph(scaled), operands, 3) == expected


def test_numpys_scalars_among_arrays_of_several_shapes(in_one_pass):
    def affine(x, gamma, beta, scale):
        return (x * gamma + beta) * scale

    x, gamma, scale = np.ones((5, 7)) / 3, np.arange(7.0), np.float64(1.1)
    for beta in (np.arange(5.0)[:, None], np.float64(0.1), np.array(0.1)):
        operands = x, gamma, beta, scale
        assert described(Graph(affine)(*operands)) == described(affine(*operands))


@pytest.mark.parametrize("rate", [np.float32(0.1), np.array(0.1, "f4")])
def test_numpys_scalars_in_place(in_one_pass, rate):
    w, g = np.random.default_rng(0).random((2, 50_000)).astype("f4")
    expected = w - rate * g
    assert Graph(lambda w, g, rate: w - rate * g)(w, g, rate, out=w) is w
    assert w.tobytes() == expected.tobytes()


@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed"])
def test_layouts(in_one_pass, layout):
    for function in ALL:
        operands = inputs(function, (6, 40), "f8", "F" if layout == "F" else "C")
        if layout == "strided":
            operands = [np.stack([one] * 2, axis=-1)[..., 0] for one in operands]
        if layout == "reversed":
            operands = [one[:, ::-1] for one in operands]
        dout = operands[0]
        if isinstance(function(*operands), tuple):
            dout = 1
        assert outcomes(Graph(function), operands, dout) == outcomes(
            PlainGraph(function), operands, dout
        )


def fourteen(a, b, c, d, e, f, g, h, i, j, k, m, n, o):
    return (a * b + c * d) * (e * f - g * h) + (i * j - k * m) * (n * o) * a


def strided(array):
    return np.repeat(array, 2, axis=-1)[..., ::2]


# Rows are longer than a tile, or as short as to be run crosswise. Of fourteen operands and as many
# gradients, not all find room to be copied.
LIE_OTHERWISE = {
    "strided": ((3, 700), lambda operands: map(strided, operands)),
    "one strided": ((3, 700), lambda operands: [strided(operands[0]), *operands[1:]]),
    "a column": ((3, 700), lambda operands: [*operands[:-1], operands[-1][:, :1].copy()]),
    "short rows": ((700, 3), lambda operands: [*operands[:-1], operands[-1][:, :1].copy()]),
}


@pytest.mark.parametrize("path", [*PATHS, Path(LEVELS[-1], 2, streaming=True)], ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("which", LIE_OTHERWISE)
def test_operands_that_lie_otherwise(in_one_pass, which, dtype, path):
    shape, lie = LIE_OTHERWISE[which]
    for function in (shop, polynomial, fourteen):
        operands = list(lie(inputs(function, shape, dtype)))
        dout = operands[0]
        expected = described(layered(function).value_and_grad(*operands, dout=dout))
        with taken(path):
            both = Graph(function).value_and_grad(*operands, dout=dout)
        assert described(both) == expected


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("numbers", [(2.5, 1), (1, -3.0), (0.0, 2)])
def test_numbers(in_one_pass, numbers, dtype):
    graphs = [kind(momentum) for kind in (Graph, PlainGraph)]
    w, v, g, *_ = inputs(momentum, 300, dtype)
    ours, plain = (graph.value_and_grad(w, v, g, *numbers) for graph in graphs)
    assert described(ours[0]) == described(plain[0])
    assert described(ours[1][:3]) == described(plain[1][:3])
    assert [type(one) for one in ours[1]] == [type(one) for one in plain[1]]


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_in_place(in_one_pass, path, dtype):
    """Outputs may be operands, each of whichever result; others are new."""
    for function in (momentum, averages, fans):
        for size in SIZES:
            operands = inputs(function, size, dtype)
            if function is momentum:
                operands[3:] = 0.5, -0.25
            expected = described(PlainGraph(function)(*operands))
            for places in ((0, 1), (1, 0), (None, 1)):
                given = copy.deepcopy(operands)
                out = tuple(None if place is None else given[place] for place in places)
                with taken(path):
                    values = Graph(function)(*given, out=out)
                assert described(values) == expected
                assert all(
                    one is None or one is value for one, value in zip(out, values, strict=True)
                )
                for i, one in enumerate(given):
                    if i not in places:
                        assert described(one) == described(operands[i])


def test_gradients_in_place(in_one_pass):
    graph, plain = Graph(fans), PlainGraph(fans)
    operands = x, y = inputs(fans, 1_000, "f4")
    expected = plain.value_and_grad(*operands, dout=0.5)
    z, t = np.empty_like(x), np.empty_like(x)
    value, gradients = graph.value_and_grad(x, y, dout=0.5, out=((z, t), (y, x)))
    assert described((value, gradients)) == described(expected)
    assert value[0] is z
    assert gradients[0] is y


@pytest.mark.parametrize("path", [*PATHS, None], ids=str)
@pytest.mark.parametrize("mode", ["warn", "print", "ignore", "raise", "call", "log"])
def test_in_place_is_stopped_before_what_numpy_warns_of(path, mode):
    """In any part of any thread's share, at the edges of tiles, and in several places."""
    size = 5_000
    for where in ([0], [255], [256], [4_999], [70, 1_200, 4_800], [2_559, 2_560]):
        outcomes = []
        for kind in (PlainGraph, Graph):
            w, v, g, *_ = inputs(momentum, size, "f4")
            v[where], g[where[:1]] = np.finfo("f4").max, -np.finfo("f4").max
            w[where] = np.inf
            with taken(path):
                called = outcome(
                    kind(momentum), w, v, g, 0.75, 4.0, out=(w, v), errstate={"all": mode}
                )
            outcomes.append((called, described((w, v, g))))
        assert outcomes[0] == outcomes[1]
        assert (outcomes[0][0].exception is not None) == (mode == "raise")


@pytest.mark.parametrize("path", [*PATHS, None], ids=str)
def test_in_place_where_nobody_has_set_errstate(path):
    """NumPy's defaults hold: it warns of all but underflows."""

    def update(kind):
        w, v, g, *_ = inputs(momentum, 5_000, "f4")
        g[1_000], w[3_000], v[3_000] = np.finfo("f4").max, np.inf, -np.inf
        v[4_000] = g[4_000] = np.finfo("f4").tiny
        with taken(path), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            kind(momentum)(w, v, g, 0.75, 4.0, out=(w, v))
        return [str(one.message) for one in caught], described((w, v, g))

    ours, plain = (contextvars.Context().run(update, kind) for kind in (Graph, PlainGraph))
    assert ours == plain
    assert ours[0] == [
        "overflow encountered in multiply",
        "invalid value encountered in add",
    ]


def test_in_place_heeds_seterr():
    def update(w):
        np.seterr(over="raise")
        Graph(lambda w: w * w)(w, out=w)

    w = np.array([1.0, 1e300])
    with pytest.raises(FloatingPointError, match="overflow encountered in multiply"):
        contextvars.copy_context().run(update, w)
    assert w.tolist() == [1.0, 1e300]


def test_in_place_takes_no_memory(in_one_pass):
    step = Graph(momentum)
    w, v, g, *_ = inputs(momentum, 100_000, "f8")
    step(w, v, g, 0.5, 0.25, out=(w, v))
    fastlayers.empty_cache()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        step(w, v, g, 0.5, 0.25, out=(w, v))
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 10_000


@pytest.mark.parametrize("mode", ["warn", "raise"])
def test_in_place_beside_other_shapes(mode):
    def several(x, y, row, idle):
        return x * y, row * row, y + row

    outcomes = []
    with pytest.warns(UserWarning, match="no output depends on idle"):
        graphs = PlainGraph(several), Graph(several)
    for graph in graphs:
        x, y, row = np.full((6, 6), 2.0), np.ones((6, 6)), np.full((1, 6), 3.0)
        x[3, 3] = y[3, 3] = 1e300
        called = outcome(
            graph.value_and_grad,
            x,
            y,
            row,
            row,
            dout=(x, row, y),
            errstate={"over": mode},
            out=((x, None, y), (None, None, row, None)),
        )
        outcomes.append((called, described((x, y, row))))
    assert outcomes[0] == outcomes[1]


def test_lack_of_memory_after_work_in_place_is_told(monkeypatch):
    # Nothing may be computed again, of operands that are gone.
    step = Graph(lambda x, k: (x * x, k * 2))

    def exhausted(*_):
        raise MemoryError

    x = np.full(5, 3.0)
    step(x, 2)
    monkeypatch.setattr(planner, "apart", exhausted)  # of the results, after the pass
    with pytest.raises(MemoryError):
        step(x, 2, out=(x, None))
    assert x.tolist() == [9.0] * 5


@pytest.mark.parametrize("shift", [-8, -1, 1, 8])
def test_outputs_that_overlap_operands_in_part(in_one_pass, shift):
    memory = np.zeros(1_100)
    for place in range(2):
        given = inputs(fans, 1_000, "f8")
        expected = described(PlainGraph(fans)(*given))
        x = memory[50:1_050]
        out = memory[50 + shift : 1_050 + shift]
        x[:], given[place] = given[place], x
        values = Graph(fans)(*given, out=(out, None))
        assert values[0] is out
        assert described((out.copy(), values[1])) == expected


def test_operands_by_name(in_one_pass):
    w, v, g, *_ = inputs(momentum, 300, "f8")
    expected = described(PlainGraph(momentum)(w, v, g, 0.5, 0.25))
    assert described(Graph(momentum)(w, v, lr=0.25, mu=0.5, g=g)) == expected


def row_and_layers(x, gamma, beta):
    """The gradients of ``x * gamma + beta`` by layers."""
    mul, add = (layer(sum_to_shape=True) for layer in (fastlayers.MulLayer, fastlayers.AddLayer))
    value = add.forward(mul.forward(x, gamma), beta)
    dproduct, dbeta = add.backward(x)
    return value, (*mul.backward(dproduct), dbeta)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize(
    "shapes", [((300, 257), (257,)), ((300, 257), (300, 1)), ((70_000,), (1,))]
)
@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_of_the_layers(in_one_pass, path, shapes, dtype):
    rng = np.random.default_rng(0)
    # All magnitudes: another order of additions would show.
    x = (rng.standard_normal(shapes[0]) * 2.0 ** rng.integers(-40, 41, shapes[0])).astype(dtype)
    gamma, beta = (rng.standard_normal(shapes[1]).astype(dtype) for _ in range(2))
    graph = Graph(lambda x, gamma, beta: x * gamma + beta)
    expected = row_and_layers(x, gamma, beta)
    with taken(path):
        value, gradients = graph.value_and_grad(x, gamma, beta, dout=x)
    assert described((value, tuple(gradients))) == described(expected)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("shape", [(300, 257), (3, 1), (1, 5), (0, 4), (4, 0)])
def test_sums_of_ones(shape, dtype):
    """The gradients of what is added or subtracted count elements, if ``dout`` is 1."""

    def graph(x, row, column, n):
        return x * x - row + (column - n)

    x, row, column = (np.full(one, 3, dtype) for one in (shape, shape[1:], (shape[0], 1)))
    for operands in ((x, row, column, 2), (x, row, 4, 2), (x, 1, 3, row), (row, x, 5, column)):
        ours, layers = (kind(graph).value_and_grad(*operands) for kind in (Graph, layered))
        assert described(ours) == described(layers)
        out = tuple(np.empty_like(o) if hasattr(o, "dtype") else None for o in operands)
        into = Graph(graph).value_and_grad(*operands, out=(None, out))
        assert described(into) == described(layers)
        for i in range(4):
            name = ("x", "row", "column", "n")[i]
            one = Graph(graph).value_and_grad(*operands, wrt=name)[1]
            assert described(one[0]) == described(layers[1][i])


def test_sums_of_ones_beside_several_passes():
    def graph(x, row):
        for _ in range(70):
            x = x * 0.5 + 1
        return x - row

    x, row = np.ones((300, 7)), np.ones(7)
    ours, layers = (kind(graph).value_and_grad(x, row) for kind in (Graph, layered))
    assert described(ours) == described(layers)
    assert ours[1].row.tolist() == [-300.0] * 7


@pytest.mark.parametrize("dout", [1, 1.0, -0.0, 3, 2**70])
@pytest.mark.parametrize("numbers", [(100, 2, 150, 3, 1.1), (2**80, -0.0, 1, 0, 7), (1e308,) * 5])
def test_numbers_alone(in_one_pass, numbers, dout):
    for function in ALL:
        operands = numbers[: function.__code__.co_argcount]
        graphs = Graph(function), PlainGraph(function)
        ours, plain = (outcomes(graph, operands, dout) for graph in graphs)
        assert ours == plain
        assert repr(graphs[0].value_and_grad(*operands)) == repr(
            graphs[1].value_and_grad(*operands)
        )


@pytest.mark.parametrize("count", [20, 40, 300])
def test_many_numbers_before_and_among_arrays(count):
    def graph(x, a):
        for i in range(count):
            a = a * (1 + 2.0**-i) - i
        for i in range(count // 2):
            x = x + (i + 0.5)
        return x * a

    x = inputs(gates, 300, "f8")[0]
    ours, plain = (kind(graph).value_and_grad(x, 0.5) for kind in (Graph, PlainGraph))
    assert described((ours[0], ours[1].x)) == described((plain[0], plain[1].x))


def test_errors_of_numbers_name_their_node():
    with pytest.raises(OverflowError, match="too large") as caught:
        Graph(shop).value_and_grad(10**400, 2, 150, 3, 1.1)
    assert caught.value.__notes__[0].startswith("node t3 = t2 * e of shop")


def test_small_parts_are_computed_first(in_one_pass):
    # alpha is (rows, columns, 1): so is 1 - alpha, and its gradient.
    rng = np.random.default_rng(0)
    alpha, x, y = (rng.random((20, 30, n), dtype="f4") for n in (1, 3, 3))

    def blend(alpha, x, y):
        return alpha * x + (1 - alpha) * y

    layers = fastlayers.MulLayer(sum_to_shape=True), fastlayers.MulLayer(sum_to_shape=True)
    rest = 1 - alpha
    value = layers[0].forward(alpha, x) + layers[1].forward(rest, y)
    (dalpha, dx), (drest, dy) = (layer.backward(np.ones_like(x)) for layer in layers)
    expected = value, (drest * -1 + dalpha, dx, dy)
    value, gradients = Graph(blend).value_and_grad(alpha, x, y)
    assert described((value, tuple(gradients))) == described(expected)


@pytest.mark.parametrize("mode", ["raise", "warn"])
def test_small_parts_warn_as_nodes_do(mode):
    x, row = np.ones((4, 3)), np.array([1e200, 1, 2])
    graph, plain = (kind(lambda x, row: x * (row * row)) for kind in (Graph, PlainGraph))
    calls = [outcome(one, x, row, errstate={"over": mode}) for one in (graph, plain)]
    assert calls[0] == calls[1]
    assert calls[0].exception or len(calls[0].warnings) == 1


def chain(x, y):
    for i in range(80):
        x = x * y + y if i % 3 else x - x * y
    return x


def sums(*operands):
    """Of more operands than a pass takes, some used twice."""
    total = operands[0]
    for i, operand in enumerate(operands[1:]):
        total = total + operand * operands[i // 2]
    return total, total * total


def forty(
    a0,
    a1,
    a2,
    a3,
    a4,
    a5,
    a6,
    a7,
    a8,
    a9,
    b0,
    b1,
    b2,
    b3,
    b4,
    b5,
    b6,
    b7,
    b8,
    b9,
    c0,
    c1,
    c2,
    c3,
    c4,
    c5,
    c6,
    c7,
    c8,
    c9,
    d0,
    d1,
    d2,
    d3,
    d4,
    d5,
    d6,
    d7,
    d8,
    d9,
):
    return sums(*locals().values())


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("function", [chain, forty])
def test_what_is_too_long_for_a_pass_takes_several(in_one_pass, function, path):
    operands = inputs(function, (30, 20), "f8")
    operands[1] = operands[1] / 8
    for places in ((), (1,), (0, 1, len(operands) - 1)):
        rows = [one[0] if i in places else one for i, one in enumerate(operands)]
        rows = rows if len(places) < 3 or function is forty else operands
        expected = outcomes(layered(function), rows, 0.5)
        with taken(path):
            assert outcomes(Graph(function), rows, 0.5) == expected


@pytest.mark.parametrize("dtype", FLOATS)
def test_memory_maps(in_one_pass, tmp_path, dtype):
    """As operands, as dout and as outputs, in place too."""

    def mapped(one, name):
        file = np.memmap(tmp_path / name, dtype, "w+", shape=one.shape)
        file[:] = one
        return file

    for function in (shop, fans):
        operands = inputs(function, (30, 20), dtype)
        files = [mapped(one, str(i)) for i, one in enumerate(operands)]
        expected = outcomes(layered(function), operands, 0.5)
        assert outcomes(Graph(function), files, 0.5) == expected
    dout = mapped(operands[1], "dout")
    graph = Graph(lambda x, y: x * y - y)
    gradients = [layered(graph).value_and_grad(*operands, dout=operands[1])]
    gradients += [graph.value_and_grad(*given, dout=dout) for given in (operands, files)]
    assert len({str(described(one)) for one in gradients}) == 1
    value, _ = Graph(fans)(*files, out=(files[0], files[1]))
    assert value is files[0]
    assert files[0].tobytes() == np.asarray(fans(*operands)[0]).tobytes()
    assert files[1].tobytes() == np.asarray(fans(*operands)[1]).tobytes()


def test_memory_maps_that_are_returned_stay_memory_maps(tmp_path):
    x = np.memmap(tmp_path / "x", "f8", "w+", shape=(4,))
    graph, nodes = Graph(lambda x, y: (x, x * y)), layered(lambda x, y: (x, x * y))
    assert described(graph(x, np.ones(4))) == described(nodes(x, np.ones(4)))
    assert type(graph(x, 2.0)[0]) is np.memmap


@pytest.mark.parametrize("number", [np.float32(0.5), 0.5])
@pytest.mark.parametrize("count", [2, 60])
def test_numbers_that_only_decide_the_dtype(count, number):
    """What is added has no part in the gradients but their dtype, in one pass and in several."""

    def graph(x, y):
        z = y
        for _ in range(count):
            z = z * x - y * y
        return z, x + number

    for dtype in ("i4", "f4"):
        x, y = np.arange(5, dtype=dtype), np.ones(5, dtype)
        results = []
        for one in (Graph(graph), layered(graph)):
            one.forward(x, y)
            results.append(described(one.backward(1)))
        assert results[0] == results[1]


def test_long_graphs_in_other_orders_are_run_node_by_node():
    x, y = inputs(chain, (30, 20), "f8", "F")
    y = y / 8
    for operands in ((x, y), (np.ascontiguousarray(x), y), (x[::2], y[::2])):
        expected = outcomes(layered(chain), operands, 0.5)
        assert outcomes(Graph(chain), operands, 0.5) == expected


def norm(x, mean, scale, gamma, beta):
    """Of statistics by row, and parameters by column."""
    return (x - mean) * scale * gamma + beta


def outer(x, y, z):
    return (x + y) * (x * z) - y


SHAPES = {
    norm: [
        ((20, 30), (20, 1), (20, 1), (30,), (30,)),
        ((20, 30), (20, 1), (20, 1), (1, 30), (30,)),
        ((2, 10, 30), (2, 10, 1), (10, 1), (30,), (1, 1, 30)),
        ((600, 300), (600, 1), (600, 1), (300,), (300,)),
        ((1, 30), (1, 1), (1, 30), (30,), (30,)),
        ((3, 30), (30,), (1,), (1, 1), (3, 1)),
        ((4, 5, 6), (5, 1), (4, 1, 1), (4, 5, 6), (6,)),
    ],
    outer: [
        ((20, 1), (30,), (20, 30)),
        ((20, 1), (1, 30), (30,)),
        ((4, 1, 6), (5, 1), (6,)),
        ((4, 5, 6), (5, 1), (4, 1, 6)),
        ((1,), (3, 1), (1, 1)),
    ],
}


@pytest.mark.parametrize("path", [*PATHS, None], ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("function", SHAPES)
def test_shapes(function, dtype, path):
    rng = np.random.default_rng(0)
    for shapes in SHAPES[function]:
        operands = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
        expected = outcomes(layered(function), operands, 0.5)
        with taken(path):
            assert outcomes(Graph(function), operands, 0.5) == expected


@pytest.mark.parametrize(
    ("function", "which"), [(norm, 0), (norm, 1), (norm, 3), (outer, 0), (outer, 1)]
)
def test_several_shapes_are_one_pass(in_one_pass, function, which):
    rng = np.random.default_rng(0)
    operands = [rng.standard_normal(shape) for shape in SHAPES[function][which]]
    value, gradients = Graph(function).value_and_grad(*operands)
    assert described(value) == described(function(*operands))
    assert [one.shape for one in gradients] == [one.shape for one in operands]


def test_memory_peaks_at_the_results(in_one_pass):
    graph, operands = Graph(shop), inputs(shop, 100_000, "f8")
    graph.value_and_grad(*operands)
    fastlayers.empty_cache()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        results = graph.value_and_grad(*operands)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert len(results[1]) == 5
    assert peak < 6.2 * operands[0].nbytes


def test_nothing_is_kept_alive():
    graph, operands = Graph(shop), inputs(shop, 300, "f8")
    results = graph.value_and_grad(*operands)
    alive = [weakref.ref(one) for one in (*operands, results[0], *results[1])]
    del operands, results
    gc.collect()
    assert [one() for one in alive] == [None] * len(alive)


def test_what_the_value_takes_may_warn_in_vain():
    x = np.array([1e200, 1.0])
    graph = Graph(lambda x: (x * x) * 0.0 + x)
    with (
        np.errstate(over="raise"),
        pytest.raises(FloatingPointError, match="in multiply") as caught,
    ):
        graph(x)
    assert "t0 = x * x" in caught.value.__notes__[0]
    graph.forward(np.array([1.0]))
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.isnan(graph(x)[0])

    def unread(x):
        x * x
        return x + x

    with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="in multiply"):
        Graph(unread)(x)


@pytest.mark.parametrize("mode", ["warn", "call"])
@pytest.mark.parametrize("shapes", [((17, 1, 6, 0), (33, 6, 0)), ((3, 1), (4,))])
def test_what_is_tried_in_vain_warns_once(shapes, mode):
    # A dout too large for float32 becomes infinite, with a warning for each output.
    a, b = (np.ones(shape, "f4") for shape in shapes)
    done = []
    for kind in (PlainGraph, Graph):
        graph = kind(lambda a, b: (a - b, b))
        done.append(outcome(graph.value_and_grad, a, b, dout=1e300, errstate={"all": mode}))
    # Without elements, older NumPys convert a number silently.
    assert 0 in shapes[0] or len(done[0].warnings or done[0].handled) >= 2
    assert done[1] == done[0]


def test_products_and_sums_are_rounded_each():
    a, b = np.array([1 + 2.0**-30]), np.array([-1.0 - 2.0**-29])
    assert Graph(lambda a, b: a * a + b)(a, b) == 0.0  # 2**-60 if they were not
    big, less = np.array([1e20]), np.array([-1e20])
    assert Graph(lambda a, b, c: a * c + b * c)(big, less, np.array([1e10])) == 0.0


@pytest.fixture
def operations(monkeypatch):
    """The operations of the steps that are planned."""
    found = []

    def noted(*arguments):
        steps = joined(*arguments)
        found.extend(step.operation for step in steps)
        return steps

    monkeypatch.setattr(planner, "joined", noted)
    return found


def test_gradients_are_computed_where_they_are_used(operations):
    operands = inputs(shop, 10, "f8")
    Graph(shop).value_and_grad(*operands, dout=operands[0])
    assert operations == ["add_products_backward", "product_backward", "product_backward"]


def test_graphs_of_gradients_are_planned_or_left():
    # Some of their operations have no place in a pass.
    graph = Graph(lambda x, y: x * y * x).grad("x").grad("y")
    x, y = inputs(gates, (4, 6), "f8")[:2]
    for operands in ((x, y), (x, y[0]), (x, 2.0), (2.0, y), (2.0, 3.0)):
        assert described(graph(*operands)) == described(PlainGraph(graph)(*operands))


# -------------------------------------------------------------------------- layers of one's own


class Half(BaseLayer):
    def forward(self, x):
        return x * 0.5

    def backward(self, dout):
        return dout * 0.5


class Difference(BaseLayer):
    def forward(self, x, y):
        return x - y

    def backward(self, dout):
        return dout, -dout


def lstm(forget, entry, gate, output, c):
    f, i, g, o = (Half()(one) for one in (forget, entry, gate, output))
    c = f * c + i * g
    return Half()(c) * o, c


def residual(x, y):
    """Values of several segments, and gradients that later segments have begun."""
    t = x * y - y
    u = Half()(t) * t + x
    v = Difference()(u * 3, t)
    return v * t - u * t * t, u


def rows(x, gamma, beta):
    return Half()(x * gamma + beta) * gamma - x


@pytest.fixture
def in_segments(monkeypatch):
    """What lies between layers is run in passes: a segment left to its nodes is an error."""
    for name in ("evaluate", "differentiate"):
        run = getattr(Segment, name)

        def checked(self, *given, run=run):
            assert run(self, *given)
            return True

        monkeypatch.setattr(Segment, name, checked)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_passes_between_layers(in_segments, path, dtype):
    for function in (lstm, residual):
        for size in (1, 257, 5_003):
            operands = inputs(function, size, dtype)
            douts = (operands[0], operands[1] + 1)
            for dout in (3, douts):
                expected = outcomes(PlainGraph(function), operands, dout)
                with taken(path):
                    assert outcomes(Graph(function), operands, dout) == expected


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_sums_between_layers(in_segments, path):
    rng = np.random.default_rng(0)
    x, dout = rng.standard_normal((2, 300, 257)) * 2.0 ** rng.integers(-40, 41, (2, 300, 257))
    operands = [x, *rng.standard_normal((2, 257))]
    expected = outcomes(layered(rows), operands, dout)
    with taken(path):
        assert outcomes(Graph(rows), operands, dout) == expected


def test_values_between_layers_take_no_memory(in_segments):
    def long(x, y):
        for _ in range(10):
            x = x * y + x
        return Half()(x) * y - x

    graph = Graph(long)
    x, y = inputs(residual, 100_000, "f8")
    graph(x, y)
    fastlayers.empty_cache()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        graph(x, y)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 3.1 * x.nbytes  # the layer's operand, its value and the result


def test_segments_that_no_pass_serves():
    """Beside those that passes serve; also if the exception is met on the way back alone."""
    x, y = inputs(residual, 1_000, "f8")
    x[7] = 1e200
    for operands in ((x, y), (x, y.astype("f2")), (x, 1.5), ([1.0, 2.0], y[:2]), (2, 3.5)):
        for mode in ("ignore", "warn", "raise"):
            ours, layers = (
                outcome(outcomes, kind(residual), operands, 1e200, errstate={"all": mode})
                for kind in (Graph, layered)
            )
            assert ours == layers


def test_errors_between_layers_name_their_node():
    graph = Graph(residual)
    x, y = inputs(residual, 40, "f8")
    with pytest.raises(ValueError, match="broadcast") as caught:
        graph(x, y[:3])
    assert caught.value.__notes__[0].startswith("node t0 = x * y of residual: x float64 (40,)")
    x[3] = 1e200
    with pytest.raises(FloatingPointError, match="overflow") as caught, np.errstate(all="raise"):
        graph(x, y + 1e150)
    assert caught.value.__notes__[0].startswith("node t0 = x * y of residual: x float64 (40,)")


def test_gradients_of_several_outputs(in_one_pass):
    x, y, *_ = inputs(fans, 300, "f4")
    for douts in ((x, y), (x, 2), (1, y), (-0.0, 3)):
        expected = outcomes(PlainGraph(fans), (x, y), douts)
        assert outcomes(Graph(fans), (x, y), douts) == expected


def test_gradients_of_several_outputs_in_files(in_one_pass, tmp_path):
    given = inputs(shop, 300, "f4")[:4]
    expected = PlainGraph(fans).value_and_grad(*given[:2], dout=tuple(given[2:]))
    maps = []
    for i, one in enumerate(given):
        maps.append(np.memmap(tmp_path / str(i), one.dtype, "w+", shape=one.shape))
        maps[-1][:] = one
    for place in range(4):
        some = [maps[i] if i == place else one for i, one in enumerate(given)]
        value, gradients = Graph(fans).value_and_grad(*some[:2], dout=tuple(some[2:]))
        found = [np.asarray(one) for one in (*value, *gradients)]
        assert [one.tobytes() for one in found] == [
            one.tobytes() for one in (*expected[0], *expected[1])
        ]


def test_a_tuple_is_one_gradient_of_one_output(tmp_path):
    x = np.memmap(tmp_path / "x", "f8", "w+", shape=4)
    x[:] = 3.0
    graph = Graph(shop)
    for dout in ((x, x), (x,)):
        with pytest.raises(ValueError, match=rf"dout has shape \({len(dout)}, 4\), but the value"):
            graph.value_and_grad(x, x, x, x, x, dout=dout)
    assert graph.value_and_grad(x, x, x, x, x, dout=(1, 2, 3, 4))[1].e.tolist() == [18, 36, 54, 72]


@pytest.mark.parametrize(
    ("dout", "error", "text"),
    [
        ((1,), ValueError, "fans has 2 values, but 1 gradients are in dout"),
        ((1, 2, 3), ValueError, "fans has 2 values, but 3 gradients are in dout"),
        ((np.ones(3), 1), ValueError, r"dout has shape \(3,\), but the value of fans has \(4,\)"),
        ((np.ones((2, 4)), 1), ValueError, r"dout has shape \(2, 4\), but the value of fans has"),
        (("one", 1), TypeError, "dout must be an array or a number, not str"),
        (np.ones(4), TypeError, "fans has 2 values: dout must be a tuple with one for each"),
    ],
)
def test_unfit_gradients_of_several_outputs(dout, error, text):
    graph = Graph(fans)
    x = np.ones(4)
    with pytest.raises(error, match=text):
        graph.value_and_grad(x, x, dout=dout)


# -------------------------------------------------------------------------------- seldom needed


def test_gradients_in_place_are_stopped_before_what_numpy_warns_of():
    x = np.full(5_000, 2.0)
    x[[0, 777, 4_999]] = 1e300
    y = x.copy()
    with pytest.warns(RuntimeWarning, match="overflow encountered in multiply") as caught:
        expected = PlainGraph(lambda x, y: x * y * 3).value_and_grad(x, y)
    value = np.empty_like(x)
    with pytest.warns(RuntimeWarning, match="overflow encountered in multiply") as caught_here:
        found = Graph(lambda x, y: x * y * 3).value_and_grad(x, y, out=(value, (y, x)))
    assert described(found) == described(expected)
    assert len(caught_here) == len(caught)
    assert found[0] is value
    assert found[1].x is y


def test_more_plans_than_are_kept(in_one_pass):
    graph, plain = Graph(product_of_seven), PlainGraph(product_of_seven)
    array = np.arange(6.0)
    for kinds in range(1, 128):
        operands = [array + i if kinds >> i & 1 else i + 0.5 for i in range(7)]
        assert described(graph(*operands)) == described(plain(*operands))


def product_of_seven(a, b, c, d, e, f, g):
    return a * b + c * d - e * f * g


def test_more_shapes_than_a_pass_knows():
    shapes = [[1 if axes >> i & 1 else 2 for i in range(4)] for axes in range(9)]
    operands = [np.full(shape, i + 0.5) for i, shape in enumerate(shapes)]

    def function(a, b, c, d, e, f, g, h, i):
        return a * b + c * d + e * f + g * h + i

    assert described(Graph(function)(*operands)) == described(PlainGraph(function)(*operands))


@pytest.mark.parametrize("places", [(0, 1), (0, 2), (0, 3), (1, 2), (3,)])
@pytest.mark.parametrize(
    "function", [lambda x, r, s: x * r + s, lambda x, r, s: r * x + (1 - r) * s]
)
def test_outputs_of_some_results(function, places):
    operands = np.arange(600.0).reshape(20, 30), np.arange(30.0), np.arange(30.0) + 1
    expected = layered(function).value_and_grad(*operands)
    outs = [
        np.empty_like(one) if i in places else None
        for i, one in enumerate([operands[0], *operands])
    ]
    value, gradients = Graph(function).value_and_grad(*operands, out=(outs[0], tuple(outs[1:])))
    assert described((value, gradients)) == described(expected)
    for out, one in zip(outs, (value, *gradients), strict=True):
        assert out is None or out is one


@pytest.mark.parametrize(
    "function", [lambda x, r, n, m: x * (n * m) + r, lambda x, r, n, m: x * (r + n * m)]
)
@pytest.mark.parametrize("shape", [(3,), (4, 3)])
def test_numbers_that_cannot_be_computed_raise_as_nodes_do(function, shape):
    x, row = np.ones(shape), np.ones(3)
    with pytest.raises(OverflowError, match="int too large to convert to float") as caught:
        Graph(function)(x, row, 10**400, 0.5)
    assert "n * m" in caught.value.__notes__[0]
    assert described(Graph(function)(x, row, 3, 0.5)) == described(
        PlainGraph(function)(x, row, 3, 0.5)
    )


REASONS = {
    "operand": lambda: graph_of_two(X, [1.0, 2.0, 3.0]),
    "dtype": lambda: graph_of_two(X, X.astype("f4")),
    "shape": lambda: graph_of_two(X, np.ones(4)),
    "expression": lambda: Graph(lambda x: functools.reduce(np.add, [x] * 2_001))(X),
    "layout": lambda: graph_of_two(np.ones((3, 4)), np.ones((4, 3)).T),
    "warning": lambda: graph_of_two(X * 1e200, X * 1e200),
}
X = np.arange(3.0) + 1


def graph_of_two(x, y):
    return Graph(lambda x, y: x * y + x)(x, y)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("reason", REASONS)
def test_why_nodes_are_run_one_by_one_is_counted(reason):
    before = fastlayers.graph_info()
    try:
        REASONS[reason]()
    except ValueError:
        assert reason == "shape"
    after = fastlayers.graph_info()
    counts = {name: count - before.nodes[name] for name, count in after.nodes.items()}
    assert counts == {name: int(name == reason) for name in counts}
    assert after.passes == before.passes


def test_passes_are_counted():
    before = fastlayers.graph_info().passes
    graph = Graph(lambda x, y: x * y + x)
    graph(X, X)
    graph.forward(X, 2.0)
    graph.backward(1)
    graph.value_and_grad(2, 3)
    graph.value_and_grad(X, y=X, wrt="x", out=(X.copy(), (None,)))
    assert fastlayers.graph_info().passes == before + 5
    Graph(lambda x: graph(x, 2) * 3)  # recorded, and not called
    assert fastlayers.graph_info().passes == before + 5
