"""Where the parts of a picture go: in layers from left to right, with few crossings."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import attrgetter
from statistics import fmean

SHORT = 4  # up to so many layers, inputs are at the left edge; else beside their first use
SWEEPS = 6  # over the layers, to the right and to the left in turn

# In pixels.
RADIUS = 16.0  # of a circle, and of a box's corners
PADDING = 6.0  # beside a text
LINE = 15.0  # from one line of a label to the next
GRADIENT = 9.0  # from a wire down to its gradient's arrow
PITCH = 10.5  # between the wires that enter a node
CLEARANCE = 8.0  # between the parts of a layer
NARROW, WIDE = 30.0, 96.0  # gap between layers, depending on how far its wires rise

# Widths of characters in a font of size 1, generously: the font is not known.
EMS = dict.fromkeys("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 0.75)
EMS |= dict.fromkeys("iIljtf.,:;'|()[]! ", 0.38) | dict.fromkeys("mwMW@%…", 1.0)


def text_width(text: str, size: float) -> float:
    wide = unicodedata.east_asian_width
    return size * sum(EMS.get(c, 1.05 if wide(c) in "WF" else 0.62) for c in text)


@dataclass(eq=False)
class Part:
    """A mark, and to its right the labels along its value's wire; or that wire in a later layer."""

    kind: str  # "start" or "end" of a wire: only text; "node"; "wire": where it crosses a layer
    text: str = ""
    title: str = ""
    operands: tuple[Part, ...] = ()
    ordered: bool = True  # whether their wires enter from top to bottom in that order
    above: tuple[str, ...] = ()  # lines for the value
    below: tuple[str, ...] = ()  # lines for the gradient
    # What `arrange` finds.
    layer: int = 0
    before: list[Part] = field(default_factory=list)  # neighbours in the layers beside it
    after: list[Part] = field(default_factory=list)
    y: float = 0.0  # first its rank in the layer
    column: tuple[float, float, float] = (0.0, 0.0, 0.0)  # left of marks and of labels; right

    @property
    def width(self) -> float:
        """Of the mark."""
        width = text_width(self.text, 14) + PADDING
        return max(2 * RADIUS, width + PADDING) if self.kind == "node" else width

    @property
    def half(self) -> float:
        """Of the mark's height."""
        if self.kind == "node":
            return max(RADIUS, PITCH * (len(self.operands) + 1) / 2)
        return 0.0 if self.kind == "wire" else LINE / 2

    @property
    def extents(self) -> tuple[float, float]:
        """How far mark and labels extend above and below y."""
        if self.kind in ("end", "wire"):
            return self.half, self.half
        above, below = len(self.above) * LINE + PADDING, len(self.below) * LINE + PADDING
        return max(self.half, above), max(self.half, below + GRADIENT)

    @property
    def weight(self) -> float:
        """How strongly it keeps its y: inputs yield to wires that pass, and both to results."""
        return 1e4 if self.kind == "wire" else 1e8 if self.operands else 1.0

    def entries(self) -> list[tuple[Part, float]]:
        """The parts before it, and how far below its y their wires end: apart, towards them."""
        sources = self.before if self.ordered else sorted(self.before, key=attrgetter("y"))
        rooms = [PITCH] * (len(sources) - 1)
        reach = max(0.75 * RADIUS, self.half - PITCH) if self.kind == "node" else 0.0
        wanted = [
            min(max((source.y - self.y) / 2, PITCH * i - reach), PITCH * i + reach - sum(rooms))
            for i, source in enumerate(sources)
        ]
        ends = _spread(wanted, [source.weight for source in sources], rooms)
        return list(zip(sources, ends, strict=True))


def arrange(parts: list[Part]) -> tuple[list[list[Part]], float, float]:
    """Place each part and those of its wire, which are returned; and the width and height."""
    _set_layers(parts)
    wires = _wires(parts)
    layers = _ordered([wire[-1] for wire in wires if not wire[-1].after])
    _set_heights(layers)
    everything = [part for layer in layers for part in layer]
    top = min(part.y - part.extents[0] for part in everything)
    for part in everything:
        part.y -= top
    width = 0.0
    for layer in layers:
        rise = max((abs(part.y - each.y) for part in layer for each in part.before), default=0.0)
        left = width + min(max(NARROW, rise / 3), WIDE) if width else 0.0
        middle = left + max(part.width for part in layer)
        lines = [line for part in layer for line in part.above + part.below]
        width = middle + max((text_width(line, 12) + 3 * PADDING for line in lines), default=0.0)
        for part in layer:
            part.column = left, middle, width
    return wires, width, max(part.y + part.extents[1] for part in everything)


def _set_layers(parts: list[Part]) -> None:
    """Put parts into the layer after their operands; inputs left, outputs right."""
    for part in parts:
        part.layer = 1 + max((operand.layer for operand in part.operands), default=-1)
    last = max(part.layer for part in parts)
    for part in reversed(parts):
        if part.kind == "end":
            part.layer = last
        elif not part.operands and last > SHORT:
            part.layer = min((use.layer for use in parts if part in use.operands), default=1) - 1


def _wires(parts: list[Part]) -> list[list[Part]]:
    """Link the parts: a value has one wire, with a part in each layer, however many use it."""
    wires = {part: [part] for part in parts}
    for part in parts:
        for wire in (wires[operand] for operand in part.operands):
            while wire[-1].layer < part.layer - 1:
                wire.append(Part("wire", layer=wire[-1].layer + 1, before=wire[-1:]))
                wire[-2].after.append(wire[-1])
            source = wire[part.layer - 1 - wire[0].layer]
            source.after.append(part)
            part.before.append(source)
    return list(wires.values())


def _ordered(ends: list[Part]) -> list[list[Part]]:
    """The layers, each in an order with few crossings.

    A walk from the ends meets the parts in an order in which a tree has no crossing. Then each
    layer is ordered by the mean ranks of its neighbours in the layer before, and in that after.
    """
    layers: list[list[Part]] = [[] for _ in range(1 + max(part.layer for part in ends))]
    stack, met = ends[::-1], set()
    while stack:
        if (part := stack.pop()) not in met:
            met.add(part)
            part.y = float(len(layers[part.layer]))
            layers[part.layer].append(part)
            stack += part.before[::-1]
    for neighbours, sweep in (attrgetter("before"), layers), (attrgetter("after"), layers[::-1]):
        for layer in sweep:
            means = {part: fmean([one.y for one in neighbours(part)] or [part.y]) for part in layer}
            layer.sort(key=means.__getitem__)
            for rank, part in enumerate(layer):
                part.y = float(rank)
    return layers


def _set_heights(layers: list[list[Part]]) -> None:
    """Set each y to that of the heaviest neighbours: the wires of results are to be straight."""
    for sweep in range(SWEEPS + 1):
        for layer in layers[::-1] if sweep % 2 else layers:
            wanted = []
            for part in layer:
                near = (sweep % 2 and part.after) or part.before or part.after or [part]
                heaviest = max(other.weight for other in near)
                wanted.append(fmean(other.y for other in near if other.weight == heaviest))
            extents = [part.extents for part in layer]
            rooms = [upper[1] + CLEARANCE + lower[0] for upper, lower in pairwise(extents)]
            heights = _spread(wanted, [part.weight for part in layer], rooms)
            for part, y in zip(layer, heights, strict=True):
                part.y = y


def _spread(wanted: list[float], weights: list[float], rooms: list[float]) -> list[float]:
    """The values nearest to those wanted, by weighted least squares, at least ``rooms`` apart."""
    offsets = list(accumulate(rooms, initial=0.0))
    pools: list[tuple[float, float, int]] = []  # mean, weight and number of values to move together
    for want, weight, offset in zip(wanted, weights, offsets, strict=False):
        mean, size = want - offset, 1
        while pools and pools[-1][0] >= mean:
            other, heft, count = pools.pop()
            mean = (other * heft + mean * weight) / (heft + weight)
            weight, size = weight + heft, size + count
        pools.append((mean, weight, size))
    means = [mean for mean, _, size in pools for _ in range(size)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=False)]
