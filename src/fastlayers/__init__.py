"""Gradients of plain NumPy code, and C-accelerated graphs and layers that match it in every bit."""

import warnings as _warnings

from . import core as _core_in_use
from . import reference as reference
from .about import show_config as show_config
from .base import BaseLayer
from .config import (
    cache_info,
    empty_cache,
    get_num_threads,
    recycling,
    set_cache_limit,
    set_num_threads,
)
from .core import IMPLEMENTATION as IMPLEMENTATION
from .functions import add as add
from .functions import add_backward as add_backward
from .functions import multiply as multiply
from .functions import multiply_backward as multiply_backward
from .gradcheck import GradcheckError, gradcheck
from .graph import Graph, define_gradients, grad, graph_info, value_and_grad
from .layers import AddLayer, MulLayer

# Names that NumPy has are left out: ``from fastlayers import *`` must not hide them.
__all__ = [
    "AddLayer",
    "BaseLayer",
    "GradcheckError",
    "Graph",
    "MulLayer",
    "cache_info",
    "define_gradients",
    "empty_cache",
    "get_num_threads",
    "grad",
    "gradcheck",
    "graph_info",
    "recycling",
    "set_cache_limit",
    "set_num_threads",
    "value_and_grad",
]

__version__ = "0.1.0"  # the only place: pyproject.toml takes it from here


def __dir__() -> list[str]:
    """List the public names, without the modules that hold them."""
    functions = ["add", "add_backward", "multiply", "multiply_backward", "show_config"]
    return sorted([*__all__, *functions, "IMPLEMENTATION", "__version__", "reference"])


# Warned from here, so that the warning points at the line that imports the package.
if _core_in_use.warning:
    _warnings.warn(_core_in_use.warning, RuntimeWarning, stacklevel=2)
