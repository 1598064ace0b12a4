"""The user's line: where the call that is running came into this package."""

from __future__ import annotations

import ast
import functools
import os
import sys
import warnings
from collections.abc import Callable
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any

import numpy as np

PACKAGE = os.path.dirname(__file__) + os.sep  # noqa: PTH120, as in config.py
NUMPY = os.path.dirname(np.__file__) + os.sep  # noqa: PTH120


def users_frame(meet: Callable[[FrameType], None] | None = None) -> FrameType | None:
    """The first frame outside of this package and of NumPy, if there is one.

    ``meet`` is called with each frame on the way to it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((PACKAGE, NUMPY)):
        if meet is not None:
            meet(frame)
        frame = frame.f_back
    return frame


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Give a warning that points at the user's line."""
    frame = users_frame()
    if frame is None:
        warnings.warn(message, category, stacklevel=2)
        return
    warnings.warn_explicit(
        message,
        category,
        frame.f_code.co_filename,
        frame.f_lineno,
        frame.f_globals.get("__name__"),
        frame.f_globals.setdefault("__warningregistry__", {}),
    )


# ---- NumPy's warnings ----
#
# NumPy's point at the line that is running in the innermost frame of Python's, and are shown once a
# line. From a line of this package, one user's warning would hide those of all others. So what may
# warn is called by a function that claims to stand in the user's line: its code has that file and
# that number, and its global variables are those of the user's module, where Python notes what has
# been shown. A function without a frame of its own, such as NumPy's, then warns there.
#
# A function of this package has a frame of its own. What NumPy would warn of in it, it tells us.


Function = Callable[..., Any]


def users_line() -> Callable[[Function], Function]:
    """What makes functions warn as if the user's line had called them."""
    frame = users_frame()
    if frame is None:
        return lambda function: function
    code = _code_at(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
    names = frame.f_globals
    return lambda function: FunctionType(code, names, closure=(CellType(function),))


@functools.lru_cache(maxsize=256)
def _code_at(file: str, line: int, name: str) -> CodeType:
    return _CODE.replace(co_filename=file, co_firstlineno=line, co_name=name, co_qualname=name)


def _compiled() -> CodeType:
    """The code of a function that calls another one; all of it in its first line."""
    tree = ast.parse(
        "def calling(function):"
        "    return lambda *operands, **options: function(*operands, **options)"
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.expr | ast.stmt):
            # No columns: in a traceback, they would underline some part of the user's line.
            node.col_offset = node.end_col_offset = -1
    names: dict[str, Any] = {}
    exec(compile(tree, __file__, "exec"), names)
    code: CodeType = names["calling"](None).__code__
    return code


_CODE = _compiled()


class _Told:
    """What NumPy writes to in place of a warning."""

    def write(self, message: str) -> None:
        warn(message.removeprefix("Warning: ").rstrip(), RuntimeWarning)


_TOLD = _Told()


def telling(function: Function) -> Function:
    """Make a function of this package warn at the user's line. It takes some 3 us a call."""

    def told(*operands: Any, **options: Any) -> Any:
        heard = _heard(tuple(np.geterr().items()))
        if not heard:
            return function(*operands, **options)
        with np.errstate(call=_TOLD, **heard):
            return function(*operands, **options)

    return told


@functools.lru_cache(maxsize=64)
def _heard(modes: tuple[Any, ...]) -> dict[str, Any]:
    """How to be told of what NumPy warns of; of nothing if it tells the user something."""
    if any(mode in ("log", "call") for _, mode in modes):
        return {}
    return {kind: "log" for kind, mode in modes if mode == "warn"}
