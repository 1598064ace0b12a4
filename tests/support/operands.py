"""Operands described by values whose repr is code, so that a failing example can be pasted."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np


def command(check: Callable[..., None], *arguments: Any) -> str:
    """The line of Python, for the project's root, that makes one check again."""
    modules = ("implementations", "paths", "random_calls", check.__module__)
    imports = "; ".join(f"from {module} import *" for module in modules)
    call = f"{check.__name__}({', '.join(map(repr, arguments))})"
    return f"import sys; sys.path[:0] = ['tests', 'tests/support']; {imports}; {call}"


KERNEL_DTYPES = ["f4", "f8", "i4", "i8"]
FLOATS, INTEGERS = KERNEL_DTYPES[:2], KERNEL_DTYPES[2:]

NAMES = {"np": np, "inf": math.inf, "nan": math.nan, "Decimal": Decimal, "Fraction": Fraction}


@dataclass(frozen=True)
class Literal:
    """A Python number, or a NumPy scalar, as its source text."""

    source: str

    def build(self) -> Any:
        with np.errstate(all="ignore"):
            return eval(self.source, NAMES)


@dataclass(frozen=True)
class Operand:
    """An array: ``layout`` is a key of `LAYOUTS`, ``values`` one of `VALUES`."""

    dtype: str
    shape: tuple[int, ...]
    layout: str = "C"
    values: str = "ordinary"
    seed: int = 0

    def build(self) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        with np.errstate(all="ignore"):
            array = elements(self.dtype, math.prod(self.shape), self.values, rng)
            return LAYOUTS[self.layout](array.reshape(self.shape))


# ---------------------------------------------------------------------------------------- values


def elements(dtype: str, count: int, values: str, rng: np.random.Generator) -> np.ndarray:
    """``count`` elements of a dtype, contiguous; ``values`` is one of `VALUES`, or ``uneven``."""
    dtype = np.dtype(dtype)
    if values == "spot":
        # One special element among ordinary ones: does the flag that it raises survive, whichever
        # vector lane, tail or thread it falls to?
        array = elements(dtype, count, "ordinary", rng)
        if count:
            where = rng.integers(count)
            # Through slices: a signalling NaN would not survive as a scalar.
            array[where : where + 1] = rng.choice(special(dtype), 1)
        return array
    if values == "special":
        return rng.choice(special(dtype), count)
    if values == "bits":
        return _bits(dtype, count, rng)
    if values == "uneven" and dtype.kind in "fc":
        return _uneven(dtype, count, rng)
    return _ordinary(dtype, count, rng)


VALUES = ("ordinary", "spot", "special", "bits")


def _ordinary(dtype: np.dtype, count: int, rng: np.random.Generator) -> np.ndarray:
    if dtype.kind == "f":
        return rng.standard_normal(count).astype(dtype)
    if dtype.kind == "c":
        return rng.integers(-9, 10, 2 * count).astype("f8").view("c16").astype(dtype)
    if dtype.kind in "mMO":
        return rng.integers(-9, 10, count).astype(dtype)
    if dtype.kind == "V":
        return np.frombuffer(bytearray(rng.bytes(count * dtype.itemsize)), dtype)
    return rng.integers(0, 10, count).astype(dtype)


def _uneven(dtype: np.dtype, count: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of which the sum of three, or a product that is not rounded, tells the order."""
    large = 2 / np.finfo(dtype).eps
    numbers = [large, -large, 1, -1, 1 + np.finfo(dtype).eps, 3, 0.0, -0.0]
    return rng.choice(np.array(numbers, dtype), count)


def _bits(dtype: np.dtype, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random bits: every exponent equally often, every NaN, all of the integers."""
    if dtype.kind == "b":
        return rng.integers(0, 2, count).astype(dtype)
    if dtype.kind in "OSUT":
        return _ordinary(dtype, count, rng)
    if dtype.char in "gG":  # where most patterns of bits are no number at all
        parts = count * (2 if dtype.char == "G" else 1)
        exponents = rng.integers(-16_400, 16_400, parts)
        numbers = np.ldexp(rng.standard_normal(parts).astype("g"), exponents)
        return numbers.view(dtype.newbyteorder("=")).astype(dtype)
    return np.frombuffer(bytearray(rng.bytes(count * dtype.itemsize)), dtype)


@cache
def special(dtype: np.dtype) -> np.ndarray:
    """The values at which arithmetic goes wrong."""
    if dtype.kind == "f":
        info = np.finfo(dtype)
        numbers = [0, 1, 1.5, np.inf, info.max, info.tiny, info.smallest_subnormal, info.eps]
        array = np.array([*numbers, *(-n for n in numbers), np.nan, np.sqrt(info.max)], dtype)
        return np.concatenate([array, signalling_nan(dtype)])
    if dtype.kind == "c":
        parts = special(np.dtype({"F": "f4", "D": "f8", "G": "g"}[dtype.char]))
        both = np.empty((len(parts), len(parts)), dtype)
        both.real, both.imag = parts[:, None], parts
        return both.ravel()
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        numbers = [info.min, info.max, info.min + 1, info.max // 2, 0, 1, 2, 3, 10]
        return np.array(numbers, dtype)
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind in "mM":
        return np.array(["NaT", 0, 1, 2**62], dtype)
    if dtype.kind == "O":
        numbers = [0, 1, True, -(10**30), 1.5, math.inf, math.nan, 1e308, 2j, Fraction(1, 3)]
        # No text: many times over, it would fill the memory.
        return np.array([*numbers, None], dtype)
    if dtype.kind == "V":
        return np.zeros(1, dtype)
    return np.array(["", "a", "0"], dtype)


def signalling_nan(dtype: Any) -> np.ndarray:
    """One signalling NaN: the quiet bit clear, something else in the payload."""
    dtype = np.dtype(dtype)
    patterns = {
        "e": (np.uint16, 0x7C01),
        "f": (np.uint32, 0x7F800001),
        "d": (np.uint64, 0x7FF << 52 | 1),
    }
    if dtype.char not in patterns:
        return np.array([np.nan], dtype)
    unsigned, pattern = patterns[dtype.char]
    return np.array([pattern], unsigned).view(dtype.newbyteorder("=")).astype(dtype)


# --------------------------------------------------------------------------------------- layouts


def _fortran(array):
    return np.array(array, order="F")


def _rotated(array):
    """The last axis outermost in memory: neither C nor F order, from three axes on."""
    if array.ndim == 0:
        return array
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, -1, 0)), 0, -1)


def _flipped(index):
    """With negative strides."""
    return lambda array: np.array(array[index], order="C")[index] if array.ndim else array


def _part(larger, index):
    """A part of an array whose shape is ``larger`` than its own."""

    def laid_out(array):
        if array.ndim == 0:
            return array
        whole = np.zeros(larger(*array.shape), array.dtype)
        whole[index] = array
        return whole[index]

    return laid_out


def _offset(array):
    """Aligned to its items but to nothing more."""
    longer = np.zeros(array.size + 1, array.dtype)
    longer[1:] = array.ravel()
    return longer[1:].reshape(array.shape)


def _unaligned(array):
    if array.dtype.hasobject:
        return array
    memory = np.frombuffer(bytearray(b"\0" + array.tobytes()), np.uint8)
    return memory[1:].view(array.dtype).reshape(array.shape) if array.size else array


def _readonly(array):
    array.flags.writeable = False
    return array


def _mapped(array):
    """A file in memory; of that no object can be, and no nothing."""
    if array.dtype.hasobject or not array.size:
        return array
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, array.dtype, "w+", shape=array.shape)
    mapped[...] = array
    return mapped


def _repeated_rows(array):
    """The first row, over and over: a stride of zero, outermost."""
    return np.broadcast_to(array[:1], array.shape) if array.ndim and len(array) else array


def _repeated_columns(array):
    """The first column, over and over: a stride of zero, innermost."""
    return np.broadcast_to(array[..., :1], array.shape) if array.ndim and array.size else array


def _windows(array):
    """Sliding windows: rows that overlap in memory."""
    return np.lib.stride_tricks.as_strided(
        array, strides=(array.itemsize,) * array.ndim, writeable=False
    )


class Tagged(np.ndarray):
    """A subclass that hands an attribute on, as libraries of physical units do."""

    def __array_finalize__(self, source):
        self.tag = getattr(source, "tag", "new")


def _tagged(array):
    array = array.view(Tagged)
    array.tag = "given"
    return array


class Answering(np.ndarray):
    """A subclass that answers operators itself, with a tuple."""

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        inputs = map(self._plain, inputs)
        if "out" in kwargs:
            kwargs["out"] = tuple(map(self._plain, kwargs["out"]))
        return ufunc.__name__, method, getattr(ufunc, method)(*inputs, **kwargs)

    @staticmethod
    def _plain(one):
        return one.view(np.ndarray) if isinstance(one, Answering) else one


class Retreating(np.ndarray):
    """A subclass that leaves all operators to the other operand."""

    __array_ufunc__ = None


def _matrix(array):
    return array.view(np.matrix) if array.ndim == 2 else array


def _masked(array):
    return np.ma.array(array, mask=np.arange(array.size).reshape(array.shape) % 3 == 0)


LAYOUTS = {
    "C": lambda array: array,
    "F": _fortran,
    "rotated": _rotated,
    "reversed": lambda array: _flipped((slice(None, None, -1),) * array.ndim)(array),
    "mirrored": _flipped(np.s_[..., ::-1]),
    "stepped": _part(lambda *shape: (*shape[:-1], 2 * shape[-1]), np.s_[..., ::2]),
    "rows": _part(lambda rows, *row: (2 * rows, *row), np.s_[::2]),
    # The first columns, as ``A[:, :H]``, one gate of an LSTM, is.
    "gate": _part(lambda *shape: (*shape[:-1], shape[-1] + 3), np.s_[..., :-3]),
    "offset": _offset,
    "unaligned": _unaligned,
    "readonly": _readonly,
    "mapped": _mapped,
    "repeated rows": _repeated_rows,
    "repeated columns": _repeated_columns,
    "windows": _windows,
    "tagged": _tagged,
    "answering": lambda array: array.view(Answering),
    "retreating": lambda array: array.view(Retreating),
    "matrix": _matrix,
    "masked": _masked,
}
