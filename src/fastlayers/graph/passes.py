"""A graph's work as passes over memory: which plan serves some operands, and how it is run."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .attribution import AtUsersLine
from .compounds import joined, needed
from .interpreter import differentiate, evaluate, reached
from .nodes import Nodes
from .operations import OPERATIONS, Operations
from .results import apart, type_of_gradients
from .tracing import (
    COMPILED,
    FULL,
    SCALAR,
    WHOLE,
    Builder,
    Result,
    Shape,
    Step,
    Unserved,
    Value,
    together,
    trace,
)

if COMPILED:
    from .._core.frontend.dispatch import attempts
    from .._core.frontend.passes import MOST_VALUES, WARNS, Entry, Pass
    from .._core.program.operations import NUMBERS

# Planning takes some 70 us a node for the value and 450 us for value and gradients, on the first
# call (a chain of 1,000 nodes, AMD EPYC of the Milan family, beside other work).
MOST_NODES = 2_000

SILENT: Any = {"all": "ignore"}


class Passes:
    """What a graph is called by. Each returns None where the nodes are to be run one by one.

    Attributes
    ----------
    value : Entry
        For the value, of operands.
    gradients : Entry
        For the gradients by all inputs, of operands and a ``dout``.
    both : Entry
        For the value and the gradients by all inputs.
    """

    def __init__(self, graph: Nodes, run: Operations) -> None:
        self._graph, self._run = graph, run
        self._others: dict[tuple[str, ...], Entry] = {}
        self.value = entry(graph, run)
        self.gradients = entry(graph, run, False, graph.inputs)
        self.both = entry(graph, run, True, graph.inputs)

    def by(self, names: tuple[str, ...]) -> Entry:
        """For the value and the gradients by some inputs."""
        if names not in self._others:
            self._others[names] = entry(self._graph, self._run, True, names)
        return self._others[names]


def entry(
    graph: Nodes,
    run: Operations,
    values: bool = True,
    names: tuple[str, ...] | None = None,
) -> Entry:
    """For the value of a graph, if asked for, and for the gradients by some inputs, if any."""
    wanted = [graph.inputs.index(name) for name in names or ()]

    def plan(kinds: list[Any], axes: int) -> Any:
        # Of no gradients, what is wrong with dout is told nevertheless.
        if names == () or len(graph.nodes) > MOST_NODES:
            return None
        kinds = [shape_of(kind) for kind in kinds]
        builder = Builder(kinds, axes)
        try:
            results = trace(graph, builder, values, wanted)
            if not builder.shapes:
                return function_of_numbers(builder, [result.place for result in results])
            made = Plan(builder, results, values, run)
        except Unserved:
            return None
        return made.as_pass() if made.simple else made

    def finish(operands: Any, douts: Any, results: Any, rest: Any) -> None:
        try:
            finish_by_nodes(operands, douts, results, rest)
        except Exception as error:  # no memory, or a warning that somebody made an error
            parts = ", ".join(f"{start}:{stop}" for start, stop in rest)
            error.add_note(
                f"{graph.name}: of the outputs all is written but the elements {parts}, counted in "
                f"the order of memory; there the operands are as they were"
            )
            raise

    def finish_by_nodes(operands: Any, douts: Any, results: Any, rest: Any) -> None:
        parts = [part_of(operand, rest) for operand in operands]
        here = AtUsersLine(run)
        with np.errstate(**({} if values else SILENT)):
            evaluated = evaluate(graph, parts, here, range(len(graph.nodes)))
        found = [evaluated[output] for output in graph.outputs] if values else []
        if wanted:
            begun = [
                run["broadcast_to"](part_of(dout, rest), evaluated[output])
                for dout, output in zip(douts, graph.outputs, strict=True)
            ]
            to = reached(graph, wanted)
            gradients = differentiate(graph, evaluated, begun, to, here)
            found += [gradients.get(i, 0) for i in wanted]
        for result, one in zip(results, found, strict=True):
            if isinstance(result, np.ndarray):
                put_back(one, result, rest)

    gradients = None if names is None else type_of_gradients(names)
    inputs, outputs = len(graph.inputs), len(graph.outputs)
    returns_operands = any(output < inputs for output in graph.outputs)
    return Entry(plan, inputs, outputs, graph.single, values, gradients, returns_operands, finish)


def shape_of(kind: Any) -> Any:
    """A kind with the shape of what is no Python number."""
    if isinstance(kind, tuple):
        return Shape(*kind)
    return SCALAR if kind == "scalar" else kind


Rest = Sequence[tuple[int, int]]


def part_of(operand: Any, rest: Rest) -> Any:
    """The elements of an operand that a pass in place has left out."""
    if not isinstance(operand, np.ndarray) or not operand.ndim:
        return operand
    row = operand.reshape(-1, order="A")
    return np.concatenate([row[start:stop] for start, stop in rest])


def put_back(part: Any, result: np.ndarray, rest: Rest) -> None:
    row = result.reshape(-1, order="A")
    done = 0
    for start, stop in rest:
        count = stop - start
        row[start:stop] = part[done : done + count] if np.ndim(part) else part
        done += count


# A function, which values it is given, and what else.
Call = tuple[Callable[..., Any], Sequence[int], tuple[bool, ...]]


class Plan:
    """A graph's values and gradients on operands of certain kinds, in as few passes as it takes.

    Attributes
    ----------
    only : Pass or None
        The pass, if it is the only one. Then it may write results into outputs.

    Parameters
    ----------
    builder : Builder
        Which has noted what is to be computed, of operands and the outputs' gradients.
    results : list of Value
    values : bool
        Whether the outputs' values are among the results.
    run : mapping
        What is computed before and after the passes is computed by these operations.

    Raises
    ------
    Unserved
        If passes cannot do it.
    """

    def __init__(
        self, builder: Builder, results: list[Value], values: bool, run: Operations
    ) -> None:
        done: list[Result] = []
        sums = {one.place: one for one in builder.sums}
        counts = {one.place: one for one in builder.counts}
        for i, result in enumerate(results):
            if result.kind == WHOLE:
                value = builder.apart(result.place, done)
                done.append(Result(value, value))
                results[i] = Value(value, WHOLE)
            elif result.place in sums:
                done.append(builder.summed(sums.pop(result.place), done))
            elif result.place in counts:
                done.append(counts.pop(result.place))
        for one in sums.values():
            done.append(builder.summed(one, done))
        done += counts.values()
        if all(result.unit for result in done):
            raise Unserved("nothing to compute")
        # All that is asked for the value may warn, whether a result depends on it or not.
        loud = {step.writes for step in builder.forward} if values else set()
        asked = {result.value for result in done if result.value is not None}
        steps = needed(builder.steps, asked, loud)
        # Also what no result is computed of: it may change their dtype, and their memory order.
        computed = {place for step in builder.steps for place in step.writes}
        read = dict.fromkeys(p for step in builder.steps for p in step.reads if p not in computed)
        self.run = run
        if builder.sums:
            builder.value_of(1)  # for values that are summed and read by a later pass
        self.constants = tuple(builder.constants.values())
        written = [step.writes[0] for step in builder.numbers]
        self.numbers = function_of_numbers(builder, written) if written else None
        self.passes: list[tuple[Pass, Sequence[int]]] = []
        self.index: dict[int, int] = {}
        self._place(range(len(builder.inputs)))
        self._place(builder.constants)
        self._place(step.writes[0] for step in builder.numbers + builder.early)
        self.first, self.count = len(self.index), len(done)
        numbers = set(read) - set(builder.shapes)
        steps = joined(steps, numbers, asked)
        if len(steps) == 1 and read.keys() == set(steps[0].reads):
            read = dict.fromkeys(steps[0].reads)  # in this order a single step needs no tiles
        self._cut(steps, list(read), done, builder)
        self._place(step.writes[0] for step in builder.late)
        self.early = [self._call(step, silent=not values) for step in builder.early]
        self.late = [self._call(step, silent=False) for step in builder.late]
        self._drop_last_read(builder.computed - {result.place for result in done})
        self.only = self.passes[0][0] if len(self.passes) == 1 else None
        operands = range(len(builder.inputs))
        self.arrays = [place for place in read if place in operands and place in builder.shapes]
        self.order = [self.index[result.place] for result in results]
        # What is not new, as an operand, or a sum that is handed on, may be another result, too.
        new = {result.place for result in done}
        for step in builder.early + builder.late:
            if step.operation in attempts and step.operation != "sum_to":
                new.update(step.writes)
        distinct = {result.place for result in results}
        self.are_apart = distinct <= new and len(distinct) == len(results)
        self.simple = (
            not (self.early or self.late)
            and len(self.passes) == 1
            and self.first <= MOST_VALUES
            and self.order == list(range(self.first, self.first + self.count))
        )

    def _place(self, places: Iterable[int]) -> None:
        """Give values the next positions among all that there are when the plan is run."""
        for place in places:
            self.index[place] = len(self.index)

    def _cut(
        self, steps: Sequence[Step], read: Sequence[int], done: list[Result], builder: Builder
    ) -> None:
        """Make the passes: one, or if that is too long, one after the other."""
        if self._fits(steps, read, done, builder):
            return
        used = {place for step in steps for place in step.reads}
        if any(place not in used and place not in builder.shapes for place in read):
            raise Unserved("a number that no pass would read may change the dtype")
        last = {place: i for i, step in enumerate(steps) for place in step.reads}
        asked: dict[int | None, list[Result]] = defaultdict(list)
        for result in done:
            asked[result.value].append(result)
        start = 0
        counts: Sequence[int] = SHORTER
        while start < len(steps):
            for count in counts:
                part = list(steps[start : start + count])
                written = [place for step in part for place in step.writes]
                results = [result for place in written for result in asked[place]]
                if start == 0:
                    results += asked[None]
                for place in written:
                    if last.get(place, 0) >= start + count:
                        builder.let_cross(place, part, results)
                if all(result.unit for result in results):  # it may warn: nothing else is asked
                    builder.let_cross(written[-1], part, results)
                reads = dict.fromkeys(place for step in part for place in step.reads)
                outside = [place for place in reads if place in self.index]
                if self._fits(part, outside, results, builder):
                    # The next one is likely to be about as long.
                    counts = SHORTER[max(SHORTER.index(count) - 1, 0) :]
                    break
            else:
                raise Unserved("a step that is too much for a pass")
            start += count

    def _drop_last_read(self, places: set[int]) -> None:
        """Give each pass the positions of values that no later one reads, in place of its reads."""
        last = {place: i for i, (_, read) in enumerate(self.passes) for place in read}
        self.passes = [
            (fused, [self.index[place] for place in read if place in places and last[place] == i])
            for i, (fused, read) in enumerate(self.passes)
        ]

    def _fits(
        self,
        steps: Sequence[Step],
        read: Sequence[int],
        results: Sequence[Result],
        builder: Builder,
    ) -> bool:
        """Append a pass of these steps, unless they are too many for one."""
        check_shapes(builder.shapes_of(read), results, builder.axes)
        try:
            fused = Pass(
                tuple(map(str, read)),
                tuple(result.unit or str(result.value) for result in results),
                [
                    (NUMBERS[step.operation], *map(str, step.reads), *map(str, step.writes))
                    for step in steps
                ],
                [self.index[place] for place in read],
                [-1 if result.like is None else self.index[result.like] for result in results],
                self.constants,
            )
        except ValueError:
            return False
        self.passes.append((fused, read))
        self._place(result.place for result in results)
        return True

    def __call__(
        self, operands: tuple[Any, ...], outs: Any = None, rest: list[Any] | None = None
    ) -> Any:
        """The results in their order; None or `WARNS` where the nodes are to be run one by one.

        ``operands`` include the gradients of the outputs; for ``outs`` and ``rest`` see `Pass`.
        """
        passed = None if outs is None else self._outs_of_pass(outs)
        if passed is None and outs is not None:
            return None
        values = [*operands, *self.constants]
        if self.numbers:
            numbers = self.numbers(operands)
            if numbers is None:
                return None
            values += numbers
        # An operand in another order would decide that of a result which a later pass computes.
        if len(self.passes) > 1 and not all(values[i].flags.c_contiguous for i in self.arrays):
            return None
        if self.early or self.late:
            try:
                found = self._run(values, passed, None)
            except Exception:  # who runs the nodes one by one tells what it is, and of which node
                return None
        else:
            # In place an error must not be passed over: the operands may be gone by then.
            found = self._run(values, passed, rest)
        if found is not True:
            return found
        results = [values[i] for i in self.order]
        if outs is None:
            return tuple(results if self.are_apart else apart(results, operands))
        others = [one if out is None else None for one, out in zip(results, outs, strict=True)]
        return tuple(
            one if out is None else out
            for one, out in zip(apart(others, operands), outs, strict=True)
        )

    def as_pass(self) -> Pass:
        """The same without this class, which takes longer than a small pass."""
        fused, _ = self.passes[0]
        fused.numbers = self.numbers
        return fused

    def _outs_of_pass(self, outs: Sequence[Any]) -> list[Any] | None:
        """The outputs in the order of the pass's results; None if it does not compute them all."""
        passed = [None] * self.count
        if len(outs) != len(self.order) or len(self.passes) > 1:
            return None
        for i, out in zip(self.order, outs, strict=True):
            if out is not None:
                if not 0 <= i - self.first < self.count:
                    return None
                passed[i - self.first] = out
        return passed

    def _run(self, values: list[Any], outs: Any, rest: list[Any] | None) -> Any:
        """Append all that is computed to the values; True if that was done, else as a call."""
        if not compute(self.early, values):
            return WARNS
        for fused, dropped in self.passes:
            found = fused.run(values, outs, rest)
            if found is None or found is WARNS:
                return found
            values += found
            for i in dropped:
                values[i] = None
        return compute(self.late, values) or WARNS

    def _call(self, step: Step, silent: bool) -> Call:
        read = [self.index[place] for place in step.reads]
        if step.operation in attempts:
            return attempts[step.operation], read, (silent,)
        # An error where it would warn: who runs the nodes one by one warns, and once.
        return np.errstate(all="raise")(self.run[step.operation]), read, ()


def compute(calls: Sequence[Call], values: list[Any]) -> bool:
    """Append what functions return of earlier values; False where one returns None."""
    for function, read, silent in calls:
        value = function(*[values[i] for i in read], *silent)
        if value is None:
            return False
        values.append(value)
    return True


# How many steps a pass is tried with if all are too many.
SHORTER = (48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)


def check_shapes(shapes: Sequence[Shape], results: Sequence[Result], axes: int) -> None:
    """Raise `Unserved` if a pass cannot have the shapes, or the sums, that the layers have.

    Axes along which all operands run on are one to the engine. The bits of a sum depend on that. So
    it must be the same axes as when the layers compute that sum.
    """
    if not shapes or together(shapes) != FULL:
        raise Unserved("nothing of the whole shape")
    sums = [result for result in results if result.like is not None and not result.unit]
    likes = [shape for result in sums for shape in result.shapes]
    for axis, other in itertools.combinations(range(axes), 2):
        apart_here = not all(shape.merges(axis, other) for shape in (*shapes, *likes))
        for result in sums:
            if apart_here == all(shape.merges(axis, other) for shape in result.shapes):
                raise Unserved("sums over other axes than the layers' sums")


def function_of_numbers(builder: Builder, results: Iterable[int]) -> Any:
    """A function of the operands that computes results of Python numbers alone, as a tuple.

    It is compiled from the lines that one would write by hand. Where it would raise, it returns
    None: of which node the error is, is told by who runs the nodes one by one. It is also a plan,
    which has no arrays to write into outputs.
    """
    if not all(type(number) in (int, float) for number in builder.constants.values()):
        raise Unserved("a number of NumPy's may warn")
    lines = [f"{_list(range(len(builder.inputs)))} = operands"]
    for step in builder.numbers:
        written = OPERATIONS[step.operation].python
        if not written:
            raise Unserved(step.operation)
        line = written.format(*(f"v{place}" for place in step.reads))
        lines.append(f"v{step.writes[0]} = {line}")
    lines.append(f"return {_list(results)}")
    body = "\n        ".join(lines)
    source = (
        "def run(operands, outs=None, rest=None):\n    if outs:\n        return None\n"
        f"    try:\n        {body}\n    except Exception:\n        return None"
    )
    names: dict[str, Any] = {f"v{place}": number for place, number in builder.constants.items()}
    exec(source, names)
    function: Any = names["run"]
    function.only = None  # as a plan
    return function


def _list(places: Iterable[int]) -> str:
    return "(" + "".join(f"v{place}, " for place in places) + ")"
