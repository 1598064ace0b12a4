"""Time the cases of cases.py by the contestants of contestants.py, in turns.

    python benchmarks/side_by_side.py                       # all; some hours
    python benchmarks/side_by_side.py --quick               # some sizes, one round; an hour
    python benchmarks/side_by_side.py --cases graph-shop    # a part
    python benchmarks/side_by_side.py --cases elementwise rows networks     # functions, networks

Prints tables in Markdown, writes every figure to a JSON file, and draws charts beside it. Libraries
that are not installed are left out. Measure on a machine that has nothing else to do: a second busy
process costs the contestants that use threads far more than the others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cases import CASES, FUNCTIONS, SIZES
from contestants import CONTESTANTS
from report import CHARTS, draw, report
from runner import Job, progress, take_turns

FILE = Path(__file__).resolve().parent.parent / "build" / "benchmarks" / "side_by_side.json"
QUICK_SIZES = "1", "1k", "10k", "30k", "262k", "1M", "4M", "10000x100", "10000x256", "32x784"
ALL_SIZES = dict.fromkeys([*SIZES, *(size for case in CASES.values() for size in case.sizes)])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes, one short round")
    parser.add_argument("--rounds", type=int, help="default: 3, with --quick 1")
    parser.add_argument("--seconds", type=float, help="for a figure; default: 0.2, quick 0.1")
    cases = [*CASES, *FUNCTIONS]
    for name, choices in ("cases", cases), ("sizes", ALL_SIZES), ("contestants", CONTESTANTS):
        text = f"some of: {' · '.join(choices)}"
        parser.add_argument(f"--{name}", nargs="+", choices=choices, metavar="NAME", help=text)
    parser.add_argument("--json", type=Path, default=FILE, help="default: in build/benchmarks")
    parser.add_argument("--from-json", type=Path, help="print and draw this, without measuring")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (0.1 if options.quick else 0.2)
    options.sizes = options.sizes or (QUICK_SIZES if options.quick else ALL_SIZES)
    wanted = options.cases or CASES
    options.cases = [name for name in CASES if {name, CASES[name].kind} & {*wanted}]
    return options


def plan(options: argparse.Namespace, contestants: list[str]) -> list[Job]:
    """Return the jobs of a round."""
    jobs = []
    for name in options.cases:
        sizes = tuple(size for size in CASES[name].sizes if size in options.sizes)
        present = [each for each in contestants if CONTESTANTS[each].competes(CASES[name])]
        alone = [each for each in present if CONTESTANTS[each].process_per_size]
        jobs += [Job(name, each, (size,)) for size in sizes for each in alone]
        jobs += [Job(name, each, sizes) for each in present if sizes and each not in alone]
    return jobs


def cpu_name() -> str:
    file = Path("/proc/cpuinfo")  # of Linux
    name = re.search(r"^model name\s*: (.*)", file.read_text() if file.exists() else "", re.M)
    return name[1] if name else platform.processor() or platform.machine()


def circumstances(options: argparse.Namespace, contestants: list[str]) -> dict[str, Any]:
    modules = dict.fromkeys(["numpy", *(CONTESTANTS[name].module for name in contestants)])
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.machine()}"
    return {
        "date": date.today().isoformat(),
        "machine": f"{cpu_name()}, {os.cpu_count()} CPUs, {system}",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": ", ".join([python, *(f"{name} {version(name)}" for name in modules)]),
        # Everybody uses as many threads as it does by default: unless these say otherwise.
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.endswith("_NUM_THREADS")},
        "rounds": options.rounds,
        "seconds": options.seconds,
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    wanted = [name for name in CONTESTANTS if name in (options.contestants or CONTESTANTS)]
    here = [name for name in wanted if CONTESTANTS[name].is_here()]
    missing = [name for name in wanted if name not in here]
    about = circumstances(options, here)
    result: dict[str, Any] = {"circumstances": about, "missing": missing}
    result |= {"figures": [], "failures": []}
    progress(f"left out, not installed: {', '.join(missing) or 'none'}")
    if about["load"] is not None and about["load"] > 0.3:
        progress(f"the machine is not idle (load {about['load']:.2f}): threads will look slower")
    # Rounds share what Inductor compiles, but runs do not: the first round says how long it takes.
    cache = tempfile.TemporaryDirectory()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache.name
    try:
        for number, job, line in take_turns(plan(options, here), options.rounds, options.seconds):
            line |= {"round": number, "case": job.case, "contestant": job.contestant}
            result["failures" if "error" in line else "figures"].append(line)
    except KeyboardInterrupt:
        progress("interrupted: what follows is what there was by then")
    finally:
        cache.cleanup()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def main() -> int:
    options = arguments()
    file = options.from_json or options.json
    result = json.loads(file.read_text(encoding="utf-8")) if options.from_json else measure(options)
    print(report(result))
    progress(f"figures: {file}")
    for chart in map(file.with_name, CHARTS):
        if find_spec("matplotlib") and draw(result, chart):
            progress(f"chart: {chart}")
        else:
            progress(f"no {chart.name}: matplotlib is missing, or NumPy or others in that case")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
