"""Runs a graph stage by stage: by a plan where one serves what is at hand, or node by node.

A stage is what lies between nodes that do not work element by element: products, sums, views, and
layers of one's own. A layer may do anything. So it is called after all nodes that were made before
it, and before all that were made after it. What such a node returns is known when it has run: then
the plan for the nodes up to the next one is found. What lies between the last one's value and its
gradient, values and gradients, is one plan.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from .. import core
from .attribution import AtUsersLine
from .interpreter import (
    Gradients,
    Request,
    differentiable,
    differentiate_nodes,
    evaluate_nodes,
    without_memory,
)
from .networks import is_cut
from .nodes import Nodes
from .operations import OPERATIONS, WARNING, Operations
from .planner import entry
from .rules import rules_of

if core.passes is not None:
    from .._core.frontend.methods import Entry
    from .._core.frontend.passes import WARNS
else:
    WARNS = object()


class Stage:
    """The nodes from ``start`` to ``stop``, and the nodes that cut after them, up to ``end``.

    Attributes
    ----------
    reads : tuple of int
        The values from before that its nodes read.
    writes : tuple of int
        The values of its nodes that outputs, layers and later stages read.
    dropped : list of int
        Those of ``reads`` that nothing reads later.
    """

    def __init__(
        self,
        graph: Nodes,
        places: tuple[int, int, int],
        last: Sequence[int],
        run: Operations | None,
    ) -> None:
        self.start, self.stop, self.end = start, stop, _ = places
        nodes = graph.nodes
        given = ("number", "constant")  # and None for what is computed
        self.numbers = [one.detail if one.operation in given else None for one in nodes[start:stop]]
        used = dict.fromkeys(operand for node in nodes[start:stop] for operand in node.operands)
        computed = [place for place in used if nodes[place].operation != "number"]
        self.reads = tuple(
            [place for place in computed if place < start or nodes[place].operation == "constant"]
        )
        self.writes = tuple(
            [
                place
                for place in range(start, stop)
                if nodes[place].operation not in ("number", "constant")
                and (last[place] >= stop or place in graph.outputs)
            ]
        )
        self.dropped = [place for place in self.reads if place < start and last[place] < stop]
        self._request = Request(graph, start, stop, self.reads)
        self._run = run
        self._asked: dict[Any, tuple[Request, Entry | None]] = {}
        self.forward = self.asked(self.writes)

    def asked(
        self,
        values: tuple[int, ...],
        begun: tuple[int, ...] = (),
        wanted: Collection[int] = (),
    ) -> tuple[Request, Entry | None]:
        """What to ask for, and the entry for it: values, and where gradients that have begun lead.

        Without an entry there is nothing to ask for, or no plan to ask.
        """
        if self._run is None:
            return self._request, None
        key = values, begun, tuple([place for place in self.reads if place in wanted])
        if key not in self._asked:
            request = self._request_of(*key)
            one = entry(request, self._run) if values or request.wanted else None
            self._asked[key] = request, one
        return self._asked[key]

    def _request_of(
        self, values: Sequence[int], begun: Sequence[int], wanted: Sequence[int]
    ) -> Request:
        nodes = self._request.graph.nodes
        found = {place for place in begun if place >= self.start}
        for place in reversed(range(self.start, self.stop)):
            if place in found:
                found.update(differentiable(nodes[place]))
        wanted = [place for place in wanted if place in found]
        # A value read here may have a gradient from later nodes, to which that from here is added.
        begun = [place for place in begun if wanted and (place >= self.start or place in wanted)]
        return self._request._replace(values=values, begun=begun, wanted=wanted)


class Stages:
    """A graph's nodes as stages; as a single one if there are no operations to plan with.

    Attributes
    ----------
    reads : set of int
        The values that stages read, from which they are computed again to differentiate, and those
        that the rules of the nodes between stages read.
    needed : set of int
        The values of which gradients need more than the shape.
    between : list of int
        The nodes between stages, and layers.
    """

    def __init__(self, graph: Nodes, run: Operations | None) -> None:
        self.graph, self.last = graph, graph.last_uses()
        self.layers = [i for i, node in enumerate(graph.nodes) if node.operation == "layer"]
        calls = {i for i, node in enumerate(graph.nodes) if is_cut(node)}
        cuts = calls if run else set()
        starts = [len(graph.inputs), *sorted({place + 1 for place in cuts} - cuts)]
        # What is kept from value to gradient: all else passes compute again in the caches.
        self.between = sorted(calls.union(self.layers))
        self.stages = []
        for start, end in zip(starts, [*starts[1:], len(graph.nodes)], strict=True):
            stop = next((place for place in range(start, end) if place in cuts), end)
            self.stages.append(Stage(graph, (start, stop, end), self.last, run))
        read = {
            place: {
                (*node.operands, place)[i] for rule in rules_of(node) if rule for i in rule.reads
            }
            for place, node in enumerate(graph.nodes)
            if node.operation in OPERATIONS
        }
        self.needed = set().union(*read.values())
        self.reads: set[int] = set()
        if run:
            self.reads.update(*(stage.reads for stage in self.stages))
            self.reads.update(*(places for place, places in read.items() if place in cuts))
            self.needed |= self.reads


class Execution:
    """A call of a graph: its values and gradients by their nodes, stage by stage.

    Values that exist in passes alone are left out. After its last use a value is replaced by a
    stand-in with the same shape, unless it is an output, an input or ``needed`` later.

    Parameters
    ----------
    stages : Stages
    operands : sequence
    run : mapping
        The operations for nodes that are run one by one.
    needed : collection of int
    known : mapping, optional
        What `known` has returned of another call: what lies between stages does not run again.
    """

    def __init__(
        self,
        stages: Stages,
        operands: Sequence[Any],
        run: Operations,
        needed: Collection[int],
        known: Mapping[int, Any] | None = None,
    ) -> None:
        self.values = list(operands)
        self.gradients = Gradients()
        self.run = run
        self._stages, self._known = stages, known
        self._between = {i: known[i] for i in stages.between if i in known} if known else None
        self._kept = {*range(len(operands)), *stages.graph.outputs, *needed}
        self._passed: set[Stage] = set()

    def evaluate(
        self, douts: Sequence[tuple[int, Any]] = (), wanted: Collection[int] = ()
    ) -> Sequence[tuple[int, Any]]:
        """Compute all values and, if one plan serves both, the last stage's gradients.

        Returns those of the outputs' gradients ``douts`` that were not passed back by that.
        """
        for stage in self._stages.stages:
            asked = stage.forward
            if wanted and stage is self._stages.stages[-1]:
                asked = stage.asked(stage.writes, self._stages.graph.outputs, wanted)
            begun = asked[0].begun
            found = self._pass(stage, asked, [dout for place, dout in douts if place in begun])
            self._evaluate_nodes(stage.end, found)
        return [pair for pair in douts if found is not True or pair[0] not in begun]

    def go_back(self, wanted: Collection[int]) -> None:
        """Compute the gradients of the inputs, given those of the outputs."""
        for stage in reversed(self._stages.stages):
            self._differentiate_nodes(range(stage.stop, stage.end), wanted)
            begun = tuple([place for place in stage.writes if place in self.gradients])
            if not begun:
                continue
            met = tuple([place for place in stage.reads if place in self.gradients])
            asked = stage.asked((), begun + met, wanted)
            found = self._pass(stage, asked, [self.gradients[place] for place in asked[0].begun])
            if found is True:
                for place in begun:
                    self.values[place] = None
                    del self.gradients[place]
                continue
            if stage in self._passed:
                again = Execution(self._stages, self.values[: stage.start], self.run, self._kept)
                with np.errstate(all="ignore"):  # they have warned
                    again._evaluate_nodes(stage.stop)
                self.values[stage.start : stage.stop] = again.values[stage.start :]
            self._differentiate_nodes(range(stage.start, stage.stop), wanted, found)

    def known(self) -> dict[int, Any]:
        """What another call need not compute to differentiate: values between stages, and shapes.

        Of an output the gradients need the memory order, too; a stand-in's is the usual one.
        """
        stages, outputs = self._stages, self._stages.graph.outputs
        found = {place: self.values[place] for place in stages.between}
        planned = [stage for stage in stages.stages if stage.forward[1]]
        for place in [place for stage in planned for place in stage.writes]:
            value = self.values[place]
            if place in stages.reads or type(value) is not np.ndarray or value.dtype.hasobject:
                continue
            if place not in outputs or value.flags.c_contiguous:
                found[place] = without_memory(value)
        return found

    def _pass(
        self, stage: Stage, asked: tuple[Request, Entry | None], douts: Sequence[Any] = ()
    ) -> Any:
        """Compute what is asked for; True if that was done, else what `Entry.run` returns."""
        request, entry = asked
        if entry is None:
            return None
        count = len(request.values)
        if count and self._known and all(place in self._known for place in request.values):
            found = [self._known[place] for place in request.values]
        else:
            found = entry.run(self._given(stage), tuple(douts))
        if found is None or found is WARNS:
            return found
        if count:
            self._passed.add(stage)
            self.values += stage.numbers
            for place, value in zip(request.values, found, strict=False):
                self.values[place] = value
            for place in stage.dropped:
                if place not in self._kept:
                    self.values[place] = without_memory(self.values[place])
        if request.wanted:
            self.gradients.update(zip(request.wanted, found[count:], strict=True))
            self.gradients.foreign.difference_update(request.wanted)
        return True

    def _given(self, stage: Stage) -> tuple[Any, ...]:
        nodes, values = self._stages.graph.nodes, self.values
        return tuple(
            [
                nodes[place].detail if nodes[place].operation == "constant" else values[place]
                for place in stage.reads
            ]
        )

    def _evaluate_nodes(self, stop: int, found: Any = None) -> None:
        """Run the next nodes one by one, of which a pass may have ``found`` that they warn."""
        graph, last = self._stages.graph, self._stages.last
        run = AtUsersLine(WARNING) if found is WARNS else self.run
        evaluate_nodes(graph, self.values, stop, run, last, self._kept, self._between)

    def _differentiate_nodes(
        self, nodes: range, wanted: Collection[int], found: Any = None
    ) -> None:
        run = AtUsersLine(WARNING) if found is WARNS else self.run
        graph = self._stages.graph
        differentiate_nodes(graph, self.values, self.gradients, nodes, wanted, run)
