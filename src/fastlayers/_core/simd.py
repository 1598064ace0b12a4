"""Which instruction sets the kernels were built for, and which of them this CPU has."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from .dispatch import cpu_level, use_kernels

# From the least to the best: x86-64 by the levels that its psABI defines, others by what every
# compiler targets without being told.
X86_64_LEVELS = {"x86_64_v2": 2, "x86_64_v3": 3, "x86_64_v4": 4}
BASELINE = "baseline"


def available() -> list[str]:
    """Name the instruction sets that were built and that this CPU has, the best one last."""
    level = cpu_level()
    names = [BASELINE, *(name for name, needed in X86_64_LEVELS.items() if needed <= level)]
    return [name for name in names if find_spec(_module(name))]


def best() -> str:
    """Name the best instruction set; raise ImportError where there is none."""
    names = available()
    if not names:
        raise ImportError(
            f"fastlayers has no kernels for this CPU: they need x86-64-v2, and it has level {cpu_level()}"
        )
    return names[-1]


def use(name: str) -> None:
    """Hand all further calls to the kernels of one of the available instruction sets."""
    use_kernels(import_module(_module(name)).kernels)


def _module(name: str) -> str:
    return f"{__package__}.kernels_{name}"
