"""What `Graph.draw` returns. What draws it is loaded when it draws."""

import os
from typing import Any

MOST_NODES = 200  # of a graph that is drawn: its picture is some 20,000 pixels long


class Drawing:
    """A picture of a graph: Jupyter shows it, `str` gives its SVG, `save` writes that to a file.

    It holds only the picture's text, none of the arrays.
    """

    def __init__(self, name: str, svg: str) -> None:
        self._name = name
        self._svg = svg

    def __str__(self) -> str:
        return self._svg

    def __repr__(self) -> str:
        return f"<Drawing of {self._name}: .save('picture.svg') writes it to a file>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"image/svg+xml": self._svg, "text/plain": repr(self)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture to a file.

        Parameters
        ----------
        path : str or path-like
            File to write or overwrite. It must end in ``.svg``.

        Raises
        ------
        ValueError
            If it ends in anything else.
        OSError
            If the file cannot be written.
        """
        from pathlib import Path  # which takes long to load

        if Path(path).suffix.lower() != ".svg":
            raise ValueError(f"path must end in .svg, as pictures are written as SVG, got {path!r}")
        Path(path).write_bytes(self._svg.encode())
