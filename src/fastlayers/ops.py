"""The names of `core` and `functions` as they were, for graph/ until it takes them from there."""

from .core import IMPLEMENTATION as IMPLEMENTATION
from .functions import OPERATIONS as OPERATIONS
from .functions import WARNING as WARNING
