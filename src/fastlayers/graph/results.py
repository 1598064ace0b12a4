"""What a graph returns: arrays that share no memory, where the caller wants them."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from .. import reference
from .interpreter import copied


def apart(results: list[Any], taken: Sequence[Any], foreign: Sequence[bool] = ()) -> list[Any]:
    """Results that share no memory, neither with each other nor with what is ``taken``.

    ``foreign`` says for each whether it comes from elsewhere, and may share memory with anything.
    """
    seen = {id(one) for one in taken}
    owned = []
    for i, result in enumerate(results):
        view = type(result) is np.ndarray and not result.flags.owndata
        if id(result) in seen or view or (foreign and foreign[i]):
            result = copied(result)
        seen.add(id(result))
        owned.append(result)
    return owned


def pair_of_outputs(out: Any) -> tuple[Any, Any]:
    """Where the values go, and where the gradients go."""
    if out is None:
        return None, None
    if not (isinstance(out, tuple) and len(out) == 2):
        raise TypeError(f"'out' must be a tuple of two, (value, gradients), not {out!r:.60}")
    return out


def flat(out: Any, count: int, single: bool) -> tuple[Any, ...]:
    """An array or None for each of ``count`` results; another number of them where `outputs_for`
    raises an error.
    """
    if isinstance(out, tuple):
        return tuple(out)
    return (None,) * count if out is None else (out,) if single else ()


def outputs_for(
    results: Sequence[Any], out: Any, what: str, single: bool = False
) -> tuple[Any, ...]:
    """Where the results go: an array or None for each. A single one needs no tuple."""
    if out is None:
        return (None,) * len(results)
    if single and not isinstance(out, tuple):
        return (out,)
    expected = f"'out' must be a tuple of {len(results)} arrays, for the {what}"
    if not isinstance(out, tuple):
        raise TypeError(f"{expected}, not {type(out).__name__}")
    if len(out) != len(results):
        raise ValueError(f"{expected}, not of {len(out)}")
    return out


def stored(results: Sequence[Any], outputs: Sequence[Any]) -> Sequence[Any]:
    """Copy results into the outputs given; write nothing if one of them is refused."""
    if all(output is None for output in outputs):
        return results
    for result, output in zip(results, outputs, strict=True):
        if isinstance(output, np.ndarray) and not _fits(np.shape(result), output.shape):
            raise ValueError(
                f"'out' of shape {output.shape} does not fit a result of shape {np.shape(result)}"
            )
    return reference.store(results, outputs)


def _fits(shape: tuple[int, ...], out: tuple[int, ...]) -> bool:
    """Whether a result broadcasts to an output, as NumPy has it."""
    if shape == out:
        return True
    try:
        return np.broadcast_shapes(shape, out) == out
    except ValueError:
        return False


def gradients_of(names: tuple[str, ...], values: Sequence[Any]) -> Any:
    """A named tuple. What cannot name a field, as ``_x``, is an attribute all the same."""
    return type_of_gradients(names)._make(values)


@functools.lru_cache(maxsize=256)
def type_of_gradients(names: tuple[str, ...]) -> Any:
    make: Any = namedtuple  # which type checkers know of fields that stand in the source alone
    base = make("Gradients", names, rename=True)
    attributes: dict[str, Any] = {
        name: property(itemgetter(i))
        for i, name in enumerate(names)
        if name != base._fields[i] and not hasattr(base, name)
    }
    attributes["__slots__"] = ()
    attributes["__reduce__"] = lambda self: (gradients_of, (names, tuple(self)))
    return type("Gradients", (base,), attributes)
