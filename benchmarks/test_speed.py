"""Time steps with pytest-benchmark: of that implementation that FASTLAYERS_IMPLEMENTATION names.

One a run: what another one leaves on the heap would change the times. The
reference is what one writes by hand, as in side_by_side.py. What is timed includes a turn of a
generator, for which see ``test_nothing``: it weighs on both, so small ratios are understated.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from cases import CASES, NUMBERS, make_operands
from contestants import CONTESTANTS, stepping

import fastlayers

NATIVE = fastlayers.IMPLEMENTATION == "native"
TIMED = {
    f"{name}-{dtype}": replace(CASES[f"{name}-float64"], dtype=dtype)
    for dtype in ("float32", "int32", "float64", "int64")
    for name in ("mul", "add")
} | {name: case for name, case in CASES.items() if case.kind in ("graph", "update")}
# In ascending order of bytes: once a large block has been freed, glibc raises the size from which
# it asks the kernel for fresh pages, and smaller arrays are faster than in a process of their own.
SIZES = *NUMBERS, "1", "100", "1k", "10k", "65k", "1M", "4M", "16.7M"
STEPS = [
    (size, name)
    for size in SIZES
    for name, case in TIMED.items()
    if size in case.sizes or (size in NUMBERS and name in ("mul-float64", "add-float64"))
]


def test_nothing(benchmark: Any) -> None:
    benchmark(itertools.repeat(None).__next__)


@pytest.mark.parametrize(("size", "name"), STEPS)
def test_step(benchmark: Any, size: str, name: str) -> None:
    case = TIMED[name]
    benchmark.group = f"{name}, a step"  # a table of `pytest-benchmark compare`
    operands = NUMBERS[size] if size in NUMBERS else make_operands(case, size)
    if case.kind == "layer":
        layer = getattr(fastlayers, case.title)() if NATIVE else case.by_hand()
        turns = stepping(layer, operands, 1)
    else:
        turns = CONTESTANTS["fastlayers" if NATIVE else "plain"].turns(case, operands)(1)
    benchmark(turns.__next__)
