"""The examples, in small; flat_field.py in full is `make demo`."""

from __future__ import annotations

import json
import re
from pathlib import Path

# Lists the fonts, where nobody has: an example that took seconds for it would say so.
import matplotlib.font_manager  # noqa: F401
from fresh import PATIENCE, lines_of, run

from fastlayers import IMPLEMENTATION

EXAMPLES = Path(__file__).parent.parent / "examples"


def lines_of_example(name, *options):
    example = str(EXAMPLES / name)
    # One thread: the matrix products' threads and the graphs' would get into each other's way.
    variables = {"FASTLAYERS_IMPLEMENTATION": IMPLEMENTATION, "OMP_NUM_THREADS": "1"}
    return lines_of("-W", "error", example, *options, **variables)


def test_apple_shop():
    lines = lines_of_example("apple_shop.py")
    numbers, arrays = "\n".join(lines).split("\n\n")
    printed = dict(line.split() for line in numbers.splitlines()[1:])
    assert printed == {
        "price": "715.0000000000001",
        "dapple": "2.2",
        "dapple_num": "110",
        "dorange": "3.3",
        "dorange_num": "165",
        "dtax": "650",
    }
    # The first of the baskets on arrays is the one above.
    columns = {line.split()[0]: line.split()[1] for line in arrays.splitlines()[1:]}
    assert columns == {**printed, "price": "715"}


# These compare with plain NumPy themselves, and fail if they differ.


def test_flat_field(tmp_path):
    picture = tmp_path / "flat_field.png"
    options = "--epochs", "2", "--exposures", "3", "--output", str(picture)
    lines = lines_of_example("flat_field.py", *options)
    assert "6 steps: all losses, gains and offsets are equal, bit for bit" in lines
    psnr = re.search(r"raw (\S+) dB, corrected (\S+) dB", "\n".join(lines)).groups()
    assert float(psnr[1]) > float(psnr[0]) + 3
    assert picture.stat().st_size > 100_000


def test_digits(tmp_path):
    picture = tmp_path / "digits.png"
    lines = lines_of_example("digits.py", "--steps", "40", "--output", str(picture))
    assert "all losses and weights are equal, bit for bit" in lines
    assert any(line.startswith("all gradients are equal to rounding") for line in lines)
    read_right = re.search(r"step  40: loss \S+, (\S+)% of 360 unseen ", "\n".join(lines))
    assert float(read_right[1]) >= 97
    assert picture.stat().st_size > 10_000


def test_lstm():
    lines = lines_of_example("lstm.py", "--steps", "6")
    assert "all losses and weights are equal, bit for bit" in lines
    assert any(line.startswith("all gradients are equal to rounding") for line in lines)
    losses = [float(loss) for loss in re.findall(r"loss (\S+);", "\n".join(lines))]
    assert len(losses) == 1
    assert losses[0] < 3.5  # to know nothing would be log(43 letters), 3.76


def test_blend(tmp_path):
    picture = tmp_path / "blend.png"
    lines = lines_of_example("blend.py", "--steps", "5", "--output", str(picture))
    assert "5 steps: mattes and errors are equal, bit for bit" in lines
    first, last = map(
        float, re.search(r"error (\S+) at first, (\S+) in", "\n".join(lines)).groups()
    )
    assert last < first / 10
    assert picture.stat().st_size > 10_000


def printed_by(name, tmp_path, *options):
    """What an example prints that has also drawn a picture."""
    picture = tmp_path / "picture.png"
    lines = lines_of_example(name, *options, "--output", str(picture))
    assert picture.stat().st_size > 10_000
    return "\n".join(lines)


def test_logistic(tmp_path):
    printed = printed_by("logistic.py", tmp_path)
    assert len(set(re.findall(r"loss (\S+) after", printed))) == 1  # of both methods
    assert "mean radius        4.58 ± 0.58" in printed
    assert "93.5% of 569 tumours" in printed


def test_options(tmp_path):
    printed = printed_by("options.py", tmp_path, "--options", "20000")
    assert "prices are equal, bit for bit" in printed
    off = [float(one) for one in re.findall(r"at most (\S+) from", printed)]
    assert len(off) == 2
    assert max(off) < 1e-12


def test_mixture(tmp_path):
    printed = printed_by("mixture.py", tmp_path)
    assert "loss 1.0459 at first, -0.7459 after" in printed
    assert "96% of 150 flowers" in printed


def test_bodies(tmp_path):
    printed = printed_by("bodies.py", tmp_path, "--bodies", "8", "--steps", "200")
    off, drift = map(float, re.search(r"within (\S+) of .*off by (\S+)%", printed, re.S).groups())
    assert off < 1e-14
    assert drift < 1


EXECUTE = f"""
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout={60 * PATIENCE}, startup_timeout={60 * PATIENCE}).execute()
nbformat.write(notebook, sys.argv[2])
"""


def outputs_of(notebook):
    """What each cell of a notebook prints, and the last value that it shows, if any."""
    shown = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        outputs = cell.get("outputs", ())
        # A kernel may send what a cell prints in several parts.
        printed = "".join([line for output in outputs for line in output.get("text", ())])
        shown.append((printed, [output["data"] for output in outputs if "data" in output]))
    return shown


def test_notebook(tmp_path):
    notebook, executed = EXAMPLES / "shop.ipynb", tmp_path / "executed.ipynb"
    variables = {"FASTLAYERS_IMPLEMENTATION": IMPLEMENTATION}
    result = run("-c", EXECUTE, str(notebook), str(executed), **variables)
    assert result.returncode == 0, result.stderr
    shown = outputs_of(notebook)
    assert outputs_of(executed) == shown
    assert sum("image/svg+xml" in value for _, values in shown for value in values) == 3
