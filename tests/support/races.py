"""Threads that share the recycler, layers and graphs, while others turn the knobs.

    python tests/support/races.py [rounds]

The recycler's lock must hold where the GIL does not; layers and graphs share inputs and outputs,
let go of it for every call, and have threads of OpenMP help them: for the thread sanitizer, too.
"""

from __future__ import annotations

import collections
import copy
import ctypes
import random
import sys
import threading
from types import SimpleNamespace

import numpy as np
from calls import SERVED, make, operands
from outcome import described
from recycler import recycler

import fastlayers
from fastlayers._core import memory
from fastlayers._core.frontend import schedule

THREADS = 8
SEEDS = range(1, 2 * THREADS + 3)
ROUNDS = int(sys.argv[1]) if sys.argv[1:] else 2_000
SIZES = [100, 3_000, 5_000, 140_000, 1_200_000]  # of malloc, within a page, mapped

others: collections.deque[int] = collections.deque()  # blocks for any thread to free
errors: list[object] = []


def recycle(seed: int) -> None:
    rng = random.Random(seed)
    for i in range(ROUNDS):
        n = rng.choice(SIZES)
        block = recycler.malloc(None, n) if i % 2 else recycler.calloc(None, n, 1)
        ctypes.memset(block, seed, n)
        if i % 3 == 0:
            block = recycler.realloc(None, block, 2 * n)
        if ctypes.string_at(block, n).count(seed) != n:
            errors.append(f"a block of {n} bytes was shared")
        others.append(block)
        recycler.free(None, others.popleft(), 0)


def adjust(seed: int) -> None:
    rng = random.Random(seed)
    limit = fastlayers.cache_info().limit
    for _ in range(ROUNDS // 4):
        fastlayers.set_cache_limit(rng.choice([0, 1 << 20, limit]))
        fastlayers.empty_cache()
        memory.set_idle_seconds(rng.choice([0.0, 0.001]))
        fastlayers.set_num_threads(rng.choice([1, 2, 5]))
    fastlayers.set_cache_limit(limit)


shared = operands(rows=20)
layer = fastlayers.MulLayer()
NAMES = [name for name in SERVED if name != "knobs"]
NAMES += ["complex", "a graph", "a graph that sums", "a graph of rows and columns"]
NAMES += ["a network", "a network of products", "sums of all"]
expected: dict[str, object] = {}


def with_own_outputs() -> SimpleNamespace:
    o = copy.copy(shared)
    o.out, o.other_out, o.stepped_out = shared.x.copy(), shared.x.copy(), np.ones((20, 64))[:, ::2]
    return o


def compute(seed: int) -> None:
    o = with_own_outputs()
    x, y, dout = seed * shared.x, shared.y, shared.x
    for _ in range(ROUNDS // 100):
        errors.extend(name for name in NAMES if described(make(name, o)) != expected[name])
        if not np.array_equal(layer.forward(x, y), x * y):
            errors.append("a layer gave another product")
        # Of its own operands, or of those of another thread: never anything else.
        dx, dy = layer.backward(dout)
        factors = np.unique(dy / (dout * shared.x))
        if not np.array_equal(dx, dout * y) or len(factors) != 1 or factors[0] not in SEEDS:
            errors.append("a layer gave another gradient")


def main() -> int:
    assert fastlayers.show_config("dicts")["threads"]["openmp"]
    schedule.set_thresholds(gil=1, threads=1, recycling=1)
    expected.update((name, described(make(name, with_own_outputs()))) for name in NAMES)
    memory.set_idle_seconds(0.0)  # the sweeper is there, too, and comes and goes
    sys.setswitchinterval(1e-5)
    work = [recycle] * THREADS + [compute] * THREADS + [adjust] * 2
    threads = [threading.Thread(target=f, args=[i]) for i, f in zip(SEEDS, work, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while others:
        recycler.free(None, others.popleft(), 0)
    fastlayers.set_cache_limit(0)
    if fastlayers.cache_info()[2:4] != (0, 0):
        errors.append("blocks were counted wrongly")
    print(len(threads), "threads,", len(errors), "errors", *errors[:5])
    return len(errors) > 0


if __name__ == "__main__":
    sys.exit(main())
