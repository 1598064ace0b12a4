"""Computational graphs: a whole expression as one layer."""

from .graph import Graph, graph_info
from .picture import Drawing

__all__ = ["Drawing", "Graph", "graph_info"]
