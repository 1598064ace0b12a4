"""The implementations that the suite runs on, and the depth of its random tests."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

# More threads than cores, for microseconds of work: one that waits must not keep a core from the
# others. OpenMP reads it as it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# When a pass is compiled depends on the time: see tests/test_compiler.py. With "always", all
# tests run on compiled passes.
os.environ.setdefault("FASTLAYERS_COMPILE", "0")

from implementations import INSTALLED, REFERENCE
from outcome import Described, Outcome, differences
from paths import PATHS, taken

import fastlayers

pytest.register_assert_rewrite("fresh")  # what an interpreter complained of is told of

# Demanding native here, too, where nothing is said: without it half of the suite would be missing,
# and nobody would notice.
IMPLEMENTATIONS = ["native", "reference"]
if os.environ.get("FASTLAYERS_IMPLEMENTATION") == "reference":
    IMPLEMENTATIONS.remove("native")
if "native" in IMPLEMENTATIONS and fastlayers.IMPLEMENTATION != "native":
    raise pytest.UsageError(
        "the compiled part of fastlayers cannot be imported: build it, or set "
        "FASTLAYERS_IMPLEMENTATION=reference to test plain NumPy alone"
    )

# Examples that depend on nothing but the code: a failure is a failure tomorrow, too.
settings.register_profile("suite", derandomize=True, deadline=None, max_examples=200)
settings.register_profile("emulation", settings.get_profile("suite"), max_examples=10)
settings.register_profile("fuzz", deadline=None, max_examples=25_000, print_blob=True)
settings.load_profile("suite")


@pytest.fixture(scope="session", params=IMPLEMENTATIONS)
def implementation(request):
    return REFERENCE if request.param == "reference" else INSTALLED


@pytest.fixture(params=PATHS, ids=str)
def path(request):
    """Every path that a call can take through the compiled part."""
    with taken(request.param):
        yield request.param


def pytest_collection_finish():
    """Spare the collector, which many tests call, what pytest holds of thousands of tests."""
    gc.collect()
    gc.freeze()


def pytest_assertrepr_compare(op, left, right):
    """Say where two outcomes differ instead of printing both."""
    if op == "==" and _holds_outcomes(left) and (lines := differences(left, right)):
        return ["the outcomes differ:", *lines[:20]]
    return None


def _holds_outcomes(value):
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple):
        return any(map(_holds_outcomes, value))
    return isinstance(value, Outcome | Described)


@pytest.fixture
def cache():
    """An empty one, whose limit may be changed."""
    limit = fastlayers.cache_info().limit
    fastlayers.empty_cache()
    gc.disable()  # arrays of other tests are not to die in this one
    yield
    gc.enable()
    fastlayers.set_cache_limit(limit)
