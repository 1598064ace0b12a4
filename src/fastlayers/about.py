"""How fastlayers was built, what it runs on, and its settings."""

import os
from typing import Any, Literal, overload

from . import config, limits, ops
from .ops import IMPLEMENTATION

if IMPLEMENTATION == "native":
    from ._core import simd
    from ._core.frontend import schedule

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
        None if it was printed. The keys are the same on both implementations; a value that does
        not apply is None or empty. Sizes are in bytes.

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

    return {
        "fastlayers": {
            "version": __version__,
            "implementation": IMPLEMENTATION,
            "reason": ops.reason or None,
            "folder": os.path.dirname(__file__),  # noqa: PTH120, importing pathlib takes 3 ms
        },
        **_of_the_compiled_part(),
        "cache": config.cache_info()._asdict(),
        "machine": {
            "numpy": np.__version__,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "platform": platform.platform(),
            "cpu": limits.cpu_name(),
            "caches": limits.cpu_caches(),
        },
        "environment": {name: os.environ.get(name) for name in ENVIRONMENT},
    }


def _of_the_compiled_part() -> dict[str, dict[str, Any]]:
    build: dict[str, Any] = dict.fromkeys(("compiler", "command", "flags", "numpy", "cython"))
    levels: dict[str, Any] = {"built": [], "available": [], "in_use": None}
    threads: dict[str, Any] = {
        "number": config.get_num_threads(),
        "cpu_quota": config._cpu_quota,
        **dict.fromkeys(("openmp", "openmp_threads", "forked")),
    }
    thresholds: dict[str, Any] = {}
    if IMPLEMENTATION == "native":
        import json  # as slow as platform

        build["compiler"], recorded = schedule.build_info()
        build |= json.loads(recorded)
        levels = {"built": simd.built(), "available": simd.available(), "in_use": simd.in_use()}
        threads["openmp"], threads["openmp_threads"], threads["forked"] = schedule.openmp_state()
        thresholds = schedule.get_thresholds()
    return {
        "build": build,
        "instruction_sets": levels,
        "threads": threads,
        "thresholds": thresholds,
    }


# What each threshold measures, and what happens from there on.
THRESHOLDS = {
    "gil": "elements, to let other threads of Python run meanwhile",
    "threads": "bytes of a result, to use several threads",
    "streaming": "bytes of a loop's nine arrays, to bypass the caches",
    "recycling": "bytes of a result, to use memory again",
}


def _lines_of(facts: dict[str, dict[str, Any]]) -> list[str]:
    """The lines to print, without what does not apply or a new process has not done yet."""
    facts = facts | {
        "thresholds": {
            name: f"{facts['thresholds'][name]} {unit}"
            for name, unit in THRESHOLDS.items()
            if name in facts["thresholds"]
        },
        "cache": {"limit": facts["cache"]["limit"]},
        "environment": {
            name: "not set" if value is None else value
            for name, value in facts["environment"].items()
        },
    }
    lines = []
    for section, entries in facts.items():
        told = {name: value for name, value in entries.items() if value not in (None, [], {})}
        lines += [f"{section}:"] if told else []
        for name, value in told.items():
            if isinstance(value, dict):
                lines += [f"  {name}:", *(f"    {key}: {one}" for key, one in value.items())]
            else:
                text = ", ".join(value) if isinstance(value, list) else value
                lines.append(f"  {name}: {text}")
    return lines
