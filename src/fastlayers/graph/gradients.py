"""The graph of the gradients: what `backward` would compute, recorded instead of computed.

`Request.differentiate` does both. Here it gets names of values, `Value`, and operations that
record what is asked of them. So the graph computes what `backward` does, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .interpreter import Request
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
