"""The one elementwise layer, of which `MulLayer` and `AddLayer` are made, plain and compiled."""

import sys
from collections.abc import Callable
from numbers import Number
from types import FunctionType
from typing import Any, Protocol, TypeAlias, TypeVar, overload

import numpy as np

from .base import BaseLayer, number_text

# What type checkers are told: numbers give a number, arrays an array, and an output is what is
# returned. As in NumPy's own stubs, a 0-d array, which gives a scalar, is an array like any other.
# A TypeVar with a bound would let two dtypes give their common base, which is not what NumPy does.
Num = TypeVar("Num", int, float, complex)
T = TypeVar(
    "T", np.float64, np.float32, np.float16, np.int64, np.int32, np.complex128, np.complex64
)
# As numpy.typing.NDArray, which takes a millisecond to import.
ArrayOf: TypeAlias = np.ndarray[tuple[Any, ...], np.dtype[T]]
Array: TypeAlias = ArrayOf[Any]
Operand: TypeAlias = Array | np.generic | complex
Out = TypeVar("Out", bound=Array)
Out2 = TypeVar("Out2", bound=Array)
Outs: TypeAlias = tuple[Array | None, Array | None]


class Elementwise(Protocol):
    """A function of two operands; so is `ElementwiseLayer.forward`."""

    @overload
    def __call__(self, x: Num, y: Num, out: None = None) -> Num: ...
    @overload
    def __call__(self, x: ArrayOf[T], y: ArrayOf[T], out: None = None) -> ArrayOf[T]: ...
    @overload
    def __call__(self, x: Array, y: Operand, out: None = None) -> Array: ...
    @overload
    def __call__(self, x: Operand, y: Array, out: None = None) -> Array: ...
    @overload
    def __call__(self, x: Any, y: Any, out: None = None) -> Any: ...
    @overload
    def __call__(self, x: Any, y: Any, out: Out | tuple[Out]) -> Out: ...


def elementwise(function: Callable[..., Any]) -> Elementwise:
    """Decorate a function of two operands, for type checkers."""
    return function


# What the layers' methods call. `computing` gives each class its own; these raise.
compute: Callable[..., Any] = BaseLayer.forward
differentiate: Callable[..., tuple[Any, Any]] = BaseLayer.backward


class ElementwiseLayer(BaseLayer):
    """A layer that keeps its operands and computes with two functions, which `computing` gives."""

    # Class attributes, for users' subclasses that do not call __init__.
    x: Any = None
    y: Any = None
    sum_to_shape: bool = False

    # What toString prints. Read from the class: users' subclasses may set ``name``.
    _printed_name: str

    def __init__(self, *, sum_to_shape: bool = False) -> None:
        self.x = None
        self.y = None
        self.sum_to_shape = sum_to_shape

    # Threads that share one layer may mix up their operands, as with any such object; what a call
    # computes with stays alive until its end. Binding a caught error to a name would cost each call
    # some 3 ns, 3 % of a small one: a name is one more variable.

    @overload
    def forward(self, x: Num, y: Num, out: None = None) -> Num: ...
    @overload
    def forward(self, x: ArrayOf[T], y: ArrayOf[T], out: None = None) -> ArrayOf[T]: ...
    @overload
    def forward(self, x: Array, y: Operand, out: None = None) -> Array: ...
    @overload
    def forward(self, x: Operand, y: Array, out: None = None) -> Array: ...
    @overload
    def forward(self, x: Any, y: Any, out: None = None) -> Any: ...
    @overload
    def forward(self, x: Any, y: Any, out: Out | tuple[Out]) -> Out: ...
    def forward(self, x: Any, y: Any, out: Any = None) -> Any:
        """Return the value of the node, and keep the operands for `backward`.

        Parameters
        ----------
        x, y : array_like or number
            Operands of any shapes that broadcast together.
        out : ndarray, optional
            Array to write the result into.

        Returns
        -------
        ndarray or scalar
            As from the layer's function, `multiply` or `add`, which also says what is raised.
        """
        try:
            return compute(x, y, out)
        finally:
            # Last: while a graph is recorded, a symbol still sees the layer as it was.
            self.x = x
            self.y = y

    @overload
    def backward(self, dout: Any, out: tuple[Out, Out2]) -> tuple[Out, Out2]: ...
    @overload
    def backward(self, dout: Any, out: Outs | None = None) -> tuple[Any, Any]: ...
    def backward(self, dout: Any, out: Any = None) -> tuple[Any, Any]:
        """Return the gradients for both operands.

        Parameters
        ----------
        dout : array_like or number
            Gradient of what `forward` returned.
        out : tuple of two (ndarray or None), optional
            Arrays to write the gradients into.

        Returns
        -------
        dx, dy : ndarray or scalar
            As from `multiply_backward` or `add_backward`, which also say what is raised.
        """
        try:
            return differentiate(dout, self.x, self.y, out, self.sum_to_shape)
        except (TypeError, ValueError):
            _explain(self, dout)
            raise

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
        parts = [f"{name}={summary(getattr(self, name))}" for name in ("x", "y")]
        if self.sum_to_shape:
            parts.append(f"sum_to_shape={self.sum_to_shape}")
        return f"<{type(self).__name__}: {', '.join(parts)}>"


Layer = TypeVar("Layer", bound=type[ElementwiseLayer])


def computing(forward: Any, backward: Any) -> Callable[[Layer], Layer]:
    """Decorate a class of elementwise layers: let it compute with these two functions.

    Its methods are those of `ElementwiseLayer`, with the class's name in their errors, and the
    functions among their global names. As variables of a closure these would cost a step on one
    element 7 ns of 300, as attributes some 40 (CPython 3.11, Intel Xeon).
    """
    names = globals() | {"compute": forward, "differentiate": backward}
    methods: tuple[Any, ...] = (
        ElementwiseLayer.__init__,
        ElementwiseLayer.forward,
        ElementwiseLayer.backward,
    )

    def decorate(layer: Layer) -> Layer:
        for method in methods:
            code = method.__code__.replace(co_qualname=f"{layer.__name__}.{method.__name__}")
            own = FunctionType(code, names, argdefs=method.__defaults__)
            own.__kwdefaults__ = method.__kwdefaults__
            setattr(layer, method.__name__, own)
        return layer

    return decorate


def _explain(layer: ElementwiseLayer, dout: Any) -> None:
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


def summary(value: Any) -> str:
    """An operand in a few words: an array by dtype and shape, anything else by its type."""
    if value is None:
        return "None"
    if isinstance(value, Number):
        return number_text(value, repr)
    kind = type(value).__name__
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{kind} {value.dtype} {value.shape}"
    return kind
