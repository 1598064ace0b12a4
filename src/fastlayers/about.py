"""How fastlayers was built, what it runs on, and its settings."""

import os
from collections.abc import Iterator
from typing import Any, Literal, overload

from . import config, core, limits

# These affect how fast a call is.
ENVIRONMENT = (*config.VARIABLES, "OMP_NUM_THREADS", "OMP_WAIT_POLICY")


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show how fastlayers was built, what it runs on, and its settings.

    Include this in bug reports; ``python -m fastlayers`` prints it, too.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, optional
        Print the report, or return it as a dictionary of dictionaries, like `numpy.show_config`.

    Returns
    -------
    dict or None
        None if it was printed. Sizes are in bytes; the threshold "gil" is in elements, "late" in
        seconds. What only the compiled part has is missing without it.

    Raises
    ------
    ValueError
        If ``mode`` is anything else.

    Examples
    --------
    >>> import fastlayers
    >>> told = fastlayers.show_config(mode="dicts")
    >>> told["fastlayers"]["version"] == fastlayers.__version__
    True
    >>> told["threads"]["number"] == fastlayers.get_num_threads()
    True
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    if mode == "dicts":
        return _facts()
    print("\n".join(_lines_of(_facts())))
    return None


def _facts() -> dict[str, dict[str, Any]]:
    import platform  # takes longer to import than fastlayers

    import numpy as np

    from . import __version__
    from .graph.compiler import info

    facts: dict[str, dict[str, Any]] = {
        "fastlayers": {
            "version": __version__,
            "implementation": core.IMPLEMENTATION,
            "reason": core.reason or None,
            "folder": os.path.dirname(__file__),  # noqa: PTH120, importing pathlib takes 3 ms
        },
        "machine": {
            "numpy": np.__version__,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "platform": platform.platform(),
            "cpu": limits.cpu_name(),
        },
        "environment": {name: os.environ.get(name) for name in ENVIRONMENT},
        "cache": config.cache_info()._asdict(),
        "threads": {"number": config.get_num_threads(), "cpu_quota": config._cpu_quota},
    }
    if core.schedule is not None:
        import json  # as slow as platform

        compiler, recorded = core.schedule.build_info()
        openmp, openmp_threads, forked = core.schedule.openmp_state()
        facts |= {
            "build": {"compiler": compiler, **json.loads(recorded)},
            "instruction_sets": {
                "built": core.simd.built(),
                "available": core.simd.available(),
                "in_use": core.simd.in_use(),
            },
            "thresholds": core.schedule.get_thresholds(),
            "compiled": info()._asdict(),
        }
        facts["threads"] |= {
            "openmp": openmp,
            "openmp_threads": openmp_threads,
            "forked": forked,
        }
    return facts


def _lines_of(facts: dict[str, Any], indent: str = "") -> Iterator[str]:
    """The lines to print, without what does not apply."""
    for name, value in facts.items():
        if isinstance(value, dict):
            lines = list(_lines_of(value, f"{indent}  "))
            yield from [f"{indent}{name}:", *lines] if lines else []
        elif value not in (None, []):
            yield f"{indent}{name}: {', '.join(value) if isinstance(value, list) else value}"
