"""Makes every call of calls.py a million times, and looks for what is left behind.

    python tests/support/leaks.py [calls]

Half of them with memory of NumPy's, half with memory from the recycler, which here serves small
results too. What takes a fifth of a millisecond, as a new graph does, is called a tenth as often.
What stays of one call in a thousand is found: references by their counts, Python's and NumPy's
memory by tracemalloc, everything else by the memory of the process.
"""

from __future__ import annotations

import gc
import itertools
import sys
import time
import tracemalloc
from pathlib import Path as File
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from calls import NAMES, make, operands
from operands import KERNEL_DTYPES
from paths import Path, taken

import fastlayers
from fastlayers._core import memory, simd

# Of which every call takes and drops references.
SHARED = [None, True, *map(np.dtype, KERNEL_DTYPES), memory.recycling_handler()]


class State(NamedTuple):
    """What calls must leave as it was."""

    references: list[int]  # to each operand
    shared_references: int
    new_blocks: int  # that the recycler needed: as many as did not come back
    traced: int  # bytes, as tracemalloc counts them


def state(o: SimpleNamespace) -> State:
    info = fastlayers.cache_info()
    return State(
        [sys.getrefcount(operand) for operand in vars(o).values()],
        sum(map(sys.getrefcount, SHARED)),
        info.misses if info.limit else 0,
        tracemalloc.get_traced_memory()[0],
    )


def changes(o: SimpleNamespace, before: State, after: State) -> list[str]:
    """The references that two states differ in, in words."""
    return [
        f"{operand}: {b} references, {a} before"
        for operand, a, b in zip(vars(o), before.references, after.references, strict=True)
        if a != b
    ]


def left_behind(name: str, o: SimpleNamespace, count: int) -> list[str]:
    """What so many calls of that name leave behind, in words."""
    calls = itertools.repeat(None, count)
    gc.collect()
    before = state(o)
    for _ in calls:
        make(name, o)
    # It also empties Python's free lists: 2,000 tuples of each length would count as left behind.
    cycles = gc.collect()
    after = state(o)
    found = changes(o, before, after)
    if cycles:
        found.append(f"{cycles} objects in cycles")
    # Python keeps some objects for reuse, and these states are objects, too.
    if after.shared_references - before.shared_references > count // 1000 + 10:
        found.append(f"{after.shared_references - before.shared_references} shared references")
    if after.traced - before.traced > count // 50 + 4_000:
        found.append(f"{after.traced - before.traced} bytes traced")
    if after.new_blocks - before.new_blocks > count // 100 + 10:
        found.append(f"{after.new_blocks - before.new_blocks} blocks did not come back")
    return found


def resident_bytes() -> int:
    """Memory of the process; 0 where /proc does not tell. Files are not counted: the system drops
    their pages, those of code too, and reads them again.
    """
    file = File("/proc/self/status")
    lines = file.read_text().splitlines() if file.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def grown(name: str, o: SimpleNamespace, count: int) -> tuple[list[str], int]:
    """What `left_behind` finds, and by how many bytes the process has grown."""
    resident = resident_bytes()
    found = left_behind(name, o, count)
    return found, resident_bytes() - resident


GROWTH = 1 << 18  # bytes, in half a million calls; in 50,000 of slow ones


def main(count: int) -> int:
    failures = 0
    start = time.monotonic()
    o = operands(rows=2)
    tracemalloc.start()
    gc.disable()  # nothing here may need it: what it finds in the end counts
    for recycling in (False, True):
        with taken(Path(simd.in_use(), threads=1, recycling=recycling)):
            for name in NAMES:
                begun = time.monotonic()
                left_behind(name, o, 1_000)
                is_slow = time.monotonic() - begun > 0.2
                times = count // 20 if is_slow else count // 2
                left_behind(name, o, times // 20)  # caches fill, and the heap finds its size
                found, growth = grown(name, o, times)
                if growth > GROWTH:  # the heap may only now have found its size: a leak goes on
                    more, growth = grown(name, o, times)
                    found += more
                if growth > GROWTH:
                    found.append(f"{growth} bytes resident")
                if found:
                    failures += 1
                    print(
                        f"{name}, {'recycled' if recycling else 'new'}:",
                        *found,
                        sep="\n    ",
                        flush=True,
                    )
    print(
        f"{len(NAMES)} calls, {count:,} times each: {failures} of them left something behind "
        f"({time.monotonic() - start:.0f} s)"
    )
    return failures > 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 1_000_000))
