"""The compiled part and its plain twin: the same names, signatures and documentation."""

from __future__ import annotations

import doctest
import importlib.metadata
import inspect

import numpy as np
import pytest
from fresh import lines_of
from implementations import FUNCTIONS, INSTALLED, LAYERS

import fastlayers
from fastlayers import layers, reference

PUBLIC_FUNCTIONS = ["multiply", "add", "multiply_backward", "add_backward"]


def parameters(function):
    """Names, kinds and defaults; annotations are for type checkers, which read the plain twin."""
    signature = inspect.signature(function)
    return [(p.name, p.kind, p.default) for p in signature.parameters.values()]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(implementation, name):
    function, twin = getattr(implementation, name), getattr(reference, name)
    assert function.__name__ == name
    assert parameters(function) == parameters(twin)
    assert inspect.getdoc(function) == inspect.getdoc(twin)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    layer, twin = getattr(layers, name), getattr(reference, name)
    assert inspect.getdoc(layer) == inspect.getdoc(twin)
    public = [member for member in dir(twin) if not member.startswith("_")]
    assert [member for member in dir(layer) if not member.startswith("_")] == public
    for method in ("forward", "backward", "toString", "__init__", "__repr__"):
        assert parameters(getattr(layer, method)) == parameters(getattr(twin, method))
        assert inspect.getdoc(getattr(layer, method)) == inspect.getdoc(getattr(twin, method))


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("forward", "(*operands, out=None, **named)"),
        ("backward", "(dout, out=None)"),
        ("value_and_grad", "(*operands, dout=1, wrt=None, out=None, **named)"),
    ],
)
def test_methods_of_graphs(name, signature):
    """What `help` tells of them, compiled or not."""
    method = getattr(fastlayers.Graph(lambda x: x + 1), name)
    plain = [p.replace(annotation=p.empty) for p in inspect.signature(method).parameters.values()]
    assert str(inspect.Signature(plain)) == signature
    assert inspect.getdoc(method).startswith("Return the ")
    assert method.__qualname__ == f"Graph.{name}"


def test_names(implementation):
    assert sorted(reference.__all__) == sorted(["BaseLayer", *PUBLIC_FUNCTIONS, *LAYERS])
    assert dir(reference) == sorted(reference.__all__)
    compiled = importlib.import_module(implementation.multiply.__module__)
    assert set(FUNCTIONS) <= set(vars(compiled))
    assert set(PUBLIC_FUNCTIONS + LAYERS) <= set(dir(fastlayers))
    for name in PUBLIC_FUNCTIONS:
        assert getattr(fastlayers, name) is getattr(INSTALLED, name)


def test_plain_twin_can_be_imported_in_place_of_the_package():
    names: dict[str, object] = {}
    exec("from fastlayers.reference import BaseLayer, MulLayer, AddLayer", names)
    assert names["BaseLayer"] is fastlayers.BaseLayer
    assert names["MulLayer"] is reference.MulLayer
    assert names["AddLayer"]().forward(2, 3) == 5


def test_star_import_hides_nothing_of_numpy():
    names: dict[str, object] = {}
    exec("from numpy import *\nfrom fastlayers import *", names)
    hidden = [name for name in np.__all__ if names[name] is not getattr(np, name)]
    assert hidden == []
    assert set(LAYERS) | {"BaseLayer", "gradcheck", "recycling"} <= set(names)
    assert not {*PUBLIC_FUNCTIONS, "IMPLEMENTATION", "reference"} & set(fastlayers.__all__)


def test_names_that_completion_offers():
    offered = dir(fastlayers)
    assert set(fastlayers.__all__) | {*PUBLIC_FUNCTIONS, "IMPLEMENTATION", "reference"} < set(
        offered
    )
    assert offered == sorted(set(offered))
    modules = [name for name in offered if inspect.ismodule(getattr(fastlayers, name))]
    assert modules == ["reference"]


# What a notebook and IPython's terminal offer; both ask the same completer.
COMPLETE = """
import sys
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
shell.run_cell("import fastlayers")
shell.run_cell("layer = fastlayers.MulLayer()")
shell.run_cell("graph = fastlayers.Graph(lambda apple, number: apple * number)")
shell.run_cell("value, gradients = graph.value_and_grad(100, 2)")
with provisionalcompleter():
    for text in sys.argv[1:]:
        print(*[found.text for found in shell.Completer.completions(text, len(text))])
"""


def test_completion_in_a_notebook():
    texts = ["fastlayers.", "layer.", "graph.", "graph(app", "gradients.app"]
    texts.append("fastlayers.reference.")
    offered = [line.split() for line in lines_of("-c", COMPLETE, *texts)]
    assert set(offered[0]) == {name for name in dir(fastlayers) if not name.startswith("_")}
    assert set(offered[1]) == {"x", "y", "sum_to_shape", "forward", "backward", "toString"}
    methods = {"forward", "backward", "value_and_grad", "grad", "draw", "toString", "to_dot"}
    assert set(offered[2]) == {"inputs"} | methods
    assert offered[3:5] == [["apple="], ["apple"]]
    assert set(offered[5]) == set(reference.__all__)


PUBLIC = [name for name in dir(fastlayers) if callable(getattr(fastlayers, name))]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    value = getattr(fastlayers, name)
    assert "\nExamples\n--------\n>>> " in inspect.getdoc(value)
    if inspect.isclass(value) and not issubclass(value, Exception):
        methods = [m for m in vars(value).values() if inspect.isroutine(m)]
        assert methods
        for method in methods:
            public = not method.__name__.startswith("_")
            assert not public or inspect.getdoc(getattr(value, method.__name__))
            assert not public or "'" not in str(inspect.signature(method))  # annotations as text


@pytest.mark.parametrize(
    "module",
    [
        "about",
        "base",
        "config",
        "gradcheck",
        "graph.derivatives",
        "graph.graph",
        "graph.rules",
        "reference",
    ],
)
def test_examples_in_docstrings(module):
    # By its name in full: fastlayers.gradcheck is the function.
    result = doctest.testmod(importlib.import_module(f"fastlayers.{module}"))
    assert result.failed == 0
    assert result.attempted > 0


def test_import_takes_little():
    """Of what takes long to load, nothing is needed."""
    before = "import sys, numpy; known = {*sys.modules}; "
    (line,) = lines_of("-c", before + "import fastlayers; print(*{*sys.modules} - known)")
    loaded = set(line.split())
    assert "fastlayers" in loaded
    assert not loaded & {"asyncio", "email", "http.client", "ssl", "unittest", "urllib.request"}


def test_version():
    assert importlib.metadata.version("fastlayers") == fastlayers.__version__
