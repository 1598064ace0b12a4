"""A first computational graph: what a basket of fruit costs, and what the price depends on.

    apple, apple_num ───> [mul] ───┐
                                 [add] ───> [mul] ───> price
    orange, orange_num ─> [mul] ───┘          │
                                     tax ─────┘

Every node is a layer. ``forward`` computes from left to right; ``backward`` starts with 1 at the
price and goes from right to left, and gives the gradient of every input: how much the price moves
when that input moves by one. It is the example of "Deep Learning from Scratch" (Koki Saitoh),
chapter 5.

Run it with ``python apple_shop.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastlayers import AddLayer, MulLayer


class Shop:
    """The graph above, of numbers or of arrays that hold one basket per element."""

    def __init__(self) -> None:
        self.apples = MulLayer()
        self.oranges = MulLayer()
        self.fruit = AddLayer()
        self.taxed = MulLayer()

    def forward(self, apple: Any, apple_num: Any, orange: Any, orange_num: Any, tax: Any) -> Any:
        """Return the price of the basket, tax included."""
        apple_price = self.apples.forward(apple, apple_num)
        orange_price = self.oranges.forward(orange, orange_num)
        fruit_price = self.fruit.forward(apple_price, orange_price)
        return self.taxed.forward(fruit_price, tax)

    def backward(self, dprice: Any) -> dict[str, Any]:
        """Return the gradient of every input, by name."""
        dfruit_price, dtax = self.taxed.backward(dprice)
        dapple_price, dorange_price = self.fruit.backward(dfruit_price)
        dorange, dorange_num = self.oranges.backward(dorange_price)
        dapple, dapple_num = self.apples.backward(dapple_price)
        return {
            "dapple": dapple,
            "dapple_num": dapple_num,
            "dorange": dorange,
            "dorange_num": dorange_num,
            "dtax": dtax,
        }


def one_basket() -> None:
    """Plain Python numbers in, plain Python numbers out."""
    shop = Shop()
    price = shop.forward(apple=100, apple_num=2, orange=150, orange_num=3, tax=1.1)
    print("One basket: 2 apples at 100, 3 oranges at 150, tax 1.1")
    print(f"  {'price':<12}{price}")  # in full: 1.1 has no exact binary form, hence the last digit
    for name, gradient in shop.backward(1).items():
        print(f"  {name:<12}{gradient:g}")


def many_baskets() -> None:
    """The same graph on arrays: every element is a basket of its own, in a shop of its own."""
    shop = Shop()
    prices = shop.forward(
        apple=np.array([100.0, 120.0, 90.0, 110.0]),
        apple_num=np.array([2.0, 1.0, 10.0, 0.0]),
        orange=np.array([150.0, 140.0, 160.0, 155.0]),
        orange_num=np.array([3.0, 6.0, 0.0, 2.0]),
        tax=np.array([1.1, 1.1, 1.08, 1.2]),
    )
    print("Four baskets at once; the first column is the basket above")
    _print_row("price", prices)
    for name, gradient in shop.backward(np.ones_like(prices)).items():
        _print_row(name, gradient)


def _print_row(name: str, values: np.ndarray) -> None:
    print(f"  {name:<12}" + "".join(f"{value:>8g}" for value in values))


if __name__ == "__main__":
    one_basket()
    print()
    many_baskets()
