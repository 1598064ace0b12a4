"""Learn to read handwritten digits, with a gated network that is one graph.

The network is a function of its operands. Its matrix products, and what bends the lines between
them, are layers of one's own, each with a `backward` as the books write it; all else is plain
arithmetic, which needs none:

    hidden = relu(x @ w1 + b1)
    gate = sigmoid(hidden @ w2 + b2)            # how much of the new features to let through
    features = relu(hidden @ w3 + b3)
    loss = softmax_with_loss((gate * features + (1 - gate) * hidden) @ w4 + b4, label)

The optimiser is a graph, too: gradient descent with momentum, which updates weights and velocities
in place. The same training runs on plain NumPy, forward and backward by hand: every loss and every
weight must have the same bits.

Needs Matplotlib and scikit-learn, which ships the digits. Run it with ``python digits.py``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from fastlayers import BaseLayer, Graph

# Over eight seeds, 95.6 % to 98.6 % of the unseen digits are read right, 97.1 % in the mean.
SEED = 0
UNSEEN = 360  # of 1,797 digits, a fifth
HIDDEN = 128
LEARNING_RATE, MOMENTUM = 0.5, 0.9


class Affine(BaseLayer):
    """``x @ w + b``."""

    def forward(self, x: Any, w: Any, b: Any) -> Any:
        self.x, self.w = x, w
        return x @ w + b

    def backward(self, dout: Any) -> Any:
        return dout @ self.w.T, self.x.T @ dout, np.sum(dout, axis=0)


class Relu(BaseLayer):
    def forward(self, x: Any) -> Any:
        self.positive = x > 0
        return np.where(self.positive, x, 0)

    def backward(self, dout: Any) -> Any:
        return np.where(self.positive, dout, 0)


class Sigmoid(BaseLayer):
    def forward(self, x: Any) -> Any:
        self.y = 1 / (1 + np.exp(-x))
        return self.y

    def backward(self, dout: Any) -> Any:
        return dout * (1 - self.y) * self.y


class SoftmaxWithLoss(BaseLayer):
    """The mean cross entropy of the softmax of ``x`` with labels; these have no gradient."""

    def forward(self, x: Any, label: Any) -> Any:
        exponents = np.exp(x - x.max(axis=1, keepdims=True))
        self.y, self.label = exponents / exponents.sum(axis=1, keepdims=True), label
        return -np.mean(np.log(self.y[np.arange(len(label)), label]))

    def backward(self, dout: Any) -> Any:
        dx = self.y.copy()
        dx[np.arange(len(dx)), self.label] -= 1
        return dx * (dout / len(dx)), None


@Graph
def network(
    x: Any, label: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any, w4: Any, b4: Any
) -> Any:
    hidden = Relu()(Affine()(x, w1, b1))
    gate = Sigmoid()(Affine()(hidden, w2, b2))
    features = Relu()(Affine()(hidden, w3, b3))
    return SoftmaxWithLoss()(Affine()(gate * features + (1 - gate) * hidden, w4, b4), label)


@Graph
def momentum(weight: Any, velocity: Any, gradient: Any, rate: Any) -> Any:
    velocity = MOMENTUM * velocity - rate * gradient
    return weight + velocity, velocity


class ByGraphs:
    """The network and its optimiser as graphs."""

    def gradients(self, x: Any, label: Any, weights: list[Any]) -> tuple[float, list[Any]]:
        loss, gradients = network.value_and_grad(x, label, *weights, wrt=network.inputs[2:])
        return float(loss), list(gradients)

    def update(self, weight: Any, velocity: Any, gradient: Any, rate: float) -> None:
        momentum(weight, velocity, gradient, rate, out=(weight, velocity))


class ByHand:
    """The same in plain NumPy, forward and backward."""

    def __init__(self) -> None:
        self.affine1, self.affine2, self.affine3, self.affine4 = (Affine() for _ in range(4))
        self.relu1, self.relu3, self.sigmoid = Relu(), Relu(), Sigmoid()
        self.softmax = SoftmaxWithLoss()

    def gradients(self, x: Any, label: Any, weights: list[Any]) -> tuple[float, list[Any]]:
        w1, b1, w2, b2, w3, b3, w4, b4 = weights
        hidden = self.relu1.forward(self.affine1.forward(x, w1, b1))
        gate = self.sigmoid.forward(self.affine2.forward(hidden, w2, b2))
        features = self.relu3.forward(self.affine3.forward(hidden, w3, b3))
        rest = 1 - gate
        mixed = gate * features + rest * hidden
        loss = self.softmax.forward(self.affine4.forward(mixed, w4, b4), label)

        dscores, _ = self.softmax.backward(1)
        dmixed, dw4, db4 = self.affine4.backward(dscores)
        dhidden, drest = dmixed * rest, dmixed * hidden
        dgate, dfeatures = drest * -1 + dmixed * features, dmixed * gate
        dx3, dw3, db3 = self.affine3.backward(self.relu3.backward(dfeatures))
        dx2, dw2, db2 = self.affine2.backward(self.sigmoid.backward(dgate))
        dhidden = dhidden + dx3 + dx2
        _, dw1, db1 = self.affine1.backward(self.relu1.backward(dhidden))
        return float(loss), [dw1, db1, dw2, db2, dw3, db3, dw4, db4]

    def update(self, weight: Any, velocity: Any, gradient: Any, rate: float) -> None:
        velocity[...] = MOMENTUM * velocity - rate * gradient
        weight += velocity


@dataclass
class Training:
    """Weights, and the record of how they were learned."""

    name: str
    model: ByGraphs | ByHand
    weights: list[Any]
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.velocities = [np.zeros_like(weight) for weight in self.weights]

    def step(self, x: Any, label: Any, rate: float) -> None:
        started = perf_counter()
        loss, gradients = self.model.gradients(x, label, self.weights)
        for each in zip(self.weights, self.velocities, gradients, strict=True):
            self.model.update(*each, rate)
        self.losses.append(loss)
        self.seconds.append(perf_counter() - started)

    def accuracy(self, x: Any, label: Any) -> float:
        """The share of digits that are read right."""
        w1, b1, w2, b2, w3, b3, w4, b4 = self.weights
        hidden = np.maximum(x @ w1 + b1, 0)
        gate = 1 / (1 + np.exp(-(hidden @ w2 + b2)))
        mixed = gate * np.maximum(hidden @ w3 + b3, 0) + (1 - gate) * hidden
        return float(np.mean((mixed @ w4 + b4).argmax(axis=1) == label))


def new_weights(rng: np.random.Generator) -> list[Any]:
    """He's initialisation (2015): of variance 2 / inputs; biases of zero."""
    sizes = [(64, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 10)]
    weights = []
    for inputs, outputs in sizes:
        weights.append(rng.normal(0, np.sqrt(2 / inputs), (inputs, outputs)).astype(np.float32))
        weights.append(np.zeros(outputs, np.float32))
    return weights


def draw(training: Training, accuracies: list[float], output: Path) -> None:
    """Save the learning curve."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    loss_axes.semilogy(training.losses, color="tab:blue")
    loss_axes.set(title="Loss", xlabel="step", ylabel="mean cross entropy")
    accuracy_axes.plot(100 * np.array(accuracies), color="tab:red")
    accuracy_axes.set(
        title=f"Unseen digits: {accuracies[-1]:.1%} read right", xlabel="step", ylabel="%"
    )
    figure.savefig(output, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn to read digits, by graphs and by hand.")
    parser.add_argument("--steps", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("digits.png"), help="picture to write")
    arguments = parser.parse_args()

    rng = np.random.default_rng(SEED)
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    x, label = (digits.data[order] / 16).astype(np.float32), digits.target[order]
    unseen, seen = (x[:UNSEEN], label[:UNSEEN]), (x[UNSEEN:], label[UNSEEN:])
    weights = new_weights(rng)
    by_hand, graphs = trainings = [
        Training(name, model, [weight.copy() for weight in weights])
        for name, model in (("plain NumPy", ByHand()), ("graphs", ByGraphs()))
    ]
    accuracies = []
    for step in range(1, arguments.steps + 1):
        rate = LEARNING_RATE * (1 - (step - 1) / arguments.steps)
        for training in trainings[:: 1 if step % 2 else -1]:  # in turns
            training.step(*seen, rate)
        accuracies.append(graphs.accuracy(*unseen))
        if step % 50 == 0 or step == arguments.steps:
            print(
                f"step {step:3}: loss {graphs.losses[-1]:.4f}, {accuracies[-1]:.1%} of {UNSEEN} "
                f"unseen digits read right"
            )

    if graphs.losses != by_hand.losses:
        raise SystemExit("the losses differ")
    if any(
        w.tobytes() != v.tobytes() for w, v in zip(graphs.weights, by_hand.weights, strict=True)
    ):
        raise SystemExit("the weights differ")
    print("all losses and weights are equal, bit for bit")
    plain, ours = (float(np.median(training.seconds)) for training in trainings)
    print(
        f"median step: plain NumPy {1e3 * plain:.1f} ms, graphs {1e3 * ours:.1f} ms: "
        f"{plain / ours:.2f} times as fast"
    )
    draw(graphs, accuracies, arguments.output)
    print(f"saved {arguments.output}")


if __name__ == "__main__":
    main()
