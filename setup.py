"""Build the compiled part, and make the README's links absolute. All else is in pyproject.toml.

FASTLAYERS_PURE=1   builds none: a package that runs on plain NumPy, where there is no compiler
FASTLAYERS_DEBUG=1   checks indices, does not optimise: for the debugger
FASTLAYERS_COVERAGE=1   counts how often each line is run: GCC's and Clang's --coverage
FASTLAYERS_SANITIZE=address,undefined   checks what GCC's or Clang's -fsanitize of these names does

Without the first a build that cannot be made is an error, in the compiler's words. All that is left
out are instruction sets above the lowest, and OpenMP, if a compiler that works does not know them.
"""

import json
import os
import re
import sysconfig
import tempfile
import tomllib
from pathlib import Path

import Cython
import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError, LinkError

PURE = os.environ.get("FASTLAYERS_PURE") == "1"
DEBUG = os.environ.get("FASTLAYERS_DEBUG") == "1"
COVERAGE = os.environ.get("FASTLAYERS_COVERAGE") == "1"
SANITIZE = os.environ.get("FASTLAYERS_SANITIZE", "")

# A folder for each variant, and for each NumPy, whose declarations go into the C: neither
# setuptools nor Cython notices when flags, directives or those change.
VARIANT = "pure" if PURE else "debug" if DEBUG else "coverage" if COVERAGE else "release"
if SANITIZE:
    VARIANT += "-" + SANITIZE.replace(",", "-")
BUILD = f"build/{VARIANT}/numpy-{np.__version__}"

CORE = Path("src/fastlayers/_core")

# Instruction sets of the kernels, the lowest first; each makes a module of its own. It counts what
# Python was built for, not what the machine is: a 32-bit Python, or one for both of Apple's
# architectures, cannot be given the flags of x86-64.
LEVELS = ["baseline"]
if sysconfig.get_platform().endswith(("x86_64", "amd64")):
    LEVELS = ["x86_64_v2", "x86_64_v3", "x86_64_v4"]
if COVERAGE:
    LEVELS = ["baseline"]  # one is enough: they are built from the same lines


# Flags by the kind of compiler: Microsoft's and what takes its place; GCC, Clang, MinGW. OpenMP has
# several names, each with flags to compile with and flags to link with.
MSVC = {
    "compile": ["/O2", "/fp:precise", "/volatile:ms"],  # the latter for shared.h, on ARM
    "link": [],
    "libraries": [],
    "loops": [],
    "levels": {"x86_64_v3": ["/arch:AVX2"], "x86_64_v4": ["/arch:AVX512"]},
    "openmp": [(["/openmp"], [])],
}
GCC = {
    # NumPy rounds each operation on its own, lets integers wrap, and so do the kernels. The user's
    # CFLAGS, which may be -Ofast, come before these; so they do to link, where GCC would add what
    # flushes subnormals to zero in the whole process.
    "compile": ["-O3", "-g0", "-fwrapv", "-ffp-contract=off", "-fno-fast-math"],
    "link": ["-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations"],
    "libraries": ["m"],  # of fpstatus.h, where that takes fenv.h
    # For vector loops, if the compiler knows them. In the loop over most arrays, eight, GCC has to
    # compare 13 pairs of addresses first, and would for 10 at most; Clang needs no flag. A loop of
    # 24 bytes that lay across two cache lines took 1.13 times as long (x * y of 30k float32
    # elements, two threads, AMD EPYC of the Milan family).
    "loops": [
        ("#ifdef __clang__\n#error\n#endif\n", ["--param=vect-max-version-for-alias-checks=16"]),
        ("", ["-falign-loops=64"]),
    ],
    "levels": {
        "x86_64_v2": ["-march=x86-64-v2"],
        "x86_64_v3": ["-march=x86-64-v3"],
        "x86_64_v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    },
    "openmp": [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])],
}
if DEBUG:
    MSVC["compile"] += ["/Od"]
if DEBUG or COVERAGE:
    GCC["compile"] += ["-O0", "-g"]
if COVERAGE:
    GCC["compile"] += ["--coverage"]
    GCC["link"] += ["--coverage"]
if SANITIZE:
    GCC["link"] += [f"-fsanitize={SANITIZE}"]
    GCC["compile"] += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
    GCC["compile"] += ["-fno-omit-frame-pointer", "-O1", "-g"]

# Threads wait for each other in ways that the thread sanitizer cannot see: false alarms, but from
# Clang's OpenMP, whose Archer tells it.
OPENMP = "#include <omp.h>\nint threads(void) { return omp_get_max_threads(); }\n"
if "thread" in SANITIZE:
    OPENMP = "#ifndef __clang__\n#error\n#endif\n" + OPENMP


def remove_stale(folder, suffixes, but=()):
    """Remove what earlier builds left of sources that are gone: it would be installed, too."""
    for path in Path(folder).rglob("*"):
        if path.suffix in suffixes and path not in but:
            path.unlink()


class BuildExt(build_ext):
    """Builds what the compiler knows of instruction sets and OpenMP."""

    def build_extensions(self):
        flags = MSVC if self.compiler.compiler_type == "msvc" else GCC
        self.check_compiler()
        for name in LEVELS[1:]:
            if not self.knows("", flags["levels"][name]):
                self.extensions = [e for e in self.extensions if not e.name.endswith(name)]
        for e in self.extensions:
            level = e.name.partition("kernels_")[2]
            e.extra_compile_args = [*flags["compile"], *flags["levels"].get(level, [])]
            e.extra_link_args = [*flags["link"]]
            e.libraries = flags["libraries"]
        for program, loop_flags in flags["loops"]:
            if self.knows(program, loop_flags):
                for e in self.extensions:
                    e.extra_compile_args += loop_flags
        self.add_openmp(flags["openmp"])
        self.record()
        self.translate()
        built = {Path(self.get_ext_fullpath(e.name)) for e in self.extensions}
        remove_stale(self.build_lib, {".so", ".pyd"}, built)
        super().build_extensions()

    def check_compiler(self):
        try:
            self.compile("", [], [])
        except (CompileError, LinkError) as error:
            raise CompileError(
                f"{error}\nfastlayers needs a C compiler that works; what this one says is above. "
                "FASTLAYERS_PURE=1 installs it without its compiled part, on plain NumPy."
            ) from error

    def add_openmp(self, variants):
        for compile_flags, link_flags in variants:
            if self.knows(OPENMP, compile_flags, link_flags):
                for e in self.extensions:
                    e.extra_compile_args += compile_flags
                    e.extra_link_args += link_flags
                break

    def record(self):
        """Leave what `fastlayers.show_config` tells of the build to the C compiler, in a header."""
        info = {
            "command": " ".join(getattr(self.compiler, "compiler_so", [])),
            "flags": {
                e.name.rpartition(".")[2]: " ".join(e.extra_compile_args) for e in self.extensions
            },
            "numpy": np.__version__,
            "cython": Cython.__version__,
        }
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        text = f"#define BUILD_INFO {json.dumps(json.dumps(info))}\n"
        (folder / "build_info.h").write_text(text, encoding="ascii")
        for e in self.extensions:
            e.include_dirs.append(str(folder))

    def translate(self):
        """Have Cython make C of the sources, outside the source tree."""
        translated = cythonize(
            self.extensions,
            build_dir=f"{BUILD}/cython",
            compiler_directives={
                "language_level": 3,
                "boundscheck": DEBUG,
                "initializedcheck": False,
                "wraparound": False,
                "cdivision": True,
                "freethreading_compatible": True,
            },
        )
        for e, new in zip(self.extensions, translated, strict=True):
            e.sources = new.sources

    def knows(self, program, compile_flags, link_flags=()):
        """Whether the compiler, which works, takes these flags."""
        try:
            self.compile(program, compile_flags, link_flags)
        except (CompileError, LinkError) as error:
            print(f"left out {' '.join(compile_flags)}: {error}")
            return False
        return True

    def compile(self, program, compile_flags, link_flags):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(program + "int probe;\n", encoding="ascii")
            objects = self.compiler.compile(
                [str(source)], output_dir=folder, extra_postargs=list(compile_flags)
            )
            self.compiler.link_shared_object(
                objects, str(Path(folder, "probe.so")), extra_postargs=list(link_flags)
            )


class BuildPy(build_py):
    """Leaves word for `fastlayers.core` that a package is without the compiled part by choice."""

    def run(self):
        remove_stale(self.build_lib, {".py"})
        super().run()
        if PURE:
            Path(self.build_lib, "fastlayers", "_pure.py").write_text(
                '"""Built with FASTLAYERS_PURE=1: without the compiled part."""\n', encoding="ascii"
            )


def extension(name):
    return Extension(
        f"fastlayers._core.{name}",
        [str(CORE / f"{name.replace('.', '/')}.pyx")],
        include_dirs=[np.get_include(), str(CORE / "system")],
        define_macros=[
            ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
            ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
            ("WIN32_LEAN_AND_MEAN", ""),  # of windows.h
        ],
        depends=[
            "setup.py",
            *(str(p) for p in sorted(CORE.rglob("*")) if p.suffix in (".h", ".pxd", ".pxi")),
        ],
    )


def absolute_links(readme, source, tag):
    """Let the links of a page lead from anywhere, as PyPI shows it, to the files of a tag."""

    def absolute(link):
        path = link[1]
        return f"]({source}/{'raw' if path.endswith('.svg') else 'blob'}/{tag}/{path})"

    return re.sub(r"\]\((?!https:)([^)]+)\)", absolute, readme)


def long_description():
    source = tomllib.loads(read("pyproject.toml"))["project"]["urls"]["Source"]
    version = re.search('^__version__ = "(.+?)"', read("src/fastlayers/__init__.py"), re.MULTILINE)
    return absolute_links(read("README.md"), source, f"v{version[1]}")


def read(path):
    return Path(path).read_text(encoding="utf-8")


MODULES = [
    "memory",
    "program.operations",
    "frontend.dtypes",
    "frontend.fp",
    "frontend.schedule",
    "frontend.dispatch",
    "frontend.passes",
    "frontend.methods",
    *(f"engine.kernels_{name}" for name in LEVELS),
]

setup(
    cmdclass={"build_ext": BuildExt, "build_py": BuildPy},
    options={"build": {"build_base": BUILD}},
    ext_modules=[] if PURE else [extension(name) for name in MODULES],
    long_description=long_description(),
    long_description_content_type="text/markdown",
)
