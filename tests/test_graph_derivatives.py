"""Derivatives of any order against exact ones, and the graph of gradients against `backward`."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from outcome import arrays_in, described, outcome, sharing

from fastlayers import BaseLayer, Graph, gradcheck


def rosenbrock(x, y):
    return 100 * (y - x * x) * (y - x * x) + (x - 1) * (x - 1)


def goldstein_price(x, y):
    s, t = x + y + 1, 2 * x - 3 * y
    p = 19 - 14 * x + 3 * x * x - 14 * y + 6 * x * y + 3 * y * y
    q = 18 - 32 * x + 12 * x * x + 48 * y - 36 * x * y + 27 * y * y
    return (1 + s * s * p) * (30 + t * t * q)


def horner(x, y):
    value = y
    for coefficient in (3, -2, 5, 7, -1):
        value = value * x + coefficient
    return value


FUNCTIONS = [rosenbrock, goldstein_price, horner]
POINTS = [
    (Fraction(3, 4), Fraction(-5, 8)),
    (Fraction(-2), Fraction(1)),
    (Fraction(1), Fraction(0)),
]


class Polynomial:
    """In x and y with fractions as coefficients, by the powers: what symbols are compared with."""

    def __init__(self, terms):
        self.terms = {powers: value for powers, value in terms.items() if value}

    @classmethod
    def of(cls, value):
        return value if isinstance(value, Polynomial) else cls({(0, 0): Fraction(value)})

    def __add__(self, other):
        terms = dict(self.terms)
        for powers, value in Polynomial.of(other).terms.items():
            terms[powers] = terms.get(powers, 0) + value
        return Polynomial(terms)

    def __mul__(self, other):
        terms = {}
        for (a, b), (c, d) in itertools.product(self.terms, Polynomial.of(other).terms):
            product = self.terms[a, b] * Polynomial.of(other).terms[c, d]
            terms[a + c, b + d] = terms.get((a + c, b + d), 0) + product
        return Polynomial(terms)

    def __sub__(self, other):
        return self + Polynomial.of(other) * -1

    def __rsub__(self, other):
        return Polynomial.of(other) - self

    __radd__, __rmul__ = __add__, __mul__

    def derivative(self, name):
        i = "xy".index(name)
        lowered = {}
        for powers, value in self.terms.items():
            if powers[i]:
                lower = tuple(power - (j == i) for j, power in enumerate(powers))
                lowered[lower] = value * powers[i]
        return Polynomial(lowered)

    def __call__(self, x, y):
        return sum((value * x**a * y**b for (a, b), value in self.terms.items()), Fraction(0))

    def size(self, x, y):
        """The sum of all terms without their signs: what errors of rounding are measured by."""
        return sum((abs(v * x**a * y**b) for (a, b), v in self.terms.items()), Fraction(0))


X, Y = Polynomial({(1, 0): Fraction(1)}), Polynomial({(0, 1): Fraction(1)})
ORDERS = [names for n in (1, 2, 3) for names in itertools.product("xy", repeat=n)]


@pytest.mark.parametrize("names", ORDERS, ids="".join)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_derivatives_are_exact(implementation, function, names):
    graph, exact = implementation.Graph(function), function(X, Y)
    for name in names:
        graph, exact = graph.grad(name), exact.derivative(name)
    for x, y in POINTS:
        assert graph(x, y) == exact(x, y)  # of fractions: no rounding at all
        # Some hundred operations on float64, each of which errs by half a unit in the last place.
        tolerance = float(2 * (exact.size(x, y) + 1000)) * 200 * 2.0**-53
        assert abs(graph(float(x), float(y)) - float(exact(x, y))) <= tolerance
    arrays = [np.array([float(point[i]) for point in POINTS]) for i in range(2)]
    values = [graph(*map(float, point)) for point in POINTS]
    assert np.broadcast_to(graph(*arrays), 3).tolist() == values


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_gradcheck_of_derivatives(implementation, function):
    graph = implementation.Graph(function)
    x, y = np.array([[0.5, -0.25, 0.75]]), np.array([[0.3], [-0.6]])
    assert gradcheck(graph, x, y, atol=1e-3)
    first = graph.grad()
    assert gradcheck(first, x, y, atol=1e-3)
    assert gradcheck(first.grad("y"), 0.5, y, atol=1e-2)


SHAPES = [
    ((), ()),
    ((3,), (3,)),
    ((2, 1), (3,)),
    ((1, 3), (2, 3)),
    ((1, 1), (4,)),
    ((0, 1), (1, 5)),
]
BROADCAST = {
    "product": lambda x, y: x * y,
    "several uses": lambda x, y: x * y * x - (y + x) * x + 2 * y,
    "squares": lambda x, y: (x * x + 1) * (y - y * y),
    "two values": lambda x, y: (x * y + x, y * y),
    "an input": lambda x, y: (x, x * y),
    "same value twice": lambda x, y: (x + y,) * 2,
    "sums alone": lambda x, y: x + y - 3,
    "one input": lambda x, y: (x * x, y - y),
    "minus": lambda x, y: -(x - +y) * -x,
}


# What is summed over which axes does not depend on the dtype; which sums are the kernels' does.
SHAPES_AND_DTYPES = [
    (shapes, dtypes)
    for shapes in SHAPES
    for dtypes in ("dd", "ff", "fd", "ll", "DD", "gg")
    if dtypes in ("dd", "ff") or shapes in SHAPES[:2]
]


@pytest.mark.parametrize(("shapes", "dtypes"), SHAPES_AND_DTYPES, ids=str)
@pytest.mark.parametrize("name", BROADCAST)
def test_graph_of_the_gradients_gives_those_of_value_and_grad(implementation, name, shapes, dtypes):
    graph = implementation.Graph(BROADCAST[name])
    rng = np.random.default_rng(0)
    x, y = (rng.normal(0, 9, s).astype(d) for s, d in zip(shapes, dtypes, strict=True))
    for operands in ((x, y), (x, 2.5), (-3, y)):
        gradients = graph.value_and_grad(*operands)[1]
        alone = graph.grad("x")(*operands), graph.grad("y")(*operands)
        both = graph.grad()(*operands)
        assert values_of(both) == values_of(alone) == values_of(gradients)
        assert graph.grad("y", "x")._nodes.inputs == ("x", "y")
        assert sharing(arrays_in(both), [x, y]) == []
        second = graph.grad("x")
        if np.shape(operands[0]) == np.shape(second(*operands)):
            expected = values_of(second.value_and_grad(*operands)[1])
            assert values_of(second.grad()(*operands)) == expected


def values_of(results):
    """Types, shapes and bits, but not memory order."""
    return [described(np.array(r, order="C") if np.ndim(r) else r) for r in results]


@pytest.mark.parametrize("trouble", [np.inf, np.nan, 1e300, 1e-300])
def test_flags_do_not_change_the_bits_of_sums(implementation, trouble):
    # One value that raises a flag must not change how other gradients are summed.
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 1)), rng.standard_normal((1, 30))
    x[3] = trouble
    graph = implementation.Graph(lambda x, y: x * y * y)
    with np.errstate(all="ignore"):
        gradients = graph.value_and_grad(x, y, dout=1e200)[1]
        for i, name in enumerate("xy"):
            alone = graph.value_and_grad(x, y, dout=1e200, wrt=name)[1]
            assert described(alone[0]) == described(gradients[i])
        ones = graph.value_and_grad(x, y)[1]
        assert values_of(graph.grad()(x, y)) == values_of(ones)
        layer = implementation.MulLayer(sum_to_shape=True)
        product = implementation.Graph(lambda x, y: x * y)
        layer.forward(x, y)
        dout = rng.standard_normal((40, 30))
        expected = described(layer.backward(dout))
        assert described(tuple(product.value_and_grad(x, y, dout=dout)[1])) == expected


def test_no_algebra():
    graph = Graph(lambda x: x * 0 + x * x * 0).grad("x")
    with np.errstate(invalid="ignore"):
        assert np.isnan(graph(np.inf))
        assert np.isnan(graph(np.nan))
    assert graph(2.0) == 0
    assert graph.grad("x")(2.0) == 0


def test_common_subexpressions_are_computed_once():
    def function(x, y):
        return (x * y) * (x * y) + (1 * x - 1.0 * x) + (0.0 * y - -0.0 * y)

    operations = [node.operation for node in Graph(function).grad("x", "y")._nodes.nodes]
    kinds = Graph(function).grad("x", "y")._nodes.nodes
    products = [node for node in kinds if node[:2] == ("multiply", (0, 1))]
    assert len(products) == 1
    assert "layer" not in operations
    numbers = [repr(node.detail) for node in kinds if node.operation == "number"]
    assert len(numbers) == len(set(numbers))
    assert {"1", "1.0", "0.0", "-0.0"} <= set(numbers)


def test_what_is_structurally_zero_is_left_out():
    nodes = Graph(lambda x, y: x * 2 + y * y * y).grad("x")._nodes
    operations = [node.operation for node in nodes.nodes]
    assert (operations.count("multiply"), operations.count("multiply_to")) == (3, 2)
    third = Graph(lambda x: x * x).grad("x").grad("x").grad("x")
    assert third._nodes.nodes[third._nodes.outputs[0]].operation == "zeros_like"
    assert third(2.5) == 0
    assert third(np.ones((2, 1), "f4")).tolist() == [[0.0], [0.0]]
    assert third.grad("x")(2.5) == 0


def test_unused_parameters_of_gradients_are_not_warned_of():
    graph = Graph(lambda x, y: x * x + y)
    assert graph.grad("x")(3.0, 4.0) == 6.0
    assert graph.grad("y")(np.ones(3, "f4"), np.ones(1)).tolist() == [3.0]
    assert graph.grad("x").value_and_grad(3.0, 4.0) == (6.0, (2.0, 0))


def test_names():
    graph = Graph(rosenbrock)
    assert graph.grad("x", "y")(1.0, 1.0) == graph.grad()(1.0, 1.0) == (0.0, 0.0)
    assert graph.grad("y", "x")(0.0, 1.0) == (200.0, -2.0)
    assert Graph(lambda x: x * x).grad()(3.0) == 6.0
    assert repr(graph.grad("x")).startswith("<Graph rosenbrock.grad('x')(x, y): ")
    with pytest.raises(ValueError, match="rosenbrock has no parameter 'z' to differentiate by"):
        graph.grad("z")
    with pytest.raises(ValueError, match="named twice"):
        graph.grad("x", "x")


def test_gradients_can_be_part_of_another_graph():
    graph = Graph(lambda x, y: x * x * y)
    dx = graph.grad("x")
    newton = Graph(lambda x, y, step: x - step * dx(x, y))
    assert newton(3.0, 2.0, 0.5) == 3.0 - 0.5 * 12.0
    x = np.arange(3.0)
    row = Graph(lambda x, y: dx(x, y) * y).value_and_grad(x, 2.0)
    assert row[0].tolist() == (4.0 * 2.0 * x).tolist()
    assert row[1].y == float(np.sum(8.0 * x))


def test_warnings_are_those_of_the_nodes(implementation):
    graph = implementation.Graph(lambda x, y: x * y)
    x, y = np.array([1e200]), np.array([1e200])
    one = outcome(graph.grad("x"), x, y)
    assert [text for _, text in one.warnings] == ["overflow encountered in multiply"]
    assert one.value.tolist() == [1e200]


def test_layer_of_ones_own_has_no_graph_of_gradients():
    class Cube(BaseLayer):
        def forward(self, x):
            self.x = x
            return x**3

        def backward(self, dout):
            return dout * 3 * self.x**2

    cube = Cube()
    graph = Graph(lambda x, y: cube(x * y) + y)
    assert gradcheck(graph, 1.5, np.array([0.5, -0.5]))
    with pytest.raises(
        TypeError, match=r"grad\('x'\): Cube, a layer .* test_graph_der.*cube\(x \* y"
    ):
        graph.grad("x")


# ------------------------------------------------------------------------------ gradcheck of graphs


def test_gradcheck_takes_any_number_of_operands(implementation):
    graph = implementation.Graph(lambda a, b, c, d: (a * b + c * d, b - d))
    a, b, c = np.array([[1.5], [0.5]]), np.array([0.25, -2.0, 3.0]), 2
    assert gradcheck(graph, a, b, c, 0.75)
    assert gradcheck(graph, a, b, d=0.75, c=2)
    with pytest.raises(TypeError, match="missing: d"):
        gradcheck(graph, a, b, c)
    with pytest.raises(TypeError, match="e is no operand of"):
        gradcheck(graph, a, b, c, 0.75, e=1)
    with pytest.raises(TypeError, match=r"^b must be a float64 array or a real number"):
        gradcheck(graph, a, np.ones(3, "f4"), c, 0.75)


def test_gradcheck_of_layers_of_one_and_of_three_operands():
    class Relu(BaseLayer):
        def forward(self, x):
            self.x = x
            return np.maximum(x, 0)

        def backward(self, dout):
            return dout * (self.x > 0)

    class Fused(BaseLayer):
        def forward(self, *operands):
            self.a, self.b, self.c = operands
            return self.a * self.b + self.c

        def backward(self, dout):
            return dout * self.b, dout * self.a, dout * self.wrong

        wrong = 1

    assert gradcheck(Relu(), np.array([1.0, -2.0]))
    assert gradcheck(Fused(), np.ones(3), 2.0, np.ones((2, 1)))
    wrong = Fused()
    wrong.wrong = 2
    with pytest.raises(RuntimeError, match=r"Fused\.backward: doperand2 is"):
        gradcheck(wrong, 1.0, 2.0, 3.0)
    wrong = Relu()
    wrong.backward = lambda dout: (dout, dout)
    with pytest.raises(ValueError, match=r"Relu\.backward must return a tuple \(dx\), got tuple"):
        gradcheck(wrong, np.ones(2))
