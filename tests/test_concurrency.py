"""Processes, threads and signals: whoever calls, and whatever else goes on, results are right."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fresh import FORK, PATIENCE, SUPPORT, lines_of, output_of

import fastlayers
from fastlayers import limits

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy has neither threads nor memory of its own", allow_module_level=True)

from paths import OPENMP, needs_openmp
from recycler import recycler

from fastlayers._core.frontend import schedule

LARGE = 50_000  # elements, worth two threads


@pytest.fixture(autouse=True)
def restore():
    limit, interval = fastlayers.cache_info().limit, sys.getswitchinterval()
    yield
    schedule.set_thread_count(0, limits.cpu_quota())
    fastlayers.set_cache_limit(limit)
    sys.setswitchinterval(interval)


WORK = f"""
import numpy as np
import fastlayers

def same(results, expected):
    return [r.tobytes() for r in results] == [e.tobytes() for e in expected]

graph = fastlayers.Graph(lambda a, b, c: (a * b - c) * a)

def passed(graph, *operands):
    value, gradients = graph.value_and_grad(*operands)
    return [value, *gradients]

def loss(x, w, t):
    away = np.tanh(x) @ w
    away = away - np.max(away, axis=1, keepdims=True)
    return -np.mean(t * (away - np.log(np.sum(np.exp(away), axis=1, keepdims=True))))

network = fastlayers.Graph(loss)
SMALL = [np.linspace(-1, 1, 32 * n).reshape(32, n) for n in (32, 16, 16)]
LEARNT = passed(network, *SMALL)

def work(seed=0):
    rng = np.random.default_rng(seed)
    x, y, dout = (rng.standard_normal({LARGE}) for _ in range(3))
    layer = fastlayers.MulLayer()
    assert same([layer.forward(x, y), *layer.backward(dout)], [x * y, dout * y, dout * x])
    assert same([fastlayers.multiply(x.astype("D"), y)], [x.astype("D") * y])
    ones = np.ones((400, 500))
    dx, dy = fastlayers.multiply_backward(ones, ones, ones[0], sum_to_shape=True)
    assert same([dx, dy], [ones, np.full(500, 400.0)])
    inner = x * y - dout
    assert same(passed(graph, x, y, dout), [inner * x, inner + x * y, x * x, -x])
    assert same([network(*SMALL), *passed(network, *SMALL)], [loss(*SMALL), *LEARNT])
    return fastlayers.get_num_threads()
"""


def output_of_script(script, path):
    """What a script prints that may start processes, in words."""
    path.write_text(script)
    lines = lines_of("-W", "ignore", str(path))  # newer Pythons warn of threads and fork
    return " ".join(lines).split()


# ------------------------------------------------------------------------------------------- fork

# For as long as children are forked, threads call what keeps them busy.
BUSY = """
import threading
done = threading.Event()
def keep_busy():
    while not done.is_set():
        call()
def children(function, count):
    threads = [threading.Thread(target=keep_busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    codes = {0}
    for _ in range(count):
        if codes == {0}:
            codes.add(wait(fork(function)))
    done.set()
    for thread in threads:
        thread.join()
    return codes
"""
FORKS = {
    "after threads have worked": (
        """
fastlayers.set_num_threads(4)
work()
def child():
    assert work() == 1
    assert wait(fork(work)) == 0  # the child's child
    fastlayers.set_num_threads(3)
    assert work() == 1
print(*[wait(fork(child)) for _ in range(3)], work())
""",
        f"0 0 0 {4 if OPENMP else 1}",
    ),
    "before threads have worked": ("print(wait(fork(work)), work() >= 1)", "0 True"),
    "and share nothing": (
        """
x = np.arange(200_000.0)
blocks = [fastlayers.add(x, float(i)) for i in range(4)]
del blocks[::2]
def child():
    one, other = fastlayers.add_backward(x)
    one[:] = other[:] = -1.0
    blocks[0][:] = -1.0
    del one, other
    assert fastlayers.cache_info().blocks == 2
    fastlayers.empty_cache()
print(wait(fork(child)), np.array_equal(blocks[0], x + 1.0))
fastlayers.add(x, 1.0)
print(fastlayers.cache_info().blocks)
""",
        "0 True 1",
    ),
    # In the midst of calls that share their work out to threads.
    "fork_while_threads_are_at_work": (
        """
from fastlayers._core.frontend import schedule
schedule.set_thresholds(late=1e6)
fastlayers.set_num_threads(3)
x = np.ones(200_000)
def call():
    fastlayers.add_backward(x)
print(children(work, 10))
""",
        "{0}",
    ),
    # With products that BLAS shares out, too, and a network that is planned meanwhile.
    "while a network is at work": (
        """
fastlayers.set_num_threads(3)
large = [np.tile(one, (20, 1)) for one in SMALL[::2]]
def call():
    passed(fastlayers.Graph(loss), large[0], SMALL[1], large[1])
print(children(work, 10))
""",
        "{0}",
    ),
    # The recycler's mutex must not be taken in the child.
    "while the recycler is in use": (
        """
from recycler import recycler
x = np.ones(1_000)
def call():
    recycler.free(None, recycler.malloc(None, 4_000), 4_000)
print(children(lambda: fastlayers.add(x, 1.0), 100))
""",
        "{0}",
    ),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("case", FORKS)
def test_fork(case, tmp_path):
    code, expected = FORKS[case]
    output = output_of_script(WORK + FORK + BUSY + code, tmp_path / "s.py")
    assert output == expected.split()


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_pools_of_processes(method, tmp_path):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this system")
    script = f"""
import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from functools import partial
{WORK}
def computed(graph, seed):
    dout = np.random.default_rng(seed).standard_normal(({LARGE} // 100, 100))
    gradients = fastlayers.multiply_backward(dout, dout, dout[0], sum_to_shape=True)
    return [*gradients, *passed(graph, dout, dout[0], dout)]

if __name__ == "__main__":
    work()
    context = multiprocessing.get_context({method!r})
    # An alarm ends a child that hangs, where there are alarms.
    end = (getattr(signal, "alarm", int), ({60 * PATIENCE},))
    def use(pool):
        print(set(pool.map(work, range(6))))
        results = pool.map(partial(computed, graph), range(4))
        print([same(result, computed(graph, seed)) for seed, result in enumerate(results)])

    with context.Pool(2, *end) as pool:
        use(pool)
        pool.close()
        pool.join()  # or a child may be told to end in the midst of its exit
    with ProcessPoolExecutor(2, context, *end) as pool:
        use(pool)
    work()
"""
    # From Python 3.14 on a fork server imports the script before it forks.
    is_forked = method == "fork" or (method == "forkserver" and sys.version_info >= (3, 14))
    threads = 1 if is_forked or not OPENMP else limits.cpu_quota()
    expected = [f"{{{threads}}}", "[True,", "True,", "True,", "True]"] * 2
    assert output_of_script(script, tmp_path / "script.py") == expected


# ---------------------------------------------------------------------------------------- threads


@needs_openmp
def test_threads_share_the_recycler_layers_and_graphs_while_knobs_are_turned():
    assert lines_of(str(SUPPORT / "races.py"), "400") == ["18 threads, 0 errors"]


def softmax_loss(x, w, t):
    away = np.tanh(x) @ w
    away = away - np.max(away, axis=1, keepdims=True)
    return -np.mean(t * (away - np.log(np.sum(np.exp(away), axis=1, keepdims=True))))


def scaled(x):
    return np.sum(np.exp(x), axis=0) / x.shape[0]


@pytest.mark.parametrize("count", [16, 100])
def test_graphs_are_recorded_planned_and_called_by_all_threads_at_once(count):
    """A network, and one that waits for shapes: each thread has answers of its own."""
    network, waiting = fastlayers.Graph(softmax_loss), fastlayers.Graph(scaled)
    barrier, steps = threading.Barrier(count), 320 // count

    def operands(number):
        rows, dtype = number % 7 + 1, ("f4", "f8")[number % 2]
        shapes = (rows, 40), (40, 9), (rows, 9)
        return [np.random.default_rng(number).standard_normal(s).astype(dtype) for s in shapes]

    def answers(graphs, x, w, t):
        value, gradients = graphs[0].value_and_grad(x, w, t, wrt=("w", "x"))
        other, (gradient,) = graphs[1].value_and_grad(x)
        own = fastlayers.Graph(lambda x: np.sum(x * len(t)))(x)
        return [one.tobytes() for one in (value, *gradients, other, gradient, own)]

    def work(number):
        barrier.wait()
        given = operands(number)
        return [answers((network, waiting), *given) for _ in range(steps)]

    def alone(number):
        graphs = fastlayers.Graph(softmax_loss), fastlayers.Graph(scaled)
        return answers(graphs, *operands(number))

    sys.setswitchinterval(1e-5)
    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(work, range(count)))
        # By such threads, too: outside of the main one NumPy 2.1.0 promotes numbers otherwise.
        expected = list(pool.map(alone, range(count)))
    for several, one in zip(found, expected, strict=True):
        assert several == [one] * steps


def test_blocks_are_given_to_one_thread_at_a_time():
    new, free, size, steps, count = recycler.malloc, recycler.free, 4_000, 5_000, 16
    barrier = threading.Barrier(count)

    def work(number):
        barrier.wait()
        mine = []
        for _ in range(steps):
            blocks = new(None, size), new(None, size)
            for block in blocks:
                ctypes.c_int.from_address(block).value = number
            mine.append(all(ctypes.c_int.from_address(block).value == number for block in blocks))
            for block in blocks:
                free(None, block, size)
        return all(mine)

    fastlayers.empty_cache()
    before = sum(fastlayers.cache_info()[:2])
    sys.setswitchinterval(1e-5)
    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(work, number) for number in range(count)]
        # So little that most blocks that come back have others given up for them.
        while not all(one.done() for one in running):
            for limit in (3 * size, 2 * size):
                fastlayers.set_cache_limit(limit)
                assert fastlayers.cache_info().bytes <= limit
    assert [one.result() for one in running] == [True] * count
    assert sum(fastlayers.cache_info()[:2]) - before == 2 * steps * count
    fastlayers.set_cache_limit(0)
    assert fastlayers.cache_info()[2:4] == (0, 0)


def lets_others_run(call):
    """Whether a thread that waits for the GIL gets it from one of many calls."""
    gate, ran = threading.Lock(), []
    gate.acquire()

    def wait():
        with gate:
            ran.append(True)

    waiting = threading.Thread(target=wait)
    waiting.start()
    sys.setswitchinterval(1_000)  # nobody is made to give up the GIL
    gate.release()
    # From here on nothing but the call itself can let the other thread run.
    for _ in range(2_000):
        call()
        if ran:
            break
    found = bool(ran)
    waiting.join()
    return found


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


# ---------------------------------------------------------------------------------------- signals

# What a shell runs in the background ignores Ctrl-C, and so would what that runs in turn.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no process can send itself SIGINT there")
@pytest.mark.parametrize(
    "call",
    [
        "layer.backward(layer.forward(x, y))",
        "fastlayers.multiply_backward(x, x, y[:1], sum_to_shape=True)",
        "fastlayers.multiply(x, y, out=out)",
        "fastlayers.multiply(z, z, out=z_out)",
        "fastlayers.multiply_backward(z, z, z)",
        "graph.value_and_grad(x, y[:1], x)",
        "count(w, out=w)",
        "network.value_and_grad(*SMALL)",
    ],
)
def test_interrupts(call, tmp_path):
    code = f"""
import os
import threading
fastlayers.set_num_threads(3)
threads = work()
x, y, w = np.ones((3, 1000, 1000))
count = fastlayers.Graph(lambda w: w * 1.0 + 1.0)
z = np.ones(300_000, "D")
out, z_out, layer = np.empty_like(x), np.empty_like(z), fastlayers.MulLayer()
interrupted = 0
for _ in range(10):
    calling = threading.Event()
    def interrupt():
        calling.wait()
        os.kill(os.getpid(), signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        calling.set()
        while True:
            {call}
    except KeyboardInterrupt:
        interrupted += 1
    thread.join()
    assert work() == threads
    assert np.ptp(w) == 0  # all of it is updated, or none
served = sum(fastlayers.cache_info()[:2])
np.empty(10_000)
assert sum(fastlayers.cache_info()[:2]) == served  # NumPy's own handler is in force
print(interrupted)
"""
    assert output_of_script(WORK + INTERRUPTIBLE + code, tmp_path / "s.py") == ["10"]


def test_interrupt_while_garbage_is_collected():
    # Nothing that Python would look for signals in may run between the two.
    code = """
import _thread, gc, operator
import fastlayers
try:
    list(map(operator.call, [_thread.interrupt_main, gc.collect]))
    for _ in range(10):
        pass
except KeyboardInterrupt:
    print("interrupted")
"""
    assert output_of(INTERRUPTIBLE + code) == ["interrupted"]


# A long chain, sums of many results, and an update in place, with operands that are strided, too:
# all that a pass keeps at hand.
SMALL_STACK = """
import threading
import numpy as np
import fastlayers

total = "x"
for i in range(60):
    total = f"({total} * x - y)" if i % 2 else f"({total} + y * x)"
many = "abcdefghijkl"
graph = fastlayers.Graph(eval(f"lambda x, y: {total}"))
total, product = " + ".join(many), " * ".join(many)
sums = fastlayers.Graph(eval(f"lambda {', '.join(many)}: ({total}) * ({product})"))
update = fastlayers.Graph(lambda w, v, g: (w + (0.5 * v - 0.25 * g), 0.5 * v - 0.25 * g))
results = []

def work():
    for size in 100, 300_000:
        x, y = np.linspace(0.5, 1, 2 * size), np.full(2 * size, 0.25)
        value, gradients = graph.value_and_grad(x, y)
        results.extend([value, *gradients, graph(x[::2], y[1::2])])
        rows = [np.full((size // 50, 100), 1.0), *[x[i : i + 100] for i in range(11)]]
        results.extend(sums.value_and_grad(*rows)[1])
        results.extend(update(x, y, y, out=(x, None)))

def on_stack(size):
    results.clear()
    threading.stack_size(size)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return [one.tobytes() for one in results]

assert on_stack(128 * 1024) == on_stack(0)
print(len(results))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_with_a_small_stack(threads):
    printed = output_of(SMALL_STACK, FASTLAYERS_NUM_THREADS=str(threads), OMP_STACKSIZE="128K")
    assert printed == ["36"]


# Another interpreter of this process; Python's own module for it has changed its name.
SUBINTERPRETER = """
import fastlayers
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

interpreters.run_string(interpreters.create(), '''
import warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    try:
        import numpy
    except ImportError:
        print("refused by NumPy")
    else:
        import fastlayers
        told = [str(one.message) for one in seen if "compiled part" in str(one.message)]
        print(fastlayers.IMPLEMENTATION, len(told), fastlayers.multiply(2.0, 3.0))
''')
"""


def test_another_interpreter_of_the_process_runs_on_plain_numpy():
    # Newer NumPys are not to be had there at all.
    printed = " ".join(output_of(SUBINTERPRETER))
    assert printed in ("reference 1 6.0", "refused by NumPy")
