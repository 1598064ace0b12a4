"""The public functions, and the only place that chooses who computes them.

``FASTLAYERS_IMPLEMENTATION`` decides at import: ``native`` demands the compiled functions, and
``reference`` takes plain NumPy. Unset takes the compiled functions; if they cannot be imported, it
warns and runs on plain NumPy. A package deliberately built without them does not warn.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

__all__ = ["IMPLEMENTATION", "add", "add_backward", "multiply", "multiply_backward"]

IMPLEMENTATION = os.environ.get("FASTLAYERS_IMPLEMENTATION") or "native"

# Why plain NumPy computes, if it does; and what the import will warn about.
reason = ""
warning = ""

if IMPLEMENTATION not in ("native", "reference"):
    raise ValueError(
        f"FASTLAYERS_IMPLEMENTATION is {IMPLEMENTATION!r}; "
        "it must be 'native' or 'reference', or unset"
    )


def _missing(error: ImportError) -> tuple[str, str]:
    """Say why there are no compiled functions, and what the import will warn about."""
    reinstall = (
        "reinstall fastlayers in its source folder, past pip's cache: "
        "'pip install --force-reinstall --no-cache-dir .'"
    )
    if find_spec(f"{__package__}._pure"):  # setup.py writes it
        reason = "this fastlayers was built without its compiled part (FASTLAYERS_PURE=1)"
        warning, remedy = "", f"To have it, unset that variable and {reinstall}"
    else:
        folder = os.path.dirname(__file__)  # noqa: PTH120, importing pathlib takes 3 ms
        reason = f"the compiled part of fastlayers cannot be imported ({error}; from {folder})"
        # The package's own error gives better advice.
        remedy = " ".join(getattr(error, "__notes__", [f"To mend it, {reinstall}"]))
        warning = (
            f"{reason}. It runs on plain NumPy, with the same answers but none of the speed. "
            f"{remedy}. To do without, and without this warning, set "
            "FASTLAYERS_IMPLEMENTATION=reference."
        )
    if os.environ.get("FASTLAYERS_IMPLEMENTATION"):
        raise ImportError(
            f"FASTLAYERS_IMPLEMENTATION=native, but {reason}. {remedy}. To run on plain "
            "NumPy, unset FASTLAYERS_IMPLEMENTATION."
        ) from error
    return reason, warning


if IMPLEMENTATION == "reference":
    reason = "FASTLAYERS_IMPLEMENTATION is 'reference'"
else:
    try:
        from ._core import add, add_backward, multiply, multiply_backward
    except ImportError as error:
        reason, warning = _missing(error)
        IMPLEMENTATION = "reference"

if IMPLEMENTATION == "reference":
    from .reference import add, add_backward, multiply, multiply_backward
