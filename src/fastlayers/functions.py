"""The public functions, and the operations that graphs run: compiled, or in plain NumPy."""

from . import core, reference

__all__ = ["add", "add_backward", "multiply", "multiply_backward"]

# The functions that run graphs, node by node; and where a pass has computed all of it, and NumPy
# must warn.
OPERATIONS: reference.Operations = reference.OPERATIONS
WARNING: reference.Operations = reference.OPERATIONS

if core.dispatch is None:
    from .reference import add, add_backward, multiply, multiply_backward
else:
    from ._core.frontend.dispatch import (
        add,
        add_backward,
        by_numpy,
        multiply,
        multiply_backward,
        multiply_to_operand,
        negative,
        subtract,
        sum_to_operand,
    )

    OPERATIONS = {
        **reference.OPERATIONS,
        "multiply": multiply,
        "add": add,
        "subtract": subtract,
        "negative": negative,
        "sum_to": sum_to_operand,
        "multiply_to": multiply_to_operand,
    }
    WARNING = {**OPERATIONS, **by_numpy}
