"""Compile the core with each compiler here, and let no warning pass.

`make compilers` runs it, in an environment with what setup.py needs. MinGW-w64 compiles for Windows
and does not link: it would take Python's library for Windows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np

BUILD = Path("build/compilers")
WINDOWS = BUILD / "windows"

# That of `make races`, too: no other version's OpenMP can be installed beside it.
CLANG = os.environ.get("CLANG", "clang-16")

# Command: Debian's packages, flags. Clang reports what of Cython's helpers a module does not need.
COMPILERS = {
    "gcc": ("gcc", []),
    CLANG: (f"{CLANG} libomp{CLANG.removeprefix('clang')}-dev", ["-Wno-unused-function"]),
    "x86_64-w64-mingw32-gcc": (
        "gcc-mingw-w64-x86-64",
        [f"-I{WINDOWS / 'python'}", f"-I{WINDOWS / 'numpy/_core/include'}"],
    ),
}

# What of CPython's configuration for Windows the core's headers look at.
PYCONFIG = """\
#define MS_WIN32
#define MS_WIN64
#define MS_WINDOWS
#define NT_THREADS
#define SIZEOF_INT 4
#define SIZEOF_LONG 4
#define SIZEOF_LONG_LONG 8
#define SIZEOF_PID_T 4
#define SIZEOF_SHORT 2
#define SIZEOF_SIZE_T 8
#define SIZEOF_TIME_T 8
#define SIZEOF_VOID_P 8
#define SIZEOF_WCHAR_T 2
"""


def get_headers_for_windows() -> None:
    """Make headers of Python's own and of NumPy's wheel for Windows."""
    shutil.rmtree(WINDOWS, ignore_errors=True)
    shutil.copytree(sysconfig.get_path("include"), WINDOWS / "python")
    (WINDOWS / "python/pyconfig.h").write_text(PYCONFIG, encoding="ascii")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    platform = ["--platform", "win_amd64", "--only-binary", "numpy", "--dest", str(WINDOWS)]
    subprocess.run([*download, *platform, f"numpy=={np.__version__}"], check=True)
    (wheel,) = WINDOWS.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(WINDOWS, [n for n in archive.namelist() if n.endswith(".h")])


def build(compiler: str, flags: list[str]) -> None:
    flags = ["-Wall", "-Wextra", "-Werror", *flags]
    variables = {"CC": compiler, "CFLAGS": " ".join(flags)}
    if "mingw" in compiler:
        variables["LDSHARED"] = f"{compiler} -fsyntax-only"
    folder = BUILD / compiler
    command = [sys.executable, "setup.py", "build", "--build-base", str(folder), "--force"]
    result = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    log = result.stdout + result.stderr
    (folder / "log").write_text(log, encoding="utf-8")
    if result.returncode != 0 or re.search("left out -(fopenmp|march)", log):
        sys.exit(f"{log}\n{compiler}: FAILED")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    print(f"no warnings: {version.splitlines()[0]}", flush=True)


def main() -> None:
    missing = [
        packages for compiler, (packages, _) in COMPILERS.items() if not shutil.which(compiler)
    ]
    if missing:
        sys.exit(f"make compilers needs more: apt-get install {' '.join(missing)}")
    get_headers_for_windows()
    for compiler, (_, flags) in COMPILERS.items():
        build(compiler, flags)


if __name__ == "__main__":
    main()
