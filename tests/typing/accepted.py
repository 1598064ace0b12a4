"""Programs as users type them: `make lint` checks what mypy and pyright make of them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import fastlayers
from fastlayers import (
    AddLayer,
    BaseLayer,
    Graph,
    MulLayer,
    add,
    add_backward,
    gradcheck,
    multiply,
    multiply_backward,
    reference,
)

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
Arrays = NDArray[Any]


def numbers(integer: int, number: float) -> None:
    assert_type(multiply(integer, integer), int)
    assert_type(multiply(integer, number), float)
    assert_type(add(number, integer), float)
    assert_type(add(number, 2j), complex)
    assert_type(MulLayer().forward(100, 2), int)
    assert_type(AddLayer().forward(x=200, y=1.1), float)
    assert_type(multiply_backward(1, integer, integer), tuple[int, int])
    assert_type(multiply_backward(1.1, integer, number), tuple[float, float])
    assert_type(multiply_backward(1, 2, 3, sum_to_shape=True), tuple[int, int])
    assert_type(add_backward(1), tuple[int, int])
    assert_type(add_backward(1.1, integer, number), tuple[float, float])
    assert_type(multiply(Fraction(1, 2), 2), Any)


def arrays(f32: Float32s, f64: Float64s, i64: Int64s, anything: Arrays) -> None:
    assert_type(multiply(f64, f64), Float64s)
    assert_type(add(i64, i64), Int64s)
    assert_type(MulLayer().forward(f32, f32), Float32s)
    assert_type(AddLayer(sum_to_shape=True).forward(f32, f32), Float32s)
    assert_type(reference.MulLayer().forward(f32, f32), Float32s)
    assert_type(reference.multiply(f32, f32), Float32s)
    # What NumPy makes of two dtypes, or of an array and a number, no type tells.
    assert_type(multiply(f32, i64), Arrays)
    assert_type(multiply(1.1, f32), Arrays)
    assert_type(MulLayer().forward(f32, 2), Arrays)
    assert_type(add(f32, np.float64(2)), Arrays)
    assert_type(multiply([1, 2], i64), Any)

    assert_type(multiply_backward(f64, f64, f64), tuple[Float64s, Float64s])
    assert_type(multiply_backward(f64, f64, f64, None, True), tuple[Float64s, Float64s])
    assert_type(multiply_backward(f64, f32, f64), tuple[Arrays, Arrays])
    assert_type(multiply_backward(1.0, f32, f32), tuple[Arrays, Arrays])
    assert_type(add_backward(i64), tuple[Int64s, Int64s])
    assert_type(add_backward(f32, f32, f32, sum_to_shape=True), tuple[Float32s, Float32s])
    product: Float32s = multiply(anything, f32)
    gradients: tuple[Float32s, Float32s] = multiply_backward(anything, product, f32)
    assert_type(gradients[0], Float32s)


def outputs(f32: Float32s, f64: Float64s) -> None:
    assert_type(multiply(f32, f64, f64), Float64s)
    assert_type(add(1, f32, out=f64), Float64s)
    assert_type(MulLayer().forward(f32, f32, out=f32), Float32s)
    assert_type(multiply_backward(f32, f32, f32, (f32, f64)), tuple[Float32s, Float64s])
    assert_type(AddLayer().backward(f32, out=(f32, f64)), tuple[Float32s, Float64s])
    _, dy = add_backward(f32, out=(None, f64))
    gradient: Float64s = dy
    print(gradient)


class Relu(BaseLayer):
    """A layer of one operand."""

    def forward(self, x: Float64s) -> Float64s:
        self.mask = x <= 0
        out = x.copy()
        out[self.mask] = 0
        return out

    def backward(self, dout: Float64s) -> Float64s:
        dout[self.mask] = 0
        return dout


class CountingMulLayer(MulLayer):
    """A subclass that passes on what it gets."""

    calls = 0

    def forward(self, x: Any, y: Any, out: Any = None) -> Any:
        self.calls += 1
        return super().forward(x, y, out)


def layers(f64: Float64s) -> None:
    layer = CountingMulLayer(sum_to_shape=True)
    hidden: Float64s = layer.forward(Relu().forward(f64), f64)
    dx, dy = layer.backward(hidden)
    total: Float64s = dx + dy
    layer.x, layer.y = total, None
    layer.toString()
    assert_type(gradcheck(layer, f64, 2.0), bool)


class Net:
    """A class of layers as its users write it."""

    def __init__(self) -> None:
        self.mul, self.add, self.relu = MulLayer(), AddLayer(), Relu()

    def forward(self, x: Float64s, w: Any, b: Any) -> Any:
        return self.relu(self.add.forward(self.mul.forward(x, w), b))


@Graph
def momentum(w: Any, v: Any, g: Any, mu: Any, lr: Any) -> Any:
    v = mu * v - lr * g
    return w + v, v


def graphs(f64: Float64s) -> None:
    w, v = momentum(f64, f64, f64, 0.9, lr=0.1, out=(f64, None))
    graph = Graph(Net().forward)
    value: Float64s = graph.forward(f64, 2.0, b=f64)
    gradients = graph.backward(np.ones_like(value), out=(None, f64, None))
    total: Float64s = gradients.x + gradients[1] + w + v
    value, gradients = graph.value_and_grad(total, 2, 3, dout=1, wrt=("x",), out=(f64, None))
    slope: Graph = Graph(graph).grad("x").grad()
    assert_type(slope(f64, 2.0, 3.0), Any)
    assert_type(graph.inputs, tuple[str, ...])
    graph.toString()
    graph.draw(f64, 2, b=3).save("net.svg")
    assert_type(graph.to_dot(), str)
    assert_type(gradcheck(graph, f64, 2.0, b=3.0), bool)


# A function in plain NumPy is to type checkers what it is without the graph.
@Graph
def attention(x: Float64s, w: Float64s, b: Float64s) -> Any:
    scores = x @ w + b
    assert_type(scores, Float64s)
    assert_type(x[1:] - x[:-1], Float64s)
    scores += b
    scores[0] = 0.0
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.where(x > 0, e / e.sum(axis=1, keepdims=True), 0), np.pad(x, 1)


@Graph
def network(layers: list[tuple[Any, Any]], x: Any) -> Any:
    for w, b in layers:
        x = np.maximum(x @ w + b, 0)
    return np.sort(x)[..., -1] * x.shape[0]


def dawsn_back(g: Any, v: Any, x: Any) -> Any:
    return g * (1 - 2 * x * v)


def functions(f64: Float64s) -> None:
    value, gradients = attention.value_and_grad(f64, f64, b=f64, wrt="x", dout=(f64, 1))
    pair: tuple[Float64s, Float64s] = value
    slope: Graph[[list[tuple[Any, Any]], Any], Any] = network.grad("x")
    total: Float64s = slope([(f64, f64)], f64, out=f64) + gradients.x + pair[0]
    number: float = network.forward([(f64, f64)], total)
    (dw, _), *_ = network.backward(number).layers
    total += dw
    fastlayers.define_gradients(np.frompyfunc(abs, 1, 1), dawsn_back)
    fastlayers.define_gradients(np.lcm, None, None)
    fastlayers.define_gradients(np.gcd)
    assert_type(fastlayers.graph_info().passes, int)


def transforms(f64: Float64s) -> None:
    def loss(w: Float64s, x: Any) -> Any:
        return (w * x).sum()

    value, gradient = fastlayers.value_and_grad(loss)(f64, x=2.0)
    total: Float64s = gradient + value
    _, gradients = fastlayers.value_and_grad(loss, wrt=["w", "x"])(total, 2.0)
    print(gradients.w, gradients.x)
    fastlayers.value_and_grad(momentum, "w")(f64, f64, f64, 0.9, 0.1)
    slope: Graph = fastlayers.grad(fastlayers.grad(loss, "w", "x"))
    print(slope(f64, x=2.0), fastlayers.grad(loss)(f64, 2.0))


@Graph
def mean(x: Float64s, weight: float) -> np.float64:
    return np.float64(weight * x.mean())


def signatures(f64: Float64s) -> None:
    # Operands and the value are those of the function.
    assert_type(mean(f64, 1.0), np.float64)
    assert_type(mean.forward(x=f64, weight=2.0), np.float64)
    assert_type(mean.value_and_grad(f64, 2.0)[0], np.float64)
    assert_type(mean.value_and_grad(f64, 1.0, wrt="x", out=(None, (f64,)))[0], np.float64)
    assert_type(fastlayers.value_and_grad(mean)(f64, 1.0)[0], np.float64)
    assert_type(Graph(mean)(f64, weight=2.0), np.float64)


def knobs(f64: Float64s) -> None:
    fastlayers.set_num_threads(fastlayers.get_num_threads())
    fastlayers.set_cache_limit(fastlayers.cache_info().limit)
    fastlayers.empty_cache()

    @fastlayers.recycling()
    def double(x: Float64s) -> Float64s:
        return x * 2

    @fastlayers.recycling
    def triple(x: Float64s) -> Float64s:
        return x * 3

    with fastlayers.recycling():
        assert_type(double(triple(f64)), Float64s)
    assert_type(fastlayers.show_config(mode="dicts"), dict[str, Any])
    fastlayers.show_config()
