"""Report which lines the tests run: of Python by coverage, of Cython and C by GCC's counts.

GCC counts where ``FASTLAYERS_COVERAGE=1`` was set at the build. Cython's own tracing would want the
GIL for each line, and so for each element in a kernel's loop.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

from coverage import Coverage, CoveragePlugin, FileReporter

CORE = Path("src/fastlayers/_core").absolute()
SOURCES = {path.name: str(path) for path in CORE.rglob("*.*") if path.suffix != ".py"}
COUNTERS = Path("build/coverage")

# Cython writes above the C of a line where that stands. What is outside of functions has no counts.
ORIGIN = re.compile(r' */\* "(?:.*/)?([^/"]+)":(\d+)')


def origins(source):
    """Return the file's name and the number of the line that each line of a C file is made from."""
    origin, found = None, {}
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
        if match := ORIGIN.fullmatch(line):
            origin = match[1], int(match[2])
        elif line == "}":
            origin = None
        found[number] = origin
    return found


@cache
def counts():
    """Return how often each line was run, by path and number."""
    found = defaultdict(lambda: defaultdict(int))
    for counters in COUNTERS.rglob("*.gcda"):
        command = ["gcov", "--json-format", "--stdout", counters]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        for file in json.loads(output)["files"]:
            source = Path(file["file"])
            made_from = origins(source) if source.suffix == ".c" else {}
            for line in file["lines"]:
                number = line["line_number"]
                name, number = made_from.get(number) or (source.name, number)
                if path := SOURCES.get(name):
                    found[path][number] += line["count"]
    return found


class Lines(FileReporter):
    def lines(self):
        return set(counts()[self.filename])


class Plugin(CoveragePlugin):
    def file_reporter(self, filename):
        return Lines(filename)


def coverage_init(registry, options):
    registry.add_file_tracer(Plugin())


def main():
    if not counts():
        sys.exit(f"{COUNTERS} has no counts: build with FASTLAYERS_COVERAGE=1, and run the tests")
    report = Coverage()
    report.set_option("run:plugins", [__name__])
    report.combine()
    data = report.get_data()
    data.add_lines({path: [n for n in lines if lines[n]] for path, lines in counts().items()})
    data.add_file_tracers(dict.fromkeys(counts(), f"{__name__}.Plugin"))
    total, wanted = report.report(), report.get_option("report:fail_under")
    if total < wanted:
        sys.exit(f"{total:.1f} % is less than {wanted:.0f} %")


if __name__ == "__main__":
    main()
