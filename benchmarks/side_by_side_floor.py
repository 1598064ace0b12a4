"""What a step takes at least: floor.c, compiled on the spot. It is no contestant."""

from __future__ import annotations

import ctypes
import functools
import itertools
import subprocess
import tempfile
import timeit
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

FLOOR = "C"

# The loops of a step, by the layer or the expression.
LOOPS = {
    "MulLayer": ("multiply", "multiply_backward"),
    "AddLayer": ("add", "add_backward"),
    "(a*b + c*d)*e": ("shop",),
    "f*c + g*i": ("gates",),
}


class Floor:
    """Steps by the quickest number of threads, and of stores past the caches or into them.

    The operands are arrays of one shape and dtype, the last of them ``dout``. There are as many
    results: the value, and a gradient for each other operand.
    """

    def __init__(self, name: str, operands: tuple[Any, ...]) -> None:
        self.library = compiled()
        functions = [getattr(self.library, f"{loop}_{operands[0].dtype}") for loop in LOOPS[name]]
        self.loops = (ctypes.c_void_p * len(functions))(
            *[ctypes.cast(function, ctypes.c_void_p) for function in functions]
        )
        count = len(operands)
        arrays = apart(operands * 3)
        self.results = arrays[count : 2 * count], arrays[2 * count :]
        self.size = operands[0].size
        self.operands = pointers(arrays[:count])
        self.keep = [pointers(results) for results in self.results]
        self.sets = (ctypes.c_void_p * 2)(*[ctypes.addressof(one) for one in self.keep])
        most = self.library.omp_get_max_threads()
        counts = {most, *itertools.takewhile(lambda n: n < most, (1 << k for k in range(16)))}
        self.way = min(itertools.product(sorted(counts), (0, 1)), key=self.seconds)

    def seconds(self, way: tuple[int, int]) -> float:
        steps = max(1, 1_000_000 // (self.size + 10_000))
        turn = self.turns(steps, way)
        return min(timeit.repeat(partial(next, turn), number=1, repeat=9)) / steps

    def turns(self, steps: int, way: tuple[int, int] | None = None) -> Iterator[Any]:
        """Run so many steps a turn; yield the last one's results."""
        threads, streaming = way or self.way
        for first in itertools.count(0, steps):
            self.library.repeat(
                self.loops,
                len(self.loops),
                ctypes.c_long(first),
                ctypes.c_long(steps),
                ctypes.c_long(self.size),
                threads,
                streaming,
                self.operands,
                self.sets,
            )
            yield self.results[(first + steps - 1) % 2]


@functools.cache
def compiled() -> Any:
    source = Path(__file__).with_name("floor.c")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "floor.so")
        flags = ["-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, str(source), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))


def apart(arrays: tuple[Any, ...]) -> list[Any]:
    """Copy arrays into one piece of memory, each to another place of a page.

    At the same place they would hinder each other: whether a load has to wait for a store is first
    seen from the address within a page. One piece is large enough for NumPy to ask for huge pages.
    """
    page, line = 4096, 64
    rooms = [(array.nbytes // page + 2) * page for array in arrays]
    memory = np.empty(sum(rooms) + page, np.uint8)
    start = -memory.ctypes.data % page
    copies = []
    for number, (array, room) in enumerate(zip(arrays, rooms, strict=True)):
        first = start + number * 5 * line % page
        copy = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        copies.append(copy)
        start += room
    return copies


def pointers(arrays: list[Any]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])
