"""What side_by_side.py tells about its figures: tables in Markdown, and a chart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from side_by_side_cases import CONTESTANTS, FLOOR, GROUPS, SHAPES, SIZES, Group

Times = Mapping[tuple[str, str], float]  # seconds by contestant and size

OURS, PLAIN, PLAIN_SUM = "fastlayers", "plain", "np.sum"

# Of the layouts that are given tables of their own, what is computed.
WHAT = {"same": "equal shapes", "graph": "value and gradients", "update": "in place"}

# Okabe and Ito's colours, which colour-blind people tell apart; ours is the strongest.
COLOURS = {
    "fastlayers": "#D55E00",
    "plain, out=": "#000000",
    "PyTorch": "#0072B2",
    "JAX": "#009E73",
    "Numba": "#CC79A7",
    "numexpr": "#E69F00",
    "PyTensor": "#56B4E9",
}


def table(result: Mapping[str, Any]) -> str:
    """Return the whole report."""
    sections = [preface(result)]
    layouts: dict[str, Times] = {}
    sums: dict[str, Times] = {}
    for name, group in GROUPS.items():
        times = medians(result, name)
        if not times:
            continue
        if group.sum_to_shape:
            sums[name] = times
        elif group.layout in WHAT:
            sections.append(same_table(group, times))
        else:
            layouts[name] = times
    if layouts:
        sections.append(layout_table(layouts))
    if sums:
        sections.append(sum_table(sums))
    return "\n\n".join(sections)


def medians(result: Mapping[str, Any], group: str) -> Times:
    """Return of each contestant and size the median over the rounds of the processes' medians."""
    runs: dict[tuple[str, str], list[float]] = {}
    for figure in result["figures"]:
        if figure["group"] == group:
            runs.setdefault((figure["contestant"], figure["size"]), []).append(figure["median"])
    return {key: median(times) for key, times in runs.items()}


def machine(result: Mapping[str, Any]) -> str:
    about = result["circumstances"]
    return f"{about['cpu']}, {about['cpus']} CPUs, {about['system']}"


def versions(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in result["circumstances"]["versions"].items())


def preface(result: Mapping[str, Any]) -> str:
    about = result["circumstances"]
    rounds = f"{about['rounds']} round{'s' if about['rounds'] > 1 else ''}"
    shared = [
        f"`{name}`" for name, contestant in CONTESTANTS.items() if not contestant.process_per_size
    ]
    lines = [
        f"{machine(result)}; {about['date']}",
        versions(result),
        f"Median of {rounds}, each with fresh processes, of the median time of a step: forward, "
        "then backward; of an expression its value and all gradients; an update in place. Threads "
        "as each library has them by default"
        + "".join(f", {name}={value}" for name, value in about["environment"].items())
        + ".",
        f"A process for every figure, except that {', '.join(shared)} go through the sizes in one, "
        "in ascending order, which can only favour them: their memory is warm.",
        "A ratio is the other's time over fastlayers': above 1 fastlayers is the faster, below 1 "
        "(in bold) the slower.",
        "PyTorch gives dout itself for both gradients of a sum, where the others give two "
        "arrays of their own.",
    ]
    if about["load"] is not None:
        lines.append(f"Load of the machine before the first round: {about['load']:.2f}.")
    if result["import"] is not None:
        lines.append(f"`import fastlayers` after NumPy: {readable(result['import'])}.")
    lines += [
        f"Left out: {name}, which needs {CONTESTANTS[name].needs}." for name in result["missing"]
    ]
    lines += [
        f"Left out, failed: {failure['contestant']}, {failure['group']} "
        f"{failure.get('size', '')}: {failure['error']}."
        for failure in result["failures"]
    ]
    return "\n".join(f"- {line}" for line in lines)


def same_table(group: Group, times: Times) -> str:
    names = contestants(times)
    ratios = [plain_ratio(times, size) for size in sizes(times)]
    heads = ["n", *names]
    if OURS in names:
        heads += ["plain / ours", "fastest other / ours"]
    if FLOOR in names:
        heads.append(f"ours / {FLOOR}")
    rows = []
    losses = []
    for size, ratio in zip(sizes(times), ratios, strict=True):
        row = [size, *(readable(times.get((name, size))) for name in names)]
        if OURS in names:
            rival = rivals(times, size)
            row += [ratio_cell(ratio), f"{ratio_cell(rival[0][0])} {rival[0][1]}" if rival else ""]
            losses += [f"{name} at {size} ({value:.2f})" for value, name in rival if value < 1]
        if FLOOR in names:
            known = all((name, size) in times for name in (OURS, FLOOR))
            row.append(f"{times[OURS, size] / times[FLOOR, size]:.2f}" if known else "")
        rows.append(row)
    text = f"### {group.layer}, {group.dtype}, {WHAT[group.layout]}\n\n" + markdown(heads, rows)
    if mean := mean_text(ratios):
        text += f"\n\nPlain over ours, geometric mean over {mean}."
    if OURS in names:
        text += " Faster than fastlayers: " + (", ".join(losses) or "none, at any size") + "."
    if FLOOR in names:
        text += (
            " C: loops by hand, on the best number of threads, past the caches or not, into arrays "
            "that are there before, and called from C."
        )
        if known := ratios_without_call(times):
            mean = f"geometric mean {geometric_mean(known):.2f}, most {max(known):.2f}"
            text += f" Ours, less what it takes at 1 element, over C, from 1k on: {mean}."
    return text


def ratios_without_call(times: Times) -> list[float]:
    """Our loops' time over C's: where they take long enough to be told from a call's own time."""
    call = times.get((OURS, "1"), math.inf)
    ratios = [
        (times[OURS, size] - call) / times[FLOOR, size]
        for size, elements in SIZES.items()
        if elements >= 1_000 and (OURS, size) in times and (FLOOR, size) in times
    ]
    return [ratio for ratio in ratios if ratio > 0]


def layout_table(groups: Mapping[str, Times]) -> str:
    rows = []
    for size, shape in SHAPES.items():
        cells = []
        for times in groups.values():
            ratio = plain_ratio(times, size)
            pair = " / ".join(readable(times.get((name, size))) for name in (PLAIN, OURS))
            cells.append(f"{pair}: {ratio_cell(ratio)}" if ratio is not None else pair)
        if any((name, size) in times for times in groups.values() for name in (PLAIN, OURS)):
            rows.append([f"{size} {shape}", *cells])
    means = [
        mean_text(plain_ratio(times, size) for size in SHAPES) or "" for times in groups.values()
    ]
    rows.append(["geometric mean", *means])
    return (
        "### MulLayer, float64, other layouts: plain / ours: ratio\n\n"
        + markdown(["n", *groups], rows)
        + "\n\n(B, F) and: row (F,), column (B, 1), scalar a number; fortran: all in Fortran "
        "order; strided: x and y halves of (B, 2F); transposed: y the transpose of a (F, B)."
    )


def sum_table(groups: Mapping[str, Times]) -> str:
    merged = {name: None for times in groups.values() for name in contestants(times)}
    rows = []
    for group, times in groups.items():
        for size in sizes(times):
            ours = times.get((OURS, size))
            row = [f"{group.removeprefix('sum-')} {SHAPES[size]}"]
            for name in merged:
                time = times.get((name, size))
                cell = readable(time)
                if time is not None and ours is not None and name != OURS:
                    cell += f": {ratio_cell(time / ours)}"
                row.append(cell)
            rows.append(row)
    return (
        "### MulLayer, float64, gradients summed to the shapes of x and y: time: time / ours\n\n"
        + markdown(["y", *merged], rows)
    )


def contestants(times: Times) -> list[str]:
    return [name for name in CONTESTANTS if any(name == key for key, _ in times)]


def sizes(times: Times) -> list[str]:
    return [size for size in dict.fromkeys([*SIZES, *SHAPES]) if any(size == s for _, s in times)]


def plain_ratio(times: Times, size: str) -> float | None:
    plain, ours = times.get((PLAIN, size)), times.get((OURS, size))
    return plain / ours if plain and ours else None


def rivals(times: Times, size: str) -> list[tuple[float, str]]:
    """Return every other contestant's time over ours, the fastest first."""
    ours = times.get((OURS, size))
    if ours is None:
        return []
    others = [one for one in times.items() if one[0][1] == size and one[0][0] not in (OURS, FLOOR)]
    return sorted((seconds / ours, name) for (name, _), seconds in others)


def mean_text(ratios: Iterable[float | None]) -> str:
    known = [ratio for ratio in ratios if ratio is not None]
    if not known:
        return ""
    count = f"{len(known)} size{'s' if len(known) > 1 else ''}"
    return f"{count}: {geometric_mean(known):.2f}, least {min(known):.2f}"


def ratio_cell(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:.2f}" if ratio >= 1 else f"**{ratio:.2f}**"


def readable(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, scale in ("ns", 1e9), ("µs", 1e6), ("ms", 1e3):
        if seconds * scale < 999.5:  # from there on three digits would round to 1000
            return f"{seconds * scale:.3g}\N{NO-BREAK SPACE}{unit}"
    return f"{seconds:.3g}\N{NO-BREAK SPACE}s"


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] + ["--:"] * (len(heads) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# What is drawn: the group, what the file's name ends in, the title, and what is measured against.
CHARTS = {
    "mul-float64": ("", "One MulLayer step, forward and backward, float64, equal shapes", "layers"),
    "graph-shop": ("_graph", "(a*b + c*d)*e, value and five gradients, float64", "NumPy by hand"),
}


def draw(result: Mapping[str, Any], group: str, file: Path) -> bool:
    """Draw the speed-up over plain NumPy by size; return whether there was one to draw."""
    _, title, plain = CHARTS[group]
    times = medians(result, group)
    lines = {
        name: {
            SIZES[size]: times[PLAIN, size] / times[name, size]
            for size in SIZES
            if (PLAIN, size) in times and (name, size) in times
        }
        for name in COLOURS
    }
    lines = {name: line for name, line in lines.items() if line}
    if not lines:
        return False
    matplotlib = import_module("matplotlib")
    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "side by side"  # the same file for the same figures
    pyplot, ticker = (import_module(f"matplotlib.{name}") for name in ("pyplot", "ticker"))

    figure, axes = pyplot.subplots(figsize=(9, 5.2), layout="constrained")
    axes.set(xscale="log", yscale="log")
    axes.axhline(1, color="grey", linewidth=1)
    axes.text(
        0.01, 1, f"plain {plain}", color="grey", va="bottom", transform=axes.get_yaxis_transform()
    )
    for name, line in lines.items():
        ours = name == OURS
        axes.plot(
            *zip(*line.items(), strict=True),
            color=COLOURS[name],
            linewidth=3 if ours else 1.4,
            marker="o",
            markersize=5 if ours else 3,
            zorder=3 if ours else 2,
        )
    sizes_drawn = [size for line in lines.values() for size in line]
    axes.set_xlim(min(sizes_drawn) / 1.5, max(sizes_drawn) * 1.2)
    label_ends(axes, lines)
    axes.set_xlabel("elements of an operand")
    axes.set_ylabel(f"speed-up: plain {plain}'s time / contestant's")
    axes.xaxis.set_major_formatter(lambda value, _: si(value))
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(which="major", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, weight="bold")
    axes.set_title(f"{machine(result)}\n{versions(result)}", fontsize=8, color="0.35")
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if file.suffix == ".svg" else None
    figure.savefig(file, dpi=120, facecolor="white", metadata=metadata)
    return True


def label_ends(axes: Any, lines: Mapping[str, Mapping[int, float]]) -> None:
    """Write each contestant's name beside the end of its line, apart from the others."""
    low, high = (math.log(limit) for limit in axes.get_ylim())
    gap = (high - low) / 20
    bottom = -math.inf
    for name, line in sorted(lines.items(), key=lambda item: item[1][max(item[1])]):
        bottom = max(math.log(line[max(line)]), bottom + gap)
        axes.annotate(
            name,
            (1, math.exp(bottom)),
            xycoords=axes.get_yaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=COLOURS[name],
            weight="bold" if name == OURS else "normal",
            annotation_clip=False,
        )


def si(value: float) -> str:
    for letter, scale in ("M", 1e6), ("k", 1e3):
        if value >= scale:
            return f"{value / scale:g}{letter}"
    return f"{value:g}"
