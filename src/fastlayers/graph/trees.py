"""Parameters that are trees: lists, tuples and dicts of operands, as networks keep weights."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from numbers import Number
from typing import Any

from ..base import Placeholder

CONTAINERS = list, tuple, dict


class _Leaf:
    """Stands for an operand in a tree's structure."""

    def __repr__(self) -> str:
        return "·"

    def __reduce__(self) -> str:
        return "LEAF"  # there is only one


LEAF = _Leaf()


def is_leaf(value: Any) -> bool:
    """Whether a value is an operand; what is none, as a text or None, belongs to the structure."""
    return hasattr(value, "dtype") or isinstance(value, Placeholder | Number)


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The operands in a tree, in order, each with its name: ``layers[0]['w']``."""
    if isinstance(tree, list | tuple):
        for i, one in enumerate(tree):
            yield from leaves(one, f"{name}[{i}]")
    elif isinstance(tree, dict):
        for key, one in tree.items():
            yield from leaves(one, f"{name}[{key!r}]")
    elif is_leaf(tree):
        yield name, tree


def structure(tree: Any) -> Any:
    """The tree with `LEAF` for each operand. Those of like trees are equal."""
    if is_leaf(tree):
        return LEAF
    if isinstance(tree, dict):
        return type(tree), tuple((key, structure(one)) for key, one in tree.items())
    if isinstance(tree, list | tuple):
        return type(tree), tuple(map(structure, tree))
    return tree


def filled(tree: Any, values: Iterator[Any]) -> Any:
    """The tree with other operands."""
    if is_leaf(tree):
        return next(values)
    if isinstance(tree, dict):
        found = copy(tree)  # a defaultdict is not made of items alone
        found.update((key, filled(one, values)) for key, one in tree.items())
        return found
    if isinstance(tree, list | tuple):
        parts = [filled(one, values) for one in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree


def matched(tree: Any, other: Any, name: str) -> Iterator[Any]:
    """What ``other`` has in the place of each operand; it may be None for a whole part."""
    if is_leaf(tree):
        yield other
    elif isinstance(tree, list | tuple | dict):
        if other is not None and (type(other) is not type(tree) or len(other) != len(tree)):
            raise ValueError(f"'out' for {name} must have its structure, {structure(tree)}")
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            if isinstance(other, dict) and key not in other:
                raise ValueError(f"'out' for {name} has no {key!r}")
            part = None if other is None else other[key]
            yield from matched(tree[key], part, f"{name}[{key!r}]")


def is_tree(value: Any) -> bool:
    """Whether a value is a container of operands that are arrays, rather than array-like itself."""
    if isinstance(value, dict):
        return True
    return isinstance(value, list | tuple) and any(
        isinstance(one, dict | Placeholder) or hasattr(one, "dtype") or is_tree(one)
        for one in value
    )


def symbols_in(tree: Any) -> Iterator[Any]:
    """The symbols in a container."""
    return (leaf for _, leaf in leaves(tree) if isinstance(leaf, Placeholder))
