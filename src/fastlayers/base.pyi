# What type checkers read in place of base.py. A layer of one's own may take what it likes.

from collections.abc import Callable
from typing import Any

class Placeholder:
    def apply(self, layer: BaseLayer, operands: tuple[Any, ...]) -> Any: ...

class BaseLayer:
    def __call__(self, *operands: Any) -> Any: ...

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    def toString(self) -> None: ...

class ElementwiseLayer(BaseLayer):
    name: str
    x: Any
    y: Any
    sum_to_shape: bool
    def __init__(self, *, sum_to_shape: bool = False) -> None: ...
