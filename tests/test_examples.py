"""The example that needs NumPy alone; flat_field.py, which needs more, is `make demo`."""

from __future__ import annotations

from pathlib import Path

from fresh import lines_of

from fastlayers import IMPLEMENTATION

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_apple_shop():
    example = str(EXAMPLES / "apple_shop.py")
    lines = lines_of("-W", "error", example, FASTLAYERS_IMPLEMENTATION=IMPLEMENTATION)
    numbers, arrays = "\n".join(lines).split("\n\n")
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
