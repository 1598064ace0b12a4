"""Drop-in, C-accelerated layers for neural networks written by hand on NumPy."""

from .base import BaseLayer
from .gradcheck import GradcheckError, gradcheck
from .layers import AddLayer, MulLayer
from .ops import IMPLEMENTATION, add, add_backward, multiply, multiply_backward

__all__ = [
    "IMPLEMENTATION",
    "AddLayer",
    "BaseLayer",
    "GradcheckError",
    "MulLayer",
    "add",
    "add_backward",
    "gradcheck",
    "multiply",
    "multiply_backward",
]

__version__ = "0.1.0"
