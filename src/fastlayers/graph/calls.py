"""How functions are called: which arguments are operands of a graph's node, and which options."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..base import Placeholder
from .adjoints import Place, Slice
from .operations import OPERATIONS

# NumPy's functions, and the methods of arrays, that are recorded.
FUNCTIONS = {function: name for name, row in OPERATIONS.items() for function in row.functions}
METHODS = {method: name for name, row in OPERATIONS.items() for method in row.methods}
JOINING = ("concatenate", "stack", "vstack", "hstack", "column_stack", "dstack")
SPLITTING = ("split", "array_split", "hsplit", "vsplit", "dsplit")

# Parameters by another name than ours.
NAMES = {"indices_or_sections": "sections", "ary": "x", "tup": "arrays", "newshape": "shape"}

# What to write for options that matter.
WRITTEN_OUT = {"weights": "write np.sum(w * x) / np.sum(w)"}

Bound = tuple[tuple[Any, ...], dict[str, Any]]


class NotServed(Exception):
    """A call that is no node: what it is given too much, and what to write instead."""

    def __init__(self, given: str, instead: str) -> None:
        super().__init__(given)
        self.given, self.instead = given, instead


def bind(name: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Bound:
    """The operands of a call of a function, and its options by name.

    Raises
    ------
    NotServed
        If it is called with what no node can have.
    TypeError
        If NumPy would not take the arguments, either.
    """
    row = OPERATIONS[name]
    if name == "einsum" and not named:
        return _einsum(*arguments)
    parameters = row.takes.split()
    names = [one.strip("[]") for one in parameters]
    named = {NAMES.get(key, key): value for key, value in named.items()}
    if len(arguments) > len(names):
        raise TypeError(f"{name}() takes {len(names)} arguments, but {len(arguments)} were given")
    given = dict(zip(names, arguments, strict=False))
    for key, value in named.items():
        if key in given:
            raise TypeError(f"{name}() got multiple values for argument '{key}'")
        given[key] = value
    refused = [key for key in given if f"[{key}]" in parameters and not _default(key, given[key])]
    refused += [key for key in given if key not in names]
    if refused:
        given_too_much = ", ".join(refused)
        instead = WRITTEN_OUT.get(given_too_much, f"leave out {given_too_much}")
        raise NotServed(f"with {given_too_much}", instead)
    given = {key: value for key, value in given.items() if f"[{key}]" not in parameters}
    count = 1 if callable(row.gradients) else len(row.gradients)
    special: Callable[[dict[str, Any]], Bound] | None = SPECIAL.get(name)
    if special is not None:
        return special(given)
    missing = [key for key in names[:count] if key not in given]
    if missing:
        raise NotServed(f"without {', '.join(missing)}", f"give it {', '.join(missing)}")
    operands = tuple([given.pop(key) for key in names[:count]])
    return operands, {key: option(key, value) for key, value in given.items()}


def _default(name: str, value: Any) -> bool:
    """Whether an option that is not served was given as it is without it."""
    defaults = {
        "order": ("C", "K"),
        "subok": (False,),
        "casting": ("same_kind",),
        "mode": ("constant",),
        "copy": (True,),
        "returned": (False,),
    }
    return (
        value is None
        or value is np._NoValue
        or any(
            value is one or (isinstance(one, str) and value == one)
            for one in defaults.get(name, ())
        )
    )


def option(name: str, value: Any) -> Any:
    """An option's value as one that can be compared and stored."""
    if name == "keepdims" and not isinstance(value, Placeholder):
        return bool(operator.index(value))  # as NumPy's functions in C have it
    if isinstance(value, Placeholder):
        raise NotServed(
            f"with a value as {name}", f"make {name} a number that is known without running"
        )
    if isinstance(value, list | tuple):
        return tuple([option(name, one) for one in value])
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return tuple([option(name, one) for one in value.tolist()])
    if isinstance(value, np.integer):
        return operator.index(value)
    if value is None or isinstance(value, int | float | complex | str | np.generic):
        return value
    raise NotServed(f"with {name} as {type(value).__name__}", f"give {name} as a number or a tuple")


def _join(given: dict[str, Any]) -> Bound:
    arrays = given.pop("arrays", None)
    if not isinstance(arrays, list | tuple) or not arrays:
        raise NotServed("of what is no list of values", "give it a list or a tuple of values")
    return tuple(arrays), {key: option(key, value) for key, value in given.items()}


def _clip(given: dict[str, Any]) -> Bound:
    x = given.pop("a")
    for old, new in (("a_min", "min"), ("a_max", "max")):
        if old in given and new in given:
            raise TypeError(f"clip() was given both {old} and {new}")
    found = {
        "l": given.get("a_min", given.get("min")),
        "u": given.get("a_max", given.get("max")),
    }
    limits = {key: value for key, value in found.items() if value is not None}
    if not limits:
        raise NotServed("without limits", "leave it out, or copy the value: x.copy()")
    return (x, *limits.values()), {"bounds": "".join(limits)}


def _where(given: dict[str, Any]) -> Bound:
    if len(given) < 3:
        raise NotServed(
            "of a condition alone", "its result depends on values; give it what to choose from"
        )
    return tuple([given[key] for key in ("condition", "x", "y")]), {}


def _select(given: dict[str, Any]) -> Bound:
    conditions, choices = given["condlist"], given["choicelist"]
    lists = all(isinstance(one, list | tuple) for one in (conditions, choices))
    if not lists or len(conditions) != len(choices):
        raise NotServed("without a list of as many conditions as choices", "write np.where")
    return (*conditions, *choices, given.get("default", 0)), {"count": len(conditions)}


def _einsum(subscripts: Any, *operands: Any) -> Bound:
    """With the letters of the value written out, as NumPy understands them if they are not."""
    if not isinstance(subscripts, str) or "." in subscripts or not operands:
        raise NotServed("with an ellipsis or lists", "write a letter for each axis: 'ij,jk->ik'")
    given, arrow, result = subscripts.replace(" ", "").partition("->")
    if not arrow:
        letters = given.replace(",", "")
        result = "".join(sorted(one for one in set(letters) if letters.count(one) == 1))
    return operands, {"subscripts": f"{given}->{result}"}


def _pair(given: dict[str, Any], *names: str) -> Bound:
    operands = tuple([given.pop(name) for name in names])
    return operands, {key: option(key, value) for key, value in given.items()}


def _split(given: dict[str, Any]) -> Bound:
    x, options = given.pop("x"), {key: option(key, value) for key, value in given.items()}
    if "sections" not in options:
        raise NotServed("without sections", "say into how many parts, or where")
    return (x,), options


SPECIAL: dict[str, Callable[[dict[str, Any]], Bound]] = {
    **dict.fromkeys(SPLITTING, _split),
    **dict.fromkeys(JOINING, _join),
    "clip": _clip,
    "where": _where,
    "np.select": _select,
    "take": lambda given: _pair(given, "a", "indices"),
    "take_along_axis": lambda given: _pair(given, "arr", "indices"),
    "append": lambda given: _pair(given, "arr", "values"),
}


def bind_method(
    name: str, symbol: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> Bound:
    """The same for a method of arrays; a shape and axes may be given one by one."""
    if name in ("reshape", "transpose") and len(arguments) > 1:
        arguments = (arguments,)
    return bind(name, (symbol, *arguments), named)


def index_of(index: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The operands in an index, and its form: what `adjoints.indexed` puts together again."""
    whole = isinstance(index, tuple)
    operands: list[Any] = []
    form: list[Any] = []
    for part in index if whole else (index,):
        if isinstance(part, slice):
            ends = [_end(one) for one in (part.start, part.stop, part.step)]
            form.append(Slice(*ends))
        elif isinstance(part, Placeholder | np.ndarray):
            operands.append(part)
            form.append(Place())
        elif isinstance(part, list):
            operands.append(np.array(part) if part else np.array(part, np.intp))
            form.append(Place())
        elif isinstance(part, bool | np.bool_):  # which as a key would equal a number
            operands.append(np.array(part))
            form.append(Place())
        elif part is None or part is Ellipsis:
            form.append(part)
        else:
            try:
                form.append(operator.index(part))
            except TypeError:
                raise IndexError(
                    "only integers, slices (`:`), ellipsis (`...`), numpy.newaxis (`None`) and "
                    "integer or boolean arrays are valid indices"
                ) from None
    options: dict[str, Any] = {"index": tuple(form)}
    if whole:
        options["whole"] = True
    return tuple(operands), options


def _end(end: Any) -> Any:
    if isinstance(end, Placeholder):
        raise NotServed(
            "where a slice begins or ends at a value",
            "make the part a parameter, or the number known without running",
        )
    return end if end is None else operator.index(end)


def written(index: Sequence[Any], operands: Iterable[str]) -> str:
    """An index as it stands between brackets."""
    rest = iter(operands)
    parts = []
    for part in index:
        if type(part) is Slice:
            ends = ["" if one is None else str(one) for one in part]
            parts.append(":".join(ends[: 3 if ends[2] else 2]))
        elif type(part) is Place:
            parts.append(next(rest))
        else:
            parts.append("..." if part is Ellipsis else str(part))
    return ", ".join(parts)


def written_option(name: str, value: Any) -> str:
    if name == "index" and isinstance(value, tuple):
        return f"[{written(value, itertools.repeat('…'))}]"
    return str(value)
