"""`grad` and `value_and_grad`, which take functions as autograd and JAX do."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.optimize

from fastlayers import BaseLayer, Graph, grad, value_and_grad


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def rosenbrock(x):
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def squares(x):
    """Waits for the number of rows."""
    total = 0 * x[0]
    for row in x:
        total = total + row * row
    return total


def loss(params, x, target):
    return np.mean((x @ params["w"] + params["b"] - target) ** 2)


def line():
    return {"w": normal(3), "b": 0.5}, normal(4, 3), normal(4)


def test_value_and_gradient_are_those_of_the_graph():
    x = normal(6)
    value, gradient = value_and_grad(rosenbrock)(x)
    expected, gradients = Graph(rosenbrock).value_and_grad(x)
    assert value == expected == rosenbrock(x)
    assert type(gradient) is np.ndarray
    assert gradient.tobytes() == gradients.x.tobytes() == grad(rosenbrock)(x).tobytes()


def test_the_first_parameter_is_the_default():
    def product(x, y):
        return x * y

    assert value_and_grad(product)(2.0, 3.0) == (6.0, 3.0)
    assert grad(product)(2.0, 3.0) == 3.0
    assert value_and_grad(product, "y")(2.0, y=3.0) == (6.0, 2.0)
    assert grad(product, "y")(2.0, 3.0) == 2.0


def test_several_parameters():
    def product(x, y, z):
        return x * y * z

    value, gradients = value_and_grad(product, wrt=("z", "x"))(2.0, 3.0, 4.0)
    assert (value, gradients) == (24.0, (6.0, 12.0))
    assert gradients._fields == ("z", "x")
    assert value_and_grad(product, ["y"])(2.0, 3.0, 4.0)[1]._asdict() == {"y": 8.0}
    assert grad(product, "z", "x")(2.0, 3.0, 4.0) == (6.0, 12.0)


def test_trees():
    params, x, target = line()
    value, gradient = value_and_grad(loss)(params, x, target)
    off = x @ params["w"] + params["b"] - target
    assert value == loss(params, x, target)
    assert set(gradient) == {"w", "b"}
    np.testing.assert_allclose(gradient["w"], x.T @ off / 2, rtol=1e-12)
    np.testing.assert_allclose(gradient["b"], off.sum() / 2, rtol=1e-12)
    assert grad(loss)(params, x, target)["w"].tobytes() == gradient["w"].tobytes()
    _, gradients = value_and_grad(loss, ("params", "x"))(params, x, target=target)
    assert gradients.params["w"].tobytes() == gradient["w"].tobytes()
    assert gradients.x.shape == x.shape


def test_functions_that_wait_for_shapes():
    both, slope = value_and_grad(squares), grad(squares)
    for rows in (2, 5):
        x = normal(rows, 3)
        value, gradient = both(x)
        np.testing.assert_allclose(value, (x * x).sum(axis=0), rtol=1e-15)
        assert np.array_equal(gradient, 2 * x)
        assert np.array_equal(slope(x), 2 * x)
        assert np.array_equal(grad(slope)(x), np.full_like(x, 2))


def test_gradients_are_those_of_the_sum_of_all_values():
    x = normal(3)
    (double, square), gradient = value_and_grad(lambda x: (2 * x, x * x))(x)
    assert np.array_equal(double, 2 * x)
    assert np.array_equal(square, x * x)
    np.testing.assert_allclose(gradient, 2 + 2 * x, rtol=1e-15)


def test_derivatives_of_derivatives():
    cube = grad(grad(grad(lambda x: x**3)))
    assert cube(2.0) == 6.0
    x = np.ones(3)
    slope = grad(rosenbrock)
    hessian_times = grad(lambda x, v: np.sum(slope(x) * v))
    columns = [hessian_times(x, e) for e in np.eye(3)]
    assert np.array_equal(columns, [[802, -400, 0], [-400, 1002, -400], [0, -400, 200]])
    value, gradient = value_and_grad(slope)(x)
    assert np.array_equal(value, [0, 0, 0])
    assert np.array_equal(gradient, np.sum(columns, axis=0))


def test_in_a_graph():
    whole = Graph(lambda x: x * grad(lambda y: y * y)(x))
    assert whole(3.0) == 18.0
    assert grad(whole)(3.0) == 12.0


def test_functions_are_recorded_once():
    calls = []

    def square(x):
        calls.append(x)
        return x * x

    both, slope = value_and_grad(square), grad(square)
    for x in (1.0, 2.0, 3.0):
        assert both(x) == (x * x, 2 * x)
        assert slope(x) == 2 * x
    graph = Graph(square)
    assert len(calls) == 3
    assert value_and_grad(graph)(3.0) == (9.0, 6.0)
    assert grad(graph)(3.0) == 6.0
    assert len(calls) == 3


def test_as_decorators():
    @value_and_grad
    def both(x):
        return x * x

    @grad
    def slope(x):
        return x * x

    assert both(3.0) == (9.0, slope(3.0)) == (9.0, 6.0)


def test_parameters_with_names_of_options():
    def product(dout, wrt, out):
        return dout * wrt * out

    both = value_and_grad(product, "out")
    assert both(2.0, 3.0, 4.0) == both(2.0, out=4.0, wrt=3.0) == (24.0, 6.0)


# ------------------------------------------------------------------------------ scipy.optimize


@pytest.mark.parametrize("method", ["BFGS", "L-BFGS-B", "CG", "SLSQP"])
def test_minimize(method):
    found = scipy.optimize.minimize(
        value_and_grad(rosenbrock), [-1.2, 1, 0.5, -0.7], jac=True, method=method, tol=1e-10
    )
    np.testing.assert_allclose(found.x, np.ones(4), atol=1e-4)


def test_minimize_with_curvature():
    slope = grad(rosenbrock)
    product = grad(lambda x, v: np.sum(slope(x) * v))
    found = scipy.optimize.minimize(
        value_and_grad(rosenbrock), np.zeros(5), jac=True, hessp=product, method="trust-krylov"
    )
    assert found.success
    np.testing.assert_allclose(found.x, np.ones(5), atol=1e-6)


def test_minimize_with_operands_that_stay():
    x, target = normal(20, 3), normal(20)
    found = scipy.optimize.minimize(
        value_and_grad(lambda w, x, target: np.sum((x @ w - target) ** 2)),
        np.zeros(3),
        args=(x, target),
        jac=True,
    )
    np.testing.assert_allclose(found.x, np.linalg.lstsq(x, target)[0], atol=1e-5)


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("function", [rosenbrock, squares])
@pytest.mark.parametrize("wrt", ["y", ("x", "y"), 0])
def test_what_is_no_parameter(function, wrt):
    names = wrt if isinstance(wrt, tuple) else (wrt,)
    with pytest.raises(ValueError, match=f"has no parameter {names[-1]!r} .*; it has x"):
        value_and_grad(function, wrt)
    with pytest.raises(ValueError, match=f"has no parameter {names[-1]!r} .*; it has x"):
        grad(function, *names)


def test_operands_that_do_not_fit():
    for call in (value_and_grad(rosenbrock), grad(rosenbrock)):
        with pytest.raises(TypeError, match="missing: x"):
            call()
        with pytest.raises(TypeError, match="unexpected: y"):
            call(x=normal(3), y=2)


class Double(BaseLayer):
    def forward(self, x):
        return 2 * x

    def backward(self, dout):
        return 2 * dout


def test_layers_of_ones_own():
    def double(x):
        return Double()(x)

    assert value_and_grad(double)(3.0) == (6.0, 2.0)
    with pytest.raises(TypeError, match="Double"):
        grad(double)


def test_pickles_and_texts():
    both = value_and_grad(rosenbrock)
    assert repr(both) == "<value_and_grad of <Graph rosenbrock(x): 11 nodes> by x>"
    copied, x = pickle.loads(pickle.dumps(both)), normal(4)
    assert copied(x)[1].tobytes() == both(x)[1].tobytes()
    assert pickle.loads(pickle.dumps(value_and_grad(squares)))(x[:, None])[0].shape == (1,)
