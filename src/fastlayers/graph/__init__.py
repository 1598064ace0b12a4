"""Computational graphs: whole expressions as one layer."""
