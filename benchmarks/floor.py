"""What a step takes at least: floor.c, compiled on the spot."""

from __future__ import annotations

import ctypes
import functools
import itertools
import subprocess
import tempfile
import timeit
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Floor:
    """Steps by the quickest number of threads, and of stores past the caches or into them.

    ``names`` are those of a step's loops. The operands are arrays of one shape and dtype, one of
    them ``dout``. There are as many results: the value, and a gradient for each other operand.
    """

    def __init__(self, names: Sequence[str], operands: Sequence[Any]) -> None:
        library = compiled()
        self.repeat = library.repeat
        loops = [getattr(library, f"{name}_{operands[0].dtype}") for name in names]
        self.loops = pointers(ctypes.cast(loop, ctypes.c_void_p) for loop in loops), len(loops)
        self.size = operands[0].size
        count = len(operands)
        arrays = apart([*operands] * 3)
        self.results = arrays[count : 2 * count], arrays[2 * count :]
        sets = arrays[:count], *self.results
        self.keep = [pointers(array.ctypes.data for array in each) for each in sets]
        self.arrays = self.keep[0], pointers(map(ctypes.addressof, self.keep[1:]))
        most = library.omp_get_max_threads()
        counts = {most, *itertools.takewhile(lambda n: n < most, (1 << k for k in range(16)))}
        self.way = min(itertools.product(sorted(counts), (0, 1)), key=self.seconds)

    def seconds(self, way: tuple[int, int]) -> float:
        steps = max(1, 1_000_000 // (self.size + 10_000))
        turn = self.turns(steps, way)
        return min(timeit.repeat(lambda: next(turn), number=1, repeat=9)) / steps

    def turns(self, steps: int, way: tuple[int, int] | None = None) -> Iterator[Any]:
        """Run so many steps a turn; yield the last one's results."""
        for first in itertools.count(0, steps):
            self.repeat(*self.loops, first, steps, self.size, *(way or self.way), *self.arrays)
            yield self.results[(first + steps - 1) % 2]


@functools.cache
def compiled() -> Any:
    source = Path(__file__).with_name("floor.c")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "floor.so")
        flags = ["-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, str(source), "-o", str(file)], check=True)
        library = ctypes.CDLL(str(file))
    pointer, number, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_long
    library.repeat.argtypes = pointer, number, long, long, long, number, number, pointer, pointer
    return library


def apart(arrays: Sequence[Any]) -> list[Any]:
    """Copy arrays into one piece of memory, each to another place of a page.

    At the same place they would hinder each other: whether a load has to wait for a store is first
    seen from the address within a page. One piece is large enough for NumPy to ask for huge pages.
    """
    page, line = 4096, 64
    room = (arrays[0].nbytes // page + 2) * page
    memory = np.empty(room * len(arrays) + page, np.uint8)
    start = -memory.ctypes.data % page
    copies = []
    for number, array in enumerate(arrays):
        first = start + number * room + number * 5 * line % page
        copies.append(memory[first : first + array.nbytes].view(array.dtype))
        copies[-1][...] = array
    return copies


def pointers(values: Iterable[Any]) -> Any:
    values = list(values)
    return (ctypes.c_void_p * len(values))(*values)
