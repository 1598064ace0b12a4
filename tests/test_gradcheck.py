"""gradcheck passes right layers, and says of wrong ones where they are wrong, and by how much."""

from __future__ import annotations

import re

import numpy as np
import pytest
from implementations import LAYERS

from fastlayers import BaseLayer, GradcheckError, Graph, gradcheck


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


class SubLayer(BaseLayer):
    """As a user would write it: without ``__init__``, and nothing kept that is not needed."""

    def forward(self, x, y):
        return x - y

    def backward(self, dout):
        return dout * 1, -dout


class PowLayer(BaseLayer):
    """x ** y, whose gradients differ from element to element."""

    def forward(self, x, y):
        self.x, self.y = x, y
        return x**y

    def backward(self, dout):
        return dout * self.y * self.x ** (self.y - 1), dout * self.x**self.y * np.log(self.x)


class DotLayer(BaseLayer):
    """A layer that is not elementwise."""

    def forward(self, x, y):
        self.x, self.y = x, y
        return x @ y

    def backward(self, dout):
        return dout @ self.y.T, self.x.T @ dout


class InPlace(BaseLayer):
    """Overwrites what it is given."""

    def forward(self, x, y):
        self.x, self.y = x.copy(), y.copy()
        x *= y
        return x

    def backward(self, dout):
        dx = dout * self.y
        dout *= self.x
        return dx, dout


class Faulty(BaseLayer):
    """Multiplies, and hands its gradients to a function before it returns them."""

    def __init__(self, spoil):
        self.spoil = spoil

    def forward(self, x, y):
        self.x, self.y = x, y
        return x * y

    def backward(self, dout):
        return self.spoil(dout * self.y, dout * self.x)


def check(spoil, x=None, y=None, **options):
    """Check a faulty layer, on vectors of three elements if on nothing else."""
    x, y = (floats(3, seed=i) if one is None else one for i, one in enumerate((x, y)))
    return gradcheck(Faulty(spoil), x, y, **options)


# ---------------------------------------------------------------------------------- right layers

SHAPES = [((), ()), ((1,), (1,)), ((5,), (5,)), ((2, 3), (3,)), ((3,), (2, 3)), ((2, 1), (3,))]
SHAPES += [((2, 3, 4), (3, 1)), ((2, 3), ()), ((1, 3), (2, 1, 1)), ((0, 3), (3,))]
RIGHT = [(floats(*x), floats(*y, seed=1)) for x, y in SHAPES]
RIGHT += [(2.0, 3.0), (100, 2), (1.5, floats(3)), (floats(3), 2), (np.float64(2), floats(2, 2))]
RIGHT += [(True, 2), (floats(4, 6)[::-1, ::2], np.asfortranarray(floats(4, 3, seed=1)))]


@pytest.mark.parametrize(("x", "y"), RIGHT)
@pytest.mark.parametrize("name", LAYERS)
def test_own_layers_pass(implementation, name, x, y):
    layer, kept = getattr(implementation, name)(), floats(4)
    layer.forward(kept, kept)
    for one in (x, y):
        if isinstance(one, np.ndarray):
            one.flags.writeable = False  # nothing of it is changed, nor has to be
    assert gradcheck(layer, x, y, atol=1e-8, rtol=1e-8) is True
    assert layer.x is layer.y is kept


@pytest.mark.parametrize(
    ("layer", "x", "y"),
    [
        (SubLayer(), floats(2, 3), floats(3, seed=1)),
        (SubLayer(), 2.0, 3),
        (PowLayer(), np.exp(floats(5)), floats(5, seed=1)),
        (PowLayer(), np.exp(floats(5)), 3.0),
        (DotLayer(), floats(2, 3), floats(3, 4, seed=1)),
        (InPlace(), floats(3), floats(3, seed=1)),
        # Gradients of broadcast operands may be summed, or not.
        (Faulty(lambda dx, dy: (dx, dy)), floats(2, 3), floats(3, seed=1)),
        (Faulty(lambda dx, dy: (dx, dy.sum(axis=0))), floats(2, 3), floats(3, seed=1)),
    ],
)
def test_layers_of_ones_own_pass(layer, x, y):
    assert gradcheck(layer, x, y)


# ---------------------------------------------------------------------------------- wrong layers


def spoiled(operand, index, error):
    """What makes the gradient of one operand wrong by ``error`` in one element."""

    def spoil(*gradients):
        gradients[operand][index] += error
        return gradients

    return spoil


@pytest.mark.parametrize("error", [0.5, -0.01, np.nan, np.inf])
@pytest.mark.parametrize("index", [(0, 0), (1, 2)])
@pytest.mark.parametrize(("operand", "name"), [(0, "dx"), (1, "dy")])
def test_error_names_operand_element_and_amount(operand, name, index, error):
    with pytest.raises(GradcheckError) as caught:
        check(spoiled(operand, index, error), floats(2, 3), floats(2, 3, seed=1))
    message = str(caught.value)
    assert message.startswith(f"Faulty.backward: {name}{list(index)} is ")
    amount = float(re.search(r"differ by ([^,]+),", message).group(1))
    assert amount == pytest.approx(abs(error), rel=1e-3, nan_ok=True)
    assert "1 of 6 elements" in message


def test_error_gives_both_values():
    with pytest.raises(GradcheckError) as caught:
        check(lambda dx, dy: (dx / dx * 11, dy), np.array([2.0]), np.array([3.0]))
    text = r"dx\[0\] is (\S+), but .* give (\S+): they differ by (\S+), tolerance"
    analytic, numeric, difference = map(float, re.search(text, str(caught.value)).groups())
    assert analytic == 11
    assert difference == pytest.approx(abs(analytic - numeric), rel=1e-2)


def worst_last(dx, dy):
    dx[1] += 0.1
    dx[2] -= 0.7
    return dx, dy


def doubling(dx, dy):
    dx *= 2
    return dx, dy


PAIR = r"Faulty\.backward must return a pair"
SHAPE = r"^d[xy] has shape .*, which does not sum to .*\(3,\)"
WRONG = {  # what becomes of the gradients, and the error
    "worst of several": (worst_last, GradcheckError, r"dx\[2\] .* by 0\.7,.*2 of 3 elements"),
    "forgotten factor": (lambda dx, dy: (dx, 2 * dy), GradcheckError, "dy"),
    "swapped": (lambda dx, dy: (dy, dx), GradcheckError, "dx"),
    "in place": (doubling, GradcheckError, "dx"),
    "shorter": (lambda dx, dy: (dx[:2], dy), ValueError, SHAPE),
    "an axis too many": (lambda dx, dy: (dx, dy[None, :, None]), ValueError, SHAPE),
    "a number": (lambda dx, dy: (1.0, dy), ValueError, SHAPE),
    "empty": (lambda dx, dy: (dx, dy[:0]), ValueError, SHAPE),
    "one": (lambda dx, dy: dx, ValueError, PAIR),
    "tuple of one": (lambda dx, dy: (dx,), ValueError, PAIR),
    "three": (lambda dx, dy: (dx, dy, dx), ValueError, PAIR),
    "list": (lambda dx, dy: [dx, dy], ValueError, PAIR),
    "none": (lambda dx, dy: None, ValueError, PAIR),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_gradients(wrong):
    spoil, error, message = WRONG[wrong]
    with pytest.raises(error, match=message):
        check(spoil)


def test_wrong_gradients_of_numbers_and_of_broadcast_operands():
    with pytest.raises(GradcheckError, match=r"dx is .*1 of 1 elements"):
        check(lambda dx, dy: (-dx, dy), 2.0, 3.0)
    with pytest.raises(GradcheckError, match="dy"):
        check(lambda dx, dy: (dx, dy.mean(axis=0)), floats(2, 3), floats(3, seed=1))


def test_layer_that_overwrites_dout():
    # As the book's Relu does.
    class Clipped(BaseLayer):
        def forward(self, x, y):
            self.clipped = x + y < 0
            return np.where(self.clipped, 0, x + y)

        def backward(self, dout):
            dout[self.clipped] = 0
            return dout, dout * 1

    assert gradcheck(Clipped(), np.array([1.0, 2.0, -3.0]), np.array([1.0, -5.0, 4.0]))


def test_tolerances():
    spoil, ones, zeros = spoiled(0, 2, 1e-3), np.ones(5), np.zeros(5)
    with pytest.raises(GradcheckError, match="tolerance 1e-05"):
        check(spoil, ones, zeros)
    assert check(spoil, ones, zeros, atol=2e-3)
    with pytest.raises(GradcheckError):
        check(lambda dx, dy: (dx * 1.01, dy), ones, zeros + 100.0)
    assert check(lambda dx, dy: (dx * 1.01, dy), ones, zeros + 100.0, rtol=0.02)


# -------------------------------------------------------------------------------- bad arguments

BAD = [np.ones(3, "f4"), np.ones(3, "f2"), np.ones(3, int), np.ones(3, complex), np.float32(1)]
BAD += [1j, "text", None]


@pytest.mark.parametrize("operand", BAD)
def test_operands_must_be_float64(implementation, operand):
    layer, good = implementation.MulLayer(), np.ones(3)
    for name, operands in (("x", (operand, good)), ("y", (good, operand))):
        with pytest.raises(TypeError, match=f"^{name} must be a float64 array or a real number"):
            gradcheck(layer, *operands)


@pytest.mark.parametrize("eps", [0, 0.0, -1e-6, np.nan, np.inf])
def test_eps_must_be_positive(implementation, eps):
    with pytest.raises(ValueError, match=f"eps must be positive and finite, got {eps!r}"):
        gradcheck(implementation.MulLayer(), 1.0, 2.0, eps=eps)


def test_errors_of_the_layer_are_its_own():
    with pytest.raises(NotImplementedError):
        gradcheck(BaseLayer(), 1.0, 2.0)
    with pytest.raises(ValueError, match="broadcast"):
        check(None, np.ones(3), np.ones(4))


def test_trees_of_operands():
    graph = Graph(lambda p, x: np.tanh(x @ p["w"] + p["b"][0]))
    rng = np.random.default_rng(0)
    tree = {"w": rng.standard_normal((3, 2)), "b": [rng.standard_normal(2)]}
    assert gradcheck(graph, tree, rng.standard_normal((4, 3)))
    wrong = Graph(lambda p, x: np.where(x > 0, x, 0) * p[0])
    with pytest.raises(GradcheckError, match=r"dx\[0\] is -?0, .* a kink, choose another"):
        gradcheck(wrong, [np.array([1.0, 2.0])], np.array([0.0, 1.0]))
