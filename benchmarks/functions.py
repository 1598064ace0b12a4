"""Functions and networks in plain NumPy, and by hand: the value, and the gradients that are wanted,
of the sum of the value.

By hand is what a good NumPy programmer writes: derivatives from the textbook, values used again,
and written into arrays of one's own once these are not needed any more. cases.py says what operands
they are given. Contestants may load this file with another library under the name of np.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

try:
    from scipy.special import erf
except ImportError:
    erf = None  # cases.py leaves out what calls it

# Element by element.


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def sigmoid_by_hand(x: Any) -> Any:
    e = np.exp(-x)
    e += 1
    return np.divide(1, e, out=e)


def lstm(f: Any, g: Any, i: Any, o: Any, c: Any) -> Any:
    """The cell's new state and output, of what its gates are computed of and the last state."""
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return c, sigmoid(o) * np.tanh(c)


def lstm_by_hand(f: Any, g: Any, i: Any, o: Any, c: Any) -> Any:
    f, i, o, g = sigmoid_by_hand(f), sigmoid_by_hand(i), sigmoid_by_hand(o), np.tanh(g)
    state = f * c
    state += i * g
    t = np.tanh(state)
    h = o * t
    dstate = t * t
    np.subtract(1, dstate, out=dstate)
    dstate *= o
    dstate += 1
    df = dstate * c
    dc = dstate * f
    df *= f
    df *= np.subtract(1, f, out=f)
    dg = g * g
    np.subtract(1, dg, out=dg)
    dg *= i
    dg *= dstate
    di = dstate
    di *= g
    di *= i
    di *= np.subtract(1, i, out=i)
    do = h * np.subtract(1, o, out=o)
    return (state, h), (df, dg, di, do, dc)


ROOT = math.sqrt(2 / math.pi)


def gelu(x: Any) -> Any:
    """The form with tanh."""
    return 0.5 * x * (1 + np.tanh(ROOT * (x + 0.044715 * x * x * x)))


def gelu_by_hand(x: Any) -> Any:
    square = x * x
    t = 0.044715 * square
    t += 1
    t *= x
    t *= ROOT
    np.tanh(t, out=t)
    slope = square
    slope *= 3 * 0.044715 * ROOT
    slope += ROOT
    slope *= x
    slope *= 1 - t
    slope += 1
    t += 1
    t *= 0.5
    slope *= t
    t *= x
    return t, (slope,)


def swish(x: Any) -> Any:
    return x / (1 + np.exp(-x))


def swish_by_hand(x: Any) -> Any:
    s = sigmoid_by_hand(x)
    value = x * s
    dx = 1 - s
    dx *= value
    dx += s
    return value, (dx,)


def logistic(x: Any, t: Any) -> Any:
    """The loss of scores x, of which t says whether they should be large."""
    return np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))


def logistic_by_hand(x: Any, t: Any) -> Any:
    e = np.abs(x)
    np.negative(e, out=e)
    np.exp(e, out=e)
    value = np.maximum(x, 0)
    value -= x * t
    value += np.log1p(e)
    dx = np.where(x >= 0, 1, e)
    e += 1
    dx /= e
    dx -= t
    return value, (dx,)


def softplus(x: Any) -> Any:
    return np.logaddexp(x, 0)


def softplus_by_hand(x: Any) -> Any:
    value = np.logaddexp(x, 0)
    dx = x - value
    return value, (np.exp(dx, out=dx),)


def huber(x: Any, t: Any) -> Any:
    d = x - t
    size = np.abs(d)
    return np.where(size <= 1, 0.5 * d * d, size - 0.5)


def huber_by_hand(x: Any, t: Any) -> Any:
    d = x - t
    dx = np.clip(d, -1, 1)
    d -= 0.5 * dx
    d *= dx
    return d, (dx,)


def distance(x: Any, y: Any, z: Any) -> Any:
    return np.sqrt(x * x + y * y + z * z)


def distance_by_hand(x: Any, y: Any, z: Any) -> Any:
    r = x * x
    r += y * y
    r += z * z
    np.sqrt(r, out=r)
    return r, (x / r, y / r, z / r)


def relu_gate(x: Any, gate: Any) -> Any:
    return np.maximum(x, 0) * gate


def relu_gate_by_hand(x: Any, gate: Any) -> Any:
    dgate = np.maximum(x, 0)
    return dgate * gate, (gate * (x > 0), dgate)


def normal(x: Any) -> Any:
    return 0.5 + 0.5 * erf(x * math.sqrt(0.5))


def normal_by_hand(x: Any) -> Any:
    value = x * math.sqrt(0.5)
    erf(value, out=value)
    value *= 0.5
    value += 0.5
    return value


def black_scholes(s: Any, k: Any, t: Any, r: Any, sigma: Any) -> Any:
    """The price of a call, of the stock's, the strike, the time left, the rate and volatility."""
    spread = sigma * np.sqrt(t)
    d = (np.log(s / k) + (r + 0.5 * sigma * sigma) * t) / spread
    return s * normal(d) - k * np.exp(-r * t) * normal(d - spread)


def black_scholes_by_hand(s: Any, k: Any, t: Any, r: Any, sigma: Any) -> Any:
    """All sensitivities by s * density(d) = k * exp(-r*t) * density(d - spread)."""
    root = np.sqrt(t)
    spread = sigma * root
    d = s / k
    np.log(d, out=d)
    d += (r + 0.5 * sigma * sigma) * t
    d /= spread
    ds, dk = normal_by_hand(d), np.exp(-r * t)
    dk *= normal_by_hand(np.subtract(d, spread, out=spread))
    rest = k * dk
    np.negative(dk, out=dk)
    value = s * ds
    value -= rest
    dsigma = d * d
    dsigma *= -0.5
    np.exp(dsigma, out=dsigma)
    dsigma *= math.sqrt(0.5 / math.pi)
    dsigma *= s
    dt = 0.5 * sigma
    dt *= dsigma
    dt /= root
    dt += r * rest
    dsigma *= root
    rest *= t
    return value, (ds, dk, dt, rest, dsigma)


def lennard_jones(x: Any, y: Any, z: Any) -> Any:
    """The energy of two atoms that lie so far apart."""
    square = x * x + y * y + z * z
    s = 1 / (square * square * square)
    return 4 * (s * s - s)


def lennard_jones_by_hand(x: Any, y: Any, z: Any) -> Any:
    inverse = x * x
    inverse += y * y
    inverse += z * z
    np.divide(1, inverse, out=inverse)
    s = inverse * inverse
    s *= inverse
    slope = -48 * s
    slope += 24
    slope *= s
    slope *= inverse
    value = s * s
    value -= s
    value *= 4
    return value, (slope * x, slope * y, slope * z)


def adam(w: Any, m: Any, v: Any, g: Any) -> Any:
    """The whole update, of step 10."""
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * (g * g)
    step = m / (1 - 0.9**10) / (np.sqrt(v / (1 - 0.999**10)) + 1e-8)
    return w - 0.001 * step, m, v


def adam_by_hand(w: Any, m: Any, v: Any, g: Any) -> Any:
    m *= 0.9
    step = 0.1 * g
    m += step
    v *= 0.999
    np.multiply(g, g, out=step)
    step *= 0.001
    v += step
    np.multiply(v, 1 / (1 - 0.999**10), out=step)
    np.sqrt(step, out=step)
    step += 1e-8
    np.divide(m, step, out=step)
    step *= 0.001 / (1 - 0.9**10)
    w -= step
    return w, m, v


# By rows, and sums over all.


def cross_entropy(x: Any, t: Any) -> Any:
    """The mean loss of rows of scores, after softmax; t has a one in each row."""
    x = x - np.max(x, axis=1, keepdims=True)
    return -np.sum(t * (x - np.log(np.sum(np.exp(x), axis=1, keepdims=True)))) / x.shape[0]


def cross_entropy_by_hand(x: Any, t: Any) -> Any:
    x = x - np.max(x, axis=1, keepdims=True)
    e = np.exp(x)
    sums = np.sum(e, axis=1, keepdims=True)
    x -= np.log(sums)
    x *= t
    value = -np.sum(x) / len(x)
    e /= sums
    e -= t
    e /= len(e)
    return value, (e,)


def layer_norm(x: Any, gamma: Any, beta: Any) -> Any:
    x = x - np.mean(x, axis=1, keepdims=True)
    return gamma * (x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + 1e-5)) + beta


def layer_norm_by_hand(dout: Any, x: Any, gamma: Any, beta: Any) -> Any:
    x = x - np.mean(x, axis=1, keepdims=True)
    work = x * x
    inverse = 1 / np.sqrt(np.mean(work, axis=1, keepdims=True) + 1e-5)
    x *= inverse
    value = gamma * x
    value += beta
    dgamma = np.sum(np.multiply(dout, x, out=work), axis=0)
    dx = dout * gamma
    np.multiply(dx, x, out=work)
    x *= np.mean(work, axis=1, keepdims=True)
    x += np.mean(dx, axis=1, keepdims=True)
    dx -= x
    dx *= inverse
    return value, (dx, dgamma, np.sum(dout, axis=0))


def mean_square(x: Any, t: Any) -> Any:
    return np.mean((x - t) ** 2)


def mean_square_by_hand(x: Any, t: Any) -> Any:
    d = x - t
    value = np.mean(d * d)
    d *= 2 / d.size
    return value, (d,)


def summed_logistic(x: Any, t: Any) -> Any:
    return np.sum(logistic(x, t))


def summed_logistic_by_hand(x: Any, t: Any) -> Any:
    value, gradients = logistic_by_hand(x, t)
    return np.sum(value), gradients


# Networks and models.


def network(x: Any, t: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any) -> Any:
    hidden = np.maximum(x @ w1 + b1, 0)
    hidden = np.maximum(hidden @ w2 + b2, 0)
    return cross_entropy(hidden @ w3 + b3, t)


def network_by_hand(x: Any, t: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any) -> Any:
    first = x @ w1
    first += b1
    np.maximum(first, 0, out=first)
    second = first @ w2
    second += b2
    np.maximum(second, 0, out=second)
    scores = second @ w3
    scores += b3
    value, (d3,) = cross_entropy_by_hand(scores, t)
    d2 = d3 @ w3.T
    d2 *= second > 0
    d1 = d2 @ w2.T
    d1 *= first > 0
    layers = (x, d1), (first, d2), (second, d3)
    return value, tuple(one for x, d in layers for one in (x.T @ d, np.sum(d, axis=0)))


def rosenbrock(x: Any) -> Any:
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rosenbrock_by_hand(x: Any) -> Any:
    left = x[:-1]
    d = x[1:] - left * left
    rest = 1 - left
    value = 100 * (d @ d) + rest @ rest
    dx = np.empty_like(x)
    d *= 200
    dx[0], dx[1:] = 0, d
    d *= left
    d += rest
    d *= 2
    dx[:-1] -= d
    return value, (dx,)


def mixture(x: Any, y: Any, mx: Any, my: Any, spread: Any, weight: Any) -> Any:
    """The log likelihood of points in a plane, but for a constant: spread and weight are logs."""
    dx, dy = x[:, None] - mx, y[:, None] - my
    q = weight - 0.5 * (dx * dx + dy * dy) * np.exp(-2 * spread) - 2 * spread
    top = np.max(q, axis=1, keepdims=True)
    return np.sum(top + np.log(np.sum(np.exp(q - top), axis=1, keepdims=True)))


def mixture_by_hand(x: Any, y: Any, mx: Any, my: Any, spread: Any, weight: Any) -> Any:
    dx, dy = x[:, None] - mx, y[:, None] - my
    square = dx * dx
    square += dy * dy
    precision = np.exp(-2 * spread)
    q = square * (-0.5 * precision)
    q += weight - 2 * spread
    top = np.max(q, axis=1, keepdims=True)
    q -= top
    np.exp(q, out=q)
    sums = np.sum(q, axis=1, keepdims=True)
    value = np.sum(top) + np.sum(np.log(sums))
    q /= sums
    count = np.sum(q, axis=0)
    dx *= q
    dy *= q
    square *= q
    dmx, dmy, dspread = (np.sum(one, axis=0) * precision for one in (dx, dy, square))
    return value, (dmx, dmy, dspread - 2 * count, count)


def regression(x: Any, t: Any, w: Any) -> Any:
    return summed_logistic(x @ w, t)


def regression_by_hand(x: Any, t: Any, w: Any) -> Any:
    value, (dz,) = summed_logistic_by_hand(x @ w, t)
    return value, (x.T @ dz,)
