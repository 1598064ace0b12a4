"""The operations of a graph as if the user's line called them: NumPy's warnings point there."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from ..callers import Telling, users_line
from .operations import Operations

# Functions of this package that do not compute.
QUIET = {"getitem", "spread", "count", "reshaped", "select", "zeros_like", "scalar"}


class AtUsersLine(dict[str, Callable[..., Any]]):
    """Operations that warn at the line which called this package. Each is made when asked for.

    It serves one call: the next one may come from another line.
    """

    __slots__ = ("_at", "_run", "_telling")

    def __init__(self, run: Operations) -> None:
        self._run, self._telling = run, Telling()
        self._at: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None

    def __missing__(self, name: str) -> Callable[..., Any]:
        operation = self._run[name]
        if isinstance(operation, FunctionType):
            self[name] = operation if name in QUIET else self._telling(operation)
            return self[name]
        if self._at is None:  # the call may need no other operation
            self._at = users_line()
        self[name] = self._at(operation)
        return self[name]
