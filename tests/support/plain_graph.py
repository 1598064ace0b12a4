"""Graphs run node by node in plain NumPy: what a graph of fastlayers must not differ from.

Only a gradient that is summed to its operand's shape comes from elsewhere. It has the bits of the
layers, which test_sum_to_shape.py holds to the exact sums.
"""

from __future__ import annotations

import inspect
import warnings
from collections import namedtuple
from collections.abc import Callable
from functools import cache
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
from implementations import INSTALLED
from outcome import Outcome, arrays_in, described, differences, outcome, sharing

import fastlayers


class Node(NamedTuple):
    """``operands`` are positions of earlier nodes; ``number`` is the value of a number."""

    operation: str
    operands: tuple[int, ...] = ()
    number: Any = None


class Symbol:
    """What a function is called with to see which nodes it makes."""

    __array_ufunc__ = None  # NumPy's scalars leave the operator to this class

    def __init__(self, nodes: list[Node], operation: str, *operands: Any):
        positions = [o.position if isinstance(o, Symbol) else number(nodes, o) for o in operands]
        self.nodes = nodes
        self.position = len(nodes)
        nodes.append(Node(operation, tuple(positions)))

    def __mul__(self, other):
        return Symbol(self.nodes, "multiply", self, other)

    def __rmul__(self, other):
        return Symbol(self.nodes, "multiply", other, self)

    def __add__(self, other):
        return Symbol(self.nodes, "add", self, other)

    def __radd__(self, other):
        return Symbol(self.nodes, "add", other, self)

    def __sub__(self, other):
        return Symbol(self.nodes, "subtract", self, other)

    def __rsub__(self, other):
        return Symbol(self.nodes, "subtract", other, self)

    def __neg__(self):
        return Symbol(self.nodes, "negative", self)


def number(nodes: list[Node], value: Any) -> int:
    nodes.append(Node("number", number=value))
    return len(nodes) - 1


VALUE = {
    "multiply": lambda x, y: x * y,
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "negative": lambda x: -x,
}
# What a gradient is multiplied by for each operand, before it is summed.
FACTORS = {
    "multiply": (lambda x, y: y, lambda x, y: x),
    "add": (lambda x, y: 1, lambda x, y: 1),
    "subtract": (lambda x, y: 1, lambda x, y: -1),
    "negative": (lambda x: -1,),
}
# What sums the gradient of each operand, and fails for no other one.
SUMMED = {
    "multiply": ("multiply_backward", "multiply_backward"),
    "add": ("add_backward", "add_backward"),
    "subtract": ("add_backward", "subtract_backward"),
    "negative": ("multiply_backward",),
}


class PlainGraph:
    """A graph of the nodes that ``function`` makes; ``layers`` sum to operands' shapes."""

    def __init__(self, function: Callable[..., Any], layers: Any):
        self.layers = layers
        self.nodes: list[Node] = []
        self.names = tuple(inspect.signature(function).parameters)
        returned = function(*[Symbol(self.nodes, "input") for _ in self.names])
        self.single = not isinstance(returned, tuple)
        symbols = (returned,) if self.single else returned
        self.outputs = [symbol.position for symbol in symbols]
        self.operands: tuple[Any, ...] = ()

    def __call__(self, *operands: Any) -> Any:
        return self._returned(self._values(operands))

    def forward(self, *operands: Any) -> Any:
        self.operands = operands
        return self(*operands)

    def backward(self, dout: Any) -> tuple[Any, ...]:
        with np.errstate(all="ignore"):
            values = self._values(self.operands)
        return self._gradients(values, dout, self.names)

    def value_and_grad(
        self, *operands: Any, dout: Any = 1, wrt: tuple[str, ...] | None = None
    ) -> tuple[Any, tuple[Any, ...]]:
        values = self._values(operands)
        names = self.names if wrt is None else wrt
        return self._returned(values), self._gradients(values, dout, names)

    def comparable(self, name: str, gradient: Any) -> Any:
        """The gradient of an input, but for what is left open where no node takes that."""
        i = self.names.index(name)
        if any(i in node.operands for node in self.nodes):
            return gradient
        if has_shape(gradient):
            return np.array(gradient, order="C", subok=False)[()]
        return 0 if i not in self.outputs and gradient == 0 else gradient

    def _values(self, operands: tuple[Any, ...]) -> list[Any]:
        values = list(operands)
        for node in self.nodes[len(operands) :]:
            if node.operation == "number":
                values.append(node.number)
            else:
                values.append(VALUE[node.operation](*(values[i] for i in node.operands)))
        return values

    def _returned(self, values: list[Any]) -> Any:
        returned = [
            copied(values[i]) if i < len(self.names) or i in self.outputs[:k] else values[i]
            for k, i in enumerate(self.outputs)
        ]
        return returned[0] if self.single else tuple(returned)

    def _gradients(self, values: list[Any], dout: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
        gradients: dict[int, Any] = {}

        def add(i: int, contribution: Any) -> None:
            gradients[i] = gradients[i] + contribution if i in gradients else contribution

        wanted = self._reached_by(names)
        given = dout if isinstance(dout, tuple) else (dout,) * len(self.outputs)
        pairs = zip(self.outputs, given, strict=True)
        started = [(i, self._start(values[i], one)) for i, one in pairs if i in wanted]
        for i, contribution in started:
            add(i, contribution)
        for position in reversed(range(len(self.names), len(self.nodes))):
            node = self.nodes[position]
            if position not in gradients:
                continue
            x_and_y = [values[i] for i in node.operands]
            contributions = [
                (i, self._contribution(node.operation, which, gradients[position], x_and_y))
                for which, i in enumerate(node.operands)
                if i in wanted
            ]
            for i, contribution in contributions:
                add(i, contribution)
        for i, value in enumerate(values[: len(self.names)]):
            if i not in gradients:
                gradients[i] = np.zeros(value.shape, value.dtype) if has_shape(value) else 0
            elif any(gradients[i] is one for _, one in started):
                gradients[i] = copied(gradients[i])
        return gradients_of(names)(*(gradients[self.names.index(name)] for name in names))

    def _reached_by(self, names: tuple[str, ...]) -> set[int]:
        reached = {self.names.index(name) for name in names}
        for i, node in enumerate(self.nodes):
            if reached.intersection(node.operands):
                reached.add(i)
        return reached

    def _start(self, value: Any, dout: Any) -> Any:
        """What is given for an output, in its shape."""
        if not has_shape(value):
            return dout.item() if has_shape(dout) else dout
        if has_shape(dout) and np.ndim(dout) == 0:
            dout = dout[()]  # of objects the object itself
        if isinstance(dout, np.ndarray):
            return dout
        if isinstance(dout, np.generic):
            return np.broadcast_to(dout, value.shape)[()]
        kind = dout if isinstance(dout, int | float | complex) else object
        return np.full_like(value, dout, np.result_type(value.dtype, kind), subok=False)[()]

    def _contribution(self, operation: str, which: int, dout: Any, operands: list[Any]) -> Any:
        """The gradient of the operand ``which``, in its shape; a number's is a number."""
        factor = FACTORS[operation][which](*operands)
        product, operand = dout * factor, operands[which]
        if np.shape(product) == np.shape(operand) and has_shape(product) <= has_shape(operand):
            is_view = isinstance(product, np.ndarray) and not product.flags.owndata
            return product.copy() if is_view else product  # what a subclass's arithmetic may give
        # The warnings of the sum alone; its bits may depend on what was multiplied.
        # Of these a product with 1 might warn once more, or have a wider dtype.
        if np.iscomplexobj(product) or isinstance(product, np.ma.MaskedArray):
            shape = (1,) * (np.ndim(product) - np.ndim(operand)) + np.shape(operand)
            axes = [i for i, n in enumerate(shape) if n == 1 != np.shape(product)[i]]
            np.sum(product, axis=tuple(axes))
        elif np.ndim(product):
            self.layers.add_backward(product, operand, product, sum_to_shape=True)
        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
            # The other gradient is not asked for: a number may be too large for that.
            like = [one if has_shape(one) else 1 for one in operands]
            if operation == "multiply":
                like[1 - which] = factor
            if operation == "negative":
                like.append(factor)
            backward = SUMMED[operation][which]
            return getattr(INSTALLED, backward)(dout, *like, sum_to_shape=True)[which]


@cache
def gradients_of(names: tuple[str, ...]) -> type:
    return namedtuple("Gradients", names)


def has_shape(value: Any) -> bool:
    """Whether a value is an array or a NumPy scalar, rather than a Python number."""
    return isinstance(value, np.generic) or not isinstance(value, Number)


def copied(value: Any) -> Any:
    return value.copy(order="K") if isinstance(value, np.ndarray) else value


# ------------------------------------------------------------------------------------- comparison


def assert_same(
    function: Callable[..., Any],
    *operands: Any,
    dout: Any = 1,
    wrt: tuple[str, ...] | None = None,
    errstate: dict[str, str] | None = None,
) -> Outcome:
    """A graph must do what its nodes do, called in every way; the outcome of `value_and_grad`.

    One way is by the names ``wrt``, or by the first one alone. A failure shows the graph with its
    operands, and where the two differ.
    """
    before = described([*operands, dout])
    plain = PlainGraph(function, fastlayers)
    graph = graph_of(function)
    wrt = plain.names[:1] if wrt is None else wrt
    expected, earlier = every_way(plain, plain, operands, dout, wrt, errstate)
    actual, results = every_way(graph, plain, operands, dout, wrt, errstate)
    assert actual == expected, "\n".join(
        [str(graph), f"    {dout = }"[:500], *differences(actual, expected)]
    )
    assert described([*operands, dout]) == before
    given = dout if isinstance(dout, tuple) else (dout,)
    assert sharing(results, [*arrays_in((*operands, *given)), *earlier]) == []
    return actual["value_and_grad"]


def graph_of(function: Callable[..., Any]) -> fastlayers.Graph:
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of idle parameters
        return fastlayers.Graph(function)


def every_way(
    graph: Any,
    plain: PlainGraph,
    operands: tuple[Any, ...],
    dout: Any,
    wrt: tuple[str, ...],
    errstate: dict[str, str] | None,
) -> tuple[dict[str, Outcome], list[np.ndarray]]:
    """The outcome of every way to run a graph, and all arrays among the results."""
    arrays = []

    def seen(value):
        values = value if isinstance(value, tuple) else (value,)
        arrays.extend(arrays_in(values))
        return tuple(map(owned, values)) if isinstance(value, tuple) else owned(value)

    def forward(function):
        return seen(function(*operands))

    def named(gradients, names=plain.names):
        assert gradients._fields == names
        pairs = zip(names, seen(tuple(gradients)), strict=True)
        return gradients_of(names)(*(plain.comparable(name, one) for name, one in pairs))

    def backward():
        return named(graph.backward(dout))

    def value_and_grad(names):
        value, gradients = graph.value_and_grad(*operands, dout=dout, wrt=names)
        return seen(value), named(gradients, plain.names if names is None else names)

    calls = {
        "call": (forward, graph),
        "forward": (forward, graph.forward),
        "backward": (backward,),
        "value_and_grad": (value_and_grad, None),
        "value_and_grad by name": (value_and_grad, wrt),
    }
    outcomes = {name: outcome(*one, errstate=errstate) for name, one in calls.items()}
    if outcomes["forward"].exception:
        del outcomes["backward"]
    return outcomes, arrays


def owned(value: Any) -> Any:
    """What arithmetic on a subclass gives may be a view, or a copy, of an array of its own."""
    if isinstance(value, np.ma.MaskedArray) and value is not np.ma.masked:
        mask = value.mask if value.mask is np.ma.nomask else np.array(value.mask, order="C")
        return np.ma.array(value.data, mask=mask)  # whatever a copy's fill value is
    return value if type(value) is np.ndarray and value.flags.owndata else copied(value)
