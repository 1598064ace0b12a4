"""The implementations that the suite runs on: functions, layers and graphs of each."""

from __future__ import annotations

from types import ModuleType

import fastlayers
from fastlayers import reference
from fastlayers.graph import operations

OPERATIONS = ["multiply", "add", "subtract", "negative"]
GRADIENTS = [f"{operation}_backward" for operation in OPERATIONS]
FUNCTIONS = [*OPERATIONS, *GRADIENTS]
LAYERS = ["MulLayer", "AddLayer"]

# What each function is called with, of three operands.
PARAMETERS = {
    **dict.fromkeys(OPERATIONS, ("x", "y")),
    **dict.fromkeys(GRADIENTS, ("dout",)),
    "negative": ("x",),
    "multiply_backward": ("dout", "x", "y"),
}
# Those of one result, and those of a pair.
SINGLE = [*OPERATIONS, "negative_backward"]
PAIRED = [name for name in FUNCTIONS if name not in SINGLE]


class ReferenceGraph(fastlayers.Graph):
    """A graph that is run by plain NumPy, whatever is installed."""

    _operations = operations.PLAIN


class Implementation:
    """One implementation's functions, public or not yet, its layers and its graph."""

    def __init__(self, name: str, functions: ModuleType, layers: ModuleType, graph: type) -> None:
        self.name = name
        self.Graph = graph
        for function in FUNCTIONS:
            setattr(self, function, getattr(functions, function))
        for layer in LAYERS:
            setattr(self, layer, getattr(layers, layer))

    def __repr__(self) -> str:
        return "REFERENCE" if self.Graph is ReferenceGraph else "INSTALLED"


REFERENCE = Implementation("reference", reference, reference, ReferenceGraph)
if fastlayers.IMPLEMENTATION == "native":
    from fastlayers._core.frontend import dispatch

    INSTALLED = Implementation("native", dispatch, fastlayers, fastlayers.Graph)
else:
    INSTALLED = Implementation("reference", reference, fastlayers, fastlayers.Graph)


def operands_of(function: str, dout: object, x: object, y: object) -> tuple[object, ...]:
    """Those of three operands that a function is called with."""
    given = {"dout": dout, "x": x, "y": y}
    return tuple(given[name] for name in PARAMETERS[function])
