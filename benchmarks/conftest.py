"""One implementation a run: what another one leaves on the heap would change the times."""

from __future__ import annotations

import os
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--implementation",
        choices=("native", "reference"),
        default="native",
        help="whose layers to measure: fastlayers' (native, the default) or the plain ones",
    )


def pytest_configure(config: pytest.Config) -> None:
    implementation = config.getoption("--implementation")
    # Decides at import, so that a reference run does not even load the compiled part, and a
    # native run cannot fall back on plain NumPy and measure that.
    os.environ["FASTLAYERS_IMPLEMENTATION"] = implementation
    try:
        import fastlayers
    except ImportError as error:
        raise pytest.UsageError(f"--implementation {implementation}: {error}") from error
    in_use = fastlayers.IMPLEMENTATION
    if in_use != implementation:
        raise pytest.UsageError(
            f"--implementation {implementation}, but fastlayers.IMPLEMENTATION is {in_use!r}: "
            "fastlayers was imported before the benchmarks"
        )


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Save with the times what they depend on and pytest-benchmark does not know."""
    import numpy as np

    import fastlayers

    machine_info["fastlayers_version"] = fastlayers.__version__
    machine_info["numpy_version"] = np.__version__


@pytest.fixture(params=["MulLayer", "AddLayer"])
def layer(request: pytest.FixtureRequest) -> Any:
    import side_by_side_cases

    import fastlayers

    if fastlayers.IMPLEMENTATION == "native":
        return getattr(fastlayers, request.param)()
    # As one would write it: those of fastlayers.reference take out=, and call functions.
    return getattr(side_by_side_cases, f"Plain{request.param}")()
