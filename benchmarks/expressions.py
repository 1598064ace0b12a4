"""Expressions of a size that is usual in networks, as functions of the forward lines alone; and the
same by hand: forward and backward in plain NumPy, of the gradient ``one`` of every output. And
updates, which compute two arrays anew, in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


def shop(a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    return (a * b + c * d) * e


def shop_by_hand(one: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    total = a * b + c * d
    dtotal, de = one * e, one * total
    dleft, dright = dtotal * 1, dtotal * 1
    return total * e, (dleft * b, dleft * a, dright * d, dright * c, de)


def gates(f: Any, c: Any, g: Any, i: Any) -> Any:
    return f * c + g * i


def gates_by_hand(one: Any, f: Any, c: Any, g: Any, i: Any) -> Any:
    dleft, dright = one * 1, one * 1
    return f * c + g * i, (dleft * c, dleft * f, dright * i, dright * g)


def scale(x: Any, gamma: Any, beta: Any) -> Any:
    return x * gamma + beta


def scale_by_hand(one: Any, x: Any, gamma: Any, beta: Any) -> Any:
    dproduct, dbeta = one * 1, np.sum(one * 1, axis=0)
    return x * gamma + beta, (dproduct * gamma, np.sum(dproduct * x, axis=0), dbeta)


def blend(alpha: Any, x: Any, y: Any) -> Any:
    return alpha * x + (1 - alpha) * y


def blend_by_hand(one: Any, alpha: Any, x: Any, y: Any) -> Any:
    rest = 1 - alpha
    dleft, dright = one * 1, one * 1
    drest, dalpha = (np.sum(d, axis=-1, keepdims=True) for d in (dright * y, dleft * x))
    return alpha * x + rest * y, (drest * -1 + dalpha, dleft * alpha, dright * rest)


def horner(x: Any) -> Any:
    total = 0.5 * x + 0.25
    for number in (1.0, -0.5, 2.0, 0.125, -3.0, 0.75, 1.5):
        total = total * x + number
    return total


def horner_by_hand(one: Any, x: Any) -> Any:
    totals = [0.5 * x + 0.25]
    for number in (1.0, -0.5, 2.0, 0.125, -3.0, 0.75, 1.5):
        totals.append(totals[-1] * x + number)
    dtotal, dx = one * 1, None
    for total in reversed(totals[:-1]):
        dx = dtotal * total if dx is None else dx + dtotal * total
        dtotal = dtotal * x * 1
    return totals[-1], (dx + dtotal * 0.5,)


def gru(h: Any, z: Any, r: Any, candidate: Any) -> Any:
    """A cell's gates: its new state, and what the next candidate is computed of."""
    return (1 - z) * h + z * candidate, r * h


def gru_by_hand(one: Any, h: Any, z: Any, r: Any, candidate: Any) -> Any:
    rest = 1 - z
    dleft, dright = one * 1, one * 1
    dr, dh = one * h, one * r
    dz, dcandidate = dright * candidate, dright * z
    drest = dleft * h
    return (
        (rest * h + z * candidate, r * h),
        (dh + dleft * rest, dz + drest * -1, dr, dcandidate),
    )


def quaternions(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
    """The product of two, by their parts."""
    return (
        a * e - b * f - c * g - d * h,
        a * f + b * e + c * h - d * g,
        a * g - b * h + c * e + d * f,
        a * h + b * g - c * f + d * e,
    )


def quaternions_by_hand(
    one: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any
) -> Any:
    return quaternions(a, b, c, d, e, f, g, h), (
        one * h + one * g + one * f + one * e,
        one * g + one * h * -1 + one * e + one * f * -1,
        one * f * -1 + one * e + one * h + one * g * -1,
        one * e + one * f + one * g * -1 + one * h * -1,
        one * d + one * c + one * b + one * a,
        one * c * -1 + one * d + one * a + one * b * -1,
        one * b + one * a + one * d * -1 + one * c * -1,
        one * a + one * b * -1 + one * c + one * d * -1,
    )


def momentum(w: Any, v: Any, g: Any) -> Any:
    v = 0.9 * v - 0.01 * g
    return w + v, v


def momentum_by_hand(w: Any, v: Any, g: Any) -> Any:
    v *= 0.9
    v -= 0.01 * g
    w += v
    return w, v


def averages(m: Any, v: Any, g: Any) -> Any:
    """Those of an Adam step."""
    return 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * (g * g)


def averages_by_hand(m: Any, v: Any, g: Any) -> Any:
    m *= 0.9
    m += 0.1 * g
    v *= 0.999
    v += 0.001 * (g * g)
    return m, v


class Expression(NamedTuple):
    """A function, the same by hand, the dtype, and the operands' shapes by the number of elements.

    ``parts`` says whether an operand is an array of quaternions, of which the function takes parts.
    """

    function: Callable[..., Any]
    by_hand: Callable[..., Any]
    dtype: str
    shapes: Callable[[int], list[tuple[int, ...]]]
    parts: bool = False

    def operands(self, size: int) -> list[Any]:
        rng = np.random.default_rng(0)
        dtype: Any = np.dtype(self.dtype)
        arrays = [rng.standard_normal(shape, dtype=dtype) for shape in self.shapes(size)]
        return [array[:, i] for array in arrays for i in range(4)] if self.parts else arrays


EXPRESSIONS = {
    "(a*b + c*d)*e": Expression(shop, shop_by_hand, "float64", lambda n: [(n,)] * 5),
    "f*c + g*i": Expression(gates, gates_by_hand, "float32", lambda n: [(n,)] * 4),
    "x*gamma + beta": Expression(
        scale,
        scale_by_hand,
        "float32",
        lambda n: [(max(n // 256, 1), 256), (256,), (256,)],
    ),
    "blending": Expression(
        blend,
        blend_by_hand,
        "float32",
        lambda n: [(max(n // 48, 1), 16, 1), *[(max(n // 48, 1), 16, 3)] * 2],
    ),
    "Horner, degree 8": Expression(horner, horner_by_hand, "float64", lambda n: [(n,)]),
    "GRU cell": Expression(gru, gru_by_hand, "float32", lambda n: [(n,)] * 4),
    "quaternions": Expression(
        quaternions,
        quaternions_by_hand,
        "float64",
        lambda n: [(max(n // 4, 1), 4)] * 2,
        parts=True,
    ),
}


class Update(NamedTuple):
    """A function of three arrays of float32, of which two are its outputs, and the same by hand."""

    function: Callable[..., Any]
    by_hand: Callable[..., Any]

    def operands(self, size: int) -> list[Any]:
        rng = np.random.default_rng(0)
        return [rng.random(size, dtype="float32") for _ in range(3)]


UPDATES = {
    "momentum": Update(momentum, momentum_by_hand),
    "Adam's averages": Update(averages, averages_by_hand),
}
