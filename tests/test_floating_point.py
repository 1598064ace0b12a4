"""The floating-point unit: what others have set there goes for all threads, and stays."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import replace

import numpy as np
import plain
import pytest
from fpu import MODES, current_modes, setting
from fresh import output_of
from implementations import FUNCTIONS, INSTALLED, PAIRED, operands_of
from operands import Operand
from outcome import described, everything, outcome
from plain_graph import PlainGraph

import fastlayers

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy has no kernels", allow_module_level=True)

from paths import PATHS, THREADS, needs_openmp, taken

from fastlayers import reference
from fastlayers._core import memory


def of_graph(x, y, z):
    return (x * y + z) * (x - y)


GRAPH = fastlayers.Graph(of_graph)


def value_and_gradients(graph, *operands, dout=1):
    value, gradients = graph.value_and_grad(*operands, dout=dout)
    return value, *gradients


# ------------------------------------------------------------------------- what others have set

needs_modes = pytest.mark.skipif(not MODES, reason="how to reach the modes here is unknown")


def sensitive(dtype="f8"):
    """Operands whose results depend on everything that can be set."""
    x, y, dout = (Operand(dtype, (7, 100), "C", seed=seed).build() for seed in range(3))
    info = np.finfo(dtype)
    x[:, ::7], y[:, ::5], dout[:, ::3] = info.tiny, 2.0**-10, 3 * info.smallest_subnormal
    return x, y, dout


@needs_modes
@pytest.mark.parametrize("name", MODES)
def test_settings_go_for_all_threads(path, name):
    nodes = PlainGraph(of_graph, plain)

    def results(implementation, graph, operands):
        with np.errstate(all="ignore"):
            of_nodes = described(value_and_gradients(graph, *operands))
        return everything(implementation, *operands, {"all": "ignore"}), of_nodes

    for operands in (sensitive("f8"), sensitive("f4")):
        ordinary = results(plain, nodes, operands)
        fastlayers.multiply(*operands[:2])  # threads that were started before
        with setting(name):
            expected, actual = results(plain, nodes, operands), results(INSTALLED, GRAPH, operands)
            after = current_modes()
        assert actual == expected
        assert after == MODES[name]
        for one, other in zip(expected, ordinary, strict=True):
            assert (one == other) == (name == "to nearest")


@needs_modes
@pytest.mark.parametrize("name", MODES)
def test_settings_of_whoever_started_the_threads_are_theirs_alone(path, name):
    # OpenMP starts threads for each thread that calls; they begin with what is set there.
    outcomes = []

    def work():
        operands = sensitive()
        with setting(name):
            fastlayers.multiply(*operands[:2])
        outcomes.append(everything(plain, *operands, {"all": "ignore"}))
        outcomes.append(everything(INSTALLED, *operands, {"all": "ignore"}))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcomes[1] == outcomes[0]


try:
    GOMP = ctypes.CDLL("libgomp.so.1")  # the compiled part has loaded it
except OSError:
    GOMP = None


def modes_of_team(threads):
    """What is set on each of the threads that OpenMP has for this one, as other users find it."""
    seen = []
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: seen.append(current_modes()))
    GOMP.GOMP_parallel(callback, None, threads, 0)
    return seen


@needs_modes
@needs_openmp
@pytest.mark.skipif(GOMP is None, reason="not the OpenMP of GNU")
@pytest.mark.parametrize("name", MODES)
def test_threads_get_their_own_settings_back(name):
    modes = []
    x, y, dout = sensitive()

    def work():
        modes.extend(modes_of_team(3))
        with setting(name):
            fastlayers.multiply(x, y)
            fastlayers.multiply_backward(dout, x, y[0], sum_to_shape=True)
        modes.extend(modes_of_team(3))

    with taken(replace(PATHS[0], threads=3)):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert modes == [MODES["to nearest"]] * 6


@needs_modes
@pytest.mark.parametrize("name", MODES)
def test_sums_are_the_same_for_every_number_of_threads(name):
    x, y, dout = (Operand("f8", (400, 500), "C", seed=seed).build() for seed in range(3))
    sums = []
    for threads in THREADS:
        with taken(replace(PATHS[-1], threads=threads)), setting(name):
            gradients = fastlayers.multiply_backward(dout, x[0], y[:, :1], sum_to_shape=True)
        sums.append(described(gradients))
    assert sums[1:] == sums[:1] * (len(THREADS) - 1)


@needs_modes
def test_the_import_sets_nothing():
    # A library built with -ffast-math would flush subnormals to zero from its import on.
    code = """
import threading
from fpu import current_modes
import numpy as np
seen = [current_modes()]
import fastlayers
seen.append(current_modes())
x = np.ones(200_000)
with np.errstate(all="ignore"):
    for value in 1.0, 1e300, 1e-300, np.inf, np.nan, 5e-324:
        fastlayers.multiply(x * value, value)
        fastlayers.multiply_backward(x * value, x, value, sum_to_shape=True)
seen.append(current_modes())
thread = threading.Thread(target=lambda: seen.append(current_modes()))
thread.start()
thread.join()
print(*seen)
"""
    seen = output_of(code, FASTLAYERS_NUM_THREADS=str(max(THREADS)))
    assert seen == [str(MODES["to nearest"])] * 4


# ----------------------------------------------------------------------------------------- flags


@pytest.fixture(params=[path for path in PATHS if path.recycling], ids=str)
def redone(request, monkeypatch):
    """On each path, and a list of what NumPy has computed again: a call that raised a flag."""
    done, set_handler = [], memory.set_handler

    def noticed(function):
        return lambda *args: done.append(function) or function(*args)

    # What it computes it is lent the recycler for.
    monkeypatch.setattr(memory, "set_handler", noticed(set_handler))
    for name in FUNCTIONS:
        monkeypatch.setattr(reference, name, noticed(getattr(reference, name)))
    with taken(request.param):
        yield done


def everything_that_may_raise(x, y, dout):
    for name in FUNCTIONS:
        function = getattr(INSTALLED, name)
        function(*operands_of(name, dout, x, y))
        function(*operands_of(name, dout, x.T.copy().T, y))
        out = np.empty_like(x), np.empty_like(x)
        function(*operands_of(name, dout, x, y), out=out if name in PAIRED else out[0])
    for name in PAIRED:
        getattr(INSTALLED, name)(dout, x, y, sum_to_shape=True)
        getattr(INSTALLED, name)(dout, x, y[0], sum_to_shape=True)
    fastlayers.multiply(x, 2.0)
    GRAPH.value_and_grad(x, y, dout)
    GRAPH.value_and_grad(x, y[0], dout[:, :1], dout=2.0, out=(np.empty_like(x), (None,) * 3))


def test_flags_of_earlier_work_count_no_more(redone):
    # The processor's flags are sticky: those of all threads are up here.
    trouble = np.full((7, 100), 1e300), np.full((7, 100), np.inf), np.zeros((7, 100))
    ones = np.ones((7, 100))
    for dtype in ("f8", "f4"):
        with np.errstate(all="ignore"):
            everything_that_may_raise(*trouble)
            everything_that_may_raise(*(ones * 2.0**-1000 for _ in range(3)))
        redone.clear()
        with np.errstate(all="raise"):
            everything_that_may_raise(*[ones.astype(dtype)] * 3)
        assert redone == []


@needs_modes
def test_flags_that_others_raised_do_not_count(redone):
    ones = np.ones((7, 100))
    with np.errstate(all="raise"):
        for call in (fastlayers.multiply, fastlayers.add, fastlayers.multiply_backward):
            operands = [ones] * (3 if call is fastlayers.multiply_backward else 2)
            with setting("to nearest"):
                results = call(*operands)
            assert np.all(np.asarray(results) == (2.0 if call is fastlayers.add else 1.0))
        with setting("to nearest"):
            assert np.all(GRAPH(ones, 2 * ones, ones) == -3.0)
        with setting("to nearest"):
            dx, dy = fastlayers.multiply_backward(ones, ones, ones[0], sum_to_shape=True)
        assert np.all(dy == 7.0)
        assert np.all(dx == 1.0)
    assert redone == []


LENGTHS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 127, 129, 130, 255, 257, 321, 640, 641]


@pytest.mark.parametrize("category", ["over", "under", "invalid"])
def test_what_lies_beside_the_operands_raises_nothing(path, category):
    # Vectors end with them, and so does each thread's share.
    value = {"over": 1e300, "under": 1e-300, "invalid": np.inf}[category]
    memory = np.full((3, 900), value)
    memory[1] = 0.0 if category == "invalid" else value
    for n in LENGTHS:
        for start in (0, 1, 7):
            inside = memory[:, 64 + start : 64 + start + n]
            kept = inside.copy()
            inside[...] = 1.0
            with np.errstate(all="raise"):
                for x, y, dout in ([*inside], [*inside[:, ::-1]], [inside[0], 2.0, inside[2]]):
                    for name in FUNCTIONS:
                        getattr(INSTALLED, name)(*operands_of(name, dout, x, y))
                    fastlayers.multiply_backward(dout, x, y, sum_to_shape=True)
                    for name in ("add_backward", "subtract_backward"):
                        getattr(INSTALLED, name)(dout, x[:1], x, sum_to_shape=True)
                    GRAPH.value_and_grad(x, y, dout)
                    GRAPH.value_and_grad(x[:1], y, dout)
            inside[...] = kept


# What raises a flag in one node of `of_graph` alone: in the product, the sum, the difference, the
# last product, and in a gradient.
GREAT = np.finfo("f8").max
CULPRITS = {
    "x * y over": (1e300, 1e300, 1.0, 1.0),
    "x * y under": (1e-300, 1e-300, 1.0, 1.0),
    "x * y invalid": (np.inf, 0.0, 1.0, 1.0),
    "x * y + z over": (1.0, GREAT, GREAT, 1.0),
    "x * y + z invalid": (1.0, np.inf, -np.inf, 1.0),
    "x - y over": (GREAT, -GREAT, 1.0, 1.0),
    "last over": (1e160, 1.0, 1.0, 1.0),
    "dout over": (1e10, 1.0, 1.0, 1e300),
    "dout invalid": (1.0, 1.0, 1.0, np.inf),
}


@pytest.mark.parametrize("mode", ["ignore", "warn", "raise", "call"])
@pytest.mark.parametrize("culprit", CULPRITS)
def test_flag_of_any_node_at_any_place(path, culprit, mode):
    # At the ends, at the edges of tiles, in a tail; stopped in place, too.
    for n, where in [(1, 0), (600, 0), (600, 255), (600, 256), (5_003, 5_002)]:
        outcomes = []
        for graph in (PlainGraph(of_graph, plain), GRAPH):
            x, y, z, dout = (np.full(n, value) for value in (1.5, 1.25, 1.125, 1.0))
            x[where], y[where], z[where], dout[where] = CULPRITS[culprit]
            both = outcome(value_and_gradients, graph, x, y, z, dout=dout, errstate={"all": mode})
            value = outcome(graph, x, y, z, errstate={"all": mode})
            if graph is GRAPH:
                before = described(z)
                in_place = outcome(graph, x, y, z, out=z, errstate={"all": mode})
                assert (in_place.exception, in_place.warnings) == (value.exception, value.warnings)
                assert described(z) == (before if value.exception else value.result)
            outcomes.append((both, value))
        assert outcomes[1] == outcomes[0]
