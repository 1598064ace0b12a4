"""Random graphs, compared in everything that can be seen with their nodes run one by one.

``make fuzz`` goes deeper, and for many thousands of graphs without hypothesis there is

    python tests/test_graph_random.py --graphs 20000 --seed 1

A failure is printed as a few lines of Python, which make the calls again.
"""

from __future__ import annotations

import argparse
import sys
from random import Random

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from paths import ANY_PATH, PATHS, Path, taken
from plain_graph import assert_same
from random_graphs import GraphCall, random_call

RANDOMS = st.randoms(use_true_random=False)


@given(path=ANY_PATH, random=RANDOMS)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_graph_does_what_its_nodes_do(path, random):
    call = random_call(random)
    note(reproducer(path, call))
    check(path, call)


def reproducer(path: Path | None, call: GraphCall) -> str:
    return (
        "import sys; sys.path.insert(0, 'tests')\n"
        f"from test_graph_random import *\ncheck({path!r}, {call!r})"
    )


def check(path: Path | None, call: GraphCall) -> None:
    operands, dout = call.build()
    with taken(path):
        assert_same(call.function(), *operands, dout=dout, wrt=call.wrt, errstate=call.errstate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    failed = 0
    for seed in range(arguments.seed, arguments.seed + arguments.graphs):
        random = Random(seed)
        path = random.choice([None, *PATHS])
        call = random_call(random)
        try:
            check(path, call)
        except Exception as error:
            failed += 1
            print(f"# seed {seed}: {error!r:.300}\n{reproducer(path, call)}\n")
    print(f"{failed} of {arguments.graphs} graphs differ")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
