"""Graphs on Dask arrays: one task for each block, which runs the whole graph on it.

Nothing here imports Dask before a Dask array comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

import numpy as np

from .. import core


def are_in_blocks(operands: Sequence[Any]) -> bool:
    """Whether there is a Dask array among the operands."""
    return any(map(is_in_blocks, operands))


def is_in_blocks(operand: Any) -> bool:
    return type(operand).__module__.startswith("dask.") and hasattr(operand, "rechunk")


class Task:
    """What is run on a block: a graph for its values, and perhaps its gradients.

    Parameters
    ----------
    graph : Graph
    values : int
        How many values it has.
    single : bool
        Whether its value is no tuple.
    names : tuple of str or None
        The parameters to differentiate with respect to; then the last operands are gradients of the
        values.
    """

    def __init__(
        self, graph: Any, values: int, single: bool, names: tuple[str, ...] | None = None
    ) -> None:
        self.graph, self.values, self.single, self.names = graph, values, single, names

    def __call__(self, *operands: Any) -> tuple[Any, ...]:
        """The values, then the gradients, each with as many axes as the block has."""
        with one_thread():
            if self.names is None:
                value, gradients = self.graph(*operands), ()
            else:
                douts = operands[-self.values :]
                value, gradients = self.graph.value_and_grad(
                    *operands[: -self.values],
                    dout=douts[0] if self.single else douts,
                    wrt=self.names,
                )
        results = (value, *gradients) if self.single else (*value, *gradients)
        axes = max(map(np.ndim, operands))
        return tuple(
            [np.reshape(one, (1,) * (axes - np.ndim(one)) + np.shape(one)) for one in results]
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: Dask runs as many tasks at once as there are threads to use."""
    if core.schedule is None:
        yield
        return
    before = core.schedule.limit_threads(1)
    try:
        yield
    finally:
        core.schedule.limit_threads(before)


def in_blocks(task: Task, operands: Sequence[Any], likes: Sequence[Any]) -> list[Any] | None:
    """The results of a task as Dask arrays; None if the nodes are to be run one by one.

    That is so for blocks of unknown size, arrays without axes, and if a value or a gradient that is
    given does not have all axes. ``likes`` are the operands to whose shapes gradients are summed.
    """
    import dask.array

    da: Any = dask.array  # many of its functions have no types
    arrays = [da.asanyarray(one) if np.ndim(one) else one for one in operands]
    shapes = [one.shape for one in arrays if np.ndim(one) or is_in_blocks(one)]
    if any(not shape or np.isnan(sum(shape)) for shape in shapes):
        return None
    whole = np.broadcast_shapes(*shapes)
    given = operands[-task.values :] if task.names is not None else ()
    if any(np.shape(dout) not in ((), whole) for dout in given):
        return None
    # On two elements along each axis, to know the results' dtypes, and the values' shapes.
    found = task(*[sample(one) if np.ndim(one) else one for one in arrays])
    if any(one.shape != tuple(np.minimum(whole, 2)) for one in found[: task.values]):
        return None
    labels = tuple(range(len(whole)))
    axes = [labels[len(whole) - one.ndim :] if np.ndim(one) else None for one in arrays]
    pairs = [part for pair in zip(arrays, axes, strict=True) for part in pair]
    _, arrays = da.core.unify_chunks(*pairs)
    every = da.blockwise(
        task,
        labels,
        *[part for pair in zip(arrays, axes, strict=True) for part in pair],
        meta=np.empty((0,) * len(whole), object),
        align_arrays=False,
        token="fastlayers-graph",
    )
    wanted = [whole] * task.values + [np.shape(like) for like in likes]
    return [
        result_of(every, place, one.dtype, shape)
        for place, (one, shape) in enumerate(zip(found, wanted, strict=True))
    ]


def sample(array: Any) -> Any:
    return np.ones(np.minimum(array.shape, 2), array.dtype)


def result_of(every: Any, place: int, dtype: Any, shape: tuple[int, ...]) -> Any:
    """One of the results of all blocks, summed over blocks to its shape."""
    lead = every.ndim - len(shape)
    padded = (-1,) * lead + shape
    summed = tuple([axis for axis in range(every.ndim) if padded[axis] != every.shape[axis]])
    chunks = tuple(
        [(1,) * len(sizes) if axis in summed else sizes for axis, sizes in enumerate(every.chunks)]
    )
    result = every.map_blocks(
        itemgetter(place), chunks=chunks, dtype=dtype, meta=np.empty((0,) * every.ndim, dtype)
    )
    if not summed:
        return result
    wide = np.float64 if dtype == np.float32 else dtype
    return result.sum(axis=summed, dtype=wide, keepdims=True).astype(dtype)[(0,) * lead]
