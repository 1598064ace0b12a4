"""What a call with ``out=`` does, compared with what its products do, each alone."""

from __future__ import annotations

import itertools

import numpy as np
from implementations import PAIRED, SINGLE
from outcome import described, outcome
from paths import taken
from plain import ufunc_calls


def check_out(api, path, operation, operands, out, errstate=None):
    """Compare a call with what its products do, each alone; return its outcome."""

    def build():
        built = {part: part.build() for part in operands}
        return [built[part] for part in operands], [part and part.build() for part in out]

    expected, targets = [], []
    for position in range(len(out)):
        inputs, arrays = build()
        ufunc, inputs = ufunc_calls(operation, inputs)[position]
        expected.append(outcome(ufunc, *inputs, out=arrays[position], errstate=errstate))
        targets.append(arrays[position])
    inputs, arrays = build()
    untouched = memory_of(arrays)
    given_out = tuple(arrays) if operation in PAIRED else arrays[0]
    with taken(path):
        actual = outcome(getattr(api, operation), *inputs, out=given_out, errstate=errstate)
    if operation in SINGLE:
        assert actual == expected[0]
        assert (actual.value is arrays[0]) == (expected[0].value is targets[0])
        assert memory_of(arrays) == memory_of(targets)
        return actual
    errors = [one.exception for one in expected if one.exception]
    if errors:
        assert actual.exception[0] in [error[0] for error in errors]
        # What objects raise, and floating-point exceptions, is not known before it happens.
        if actual.exception[0] is not FloatingPointError and all(
            getattr(part, "dtype", None) != "O" for part in out
        ):
            assert memory_of(arrays) == untouched
        return actual
    assert actual.exception is None
    assert memory_of(arrays) == memory_of(targets)
    for i, one in enumerate(expected):
        assert described(actual.value[i]) == one.result
        # A subclass may return something else.
        assert (actual.value[i] is arrays[i]) == (one.value is targets[i])
    assert_said(actual, expected)
    return actual


def memory_of(out):
    """What outputs hold, and what lies between their elements."""
    bases = [getattr(one, "base", None) for one in out]
    dtypes = [getattr(one, "dtype", None) for one in out]
    return described(out), [
        described(base)
        for base, dtype in zip(bases, dtypes, strict=True)
        if isinstance(base, np.ndarray) and base.dtype == dtype
    ]


def assert_said(actual, expected):
    """Assert that a call warned and handed over what its products do, in whichever order."""
    for said in ("warnings", "handled"):
        products = itertools.chain(*(getattr(one, said) for one in expected))
        assert sorted(getattr(actual, said), key=repr) == sorted(products, key=repr)
