"""Layers and graphs on Dask arrays: lazy, one task for each block, the same answers.

The elements are small integers in quarters, of which every sum is exact: all bits must be equal.
"""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
from fresh import lines_of, output_of
from graphs import shop

import fastlayers
from fastlayers import IMPLEMENTATION, AddLayer, BaseLayer, Graph, MulLayer
from fastlayers.graph import blocks

SHAPE = (60, 35)


def several(x, y):
    return x * y, x - y


def operand(shape, seed=0, dtype="f8"):
    return (np.random.default_rng(seed).integers(-9, 10, shape) / 4).astype(dtype)


def in_blocks(array, chunks=(2, 25, 10)):
    return da.from_array(array, chunks=chunks[-array.ndim :])


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def computed(value):
    (found,) = dask.compute(value)
    return found


def assert_same(graph, *operands, dout=1, wrt=None):
    """What a graph returns for Dask arrays, computed, is what it returns for NumPy's."""
    numpys = [computed(one) for one in operands]
    expected = graph.value_and_grad(*numpys, dout=computed(dout), wrt=wrt)
    value, gradients = graph.value_and_grad(*operands, dout=dout, wrt=wrt)
    assert type(gradients) is type(expected[1])
    pairs = zip(flat(value, gradients), flat(*expected), strict=True)
    for one, other in pairs:
        assert_equal(one, other)


def flat(value, gradients):
    return [*(value if isinstance(value, tuple) else (value,)), *gradients]


def assert_equal(lazy, expected):
    assert isinstance(lazy, da.Array)
    found = computed(lazy)
    assert lazy.shape == np.shape(expected)
    assert lazy.dtype == np.asarray(found).dtype == np.asarray(expected).dtype
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8"])
def test_graph(dtype):
    arrays = [in_blocks(operand(SHAPE, seed, dtype)) for seed in range(5)]
    assert_same(Graph(shop), *arrays)
    assert_same(Graph(shop), *arrays, dout=arrays[0], wrt=("tax", "apple"))
    assert_equal(Graph(shop)(*arrays), Graph(shop)(*map(computed, arrays)))


def test_operands_broadcast():
    x, row, column = operand(SHAPE), operand(SHAPE[1], 1), operand((SHAPE[0], 1), 2)
    cube = operand((3, *SHAPE), 3)
    graph = Graph(lambda x, y, z: (x * y + z) * y)
    for others in ((row, column), (column, row), (row, 2.5), (3, column), (x, row), (cube, row)):
        assert_same(graph, in_blocks(x), *[in_blocks(o) if np.ndim(o) else o for o in others])
    assert_same(graph, in_blocks(x), row, column)  # NumPy's among them
    assert_same(graph, in_blocks(x[:, :0]), in_blocks(row[:0]), 2.0)
    assert_same(graph, in_blocks(x, (60, 35)), in_blocks(row, (7,)), in_blocks(column, (13, 1)))


def test_several_outputs():
    x, y = in_blocks(operand(SHAPE)), in_blocks(operand(SHAPE[1], 1))
    assert_same(Graph(several), x, y)
    assert_same(Graph(several), x, y, dout=(x, 2))


@pytest.mark.parametrize(
    "kind",
    [
        lambda: Graph(lambda x, y: x * y - y),
        lambda: MulLayer(sum_to_shape=True),
        lambda: AddLayer(sum_to_shape=True),
    ],
)
def test_forward_and_backward(kind):
    x, y, layer, plain = operand(SHAPE), operand(SHAPE[1], 1), kind(), kind()
    assert_equal(layer.forward(in_blocks(x), in_blocks(y)), plain.forward(x, y))
    for one, other in zip(layer.backward(in_blocks(x)), plain.backward(x), strict=True):
        assert_equal(one, other)


def test_values_that_lack_axes():
    x, y = in_blocks(operand(SHAPE)), in_blocks(operand(SHAPE[1], 1))
    value, small = Graph(lambda x, y: (x * y, y * y))(x, y)
    assert_equal(value, computed(x) * computed(y))
    assert_equal(small, computed(y) ** 2)


def test_layers_of_ones_own_are_called_with_dask_arrays():
    seen = []

    class Double(BaseLayer):
        def forward(self, x):
            seen.append(type(x))
            return x + x

        def backward(self, dout):
            return dout + dout

    x = in_blocks(operand(SHAPE))
    assert_same(Graph(lambda x, y: Double()(x * y) * y), x, 3.0)
    assert seen == [np.ndarray, da.Array]


def test_nothing_is_computed_before_it_is_asked_for():
    def refuse(block):
        raise AssertionError("computed")

    x = da.map_blocks(refuse, in_blocks(operand(SHAPE)), dtype="f8", meta=np.empty((0, 0)))
    graph = Graph(shop)
    lazy = [graph(x, x, x, x, x), graph.value_and_grad(x, x, x, x, 2.0)]
    with pytest.raises(AssertionError, match="computed"):
        dask.compute(lazy)


def test_a_block_is_one_task(monkeypatch):
    calls = []
    run = blocks.Task.__call__
    monkeypatch.setattr(blocks.Task, "__call__", lambda *args: calls.append(0) or run(*args))
    arrays = [in_blocks(operand(SHAPE, seed)) for seed in range(5)]
    lazy = Graph(shop).value_and_grad(*arrays)
    calls.clear()
    computed(lazy)
    assert len(calls) == arrays[0].npartitions == 12


def test_a_task_uses_one_thread():
    before = fastlayers.get_num_threads()
    with blocks.one_thread():
        assert fastlayers.get_num_threads() == 1
    assert fastlayers.get_num_threads() == before


def test_a_task_uses_one_thread_where_openmp_has_one():
    printed = output_of(
        "import fastlayers\n"
        "from fastlayers.graph import blocks\n"
        "fastlayers.set_num_threads(4)\n"
        "print(fastlayers.get_num_threads())\n"
        "with blocks.one_thread():\n    print(fastlayers.get_num_threads())\n"
        "print(fastlayers.get_num_threads())\n",
        OMP_NUM_THREADS="1",
    )
    assert printed in (["4", "1", "4"], ["1", "1", "1"])  # the latter without OpenMP


def test_threads_share_a_graph():
    arrays = [in_blocks(operand((400, 300), seed), (40, 50)) for seed in range(5)]
    graph = Graph(shop)
    expected = graph(*map(computed, arrays))
    with dask.config.set(scheduler="threads", num_workers=4):
        assert np.array_equal(computed(graph(*arrays)), expected)


# On a busy machine workers complain: that the scheduler has gone before them, that files are slow.
CLUSTER = """
import logging
import dask.array as da
import numpy as np
from dask.distributed import Client
from fastlayers import Graph

if __name__ == "__main__":
    graph = Graph(lambda a, b, c: (a * b + c) * b)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-9, 10, shape) / 4 for shape in ((600, 400), (400,))]
    lazy = [da.from_array(one, chunks=100) for one in arrays]
    workers = dict(n_workers=2, threads_per_worker=1, silence_logs=logging.CRITICAL)
    with Client(**workers, dashboard_address=None) as client:
        value, gradients = client.gather(client.compute(graph.value_and_grad(*lazy, 2.0)))
    expected, others = graph.value_and_grad(*arrays, 2.0)
    assert np.array_equal(value, expected)
    assert all(np.array_equal(one, other) for one, other in zip(gradients, others))
    print("equal")
"""


def test_two_processes(tmp_path):
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    printed = lines_of("-W", "ignore", str(script), FASTLAYERS_IMPLEMENTATION=IMPLEMENTATION)
    assert printed == ["equal"]


def test_what_is_wrong_is_told_at_once():
    x = in_blocks(operand(SHAPE))
    graph = Graph(shop)
    with pytest.raises(ValueError, match="broadcast"):
        graph(x, in_blocks(operand((7,))), x, x, x)
    with pytest.raises(ValueError, match=r"dout has shape \(35,\), but the value of shop has"):
        graph.value_and_grad(x, x, x, x, x, dout=x[0])
    with pytest.raises(TypeError, match="missing: orange_num, tax"):
        graph(x, x, x)


def test_dask_is_not_imported_without_its_arrays():
    code = (
        "import sys, numpy; from fastlayers import Graph; Graph(lambda x: x * x)(numpy.ones(3)); "
    )
    assert lines_of("-c", code + "print('dask' in sys.modules)") == ["False"]
