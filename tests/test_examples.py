"""The example that needs NumPy alone; flat_field.py, which needs more, is `make demo`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_apple_shop():
    result = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "apple_shop.py"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    numbers, arrays = result.stdout.split("\n\n")
    printed = dict(line.split() for line in numbers.splitlines()[1:])
    assert printed == {
        "price": "715.0000000000001",
        "dapple": "2.2",
        "dapple_num": "110",
        "dorange": "3.3",
        "dorange_num": "165",
        "dtax": "650",
    }
    # The first of the baskets on arrays is the one above.
    columns = {line.split()[0]: line.split()[1] for line in arrays.splitlines()[1:]}
    assert columns == {**printed, "price": "715"}
