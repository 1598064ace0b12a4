"""Turn a function into a graph: call it once, with symbols that record what is done to them."""

from __future__ import annotations

import dis
import functools
import inspect
import linecache
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Number
from types import CodeType, FrameType
from typing import Any, NoReturn
from weakref import WeakSet

import numpy as np

from .. import layers, reference
from ..base import BaseLayer, Placeholder
from ..callers import PACKAGE, users_frame
from .calls import FUNCTIONS, METHODS, SPLITTING, NotServed, bind, bind_method, index_of
from .nodes import Node, Nodes
from .operations import OPERATIONS, PLAIN, OfScipy
from .trees import filled, leaves

# Only these are known to multiply and add.
ELEMENTWISE = (layers.MulLayer, layers.AddLayer, reference.MulLayer, reference.AddLayer)
FORWARDS = {layer.forward.__code__ for layer in ELEMENTWISE}

UFUNCS = {row.ufunc: name for name, row in OPERATIONS.items() if row.ufunc}

OWN_LAYER = (
    "write a layer of your own, a fastlayers.BaseLayer with forward and backward, and call it on "
    "the symbols: layer(x)"
)
RULES = f"fastlayers.define_gradients says how it is differentiated, or {OWN_LAYER}"
UNKNOWN = "nothing is known of a value before the graph is run; make it a parameter"
MANY_GRAPHS = "record a graph for each case, and choose between the graphs; or write np.where"
OUTSIDE = "do that outside, with what the graph returns"
REFUSING = "a graph cannot record"
ONE_INDEX = "write y[...] += z with one index"
NEW_NAME = "write y = y + z for y += z, or make y by np.zeros_like of a value"
COPY = "copy it first: y = x.copy()"

BINARY_OP = dis.opmap["BINARY_OP"]

# What Python says of an object without __call__.
NOT_CALLABLE = re.compile("'(.+)' object is not callable")

# What to write for some of NumPy's functions and arrays' methods.
INSTEAD = {
    "astype": "give the graph operands of the dtype that they are to have",
    "item": OUTSIDE,
    "tolist": OUTSIDE,
    "empty_like": "write np.zeros_like, and assign to its parts",
    "sort": "write np.sort",
}

# Attributes of an array that are computed of its elements, as by a method.
ARRAYS_OF_AN_ARRAY = {"real", "imag", "flat"}
# Those that are no more than the shape and the dtype, and functions that return them.
ASKED = ("shape", "ndim", "size", "dtype")
ASKING: dict[Any, str] = {np.shape: "shape", np.ndim: "ndim", np.size: "size"}


class Asked(BaseException):
    """The function asks what only operands can answer. Not to be caught by the function."""

    def __init__(self, what: str, place: str) -> None:
        super().__init__(f"{place} asks for {what}")
        self.what, self.place = what, place


class Symbol(Placeholder):
    """A value of the graph that is being recorded. Operations on it become nodes.

    After ``u = y; y += z`` there are two symbols. If y is an array, both are what is at the
    position ``_array[0]`` now; of a number, u is what it was.
    """

    __slots__ = ("__weakref__", "_array", "_base", "_own", "_recording", "_views")

    def __init__(self, recording: Recording, position: int) -> None:
        self._recording = recording
        self._own = position
        self._array = [position]
        self._base: tuple[Symbol, Any] | None = None  # of which this is a view, by what index
        self._views: WeakSet[Symbol] | None = None

    @property
    def _position(self) -> int:
        return self._recording.now(self)

    def apply(self, layer: BaseLayer, operands: tuple[Any, ...]) -> Any:
        if type(layer) in ELEMENTWISE:
            return layer.forward(*operands)
        return self._recording.operation("layer", *operands, layer=layer)

    def record(
        self, operation: str, operands: tuple[Any, ...], options: Mapping[str, Any]
    ) -> Symbol:
        return self._recording.operation(operation, *operands, options=options)

    def __array_ufunc__(self, ufunc: Any, method: str, *operands: Any, **options: Any) -> Symbol:
        name = f"np.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
        if method != "__call__":
            instead = REDUCED.get(name, OWN_LAYER)
            self._recording.refuse(name, instead)
        operation = operation_of(ufunc)
        if operation is None:
            self._recording.refuse(f"the ufunc {ufunc.__name__}", RULES)
        if options:
            if self._recording.at_an_operator():  # C += x
                self._recording.refuse("an assignment in place to an array from outside", NEW_NAME)
            given = ", ".join(options)
            self._recording.refuse(f"{name} with {given}", f"leave out {given}")
        if operation.startswith("np.") and self._recording.at_an_operator():
            operation = operation.removeprefix("np.")  # with other warnings, or even bits
        return self._recording.operation(operation, *operands)

    def __array_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]
    ) -> Any:
        if function in ASKING and arguments[:1] == (self,) and len(arguments) + len(named) == 1:
            return self._recording.answer(self._position, ASKING[function])
        module = function.__module__.replace("numpy", "np", 1)
        name = f"{module}.{function.__name__}"
        if function not in FUNCTIONS:
            self._recording.refuse(name, INSTEAD.get(function.__name__, OWN_LAYER))
        return self._recording.call(FUNCTIONS[function], name, bind, arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # Python's protocols, and tools that look for their own
            raise AttributeError(name)
        if name in ("T", "mT"):
            return self._recording.view(self, name)
        if name in ASKED:
            return self._recording.answer(self._position, name)
        if name in METHODS:
            return functools.partial(self._called, name)
        if callable(getattr(np.ndarray, name, None)):
            instead = INSTEAD.get(name, OWN_LAYER)
            self._recording.refuse(f"the method .{name} of a value", instead)
        if not hasattr(np.ndarray, name):
            self._recording.member(self._position, name)
        instead = OWN_LAYER if name in ARRAYS_OF_AN_ARRAY else UNKNOWN
        self._recording.refuse(f"the attribute .{name} of a value", instead)

    def _called(self, method: str, *arguments: Any, **named: Any) -> Any:
        def bound(name: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
            return bind_method(name, self, arguments, named)

        what = f"the method .{method} of a value"
        return self._recording.call(METHODS[method], what, bound, arguments, named)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__slots__:
            self._recording.refuse(f"the assignment to .{name} of a value", "use a new name")
        super().__setattr__(name, value)

    def __getitem__(self, index: Any) -> Symbol:
        return self._recording.part(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._recording.assign(self, index, value)

    def __len__(self) -> int:
        return self._recording.length(self._position)

    def __iter__(self) -> Iterator[Symbol]:
        return iter([self[i] for i in range(len(self))])

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<a value of {self._recording.name}>"


def _recorded_by(operation: str, swapped: bool = False) -> Callable[..., Symbol]:
    def method(self: Symbol, *others: Any) -> Symbol:
        operands = (*others, self) if swapped else (self, *others)
        return self._recording.operation(operation, *operands)

    return method


def _recorded_in_place(operation: str) -> Callable[..., Symbol]:
    def method(self: Symbol, other: Any) -> Symbol:
        return self._recording.update(self, operation, other)

    return method


UNARY = ("neg", "pos", "abs", "invert")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
for _operation, _row in OPERATIONS.items():
    _name = _row.operator
    if _row.in_place:
        setattr(Symbol, f"__{_name}__", _recorded_in_place(_operation))
    elif _name:
        setattr(Symbol, f"__{_name}__", _recorded_by(_operation))
        if _name not in (*COMPARISONS, *UNARY):
            setattr(Symbol, f"__r{_name}__", _recorded_by(_operation, swapped=True))

REDUCED = {
    "np.add.reduce": "write np.sum",
    "np.maximum.reduce": "write np.max",
    "np.minimum.reduce": "write np.min",
    "np.multiply.reduce": "write np.prod",
    "np.add.accumulate": "write np.cumsum",
    "np.multiply.outer": "write np.outer",
}


def operation_of(ufunc: Any) -> str | None:
    """The operation that is this ufunc; of SciPy's, which somebody has imported then, by name."""
    if ufunc in UFUNCS:
        return UFUNCS[ufunc]
    name: str = ufunc.__name__
    scipys = OPERATIONS[name].plain if name in OPERATIONS else None
    if not isinstance(scipys, OfScipy) or "scipy.special" not in sys.modules:
        return None
    return name if scipys.ufunc is ufunc else None


def _refusing(what: str, instead: str) -> Callable[..., NoReturn]:
    # Whatever it is given: NumPy calls __array__ with copy= by name.
    def method(self: Symbol, *_: Any, **__: Any) -> NoReturn:
        self._recording.refuse(what, instead)

    return method


# The special methods that are refused, what each means in words, and what to write instead.
REFUSED = (
    ("bool", "if, and, or, not: the truth of a value", MANY_GRAPHS),
    (
        "float int complex index",
        "conversion to a number",
        f"write NumPy's function for one of math, and make y in y[i] = value by np.zeros_like of a "
        f"value; or {OUTSIDE}",
    ),
    (
        "array",
        "conversion to an array",
        "write np.stack([...]) for np.array([...]), make C in C[x] a parameter, C @ x for "
        f"C.dot(x), np.zeros_like of a value for np.zeros; or {OUTSIDE}",
    ),
    ("reversed contains", "a search in a value", OUTSIDE),
    ("delitem", "deletion of a part", "take the parts that stay"),
    ("divmod rdivmod", "divmod()", "write // and %"),
    ("round trunc floor ceil", "Python's rounding", "write np.rint, np.trunc, np.floor or np.ceil"),
    ("call", "a call of a value", "call functions, graphs and layers"),
    ("copy deepcopy", "Python's copies of a value", "write y = x.copy()"),
)
for _names, _what, _instead in REFUSED:
    for _name in _names.split():
        setattr(Symbol, f"__{_name}__", _refusing(_what, _instead))


class Recording:
    """The nodes of a function as it makes them, and how the layers that it uses were before.

    Parameters
    ----------
    name : str
        What is recorded.
    located : bool, optional
        Whether nodes tell the line that makes them.
    operands : sequence, optional
        What the inputs are, to answer what the function asks.

    Attributes
    ----------
    asked : dict
        What the function has asked of its inputs, by position and attribute, with the answers.
    """

    def __init__(
        self, name: str, located: bool = True, operands: Sequence[Any] | None = None
    ) -> None:
        self.name = name
        self.nodes: list[Node] = []
        self.over = False
        self.asked: dict[tuple[int, str], Any] = {}
        self._located = located
        self._values = None if operands is None else dict(enumerate(operands))
        self._layers: dict[int, str] = {}
        self._met: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._positions: dict[CodeType, list[Any]] = {}
        self._selected: set[int] = set()  # the shapes of these depend on values
        self._pending: tuple[Symbol, str] | None = None

    def input(self, name: str) -> Symbol:
        return self._made(Node("input", detail=name))

    def operation(
        self,
        operation: str,
        *operands: Any,
        layer: Any = None,
        place: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Symbol:
        if self._located and layer is None and (instead := _layer_on_the_way()):
            self.refuse("the forward of a layer that has its own backward", instead)
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
        detail = layer if layer is not None else tuple(options.items()) if options else None
        return self._made(Node(operation, positions, detail, place))

    def call(
        self,
        operation: str,
        what: str,
        bound: Callable[..., Any],
        arguments: tuple[Any, ...],
        named: Mapping[str, Any],
    ) -> Any:
        """Record a call of a function of NumPy's, or of a method of arrays."""
        try:
            operands, options = bound(operation, arguments, named)
        except NotServed as error:
            self.refuse(f"{what} {error.given}", error.instead)
        except TypeError as error:
            raise TypeError(f"{self.place()}: {error}") from None
        if operation in SPLITTING:  # these alone return several values
            sections = options["sections"]
            count = sections if isinstance(sections, int) else len(sections) + 1
            return [self.view(operands[0], operation, **options, index=i) for i in range(count)]
        if OPERATIONS[operation].view and isinstance(operands[0], Symbol):
            return self.view(operands[0], operation, **options)
        return self.operation(operation, *operands, options=options)

    # ---- parts, and assignment to them ----

    def view(self, symbol: Symbol, operation: str, **options: Any) -> Symbol:
        """What may share memory with a value: that must not be written then."""
        made = self.operation(operation, symbol, options=options)
        made._base = symbol, options if operation == "getitem" else None
        if symbol._views is None:
            symbol._views = WeakSet()
        symbol._views.add(made)
        return made

    def part(self, symbol: Symbol, index: Any) -> Symbol:
        if isinstance(index, str):  # of a dict: it is no symbol where operands are known
            self._ask(f"[{index!r}] of a value")
        operands, options = self._index(index)
        if not operands:
            return self.view(symbol, "getitem", **options)
        return self.operation("getitem", symbol, *operands, options=options)

    def _index(self, index: Any) -> Any:
        try:
            return index_of(index)
        except NotServed as error:
            self.refuse(f"indexing {error.given}", error.instead)

    def assign(self, symbol: Symbol, index: Any, value: Any) -> None:
        operands, options = self._index(index)
        if self._pending and self._pending[0] is value and value._base == (symbol, options):
            self._pending = None  # `y[i] += z` ends so
            by = value
        else:
            by = None
        self._may_write(symbol, "an assignment to a part of", by)
        place = self.place()
        if not isinstance(value, Symbol | Number | np.ndarray | np.generic):
            value = np.array(value)
        made = self.operation("setitem", symbol, value, *operands, place=place, options=options)
        symbol._own = symbol._array[0] = made._own

    def update(self, symbol: Symbol, operation: str, other: Any) -> Symbol:
        """``y += z`` and the like: every name of y sees the new value, if that is an array."""
        what = "an assignment in place to"
        base = symbol._base
        if base is not None and base[1] is None:
            self.refuse(f"{what} a view of a value", ONE_INDEX)
        self._may_write(symbol if base is None else base[0], what, symbol)
        made = self.operation(operation, symbol, other)
        if base is None:
            if symbol._views is None:
                symbol._views = WeakSet()
            made._views, made._array = symbol._views, symbol._array
            made._array[0] = made._own
        else:
            made._base = base
            self._pending = made, self.place()
        return made

    def now(self, symbol: Symbol) -> int:
        """The node that a symbol stands for, now that others may have been written to."""
        if self._pending is not None:
            place, self._pending = self._pending[1], None
            raise TypeError(
                f"{place}: {REFUSING} an assignment in place to a view of a value; {ONE_INDEX}"
            )
        own, array = symbol._own, symbol._array[0]
        if own == array or self.over:
            return own
        # Another name was written to. Of an array this is the other name of one.
        self._ask("a value by another name than the one that was changed in place")
        self._depends("shape", "dtype", "__class__")
        if hasattr(self._value(own, shaped=False), "__setitem__"):
            return array
        symbol._array = [own]  # and of a number this is one of its own
        return own

    def _may_write(self, symbol: Symbol, what: str, by: Symbol | None = None) -> None:
        """Refuse to write what the function has not made itself, or what others see."""
        node = self.nodes[symbol._position]
        if node.operation == "input":
            self.refuse(f"{what} the operand {node.detail}", COPY.replace("x", node.detail))
        if symbol._base is not None or node.operation == "layer":
            self.refuse(f"{what} a value that may share memory with another one", COPY)
        if symbol._views and any(view is not by for view in symbol._views):
            self.refuse(f"{what} a value of which there are views", f"for these, {COPY}")

    # ---- what only operands can answer ----

    def answer(self, position: int, what: str) -> Any:
        """An attribute of a value, of the operands that the function is recorded with."""
        self._ask(f".{what} of a value")
        assert self._values is not None
        if self.nodes[position].operation == "input":
            self.asked[position, what] = getattr(self._values[position], what, None)
        else:
            self._depends("shape", "dtype")
        # A number without such an attribute raises what the function would.
        return getattr(self._value(position), what)

    def _depends(self, *attributes: str) -> None:
        """Note that the recording is one for operands with these attributes."""
        assert self._values is not None
        for place, node in enumerate(self.nodes):
            if node.operation == "input":
                for one in attributes:
                    self.asked[place, one] = getattr(self._values[place], one, None)

    def _ask(self, what: str) -> None:
        """Make the function wait for operands, if it is recorded without."""
        if self.over:
            raise TypeError(self._too_late(self.place()))
        if self._values is None:
            raise Asked(what, self.place())

    def _too_late(self, place: str) -> str:
        return (
            f"{place}: a symbol of {self.name} is used after its graph was recorded; call the "
            f"graph instead, with numbers or arrays"
        )

    def member(self, position: int, name: str) -> None:
        """What arrays do not have, but perhaps a tree."""
        if self.nodes[position].operation == "input":
            self._ask(f".{name} of a value")
            kind = type(self._values[position]).__name__ if self._values else ""
            raise AttributeError(f"{kind!r} object has no attribute {name!r}", name=name)

    def length(self, position: int) -> int:
        try:
            shape = self.answer(position, "shape")
        except AttributeError:  # a number's
            return len(self._value(position))
        if not shape:
            raise TypeError("len() of unsized object")
        return int(shape[0])

    def _value(self, position: int, shaped: bool = True) -> Any:
        """The value of a node on the operands, computed when it is asked for.

        Where its shape matters, it may not depend on values.
        """
        values = self._values
        assert values is not None
        needed = {position}
        for place in range(position, -1, -1):
            if place in needed and place not in values:
                needed.update(self.nodes[place].operands)
        for place in sorted(needed):
            if place in values:
                continue
            node = self.nodes[place]
            used = [values[operand] for operand in node.operands]
            masks = node.operation == "getitem" and any(
                self.nodes[i].operation != "constant" and np.asarray(values[i]).dtype == bool
                for i in node.operands[1:]
            )
            if masks or not self._selected.isdisjoint(node.operands):
                self._selected.add(place)
            if node.operation in ("number", "constant"):
                values[place] = node.detail
            elif node.operation == "layer":
                values[place] = node.detail.forward(*used)
            else:
                # NumPy's functions in Python warn in Python's way.
                with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
                    values[place] = PLAIN[node.operation](*used, **dict(node.detail or ()))
        if shaped and position in self._selected:
            self.refuse("the shape of a selection, which depends on values", UNKNOWN)
        return values[position]

    def inline(self, graph: Nodes, operands: Sequence[Any], out: Any) -> Any:
        """Insert another graph's nodes in place of a call to it."""
        self.refuse_out(out)
        place = self.place()
        symbols = [self._symbol(self._position_of(operand, place)) for operand in operands]
        for node in graph.nodes[len(operands) :]:
            used = [symbols[operand] for operand in node.operands]
            if node.operation in ("number", "constant"):
                symbols.append(self._made(node))
            else:
                called = f"{node.place}, called at {place}"
                layer, options = node.detail, None
                if node.operation != "layer":
                    layer, options = None, dict(node.detail or ())
                made = self.operation(
                    node.operation, *used, layer=layer, place=called, options=options
                )
                symbols.append(made)
        outputs = tuple([symbols[output] for output in graph.outputs])
        return outputs[0] if graph.single else outputs

    def refuse_out(self, out: Any) -> None:
        if out is not None:
            self.refuse("out=", "leave it out, and give it to the whole graph")

    def value_of(self, symbol: Any) -> Any:
        """What a symbol stands for, of the operands that the function is recorded with."""
        if not isinstance(symbol, Symbol):
            return symbol
        self.answer(symbol._position, "shape")
        return self._value(symbol._position)

    def refuse(self, what: str, instead: str) -> NoReturn:
        instead = _layer_on_the_way() or instead
        raise TypeError(f"{self.place() or self.name}: {REFUSING} {what}; {instead}")

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
        frame = users_frame(self._meet) if self._located else None
        return "" if frame is None else self.described(frame)

    def at_an_operator(self) -> bool:
        """Whether the user's line is running an operator, not a call."""
        frame = users_frame()
        return frame is not None and frame.f_code.co_code[frame.f_lasti] == BINARY_OP

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
                raise TypeError(recording._too_late(place))
            raise TypeError(
                f"{place}: a symbol of {recording.name} is used while {self.name} is recorded; "
                f"make it a parameter of {self.name}"
            )
        if isinstance(operand, Number | np.bool_):
            self.nodes.append(Node("number", detail=operand))
            return len(self.nodes) - 1
        if isinstance(operand, list | tuple):  # as NumPy takes it
            operand = np.array(operand)
        if isinstance(operand, np.ndarray) or hasattr(operand, "__array__"):
            self.nodes.append(Node("constant", detail=operand))
            return len(self.nodes) - 1
        kind = type(operand).__name__
        instead = _layer_on_the_way() or f"make it a parameter of {self.name}"
        raise TypeError(
            f"{place}: a graph takes numbers and its own symbols alone, not this {kind} from "
            f"outside; {instead}"
        )


def _layer_on_the_way() -> str:
    """What to do if the ``forward`` of a user's layer is running with symbols, or ''.

    It may be what is recorded; then nothing is wrong.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not FromFunction.call.__code__:
        code, above = frame.f_code, frame.f_back
        recorded = above is not None and above.f_code is FromFunction.call.__code__
        outside = not (recorded or code.co_filename.startswith(PACKAGE))
        if outside and code.co_name == "forward" and code.co_argcount:
            layer = type(frame.f_locals.get(code.co_varnames[0]))
            if _is_layer(layer) and not issubclass(layer, ELEMENTWISE):
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


class FromFunction:
    """Records a function, which other processes find by its name."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name: str = getattr(function, "__name__", None) or type(function).__name__
        if isinstance(function, functools.partial):
            self.name = getattr(function.func, "__name__", self.name)
        self.parameters = _parameters(function, self.name)
        self.inputs = tuple([parameter.name for parameter in self.parameters])

    def __reduce__(self) -> Any:
        return FromFunction, (self.function,)

    def call(self, operands: Sequence[Any]) -> Any:
        pairs = list(zip(self.parameters, operands, strict=True))
        by_name = {p.name: one for p, one in pairs if p.kind is p.KEYWORD_ONLY}
        return self.function(*[one for p, one in pairs if p.kind is not p.KEYWORD_ONLY], **by_name)

    def inlined(self, recording: Recording, operands: Sequence[Any]) -> Any:
        """Record a call on symbols of another graph: the function itself runs on them."""
        return self.call(operands)

    def __call__(
        self, operands: tuple[Any, ...] | None = None
    ) -> tuple[Nodes, Mapping[tuple[int, str], Any]]:
        """Call the function with symbols; return what it did to them, and what it asked.

        Without operands there is a symbol for each parameter, and it may ask nothing. With them
        there is one for each operand in a tree.
        """
        name = self.name
        if operands is None:
            recording = Recording(name)
            inputs = self.inputs
            symbols = given = [recording.input(one) for one in inputs]
        else:
            named = [
                pair
                for parameter, operand in zip(self.inputs, operands, strict=True)
                for pair in leaves(operand, parameter)
            ]
            inputs = tuple([one for one, _ in named])
            recording = Recording(name, operands=[leaf for _, leaf in named])
            symbols = [recording.input(one) for one in inputs]
            rest = iter(symbols)
            given = [filled(operand, rest) for operand in operands]
        try:
            returned = self.call(given)
            single = not isinstance(returned, tuple)
            outputs = (returned,) if single else returned
            for output in outputs or (outputs,):
                if not isinstance(output, Symbol) or output._recording is not recording:
                    raise TypeError(
                        f"{_defined(self.function, name)}: {name} must return a value that it "
                        f"computes, or a tuple of such values; it returned {output!r:.60}"
                    )
            positions = tuple([output._position for output in outputs])
        except TypeError as error:
            _refuse_plain_layer(error, recording)
            raise
        except ValueError as error:
            # NumPy says of what it cannot convert to a number only that it is a sequence.
            if isinstance(error.__cause__, TypeError) and REFUSING in str(error.__cause__):
                raise error.__cause__ from None
            raise
        finally:
            recording.over = True
            recording.restore_layers()
        return Nodes(name, tuple(recording.nodes), inputs, positions, single), recording.asked


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the parameters of {name} cannot be told ({error}); wrap it in a lambda: "
            f"Graph(lambda x, y: {name}(x, y))"
        ) from None
    if isinstance(function, functools.partial):  # what it fixes by name is no operand
        parameters = [one for one in parameters if one.name not in function.keywords]
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
    function = getattr(function, "func", function)  # of a functools.partial
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
