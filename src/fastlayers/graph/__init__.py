"""Computational graphs: a whole expression as one layer."""

from .derivatives import grad, value_and_grad
from .graph import Graph, graph_info
from .picture import Drawing
from .rules import define_gradients

__all__ = ["Drawing", "Graph", "define_gradients", "grad", "graph_info", "value_and_grad"]
