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

from side_by_side import progress, run_worker
from side_by_side_cases import GROUPS
from side_by_side_report import markdown, readable

import fastlayers

# From just above the size from which a layer's calls use threads to what only memory holds.
SIZES = "10k", "16k", "30k", "65k", "262k", "1M", "4M"
# A layer, the same with its gradients summed to the operands' shapes, and a graph.
CASES = {"mul-float64": SIZES, "sum-row": ("10k", "100k", "1M", "4M"), "graph-shop": SIZES}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.2, help="for a figure; default: 0.2")
    options = parser.parse_args()
    most = fastlayers.get_num_threads()
    counts = sorted({most, *(1 << k for k in range(most.bit_length()))})
    times: defaultdict[tuple[str, str, int], list[float]] = defaultdict(list)
    for number in range(1, options.rounds + 1):
        for case, sizes in CASES.items():
            for threads in counts:
                progress(f"round {number} of {options.rounds}: {case}, {threads} threads")
                # A process for every number, so that none finds the threads of another one.
                task = {"group": case, "contestant": "fastlayers", "sizes": sizes}
                task |= {"seconds": options.seconds, "check": number == 1}
                for line in run_worker(task, {"FASTLAYERS_NUM_THREADS": str(threads)}):
                    if "error" in line:
                        sys.exit(f"{case}, {threads} threads: {line['error']}")
                    times[case, line["size"], threads].append(line["median"])
    fastlayers.show_config()
    for case, sizes in CASES.items():
        rows = []
        for size in sizes:
            one, *others = (median(times[case, size, threads]) for threads in counts)
            rows.append([size, readable(one), *(f"{readable(t)}: {one / t:.2f}" for t in others)])
        group = GROUPS[case]
        sums = ", gradients summed to the operands' shapes" if group.sum_to_shape else ""
        print(f"\n### {group.layer}, {group.dtype}{sums}: time of a step, by threads\n")
        print(markdown(["n", *map(str, counts)], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
