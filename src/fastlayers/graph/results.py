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


def outputs(out: Any, count: int, what: str, single: bool = False) -> tuple[Any, ...]:
    """Where ``count`` results go: an array or None for each. A single one needs no tuple."""
    if out is None:
        return (None,) * count
    if single and not isinstance(out, tuple):
        return (out,)
    expected = f"'out' must be a tuple of {count} arrays, for the {what}"
    if not isinstance(out, tuple):
        raise TypeError(f"{expected}, not {type(out).__name__}")
    if len(out) != count:
        raise ValueError(f"{expected}, not of {len(out)}")
    return tuple(out)


def stored(results: list[Any], outs: Sequence[Any] | None) -> list[Any]:
    """Copy results into the outputs given; write nothing if one of them is refused."""
    if outs is None or all(out is None for out in outs):
        return results
    for result, out in zip(results, outs, strict=True):
        if isinstance(out, np.ndarray) and not broadcasts_to(np.shape(result), out.shape):
            raise ValueError(
                f"'out' of shape {out.shape} does not fit a result of shape {np.shape(result)}"
            )
    return list(reference.store(results, outs))


def broadcasts_to(shape: tuple[int, ...], larger: tuple[int, ...]) -> bool:
    """Whether NumPy broadcasts one shape to the other."""
    try:
        return np.broadcast_shapes(shape, larger) == larger
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
