"""What is measured. To add a case, write its forward lines and the same by hand, here or, with
NumPy's functions, in functions.py, and enter both in `CASES`.

Who computes the cases, and how, is in contestants.py.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from inspect import signature
from typing import Any

import functions
import numpy as np

Operands = list[Any]

# The kinds of cases that are rows of one table, with functions of functions.py.
FUNCTIONS = "elementwise", "rows", "networks"


@dataclass(frozen=True)
class Case:
    """Steps that differ only in size: a table of the report, or a column of one."""

    title: str
    dtype: str
    # The forward lines alone, as somebody writes them with NumPy.
    function: Callable[..., Any]
    # Plain NumPy: for layers a class of them, for sums their gradients of dout, x and y, for graphs
    # the value and the gradients of dout and the operands, for updates all, in place.
    by_hand: Callable[..., Any]
    # Given a function that makes an array of a shape, and the number of elements; or of rows and of
    # columns, for layouts and sums, and where the size says both.
    operands: Callable[..., Operands]
    # What a step is, and in which table it is found:
    #   layer   forward of x and y, then backward of dout, all of one shape
    #   layout  the same of operands that lie otherwise
    #   sums    the same, and the gradients are summed to the shapes of x and y
    #   graph   the value, and the gradients of all operands, of one dout for every output
    #   update  the first operands anew, in place
    #   FUNCTIONS  the value, and the gradients of the operands that wrt names, of ones; if it names
    #              none, an update
    kind: str
    sizes: tuple[str, ...]
    outputs: int = 1
    # Of functions; None names all. Where they have a dout, it is an array of the value's shape.
    wrt: tuple[str, ...] | None = None
    dout: bool = False
    # By hand, in numba_loops.py and, but for updates, in floor.c; of a layer value and gradients.
    loops: tuple[str, ...] = ()
    # By contestant: what it is given in place of the function. See contestants.py.
    variants: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wanted(self) -> tuple[int, ...]:
        """The operands whose gradients are wanted, by their places."""
        names = list(signature(self.function).parameters)
        return tuple(map(names.index, names if self.wrt is None else self.wrt))


# Elements. From 30k to 2M are the sizes at which NumPy's time goes into fresh memory.
SIZES = {
    "1": 1, "100": 100, "1k": 1_000, "4k": 4_096, "10k": 10_000, "16k": 16_384, "30k": 30_000,
    "65k": 65_536, "100k": 100_000, "131k": 131_072, "262k": 262_144, "524k": 524_288,
    "1M": 1_048_576, "2M": 2_097_152, "4M": 4_194_304, "16.7M": 16_777_216,
}  # fmt: skip
LAYER_SIZES = tuple(size for size in SIZES if size != "100k")
LAYOUT_SIZES = "1k", "10k", "100k", "1M", "4M"
GRAPH_SIZES = "100", "1k", "10k", "65k", "262k", "1M", "4M"

# (B, F): a batch of rows of features.
SHAPES = {
    "1k": (10, 100), "10k": (100, 100), "100k": (250, 400), "1M": (1024, 1024), "4M": (4096, 1024)
}  # fmt: skip
# Python's numbers, as x, y and dout.
NUMBERS = {"int": (100, 2, 3), "float": (100.0, 2.5, 1.1)}


def make_operands(case: Case, size: str) -> Operands:
    """Return a case's operands: of layers x, y and dout, of others, if they have one, dout first.

    No temporary is larger than they are. Once a large block has been freed, glibc raises the size
    from which it asks the kernel for fresh pages, and what is measured would run on a heap that no
    longer is as the process found it.
    """
    rng = np.random.default_rng(0)
    dtype: Any = np.dtype(case.dtype)

    def new(*shape: int) -> Any:
        if dtype.kind == "i":
            return rng.integers(-9, 10, shape, dtype)
        return rng.standard_normal(shape, dtype)

    if "x" in size:
        shape = tuple(map(int, size.split("x")))
    else:
        shape = SHAPES[size] if case.kind in ("layout", "sums") else (SIZES[size],)
    operands = case.operands(new, *shape)
    if case.dout:
        operands.insert(0, new(*shape))
    elif case.kind == "graph":
        operands.insert(0, np.ones(np.broadcast_shapes(*map(np.shape, operands)), dtype))
    return operands


def of_one_shape(count: int) -> Callable[..., Operands]:
    return lambda new, n: [new(n) for _ in range(count)]


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


class OutAddLayer(OutMulLayer):
    def forward(self, x: Any, y: Any) -> Any:
        return np.add(x, y, out=self.out)

    def backward(self, dout: Any) -> tuple[Any, Any]:
        np.copyto(self.dx, dout)
        np.copyto(self.dy, dout)
        return self.dx, self.dy


def sum_by_hand(dout: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Both gradients, dy summed to the shape of y: (F,) or (B, 1)."""
    return dout * y, np.sum(dout * x, axis=y.ndim - 1, keepdims=y.ndim == 2)


def sum_by_einsum(dout: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """The same without the temporary."""
    return dout * y, np.einsum("bf,bf->f" if y.ndim == 1 else "bf,bf->b", dout, x).reshape(y.shape)


# x, y and dout of a batch.
LAYOUTS: dict[str, Callable[..., Operands]] = {
    "row": lambda new, b, f: [new(b, f), new(f), new(b, f)],
    "column": lambda new, b, f: [new(b, f), new(b, 1), new(b, f)],
    "scalar": lambda new, b, f: [new(b, f), 2.5, new(b, f)],
    "fortran": lambda new, b, f: [new(f, b).T, new(f, b).T, new(f, b).T],
    # As the gates of an LSTM are cut from one array.
    "strided": lambda new, b, f: [new(b, 2 * f)[:, :f], new(b, 2 * f)[:, :f], new(b, f)],
    "transposed": lambda new, b, f: [new(b, f), new(f, b).T, new(b, f)],
}

# Graphs: expressions of a size that is usual in networks.


def shop(a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    return (a * b + c * d) * e


def shop_by_hand(dout: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    total = a * b + c * d
    dtotal, de = dout * e, dout * total
    dleft, dright = dtotal * 1, dtotal * 1
    return total * e, (dleft * b, dleft * a, dright * d, dright * c, de)


def gates(f: Any, c: Any, g: Any, i: Any) -> Any:
    return f * c + g * i


def gates_by_hand(dout: Any, f: Any, c: Any, g: Any, i: Any) -> Any:
    dleft, dright = dout * 1, dout * 1
    return f * c + g * i, (dleft * c, dleft * f, dright * i, dright * g)


def scale(x: Any, gamma: Any, beta: Any) -> Any:
    return x * gamma + beta


def scale_by_hand(dout: Any, x: Any, gamma: Any, beta: Any) -> Any:
    dproduct, dbeta = dout * 1, np.sum(dout * 1, axis=0)
    return x * gamma + beta, (dproduct * gamma, np.sum(dproduct * x, axis=0), dbeta)


def blend(alpha: Any, x: Any, y: Any) -> Any:
    return alpha * x + (1 - alpha) * y


def blend_by_hand(dout: Any, alpha: Any, x: Any, y: Any) -> Any:
    rest = 1 - alpha
    dleft, dright = dout * 1, dout * 1
    drest, dalpha = (np.sum(d, axis=-1, keepdims=True) for d in (dright * y, dleft * x))
    return alpha * x + rest * y, (drest * -1 + dalpha, dleft * alpha, dright * rest)


def horner(x: Any) -> Any:
    total = 0.5 * x + 0.25
    for number in (1.0, -0.5, 2.0, 0.125, -3.0, 0.75, 1.5):
        total = total * x + number
    return total


def horner_by_hand(dout: Any, x: Any) -> Any:
    totals = [0.5 * x + 0.25]
    for number in (1.0, -0.5, 2.0, 0.125, -3.0, 0.75, 1.5):
        totals.append(totals[-1] * x + number)
    dtotal, dx = dout * 1, None
    for total in reversed(totals[:-1]):
        dx = dtotal * total if dx is None else dx + dtotal * total
        dtotal = dtotal * x * 1
    return totals[-1], (dx + dtotal * 0.5,)


def gru(h: Any, z: Any, r: Any, candidate: Any) -> Any:
    """A cell's gates: its new state, and what the next candidate is computed of."""
    return (1 - z) * h + z * candidate, r * h


def gru_by_hand(dout: Any, h: Any, z: Any, r: Any, candidate: Any) -> Any:
    rest = 1 - z
    dleft, dright = dout * 1, dout * 1
    dr, dh = dout * h, dout * r
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


def quaternions_by_hand(dout: Any, *parts: Any) -> Any:
    a, b, c, d, e, f, g, h = parts
    return quaternions(*parts), (
        dout * h + dout * g + dout * f + dout * e,
        dout * g + dout * h * -1 + dout * e + dout * f * -1,
        dout * f * -1 + dout * e + dout * h + dout * g * -1,
        dout * e + dout * f + dout * g * -1 + dout * h * -1,
        dout * d + dout * c + dout * b + dout * a,
        dout * c * -1 + dout * d + dout * a + dout * b * -1,
        dout * b + dout * a + dout * d * -1 + dout * c * -1,
        dout * a + dout * b * -1 + dout * c + dout * d * -1,
    )


# Updates. The factors' names are those of variants, which want float32: a number of Python's would
# make all their arithmetic float64.
FACTORS = {"a": 0.9, "b": 0.1, "c": 0.999, "d": 0.001, "rate": 0.01}


def momentum(w: Any, v: Any, g: Any) -> Any:
    v = 0.9 * v - 0.01 * g
    return w + v, v


def momentum_by_hand(w: Any, v: Any, g: Any) -> Any:
    v *= 0.9
    v -= 0.01 * g
    w += v
    return w, v


def momentum_by_torch(w: Any, v: Any, g: Any) -> Any:
    """As PyTorch's optimizers do."""
    v.mul_(0.9).sub_(g, alpha=0.01)
    return w.add_(v), v


def averages(m: Any, v: Any, g: Any) -> Any:
    """Those of an Adam step."""
    return 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * (g * g)


def averages_by_hand(m: Any, v: Any, g: Any) -> Any:
    m *= 0.9
    m += 0.1 * g
    v *= 0.999
    v += 0.001 * (g * g)
    return m, v


def averages_by_torch(m: Any, v: Any, g: Any) -> Any:
    return m.lerp_(g, 0.1), v.mul_(0.999).addcmul_(g, g, value=0.001)


# Operands of functions.


def positive(count: int) -> Callable[..., Operands]:
    def operands(new: Any, n: int) -> Operands:
        arrays = [new(n) for _ in range(count)]
        for one in arrays:
            np.abs(one, out=one)
            one += 0.5
        return arrays

    return operands


def of_logistic(new: Any, n: int) -> Operands:
    """Scores, and targets that are 0 or 1."""
    t = new(n)
    return [new(n), np.greater(t, 0, out=t)]


def scores(new: Any, n: int, classes: int) -> Operands:
    """And targets, with a one in each row."""
    t = new(n, classes)
    return [new(n, classes), np.equal(t, t.max(axis=1, keepdims=True), out=t)]


def weights(new: Any, *shape: int) -> Any:
    w = new(*shape)
    w *= shape[0] ** -0.5
    return w


def of_network(new: Any, n: int, pixels: int) -> Operands:
    layers = (pixels, 512), (512, 512), (512, 10)
    return [
        new(n, pixels), scores(new, n, 10)[1],
        *(one for shape in layers for one in (weights(new, *shape), new(shape[1]))),
    ]  # fmt: skip


layer = partial(Case, operands=of_one_shape(3), kind="layer", sizes=LAYER_SIZES)
graph = partial(Case, kind="graph", sizes=GRAPH_SIZES)
update = partial(Case, operands=of_one_shape(3), kind="update", sizes=GRAPH_SIZES, outputs=2)


def of_function(
    kind: str,
    name: str,
    title: str,
    operands: Callable[..., Operands],
    dtypes: str = "float32 float64",
    sizes: tuple[str, ...] = GRAPH_SIZES,
    **options: Any,
) -> dict[str, Case]:
    """Return the cases of a function of functions.py, one of each dtype."""
    function, by_hand = getattr(functions, name), getattr(functions, f"{name}_by_hand")
    return {
        f"{name.replace('_', '-')}-{dtype}":
        Case(title, dtype, function, by_hand, operands, kind, sizes, **options)
        for dtype in dtypes.split()
    }  # fmt: skip


elementwise, rows, network = (partial(of_function, kind) for kind in FUNCTIONS)

MULTIPLY = layer(
    "MulLayer", "float64", operator.mul, PlainMulLayer, loops=("multiply", "multiply_backward"),
    variants={"plain, out=": OutMulLayer, "numexpr": ("x * y", "dout * y", "dout * x")},
)  # fmt: skip
ADD = layer(
    "AddLayer", "float64", operator.add, PlainAddLayer, loops=("add", "add_backward"),
    variants={"plain, out=": OutAddLayer, "numexpr": ("x + y", "dout * 1", "dout * 1")},
)  # fmt: skip
SUMS = replace(
    MULTIPLY, by_hand=sum_by_hand, kind="sums", sizes=("1M",), variants={"np.einsum": sum_by_einsum}
)  # fmt: skip

CASES: dict[str, Case] = {
    "mul-float64": MULTIPLY,
    "mul-float32": replace(MULTIPLY, dtype="float32"),
    "add-float64": ADD,
    "add-float32": replace(ADD, dtype="float32"),
    **{name: replace(MULTIPLY, kind="layout", operands=LAYOUTS[name], sizes=LAYOUT_SIZES)
       for name in LAYOUTS},
    **{f"sum-{name}": replace(SUMS, operands=LAYOUTS[name]) for name in ("row", "column")},
    "graph-shop": graph(
        "(a*b + c*d)*e", "float64", shop, shop_by_hand, of_one_shape(5), loops=("shop",),
        variants={"numexpr": (
            "(a*b + c*d) * e", "dout*e*b", "dout*e*a", "dout*e*d", "dout*e*c", "dout * (a*b + c*d)"
        )},
    ),
    "graph-gates": graph(
        "f*c + g*i", "float32", gates, gates_by_hand, of_one_shape(4), loops=("gates",),
        variants={"numexpr": ("f*c + g*i", "dout*c", "dout*f", "dout*i", "dout*g")},
    ),
    "graph-scale": graph(
        "x*gamma + beta", "float32", scale, scale_by_hand,
        lambda new, n: [new(max(n // 256, 1), 256), new(256), new(256)],
    ),
    "graph-blend": graph(
        "blending", "float32", blend, blend_by_hand,
        lambda new, n: [new(max(n // 48, 1), 16, channels) for channels in (1, 3, 3)],
    ),
    "graph-horner": graph("Horner, degree 8", "float64", horner, horner_by_hand, of_one_shape(1)),
    "graph-gru": graph("GRU cell", "float32", gru, gru_by_hand, of_one_shape(4), outputs=2),
    "graph-quaternions": graph(
        "quaternions", "float64", quaternions, quaternions_by_hand,
        lambda new, n: [part for _ in range(2) for part in new(max(n // 4, 1), 4).T], outputs=4,
    ),
    "update-momentum": update(
        "momentum", "float32", momentum, momentum_by_hand, loops=("momentum",),
        # In this order: w grows by the new v.
        variants={"PyTorch": momentum_by_torch, "numexpr": {"v": "a*v - rate*g", "w": "w + v"}},
    ),
    "update-averages": update(
        "Adam's averages", "float32", averages, averages_by_hand, loops=("averages",), variants={
            "PyTorch": averages_by_torch, "numexpr": {"m": "a*m + b*g", "v": "c*v + d*(g*g)"}
        },
    ),
    **elementwise("lstm", "LSTM cell", of_one_shape(5), outputs=2),
    **elementwise("gelu", "GELU, tanh form", of_one_shape(1)),
    **elementwise("swish", "swish", of_one_shape(1)),
    **elementwise("logistic", "logistic loss", of_logistic, wrt=("x",)),
    **elementwise("softplus", "softplus", of_one_shape(1)),
    **elementwise("huber", "Huber loss", of_one_shape(2), wrt=("x",)),
    **elementwise("distance", "distance", of_one_shape(3)),
    **elementwise("relu_gate", "relu gate", of_one_shape(2)),
    **elementwise("lennard_jones", "Lennard-Jones", positive(3)),
    **elementwise("adam", "Adam, in place", positive(4), outputs=3, wrt=()),
    **rows(
        "cross_entropy", "softmax cross entropy", scores, wrt=("x",),
        sizes=("64x10", "10000x100", "10000x1000", "100000x10"),
    ),
    **rows(
        "layer_norm", "layer norm", lambda new, n, width: [new(n, width), new(width), new(width)],
        "float32", ("10000x256",), dout=True,
    ),
    **rows("mean_square", "mean squared error", of_one_shape(2), "float32", ("1M",), wrt=("x",)),
    **rows("summed_logistic", "logistic loss, summed", of_logistic, sizes=("1M",), wrt=("x",)),
    **network(
        "network", "network, 784-512-512-10", of_network, "float32", ("32x784", "256x784"),
        wrt=("w1", "b1", "w2", "b2", "w3", "b3"),
    ),
    **network("rosenbrock", "Rosenbrock", of_one_shape(1), "float64", ("100", "100k", "1M")),
    **network(
        "mixture", "Gaussian mixture, in a plane",
        lambda new, n, k: [new(n), new(n), *(new(k) for _ in range(4))],
        "float64", ("10000x8",), wrt=("mx", "my", "spread", "weight"),
    ),
    **network(
        "regression", "logistic regression",
        lambda new, n, k: [new(n, k), *of_logistic(new, n)[1:], weights(new, k)],
        "float64", ("100000x30",), wrt=("w",),
    ),
}  # fmt: skip
if find_spec("scipy"):
    CASES |= elementwise("black_scholes", "Black-Scholes", positive(5))
