"""Run the tests on processors that are not here: `make emulate`, on Debian, as root.

It takes two hours on two cores.

For each architecture: a Debian system is laid out in build/emulation, unpacked but not set up; the
package is compiled for it by a cross compiler, with CFLAGS too, and tested inside it, where QEMU
runs every program.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

BUILD = Path("build/emulation").absolute()

# Tests that QEMU would fail, not fastlayers.
BEYOND_QEMU = (
    # They measure memory: its own is in it.
    *("memory_stays_flat", "memory_given_back_is_gone", "memory_of_many_sizes"),
    *("leave_nothing_behind", "any_allocation_of", "zeros_in_new_memory"),
    "idle_memory_is_given_back",
    # They count threads: it has one of its own.
    *("sweeper_is_there_as_long", "fork_leaves_no_idle_memory"),
    # They limit the address space: it passes over that.
    *("every_call_ends_in_a_memory_error", "cache_is_emptied_before_memory_is_out"),
    *("business_as_usual", "memory_error_while_sums", "without_a_sweeper"),
    "threads_that_cannot_start",
    # A fork copies a lock of its own that a thread may hold; the child waits for it.
    "fork_while_threads_are_at_work",
)

# GNU's name, the release of Debian, and what of the tests is run: on s390x, which is big-endian,
# what compares with plain NumPy.
ARCHITECTURES = {
    "arm64": (
        "aarch64-linux-gnu",
        "trixie",
        ["--hypothesis-profile=emulation", "-k", f"not ({' or '.join(BEYOND_QEMU)})"],
    ),
    "s390x": (
        "s390x-linux-gnu",
        "forky",
        [
            f"tests/test_{name}.py"
            for name in (
                *("differential", "paths", "floating_point", "contract", "sum_to_shape"),
                *("graph_random", "graph_values", "graph_out", "graph_passes"),
            )
        ],
    ),
}
BINFMT = "/proc/sys/fs/binfmt_misc"  # which programs the kernel hands to which interpreter
TOOLS = "mmdebstrap qemu-user-static binfmt-support gcc-{0} libc6-dev-{1}-cross"
PACKAGES = (
    *("base-files", "bash", "coreutils", "dash", "gcc", "grep", "libc-bin", "libgomp1", "sed"),
    *("python3", "python3-dask", "python3-dev", "python3-distributed", "python3-hypothesis"),
    *("python3-ipykernel", "python3-markdown-it", "python3-matplotlib", "python3-nbclient"),
    *("python3-numpy", "python3-pil", "python3-pytest", "python3-pytest-xdist"),
    *("python3-sklearn", "python3-threadpoolctl"),
)


def run(*command: str | Path, **variables: str) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, env=os.environ | variables, check=True)


def lay_out(architecture: str, gnu: str, release: str, root: Path) -> None:
    """Unpack a system. A mirror's list of a release that is renewed daily may be out of date."""
    may_be_old = '--aptopt=Acquire::Check-Valid-Until "false"'
    options = ["--variant=extract", may_be_old, f"--architectures={architecture}"]
    run("mmdebstrap", *options, f"--include={','.join(PACKAGES)}", release, root)
    libraries = root / "usr/lib" / gnu
    for name in ("blas", "lapack"):  # which setting up would have linked
        (libraries / f"lib{name}.so.3").symlink_to(f"{name}/lib{name}.so.3")


def build(gnu: str, root: Path, wheels: Path) -> None:
    (python,) = (root / "usr/include").glob("python3.*[0-9]")
    version = python.name.removeprefix("python").replace(".", "")
    site = root / "usr/lib/python3/dist-packages"
    include = f"-I{python} -I{site}/numpy/_core/include -idirafter {root}/usr/include"
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"),
        *("--wheel-dir", wheels, "."),
        CC=f"{gnu}-gcc",
        LDSHARED=f"{gnu}-gcc -shared",
        CFLAGS=f"{include} {os.environ.get('CFLAGS', '')}",
        SETUPTOOLS_EXT_SUFFIX=f".cpython-{version}-{gnu}.so",
        _PYTHON_HOST_PLATFORM=f"linux-{gnu.partition('-')[0]}",
    )
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)


def copy_tests(root: Path) -> None:
    pyproject = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    for name in pyproject["tool"]["cibuildwheel"]["test-sources"]:
        copy = shutil.copytree if Path(name).is_dir() else shutil.copyfile
        copy(name, root / "suite" / name)


def test(root: Path, arguments: list[str]) -> None:
    """Run the tests in the system, in which /proc and /dev are mounted for that long."""
    script = """
root=$1; shift
mount --bind /proc "$root/proc" && mount --bind /dev "$root/dev" && exec chroot "$root" \\
    sh -c 'cd /suite && exec python3 -m pytest "$@"' pytest "$@"
"""
    options = ["-n", "auto", "-p", "no:cacheprovider", "--verbose", *arguments]
    # Bytecode is kept, whatever is set here: compiling Python takes most of an emulated program.
    variables = {"TEST_PATIENCE": "10", "PYTHONDONTWRITEBYTECODE": ""}
    run("unshare", "--mount", "sh", "-c", script, "sh", root, *options, **variables)


def main() -> None:
    for architecture in sys.argv[1:]:
        gnu, release, arguments = ARCHITECTURES[architecture]
        if not shutil.which("mmdebstrap") or not shutil.which(f"{gnu}-gcc"):
            sys.exit(f"make emulate needs {TOOLS.format(gnu, architecture)}")
        if not Path(BINFMT, f"qemu-{gnu.partition('-')[0]}").exists():
            sys.exit(
                f"this kernel does not hand programs of {architecture} to QEMU: "
                f"mount -t binfmt_misc binfmt_misc {BINFMT} && /usr/lib/systemd/systemd-binfmt"
            )
        root = BUILD / architecture
        shutil.rmtree(root, ignore_errors=True)
        wheels = BUILD / f"{architecture}-wheels"
        shutil.rmtree(wheels, ignore_errors=True)
        BUILD.mkdir(parents=True, exist_ok=True)
        lay_out(architecture, gnu, release, root)
        build(gnu, root, wheels)
        (root / "suite").mkdir()
        copy_tests(root)
        test(root, arguments)


if __name__ == "__main__":
    main()
