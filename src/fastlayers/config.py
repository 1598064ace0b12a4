"""The settings: threads, recycled memory, environment variables."""

import inspect
import os
import re
import sys
from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar
from typing import Any, NamedTuple, Self, TypeVar, overload

from . import limits
from .core import memory, schedule

# The cache may keep this share of the memory that the process may use, but no more than this many
# bytes: a machine often runs one process per processor.
CACHE_SHARE = 1 / 8
MOST_CACHED = 1 << 30


class CacheInfo(NamedTuple):
    """State of the memory cache.

    Attributes
    ----------
    hits, misses : int
        Results that got a recycled block, and results that needed a new one, since the import.
    blocks, bytes : int
        What the cache holds now, which no array owns.
    limit : int
        The most bytes that it may hold.
    """

    hits: int
    misses: int
    blocks: int
    bytes: int
    limit: int


def set_num_threads(n: int) -> None:
    """Set how many threads a large call uses.

    The default is what OpenMP would use (``OMP_NUM_THREADS``, the process's affinity), but no more
    than the container's CPU quota. ``FASTLAYERS_NUM_THREADS`` sets it at import. A limit that
    threadpoolctl sets later applies to these threads too. Calls on small arrays always use one
    thread, as does the child of a fork.

    Parameters
    ----------
    n : int
        Number of threads, at least 1.

    Raises
    ------
    ValueError
        If ``n`` is less than 1.
    TypeError
        If ``n`` is not an integer.

    Examples
    --------
    >>> import fastlayers
    >>> before = fastlayers.get_num_threads()
    >>> fastlayers.set_num_threads(1)
    >>> fastlayers.get_num_threads()
    1
    >>> fastlayers.set_num_threads(before)
    """
    n = _integer("n", n)
    if not 1 <= n <= MAX_THREADS:
        raise ValueError(f"the number of threads must be from 1 to {MAX_THREADS}, got {n}")
    if schedule is not None:
        schedule.set_thread_count(n, _cpu_quota)


def get_num_threads() -> int:
    """Return how many threads a large call uses; 1 without OpenMP, or after a fork.

    Examples
    --------
    >>> import fastlayers
    >>> fastlayers.get_num_threads() >= 1
    True
    """
    return 1 if schedule is None else schedule.get_thread_count()


def cache_info() -> CacheInfo:
    """Return what the memory cache holds and how often it was used.

    Returns
    -------
    CacheInfo
        A named tuple (hits, misses, blocks, bytes, limit); all 0 on the reference implementation,
        which recycles nothing.

    Examples
    --------
    >>> import fastlayers
    >>> fastlayers.cache_info().bytes <= fastlayers.cache_info().limit
    True
    """
    return CacheInfo(*([0] * 5 if memory is None else memory.cache_state()))


def set_cache_limit(limit: int) -> None:
    """Set how many bytes the memory cache may keep; any excess is freed at once.

    The default is an eighth of the memory that the process may use (the machine's or the
    container's), at most 1 GiB. ``FASTLAYERS_CACHE_LIMIT`` sets it at import. Blocks that have not
    been needed for ten to twenty seconds are freed in any case.

    Parameters
    ----------
    limit : int
        In bytes; 0 keeps nothing.

    Raises
    ------
    ValueError
        If ``limit`` is negative.
    TypeError
        If ``limit`` is not an integer.

    Examples
    --------
    >>> import fastlayers
    >>> before = fastlayers.cache_info().limit
    >>> fastlayers.set_cache_limit(0)
    >>> fastlayers.cache_info().bytes
    0
    >>> fastlayers.set_cache_limit(before)
    """
    limit = _integer("limit", limit)
    if limit < 0:
        raise ValueError(f"the cache limit must not be negative, got {limit} bytes")
    if memory is not None:
        memory.set_limit(min(limit, sys.maxsize))


def _default_cache_limit() -> int:
    return min(int(limits.memory_bytes() * CACHE_SHARE), MOST_CACHED)


def empty_cache() -> None:
    """Free all memory that the cache holds; arrays keep theirs.

    Examples
    --------
    >>> import fastlayers
    >>> fastlayers.empty_cache()
    """
    if memory is not None:
        memory.empty()


# The handlers that `recycling` will restore, the latest first. A handler is in force in one context
# (that of a thread or an asynchronous task), and the one before it is kept there, too: a
# `recycling` may be shared.
_previous_handlers: ContextVar[tuple[Any, ...]] = ContextVar("_previous_handlers", default=())


Function = TypeVar("Function", bound=Callable[..., Any])

RUN_LATER = inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction


class _Recycling(ContextDecorator):
    def __enter__(self) -> Self:
        if memory is not None:
            previous = memory.set_handler(memory.recycling_handler())
            _previous_handlers.set((previous, *_previous_handlers.get()))
        return self

    def __exit__(self, *exception: object) -> None:
        if memory is not None:
            previous, *earlier = _previous_handlers.get()
            memory.set_handler(previous)
            _previous_handlers.set(tuple(earlier))

    def __call__(self, function: Function) -> Function:
        if not callable(function):
            raise TypeError(f"recycling() decorates functions, got {function!r}")
        # A callable object's __call__ may be one.
        if any(kind(f) for kind in RUN_LATER for f in (function, type(function).__call__)):
            raise TypeError(
                f"recycling() cannot decorate {function!r}, a generator or coroutine function: "
                "its body runs after the call. In the body, write `with fastlayers.recycling():` "
                "around what makes arrays, and around no `yield`"
            )
        return super().__call__(function)


@overload
def recycling(function: None = None, /) -> _Recycling: ...
@overload
def recycling(function: Function, /) -> Function: ...
def recycling(function: Any = None, /) -> Any:
    """Let all arrays that NumPy makes own recycled memory: a context manager and a decorator.

    The results of fastlayers do so anyway; this does the same for your own code, for any dtype. An
    array made inside is an ordinary array, and may be used outside. Blocks have at least 2 KiB.

    Like NumPy's allocation handlers (NEP 49) and `numpy.errstate`, it applies to the current thread
    or asynchronous task; and to threads that these start, where Python hands its context on
    (`sys.flags.thread_inherit_context`, which is set without the GIL from Python 3.14 on). The
    handler that was in force before is restored afterwards.

    Parameters
    ----------
    function : callable, optional
        The function to decorate, if ``@recycling`` is written without parentheses.

    Returns
    -------
    context manager or callable
        The decorated function; without one, a context manager that is a decorator, too.

    Raises
    ------
    TypeError
        If it decorates a generator function, a coroutine function (``async def``) or an
        asynchronous generator function, whose bodies run after the call. In such a body use the
        context manager, but not around a ``yield``: it would apply to the consumer's code, too.

    Examples
    --------
    >>> import numpy as np
    >>> import fastlayers
    >>> with fastlayers.recycling():
    ...     y = np.sqrt(np.ones((512, 512)))
    >>> @fastlayers.recycling
    ... def relu(x):
    ...     return np.maximum(x, 0)
    >>> def batches(x):
    ...     for start in range(0, len(x), 100):
    ...         with fastlayers.recycling():
    ...             batch = np.sqrt(x[start : start + 100])
    ...         yield batch
    """
    return _Recycling() if function is None else _Recycling()(function)


# More than any machine has, and few enough for OpenMP not to give up.
MAX_THREADS = 1024


def _integer(name: str, value: Any) -> int:
    if not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return int(value.__index__())


# What this package reads: here, in core.py and in _core/simd.py. `show_config` tells them.
VARIABLES = (
    "FASTLAYERS_IMPLEMENTATION",
    "FASTLAYERS_NUM_THREADS",
    "FASTLAYERS_CACHE_LIMIT",
    "FASTLAYERS_SIMD",
    "FASTLAYERS_COMPILE",
)


def _threads_from_environment() -> int | None:
    text = os.environ.get("FASTLAYERS_NUM_THREADS")
    if not text:
        return None
    if not text.strip().isdecimal() or not 1 <= int(text) <= MAX_THREADS:
        raise ValueError(
            f"FASTLAYERS_NUM_THREADS is {text!r}; it must be an integer from 1 to {MAX_THREADS}"
        )
    return int(text)


COMPILE_MODES = "0", "1", "always"


def _compile_mode_from_environment() -> str:
    mode = os.environ.get("FASTLAYERS_COMPILE") or "1"
    if mode not in COMPILE_MODES:
        raise ValueError(
            f"FASTLAYERS_COMPILE is {mode!r}; it must be {', '.join(COMPILE_MODES[:-1])} "
            f"or {COMPILE_MODES[-1]}"
        )
    return mode


# Powers of 2, as in systemd's MemoryMax, Docker's --memory and joblib's limits. "MB" is left out:
# some take it for 1000 ** 2, some for 1024 ** 2.
UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
SIZE = r"\s*(\d+)\s*(?:([KMGT])(?:iB)?)?\s*"


def _limit_from_environment() -> int | None:
    text = os.environ.get("FASTLAYERS_CACHE_LIMIT")
    if not text:
        return None
    match = re.fullmatch(SIZE, text, re.IGNORECASE)
    if not match:
        raise ValueError(
            f"FASTLAYERS_CACHE_LIMIT is {text!r}; it must be an integer of at least 0, of bytes, "
            "or of K, M, G or T, powers of 1024: 64M and 64MiB are 64 * 1024 ** 2"
        )
    number, unit = match.groups(default="")
    return int(number) << UNITS[unit.upper()]


# Written only here, under the import's lock.
_cpu_quota = limits.cpu_quota()
_threads = _threads_from_environment()
_limit = _limit_from_environment()

# Whether passes are compiled where llvmlite is installed: "0" for never, "1" for once that is worth
# it, "always" for before the first call, which waits.
compile_mode = _compile_mode_from_environment()

if schedule is not None:
    schedule.set_thread_count(0, _cpu_quota)
if _threads is not None:
    set_num_threads(_threads)
set_cache_limit(_default_cache_limit() if _limit is None else _limit)
