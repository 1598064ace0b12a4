"""Random graphs, compared in everything that can be seen with their nodes run one by one.

``make fuzz-graphs`` compares 200,000, and

    PYTHONPATH=tests/support python tests/test_graph_random.py --graphs 20000 --seed 1000000

others, each of which depends on its seed alone. A failure is printed as a few lines of Python that
make the calls again.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any
from unittest import mock

import numpy as np
from graphs import NodesGraph
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from outcome import described, differences, outcome
from paths import ANY_PATH, PATHS, Path, taken
from plain_graph import PlainGraph, assert_same, graph_of, owned
from random_graphs import GraphCall, function_of, out_for, random_call

import fastlayers
from fastlayers.graph import planner

RANDOMS = st.randoms(use_true_random=False)


# The most steps of a pass. Of one that is longer, several are made.
STEPS = [None, None, 1, 2, 5]


@given(path=ANY_PATH, steps=st.sampled_from(STEPS), random=RANDOMS)
# A graph of many nodes, called several times, is many cases: half as many as elsewhere.
@settings(
    max_examples=settings.default.max_examples // 2,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_graph_does_what_its_nodes_do(path, steps, random):
    call = random_call(random)
    note(reproducer(path, steps, call))
    check(path, steps, call)


def reproducer(path: Path | None, steps: int | None, call: GraphCall) -> str:
    return (
        "import sys; sys.path[:0] = ['tests', 'tests/support']\n"
        "from operands import *\nfrom random_graphs import *\nfrom test_graph_random import *\n"
        f"check({path!r}, {steps!r}, {call!r})"
    )


@contextmanager
def passes_of(steps: int | None) -> Iterator[None]:
    if steps is None or fastlayers.IMPLEMENTATION != "native":
        yield
        return
    with mock.patch.object(planner, "MOST_STEPS", steps):
        yield


def check(path: Path | None, steps: int | None, call: GraphCall) -> None:
    operands, dout = call.build()
    with passes_of(steps):
        with taken(path):
            assert_same(call.function(), *operands, dout=dout, wrt=call.wrt, errstate=call.errstate)
            check_out(call)
            check_derivative(call)
        check_layers(path, call)
        check_second_derivative(path, call)


def check_out(call: GraphCall) -> None:
    """The same answers are written into outputs, though these be operands, or parts of them."""
    plain = PlainGraph(call.function(), fastlayers)
    graph = graph_of(call.function())

    def value(graph, operands, dout, **out):
        return graph(*operands, **out)

    def both(graph, operands, dout, **out):
        return graph.value_and_grad(*operands, dout=dout, **out)

    for run in value, both:
        operands, dout = call.build()
        expected = outcome(run, plain, operands, dout, errstate=call.errstate)
        if expected.exception:
            return
        results = results_of(plain, run is both, expected.value)
        operands, dout = call.build()
        outs: list[Any] = []
        for result, place in zip(results, call.places, strict=False):
            outs.append(out_for(result, place, operands, [one for one in outs if one is not None]))
        outs += [None] * (len(results) - len(outs))
        count = len(plain.outputs)
        of_value = outs[0] if plain.single else tuple(outs[:count])
        out = (of_value, tuple(outs[count:])) if run is both else of_value
        actual = outcome(run, graph, operands, dout, out=out, errstate=call.errstate)
        found = differences(replace(actual, result=None), replace(expected, result=None), "out")
        assert found == [], "\n".join(found)
        written = results_of(plain, run is both, actual.value)
        for result, one, place in zip(written, results, outs, strict=True):
            assert place is None or result is place
            if type(one) is np.ndarray and one.ndim:
                found = differences(*(described(np.array(a, order="C")) for a in (result, one)))
                assert found == [], "\n".join(found)


def results_of(graph: PlainGraph, both: bool, returned: Any) -> tuple[Any, ...]:
    """The values, and the gradients, in a row."""
    value, gradients = returned if both else (returned, ())
    return (value, *gradients) if graph.single else (*value, *gradients)


def check_derivative(call: GraphCall) -> None:
    """The graph of the gradients has the values that the gradients have."""
    operands, _ = call.build()
    plain = PlainGraph(call.function(), fastlayers)
    names = call.wrt or plain.names
    quiet = {"all": "ignore"}
    expected = outcome(plain.value_and_grad, *operands, wrt=names, errstate=quiet)
    if expected.exception:
        return
    actual = outcome(graph_of(call.function()).grad(*names), *operands, errstate=quiet)
    assert actual.exception is None
    gradients = actual.value if len(names) > 1 else (actual.value,)
    for name, one, other in zip(names, gradients, expected.value[1], strict=True):
        pair = [described(owned(plain.comparable(name, gradient))) for gradient in (one, other)]
        found = differences(*pair, f"gradient by {name}")
        assert found == [], "\n".join(found)


class Hold(fastlayers.BaseLayer):
    """The value itself."""

    def forward(self, x):
        return owned(x)

    def backward(self, dout):
        return dout


def check_layers(path: Path | None, call: GraphCall) -> None:
    """With every third value handed through a layer, passes give what the nodes give."""
    lines = [
        line.replace("= ", "= hold(") + ")" if i % 3 == 1 and " = " in line else line
        for i, line in enumerate(call.source.splitlines())
    ]
    function = function_of("\n".join(lines), hold=lambda x: Hold()(x))
    check_kinds(function, path, call, call.dout, "layers")


def check_second_derivative(path: Path | None, call: GraphCall) -> None:
    """So they do for the graph of a gradient."""
    name = call.wrt[0] if call.wrt else "a"
    function = graph_of(call.function()).grad(name)
    dout = call.operands["abcdef".index(name)]
    check_kinds(function, path, call, dout, "second derivative")


def check_kinds(function: Any, path: Path | None, call: GraphCall, dout: Any, what: str) -> None:
    """A graph on a path differs in nothing from one of which no pass is made, on none."""
    call = replace(call, dout=dout)
    operands, dout = call.build()
    plain = PlainGraph(call.function(), fastlayers)

    def named(gradients):
        return [plain.comparable(name, getattr(gradients, name)) for name in gradients._fields]

    def every_way(kind):
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # idle parameters
            graph = kind(function)
        both = graph.value_and_grad(*operands, dout=dout, wrt=call.wrt or None)
        return graph.forward(*operands), named(graph.backward(dout)), both[0], named(both[1])

    with taken(path):
        ours = outcome(every_way, fastlayers.Graph, errstate=call.errstate)
    layers = outcome(every_way, NodesGraph, errstate=call.errstate)
    found = differences(ours, layers, what)
    assert found == [], "\n".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    failed = 0
    for i, seed in enumerate(range(arguments.seed, arguments.seed + arguments.graphs)):
        if i % 10_000 == 0:
            print(f"{failed} of {i} graphs differ", flush=True)
        random = Random(seed)
        path, steps = random.choice([None, *PATHS]), random.choice(STEPS)
        call = random_call(random)
        try:
            check(path, steps, call)
        except Exception as error:
            failed += 1
            print(f"# seed {seed}: {error!r:.300}\n{reproducer(path, steps, call)}\n", flush=True)
    print(f"{failed} of {arguments.graphs} graphs differ")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
