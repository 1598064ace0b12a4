"""Learn the Zen of Python by heart, letter by letter, with an LSTM that is one function.

The network is written forward alone, in plain NumPy, the loop over the letters included:

    forget, entry, gate, output = np.split(x[t] + h @ w_hidden, 4, axis=1)
    c = sigmoid(forget) * c + sigmoid(entry) * np.tanh(gate)
    h = np.tanh(c) * sigmoid(output)

`value_and_grad` gives the loss and the gradients by all weights, back through all letters. A step
of Adam, with its averages, is a graph, too, and updates weights and averages in place.

The same runs in plain NumPy beside it, with a backward pass written by hand. Both compute every
step from the same weights, and follow the graph's gradients: every loss and every weight must have
the same bits. The formulas by hand are shorter than the rules, and take one product for all letters
where they can, so gradients agree to rounding.

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

from fastlayers import Graph, value_and_grad

SEED = 0
LENGTH = 25  # letters that a sequence has
BATCH = 100  # sequences
HIDDEN = 128
RATE, DECAY, SQUARES_DECAY = 0.005, 0.9, 0.99  # of Adam
START = "Beautiful is"

# Largest difference between the gradients, in the largest element that the gradient has had.
TOLERANCE = 1e-4


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def cell(parts: Any, c: Any) -> Any:
    """From the products of letter and state to the next state."""
    forget, entry, gate, output = np.split(parts, 4, axis=1)
    c = sigmoid(forget) * c + sigmoid(entry) * np.tanh(gate)
    return np.tanh(c) * sigmoid(output), c


def mean_cross_entropy(weights: Any, letters: Any, targets: Any) -> Any:
    """Of the next letters, in a row; the letters have an axis of times, then one of sequences."""
    w_letter, w_hidden, bias, w_out, bias_out = weights
    h = c = np.zeros((letters.shape[1], HIDDEN), np.float32)
    states = []
    for x in w_letter[letters] + bias:
        h, c = cell(x + h @ w_hidden, c)
        states.append(h)
    scores = np.concatenate(states) @ w_out + bias_out
    scores = scores - np.max(scores, axis=1, keepdims=True)
    logarithms = scores - np.log(np.sum(np.exp(scores), axis=1, keepdims=True))
    return -np.mean(logarithms[np.arange(targets.size), targets])


gradients_by_graph = value_and_grad(mean_cross_entropy)


@Graph
def adam(weight: Any, mean: Any, square: Any, gradient: Any) -> Any:
    mean = DECAY * mean + (1 - DECAY) * gradient
    square = SQUARES_DECAY * square + (1 - SQUARES_DECAY) * (gradient * gradient)
    return weight - RATE * mean / (np.sqrt(square) + 1e-6), mean, square


def update_by_graph(weight: Any, mean: Any, square: Any, gradient: Any) -> None:
    adam(weight, mean, square, gradient, out=(weight, mean, square))


def gradients_by_hand(weights: list[Any], letters: Any, targets: Any) -> tuple[Any, list[Any]]:
    """The same in plain NumPy, forward and backward, as a textbook has it."""
    w_letter, w_hidden, bias, w_out, bias_out = weights
    h = c = np.zeros((letters.shape[1], HIDDEN), np.float32)
    states, kept = [h], []
    for x in w_letter[letters] + bias:
        forget, entry, gate, output = np.split(x + h @ w_hidden, 4, axis=1)
        f, i, g, o = sigmoid(forget), sigmoid(entry), np.tanh(gate), sigmoid(output)
        before, c = c, f * c + i * g
        bent = np.tanh(c)
        h = bent * o
        states.append(h)
        kept.append((f, i, g, o, before, bent))
    hidden = np.concatenate(states[1:])
    scores = hidden @ w_out + bias_out
    scores -= np.max(scores, axis=1, keepdims=True)
    rows = np.arange(targets.size)
    exponents = np.exp(scores)
    sums = np.sum(exponents, axis=1)
    loss = -np.mean(scores[rows, targets] - np.log(sums))

    dscores = exponents
    dscores /= sums[:, None]
    dscores[rows, targets] -= 1
    dscores /= targets.size
    dstates = (dscores @ w_out.T).reshape(*letters.shape, HIDDEN)
    dparts = np.empty((*letters.shape, 4 * HIDDEN), np.float32)
    dh = dc = np.zeros_like(h)
    for t in reversed(range(len(letters))):
        f, i, g, o, before, bent = kept[t]
        dforget, dentry, dgate, doutput = np.split(dparts[t], 4, axis=1)  # views
        dh = dstates[t] + dh
        dc = dc + dh * o * (1 - bent * bent)
        dforget[...] = dc * before * f * (1 - f)
        dentry[...] = dc * g * i * (1 - i)
        dgate[...] = dc * i * (1 - g * g)
        doutput[...] = dh * bent * o * (1 - o)
        dh = dparts[t] @ w_hidden.T
        dc = dc * f
    dw_letter = np.zeros_like(w_letter)
    np.add.at(dw_letter, letters, dparts)
    dparts = dparts.reshape(-1, 4 * HIDDEN)
    dw_hidden = np.concatenate(states[:-1]).T @ dparts
    dw_out, dbias_out = hidden.T @ dscores, np.sum(dscores, axis=0)
    return loss, [dw_letter, dw_hidden, np.sum(dparts, axis=0), dw_out, dbias_out]


def update_by_hand(weight: Any, mean: Any, square: Any, gradient: Any) -> None:
    mean[...] = DECAY * mean + (1 - DECAY) * gradient
    square[...] = SQUARES_DECAY * square + (1 - SQUARES_DECAY) * (gradient * gradient)
    weight -= RATE * mean / (np.sqrt(square) + 1e-6)


@dataclass
class Training:
    """Weights, and the record of how they were learned."""

    gradients: Any
    update: Any
    weights: list[Any]
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.means = [np.zeros_like(weight) for weight in self.weights]
        self.squares = [np.zeros_like(weight) for weight in self.weights]

    def look(self, letters: Any, targets: Any) -> list[Any]:
        """The gradients; the loss goes into the record."""
        started = perf_counter()
        loss, gradients = self.gradients(self.weights, letters, targets)
        self.seconds.append(perf_counter() - started)
        self.losses.append(float(loss))
        return list(gradients)

    def step(self, gradients: list[Any]) -> None:
        started = perf_counter()
        for each in zip(self.weights, self.means, self.squares, gradients, strict=True):
            self.update(*each)
        self.seconds[-1] += perf_counter() - started

    def recite(self, start: Sequence[int], count: int) -> list[int]:
        """The letters that it goes on with, each the likeliest."""
        w_letter, w_hidden, bias, w_out, bias_out = self.weights
        h = c = np.zeros((1, HIDDEN), np.float32)
        said = list(start)
        for place in range(count):
            h, c = cell(w_letter[said[place]] + bias + h @ w_hidden, c)
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
        Training(gradients, update, [weight.copy() for weight in weights])
        for gradients, update in (
            (gradients_by_hand, update_by_hand),
            (gradients_by_graph, update_by_graph),
        )
    ]
    apart, largest = np.zeros((2, len(weights)))  # of each gradient
    for step in range(1, arguments.steps + 1):
        starts = rng.integers(0, len(numbers) - LENGTH, BATCH)
        read = numbers[starts + np.arange(LENGTH + 1)[:, None]]
        turns = trainings[:: 1 if step % 2 else -1]
        found = {id(training): training.look(read[:-1], read[1:].ravel()) for training in turns}
        gradients = found[id(graphs)]
        for i, others in enumerate(found[id(by_hand)]):
            apart[i] = max(apart[i], np.max(abs(gradients[i] - others)))
            largest[i] = max(largest[i], np.max(abs(others)))
        for training in turns:
            training.step(gradients)
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
    rounding = np.max(apart / largest)
    if not rounding < TOLERANCE:
        raise SystemExit(f"the gradients differ by {rounding:.0e} of the largest element")
    print("all losses and weights are equal, bit for bit")
    print(f"all gradients are equal to rounding, {rounding:.0e} of the largest element")
    plain, ours = (float(np.median(training.seconds)) for training in trainings)
    print(
        f"median step: plain NumPy {1e3 * plain:.1f} ms, graphs {1e3 * ours:.1f} ms: "
        f"{plain / ours:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
