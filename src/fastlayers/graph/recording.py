"""Turn a function into a graph: call it once, with symbols that record what is done to them."""

from __future__ import annotations

import inspect
import linecache
import os
import re
import sys
from collections.abc import Callable, Sequence
from numbers import Number
from types import CodeType, FrameType
from typing import Any, NoReturn

import numpy as np

from .. import layers, reference
from ..base import BaseLayer, Placeholder
from ..callers import PACKAGE, users_frame
from .nodes import Node, Nodes
from .operations import OPERATIONS

# Only these are known to multiply and add.
ELEMENTWISE = (layers.MulLayer, layers.AddLayer, reference.MulLayer, reference.AddLayer)
FORWARDS = {layer.forward.__code__ for layer in ELEMENTWISE}

UFUNCS = {row.ufunc: name for name, row in OPERATIONS.items() if row.ufunc}

OWN_LAYER = (
    "write a layer of your own, a fastlayers.BaseLayer with forward and backward, and call it on "
    "the symbols: layer(x)"
)
UNKNOWN = "nothing is known of a value before the graph is run; make it a parameter"
MANY_GRAPHS = "record a graph for each case, and choose between the graphs"
OUTSIDE = "do that outside, with what the graph returns"

# What Python says of an object without __call__.
NOT_CALLABLE = re.compile("'(.+)' object is not callable")

# Attributes of an array that are computed of its elements, as by a method.
ARRAYS_OF_AN_ARRAY = {"T", "mT", "real", "imag", "flat"}


class Symbol(Placeholder):
    """A value of the graph that is being recorded. Operations on it become nodes."""

    __slots__ = ("_position", "_recording")

    def __init__(self, recording: Recording, position: int) -> None:
        self._recording = recording
        self._position = position

    def apply(self, layer: BaseLayer, operands: tuple[Any, ...]) -> Any:
        if type(layer) in ELEMENTWISE:
            return layer.forward(*operands)
        return self._recording.operation("layer", *operands, layer=layer)

    def __array_ufunc__(self, ufunc: Any, method: str, *operands: Any, **options: Any) -> Symbol:
        if ufunc not in UFUNCS or method != "__call__":
            name = ufunc.__name__ + ("" if method == "__call__" else f".{method}")
            self._recording.refuse(f"np.{name}", OWN_LAYER)
        if options:
            given = ", ".join(options)
            self._recording.refuse(f"np.{ufunc.__name__} with {given}", f"leave out {given}")
        return self._recording.operation(UFUNCS[ufunc], *operands)

    def __array_function__(self, function: Any, *_: Any) -> NoReturn:
        self._recording.refuse(f"np.{function.__name__}", OWN_LAYER)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # Python's protocols, and tools that look for their own
            raise AttributeError(name)
        if callable(getattr(np.ndarray, name, None)):
            self._recording.refuse(f"the method .{name} of a value", OWN_LAYER)
        instead = OWN_LAYER if name in ARRAYS_OF_AN_ARRAY else UNKNOWN
        self._recording.refuse(f"the attribute .{name} of a value", instead)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__slots__:
            self._recording.refuse(f"the assignment to .{name} of a value", "use a new name")
        super().__setattr__(name, value)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<a value of {self._recording.name}>"


def _recorded_by(operation: str, swapped: bool = False) -> Callable[..., Symbol]:
    def method(self: Symbol, *others: Any) -> Symbol:
        operands = (*others, self) if swapped else (self, *others)
        return self._recording.operation(operation, *operands)

    return method


for _operation, _row in OPERATIONS.items():
    if _row.method:
        setattr(Symbol, f"__{_row.method}__", _recorded_by(_operation))
    if _row.method and len(_row.gradients) == 2:
        setattr(Symbol, f"__r{_row.method}__", _recorded_by(_operation, swapped=True))


def _refusing(what: str, instead: str) -> Callable[..., NoReturn]:
    # Whatever it is given: NumPy calls __array__ with copy= by name.
    def method(self: Symbol, *_: Any, **__: Any) -> NoReturn:
        self._recording.refuse(what, instead)

    return method


# The special methods that are refused, what each means in words, and what to write instead.
REFUSED = (
    ("bool", "if, and, or, not: the truth of a value", MANY_GRAPHS),
    ("eq ne lt le gt ge", "a comparison", MANY_GRAPHS),
    ("float int complex index", "conversion to a number", OUTSIDE),
    ("array", "conversion to an array", OUTSIDE),
    ("len", "len() of a value", "make the length a parameter"),
    ("iter reversed contains", "iteration over a value", "make each part a parameter"),
    (
        "getitem setitem delitem",
        "indexing",
        "make the part a parameter, and index what the graph is called with",
    ),
    ("pow rpow", "**", f"write products, x * x for x**2, or {OWN_LAYER}"),
    (
        "truediv rtruediv",
        "/",
        f"multiply by an inverse that was computed outside, which rounds twice, or {OWN_LAYER}",
    ),
    ("floordiv rfloordiv", "//", OWN_LAYER),
    ("mod rmod", "%", OWN_LAYER),
    ("divmod rdivmod", "divmod()", OWN_LAYER),
    ("matmul rmatmul", "@", OWN_LAYER),
    ("and rand or ror xor rxor lshift rlshift rshift rrshift invert", "&, |, ^, ~", OWN_LAYER),
    ("abs", "abs()", OWN_LAYER),
    ("round trunc floor ceil", "rounding", OWN_LAYER),
    ("call", "a call of a value", "call functions, graphs and layers"),
)
for _names, _what, _instead in REFUSED:
    for _name in _names.split():
        setattr(Symbol, f"__{_name}__", _refusing(_what, _instead))


class Recording:
    """The nodes of a function as it makes them, and how the layers that it uses were before."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Node] = []
        self.over = False
        self._layers: dict[int, str] = {}
        self._met: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._positions: dict[CodeType, list[Any]] = {}

    def input(self, name: str) -> Symbol:
        return self._made(Node("input", detail=name))

    def operation(
        self, operation: str, *operands: Any, layer: Any = None, place: str | None = None
    ) -> Symbol:
        place = self.place() if place is None else place
        positions = tuple([self._position_of(operand, place) for operand in operands])
        if layer is not None:
            if id(layer) in self._layers:
                raise TypeError(
                    f"{place}: this {type(layer).__name__} is in the graph already, made at "
                    f"{self._layers[id(layer)]}; a layer keeps what one forward was given: take "
                    f"another one"
                )
            self._layers[id(layer)] = place
        return self._made(Node(operation, positions, layer, place))

    def inline(self, graph: Nodes, operands: Sequence[Any], out: Any) -> Any:
        """Insert another graph's nodes in place of a call to it."""
        if out is not None:
            self.refuse("out=", "leave it out, and give it to the whole graph")
        place = self.place()
        symbols = [self._symbol(self._position_of(operand, place)) for operand in operands]
        for node in graph.nodes[len(operands) :]:
            used = [symbols[operand] for operand in node.operands]
            if node.operation == "number":
                symbols.append(self._made(node))
            else:
                called = f"{node.place}, called at {place}"
                made = self.operation(node.operation, *used, layer=node.detail, place=called)
                symbols.append(made)
        outputs = tuple([symbols[output] for output in graph.outputs])
        return outputs[0] if graph.single else outputs

    def refuse(self, what: str, instead: str) -> NoReturn:
        instead = _layer_on_the_way() or instead
        raise TypeError(f"{self.place()}: a graph cannot record {what}; {instead}")

    def restore_layers(self) -> None:
        for layer, attributes in self._met.values():
            for name in ("x", "y"):
                if name in attributes:
                    setattr(layer, name, attributes[name])
                else:
                    vars(layer).pop(name, None)
        self._met.clear()

    def place(self) -> str:
        """The line that is running in the first caller outside of this package."""
        frame = users_frame(self._meet)
        return "" if frame is None else self.described(frame)

    def _meet(self, frame: FrameType) -> None:
        """Note how a layer was before the ``forward`` that is running."""
        if frame.f_code in FORWARDS and not self.over:
            layer = frame.f_locals["self"]
            self._met.setdefault(id(layer), (layer, dict(vars(layer))))

    def described(self, frame: FrameType) -> str:
        """The line that a frame is in, and the expression."""
        code = frame.f_code
        if code not in self._positions:
            self._positions[code] = list(code.co_positions())
        first, last, start, end = self._positions[code][frame.f_lasti // 2]
        if first is None:
            first = last = frame.f_lineno
        lines = [
            linecache.getline(code.co_filename, number, frame.f_globals).encode()
            for number in range(first, (last or first) + 1)
        ]
        if start is not None and end is not None:
            lines[-1] = lines[-1][:end]
            lines[0] = lines[0][start:]
        text = " ".join(line.decode(errors="replace").strip() for line in lines).strip()
        return _written(code, first, text)

    def _made(self, node: Node) -> Symbol:
        self.nodes.append(node)
        return self._symbol(len(self.nodes) - 1)

    def _symbol(self, position: int) -> Symbol:
        return Symbol(self, position)

    def _position_of(self, operand: Any, place: str) -> int:
        """The position of a symbol; for a number, that of a new node."""
        if isinstance(operand, Symbol):
            recording = operand._recording
            if recording is self and not self.over:
                return operand._position
            if recording.over:
                raise TypeError(
                    f"{place}: a symbol of {recording.name} is used after its graph was recorded; "
                    f"call the graph instead, with numbers or arrays"
                )
            raise TypeError(
                f"{place}: a symbol of {recording.name} is used while {self.name} is recorded; "
                f"make it a parameter of {self.name}"
            )
        if isinstance(operand, Number | np.bool_):
            self.nodes.append(Node("number", detail=operand))
            return len(self.nodes) - 1
        kind = type(operand).__name__
        instead = _layer_on_the_way() or f"make it a parameter of {self.name}"
        raise TypeError(
            f"{place}: a graph takes numbers and its own symbols alone, not this {kind} from "
            f"outside; {instead}"
        )


def _layer_on_the_way() -> str:
    """What to do if the ``forward`` of a user's layer is running with symbols, or ''."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not record.__code__:
        code = frame.f_code
        outside = not code.co_filename.startswith(PACKAGE)
        if outside and code.co_name == "forward" and code.co_argcount:
            layer = type(frame.f_locals.get(code.co_varnames[0]))
            if _is_layer(layer):
                return _call_of(layer.__name__, issubclass(layer, BaseLayer))
        frame = frame.f_back
    return ""


def _is_layer(kind: type) -> bool:
    return hasattr(kind, "forward") and hasattr(kind, "backward")


def _call_of(layer: str, derived: bool) -> str:
    """How to make a layer a node, by the name of its class."""
    call = f"{layer.lower()}(…) in place of {layer.lower()}.forward(…)"
    if derived:
        return f"call the layer itself, {call}"
    return f"derive {layer} from fastlayers.BaseLayer, and call the layer itself, {call}"


def _refuse_plain_layer(error: TypeError, recording: Recording) -> None:
    """Say more than Python does where a layer is called that is none of `BaseLayer`'s."""
    match = NOT_CALLABLE.fullmatch(str(error))
    traceback = error.__traceback__
    if match is None or traceback is None:
        return
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    # The object is gone, perhaps. Where it was called, its class is known, or objects of it are.
    for known in (*frame.f_locals.values(), *frame.f_globals.values()):
        kind = known if isinstance(known, type) else type(known)
        if kind.__name__ == match[1] and _is_layer(kind):
            raise TypeError(
                f"{recording.described(frame)}: {error}; derive {match[1]} from "
                f"fastlayers.BaseLayer, by which layers can be called on symbols"
            ) from error


def record(function: Callable[..., Any]) -> Nodes:
    """Call a function with a symbol for each parameter; return what it did to them."""
    name = getattr(function, "__name__", None) or type(function).__name__
    parameters = _parameters(function, name)
    recording = Recording(name)
    symbols = {parameter.name: recording.input(parameter.name) for parameter in parameters}
    by_name = {p.name: symbols[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}
    by_position = [symbols[p.name] for p in parameters if p.kind is not p.KEYWORD_ONLY]
    try:
        returned = function(*by_position, **by_name)
        single = not isinstance(returned, tuple)
        outputs = (returned,) if single else returned
        for output in outputs or (outputs,):
            if not isinstance(output, Symbol) or output._recording is not recording:
                raise TypeError(
                    f"{_defined(function, name)}: {name} must return a value that it computes, or "
                    f"a tuple of such values; it returned {output!r:.60}"
                )
    except TypeError as error:
        _refuse_plain_layer(error, recording)
        raise
    finally:
        recording.over = True
        recording.restore_layers()
    positions = tuple([output._position for output in outputs])
    return Nodes(name, tuple(recording.nodes), tuple(symbols), positions, single)


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the parameters of {name} cannot be told ({error}); wrap it in a lambda: "
            f"Graph(lambda x, y: {name}(x, y))"
        ) from None
    where = _defined(function, name)
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(
                f"{where}: a graph has a fixed number of parameters, with names, and cannot take "
                f"{parameter}; name each one"
            )
        if parameter.default is not parameter.empty:
            given = f"{parameter.name}={parameter.default!r}"
            raise TypeError(
                f"{where}: a graph's parameter cannot have a default, as has {given}; leave it "
                f"out, or fix it with a lambda"
            )
    if not parameters:
        raise TypeError(f"{where}: {name} has no parameters; a graph's values depend on them")
    return parameters


def _defined(function: Callable[..., Any], name: str) -> str:
    """Where a function starts, and its first line."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return name
    line = linecache.getline(code.co_filename, code.co_firstlineno).strip()
    return _written(code, code.co_firstlineno, line)


def _written(code: CodeType, number: int, text: str) -> str:
    """A place in a file: the file's name, the line number, and the text there."""
    text = text if len(text) <= 100 else text[:99] + "…"
    file = os.path.basename(code.co_filename)  # noqa: PTH119
    return f"{file}:{number}: {text}" if text else f"{file}:{number}"
