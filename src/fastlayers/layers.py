"""The layers that users import: the plain ones, with the arithmetic handed to `fastlayers.ops`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import reference
from .base import explain
from .ops import add, add_backward, multiply, multiply_backward

# A layer keeps two attributes, and reads each once a call. Threads that share one layer may mix
# their operands up, as with the plain layers; what a call computes with is alive till its end.
# They are kept after the call: where a graph is recorded, the layer is as it was when a symbol
# is asked for it.
#
# To catch an error by a name would cost each call some 3 ns, 3 % of a small one: a name is a
# variable more.
#
# To type checkers the methods are the plain layers', whose overloads tell what comes out.


class MulLayer(reference.MulLayer):
    __doc__ = reference.MulLayer.__doc__

    if not TYPE_CHECKING:

        def forward(self, x, y, out=None):
            """Return ``x * y`` and keep the operands for ``backward``; see `multiply`."""
            try:
                return multiply(x, y, out)
            finally:
                self.x = x
                self.y = y

        def backward(self, dout, out=None):
            """Return ``(dout * y, dout * x)``; see `multiply_backward`."""
            try:
                return multiply_backward(dout, self.x, self.y, out, self.sum_to_shape)
            except (TypeError, ValueError):
                explain(self, dout)
                raise


class AddLayer(reference.AddLayer):
    __doc__ = reference.AddLayer.__doc__

    if not TYPE_CHECKING:

        def forward(self, x, y, out=None):
            """Return ``x + y`` and keep the operands; see `add`."""
            try:
                return add(x, y, out)
            finally:
                self.x = x
                self.y = y

        def backward(self, dout, out=None):
            """Return ``(dout * 1, dout * 1)``; see `add_backward`."""
            try:
                return add_backward(dout, self.x, self.y, out, self.sum_to_shape)
            except (TypeError, ValueError):
                explain(self, dout)
                raise
