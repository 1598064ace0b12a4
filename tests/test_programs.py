"""Programs as users write them, with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from fastlayers import Graph, gradcheck

RNG = np.random.default_rng(7)
normal = RNG.standard_normal


def close(found, expected, rtol=1e-12, atol=0.0):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def by_differences(function, x, step=1e-6):
    """The gradient of a function of one array whose value is a number."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[index] += step
        below[index] -= step
        gradient[index] = (function(above) - function(below)) / (2 * step)
    return gradient


# -------------------------------------------------------------------------------------- statistics


def test_logistic_regression():
    X, y = normal((50, 4)), RNG.integers(0, 2, 50)

    @Graph
    def loss(w):
        z = X @ w
        return np.mean(np.logaddexp(0, z) - y * z)

    w = normal(4)
    value, gradients = loss.value_and_grad(w)
    p = scipy.special.expit(X @ w)
    close(value, -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))
    close(gradients.w, X.T @ (p - y) / 50)

    # By probabilities, as in every first course.
    direct = Graph(
        lambda w: (
            -np.mean(
                y * np.log(1 / (1 + np.exp(-(X @ w))))
                + (1 - y) * np.log(1 - 1 / (1 + np.exp(-(X @ w))))
            )
        )
    )
    close(direct.value_and_grad(w)[1].w, gradients.w, rtol=1e-11)
    found = scipy.optimize.minimize(loss, w * 0, jac=loss.grad("w"))
    close(loss.value_and_grad(found.x)[1].w, 0, atol=1e-4)


def test_poisson_regression():
    X, counts = normal((40, 3)) / 2, RNG.poisson(2, 40)
    loss = Graph(lambda w, b: np.sum(np.exp(X @ w + b) - counts * (X @ w + b)))
    w, b = normal(3), 0.3
    gradients = loss.value_and_grad(w, b)[1]
    residuals = np.exp(X @ w + b) - counts
    close(gradients.w, X.T @ residuals)
    close(gradients.b, residuals.sum())


def test_gaussian_mixture():
    x = normal(30)

    @Graph
    def likelihood(means, logs, scales):
        weights = logs - np.max(logs)
        weights = weights - np.log(np.sum(np.exp(weights)))
        z = (x[:, None] - means) / scales
        terms = weights - 0.5 * z**2 - np.log(scales) - 0.5 * np.log(2 * np.pi)
        most = np.max(terms, axis=1, keepdims=True)
        return np.sum(most[:, 0] + np.log(np.sum(np.exp(terms - most), axis=1)))

    means, logs, scales = normal(3), normal(3), RNG.uniform(0.5, 2, 3)
    weights = np.exp(logs) / np.exp(logs).sum()
    densities = weights * scipy.stats.norm.pdf(x[:, None], means, scales)
    value, gradients = likelihood.value_and_grad(means, logs, scales)
    close(value, np.log(densities.sum(axis=1)).sum())
    shares = densities / densities.sum(axis=1, keepdims=True)
    z = (x[:, None] - means) / scales
    close(gradients.means, (shares * z / scales).sum(axis=0), atol=1e-12)
    close(gradients.scales, (shares * (z**2 - 1) / scales).sum(axis=0), atol=1e-12)
    close(gradients.logs, shares.sum(axis=0) - 30 * weights, rtol=1e-10)


def test_multivariate_normal_by_its_factor():
    x = normal((20, 3))

    def loss(mean, tril):
        factor = np.tril(tril)
        z = (x - mean) @ factor
        return 0.5 * np.sum(z * z) - 20 * np.sum(np.log(np.abs(np.diag(factor))))

    mean, tril = normal(3), normal((3, 3)) + 2 * np.eye(3)
    precision = np.tril(tril) @ np.tril(tril).T
    gradients = Graph(loss).value_and_grad(mean, tril)[1]
    close(gradients.mean, -(precision @ (x - mean).sum(axis=0)))
    assert gradcheck(Graph(loss), mean, tril)


# ------------------------------------------------------------------------------------ optimisation


@Graph
def rosenbrock(x):
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def test_rosenbrock():
    x = normal(7)
    close(rosenbrock(x), scipy.optimize.rosen(x))
    close(rosenbrock.value_and_grad(x)[1].x, scipy.optimize.rosen_der(x), rtol=1e-12, atol=1e-11)
    found = scipy.optimize.minimize(rosenbrock, np.zeros(5), jac=rosenbrock.grad("x"))
    close(found.x, 1, rtol=1e-5)


def test_hessian_vector_products():
    gradient = rosenbrock.grad("x")
    product = Graph(lambda x, v: np.sum(gradient(x) * v)).grad("x")
    x, v = normal(6), normal(6)
    close(product(x, v), scipy.optimize.rosen_hess(x) @ v, rtol=1e-11, atol=1e-10)
    found = scipy.optimize.minimize(
        rosenbrock, np.zeros(4), jac=gradient, hessp=product, method="Newton-CG"
    )
    close(found.x, 1, rtol=1e-3)


def test_newtons_method():
    """To the centre of log barriers, where the gradient is nothing."""
    A = normal((12, 3))
    barrier = Graph(lambda x: np.sum(x * x) - np.sum(np.log(4 - A @ x)))
    gradient = barrier.grad("x")
    row = Graph(lambda x, v: np.sum(gradient(x) * v)).grad("x")
    x = np.zeros(3)
    for _ in range(8):
        hessian = np.stack([row(x, one) for one in np.eye(3)])
        close(hessian, hessian.T, rtol=1e-12, atol=1e-13)
        x = x - np.linalg.solve(hessian, gradient(x))
    close(gradient(x), 0, atol=1e-13)


def test_newtons_method_of_one_number():
    cube = Graph(lambda x: x**3 / 3 - 2 * x)
    first, second = cube.grad("x"), cube.grad("x").grad("x")
    x = 2.0
    for _ in range(6):
        x = x - first(x) / second(x)
    assert x == pytest.approx(np.sqrt(2), rel=1e-15)


# ----------------------------------------------------------------------------------------- finance


def test_black_scholes_with_its_sensitivities():
    @Graph
    def call(spot, strike, rate, vol, time):
        spread = vol * np.sqrt(time)
        d1 = (np.log(spot / strike) + (rate + 0.5 * vol**2) * time) / spread
        d2 = d1 - spread
        discounted = strike * np.exp(-rate * time)
        return spot * scipy.special.ndtr(d1) - discounted * scipy.special.ndtr(d2)

    n = 9
    spot, strike = RNG.uniform(80, 120, n), RNG.uniform(80, 120, n)
    rate, vol, time = 0.03, RNG.uniform(0.1, 0.5, n), RNG.uniform(0.2, 2, n)
    spread = vol * np.sqrt(time)
    d1 = (np.log(spot / strike) + (rate + vol**2 / 2) * time) / spread
    d2 = d1 - spread
    cdf, pdf = scipy.stats.norm.cdf, scipy.stats.norm.pdf
    discount = np.exp(-rate * time)
    value, greeks = call.value_and_grad(spot, strike, rate, vol, time)
    close(value, spot * cdf(d1) - strike * discount * cdf(d2))
    close(greeks.spot, cdf(d1))
    close(greeks.strike, -discount * cdf(d2))
    close(greeks.rate, np.sum(strike * time * discount * cdf(d2)))
    close(greeks.vol, spot * pdf(d1) * np.sqrt(time), rtol=1e-10)
    theta = spot * pdf(d1) * vol / (2 * np.sqrt(time)) + rate * strike * discount * cdf(d2)
    close(greeks.time, theta, rtol=1e-10)
    gamma = call.grad("spot").grad("spot")(spot, strike, rate, vol, time)
    close(gamma, pdf(d1) / (spot * spread), rtol=1e-9)


# ----------------------------------------------------------------------------------------- physics


def test_pendulum_by_runge_and_kutta():
    """The period depends on the length; the energy's drift is small."""

    def rate(state, length):
        return np.stack([state[1], -9.81 / length * np.sin(state[0])])

    def end(start, length):
        state, step = start, 0.02
        for _ in range(40):
            a = rate(state, length)
            b = rate(state + step / 2 * a, length)
            c = rate(state + step / 2 * b, length)
            d = rate(state + step * c, length)
            state = state + step / 6 * (a + 2 * b + 2 * c + d)
        return state

    graph = Graph(end)
    start = np.array([0.4, 0.0])
    found = graph(start, 1.3)
    np.testing.assert_array_equal(found, end(start, 1.3))

    def energy(state):
        return 0.5 * state[1] ** 2 - 9.81 / 1.3 * np.cos(state[0])

    assert energy(found) == pytest.approx(energy(start), rel=1e-7)
    assert gradcheck(graph, start, 1.3, rtol=1e-7)


def test_pendulum_by_euler_in_place():
    def path(angle, speed):
        angles = np.zeros_like(np.zeros(30) * angle)
        for i in range(30):
            speed = speed - 0.05 * 9.81 * np.sin(angle)
            angle = angle + 0.05 * speed
            angles[i] = angle
        return angles

    graph = Graph(path)
    np.testing.assert_array_equal(graph(0.5, 0.1), path(0.5, 0.1))
    assert gradcheck(graph, 0.5, 0.1, rtol=1e-6)


def heat(u, conductivity):
    """Explicit steps of finite differences, with the ends held."""
    u = u.copy()
    for _ in range(12):
        u[1:-1] += 0.2 * conductivity * (u[2:] - 2 * u[1:-1] + u[:-2])
    return u


def test_heat_equation():
    measured = normal(20)
    loss = Graph(lambda u, k: np.sum((heat(u, k) - measured) ** 2))
    u, k = normal(20), RNG.uniform(0.5, 1.0, 18)
    assert loss(u, k) == np.sum((heat(u, k) - measured) ** 2)
    gradients = loss.value_and_grad(u, k)[1]
    close(gradients.k, by_differences(lambda k: loss(u, k), k), rtol=1e-6, atol=1e-7)
    # Linear in u: the adjoint is the transposed matrix of the steps.
    matrix = np.stack([heat(one, k) for one in np.eye(20)], axis=1)
    close(gradients.u, 2 * matrix.T @ (heat(u, k) - measured), rtol=1e-12, atol=1e-13)


def test_heat_equation_on_a_plane():
    def step(u, source):
        laplacian = u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * u[1:-1, 1:-1]
        new = u.copy()
        new[1:-1, 1:-1] = u[1:-1, 1:-1] + 0.2 * laplacian + source
        return new

    def last(u, source):
        for _ in range(5):
            u = step(u, source)
        return u

    u, source = normal((6, 7)), normal((4, 5))
    np.testing.assert_array_equal(Graph(last)(u, source), last(u, source))
    assert gradcheck(Graph(last), u, source)


def test_lennard_jones():
    def energy(x):
        difference = x[:, None] - x[None]
        square = np.sum(difference * difference, axis=-1) + np.eye(len(x))
        sixth = 1 / square**3
        pairs = 4 * (sixth**2 - sixth)
        return 0.5 * np.sum(pairs * (1 - np.eye(len(x))))

    x = np.stack(np.meshgrid([0, 1.1], [0, 1.2], [0, 1.3]), axis=-1).reshape(-1, 3)
    x = x + 0.05 * normal(x.shape)
    graph = Graph(energy)
    forces = -graph.value_and_grad(x)[1].x
    close(forces.sum(axis=0), 0, atol=1e-11)
    close(forces, -by_differences(energy, x), rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------------- neural networks


def softmax_cross_entropy(x, labels):
    x = x - np.max(x, axis=1, keepdims=True)
    logs = x - np.log(np.sum(np.exp(x), axis=1, keepdims=True))
    return -np.mean(logs[np.arange(len(labels)), labels])


def test_softmax_cross_entropy():
    x, labels = normal((6, 4)) * 3, RNG.integers(0, 4, 6)
    value, gradients = Graph(softmax_cross_entropy).value_and_grad(x, labels, wrt="x")
    p = scipy.special.softmax(x, axis=1)
    close(value, -np.log(p[np.arange(6), labels]).mean())
    close(gradients.x, (p - np.eye(4)[labels]) / 6, atol=1e-16)
    assert np.shape(Graph(softmax_cross_entropy).value_and_grad(x, labels)[1].labels) == (6,)


def test_hessian_of_softmax_cross_entropy():
    x, labels = normal((1, 4)), np.array([2])
    gradient = Graph(softmax_cross_entropy).grad("x")
    row = Graph(lambda x, v: np.sum(gradient(x, labels) * v)).grad("x")
    p = scipy.special.softmax(x[0])
    hessian = np.stack([row(x, one[None])[0] for one in np.eye(4)])
    close(hessian, np.diag(p) - np.outer(p, p), rtol=1e-13, atol=1e-16)


def layer_norm(x, gamma, beta):
    mean = np.mean(x, axis=-1, keepdims=True)
    scale = np.sqrt(np.var(x, axis=-1, keepdims=True) + 1e-5)
    return gamma * (x - mean) / scale + beta


def batch_norm(x, gamma, beta):
    centred = x - x.mean(axis=0)
    return gamma * (centred / np.sqrt(np.mean(centred**2, axis=0) + 1e-5)) + beta


def normalised_backward(x, gamma, dout, axis):
    """By hand."""
    mean = x.mean(axis, keepdims=True)
    scale = np.sqrt(x.var(axis, keepdims=True) + 1e-5)
    normalised = (x - mean) / scale
    dn = dout * gamma
    inner = dn - dn.mean(axis, keepdims=True)
    inner -= normalised * np.mean(dn * normalised, axis, keepdims=True)
    return inner / scale, np.sum(dout * normalised, 0), np.sum(dout, 0)


@pytest.mark.parametrize(("layer", "axis"), [(layer_norm, -1), (batch_norm, 0)])
def test_normalisation(layer, axis):
    x, gamma, beta, dout = normal((8, 5)), normal(5), normal(5), normal((8, 5))
    value, gradients = Graph(layer).value_and_grad(x, gamma, beta, dout=dout)
    np.testing.assert_array_equal(value, layer(x, gamma, beta))
    for found, expected in zip(gradients, normalised_backward(x, gamma, dout, axis), strict=True):
        close(found, expected, rtol=1e-10, atol=1e-13)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, h, c, Wx, Wh, b):
    H = h.shape[1]
    A = x @ Wx + h @ Wh + b
    f, g = sigmoid(A[:, :H]), np.tanh(A[:, H : 2 * H])
    i, o = sigmoid(A[:, 2 * H : 3 * H]), sigmoid(A[:, 3 * H :])
    c = f * c + g * i
    return o * np.tanh(c), c


def lstm_backward(x, h, c, Wx, Wh, b, dh_next, dc_next):
    """As *Deep Learning from Scratch 2* has it."""
    H = h.shape[1]
    A = x @ Wx + h @ Wh + b
    f, g = sigmoid(A[:, :H]), np.tanh(A[:, H : 2 * H])
    i, o = sigmoid(A[:, 2 * H : 3 * H]), sigmoid(A[:, 3 * H :])
    tanh_c_next = np.tanh(f * c + g * i)
    ds = dc_next + (dh_next * o) * (1 - tanh_c_next**2)
    di, df, do, dg = ds * g, ds * c, dh_next * tanh_c_next, ds * i
    di, df, do, dg = di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dg * (1 - g**2)
    dA = np.hstack((df, dg, di, do))
    return dA @ Wx.T, dA @ Wh.T, ds * f, x.T @ dA, h.T @ dA, dA.sum(axis=0)


def test_lstm():
    N, D, H = 4, 3, 5
    operands = normal((N, D)), normal((N, H)), normal((N, H)), normal((D, 4 * H))
    operands += normal((H, 4 * H)), normal(4 * H)
    douts = normal((N, H)), normal((N, H))
    graph = Graph(lstm)
    value, gradients = graph.value_and_grad(*operands, dout=douts)
    for found, expected in zip(value, lstm(*operands), strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(gradients, lstm_backward(*operands, *douts), strict=True):
        close(found, expected, rtol=1e-11, atol=1e-13)


def test_lstm_over_time():
    N, T, D, H = 2, 4, 3, 4

    def unrolled(xs, Wx, Wh, b):
        h = c = np.zeros((N, H))
        hs = []
        for x in xs:
            h, c = lstm(x, h, c, Wx, Wh, b)
            hs.append(h)
        return np.stack(hs, axis=1)

    operands = normal((T, N, D)), normal((D, 4 * H)), normal((H, 4 * H)), normal(4 * H)
    graph = Graph(unrolled)
    np.testing.assert_array_equal(graph(*operands), unrolled(*operands))
    assert gradcheck(graph, *operands)


def test_gru():
    def gru(x, h, Wx, Wh, b):
        H = h.shape[1]
        z = sigmoid(x @ Wx[:, :H] + h @ Wh[:, :H] + b[:H])
        r = sigmoid(x @ Wx[:, H : 2 * H] + h @ Wh[:, H : 2 * H] + b[H : 2 * H])
        h_hat = np.tanh(x @ Wx[:, 2 * H :] + (r * h) @ Wh[:, 2 * H :] + b[2 * H :])
        return (1 - z) * h + z * h_hat

    def gru_backward(x, h, Wx, Wh, b, dh_next):
        H = h.shape[1]
        Wxz, Wxr, Wxh = Wx[:, :H], Wx[:, H : 2 * H], Wx[:, 2 * H :]
        Whz, Whr, Whh = Wh[:, :H], Wh[:, H : 2 * H], Wh[:, 2 * H :]
        z = sigmoid(x @ Wxz + h @ Whz + b[:H])
        r = sigmoid(x @ Wxr + h @ Whr + b[H : 2 * H])
        h_hat = np.tanh(x @ Wxh + (r * h) @ Whh + b[2 * H :])
        dh_hat, dh = dh_next * z, dh_next * (1 - z)
        dt = dh_hat * (1 - h_hat**2)
        dhr = dt @ Whh.T
        dh = dh + r * dhr
        dz = (dh_next * h_hat - dh_next * h) * z * (1 - z)
        dr = dhr * h * r * (1 - r)
        dh = dh + dz @ Whz.T + dr @ Whr.T
        dx = dt @ Wxh.T + dz @ Wxz.T + dr @ Wxr.T
        dWx = np.hstack((x.T @ dz, x.T @ dr, x.T @ dt))
        dWh = np.hstack((h.T @ dz, h.T @ dr, (r * h).T @ dt))
        return dx, dh, dWx, dWh, np.hstack((dz.sum(0), dr.sum(0), dt.sum(0)))

    N, D, H = 4, 3, 5
    operands = normal((N, D)), normal((N, H)), normal((D, 3 * H)), normal((H, 3 * H)), normal(3 * H)
    dout = normal((N, H))
    value, gradients = Graph(gru).value_and_grad(*operands, dout=dout)
    np.testing.assert_array_equal(value, gru(*operands))
    for found, expected in zip(gradients, gru_backward(*operands, dout), strict=True):
        close(found, expected, rtol=1e-10, atol=1e-12)


def test_attention():
    def attention(q, k, v):
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(k.shape[-1])
        scores = np.where(np.tril(np.ones(scores.shape)) > 0, scores, -1e9)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True) @ v

    operands = normal((2, 4, 3)), normal((2, 4, 3)), normal((2, 4, 5))
    np.testing.assert_array_equal(Graph(attention)(*operands), attention(*operands))
    assert gradcheck(Graph(attention), *operands)


def test_convolution_by_columns():
    """`im2col`, as the first of the books has it: by indices."""
    rows, columns = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
    r = rows.ravel()[:, None] + np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    c = columns.ravel()[:, None] + np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])

    def convolution(x, w, b):
        patches = x[:, r, c]
        return (patches @ w.reshape(9, 2) + b).transpose(0, 2, 1).reshape(-1, 2, 4, 4)

    x, w, b = normal((3, 6, 6)), normal((3, 3, 2)), normal(2)
    found = Graph(convolution)(x, w, b)
    expected = sum(
        x[:, None, i : i + 4, j : j + 4] * w[i, j][:, None, None]
        for i in range(3)
        for j in range(3)
    )
    close(found, expected + b[:, None, None], rtol=1e-12, atol=1e-13)
    assert gradcheck(Graph(convolution), x, w, b)


# ----------------------------------------------------------------------------- layers of both books

BOOKS = {
    # a graph in a line, and the backward that the books write for it
    "Relu": (
        lambda x: np.maximum(x, 0),
        lambda dout, x: (np.where(x <= 0, 0, dout),),
        (normal((4, 3)),),
    ),
    "Sigmoid": (
        lambda x: 1 / (1 + np.exp(-x)),
        lambda dout, x: (dout * (1 - sigmoid(x)) * sigmoid(x),),
        (normal((4, 3)),),
    ),
    "Affine": (
        lambda x, W, b: x @ W + b,
        lambda dout, x, W, b: (dout @ W.T, x.T @ dout, dout.sum(axis=0)),
        (normal((4, 3)), normal((3, 5)), normal(5)),
    ),
    "Affine by np.dot": (
        lambda x, W, b: np.dot(x.reshape(x.shape[0], -1), W) + b,
        lambda dout, x, W, b: (
            (dout @ W.T).reshape(x.shape),
            x.reshape(4, -1).T @ dout,
            dout.sum(axis=0),
        ),
        (normal((4, 2, 3)), normal((6, 5)), normal(5)),
    ),
    "MatMul": (
        lambda x, W: x @ W,
        lambda dout, x, W: (dout @ W.T, x.T @ dout),
        (normal((4, 3)), normal((3, 5))),
    ),
    "Softmax": (
        lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True),
        lambda dout, x: (softmax(x) * (dout - np.sum(dout * softmax(x), axis=1, keepdims=True)),),
        (normal((4, 3)),),
    ),
    "Embedding": (
        lambda W: W[[0, 2, 0]],
        lambda dout, W: (np.stack([dout[0] + dout[2], 0 * dout[0], dout[1]]),),
        (normal((3, 4)),),
    ),
    "Tanh": (
        lambda x: np.tanh(x),
        lambda dout, x: (dout * (1 - np.tanh(x) ** 2),),
        (normal((4, 3)),),
    ),
    "Dropout": (
        lambda x: x * (np.arange(12).reshape(4, 3) % 3 > 0),
        lambda dout, x: (dout * (np.arange(12).reshape(4, 3) % 3 > 0),),
        (normal((4, 3)),),
    ),
    "Repeat": (
        lambda x: np.repeat(x, 7, axis=0),
        lambda dout, x: (np.sum(dout, axis=0, keepdims=True),),
        (normal((1, 8)),),
    ),
    "Sum": (
        lambda x: np.sum(x, axis=0, keepdims=True),
        lambda dout, x: (np.repeat(dout, 7, axis=0),),
        (normal((7, 8)),),
    ),
    "WeightSum": (
        lambda hs, a: np.sum(hs * a.reshape(2, 5, 1), axis=1),
        lambda dout, hs, a: (
            dout[:, None] * a[..., None],
            np.sum(dout[:, None] * hs, axis=2),
        ),
        (normal((2, 5, 4)), normal((2, 5))),
    ),
}


def softmax(x):
    return scipy.special.softmax(x, axis=1)


@pytest.mark.parametrize("name", BOOKS)
def test_layers_of_both_books(name):
    function, backward, operands = BOOKS[name]
    graph = Graph(function)
    value = graph.forward(*operands)
    np.testing.assert_array_equal(value, function(*operands))
    dout = normal(value.shape)
    for found, expected in zip(graph.backward(dout), backward(dout, *operands), strict=True):
        close(found, expected, rtol=1e-12, atol=1e-14)


def test_softmax_with_loss_of_one_hot_labels():
    graph = Graph(
        lambda x, t: (
            -np.sum(t * np.log(np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) + 1e-7))
            / x.shape[0]
        )
    )
    x, t = normal((5, 3)), np.eye(3)[[0, 2, 1, 1, 0]]
    close(graph.value_and_grad(x, t)[1].x, (softmax(x) - t) / 5, rtol=1e-4, atol=1e-7)


def test_two_layer_net_learns():
    """The first book's, with its gradients from a graph: a tree of weights as a dict."""

    def loss(params, x, t):
        hidden = sigmoid(x @ params["W1"] + params["b1"])
        return softmax_cross_entropy(hidden @ params["W2"] + params["b2"], t)

    def backward(params, x, t):
        hidden = sigmoid(x @ params["W1"] + params["b1"])
        dy = (softmax(hidden @ params["W2"] + params["b2"]) - np.eye(3)[t]) / len(t)
        da = dy @ params["W2"].T * hidden * (1 - hidden)
        return {"W1": x.T @ da, "b1": da.sum(0), "W2": hidden.T @ dy, "b2": dy.sum(0)}

    params = {"W1": normal((2, 8)), "b1": np.zeros(8), "W2": normal((8, 3)), "b2": np.zeros(3)}
    t = RNG.integers(0, 3, 60)
    x = np.eye(3, 2)[t] * 3 + normal((60, 2)) * 0.3
    graph = Graph(loss)
    before = graph(params, x, t)
    for _ in range(60):
        value, (gradients,) = graph.value_and_grad(params, x, t, wrt="params")
        for key, expected in backward(params, x, t).items():
            close(gradients[key], expected, rtol=1e-9, atol=1e-13)
            params[key] = params[key] - 1.0 * gradients[key]
    assert value < before / 5


# -------------------------------------------------------------------------------------- optimisers

OPTIMISERS = {
    "Momentum": lambda w, g, v: (w + (0.9 * v - 0.01 * g), 0.9 * v - 0.01 * g),
    "AdaGrad": lambda w, g, h: (w - 0.01 * g / (np.sqrt(h + g * g) + 1e-7), h + g * g),
    "RMSprop": lambda w, g, h: (
        w - 0.01 * g / (np.sqrt(0.99 * h + (1 - 0.99) * g * g) + 1e-7),
        0.99 * h + (1 - 0.99) * g * g,
    ),
}


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_updates_of_optimisers(name, dtype):
    update = OPTIMISERS[name]
    graph = Graph(update)
    w, state = normal(1000).astype(dtype), np.zeros(1000, dtype)
    expected = w.copy(), state.copy()
    for _ in range(5):
        g = normal(1000).astype(dtype)
        expected = update(expected[0], g, expected[1])
        graph(w, g, state, out=(w, state))  # in place
        for found, one in zip((w, state), expected, strict=True):
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, one)


@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_adam(dtype):
    def adam(w, g, m, v, t):
        rate = 0.001 * np.sqrt(1.0 - 0.999**t) / (1.0 - 0.9**t)
        m = m + (1 - 0.9) * (g - m)
        v = v + (1 - 0.999) * (g**2 - v)
        return w - rate * m / (np.sqrt(v) + 1e-7), m, v

    graph = Graph(adam)
    w, m, v = normal(500).astype(dtype), np.zeros(500, dtype), np.zeros(500, dtype)
    expected = w.copy(), m.copy(), v.copy()
    for t in range(1, 6):
        g = normal(500).astype(dtype)
        expected = adam(expected[0], g, expected[1], expected[2], t)
        w, m, v = graph(w, g, m, v, t)
        for found, one in zip((w, m, v), expected, strict=True):
            assert found.dtype == one.dtype
            np.testing.assert_array_equal(found, one)


def test_gradients_through_an_optimiser():
    """By the learning rate: a hypergradient."""
    X, y = normal((20, 3)), normal(20)
    loss = Graph(lambda w: np.mean((X @ w - y) ** 2))
    gradient = loss.grad("w")

    def trained(rate, w):
        for _ in range(4):
            w = w - rate * gradient(w)
        return loss(w)

    w, rate = normal(3), 0.1
    found = Graph(trained).value_and_grad(rate, w)[1].rate
    step = 1e-6
    expected = (trained(rate + step, w) - trained(rate - step, w)) / (2 * step)
    assert found == pytest.approx(expected, rel=1e-7)


# ------------------------------------------------------------------------------- other programs


def test_gelu_and_swish():
    gelu = Graph(lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
    exact = Graph(lambda x: 0.5 * x * (1 + scipy.special.erf(x / np.sqrt(2))))
    swish = Graph(lambda x: x / (1 + np.exp(-x)))
    x = np.linspace(-4, 4, 41)
    cdf, pdf = scipy.stats.norm.cdf, scipy.stats.norm.pdf
    close(exact.value_and_grad(x)[1].x, cdf(x) + x * pdf(x), rtol=1e-10, atol=1e-15)
    close(gelu.value_and_grad(x)[1].x, cdf(x) + x * pdf(x), atol=2e-3)
    s = sigmoid(x)
    close(swish.value_and_grad(x)[1].x, s + x * s * (1 - s), rtol=1e-12, atol=1e-15)


def test_huber_and_pinball_losses():
    residual = np.array([-3.0, -0.5, 0.0, 0.5, 3.0])
    huber = Graph(lambda r: np.where(abs(r) <= 1, 0.5 * r**2, abs(r) - 0.5))
    assert huber.value_and_grad(residual)[1].r.tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    pinball = Graph(lambda r: np.maximum(0.9 * r, -0.1 * r))
    found = pinball.value_and_grad(residual)[1].r
    close(found, [-0.1, -0.1, 0.4, 0.9, 0.9], rtol=1e-15)


def test_pairwise_distances_and_kernels():
    def kernel(X, scale):
        squares = np.sum(X**2, axis=1)
        distances = squares[:, None] + squares[None, :] - 2 * X @ X.T
        return np.exp(-distances / (2 * scale**2))

    X = normal((5, 3))
    assert gradcheck(Graph(kernel), X, 0.7)
    direct = np.exp(-np.sum((X[:, None] - X) ** 2, -1) / (2 * 0.7**2))
    close(Graph(kernel)(X, 0.7), direct, rtol=1e-12)


def test_polynomials_by_horners_rule():
    def polynomial(coefficients, x):
        value = 0 * x
        for one in coefficients[::-1]:
            value = value * x + one
        return value

    c, x = normal(6), normal(9)
    value, gradients = Graph(polynomial).value_and_grad(c, x)
    close(value, np.polynomial.polynomial.polyval(x, c), rtol=1e-13)
    close(gradients.x, np.polynomial.polynomial.polyval(x, np.arange(1, 6) * c[1:]), rtol=1e-12)
    close(gradients[0], np.vander(x, 6, increasing=True).sum(axis=0), rtol=1e-12)


def test_total_variation():
    def variation(image):
        down, right = np.diff(image, axis=0)[:, :-1], np.diff(image, axis=1)[:-1]
        return np.sum(np.sqrt(down**2 + right**2 + 1e-8))

    image = normal((6, 7))
    assert gradcheck(Graph(variation), image)


def test_matrix_factorisation():
    R, known = normal((6, 5)), RNG.integers(0, 2, (6, 5))

    def loss(U, V):
        error = known * (R - U @ V.T)
        return np.sum(error**2) + 0.1 * (np.linalg.norm(U) ** 2 + np.linalg.norm(V) ** 2)

    U, V = normal((6, 2)), normal((5, 2))
    gradients = Graph(loss).value_and_grad(U, V)[1]
    error = known * (R - U @ V.T)
    close(gradients.U, -2 * error @ V + 0.2 * U, rtol=1e-12, atol=1e-13)
    close(gradients.V, -2 * error.T @ U + 0.2 * V, rtol=1e-12, atol=1e-13)
