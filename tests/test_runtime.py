"""Threads, instruction sets and limits: the knobs, and what other people's knobs do."""

from __future__ import annotations

import os
import re
import sys

import numpy as np
import pytest
from fresh import output_of
from threadpoolctl import threadpool_info, threadpool_limits

import fastlayers
from fastlayers import config, limits

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


SHOW_THREADS = "import fastlayers; print(fastlayers.get_num_threads())"


@needs_openmp
def test_default_number_of_threads():
    cpus = limits.cpu_quota()
    assert output_of(SHOW_THREADS, FASTLAYERS_NUM_THREADS="") == [str(cpus)]
    assert output_of(SHOW_THREADS, OMP_NUM_THREADS="1") == ["1"]
    # OpenMP's number may be larger than what the process may use.
    assert output_of(SHOW_THREADS, OMP_NUM_THREADS="777") == [str(cpus)]


@needs_openmp
@pytest.mark.parametrize(("n", "openmp"), [("1", "4"), ("3", "1")])
def test_number_of_threads_whatever_openmp_would_use(n, openmp):
    assert output_of(SHOW_THREADS, FASTLAYERS_NUM_THREADS=n, OMP_NUM_THREADS=openmp) == [n]


@needs_openmp
def test_threadpoolctl():
    default = fastlayers.get_num_threads()
    with threadpool_limits(limits=1):
        assert fastlayers.get_num_threads() == 1
    assert fastlayers.get_num_threads() == default
    with threadpool_limits(limits=1, user_api="blas"):
        assert fastlayers.get_num_threads() == default
    with threadpool_limits(limits=777, user_api="openmp"):
        assert fastlayers.get_num_threads() == limits.cpu_quota()


@needs_openmp
@pytest.mark.skipif(limits.cpu_quota() < 2, reason="there is nothing to lower")
def test_threadpoolctl_and_a_number_that_was_set():
    fastlayers.set_num_threads(5)
    with threadpool_limits(limits=1):
        assert fastlayers.get_num_threads() == 1
    assert fastlayers.get_num_threads() == 5


@needs_openmp
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity():
    pin = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert output_of(pin + SHOW_THREADS) == ["1"]
    assert output_of(pin + SHOW_THREADS, FASTLAYERS_NUM_THREADS="3") == ["3"]


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
COUNT_THREADS = f"""
import os
import numpy as np
import fastlayers
fastlayers.set_cache_limit(0)  # nor is there a thread that watches over it

def started(x):
    x = np.ones(x) if isinstance(x, int) else x
    before = len(os.listdir("{TASKS}"))
    fastlayers.multiply(x, 2.0)
    return len(os.listdir("{TASKS}")) - before

"""


@needs_openmp
@needs_tasks
def test_threads_are_used_for_large_calls_alone():
    code = COUNT_THREADS + "print(started(1000), started(1000_000), started(1000_000))"
    assert output_of(code, FASTLAYERS_NUM_THREADS="4") == ["0", "3", "0"]
    assert output_of(code, FASTLAYERS_NUM_THREADS="1") == ["0", "0", "0"]
    assert output_of(code, FASTLAYERS_NUM_THREADS="4", OMP_NUM_THREADS="1") == ["0", "3", "0"]


@needs_openmp
@needs_tasks
@pytest.mark.parametrize("layout", ["mapped", "unaligned"])
def test_arrays_as_other_processes_get_them_are_served(layout):
    # By kernels, that is by threads.
    code = f"""
from operands import Operand
print(started(Operand("f8", (100_000,), "{layout}").build()))
"""
    assert output_of(COUNT_THREADS + code, FASTLAYERS_NUM_THREADS="4") == ["3"]


LATE = """
import threading

done = threading.Event()

def started_by_another_thread(n):
    # OpenMP starts threads for each thread that uses it; and lives as long as that does.
    counts, counted = [], threading.Event()
    def work():
        counts.append(started(n))
        counted.set()
        done.wait()
    threading.Thread(target=work).start()
    counted.wait()
    return counts[0]

fastlayers._core.frontend.schedule.set_thresholds(late=1e6)  # no call is, however busy the machine
"""


@needs_openmp
@needs_tasks
def test_calls_use_one_thread_after_a_late_one_and_threads_again_soon():
    # After one that seemed to take thirty years.
    code = """
import time
counts = [started(1000_000), started_by_another_thread(1000_000)]
while counts[-1] != 0:
    # On a busy machine the penalty may be over before the next call.
    fastlayers._core.frontend.schedule.seem_to_have_taken(1e9)
    counts.append(started_by_another_thread(1000_000))
while counts[-1] == 0:
    time.sleep(0.02)
    counts.append(started_by_another_thread(1000_000))
done.set()
print(*counts[:2], counts[-1])
"""
    output = output_of(COUNT_THREADS + LATE + code, FASTLAYERS_NUM_THREADS="4")
    assert output == ["3", "3", "3"]


@needs_openmp
@needs_tasks
def test_no_thread_is_started_after_the_first_calls():
    # Whatever their sizes: GNU OpenMP ends the threads that a smaller team does not need.
    code = f"""
import os
import numpy as np
import fastlayers
fastlayers._core.frontend.schedule.set_thresholds(late=1e6)
fastlayers.set_cache_limit(0)  # nor a thread that watches over it
small, large, square = np.ones(20_000), np.ones(500_000), np.ones((500, 200))
def calls():
    for x in small, large, small[:10]:
        fastlayers.multiply_backward(x, x, x)
    for x in square, square[:200]:
        fastlayers.multiply_backward(x, x, x[0], sum_to_shape=True)
calls()
first = set(os.listdir("{TASKS}"))
later = set()
for _ in range(20):
    calls()
    later |= set(os.listdir("{TASKS}"))
print(len(first) >= 8, len(later - first))
"""
    assert output_of(code, FASTLAYERS_NUM_THREADS="8") == ["True", "0"]


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


def test_available_instruction_sets():
    assert set(simd.available()) <= set(simd.built())
    assert simd.in_use() in simd.available()
    assert output_of(SHOW_SIMD, FASTLAYERS_SIMD="") == [simd.available()[-1]]


@pytest.mark.parametrize("level", simd.available())
def test_instruction_set_from_the_environment(level):
    assert output_of(SHOW_SIMD, FASTLAYERS_SIMD=level) == [level]


def test_level_that_the_cpu_does_not_have(monkeypatch):
    # As it would be on an older CPU: what is built is not yet available.
    monkeypatch.setattr(simd, "cpu_level", lambda: 2)
    available = [level for level in simd.built() if simd.LEVELS[level] <= 2]
    assert simd.available() == available
    for level in set(simd.built()) - set(available):
        monkeypatch.setenv("FASTLAYERS_SIMD", level)
        with pytest.raises(ValueError, match=f"{level}.*have {', '.join(available)}"):
            simd.use_preferred()


# -------------------------------------------------------------------------- limits of the process

CGROUPS = "/sys/fs/cgroup"
GIB = 1 << 30


@pytest.fixture
def machine(monkeypatch):
    """A machine of 8 CPUs and 64 GiB; the text of its files is to be filled in."""
    files = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(limits, "_physical_memory", lambda: 64 * GIB)
    monkeypatch.setattr(limits, "_lines", lambda path: files.get(path, "").splitlines())
    if sys.platform != "win32":
        import resource

        no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        monkeypatch.setattr(resource, "getrlimit", lambda what: no_limit)
    return files


V1 = "12:cpu,cpuacct:/docker/1a2b\n7:memory:/docker/1a2b\n1:name=systemd:/docker/1a2b\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        ("", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "1600000 100000"}, 8),
        ("0::/a/b/c\n", {"a/b/c/cpu.max": "max 100000", "a/b/cpu.max": "500000 100000"}, 5),
        ("0::/a/b\n", {"a/b/cpu.max": "600000 100000", "a/cpu.max": "400000 100000"}, 4),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "cpu.max": "150000 50000"}, 3),
        ("0::/of:the:host\n", {"of:the:host/cpu.max": "200000 100000"}, 2),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/app\n", {"another/cpu.max": "100000 100000"}, 8),
        (V1, {"cpu,cpuacct/docker/1a2b/cpu.cfs_quota_us": "-1"}, 8),
        (V1, {"cpu,cpuacct/docker/1a2b/cpu.cfs_quota_us": "350000"}, 3),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "200000"}, 2),
        (V1, {"memory/docker/1a2b/cpu.cfs_quota_us": "100000"}, 8),
    ],
)
def test_cpu_quota(machine, groups, files, cpus):
    machine["/proc/self/cgroup"] = groups
    for name, text in files.items():
        machine[f"{CGROUPS}/{name}"] = text + "\n"
        if name.endswith("cpu.cfs_quota_us"):
            machine[f"{CGROUPS}/{name}".replace("quota", "period")] = "100000\n"
    assert limits.cpu_quota() == cpus


def test_affinity_below_the_quota(machine, monkeypatch):
    machine["/proc/self/cgroup"] = "0::/\n"
    machine[f"{CGROUPS}/cpu.max"] = "400000 100000\n"
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert limits.cpu_quota() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    for count, quota in ((6, 4), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert limits.cpu_quota() == quota


@pytest.mark.parametrize(
    ("groups", "files", "memory"),
    [
        ("", {}, 64 * GIB),
        ("0::/\n", {"memory.max": "max", "memory.high": "max"}, 64 * GIB),
        ("0::/\n", {"memory.max": str(4 * GIB), "memory.high": str(3 * GIB)}, 3 * GIB),
        ("0::/\n", {"memory.max": str(128 * GIB)}, 64 * GIB),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": str(GIB)}, GIB),
        ("0::/a/b\n", {"a/b/memory.max": str(2 * GIB), "memory.max": str(3 * GIB)}, 2 * GIB),
        (V1, {"memory/docker/1a2b/memory.limit_in_bytes": "9223372036854771712"}, 64 * GIB),
        (V1, {"memory/memory.limit_in_bytes": str(GIB)}, GIB),
        (V1, {"cpu,cpuacct/docker/1a2b/memory.limit_in_bytes": "1"}, 64 * GIB),
    ],
)
def test_memory(machine, groups, files, memory):
    machine["/proc/self/cgroup"] = groups
    for name, text in files.items():
        machine[f"{CGROUPS}/{name}"] = text + "\n"
    assert limits.memory_bytes() == memory


def test_memory_that_the_shell_limits(machine, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (2 * GIB, 4 * GIB))
    assert limits.memory_bytes() == 2 * GIB


@pytest.mark.parametrize(("memory", "limit"), [(4 * GIB, GIB // 2), (64 * GIB, GIB)])
def test_cache_limit_by_default(monkeypatch, memory, limit):
    monkeypatch.setattr(limits, "memory_bytes", lambda: memory)
    assert config._default_cache_limit() == limit


def test_limits_where_there_are_no_files(monkeypatch):
    # As in a process that may not read them, and on other systems.
    machine = limits.cpu_quota(), limits.memory_bytes()
    monkeypatch.setattr(limits, "CGROUPS", "/no/such/folder")
    assert limits.cpu_quota() >= machine[0]
    assert limits.memory_bytes() >= machine[1]
