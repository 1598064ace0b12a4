"""Random programs over all that a graph can record, as source text as users write it.

A program is drawn statement by statement, and run while it is drawn: so shapes fit, mostly.
"""

from __future__ import annotations

import ast
import linecache
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np
import scipy.special
from operands import NAMES, Literal, Operand
from paths import PATHS, Path
from random_graphs import ERRSTATES, Window

DTYPES = [*["f8"] * 12, *["f4"] * 6, "i8", "i4", "?", "f2", "i8", "u1"]
LAYOUTS = [*["C"] * 8, "F", "F", "rotated", "reversed", "mirrored", "stepped", "rows", "gate"]
LAYOUTS += ["offset", "readonly", "repeated rows"]
VALUES = [*["ordinary"] * 6, "spot", "special", "uneven"]
LENGTHS = [1, 2, 2, 3, 3, 4, 5, 0, 9, 17]
LARGE = [(20_011,), (300, 57), (70, 40, 5)]  # several tiles
NUMBERS = ["2", "3", "0.5", "1", "0", "-1", "1.5", "-0.0", "1e-3", "True", "2.0", "10"]
SCALARS = ["2.5", "-1.25", "3", "0.0", "True", "np.float64(1.5)", "np.float32(0.75)", "np.int64(2)"]
SCALARS += ["np.array(0.5)", "np.array(2, 'i4')", "float('inf')", "1e300"]
SCALAR_CONSTANTS = ["np.float64(0.5)", "np.float32(2)", "np.sqrt(2 / np.pi)", "np.int64(3)"]
SPECIAL_NUMBERS = ["float('inf')", "float('nan')", "1e300", "1e-310"]


def words(text: str) -> list[str]:
    return text.split()


UNARY = words("""
square sqrt cbrt reciprocal fabs exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos
arctan sinh cosh tanh arcsinh arccosh arctanh degrees radians rad2deg deg2rad absolute negative
positive""")
UNARY_WITHOUT = words("""isnan isinf isfinite signbit sign floor ceil trunc rint logical_not""")
BINARY = words("""
arctan2 hypot logaddexp logaddexp2 maximum minimum fmax fmin copysign fmod float_power
add subtract multiply divide power remainder""")
BINARY_WITHOUT = words("""
less less_equal greater greater_equal equal not_equal floor_divide logical_and
logical_or logical_xor heaviside""")
SPECIAL = words("""expit logit log_expit erf erfc ndtr log_ndtr gammaln psi entr""")
OPERATORS = ["*"] * 6 + ["+"] * 5 + ["-"] * 4 + ["/"] * 4 + ["**", "//", "%"]
IN_PLACE = [*["+=", "-=", "*=", "/="] * 3, "**=", "//=", "%=", "@=", "&=", "|="]
COMPARISONS = ["<", "<=", ">", ">=", "==", "!="]
MOST_ELEMENTS = 20_000
# What makes arrays that share memory with nothing.
MAKING = {*UNARY, *BINARY, "where", "copy", "zeros_like", "ones_like", "full_like"}


@dataclass(frozen=True)
class View:
    """An operand on the memory of an earlier one: that itself, or a part."""

    of: int
    part: str

    def on(self, operands: list[Any]) -> Any:
        return eval(f"x{self.part}", {"x": operands[self.of]})


@dataclass(frozen=True)
class Program:
    """A function as source, and what it is called with.

    ``operands`` may be lists, tuples and dicts of these. A ``dout`` of None stands for 1.
    ``places`` chooses where each output, and then each gradient, is written: see `out_for`.
    """

    source: str
    operands: tuple[Any, ...]
    constants: dict[str, Operand | Literal] = field(default_factory=dict)
    dout: int | None = None
    path: Path | None = None
    errstate: dict[str, str] = field(default_factory=dict)
    places: tuple[int, ...] = ()

    def build(self) -> tuple[Any, ...]:
        found: list[Any] = []
        wholes: dict[Operand, Any] = {}
        for one in self.operands:
            found.append(one.on(found) if isinstance(one, View) else built(one, wholes))
        return tuple(found)

    def function(self, **names: Any) -> Callable[..., Any]:
        return function_of(self.source, self.constants, **names)


def built(operand: Any, wholes: dict[Operand, Any]) -> Any:
    """What is described; ``wholes`` are the arrays that windows share."""
    if isinstance(operand, list | tuple):
        return type(operand)([built(one, wholes) for one in operand])
    if isinstance(operand, dict):
        return {key: built(one, wholes) for key, one in operand.items()}
    if isinstance(operand, Window):
        if operand.whole not in wholes:
            wholes[operand.whole] = operand.whole.build()
        return operand.of(wholes[operand.whole])
    return operand.build()


def function_of(
    source: str, constants: dict[str, Operand | Literal], code: Any = None, **names: Any
) -> Callable[..., Any]:
    """The program's function; tracebacks find its lines."""
    file = "program.py"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    space = {**NAMES, "special": scipy.special, **{k: c.build() for k, c in constants.items()}}
    space |= names
    exec(code or compile(source, file, "exec"), space)
    return space["f"]


def random_program(random: Random) -> Program:
    return Drawing(random).program()


class Drawing:
    """A program in the making.

    Attributes
    ----------
    values : dict of str to Any
        What the names stand for. Those of ``symbols`` depend on operands, those of ``own`` may be
        written to.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.values: dict[str, Any] = {}
        self.symbols: list[str] = []
        self.own: set[str] = set()
        self.lines: list[str] = []
        self.constants: dict[str, Operand | Literal] = {}
        self.selected: set[str] = set()  # whose shapes depend on values
        self.over = False  # the last statement raises

    # ---- operands ----

    def program(self) -> Program:
        choose = self.random.choice
        large = self.random.random() < 0.01
        shape = choose(LARGE) if large else self.shape()
        self.common, self.large = shape, large
        self.dtypes = [choose(DTYPES)] if self.random.random() < 0.6 else DTYPES
        self.buffer = self.shared_buffer() if self.random.random() < 0.2 else None
        operands = []
        parameters = list("abcd"[: choose([1, 2, 2, 2, 3, 3, 4])])
        for name in parameters:
            operands.append(self.operand(name))
            before = operands[:-1]
            if self.random.random() < 0.08 and any(type(one) is Operand for one in before):
                self.share(name, operands)
        begun = len(self.lines)  # with the parts of trees
        self.space = {**NAMES, "special": scipy.special}
        self.space.update((name, one.build()) for name, one in self.constants.items())
        wanted = choose([1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 12])
        for _ in range(4 * wanted):
            self.statement()
            if self.over or len(self.lines) >= wanted + begun:
                break
        source = "\n    ".join(
            [f"def f({', '.join(parameters)}):", *self.lines, f"return {self.returned(parameters)}"]
        )
        dout = self.random.randrange(1000) if self.random.random() < 0.4 else None
        return Program(
            source + "\n",
            tuple(operands),
            dict(self.constants),
            dout,
            choose([None, *PATHS]),
            choose(ERRSTATES),
            tuple([choose([0, self.random.randrange(100)]) for _ in range(8)]),
        )

    def shared_buffer(self) -> Operand:
        """The array that operands are parts of."""
        length = 2 * math.prod(self.common) + self.random.choice([0, 1, 3, 64])
        dtype, values = self.random.choice(self.dtypes), self.random.choice(VALUES)
        return Operand(dtype, (length,), "C", values, self.random.randrange(10_000))

    def shape(self) -> tuple[int, ...]:
        return tuple(
            self.random.choice(LENGTHS) for _ in range(self.random.choice([0, 1, 1, 2, 2, 2, 3, 4]))
        )

    def operand(self, name: str) -> Any:
        random = self.random
        if not self.large and random.random() < 0.06:  # a tree
            leaves = [self.array() for _ in range(random.choice([1, 2, 2, 3]))]
            names = [f"{name}{i}" for i in range(len(leaves))]
            kind = random.choice([list, tuple, dict])
            if kind is dict:
                tree: Any = {f"w{i}": leaf for i, leaf in enumerate(leaves)}
                keys = [f"{name}[{key!r}]" for key in tree]
            else:
                tree, keys = kind(leaves), [f"{name}[{i}]" for i in range(len(leaves))]
            if kind is not dict and random.random() < 0.5:
                self.lines.append(f"{', '.join(names)}{',' * (len(names) == 1)} = {name}")
            else:
                self.lines += [f"{one} = {key}" for one, key in zip(names, keys, strict=True)]
            for one, leaf in zip(names, leaves, strict=True):
                self.values[one] = leaf.build()
                self.symbols.append(one)
            return tree
        one: Any = Literal(random.choice(SCALARS)) if random.random() < 0.12 else self.array()
        if type(one) is Operand and self.buffer and random.random() < 0.7:
            room = self.buffer.shape[0] - math.prod(one.shape)
            if room >= 0 and 0 not in one.shape:
                one = Window(self.buffer, random.randint(0, room), one.shape)
        self.values[name] = built(one, {})
        self.symbols.append(name)
        return one

    def share(self, name: str, operands: list[Any]) -> None:
        """Let the last operand be one on the memory of another."""
        of = next(i for i, one in enumerate(operands) if type(one) is Operand)
        x = self.values["abcd"[of]]
        if name in self.values and type(operands[-1]) is Operand:
            part = self.random.choice(["", "", ".T", "[...]", "[::-1]", "[1:]"] if x.ndim else [""])
            operands[-1] = View(of, part)
            self.values[name] = eval(f"x{part}", {"x": x})

    def array(self, dtype: str | None = None) -> Operand:
        random = self.random
        shape = self.common
        if random.random() < 0.3 and not self.large:
            shape = self.shape()
        elif shape and random.random() < 0.4:  # which broadcasts with the others
            shape = tuple(1 if random.random() < 0.3 else n for n in shape)
            shape = shape[random.randrange(len(shape)) :] if random.random() < 0.3 else shape
        return Operand(
            dtype or random.choice(self.dtypes),
            shape,
            random.choice(LAYOUTS),
            random.choice(VALUES),
            random.randrange(10_000),
        )

    # ---- statements ----

    def statement(self) -> None:
        random = self.random
        writable = [name for name in self.symbols if name in self.own]
        if writable and random.random() < 0.05:
            lines = [f"{self.fresh()} = {random.choice(writable)}"]
        elif writable and random.random() < 0.3:
            line = self.assignment(random.choice(writable))
            if line is not None and self.runs(line):
                self.lines.append(line)
            return
        elif random.random() < 0.06:
            lines = self.asking()
            if lines is None:
                return
        else:
            lines = [f"{self.fresh()} = {self.expression()}"]
        before = dict(self.values)
        ours = list(self.symbols)
        if all(self.runs(line) for line in lines):
            self.lines += lines
            made = [name for name in self.values if name not in before]
            for name in made:
                self.symbols.append(name)
                self.notice(name, lines[-1])
        elif not self.over:
            self.values, self.symbols = before, ours

    def notice(self, name: str, line: str) -> None:
        """Whether a new value may be written to, and which others no longer may."""
        statement = ast.parse(line).body[0]
        tree = statement.value
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        masks = [n for n in used if np.asarray(self.values.get(n, self.space.get(n))).dtype == bool]
        if used & self.selected or ("[" in line and (" > " in line or masks)):
            self.selected.add(name)
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Attribute):
            made = tree.func.attr in MAKING
        else:
            made = isinstance(tree, ast.BinOp)
        if isinstance(tree, ast.Name):  # another name of it, or parts
            if isinstance(statement.targets[0], ast.Name):
                self.own.add(name)
            else:
                self.forbid(used)
        elif not made:  # a view, perhaps
            self.forbid(used)
        else:
            self.own.add(name)

    def forbid(self, names: set[str]) -> None:
        """Write no longer to what has these names."""
        values = [self.values.get(name) for name in names]
        # Of a number with several names a graph cannot tell which is viewed, nor which became an
        # array.
        self.own -= {
            n
            for n in self.own
            if any(self.values[n] is value for value in values)
            or not isinstance(self.values[n], np.ndarray)
        }

    def fresh(self) -> str:
        return f"v{len(self.values)}"

    def runs(self, line: str) -> bool:
        """Run a statement; one that raises is the last, once in a while."""
        try:
            with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
                space = {**self.space, **self.values}
                exec(line, space)
        except (ValueError, ArithmeticError, IndexError) as error:
            if isinstance(error, ValueError) and "assignment destination" in str(error):
                return False
            if self.random.random() < 0.02:
                self.lines.append(line)
                self.over = True
            return False
        except (TypeError, AttributeError) as error:
            if "ufunc" in str(error) and self.random.random() < 0.02:
                self.lines.append(line)
                self.over = True
            return False
        made = {k: space[k] for k in space if k[0] in "v" and k not in self.space}
        for value in made.values():
            if not isinstance(value, np.ndarray | np.generic | int | float):
                return False
            if np.size(value) > MOST_ELEMENTS or np.asarray(value).dtype.kind not in "biuf":
                return False
            if isinstance(value, int) and abs(value) >= 2**62:
                return False
        self.values.update(made)
        return True

    def returned(self, parameters: list[str]) -> str:
        """The last values, of which most are made of all others."""
        text = "".join(self.lines)
        unused = [n for n in self.symbols if n[0] == "v" and text.count(n) == 1]
        made = unused[-4:] or [self.random.choice(self.symbols)]
        if self.random.random() < 0.2 and len(made) > 1:
            chosen = self.random.sample(made, 2)
            return ", ".join(chosen)
        return made[-1]

    def one(self) -> str:
        """A name of a value that depends on operands, mostly a recent one."""
        text = "".join(self.lines)
        unused = [name for name in self.symbols[1:] if name not in text]
        names = unused if unused and self.random.random() < 0.5 else self.symbols
        return self.random.choice(names)

    def other(self) -> str:
        """The other operand: a value, a number, or what comes from outside."""
        draw = self.random.random()
        if draw < 0.6:
            return self.one()
        if draw < 0.82:
            return self.random.choice(NUMBERS)
        if draw < 0.85:
            return self.random.choice(SPECIAL_NUMBERS)
        return self.constant()

    def constant(self, dtype: str | None = None) -> str:
        if self.constants and dtype is None and self.random.random() < 0.5:
            return self.random.choice(list(self.constants))
        name = f"C{len(self.constants)}"
        if dtype is None and self.random.random() < 0.3:
            made: Any = Literal(self.random.choice(SCALAR_CONSTANTS))
        else:
            made = self.array(dtype)
        self.constants[name] = made
        self.space[name] = made.build()
        return name

    # ---- expressions ----

    def expression(self) -> str:
        kinds = [
            *[self.operator] * 8,
            *[self.unary] * 6,
            *[self.binary] * 4,
            *[self.reduction] * 5,
            *[self.view] * 5,
            *[self.part] * 4,
            *[self.select] * 3,
            *[self.product] * 3,
            *[self.joined] * 2,
            *[self.moved] * 3,
            *[self.gathered] * 2,
            self.logic,
            self.special,
            self.like,
        ]
        text = self.random.choice(kinds)()
        if self.random.random() < 0.35:
            other = self.other()
            pattern = self.random.choice(
                ["({}) * {}", "{} + ({})", "({}) - {}", "np.exp(-({}))", "abs({})", "({}) / {}"]
            )
            if pattern.startswith("{} +"):
                return pattern.format(other, text)
            return pattern.format(text, other)
        return text

    def operator(self) -> str:
        sign = self.random.choice(OPERATORS)
        pair = [self.one(), self.other()]
        if self.random.random() < 0.4:
            pair.reverse()
        return (
            f"{pair[0]} {sign} {pair[1]}" if pair[0][0] != "-" else f"({pair[0]}) {sign} {pair[1]}"
        )

    def unary(self) -> str:
        x, draw = self.one(), self.random.random()
        if draw < 0.15:
            return self.random.choice(["-{}", "+{}", "abs({})"]).format(x)
        if draw < 0.22:
            return f"np.{self.random.choice(UNARY_WITHOUT)}({x})"
        return f"np.{self.random.choice(UNARY)}({x})"

    def binary(self) -> str:
        names = BINARY if self.random.random() < 0.8 else BINARY_WITHOUT
        pair = [self.one(), self.other()]
        if self.random.random() < 0.3:
            pair.reverse()
        return f"np.{self.random.choice(names)}({', '.join(pair)})"

    def special(self) -> str:
        if self.random.random() < 0.2:
            name = self.random.choice(["xlogy", "xlog1py"])
            return f"special.{name}({self.one()}, {self.other()})"
        return f"special.{self.random.choice(SPECIAL)}({self.one()})"

    def logic(self) -> str:
        x = f"{self.one()} {self.random.choice(COMPARISONS)} {self.other()}"
        draw = self.random.random()
        if draw < 0.4:
            return x
        if draw < 0.6:
            return f"~({x})"
        y = f"{self.one()} {self.random.choice(COMPARISONS)} {self.other()}"
        return f"({x}) {self.random.choice('&|^')} ({y})"

    def select(self) -> str:
        random = self.random
        x, y, z = self.one(), self.other(), self.other()
        draw = random.random()
        if draw < 0.4:
            sign = self.random.choice(COMPARISONS)
            pair = [x, y] if self.random.random() < 0.5 else [y, x]
            condition = f"{self.one()} {sign} {z}"
            if self.random.random() < 0.2:
                condition = self.one()
            return f"np.where({condition}, {', '.join(pair)})"
        if draw < 0.45:
            several = [f"{self.one()} {random.choice(COMPARISONS)} {one}" for one in (y, z)]
            return f"np.select([{', '.join(several)}], [{x}, {y}]{random.choice(['', f', {z}'])})"
        if draw < 0.5:
            return f"np.clip({x}, -0.5, 0.5)"
        if draw < 0.6 and isinstance(self.values[x], np.ndarray | np.generic):
            return f"{x}.clip({self.random.choice(['0, None', 'None, 1', '-1.0, 1.0', 'min=0.5'])})"
        if draw < 0.7:
            return f"np.clip({x}, {y}, {self.random.choice([z, 'None'])})"
        return f"np.{self.random.choice(['maximum', 'minimum'])}({x}, {y})"

    def axis(self, ndim: int, several: bool = True) -> str:
        random = self.random
        if ndim == 0 or (random.random() < 0.02):
            return random.choice(["None", "None", "0"])
        axes = [random.randrange(-ndim, ndim)]
        if several and ndim > 1 and random.random() < 0.3:
            axes = random.sample(range(ndim), random.choice([2, ndim]))
            return f"({', '.join(map(str, axes))})"
        return random.choice([str(axes[0])] * 4 + ["None"])

    def reduction(self) -> str:
        random, x = self.random, self.one()
        value = self.values[x]
        name = random.choice(
            ["sum"] * 5
            + ["mean"] * 3
            + ["max", "min"] * 2
            + ["prod", "var", "std", "norm"]
            + ["average", "ptp", "nansum", "nanmean", "nanmax", "nanmin"]
            + ["any", "all", "argmax", "amax"]
        )
        options = []
        if random.random() < 0.75:
            options.append(f"axis={self.axis(np.ndim(value), not name.startswith('arg'))}")
        if random.random() < 0.4:
            options.append("keepdims=True")
        if name in ("var", "std") and random.random() < 0.4:
            options.append("ddof=1")
        if name == "norm":
            return f"np.linalg.norm({', '.join([x, *options])})"
        is_array = isinstance(value, np.ndarray | np.generic)
        if hasattr(np.ndarray, name) and is_array and random.random() < 0.5:
            if options and options[0].startswith("axis=") and random.random() < 0.4:
                options[0] = options[0].removeprefix("axis=")
            return f"{x}.{name}({', '.join(options)})"
        return f"np.{name}({', '.join([x, *options])})"

    def product(self) -> str:
        random = self.random
        x = self.one()
        pair = [x, self.constant() if random.random() < 0.3 else self.one()]
        if random.random() < 0.3 and self.is_array(x):
            pair = [x, f"{x}.T"]  # fits for matrices
        if random.random() < 0.4:
            pair.reverse()
        form = random.choice(
            ["{} @ {}"] * 4 + ["np.matmul({}, {})", "np.dot({}, {})", "{}.dot({})"]
        )
        if random.random() < 0.3:
            form = random.choice(
                [
                    "np.outer({}, {})",
                    "np.inner({}, {})",
                    "np.tensordot({}, {})",
                    "np.tensordot({}, {}, axes=1)",
                    "np.tensordot({}, {}, 0)",
                    "np.tensordot({}, {}, (0, 0))",
                    "np.tensordot({}, {}, ([-1, 0], [0, -1]))",
                    "np.cross({}, {})",
                ]
            )
        if "cross" in form and any(np.shape(self.of(one))[-1:] == (2,) for one in pair):
            form = "np.inner({}, {})"  # of vectors of two elements there are no gradients
        if form == "{}.dot({})" and pair[0] not in self.symbols:
            form = "np.dot({}, {})"
        return form.format(*pair)

    def of(self, text: str) -> Any:
        return eval(text, {**self.space, **self.values})

    def is_array(self, name: str) -> bool:
        value = self.values.get(name, self.space.get(name))
        return isinstance(value, np.ndarray | np.generic) and name in self.symbols

    def view(self) -> str:
        random = self.random
        x = self.one()
        value = self.values[x]
        ndim, shape = np.ndim(value), np.shape(value)
        array = isinstance(value, np.ndarray | np.generic)
        order = random.sample(range(ndim), ndim)
        axes = [random.randrange(-ndim, ndim) if ndim else 0 for _ in range(2)]
        sizes = [n for n in range(1, math.prod(shape) + 1) if math.prod(shape) % n == 0][:50]
        rows = random.choice(sizes or [1])
        choices = [
            f"np.transpose({x})",
            f"np.transpose({x}, {tuple(order)})",
            f"np.swapaxes({x}, {axes[0]}, {axes[1]})",
            f"np.moveaxis({x}, {axes[0]}, {axes[1]})",
            f"np.reshape({x}, (-1,))",
            f"np.reshape({x}, ({rows}, -1))",
            f"np.ravel({x})",
            f"np.squeeze({x})",
            f"np.expand_dims({x}, {axes[0]})",
            f"np.broadcast_to({x}, {(random.choice([1, 2, 3]), *shape)})",
            f"np.copy({x})",
            f"np.atleast_{random.choice([1, 2, 3])}d({x})",
        ]
        if array:
            choices += [
                f"{x}.T",
                f"{x}.T",
                f"{x}.transpose()",
                f"{x}.transpose({', '.join(map(str, order))})",
                f"{x}.swapaxes({axes[0]}, {axes[1]})",
                f"{x}.reshape({rows}, -1)",
                f"{x}.reshape(-1)",
                f"{x}.ravel()",
                f"{x}.flatten()",
                f"{x}.squeeze()",
                f"{x}.copy()",
                f"{x}.copy()",
                f"{x}.mT" if ndim > 1 else f"{x}.T",
            ]
        return random.choice(choices)

    def slice(self, n: int) -> str:
        random = self.random
        ends = [random.choice(["", "", *map(str, range(-n, n + 1))]) if n else "" for _ in range(2)]
        step = random.choice(["", "", "", ":2", ":-1", ":-2"])
        return f"{ends[0]}:{ends[1]}{step}"

    def index(self, shape: tuple[int, ...], arrays: bool = True) -> str:
        """An index of slices, integers, None and ..., and with ``arrays`` of arrays."""
        random = self.random
        parts: list[str] = []
        rest = list(shape)
        while rest and random.random() < 0.75:
            n, draw = rest.pop(0), random.random()
            if draw < 0.5:
                parts.append(self.slice(n))
            elif draw < 0.75:
                parts.append(str(random.randrange(-n, n)) if n else "0")
            elif draw < 0.81:
                parts.append("None")
                rest.insert(0, n)
            elif draw < 0.82 and "True" not in parts:
                parts.append("True")
                rest.insert(0, n)
                rest.insert(0, n)
            elif draw < 0.9 and "..." not in parts:
                parts.append("...")
                rest = rest[-1:] if random.random() < 0.5 else []
            elif arrays and n:
                several = [random.randrange(-n, n) for _ in range(random.choice([1, 2, 3]))]
                parts.append(str(several))
            else:
                parts.append(":")
        if not parts:
            parts = ["..."]
        return ", ".join(parts)

    def part(self) -> str:
        random = self.random
        x = next((n for n in (self.one() for _ in range(5)) if np.ndim(self.values[n])), None)
        if x is None:
            return self.operator()
        value = self.values[x]
        draw = random.random()
        if draw < 0.1:
            return f"{x}[{x} > {random.choice(NUMBERS)}]"
        if draw < 0.15:
            return f"{x}[{self.constant('?')}]"
        if draw < 0.22:
            names = [n for n in self.symbols if np.asarray(self.values[n]).dtype.kind in "ib"]
            if names:
                return f"{x}[{random.choice(names)}]"
        if draw < 0.28 and value.ndim == 2 and len(value):
            columns = [random.randrange(value.shape[1] or 1) for _ in range(len(value))]
            if len(columns) < 10:
                return f"{x}[np.arange({len(value)}), {columns}]"
        if draw < 0.34:
            return f"{x}[1:] - {x}[:-1]"
        return f"{x}[{self.index(value.shape)}]"

    def gathered(self) -> str:
        random = self.random
        x = self.one()
        shape = np.shape(self.values[x])
        axis = random.randrange(-len(shape), len(shape)) if shape else 0
        n = shape[axis] if shape else 1
        if random.random() < 0.5:
            indices = [random.randrange(-n, n) if n else 0 for _ in range(random.choice([1, 2, 3]))]
            if random.random() < 0.3:
                return f"np.take({x}, {indices})"
            return f"np.take({x}, {indices}, axis={axis})"
        if random.random() < 0.3:
            return (
                f"np.take_along_axis({x}, np.argmax({x}, axis={axis}, keepdims=True), axis={axis})"
            )
        return f"np.take_along_axis({x}, np.argsort(np.ones({shape}), axis={axis}), {axis})"

    def joined(self) -> str:
        random = self.random
        parts = [self.one(), random.choice([self.one(), self.constant(), self.other()])]
        if random.random() < 0.3:
            parts.append(parts[0])
        random.shuffle(parts)
        draw = random.random()
        if draw < 0.3:
            x = self.one()
            shape = np.shape(self.values[x])
            axis = random.randrange(-len(shape), len(shape)) if shape else 0
            n = shape[axis] if shape else 1
            divisors = [d for d in range(1, 6) if n % d == 0]
            d = random.choice(divisors)
            where = random.choice([str(d), "[1]", "[1, 2]"])
            last = 1 if where == "[1]" else 2 if where != str(d) else d - 1
            name = random.choice(["split", "split", "array_split", "hsplit", "vsplit", "dsplit"])
            if name == "array_split" and where == str(d) and random.random() < 0.5:
                where, last = "3", 2
            options = f", axis={axis}" if name in ("split", "array_split") else ""
            return f"np.{name}({x}, {where}{options})[{random.randint(0, last)}]"
        if draw < 0.36:
            axis = random.choice(["", ", axis=0", ", axis=-1", ", axis=None"])
            return f"np.append({parts[0]}, {parts[1]}{axis})"
        name = random.choice(
            ["concatenate"] * 3 + ["stack", "vstack", "hstack", "column_stack", "dstack"]
        )
        ndim = np.ndim(self.values[parts[0]]) if parts[0] in self.values else 1
        options = ""
        if name in ("concatenate", "stack") and random.random() < 0.7:
            options = f", axis={random.randrange(-ndim, ndim) if ndim else 0}"
            if name == "concatenate" and random.random() < 0.1:
                options = ", axis=None"
        brackets = random.choice(["[{}]", "({})"])
        return f"np.{name}({brackets.format(', '.join(parts))}{options})"

    def moved(self) -> str:
        random = self.random
        x = self.one()
        value = self.values[x]
        ndim = np.ndim(value)
        axis = random.randrange(-ndim, ndim) if ndim else 0
        n = random.choice([1, 2, 3])
        size = min(np.shape(value)[axis], 20) if ndim else 1
        choices = [
            f"np.cumsum({x})",
            f"np.cumsum({x}, axis={axis})",
            f"np.diff({x})",
            f"np.diff({x}, n={n}, axis={axis})",
            f"np.roll({x}, {n - 2})",
            f"np.roll({x}, {n}, axis={axis})",
            f"np.repeat({x}, {n})",
            f"np.repeat({x}, {n}, axis={axis})",
            f"np.repeat({x}, {[random.randint(0, 2) for _ in range(size)]}, axis={axis})",
            f"np.tile({x}, {n})",
            f"np.tile({x}, ({n}, 2))",
            f"np.flip({x})",
            f"np.flip({x}, {axis})",
            f"np.triu({x})",
            f"np.tril({x}, {n - 2})",
            f"np.diag({x})",
            f"np.diag({x}, {n - 2})",
            f"np.trace({x})",
            f"np.trace({x}, offset={n - 2})",
            f"np.diagonal({x}, {n - 2})",
            f"np.diagonal({x}, 0, {axis}, {-1 - axis})",
            f"np.fliplr({x})",
            f"np.flipud({x})",
            f"np.rot90({x}, {n - 2})",
            f"np.rot90({x}, axes=({axis}, {-1 - axis}))",
            f"np.pad({x}, {n})",
            f"np.pad({x}, ({n - 1}, 2))",
            f"np.pad({x}, {[(random.randint(0, 2), n) for _ in range(ndim)] or 1}, 'constant')",
            f"np.sort({x})",
            f"np.sort({x}, axis={random.choice([axis, None])})",
            f"np.argsort({x}, axis={axis}, kind='stable')",
            f"np.round({x}, {n - 2})",
            f"np.nan_to_num({x})",
        ]
        if isinstance(value, np.ndarray | np.generic):
            choices += [f"{x}.cumsum(axis={axis})", f"{x}.repeat({n}, axis={axis})"]
            choices += [f"{x}.trace()", f"{x}.take([0], axis={axis})", f"{x}.diagonal()"]
            choices += [f"{x}.round()"]
        return random.choice(choices)

    def like(self) -> str:
        x = self.one()
        name = self.random.choice(
            ["np.zeros_like({})", "np.ones_like({})", "np.full_like({}, 0.5)"]
        )
        return name.format(x)

    # ---- assignments, questions ----

    def assignment(self, y: str) -> str | None:
        random = self.random
        value = self.values[y]
        z = self.other()
        if z in self.selected:
            return None
        if random.random() < 0.4 or not np.ndim(value):
            return f"{y} {random.choice(IN_PLACE)} {z}"
        if random.random() < 0.2:
            return f"{y}[{y} > {random.choice(NUMBERS)}] = {random.choice(NUMBERS)}"
        arrays = random.random() < 0.3
        sign = random.choice(["=", "=", "=", "+=", "*=", "-=", "//="])
        index = self.index(value.shape, arrays)
        return f"{y}[{index}] {sign} {z}"

    def asking(self) -> list[str] | None:
        random = self.random
        x = self.one()
        value = self.values[x]
        if not isinstance(value, np.ndarray) or value.ndim == 0 or x in self.selected:
            return None
        v = self.fresh()
        several = [
            [f"{v} = {x} * {x}.shape[0]"],
            [f"{v} = np.sum({x}) / {x}.size"],
            [f"{v} = {x} + np.ones({x}.shape)"],
            [f"{v} = {x} / len({x})"],
            [f"{v} = {x}.reshape({x}.size)"],
            [f"{v} = {x} * {x}.ndim if {x}.ndim > 1 else {x} + 1"],
            [f"{v} = np.zeros({x}.shape, {x}.dtype) + {x}"],
        ]
        if 0 < len(value) < 7:
            several += [[f"{v} = sum([row for row in {x}])"]] * 2
        if len(value) == 2:
            several += [[f"v{len(self.values)}, v{len(self.values) + 1} = {x}"]] * 3
        return random.choice(several)


def without(program: Program, line: int) -> Program:
    """The program without one of its lines."""
    lines = program.source.splitlines()
    del lines[line]
    return replace(program, source="\n".join(lines) + "\n")
