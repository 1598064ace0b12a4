"""Derivatives of any order against exact ones, and the graph of gradients against `backward`."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
from graphs import NodesGraph, Relu, normal
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


class Dual:
    """A number and its derivative: what arithmetic with it gives has the derivative of that."""

    def __init__(self, value, slope=0):
        self.value, self.slope = value, slope

    def __add__(self, other):
        other = other if isinstance(other, Dual) else Dual(other)
        return Dual(self.value + other.value, self.slope + other.slope)

    def __mul__(self, other):
        other = other if isinstance(other, Dual) else Dual(other)
        slope = self.slope * other.value + self.value * other.slope
        return Dual(self.value * other.value, slope)

    def __sub__(self, other):
        return self + other * -1

    def __rsub__(self, other):
        return self * -1 + other

    __radd__, __rmul__ = __add__, __mul__


def derivative(function, name):
    """Of a function of x and y; those of derivatives are of duals of duals."""

    def slope(x, y):
        return function(Dual(x, int(name == "x")), Dual(y, int(name == "y"))).slope

    return slope


ORDERS = [names for n in (1, 2, 3) for names in itertools.product("xy", repeat=n)]


@pytest.mark.parametrize("names", ORDERS, ids="".join)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_derivatives_are_exact(implementation, function, names):
    graph, exact = implementation.Graph(function), function
    for name in names:
        graph, exact = graph.grad(name), derivative(exact, name)
    expected = [exact(x, y) for x, y in POINTS]
    assert [graph(x, y) for x, y in POINTS] == expected
    # All intermediate results are fractions of which a float64 has room for all bits.
    assert [graph(float(x), float(y)) for x, y in POINTS] == expected
    arrays = [np.array([float(point[i]) for point in POINTS]) for i in range(2)]
    assert np.broadcast_to(graph(*arrays), 3).tolist() == expected


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
        assert graph.grad("y", "x").inputs == ("x", "y")
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


def test_common_subexpressions_are_computed_once():
    def function(x, y):
        return (x * y) * (x * y) + (1 * x - 1.0 * x) + (0.0 * y - -0.0 * y)

    lines = [line.split(" = ")[-1] for line in str(Graph(function).grad("x", "y")).splitlines()]
    assert lines.count("x * y") == 1
    assert len(lines) == len(set(lines))
    # But numbers that are equal are not the same.
    assert {"1 * x", "1.0 * x", "0.0 * y", "-0.0 * y"} <= set(lines)


def test_what_is_structurally_zero_is_left_out():
    text = str(Graph(lambda x, y: x * 2 + y * y * y).grad("x"))
    assert "like=x" in text
    assert not {"like=y", "like=t1", "like=t2"} & set(re.findall(r"like=\w+", text))
    third = Graph(lambda x: x * x).grad("x").grad("x").grad("x")
    assert "zeros_like(x)" in str(third)
    assert third(2.5) == third.grad("x")(2.5) == 0
    assert third(np.ones((2, 1), "f4")).tolist() == [[0.0], [0.0]]


def test_warnings_are_those_of_the_nodes(implementation):
    graph = implementation.Graph(lambda x, y: x * y)
    one = outcome(graph.grad("x"), np.array([1e200]), np.array([1e200]))
    assert [text for _, text in one.warnings] == ["overflow encountered in multiply"]
    assert one.value.tolist() == [1e200]


def test_layer_of_ones_own_has_no_graph_of_gradients():
    relu = Relu()
    graph = Graph(lambda x, y: relu(x * y) + y)
    text = r"grad\('x'\): Relu, a layer .* test_graph_der.*relu\(x \* y"
    with pytest.raises(TypeError, match=text):
        graph.grad("x")


def test_graphs_of_gradients_run_in_passes_or_not():
    # Some of their operations have no place in a pass.
    graph, nodes = (kind(lambda x, y: x * y * x).grad("x") for kind in (Graph, NodesGraph))
    graph, nodes = graph.grad("y"), nodes.grad("y")
    x, y = normal((4, 6)), normal((4, 6), seed=1)
    for operands in ((x, y), (x, y[0]), (x, 2.0), (2.0, y), (2.0, 3.0)):
        assert described(graph(*operands)) == described(nodes(*operands))


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
    class Fused(BaseLayer):
        factor = 1

        def forward(self, *operands):
            self.a, self.b, self.c = operands
            return self.a * self.b + self.c

        def backward(self, dout):
            return dout * self.b, dout * self.a, dout * self.factor

    relu, wrong = Relu(), Fused()
    assert gradcheck(relu, np.array([1.0, -2.0]))
    assert gradcheck(Fused(), np.ones(3), 2.0, np.ones((2, 1)))
    wrong.factor = 2
    with pytest.raises(RuntimeError, match=r"Fused\.backward: doperand2 is"):
        gradcheck(wrong, 1.0, 2.0, 3.0)
    relu.backward = lambda dout: (dout, dout)
    with pytest.raises(ValueError, match=r"Relu\.backward must return a tuple \(dx\), got tuple"):
        gradcheck(relu, np.ones(2))
