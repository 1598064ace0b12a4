"""Lets contestants take turns, each in a process of its own, which is this file as a program: it is
given its task as JSON, and prints a line of JSON for every size as soon as it has it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from cases import CASES, Case, make_operands
from contestants import CONTESTANTS, Turns
from report import readable

# Seconds. Batches are long beside the clock's resolution, and short beside the scheduler's doings,
# so that the median leaves those out.
BATCH = 1e-3
WARM_UP = 0.05
FEWEST_BATCHES = 7


class Job(NamedTuple):
    """What one process measures. Those that will be compared are best next to each other."""

    case: str
    contestant: str
    sizes: tuple[str, ...]
    environment: Mapping[str, str] = {}
    script: str = "runner.py"


def take_turns(
    jobs: Sequence[Job], rounds: int, seconds: float = 0
) -> Iterator[tuple[int, Job, dict[str, Any]]]:
    """Run every job once a round; yield the round, the job, and what it says of a size.

    Every second round goes the other way round: nobody always comes after the same one. A job that
    failed is not run again.
    """
    total = rounds * sum(len(job.sizes) for job in jobs)
    done = 0
    failed: list[Job] = []
    start = perf_counter()
    for number in range(1, rounds + 1):
        for job in jobs if number % 2 else reversed(jobs):
            before = done
            for line in run(job, seconds, check=number == 1) if job not in failed else ():
                done += "size" in line
                if "error" in line:
                    failed.append(job)
                left = (perf_counter() - start) / max(done, 1) * (total - done)
                who = " ".join([job.contestant, *job.environment.values()])
                text = line.get("error") or readable(line["median"])
                what = f"{job.case:18}{line.get('size', ''):>6}  {who:14}{text:>9}"
                progress(f"{done:4}/{total}  {what}   {timedelta(seconds=int(left))} left")
                yield number, job, line
            done = before + len(job.sizes)


def run(job: Job, seconds: float, check: bool) -> Iterator[dict[str, Any]]:
    task = json.dumps({**job._asdict(), "seconds": seconds, "check": check})
    command = [sys.executable, str(Path(__file__).parent / job.script), task]
    environment = {**os.environ, **job.environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout or ():
            yield json.loads(line)
    if process.returncode:
        yield {"error": f"its process ended with code {process.returncode}"}


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    case = CASES[task["case"]]
    for size in task["sizes"]:
        try:
            turns = CONTESTANTS[task["contestant"]].turns(case, make_operands(case, size))
            figures = time_steps(turns, task["seconds"])
            if task["check"]:
                check(task["contestant"], case, size)
        except Exception as error:
            figures = {"error": f"{type(error).__name__}: {error}"}
        yield {"size": size, **figures}


def time_steps(turns: Turns, seconds: float) -> dict[str, Any]:
    single = turns(1)
    start = perf_counter()
    next(single)  # compiles, for those who do
    first = perf_counter() - start
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
    figures = {"median": median(times), "best": min(times), "first": first}
    return {**figures, "batches": len(times), "steps": steps}


def check(contestant: str, case: Case, size: str) -> None:
    """Compare a first step's results with plain NumPy's.

    After the timing, since the arrays of plain NumPy would grow the heap for the contestant.
    """
    plain = "np.sum" if case.kind == "sums" else "plain"
    results, expected = (
        flat(next(CONTESTANTS[each].turns(case, make_operands(case, size))(1)))
        for each in (contestant, plain)
    )
    for i, (result, right) in enumerate(zip(results, expected, strict=True)):
        result = np.asarray(result.detach() if hasattr(result, "detach") else result)
        # Beside the largest: differences of like numbers lose digits, also in plain NumPy.
        limit = np.max(np.abs(right), initial=0) * (1e-4 if case.dtype == "float32" else 1e-5)
        types = (result.shape, result.dtype), (right.shape, right.dtype)
        if types[0] != types[1] or not np.allclose(result, right, 0, limit):
            raise RuntimeError("result {} is wrong: {}, plain NumPy's is {}".format(i, *types))


def flat(results: Any) -> list[Any]:
    several = isinstance(results, tuple | list)
    return [one for result in results for one in flat(result)] if several else [results]


if __name__ == "__main__":
    try:
        for line in measure(json.loads(sys.argv[1])):
            print(json.dumps(line), flush=True)
    except KeyboardInterrupt:
        sys.exit(130)  # the command was interrupted too, and says so
