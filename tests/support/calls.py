"""Calls that between them take every way through the package, those that end in an error too.

As a program this makes each of them once on every path (see paths.py): something short for tools
that watch memory.
"""

from __future__ import annotations

import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
from implementations import INSTALLED
from operands import LAYOUTS
from paths import PATHS, Path, taken

import fastlayers
from fastlayers import AddLayer, BaseLayer, MulLayer

COLUMNS = 32


class Stubborn:
    """An operand that NumPy leaves alone, and that refuses."""

    __array_ufunc__ = None

    def __rmul__(self, other):
        raise LookupError("refused")


def operands(rows: int) -> SimpleNamespace:
    """What the calls are made with: arrays of so many rows of 32 elements, and others."""

    def array(dtype="f8", layout="C"):
        elements = (np.arange(rows * COLUMNS) % 7 + 1).astype(dtype)
        return LAYOUTS[layout](elements.reshape(rows, COLUMNS))

    return SimpleNamespace(
        x=array(),
        y=array() + 1,
        out=array(),
        other_out=array(),
        stepped_out=array(layout="stepped"),
        level=np.ones((rows, COLUMNS)),
        fortran=array(layout="F"),
        stepped=array(layout="stepped"),
        reversed=array(layout="reversed"),
        row=np.arange(float(COLUMNS)),
        weights=np.eye(COLUMNS) / 8,
        column=np.ones((rows, 1)),
        short=array().reshape(-1, 4),
        short_row=np.ones(4),
        deep=array().reshape(1, 1, 1, 1, 1, 1, 1, rows, COLUMNS),
        float32=array("f4"),
        float32_row=np.ones(COLUMNS, "f4"),
        int32=array("i4"),
        int64=array("i8"),
        huge=np.full((rows, COLUMNS), 1e300),
        infinite=np.full((rows, COLUMNS), np.inf),
        point=np.array(2.0),
        empty=np.ones((0, COLUMNS)),
        number=2.5,
        large_number=10**30,
        scalar=np.float64(2.5),
        complex=array("D"),
        float32_swapped=array(">f4"),
        unaligned=array(layout="unaligned"),
        masked=array(layout="masked"),
        tagged=array(layout="tagged"),
        objects=np.array([1, 2.5, 3j], object),
        readonly=array(layout="readonly"),
        wrong_shape=np.ones((rows, COLUMNS + 1)),
        text="".join(["no ", "number"]),
        stubborn=Stubborn(),
    )


def step(layer, x, y, dout, **options):
    product = layer.forward(x, y)
    return (product, *layer.backward(dout), *layer.backward(dout, **options))


def recycled(function, *args):
    with fastlayers.recycling():
        return function(*args)


def handling(mode, action, function, *args, **kwargs):
    """Call a function with a mode of np.errstate, and with what is done to warnings."""
    with warnings.catch_warnings(action=action), np.errstate(all=mode):
        return function(*args, **kwargs)


without_warnings = partial(handling, "ignore", "error")
raising = partial(handling, "raise", "error")
warning = partial(handling, "warn", "error")
muted = partial(handling, "warn", "ignore")


GRAPH = fastlayers.Graph(lambda x, a, b, c: (a * x + b) * x - c)


@fastlayers.Graph
def several_passes(x, y):
    for _ in range(20):
        x = y * x + y * y - x
    return x * y


@fastlayers.Graph
def network(x, w, gamma):
    """Rows that are reduced and expanded, between products; and a loss that is added up."""
    scores = np.tanh(x @ w) * gamma
    away = scores - np.max(scores, axis=1, keepdims=True)
    log = away - np.log(np.sum(np.exp(away), axis=1, keepdims=True))
    return np.mean(log * scores), log.var(axis=-1)


@fastlayers.Graph
def products(x, w):
    """Without what NumPy itself does not survive if an allocation fails: see faults.py."""
    hidden = np.tanh(x @ w)
    return np.mean(hidden @ w * hidden), np.exp(hidden).sum(axis=1)


@fastlayers.Graph
def squared(x, y):
    return np.mean((x - y) ** 2), np.sum(x[1:] - x[:-1])


def network_step(graph, *operands):
    graph.forward(*operands)
    return graph.backward(1)


def graph_step(*operands, dout):
    graph = fastlayers.Graph(lambda x, a, b, c: (a * x + b) * x - c)
    return graph.forward(*operands), *graph.backward(dout)


def passed(*operands, **options):
    """Value and gradients of a graph, as one tuple."""
    value, gradients = GRAPH.value_and_grad(*operands, **options)
    return value, *gradients


multiply, multiply_backward = fastlayers.multiply, fastlayers.multiply_backward
add, add_backward = fastlayers.add, fastlayers.add_backward
subtract, subtract_backward = INSTALLED.subtract, INSTALLED.subtract_backward
negative, negative_backward = INSTALLED.negative, INSTALLED.negative_backward

# Each takes what `operands` gives. These are the kernels' alone; those are NumPy's, in the end.
SERVED = {
    "multiply": lambda o: multiply(o.x, o.y),
    "add": lambda o: add(o.x, o.y),
    "multiply_backward": lambda o: multiply_backward(o.x, o.y, o.x),
    "add_backward": lambda o: add_backward(o.x),
    "subtract": lambda o: subtract(o.x, o.y),
    "negative": lambda o: negative(o.x),
    "subtract_backward": lambda o: subtract_backward(o.x),
    "negative_backward": lambda o: negative_backward(o.x),
    "float32": lambda o: multiply_backward(o.float32, o.float32, o.float32),
    "int32": lambda o: multiply(o.int32, o.int32),
    "int64": lambda o: multiply_backward(o.int64, o.int64, 3),
    "a number": lambda o: multiply(o.x, o.number),
    "a number first": lambda o: add(o.number, o.x),
    "a scalar": lambda o: multiply_backward(o.x, o.scalar, o.y),
    "no array": lambda o: (multiply(o.number, 3), add_backward(o.number)),
    "Fortran": lambda o: multiply_backward(o.fortran, o.fortran, o.fortran),
    "transposed": lambda o: multiply(o.x, o.fortran),
    "stepped": lambda o: multiply_backward(o.stepped, o.x, o.reversed),
    "row": lambda o: multiply_backward(o.x, o.row, o.y),
    "column": lambda o: add(o.column, o.x),
    "outer": lambda o: multiply(o.column, o.row),
    "short rows": lambda o: multiply(o.short, o.short_row),
    "9-d": lambda o: multiply(o.deep, o.deep),
    "out": lambda o: multiply(o.x, o.y, out=o.out),
    "out, of one operand": lambda o: negative(o.stepped, out=o.out),
    "out with axes": lambda o: add(o.x, o.row, out=o.stepped_out),
    "out, a pair": lambda o: multiply_backward(o.x, o.y, o.x, out=(o.out, o.other_out)),
    "out, half a pair": lambda o: add_backward(o.x, out=(None, o.out)),
    "summed to a row": lambda o: multiply_backward(o.x, o.row, o.y, sum_to_shape=True),
    "summed to a column": lambda o: add_backward(o.x, o.column, o.y, sum_to_shape=True),
    "a difference's sums": lambda o: subtract_backward(o.x, o.column, o.row, sum_to_shape=True),
    "summed to a number": lambda o: multiply_backward(o.x, 2.0, o.scalar, sum_to_shape=True),
    "summed in float32": lambda o: multiply_backward(
        o.float32, o.float32_row, o.float32, sum_to_shape=True
    ),
    "a step": lambda o: step(MulLayer(), o.x, o.y, o.x),
    "a step of AddLayer": lambda o: step(AddLayer(), o.x, o.row, o.x, out=(o.out, None)),
    "a step with sums": lambda o: step(MulLayer(sum_to_shape=True), o.x, o.row, o.x),
    "knobs": lambda o: (fastlayers.cache_info(), fastlayers.get_num_threads()),
}

FALLEN_THROUGH = {
    "a large number": lambda o: multiply(o.x, o.large_number),
    "0-d": lambda o: (multiply(o.point, o.point), multiply(o.point, o.x)),
    "empty": lambda o: multiply_backward(o.empty, o.empty, o.row),
    "out that overlaps": lambda o: multiply(o.level[1:], 1.0, out=o.level[:-1]),
    "summed by NumPy": lambda o: multiply_backward(o.int32, o.int32[0], 2, sum_to_shape=True),
    "sums that overflow": lambda o: without_warnings(
        multiply_backward, o.huge, o.huge, 1e300, sum_to_shape=True
    ),
    "complex": lambda o: multiply_backward(o.complex, o.complex, o.x),
    "negative of what is complex": lambda o: negative(o.complex),
    "out, the operand itself": lambda o: subtract(o.level, 0.0, out=o.level),
    "mixed": lambda o: multiply(o.float32, o.x),
    "byte-swapped": lambda o: add(o.float32_swapped, o.float32_swapped),
    "unaligned": lambda o: add_backward(o.unaligned),
    "subclass": lambda o: multiply(o.tagged, o.x),
    "masked": lambda o: multiply(o.masked, o.x),
    "objects": lambda o: multiply_backward(o.objects, o.objects, 2),
    "list": lambda o: multiply([1.0, 2.0], o.row[:2]),
    "a graph of numbers": lambda o: passed(o.number, 2, 3, 1.5),
    "a graph": lambda o: passed(o.x, o.y, o.level, o.number),
    "a graph that sums": lambda o: passed(o.x, o.row, o.column, o.number, dout=o.y),
    "a graph of what is mixed": lambda o: passed(o.float32, o.x, o.row, o.int32),
    "a graph by name": lambda o: passed(o.x, o.y, o.level, o.x, wrt=("a", "c")),
    "a graph of rows and columns": lambda o: passed(o.x, o.row, o.column, o.y, dout=o.y),
    "a graph in several passes": lambda o: several_passes.value_and_grad(o.level, o.level)[1],
    "a graph with out": lambda o: GRAPH(o.x, o.y, o.level, o.x, out=o.out),
    "a graph in place": lambda o: GRAPH(o.level, 1.0, 0.0, 0.0, out=o.level),
    "a graph stopped in place": lambda o: muted(
        GRAPH, o.huge, o.huge, o.infinite, 1.0, out=o.infinite
    ),
    "a network": lambda o: network.value_and_grad(o.x, o.weights, 1.5)[1],
    "a network of short rows": lambda o: network.value_and_grad(o.short, o.weights[:4, :9], 0.5)[1],
    "a network's step": lambda o: network_step(network, o.x, o.weights, 1.5),
    "a network of products": lambda o: products.value_and_grad(o.x, o.weights)[1],
    "products, a step": lambda o: network_step(products, o.x, o.weights),
    "products of a new network": lambda o: network_step(
        fastlayers.Graph(lambda x, w: np.sum(np.tanh(x @ w) * x)), o.x, o.weights
    ),
    "sums of all": lambda o: squared.value_and_grad(o.x, o.y)[1],
    "sums of all, a step": lambda o: network_step(squared, o.stepped, o.y),
    "a network that warns": lambda o: muted(network.value_and_grad, o.huge, o.weights * 1e9, 1.5)[
        1
    ],
    "a graph's step": lambda o: graph_step(o.x, o.y, o.level, o.number, dout=o.x),
    "overflow": lambda o: without_warnings(multiply, o.huge, o.huge),
    "recycling": lambda o: recycled(np.add, o.complex, o.complex),
}

FAILING = {
    "shapes": lambda o: multiply(o.x, o.wrong_shape),
    "shapes of backward": lambda o: multiply_backward(o.x, o.wrong_shape, o.x),
    "shapes of sums": lambda o: multiply_backward(o.row, o.x, o.y[:2, :3], sum_to_shape=True),
    "None": lambda o: add(o.x, None),
    "negative of text": lambda o: negative(o.text),
    "a difference's sums, of none": lambda o: subtract_backward(o.x, sum_to_shape=True),
    "text": lambda o: multiply_backward(o.x, o.text, o.x),
    "refused": lambda o: multiply(o.x, o.stubborn),
    "refused late": lambda o: multiply_backward(o.x, o.stubborn, o.y),
    "out of another shape": lambda o: multiply(o.x, o.y, out=o.wrong_shape),
    "out of another dtype": lambda o: add(o.x, o.y, out=o.int64),
    "out, read-only": lambda o: multiply(o.x, o.y, out=o.readonly),
    "out, no array": lambda o: multiply(o.x, o.y, out=o.number),
    "out, no pair": lambda o: multiply_backward(o.x, o.y, o.x, out=(o.out,)),
    "out, its second": lambda o: multiply_backward(o.x, o.y, o.x, out=(o.out, o.readonly)),
    "out, none for its first": lambda o: add_backward(o.x, out=(None, o.wrong_shape)),
    "a product that does not fit": lambda o: network(o.x, o.x[:, 1:], 1.5),
    "shapes in a graph": lambda o: GRAPH(o.x, o.y, o.wrong_shape, 1.0),
    "out of a graph": lambda o: GRAPH(o.x, o.y, o.level, 1.0, out=o.wrong_shape),
    "overflow raised": lambda o: raising(multiply, o.huge, o.huge),
    "overflow raised by backward": lambda o: raising(multiply_backward, o.huge, o.huge, o.x),
    "overflow raised by a graph": lambda o: raising(passed, o.huge, o.huge, o.x, o.y),
    "overflow raised by sums": lambda o: raising(
        multiply_backward, o.huge, o.huge, 1e300, sum_to_shape=True
    ),
    "overflow warned of": lambda o: warning(add, o.huge * 1e8, o.huge * 1e8),
    "overflow warned of by NumPy": lambda o: warning(multiply, o.huge, o.complex * 1e300),
    "too few arguments": lambda o: multiply(o.x),
    "unknown argument": lambda o: add(o.x, o.y, where=o.x),
    "no forward": lambda o: MulLayer().backward(o.x),
    "a forward that failed": lambda o: MulLayer().forward(o.x, o.wrong_shape),
    "base": lambda o: BaseLayer().forward(o.x, o.y),
    "recycling": lambda o: recycled(np.add, o.complex, o.wrong_shape),
    "limit": lambda o: fastlayers.set_cache_limit(-1),
    "threads": lambda o: fastlayers.set_num_threads(o.number),
}


def make(name: str, o: SimpleNamespace) -> object:
    """Make the call of that name, and return its result; if it must fail, its error's type."""
    if not name.startswith(ERROR):
        return (SERVED | FALLEN_THROUGH)[name](o)
    try:
        result = FAILING[name.removeprefix(ERROR)](o)
    except MemoryError:
        raise
    except Exception as error:
        return type(error)
    raise AssertionError(f"{name}: no error, but {result!r}")


ERROR = "error: "
NAMES = [*SERVED, *FALLEN_THROUGH, *(ERROR + name for name in FAILING)]


def main() -> None:
    streamed = [Path(path.simd, path.threads, streaming=True) for path in PATHS if path.recycling]
    names = NAMES if notices_overflow() else [name for name in NAMES if "overflow" not in name]
    for path in [*PATHS, *streamed]:
        with taken(path):
            for rows in (3, 21):
                o = operands(rows)
                for name in names:
                    make(name, o)
    print(len(names), "calls on", len([*PATHS, *streamed]), "paths")


def notices_overflow() -> bool:
    """Whether the processor does; the one that valgrind simulates does not."""
    try:
        raising(np.multiply, np.float64(1e300), 1e300)
    except FloatingPointError:
        return True
    return False


if __name__ == "__main__":
    main()
