"""Build the compiled part. Everything else about the package stands in pyproject.toml.

FASTLAYERS_DEBUG=1   checks indices, does not optimise: for the debugger
FASTLAYERS_COVERAGE=1   counts how often each line is run: GCC's and Clang's --coverage
FASTLAYERS_SANITIZE=address,undefined   checks what GCC's or Clang's -fsanitize of these names does
"""

import json
import os
import sys
import sysconfig
import tempfile
from pathlib import Path

import Cython
import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("FASTLAYERS_DEBUG") == "1"
COVERAGE = os.environ.get("FASTLAYERS_COVERAGE") == "1"
SANITIZE = os.environ.get("FASTLAYERS_SANITIZE", "")

# A folder for each variant, and for each NumPy, whose declarations go into the C: neither
# setuptools nor Cython notices when flags, directives or those change.
VARIANT = "debug" if DEBUG else "coverage" if COVERAGE else "release"
if SANITIZE:
    VARIANT += "-" + SANITIZE.replace(",", "-")
BUILD = f"build/{VARIANT}/numpy-{np.__version__}"

CORE = Path("src/fastlayers/_core")
MSVC = sys.platform == "win32"
# What Python was built for, not what the machine is: a 32-bit Python, or one for both of Apple's
# architectures, cannot be given the flags of x86-64.
X86_64 = sysconfig.get_platform().endswith(("x86_64", "amd64"))

# NumPy rounds each operation on its own, lets integers wrap, and so do the kernels.
FLAGS = ["/O2", "/fp:precise"] if MSVC else ["-O3", "-g0", "-fwrapv", "-ffp-contract=off"]
if DEBUG or COVERAGE:
    FLAGS += ["/Od"] if MSVC else ["-O0", "-g"]
LINK_FLAGS = ["--coverage"] if COVERAGE else []
FLAGS += LINK_FLAGS
if SANITIZE:
    LINK_FLAGS = [f"-fsanitize={SANITIZE}"]
    FLAGS += [*LINK_FLAGS, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1", "-g"]

# What compilers call OpenMP: flags to compile with, flags to link with.
OPENMP = [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])]
if MSVC:
    OPENMP = [(["/openmp"], [])]
if "thread" in SANITIZE:
    OPENMP = []  # GNU OpenMP waits in ways that the thread sanitizer cannot see: all false alarms

# Instruction sets of the kernels; each makes a module of its own.
LEVELS = {"baseline": []}
if X86_64 and MSVC:
    LEVELS = {"x86_64_v2": [], "x86_64_v3": ["/arch:AVX2"], "x86_64_v4": ["/arch:AVX512"]}
elif X86_64:
    LEVELS = {
        "x86_64_v2": ["-march=x86-64-v2"],
        "x86_64_v3": ["-march=x86-64-v3"],
        "x86_64_v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    }
if COVERAGE:
    LEVELS = {"baseline": []}  # one is enough: they are built from the same lines


class BuildExt(build_ext):
    """Leaves out what the compiler does not know: instruction sets, OpenMP."""

    def build_extensions(self):
        self.extensions = [e for e in self.extensions if self.builds("", e.extra_compile_args)]
        program = "#include <omp.h>\nint threads(void) { return omp_get_max_threads(); }\n"
        for compile_flags, link_flags in OPENMP:
            if self.builds(program, compile_flags, link_flags):
                for e in self.extensions:
                    e.extra_compile_args += compile_flags
                    e.extra_link_args += link_flags
                break
        self.record()
        super().build_extensions()

    def record(self):
        """Leave what `fastlayers.show_config` tells of the build to the C compiler, in a header."""
        info = {
            "command": " ".join(getattr(self.compiler, "compiler_so", [])),
            "flags": {
                e.name.rpartition(".")[2]: " ".join(e.extra_compile_args) for e in self.extensions
            },
            "NumPy": np.__version__,
            "Cython": Cython.__version__,
        }
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        text = f"#define BUILD_INFO {json.dumps(json.dumps(info))}\n"
        (folder / "build_info.h").write_text(text, encoding="ascii")
        for e in self.extensions:
            e.include_dirs.append(str(folder))

    def builds(self, program, compile_flags, link_flags=()):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(program + "int probe;\n", encoding="ascii")
            try:
                objects = self.compiler.compile(
                    [str(source)], output_dir=folder, extra_postargs=list(compile_flags)
                )
                self.compiler.link_shared_object(
                    objects, str(Path(folder, "probe.so")), extra_postargs=list(link_flags)
                )
            except Exception as error:  # each compiler class has errors of its own
                print(f"left out {' '.join(compile_flags)}: {error}")
                return False
        return True


def extension(name, flags=()):
    return Extension(
        f"fastlayers._core.{name}",
        [str(CORE / f"{name}.pyx")],
        include_dirs=[np.get_include(), str(CORE)],
        define_macros=[
            ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
            ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
        ],
        libraries=[] if MSVC else ["m"],  # of fpstatus.h, where that takes fenv.h
        extra_compile_args=[*FLAGS, *flags],
        extra_link_args=[*LINK_FLAGS],
        depends=[
            "setup.py",
            *(str(p) for p in sorted(CORE.iterdir()) if p.suffix in (".h", ".pxd", ".pxi")),
        ],
    )


setup(
    cmdclass={"build_ext": BuildExt},
    options={"build": {"build_base": BUILD}},
    ext_modules=cythonize(
        [
            extension("dispatch"),
            extension("memory"),
            *(extension(f"kernels_{name}", flags) for name, flags in LEVELS.items()),
        ],
        build_dir=f"{BUILD}/cython",  # outside the source tree
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "initializedcheck": False,
            "wraparound": False,
            "cdivision": True,
            "freethreading_compatible": True,
        },
    ),
)
