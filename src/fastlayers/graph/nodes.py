"""A graph as data: its nodes in the order in which they were made; and as text."""

from __future__ import annotations

from collections.abc import Container, Sequence
from numbers import Number
from typing import Any, NamedTuple

import numpy as np

from ..base import BaseLayer, number_text
from .adjoints import Place
from .calls import written, written_option
from .operations import OPERATIONS


class Node(NamedTuple):
    """A value of a graph: an input, a number or an array from outside, or the result of an
    operation on earlier values.

    ``detail`` is an input's name, a number, an array, a layer, or an operation's options by name;
    ``place`` is the line that made the node.
    """

    operation: str
    operands: tuple[int, ...] = ()
    detail: Any = None
    place: str = ""

    @property
    def like(self) -> Container[int]:
        """Which of the operands matter for their shape alone."""
        return OPERATIONS[self.operation].like if self.operation in OPERATIONS else ()


class Nodes(NamedTuple):
    """A whole graph. Inputs come first, in the order of the parameters.

    ``single`` distinguishes a function that returned a value from one that returned a 1-tuple.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[int, ...]
    single: bool

    def check(self) -> None:
        """Raise ValueError if this is no graph, as what was read from a file may be."""
        read = len(self.inputs)
        for position, node in enumerate(self.nodes):
            if not _is_node(node, position, read):
                raise ValueError(f"node {position} of {len(self.nodes)} is {node!r:.80}")
        names = [node.detail for node in self.nodes[:read]]
        if names != list(self.inputs) or len(set(names)) < read:
            raise ValueError(f"its inputs are {self.inputs!r:.80}, its first nodes {names!r:.80}")
        outputs = self.outputs
        single = self.single and len(outputs) != 1
        if single or not outputs or not _all_below(outputs, len(self.nodes)):
            raise ValueError(f"its outputs are {outputs!r:.80}, of {len(self.nodes)} nodes")

    def needed(self) -> set[int]:
        """The positions of the nodes that an output depends on."""
        needed = set(self.outputs)
        for position in reversed(range(len(self.nodes))):
            if position in needed:
                needed.update(self.nodes[position].operands)
        return needed

    def unread(self) -> list[int]:
        """The computed values that no node reads, or of which it reads the shape alone."""
        read = {
            operand
            for node in self.nodes
            for i, operand in enumerate(node.operands)
            if i not in node.like
        }
        return [i for i in range(len(self.inputs), len(self.nodes)) if i not in read]

    def last_uses(self) -> list[int]:
        """For each node the last one that reads it; itself if there is none."""
        last = list(range(len(self.nodes)))
        for position, node in enumerate(self.nodes):
            for operand in node.operands:
                last[operand] = position
        return last

    def labels(self) -> list[str]:
        """A name for each node: an input's, a number itself, c0, … for arrays from outside, t0, …
        for computed values.
        """
        labels: list[str] = []
        computed = constants = 0
        for node in self.nodes:
            if node.operation in ("input", "number"):
                labels.append(number_text(node.detail, str))
            elif node.operation == "constant":
                labels.append(f"c{constants}")
                constants += 1
            else:
                labels.append(f"t{computed}")
                computed += 1
        return labels

    def expression(self, position: int, labels: Sequence[str]) -> str:
        """What a node computes, with its operands' labels."""
        node = self.nodes[position]
        operands = [labels[operand] for operand in node.operands]
        if node.operation == "layer":
            return f"{type(node.detail).__name__}({', '.join(operands)})"
        options = dict(node.detail or ())
        if node.operation == "getitem":
            return f"{operands[0]}[{written(options['index'], operands[1:])}]"
        row = OPERATIONS[node.operation]
        if row.text:
            return row.text.format(*operands)
        like = [f"like={one}" if i in row.like else one for i, one in enumerate(operands)]
        named = [f"{name}={written_option(name, value)}" for name, value in options.items()]
        return f"{node.operation.removeprefix('np.')}({', '.join([*like, *named])})"

    def listing(self, values: Sequence[Any] | None = None) -> str:
        """A line for each node: what it computes, and with ``values`` its value's shape."""
        labels = self.labels()
        lines = [f"{self.name}({', '.join(self.inputs)})"]
        for position, node in enumerate(self.nodes):
            if node.operation == "number" or (node.operation == "input" and values is None):
                continue
            line = labels[position]
            if node.operation == "constant":
                line += f" = {summary(node.detail)}, from outside"
            elif node.operation != "input":
                line += f" = {self.expression(position, labels)}"
            if values is not None and node.operation != "constant":
                line += f": {summary(values[position])}"
            lines.append(line)
        returned = ", ".join(labels[output] for output in self.outputs)
        lines.append(f"return {returned}" + ("," if len(self.outputs) == 1 != self.single else ""))
        return "\n    ".join(lines)

    def note(self, position: int, values: Sequence[Any], what: str = "node") -> str:
        """The note for an error at a node: which node, its operands, and the line that made it."""
        labels = self.labels()
        node = self.nodes[position]
        operands = ", ".join(
            f"{labels[operand]} {summary(values[operand])}"
            for operand in dict.fromkeys(node.operands)
            if self.nodes[operand].operation != "number"
        )
        place = f"; made at {node.place}" if node.place else ""
        return (
            f"{what} {labels[position]} = {self.expression(position, labels)} of "
            f"{self.name}: {operands}{place}"
        )


def _is_node(node: Any, position: int, inputs: int) -> bool:
    """Whether it may stand at a position of a graph with so many inputs."""
    if not (isinstance(node, Node) and _all_below(node.operands, position)):
        return False
    count = len(node.operands)
    if position < inputs:
        return node.operation == "input" and isinstance(node.detail, str) and count == 0
    if node.operation == "number":
        return isinstance(node.detail, Number | np.bool_) and count == 0
    if node.operation == "layer":
        return isinstance(node.detail, BaseLayer) and count > 0
    if node.operation == "constant":
        return hasattr(node.detail, "__array__") and count == 0
    if node.operation not in OPERATIONS or not _are_options(node.detail):
        return False
    if node.operation in ("getitem", "setitem"):
        index = dict(node.detail or ()).get("index")
        arrays = count - (1 if node.operation == "getitem" else 2)
        return isinstance(index, tuple) and [type(part) for part in index].count(Place) == arrays
    gradients = OPERATIONS[node.operation].gradients
    return count > 0 if callable(gradients) else count == len(gradients)


def _are_options(detail: Any) -> bool:
    return detail is None or (
        isinstance(detail, tuple)
        and all(isinstance(one, tuple) and len(one) == 2 and type(one[0]) is str for one in detail)
        and isinstance(dict(detail).get("keepdims", False), bool)
    )


def _all_below(places: Any, stop: int) -> bool:
    return isinstance(places, tuple) and all(type(p) is int and 0 <= p < stop for p in places)


def summary(value: Any) -> str:
    """A value in a word or two: an array's dtype and shape, a number itself, else the type."""
    if isinstance(value, Number):
        return number_text(value, repr)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__


def key_of(detail: Any) -> tuple[type, Any]:
    """What tells a number from all others: 1, 1.0 and True are three, as are 0.0 and -0.0.

    Arrays are told apart by where they are; options by their text.
    """
    if hasattr(detail, "__array__") and not isinstance(detail, np.generic):
        return type(detail), id(detail)
    # The repr of an int may be too long to be written.
    return type(detail), detail if isinstance(detail, int) else repr(detail)
