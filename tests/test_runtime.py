"""Threads, instruction sets and limits: the knobs, and what other people's knobs do."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import plain
import pytest
from outcome import described

import fastlayers
from fastlayers import limits

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy has no knobs", allow_module_level=True)

from paths import PATHS, THREADS, Path, taken

from fastlayers._core import dispatch, simd

LARGE = 50_000  # elements, worth two threads


def has_openmp():
    with taken(Path(simd.in_use(), 2)):
        return fastlayers.get_num_threads() == 2


OPENMP = has_openmp()
needs_openmp = pytest.mark.skipif(not OPENMP, reason="built without OpenMP")


@pytest.fixture(autouse=True)
def restore():
    yield
    dispatch.set_thread_count(0, limits.cpu_quota())


def run(*arguments, **variables):
    """Run a fresh interpreter, where nothing sets a knob but these variables."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("FASTLAYERS_", "OMP_", "GOMP_"))
    }
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment | {"OMP_WAIT_POLICY": "passive"} | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


def output_of(code, **variables):
    result = run("-c", code, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.split()


def last_line_of_error(code, **variables):
    result = run("-c", code, **variables)
    assert result.returncode == 1
    return result.stderr.splitlines()[-1]


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
    assert output_of(SHOW_THREADS) == [str(cpus)]
    assert output_of(SHOW_THREADS, FASTLAYERS_NUM_THREADS="") == [str(cpus)]
    assert output_of(SHOW_THREADS, OMP_NUM_THREADS="1") == ["1"]
    # OpenMP's number may be larger than what the process may use.
    assert output_of(SHOW_THREADS, OMP_NUM_THREADS="777") == [str(cpus)]


@needs_openmp
@pytest.mark.parametrize("openmp", ["1", "4"])
@pytest.mark.parametrize("n", ["1", "3", "1024"])
def test_number_of_threads_from_the_environment(n, openmp):
    assert output_of(SHOW_THREADS, FASTLAYERS_NUM_THREADS=n, OMP_NUM_THREADS=openmp) == [n]


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "1025", "99999999999999999999"])
def test_bad_number_of_threads_in_the_environment(value):
    error = last_line_of_error("import fastlayers", FASTLAYERS_NUM_THREADS=value)
    assert error.startswith("ValueError: ")
    assert "FASTLAYERS_NUM_THREADS" in error
    assert value in error


@needs_openmp
def test_threadpoolctl():
    from threadpoolctl import threadpool_limits

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
    from threadpoolctl import threadpool_limits

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

TASKS = pathlib.Path("/proc/self/task")
COUNT_THREADS = f"""
import os
import numpy as np
import fastlayers

def started(n):
    before = len(os.listdir("{TASKS}"))
    fastlayers.multiply(np.ones(n), 2.0)
    return len(os.listdir("{TASKS}")) - before

"""


@needs_openmp
@pytest.mark.skipif(not TASKS.exists(), reason="threads are counted in /proc")
def test_threads_are_used_for_large_calls_alone():
    code = COUNT_THREADS + "print(started(1000), started(1000_000), started(1000_000))"
    assert output_of(code, FASTLAYERS_NUM_THREADS="4") == ["0", "3", "0"]
    assert output_of(code, FASTLAYERS_NUM_THREADS="1") == ["0", "0", "0"]
    assert output_of(code, FASTLAYERS_NUM_THREADS="4", OMP_NUM_THREADS="1") == ["0", "3", "0"]


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
def test_threads_that_cannot_start_again_are_no_error():
    # OpenMP ends threads when fewer are asked for.
    code = """
import os
import time
import numpy as np
import fastlayers
x = np.ones(1_000_000)
before = len(os.listdir("/proc/self/task"))
# A call may be given one thread because the last one was late.
for n, enough in ((1_000_000, lambda count: count == 31), (25_000, lambda count: count < 8)):
    for _ in range(1_000):
        fastlayers.multiply(x[:n], 2.0)
        time.sleep(0.01)
        if enough(len(os.listdir("/proc/self/task")) - before):
            break
    else:
        print("not", n)
leave_little_memory()
time.sleep(0.1)
for _ in range(20):
    print(fastlayers.multiply(x[:400_000], 2.0, out=x[600_000:]).sum())
"""
    assert output_of(LEAVE_LITTLE_MEMORY + code, FASTLAYERS_NUM_THREADS="32") == ["800000.0"] * 20


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
    assert output_of(SHOW_SIMD) == [simd.available()[-1]]
    assert output_of(SHOW_SIMD, FASTLAYERS_SIMD="") == [simd.available()[-1]]


@pytest.mark.parametrize("level", simd.available())
def test_instruction_set_from_the_environment(level):
    assert output_of(SHOW_SIMD, FASTLAYERS_SIMD=level) == [level]


@pytest.mark.parametrize("value", ["x86-64-v9", "avx512", "X86-64-V3", "0"])
@pytest.mark.parametrize("implementation", ["", "native"])
def test_unknown_instruction_set(value, implementation):
    error = last_line_of_error(
        "import fastlayers", FASTLAYERS_SIMD=value, FASTLAYERS_IMPLEMENTATION=implementation
    )
    assert error.startswith("ValueError: FASTLAYERS_SIMD")
    assert repr(value) in error
    assert all(level in error for level in simd.available())


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


def test_limits_as_they_are():
    assert 1 <= limits.cpu_quota() <= (os.cpu_count() or 1)
    assert limits.memory_bytes() >= 1 << 20
    assert limits._lines(f"{CGROUPS}/no/such/file") == []


# ------------------------------------------------------------------------------------------- fork

WORK = f"""
import numpy as np
import fastlayers

def work(seed=0):
    rng = np.random.default_rng(seed)
    x, y, dout = (rng.standard_normal({LARGE}) for _ in range(3))
    layer = fastlayers.MulLayer()
    assert np.array_equal(layer.forward(x, y), x * y)
    dx, dy = layer.backward(dout)
    assert np.array_equal(dx, dout * y) and np.array_equal(dy, dout * x)
    assert np.array_equal(fastlayers.multiply(x.astype("D"), y), x.astype("D") * y)
    ones = np.ones((400, 500))
    dx, dy = fastlayers.multiply_backward(ones, ones, np.ones(500), sum_to_shape=True)
    assert np.all(dy == 400.0)
    return fastlayers.get_num_threads()
"""
FORK = """
import os
import signal

def fork(function):
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # ends a child that hangs
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return child

def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""
can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def run_forking(code):
    result = run("-W", "ignore", "-c", WORK + FORK + code)  # newer Pythons warn of threads
    assert result.stderr == ""
    return result.stdout.split()


@needs_openmp
@can_fork
def test_fork_after_threads_have_worked():
    code = """
fastlayers.set_num_threads(4)
work()
def child():
    assert work() == 1
    assert wait(fork(work)) == 0  # the child's child
    fastlayers.set_num_threads(3)
    assert work() == 1
print([wait(fork(child)) for _ in range(3)], work())
"""
    assert run_forking(code) == ["[0,", "0,", "0]", "4"]


@can_fork
def test_fork_before_threads_have_worked():
    assert run_forking("print(wait(fork(work)), work() >= 1)") == ["0", "True"]


@can_fork
def test_children_share_nothing_with_their_parent():
    code = """
x = np.arange(200_000.0)
blocks = [fastlayers.add(x, float(i)) for i in range(4)]
del blocks[::2]
def child():
    info = fastlayers.cache_info()
    assert info.blocks == 2
    one, other = fastlayers.add_backward(x)
    assert fastlayers.cache_info().hits == info.hits + 2
    one[:] = other[:] = -1.0
    blocks[0][:] = -1.0
    fastlayers.empty_cache()
print(wait(fork(child)), np.array_equal(blocks[0], x + 1.0), fastlayers.cache_info().blocks)
"""
    assert run_forking(code) == ["0", "True", "2"]


@can_fork
def test_fork_while_other_threads_work():
    # None of them may hold the recycler's mutex in the child.
    code = """
import threading
done = threading.Event()
x = np.ones(5_000)
def keep_busy():
    while not done.is_set():
        fastlayers.add_backward(x)
        fastlayers.empty_cache()
threads = [threading.Thread(target=keep_busy) for _ in range(3)]
for thread in threads:
    thread.start()
children = [wait(fork(work)) for _ in range(20)]
done.set()
for thread in threads:
    thread.join()
print(set(children))
"""
    assert run_forking(code) == ["{0}"]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(method, tmp_path):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this system")
    script = tmp_path / "script.py"
    script.write_text(f"""
import multiprocessing
import signal
{WORK}
if __name__ == "__main__":
    work()
    # An alarm ends a child that hangs, where there are alarms.
    end = (getattr(signal, "alarm", int), (10,))
    with multiprocessing.get_context({method!r}).Pool(2, *end) as pool:
        print(set(pool.map(work, range(6))))
    work()
""")
    result = run("-W", "ignore", str(script))
    threads = 1 if method == "fork" else limits.cpu_quota() if OPENMP else 1
    assert (result.stdout, result.stderr) == (f"{{{threads}}}\n", "")


# ---------------------------------------------------------------------------------------- threads


def test_python_threads_at_once():
    failed, barrier = [], threading.Barrier(8)

    def work(seed):
        rng = np.random.default_rng(seed)
        x, y, dout = (rng.standard_normal(LARGE) for _ in range(3))
        mul, add = fastlayers.MulLayer(), fastlayers.AddLayer()
        expected = described([x * y, dout * y, dout * x, x + y, dout * 1, dout * 1])
        dot = np.sum(dout * x)
        barrier.wait()
        for _ in range(10):
            results = [mul.forward(x, y), *mul.backward(dout), add.forward(x, y)]
            results += add.backward(dout)
            dy = fastlayers.multiply_backward(dout, x, y[:1], sum_to_shape=True)[1]
            if described(results) != expected or not np.allclose(dy, dot, rtol=1e-9):
                failed.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_layers_shared_by_threads():
    # Reading the operands of one layer at once: no call writes to what it is given.
    layer, x = fastlayers.MulLayer(), np.arange(float(LARGE))
    layer.forward(x, 3.0)
    results = []

    def work(factor):
        for _ in range(5):
            results.append((factor, layer.backward(np.full(LARGE, factor))))
            del results[:-20]

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    for factor, (dx, dy) in results:
        assert np.all(dx == 3.0 * factor)
        assert np.array_equal(dy, x * factor)


def lets_others_run(call):
    """Whether a thread that waits for the GIL gets it from one of many calls."""
    gate, ran = threading.Lock(), []
    gate.acquire()

    def wait():
        with gate:
            ran.append(True)

    waiting = threading.Thread(target=wait)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1_000)  # nobody is made to give up the GIL
    try:
        waiting.start()
        gate.release()
        # From here on nothing but the call itself can let the other thread run.
        for _ in range(2_000):
            call()
            if ran:
                break
        return bool(ran)
    finally:
        sys.setswitchinterval(interval)
        waiting.join()


@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="nobody has a GIL to release"
)
@pytest.mark.parametrize("threads", [1, 2])
def test_large_calls_release_the_gil(threads):
    fastlayers.set_num_threads(threads)
    x, y = np.ones((200, 500)), np.ones(500)
    out, small = np.empty((200, 500)), np.ones(100)
    assert lets_others_run(lambda: fastlayers.multiply(x, x, out=out))
    assert lets_others_run(lambda: fastlayers.multiply_backward(x, x, y))
    assert lets_others_run(lambda: fastlayers.multiply_backward(x, x, y, sum_to_shape=True))
    assert not lets_others_run(lambda: fastlayers.multiply(small, small))


# ------------------------------------------------------------------- the floating-point environment


def all_are(array, bits):
    """By their bits: a processor that takes subnormals for zeros says that the two are equal."""
    return set(array.view(f"i{array.itemsize}").ravel().tolist()) == {bits}


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_subnormals_survive(path):
    with taken(path):
        x, one = np.full(1_000, 5e-324), np.ones(1_000)
        single = np.full(1_000, 3, "i4").view("f4")
        assert all_are(fastlayers.multiply(x, one), 1)
        assert all_are(fastlayers.multiply(x, 2.0), 2)
        assert all_are(fastlayers.add(x, x), 2)
        assert all_are(fastlayers.multiply(np.full(1_000, 2.0**-600), 2.0**-474), 1)
        assert all_are(fastlayers.multiply_backward(x, one, one)[1], 1)
        assert all_are(fastlayers.add_backward(single)[0], 3)
        assert all_are(fastlayers.add_backward(x, one[:1], one, sum_to_shape=True)[0], 1_000)


def test_floating_point_environment_of_others_is_left_alone():
    # A library built with -ffast-math would flush subnormals to zero from its import on.
    code = """
import threading
import numpy as np

def environment(tiny=5e-324, one=1.0, ulp=2.0**-53):
    x = np.full(100, tiny)
    # By their digits: were subnormals taken for zeros, they would be equal to zero.
    return [
        (tiny * one).hex() == "0x0.0000000000001p-1022",
        (2.0**-1022 / (one + one)).hex() == "0x0.8000000000000p-1022",
        set((x * one).view("i8").tolist()) == {1},
        set((x + x).view("i8").tolist()) == {2},
        one + ulp == one,
        one + 1.5 * ulp == one + 2 * ulp,
        -one - 1.5 * ulp == -one - 2 * ulp,
    ]

seen = [environment()]
import fastlayers
seen.append(environment())
x = np.ones(200_000)
with np.errstate(all="ignore"):
    for value in 1.0, 1e300, 1e-300, np.inf, np.nan, 5e-324:
        fastlayers.multiply(x * value, value)
        fastlayers.multiply_backward(x * value, x, value, sum_to_shape=True)
seen.append(environment())
thread = threading.Thread(target=lambda: seen.append(environment()))
thread.start()
thread.join()
print(*(flag for flags in seen for flag in flags))
"""
    assert output_of(code, FASTLAYERS_NUM_THREADS=str(max(THREADS))) == ["True"] * 28


def test_flags_of_earlier_work_are_not_reported():
    # NumPy clears the processor's flags, which are sticky, and so do the kernels; none that they
    # leave is reported by what comes next.
    x = np.full(LARGE, 1e300)
    with np.errstate(all="ignore"):
        fastlayers.multiply(x, 1e300)
    with np.errstate(all="raise"):
        assert np.all(np.multiply(x, 0.5) == 5e299)
        assert np.all(fastlayers.multiply(x, 0.5) == plain.multiply(x, 0.5))
