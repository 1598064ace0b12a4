"""What is told about figures: tables in Markdown, and charts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from cases import CASES, FUNCTIONS, SHAPES, SIZES, Case
from contestants import CONTESTANTS

Times = Mapping[tuple[str, str], float]  # seconds by contestant and size

OURS, COMPILED, PLAIN, FLOOR = "fastlayers", "with llvmlite", "plain", "C"
COMPILERS = OURS, COMPILED, "JAX", "torch.compile"

# The READMEs' table: these cases, each at one size, and those who compute them.
README = {
    "lstm-float32": "262k",
    "black-scholes-float64": "1M",
    "cross-entropy-float32": "10000x100",
    "layer-norm-float32": "10000x256",
    "mixture-float64": "10000x8",
    "regression-float64": "100000x30",
    "network-float32": "256x784",
    "rosenbrock-float64": "100",
}
README_COLUMNS = OURS, COMPILED, "autograd", "JAX", "torch.compile"

# Of the kinds of which every case is given a table of its own, what is computed.
WHAT = {"layer": "equal shapes", "graph": "value and gradients", "update": "in place"}


def report(result: Mapping[str, Any]) -> str:
    times = {name: found for name in CASES if (found := medians(result, name))}
    functions = {name: times.pop(name) for name in [*times] if CASES[name].kind in FUNCTIONS}
    sections = [preface(result, times, STEPS)] if times else []
    sections += [case_table(CASES[name], times[name]) for name in times if CASES[name].kind in WHAT]
    for kind, table in ("layout", layout_table), ("sums", sum_table):
        if known := {name: times[name] for name in times if CASES[name].kind == kind}:
            sections.append(table(known))
    if functions:
        sections += ["## Functions and networks", preface(result, functions, FUNCTION_STEPS)]
        sections += filter(None, [first_steps(result), *function_tables(functions)])
        sections.append(readme_table(result, functions))
    return "\n\n".join(sections)


def medians(result: Mapping[str, Any], case: str) -> Times:
    """Return of each contestant and size the median over the rounds of the processes' medians."""
    runs: dict[tuple[str, str], list[float]] = {}
    for figure in result["figures"]:
        if figure["case"] == case:
            runs.setdefault((figure["contestant"], figure["size"]), []).append(figure["median"])
    return {key: median(times) for key, times in runs.items()}


# What a step is, and what is to be known of the figures.
STEPS = (
    "forward, then backward; of an expression its value and all gradients; an update in place",
    "A ratio is the other's time over fastlayers': above 1 fastlayers is the faster, below 1 (in "
    "bold) the slower.",
    "PyTorch gives dout itself for both gradients of a sum, where the others give two arrays of "
    "their own.",
)
FUNCTION_STEPS = (
    "the value, and the gradients of its sum (of layer norm, of a dout) with respect to all "
    "operands but targets and data; Adam's update in place",
    "`plain` is written by hand: textbook derivatives, values used again, in place where it can "
    "be. The others are given the function alone (`benchmarks/functions.py`); JAX and "
    "torch.compile compile value and gradients as one function, for each shape.",
    "`with llvmlite` is fastlayers with chains of steps compiled, before the first step.",
    "`by rule` is fastlayers without its compiled part: the same gradients in NumPy, node by node.",
    "Of each contestant plain's time over its own: above 1 it is faster than NumPy by hand, below "
    "1 (in bold) slower; in italics, faster than fastlayers.",
)


def preface(result: Mapping[str, Any], cases: Mapping[str, Times], notes: Iterable[str]) -> str:
    step, *notes = notes
    about = result["circumstances"]
    rounds = f"{about['rounds']} round{'s' if about['rounds'] > 1 else ''}"
    threads = "".join(f", {name}={value}" for name, value in about["environment"].items())
    present = contestants(key for times in cases.values() for key in times)
    shared = [f"`{name}`" for name in present if not CONTESTANTS[name].process_per_size]
    lines = [
        f"{about['machine']}; {about['date']}",
        about["versions"],
        f"Median of {rounds}, each with fresh processes, of the median time of a step: {step}. "
        f"Threads as each library has them by default{threads}.",
        f"A process for every figure, except that {', '.join(shared)} go through the sizes in one, "
        "in ascending order, which can only favour them: their memory is warm.",
        *notes,
    ]
    if about["load"] is not None:
        lines.append(f"Load of the machine before the first round: {about['load']:.2f}.")
    for name in result["missing"]:
        needs = CONTESTANTS[name].program or f"the module {CONTESTANTS[name].module}"
        lines.append(f"Left out: {name}, which needs {needs}.")
    for line in result["failures"]:
        what = f"{line['contestant']}, {line['case']} {line.get('size', '')}"
        lines.append(f"Left out, failed: {what}: {line['error']}.")
    return "\n".join(f"- {line}" for line in lines)


def case_table(case: Case, times: Times) -> str:
    names = contestants(times)
    heads = ["n", *names]
    if OURS in names:
        heads += ["plain / ours", "fastest other / ours"]
    if FLOOR in names:
        heads.append(f"ours / {FLOOR}")
    rows, losses = [], []
    for size in sizes(times):
        row = [size, *(readable(times.get((name, size))) for name in names)]
        if OURS in names:
            rival = rivals(times, size)
            row.append(ratio_cell(ratio(times, PLAIN, OURS, size)))
            row.append(f"{ratio_cell(rival[0][0])} {rival[0][1]}" if rival else "")
            losses += [f"{name} at {size} ({value:.2f})" for value, name in rival if value < 1]
        if FLOOR in names:
            row.append(ratio_cell(ratio(times, OURS, FLOOR, size)).strip("*"))
        rows.append(row)
    text = f"### {case.title}, {case.dtype}, {WHAT[case.kind]}\n\n" + markdown(heads, rows)
    if mean := mean_text(times):
        text += f"\n\nPlain over ours, geometric mean over {mean}."
    if OURS in names:
        text += " Faster than fastlayers: " + (", ".join(losses) or "none, at any size") + "."
    if FLOOR in names:
        text += (
            " C: loops by hand, on the best number of threads, past the caches or not, into arrays "
            "that are there before, and called from C."
        )
        # Our loops' time over C's: where they take long enough to be told from a call's own time.
        call = times.get((OURS, "1"), math.inf)
        known = [
            (times[OURS, size] - call) / times[FLOOR, size]
            for size in sizes(times)
            if SIZES[size] >= 1_000 and ratio(times, OURS, FLOOR, size)
        ]
        if known := [value for value in known if value > 0]:
            mean = f"geometric mean {geometric_mean(known):.2f}, most {max(known):.2f}"
            text += f" Ours, less what it takes at 1 element, over C, from 1k on: {mean}."
    return text


def layout_table(cases: Mapping[str, Times]) -> str:
    rows = []
    for size in sizes(key for times in cases.values() for key in times):
        row = [f"{size} {SHAPES[size]}"]
        for times in cases.values():
            pair = " / ".join(readable(times.get((name, size))) for name in (PLAIN, OURS))
            value = ratio_cell(ratio(times, PLAIN, OURS, size))
            row.append(f"{pair}: {value}" if value else pair)
        rows.append(row)
    rows.append(["geometric mean", *map(mean_text, cases.values())])
    return (
        "### MulLayer, float64, other layouts: plain / ours: ratio\n\n"
        + markdown(["n", *cases], rows)
        + "\n\n(B, F) and: row (F,), column (B, 1), scalar a number; fortran: all in Fortran "
        "order; strided: x and y halves of (B, 2F); transposed: y the transpose of a (F, B)."
    )


def sum_table(cases: Mapping[str, Times]) -> str:
    names = contestants(key for times in cases.values() for key in times)
    rows = []
    for case, times in cases.items():
        for size in sizes(times):
            row = [f"{case.removeprefix('sum-')} {SHAPES[size]}"]
            for name in names:
                value = ratio(times, name, OURS, size) if name != OURS else None
                cell = readable(times.get((name, size)))
                row.append(cell if value is None else f"{cell}: {ratio_cell(value)}")
            rows.append(row)
    return (
        "### MulLayer, float64, gradients summed to the shapes of x and y: time: time / ours\n\n"
        + markdown(["y", *names], rows)
    )


def first_steps(result: Mapping[str, Any]) -> str:
    """Say how long compiling takes."""
    texts = [
        f"{name} {readable(median(known))} (at most {readable(max(known))})"
        for name in COMPILERS
        if (known := compiling(result, name))
    ]
    text = "Until the first result, for each shape, besides the step: "
    return f"{text}{', '.join(texts)}." if texts else ""


def compiling(result: Mapping[str, Any], name: str) -> list[float]:
    """Return what first steps of functions take longer than later ones, for each shape."""
    extra: dict[tuple[str, str], float] = {}
    for figure in result["figures"]:
        if CASES[figure["case"]].kind in FUNCTIONS and figure["contestant"] == name:
            key = figure["case"], figure["size"]
            # Of the rounds the longest: the others may find what the first one compiled.
            extra[key] = max(extra.get(key, 0), figure["first"] - figure["median"])
    return [*extra.values()]


def readme_table(result: Mapping[str, Any], cases: Mapping[str, Times]) -> str:
    """Return the table of README.md and README.zh-CN.md, to be pasted into both."""
    rows = []
    for case, size in README.items():
        times = cases.get(case, {})
        gains = (gain_cell(times, name, size) for name in README_COLUMNS)
        about = f"{CASES[case].title}, {size} {CASES[case].dtype}" if case in CASES else case
        rows.append([about, readable(times.get((PLAIN, size))), *gains])
    every = [(times, size) for case, times in cases.items() for size in CASES[case].sizes]
    means, first = ["geometric mean of all", ""], ["until the first result", ""]
    faster: dict[str, list[str]] = {one: [f"faster than {one}", ""] for one in (OURS, COMPILED)}
    for name in README_COLUMNS:
        gains = [gain for times, size in every if (gain := ratio(times, PLAIN, name, size))]
        extra = compiling(result, name)
        means.append(f"{ratio_cell(geometric_mean(gains))} ({len(gains)})" if gains else "-")
        first.append(readable(median(extra)) if extra else "-")
        for one, row in faster.items():
            found = [gain for times, size in every if (gain := ratio(times, name, one, size))]
            ours = name in faster or not found
            row.append("" if ours else f"{sum(gain < 1 for gain in found)} of {len(found)}")
    faster[COMPILED][0] = "faster than fastlayers with llvmlite"
    rows += [means, *faster.values(), first]
    heads = ["", "NumPy by hand", *README_COLUMNS]
    return f"### For the READMEs\n\n{markdown(heads, rows)}"


def function_tables(cases: Mapping[str, Times]) -> Iterator[str]:
    every = contestants(key for times in cases.values() for key in times)
    names = [name for name in every if name != PLAIN]
    order = " / ".join(names)
    whole = {name: times for name, times in cases.items() if CASES[name].kind == "elementwise"}
    if whole:
        columns = sizes(key for times in whole.values() for key in times)
        rows = []
        for case, times in whole.items():
            row = [CASES[case].title, CASES[case].dtype]
            for size in columns:
                gains = " / ".join(gain_cell(times, name, size) for name in names)
                row.append(f"{readable(times.get((PLAIN, size)))}: {gains}")
            rows.append(row)
        title = f"### Element by element: time of plain: {order}"
        yield f"{title}\n\n{markdown(['', 'dtype', *columns], rows)}"
    rows = [
        [
            CASES[case].title, f"{size} {CASES[case].dtype}", readable(times.get((PLAIN, size))),
            *(f"{readable(times.get((name, size)))}: {gain_cell(times, name, size)}"
              for name in names),
        ]
        for case, times in cases.items() if case not in whole
        for size in CASES[case].sizes if any(key[1] == size for key in times)
    ]  # fmt: skip
    if rows:
        title = "### Rows, networks and models: time: plain's over it"
        yield f"{title}\n\n{markdown(['', 'n', PLAIN, *names], rows)}"
    yield "### All of these\n\n" + summary(cases, every)


def gain_cell(times: Times, name: str, size: str) -> str:
    text = ratio_cell(ratio(times, PLAIN, name, size)) or "-"
    return f"*{text}*" if (ratio(times, OURS, name, size) or 0) > 1 else text


def summary(cases: Mapping[str, Times], names: list[str]) -> str:
    """Of every other contestant its time over ours, of all figures."""
    rows = []
    for name in names:
        known = sorted(
            (value, f"{CASES[case].title}, {CASES[case].dtype}, {size}")
            for case, times in cases.items() for size in CASES[case].sizes
            if (value := ratio(times, name, OURS, size))
        )  # fmt: skip
        if name != OURS and known:
            values = [value for value, _ in known]
            faster = sum(value < 1 for value in values)
            least, where = known[0]
            mean = ratio_cell(geometric_mean(values))
            rows.append([name, mean, f"{ratio_cell(least)} ({where})", f"{faster} of {len(known)}"])
    heads = ["", "its time over ours, geometric mean", "least", "faster than fastlayers"]
    return markdown(heads, rows)


def contestants(keys: Iterable[tuple[str, str]]) -> list[str]:
    found = {name for name, _ in keys}
    return [name for name in CONTESTANTS if name in found]


def sizes(keys: Iterable[tuple[str, str]]) -> list[str]:
    found = {size for _, size in keys}
    return [size for size in SIZES if size in found]


def ratio(times: Times, other: str, ours: str, size: str) -> float | None:
    both = times.get((other, size)), times.get((ours, size))
    return both[0] / both[1] if both[0] and both[1] else None


def rivals(times: Times, size: str) -> list[tuple[float, str]]:
    """Return every other contestant's time over ours, the fastest first."""
    others = {name: ratio(times, name, OURS, size) for name in contestants(times)}
    return sorted(
        (value, name)
        for name, value in others.items()
        if value and name not in (OURS, COMPILED, FLOOR)
    )


def mean_text(times: Times) -> str:
    ratios = [value for size in sizes(times) if (value := ratio(times, PLAIN, OURS, size))]
    if not ratios:
        return ""
    count = f"{len(ratios)} size{'s' if len(ratios) > 1 else ''}"
    return f"{count}: {geometric_mean(ratios):.2f}, least {min(ratios):.2f}"


def ratio_cell(value: float | None) -> str:
    text = "" if value is None else f"{value:.2f}"
    return f"**{text}**" if value is not None and value < 1 else text


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


def draw(result: Mapping[str, Any], file: Path) -> bool:
    """Draw a chart; return whether there was anything to draw."""
    figure = CHARTS[file.name](result)
    if figure is None:
        return False
    figure.savefig(file, dpi=120, facecolor="white", metadata={"Date": None})
    return True


def matplotlibs(*modules: str) -> list[Any]:
    matplotlib = import_module("matplotlib")
    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "side by side"  # the same file for the same figures
    return [import_module(f"matplotlib.{name}") for name in modules]


def entitle(figure: Any, axes: Any, title: str, result: Mapping[str, Any]) -> None:
    figure.suptitle(title, weight="bold")
    about = result["circumstances"]
    axes.set_title(f"{about['machine']}\n{about['versions']}", fontsize=8, color="0.35", wrap=True)


def chart_of_sizes(case: str, plain: str, title: str, result: Mapping[str, Any]) -> Any:
    """The speed-up over plain NumPy by size."""
    times = medians(result, case)
    lines = {
        name: {SIZES[size]: value for size in SIZES if (value := ratio(times, PLAIN, name, size))}
        for name in contestants(times)
        if CONTESTANTS[name].colour and any(ratio(times, PLAIN, name, size) for size in SIZES)
    }
    if not lines:
        return None
    pyplot, ticker = matplotlibs("pyplot", "ticker")
    figure, axes = pyplot.subplots(figsize=(9, 5.2), layout="constrained")
    axes.set(xscale="log", yscale="log", xlabel="elements of an operand")
    axes.set_ylabel(f"speed-up: time of {plain} / of the contestant")
    axes.axhline(1, color="grey", linewidth=1)
    axes.text(0.01, 1, plain, color="grey", va="bottom", transform=axes.get_yaxis_transform())
    for name, line in lines.items():
        width, marker, order = (3, 5, 3) if name == OURS else (1.4, 3, 2)
        style = {"linewidth": width, "marker": "o", "markersize": marker, "zorder": order}
        axes.plot(*zip(*line.items(), strict=True), color=CONTESTANTS[name].colour, **style)
    # Each name beside the end of its line, apart from the others.
    low, high = map(math.log, axes.get_ylim())
    bottom = -math.inf
    for name, line in sorted(lines.items(), key=lambda item: item[1][max(item[1])]):
        bottom = max(math.log(line[max(line)]), bottom + (high - low) / 20)
        style = {"color": CONTESTANTS[name].colour, "weight": "bold" if name == OURS else "normal"}
        place = {"transform": axes.get_yaxis_transform(), "va": "center"}
        axes.text(1.01, math.exp(bottom), name, **place, **style)
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(which="major", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    entitle(figure, axes, title, result)
    return figure


def chart_of_functions(result: Mapping[str, Any]) -> Any:
    """The speed-up over NumPy by hand by function: the mean over sizes and dtypes, and its span."""
    gains: dict[str, dict[str, list[float]]] = {}
    for name in (name for name in CASES if CASES[name].kind in FUNCTIONS):
        times = medians(result, name)
        for one in (OURS, COMPILED, "JAX", "torch.compile", "autograd"):
            found = [g for size in CASES[name].sizes if (g := ratio(times, PLAIN, one, size))]
            if found:
                gains.setdefault(CASES[name].title, {}).setdefault(one, []).extend(found)
    if not any(OURS in known for known in gains.values()):
        return None
    pyplot, ticker = matplotlibs("pyplot", "ticker")
    figure, axes = pyplot.subplots(figsize=(9, 0.62 * len(gains) + 1.8), layout="constrained")
    labels: dict[str, Any] = {}
    for row, known in enumerate(gains.values()):
        for i, (one, values) in enumerate(known.items()):
            y, colour = row + 0.16 * (i - 2), CONTESTANTS[one].colour
            axes.plot([min(values), max(values)], [y, y], color=colour, linewidth=1, alpha=0.5)
            size = 34 if one in (OURS, COMPILED) else 20
            mean = geometric_mean(values)
            labels[one] = axes.scatter(mean, y, s=size, color=colour, zorder=3)
        if row % 2:
            axes.axhspan(row - 0.5, row + 0.5, color="0.96", zorder=0)
    axes.axvline(1, color="0.4", linewidth=1)
    axes.set(xscale="log", ylim=(len(gains) - 0.5, -0.5))
    axes.set_yticks(range(len(gains)), [*gains])
    axes.set_xlabel("speed-up: time of NumPy by hand / of the contestant; lines from least to most")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.grid(which="major", axis="x", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    names = [OURS, *(name for name in labels if name != OURS)]
    figure.legend([labels[name] for name in names], names, loc="outside lower center", ncols=5)
    entitle(figure, axes, "Functions and networks: value and gradients", result)
    return figure


CHARTS = {
    "speedup.svg": partial(
        chart_of_sizes, "mul-float64", "plain layers", "One MulLayer step, float64, equal shapes"
    ),
    "speedup_graph.svg": partial(
        chart_of_sizes,
        "graph-shop",
        "plain NumPy by hand",
        "(a*b + c*d)*e, value and five gradients, float64",
    ),
    "speedup_functions.svg": chart_of_functions,
}
