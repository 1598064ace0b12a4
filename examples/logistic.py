"""Logistic regression by maximum likelihood: SciPy minimises, a graph gives all derivatives.

From five measures of a cell's nucleus: is a tumour malignant? The negative log likelihood is one
line of NumPy. `value_and_grad` is what `scipy.optimize` wants for ``jac=True``; the derivative of
the slope along a direction is what its Newton-CG wants as ``hessp``, and for each axis a column of
the Hessian, whose inverse holds the standard errors.

Needs SciPy, scikit-learn (for its data) and Matplotlib. Run it with ``python logistic.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize
from scipy.special import log_expit
from sklearn.datasets import load_breast_cancer

from fastlayers import grad, value_and_grad

MEASURES = ["mean radius", "mean texture", "mean smoothness", "mean symmetry", "mean concavity"]


def loss(w: Any, x: Any, y: Any) -> Any:
    """Return the negative log likelihood; y is 1 or -1, and the last weight the intercept."""
    return -np.sum(log_expit(y * (x @ w[:-1] + w[-1])))


slope = grad(loss)
hessian_times = grad(lambda w, v, x, y: np.sum(slope(w, x, y) * v))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit a logistic regression with SciPy.")
    parser.add_argument("--output", type=Path, default=Path("logistic.png"), help="the picture")
    arguments = parser.parse_args()

    data = load_breast_cancer()
    x = data.data[:, [list(data.feature_names).index(name) for name in MEASURES]]
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    y = np.where(data.target == 0, 1.0, -1.0)  # 0 is malignant
    start = np.zeros(len(MEASURES) + 1)

    for method, options in ("L-BFGS-B", {}), ("Newton-CG", {"hessp": hessian_times}):
        # hessp is called as (w, v, x, y), the others as (w, x, y).
        found = minimize(
            value_and_grad(loss), start, args=(x, y), jac=True, method=method, **options
        )
        print(f"{method:<10} loss {found.fun:.6f} after {found.nit} steps")
    hessian = np.array([hessian_times(found.x, axis, x, y) for axis in np.eye(len(start))])
    errors = np.sqrt(np.diag(np.linalg.inv(hessian)))

    names = [*MEASURES, "intercept"]
    for name, weight, error in zip(names, found.x, errors, strict=True):
        print(f"{name:<16} {weight:6.2f} ± {error:.2f}")
    right = np.mean((x @ found.x[:-1] + found.x[-1] > 0) == (y > 0))
    print(f"{100 * right:.1f}% of {len(y)} tumours are on the right side")

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(found.x, names, xerr=1.96 * errors, fmt="o", capsize=4)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set(
        title="What speaks for malignant: weights, 95 %", xlabel="a standard deviation's weight"
    )
    figure.savefig(arguments.output, dpi=110)
    print(f"saved {arguments.output}")


if __name__ == "__main__":
    main()
