"""Threads, instruction sets and limits: the knobs, and what other people's knobs do."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from fresh import last_line_of_error, output_of
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
    yield
    schedule.set_thread_count(0, limits.cpu_quota())


# ----------------------------------------------------------------------------- number of threads

SHOW_THREADS = "import fastlayers; print(fastlayers.get_num_threads())"


@needs_openmp
@pytest.mark.parametrize("n", [1, 2, 5, 1_024, np.int64(3), True])
def test_set_num_threads(n):
    assert fastlayers.set_num_threads(n) is None
    assert fastlayers.get_num_threads() == n
    assert type(fastlayers.get_num_threads()) is int


@needs_openmp
@pytest.mark.parametrize("n", [0, -1, 1_025, 2**31, 2**64, -(10**30), np.int32(0), False])
def test_numbers_of_threads_that_make_no_sense(n):
    fastlayers.set_num_threads(3)
    with pytest.raises(ValueError, match=f"from 1 to 1024, got {int(n)}$"):
        fastlayers.set_num_threads(n)
    assert fastlayers.get_num_threads() == 3


@pytest.mark.parametrize("n", [1.0, "2", None, 2.5, np.float64(2), [2], 2j])
def test_numbers_of_threads_that_are_not_integers(n):
    with pytest.raises(TypeError, match="integer") as caught:
        fastlayers.set_num_threads(n)
    assert repr(n) in str(caught.value)


@needs_openmp
def test_default_number_of_threads():
    cpus = limits.cpu_quota()
    assert output_of(SHOW_THREADS, FASTLAYERS_NUM_THREADS="") == [str(cpus)]
    assert output_of(SHOW_THREADS, OMP_NUM_THREADS="1") == ["1"]
    # OpenMP's number may be larger than what the process may use.
    assert output_of(SHOW_THREADS, OMP_NUM_THREADS="777") == [str(cpus)]


@needs_openmp
@pytest.mark.parametrize(("n", "openmp"), [("1", "4"), ("3", "1"), ("1024", "4")])
def test_number_of_threads_from_the_environment(n, openmp):
    assert output_of(SHOW_THREADS, FASTLAYERS_NUM_THREADS=n, OMP_NUM_THREADS=openmp) == [n]


def test_bad_number_of_threads_in_the_environment():
    error = last_line_of_error("import fastlayers", FASTLAYERS_NUM_THREADS="two")
    assert error.startswith("ValueError: FASTLAYERS_NUM_THREADS is 'two'")


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "1025", "99999999999999999999"])
def test_a_number_of_threads_that_is_none(monkeypatch, value):
    monkeypatch.setenv("FASTLAYERS_NUM_THREADS", value)
    with pytest.raises(ValueError, match="integer from 1 to 1024") as caught:
        config._threads_from_environment()
    assert str(caught.value).startswith(f"FASTLAYERS_NUM_THREADS is {value!r}")


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

def started(n):
    before = len(os.listdir("{TASKS}"))
    fastlayers.multiply(np.ones(n), 2.0)
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
x = Operand("f8", (100_000,), "{layout}").build()
before = len(os.listdir("{TASKS}"))
product = fastlayers.multiply(x, x)
print(len(os.listdir("{TASKS}")) - before, np.array_equal(product, np.array(x) ** 2))
"""
    output = output_of(COUNT_THREADS + code, FASTLAYERS_NUM_THREADS="4")
    assert output == ["3", "True"]


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


@pytest.mark.parametrize("implementation", ["", "native"])
def test_unknown_instruction_set(implementation):
    error = last_line_of_error(
        "import fastlayers", FASTLAYERS_SIMD="avx512", FASTLAYERS_IMPLEMENTATION=implementation
    )
    assert error.startswith("ValueError: FASTLAYERS_SIMD is 'avx512'")


@pytest.mark.parametrize("value", ["x86-64-v9", "avx512", "X86-64-V3", "0"])
def test_names_of_no_instruction_set(monkeypatch, value):
    before = simd.in_use()
    monkeypatch.setenv("FASTLAYERS_SIMD", value)
    with pytest.raises(ValueError, match=r"^FASTLAYERS_SIMD") as caught:
        simd.use_preferred()
    assert repr(value) in str(caught.value)
    assert all(level in str(caught.value) for level in simd.available())
    assert simd.in_use() == before


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
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "1600000 100000"}, 8),
        ("0::/app\n", {"app/cpu.max": "300000 100000"}, 3),
        ("0::/a/b/c\n", {"a/b/c/cpu.max": "max 100000", "a/b/cpu.max": "500000 100000"}, 5),
        ("0::/a/b\n", {"a/b/cpu.max": "600000 100000", "a/cpu.max": "400000 100000"}, 4),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "cpu.max": "300000 50000"}, 4),
        ("0::/of:the:host\n", {"of:the:host/cpu.max": "200000 100000"}, 2),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/app\n", {"another/cpu.max": "100000 100000"}, 8),
        (V1, {}, 8),
        (V1, {"cpu,cpuacct/docker/1a2b/cpu.cfs_quota_us": "-1"}, 8),
        (V1, {"cpu,cpuacct/docker/1a2b/cpu.cfs_quota_us": "350000"}, 3),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "200000"}, 2),
        (V1, {"cpu,cpuacct/docker/cpu.cfs_quota_us": "10000"}, 1),
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
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert limits.cpu_quota() == 4
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert limits.cpu_quota() == 1


@pytest.mark.parametrize(
    ("groups", "files", "memory"),
    [
        ("", {}, 64 * GIB),
        ("0::/\n", {"memory.max": "max", "memory.high": "max"}, 64 * GIB),
        ("0::/\n", {"memory.max": str(4 * GIB)}, 4 * GIB),
        ("0::/\n", {"memory.max": str(4 * GIB), "memory.high": str(3 * GIB)}, 3 * GIB),
        ("0::/\n", {"memory.max": str(128 * GIB)}, 64 * GIB),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": str(GIB)}, GIB),
        ("0::/a/b\n", {"a/b/memory.max": str(2 * GIB), "memory.max": str(3 * GIB)}, 2 * GIB),
        (V1, {"memory/docker/1a2b/memory.limit_in_bytes": "9223372036854771712"}, 64 * GIB),
        (V1, {"memory/docker/1a2b/memory.limit_in_bytes": str(GIB // 2)}, GIB // 2),
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


def test_limits_as_they_are():
    assert 1 <= limits.cpu_quota() <= (os.cpu_count() or 1)
    assert limits.memory_bytes() >= 1 << 20
    assert limits._lines(f"{CGROUPS}/no/such/file") == []
