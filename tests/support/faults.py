"""Makes calls while an allocation fails, each in turn, alone or with all after it.

    python tests/support/faults.py
    LD_PRELOAD=failing_allocators.so python tests/support/faults.py

The allocations are Python's own, or with the library (built of failing_allocators.c) the large ones
of the C library. A call must end in its result or in a MemoryError, leave nothing behind, and give
its result the next time. What does not is printed, and how many allocations failed.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
from calls import ERROR, NAMES, SERVED, make, operands
from leaks import changes, resident_bytes, state
from outcome import described
from paths import Path, taken

import fastlayers
from fastlayers._core import memory, simd

FOREVER = 1 << 30

# Where the buffers of a cast cannot be allocated, NumPy 2.4 uses them all the same, and crashes.
CAST = {"summed by NumPy", "complex", "mixed", "byte-swapped", "unaligned"}
CAST |= {"a graph of what is mixed"}
# And where a difference is broadcast, which graphs leave to NumPy: `x - row` alone crashes.
CAST |= {"a graph with out"}
CAST |= {"a network", "a network of short rows", "a network's step", "a network that warns"}
CAST |= {ERROR + "overflow warned of by NumPy"}
if np.lib.NumpyVersion(np.__version__) < "2.3.0":
    # There even where the cast is refused in the end.
    CAST |= {ERROR + "out of another dtype", ERROR + "out, its second"}

# NumPy's memory for writing floats is a thread's own: without it the C library ends the process.
repr(np.float64(0.1))

NUMPYS_HANDLER = memory.set_handler(memory.recycling_handler())
memory.set_handler(NUMPYS_HANDLER)


def python_fails(call: Callable, first: int, last: int) -> tuple[object, bool]:
    """Make a call while Python's allocations from first to last fail; also say if one did."""
    import _testcapi

    _testcapi.set_nomemory(first, last + 1)
    try:
        result = call()
    except MemoryError:
        result = MemoryError
    try:
        failed = result is MemoryError or not [None] * 100
    except MemoryError:
        failed = True
    _testcapi.remove_mem_hooks()
    return result, failed


def c_fails(call: Callable, first: int, last: int) -> tuple[object, bool]:
    """Make a call while the C library's large allocations from first to last fail."""
    library = ctypes.CDLL(None)
    fastlayers.empty_cache()
    library.fail_requests(ctypes.c_long(first), ctypes.c_long(last))
    try:
        result = call()
    except MemoryError:
        result = MemoryError
    return result, library.stop_failing() > first


def resident_bytes_but_for_idle(fails: Callable) -> int:
    """Memory of the process, without what the C library keeps for reuse where that is known."""
    if fails is c_fails:
        ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()


def attempt_all(name: str, o: SimpleNamespace, fails: Callable) -> tuple[int, list[str]]:
    """Let each of a call's allocations fail in turn; how many there are, and what goes wrong."""
    found = []
    expected = described(make(name, o))
    for first in itertools.count():
        for last in (FOREVER, first):
            result, failed = fails(lambda: make(name, o), first, last)
            if last == FOREVER and not failed:
                return first, found
            if result is not MemoryError and described(result) != expected:
                found.append(f"allocation {first}: another result")
            del result
            handler = memory.set_handler(NUMPYS_HANDLER)
            if handler is not NUMPYS_HANDLER and last == first:
                found.append(f"allocation {first}: the recycler stays in force")
            if described(make(name, o)) != expected:
                found.append(f"allocation {first}: another result afterwards")


def main() -> None:
    c = "failing_allocators" in os.environ.get("LD_PRELOAD", "")
    fails = c_fails if c else python_fails
    # NumPy does not survive it where Python's allocations fail in its own code.
    names = [name for name in NAMES if name not in CAST] if c else SERVED
    allocations = 0
    gc.disable()
    for rows in (16, 4_200) if c else (2, 16):  # with c for blocks of malloc, and mapped ones
        with taken(Path(simd.in_use(), threads=1)):
            o = operands(rows)
            for name in names:
                # As in test_memory.py: what is left behind is left behind every time.
                for _ in range(5):
                    fastlayers.empty_cache()
                    before, resident = state(o), resident_bytes_but_for_idle(fails)
                    count, found = attempt_all(name, o, fails)
                    fastlayers.empty_cache()
                    grown = resident_bytes_but_for_idle(fails) - resident
                    left = changes(o, before, state(o))
                    if grown > 1 << 20:
                        left.append(f"{grown} bytes more")
                    if found or not left:
                        break
                allocations += count
                if found or left:
                    print(name, *found, *left, sep="\n    ")
    print(f"{allocations} allocations failed in turn, alone and with all after it")


if __name__ == "__main__":
    main()
