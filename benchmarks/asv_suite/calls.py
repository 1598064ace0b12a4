"""What asv times of each commit: call overhead, and layers and graphs by size.

Cases and expressions are those of the comparison with other libraries. An attribute keeps the last
results until the next ones replace them, as a training loop does.
"""

from __future__ import annotations

from typing import Any

from expressions import EXPRESSIONS
from side_by_side_cases import GROUPS, NUMBERS, SIZES, make_operands, start_fastlayers

import fastlayers

# One element and 100 elements are all overhead; then five sizes, from the nearest cache to memory.
PARAMETERS = "1", "100", "1k", "10k", "65k", "1M", "4M"
LAYERS = [name for name, group in GROUPS.items() if group.layout == "same"]


class Layers:
    params = LAYERS, PARAMETERS
    param_names = "case", "size"

    def setup(self, case: str, size: str) -> None:
        self.layer, operands = start_fastlayers(GROUPS[case], make_operands(GROUPS[case], size))
        self.x, self.y, self.dout = operands
        self.layer.forward(self.x, self.y)

    def time_forward(self, case: str, size: str) -> None:
        self.out = self.layer.forward(self.x, self.y)

    def time_backward(self, case: str, size: str) -> None:
        self.gradients = self.layer.backward(self.dout)

    def time_step(self, case: str, size: str) -> None:
        self.out = self.layer.forward(self.x, self.y)
        self.gradients = self.layer.backward(self.dout)


class Sums(Layers):
    """Gradients summed to the operands' shapes."""

    params = [name for name, group in GROUPS.items() if group.sum_to_shape], ("1M",)


class Numbers(Layers):
    """Python's numbers."""

    params = ("MulLayer", "AddLayer"), list(NUMBERS)
    param_names = "layer", "number"

    def setup(self, case: str, size: str) -> None:
        self.layer = getattr(fastlayers, case)()
        self.x, self.y, self.dout = NUMBERS[size]
        self.layer.forward(self.x, self.y)


class Graphs:
    params = list(EXPRESSIONS), PARAMETERS
    param_names = "expression", "size"

    def setup(self, name: str, size: str) -> None:
        self.operands: list[Any] = EXPRESSIONS[name].operands(SIZES[size])
        self.graph = fastlayers.Graph(EXPRESSIONS[name].function)

    def time_call(self, name: str, size: str) -> None:
        self.value = self.graph(*self.operands)

    def time_value_and_grad(self, name: str, size: str) -> None:
        self.results = self.graph.value_and_grad(*self.operands)
