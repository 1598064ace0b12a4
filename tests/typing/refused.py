"""Mistakes that mypy and pyright must find: an ignored line that is none is an error in itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import fastlayers
from fastlayers import (
    AddLayer,
    Graph,
    MulLayer,
    add,
    add_backward,
    gradcheck,
    multiply,
    multiply_backward,
)


def arguments(x: NDArray[np.float64]) -> None:
    multiply(x)  # type: ignore[call-overload]
    multiply(x, x, x, x)  # type: ignore[call-overload]
    MulLayer().forward(x)  # type: ignore[call-overload]
    MulLayer().backward()  # type: ignore[call-overload]
    MulLayer(True)  # type: ignore[call-arg]
    multiply_backward(x, x)  # type: ignore[call-overload]
    multiply_backward(x, x, x, sum_to_shape="yes")  # type: ignore[call-overload]
    gradcheck("MulLayer", 1.0, 2.0)  # type: ignore[arg-type]


def graphs(x: NDArray[np.float64]) -> None:
    Graph(2.5)  # type: ignore[arg-type]
    Graph()  # type: ignore[call-arg]
    graph = Graph(multiply)
    graph.backward()  # type: ignore[call-arg]
    graph.grad(1)  # type: ignore[arg-type]
    graph.value_and_grad(x, wrt=1)  # type: ignore[call-overload]
    graph.inputs = ("x",)  # type: ignore[misc]
    graph.grad(wrt="x")  # type: ignore[call-arg]
    graph.backward(x, wrt="x")  # type: ignore[call-arg]
    graph.value_and_grad(x, x, wrt=("x", 1))  # type: ignore[arg-type]
    fastlayers.define_gradients(abs, None)  # type: ignore[arg-type]
    fastlayers.define_gradients(np.lcm, 1.0, None)  # type: ignore[arg-type]


@Graph
def step(w: NDArray[np.float64], dw: NDArray[np.float64]) -> NDArray[np.float64]:
    print(dw @ "w")  # type: ignore[operator]
    print(np.exp(w, axis=1))  # type: ignore[call-overload]
    return w - dw


def operands(x: NDArray[np.float64]) -> None:
    step(x)  # type: ignore[call-overload]
    step(x, x, x)  # type: ignore[call-overload]
    step(x, dv=x)  # type: ignore[call-overload]
    step(x, "w")  # type: ignore[call-overload]
    step.forward(x)  # type: ignore[call-overload]
    step.value_and_grad(x)  # type: ignore[call-overload]
    step.grad("w")(x)  # type: ignore[call-overload]
    fastlayers.grad(step)(x)  # type: ignore[call-overload]
    fastlayers.value_and_grad(step)(x)  # type: ignore[call-arg]
    number: float = step(x, x)  # type: ignore[assignment]
    print(number)


def transforms(x: NDArray[np.float64]) -> None:
    fastlayers.grad(x)  # type: ignore[arg-type]
    fastlayers.grad(multiply, 0)  # type: ignore[arg-type]
    fastlayers.value_and_grad(multiply, 0)  # type: ignore[arg-type]
    fastlayers.value_and_grad(multiply, "x", "y")  # type: ignore[call-arg]


def outputs(x: NDArray[np.float64]) -> None:
    multiply(x, x, out=1.0)  # type: ignore[call-overload]
    add(x, x, out=[1.0])  # type: ignore[call-overload]
    AddLayer().forward(x, x, out=(x, x))  # type: ignore[arg-type]
    AddLayer().backward(x, out=x)  # type: ignore[call-overload]
    multiply_backward(x, x, x, out=x)  # type: ignore[call-overload]
    multiply_backward(x, x, x, out=(x,))  # type: ignore[arg-type]
    add_backward(x, out=(x, 1.0))  # type: ignore[type-var]


def results(f32: NDArray[np.float32], f64: NDArray[np.float64]) -> None:
    integer: int = multiply(1, 1.5)  # type: ignore[assignment]
    number: float = multiply(f64, 2.0)  # type: ignore[assignment]
    product = multiply(f32, f32)
    array: NDArray[np.float64] = product  # type: ignore[assignment]
    pair: tuple[float, float] = multiply_backward(f64, f64, f64)  # type: ignore[assignment]
    print(integer, number, array, pair)


def knobs() -> None:
    fastlayers.set_num_threads("2")  # type: ignore[arg-type]
    fastlayers.set_cache_limit(1.5)  # type: ignore[arg-type]
    fastlayers.show_config("yaml")  # type: ignore[call-overload]
