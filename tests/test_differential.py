"""Random calls, compared in everything that can be seen with the plain expressions.

``make fuzz`` goes deeper. A failure is printed as a line of Python, which makes the call again;
what it prints as ``call=`` can be pasted into an ``@example(call=...)`` above the test.
"""

from __future__ import annotations

import plain
from hypothesis import given, note
from operands import command
from outcome import arrays_in, described, everything, sharing
from paths import ANY_PATH, taken
from random_calls import CALLS


@given(path=ANY_PATH, call=CALLS)
def test_call_does_what_the_plain_expressions_do(implementation, path, call):
    note(command(check, implementation, path, call))
    check(implementation, path, call)


def check(implementation, path, call):
    operands = call.build()
    before = described(operands)
    expected = everything(plain, *operands, call.errstate, call.change)
    after = described(operands)
    if call.change:
        operands = call.build()
        assert described(operands) == before
    with taken(path):
        actual = everything(implementation, *operands, call.errstate, call.change)
    assert actual == expected
    assert described(operands) == after
    assert call.change or after == before
    results = [array for one in actual.values() for array in arrays_in(one.value)]
    earlier = [array for one in expected.values() for array in arrays_in(one.value)]
    assert sharing(results, [*arrays_in(tuple(operands)), *earlier]) == []
