"""Write the table of functions and their gradients in docs/functions.md:

    python tools/functions_table.py

It follows from the table of operations. A rule is shown as it is recorded: by the operations that
are run.
"""

from __future__ import annotations

import ast
import inspect
import math
from pathlib import Path

from fastlayers.graph.calls import JOINING, SPLITTING
from fastlayers.graph.nodes import Node
from fastlayers.graph.operations import (
    LN2,
    LN10,
    OPERATIONS,
    ROOT_TWO_PI,
    TWO_BY_ROOT_PI,
    OfScipy,
    no_rule,
)
from fastlayers.graph.rules import rules_of

PAGE = Path(__file__).parent.parent / "docs" / "functions.md"
BEGIN, END = "<!-- written by tools/functions_table.py -->\n", "<!-- until here -->\n"

HEADINGS = {
    "multiply": "Operators",
    "square": "Functions of one operand",
    "arctan2": "Functions of two operands",
    "where": "Selects",
    "sum": "Reductions",
    "dot": "Products",
    "T": "Views, copies, moved elements",
    "getitem": "Parts",
    "concatenate": "Joined arrays",
    "expit": "`scipy.special`",
}

NUMBERS = {
    LN2: "log(2)",
    LN10: "log(10)",
    180 / math.pi: "180 / pi",
    math.pi / 180: "pi / 180",
    TWO_BY_ROOT_PI: "2 / sqrt(pi)",
    1 / ROOT_TWO_PI: "1 / sqrt(2 * pi)",
    -math.inf: "-inf",
}

# What rules use that NumPy has no name for.
SHOWN = {
    "multiply_to": "{} * {}",
    "spread": "spread({})",
    "sum_as": "sum({})",
    "count": "n",
}

# Rules that are no expressions of NumPy's functions.
PLACED = ("zeros, and `g` added where the part was",)
MOVED = ("`g`, moved back",)
SHAPED = ("`g` in the shape of `x`",)
PARTS = ("to each its part of `g`",)
IN_WORDS = {
    "power": ("`g * (y * x ** (y - 1))`", "`g * (v * log(where(x > 0, x, 1)))`"),
    "np.select": ("`g` where it was chosen, else 0",),
    "matmul": ("`g @ y.T`", "`x.T @ g`"),
    "dot": ("`dot(g, y.T)`", "`dot(x.T, g)`"),
    "einsum": ("`einsum` of `g` and the other operand, for the letters of `x`",),
    "inner": ("`dot(g, y)`", "`dot(x.T, g).T`"),
    "tensordot": ("`tensordot` of `g` and `y`", "`tensordot` of `x` and `g`"),
    "cross": ("`cross(y, g)`", "`cross(g, x)`"),
    "ptp": ("that of `max(x)`, less that of `min(x)`",),
    "outer": ("`g @ y.ravel()`", "`x.ravel() @ g`"),
    "triu": ("`triu(g, k)`",),
    "tril": ("`tril(g, k)`",),
    "cumsum": ("`cumsum` of `g` from the end",),
    "diff": ("`-diff(g)`, with zeros at both ends of `g`",),
    "repeat": ("the sum of `g` over the repetitions",),
    "tile": ("the sum of `g` over the repetitions",),
    "diag": ("`diag(g, k)`",),
    "pad": ("the part of `g` that is `x`",),
    "diagonal": ("zeros, and `g` on the diagonal",),
    "trace": ("zeros, and `g` on the diagonal",),
    "copy": ("`g`",),
    ".copy": ("`g`",),
    "np.broadcast_to": ("`g`, summed to the shape of `x`",),
    **dict.fromkeys(("getitem", "take", "take_along_axis", *SPLITTING), PLACED),
    **dict.fromkeys(
        (
            *("T", "mT", "transpose", "swapaxes", "moveaxis"),
            *("flip", "fliplr", "flipud", "rot90", "roll", "sort"),
        ),
        MOVED,
    ),
    **dict.fromkeys(
        (
            *("reshape", "ravel", "flatten", "squeeze", "expand_dims"),
            *("atleast_1d", "atleast_2d", "atleast_3d"),
        ),
        SHAPED,
    ),
    **dict.fromkeys((*JOINING, "append"), PARTS),
}


class Letter(float):
    """A number that is shown as a parameter."""

    def __repr__(self):
        return "ddof"


OPTIONS = {
    "clip": {"bounds": "lu"},
    "einsum": {"subscripts": "ij->j"},
    "var": {"ddof": Letter()},
    "std": {"ddof": Letter()},
}


def operands_of(name, row):
    """The names that a rule gives the operands."""
    if callable(row.gradients):
        return ["x", "a_min", "a_max"] if name == "clip" else ["x"]
    rules = [rule for rule in row.gradients if rule not in (None, no_rule)]
    if not rules:
        return ["x", "y"][: len(row.gradients)]
    return list(inspect.signature(rules[0]).parameters)[2 : 2 + len(row.gradients)]


def ways(name, row, operands):
    """All that is recorded as an operation."""
    if name in ("T", "mT"):
        yield f"x.{name}"
    if name == "getitem":
        yield "x[…]"
    elif row.operator:
        yield row.text.format(*operands)
    ufunc = row.ufunc or (OPERATIONS[f"np.{name}"].ufunc if row.operator else None)
    if ufunc:
        yield f"np.{ufunc.__name__}"
    taken = [one for one in row.takes.split() if one[0] != "["]
    if not {"arrays", "condlist", "subscripts"}.intersection(taken):
        taken[: len(operands)] = operands
    for function in row.functions:
        module = function.__module__.replace("numpy", "np")
        yield f"{module}.{function.__name__}({', '.join(taken)})"
    for method in row.methods:
        yield f"x.{method}({', '.join(taken[1:])})"
    if isinstance(row.plain, OfScipy):
        yield name


def expression(rule, operands):
    """A recorded rule, with names for what it uses several times."""
    texts, named = ["g", "v", *operands], []
    uses = [place for step in rule.steps for place in step.places]
    for place, step in enumerate(rule.steps, len(texts)):
        used = [f"({texts[one]})" for one in step.places]
        text = SHOWN.get(step.operation)
        if step.operation == "number":
            text = NUMBERS.get(step.number) or repr(step.number)
        elif text is None:
            options = [f"{key}={one}" for key, one in step.options.items() if one is not None]
            call = f"{step.operation.removeprefix('np.')}({', '.join([*used, *options])})"
            text = OPERATIONS[step.operation].text or call
        text = ast.unparse(ast.parse(text.format(*used)))  # which has no needless brackets
        if uses.count(place) > 1:
            named.append(f"{'pqr'[len(named)]} = {text}")
            text = named[-1][0]
        texts.append(text)
    return ", ".join(f"`{one}`" for one in [*named, texts[rule.result]])


def rules(name, row, operands):
    """The rule for each operand, as text."""
    if name in IN_WORDS:
        return IN_WORDS[name]
    node = Node(name, tuple(range(len(operands))), tuple(OPTIONS.get(name, {}).items()))
    return ["none" if rule is None else expression(rule, operands) for rule in rules_of(node)]


def is_written(name, row):
    """Whether users write an operation; those that rules alone need are left out."""
    if row.gradients and not callable(row.gradients) and no_rule in row.gradients:
        return False
    written = row.ufunc or row.operator or row.functions or row.methods
    doubled = name.endswith("_in_place") or (
        name.startswith("np.") and OPERATIONS.get(name[3:], row).operator
    )
    return (written or isinstance(row.plain, OfScipy) or name in ("T", "mT", "getitem")) and not (
        doubled
    )


def table():
    lines, without = [], []
    for name, row in OPERATIONS.items():
        if not is_written(name, row):
            continue
        if name in HEADINGS:
            lines.append(f"| **{HEADINGS[name]}** | |")
        operands = operands_of(name, row)
        written = ", ".join(f"`{one}`" for one in ways(name, row, operands))
        if not callable(row.gradients) and set(row.gradients) == {None}:
            without.append(written)
            continue
        texts = rules(name, row, operands)
        if len(texts) > 1:
            texts = [f"{one}: {text}" for one, text in zip(operands, texts, strict=True)]
        cells = written, "; ".join(texts)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    without = ", ".join(without)
    return "\n".join(
        ["| recorded from | gradient |", "|---|---|", *lines, "", f"Without a gradient: {without}."]
    )


def page(text):
    """The page with the table as it is now."""
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:start]}\n{table()}\n\n{text[end:]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
