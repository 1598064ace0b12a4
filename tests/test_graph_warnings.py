"""What graphs warn of, when, and which line that points at: the user's, not one for all graphs."""

from __future__ import annotations

import _thread
import inspect
import runpy
import time
import traceback
import warnings

import numpy as np
import pytest
from paths import PATHS, taken
from plain_graph import assert_same

import fastlayers
from fastlayers import BaseLayer, Graph

LARGE = np.full(3, 1e200)
HALF = np.full(3, 2.0, "f4")  # beside float64, no pass serves it
ALL_PATHS = [*PATHS, None]


# -------------------------------------------------------------------------------- what is warned of


@pytest.mark.parametrize("mode", ["ignore", "warn", "raise", "call", "log"])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 257, 1_025, 70_001])
@pytest.mark.parametrize("where", [0, -1])
def test_flag_at_the_first_or_last_element(where, n, mode):
    x, y = np.ones(n), np.ones(n)
    x[where] = 1e300
    one = assert_same(lambda x, y: (x * y) * x - y, x, y, errstate={"all": mode})
    noticed = [mode == "warn", mode == "raise", mode in ("call", "log")]
    heard = [bool(one.warnings), bool(one.exception), bool(one.handled)]
    assert heard == noticed


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
def test_flag_of_the_last_thread(path):
    x = np.ones(4_099)
    x[-1] = 1e300
    with taken(path):
        one = assert_same(lambda x, y: x * y * y + x * x, x, np.ones(4_099))
    assert [text for _, text in one.warnings] == ["overflow encountered in multiply"]


def test_each_node_warns_in_its_turn():
    x, infinite = np.full(5, 1e300), np.full(5, np.inf)
    one = assert_same(
        lambda x, y: ((x * x) - y) + (x + x), x, infinite, dout=np.full(5, 1e308), wrt=("x",)
    )
    assert [text for _, text in one.warnings] == [
        "overflow encountered in multiply",  # x * x
        "invalid value encountered in subtract",
        "overflow encountered in add",  # of the two gradients of x + x
        *["overflow encountered in multiply"] * 2,  # dout * x, twice
    ]


TOP, ROW = np.full((2, 40), 1e308), np.array([1e200, 1, 2])
SEVERAL = {
    "a sum of rows": (lambda x, y: x * y, (np.ones(40), TOP), 1),
    "of columns": (lambda x, y: x * y, (np.ones((2, 1)), TOP), 1),
    "of all": (lambda x, y: x * y, (np.ones(1), TOP), 1),
    "small parts": (lambda x, y: x * (y * y), (np.ones((4, 3)), ROW), 1),
    # The value is finite or unread, but a node overflows.
    "what is multiplied by zero": (lambda x: (x * x) * 0.0 + x, (ROW,), 1),
    # A dout too large for float32 becomes infinite, with a warning for each output.
    "a dout": (lambda x, y: (x - y, y), (np.ones((3, 1), "f4"), np.ones(4, "f4")), 1e300),
    "a dout of nothing": (
        lambda x, y: (x - y, y),
        (np.ones((17, 1, 6, 0), "f4"), np.ones((33, 6, 0), "f4")),
        1e300,
    ),
}


@pytest.mark.parametrize("mode", ["ignore", "warn", "raise", "call"])
@pytest.mark.parametrize("name", SEVERAL)
def test_what_is_tried_in_vain_warns_once(name, mode):
    function, operands, dout = SEVERAL[name]
    assert_same(function, *operands, dout=dout, errstate={"all": mode})


def test_a_node_that_nothing_reads_warns():
    def unread(x):
        x * x
        return x + x

    with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="in multiply"):
        Graph(unread)(LARGE)


def test_backward_recomputes_silently():
    graph = Graph(lambda x, y: (x * x) * y)
    x, y = np.full(5, 1e200), np.full(5, 1e-300)
    with np.errstate(over="ignore"):
        graph.forward(x, y)
    with np.errstate(all="raise", under="ignore"):
        # x * x is infinite, and 0 * inf is not a number: that is the gradient's own.
        with pytest.raises(FloatingPointError, match="invalid value encountered in multiply"):
            graph.backward(0.0)
        assert graph.backward(1.0).y.tolist() == [np.inf] * 5


def test_no_flag_from_gradients_that_nobody_asked_for():
    x, y, dout = np.full(70, 1e300), np.full(70, 1e-300), np.full(70, 1e300)
    with np.errstate(all="raise"):
        _, gradients = Graph(lambda x, y: x * y).value_and_grad(x, y, dout=dout, wrt=("x",))
        assert gradients.x.tolist() == (dout * y).tolist()
        _, gradients = Graph(lambda x: x * 1e-300).value_and_grad(x, dout=dout)
        assert gradients.x.tolist() == (dout * 1e-300).tolist()
        with pytest.raises(FloatingPointError):
            Graph(lambda x, y: x * y).value_and_grad(x, y, dout=dout)
        # A number that no float32 can hold is not looked at, if no output depends on b.
        with pytest.warns(UserWarning, match="no output depends on b"):
            idle = Graph(lambda a, b: a * 2)
        for a in (np.ones((0, 2), "f4"), np.ones(3, "f4"), np.ones(3, "f2")):
            assert idle.value_and_grad(a, x, dout=1e300, wrt=("b",))[1].b.tolist() == [0] * 70


# -------------------------------------------------------------------------- where warnings point at


class Twice(BaseLayer):
    def forward(self, x):
        return x * 2

    def backward(self, dout):
        return dout * 2


def lines_of(function, *operands):
    """What Python shows of a function that is called twice: the file, the line of it, the text."""
    first = inspect.getsourcelines(function)[1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            function(*operands)
    assert {one.filename for one in caught} == {__file__}
    return [(one.lineno - first, str(one.message)) for one in caught]


def test_each_call_that_overflows_is_shown_once(implementation):
    graph, other = (implementation.Graph(f) for f in (lambda x, y: x * y, lambda x, y: 1 + x * y))
    pair = implementation.Graph(lambda x, y: (x - y, x + y))
    mixed = implementation.Graph(lambda x, y: x * y * x - x)
    square, same = implementation.Graph(lambda x: x * x), implementation.Graph(lambda x: x * 1.0)
    twice, infinite = Twice(), np.full(3, np.inf)
    layered = implementation.Graph(lambda x, y: twice(x * y) * y)
    in_place = np.ones(5_000)
    single, nowhere = np.empty(3, "f4"), (None, None)

    def calls():
        in_place[777] = 1e200
        graph(LARGE, LARGE)
        other(
            LARGE,
            LARGE,
        )
        graph.forward(LARGE, 1.0)
        graph.forward(LARGE, y=LARGE)
        graph.forward(LARGE, 1.0)
        graph.backward(LARGE)
        graph.backward(LARGE, out=nowhere)
        graph(LARGE, LARGE, out=np.empty(3))
        graph.value_and_grad(LARGE, 1.0, dout=LARGE)
        graph.value_and_grad(y=1.0, x=LARGE, dout=LARGE, wrt="y")
        graph.value_and_grad(LARGE, 1.0, dout=LARGE, out=(None, (np.empty(3), None)))
        mixed(LARGE, HALF)
        mixed.value_and_grad(HALF, HALF, dout=LARGE * 1e108)
        pair(infinite, infinite)
        pair(infinite, -infinite)
        square(in_place, out=in_place)
        layered(LARGE, LARGE)
        layered.value_and_grad(LARGE, 1e100, dout=1e10)
        same(LARGE, out=single)
        same.value_and_grad(LARGE, dout=LARGE, out=(None, (single,)))
        square.draw(LARGE)

    multiply = {2, 3, 8, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 22, 25}
    expected = dict.fromkeys(multiply, "multiply") | {18: "subtract", 19: "add"}
    expected |= {23: "cast", 24: "cast"}
    found = dict(lines_of(calls))
    assert {line: text.split()[-1] for line, text in found.items()} == expected
    assert len(lines_of(calls)) == len(expected)


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


def test_warnings_of_a_value_returned_twice_point_at_the_call(implementation):
    def twice(x, y):
        product = x * y
        return product, product

    graph = implementation.Graph(twice)
    small, large = np.ones(3, "f4"), np.full(3, 3e38, "f4")

    def calls():
        graph.value_and_grad(small, 1.0, dout=(large, large))
        graph.value_and_grad(small, small.astype("f2"), dout=(large, large))

    assert lines_of(calls) == [(line, "overflow encountered in add") for line in (1, 2)]


def in_place(x):
    y = x * 1.0
    y *= x
    return y


def set_part(x, z):
    y = x.copy()
    y[0] = z
    return y


NAN, FULL = np.full(3, np.nan), np.full((3, 3), 1e200)
# Whose value is computed by functions with frames of their own, or without; and with a dout of
# 1e300 those whose gradient is.
VALUES = {
    "overflow encountered in dot": (lambda x: np.dot(x, x), FULL),
    "overflow encountered in multiply": (in_place, LARGE),
    "overflow encountered in cast": (set_part, HALF, 1e300),
    "All-NaN slice encountered": (lambda x: np.nanmax(x), NAN),
    "Mean of empty slice": (lambda x: np.nanmean(x), NAN),
}
GRADIENTS = {
    "overflow encountered in matmul": (lambda x, y: x @ y, np.ones((3, 3)), FULL),
    "overflow encountered in multiply": (lambda x, y: np.dot(x, y), np.ones(3), LARGE),
    "divide by zero encountered in power": (lambda x, y: x**y, np.zeros(3), HALF.astype("f8") / 4),
    "overflow encountered in add": (lambda x: x[[0] * 9] * 1e8, np.ones(3)),
    "overflow encountered in reduce": (lambda x: np.tile(x, 9) * 1e8, np.ones(3)),
}


@pytest.mark.parametrize("text", VALUES)
def test_functions_warn_at_the_call_as_operators_do(text, implementation):
    function, *operands = VALUES[text]
    graph = implementation.Graph(function)
    with warnings.catch_warnings(record=True, action="always") as caught:
        function(*operands)
    if not caught:
        pytest.skip("np.dot does not warn before NumPy 2.3")

    def calls():
        graph(*operands)
        graph.value_and_grad(*operands, wrt="x")
        graph.forward(*operands)

    assert lines_of(calls) == [(line, text) for line in (1, 2, 3)]


@pytest.mark.parametrize("text", GRADIENTS)
def test_gradients_of_functions_warn_at_the_call(text, implementation):
    function, *operands = GRADIENTS[text]
    graph = implementation.Graph(function)

    def calls():
        graph.value_and_grad(*operands, dout=1e300, wrt="x")
        graph.forward(*operands)
        graph.backward(1e300)

    assert lines_of(calls)[0] == (1, text)
    assert (3, text) in lines_of(calls)
    assert all(line in (1, 3) for line, _ in lines_of(calls))


@pytest.mark.skipif(fastlayers.IMPLEMENTATION != "native", reason="all nodes run again there")
@pytest.mark.parametrize("mean", [np.mean, np.var, np.nanmean, np.average])
def test_nothing_that_was_told_of_is_told_again(mean):
    """The warnings of NumPy's functions in Python, which no `errstate` silences."""
    x, graph = np.ones((0, 2)), Graph(lambda x: mean(x * 2, axis=0) * 3)
    text = "Degrees of freedom" if mean is np.var else "Mean of empty slice"
    with warnings.catch_warnings(record=True) as caught, np.errstate(all="ignore"):
        warnings.simplefilter("always")
        graph.value_and_grad(x)
        assert sum(text in str(one.message) for one in caught) == 1
        graph.forward(x)
        assert sum(text in str(one.message) for one in caught) == 2
        graph.backward(1)
    assert sum(text in str(one.message) for one in caught) == 2


def test_warnings_of_rules_that_are_told_elsewhere_stay_there():
    """Or are errors, or not told at all."""
    graph = Graph(lambda x, y: x @ y)
    operands = np.ones((3, 3)), FULL
    told = []
    with np.errstate(over="call", call=lambda *what: told.append(what)):
        graph.value_and_grad(*operands, dout=1e300)
    assert [kind for kind, _ in told] == ["overflow"]
    with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="matmul"):
        graph.value_and_grad(*operands, dout=1e300)
    with np.errstate(over="ignore"), warnings.catch_warnings(action="error"):
        graph.value_and_grad(*operands, dout=1e300)
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(RuntimeWarning, match=r"^overflow encountered in matmul") as caught,
    ):
        graph.value_and_grad(*operands, dout=1e300)
    assert "x @ y" in caught.value.__notes__[0]
