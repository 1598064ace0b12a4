"""Memory: nothing is left behind, nothing breaks where there is none, and arrays outlive it all."""

from __future__ import annotations

import gc
import os
import platform
import sys
import sysconfig
import tracemalloc
from pathlib import Path as File

import numpy as np
import pytest
from fresh import SUPPORT, compiled, lines_of

import fastlayers
from fastlayers import core

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy has no memory of ours", allow_module_level=True)

import calls
import leaks
from paths import Path, taken

from fastlayers._core import simd

# ------------------------------------------------------------------------------------------ leaks

CALLS = 200  # leaks.py makes a million

WAYS = {
    "new": Path(simd.in_use(), threads=1, recycling=False),
    "recycled": Path(simd.in_use(), threads=1),
    "streamed on threads": Path(simd.in_use(), threads=3, streaming=True),
}


@pytest.fixture
def tracing():
    gc.collect()
    gc.freeze()  # what other tests have left is not looked through again and again
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()
    gc.unfreeze()


@pytest.fixture
def uncompiled():
    """Each time it compiles, llvmlite leaves two objects in a cycle."""
    before = core.passes.set_compiler(None)
    yield
    core.passes.set_compiler(*before)


@pytest.mark.parametrize("way", WAYS)
def test_calls_leave_nothing_behind(tracing, uncompiled, way):
    o = calls.operands(rows=2)
    found = {}
    with taken(WAYS[way]):
        # Where results come from, threads and streaming concern what the kernels serve.
        for name in calls.NAMES if way == "recycled" else calls.SERVED:
            # A leak is there every time. Caches fill once (Python keeps 2,000 tuples of a size),
            # and without the GIL Python puts off now and then what is to be freed.
            for _ in range(12):
                found[name] = leaks.left_behind(name, o, CALLS)
                if not found[name]:
                    break
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    ("leak", "what"),
    [
        (lambda o, kept: kept.append(o.x), "x: "),
        (lambda o, kept: kept.append(None), "shared references"),
        (lambda o, kept: kept.append(bytes(100)), "bytes traced"),
        (lambda o, kept: kept.append(fastlayers.add(o.x, 1.0)), "bytes traced"),
    ],
    ids=["operand", "None", "bytes", "result"],
)
def test_leaks_are_found(tracing, monkeypatch, leak, what):
    kept = []
    monkeypatch.setitem(calls.SERVED, "leaking", lambda o: leak(o, kept))
    if what == "shared references" and sys.version_info >= (3, 12):
        what = "bytes traced"  # None is not counted any more; the list is
    found = leaks.left_behind("leaking", calls.operands(rows=2), 10 * CALLS)
    assert any(what in line for line in found)


# ------------------------------------------------------------------------------------- how much

MIB = 1 << 20
needs_proc = pytest.mark.skipif(
    not File("/proc/self/statm").exists(), reason="memory is known from /proc"
)


def memory_of_process():
    """Bytes, resident and mapped."""
    mapped, resident = File("/proc/self/statm").read_text().split()[:2]
    return np.array([int(resident), int(mapped)]) * os.sysconf("SC_PAGE_SIZE")


def growth(call, count):
    """Bytes, resident and mapped, that so many calls make the process grow by."""
    before = memory_of_process()
    for _ in range(count):
        call()
    return memory_of_process() - before


# The process is not alone in its memory: the system may join its pages to huge ones of 2 MiB. Of
# what is measured here a leak of one block in a thousand steps would be more.
@needs_proc
def test_memory_stays_flat(cache):
    x, y, layer = np.ones(100_000), np.full(100_000, 2.0), fastlayers.MulLayer()

    def step():
        layer.backward(layer.forward(x, y))

    growth(step, 1_000)
    assert growth(step, 9_000)[0] < 4 * x.nbytes


@needs_proc
@pytest.mark.parametrize("n", [1_000, 100_000, 700_000])
def test_memory_given_back_is_gone(cache, n):
    # Also what was mapped beside a block, to begin it at a huge page.
    fastlayers.set_cache_limit(0)
    x = np.broadcast_to(1.0, n)
    growth(lambda: fastlayers.multiply(x, 2.0), 10)
    assert max(growth(lambda: fastlayers.multiply(x, 2.0), 8_000_000 // max(n, 20_000))) < 4 * MIB


@needs_proc
def test_memory_of_many_sizes_is_bounded(cache):
    fastlayers.set_cache_limit(8 * MIB)
    sizes = iter(np.random.default_rng(0).integers(256, 100_000, 4_000).tolist())
    x = np.ones(100_000)
    # Until the cache is full; malloc leaves holes between its blocks.
    growth(lambda: fastlayers.multiply(x[: next(sizes)], 2.0), 1_000)
    assert growth(lambda: fastlayers.multiply(x[: next(sizes)], 2.0), 3_000)[0] < 2 * MIB
    assert fastlayers.cache_info().bytes <= 8 * MIB


@needs_proc
def test_zeros_in_new_memory_are_not_touched():
    # 256 MiB that the system has just zeroed, in huge pages of 2 MiB.
    with fastlayers.recycling():
        before, _ = memory_of_process()
        zeros = np.zeros(32 * MIB)
        assert memory_of_process()[0] - before < 8 * MIB
        assert not zeros.any()


# -------------------------------------------------------------------------------- no memory there

LITTLE_MEMORY = """
import resource
from calls import NAMES, make, operands
from leaks import resident_bytes
from outcome import arrays_in, described, sharing
from pathlib import Path
import numpy as np
import fastlayers

MIB = 1 << 20
o = operands(rows=16_384)  # results of 2 MiB at least, or of 4 in blocks with huge pages
given = [operand for operand in vars(o).values() if isinstance(operand, np.ndarray)]
expected = {name: described(make(name, o)) for name in NAMES}
for name in NAMES:
    new = [
        result.nbytes for result in arrays_in(make(name, o)) if not sharing([result], given)
    ]
    if max(new, default=0) < 2 * MIB:
        continue
    fastlayers.empty_cache()
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 3 * MIB // 2, -1))
    refused = 0
    for _ in range(3):
        try:
            make(name, o)
        except MemoryError:
            refused += 1
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    print(name, refused, described(make(name, o)) == expected[name], sep=": ")
"""


@needs_proc
def test_every_call_ends_in_a_memory_error_and_works_afterwards():
    lines = lines_of("-c", LITTLE_MEMORY, MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_="1000000")
    assert [line for line in lines if not line.endswith(": 3: True")] == []
    assert len(lines) > 30


LITTLE_BUT_CACHED = """
import resource
import numpy as np
import fastlayers

def call(mib):
    return fastlayers.multiply(np.broadcast_to(1.0, mib << 17), 2.0)

call(8)  # OpenMP's threads, and Python's own memory, before there is little
blocks = [call(4) for _ in range(10)]
del blocks
print(fastlayers.cache_info().blocks)
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (20 << 20), -1))
result = call(40)
print(result.sum() == 2 * (40 << 17), fastlayers.cache_info().blocks)
"""


@needs_proc
def test_the_cache_is_emptied_before_memory_is_out():
    # One arena: the C library reserves 64 MiB for each that it makes, whenever a thread needs one.
    lines = lines_of("-c", LITTLE_BUT_CACHED, MALLOC_ARENA_MAX="1")
    assert lines == ["11", "True 0"]


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="NumPy 2.5 itself does not survive it where Python is built without the GIL",
)
def test_any_allocation_of_python_may_fail():
    pytest.importorskip("_testcapi", reason="some distributions leave it out")
    lines = lines_of(str(SUPPORT / "faults.py"))
    assert len(lines) == 1
    assert int(lines[0].split()[0]) > 100


# A graph of products sets it for each call, and must find again what was in force.
HANDLER_WITHOUT_MEMORY = """
import _testcapi
from fastlayers._core import memory
numpys = memory.set_handler(memory.recycling_handler())
memory.set_handler(numpys)
for allocation in range(6):
    _testcapi.set_nomemory(allocation, allocation + 1)
    try:
        before = memory.recycle()
    except MemoryError:
        before = numpys
    _testcapi.remove_mem_hooks()
    assert before is numpys
    assert memory.set_handler(numpys) in (numpys, memory.recycling_handler())
"""


def test_the_handler_that_was_in_force_is_found_without_memory():
    pytest.importorskip("_testcapi", reason="some distributions leave it out")
    assert lines_of("-c", HANDLER_WITHOUT_MEMORY) == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is for the GNU C library")
def test_any_allocation_of_c_may_fail(tmp_path):
    library = compiled("failing_allocators.c", tmp_path)
    # OpenBLAS ends the process if its threads find no memory, and so does LLVM as it compiles.
    single = {"OPENBLAS_NUM_THREADS": "1", "FASTLAYERS_COMPILE": "0"}
    lines = lines_of(str(SUPPORT / "faults.py"), LD_PRELOAD=library, **single)
    assert len(lines) == 1
    assert int(lines[0].split()[0]) > 100


# ---------------------------------------------------------------------------- arrays that outlive


KEEPERS = {
    "a module's variable": "kept = result",
    "a cycle": "kept = [result]; kept.append(kept); del kept",
    "a reference that is never dropped": (
        "import ctypes; ctypes.pythonapi.Py_IncRef(ctypes.py_object(result))"
    ),
    "atexit": "import atexit; atexit.register(lambda kept=result: print(sum(kept[1])))",
    "a daemon thread": (
        "import threading, time\n"
        "def hold(kept):\n"
        "    while True:\n"
        "        time.sleep(0.001); fastlayers.multiply(kept[1], 2.0)\n"
        "threading.Thread(target=hold, args=[result], daemon=True).start()\n"
    ),
    "a finalizer at the end": (
        "import sys\n"
        "class Last:\n"
        "    def __init__(self, kept): self.kept = kept\n"
        "    def __del__(self): self.kept[1].sum(); del self.kept\n"
        "sys.last = Last(result)\n"
    ),
}


@pytest.mark.parametrize("keeper", KEEPERS)
def test_arrays_outlive_the_interpreter(keeper):
    code = f"""
import numpy as np, fastlayers
result = [fastlayers.multiply(np.ones(n), 2.0) for n in (1_000, 100_000, 1_000_000)]
{KEEPERS[keeper]}
del result
print("kept")
"""
    assert lines_of("-X", "dev", "-c", code)[0] == "kept"


def test_arrays_outlive_the_modules():
    code = """
import gc, sys
import numpy as np, fastlayers
sizes = (1_000, 100_000, 1_000_000)
layer = fastlayers.MulLayer()
kept = [layer.forward(np.arange(float(n)), 2.0) for n in sizes]
for name in [name for name in sys.modules if name.startswith("fastlayers")]:
    del sys.modules[name]
del layer, fastlayers
gc.collect()
for n, array in zip(sizes, kept):
    print(np.array_equal(array, 2.0 * np.arange(n)))
    array.resize(2 * n, refcheck=False)
    print(np.array_equal(array[:n], 2.0 * np.arange(n)) and not array[n:].any())
del array, kept
print(len([np.ones(100_000) for _ in range(5)]))
"""
    assert lines_of("-c", code) == ["True"] * 6 + ["5"]
