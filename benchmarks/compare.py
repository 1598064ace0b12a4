"""Print two saved runs as one table a call: compare.py REFERENCE.json NATIVE.json"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any


def machine(run: dict[str, Any]) -> str:
    info = run["machine_info"]
    return (
        f"fastlayers {info['fastlayers_version']}, NumPy {info['numpy_version']}, "
        f"{info['python_implementation']} {info['python_version']}, "
        f"{info['system']} {info['machine']}, "
        f"{info['cpu'].get('brand_raw', 'unknown CPU')}, {info['cpu'].get('count', '?')} CPUs"
    )


def readable(seconds: float) -> str:
    for unit, scale in ("ns", 1e9), ("µs", 1e6):
        if seconds * scale < 999.5:  # from there on three digits would round to 1000
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e3:.3g} ms"


def print_table(title: str, cells: dict[tuple[str, str], tuple[float, float]]) -> None:
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = list(dict.fromkeys(column for _, column in cells))
    print("\n" + title.ljust(18) + "".join(column.rjust(27) for column in columns))
    for row in rows:
        print(row.rjust(18), end="")
        for column in columns:
            if (row, column) in cells:
                before, after = cells[row, column]
                cell = f"{readable(before)} / {readable(after)} {before / after:6.2f}"
            else:
                cell = "-"
            print(cell.rjust(27), end="")
        print()


def main(reference_file: str, native_file: str) -> None:
    reference, native = (
        json.loads(Path(name).read_text(encoding="utf-8")) for name in (reference_file, native_file)
    )
    after = {case["fullname"]: case["stats"]["median"] for case in native["benchmarks"]}
    tables: defaultdict[str, dict[tuple[str, str], tuple[float, float]]] = defaultdict(dict)
    overhead = ""
    for case in reference["benchmarks"]:
        if case["fullname"] not in after:
            continue
        medians = case["stats"]["median"], after[case["fullname"]]
        dtype, size = (case["extra_info"].get(key) for key in ("dtype", "size"))
        if dtype is None:
            overhead = f"; {readable(medians[0])} / {readable(medians[1])} of each is the measuring"
        elif dtype == "python":
            tables["Python numbers"][case["group"], size] = medians
        else:
            tables[case["group"]][f"{size:,}", dtype] = medians
    print(*dict.fromkeys([machine(reference), machine(native)]), sep="\n")
    print(f"median time, reference / native{overhead}")
    print("ratio: reference / native; above 1 native is the faster, below 1 the slower")
    for title, cells in tables.items():
        print_table(title, cells)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
