"""Who computes the cases of cases.py. To add a contestant, write a class, and enter it in
`CONTESTANTS`; where it cannot take a case's function, give the case a variant for it.

A contestant does what somebody who uses its library would write, and returns the library's own
arrays.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from inspect import signature
from shutil import which
from types import ModuleType
from typing import Any

import functions
import numpy as np
from cases import FACTORS, FUNCTIONS, Case
from floor import Floor

# Runs so many steps a turn, and yields the last one's results.
Turns = Callable[[int], Iterator[Any]]
Step = Callable[[], Any]


@dataclass(frozen=True)
class Contestant:
    """Computes cases of some kinds: see `Case`.

    ``layer``, which layouts and sums are for too, returns a layer and its operands, as arrays of
    the library's. ``graph``, which functions are for too, is given dout first, or None for ones,
    and returns a step without arguments that returns the value and the gradients; ``update`` a step
    that returns the new arrays.
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
        if case.kind in ("layer", "layout", "sums"):
            return partial(stepping, *self.layer(case, *operands))
        if case.kind == "update" or case.wrt == ():
            return partial(calling, self.update(case, *operands))
        start = [] if case.kind == "graph" or case.dout else [None]
        return partial(calling, self.graph(case, *start, *operands))


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


def split(function: Callable[..., Any], places: Any, operands: Any) -> tuple[Any, Any]:
    """Return the function of the operands at these places, and these."""

    def of_wanted(*wanted: Any) -> Any:
        given = dict(zip(places, wanted, strict=True))
        return function(*[given.get(place, one) for place, one in enumerate(operands)])

    return of_wanted, [operands[place] for place in places]


def with_names(case: Case, **names: Any) -> Any:
    """Return the case's function with other libraries under names of functions.py, as np."""
    if case.kind not in FUNCTIONS:
        return case.function
    spec: Any = spec_from_file_location("functions_again", functions.__file__)
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module).update(names)
    return getattr(module, case.function.__name__)


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


@dataclass(frozen=True)
class Fastlayers(Contestant):
    """Without llvmlite, or with chains of steps compiled before the first step is run."""

    implementation: str = "native"
    compile: str = "0"

    @property
    def package(self) -> Any:
        os.environ["FASTLAYERS_IMPLEMENTATION"] = self.implementation
        os.environ["FASTLAYERS_COMPILE"] = self.compile
        return import_module("fastlayers")

    def layer(self, case: Case, *operands: Any) -> tuple[Any, Any]:
        options = {"sum_to_shape": True} if case.kind == "sums" else {}
        return getattr(self.package, case.title)(**options), operands

    def graph(self, case: Case, dout: Any, *operands: Any) -> Step:
        graph = self.package.Graph(case.function)
        if dout is None:
            return partial(graph.value_and_grad, *operands, wrt=case.wrt)
        douts = dout if case.outputs == 1 else (dout,) * case.outputs
        return partial(graph.value_and_grad, *operands, dout=douts, wrt=case.wrt)

    def update(self, case: Case, *operands: Any) -> Step:
        return partial(self.package.Graph(case.function), *operands, out=operands[: case.outputs])


class Plain(Contestant):
    def layer(self, case: Case, *operands: Any) -> tuple[Any, Any]:
        if case.kind == "sums":
            return Layer(case.function, case.variants.get(self.name, case.by_hand)), operands
        variant = case.variants.get(self.name)
        return (variant(operands[0]) if variant else case.by_hand()), operands

    def graph(self, case: Case, dout: Any, *operands: Any) -> Step:
        return self.update(case, *operands if dout is None else (dout, *operands))

    def update(self, case: Case, *operands: Any) -> Step:
        return partial(case.by_hand, *operands)


class Autograd(Contestant):
    def competes(self, case: Case) -> bool:
        return super().competes(case) and case.wrt != ()

    def graph(self, case: Case, dout: Any, *operands: Any) -> Step:
        autograd = import_module("autograd")
        names = {"np": import_module("autograd.numpy")}
        if find_spec("scipy"):
            names["erf"] = import_module("autograd.scipy.special").erf
        function = with_names(case, **names)
        tuples = import_module("autograd.builtins").tuple
        several = function if case.outputs == 1 else lambda *given: tuples(function(*given))
        both = autograd.make_vjp(several, case.wanted)

        def step() -> tuple[Any, Any]:
            backward, value = both(*operands)
            if case.outputs > 1:
                return value, backward(tuple(map(np.ones_like, value)))
            return value, backward(np.ones_like(value) if dout is None else dout)

        return step


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


class TorchCompile(Contestant):
    """The value and the gradients as one function, compiled for each shape."""

    def compiled(self, function: Callable[..., Any]) -> Any:
        torch = import_module("torch")
        torch.compiler.reset()  # it keeps few versions of a function
        return torch.compile(function, dynamic=False, fullgraph=True)

    def function(self, case: Case) -> Any:
        """With PyTorch's names for what NumPy's functions are called, or take, in functions.py."""
        torch = import_module("torch")
        names = ModuleType("names")
        vars(names).update(vars(torch))
        vars(names).update(
            max=torch.amax,
            maximum=lambda x, number: x.clamp(min=number),
            logaddexp=lambda x, _: torch.nn.functional.softplus(x),
        )
        return with_names(case, np=names, erf=torch.erf)

    def graph(self, case: Case, dout: Any, *operands: Any) -> Step:
        torch, function = import_module("torch"), self.function(case)
        tree_map, places = import_module("torch.utils._pytree").tree_map, case.wanted

        def both(dout: Any, *operands: Any) -> tuple[Any, Any]:
            of_wanted, wanted = split(function, places, operands)
            value, backward = torch.func.vjp(of_wanted, *wanted)
            return value, backward(tree_map(torch.ones_like, value) if dout is None else dout)

        tensors = [one if one is None else torch.from_numpy(one) for one in (dout, *operands)]
        return partial(self.compiled(both), *tensors)

    def update(self, case: Case, *operands: Any) -> Step:
        function = self.function(case)

        def step(*operands: Any) -> Any:
            for old, new in zip(operands, function(*operands), strict=False):
                old.copy_(new)
            return operands[: case.outputs]

        return partial(self.compiled(step), *map(import_module("torch").from_numpy, operands))


class Jax(Contestant):
    def package(self, case: Case) -> Any:
        jax = import_module("jax")
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", case.dtype == "float64")
        return jax

    def function(self, case: Case) -> Any:
        special = import_module("jax.scipy.special")
        return with_names(case, np=import_module("jax.numpy"), erf=special.erf)

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
        jax, function, places = self.package(case), self.function(case), case.wanted

        def both(operands: Any, dout: Any) -> tuple[Any, Any]:
            of_wanted, wanted = split(function, places, operands)
            value, backward = jax.vjp(of_wanted, *wanted)
            start = jax.numpy.ones_like if dout is None else lambda _: dout
            return value, backward(jax.tree.map(start, value))

        compiled = jax.jit(both)
        dout, *arrays = jax.tree.map(jax.numpy.asarray, operands)
        return lambda: jax.block_until_ready(compiled(arrays, dout))

    def update(self, case: Case, *operands: Any) -> Step:
        jax = self.package(case)
        compiled = jax.jit(self.function(case), donate_argnums=range(case.outputs))
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
ALL = "layer", "layout", "sums", "graph", "update", *FUNCTIONS
CONTESTANTS: dict[str, Contestant] = {
    contestant.name: contestant
    for contestant in (
        Fastlayers("fastlayers", "fastlayers", ALL, "#D55E00", process_per_size=True),
        Fastlayers(
            "with llvmlite", "llvmlite", ("graph", "update", *FUNCTIONS), "#882255",
            process_per_size=True, compile="always",
        ),
        Plain(
            "plain", "numpy", ("layer", "layout", "graph", "update", *FUNCTIONS),
            process_per_size=True,
        ),
        Plain("plain, out=", "numpy", ("layer",), "#000000"),
        PyTorch("PyTorch", "torch", ("layer", "sums", "graph", "update"), "#0072B2"),
        Jax("JAX", "jax", ("layer", "sums", "graph", "update", *FUNCTIONS), "#009E73"),
        TorchCompile("torch.compile", "torch", FUNCTIONS, "#0072B2", program="cc"),
        Numba("Numba", "numba", ("layer", "graph", "update"), "#CC79A7"),
        Numexpr("numexpr", "numexpr", ("layer", "graph", "update"), "#E69F00"),
        PyTensor("PyTensor", "pytensor", ("graph", "update"), "#56B4E9"),
        C("C", "numpy", ("layer", "graph"), program="cc"),
        # The same gradients as of a graph, in NumPy, node by node.
        Fastlayers(
            "by rule", "fastlayers", FUNCTIONS, process_per_size=True, implementation="reference"
        ),
        Autograd("autograd", "autograd", FUNCTIONS, "#999999", process_per_size=True),
        Plain("np.sum", "numpy", ("sums",), process_per_size=True),
        Plain("np.einsum", "numpy", ("sums",), process_per_size=True),
    )
}  # fmt: skip
