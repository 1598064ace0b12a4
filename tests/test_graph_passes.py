"""What is run in passes over memory, and how: limits, layers of one's own, files, threads."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from graphs import (
    Half,
    NodesGraph,
    fans,
    horner,
    in_passes,
    inputs,
    normal,
    of_many,
    shop,
)
from operands import FLOATS
from outcome import arrays_in, described, outcome, sharing
from paths import PATHS, taken
from plain_graph import PlainGraph, assert_same

import fastlayers
from fastlayers import BaseLayer, Graph

ALL_PATHS = [*PATHS, None]

# ---------------------------------------------------------------------------- limits of a pass


def chain(x, y):
    """Of more steps than a pass takes."""
    for i in range(80):
        x = x * y + y if i % 3 else x - x * y
    return x


def sum_after_many(x, row):
    for _ in range(70):
        x = x * 0.5 + 1
    return x - row


def many_numbers(count):
    """Numbers, before and among arrays."""

    def graph(x, a):
        for i in range(count):
            a = a * (1 + 2.0**-i) - i
        for i in range(count // 2):
            x = x + (i + 0.5)
        return x * a

    return graph


def dtype_alone(count):
    """What is added has no part in the gradients but their dtype."""

    def graph(x, y):
        z = y
        for _ in range(count):
            z = z * x - y * y
        return z, x + 0.5

    return graph


FORTY = [normal((30, 20), seed=i) / 4 for i in range(40)]
ROW = normal(20, seed=41) / 8
X, Y = FORTY[0], FORTY[1] / 8
INTEGERS, FLOAT32 = ([np.arange(5, dtype=dtype), np.ones(5, dtype)] for dtype in ("i4", "f4"))

# Function and operands. Of the first ones, several passes are made.
LONG = {
    "steps": (chain, (X, Y)),
    "steps, a row": (chain, (X, ROW)),
    "operands": (of_many(40), FORTY),
    "operands, a row": (of_many(40), [X, ROW, *FORTY[2:]]),
    "operands, three rows": (of_many(40), [ROW, ROW, *FORTY[2:39], ROW]),
}
IN_PASSES = list(LONG)
LONG |= {
    "steps in Fortran order": (chain, (np.asfortranarray(X), np.asfortranarray(Y))),
    "steps in both orders": (chain, (X, np.asfortranarray(Y))),
    "steps of every second row": (chain, (X[::2], Y[::2])),
    "a sum of ones": (sum_after_many, (X, ROW)),
    **{f"{n} numbers": (many_numbers(n), (ROW, 0.5)) for n in (20, 40, 300)},
    **{f"{n} steps for a dtype, integers": (dtype_alone(n), INTEGERS) for n in (2, 60)},
    **{f"{n} steps for a dtype, floats": (dtype_alone(n), FLOAT32) for n in (2, 60)},
}


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("name", IN_PASSES)
def test_what_is_too_long_for_a_pass_takes_several(name, path):
    function, operands = LONG[name]
    with taken(path), in_passes():
        assert_same(function, *operands, dout=0.5)


@pytest.mark.parametrize("name", LONG)
def test_what_is_too_long_for_a_pass(name):
    function, operands = LONG[name]
    assert_same(function, *operands)


def assert_same_once(function, *operands):
    """As `assert_same`, of one call: what is long takes plain NumPy long, too."""
    with np.errstate(all="ignore"):
        expected = PlainGraph(function, fastlayers).value_and_grad(*operands)
        value, gradients = Graph(function).value_and_grad(*operands)
    assert described(value) == described(expected[0])
    assert described(tuple(gradients)) == described(tuple(expected[1]))


def test_ten_thousand_nodes():
    def chain(x, y):
        for _ in range(5_000):
            x = x * y + y
        return x

    assert_same_once(chain, np.full(3, 1.5), 0.5)
    graph = Graph(chain)
    assert graph.forward(1.5, 1.0) == 5_001.5
    assert graph.backward(1).x == 1.0


def test_three_hundred_inputs():
    assert_same_once(of_many(300), *(normal(40, seed=i) for i in range(300)))
    assert_same_once(of_many(300), *(normal((40, 1) if i % 2 else 33, seed=i) for i in range(300)))


def test_five_thousand_uses_of_one_input():
    def function(x, y):
        total = x
        for i in range(5_000):
            total = total + x * (y * i)
        return total

    assert_same_once(function, normal(20), 1e-3)


def test_more_plans_than_are_kept():
    def function(a, b, c, d, e, f, g):
        return a * b + c * d - e * f * g

    graph, plain, array = Graph(function), PlainGraph(function, fastlayers), np.arange(6.0)
    with in_passes():
        for kinds in range(1, 128):
            operands = [array + i if kinds >> i & 1 else i + 0.5 for i in range(7)]
            assert described(graph(*operands)) == described(plain(*operands))


# ------------------------------------------------------------------------------ what is counted

ONES = np.ones(3)
REASONS = {
    "operand": lambda: of_two(ONES, [1.0, 2.0, 3.0]),
    "dtype": lambda: of_two(ONES, ONES.astype("F")),
    "shape": lambda: of_two(ONES, np.ones(4)),
    "expression": lambda: Graph(lambda x: functools.reduce(np.add, [x] * 2_002))(ONES),
    "layout": lambda: of_two(np.ones((3, 4)), np.ones((4, 3)).T),
    "warning": lambda: of_two(ONES * 1e200, ONES * 1e200),
}


def of_two(x, y):
    return Graph(lambda x, y: x * y + x)(x, y)


@pytest.mark.skipif(fastlayers.IMPLEMENTATION != "native", reason="there are no passes")
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


@pytest.mark.skipif(fastlayers.IMPLEMENTATION != "native", reason="there are no passes")
def test_passes_are_counted():
    before = fastlayers.graph_info().passes
    graph = Graph(lambda x, y: x * y + x)
    graph(ONES, ONES)
    graph.forward(ONES, 2.0)
    graph.backward(1)
    graph.value_and_grad(2, 3)
    graph.value_and_grad(ONES, y=ONES, wrt="x", out=(ONES.copy(), (None,)))
    assert fastlayers.graph_info().passes == before + 5
    Graph(lambda x: graph(x, 2) * 3)  # recorded, and not called
    assert fastlayers.graph_info().passes == before + 5


# -------------------------------------------------------------------------- layers of one's own


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
    """Values are read beyond several layers, and their gradients begun there."""
    t = x * y - y
    u = Half()(t) * t + x
    v = Difference()(u * 3, t)
    return v * t - u * t * t, u


def rows(x, gamma, beta):
    return Half()(x * gamma + beta) * gamma - x


def passes_of(call, *operands, **options):
    """How many passes a call makes."""
    before = fastlayers.graph_info().passes
    call(*operands, **options)
    return fastlayers.graph_info().passes - before


@pytest.mark.skipif(fastlayers.IMPLEMENTATION != "native", reason="there are no passes")
@pytest.mark.parametrize("dout", [1, "arrays"])
def test_value_and_gradients_after_the_last_layer_are_one_pass(dout):
    operands = inputs(lstm, (30, 20), "f4")
    graph, of_one = Graph(lstm), Graph(lambda x, y: Half()(x * y) * y - x)
    douts = (operands[0], operands[1]) if dout == "arrays" else 1
    with in_passes():
        # The cell's memory; its value, with all gradients up to there; the gradients before.
        assert passes_of(graph.value_and_grad, *operands, dout=douts) == 3
        assert passes_of(of_one.value_and_grad, *operands[:2]) == 3
        assert passes_of(of_one.value_and_grad, *operands[:2], wrt="y") == 3


def test_no_gradients_after_the_last_layer():
    """What is asked for does not depend on it, or is not asked for: its value alone is computed."""
    x, y = inputs(lambda x, y: x, (4, 5))
    graph = Graph(lambda x, y: (x * y, Half()(x) * 2, y * y))
    with in_passes():
        for names in ((), "x", "y", ("y", "x")):
            for douts in (1, (x, y, x)):
                found = graph.value_and_grad(x, y, dout=douts, wrt=names)
                expected = NodesGraph(graph).value_and_grad(x, y, dout=douts, wrt=names)
                assert described(found) == described(expected)


@pytest.mark.parametrize("shape", [(300, 257), (300, 5), (40, 6, 3, 4), (70_000, 2)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_do_not_depend_on_what_else_is_computed(shape, dtype):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) * 2.0 ** rng.integers(-40, 41, shape)).astype(dtype)
    full = np.ones(shape, dtype)
    column = full[..., :1]
    for y in (full[0], column, full, full[:1], full[..., :1, :], full.ravel()[:1], 1.0):
        for n in (0.5, full[0], column, full[..., :1, :]):
            with in_passes():
                gradients = Graph(lambda x, y, n: x * y + n).value_and_grad(x, y, n, dout=x)[1]
            mul = fastlayers.multiply_backward(x, x, y, sum_to_shape=True)
            add = fastlayers.add_backward(x, full, n, sum_to_shape=True)
            assert described(tuple(gradients)) == described((*mul, add[1]))


# On symbols of the tests' own, layers are called as they are: plain NumPy runs what they compute.
@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("function", [lstm, residual])
def test_passes_between_layers(function, dtype, path):
    for size in (257, 5_003):
        operands = inputs(function, size, dtype)
        for dout in (3, (operands[0], operands[1] + 1)):
            with taken(path), in_passes():
                assert_same(function, *operands, dout=dout)


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
def test_sums_between_layers(path):
    rng = np.random.default_rng(0)
    x, dout = rng.standard_normal((2, 300, 257)) * 2.0 ** rng.integers(-40, 41, (2, 300, 257))
    with taken(path), in_passes():
        assert_same(rows, x, *rng.standard_normal((2, 257)), dout=dout)


@pytest.mark.parametrize("mode", ["ignore", "warn", "raise"])
def test_what_no_pass_serves_beside_layers(mode):
    """Also where the exception is met on the way back alone."""
    x, y = inputs(residual, 1_000)
    x[7] = 1e200
    for operands in ((x, y), (x, y.astype("f2")), (x, 1.5), (2, 3.5)):
        for dout in (1, 1e200):
            assert_same(residual, *operands, dout=dout, errstate={"all": mode})
    listed = [outcome(kind(residual), [1.0, 2.0], y[:2]) for kind in (Graph, NodesGraph)]
    assert listed[0] == listed[1]


# ----------------------------------------------------------------------------------------- files


def test_results_in_files(tmp_path):
    operands = inputs(fans, (30, 20))
    files = []
    for i, one in enumerate(operands):
        files.append(np.memmap(tmp_path / str(i), one.dtype, "w+", shape=one.shape))
        files[-1][:] = one
    expected = fans(*operands)
    with in_passes():
        value, _ = Graph(fans)(*files, out=tuple(files))
    assert value is files[0]
    assert [one.tobytes() for one in files] == [one.tobytes() for one in expected]


def test_a_file_as_each_gradient_of_several_outputs():
    given = inputs(shop, 300, "f4")[:4]
    for place in range(4):
        some = [normal(300, "f4", i, "mapped") if i == place else given[i] for i in range(4)]
        with in_passes():
            value, gradients = Graph(fans).value_and_grad(*some[:2], dout=tuple(some[2:]))
        expected = PlainGraph(fans, fastlayers).value_and_grad(*given[:2], dout=tuple(given[2:]))
        for one, other in zip((*value, *gradients), (*expected[0], *expected[1]), strict=True):
            assert np.asarray(one).tobytes() == other.tobytes()


def test_files_that_are_returned_stay_files():
    x = normal(4, layout="mapped")
    graph = Graph(lambda x, y: (x, x * y))
    assert type(graph(x, 2.0)[0]) is np.memmap
    assert described(graph(x, np.ones(4))) == described(
        NodesGraph(lambda x, y: (x, x * y))(x, np.ones(4))
    )


# ----------------------------------------------------------------------------- calls and threads


def test_change_between_forward_and_backward_is_seen():
    x, a = np.arange(5.0), np.ones(5)
    graph = Graph(lambda x, a: (x * a) * x)
    graph.forward(x, a)
    x *= 2
    assert graph.backward(1).x.tolist() == (2 * x).tolist()
    assert graph.backward(1).a.tolist() == (x * x).tolist()


def test_other_calls_leave_what_forward_kept():
    graph = Graph(horner)
    graph.forward(*inputs(horner, 40))
    graph.value_and_grad(1, 2, 3, 4)
    graph(1, 2, 3, 4)
    one, other = graph.backward(1), graph.backward(1)
    assert one.x.shape == (40,)
    assert described(tuple(one)) == described(tuple(other))
    assert sharing(arrays_in(tuple(one)), arrays_in(tuple(other))) == []


@pytest.mark.parametrize("path", ALL_PATHS[:: max(1, len(ALL_PATHS) // 3)], ids=str)
def test_one_graph_in_sixteen_threads(path):
    graph, plain = Graph(shop), PlainGraph(shop, fastlayers)
    work = [inputs(shop, n) for n in [1, 7, 300, 4_000, 20_000, 60_000] * 4]
    expected = []
    for i, operands in enumerate(work):
        operands[4] *= i
        value, gradients = plain.value_and_grad(*operands)
        expected.append(described([value, *gradients]))

    def run(i):
        value, gradients = graph.value_and_grad(*work[i])
        return described([value, *gradients]) == expected[i]

    with taken(path), ThreadPoolExecutor(16) as executor:
        assert all(executor.map(run, list(range(len(work))) * 6))
