"""The compiled part, if it is there: the only place that chooses.

``FASTLAYERS_IMPLEMENTATION`` decides at import: ``native`` demands the compiled part, and
``reference`` takes plain NumPy. Unset takes the compiled part; if it cannot be imported, the
import warns, and the package runs on plain NumPy. A package deliberately built without it does not
warn. Without the compiled part, its modules are None here.
"""

import os
from importlib.util import find_spec

__all__ = ["IMPLEMENTATION", "dispatch", "memory", "operations", "passes", "schedule", "simd"]

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
    """Say why there is no compiled part, and what the import will warn about."""
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
        # What is compiled has no types.
        from ._core import memory, simd  # type: ignore[attr-defined]
        from ._core.frontend import dispatch, passes, schedule  # type: ignore[attr-defined]
        from ._core.program import operations  # type: ignore[attr-defined]
    except ImportError as error:
        reason, warning = _missing(error)
        IMPLEMENTATION = "reference"

if IMPLEMENTATION == "reference":
    # For type checkers they are modules still: who asks whether one is there knows better.
    dispatch = memory = operations = passes = schedule = simd = None  # type: ignore[assignment]
