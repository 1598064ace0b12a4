"""A graph's value and gradients on arrays in files: by plain Dask, and by `Graph`.

Five arrays of float64 are written into files, and the sums of the value and of the five gradients
of ``(a*b + c*d)*e`` are computed from these, block by block. Each contestant runs in processes of
its own, in turns; the most memory that it had resident is printed beside its time.

    python benchmarks/dask_files.py --gib 4
"""

from __future__ import annotations

import argparse
import json
import resource
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
ROUNDS = 3


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


def write_arrays(folder: Path, elements: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(ARRAYS):
        with path_of(folder, number).open("wb") as file:
            for start in range(0, elements, BLOCK):
                rng.random(min(BLOCK, elements - start)).tofile(file)


def path_of(folder: Path, number: int) -> Path:
    return folder / f"fastlayers-{number}.float64"


def run_contestant(name: str, folder: Path) -> None:
    """Print the sums, the seconds and the peak of resident memory, as JSON."""
    elements = path_of(folder, 0).stat().st_size // 8
    chunks = da.core.normalize_chunks(BLOCK, (elements,))
    operands = [
        da.map_blocks(read, path_of(folder, number), chunks=chunks, dtype=np.float64)
        for number in range(ARRAYS)
    ]
    started = perf_counter()
    sums = dask.compute(*[one.sum() for one in CONTESTANTS[name](*operands)])
    seconds = perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    print(json.dumps({"sums": [float(one) for one in sums], "seconds": seconds, "GiB": peak}))


def read(path: Path, block_info: Any = None) -> Any:
    """The block of a file that Dask asks for."""
    ((start, stop),) = block_info[None]["array-location"]
    return np.fromfile(path, np.float64, stop - start, offset=8 * start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(), help="where the files go")
    parser.add_argument("--gib", type=float, default=2, help="of all files; default: %(default)s")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        run_contestant(arguments.contestant, arguments.folder)
        return

    elements = int(arguments.gib * (1 << 30)) // (8 * ARRAYS)
    write_arrays(arguments.folder, elements)
    found: dict[str, list[Any]] = {name: [] for name in CONTESTANTS}
    try:
        for _ in range(ROUNDS):
            for name, results in found.items():
                command = [sys.executable, __file__, "--contestant", name]
                command += ["--folder", str(arguments.folder)]
                printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results.append(json.loads(printed))
                print(name, {key: results[-1][key] for key in ("seconds", "GiB")}, flush=True)
    finally:
        for number in range(ARRAYS):
            path_of(arguments.folder, number).unlink(missing_ok=True)
    plain, ours = ([one["seconds"] for one in results] for results in found.values())
    np.testing.assert_allclose(*[results[0]["sums"] for results in found.values()], rtol=1e-12)
    ratio = median(plain) / median(ours)
    print(f"{elements:,} elements: plain / Graph, medians of {ROUNDS} rounds: {ratio:.2f}")


if __name__ == "__main__":
    main()
