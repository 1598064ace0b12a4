"""Random programs: a graph's value is what the function returns, its gradients what the rules say.

``make fuzz-functions`` compares 100,000, and

    PYTHONPATH=tests/support python tests/test_programs_random.py --programs 20000 --seed 1000000

others, each of which depends on its seed alone. A failure is printed as a few lines of Python that
make the calls again.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import warnings
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from operands import Literal, Operand
from outcome import Described, Outcome, described, differences, outcome
from paths import taken
from plain_graph import copied, has_shape
from random_graphs import out_for
from random_programs import Program, random_program, without
from tape import Taped, taped

import fastlayers


@given(random=st.randoms(use_true_random=False))
@settings(
    max_examples=settings.default.max_examples * 2,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_a_graph_is_its_function(random):
    program = random_program(random)
    note(reproducer(program))
    check(program)


F4, F8 = partial(Operand, "f4"), partial(Operand, "f8")
MET = {
    # Programs in which there once was a difference, as short as may be.
    "np.take(a, [0], axis=0)": (Literal("2.5"),),
    "np.take(a, [0], axis=1)": (F8((0, 0)),),
    "a.transpose(0)": (F8((3,)),),
    "np.transpose(a, (1, 0, 2))": (F8((2, 3, 4)),),
    "np.triu(a)": (F8((3,)),),
    "np.diff(a, n=3, axis=0)": (F8((2, 2)),),
    "np.diff(a)": (F8((0,)),),
    "np.power(a, np.arcsinh(b))": (F8((2,)), Literal("3")),
    "a ** b": (F8((2, 3)), F8((2, 1))),
    "np.dot(a, b)": (F8((3, 0, 2)), F8((4, 2, 0))),
    "a.dot(b)": (F8((2, 0)), F8((3, 0, 2))),
    "np.repeat(a, [1, 0, 2], axis=0)": (F8((3, 2)),),
    "np.repeat(a, 3, axis=0)": (Literal("2.5"),),
    "np.mean(a, axis=0)": (Literal("2.5"),),
    "np.var(a, axis=0) + a": (F4(()),),
    "(a + C) - C": (F4((3,)),),
    "a * C": (Literal("2.5"),),
    "np.float64(0.5) / a": (Literal("0.0"),),
    "np.float64(1e300) * (a * np.float64(1e300))": (Literal("2.0"),),
    "np.multiply(b, b)": (F4((3,)), Literal("float('inf')")),
    "np.float32(0.1) * np.add(b, 1) * a": (F4((3,)), Literal("2.5")),
    "np.square(b)": (F4((3,)), Literal("3")),
    "np.maximum(a, 1.5)": (Literal("np.float64(2.5)"),),
    "np.expand_dims(a, 0)": (F8(()),),
    "np.max(a, keepdims=True)": (F8(()),),
    "a[b]": (F8((3, 2), values="special"), Literal("1")),
    "np.std(a, axis=0, keepdims=True) * np.std(a, axis=0).shape[0]": (F8((0, 2)),),
    "a[True] * a[1] - a[True, 1]": (F8((3, 2)),),
    "sum([row for row in a])": (F8((3, 2)),),
    "grown": (F8((2, 1, 2)), F8((3, 2))),
    "set_whole(a, b)": (F8((3,)), F8((1, 1, 3))),
    "multiplied(a, b)": (F8((2, 3)), F8((1, 1, 3, 3))),
}


@pytest.mark.parametrize("text", MET)
def test_programs_that_were_met(text):
    operands = MET[text]
    lines = [f"return {text}"]
    if text == "grown":
        lines = ["y = a * 2", "y *= b", "return y"]
    if text.startswith("set_whole"):
        lines = ["y = a.copy()", "y[...] = b", "return y"]
    if text.startswith("multiplied"):
        lines = ["y = a * 2", "y @= b", "return y"]
    source = "\n    ".join([f"def f({', '.join('ab'[: len(operands)])}):", *lines]) + "\n"
    check(Program(source, operands, {"C": F4((1, 3))}))
    if isinstance(operands[0], Operand):
        check(Program(source, operands, {"C": F4((1, 3))}, dout=1))


def reproducer(program: Program) -> str:
    lines = "".join(f"#   {line}\n" for line in program.source.splitlines())
    return (
        "import sys; sys.path[:0] = ['tests', 'tests/support']\n"
        "from random_programs import *\nfrom test_programs_random import *\n"
        f"{lines}check({program!r})"
    )


def shortened(program: Program) -> Program:
    """The program without those lines that make no difference, and that no other needs."""
    for line in reversed(range(1, program.source.count("\n") - 1)):
        made, *later = program.source.splitlines()[line:]
        names = set(re.findall(r"\w+", made.partition(" = ")[0])) if " = " in made else set()
        if names.intersection(re.findall(r"\w+", " ".join(later))):
            continue
        shorter = without(program, line)
        try:
            check(shorter)
        except AssertionError:
            program = shorter
    return program


def check(program: Program) -> None:
    with taken(program.path):
        value = check_value(program)
        if value.exception is None:
            check_gradients(program, value.value)
            check_out(program, value.value)


# ---- values ----


def check_value(program: Program) -> Outcome:
    """In bits, types, memory order, warnings and errors; but what a graph returns is its own."""
    function = program.function()
    operands = program.build()
    before = described(operands)
    errstate = program.errstate
    expected = outcome(lambda: returned(function(*operands)), errstate=errstate)
    actual = outcome(lambda: returned(graph_of(function)(*operands)), errstate=errstate)
    if expected.exception and actual.exception:  # a graph may notice at once what is wrong
        pair = [replace(one, warnings=()) for one in (actual, expected)]
    else:
        pair = [seen(actual), seen(expected)]
    found = differences(*pair)
    assert found == [], "\n".join(found)
    assert described(operands) == before
    return expected


def returned(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(returned, value))
    return copied(value)


def seen(one: Outcome) -> Outcome:
    """With the strides of axes of one element, which mean nothing, made alike."""

    def plain(result: Any) -> Any:
        if isinstance(result, tuple):
            return tuple(map(plain, result))
        if not isinstance(result, Described) or math.prod(result.shape) == 0:
            return replace(result, strides=()) if isinstance(result, Described) else result
        pairs = zip(result.shape, result.strides, strict=True)
        return replace(result, strides=tuple(0 if n == 1 else stride for n, stride in pairs))

    return replace(one, result=plain(one.result))


def graph_of(function: Any) -> fastlayers.Graph:
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of idle parameters
        return fastlayers.Graph(function)


# ---- gradients ----


def check_gradients(program: Program, value: Any) -> None:
    """By every way to ask for them, against a tape."""
    graph = graph_of(program.function())
    operands = program.build()
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        dout = dout_of(program, value)
        expected = outcome(on_tape, program, operands, dout, errstate=LOUD)
        values, gradients = both(graph, operands, dout)
        assert gradients.exception is None or expected.exception
        if expected.exception is not None:
            assert gradients.exception == expected.exception
            return
        if gradients.exception is None:
            same(gradients.value, expected.value, "value_and_grad")
        assert differences(described(values), described(returned(value))) == []
        graph.forward(*operands)
        back = outcome(graph.backward, dout, errstate=LOUD)
        same(flat(back.value), expected.value, "backward")
        assert told(back) == told(expected), (told(back), told(expected))
        if program.dout is None:
            names = graph.inputs
            found = graph.grad(*names)(*operands)
            same(flat(found if len(names) > 1 else (found,)), expected.value, "grad")


LOUD = {"all": "warn"}


def told(one: Outcome) -> set[str]:
    """What rules warn of, for the sums are silent on the tape, and values are not asked for here.

    A gradient without axes may be an array on the way.
    """
    texts = {text.replace(" scalar ", " ") for _, text in one.warnings}
    return {text for text in texts if not text.endswith(("in reduce", "slice"))}


# ---- outputs ----


def check_out(program: Program, value: Any) -> None:
    """The same answers are written into outputs, though these be operands, or parts of them."""
    graph = graph_of(program.function())
    single = not isinstance(value, tuple)
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        dout = dout_of(program, value)
        values = [returned(value)] if single else list(returned(value))
        for asks_gradients in (False, True):
            results = values
            if asks_gradients:
                names = [
                    name
                    for name, one in zip(graph.inputs, program.operands, strict=True)
                    if not isinstance(one, list | tuple | dict)
                ]
                found = outcome(graph.value_and_grad, *program.build(), dout=dout, wrt=names)
                if found.exception or not names:
                    return
                results = [*values, *found.value[1]]
            operands = program.build()
            outs: list[Any] = []
            for i, result in enumerate(results):
                place = program.places[i % len(program.places)] if program.places else 0
                used = [one for one in outs if one is not None]
                outs.append(out_for(result, place, list(operands), used))
            of_values = outs[0] if single else tuple(outs[: len(values)])
            if asks_gradients:
                out: Any = of_values, tuple(outs[len(values) :])
                told, gradients = graph.value_and_grad(*operands, dout=dout, wrt=names, out=out)
                written = [*([told] if single else told), *gradients]
            else:
                told = graph(*operands, out=of_values)
                written = [told] if single else list(told)
            for one, place in zip(written, outs, strict=True):
                assert place is None or one is place
            same(written, results, "out")


def both(graph: Any, operands: Any, dout: Any) -> tuple[Any, Outcome]:
    values = None

    def run() -> Any:
        nonlocal values
        values, gradients = graph.value_and_grad(*operands, dout=dout)
        return flat(gradients)

    found = outcome(run)
    return returned(values), found


def flat(tree: Any) -> list[Any]:
    """The leaves of a tree."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [leaf for one in tree for leaf in flat(one)]
    return [tree]


def dout_of(program: Program, value: Any) -> Any:
    """For each output a gradient in its shape, of its kind."""
    if program.dout is None:
        return 1
    rng = np.random.default_rng(program.dout)

    def one(value: Any) -> Any:
        if not has_shape(value):
            return 0.75
        drawn = rng.standard_normal(np.shape(value))
        kind = value.dtype if value.dtype.kind == "f" else np.dtype(float)
        return np.asarray(drawn).astype(kind)[()]

    return tuple(map(one, value)) if isinstance(value, tuple) else one(value)


def on_tape(program: Program, operands: Any, dout: Any) -> list[Any]:
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        tape, outputs, inputs = taped(program, operands)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert all(isinstance(one, Taped) for one in outputs)
    douts = dout if isinstance(dout, tuple) else (dout,) * len(outputs)
    given = [started(one.value, dout) for one, dout in zip(outputs, douts, strict=True)]
    return tape.gradients(outputs, given, inputs)


def started(value: Any, dout: Any) -> Any:
    """1 stands for ones; a result without axes is a scalar."""
    if not has_shape(value):
        return dout.item() if has_shape(dout) else dout
    if has_shape(dout):
        return dout
    return np.full_like(value, dout, np.result_type(value.dtype, dout), subok=False)[()]


def same(found: list[Any], expected: list[Any], what: str) -> None:
    assert len(found) == len(expected)
    for i, pair in enumerate(zip(found, expected, strict=True)):
        one, other = [described(np.array(a, order="C") if np.ndim(a) else a) for a in pair]
        assert one == other, "\n".join([f"{what}, leaf {i}:", *differences(one, other)])


def differs(seed: int) -> bool:
    """Whether a graph differs from its program, which is printed then."""
    program = random_program(Random(seed))
    try:
        check(program)
    except Exception as error:
        print(f"# seed {seed}: {type(error).__name__}: {error!s:.600}")
        print(f"{reproducer(shortened(program))}\n", flush=True)
        return True
    return False


def in_child(function: Any, *given: Any) -> bool:
    """What a function says in a forked process, where there is such a thing."""
    if not hasattr(os, "fork"):
        return bool(function(*given))
    child = os.fork()
    if child == 0:
        os._exit(function(*given))
    return os.waitpid(child, 0)[1] != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    failed = 0
    for i, seed in enumerate(range(arguments.seed, arguments.seed + arguments.programs)):
        if i % 1_000 == 0:
            print(f"{failed} of {i} programs differ", flush=True)
        failed += in_child(differs, seed) if i % 100 == 99 else differs(seed)
    print(f"{failed} of {arguments.programs} programs differ")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
