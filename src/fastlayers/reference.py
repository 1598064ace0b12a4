"""The layers and functions in plain NumPy: the right answer, by definition.

The compiled functions must match these in every bit, and fall back on them for whatever the kernels
do not serve.
"""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Number
from typing import Any, overload

import numpy as np

from .base import BaseLayer
from .callers import users_line
from .elementwise import (
    Array,
    ArrayOf,
    ElementwiseLayer,
    Num,
    Operand,
    Out,
    Out2,
    Outs,
    T,
    computing,
    elementwise,
)

__all__ = [
    "AddLayer",
    "BaseLayer",
    "MulLayer",
    "add",
    "add_backward",
    "multiply",
    "multiply_backward",
]


def __dir__() -> list[str]:
    """List the public names, without those that the package alone uses."""
    return __all__


@elementwise
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
        Same value, type, dtype, shape and memory order as ``x * y``; ``out`` if it was given.

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


@elementwise
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
        Same value, type, dtype, shape and memory order as ``x + y``; ``out`` if it was given.

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


def subtract(x: Any, y: Any, out: Any = None) -> Any:
    """Subtract element by element: ``x - y``; otherwise as `multiply`."""
    if out is None:
        return x - y
    return np.subtract(x, y, out=out)


def negative(x: Any, out: Any = None) -> Any:
    """Negate element by element: ``-x``; otherwise as `multiply`."""
    if out is None:
        return -x
    return np.negative(x, out=out)


@overload
def multiply_backward(
    dout: Num, x: Num, y: Num, out: None = None, sum_to_shape: bool = False
) -> tuple[Num, Num]: ...
@overload
def multiply_backward(
    dout: ArrayOf[T], x: ArrayOf[T], y: ArrayOf[T], out: None = None, sum_to_shape: bool = False
) -> tuple[ArrayOf[T], ArrayOf[T]]: ...
@overload
def multiply_backward(
    dout: Operand, x: Array, y: Array, out: None = None, sum_to_shape: bool = False
) -> tuple[Array, Array]: ...
@overload
def multiply_backward(
    dout: Any, x: Any, y: Any, out: tuple[Out, Out2], sum_to_shape: bool = False
) -> tuple[Out, Out2]: ...
@overload
def multiply_backward(
    dout: Any, x: Any, y: Any, out: Outs | None = None, sum_to_shape: bool = False
) -> tuple[Any, Any]: ...
def multiply_backward(
    dout: Any, x: Any, y: Any, out: Any = None, sum_to_shape: bool = False
) -> tuple[Any, Any]:
    """Gradients of ``x * y``: ``(dout * y, dout * x)``.

    By the product rule, d(xy)/dx = y and d(xy)/dy = x; each is multiplied by the output's gradient.

    Parameters
    ----------
    dout : array_like
        Gradient of the output; any shape that broadcasts with the operands'.
    x, y : array_like
        The operands that ``multiply`` was given.
    out : tuple of two (ndarray or None), optional
        Arrays to write ``dx`` and ``dy`` into; None allocates a new one. They may overlap the
        operands and each other.
    sum_to_shape : bool, optional
        Sum each gradient over the axes along which its operand was broadcast, so that
        ``dx.shape == x.shape`` and ``dy.shape == y.shape``: the complete gradient.

    Returns
    -------
    dx, dy : ndarray or scalar
        Same values, types, dtypes, shapes and memory order as the two products. If operands were
        broadcast, each gradient has the shape of its product, not that of its operand.

        With ``sum_to_shape`` they have the products' dtype and the operands' shapes; a Python
        number's gradient is a number. Sums are at least as accurate as those of ``numpy.sum``, but
        may round differently.

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
    if sum_to_shape:
        shape = np.broadcast_shapes(np.shape(dout), np.shape(x), np.shape(y))
        dx, dy = _gradient(dout * y, x, shape), _gradient(dout * x, y, shape)
        return (dx, dy) if out is None else store((dx, dy), pair(out))
    if out is None:
        return dout * y, dout * x
    return _products(dout, y, x, out)


@overload
def add_backward(
    dout: Num,
    x: Num | None = None,
    y: Num | None = None,
    out: None = None,
    sum_to_shape: bool = False,
) -> tuple[Num, Num]: ...
@overload
def add_backward(
    dout: ArrayOf[T],
    x: ArrayOf[T] | None = None,
    y: ArrayOf[T] | None = None,
    out: None = None,
    sum_to_shape: bool = False,
) -> tuple[ArrayOf[T], ArrayOf[T]]: ...
@overload
def add_backward(
    dout: Any, x: Any = None, y: Any = None, *, out: tuple[Out, Out2], sum_to_shape: bool = False
) -> tuple[Out, Out2]: ...
@overload
def add_backward(
    dout: Any, x: Any = None, y: Any = None, out: Outs | None = None, sum_to_shape: bool = False
) -> tuple[Any, Any]: ...
def add_backward(
    dout: Any, x: Any = None, y: Any = None, out: Any = None, sum_to_shape: bool = False
) -> tuple[Any, Any]:
    """Gradients of ``x + y``: ``(dout * 1, dout * 1)``, two copies that share no memory.

    Since d(x + y)/dx = d(x + y)/dy = 1, the gradient of the output is passed on unchanged.

    Parameters
    ----------
    dout : array_like
        Gradient of the output.
    x, y : array_like, optional
        The operands that ``add`` was given; only ``sum_to_shape`` uses them.
    out : tuple of two (ndarray or None), optional
        Arrays to write ``dx`` and ``dy`` into; None allocates a new one. They may overlap
        ``dout`` and each other.
    sum_to_shape : bool, optional
        Sum each gradient over the axes along which its operand was broadcast, so that
        ``dx.shape == x.shape`` and ``dy.shape == y.shape``: the complete gradient.

    Returns
    -------
    dx, dy : ndarray or scalar
        ``dout * 1``, twice: distinct, writable arrays that own their memory; neither is ``dout``.

        With ``sum_to_shape`` they have the operands' shapes; a Python number's gradient is a
        number. Sums are at least as accurate as those of ``numpy.sum``, but may round differently.

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
    return _scaled_backward("add_backward", 1, dout, x, y, out, sum_to_shape)


def subtract_backward(
    dout: Any, x: Any = None, y: Any = None, out: Any = None, sum_to_shape: bool = False
) -> tuple[Any, Any]:
    """Gradients of ``x - y``: ``(dout * 1, dout * -1)``; otherwise as `add_backward`."""
    return _scaled_backward("subtract_backward", -1, dout, x, y, out, sum_to_shape)


def negative_backward(dout: Any, out: Any = None) -> Any:
    """Gradient of ``-x``: ``dout * -1``; ``out`` is an array or None."""
    return multiply(dout, -1, out)


def _scaled_backward(
    name: str, sign: int, dout: Any, x: Any, y: Any, out: Any, sum_to_shape: bool
) -> tuple[Any, Any]:
    """``(dout * 1, dout * sign)``."""
    if sum_to_shape:
        if x is None or y is None:
            raise TypeError(f"{name} needs x and y to sum the gradients to their shapes")
        shape = np.broadcast_shapes(np.shape(dout), np.shape(x), np.shape(y))
        dx, dy = _gradient(dout * 1, x, shape), _gradient(dout * sign, y, shape)
        return (dx, dy) if out is None else store((dx, dy), pair(out))
    if out is None:
        return dout * 1, dout * sign
    return _products(dout, 1, sign, out)


def _gradient(product: Any, operand: Any, shape: tuple[int, ...]) -> Any:
    """A product, as if broadcast to ``shape``, summed to its operand's shape."""
    if np.shape(product) != shape:
        # It does not depend on all axes; it counts once for each element along the others.
        product = np.broadcast_to(product, shape, subok=True)
    gradient = sum_to(product, np.shape(operand))
    if isinstance(operand, Number) and not isinstance(operand, np.generic):
        return gradient.item() if isinstance(gradient, np.generic | np.ndarray) else gradient
    if isinstance(gradient, np.ndarray) and not gradient.flags.owndata:
        return gradient.copy()  # a view, from reshaping or broadcasting
    return gradient


def sum_to(array: Any, shape: tuple[int, ...]) -> Any:
    """Sum an array over the axes along which ``shape`` was broadcast to its own."""
    lead = np.ndim(array) - len(shape)
    stretched = tuple(
        lead + axis for axis, length in enumerate(shape) if length == 1 != array.shape[lead + axis]
    )
    axes = (*range(lead), *stretched)
    if not axes:
        return array
    if not (hasattr(array, "dtype") and hasattr(array, "reshape")):
        raise TypeError(
            f"graphs and sum_to_shape=True sum arrays, not a {type(array).__name__}: "
            "give them arrays, as by .to_numpy(), or sum the gradients yourself"
        )
    if array.dtype == object:  # its sum over all axes is no array, unless the axes are kept
        return np.sum(array, axis=axes, keepdims=True).reshape(shape)
    dtype = None if array.dtype == bool else array.dtype  # np.sum would widen small integers
    return np.sum(array, axis=axes, dtype=dtype).reshape(shape)


def _products(dout: Any, first: Any, second: Any, out: Any) -> tuple[Any, Any]:
    """``(dout * first, dout * second)`` into ``out``, as one ufunc of two outputs would."""
    dx, dy = pair(out)
    _check_outputs(dout, ((first, dx), (second, dy)))
    if dy is None or dy is ...:
        # NumPy has not checked this product: it may still raise, with nothing written yet.
        dy = np.multiply(dout, second, out=dy)
        return np.multiply(dout, first, out=dx), dy
    if not (_share_memory(dout, dx) or _share_memory(second, dx)):
        return np.multiply(dout, first, out=dx), np.multiply(dout, second, out=dy)
    # The second product must not see what the first one writes.
    products = np.multiply(dout, first), np.multiply(dout, second)
    np.copyto(dx, products[0], casting="same_kind")
    np.copyto(dy, products[1], casting="same_kind")
    return dx, dy


def store(results: Sequence[Any], outputs: Sequence[Any]) -> tuple[Any, ...]:
    """Copy each result, which shares memory with nothing, into its output if there is one."""
    # Multiplying by True copies any dtype by the rules for ufunc outputs, except for the signs of
    # complex zeros and for signalling NaNs.
    pairs = list(zip(results, outputs, strict=True))
    _check_outputs(True, pairs)
    stored = []
    for result, output in pairs:
        if type(output) is np.ndarray:
            users_line()(np.copyto)(output, result, "same_kind")
        elif output is ...:
            result = np.multiply(True, result, out=output)
        elif output is not None:
            np.multiply(True, result, out=output)
        stored.append(result if output is None or output is ... else output)
    return tuple(stored)


def pair(out: Any) -> tuple[Any, Any]:
    if not isinstance(out, tuple):
        raise TypeError(f"'out' must be a tuple of two arrays (dx, dy), not {type(out).__name__}")
    if len(out) != 2:
        raise ValueError(f"'out' must be a tuple of two arrays (dx, dy), not of {len(out)}")
    return out


def _check_outputs(dout: Any, products: Sequence[tuple[Any, Any]]) -> None:
    """Raise what NumPy raises for the outputs, before writing to any of them."""
    # With where=False NumPy makes all its checks and writes nothing; but it converts what it finds
    # in the outputs, and would warn about that.
    for factor, result in products:
        if result is None:
            continue
        if result is ...:  # newer NumPys make an array, older ones refuse
            np.multiply(True, True, out=result)
            continue
        memory = _memory_of(result)
        refused = None
        try:
            with np.errstate(all="ignore"), _no_complex_warning(result):
                np.multiply(dout, factor, out=memory, where=False)
        except (TypeError, ValueError) as error:
            refused = error.with_traceback(None)  # its frames hold this one
        if refused is not None:
            # NumPy may say more before that, such as a number's overflow. Not in the handler above:
            # the error would keep the first one as its context, and all that its frames hold.
            np.multiply(dout, factor, out=memory)
            raise refused


def _memory_of(result: Any) -> Any:
    """The same memory as a plain array: a masked array would take over another mask.

    Ones stand in for objects and texts, since some of these cannot be converted.
    """
    if isinstance(result, np.ma.MaskedArray):
        result = result.data
    if isinstance(result, np.ndarray) and result.dtype.kind in "OSUT":
        ones = np.ones_like(result)
        ones.flags.writeable = result.flags.writeable
        return ones
    return result


def _no_complex_warning(result: Any) -> AbstractContextManager[Any]:
    # Only where needed: all threads share the warning filters.
    if np.iscomplexobj(result):
        return warnings.catch_warnings(action="ignore", category=np.exceptions.ComplexWarning)
    return nullcontext()


def _share_memory(operand: Any, result: Any) -> bool:
    arrays = isinstance(operand, np.ndarray) and isinstance(result, np.ndarray)
    return arrays and np.may_share_memory(operand, result)


@computing(multiply, multiply_backward)
class MulLayer(ElementwiseLayer):
    """A node that multiplies: ``x * y``, with the gradients ``dout * y`` and ``dout * x``.

    Parameters
    ----------
    sum_to_shape : bool, optional
        Let ``backward`` sum each gradient to its operand's shape, over the axes along which the
        operand was broadcast. By default a gradient has the shape that the plain expression gives.

    Attributes
    ----------
    x, y : object
        The operands of the last ``forward``, the same objects; None before the first.
    sum_to_shape : bool
        As given; you may change it at any time.

    Examples
    --------
    >>> from fastlayers import MulLayer
    >>> layer = MulLayer()
    >>> layer.forward(100, 2)
    200
    >>> layer.backward(1.1)
    (2.2, 110.00000000000001)
    """

    _printed_name = "Multi"


@computing(add, add_backward)
class AddLayer(ElementwiseLayer):
    """A node that adds: ``x + y``, with the gradients ``dout * 1``, two copies.

    Parameters
    ----------
    sum_to_shape : bool, optional
        Let ``backward`` sum each gradient to its operand's shape, over the axes along which the
        operand was broadcast. By default a gradient has the shape that the plain expression gives.

    Attributes
    ----------
    x, y : object
        The operands of the last ``forward``, the same objects; None before the first.
    sum_to_shape : bool
        As given; you may change it at any time.

    Examples
    --------
    >>> from fastlayers import AddLayer
    >>> layer = AddLayer()
    >>> layer.forward(200, 450)
    650
    >>> layer.backward(1.1)
    (1.1, 1.1)
    """

    _printed_name = "Add"


# ---- for the nodes of graphs ----


def sum_to_operand(value: Any, operand: Any) -> Any:
    """Sum a gradient to the shape of its operand; a Python number's is a number."""
    if not (hasattr(value, "shape") or hasattr(operand, "shape")):
        return value
    return _gradient(value, operand, np.shape(value))


def multiply_to_operand(dout: Any, factor: Any, operand: Any) -> Any:
    """Half of a layer's backward: ``dout * factor``, summed to the shape of its operand."""
    return sum_to_operand(dout * factor, operand)
