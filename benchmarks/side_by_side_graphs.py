"""The contestants of side_by_side.py that compute an expression's value and all its gradients.

Each is what somebody who uses its library would write, as a step without arguments that returns
``(value, gradients)``. Where a library has no gradients of its own, they are written by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from expressions import EXPRESSIONS, Expression
from side_by_side_floor import FLOOR

Step = Callable[[], tuple[Any, Any]]


def start_fastlayers(expression: Expression, operands: list[Any], dout: Any) -> Step:
    graph = import_module("fastlayers").Graph(expression.function)
    value = expression.function(*(operand[:1] for operand in operands))
    douts = (dout,) * len(value) if isinstance(value, tuple) else dout
    return partial(graph.value_and_grad, *operands, dout=douts)


def start_plain(expression: Expression, operands: list[Any], dout: Any) -> Step:
    return partial(expression.by_hand, dout, *operands)


def start_torch(expression: Expression, operands: list[Any], dout: Any) -> Step:
    torch = import_module("torch")
    tensors = [torch.from_numpy(operand).requires_grad_() for operand in operands]
    one = torch.from_numpy(dout)
    function, grad = expression.function, torch.autograd.grad

    def step() -> tuple[Any, Any]:
        value = function(*tensors)
        if isinstance(value, tuple):
            return value, grad(value, tensors, (one,) * len(value))
        return value, grad(value, tensors, one)

    return step


def start_jax(expression: Expression, operands: list[Any], dout: Any) -> Step:
    jax = import_module("jax")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", expression.dtype == "float64")

    def both(operands: Any, one: Any) -> tuple[Any, Any]:
        value, backward = jax.vjp(expression.function, *operands)
        return value, backward(jax.tree.map(lambda _: one, value))

    compiled = jax.jit(both)
    arrays, one = [jax.numpy.asarray(operand) for operand in operands], jax.numpy.asarray(dout)
    return lambda: jax.block_until_ready(compiled(arrays, one))


def start_numba(expression: Expression, operands: list[Any], dout: Any) -> Step:
    numba = import_module("numba")
    prange = numba.prange

    def shop(one: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
        value, de = np.empty_like(a), np.empty_like(a)
        da, db, dc, dd = np.empty_like(a), np.empty_like(a), np.empty_like(a), np.empty_like(a)
        for i in prange(a.size):
            total = a[i] * b[i] + c[i] * d[i]
            dtotal = one[i] * e[i]
            value[i], de[i] = total * e[i], one[i] * total
            da[i], db[i] = dtotal * b[i], dtotal * a[i]
            dc[i], dd[i] = dtotal * d[i], dtotal * c[i]
        return value, (da, db, dc, dd, de)

    def gates(one: Any, f: Any, c: Any, g: Any, i: Any) -> Any:
        value = np.empty_like(f)
        df, dc, dg, di = np.empty_like(f), np.empty_like(f), np.empty_like(f), np.empty_like(f)
        for k in prange(f.size):
            value[k] = f[k] * c[k] + g[k] * i[k]
            df[k], dc[k] = one[k] * c[k], one[k] * f[k]
            dg[k], di[k] = one[k] * i[k], one[k] * g[k]
        return value, (df, dc, dg, di)

    by_hand = {"shop": shop, "gates": gates}[expression.function.__name__]
    return partial(numba.njit(parallel=True)(by_hand), dout, *operands)


NUMEXPR = {
    "shop": (
        "(a*b + c*d) * e",
        ["one*e*b", "one*e*a", "one*e*d", "one*e*c", "one * (a*b + c*d)"],
    ),
    "gates": ("f*c + g*i", ["one*c", "one*f", "one*i", "one*g"]),
}


def start_numexpr(expression: Expression, operands: list[Any], dout: Any) -> Step:
    evaluate = import_module("numexpr").evaluate
    value, gradients = NUMEXPR[expression.function.__name__]
    code = expression.function.__code__
    names = dict(zip(code.co_varnames[: code.co_argcount], operands, strict=True))
    names["one"] = dout
    # The names are given: finding them in the caller's frame would take longer.
    return lambda: (
        evaluate(value, names, {}),
        [evaluate(gradient, names, {}) for gradient in gradients],
    )


def start_pytensor(expression: Expression, operands: list[Any], dout: Any) -> Step:
    pytensor = import_module("pytensor")
    variables = [
        pytensor.tensor.tensor(dtype=one.dtype, shape=[1 if n == 1 else None for n in one.shape])
        for one in (*operands, dout)
    ]
    *inputs, one = variables
    value = expression.function(*inputs)
    values = value if isinstance(value, tuple) else (value,)
    gradients = pytensor.grad(None, inputs, known_grads=dict.fromkeys(values, one))
    function = pytensor.function(variables, [*values, *gradients], mode="CVM")
    function.trust_input = True  # the arguments are arrays of the right dtype: they are not checked
    return lambda: function(*operands, dout)


STARTS = {
    "fastlayers": start_fastlayers,
    "plain": start_plain,
    "PyTorch": start_torch,
    "JAX": start_jax,
    "Numba": start_numba,
    "numexpr": start_numexpr,
    "PyTensor": start_pytensor,
}
BY_HAND = "Numba", "numexpr"


def contestants_of(expression: str) -> tuple[str, ...]:
    """Those who compute it: where gradients are by hand, someone has to have written them."""
    if EXPRESSIONS[expression].function.__name__ in NUMEXPR:
        return *STARTS, FLOOR
    return tuple([name for name in STARTS if name not in BY_HAND])
