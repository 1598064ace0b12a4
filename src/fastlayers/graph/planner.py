"""A graph's work as a schedule of passes and calls: which one serves operands, and how it is run.

What is asked for (tracing.py) is put in an order in which as much as possible of one shape is
computed at once: that is a pass over memory. All else is a call between passes.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import core
from .attribution import AtUsersLine
from .compounds import Step, joined, needed
from .interpreter import Request
from .nodes import Nodes
from .operations import OPERATIONS, Operations
from .results import apart, type_of_gradients
from .tracing import (
    BY_ROW,
    DROPPED,
    FULL,
    LENGTH_OF_ROWS,
    NUMBER,
    SCALAR,
    STEPS,
    Builder,
    Note,
    Shape,
    Unserved,
    Value,
    together,
    trace,
)

if core.passes is not None:
    from .._core.frontend.methods import MOST_VALUES, Entry
    from .._core.frontend.passes import WARNS, Pass

# Planning takes some 10 us a node for the value and 50 to 100 us for value and gradients, on the
# first call (a chain of 1,000 nodes, Xeon of the Sapphire Rapids family, beside other work).
MOST_NODES = 2_000

LAYOUTS: Any = getattr(core.operations, "LAYOUTS", {})
TOTAL: Any = getattr(core.operations, "TOTAL_FORM", None)
REDUCING: Any = getattr(core.operations, "REDUCING", {})

SILENT: Any = {"all": "ignore"}


def entry_of(
    graph: Nodes, run: Operations, value: bool = True, names: tuple[str, ...] | None = None
) -> Entry:
    """For the value of a whole graph, if asked for, and for the gradients by inputs, if named."""
    inputs = range(len(graph.inputs))
    values = graph.outputs if value else ()
    request = Request(graph, len(inputs), len(graph.nodes), inputs, values)
    if names is None:
        return entry(request, run, graph.single)
    wanted = [graph.inputs.index(name) for name in names]
    request = request._replace(begun=graph.outputs, wanted=wanted)
    return entry(request, run, graph.single, type_of_gradients(names))


def entry(request: Request, run: Operations, single: bool = False, gradients: Any = None) -> Entry:
    """For what is asked for, in a tuple; or gradients apart, as one of their own type.

    With ``single``, the value and what is given for its gradient are no tuples. An entry returns
    None where the nodes are to be run one by one.
    """

    def plan(kinds: list[Any], axes: int) -> Any:
        # Of no gradients, what is wrong with dout is told nevertheless.
        idle = request.begun and not request.wanted
        if idle or request.stop - request.start > MOST_NODES:
            return None
        ones = {place for place, kind in enumerate(kinds) if kind == "one"}
        builder = Builder([shape_of(kind) for kind in kinds], ones, axes)
        try:
            results = trace(request, builder)
            if all(value.shape == NUMBER for value in builder.inputs):
                return function_of_numbers(builder, builder.notes, results)
            made = Plan(builder, results, bool(request.values), run)
        except Unserved:
            return None
        return made.as_pass() if made.is_pass else made

    def finish(operands: Any, douts: Any, results: Any, rest: Any) -> None:
        try:
            finish_by_nodes(operands, douts, results, rest)
        except Exception as error:  # no memory, or a warning that somebody made an error
            parts = ", ".join(f"{start}:{stop}" for start, stop in rest)
            error.add_note(
                f"{request.graph.name}: of the outputs all is written but the elements {parts}, "
                f"counted in the order of memory; there the operands are as they were"
            )
            raise

    def finish_by_nodes(operands: Any, douts: Any, results: Any, rest: Any) -> None:
        here = AtUsersLine(run)
        with np.errstate(**({} if request.values else SILENT)):
            values = request.evaluate([part_of(operand, rest) for operand in operands], here)
        found = [values[place] for place in request.values]
        found += request.differentiate(values, [part_of(dout, rest) for dout in douts], here)
        for result, one in zip(results, found, strict=True):
            if isinstance(result, np.ndarray):
                put_back(one, result, rest)

    first = request.values if gradients else (*request.values, *request.wanted)
    counts = len(request.reads), len(request.begun), len(first)
    returns_operands = any(place < request.start for place in (*request.values, *request.begun))
    return Entry(plan, *counts, single, gradients, returns_operands, finish)


def shape_of(kind: Any) -> Shape:
    """The shape of an operand by its kind, as `Entry` tells it."""
    if isinstance(kind, tuple):
        return Shape(*kind)
    return SCALAR if kind == "scalar" else NUMBER


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


class Result(NamedTuple):
    """A result of a pass: its place, which value of the pass it is, to whose shape it is summed.

    One without a value is the sum of as many ``unit``, 1 or -1, as there are elements.
    """

    place: int
    value: int | None
    like: int | None = None
    unit: int = 0


class Part:
    """What is computed at once: steps of one shape and sums of their values, or calls."""

    def __init__(self, notes: Sequence[Note]) -> None:
        # Rows are reduced among other steps, and what they are reduced to is expanded again.
        self.of_rows = any(note.kind == "reduce" for note in notes)
        self.shape = FULL if self.of_rows else notes[0].shape
        self.kind = "step" if self.of_rows else notes[0].kind
        self.steps = [note for note in notes if note.kind != "sum" or self.of_rows]
        self.sums = [note for note in notes if note.kind == "sum" and not self.of_rows]
        self.totals = [note for note in notes if note.kind == "total"]
        if self.totals:
            self.kind = "step"
        self.stored: list[int] = []  # the places of steps that are read later, or results
        self.read: list[int] = []
        self.work: list[Step] = []

    @property
    def is_pass(self) -> bool:
        return self.kind in ("step", "sum", "total")

    def computes(self, place: int) -> bool:
        return any(note.place == place for note in self.steps)


def schedule(builder: Builder) -> list[Part]:
    """The notes in an order in which they can be computed, as few parts as that takes.

    Calls come as soon as they can, then what has the fewest axes: a pass of a larger shape then
    finds most of what it reads.
    """
    available = {*range(len(builder.inputs)), *builder.constants, *builder.length_of_rows}
    pending = list(builder.notes)
    if not {"sum", "reduce"}.isdisjoint(note.kind for note in pending):
        pending = [as_call(note, builder) if note.kind == "total" else note for note in pending]
    parts = []
    while pending:
        notes = _ready(pending, available)
        if not notes:
            raise Unserved("what is read is never computed")
        available.update(note.place for note in notes)
        taken = set(map(id, notes))
        pending = [note for note in pending if id(note) not in taken]
        parts.append(Part(notes))
    return parts


def as_call(total: Note, builder: Builder) -> Note:
    """A sum of all elements that are stored, since its pass adds up others in another order."""
    if builder.shapes[total.reads[0]] != FULL:
        raise Unserved("a sum of a number that was only thought of as an array")
    return total._replace(kind="call", operation="sum")


def _ready(pending: Sequence[Note], available: set[int]) -> list[Note]:
    for note in pending:
        if note.kind == "call" and available.issuperset(note.reads):
            return [note]
    if found := _closure([note for note in pending if note.kind == "number"], available):
        return found
    passes = [note for note in pending if note.kind in ("step", "sum", "total")]
    if any(note.kind == "reduce" for note in pending):
        passes = [note for note in passes if note.shape not in (FULL, BY_ROW, DROPPED)]
        if not (found := _closure(passes, available)):
            return _rows(pending, available)
        passes = found
    shapes = {note.shape for note in passes}
    for shape in sorted(shapes, key=lambda one: (-one.lead, -one.repeated.bit_count())):
        if found := _closure([note for note in passes if note.shape == shape], available):
            return found
    return []


def _closure(notes: Sequence[Note], available: set[int]) -> list[Note]:
    """Those of the notes that read what is available, or what others of them compute."""
    inside = set(available)
    found = []
    for note in notes:
        if note.kind == "sum":
            if note.reads[1] in available and (note.unit or note.reads[0] in inside):
                found.append(note)
        elif inside.issuperset(note.reads):
            if note.kind != "total":  # which is known at the end of the pass
                inside.add(note.place)
            found.append(note)
    return found


def _rows(pending: Sequence[Note], available: set[int]) -> list[Note]:
    """All that a pass over whole rows can compute; it must reduce all that are to be reduced."""
    inside = set(available)
    found = []
    for note in pending:
        if note.shape not in (FULL, BY_ROW, DROPPED) or not inside.issuperset(note.reads):
            continue
        if note.kind in ("step", "reduce") or (
            note.kind == "sum" and not note.unit and note.result == BY_ROW
        ):
            inside.add(note.place)
            found.append(note)
    if any(note.kind == "reduce" and note.place not in inside for note in pending):
        raise Unserved("rows that are reduced after another pass")
    return found


# A function of whole values, by their positions; whether it returns several values.
Call = tuple[Callable[..., Any], Sequence[int], bool]


class Plan:
    """A graph's values and gradients on operands of certain kinds: passes and calls, in order.

    Attributes
    ----------
    only : Pass or None
        The pass of the largest shape, if it is the only one. It may write results into outputs.
    is_pass : bool
        Whether there is nothing else, but numbers that are computed before it.

    Parameters
    ----------
    builder : Builder
        Which has noted what is to be computed, of operands and the outputs' gradients.
    results : list of Value
    values : bool
        Whether the outputs' values are among the results. All that is asked for them may warn then,
        whether a result depends on it or not.
    run : mapping
        The operations for calls.

    Raises
    ------
    Unserved
        If passes cannot do it.
    """

    def __init__(
        self, builder: Builder, results: list[Value], values: bool, run: Operations
    ) -> None:
        self._builder, self._run_by = builder, run
        builder.value_of(1)  # for values that are stored twice
        forward = [note.place for note in builder.notes[: builder.forward]]
        self._loud = set(forward[builder.quiet :]) if values else set()
        self._silent = set(forward) - self._loud
        parts = schedule(builder)
        self._results = [self._stored(result, parts) for result in results]
        parts = self._needed(parts)
        self.constants = tuple(builder.constants.values())
        self._index: dict[int, int] = {}
        self.instructions: list[tuple[Pass | Call, Sequence[int]]] = []
        self._reads: list[Sequence[int]] = []  # of each instruction, by their places
        self._place(range(len(builder.inputs)))
        self._place(builder.constants)
        self._new: set[int] = set()
        self._passes: list[tuple[Pass, Shape, range]] = []  # with the positions of their results
        for part in parts:
            if part.is_pass:
                self._add_passes(part)
            else:
                self._add_calls(part)
        if not self.instructions:
            raise Unserved("nothing to compute")
        largest = [(one, writes) for one, shape, writes in self._passes if shape == FULL]
        self.only: Any = None
        self.computed = range(0)  # the positions of its results
        if len(largest) == 1:
            self.only, self.computed = largest[0]
        self.order = [self._index[place] for place in self._results]
        self.in_order = len(self._passes) > len({shape for _, shape, _ in self._passes})
        # What is not new, as an operand, may be another result, too.
        distinct = set(self._results)
        self.are_apart = distinct <= self._new and len(distinct) == len(results)
        kinds = [part.kind for part in parts]
        self.is_pass = (
            self.only is not None
            and self.instructions[-1][0] is self.only
            and (len(kinds) == 1 or kinds[:-1] == ["number"])
            and self.computed.start <= MOST_VALUES
            and self.order == list(self.computed)
        )
        self._drop_last_read()
        self.arrays = [value.place for value in builder.inputs if value.has_axes]
        del self._builder, self._run_by, self._index, self._reads, self._results, self._passes

    def _stored(self, result: Value, parts: list[Part]) -> int:
        """The place of a result as a value of its own; what has no axes stays what it is."""
        place, shape = result
        if not result.has_axes:
            return place
        builder = self._builder
        first = 0  # part in which it is known
        for i, part in enumerate(parts):
            if any(note.place == place for note in part.sums):
                if builder.shapes[place] == shape:
                    return place
                first = i + 1
            elif part.computes(place):
                if builder.shapes[place] == shape and not part.is_pass:
                    return place
                if builder.shapes[place] == shape and place not in part.stored:
                    part.stored.append(place)
                    return place
                first = i
        # An operand, a number at every element, or a result once more.
        double = builder.double(place, shape)
        for part in parts[first:]:
            if part.is_pass and part.shape == shape:
                break
        else:
            part = Part([double])
            part.steps = []
            parts.append(part)
        part.steps.append(double)
        part.stored.append(double.place)
        return double.place

    def _needed(self, parts: list[Part]) -> list[Part]:
        """Leave out steps and sums that no result depends on, and that may not warn.

        Calls and numbers are all made, and of steps that are left out what they read stays: it may
        change the dtype.
        """
        wanted = set(self._results)
        always = {*range(len(self._builder.inputs)), *self._builder.constants}
        always.update(note.place for part in parts if not part.is_pass for note in part.steps)
        kept = []
        for part in reversed(parts):
            if not part.is_pass:
                wanted.update(place for note in part.steps for place in note.reads)
                kept.append(part)
                continue
            every = [step_of(note) for note in part.steps]
            computed = {note.place for note in part.steps}
            part.sums = [note for note in part.sums if note.place in wanted]
            part.stored += [
                note.place
                for note in part.steps
                if note.place in wanted and note.place not in part.stored
            ]
            if not part.steps and not part.sums:
                continue
            kept.append(part)
            summed = [note.reads[0] for note in part.sums if not note.unit]
            part.work = needed(every, {*part.stored, *summed}, self._loud)
            if not part.stored and not summed:
                part.work = part.work or every
                part.stored += [step.writes[0] for step in part.work[-1:]]
            read = [place for step in part.work for place in step.reads] + summed
            wanted.update(place for place in read if place not in computed)
            wanted.update(note.reads[1] for note in part.sums)
            part.read = [
                place
                for place in dict.fromkeys(place for step in every for place in step.reads)
                if place not in computed and (place in wanted or place in always)
            ]
        return kept[::-1]

    def _place(self, places: Iterable[int]) -> None:
        """Give values the next positions among all that there are when the plan is run."""
        for place in places:
            self._index[place] = len(self._index)

    def _add(self, what: Pass | Call, reads: Sequence[int], writes: Sequence[int]) -> None:
        self.instructions.append((what, ()))
        self._reads.append(reads)
        self._place(writes)

    def _add_calls(self, part: Part) -> None:
        if part.kind == "number":
            function = function_of_numbers(self._builder, part.steps, None, self._index)
            reads = [place for note in part.steps for place in note.reads]
            self._add((function, (), True), reads, [note.place for note in part.steps])
            return
        for note in part.steps:
            self._add_call(note.operation, note.reads, note.place)

    def _add_call(self, operation: str, reads: Sequence[int], place: int) -> None:
        if any(read not in self._index for read in reads):
            raise Unserved("a value that exists in passes alone")
        function = self._run_by[operation]
        if operation == "sum":  # part of a network, which has seen to what NumPy would warn of
            function = functools.partial(np.add.reduce, axis=None)
            self._new.add(place)
        else:
            # An error where it would warn: who runs the nodes one by one warns, and once.
            modes: Any = {"all": "ignore" if place in self._silent else "raise"}
            function = np.errstate(**modes)(function)
        self._add((function, [self._index[read] for read in reads], False), reads, [place])

    def _add_passes(self, part: Part) -> None:
        """Add a part's steps as one pass or, if that is too long, as several; and its sums."""
        builder = self._builder
        order = {place: i for i, place in reversed(list(enumerate(self._results)))}
        steps, read = list(part.work), list(part.read)
        computed = {step.writes[0] for step in steps}

        def double(place: int) -> int:
            note = builder.double(place, part.shape)
            steps.append(Step(note.operation, note.reads, (note.place,)))
            read.extend(one for one in note.reads if one not in computed and one not in read)
            return note.place

        for i, step in reversed(list(enumerate(steps))):
            # What is reduced must be there element by element.
            if step.operation.startswith(REDUCTIONS) and builder.shapes[step.reads[0]] != FULL:
                place = double(step.reads[0])
                steps[i : i + 1] = [steps.pop(), step._replace(reads=(place,))]

        summed = set(part.stored)
        results = [Result(place, place) for place in summed]
        totals = {note.place for note in part.totals}
        results = [one._replace(value=None) if one.place in totals else one for one in results]
        for note in part.sums:
            value, like = note.reads
            if note.unit:
                results.append(Result(note.place, None, like, unit=note.unit))
                continue
            if value not in computed or value in summed:
                value = double(value)
            summed.add(value)
            results.append(Result(note.place, value, like))
        results.sort(key=lambda one: order.get(one.place, len(order)))
        # Totals are told apart by the order of their steps.
        places = [one.place for one in results if one.place in totals]
        at = {place: i for i, place in enumerate(places)}
        steps.sort(key=lambda one: at.get(one.writes[0], -1))
        if all(one.unit for one in results):
            raise Unserved("nothing to compute")
        asked = {one.value for one in results if one.value is not None}
        numbers = {place for place in read if not Value(place, builder.shapes[place]).has_axes}
        if not part.of_rows:
            steps = joined(steps, numbers, asked)
        if len(steps) == 1 and set(read) == set(steps[0].reads):
            read = list(dict.fromkeys(steps[0].reads))  # in this order a single step needs no tiles
        self._new.update(one.place for one in results)
        if part.of_rows:
            if not self._fits(part.shape, self._expanded(steps), read, results, True):
                raise Unserved("too much for a pass over whole rows")
            return
        self._cut(part.shape, steps, read, results)

    def _expanded(self, steps: Sequence[Step]) -> list[Step]:
        """Steps that read, of what is there for each row, what `expand` makes of it."""
        shapes, expanded, found = self._builder.shapes, {}, []
        for step in steps:
            if shapes[step.writes[0]] == FULL and step.operation != "expand":
                for place in step.reads:
                    if shapes[place] in (BY_ROW, DROPPED) and place not in expanded:
                        if place in self._builder.bools:
                            raise Unserved("bools for each row")
                        expanded[place] = self._builder.new(FULL).place
                        found.append(Step("expand", (place,), (expanded[place],)))
                reads = tuple([expanded.get(place, place) for place in step.reads])
                step = step._replace(reads=reads)
            found.append(step)
        return found

    def _cut(self, shape: Shape, steps: list[Step], read: list[int], done: list[Result]) -> None:
        """Add a pass or, if that is too long, several one after the other."""
        builder = self._builder
        if self._fits(shape, steps, read, done):
            return
        used = {place for step in steps for place in step.reads}
        if any(place not in used and builder.shapes[place] == NUMBER for place in read):
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
                        self._let_cross(place, shape, part, results)
                if all(result.unit for result in results):  # it may warn: nothing else is asked
                    self._let_cross(written[-1], shape, part, results)
                reads = dict.fromkeys(place for step in part for place in step.reads)
                outside = [place for place in reads if place in self._index]
                if self._fits(shape, part, outside, results):
                    # The next one is likely to be about as long.
                    counts = SHORTER[max(SHORTER.index(count) - 1, 0) :]
                    break
            else:
                raise Unserved("a step that is too much for a pass")
            start += count

    def _let_cross(
        self, place: int, shape: Shape, steps: list[Step], results: list[Result]
    ) -> None:
        """Have a pass of these steps store a value, too, which a later pass reads."""
        own = [result for result in results if result.value == place]
        if any(result.like is None for result in own):
            return
        value = place
        if own:  # it is summed
            note = self._builder.double(place, shape)
            steps.append(Step(note.operation, note.reads, (note.place,)))
            value = note.place
        results.append(Result(place, value))

    def _fits(
        self,
        shape: Shape,
        steps: Sequence[Step],
        read: Sequence[int],
        results: Sequence[Result],
        of_rows: bool = False,
    ) -> bool:
        """Add a pass of these steps, unless they are too many for one."""
        if together(self._builder.shapes[place] for place in read) != shape:
            raise Unserved("nothing of the whole shape")
        if len(steps) > MOST_STEPS:
            return False
        if not self._builder.bools.isdisjoint([one.value for one in results]):
            raise Unserved("bools that are read outside of the pass which computes them")
        length = self._builder.length_of_rows
        if not of_rows and any(not length.isdisjoint(step.reads) for step in steps):
            raise Unserved("the length of rows, in a pass that does not know it")
        read = [place for place in read if place not in length]
        layouts = None
        if of_rows:
            places = {*read, *(place for step in steps for place in (*step.reads, *step.writes))}
            layouts = {str(place): layout_of(self._builder.shapes[place]) for place in places}
        named: Any = dict.fromkeys(length, LENGTH_OF_ROWS)
        singles = [str(place) for place in read if self._builder.is_single(place)]
        try:
            fused = Pass(
                tuple(map(str, read)),
                tuple(
                    result.unit or (None if result.value is None else str(result.value))
                    for result in results
                ),
                [
                    (
                        self._code_of(step),
                        *(named.get(place, str(place)) for place in step.reads),
                        *map(str, () if step.operation.startswith("total: ") else step.writes),
                    )
                    for step in steps
                ],
                [self._index[place] for place in read],
                [-1 if result.like is None else self._index[result.like] for result in results],
                self.constants,
                layouts,
                self._builder.ordered,
                frozenset(singles),
            )
        except ValueError:
            return False
        if self._builder.loops or self._builder.of_floats:
            fused.refuse_integers()
        likes = [result.like for result in results if result.like is not None]
        start = len(self._index)
        self._add(fused, [*read, *likes], [result.place for result in results])
        self._passes.append((fused, shape, range(start, len(self._index))))
        return True

    def _code_of(self, step: Step) -> Any:
        """What a pass takes for a step's operation: a number of the engine's, or loops."""
        loops = self._builder.loops
        kind, _, operation = step.operation.rpartition(": ")
        if kind:  # "reduce: add xx"
            form = TOTAL if kind == "total" else REDUCING[operation.split()[0]]
            return loops[operation], form
        if operation in ("row_sum", "expand"):
            return operation
        return loops[operation] if operation in loops else STEPS[operation]

    def _drop_last_read(self) -> None:
        """Give each instruction the positions of computed values that no later one reads."""
        last = {place: i for i, reads in enumerate(self._reads) for place in reads}
        known = {*range(len(self._builder.inputs)), *self._builder.constants, *self._results}
        dropped: dict[int, list[int]] = defaultdict(list)
        for place, i in last.items():
            if place not in known:
                dropped[i].append(self._index[place])
        self.instructions = [(what, dropped[i]) for i, (what, _) in enumerate(self.instructions)]

    def __call__(
        self, operands: tuple[Any, ...], outs: Any = None, rest: list[Any] | None = None
    ) -> Any:
        """The results in their order; None or `WARNS` where the nodes are to be run one by one.

        ``operands`` include the gradients of the outputs; for ``outs`` and ``rest`` see `Pass`.
        """
        passed = None if outs is None else self._outs_of_pass(outs)
        if passed is None and outs is not None:
            return None
        # An operand in another order would decide that of a result which a later pass computes.
        if self.in_order and not all(operands[i].flags.c_contiguous for i in self.arrays):
            return None
        values = [*operands, *self.constants]
        # In place nothing may fail after the pass: the operands may be gone by then.
        in_place = rest if self.instructions[-1][0] is self.only else None
        for what, dropped in self.instructions:
            if isinstance(what, Pass):
                found = (
                    what.run(values, passed, in_place) if what is self.only else what.run(values)
                )
                if found is None or found is WARNS:
                    return found
                values += found
            else:
                function, reads, several = what
                try:
                    found = function(values) if several else function(*[values[i] for i in reads])
                except FloatingPointError:
                    return WARNS
                except Exception:  # who runs the nodes one by one tells which node it is of
                    return None
                if several:
                    if found is None:
                        return None
                    values += found
                else:
                    values.append(found)
            for i in dropped:
                values[i] = None
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
        fused: Any = self.only
        what: Any = self.instructions[0][0]
        fused.numbers = None if what is fused else what[0]
        return fused

    def _outs_of_pass(self, outs: Sequence[Any]) -> list[Any] | None:
        """The outputs in the order of the pass's results; None if it does not compute them all."""
        if len(outs) != len(self.order):
            return None
        passed = [None] * len(self.computed)
        for i, out in zip(self.order, outs, strict=True):
            if out is not None:
                if i not in self.computed:
                    return None
                passed[i - self.computed.start] = out
        return passed


# How the names of steps that reduce begin.
REDUCTIONS = "reduce: ", "total: ", "row_sum"


def step_of(note: Note) -> Step:
    if note.kind == "sum":  # in a pass over whole rows
        return Step("row_sum", note.reads[:1], (note.place,))
    operation = note.operation
    if note.kind in ("reduce", "total"):
        operation = f"{note.kind}: {note.operation}"
    return Step(operation, note.reads, (note.place,))


def layout_of(shape: Shape) -> Any:
    """How a value lies in a pass over whole rows."""
    name = {FULL: "whole", BY_ROW: "by_row", DROPPED: "dropped"}.get(shape, "repeated")
    if name == "repeated" and shape not in (NUMBER, SCALAR) and shape.repeated & 1:
        raise Unserved("an operand that is repeated within rows, and otherwise")
    return LAYOUTS[name]


# The most steps of a pass, and with how many it is tried if all are too many.
MOST_STEPS = 128
SHORTER = (96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)


def function_of_numbers(
    builder: Builder,
    notes: Sequence[Note],
    results: Sequence[Value] | None = None,
    index: Mapping[int, int] | None = None,
) -> Any:
    """A function of the values that computes Python numbers, as a tuple: results, or all of them.

    It is compiled from the lines that one would write by hand. Where it would raise, it returns
    None: of which node the error is, is told by who runs the nodes one by one. It is also a plan,
    which has no arrays to write into outputs.
    """
    if not all(type(number) in (int, float) for number in builder.constants.values()):
        raise Unserved("a number of NumPy's may warn")
    index = index or {place: place for place in range(len(builder.inputs))}
    lines = []
    written = {note.place for note in notes}
    for note in notes:
        if note.kind != "number":
            raise Unserved(note.operation)
        line = OPERATIONS[note.operation].python.format(*(f"v{place}" for place in note.reads))
        lines.append(f"v{note.place} = {line}")
    returned = [note.place for note in notes] if results is None else [one.place for one in results]
    places = dict.fromkeys([place for note in notes for place in note.reads] + returned)
    given = [place for place in places if place not in written and place not in builder.constants]
    lines[:0] = [f"v{place} = values[{index[place]}]" for place in given]
    lines.append("return (" + "".join(f"v{place}, " for place in returned) + ")")
    body = "\n        ".join(lines)
    source = (
        "def run(values, outs=None, rest=None):\n    if outs:\n        return None\n"
        f"    try:\n        {body}\n    except Exception:\n        return None"
    )
    names: dict[str, Any] = {f"v{place}": number for place, number in builder.constants.items()}
    exec(source, names)
    function: Any = names.pop("run")  # no cycle
    function.only = None  # as a plan
    return function
