"""Layers of one's own in a graph, other graphs in it, and what errors of its nodes tell."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
from graphs import Half, Relu, normal
from outcome import arrays_in, described, sharing
from plain_graph import assert_same

import fastlayers
from fastlayers import BaseLayer, Graph, MulLayer, gradcheck


class Sum(BaseLayer):
    """As many write it: both gradients are dout itself, in a list."""

    def forward(self, x, y):
        return x + y

    def backward(self, dout):
        return [dout, dout]


class Same(BaseLayer):
    """Hands its operand and its dout on, as a layer for training alone does later on."""

    def forward(self, x):
        return x

    def backward(self, dout):
        return dout


class Rows(BaseLayer):
    """Returns views."""

    def forward(self, x):
        return x[:2]

    def backward(self, dout):
        return np.concatenate([dout, np.zeros_like(dout)])[:3]


class Affine(BaseLayer):
    def forward(self, x, w, b):
        self.x, self.w = x, w
        return x @ w + b

    def backward(self, dout):
        return dout @ self.w.T, self.x.T @ dout, dout


class Failing(BaseLayer):
    def __init__(self, forward=None, backward=None):
        self.errors = forward, backward

    def forward(self, x):
        if self.errors[0]:
            raise self.errors[0]
        return x * 2

    def backward(self, dout):
        if self.errors[1]:
            raise self.errors[1]
        return dout * 2


def assert_fresh(value, gradients, *given):
    """Results share nothing with each other and with what was given, and are theirs to write."""
    values = value if isinstance(value, tuple) else (value,)
    results = [*arrays_in(values), *arrays_in(tuple(gradients))]
    assert sharing(results, list(given)) == []
    assert all(one.flags.owndata and one.flags.writeable for one in results)


# ----------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("number", [True, False])
def test_layer_that_writes_into_its_dout(number):
    relu, other = Relu(), Relu()

    def function(x, y):
        t = x * y
        first = relu(t)
        return first, t, first + other(first)

    x, y = normal(40), normal(40, seed=1)
    douts = tuple(normal(40, seed=seed) for seed in (2, 3, 4))
    kept = described(douts)
    if number:
        douts, given = 1, (np.ones(40),) * 3
    else:
        given = douts
    _, gradients = Graph(function).value_and_grad(x, y, dout=douts)
    positive = x * y > 0
    first = (given[0] + given[2]) + np.where(positive, given[2], 0)
    total = given[1] + np.where(positive, first, 0)
    assert gradients.x.tolist() == (total * y).tolist()
    assert number or described(douts) == kept


# What is computed is plain arithmetic; layers hand on the object that they were given.
HANDED_ON = {
    "both gradients are dout": (lambda x, y: Sum()(x, y), "dout"),
    "so they are after layers": (lambda x, y: Sum()(Half()(x), Half()(y)), "dout"),
    # Adding in place would be seen twice.
    "x gets dout twice": (lambda x, y: Sum()(x, x) * y, "dout"),
    "an operand": (lambda x, y: Same()(x), "dout"),
    "an input is read, and an output": (lambda x, y: (Same()(x) * y, x), ("dout", "y")),
    "that is added": (lambda x, y: Same()(x) + x * y, "dout"),
}


@pytest.mark.parametrize("name", HANDED_ON)
def test_layers_that_hand_on_what_they_are_given(name):
    function, douts = HANDED_ON[name]
    named = {"dout": normal((3, 4)), "y": normal((3, 4), seed=1)}
    dout = tuple(map(named.get, douts)) if isinstance(douts, tuple) else named[douts]
    assert_same(function, normal((3, 4), seed=2), named["y"], dout=dout)
    assert_same(function, normal((3, 4), seed=2), named["y"])


def test_layer_that_returns_views():
    rows = Rows()
    x, dout = normal((3, 4)), normal((2, 4), seed=1)
    value, gradients = Graph(lambda x: rows(x)).value_and_grad(x, dout=dout)
    assert value.tolist() == x[:2].tolist()
    assert gradients.x.tolist() == [*dout.tolist(), [0.0] * 4]
    assert_fresh(value, gradients, x, dout)


def test_layer_that_writes_into_its_operand():
    # As by hand: what it was given is changed, and no one else's.
    class Raising(Same):
        def forward(self, x):
            x += 1
            return x

    first, second = Raising(), Raising()
    x, y, z = normal(300), normal(300, seed=1), normal(300, seed=2)
    kept = described([x, y, z])
    value, gradients = Graph(lambda x, y, z: first(x * y) * z).value_and_grad(x, y, z)
    assert value.tolist() == ((x * y + 1) * z).tolist()
    assert gradients.z.tolist() == (x * y + 1).tolist()
    assert described([x, y, z]) == kept
    before = x.copy()
    value, gradients = Graph(lambda x, y: second(x) * y).value_and_grad(x, y)
    assert x.tolist() == (before + 1).tolist()
    assert value.tolist() == (x * y).tolist()
    assert_fresh(value, gradients, x, y)


def test_layer_that_calls_the_graph_it_is_in():
    class Again(BaseLayer):
        def forward(self, x):
            return graph.forward(x) if np.max(x) > 1 else x

        def backward(self, dout):
            if np.max(dout) > 0.1:
                graph.value_and_grad(dout, dout=0.1 * dout)
            return dout

    again = Again()
    graph = Graph(lambda x: again(x * 0.5) + x)
    for eight in (8.0, np.full(300, 8.0)):
        value, gradients = graph.value_and_grad(eight)
        assert np.all(value == 15.0)  # 8 + 4 + 2 + 1
        assert np.all(gradients.x == 1.5)


def test_layer_outside_a_graph():
    relu = Relu()
    assert relu(np.array([-1.0, 2.0])).tolist() == [0.0, 2.0]
    assert relu.backward(np.ones(2)).tolist() == [0.0, 1.0]
    assert MulLayer()(100, 2) == 200


def test_only_wanted_gradients_are_asked_for():
    failing = Failing(backward=LookupError("not wanted"))
    graph = Graph(lambda x, y: failing(x) + y * y)
    _, gradients = graph.value_and_grad(2.0, 3.0, wrt=("y",))
    assert gradients.y == 6.0


def test_gradients_are_summed_to_the_operands_shapes():
    affine = Affine()
    x, w, b = normal((5, 3)), normal((3, 4), seed=1), normal(4, seed=2)
    graph = Graph(lambda x, w, b, k: affine(x * k, w, b) * k)
    value, gradients = graph.value_and_grad(x, w, b, 2.0)
    assert value.tolist() == (((x * 2.0) @ w + b) * 2.0).tolist()
    assert gradients.b.tolist() == [10.0] * 4
    assert gradients.w.shape == w.shape
    assert type(gradients.k) is float
    assert gradcheck(graph, x, w, b, 2.0)


@pytest.mark.parametrize("implementation_of_layers", [fastlayers, fastlayers.reference])
def test_graph_with_several_outputs_in_a_graph(implementation_of_layers):
    momentum = Graph(lambda w, v, g: (w + (0.9 * v - 0.1 * g), 0.9 * v - 0.1 * g))
    product = implementation_of_layers.MulLayer()

    def function(w, v, g):
        w, v = momentum(w, v, g)
        return product.forward(w, v)

    operands = [normal(30, seed=seed) for seed in range(3)]
    value, gradients = Graph(function).value_and_grad(*operands)
    expected = assert_same(
        lambda w, v, g: (w + (0.9 * v - 0.1 * g)) * (0.9 * v - 0.1 * g), *operands
    ).value
    assert described((value, tuple(gradients))) == described((expected[0], tuple(expected[1])))


# ----------------------------------------------------------------------------------------- errors


class Returning(BaseLayer):
    """Returns what it is told to, whatever it is given."""

    def __init__(self, value=None, gradients=None):
        self.value, self.gradients = value, gradients

    def forward(self, *operands):
        return operands[0] if self.value is None else self.value

    def backward(self, dout):
        return self.gradients


def test_layer_that_returns_lists():
    layer = Returning([2.0, 4.0], [6.0, 8.0])
    value, gradients = Graph(lambda x: layer(x) * 3).value_and_grad(np.ones(2))
    assert (value.tolist(), gradients.x.tolist()) == ([6.0, 12.0], [6.0, 8.0])


# What a layer of two operands returns, and what is said of it.
MISTAKES = {
    "two values": (((1.0, 2.0), None), TypeError, "Returning.forward must return one value, not a"),
    "no gradient": ((None, ()), ValueError, "must return 2 gradients, not 0"),
    # As in the book, of a loss: labels have no gradient.
    "one gradient": ((None, 1.0), ValueError, "2 gradients, not 1: one for each operand of Return"),
    "one in a tuple": (
        (None, (1.0,)),
        ValueError,
        "2 gradients, not 1: .*and None for one t",
    ),
    "three gradients": ((None, (1.0, 2.0, 3.0)), ValueError, "must return 2 gradients, not 3"),
    "None": ((None, None), ValueError, "must return 2 gradients, not"),
    "another shape": (
        (None, (np.ones((2, 1)), None)),
        ValueError,
        r"shape \(2, 1\) for an ope",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_a_layer_must_not_return(name):
    returned, error, text = MISTAKES[name]
    layer = Returning(*returned)
    graph = Graph(lambda x, y: layer(x, y))
    with pytest.raises(error, match=text):
        graph.value_and_grad(np.ones((2, 3)), np.ones((2, 3)))


def made_of_two(x, y):
    product = x * y
    return product + y


def of_small_parts(x, row, n, m):
    return x * (n * m) + row


FAILING = Failing(forward=LookupError("of one's own"))
FAILING_BACK = Failing(backward=LookupError("of one's own"))


def with_a_layer(x, y):
    product = x * y
    return FAILING(product) * y


def with_a_layer_back(x, y):
    product = x * y
    return FAILING_BACK(product) * y


LARGE, SHAPED = np.full(5, 1e300), np.ones((2, 3))
BIG = 10**5000

# Function, operands, dout; the error, and how the note begins; then follow the line and its text.
NOTES = {
    "shapes": (
        (made_of_two, (SHAPED, np.ones(5)), 1),
        (ValueError, r"operands could not be broadcast together with shapes \(2,3\) \(5,\) "),
        "node t0 = x * y of made_of_two: x float64 (2, 3), y float64 (5,); made at ",
    ),
    "an overflow": (
        (made_of_two, (LARGE, LARGE), 1),
        (FloatingPointError, "overflow encountered in multiply"),
        "node t0 = x * y of made_of_two: x float64 (5,), y float64 (5,); made at ",
    ),
    "one of a gradient": (
        (made_of_two, (LARGE, 1 / LARGE), LARGE),
        (FloatingPointError, "overflow encountered in multiply"),
        "gradient of t0 = x * y of made_of_two: x float64 (5,), y float64 (5,)",
    ),
    "numbers": (
        (made_of_two, (10**400, 1.5), 1),
        (OverflowError, "int too large to convert to float"),
        "node t0 = x * y of made_of_two: x 1000",
    ),
    "numbers of many digits": (
        (made_of_two, (BIG, 0.5), 1),
        (OverflowError, "int too large"),
        "node t0 = x * y of made_of_two: x <int of 16610 bits>, y 0.5",
    ),
    "fractions of many digits": (
        (made_of_two, (Fraction(BIG, 3), 0.5), 1),
        (OverflowError, ""),
        "node t0 = x * y of made_of_two: x <Fraction of many digits>, y 0.5",
    ),
    "numbers beside arrays": (
        (of_small_parts, (np.ones((4, 3)), np.ones(3), 10**400, 0.5), 1),
        (OverflowError, "int too large to convert to float"),
        "node t0 = n * m of of_small_parts: n 1000",
    ),
    "a layer": (
        (with_a_layer, (SHAPED, 2.0), 1),
        (LookupError, "of one's own"),
        "node t1 = Failing(t0) of with_a_layer: t0 float64 (2, 3); made at ",
    ),
    "a layer's gradient": (
        (with_a_layer_back, (SHAPED, 2.0), 1),
        (LookupError, "of one's own"),
        "gradient of t1 = Failing(t0) of with_a_layer_back",
    ),
    "before a layer": (
        (with_a_layer, (SHAPED, np.ones(5)), 1),
        (ValueError, "broadcast"),
        "node t0 = x * y of with_a_layer: x float64 (2, 3), y float64 (5,); made at ",
    ),
    "an overflow before it": (
        (with_a_layer_back, (LARGE, LARGE), 1),
        (FloatingPointError, "overflow"),
        "node t0 = x * y of with_a_layer_back: x float64 (5,), y float64 (5,); made at ",
    ),
}


@pytest.mark.parametrize("name", NOTES)
def test_errors_name_their_node(implementation, name):
    (function, operands, dout), (error, text), start = NOTES[name]
    graph = implementation.Graph(function)
    calls = [lambda: graph.value_and_grad(*operands, dout=dout)]
    if start.startswith("node"):
        calls += [lambda: graph(*operands), lambda: graph.forward(*operands)]
    for call in calls:
        with np.errstate(over="raise"), pytest.raises(error) as caught:
            call()
        assert re.search(text, str(caught.value))
        (note,) = caught.value.__notes__  # one, though an error of one's own be raised again
        assert note.startswith(start)
        # Of the two lines of a function the first one makes the product, the other one the layer.
        line = function.__code__.co_firstlineno + (2 if "Failing" in start else 1)
        assert re.search(rf"test_graph_layers\.py:{line}: ", note)


def test_a_graph_works_on_after_an_error():
    failing = Failing(backward=LookupError("of one's own"))
    graph = Graph(lambda x, y: failing(x * y) * y)
    with pytest.raises(LookupError):
        graph.value_and_grad(SHAPED, 2.0)
    failing.errors = None, None
    value, gradients = graph.value_and_grad(SHAPED, 2.0)
    assert value.tolist() == gradients.x.tolist() == [[8.0] * 3] * 2
