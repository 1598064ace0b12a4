"""FASTLAYERS_IMPLEMENTATION decides who computes, and a broken build is never silent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# As an interrupted build or a wheel for another machine would have it.
BLOCK = "import sys; sys.modules['fastlayers._core'] = None\n"
REPORT = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastlayers
    import fastlayers.ops
print(fastlayers.IMPLEMENTATION)
for warning in caught:
    print(warning.category.__name__, warning.message)
"""


def run(code, variable=None):
    """Run code in a fresh interpreter, where FASTLAYERS_IMPLEMENTATION is as given."""
    environment = {k: v for k, v in os.environ.items() if k != "FASTLAYERS_IMPLEMENTATION"}
    if variable is not None:
        environment["FASTLAYERS_IMPLEMENTATION"] = variable
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )


def test_chosen(implementation):
    chosen = {"native": [None, "", "native"], "reference": ["reference"]}
    where = {"native": "fastlayers._core", "reference": "fastlayers.reference"}
    for variable in chosen[implementation.name]:
        result = run(REPORT + "print(fastlayers.MulLayer().forward(100, 2))", variable)
        assert (result.stdout.split(), result.stderr) == ([implementation.name, "200"], "")
        result = run("import fastlayers; print(fastlayers.multiply.__module__)", variable)
        assert result.stdout.startswith(where[implementation.name])


@pytest.mark.parametrize("value", ["nonsense", "Native", "native ", "0"])
def test_unknown_value(value):
    result = run("import fastlayers", value)
    assert result.returncode == 1
    error = result.stderr.splitlines()[-1]
    assert error.startswith("ValueError: FASTLAYERS_IMPLEMENTATION")
    assert all(part in error for part in (repr(value), "'native'", "'reference'"))


def test_broken_build_warns_once_and_runs_on():
    for variable in (None, ""):
        result = run(BLOCK + REPORT + "print(fastlayers.AddLayer().backward(1.5))", variable)
        implementation, warning, answer = result.stdout.splitlines()
        assert implementation == "reference"
        assert warning.startswith(
            "RuntimeWarning the compiled part of fastlayers cannot be imported"
        )
        assert "reinstall" in warning
        assert answer == "(1.5, 1.5)"
        assert result.stderr == ""


def test_broken_build_is_an_error_where_native_is_demanded():
    result = run(BLOCK + "import fastlayers", "native")
    assert result.returncode == 1
    error = result.stderr.splitlines()[-1]
    assert error.startswith("ImportError: FASTLAYERS_IMPLEMENTATION=native")
    assert "reinstall fastlayers" in error
    assert "unset" in error


def test_broken_build_does_not_matter_to_the_reference():
    result = run(BLOCK + REPORT, "reference")
    assert (result.stdout, result.stderr) == ("reference\n", "")


def test_reference_does_not_load_the_compiled_part():
    result = run("import fastlayers, sys; print('fastlayers._core' in sys.modules)", "reference")
    assert result.stdout == "False\n"
