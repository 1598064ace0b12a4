"""Compare a layer's ``backward`` with central differences of its ``forward``."""

import copy
import inspect
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np

from .base import BaseLayer
from .elementwise import summary
from .graph import Graph
from .graph.results import broadcasts_to
from .graph.trees import filled, is_tree, leaves
from .reference import sum_to


class GradcheckError(RuntimeError):
    """A gradient from ``backward`` disagrees with central differences.

    Examples
    --------
    >>> from fastlayers import GradcheckError, MulLayer, gradcheck
    >>> class Swapped(MulLayer):
    ...     def backward(self, dout):
    ...         return dout * self.x, dout * self.y
    >>> try:
    ...     gradcheck(Swapped(), 1.0, 2.0)
    ... except GradcheckError as error:
    ...     print(str(error).partition(":")[0])
    Swapped.backward
    """


def gradcheck(
    layer: BaseLayer,
    *operands: Any,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    **named: Any,
) -> bool:
    """Check that ``layer.backward`` gives the gradients of ``layer.forward``.

    The forward pass is contracted with a fixed ``dout`` (standard normal, always the same; one for
    each of several values), which makes a scalar function of every element. Its central
    difference, ``(f(x + eps) - f(x - eps)) / (2 eps)``, is compared with what ``backward(dout)``
    gives. A gradient that has its operand's broadcast shape, as in the plain layers, is summed to
    the operand's own shape first.

    Parameters
    ----------
    layer : BaseLayer
        Layer to check, possibly a `Graph`. A copy of it is run; the layer itself is not changed.
    *operands, **named : float64 ndarray or real number, or for a graph a tree of these
        Operands at which to check, as many as the layer takes, by position or by name. They are
        not modified. Where the function has a kink, no difference is right: the error says so.
    eps : float, optional
        Step of the differences, in units of the operands.
    atol, rtol : float, optional
        A gradient ``a`` passes against a difference ``n`` if
        ``abs(a - n) <= atol + rtol * abs(n)``. These defaults, and that of ``eps``, are those of
        ``torch.autograd.gradcheck``.

    Returns
    -------
    bool
        Always True; a disagreement raises.

    Raises
    ------
    GradcheckError
        If a gradient disagrees. The message names the operand, the element that disagrees most,
        both values, and their difference.
    TypeError
        If an operand is neither a float64 array nor a real number.
    ValueError
        If ``eps`` is not positive and finite, if ``backward`` does not give a gradient for each
        operand, or if a gradient cannot be summed to its operand's shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlayers import Graph, MulLayer, gradcheck
    >>> gradcheck(MulLayer(), np.array([1.0, 2.0]), np.array([3.0, -4.0]))
    True
    >>> gradcheck(Graph(lambda w, x, b: w * x + b), 2.0, np.array([3.0, -4.0]), b=1.0)
    True
    """
    if not (eps > 0 and np.isfinite(eps)):
        raise ValueError(f"eps must be positive and finite, got {eps!r}")
    layer = copy.deepcopy(layer)
    trees = _by_name(layer, operands, named)
    points = {
        name: _float64_copy(name, operand)
        for tree in trees
        for name, operand in _parts(layer, tree, trees[tree])
    }

    def forward() -> tuple[Any, ...]:
        # Copies: the layer may keep them or write into them.
        copies = iter([_as_given(point.copy()) for point in points.values()])
        given = [
            filled(tree, copies) if _has_parts(layer, tree) else next(copies)
            for tree in trees.values()
        ]
        value = layer.forward(*given)
        return value if isinstance(value, tuple) else (value,)

    generator = np.random.default_rng(0)
    values = forward()
    douts = [np.asarray(generator.standard_normal(np.shape(value))) for value in values]
    given = tuple(_as_given(dout.copy()) for dout in douts)
    returned = layer.backward(given if len(given) > 1 else given[0])
    gradients = [
        part
        for tree, gradient in zip(trees, _one_each(layer, returned, list(trees)), strict=True)
        for _, part in (leaves(gradient) if _has_parts(layer, trees[tree]) else [(tree, gradient)])
    ]
    for (name, point), gradient in zip(points.items(), gradients, strict=True):
        analytic = _summed_to(point.shape, gradient, f"d{name}")
        numeric, below, above = (np.empty_like(point) for _ in range(3))
        for index in np.ndindex(point.shape):
            centre = point[index]
            # The step actually taken, after rounding.
            point[index] = high = centre + eps
            upper = [np.array(value) for value in forward()]
            point[index] = low = centre - eps
            lower = [np.array(value) for value in forward()]
            point[index] = centre
            numeric[index] = _change(douts, upper, lower) / (high - low)
            above[index] = _change(douts, upper, values) / (high - centre)
            below[index] = _change(douts, values, lower) / (centre - low)
        _compare(type(layer).__name__, name, analytic, numeric, (below, above), atol, rtol)
    return True


def _change(douts: Sequence[Any], upper: Sequence[Any], lower: Sequence[Any]) -> Any:
    return sum(
        np.sum(dout * (high - low)) for dout, high, low in zip(douts, upper, lower, strict=True)
    )


def _has_parts(layer: BaseLayer, operand: Any) -> bool:
    """Whether an operand of a graph is a tree of operands."""
    return isinstance(layer, Graph) and is_tree(operand)


def _parts(layer: BaseLayer, name: str, operand: Any) -> Iterable[tuple[str, Any]]:
    return leaves(operand, name) if _has_parts(layer, operand) else [(name, operand)]


def _by_name(layer: BaseLayer, operands: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """The operands in order, by the layer's names for them."""
    if isinstance(layer, Graph):
        names = layer.inputs
    else:
        parameters = inspect.signature(layer.forward).parameters.values()
        names = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
    # Any more are taken by *operands, or refused by forward.
    names += tuple(f"operand{i}" for i in range(len(names), len(operands)))
    given = dict(zip(names, operands, strict=False))
    for name in named:
        if name not in names or name in given:
            raise TypeError(f"{name} is no operand of {type(layer).__name__}, or given twice")
    return given | {name: named[name] for name in names if name in named}


def _one_each(layer: BaseLayer, gradients: Any, names: list[str]) -> tuple[Any, ...]:
    """The gradients from ``backward``, which may return a single one without a tuple."""
    if len(names) == 1 and not isinstance(gradients, tuple):
        return (gradients,)
    if not (isinstance(gradients, tuple) and len(gradients) == len(names)):
        what = "pair" if len(names) == 2 else "tuple"
        raise ValueError(
            f"{type(layer).__name__}.backward must return a {what} "
            f"({', '.join('d' + name for name in names)}), got {summary(gradients)}"
        )
    return gradients


def _float64_copy(name: str, operand: Any) -> np.ndarray:
    if isinstance(operand, Real) and not isinstance(operand, np.generic):
        return np.array(float(operand))
    array = np.asarray(operand)
    if array.dtype != np.float64:
        raise TypeError(
            f"{name} must be a float64 array or a real number, for its differences to mean "
            f"anything, got {summary(operand)}"
        )
    return np.array(array)


def _as_given(operand: np.ndarray) -> Any:
    """The operand; a 0-d array as a Python float, as elementwise layers return for numbers."""
    return operand if operand.ndim else float(operand)


def _summed_to(shape: tuple[int, ...], gradient: Any, name: str) -> np.ndarray:
    gradient = np.asarray(gradient)
    if not broadcasts_to(shape, gradient.shape):
        raise ValueError(
            f"{name} has shape {gradient.shape}, which does not sum to its operand's {shape}"
        )
    return np.asarray(sum_to(gradient, shape))


def _compare(
    layer: str,
    operand: str,
    analytic: np.ndarray,
    numeric: np.ndarray,
    slopes: tuple[np.ndarray, np.ndarray],
    atol: float,
    rtol: float,
) -> None:
    difference = np.abs(analytic - numeric)
    tolerance = atol + rtol * np.abs(numeric)
    wrong = ~(difference <= tolerance)  # negated, so that a NaN is wrong
    if not wrong.any():
        return
    # np.argmax picks the first NaN, which is the worst case.
    excess = np.where(wrong, difference - tolerance, -np.inf)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))
    where = f"[{', '.join(map(str, index))}]" if index else ""
    below, above = (one[index] for one in slopes)
    kink = ""
    if abs(above - below) > 10 * tolerance[index]:
        kink = (
            f"; below and above the slopes are {below:.3g} and {above:.3g}: if this is a kink, "
            f"choose another point"
        )
    raise GradcheckError(
        f"{layer}.backward: d{operand}{where} is {analytic[index]:.9g}, but central differences of "
        f"forward give {numeric[index]:.9g}: they differ by {difference[index]:.3g}, "
        f"tolerance {tolerance[index]:.3g} ({np.count_nonzero(wrong)} of {wrong.size} elements of "
        f"d{operand} disagree){kink}"
    )
