"""The interface of every layer in a computational graph."""

import sys
from collections.abc import Callable
from numbers import Number
from typing import Any

import numpy as np


class Placeholder:
    """Stands for an operand while a graph is recorded: the base class of symbols.

    It is defined here so that layers know symbols without knowing graphs.
    """

    __slots__ = ()

    def apply(self, layer: "BaseLayer", operands: tuple[Any, ...]) -> Any:
        """Make a node of ``layer`` in the graph that is being recorded."""
        raise NotImplementedError


class BaseLayer:
    """A node of a computational graph: ``forward``, ``backward`` and ``toString``.

    Subclass it to write your own layer. Each method raises ``NotImplementedError`` until you
    override it.

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

    # Any operands, for type checkers: a user's layer may take whatever it likes.
    def forward(self, *operands: Any, **named: Any) -> Any:
        """Compute the node's output from its operands, ``x`` and ``y``."""
        raise NotImplementedError

    def backward(self, *dout: Any, **named: Any) -> Any:
        """Compute the operands' gradients, ``(dx, dy)``, from the output's gradient, ``dout``."""
        raise NotImplementedError

    def toString(self) -> None:
        """Print the layer's name and the shapes that it holds."""
        raise NotImplementedError


class ElementwiseLayer(BaseLayer):
    """What elementwise layers share: the operands of the last ``forward``, and how they print.

    Each subclass defines ``__init__`` itself, so that the errors it raises name the subclass.
    """

    # Class attributes, for users' subclasses that do not call __init__.
    x: Any = None
    y: Any = None
    sum_to_shape: bool = False

    # What toString prints. Read from the class: users' subclasses may set ``name``.
    _printed_name: str

    def toString(self) -> None:
        """Print the layer's name and the shapes of its operands, one per line.

        Raises
        ------
        AttributeError
            Before ``forward``, or if an operand is neither a number nor has a ``shape``.
        """
        shapes = _shape_of(self, "x"), _shape_of(self, "y")
        print("name:", type(self)._printed_name)
        print("x.shape", shapes[0])
        print("y.shape", shapes[1])

    def __repr__(self) -> str:
        parts = [f"{name}={_summary(getattr(self, name))}" for name in ("x", "y")]
        if self.sum_to_shape:
            parts.append(f"sum_to_shape={self.sum_to_shape}")
        return f"<{type(self).__name__}: {', '.join(parts)}>"


def explain(layer: ElementwiseLayer, dout: Any) -> None:
    """Add a note on the operands, and what to do, to the error of ``layer.backward(dout)``."""
    if layer.x is None or layer.y is None:
        note = "x and y are None; call forward(x, y) first, it keeps the operands"
    else:
        operands = {"dout": dout, "x": layer.x, "y": layer.y}
        kinds = ", ".join(f"{name} is {_kind(value)}" for name, value in operands.items())
        note = f"{kinds}; dout must fit what forward(x, y) returned"
    if error := sys.exception():
        error.add_note(f"{type(layer).__name__}.backward(dout): {note}")


def _kind(value: Any) -> str:
    """An operand's type, and an array's shape, without running any of the operand's code."""
    kind = type(value).__name__
    return f"{kind} of shape {value.shape}" if issubclass(type(value), np.ndarray) else kind


def _shape_of(layer: ElementwiseLayer, operand: str) -> Any:
    value = getattr(layer, operand)
    if value is None:
        raise AttributeError(
            f"{type(layer).__name__}.toString(): {operand} is None; "
            f"call forward(x, y) first, it keeps the operands"
        )
    return () if isinstance(value, Number) else value.shape


def number_text(value: Any, written: Callable[[Any], str]) -> str:
    """A number as ``str`` or ``repr`` writes it; an int with too many digits for that by size."""
    try:
        return written(value)
    except ValueError:
        return f"<int of {value.bit_length()} bits>"


def _summary(value: Any) -> str:
    """An operand in a few words: an array by dtype and shape, anything else by its type."""
    if value is None:
        return "None"
    if isinstance(value, Number):
        return number_text(value, repr)
    kind = type(value).__name__
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{kind} {value.dtype} {value.shape}"
    return kind
