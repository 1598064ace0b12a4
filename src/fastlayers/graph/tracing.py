"""What a graph asks for, noted instead of computed: the steps of a pass, and those around it.

`evaluate` and `differentiate` are given values that know their kind alone, and
operations that note what is asked of them: what is of numbers is computed before the pass, what is
of sums after it, and all between by the pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from .. import ops
from .interpreter import differentiate, evaluate, reached
from .nodes import Nodes, key_of

COMPILED = ops.IMPLEMENTATION == "native"

if COMPILED:
    from .._core.program.operations import NUMBERS

# What a value is: a number; an array of a small shape, which broadcasts to the whole one; of the
# whole shape; a sum, known after the pass.
NUMBER, SMALL, WHOLE, LATE = range(4)


class Unserved(Exception):
    """The graph cannot be run in passes on such operands."""


class Shape(NamedTuple):
    """How a shape broadcasts to the whole one: how many axes it lacks, and the bits of those along
    which it has one element and that has more. The last axis is bit 0.
    """

    lead: int = 0
    repeated: int = 0

    def with_other(self, other: Shape) -> Shape:
        return Shape(min(self.lead, other.lead), self.repeated & other.repeated)

    def merges(self, axis: int, other: int) -> bool:
        """Whether two axes can be run through as one."""
        return self.repeated >> axis & 1 == self.repeated >> other & 1


FULL = Shape()

# That of NumPy's scalars and arrays without axes, which broadcast to every shape. As numbers do,
# they let any two axes be run through as one.
SCALAR = Shape(0xFF, 0xFF)


class Value(NamedTuple):
    """A value by its place among all, and its kind. WHOLE, it may be a number at each element."""

    place: int
    kind: int
    shape: Shape = FULL


def value_of_kind(place: int, kind: Any) -> Value:
    if not isinstance(kind, Shape):
        return Value(place, NUMBER)
    return Value(place, WHOLE if kind == FULL else SMALL, kind)


def is_array(value: Value) -> bool:
    """Whether a value has axes."""
    return value.kind != NUMBER and value.shape != SCALAR


def together(shapes: Iterable[Shape]) -> Shape:
    """The shape to which several broadcast."""
    return functools.reduce(Shape.with_other, shapes)


class Sum(NamedTuple):
    """A sum: its place, that of what is summed, that of the operand to whose shape; and the small
    shapes that the layers have at hand when they sum this.
    """

    place: int
    value: int
    like: int
    shapes: Sequence[Shape]


class Step(NamedTuple):
    """An operation, the places of what it reads, and of what it computes."""

    operation: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]


class Result(NamedTuple):
    """A result of a pass: which value it is, its place among all, to whose shape it is summed.

    ``shapes`` are those of a `Sum`. A result without a value is the sum of as many ``unit``, 1 or
    -1, as there are elements.
    """

    value: int | None
    place: int
    like: int | None = None
    shapes: Sequence[Shape] = ()
    unit: int = 0


class Builder(dict[str, Callable[..., Any]]):
    """Operations that note what is asked of them.

    What is of numbers alone is ``numbers``, what is of small arrays ``early``, what is of sums
    ``late``; ``steps`` are the pass, and ``counts`` results that take no step. ``constants`` are
    numbers that stand in the graph, by their places; ``shapes`` are those of the arrays with axes,
    by their places.

    Parameters
    ----------
    kinds : sequence of Any
        For each operand ``"number"``, ``"one"``, which is the number 1, or the `Shape` of an array,
        `SCALAR` if it has no axes.
    axes : int
        How many the whole shape has.
    """

    def __init__(self, kinds: Sequence[Any], axes: int) -> None:
        self.inputs = [value_of_kind(place, kind) for place, kind in enumerate(kinds)]
        self.ones = {place for place, kind in enumerate(kinds) if kind == "one"}
        self.shapes = {value.place: value.shape for value in self.inputs if is_array(value)}
        self.places = len(kinds)
        self.constants: dict[int, Any] = {}
        self._known: dict[Any, Value] = {}
        self.numbers: list[Step] = []
        self.early: list[Step] = []
        self.steps: list[Step] = []
        self.forward: list[Step] = []
        self.late: list[Step] = []
        self.sums: list[Sum] = []
        self.counts: list[Result] = []
        self.computed: set[int] = set()
        self.axes = axes

    def __missing__(self, operation: str) -> Callable[..., Value]:
        # Nothing is kept here: that would be a cycle, and wait for the garbage collector.
        special: Callable[..., Value] | None = getattr(self, f"_{operation}", None)
        return special or (lambda *operands: self._note(operation, *operands))

    def _new(self, kind: int, shape: Shape = FULL) -> Value:
        self.places += 1
        return Value(self.places - 1, kind, shape)

    def value_of(self, operand: Any) -> Value:
        if isinstance(operand, Value):
            return operand
        key = key_of(operand)
        if key not in self._known:
            self._known[key] = self._new(NUMBER)
            self.constants[self._known[key].place] = operand
            if key == (int, 1):
                self.ones.add(self._known[key].place)
        return self._known[key]

    def _note(self, operation: str, *operands: Any) -> Value:
        values = [self.value_of(operand) for operand in operands]
        kind = max(value.kind for value in values)
        shape = FULL
        if kind == SMALL:
            shape = together(value.shape for value in values if value.kind == SMALL)
            kind = WHOLE if shape == FULL else SMALL
        elif kind == LATE and any(value.kind == WHOLE for value in values):
            raise Unserved(operation)
        if kind == WHOLE and operation not in NUMBERS:
            raise Unserved(operation)
        result = self._new(kind, shape)
        if kind == SMALL and is_array(result):
            self.shapes[result.place] = shape
        elif kind == WHOLE:
            self.computed.add(result.place)
        steps = (self.numbers, self.early, self.steps, self.late)[kind]
        steps.append(Step(operation, tuple(value.place for value in values), (result.place,)))
        return result

    def _multiply(self, x: Any, y: Any) -> Value:
        values = self.value_of(x), self.value_of(y)
        for value, other in (values, values[::-1]):
            if other.place not in self.ones:
                continue
            if value.kind == WHOLE or (other.kind == NUMBER and self._is_plain(value)):
                return value
            if value.kind == NUMBER and other.kind == WHOLE:
                return Value(value.place, WHOLE)
        return self._note("multiply", *values)

    def _unit(self, value: Value) -> int:
        """1 or -1 if that is what a value is at every element, else 0."""
        if value.place in self.ones:
            return 1
        number = self.constants.get(value.place)
        return -1 if type(number) is int and number == -1 else 0

    def _is_plain(self, value: Value) -> bool:
        """Whether a value is an int or a float: those that are given are, and their products."""
        numbers = (type(number) for number in self.constants.values())
        return value.kind == NUMBER and all(one in (int, float) for one in numbers)

    def _positive(self, x: Any) -> Value:
        return self._multiply(x, 1)

    def _zeros_like(self, x: Any) -> Value:
        value = self.value_of(x)
        return self.value_of(0) if value.kind == NUMBER else self._note("zeros_like", value)

    def _multiply_to(self, dout: Any, factor: Any, to: Any, other: Any) -> Value:
        values = tuple(self.value_of(one) for one in (dout, factor, to, other))
        kinds = {value.kind for value in values[:3]}
        if WHOLE in kinds or kinds == {NUMBER}:
            return self._sum_to(self._multiply(*values[:2]), to, other)
        return self._note("multiply_to", *values)

    def _sum_to(self, summed: Any, to: Any, other: Any) -> Value:
        value, like = self.value_of(summed), self.value_of(to)
        if (value.kind, value.shape) == (like.kind, like.shape) and value.kind != LATE:
            return value
        if value.kind == LATE and like.kind != WHOLE:
            return self._note("sum_to", value, like)
        if value.kind != WHOLE or like.kind == LATE:
            raise Unserved("sum_to")
        result = self._new(LATE)
        if like.kind != WHOLE and (unit := self._unit(value)):
            self.counts.append(Result(None, result.place, like.place, unit=unit))
            return result
        shapes = [one.shape for one in (like, self.value_of(other)) if one.kind == SMALL]
        self.sums.append(Sum(result.place, value.place, like.place, shapes))
        return result

    def _broadcast_to(self, broadcast: Any, to: Any) -> Value:
        value, like = self.value_of(broadcast), self.value_of(to)
        if value.kind == NUMBER and like.kind == WHOLE:
            return Value(value.place, WHOLE)
        if (value.kind, value.shape) == (like.kind, like.shape):
            return value
        return self._note("broadcast_to", value, like)

    def shapes_of(self, places: Iterable[int]) -> list[Shape]:
        """The shapes of the arrays among values."""
        return [
            self.shapes.get(place, FULL)
            for place in places
            if place in self.shapes or place in self.computed
        ]

    def apart(self, place: int, done: Sequence[Result]) -> int:
        """The value, or its double: if it is not computed here, or a result already."""
        if place in self.computed and all(place != result.value for result in done):
            return place
        step = self._doubled(place)
        self.steps.append(step)
        return step.writes[0]

    def summed(self, one: Sum, done: Sequence[Result]) -> Result:
        """A sum as a result."""
        return Result(self.apart(one.value, done), one.place, one.like, one.shapes)

    def _doubled(self, place: int) -> Step:
        return Step("multiply", (place, self.value_of(1).place), (self._new(WHOLE).place,))

    def let_cross(self, place: int, steps: list[Step], results: list[Result]) -> None:
        """Have a pass of these steps store a value, too, which a later pass reads."""
        own = [result for result in results if result.value == place]
        if any(result.like is None for result in own):
            return
        value = place
        if own:  # it is summed
            steps.append(self._doubled(place))
            value = steps[-1].writes[0]
        results.append(Result(value, place))


def trace(graph: Nodes, builder: Builder, values: bool, wanted: Sequence[int]) -> list[Value]:
    """The outputs' values, if they are asked for, and the gradients of the inputs wanted."""
    count = len(graph.inputs)
    everything = evaluate(graph, builder.inputs[:count], builder)
    builder.forward = list(builder.steps)
    results = [builder.value_of(everything[output]) for output in graph.outputs] if values else []
    if wanted:
        begun = [
            (dout, builder.value_of(everything[output]))
            for dout, output in zip(builder.inputs[count:], graph.outputs, strict=True)
        ]
        for (dout, value), output in zip(begun, graph.outputs, strict=True):
            if value.kind == SMALL and (output >= count or graph.outputs.count(output) > 1):
                raise Unserved("steps on gradients of a small shape, before the pass")
            if dout.kind != NUMBER and dout[1:] != value[1:]:
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
