"""Layers of one's own in a graph, other graphs in it, and what errors of its nodes tell."""

from __future__ import annotations

import numpy as np
import pytest
from outcome import arrays_in, described, sharing
from plain_graph import assert_same

import fastlayers
from fastlayers import AddLayer, BaseLayer, Graph, MulLayer


class Relu(BaseLayer):
    """As the book has it: ``backward`` writes into its dout, and returns that."""

    def forward(self, x):
        self.negative = x <= 0
        out = x.copy()
        out[self.negative] = 0
        return out

    def backward(self, dout):
        dout[self.negative] = 0
        return dout


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


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def assert_fresh(value, gradients, *given):
    """Results share nothing with each other and with what was given, and are theirs to write."""
    values = value if isinstance(value, tuple) else (value,)
    results = [*arrays_in(values), *arrays_in(tuple(gradients))]
    assert sharing(results, list(given)) == []
    assert all(one.flags.owndata and one.flags.writeable for one in results)


def notes(error):
    return "\n".join(getattr(error.value, "__notes__", []))


# ----------------------------------------------------------------------------------------- values


def test_layer_between_nodes():
    relu = Relu()
    graph = Graph(lambda x, y, z: relu(x * y) * z - x)
    x, y, z, dout = (normal(4, 3, seed=seed) for seed in range(4))
    kept = described([x, y, z, dout])
    value, gradients = graph.value_and_grad(x, y, z, dout=dout)
    rectified = np.where(x * y > 0, x * y, 0)
    inner = np.where(x * y > 0, dout * z, 0)
    assert value.tolist() == (rectified * z - x).tolist()
    assert gradients.x.tolist() == (dout * -1 + inner * y).tolist()
    assert gradients.y.tolist() == (inner * x).tolist()
    assert gradients.z.tolist() == (dout * rectified).tolist()
    assert described([x, y, z, dout]) == kept
    assert described(graph.forward(x, y, z)) == described(value)
    assert described(tuple(graph.backward(dout))) == described(tuple(gradients))


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


def test_layer_that_writes_into_the_users_dout():
    dout = np.ones(4)
    relu = Relu()
    graph = Graph(lambda x: relu(x))
    graph.forward(np.array([-1.0, 2.0, -3.0, 4.0]))
    assert graph.backward(dout).x.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert dout.tolist() == [1.0] * 4


def test_gradients_that_are_one_array():
    add, first, second = Sum(), Relu(), Relu()
    x, y = np.array([-1.0, 2.0, 3.0]), np.array([1.0, -2.0, 3.0])
    value, gradients = Graph(lambda x, y: add(first(x), second(y))).value_and_grad(x, y)
    assert gradients.x.tolist() == [0.0, 1.0, 1.0]
    assert gradients.y.tolist() == [1.0, 0.0, 1.0]
    assert_fresh(value, gradients, x, y)
    dout = np.ones(3)
    value, gradients = Graph(lambda x, y: add(x, y)).value_and_grad(x, y, dout=dout)
    assert_fresh(value, gradients, x, y, dout)


def test_same_array_is_not_added_to_itself():
    # x gets dout twice, as one object: adding in place would be seen twice.
    add = Sum()
    dout = np.array([1.0, 2.0])
    _, gradients = Graph(lambda x: add(x, x)).value_and_grad(np.ones(2), dout=dout)
    assert gradients.x.tolist() == [2.0, 4.0]
    assert dout.tolist() == [1.0, 2.0]


def test_layer_that_hands_its_operand_on():
    same = Same()
    x, dout = normal(3, 4), normal(3, 4, seed=1)
    for function, given in (
        (lambda x: same(x), dout),
        (lambda x: (same(x), x), (dout, dout)),
        (lambda x: same(x) + x, dout),
    ):
        graph = Graph(function)
        assert_fresh(*graph.value_and_grad(x, dout=given), x, dout)
        assert_fresh(graph.forward(x), graph.backward(given), x, dout)


def test_layer_that_returns_views():
    rows = Rows()
    x, dout = normal(3, 4), normal(2, 4, seed=1)
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


def test_gradients_are_summed_to_the_operands_shapes():
    affine = Affine()
    x, w, b = normal(5, 3), normal(3, 4, seed=1), normal(4, seed=2)
    graph = Graph(lambda x, w, b, k: affine(x * k, w, b) * k)
    value, gradients = graph.value_and_grad(x, w, b, 2.0)
    assert value.tolist() == (((x * 2.0) @ w + b) * 2.0).tolist()
    assert gradients.b.tolist() == [10.0] * 4
    assert gradients.w.shape == w.shape
    assert type(gradients.k) is float


def test_layer_with_no_array():
    failing = Failing()
    value, gradients = Graph(lambda x: failing(x) * x).value_and_grad(3)
    assert (value, gradients) == (18, (12,))


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


# ------------------------------------------------------------------------------ layers and graphs


class Shop:
    """A network as the book has it."""

    def __init__(self):
        self.apple, self.orange, self.tax = MulLayer(), MulLayer(), MulLayer()
        self.both = AddLayer()

    def forward(self, apple, apple_num, orange, orange_num, tax):
        apple_price = self.apple.forward(apple, apple_num)
        orange_price = self.orange.forward(orange, orange_num)
        return self.tax.forward(self.both.forward(apple_price, orange_price), tax)


def test_method_of_a_network():
    graph = Graph(Shop().forward)
    assert graph.forward(100, 2, 150, 3, 1.1) == 715.0000000000001
    gradients = graph.backward(1)
    assert gradients == (2.2, 110.00000000000001, 3.3000000000000003, 165.0, 650)
    assert gradients._fields == ("apple", "apple_num", "orange", "orange_num", "tax")
    operands = [normal(30, seed=seed) for seed in range(5)]
    value, gradients = graph.value_and_grad(*operands)
    expected = assert_same(
        lambda apple, apple_num, orange, orange_num, tax: (
            (apple * apple_num + orange * orange_num) * tax
        ),
        *operands,
    ).value
    assert described((value, tuple(gradients))) == described((expected[0], tuple(expected[1])))


def test_graph_in_a_graph_is_inlined():
    square = Graph(lambda x: x * x - 1)
    graph = Graph(lambda a, b: square(a) * b + square(a + b))
    operands = [normal(3, 4), normal(4, seed=1)]
    value, gradients = graph.value_and_grad(*operands)
    expected = assert_same(
        lambda a, b: (a * a - 1) * b + ((a + b) * (a + b) - 1), *operands
    ).value  # but that a + b is one node there
    again = Graph(lambda a, b: flat(a, b)).value_and_grad(*operands)
    assert described(value) == described(expected[0])
    assert described((value, tuple(gradients))) == described((again[0], tuple(again[1])))


def flat(a, b):
    first = (a * a - 1) * b
    total = a + b
    return first + (total * total - 1)


def test_graph_with_several_outputs_in_a_graph():
    momentum = Graph(lambda w, v, g: (w + (0.9 * v - 0.1 * g), 0.9 * v - 0.1 * g))

    def function(w, v, g):
        w, v = momentum(w, v, g)
        return w * v

    operands = [normal(30, seed=seed) for seed in range(3)]
    value, gradients = Graph(function).value_and_grad(*operands)
    expected = assert_same(
        lambda w, v, g: (w + (0.9 * v - 0.1 * g)) * (0.9 * v - 0.1 * g), *operands
    ).value
    assert described((value, tuple(gradients))) == described((expected[0], tuple(expected[1])))


# ----------------------------------------------------------------------------------------- errors


def test_same_layer_twice():
    relu = Relu()

    def function(x):
        first = relu(x)
        return relu(first)

    line = function.__code__.co_firstlineno
    with pytest.raises((TypeError, ValueError)) as error:
        Graph(function)
    text = f"{error.value}\n{notes(error)}"
    assert f"test_graph_layers.py:{line + 1}" in text
    assert f"test_graph_layers.py:{line + 2}" in text


def test_two_layers_of_a_class():
    first, second = Relu(), Relu()
    x = np.array([-1.0, 2.0])
    assert Graph(lambda x: first(x) - second(-x))(x).tolist() == [-1.0, 2.0]


def test_error_of_a_node_names_it():
    def function(apple, apple_num, tax):
        price = apple * apple_num
        return price * tax

    line = function.__code__.co_firstlineno + 2
    operands = np.ones((2, 3)), 2.0, np.ones(5)
    expected = "operands could not be broadcast together with shapes (2,3) (5,) "
    graph = Graph(function)
    for call in (graph, graph.forward, graph.value_and_grad):
        with pytest.raises(ValueError, match="broadcast") as error:
            call(*operands)
        assert str(error.value) == expected
        assert f"test_graph_layers.py:{line}" in notes(error)
        assert "tax" in notes(error)
        assert "(5,)" in notes(error)
        assert "(2, 3)" in notes(error)


def test_warning_that_is_raised_names_the_node():
    def function(x, y):
        product = x * y
        return product + y

    line = function.__code__.co_firstlineno + 1
    large = np.full(5, 1e300)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="multiply") as error:
        Graph(function)(large, large)
    assert f"test_graph_layers.py:{line}" in notes(error)


def test_error_of_a_gradient_names_the_node():
    def function(x, y):
        product = x * y
        return product + y

    line = function.__code__.co_firstlineno + 1
    large = np.full(5, 1e300)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="multiply") as error:
        Graph(function).value_and_grad(large, 1 / large, dout=large)
    assert f"test_graph_layers.py:{line}" in notes(error)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_layer_that_raises(where):
    failing = Failing(**{where: LookupError("of one's own")})

    def function(x, y):
        product = x * y
        return failing(product) * y

    line = function.__code__.co_firstlineno + 2
    graph = Graph(function)
    x = np.ones((2, 3))
    with pytest.raises(LookupError, match="of one's own") as error:
        graph.value_and_grad(x, 2.0)
    assert error.value.args == ("of one's own",)
    assert f"test_graph_layers.py:{line}" in notes(error)
    assert "Failing" in notes(error)
    failing.errors = None, None
    value, gradients = graph.value_and_grad(x, 2.0)  # it works on
    assert value.tolist() == [[8.0] * 3] * 2
    assert gradients.x.tolist() == [[8.0] * 3] * 2


@pytest.mark.parametrize("gradients", [(), (1.0,), (1.0, 2.0, 3.0), None])
def test_wrong_number_of_gradients(gradients):
    class Wrong(Sum):
        def backward(self, dout):
            return gradients

    wrong = Wrong()
    with pytest.raises((TypeError, ValueError)) as error:
        Graph(lambda x, y: wrong(x, y)).value_and_grad(np.ones(3), np.ones(3))
    assert "Wrong" in f"{error.value}\n{notes(error)}"


def test_gradient_that_is_missing_is_told_with_the_cure():
    class BooksLoss(BaseLayer):
        """As the book has it: labels have no gradient, and none is returned."""

        def forward(self, x, t):
            self.difference = x - t
            return np.sum(self.difference * self.difference) / 2

        def backward(self, dout=1):
            return dout * self.difference

    graph = Graph(lambda x, t: BooksLoss()(x, t))
    with pytest.raises(
        ValueError,
        match=r"^BooksLoss\.backward must return 2 gradients, not 1: one for each operand of "
        r"BooksLoss\.forward, and None for one that has none, as labels \(return dx, None\)",
    ):
        graph.value_and_grad(np.ones(3), np.zeros(3))


def test_notes_are_those_of_one_node():
    # One error object of a layer's own, raised again and again, must not collect notes.
    failing = Failing(forward=LookupError("again"))
    graph = Graph(lambda x: failing(x))
    for _ in range(3):
        with pytest.raises(LookupError) as error:
            graph(1.0)
    assert len(error.value.__notes__) == 1


def test_implementations_alike():
    assert issubclass(fastlayers.Graph, BaseLayer)


class Wrong(BaseLayer):
    def forward(self, x):
        return x

    def backward(self, dout):
        return dout[:, :1]


def test_layer_whose_gradient_has_not_the_shape_of_its_operand():
    graph = Graph(lambda x: Wrong()(x))
    graph.forward(np.ones((2, 3)))
    with pytest.raises(
        ValueError, match=r"Wrong.backward returned shape \(2, 1\) for an operand of shape \(2, 3\)"
    ):
        graph.backward(np.ones((2, 3)))


def test_outputs_that_are_no_tuple():
    graph = Graph(lambda x: (Wrong()(x), x * 2))
    with pytest.raises(TypeError, match="'out' must be a tuple of 2 arrays, for the values, not l"):
        graph(np.ones(3), out=[None, None])
