"""The layers and their functions in plain NumPy: the right answer, by definition.

The compiled functions are held to these in every bit, fall back on them for whatever the kernels
do not serve, and are measured against them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import ElementwiseLayer

__all__ = ["AddLayer", "MulLayer", "add", "add_backward", "multiply", "multiply_backward"]


def multiply(x: Any, y: Any, out: Any = None) -> Any:
    """Multiply element by element: ``x * y``.

    Parameters
    ----------
    x, y : array_like
        Operands of any shapes that broadcast together, of any dtype that NumPy multiplies, or
        Python numbers.
    out : ndarray, optional
        Array to write the result into, of the broadcast shape and a dtype that the product may
        be cast to (``casting="same_kind"``). It may overlap the operands.

    Returns
    -------
    ndarray or scalar
        What ``x * y`` gives, in value, type, dtype, shape and memory order; ``out`` where it was
        given.

    Raises
    ------
    TypeError, ValueError
        Whatever ``x * y``, or ``numpy.multiply(x, y, out=out)``, raises.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlayers import multiply
    >>> multiply(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    array([3., 8.])
    >>> multiply(100, 2)
    200
    """
    if out is None:
        return x * y
    return np.multiply(x, y, out=out)


def add(x: Any, y: Any, out: Any = None) -> Any:
    """Add element by element: ``x + y``.

    Parameters
    ----------
    x, y : array_like
        Operands of any shapes that broadcast together, of any dtype that NumPy adds, or Python
        numbers.
    out : ndarray, optional
        Array to write the result into, of the broadcast shape and a dtype that the sum may be
        cast to (``casting="same_kind"``). It may overlap the operands.

    Returns
    -------
    ndarray or scalar
        What ``x + y`` gives, in value, type, dtype, shape and memory order; ``out`` where it was
        given.

    Raises
    ------
    TypeError, ValueError
        Whatever ``x + y``, or ``numpy.add(x, y, out=out)``, raises.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlayers import add
    >>> add(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    array([4., 6.])
    >>> add(200, 450)
    650
    """
    if out is None:
        return x + y
    return np.add(x, y, out=out)


def multiply_backward(dout: Any, x: Any, y: Any, out: Any = None) -> tuple[Any, Any]:
    """Gradients of ``x * y``: ``(dout * y, dout * x)``.

    By the product rule, d(xy)/dx = y and d(xy)/dy = x, each times the gradient of the output.

    Parameters
    ----------
    dout : array_like
        Gradient of the output; any shape that broadcasts with the operands'.
    x, y : array_like
        The operands that ``multiply`` was given.
    out : tuple of two (ndarray or None), optional
        Arrays to write ``dx`` and ``dy`` into; None allocates that one. They may overlap the
        operands and each other.

    Returns
    -------
    dx, dy : ndarray or scalar
        What the two products give, in value, type, dtype, shape and memory order. Where operands
        were broadcast, each gradient has the shape of its product, not that of its operand.

    Raises
    ------
    TypeError, ValueError
        Whatever the products raise; with ``out``, what ``numpy.multiply`` raises for it, before
        either array is written.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlayers import multiply_backward
    >>> multiply_backward(np.array([1.0, 10.0]), np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    (array([ 3., 40.]), array([ 1., 20.]))
    """
    if out is None:
        return dout * y, dout * x
    return _products(dout, y, x, out)


def add_backward(dout: Any, out: Any = None) -> tuple[Any, Any]:
    """Gradients of ``x + y``: ``(dout * 1, dout * 1)``, two copies that share nothing.

    Since d(x + y)/dx = d(x + y)/dy = 1, the gradient of the output passes on unchanged.

    Parameters
    ----------
    dout : array_like
        Gradient of the output.
    out : tuple of two (ndarray or None), optional
        Arrays to write ``dx`` and ``dy`` into; None allocates that one. They may overlap
        ``dout`` and each other.

    Returns
    -------
    dx, dy : ndarray or scalar
        What ``dout * 1`` gives, twice: distinct, owned, writable arrays, neither of them ``dout``.

    Raises
    ------
    TypeError, ValueError
        Whatever ``dout * 1`` raises; with ``out``, what ``numpy.multiply`` raises for it, before
        either array is written.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlayers import add_backward
    >>> add_backward(np.array([1.0, 10.0]))
    (array([ 1., 10.]), array([ 1., 10.]))
    """
    if out is None:
        return dout * 1, dout * 1
    return _products(dout, 1, 1, out)


def _products(dout: Any, first: Any, second: Any, out: Any) -> tuple[Any, Any]:
    """``(dout * first, dout * second)`` into the pair ``out``, as one ufunc of two outputs would."""
    if not isinstance(out, tuple):
        raise TypeError(f"'out' must be a tuple of two arrays (dx, dy), not {type(out).__name__}")
    if len(out) != 2:
        raise ValueError(f"'out' must be a tuple of two arrays (dx, dy), not of {len(out)}")
    dx, dy = out
    # With where=False NumPy checks all that it ever checks, and writes nothing.
    for factor, result in ((first, dx), (second, dy)):
        if result is not None:
            np.multiply(dout, factor, out=result, where=False)
    if isinstance(dx, np.ndarray):
        # The second product must not see what the first one writes.
        dout_second, second = _copy_if_shared(dout, dx), _copy_if_shared(second, dx)
    else:
        dout_second = dout
    return np.multiply(dout, first, out=dx), np.multiply(dout_second, second, out=dy)


def _copy_if_shared(operand: Any, result: np.ndarray) -> Any:
    if isinstance(operand, np.ndarray) and np.may_share_memory(operand, result):
        return operand.copy(order="K")
    return operand


class MulLayer(ElementwiseLayer):
    """A node that multiplies: ``x * y``.

    Attributes
    ----------
    x, y : object
        The operands of the last ``forward``, the very objects that it was given; None before.

    Examples
    --------
    >>> from fastlayers import MulLayer
    >>> layer = MulLayer()
    >>> layer.forward(100, 2)
    200
    >>> layer.backward(1.1)
    (2.2, 110.00000000000001)
    """

    name = "Multi"

    def forward(self, x: Any, y: Any, out: Any = None) -> Any:
        """Return ``x * y`` and keep the operands for ``backward``; see `multiply`."""
        self.x = x
        self.y = y
        if out is None:
            return x * y
        return multiply(x, y, out)

    def backward(self, dout: Any, out: Any = None) -> tuple[Any, Any]:
        """Return ``(dout * y, dout * x)``; see `multiply_backward`."""
        if out is None:
            return dout * self.y, dout * self.x
        return multiply_backward(dout, self.x, self.y, out)


class AddLayer(ElementwiseLayer):
    """A node that adds: ``x + y``.

    Attributes
    ----------
    x, y : object
        The operands of the last ``forward``, the very objects that it was given; None before.

    Examples
    --------
    >>> from fastlayers import AddLayer
    >>> layer = AddLayer()
    >>> layer.forward(200, 450)
    650
    >>> layer.backward(1.1)
    (1.1, 1.1)
    """

    name = "Add"

    def forward(self, x: Any, y: Any, out: Any = None) -> Any:
        """Return ``x + y`` and keep the operands; see `add`."""
        self.x = x
        self.y = y
        if out is None:
            return x + y
        return add(x, y, out)

    def backward(self, dout: Any, out: Any = None) -> tuple[Any, Any]:
        """Return ``(dout * 1, dout * 1)``; see `add_backward`."""
        if out is None:
            return dout * 1, dout * 1
        return add_backward(dout, out)
