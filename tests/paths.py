"""The paths that a call can take through the compiled part, open to small arrays too."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import fastlayers
from fastlayers import limits
from fastlayers._core import dispatch, simd

THREADS = [1, 2, 5]


@dataclass(frozen=True)
class Path:
    """What a call is computed with; sizes do not matter, even a single element takes it."""

    simd: str
    threads: int
    recycling: bool = True
    streaming: bool = False

    def __str__(self):
        memory = "recycled" if self.recycling else "new"
        return f"{self.simd}-{self.threads}-{memory}{'-streamed' if self.streaming else ''}"


PATHS = [
    Path(level, threads, recycling)
    for level, threads, recycling in itertools.product(simd.available(), THREADS, [True, False])
]


@contextmanager
def taken(path: Path) -> Iterator[None]:
    """Let all calls take a path."""
    thresholds, level, limit = (
        dispatch.get_thresholds(),
        simd.in_use(),
        fastlayers.cache_info().limit,
    )
    never = 1 << 62
    dispatch.set_thresholds(
        gil=1,
        threads=1,
        streaming=1 if path.streaming else never,
        recycling=1 if path.recycling else never,
    )
    simd.use(path.simd)
    fastlayers.set_num_threads(path.threads)
    if not path.recycling:
        fastlayers.set_cache_limit(0)
    try:
        yield
    finally:
        dispatch.set_thresholds(**thresholds)
        simd.use(level)
        dispatch.set_thread_count(0, limits.cpu_quota())
        fastlayers.set_cache_limit(limit)
