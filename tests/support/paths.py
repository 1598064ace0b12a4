"""The paths that a call can take through the compiled part, open to small arrays too."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as File

import pytest
from hypothesis import strategies as st

import fastlayers
from fastlayers import limits

if fastlayers.IMPLEMENTATION == "native":
    from fastlayers._core import simd
    from fastlayers._core.frontend import schedule

    LEVELS = simd.available()
else:
    LEVELS = []

THREADS = [1, 2, 5]


@dataclass(frozen=True)
class Path:
    """What a call is computed with, from ``threshold`` elements or bytes on: whatever its size."""

    simd: str
    threads: int
    recycling: bool = True
    streaming: bool = False
    threshold: int = 1

    def __str__(self):
        memory = "recycled" if self.recycling else "new"
        return f"{self.simd}-{self.threads}-{memory}{'-streamed' if self.streaming else ''}"


# Where results lie is settled before a kernel runs. So memory is recycled, and is not, with each
# instruction set and with each number of threads, but not with every pair of these.
PATHS = [
    Path(level, threads, recycling)
    for (i, level), (j, threads) in itertools.product(enumerate(LEVELS), enumerate(THREADS))
    for recycling in (True, False)
    if len(LEVELS) == 1 or (i + j + recycling) % 2
]

# Any path, and as it comes, which is all that plain NumPy has. With thresholds of some hundred
# bytes one result of a call takes the path, and another one does not.
ANY_PATH = st.none()
if LEVELS:
    ANY_PATH |= st.builds(
        Path,
        st.sampled_from(LEVELS),
        st.sampled_from(THREADS),
        st.booleans(),
        st.booleans(),
        st.sampled_from([1, 1, 1, 100, 1_000, 5_000]),
    )


@contextmanager
def taken(path: Path | None) -> Iterator[None]:
    """Let all calls take a path, or the one that they take of themselves."""
    if path is None:
        yield
        return
    thresholds, level, limit = (
        schedule.get_thresholds(),
        simd.in_use(),
        fastlayers.cache_info().limit,
    )
    never = 1 << 62
    # Nor is any call late, on a machine that is busy otherwise: the next ones would use one thread.
    schedule.set_thresholds(
        gil=path.threshold,
        threads=path.threshold,
        streaming=path.threshold if path.streaming else never,
        recycling=path.threshold if path.recycling else never,
        late=1e6,
    )
    simd.use(path.simd)
    fastlayers.set_num_threads(path.threads)
    if not path.recycling:
        fastlayers.set_cache_limit(0)
    try:
        yield
    finally:
        schedule.set_thresholds(**thresholds)
        simd.use(level)
        schedule.set_thread_count(0, limits.cpu_quota())
        fastlayers.set_cache_limit(limit)


def has_openmp() -> bool:
    with taken(Path(simd.in_use(), 2)):
        return fastlayers.get_num_threads() == 2


OPENMP = fastlayers.IMPLEMENTATION == "native" and has_openmp()
needs_openmp = pytest.mark.skipif(not OPENMP, reason="built without OpenMP")

# A thread of this process each, where there is such a thing.
TASKS = File("/proc/self/task")
