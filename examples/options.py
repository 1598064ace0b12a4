"""Black-Scholes: the prices of a million options, with all their sensitivities.

The formula is three lines of NumPy. One pass over memory gives the prices and their derivatives by
all five parameters, which traders call the Greeks: delta by the stock, vega by the volatility, and
so on. Beside it the prices alone, in NumPy; two derivatives are compared with the textbook's.

Needs SciPy, and Matplotlib for the picture. Run it with ``python options.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.special import ndtr

from fastlayers import Graph


def call(stock: Any, strike: Any, time: Any, rate: Any, volatility: Any) -> Any:
    """Return the price of the right to buy the stock at the strike, after the time in years."""
    spread = volatility * np.sqrt(time)
    d = (np.log(stock / strike) + (rate + 0.5 * volatility * volatility) * time) / spread
    return stock * ndtr(d) - strike * np.exp(-rate * time) * ndtr(d - spread)


def main() -> None:
    parser = argparse.ArgumentParser(description="Price options, with their sensitivities.")
    parser.add_argument("--options", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("options.png"), help="the picture")
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    lowest, highest = [50, 50, 0.1, 0.0, 0.1], [150, 150, 2.0, 0.05, 0.6]
    book = [rng.uniform(a, b, arguments.options) for a, b in zip(lowest, highest, strict=True)]
    graph = Graph(call)
    graph.value_and_grad(*book)  # once, so that memory is there

    started = perf_counter()
    prices = call(*book)
    between = perf_counter()
    same, greeks = graph.value_and_grad(*book)
    ended = perf_counter()
    assert prices.tobytes() == same.tobytes()
    print(f"prices of {arguments.options} options in NumPy: {1e3 * (between - started):.0f} ms")
    print(f"as a graph, with five sensitivities: {1e3 * (ended - between):.0f} ms")
    print("prices are equal, bit for bit")

    stock, strike, time, rate, volatility = book
    spread = volatility * np.sqrt(time)
    d = (np.log(stock / strike) + (rate + 0.5 * volatility * volatility) * time) / spread
    vega = stock * np.sqrt(time) * np.exp(-0.5 * d * d) / np.sqrt(2 * np.pi)
    for name, ours, textbook in (
        ("delta", greeks.stock, ndtr(d)),
        ("vega", greeks.volatility, vega),
    ):
        print(f"{name}: at most {np.max(np.abs(ours - textbook)):.0e} from the textbook's")

    figure = Figure(figsize=(10, 3), layout="constrained")
    panels = figure.subplots(1, 3)
    stock = np.linspace(50.0, 150.0, 201)
    volatility = np.full_like(stock, 0.3)  # of a number the gradient would be the sum
    for time in 0.1, 0.5, 2.0:
        price, greeks = graph.value_and_grad(stock, 100.0, time, 0.02, volatility)
        for axes, curve in zip(panels, (price, greeks.stock, greeks.volatility), strict=True):
            axes.plot(stock, curve, label=f"{time:g} years")
    for axes, title in zip(panels, ("price", "delta", "vega"), strict=True):
        axes.set(title=title, xlabel="stock")
    panels[0].legend(frameon=False)
    figure.savefig(arguments.output, dpi=110)
    print(f"saved {arguments.output}")


if __name__ == "__main__":
    main()
