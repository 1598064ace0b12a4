"""setup.py: a build that cannot be made fails, in the compiler's words, and no other does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fresh
import pytest

ROOT = Path(__file__).parent.parent
if not (ROOT / "src").exists():
    pytest.skip("a wheel is tested, away from its sources", allow_module_level=True)

posix_only = pytest.mark.skipif(os.name != "posix", reason="the compilers here are shell scripts")

# It compiles nothing, and knows no x86-64-v4.
OLD_COMPILER = """#!/bin/sh
case "$*" in *x86-64-v4*) echo "what is x86-64-v4?" >&2; exit 1;; esac
while [ $# -gt 1 ]; do [ "$1" = -o ] && echo made > "$2"; shift; done
"""


@pytest.fixture
def sources(tmp_path):
    """A copy of what a build needs; what was built before stays behind."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    shutil.copytree(ROOT / "packaging", tmp_path / "packaging")
    return tmp_path


def setup(sources, *arguments, **variables):
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=sources,
        env=fresh.environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


def script(path, text):
    path.write_text(text, encoding="ascii")
    path.chmod(0o755)
    return str(path)


@posix_only
@pytest.mark.parametrize("there", [True, False])
def test_a_compiler_that_fails_or_is_not_there(sources, there):
    compiler = str(sources / "cc")
    if there:
        script(sources / "cc", "#!/bin/sh\necho 'no licence for today' >&2\nexit 3\n")
    result = setup(sources, "build", CC=compiler)
    assert result.returncode == 1
    assert ("no licence for today" in result.stderr) == there
    assert "error: " in result.stderr
    assert compiler in result.stderr
    assert "FASTLAYERS_PURE=1" in result.stderr
    assert list(sources.rglob("*.so")) == []


@pytest.fixture
def short_sources(sources):
    """Modules of a line each, which are soon translated."""
    modules = list(sources.rglob("*.pyx"))
    assert len(modules) >= 3
    for module in modules:
        module.write_text("import sys\n", encoding="ascii")
    for declarations in sources.rglob("*.pxd"):
        declarations.unlink()
    return sources


@posix_only
def test_an_old_compiler_and_flags_that_change_results(short_sources):
    core = short_sources / "built/fastlayers/_core"
    (core / "engine").mkdir(parents=True)
    stale = [
        core / "engine/kernels_x86_64_v4.so",
        core.parent / "gone.py",
    ]
    for path in stale:
        path.write_text("of an earlier build", encoding="ascii")
    compiler = script(short_sources / "cc", OLD_COMPILER)
    flags = {"CC": compiler, "CFLAGS": "-Ofast -ffast-math"}
    result = setup(short_sources, "build", "--build-lib", "built", **flags)
    assert result.returncode == 0, result.stderr

    built = {
        str(path.relative_to(core)).partition(".")[0].replace(os.sep, ".")
        for path in core.rglob("*.so")
    }
    levels = {"engine.kernels_baseline"}
    if "engine.kernels_x86_64_v2" in built:
        levels = {"engine.kernels_x86_64_v2", "engine.kernels_x86_64_v3"}
        assert "left out -march=x86-64-v4 -mprefer-vector-width=512: " in result.stdout
        assert "what is x86-64-v4?" in result.stderr
    frontend = {
        f"frontend.{name}" for name in ("dispatch", "dtypes", "fp", "methods", "passes", "schedule")
    }
    assert built == {"memory", "program.operations"} | frontend | levels
    assert {path.name for path in core.parent.glob("*.py*")} == {
        path.name for path in (short_sources / "src/fastlayers").glob("*.py*")
    }

    # The user's flags come first, and those that would change results are undone.
    commands = [line.split() for line in result.stdout.splitlines() if line.startswith(compiler)]
    modules = [words for words in commands if not any("probe" in word for word in words)]
    assert {"-c", "-shared"} <= {word for words in modules for word in words}
    for words in modules:
        assert words.index("-Ofast") < words.index("-O3")
        assert words.index("-ffast-math") < words.index("-fno-fast-math")


@posix_only
def test_a_source_that_does_not_compile(short_sources):
    # That is no matter of what a compiler knows: nothing is left out.
    text = OLD_COMPILER.replace(
        "while", 'case "$*" in *dispatch*) echo oh >&2; exit 1;; esac\nwhile'
    )
    result = setup(short_sources, "build_ext", CC=script(short_sources / "cc", text))
    assert result.returncode == 1
    assert "oh\n" in result.stderr
    assert "error: " in result.stderr
    assert "dispatch.c" in result.stdout


def test_a_build_without_the_compiled_part(sources):
    result = setup(sources, "build", "--build-lib", "built", FASTLAYERS_PURE="1", CC="/bin/false")
    assert result.returncode == 0, result.stderr
    variables = {"PYTHONPATH": str(sources / "built")}
    show = "import fastlayers; print(fastlayers.IMPLEMENTATION); fastlayers.show_config()"
    lines = fresh.lines_of("-W", "error", "-c", show, **variables)
    assert lines[0] == "reference"
    reason = "this fastlayers was built without its compiled part (FASTLAYERS_PURE=1)"
    assert f"  reason: {reason}" in lines
    assert f"  folder: {sources / 'built' / 'fastlayers'}" in lines

    error = fresh.last_line_of_error(
        "import fastlayers", FASTLAYERS_IMPLEMENTATION="native", **variables
    )
    assert error.startswith(f"ImportError: FASTLAYERS_IMPLEMENTATION=native, but {reason}. ")
    assert "unset that variable and reinstall fastlayers" in error


@posix_only
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-ffast-math"], "-ffast-math"),
        (["-Ofast"], "-Ofast"),
        (["-U__FLT_EVAL_METHOD__", "-D__FLT_EVAL_METHOD__=2"], "FLT_EVAL_METHOD"),
    ],
)
def test_arithmetic_that_rounds_otherwise_is_refused(flags, words):
    # As from a compiler that has such flags by default, or behind those of setup.py.
    header = ROOT / "src/fastlayers/_core/system/compiler.h"
    command = ["cc", "-fsyntax-only", "-x", "c", str(header)]
    accepted = subprocess.run(command, capture_output=True, text=True)
    assert (accepted.returncode, accepted.stderr) == (0, "")
    refused = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert refused.returncode != 0
    assert "#error" in refused.stderr
    assert words in refused.stderr
