"""NumPy's own loops as steps of passes: the bits, flags and strides that NumPy shows them."""

from __future__ import annotations

import itertools
import warnings
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import scipy.special  # noqa: F401
from graphs import NodesGraph, in_passes
from outcome import described, outcome
from paths import LEVELS, PATHS, Path, taken

import fastlayers
from fastlayers import Graph
from fastlayers.graph.operations import OPERATIONS, no_rule
from fastlayers.graph.tracing import POWER_BY_STRIDE, ufunc_of

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy runs the nodes one by one", allow_module_level=True)

ALL_PATHS = [*PATHS, None]
# Those with loops for floats, with the operands of their rows.
UFUNCS = {
    name: len(row.gradients)
    for name, row in OPERATIONS.items()
    if (row.ufunc or row.operator or row.elementwise)
    and not (callable(row.gradients) or row.in_place or name.startswith("np."))
    and ufunc_of(name) is not None
    and not {"d->d", "dd->d"}.isdisjoint(ufunc_of(name).types)
}
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, np.inf, -np.inf, np.nan, 1e-45, 1e-310, 3e38, 88.8, 710.0]


def values(count, dtype, seed=0):
    rng = np.random.default_rng(seed)
    found = rng.standard_normal(count) * 10.0 ** rng.integers(-3, 3, count)
    with np.errstate(all="ignore"):
        return found.astype(dtype)


def graph_of(name):
    """The ufunc's value times one, which is another step."""
    ufunc, count = ufunc_of(name), UFUNCS[name]
    if count == 1:
        return Graph(lambda x: ufunc(x) * 1.0), lambda x: ufunc(x) * 1.0
    return Graph(lambda x, y: ufunc(x, y) * 1.0), lambda x, y: ufunc(x, y) * 1.0


@pytest.fixture
def silent():
    with np.errstate(all="ignore"):
        yield


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", UFUNCS)
def test_bits_of_all_lengths(name, dtype, silent):
    graph, plain = graph_of(name)
    before = fastlayers.graph_info().passes
    whole = [values(1200, dtype, seed) for seed in range(UFUNCS[name])]
    expected = plain(*whole)
    for n in (*range(1, 40), 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 600, 1200):
        found = graph(*[one[:n].copy() for one in whole])
        assert described(found) == described(expected[:n].copy()), n
    served = dtype == "f8" or any("f->f" in one for one in ufunc_of(name).types)
    assert fastlayers.graph_info().passes > before or not served


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", UFUNCS)
def test_bits_and_warnings_of_special_values(name, dtype):
    """Each with each, alone and among others, as NumPy has it."""
    with np.errstate(all="ignore"):
        special = np.array(SPECIAL).astype(dtype)
    graph, plain = graph_of(name)
    pairs = [one.ravel() for one in np.meshgrid(*[special] * UFUNCS[name])]
    assert outcome(graph, *pairs) == outcome(plain, *pairs)
    for i in range(0, len(pairs[0]), max(len(pairs[0]) // 40, 1)):
        given = [np.full(700, 0.5, dtype) for _ in pairs]
        for one, pair in zip(given, pairs, strict=True):
            one[i % 3 * 300] = pair[i]
        assert outcome(graph, *given) == outcome(plain, *given), [pair[i] for pair in pairs]


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_bits_on_all_paths(path, dtype, silent):
    for name, count in UFUNCS.items():
        graph, plain = graph_of(name)
        for layout in (lambda x: x, lambda x: x.T, lambda x: x[::-1, ::3], lambda x: x[:, :1]):
            given = [layout(values(12_000, dtype, seed).reshape(80, 150)) for seed in range(count)]
            with taken(path):
                assert described(graph(*given)) == described(plain(*given)), name


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_what_goes_backwards_or_into_gaps(dtype, silent):
    """Where vectors are widest, loops round it otherwise."""
    for name, count in UFUNCS.items():
        graph, plain = graph_of(name)
        for layout in (lambda x: x[::-1], lambda x: x[::-1, ::-1], lambda x: x[:, ::-2].T):
            given = [values(2_000, dtype, seed).reshape(40, 50) for seed in range(count)]
            expected = plain(*map(layout, given))
            assert described(graph(*map(layout, given))) == described(expected), name
        one = [array[:1, :1][::-1, ::-1] for array in given]
        assert described(graph(*one)) == described(plain(*one)), name
        mixed = [given[0][::-1], *given[1:]]
        assert described(graph(*mixed)) == described(plain(*mixed)), name
        apart = np.empty((40, 100), plain(*given).dtype)[:, ::2]
        graph(*given, out=apart)
        assert apart.tobytes() == plain(*given).tobytes(), name


MODES = ["ignore", "warn", "raise", "call", "print"]
FLAGS = {
    "divide": (lambda x: np.log(x) + 1, 0.0),
    "over": (lambda x: np.exp(x) * 2, 800.0),
    "over before what clears it": (lambda x: np.maximum(x * x, 1) * 2, 1e200),
    "under": (lambda x: np.exp(x) * 2, -740.0),
    "invalid": (lambda x: np.sqrt(x) - 1, -1.0),
    "invalid before a comparison": (lambda x: np.where(x - x > 0, x, 1) * 2, np.inf),
    "none from a comparison": (lambda x: np.where(x > 0, x, 1) * 2, np.nan),
    "none from maximum": (lambda x: np.maximum(x, 0) * 2, np.nan),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FLAGS)
def test_no_warning_is_lost_and_none_invented(name, mode, capfd):
    function, value = FLAGS[name]
    graph = Graph(function)
    heard = []
    for place in (0, 1, 255, 256, 5_000, 9_999):
        x = np.full(10_000, 0.5)
        x[place] = value
        with np.errstate(all=mode, call=lambda *told: heard.append(told)):
            expected, told = outcome(function, x), heard[:]
            heard.clear()
            written = capfd.readouterr()
            for given, options in (((x,), {}), ((x,), {"out": np.empty(10_000)})):
                found = outcome(lambda *a, o=options: graph(*a, **o), *given)
                assert found == expected
                assert heard == told
                heard.clear()
                assert capfd.readouterr() == written
            assert described(x[place]) == described(np.float64(value))


CANDIDATES = [*SPECIAL, 2.5, -2.5, -740.0, 800.0, 1e-200, 1e200, 1.7e308]
ORDINARY = [0.5, 1.5]
# What lies before the function and after it; some loops clear the flags as they end.
AMONG = {
    "alone": lambda f, x, *y: f(x, *y) * 1.0,
    "after what clears them": lambda f, x, *y: f(np.maximum(x, -np.inf), *y) * 1.0,
    "before what clears them": lambda f, x, *y: np.maximum(f(x, *y), -np.inf) * 1.0,
}
# Of the first step, the second tile, the second thread, and in the end.
ELEMENTS = (0, 300, 1_600, 2_998)


def flags_of(ufunc, *values):
    """The flags that a ufunc leaves, and NumPy tells of."""
    told = []
    with np.errstate(all="call", call=lambda kind, flags: told.append(kind)):
        ufunc(*[np.array([value]) for value in values])
    return frozenset(told)


def raising(name):
    """An ordinary value for a function, and others that raise flags, for each set of these."""
    ufunc, count = ufunc_of(name), UFUNCS[name]
    ordinary = next(one for one in ORDINARY if not flags_of(ufunc, *[one] * count))
    found = {}
    for values in itertools.product(CANDIDATES, repeat=count):
        found.setdefault(flags_of(ufunc, *values), values)
    return ordinary, list(found.values())


def graph_among(among, name):
    """A function among others, and its graph."""
    function = partial(AMONG[among], ufunc_of(name))
    if UFUNCS[name] == 1:
        return function, Graph(lambda x: function(x))
    return function, Graph(lambda x, y: function(x, y))


@pytest.mark.parametrize("path", [None, Path(LEVELS[0], 2)], ids=str)
@pytest.mark.parametrize("name", UFUNCS)
def test_flags_wherever_they_are_raised(name, path):
    """Of each function, in each mode: for what is returned, written elsewhere, and in place."""
    ordinary, others = raising(name)
    for among, element in zip([*AMONG, "alone"], ELEMENTS, strict=True):
        function, graph = graph_among(among, name)
        for values, mode in itertools.product(others, ("ignore", "warn", "raise", "call", "log")):
            x, *rest = (np.full(2_999, ordinary) for _ in values)
            for one, value in zip((x, *rest), values, strict=True):
                one[element] = value
            errstate, own = {"all": mode}, x.copy()
            expected = outcome(function, x, *rest, errstate=errstate)
            with taken(path):
                for given, out in ((x, None), (x, np.empty_like(x)), (own, own)):
                    found = outcome(graph, given, *rest, out=out, errstate=errstate)
                    assert found == expected, (among, values, mode)
            assert not expected.exception or described(own) == described(x)


@pytest.mark.parametrize("mode", ["warn", "raise"])
def test_flags_of_gradients(mode):
    """With a dout that overflows, too: those of the nodes one by one."""
    for name in UFUNCS:
        if no_rule in OPERATIONS[name].gradients:
            continue
        ordinary, others = raising(name)
        _, graph = graph_among("alone", name)
        nodes = NodesGraph(graph)
        for values, dout in itertools.product(others, (1, 1e300)):
            operands = [np.full(2_999, ordinary) for _ in values]
            for one, value in zip(operands, values, strict=True):
                one[1_600] = value
            told = {"dout": dout, "errstate": {"all": mode}}
            with taken(Path(LEVELS[0], 2)):
                found = outcome(graph.value_and_grad, *operands, **told)
            assert found == outcome(nodes.value_and_grad, *operands, **told), (name, values)


@pytest.mark.parametrize("name", FLAGS)
def test_flags_of_rows_apart(name):
    function, value = FLAGS[name]
    for row in range(4):
        x = np.full((4, 9), 0.5)[:, 1:-1]
        x[row, 2] = value
        assert outcome(Graph(function), x) == outcome(function, x)


@pytest.mark.parametrize("name", ["over", "divide", "invalid"])
def test_flags_in_place(name):
    function, value = FLAGS[name]
    graph = Graph(function)
    for place in (0, 300, 9_999):
        x = np.full(10_000, 0.5)
        x[place] = value
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            expected = function(x)
            found = graph(x, out=x)
        assert found is x
        assert described(found) == described(expected)
        assert len(caught) == 2


POWERS = [2, 3, -1, -2, 0.5, -0.5, 1, 0, 1.5, 2.0, 1 / 3]


@pytest.mark.parametrize("exponent", POWERS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_powers_have_the_bits_of_the_operator(exponent, dtype, silent):
    for n in (1, 2, 255, 1_000):
        x = np.abs(values(n, dtype)) + np.asarray(0.1, dtype)
        for function in (lambda x: x**exponent * 1.0, lambda x: np.power(x, exponent) * 1.0):
            assert described(Graph(function)(x)) == described(function(x))
        e = np.full(n, exponent, dtype)
        assert described(Graph(lambda x, e: x**e * 1.0)(x, e)) == described(x**e * 1.0)
        found = Graph(lambda x, e: x**e * 1.0)(x, exponent)
        assert described(found) == described(x**exponent * 1.0)


@pytest.mark.parametrize("function", [lambda x: np.rint(x) - x, lambda x: np.exp(x) * 0 - x])
def test_integers_of_which_values_are_floats(function):
    graph, x = Graph(function), np.arange(-3, 4)
    graph.forward(x)
    for gradients in (graph.backward(1), graph.value_and_grad(x)[1], (graph.grad("x")(x),)):
        assert gradients[0].dtype == np.float64
        assert np.array_equal(gradients[0], np.full(7, -1.0))


def test_a_number_that_is_clipped_is_an_array_first():
    limits = np.array([-1.0, 1.0], "f4")
    graph = Graph(lambda x, least: np.clip(x, least, None) * 2)
    assert graph(0.5, limits).dtype == np.clip(0.5, limits, None).dtype


def lstm(f, i, g, o, c):
    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def huber(x):
    return np.where(np.abs(x) < 1, 0.5 * x * x, np.abs(x) - 0.5)


PROGRAMS = {
    "LSTM": (lstm, 5),
    "GELU": (lambda x: 0.5 * x * (1 + np.tanh(0.79788456 * (x + 0.044715 * x**3))), 1),
    "swish": (lambda x: x / (1 + np.exp(-x)), 1),
    "Huber": (huber, 1),
    "gates of relus": (lambda x, y: np.maximum(x, 0) * (y > 0) - np.clip(x, -1, y > 2), 2),
    "bools": (lambda x, y: np.where((x > 0) & ~(y > x) | np.isnan(x), x, (x == y) * y), 2),
    "clip": (lambda x, y: np.clip(x, -1.0, 1.0) * np.clip(y, None, 0.5), 2),
    "Adam": (lambda w, m, v: w - 0.1 * m / (np.sqrt(np.abs(v)) + 1e-8), 3),
}
# A limit that is an array, and powers where NumPy's own loop looks at more than one stride.
NOT_IN_PASSES = {"gates of relus"} | (set() if POWER_BY_STRIDE else {"GELU"})


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_passes(name, dtype, path, silent):
    function, count = PROGRAMS[name]
    graph = Graph(function)
    nodes = Graph(function)
    nodes._entries = (None,) * 3  # of which no pass is made
    operands = [values(9_001, dtype, seed) for seed in range(count)]
    with taken(path), nullcontext() if name in NOT_IN_PASSES else in_passes():
        found = graph.value_and_grad(*operands)
    assert described(found) == described(nodes.value_and_grad(*operands))
    assert described(found[0]) == described(function(*operands))
