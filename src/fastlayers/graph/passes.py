"""A graph's work as a pass over memory: which nodes are one, and what is done before and after.

`reference.evaluate` and `reference.differentiate` are given values that know their kind alone, and
operations that note what is asked of them: what is of numbers is computed before the pass, what is
of sums after it, and all between by the pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import ops, reference
from .nodes import FORMATS, Nodes, key_of
from .results import apart, type_of_gradients

COMPILED = ops.IMPLEMENTATION == "native"

if COMPILED:
    from .._core.frontend.passes import Entry, Pass
    from .._core.program.operations import NUMBERS


# What operands are, as `Entry` tells; and what comes of them: numbers and sums after the pass.
NUMBER, WHOLE, SMALL, ONE, LATE = range(5)


# What is longer than this before steps are joined is not for one pass.
MOST_STEPS = 200


class Unserved(Exception):
    """The graph cannot be run in one pass on such operands."""


class Value(NamedTuple):
    """A value by its place among all, and its kind. WHOLE, it may be a number at each element."""

    place: int
    kind: int


class Step(NamedTuple):
    """An operation, the places of what it reads, and of what it computes."""

    operation: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]


class Builder(dict[str, Callable[..., Any]]):
    """Operations that note what is asked of them.

    What is of numbers and small arrays alone is ``early``, what is of sums ``late``; ``steps`` are
    the pass. ``constants`` are numbers that stand in the graph, by their places; ``sums`` what is
    summed: the place of the sum, that of the value, that of the operand to whose shape.
    """

    def __init__(self, kinds: Sequence[int]) -> None:
        self.inputs = [Value(i, NUMBER if kind == ONE else kind) for i, kind in enumerate(kinds)]
        self.ones = {place for place, kind in enumerate(kinds) if kind == ONE}
        self.small = {place for place, kind in enumerate(kinds) if kind == SMALL}
        self.places = len(kinds)
        self.constants: dict[int, Any] = {}
        self._known: dict[Any, Value] = {}
        self.early: list[Step] = []
        self.steps: list[Step] = []
        self.forward: list[Step] = []
        self.late: list[Step] = []
        self.sums: list[tuple[int, int, int]] = []

    def __missing__(self, operation: str) -> Callable[..., Value]:
        # Nothing is kept here: that would be a cycle, and wait for the garbage collector.
        special: Callable[..., Value] | None = getattr(self, f"_{operation}", None)
        return special or (lambda *operands: self._note(operation, *operands))

    def _new(self, kind: int) -> Value:
        self.places += 1
        return Value(self.places - 1, kind)

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
        kinds = {value.kind for value in values}
        if WHOLE in kinds:
            if LATE in kinds or operation not in NUMBERS:
                raise Unserved(operation)
            kind, steps = WHOLE, self.steps
        elif LATE in kinds:
            kind, steps = LATE, self.late
        else:
            kind, steps = max(kinds), self.early
        result = self._new(kind)
        if kind == SMALL:
            self.small.add(result.place)
        steps.append(Step(operation, tuple(value.place for value in values), (result.place,)))
        return result

    def _multiply(self, x: Any, y: Any) -> Value:
        values = self.value_of(x), self.value_of(y)
        for value, other in (values, values[::-1]):
            if other.place in self.ones and (
                value.kind == WHOLE or (other.kind == NUMBER and self._is_plain(value))
            ):
                return value
        return self._note("multiply", *values)

    def _is_plain(self, value: Value) -> bool:
        """Whether a value is an int or a float: those that are given are, and their products."""
        numbers = (type(number) for number in self.constants.values())
        return value.kind == NUMBER and all(one in (int, float) for one in numbers)

    def _positive(self, x: Any) -> Value:
        return self._multiply(x, 1)

    def _zeros_like(self, x: Any) -> Value:
        value = self.value_of(x)
        return self.value_of(0) if value.kind == NUMBER else self._note("zeros_like", value)

    def _multiply_to(self, dout: Any, factor: Any, to: Any) -> Value:
        values = self.value_of(dout), self.value_of(factor), self.value_of(to)
        kinds = {value.kind for value in values}
        if WHOLE in kinds or kinds == {NUMBER}:
            return self._sum_to(self._multiply(*values[:2]), to)
        return self._note("multiply_to", *values)

    def _sum_to(self, summed: Any, to: Any, other: Any = None) -> Value:
        value, like = self.value_of(summed), self.value_of(to)
        if value.kind == like.kind != LATE:
            return value
        if value.kind == LATE and like.kind != WHOLE:
            return self._note("sum_to", value, like)
        if value.kind != WHOLE or like.kind == LATE:
            raise Unserved("sum_to")
        result = self._new(LATE)
        self.sums.append((result.place, value.place, like.place))
        return result

    def _broadcast_to(self, broadcast: Any, to: Any) -> Value:
        value, like = self.value_of(broadcast), self.value_of(to)
        if value.kind == NUMBER and like.kind == WHOLE:
            return Value(value.place, WHOLE)
        if value.kind == like.kind:
            return value
        return self._note("broadcast_to", value, like)

    def apart(self, place: int, done: Sequence[Result]) -> int:
        """The value, or its double: if it is not computed here, or a result already."""
        computed = any(place in step.writes for step in self.steps)
        if computed and all(place != result.value for result in done):
            return place
        double = self._new(WHOLE)
        self.steps.append(Step("multiply", (place, self.value_of(1).place), (double.place,)))
        return double.place


def of_numbers(
    graph: Nodes, kinds: Sequence[int], values: bool, wanted: Sequence[int]
) -> Callable[..., Any]:
    """A plan, like `Plan`, for values and gradients of Python numbers, which it does not write out.

    It is compiled from the lines that one would write by hand. Where it would raise, it returns
    None: of which node the error is, is told by who runs the nodes one by one.
    """
    builder = Builder(kinds)
    results = _results(graph, builder, values, wanted)
    if any(type(number) not in (int, float) for number in builder.constants.values()):
        raise Unserved("a number of NumPy's")
    lines = [f"{_list(range(len(kinds)))} = operands"]
    for step in builder.early:
        line = FORMATS[step.operation].format(*(f"v{place}" for place in step.reads))
        lines.append(f"v{step.writes[0]} = {line}")
    lines.append(f"return {_list(result.place for result in results)}")
    body = "\n        ".join(lines)
    source = (
        "def run(operands, outs, rest):\n    if outs:\n        return None\n"
        f"    try:\n        {body}\n    except Exception:\n        return None"
    )
    names: dict[str, Any] = {f"v{place}": number for place, number in builder.constants.items()}
    exec(source, names)
    function: Callable[..., Any] = names["run"]
    return function


def _list(places: Iterable[int]) -> str:
    return "(" + "".join(f"v{place}, " for place in places) + ")"


class Result(NamedTuple):
    """A result of a pass: which value it is, its place among all, to whose shape it is summed."""

    value: int
    place: int
    like: int | None = None


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

    def __init__(self, graph: Nodes, run: reference.Operations) -> None:
        self._graph, self._run = graph, run
        self._others: dict[tuple[str, ...], Entry] = {}
        self.value = self._entry(True, None)
        self.gradients = self._entry(False, graph.inputs)
        self.both = self._entry(True, graph.inputs)

    def by(self, names: tuple[str, ...]) -> Entry:
        """For the value and the gradients by some inputs."""
        if names not in self._others:
            self._others[names] = self._entry(True, names)
        return self._others[names]

    def _entry(self, values: bool, names: tuple[str, ...] | None) -> Entry:
        graph, run = self._graph, self._run
        wanted = [graph.inputs.index(name) for name in names or ()]

        def plan(kinds: list[int]) -> Any:
            if names == ():
                return None  # what is wrong with dout is told nevertheless
            try:
                if WHOLE not in kinds:
                    return of_numbers(graph, kinds, values, wanted)
                made = Plan(graph, kinds, values, wanted, run)
            except Unserved:
                return None
            return made.fused if made.simple else made

        def finish(operands: Any, douts: Any, results: Any, rest: Any) -> None:
            parts = [part_of(operand, rest) for operand in operands]
            with np.errstate(**({} if values else SILENT)):
                evaluated = reference.evaluate(graph, parts, run, range(len(graph.nodes)))
            found = [evaluated[output] for output in graph.outputs] if values else []
            if wanted:
                begun = [
                    run["broadcast_to"](part_of(dout, rest), evaluated[output])
                    for dout, output in zip(douts, graph.outputs, strict=True)
                ]
                reached = reference.reached(graph, wanted)
                gradients = reference.differentiate(graph, evaluated, begun, reached, run)
                found += [gradients[i] for i in wanted]
            for result, one in zip(results, found, strict=True):
                if isinstance(result, np.ndarray):
                    put_back(one, result, rest)

        gradients = None if names is None else type_of_gradients(names)
        inputs, outputs = len(graph.inputs), len(graph.outputs)
        return Entry(plan, inputs, outputs, graph.single, values, gradients, finish)


Rest = Sequence[tuple[int, int]]


def part_of(operand: Any, rest: Rest) -> Any:
    """The elements of an operand that a pass in place has left out."""
    if not isinstance(operand, np.ndarray):
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


class Plan:
    """A graph's values and gradients on operands of certain kinds, in one pass.

    Parameters
    ----------
    graph : Nodes
        Of which no node is a layer of one's own.
    kinds : sequence of int
        Of the operands, then of the gradients of the outputs if there are any.
    values : bool
        Whether the outputs' values are results.
    wanted : sequence of int
        The inputs whose gradients are results.
    run : mapping
        What is computed before and after the pass is computed by these operations.

    Raises
    ------
    Unserved
        If one pass cannot do it.
    """

    def __init__(
        self,
        graph: Nodes,
        kinds: Sequence[int],
        values: bool,
        wanted: Sequence[int],
        run: reference.Operations,
    ) -> None:
        builder = Builder(kinds)
        results = _results(graph, builder, values, wanted)
        if len(builder.steps) > MOST_STEPS:
            raise Unserved("too many steps")
        done: list[Result] = []
        for i, result in enumerate(results):
            if result.kind == WHOLE:
                value = builder.apart(result.place, done)
                done.append(Result(value, value))
                results[i] = Value(value, WHOLE)
        if builder.small and any(like not in builder.small for *_, like in builder.sums):
            # The layers run over all elements as one row then, where a pass has rows.
            raise Unserved("sums to several shapes")
        for total, value, like in builder.sums:
            done.append(Result(builder.apart(value, done), total, like))
        # All that is asked for the value may warn, whether a result depends on it or not.
        loud = builder.forward if values else ()
        steps = needed(builder.steps, {result.value for result in done}, loud)
        # Also what no result is computed of: it may change their dtype, and their memory order.
        computed = {place for step in builder.steps for place in step.writes}
        read = dict.fromkeys(p for step in builder.steps for p in step.reads if p not in computed)
        if all(kinds[place] != WHOLE for place in read if place < len(kinds)):
            raise Unserved("nothing of the whole shape")
        self.run = run
        self.silent = not values
        self.early, self.late = builder.early, builder.late
        self.constants = tuple(builder.constants.values())
        places = [
            *range(len(kinds)),
            *builder.constants,
            *(step.writes[0] for step in builder.early),
            *(result.place for result in done),
            *(step.writes[0] for step in builder.late),
        ]
        self.index = {place: i for i, place in enumerate(places)}
        self.order = [self.index[result.place] for result in results]
        self.first = len(kinds) + len(self.constants) + len(self.early)
        self.count = len(done)
        self.simple = not (self.early or self.late) and (
            self.order == list(range(self.first, self.first + self.count))
        )
        arrays = {place for place, kind in enumerate(kinds) if kind == WHOLE} | builder.small
        try:
            self.fused = Pass(
                tuple(map(str, read)),
                tuple(str(result.value) for result in done),
                [
                    (NUMBERS[step.operation], *map(str, step.reads), *map(str, step.writes))
                    for step in joined(steps, set(read) - arrays, {result.value for result in done})
                ],
                [self.index[place] for place in read],
                [-1 if result.like is None else self.index[result.like] for result in done],
                self.constants,
            )
        except ValueError as error:  # too long
            raise Unserved(str(error)) from None

    def __call__(self, operands: tuple[Any, ...], outs: Any, rest: list[Any]) -> Any:
        """The results in their order; None where the nodes are to be run one by one.

        ``operands`` include the gradients of the outputs; for ``outs`` and ``rest`` see `Pass`.
        """
        values = [*operands, *self.constants]
        passed = None if outs is None else self._outs_of_pass(outs)
        if passed is None and outs is not None:
            return None
        try:
            self._compute(self.early, values, self.silent)
            found = self.fused.run(tuple(values), passed, rest)
            if found is None:
                return None
            values += found
            self._compute(self.late, values, False)
        except Exception:  # what it is and of which node is told by who runs the nodes one by one
            return None
        results = [values[i] for i in self.order]
        if outs is None:
            return tuple(apart(results, operands))
        others = [one if out is None else None for one, out in zip(results, outs, strict=True)]
        return tuple(
            one if out is None else out
            for one, out in zip(apart(others, operands), outs, strict=True)
        )

    def _outs_of_pass(self, outs: Sequence[Any]) -> list[Any] | None:
        """The outputs in the order of the pass's results; None if it does not compute them all."""
        passed = [None] * self.count
        if len(outs) != len(self.order):
            return None
        for i, out in zip(self.order, outs, strict=True):
            if out is not None:
                if not 0 <= i - self.first < self.count:
                    return None
                passed[i - self.first] = out
        return passed

    def _compute(self, steps: Sequence[Step], values: list[Any], silent: bool) -> None:
        if not steps:
            return
        with np.errstate(**(SILENT if silent else _raised())):
            for step in steps:
                operands = [values[self.index[place]] for place in step.reads]
                values.append(self.run[step.operation](*operands))


def _results(graph: Nodes, builder: Builder, values: bool, wanted: Sequence[int]) -> list[Value]:
    """The outputs' values, if they are asked for, and the gradients of the inputs wanted."""
    count = len(graph.inputs)
    everything = reference.evaluate(graph, builder.inputs[:count], builder)
    builder.forward = list(builder.steps)
    results = [builder.value_of(everything[output]) for output in graph.outputs] if values else []
    if wanted:
        if any(
            value.kind == SMALL
            for value in (builder.value_of(everything[o]) for o in graph.outputs)
        ):
            raise Unserved("a gradient of a small shape to begin with")
        douts = [
            builder["broadcast_to"](dout, everything[output])
            for dout, output in zip(builder.inputs[count:], graph.outputs, strict=True)
        ]
        reached = reference.reached(graph, wanted)
        gradients = reference.differentiate(graph, everything, douts, reached, builder)
        results += [
            builder["zeros_like"](builder.inputs[i])
            if gradients[i] is None
            else builder.value_of(gradients[i])
            for i in wanted
        ]
    return results


SILENT: Any = {"all": "ignore"}


def _raised() -> Any:
    """Modes in which an error is whatever the user wants to hear of."""
    modes = np.geterr()
    return {name: "ignore" if mode == "ignore" else "raise" for name, mode in modes.items()}


def needed(steps: Sequence[Step], results: set[int], loud: Sequence[Step]) -> list[Step]:
    """The steps that results depend on, and those that are loud."""
    wanted = set(results)
    kept = []
    for step in reversed(steps):
        if step in loud or not wanted.isdisjoint(step.writes):
            wanted.update(step.reads)
            kept.append(step)
    return kept[::-1]


# What a sum or a difference is with products for operands: for both, the first, the second.
COMPOUNDS = {
    "add": ("add_products", "multiply_add", "multiply_add"),
    "subtract": ("subtract_products", "multiply_subtract", "subtract_product"),
}


def joined(steps: Sequence[Step], numbers: set[int], results: set[int]) -> list[Step]:
    """Steps of which several that are quicker together are one; each of them is rounded as before.

    Sums of products that nothing else reads, then products of one gradient: ``(g * y, g * x)``.
    """
    uses = Counter(place for step in steps for place in step.reads)
    products = {
        step.writes[0]: step
        for step in steps
        if step.operation == "multiply"
        and uses[step.writes[0]] == 1
        and step.writes[0] not in results
    }
    absorbed: set[int] = set()
    found = []
    for step in steps:
        if step.operation in COMPOUNDS:
            step = _compound(step, products, absorbed)
        found.append(_in_order(step, numbers))
    found = [step for step in found if step.writes[0] not in absorbed]
    return _paired(found, numbers)


def _compound(step: Step, products: Mapping[int, Step], absorbed: set[int]) -> Step:
    """A sum or difference, with the products that are its operands."""
    both, first, second = COMPOUNDS[step.operation]
    x, y = (products.get(place) for place in step.reads)
    absorbed.update(place for place in step.reads if place in products)
    if x and y:
        return Step(both, (*x.reads, *y.reads), step.writes)
    if x:
        return Step(first, (*x.reads, step.reads[1]), step.writes)
    if y:
        return Step(second, (*y.reads, step.reads[0]), step.writes)
    return step


def _in_order(step: Step, numbers: set[int]) -> Step:
    """Loops are quick where the second factor of a product is a number, not the first."""
    if step.operation == "negative":
        return step
    reads = list(step.reads)
    for i in range(0, len(reads) - 1, 2):
        swaps = i == 0 or len(reads) == 4
        if swaps and step.operation not in ("add", "subtract") and reads[i] in numbers:
            reads[i], reads[i + 1] = reads[i + 1], reads[i]
    return step._replace(reads=tuple(reads))


def _paired(steps: Sequence[Step], numbers: set[int]) -> list[Step]:
    rest = list(steps)
    found: list[Step] = []
    known = {place for step in steps for place in step.reads}
    known -= {place for step in steps for place in step.writes}
    while rest:
        step = rest.pop(0)
        partner = _partner(step, rest, known) if step.reads[0] not in numbers else None
        if partner is not None:
            rest.remove(partner)
            g, y, x = (*step.reads, partner.reads[1])
            step = Step("multiply_backward", (g, x, y), (step.writes[0], partner.writes[0]))
        known.update(step.writes)
        found.append(step)
    return found


def _partner(step: Step, rest: Sequence[Step], known: set[int]) -> Step | None:
    """A later product of the same gradient with what is known already."""
    if step.operation != "multiply":
        return None
    for other in rest:
        if (
            other.operation == "multiply"
            and other.reads[0] == step.reads[0]
            and known.issuperset(other.reads)
        ):
            return other
    return None
