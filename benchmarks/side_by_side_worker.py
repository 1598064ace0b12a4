"""The process in which side_by_side.py has one contestant measured.

It is given its task as JSON, and prints a line of JSON for every figure as soon as it has it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from side_by_side_cases import GROUPS, Group, Turns, make_operands, start

# Seconds. Batches are long beside the clock's resolution, and short beside the scheduler's doings,
# so that the median leaves those out.
BATCH = 1e-3
WARM_UP = 0.05
FEWEST_BATCHES = 7


def time_steps(turns: Turns, seconds: float) -> dict[str, Any]:
    single = turns(1)
    next(single)  # compiles, for those who do
    count = 0
    start = perf_counter()
    while (elapsed := perf_counter() - start) < WARM_UP or count < 2:
        next(single)
        count += 1
    del single  # and with it the results that it keeps

    steps = math.ceil(BATCH / elapsed * count)
    batch = turns(steps)
    next(batch)
    times: list[float] = []
    begin = perf_counter()
    while perf_counter() - begin < seconds or len(times) < FEWEST_BATCHES:
        start = perf_counter()
        next(batch)
        times.append((perf_counter() - start) / steps)
    return {"median": median(times), "best": min(times), "batches": len(times), "steps": steps}


def check(contestant: str, group: Group, size: str) -> None:
    """Compare a first step's results with the plain layer's.

    After the timing, since the plain layer's arrays would grow the heap for the contestant.
    """
    plain = "np.sum" if group.sum_to_shape else "plain"
    results, expected = (
        next(start(each, group, make_operands(group, size))(1)) for each in (contestant, plain)
    )
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
            turns = start(task["contestant"], group, arrays)
            figures = time_steps(turns, task["seconds"])
            if task["check"]:
                check(task["contestant"], group, size)
        except Exception as error:
            figures = {"error": f"{type(error).__name__}: {error}"}
        yield {"size": size, **figures}


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    try:
        for line in measure(request):
            print(json.dumps(line), flush=True)
    except KeyboardInterrupt:
        sys.exit(130)  # side_by_side.py was interrupted too, and says so
