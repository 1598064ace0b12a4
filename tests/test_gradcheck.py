"""gradcheck passes right layers, and says of wrong ones where they are wrong, and by how much."""

from __future__ import annotations

import re

import numpy as np
import pytest
from outcome import described

from fastlayers import BaseLayer, GradcheckError, gradcheck


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


class Faulty(BaseLayer):
    """Multiplies, and hands its gradients to a function before it returns them."""

    def __init__(self, spoil):
        self.spoil = spoil

    def forward(self, x, y):
        self.x, self.y = x, y
        return x * y

    def backward(self, dout):
        return self.spoil(dout * self.y, dout * self.x)


# ---------------------------------------------------------------------------------- right layers


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((), ()),
        ((1,), (1,)),
        ((5,), (5,)),
        ((2, 3), (2, 3)),
        ((2, 3), (3,)),
        ((3,), (2, 3)),
        ((2, 1), (3,)),
        ((2, 3, 4), (3, 1)),
        ((2, 3), ()),
        ((1, 3), (2, 1, 1)),
        ((0, 3), (3,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["MulLayer", "AddLayer"])
def test_own_layers_pass(implementation, name, x, y):
    layer = getattr(implementation, name)()
    assert gradcheck(layer, floats(*x), floats(*y, seed=1)) is True


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (2.0, 3.0),
        (100, 2),
        (1.5, floats(3)),
        (floats(3), 2),
        (np.float64(2), floats(2, 2)),
        (True, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["MulLayer", "AddLayer"])
def test_numbers_pass(implementation, name, x, y):
    assert gradcheck(getattr(implementation, name)(), x, y)


def test_layouts_pass(implementation):
    x, y = floats(4, 6)[::-1, ::2], np.asfortranarray(floats(4, 3, seed=1))
    assert gradcheck(implementation.MulLayer(), x, y)


@pytest.mark.parametrize(
    ("layer", "x", "y"),
    [
        (SubLayer(), floats(3), floats(3, seed=1)),
        (SubLayer(), floats(2, 3), floats(3, seed=1)),
        (SubLayer(), 2.0, 3),
        (PowLayer(), np.exp(floats(5)), floats(5, seed=1)),
        (PowLayer(), np.exp(floats(5)), 3.0),
        (DotLayer(), floats(2, 3), floats(3, 4, seed=1)),
        (Faulty(lambda dx, dy: (dx, dy)), floats(3), floats(3, seed=1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_of_ones_own_pass(layer, x, y):
    assert gradcheck(layer, x, y)


# ---------------------------------------------------------------------------------- wrong layers


def spoiled(operand, index, error):
    """A layer whose gradient of one operand is wrong by ``error`` in one element."""

    def spoil(*gradients):
        gradients[operand][index] += error
        return gradients

    return Faulty(spoil)


@pytest.mark.parametrize("error", [0.5, -0.01, np.nan, np.inf])
@pytest.mark.parametrize("index", [(0, 0), (1, 2)])
@pytest.mark.parametrize(("operand", "name"), [(0, "dx"), (1, "dy")])
def test_error_names_operand_element_and_amount(operand, name, index, error):
    with pytest.raises(GradcheckError) as caught:
        gradcheck(spoiled(operand, index, error), floats(2, 3), floats(2, 3, seed=1))
    message = str(caught.value)
    assert message.startswith(f"Faulty.backward: {name}{list(index)} is ")
    amount = float(re.search(r"differ by ([^,]+),", message).group(1))
    assert amount == pytest.approx(abs(error), rel=1e-3, nan_ok=True)
    assert "1 of 6 elements" in message


def test_error_gives_both_values():
    with pytest.raises(GradcheckError) as caught:
        gradcheck(Faulty(lambda dx, dy: (dx / dx * 11, dy)), np.array([2.0]), np.array([3.0]))
    text = r"dx\[0\] is (\S+), but .* give (\S+): they differ by (\S+), tolerance"
    analytic, numeric, difference = map(float, re.search(text, str(caught.value)).groups())
    assert analytic == 11
    assert difference == pytest.approx(abs(analytic - numeric), rel=1e-2)


def test_worst_element_is_named():
    def spoil(dx, dy):
        dx[1] += 0.1
        dx[3] -= 0.7
        return dx, dy

    with pytest.raises(GradcheckError, match=r"dx\[3\] .* differ by 0\.7,.*2 of 5 elements"):
        gradcheck(Faulty(spoil), floats(5), floats(5, seed=1))


def test_forgotten_factor_and_swapped_gradients():
    x, y = floats(4), floats(4, seed=1)
    with pytest.raises(GradcheckError, match="dy"):
        gradcheck(Faulty(lambda dx, dy: (dx, 2 * dy)), x, y)
    with pytest.raises(GradcheckError, match="dx"):
        gradcheck(Faulty(lambda dx, dy: (dy, dx)), x, y)
    with pytest.raises(GradcheckError, match=r"dx is .*1 of 1 elements"):
        gradcheck(Faulty(lambda dx, dy: (-dx, dy)), 2.0, 3.0)


def test_gradients_of_broadcast_operands_are_summed():
    x, y = floats(2, 3), floats(3, seed=1)
    assert gradcheck(Faulty(lambda dx, dy: (dx, dy.sum(axis=0))), x, y)
    with pytest.raises(GradcheckError, match="dy"):
        gradcheck(Faulty(lambda dx, dy: (dx, dy.mean(axis=0))), x, y)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda dx, dy: (dx[:2], dy),
        lambda dx, dy: (dx, dy[None, :, None]),
        lambda dx, dy: (1.0, dy),
        lambda dx, dy: (dx, dy[:0]),
    ],
    ids=["shorter", "an axis too many", "a number", "empty"],
)
def test_wrong_shape(spoil):
    with pytest.raises(ValueError, match=r"^d[xy] has shape .*, which does not sum to .*\(3,\)"):
        gradcheck(Faulty(spoil), floats(3), floats(3, seed=1))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda dx, dy: dx,
        lambda dx, dy: (dx,),
        lambda dx, dy: (dx, dy, dx),
        lambda dx, dy: [dx, dy],
        lambda dx, dy: None,
    ],
    ids=["one", "tuple of one", "three", "list", "none"],
)
def test_not_a_pair(spoil):
    with pytest.raises(ValueError, match=r"Faulty\.backward must return a pair"):
        gradcheck(Faulty(spoil), floats(2), floats(2, seed=1))


# -------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    "operand",
    [
        np.ones(3, "f4"),
        np.ones(3, "f2"),
        np.ones(3, int),
        np.ones(3, complex),
        np.float32(1),
        1j,
        "text",
        None,
    ],
    ids=lambda operand: str(getattr(operand, "dtype", operand)),
)
def test_operands_must_be_float64(implementation, operand):
    layer, good = implementation.MulLayer(), np.ones(3)
    with pytest.raises(TypeError, match=r"^x must be a float64 array or a real number"):
        gradcheck(layer, operand, good)
    with pytest.raises(TypeError, match=r"^y must be a float64 array or a real number"):
        gradcheck(layer, good, operand)


@pytest.mark.parametrize("eps", [0, 0.0, -1e-6, np.nan, np.inf])
def test_eps_must_be_positive(implementation, eps):
    with pytest.raises(ValueError, match=f"eps must be positive and finite, got {eps!r}"):
        gradcheck(implementation.MulLayer(), 1.0, 2.0, eps=eps)


def test_errors_of_the_layer_are_its_own():
    with pytest.raises(NotImplementedError):
        gradcheck(BaseLayer(), 1.0, 2.0)
    with pytest.raises(ValueError, match="broadcast"):
        gradcheck(Faulty(None), np.ones(3), np.ones(4))


# ------------------------------------------------------------------------ tolerances, side effects


def test_tolerances():
    layer, x, y = spoiled(0, 2, 1e-3), np.ones(5), np.zeros(5)
    with pytest.raises(GradcheckError, match="tolerance 1e-05"):
        gradcheck(layer, x, y)
    assert gradcheck(layer, x, y, atol=2e-3)
    layer = Faulty(lambda dx, dy: (dx * 1.01, dy))
    with pytest.raises(GradcheckError):
        gradcheck(layer, x, y + 100.0)
    assert gradcheck(layer, x, y + 100.0, rtol=0.02)


def test_exact_layers_pass_tight_tolerances(implementation):
    x, y = floats(4), floats(4, seed=1)
    assert gradcheck(implementation.MulLayer(), x, y, atol=1e-8, rtol=1e-8)
    assert gradcheck(implementation.AddLayer(), x, y, atol=1e-8, rtol=1e-8)


def test_nothing_is_changed(implementation):
    layer, x, y = implementation.MulLayer(), floats(2, 3), floats(3, seed=1)
    before = described((x, y))
    kept = floats(4), floats(4, seed=1)
    layer.forward(*kept)
    gradcheck(layer, x, y)
    assert described((x, y)) == before
    assert layer.x is kept[0]
    assert layer.y is kept[1]


def test_read_only_operands(implementation):
    x = floats(3)
    x.flags.writeable = False
    assert gradcheck(implementation.MulLayer(), x, x)


def test_layer_that_overwrites_its_operands():
    class InPlace(BaseLayer):
        def forward(self, x, y):
            self.x, self.y = x.copy(), y.copy()
            x *= y
            return x

        def backward(self, dout):
            return dout * self.y, dout * self.x

    assert gradcheck(InPlace(), floats(3), floats(3, seed=1))


def test_layer_that_overwrites_dout():
    # As the book's Relu does.
    class Clipped(BaseLayer):
        def forward(self, x, y):
            self.clipped = x + y < 0
            return np.where(self.clipped, 0, x + y)

        def backward(self, dout):
            dout[self.clipped] = 0
            return dout, dout * 1

    x, y = np.array([1.0, 2.0, -3.0]), np.array([1.0, -5.0, 4.0])
    assert gradcheck(Clipped(), x, y)

    class Doubled(Clipped):
        def backward(self, dout):
            dout *= 2
            return super().backward(dout)

    with pytest.raises(GradcheckError, match="dx"):
        gradcheck(Doubled(), x, y)
