"""Which line a graph's warnings point at: the user's, so that no graph hides those of another."""

from __future__ import annotations

import _thread
import inspect
import runpy
import time
import traceback
import warnings

import numpy as np
import pytest

import fastlayers
from fastlayers import BaseLayer

LARGE = np.full(3, 1e200)
HALF = np.full(3, 2.0, "f4")  # beside float64, no pass serves it


class Twice(BaseLayer):
    def forward(self, x):
        return x * 2

    def backward(self, dout):
        return dout * 2


def shown(function, *operands):
    """What Python would show of a function that is called twice, by file and by line of it."""
    first = inspect.getsourcelines(function)[1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            function(*operands)
    return [(one.filename, one.lineno - first, str(one.message)) for one in caught]


def at(*lines, what="overflow encountered in multiply"):
    return [(__file__, line, what) for line in lines]


def test_two_graphs_that_overflow_give_two_warnings(implementation):
    first, second = implementation.Graph(lambda x: x * x), implementation.Graph(lambda x: 1 + x * x)

    def calls():
        first(LARGE)
        second(
            LARGE,
        )
        first.forward(LARGE)
        second(x=LARGE)
        first(LARGE, out=np.empty(3))

    assert shown(calls) == at(1, 2, 5, 6, 7)


def test_warnings_of_gradients_point_at_the_call(implementation):
    graph = implementation.Graph(lambda x, y: x * y)

    def calls():
        graph.value_and_grad(LARGE, 1.0, dout=LARGE)
        graph.value_and_grad(y=1.0, x=LARGE, dout=LARGE, wrt="y")
        graph.forward(LARGE, 1.0)
        graph.backward(LARGE)
        graph.value_and_grad(LARGE, 1.0, dout=LARGE, out=(None, (np.empty(3), None)))
        graph.backward(LARGE, out=(None, None))
        graph.value_and_grad(LARGE, LARGE)

    assert shown(calls) == at(1, 2, 4, 5, 6, 7)


def test_warnings_of_several_dtypes_point_at_the_call(implementation):
    graph = implementation.Graph(lambda x, y: x * y * x - x)

    def calls():
        graph(LARGE, HALF)
        graph.value_and_grad(HALF, HALF, dout=LARGE * 1e108)

    assert shown(calls) == at(1, 2)


def test_other_operations_than_products(implementation):
    infinite = np.full(3, np.inf)
    graph = implementation.Graph(lambda x, y: (x - y, x + y))

    def calls():
        graph(infinite, infinite)
        graph(infinite, -infinite)

    found = "invalid value encountered in "
    assert shown(calls) == at(1, what=f"{found}subtract") + at(2, what=f"{found}add")


def test_warnings_of_work_in_place_point_at_the_call(implementation):
    graph = implementation.Graph(lambda x: x * x)

    def calls():
        x = np.ones(5_000)
        x[777] = 1e200
        graph(x, out=x)

    assert shown(calls) == at(3)


def test_warnings_of_a_value_returned_twice_point_at_the_call(implementation):
    def twice(x, y):
        product = x * y
        return product, product

    graph = implementation.Graph(twice)
    small, large = np.ones(3, "f4"), np.full(3, 3e38, "f4")

    def calls():
        graph.value_and_grad(small, 1.0, dout=(large, large))
        graph.value_and_grad(small, small.astype("f2"), dout=(large, large))

    assert shown(calls) == at(1, 2, what="overflow encountered in add")


def test_warnings_between_layers_point_at_the_call(implementation):
    twice = Twice()
    graph = implementation.Graph(lambda x, y: twice(x * y) * y)

    def calls():
        graph(LARGE, LARGE)
        graph.value_and_grad(LARGE, 1e100, dout=1e10)

    assert shown(calls) == at(1, 2)


def test_warnings_of_what_is_cast_into_an_output_point_at_the_call(implementation):
    graph = implementation.Graph(lambda x: x * 1.0)

    def calls():
        graph(LARGE, out=np.empty(3, "f4"))
        graph.value_and_grad(LARGE, dout=LARGE, out=(None, (np.empty(3, "f4"),)))

    assert shown(calls) == at(1, 2, what="overflow encountered in cast")


def test_warnings_of_a_picture_point_at_the_call(implementation):
    graph = implementation.Graph(lambda x: x * x)

    def calls():
        graph.draw(LARGE)

    assert shown(calls) == at(1)


def test_graph_in_a_layer_points_at_the_layer():
    inner = fastlayers.Graph(lambda x: x * x)

    class Squaring(Twice):
        def forward(self, x):
            return inner(x)

    layer = Squaring()
    outer = fastlayers.Graph(lambda x: layer(x))
    with pytest.warns(RuntimeWarning, match="overflow") as caught:
        outer(LARGE)
    assert caught[0].lineno == inspect.getsourcelines(Squaring.forward)[1] + 1


def test_modules_note_what_they_have_shown(tmp_path):
    # Each by itself, as Python does for its own lines; and a filter may name the module.
    program = tmp_path / "program.py"
    program.write_text("def call(graph, x):\n    graph(x)\n")
    graph = fastlayers.Graph(lambda x: x * x)
    modules = [runpy.run_path(str(program), run_name=name) for name in ("one", "other")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", module="other")
        for module in modules:
            for _ in range(2):
                module["call"](graph, LARGE)
    assert [(one.filename, one.lineno) for one in caught] == [(str(program), 2)]


def test_an_error_of_a_node_shows_the_call_and_underlines_nothing_else():
    graph = fastlayers.Graph(lambda x, y: x * y)
    with pytest.raises(ValueError, match="broadcast") as error:
        graph(np.ones(3), np.ones(4))
    lines = traceback.extract_tb(error.value.__traceback__)
    first, last = [one for one in lines if one.filename == __file__]
    assert first.line == last.line == "graph(np.ones(3), np.ones(4))"
    assert last.colno is None


def test_call_that_no_line_of_pythons_makes():
    graph, out = fastlayers.Graph(lambda x, y: x * y), np.zeros(3)
    _thread.start_new_thread(graph.value_and_grad, (HALF, np.ones(3)), {"out": (out, None)})
    until = time.monotonic() + 30
    while not out.all() and time.monotonic() < until:
        time.sleep(0.001)
    assert out.tolist() == [2.0] * 3
