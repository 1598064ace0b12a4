"""Graphs as their users meet them: what is recorded, what is refused and why, how it is called."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
from graphs import Relu, Shop, fans, normal, shop
from outcome import described

import fastlayers
from fastlayers import AddLayer, Graph, MulLayer, reference

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
    for operands in ((100, 2, 150, 3, 1.1), [normal(40, seed=seed) for seed in range(5)]):
        dout = 1 if isinstance(operands, tuple) else normal(40, seed=5)
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


def test_several_outputs():
    graph = Graph(lambda x, y: (x * y, x, x * y + y))
    assert graph(2, 3) == (6, 2, 9)
    assert graph.value_and_grad(2, 3, dout=(1, 10, 100)) == ((6, 2, 9), (313, 302))
    assert graph.value_and_grad(2, 3)[1] == (7, 5)
    assert Graph(lambda x: (x * 2,))(3) == (6,)


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
    with pytest.raises(TypeError, match=r"np\.median"):
        implementation.Graph(lambda a: np.median(mul.forward(a, 2)))
    for layer in (mul, add):
        assert layer.x is before[0]
        assert layer.y is before[1]
    assert vars(counting) == {**kept, "calls": kept["calls"] + 1}


# ---------------------------------------------------------------------------------- what is refused

relu = Relu()


class PlainDropout:
    """As the book writes it: a layer, but of no base class. With another name for itself."""

    def forward(this, x):
        return x * np.ones(4)

    def backward(this, dout):
        return dout


class PlainAffine(PlainDropout):
    def forward(self, x):
        return np.dot(x, np.ones((4, 4))) + 1


class PlainNetwork:
    layers = (PlainAffine(), PlainDropout())

    def forward(self, x):
        return self.layers[0].forward(x)

    def call(self, x):
        return self.layers[0](x)


def over_lines(x):
    return np.median(
        x
    )  # fmt: skip


def in_place(x):
    x += 1
    return x


def with_an_attribute(x):
    x.name = "x"
    return x


inner = Graph(lambda x: x * 2)

# A function, and what is said of it: the line, what stands there, why not, and what to do.
REFUSED = {
    "if": (lambda x: x if x > 2 else -x, "x > 2: .*the truth of a value; .*or write np.where"),
    "truth": (lambda x: x and -x, "x: .*if, and, or, not"),
    "float": (lambda x: float(x), r"float\(x\): .*conversion to a number"),
    "int": (lambda x: int(x * 2), r"int\(x \* 2\): .*conversion to a number"),
    "in": (lambda x: 2 in x, "2 in x: .*a search in a value"),
    "ufunc": (lambda x: np.modf(x), r"np\.modf\(x\): .*the ufunc modf; fastlayers\.define_grad"),
    "reduction": (lambda x: np.add.reduce(x), r"np\.add\.reduce; write np\.sum"),
    "function": (lambda x: np.median(x), r"np\.median; write a layer"),
    "function of a module": (lambda x: np.linalg.inv(x), r"np\.linalg\.inv; write a layer"),
    "option": (lambda x: np.sum(x, dtype="f4"), "np.sum with dtype; leave out dtype"),
    "out": (lambda x: np.multiply(x, 2, out=np.ones(2)), "np.multiply with out; leave out out"),
    "asarray": (lambda x: np.asarray(x), "conversion to an array"),
    "array": (lambda x: np.array([x, x]), r"conversion to an array; write np\.stack"),
    "copy": (lambda x: np.array(x, "f4", copy=True), "conversion to an array; .*do that outside"),
    "out of a graph": (lambda x: Graph(lambda y: y * 2)(x, out=np.ones(2)), "out=; leave it out"),
    "value_and_grad": (
        lambda x: Graph(lambda y: y * y).value_and_grad(x),
        r"graph\.grad\(…\) outs",
    ),
    "text": (lambda x: x + "a", "this str from outside; make it a parameter"),
    "None": (lambda x: MulLayer().forward(x, None), "this NoneType from outside"),
    "round": (lambda x: round(x), "rounding; write np.rint"),
    "index": (lambda x: np.ones(3)[x], "conversion to an array; .*make C a parameter|make C in C"),
    "end of a slice": (lambda x, n: x[:n], "where a slice begins or ends at a value"),
    "in place": (in_place, r"an assignment in place to the operand x; copy it first"),
    "astype()": (lambda x: x.astype("f4"), r"the method \.astype of a value; give the graph op"),
    "sort()": (lambda x: x.sort(), r"the method \.sort of a value; write np\.sort"),
    "call": (lambda x: x(2), r"x\(2\): .*a call of a value"),
    "forward": (lambda x: relu.forward(x), r"call the layer itself, relu\(…\) in place of"),
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


DERIVE = r"derive Plain{0} from fastlayers\.BaseLayer, and call the layer itself, plain{1}\(…\) in"
CALLED = r"'Plain\w+' object is not callable; derive Plain\w+ from fastlayers\.BaseLayer"
REFUSED |= {
    "layer of no base class": (
        PlainNetwork().forward,
        "the forward of a layer that has its own backward; " + DERIVE.format("Affine", "affine"),
    ),
    "call of a plain layer": (lambda x: PlainDropout()(x), CALLED),
    "call of a network's": (PlainNetwork().call, CALLED),
    # No advice on layers is given for a graph.
    "out of forward": (lambda x: inner.forward(x, out=np.ones(2)), "out=; leave it out, and give"),
    "over lines": (over_lines, r"np\.median\( x \): "),
    "assignment": (with_an_attribute, r"the assignment to \.name of a value; use a new name"),
    "another recording": (
        lambda x: Graph(lambda y: y * x)(x),
        "a symbol of <lambda> is used while <lambda> is recorded; make",
    ),
}
# Where the fault lies in a method that the function calls.
ELSEWHERE = {
    "forward": Relu.forward,
    "layer of no base class": PlainAffine.forward,
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_line_and_the_way_out(name):
    function, message = REFUSED[name]
    with pytest.raises(TypeError, match=rf"^\w+\.py:\d+: .*{message}") as error:
        Graph(function)
    line = int(re.match(r"\w+\.py:(\d+)", str(error.value))[1])
    code = ELSEWHERE.get(name, function).__code__
    assert line in {one for *_, one in code.co_lines()}


def test_what_else_cannot_be_called_is_pythons_to_tell():
    number, wrapped = 3, [PlainDropout]
    with pytest.raises(TypeError, match=r"^'int' object is not callable$"):
        Graph(lambda x: number(x))
    with pytest.raises(TypeError, match=r"^'list' object is not callable$"):
        Graph(lambda x: wrapped(x))


def test_source_that_is_nowhere():
    names = {}
    exec("def function(x):\n    return bool(x)\n", names)
    with pytest.raises(TypeError, match=r"^<string>:2: a graph cannot record if, and"):
        Graph(names["function"])


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
    for use in (
        lambda: kept[0] * 2,
        lambda: -kept[0],
        lambda: MulLayer().forward(2, kept[0]),
        lambda: np.sum(kept[0], axis=0),
        lambda: kept[0].shape,
        lambda: len(kept[0]),
        lambda: list(kept[0]),
        lambda: kept[0][1:],
        lambda: Graph(lambda x: x * kept[0].shape[0])(np.ones(3)),
        lambda: Graph(keeping)(kept[0]),
    ):
        with pytest.raises(TypeError, match="a symbol of keeping is used after its graph was rec"):
            use()
    with pytest.raises(TypeError, match="a symbol of keeping is used after"):
        Graph(lambda x: x * kept[0])
    with pytest.raises(TypeError, match="must return a value that it computes"):
        Graph(lambda x: kept[0])


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


@pytest.mark.parametrize("operands", [(2.0, 3.0), (normal(5), normal(5, seed=1))])
def test_ways_to_call(implementation, operands):
    x, y = operands
    dout = normal(5, seed=2) if np.ndim(x) else 0.5
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
    assert described(graph(y=y, x=x)) == described(every[0][0])


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


DOUTS = {
    "of another length": (
        (2, 3),
        np.ones(4),
        ValueError,
        r"dout has shape \(4,\), but the value of",
    ),
    "of fewer axes": ((2, 3), np.ones(3), ValueError, r"dout has shape \(3,\), .* has \(2, 3\)"),
    "of more axes": ((2, 3), np.ones((1, 2, 3)), ValueError, r"dout has shape \(1, 2, 3\)"),
    "that broadcasts": ((2, 3), np.ones((1, 3)), ValueError, r"dout has shape \(1, 3\)"),
    "transposed": ((2, 3), np.ones((3, 2)), ValueError, r"dout has shape \(3, 2\)"),
    # A tuple is one gradient of one output.
    "a tuple of arrays": ((3,), (np.ones(3),) * 2, ValueError, r"dout has shape \(2, 3\), but the"),
    "one in a tuple": ((3,), (np.ones(3),), ValueError, r"dout has shape \(1, 3\), but the value"),
    "None": ((3,), None, TypeError, "dout must be an array or a number, not NoneType"),
    "text": ((3,), "1", TypeError, "dout must be an array or a number, not str"),
}
TWO_DOUTS = {
    "too few": ((1,), ValueError, "fans has 2 values, but 1 gradients are in dout"),
    "too many": ((1, 2, 3), ValueError, "fans has 2 values, but 3 gradients are in dout"),
    "of another length": (
        (np.ones(3), 1),
        ValueError,
        r"shape \(3,\), but the value of fans has \(4,",
    ),
    "of more axes": (
        (np.ones((2, 4)), 1),
        ValueError,
        r"dout has shape \(2, 4\), but the value",
    ),
    "text": (("one", 1), TypeError, "dout must be an array or a number, not str"),
    "an array": (
        np.ones(4),
        TypeError,
        "fans has 2 values: dout must be a tuple with one for",
    ),
}


@pytest.mark.parametrize("layout", ["C", "mapped"])
@pytest.mark.parametrize("name", DOUTS)
def test_wrong_dout(name, layout):
    shape, dout, error, text = DOUTS[name]
    graph, x, y = Graph(lambda x, y: x * y), normal(shape, layout=layout), normal(3, seed=1)
    graph.forward(x, y)
    for call in (graph.backward, lambda dout: graph.value_and_grad(x, y, dout=dout)):
        with pytest.raises(error, match=text):
            call(dout)
    assert graph.backward(1).y.shape == (3,)  # it works on


@pytest.mark.parametrize("name", TWO_DOUTS)
def test_wrong_douts_of_two_outputs(name):
    dout, error, text = TWO_DOUTS[name]
    with pytest.raises(error, match=text):
        Graph(fans).value_and_grad(np.ones(4), np.ones(4), dout=dout)
    with pytest.raises((TypeError, ValueError)):
        Graph(fans).value_and_grad(2.0, 3.0, dout=dout)


@pytest.mark.parametrize("dout", [[1.0, 2.0, 3.0], (1.0, 2.0, 3.0), np.float64(1), 1 + 0j])
def test_any_number_or_list_is_a_dout(dout):
    x, y = normal(3), normal(3, seed=1)
    gradients = Graph(lambda x, y: x * y).value_and_grad(x, y, dout=dout)[1]
    assert described(gradients.x) == described(np.array(dout) * y)


def test_none_among_objects_is_a_gradient_like_any(implementation):
    graph = implementation.Graph(lambda x: x * 2)
    graph.forward(np.array(1, object))
    with pytest.raises(TypeError, match="unsupported operand"):
        graph.backward(np.array(None))


def test_a_masked_array_is_copied_with_its_fill_value(implementation):
    x = np.ma.array(np.ones(3, "f2"))  # whose fill value is 1e20, too large for its dtype
    with np.errstate(all="raise"):
        same, twice = implementation.Graph(lambda x: (x, x * 2))(x)
    assert same is not x
    assert described([same, twice]) == described([x, x * 2])


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
    frame = Frame(normal((3, columns)))
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


# --------------------------------------------------------------------------------- looking, keeping
