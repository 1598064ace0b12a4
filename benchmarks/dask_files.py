"""A graph's value and gradients on arrays in files: by plain Dask, and by `Graph`.

Five arrays of float64 are written as Dask writes them, a ``.npy`` file for each block, and the sums
of the value and of the five gradients of ``(a*b + c*d)*e`` are computed from these, block by block.
Dask maps the files into memory; what is printed as the most memory that a contestant had resident
includes that. Each runs in processes of its own, in turns.

    python benchmarks/dask_files.py --gib 4
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import dask
import dask.array as da
import numpy as np

from fastlayers import Graph

ARRAYS = 5
BLOCK = 1 << 20  # elements


def expression(a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    return (a * b + c * d) * e


def by_hand(a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    """Plain Dask arithmetic, forward and backward, as one writes it by hand."""
    total = a * b + c * d
    return total * e, e * b, e * a, e * d, e * c, total


def by_graph(*operands: Any) -> Any:
    value, gradients = Graph(expression).value_and_grad(*operands)
    return value, *gradients


CONTESTANTS = {"plain Dask": by_hand, "Graph": by_graph}


def folder_of(folder: Path, number: int) -> Path:
    return folder / f"fastlayers-{number}"


def write_arrays(folder: Path, elements: int) -> None:
    for number in range(ARRAYS):
        array = da.random.default_rng(number).random(elements, chunks=BLOCK)
        da.to_npy_stack(str(folder_of(folder, number)), array)


def run_contestant(name: str, folder: Path) -> None:
    """Print the sums, the seconds and the peak of resident memory, as JSON."""
    operands = [da.from_npy_stack(str(folder_of(folder, number))) for number in range(ARRAYS)]
    dask.compute(da.ones(2).sum())  # Dask imports much of itself when it first computes
    started = perf_counter()
    sums = dask.compute(*[one.sum() for one in CONTESTANTS[name](*operands)])
    seconds = perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    print(json.dumps({"sums": [float(one) for one in sums], "seconds": seconds, "GiB": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(), help="where the files go")
    parser.add_argument("--gib", type=float, default=2, help="of all files; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        run_contestant(arguments.contestant, arguments.folder)
        return

    elements = int(arguments.gib * (1 << 30)) // (8 * ARRAYS)
    found: dict[str, list[Any]] = {name: [] for name in CONTESTANTS}
    try:
        write_arrays(arguments.folder, elements)
        for _ in range(arguments.rounds):
            for name, results in found.items():
                command = [sys.executable, __file__, "--contestant", name]
                command += ["--folder", str(arguments.folder)]
                printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results.append(json.loads(printed))
                print(name, {key: results[-1][key] for key in ("seconds", "GiB")}, flush=True)
    finally:
        for number in range(ARRAYS):
            shutil.rmtree(folder_of(arguments.folder, number), ignore_errors=True)
    plain, ours = ([one["seconds"] for one in results] for results in found.values())
    np.testing.assert_allclose(*[results[0]["sums"] for results in found.values()], rtol=1e-12)
    ratio = f"{median(plain) / median(ours):.2f}"
    print(f"{elements:,} elements: plain / Graph, medians of {arguments.rounds} rounds: {ratio}")


if __name__ == "__main__":
    main()
