"""Graphs in Graphviz's DOT language."""

from __future__ import annotations

from .drawing import STARTS, SYMBOLS, mark, output_names
from .nodes import Nodes

ESCAPES = str.maketrans({"&": "&amp;", "\\": "\\\\", '"': '\\"', "\n": " ", "\0": " "})


def to_dot(nodes: Nodes) -> str:
    """The whole structure of a graph, for ``dot -Tsvg``."""
    lines = [f"digraph {_quoted(nodes.name)} {{", "  rankdir=LR", '  node [fontname="sans-serif"]']
    for i, node in enumerate(nodes.nodes):
        named, text = node.operation in STARTS, mark(node)
        shape = "plaintext" if named else "circle" if text in SYMBOLS.values() else "box"
        lines.append(f"  {i} [label={_quoted(text)}, shape={shape}]")
        lines += [f"  {operand} -> {i}" for operand in node.operands]
    for i, name in output_names(nodes).items():
        lines.append(f"  out{i} [label={_quoted(name)}, shape=plaintext]")
        lines.append(f"  {i} -> out{i}")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return f'"{text.translate(ESCAPES)}"'
