"""Time steps, forward and backward, in fastlayers, in plain NumPy and in other libraries: of one
layer, and of whole expressions.

    python benchmarks/side_by_side.py            # all cases; about an hour
    python benchmarks/side_by_side.py --quick    # some sizes, one round; about four minutes

Prints a table in Markdown, writes every figure to a JSON file, and draws a chart. Libraries that
are not installed are left out. Measure on a machine that has nothing else to do: a second busy
process costs the contestants that use threads far more than the others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from side_by_side_cases import CONTESTANTS, GROUPS, SHAPES, SIZES
from side_by_side_report import CHARTS, draw, readable, table

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "build" / "benchmarks"
ALL_SIZES = tuple(dict.fromkeys([*SIZES, *SHAPES]))
QUICK_SIZES = "1", "1k", "10k", "30k", "262k", "1M", "4M"


class Job(NamedTuple):
    """What one process measures."""

    group: str
    contestant: str
    sizes: tuple[str, ...]


def plan(options: argparse.Namespace, contestants: list[str]) -> list[Job]:
    """Return the jobs of a round, those that will be compared next to each other."""
    jobs = []
    for name in options.cases:
        group = GROUPS[name]
        sizes = [size for size in group.sizes if size in options.sizes]
        present = [each for each in contestants if each in group.contestants]
        for size in sizes:
            jobs += [Job(name, c, (size,)) for c in present if CONTESTANTS[c].process_per_size]
        if sizes:
            several = [c for c in present if not CONTESTANTS[c].process_per_size]
            jobs += [Job(name, c, tuple(sizes)) for c in several]
    return jobs


def run_worker(
    task: dict[str, Any], environment: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    command = [sys.executable, str(HERE / "side_by_side_worker.py"), json.dumps(task)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, **(environment or {})},
    ) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            yield json.loads(line)
    if worker.returncode:
        yield {"error": f"its process ended with code {worker.returncode}"}


def measure(result: dict[str, Any], jobs: list[Job], options: argparse.Namespace) -> None:
    """Run every job once a round, and add its figures to ``result``."""
    total = options.rounds * sum(len(job.sizes) for job in jobs)
    done = 0
    failed: set[tuple[str, str]] = set()
    start = perf_counter()
    for number in range(1, options.rounds + 1):
        # The other way round in every second round: nobody always comes after the same one.
        for job in jobs if number % 2 else reversed(jobs):
            before = done
            if (job.group, job.contestant) not in failed:
                task = {"seconds": options.seconds, "check": number == 1, **job._asdict()}
                about = {"round": number, "group": job.group, "contestant": job.contestant}
                for line in run_worker(task):
                    done += "size" in line
                    if "error" in line:
                        result["failures"].append({**about, **line})
                        failed.add((job.group, job.contestant))
                        text = line["error"]
                    else:
                        result["figures"].append({**about, **line})
                        text = readable(line["median"])
                    elapsed = perf_counter() - start
                    left = elapsed / max(done, 1) * (total - done)
                    what = f"{job.group:12}{line.get('size', ''):>6}  {job.contestant:12}{text:>9}"
                    progress(f"{done:4}/{total}  {what}   {minutes(elapsed)}, {minutes(left)} left")
            done = before + len(job.sizes)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def import_seconds(runs: int = 7) -> float:
    """Return what ``import fastlayers`` takes once NumPy is imported."""
    code = (
        "import numpy, time; t = time.perf_counter(); import fastlayers;"
        "print(time.perf_counter() - t)"
    )
    command = [sys.executable, "-c", code]
    times = [float(subprocess.check_output(command)) for _ in range(runs)]
    return median(times)


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def circumstances(options: argparse.Namespace, contestants: list[str]) -> dict[str, Any]:
    modules = dict.fromkeys(["numpy", *(CONTESTANTS[name].module for name in contestants)])
    return {
        "date": date.today().isoformat(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {
            platform.python_implementation(): platform.python_version(),
            **{name: version(name) for name in modules},
        },
        # Everybody uses as many threads as it does by default: unless these say otherwise.
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.endswith("_NUM_THREADS")},
        "rounds": options.rounds,
        "seconds": options.seconds,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes, one short round")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 3, with --quick 1")
    parser.add_argument("--seconds", type=float, help="for a figure; default: 0.2, quick 0.1")
    for name, choices in (
        ("contestants", tuple(CONTESTANTS)),
        ("sizes", ALL_SIZES),
        ("cases", tuple(GROUPS)),
    ):
        default = "all, with --quick " + " ".join(QUICK_SIZES) if name == "sizes" else "all"
        text = f"some of: {' · '.join(choices)} (default: {default})"
        parser.add_argument(f"--{name}", nargs="+", choices=choices, metavar="NAME", help=text)
    json_file, chart_file = RESULTS / "side_by_side.json", RESULTS / "speedup.svg"
    parser.add_argument(
        "--json", type=Path, default=json_file, metavar="FILE", help="default: build/benchmarks/"
    )
    parser.add_argument(
        "--chart", type=Path, default=chart_file, metavar="FILE", help=".svg or .png; likewise"
    )
    parser.add_argument(
        "--from-json", type=Path, metavar="FILE", help="print and draw this, without measuring"
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (0.1 if options.quick else 0.2)
    options.sizes = options.sizes or (QUICK_SIZES if options.quick else ALL_SIZES)
    options.cases = options.cases or tuple(GROUPS)
    options.contestants = options.contestants or tuple(CONTESTANTS)
    return options


def new_result(options: argparse.Namespace) -> dict[str, Any]:
    wanted = [name for name in CONTESTANTS if name in options.contestants]
    here = [name for name in wanted if CONTESTANTS[name].is_here()]
    missing = [name for name in wanted if name not in here]
    for name in missing:
        progress(f"left out: {name}, which needs {CONTESTANTS[name].needs}")
    result: dict[str, Any] = {
        "circumstances": circumstances(options, here),
        "missing": missing,
        "import": import_seconds() if "fastlayers" in here else None,
        "figures": [],
        "failures": [],
    }
    load = result["circumstances"]["load"]
    if load is not None and load > 0.3:
        progress(
            f"the machine is not idle (load {load:.2f}): threads will look slower than they are"
        )
    try:
        measure(result, plan(options, here), options)
    except KeyboardInterrupt:
        progress("interrupted: what follows is what there was by then")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def main() -> int:
    options = arguments()
    if options.from_json:
        result = json.loads(options.from_json.read_text(encoding="utf-8"))
    else:
        result = new_result(options)
        progress(f"figures: {options.json}")
    print(table(result))
    if find_spec("matplotlib") is None:
        progress("no chart: matplotlib is not installed")
    else:
        for group, (ending, *_) in CHARTS.items():
            file = options.chart.with_stem(options.chart.stem + ending)
            if draw(result, group, file):
                progress(f"chart: {file}")
            else:
                progress(f"no chart: {file.name} shows plain NumPy and others in the case {group}")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
