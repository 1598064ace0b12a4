"""Gradients by a tape of its own: what those of a graph must not differ from, in any bit.

Nothing here comes from the package but the sums to operands' shapes, which the layers make. The
rules are those of the documentation, evaluated on the values at hand.
"""

from __future__ import annotations

import ast
import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from implementations import INSTALLED
from random_programs import Program, function_of, words

Rule = Callable[..., Any]


class Node(NamedTuple):
    """``operands`` are values, and ``places`` their nodes, or None for constants."""

    rule: Rule | None
    operands: tuple[Any, ...]
    places: tuple[int | None, ...]
    value: Any
    elementwise: bool
    options: dict[str, Any]


class Tape(list[Node]):
    def input(self, value: Any) -> Taped:
        self.append(Node(None, (), (), value, False, {}))
        return Taped(self, len(self) - 1, value)

    def run(
        self, name: str, compute: Callable[..., Any], *given: Any, options: Any = None
    ) -> Taped:
        operands = tuple(raw(one) for one in given)
        places = tuple(one.place if isinstance(one, Taped) else None for one in given)
        value = compute(*operands)
        elementwise = name in ELEMENTWISE and len(operands) > 1
        self.append(Node(RULES[name], operands, places, value, elementwise, options or {}))
        return Taped(self, len(self) - 1, value)

    def gradients(self, outputs: Sequence[Taped], douts: Sequence[Any], inputs: int) -> list[Any]:
        found: dict[int, Any] = {}

        def add(place: int, gradient: Any) -> None:
            found[place] = found[place] + gradient if place in found else gradient

        reaching = self.reaching(inputs)
        for output, dout in zip(outputs, douts, strict=True):
            if output.place in reaching:
                add(output.place, dout)
        for place in reversed(range(inputs, len(self))):
            if place in found:
                for i, gradient in self.contributions(self[place], found[place], reaching):
                    add(self[place].places[i], gradient)
        return [found[i] if i in found else zeros(self[i].value) for i in range(inputs)]

    def contributions(self, node: Node, dout: Any, reaching: set[int]) -> list[tuple[int, Any]]:
        found = []
        for i, (operand, place) in enumerate(zip(node.operands, node.places, strict=True)):
            if place not in reaching:
                continue
            assert node.rule is not None
            gradient = node.rule(i, dout, node.value, *node.operands, **node.options)
            if gradient is None:
                continue
            if node.elementwise:
                gradient = summed(gradient, operand)
            found.append((i, scalar(gradient)))
        return found

    def reaching(self, inputs: int) -> set[int]:
        reaching = set(range(inputs))
        for place, node in enumerate(self):
            if any(one in reaching and passes(node, i) for i, one in enumerate(node.places)):
                reaching.add(place)
        return reaching


def passes(node: Node, i: int) -> bool:
    return node.rule is not None and i not in getattr(node.rule, "idle", ())


def raw(one: Any) -> Any:
    if isinstance(one, Taped):
        return one.value
    if isinstance(one, list | tuple):
        return type(one)(map(raw, one))
    return one


def scalar(value: Any) -> Any:
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def zeros(value: Any) -> Any:
    return np.zeros(value.shape, value.dtype)[()] if hasattr(value, "dtype") else 0


def summed(gradient: Any, operand: Any) -> Any:
    """Summed to the operand's shape, as by layers: of a number it is a number."""
    if not hasattr(gradient, "shape") and not hasattr(operand, "shape"):
        return gradient
    like = operand if hasattr(operand, "shape") else 1
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        return INSTALLED.add_backward(gradient, like, gradient, sum_to_shape=True)[0]


class Taped:
    """A value whose history is on a tape. It is what the value is, and answers alike."""

    def __init__(self, tape: Tape, place: int, value: Any) -> None:
        self.tape, self.place, self.value = tape, place, value

    def __array_ufunc__(self, ufunc: Any, method: str, *operands: Any) -> Taped:
        assert method == "__call__"
        return self.tape.run(ufunc.__name__, ufunc, *operands)

    def __array_function__(self, function: Any, _: Any, given: Any, named: Any) -> Any:
        return call(self.tape, function, given, named)

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "ndim", "size", "dtype"):
            return getattr(self.value, name)
        if name in ("T", "mT"):
            return self.tape.run(name, lambda x: getattr(x, name), self)
        if name.startswith("_"):
            raise AttributeError(name)

        def called(*given: Any, **named: Any) -> Any:
            if name in ("reshape", "transpose") and len(given) > 1:
                given = (given,)

            def compute(x: Any, *rest: Any, **options: Any) -> Any:
                return getattr(x, name)(*rest, **options)

            function = getattr(np, name) if name != "flatten" else np.ravel
            return call(self.tape, function, (self, *given), named, compute)

        return called

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Any:
        return iter([self[i] for i in range(len(self.value))])

    def __getitem__(self, index: Any) -> Taped:
        parts = index if isinstance(index, tuple) else (index,)
        arrays = any(
            isinstance(part, list | np.ndarray | bool | np.bool_ | Taped) for part in parts
        )
        index = raw(index)
        options = {"index": index, "arrays": arrays}
        return self.tape.run("getitem", lambda x: x[index], self, options=options)

    def __setitem__(self, index: Any, z: Any) -> None:
        index = raw(index)

        def compute(y: Any, z: Any) -> Any:
            y = y.copy(order="K")
            y[index] = z
            return y

        self.become(self.tape.run("setitem", compute, self, z, options={"index": index}))

    def become(self, other: Taped) -> Taped:
        self.place, self.value = other.place, other.value
        return self

    def __add__(self, other: Any) -> Taped:
        return operator("+", self, other)

    def __radd__(self, other: Any) -> Taped:
        return operator("+", other, self)

    def __neg__(self) -> Taped:
        return self.tape.run("negative", lambda x: -x, self)

    def __pos__(self) -> Taped:
        return self.tape.run("positive", lambda x: +x, self)

    def __abs__(self) -> Taped:
        return self.tape.run("absolute", abs, self)

    def __invert__(self) -> Taped:
        return self.tape.run("invert", lambda x: ~x, self)


# ---- programs: all operators become calls, since arrays from outside would answer them first ----


SIGNS = {
    ast.Add: ("add", "+"),
    ast.Sub: ("subtract", "-"),
    ast.Mult: ("multiply", "*"),
    ast.Div: ("divide", "/"),
    ast.Pow: ("power", "**"),
    ast.FloorDiv: ("floor_divide", "//"),
    ast.Mod: ("remainder", "%"),
    ast.MatMult: ("matmul", "@"),
    ast.BitAnd: ("bitwise_and", "&"),
    ast.BitOr: ("bitwise_or", "|"),
    ast.BitXor: ("bitwise_xor", "^"),
    ast.Lt: ("less", "<"),
    ast.LtE: ("less_equal", "<="),
    ast.Gt: ("greater", ">"),
    ast.GtE: ("greater_equal", ">="),
    ast.Eq: ("equal", "=="),
    ast.NotEq: ("not_equal", "!="),
}
PLAIN = {sign: eval(f"lambda x, y: x {sign} y") for _, sign in SIGNS.values()}
NAMED = {sign: name for name, sign in SIGNS.values()}


def operator(sign: str, x: Any, y: Any) -> Any:
    tapes = [one.tape for one in (x, y) if isinstance(one, Taped)]
    return tapes[0].run(NAMED[sign], PLAIN[sign], x, y) if tapes else PLAIN[sign](x, y)


def in_place(sign: str, y: Any, z: Any) -> Any:
    if not isinstance(y, Taped) or not isinstance(y.value, np.ndarray):
        return operator(sign, y, z)

    def compute(y: Any, z: Any) -> Any:
        names = {"y": y.copy(order="K"), "z": z}
        exec(f"y {sign}= z", names)
        return names["y"]

    return y.become(y.tape.run(NAMED[sign], compute, y, z))


class Called(ast.NodeTransformer):
    def visit_BinOp(self, node: ast.BinOp) -> Any:
        self.generic_visit(node)
        return self.call("_operator", SIGNS[type(node.op)][1], node.left, node.right)

    def visit_Compare(self, node: ast.Compare) -> Any:
        self.generic_visit(node)
        return self.call("_operator", SIGNS[type(node.ops[0])][1], node.left, node.comparators[0])

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        self.generic_visit(node)
        read = ast.parse(ast.unparse(node.target), mode="eval").body
        read = self.visit(read)
        value = self.call("_in_place", SIGNS[type(node.op)][1], read, node.value)
        return ast.Assign([node.target], value)

    def call(self, name: str, sign: str, *operands: ast.expr) -> ast.Call:
        return ast.Call(ast.Name(name, ast.Load()), [ast.Constant(sign), *operands], [])


def taped(program: Program, operands: Sequence[Any]) -> tuple[Tape, Any, int]:
    """The tape of a program, what it returns, and how many inputs there are."""
    tape = Tape()

    def inputs(one: Any) -> Any:
        if isinstance(one, list | tuple):
            return type(one)([inputs(part) for part in one])
        if isinstance(one, dict):
            return {key: inputs(part) for key, part in one.items()}
        return tape.input(one)

    given = [inputs(one) for one in operands]
    count = len(tape)
    tree = ast.fix_missing_locations(Called().visit(ast.parse(program.source)))
    code = compile(tree, "taped.py", "exec")
    function = function_of(
        program.source, program.constants, code, _operator=operator, _in_place=in_place
    )
    return tape, function(*given), count


# ---- calls of NumPy's functions ----


def call(tape: Tape, function: Any, given: Any, named: Any, method: Any = None) -> Any:
    name = function.__name__
    compute = method or function
    if name in JOINED:
        parts, *rest = given
        axis = rest[0] if rest else named.get("axis", 0)
        options = {"join": name, "axis": axis}
        return tape.run(
            "joined", lambda *parts: compute(parts, *rest, **named), *parts, options=options
        )
    if name == "append":
        axis = given[2] if len(given) > 2 else named.get("axis")
        options = {"join": "concatenate", "axis": axis}
        return tape.run("joined", lambda x, y: np.append(x, y, axis), *given[:2], options=options)
    if name.endswith("split"):
        sections = raw(given[1:])
        made = function(given[0].value, *sections, **named)

        def part(i: int) -> Callable[..., Any]:
            return lambda x: function(x, *sections, **named)[i]

        return [
            tape.run("moved", part(i), given[0], options={"how": part(i)}) for i in range(len(made))
        ]
    if name in ("where", "outer", "dot", "inner", "cross"):
        return tape.run(name, compute, *given)
    if name == "tensordot":
        axes = given[2] if len(given) > 2 else named.get("axes", 2)
        return tape.run(
            name, lambda x, y: np.tensordot(x, y, axes), *given[:2], options={"axes": axes}
        )
    if name == "select":
        conditions, choices, *default = given
        n = len(conditions)

        def chosen(*operands: Any) -> Any:
            return np.select(list(operands[:n]), list(operands[n:-1]), operands[-1])

        return tape.run(name, chosen, *conditions, *choices, *(default or [0]))
    bound = signature(function).bind(*given, **named)
    options = {key: raw(one) for key, one in bound.arguments.items()}
    if function is np.clip:
        low = bound.arguments.get("a_min", bound.arguments.get("kwargs", {}).get("min"))
        high = bound.arguments.get("a_max", bound.arguments.get("kwargs", {}).get("max"))
        if method is not None and "a_min" not in bound.arguments:
            low = named.get("min", low)

        def clip(x: Any, low: Any, high: Any) -> Any:
            return compute(x, low, high)

        return tape.run("clip", clip, given[0], low, high)
    first = next(iter(bound.arguments))
    x = bound.arguments[first]
    options.pop(first)

    def run(x: Any) -> Any:
        return compute(x, *map(raw, given[1:]), **{key: raw(one) for key, one in named.items()})

    if name in MOVING:
        return tape.run("moved", run, x, options={"how": run})
    if name in ("take", "take_along_axis", "repeat", "tile", "broadcast_to"):
        options = {"how": run, **options} if name.startswith("take") else options
    return tape.run(name, run, x, options=options)


@cache
def signature(function: Any) -> inspect.Signature:
    if function is np.clip:
        return inspect.signature(lambda a, a_min=None, a_max=None, **kwargs: 0)
    if function in (np.atleast_1d, np.atleast_2d, np.atleast_3d):
        return inspect.signature(lambda x: 0)
    return inspect.signature(function)


MOVING = ("roll", "diag", "diagonal", "pad", "rot90", "fliplr", "flipud")
JOINED = ("concatenate", "stack", "vstack", "hstack", "column_stack", "dstack")

# ---- rules ----

LN2, LN10 = math.log(2), math.log(10)


def unary(rule: Callable[[Any, Any, Any], Any]) -> Rule:
    return lambda _, g, v, x: rule(g, v, x)


def pair(first: Any, second: Any) -> Rule:
    def rule(i: int, g: Any, v: Any, x: Any, y: Any) -> Any:
        chosen = second if i else first
        return None if chosen is None else chosen(g, v, x, y)

    rule.idle = [i for i, one in enumerate((first, second)) if one is None]  # type: ignore[attr-defined]
    return rule


def instead(value: Any, bad: float, other: float) -> Any:
    return np.where(value == bad, other, value)


def one_over(v: Any) -> Any:
    return instead(v, 0, 1)


def product(i: int, g: Any, v: Any, x: Any, y: Any) -> Any:
    if isinstance(g * (x if i else y), Number | np.generic):
        return g * (x if i else y)
    like = [one if hasattr(one, "shape") else 1 for one in (x, y)]
    like[1 - i] = x if i else y
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        return INSTALLED.multiply_backward(g, *like, sum_to_shape=True)[i]


def power(i: int, g: Any, v: Any, x: Any, n: Any) -> Any:
    if i == 0:
        if not isinstance(n, int | float):
            return g * (n * x ** np.where(n == 0, 0, n - 1))
        x = np.float64(x) if isinstance(x, int | float) else x
        if n == 0:
            return np.zeros(np.shape(g), np.result_type(g))
        return g if n == 1 else g * (2 * x) if n == 2 else g * (n * x ** (n - 1))
    if isinstance(x, int | float) and x > 0:
        return g * (v * math.log(x))
    return g * (v * np.log(np.where(x > 0, x, 1)))


def picked(more: Callable[[Any, Any], Any], nan: bool) -> Rule:
    """Of maximum and its like; ``nan`` says that NaN loses."""

    def rule(i: int, g: Any, v: Any, x: Any, y: Any) -> Any:
        this, other = (y, x) if i else (x, y)
        wins = more(this, other)
        wins = wins | np.isnan(other) if nan else wins
        return np.where(wins, g, np.where(x == y, g / 2, 0))

    return rule


def where(i: int, g: Any, v: Any, c: Any, x: Any, y: Any) -> Any:
    return None if i == 0 else np.where(c, g, 0) if i == 1 else np.where(c, 0, g)


where.idle = [0]  # type: ignore[attr-defined]


def select(i: int, g: Any, v: Any, *operands: Any) -> Any:
    n = len(operands) // 2
    if i < n:
        return None
    if i < 2 * n:
        g = np.where(operands[i - n], g, 0)
    for condition in operands[: i - n]:
        g = np.where(condition, 0, g)
    return summed(g, operands[i])


def clip(i: int, g: Any, v: Any, x: Any, low: Any, high: Any) -> Any:
    if i == 1:
        return np.where(x < low, g, 0)
    if i == 2:
        return np.where(x > high, g, 0)
    within = True if low is None else x >= low
    if high is not None:
        within = x <= high if low is None else within & (x <= high)
    return np.where(within, g, 0)


def back(g: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    """Along the axes that were reduced."""
    if np.ndim(x) == 0:
        return g
    axes = range(np.ndim(x)) if axis is None else np.atleast_1d(axis)
    shape = [1 if i in {a % np.ndim(x) for a in axes} else n for i, n in enumerate(np.shape(x))]
    return np.broadcast_to(np.reshape(g, shape), np.shape(x))


def count_of(x: Any, axis: Any) -> int:
    axes = range(np.ndim(x)) if axis is None or np.ndim(x) == 0 else np.atleast_1d(axis)
    return math.prod(np.shape(x)[a] for a in axes)


def deviation(x: Any, axis: Any, ddof: Any) -> Any:
    return (x - np.mean(x, axis=axis, keepdims=True)) / (count_of(x, axis) - ddof)


def sum_(_: int, g: Any, v: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return back(g, x, axis, keepdims)


def mean(_: int, g: Any, v: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return back(g / count_of(x, axis), x, axis, keepdims)


def extreme(_: int, g: Any, v: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    v, g = back(v, x, axis, keepdims), back(g, x, axis, keepdims)
    k = np.sum(x == v, axis=axis, keepdims=True, dtype=np.result_type(g))
    return np.where(x == v, g / np.maximum(k, 1), 0)


def ptp(_: int, g: Any, v: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    largest, smallest = np.max(x, axis, keepdims=keepdims), np.min(x, axis, keepdims=keepdims)
    return extreme(0, g, largest, x, axis, keepdims) - extreme(0, g, smallest, x, axis, keepdims)


def nansum(_: int, g: Any, v: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return np.where(np.isnan(x), 0, back(g, x, axis, keepdims))


def nanmean(_: int, g: Any, v: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    k = np.sum(~np.isnan(x), axis=axis, keepdims=True, dtype=np.result_type(g))
    return np.where(np.isnan(x), 0, back(g, x, axis, keepdims) / np.maximum(k, 1))


def prod(_: int, g: Any, v: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    g = back(g, x, axis, keepdims)
    zero = x == 0
    zeros = np.sum(zero, axis=axis, keepdims=True, dtype=np.result_type(g))
    others = np.prod(np.where(zero, 1, x), axis=axis, keepdims=True)
    rest = np.where(zeros == 0, others / np.where(zero, 1, x), np.where(zeros == 1, others, 0))
    return g * np.where(zero | (zeros == 0), rest, 0)


def var(
    _: int, g: Any, v: Any, x: Any, axis: Any = None, ddof: Any = 0, keepdims: bool = False
) -> Any:
    return back(g, x, axis, keepdims) * (2 * deviation(x, axis, ddof))


def std(
    _: int, g: Any, v: Any, x: Any, axis: Any = None, ddof: Any = 0, keepdims: bool = False
) -> Any:
    return back(g / one_over(v), x, axis, keepdims) * deviation(x, axis, ddof)


def norm(_: int, g: Any, v: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return back(g, x, axis, keepdims) * (x / back(one_over(v), x, axis, keepdims))


def turned(x: Any) -> Any:
    return np.swapaxes(x, -1, -2)


def stacks(gradient: Any, like: Any) -> Any:
    """Summed over the axes of stacks along which an operand was repeated."""
    if np.ndim(gradient) < np.ndim(like):  # of `x @= y`, where y has more axes, of one element
        gradient = gradient[(None,) * (np.ndim(like) - np.ndim(gradient))]
    lead = np.ndim(gradient) - np.ndim(like)
    shape = (1,) * lead + np.shape(like)
    axes = [i for i, n in enumerate(np.shape(gradient)) if i < lead or n != shape[i]]
    return np.reshape(np.sum(gradient, axis=tuple(axes)), np.shape(like)) if axes else gradient


def matmul(i: int, g: Any, v: Any, x: Any, y: Any) -> Any:
    if np.ndim(x) == np.ndim(y) == 1:
        return g * (x if i else y)
    x2 = x[None, :] if np.ndim(x) == 1 else x
    y2 = y[:, None] if np.ndim(y) == 1 else y
    g2 = g[..., None, :] if np.ndim(x) == 1 else g[..., None] if np.ndim(y) == 1 else g
    if i == 0:
        whole = g2 @ turned(y2)
        return stacks(whole[..., 0, :] if np.ndim(x) == 1 else whole, x)
    whole = turned(x2) @ g2
    return stacks(whole[..., 0] if np.ndim(y) == 1 else whole, y)


def dot(i: int, g: Any, v: Any, x: Any, y: Any) -> Any:
    if np.ndim(x) == 0 or np.ndim(y) == 0:
        return stacks(g * (x if i else y), y if i else x)
    if np.ndim(x) <= 2 and np.ndim(y) <= 2:
        return matmul(i, g, v, x, y)
    n = np.shape(x)[-1]
    first = y if np.ndim(y) == 1 else np.moveaxis(y, -2, 0)
    count = math.prod(np.shape(first)[1:])
    if i == 0:
        return np.reshape(g, (*np.shape(x)[:-1], count)) @ np.reshape(first, (n, count)).T
    rows = math.prod(np.shape(x)[:-1])
    flat = np.reshape(x, (rows, n)).T @ np.reshape(g, (rows, count))
    if np.ndim(y) == 1:
        return np.reshape(flat, np.shape(y))
    return np.moveaxis(np.reshape(flat, np.shape(first)), 0, -2)


def inner(i: int, g: Any, v: Any, x: Any, y: Any) -> Any:
    if np.ndim(x) == 0 or np.ndim(y) < 2:
        return dot(i, g, v, x, y)
    found = dot(i, g, v, x, turned(y))
    return turned(found) if i else found


def tensordot(i: int, g: Any, v: Any, x: Any, y: Any, axes: Any) -> Any:
    """The axes that are summed get the letters of the first operand."""
    of_x, of_y = (
        (list(range(-axes, 0)), list(range(axes)))
        if isinstance(axes, int)
        else [np.atleast_1d(one).tolist() for one in axes]
    )
    numbers = [list(range(np.ndim(x))), list(range(100, 100 + np.ndim(y)))]
    for one, other in zip(of_x, of_y, strict=True):
        numbers[1][other] = numbers[0][one]
    shared = set(numbers[0]) & set(numbers[1])
    free = [[n for n in one if n not in shared] for one in numbers]
    of_g = free[0] + free[1]
    if i == 0:
        made = free[0] + [n for n in numbers[1] if n in shared]
        back = np.tensordot(g, y, [[of_g.index(n) for n in free[1]], places(numbers[1], free[1])])
    else:
        made = [n for n in numbers[0] if n in shared] + free[1]
        back = np.tensordot(x, g, [places(numbers[0], free[0]), [of_g.index(n) for n in free[0]]])
    return np.transpose(back, places(made, numbers[i]))


def places(among: list[int], wanted: list[int]) -> list[int]:
    return [among.index(n) for n in wanted]


def cross(i: int, g: Any, v: Any, x: Any, y: Any) -> Any:
    return stacks(np.cross(g, x) if i else np.cross(y, g), y if i else x)


def outer(i: int, g: Any, v: Any, x: Any, y: Any) -> Any:
    return np.reshape(np.ravel(x) @ g if i else g @ np.ravel(y), np.shape(y if i else x))


def numbered(x: Any) -> Any:
    """The elements' numbers, from 1, in the memory order of none."""
    return np.arange(1, np.size(x) + 1).reshape(np.shape(x))


def placed(g: Any, numbers: Any, like: Any) -> Any:
    """Each element of ``g`` in the place of its number, each of which there is at most once."""
    found = np.zeros(np.size(like) + 1, np.result_type(g))
    where = numbers > 0
    found[np.asarray(numbers)[where]] = np.asarray(g)[where]
    return found[1:].reshape(np.shape(like))


def moved(_: int, g: Any, v: Any, x: Any, how: Callable[[Any], Any]) -> Any:
    return placed(g, how(numbered(x)), x)


def added(g: Any, numbers: Any, like: Any) -> Any:
    """The same where places are named several times: one after the other."""
    found = np.zeros(np.size(like) + 1, np.result_type(g))
    np.add.at(found, numbers, g)
    return found[1:].reshape(np.shape(like))


def taken(_: int, g: Any, v: Any, x: Any, how: Callable[[Any], Any], **__: Any) -> Any:
    return added(g, how(numbered(x)), x)


def getitem(_: int, g: Any, v: Any, x: Any, index: Any, arrays: bool) -> Any:
    return (added if arrays else placed)(g, numbered(x)[index], x)


def setitem(i: int, g: Any, v: Any, y: Any, z: Any, index: Any) -> Any:
    if i == 1:
        part = g[index]
        return summed(np.reshape(part, (1,) * (np.ndim(z) - np.ndim(part)) + np.shape(part)), z)
    g = np.array(g)
    g[index] = 0
    return g


def joined(i: int, g: Any, v: Any, *parts: Any, join: str, axis: Any) -> Any:
    """A view of the gradient."""
    shape = np.shape(parts[i])
    if join == "stack":
        return g[(slice(None),) * (axis % np.ndim(g)) + (i,)]
    if join == "concatenate" and axis is None:
        g, axis, lengths = np.ravel(g), 0, [np.size(one) for one in parts]
    elif join == "concatenate":
        axis %= np.ndim(g)
        lengths = [np.shape(one)[axis] for one in parts]
    elif join == "vstack":
        axis, lengths = 0, [np.atleast_2d(one).shape[0] for one in parts]
    elif join == "column_stack":
        axis, lengths = 1, [np.column_stack([one]).shape[1] for one in parts]
    elif join == "dstack":
        axis, lengths = 2, [np.dstack([one]).shape[2] for one in parts]
    else:
        axis = 0 if np.ndim(g) == 1 else 1
        lengths = [np.atleast_1d(one).shape[axis] for one in parts]
    begin = sum(lengths[:i])
    return np.reshape(g[(slice(None),) * axis + (slice(begin, begin + lengths[i]),)], shape)


def sort(_: int, g: Any, v: Any, x: Any, axis: Any = -1) -> Any:
    order = np.argsort(x, axis=axis)
    return placed(g, np.take_along_axis(numbered(x), order, axis), x)


def same_shape(_: int, g: Any, v: Any, x: Any, **__: Any) -> Any:
    return np.reshape(g, np.shape(x))


def transpose(_: int, g: Any, v: Any, x: Any, axes: Any = None) -> Any:
    if axes is None or isinstance(axes, int):
        return np.transpose(g)
    return np.transpose(
        g, [axes.index(i) if i in axes else axes.index(i - len(axes)) for i in range(len(axes))]
    )


def swapaxes(_: int, g: Any, v: Any, x: Any, axis1: int, axis2: int) -> Any:
    return np.swapaxes(g, axis2, axis1)


def moveaxis(_: int, g: Any, v: Any, x: Any, source: Any, destination: Any) -> Any:
    return np.moveaxis(g, destination, source)


def flip(_: int, g: Any, v: Any, x: Any, axis: Any = None) -> Any:
    return np.flip(g, axis)


def cumsum(_: int, g: Any, v: Any, x: Any, axis: Any = None) -> Any:
    return np.reshape(np.flip(np.cumsum(np.flip(g, axis), axis), axis), np.shape(x))


def diff(_: int, g: Any, v: Any, x: Any, n: int = 1, axis: int = -1) -> Any:
    for times in range(n - 1, -1, -1):
        shape = list(np.shape(x))
        shape[axis] = max(shape[axis] - times, 0)
        found = np.zeros(shape, np.result_type(g))
        before: Any = [slice(None)] * len(shape)
        before[axis] = slice(1, None)
        found[tuple(before)] += g
        before[axis] = slice(None, -1)
        found[tuple(before)] -= g
        g = found
    return g


def repeat(_: int, g: Any, v: Any, x: Any, repeats: Any, axis: Any = None) -> Any:
    shape = np.shape(x)
    axis = axis if shape else None
    if not isinstance(repeats, int):
        return added(g, np.repeat(numbered(x), repeats, axis), x)
    if axis is None:
        return np.reshape(np.sum(np.reshape(g, (np.size(x), repeats)), axis=1), shape)
    axis %= len(shape)
    return np.sum(np.reshape(g, (*shape[: axis + 1], repeats, *shape[axis + 1 :])), axis=axis + 1)


def tile(_: int, g: Any, v: Any, x: Any, reps: Any) -> Any:
    times = np.atleast_1d(reps).tolist()
    axes = max(len(times), np.ndim(x))
    times = [1] * (axes - len(times)) + times
    shape = [1] * (axes - np.ndim(x)) + list(np.shape(x))
    apart = [n for one in zip(times, shape, strict=True) for n in one]
    return np.reshape(np.sum(np.reshape(g, apart), axis=tuple(range(0, 2 * axes, 2))), np.shape(x))


def trace(_: int, g: Any, v: Any, x: Any, offset: int = 0) -> Any:
    found = np.zeros(np.shape(x), np.result_type(g))
    for i in range(np.shape(x)[0]):
        if 0 <= i + offset < np.shape(x)[1]:
            found[i, i + offset] = g
    return found


def broadcast_to(_: int, g: Any, v: Any, x: Any, shape: Any) -> Any:
    return summed(g, x)


def triu(_: int, g: Any, v: Any, x: Any, k: int = 0) -> Any:
    return summed(np.triu(g, k), x)


def tril(_: int, g: Any, v: Any, x: Any, k: int = 0) -> Any:
    return summed(np.tril(g, k), x)


UNARIES = {
    "square": lambda g, v, x: g * (2 * x),
    "sqrt": lambda g, v, x: g / (2 * v),
    "cbrt": lambda g, v, x: g / (3 * (v * v)),
    "reciprocal": lambda g, v, x: -(g * (v * v)),
    "absolute": lambda g, v, x: g * np.sign(x),
    "fabs": lambda g, v, x: g * np.sign(x),
    "negative": lambda g, v, x: g * -1,
    "positive": lambda g, v, x: g * 1,
    "exp": lambda g, v, x: g * v,
    "exp2": lambda g, v, x: g * (v * LN2),
    "expm1": lambda g, v, x: g * np.exp(x),
    "log": lambda g, v, x: g / x,
    "log2": lambda g, v, x: g / (x * LN2),
    "log10": lambda g, v, x: g / (x * LN10),
    "log1p": lambda g, v, x: g / (1 + x),
    "sin": lambda g, v, x: g * np.cos(x),
    "cos": lambda g, v, x: -(g * np.sin(x)),
    "tan": lambda g, v, x: g * (1 + v * v),
    "arcsin": lambda g, v, x: g / np.sqrt((1 - x) * (1 + x)),
    "arccos": lambda g, v, x: -(g / np.sqrt((1 - x) * (1 + x))),
    "arctan": lambda g, v, x: g / (1 + x * x),
    "sinh": lambda g, v, x: g * np.cosh(x),
    "cosh": lambda g, v, x: g * np.sinh(x),
    "tanh": lambda g, v, x: g * (1 - v * v),
    "arcsinh": lambda g, v, x: g / np.hypot(x, 1),
    "arccosh": lambda g, v, x: g / (np.sqrt(x - 1) * np.sqrt(x + 1)),
    "arctanh": lambda g, v, x: g / ((1 - x) * (1 + x)),
    "degrees": lambda g, v, x: g * (180 / math.pi),
    "rad2deg": lambda g, v, x: g * (180 / math.pi),
    "radians": lambda g, v, x: g * (math.pi / 180),
    "deg2rad": lambda g, v, x: g * (math.pi / 180),
}


def zeta(x: Any) -> Any:
    return scipy.special.zeta(2, x)


SPECIALS = {
    "expit": lambda g, v, x: g * (v * (1 - v)),
    "logit": lambda g, v, x: g / (x * (1 - x)),
    "log_expit": lambda g, v, x: g * scipy.special.expit(-x),
    "erf": lambda g, v, x: g * (2 / math.sqrt(math.pi) * np.exp(-(x * x))),
    "erfc": lambda g, v, x: -(g * (2 / math.sqrt(math.pi) * np.exp(-(x * x)))),
    "ndtr": lambda g, v, x: g * (1 / math.sqrt(2 * math.pi) * np.exp(x * x * -0.5)),
    "log_ndtr": lambda g, v, x: g * (1 / math.sqrt(2 * math.pi) * np.exp(x * x * -0.5 - v)),
    "gammaln": lambda g, v, x: g * scipy.special.psi(x),
    "psi": lambda g, v, x: g * zeta(x),
    "entr": lambda g, v, x: -(g * (np.log(x) + 1)),
}


def angle(x: Any, y: Any) -> Any:
    return one_over(np.hypot(x, y))


PAIRS = {
    "multiply": product,
    "add": lambda i, g, v, x, y: g * 1,
    "subtract": lambda i, g, v, x, y: g * -1 if i else g * 1,
    "divide": pair(lambda g, v, x, y: g / y, lambda g, v, x, y: -(g / y * v)),
    "power": power,
    "float_power": pair(
        lambda g, v, x, y: g * (y * np.float_power(x, np.where(y == 0, 0, y - 1))),
        lambda g, v, x, y: g * (v * np.log(np.where(x > 0, x, 1))),
    ),
    "arctan2": pair(
        lambda g, v, y, x: g * (x / angle(x, y) / angle(x, y)),
        lambda g, v, y, x: -(g * (y / angle(x, y) / angle(x, y))),
    ),
    "hypot": pair(
        lambda g, v, x, y: g * (x / one_over(v)), lambda g, v, x, y: g * (y / one_over(v))
    ),
    "logaddexp": pair(
        lambda g, v, x, y: g * np.exp(x - instead(v, -math.inf, 0)),
        lambda g, v, x, y: g * np.exp(y - instead(v, -math.inf, 0)),
    ),
    "logaddexp2": pair(
        lambda g, v, x, y: g * np.exp2(x - instead(v, -math.inf, 0)),
        lambda g, v, x, y: g * np.exp2(y - instead(v, -math.inf, 0)),
    ),
    "maximum": picked(lambda a, b: a > b, False),
    "minimum": picked(lambda a, b: a < b, False),
    "fmax": picked(lambda a, b: a > b, True),
    "fmin": picked(lambda a, b: a < b, True),
    "copysign": pair(lambda g, v, x, y: g * np.copysign(1, x) * np.copysign(1, y), None),
    "remainder": pair(lambda g, v, x, y: g * 1, lambda g, v, x, y: -(g * np.floor(x / y))),
    "fmod": pair(lambda g, v, x, y: g * 1, lambda g, v, x, y: -(g * np.trunc(x / y))),
    "xlogy": pair(lambda g, v, x, y: g * np.log(y), lambda g, v, x, y: g * (x / y)),
    "xlog1py": pair(lambda g, v, x, y: g * np.log1p(y), lambda g, v, x, y: g * (x / (1 + y))),
}
WITHOUT = words("""less less_equal greater greater_equal equal not_equal floor_divide bitwise_and
bitwise_or bitwise_xor invert logical_and logical_or logical_xor logical_not isnan isinf isfinite
signbit sign floor ceil trunc rint heaviside any all argmax argmin argsort round around zeros_like
ones_like full_like""")
RULES: dict[str, Rule | None] = {
    **{name: unary(rule) for name, rule in (UNARIES | SPECIALS).items()},
    **PAIRS,
    **dict.fromkeys(WITHOUT),
    "where": where,
    "clip": clip,
    "select": select,
    "sum": sum_,
    **dict.fromkeys(("mean", "average"), mean),
    **dict.fromkeys(("max", "min", "amax", "amin", "nanmax", "nanmin"), extreme),
    "ptp": ptp,
    "nansum": nansum,
    "nanmean": nanmean,
    "nan_to_num": unary(lambda g, v, x: np.where(np.isfinite(x), g, 0)),
    "prod": prod,
    "var": var,
    "std": std,
    "norm": norm,
    "matmul": matmul,
    "dot": dot,
    "inner": inner,
    "tensordot": tensordot,
    "cross": cross,
    "outer": outer,
    "moved": moved,
    "sort": sort,
    "getitem": getitem,
    "take": taken,
    "take_along_axis": taken,
    "setitem": setitem,
    "joined": joined,
    "cumsum": cumsum,
    "diff": diff,
    "repeat": repeat,
    "tile": tile,
    "trace": trace,
    "T": unary(lambda g, v, x: np.transpose(g)),
    "mT": unary(lambda g, v, x: np.swapaxes(g, -1, -2)),
    "transpose": transpose,
    "swapaxes": swapaxes,
    "moveaxis": moveaxis,
    "flip": flip,
    "copy": unary(lambda g, v, x: g),
    **dict.fromkeys(
        words("reshape ravel squeeze expand_dims atleast_1d atleast_2d atleast_3d"), same_shape
    ),
    "triu": triu,
    "tril": tril,
    "broadcast_to": broadcast_to,
}
ELEMENTWISE = {*PAIRS, "where", "clip"}
