"""The table of operations: what a graph is made of. A row is all that there is to say of one.

What records operations, runs the nodes one by one, differentiates, plans passes, lists and draws
graphs and checks pickles reads this table. To add an operation is to add a row.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import core, reference

# Operations by name, as they are to be run: on arrays and numbers, on names of values (for the
# graph of a gradient), or on kinds of values (for a plan).
Operations = Mapping[str, Callable[..., Any]]

# A rule: from the operations, the gradient of the value, the value and the operands to the gradient
# of one operand, in that operand's shape.
Rule = Callable[..., Any]


class Operation(NamedTuple):
    """A row.

    Attributes
    ----------
    plain : callable
        What is right, in plain NumPy.
    gradients : tuple of (callable or None)
        A rule for each operand; None passes no gradient on.
    text : str
        How it is listed, with a place for each operand.
    symbol : str
        How it is drawn, in a circle; without one, a box with its name is drawn.
    ufunc : numpy.ufunc or None
        Recorded as this operation.
    method : str
        The name of Python's operator without underscores, also recorded.
    python : str
        The same in Python, for graphs of numbers alone; without it their nodes are run.
    commutes : bool
        Whether the operands may be swapped, in every bit.
    like : tuple of int
        The operands of which only the shape matters.
    """

    plain: Callable[..., Any]
    gradients: tuple[Rule | None, ...]
    text: str
    symbol: str = ""
    ufunc: np.ufunc | None = None
    method: str = ""
    python: str = ""
    commutes: bool = False
    like: tuple[int, ...] = ()


def broadcast_to(value: Any, like: Any) -> Any:
    """Repeat a value at every element of another; a Python number takes its dtype, as usual."""
    if not hasattr(like, "dtype"):
        if hasattr(like, "shape"):  # a DataFrame
            raise TypeError(
                f"the gradients of a graph are those of arrays and numbers, not of a "
                f"{type(like).__name__}: give the graph arrays, as by .to_numpy()"
            )
        return reference.sum_to_operand(value, like)  # a number for a number
    if np.shape(value) == like.shape and hasattr(value, "dtype"):
        return value
    if hasattr(value, "dtype"):
        return np.broadcast_to(value, like.shape, subok=True)
    # To NumPy a Fraction, for example, is an object.
    kind = value if isinstance(value, int | float | complex) else np.dtype(object)
    full = np.full_like(_plain(like), value, dtype=np.result_type(like.dtype, kind))
    return full if full.ndim else full[()]


def zeros_like(operand: Any) -> Any:
    """No gradient: zeros of the operand's shape and dtype, or the number 0."""
    return np.zeros_like(_plain(operand))[()] if hasattr(operand, "dtype") else 0


def _plain(array: Any) -> Any:
    """A subclass's array as a plain array on the same memory."""
    return np.asarray(array) if isinstance(array, np.ndarray | np.generic) else array


OPERATIONS: Mapping[str, Operation] = {
    "multiply": Operation(
        operator.mul,
        (
            lambda run, g, v, x, y: run["multiply_to"](g, y, x),
            lambda run, g, v, x, y: run["multiply_to"](g, x, y),
        ),
        "{} * {}",
        symbol="\N{MULTIPLICATION SIGN}",
        ufunc=np.multiply,
        method="mul",
        python="{} * {}",
        commutes=True,
    ),
    "add": Operation(
        operator.add,
        (
            lambda run, g, v, x, y: run["multiply_to"](g, 1, x),
            lambda run, g, v, x, y: run["multiply_to"](g, 1, y),
        ),
        "{} + {}",
        symbol="+",
        ufunc=np.add,
        method="add",
        python="{} + {}",
    ),
    "subtract": Operation(
        operator.sub,
        (
            lambda run, g, v, x, y: run["multiply_to"](g, 1, x),
            lambda run, g, v, x, y: run["multiply_to"](g, -1, y),
        ),
        "{} - {}",
        symbol="\N{MINUS SIGN}",
        ufunc=np.subtract,
        method="sub",
        python="{} - {}",
    ),
    "negative": Operation(
        operator.neg,
        (lambda run, g, v, x: run["multiply"](g, -1),),
        "-{}",
        symbol="\N{MINUS SIGN}",
        ufunc=np.negative,
        method="neg",
        python="-{}",
    ),
    "positive": Operation(
        operator.pos,
        (lambda run, g, v, x: run["multiply"](g, 1),),
        "+{}",
        symbol="+",
        ufunc=np.positive,
        method="pos",
        python="+{}",
    ),
    "square": Operation(
        np.square,
        (lambda run, g, v, x: run["multiply"](g, run["multiply"](2, x)),),
        "square({})",
        ufunc=np.square,
    ),
    # In graphs of gradients.
    "sum_to": Operation(
        reference.sum_to_operand,
        (lambda run, g, v, value, like: run["broadcast_to"](g, value), None),
        "sum_to({}, like={})",
        symbol="Σ",
        like=(1,),
    ),
    "multiply_to": Operation(
        reference.multiply_to_operand,
        (
            lambda run, g, v, x, y, like: run["multiply_to"](run["broadcast_to"](g, x), y, x),
            lambda run, g, v, x, y, like: run["multiply_to"](run["broadcast_to"](g, x), x, y),
            None,
        ),
        "sum_to({} * {}, like={})",
        like=(2,),
    ),
    "broadcast_to": Operation(
        broadcast_to,
        (lambda run, g, v, value, like: run["sum_to"](g, value), None),
        "broadcast_to({}, like={})",
        like=(1,),
    ),
    "zeros_like": Operation(zeros_like, (None,), "zeros_like({})", like=(0,)),
}

# What runs nodes one by one: plain NumPy; the functions of this package; and where a pass has
# computed all of it, and NumPy must warn.
PLAIN: Operations = {name: row.plain for name, row in OPERATIONS.items()}
FUNCTIONS = WARNING = PLAIN
if core.dispatch is not None:
    FUNCTIONS = {**PLAIN, **core.dispatch.functions}
    WARNING = {**FUNCTIONS, **core.dispatch.by_numpy}


class Probe:
    """Stands for a value while a rule is run to find which values it reads."""


class Probing(dict[str, Callable[..., Any]]):
    """Operations that note of which values more than the shape is read."""

    def __init__(self) -> None:
        self.read: set[Probe] = set()

    def __missing__(self, name: str) -> Callable[..., Probe]:
        def note(*operands: Any) -> Probe:
            like = OPERATIONS[name].like
            self.read.update(one for i, one in enumerate(operands) if i not in like)
            return Probe()

        return note


def read_by(rules: tuple[Rule | None, ...]) -> frozenset[int]:
    """The operands whose values an operation's rules read; the next number is its own value."""
    value, operands = Probe(), [Probe() for _ in rules]
    run = Probing()
    for rule in rules:
        if rule is not None:
            rule(run, Probe(), value, *operands)
    return frozenset(i for i, one in enumerate((*operands, value)) if one in run.read)


# What the gradients of each operation read.
READ: Mapping[str, frozenset[int]] = {
    name: read_by(row.gradients) for name, row in OPERATIONS.items()
}
