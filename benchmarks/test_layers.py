"""Time forward, backward and step of both layers, by dtype and size.

What is benchmarked is the ``__next__`` of a generator that runs one call a turn. Its local
variables keep the results until the next turn's replace them, as a training loop's do: when the
old results die decides which memory the new ones get. ``test_nothing`` tells how much of every
time is the measuring: it weighs on both implementations, so small ratios are understated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from side_by_side_cases import NUMBERS

SIZES = 1, 100, 1_000, 10_000, 100_000, 1_000_000, 16_000_000
DTYPES = "float32", "int32", "float64", "int64"

# In ascending order of bytes: once a large block has been freed, glibc raises the size from which
# it asks the kernel for fresh pages, and smaller arrays are faster than in a process of their own.
CASES: list[tuple[str, Any]] = [("python", name) for name in NUMBERS]
CASES += [(dtype, size) for size in SIZES for dtype in DTYPES]


def random_array(rng: Any, dtype: str, size: int) -> Any:
    # Made in its dtype at once: a wider temporary would be the larger block that CASES avoids.
    if dtype.startswith("int"):
        return rng.integers(-9, 10, size, dtype=dtype)
    return rng.standard_normal(size, dtype=dtype)


# Module scope makes pytest run all tests on the same operands together.
@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def operands(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    """What ``x``, ``y`` and ``dout`` are in this case."""
    dtype, size = request.param
    if dtype == "python":
        return NUMBERS[size]
    rng = np.random.default_rng(size)
    x, y, dout = (random_array(rng, dtype, size) for _ in range(3))
    return x, y, dout


def forward(layer: Any, x: Any, y: Any, dout: Any) -> Iterator[None]:
    while True:
        out = layer.forward(x, y)  # noqa: F841
        yield


def backward(layer: Any, x: Any, y: Any, dout: Any) -> Iterator[None]:
    layer.forward(x, y)
    while True:
        dx, dy = layer.backward(dout)  # noqa: RUF059
        yield


def step(layer: Any, x: Any, y: Any, dout: Any) -> Iterator[None]:
    while True:
        out = layer.forward(x, y)  # noqa: F841
        dx, dy = layer.backward(dout)  # noqa: RUF059
        yield


def nothing() -> Iterator[None]:
    while True:
        yield


@pytest.mark.benchmark(group="measuring itself")
def test_nothing(benchmark: Any) -> None:
    benchmark(nothing().__next__)


@pytest.mark.parametrize("call", [forward, backward, step])
def test_layer(
    benchmark: Any,
    layer: Any,
    call: Callable[..., Iterator[None]],
    operands: tuple[Any, Any, Any],
    request: pytest.FixtureRequest,
) -> None:
    # A group is a table of `pytest-benchmark compare`.
    benchmark.group = f"{type(layer).__name__} {call.__name__}"
    dtype, size = request.node.callspec.params["operands"]
    benchmark.extra_info.update(dtype=dtype, size=size)
    benchmark(call(layer, *operands).__next__)
