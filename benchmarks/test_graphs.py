"""Time values and gradients of whole expressions: plain NumPy by hand against a `Graph`.

With ``--implementation reference`` the lines that one would write by hand are timed, forward and
backward; with ``native`` the graph of the forward lines alone. How it is timed: test_layers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from expressions import EXPRESSIONS, UPDATES

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

    update = UPDATES[name]
    operands = update.operands(size)
    benchmark.group = f"{name}, in place"
    benchmark.extra_info.update(dtype="float32", size=size)
    if request.config.getoption("--implementation") == "native":
        graph, out = fastlayers.Graph(update.function), tuple(operands[:2])
        benchmark(lambda: graph(*operands, out=out))
    else:
        benchmark(lambda: update.by_hand(*operands))
