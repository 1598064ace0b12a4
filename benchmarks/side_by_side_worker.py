"""The process in which side_by_side.py has one contestant measured, or the memory's bandwidth.

It is given its task as JSON, and prints a line of JSON for every figure as soon as it has it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from side_by_side_cases import (
    GROUPS,
    Group,
    Operands,
    make_operands,
    start,
    start_plain,
    start_sum,
)

# Seconds. Batches are long beside the clock's resolution, and short beside the scheduler's doings,
# so that the median leaves those out.
BATCH = 1e-3
WARM_UP = 0.05
FEWEST_BATCHES = 7


def stepping(layer: Any, operands: Operands, steps: int) -> Iterator[Any]:
    """Run so many steps a turn.

    The variables keep a step's results until the next one's replace them, from turn to turn too, as
    a training loop's do: when old results die decides which memory the new ones get.
    """
    x, y, dout = operands
    while True:
        for _ in range(steps):
            out = layer.forward(x, y)
            dx, dy = layer.backward(dout)
        yield out, dx, dy


def calling(step: Any, steps: int) -> Iterator[Any]:
    """The same for a graph's step, which returns all results."""
    while True:
        for _ in range(steps):
            results = step()
        yield results


def turns(layer: Any, operands: Operands, steps: int) -> Iterator[Any]:
    return stepping(layer, operands, steps) if operands else calling(layer, steps)


def time_steps(layer: Any, operands: Operands, seconds: float) -> dict[str, Any]:
    single = turns(layer, operands, 1)
    next(single)  # compiles, for those who do
    count = 0
    start = perf_counter()
    while (elapsed := perf_counter() - start) < WARM_UP or count < 2:
        next(single)
        count += 1
    del single  # and with it the results that it keeps

    steps = math.ceil(BATCH / elapsed * count)
    batch = turns(layer, operands, steps)
    next(batch)
    times: list[float] = []
    begin = perf_counter()
    while perf_counter() - begin < seconds or len(times) < FEWEST_BATCHES:
        start = perf_counter()
        next(batch)
        times.append((perf_counter() - start) / steps)
    return {"median": median(times), "best": min(times), "batches": len(times), "steps": steps}


def check(group: Group, arrays: Operands, layer: Any, operands: Operands) -> None:
    """Compare a step's results with the plain layer's.

    After the timing, since the plain layer's arrays would grow the heap for the contestant.
    """
    results = next(turns(layer, operands, 1))
    if group.layout == "graph":
        plain, given = start("plain", group, arrays)
    else:
        plain, given = (start_sum if group.sum_to_shape else start_plain)(group, arrays)
    expected = next(turns(plain, given, 1))
    for i, (result, right) in enumerate(zip(flat(results), flat(expected), strict=True)):
        name = f"result {i}"
        result = np.asarray(result.detach() if hasattr(result, "detach") else result)
        if (result.shape, result.dtype) != (right.shape, right.dtype):
            raise RuntimeError(
                f"{name} is {result.dtype} {result.shape}, not {right.dtype} {right.shape}"
            )
        # Beside the largest: differences of like numbers lose digits, also in plain NumPy.
        scale = np.max(np.abs(right), initial=0)
        if not np.allclose(result, right, 0, scale * (1e-4 if group.dtype == "float32" else 1e-5)):
            raise RuntimeError(f"{name} is wrong")


def flat(results: Any) -> list[Any]:
    if isinstance(results, tuple | list):
        return [one for result in results for one in flat(result)]
    return [results]


def measure(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    group = GROUPS[task["group"]]
    for size in task["sizes"]:
        try:
            arrays = make_operands(group, size)
            layer, operands = start(task["contestant"], group, arrays)
            figures = time_steps(layer, operands, task["seconds"])
            if task["check"]:
                check(group, arrays, layer, operands)
        except Exception as error:
            figures = {"error": f"{type(error).__name__}: {error}"}
        yield {"size": size, **figures}


def run_in_threads(work: Callable[[int], object], threads: int, seconds: float) -> float:
    """Return the shortest time in which so many threads, each with its number, did their work."""
    barrier = threading.Barrier(threads + 1)
    finished = False

    def loop(number: int) -> None:
        while True:
            barrier.wait()
            if finished:
                return
            work(number)
            barrier.wait()

    pool = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    for thread in pool:
        thread.start()
    times: list[float] = []
    begin = perf_counter()
    while perf_counter() - begin < seconds or len(times) < FEWEST_BATCHES:
        start = perf_counter()
        barrier.wait()
        barrier.wait()
        times.append(perf_counter() - start)
    finished = True
    barrier.wait()
    for thread in pool:
        thread.join()
    return min(times)


def bandwidth(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Measure the bytes a second that copying moves: those read and those written.

    NumPy's copy is C's memmove, without the GIL; the faster of one thread and all CPUs counts. The
    two arrays take up as much memory as the six of a step do, since the caches may hold a part of
    either.
    """
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        cpus = os.cpu_count() or 1
    for footprint in task["footprints"]:
        memory = np.ones(footprint // 8)
        source, target = np.array_split(memory, 2)
        fastest = math.inf
        for threads in {1, cpus}:
            sources, targets = np.array_split(source, threads), np.array_split(target, threads)

            def copy(number: int, sources: Any = sources, targets: Any = targets) -> None:
                np.copyto(targets[number], sources[number])

            fastest = min(fastest, run_in_threads(copy, threads, task["seconds"]))
        yield {"footprint": footprint, "bytes_per_second": memory.nbytes / fastest}


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    try:
        for line in (bandwidth if "footprints" in request else measure)(request):
            print(json.dumps(line), flush=True)
    except KeyboardInterrupt:
        sys.exit(130)  # side_by_side.py was interrupted too, and says so
