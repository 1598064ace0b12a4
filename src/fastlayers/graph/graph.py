"""`Graph`, the class that users call. Recording, running and drawing are elsewhere."""

from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import Parameter, Signature
from numbers import Number
from types import DynamicClassAttribute, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, cast, overload

import numpy as np

from .. import core
from ..base import BaseLayer
from ..callers import warn
from . import compiler
from .attribution import AtUsersLine
from .blocks import Task, are_in_blocks, in_blocks
from .gradients import graph_of_gradients
from .interpreter import differentiate_nodes, reached
from .networks import SHAPES, Networks, is_one_plan, may_be_network
from .nodes import Nodes
from .operations import FUNCTIONS, OPERATIONS, WARNING, Operations, scalar
from .picture import MOST_NODES, Drawing
from .planner import entry_of
from .recording import Asked, FromFunction, Recording, Symbol
from .results import (
    apart,
    gradients_of,
    outputs,
    stored,
)
from .stages import Execution, Stages
from .trees import CONTAINERS, is_tree, symbols_in
from .waiting import OnTrees, Waiting

if core.passes is not None:
    from .._core.frontend.methods import count_outcomes, quicken
    from .._core.frontend.passes import WARNS
else:
    WARNS = None

# What a graph takes and returns, for type checkers: what its function does. They alone know of
# defaults before Python 3.13, so that Graph in an annotation is any graph.
if TYPE_CHECKING:
    from typing_extensions import ParamSpec, TypeVar

    P = ParamSpec("P", default=...)
    R = TypeVar("R", default=Any)
else:
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

# Attributes that follow from the nodes, and that belong to this process: plans.
DERIVED = {"_elementwise", "_reached", "_stages", "_entries", "_both_by"}
DERIVED |= {"_waiting", "_on_trees", "_networks"}

# The nodes of a graph that waits for its operands.
NOTHING = Nodes("", (), (), (), False)

VALUE, GRADIENTS, BOTH = range(3)  # of `_entries`


class Graph(BaseLayer, Generic[P, R]):
    """A function in plain NumPy as one layer, with its gradients: recorded once, run on operands.

    Parameters
    ----------
    function : callable
        What to record: a function, a lambda, a bound method or another graph; or use ``@Graph``.
        It is called once, with a symbol for each parameter, and may use operators, NumPy's
        functions and arrays' methods (``np.exp(x) / x.sum(axis=1)``), indices, layers
        (``layer(x)``, for any `BaseLayer`) and other graphs; with symbols, numbers and arrays
        from outside, which are constants. It returns a value, or a tuple of several. If it asks
        for shapes, or a parameter is a dict, list or tuple of operands, it is recorded when the
        graph is called, once for each set of answers. Pass parameters named ``out``, ``dout`` or
        ``wrt`` by position.

    Attributes
    ----------
    inputs : tuple of str
        The names of the parameters.

    Raises
    ------
    TypeError
        If the function does anything else, as ``if`` on a value. The message names the line and
        what to write instead.

    Warns
    -----
    UserWarning
        If no output depends on a parameter.

    Notes
    -----
    The value is what the function returns, in every bit. `backward` goes through the nodes in
    reverse, by the rules of each function as they are written in the guide *Functions and their
    gradients*. A value that is used several times gets the sum of its gradients, added one by one
    in the order in which `backward` reaches them; each is summed to the value's shape first.

    What works element by element is run in passes over memory, on all threads, together with
    reductions along the last axis and sums of all elements; products of matrices, views and other
    reductions are calls of NumPy's between passes.

    Any number of threads may call a graph at once, but not use `forward` and `backward`, which keep
    operands like those of any layer.

    Examples
    --------
    >>> import fastlayers
    >>> @fastlayers.Graph
    ... def shop(apple, apple_num, orange, orange_num, tax):
    ...     return (apple * apple_num + orange * orange_num) * tax
    >>> shop.forward(100, 2, 150, 3, 1.1)
    715.0000000000001
    >>> gradients = shop.backward(1)
    >>> gradients.apple, gradients.tax
    (2.2, 650)

    >>> import numpy as np
    >>> loss = fastlayers.Graph(lambda p, x, y: np.mean((x @ p["w"] + p["b"] - y) ** 2))
    >>> line = {"w": np.array([2.0]), "b": 1.0}
    >>> _, gradients = loss.value_and_grad(line, np.eye(1), np.zeros(1), wrt="p")
    >>> gradients.p
    {'w': array([6.]), 'b': 6.0}
    """

    # The functions that run the nodes.
    _operations = FUNCTIONS

    def __init__(self, function: Callable[P, R]) -> None:
        if isinstance(function, Graph):
            self._keep(function._nodes, function._waiting)
        else:
            record = FromFunction(function)
            try:
                nodes, _ = record()
            except Asked as asked:
                nodes, reason = NOTHING, str(asked)
            else:
                reason = "it was given a tree"
                _warn_of_unused(nodes)
            waiting = Waiting(record, reason, self._of)
            self._keep(nodes, waiting)
        if function.__doc__ and isinstance(function, FunctionType | MethodType | Graph):
            self.__doc__ = function.__doc__  # not that of a class, as functools.partial

    @classmethod
    def _of(cls, nodes: Nodes) -> Self:
        graph = cls.__new__(cls)
        graph._keep(nodes)
        return graph

    def _keep(self, nodes: Nodes, waiting: Waiting | None = None) -> None:
        self._nodes = nodes
        # How it is recorded on operands, if it has no nodes before, or they are trees.
        self._waiting = waiting
        self._on_trees: OnTrees | None = None  # what forward has run instead
        self._elementwise = all(
            node.operation in ("input", "number")
            or (node.operation in OPERATIONS and OPERATIONS[node.operation].elementwise)
            for node in nodes.nodes
        )
        self._reached: dict[tuple[str, ...], set[int]] = {}
        # What forward keeps for backward: the operands, the values of nodes between stages, and
        # stand-ins for values of which the shape is enough.
        self._kept: tuple[Any, ...] | None = None
        self._known: Mapping[int, Any] | None = None
        planned = self._operations is FUNCTIONS and core.passes is not None and bool(nodes.nodes)
        one_plan = planned and is_one_plan(nodes)
        network = planned and may_be_network(nodes)
        self._networks = Networks(nodes, FUNCTIONS) if network else None
        stages = planned and not network and not one_plan
        self._stages = Stages(nodes, FUNCTIONS if stages else None)
        # What a graph that is one plan is called by: the compiled methods find most of it here.
        self._entries: tuple[Any, ...] = (None,) * 3
        self._both_by: dict[tuple[str, ...], Any] = {}
        if one_plan:
            self._entries = (
                entry_of(nodes, FUNCTIONS),
                entry_of(nodes, FUNCTIONS, False, nodes.inputs),
                entry_of(nodes, FUNCTIONS, True, nodes.inputs),
            )

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in DERIVED}
        if not self._nodes.nodes:
            state["_function"] = self._waiting
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        try:
            kept = {name: value for name, value in state.items() if name not in DERIVED}
            nodes = kept.pop("_nodes", None)
            waiting = kept.pop("_function", None)
            if not isinstance(nodes, Nodes) or not isinstance(waiting, Waiting | None):
                raise ValueError(f"its nodes are {nodes!r:.80}")
            if waiting is None:
                nodes.check()
            self._keep(nodes, waiting)  # which looks at options, too
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"this graph was changed after it was stored, or is of another version of "
                f"fastlayers: {error}"
            ) from None
        # What a graph keeps, and what its user has set: no method, nor what belongs to a class.
        own = {"_kept", "_known", "__doc__"}
        self.__dict__.update(
            (name, value)
            for name, value in kept.items()
            if name in own or not (name.startswith("_") or hasattr(Graph, name))
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return self._nodes.inputs if self._waiting is None else self._waiting.inputs

    @property
    def _name(self) -> str:
        return self._nodes.name if self._waiting is None else self._waiting.name

    def _on(self, operands: tuple[Any, ...]) -> OnTrees | None:
        """The graph that was recorded on operands such as these, if that is another one."""
        waiting = self._waiting
        return waiting.on(operands) if waiting and self._waits_for(operands) else None

    def _waits_for(self, operands: tuple[Any, ...]) -> bool:
        """Whether it has to see these operands to be recorded."""
        if self._waiting is None or not self._nodes.nodes:
            return self._waiting is not None
        return any(isinstance(operand, CONTAINERS) and is_tree(operand) for operand in operands)

    def _inlined(self, recording: Recording, operands: tuple[Any, ...], out: Any) -> Any:
        if self._waiting is None or not self._waits_for(operands):
            return recording.inline(self._nodes, operands, out)
        recording.refuse_out(out)
        return self._waiting.inlined(recording, operands)

    @DynamicClassAttribute  # of graphs alone: the class has a signature of its own
    def __signature__(self) -> Signature:
        """The parameters by name, for `help` and completion."""
        parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in self.inputs]
        if "out" not in self.inputs:
            parameters.append(Parameter("out", Parameter.KEYWORD_ONLY, default=None))
        return Signature(parameters)

    # ---- running ----

    # No parameter may stand between P's: each option that is given has an overload of its own,
    # which knows nothing of the operands.
    @overload
    def __call__(self, /, *operands: P.args, **named: P.kwargs) -> R: ...
    @overload
    def __call__(self, /, *operands: Any, out: Any, **named: Any) -> R: ...
    def __call__(self, /, *operands: Any, out: Any = None, **named: Any) -> Any:
        """Return the value of the expression; keep nothing.

        Parameters
        ----------
        *operands, **named : array_like or number, or a dict, list or tuple of these
            One for each parameter of the function, by position or by name.
        out : ndarray or tuple of (ndarray or None), optional
            Array to write the value into, or a tuple of arrays if there are several values. It
            may overlap the operands.

        Returns
        -------
        ndarray or scalar, or a tuple of these
            Arrays that share memory with nothing else.
        """
        operands = self._bound(operands, named)
        value = self._tried(self._entries[VALUE], operands, None, lambda: self._outs(out))
        if value is None or value is WARNS:
            return self._call_nodes(operands, out, value is WARNS)
        return value

    def _call_nodes(self, operands: tuple[Any, ...], out: Any, warns: bool) -> Any:
        operands = self._bound(operands, {})
        if self._networks and (found := self._networks.values(operands)):
            return self._returned(stored(found, self._outs(out)))
        if recording := _recording_of(operands):
            return self._inlined(recording, operands, out)
        if (on := self._on(operands)) is not None:
            return on.value(on.graph(*on.flat, out=out))
        outs = self._outs(out)
        if (found := self._in_blocks(operands, None, None, outs)) is not None:
            return self._returned(found)
        return self._values(operands, outs, self._run(warns))[0]

    @overload
    def forward(self, /, *operands: P.args, **named: P.kwargs) -> R: ...
    @overload
    def forward(self, /, *operands: Any, out: Any, **named: Any) -> R: ...
    def forward(self, /, *operands: Any, out: Any = None, **named: Any) -> Any:
        """Return the value as a call does, and keep the operands for `backward`.

        The values of calls between passes, as products and views, and of your own layers are kept,
        too; nothing else is.
        """
        operands = self._bound(operands, named)
        value = self._tried(self._entries[VALUE], operands, None, lambda: self._outs(out))
        if value is None or value is WARNS:
            return self._forward_nodes(operands, out, value is WARNS)
        self._kept = operands
        return value

    def _forward_nodes(self, operands: tuple[Any, ...], out: Any, warns: bool) -> Any:
        operands = self._bound(operands, {})
        if self._networks and (both := self._networks.forward(operands)):
            values = stored(both[0], self._outs(out))
            self._kept, self._known, self._on_trees = operands, both[1], None
            return self._returned(values)
        if recording := _recording_of(operands):
            return self._inlined(recording, operands, out)
        self._on_trees = on = self._on(operands)
        if on is not None:
            self._kept = operands
            return on.value(on.graph.forward(*on.flat, out=out))
        # Like a layer, keep the operands even if the value cannot be computed.
        self._kept = None if self._stages.layers else operands
        outs = self._outs(out)
        if (found := self._in_blocks(operands, None, None, outs)) is not None:
            return self._returned(found)
        value, known = self._values(operands, outs, self._run(warns))
        self._kept, self._known = operands, known
        return value

    def backward(self, dout: Any, out: Any = None) -> Any:
        """Return the gradients for the operands of the last `forward`, at their current values.

        Parameters
        ----------
        dout : array_like or number, or a tuple of these
            Gradient of the value, in its shape, or a tuple with one for each of several values. A
            number stands for itself at every element.
        out : tuple of (ndarray or None), optional
            Arrays to write the gradients into.

        Returns
        -------
        named tuple
            A gradient for each parameter, in its operand's shape; a number's is a number, that of
            a dict, list or tuple of operands has its structure. It is zero if no value depends on
            the parameter.

        Raises
        ------
        RuntimeError
            Before `forward`.
        TypeError
            If the gradient of a function is not known. The message names it, a note its line.
        ValueError
            If ``dout`` does not have the shape of the value.
        """
        if self._kept is None:
            raise RuntimeError(f"{self._name}.backward: call forward first; it keeps the operands")
        operands = self._kept
        passed = self._tried(
            self._entries[GRADIENTS],
            operands,
            dout,
            lambda: self._outs(out, self.inputs, values=False),
        )
        if passed is None or passed is WARNS:
            return self._backward_nodes(operands, dout, out, passed is WARNS)
        return passed

    def _backward_nodes(self, operands: tuple[Any, ...], dout: Any, out: Any, warns: bool) -> Any:
        if (on := self._on_trees) is not None:
            return on.gradients(self.inputs, on.graph.backward(dout, on.outs(self.inputs, out)))
        names = self._nodes.inputs
        if self._networks and self._known and SHAPES in self._known:
            found = self._networks.gradients(operands, dout, self._known)
            if found:
                return gradients_of(names, stored(found, self._outs(out, names, values=False)))
        outs = self._outs(out, names, values=False)
        if (found := self._in_blocks(operands, dout, names, outs)) is not None:
            return gradients_of(names, found[len(self._nodes.outputs) :])
        needed = self._stages.needed
        execution = Execution(self._stages, operands, self._run(warns), needed, self._known)
        with np.errstate(all="ignore"):
            execution.evaluate()
        gradients = self._gradients(execution, operands, self._douts(dout), names)
        return gradients_of(names, stored(gradients, outs))

    @overload
    def value_and_grad(self, /, *operands: P.args, **named: P.kwargs) -> tuple[R, Any]: ...
    @overload
    def value_and_grad(
        self,
        /,
        *operands: Any,
        dout: Any = ...,
        wrt: str | Sequence[str] | None,
        out: Any = ...,
        **named: Any,
    ) -> tuple[R, Any]: ...
    @overload
    def value_and_grad(
        self, /, *operands: Any, dout: Any, out: Any = ..., **named: Any
    ) -> tuple[R, Any]: ...
    @overload
    def value_and_grad(self, /, *operands: Any, out: Any, **named: Any) -> tuple[R, Any]: ...
    def value_and_grad(  # type: ignore[misc]  # one named wrt is given by position
        self,
        /,
        *operands: Any,
        dout: Any = 1,
        wrt: str | Sequence[str] | None = None,
        out: Any = None,
        **named: Any,
    ) -> tuple[Any, Any]:
        """Return the value and the gradients; keep nothing.

        Parameters
        ----------
        *operands, **named : array_like or number, or a dict, list or tuple of these
            One for each parameter of the function, by position or by name.
        dout : array_like or number, or a tuple of these, optional
            As for `backward`; 1 stands for ones.
        wrt : str or sequence of str, optional
            Names of the parameters to differentiate with respect to; all by default.
        out : tuple of two, optional
            Where to write the value and the gradients: ``(value, gradients)``, as for
            ``graph(..., out=value)`` and ``graph.backward(..., out=gradients)``.

        Returns
        -------
        value : ndarray or scalar, or a tuple of these
            As from a call.
        gradients : named tuple
            As from `backward`, for the parameters ``wrt`` in that order.
        """
        operands = self._bound(operands, named)
        entry = self._entries[BOTH]
        if wrt is not None and entry:
            by = self._named(wrt)
            if by not in self._both_by:
                self._both_by[by] = entry_of(self._nodes, self._operations, True, by)
            entry = self._both_by[by]
        both = None
        if entry:
            names = self._named(wrt) if out is not None else ()
            both = self._tried(entry, operands, dout, lambda: self._outs(out, names))
        if both is None or both is WARNS:
            return self._value_and_grad_nodes(operands, dout, wrt, out, both is WARNS)
        return both  # type: ignore[no-any-return]

    def _value_and_grad_nodes(
        self,
        operands: tuple[Any, ...],
        dout: Any,
        wrt: str | Sequence[str] | None,
        out: Any,
        warns: bool,
    ) -> tuple[Any, Any]:
        operands = self._bound(operands, {})
        if self._networks:
            names = self._named(wrt)
            if found := self._networks.both(operands, dout, names):
                count = len(self._nodes.outputs)
                found = stored(found, self._outs(out, names))
                return self._returned(found[:count]), gradients_of(names, found[count:])
        if recording := _recording_of(operands):
            recording.refuse(
                "value_and_grad", "call graph.grad(…) outside, and what it returns here"
            )
        names = self._named(wrt)
        if (on := self._on(operands)) is not None:
            if on.plain and not on.graph._entries[BOTH]:  # what it would do, without asking them
                return on.graph._value_and_grad_nodes(operands, dout, wrt, out, False)  # type: ignore[no-any-return]
            if out is not None:
                value, gradients = _pair_of_outs(out)
                out = value, on.outs(names, gradients)
            value, gradients = on.graph.value_and_grad(
                *on.flat, dout=dout, wrt=on.names(names), out=out
            )
            return on.value(value), on.gradients(names, gradients)
        outs = self._outs(out, names)
        results = self._in_blocks(operands, dout, names, outs)
        if results is None:
            needed = self._stages.needed
            execution = Execution(self._stages, operands, self._run(warns), needed)
            douts = execution.evaluate(self._douts(dout), self._reached_from(names))
            results = self._results(operands, execution.values)
            results += self._gradients(execution, operands, douts, names)
            results = stored(results, outs)
        count = len(self._nodes.outputs)
        return self._returned(results[:count]), gradients_of(names, results[count:])

    def grad(self, *names: str) -> "Graph[P, Any]":
        """Return the graph of the gradients of the sum of all values.

        Parameters
        ----------
        *names : str
            Parameters to differentiate with respect to; all if none is given.

        Returns
        -------
        Graph
            A graph of the same parameters. Its value is the gradient, or a tuple of several; its
            own `grad` is the second derivative.

        Raises
        ------
        TypeError
            If the graph contains a layer of your own, or a function whose gradient is not known.

        Examples
        --------
        >>> from fastlayers import Graph
        >>> cube = Graph(lambda x: x * x * x)
        >>> cube.grad("x")(2.0), cube.grad("x").grad("x")(2.0)
        (12.0, 12.0)
        """
        wanted = self._named(names or None)
        nodes = graph_of_gradients(self._nodes, wanted) if self._nodes.nodes else NOTHING
        graph = self._of(nodes)
        if self._waiting is not None:
            graph._waiting = self._waiting.derived(wanted)
        return graph

    # ---- looking at it ----

    def toString(self) -> None:
        """Print the nodes, one per line; after `forward`, with the shapes of their values."""
        print(self)

    def __str__(self) -> str:
        if not self._nodes.nodes:
            return self._waiting_text()
        if self._kept is None:
            return self._nodes.listing()
        try:
            with np.errstate(all="ignore"):
                nodes = Stages(self._nodes, None)
                execution = Execution(nodes, self._kept, self._operations, (), self._known)
                execution.evaluate()
                return self._nodes.listing(execution.values)
        except Exception:  # it cannot run on these operands: forward has said so
            return self._nodes.listing()

    def _waiting_text(self) -> str:
        """The last recording of a function that waits for operands, or for what it waits."""
        if self._on_trees is not None:
            return str(self._on_trees.graph)
        assert self._waiting is not None
        if self._waiting.recordings:
            return str(self._waiting.recordings[-1].graph)
        return (
            f"{self._name}({', '.join(self.inputs)}): recorded when it is called first, since "
            f"{self._waiting.reason}"
        )

    def __repr__(self) -> str:
        inputs = self.inputs
        shown = ", ".join(inputs if len(inputs) <= 8 else (*inputs[:7], "…"))
        if not self._nodes.nodes:
            return f"<Graph {self._name}({shown}): recorded when it is called>"
        count = sum(node.operation not in ("input", "number") for node in self._nodes.nodes)
        return f"<Graph {self._nodes.name}({shown}): {count} node{'s' if count != 1 else ''}>"

    def draw(self, /, *operands: Any, dout: Any = 1, **named: Any) -> Drawing:
        """Draw the graph from left to right, with values above the arrows and gradients below.

        Parameters
        ----------
        *operands, **named : array_like or number, optional
            What to run the graph on for the values and gradients; without them the picture shows
            only the structure.
        dout : array_like or number, or a tuple of these, optional
            As for `value_and_grad`.

        Returns
        -------
        Drawing
            A picture (SVG): Jupyter shows it, ``save(path)`` writes it, `str` returns its text.

        Raises
        ------
        RuntimeError
            Without operands, if the graph waits for its first call.
        ValueError
            If the graph has more than 200 nodes, too many for a picture; `to_dot` takes any.

        Examples
        --------
        >>> from fastlayers import Graph
        >>> tax = Graph(lambda price, rate: price * rate)
        >>> "715" in str(tax.draw(650, 1.1))
        True
        """
        from .drawing import draw  # with what it imports, half of what a program would wait for

        if not operands and not named:
            return draw(self._structure())
        operands = self._bound(operands, named)
        if (on := self._on(operands)) is not None:
            return on.graph.draw(*on.flat, dout=dout)  # type: ignore[no-any-return]
        everything = range(len(self._nodes.nodes))
        run, wanted = self._run(False), self._reached_from(self._nodes.inputs)
        execution = Execution(Stages(self._nodes, None), operands, run, everything)
        execution.evaluate()
        values, gradients = execution.values, execution.gradients
        self._begin(execution, self._douts(dout), wanted)
        places = everything[len(operands) :]
        differentiate_nodes(self._nodes, values, gradients, places, wanted, run, keep=True)
        return draw(self._nodes, values, [gradients.get(i) for i in everything])

    def to_dot(self) -> str:
        """Return the graph in Graphviz's DOT language."""
        from .dot import to_dot

        return to_dot(self._structure())

    def _structure(self) -> Nodes:
        """The nodes; of a function that waits for operands those of its last recording."""
        nodes = self._structure_or_none()
        if nodes is None:
            raise RuntimeError(f"{self}; there is nothing to draw before")
        return nodes

    def _structure_or_none(self) -> Nodes | None:
        if self._nodes.nodes or self._waiting is None:
            return self._nodes
        recordings = self._waiting.recordings
        return recordings[-1].graph._nodes if recordings else None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        text = {"text/plain": str(self)}
        nodes = self._structure_or_none()
        if nodes is None or len(nodes.nodes) > MOST_NODES:
            return text
        return {**self.draw()._repr_mimebundle_(), **text}

    # ---- helpers ----

    def _bound(self, operands: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
        """The operands in the order of the parameters."""
        inputs = self.inputs
        if not named and len(operands) == len(inputs):
            return operands
        given = dict(zip(inputs, operands, strict=False))
        problems = []
        if len(operands) > len(inputs):
            problems.append(f"{len(operands)} were given by position")
        if unexpected := [name for name in named if name not in inputs]:
            problems.append(f"unexpected: {', '.join(unexpected)}")
        if twice := [name for name in named if name in given]:
            problems.append(f"given twice: {', '.join(twice)}")
        if missing := [name for name in inputs if name not in given and name not in named]:
            problems.append(f"missing: {', '.join(missing)}")
        if problems:
            raise TypeError(
                f"{self._name} takes {len(inputs)} operand{'s' if len(inputs) != 1 else ''} "
                f"({', '.join(inputs)}); {'; '.join(problems)}"
            )
        return tuple([given[name] if name in given else named[name] for name in inputs])

    def _named(self, wrt: str | Sequence[str] | None) -> tuple[str, ...]:
        """The parameters to differentiate with respect to."""
        inputs = self.inputs
        if wrt is None:
            return inputs
        names = (wrt,) if isinstance(wrt, str | int) else tuple(wrt)  # a number is refused below
        if unknown := [name for name in names if name not in inputs]:
            raise ValueError(
                f"{self._name} has no parameter {unknown[0]!r} to differentiate by; it has "
                f"{', '.join(inputs)}"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"a parameter is named twice in {names}")
        return names

    def _reached_from(self, names: tuple[str, ...]) -> set[int]:
        """The nodes through which gradients pass to these parameters."""
        if names not in self._reached:
            inputs = [self._nodes.inputs.index(name) for name in names]
            self._reached[names] = reached(self._nodes, inputs)
        return self._reached[names]

    def _run(self, warns: bool) -> Operations:
        """What runs the nodes in one call; a pass that ``warns`` has computed them all before."""
        return AtUsersLine(WARNING if warns else self._operations)

    def _tried(
        self,
        entry: Any,
        operands: tuple[Any, ...],
        dout: Any,
        outs: Callable[[], tuple[Any, ...] | None],
    ) -> Any:
        """What an entry returns; None if there is none, as where the graph waits for operands."""
        return entry.run(operands, dout, outs()) if entry else None

    def _outs(
        self, out: Any, names: tuple[str, ...] | None = None, values: bool = True
    ) -> tuple[Any, ...] | None:
        """Where results go, the values, then the gradients by ``names``, from ``out`` as given."""
        if out is None:
            return None
        count, single = len(self._nodes.outputs), self._nodes.single
        if names is None:
            return outputs(out, count, "values", single)
        if not values:
            return outputs(out, len(names), "gradients")
        value, gradients = _pair_of_outs(out)
        return outputs(value, count, "values", single) + outputs(gradients, len(names), "gradients")

    def _values(
        self, operands: tuple[Any, ...], outs: tuple[Any, ...] | None, run: Operations
    ) -> tuple[Any, dict[int, Any]]:
        """The value to return, and what to keep of the others."""
        execution = Execution(self._stages, operands, run, self._stages.between)
        execution.evaluate()
        results = stored(self._results(operands, execution.values), outs)
        return self._returned(results), execution.known()

    def _results(self, operands: tuple[Any, ...], values: list[Any]) -> list[Any]:
        """The outputs' values, sharing no memory."""
        places = self._nodes.outputs
        return apart(
            [values[place] for place in places],
            operands,
            [self._nodes.nodes[place].operation == "layer" for place in places],
        )

    def _douts(self, dout: Any) -> Sequence[tuple[int, Any]]:
        """The outputs, and what is given as their gradients."""
        outputs = self._nodes.outputs
        if self._nodes.single:
            douts: Sequence[Any] = (dout,)
        elif isinstance(dout, tuple | list):
            douts = dout
        elif np.ndim(dout) == 0:
            douts = (dout,) * len(outputs)
        else:
            raise TypeError(
                f"{self._nodes.name} has {len(outputs)} values: dout must be a tuple with one for "
                f"each, or a number for all, not {type(dout).__name__}"
            )
        if len(douts) != len(outputs):
            raise ValueError(
                f"{self._nodes.name} has {len(outputs)} values, but {len(douts)} gradients are in "
                f"dout"
            )
        return list(zip(outputs, douts, strict=True))

    def _begin(
        self, execution: Execution, douts: Sequence[tuple[int, Any]], wanted: Collection[int]
    ) -> None:
        """Start with the gradients of outputs; one that is returned several times has the sum."""
        shaped = [
            (output, self._shaped(dout, execution.values[output], output in wanted))
            for output, dout in douts
        ]
        for output, dout in shaped:  # any may have warned, before sums do
            if output in wanted:
                execution.gradients.add(output, dout, execution.run, foreign=True)

    def _shaped(self, dout: Any, value: Any, wanted: bool) -> Any:
        """An output's gradient, if it is wanted in the shape of its value."""
        if isinstance(dout, list | tuple):
            dout = np.array(dout)
        if not (isinstance(dout, Number) or hasattr(dout, "dtype")):
            raise TypeError(f"dout must be an array or a number, not {type(dout).__name__}")
        if np.ndim(dout) == 0:
            # As in arithmetic: a scalar for an array without axes.
            number = dout[()] if type(dout) is np.ndarray else dout
            return self._operations["broadcast_to"](number, value) if wanted else number
        if np.shape(dout) != np.shape(value):
            raise ValueError(
                f"dout has shape {np.shape(dout)}, but the value of {self._nodes.name} has "
                f"{np.shape(value)}"
            )
        return dout

    def _gradients(
        self,
        execution: Execution,
        operands: tuple[Any, ...],
        douts: Sequence[tuple[int, Any]],
        names: tuple[str, ...],
    ) -> list[Any]:
        """The gradients, of a call that has the values, from those given of outputs."""
        inputs = [self._nodes.inputs.index(name) for name in names]
        wanted, gradients = self._reached_from(names), execution.gradients
        self._begin(execution, douts, wanted)
        execution.go_back(wanted)
        zeros_like = self._operations["zeros_like"]
        found = [
            scalar(gradients[i]) if i in gradients else zeros_like(operands[i]) for i in inputs
        ]
        taken = *operands, *[dout for _, dout in douts]
        return apart(found, taken, [i in gradients.foreign for i in inputs])

    def _in_blocks(
        self, operands: tuple[Any, ...], dout: Any, names: tuple[str, ...] | None, out: Any
    ) -> list[Any] | None:
        """The values, and the gradients by ``names``, if operands are Dask arrays."""
        count = len(self._nodes.outputs)
        douts: tuple[Any, ...] = ()
        if names is not None:
            several = not self._nodes.single and isinstance(dout, tuple | list)
            douts = tuple(dout) if several else (dout,) * count
        everything = *operands, *douts
        # All else runs node by node on Dask's arrays: a sum must not be one of a block.
        if out is not None or not self._elementwise or not are_in_blocks(everything):
            return None
        task = Task(self, count, self._nodes.single, names)
        likes = [operands[self._nodes.inputs.index(name)] for name in names or ()]
        return in_blocks(task, everything, likes)

    def _returned(self, results: Sequence[Any]) -> Any:
        return results[0] if self._nodes.single else tuple(results)


# What `help` shows: within the class its name is only a text.
Graph.grad.__annotations__["return"] = Graph

if core.passes is not None:
    quicken(Graph)  # forward, backward, value_and_grad and the call


class GraphInfo(NamedTuple):
    """How the calls of graphs were run, since the import.

    A graph with products, views or layers of your own makes several calls: one for each pass
    between them.

    Attributes
    ----------
    passes : int
        Calls that were run in passes over memory, or as Python's numbers.
    nodes : dict of str to int
        Calls whose nodes NumPy ran one by one, by reason: an ``"operand"`` that is no plain array,
        number or NumPy scalar; a ``"dtype"`` that is not served, or several; a ``"shape"`` that
        does not broadcast, or nothing with axes; an ``"expression"`` that no pass can compute on
        such operands; a ``"layout"``, as memory orders that differ; a ``"warning"`` that only NumPy
        can give.
    compiled : int
        Passes for which loops were compiled; with llvmlite alone.
    """

    passes: int
    nodes: dict[str, int]
    compiled: int


def graph_info() -> GraphInfo:
    """Return how many calls of graphs were passes, and why the others were not.

    Returns
    -------
    GraphInfo
        A named tuple (passes, nodes, compiled); on the reference implementation, which has no
        passes and counts nothing, 0 and an empty dictionary.

    Examples
    --------
    >>> import numpy as np
    >>> import fastlayers
    >>> double = fastlayers.Graph(lambda x: x + x)
    >>> before = fastlayers.graph_info().passes
    >>> double(np.ones(3))
    array([2., 2., 2.])
    >>> fastlayers.graph_info().passes >= before
    True
    """
    passes, nodes = (0, {}) if core.passes is None else count_outcomes()
    return GraphInfo(passes, nodes, compiler.info().passes)


def _pair_of_outs(out: Any) -> tuple[Any, Any]:
    if not (isinstance(out, tuple) and len(out) == 2):
        raise TypeError(f"'out' must be a tuple of two, (value, gradients), not {out!r:.60}")
    return out


def _recording_of(operands: tuple[Any, ...]) -> Recording | None:
    """The recording of the first symbol among operands, or None."""
    for operand in operands:
        if isinstance(operand, Symbol):
            return operand._recording
        if isinstance(operand, CONTAINERS):
            for symbol in symbols_in(operand):
                return cast(Recording, symbol._recording)
    return None


def _warn_of_unused(nodes: Nodes) -> None:
    used = nodes.needed()
    unused = [name for i, name in enumerate(nodes.inputs) if i not in used]
    if unused:
        warn(
            f"{nodes.name}: no output depends on {', '.join(unused)}; gradients by "
            f"{'it' if len(unused) == 1 else 'them'} are zero"
        )
