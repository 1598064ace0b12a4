"""How fastlayers was built, what it runs on and how it is set."""

from __future__ import annotations

import os
from typing import Any, Literal, overload

from . import limits
from .config import _cpu_quota, cache_info, get_num_threads
from .ops import IMPLEMENTATION, import_error

if IMPLEMENTATION == "native":
    from ._core import dispatch, simd

# Set or not, they decide how fast a call is.
ENVIRONMENT = (
    "FASTLAYERS_IMPLEMENTATION",
    "FASTLAYERS_NUM_THREADS",
    "FASTLAYERS_CACHE_LIMIT",
    "FASTLAYERS_SIMD",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
)


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show how fastlayers was built, what it runs on and how it is set.

    It is what a bug report needs; ``python -m fastlayers`` prints it, too.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, optional
        Print it, or return it as a dictionary of dictionaries, as `numpy.show_config` does.

    Returns
    -------
    dict or None
        None where it was printed.

    Raises
    ------
    ValueError
        If ``mode`` is neither.

    Examples
    --------
    >>> import fastlayers
    >>> config = fastlayers.show_config(mode="dicts")
    >>> config["fastlayers"]["version"] == fastlayers.__version__
    True
    >>> config["Threads"]["number"] == fastlayers.get_num_threads()
    True
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    config = _config()
    if mode == "dicts":
        return config
    print("\n".join(_lines_of(config)))
    return None


def _config() -> dict[str, Any]:
    import platform  # this and json take longer to import than fastlayers

    import numpy as np

    from . import __version__

    config: dict[str, Any] = {
        "fastlayers": {
            "version": __version__,
            "implementation": IMPLEMENTATION,
            "folder": os.path.dirname(__file__),  # noqa: PTH120, importing pathlib takes 3 ms
        }
    }
    threads = {"number": get_num_threads(), "quota of CPUs": _cpu_quota}
    if IMPLEMENTATION == "native":
        import json

        compiler, build = dispatch.build_info()
        openmp, openmp_threads, forked = dispatch.openmp_state()
        config["Build"] = {"compiler": compiler, **json.loads(build)}
        config["Instruction sets"] = {
            "built": simd.built(),
            "available": simd.available(),
            "in use": simd.in_use(),
        }
        threads |= {"OpenMP": openmp, "OpenMP's number": openmp_threads, "forked": forked}
    else:
        config["fastlayers"]["reason"] = (
            f"the compiled part cannot be imported: {import_error}"
            if import_error
            else "FASTLAYERS_IMPLEMENTATION is 'reference'"
        )
    return config | {
        "Threads": threads,
        "Memory cache": cache_info()._asdict(),
        "Runs on": {
            "NumPy": np.__version__,
            "Python": f"{platform.python_implementation()} {platform.python_version()}",
            "platform": platform.platform(),
            "CPU": limits.cpu_name(),
        },
        "Environment": {name: os.environ.get(name) for name in ENVIRONMENT},
    }


def _lines_of(config: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in config.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines_of(value, indent + "  ")]
        else:
            text = ", ".join(value) if isinstance(value, list) else value
            lines.append(f"{indent}{name}: {'not set' if value is None else text}")
    return lines
