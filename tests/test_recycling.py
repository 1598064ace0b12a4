"""Large results own memory that is recycled, and nobody can tell."""

from __future__ import annotations

import asyncio
import copy
import ctypes
import functools
import gc
import os
import pickle
import queue
import sys
import threading
import tracemalloc
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
from fresh import lines_of
from numpy._core import multiarray
from operands import Operand
from outcome import described, outcome, sharing

import fastlayers

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy recycles nothing", allow_module_level=True)

from recycler import Handler, pointer, recycler, size

from fastlayers._core import memory

MIB = 1 << 20


@pytest.fixture(autouse=True)
def empty_cache():
    limit = fastlayers.cache_info().limit
    fastlayers.empty_cache()
    gc.disable()  # arrays of other tests are not to die in this one
    yield
    gc.enable()
    fastlayers.set_cache_limit(limit)


def served():
    """How many arrays the recycler has given memory to."""
    info = fastlayers.cache_info()
    return info.hits + info.misses


@pytest.fixture(params=[True, False], ids=["around a block", "by NumPy"])
def made(request):
    """Results are made around blocks, or where a NumPy did not allow for that, by NumPy."""
    owning = memory.get_owning()
    memory.set_owning(request.param)
    yield
    memory.set_owning(owning)


def is_recycling():
    before = served()
    np.empty(10_000)
    return served() > before


# ------------------------------------------------------------------------- results own their data


def operand(dtype, n=10_000, layout="C"):
    return Operand(dtype, (n // 100, 100), layout).build()


CALLS = {
    "served": lambda: [fastlayers.multiply(operand("f8"), operand("f8"))],
    "numbers": lambda: [fastlayers.add(operand("f4"), 2.0)],
    "gradients": lambda: [*fastlayers.multiply_backward(*[operand("i8")] * 3)],
    "copies": lambda: [*fastlayers.add_backward(operand("f8"))],
    "strided": lambda: [fastlayers.add(operand("f8", layout="gate"), 1.0)],
    "transposed": lambda: [fastlayers.multiply(operand("f8"), operand("f8", layout="F"))],
    "just large enough": lambda: [fastlayers.add(np.ones(256), 1.0)],
}
SUMMED = {
    "summed": lambda: [
        fastlayers.multiply_backward(
            operand("f8"), operand("f8"), operand("f8")[:, :1], sum_to_shape=True
        )[0]
    ],
}
FALLEN_THROUGH = {
    "complex": lambda: [fastlayers.multiply(operand("D"), operand("D"))],
    "float16": lambda: [*fastlayers.multiply_backward(*[operand("f2")] * 3)],
    "unaligned": lambda: [fastlayers.add(operand("f8", layout="unaligned"), 1.0)],
    "mixed dtypes": lambda: [fastlayers.multiply(operand("f4"), operand("f8"))],
    "outer": lambda: [fastlayers.multiply(np.ones((100, 1), "f2"), np.ones(100, "f2"))],
    "that overflowed": lambda: [fastlayers.multiply(np.full(10_000, 1e300), 1e300)],
}
ALL_CALLS = CALLS | SUMMED | FALLEN_THROUGH
each_call = pytest.mark.parametrize("call", ALL_CALLS)


@pytest.mark.usefixtures("made")
@each_call
def test_results_own_their_memory(call):
    with np.errstate(all="ignore"):
        results = ALL_CALLS[call]()
    for result in results:
        assert result.flags.owndata
        assert result.flags.writeable
        assert result.base is None
        assert call in FALLEN_THROUGH or result.ctypes.data % 64 == 0
    assert sharing(results) == []
    del result
    for _ in range(len(results)):
        blocks = fastlayers.cache_info().blocks
        del results[-1]
        assert fastlayers.cache_info().blocks == blocks + 1


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("layout", ["tagged", "masked"])
def test_subclasses_hold_recycled_memory(layout):
    x = operand("f8", layout=layout)
    result, blocks = fastlayers.multiply(x, x), fastlayers.cache_info().blocks
    assert described(result) == described(x * x)
    del result
    assert fastlayers.cache_info().blocks > blocks


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("n", [1, 50, 255])
def test_small_results_are_left_to_numpy(n):
    before = served()
    fastlayers.multiply(np.ones(n), 2.0)
    fastlayers.multiply(np.ones(n // 2, "D"), 2.0)
    assert served() == before


# ------------------------------------------------------------------------------------------ reuse


@pytest.mark.parametrize("n", [256, 1_000, 100_000, 1_000_000])
def test_reused_when_its_array_dies(n):
    x = np.ones(n)
    result = fastlayers.multiply(x, 2.0)
    address, hits = result.ctypes.data, fastlayers.cache_info().hits
    del result
    assert fastlayers.cache_info().blocks == 1
    assert fastlayers.cache_info().bytes >= 8 * n
    result = fastlayers.add(x, 2.0)
    assert result.ctypes.data == address
    assert fastlayers.cache_info().hits == hits + 1
    assert fastlayers.cache_info()[2:4] == (0, 0)
    assert np.all(result == 3.0)


@pytest.mark.usefixtures("made")
def test_a_step_reuses_what_the_last_one_left():
    x, layer = np.ones(10_000), fastlayers.MulLayer()
    for _ in range(2):
        layer.backward(layer.forward(x, x))
    before = fastlayers.cache_info()
    for _ in range(100):
        layer.backward(layer.forward(x, x))
    after = fastlayers.cache_info()
    assert after.misses == before.misses
    assert after.hits == before.hits + 300
    assert after.bytes == before.bytes


def holds_memory(hold):
    """Whether new results keep out of a dead result's memory while ``hold(result)`` lives."""
    x = np.arange(10_000.0)
    result = fastlayers.multiply(x, 2.0)
    address, held = result.ctypes.data, hold(result)
    del result
    assert fastlayers.cache_info().blocks == 0
    others = [fastlayers.add(x, float(i)) for i in range(5)]
    assert address not in [other.ctypes.data for other in others]
    del others
    assert np.array_equal(np.asarray(held).ravel()[:3], [0.0, 2.0, 4.0])
    blocks = fastlayers.cache_info().blocks
    del held
    return fastlayers.cache_info().blocks == blocks + 1


@pytest.mark.parametrize(
    "hold",
    [
        lambda result: result,
        lambda result: result[:5],
        lambda result: result.reshape(100, 100).T[:3, :1],
        lambda result: np.asarray(result).view(np.recarray),
        memoryview,
        lambda result: np.frombuffer(result, "f8"),
        lambda result: np.from_dlpack(result),
        lambda result: result.flat,
        lambda result: pickle.PickleBuffer(result),
    ],
    ids=[
        *("array", "slice", "view of a view", "subclass", "memoryview", "buffer", "dlpack", "flat"),
        "pickle",
    ],
)
def test_not_reused_while_anything_sees_it(hold):
    assert holds_memory(hold)


@pytest.mark.usefixtures("made")
def test_arrays_in_a_cycle():
    class Node:
        pass

    gc.collect()
    fastlayers.empty_cache()
    node = Node()
    node.result, node.self = fastlayers.multiply(np.ones(10_000), 2.0), node
    del node
    assert fastlayers.cache_info().blocks == 0
    gc.collect()
    assert fastlayers.cache_info().blocks == 1


@pytest.mark.usefixtures("made")
def test_freed_by_another_thread():
    results, x, sums = queue.Queue(), np.ones(10_000), []

    def consume():
        while (result := results.get()) is not None:
            sums.append(result.sum())

    consumer = threading.Thread(target=consume)
    consumer.start()
    for i in range(200):
        results.put(fastlayers.multiply(x, float(i)))
    results.put(None)
    consumer.join()
    assert sums == [10_000.0 * i for i in range(200)]
    assert fastlayers.cache_info().hits > 0


# --------------------------------------------------------------------------- whether NumPy agrees


@pytest.mark.usefixtures("made")
def test_numpy_knows_whose_memory_it_is():
    result = fastlayers.multiply(np.ones(10_000), 2.0)
    assert multiarray.get_handler_name(result) == "fastlayers"
    assert multiarray.get_handler_name(np.ones(10_000)) == "default_allocator"


@pytest.mark.parametrize(
    ("change", "owning"),
    [
        ("", True),
        ("del multiarray.get_handler_name", False),
        ("multiarray.get_handler_name = lambda array: None", False),
        ("multiarray.get_handler_name = lambda array: 'default_allocator'", False),
    ],
    ids=["as it is", "cannot be asked", "knows no handler", "sees another handler"],
)
def test_a_numpy_that_keeps_handlers_elsewhere(change, owning):
    code = f"""
import numpy as np
from numpy._core import multiarray
{change}
import fastlayers
from fastlayers._core import memory
for _ in range(3):
    result = fastlayers.multiply(np.ones(10_000), 2.0)
    assert result.flags.owndata and result.sum() == 20_000
    del result
print(memory.get_owning(), *fastlayers.cache_info()[:3])
"""
    assert lines_of("-c", code) == [f"{owning} 2 1 1"]


# --------------------------------------------------------------------- results as ordinary arrays


SIZES = [300, 20_000, 200_000]  # blocks of malloc, of malloc begun within a page, mapped ones
each_size = pytest.mark.parametrize("n", SIZES)


def doubled(n):
    return fastlayers.multiply(np.arange(float(n)), 2.0)


@each_size
def test_saved_to_files(n, tmp_path):
    result = doubled(n)
    np.save(tmp_path / "saved.npy", result)
    result.tofile(tmp_path / "raw")
    np.savez_compressed(tmp_path / "saved.npz", result.reshape(10, -1).T)
    assert np.array_equal(np.load(tmp_path / "saved.npy"), result)
    assert np.array_equal(np.fromfile(tmp_path / "raw"), result)
    with np.load(tmp_path / "saved.npz") as archive:
        assert np.array_equal(archive["arr_0"], result.reshape(10, -1).T)


@each_size
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda a: pickle.loads(a.dumps())])
def test_copied(n, again):
    result = doubled(n)
    other = again(result)
    assert described(other) == described(again(np.arange(float(n)) * 2.0))
    assert not np.shares_memory(other, result)


@each_size
def test_exported_as_a_buffer(n):
    result = doubled(n)
    exported = memoryview(result)
    assert (exported.nbytes, exported.format, exported.readonly) == (result.nbytes, "d", False)
    with pytest.raises(ValueError, match="resize"):
        result.resize(5)
    exported[0] = 5.0
    assert result[0] == 5.0
    assert bytes(exported) == result.tobytes()
    bytes_of = exported.cast("B")
    del result, exported
    assert np.array_equal(np.frombuffer(bytes_of)[1:], 2.0 * np.arange(1, n))


@each_size
def test_views_and_weak_references(n):
    result = doubled(n)
    view, expected = result[1:].reshape(-1, 1).T, result[1:].copy()
    reference = weakref.ref(result)
    del result
    assert reference() is view.base
    assert np.array_equal(view[0], expected)
    del view
    assert reference() is None


@pytest.mark.usefixtures("made")
@each_size
@pytest.mark.parametrize("factor", [0, 0.01, 0.5, 0.99, 1.01, 1.5, 4])
def test_resized_within_and_across_blocks(n, factor):
    result = doubled(n)
    size = int(n * factor)
    result.resize(size)
    kept = min(n, size)
    assert np.array_equal(result[:kept], 2.0 * np.arange(kept))
    assert not result[kept:].any()
    result *= 2
    result.resize((2, n))
    assert np.array_equal(result[0, :kept], 4.0 * np.arange(kept))
    assert not result[0, kept:].any()
    assert not result[1].any()
    blocks = fastlayers.cache_info().blocks
    del result
    assert fastlayers.cache_info().blocks == blocks + 1


@each_size
def test_written_to_the_last_byte(n):
    result = doubled(n)
    # Its neighbours: blocks of the same size, and headers before and behind.
    others = [fastlayers.multiply(result, 1.0) for _ in range(6)]
    expected = result.copy()
    for other in others[::2]:
        other.view(np.uint8)[:] = 0xFF
    for other in others[1::2]:
        assert np.array_equal(other, expected)
    blocks = fastlayers.cache_info().blocks
    del other, others
    assert fastlayers.cache_info().blocks == blocks + 6
    assert np.array_equal(result, expected)


@each_size
def test_state_set_from_another_array(n):
    result = doubled(n)
    # np.ndarray.__setstate__ frees the block and takes memory of NumPy's.
    state = np.arange(3.0).__reduce__()[2]
    blocks = fastlayers.cache_info().blocks
    result.__setstate__(state)
    assert fastlayers.cache_info().blocks == blocks + 1
    assert result.tolist() == [0.0, 1.0, 2.0]


def test_many_sizes():
    # Every capacity, and both sides of it.
    x = np.ones(40_000, "i4")
    for power in range(9, 15):
        for eighth in range(8, 16):
            for n in ((eighth << power - 3) + d for d in (-1, 0, 1)):
                result = fastlayers.add(x[:n], 1)
                assert result.sum() == 2 * n
                result.resize(n + 5)
                assert result.sum() == 2 * n


@pytest.mark.usefixtures("made")
def test_another_shape_and_dtype_before_it_dies():
    for _ in range(3):
        result = fastlayers.multiply(np.ones(10_000), 2.0)
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            result.shape = (50, 200)
            result.dtype = np.int16
        assert result.shape == (50, 800)
        del result
        assert fastlayers.cache_info().blocks == 1
        assert fastlayers.cache_info().bytes >= 80_000


# -------------------------------------------------------------------------------------- the limit


def fill_cache(*sizes):
    """Put a block for each size, in bytes, into the cache."""
    results = [fastlayers.add(np.ones(size // 8), 1.0) for size in sizes]
    del results


def test_cache_info():
    assert fastlayers.cache_info()._fields == ("hits", "misses", "blocks", "bytes", "limit")
    fill_cache(10_000, 10_000, 1_000_000)
    info = fastlayers.cache_info()
    assert info.blocks == 3
    assert 1_020_000 <= info.bytes <= 1_020_000 * 9 / 8 + 3 * 64


@pytest.mark.usefixtures("made")
def test_limit_of_0_keeps_nothing():
    fill_cache(10_000)
    fastlayers.set_cache_limit(0)
    assert fastlayers.cache_info()[2:] == (0, 0, 0)
    hits = fastlayers.cache_info().hits
    for _ in range(5):
        fill_cache(10_000, 2 * MIB)
        assert fastlayers.cache_info()[2:4] == (0, 0)
    assert fastlayers.cache_info().hits == hits


def test_smaller_limit_gives_back_at_once():
    fill_cache(*[100_000] * 10)
    held = fastlayers.cache_info().bytes
    fastlayers.set_cache_limit(held // 2)
    assert fastlayers.cache_info()[2:] == (5, held // 2, held // 2)
    fill_cache(2 * MIB)  # beyond the limit
    assert fastlayers.cache_info()[2:4] == (5, held // 2)


def test_many_blocks_make_room():
    # Far more than are taken out at a time.
    fill_cache(*[10_000] * 500)
    small = fastlayers.cache_info().bytes // 500
    fill_cache(*[100_000] * 300)
    held = fastlayers.cache_info().bytes
    fastlayers.set_cache_limit(held - 200 * small + 1)
    assert fastlayers.cache_info()[2:4] == (600, held - 200 * small)
    fastlayers.set_cache_limit(held - 450 * small)
    fill_cache(450 * small)  # for which all that is left is too much
    assert fastlayers.cache_info().blocks < 300
    fill_cache(*[10_000] * 500)
    fastlayers.empty_cache()
    assert fastlayers.cache_info()[2:4] == (0, 0)


def test_limit_is_never_passed():
    limit = 3 * MIB
    fastlayers.set_cache_limit(limit)
    rng = np.random.default_rng(0)
    most = 0
    for _ in range(300):
        fill_cache(*(int(size) for size in rng.integers(2_048, MIB, 4)))
        most = max(most, fastlayers.cache_info().bytes)
    assert limit / 2 < most <= limit


def test_longest_unused_blocks_go_first():
    fastlayers.set_cache_limit(3 * MIB)
    fill_cache(MIB // 2)
    fill_cache(MIB // 4)
    for _ in range(5):
        fill_cache(MIB // 2)  # in use
    fill_cache(*[MIB] * 2)
    fill_cache(MIB - 1_000)  # of the same capacity: nothing has to go
    hits = fastlayers.cache_info().hits
    fill_cache(MIB // 2)
    assert fastlayers.cache_info().hits == hits + 1
    fill_cache(MIB + MIB // 8)  # too much: the quarter, longest unused, goes
    hits = fastlayers.cache_info().hits
    fill_cache(MIB // 4)
    assert fastlayers.cache_info().hits == hits


def test_empty_cache():
    alive = fastlayers.multiply(np.ones(10_000), 2.0)
    fill_cache(10_000, 100_000, 2 * MIB)
    assert fastlayers.empty_cache() is None
    assert fastlayers.cache_info()[2:4] == (0, 0)
    assert np.all(alive == 2.0)
    del alive
    assert fastlayers.cache_info().blocks == 1


# ------------------------------------------------------------------------------------- recycling()


def test_recycling_goes_for_everything_numpy_makes():
    assert not is_recycling()
    with fastlayers.recycling():
        assert is_recycling()
        x = np.ones(10_000)
        made = [
            np.empty(10_000),
            np.concatenate([x, x]),
            np.sqrt(x),
            x[x > 0],
            x.astype("f4"),
            np.arange(10_000),
            x.copy(),
        ]
        fallen = len(made)
    assert not is_recycling()
    before = fastlayers.cache_info().blocks
    del made
    assert fastlayers.cache_info().blocks == before + fallen
    assert np.all(x == 1.0)


# A load waits for a store under way whose address has the same twelve lowest bits.
PAGE = 4096


@pytest.mark.parametrize("y_starts", [0, 64, 1000, 2048])
@pytest.mark.parametrize("n", [20_000, 50_000])
def test_results_begin_elsewhere_in_a_page_than_their_inputs(n, y_starts):
    memory = np.ones(2 * n + 3 * PAGE // 8)
    start = -memory.ctypes.data % PAGE // 8
    y_start = start + n + (-n % (PAGE // 8)) + y_starts // 8
    x, y = memory[start : start + n], memory[y_start : y_start + n]
    for result in [fastlayers.multiply(x, y), *fastlayers.multiply_backward(x, y, x)]:
        lines = [one.ctypes.data % PAGE // 64 for one in (result, x, y)]
        assert lines[0] not in lines[1:]


@pytest.mark.parametrize("dtype", ["f8", "i1", "D", "U5", "f4,i8", "O", "M8[s]"])
@pytest.mark.parametrize("n", [1, 255, 5_000, 200_000])
def test_zeros_in_used_memory_are_zero(n, dtype):
    expected = np.zeros(n, dtype)
    with fastlayers.recycling():
        used = np.full(expected.nbytes, 0xAB, np.uint8)
        address = used.ctypes.data
        del used
        zeros = np.zeros(n, dtype)
        assert abs(zeros.ctypes.data - address) < PAGE  # the same block
        assert np.array_equal(zeros, expected)
        assert np.all(np.zeros_like(zeros) == expected)
        if dtype == "O":
            assert set(np.empty(n, dtype)) == {None}


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="what is there now is known from /proc"
)
def test_zeros_in_new_memory_are_not_touched():
    # 256 MiB that the system has just zeroed, in huge pages of 2 MiB.
    with fastlayers.recycling():
        before = memory_of_process()[0]
        zeros = np.zeros(32 * MIB)
        assert memory_of_process()[0] - before < 8 * MIB
        assert not zeros.any()


each_decorator = pytest.mark.parametrize(
    "decorator", [fastlayers.recycling, fastlayers.recycling()], ids=["bare", "called"]
)


@each_decorator
def test_recycling_decorates(decorator):
    @decorator
    def relu(x, *, slope=0.0):
        """Rectify."""
        assert is_recycling()
        return np.maximum(x, slope * x)

    class Layer:
        @decorator
        def forward(self, depth):
            return is_recycling() and (depth == 0 or self.forward(depth - 1))

        @staticmethod
        @decorator
        def helper():
            return is_recycling()

    assert relu.__name__ == "relu"
    assert relu.__doc__ == "Rectify."
    for _ in range(3):
        assert relu(np.array([-1.0, 2.0]), slope=0.5).tolist() == [-0.5, 2.0]
        assert Layer().forward(depth=5)
        assert Layer.helper()
        assert not is_recycling()
    before = served()
    decorator(np.zeros)(10_000)
    assert served() > before


def generator():
    yield


async def coroutine():
    pass


async def asynchronous_generator():
    yield


class Callable:
    async def __call__(self):
        pass


LATE = [generator, coroutine, asynchronous_generator, Callable()]
LATE += [functools.partial(generator), functools.partial(coroutine)]
BODIES = [(late, r"with fastlayers\.recycling") for late in LATE]  # run after the call
BODIES += [(value, "decorates functions") for value in (1, "relu", np.ones(3), [generator])]


@each_decorator
@pytest.mark.parametrize(("value", "message"), BODIES)
def test_what_recycling_does_not_decorate(decorator, value, message):
    with pytest.raises(TypeError, match=message) as caught:
        decorator(value)
    assert repr(value) in str(caught.value)


def test_recycling_nests_and_ends_with_exceptions():
    one = fastlayers.recycling()
    with one as entered:
        assert entered is one
        with fastlayers.recycling(), one:
            assert is_recycling()
        assert is_recycling()
        with pytest.raises(LookupError), one:
            raise LookupError
        assert is_recycling()
    assert not is_recycling()
    for _ in range(2):
        with pytest.raises(LookupError), one:
            raise LookupError
        assert not is_recycling()

    @fastlayers.recycling()
    def fail():
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        fail()
    assert not is_recycling()


def test_recycling_goes_for_its_own_thread():
    seen = []
    with fastlayers.recycling():
        thread = threading.Thread(target=lambda: seen.append(is_recycling()))
        thread.start()
        thread.join()
        assert is_recycling()
    # A thread gets a copy of the context of its parent, if Python is told to.
    assert seen == [bool(getattr(sys.flags, "thread_inherit_context", False))]


def test_recycling_goes_for_its_own_task():
    async def work(name, first, then):
        assert not is_recycling()
        with fastlayers.recycling():
            first.set()
            await then.wait()
            assert is_recycling()
        assert not is_recycling()
        return name

    async def both():
        one, other = asyncio.Event(), asyncio.Event()
        # They enter and leave in turns, not nested.
        return await asyncio.gather(work("a", one, other), work("b", other, one))

    assert asyncio.run(both()) == ["a", "b"]
    assert not is_recycling()


# ------------------------------------------------------------------------- handlers of other people

C = ctypes.CDLL(None if os.name == "posix" else "msvcrt")
COUNTS = {"new": 0, "freed": 0, "resized": 0}


def counted(name, count, returned, *arguments):
    """A handler's function that does as the C library's of that name, and counts."""
    function = getattr(C, name)
    function.argtypes, function.restype = arguments, returned

    def call(context, *given):
        COUNTS[count] += 1
        return function(*given[: len(arguments)])

    return dict(Handler._fields_)[name](call)


COUNTING = Handler(
    name=b"counting",
    version=1,
    malloc=counted("malloc", "new", pointer, size),
    calloc=counted("calloc", "new", pointer, size, size),
    realloc=counted("realloc", "resized", pointer, pointer, size),
    free=counted("free", "freed", None, pointer),
)
NAME = b"mem_handler"
new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.argtypes, new_capsule.restype = [pointer, ctypes.c_char_p, pointer], ctypes.py_object
CAPSULE = new_capsule(ctypes.addressof(COUNTING), NAME, None)


@pytest.fixture
def own_handler():
    """A handler of the user's own, in force: what it counts."""
    previous = memory.set_handler(CAPSULE)
    COUNTS.update(new=0, freed=0, resized=0)
    yield COUNTS
    memory.set_handler(previous)


@pytest.mark.usefixtures("made")
@each_call
def test_own_handler_is_respected(own_handler, call):
    before = served()
    with np.errstate(all="ignore"):
        results = ALL_CALLS[call]()
    live = own_handler["new"] - own_handler["freed"]
    assert live == len(results) or call in SUMMED  # of which the other gradient is kept
    del results
    assert own_handler["new"] == own_handler["freed"] >= live >= 1
    np.empty(10_000)
    assert served() == before


@pytest.mark.parametrize("less", [1, 1 << 20, 3 << 19, 1 << 21, 3 << 20])
def test_sizes_that_leave_no_room_are_refused(less):
    # NumPy asks for no more than 2**63; others may call its handler, too.
    size = ctypes.c_size_t(-less).value
    assert recycler.malloc(None, size) is None
    assert recycler.calloc(None, 1, size) is None


def test_own_handler_is_restored(own_handler):
    with fastlayers.recycling():
        new = own_handler["new"]
        assert is_recycling()
        x = fastlayers.multiply(np.ones(10_000), 2.0)
        np.multiply(x, x)
        assert own_handler["new"] == new
        with pytest.raises(TypeError):
            fastlayers.multiply(x, None)
        assert is_recycling()
    assert not is_recycling()
    assert own_handler["new"] == new + 1
    with pytest.raises(LookupError), fastlayers.recycling():
        raise LookupError
    assert not is_recycling()
    assert own_handler["new"] == new + 2


@pytest.mark.usefixtures("made")
def test_own_handler_in_force_within_recycling():
    with fastlayers.recycling():
        previous = memory.set_handler(CAPSULE)
        try:
            assert not is_recycling()
            result = fastlayers.multiply(np.ones(10_000), 2.0)
        finally:
            memory.set_handler(previous)
        assert is_recycling()
    freed = COUNTS["freed"]
    del result
    assert COUNTS["freed"] == freed + 1


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("y", [None, "a", np.ones(7), np.ones((3, 3), "D")])
def test_errors_leave_numpys_handler_in_force(y):
    for x in (np.ones(10_000), np.ones(10_000, "D"), np.ones(10_000, "f2")):
        for function in (fastlayers.multiply, fastlayers.add):
            assert outcome(function, x, y).exception is not None
            assert not is_recycling()


# --------------------------------------------------------------------------------- accounting


def traced():
    """Bytes of arrays, as tracemalloc counts them."""
    snapshot = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)]
    )
    return sum(trace.size for trace in snapshot.traces)


@pytest.fixture
def tracing():
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("made")
@each_call
def test_tracemalloc_sees_the_memory(tracing, call):
    with np.errstate(all="ignore"):
        for _ in range(2):  # new, then recycled
            before = traced()
            results = ALL_CALLS[call]()
            assert traced() - before == sum(result.nbytes for result in results)
            del results
            assert traced() == before


@pytest.mark.usefixtures("made")
def test_tracemalloc_sees_a_resize(tracing):
    before = traced()
    result = fastlayers.multiply(np.ones(10_000), 2.0)
    result.resize(15_000)
    assert traced() - before == 120_000
    result.resize(14_900)  # of the same block
    assert traced() - before == 119_200
    del result
    assert traced() == before


def test_tracing_that_starts_or_ends_in_between():
    result = fastlayers.multiply(np.ones(10_000), 2.0)
    tracemalloc.start()
    before = traced()
    del result
    assert traced() == before
    result = fastlayers.multiply(np.ones(10_000), 2.0)
    tracemalloc.stop()
    del result
    assert fastlayers.cache_info().blocks >= 1


def memory_of_process():
    """Bytes of memory: resident, and mapped if that is known."""
    try:
        mapped, resident = Path("/proc/self/statm").read_text().split()[:2]
        return int(resident) * os.sysconf("SC_PAGE_SIZE"), int(mapped) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        resource = pytest.importorskip("resource")  # not on Windows
        unit = 1 if sys.platform == "darwin" else 1_024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, 0


def growth(calls, count):
    """Bytes, resident and mapped, that so many calls make the process grow by."""
    before = memory_of_process()
    for _ in range(count):
        calls()
    return [after - one for after, one in zip(memory_of_process(), before, strict=True)]


# The process is not alone in its memory: the system may join its pages to huge ones of 2 MiB. Of
# what is measured here a leak of one block in a thousand steps would be more.
def test_memory_stays_flat():
    x, y, layer = np.ones(100_000), np.full(100_000, 2.0), fastlayers.MulLayer()

    def step():
        layer.backward(layer.forward(x, y))

    growth(step, 1_000)
    assert growth(step, 9_000)[0] < 4 * x.nbytes


@pytest.mark.parametrize("n", [1_000, 100_000, 700_000])
def test_memory_given_back_is_gone(n):
    # Also what was mapped beside a block, to begin it at a huge page.
    fastlayers.set_cache_limit(0)
    x = np.broadcast_to(1.0, n)
    growth(lambda: fastlayers.multiply(x, 2.0), 10)
    assert max(growth(lambda: fastlayers.multiply(x, 2.0), 8_000_000 // max(n, 20_000))) < 4 * MIB


def test_memory_of_many_sizes_is_bounded():
    fastlayers.set_cache_limit(8 * MIB)
    sizes = iter(np.random.default_rng(0).integers(256, 100_000, 4_000).tolist())
    x = np.ones(100_000)
    # Until the cache is full; malloc leaves holes between its blocks.
    growth(lambda: fastlayers.multiply(x[: next(sizes)], 2.0), 1_000)
    assert growth(lambda: fastlayers.multiply(x[: next(sizes)], 2.0), 3_000)[0] < 2 * MIB
    assert fastlayers.cache_info().bytes <= 8 * MIB


# ---------------------------------------------------------------------------------- out of memory

LITTLE_MEMORY = """
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


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="how much is mapped is known from /proc"
)
def test_the_cache_is_emptied_before_memory_is_out():
    # One arena: the C library reserves 64 MiB for each that it makes, whenever a thread needs one.
    lines = lines_of("-c", LITTLE_MEMORY, MALLOC_ARENA_MAX="1")
    assert lines == ["11", "True 0"]
