"""A graph with layers of one's own: what lies between them is run in passes.

A layer may do anything. So it is called after all nodes that were made before it, and before all
that were made after it. The nodes between two layers are a graph of their own, a `Segment`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import core
from .attribution import AtUsersLine
from .interpreter import (
    Gradients,
    begin_gradients,
    differentiable,
    differentiate_nodes,
    evaluate_nodes,
    without_memory,
)
from .nodes import Node, Nodes
from .operations import WARNING, Operations
from .planner import entry

if core.passes is not None:
    from .._core.frontend.methods import Entry
    from .._core.frontend.passes import WARNS


class Values(list[Any]):
    """The values of nodes; of segments that were ``passed``, only what others need of them."""

    def __init__(self, operands: Sequence[Any]) -> None:
        super().__init__(operands)
        self.passed: set[Segment] = set()


class Segments:
    """A graph's nodes in the order in which they were made: segments, each but the last followed by
    layers.

    Attributes
    ----------
    reads : frozenset of int
        The values that segments read: the gradients need them.
    """

    def __init__(self, graph: Nodes, run: Operations) -> None:
        self._graph = graph
        self._last = graph.last_uses()
        self._segments: list[Segment] = []
        start = len(graph.inputs)
        for stop, node in enumerate(graph.nodes):
            if node.operation == "layer":
                if start == stop and self._segments:
                    self._segments[-1].stop_of_layers += 1
                else:
                    self._segments.append(Segment(graph, run, start, stop, self._last))
                start = stop + 1
        self._segments.append(Segment(graph, run, start, len(graph.nodes), self._last))
        self.reads = frozenset(place for segment in self._segments for place in segment.reads)
        self._shapes = [
            place
            for segment in self._segments
            for place in segment.writes
            if place not in self.reads
        ]

    def evaluate(
        self,
        operands: Sequence[Any],
        run: Operations,
        needed: Collection[int] = (),
        known: Mapping[int, Any] | None = None,
    ) -> Values:
        """As `evaluate`; values that exist in passes alone are left out.

        ``known`` are the values of layers, and what `shapes` has returned.
        """
        values = Values(operands)
        kept = {*range(len(operands)), *self._graph.outputs, *needed}
        for segment in self._segments:
            found = segment.evaluate(values, kept, known or {})
            if found is True:
                values.passed.add(segment)
            else:
                how = AtUsersLine(WARNING) if found is WARNS else run
                self._evaluate_nodes(values, segment.stop, how, kept, None)
            self._evaluate_nodes(values, segment.stop_of_layers, run, kept, known)
        return values

    def shapes(self, values: Sequence[Any]) -> dict[int, Any]:
        """Stand-ins for arrays of which the gradients need no more than the shape.

        Of an output they need the memory order, too. A stand-in's is the usual one.
        """
        outputs = self._graph.outputs
        pairs = [(place, values[place]) for place in self._shapes]
        return {
            place: without_memory(value)
            for place, value in pairs
            if type(value) is np.ndarray
            and not value.dtype.hasobject
            and (value.flags.c_contiguous or place not in outputs)
        }

    def differentiate(
        self,
        values: Values,
        douts: Sequence[Any],
        wanted: Collection[int],
        run: Operations,
        needed: Collection[int],
    ) -> Gradients:
        """As `differentiate`, of what `evaluate` returned for values ``needed``."""
        gradients = begin_gradients(self._graph, douts, wanted, run)
        for segment in reversed(self._segments):
            layers = range(segment.stop, segment.stop_of_layers)
            self._differentiate_nodes(values, gradients, layers, wanted, run)
            found = segment.differentiate(values, gradients, wanted)
            if found is not True:
                how = AtUsersLine(WARNING) if found is WARNS else run
                if segment in values.passed:
                    again = values[: segment.start]
                    with np.errstate(all="ignore"):  # evaluate has warned
                        self._evaluate_nodes(again, segment.stop, run, needed, None)
                    values[segment.start : segment.stop] = again[segment.start :]
                nodes = range(segment.start, segment.stop)
                self._differentiate_nodes(values, gradients, nodes, wanted, how)
        return gradients

    def _evaluate_nodes(
        self,
        values: list[Any],
        stop: int,
        run: Operations,
        kept: Collection[int],
        known: Mapping[int, Any] | None,
    ) -> None:
        evaluate_nodes(self._graph, values, stop, run, self._last, kept, known)

    def _differentiate_nodes(
        self,
        values: list[Any],
        gradients: Gradients,
        positions: range,
        wanted: Collection[int],
        run: Operations,
    ) -> None:
        differentiate_nodes(self._graph, values, gradients, positions, wanted, run)


class Segment:
    """The nodes from ``start`` to ``stop``, where layers begin or the graph ends.

    Attributes
    ----------
    reads : tuple of int
        The values from before that its nodes read.
    writes : list of int
        The values of its nodes that outputs, layers and later segments read.
    """

    def __init__(
        self, graph: Nodes, run: Operations, start: int, stop: int, last: Sequence[int]
    ) -> None:
        self.start, self.stop = start, stop
        self.stop_of_layers = min(stop + 1, len(graph.nodes))
        self._graph, self._run = graph, run
        nodes = graph.nodes[start:stop]
        self._numbers = [node.detail for node in nodes]  # and None for what is computed
        used = dict.fromkeys(operand for node in nodes for operand in node.operands)
        self.reads = tuple(
            [place for place in used if place < start and graph.nodes[place].operation != "number"]
        )
        computed = [
            place for place in range(start, stop) if graph.nodes[place].operation != "number"
        ]
        self.writes = [place for place in computed if last[place] >= stop or place in graph.outputs]
        self._idle = bool(computed and not self.writes)
        self._dropped = [place for place in self.reads if last[place] < stop]
        self._value = entry(self._part(self.writes), run)
        self._backs: dict[Any, Back] = {}

    def evaluate(self, values: list[Any], kept: Collection[int], known: Mapping[int, Any]) -> Any:
        """Append the values of the nodes; True if that was done, else what `Entry.run` returns."""
        if all(place in known for place in self.writes):
            found = [known[place] for place in self.writes]
        else:
            found = self._value.run(tuple([values[place] for place in self.reads]))
        if found is None or found is WARNS or self._idle:  # of no use, but it may warn
            return found if found is WARNS else None
        values += self._numbers
        for place, value in zip(self.writes, found, strict=True):
            values[place] = value
        for place in self._dropped:
            if place not in kept:
                values[place] = without_memory(values[place])
        return True

    def differentiate(
        self, values: list[Any], gradients: Gradients, wanted: Collection[int]
    ) -> Any:
        """Pass the gradients of the nodes back to what they read; True as for `evaluate`."""
        begun = tuple([place for place in self.writes if place in gradients])
        if not begun:
            return True
        # A value read here may have a gradient from later nodes, to which that from here is added.
        begun += tuple([place for place in self.reads if place in gradients])
        key = begun, tuple([place for place in self.reads if place in wanted])
        if key not in self._backs:
            self._backs[key] = self._back(*key)
        back = self._backs[key]
        found = ()
        if back.entry:
            operands = tuple([values[place] for place in self.reads])
            found = back.entry.run(operands, tuple([gradients[place] for place in back.begun]))
            if found is None or found is WARNS:
                return found
        for place in begun:
            if place >= self.start:
                values[place] = None
                del gradients[place]
        gradients.update(zip(back.reached, found, strict=True))
        gradients.foreign.difference_update(back.reached)
        return True

    def _back(self, begun: Sequence[int], wanted: Sequence[int]) -> Back:
        found = {place for place in begun if place >= self.start}
        for place in reversed(range(self.start, self.stop)):
            node = self._graph.nodes[place]
            if place in found and node.operands:
                found.update(differentiable(node))
        reached = tuple([place for place in wanted if place in found])
        if not reached:
            return Back(None, (), ())
        begun = tuple([place for place in begun if place >= self.start or place in reached])
        names = tuple([f"v{place}" for place in reached])
        return Back(entry(self._part(begun), self._run, False, names), begun, reached)

    def _part(self, outputs: Sequence[int]) -> Nodes:
        """The nodes as a graph of what they read."""
        nodes = self._graph.nodes
        used = [operand for node in nodes[self.start : self.stop] for operand in node.operands]
        numbers = [
            place for place in used if place < self.start and nodes[place].operation == "number"
        ]
        places = list(dict.fromkeys([*self.reads, *numbers, *range(self.start, self.stop)]))
        moved = {place: i for i, place in enumerate(places)}
        names = tuple([f"v{place}" for place in self.reads])
        inputs = [Node("input", detail=name) for name in names]
        others = [
            nodes[place]._replace(operands=tuple([moved[o] for o in nodes[place].operands]))
            for place in places[len(inputs) :]
        ]
        returned = tuple([moved[place] for place in outputs])
        return Nodes(self._graph.name, (*inputs, *others), names, returned, False)


class Back(NamedTuple):
    """The gradients of a segment, of those that have ``begun``, for the values ``reached``.

    Without an entry none is reached.
    """

    entry: Entry | None
    begun: tuple[int, ...]
    reached: tuple[int, ...]
