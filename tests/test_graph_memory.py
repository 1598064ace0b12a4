"""What a graph keeps: forward its operands, until the next one, and nothing else ever."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
import weakref

import numpy as np
import pytest

from fastlayers import BaseLayer, Graph

N = 20_000


@pytest.fixture(autouse=True)
def without_collector():
    """What dies must die at once: what waits for the collector may be most of the memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def horner(x, a, b, c):
    return (a * x + b) * x - c


class Double(BaseLayer):
    def forward(self, x):
        return x * 2

    def backward(self, dout):
        return dout * 2


def arrays(n=N, count=4):
    return [np.full(n, float(i + 1)) for i in range(count)]


def references(values):
    return [weakref.ref(one) for one in values if isinstance(one, np.ndarray)]


def alive(found):
    return [i for i, one in enumerate(found) if one() is not None]


CALLS = {
    "call": lambda graph, operands: graph(*operands),
    "value_and_grad": lambda graph, operands: graph.value_and_grad(*operands),
    "dout": lambda graph, operands: graph.value_and_grad(*operands, dout=operands[1]),
    "wrt": lambda graph, operands: graph.value_and_grad(*operands, wrt=("a",)),
    "out": lambda graph, operands: graph(*operands, out=operands[0]),
    "mixed": lambda graph, operands: graph.value_and_grad(operands[0].astype("f4"), *operands[1:]),
    "summed": lambda graph, operands: graph.value_and_grad(*operands[:3], operands[3][:1]),
}


@pytest.mark.parametrize("n", [3, N])
@pytest.mark.parametrize("name", CALLS)
def test_calls_keep_nothing(name, n):
    graph, operands = Graph(horner), arrays(n)
    found = references(operands)
    results = CALLS[name](graph, operands)
    del operands
    assert alive(found) == ([0] if name == "out" else [])
    del results
    assert alive(found) == []


def test_results_die_when_they_are_dropped():
    value, gradients = Graph(horner).value_and_grad(*arrays())
    found = references([value, *gradients])
    del value, gradients
    assert alive(found) == []


def test_forward_keeps_its_operands():
    graph, operands = Graph(horner), arrays()
    found = references(operands)
    out = graph.forward(*operands)
    del operands
    assert alive(found) == [0, 1, 2, 3]
    gradients = graph.backward(out)
    assert gradients.c.tolist() == (out * -1).tolist()
    assert alive(found) == [0, 1, 2, 3]
    kept = references([out, *gradients])
    del out, gradients
    assert alive(kept) == []
    graph.forward(1, 2, 3, 4)
    assert alive(found) == []


def test_operands_die_with_the_graph():
    graph, operands = Graph(horner), arrays()
    found = references([*operands])
    graph.forward(*operands)
    graph.backward(1)
    del operands, graph
    assert alive(found) == []


@pytest.fixture
def traced():
    for size in range(1, 20):  # Python keeps 2,000 tuples of a size for reuse, shrunk ones too
        del [tuple(range(size)) for _ in range(2_000)][:]
    tracemalloc.start()
    yield tracemalloc.get_traced_memory
    tracemalloc.stop()


def test_no_intermediate_is_kept(traced):
    def chain(x, y):
        for _ in range(20):
            x = x * y + y
        return x

    graph, (x, y) = Graph(chain), arrays(count=2)
    size = x.nbytes
    for _ in range(2):  # the first call makes what is made once
        before = traced()[0]
        with np.errstate(all="ignore"):
            out = graph.forward(x, y)
            assert traced()[0] - before < size * 1.5
            gradients = graph.backward(1)
            assert traced()[0] - before < size * 3.5
        del out, gradients
        assert traced()[0] - before < size * 0.5


def test_what_layers_of_ones_own_gave_is_replaced():
    layer = Double()
    graph = Graph(lambda x, y: layer(x * y) + y)
    operands = arrays(count=2)
    found = references(operands)
    graph.forward(*operands)
    graph.backward(1)
    graph.forward(1.0, 2.0)
    del operands
    assert alive(found) == []


FAILING = {
    "shapes": (lambda graph, operands: graph(*operands[:3], np.ones(7)), ValueError),
    "dout": (lambda graph, operands: graph.value_and_grad(*operands, dout=np.ones(7)), ValueError),
    "types": (lambda graph, operands: graph(*operands[:3], "c"), TypeError),
    "flags": (lambda graph, operands: graph(1e300, *operands[1:3], 1e300), FloatingPointError),
    "out": (lambda graph, operands: graph(*operands, out=np.zeros(7)), ValueError),
}


@pytest.mark.parametrize("name", FAILING)
def test_error_keeps_nothing_once_it_is_handled(name):
    call, kind = FAILING[name]
    graph, operands = Graph(horner), arrays()
    found = references(operands)
    caught = None
    try:
        with np.errstate(all="raise"):
            call(graph, operands)
    except kind as error:
        caught = error
    del operands
    assert len(getattr(caught, "__notes__", [])) == (name not in ("dout", "out"))
    one = caught
    while one:  # frames may hold what they were given, notes may not
        one.__traceback__ = None
        one = one.__context__
    assert alive(found) == []


def test_error_of_forward_that_is_handled():
    graph, operands = Graph(horner), arrays()
    found = references(operands)
    with pytest.raises(ValueError, match="broadcast"):
        graph.forward(*operands[:3], np.ones(7))
    del operands
    graph.forward(1, 2, 3, 4)
    assert alive(found) == []


def test_memory_stays_flat(traced):
    graph, operands = Graph(horner), arrays(100)
    rows = [*operands[:3], np.ones(1)]

    def calls():
        for _ in range(50):
            graph(*operands)
            graph.forward(*operands)
            graph.backward(1)
            graph.value_and_grad(*rows, dout=operands[0], wrt=("x", "c"))
            graph.value_and_grad(1, 2.0, 3, 4)

    assert min(growth(traced, calls) for _ in range(3)) < 2_000  # a leak is there every time


def test_shapes_and_numbers_leave_nothing_behind(traced):
    # What is worked out once must not be worked out, and kept, for each shape or number.
    graph = Graph(horner)

    lengths = itertools.count(1)

    def calls():
        for n in itertools.islice(lengths, 50):
            graph.value_and_grad(*arrays(n), dout=float(n))
            graph.value_and_grad(np.ones(n), n, float(n), 2)

    assert min(growth(traced, calls) for _ in range(6)) < 2_000


def growth(traced, calls):
    before = traced()[0]
    calls()
    return traced()[0] - before
