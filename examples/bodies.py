"""Bodies that attract each other: write the energy, and the forces are its gradient.

Bodies k places apart in the list are two slices of it, ``place[k:]`` and ``place[:-k]``; over all k
each pair comes once. Nobody has written the gradient, which adds the slices' forces up at each
body. A leapfrog, which keeps energy, moves two clusters through each other.

Needs Matplotlib for the picture. Run it with ``python bodies.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastlayers import value_and_grad

SOFTENING = 0.05  # no two bodies are closer than that to each other's force
STEP = 0.005


def potential(place: Any, mass: Any) -> Any:
    """Return the potential energy of bodies at ``place``, of shape (bodies, 2)."""
    energy = 0.0
    for k in range(1, len(place)):
        apart = place[k:] - place[:-k]
        distance = np.sqrt(np.sum(apart * apart, axis=1) + SOFTENING**2)
        energy -= np.sum(mass[k:] * mass[:-k] / distance)
    return energy


def forces_by_hand(place: Any, mass: Any) -> Any:
    """The same as minus the gradient, by Newton's law, for all pairs at once."""
    apart = place[None] - place[:, None]
    cube = (np.sum(apart * apart, axis=2) + SOFTENING**2) ** 1.5
    return np.sum((mass[:, None] * mass / cube)[..., None] * apart, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Let two clusters of bodies meet.")
    parser.add_argument("--bodies", type=int, default=40, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=1500, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("bodies.png"), help="the picture")
    arguments = parser.parse_args()

    rng = np.random.default_rng(3)
    side = np.where(np.arange(arguments.bodies) % 2, 1.0, -1.0)[:, None]
    place = rng.normal(0, 0.3, (arguments.bodies, 2)) + side * [1.0, 0.25]
    speed = rng.normal(0, 0.3, place.shape) - side * [0.5, 0]
    mass = np.full(arguments.bodies, 1 / arguments.bodies)

    energy_and_slope = value_and_grad(potential)
    energy, slope = energy_and_slope(place, mass)
    off = np.max(np.abs(slope + forces_by_hand(place, mass))) / np.max(np.abs(slope))
    print(f"forces are within {off:.0e} of Newton's law by hand")

    track, total = [place.copy()], []
    for _ in range(arguments.steps):
        speed -= STEP / 2 * slope / mass[:, None]
        place += STEP * speed
        energy, slope = energy_and_slope(place, mass)
        speed -= STEP / 2 * slope / mass[:, None]
        total.append(energy + np.sum(mass[:, None] * speed * speed) / 2)
        track.append(place.copy())
    drift = abs(total[-1] / total[0] - 1)
    print(f"energy {total[0]:.4f}, off by {100 * drift:.2f}% after {arguments.steps} steps")

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for body, colour in zip(np.swapaxes(track, 0, 1), np.ravel(side), strict=True):
        axes.plot(*body.T, linewidth=0.6, color="tab:red" if colour > 0 else "tab:blue")
    axes.scatter(place[:, 0], place[:, 1], s=12, color="black", zorder=3)
    axes.set(title="Two clusters meet", aspect="equal", xlim=(-3, 3), ylim=(-2.2, 2.2))
    figure.savefig(arguments.output, dpi=110)
    print(f"saved {arguments.output}")


if __name__ == "__main__":
    main()
