"""More threads than most machines have cores: the same bits, and no thread started or woken twice.

Nothing is timed: it does not matter how few cores there are.
"""

from __future__ import annotations

import os
import platform
from dataclasses import replace

import numpy as np
import pytest
from fresh import compiled, output_of
from implementations import INSTALLED
from outcome import described, everything

import fastlayers

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy has no threads", allow_module_level=True)

from paths import Path, needs_openmp, taken

from fastlayers._core import simd
from fastlayers._core.frontend import schedule

COUNTS = 8, 16
LARGE = schedule.get_thresholds()["threads"]

# Of x and y: just worth two threads, an odd number of elements, and broadcast.
SHAPES = {
    "few shares": ((LARGE // 8,), (LARGE // 8,)),
    "odd": ((50_021,), (50_021,)),
    "rows": ((331, 157), (157,)),
    "columns": ((331, 157), (331, 1)),
}
# Of enough elements for 16 chunks.
SUMMED = {
    "rows": ((1_049, 501), (501,)),
    "columns": ((1_049, 501), (1_049, 1)),
    "few long rows": ((3, 175_003), (175_003,)),
    "one number": ((1_049, 501), (1, 1)),
}

blend = fastlayers.Graph(lambda x, y, z: (x * y + z * y) * z - x)


def operands(shapes, dtype):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(one).astype(dtype) for one in (*shapes, shapes[0])]


def graphs_results(x, y, dout):
    value, gradients = blend.value_and_grad(x, y, dout)
    return described([blend(x, y, dout), value, *gradients])


def summed(x, y, dout):
    layer = fastlayers.MulLayer(sum_to_shape=True)
    return described([layer.forward(x, y), *layer.backward(dout)]), graphs_results(x, y, dout)


def unsummed(x, y, dout):
    results = everything(INSTALLED, x, y, dout, {"all": "ignore"})
    return results, graphs_results(x, x * y, dout)


def check(path, results, given):
    """Compare results with those on one thread, which are NumPy's: test_paths.py."""
    with taken(path):
        expected = results(*given)
    for threads in COUNTS:
        with taken(replace(path, threads=threads)):
            assert fastlayers.get_num_threads() == threads
            assert results(*given) == expected


@needs_openmp
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_bits_are_those_of_one_thread(shapes, dtype):
    for threshold, streaming in (LARGE, False), (1, True):
        path = Path(simd.in_use(), 1, streaming=streaming, threshold=threshold)
        check(path, unsummed, operands(shapes, dtype))


@needs_openmp
@pytest.mark.parametrize("shapes", SUMMED.values(), ids=SUMMED)
def test_bits_of_sums_are_those_of_one_thread(shapes):
    check(Path(simd.in_use(), 1, threshold=LARGE), summed, operands(shapes, "float64"))


COUNTED = """
import ctypes
import numpy as np
import fastlayers
from fastlayers._core.frontend import schedule

schedule.set_thresholds(late=1e6)  # no call is, however busy the machine
fastlayers.set_cache_limit(0)  # nor is there a thread that watches over it
library = ctypes.CDLL(None)
counters = [ctypes.c_long.in_dll(library, name) for name in ("started", "woken")]

def counted(call, *operands):
    before = [counter.value for counter in counters]
    call(*operands)
    print(*[counter.value - old for counter, old in zip(counters, before)])

layer, summing = fastlayers.MulLayer(), fastlayers.MulLayer(sum_to_shape=True)
graph = fastlayers.Graph(lambda x, y, z: (x * y + z * y) * z - x)
few = schedule.get_thresholds()["threads"] // 8
below, least, most = (np.ones(n) for n in (few - 1, few, 60 * few))
square = np.ones((400, 200))  # two chunks
"""
# A call each. All but the three that are too small wake the whole team once, be there work for two
# of its threads or for all.
CALLS = """
counted(layer.forward, below, below)
counted(layer.backward, below)
counted(layer.forward, most, most)
counted(layer.backward, most)
counted(layer.forward, least, least)
counted(layer.backward, least)
counted(graph, most, most, most)
counted(graph.value_and_grad, least, least, least)
counted(graph.value_and_grad, *[below[:1_000]] * 3)
counted(summing.forward, square, square[0])
counted(summing.backward, square)
counted(layer.forward, most, most)
"""


@needs_openmp
@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not schedule.build_info()[0].startswith("GCC"),
    reason="what is counted are calls of GNU OpenMP, by means of the GNU C library",
)
@pytest.mark.parametrize("threads", COUNTS)
def test_one_team_is_started_and_woken_once_a_call(threads, tmp_path):
    # Without --no-as-needed it would be loaded with fastlayers, out of this library's sight.
    library = compiled("count_threads.c", tmp_path, "-Wl,--no-as-needed", "-lgomp", "-ldl")
    others = threads - 1
    # Whether they can be started is tried first: GNU OpenMP would end the process.
    started = [0, 0, 2 * others, *[0] * 9]
    woken = [0, 0, *[others] * 6, 0, *[others] * 3]
    preloaded = f"{os.environ.get('LD_PRELOAD', '')}:{library}"  # a sanitizer's stays the first
    printed = output_of(COUNTED + CALLS, LD_PRELOAD=preloaded, FASTLAYERS_NUM_THREADS=str(threads))
    pairs = list(zip(map(int, printed[::2]), map(int, printed[1::2]), strict=True))
    assert pairs == list(zip(started, woken, strict=True))
