"""The operations of a graph as if the user's line called them: NumPy's warnings point there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

from ..callers import telling, users_line
from .operations import Operations

# Functions of this package that do not compute, and those that compute by what they are given.
QUIET = {"getitem", "spread", "count", "reshaped", "select", "zeros_like", "broadcast_to", "scalar"}
GIVEN = {"matmul_back_first", "matmul_back_second"}


class AtUsersLine(dict[str, Callable[..., Any]]):
    """Operations that warn at the line which called this package. Each is made when asked for.

    It serves one call: the next one may come from another line.
    """

    __slots__ = ("_at", "_run")

    def __init__(self, run: Operations) -> None:
        self._run = run
        self._at: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None

    def __missing__(self, name: str) -> Callable[..., Any]:
        operation = self._run[name]
        if name in GIVEN:
            run = {one: self[one] for one in ("matmul", "multiply")}
            self[name] = partial(operation, run=run)
            return self[name]
        if name in QUIET:
            self[name] = operation
            return self[name]
        if isinstance(operation, FunctionType):
            self[name] = telling(operation)
            return self[name]
        if self._at is None:  # the call may need no other operation
            self._at = users_line()
        self[name] = self._at(operation)
        return self[name]
