"""Find the matte of a composite: where one photograph shows through the other, by gradients.

A compositor lays one picture over another by a matte ``alpha``, one number a pixel for all three
channels:

    composite = alpha * front + (1 - alpha) * back

Here both pictures are known, and so is the composite, but for some noise; the matte is not. The
squared error of the composite is one graph, written forward alone. Its gradient by ``alpha`` is
summed over the channels, as the matte is broadcast over them. The update of the matte, in place, is
a graph, too.

The same descent runs in plain NumPy, forward and backward by hand; the matte must have the same
bits after every step. There the sums over the channels are taken in float64 and rounded once, as
the compiled fastlayers takes them.

Needs Matplotlib, Pillow and scikit-learn, which ships the photographs. Run it with
``python blend.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images

from fastlayers import IMPLEMENTATION, Graph

SEED = 1
NOISE = 0.01  # standard deviation; full scale is 1
# One step multiplies a pixel's error by 1 - 2 * RATE * sum((front - back)²). That sum over three
# channels is at most 3, so the factor is within (-1, 1).
RATE = 0.3


@Graph
def squared_error(alpha: Any, front: Any, back: Any, composite: Any) -> Any:
    difference = alpha * front + (1 - alpha) * back - composite
    return difference * difference


@Graph
def descend(alpha: Any, gradient: Any) -> Any:
    return alpha - RATE * gradient


def step_by_graphs(alpha: Any, front: Any, back: Any, composite: Any) -> Any:
    """Improve a matte, in place; return the squared errors before."""
    errors, gradients = squared_error.value_and_grad(alpha, front, back, composite, wrt="alpha")
    descend(alpha, gradients.alpha, out=alpha)
    return errors


def step_by_hand(alpha: Any, front: Any, back: Any, composite: Any) -> Any:
    """The same in plain NumPy."""
    difference = alpha * front + (1 - alpha) * back - composite
    doubled = difference + difference
    dalpha = sum_channels(doubled * back) * -1 + sum_channels(doubled * front)
    alpha -= RATE * dalpha
    return difference * difference


def sum_channels(values: Any) -> Any:
    wide = np.float64 if IMPLEMENTATION == "native" else None
    return np.sum(values, axis=-1, keepdims=True, dtype=wide).astype(values.dtype)


def hidden_matte(height: int, width: int) -> Any:
    """A disc with a soft edge, of shape (height, width, 1)."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height / 2, x - width / 2)
    return np.clip((0.4 * height - distance) / 40 + 0.5, 0, 1).astype(np.float32)[..., None]


def draw(pictures: dict[str, Any], losses: list[float], output: Path) -> None:
    figure = Figure(figsize=(12, 3), layout="constrained")
    *axes, curve = figure.subplots(1, len(pictures) + 1)
    for place, (title, picture) in zip(axes, pictures.items(), strict=True):
        place.imshow(np.clip(picture, 0, 1), cmap="gray", vmin=0, vmax=1)
        place.set(title=title, xticks=[], yticks=[])
    curve.semilogy(losses)
    curve.set(title="Mean squared error", xlabel="step")
    figure.savefig(output, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="Find a matte, by graphs and by hand.")
    parser.add_argument("--steps", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("blend.png"), help="picture to write")
    arguments = parser.parse_args()

    rng = np.random.default_rng(SEED)
    back, front = (image.astype(np.float32) / 255 for image in load_sample_images().images)
    matte = hidden_matte(*front.shape[:2])
    noise = rng.normal(0, NOISE, front.shape).astype(np.float32)
    composite = matte * front + (1 - matte) * back + noise

    steps: dict[str, Callable[..., Any]] = {"plain NumPy": step_by_hand, "graphs": step_by_graphs}
    alphas = [np.full_like(matte, 0.5) for _ in steps]
    seconds: list[list[float]] = [[] for _ in steps]
    losses = []
    for number in range(arguments.steps):
        squared = []
        for alpha, step, taken in zip(alphas, steps.values(), seconds, strict=True):
            started = perf_counter()
            squared.append(step(alpha, front, back, composite))
            taken.append(perf_counter() - started)
        if (
            alphas[0].tobytes() != alphas[1].tobytes()
            or squared[0].tobytes() != squared[1].tobytes()
        ):
            raise SystemExit(f"the matte or the errors differ in step {number + 1}")
        losses.append(float(np.mean(squared[0])))
    found = alphas[1]
    off = np.abs(found - matte)
    print(f"{arguments.steps} steps: mattes and errors are equal, bit for bit")
    print(f"mean squared error {losses[0]:.4f} at first, {losses[-1]:.6f} in the end")
    print(f"the matte is {np.median(off):.4f} off in the median, {np.mean(off):.4f} in the mean")
    plain, ours = (float(np.median(taken)) for taken in seconds)
    print(
        f"median step: plain NumPy {1e3 * plain:.1f} ms, graphs {1e3 * ours:.1f} ms: "
        f"{plain / ours:.1f} times as fast"
    )
    pictures = {"Composite": composite, "Hidden matte": matte, "Found": found}
    draw(pictures, losses, arguments.output)
    print(f"saved {arguments.output}")


if __name__ == "__main__":
    main()
