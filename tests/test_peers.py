"""PyTorch and Numba in the same process: other users of OpenMP, and of the same cores.

They are large, and no dependency: these tests run where they are installed.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from fresh import FORK, output_of

import fastlayers

if fastlayers.IMPLEMENTATION != "native":
    pytest.skip("plain NumPy has no threads", allow_module_level=True)

# Each is loaded, and its threads set to work, by `peer()`.
TORCH = """
import torch
torch.set_num_threads(3)

def peer():
    ones = torch.ones(1_000_000)
    assert float((ones * 2 + ones).sum()) == 3_000_000
"""
NUMBA = """
import numba
import numpy

@numba.njit(parallel=True)
def triple(x, out):
    for i in numba.prange(x.size):
        out[i] = 3 * x[i]

def peer():
    out = numpy.empty(1_000_000)
    triple(numpy.ones(1_000_000), out)
    assert out.sum() == 3_000_000
    assert numba.threading_layer() == numba.config.THREADING_LAYER
"""
LAYER = "\nnumba.config.THREADING_LAYER = {!r}\n"
PEERS = {
    "torch": TORCH,
    "numba, omp": NUMBA + LAYER.format("omp"),
    "numba, workqueue": NUMBA + LAYER.format("workqueue"),
    "both": TORCH.replace("peer", "torch_peer")
    + NUMBA.replace("peer", "numba_peer")
    + LAYER.format("omp")
    + "def peer():\n    torch_peer(), numba_peer()\n",
}

OURS = (
    FORK
    + """
import threading
import numpy as np
import fastlayers
from fastlayers._core.frontend import schedule

fastlayers.set_num_threads(3)
schedule.set_thresholds(late=1e6)  # no call is late, so all take threads

def ours():
    rng = np.random.default_rng(0)
    x, y, dout = rng.standard_normal((3, 200, 1_000))
    x[::3] = 5e-324
    layer = fastlayers.MulLayer()
    results = layer.forward(x, y), *layer.backward(dout), fastlayers.add(x, y)
    expected = x * y, dout * y, dout * x, x + y
    assert [one.tobytes() for one in results] == [one.tobytes() for one in expected]
    sums = fastlayers.multiply_backward(dout, x[0], y[:, :1], sum_to_shape=True)
    with_one_thread.extend(sums)
    assert [one.tobytes() for one in sums] == [one.tobytes() for one in with_one_thread[:2]]

with_one_thread = []
"""
)
USE = """
fastlayers.set_num_threads(1)
ours()
fastlayers.set_num_threads(3)
for _ in range(5):
    peer(), ours()
before = fastlayers.get_num_threads()

# Both at once.
def repeat(function):
    try:
        for _ in range(20):
            function()
        done.append(function.__name__)
    except Exception as error:
        done.append(error)

done = []
threads = [threading.Thread(target=repeat, args=(ours,)) for _ in range(3)]
threads.append(threading.Thread(target=repeat, args=(peer,)))
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()

code = wait(fork(ours))
peer(), ours()
print(*sorted(map(str, done)), code, fastlayers.get_num_threads() - before)
"""


@pytest.mark.parametrize("order", ["peer first", "fastlayers first"])
@pytest.mark.parametrize("name", PEERS)
def test_beside(name, order):
    for package in ("torch", "numba"):
        if package in PEERS[name] and not find_spec(package):
            pytest.skip(f"{package} is not installed")
    code = PEERS[name] + OURS if order == "peer first" else OURS + PEERS[name]
    output = output_of("import warnings\nwarnings.simplefilter('ignore')\n" + code + USE)
    assert output == ["ours", "ours", "ours", "peer", "0", "0"]


@pytest.mark.skipif(not find_spec("torch"), reason="torch is not installed")
def test_subnormals_that_torch_flushes():
    # It sets the floating-point unit of the thread that asks for it: NumPy's results follow.
    code = """
peer(), ours()
assert torch.set_flush_denormal(True)
x = np.full(200_000, 5e-324)
print(*(set(result.tobytes()) == {0} for result in (x * 1.0, fastlayers.multiply(x, 1.0))))
torch.set_flush_denormal(False)
peer(), ours()
print(*(set(result.view("i8").tolist()) for result in (x * 1.0, fastlayers.multiply(x, 1.0))))
"""
    assert output_of(TORCH + OURS + code) == ["True", "True", "{1}", "{1}"]
