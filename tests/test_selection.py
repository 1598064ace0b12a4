"""FASTLAYERS_IMPLEMENTATION decides who computes, and a broken build is never silent.

So do the other environment variables decide, and none is read wrongly.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import fresh
import pytest

import fastlayers
from fastlayers import config, core, limits

# As an interrupted build or a wheel for another machine would have it.
BLOCK = "import sys; sys.modules['fastlayers._core'] = None\n"
REPORT = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastlayers
    import fastlayers.core
print(fastlayers.IMPLEMENTATION)
for warning in caught:
    print(warning.category.__name__, warning.message)
"""


def run(code, variable=None, **variables):
    """Run code in a fresh interpreter, where FASTLAYERS_IMPLEMENTATION is as given."""
    if variable is not None:
        variables["FASTLAYERS_IMPLEMENTATION"] = variable
    return fresh.run("-c", code, **variables)


def test_chosen(implementation):
    chosen = {"native": [None, "", "native"], "reference": ["reference"]}
    where = {"native": "fastlayers._core", "reference": "fastlayers.reference"}
    code = "print(fastlayers.MulLayer().forward(100, 2), fastlayers.multiply.__module__)"
    for variable in chosen[implementation.name]:
        result = run(REPORT + code, variable)
        name, product, module = result.stdout.split()
        assert (name, product, result.stderr) == (implementation.name, "200", "")
        assert module.startswith(where[implementation.name])


@pytest.mark.parametrize("variable", [None, ""])
def test_broken_build_warns_once_and_runs_on(variable):
    answers = "print(fastlayers.AddLayer().backward(1.5)); fastlayers.show_config()"
    result = run(BLOCK + REPORT + answers, variable)
    implementation, warning, answer, *shown = result.stdout.splitlines()
    assert (implementation, answer, result.stderr) == ("reference", "(1.5, 1.5)", "")
    reason = "the compiled part of fastlayers cannot be imported"
    assert warning.startswith(f"RuntimeWarning {reason}")
    assert any(line.startswith(f"  reason: {reason}") for line in shown)
    assert "reinstall" in warning
    assert warning.endswith("set FASTLAYERS_IMPLEMENTATION=reference.")


PROGRAM = """
import sys; sys.modules["fastlayers._core"] = None

{statement}
"""


@pytest.mark.parametrize(
    "statement",
    ["import fastlayers", "from fastlayers import MulLayer", "import fastlayers.reference as r"],
)
def test_warnings_point_at_the_line_that_imports(tmp_path, statement):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(statement=statement), encoding="ascii")
    result = fresh.run(str(program))
    assert result.returncode == 0
    broken, line = result.stderr.splitlines()
    assert broken.startswith(f"{program}:4: RuntimeWarning: the compiled part of fastlayers ")
    assert line.strip() == statement


def test_the_reference_does_not_load_the_compiled_part():
    result = run(BLOCK + REPORT, "reference")  # broken or not
    assert (result.stdout, result.stderr) == ("reference\n", "")
    result = run("import fastlayers, sys; print('fastlayers._core' in sys.modules)", "reference")
    assert result.stdout == "False\n"


# -------------------------------------------------------------------------------------- variables

native_only = pytest.mark.skipif(
    fastlayers.IMPLEMENTATION != "native", reason="there is no compiled part"
)
# Each value in the same interpreter, which imports again what reads it.
IMPORTS = """
import os, sys
for value in {values!r}:
    os.environ[{name!r}] = value
    for module in "", ".core", ".config", "._core", "._core.simd":
        sys.modules.pop("fastlayers" + module, None)
    try:
        import fastlayers
        print(fastlayers.cache_info().limit)
    except ValueError as error:
        print(error)
"""
SIZES = {
    **{"64K": 64 << 10, "64M": 64 << 20, "64MiB": 64 << 20, "1GiB": 1 << 30, "2 g": 2 << 30},
    **{"1T": 1 << 40, "0": 0, "0M": 0, "1000000": 1_000_000, " 12 ": 12},
    **{"9999999999T": sys.maxsize, "9" * 30: sys.maxsize},
}
WRONG = {
    "CACHE_LIMIT": ("at least 0", "-1 1.5 1e6 lots 1_MB 0x10 1KMB iB 64iB B 1P"),
    "NUM_THREADS": ("an integer from 1 to 1024", "0 -1 two 1.5 1025 99999999999999999999"),
    "IMPLEMENTATION": ("it must be 'native' or 'reference', or unset", "nonsense Native native_ 0"),
    "SIMD": ("this CPU and this build have ", "x86-64-v9 avx512 X86-64-V3 0"),
}


@native_only
def test_sizes_of_the_cache():
    result = run(IMPORTS.format(name="FASTLAYERS_CACHE_LIMIT", values=["", *SIZES]))
    by_default = min(limits.memory_bytes() // 8, 1 << 30)
    assert result.stdout.split() == [*map(str, [by_default, *SIZES.values()])]


@pytest.mark.parametrize("name", WRONG)
def test_values_that_make_no_sense(name):
    if name == "SIMD" and fastlayers.IMPLEMENTATION != "native":
        pytest.skip("plain NumPy uses whatever NumPy does")
    message, values = WRONG[name]
    values = [value.replace("_", " ") for value in values.split()]
    result = run(IMPORTS.format(name=f"FASTLAYERS_{name}", values=values))
    for value, error in zip(values, result.stdout.splitlines(), strict=True):
        assert error.startswith(f"FASTLAYERS_{name} is {value!r}; ")
        assert message in error


def test_variables_that_somebody_reads():
    variables = dict.fromkeys(config.VARIABLES, "")
    result = run(REPORT, fastlayers.IMPLEMENTATION, **variables)
    assert (result.stdout.split(), result.stderr) == ([fastlayers.IMPLEMENTATION], "")
    read = {
        name
        for source in Path(fastlayers.__file__).parent.rglob("*.py")
        for name in re.findall(r"\bFASTLAYERS_[A-Z_]+\b", source.read_text(encoding="utf-8"))
    }
    assert read == {*config.VARIABLES, "FASTLAYERS_PURE"}  # of which setup.py alone reads the last


# ---------------------------------------------------------------------------------- partly broken


CORE = Path(fastlayers.__file__).parent / "_core"


def modules(core, name):
    """The files of compiled modules, as installed; ``name`` is one of a folder's, or ``**/*``."""
    return [path for path in core.glob(f"{name}.*") if path.suffix in (".so", ".pyd")]


def rename_for_another_python(path):
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    path.rename(path.with_name(path.name.replace(version, "309")))


def overwrite(path):
    path.write_bytes(b"This is no library. " * 100)


def cut_off(path):
    path.write_bytes(b"")


DAMAGES = {  # what becomes of which files, and what is said of it
    "no functions": (
        Path.unlink,
        "frontend/dispatch",
        "'dispatch' from 'fastlayers._core.frontend'",
    ),
    "no memory": (Path.unlink, "memory", "fastlayers._core.memory"),
    "no kernels": (Path.unlink, "engine/kernels_*", "no kernels for this CPU"),
    "for another Python": (rename_for_another_python, "**/*", "fastlayers._core."),
    "kernels overwritten": (overwrite, "engine/kernels_*", "kernels_"),
    "dtypes cut off": (cut_off, "frontend/dtypes", "dtypes"),
}


@pytest.fixture
def copy_of_package(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    copy = shutil.copytree(CORE.parent, tmp_path / "fastlayers", ignore=ignored)
    libraries = CORE.parent.parent / "fastlayers.libs"  # which a repaired wheel brings
    if libraries.exists():
        shutil.copytree(libraries, tmp_path / libraries.name)
    assert len(modules(copy / "_core", "**/*")) >= 6
    return copy


# Then again, in the same interpreter, where there is no doing without.
DEMAND = """
import os, sys
print(fastlayers.__file__)
os.environ["FASTLAYERS_IMPLEMENTATION"] = "native"
for name in [name for name in sys.modules if name.partition(".")[0] == "fastlayers"]:
    del sys.modules[name]
import fastlayers
"""


@native_only
@pytest.mark.parametrize("damage", DAMAGES)
def test_partly_broken_build(copy_of_package, damage):
    spoil, name, reason = DAMAGES[damage]
    for path in modules(copy_of_package / "_core", name):
        spoil(path)
    path = str(copy_of_package.parent)
    result = run(REPORT + DEMAND, PYTHONPATH=path)
    implementation, *warnings, file = result.stdout.splitlines()
    assert file.startswith(path)
    assert implementation == "reference"
    assert len(warnings) == 1
    assert warnings[0].startswith("RuntimeWarning the compiled part of fastlayers cannot be")
    assert reason in warnings[0]
    assert result.returncode == 1
    error = result.stderr.splitlines()[-1]
    assert error.startswith("ImportError: FASTLAYERS_IMPLEMENTATION=native")
    assert reason in error
    assert "reinstall fastlayers" in error
    assert "unset FASTLAYERS_IMPLEMENTATION" in error


@native_only
def test_cpu_that_is_older_than_all_that_is_built(monkeypatch):
    from fastlayers._core import simd

    monkeypatch.setattr(simd, "cpu_level", lambda: -1)
    monkeypatch.delenv("FASTLAYERS_SIMD", raising=False)
    with pytest.raises(ImportError, match="it has no kernels for this CPU; built were: ") as caught:
        simd.use_preferred()
    monkeypatch.setenv("FASTLAYERS_IMPLEMENTATION", "native")
    with pytest.raises(ImportError, match="FASTLAYERS_IMPLEMENTATION=native, ") as refused:
        core._missing(caught.value)
    monkeypatch.delenv("FASTLAYERS_IMPLEMENTATION")
    _, warning = core._missing(caught.value)
    for text in (str(refused.value), warning):
        assert f"Reinstalling does not help, as this CPU is older than {simd.built()[0]}." in text
        assert "pip" not in text


@native_only
def test_instruction_set_that_was_not_built(copy_of_package):
    # As from a compiler that does not know the best one.
    from fastlayers._core import simd

    *others, best = simd.available()
    if not others:
        pytest.skip("there is one only")
    for path in modules(copy_of_package / "_core", f"engine/kernels_{best.replace('-', '_')}"):
        path.unlink()
    code = REPORT + "from fastlayers._core import simd; print(simd.in_use())"
    result = run(code, "native", PYTHONPATH=str(copy_of_package.parent))
    assert (result.stdout.split(), result.stderr) == (["native", others[-1]], "")


@native_only
def test_frozen_programs_find_the_kernels():
    # Whatever freezes a program follows its import statements, and no names put together.
    from fastlayers._core import simd

    source = Path(simd.__file__).read_text(encoding="utf-8")
    imported = set(re.findall(r"^ +from \.engine import (kernels_\w+) as module", source, re.M))
    assert imported == {simd._module(level).rpartition(".")[2] for level in simd.LEVELS}
    there = {path.name.partition(".")[0] for path in modules(CORE, "engine/kernels_*")}
    assert there == {simd._module(level).rpartition(".")[2] for level in simd.built()}
