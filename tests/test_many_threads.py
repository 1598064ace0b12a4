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

# The larger two are more than there are places for what became of each one's share.
COUNTS = 8, 16, 65, 200
LARGE = schedule.get_thresholds()["threads"]

# Of x and y: just worth two threads, an odd number of elements; and enough for 16 chunks of sums.
SHAPES = {
    "few shares": ((LARGE // 8,), (LARGE // 8,)),
    "odd": ((50_021,), (50_021,)),
    "rows": ((1_049, 501), (501,)),
    "columns": ((1_049, 501), (1_049, 1)),
    "few long rows": ((3, 175_003), (175_003,)),
    "one number": ((1_049, 501), (1, 1)),
}


def momentum(w, v, g):
    v = 0.5 * v - 0.25 * g
    return w + v, v


blend = fastlayers.Graph(lambda x, y, z: (x * y + z * y) * z - x)
update = fastlayers.Graph(momentum)


def results(x, y, dout):
    """What functions, layers, and graphs give: with sums, without, and in place."""
    layer = fastlayers.MulLayer(sum_to_shape=True)
    value, gradients = blend.value_and_grad(x, y, dout)
    summed = [layer.forward(x, y), *layer.backward(dout), value, *gradients]
    unsummed = [blend(x, y, dout), *blend.value_and_grad(x, x * y, dout)[1]]
    w, v = x.copy(), dout.copy()
    update(w, v, y, out=(w, v))
    return everything(INSTALLED, x, y, dout), described([*summed, *unsummed, w, v])


@needs_openmp
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_bits_are_those_of_one_thread(shapes, dtype):
    # Those are NumPy's: test_paths.py.
    rng = np.random.default_rng(0)
    given = [rng.standard_normal(one).astype(dtype) for one in (*shapes, shapes[0])]
    for threshold, streaming in (LARGE, False), (1, True):
        path = Path(simd.in_use(), 1, streaming=streaming, threshold=threshold)
        with taken(path):
            expected = results(*given)
        for threads in COUNTS if threshold == LARGE else COUNTS[:2]:
            with taken(replace(path, threads=threads)):
                assert fastlayers.get_num_threads() == threads
                assert results(*given) == expected


COUNTED = """
import ctypes
import time
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
    counts = [counter.value - old for counter, old in zip(counters, before)]
    print(*counts)
    return counts[1]

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


def counts_threads(test):
    """A test that counts how many threads are started and woken."""
    return needs_openmp(
        pytest.mark.skipif(
            platform.libc_ver()[0] != "glibc" or not schedule.build_info()[0].startswith("GCC"),
            reason="what is counted are calls of GNU OpenMP, by means of the GNU C library",
        )(test)
    )


def counts_of(calls, threads, folder, **variables):
    """How many threads each call starts, and how many it wakes."""
    # Without --no-as-needed it would be loaded with fastlayers, out of this library's sight.
    library = compiled("count_threads.c", folder, "-Wl,--no-as-needed", "-lgomp", "-ldl")
    preloaded = f"{os.environ.get('LD_PRELOAD', '')}:{library}"  # a sanitizer's stays the first
    printed = output_of(
        COUNTED + calls, LD_PRELOAD=preloaded, FASTLAYERS_NUM_THREADS=str(threads), **variables
    )
    return list(zip(map(int, printed[::2]), map(int, printed[1::2]), strict=True))


@counts_threads
@pytest.mark.parametrize("threads", [8, 16])
def test_one_team_is_started_and_woken_once_a_call(threads, tmp_path):
    others = threads - 1
    # Whether they can be started is tried first: GNU OpenMP would end the process.
    started = [0, 0, 2 * others, *[0] * 9]
    woken = [0, 0, *[others] * 6, 0, *[others] * 3]
    assert counts_of(CALLS, threads, tmp_path) == list(zip(started, woken, strict=True))


# With loops that have no vector instructions, on a thread that has a core, this takes longer than
# memory would; so do all passes of many steps on some machine. After a late one, the next uses one
# thread: two in a row that wake the other are in time, which neighbours allow only now and then.
LONG = """
product = "x"
for _ in range(30):
    product = f"({product} * x) * y"
chain = fastlayers.Graph(eval(f"lambda x, y: {product}"))
x, y = np.full((2, 1 << 20), 3)
schedule.set_thresholds(late=1e-4)
end = time.monotonic() + 60
while not (counted(chain, x, y) and counted(chain, x, y)) and time.monotonic() < end:
    pass
"""


@counts_threads
@pytest.mark.skipif(
    any(flag in schedule.build_info()[1] for flag in ("-O0", "-fsanitize")),
    reason="loops that are not optimised, or are checked, do take longer than any machine's",
)
def test_long_passes_are_not_late_for_being_long(tmp_path):
    printed = counts_of(LONG, 2, tmp_path, FASTLAYERS_SIMD=simd.available()[0])
    assert [woken for _, woken in printed[-2:]] == [1, 1]


# What overflows is computed by the kernels once, and once more by NumPy, which wakes no thread of
# ours. In place nothing is computed twice but what NumPy must warn of.
WARNED = """
import warnings
warnings.simplefilter("ignore")
x = np.full(60 * few, 1e200)
out, other = np.empty_like(x), np.empty_like(x)
counted(layer.forward, x, x)
counted(layer.backward, x)
counted(fastlayers.AddLayer().forward, x, np.full(60 * few, -np.inf) * np.tile([1, -1], 30 * few))
square = fastlayers.Graph(lambda x, y: x * y + x)
counted(square, x, x)
counted(lambda: square(x, y=x))
counted(square.forward, x, x)
counted(square.value_and_grad, x, x)
counted(lambda: square.value_and_grad(x, x, wrt="x"))
counted(lambda: square(x, x, out=out))
counted(lambda: square.value_and_grad(x, x, out=(out, (other, None))))
counted(square.backward, x)
"""


@counts_threads
def test_what_warns_is_computed_at_most_twice(tmp_path):
    printed = counts_of(WARNED, 2, tmp_path)
    # The sum raises nothing, so it is computed once; NumPy never wakes a thread.
    assert [woken for _, woken in printed] == [1] * 11
