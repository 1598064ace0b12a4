"""The table of operations: what follows from its rows."""

from __future__ import annotations

import numpy as np
import pytest
from outcome import outcome
from random_graphs import Literal

from fastlayers.graph.nodes import Node
from fastlayers.graph.operations import OPERATIONS, PLAIN, of
from fastlayers.graph.rules import recorded, rules_of


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


def reads(operation):
    """The operands of which rules read more than the shape; after them the value."""
    count = len(OPERATIONS[operation].gradients)
    return {i for rule in rules_of(Node(operation, (0,) * count)) if rule for i in rule.reads}


def test_what_rules_read_is_found_by_recording_them():
    assert reads("add") == set()
    assert reads("multiply") == {0, 1}
    assert reads("square") == {0}
    assert reads("exp") == {1}
    only_the_shape = recorded("multiply", lambda g, v, x, y: of.sum_to(g, x), 2, 0, {})
    assert only_the_shape.reads == set()
    assert not only_the_shape.summed


@pytest.mark.parametrize("number", ["2", "-3", "0.5", "True", "2**70"])
@pytest.mark.parametrize("name", [name for name, row in OPERATIONS.items() if row.python])
def test_python_computes_numbers_as_the_row_says(name, number):
    row = OPERATIONS[name]
    if "power" in name and number == "2**70":
        number = "-(2**70) * 0.5"  # an integer to this power has more digits than there are
    operands = [Literal(number).build()] * len(row.gradients)
    expected = outcome(PLAIN[name], *operands)
    written = row.python.format(*(f"({one!r})" for one in operands))
    assert outcome(lambda: eval(written)) == expected


def test_what_has_no_row_in_python_runs_on_numbers(implementation):
    graph = implementation.Graph(lambda x: np.square(x) * 2)
    assert graph(3) == 18
    assert graph.value_and_grad(3) == (18, (12,))
