"""The layers that users import: the plain ones, with the arithmetic handed to `fastlayers.ops`."""

from __future__ import annotations

from typing import Any

from . import reference
from .ops import add, add_backward, multiply, multiply_backward

# A layer keeps two attributes, and reads each once a call. Threads that share one layer may mix
# their operands up, as with the plain layers; what a call computes with is alive till its end. They
# are kept after the call: where a graph is recorded, the layer is still as it was when a symbol is
# asked.


class MulLayer(reference.MulLayer):
    __doc__ = reference.MulLayer.__doc__

    def forward(self, x: Any, y: Any, out: Any = None) -> Any:
        """Return ``x * y`` and keep the operands for ``backward``; see `multiply`."""
        try:
            return multiply(x, y, out)
        finally:
            self.x = x
            self.y = y

    def backward(self, dout: Any, out: Any = None) -> tuple[Any, Any]:
        """Return ``(dout * y, dout * x)``; see `multiply_backward`."""
        return multiply_backward(dout, self.x, self.y, out, self.sum_to_shape)


class AddLayer(reference.AddLayer):
    __doc__ = reference.AddLayer.__doc__

    def forward(self, x: Any, y: Any, out: Any = None) -> Any:
        """Return ``x + y`` and keep the operands; see `add`."""
        try:
            return add(x, y, out)
        finally:
            self.x = x
            self.y = y

    def backward(self, dout: Any, out: Any = None) -> tuple[Any, Any]:
        """Return ``(dout * 1, dout * 1)``; see `add_backward`."""
        return add_backward(dout, self.x, self.y, out, self.sum_to_shape)
