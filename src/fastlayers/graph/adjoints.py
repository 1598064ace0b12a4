"""How gradients pass back through functions that are linear: sums, views, parts, joined arrays.

Each function here is the adjoint of one of NumPy's: of a gradient in the shape of that function's
value, and the operand, of which only the shape matters, it makes the gradient of the operand.
Options are those that NumPy's function was given.
"""

from __future__ import annotations

import copy
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Axes = int | tuple[int, ...] | None


class Slice(NamedTuple):
    """A slice that can be a key, as Python's own cannot before 3.12."""

    start: int | None
    stop: int | None
    step: int | None


class Place(NamedTuple):
    """Stands in an index for the next operand: an array of integers or bools."""


def indexed(index: tuple[Any, ...], operands: Sequence[Any]) -> tuple[Any, ...]:
    """The index that `x[...]` was given, from its form and its operands."""
    rest = iter(operands)
    return tuple(
        [
            slice(*part) if type(part) is Slice else next(rest) if type(part) is Place else part
            for part in index
        ]
    )


def getitem(x: Any, *operands: Any, index: tuple[Any, ...], whole: bool = False) -> Any:
    """``x[index]``; ``whole`` says that the index was a tuple."""
    found = indexed(index, operands)
    return x[found if whole else found[0]]


def setitem(y: Any, z: Any, *operands: Any, index: tuple[Any, ...], whole: bool = False) -> Any:
    """A copy of ``y`` with ``z`` at an index; a number has none, and says so."""
    changed = np.array(y, subok=True) if isinstance(y, np.ndarray) else copy.copy(y)
    found = indexed(index, operands)
    changed[found if whole else found[0]] = z
    return changed


def without_part(g: Any, *operands: Any, index: tuple[Any, ...], whole: bool = False) -> Any:
    """A gradient with zeros at an index, where its value was written over."""
    rest = np.array(g)
    found = indexed(index, operands)
    rest[found if whole else found[0]] = 0
    return rest


def with_axes(g: Any, z: Any) -> Any:
    """The gradient of a part, with as many axes as what was assigned to it had."""
    return np.reshape(g, (1,) * (np.ndim(z) - np.ndim(g)) + np.shape(g))


def zeros(like: Any, gradient: Any) -> Any:
    """Zeros in the shape of an operand, to be written into."""
    return np.zeros(np.shape(like), np.result_type(gradient))


def add_at(back: np.ndarray, index: tuple[Any, ...], g: np.ndarray) -> None:
    """``np.add.at``, by one axis: along several NumPy takes ten times as long.

    Of fewer elements than 256 the way there takes longer (AMD EPYC).
    """
    of_integers = all(type(one) is np.ndarray and one.dtype.kind in "iu" for one in index)
    if not (of_integers and g.size >= 256 and back.ndim > 1):
        np.add.at(back, index, g)
        return
    rows = np.ravel_multi_index(index, back.shape[: len(index)], mode="wrap")
    count = math.prod(back.shape[len(index) :])
    places = np.reshape(rows, (-1, 1)) * count + np.arange(count)
    np.add.at(np.reshape(back, -1), np.reshape(places, -1), np.reshape(g, -1))


def getitem_back(
    g: Any, x: Any, *operands: Any, index: tuple[Any, ...], whole: bool = False
) -> Any:
    found = indexed(index, operands)
    if operands:  # which may name an element several times
        back = zeros(x, g)
        add_at(back, found, np.asarray(g))
    elif type(g) is np.ndarray:
        back = np.zeros(np.shape(x), g.dtype)
        back[found] = g
    else:
        back = np.zeros_like(g, order="C", shape=np.shape(x))  # Dask's for Dask's
        back[found] = g
    return back if back.ndim else back[()]


@functools.lru_cache(maxsize=1024)
def regions(index: tuple[Any, ...], shape: tuple[int, ...]) -> list[Any] | None:
    """What lies outside of a part, in indices that do not meet; None if it has gaps."""
    outside: list[Any] = []
    before: tuple[Any, ...] = ()
    for part, length in zip(index, shape, strict=False):
        if type(part) is int:
            part = Slice(part % length, part % length + 1, 1)
        start, stop, step = slice(*part).indices(length)
        if step != 1:
            return None
        stop = max(start, stop)
        outside += [(*before, slice(start))] * (start > 0)
        outside += [(*before, slice(stop, None))] * (stop < length)
        before = *before, slice(start, stop)
    return outside


def add_part(
    gradient: Any, part: Any, x: Any, *, index: tuple[Any, ...], whole: bool = False
) -> Any:
    """``gradient + getitem_back(part, x)``, where that is possible in the gradient itself.

    There the sum with a zero is one, too: it makes of -0.0 a 0.0.
    """
    outside = None
    if (
        all(type(one) in (Slice, int) for one in index)
        and type(gradient) is np.ndarray
        and gradient.flags.writeable
        and gradient.shape == np.shape(x)
        and gradient.dtype.kind == "f"
        and gradient.dtype == np.result_type(part)
    ):
        outside = regions(index, gradient.shape)
    if outside is None:
        return gradient + getitem_back(part, x, index=index, whole=whole)
    for one in outside:
        rest = gradient[one]
        np.add(rest, 0.0, out=rest)
    inside = gradient[indexed(index, ())]
    np.add(inside, part, out=inside)
    return gradient


def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    return np.take(x, indices, axis)


def take_back(g: Any, x: Any, indices: Any, axis: int | None = None) -> Any:
    back = zeros(x, g)
    if not np.size(g):  # of nothing NumPy takes any index
        return back
    if axis is None or not back.ndim:
        np.add.at(back.reshape(-1), np.asarray(indices), np.asarray(g))
    else:
        before: tuple[Any, ...] = (slice(None),) * (axis % back.ndim)
        add_at(back, (*before, np.asarray(indices)), np.asarray(g))
    return back if back.ndim else back[()]


def take_along_axis_back(g: Any, x: Any, indices: Any, axis: int | None = -1) -> Any:
    back = zeros(x, g)
    if axis is None:
        np.add.at(back.reshape(-1), np.asarray(indices), np.asarray(g))
        return back
    # Along the other axes NumPy lets the indices broadcast.
    places: list[Any] = list(np.ogrid[tuple(slice(n) for n in np.shape(g))])
    places[axis] = np.asarray(indices)
    add_at(back, tuple(places), np.asarray(g))
    return back


def spread(g: Any, x: Any, axis: Axes = None, keepdims: bool = False) -> Any:
    """A reduction's gradient at every element that was reduced."""
    if not np.ndim(x):
        return g
    if not keepdims:
        g = np.expand_dims(g, tuple(range(np.ndim(x))) if axis is None else axis)
    return np.broadcast_to(g, np.shape(x))


def count(x: Any, axis: Axes = None) -> int:
    """How many elements are reduced to one."""
    shape = np.shape(x)
    axes = (
        range(len(shape))
        if axis is None or not shape
        else axis
        if isinstance(axis, tuple)
        else (axis,)
    )
    return math.prod(shape[one] for one in axes)


def mean_of_sum(total: Any, x: Any) -> Any:
    """The mean of all elements, from their sum, as NumPy divides it."""
    return total.dtype.type(total / np.intp(count(x)))


def reshaped(g: Any, x: Any, **_: Any) -> Any:
    """For what changes the shape alone."""
    back = np.reshape(g, np.shape(x))
    return back if np.ndim(x) else back[()]


def part(g: Any, *operands: Any, operand: int, axis: int | None = 0) -> Any:
    """The part of joined arrays that comes from one of them, in its shape."""
    shape = np.shape(operands[operand])
    if axis is None:
        start = sum(math.prod(np.shape(one)) for one in operands[:operand])
        return np.reshape(np.reshape(g, -1)[start : start + math.prod(shape)], shape)
    start = sum(np.shape(one)[axis] for one in operands[:operand])
    before: tuple[Any, ...] = (slice(None),) * (axis % len(shape))
    return g[(*before, slice(start, start + shape[axis]))]


def part_back(part_of: Any, joined: Any, *operands: Any, operand: int, axis: int | None = 0) -> Any:
    back = zeros(joined, part_of)
    part(back, *operands, operand=operand, axis=axis)[...] = part_of
    return back


def layer_of(g: Any, *operands: Any, operand: int, axis: int = 0) -> Any:
    """The part of stacked arrays that is one of them."""
    return np.moveaxis(g, axis, 0)[operand]


def layer_of_back(layer: Any, stacked: Any, *operands: Any, operand: int, axis: int = 0) -> Any:
    back = zeros(stacked, layer)
    np.moveaxis(back, axis, 0)[operand] = layer
    return back


def _part_by(shape_of: Callable[[Any], tuple[int, ...]], most: int) -> tuple[Any, Any]:
    """A function for the part that comes from one of several joined arrays, and its adjoint.

    They are joined in the shapes that ``shape_of`` tells, along the axis ``most``, or along the
    last one if there are fewer.
    """

    def place(joined: Any, operands: Sequence[Any], operand: int) -> Any:
        axis = min(most, np.ndim(joined) - 1)
        lengths = [shape_of(one)[axis] for one in operands]
        start = sum(lengths[:operand])
        return joined[(*(slice(None),) * axis, slice(start, start + lengths[operand]))]

    def part(g: Any, *operands: Any, operand: int) -> Any:
        return np.reshape(place(g, operands, operand), np.shape(operands[operand]))

    def part_back(part_of: Any, joined: Any, *operands: Any, operand: int) -> Any:
        back = zeros(joined, part_of)
        view = place(back, operands, operand)
        view[...] = np.reshape(part_of, view.shape)
        return back

    return part, part_back


row_of, row_of_back = _part_by(lambda x: np.atleast_2d(x).shape, 0)
column_of, column_of_back = _part_by(lambda x: np.atleast_1d(x).shape, 1)
column_stack_part, column_stack_part_back = _part_by(
    lambda x: np.shape(x) if np.ndim(x) > 1 else (np.size(x), 1), 1
)
dstack_part, dstack_part_back = _part_by(lambda x: np.atleast_3d(x).shape, 2)


def _split_by(function: Callable[..., Any]) -> tuple[Any, Any]:
    """A function for one of the parts that another one makes, by its number, and its adjoint."""

    def split(x: Any, sections: int | tuple[int, ...], *, index: int, **axis: int) -> Any:
        return function(x, sections, **axis)[index]

    def split_back(g: Any, x: Any, sections: Any, *, index: int, **axis: int) -> Any:
        back = zeros(x, g)
        split(back, sections, index=index, **axis)[...] = g
        return back

    return split, split_back


split, split_back = _split_by(np.split)


def split_parts_back(
    x: Any, *gradients: Any, sections: int, indices: tuple[int, ...], **axis: int
) -> Any:
    """The sum of two or more of the arrays that `split_back` makes, of different parts.

    There each element is added to a zero: that makes of -0.0 a 0.0.
    """
    every = len(indices) == sections
    back = np.empty(np.shape(x), gradients[0].dtype) if every else zeros(x, gradients[0])
    parts = np.split(back, sections, **axis)
    for index, gradient in zip(indices, gradients, strict=True):
        np.add(gradient, 0.0, out=parts[index])
    return back


array_split, array_split_back = _split_by(np.array_split)
hsplit, hsplit_back = _split_by(np.hsplit)
vsplit, vsplit_back = _split_by(np.vsplit)
dsplit, dsplit_back = _split_by(np.dsplit)


def pad_back(g: Any, x: Any, pad_width: Any) -> Any:
    pairs = np.broadcast_to(pad_width, (np.ndim(x), 2)).tolist()
    lengths = zip(pairs, np.shape(x), strict=True)
    return g[tuple([slice(before, before + n) for (before, _), n in lengths])]


def diff_back(g: Any, x: Any, n: int = 1, axis: int = -1) -> Any:
    shape = list(np.shape(x))
    length = shape[axis]
    for times in reversed(range(n)):
        shape[axis] = max(length - times, 0)  # of nothing, the difference is nothing
        back = np.zeros(shape, np.result_type(g))
        moved, gradient = np.moveaxis(back, axis, 0), np.moveaxis(np.asarray(g), axis, 0)
        moved[1:] += gradient
        moved[:-1] -= gradient
        g = back
    return g


def repeat_back(g: Any, x: Any, repeats: int | tuple[int, ...], axis: int | None = None) -> Any:
    shape = np.shape(x)
    axis = axis if shape else None
    if isinstance(repeats, tuple):  # each element its own number of times
        back = zeros(x, g)
        flat = back.reshape(-1) if axis is None else np.moveaxis(back, axis, 0)
        moved = g if axis is None else np.moveaxis(g, axis, 0)
        np.add.at(flat, np.repeat(np.arange(len(flat)), repeats), np.asarray(moved))
        return back
    if axis is None:
        return np.reshape(np.sum(np.reshape(g, (math.prod(shape), repeats)), axis=1), shape)
    axis %= len(shape)
    apart = (*shape[: axis + 1], repeats, *shape[axis + 1 :])
    return np.sum(np.reshape(g, apart), axis=axis + 1)


def tile_back(g: Any, x: Any, reps: Any) -> Any:
    times = reps if isinstance(reps, tuple) else (reps,)
    axes = max(len(times), np.ndim(x))
    shape = (1,) * (axes - np.ndim(x)) + np.shape(x)
    times = (1,) * (axes - len(times)) + times
    apart = [length for pair in zip(times, shape, strict=True) for length in pair]
    summed = np.sum(np.reshape(g, apart), axis=tuple(range(0, 2 * axes, 2)))
    return np.reshape(summed, np.shape(x))


def diag_back(g: Any, x: Any, k: int = 0) -> Any:
    if np.ndim(x) == 1:
        return np.diagonal(g, k)
    back = zeros(x, g)
    rows = np.arange(len(g)) + max(-k, 0)
    back[rows, rows + k] = g
    return back


def diagonal_back(g: Any, x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    back = zeros(x, g)
    view = np.diagonal(back, offset, axis1, axis2)
    view.flags.writeable = True
    view[...] = g
    return back


def trace_back(g: Any, x: Any, offset: int = 0) -> Any:
    back = zeros(x, g)
    count = np.diagonal(back, offset).shape[-1]
    rows = np.arange(count) + max(-offset, 0)
    back[rows, rows + offset] = g
    return back


# ---- products ----


OPERATORS = {"matmul": operator.matmul, "multiply": operator.mul}


def matmul_back_first(
    g: Any, x: Any, y: Any, run: Mapping[str, Callable[..., Any]] = OPERATORS
) -> Any:
    """The gradient of ``x`` in ``x @ y``, by operators that warn where ``run`` has it."""
    if np.ndim(y) == 1:
        if np.ndim(x) == 1:
            return run["multiply"](g, y)
        return _summed(run["matmul"](g[..., None], np.expand_dims(y, 0)), x)
    if np.ndim(x) == 1:
        return _summed(run["matmul"](g[..., None, :], _transposed(y))[..., 0, :], x)
    return _summed(run["matmul"](g, _transposed(y)), x)


def matmul_back_second(
    g: Any, x: Any, y: Any, run: Mapping[str, Callable[..., Any]] = OPERATORS
) -> Any:
    """The gradient of ``y`` in ``x @ y``, by operators that warn where ``run`` has it."""
    if np.ndim(x) == 1:
        if np.ndim(y) == 1:
            return run["multiply"](g, x)
        return _summed(run["matmul"](np.expand_dims(x, -1), g[..., None, :]), y)
    if np.ndim(y) == 1:
        return _summed(run["matmul"](_transposed(x), g[..., None])[..., 0], y)
    return _summed(run["matmul"](_transposed(x), g), y)


def dot_back_first(g: Any, x: Any, y: Any) -> Any:
    """The gradient of ``x`` in ``np.dot(x, y)``."""
    if not (np.ndim(x) and np.ndim(y)):
        return _summed(g * y, x)
    if np.ndim(x) <= 2 >= np.ndim(y):
        return matmul_back_first(g, x, y)
    columns = np.moveaxis(y, -2, 0) if np.ndim(y) > 1 else y
    count = math.prod(np.shape(columns)[1:])
    flat = np.reshape(g, (*np.shape(x)[:-1], count))
    return flat @ np.reshape(columns, (np.shape(x)[-1], count)).T


def dot_back_second(g: Any, x: Any, y: Any) -> Any:
    """The gradient of ``y`` in ``np.dot(x, y)``."""
    if not (np.ndim(x) and np.ndim(y)):
        return _summed(g * x, y)
    if np.ndim(x) <= 2 >= np.ndim(y):
        return matmul_back_second(g, x, y)
    shape = np.shape(y)
    rows = np.reshape(x, (math.prod(np.shape(x)[:-1]), np.shape(x)[-1]))
    count = math.prod(shape[:-2]) * shape[-1] if len(shape) > 1 else 1
    flat = rows.T @ np.reshape(g, (rows.shape[0], count))
    if len(shape) == 1:
        return np.reshape(flat, shape)
    return np.moveaxis(np.reshape(flat, (shape[-2], *shape[:-2], shape[-1])), 0, -2)


def inner_back_first(g: Any, x: Any, y: Any) -> Any:
    """The gradient of ``x`` in ``np.inner(x, y)``."""
    return dot_back_first(g, x, _inner_to_dot(x, y))


def inner_back_second(g: Any, x: Any, y: Any) -> Any:
    """The gradient of ``y`` in ``np.inner(x, y)``."""
    return _inner_to_dot(x, dot_back_second(g, x, _inner_to_dot(x, y)))


def _inner_to_dot(x: Any, y: Any) -> Any:
    """Of ``y`` what `numpy.dot` multiplies by as `numpy.inner` does by ``y``."""
    return _transposed(y) if np.ndim(x) and np.ndim(y) > 1 else y


def tensordot_back_first(g: Any, x: Any, y: Any, axes: Any = 2) -> Any:
    """The gradient of ``x`` in ``np.tensordot(x, y, axes)``."""
    (of_x, of_y), (free_x, free_y) = _summed_axes(x, y, axes)
    back = np.tensordot(g, y, (range(len(free_x), np.ndim(g)), free_y))
    order = free_x + [of_x[of_y.index(axis)] for axis in sorted(of_y)]
    return np.transpose(back, np.argsort(order))[()]


def tensordot_back_second(g: Any, x: Any, y: Any, axes: Any = 2) -> Any:
    """The gradient of ``y`` in ``np.tensordot(x, y, axes)``."""
    (of_x, of_y), (free_x, free_y) = _summed_axes(x, y, axes)
    back = np.tensordot(x, g, (free_x, range(len(free_x))))
    order = [of_y[of_x.index(axis)] for axis in sorted(of_x)] + free_y
    return np.transpose(back, np.argsort(order))[()]


def _summed_axes(x: Any, y: Any, axes: Any) -> Any:
    """The axes of each operand along which `numpy.tensordot` sums, and the others."""
    if isinstance(axes, int):
        axes = range(-axes, 0), range(axes)
    pair = [([one] if isinstance(one, int) else list(one)) for one in axes]
    summed = [
        [axis % np.ndim(one) for axis in given] for one, given in zip((x, y), pair, strict=True)
    ]
    free = [
        [axis for axis in range(np.ndim(one)) if axis not in taken]
        for one, taken in zip((x, y), summed, strict=True)
    ]
    return summed, free


def cross_back_first(g: Any, x: Any, y: Any) -> Any:
    """The gradient of ``x`` in ``np.cross(x, y)``."""
    _check_cross(x, y)
    return _summed(np.cross(y, g), x)


def cross_back_second(g: Any, x: Any, y: Any) -> Any:
    """The gradient of ``y`` in ``np.cross(x, y)``."""
    _check_cross(x, y)
    return _summed(np.cross(g, x), y)


def _check_cross(x: Any, y: Any) -> None:
    if np.shape(x)[-1] != 3 or np.shape(y)[-1] != 3:
        raise NotImplementedError("np.cross has gradients for vectors of three elements alone")


def _transposed(x: Any) -> Any:
    return np.swapaxes(x, -1, -2)


def _summed(gradient: Any, like: Any) -> Any:
    """Summed over the axes along which an operand was broadcast."""
    if np.shape(gradient) == np.shape(like):
        return gradient
    lead = np.ndim(gradient) - np.ndim(like)
    if lead < 0:  # of `x @= y`, whose value lacks the axes of one element that y has more than x
        gradient, lead = np.reshape(gradient, (1,) * -lead + np.shape(gradient)), 0
    shape = (1,) * lead + np.shape(like)
    axes = tuple([i for i, n in enumerate(shape) if n == 1 != np.shape(gradient)[i]])
    if lead or axes:
        axes = (*range(lead), *[axis for axis in axes if axis >= lead])
        return np.reshape(np.sum(gradient, axis=axes), np.shape(like))
    return gradient


# ---- powers ----


def power_back_first(g: Any, x: Any, y: Any) -> Any:
    """The gradient of ``x`` in ``x ** y``. A Python number ``y`` decides which rule."""
    if isinstance(y, int | float):
        x = np.float64(x) if isinstance(x, int | float) else x
        if y == 0:
            return np.zeros(np.shape(g), np.result_type(g))[()]
        return g if y == 1 else g * (2 * x) if y == 2 else g * (y * x ** (y - 1))
    return g * (y * x ** np.where(y == 0, 0, y - 1))


def power_back_second(g: Any, v: Any, x: Any) -> Any:
    """The gradient of ``y`` in ``v = x ** y``."""
    if isinstance(x, int | float) and x > 0:
        return g * (v * math.log(x))
    return g * (v * np.log(np.where(x > 0, x, 1)))
