"""Functions without annotations, as most are: `make lint` checks that nothing is wrong with them.

What follows holds for what is not annotated alone. Strict checkers ask for annotations.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# pyright: basic

from __future__ import annotations

from typing import Any, assert_type

import numpy as np

from fastlayers import Graph, define_gradients, gradcheck


@Graph
def affine(x, w, b):
    return x @ w + b


def rnn(x, w):
    h = np.zeros_like(x[0])
    for row in x:
        h = np.tanh(row + h @ w)
    return np.where(h > 0, h, 0), x[1:] - x[:-1]


softmax = Graph(lambda x: np.exp(x) / x.sum(axis=1))
define_gradients(np.frompyfunc(abs, 1, 1), lambda g, v, x: g * np.sign(x))


def use(x, w, b):
    graph, slope = Graph(rnn), affine.grad("w", "b")
    assert_type(slope(x, w, b), Any)
    (h, steps), gradients = graph.value_and_grad(x, w, wrt="w")
    product = Graph(lambda x, v: np.sum(softmax.grad("x")(x) * v))
    assert_type(gradcheck(product, x, v=steps), bool)
    return affine(x, w=w, b=b, out=h) - gradients.w
