"""What a graph takes, and keeps: forward its operands, until the next one, nothing else ever."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
import weakref

import numpy as np
import pytest
from graphs import Half, horner, in_passes, momentum, parameters, shop

import fastlayers
from fastlayers import Graph

N = 20_000


@pytest.fixture(autouse=True)
def without_collector():
    """What dies must die at once: what waits for the collector may be most of the memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


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


@pytest.fixture
def traced():
    for size in range(1, 20):  # Python keeps 2,000 tuples of a size for reuse, shrunk ones too
        del [tuple(range(size)) for _ in range(2_000)][:]
    tracemalloc.start()
    yield tracemalloc.get_traced_memory
    tracemalloc.stop()


@pytest.mark.parametrize("n", [3, N])
@pytest.mark.parametrize("name", CALLS)
def test_calls_keep_nothing(name, n):
    graph, operands = Graph(horner), arrays(n)
    found = references(operands)
    results = CALLS[name](graph, operands)
    del operands
    assert alive(found) == ([0] if name == "out" else [])
    value, gradients = results if isinstance(results, tuple) else (results, ())
    found += references([value, *gradients])
    del results, value, gradients
    assert alive(found) == []


@pytest.mark.parametrize("function", [horner, lambda x, a, b, c: Half()(a * x + b) * x - c])
def test_forward_keeps_its_operands(function):
    graph, operands = Graph(function), arrays()
    found = references(operands)
    out = graph.forward(*operands)
    del operands
    assert alive(found) == [0, 1, 2, 3]
    gradients = graph.backward(out)
    assert alive(found) == [0, 1, 2, 3]
    kept = references([out, *gradients])
    del out, gradients
    assert alive(kept) == []
    graph.forward(1, 2, 3, 4)
    assert alive(found) == []
    graph.forward(*(operands := arrays()))
    found = references(operands)
    with pytest.raises(ValueError, match="broadcast"):
        graph.forward(*operands[:3], np.ones(7))
    del operands, graph
    gc.collect()  # what was raised refers to the frames of the calls
    assert alive(found) == []


# ------------------------------------------------------------------------------- while it is run


def long(x, y):
    for _ in range(20):
        x = x * y + y
    return x


# Function, call, and how many arrays of an operand's size there may be at most, above what is
# counted before.
PEAKS = {
    "value": (long, lambda graph, x, y: graph(x, y), 1),
    "forward": (long, lambda graph, x, y: graph.forward(x, y), 1),
    "all gradients": (shop, lambda graph, *operands: graph.value_and_grad(*operands), 6),
    "in place": (long, lambda graph, x, y: graph(x, y, out=x), 0),
    "two in place": (momentum, lambda graph, w, v, *rest: graph(w, v, *rest, out=(w, v)), 0),
    # The layer's operand, its value and the result.
    "between layers": (lambda x, y: Half()(long(x, y)) * y - x, lambda graph, x, y: graph(x, y), 3),
}


@pytest.mark.skipif(fastlayers.IMPLEMENTATION != "native", reason="plain NumPy has intermediates")
@pytest.mark.parametrize("name", PEAKS)
def test_no_intermediate_takes_memory(name):
    function, call, most = PEAKS[name]
    graph, operands = Graph(function), [np.full(100_000, 0.5) for _ in range(parameters(function))]
    with in_passes():
        call(graph, *operands)  # makes what is made once
        fastlayers.empty_cache()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            results = call(graph, *operands)
            peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
    assert results is not None
    assert peak < (most + 0.2) * operands[0].nbytes


# ------------------------------------------------------------------------------------- afterwards

FAILING = {
    "shapes": (lambda graph, operands: graph(*operands[:3], np.ones(7)), ValueError),
    "dout": (lambda graph, operands: graph.value_and_grad(*operands, dout=np.ones(7)), ValueError),
    "types": (lambda graph, operands: graph(*operands[:3], "c"), TypeError),
    "flags": (lambda graph, operands: graph(1e300, *operands[1:]), FloatingPointError),
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
