"""Fresh interpreters, where nothing sets a knob but the variables that are given."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SUPPORT = Path(__file__).parent
# How many times as long as usual a program may take: an emulated one needs it.
PATIENCE = int(os.environ.get("TEST_PATIENCE", "1"))

# Code for interpreters that fork.
FORK = f"""
import os
import signal

def fork(function):
    child = os.fork()
    if child == 0:
        signal.alarm({30 * PATIENCE})  # ends a child that hangs
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return child

def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def environment(**variables):
    """The variables of a fresh interpreter, which can import the tests and what they share."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("FASTLAYERS_", "OMP_", "GOMP_"))
    }
    path = os.pathsep.join(
        [str(SUPPORT), str(SUPPORT.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    # A thread that compiles would be met where threads are counted.
    kept["FASTLAYERS_COMPILE"] = os.environ.get("FASTLAYERS_COMPILE", "0")
    return kept | {"OMP_WAIT_POLICY": "passive", "PYTHONPATH": path} | variables


def run(*arguments, **variables):
    """Run a fresh interpreter to its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120 * PATIENCE,
    )


def lines_of(*arguments, **variables):
    """The lines that an interpreter prints; it may neither fail nor complain."""
    result = run(*arguments, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


def output_of(code, **variables):
    """What code prints, in words."""
    return " ".join(lines_of("-c", code, **variables)).split()


def compiled(source, folder, *options):
    """Compile a C file of this folder to what can be preloaded; return the library's name."""
    compiler = shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) or "cc"
    library = str(folder / source.replace(".c", ".so"))
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, SUPPORT / source, *options]
    subprocess.run(command, check=True)
    return library


def last_line_of_error(code, **variables):
    """What code that fails says in the end."""
    result = run("-c", code, **variables)
    assert result.returncode == 1
    return result.stderr.splitlines()[-1]
