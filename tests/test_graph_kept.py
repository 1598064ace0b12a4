"""Graphs that are looked at and kept: listings, signatures, pickles, copies."""

from __future__ import annotations

import copy
import inspect
import pickle

import numpy as np
import pytest
from graphs import Relu, normal, shop
from outcome import described

from fastlayers import Graph
from fastlayers.graph.adjoints import Place, Slice

relu = Relu()


def test_listing(capsys):
    graph = Graph(shop)
    assert str(graph).splitlines() == [
        "shop(apple, apple_num, orange, orange_num, tax)",
        "    t0 = apple * apple_num",
        "    t1 = orange * orange_num",
        "    t2 = t0 + t1",
        "    t3 = t2 * tax",
        "    return t3",
    ]
    graph.forward(np.ones(3), 2, np.ones((4, 1), "f4"), 3, 1.1)
    assert graph.toString() is None
    assert capsys.readouterr().out.splitlines() == [
        "shop(apple, apple_num, orange, orange_num, tax)",
        "    apple: float64 (3,)",
        "    apple_num: 2",
        "    orange: float32 (4, 1)",
        "    orange_num: 3",
        "    tax: 1.1",
        "    t0 = apple * apple_num: float64 (3,)",
        "    t1 = orange * orange_num: float32 (4, 1)",
        "    t2 = t0 + t1: float64 (4, 3)",
        "    t3 = t2 * tax: float64 (4, 3)",
        "    return t3",
    ]
    layered = Graph(lambda x: (relu(-x) - 2 * +x,))
    assert str(layered).splitlines()[1:] == [
        "    t0 = -x",
        "    t1 = Relu(t0)",
        "    t2 = +x",
        "    t3 = 2 * t2",
        "    t4 = t1 - t3",
        "    return t4,",
    ]


def test_listing_after_a_forward_that_failed():
    graph = Graph(lambda x, y: x * y)
    with pytest.raises(ValueError, match="broadcast"):
        graph.forward(np.ones(3), np.ones(4))
    assert str(graph).splitlines()[1:] == ["    t0 = x * y", "    return t0"]


def test_repr():
    assert repr(Graph(shop)) == "<Graph shop(apple, apple_num, orange, orange_num, tax): 4 nodes>"
    many = Graph(lambda a, b, c, d, e, f, g, h, i: a * b * c * d * e * f * g * h * i)
    assert repr(many) == "<Graph <lambda>(a, b, c, d, e, f, g, …): 8 nodes>"


def test_signature_and_documentation_are_the_functions():
    def product(x, *, y):
        """Multiply."""
        return x * y

    graph = Graph(product)
    for one in (graph, pickle.loads(pickle.dumps(graph)), Graph(graph)):
        assert str(inspect.signature(one)) == "(x, y, *, out=None)"
        assert one.__doc__ == "Multiply."
    assert str(inspect.signature(graph.grad("x"))) == "(x, y, *, out=None)"
    assert str(inspect.signature(Graph(lambda x, out: x * out))) == "(x, out)"
    assert Graph(lambda x: x + 1).__doc__ == Graph.__doc__
    assert list(inspect.signature(Graph).parameters) == ["function"]


def test_drawing():
    graph = Graph(shop)
    picture = graph.draw(100, 2, 150, 3, tax=1.1)
    assert "715" in str(picture)
    assert "650" in str(picture)
    assert "650" not in str(graph.draw())
    assert graph._repr_mimebundle_()["image/svg+xml"] == str(graph.draw())
    assert graph._repr_mimebundle_()["text/plain"] == str(graph)
    assert graph.to_dot().startswith('digraph "shop" {')
    with pytest.raises(RuntimeError, match="call forward first"):
        graph.backward(1)


def test_long_chains_can_be_looked_at_and_kept():
    def chain(x):
        y = x
        for _ in range(10_000):
            y = y * x
        return y

    graph = Graph(chain)
    assert repr(graph) == "<Graph chain(x): 10000 nodes>"
    assert len(str(graph).splitlines()) == 10_002
    for again in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        assert again.value_and_grad(1.0) == (1.0, (10_001.0,))
    assert graph.grad("x")(1.0) == 10_001.0
    assert graph._repr_mimebundle_()["text/plain"] == str(graph)


def test_numbers_that_python_does_not_write(implementation):
    graph = implementation.Graph(lambda x: x * 10**5_000)
    assert str(graph).splitlines()[1] == "    t0 = x * <int of 16610 bits>"
    assert "16610 bits" in str(graph.draw())
    assert graph.forward(10**5_000) == 10**10_000
    assert graph.grad("x")(2) == 10**5_000
    assert "x: <int of 16610 bits>" in str(graph)
    assert str(graph.draw(10**5_000)).startswith("<svg")


def test_what_a_function_returned_is_told_of(implementation):
    with pytest.raises(TypeError, match=r"it returned \[<a value of shop>\]"):
        implementation.Graph(make_list_shop())


def make_list_shop():
    def shop(x):
        return [x]

    return shop


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol):
    local = 2.0
    graph = Graph(lambda x, y: relu(x * y) - local * y)  # a function that cannot be pickled
    x, y = normal(3), normal(3, seed=1)
    again = pickle.loads(pickle.dumps(graph, protocol))
    assert str(again) == str(graph)
    expected = graph.value_and_grad(x, y)
    assert described(tuple(again.value_and_grad(x, y)[1])) == described(tuple(expected[1]))
    graph.forward(x, y)
    for kept in (pickle.loads(pickle.dumps(graph, protocol)), copy.deepcopy(graph)):
        assert described(tuple(kept.backward(1))) == described(tuple(expected[1]))


NODES = Graph(lambda x, y: (x * y + 2) * x).__getstate__()["_nodes"]


BROKEN = {
    "nothing": None,
    "no nodes": NODES._replace(nodes=()),
    "fewer nodes": NODES._replace(nodes=NODES.nodes[:4]),
    "another input": NODES._replace(inputs=("x", "z")),
    "the same input twice": NODES._replace(inputs=("x", "x")),
    "one more input": NODES._replace(inputs=("x", "y", "z")),
    "no output": NODES._replace(outputs=()),
    "an output beyond the end": NODES._replace(outputs=(6,)),
    "an output before the start": NODES._replace(outputs=(-1,)),
    "two outputs, but a single one": NODES._replace(outputs=(4, 5)),
}


for name, changed in {
    "no node": None,
    "unknown operation": NODES.nodes[2]._replace(operation="sine"),
    "an input in the middle": NODES.nodes[0],
    "too few operands": NODES.nodes[2]._replace(operands=(0,)),
    "too many operands": NODES.nodes[2]._replace(operands=(0, 1, 1)),
    "an operand that comes later": NODES.nodes[2]._replace(operands=(0, 4)),
    "an operand before the start": NODES.nodes[2]._replace(operands=(-1, 0)),
    "an operand that is no position": NODES.nodes[2]._replace(operands=("x", 0)),
    "operands that are no tuple": NODES.nodes[2]._replace(operands=None),
    "a number that is none": NODES.nodes[3]._replace(operation="number", operands=(), detail="2"),
    "a layer that is none": NODES.nodes[2]._replace(operation="layer", detail=3),
}.items():
    BROKEN[name] = NODES._replace(nodes=(*NODES.nodes[:2], changed, *NODES.nodes[3:]))


NETWORK = Graph(lambda x, y: np.sum(x * y, axis=1, keepdims=True)[1:] @ y).__getstate__()["_nodes"]
PLACES = {node.operation: place for place, node in enumerate(NETWORK.nodes)}

for name, (operation, change) in {
    "an operand that is the node itself": ("matmul", {"operands": (PLACES["matmul"], 1)}),
    "a reduction of a later value": ("sum", {"operands": (PLACES["getitem"],)}),
    "options that are no pairs": ("sum", {"detail": ("axis", 1)}),
    "options by no names": ("sum", {"detail": ((1, 1),)}),
    "options that are a dict": ("sum", {"detail": {"axis": 1}}),
    "options of another operation": ("multiply", {"detail": (("axis", 1),)}),
    "axes that cannot be compared": ("sum", {"detail": (("axis", [1]),)}),
    "axes that are kept somehow": ("sum", {"detail": (("axis", 1), ("keepdims", "yes"))}),
    "an index of nothing": ("getitem", {"operands": ()}),
    "no index": ("getitem", {"detail": None}),
    "an index that is none": ("getitem", {"detail": (("index", 3),)}),
    "an index of more operands": ("getitem", {"detail": (("index", (Place(),)),)}),
    "a constant that is none": ("getitem", {"operation": "constant", "operands": ()}),
}.items():
    nodes = list(NETWORK.nodes)
    nodes[PLACES[operation]] = nodes[PLACES[operation]]._replace(**change)
    BROKEN[name] = NETWORK._replace(nodes=tuple(nodes))


@pytest.mark.parametrize("nodes", BROKEN.values(), ids=BROKEN)
def test_pickle_that_was_changed(nodes):
    graph = Graph.__new__(Graph)
    with pytest.raises(ValueError, match=r"^this graph was changed after .* of another version"):
        graph.__setstate__({"_nodes": nodes, "_kept": None, "_known": None})


# Which only NumPy can refuse, when the graph is run.
UNFIT = {
    "an axis that is no int": ("sum", (("axis", "x"),)),
    "an axis that is a float": ("sum", (("axis", 1.0),)),
    "an axis that is too large": ("sum", (("axis", 10**30),)),
    "an axis that is not there": ("sum", (("axis", 7),)),
    "rows that are not there": ("getitem", (("index", (99,)),)),
    "an index of text": ("getitem", (("index", ("x",)),)),
    "a slice of no step": ("getitem", (("index", (Slice(0, 1, 0),)),)),
}


@pytest.mark.parametrize("name", UNFIT)
def test_pickle_with_options_that_do_not_fit(name):
    operation, detail = UNFIT[name]
    nodes = list(NETWORK.nodes)
    nodes[PLACES[operation]] = nodes[PLACES[operation]]._replace(detail=detail)
    graph = Graph.__new__(Graph)
    graph.__setstate__({"_nodes": NETWORK._replace(nodes=tuple(nodes))})
    x, y = normal((3, 2)), normal((3, 2), seed=1)
    for call in (graph, graph.forward, graph.value_and_grad):
        with pytest.raises((TypeError, ValueError, IndexError, OverflowError)) as caught:
            call(x, y)
        assert f"node t{PLACES[operation] - 2}" in caught.value.__notes__[0]
    assert str(graph)
    assert str(graph.draw())


@pytest.mark.parametrize("state", [None, [NODES], ({}, {"_nodes": NODES}), {}])
def test_pickle_with_another_state(state):
    graph = Graph.__new__(Graph)
    with pytest.raises(ValueError, match=r"^this graph was changed after .* of another version"):
        graph.__setstate__(state)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_that_was_cut(protocol):
    stored = pickle.dumps(Graph(lambda x, y: (x * y + 2) * x), protocol)
    for length in range(len(stored)):
        with pytest.raises((EOFError, pickle.UnpicklingError)):
            pickle.loads(stored[:length])


def test_what_a_pickle_says_of_plans_is_not_believed():
    state = {"_nodes": NODES, "_kept": None, "_known": None, "_entries": 3, "_factors": None}
    graph = Graph.__new__(Graph)
    graph.__setstate__(state)
    assert graph.value_and_grad(3.0, 4.0) == (42.0, (26.0, 9.0))


def test_a_pickle_replaces_no_method():
    graph = Graph(lambda x, y: x * y)
    graph.label = "a product"  # as any object may be given
    state = graph.__getstate__()
    again = Graph.__new__(Graph)
    again.__setstate__(
        state | {"forward": print, "draw": print, "_operations": {}, "inputs": (), "_call_nodes": 0}
    )
    assert vars(again).keys() == vars(graph).keys()
    assert again.label == "a product"
    assert again.forward(2.0, 3.0) == 6.0


def test_layer_that_cannot_be_pickled():
    class Local(Relu):
        pass

    layer = Local()
    with pytest.raises((AttributeError, pickle.PicklingError), match="Local"):
        pickle.dumps(Graph(lambda x: layer(x)))


def test_copy_has_layers_of_its_own():
    layer = Relu()
    graph = Graph(lambda x: layer(x))
    graph.forward(np.array([1.0, -1.0]))
    again = copy.deepcopy(graph)
    graph.forward(np.array([-1.0, 1.0]))
    assert again.backward(1).x.tolist() == [1.0, 0.0]
    assert graph.backward(1).x.tolist() == [0.0, 1.0]


def test_gradients_can_be_pickled():
    gradients = Graph(shop).value_and_grad(100, 2, 150, 3, 1.1)[1]
    for again in (pickle.loads(pickle.dumps(gradients)), copy.deepcopy(gradients)):
        assert again == gradients
        assert type(again) is type(gradients)


def test_gradients_hash_as_tuples_do():
    graph = Graph(shop)
    gradients = graph.value_and_grad(100, 2, 150, 3, 1.1)[1]
    assert hash(gradients) == hash(tuple(gradients))
    assert hash(gradients) == hash(graph.value_and_grad(100, 2, 150, 3, 1.1)[1])
    assert {tuple(gradients): "found"}[gradients] == "found"
