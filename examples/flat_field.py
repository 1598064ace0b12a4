"""Calibrate a camera by gradient descent: learn the gain and the offset of every pixel.

No sensor is even. The lens darkens the corners, dust throws shadows, dark current lifts whole
columns. Each pixel answers the light ``scene`` that falls on it with

    raw = gain * scene + offset + read noise

and astronomers, microscopists and makers of phones undo that by "flat-fielding". Here a hidden
camera photographs two real pictures again and again, shifted, flipped, and exposed for different
times. From these exposures a graph of one `MulLayer` and one `AddLayer`

    gain, scene ──> [mul] ──> [add] ──> predicted raw ──> mean squared error
                                │
                  offset ───────┘

learns 427 x 640 x 3 gains and as many offsets; then ``(raw - offset) / gain`` cleans a picture that
it has not seen.

The graph is the camera, rather than its inverse ``scene = a * raw + b``, for three reasons: what it
learns are physical quantities that can be looked at; the noise is on the predicted side, where
least squares is unbiased; and all pixels learn equally fast, as the curvature of the loss depends
on the scene alone, not on how dark the pixel is.

The same training runs three times: on the plain NumPy layers, on those of fastlayers, and on a
`Graph`, of which only the forward line is written. They must agree in every bit of every loss, gain
and offset; the time is all that may differ.

Needs Matplotlib, Pillow and scikit-learn (which ships the photographs). Run it with
``python flat_field.py``.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images

import fastlayers
from fastlayers import Graph, reference

SEED = 5
READ_NOISE = 0.004  # standard deviation; full scale is 1

# Of the first epoch; it falls linearly from there, so that the read noise averages out. One step
# multiplies a pixel's error by 1 - 2 * rate * (scene² + 1), and scene is at most 1: well within
# (-1, 1).
LEARNING_RATE = 0.4


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


@Graph
def sensor(gain: Any, scene: Any, offset: Any) -> Any:  # symbols, while it is recorded
    """What the hidden camera does, but for the noise."""
    return gain * scene + offset


class Layers:
    """The same as layers that are wired by hand, forward and backward."""

    def __init__(self, mul: reference.MulLayer, add: reference.AddLayer) -> None:
        self.mul, self.add = mul, add

    def forward(self, gain: np.ndarray, scene: np.ndarray, offset: np.ndarray) -> np.ndarray:
        predicted: np.ndarray = self.add.forward(self.mul.forward(gain, scene), offset)
        return predicted

    def backward(self, dpredicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        dproduct, doffset = self.add.backward(dpredicted)
        dgain, dscene = self.mul.backward(dproduct)
        return dgain, dscene, doffset


@dataclass
class Training:
    """Gradient descent on what predicts a raw frame, and its record."""

    name: str
    model: Layers | Graph
    learned: Camera
    losses: list[float] = field(default_factory=list)
    model_seconds: list[float] = field(default_factory=list)  # forward and backward of each step
    seconds: float = 0.0

    def run_epoch(self, exposures: list[Exposure], rate: float) -> None:
        """Take one step on each exposure."""
        started = perf_counter()
        for scene, raw in exposures:
            self.step(scene, raw, rate)
        self.seconds += perf_counter() - started

    def step(self, scene: np.ndarray, raw: np.ndarray, rate: float) -> None:
        """Predict a raw frame, and move gain and offset against the gradient of the loss."""
        gain, offset = self.learned.gain, self.learned.offset

        forward_started = perf_counter()
        predicted = self.model.forward(gain, scene, offset)
        forward_seconds = perf_counter() - forward_started

        loss, dpredicted = mean_squared_error(predicted, raw)

        backward_started = perf_counter()
        dgain, _, doffset = self.model.backward(dpredicted)
        backward_seconds = perf_counter() - backward_started

        # Layers and graphs hold their operands themselves, not copies: `gain` must not change
        # between forward and backward. From here on it may, in place, and they go on with the new
        # values.
        descend(gain, dgain, rate)
        descend(offset, doffset, rate)
        self.losses.append(loss)
        self.model_seconds.append(forward_seconds + backward_seconds)


def mean_squared_error(predicted: np.ndarray, raw: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the loss and its gradient, which is written over ``predicted``."""
    error = np.subtract(predicted, raw, out=predicted)
    loss = float(np.mean(np.square(error)))
    return loss, np.multiply(error, 2 / error.size, out=error)


def descend(parameter: np.ndarray, gradient: np.ndarray, rate: float) -> None:
    """Take a step of gradient descent in place; the gradient is used up."""
    # The loss is a mean, of which each pixel has a share of 1 / size: undo that.
    gradient *= rate * gradient.size
    parameter -= gradient


def new_trainings(shape: tuple[int, ...]) -> list[Training]:
    """Return the contestants; before their first step they take the camera for a perfect one."""
    models: dict[str, Layers | Graph] = {
        "plain NumPy": Layers(reference.MulLayer(), reference.AddLayer()),
        "fastlayers": Layers(fastlayers.MulLayer(), fastlayers.AddLayer()),
        "as one graph": Graph(sensor),
    }
    return [
        Training(name, model, Camera(np.ones(shape), np.zeros(shape)))
        for name, model in models.items()
    ]


def train(exposures: list[Exposure], epochs: int) -> list[Training]:
    """Train all, in turns, after a warm-up epoch that does not count.

    They alternate epoch by epoch, and take turns to go first, so that whatever else the machine
    does meanwhile slows all alike.
    """
    shape = exposures[0].scene.shape
    for training in new_trainings(shape):
        training.run_epoch(exposures, LEARNING_RATE)

    trainings = new_trainings(shape)
    for epoch in range(1, epochs + 1):
        rate = LEARNING_RATE * (epochs - epoch + 1) / epochs
        first = epoch % len(trainings)
        for training in trainings[first:] + trainings[:first]:
            training.run_epoch(exposures, rate)
        if epoch % max(1, epochs // 10) == 0 or epoch == epochs:
            show_progress(epoch, epochs, len(exposures), trainings)
    return trainings


def show_progress(epoch: int, epochs: int, steps: int, trainings: Sequence[Training]) -> None:
    """Print a line, over the previous one where the output is a terminal."""
    last = epoch == epochs
    loss = np.mean(trainings[-1].losses[-steps:])
    print(
        f"epoch {epoch:>{len(str(epochs))}}/{epochs}   loss {loss:.3e}   "
        + "   ".join(f"{training.name} {training.seconds:.1f} s" for training in trainings),
        end="\r" if sys.stdout.isatty() and not last else "\n",
        flush=True,
    )


def first_difference(plain: Training, fast: Training) -> str | None:
    """Say where two trainings part, bit for bit; None if nowhere."""
    same_loss = bits(plain.losses) == bits(fast.losses)
    if not same_loss.all():
        index = int(np.argmin(same_loss))  # of the first False
        step = f"step {index + 1} of {same_loss.size}"
        return f"losses first differ at {step}: {plain.losses[index]!r}, {fast.losses[index]!r}"
    for name in ("gain", "offset"):
        same = bits(getattr(plain.learned, name)) == bits(getattr(fast.learned, name))
        if not same.all():
            count = np.count_nonzero(~same)
            return f"losses are equal, but {count} of {same.size} values of the {name} differ"
    return None


def bits(values: np.ndarray | list[float]) -> np.ndarray:
    """Return float64 values as integers, so that -0.0 differs from 0.0 and NaN equals itself."""
    return np.asarray(values).view(np.uint64)


def psnr(frame: np.ndarray, scene: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB; full scale is 1."""
    return float(-10 * np.log10(np.mean((frame - scene) ** 2)))


def draw(trainings: Sequence[Training], test: Exposure, output: Path) -> None:
    """Save the picture: what was learned, what it is good for, and what it cost."""
    learned = trainings[-1].learned
    corrected = learned.correct(test.raw)
    figure = Figure(figsize=(13.5, 7.4), layout="constrained")
    (raw_axes, corrected_axes, true_axes), (gain_axes, loss_axes, time_axes) = figure.subplots(2, 3)

    for axes, frame, title in (
        (raw_axes, test.raw, f"Raw frame: PSNR {psnr(test.raw, test.scene):.1f} dB"),
        (corrected_axes, corrected, f"Corrected: PSNR {psnr(corrected, test.scene):.1f} dB"),
        (true_axes, test.scene, "True frame"),
    ):
        axes.imshow(frame.clip(0, 1))
        axes.set_title(title)
        axes.axis("off")

    image = gain_axes.imshow(learned.gain.mean(axis=2), cmap="gray", vmin=0)
    gain_axes.set_title("Learned gain: vignetting and dust")
    gain_axes.axis("off")
    gain_axes.set_anchor("N")  # its title in line with its neighbours'
    below = gain_axes.inset_axes((0, -0.09, 1, 0.05))
    figure.colorbar(image, cax=below, orientation="horizontal")

    draw_losses(loss_axes, trainings)
    draw_times(time_axes, trainings)
    figure.savefig(output, dpi=110, bbox_inches="tight", pad_inches=0.15)


# One line for each training, thick to thin, and one bar.
COLOURS = "tab:gray", "tab:blue", "tab:red"


def draw_losses(axes: Axes, trainings: Sequence[Training]) -> None:
    """Draw all loss curves, which lie on each other, and the floor that noise sets them."""
    for training, colour, width in zip(trainings, COLOURS, (6, 3, 1), strict=True):
        axes.semilogy(training.losses, color=colour, linewidth=width, label=training.name)
    axes.axhline(READ_NOISE**2, color="black", linestyle=":", label="read noise")
    axes.set_title("Loss curves: equal, bit for bit")
    axes.set_xlabel("step (one exposure each)")
    axes.set_ylabel("mean squared error")
    axes.legend(frameon=False)


def draw_times(axes: Axes, trainings: Sequence[Training]) -> None:
    """Draw the median time that a step spends in forward and backward."""
    milliseconds = [1e3 * median(training.model_seconds) for training in trainings]
    bars = axes.bar([training.name for training in trainings], milliseconds, color=COLOURS)
    axes.bar_label(bars, fmt="%.2f ms", padding=3)
    axes.margins(x=0.1, y=0.12)
    ratios = ", ".join(f"{milliseconds[0] / time:.1f}" for time in milliseconds[1:])
    axes.set_title(f"Forward and backward: plain / others = {ratios}")
    axes.set_ylabel("median ms per step")
    axes.spines[["top", "right"]].set_visible(False)


def draw_graph(camera: Camera, exposure: Exposure, output: Path) -> None:
    """Save the graph with the values and gradients of one pixel, that in the middle."""
    scene, raw = exposure
    middle = (scene.shape[0] // 2, scene.shape[1] // 2, 1)
    gain, light, offset = camera.gain[middle], scene[middle], camera.offset[middle]
    # The gradient of the squared error of this pixel alone.
    derror = 2 * (gain * light + offset - raw[middle])
    pixel = [float(number) for number in (gain, light, offset)]
    sensor.draw(*pixel, dout=float(derror)).save(output)


def print_times(trainings: Sequence[Training]) -> None:
    """Print what each training cost, and the ratios."""
    plain = trainings[0]
    print(f"{'':<26}{'whole training':>16}{'forward and backward, median step':>36}")
    for training in trainings:
        step = f"{1e3 * median(training.model_seconds):.2f} ms"
        print(f"{training.name:<26}{training.seconds:>14.2f} s{step:>36}")
    for training in trainings[1:]:
        whole = plain.seconds / training.seconds
        step_ratio = median(plain.model_seconds) / median(training.model_seconds)
        print(f"{'plain / ' + training.name:<26}{f'{whole:.2f}':>16}{f'{step_ratio:.2f}':>36}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Learn the gain and the offset of every pixel of a camera, on plain NumPy "
        "layers, on fastlayers' and on a graph."
    )
    parser.add_argument(
        "--epochs",
        type=partial(whole_number, smallest=1),
        default=30,
        help="passes over the exposures (%(default)s)",
    )
    parser.add_argument(
        "--exposures",
        type=partial(whole_number, smallest=2),  # a pixel's two unknowns need two equations
        default=24,
        help="frames to learn from, 13 MB each (%(default)s)",
    )
    parser.add_argument(
        "--output",
        type=png_path,
        default="flat_field.png",
        help="picture to write (%(default)s), and beside it the graph's, as .svg",
    )
    return parser.parse_args()


def whole_number(text: str, smallest: int) -> int:
    """Read an integer that is not below ``smallest``."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < smallest:
        raise argparse.ArgumentTypeError(f"must be at least {smallest}, not {number}")
    return number


def png_path(text: str) -> Path:
    """Read the path of a picture, and refuse now what could not be saved after the training."""
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{str(path.parent)!r} is not a directory")
    return path


def main() -> None:
    """Train three times, compare, and draw."""
    arguments = parse_arguments()
    print(
        f"Python {platform.python_version()}, NumPy {np.__version__}, "
        f"fastlayers {fastlayers.__version__} ({fastlayers.IMPLEMENTATION})"
    )
    rng = np.random.default_rng(SEED)
    photographs = [image / 255 for image in load_sample_images().images]
    camera = hidden_camera(photographs[0].shape, rng)
    exposures = take_exposures(camera, photographs, arguments.exposures, rng)
    test = camera.photograph(photographs[0], rng)  # upright and in full light: not among them
    print(
        f"{arguments.exposures} exposures of {' x '.join(map(str, test.raw.shape))} float64; "
        "the trainings alternate by epoch, after a warm-up epoch each"
    )

    trainings = train(exposures, arguments.epochs)
    plain, *others = trainings
    for training in others:
        if difference := first_difference(plain, training):
            sys.exit(f"the trainings on {plain.name} and {training.name} differ: {difference}")

    print_times(trainings)
    before = psnr(test.raw, test.scene)
    after = psnr(plain.learned.correct(test.raw), test.scene)
    print(f"PSNR of a new picture: raw {before:.1f} dB, corrected {after:.1f} dB")
    draw(trainings, test, arguments.output)
    graph_output = arguments.output.with_suffix(".svg")
    draw_graph(plain.learned, test, graph_output)
    print(f"saved {arguments.output} and {graph_output}")
    print(f"{len(plain.losses)} steps: all three loss curves are equal, bit for bit")


if __name__ == "__main__":
    main()
