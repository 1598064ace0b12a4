"""Time values and gradients of whole expressions: plain NumPy by hand against a `Graph`.

With ``--implementation reference`` the lines that one would write by hand are timed, forward and
backward; with ``native`` the graph of the forward lines alone. How it is timed: test_layers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest


def shop(a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    return (a * b + c * d) * e


def shop_by_hand(one: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    total = a * b + c * d
    dtotal, de = one * e, one * total
    dleft, dright = dtotal * 1, dtotal * 1
    return total * e, (dleft * b, dleft * a, dright * d, dright * c, de)


def gates(f: Any, c: Any, g: Any, i: Any) -> Any:
    return f * c + g * i


def gates_by_hand(one: Any, f: Any, c: Any, g: Any, i: Any) -> Any:
    dleft, dright = one * 1, one * 1
    return f * c + g * i, (dleft * c, dleft * f, dright * i, dright * g)


def scale(x: Any, gamma: Any, beta: Any) -> Any:
    return x * gamma + beta


def scale_by_hand(one: Any, x: Any, gamma: Any, beta: Any) -> Any:
    dproduct, dbeta = one * 1, np.sum(one * 1, axis=0)
    return x * gamma + beta, (dproduct * gamma, np.sum(dproduct * x, axis=0), dbeta)


def blend(alpha: Any, x: Any, y: Any) -> Any:
    return alpha * x + (1 - alpha) * y


def blend_by_hand(one: Any, alpha: Any, x: Any, y: Any) -> Any:
    rest = 1 - alpha
    dleft, dright = one * 1, one * 1
    drest, dalpha = (np.sum(d, axis=-1, keepdims=True) for d in (dright * y, dleft * x))
    return alpha * x + rest * y, (drest * -1 + dalpha, dleft * alpha, dright * rest)


def horner(x: Any) -> Any:
    total = 0.5 * x + 0.25
    for number in (1.0, -0.5, 2.0, 0.125, -3.0, 0.75, 1.5):
        total = total * x + number
    return total


def horner_by_hand(one: Any, x: Any) -> Any:
    totals = [0.5 * x + 0.25]
    for number in (1.0, -0.5, 2.0, 0.125, -3.0, 0.75, 1.5):
        totals.append(totals[-1] * x + number)
    dtotal, dx = one * 1, None
    for total in reversed(totals[:-1]):
        dx = dtotal * total if dx is None else dx + dtotal * total
        dtotal = dtotal * x * 1
    return totals[-1], (dx + dtotal * 0.5,)


# The graph, the same by hand, the dtype, and the shapes of its operands by the number of elements.
GRAPHS: dict[str, tuple[Callable[..., Any], Callable[..., Any], str, Callable[[int], Any]]] = {
    "(a*b + c*d)*e": (shop, shop_by_hand, "float64", lambda n: [(n,)] * 5),
    "f*c + g*i": (gates, gates_by_hand, "float32", lambda n: [(n,)] * 4),
    "x*gamma + beta": (
        scale,
        scale_by_hand,
        "float32",
        lambda n: [(max(n // 256, 1), 256), (256,), (256,)],
    ),
    "blending": (
        blend,
        blend_by_hand,
        "float32",
        lambda n: [(max(n // 48, 1), 16, 1), *[(max(n // 48, 1), 16, 3)] * 2],
    ),
    "Horner, degree 8": (horner, horner_by_hand, "float64", lambda n: [(n,)]),
}
SIZES = 100, 1_000, 10_000, 100_000, 1_000_000, 4_000_000


def repeated(function: Callable[..., Any], *operands: Any) -> Iterator[None]:
    while True:
        value, gradients = function(*operands)  # noqa: RUF059
        yield


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", GRAPHS)
def test_graph(benchmark: Any, name: str, size: int, request: pytest.FixtureRequest) -> None:
    import fastlayers

    function, by_hand, dtype, shapes = GRAPHS[name]
    rng = np.random.default_rng(0)
    operands = [rng.standard_normal(shape, dtype=dtype) for shape in shapes(size)]
    benchmark.group = f"{name}, value and gradients"
    benchmark.extra_info.update(dtype=dtype, size=size)
    if request.config.getoption("--implementation") == "native":
        call = repeated(fastlayers.Graph(function).value_and_grad, *operands)
    else:
        one = np.ones_like(function(*operands))
        call = repeated(by_hand, one, *operands)
    benchmark(call.__next__)
