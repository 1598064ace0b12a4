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
from .interpreter import differentiate, evaluate, reached
from .nodes import Nodes, key_of
from .operations import OPERATIONS

# The operations that are steps of passes, by name, with their numbers.
STEPS = {} if core.operations is None else core.operations.NUMBERS


# Those that are calls between passes: of values of one dtype they make values of that dtype.
CALLED = {"square", "sum_to", "zeros_like", "broadcast_to"}


class Unserved(Exception):
    """The graph cannot be run by a schedule on such operands."""


class Shape(NamedTuple):
    """How a shape broadcasts to the largest one: how many axes it lacks, and the bits of those
    along which it has one element and that has more. The last axis is bit 0.
    """

    lead: int = 0
    repeated: int = 0

    def with_other(self, other: Shape) -> Shape:
        """The shape to which both broadcast."""
        return Shape(min(self.lead, other.lead), self.repeated & other.repeated)

    def merges(self, axis: int, other: int) -> bool:
        """Whether two axes can be run through as one."""
        return self.repeated >> axis & 1 == self.repeated >> other & 1


FULL = Shape()

# NumPy's scalars and arrays without axes, and Python numbers, broadcast to every shape, in this
# order, and let any two axes be run through as one.
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
        ``"step"``, ``"sum"``, ``"call"`` or, of Python numbers, ``"number"``.
    operation : str
    reads : tuple of int
        The places of the operands; those of a sum are what is summed, the operand to whose shape,
        and the other operand, on which its rounding depends.
    place : int
        That of the result.
    shape : Shape
        That of a pass in which it is computed: of a sum the shape of what is summed.
    unit : int
        Of a sum of as many 1 or -1 as there are elements that number, else 0.
    """

    kind: str
    operation: str
    reads: tuple[int, ...]
    place: int
    shape: Shape
    unit: int = 0


class Builder(dict[str, Callable[..., Any]]):
    """Operations that note what is asked of them.

    Attributes
    ----------
    notes : list of Note
        In the order in which they were made; the first ``forward`` of them are the values'.
    constants : dict
        Numbers that stand in the graph, by their places.
    shapes : dict
        Those of all values, by their places.

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
        self.inputs = [Value(place, shape) for place, shape in enumerate(shapes)]
        self.ones = ones
        self.axes = axes
        self.shapes = dict(enumerate(shapes))
        self.constants: dict[int, Any] = {}
        self.notes: list[Note] = []
        self.forward = 0
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
        function, operation = operation, row.step or operation
        if options or not (operation in STEPS or operation in CALLED):
            raise Unserved(f"{operation}, whose value may have another dtype or shape")
        values = [self.value_of(operand) for operand in operands]
        shape = together(value.shape for value in values)
        if function.endswith("_in_place") and shape != values[0].shape:
            raise Unserved(f"{function} of more than there is room for")
        if operation != row.step and shape == NUMBER and row.python:
            kind = "number"
        elif shape not in (NUMBER, SCALAR) and operation in STEPS:
            kind = "step"
        elif shape == NUMBER and row.ufunc is not None:
            raise Unserved(f"{function} of Python's numbers, which gives NumPy's")
        else:
            return self.call(function, values, shape)
        result = self.new(shape)
        reads = tuple(value.place for value in values)
        self.notes.append(Note(kind, operation, reads, result.place, shape))
        return result

    def call(self, operation: str, values: Sequence[Value], shape: Shape) -> Value:
        """Note a call on whole values; they must have the shapes that they are used at."""
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

    def is_plain(self, value: Value) -> bool:
        """Whether a value is an int or a float: those that are given are, and their products."""
        numbers = (type(number) for number in self.constants.values())
        return value.shape == NUMBER and all(one in (int, float) for one in numbers)


def _multiply(builder: Builder, x: Any, y: Any) -> Value:
    values = builder.value_of(x), builder.value_of(y)
    for value, other in (values, values[::-1]):
        if other.place not in builder.ones:
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


def _multiply_to(builder: Builder, dout: Any, factor: Any, to: Any, other: Any) -> Value:
    return _sum_to(builder, _multiply(builder, dout, factor), to, other)


def _sum_to(builder: Builder, summed: Any, to: Any, other: Any) -> Value:
    value, like = builder.value_of(summed), builder.value_of(to)
    if value.shape == like.shape:
        return value
    values = value, like, builder.value_of(other)
    if like.shape != builder.shapes[like.place]:
        raise Unserved("a sum to the shape of a number that was only thought of as an array")
    if not value.has_axes:
        return builder.call("sum_to", values, like.shape)
    if like.shape.with_other(value.shape) != value.shape:
        raise Unserved("a gradient that is summed to a shape which has more than it")
    result = builder.new(like.shape)
    reads = tuple(one.place for one in values)
    unit = builder.unit(value)
    builder.notes.append(Note("sum", "sum_to", reads, result.place, value.shape, unit))
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


SPECIAL: dict[str, Callable[..., Value]] = {
    "multiply": _multiply,
    "positive": _positive,
    "zeros_like": _zeros_like,
    "multiply_to": _multiply_to,
    "sum_to": _sum_to,
    "broadcast_to": _broadcast_to,
}


def trace(graph: Nodes, builder: Builder, values: bool, wanted: Sequence[int]) -> list[Value]:
    """The outputs' values, if they are asked for, and the gradients of the inputs wanted."""
    count = len(graph.inputs)
    everything = evaluate(graph, builder.inputs[:count], builder)
    builder.forward = len(builder.notes)
    results = [builder.value_of(everything[output]) for output in graph.outputs] if values else []
    if wanted:
        begun = [
            (dout, builder.value_of(everything[output]))
            for dout, output in zip(builder.inputs[count:], graph.outputs, strict=True)
        ]
        if any(dout.shape not in (NUMBER, value.shape) for dout, value in begun):
            raise Unserved("a gradient that has not the shape of its value")
        douts = [builder["broadcast_to"](dout, value) for dout, value in begun]
        to = reached(graph, wanted)
        gradients = differentiate(graph, everything, douts, to, builder)
        results += [
            builder.value_of(gradients[i])
            if i in gradients
            else builder["zeros_like"](builder.inputs[i])
            for i in wanted
        ]
    return results
