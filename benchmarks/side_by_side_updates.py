"""The contestants of side_by_side.py that compute an update: two arrays anew, in place.

Each is what somebody who uses its library would write, as a step without arguments that returns the
two arrays. JAX and PyTensor have no arrays that their users change; they may overwrite the last
step's results.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from expressions import UPDATES, Update, averages, momentum

Step = Callable[[], Any]


def start_fastlayers(update: Update, operands: list[Any]) -> Step:
    graph = import_module("fastlayers").Graph(update.function)
    return partial(graph, *operands, out=tuple(operands[:2]))


def start_plain(update: Update, operands: list[Any]) -> Step:
    return partial(update.by_hand, *operands)


def start_torch(update: Update, operands: list[Any]) -> Step:
    torch = import_module("torch")

    # As its optimizers do.
    def momentum(w: Any, v: Any, g: Any) -> Any:
        v.mul_(0.9).sub_(g, alpha=0.01)
        return w.add_(v), v

    def averages(m: Any, v: Any, g: Any) -> Any:
        return m.lerp_(g, 0.1), v.mul_(0.999).addcmul_(g, g, value=0.001)

    by_hand = {"momentum": momentum, "averages": averages}[update.function.__name__]
    return partial(by_hand, *map(torch.from_numpy, operands))


def start_jax(update: Update, operands: list[Any]) -> Step:
    jax = import_module("jax")
    jax.config.update("jax_platforms", "cpu")
    compiled = jax.jit(update.function, donate_argnums=(0, 1))
    *state, gradient = [jax.numpy.array(operand) for operand in operands]
    return handing_on(lambda *state: jax.block_until_ready(compiled(*state, gradient)), state)


def start_numba(update: Update, operands: list[Any]) -> Step:
    numba = import_module("numba")
    prange = numba.prange
    # A number of Python's would make all arithmetic float64.
    a, b, c, d, rate = map(np.float32, (0.9, 0.1, 0.999, 0.001, 0.01))

    def momentum(w: Any, v: Any, g: Any) -> Any:
        for i in prange(w.size):
            v[i] = a * v[i] - rate * g[i]
            w[i] += v[i]
        return w, v

    def averages(m: Any, v: Any, g: Any) -> Any:
        for i in prange(m.size):
            m[i] = a * m[i] + b * g[i]
            v[i] = c * v[i] + d * (g[i] * g[i])
        return m, v

    by_hand = {"momentum": momentum, "averages": averages}[update.function.__name__]
    return partial(numba.njit(parallel=True)(by_hand), *operands)


# Of every output, in their order; `momentum` gives v first, and adds the new one to w.
NUMEXPR = {
    momentum: {"v": "a*v - rate*g", "w": "w + v"},
    averages: {"m": "a*m + b*g", "v": "c*v + d*(g*g)"},
}


def start_numexpr(update: Update, operands: list[Any]) -> Step:
    evaluate = import_module("numexpr").evaluate
    code = update.function.__code__
    names = dict(zip(code.co_varnames, operands, strict=False))
    numbers = {"a": 0.9, "b": 0.1, "c": 0.999, "d": 0.001, "rate": 0.01}
    names |= {name: np.float32(number) for name, number in numbers.items()}
    lines = NUMEXPR[update.function]

    def step() -> Any:
        for name, line in lines.items():
            evaluate(line, names, {}, out=names[name])
        return operands[:2]

    return step


def start_pytensor(update: Update, operands: list[Any]) -> Step:
    pytensor = import_module("pytensor")
    variables = [pytensor.tensor.tensor(dtype=one.dtype, shape=(None,)) for one in operands]
    with pytensor.config.change_flags(floatX="float32"):  # numbers become this
        values = update.function(*variables)
    inputs = [pytensor.In(one, borrow=True, mutable=True) for one in variables[:2]]
    outputs = [pytensor.Out(value, borrow=True) for value in values]
    function = pytensor.function([*inputs, variables[2]], outputs, mode="CVM")
    function.trust_input = True  # the arguments are arrays of the right dtype: they are not checked
    return handing_on(lambda *state: function(*state, operands[2]), operands[:2])


def handing_on(function: Callable[..., Any], state: list[Any]) -> Step:
    """Steps of which each is given the last one's results."""

    def step() -> Any:
        nonlocal state
        state = function(*state)
        return state

    return step


STARTS = {
    "fastlayers": start_fastlayers,
    "plain": start_plain,
    "PyTorch": start_torch,
    "JAX": start_jax,
    "Numba": start_numba,
    "numexpr": start_numexpr,
    "PyTensor": start_pytensor,
}


def start(contestant: str, name: str, operands: tuple[Any, ...]) -> Step:
    return STARTS[contestant](UPDATES[name], list(operands))
