"""Runs a graph's nodes one by one: their values, and by the chain rule their gradients.

The caller supplies the operations, by name (see operations.py). The same code, run on names of
values instead of values, makes the graph of the gradients; run on kinds of values, a plan.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .nodes import Node, Nodes
from .operations import OPERATIONS, Operations
from .rules import rules_of


class Request(NamedTuple):
    """What is asked of some nodes, none of them a layer, given the values from before.

    Attributes
    ----------
    graph : Nodes
    start, stop : int
        The nodes.
    reads : sequence of int
        The values that are given: those from before ``start`` that the nodes read, and arrays from
        outside.
    values : sequence of int
        The values that are asked for.
    begun : sequence of int
        The values of which gradients are given.
    wanted : sequence of int
        Those among ``reads`` whose gradients are asked for.
    quiet : int
        The nodes before this one have been computed before, and have warned.
    """

    graph: Nodes
    start: int
    stop: int
    reads: Sequence[int]
    values: Sequence[int] = ()
    begun: Sequence[int] = ()
    wanted: Sequence[int] = ()
    quiet: int = 0

    def evaluate(self, given: Sequence[Any], run: Operations) -> list[Any]:
        """The values of the nodes, at their places; from before only what they read."""
        values: list[Any] = []
        self.evaluate_up_to(self.stop, values, given, run)
        return values

    def evaluate_up_to(
        self, stop: int, values: list[Any], given: Sequence[Any], run: Operations
    ) -> None:
        """Append the values of the next nodes."""
        known = dict(zip(self.reads, given, strict=True))
        if not values:
            for place, node in enumerate(self.graph.nodes[: self.start]):
                number = node.detail if node.operation == "number" else None
                values.append(known.get(place, number))
        evaluate_nodes(self.graph, values, stop, run, known=known)

    def differentiate(self, values: list[Any], douts: Sequence[Any], run: Operations) -> list[Any]:
        """The gradients, of what `evaluate` returned; numbers stand for all elements."""
        through = reached(self.graph, self.wanted)
        gradients = Gradients()
        begun = [
            (place, run["broadcast_to"](dout, values[place]))
            for place, dout in zip(self.begun, douts, strict=True)
            if place in through
        ]
        for place, dout in begun:
            gradients.add(place, dout, run, foreign=True)
        nodes = range(self.start, self.stop)
        differentiate_nodes(self.graph, values, gradients, nodes, through, run)
        return [
            gradients[place] if place in gradients else run["zeros_like"](values[place])
            for place in self.wanted
        ]


def evaluate_nodes(
    graph: Nodes,
    values: list[Any],
    stop: int,
    run: Operations,
    last: Sequence[int] | None = None,
    kept: Collection[int] = (),
    known: Mapping[int, Any] | None = None,
) -> None:
    """Append the values of the next nodes, up to ``stop``.

    After its last use a value is replaced by a stand-in with the same shape, unless it is ``kept``;
    if there are no ``last`` uses, all are. Layers do not run if their values are ``known``.
    """
    for position in range(len(values), stop):
        node = graph.nodes[position]
        used = [values[operand] for operand in node.operands]
        try:
            if known and position in known:
                value = known[position]
            elif node.operation in ("number", "constant"):
                value = node.detail
            elif node.detail is None:
                value = run[node.operation](*used)
            elif node.operation != "layer":
                value = run[node.operation](*used, **dict(node.detail))
            else:
                value = _forward_of_layer(node.detail, used)
        except Exception as error:
            _add_note(error, graph.note(position, values))
            raise
        values.append(value)
        for operand in (*node.operands, position):
            if last and last[operand] == position and operand not in kept:
                values[operand] = without_memory(values[operand])


def _forward_of_layer(layer: Any, operands: list[Any]) -> Any:
    """The one value that a user's layer returns; a list becomes an array."""
    value = layer.forward(*operands)
    if isinstance(value, tuple):
        raise TypeError(f"{type(layer).__name__}.forward must return one value, not a tuple")
    return np.array(value) if isinstance(value, list) else value


def _add_note(error: Exception, note: str) -> None:
    if note not in getattr(error, "__notes__", ()):  # a layer may raise the same error again
        error.add_note(note)


def without_memory(value: Any) -> Any:
    """A stand-in for an array of which only shape and dtype matter."""
    if type(value) is not np.ndarray or value.dtype.hasobject:
        return value
    # What np.broadcast_to makes, in a tenth of the time.
    item = np.zeros((), value.dtype)
    return np.ndarray(value.shape, value.dtype, item, strides=(0,) * value.ndim)


def reached(graph: Nodes, inputs: Collection[int]) -> set[int]:
    """The nodes through which gradients pass to these inputs."""
    found = set(inputs)
    for position, node in enumerate(graph.nodes):
        if not found.isdisjoint(differentiable(node)):
            found.add(position)
    return found


def differentiable(node: Node) -> Sequence[int]:
    """The operands to which a node passes gradients."""
    if node.operation not in OPERATIONS:
        return node.operands  # those of a layer
    rules = rules_of(node)
    return [operand for operand, rule in zip(node.operands, rules, strict=True) if rule]


class Gradients(dict[int, Any]):
    """Gradients by their nodes.

    Attributes
    ----------
    foreign : set of int
        Those that may share memory with anything: from the user, or a user's layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.foreign: set[int] = set()

    def add(self, position: int, contribution: Any, run: Operations, foreign: bool) -> None:
        """Add what a node contributes."""
        if position in self:
            contribution = run["add"](self[position], contribution)
            self.foreign.discard(position)
        elif foreign:
            self.foreign.add(position)
        self[position] = contribution

    def copy_foreign(self) -> None:
        """Make all share memory with nothing, before somebody may write into what they share."""
        for position in self.foreign:
            if position in self:
                self[position] = copied(self[position])
        self.foreign.clear()


def differentiate_nodes(
    graph: Nodes,
    values: list[Any],
    gradients: Gradients,
    positions: range,
    wanted: Collection[int],
    run: Operations,
    keep: bool = False,
) -> None:
    """Pass gradients back through nodes, from last to first.

    A visited node's value and gradient are dropped, unless ``keep`` is set.
    """
    for position in reversed(positions):
        if position not in gradients:
            continue
        node = graph.nodes[position]
        foreign = node.operation == "layer"
        if foreign:  # it may write into the gradient that it is given, and into what it returned
            gradients.copy_foreign()
        dout = copied(gradients[position]) if foreign and keep else gradients[position]
        try:
            for operand, contribution in _contributions(position, node, dout, values, wanted, run):
                gradients.add(operand, contribution, run, foreign)
        except Exception as error:
            _add_note(error, graph.note(position, values, "gradient of"))
            raise
        if not keep:
            values[position] = None
            del gradients[position]


def _contributions(
    position: int,
    node: Node,
    dout: Any,
    values: list[Any],
    wanted: Collection[int],
    run: Operations,
) -> list[tuple[int, Any]]:
    """What a node adds to the gradients of its operands, each in the operand's shape."""
    used = [values[operand] for operand in node.operands]
    if node.operation == "layer":
        passed = _backward_of_layer(node.detail, dout, used)
        sum_to = run["sum_to"]
        return [
            (operand, one if _are_alike(one, value) else sum_to(one, value))
            for operand, value, one in zip(node.operands, used, passed, strict=True)
            if operand in wanted and one is not None
        ]
    value = values[position]
    contributions = []
    for operand, like, rule in zip(node.operands, used, rules_of(node), strict=True):
        if operand not in wanted or rule is None:
            continue
        if rule.steps is None:
            raise TypeError(
                f"nothing is known of the gradient of {node.operation.removeprefix('np.')}: "
                f"fastlayers.define_gradients says how it is differentiated"
            )
        contribution = rule.apply(run, dout, value, used)
        if rule.summed:
            contribution = run["sum_to"](contribution, like)
        contributions.append((operand, contribution))
    return contributions


def _backward_of_layer(layer: Any, dout: Any, operands: list[Any]) -> list[Any]:
    """The gradients from a user's layer, which may share memory with anything."""
    returned = layer.backward(dout)
    name = f"{type(layer).__name__}.backward"
    several = len(operands) > 1 or (isinstance(returned, tuple) and len(returned) == 1)
    gradients = list(returned) if several and isinstance(returned, tuple | list) else [returned]
    if len(gradients) != len(operands):
        raise ValueError(
            f"{name} must return {len(operands)} gradients, not {len(gradients)}: one for each "
            f"operand of {type(layer).__name__}.forward, and None for one that has none, as labels "
            f"(return dx, None)"
        )
    for i, (gradient, operand) in enumerate(zip(gradients, operands, strict=True)):
        if gradient is None or _are_alike(gradient, operand):
            continue
        if isinstance(gradient, list | tuple):
            gradients[i] = np.array(gradient)
        shape, expected = np.shape(gradient), np.shape(operand)
        if shape == expected:
            continue
        if np.broadcast_shapes(shape, expected) != shape:
            raise ValueError(f"{name} returned shape {shape} for an operand of shape {expected}")
    return gradients


def _are_alike(gradient: Any, operand: Any) -> bool:
    """Whether both are plain arrays of one shape."""
    return type(gradient) is type(operand) is np.ndarray and gradient.shape == operand.shape


def copied(value: Any) -> Any:
    """A copy that shares memory with nothing; a number unchanged."""
    if isinstance(value, np.ndarray):
        return value.copy(order="K")  # np.array would convert a masked array's fill value, too
    if isinstance(value, list | tuple):
        return np.array(value)
    return copy.copy(value) if hasattr(value, "dtype") else value
