"""Ufuncs that are not NumPy's: their loops may do what NumPy's never do, and they come and go."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from fresh import compiled, lines_of
from outcome import described, outcome
from paths import PATHS, taken

import fastlayers
from fastlayers import Graph, define_gradients

NATIVE = fastlayers.IMPLEMENTATION == "native"
needs_compiler = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the loops are compiled as on Linux"
)
ALL_PATHS = [*PATHS, None]
by_proc = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="threads are counted by /proc"
)
PLACES = (0, 5_000, 9_999)

LOOPS = ("doubling", "locking", "changing", "raising", "telling")
kept = []  # what the ufuncs point to


class Maker:
    """Makes ufuncs of the loops in loops.c, by NumPy's C API."""

    def __init__(self, library):
        self.loops = ctypes.CDLL(library)
        core = getattr(np, "_core")  # noqa: B009
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        api = pointer(core._multiarray_umath._UFUNC_API, None)
        self.api = ctypes.cast(api, ctypes.POINTER(ctypes.c_void_p))

    def address(self, loop):
        return ctypes.cast(getattr(self.loops, loop), ctypes.c_void_p)

    def ufunc(self, loop, name=None, data=None, operands=1):
        """A ufunc of float64, with gradients."""
        strings, numbers, pointer = ctypes.c_char_p, [ctypes.c_int] * 4, ctypes.c_void_p
        made = ctypes.PYFUNCTYPE(
            ctypes.py_object, *[pointer] * 2, strings, *numbers, *[strings] * 2, ctypes.c_int
        )(self.api[1])  # PyUFunc_FromFuncAndData
        functions = (pointer * 1)(self.address(loop))
        given = (pointer * 1)(ctypes.addressof(data) if data else None)
        types = bytes([np.dtype("f8").num] * (operands + 1))
        title = (name or loop).encode()
        kept.append((functions, given, types, title, data))
        ufunc = made(functions, given, types, 1, operands, 1, -1, title, b"", 0)
        define_gradients(ufunc, *[lambda g, v, *operands: g * 2] * operands)
        return ufunc

    def replace(self, ufunc, loop):
        """Put another loop in the place of a ufunc's, as MKL's do in NumPy's."""
        replace = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, *[ctypes.c_void_p] * 3)(
            self.api[30]  # PyUFunc_ReplaceLoopBySignature
        )
        signature, before = (ctypes.c_int * 2)(*[np.dtype("f8").num] * 2), ctypes.c_void_p()
        assert replace(ufunc, self.address(loop), signature, ctypes.addressof(before)) == 0


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    return Maker(compiled("loops.c", tmp_path_factory.mktemp("loops")))


@pytest.fixture(scope="module")
def ufuncs(maker):
    return {loop: maker.ufunc(loop) for loop in LOOPS}


# ------------------------------------------------------------------------------ what loops may do


@needs_compiler
@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
@pytest.mark.parametrize("loop", ["doubling", "locking", "changing"])
def test_loops_of_anybodys(loop, path, ufuncs):
    """They may take the GIL, and go through operands by the pointers that they are given."""
    ufunc = ufuncs[loop]
    functions = [
        lambda x: np.exp(-ufunc(x)) + ufunc(x * 0.5),
        lambda x: ufunc(np.max(x, axis=-1, keepdims=True)) - x,  # once for each row
    ]
    for function in functions:
        graph = Graph(function)
        for shape in ((), (1,), (3, 7), (90, 130)):
            x = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
            if not shape and "max" in function.__code__.co_names:
                continue
            with taken(path if NATIVE else None):
                assert described(graph(x)) == described(function(x))
                value, (gradient,) = graph.value_and_grad(x)
                assert described(value) == described(function(x))
                if function is functions[0]:
                    expected = np.exp(-(x * 2)) * -1 * 2 + 0.5 * 2
                    np.testing.assert_allclose(gradient, expected, rtol=1e-15)
                if shape:
                    out = np.empty(shape)
                    assert described(graph(x, out=out)) == described(function(x))
                    own = x.copy()
                    assert described(graph(own, out=own)) == described(function(x))


@needs_compiler
def test_ufuncs_of_one_name(maker):
    """What they are called does not tell them apart."""
    thrice, tenfold = (maker.ufunc("scaling", "exp", ctypes.c_double(by)) for by in (3, 10))
    x = np.arange(1000.0)
    graph = Graph(lambda x: (np.exp(-x), thrice(x) + tenfold(x), np.maximum(thrice(x), 1)))
    for found, expected in zip(
        graph(x), (np.exp(-x), 3 * x + 10 * x, np.maximum(3 * x, 1)), strict=True
    ):
        assert np.array_equal(found, expected)


@needs_compiler
@pytest.mark.parametrize("count", [2, 7, 8, 9, 31])
def test_loops_of_many_operands(count, maker):
    """More than a step can have are NumPy's."""
    ufunc = maker.ufunc("adding", f"adding{count}", ctypes.c_int(count), count)
    x, y = np.arange(1000.0), np.arange(1000.0)[::-1]

    def function(x, y):
        return ufunc(y, *[x] * (count - 1)) * 1.5

    graph = Graph(function)
    assert described(graph(x, y)) == described(function(x, y))
    assert np.array_equal(sum(graph.value_and_grad(x, y)[1]), np.full(1000, 3.0 * count))


@needs_compiler
@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
def test_loops_that_raise(path, ufuncs):
    """The error is that of the ufunc, wherever it is raised, and says of which node."""
    ufunc = ufuncs["raising"]
    graph, network = Graph(lambda x: ufunc(x) * 1.5), Graph(lambda x: np.sum(ufunc(x) * 1.5))
    out = np.empty(10_000)
    for place in PLACES:
        x = np.ones(10_000)
        x[place] = -1
        with taken(path if NATIVE else None):
            for call, options in (
                (graph, {}),
                (graph, {"out": out}),
                (graph.forward, {}),
                (graph.value_and_grad, {}),
                (network, {}),
                (network.value_and_grad, {}),
            ):
                with pytest.raises(LookupError, match="less than nothing") as caught:
                    call(x, **options)
                assert "ufunc(x)" in caught.value.__notes__[0]
            with pytest.raises(LookupError, match="less than nothing"):
                graph(x, out=x)
            assert np.array_equal(graph(np.ones(10_000)), np.full(10_000, 3.0))


@needs_compiler
def test_loops_of_anybodys_stay_on_the_thread_that_calls(ufuncs):
    """As NumPy calls them: they may keep a state, and what they raise is that thread's."""
    ufunc, x = ufuncs["telling"], np.zeros(300_000)
    for path in PATHS:
        with taken(path if NATIVE else None):
            assert np.unique(Graph(lambda x: ufunc(x) * 1.0)(x)).tolist() == [ufunc(0.0)]


def test_loops_of_objects():
    """Which Python functions are run for each element."""
    inverse = np.frompyfunc(lambda x: 1 / x, 1, 1)
    define_gradients(inverse, lambda g, v, x: -(g * v * v))
    for function in (lambda x: inverse(x) * 2.0, lambda x: np.sum(inverse(x) - x)):
        graph = Graph(function)
        for x in (2.0, np.float64(0), np.arange(1.0, 9.0), np.arange(4.0), np.array([2, 0.5, 3j])):
            assert outcome(graph, x) == outcome(function, x)
    gradient = Graph(lambda x: np.sum(inverse(x))).value_and_grad(np.array([1.0, 2.0, 4.0]))[1].x
    assert gradient.tolist() == [-1.0, -0.25, -0.0625]


# ------------------------------------------------------------------------- loops that come and go


@needs_compiler
def test_loops_that_are_replaced(maker):
    """As by MKL's: what is computed is what the ufunc computes now."""
    ufunc = maker.ufunc("doubling", "replaced")
    graph, x = Graph(lambda x: ufunc(x) * 1.0 - x), np.arange(1000.0)
    assert np.array_equal(graph(x), x)
    maker.replace(ufunc, "telling")
    assert np.array_equal(graph(x), ufunc(x) - x)
    maker.replace(ufunc, "doubling")
    assert np.array_equal(graph(x), x)


@pytest.mark.parametrize("module", [np, scipy.special])
def test_functions_that_are_replaced(module, monkeypatch):
    """A graph computes what it was recorded of, by passes and by nodes."""
    name = "exp" if module is np else "expit"
    graph = Graph(lambda x: getattr(module, name)(x) - x)
    x = np.linspace(-2, 2, 1000)
    operands = x, x.astype("f2")  # by passes and by nodes
    expected = [described(graph(one)) for one in operands]
    monkeypatch.setattr(module, name, lambda x: x * 0)
    assert [described(graph(one)) for one in operands] == expected
    assert described(Graph(lambda x: getattr(module, name)(x) - x)(x)) == described(x * 0 - x)
    monkeypatch.setattr(module, name, np.frompyfunc(float, 1, 1))
    with pytest.raises(TypeError, match="define_gradients"):
        Graph(lambda x: getattr(module, name)(x) - x)


GONE = """
import gc, sys
import numpy as np
import scipy.special
from fastlayers import Graph

def function(x):
    return scipy.special.expit(x) * x

graph = Graph(function)
x = np.linspace(-2, 2, 3_000)
expected = [function(x), function(x[:2].astype("f2")), *graph.value_and_grad(x)[1]]
graph(x)
for name in [one for one in sys.modules if one.startswith("scipy")]:
    del sys.modules[name]
del scipy
gc.collect()
found = [graph(x), graph(x[:2].astype("f2")), *graph.value_and_grad(x)[1]]
print([a.tobytes() == b.tobytes() for a, b in zip(found, expected)])
"""


def test_modules_that_are_gone():
    assert lines_of("-c", GONE) == ["[True, True, True]"]


# ------------------------------------------------------------------------- SciPy's state of errors

TEAM = """
import os
import numpy as np
import scipy.special
import fastlayers

fastlayers._core.frontend.schedule.set_thresholds(late=1e6)
fastlayers.set_cache_limit(0)  # nor is there a thread that watches over it
fastlayers.set_num_threads(4)
graph = fastlayers.Graph(lambda x: scipy.special.expit(x) * x)
x = np.linspace(-2, 2, 1_000_000)

def started(**modes):
    before = len(os.listdir("/proc/self/task"))
    with scipy.special.errstate(**modes):
        graph(x)
    return len(os.listdir("/proc/self/task")) - before

print(started(domain="warn"), started())
"""


@by_proc
@pytest.mark.skipif(not NATIVE, reason="plain NumPy starts no threads")
def test_threads_share_the_loops_of_scipys():
    """Unless it is to tell of errors: its state, then, is that of one thread."""
    assert lines_of("-c", TEAM) == ["0 3"]


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
@pytest.mark.parametrize("mode", ["ignore", "warn", "raise"])
def test_errors_of_scipys(mode, path):
    """`scipy.special.errstate` holds for one thread, which runs the loops then."""

    def function(x):
        return scipy.special.gammaln(x) - x

    graph = Graph(function)
    for place in PLACES:
        x = np.full(10_000, 0.5)
        x[place] = 0
        with taken(path if NATIVE else None), scipy.special.errstate(all=mode):
            expected = outcome(function, x, errstate={"all": "ignore"})
            assert outcome(graph, x, errstate={"all": "ignore"}) == expected
            assert (expected.exception is not None) == (mode == "raise")
