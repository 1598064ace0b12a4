"""The rules of the chain rule, recorded: what the table says in plain NumPy, as steps to be run.

A rule is called once, with symbols. Its steps are then run on whatever is at hand: on arrays, on
names of values (for the graph of a gradient), on kinds of values (for a plan).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .nodes import Node
from .operations import FUNCTIONS, OPERATIONS, PLAIN, WARNING, Operation, Operations, no_rule
from .recording import UFUNCS, Recording, Symbol, operation_of

Options = tuple[tuple[str, Any], ...]


class Step(NamedTuple):
    """An operation of values by their places: the gradient, the value, the operands, then steps.

    A number that a rule is written with is a step without an operation.
    """

    operation: str
    places: tuple[int, ...]
    options: dict[str, Any]
    number: Any


class Rule(NamedTuple):
    """How the gradient of one operand is computed.

    Attributes
    ----------
    steps : tuple of Step or None
        None if the operation cannot be differentiated.
    result : int
        The place of the gradient.
    reads : frozenset of int
        Those of the operands, and after them the value, of which more than the shape matters.
    summed : bool
        Whether the result is to be summed to the operand's shape.
    """

    steps: tuple[Step, ...] | None
    result: int
    reads: frozenset[int]
    summed: bool

    def apply(self, run: Operations, gradient: Any, value: Any, operands: Sequence[Any]) -> Any:
        values = [gradient, value, *operands]
        for operation, places, options, number in self.steps or ():
            if operation == "number":
                values.append(number)
            elif options:
                values.append(run[operation](*[values[place] for place in places], **options))
            else:
                values.append(run[operation](*[values[place] for place in places]))
        return values[self.result]


MISSING = Rule(None, 0, frozenset(), False)


def rules_of(node: Node) -> tuple[Rule | None, ...]:
    """The rule for each operand of a node; None if no gradient passes to it."""
    options = node.detail or ()
    # 1 equals 1.0, which is no axis: their texts tell them apart.
    text = repr(options) if options else ""
    return _rules_of(node.operation, len(node.operands), options, text)


@functools.lru_cache(maxsize=4096)
def _rules_of(operation: str, count: int, options: Options, _: str) -> tuple[Rule | None, ...]:
    gradients = OPERATIONS[operation].gradients
    named = dict(options)
    if callable(gradients):
        return tuple(
            [recorded(operation, gradients, count, i, {**named, "which": i}) for i in range(count)]
        )
    return tuple([recorded(operation, one, count, i, named) for i, one in enumerate(gradients)])


def recorded(
    operation: str, rule: Any, count: int, operand: int, options: dict[str, Any]
) -> Rule | None:
    """Record a rule for one of ``count`` operands."""
    if rule is None:
        return None
    if rule is no_rule:
        return MISSING
    recording = Recording(f"the gradient of {operation}", located=False)
    symbols = [recording.input(name) for name in ("g", "v", *(f"x{i}" for i in range(count)))]
    try:
        result = rule(*symbols, **options)
    finally:
        recording.over = True
    if result is None:
        return None
    if not isinstance(result, Symbol):
        raise TypeError(f"a rule must return what it computes of its symbols, not {result!r:.60}")
    nodes = recording.nodes
    steps = tuple(
        [
            Step(node.operation, node.operands, {}, node.detail)
            if node.operation == "number"
            else Step(
                # Which gives a scalar where there are no axes, as arithmetic does.
                "select" if node.operation == "where" else node.operation,
                node.operands,
                dict(node.detail or ()),
                None,
            )
            for node in nodes[len(symbols) :]
        ]
    )
    read: set[int] = set()
    for step in steps:
        if step.operation != "number":
            like = OPERATIONS[step.operation].like
            read.update(place for i, place in enumerate(step.places) if i not in like)
    read.add(result._position)
    reads = [i for i in range(count) if i + 2 in read] + [count] * (1 in read)
    last = nodes[result._position]
    shaped = last.operation in OPERATIONS and any(
        place == operand + 2 and i in OPERATIONS[last.operation].like
        for i, place in enumerate(last.operands)
    )
    summed = OPERATIONS[operation].elementwise and count > 1 and not shaped
    return Rule(steps, result._position, frozenset(reads), summed)


# To nodes and plans these mean something else, though they are no operations.
RESERVED = {
    *("input", "number", "constant", "layer", "from_bool", "multiply_backward", "add_products"),
    *("subtract_products", "multiply_add", "multiply_subtract", "subtract_product"),
    *("product_backward", "add_products_backward"),
}


def define_gradients(ufunc: np.ufunc, *rules: Callable[..., Any] | None) -> None:
    """Say how a ufunc is differentiated, so that graphs can record it.

    Parameters
    ----------
    ufunc : numpy.ufunc
        Any with one output that works element by element: SciPy's, one made by ``@cython.ufunc``
        or by `numpy.frompyfunc`, or one of Numba's ``@vectorize`` with signatures.
    *rules : callable or None
        One for each operand, called once with symbols: ``rule(g, v, *operands)`` of the gradient
        ``g`` of the value, the value ``v`` and the operands returns the gradient of the operand, in
        plain NumPy. It is summed to the operand's shape if that was broadcast. None passes no
        gradient on. What rules are made of is differentiated in turn, for second derivatives.
        Without rules the ufunc can be recorded, but not differentiated.

    Raises
    ------
    TypeError
        If this is no such ufunc, if there is not one rule for each operand, if a rule takes other
        arguments, or cannot be recorded.
    ValueError
        If fastlayers knows how the ufunc is differentiated. What was defined here may be defined
        anew.

    Notes
    -----
    Write numbers in rules as Python numbers, so that float32 stays float32.

    Of two ufuncs whose rules need each other, define one without rules first, as below.

    Graphs that contain the ufunc find it by its name when they are read from a file: define it
    before.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlayers import Graph, define_gradients
    >>> def softplus(x):
    ...     return np.log1p(np.exp(x))
    >>> softplus = np.frompyfunc(softplus, 1, 1)
    >>> define_gradients(softplus, lambda g, v, x: g / (1 + np.exp(-x)))
    >>> Graph(lambda x: softplus(2 * x)).value_and_grad(0.0)[1].x
    1.0

    Two that need each other:

    >>> from scipy.special import j0, j1
    >>> define_gradients(j1)
    >>> define_gradients(j0, lambda g, v, x: -(g * j1(x)))
    >>> define_gradients(j1, lambda g, v, x: g * (j0(x) - v / x))
    """
    ufunc = getattr(ufunc, "ufunc", ufunc)  # Numba's have theirs inside
    if not isinstance(ufunc, np.ufunc) or ufunc.nout != 1 or ufunc.signature is not None:
        raise TypeError(
            f"define_gradients takes a ufunc with one output that works element by element, not "
            f"{ufunc!r:.60}"
        )
    rules = rules or (no_rule,) * ufunc.nin
    if len(rules) != ufunc.nin:
        raise TypeError(
            f"define_gradients takes a rule for each operand of {ufunc.__name__}, which has "
            f"{ufunc.nin}, and was given {len(rules)}"
        )
    name = operation_of(ufunc)
    before = None if name is None else OPERATIONS[name]
    if before is not None and before.gradients != (no_rule,) * ufunc.nin and name not in _defined:
        raise ValueError(f"it is known how {ufunc.__name__} is differentiated")
    if name is None:
        name = ufunc.__name__.removesuffix(" (vectorized)")  # as np.frompyfunc has it
        while name in OPERATIONS or name in RESERVED:
            name += "_"
    OPERATIONS[name] = Operation(ufunc, rules, ufunc=ufunc, elementwise=True, owner="anybody")
    try:
        for i, rule in enumerate(rules):
            recorded(name, rule, len(rules), i, {})
    except BaseException as error:
        if before is None:
            del OPERATIONS[name]
        else:
            OPERATIONS[name] = before
        error.add_note(
            f"in the rule for operand {i} of {ufunc.__name__}, called as rule(g, v, *operands)"
        )
        raise
    for run in (PLAIN, FUNCTIONS, WARNING):
        run[name] = ufunc
    UFUNCS[ufunc] = name
    _defined.add(name)
    _rules_of.cache_clear()


_defined: set[str] = set()
