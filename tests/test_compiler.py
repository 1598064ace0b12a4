"""Chains of steps as loops that are compiled: the bits and flags of NumPy's, when, and by whom."""

from __future__ import annotations

import gc
import itertools
import platform

import numpy as np
import pytest
from fresh import FORK, lines_of, run
from graphs import NodesGraph
from outcome import described, outcome
from paths import PATHS, Path, taken
from test_ufunc_loops import PROGRAMS, SPECIAL, values

import fastlayers
from fastlayers import Graph, core

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy has no passes", allow_module_level=True)
if platform.machine() not in ("x86_64", "AMD64"):
    pytest.skip("nothing is compiled on such a processor", allow_module_level=True)

from fastlayers.graph import compiler
from fastlayers.graph.compiler import EXACT, Chain, Compiler

pytest.importorskip("llvmlite", reason="there is none for each Python")


@pytest.fixture(autouse=True)
def compiled():
    """Passes are compiled before their first call; a failure is an error."""
    before = core.passes.set_compiler(compiler.compile_now, True)
    yield
    core.passes.set_compiler(*before)


@pytest.fixture(scope="module")
def llvm():
    return Compiler()


def compiled_passes():
    return fastlayers.graph_info().compiled


# ------------------------------------------------------------------------------ what it computes


@pytest.mark.parametrize("letter", ["f", "d"])
@pytest.mark.parametrize("name", EXACT)
def test_operations_have_numpys_bits(name, letter, llvm):
    assert llvm.way(name, letter) is not None


def test_operations_that_differ_are_left_to_numpy(llvm):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXACT, "maximum", EXACT["minimum"])
        assert Compiler().way("maximum", "d") is None
    with pytest.MonkeyPatch.context() as patch:
        # Of some elements alone something else.
        patch.setitem(compiler.RIGHT, "add", lambda x, y: x + y + (np.size(x) == 1))
        assert Compiler().way("add", "d") is None
    assert llvm.way("add", "d") is not None


UNARY = {
    "sums": lambda x: (x + 1.5) * (x - 0.5) - x / 3,
    "roots": lambda x: np.sqrt(np.abs(x)) * np.reciprocal(x) + np.square(x),
    "rounded": lambda x: np.floor(x) - np.ceil(x * 2) + np.trunc(x * 3) * np.rint(x * 4),
    "signs": lambda x: np.sign(x) * 2 - np.copysign(x, -x) * np.signbit(x),
    "limits": lambda x: np.maximum(x, 0.5) - np.minimum(x * 2, 1) + np.clip(x, -1, 2),
    "bools": lambda x: np.where((x > 0) & ~(x >= 2) | (x == -1) ^ (x != x), x * 2, -x),
    "kinds": lambda x: np.where(np.isnan(x), x, 1) + np.isinf(x) * x + np.isfinite(x) * x,
    "between": lambda x: np.exp(-x * x) * (x + 1) / (1 + np.exp(x + x)),
}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", UNARY)
def test_bits_of_all_lengths(name, dtype):
    """Vectors, the last of which overlaps the one before, and what is shorter than one."""
    function = UNARY[name]
    graph, before = Graph(function), compiled_passes()
    whole = values(1200, dtype)
    with np.errstate(all="ignore"):
        expected = function(whole)
        for n in (*range(1, 70), 127, 128, 129, 255, 256, 257, 511, 512, 513, 1200):
            for start in (0, 1):
                found = graph(whole[start : start + n])
                assert described(found) == described(expected[start : start + n].copy()), n
    assert compiled_passes() == before + 1


@pytest.mark.parametrize("mode", ["warn", "raise", "call", "log", "ignore"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", UNARY)
def test_warnings_of_special_values(name, dtype, mode):
    """None is lost and none invented, wherever the value is, in place too."""
    function = UNARY[name]
    graph, errstate = Graph(function), {"all": mode}
    with np.errstate(all="ignore"):
        special = np.array([*SPECIAL, -3e38, 1e-38, 2e19, 1e200, -1e-200]).astype(dtype)
    for value, place in itertools.product(special, (0, 15, 255, 699)):
        x = np.full(700, 1.25, dtype)
        x[place] = value
        expected = outcome(function, x, errstate=errstate)
        assert outcome(graph, x, errstate=errstate) == expected, value
        own = x.copy()
        found = outcome(graph, own, out=own, errstate=errstate)
        assert found == expected, value
        assert not expected.exception or described(own) == described(x)


@pytest.mark.parametrize("path", [None, Path(PATHS[0].simd, 2)], ids=str)
@pytest.mark.parametrize("mode", ["ignore", "warn"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_averages_in_place(dtype, mode, path):
    """Where no flag is asked for, they are written where they are read, and nothing twice."""

    def function(m, v, g):
        return 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * (g * g)

    graph = Graph(function)
    for n in (*range(1, 70), 255, 257, 1_000, 9_001):
        m, v, g = (values(n, dtype, seed) for seed in range(3))
        expected = function(m, v, g)
        with np.errstate(all=mode), taken(path):
            found = graph(m, v, g, out=(m, v))
        assert found[0] is m
        assert described(found) == described(expected), n


@pytest.mark.parametrize("path", [*PATHS, None], ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_layouts_on_all_paths(path, dtype):
    """Strides, rows that repeat, single elements, sums of gradients; in new arrays and others."""
    row, column, one = values(150, dtype, 1), values(80, dtype, 2)[:, None], np.array([1.5], dtype)
    layouts = {
        "whole": lambda x: x,
        "transposed": lambda x: x.reshape(150, 80).T,
        "strided": lambda x: np.repeat(x, 3, axis=1)[:, ::3],
        "backwards": lambda x: x[::-1, ::-1],
    }

    def function(x, y, z):
        return (x * y - z) * np.where(x > z, y, 0.5) + x / 3

    graph, nodes = Graph(function), NodesGraph(function)
    for layout, y, z in itertools.product(layouts.values(), (row, column, one, 2.5), (row, one)):
        x = layout(values(12_000, dtype).reshape(80, 150))
        with np.errstate(all="ignore"), taken(path):
            found = graph.value_and_grad(x, y, z)
            assert described(found) == described(nodes.value_and_grad(x, y, z))
            out = np.empty((80, 300), found[0].dtype)[:, ::2]
            graph(x, y, z, out=out)
        assert out.tobytes() == found[0].tobytes()


@pytest.mark.parametrize("path", [None, Path(PATHS[0].simd, 2)], ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name, dtype, path):
    function, count = PROGRAMS[name]
    graph, nodes = Graph(function), NodesGraph(function)
    operands = [values(9_001, dtype, seed) for seed in range(count)]
    with np.errstate(all="ignore"), taken(path):
        assert described(graph.value_and_grad(*operands)) == described(
            nodes.value_and_grad(*operands)
        )


def cross_entropy(z, t):
    e = np.exp(z - np.max(z, axis=1, keepdims=True))
    s = np.sum(e, axis=1, keepdims=True)
    return -np.mean(np.sum(t * np.log(e / s), axis=1))


def layer_norm(x, gamma, beta):
    away = x - np.mean(x, axis=1, keepdims=True)
    return away / np.sqrt(np.mean(away * away, axis=1, keepdims=True) + 1e-5) * gamma + beta


@pytest.mark.parametrize("columns", [2, 10, 100, 257])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_passes_over_rows_and_totals(columns, dtype):
    before = compiled_passes()
    x, t = values(50 * columns, dtype).reshape(50, -1), np.eye(columns, dtype=dtype)[:1]
    for function, operands in (
        (cross_entropy, (x, t)),
        (layer_norm, (x, x[0], x[1])),
        (lambda x, t: np.mean((x - t) ** 2), (x, x[::-1].copy())),
    ):
        graph, nodes = Graph(function), NodesGraph(function)
        for _ in range(2):
            with np.errstate(all="ignore"):
                found, right = graph.value_and_grad(*operands), nodes.value_and_grad(*operands)
            assert described(found) == described(right)
    assert compiled_passes() > before


def test_integers_are_not_compiled():
    graph, before = Graph(lambda x: (x + 2) * x - x), compiled_passes()
    x = np.arange(100)
    assert np.array_equal(graph(x), (x + 2) * x - x)
    assert compiled_passes() == before
    assert described(graph(x * 0.5)) == described((x * 0.5 + 2) * (x * 0.5) - x * 0.5)
    assert compiled_passes() == before + 1


def test_each_dtype_is_compiled_once():
    graph, before = Graph(lambda x: (x + 2) * x - x), compiled_passes()
    for dtype in ("f4", "f8", "f4", "f8"):
        x = values(300, dtype)
        assert described(graph(x)) == described((x + 2) * x - x)
    assert compiled_passes() == before + 2


def test_chains_of_more_than_a_step_can_hold():
    def function(*x):
        total = x[0] * 0.5
        for one in x[1:]:
            total = total * one + one / 2
        return total

    names = [f"x{i}" for i in range(30)]
    graph = Graph(eval(f"lambda {', '.join(names)}: function({', '.join(names)})", {**locals()}))
    operands = [values(200, "f8", seed) for seed in range(30)]
    with np.errstate(all="ignore"):
        assert described(graph(*operands)) == described(function(*operands))


# ----------------------------------------------------------------------- when, by whom, how long


def test_loops_are_shared_and_given_back(llvm):
    chain = Chain("d", "xx", (("add", (0, 1)), ("multiply", (2, 0))), (3,))
    first, again = llvm.loops([chain])[0], llvm.loops([chain, chain])
    assert again == [first, first]
    assert chain in llvm._loops
    del first, again
    gc.collect()
    assert chain not in llvm._loops


# A graph that is called until something has become of compiling its pass.
CALLED = """
import sys, time
import numpy as np
from fastlayers import Graph, graph_info, show_config

graph = Graph(lambda x: np.where(x > 0, x * x, -x) / (1 + x * x))
x = np.linspace(-2, 2, 10_000)
expected = graph(x)

def told():
    return show_config(mode="dicts")["compiled"]

def until(done):
    end = time.monotonic() + 60
    while not done() and time.monotonic() < end:
        assert np.array_equal(graph(x), expected)
"""

BACKGROUND = f"""
{CALLED}
assert "llvmlite" not in sys.modules
until(lambda: graph_info().compiled)
print(graph_info().compiled, np.array_equal(graph(x), expected))
"""


def test_what_takes_long_enough_is_compiled_in_the_background():
    assert lines_of("-c", BACKGROUND, FASTLAYERS_COMPILE="") == ["1 True"]


NEVER = f"""
{CALLED}
for _ in range(5000):
    graph(x)
print(graph_info().compiled, "llvmlite" in sys.modules)
"""


def test_nothing_is_compiled_if_that_is_switched_off():
    assert lines_of("-c", NEVER, FASTLAYERS_COMPILE="0") == ["0 False"]


MISSING = f"""
import sys
sys.modules["llvmlite"] = None
{CALLED}
until(lambda: told()["reason"])
print(told())
"""


def test_without_llvmlite_passes_run_as_they_are():
    [told] = lines_of("-c", MISSING, FASTLAYERS_COMPILE="1")
    assert told.startswith("{'passes': 0, 'reason': ")
    assert "llvmlite" in told
    result = run("-c", MISSING, FASTLAYERS_COMPILE="always")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("ImportError: FASTLAYERS_COMPILE=always, but")
    assert "pip install 'fastlayers[compile]'" in result.stderr


def test_a_mode_that_there_is_not():
    result = run("-c", "import fastlayers", FASTLAYERS_COMPILE="2")
    assert result.stderr.splitlines()[-1] == (
        "ValueError: FASTLAYERS_COMPILE is '2'; it must be 0, 1 or always"
    )


BROKEN = f"""
import llvmlite.binding

def refuse():
    raise OSError("no executable memory")

llvmlite.binding.check_jit_execution = refuse
{CALLED}
until(lambda: told()["reason"])
print(told()["reason"])
print(np.array_equal(graph(x), expected), graph_info().compiled)
"""


def test_where_no_code_may_be_made():
    assert lines_of("-c", BROKEN, FASTLAYERS_COMPILE="1") == [
        "OSError: no executable memory",
        "True 0",
    ]


FORKS = f"""
{FORK}
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
import numpy as np
import fastlayers
from fastlayers import Graph, core

x = np.linspace(-2, 2, 3_000)
functions = [
    eval(f"lambda x: np.where(x > {{i}}, x * x, -x) / (1 + x * {{i}})") for i in range(12)
]
core.passes.set_compile_seconds(0)  # from the first call on
expected = [function(x) for function in functions]
parents = [Graph(function) for function in functions]

def work(graphs, first=0):
    for graph, right in zip(graphs, expected[first:]):
        for _ in range(20):
            assert np.array_equal(graph(x), right)

children = []
for i in range(8):
    work(parents[i:i + 2], i)
    children.append(fork(lambda: work([Graph(function) for function in functions])))
print([wait(child) for child in children])
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there are no forks")
def test_forks_while_something_is_compiled():
    assert lines_of("-c", FORKS, FASTLAYERS_COMPILE="1") == [str([0] * 8)]


ENDS = """
import numpy as np
from fastlayers import Graph, core
core.passes.set_compile_seconds(0)
x = np.linspace(-2, 2, 3_000)
for i in range(30):
    Graph(eval(f"lambda x: np.where(x > {i}, x * x, -x) / (1 + x * {i})"))(x)
print("done")
"""


def test_the_process_may_end_while_something_is_compiled():
    for _ in range(3):
        assert lines_of("-c", ENDS, FASTLAYERS_COMPILE="1") == ["done"]
