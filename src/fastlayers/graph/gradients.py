"""The graph of the gradients: what `backward` would compute, recorded instead of computed.

`Request.differentiate` does both. Here it gets names of values, `Value`, and operations that
record what is asked of them. So the graph computes what `backward` does, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .interpreter import Gradients, Request, differentiate_nodes, reached
from .nodes import Node, Nodes, key_of
from .operations import OPERATIONS, SHAPED


class Value(NamedTuple):
    """The value of a node."""

    position: int


class Builder(dict[str, Callable[..., Any]]):
    """Operations that append nodes to a graph's nodes instead of computing."""

    def __init__(self, graph: Nodes, place: str) -> None:
        self.nodes = list(graph.nodes)
        self.place = place

    def __missing__(self, operation: str) -> Callable[..., Value]:
        return lambda *operands, **options: self.append(operation, operands, options)

    def append(self, operation: str, operands: Sequence[Any], options: Mapping[str, Any]) -> Value:
        positions = tuple([self._position_of(operand) for operand in operands])
        detail = tuple(options.items()) or None
        self.nodes.append(Node(operation, positions, detail, self.place))
        return Value(len(self.nodes) - 1)

    def scalar(self, value: Value) -> Value:
        """A value that is no array without axes."""
        operation = self.nodes[value.position].operation
        arithmetic = operation in OPERATIONS and OPERATIONS[operation].elementwise
        arithmetic = (arithmetic and operation != "where") or operation in SHAPED
        return value if arithmetic else self.append("scalar", (value,), {})

    def _position_of(self, operand: Any) -> int:
        if isinstance(operand, Value):
            return operand.position
        self.nodes.append(Node("number", detail=operand))
        return len(self.nodes) - 1


def graph_of_gradients(graph: Nodes, names: Sequence[str]) -> Nodes:
    """The gradients of the sum of a graph's outputs, by the inputs ``names``, as a graph."""
    name = f"{graph.name}.grad({', '.join(map(repr, names))})"
    for node in graph.nodes:
        if node.operation == "layer":
            raise TypeError(
                f"{name}: {type(node.detail).__name__}, a layer of one's own, says what its "
                f"gradient is but not of which nodes it is made; made at {node.place}"
            )
    builder = Builder(graph, name)
    values: list[Any] = [Value(position) for position in range(len(graph.nodes))]
    inputs = range(len(graph.inputs))
    wanted = [graph.inputs.index(one) for one in names]
    request = Request(graph, len(inputs), len(values), inputs, (), graph.outputs, wanted)
    found = request.differentiate(values, [1] * len(graph.outputs), builder)
    outputs = [builder.scalar(one) for one in found]
    positions = tuple([output.position for output in outputs])
    return simplified(Nodes(name, tuple(builder.nodes), graph.inputs, positions, len(names) == 1))


def graph_of_both(
    graph: Nodes, names: Sequence[str], values: bool, known: Sequence[int], scalars: set[int]
) -> Nodes:
    """A graph's gradients by ``names``, after its values if these are asked for.

    Its inputs are the operands, the gradients of the outputs, and the values of nodes that are
    ``known``. The gradients of ``scalars`` are given as such. The nodes that compute gradients were
    made at `GRADIENT`.
    """
    first, count = len(graph.inputs), len(graph.outputs)
    added = [f"dout{i}" for i in range(count)] + [f"known{place}" for place in known]
    nodes = [*graph.nodes[:first], *(Node("input", (), name) for name in added)]
    moved = list(range(first))
    for node in graph.nodes[first:]:
        moved.append(len(nodes))
        nodes.append(node._replace(operands=tuple([moved[operand] for operand in node.operands])))
    outputs = tuple([moved[output] for output in graph.outputs])
    whole = Nodes(graph.name, tuple(nodes), (*graph.inputs, *added), outputs, False)
    builder = Builder(whole, GRADIENT)
    given = [Value(first + i) for i in range(count)]
    gradients = Gradients()
    through = reached(whole, [graph.inputs.index(one) for one in names])
    for dout, output, place in zip(given, outputs, graph.outputs, strict=True):
        if output in through:
            if place not in scalars:
                dout = builder.append("broadcast_to", (dout, Value(output)), {})
            gradients.add(output, dout, builder, foreign=True)
    everything: list[Any] = [Value(position) for position in range(len(nodes))]
    positions = range(len(whole.inputs), len(nodes))
    differentiate_nodes(whole, everything, gradients, positions, through, builder)
    found = [
        gradients[i] if i in gradients else builder.append("zeros_like", (Value(i),), {})
        for i in map(graph.inputs.index, names)
    ]
    results = [builder.scalar(one).position for one in found]
    if values:  # what nothing depends on may warn, too
        results = [*outputs, *results, *[moved[place] for place in graph.unread()]]
    inputs = {moved[place]: first + count + i for i, place in enumerate(known)}
    nodes = [
        node._replace(operands=tuple([inputs.get(operand, operand) for operand in node.operands]))
        for node in builder.nodes
    ]
    return whole._replace(nodes=tuple(nodes), outputs=tuple(results))


GRADIENT = "the gradients"


def simplified(graph: Nodes) -> Nodes:
    """The graph without nodes that no output needs; equal nodes are computed once."""
    needed = graph.needed()
    nodes: list[Node] = []
    moved: dict[int, int] = {}
    known: dict[Any, int] = {}
    for position, node in enumerate(graph.nodes):
        if position not in needed and position >= len(graph.inputs):
            continue
        operands = tuple([moved[operand] for operand in node.operands])
        key = node.operation, operands, key_of(node.detail)
        if key not in known:
            known[key] = len(nodes)
            nodes.append(node._replace(operands=operands))
        moved[position] = known[key]
    outputs = tuple([moved[output] for output in graph.outputs])
    return graph._replace(nodes=tuple(nodes), outputs=outputs)
