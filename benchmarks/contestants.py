"""Who computes the cases of cases.py. To add a contestant, write a class, and enter it in
`CONTESTANTS`; where it cannot take a case's function, give the case a variant for it.

A contestant does what somebody who uses its library would write, and returns the library's own
arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from shutil import which
from typing import Any

import numpy as np
from cases import FACTORS, Case
from floor import Floor

# Runs so many steps a turn, and yields the last one's results.
Turns = Callable[[int], Iterator[Any]]
Step = Callable[[], Any]


@dataclass(frozen=True)
class Contestant:
    """Computes cases of some kinds: see `Case`.

    ``layer``, which layouts and sums are for too, returns a layer and its operands, as arrays of
    the library's. ``graph``, which is given dout first, returns a step without arguments that
    returns the value and the gradients; ``update`` a step that returns the two arrays.
    """

    name: str
    module: str  # what it needs; also the name of the distribution
    kinds: tuple[str, ...]
    colour: str = ""  # in charts, if it is drawn there
    # A size after a smaller one finds a grown heap, which is only ever faster (plain NumPy at 30k
    # elements several times). Those that take seconds to import and to compile are allowed that.
    process_per_size: bool = False
    program: str = ""  # what it needs besides

    def is_here(self) -> bool:
        return bool(find_spec(self.module) and (not self.program or which(self.program)))

    def competes(self, case: Case) -> bool:
        return case.kind in self.kinds

    def function(self, case: Case) -> Any:
        return case.variants.get(self.name, case.function)

    def turns(self, case: Case, operands: list[Any]) -> Turns:
        method = case.kind if case.kind in ("graph", "update") else "layer"
        started = getattr(self, method)(case, *operands)
        return partial(stepping, *started) if method == "layer" else partial(calling, started)


def stepping(layer: Any, operands: Any, steps: int) -> Iterator[Any]:
    """Step with a layer.

    The variables keep a step's results until the next one's replace them, from turn to turn too, as
    a training loop's do: when old results die decides which memory the new ones get.
    """
    x, y, dout = operands
    while True:
        for _ in range(steps):
            out = layer.forward(x, y)
            dx, dy = layer.backward(dout)
        yield out, dx, dy


def calling(step: Step, steps: int) -> Iterator[Any]:
    """The same for a step that returns all results."""
    while True:
        for _ in range(steps):
            results = step()
        yield results


def handing_on(function: Callable[..., Any], state: Any) -> Step:
    """Steps of which each is given the last one's results: no array is changed by its user."""

    def step() -> Any:
        nonlocal state
        state = function(*state)
        return state

    return step


class Layer:
    """What one writes with a library's functions of the value and of the gradients."""

    def __init__(self, value: Callable[..., Any], gradients: Callable[..., Any]) -> None:
        self.value, self.gradients = value, gradients

    def forward(self, x: Any, y: Any) -> Any:
        self.x = x
        self.y = y
        self.out = self.value(x, y)
        return self.out

    def backward(self, dout: Any) -> Any:
        return self.gradients(dout, self.x, self.y)


class Fastlayers(Contestant):
    @property
    def package(self) -> Any:
        fastlayers = import_module("fastlayers")
        if fastlayers.IMPLEMENTATION != "native":
            raise RuntimeError("fastlayers runs on plain NumPy; unset FASTLAYERS_IMPLEMENTATION")
        return fastlayers

    def layer(self, case: Case, *operands: Any) -> tuple[Any, Any]:
        options = {"sum_to_shape": True} if case.kind == "sums" else {}
        return getattr(self.package, case.title)(**options), operands

    def graph(self, case: Case, dout: Any, *operands: Any) -> Step:
        douts = dout if case.outputs == 1 else (dout,) * case.outputs
        return partial(self.package.Graph(case.function).value_and_grad, *operands, dout=douts)

    def update(self, case: Case, *operands: Any) -> Step:
        return partial(self.package.Graph(case.function), *operands, out=operands[:2])


class Plain(Contestant):
    def layer(self, case: Case, *operands: Any) -> tuple[Any, Any]:
        if case.kind == "sums":
            return Layer(case.function, case.variants.get(self.name, case.by_hand)), operands
        variant = case.variants.get(self.name)
        return (variant(operands[0]) if variant else case.by_hand()), operands

    def graph(self, case: Case, *operands: Any) -> Step:
        return partial(case.by_hand, *operands)

    update = graph


class PyTorch(Contestant):
    def layer(self, case: Case, *operands: Any) -> tuple[Any, Any]:
        torch = import_module("torch")
        grad = torch.autograd.grad
        layer = Layer(self.function(case), lambda dout, x, y: grad(layer.out, (x, y), dout))
        x, y, dout = map(torch.from_numpy, operands)
        return layer, (x.requires_grad_(), y.requires_grad_(), dout)

    def graph(self, case: Case, dout: Any, *operands: Any) -> Step:
        torch = import_module("torch")
        function, grad = self.function(case), torch.autograd.grad
        tensors = [torch.from_numpy(operand).requires_grad_() for operand in operands]
        douts = (torch.from_numpy(dout),) * case.outputs

        def step() -> tuple[Any, Any]:
            value = function(*tensors)
            return value, grad(value, tensors, douts)

        return step

    def update(self, case: Case, *operands: Any) -> Step:
        return partial(self.function(case), *map(import_module("torch").from_numpy, operands))


class Jax(Contestant):
    def package(self, case: Case) -> Any:
        jax = import_module("jax")
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", case.dtype == "float64")
        return jax

    def layer(self, case: Case, *operands: Any) -> tuple[Any, Any]:
        """Two compiled calls, as a layer has to make: dout is not known before out is."""
        jax, function = self.package(case), self.function(case)
        compiled = jax.jit(lambda dout, x, y: jax.vjp(function, x, y)[1](dout))

        def gradients(dout: Any, x: Any, y: Any) -> Any:
            dx, dy = compiled(dout, x, y)
            # Here, not in forward: the two calls may overlap.
            for result in (layer.out, dx, dy):
                result.block_until_ready()
            return dx, dy

        layer = Layer(jax.jit(function), gradients)
        return layer, [*map(jax.numpy.asarray, operands)]

    def graph(self, case: Case, *operands: Any) -> Step:
        jax, function = self.package(case), self.function(case)

        def both(operands: Any, dout: Any) -> tuple[Any, Any]:
            value, backward = jax.vjp(function, *operands)
            return value, backward(jax.tree.map(lambda _: dout, value))

        compiled = jax.jit(both)
        dout, *arrays = map(jax.numpy.asarray, operands)
        return lambda: jax.block_until_ready(compiled(arrays, dout))

    def update(self, case: Case, *operands: Any) -> Step:
        jax = self.package(case)
        compiled = jax.jit(self.function(case), donate_argnums=(0, 1))
        *state, gradient = map(jax.numpy.array, operands)
        return handing_on(lambda *state: jax.block_until_ready(compiled(*state, gradient)), state)


class Numba(Contestant):
    def competes(self, case: Case) -> bool:
        return super().competes(case) and bool(case.loops)

    def loops(self, case: Case) -> list[Any]:
        module = import_module("numba_loops")
        return [getattr(module, name) for name in case.loops]

    def layer(self, case: Case, *operands: Any) -> tuple[Any, Any]:
        return Layer(*self.loops(case)), operands

    def graph(self, case: Case, *operands: Any) -> Step:
        return partial(*self.loops(case), *operands)

    update = graph


class Numexpr(Contestant):
    """A variant has expressions: the value's and the gradients', of an update one by output.

    The names are given: finding them in the caller's frame would take longer.
    """

    def competes(self, case: Case) -> bool:
        return super().competes(case) and self.name in case.variants

    def layer(self, case: Case, *operands: Any) -> tuple[Any, Any]:
        evaluate = import_module("numexpr").evaluate
        out, dx, dy = case.variants[self.name]

        def gradients(dout: Any, x: Any, y: Any) -> tuple[Any, Any]:
            names = {"x": x, "y": y, "dout": dout}
            return evaluate(dx, names, {}), evaluate(dy, names, {})

        return Layer(lambda x, y: evaluate(out, {"x": x, "y": y}, {}), gradients), operands

    def graph(self, case: Case, *operands: Any) -> Step:
        evaluate = import_module("numexpr").evaluate
        value, *gradients = case.variants[self.name]
        names = dict(zip(["dout", *signature(case.function).parameters], operands, strict=True))
        return lambda: (
            evaluate(value, names, {}),
            [evaluate(gradient, names, {}) for gradient in gradients],
        )

    def update(self, case: Case, *operands: Any) -> Step:
        evaluate = import_module("numexpr").evaluate
        names = dict(zip(signature(case.function).parameters, operands, strict=True))
        names |= {name: np.float32(factor) for name, factor in FACTORS.items()}
        lines = case.variants[self.name]

        def step() -> Any:
            for name, line in lines.items():
                evaluate(line, names, {}, out=names[name])
            return operands[:2]

        return step


class PyTensor(Contestant):
    def compiled(self, inputs: Any, outputs: Any) -> Any:
        function = import_module("pytensor").function(inputs, outputs, mode="CVM")
        function.trust_input = True  # arrays of the right dtype: they are not checked
        return function

    def graph(self, case: Case, *operands: Any) -> Step:
        pytensor = import_module("pytensor")
        shapes = [[1 if n == 1 else None for n in operand.shape] for operand in operands]
        variables = [pytensor.tensor.tensor(dtype=case.dtype, shape=shape) for shape in shapes]
        dout, *inputs = variables
        value = self.function(case)(*inputs)
        values = value if isinstance(value, tuple) else (value,)
        gradients = pytensor.grad(None, inputs, known_grads=dict.fromkeys(values, dout))
        return partial(self.compiled(variables, [*values, *gradients]), *operands)

    def update(self, case: Case, *operands: Any) -> Step:
        pytensor = import_module("pytensor")
        variables = [pytensor.tensor.tensor(dtype=case.dtype, shape=(None,)) for _ in operands]
        with pytensor.config.change_flags(floatX=case.dtype):  # numbers become this
            values = self.function(case)(*variables)
        inputs = [pytensor.In(one, borrow=True, mutable=True) for one in variables[:2]]
        outputs = [pytensor.Out(value, borrow=True) for value in values]
        function = self.compiled([*inputs, variables[2]], outputs)
        return handing_on(lambda *state: function(*state, operands[2]), operands[:2])


class C(Numba):
    """The floor, and no contestant: its loops step by themselves."""

    def turns(self, case: Case, operands: list[Any]) -> Turns:
        return Floor(case.loops, operands).turns


# In the order of the tables' columns. The gradients of PyTorch and JAX have the shapes of the
# operands: of layouts they would be given a sum to do that the plain layer does not. Colours: Okabe
# and Ito's, which colour-blind people tell apart.
ALL = "layer", "layout", "sums", "graph", "update"
CONTESTANTS: dict[str, Contestant] = {
    contestant.name: contestant
    for contestant in (
        Fastlayers("fastlayers", "fastlayers", ALL, "#D55E00", process_per_size=True),
        Plain("plain", "numpy", ("layer", "layout", "graph", "update"), process_per_size=True),
        Plain("plain, out=", "numpy", ("layer",), "#000000"),
        PyTorch("PyTorch", "torch", ("layer", "sums", "graph", "update"), "#0072B2"),
        Jax("JAX", "jax", ("layer", "sums", "graph", "update"), "#009E73"),
        Numba("Numba", "numba", ("layer", "graph", "update"), "#CC79A7"),
        Numexpr("numexpr", "numexpr", ("layer", "graph", "update"), "#E69F00"),
        PyTensor("PyTensor", "pytensor", ("graph", "update"), "#56B4E9"),
        C("C", "numpy", ("layer", "graph"), program="cc"),
        Plain("np.sum", "numpy", ("sums",), process_per_size=True),
        Plain("np.einsum", "numpy", ("sums",), process_per_size=True),
    )
}
