"""Drop-in, C-accelerated layers for neural networks written by hand on NumPy."""

from .base import BaseLayer
from .gradcheck import GradcheckError, gradcheck
from .graph import Graph
from .layers import AddLayer, MulLayer
from .ops import IMPLEMENTATION, add, add_backward, multiply, multiply_backward
from .runtime import (
    cache_info,
    empty_cache,
    get_num_threads,
    recycling,
    set_cache_limit,
    set_num_threads,
    show_config,
)

__all__ = [
    "IMPLEMENTATION",
    "AddLayer",
    "BaseLayer",
    "GradcheckError",
    "Graph",
    "MulLayer",
    "add",
    "add_backward",
    "cache_info",
    "empty_cache",
    "get_num_threads",
    "gradcheck",
    "multiply",
    "multiply_backward",
    "recycling",
    "set_cache_limit",
    "set_num_threads",
    "show_config",
]

__version__ = "0.1.0"  # the only place: pyproject.toml takes it from here
