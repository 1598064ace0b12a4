"""What the benchmarks compute by hand is what graphs compute, to rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cases import CASES, FUNCTIONS, make_operands
from report import readme_table, report
from runner import flat

ROOT = Path(__file__).parent.parent

# In place of a case's own sizes: rows of so many columns, as its function wants them.
SMALL = {
    "cross-entropy": "20x30",
    "layer-norm": "20x30",
    "mixture": "100x8",
    "network": "4x7",
    "regression": "100x5",
}
COMPUTED = {name: case for name, case in CASES.items() if case.kind in ("graph", *FUNCTIONS)}


@pytest.mark.parametrize("name", COMPUTED)
def test_by_hand(implementation, name):
    case = COMPUTED[name]
    size = SMALL.get(name.rpartition("-")[0], "100")
    operands, again = make_operands(case, size), make_operands(case, size)
    by_hand = flat(case.by_hand(*operands))
    graph = implementation.Graph(case.function)
    if case.wrt == ():
        assert all(one is operand for one, operand in zip(by_hand, operands, strict=False))
        expected = flat(graph(*again))
        operands[: case.outputs] = again[: case.outputs]
    elif case.kind == "graph" or case.dout:
        dout, *rest = again
        douts = dout if case.outputs == 1 else (dout,) * case.outputs
        expected = flat(graph.value_and_grad(*rest, dout=douts))
    else:
        expected = flat(graph.value_and_grad(*again, wrt=case.wrt))

    for result, right in zip(by_hand, expected, strict=True):
        assert (np.shape(result), result.dtype) == (np.shape(right), right.dtype)
        # Beside the largest: differences of like numbers lose digits in both.
        limit = 100 * np.finfo(case.dtype).eps * np.max(np.abs(right))
        np.testing.assert_allclose(result, right, rtol=0, atol=limit)
    for operand, untouched in zip(operands, again, strict=True):
        assert operand.tobytes() == untouched.tobytes()


def test_losses_are_reported():
    times = {"plain": 1e-3, "fastlayers": 2e-3, "JAX": 0.5e-3}
    figures = [
        {"case": case, "size": size, "contestant": name, "median": time, "first": time + 0.1}
        for case, size in (("gelu-float32", "1k"), ("network-float32", "32x784"))
        for name, time in times.items()
    ]
    about = {"machine": "", "date": "", "versions": "", "rounds": 1, "environment": {}}
    result = {"circumstances": {**about, "load": None}, "missing": [], "failures": []}
    lines = report({**result, "figures": figures}).replace("\N{NO-BREAK SPACE}", " ").splitlines()
    assert lines[0] == "## Functions and networks"
    assert "| GELU, tanh form | float32 | 1 ms: **0.50** / *2.00* |" in lines
    assert any(line.endswith("| 1 ms | 2 ms: **0.50** | 500 µs: *2.00* |") for line in lines)
    assert "| JAX | **0.25** | **0.25** (GELU, tanh form, float32, 1k) | 2 of 2 |" in lines
    assert any("JAX 100 ms (at most 100 ms)" in line for line in lines)
    # The table that both READMEs show.
    readme = lines[lines.index("### For the READMEs") + 2 :]
    assert "| geometric mean of all |  | **0.50** (2) | - | - | 2.00 (2) | - |" in readme
    assert "| faster than fastlayers |  |  |  |  | 2 of 2 |  |" in readme
    assert "| until the first result |  | 100 ms | - | - | 100 ms | - |" in readme


def test_readmes_show_that_table():
    head, _, *rows = readme_table({"figures": []}, {}).splitlines()[2:]
    named = [row.split(" | ")[0] for row in rows]
    for page in "README.md", "README.zh-CN.md":
        lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
        shown = lines[lines.index(head) + 2 :][: len(rows)]
        assert [line.split(" | ")[0] for line in shown] == named
