"""The compiled part: kernels, the functions that call them, and recycled memory."""

from . import simd
from .frontend.dispatch import (
    add,
    add_backward,
    by_numpy,
    functions,
    multiply,
    multiply_backward,
    multiply_to_operand,
    negative,
    negative_backward,
    subtract,
    subtract_backward,
    sum_to_operand,
)

__all__ = [
    "add",
    "add_backward",
    "by_numpy",
    "functions",
    "multiply",
    "multiply_backward",
    "multiply_to_operand",
    "negative",
    "negative_backward",
    "subtract",
    "subtract_backward",
    "sum_to_operand",
]

simd.use_preferred()
