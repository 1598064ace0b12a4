"""The public functions, and the only place that chooses who computes them.

``FASTLAYERS_IMPLEMENTATION`` decides at import: ``native`` demands the compiled functions,
``reference`` takes plain NumPy; unset takes the compiled ones, and where they cannot be imported
warns and runs on plain NumPy.
"""

from __future__ import annotations

import os
import warnings

from . import reference

__all__ = ["IMPLEMENTATION", "add", "add_backward", "multiply", "multiply_backward"]

IMPLEMENTATION = os.environ.get("FASTLAYERS_IMPLEMENTATION") or "native"

# Why the compiled functions are not in use, where nobody asked for plain NumPy.
import_error = ""

if IMPLEMENTATION not in ("native", "reference"):
    raise ValueError(
        f"FASTLAYERS_IMPLEMENTATION is {IMPLEMENTATION!r}; "
        "it must be 'native' or 'reference', or unset"
    )

if IMPLEMENTATION == "native":
    try:
        from ._core import (
            add,
            add_backward,
            multiply,
            multiply_backward,
            multiply_to_operand,
            sum_to_operand,
        )
    except ImportError as error:
        if os.environ.get("FASTLAYERS_IMPLEMENTATION"):
            raise ImportError(
                "FASTLAYERS_IMPLEMENTATION=native, but the compiled part of fastlayers cannot be "
                f"imported ({error}); reinstall fastlayers, or unset the variable to run on plain "
                "NumPy"
            ) from error
        warnings.warn(
            f"the compiled part of fastlayers cannot be imported ({error}); running on plain "
            "NumPy, with the same answers but none of the speed; reinstall fastlayers to mend it",
            RuntimeWarning,
            stacklevel=2,
        )
        IMPLEMENTATION = "reference"
        import_error = str(error)

if IMPLEMENTATION == "reference":
    from .reference import (
        add,
        add_backward,
        multiply,
        multiply_backward,
        multiply_to_operand,
        sum_to_operand,
    )

# What graphs are run by, node by node.
OPERATIONS: reference.Operations = {
    **reference.OPERATIONS,
    "multiply": multiply,
    "add": add,
    "sum_to": sum_to_operand,
    "multiply_to": multiply_to_operand,
}
