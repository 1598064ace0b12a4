"""Calibrate a camera by gradient descent: learn the gain and the offset of every pixel.

No sensor is even. The lens darkens the corners, dust throws shadows, dark current lifts whole
columns. Each pixel answers the light ``scene`` that falls on it with

    raw = gain * scene + offset + read noise

and astronomers, microscopists and makers of phones undo that by "flat-fielding". Here a hidden
camera photographs two real pictures again and again, shifted, flipped, and exposed for different
times. From these exposures 427 x 640 x 3 gains and as many offsets are learned; then
``(raw - offset) / gain`` cleans a picture that was not among them.

The loss is a line of NumPy, `loss`. The same descent runs three times: with the gradients by hand
as one writes them, the same in place as a careful programmer does, and with a `Graph` of that line.
Every loss, gain and offset must be equal, bit for bit; the time of a step is all that may differ.

Needs Matplotlib, Pillow and scikit-learn (which ships the photographs). Run it with
``python flat_field.py``.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images

import fastlayers
from fastlayers import Graph

SEED = 5
READ_NOISE = 0.004  # standard deviation; full scale is 1

# Of the first epoch; it falls linearly from there, so that the read noise averages out. One step
# multiplies a pixel's error by 1 - 2 * rate * (scene² + 1), and scene is at most 1: well within
# (-1, 1).
RATE = 0.4


def loss(gain: Any, offset: Any, scene: Any, raw: Any) -> Any:
    return np.mean((gain * scene + offset - raw) ** 2)


def moved(gain: Any, offset: Any, dgain: Any, doffset: Any, rate: Any) -> Any:
    return gain - rate * dgain, offset - rate * doffset


loss_graph, moved_graph = Graph(loss), Graph(moved)


def step_by_graph(gain: Any, offset: Any, scene: Any, raw: Any, rate: float) -> float:
    """Move gain and offset against the gradient, in place; return the loss before."""
    value, slopes = loss_graph.value_and_grad(gain, offset, scene, raw, wrt=("gain", "offset"))
    moved_graph(gain, offset, slopes.gain, slopes.offset, rate, out=(gain, offset))
    return float(value)


def step_by_hand(gain: Any, offset: Any, scene: Any, raw: Any, rate: float) -> float:
    """The same in NumPy alone."""
    error = gain * scene + offset - raw
    derror = 1 / error.size * (2 * error)
    gain -= rate * (derror * scene)
    offset -= rate * derror
    return float(np.mean(error**2))


def step_in_place(gain: Any, offset: Any, scene: Any, raw: Any, rate: float) -> float:
    """The same in as little memory as may be."""
    error = gain * scene
    error += offset
    error -= raw
    value = np.mean(error * error)
    error *= 2
    error *= 1 / error.size
    dgain, doffset = error * scene, error
    dgain *= rate
    gain -= dgain
    doffset *= rate
    offset -= doffset
    return float(value)


class Exposure(NamedTuple):
    """The light that fell on the sensor, and what the camera made of it."""

    scene: np.ndarray
    raw: np.ndarray


@dataclass
class Camera:
    """Gain and offset of every pixel and colour."""

    gain: np.ndarray
    offset: np.ndarray

    def photograph(self, scene: np.ndarray, rng: np.random.Generator) -> Exposure:
        """Expose the sensor to a scene."""
        noise = rng.normal(0.0, READ_NOISE, scene.shape)
        return Exposure(scene, self.gain * scene + self.offset + noise)

    def correct(self, raw: np.ndarray) -> np.ndarray:
        """Recover the scene from a raw frame."""
        corrected: np.ndarray = (raw - self.offset) / self.gain
        return corrected


def hidden_camera(shape: tuple[int, int, int], rng: np.random.Generator) -> Camera:
    """Make the camera that is to be learned: vignetting, dust, dark current and hot columns."""
    height, width, _ = shape
    row, column = np.mgrid[:height, :width]

    # Light falls off with the fourth power of the cosine of its angle to the optical axis.
    squared_radius = ((row - height / 2) ** 2 + (column - width / 2) ** 2) / (0.65 * width) ** 2
    vignette = (1 + squared_radius) ** -2.0
    passed = vignette * dust_shadows(row, column, rng)
    gain = passed[..., np.newaxis] * rng.normal(1.0, 0.01, shape)  # no two pixels are alike

    from_warm_corner = np.hypot(row - height, column - width)
    dark_current = 0.03 + 0.15 * np.exp(-from_warm_corner / 90)
    hot_columns = rng.choice(width, 14, replace=False)
    dark_current[:, hot_columns] += rng.uniform(0.08, 0.3, hot_columns.size)
    return Camera(gain, np.repeat(dark_current[..., np.newaxis], 3, axis=2))


def dust_shadows(row: np.ndarray, column: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the share of light that gets past the dust: soft-edged dark discs."""
    passed = np.ones(row.shape)
    for _ in range(16):
        centre = rng.uniform((0, 0), row.shape)
        radius = rng.uniform(6, 22)
        distance = np.hypot(row - centre[0], column - centre[1])
        passed *= 1 - rng.uniform(0.3, 0.6) / (1 + np.exp((distance - radius) / 1.5))
    return passed


def take_exposures(
    camera: Camera, photographs: list[np.ndarray], count: int, rng: np.random.Generator
) -> list[Exposure]:
    """Photograph the pictures in turn, so that each pixel sees many different brightnesses."""
    exposures = []
    for i in range(count):
        scene = photographs[i % len(photographs)]
        height, width, _ = scene.shape
        scene = np.roll(scene, (rng.integers(height), rng.integers(width)), axis=(0, 1))
        scene = np.flip(scene, axis=tuple(axis for axis in (0, 1) if rng.random() < 0.5))
        exposure_time = rng.uniform(0.1, 1.0)
        exposures.append(camera.photograph(exposure_time * scene, rng))
    return exposures


@dataclass
class Training:
    """Gradient descent by one kind of step, and its record."""

    name: str
    step: Callable[..., float]
    colour: str
    learned: Camera
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of each step

    def run_epoch(self, exposures: list[Exposure], rate: float) -> None:
        """Take one step on each exposure."""
        gain, offset = self.learned.gain, self.learned.offset
        for scene, raw in exposures:
            started = perf_counter()
            # The loss is a mean, of which each pixel has a share of 1 / size: undo that.
            self.losses.append(self.step(gain, offset, scene, raw, rate * gain.size))
            self.seconds.append(perf_counter() - started)


def new_trainings(shape: tuple[int, ...]) -> list[Training]:
    """Return all; before their first step they take the camera for a perfect one."""
    steps = (
        ("NumPy by hand", step_by_hand, "tab:gray"),
        ("in place", step_in_place, "tab:blue"),
        ("as a graph", step_by_graph, "tab:red"),
    )
    return [Training(*one, Camera(np.ones(shape), np.zeros(shape))) for one in steps]


def train(exposures: list[Exposure], epochs: int) -> list[Training]:
    """Train all, after a warm-up epoch that does not count, epoch by epoch and in turns."""
    shape = exposures[0].scene.shape
    for training in new_trainings(shape):
        training.run_epoch(exposures, RATE)

    trainings = new_trainings(shape)
    for epoch in range(1, epochs + 1):
        # Whatever else the machine does meanwhile slows all alike.
        for training in trainings[:: (-1) ** epoch]:
            training.run_epoch(exposures, RATE * (epochs - epoch + 1) / epochs)
        show_progress(epoch, epochs, trainings)
    return trainings


def show_progress(epoch: int, epochs: int, trainings: list[Training]) -> None:
    """Draw a bar, over the last one where the output is a terminal; else all at the end."""
    last = epoch == epochs
    if not (last or sys.stdout.isatty()):
        return
    bar = "#" * (30 * epoch // epochs)
    times = ", ".join(f"{one.name} {sum(one.seconds):.1f} s" for one in trainings)
    end = "\n" if last else "\r"
    print(f"[{bar:<30}] epoch {epoch}/{epochs}: {times}", end=end, flush=True)


def first_difference(plain: Training, fast: Training) -> str | None:
    """Say where two trainings part, bit for bit; None if nowhere."""
    for number, losses in enumerate(zip(plain.losses, fast.losses, strict=True)):
        if losses[0].hex() != losses[1].hex():
            return f"the losses of step {number + 1}, {losses[0]!r} and {losses[1]!r}"
    for name in "gain", "offset":
        if getattr(plain.learned, name).tobytes() != getattr(fast.learned, name).tobytes():
            return f"the {name}s"
    return None


def psnr(frame: np.ndarray, scene: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB; full scale is 1."""
    return float(-10 * np.log10(np.mean((frame - scene) ** 2)))


def draw(trainings: list[Training], test: Exposure, frames: int, output: Path) -> None:
    """Save the picture: what was learned, what it is good for, and what it cost."""
    learned = trainings[-1].learned
    corrected = learned.correct(test.raw)
    figure = Figure(figsize=(13.5, 7.4), layout="constrained")
    pictures, (gain, curves, times) = figure.subplots(2, 3)
    for axes, frame, title in zip(
        pictures,
        (test.raw, corrected, test.scene),
        (
            f"Raw frame: PSNR {psnr(test.raw, test.scene):.1f} dB",
            f"Corrected: PSNR {psnr(corrected, test.scene):.1f} dB",
            "True frame",
        ),
        strict=True,
    ):
        axes.imshow(frame.clip(0, 1))
        axes.set_title(title)
        axes.axis("off")

    image = gain.imshow(learned.gain.mean(axis=2), cmap="gray", vmin=0)
    gain.set_title("Learned gain: vignetting and dust")
    gain.axis("off")
    gain.set_anchor("N")  # its title in line with its neighbours'
    figure.colorbar(image, cax=gain.inset_axes((0, -0.09, 1, 0.05)), orientation="horizontal")

    for training, width in zip(trainings, (6, 3, 1), strict=True):
        curves.semilogy(
            training.losses, color=training.colour, linewidth=width, label=training.name
        )
    # With two unknowns a pixel so many frames are fitted a little better than their noise.
    floor = READ_NOISE**2 * (1 - 2 / frames)
    curves.axhline(floor, color="black", linestyle=":", label="what the noise leaves")
    curves.set(xlabel="step (one exposure each)", ylabel="mean squared error")
    curves.set_title("Losses: equal, bit for bit")
    curves.legend(frameon=False)

    milliseconds = [1e3 * median(training.seconds) for training in trainings]
    colours = [training.colour for training in trainings]
    bars = times.barh([training.name for training in trainings], milliseconds, color=colours)
    times.bar_label(bars, fmt="%.1f ms", padding=3)
    times.margins(x=0.2)
    times.invert_yaxis()
    ratios = " and ".join(f"{one / milliseconds[-1]:.1f}" for one in milliseconds[:-1])
    times.set_title(f"A step: the graph {ratios} times as fast")
    times.set_xlabel("median, ms: loss, both gradients, update")
    times.spines[["top", "right"]].set_visible(False)
    figure.savefig(output, dpi=110, bbox_inches="tight", pad_inches=0.15)


def main() -> None:
    """Train, compare, and draw."""
    parser = argparse.ArgumentParser(
        description="Learn gain and offset of every pixel of a camera."
    )
    parser.add_argument("--epochs", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--exposures", type=int, default=24, help="13 MB each; at least 3")
    parser.add_argument("--output", type=Path, default=Path("flat_field.png"), help="the picture")
    arguments = parser.parse_args()
    print(
        f"Python {platform.python_version()}, NumPy {np.__version__}, "
        f"fastlayers {fastlayers.__version__} ({fastlayers.IMPLEMENTATION})"
    )
    rng = np.random.default_rng(SEED)
    photographs = [image / 255 for image in load_sample_images().images]
    camera = hidden_camera(photographs[0].shape, rng)
    exposures = take_exposures(camera, photographs, arguments.exposures, rng)
    test = camera.photograph(photographs[0], rng)  # upright and in full light: not among them
    size = " x ".join(map(str, test.raw.shape))
    print(f"{arguments.exposures} exposures of {size} float64")

    trainings = train(exposures, arguments.epochs)
    *others, fast = trainings
    for other in others:
        if difference := first_difference(other, fast):
            sys.exit(f"{other.name} and {fast.name} differ: {difference}")
    print(f"{len(fast.losses)} steps: all losses, gains and offsets are equal, bit for bit")
    for training in trainings:
        print(f"median step, {training.name + ':':<15}{1e3 * median(training.seconds):6.2f} ms")
    before = psnr(test.raw, test.scene)
    after = psnr(fast.learned.correct(test.raw), test.scene)
    print(f"PSNR of a new picture: raw {before:.1f} dB, corrected {after:.1f} dB")
    draw(trainings, test, arguments.exposures, arguments.output)
    graph = arguments.output.with_suffix(".svg")
    loss_graph.draw().save(graph)
    print(f"saved {arguments.output}, and of the graph {graph}")


if __name__ == "__main__":
    main()
