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


def gru(h: Any, z: Any, r: Any, candidate: Any) -> Any:
    """A cell's gates: its new state, and what the next candidate is computed of."""
    return (1 - z) * h + z * candidate, r * h


def gru_by_hand(one: Any, h: Any, z: Any, r: Any, candidate: Any) -> Any:
    rest = 1 - z
    dleft, dright = one * 1, one * 1
    dr, dh = one * h, one * r
    dz, dcandidate = dright * candidate, dright * z
    drest = dleft * h
    return (
        (rest * h + z * candidate, r * h),
        (dh + dleft * rest, dz + drest * -1, dr, dcandidate),
    )


def quaternions(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
    """The product of two, by their parts."""
    return (
        a * e - b * f - c * g - d * h,
        a * f + b * e + c * h - d * g,
        a * g - b * h + c * e + d * f,
        a * h + b * g - c * f + d * e,
    )


def quaternions_by_hand(
    one: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any
) -> Any:
    return quaternions(a, b, c, d, e, f, g, h), (
        one * h + one * g + one * f + one * e,
        one * g + one * h * -1 + one * e + one * f * -1,
        one * f * -1 + one * e + one * h + one * g * -1,
        one * e + one * f + one * g * -1 + one * h * -1,
        one * d + one * c + one * b + one * a,
        one * c * -1 + one * d + one * a + one * b * -1,
        one * b + one * a + one * d * -1 + one * c * -1,
        one * a + one * b * -1 + one * c + one * d * -1,
    )


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
    "GRU cell": (gru, gru_by_hand, "float32", lambda n: [(n,)] * 4),
    "quaternions": (
        quaternions,
        quaternions_by_hand,
        "float64",
        lambda n: [(max(n // 4, 1), 4)] * 2,
    ),
}


def momentum(w: Any, v: Any, g: Any) -> Any:
    v = 0.9 * v - 0.01 * g
    return w + v, v


def momentum_by_hand(w: Any, v: Any, g: Any) -> None:
    v *= 0.9
    v -= 0.01 * g
    w += v


def averages(m: Any, v: Any, g: Any) -> Any:
    """Those of an Adam step."""
    return 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * (g * g)


def averages_by_hand(m: Any, v: Any, g: Any) -> None:
    m *= 0.9
    m += 0.1 * g
    v *= 0.999
    v += 0.001 * (g * g)


# In place: the first two operands are the outputs.
UPDATES: dict[str, tuple[Callable[..., Any], Callable[..., None]]] = {
    "momentum": (momentum, momentum_by_hand),
    "Adam's averages": (averages, averages_by_hand),
}
SIZES = 100, 1_000, 10_000, 100_000, 1_000_000, 4_000_000


def parts(operands: list[Any]) -> list[Any]:
    """Quaternions' parts, four elements apart, as they lie in an array of quaternions."""
    return [operand[:, i] for operand in operands for i in range(4)]


def repeated(function: Callable[..., Any], *operands: Any) -> Iterator[None]:
    while True:
        results = function(*operands)  # noqa: F841, kept until the next call's are there
        yield


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", GRAPHS)
def test_graph(benchmark: Any, name: str, size: int, request: pytest.FixtureRequest) -> None:
    import fastlayers

    function, by_hand, dtype, shapes = GRAPHS[name]
    rng = np.random.default_rng(0)
    operands = [rng.standard_normal(shape, dtype=dtype) for shape in shapes(size)]
    if function is quaternions:
        operands = parts(operands)
    benchmark.group = f"{name}, value and gradients"
    benchmark.extra_info.update(dtype=dtype, size=size)
    if request.config.getoption("--implementation") == "native":
        call = repeated(fastlayers.Graph(function).value_and_grad, *operands)
    else:
        value = function(*operands)
        one = np.ones_like(value[0] if isinstance(value, tuple) else value)
        call = repeated(by_hand, one, *operands)
    benchmark(call.__next__)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", UPDATES)
def test_update(benchmark: Any, name: str, size: int, request: pytest.FixtureRequest) -> None:
    import fastlayers

    function, by_hand = UPDATES[name]
    rng = np.random.default_rng(0)
    operands = [rng.random(size, dtype="float32") for _ in range(3)]
    benchmark.group = f"{name}, in place"
    benchmark.extra_info.update(dtype="float32", size=size)
    if request.config.getoption("--implementation") == "native":
        graph, out = fastlayers.Graph(function), tuple(operands[:2])
        benchmark(lambda: graph(*operands, out=out))
    else:
        benchmark(lambda: by_hand(*operands))
