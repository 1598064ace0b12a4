"""A Gaussian mixture: find three kinds of flowers by the sizes of their petals, untold.

The log likelihood of a mixture is a sum over logarithms of sums: by hand its gradient fills a page,
and the usual way round it is the EM algorithm. Here it is written as it stands, with all parameters
in one vector that is cut in slices, and SciPy's BFGS climbs it.

Needs SciPy, scikit-learn (for its data) and Matplotlib. Run it with ``python mixture.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize
from sklearn.datasets import load_iris

from fastlayers import value_and_grad

KINDS = 3


def scores(theta: Any, points: Any) -> Any:
    """Return the log of each kind's share in each point, but for a constant: (points, KINDS)."""
    x, y, log_dx, log_dy, weight = (theta[i * KINDS : (i + 1) * KINDS] for i in range(5))
    u = (points[:, :1] - x) * np.exp(-log_dx)
    v = (points[:, 1:] - y) * np.exp(-log_dy)
    share = weight - np.log(np.sum(np.exp(weight)))
    return share - log_dx - log_dy - 0.5 * (u * u + v * v)


def loss(theta: Any, points: Any) -> Any:
    """Return minus the mean log likelihood, but for a constant."""
    q = scores(theta, points)
    top = np.max(q, axis=1, keepdims=True)
    return -np.mean(top + np.log(np.sum(np.exp(q - top), axis=1, keepdims=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit a Gaussian mixture to petals.")
    parser.add_argument("--output", type=Path, default=Path("mixture.png"), help="the picture")
    arguments = parser.parse_args()

    flowers = load_iris()
    points = flowers.data[:, 2:]  # the petals' length and width
    x, y = points[:: len(points) // KINDS].T  # three flowers to begin with
    start = np.concatenate([x, y, np.zeros(3 * KINDS)])
    found = minimize(value_and_grad(loss), start, args=(points,), jac=True, method="BFGS")
    print(f"loss {loss(start, points):.4f} at first, {found.fun:.4f} after {found.nit} steps")

    kind = np.argmax(scores(found.x, points), axis=1)
    # Each kind is the species that most of its flowers have.
    names = [np.bincount(flowers.target[kind == k]).argmax() for k in range(KINDS)]
    right = np.mean(np.take(names, kind) == flowers.target)
    print(f"{100 * right:.0f}% of {len(points)} flowers are with their species")

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(points[:, 0], points[:, 1], c=kind, s=15)
    grid = np.stack(np.meshgrid(np.linspace(0.5, 7.5, 200), np.linspace(0, 2.8, 150)), axis=-1)
    density = np.exp(scores(found.x, grid.reshape(-1, 2))).sum(axis=1).reshape(grid.shape[:2])
    levels = density.max() * np.array([0.003, 0.01, 0.03, 0.1])
    axes.contour(*np.moveaxis(grid, -1, 0), density, levels, colors="gray", linewidths=0.8)
    axes.set(title="Petals, and the mixture's density", xlabel="length, cm", ylabel="width, cm")
    figure.savefig(arguments.output, dpi=110)
    print(f"saved {arguments.output}")


if __name__ == "__main__":
    main()
