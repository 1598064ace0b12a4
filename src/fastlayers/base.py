"""The interface that every layer of a computational graph has."""

from __future__ import annotations

from numbers import Number
from typing import Any


class Placeholder:
    """What stands for an operand while a graph is recorded: the base of its symbols.

    It is here so that layers know symbols without knowing graphs.
    """

    __slots__ = ()

    def apply(self, layer: BaseLayer, operands: tuple[Any, ...]) -> Any:
        """Make a node of ``layer`` in the graph that is recorded."""
        raise NotImplementedError


class BaseLayer:
    """A node of a computational graph: ``forward``, ``backward`` and ``toString``.

    Subclass it to write a layer of one's own; each method raises ``NotImplementedError`` until
    it is overridden.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlayers import BaseLayer
    >>> class Relu(BaseLayer):
    ...     def forward(self, x):
    ...         self.x = x
    ...         return np.maximum(x, 0)
    ...
    ...     def backward(self, dout):
    ...         return dout * (self.x > 0)
    >>> layer = Relu()
    >>> layer.forward(np.array([-1.0, 2.0]))
    array([0., 2.])
    >>> layer.backward(np.array([1.0, 3.0]))
    array([0., 3.])
    """

    def __call__(self, *operands: Any) -> Any:
        """Return ``forward(*operands)``; in a function that `Graph` records, make a node."""
        for operand in operands:
            if isinstance(operand, Placeholder):
                return operand.apply(self, operands)
        return self.forward(*operands)

    def forward(self, x: Any, y: Any) -> Any:
        """Compute the node's output from its operands."""
        raise NotImplementedError

    def backward(self, dout: Any) -> Any:
        """Compute the gradients of the operands, ``(dx, dy)``, from that of the output."""
        raise NotImplementedError

    def toString(self) -> None:
        """Print what the layer is and the shapes that it holds."""
        raise NotImplementedError


class ElementwiseLayer(BaseLayer):
    """What the elementwise layers share: the operands of the last ``forward``, and how they print.

    A subclass sets ``name``, the word that ``toString`` prints.
    """

    name: str

    # Also of the class, for subclasses that do not call this __init__.
    x: Any = None
    y: Any = None
    sum_to_shape: bool = False

    def __init__(self, *, sum_to_shape: bool = False) -> None:
        self.x = None
        self.y = None
        self.sum_to_shape = sum_to_shape

    def toString(self) -> None:
        """Print the layer's name and the shapes of its operands, a line each.

        Raises
        ------
        AttributeError
            Before ``forward``, or if an operand is neither a number nor has a ``shape``.
        """
        shapes = self._shape("x"), self._shape("y")
        print("name:", self.name)
        print("x.shape", shapes[0])
        print("y.shape", shapes[1])

    def _shape(self, operand: str) -> Any:
        value = getattr(self, operand)
        if value is None:
            raise AttributeError(
                f"{type(self).__name__}.toString(): {operand} is None; "
                f"call forward(x, y) first, it keeps the operands"
            )
        return () if isinstance(value, Number) else value.shape

    def __repr__(self) -> str:
        operands = ", ".join(f"{name}={_summary(getattr(self, name))}" for name in ("x", "y"))
        return f"<{type(self).__name__}: {operands}>"


def _summary(value: Any) -> str:
    """An operand in a few words: an array by dtype and shape, anything else by its type."""
    if value is None:
        return "None"
    if isinstance(value, Number):
        return repr(value)
    kind = type(value).__name__
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{kind} {value.dtype} {value.shape}"
    return kind
