"""The layers as their users write them, in plain NumPy: what fastlayers must not differ from.

The tests compare with these rather than with `fastlayers.reference`, which is under test itself.
"""

import numpy as np


class MulLayer:
    def __init__(self):
        self.x = None
        self.y = None

    def forward(self, x, y):
        self.x = x
        self.y = y
        return x * y

    def backward(self, dout):
        dx = dout * self.y
        dy = dout * self.x
        return dx, dy

    def toString(self):
        print("name: Multi")
        print("x.shape", self.x.shape)
        print("y.shape", self.y.shape)


class AddLayer:
    def __init__(self):
        self.x = None
        self.y = None

    def forward(self, x, y):
        self.x = x
        self.y = y
        return x + y

    def backward(self, dout):
        dx = dout * 1
        dy = dout * 1
        return dx, dy

    def toString(self):
        print("name: Add")
        print("x.shape", self.x.shape)
        print("y.shape", self.y.shape)


def multiply(x, y):
    return x * y


def add(x, y):
    return x + y


def multiply_backward(dout, x, y):
    return dout * y, dout * x


def add_backward(dout):
    return dout * 1, dout * 1


def subtract(x, y):
    return x - y


def negative(x):
    return -x


def subtract_backward(dout):
    return dout * 1, dout * -1


def negative_backward(dout):
    return dout * -1


def ufunc_calls(function, operands):
    """The NumPy calls that a function stands for, one a result."""
    if not function.endswith("_backward"):
        return [(getattr(np, function), operands)]
    dout, *others = operands
    factors = {"add_backward": (1, 1), "subtract_backward": (1, -1), "negative_backward": (-1,)}
    return [(np.multiply, (dout, one)) for one in factors.get(function, others[::-1])]
