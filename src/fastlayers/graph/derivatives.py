"""Gradients of functions as autograd and JAX name them: `grad` and `value_and_grad`."""

from collections.abc import Callable, Sequence
from typing import Any

from .graph import Graph, P, R


def grad(function: Callable[P, Any], *names: str) -> Graph[P, Any]:
    """Return the graph of the gradient of the sum of a function's values.

    Parameters
    ----------
    function : callable
        What a `Graph` takes, or a graph. It is recorded once.
    *names : str
        Parameters to differentiate with respect to; the first one if none is given.

    Returns
    -------
    Graph
        As from `Graph.grad`: its value is the gradient, or a tuple of several.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlayers import grad
    >>> slope = grad(lambda x: np.sum(x**3))
    >>> slope(np.array([1.0, 2.0])), grad(slope)(np.array([1.0, 2.0]))
    (array([ 3., 12.]), array([ 6., 12.]))
    """
    graph = function if isinstance(function, Graph) else Graph(function)
    return graph.grad(*(names or graph.inputs[:1]))


def value_and_grad(
    function: Callable[P, R], wrt: str | Sequence[str] | None = None
) -> Callable[P, tuple[R, Any]]:
    """Return a function that gives the value and the gradient of another one.

    Parameters
    ----------
    function : callable
        What a `Graph` takes, or a graph. It is recorded once.
    wrt : str or sequence of str, optional
        Names of the parameters to differentiate with respect to; the first one by default.

    Returns
    -------
    callable
        Takes what the function takes, and returns the value and the gradient of the sum of all
        values: an array, a number or a tree, as the operand is. If ``wrt`` is a sequence, the
        gradients are a named tuple, as those of `Graph.value_and_grad`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlayers import value_and_grad
    >>> value, gradient = value_and_grad(lambda x: np.sum(x * x))(np.array([1.0, 2.0]))
    >>> float(value), gradient
    (5.0, array([2., 4.]))
    """
    return _ValueAndGrad(function if isinstance(function, Graph) else Graph(function), wrt)


class _ValueAndGrad:  # unlike a closure it can be pickled, as its graph can
    def __init__(self, graph: Graph, wrt: str | Sequence[str] | None) -> None:
        self._graph, self._single = graph, wrt is None or isinstance(wrt, str)
        self._names = graph._named(graph.inputs[:1] if wrt is None else wrt)

    def __call__(self, /, *operands: Any, **named: Any) -> tuple[Any, Any]:
        # By position: a parameter may have the name of an option, as "out".
        operands = self._graph._bound(operands, named)
        value, gradients = self._graph.value_and_grad(*operands, wrt=self._names)
        return value, gradients[0] if self._single else gradients

    def __repr__(self) -> str:
        return f"<value_and_grad of {self._graph!r} by {', '.join(self._names)}>"
