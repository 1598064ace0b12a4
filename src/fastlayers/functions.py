"""The public functions: compiled, or in plain NumPy. Type checkers know the plain ones."""

from typing import TYPE_CHECKING

from . import core

__all__ = ["add", "add_backward", "multiply", "multiply_backward"]

if TYPE_CHECKING or core.dispatch is None:
    from .reference import add, add_backward, multiply, multiply_backward
else:
    from ._core.frontend.dispatch import add, add_backward, multiply, multiply_backward
