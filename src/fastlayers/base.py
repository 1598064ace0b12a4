"""The interface of every layer in a computational graph."""

from collections.abc import Callable, Mapping
from typing import Any


class Placeholder:
    """Stands for an operand while a graph is recorded: the base class of symbols.

    It is defined here so that layers know symbols without knowing graphs.
    """

    __slots__ = ()

    def apply(self, layer: "BaseLayer", operands: tuple[Any, ...]) -> Any:
        """Make a node of ``layer`` in the graph that is being recorded."""
        raise NotImplementedError

    def record(
        self, operation: str, operands: tuple[Any, ...], options: Mapping[str, Any]
    ) -> "Placeholder":
        """Make a node of an operation by its name."""
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


def number_text(value: Any, written: Callable[[Any], str]) -> str:
    """A number as ``str`` or ``repr`` writes it; one with too many digits for that by size."""
    try:
        return written(value)
    except ValueError:
        if isinstance(value, int):
            return f"<int of {value.bit_length()} bits>"
        return f"<{type(value).__name__} of many digits>"  # a fraction of such numbers
