"""Fresh interpreters, where nothing sets a knob but the variables that are given."""

from __future__ import annotations

import os
import subprocess
import sys


def run(*arguments, **variables):
    """Run a fresh interpreter to its end."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("FASTLAYERS_", "OMP_", "GOMP_"))
    }
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment | {"OMP_WAIT_POLICY": "passive"} | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def output_of(code, **variables):
    """What code prints, in words; it may neither fail nor complain."""
    result = run("-c", code, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.split()


def last_line_of_error(code, **variables):
    """What code that fails says in the end."""
    result = run("-c", code, **variables)
    assert result.returncode == 1
    return result.stderr.splitlines()[-1]
