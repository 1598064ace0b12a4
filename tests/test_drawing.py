"""Pictures of graphs: all that is in them, and that one can read it."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from graphs import gates, shop
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayers import BaseLayer, Graph
from fastlayers.graph.dot import to_dot
from fastlayers.graph.drawing import draw
from fastlayers.graph.layout import text_width
from fastlayers.graph.nodes import Node, Nodes
from fastlayers.graph.picture import MOST_NODES

TIMES = "\N{MULTIPLICATION SIGN}"
SVG = "{http://www.w3.org/2000/svg}"
SIZES = {"value": 12, "gradient": 12, "symbol": 20}  # of the fonts, as in the style; of marks 14


class Relu(BaseLayer):
    def forward(self, x):
        return x

    def backward(self, dout):
        return dout


relu = Relu()


def horner(x, a, b, c, d):
    return ((a * x + b) * x + c) * x + d


def several(f, c, g, i, o):
    cell = f * c + g * i
    return cell, o * cell, g, cell


def residual(x, w, b):
    return relu(x * w - b) + x


# What stands below each other, from left to right.
PICTURES = {
    shop: "apple apple_num orange orange_num tax | * * | + | * | shop",
    gates: "f c g i | * * | + | gates",
    horner: "a x | * | b | + | * | c | + | * | d | + | horner",
    several: "f c i g o | * * | + | * | several[0],several[3] several[1] several[2]",
    residual: "x w | * | b | - | Relu | + | residual",
}


class Picture:
    """What stands in an SVG, and where."""

    def __init__(self, drawn):
        self.root = ElementTree.fromstring(str(drawn))
        self.titles = [group.find(f"{SVG}title").text for group in self.root.iter(f"{SVG}g")]
        self.outlines = []  # of nodes: left, top, right, bottom
        for rect in self.root.iter(f"{SVG}rect"):
            if rect.get("class") == "node":
                x, y, width, height = (float(rect.get(k)) for k in ("x", "y", "width", "height"))
                self.outlines.append((x, y, x + width, y + height))
        # Texts by class, and the boxes of those outside of nodes.
        self.texts, self.written = {}, []
        for text in self.root.iter(f"{SVG}text"):
            kinds, x, y = text.get("class").split(), float(text.get("x")), float(text.get("y"))
            size = SIZES.get(kinds[-1], 14)
            self.texts.setdefault(kinds[0], []).append((x, y, text.text))
            width = text_width(text.text, size)
            left = x - width * (1.0 if "start" in kinds else 0.0 if "end" in kinds else 0.5)
            box = (left, y - 0.75 * size, left + width, y + 0.2 * size)
            if not any(covers(outline, box) for outline in self.outlines):
                self.written.append(box)

    def words(self, kind):
        return [text for _, _, text in self.texts.get(kind, [])]

    def paths(self, kind):
        return [p.get("d") for p in self.root.iter(f"{SVG}path") if p.get("class") == kind]

    def sketch(self):
        """The marks by the x at which outlines begin, and texts end or begin; then by y."""
        columns = {}
        for x, y, text in self.texts["mark"]:
            left = min([box[0] for box in self.outlines if covers(box, (x, y, x, y))], default=x)
            text = text.translate({0xD7: "*", 0x2212: "-", 0x20: None})
            columns.setdefault(left, []).append((y, text))
        return " | ".join(" ".join(t for _, t in sorted(columns[x])) for x in sorted(columns))

    def check(self):
        """Nothing covers anything else, arrows go to the right, and all is inside."""
        boxes = self.outlines + self.written
        assert [pair for pair in combinations(boxes, 2) if overlap(*pair)] == []
        x, y, width, height = map(float, self.root.get("viewBox").split())
        assert all(covers((x, y, x + width, y + height), box) for box in boxes)
        for way in map(points, self.paths("wire")):
            assert all(a[0] <= b[0] + 0.1 for a, b in pairwise(way))
            for left, top, right, bottom in boxes:
                inner = left + 0.2, top + 0.2, right - 0.2, bottom - 0.2
                assert not any(overlap(inner, point * 2) for point in way)


def points(way):
    """A wire as points close together."""
    numbers = [float(number) for number in re.findall(r"[-\d.]+", way)]
    if "C" not in way:
        return [(numbers[0], numbers[1]), (numbers[2], numbers[1])]
    controls = np.reshape(numbers[:8], (4, 2))
    t = np.linspace(0, 1, 13)[:, None]
    weights = np.hstack([(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3])
    return list(map(tuple, weights @ controls)) + [(x, numbers[7]) for x in numbers[8:]]


def covers(a, b):
    return a[0] <= b[0] and a[1] <= b[1] and a[2] >= b[2] and a[3] >= b[3]


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def chain(length):
    """Nodes of x * y * y * …."""
    products = [Node("multiply", (i - 1 if i > 2 else 0, 1)) for i in range(2, length)]
    inputs = Node("input", (), "x"), Node("input", (), "y")
    return Nodes("chain", (*inputs, *products), ("x", "y"), (length - 1,), True)


def of_one(operation, detail, name="f", x="x"):
    return Nodes(name, (Node("input", (), x), Node(operation, (0,), detail)), (x,), (1,), True)


def arrows_of(nodes):
    return sum(len(node.operands) for node in nodes.nodes) + len(set(nodes.outputs))


@pytest.mark.parametrize("function", PICTURES)
@pytest.mark.parametrize("operand", [None, 2.0, np.full((2, 3), 2.0)], ids=["", "number", "array"])
def test_pictures(function, operand):
    graph = Graph(function)
    nodes = graph._nodes
    picture = Picture(graph.draw(*[operand] * (len(graph.inputs) if operand is not None else 0)))
    assert picture.sketch() == PICTURES[function]
    picture.check()
    lines = 0 if operand is None else len(nodes.nodes) * (1 if isinstance(operand, float) else 2)
    assert len(picture.words("value")) == len(picture.words("gradient")) == lines
    assert len(picture.paths("back")) == (0 if operand is None else len(nodes.nodes))
    assert len(picture.paths("tip")) == arrows_of(nodes)
    if function in (horner, residual):  # the results are in line
        assert len({top + bottom for _, top, _, bottom in picture.outlines}) == 1


def test_the_shop_is_the_book_s():
    picture = Picture(Graph(shop).draw(100, 2, 150, 3, 1.1))
    assert " ".join(picture.words("value")) == "100 2 150 3 1.1 200 450 650 715"
    assert " ".join(picture.words("gradient")) == "2.2 110 3.3 165 650 1.1 1.1 1.1 1"
    for above, below in zip(picture.texts["value"], picture.texts["gradient"], strict=True):
        assert (above[0], True) == (below[0], above[1] < below[1])
    title = r"t3 = t2 \* tax: 715\.0000000000001\ngradient: 1\n.*graphs\.py"
    assert re.match(title, picture.titles[8])
    assert picture.root.get("role") == "img"
    assert picture.root[0].text == "Computational graph of shop"
    assert picture.root.get("aria-label") == (
        "Computational graph of shop; apple: 100; apple_num: 2; orange: 150; orange_num: 3; "
        "tax: 1.1; shop: 715.0000000000001"
    )


class Foreign:
    """An array of someone else's, that computes nothing and does not even print."""

    dtype, shape = "float8", (2, None)

    def __str__(self):
        raise RuntimeError


VALUES = {
    "3.3": 3.3000000000000003,
    "True": True,
    "False": np.False_,
    "0+1.5j": np.complex64(1.5j),
    "-1.00000e+5000": -(10**5000),
    "2024-02-29": np.datetime64("2024-02-29"),
    "<&>": "<&>",
    "float8 (2, None)": Foreign(),
    "float64 (0, 3)": np.zeros((0, 3)),
    "object (1,)": np.array([Foreign()], object),
    "complex128 (2,)\nmean 0+2j": np.array([1j, 3j]),
    "float64 (3,)\nmean inf": np.full(3, 1e308),
    "float64 (2,)": np.ma.masked_all(2),
    "[('field0', '<f8'), ('field…": np.zeros(1, [(f"field{i}", "f8") for i in range(9)]),
}


@pytest.mark.parametrize("lines", VALUES)
def test_how_values_are_written(lines):
    value, lines = VALUES[lines], lines.split("\n")
    with np.errstate(all="raise"):
        picture = Picture(draw(of_one("layer", relu), [value, None], [None, value]))
    assert picture.words("value") == lines[::-1]  # written from the wire upwards
    assert picture.words("gradient") == lines
    picture.check()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<&\">']]>", "<&\">']]>"),
        ("\N{CJK UNIFIED IDEOGRAPH-82F9}" * 22, "\N{CJK UNIFIED IDEOGRAPH-82F9}" * 22),
        ("a\0b\x1b\ud800", "a\ufffdb\ufffd\ufffd"),
        ("k" * 100_000, "k" * 27 + "…"),
    ],
    ids=["markup", "wide", "control", "long"],
)
def test_names_of_any_kind(name, shown):
    layer = type(name.replace("\0", "").replace("\ud800", ""), (BaseLayer,), {})()
    drawn = draw(of_one("layer", layer, name, name), [1, 2])
    picture = Picture(drawn)
    assert picture.words("mark")[0] == shown
    picture.check()
    assert len(str(drawn).encode()) < 8000


def test_an_operation_with_options_is_a_box_with_them():
    picture = Picture(draw(of_one("sum", (("axis", 1), ("keepdims", True))), [1, 2], [3, 4]))
    assert picture.sketch() == "x | sumaxis=1keepdims | f"
    picture.check()


def test_large_graphs():
    nodes = chain(MOST_NODES)
    picture = Picture(draw(nodes, range(MOST_NODES)))
    assert len(picture.paths("tip")) == arrows_of(nodes)
    picture.check()
    with pytest.raises(ValueError, match=r"^chain has 10,002 nodes, .*to_dot"):
        draw(chain(10_002))
    names = tuple(f"x{i}" for i in range(50))
    inputs = tuple(Node("input", (), name) for name in names)
    wide = Nodes("wide", (*inputs, Node("layer", (*range(50),), relu)), names, (50,), True)
    picture = Picture(draw(wide))
    assert len(picture.paths("tip")) == 50 + 1
    picture.check()
    twice = of_one("layer", relu)._replace(nodes=(inputs[0], Node("layer", (0,) * 300, relu)))
    assert len(Picture(draw(twice)).paths("tip")) == 301


def test_notebooks_list_what_is_too_large_to_draw():
    graph = Graph._of(chain(MOST_NODES + 1))
    assert graph._repr_mimebundle_() == {"text/plain": str(graph)}


@settings(max_examples=40)
@given(st.data())
def test_any_graph_is_readable(data):
    nodes = [Node("input", (), f"in_{i}") for i in range(data.draw(st.integers(1, 5)))]
    inputs = tuple(node.detail for node in nodes)
    arity = {"multiply": 2, "add": 2, "subtract": 2, "negative": 1, "number": 0, "layer": 4}
    for _ in range(data.draw(st.integers(1, 20))):
        operation = data.draw(st.sampled_from([*arity]))
        least = 1 if operation == "layer" else arity[operation]
        before = st.integers(0, len(nodes) - 1)
        operands = data.draw(st.lists(before, min_size=least, max_size=arity[operation]))
        detail = {"layer": relu, "number": 0.5}.get(operation)
        nodes.append(Node(operation, tuple(operands), detail))
    value = st.sampled_from([None, 2, -1.23456e-89, np.zeros((1000, 650), "f4"), np.ones(3)])
    values, gradients = (data.draw(st.tuples(*[value] * len(nodes))) for _ in range(2))
    outputs = tuple(data.draw(st.sets(st.integers(0, len(nodes) - 1), min_size=1, max_size=3)))
    graph = Nodes("any", tuple(nodes), inputs, outputs, False)
    picture = Picture(draw(graph, values, gradients))
    picture.check()
    assert len(picture.paths("tip")) == arrows_of(graph)


def test_styles_and_names_stay_in_the_picture():
    text = str(Graph(gates).draw())
    assert " id=" not in text
    style = text.partition("<style>")[2].partition("</style>")[0]
    selectors = re.findall(r"^([^@{}]+)\{", style, re.MULTILINE)
    assert all(selector.strip().startswith(".fastlayers-graph") for selector in selectors)
    assert "prefers-color-scheme:dark" in style


@pytest.mark.parametrize("kind", [str, Path])
def test_jupyter_shows_it_and_save_writes_it(tmp_path, kind):
    drawn = Graph(shop).draw(*np.ones((5, 3)))
    assert {type(held) for held in vars(drawn).values()} == {str}  # none of the arrays
    bundle = drawn._repr_mimebundle_(include=None, exclude=None)
    assert bundle == {"image/svg+xml": str(drawn), "text/plain": repr(drawn)}
    assert repr(drawn).startswith("<Drawing of shop: ")
    path = tmp_path / "shop.SVG"
    path.write_text("what was there before" * 1000)
    assert drawn.save(kind(path)) is None
    assert path.read_bytes() == str(drawn).encode()
    with pytest.raises(ValueError, match=r"path must end in \.svg.*shop\.png"):
        drawn.save(kind(tmp_path / "shop.png"))
    with pytest.raises(FileNotFoundError):
        drawn.save(kind(tmp_path / "nowhere" / "shop.svg"))
    assert [file.name for file in tmp_path.iterdir()] == ["shop.SVG"]


def test_dot():
    nodes = Graph(gates)._nodes._replace(outputs=(4, 6), single=False)
    lines = to_dot(nodes).splitlines()
    assert lines[0] == 'digraph "gates" {'
    assert lines[-1] == "}"
    edges = [line.strip() for line in lines if "->" in line]
    ends = ["4 -> out4", "6 -> out6"]
    assert edges == [f"{k} -> {i}" for i, n in enumerate(nodes.nodes) for k in n.operands] + ends
    labels = re.findall(r'^  \w+ \[label="(.*)", shape=\w+\]$', "\n".join(lines), re.MULTILINE)
    assert labels == [*"fcgi", TIMES, TIMES, "+", "gates[0]", "gates[1]"]
    name = 'a"\\b&lt;\n\0c'
    assert to_dot(of_one("negative", None, name, name)).count('"a\\"\\\\b&amp;lt;  c"') == 3
    assert len(to_dot(chain(10_000)).splitlines()) > 30_000
