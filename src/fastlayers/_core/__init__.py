"""The compiled part: kernels, the functions that hand work to them, and recycled memory."""

from . import simd
from .dispatch import (
    add,
    add_backward,
    multiply,
    multiply_backward,
    multiply_to_operand,
    sum_to_operand,
)

__all__ = [
    "add",
    "add_backward",
    "multiply",
    "multiply_backward",
    "multiply_to_operand",
    "sum_to_operand",
]

simd.use_preferred()
