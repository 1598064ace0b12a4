"""Results in arrays that are given: in place, over operands, and which of them are refused."""

from __future__ import annotations

import contextvars
import itertools
import re
import warnings

import numpy as np
import pytest
from graphs import GRAPHS, NodesGraph, copies, fans, horner, in_passes, inputs, momentum, normal
from implementations import REFERENCE
from operands import FLOATS, KERNEL_DTYPES, LAYOUTS
from outcome import described, outcome
from paths import PATHS, taken
from plain_graph import PlainGraph

import fastlayers
from fastlayers import Graph

ALL_PATHS = [*PATHS, None]


def plain(function, *operands):
    """What is expected of a graph, as a tuple."""
    values = PlainGraph(function, fastlayers)(*operands)
    return values if isinstance(values, tuple) else (values,)


# ----------------------------------------------------------------------------------- over operands

# Which operand each output of a graph is written over.
IN_PLACE = {
    "horner": [(0,), (1,), (2,), (3,)],
    "momentum": [(0, 1), (1, 0), (None, 1), (None, None)],
    "averages": [(0, 1), (1, 0), (None, 1)],
    "fans": [(0, 1), (1, 0), (None, 1)],
}


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name, dtype, path):
    function = GRAPHS[name]
    for size, places in itertools.product([1, 31, 256, 257, 5_003], IN_PLACE[name]):
        operands = inputs(function, size, dtype)
        if name == "momentum":
            operands[3:] = 0.5, -0.25
        given = [one.copy() if isinstance(one, np.ndarray) else one for one in operands]
        out = tuple(None if place is None else given[place] for place in places)
        with taken(path), in_passes():
            values = Graph(function)(*given, out=out if len(out) > 1 else out[0])
        values = values if len(out) > 1 else (values,)
        assert described(values) == described(plain(function, *operands)), (places, size)
        assert all(one is None or one is value for one, value in zip(out, values, strict=True))
        for i, one in enumerate(given):
            assert i in places or described(one) == described(operands[i]), (places, size)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("shift", range(4))
def test_gradients_over_the_operands(shift, dtype):
    operands = inputs(horner, 300, dtype)
    nodes = PlainGraph(horner, fastlayers)
    expected = described(tuple(nodes.value_and_grad(*operands, dout=operands[3])[1]))
    for backward in (True, False):
        fresh, graph = copies(operands), Graph(horner)
        out = tuple(fresh[(i + shift) % 4] for i in range(4))
        with in_passes():
            graph.forward(*fresh)
            if backward:
                gradients = graph.backward(fresh[3], out=out)
            else:
                gradients = graph.value_and_grad(*fresh, dout=fresh[3], out=(None, out))[1]
        assert described(tuple(gradients)) == expected
        assert all(one is other for one, other in zip(gradients, out, strict=True))


@pytest.mark.parametrize("rate", [np.float32(0.1), np.array(0.1, "f4")])
def test_numpys_scalars_in_place(rate):
    w, g = normal((2, 50_000), "f4")
    expected = w - rate * g
    with in_passes():
        assert Graph(lambda w, g, rate: w - rate * g)(w, g, rate, out=w) is w
    assert w.tobytes() == expected.tobytes()


# Of horner's operands and the output, how the latter lies.
def shifted(offset):
    memory = normal(2_000)
    return [memory[300:1_300], *inputs(horner, 1_000)[1:]], memory[300 + offset : 1_300 + offset]


def transposed(size):
    operands = inputs(horner, (size, size))
    return operands, operands[0].T


def in_layout(layout):
    return inputs(horner, (30, 40)), LAYOUTS[layout](np.zeros((30, 40)))


def over_a_row(n):
    # The row is read again after the pass over what is written.
    buffer = normal((4, n))
    return [normal((4, n), seed=1), buffer[0], *inputs(horner, (4, n))[2:]], buffer


LIES = {
    **{f"{n} elements on": (shifted, n) for n in (-8, -3, -1, 1, 2, 8, 64, 300)},
    **{f"transposed, {n} rows": (transposed, n) for n in (3, 40, 150)},
    **{layout: (in_layout, layout) for layout in ("F", "stepped", "reversed", "gate", "offset")},
    **{layout: (in_layout, layout) for layout in ("unaligned", "mapped", "rotated")},
    **{f"over a row of {n}": (over_a_row, n) for n in (3, 5_000)},
}


@pytest.mark.parametrize("name", LIES)
def test_how_out_lies(name):
    make, argument = LIES[name]
    operands, out = make(argument)
    (expected,) = plain(horner, *operands)
    assert Graph(horner)(*operands, out=out) is out
    assert np.array(out).tobytes() == np.array(expected).tobytes()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("shift", [-8, -1, 1, 8])
def test_outputs_that_overlap_operands_in_part(which, shift):
    memory, given = np.zeros(1_100), inputs(fans, 1_000)
    expected = described(plain(fans, *given))
    x, out = memory[50:1_050], memory[50 + shift : 1_050 + shift]
    x[:], given[which] = given[which], x
    with in_passes():
        values = Graph(fans)(*given, out=(out, None))
    assert values[0] is out
    assert described((out.copy(), values[1])) == expected


def test_two_outputs_that_overlap():
    # Each is written whole, in their order: the second one is right, the first one where it is not
    # overwritten.
    operands = [*inputs(momentum, 1_000)[:3], 0.9, 0.1]
    w, v = plain(momentum, *operands)
    for offset in (0, 1, 100):
        memory = np.zeros(1_000 + offset)
        Graph(momentum)(*operands, out=(memory[:1_000], memory[offset:]))
        assert memory[offset:].tolist() == v.tolist()
        assert memory[:offset].tolist() == w[:offset].tolist()


@pytest.mark.parametrize("n", [3, 5_000])
def test_out_meets_an_operand_that_is_needed_later(n):
    buffer, x = np.arange(4.0 * n).reshape(4, n), np.full((4, n), 2.0)
    expected = buffer[0].copy()
    value, row = Graph(lambda x, row: (x * x, row))(x, buffer[0], out=(buffer, None))
    assert value is buffer
    assert (buffer == 4).all()
    assert np.array_equal(row, expected)

    row = buffer[0].copy()
    value, gradients = Graph(lambda x, row: x * (row * row)).value_and_grad(
        x, buffer[0], out=(buffer, (None, None))
    )
    assert value is buffer
    assert np.array_equal(buffer, x * (row * row))
    assert np.array_equal(gradients.row, 16 * row)

    buffer, x = np.full((4, n), 1e150), np.full((4, n), 1e150)  # by NumPy, which has to warn
    with pytest.warns(RuntimeWarning, match="overflow encountered in multiply"):
        Graph(lambda x, row: x * (row * row))(x, buffer[0], out=buffer)
    assert (buffer == np.inf).all()


# ------------------------------------------------------------------------------------ some results


@pytest.mark.parametrize("places", list(itertools.product([True, False], repeat=4)), ids=str)
@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x, r, s: x * r + s, (20, 30)),
        (lambda x, r, s: r * x + (1 - r) * s, (20, 30)),
        (lambda x, r, s: (x * r + s) * s, (30,)),
    ],
)
def test_any_of_value_and_gradients(function, shape, places):
    operands = normal(shape), normal(30, seed=1), normal(30, seed=2)
    expected = NodesGraph(function).value_and_grad(*operands)
    results = [expected[0], *expected[1]]
    outs = [np.empty_like(o) if i else None for i, o in zip(places, results, strict=True)]
    value, gradients = Graph(function).value_and_grad(*operands, out=(outs[0], tuple(outs[1:])))
    assert described((value, gradients)) == described(expected)
    for out, one in zip(outs, (value, *gradients), strict=True):
        assert out is None or out is one


def test_gradients_over_operands_beside_several_values():
    operands = x, y = inputs(fans, 1_000, "f4")
    expected = described(Graph(fans).value_and_grad(x.copy(), y.copy(), dout=0.5))
    z, t = np.empty_like(x), np.empty_like(x)
    with in_passes():
        value, gradients = Graph(fans).value_and_grad(*operands, dout=0.5, out=((z, t), (y, x)))
    assert described((value, gradients)) == expected
    assert value[0] is z
    assert gradients[0] is y


def test_out_of_backward_of_several_shapes():
    operands = [normal((7, 45)), normal(45, seed=1), normal((7, 1), seed=2), 2.5]
    nodes = PlainGraph(horner, fastlayers)
    expected = nodes.value_and_grad(*operands, dout=operands[0])[1]
    graph, out = Graph(horner), (np.zeros((7, 45)), np.zeros(45), np.zeros((7, 1)), None)
    graph.forward(*operands)
    results = graph.backward(operands[0], out=out)
    assert [one is other for one, other in zip(results, out, strict=True)] == [True] * 3 + [False]
    assert described(tuple(results)) == described(tuple(expected))


def test_out_of_another_dtype():
    operands = inputs(horner, 40, "f4")
    out, integers = np.zeros(40), np.full(40, -7)
    assert Graph(horner)(*operands, out=out) is out
    np.testing.assert_allclose(out, plain(horner, *operands)[0], rtol=1e-5)
    with pytest.raises(TypeError, match="same_kind"):
        Graph(horner)(*operands, out=integers)
    assert integers.tolist() == [-7] * 40


def test_out_may_have_more_axes_as_numpys(implementation):
    x, y = normal(3), normal(3, seed=1)
    out = implementation.Graph(lambda x, y: x * y)(x, y, out=np.zeros((2, 3)))
    assert described(out) == described(np.multiply(x, y, out=np.zeros((2, 3))))


@pytest.mark.parametrize("x", [3.0, np.arange(3.0)])
def test_three_dots_ask_for_arrays(x):
    # As NumPy's functions take them, from the version on that does.
    graph, of_numpy = Graph(lambda x, y: x * y), outcome(np.multiply, x, 2.0, out=...)
    graph.forward(x, 2.0)
    for call, pick in (
        (lambda: graph(x, 2.0, out=...), lambda value: value),
        (lambda: graph.forward(x, 2.0, out=...), lambda value: value),
        (lambda: graph.backward(x, out=(..., None)), lambda gradients: gradients.x),
        (lambda: graph.value_and_grad(x, 2.0, out=(..., None)), lambda both: both[0]),
        (lambda: graph.value_and_grad(x, 2.0, dout=x, out=(None, (..., None))), lambda b: b[1].x),
    ):
        seen = outcome(call)
        assert (seen.exception, seen.warnings) == (of_numpy.exception, ())
        if seen.exception is None:
            assert described(pick(seen.value)) == of_numpy.result


# ----------------------------------------------------------------------------------------- refused

READ_ONLY = LAYOUTS["readonly"](np.zeros(40))
REFUSED = {
    "an array of other length": (np.zeros(3), ValueError, r"'out' of shape \(3,\) does not fit a"),
    "more axes that do not fit": (np.zeros((40, 1)), ValueError, r"'out' of shape \(40, 1\)"),
    "an array without axes": (np.zeros(()), ValueError, r"'out' of shape \(\) does not fit a resu"),
    "integers": (np.zeros(40, int), TypeError, "same_kind"),
    "what is read-only": (READ_ONLY, ValueError, "read-only"),
    "a list": ([0.0], TypeError, "return arrays must be of ArrayType"),
    "a number": (2.5, TypeError, "return arrays must be of ArrayType"),
    "text": ("out", TypeError, "return arrays must be of ArrayType"),
    "two arrays": ((np.zeros(40), np.zeros(40)), ValueError, "'out' (tuple must|must be a tuple)"),
    "an empty tuple": ((), ValueError, "'out' (tuple must|must be a tuple)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_out_that_cannot_be_written(implementation, name):
    out, error, text = REFUSED[name]
    graph, operands = implementation.Graph(horner), inputs(horner, 40)
    before, good = described(out), np.zeros(40)
    graph.forward(*operands)
    for call in (
        lambda: graph(*operands, out=out),
        lambda: graph.forward(*operands, out=out),
        lambda: graph.value_and_grad(*operands, out=(out, None)),
        lambda: graph.value_and_grad(*operands, out=(good, (None, out, None, None))),
        lambda: graph.backward(1, out=(good, out, None, None)),
    ):
        with pytest.raises(error, match=text):
            call()
    assert described(out) == before
    assert not good.any()
    assert graph(*operands, out=good) is good
    assert described(good) == described(*plain(horner, *operands))


@pytest.mark.parametrize("out", [np.zeros(3), [None, None], (None,), (None, None, None), 5])
def test_wrong_out_of_value_and_grad(out):
    with pytest.raises(TypeError, match="'out' must be a tuple of two"):
        Graph(lambda x, y: x * y).value_and_grad(normal(3), 2.0, out=out)


def test_nothing_is_written_before_all_of_out_is_known_to_be_good():
    good, bad = np.full(40, -1.0), np.full(41, -1.0)
    for out in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="does not fit"):
            Graph(momentum)(*inputs(momentum, 40), out=out)
    with pytest.raises(TypeError, match="'out' must be a tuple of 2 arrays, for the values, not l"):
        Graph(momentum)(*inputs(momentum, 40), out=[good, None])
    assert good.tolist() == [-1.0] * 40
    assert bad.tolist() == [-1.0] * 41


# ----------------------------------------------------------------------- warnings of work in place


def momentum_of(*where):
    """Both outputs overflow at some elements, and there the first one is no number.

    They begin beside a cache line: what lies before the next one is computed first.
    """
    w, v, g, *_ = inputs(momentum, 5_000, "f4", "offset")
    v[list(where)], g[where[0]] = np.finfo("f4").max, -np.finfo("f4").max
    w[list(where)] = np.inf
    return momentum, (w, v, g, 0.75, 4.0), 1, ((w, v), None)


def of_several_shapes():
    x, y, row = np.full((6, 6), 2.0), np.ones((6, 6)), np.full((1, 6), 3.0)
    x[3, 3] = y[3, 3] = 1e300
    outs = (x, None, y), (None, None, row)
    return lambda x, y, row: (x * y, row * row, y + row), (x, y, row), (x, row, y), outs


def of_gradients():
    x = np.full(5_000, 2.0)
    x[[0, 777, 4_999]] = 1e300
    y = x.copy()
    return lambda x, y: x * y * 3, (x, y), 1, (np.empty_like(x), (y, x))


# In any part of any thread's share, at the edges of tiles, and in several places.
TROUBLE = {
    **{
        f"at {where}": (momentum_of, *where)
        for where in [(0,), (255,), (256,), (4_999,), (70, 1_200, 4_800), (2_559, 2_560)]
    },
    "several shapes": (of_several_shapes,),
    "gradients": (of_gradients,),
}


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
@pytest.mark.parametrize("name", TROUBLE)
def test_in_place_is_stopped_before_what_numpy_warns_of(name, path):
    """With a mode that raises, operands that were to be written over are whole."""
    for mode in ("warn", "print", "ignore", "raise", "call", "log"):
        found = []
        for kind in (REFERENCE.Graph, Graph):
            make, *where = TROUBLE[name]
            function, operands, dout, outs = make(*where)
            before, graph = described(operands), kind(function)
            with taken(path):
                called = (
                    outcome(graph, *operands, out=outs[0], errstate={"all": mode})
                    if make is momentum_of
                    else outcome(
                        graph.value_and_grad, *operands, dout=dout, out=outs, errstate={"all": mode}
                    )
                )
            found.append((called, described(operands)))
            assert (called.exception is not None) == (mode == "raise")
            assert mode != "raise" or described(operands) == before
        assert found[0] == found[1], mode


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
def test_in_place_where_nobody_has_set_errstate(path):
    """NumPy's defaults hold: it warns of all but underflows."""

    def update(kind):
        w, v, g, *_ = inputs(momentum, 5_000, "f4")
        g[1_000], w[3_000], v[3_000] = np.finfo("f4").max, np.inf, -np.inf
        v[4_000] = g[4_000] = np.finfo("f4").tiny
        with taken(path), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            kind(momentum)(w, v, g, 0.75, 4.0, out=(w, v))
        return [str(one.message) for one in caught], described((w, v, g))

    ours, nodes = (contextvars.Context().run(update, kind) for kind in (Graph, REFERENCE.Graph))
    assert ours == nodes
    assert ours[0] == ["overflow encountered in multiply", "invalid value encountered in add"]


def test_in_place_heeds_seterr():
    def update(w):
        np.seterr(over="raise")
        Graph(lambda w: w * w)(w, out=w)

    w = np.array([1.0, 1e300])
    with pytest.raises(FloatingPointError, match="overflow encountered in multiply"):
        contextvars.copy_context().run(update, w)
    assert w.tolist() == [1.0, 1e300]


def test_what_is_written_is_told_where_memory_runs_out_in_place(monkeypatch):
    if fastlayers.IMPLEMENTATION != "native":
        pytest.skip("plain NumPy computes all before it writes anything")
    x = np.ones(2_000)
    x[1_500] = 1e200

    def exhausted(*_):
        raise MemoryError("no memory")

    monkeypatch.setattr(np, "concatenate", exhausted)  # of what NumPy is to look at again
    with pytest.raises(MemoryError) as caught:
        Graph(lambda x: x * x + 1)(x, out=x)
    (note,) = caught.value.__notes__
    start, stop = map(int, re.search(r"the elements (\d+):(\d+),", note).groups())
    assert start <= 1_500 < stop <= 2_000
    assert (x[:start] == 2).all()
    assert (x[stop:] == 2).all()
    assert np.array_equal(x[start:stop], np.where(np.arange(start, stop) == 1_500, 1e200, 1))
