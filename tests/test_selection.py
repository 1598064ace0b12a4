"""FASTLAYERS_IMPLEMENTATION decides who computes, and a broken build is never silent.

So do the other environment variables decide, and none is read wrongly.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
from importlib.util import resolve_name
from pathlib import Path

import fresh
import numpy as np
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
    result = run(BLOCK + REPORT + "print(fastlayers.AddLayer().backward(1.5))", variable)
    implementation, warning, answer = result.stdout.splitlines()
    assert (implementation, answer, result.stderr) == ("reference", "(1.5, 1.5)", "")
    assert warning.startswith("RuntimeWarning the compiled part of fastlayers cannot be imported")
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


def modules(core, name):
    """The files of compiled modules, as installed; ``name`` is one of a folder's, or ``**/*``."""
    return [path for path in core.glob(f"{name}.*") if path.suffix in (".so", ".pyd")]


def remove(core, name):
    for path in modules(core, name):
        path.unlink()


def overwrite(core, name):
    for path in modules(core, name):
        path.write_bytes(b"This is no library. " * 100)


def cut_off(core, name):
    for path in modules(core, name):
        path.write_bytes(b"")


def rename_for_another_python(core, name):
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    for path in modules(core, name):
        path.rename(path.with_name(path.name.replace(version, "309")))


DAMAGES = {
    "no functions": (remove, "frontend/dispatch", "'dispatch' from 'fastlayers._core.frontend'"),
    "no schedule": (remove, "frontend/schedule", "fastlayers._core.frontend.schedule"),
    "no operations": (remove, "program/operations", "fastlayers._core.program.operations"),
    "no memory": (remove, "memory", "fastlayers._core.memory"),
    "no kernels": (remove, "engine/kernels_*", "no kernels for this CPU"),
    "for another Python": (rename_for_another_python, "**/*", "fastlayers._core."),
    "functions overwritten": (overwrite, "frontend/dispatch", "dispatch"),
    "kernels overwritten": (overwrite, "engine/kernels_*", "kernels_"),
    "dtypes cut off": (cut_off, "frontend/dtypes", "dtypes"),
}


@pytest.fixture
def copy_of_package(tmp_path):
    source = Path(fastlayers.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    copy = shutil.copytree(source, tmp_path / "fastlayers", ignore=ignored)
    libraries = source.parent / "fastlayers.libs"  # which a repaired wheel brings
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
    break_module, name, reason = DAMAGES[damage]
    break_module(copy_of_package / "_core", name)
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
    remove(copy_of_package / "_core", f"engine/kernels_{best.replace('-', '_')}")
    code = REPORT + "from fastlayers._core import simd; print(simd.in_use())"
    result = run(code, "native", PYTHONPATH=str(copy_of_package.parent))
    assert (result.stdout.split(), result.stderr) == (["native", others[-1]], "")


# ------------------------------------------------------------------------------- instruction sets

# Of what the kernels serve all bits, wherever; of what NumPy computes the same as it does there.
DIGEST = """
from hashlib import sha256
from itertools import product
import numpy as np, fastlayers, plain
from implementations import INSTALLED
from operands import FLOATS, KERNEL_DTYPES, Operand
from outcome import described, everything

digest = sha256()
served = [*product(KERNEL_DTYPES, ("bits", "special"))]
others = [(dtype, "ordinary") for dtype in ("?", "i2", "u8", "f2", "F", "D", "g", ">f8", "m8[s]")]
shapes = [(131,), (131,)], [(20_001,), ()], [(33, 70), (33, 1)]
layouts = ("C", "stepped")
for (dtype, values), (shape, narrower), layout in product(served + others, shapes, layouts):
    x, dout = (Operand(dtype, shape, layout, values, seed).build() for seed in range(2))
    y = Operand(dtype, narrower, "C", values, 2).build()
    outcomes = everything(INSTALLED, x, y, dout, {"all": "ignore"})
    assert outcomes == everything(plain, x, y, dout, {"all": "ignore"})
    if (dtype, values) in served:
        digest.update(repr(outcomes).encode())
    if dtype in FLOATS and values == "bits":
        with np.errstate(all="ignore"):
            x, y, dout = (np.nan_to_num(np.clip(one, -9, 9)) for one in (x, y, dout))
            sums = fastlayers.multiply_backward(dout, x, y, sum_to_shape=True)
        digest.update(repr(described(sums)).encode())
print(digest.hexdigest())
"""


def cpu_features():
    """What NumPy chooses from at import on this CPU, the best one last."""
    return np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])


@native_only
def test_same_bits_whatever_the_cpu_is_said_to_have():
    from fastlayers._core import simd

    features = cpu_features()
    starts = {len(features) * third // 3 for third in range(3)}
    environments = [{"FASTLAYERS_SIMD": level} for level in simd.available()]
    environments += [{"NPY_DISABLE_CPU_FEATURES": " ".join(features[i:])} for i in starts]
    digests = {}
    for environment in environments:
        result = run(DIGEST, "native", **environment)
        assert result.stderr == ""
        digests[str(environment)] = result.stdout
    assert len(set(digests.values())) == 1, digests


@native_only
def test_frozen_programs_find_the_kernels():
    # Whatever freezes a program follows its import statements, and no names put together.
    from fastlayers._core import simd

    statements = [
        node
        for node in ast.walk(ast.parse(Path(simd.__file__).read_text()))
        if isinstance(node, ast.ImportFrom)
    ]
    imported = {
        resolve_name("." * node.level + f"{node.module}.{alias.name}", simd.__package__)
        for node in statements
        if node.level
        for alias in node.names
    }
    assert set(map(simd._module, simd.LEVELS)) <= imported
    # Those that were built are there.
    assert set(map(simd._module, simd.built())) <= {
        f"{simd.__package__}.engine.{path.name.partition('.')[0]}"
        for path in modules(Path(simd.__file__).parent, "engine/kernels_*")
    }
