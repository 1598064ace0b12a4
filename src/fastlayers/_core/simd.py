"""The instruction sets that the kernels were built for, and which of them is in use."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from .frontend.schedule import cpu_level, use_engine

# From least to best, with each level's number in the x86-64 psABI. On other architectures there is
# only the compiler's default target.
LEVELS = {"baseline": 0, "x86-64-v2": 2, "x86-64-v3": 3, "x86-64-v4": 4}


def built() -> list[str]:
    """Name the instruction sets that the kernels were built for, the best one last."""
    return [name for name in LEVELS if find_spec(_module(name))]


def available() -> list[str]:
    """Name the built instruction sets that this CPU supports, the best one last."""
    return [name for name in built() if LEVELS[name] <= cpu_level()]


# The import chooses the instruction set, under its lock; tests do, too. Calls use the engine that
# schedule holds, which may change at any time; the name is only for `in_use`.
def use(name: str) -> None:
    """Make all further calls use the kernels of an available instruction set."""
    global _in_use
    use_engine(_kernels(name).kernels)
    _in_use = name


def in_use() -> str:
    """Name the instruction set in use."""
    return _in_use


def use_preferred() -> None:
    """Use the instruction set that FASTLAYERS_SIMD names, or else the best available."""
    name = os.environ.get("FASTLAYERS_SIMD")
    choices = available()
    if name and name not in choices:
        raise ValueError(
            f"FASTLAYERS_SIMD is {name!r}; this CPU and this build have {', '.join(choices)}"
        )
    if not choices:
        error = ImportError(
            f"it has no kernels for this CPU; built were: {', '.join(built()) or 'none'}"
        )
        if built():  # the lowest of them is always built
            error.add_note(f"Reinstalling does not help, as this CPU is older than {built()[0]}")
        raise error
    use(name or choices[-1])


def _module(name: str) -> str:
    return f"{__package__}.engine.kernels_{name.replace('-', '_')}"


def _kernels(name: str) -> Any:
    # As statements, because tools that freeze programs look for these.
    if name == "baseline":
        from .engine import kernels_baseline as module  # type: ignore[attr-defined]
    elif name == "x86-64-v2":
        from .engine import kernels_x86_64_v2 as module  # type: ignore[attr-defined]
    elif name == "x86-64-v3":
        from .engine import kernels_x86_64_v3 as module  # type: ignore[attr-defined]
    else:
        from .engine import kernels_x86_64_v4 as module  # type: ignore[attr-defined]
    return module


_in_use = ""
