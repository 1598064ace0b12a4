"""Memory that nobody needs goes back to the operating system, whatever goes on meanwhile."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import pytest
from fresh import lines_of, run

import fastlayers

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy keeps nothing", allow_module_level=True)

from paths import TASKS

by_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory and threads are known from /proc"
)
can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

# A program that drops 64 MiB of results. A wait has an end: what it waits for never comes then.
PROGRAM = f"""
import gc
import os
import sys
import time
import numpy as np
import fastlayers
from fastlayers._core import memory

MIB = 1 << 20
gc.disable()  # no collection is needed for it
memory.set_idle_seconds(0.05)

def resident():
    # Of its own memory alone: pages of libraries come and go.
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("RssAnon:"))

def threads():
    return len(os.listdir("{TASKS}"))

def drop(n=MIB):
    results = [fastlayers.add(np.broadcast_to(1.0, n), 1.0) for _ in range(8 * MIB // n)]
    return resident()

def wait_until(condition, meanwhile=lambda: time.sleep(0.01)):
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"it is still so: {{resident()}} bytes resident, {{fastlayers.cache_info()}}")
        meanwhile()
"""
ONE_THREAD = {
    "FASTLAYERS_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


@by_proc
@pytest.mark.parametrize("n", ["MIB", "10_000"], ids=["mapped", "of malloc"])
@pytest.mark.parametrize(
    "meanwhile",
    [
        "time.sleep(0.01)",
        "np.negative(small, out=small)",
        "time.sleep(0.01), fastlayers.add(small, 1.0)",
    ],
    ids=["sleeps", "computes with NumPy", "makes few calls"],
)
def test_idle_memory_is_given_back_while_the_program(meanwhile, n):
    # NumPy computes in place: new arrays may take what was just given back, here and there up to
    # 7 MiB of it, and malloc keeps that.
    code = f"""
small = np.ones(1_000)
before = drop({n})
wait_until(lambda: resident() < before - 55 * MIB, lambda: ({meanwhile}))
print("given back")
"""
    assert lines_of("-c", PROGRAM + code) == ["given back"]


@by_proc
def test_the_sweeper_is_there_as_long_as_it_has_work():
    code = """
counts = []
for _ in range(3):
    counts.append(threads())
    fastlayers.add(np.ones(1_000), 1.0)
    counts.append(threads())
    wait_until(lambda: threads() == 1)
    counts.append(fastlayers.cache_info().blocks)
print(*counts)
memory.set_idle_seconds(1e300)
fastlayers.add(np.ones(1_000), 1.0)
print(threads(), fastlayers.cache_info().blocks)
"""
    assert lines_of("-c", PROGRAM + code, **ONE_THREAD) == ["1 2 0 1 2 0 1 2 0", "2 1"]


@by_proc
def test_without_a_sweeper_calls_give_back_all_now_and_then():
    # No thread finds memory for its stack; malloc has some of what was dropped for another block.
    code = """
import resource
memory.set_idle_seconds(0.0)
limit = fastlayers.cache_info().limit
fastlayers.set_cache_limit(0)
x = np.ones(10_000)
results = [fastlayers.add(x, 1.0) for _ in range(8)]
del results[2:]
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped, -1))
fastlayers.set_cache_limit(limit)
del results
print(threads(), *fastlayers.cache_info()[1:3])
for _ in range(300):
    fastlayers.add(x, 1.0)
print(threads(), *fastlayers.cache_info()[1:3])
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
for _ in range(300):
    fastlayers.add(x, 1.0)
wait_until(lambda: fastlayers.cache_info().blocks == 0)  # tried again, a sweeper could be started
"""
    assert lines_of("-c", PROGRAM + code, **ONE_THREAD) == ["1 8 1", "1 9 1"]


@pytest.mark.skipif(not hasattr(os, "sched_yield"), reason="signals are not sent to threads")
def test_the_sweeper_handles_no_signals():
    code = """
import signal
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
memory.set_idle_seconds(0.001)
layer = fastlayers.AddLayer()
kept = layer.forward(np.ones(1_000), 1.0)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
drop()  # the sweeper starts while this thread blocks nothing
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.kill(os.getpid(), signal.SIGUSR1)
wait_until(lambda: fastlayers.cache_info().blocks == 0)
print(signal.SIGUSR1 in signal.sigpending())
"""
    assert lines_of("-c", PROGRAM + code, **ONE_THREAD) == ["True"]


# ------------------------------------------------------------------------------------------- fork


@can_fork
@by_proc
def test_a_fork_leaves_no_idle_memory_behind():
    # Newer Pythons warn whoever forks beside another thread.
    code = """
memory.set_idle_seconds(1e6)
drop()
print(threads(), fastlayers.cache_info().blocks)
child = os.fork()
if child == 0:
    os._exit(fastlayers.cache_info().blocks)
print(os.waitpid(child, 0)[1], fastlayers.cache_info().blocks)
wait_until(lambda: threads() == 1)  # it has ended, and is about to go
"""
    lines = lines_of("-W", "error", "-c", PROGRAM + code, **ONE_THREAD)
    assert lines == ["2 8", "0 0"]


@can_fork
def test_fork_while_the_sweeper_is_at_work():
    code = """
import threading
memory.set_idle_seconds(0.0)
done = threading.Event()
def keep_busy():
    while not done.is_set():
        fastlayers.add(np.broadcast_to(1.0, 10_000), 1.0)
threads = [threading.Thread(target=keep_busy) for _ in range(2)]
for thread in threads:
    thread.start()
codes = set()
for _ in range(15):
    child = os.fork()
    if child == 0:
        drop()
        wait_until(lambda: fastlayers.cache_info().blocks == 0)
        os._exit(7)
    codes.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
for thread in threads:
    thread.join()
wait_until(lambda: fastlayers.cache_info().blocks == 0)  # the parent has a sweeper again, too
print(codes)
"""
    assert lines_of("-W", "ignore", "-c", PROGRAM + code, **ONE_THREAD) == ["{7}"]


@can_fork
@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "__register_atfork"), reason="it is for the GNU C library"
)
@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="without the GIL, Python stops all its threads to fork: nobody waits",
)
def test_who_waits_for_the_recycler_sleeps():
    # To yield for ever would starve a holder of a lower priority. A fork holds the lock, here for
    # half a second; who yields has not been switched from of his own will, who sleeps has.
    code = """
import ctypes, os, resource, threading, time
CALLBACK = ctypes.CFUNCTYPE(None)
hold = CALLBACK(lambda: (held.set(), time.sleep(0.5)))
held = threading.Event()
no_callback = ctypes.cast(None, CALLBACK)
ctypes.CDLL(None).__register_atfork(no_callback, hold, no_callback, None)
import fastlayers  # whose handlers run after that
from recycler import recycler
def wait():
    held.wait()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    recycler.free(None, recycler.malloc(None, 4_000), 4_000)
    print(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before > 100)
thread = threading.Thread(target=wait)
thread.start()
if os.fork() == 0:
    os._exit(0)
thread.join()
"""
    assert lines_of("-W", "ignore", "-c", code) == ["True"]


# ------------------------------------------------------------------------------------------- exit

ENDINGS = {
    "returns": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "os._exit": ("os._exit(4)", 4),
    "an exception": ("raise LookupError", 1),
    "an exception at exit": ("import atexit; atexit.register(lambda: 1 / 0)", 0),
    "a daemon thread": (
        "import threading; threading.Thread(target=keep_busy, daemon=True).start()",
        0,
    ),
}


# Asleep by those that end in ways of their own: with Python's last steps, without, and midst calls.
ENDS = [*((0.0, ending) for ending in ENDINGS)]
ENDS += [(1e300, ending) for ending in ("returns", "os._exit", "a daemon thread")]


@pytest.mark.parametrize(("seconds", "ending"), ENDS)
def test_the_interpreter_ends_while_the_sweeper_is_at_work_or_asleep(seconds, ending):
    code, expected = ENDINGS[ending]
    script = f"""
memory.set_idle_seconds({seconds})
def keep_busy():
    while True:
        drop()
drop()
{code}
"""
    result = run("-c", PROGRAM + script)
    assert result.returncode == expected
    assert ("Error" in result.stderr) == ("exception" in ending)
