"""Large results own memory that is recycled, and nobody can tell."""

from __future__ import annotations

import ctypes
import functools
import os
import pickle
import sys
import threading
import tracemalloc
import warnings
from collections import Counter
from contextvars import copy_context

import numpy as np
import pytest
from fresh import lines_of
from hypothesis import given
from hypothesis import strategies as st
from numpy._core import multiarray
from operands import Operand
from outcome import described, outcome, sharing

import fastlayers

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy recycles nothing", allow_module_level=True)

from recycler import Handler, pointer, recycler, size

from fastlayers._core import memory

MIB = 1 << 20


pytestmark = pytest.mark.usefixtures("cache")


def served():
    """How many arrays the recycler has given memory to."""
    info = fastlayers.cache_info()
    return info.hits + info.misses


def blocks():
    """How many blocks wait for another array."""
    return fastlayers.cache_info().blocks


def is_recycling():
    before = served()
    np.empty(10_000)
    return served() > before


@pytest.fixture(params=[True, False], ids=["around a block", "by NumPy"])
def made(request):
    """Results are made around blocks, or where a NumPy did not allow for that, by NumPy."""
    owning = memory.get_owning()
    memory.set_owning(request.param)
    yield
    memory.set_owning(owning)


# ------------------------------------------------------------------------- results own their data


def operand(dtype, layout="C"):
    return Operand(dtype, (100, 100), layout).build()


CALLS = {
    "served": lambda: [fastlayers.multiply(operand("f8"), operand("f8"))],
    "numbers": lambda: [fastlayers.add(operand("f4"), 2.0)],
    "gradients": lambda: [*fastlayers.multiply_backward(*[operand("i8")] * 3)],
    "copies": lambda: [*fastlayers.add_backward(operand("f8"))],
    "strided": lambda: [fastlayers.add(operand("f8", "gate"), 1.0)],
    "transposed": lambda: [fastlayers.multiply(operand("f8"), operand("f8", "F"))],
    "just large enough": lambda: [fastlayers.add(np.ones(256), 1.0)],
    "summed": lambda: [
        fastlayers.multiply_backward(
            operand("f8"), operand("f8"), operand("f8")[:, :1], sum_to_shape=True
        )[0]
    ],
}
FALLEN_THROUGH = {
    "complex": lambda: [fastlayers.multiply(operand("D"), operand("D"))],
    "float16": lambda: [*fastlayers.multiply_backward(*[operand("f2")] * 3)],
    "unaligned": lambda: [fastlayers.add(operand("f8", "unaligned"), 1.0)],
    "mixed dtypes": lambda: [fastlayers.multiply(operand("f4"), operand("f8"))],
    "outer": lambda: [fastlayers.multiply(np.ones((100, 1), "f2"), np.ones(100, "f2"))],
    "that overflowed": lambda: [fastlayers.multiply(np.full(10_000, 1e300), 1e300)],
}


@pytest.fixture(params=[*CALLS, *FALLEN_THROUGH])
def call(request):
    with np.errstate(all="ignore"):
        yield (CALLS | FALLEN_THROUGH)[request.param]


@pytest.mark.usefixtures("made")
def test_results_own_their_memory(call):
    results = call()
    for result in results:
        assert result.flags.owndata
        assert result.flags.writeable
        assert result.base is None
        assert multiarray.get_handler_name(result) == "fastlayers"
        assert call in FALLEN_THROUGH.values() or result.ctypes.data % 64 == 0
    assert sharing(results) == []
    del result
    for _ in range(len(results)):
        before = blocks()
        del results[-1]
        assert blocks() == before + 1


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("layout", ["tagged", "masked"])
def test_subclasses_hold_recycled_memory(layout):
    x = operand("f8", layout)
    result, before = fastlayers.multiply(x, x), blocks()
    assert described(result) == described(x * x)
    del result
    assert blocks() > before


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("n", [1, 50, 255])
def test_small_results_are_left_to_numpy(n):
    before = served()
    fastlayers.multiply(np.ones(n), 2.0)
    fastlayers.multiply(np.ones(n // 2, "D"), 2.0)
    assert served() == before


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


# ------------------------------------------------------------------------------------------ reuse


@pytest.mark.parametrize("n", [256, 1_000, 100_000, 1_000_000])
def test_reused_when_its_array_dies(n):
    x = np.ones(n)
    result = fastlayers.multiply(x, 2.0)
    address, hits = result.ctypes.data, fastlayers.cache_info().hits
    del result
    assert blocks() == 1
    result = fastlayers.add(x, 2.0)
    assert result.ctypes.data == address
    assert fastlayers.cache_info()[:4:2] == (hits + 1, 0)
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
    assert after == before._replace(hits=before.hits + 300)


HOLDERS = {
    "array": lambda result: result,
    "slice": lambda result: result[:5],
    "view of a view": lambda result: result.reshape(100, 100).T[:3, :1],
    "subclass": lambda result: result.view(np.recarray),
    "memoryview": memoryview,
    "buffer": lambda result: np.frombuffer(result, "f8"),
    "dlpack": lambda result: np.from_dlpack(result),
    "flat": lambda result: result.flat,
    "pickle": lambda result: pickle.PickleBuffer(result),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_not_reused_while_anything_sees_it(holder):
    x = np.arange(10_000.0)
    result = fastlayers.multiply(x, 2.0)
    address, held = result.ctypes.data, HOLDERS[holder](result)
    del result
    assert blocks() == 0
    others = [fastlayers.add(x, float(i)) for i in range(5)]
    assert address not in [other.ctypes.data for other in others]
    assert np.array_equal(np.asarray(held).ravel()[:3], [0.0, 2.0, 4.0])
    del held
    assert blocks() == 1


# --------------------------------------------------------------------- results as ordinary arrays


SIZES = [300, 20_000, 200_000]  # blocks of malloc, of malloc begun within a page, mapped ones
each_size = pytest.mark.parametrize("n", SIZES)


def doubled(n):
    return fastlayers.multiply(np.arange(float(n)), 2.0)


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
    before = blocks()
    del result
    assert blocks() == before + 1


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
    before = blocks()
    del other, others
    assert blocks() == before + 6
    assert np.array_equal(result, expected)


@each_size
def test_state_set_from_another_array(n):
    # np.ndarray.__setstate__ frees the block and takes memory of NumPy's.
    result, before = doubled(n), blocks()
    result.__setstate__(np.arange(3.0).__reduce__()[2])
    assert blocks() == before + 1
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
        assert blocks() == 1
        assert fastlayers.cache_info().bytes >= 80_000


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


# -------------------------------------------------------------------------------------- the limit


def capacity_of(size):
    """The bytes of the block for an array of so many: eight steps a doubling, from 2 KiB on."""
    step = 1 << max((size - 1).bit_length() - 4, 8)
    return max(-(-size // step) * step, 2048)


class Model:
    """What the cache must do: the blocks of the capacity that was used longest ago give way."""

    def __init__(self, limit):
        self.limit, self.frees = limit, 0
        self.blocks, self.last_used = Counter(), Counter()  # by capacity

    def bytes(self):
        return sum(capacity * count for capacity, count in self.blocks.items())

    def shrink(self, limit):
        for capacity in sorted(self.blocks, key=lambda one: (self.last_used[one], one)):
            excess = max(self.bytes() - limit, 0)
            self.blocks[capacity] -= min(self.blocks[capacity], -(-excess // capacity))

    def take(self, capacity):
        """Whether there is a block."""
        self.last_used[capacity] = self.frees
        hit = self.blocks[capacity] > 0
        self.blocks[capacity] -= hit
        return hit

    def free(self, capacity):
        self.frees += 1
        self.last_used[capacity] = self.frees
        if capacity <= self.limit:
            self.shrink(self.limit - capacity)
            self.blocks[capacity] += 1

    def set_limit(self, limit):
        self.limit = limit
        self.shrink(limit)


# Few sizes, so that they find each other's blocks, and any; more than are freed at a time; mapped.
FEW = st.sampled_from([2_048, 10_000, 10_240, 10_248, 100_000, MIB // 2, MIB])
ANY = st.integers(256, MIB // 4).map(lambda n: 8 * n)
LIMITS = st.sampled_from([0, 9_999, 12_000, MIB // 2, MIB, 3 * MIB, 1 << 30])
STEPS = st.one_of(
    st.tuples(st.just("fill"), st.integers(1, 4), FEW),
    st.tuples(st.just("fill"), st.integers(1, 2), FEW | ANY),
    st.tuples(st.just("fill"), st.just(150), st.sampled_from([2_048, 10_000])),
    st.tuples(st.just("limit"), LIMITS),
    st.tuples(st.just("empty")),
)


@given(st.lists(STEPS, max_size=20))
def test_cache_keeps_what_was_used_last_up_to_its_limit(steps):
    fastlayers.empty_cache()
    fastlayers.set_cache_limit(3 * MIB)
    model = Model(3 * MIB)
    for what, *values in steps:
        hits, expected_hits = fastlayers.cache_info().hits, 0
        if what == "fill":
            count, size = values
            x = np.broadcast_to(1.0, size // 8)
            results = [fastlayers.add(x, 1.0) for _ in range(count)]
            expected_hits = sum(model.take(capacity_of(size)) for _ in results)
            del results
            for _ in range(count):
                model.free(capacity_of(size))
        elif what == "limit":
            fastlayers.set_cache_limit(*values)
            model.set_limit(*values)
        else:
            assert fastlayers.empty_cache() is None
            model.blocks.clear()
        info = fastlayers.cache_info()
        assert info.hits - hits == expected_hits
        assert info[2:] == (model.blocks.total(), model.bytes(), model.limit)


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
    assert not is_recycling()
    before, count = blocks(), len(made)
    del made
    assert blocks() == before + count
    assert np.all(x == 1.0)


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

    assert (relu.__name__, relu.__doc__) == ("relu", "Rectify.")
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

    @one
    def fail():
        raise LookupError("no such thing")

    with one as entered:
        assert entered is one
        with fastlayers.recycling(), one:
            assert is_recycling()
        with pytest.raises(LookupError), one:
            raise LookupError
        assert is_recycling()
    assert not is_recycling()
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


def test_recycling_that_contexts_share():
    # As threads and asynchronous tasks are: each restores what was in force in itself.
    shared, one, other = fastlayers.recycling(), copy_context(), copy_context()
    one.run(fastlayers.recycling().__enter__)
    for context in (one, other):
        context.run(shared.__enter__)
    for context in (one, other):
        assert context.run(is_recycling)
        context.run(shared.__exit__)
    assert one.run(is_recycling)
    assert not other.run(is_recycling)
    assert not is_recycling()


def test_recycling_in_generators():
    # They may be entered and left in turns, not nested.
    def generate():
        with fastlayers.recycling():
            yield

    first, second = generate(), generate()
    next(first), next(second)
    first.close()
    assert is_recycling()
    second.close()
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
def test_own_handler_is_respected(own_handler, call):
    before = served()
    results = call()
    live = own_handler["new"] - own_handler["freed"]
    assert live == len(results) or call is CALLS["summed"]  # whose other gradient is kept
    del results
    assert own_handler["new"] == own_handler["freed"] >= live >= 1
    np.empty(10_000)
    assert served() == before


@pytest.mark.usefixtures("made")
def test_own_handler_in_force_around_recycling(own_handler):
    with fastlayers.recycling():
        x = fastlayers.multiply(np.ones(10_000), 2.0)
        with pytest.raises(TypeError):
            fastlayers.multiply(x, None)
        assert is_recycling()
    with pytest.raises(LookupError), fastlayers.recycling():
        raise LookupError
    assert own_handler["new"] == 0
    assert not is_recycling()
    assert own_handler["new"] == 1


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


@pytest.mark.parametrize("less", [1, 1 << 20, 3 << 19, 1 << 21, 3 << 20])
def test_sizes_that_leave_no_room_are_refused(less):
    # NumPy asks for no more than 2**63; others may call its handler, too.
    size = ctypes.c_size_t(-less).value
    assert recycler.malloc(None, size) is None
    assert recycler.calloc(None, 1, size) is None


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
def test_tracemalloc_sees_the_memory(tracing, call):
    for _ in range(2):  # new, then recycled
        before = traced()
        results = call()
        assert traced() - before == sum(result.nbytes for result in results)
        del results
        assert traced() == before


@pytest.mark.usefixtures("made")
def test_tracemalloc_sees_a_resize(tracing):
    before = traced()
    result = fastlayers.multiply(np.ones(10_000), 2.0)
    for n in (15_000, 14_900):  # of another block, then of the same
        result.resize(n)
        assert traced() - before == 8 * n
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
    assert blocks() == 1
