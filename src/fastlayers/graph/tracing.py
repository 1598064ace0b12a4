"""What a graph asks for, noted instead of computed.

The interpreter is given values of which only the shape is known, and operations that note what is
asked of them. From the notes planner.py makes a schedule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from numbers import Number
from typing import Any, NamedTuple

import numpy as np

from .. import core
from .interpreter import Request
from .nodes import key_of
from .operations import OPERATIONS, OfScipy

# The operations that are the engine's own steps, by name, with their numbers.
STEPS = {} if core.operations is None else core.operations.NUMBERS

# A ufunc's loops, for a step.
UfuncLoops: Any = getattr(core.operations, "UfuncLoops", None)

# Those that are calls between passes: of values of one dtype they make values of that dtype.
CALLED = {"square", "sum_to", "zeros_like", "broadcast_to"}

# How long rows are, as a number that a pass over them reads.
LENGTH_OF_ROWS = None if core.operations is None else core.operations.LENGTH_OF_ROWS

# How much work an element is in the loops of ufuncs, where 1 is what a step reads or writes, a
# third of a product. Means of float32 and float64 on 4,096 elements (AMD EPYC with AVX-512, NumPy
# 2.4): the cheap take 2 to 12, exponentials and the like 6 to 40, those that are named below 50 to
# 240, and what SciPy has 50 to 600.
CHEAP_WEIGHT = 4
WEIGHT = 15
DEAR_WEIGHT = 100
CHEAP = {
    *("divide", "sqrt", "square", "reciprocal", "absolute", "sign", "copysign"),
    *("maximum", "minimum", "clip", "floor", "ceil", "trunc", "rint"),
    *("less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "signbit"),
    *("isnan", "isinf", "isfinite", "logical_and", "logical_or", "logical_xor", "logical_not"),
    *("bitwise_and", "bitwise_or", "bitwise_xor", "invert"),
}
DEAR = {
    *("logaddexp", "logaddexp2", "floor_divide", "remainder", "fmod", "float_power"),
    *("hypot", "arccosh", "nextafter"),
}

# From this version on what `x ** n` is does not depend on more than the exponent's stride.
POWER_BY_STRIDE = np.lib.NumpyVersion(np.__version__) >= "2.3.0"


class Unserved(Exception):
    """The graph cannot be run by a schedule on such operands."""


class Shape(NamedTuple):
    """How a shape broadcasts to the largest one: how many axes it lacks, and the bits of those
    along which it has one element and that has more. The last axis is bit 0.

    One whose last axis was ``dropped`` by a reduction has no place for it.
    """

    lead: int = 0
    repeated: int = 0
    dropped: bool = False

    def with_other(self, other: Shape) -> Shape:
        """The shape to which both broadcast."""
        if self.dropped != other.dropped and not {self, other} & {NUMBER, SCALAR}:
            raise Unserved("an array without the last axis beside one with it")
        dropped = self.dropped or other.dropped
        return Shape(min(self.lead, other.lead), self.repeated & other.repeated, dropped)


FULL = Shape()

# With an element for each row of the largest one.
BY_ROW = Shape(0, 1)
DROPPED = Shape(0, 1, True)

# NumPy's scalars and arrays without axes, and Python numbers, broadcast to every shape, in this
# order.
SCALAR = Shape(0xFF, 0xFF)
NUMBER = Shape(0x100, 0xFF)


class Value(NamedTuple):
    """A value by its place among all, at a shape to which it may have been broadcast."""

    place: int
    shape: Shape

    @property
    def has_axes(self) -> bool:
        return self.shape not in (NUMBER, SCALAR)


def together(shapes: Iterable[Shape]) -> Shape:
    """The shape to which several broadcast."""
    return functools.reduce(Shape.with_other, shapes, NUMBER)


class Note(NamedTuple):
    """What is asked for: a step of a pass, a sum, or a call of a function on whole values.

    Attributes
    ----------
    kind : str
        ``"step"``, ``"sum"``, ``"call"`` or, of Python numbers, ``"number"``; of rows ``"reduce"``,
        and of all elements ``"total"``.
    operation : str
    reads : tuple of int
        The places of the operands; those of a sum are what is summed and the operand to whose
        shape.
    place : int
        That of the result.
    shape : Shape
        That of a pass in which it is computed: of a sum the shape of what is summed.
    unit : int
        Of a sum of as many 1 or -1 as there are elements that number, else 0.
    result : Shape
        That of the sum.
    """

    kind: str
    operation: str
    reads: tuple[int, ...]
    place: int
    shape: Shape
    unit: int = 0
    result: Shape = FULL


class Builder(dict[str, Callable[..., Any]]):
    """Operations that note what is asked of them.

    Attributes
    ----------
    notes : list of Note
        In the order in which they were made; the first ``forward`` of them are the values', of
        which the first ``quiet`` have been computed before.
    constants : dict
        Numbers that stand in the graph, by their places.
    shapes : dict
        Those of all values, by their places.
    bools : set of int
        The values that are bools.
    loops : dict
        Those of the steps that are ufuncs, by the steps' names.
    ordered : bool
        Whether the steps are right for arrays in C order alone.
    of_floats : bool
        Whether there are steps of the engine's that are not right for integers.

    Parameters
    ----------
    shapes : sequence of Shape
        Of the operands.
    ones : set of int
        The operands that are the number 1.
    axes : int
        How many the largest shape has.
    """

    def __init__(self, shapes: Sequence[Shape], ones: set[int], axes: int) -> None:
        self.axes = axes
        self.ordered = self.of_floats = False
        self.length_of_rows: set[int] = set()  # its place, once it has one
        self.inputs = [Value(place, shape) for place, shape in enumerate(shapes)]
        self.ones = ones
        self.shapes = dict(enumerate(shapes))
        self.constants: dict[int, Any] = {}
        self.notes: list[Note] = []
        self.quiet = self.forward = 0
        self.bools: set[int] = set()
        self.loops: dict[str, Any] = {}
        self._made: dict[Any, Value] = {}
        self._known: dict[Any, Value] = {}

    def __missing__(self, operation: str) -> Callable[..., Value]:
        # Nothing is kept here: that would be a cycle, and wait for the garbage collector.
        special = SPECIAL.get(operation)
        if special is not None:
            return functools.partial(special, self)
        return functools.partial(self.note, operation)

    def new(self, shape: Shape) -> Value:
        """A value at a new place."""
        place = len(self.shapes)
        self.shapes[place] = shape
        return Value(place, shape)

    def value_of(self, operand: Any) -> Value:
        """An operand, which may be a number that stands in the graph."""
        if isinstance(operand, Value):
            return operand
        if operand is LENGTH_OF_ROWS:
            if operand not in self._known:
                self._known[operand] = self.new(NUMBER)
                self.length_of_rows.add(self._known[operand].place)
            return self._known[operand]
        if not isinstance(operand, Number | np.bool_):
            raise Unserved("an array from outside")
        key = key_of(operand)
        if key not in self._known:
            value = self._known[key] = self.new(NUMBER)
            self.constants[value.place] = operand
            if key == (int, 1):
                self.ones.add(value.place)
        return self._known[key]

    def note(self, operation: str, *operands: Any, **options: Any) -> Value:
        """Note an operation whose result has the shape to which the operands broadcast."""
        row = OPERATIONS[operation]
        step = row.step or operation
        values = [self.value_of(operand) for operand in operands]
        shape = together(value.shape for value in values)
        whole = values[0].shape == shape and values[0].place not in self.bools
        if options or (row.in_place and not whole):
            raise Unserved(f"{operation}, whose value may have another dtype or shape")
        if shape == NUMBER and row.python:
            return self._noted("number", operation, values, shape)
        if shape == NUMBER and (row.ufunc is not None or step != operation):
            raise Unserved(f"{operation} of Python's numbers, which gives NumPy's")
        if shape in (NUMBER, SCALAR):
            if operation not in CALLED and step not in STEPS:
                raise Unserved(f"{operation} of numbers alone")
            return self.call(operation, values, shape)
        if self._known.get(LENGTH_OF_ROWS) in values and shape == NUMBER:
            raise Unserved("arithmetic with the length of rows")
        bools = self.bools.intersection(value.place for value in values)
        if step in STEPS and not bools:
            return self._noted("step", step, values, shape)
        ufunc = ufunc_of(step)
        if ufunc is not None:
            found = self._step_of(step, ufunc, values, shape)
            if found is not None:
                return found
        if not bools or all(one.shape == NUMBER or one.place in self.bools for one in values):
            if operation in CALLED and not bools:
                return self.call(operation, values, shape)
            raise Unserved(f"{operation}, of which there is no loop for one dtype")
        # With an array of numbers, bools are numbers, too.
        numbers = [
            self._noted("step", "from_bool", [one], one.shape) if one.place in self.bools else one
            for one in values
        ]
        return self.note(operation, *numbers)

    def _noted(self, kind: str, operation: str, values: Sequence[Value], shape: Shape) -> Value:
        """The value of an operation on these operands, noted once."""
        reads = tuple(value.place for value in values)
        key = kind, operation, reads, shape
        if key not in self._made:
            result = self._made[key] = self.new(shape)
            self.notes.append(Note(kind, operation, reads, result.place, shape))
        return self._made[key]

    def _step_of(
        self, step: str, ufunc: Any, values: Sequence[Value], shape: Shape
    ) -> Value | None:
        """The value of a ufunc whose loops can be steps; None if they cannot."""
        kinds = "".join(
            [
                "?" if one.place in self.bools else "n" if one.shape == NUMBER else "x"
                for one in values
            ]
        )
        name = f"{step} {kinds}"  # several ufuncs may have one name
        if name not in self.loops:
            try:
                loops = UfuncLoops(ufunc, kinds, weight_of(step), OPERATIONS[step].owner)
            except LookupError:
                return None
            self.loops[name] = loops
        result = self._noted("step", name, values, shape)
        if self.loops[name].makes_bools:
            self.bools.add(result.place)
        return result

    def reducing(self, ufunc: Any) -> str:
        """The name of a ufunc's loops, as they reduce arrays."""
        name = f"{ufunc.__name__} xx"
        if name not in self.loops:
            self.loops[name] = UfuncLoops(ufunc, "xx", CHEAP_WEIGHT, "numpy")
        return name

    def call(self, operation: str, values: Sequence[Value], shape: Shape) -> Value:
        """Note a call on whole values; they must have the shapes that they are used at."""
        if not self.bools.isdisjoint(value.place for value in values):
            raise Unserved(f"{operation} of bools")
        if any(value.shape != self.shapes[value.place] for value in values):
            raise Unserved(f"{operation} of a number that was only thought of as an array")
        result = self.new(shape)
        reads = tuple(value.place for value in values)
        self.notes.append(Note("call", operation, reads, result.place, shape))
        return result

    def double(self, place: int, shape: Shape) -> Note:
        """A step that computes a value once more, at a shape."""
        reads = place, self.value_of(1).place
        return Note("step", "multiply", reads, self.new(shape).place, shape)

    def unit(self, value: Value) -> int:
        """1 or -1 if that is what a value is at every element, else 0."""
        if value.place in self.ones:
            return 1
        number = self.constants.get(value.place)
        return -1 if type(number) is int and number == -1 else 0

    def is_single(self, place: int) -> bool:
        """Whether a value has one element, however large the others are."""
        shape = self.shapes[place]
        if shape in (NUMBER, SCALAR):
            return True
        return not shape.dropped and shape.repeated.bit_count() >= max(self.axes, 1)

    def is_plain(self, value: Value) -> bool:
        """Whether a value is an int or a float: those that are given are, and their products."""
        numbers = (type(number) for number in self.constants.values())
        return value.shape == NUMBER and all(one in (int, float) for one in numbers)


# What these make of an element depends on where it is: `power` looks at strides, and of signalling
# NaN the other two make a number in a vector, but NaN in what is left at an array's end.
BY_PLACE = {"power", "fmax", "fmin"}


def ufunc_of(step: str) -> Any:
    """The ufunc that computes what a step does, or None."""
    row = OPERATIONS[step]
    ufunc = row.ufunc or (OPERATIONS[f"np.{step}"].ufunc if row.operator else None)
    if ufunc is None and isinstance(row.plain, OfScipy):
        ufunc = row.plain.ufunc
    served = isinstance(ufunc, np.ufunc) and ufunc.signature is None and step not in BY_PLACE
    return ufunc if served else None


def weight_of(step: str) -> int:
    """How much work an element is in the loops of a ufunc."""
    if step in CHEAP:
        return CHEAP_WEIGHT
    return DEAR_WEIGHT if step in DEAR or OPERATIONS[step].owner != "numpy" else WEIGHT


def _multiply(builder: Builder, x: Any, y: Any) -> Value:
    values = builder.value_of(x), builder.value_of(y)
    for value, other in (values, values[::-1]):
        if other.place not in builder.ones or value.place in builder.bools:
            continue
        if other.has_axes:
            return Value(value.place, together((value.shape, other.shape)))
        if value.has_axes or builder.is_plain(value):
            return value
    return builder.note("multiply", *values)


def _positive(builder: Builder, x: Any) -> Value:
    return _multiply(builder, x, 1)


def _zeros_like(builder: Builder, x: Any) -> Value:
    value = builder.value_of(x)
    if value.shape == NUMBER:
        return builder.value_of(0)
    return builder.call("zeros_like", [value], value.shape)


def _multiply_to(builder: Builder, dout: Any, factor: Any, to: Any) -> Value:
    return _sum_to(builder, _multiply(builder, dout, factor), to)


def _sum_to(builder: Builder, summed: Any, to: Any) -> Value:
    value, like = builder.value_of(summed), builder.value_of(to)
    if value.place in builder.bools:
        raise Unserved("a sum of bools")
    if value.shape == like.shape:
        return value
    if like.shape != builder.shapes[like.place]:
        raise Unserved("a sum to the shape of a number that was only thought of as an array")
    if not value.has_axes:
        return builder.call("sum_to", [value, like], like.shape)
    if like.shape.with_other(value.shape) != value.shape:
        raise Unserved("a gradient that is summed to a shape which has more than it")
    result = builder.new(like.shape)
    reads = value.place, like.place
    unit = builder.unit(value)
    builder.notes.append(Note("sum", "sum_to", reads, result.place, value.shape, unit, like.shape))
    return result


def _broadcast_to(builder: Builder, broadcast: Any, to: Any) -> Value:
    value, like = builder.value_of(broadcast), builder.value_of(to)
    if value.shape == like.shape:
        return value
    if like.has_axes:
        if value.shape != NUMBER:
            raise Unserved("a view that repeats elements: its memory order is NumPy's to tell")
        return Value(value.place, like.shape)
    return builder.call("broadcast_to", [value, like], like.shape)


def _is_last(builder: Builder, axis: Any) -> bool:
    """Whether an option names the last axis, alone."""
    axis = axis[0] if type(axis) is tuple and len(axis) == 1 else axis
    return builder.axes > 0 and axis in (-1, builder.axes - 1)


def _reduce(builder: Builder, x: Any, ufunc: Any, axis: Any, keepdims: bool = False) -> Value:
    """Rows, each to one element."""
    value = builder.value_of(x)
    if value.shape != FULL or not _is_last(builder, axis):
        raise Unserved("a reduction, but not of rows")
    if value.place in builder.bools:
        value = builder._noted("step", "from_bool", [value], value.shape)
    return builder._noted(
        "reduce", builder.reducing(ufunc), [value], BY_ROW if keepdims else DROPPED
    )


def _sum(builder: Builder, x: Any, axis: Any = None, keepdims: bool = False) -> Value:
    value = builder.value_of(x)
    if value.place in builder.bools:
        raise Unserved("a sum of bools, which is a number")
    if axis is None and not keepdims:
        if value.shape != FULL:
            return builder.call("sum", [value], SCALAR)
        name = builder.reducing(np.add)
        result = builder.new(SCALAR)
        builder.notes.append(Note("total", name, (value.place,), result.place, FULL))
        return result
    return _reduce(builder, x, np.add, axis, keepdims)


def _sum_as(builder: Builder, x: Any, g: Any, axis: Any = None) -> Value:
    return _reduce(builder, x, np.add, axis, True)


def _max(builder: Builder, x: Any, axis: Any = None, keepdims: bool = False) -> Value:
    return _largest(builder, x, np.maximum, axis, keepdims)


def _min(builder: Builder, x: Any, axis: Any = None, keepdims: bool = False) -> Value:
    return _largest(builder, x, np.minimum, axis, keepdims)


def _largest(builder: Builder, x: Any, ufunc: Any, axis: Any, keepdims: bool) -> Value:
    if builder.value_of(x).place in builder.bools:
        raise Unserved("the largest of bools")
    return _reduce(builder, x, ufunc, axis, keepdims)


def _mean(builder: Builder, x: Any, axis: Any = None, keepdims: bool = False) -> Value:
    """As NumPy composes it; for rows of so few elements it divides floats of any width alike."""
    return builder.note("divide", _sum(builder, x, axis, keepdims), LENGTH_OF_ROWS)


def _var(
    builder: Builder, x: Any, axis: Any = None, ddof: float = 0, keepdims: bool = False
) -> Value:
    if ddof != 0:
        raise Unserved("a variance that is divided by another number than that of elements")
    away = builder.note("subtract", x, _mean(builder, x, axis, True))
    return _mean(builder, builder.note("multiply", away, away), axis, keepdims)


def _std(builder: Builder, x: Any, **options: Any) -> Value:
    return builder.note("sqrt", _var(builder, x, **options))


def _count(builder: Builder, x: Any, axis: Any = None) -> Any:
    if builder.value_of(x).shape != FULL or not _is_last(builder, axis):
        raise Unserved("a number of elements that is not that of rows")
    return LENGTH_OF_ROWS


def _spread(builder: Builder, g: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Value:
    value, like = builder.value_of(g), builder.value_of(x)
    if value.shape == SCALAR and like.shape == NUMBER:
        raise Unserved("a number of NumPy's, of which one of Python's is made")
    if value.shape == SCALAR:
        builder.ordered = True
        return Value(value.place, like.shape)
    if like.shape != FULL or type(axis) is not int:
        raise Unserved("a view that repeats elements along several axes")
    reduced = Shape(0, 1 << builder.axes - 1 - axis % builder.axes)
    if not keepdims:
        reduced = DROPPED if _is_last(builder, axis) else reduced._replace(lead=1)
    if value.shape != reduced or (value.shape.lead and axis != 0):
        raise Unserved("a view that repeats elements otherwise than an operand is broadcast")
    builder.ordered = True
    return Value(value.place, FULL)


def _expand_dims(builder: Builder, x: Any, axis: Any) -> Value:
    value = builder.value_of(x)
    if value.shape != DROPPED or not _is_last(builder, axis):
        raise Unserved("another axis")
    return Value(value.place, BY_ROW)


def _subtract(builder: Builder, x: Any, y: Any) -> Any:
    """Of the length of rows nothing is subtracted without a note."""
    if x is LENGTH_OF_ROWS and type(y) in (int, float) and y == 0:
        return x
    return builder.note("subtract", x, y)


def _select(builder: Builder, condition: Any, x: Any, y: Any) -> Value:
    values = [builder.value_of(one) for one in (condition, x, y)]
    if values[0].place not in builder.bools or any(
        one.place in builder.bools for one in values[1:]
    ):
        raise Unserved("a choice by numbers, or of bools")
    if all(one.shape == NUMBER for one in values[1:]):
        raise Unserved("a choice of numbers alone, whose dtype is not the arrays'")
    shape = together(value.shape for value in values)
    return builder._noted("step", "select", values, shape)


def _power(builder: Builder, x: Any, y: Any) -> Value:
    """By NumPy's loop, which looks at the exponent's stride: only that of a number is known."""
    values = builder.value_of(x), builder.value_of(y)
    shape = values[0].shape
    if shape == values[1].shape == NUMBER:
        return builder.note("power", *values)
    number: Any = builder.constants.get(values[1].place)
    if values[0].has_axes and type(number) in (int, float) and number == 2:
        builder.of_floats |= type(number) is float  # which would make floats of integers
        return builder.note("multiply", values[0], values[0])  # as NumPy's operator has it
    served = POWER_BY_STRIDE and values[0].has_axes and values[1].shape == NUMBER
    found = builder._step_of("power", np.power, values, shape) if served else None
    if found is None:
        raise Unserved("a power whose loop depends on strides")
    return found


def _power_by_numpy(builder: Builder, x: Any, y: Any) -> Value:
    values = builder.value_of(x), builder.value_of(y)
    if values[0].shape == values[1].shape == NUMBER:
        raise Unserved("np.power of Python's numbers, which gives NumPy's")
    if not POWER_BY_STRIDE:
        raise Unserved("a power whose loop depends on more than strides")
    return _power(builder, x, y)


def _power_back_first(builder: Builder, g: Any, x: Any, y: Any) -> Value:
    exponent = builder.value_of(y)
    number: Any = builder.constants.get(exponent.place)
    if type(number) not in (int, float) or number == 0 or builder.value_of(x).shape == NUMBER:
        raise Unserved("the gradient of a power whose exponent is not known, or of a number")
    if number == 1:
        return builder.value_of(g)
    if number == 2:
        return _multiply(builder, g, _multiply(builder, 2, x))
    return _multiply(builder, g, _multiply(builder, number, _power(builder, x, number - 1)))


def _clip(builder: Builder, x: Any, *limits: Any, bounds: str) -> Value:
    """As np.clip calls ufuncs: NumPy's own looks at the strides of its limits."""
    if builder.value_of(x).shape == NUMBER:
        raise Unserved("np.clip of a number, of which NumPy makes an array first")
    if bounds != "lu":
        return builder.note("maximum" if bounds == "l" else "minimum", x, *limits)
    values = [builder.value_of(one) for one in (x, *limits)]
    served = values[0].has_axes and all(one.shape == NUMBER for one in values[1:])
    found = builder._step_of("clip", CLIP, values, values[0].shape) if served and CLIP else None
    if found is None:
        raise Unserved("limits that are arrays")
    return found


# NumPy has no public name for the ufunc.
CLIP: Any = getattr(getattr(np, "_core").umath, "clip", None)  # noqa: B009

SPECIAL: dict[str, Callable[..., Any]] = {
    "sum": _sum,
    "sum_as": _sum_as,
    "max": _max,
    "min": _min,
    "mean": _mean,
    "var": _var,
    "std": _std,
    "count": _count,
    "spread": _spread,
    "expand_dims": _expand_dims,
    "subtract": _subtract,
    "where": _select,
    "select": _select,
    "power": _power,
    "np.power": _power_by_numpy,
    "power_back_first": _power_back_first,
    "clip": _clip,
    "multiply": _multiply,
    "positive": _positive,
    "zeros_like": _zeros_like,
    "multiply_to": _multiply_to,
    "sum_to": _sum_to,
    "broadcast_to": _broadcast_to,
}


def trace(request: Request, builder: Builder) -> list[Value]:
    """The values and the gradients that are asked for."""
    count = len(request.reads)
    values: list[Any] = []
    for stop in (max(request.quiet, request.start), request.stop):
        builder.quiet = builder.forward
        request.evaluate_up_to(stop, values, builder.inputs[:count], builder)
        builder.forward = len(builder.notes)
    douts = builder.inputs[count:]
    for place, dout in zip(request.begun, douts, strict=True):
        if dout.shape not in (NUMBER, builder.value_of(values[place]).shape):
            raise Unserved("a gradient that has not the shape of its value")
    results = [values[place] for place in request.values]
    results += request.differentiate(values, douts, builder)
    found = [builder.value_of(result) for result in results]
    if not builder.bools.isdisjoint(value.place for value in found):
        raise Unserved("a result of bools")
    return found
