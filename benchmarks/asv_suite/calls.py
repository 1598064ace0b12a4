"""What asv times of each commit: steps, by size, and forward and backward of layers alone.

The cases are those of the comparison with other libraries. An attribute keeps the last results
until the next ones replace them, as a training loop does.
"""

from __future__ import annotations

from cases import CASES, NUMBERS, make_operands
from contestants import CONTESTANTS

# One element and 100 elements are all overhead; then five sizes, from the nearest cache to memory.
SIZES = "1", "100", "1k", "10k", "65k", "1M", "4M"


class Layers:
    params = [name for name in CASES if CASES[name].kind == "layer"], (*NUMBERS, *SIZES)
    param_names = "case", "size"

    def setup(self, name: str, size: str) -> None:
        case = CASES[name]
        operands = NUMBERS[size] if size in NUMBERS else make_operands(case, size)
        self.layer, (self.x, self.y, self.dout) = CONTESTANTS["fastlayers"].layer(case, *operands)
        self.layer.forward(self.x, self.y)

    def time_forward(self, name: str, size: str) -> None:
        self.out = self.layer.forward(self.x, self.y)

    def time_backward(self, name: str, size: str) -> None:
        self.gradients = self.layer.backward(self.dout)

    def time_step(self, name: str, size: str) -> None:
        self.out = self.layer.forward(self.x, self.y)
        self.gradients = self.layer.backward(self.dout)


class Sums(Layers):
    params = [name for name in CASES if CASES[name].kind == "sums"], ("1M",)


class Graphs:
    params = [name for name in CASES if CASES[name].kind in ("graph", "update")], SIZES
    param_names = "case", "size"

    def setup(self, name: str, size: str) -> None:
        case = CASES[name]
        self.step = getattr(CONTESTANTS["fastlayers"], case.kind)(case, *make_operands(case, size))

    def time_step(self, name: str, size: str) -> None:
        self.results = self.step()
