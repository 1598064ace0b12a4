"""Time steps by the number of threads: 1, 2, 4 and so on, and as many as there are by default.

    python benchmarks/threads.py    # some minutes; on a machine that has nothing else to do

Prints what fastlayers knows of the machine and of itself, and a table in Markdown for every case:
the time of a step, and how many times as fast it is as on one thread.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from statistics import median

from cases import CASES
from report import markdown, readable
from runner import Job, take_turns

import fastlayers

# From just above the size from which a layer's calls use threads to what only memory holds.
SIZES = "10k", "16k", "30k", "65k", "262k", "1M", "4M"
# A layer, the same with its gradients summed to the operands' shapes, and a graph.
MEASURED = {"mul-float64": SIZES, "sum-row": ("10k", "100k", "1M", "4M"), "graph-shop": SIZES}

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
parser.add_argument("--seconds", type=float, default=0.2, help="for a figure; default: 0.2")
options = parser.parse_args()

most = fastlayers.get_num_threads()
counts = [str(n) for n in sorted({most, *(1 << k for k in range(most.bit_length()))})]
# A process for every number, so that none finds the threads of another one.
names = [(case, {"FASTLAYERS_NUM_THREADS": count}) for case in MEASURED for count in counts]
jobs = [Job(case, "fastlayers", MEASURED[case], number) for case, number in names]
times = defaultdict(list)
for _, job, line in take_turns(jobs, options.rounds, options.seconds):
    if "error" in line:
        sys.exit(f"{job.case}, {job.environment}: {line['error']}")
    times[job.case, line["size"], job.environment["FASTLAYERS_NUM_THREADS"]].append(line["median"])

fastlayers.show_config()
for name, sizes in MEASURED.items():
    rows = []
    for size in sizes:
        one, *others = (median(times[name, size, count]) for count in counts)
        rows.append([size, readable(one), *(f"{readable(t)}: {one / t:.2f}" for t in others)])
    case = CASES[name]
    sums = ", gradients summed to the operands' shapes" if case.kind == "sums" else ""
    print(f"\n### {case.title}, {case.dtype}{sums}: time of a step, by threads\n")
    print(markdown(["n", *counts], rows))
