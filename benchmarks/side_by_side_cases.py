"""What side_by_side.py measures: the contestants, the sizes, and the operands of every case.

A contestant is the layer that somebody who uses its library would write: `forward` keeps what
`backward` needs, and both return their library's own arrays. For whole expressions see
side_by_side_graphs.py, for updates in place side_by_side_updates.py.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from shutil import which
from typing import Any, NamedTuple

import numpy as np
import side_by_side_graphs as graphs
import side_by_side_updates as updates
from expressions import EXPRESSIONS, UPDATES
from side_by_side_floor import FLOOR, Floor

# Peers are optional, and some have no types: mypy need not find them.
Layer = Any
Operands = tuple[Any, ...]  # x, y, dout


class Group(NamedTuple):
    """Cases that differ only in size, and that make one table, or one column of it.

    ``layer`` is the layer's name or, of the layouts ``graph`` and ``update``, an expression's or an
    update's.
    """

    layer: str
    dtype: str
    layout: str
    sum_to_shape: bool = False

    @property
    def sizes(self) -> Mapping[str, Any]:
        if self.layout in ("graph", "update"):
            return {size: SIZES[size] for size in GRAPH_SIZES}
        if self.sum_to_shape:
            return {"1M": SHAPES["1M"]}
        return SIZES if self.layout == "same" else SHAPES

    @property
    def contestants(self) -> tuple[str, ...]:
        if self.layout == "graph":
            return graphs.contestants_of(self.layer)
        if self.layout == "update":
            return tuple(updates.STARTS)
        if self.sum_to_shape:
            return "fastlayers", "np.sum", "np.einsum", "PyTorch", "JAX"
        if self.layout == "same":
            several = "fastlayers", "plain", "plain, out=", "PyTorch", "JAX", "Numba", "numexpr"
            return *several, FLOOR
        # The gradients of PyTorch and JAX have the shapes of the operands: they would be given a
        # sum to do that the plain layers do not. They compete where fastlayers sums too.
        return "fastlayers", "plain"


# Elements. From 30k to 2M are the sizes at which NumPy's time goes into fresh memory.
SIZES = {
    "1": 1,
    "100": 100,
    "1k": 1_000,
    "4k": 4_096,
    "10k": 10_000,
    "16k": 16_384,
    "30k": 30_000,
    "65k": 65_536,
    "131k": 131_072,
    "262k": 262_144,
    "524k": 524_288,
    "1M": 1_048_576,
    "2M": 2_097_152,
    "4M": 4_194_304,
    "16.7M": 16_777_216,
}

# Python's, as x, y and dout.
NUMBERS = {"int": (100, 2, 3), "float": (100.0, 2.5, 1.1)}

GRAPH_SIZES = "100", "1k", "10k", "65k", "262k", "1M", "4M"

# (B, F): a batch of rows of features.
SHAPES = {
    "1k": (10, 100),
    "10k": (100, 100),
    "100k": (250, 400),
    "1M": (1024, 1024),
    "4M": (4096, 1024),
}

GROUPS = {
    "mul-float64": Group("MulLayer", "float64", "same"),
    "mul-float32": Group("MulLayer", "float32", "same"),
    "add-float64": Group("AddLayer", "float64", "same"),
    "add-float32": Group("AddLayer", "float32", "same"),
    "row": Group("MulLayer", "float64", "row"),
    "column": Group("MulLayer", "float64", "column"),
    "scalar": Group("MulLayer", "float64", "scalar"),
    "fortran": Group("MulLayer", "float64", "fortran"),
    "strided": Group("MulLayer", "float64", "strided"),
    "transposed": Group("MulLayer", "float64", "transposed"),
    "sum-row": Group("MulLayer", "float64", "row", sum_to_shape=True),
    "sum-column": Group("MulLayer", "float64", "column", sum_to_shape=True),
    **{
        f"graph-{expression.function.__name__}": Group(name, expression.dtype, "graph")
        for name, expression in EXPRESSIONS.items()
    },
    **{
        f"update-{update.function.__name__}": Group(name, "float32", "update")
        for name, update in UPDATES.items()
    },
}


def make_operands(group: Group, size: str) -> Operands:
    """Return x, y and dout as NumPy arrays, made without a temporary that is larger than they are.

    Of an expression, return all operands and one gradient, of ones, for every output; of an update
    its operands.

    Once a large block has been freed, glibc raises the size from which it asks the kernel for fresh
    pages, and the layers would be measured on a heap that no longer is as the process found it.
    """
    rng = np.random.default_rng(0)
    dtype: Any = np.dtype(group.dtype)

    def random(*shape: int) -> Any:
        return rng.random(shape, dtype)

    if group.layout == "graph":
        expression = EXPRESSIONS[group.layer]
        operands = expression.operands(SIZES[size])
        shape = np.broadcast_shapes(*(operand.shape for operand in operands))
        return (*operands, np.ones(shape, dtype))
    if group.layout == "update":
        return tuple(UPDATES[group.layer].operands(SIZES[size]))
    if group.layout == "same":
        n = SIZES[size]
        return random(n), random(n), random(n)
    rows, columns = SHAPES[size]
    match group.layout:
        case "row":
            return random(rows, columns), random(columns), random(rows, columns)
        case "column":
            return random(rows, columns), random(rows, 1), random(rows, columns)
        case "scalar":
            return random(rows, columns), 2.5, random(rows, columns)
        case "fortran":
            return random(columns, rows).T, random(columns, rows).T, random(columns, rows).T
        case "strided":  # as the gates of an LSTM are cut from one array
            x, y = (random(rows, 2 * columns)[:, :columns] for _ in range(2))
            return x, y, random(rows, columns)
        case "transposed":
            return random(rows, columns), random(columns, rows).T, random(rows, columns)
    raise ValueError(f"unknown layout {group.layout!r}")


class PlainMulLayer:
    """The multiplication layer of Deep Learning from Scratch."""

    def forward(self, x: Any, y: Any) -> Any:
        self.x = x
        self.y = y
        return x * y

    def backward(self, dout: Any) -> tuple[Any, Any]:
        dx = dout * self.y
        dy = dout * self.x
        return dx, dy


class PlainAddLayer:
    """The addition layer of Deep Learning from Scratch."""

    def forward(self, x: Any, y: Any) -> Any:
        self.x = x
        self.y = y
        return x + y

    def backward(self, dout: Any) -> tuple[Any, Any]:
        dx = dout * 1
        dy = dout * 1
        return dx, dy


class OutMulLayer:
    """Plain NumPy into arrays allocated once: the results are overwritten by the next step."""

    def __init__(self, x: Any) -> None:
        self.out, self.dx, self.dy = (np.empty_like(x) for _ in range(3))

    def forward(self, x: Any, y: Any) -> Any:
        self.x = x
        self.y = y
        return np.multiply(x, y, out=self.out)

    def backward(self, dout: Any) -> tuple[Any, Any]:
        return np.multiply(dout, self.y, out=self.dx), np.multiply(dout, self.x, out=self.dy)


class OutAddLayer:
    def __init__(self, x: Any) -> None:
        self.out, self.dx, self.dy = (np.empty_like(x) for _ in range(3))

    def forward(self, x: Any, y: Any) -> Any:
        return np.add(x, y, out=self.out)

    def backward(self, dout: Any) -> tuple[Any, Any]:
        np.copyto(self.dx, dout)
        np.copyto(self.dy, dout)
        return self.dx, self.dy


class SumMulLayer(PlainMulLayer):
    """The plain layer, with dy summed to the shape of y: (F,) or (B, 1)."""

    def backward(self, dout: Any) -> tuple[Any, Any]:
        dx = dout * self.y
        if self.y.ndim == 1:
            dy = np.sum(dout * self.x, axis=0)
        else:
            dy = np.sum(dout * self.x, axis=1, keepdims=True)
        return dx, dy


class EinsumMulLayer(PlainMulLayer):
    """The same without the temporary."""

    def backward(self, dout: Any) -> tuple[Any, Any]:
        dx = dout * self.y
        if self.y.ndim == 1:
            dy = np.einsum("bf,bf->f", dout, self.x)
        else:
            dy = np.einsum("bf,bf->b", dout, self.x)[:, np.newaxis]
        return dx, dy


class TorchLayer:
    def __init__(self, torch: Any, operation: Callable[[Any, Any], Any]) -> None:
        self.grad = torch.autograd.grad
        self.operation = operation

    def forward(self, x: Any, y: Any) -> Any:
        self.x = x
        self.y = y
        self.out = self.operation(x, y)
        return self.out

    def backward(self, dout: Any) -> tuple[Any, Any]:
        dx, dy = self.grad(self.out, (self.x, self.y), dout)
        return dx, dy


class JaxLayer:
    """Two compiled calls, as a layer has to make: dout is not known before out is."""

    def __init__(self, jax: Any, operation: Callable[[Any, Any], Any]) -> None:
        self.compiled_forward = jax.jit(operation)
        self.compiled_backward = jax.jit(lambda x, y, dout: jax.vjp(operation, x, y)[1](dout))

    def forward(self, x: Any, y: Any) -> Any:
        self.x = x
        self.y = y
        self.out = self.compiled_forward(x, y)
        return self.out

    def backward(self, dout: Any) -> tuple[Any, Any]:
        dx, dy = self.compiled_backward(self.x, self.y, dout)
        # Here, not in forward: the two calls may overlap.
        for result in (self.out, dx, dy):
            result.block_until_ready()
        return dx, dy


class NumbaLayer:
    def __init__(self, numba: Any, layer: str) -> None:
        prange = numba.prange

        def multiply(x: Any, y: Any) -> Any:
            out = np.empty_like(x)
            for i in prange(x.size):
                out[i] = x[i] * y[i]
            return out

        def multiply_backward(dout: Any, x: Any, y: Any) -> Any:
            dx, dy = np.empty_like(dout), np.empty_like(dout)
            for i in prange(dout.size):
                dx[i] = dout[i] * y[i]
                dy[i] = dout[i] * x[i]
            return dx, dy

        def add(x: Any, y: Any) -> Any:
            out = np.empty_like(x)
            for i in prange(x.size):
                out[i] = x[i] + y[i]
            return out

        def add_backward(dout: Any, x: Any, y: Any) -> Any:
            dx, dy = np.empty_like(dout), np.empty_like(dout)
            for i in prange(dout.size):
                dx[i] = dout[i]
                dy[i] = dout[i]
            return dx, dy

        functions = (multiply, multiply_backward) if layer == "MulLayer" else (add, add_backward)
        compiled = numba.njit(parallel=True)
        self.compiled_forward, self.compiled_backward = map(compiled, functions)

    def forward(self, x: Any, y: Any) -> Any:
        self.x = x
        self.y = y
        return self.compiled_forward(x, y)

    def backward(self, dout: Any) -> Any:
        return self.compiled_backward(dout, self.x, self.y)


class NumexprLayer:
    def __init__(self, numexpr: Any, layer: str) -> None:
        self.evaluate = numexpr.evaluate
        multiplies = layer == "MulLayer"
        self.out = "x * y" if multiplies else "x + y"
        self.dx = "dout * y" if multiplies else "dout * 1"
        self.dy = "dout * x" if multiplies else "dout * 1"

    # The names are given: finding them in the caller's frame would take longer.
    def forward(self, x: Any, y: Any) -> Any:
        self.x = x
        self.y = y
        return self.evaluate(self.out, {"x": x, "y": y}, {})

    def backward(self, dout: Any) -> tuple[Any, Any]:
        operands = {"x": self.x, "y": self.y, "dout": dout}
        return self.evaluate(self.dx, operands, {}), self.evaluate(self.dy, operands, {})


def start_fastlayers(group: Group, operands: Operands) -> tuple[Layer, Operands]:
    fastlayers = import_module("fastlayers")
    if fastlayers.IMPLEMENTATION != "native":
        raise RuntimeError("fastlayers runs on plain NumPy; unset FASTLAYERS_IMPLEMENTATION")
    layer = getattr(fastlayers, group.layer)
    if not group.sum_to_shape:
        return layer(), operands
    try:
        return layer(sum_to_shape=True), operands
    except TypeError as error:
        raise RuntimeError(
            f"fastlayers {fastlayers.__version__} has no {group.layer}(sum_to_shape=True)"
        ) from error


def start_plain(group: Group, operands: Operands) -> tuple[Layer, Operands]:
    return (PlainMulLayer() if group.layer == "MulLayer" else PlainAddLayer()), operands


def start_plain_out(group: Group, operands: Operands) -> tuple[Layer, Operands]:
    layer = OutMulLayer if group.layer == "MulLayer" else OutAddLayer
    return layer(operands[0]), operands


def start_sum(group: Group, operands: Operands) -> tuple[Layer, Operands]:
    return SumMulLayer(), operands


def start_einsum(group: Group, operands: Operands) -> tuple[Layer, Operands]:
    return EinsumMulLayer(), operands


def start_torch(group: Group, operands: Operands) -> tuple[Layer, Operands]:
    torch = import_module("torch")
    x, y, dout = (torch.from_numpy(operand) for operand in operands)
    layer = TorchLayer(torch, operator.mul if group.layer == "MulLayer" else operator.add)
    return layer, (x.requires_grad_(), y.requires_grad_(), dout)


def start_jax(group: Group, operands: Operands) -> tuple[Layer, Operands]:
    jax = import_module("jax")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", group.dtype == "float64")
    x, y, dout = (jax.numpy.asarray(operand) for operand in operands)
    layer = JaxLayer(jax, operator.mul if group.layer == "MulLayer" else operator.add)
    return layer, (x, y, dout)


def start_numba(group: Group, operands: Operands) -> tuple[Layer, Operands]:
    return NumbaLayer(import_module("numba"), group.layer), operands


def start_numexpr(group: Group, operands: Operands) -> tuple[Layer, Operands]:
    return NumexprLayer(import_module("numexpr"), group.layer), operands


@dataclass(frozen=True)
class Contestant:
    # Makes a layer, and operands of its own; not of those that compute expressions alone.
    start: Callable[[Group, Operands], tuple[Layer, Operands]] | None
    module: str  # what it needs; also the name of the distribution
    # A size after a smaller one finds a grown heap, which is only ever faster (plain NumPy at 30k
    # elements several times). Those that take seconds to import and to compile are allowed that.
    process_per_size: bool
    program: str | None = None  # what it needs besides

    @property
    def needs(self) -> str:
        return self.program or f"the module {self.module}"

    def is_here(self) -> bool:
        return bool(find_spec(self.module) and (not self.program or which(self.program)))


# Runs so many steps a turn, and yields the last one's results.
Turns = Callable[[int], Iterator[Any]]


def start(contestant: str, group: Group, operands: Operands) -> Turns:
    if contestant == FLOOR:
        return Floor(group.layer, operands).turns
    if group.layout == "graph":
        *given, dout = operands
        return partial(calling, graphs.STARTS[contestant](EXPRESSIONS[group.layer], given, dout))
    if group.layout == "update":
        return partial(calling, updates.start(contestant, group.layer, operands))
    start_layer = CONTESTANTS[contestant].start
    assert start_layer is not None
    return partial(stepping, *start_layer(group, operands))


def stepping(layer: Layer, operands: Operands, steps: int) -> Iterator[Any]:
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


def calling(step: graphs.Step, steps: int) -> Iterator[Any]:
    """The same for an expression's step, which returns all results."""
    while True:
        for _ in range(steps):
            results = step()
        yield results


CONTESTANTS = {
    "fastlayers": Contestant(start_fastlayers, "fastlayers", True),
    "plain": Contestant(start_plain, "numpy", True),
    "plain, out=": Contestant(start_plain_out, "numpy", False),
    "PyTorch": Contestant(start_torch, "torch", False),
    "JAX": Contestant(start_jax, "jax", False),
    "Numba": Contestant(start_numba, "numba", False),
    "numexpr": Contestant(start_numexpr, "numexpr", False),
    "PyTensor": Contestant(None, "pytensor", False),
    FLOOR: Contestant(None, "numpy", False, "cc"),  # see `start`
    "np.sum": Contestant(start_sum, "numpy", True),
    "np.einsum": Contestant(start_einsum, "numpy", True),
}
