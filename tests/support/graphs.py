"""The graphs that the tests share, layers for them, and the arrays that they are called with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
from operands import Operand
from random_graphs import function_of

import fastlayers
from fastlayers import BaseLayer
from fastlayers.graph import operations


def shop(apple, apple_num, orange, orange_num, tax):
    """The book's: two sums of products."""
    return (apple * apple_num + orange * orange_num) * tax


def horner(x, a, b, c):
    return ((c * x + b) * x + a) * x - 2


def gates(f, c, g, i):
    """Of an LSTM: a sum of products is the output."""
    return f * c + g * i


def momentum(w, v, g, mu, lr):
    """Of two outputs, the second one is read by the first."""
    v = mu * v - lr * g
    return w + v, v


def averages(m, v, g):
    """Adam's; the numbers are no integers."""
    return m * 0.75 + g * 0.25, v * 0.5 + g * g * 0.5


def fans(x, y):
    """Values that are used several times."""
    t = x * y - y
    return t * t - (-t) * x + t, t


def product(a, b, c, d):
    return a * b * (c * d) * a


def pairs(a, b, c, d, x):
    """A sum of products and a product are read by products: they may be computed twice."""
    total = a * b + c * d
    return total * x, total * (a + x), x * (a * d)


def polynomial(x, a, b, c):
    """So many gradients are added for x, each beside the product that goes on."""
    return ((((c * x + b) * x + a) * x - b) * x + 3) * x + c


def scheme(x, y, z):
    """Sums of products of which each is read by something else, too."""
    t = x * y + z
    return t * y + t, (t * x + y) * z + 2, (z * 2 + x) * 2 + y


GRAPHS = {
    function.__name__: function
    for function in (
        shop,
        horner,
        gates,
        momentum,
        averages,
        fans,
        product,
        pairs,
        polynomial,
        scheme,
    )
}


def of_many(count: int) -> Callable[..., Any]:
    """A function of more operands than a pass takes, some of which are used twice."""
    names = [f"x{i}" for i in range(count)]
    lines = ["total = x0"]
    lines += [f"total = total + {names[i]} * {names[(i - 1) // 2]}" for i in range(1, count)]
    body = "\n    ".join([*lines, "return total, total * total"])
    return function_of(f"def graph({', '.join(names)}):\n    {body}\n")


def parameters(function: Callable[..., Any]) -> int:
    return function.__code__.co_argcount


def normal(shape: Any, dtype: str = "f8", seed: int = 0, layout: str = "C") -> np.ndarray:
    """Ordinary numbers, or integers; ``shape`` may be a number of elements."""
    shape = shape if isinstance(shape, tuple) else (shape,)
    built = Operand(dtype, shape, layout, seed=seed).build()
    return built.copy() if layout == "C" else built


def inputs(function: Callable[..., Any], shape: Any, dtype: str = "f8", layout: str = "C") -> list:
    """An array for each parameter."""
    return [normal(shape, dtype, seed, layout) for seed in range(parameters(function))]


def copies(arrays: Any) -> list:
    return [np.array(one) for one in arrays]


@contextmanager
def in_passes() -> Iterator[None]:
    """No node may be run by itself, where there are passes."""
    before = fastlayers.graph_info()
    yield
    after = fastlayers.graph_info()
    assert after.nodes == before.nodes
    assert after.passes > before.passes or fastlayers.IMPLEMENTATION != "native"


class NodesGraph(fastlayers.Graph):
    """A graph of which no pass is made: its nodes are run one by one, with the layers' sums."""

    _operations = MappingProxyType(operations.FUNCTIONS)


class Relu(BaseLayer):
    """As the book writes it: ``backward`` writes into its dout, and returns that."""

    def forward(self, x):
        self.mask = x <= 0
        out = x.copy()
        out[self.mask] = 0
        return out

    def backward(self, dout):
        dout[self.mask] = 0
        return dout


class Half(BaseLayer):
    def forward(self, x):
        return x * 0.5

    def backward(self, dout):
        return dout * 0.5


class Shop:
    """The book's shop by hand, with a layer for each node and a backward in reverse."""

    def __init__(self, layers):
        self.apples, self.oranges, self.total = (layers.MulLayer() for _ in range(3))
        self.fruit = layers.AddLayer()

    def forward(self, apple, apple_num, orange, orange_num, tax):
        apples = self.apples.forward(apple, apple_num)
        oranges = self.oranges.forward(orange, orange_num)
        return self.total.forward(self.fruit.forward(apples, oranges), tax)

    def backward(self, dout):
        dfruit, dtax = self.total.backward(dout)
        dapples, doranges = self.fruit.backward(dfruit)
        dapple, dapple_num = self.apples.backward(dapples)
        dorange, dorange_num = self.oranges.backward(doranges)
        return dapple, dapple_num, dorange, dorange_num, dtax
