from collections.abc import Callable, Sequence
from typing import Any

MOST_VALUES: int
WARNS: object

class Pass:
    numbers: Callable[..., Any] | None
    def __init__(
        self,
        inputs: tuple[str, ...],
        results: tuple[str | int, ...],
        steps: list[Any],
        sources: Sequence[int],
        sum_to: Sequence[int],
        constants: tuple[Any, ...],
    ) -> None: ...
    def run(
        self, values: list[Any], outs: Sequence[Any] | None = None, rest: list[Any] | None = None
    ) -> Any: ...

class Entry:
    def __init__(
        self,
        plan: Callable[[list[Any]], Any],
        inputs: int,
        douts: int,
        values: int,
        single: bool,
        gradients: Any,
        returns_operands: bool,
        finish: Callable[..., None],
    ) -> None: ...
    def run(
        self, operands: tuple[Any, ...], dout: Any = None, outs: tuple[Any, ...] | None = None
    ) -> Any: ...

REASONS: tuple[str, ...]

def count_outcomes() -> tuple[int, dict[str, int]]: ...
def quicken(graph: type) -> None: ...
def text_signature(function: Callable[..., Any]) -> str: ...
