"""The table of operations: what a graph is made of. A row is all that there is to say of one.

What records operations, runs the nodes one by one, differentiates, plans passes, lists and draws
graphs and checks pickles reads this table. To add an operation is to add a row.
"""

from __future__ import annotations

import functools
import importlib
import math
import operator
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import core, reference
from ..base import Placeholder
from . import adjoints

# Operations by name, as they are to be run: on arrays and numbers, on names of values (for the
# graph of a gradient), or on kinds of values (for a plan).
Operations = Mapping[str, Callable[..., Any]]

# A rule, in plain NumPy: from the gradient of the value, the value and the operands, and by name
# the options, to the gradient of one operand, in that operand's shape or in one that it was
# broadcast to. It is called with symbols, see rules.py.
Rule = Callable[..., Any]


def no_rule(*_: Any, **__: Any) -> Any:
    """Stands where a function can be computed, but not differentiated."""
    raise NotImplementedError


class Operation(NamedTuple):
    """A row.

    Attributes
    ----------
    plain : callable
        What is right, in plain NumPy.
    gradients : tuple of (callable or None), or callable
        A rule for each operand; None passes no gradient on. An operation of any number of operands
        has one rule, which is also given ``which`` of them it is for.
    text : str
        How it is listed, with a place for each operand; by default its name with all operands.
    symbol : str
        How it is drawn, in a circle; without one, a box with its name is drawn.
    ufunc : numpy.ufunc or None
        Recorded as this operation.
    operator : str
        The name of Python's operator without underscores, also recorded.
    functions : tuple of callable
        NumPy's functions, also recorded.
    methods : tuple of str
        Those of arrays, also recorded.
    takes : str
        The parameters of these functions, in order: operands, then options. Options in square
        brackets are refused.
    elementwise : bool
        Whether it computes each element of the broadcast operands by itself.
    python : str
        The same in Python, for graphs of numbers alone; without it their nodes are run.
    commutes : bool
        Whether the operands may be swapped, in every bit.
    like : container of int
        The operands of which only the shape matters.
    step : str
        The step of a pass that computes it, if it has another name.
    view : bool
        Whether the value may share memory with the first operand.
    in_place : bool
        Whether the value has the shape and the dtype of the first operand.
    owner : str
        Whose ufunc it is: "numpy", "scipy", or "anybody", who may have loops that raise.
    """

    plain: Callable[..., Any]
    gradients: tuple[Rule | None, ...] | Rule
    text: str = ""
    symbol: str = ""
    ufunc: np.ufunc | None = None
    operator: str = ""
    functions: tuple[Callable[..., Any], ...] = ()
    methods: tuple[str, ...] = ()
    takes: str = ""
    elementwise: bool = False
    python: str = ""
    commutes: bool = False
    like: Container[int] = ()
    step: str = ""
    view: bool = False
    in_place: bool = False
    owner: str = "numpy"


class _Of:
    """The table's operations as functions of symbols, for rules: what NumPy has no name for."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def recorded(*operands: Any, **options: Any) -> Any:
            symbol = next(one for one in operands if isinstance(one, Placeholder))
            return symbol.record(name, operands, options)

        return recorded


of = _Of()


def broadcast_to(value: Any, like: Any) -> Any:
    """Repeat a value at every element of another; a Python number takes its dtype, as usual."""
    if not hasattr(like, "dtype"):
        if hasattr(like, "shape"):  # a DataFrame
            raise TypeError(
                f"the gradients of a graph are those of arrays and numbers, not of a "
                f"{type(like).__name__}: give the graph arrays, as by .to_numpy()"
            )
        return reference.sum_to_operand(value, like)  # a number for a number
    if np.shape(value) == like.shape and hasattr(value, "dtype"):
        return value
    if hasattr(value, "dtype"):
        return np.broadcast_to(value, like.shape, subok=True)
    # To NumPy a Fraction, for example, is an object.
    kind = value if isinstance(value, int | float | complex) else np.dtype(object)
    full = np.full_like(_plain(like), value, dtype=np.result_type(like.dtype, kind))
    return full if full.ndim else full[()]


def zeros_like(operand: Any) -> Any:
    """No gradient: zeros of the operand's shape and dtype, or the number 0."""
    return np.zeros_like(_plain(operand))[()] if hasattr(operand, "dtype") else 0


def scalar(value: Any) -> Any:
    """An array without axes as NumPy's scalar, as arithmetic gives it."""
    return value[()] if type(value) is np.ndarray and not value.ndim else value


def _plain(array: Any) -> Any:
    """A subclass's array as a plain array on the same memory."""
    return np.asarray(array) if isinstance(array, np.ndarray | np.generic) else array


OPERATIONS: dict[str, Operation] = {}

# ---- arithmetic, of which passes are made ----

OPERATIONS |= {
    "multiply": Operation(
        operator.mul,
        (
            lambda g, v, x, y: of.multiply_to(g, y, x),
            lambda g, v, x, y: of.multiply_to(g, x, y),
        ),
        "{} * {}",
        symbol="\N{MULTIPLICATION SIGN}",
        ufunc=np.multiply,
        operator="mul",
        python="{} * {}",
        commutes=True,
    ),
    "add": Operation(
        operator.add,
        (
            lambda g, v, x, y: of.multiply_to(g, 1, x),
            lambda g, v, x, y: of.multiply_to(g, 1, y),
        ),
        "{} + {}",
        symbol="+",
        ufunc=np.add,
        operator="add",
        python="{} + {}",
    ),
    "subtract": Operation(
        operator.sub,
        (
            lambda g, v, x, y: of.multiply_to(g, 1, x),
            lambda g, v, x, y: of.multiply_to(g, -1, y),
        ),
        "{} - {}",
        symbol="\N{MINUS SIGN}",
        ufunc=np.subtract,
        operator="sub",
        python="{} - {}",
    ),
    "negative": Operation(
        operator.neg,
        (lambda g, v, x: g * -1,),
        "-{}",
        symbol="\N{MINUS SIGN}",
        ufunc=np.negative,
        operator="neg",
        python="-{}",
    ),
    "positive": Operation(
        operator.pos,
        (lambda g, v, x: g * 1,),
        "+{}",
        symbol="+",
        ufunc=np.positive,
        operator="pos",
        python="+{}",
    ),
}

# ---- other operators ----


def _divided(g: Any, v: Any, x: Any, y: Any) -> Any:
    return -(g / y * v)


OPERATIONS |= {
    "divide": Operation(
        operator.truediv,
        (lambda g, v, x, y: g / y, _divided),
        "{} / {}",
        python="{} / {}",
        symbol="\N{DIVISION SIGN}",
        ufunc=np.divide,
        operator="truediv",
    ),
    "power": Operation(
        operator.pow,
        (
            lambda g, v, x, y: of.power_back_first(g, x, y),
            lambda g, v, x, y: of.power_back_second(g, v, x),
        ),
        "{} ** {}",
        python="{} ** {}",
        symbol="**",
        ufunc=np.power,
        operator="pow",
    ),
    "absolute": Operation(
        operator.abs,
        (lambda g, v, x: g * np.sign(x),),
        "abs({})",
        ufunc=np.absolute,
        operator="abs",
    ),
    "matmul": Operation(
        operator.matmul,
        (),  # see _product
        "{} @ {}",
        symbol="@",
        ufunc=np.matmul,
        operator="matmul",
    ),
}

# Of two operands, without a gradient.
for _name, _operator, _sign in (
    ("less", "lt", "<"),
    ("less_equal", "le", "<="),
    ("greater", "gt", ">"),
    ("greater_equal", "ge", ">="),
    ("equal", "eq", "=="),
    ("not_equal", "ne", "!="),
    ("floor_divide", "floordiv", "//"),
    ("bitwise_and", "and", "&"),
    ("bitwise_or", "or", "|"),
    ("bitwise_xor", "xor", "^"),
    ("left_shift", "lshift", "<<"),
    ("right_shift", "rshift", ">>"),
):
    OPERATIONS[_name] = Operation(
        getattr(operator, f"__{_operator}__"),
        (None, None),
        f"{{}} {_sign} {{}}",
        symbol=_sign,
        ufunc=getattr(np, _name),
        operator=_operator,
    )
OPERATIONS["remainder"] = Operation(
    operator.mod,
    (lambda g, v, x, y: g * 1, lambda g, v, x, y: -(g * np.floor(x / y))),
    "{} % {}",
    symbol="%",
    ufunc=np.remainder,
    operator="mod",
)
OPERATIONS["invert"] = Operation(
    operator.invert, (None,), "~{}", symbol="~", ufunc=np.invert, operator="invert"
)

# ---- functions of one operand, element by element ----

LN2, LN10 = math.log(2), math.log(10)


def _safe(v: Any, bad: float, instead: float) -> Any:
    return np.where(v == bad, instead, v)


for _name, _rule in {
    "square": lambda g, v, x: g * (2 * x),
    "sqrt": lambda g, v, x: g / (2 * v),
    "cbrt": lambda g, v, x: g / (3 * (v * v)),
    "reciprocal": lambda g, v, x: -(g * (v * v)),
    "fabs": lambda g, v, x: g * np.sign(x),
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
}.items():
    OPERATIONS[_name] = Operation(getattr(np, _name), (_rule,), ufunc=getattr(np, _name))

# ---- functions of two operands, element by element ----

for _name, _rules in {
    "arctan2": (
        lambda g, v, y, x: g * (x / (h := _safe(np.hypot(x, y), 0, 1)) / h),
        lambda g, v, y, x: -(g * (y / (h := _safe(np.hypot(x, y), 0, 1)) / h)),
    ),
    "hypot": (
        lambda g, v, x, y: g * (x / _safe(v, 0, 1)),
        lambda g, v, x, y: g * (y / _safe(v, 0, 1)),
    ),
    "logaddexp": (
        lambda g, v, x, y: g * np.exp(x - _safe(v, -math.inf, 0)),
        lambda g, v, x, y: g * np.exp(y - _safe(v, -math.inf, 0)),
    ),
    "logaddexp2": (
        lambda g, v, x, y: g * np.exp2(x - _safe(v, -math.inf, 0)),
        lambda g, v, x, y: g * np.exp2(y - _safe(v, -math.inf, 0)),
    ),
    "maximum": (
        lambda g, v, x, y: np.where(x > y, g, np.where(x == y, g / 2, 0)),
        lambda g, v, x, y: np.where(y > x, g, np.where(x == y, g / 2, 0)),
    ),
    "minimum": (
        lambda g, v, x, y: np.where(x < y, g, np.where(x == y, g / 2, 0)),
        lambda g, v, x, y: np.where(y < x, g, np.where(x == y, g / 2, 0)),
    ),
    # Of a number and NaN these are the number.
    "fmax": (
        lambda g, v, x, y: np.where((x > y) | np.isnan(y), g, np.where(x == y, g / 2, 0)),
        lambda g, v, x, y: np.where((y > x) | np.isnan(x), g, np.where(x == y, g / 2, 0)),
    ),
    "fmin": (
        lambda g, v, x, y: np.where((x < y) | np.isnan(y), g, np.where(x == y, g / 2, 0)),
        lambda g, v, x, y: np.where((y < x) | np.isnan(x), g, np.where(x == y, g / 2, 0)),
    ),
    "copysign": (lambda g, v, x, y: g * np.copysign(1, x) * np.copysign(1, y), None),
    "fmod": (lambda g, v, x, y: g * 1, lambda g, v, x, y: -(g * np.trunc(x / y))),
    "float_power": (
        lambda g, v, x, y: g * (y * np.float_power(x, np.where(y == 0, 0, y - 1))),
        lambda g, v, x, y: g * (v * np.log(np.where(x > 0, x, 1))),
    ),
    "ldexp": (lambda g, v, x, y: np.ldexp(g, y), None),
    "nextafter": (lambda g, v, x, y: g * 1, None),
}.items():
    OPERATIONS[_name] = Operation(getattr(np, _name), _rules, ufunc=getattr(np, _name))

# Without a gradient.
for _name in (
    *("logical_and", "logical_or", "logical_xor", "logical_not"),
    *("isnan", "isinf", "isfinite", "signbit", "sign"),
    *("floor", "ceil", "trunc", "rint", "heaviside"),
):
    _ufunc = getattr(np, _name)
    OPERATIONS[_name] = Operation(_ufunc, (None,) * _ufunc.nin, ufunc=_ufunc)

# ---- selects ----


def _clip_back(g: Any, v: Any, x: Any, *limits: Any, which: int, bounds: str) -> Any:
    """Of ``x``, or of the lower or the upper limit; ``bounds`` tells which of these there are."""
    given = dict(zip(bounds, limits, strict=True))
    if which:
        return (
            np.where(x < limits[which - 1], g, 0)
            if bounds[which - 1] == "l"
            else (np.where(x > limits[which - 1], g, 0))
        )
    if "l" not in given:
        return np.where(x <= given["u"], g, 0)
    if "u" not in given:
        return np.where(x >= given["l"], g, 0)
    return np.where((x >= given["l"]) & (x <= given["u"]), g, 0)


def _clipped(x: Any, *limits: Any, bounds: str) -> Any:
    given = dict(zip(bounds, limits, strict=True))
    return np.clip(x, given.get("l"), given.get("u"))


def _select(c: Any, x: Any, y: Any) -> Any:
    chosen = np.where(c, x, y)
    return chosen if np.ndim(chosen) else chosen[()]


CHOSEN: tuple[Rule | None, ...] = (
    None,
    lambda g, v, c, x, y: np.where(c, g, 0),
    lambda g, v, c, x, y: np.where(c, 0, g),
)
OPERATIONS |= {
    "select": Operation(_select, CHOSEN, elementwise=True),
    "where": Operation(
        np.where,
        CHOSEN,
        functions=(np.where,),
        takes="condition x y",
        elementwise=True,
    ),
    "clip": Operation(
        _clipped,
        _clip_back,
        functions=(np.clip,),
        methods=("clip",),
        takes="a a_min a_max [out] min max",
        elementwise=True,
    ),
}


def _select_of(*operands: Any, count: int) -> Any:
    return np.select(list(operands[:count]), list(operands[count:-1]), operands[-1])


def _select_of_back(g: Any, v: Any, *operands: Any, which: int, count: int) -> Any:
    """Of a choice, for which its condition is the first that holds; or of the default."""
    if which < count:
        return None
    place = which - count
    if place < count:
        g = np.where(operands[place], g, 0)
    for condition in operands[:place]:
        g = np.where(condition, 0, g)
    return of.sum_to(g, operands[which])


OPERATIONS["np.select"] = Operation(
    _select_of, _select_of_back, functions=(np.select,), takes="condlist choicelist default"
)

# ---- reductions ----


def _spread(g: Any, v: Any, x: Any, **options: Any) -> Any:
    return of.spread(g, x, **options)


def _mean_back(g: Any, v: Any, x: Any, **options: Any) -> Any:
    axis = options.get("axis")
    return of.spread(g / of.count(x, axis=axis), x, **options)


def _max_back(g: Any, v: Any, x: Any, **options: Any) -> Any:
    """Evenly to all elements that are the largest, or the smallest."""
    same = x == of.spread(v, x, **options)
    g = of.spread(g, x, **options)
    return np.where(same, g / np.maximum(of.sum_as(same, g, axis=options.get("axis")), 1), 0)


def _prod_back(g: Any, v: Any, x: Any, **options: Any) -> Any:
    axis = options.get("axis")
    zero = x == 0
    zeros = of.sum_as(zero, g, axis=axis)
    others = np.prod(np.where(zero, 1, x), axis=axis, keepdims=True)
    product = np.where(zeros == 0, others / np.where(zero, 1, x), np.where(zeros == 1, others, 0))
    return of.spread(g, x, **options) * np.where(zero | (zeros == 0), product, 0)


def _deviation(x: Any, axis: Any, ddof: float) -> Any:
    return (x - np.mean(x, axis=axis, keepdims=True)) / (of.count(x, axis=axis) - ddof)


def _var_back(g: Any, v: Any, x: Any, ddof: float = 0, **options: Any) -> Any:
    return of.spread(g, x, **options) * (2 * _deviation(x, options.get("axis"), ddof))


def _std_back(g: Any, v: Any, x: Any, ddof: float = 0, **options: Any) -> Any:
    scaled = of.spread(g / _safe(v, 0, 1), x, **options)
    return scaled * _deviation(x, options.get("axis"), ddof)


def _norm_back(g: Any, v: Any, x: Any, ord: Any = None, **options: Any) -> Any:
    return of.spread(g, x, **options) * (x / of.spread(_safe(v, 0, 1), x, **options))


def _ptp_back(g: Any, v: Any, x: Any, **options: Any) -> Any:
    largest = _max_back(g, np.max(x, **options), x, **options)
    return largest - _max_back(g, np.min(x, **options), x, **options)


def _nansum_back(g: Any, v: Any, x: Any, **options: Any) -> Any:
    return np.where(np.isnan(x), 0, of.spread(g, x, **options))


def _nanmean_back(g: Any, v: Any, x: Any, **options: Any) -> Any:
    count = of.sum_as(~np.isnan(x), g, axis=options.get("axis"))
    return np.where(np.isnan(x), 0, of.spread(g, x, **options) / np.maximum(count, 1))


def _numpys(function: Callable[..., Any], takes: str, *gradients: Rule | None, **row: Any) -> None:
    """A row for a function of NumPy's, and for arrays' method of that name."""
    name = function.__name__
    methods = (name,) if callable(getattr(np.ndarray, name, None)) else ()
    OPERATIONS[name] = Operation(
        function, gradients, functions=(function,), methods=methods, takes=takes, **row
    )


_numpys(np.sum, "a axis [dtype] [out] keepdims [initial] [where]", _spread, symbol="Σ")
_numpys(np.mean, "a axis [dtype] [out] keepdims [where]", _mean_back)
_numpys(np.max, "a axis [out] keepdims [initial] [where]", _max_back)
_numpys(np.min, "a axis [out] keepdims [initial] [where]", _max_back)
OPERATIONS["max"] = OPERATIONS["max"]._replace(functions=(np.max, np.amax))
OPERATIONS["min"] = OPERATIONS["min"]._replace(functions=(np.min, np.amin))
_numpys(np.prod, "a axis [dtype] [out] keepdims [initial] [where]", _prod_back)
_numpys(np.var, "a axis [dtype] [out] ddof keepdims [where] [mean] [correction]", _var_back)
_numpys(np.std, "a axis [dtype] [out] ddof keepdims [where] [mean] [correction]", _std_back)
_numpys(np.linalg.norm, "x [ord] axis keepdims", _norm_back)
_numpys(np.average, "a axis [weights] [returned] keepdims", _mean_back)
_numpys(np.ptp, "a axis [out] keepdims", _ptp_back)
_numpys(np.nansum, "a axis [dtype] [out] keepdims [initial] [where]", _nansum_back)
_numpys(np.nanmean, "a axis [dtype] [out] keepdims [where]", _nanmean_back)
_numpys(np.nanmax, "a axis [out] keepdims [initial] [where]", _max_back)
_numpys(np.nanmin, "a axis [out] keepdims [initial] [where]", _max_back)
_numpys(np.any, "a axis [out] keepdims [where]", None)
_numpys(np.all, "a axis [out] keepdims [where]", None)
_numpys(np.argmax, "a axis [out] keepdims", None)
_numpys(np.argmin, "a axis [out] keepdims", None)

# ---- products ----


def _product(name: str) -> None:
    """Complete the row of a product.

    Its gradients pass back by two functions in adjoints.py, which are products as well: of the
    gradient and the other operand.
    """

    def product(x: Any, y: Any, **options: Any) -> Any:
        return getattr(of, name)(x, y, **options)

    def to_first(g: Any, x: Any, y: Any, **options: Any) -> Any:
        return getattr(of, f"{name}_back_first")(g, x, y, **options)

    def to_second(g: Any, x: Any, y: Any, **options: Any) -> Any:
        return getattr(of, f"{name}_back_second")(g, x, y, **options)

    OPERATIONS[name] = OPERATIONS[name]._replace(
        gradients=(
            lambda g, v, x, y, **options: to_first(g, x, y, **options),
            lambda g, v, x, y, **options: to_second(g, x, y, **options),
        )
    )
    OPERATIONS[f"{name}_back_first"] = Operation(
        getattr(adjoints, f"{name}_back_first"),
        (
            lambda g, v, dout, x, y, **options: product(g, y, **options),
            None,
            lambda g, v, dout, x, y, **options: to_second(dout, g, y, **options),
        ),
        like=(1,),
    )
    OPERATIONS[f"{name}_back_second"] = Operation(
        getattr(adjoints, f"{name}_back_second"),
        (
            lambda g, v, dout, x, y, **options: product(x, g, **options),
            lambda g, v, dout, x, y, **options: to_first(dout, x, g, **options),
            None,
        ),
        like=(2,),
    )


_numpys(np.dot, "a b [out]")
_numpys(np.inner, "a b")
_numpys(np.tensordot, "a b axes")
_numpys(np.cross, "a b [axisa] [axisb] [axisc] [axis]")
for _name in ("matmul", "dot", "inner", "tensordot", "cross"):
    _product(_name)
_numpys(
    np.outer,
    "a b [out]",
    lambda g, v, x, y: of.reshaped(g @ np.ravel(y), x),
    lambda g, v, x, y: of.reshaped(np.ravel(x) @ g, y),
)


def _einsum(*operands: Any, subscripts: str) -> Any:
    return np.einsum(subscripts, *operands)


def _einsum_back(g: Any, v: Any, *operands: Any, which: int, subscripts: str) -> Any:
    """The sum of products by the letters that the others and the value have, then spread."""
    given, _, result = subscripts.partition("->")
    letters = given.split(",")
    own, others = letters[which], letters[:which] + letters[which + 1 :]
    if len(set(own)) < len(own):
        raise NotImplementedError("a diagonal by np.einsum has no gradient here")
    known = set(result).union(*others)
    kept = "".join(letter for letter in own if letter in known)
    rest = [operand for i, operand in enumerate(operands) if i != which]
    back = np.einsum(f"{','.join([result, *others])}->{kept}", g, *rest)
    lost = tuple([i for i, letter in enumerate(own) if letter not in known])
    return (
        of.spread(back, operands[which], axis=lost) if lost else of.reshaped(back, operands[which])
    )


OPERATIONS["einsum"] = Operation(
    _einsum, _einsum_back, functions=(np.einsum,), takes="subscripts operands [out] [optimize]"
)

# ---- what is linear in its first operand: sums, views, parts, joined arrays ----


def _linear(name: str, indexed: bool = False, like: Container[int] = (1,)) -> None:
    """Complete the row of a function that is linear in its first operand.

    Its gradient passes back by the function in adjoints.py of that name with ``_back``, which is
    linear as well: what differentiates that is the first function again. There may be other
    operands without a gradient: what it is ``indexed`` by.
    """

    def rule(g: Any, v: Any, x: Any, *others: Any, which: int = 0, **options: Any) -> Any:
        return getattr(of, f"{name}_back")(g, x, *others, **options) if which == 0 else None

    def rule_of_back(
        g: Any, v: Any, gradient: Any, x: Any, *others: Any, which: int = 0, **options: Any
    ) -> Any:
        return getattr(of, name)(g, *others, **options) if which == 0 else None

    gradients = (rule, rule_of_back) if indexed else ((rule,), (rule_of_back, None))
    OPERATIONS[name] = OPERATIONS[name]._replace(gradients=gradients[0])
    back = getattr(adjoints, f"{name}_back")
    OPERATIONS[f"{name}_back"] = Operation(back, gradients[1], like=like)


def _sum_as(x: Any, g: Any, axis: Any = None) -> Any:
    return np.sum(x, axis=axis, keepdims=True, dtype=np.result_type(g))


OPERATIONS |= {
    "count": Operation(adjoints.count, (None,), like=(0,)),
    "sum_as": Operation(_sum_as, (None, None), like=(1,)),
    "power_back_first": Operation(
        adjoints.power_back_first,
        (
            lambda g, v, dout, x, y: of.power_back_first(g, x, y),
            lambda g, v, dout, x, y: of.power_back_first(g * dout * y, x, y - 1),
            lambda g, v, dout, x, y: (
                g * dout * (x ** (y - 1) * (1 + y * np.log(np.where(x > 0, x, 1))))
            ),
        ),
        elementwise=True,
    ),
    "power_back_second": Operation(
        adjoints.power_back_second,
        (
            lambda g, v, dout, value, x: of.power_back_second(g, value, x),
            lambda g, v, dout, value, x: of.power_back_second(g, dout, x),
            lambda g, v, dout, value, x: g * dout * (value / np.where(x > 0, x, 1)),
        ),
        elementwise=True,
    ),
}

# ---- views, copies, moved elements ----


def _transpose_back(g: Any, v: Any, x: Any, axes: Any = None) -> Any:
    if not isinstance(axes, tuple):  # none, or the one axis that there is
        return np.transpose(g)
    return np.transpose(g, tuple(np.argsort([axis % len(axes) for axis in axes]).tolist()))


def _reshaped(g: Any, v: Any, x: Any, **_: Any) -> Any:
    return of.reshaped(g, x)


def _roll_back(g: Any, v: Any, x: Any, shift: Any, axis: Any = None) -> Any:
    back = tuple([-one for one in shift]) if isinstance(shift, tuple) else -shift
    return np.roll(g, back, axis)


def _sort_back(g: Any, v: Any, x: Any, axis: int | None = -1, kind: Any = None) -> Any:
    back = np.argsort(np.argsort(x, axis=axis, kind=kind), axis=axis)
    return of.reshaped(np.take_along_axis(g, back, axis), x)


def _cumsum_back(g: Any, v: Any, x: Any, axis: int | None = None) -> Any:
    return of.reshaped(np.flip(np.cumsum(np.flip(g, axis), axis), axis), x)


OPERATIONS |= {
    # In the shape of another one: also what moves axes and elements passes back.
    "reshaped": Operation(
        adjoints.reshaped, (lambda g, v, x, like: of.reshaped(g, x), None), like=(1,)
    ),
    "T": Operation(operator.attrgetter("T"), (lambda g, v, x: np.transpose(g),), "{}.T"),
    "mT": Operation(operator.attrgetter("mT"), (lambda g, v, x: np.swapaxes(g, -1, -2),), "{}.mT"),
    "flatten": Operation(
        operator.methodcaller("flatten"), (_reshaped,), methods=("flatten",), takes="a [order]"
    ),
    ".copy": Operation(
        operator.methodcaller("copy"), (lambda g, v, x: g,), methods=("copy",), takes="a [order]"
    ),
}
_numpys(np.reshape, "a shape [order] [copy]", _reshaped, view=True)
# NumPy 2.0 has another name for the shape, and Dask wants a tuple.
OPERATIONS["reshape"] = OPERATIONS["reshape"]._replace(
    plain=lambda x, shape: np.reshape(x, (shape,) if isinstance(shape, int) else shape)
)
_numpys(np.ravel, "a [order]", _reshaped, view=True)
_numpys(np.squeeze, "a axis", _reshaped, view=True)
_numpys(np.expand_dims, "a axis", _reshaped, view=True)
for _function in (np.atleast_1d, np.atleast_2d, np.atleast_3d):
    _numpys(_function, "x [another]", _reshaped, view=True)
_numpys(np.transpose, "a axes", _transpose_back, view=True)
_numpys(
    np.swapaxes,
    "a axis1 axis2",
    lambda g, v, x, axis1, axis2: np.swapaxes(g, axis1, axis2),
    view=True,
)
_numpys(
    np.moveaxis,
    "a source destination",
    lambda g, v, x, source, destination: np.moveaxis(g, destination, source),
    view=True,
)
_numpys(np.flip, "m axis", lambda g, v, x, axis=None: np.flip(g, axis), view=True)
_numpys(np.fliplr, "m", lambda g, v, x: np.fliplr(g), view=True)
_numpys(np.flipud, "m", lambda g, v, x: np.flipud(g), view=True)
_numpys(np.rot90, "m k axes", lambda g, v, x, k=1, axes=(0, 1): np.rot90(g, -k, axes), view=True)
_numpys(np.roll, "a shift axis", _roll_back)
_numpys(np.sort, "a axis kind [order] [stable]", _sort_back)
OPERATIONS["sort"] = OPERATIONS["sort"]._replace(methods=())  # the method sorts in place
_numpys(np.argsort, "a axis kind [order] [stable]", None)
_numpys(np.round, "a decimals [out]", None)
OPERATIONS["round"] = OPERATIONS["round"]._replace(functions=(np.round, np.around))
_numpys(
    np.nan_to_num,
    "x [copy] nan posinf neginf",
    lambda g, v, x, **_: np.where(np.isfinite(x), g, 0),
)
# Of an array of one axis, NumPy makes a triangle that has it in every row.
_numpys(np.triu, "m k", lambda g, v, x, k=0: of.sum_to(np.triu(g, k), x))
_numpys(np.tril, "m k", lambda g, v, x, k=0: of.sum_to(np.tril(g, k), x))
_numpys(np.cumsum, "a axis [dtype] [out]", _cumsum_back)
_numpys(np.copy, "a [order] [subok]", lambda g, v, x: g)
OPERATIONS["copy"] = OPERATIONS["copy"]._replace(methods=())  # the method has another default order
_numpys(np.ones_like, "a [dtype] [order] [subok] [shape] [device]", None, like=(0,))
_numpys(np.full_like, "a fill_value [dtype] [order] [subok] [shape] [device]", None, like=(0,))
# Graphs of gradients have functions of these names which do more.
OPERATIONS["np.zeros_like"] = Operation(
    np.zeros_like,
    (None,),
    functions=(np.zeros_like,),
    takes="a [dtype] [order] [subok] [shape] [device]",
    like=(0,),
)
OPERATIONS["np.broadcast_to"] = Operation(
    np.broadcast_to,
    (lambda g, v, x, shape: of.sum_to(g, x),),
    functions=(np.broadcast_to,),
    takes="array shape [subok]",
    view=True,
)

# Of any number of operands only the shape of all but the first matters.
OTHERS = range(1, 1 << 30)

OPERATIONS["spread"] = Operation(
    adjoints.spread,
    (lambda g, v, x, like, **options: np.sum(g, **options), None),
    like=(1,),
)
OPERATIONS["getitem"] = Operation(adjoints.getitem, ())
_numpys(np.take, "a indices axis [out] [mode]")
_numpys(np.take_along_axis, "arr indices axis")
for _split in (np.split, np.array_split, np.hsplit, np.vsplit, np.dsplit):
    _name = _split.__name__
    _options = "axis" if _name in ("split", "array_split") else ""
    OPERATIONS[_name] = Operation(
        getattr(adjoints, _name),
        (),
        functions=(_split,),
        takes=f"x sections {_options}",
        view=True,
    )
    _linear(_name)
_numpys(np.pad, "array pad_width [mode] [constant_values]")
_numpys(np.diff, "a n axis [prepend] [append]")
_numpys(np.repeat, "a repeats axis")
_numpys(np.tile, "A reps")
_numpys(np.diag, "v k", view=True)
_numpys(np.diagonal, "a offset axis1 axis2", view=True)
_numpys(np.trace, "a offset [axis1] [axis2] [dtype] [out]")
for _name in ("getitem", "take", "take_along_axis"):
    _linear(_name, indexed=True)
# In networks alone, which are not differentiated.
OPERATIONS["mean_of_sum"] = Operation(adjoints.mean_of_sum, (None, None), like=(1,))
OPERATIONS["add_part"] = Operation(adjoints.add_part, (None, None, None), like=(2,))
OPERATIONS["split_parts_back"] = Operation(adjoints.split_parts_back, (), like=(0,))
for _name in ("pad", "diff", "repeat", "tile", "diag", "diagonal", "trace"):
    _linear(_name)

# ---- joined arrays: all operands are parts of the value ----


def _join(function: Callable[..., Any], part: str, options: str = "[dtype] [casting]") -> None:
    """A row for a function that joins arrays, and one for the part that comes from an operand."""

    def rule(g: Any, v: Any, *operands: Any, which: int, **options: Any) -> Any:
        return getattr(of, part)(g, *operands, operand=which, **options)

    OPERATIONS[function.__name__] = Operation(
        lambda *arrays, **options: function(arrays, **options),
        rule,
        functions=(function,),
        takes=f"arrays {options}",
    )
    OPERATIONS[part] = Operation(getattr(adjoints, part), ())
    _linear(part, indexed=True, like=OTHERS)


_join(np.concatenate, "part", "axis [out] [dtype] [casting]")
_join(np.stack, "layer_of", "axis [out] [dtype] [casting]")
_join(np.vstack, "row_of")
_join(np.hstack, "column_of")
_join(np.column_stack, "column_stack_part")
_join(np.dstack, "dstack_part")
OPERATIONS["append"] = Operation(
    np.append,
    lambda g, v, *pair, which, axis=None: of.part(g, *pair, operand=which, axis=axis),
    functions=(np.append,),
    takes="arr values axis",
)

# ---- assignment to what a function has made itself ----


def _setitem_back(g: Any, v: Any, y: Any, z: Any, *operands: Any, which: int, **index: Any) -> Any:
    if which == 0:
        return of.without_part(g, *operands, **index)
    if which > 1:
        return None
    return of.sum_to(of.with_axes(of.getitem(g, *operands, **index), z), z)


OPERATIONS["setitem"] = Operation(adjoints.setitem, _setitem_back)
OPERATIONS["without_part"] = Operation(
    adjoints.without_part,
    lambda g, v, x, *operands, which, **index: (
        None if which else of.without_part(g, *operands, **index)
    ),
)
OPERATIONS["with_axes"] = Operation(
    adjoints.with_axes, (lambda g, v, part, z: of.reshaped(g, part), None), like=(1,)
)


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of a copy: the value may be needed as it was."""
    return lambda y, z: function(np.array(y, subok=True) if isinstance(y, np.ndarray) else y, z)


for _name in (
    *("add", "subtract", "multiply", "divide", "power", "floor_divide", "remainder", "matmul"),
    *("bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift"),
):
    _row = OPERATIONS[_name]
    OPERATIONS[f"{_name}_in_place"] = _row._replace(
        plain=_in_place(getattr(operator, f"__i{_row.operator}__")),
        ufunc=None,
        operator=f"i{_row.operator}",
        step=_name,
        in_place=True,
    )

# ---- in graphs of gradients ----

# What plans know of beside the operations that work element by element.
SHAPED = ("sum_to", "multiply_to", "broadcast_to", "zeros_like")

OPERATIONS |= {
    "sum_to": Operation(
        reference.sum_to_operand,
        (lambda g, v, value, like: of.broadcast_to(g, value), None),
        "sum_to({}, like={})",
        symbol="Σ",
        like=(1,),
    ),
    "multiply_to": Operation(
        reference.multiply_to_operand,
        (
            lambda g, v, x, y, like: of.multiply_to(of.broadcast_to(g, x), y, x),
            lambda g, v, x, y, like: of.multiply_to(of.broadcast_to(g, x), x, y),
            None,
        ),
        "sum_to({} * {}, like={})",
        like=(2,),
    ),
    "broadcast_to": Operation(
        broadcast_to,
        (lambda g, v, value, like: of.sum_to(g, value), None),
        "broadcast_to({}, like={})",
        like=(1,),
    ),
    "zeros_like": Operation(zeros_like, (None,), "zeros_like({})", like=(0,)),
    "scalar": Operation(scalar, (lambda g, v, x: g,), "scalar({})"),
}

# ---- SciPy's functions, which may be met without being imported here ----


class OfScipy:
    """A function of scipy.special, imported when it is first called.

    It stays that one, whatever becomes of the module: plans and nodes must have the same.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @functools.cached_property
    def ufunc(self) -> Any:
        return getattr(importlib.import_module("scipy.special"), self.name)

    def __call__(self, *operands: Any) -> Any:
        return self.ufunc(*operands)


TWO_BY_ROOT_PI, ROOT_TWO_PI = 2 / math.sqrt(math.pi), math.sqrt(2 * math.pi)
SCIPYS: dict[str, tuple[Rule, ...]] = {
    "expit": (lambda g, v, x: g * (v * (1 - v)),),
    "logit": (lambda g, v, x: g / (x * (1 - x)),),
    "log_expit": (lambda g, v, x: g * of.expit(-x),),
    "erf": (lambda g, v, x: g * (TWO_BY_ROOT_PI * np.exp(-(x * x))),),
    "erfc": (lambda g, v, x: -(g * (TWO_BY_ROOT_PI * np.exp(-(x * x)))),),
    "ndtr": (lambda g, v, x: g * (1 / ROOT_TWO_PI * np.exp(x * x * -0.5)),),
    "log_ndtr": (lambda g, v, x: g * (1 / ROOT_TWO_PI * np.exp(x * x * -0.5 - v)),),
    "gammaln": (lambda g, v, x: g * of.psi(x),),
    "psi": (lambda g, v, x: g * of.zeta(2, x),),
    "zeta": (no_rule, lambda g, v, s, x: g * (-s * of.zeta(s + 1, x))),
    "xlogy": (lambda g, v, x, y: g * np.log(y), lambda g, v, x, y: g * (x / y)),
    "xlog1py": (lambda g, v, x, y: g * np.log1p(y), lambda g, v, x, y: g * (x / (1 + y))),
    "entr": (lambda g, v, x: -(g * (np.log(x) + 1)),),
}
for _name, _scipys in SCIPYS.items():
    OPERATIONS[_name] = Operation(OfScipy(_name), _scipys, elementwise=True, owner="scipy")

# ---- what follows ----

# NumPy's other functions of this kind can be recorded, but not differentiated.
_known = {row.ufunc for row in OPERATIONS.values()}
for _name, _ufunc in list(vars(np).items()):  # without what NumPy imports when it is asked for
    if isinstance(_ufunc, np.ufunc) and _ufunc.nout == 1 and _ufunc not in _known:
        _known.add(_ufunc)
        OPERATIONS[_name] = Operation(_ufunc, (no_rule,) * _ufunc.nin, ufunc=_ufunc)

for _name, _row in list(OPERATIONS.items()):
    if _row.ufunc:
        _row = OPERATIONS[_name] = _row._replace(elementwise=_row.ufunc.signature is None)
    if _row.ufunc and _row.operator:
        # An operator gives of Python numbers a Python number, and NumPy's function one of NumPy's.
        OPERATIONS[f"np.{_name}"] = _row._replace(
            plain=_row.ufunc, operator="", python="", text="", step=_name
        )
        OPERATIONS[_name] = _row._replace(ufunc=None)
    if _row.in_place:
        OPERATIONS[_name] = _row._replace(elementwise=OPERATIONS[_row.step].elementwise)

# What runs nodes one by one: plain NumPy; the functions of this package; and where a pass has
# computed all of it, and NumPy must warn.
PLAIN: dict[str, Callable[..., Any]] = {name: row.plain for name, row in OPERATIONS.items()}
FUNCTIONS = WARNING = PLAIN
if core.dispatch is not None:
    FUNCTIONS = {**PLAIN, **core.dispatch.functions}
    WARNING = {**FUNCTIONS, **core.dispatch.by_numpy}
