"""Where the boxes of a picture go: in layers from left to right, with few crossings.

The steps are those of Sugiyama's method. Boxes are assigned to layers. A wire that crosses a layer
gets a point in it. The points of each layer are ordered by the mean place of their neighbours, then
placed at heights that keep the wires of results straight.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right, insort
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

SHORT = 4  # up to so many layers, inputs are at the left edge; else beside their first use
STARTS = 12  # initial orders to try and improve
ROUNDS = 6  # sweeps to the left and back
CLEARANCE = 8.0  # between the boxes of a layer
NARROW, WIDE = 30.0, 96.0  # gap between layers, depending on how far its wires rise
PITCH = 12.0  # between the wires that enter a box
# Angles of wires that enter a circle; a steeper one's tip would reach into the layer.
STEEPEST, APART = math.radians(45), math.radians(40)
# How strongly a point keeps its height: inputs yield to passing wires, and both to results.
INPUT, PASSING, RESULT = 1.0, 1e4, 1e8


class Box(NamedTuple):
    """A mark, and to its right the labels along its value's wire."""

    operands: tuple[int, ...]  # earlier boxes, whose wires end here
    ordered: bool  # whether they enter from top to bottom in that order
    output: bool  # whether it stands in the last layer
    round: bool  # whether its mark is a circle
    mark: float  # widths
    labels: float
    half: float  # of the mark's height
    above: float  # heights of the labels above the wire and below it
    below: float


class Place(NamedTuple):
    """A box's place: its mark from ``left`` to ``middle``, its labels from there to ``right``."""

    left: float
    middle: float
    right: float
    y: float


class Piece(NamedTuple):
    """A wire's path to the next layer: to a box's mark there, or on through the layer."""

    start: tuple[float, float]
    stop: tuple[float, float]
    angle: float  # at which it arrives, in radians: 0 to the right, positive upwards
    through: float | None  # where the layer ends


class Layout(NamedTuple):
    """The boxes' places, the pieces of each box's wire, and the total size."""

    places: list[Place]
    wires: list[list[Piece]]
    width: float
    height: float


@dataclass(eq=False)
class _Point:
    """A box in its layer, or its wire in a layer that the wire crosses."""

    box: Box
    index: int
    layer: int
    passing: bool
    before: list[tuple[_Point, int]] = field(default_factory=list)  # with the operand's number
    after: list[tuple[_Point, int]] = field(default_factory=list)
    rank: int = 0  # in its layer, from the top
    y: float = 0.0

    @property
    def weight(self) -> float:
        if not self.box.operands:
            return INPUT
        return PASSING if self.passing else RESULT

    @property
    def extents(self) -> tuple[float, float]:
        """How far it extends above and below its y."""
        box = self.box
        return (0.0, 0.0) if self.passing else (max(box.half, box.above), max(box.half, box.below))

    def guides(self) -> list[_Point]:
        """The heaviest of the points before: a straight wire should come from these."""
        heaviest = max((point.weight for point, _ in self.before), default=0.0)
        return [point for point, _ in self.before if point.weight == heaviest]

    def entries(self, gap: float) -> list[tuple[_Point, float, float]]:
        """The points before, with the angle at which each wire arrives and how far below y."""
        ordered = self.box.ordered
        links = sorted(self.before, key=lambda link: (0 if ordered else link[0].rank, link[1]))
        sources = [source for source, _ in links]
        if self.passing or not self.box.round:
            top = -PITCH * (len(sources) - 1) / 2
            return [(source, 0.0, top + PITCH * i) for i, source in enumerate(sources)]
        room = APART * (len(sources) - 1)
        angles = []
        for i, source in enumerate(sources):
            angle = math.atan2(source.y - self.y, gap) - i * APART
            angles.append(i * APART + min(max(angle, -STEEPEST), STEEPEST - room))
        weights = [source.weight for source in sources]
        angles = _spread(angles, weights, [APART] * (len(sources) - 1))
        radius = self.box.mark / 2
        return [(s, a, radius * math.sin(a)) for s, a in zip(sources, angles, strict=True)]


def arrange(boxes: list[Box]) -> Layout:
    """Lay out boxes; the same boxes always get the same places."""
    layers = _ordered(_points(boxes, _layers(boxes)))
    height = _set_heights(layers)
    columns = _columns(layers)
    places = [Place(0, 0, 0, 0)] * len(boxes)
    wires: list[list[Piece]] = [[] for _ in boxes]
    for layer, (left, middle, right) in zip(layers, columns, strict=True):
        for point in layer:
            if not point.passing:
                places[point.index] = Place(left, middle, right, point.y)
            for source, angle, below in point.entries(NARROW):
                start = columns[source.layer][2], source.y
                x = left
                if point.box.round and not point.passing:
                    x += point.box.mark / 2 * (1 - math.cos(angle))
                through = right if point.passing else None
                wires[source.index].append(Piece(start, (x, point.y + below), angle, through))
    return Layout(places, wires, columns[-1][2] if columns else 0.0, height)


def _layers(boxes: list[Box]) -> list[int]:
    """The layer of each box: the next after its operands; inputs left, outputs right."""
    layers: list[int] = []
    first_use: dict[int, int] = {}
    for box in boxes:
        layers.append(1 + max((layers[operand] for operand in box.operands), default=-1))
    last = max(layers, default=0)
    for index, box in enumerate(boxes):
        if box.output:
            layers[index] = last
        for operand in box.operands:
            first_use[operand] = min(first_use.get(operand, last), layers[index])
    return [
        layer if box.operands or last <= SHORT else first_use.get(index, 1) - 1
        for index, (box, layer) in enumerate(zip(boxes, layers, strict=True))
    ]


def _points(boxes: list[Box], layers: list[int]) -> list[_Point]:
    """The boxes' points, linked. A value has one wire, however many boxes use it."""
    points = [_Point(box, i, layers[i], passing=False) for i, box in enumerate(boxes)]
    uses: list[list[tuple[_Point, int]]] = [[] for _ in boxes]
    for point in points:
        for position, operand in enumerate(point.box.operands):
            uses[operand].append((point, position))
    for point in points:
        end = point
        for target, position in sorted(uses[point.index], key=lambda use: use[0].layer):
            while end.layer < target.layer - 1:
                passing = _Point(end.box, end.index, end.layer + 1, passing=True)
                _link(end, passing, 0)
                end = passing
            _link(end, target, position)
    return points


def _link(source: _Point, target: _Point, position: int) -> None:
    source.after.append((target, position))
    target.before.append((source, position))


def _ordered(points: list[_Point]) -> list[list[_Point]]:
    """All points, layer by layer, in the best of the orders tried."""
    best: list[list[_Point]] = []
    least: tuple[float, ...] = (math.inf,)
    for start in range(STARTS):
        layers = _walk(points, random.Random(start) if start else None)
        for sweep in range(2 * ROUNDS + 1):
            if sweep:
                _sweep(layers, to_the_left=sweep % 2 == 1)
            if (cost := _cost(layers)) < least:
                best, least = [layer[:] for layer in layers], cost
    for layer in best:
        _number(layer)
    return best


def _walk(points: list[_Point], chance: random.Random | None) -> list[list[_Point]]:
    """Order points as a walk from the ends of the graph meets them: a tree has no crossing.

    It visits the operands of a point in their order, or in random order.
    """
    layers: list[list[_Point]] = [[] for _ in range(1 + max(point.layer for point in points))]
    stack = [point for point in reversed(points) if not point.after]
    met = set()
    while stack:
        point = stack.pop()
        if point in met:
            continue
        met.add(point)
        layers[point.layer].append(point)
        links = sorted(
            point.before, key=lambda link: chance.random() if chance else link[1], reverse=True
        )
        stack.extend(source for source, _ in links)
    for layer in layers:
        _number(layer)
    return layers


def _number(layer: list[_Point]) -> None:
    for rank, point in enumerate(layer):
        point.rank = rank


def _sweep(layers: list[list[_Point]], to_the_left: bool) -> None:
    """Order each layer by the mean place of its points' successors or predecessors."""

    def place(point: _Point) -> float:
        if to_the_left:
            places = [t.rank + (i + 1) / (len(t.before) + 1) - 0.5 for t, i in point.after]
        else:
            places = [float(source.rank) for source, _ in point.before]
        return sum(places) / len(places) if places else point.rank

    for layer in layers[:: -1 if to_the_left else 1]:
        layer.sort(key=place)
        _number(layer)


def _cost(layers: list[list[_Point]]) -> tuple[int, ...]:
    """Crossings; operands below later ones; how many ranks wires rise or fall."""
    disorder = steps = 0
    for point in (point for layer in layers for point in layer):
        ranks = [source.rank for source, _ in sorted(point.before, key=lambda link: link[1])]
        disorder += sum(upper > lower for upper, lower in pairwise(ranks))
        steps += sum(abs(point.rank - rank) for rank in ranks)
    return crossings(layers), disorder, steps


def crossings(layers: list[list[_Point]]) -> int:
    """Count the pairs of wires that cross: with sorted starts, the inversions of the ends."""
    count = 0
    for layer in layers:
        ends: list[tuple[int, int]] = []
        for point in layer:
            links = [
                (target.rank, position if target.box.ordered else 0)
                for target, position in point.after
            ]
            for link in sorted(links):
                count += len(ends) - bisect_right(ends, link)
                insort(ends, link)
    return count


def _set_heights(layers: list[list[_Point]]) -> float:
    """Set every point's y, and return the lowest extent; the top is at 0."""

    def from_operands(point: _Point) -> list[_Point]:
        return point.guides() or [target for target, _ in point.after]

    def from_uses(point: _Point) -> list[_Point]:
        def bond(target: _Point) -> tuple[float, float]:
            guides = target.guides()
            return (point in guides) / len(guides), target.weight

        targets = dict.fromkeys(target for target, _ in point.after)
        strongest = max(map(bond, targets), default=None)
        return [target for target in targets if bond(target) == strongest] or point.guides()

    for sweep in range(2 * ROUNDS + 1):
        neighbours = from_operands if sweep % 2 == 0 else from_uses
        for layer in layers[:: 1 if sweep % 2 == 0 else -1]:
            wanted = []
            for point in layer:
                heights = [neighbour.y for neighbour in neighbours(point)]
                wanted.append(sum(heights) / len(heights) if heights else point.y)
            rooms = [a.extents[1] + CLEARANCE + b.extents[0] for a, b in pairwise(layer)]
            heights = _spread(wanted, [point.weight for point in layer], rooms)
            for point, y in zip(layer, heights, strict=True):
                point.y = y
    points = [point for layer in layers for point in layer]
    top = min((point.y - point.extents[0] for point in points), default=0.0)
    for point in points:
        point.y -= top
    return max((point.y + point.extents[1] for point in points), default=0.0)


def _spread(wanted: list[float], weights: list[float], rooms: list[float]) -> list[float]:
    """The values nearest to those wanted, by weighted least squares, at least ``rooms`` apart.

    With the preceding rooms subtracted, the values must not decrease: this is isotonic regression,
    solved by pooling adjacent violators.
    """
    offsets = list(accumulate(rooms, initial=0.0))
    pools: list[tuple[float, float, int]] = []  # mean, weight, number of values
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, size = want - offset, 1
        while pools and pools[-1][0] >= mean:
            other, heft, count = pools.pop()
            mean = (other * heft + mean * weight) / (heft + weight)
            weight, size = weight + heft, size + count
        pools.append((mean, weight, size))
    means = [mean for mean, _, size in pools for _ in range(size)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _columns(layers: list[list[_Point]]) -> list[tuple[float, float, float]]:
    """Where the marks of each layer start, where its labels start, and where they end."""
    columns: list[tuple[float, float, float]] = []
    x = 0.0
    for layer in layers:
        boxes = [point.box for point in layer if not point.passing]
        rise = max((abs(p.y - q.y) for p in layer for q, _ in p.before), default=0.0)
        left = x + min(max(NARROW, rise / 3), WIDE) if columns else 0.0
        middle = left + max((box.mark for box in boxes), default=0.0)
        x = middle + max((box.labels for box in boxes), default=0.0)
        columns.append((left, middle, x))
    return columns
