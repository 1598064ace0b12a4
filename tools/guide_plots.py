"""Draw the picture of docs/scipy.md from the values that its own code computes.

    python tools/guide_plots.py

Lines and letters are of a grey that can be read on white and on black.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

DOCS = Path(__file__).parent.parent / "docs"
GREY = "#808080"


def names_of(page: Path) -> dict[str, Any]:
    """Return what the code of a page leaves behind."""
    names: dict[str, Any] = {}
    for block in re.findall(r"(?ms)^```python\n(.*?)^```", page.read_text(encoding="utf-8")):
        exec(compile(block, page, "exec"), names)
    return names


def draw(names: dict[str, Any], file: Path) -> None:
    mpl.rcParams |= {"svg.hashsalt": file.name, "svg.fonttype": "none", "font.family": "sans-serif"}
    for part in "text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color":
        mpl.rcParams[part] = GREY
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    fit, survival = figure.subplots(1, 2)

    x, y = names["x"], names["y"]
    fit.scatter(x, y, s=6, color=GREY)
    fit.plot(x, names["peak"](x, *names["fit"].x.tolist()), color="#D55E00", linewidth=2)
    fit.set(title="least_squares", xlabel="x")

    t, share, band = (names[name] for name in ("t", "share", "band"))
    survival.fill_between(t, share - band, share + band, color="#0072B2", alpha=0.3, linewidth=0)
    survival.plot(t, share, color="#0072B2", linewidth=2, label="Weibull, with its 95 % band")
    times, left = kaplan_meier(names["time"], names["failed"])
    survival.step(times, left, where="post", color=GREY, linewidth=1, label="Kaplan-Meier")
    survival.set(title="Parts that still run", xlabel="hours", xlim=(0, 2000), ylim=(0, 1))
    survival.legend(frameon=False)
    for axes in fit, survival:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, transparent=True, metadata={"Date": None})


def kaplan_meier(time: Any, failed: Any) -> tuple[Any, Any]:
    """Return the times in order, and the share that is left after each."""
    order = np.argsort(time)
    at_risk = np.arange(len(time), 0, -1)
    return time[order], np.cumprod(1 - failed[order] / at_risk)


if __name__ == "__main__":
    draw(names_of(DOCS / "scipy.md"), DOCS / "scipy.svg")
