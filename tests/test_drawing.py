"""Pictures of graphs: all that is in them, and that one can read it."""

from __future__ import annotations

import gc
import math
import re
import weakref
from decimal import Decimal
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import fresh
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayers import BaseLayer
from fastlayers.graph.dot import to_dot
from fastlayers.graph.drawing import draw
from fastlayers.graph.layout import text_width
from fastlayers.graph.nodes import Node, Nodes

SVG = "{http://www.w3.org/2000/svg}"
SIZES = {"value": 12, "gradient": 12, "mark": 14, "symbol": 20}  # of the fonts, as in the styles
TIMES = "\N{MULTIPLICATION SIGN}"
SYMBOLS = {"*": "multiply", "+": "add", "-": "subtract", "neg": "negative", "sum": "sum_to"}


class Relu(BaseLayer):
    pass


def graph(name, inputs, *steps, outputs):
    """Nodes of steps such as "t = x * y"; other words than names are numbers."""
    nodes = [Node("input", (), each, "") for each in inputs.split()]
    position = {node.detail: i for i, node in enumerate(nodes)}

    def found(word):
        if word not in position:
            nodes.append(Node("number", (), float(word), f"{name}.py:1"))
            return len(nodes) - 1
        return position[word]

    for step in steps:
        target, _, *words = step.split()
        if words[1:2] and words[1] in SYMBOLS:
            operands = found(words[0]), found(words[2])
            node = Node(SYMBOLS[words[1]], operands, None, f"{name}.py:1: {step}")
        else:
            operands = tuple(found(word) for word in words[1:])
            node = Node("layer", operands, Relu(), f"{name}.py:1: {step}")
        position[target] = len(nodes)
        nodes.append(node)
    ends = tuple(position[output] for output in outputs.split())
    return Nodes(name, tuple(nodes), tuple(inputs.split()), ends, len(ends) == 1)


SHOP = graph(
    "shop",
    "apple apple_num orange orange_num tax",
    "apples = apple * apple_num",
    "oranges = orange * orange_num",
    "all = apples + oranges",
    "price = all * tax",
    outputs="price",
)
LSTM = graph(
    "lstm",
    "f c g i o",
    "kept = f * c",
    "new = g * i",
    "cell = kept + new",
    "shown = o * cell",
    outputs="cell shown",
)
HORNER = graph(
    "horner",
    "x " + " ".join(f"c{k}" for k in range(9)),
    *(
        f"{step} = {left} {operation} {right}"
        for k in range(7, -1, -1)
        for step, left, operation, right in [
            (f"m{k}", "c8" if k == 7 else f"s{k + 1}", "*", "x"),
            (f"s{k}", f"m{k}", "+", f"c{k}"),
        ]
    ),
    outputs="s0",
)
RESIDUAL = graph(
    "residual",
    "x w b",
    "scaled = x * w",
    "moved = scaled + b",
    "cut = relu moved",
    "y = cut + x",
    outputs="y",
)
EXAMPLES = [SHOP, LSTM, HORNER, RESIDUAL]
SHOP_VALUES = [100, 2, 150, 3, 1.1, 200, 450, 650, 715.0000000000001]
SHOP_GRADIENTS = [2.2, 110.00000000000001, 3.3000000000000003, 165.0, 650, 1.1, 1.1, 1.1, 1]


def chain(length):
    steps = [f"t{i} = t{i - 1} * x" for i in range(1, length)]
    return graph("chain", "x y", "t0 = x * y", *steps, outputs=f"t{length - 1}")


class Picture:
    """What stands in an SVG, and where."""

    def __init__(self, drawn):
        self.root = ElementTree.fromstring(str(drawn))
        self.groups = self.root.findall(f"{SVG}g")
        self.titles = [group.find(f"{SVG}title").text for group in self.groups]

    def texts(self, kind):
        return [t.text for t in self.root.iter(f"{SVG}text") if kind in t.get("class").split()]

    def marks(self):
        """The outlines of nodes: left, top, right, bottom."""
        found = []
        for rect in self.root.iter(f"{SVG}rect"):
            if rect.get("class") == "node":
                x, y, w, h = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
                found.append((x, y, x + w, y + h))
        return found

    def written(self):
        """The boxes of all texts but those in outlines, by the widths that the layout assumes."""
        outlines = self.marks()
        found = []
        for text in self.root.iter(f"{SVG}text"):
            kinds = text.get("class").split()
            size = SIZES[kinds[-1] if kinds[-1] in SIZES else kinds[0]]
            x, y = float(text.get("x")), float(text.get("y"))
            width = text_width(text.text, size)
            x -= width if "start" in kinds else 0 if "end" in kinds else width / 2
            box = (x, y - 0.75 * size, x + width, y + 0.2 * size)
            if not any(covers(outline, box) for outline in outlines):
                found.append(box)
        return found

    def paths(self, kind):
        return [path for path in self.root.iter(f"{SVG}path") if path.get("class") == kind]

    def wires(self):
        """The wires of each group, as points close together."""
        return [
            [points(path.get("d")) for path in group if path.get("class") == "wire"]
            for group in self.groups
        ]

    def crossings(self):
        wires = [wire for wire in self.wires() if wire]
        return sum(
            meet(a, b)
            for one, other in combinations(wires, 2)
            for first in one
            for second in other
            for a in pairwise(first)
            for b in pairwise(second)
        )


def points(way):
    tokens = way.split()
    x, y = float(tokens[1]), float(tokens[2])
    found = [(x, y)]
    rest = tokens[3:]
    while rest:
        if rest[0] == "H":
            end, rest = float(rest[1]), rest[2:]
            found += [(x + (end - x) * k / 8, y) for k in range(1, 9)]
            x = end
        else:
            assert rest[0] == "C"
            ax, ay, bx, by, cx, cy = map(float, rest[1:7])
            rest = rest[7:]
            for k in range(1, 13):
                t, s = k / 12, 1 - k / 12
                found.append(
                    (
                        s**3 * x + 3 * s * s * t * ax + 3 * s * t * t * bx + t**3 * cx,
                        s**3 * y + 3 * s * s * t * ay + 3 * s * t * t * by + t**3 * cy,
                    )
                )
            x, y = cx, cy
    return found


def meet(a, b):
    def side(p, q, r):
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(*a, b[0]) * side(*a, b[1]) < 0 and side(*b, a[0]) * side(*b, a[1]) < 0


def covers(outer, inner):
    return (
        outer[0] <= inner[0]
        and outer[1] <= inner[1]
        and outer[2] >= inner[2]
        and outer[3] >= inner[3]
    )


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def assert_readable(picture):
    """Nothing covers anything else, and all is inside of the picture."""
    boxes = picture.marks() + picture.written()
    assert [pair for pair in combinations(boxes, 2) if overlap(*pair)] == []
    x, y, width, height = map(float, picture.root.get("viewBox").split())
    assert all(covers((x, y, x + width, y + height), box) for box in boxes)
    through = [
        (box, point)
        for group in picture.wires()
        for wire in group
        for point in wire
        for box in boxes
        if overlap((box[0] + 0.2, box[1] + 0.2, box[2] - 0.2, box[3] - 0.2), point * 2)
    ]
    assert through == []


def arrows_of(nodes):
    return sum(len(node.operands) for node in nodes.nodes) + len(set(nodes.outputs))


def numbers(count, sign):
    """Different values for that many nodes, and the texts of them."""
    values = [sign * (i + 1) / 7e9 for i in range(count)]
    return values, [f"{value:g}" for value in values]


def arrays(count, sign):
    values, texts = numbers(count, sign)
    means = [f"mean {text}" for text in texts]
    return [np.full((2, 3), value) for value in values], ["float64 (2, 3)"] * count + means


def nothing(count, sign):
    return None, []


@pytest.mark.parametrize("nodes", EXAMPLES, ids=lambda nodes: nodes.name)
@pytest.mark.parametrize("kind", [nothing, numbers, arrays])
def test_everything_is_there_and_readable(nodes, kind):
    count = len(nodes.nodes)
    values, value_texts = kind(count, 1)
    gradients, gradient_texts = kind(count, -1)
    picture = Picture(draw(nodes, values, gradients))
    assert_readable(picture)
    ends = ["lstm[0]", "lstm[1]"] if nodes is LSTM else [nodes.name]
    symbols = {"multiply": TIMES, "add": "+", "layer": "Relu"}
    marks = [symbols.get(node.operation, node.detail) for node in nodes.nodes]
    assert sorted(picture.texts("mark")) == sorted(marks + ends)
    assert len(picture.paths("tip")) == arrows_of(nodes)
    assert sorted(picture.texts("value")) == sorted(value_texts)
    assert sorted(picture.texts("gradient")) == sorted(gradient_texts)
    assert len(picture.paths("back")) == (0 if kind is nothing else count)


@pytest.mark.parametrize("nodes", EXAMPLES, ids=lambda nodes: nodes.name)
@pytest.mark.parametrize("kind", [nothing, numbers, arrays])
def test_what_can_be_drawn_without_a_crossing_is(nodes, kind):
    count = len(nodes.nodes)
    assert Picture(draw(nodes, kind(count, 1)[0], kind(count, -1)[0])).crossings() == 0


def test_a_crossing_that_must_be():
    nodes = graph(
        "k33",
        "a b c",
        "x = relu a b c",
        "y = relu a b c",
        "z = relu a b c",
        outputs="x y z",
    )
    assert Picture(draw(nodes)).crossings() > 0


def test_the_shop_is_the_book_s():
    picture = Picture(draw(SHOP, SHOP_VALUES, SHOP_GRADIENTS))
    assert picture.texts("value") == ["100", "2", "150", "3", "1.1", "200", "450", "650", "715"]
    assert picture.texts("gradient") == [
        "2.2",
        "110",
        "3.3",
        "165",
        "650",
        "1.1",
        "1.1",
        "1.1",
        "1",
    ]
    starts = [t for t in picture.root.iter(f"{SVG}text") if "start" in t.get("class")]
    assert [t.text for t in starts] == list(SHOP.inputs)
    assert len({t.get("x") for t in starts}) == 1
    heights = [float(t.get("y")) for t in starts]
    assert heights == sorted(heights)
    assert picture.titles[8].split("\n") == [
        "t3 = t2 * tax: 715.0000000000001",
        "gradient: 1",
        "shop.py:1: price = all * tax",
    ]
    label = picture.root.get("aria-label")
    assert label == (
        "Computational graph of shop; apple: 100; apple_num: 2; orange: 150; orange_num: 3; "
        "tax: 1.1; shop: 715.0000000000001"
    )


def test_values_stand_above_their_wire_and_gradients_below():
    picture = Picture(draw(SHOP, SHOP_VALUES, SHOP_GRADIENTS))
    for group, (wire, *_) in zip(picture.groups[:-1], picture.wires(), strict=False):
        y = wire[0][1]
        texts = {t.get("class"): float(t.get("y")) for t in group.findall(f"{SVG}text")}
        assert texts["value"] < y < texts["gradient"]
        back = next(p for p in group if p.get("class") == "back").get("d").split()
        corners = {back[k]: float(back[k + 1]) for k in (3, 7)}
        assert y < float(back[2]) < texts["gradient"]
        assert corners["L"] < corners["H"] < float(back[1])  # its tip is at the left


def test_a_chain_is_straight():
    steps = [f"t{i} = relu t{i - 1}" for i in range(1, 30)]
    picture = Picture(draw(graph("relus", "x", "t0 = relu x", *steps, outputs="t29")))
    assert len({top for _, top, _, _ in picture.marks()}) == 1
    results = Picture(draw(HORNER, arrays(26, 1)[0])).marks()
    assert len({top for _, top, _, _ in results}) == 1


def test_an_operand_used_twice_has_two_arrows():
    picture = Picture(draw(graph("square", "x", "y = x * x", outputs="y")))
    first, second = picture.wires()[0][1:]
    assert first[0] == second[0]
    assert first[-1] != second[-1]
    assert len(picture.paths("tip")) == 3


@pytest.mark.parametrize("inputs", ["x y", "y x"])
def test_what_is_subtracted_from_enters_above(inputs):
    nodes = graph("f", inputs, "t = x - y", "u = y - x", "v = t * u", outputs="v")
    picture = Picture(draw(nodes))
    wires = zip(picture.titles, picture.wires(), strict=True)
    ends = {title: [pieces[-1] for pieces in wire] for title, wire in wires}
    for group, title in zip(picture.groups, picture.titles, strict=True):
        if title in ("t0 = x - y", "t1 = y - x"):
            rect = group.find(f"{SVG}rect")
            centre = float(rect.get("x")) + 16, float(rect.get("y")) + 16
            upper, lower = (
                next(y for x, y in ends[name] if math.dist((x, y), centre) < 24)
                for name in title[5::4]
            )
            assert upper < lower


def test_an_output_that_is_an_input_or_stands_twice():
    nodes = graph("f", "x unused", "y = relu x", outputs="y x y")
    picture = Picture(draw(nodes, [1, 2, 3], [4, None, 6]))
    assert picture.texts("end") == ["f[0], f[2]", "f[1]"]
    assert picture.texts("value") == ["1", "2", "3"]
    assert picture.texts("gradient") == ["4", "6"]
    assert_readable(picture)


def test_outputs_of_a_long_name_are_told_apart():
    nodes = graph("f.grad('apple', 'apple_num')", "x y", "z = x * y", outputs="z x")
    picture = Picture(draw(nodes))
    assert picture.texts("end") == ["f.grad('apple', 'apple…[0]", "f.grad('apple', 'apple…[1]"]
    assert picture.root[0].text == f"Computational graph of {nodes.name}"


def test_numbers_are_drawn_like_inputs():
    picture = Picture(draw(graph("f", "x", "y = 2.5 * x", outputs="y"), [3, 2.5, 7.5]))
    assert picture.texts("start") == ["x", "2.5"]
    assert picture.texts("value") == ["3", "7.5"]


class Unspeakable:
    def __str__(self):
        raise RuntimeError("not today")

    __repr__ = __str__


class Foreign:
    """An array of someone else's, that computes nothing."""

    dtype = "float8"
    shape = (2, None)


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        (3.3000000000000003, ["3.3"]),
        (np.float32(0.1), ["0.1"]),
        (np.int64(12345678), ["1.23457e+07"]),
        (True, ["True"]),
        (np.False_, ["False"]),
        (1 + 2j, ["1+2j"]),
        (np.complex64(1.5j), ["0+1.5j"]),
        (float("nan"), ["nan"]),
        (10**400, ["1.00000e+400"]),
        (-(10**5000), ["-1.00000e+5000"]),
        (Decimal("1.50"), ["1.50"]),
        (np.datetime64("2024-02-29"), ["2024-02-29"]),
        ("<&>", ["<&>"]),
        (Unspeakable(), ["(Unspeakable)"]),
        (Foreign(), ["float8 (2, None)"]),
        (np.array(2.5), ["float64 ()", "mean 2.5"]),
        (np.zeros((0, 3)), ["float64 (0, 3)"]),
        (np.array([1, "a"], object), ["object (2,)"]),
        (np.array(["a"]), ["<U1 (1,)"]),
        (np.array([True, False]), ["bool (2,)", "mean 0.5"]),
        (np.array([1j, 3j]), ["complex128 (2,)", "mean 0+2j"]),
        (np.array([1, np.nan]), ["float64 (2,)", "mean nan"]),
        (np.full(3, 1e308), ["float64 (3,)", "mean inf"]),
        (np.ma.masked_all(2), ["float64 (2,)"]),
        (np.zeros(1, [(f"field{i}", "f8") for i in range(9)]), ["[('field0', '<f8'), ('field…"]),
    ],
    ids=lambda case: repr(case)[:20] if isinstance(case, list) else "",
)
def test_how_values_are_written(value, lines):
    nodes = graph("f", "x", "y = relu x", outputs="y")
    with np.errstate(all="raise"):
        picture = Picture(draw(nodes, [value, None], [None, value]))
    assert picture.texts("value") == lines[::-1]  # written from the wire upwards
    assert picture.texts("gradient") == lines
    assert_readable(picture)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<&\">'", "<&\">'"),
        ("\N{CJK UNIFIED IDEOGRAPH-82F9}\N{CJK UNIFIED IDEOGRAPH-679C}" * 9, None),
        ("]]>", "]]>"),
        ("a\0b\x1b\ud800", "a\ufffdb\ufffd\ufffd"),
        ("k" * 100_000, "k" * 27 + "…"),
    ],
    ids=["markup", "wide", "cdata", "control", "long"],
)
def test_names_of_any_kind(name, shown):
    layer = type(name.replace("\0", "").replace("\ud800", ""), (BaseLayer,), {})()
    nodes = [Node("input", (), name, ""), Node("layer", (0,), layer, f"{name}:1")]
    drawn = draw(Nodes(name, tuple(nodes), (name,), (1,), True), [1, 2])
    picture = Picture(drawn)
    assert picture.texts("start") == [shown or name]
    assert_readable(picture)
    assert len(str(drawn)) < 8000
    assert str(drawn).encode()


@pytest.mark.parametrize("count", [60, 61])
def test_above_sixty_nodes_some_are_left_out(count):
    nodes = chain(count - 2)
    picture = Picture(draw(nodes, list(range(count)), list(range(count))))
    assert_readable(picture)
    if count == 60:
        assert len(picture.groups) == 61
        assert len(picture.paths("tip")) == arrows_of(nodes)
    else:
        assert len(picture.groups) == 15 + 1 + 15 + 1
        assert "… 31 nodes …" in picture.texts("mark")
        assert "31 of 61 nodes are not drawn" in picture.titles
        shown = [str(i) for i in (*range(15), *range(46, 61))]
        assert picture.texts("value") == picture.texts("gradient") == shown


def test_large_graphs():
    nodes = chain(10_000)._replace(outputs=(3, 5_000, 5_001, 10_001), single=False)
    drawn = draw(nodes)
    picture = Picture(drawn)
    assert "9,972 of 10,002 nodes are not drawn, 2 of them outputs" in picture.titles
    assert picture.texts("end") == ["chain[0]", "chain[3]"]
    assert len(str(drawn)) < 50_000
    many = " ".join(f"x{i}" for i in range(300))
    wide = Picture(draw(graph("wide", many, f"y = relu {many}", outputs="y")))
    last = [*(f"x{i}" for i in range(286, 300)), "Relu", "wide"]
    assert wide.texts("mark")[15:] == ["… 271 nodes …", *last]
    assert len(wide.paths("tip")) == 15 + 1 + 14 + 1
    assert_readable(wide)
    twice = graph("twice", "x", f"y = relu {'x ' * 300}", outputs="y")
    assert len(Picture(draw(twice)).paths("tip")) == 301


@settings(max_examples=40)
@given(st.data())
def test_any_graph_is_readable(data):
    nodes = [Node("input", (), f"in_{i}", "") for i in range(data.draw(st.integers(1, 5)))]
    inputs = tuple(node.detail for node in nodes)
    for _ in range(data.draw(st.integers(1, 20))):
        operation = data.draw(
            st.sampled_from(["multiply", "add", "subtract", "negative", "layer", "number"])
        )
        size = {"negative": 1, "number": 0, "layer": data.draw(st.integers(1, 4))}.get(operation, 2)
        operands = st.tuples(*[st.integers(0, len(nodes) - 1)] * size)
        detail = {"layer": Relu(), "number": 0.5}.get(operation)
        nodes.append(Node(operation, data.draw(operands), detail, ""))
    value = st.sampled_from([None, 2, -1.23456e-89, np.zeros((1000, 650), "f4"), np.ones(3)])
    values, gradients = (data.draw(st.tuples(*[value] * len(nodes))) for _ in range(2))
    outputs = tuple(data.draw(st.sets(st.integers(0, len(nodes) - 1), min_size=1, max_size=3)))
    graph = Nodes("any", tuple(nodes), inputs, outputs, False)
    picture = Picture(draw(graph, values, gradients))
    assert_readable(picture)
    assert len(picture.paths("tip")) == arrows_of(graph)


def test_the_same_to_the_byte():
    code = (
        "import hashlib, test_drawing as t\n"
        "for nodes in [*t.EXAMPLES, t.chain(100)]:\n"
        "    text = str(t.draw(nodes, range(len(nodes.nodes))))\n"
        "    print(hashlib.sha256(text.encode()).hexdigest())"
    )
    first, second = (fresh.output_of(code, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert len(first) == 5
    assert first == second


def test_styles_and_names_stay_in_the_picture():
    text = str(draw(LSTM))
    assert " id=" not in text
    style = ElementTree.fromstring(text).find(f"{SVG}style").text
    selectors = re.findall(r"^([^@{}]+)\{", style, re.MULTILINE)
    assert len(selectors) > 10
    assert all(selector.strip().startswith(".fastlayers-graph") for selector in selectors)
    assert "prefers-color-scheme:dark" in style


def test_accessible():
    picture = Picture(draw(SHOP))
    assert picture.root.get("role") == "img"
    assert picture.root[0].tag == f"{SVG}title"
    assert picture.root[0].text == "Computational graph of shop"
    assert len(picture.titles) == len(SHOP.nodes) + 1
    assert all(picture.titles)


def test_jupyter_shows_it():
    drawn = draw(SHOP)
    bundle = drawn._repr_mimebundle_(include=None, exclude=None)
    assert bundle == {"image/svg+xml": str(drawn), "text/plain": repr(drawn)}
    assert repr(drawn).startswith("<Drawing of shop: ")


@pytest.mark.parametrize("kind", [str, Path])
def test_save(tmp_path, kind):
    drawn = draw(SHOP)
    path = tmp_path / "shop.SVG"
    path.write_text("what was there before" * 1000)
    assert drawn.save(kind(path)) is None
    assert path.read_bytes() == str(drawn).encode()
    wrong = kind(tmp_path / "shop.png")
    with pytest.raises(ValueError, match=r"path must end in \.svg.*shop\.png"):
        drawn.save(wrong)
    with pytest.raises(FileNotFoundError):
        drawn.save(kind(tmp_path / "nowhere" / "shop.svg"))
    assert [file.name for file in tmp_path.iterdir()] == ["shop.SVG"]


def test_a_drawing_keeps_no_array():
    nodes = graph("f", "x", "y = relu x", outputs="y")
    values = [np.ones(3), np.ones(3)]
    alive = weakref.ref(values[0])
    layer = weakref.ref(nodes.nodes[1].detail)
    drawn = draw(nodes, values, values)
    del nodes, values
    gc.collect()
    assert alive() is None
    assert layer() is None
    assert "float64 (3,)" in str(drawn)


def test_dot():
    lines = to_dot(LSTM).splitlines()
    assert lines[0] == 'digraph "lstm" {'
    assert lines[-1] == "}"
    edges = [tuple(line.split(" -> ")) for line in lines if "->" in line]
    assert [(int(a), int(b)) for a, b in edges if b.isdigit()] == [
        (operand, i) for i, node in enumerate(LSTM.nodes) for operand in node.operands
    ]
    assert [(int(a), b) for a, b in edges if not b.isdigit()] == [(7, "out7"), (8, "out8")]
    labels = dict(re.findall(r'^  (\w+) \[label="(.*)", shape=\w+\]$', to_dot(LSTM), re.MULTILINE))
    names = ["f", "c", "g", "i", "o", *([TIMES] * 2), "+"]
    assert list(labels.values()) == [*names, TIMES, "lstm[0]", "lstm[1]"]


def test_dot_quotes_names():
    name = 'a"\\b&lt;\n\0c'
    nodes = Nodes(name, (Node("input", (), name, ""),), (name,), (0,), True)
    assert to_dot(nodes).count('"a\\"\\\\b&amp;lt;  c"') == 3
    assert len(to_dot(chain(10_000)).splitlines()) > 30_000
