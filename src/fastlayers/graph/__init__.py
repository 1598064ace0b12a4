"""Computational graphs: a whole expression as one layer."""

from .graph import Graph

__all__ = ["Graph"]
