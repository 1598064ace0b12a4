"""Threads and instruction sets: the knobs, and what other people's knobs do."""

from __future__ import annotations

import os
import re
import sys

import numpy as np
import pytest
from fresh import output_of
from threadpoolctl import threadpool_info, threadpool_limits

import fastlayers
from fastlayers import limits

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy has no knobs", allow_module_level=True)

from paths import TASKS, needs_openmp

from fastlayers._core import simd
from fastlayers._core.frontend import schedule


@pytest.fixture(autouse=True)
def restore():
    limit = fastlayers.cache_info().limit
    yield
    schedule.set_thread_count(0, limits.cpu_quota())
    fastlayers.set_cache_limit(limit)


# --------------------------------------------------------------------------------------- settings

# How each is set and read, and what must not be changed where it is refused.
SETTINGS = {
    "threads": (fastlayers.set_num_threads, fastlayers.get_num_threads),
    "limit": (fastlayers.set_cache_limit, lambda: fastlayers.cache_info().limit),
}
TAKEN = [("threads", n, int(n)) for n in (1, 2, 5, 1_024, np.int64(3), True)]
TAKEN += [("limit", n, min(int(n), sys.maxsize)) for n in (0, 10**30, np.int64(1 << 20), True)]
REFUSED = [
    ("threads", n, ValueError, f"from 1 to 1024, got {int(n)}$")
    for n in (0, -1, 1_025, 2**31, 2**64, -(10**30), np.int32(0), False)
]
REFUSED += [("limit", n, ValueError, f"got {int(n)} bytes") for n in (-1, -(10**30), np.int32(-5))]
REFUSED += [
    (name, n, TypeError, f"must be an integer, got {re.escape(repr(n))}$")
    for name in SETTINGS
    for n in (1.0, "2", None, np.float64(2), [2], 2j)
]


@needs_openmp
@pytest.mark.parametrize(("name", "given", "value"), TAKEN)
def test_settings_are_taken(name, given, value):
    set_value, get_value = SETTINGS[name]
    assert set_value(given) is None
    assert get_value() == value
    assert type(get_value()) is int


@pytest.mark.parametrize(("name", "given", "error", "message"), REFUSED)
def test_settings_that_make_no_sense(name, given, error, message):
    set_value, get_value = SETTINGS[name]
    set_value(3)
    before = get_value()
    with pytest.raises(error, match=message):
        set_value(given)
    assert get_value() == before


CPUS = str(limits.cpu_quota())
NUMBERS = [  # variables, CPUs, and how many threads there are
    ({"FASTLAYERS_NUM_THREADS": ""}, None, CPUS),
    ({"OMP_NUM_THREADS": "1"}, None, "1"),
    # OpenMP's number may be larger than what the process may use.
    ({"OMP_NUM_THREADS": "777"}, None, CPUS),
    ({"FASTLAYERS_NUM_THREADS": "1", "OMP_NUM_THREADS": "4"}, None, "1"),
    ({"FASTLAYERS_NUM_THREADS": "3", "OMP_NUM_THREADS": "1"}, None, "3"),
    ({}, 1, "1"),
    ({"FASTLAYERS_NUM_THREADS": "3"}, 1, "3"),
]


@needs_openmp
@pytest.mark.parametrize(("variables", "cpus", "threads"), NUMBERS)
def test_number_of_threads(variables, cpus, threads):
    code = "import fastlayers; print(fastlayers.get_num_threads())"
    if cpus:
        if not hasattr(os, "sched_setaffinity"):
            pytest.skip("no affinity here")
        code = (
            f"import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{cpus}])\n{code}"
        )
    assert output_of(code, **variables) == [threads]


@needs_openmp
def test_threadpoolctl():
    default = fastlayers.get_num_threads()
    # With one CPU there is nothing to lower.
    for number in (default, 5) if limits.cpu_quota() > 1 else (default,):
        with threadpool_limits(limits=1):
            assert fastlayers.get_num_threads() == 1
        assert fastlayers.get_num_threads() == number
        with threadpool_limits(limits=1, user_api="blas"):
            assert fastlayers.get_num_threads() == number
        with threadpool_limits(limits=777, user_api="openmp"):
            assert fastlayers.get_num_threads() == number
        fastlayers.set_num_threads(5)


def test_knobs_on_plain_numpy():
    code = """
import fastlayers
fastlayers.set_num_threads(3)
fastlayers.set_cache_limit(10)
fastlayers.empty_cache()
with fastlayers.recycling():
    pass
print(fastlayers.get_num_threads(), *fastlayers.cache_info())
for knob in fastlayers.set_num_threads, fastlayers.set_cache_limit:
    for value in -1, 1.5:
        try:
            knob(value)
        except (ValueError, TypeError) as error:
            print(type(error).__name__)
"""
    lines = output_of(code, FASTLAYERS_IMPLEMENTATION="reference")
    assert lines == ["1", *["0"] * 5, *["ValueError", "TypeError"] * 2]


# ------------------------------------------------------------------------------- use of threads

needs_tasks = pytest.mark.skipif(not TASKS.exists(), reason="threads are counted in /proc")
# OpenMP starts threads for each thread that uses it; and lives as long as that does.
COUNT_THREADS = f"""
import os
import threading
import time
import numpy as np
import fastlayers
from fastlayers._core.frontend import schedule
from operands import Operand

fastlayers.set_cache_limit(0)  # nor is there a thread that watches over it
schedule.set_thresholds(late=1e6)  # no call is, however busy the machine
done = threading.Event()

def started(*calls):
    before = len(os.listdir("{TASKS}"))
    for x in calls:
        fastlayers.multiply(x, 2.0)
    return len(os.listdir("{TASKS}")) - before

def started_by_another_thread(*calls):
    counts, counted = [], threading.Event()
    def work():
        counts.append(started(*calls))
        counted.set()
        done.wait()
    threading.Thread(target=work).start()
    counted.wait()
    return counts[0]

small, large = np.ones(1_000), np.ones(1_000_000)
"""


@needs_openmp
@needs_tasks
@pytest.mark.parametrize("threads", [1, 4])
def test_threads_are_used_for_large_calls_alone(threads):
    # Arrays as other processes get them are served, too.
    code = """
layouts = ["mapped", "unaligned"]
others = [Operand("f8", (100_000,), layout).build() for layout in layouts]
print(started(small), started(large), started(small, large))
print(*map(started_by_another_thread, [small, large, *others]))
done.set()
"""
    n = str(threads - 1)
    output = output_of(COUNT_THREADS + code, FASTLAYERS_NUM_THREADS=str(threads))
    assert output == ["0", n, "0", "0", n, n, n]


@needs_openmp
@needs_tasks
def test_calls_use_one_thread_after_a_late_one_and_threads_again_soon():
    # After one that seemed to take thirty years.
    code = """
counts = [started(large), started_by_another_thread(large)]
while counts[-1] != 0:
    # On a busy machine the penalty may be over before the next call.
    schedule.seem_to_have_taken(1e9)
    counts.append(started_by_another_thread(large))
while counts[-1] == 0:
    time.sleep(0.02)
    counts.append(started_by_another_thread(large))
done.set()
print(*counts[:2], counts[-1])
"""
    output = output_of(COUNT_THREADS + code, FASTLAYERS_NUM_THREADS="4")
    assert output == ["3", "3", "3"]


# With this, no thread finds memory for its stack.
LEAVE_LITTLE_MEMORY = """
import resource

def leave_little_memory():
    mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (4 << 20), -1))

"""
by_proc = pytest.mark.skipif(not TASKS.exists(), reason="what is mapped is known from /proc")


@by_proc
def test_threads_that_cannot_start_are_no_error():
    code = """
import numpy as np
import fastlayers
x = np.ones(100_000)
leave_little_memory()
print(fastlayers.multiply(x, 2.0).sum())
print(fastlayers.multiply_backward(x, x, 2.0, sum_to_shape=True)[1])
"""
    output = output_of(LEAVE_LITTLE_MEMORY + code, FASTLAYERS_NUM_THREADS="4")
    assert output == ["200000.0", "100000.0"]


@by_proc
@pytest.mark.skipif(
    not any(pool["prefix"] == "libgomp" for pool in threadpool_info()),
    reason="GNU OpenMP alone ends threads when fewer are asked for",
)
def test_threads_that_cannot_start_again_are_no_error():
    code = """
import os
import numpy as np
import fastlayers
fastlayers._core.frontend.schedule.set_thresholds(late=1e6)
fastlayers.set_cache_limit(0)  # nor is there a thread that watches over it
x = np.ones(1_000_000)
def started(threads):
    fastlayers.set_num_threads(threads)
    fastlayers.multiply(x[:400_000], 2.0, out=x[600_000:])
    return len(os.listdir("/proc/self/task")) - before
before = len(os.listdir("/proc/self/task"))
print(started(32))
while started(4) > 3:
    pass  # they take a moment to end
leave_little_memory()
print(started(32), x[600_000:].sum())
"""
    assert output_of(LEAVE_LITTLE_MEMORY + code) == ["31", "3", "800000.0"]


# ------------------------------------------------------------------------------ instruction sets

SHOW_SIMD = """
import numpy as np, fastlayers
from fastlayers._core import simd
assert np.all(fastlayers.multiply(np.ones(1000), 2.0) == 2.0)
print(simd.in_use())
"""


@pytest.mark.parametrize("level", ["", *simd.available()])
def test_instruction_set_from_the_environment(level):
    assert output_of(SHOW_SIMD, FASTLAYERS_SIMD=level) == [level or simd.available()[-1]]


def test_level_that_the_cpu_does_not_have(monkeypatch):
    # As it would be on an older CPU: what is built is not yet available.
    monkeypatch.setattr(simd, "cpu_level", lambda: 2)
    available = [level for level in simd.built() if simd.LEVELS[level] <= 2]
    assert simd.available() == available
    for level in set(simd.built()) - set(available):
        monkeypatch.setenv("FASTLAYERS_SIMD", level)
        with pytest.raises(ValueError, match=f"{level}.*have {', '.join(available)}"):
            simd.use_preferred()
