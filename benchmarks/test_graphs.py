"""Time values and gradients of whole expressions: plain NumPy by hand against a `Graph`.

With ``--implementation reference`` the lines that one would write by hand are timed, forward and
backward; with ``native`` the graph of the forward lines alone. How it is timed: test_layers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from expressions import EXPRESSIONS


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


def repeated(function: Callable[..., Any], *operands: Any) -> Iterator[None]:
    while True:
        results = function(*operands)  # noqa: F841, kept until the next call's are there
        yield


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_graph(benchmark: Any, name: str, size: int, request: pytest.FixtureRequest) -> None:
    import fastlayers

    expression = EXPRESSIONS[name]
    operands = expression.operands(size)
    benchmark.group = f"{name}, value and gradients"
    benchmark.extra_info.update(dtype=expression.dtype, size=size)
    if request.config.getoption("--implementation") == "native":
        call = repeated(fastlayers.Graph(expression.function).value_and_grad, *operands)
    else:
        value = expression.function(*operands)
        one = np.ones_like(value[0] if isinstance(value, tuple) else value)
        call = repeated(expression.by_hand, one, *operands)
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
