"""Computational graphs: a whole expression as one layer."""

from .drawing import Drawing
from .graph import Graph

__all__ = ["Drawing", "Graph"]
