"""What Numba computes of the cases that name it: see cases.py.

Expressions of arrays become loops, and Numba makes one loop of those of a function. Where a
function has temporary arrays, or writes in place, its loop by hand is faster.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from cases import FACTORS
from numba import prange

parallel = numba.njit(parallel=True)


multiply = parallel(lambda x, y: x * y)
multiply_backward = parallel(lambda dout, x, y: (dout * y, dout * x))
add = parallel(lambda x, y: x + y)
add_backward = parallel(lambda dout, x, y: (dout * 1, dout * 1))
gates = parallel(lambda dout, f, c, g, i: (f * c + g * i, (dout * c, dout * f, dout * i, dout * g)))


@parallel
def shop(dout: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    value, de = np.empty_like(a), np.empty_like(a)
    da, db, dc, dd = np.empty_like(a), np.empty_like(a), np.empty_like(a), np.empty_like(a)
    for i in prange(a.size):
        total = a[i] * b[i] + c[i] * d[i]
        dtotal = dout[i] * e[i]
        value[i], de[i] = total * e[i], dout[i] * total
        da[i], db[i] = dtotal * b[i], dtotal * a[i]
        dc[i], dd[i] = dtotal * d[i], dtotal * c[i]
    return value, (da, db, dc, dd, de)


a, b, c, d, rate = map(np.float32, FACTORS.values())


@parallel
def momentum(w: Any, v: Any, g: Any) -> Any:
    for i in prange(w.size):
        v[i] = a * v[i] - rate * g[i]
        w[i] += v[i]
    return w, v


@parallel
def averages(m: Any, v: Any, g: Any) -> Any:
    for i in prange(m.size):
        m[i] = a * m[i] + b * g[i]
        v[i] = c * v[i] + d * (g[i] * g[i])
    return m, v
