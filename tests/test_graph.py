"""Graphs as their users meet them: what is recorded, what is refused and why, how it is called."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
from outcome import described, outcome

import fastlayers
from fastlayers import AddLayer, BaseLayer, Graph, MulLayer, gradcheck, reference


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def shop(apple, apple_num, orange, orange_num, tax):
    return (apple * apple_num + orange * orange_num) * tax


class Shop:
    """The book's shop by hand, with a layer for each node and a backward in reverse."""

    def __init__(self, layers):
        self.apples, self.oranges, self.total = (layers.MulLayer() for _ in range(3))
        self.fruit = layers.AddLayer()

    def forward(self, apple, apple_num, orange, orange_num, tax):
        apples = self.apples.forward(apple, apple_num)
        oranges = self.oranges.forward(orange, orange_num)
        return self.total.forward(self.fruit.forward(apples, oranges), tax)

    def backward(self, dout):
        dfruit, dtax = self.total.backward(dout)
        dapples, doranges = self.fruit.backward(dfruit)
        dapple, dapple_num = self.apples.backward(dapples)
        dorange, dorange_num = self.oranges.backward(doranges)
        return dapple, dapple_num, dorange, dorange_num, dtax


class Relu(BaseLayer):
    """As the book writes it: it keeps a mask, and writes into what it is given."""

    def forward(self, x):
        self.mask = x <= 0
        out = x.copy()
        out[self.mask] = 0
        return out

    def backward(self, dout):
        dout[self.mask] = 0
        return dout


class Affine(BaseLayer):
    def __init__(self, weights, bias):
        self.weights, self.bias = weights, bias

    def forward(self, x):
        self.x = x
        return x @ self.weights + self.bias

    def backward(self, dout):
        self.dweights = self.x.T @ dout
        return dout @ self.weights.T


# --------------------------------------------------------------------------------- what is recorded


def test_shop_of_the_book(implementation):
    graph = implementation.Graph(shop)
    assert graph.forward(100, 2, 150, 3, 1.1) == 715.0000000000001
    gradients = graph.backward(1)
    assert gradients == (2.2, 110.00000000000001, 3.3000000000000003, 165.0, 650)
    assert gradients._fields == ("apple", "apple_num", "orange", "orange_num", "tax")
    assert (gradients.apple, gradients.tax) == (2.2, 650)


def test_class_written_by_hand(implementation):
    by_hand = Shop(implementation)
    graph = implementation.Graph(by_hand.forward)
    for operands in ((100, 2, 150, 3, 1.1), [floats(40, seed=seed) for seed in range(5)]):
        dout = 1 if isinstance(operands, tuple) else floats(40, seed=5)
        assert described(graph.forward(*operands)) == described(by_hand.forward(*operands))
        expected = by_hand.backward(dout)
        assert described(tuple(graph.backward(dout))) == described(expected)
        assert described(tuple(graph.value_and_grad(*operands, dout=dout)[1])) == described(
            expected
        )


def test_every_way_to_write_a_node():
    x, y = 5, 3
    inner = Graph(lambda a, b: a * b)
    ways = {
        15: [
            lambda x, y: x * y,
            lambda x, y: MulLayer().forward(x, y),
            lambda x, y: MulLayer()(x, y),
            lambda x, y: reference.MulLayer().forward(x, y),
            lambda x, y: fastlayers.multiply(x, y),
            lambda x, y: reference.multiply(x, y),
            lambda x, y: np.multiply(x, y),
            lambda x, y: inner(x, y),
            lambda x, y: inner.forward(b=y, a=x),
            Graph(inner),
            functools.partial(lambda n, x, y: x * y * n, 1),
        ],
        8: [
            lambda x, y: x + y,
            lambda x, y: AddLayer().forward(x, y),
            lambda x, y: AddLayer()(x, y),
            lambda x, y: fastlayers.add(x, y),
            lambda x, y: np.add(x, y),
        ],
        2: [lambda x, y: x - y, lambda x, y: np.subtract(x, y)],
        -8: [
            lambda x, y: -x - y,
            lambda x, y: np.negative(x) - y,
            lambda x, y: -(+x) - np.positive(y),
        ],
        11: [lambda x, y: 2 * x + 1 * (y - 2), lambda x, y: 1 + x * 2 - (3 - y) * 1 + 0 - y + 3],
        14: [lambda x, y: np.float64(4) + np.int64(2) * x + y * 0, lambda x, y: 12 - y + x * True],
    }
    for expected, functions in ways.items():
        for function in functions:
            assert Graph(function)(x, y) == expected


def test_gradients_of_minus_and_plus():
    value, gradients = Graph(lambda x, y: -x - (+y)).value_and_grad(2.0, np.ones((2, 3)), dout=3)
    assert value.tolist() == [[-3.0] * 3] * 2
    assert gradients.x == -18.0
    assert gradients.y.tolist() == [[-3.0] * 3] * 2


def test_numbers_on_either_side_keep_their_type():
    x = np.ones(3, "f4")
    assert Graph(lambda x: 1 - 0.1 * x)(x).dtype == np.float32
    assert Graph(lambda x: np.float64(0.1) * x)(x).dtype == np.float64
    assert type(Graph(lambda x: 2 * x)(3)) is int


def test_several_outputs():
    graph = Graph(lambda x, y: (x * y, x, x * y + y))
    assert graph(2, 3) == (6, 2, 9)
    assert graph.value_and_grad(2, 3, dout=(1, 10, 100)) == ((6, 2, 9), (313, 302))
    assert graph.value_and_grad(2, 3)[1] == (7, 5)
    assert Graph(lambda x: (x * 2,))(3) == (6,)


@pytest.mark.parametrize("x", [3.0, np.arange(3.0)])
def test_three_dots_ask_for_arrays(x):
    # As NumPy's functions take them, from the version on that does.
    graph, of_numpy = Graph(lambda x, y: x * y), outcome(np.multiply, x, 2.0, out=...)
    graph.forward(x, 2.0)
    for call, pick in (
        (lambda: graph(x, 2.0, out=...), lambda value: value),
        (lambda: graph.forward(x, 2.0, out=...), lambda value: value),
        (lambda: graph.backward(x, out=(..., None)), lambda gradients: gradients.x),
        (lambda: graph.value_and_grad(x, 2.0, out=(..., None)), lambda both: both[0]),
        (lambda: graph.value_and_grad(x, 2.0, dout=x, out=(None, (..., None))), lambda b: b[1].x),
    ):
        seen = outcome(call)
        assert (seen.exception, seen.warnings) == (of_numpy.exception, ())
        if seen.exception is None:
            assert described(pick(seen.value)) == of_numpy.result


def test_keyword_only_parameters():
    def momentum(w, v, /, g, *, mu, lr):
        v = mu * v - lr * g
        return w + v, v

    graph = Graph(momentum)
    assert graph.inputs == ("w", "v", "g", "mu", "lr")
    assert graph(1.0, 2.0, 3.0, 0.5, 0.1) == graph(1.0, 2.0, lr=0.1, mu=0.5, g=3.0)


def test_graphs_in_graphs_are_inlined():
    blend = Graph(lambda alpha, x, y: alpha * x + (1 - alpha) * y)

    @Graph
    def twice(alpha, x, y):
        return blend(alpha, blend(alpha, x, y), 2.5)

    assert twice(0.5, 4.0, 2.0) == 2.75
    assert twice.value_and_grad(0.5, 4.0, 2.0)[1] == (1.5, 0.25, 0.25)
    assert "Graph" not in str(twice)


def test_layers_of_ones_own():
    hidden, relu = Affine(floats(3, 4), floats(4, seed=1)), Relu()
    graph = Graph(lambda x, gain: relu(hidden(x) * gain) * gain)
    x, dout = floats(5, 3, seed=2), floats(5, 4, seed=3)
    value, gradients = graph.value_and_grad(x, 2.0, dout=dout)
    before = x @ hidden.weights + hidden.bias
    assert described(value) == described(np.maximum(before * 2.0, 0) * 2.0)
    dbefore = np.where(before > 0, dout * 2.0 * 2.0, 0.0)
    assert described(gradients.x) == described(dbefore @ hidden.weights.T)
    assert described(hidden.dweights) == described(x.T @ dbefore)
    assert gradcheck(graph, x, 2.0)


def test_layer_with_a_backward_of_its_own_is_run_by_it():
    class Twice(MulLayer):
        def backward(self, dout, out=None):
            return 2 * dout, 3 * dout

    twice = Twice()
    assert Graph(lambda x, y: twice(x, y)).value_and_grad(5, 7) == (35, (2, 3))
    assert Graph(lambda x, y: twice.forward(x, y)).value_and_grad(5, 7) == (35, (7, 5))


@pytest.mark.parametrize("before", [(None, None), (2, np.ones(3))])
def test_recording_leaves_layers_as_they_were(implementation, before):
    class Counting(implementation.MulLayer):
        """It does not call __init__ of its base: x and y are the class's."""

        def __init__(self):
            self.calls = 0

        def forward(self, x, y, out=None):
            self.calls += 1
            return super().forward(x, y, out)

    mul, add, counting = implementation.MulLayer(), implementation.AddLayer(), Counting()
    if before[0] is not None:
        for layer in (mul, add, counting):
            layer.forward(*before)
    kept = dict(vars(counting))

    def function(a, b):
        return mul.forward(add.forward(a, b), mul.forward(2, b)) * counting.forward(a, b)

    assert implementation.Graph(function)(2, 3) == 180
    with pytest.raises(TypeError, match="from outside"):
        implementation.Graph(lambda a: mul.forward(a, np.ones(2)))
    for layer in (mul, add):
        assert layer.x is before[0]
        assert layer.y is before[1]
    assert vars(counting) == {**kept, "calls": kept["calls"] + 1}


# ---------------------------------------------------------------------------------- what is refused

relu = Relu()

REFUSED = {
    "if": (lambda x: x if x > 2 else -x, "x > 2: .*a comparison; record a graph for each case"),
    "truth": (lambda x: x and -x, "x: .*if, and, or, not"),
    "equality": (lambda x: x * (x == 2), "x == 2: .*a comparison"),
    "float": (lambda x: float(x), r"float\(x\): .*conversion to a number"),
    "int": (lambda x: int(x * 2), r"int\(x \* 2\): .*conversion to a number"),
    "len": (lambda x: x * len(x), r"len\(x\): .*make the length a parameter"),
    "iteration": (lambda x: sum(x), r"sum\(x\): .*iteration"),
    "unpacking": (lambda x: [*x], r": .*iteration"),
    "in": (lambda x: 2 in x, "2 in x: .*iteration"),
    "ufunc": (lambda x: x * np.exp(x), r"np\.exp\(x\): .*np\.exp; write a layer of your own"),
    "reduction": (lambda x: np.add.reduce(x), r"np\.add\.reduce; write a layer"),
    "function": (lambda x: np.sum(x), r"np\.sum; write a layer"),
    "out": (lambda x: np.multiply(x, 2, out=np.ones(2)), "np.multiply with out; leave out out"),
    "asarray": (lambda x: np.asarray(x), "conversion to an array"),
    "array": (lambda x: np.array(x) * 2, r"np\.array\(x\): .*conversion to an array"),
    "copy": (lambda x: np.array(x, "f4", copy=True), "conversion to an array; do that outside"),
    "out of a graph": (lambda x: Graph(lambda y: y * 2)(x, out=np.ones(2)), "out=; leave it out"),
    "value_and_grad": (
        lambda x: Graph(lambda y: y * y).value_and_grad(x),
        r"graph\.grad\(…\) outs",
    ),
    "captured": (lambda x: x * np.ones(2), r"x \* np.ones\(2\): .*this ndarray from outside; make"),
    "captured first": (lambda x: np.ones(2) + x, "this ndarray from outside; make it a parameter"),
    "list": (lambda x: [1, 2] * x, "this list from outside"),
    "text": (lambda x: x + "a", "this str from outside"),
    "None": (lambda x: MulLayer().forward(x, None), "this NoneType from outside"),
    "power": (lambda x: x**2, r"x\*\*2: .*write products, x \* x"),
    "power of 2": (lambda x: 2**x, r"2\*\*x: .*cannot record \*\*"),
    "division": (lambda x: x / 2, "x / 2: .*cannot record /"),
    "division of 2": (lambda x: 2 // x, "2 // x: .*cannot record //"),
    "matmul": (lambda x: x @ x, "x @ x: .*cannot record @"),
    "abs": (lambda x: abs(x), r"abs\(\)"),
    "round": (lambda x: round(x), "rounding"),
    "index": (lambda x: x[0] * x[1], r"x\[0\]: .*indexing; make the part a parameter"),
    "shape": (lambda x: x * x.shape[0], r"x\.shape: .*attribute \.shape"),
    "size": (lambda x: x * x.size, r"attribute \.size of a value; nothing is known of a value"),
    "T": (lambda x: x.T, r"x\.T: .*attribute \.T of a value; write a layer of your own"),
    "sum()": (lambda x: x.sum(), r"x\.sum: .*the method \.sum of a value; write a layer of your"),
    "reshape()": (lambda x: x.reshape(3), r"the method \.reshape of a value; write a layer"),
    "astype()": (lambda x: x.astype("f4"), r"the method \.astype of a value; write a layer"),
    "call": (lambda x: x(2), r"x\(2\): .*a call of a value"),
    "forward": (lambda x: relu.forward(x), r"call the layer itself, relu\(…\) in place of"),
    "layer of an array": (lambda x: Shop(reference).total(x, np.ones(2)), "from outside"),
    "number": (lambda x: 3, "must return a value that it computes.*returned 3"),
    "nothing": (lambda x: None, "returned None"),
    "no output": (lambda x: (), r"returned \(\)"),
    "number and symbol": (lambda x: (x, 3), "returned 3"),
    "list of outputs": (lambda x: [x, x], "a tuple of such values; it returned"),
    "generator": (lambda x: (yield x), "returned <generator"),
    "default": (lambda x, y=2: x * y, "cannot have a default, as has y=2"),
    "args": (lambda *xs: xs[0], r"fixed number of parameters.*cannot take \*xs"),
    "kwargs": (lambda x, **more: x, r"cannot take \*\*more"),
    "no parameter": (lambda: 2, "no parameters"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_line_and_the_way_out(name):
    function, message = REFUSED[name]
    with pytest.raises(TypeError, match=rf"^test_graph\.py:\d+: .*{message}") as error:
        Graph(function)
    line = int(re.match(r"test_graph\.py:(\d+)", str(error.value))[1])
    allowed = {function.__code__.co_firstlineno, Relu.forward.__code__.co_firstlineno + 1}
    assert line in allowed


class PlainAffine:
    """As the book writes it: a layer, but of no base class."""

    def __init__(self, weights, bias):
        self.weights, self.bias = weights, bias

    def forward(self, x):
        return np.dot(x, self.weights) + self.bias

    def backward(self, dout):
        return np.dot(dout, self.weights.T)


class PlainDropout:
    """With another name for itself."""

    def forward(this, x):
        return x * np.ones(4)

    def backward(this, dout):
        return dout


class PlainNetwork:
    def __init__(self):
        self.layers = [PlainAffine(floats(3, 4), floats(4)), PlainDropout()]

    def forward_all(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def call_first(self, x):
        return self.layers[0](x)


def test_layers_without_the_base_class_are_told_of_it():
    derive = (
        r"derive {0} from fastlayers\.BaseLayer, and call the layer itself, {1}\(…\) in place of"
    )
    network = PlainNetwork()
    line = PlainAffine.forward.__code__.co_firstlineno + 1
    with pytest.raises(
        TypeError,
        match=rf"^test_graph\.py:{line}: .*cannot record np\.dot; "
        + derive.format("PlainAffine", "plainaffine"),
    ):
        Graph(network.forward_all)
    with pytest.raises(
        TypeError,
        match="not this ndarray from outside; " + derive.format("PlainDropout", "plaindropout"),
    ):
        Graph(lambda x: network.layers[1].forward(x))


def test_layers_that_cannot_be_called_are_told_of_the_base_class():
    network = PlainNetwork()
    for function, code in (
        (lambda x: PlainDropout()(x), None),
        (network.call_first, PlainNetwork.call_first.__code__),
    ):
        line = code.co_firstlineno + 1 if code else function.__code__.co_firstlineno
        with pytest.raises(
            TypeError,
            match=rf"^test_graph\.py:{line}: .*'Plain\w+' object is not callable; derive Plain\w+ "
            r"from fastlayers\.BaseLayer",
        ):
            Graph(function)


def test_what_else_cannot_be_called_is_pythons_to_tell():
    number, wrapped = 3, [PlainDropout]
    with pytest.raises(TypeError, match=r"^'int' object is not callable$"):
        Graph(lambda x: number(x))
    with pytest.raises(TypeError, match=r"^'list' object is not callable$"):
        Graph(lambda x: wrapped(x))


def test_layers_advice_is_not_given_for_a_graph():
    inner = Graph(lambda x: x * 2)
    with pytest.raises(TypeError, match=r"cannot record out=; leave it out, and give it to the"):
        Graph(lambda x: inner.forward(x, out=np.ones(2)))
    with pytest.raises(TypeError, match=r"this ndarray from outside; make it a parameter"):
        Graph(lambda x: x + inner.forward(x) + MulLayer().forward(x, np.ones(2)))


def test_expression_that_goes_over_lines():
    def function(x, y):
        return (
            x * y
            + x ** (
                2
            )
        )  # fmt: skip

    first = function.__code__.co_firstlineno
    with pytest.raises(TypeError, match=rf"^test_graph\.py:{first + 3}: x \*\* \( 2 \): "):
        Graph(function)


def test_source_that_is_nowhere():
    names = {}
    exec("def function(x):\n    return x ** 2\n", names)
    with pytest.raises(TypeError, match=r"^<string>:2: a graph cannot record \*\*"):
        Graph(names["function"])


def test_attributes_of_a_value_cannot_be_set():
    def function(x):
        x.name = "x"
        return x

    with pytest.raises(TypeError, match=r"the assignment to \.name of a value; use a new name"):
        Graph(function)


def test_functions_whose_parameters_cannot_be_told():
    with pytest.raises(TypeError, match="the parameters of max cannot be told"):
        Graph(max)
    with pytest.raises(TypeError, match=r"(cannot be told|cannot take|default)"):
        Graph(np.multiply)
    with pytest.raises(TypeError, match="default, as has out=None"):
        Graph(MulLayer().forward)


def test_same_layer_twice_names_both_places():
    def function(x):
        first = relu(x)
        return relu(first * 2)

    line = function.__code__.co_firstlineno + 1
    both = rf"test_graph\.py:{line + 1}: relu\(first \* 2\): .*at test_graph\.py:{line}: relu\(x\);"
    with pytest.raises(TypeError, match=both):
        Graph(function)
    inner = Graph(lambda x: relu(x))
    with pytest.raises(TypeError, match="this Relu is in the graph already"):
        Graph(lambda x: inner(inner(x)))


def test_symbol_after_its_recording():
    kept = []

    def keeping(x):
        kept.append(x)
        return x * 2

    Graph(keeping)
    for use in (lambda: kept[0] * 2, lambda: -kept[0], lambda: MulLayer().forward(2, kept[0])):
        with pytest.raises(TypeError, match="a symbol of keeping is used after its graph was rec"):
            use()
    with pytest.raises(TypeError, match="a symbol of keeping is used after"):
        Graph(lambda x: x * kept[0])
    with pytest.raises(TypeError, match="must return a value that it computes"):
        Graph(lambda x: kept[0])


def test_symbol_in_another_recording():
    def outer(x):
        return Graph(lambda y: y * x)(x)

    with pytest.raises(
        TypeError, match="a symbol of outer is used while <lambda> is recorded; make"
    ):
        Graph(outer)


def test_error_of_the_function_is_its_own():
    def broken(x):
        raise LookupError("of its own")

    with pytest.raises(LookupError, match="of its own"):
        Graph(broken)


def test_symbols_do_not_hide_what_tools_look_for():
    seen = []
    Graph(lambda x: seen.append((hasattr(x, "__array_interface__"), repr(x), hash(x))) or x)
    assert seen[0][0] is False


def test_parameter_that_no_output_uses():
    def function(x, y, z):
        y * z
        return x * 2

    with pytest.warns(
        UserWarning, match=r"function: no output depends on y, z; gradients"
    ) as caught:
        graph = Graph(function)
    assert caught[0].filename == __file__
    gradients = graph.value_and_grad(np.ones(2), np.ones((2, 1), "f4"), 3.5)[1]
    assert gradients.y.tolist() == [[0.0], [0.0]]
    assert (gradients.y.dtype, gradients.z) == (np.float32, 0)


# --------------------------------------------------------------------------------- how it is called


def test_operands_by_name(implementation):
    graph = implementation.Graph(shop)
    named = {"orange": 150, "orange_num": 3, "tax": 1.1}
    assert graph(100, 2, **named) == graph.forward(100, 2, **named) == 715.0000000000001
    assert graph.value_and_grad(100, 2, **named)[0] == 715.0000000000001
    assert graph.backward(1).tax == 650


@pytest.mark.parametrize(
    ("operands", "named", "message"),
    [
        ((), {}, r"takes 5 operands \(apple, .*tax\); missing: apple, apple_num, orange, orange_n"),
        ((1, 2, 3), {"tax": 1}, "missing: orange_num$"),
        ((1, 2, 3, 4, 5, 6), {}, "6 were given by position"),
        ((1, 2, 3, 4, 5), {"vat": 1}, "unexpected: vat"),
        ((1, 2, 3, 4), {"apple": 1, "tax": 2}, "given twice: apple"),
        ((1, 2, 3), {"taxes": 1}, "unexpected: taxes; missing: orange_num, tax"),
    ],
)
def test_wrong_operands(operands, named, message):
    graph = Graph(shop)
    for call in (graph, graph.forward, graph.value_and_grad, graph.draw):
        if call == graph.draw and not operands and not named:
            continue
        with pytest.raises(TypeError, match=message):
            call(*operands, **named)
    assert graph(100, 2, 150, 3, 1.1) == 715.0000000000001


def test_names_that_a_named_tuple_refuses():
    with pytest.warns(UserWarning, match="_fields"):
        graph = Graph(lambda _x, y, _fields, count: _x * y + count)
    gradients = graph.value_and_grad(2.0, 3.0, 4.0, 5.0)[1]
    assert gradients == (3.0, 2.0, 0, 1)
    assert (gradients._x, gradients.y, gradients.count) == (3.0, 2.0, 1)
    assert graph(_x=2.0, y=3.0, _fields=4.0, count=5.0) == 11.0


@pytest.mark.parametrize("operands", [(2.0, 3.0), (floats(5), floats(5, seed=1))])
def test_ways_to_call(implementation, operands):
    x, y = operands
    dout = floats(5, seed=2) if np.ndim(x) else 0.5
    graph = implementation.Graph(lambda x, y: x * y + x)
    expected = described((x * y + x, (dout + dout * y, dout * x)))
    every = [
        graph.value_and_grad(x, y, dout=dout),
        graph.value_and_grad(y=y, x=x, dout=dout),
        graph.value_and_grad(x, y, dout=dout, wrt=("x", "y")),
        (graph.forward(x, y), graph.backward(dout)),
        (graph.forward(x, y=y), graph.backward(dout=dout)),
        (type(graph).forward(graph, x, y), type(graph).backward(graph, dout, None)),
    ]
    for value, gradients in every:
        assert described((value, tuple(gradients))) == expected


def test_numbers_of_many_digits_are_told_by_size(implementation):
    graph = implementation.Graph(lambda x, y: x * y)
    for number, told in (
        (10**5000, "<int of 16610 bits>"),
        (Fraction(10**5000, 3), "<Fraction of many digits>"),
    ):
        with pytest.raises(OverflowError) as caught:
            graph(number, 0.5)
        assert told in caught.value.__notes__[-1]


def test_gradients_hash_as_tuples_do():
    graph = Graph(shop)
    gradients = graph.value_and_grad(100, 2, 150, 3, 1.1)[1]
    assert hash(gradients) == hash(tuple(gradients))
    assert hash(gradients) == hash(graph.value_and_grad(100, 2, 150, 3, 1.1)[1])
    assert {tuple(gradients): "found"}[gradients] == "found"


def test_gradients_can_be_pickled():
    gradients = Graph(shop).value_and_grad(100, 2, 150, 3, 1.1)[1]
    for again in (pickle.loads(pickle.dumps(gradients)), copy.deepcopy(gradients)):
        assert again == gradients
        assert type(again) is type(gradients)


def test_wrt():
    graph = Graph(shop)
    gradients = graph.value_and_grad(100, 2, 150, 3, 1.1, wrt=("tax", "apple"))[1]
    assert gradients._fields == ("tax", "apple")
    assert gradients == (650, 2.2)
    assert graph.value_and_grad(100, 2, 150, 3, 1.1, wrt="tax")[1] == (650,)
    assert graph.value_and_grad(100, 2, 150, 3, 1.1, wrt=())[1] == ()
    with pytest.raises(ValueError, match="shop has no parameter 'vat' to differentiate by; it has"):
        graph.value_and_grad(100, 2, 150, 3, 1.1, wrt=["tax", "vat"])
    with pytest.raises(ValueError, match="named twice"):
        graph.value_and_grad(100, 2, 150, 3, 1.1, wrt=["tax", "tax"])


def test_backward_before_forward():
    graph = Graph(shop)
    with pytest.raises(RuntimeError, match=r"shop\.backward: call forward first"):
        graph.backward(1)
    graph(100, 2, 150, 3, 1.1)
    graph.value_and_grad(100, 2, 150, 3, 1.1)
    with pytest.raises(RuntimeError, match="call forward first"):
        graph.backward(1)


@pytest.mark.parametrize(
    ("dout", "error", "message"),
    [
        (np.ones(4), ValueError, r"dout has shape \(4,\), but the value of <lambda> has \(2, 3\)"),
        (np.ones(3), ValueError, r"dout has shape \(3,\)"),
        (np.ones((1, 2, 3)), ValueError, r"dout has shape \(1, 2, 3\)"),
        (None, TypeError, "dout must be an array or a number, not NoneType"),
        ("1", TypeError, "dout must be an array or a number, not str"),
    ],
)
def test_wrong_dout(dout, error, message):
    graph = Graph(lambda x, y: x * y)
    x, y = floats(2, 3), floats(3, seed=1)
    graph.forward(x, y)
    with pytest.raises(error, match=message):
        graph.backward(dout)
    with pytest.raises(error, match=message):
        graph.value_and_grad(x, y, dout=dout)
    assert graph.backward(1).y.shape == (3,)


def test_wrong_number_of_douts():
    graph = Graph(lambda x, y: (x * y, x + y))
    with pytest.raises(ValueError, match="has 2 values, but 3 gradients are in dout"):
        graph.value_and_grad(2.0, 3.0, dout=(1, 2, 3))
    with pytest.raises(TypeError, match="has 2 values: dout must be a tuple with one for each"):
        graph.value_and_grad(np.ones(2), 3.0, dout=np.ones(2))


@pytest.mark.parametrize("dout", [[1.0, 2.0, 3.0], (1.0, 2.0, 3.0), np.float64(1), 1 + 0j])
def test_any_number_or_list_is_a_dout(dout):
    x, y = floats(3), floats(3, seed=1)
    gradients = Graph(lambda x, y: x * y).value_and_grad(x, y, dout=dout)[1]
    assert described(gradients.x) == described(np.array(dout) * y)


READ_ONLY = np.zeros((2, 3))
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.zeros(3), ValueError),
        (np.zeros((2, 3), int), TypeError),
        (READ_ONLY, ValueError),
        ([0.0], TypeError),
        ((np.zeros((2, 3)), np.zeros((2, 3))), ValueError),
    ],
)
def test_wrong_out(out, error):
    graph, x, y = Graph(lambda x, y: x * y), floats(2, 3), floats(3, seed=1)
    before = described(out)
    for call in (graph, graph.forward):
        with pytest.raises(error):
            call(x, y, out=out)
    with pytest.raises(error):
        graph.value_and_grad(x, y, out=(out, None))
    graph.forward(x, y)
    good = np.zeros((2, 3))
    with pytest.raises((TypeError, ValueError)):
        graph.backward(1, out=(good, np.zeros(4)))
    assert described(out) == before
    assert not good.any()
    assert graph(x, y, out=good) is good
    assert described(good) == described(x * y)


@pytest.mark.parametrize("out", [np.zeros(3), [None, None], (None,), (None, None, None), 5])
def test_wrong_out_of_value_and_grad(out):
    with pytest.raises(TypeError, match="'out' must be a tuple of two"):
        Graph(lambda x, y: x * y).value_and_grad(floats(3), 2.0, out=out)


def test_out():
    graph, x, y = Graph(lambda x, y: (x * y, x + y)), floats(3), floats(3, seed=1)
    values, gradients = (np.zeros(3), None), (None, np.zeros(3))
    result, given = graph.value_and_grad(x, y, out=(values, gradients))
    assert result[0] is values[0]
    assert given.y is gradients[1]
    expected = graph.value_and_grad(x, y)
    assert described((result, tuple(given))) == described((expected[0], tuple(expected[1])))


@pytest.mark.parametrize("shape", [(4,), (1, 2), ()])
def test_out_of_another_shape_is_told_with_both_shapes(implementation, shape):
    graph, x, y = implementation.Graph(lambda x, y: x * y), floats(3), floats(3, seed=1)
    out, good = np.zeros(shape), np.zeros(3)
    text = rf"^'out' of shape {re.escape(str(shape))} does not fit a result of shape \(3,\)$"
    graph.forward(x, y)
    for call in (
        lambda: graph(x, y, out=out),
        lambda: graph.forward(x, y, out=out),
        lambda: graph.backward(1, out=(good, out)),
        lambda: graph.value_and_grad(x, y, out=(good, (None, out))),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    assert not out.any()
    assert not good.any()
    assert described(graph(x, y, out=good)) == described(x * y)


def test_out_may_have_more_axes_as_numpys(implementation):
    x, y = floats(3), floats(3, seed=1)
    out = implementation.Graph(lambda x, y: x * y)(x, y, out=np.zeros((2, 3)))
    assert described(out) == described(np.multiply(x, y, out=np.zeros((2, 3))))


class Frame:
    """As a DataFrame of pandas: it has a shape and operators, but no dtype."""

    __array_ufunc__ = None

    def __init__(self, values):
        self.values, self.shape, self.ndim = values, values.shape, values.ndim

    def __mul__(self, other):
        return Frame(self.values * getattr(other, "values", other))

    __rmul__ = __mul__


@pytest.mark.parametrize("columns", [1, 2])
def test_gradients_of_what_is_no_array_are_refused(implementation, columns):
    frame = Frame(floats(3, columns))
    graph = implementation.Graph(lambda x, y: x * y)
    assert described(graph.forward(frame, 2.0).values) == described(frame.values * 2.0)
    text = "^the gradients of a graph are those of arrays and numbers, not of a Frame: give the gra"
    for call in (
        lambda: graph.value_and_grad(frame, 2.0),
        lambda: graph.value_and_grad(2.0, frame, wrt="y"),
        lambda: graph.backward(1),
    ):
        with pytest.raises(TypeError, match=text):
            call()
    with pytest.raises(TypeError, match=r"^graphs and sum_to_shape=True sum arrays, not a Frame"):
        graph.backward(np.ones((3, columns)))
    values = graph.value_and_grad(frame.values, 2.0)[1].x
    assert values.tolist() == [[2.0] * columns] * 3


def test_error_names_the_node():
    def scaled(x, y):
        offset = x + 1.0
        return offset * (x * y)

    x, y = np.ones((2, 3)), np.ones(4)
    with pytest.raises(ValueError, match="could not be broadcast together") as error:
        Graph(scaled)(x, y)
    line = scaled.__code__.co_firstlineno + 2
    assert error.value.__notes__ == [
        "node t1 = x * y of scaled: x float64 (2, 3), y float64 (4,); made at "
        f"test_graph.py:{line}: x * y"
    ]


def test_errors_of_gradients_name_the_node():
    graph = Graph(lambda x, y: (x * y) * 2.0)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError) as error:
        graph.value_and_grad(np.ones(3), np.array([1, 1e300, 1]), dout=np.full(3, 1e300))
    assert error.value.__notes__[0].startswith(
        "gradient of t0 = x * y of <lambda>: x float64 (3,),"
    )


# --------------------------------------------------------------------------------- looking, keeping


def test_listing(capsys):
    graph = Graph(shop)
    assert str(graph).splitlines() == [
        "shop(apple, apple_num, orange, orange_num, tax)",
        "    t0 = apple * apple_num",
        "    t1 = orange * orange_num",
        "    t2 = t0 + t1",
        "    t3 = t2 * tax",
        "    return t3",
    ]
    graph.forward(np.ones(3), 2, np.ones((4, 1), "f4"), 3, 1.1)
    assert graph.toString() is None
    assert capsys.readouterr().out.splitlines() == [
        "shop(apple, apple_num, orange, orange_num, tax)",
        "    apple: float64 (3,)",
        "    apple_num: 2",
        "    orange: float32 (4, 1)",
        "    orange_num: 3",
        "    tax: 1.1",
        "    t0 = apple * apple_num: float64 (3,)",
        "    t1 = orange * orange_num: float32 (4, 1)",
        "    t2 = t0 + t1: float64 (4, 3)",
        "    t3 = t2 * tax: float64 (4, 3)",
        "    return t3",
    ]
    layered = Graph(lambda x: (relu(-x) - 2 * +x,))
    assert str(layered).splitlines()[1:] == [
        "    t0 = -x",
        "    t1 = Relu(t0)",
        "    t2 = +x",
        "    t3 = 2 * t2",
        "    t4 = t1 - t3",
        "    return t4,",
    ]


def test_listing_after_a_forward_that_failed():
    graph = Graph(lambda x, y: x * y)
    with pytest.raises(ValueError, match="broadcast"):
        graph.forward(np.ones(3), np.ones(4))
    assert str(graph).splitlines()[1:] == ["    t0 = x * y", "    return t0"]


def test_layer_that_returns_a_list_or_a_tuple():
    class Wrapping(BaseLayer):
        def __init__(self, kind):
            self.kind = kind

        def forward(self, x):
            return self.kind(x * 2.0)

        def backward(self, dout):
            return self.kind(dout * 2.0)

    lists, tuples = Wrapping(list), Wrapping(tuple)
    value, gradients = Graph(lambda x: lists(x) * 3).value_and_grad(np.ones(2))
    assert (value.tolist(), gradients.x.tolist()) == ([6.0, 6.0], [6.0, 6.0])
    with pytest.raises(TypeError, match=r"Wrapping\.forward must return one value, not a tuple"):
        Graph(lambda x: tuples(x))(np.ones(2))


def test_repr():
    assert repr(Graph(shop)) == "<Graph shop(apple, apple_num, orange, orange_num, tax): 4 nodes>"
    many = Graph(lambda a, b, c, d, e, f, g, h, i: a * b * c * d * e * f * g * h * i)
    assert repr(many) == "<Graph <lambda>(a, b, c, d, e, f, g, …): 8 nodes>"


def test_signature_and_documentation_are_the_functions():
    def product(x, *, y):
        """Multiply."""
        return x * y

    graph = Graph(product)
    for one in (graph, pickle.loads(pickle.dumps(graph)), Graph(graph)):
        assert str(inspect.signature(one)) == "(x, y, *, out=None)"
        assert one.__doc__ == "Multiply."
    assert str(inspect.signature(graph.grad("x"))) == "(x, y, *, out=None)"
    assert str(inspect.signature(Graph(lambda x, out: x * out))) == "(x, out)"
    assert Graph(lambda x: x + 1).__doc__ == Graph.__doc__
    assert list(inspect.signature(Graph).parameters) == ["function"]


def test_drawing():
    graph = Graph(shop)
    picture = graph.draw(100, 2, 150, 3, tax=1.1)
    assert "715" in str(picture)
    assert "650" in str(picture)
    assert "650" not in str(graph.draw())
    assert graph._repr_mimebundle_()["image/svg+xml"] == str(graph.draw())
    assert graph._repr_mimebundle_()["text/plain"] == str(graph)
    assert graph.to_dot().startswith('digraph "shop" {')
    with pytest.raises(RuntimeError, match="call forward first"):
        graph.backward(1)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol):
    local = 2.0
    graph = Graph(lambda x, y: relu(x * y) - local * y)  # a function that cannot be pickled
    x, y = floats(3), floats(3, seed=1)
    again = pickle.loads(pickle.dumps(graph, protocol))
    assert str(again) == str(graph)
    expected = graph.value_and_grad(x, y)
    assert described(tuple(again.value_and_grad(x, y)[1])) == described(tuple(expected[1]))
    graph.forward(x, y)
    for kept in (pickle.loads(pickle.dumps(graph, protocol)), copy.deepcopy(graph)):
        assert described(tuple(kept.backward(1))) == described(tuple(expected[1]))


NODES = Graph(lambda x, y: (x * y + 2) * x).__getstate__()["_nodes"]
BROKEN = {
    "nothing": None,
    "no nodes": NODES._replace(nodes=()),
    "fewer nodes": NODES._replace(nodes=NODES.nodes[:4]),
    "another input": NODES._replace(inputs=("x", "z")),
    "the same input twice": NODES._replace(inputs=("x", "x")),
    "one more input": NODES._replace(inputs=("x", "y", "z")),
    "no output": NODES._replace(outputs=()),
    "an output beyond the end": NODES._replace(outputs=(6,)),
    "an output before the start": NODES._replace(outputs=(-1,)),
    "two outputs, but a single one": NODES._replace(outputs=(4, 5)),
}
for name, changed in {
    "no node": None,
    "unknown operation": NODES.nodes[2]._replace(operation="power"),
    "an input in the middle": NODES.nodes[0],
    "too few operands": NODES.nodes[2]._replace(operands=(0,)),
    "too many operands": NODES.nodes[2]._replace(operands=(0, 1, 1)),
    "an operand that comes later": NODES.nodes[2]._replace(operands=(0, 4)),
    "an operand before the start": NODES.nodes[2]._replace(operands=(-1, 0)),
    "an operand that is no position": NODES.nodes[2]._replace(operands=("x", 0)),
    "operands that are no tuple": NODES.nodes[2]._replace(operands=None),
    "a number that is none": NODES.nodes[3]._replace(operation="number", operands=(), detail="2"),
    "a layer that is none": NODES.nodes[2]._replace(operation="layer", detail=3),
}.items():
    BROKEN[name] = NODES._replace(nodes=(*NODES.nodes[:2], changed, *NODES.nodes[3:]))


@pytest.mark.parametrize("nodes", BROKEN.values(), ids=BROKEN)
def test_pickle_that_was_changed(nodes):
    graph = Graph.__new__(Graph)
    with pytest.raises(ValueError, match=r"^this graph was changed after .* of another version"):
        graph.__setstate__({"_nodes": nodes, "_kept": None, "_known": None})


@pytest.mark.parametrize("state", [None, [NODES], ({}, {"_nodes": NODES}), {}])
def test_pickle_with_another_state(state):
    graph = Graph.__new__(Graph)
    with pytest.raises(ValueError, match=r"^this graph was changed after .* of another version"):
        graph.__setstate__(state)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_that_was_cut(protocol):
    stored = pickle.dumps(Graph(lambda x, y: (x * y + 2) * x), protocol)
    for length in range(len(stored)):
        with pytest.raises((EOFError, pickle.UnpicklingError)):
            pickle.loads(stored[:length])


def test_what_a_pickle_says_of_plans_is_not_believed():
    state = {"_nodes": NODES, "_kept": None, "_known": None, "_entries": 3, "_factors": None}
    graph = Graph.__new__(Graph)
    graph.__setstate__(state)
    assert graph.value_and_grad(3.0, 4.0) == (42.0, (26.0, 9.0))


def test_a_pickle_replaces_no_method():
    graph = Graph(lambda x, y: x * y)
    graph.label = "a product"  # as any object may be given
    state = graph.__getstate__()
    again = Graph.__new__(Graph)
    again.__setstate__(
        state | {"forward": print, "draw": print, "_operations": {}, "inputs": (), "_call_nodes": 0}
    )
    assert vars(again).keys() == vars(graph).keys()
    assert again.label == "a product"
    assert again.forward(2.0, 3.0) == 6.0


def test_layer_that_cannot_be_pickled():
    class Local(Relu):
        pass

    layer = Local()
    with pytest.raises((AttributeError, pickle.PicklingError), match="Local"):
        pickle.dumps(Graph(lambda x: layer(x)))


def test_copy_has_layers_of_its_own():
    layer = Relu()
    graph = Graph(lambda x: layer(x))
    graph.forward(np.array([1.0, -1.0]))
    again = copy.deepcopy(graph)
    graph.forward(np.array([-1.0, 1.0]))
    assert again.backward(1).x.tolist() == [1.0, 0.0]
    assert graph.backward(1).x.tolist() == [0.0, 1.0]


def test_long_chains_can_be_looked_at_and_kept():
    def chain(x):
        y = x
        for _ in range(10_000):
            y = y * x
        return y

    graph = Graph(chain)
    assert repr(graph) == "<Graph chain(x): 10000 nodes>"
    assert len(str(graph).splitlines()) == 10_002
    for again in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        assert again.value_and_grad(1.0) == (1.0, (10_001.0,))
    assert graph.grad("x")(1.0) == 10_001.0
    assert graph._repr_mimebundle_()["text/plain"] == str(graph)


def test_numbers_that_python_does_not_write(implementation):
    graph = implementation.Graph(lambda x: x * 10**5_000)
    assert str(graph).splitlines()[1] == "    t0 = x * <int of 16610 bits>"
    assert "16610 bits" in str(graph.draw())
    assert graph.forward(10**5_000) == 10**10_000
    assert graph.grad("x")(2) == 10**5_000
    assert "x: <int of 16610 bits>" in str(graph)
    assert str(graph.draw(10**5_000)).startswith("<svg")


def test_what_a_function_returned_is_told_of(implementation):
    with pytest.raises(TypeError, match=r"it returned \[<a value of shop>\]"):
        implementation.Graph(make_list_shop())


def make_list_shop():
    def shop(x):
        return [x]

    return shop


def test_a_masked_array_is_copied_with_its_fill_value(implementation):
    x = np.ma.array(np.ones(3, "f2"))  # whose fill value is 1e20, too large for its dtype
    with np.errstate(all="raise"):
        same, twice = implementation.Graph(lambda x: (x, x * 2))(x)
    assert same is not x
    assert described([same, twice]) == described([x, x * 2])


def test_none_among_objects_is_a_gradient_like_any(implementation):
    nothing = np.array(None)
    graph = implementation.Graph(lambda x: x * 2)
    graph.forward(np.array(1, object))
    with pytest.raises(TypeError, match="unsupported operand"):
        graph.backward(nothing)
