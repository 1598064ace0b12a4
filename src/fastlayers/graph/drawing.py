"""Pictures of graphs, in SVG: values above the arrows, gradients below, on reverse arrows."""

import html
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from .layout import PITCH, Box, Piece, Place, arrange
from .nodes import Node, Nodes
from .picture import Drawing

# The symbol in an operation's circle. Other nodes are wider and show their name.
SYMBOLS = {
    "multiply": "\N{MULTIPLICATION SIGN}",
    "add": "+",
    "subtract": "\N{MINUS SIGN}",
    "negative": "\N{MINUS SIGN}",
    "positive": "+",
    "sum_to": "Σ",
}
COMMUTATIVE = ("multiply", "add")

MOST = 60  # nodes that are drawn one by one
ENDS = 15  # larger graphs: how many of the first and of the last nodes are drawn
LABEL, TITLE = 28, 400  # most characters shown

# In pixels.
MARGIN = 16.0
RADIUS = 16.0  # of a circle
PADDING = 6.0  # beside a text
LINE = 15.0  # from one line of a label to the next
MARK_SIZE, LABEL_SIZE = 14.0, 12.0  # font sizes
GRADIENT = 9.0  # from a wire down to its gradient's arrow
TIP = 7.0  # length of an arrow's tip

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


class _Part(NamedTuple):
    """Something to draw: a node, an output, or all the nodes that are left out."""

    shape: str  # "start" or "end" of a wire: only text; "circle"; "box"
    text: str
    title: str
    operands: tuple[int, ...] = ()  # earlier parts
    ordered: bool = True  # whether it matters which operand is which
    above: tuple[str, ...] = ()  # lines for the value
    below: tuple[str, ...] = ()  # lines for the gradient


def draw(
    nodes: Nodes,
    values: Sequence[Any] | None = None,
    gradients: Sequence[Any] | None = None,
) -> Drawing:
    """Draw a graph from left to right, with the value and the gradient of each node if given.

    A value has one wire, with a dot where it branches; the gradient below it is the sum over the
    branches. The operands of a non-commutative node enter it from top to bottom.
    """
    parts = _parts(nodes, values, gradients)
    boxes = [_box(part) for part in parts]
    layout = arrange(boxes)
    groups = [_group(*each) for each in zip(parts, boxes, layout.places, layout.wires, strict=True)]
    width, height = _n(layout.width + 2 * MARGIN), _n(layout.height + 2 * MARGIN)
    title = f"Computational graph of {_short(nodes.name, TITLE)}"
    told = parts[: len(nodes.inputs)] + [part for part in parts if part.shape == "end"]
    label = f"{title}; " + "; ".join(part.title.partition("\n")[0] for part in told)
    return Drawing(
        _short(nodes.name),
        f'<svg xmlns="http://www.w3.org/2000/svg" class="fastlayers-graph" role="img" '
        f'aria-label="{_xml(_short(label, TITLE))}" width="{width}" height="{height}" '
        f'viewBox="{_n(-MARGIN)} {_n(-MARGIN)} {width} {height}">\n'
        f"<title>{_xml(title)}</title>\n<style>{STYLE}</style>\n"
        f'<rect class="paper" x="{_n(-MARGIN)}" y="{_n(-MARGIN)}" width="{width}" '
        f'height="{height}" rx="8"/>\n{"".join(groups)}</svg>\n',
    )


# From nodes to parts


def _parts(
    nodes: Nodes, values: Sequence[Any] | None, gradients: Sequence[Any] | None
) -> list[_Part]:
    count = len(nodes.nodes)
    # If there are too many nodes, those in the middle become one part. No node before them uses
    # them, and they use none after, so this makes no cycle.
    middle = range(ENDS, count - ENDS) if count > MOST else range(count, count)
    part_of = [min(i, max(middle.start, i - len(middle) + 1)) for i in range(count)]
    labels = nodes.labels()
    parts = []
    for i, node in enumerate(nodes.nodes):
        if i not in middle:
            title = labels[i]
            if node.operation not in ("input", "number"):
                title += f" = {nodes.expression(i, labels)}"
            value = None if values is None else values[i]
            gradient = None if gradients is None else gradients[i]
            used = [part_of[operand] for operand in node.drawn]
            # One arrow is enough for everything that is left out.
            once = {(part, part == middle.start or k): part for k, part in enumerate(used)}
            parts.append(_node(node, title, tuple(once.values()), value, gradient))
        elif i == middle.start:
            parts.append(_left_out(nodes, middle))
    for i, name in output_names(nodes).items():
        if i not in middle:
            title = name if values is None else f"{name}: {_full(values[i])}"
            parts.append(_Part("end", _short(name), title, (part_of[i],)))
    return parts


def _node(node: Node, title: str, operands: tuple[int, ...], value: Any, gradient: Any) -> _Part:
    if node.operation == "number":  # its name says it already
        value = None
    told = [
        title if value is None else f"{title}: {_full(value)}",
        "" if gradient is None else f"gradient: {_full(gradient)}",
        node.place,
    ]
    named = node.operation in ("input", "number")
    return _Part(
        "start" if named else "circle" if node.operation in SYMBOLS else "box",
        mark(node),
        "\n".join(filter(None, told)),
        operands,
        node.operation not in COMMUTATIVE,
        _lines(value),
        _lines(gradient),
    )


def _left_out(nodes: Nodes, middle: range) -> _Part:
    used = {operand for i in middle for operand in nodes.nodes[i].operands}
    text = f"… {len(middle):,} nodes …"
    outputs = len(set(nodes.outputs).intersection(middle))
    title = f"{len(middle):,} of {len(nodes.nodes):,} nodes are not drawn"
    title += f", {outputs:,} of them outputs" if outputs else ""
    return _Part("box", text, title, tuple(sorted(used.difference(middle))))


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
    return SYMBOLS.get(node.operation, node.operation)


# From values to texts


def _lines(value: Any, number: Callable[[Any], str] | None = None) -> tuple[str, ...]:
    """A number; or an array's dtype and shape, and its mean."""
    number = number or _number
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if value is None:
        return ()
    if dtype is None or shape is None or isinstance(value, np.generic):
        return (number(value),)
    kind = f"{_text(dtype)} {_text(shape)}"
    # Arrays that are not NumPy's own may need long for a mean, or have none.
    if type(value) is not np.ndarray or value.dtype.kind not in "biufc" or value.size == 0:
        return (_short(kind),)
    with np.errstate(all="ignore"):
        return (_short(kind), f"mean {number(value.mean())}")


def _full(value: Any) -> str:
    return ", ".join(_lines(value, _text))


def _number(value: Any) -> str:
    if isinstance(value, bool | np.bool):
        return str(value)
    try:
        return _short(f"{value:g}")
    except Exception:  # an int too large for a float; any kind of object
        return f"{Decimal(value):.5e}" if isinstance(value, int) else _short(_text(value))


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # any kind of object; an int with too many digits
        return f"({type(value).__name__})"


def _short(text: str, longest: int = LABEL) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


# From parts to SVG


def _width(text: str, size: float) -> float:
    """A text's width, estimated generously: only the font's size is known."""
    em = 0.0
    for character in text:
        if unicodedata.east_asian_width(character) in "WF":
            em += 1.05
        elif character in "iIljtf.,:;'|()[]! ":
            em += 0.38
        elif character in "mwMW@%…":
            em += 1.0
        else:
            em += 0.75 if character.isupper() else 0.62
    return em * size


def _box(part: _Part) -> Box:
    width, half = _width(part.text, MARK_SIZE) + PADDING, LINE / 2
    if part.shape == "circle":
        width, half = 2 * RADIUS, RADIUS
    elif part.shape == "box":
        width, half = width + PADDING, max(RADIUS, PITCH * (len(part.operands) + 1) / 2)
    labels = [_width(line, LABEL_SIZE) + 3 * PADDING for line in part.above + part.below]
    return Box(
        operands=part.operands,
        ordered=part.ordered,
        output=part.shape == "end",
        round=part.shape == "circle",
        mark=width,
        labels=max(labels, default=0.0),
        half=half,
        above=len(part.above) * LINE + PADDING,
        below=len(part.below) * LINE + PADDING + GRADIENT,
    )


def _group(part: _Part, box: Box, place: Place, wire: list[Piece]) -> str:
    """One part of the picture: its mark, its wire, and the labels along the wire."""
    left, middle, right, y = place
    centre = (middle + right) / 2
    begin = left + box.mark if part.shape in ("circle", "box") else middle
    drawn = []
    if wire or box.labels:
        drawn.append(_path("wire", "M", begin, y, "H", right))
    for piece in wire:
        drawn += _arrow(piece)
    starts = [piece.start for piece in wire]
    for x, height in dict.fromkeys(starts):
        if starts.count((x, height)) > 1:
            drawn.append(f'<circle class="tip" cx="{_n(x)}" cy="{_n(height)}" r="2.5"/>')
    if part.below:
        drawn.append(_back(right, begin + 2, y + GRADIENT))
    for row, line in enumerate(part.above[::-1]):
        drawn.append(_written("value", line, centre, y - PADDING - row * LINE))
    for row, line in enumerate(part.below, 1):
        drawn.append(_written("gradient", line, centre, y + GRADIENT + row * LINE + 3))
    drawn += _mark(part, box, place)
    return f"<g><title>{_xml(_short(part.title, TITLE))}</title>{''.join(drawn)}</g>\n"


def _mark(part: _Part, box: Box, place: Place) -> list[str]:
    left, middle, _, y = place
    if part.shape == "start":
        return [_written("mark start", part.text, middle - PADDING / 2, y + 5)]
    if part.shape == "end":
        return [_written("mark end", part.text, left + PADDING / 2, y + 5)]
    outline = (
        f'<rect class="node" x="{_n(left)}" y="{_n(y - box.half)}" width="{_n(box.mark)}" '
        f'height="{_n(2 * box.half)}" rx="{_n(RADIUS)}"/>'
    )
    kind, baseline = ("mark symbol", y + 7) if box.round else ("mark", y + 5)
    return [outline, _written(kind, part.text, left + box.mark / 2, baseline)]


def _arrow(piece: Piece) -> list[str]:
    """A wire's path to the next layer, with a tip if it ends there."""
    (x0, y0), (x, y), angle, through = piece
    bend = (x - x0) / 2
    if through:
        way = ("M", x0, y0, "C", x0 + bend, y0, x - bend, y, x, y, "H", through)
        return [_path("wire", *way)]
    across, down = math.cos(angle), -math.sin(angle)
    xb, yb = x - TIP * across, y - TIP * down
    bx, by = xb - bend * across**2, yb - bend * across * down
    aside, along = TIP / 2 * down, TIP / 2 * across
    return [
        _path("wire", "M", x0, y0, "C", x0 + bend, y0, bx, by, xb, yb),
        _path("tip", "M", x, y, "L", xb - aside, yb + along, xb + aside, yb - along, "Z"),
    ]


def _back(start: float, end: float, y: float) -> str:
    """A thick arrow to the left."""
    neck = end + 9
    shaft = ("M", start, y - 2, "H", neck, "V", y - 5, "L", end, y, neck, y + 5, "V", y + 2)
    return _path("back", *shaft, "H", start, "Z")


def _path(kind: str, *way: str | float) -> str:
    steps = [step if isinstance(step, str) else _n(step) for step in way]
    return f'<path class="{kind}" d="{" ".join(steps)}"/>'


def _written(kind: str, text: str, x: float, y: float) -> str:
    return f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}">{_xml(text)}</text>'


def _n(number: float) -> str:
    return f"{round(number, 1) + 0:.10g}"


def _xml(text: str) -> str:
    """Escape a text for XML; characters that XML does not allow are replaced."""
    held = re.sub("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
    return html.escape(held)
