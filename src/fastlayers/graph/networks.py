"""Runs a graph of products, reductions and views: calls of NumPy's functions, with passes between.

What works element by element is computed in as few passes as its operands allow: each pass computes
all that the next calls read, and whatever else can be known by then that is asked for. Other values
are computed again where they are read, if that takes less time than to store and to load them.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import core
from ..base import Placeholder
from . import adjoints
from .gradients import GRADIENT, graph_of_both, simplified
from .interpreter import Request, reached, without_memory
from .nodes import Node, Nodes
from .operations import OPERATIONS, SHAPED, Operations
from .planner import entry
from .results import apart
from .tracing import CHEAP, STEPS, ufunc_of

if core.passes is not None:
    from .._core.frontend.methods import count_outcome
    from .._core.frontend.passes import WARNS

# Reductions: of all elements they make a value without axes.
REDUCTIONS = {"sum", "mean", "max", "min", "prod", "var", "std", "norm", "any", "all"}

# From this version on NumPy adds up a whole array in one order, whatever its buffers are.
TOTALS = np.lib.NumpyVersion(np.__version__) >= "2.3.0"

# Whether these warn, in Python, depends on values: graphs of them are run by their nodes.
TELLING = {"nanmean", "nanmax", "nanmin"}

GIVEN = ("input", "number", "constant")


class Stopped(Exception):
    """NumPy must warn, or something cannot be computed here: the nodes are to be run one by one."""


# What a pass over whole rows can do, if the axis is the last one.
OF_ROWS = REDUCTIONS - {"prod", "norm", "any", "all"} | {"sum_as", "count", "spread"}


def is_cut(node: Node) -> bool:
    """Whether a node is no part of a pass, whatever its operands are."""
    if node.operation not in OPERATIONS:
        return node.operation == "layer"
    return not OPERATIONS[node.operation].elementwise and node.operation not in SHAPED


def is_one_plan(graph: Nodes) -> bool:
    """Whether a graph is a single pass, or a few without calls, on operands that suit it."""
    return not any(is_cut(node) or node.operation == "constant" for node in graph.nodes)


def may_be_network(graph: Nodes) -> bool:
    return {"layer", *TELLING}.isdisjoint(node.operation for node in graph.nodes)


def may_be_of_rows(node: Node) -> bool:
    """Whether a node may be a step of a pass over whole rows: NumPy's axis 0 is none."""
    axis = dict(node.detail or ()).get("axis") if node.operation in OF_ROWS else None
    axis = axis[0] if type(axis) is tuple and len(axis) == 1 else axis
    return type(axis) is int and axis != 0


def is_spread(node: Node) -> bool:
    """Whether a node repeats a scalar, or a value whose axes a pass finds where they should be."""
    options = dict(node.detail or ())
    axis = options.get("axis")
    return node.operation == "spread" and (
        bool(options.get("keepdims")) or axis is None or axis == 0
    )


REDUCED_BY = {"sum": np.add.reduce, "max": np.maximum.reduce, "min": np.minimum.reduce}

# Of floats of one dtype these make floats of that dtype, as do most ufuncs.
KEEPING = REDUCTIONS - {"any", "all"} | {
    *("matmul", "dot", "outer", "einsum", "where", "select", "clip", "cumsum", "diff"),
    *("T", "mT", "transpose", "reshape", "ravel", "flatten", ".copy", "copy", "squeeze"),
    *("expand_dims", "swapaxes", "moveaxis", "flip", "roll", "triu", "tril", "diag", "trace"),
    *("getitem", "take", "take_along_axis", "split", "repeat", "tile", "concatenate", "stack"),
    *("vstack", "hstack"),
}
# Beside floats, NumPy casts an operand of theirs to floats, whatever they do then.
CASTING = {
    *("multiply", "add", "subtract", "divide", "maximum", "minimum", "logaddexp"),
    *("np.multiply", "np.add", "np.subtract", "np.divide"),
    *("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"),
}
# They make arrays in the memory order of others.
IN_ORDER = {"ones_like", "full_like", "np.zeros_like", "zeros_like", "broadcast_to"}
# Their operands, but the first, are indices.
INDEXED = {"getitem", "take", "take_along_axis"}


@functools.lru_cache(maxsize=1024)
def keeps_dtype(operation: str) -> bool:
    """Whether an operation makes of floats of one dtype floats of that dtype."""
    operation = OPERATIONS[operation].step or operation
    if operation in KEEPING:
        return True
    ufunc = ufunc_of(operation)
    if ufunc is None:
        return operation == "power"
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        try:
            if ufunc.resolve_dtypes((*[dtype] * ufunc.nin, None))[-1] != dtype:
                return False
        except TypeError:
            return False
    return True


class Facts:
    """What is known of a graph's values, whatever floats of one dtype it is called with.

    Parameters
    ----------
    graph : Nodes
    scalars, given : collection of int, optional
        The inputs that are NumPy's scalars, and those that are Python numbers.

    Attributes
    ----------
    floats : set of int
        The values that have that dtype.
    scalars : set of int
        Those without axes that are no Python numbers.
    reduced : set of int
        Those that depend on rows which a pass reduces.
    indices : set of int
        The inputs and constants by which others are indexed, and that nothing else reads.
    """

    def __init__(
        self, graph: Nodes, scalars: Collection[int] = (), given: Collection[int] = ()
    ) -> None:
        nodes = graph.nodes
        used: dict[int, list[bool]] = defaultdict(list)
        for node in nodes:
            for i, operand in enumerate(node.operands):
                used[operand].append(node.operation in INDEXED and i > 0)
        self.indices = {
            place
            for place, node in enumerate(nodes)
            if node.operation in ("input", "constant") and all(used[place])
        }
        self.floats: set[int] = set()
        self.scalars = set(scalars)
        self.reduced = {i for i, node in enumerate(nodes) if may_be_of_rows(node)}
        numbers = {
            place
            for place, node in enumerate(nodes)
            if place in given
            or (node.operation == "number" and type(node.detail) in (int, float))
            or (node.operation == "count" and not may_be_of_rows(node))
        }
        for place, node in enumerate(nodes):
            if node.operation in ("input", "constant"):
                if place not in self.indices and place not in numbers:
                    self.floats.add(place)
                continue
            if node.operation in ("number", "layer"):
                continue
            operands = set(node.operands)
            if operands & self.reduced and not is_cut(node):
                self.reduced.add(place)
            read = set(node.operands[: 1 if node.operation in INDEXED else None])
            if node.operation in ("where", "select"):
                read = set(node.operands[1:])
            weak = numbers if is_elementwise(node) else set()  # to others, a number is an array
            if read <= self.floats | weak and read & self.floats and keeps_dtype(node.operation):
                self.floats.add(place)
            options = dict(node.detail or ())
            if node.operation == "mean_of_sum":
                self.scalars.add(place)
            elif node.operation in REDUCTIONS:
                if options.get("axis") is None and not options.get("keepdims"):
                    self.scalars.add(place)
            elif OPERATIONS[node.operation].elementwise:
                if operands <= self.scalars | numbers and operands & self.scalars:
                    self.scalars.add(place)
            elif node.operation in SHAPED and node.operands[-1] in self.scalars:
                self.scalars.add(place)


def are_castable(graph: Nodes, places: tuple[int, ...], numbers: tuple[int, ...]) -> bool:
    """Whether inputs of lesser dtypes may be cast to that of the others before they are read.

    So they may if all that reads them casts them: then their gradients are of that dtype, too.
    """
    readers = [node for node in graph.nodes if not set(places).isdisjoint(node.operands)]
    floats = Facts(graph, (), places + numbers).floats
    return (
        set(places).isdisjoint(graph.outputs)
        and all(not reached(graph, [place]).isdisjoint(graph.outputs) for place in places)
        and all(one.operation in CASTING and floats.intersection(one.operands) for one in readers)
    )


class Instruction(NamedTuple):
    """A node that is computed by itself, or what one plan computes.

    Attributes
    ----------
    function : callable
        Of the values that are read. That of a plan returns a tuple, and what `Entry.run` does.
    reads, writes : tuple of int
    dropped : list of int
        The values that nothing reads afterwards.
    request : Request or None
        What is asked of a plan.
    """

    function: Callable[..., Any]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    dropped: list[int]
    request: Request | None = None


class Network:
    """A graph's work as instructions over one list of values.

    Parameters
    ----------
    graph : Nodes
        Without layers of one's own.
    run : mapping
        The operations for calls.
    quiet : collection of int, optional
        The nodes that have warned before.
    scalars, numbers : collection of int, optional
        The inputs that are known to be NumPy's scalars, and Python numbers.
    rows : bool, optional
        Whether to try passes over whole rows.
    """

    def __init__(
        self,
        graph: Nodes,
        run: Operations,
        quiet: Collection[int] = (),
        scalars: Collection[int] = (),
        numbers: Collection[int] = (),
        rows: bool = True,
    ) -> None:
        self.graph, self._run, self._rows = graph, run, rows
        self.instructions: list[Instruction] = []
        self._finer: dict[int, Network] = {}  # where no pass goes over whole rows
        nodes = graph.nodes
        self._facts = Facts(graph, scalars, numbers)
        self._numbers = set(numbers)
        self._calls = {
            place
            for place, node in enumerate(nodes)
            if node.operation not in GIVEN
            and (is_cut(node) or place in self._facts.scalars)
            and not (is_spread(node) or (rows and may_be_of_rows(node)))
            and not is_total(node, graph, self._facts)
        }
        self._at_hand = {place for place, node in enumerate(nodes) if node.operation in GIVEN}
        self._computed = set(quiet)
        self._shaped: dict[int, int] = {}
        self._readers: dict[int, list[int]] = defaultdict(list)
        for place, node in enumerate(nodes):
            for i, operand in enumerate(node.operands):
                if i not in node.like:
                    self._readers[operand].append(place)
        self.size = len(nodes)
        self._plan()
        self._drop()
        self._program = self._compiled()

    def run(self, operands: Sequence[Any]) -> list[Any]:
        """The outputs' values.

        Raises
        ------
        Stopped
            Where a pass finds that NumPy must warn, or is not served.
        Exception
            As NumPy does.
        """
        return self._program(operands, self._by_nodes)  # type: ignore[no-any-return]

    def _compiled(self) -> Any:
        """The instructions as one would write them by hand, which saves a loop half of its time."""
        names: dict[str, Any] = {"WARNS": WARNS, "Stopped": Stopped}
        for place, node in enumerate(self.graph.nodes):
            if node.operation in ("number", "constant"):
                names[f"v{place}"] = node.detail
        lines = [f"{listed(range(len(self.graph.inputs)))} = operands"]
        for i, one in enumerate(self.instructions):
            names[f"f{i}"] = one.function
            reads = listed(one.reads)
            if one.request is None:
                lines.append(f"v{one.writes[0]} = f{i}{reads}")
            else:
                lines += [
                    f"found = f{i}({reads})",
                    "if found is WARNS: raise Stopped",
                    f"if found is None: found = by_nodes({i}, {reads})",
                    f"{listed(one.writes)} = found",
                ]
            # What is not needed any more is given back.
            lines.append("".join(f"v{place} = " for place in one.dropped) + "found = None")
        lines.append(f"return [*{listed(self.graph.outputs)}]")
        exec("def run(operands, by_nodes):\n    " + "\n    ".join(lines), names)
        return names.pop("run")  # no cycle

    def _by_nodes(self, i: int, given: tuple[Any, ...]) -> list[Any]:
        """The values of a plan that is not served."""
        one = self.instructions[i]
        request = one.request
        assert request is not None
        if self._rows and any(map(may_be_of_rows, request.graph.nodes)):
            if i not in self._finer:
                quiet = range(request.quiet)
                places = list(enumerate(one.reads))
                scalars = [at for at, place in places if place in self._facts.scalars]
                numbers = [at for at, place in places if place in self._numbers]
                self._finer[i] = Network(
                    request.graph, self._run, quiet, scalars, numbers, rows=False
                )
            return self._finer[i].run(given)
        found = request.evaluate(given, self._run)
        return [found[place] for place in request.values]

    # ---- the order of what is done ----

    def _plan(self) -> None:
        nodes = self.graph.nodes
        pending = sorted(self._calls)
        while True:
            while self._make_calls(pending):
                pending = sorted(self._calls - self._at_hand)
            wanted = [place for place in self.graph.outputs if place not in self._at_hand]
            waiting = self._waiting()
            targets = []
            for place in pending:
                like = nodes[place].like
                operands = nodes[place].operands
                if waiting.isdisjoint(operands):
                    targets += [
                        operand
                        for i, operand in enumerate(operands)
                        if i not in like or not self._can_be_shaped(place, operand)
                    ]
            targets += [place for place in wanted if place not in waiting]
            if len(self._calls - self._at_hand) > len(pending):
                pending = sorted(self._calls - self._at_hand)
                continue
            targets = [one for one in dict.fromkeys(targets) if one not in self._at_hand]
            if not targets:
                break
            self._compute([*targets, *self._beside(targets, pending, waiting)])
        if pending or wanted:
            raise RuntimeError("a graph whose nodes wait for each other")

    def _waiting(self) -> set[int]:
        """The values that depend on calls which are not made yet."""
        found: set[int] = set()
        for place, node in enumerate(self.graph.nodes):
            if place in self._at_hand:
                continue
            if node.operation in IN_ORDER and node.operands[-1] in self._at_hand:
                self._calls.add(place)  # a pass would not look at it, nor at its order
            if place in self._calls or not found.isdisjoint(node.operands):
                found.add(place)
        return found

    def _beside(
        self, targets: Sequence[int], pending: Sequence[int], waiting: set[int]
    ) -> list[int]:
        """What later calls read, and a pass for these values computes in part anyway."""
        inside = set(self._missing(targets) or ())
        found = []
        for place in pending:
            node = self.graph.nodes[place]
            for i, operand in enumerate(node.operands):
                if i in node.like or operand in self._at_hand or operand in inside:
                    continue
                if operand not in waiting and not inside.isdisjoint(self._missing([operand]) or ()):
                    found.append(operand)
        return found

    def _make_calls(self, pending: Sequence[int]) -> bool:
        """Make the calls that can be made; whether there were any."""
        made = False
        for place in pending:
            node = self.graph.nodes[place]
            if not all(
                operand in self._at_hand or (i in node.like and self._can_be_shaped(place, operand))
                for i, operand in enumerate(node.operands)
            ):
                continue
            reads = [
                operand if operand in self._at_hand else self._shape(operand)
                for operand in node.operands
            ]
            options = dict(node.detail) if type(node.detail) is tuple else {}
            function = self._function(node, options)
            self.instructions.append(Instruction(function, tuple(reads), (place,), []))
            self._at_hand.add(place)
            made = True
        return made

    def _function(self, node: Node, options: dict[str, Any]) -> Callable[..., Any]:
        """What computes a call."""
        operation = node.operation
        function = self._run[operation]
        if operation == "getitem" and len(node.operands) == 1:
            found = adjoints.indexed(options["index"], ())
            return operator.itemgetter(found if options.get("whole") else found[0])
        if operation in REDUCED_BY:  # what NumPy's function does, after it has looked around
            function, options = REDUCED_BY[operation], {"axis": None, **options}
        elif OPERATIONS[operation].elementwise:
            function = OPERATIONS[operation].plain  # of scalars
        elif operation in ("mean", "average", "var", "std"):
            function = functools.partial(of_enough, function)
        return functools.partial(function, **options) if options else function

    def _can_be_shaped(self, reader: int, place: int) -> bool:
        """Whether a stand-in serves a call, which has the shape but not the memory order."""
        if self.graph.nodes[reader].operation in IN_ORDER:
            return False
        missing = self._missing([place])
        return place in self._shaped or (
            missing is not None
            and place in self._facts.floats
            and all(OPERATIONS[self.graph.nodes[one].operation].elementwise for one in missing)
        )

    def _shape(self, place: int) -> int:
        """Where a stand-in for a value that is not at hand is found."""
        if place not in self._shaped:
            missing = self._missing([place]) or []
            reads = dict.fromkeys(
                operand
                for one in missing
                for operand in self.graph.nodes[one].operands
                if operand in self._at_hand
            )
            self.instructions.append(Instruction(shaped, tuple(reads), (self.size,), []))
            self._shaped[place] = self.size
            self.size += 1
        return self._shaped[place]

    def _missing(self, targets: Iterable[int]) -> list[int] | None:
        """What passes must compute to have these values, in order; None if a call must be first."""
        found: set[int] = set()
        stack = list(targets)
        while stack:
            place = stack.pop()
            if place in self._at_hand or place in found:
                continue
            node = self.graph.nodes[place]
            if node.operation in IN_ORDER and node.operands[-1] in self._at_hand:
                self._calls.add(place)  # a pass would not look at it, nor at its order
            if place in self._calls:
                return None
            found.add(place)
            stack += self.graph.nodes[place].operands
        return sorted(found)

    def _compute(self, targets: Sequence[int]) -> None:
        """Add an instruction for what passes can compute at once."""
        nodes = self.graph.nodes
        missing = self._missing(targets)
        assert missing is not None
        inside = set(missing)
        writes = set(targets)
        for place in missing:
            later = any(one not in inside for one in self._readers[place])
            if later and place not in writes and self._is_dear(place, writes):
                writes.add(place)
        used = {operand for place in missing for operand in nodes[place].operands}
        reads = sorted(
            one for one in used if one in self._at_hand and nodes[one].operation != "number"
        )
        # What was computed before, and has warned, comes first.
        order = sorted(missing, key=lambda place: (place not in self._computed, place))
        moved = {place: i for i, place in enumerate(reads)}
        part: list[Node] = [Node("input", (), f"v{place}") for place in reads]
        for place in dict.fromkeys(one for one in used if nodes[one].operation == "number"):
            moved[place] = len(part)
            part.append(nodes[place])
        for place in order:
            moved[place] = len(part)
            operands = tuple([moved[operand] for operand in nodes[place].operands])
            part.append(nodes[place]._replace(operands=operands))
        results = tuple(sorted(writes))
        graph = Nodes(
            self.graph.name,
            tuple(part),
            tuple(f"v{place}" for place in reads),
            tuple(moved[place] for place in results),
            False,
        )
        quiet = len(part) - sum(place not in self._computed for place in order)
        inputs = range(len(reads))
        request = Request(
            graph, len(reads), len(part), inputs, graph.outputs, quiet=max(quiet, len(reads))
        )
        one = entry(request, self._run) if core.passes is not None else None
        run = one.run if one else _unserved
        self.instructions.append(Instruction(run, tuple(reads), results, [], request))
        self._at_hand |= writes
        self._computed |= inside

    def _is_dear(self, place: int, stored: Collection[int]) -> bool:
        """Whether computing a value again takes longer than storing and loading it."""
        nodes = self.graph.nodes
        seen: set[int] = set()
        stack = [place]
        while stack:
            one = stack.pop()
            if one in seen or one in self._at_hand or (one in stored and one != place):
                continue
            seen.add(one)
            if len(seen) > MOST_AGAIN:
                return True
            operation = nodes[one].operation
            if may_be_of_rows(nodes[one]) and operation not in ("spread", "count"):
                return True
            if operation not in CHEAP and operation not in STEPS and operation not in FREE:
                return True
            stack += nodes[one].operands
        return False

    def _drop(self) -> None:
        """Note for each instruction the values that no later one reads."""
        last = {
            place: i
            for i, one in enumerate(self.instructions)
            for place in (*one.reads, *one.writes)
        }
        kept = {*range(len(self.graph.inputs)), *self.graph.outputs}
        kept.update(i for i, node in enumerate(self.graph.nodes) if node.operation in GIVEN)
        for place, i in last.items():
            if place not in kept:
                self.instructions[i].dropped.append(place)


def listed(places: Iterable[int]) -> str:
    """Values' names, as a tuple."""
    return "(" + "".join(f"v{place}, " for place in places) + ")"


def of_scalars(graph: Nodes, facts: Facts) -> Nodes:
    """The graph without sums of scalars to the shape of scalars, which need not wait for these."""
    same: dict[int, int] = {}
    nodes = []
    for place, node in enumerate(graph.nodes):
        operands = tuple([same.get(operand, operand) for operand in node.operands])
        node = node._replace(operands=operands)
        if operands and operands[-1] in facts.scalars and operands[0] in facts.scalars:
            if node.operation in ("sum_to", "broadcast_to"):
                same[place] = operands[0]
            elif node.operation == "multiply_to":
                node = node._replace(operation="multiply", operands=operands[:2])
        nodes.append(node)
    outputs = tuple([same.get(output, output) for output in graph.outputs])
    return graph._replace(nodes=tuple(nodes), outputs=outputs)


def in_parts(graph: Nodes) -> Nodes:
    """The graph in which the gradients of parts of an array are added into one array.

    Those of one and the same part are added first.
    """
    readers = Counter(operand for node in graph.nodes for operand in node.operands)
    readers.update(graph.outputs)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.operation == "add":
            first, second = (nodes[operand] for operand in node.operands)
            alone = all(readers[one] == 1 for one in node.operands)
            if alone and (together := of_one_split(first, second)):
                node = together._replace(place=node.place)
            elif alone and is_part(second):
                g, x = second.operands
                if is_part(first) and first.operands[1] == x and first.detail == second.detail:
                    place = max(node.operands)
                    nodes[place] = Node("add", (first.operands[0], g), None, node.place)
                    node = second._replace(operands=(place, x))
                elif is_own(first):
                    node = Node("add_part", (node.operands[0], g, x), second.detail, node.place)
        nodes.append(node)
    return graph._replace(nodes=tuple(nodes))


def is_total(node: Node, graph: Nodes, facts: Facts) -> bool:
    """Whether a sum or a mean may be that of all elements in the pass that computes these."""
    if not TOTALS or node.operation not in ("sum", "mean") or node.detail is not None:
        return False
    summed = node.operands[0]
    return summed in facts.floats - facts.scalars - facts.reduced and is_elementwise(
        graph.nodes[summed]
    )


def of_totals(graph: Nodes, facts: Facts) -> Nodes:
    """The graph with means of all elements that a pass computes as sums, which it adds up."""
    nodes: list[Node] = []
    moved: list[int] = []
    for node in graph.nodes:
        operands = tuple([moved[operand] for operand in node.operands])
        if node.operation == "mean" and is_total(node, graph, facts):
            nodes.append(Node("sum", operands, None, node.place))
            operands = len(nodes) - 1, *operands
            node = node._replace(operation="mean_of_sum")
        moved.append(len(nodes))
        nodes.append(node._replace(operands=operands))
    outputs = tuple([moved[output] for output in graph.outputs])
    return graph._replace(nodes=tuple(nodes), outputs=outputs)


def is_elementwise(node: Node) -> bool:
    return node.operation in OPERATIONS and OPERATIONS[node.operation].elementwise


def is_part(node: Node) -> bool:
    """Whether a node is the gradient of a part that no arrays choose."""
    return node.operation == "getitem_back" and len(node.operands) == 2


def of_one_split(first: Node, second: Node) -> Node | None:
    """The sum of the gradients of several equal parts of one array; None if it is of others."""
    options, own = ({**dict(one.detail or ())} for one in (first, second))
    if first.operation not in ("split_back", "split_parts_back") or (
        second.operation != "split_back" or type(own["sections"]) is not int
    ):
        return None
    *gradients, x = (
        first.operands if "index" in options else (*first.operands[1:], first.operands[0])
    )
    indices = options.pop("indices", None) or (options.pop("index"),)
    index = own.pop("index")
    if options != own or x != second.operands[1] or index in indices:
        return None
    detail = (*own.items(), ("indices", (*indices, index)))
    return Node("split_parts_back", (x, *gradients, second.operands[0]), detail, second.place)


def is_own(node: Node) -> bool:
    """Whether a value shares its memory with no other."""
    row = OPERATIONS.get(node.operation)
    return node.operation in ("add_part", "getitem_back") or (
        row is not None and row.elementwise and bool(row.ufunc or row.operator)
    )


# So many cheap steps are computed again. An LSTM's cell over 40 letters took 170 ms a step when its
# sums of products were, all from the first letter on, and 104 ms with 12, 107 with 6 (AMD EPYC).
MOST_AGAIN = 12

# What costs a pass nothing, or little.
FREE = {
    *("sum_to", "multiply_to", "broadcast_to", "zeros_like", "positive", "where", "select"),
    *("spread", "count"),
}


def of_enough(function: Callable[..., Any], x: Any, ddof: float = 0, **options: Any) -> Any:
    """A mean or a variance of so many elements that Python does not warn."""
    if adjoints.count(x, options.get("axis")) <= ddof:
        raise Stopped
    return function(x, ddof=ddof, **options) if ddof else function(x, **options)


def _unserved(_: Any) -> None:
    """In place of a plan, where there are none."""


def shaped(*values: Any) -> Any:
    """A stand-in for what is computed element by element of these."""
    dtype = next(one.dtype for one in values if hasattr(one, "dtype") and one.dtype.kind == "f")
    return _stand_in(dtype, *[one.shape if hasattr(one, "shape") else () for one in values])


@functools.lru_cache(maxsize=256)
def _stand_in(dtype: np.dtype, *shapes: tuple[int, ...]) -> Any:
    item = np.broadcast_to(np.zeros((), dtype), np.broadcast_shapes(*shapes))
    return without_memory(item)


# Among what is kept, the shapes of the outputs.
SHAPES = -1


class Networks:
    """A graph as networks: of its value, of its gradients, and of both.

    Parameters
    ----------
    graph : Nodes
        Without layers of one's own.
    run : mapping
        The operations for calls.
    """

    def __init__(self, graph: Nodes, run: Operations) -> None:
        self._graph, self._run = graph, run
        self._facts: dict[tuple[int, ...], Facts] = {}  # by the operands that are numbers
        # By the operands that are to be cast, and those that are numbers.
        self._castable: dict[tuple[tuple[int, ...], ...], bool] = {}
        self._one_plan = is_one_plan(graph)
        # What passes compute again is not kept from value to gradient.
        self._kept = [
            place
            for place, node in enumerate(graph.nodes)
            if is_cut(node) and not may_be_of_rows(node)
        ]
        self._made: dict[Any, Network] = {}
        self._outside = [
            (place, node.detail)
            for place, node in enumerate(graph.nodes)
            if node.operation == "constant"
        ]

    def values(self, operands: tuple[Any, ...]) -> list[Any] | None:
        """The outputs' values; None where the nodes are to be run one by one."""
        operands, kinds = self._kinds(operands)
        found = self._run_network("values", (), kinds, operands)
        return found and apart(found[: len(self._graph.outputs)], operands)

    def forward(self, operands: tuple[Any, ...]) -> tuple[list[Any], dict[int, Any]] | None:
        """The values, and what `gradients` needs of others."""
        operands, kinds = self._kinds(operands)
        found = self._run_network("forward", (), kinds, operands)
        if found is None:
            return None
        count = len(self._graph.outputs)
        known = dict(zip(self._kept, found[count:], strict=False))
        values = apart(found[:count], [*operands, *known.values()])
        known[SHAPES] = tuple(map(np.shape, values))
        return values, known

    def gradients(
        self, operands: tuple[Any, ...], dout: Any, known: Mapping[int, Any]
    ) -> list[Any] | None:
        """The gradients by all operands, given what `forward` kept."""
        operands, kinds = self._kinds(operands)
        douts = self._douts(dout, kinds)
        if douts is None:
            return None
        for shape, one in zip(known[SHAPES], douts, strict=True):
            if type(one) is np.ndarray and one.shape != shape:
                return None
        given = (*operands, *douts, *[known[place] for place in self._kept])
        found = self._run_network("gradients", self._graph.inputs, kinds, given)
        return found and apart(found, given)

    def both(
        self, operands: tuple[Any, ...], dout: Any, names: tuple[str, ...]
    ) -> list[Any] | None:
        """The values, then the gradients by ``names``."""
        operands, kinds = self._kinds(operands)
        douts = self._douts(dout, kinds)
        if douts is None:
            return None
        given = (*operands, *douts)
        found = self._run_network("both", names, kinds, given)
        if found is None:
            return None
        for value, one in zip(found, douts, strict=False):
            if type(one) is np.ndarray and one.shape != np.shape(value):
                return None
        return apart(found[: len(douts) + len(names)], given)

    def _kinds(self, operands: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
        """The operands, cast where NumPy would, and their kinds.

        These are the one dtype of all but numbers, and which are numbers; None if not served.
        """
        widest = None
        floats = []
        cast = []
        numbers = []
        indices = self._facts_of(()).indices
        for place, one in itertools.chain(enumerate(operands), self._outside):
            if type(one) is np.ndarray:
                dtype = one.dtype
                if dtype.kind in "iub":
                    if place not in indices:
                        cast.append(place)
                    continue
                if dtype.char not in "efd" or not one.size or not dtype.isnative:
                    return operands, self._refused("dtype")
            elif type(one) in (int, float):
                numbers.append(place)
                continue
            elif type(one) in (np.float32, np.float64):
                dtype = one.dtype
            else:
                return operands, None if isinstance(one, Placeholder) else self._refused("operand")
            floats.append((place, dtype))
            if widest is None or dtype.itemsize > widest.itemsize:
                widest = dtype
        if widest is None:
            return operands, None
        cast += [place for place, dtype in floats if dtype != widest]
        kinds = widest, tuple(numbers)
        if cast:
            if widest.char == "e" or not self._may_cast(operands, tuple(cast), kinds[1], widest):
                return operands, self._refused("dtype")
            given = list(operands)
            try:
                with np.errstate(all="raise"):  # of a signalling NaN NumPy tells where it is read
                    for place in cast:
                        given[place] = cast_to(given[place], widest)
            except FloatingPointError:
                return operands, self._refused("warning")
            if self._one_plan:
                count_outcome("dtype", -1)  # what the plan has said of them
            operands = tuple(given)
        elif self._one_plan:  # which was tried before
            return operands, None
        return operands, kinds

    def _refused(self, reason: str) -> Any:
        """Count a call whose nodes are run one by one."""
        if not self._one_plan:
            count_outcome(reason)

    def _may_cast(
        self,
        operands: tuple[Any, ...],
        places: tuple[int, ...],
        numbers: tuple[int, ...],
        dtype: np.dtype,
    ) -> bool:
        """Whether NumPy would cast these operands, wherever they are read."""
        key = places, numbers
        if key not in self._castable:
            given = set(places) <= set(range(len(operands)))
            self._castable[key] = given and are_castable(self._graph, *key)
        return self._castable[key] and all(
            operands[place].size and np.result_type(operands[place], dtype) == dtype
            for place in places
        )

    def _facts_of(self, numbers: tuple[int, ...]) -> Facts:
        if numbers not in self._facts:
            self._facts[numbers] = Facts(self._graph, (), numbers)
        return self._facts[numbers]

    def _douts(self, dout: Any, kinds: Any) -> list[Any] | None:
        """The outputs' gradients; None if they are not served, or wrong."""
        outputs = self._graph.outputs
        several = not self._graph.single and type(dout) in (tuple, list)
        douts = dout if several else [dout] * len(outputs)
        if kinds is None or len(douts) != len(outputs):
            return None
        dtype, numbers = kinds
        facts = self._facts_of(numbers)
        if type(dout) is np.ndarray and not self._graph.single:
            return None
        found = []
        for place, one in zip(outputs, douts, strict=True):
            scalar = place in facts.scalars and place in facts.floats
            if type(one) in (int, float):
                found.append(dtype.type(one) if scalar else one)
            elif type(one) is (dtype.type if scalar else np.ndarray) and one.dtype == dtype:
                found.append(one)
            else:
                return None
        return found

    def _run_network(
        self, what: str, names: tuple[str, ...], kinds: Any, given: Sequence[Any]
    ) -> list[Any] | None:
        if kinds is None:
            return None
        key = what, names, kinds[1]
        handler = core.memory.recycle()
        try:
            with np.errstate(**stopping()):
                if key not in self._made:
                    self._made[key] = self._make(*key)
                return self._made[key].run(given)
        except Exception:  # who runs the nodes one by one says of which node it is
            return None
        finally:
            if handler is not None:
                core.memory.set_handler(handler)

    def _make(self, what: str, names: tuple[str, ...], numbers: tuple[int, ...]) -> Network:
        graph, facts = self._graph, self._facts_of(numbers)
        if what in ("values", "forward"):
            more = self._kept if what == "forward" else []
            outputs = (*graph.outputs, *more, *graph.unread())
            graph = simplified(graph._replace(outputs=outputs))
            if what == "values":
                graph = of_totals(graph, Facts(graph, (), numbers))
            return Network(graph, self._run, numbers=numbers)
        known = self._kept if what == "gradients" else []
        certain = facts.scalars & facts.floats
        both = graph_of_both(graph, names, what == "both", known, certain)
        first = len(graph.inputs)
        scalars = {first + i for i, place in enumerate(graph.outputs) if place in certain}
        first += len(graph.outputs)
        scalars |= {first + i for i, place in enumerate(known) if place in facts.scalars}
        both = simplified(of_scalars(both, Facts(both, scalars, numbers)))
        both = simplified(in_parts(both))
        both = of_totals(both, Facts(both, scalars, numbers))
        quiet = [
            place
            for place, node in enumerate(both.nodes)
            if what == "gradients" and node.place != GRADIENT
        ]
        return Network(both, self._run, quiet, scalars, numbers)


def cast_to(x: Any, dtype: np.dtype[Any]) -> Any:
    """An array in another dtype: what is repeated stays so, for memory orders depend on it."""
    if 0 not in x.strides:
        return x.astype(dtype)
    part = x[tuple([slice(None if stride else 1) for stride in x.strides])]
    return np.broadcast_to(part.astype(dtype), x.shape)


def stopping() -> Any:
    """How NumPy treats exceptions, with an error for what it would tell of."""
    return _stopping(*np.geterr().values())


@functools.lru_cache(maxsize=64)
def _stopping(divide: str, over: str, under: str, invalid: str) -> dict[str, str]:
    modes = {"divide": divide, "over": over, "under": under, "invalid": invalid}
    return {kind: mode if mode == "ignore" else "raise" for kind, mode in modes.items()}
