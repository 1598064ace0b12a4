"""Random graphs and what they are called with, drawn from a ``random.Random``.

Hypothesis hands one over that it can shrink; any other makes long runs quick.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

import numpy as np
from operands import KERNEL_DTYPES, LAYOUTS, NAMES, Literal, Operand
from outcome import sharing

ERRSTATES = [
    *[{}] * 6,
    *({"all": mode} for mode in ("ignore", "warn", "raise", "call", "log")),
    {"over": "raise", "under": "call", "invalid": "log"},
    {"over": "log", "under": "raise", "invalid": "warn"},
]
NODES = [1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 10, 15, 25, 40, 60]
OPERATIONS = [*["{x} * {y}"] * 8, *["{x} + {y}"] * 6, *["{x} - {y}"] * 4, *["-{x}"] * 2]
NUMBERS = ["2", "-1", "0.5", "1.1", "3", "-0.0", "0", "1e16", "-1e16", "True", "1e300", "inf"]
TYPED_NUMBERS = ["np.float64(1.1)", "np.float32(0.1)", "np.int64(3)", "np.float32(3e38)", "2j"]

DTYPES = ["?", "i1", "u1", "i2", "u2", "f2", "u4", "u8", "q", "g", "F", "D", ">f4", ">f8", ">i4"]
# Answering and retreating ones have no shape that a gradient could be summed to.
ANY_LAYOUT = [name for name in LAYOUTS if name not in ("answering", "retreating", "matrix")]
PLAIN_LAYOUTS = [*["C"] * 8, "F", "F", "rotated", "reversed", "mirrored", "stepped", "rows"]
PLAIN_LAYOUTS += ["gate", "offset", "readonly", "repeated rows", "repeated columns", "windows"]
VALUES = [*["ordinary"] * 4, "spot", "special", "bits", "uneven", "uneven"]
SCALARS = ["2", "-3", "0", "True", "2**40", "10**30", "0.5", "-0.0", "1.1", "1e16", "1e308", "nan"]
TYPED_SCALARS = ["np.float64(1.1)", "np.float32(-0.0)", "np.float32(3e38)", "np.int64(2**62)"]
TYPED_SCALARS += ["np.array(2.5)", "np.array(1.5, 'f4')", "np.array(3, 'i4')", "np.int32(7)", "1j"]
TYPED_SCALARS += ["Fraction(1, 3)", "np.True_", "np.float16(2)"]

# Around the lengths of vectors, of the segments that are summed, and of tiles.
LENGTHS = [*range(71), *range(250, 261), *range(510, 516), *range(1020, 1031), 2049, 4099]
LARGE = [(20_011,), (70_001,), (300, 257), (4_100, 3), (3, 5, 2_003)]


@dataclass(frozen=True)
class Window:
    """A part of an array of one axis, which it shares with the array's other windows.

    ``skipped`` elements lie between two of its rows.
    """

    whole: Operand
    start: int
    shape: tuple[int, ...]
    skipped: int = 0

    def of(self, whole: np.ndarray) -> np.ndarray:
        return window_of(whole, self.start, self.shape, self.skipped)


def window_of(whole: Any, start: int, shape: tuple[int, ...], skipped: int = 0) -> Any:
    """A view of ``shape`` on an array of one axis."""
    if not shape:
        return whole[start : start + 1].reshape(())
    rows = (*shape[:-1], shape[-1] + skipped)
    part = whole[start : start + math.prod(rows)].reshape(rows)
    return part[..., : shape[-1]]


@dataclass(frozen=True)
class GraphCall:
    """A function as its source, and what its graph is called with; equal operands are one object.

    ``dout`` has one member for each output, or is alone and stands for all of them. ``places``
    chooses where each output, and then each gradient, is written: see `out_for`.
    """

    source: str
    operands: tuple[Operand | Window | Literal, ...]
    dout: Any
    wrt: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    errstate: dict[str, str] = field(default_factory=dict)

    def build(self) -> tuple[list[Any], Any]:
        """The operands and ``dout``."""

        @cache
        def built(one: Any) -> Any:
            if isinstance(one, Window):
                return one.of(built(one.whole))
            return one.build()

        members = self.dout if isinstance(self.dout, tuple) else (self.dout,)
        values = [built(one) for one in (*self.operands, *members)]
        count = len(self.operands)
        return values[:count], tuple(values[count:]) if self.dout is members else values[count]

    def function(self) -> Any:
        return function_of(self.source)

    def __repr__(self) -> str:
        rest = [f"{name}={value!r}" for name, value in vars(self).items() if name != "source"]
        return f'GraphCall("""\\\n{self.source}""", {", ".join(rest)})'


OUT_LAYOUTS = ["C", "C", "F", "rotated", "reversed", "stepped", "rows", "gate", "offset"]


def out_for(result: Any, place: int, operands: list[Any], used: list[Any]) -> Any:
    """None, an array for a result in some layout, or an operand that none of ``used`` shares.

    Of the operand's memory the result may be given another view, which reads it backwards.
    """
    if place == 0 or type(result) is not np.ndarray or result.dtype.hasobject:
        return None
    if not result.size or not result.ndim:
        return None
    like = (result.shape, result.dtype.str, result.dtype.char)
    fitting = [
        one
        for one in operands
        if type(one) is np.ndarray and (one.shape, one.dtype.str, one.dtype.char) == like
        # Its elements do not overlap, and nor does it overlap another.
        if one.flags.writeable and len(set(addresses(one))) == one.size and not sharing([one], used)
    ]
    if fitting and place % 2:
        one = fitting[place % len(fitting)]
        return one[::-1] if place % 8 == 7 else one
    if place % 3 and (shared := shared_buffer(operands, result)) is not None:
        over = window_of(shared, place % (shared.size - result.size + 1), result.shape)
        if not sharing([over], used):
            return over
    return LAYOUTS[OUT_LAYOUTS[place % len(OUT_LAYOUTS)]](np.zeros_like(result, order="C"))


def shared_buffer(operands: list[Any], result: np.ndarray) -> np.ndarray | None:
    """The array that an operand is a part of, if a result fits into it."""
    for one in operands:
        whole = getattr(one, "base", None)
        while isinstance(getattr(whole, "base", None), np.ndarray):
            whole = whole.base
        if type(whole) is not np.ndarray or whole.ndim != 1 or whole.size <= one.size:
            continue
        like = whole.dtype.str == result.dtype.str and whole.dtype.char == result.dtype.char
        if like and whole.flags.writeable and whole.size >= result.size:
            return whole
    return None


def addresses(array: np.ndarray) -> list[int]:
    """Of every element, counted from the first one."""
    offsets = np.zeros(array.shape, int)
    for axis, stride in enumerate(array.strides):
        shape = [1] * array.ndim
        shape[axis] = -1
        offsets += (np.arange(array.shape[axis]) * stride).reshape(shape)
    return offsets.ravel().tolist()


def function_of(source: str, **others: Any) -> Any:
    names = {**NAMES, **others}
    exec(source, names)
    return names["graph"]


def random_call(random: Random) -> GraphCall:
    source, count = random_source(random)
    operands = random.choice(KINDS)(random, count)
    if count > 1 and random.random() < 0.1:
        operands[-1] = operands[0]
    names = [name for name in "abcdef"[:count] if random.random() < 0.6]
    dout = random_dout(random, source, operands)
    places = [random.choice([0, random.randrange(100)]) for _ in range(10)]
    return GraphCall(
        source, tuple(operands), dout, tuple(names), tuple(places), random.choice(ERRSTATES)
    )


# ------------------------------------------------------------------------------------- functions


def random_source(random: Random) -> tuple[str, int]:
    """A function's source, and how many parameters it has; no statement is in vain."""
    count = random.choice([1, 2, 2, 3, 3, 4, 5, 6])
    names = list("abcdef"[:count])
    numbers = [*NUMBERS, *TYPED_NUMBERS] if random.random() < 0.1 else NUMBERS[:6]
    made: dict[str, tuple[str, list[str]]] = {}
    for i in range(random.choice(NODES)):
        x = random_name(random, names)
        y = x if random.random() < 0.1 else random_name(random, names)
        operation = random.choice(OPERATIONS)
        if "y" in operation and random.random() < 0.15:
            x, y = random.choice([(x, random.choice(numbers)), (random.choice(numbers), y)])
        made[f"t{i}"] = operation.format(x=x, y=y), [x, y]
        names.append(f"t{i}")
    outputs = [names[-1]]
    for _ in range(random.choice([0, 0, 0, 0, 1, 1, 2, 3])):
        outputs.append(random.choice(names[-8:] if random.random() < 0.8 else names))
    random.shuffle(outputs)
    needed = reached(outputs, made)
    lines = [f"    {name} = {text}" for name, (text, _) in made.items() if name in needed]
    head = f"def graph({', '.join('abcdef'[:count])}):"
    return "\n".join([head, *lines, f"    return {', '.join(outputs)}", ""]), count


def random_name(random: Random, names: list[str]) -> str:
    """One of the latest values, or any."""
    return random.choice(names[-4:] if random.random() < 0.6 else names)


def reached(outputs: list[str], made: dict[str, tuple[str, list[str]]]) -> set[str]:
    needed = set(outputs)
    for name, (text, used) in reversed(made.items()):
        if name in needed:
            needed.update(one for one in used if one in text.replace("-", " ").split())
    return needed


# -------------------------------------------------------------------------------------- operands


def random_shape(random: Random) -> tuple[int, ...]:
    kind = random.random()
    if kind < 0.4:
        return (random.choice(LENGTHS),)
    if kind < 0.42:
        return random.choice(LARGE)
    if kind < 0.47:
        return ()
    sizes = [0, 1, 2, 3, 4, 5, 6, 7, 17, 33]
    shape = [random.choice(sizes) for _ in range(random.choice([1, 2, 2, 2, 3, 3, 4, 5]))]
    if math.prod(shape) < 300 and random.random() < 0.2:
        shape[random.randrange(len(shape))] = random.choice([255, 256, 257, 513])
    while math.prod(shape) > 5_000:
        shape.pop()
    return tuple(shape)


def narrowed(random: Random, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to ``shape``."""
    if random.random() < 0.4:
        return shape
    first = random.choice([0, 0, 0, 1, 2])
    return tuple(1 if random.random() < 0.4 else length for length in shape[first:])


def alike(random: Random, count: int) -> list[Any]:
    """Arrays of one shape and dtype, for the most part in one memory order."""
    dtype, shape = random.choice(KERNEL_DTYPES[: random.choice([2, 4])]), random_shape(random)
    values, layout = random.choice(VALUES), random.choice(PLAIN_LAYOUTS)
    one = random.random() < 0.6
    return [
        Operand(
            dtype,
            shape,
            layout if one else random.choice(PLAIN_LAYOUTS),
            values,
            random.randrange(1 << 16),
        )
        for _ in range(count)
    ]


def broadcast(random: Random, count: int) -> list[Any]:
    """Arrays of one dtype, axes of which are 1 or missing."""
    operands = alike(random, count)
    return [
        Operand(o.dtype, narrowed(random, o.shape), o.layout, o.values, o.seed) for o in operands
    ]


def with_numbers(random: Random, count: int) -> list[Any]:
    """Arrays and numbers."""
    scalars = SCALARS if random.random() < 0.7 else [*SCALARS, *TYPED_SCALARS]
    return [
        Literal(random.choice(scalars)) if random.random() < 0.5 else operand
        for operand in random.choice([alike, broadcast])(random, count)
    ]


def numbers(random: Random, count: int) -> list[Any]:
    scalars = SCALARS if random.random() < 0.7 else [*SCALARS, *TYPED_SCALARS]
    return [Literal(random.choice(scalars)) for _ in range(count)]


def mixed(random: Random, count: int) -> list[Any]:
    """Arrays of several dtypes and layouts, and numbers."""
    dtypes = [*KERNEL_DTYPES, random.choice([*DTYPES, *DTYPES, "O"])]
    return [
        # Without axes subclasses are scalars here and there, and what is masked is a constant.
        Operand(
            random.choice(dtypes),
            o.shape,
            random.choice(ANY_LAYOUT if o.shape else PLAIN_LAYOUTS),
            o.values,
            o.seed,
        )
        if isinstance(o, Operand)
        else o
        for o in random.choice([alike, broadcast, with_numbers])(random, count)
    ]


def overlapping(random: Random, count: int) -> list[Any]:
    """Parts of one array, most of them a few elements apart."""
    length = random.choice(LENGTHS)
    starts = [random.choice([0, 0, 0, 1, 2, 3, 64, length]) for _ in range(count)]
    dtype, values = random.choice(KERNEL_DTYPES), random.choice(VALUES)
    whole = Operand(dtype, (max(starts) + length,), "C", values, random.randrange(1 << 16))
    return [Window(whole, start, (length,)) for start in starts]


def windows(random: Random, count: int) -> list[Any]:
    """Parts of one array that broadcast together, anywhere in it; and what lies elsewhere."""
    shape = random_shape(random) or (3,)
    small = [shape, narrowed(random, shape)]  # one, most often
    shapes = [
        random.choice(small) if random.random() < 0.8 else narrowed(random, shape)
        for _ in range(count)
    ]
    skipped = [random.choice([0, 0, 1, 3]) if one else 0 for one in shapes]
    rooms = [
        math.prod((*one[:-1], one[-1] + more)) if one else 1
        for one, more in zip(shapes, skipped, strict=True)
    ]
    length = max(*rooms, math.prod(shape))
    length += random.choice([0, 1, 7, 64, length, 2 * length])
    dtype, values = random.choice(KERNEL_DTYPES), random.choice(VALUES)
    whole = Operand(dtype, (length,), "C", values, random.randrange(1 << 16))
    operands: list[Any] = []
    for one, more, room in zip(shapes, skipped, rooms, strict=True):
        elsewhere = random.random()
        if elsewhere < 0.1:
            operands.append(Literal(random.choice(SCALARS)))
        elif elsewhere < 0.4:
            operands.append(Operand(dtype, one, "C", values, random.randrange(1 << 16)))
        else:
            operands.append(Window(whole, random.randrange(length - room + 1), one, more))
    return operands


def unfit(random: Random, count: int) -> list[Any]:
    """Arrays of shapes that mostly do not broadcast."""
    return [
        Operand("f8", random_shape(random), "C", "ordinary", random.randrange(1 << 16))
        for _ in range(count)
    ]


KINDS = [*[alike] * 6, *[broadcast] * 6, *[with_numbers] * 5, *[mixed] * 3]
KINDS += [overlapping, overlapping, windows, windows, windows, numbers, unfit]


def random_dout(random: Random, source: str, operands: list[Any]) -> Any:
    """A number for all outputs, or something of its own for each."""
    shapes = output_shapes(source, operands)
    if random.random() < 0.4:
        return Literal(random.choice(["1", "1", "1", "1.0", "-0.0", "0.1", "1e300", "True"]))
    douts = [one_dout(random, shape, operands) for shape in shapes]
    return douts[0] if len(douts) == 1 else tuple(douts)


def one_dout(random: Random, shape: tuple[int, ...], operands: list[Any]) -> Any:
    if random.random() < 0.1:
        return Literal(random.choice([*SCALARS, "np.float32(0.1)", "np.array(1.5, 'f4')"]))
    shared = [one.whole for one in operands if isinstance(one, Window)]
    if shared and shape and random.random() < 0.4:
        room = shared[0].shape[0] - math.prod(shape)
        if room >= 0:
            return Window(shared[0], random.randrange(room + 1), shape)
    arrays = [getattr(o, "whole", o) for o in operands if not isinstance(o, Literal)]
    like = random.choice(arrays or [Operand("f8", ())])
    if random.random() < 0.1:
        shape = ()  # stands for itself everywhere, as a number does
    return Operand(
        like.dtype,
        shape,
        like.layout if shape and random.random() < 0.7 else random.choice(PLAIN_LAYOUTS),
        like.values,
        random.randrange(1 << 16),
    )


def output_shapes(source: str, operands: list[Any]) -> list[tuple[int, ...]]:
    """The outputs' shapes; any, if the operands' do not broadcast."""
    stand_ins = [np.zeros(getattr(one, "shape", ()), "f4") for one in operands]
    try:
        with np.errstate(all="ignore"):
            values = function_of(source)(*stand_ins)
    except ValueError:
        return [(3,)] * (source.count(",", source.rindex("return")) + 1)
    return [np.shape(one) for one in (values if isinstance(values, tuple) else (values,))]
