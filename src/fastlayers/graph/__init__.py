"""Computational graphs: a whole expression as one layer."""

from .graph import Graph, graph_info
from .picture import Drawing
from .rules import define_gradients

__all__ = ["Drawing", "Graph", "define_gradients", "graph_info"]
