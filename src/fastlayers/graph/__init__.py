"""Computational graphs: a whole expression as one layer."""

from .graph import Graph
from .picture import Drawing

__all__ = ["Drawing", "Graph"]
