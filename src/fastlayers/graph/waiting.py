"""Functions that ask what only operands can answer: shapes, lengths, the structure of trees.

Such a function is recorded when it is first called, and once more for operands that give other
answers. What is recorded is a graph of all operands in all trees, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .gradients import graph_of_gradients
from .nodes import Nodes
from .recording import FromFunction, Recording
from .results import gradients_of, outputs
from .trees import LEAF, filled, leaves, matched, structure

MOST_RECORDINGS = 64  # for answers that differ; the first is forgotten then


class Recorded(NamedTuple):
    """A recording.

    Attributes
    ----------
    structures : tuple
        Of the operands.
    asked : dict
        What the function has asked of the operands in the trees, by position and attribute.
    graph : Graph
        Of all operands in the trees.
    """

    structures: tuple[Any, ...]
    asked: Mapping[tuple[int, str], Any]
    graph: Any

    def serves(self, structures: tuple[Any, ...], flat: Sequence[Any]) -> bool:
        return structures == self.structures and all(
            getattr(flat[i], what, None) == answer for (i, what), answer in self.asked.items()
        )


class OnTrees(NamedTuple):
    """A call: the graph that serves it, and what is needed to give its results their structure.

    Attributes
    ----------
    graph : Graph
    flat : tuple
        The operands in the trees.
    trees : dict
        The operands by the parameters' names.
    wanted : tuple of str or None
        If the value is gradients: by which parameters.
    plain : bool
        Whether there are no trees.
    """

    graph: Any
    flat: tuple[Any, ...]
    trees: dict[str, Any]
    wanted: tuple[str, ...] | None
    plain: bool = False

    def names(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The names of the operands in the trees of some parameters."""
        if self.plain:
            return tuple(wanted)
        return tuple([name for one in wanted for name, _ in leaves(self.trees[one], one)])

    def outs(self, wanted: Sequence[str], out: Any) -> Any:
        """Where gradients go, from trees of arrays; None stands for a tree of None."""
        if out is None:
            return None
        given = outputs(out, len(wanted), "gradients")
        flat = [
            one
            for name, tree in zip(wanted, given, strict=True)
            for one in matched(self.trees[name], tree, name)
        ]
        return tuple(flat)

    def grown(self, wanted: Sequence[str], found: Sequence[Any]) -> list[Any]:
        """Gradients in the structure of their parameters."""
        if self.plain:
            return list(found)
        rest = iter(found)
        return [filled(self.trees[name], rest) for name in wanted]

    def gradients(self, wanted: tuple[str, ...], found: Sequence[Any]) -> Any:
        return gradients_of(wanted, self.grown(wanted, found))

    def value(self, value: Any) -> Any:
        """What the graph returns, from what the one of all operands returned."""
        if self.wanted is None:
            return value
        flat = value if isinstance(value, tuple) else (value,)
        grown = self.grown(self.wanted, flat)
        return grown[0] if len(grown) == 1 else tuple(grown)


class Waiting:
    """What a graph is as long as it has not seen its operands.

    Parameters
    ----------
    record : FromFunction or Derived
        From the operands to what was recorded: nodes, and what was asked.
    reason : str
        Why it waits.
    make : callable
        From nodes to a graph.
    wanted : tuple of str or None
        As of `OnTrees`.
    """

    def __init__(
        self,
        record: FromFunction | Derived,
        reason: str,
        make: Callable[[Nodes], Any],
        wanted: tuple[str, ...] | None = None,
    ) -> None:
        self.name: str = record.name
        self.inputs: tuple[str, ...] = record.inputs
        self.reason = reason
        self._record, self._make, self._wanted = record, make, wanted
        self.recordings: list[Recorded] = []

    def __reduce__(self) -> Any:
        return Waiting, (self._record, self.reason, self._make, self._wanted)

    def on(self, operands: tuple[Any, ...]) -> OnTrees:
        """The recording for some operands."""
        structures = tuple(
            [LEAF if type(one) is np.ndarray else structure(one) for one in operands]
        )
        plain = all(one is LEAF for one in structures)
        flat = operands
        if not plain:
            flat = tuple([leaf for operand in operands for _, leaf in leaves(operand)])
        trees = dict(zip(self.inputs, operands, strict=True))
        for recorded in self.recordings:
            if recorded.serves(structures, flat):
                break
        else:
            nodes, asked = self._record(operands)
            recorded = Recorded(structures, asked, self._make(nodes))
            self.recordings = [*self.recordings[1 - MOST_RECORDINGS :], recorded]
        return OnTrees(recorded.graph, flat, trees, self._wanted, plain)

    def derived(self, wanted: tuple[str, ...]) -> Waiting:
        """That of the gradients by some parameters."""
        return Waiting(Derived(self, wanted), self.reason, self._make, wanted)

    def inlined(self, recording: Recording, operands: Sequence[Any]) -> Any:
        """What a call on symbols records in another graph."""
        return self._record.inlined(recording, operands)


class Derived:
    """Makes the graph of the gradients of what waits."""

    def __init__(self, of: Waiting, wanted: tuple[str, ...]) -> None:
        self._of, self._wanted = of, wanted
        self.name: str = f"{of.name}.grad({', '.join(map(repr, wanted))})"
        self.inputs: tuple[str, ...] = of.inputs

    def __call__(self, operands: tuple[Any, ...]) -> tuple[Nodes, Mapping[tuple[int, str], Any]]:
        on = self._of.on(operands)
        nodes = graph_of_gradients(on.graph._nodes, on.names(self._wanted))
        # What was asked of these operands, it has asked of all that are recorded for them.
        asked = next(one.asked for one in self._of.recordings if one.graph is on.graph)
        return nodes, asked

    def inlined(self, recording: Recording, operands: Sequence[Any]) -> Any:
        symbols = [leaf for operand in operands for _, leaf in leaves(operand)]
        values = iter([recording.value_of(one) for one in symbols])
        given = tuple([filled(operand, values) for operand in operands])
        nodes, _ = self(given)
        found = recording.inline(nodes, symbols, None)
        on = OnTrees(None, (), dict(zip(self.inputs, operands, strict=True)), self._wanted)
        return on.value(found)
