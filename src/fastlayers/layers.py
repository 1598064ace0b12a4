"""The layers that users import: the plain ones, with the arithmetic handed to `fastlayers.functions`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import reference
from .base import explain
from .functions import add, add_backward, multiply, multiply_backward

# A layer keeps two attributes and reads each once per call. Threads that share one layer may mix up
# their operands, as with the plain layers; what a call computes with stays alive until its end.
# The operands are stored after the call: while a graph is recorded, a symbol still sees the layer
# as it was.
#
# Binding the caught error to a name would cost each call some 3 ns, 3 % of a small one: a name is
# one more variable.
#
# Type checkers see the plain layers' methods, whose overloads say what comes out; `help` finds
# their docstrings.


class MulLayer(reference.MulLayer):
    __doc__ = reference.MulLayer.__doc__

    if not TYPE_CHECKING:

        def forward(self, x, y, out=None):
            try:
                return multiply(x, y, out)
            finally:
                self.x = x
                self.y = y

        def backward(self, dout, out=None):
            try:
                return multiply_backward(dout, self.x, self.y, out, self.sum_to_shape)
            except (TypeError, ValueError):
                explain(self, dout)
                raise


class AddLayer(reference.AddLayer):
    __doc__ = reference.AddLayer.__doc__

    if not TYPE_CHECKING:

        def forward(self, x, y, out=None):
            try:
                return add(x, y, out)
            finally:
                self.x = x
                self.y = y

        def backward(self, dout, out=None):
            try:
                return add_backward(dout, self.x, self.y, out, self.sum_to_shape)
            except (TypeError, ValueError):
                explain(self, dout)
                raise
