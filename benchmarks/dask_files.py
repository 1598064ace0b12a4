"""A graph's value and gradients on arrays in files: by plain Dask, and by `Graph`.

    python benchmarks/dask_files.py --gib 4

Five arrays of float64 are written as Dask writes them, a ``.npy`` file for each block, and the sums
of the value and of the five gradients of ``(a*b + c*d)*e`` are computed from these, block by block.
Dask maps the files into memory; what is printed as the most memory that a contestant had resident
includes that.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import dask
import dask.array as da
import numpy as np
from cases import shop
from runner import Job, take_turns

from fastlayers import Graph

NAMES = "abcde"
BLOCK = 1 << 20  # elements


def by_hand(a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    """Plain Dask arithmetic, forward and backward, as one writes it by hand."""
    total = a * b + c * d
    return total * e, e * b, e * a, e * d, e * c, total


def by_graph(*operands: Any) -> Any:
    value, gradients = Graph(shop).value_and_grad(*operands)
    return value, *gradients


CONTESTANTS = {"plain Dask": by_hand, "Graph": by_graph}


def measure(contestant: str, folder: str) -> dict[str, Any]:
    operands = [da.from_npy_stack(str(Path(folder, name))) for name in NAMES]
    dask.compute(da.ones(2).sum())  # Dask imports much of itself when it first computes
    started = perf_counter()
    sums = dask.compute(*[one.sum() for one in CONTESTANTS[contestant](*operands)])
    line = {"size": "", "median": perf_counter() - started, "sums": [*map(float, sums)]}
    return line | {"GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)}


def compare(gib: float, rounds: int) -> None:
    elements = int(gib * (1 << 30)) // (8 * len(NAMES))
    lines: dict[str, list[Any]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for number, name in enumerate(NAMES):
            array = da.random.default_rng(number).random(elements, chunks=BLOCK)
            da.to_npy_stack(str(Path(folder, name)), array)
        jobs = [Job("files", name, (folder,), script=__file__) for name in CONTESTANTS]
        for _, job, line in take_turns(jobs, rounds):
            if "error" in line:
                sys.exit(f"{job.contestant}: {line['error']}")
            lines[job.contestant].append(line)
    print(f"{elements:,} elements, medians of {rounds} rounds")
    for name, each in lines.items():
        seconds, peak = median(line["median"] for line in each), max(line["GiB"] for line in each)
        print(f"{name}: {seconds:.3g} s, at most {peak:.2f} GiB")
    np.testing.assert_allclose(*[each[0]["sums"] for each in lines.values()], rtol=1e-12)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        task = json.loads(sys.argv[1])
        print(json.dumps(measure(task["contestant"], *task["sizes"])))
    else:
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("--gib", type=float, default=2, help="of files, here; default: 2")
        parser.add_argument("--rounds", type=int, default=3, help="default: 3")
        compare(**vars(parser.parse_args()))
