"""Pictures of graphs, in SVG: values above the arrows, gradients below, on reverse arrows."""

import html
import itertools
import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np

from .calls import written, written_option
from .layout import GRADIENT, LINE, PADDING, RADIUS, Part, arrange
from .nodes import Node, Nodes
from .operations import OPERATIONS
from .picture import MOST_NODES, Drawing

STARTS = ("input", "number", "constant")
SYMBOLS = {name: row.symbol for name, row in OPERATIONS.items() if row.symbol}
COMMUTATIVE = ("multiply", "add", "np.multiply", "np.add")  # but for the payloads of NaN
LABEL, TITLE = 28, 400  # most characters shown
MARGIN, TIP = 16.0, 7.0  # in pixels, the latter the length of an arrow's tip

# An SVG in a page shares its styles with the page, hence the class in each selector. The colours
# also distinguish values from gradients for colour-blind readers, and in greyscale.
STYLE = """
.fastlayers-graph{color:#1f2328}
.fastlayers-graph .paper{fill:#fff}
.fastlayers-graph text{font:12px system-ui,sans-serif;font-variant-numeric:tabular-nums;\
text-anchor:middle;fill:currentColor}
.fastlayers-graph .mark{font-size:14px}
.fastlayers-graph .symbol{font-size:20px}
.fastlayers-graph .start{text-anchor:end}
.fastlayers-graph .end{text-anchor:start}
.fastlayers-graph .node{fill:#e8f1fa;stroke:currentColor;stroke-width:1.3}
.fastlayers-graph .wire{fill:none;stroke:currentColor;stroke-width:1.3}
.fastlayers-graph .tip{fill:currentColor}
.fastlayers-graph .back{fill:#d55e00}
.fastlayers-graph .gradient{fill:#a84300}
@media (prefers-color-scheme:dark){
.fastlayers-graph{color:#e6edf3}
.fastlayers-graph .paper{fill:#0d1117}
.fastlayers-graph .node{fill:#1c2f45}
.fastlayers-graph .back{fill:#f0883e}
.fastlayers-graph .gradient{fill:#ffa657}
}
"""


def draw(nodes: Nodes, values: Any = None, gradients: Any = None) -> Drawing:
    """Draw a graph from left to right, with the value and the gradient of each node if given.

    A value has one wire, with a dot where it branches; the gradient below it is the sum over the
    branches. The operands of a non-commutative node enter it from top to bottom.
    """
    if len(nodes.nodes) > MOST_NODES:
        raise ValueError(
            f"{_short(nodes.name)} has {len(nodes.nodes):,} nodes, too many for a picture one can "
            f"read; to_dot() writes them all, and graphs of up to {MOST_NODES} nodes are drawn"
        )
    parts = _parts(nodes, values, gradients)
    wires, right, bottom = arrange(parts)
    title = f"Computational graph of {_short(nodes.name, TITLE)}"
    told = parts[: len(nodes.inputs)] + [part for part in parts if part.kind == "end"]
    label = f"{title}; " + "; ".join(part.title.partition("\n")[0] for part in told)
    corner = _n(-MARGIN)
    width, height = (_n(length + 2 * MARGIN) for length in (right, bottom))
    size = f'width="{width}" height="{height}"'
    return Drawing(
        _short(nodes.name),
        f'<svg xmlns="http://www.w3.org/2000/svg" class="fastlayers-graph" role="img" '
        f'aria-label="{_xml(label, TITLE)}" {size} viewBox="{corner} {corner} {width} {height}">\n'
        f"<title>{_xml(title)}</title>\n<style>{STYLE}</style>\n"
        f'<rect class="paper" x="{corner}" y="{corner}" {size} rx="8"/>\n'
        f"{''.join(map(_group, wires))}</svg>\n",
    )


def _parts(nodes: Nodes, values: Any, gradients: Any) -> list[Part]:
    labels = nodes.labels()
    parts: list[Part] = []
    for i, node in enumerate(nodes.nodes):
        named = node.operation in STARTS
        title = labels[i] if named else f"{labels[i]} = {nodes.expression(i, labels)}"
        # A number's name is its value.
        value = None if values is None or node.operation == "number" else values[i]
        if node.operation == "constant":
            value = node.detail
        gradient = None if gradients is None else gradients[i]
        title += "" if value is None else f": {_full(value)}"
        title += "" if gradient is None else f"\ngradient: {_full(gradient)}"
        title += f"\n{node.place}" if node.place else ""
        operands = tuple(parts[operand] for operand in node.operands)
        ordered = node.operation not in COMMUTATIVE
        lines = _lines(value), _lines(gradient)
        kind = "start" if named else "node"
        parts.append(Part(kind, mark(node), title, operands, ordered, *lines))
    for i, name in output_names(nodes).items():
        title = name if values is None else f"{name}: {_full(values[i])}"
        parts.append(Part("end", _short(name), title, (parts[i],)))
    return parts


def output_names(nodes: Nodes) -> dict[int, str]:
    """The outputs' names, by position: one node may be several outputs."""
    graph = _short(nodes.name, LABEL - len("[999]"))  # the index tells them apart
    names: dict[int, list[str]] = {}
    for number, output in enumerate(nodes.outputs):
        name = graph if nodes.single else f"{graph}[{number}]"
        names.setdefault(output, []).append(name)
    return {output: ", ".join(several) for output, several in names.items()}


def mark(node: Node) -> str:
    """The text at a node: a name, a number, a symbol, or a layer's class name."""
    if node.operation == "layer":
        return _short(type(node.detail).__name__)
    if node.operation == "input":
        return _short(node.detail)
    if node.operation == "number":
        return _number(node.detail)
    if node.operation == "constant":
        return "array"
    options = dict(node.detail or ())
    if node.operation == "getitem":
        return _short(f"[{written(options['index'], itertools.repeat('·'))}]")
    if node.operation in SYMBOLS and not options:
        return SYMBOLS[node.operation]
    named = [
        name if value is True else f"{name}={written_option(name, value)}"
        for name, value in options.items()
    ]
    return _short(" ".join([node.operation.removeprefix("np."), *named]))


def _short(text: str, longest: int = LABEL) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # any kind of object; an int with too many digits
        return f"({type(value).__name__})"


def _number(value: Any) -> str:
    try:
        return _short(str(value) if isinstance(value, bool | np.bool) else f"{value:g}")
    except Exception:  # an int too large for a float; any kind of object
        return f"{Decimal(value):.5e}" if isinstance(value, int) else _short(_text(value))


def _lines(value: Any, number: Callable[[Any], str] = _number) -> tuple[str, ...]:
    """A number; or an array's dtype and shape, and its mean."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if value is None:
        return ()
    if dtype is None or shape is None or isinstance(value, np.generic):
        return (number(value),)
    kind = _short(f"{_text(dtype)} {_text(shape)}")
    # Arrays that are not NumPy's own may need long for a mean, or have none.
    if type(value) is not np.ndarray or value.dtype.kind not in "biufc" or value.size == 0:
        return (kind,)
    with np.errstate(all="ignore"):
        return kind, f"mean {number(value.mean())}"


def _full(value: Any) -> str:
    return ", ".join(_lines(value, _text))


def _group(wire: list[Part]) -> str:
    """One part of the picture: its mark, its wire, and the labels along the wire."""
    part, y, (left, middle, right) = wire[0], wire[0].y, wire[0].column
    node = part.kind == "node"
    begin = left + part.width if node else middle
    drawn = [_path("wire", "M", begin, y, "H", right)] if part.kind != "end" else []
    for source in wire:
        for target in dict.fromkeys(source.after):
            ends = [end for other, end in target.entries() if other is source]
            drawn += [_arrow(source, target, end) for end in ends]
        if len(source.after) > 1:
            at = f'cx="{_n(source.column[2])}" cy="{_n(source.y)}"'
            drawn.append(f'<circle class="tip" {at} r="2.5"/>')
    if part.below:  # a thick arrow to the left
        z, neck = y + GRADIENT, begin + 11
        tip = ("V", z - 5, "L", begin + 2, z, neck, z + 5, "V", z + 2)
        drawn.append(_path("back", "M", right, z - 2, "H", neck, *tip, "H", right, "Z"))
    centre = (middle + right) / 2
    for row, line in enumerate(part.above[::-1]):
        drawn.append(_written("value", line, centre, y - PADDING - row * LINE))
    for row, line in enumerate(part.below, 1):
        drawn.append(_written("gradient", line, centre, y + GRADIENT + row * LINE + 3))
    if node:
        width, height = _n(part.width), _n(2 * part.half)
        at = f'x="{_n(left)}" y="{_n(y - part.half)}" width="{width}" height="{height}"'
        drawn.append(f'<rect class="node" {at} rx="{_n(RADIUS)}"/>')
    places = {"start": middle - PADDING / 2, "end": left + PADDING / 2}
    x = places.get(part.kind, left + part.width / 2)
    symbol = node and part.text in SYMBOLS.values()
    kind = " symbol" if symbol else "" if node else f" {part.kind}"
    drawn.append(_written(f"mark{kind}", part.text, x, y + (7 if symbol else 5)))
    return f"<g><title>{_xml(part.title, TITLE)}</title>{''.join(drawn)}</g>\n"


def _arrow(source: Part, target: Part, end: float) -> str:
    """A wire's path to the next layer: on through it, or to a node's edge, towards its centre."""
    (_, _, x0), (x, _, right), y = source.column, target.column, target.y + end
    straight = max(target.half - RADIUS, 0.0)  # half of the left edge between round corners
    down = (min(max(end, -straight), straight) - end) / RADIUS
    across = math.sqrt(1 - down**2)
    x += RADIUS * (1 - across)
    passing = target.kind == "wire"
    tip = 0.0 if passing else TIP
    bend, x1, y1 = (x - x0) / 2, x - tip * across, y - tip * down
    bezier = (x0 + bend, source.y, x1 - bend * across**2, y1 - bend * across * down, x1, y1)
    way = _path("wire", "M", x0, source.y, "C", *bezier, *(("H", right) if passing else ()))
    dx, dy = TIP / 2 * down, TIP / 2 * across
    corners = (x1 - dx, y1 + dy, x1 + dx, y1 - dy)
    return way if passing else way + _path("tip", "M", x, y, "L", *corners, "Z")


def _path(kind: str, *way: str | float) -> str:
    steps = [step if isinstance(step, str) else _n(step) for step in way]
    return f'<path class="{kind}" d="{" ".join(steps)}"/>'


def _written(kind: str, text: str, x: float, y: float) -> str:
    return f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}">{_xml(text)}</text>'


def _n(number: float) -> str:
    return f"{round(number, 1) + 0:.10g}"


def _xml(text: str, longest: int | None = None) -> str:
    """Escape a text for XML; characters that XML does not allow are replaced."""
    held = re.sub("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
    return html.escape(held if longest is None else _short(held, longest))
