"""The operations of a graph as if the user's line called them: NumPy's warnings point there."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

from .. import reference
from ..callers import users_line
from .operations import Operations

# Functions that warn in a frame of their own. Only they take options.
WITH_FRAMES = FunctionType, type(np.sum)


class AtUsersLine(dict[str, Callable[..., Any]]):
    """Operations that warn at the line which called this package. Each is made when asked for.

    It serves one call: the next one may come from another line.
    """

    __slots__ = ("_at", "_run")

    def __init__(self, run: Operations) -> None:
        self._run = run
        self._at: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None

    def __missing__(self, name: str) -> Callable[..., Any]:
        if self._at is None:  # the call may need no operation
            self._at = users_line()
        operation = self._run[name]
        if operation is reference.multiply_to_operand:
            # It has a frame of its own, in which its product would warn.
            multiply = self["multiply"]
            self[name] = lambda dout, factor, operand: reference.sum_to_operand(
                multiply(dout, factor), operand
            )
        elif isinstance(operation, WITH_FRAMES):
            self[name] = operation
        else:
            self[name] = self._at(operation)
        return self[name]
