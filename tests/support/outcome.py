"""Everything that a call does, for comparison with ``==``: its results to the bit, or its error.

Alone excused are the payload and the sign of a NaN, in which NumPy itself is not consistent.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from implementations import PARAMETERS


@dataclass(frozen=True)
class Outcome:
    """What `outcome` saw; ``value`` is what the call returned, and takes no part in ``==``."""

    result: Any
    exception: tuple[type, str] | None
    warnings: tuple[tuple[type, str], ...]
    handled: tuple[Any, ...]
    value: Any = field(compare=False, repr=False)


def outcome(function, *args, errstate=None, **kwargs) -> Outcome:
    """Call ``function`` and report its whole outcome.

    ``errstate`` is what ``np.errstate`` takes; what the modes ``call`` and ``log`` hand over is
    reported as ``handled``, unless it brings a handler of its own.
    """
    handler = _Handler()
    value = exception = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with np.errstate(**{"call": handler, **(errstate or {})}):
            try:
                value = function(*args, **kwargs)
            except Exception as error:
                exception = (type(error), str(error))
    return Outcome(
        result=described(value),
        exception=exception,
        warnings=tuple((w.category, str(w.message)) for w in caught),
        handled=tuple(handler.received),
        value=value,
    )


def everything(implementation, x, y, dout, errstate=None, change="") -> dict[str, Outcome]:
    """The outcome of every function and layer on these operands.

    ``change`` is a statement that is executed between the layers' forward and backward.
    """
    mul, add = implementation.MulLayer(), implementation.AddLayer()
    names = {"x": x, "y": y, "dout": dout}
    calls = {
        function: (getattr(implementation, function), *(names[name] for name in parameters))
        for function, parameters in PARAMETERS.items()
    }
    calls |= {
        "MulLayer.forward": (mul.forward, x, y),
        "MulLayer changed": (exec, change, {"layer": mul, **names}),
        "MulLayer.backward": (mul.backward, dout),
        "AddLayer.forward": (add.forward, x, y),
        "AddLayer changed": (exec, change, {"layer": add, **names}),
        "AddLayer.backward": (add.backward, dout),
    }
    return {
        name: outcome(*call, errstate=errstate)
        for name, call in calls.items()
        if change or call[0] is not exec
    }


class _Handler:
    """Handler for the modes ``call``, which calls it, and ``log``, which writes to it."""

    def __init__(self):
        self.received = []

    def __call__(self, text, flags):
        self.received.append(("call", text, flags))

    def write(self, text):
        self.received.append(("log", text))


@dataclass(frozen=True)
class Described:
    """All that can be seen of an array, its values as bytes (or as a tuple, if objects)."""

    type: type
    dtype: tuple[str, str, Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    flags: dict[str, bool]
    values: Any
    extra: Any = None


def described(value: Any) -> Any:
    """``value`` in a form whose ``==`` tells all that a user could: type, bits, memory order, …"""
    if isinstance(value, tuple | list):
        return type(value), tuple(map(described, value))
    if value is np.ma.masked:  # the one and only
        extra = None
    elif isinstance(value, np.ma.MaskedArray):
        # np.ma.nomask, "no mask", is a NumPy scalar: not the same as an array of False.
        extra = (described(value.data), described(value.mask), described(value.fill_value))
    else:
        extra = getattr(value, "__dict__", None)
        if isinstance(value, np.memmap):
            extra = {**extra, "_mmap": type(extra["_mmap"])}  # equal to itself alone
    if isinstance(value, np.ndarray | np.generic):
        flags = value.flags
        return Described(
            type=type(value),
            # The letter tells long from long long, which compare equal.
            dtype=(value.dtype.str, value.dtype.char, value.dtype.metadata),
            shape=value.shape,
            strides=value.strides,
            flags={
                "writeable": flags.writeable,
                "owndata": flags.owndata,
                "aligned": flags.aligned,
            },
            values=_values(np.asarray(value)),
            extra=extra,
        )
    return _one(value)


def _one(value: Any) -> tuple[type, str]:
    # The repr of a Python number tells every bit of it, -0.0 from 0.0 too, and any NaN is 'nan'.
    # That of an int may have too many digits to be written, but not in base 16.
    return type(value), hex(value) if isinstance(value, int) else repr(value)


def _values(array: np.ndarray) -> Any:
    """The elements in C order, NaNs made alike."""
    if array.dtype.kind == "O":
        return tuple(map(_one, array.ravel().tolist()))
    if array.dtype.kind in "fc":
        with np.errstate(all="ignore"):  # a signalling NaN raises a flag as it is looked at
            if not array.dtype.isnative:
                array = array.astype(array.dtype.newbyteorder("="))
            if np.count_nonzero(np.isnan(array)):
                array = array.copy()
                for part in (array.real, array.imag) if array.dtype.kind == "c" else (array,):
                    part[np.isnan(part)] = np.nan
        if array.dtype.char in "gG" and np.finfo(array.dtype).nmant == 63:
            # The x87 extended format has 10 bytes; the rest is padding, and never written.
            array = np.array(array, order="C", ndmin=1)
            return array.view(np.uint8).reshape(-1, np.dtype("g").itemsize)[:, :10].tobytes()
    return array.tobytes()


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """The places in which two outcomes differ, a line each."""
    if left == right:
        return []
    a, b = _parts(left), _parts(right)
    if not a or a.keys() != b.keys():
        return [f"{path.lstrip('.')}: {repr(left)[:500]} != {repr(right)[:500]}"]
    return [line for key in a for line in differences(a[key], b[key], f"{path}.{key}")]


def _parts(value: Any) -> dict[Any, Any]:
    """The members of what has any, by name."""
    if isinstance(value, Outcome):
        return {part.name: getattr(value, part.name) for part in fields(value) if part.compare}
    if isinstance(value, Described):
        return vars(value) | {"values": _elements(value)}
    if isinstance(value, tuple):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else {}


def _elements(array: Described) -> Any:
    """Each by its index."""
    if isinstance(array.values, tuple) or not array.values:
        return array.values
    size = len(array.values) // math.prod(array.shape)
    return {
        index: _shown(array.values[i * size : (i + 1) * size], array)
        for i, index in enumerate(np.ndindex(array.shape))
    }


def _shown(item: bytes, array: Described) -> str:
    dtype = np.dtype(array.dtype[1] if array.dtype[1] not in "SUVmM" else array.dtype[0])
    hexadecimal = item.hex()
    if len(item) != dtype.itemsize:
        return hexadecimal
    return f"{np.frombuffer(item, dtype)[0]!r} ({hexadecimal})"


def arrays_in(value: Any) -> list[np.ndarray]:
    """The arrays in a result: itself, or the members of a pair."""
    members = value if isinstance(value, tuple) else (value,)
    return [m for m in members if isinstance(m, np.ndarray) and m is not np.ma.masked]


def sharing(arrays: list[np.ndarray], others: list[np.ndarray] = ()) -> list[tuple[int, int]]:
    """Positions of two ``arrays``, or of one and (counted on) of one of ``others``, that overlap.

    By their bounds, which for the results of arithmetic, in blocks of their own, is exact.
    """
    everything = [*arrays, *others]
    return [
        (i, j)
        for i in range(len(arrays))
        for j in range(i + 1, len(everything))
        if np.may_share_memory(everything[i], everything[j])
    ]
