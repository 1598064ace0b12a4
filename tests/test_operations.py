"""The table of operations: what follows from its rows."""

from __future__ import annotations

import numpy as np
import pytest
from outcome import described, outcome
from random_graphs import Literal

from fastlayers.graph.operations import OPERATIONS, PLAIN, READ, read_by

# As a function of symbols, and as one of arrays.
RECORDED = {name: row for name, row in OPERATIONS.items() if row.ufunc}
OPERANDS = {
    "float64": lambda rng: rng.standard_normal((3, 40)),
    "float16, which no pass serves": lambda rng: rng.standard_normal((3, 40)).astype("f2"),
    "int32": lambda rng: rng.integers(-9, 10, (3, 40)).astype("i4"),
    "small": lambda rng: rng.standard_normal((1, 40)),
}


@pytest.mark.parametrize("operands", OPERANDS.values(), ids=OPERANDS)
@pytest.mark.parametrize("name", RECORDED)
def test_a_row_is_what_numpy_computes(name, operands, implementation):
    row = OPERATIONS[name]
    count = len(row.gradients)
    rng = np.random.default_rng(0)
    given = [operands(rng) for _ in range(count)]
    graph = implementation.Graph(function_of(row.ufunc, count))
    assert described(graph(*given)) == described(row.ufunc(*given))


def function_of(ufunc, count):
    return eval(
        f"lambda {', '.join('xyz'[:count])}: ufunc({', '.join('xyz'[:count])})", {"ufunc": ufunc}
    )


@pytest.mark.parametrize("name", RECORDED)
def test_rules_are_exact_on_small_integers(name, implementation):
    # Central differences of polynomials of degree two have no error but for rounding.
    row = OPERATIONS[name]
    count = len(row.gradients)
    given = [np.arange(-4.0, 5.0) + i for i in range(count)]
    gradients = implementation.Graph(function_of(row.ufunc, count)).value_and_grad(*given)[1]
    for i, gradient in enumerate(gradients):
        moved = [[one + (step if j == i else 0) for j, one in enumerate(given)] for step in (1, -1)]
        expected = (row.ufunc(*moved[0]) - row.ufunc(*moved[1])) / 2
        assert np.array_equal(gradient, expected)


def test_what_a_rule_reads_is_kept_where_nodes_run_one_by_one(implementation):
    # Of a value that no rule reads only the shape is kept: of t the gradient of `square` reads all.
    def function(x, y):
        t = x * y
        return np.square(t) + y

    x, y = np.array([1.0, 2.0], "f2"), np.array([3.0, -0.5], "f2")
    graph = implementation.Graph(function)
    graph.forward(x, y)
    for gradients in (graph.backward(1), graph.value_and_grad(x, y)[1]):
        assert np.array_equal(gradients.x, 2 * x * y * y)
        assert np.array_equal(gradients.y, 2 * x * y * x + 1)


def test_what_rules_read_is_found_by_running_them():
    assert READ["add"] == frozenset()
    assert READ["multiply"] == {0, 1}
    assert READ["square"] == {0}
    own_value = (lambda run, g, v, x: run["multiply"](g, v),)
    assert read_by(own_value) == {1}
    only_the_shape = (lambda run, g, v, x: run["sum_to"](g, x),)
    assert read_by(only_the_shape) == frozenset()


@pytest.mark.parametrize("number", ["2", "-3", "0.5", "True", "2**70"])
@pytest.mark.parametrize("name", [name for name, row in OPERATIONS.items() if row.python])
def test_python_computes_numbers_as_the_row_says(name, number):
    row = OPERATIONS[name]
    operands = [Literal(number).build()] * len(row.gradients)
    expected = outcome(PLAIN[name], *operands)
    written = row.python.format(*(f"({one!r})" for one in operands))
    assert outcome(lambda: eval(written)) == expected


def test_what_has_no_row_in_python_runs_on_numbers(implementation):
    graph = implementation.Graph(lambda x: np.square(x) * 2)
    assert graph(3) == 18
    assert graph.value_and_grad(3) == (18, (12,))
