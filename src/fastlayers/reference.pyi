# Type checkers read this in place of reference.py: what goes in, and what comes out. The compiled
# functions (_core/frontend/dispatch.pyi) and the layers (layers.py) take their types from here.
#
# As in NumPy's own stubs, a 0-d array, which gives a scalar, is typed like any other array. If the
# operands' dtypes do not determine a dtype, it is Any.

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .base import BaseLayer as BaseLayer
from .base import ElementwiseLayer

__all__ = [
    "AddLayer",
    "BaseLayer",
    "MulLayer",
    "add",
    "add_backward",
    "multiply",
    "multiply_backward",
]

# The dtypes that networks use. A TypeVar with a bound would accept two different ones and give
# their common base, which is not what NumPy gives.
_T = TypeVar(
    "_T",
    np.float64,
    np.float32,
    np.float16,
    np.int64,
    np.int32,
    np.complex128,
    np.complex64,
)
_Inexact = TypeVar("_Inexact", np.float64, np.float32, np.float16, np.complex128, np.complex64)
_Floating = TypeVar("_Floating", np.float64, np.float32, np.float16)

# For a single array, which keeps its dtype beside a number of a lesser kind.
_AnyNumber = TypeVar("_AnyNumber", bound=np.number)
_AnyInexact = TypeVar("_AnyInexact", bound=np.inexact)
_AnyComplex = TypeVar("_AnyComplex", bound=np.complexfloating)

_Array: TypeAlias = NDArray[Any]
_A = TypeVar("_A", bound=_Array)
_B = TypeVar("_B", bound=_Array)

class _Operand(Protocol):
    """Anything with the operators: a fraction, a list, another library's array."""

    def __add__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...

class _Layer:
    """``x * y`` and ``x + y``, which have the same types."""

    @overload
    def forward(self, x: int, y: int, out: None = None) -> int: ...
    @overload
    def forward(self, x: float, y: float, out: None = None) -> float: ...
    @overload
    def forward(self, x: complex, y: complex, out: None = None) -> complex: ...
    @overload
    def forward(self, x: _T, y: _T, out: None = None) -> _T: ...
    @overload
    def forward(self, x: NDArray[_T], y: NDArray[_T] | _T, out: None = None) -> NDArray[_T]: ...
    @overload
    def forward(self, x: _T, y: NDArray[_T], out: None = None) -> NDArray[_T]: ...
    # NumPy's scalars come before numbers: float64 is also a float, but changes a dtype.
    @overload
    def forward(self, x: _Array, y: np.generic, out: None = None) -> _Array: ...
    @overload
    def forward(self, x: np.generic, y: _Array, out: None = None) -> _Array: ...
    @overload
    def forward(self, x: NDArray[_AnyNumber], y: int, out: None = None) -> NDArray[_AnyNumber]: ...
    @overload
    def forward(self, x: int, y: NDArray[_AnyNumber], out: None = None) -> NDArray[_AnyNumber]: ...
    @overload
    def forward(
        self, x: NDArray[_AnyInexact], y: float, out: None = None
    ) -> NDArray[_AnyInexact]: ...
    @overload
    def forward(
        self, x: float, y: NDArray[_AnyInexact], out: None = None
    ) -> NDArray[_AnyInexact]: ...
    @overload
    def forward(
        self, x: NDArray[_AnyComplex], y: complex, out: None = None
    ) -> NDArray[_AnyComplex]: ...
    @overload
    def forward(
        self, x: complex, y: NDArray[_AnyComplex], out: None = None
    ) -> NDArray[_AnyComplex]: ...
    @overload
    def forward(
        self, x: NDArray[np.integer], y: float, out: None = None
    ) -> NDArray[np.float64]: ...
    @overload
    def forward(
        self, x: float, y: NDArray[np.integer], out: None = None
    ) -> NDArray[np.float64]: ...
    @overload
    def forward(
        self, x: _Array, y: _Array | Sequence[Any] | complex, out: None = None
    ) -> _Array: ...
    @overload
    def forward(self, x: Sequence[Any] | complex, y: _Array, out: None = None) -> _Array: ...
    @overload
    def forward(self, x: _Operand, y: Any, out: None = None) -> Any: ...
    @overload
    def forward(self, x: Any, y: _Operand, out: None = None) -> Any: ...
    @overload
    def forward(self, x: ArrayLike, y: ArrayLike, out: _A | tuple[_A]) -> _A: ...

    # What backward gives depends on forward's operands, which no type tells.
    @overload
    def backward(self, dout: _Operand, out: None = None) -> tuple[Any, Any]: ...
    @overload
    def backward(self, dout: ArrayLike, out: tuple[_A, _B]) -> tuple[_A, _B]: ...
    @overload
    def backward(self, dout: ArrayLike, out: tuple[_A, None]) -> tuple[_A, Any]: ...
    @overload
    def backward(self, dout: ArrayLike, out: tuple[None, _B]) -> tuple[Any, _B]: ...

class _Function(_Layer):
    __call__ = _Layer.forward

class MulLayer(_Layer, ElementwiseLayer):
    def __init__(self, *, sum_to_shape: bool = False) -> None: ...

class AddLayer(_Layer, ElementwiseLayer):
    def __init__(self, *, sum_to_shape: bool = False) -> None: ...

multiply: _Function
add: _Function

@overload
def multiply_backward(
    dout: int, x: int, y: int, out: None = None, sum_to_shape: bool = False
) -> tuple[int, int]: ...
@overload
def multiply_backward(
    dout: float, x: float, y: float, out: None = None, sum_to_shape: bool = False
) -> tuple[float, float]: ...
@overload
def multiply_backward(
    dout: complex, x: complex, y: complex, out: None = None, sum_to_shape: bool = False
) -> tuple[complex, complex]: ...
@overload  # mypy takes one overload's TypeVar for any of the other's:
def multiply_backward(  # type: ignore[overload-overlap]
    dout: NDArray[_T] | _T | int,
    x: NDArray[_T],
    y: NDArray[_T],
    out: None = None,
    sum_to_shape: bool = False,
) -> tuple[NDArray[_T], NDArray[_T]]: ...
@overload
def multiply_backward(  # type: ignore[overload-overlap]
    dout: NDArray[_T],
    x: NDArray[_T] | _T | int,
    y: NDArray[_T] | _T | int,
    out: None = None,
    sum_to_shape: Literal[False] = False,
) -> tuple[NDArray[_T], NDArray[_T]]: ...
@overload
def multiply_backward(
    dout: np.generic, x: _Array, y: _Array, out: None = None, sum_to_shape: bool = False
) -> tuple[_Array, _Array]: ...
@overload
def multiply_backward(
    dout: Any, x: np.generic, y: Any, out: None = None, sum_to_shape: bool = False
) -> tuple[Any, Any]: ...
@overload
def multiply_backward(
    dout: Any, x: Any, y: np.generic, out: None = None, sum_to_shape: bool = False
) -> tuple[Any, Any]: ...
@overload
def multiply_backward(
    dout: float,
    x: NDArray[_Inexact],
    y: NDArray[_Inexact],
    out: None = None,
    sum_to_shape: bool = False,
) -> tuple[NDArray[_Inexact], NDArray[_Inexact]]: ...
@overload
def multiply_backward(
    dout: NDArray[_Inexact],
    x: NDArray[_Inexact] | float,
    y: NDArray[_Inexact] | float,
    out: None = None,
    sum_to_shape: Literal[False] = False,
) -> tuple[NDArray[_Inexact], NDArray[_Inexact]]: ...
@overload
def multiply_backward(
    dout: NDArray[_Floating] | float,
    x: NDArray[_Floating],
    y: float,
    out: None = None,
    *,
    sum_to_shape: Literal[True],
) -> tuple[NDArray[_Floating], float]: ...
@overload
def multiply_backward(
    dout: NDArray[_Floating] | float,
    x: float,
    y: NDArray[_Floating],
    out: None = None,
    *,
    sum_to_shape: Literal[True],
) -> tuple[float, NDArray[_Floating]]: ...
@overload
def multiply_backward(
    dout: _Array | complex, x: _Array, y: _Array, out: None = None, sum_to_shape: bool = False
) -> tuple[_Array, _Array]: ...
@overload
def multiply_backward(
    dout: _Operand, x: Any, y: Any, out: None = None, sum_to_shape: bool = False
) -> tuple[Any, Any]: ...
@overload
def multiply_backward(
    dout: ArrayLike, x: ArrayLike, y: ArrayLike, out: tuple[_A, _B], sum_to_shape: bool = False
) -> tuple[_A, _B]: ...
@overload
def multiply_backward(
    dout: ArrayLike, x: ArrayLike, y: ArrayLike, out: tuple[_A, None], sum_to_shape: bool = False
) -> tuple[_A, Any]: ...
@overload
def multiply_backward(
    dout: ArrayLike, x: ArrayLike, y: ArrayLike, out: tuple[None, _B], sum_to_shape: bool = False
) -> tuple[Any, _B]: ...
@overload
def add_backward(
    dout: int, x: Any = None, y: Any = None, out: None = None, sum_to_shape: Literal[False] = False
) -> tuple[int, int]: ...
@overload
def add_backward(
    dout: float,
    x: Any = None,
    y: Any = None,
    out: None = None,
    sum_to_shape: Literal[False] = False,
) -> tuple[float, float]: ...
@overload
def add_backward(
    dout: complex,
    x: Any = None,
    y: Any = None,
    out: None = None,
    sum_to_shape: Literal[False] = False,
) -> tuple[complex, complex]: ...
@overload
def add_backward(
    dout: NDArray[_AnyNumber],
    x: Any = None,
    y: Any = None,
    out: None = None,
    sum_to_shape: Literal[False] = False,
) -> tuple[NDArray[_AnyNumber], NDArray[_AnyNumber]]: ...
@overload
def add_backward(
    dout: _Array,
    x: Any = None,
    y: Any = None,
    out: None = None,
    sum_to_shape: Literal[False] = False,
) -> tuple[_Array, _Array]: ...
@overload
def add_backward(
    dout: float, x: float, y: float, out: None = None, *, sum_to_shape: bool
) -> tuple[float, float]: ...
@overload
def add_backward(
    dout: NDArray[_AnyNumber], x: _Array, y: _Array, out: None = None, *, sum_to_shape: bool
) -> tuple[NDArray[_AnyNumber], NDArray[_AnyNumber]]: ...
@overload
def add_backward(
    dout: NDArray[_Floating], x: _Array, y: float, out: None = None, *, sum_to_shape: Literal[True]
) -> tuple[NDArray[_Floating], float]: ...
@overload
def add_backward(
    dout: NDArray[_Floating], x: float, y: _Array, out: None = None, *, sum_to_shape: Literal[True]
) -> tuple[float, NDArray[_Floating]]: ...
@overload
def add_backward(
    dout: _Operand,
    x: Any = None,
    y: Any = None,
    out: None = None,
    sum_to_shape: Literal[False] = False,
) -> tuple[Any, Any]: ...
@overload
def add_backward(
    dout: _Operand, x: _Operand, y: _Operand, out: None = None, sum_to_shape: bool = False
) -> tuple[Any, Any]: ...
@overload
def add_backward(
    dout: ArrayLike, x: Any = None, y: Any = None, *, out: tuple[_A, _B], sum_to_shape: bool = False
) -> tuple[_A, _B]: ...
@overload
def add_backward(
    dout: ArrayLike,
    x: Any = None,
    y: Any = None,
    *,
    out: tuple[_A, None],
    sum_to_shape: bool = False,
) -> tuple[_A, Any]: ...
@overload
def add_backward(
    dout: ArrayLike,
    x: Any = None,
    y: Any = None,
    *,
    out: tuple[None, _B],
    sum_to_shape: bool = False,
) -> tuple[Any, _B]: ...
def subtract(x: Any, y: Any, out: Any = None) -> Any: ...
def subtract_backward(
    dout: Any, x: Any = None, y: Any = None, out: Any = None, sum_to_shape: bool = False
) -> tuple[Any, Any]: ...
def negative(x: Any, out: Any = None) -> Any: ...
def negative_backward(dout: Any, out: Any = None) -> Any: ...
def sum_to(array: Any, shape: tuple[int, ...]) -> Any: ...
def pair(out: Any) -> tuple[Any, Any]: ...
def store(results: Sequence[Any], outputs: Sequence[Any]) -> tuple[Any, ...]: ...
def sum_to_operand(value: Any, operand: Any, other: Any = None) -> Any: ...
def multiply_to_operand(dout: Any, factor: Any, operand: Any, other: Any) -> Any: ...
