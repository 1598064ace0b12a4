"""Learn the Zen of Python by heart, letter by letter, with an LSTM whose cell is a graph.

The cell is written forward alone. Its sigmoids and tanhs are layers of one's own, each with a
`backward` as the books write it; the arithmetic between them needs none:

    c = sigmoid(forget) * c + sigmoid(entry) * tanh(gate)
    h = tanh(c) * sigmoid(output)

Each step in time has a cell of its own, as each keeps its operands for `backward`. What is left to
write is what the cells share: the matrix products. The two averages of Adam are a graph, too, and
are updated in place.

The same training runs in plain NumPy, with a cell written by hand: every loss and every weight must
have the same bits.

Run it with ``python lstm.py``.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from fastlayers import BaseLayer, Graph

SEED = 0
LENGTH = 25  # letters that a sequence has
BATCH = 100  # sequences
HIDDEN = 128
RATE, DECAY, SQUARES_DECAY = 0.005, 0.9, 0.99  # of Adam
START = "Beautiful is"


class Sigmoid(BaseLayer):
    def forward(self, x: Any) -> Any:
        self.y = 1 / (1 + np.exp(-x))
        return self.y

    def backward(self, dout: Any) -> Any:
        return dout * (1 - self.y) * self.y


class Tanh(BaseLayer):
    def forward(self, x: Any) -> Any:
        self.y = np.tanh(x)
        return self.y

    def backward(self, dout: Any) -> Any:
        return dout * (1 - self.y * self.y)


def cell(forget: Any, entry: Any, gate: Any, output: Any, c: Any) -> Any:
    f, i, g, o = Sigmoid()(forget), Sigmoid()(entry), Tanh()(gate), Sigmoid()(output)
    c = f * c + i * g
    return Tanh()(c) * o, c


class CellByHand:
    """The same in plain NumPy, forward and backward."""

    def __init__(self) -> None:
        self.layers = Sigmoid(), Sigmoid(), Tanh(), Sigmoid()
        self.tanh = Tanh()

    def forward(self, forget: Any, entry: Any, gate: Any, output: Any, c: Any) -> Any:
        self.c = c
        opened = zip(self.layers, (forget, entry, gate, output), strict=True)
        self.opened = f, i, g, o = [layer.forward(x) for layer, x in opened]
        c = f * c + i * g
        self.bent = self.tanh.forward(c)
        return self.bent * o, c

    def backward(self, dout: tuple[Any, Any]) -> list[Any]:
        dh, dc = dout
        f, i, g, o = self.opened
        dc = dc + self.tanh.backward(dh * o)
        gradients = dc * self.c, dc * g, dc * i, dh * self.bent
        pairs = zip(self.layers, gradients, strict=True)
        return [*(layer.backward(one) for layer, one in pairs), dc * f]


@Graph
def averages(mean: Any, square: Any, gradient: Any) -> Any:
    """Of the gradient, and of its square."""
    return (
        DECAY * mean + (1 - DECAY) * gradient,
        SQUARES_DECAY * square + (1 - SQUARES_DECAY) * (gradient * gradient),
    )


def update_by_graph(mean: Any, square: Any, gradient: Any) -> None:
    averages(mean, square, gradient, out=(mean, square))


def update_by_hand(mean: Any, square: Any, gradient: Any) -> None:
    mean[...] = DECAY * mean + (1 - DECAY) * gradient
    square[...] = SQUARES_DECAY * square + (1 - SQUARES_DECAY) * (gradient * gradient)


@dataclass
class Training:
    """An LSTM: its cells, its weights, and the record of how they were learned."""

    cells: Sequence[Any]
    update: Any
    weights: list[Any]
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.means = [np.zeros_like(weight) for weight in self.weights]
        self.squares = [np.zeros_like(weight) for weight in self.weights]

    def gradients(self, letters: Any, targets: Any) -> tuple[float, list[Any]]:
        """The mean cross entropy of the next letters, and its gradients by the weights."""
        w_letter, w_hidden, bias, w_out, bias_out = self.weights
        h = c = np.zeros((len(letters), HIDDEN), np.float32)
        inputs, hidden, doubts = [], [], []
        loss = 0.0
        count = np.float32(targets.size)
        for cell, letter, target in zip(self.cells, letters.T, targets.T, strict=True):
            inputs.append(h)
            parts = np.split(w_letter[letter] + h @ w_hidden + bias, 4, axis=1)
            h, c = cell.forward(*parts, c)
            hidden.append(h)
            scores = h @ w_out + bias_out
            likely = np.exp(scores - scores.max(axis=1, keepdims=True))
            likely /= likely.sum(axis=1, keepdims=True)
            rows = np.arange(len(target))
            loss -= float(np.sum(np.log(likely[rows, target])))
            likely[rows, target] -= 1
            doubts.append(likely / count)

        gradients = [np.zeros_like(weight) for weight in self.weights]
        dw_letter, dw_hidden, dbias, dw_out, dbias_out = gradients
        dh = dc = np.zeros_like(h)
        for t in reversed(range(len(self.cells))):
            dw_out += hidden[t].T @ doubts[t]
            dbias_out += doubts[t].sum(axis=0)
            *parts, dc = self.cells[t].backward((dh + doubts[t] @ w_out.T, dc))
            d = np.concatenate(parts, axis=1)
            np.add.at(dw_letter, letters[:, t], d)
            dw_hidden += inputs[t].T @ d
            dbias += d.sum(axis=0)
            dh = d @ w_hidden.T
        return loss / targets.size, gradients

    def step(self, letters: Any, targets: Any) -> None:
        started = perf_counter()
        loss, gradients = self.gradients(letters, targets)
        for weight, mean, square, gradient in zip(
            self.weights, self.means, self.squares, gradients, strict=True
        ):
            self.update(mean, square, gradient)
            weight -= RATE * mean / (np.sqrt(square) + 1e-6)
        self.losses.append(loss)
        self.seconds.append(perf_counter() - started)

    def recite(self, start: Sequence[int], count: int) -> list[int]:
        """The letters that it goes on with, each the likeliest."""
        w_letter, w_hidden, bias, w_out, bias_out = self.weights
        h = c = np.zeros((1, HIDDEN), np.float32)
        said = list(start)
        for place in range(count):
            parts = np.split(w_letter[said[place : place + 1]] + h @ w_hidden + bias, 4, axis=1)
            h, c = self.cells[0].forward(*parts, c)
            if place + 1 == len(said):
                said.append(int((h @ w_out + bias_out).argmax()))
        return said


def read_text() -> str:
    printed = io.StringIO()
    with redirect_stdout(printed):
        import this  # noqa: F401, prints it
    return printed.getvalue().split("\n\n")[1]


def new_weights(rng: np.random.Generator, letters: int) -> list[Any]:
    shapes = [(letters, 4 * HIDDEN), (HIDDEN, 4 * HIDDEN), (4 * HIDDEN,), (HIDDEN, letters)]
    weights = [rng.normal(0, HIDDEN**-0.5, shape).astype(np.float32) for shape in shapes]
    return [*weights, np.zeros(letters, np.float32)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn a text by heart, by graphs and by hand.")
    parser.add_argument("--steps", type=int, default=150, help="default: %(default)s")
    arguments = parser.parse_args()

    text = read_text()
    alphabet = sorted(set(text))
    numbers = np.array([alphabet.index(letter) for letter in text])
    rng = np.random.default_rng(SEED)
    weights = new_weights(rng, len(alphabet))
    by_hand, graphs = trainings = [
        Training(cells, update, [weight.copy() for weight in weights])
        for cells, update in (
            ([CellByHand() for _ in range(LENGTH)], update_by_hand),
            ([Graph(cell) for _ in range(LENGTH)], update_by_graph),
        )
    ]
    for step in range(1, arguments.steps + 1):
        starts = rng.integers(0, len(numbers) - LENGTH, BATCH)
        read = numbers[starts[:, None] + np.arange(LENGTH + 1)]
        for training in trainings[:: 1 if step % 2 else -1]:  # in turns
            training.step(read[:, :-1], read[:, 1:])
        if step % 50 == 0 or step == arguments.steps:
            said = graphs.recite([alphabet.index(letter) for letter in START], 60)
            print(f"step {step:3}: loss {graphs.losses[-1]:.3f}; it says:")
            print("    " + repr("".join(alphabet[number] for number in said)))

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


if __name__ == "__main__":
    main()
