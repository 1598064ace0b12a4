"""Build the source distribution, and from it a wheel for each interpreter; check and test them.

`make wheel` runs it. What it leaves in dist/ has passed: the wheels contain what they should and
no more, and the test suite passes against each of them, installed into an environment of its own,
where neither the source tree nor a compiler is used.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = Path("src/fastlayers")
DIST = Path("dist")
MOST_BYTES = 1_500_000
COMPILED = {".so", ".pyd"}
SOURCES = {".py", ".typed"}

# Where systems have the licenses of GNU OpenMP, which a wheel brings along: Debian, and Red Hat's,
# as in the images for manylinux (pyproject.toml).
LICENSES = Path("packaging/licenses")
LICENSES_OF_SYSTEM = (
    ("/usr/share/common-licenses/GPL-3", "/usr/share/doc/libgomp1/copyright"),
    ("/usr/share/licenses/libgcc/COPYING3", "/usr/share/licenses/libgcc/COPYING.RUNTIME"),
)

# Whether an interpreter can make environments and compile extensions, and its version.
PROBE = """
import ensurepip, pathlib, sys, sysconfig, venv
assert pathlib.Path(sysconfig.get_path("include"), "Python.h").exists()
print(*sys.version_info[:2])
"""


def run(*command: str | Path, cwd: Path | None = None) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, cwd=cwd, check=True)


def make_reproducible(sdist: Path) -> None:
    """Pack a source distribution anew, without who packed it, and with one time for all files."""
    time = int(os.environ["SOURCE_DATE_EPOCH"])
    with tarfile.open(sdist) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name)
        contents = [archive.extractfile(member) for member in members]
        packed = sdist.with_suffix(".new")
        with (
            packed.open("wb") as raw,
            gzip.GzipFile(sdist.stem, "wb", fileobj=raw, mtime=time) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as new,
        ):
            for member, content in zip(members, contents, strict=True):
                member.pax_headers = {}
                member.mtime = time
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
                new.addfile(member, content)
    packed.replace(sdist)


def interpreters() -> list[str]:
    """Return one interpreter of each version from 3.11 on: this one, on PATH, of pyenv."""
    candidates = [sys.executable]
    for minor in range(11, 15):
        candidates.append(f"python3.{minor}")
        installed = Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python")
        candidates += map(str, sorted(installed))
    found: dict[str, str] = {}
    for candidate in candidates:
        if path := shutil.which(candidate):
            probe = subprocess.run([path, "-c", PROBE], capture_output=True, text=True)
            if probe.returncode == 0:
                found.setdefault(probe.stdout, path)
    if not found:
        sys.exit("no Python from 3.11 on with its headers, ensurepip and venv")
    return list(found.values())


def environment(interpreter: str, folder: Path) -> Path:
    """Make an empty environment; return its interpreter."""
    run(interpreter, "-m", "venv", folder)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1")
    return python


def unpack(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / sdist.name.removesuffix(".tar.gz")


def add_licenses(source: Path) -> None:
    """Put the licenses of what wheels for Linux bring along beside the package's own."""
    if sys.platform == "linux":
        for files in LICENSES_OF_SYSTEM:
            if all(Path(file).exists() for file in files):
                for file in files:
                    shutil.copy(file, source / LICENSES)
                return
        sys.exit(f"the licenses of GNU OpenMP are at none of these places: {LICENSES_OF_SYSTEM}")


def repair(wheel: Path) -> Path:
    """Put a wheel into dist/, on Linux with the libraries that it needs and a manylinux tag."""
    before = set(DIST.iterdir())
    if sys.platform == "linux":
        run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", DIST, wheel)
    else:
        print(f"not repaired, which is for the release workflow on {sys.platform}: {wheel.name}")
        shutil.copy(wheel, DIST)
    (repaired,) = set(DIST.iterdir()) - before
    return repaired


def check_contents(wheel: Path) -> None:
    """Exit if a wheel is too large, or has other files than those that it should have."""
    expected = {
        str(Path(PACKAGE.name, path.relative_to(PACKAGE)))
        for path in PACKAGE.rglob("*")
        if path.suffix in SOURCES or path.name == "py.typed"
    }
    with zipfile.ZipFile(wheel) as archive:
        files = {entry.filename for entry in archive.infolist() if not entry.is_dir()}
    names = {name for name in files if ".dist-info/" not in name}
    libraries = {name for name in names if name.startswith(f"{PACKAGE.name}.libs/")}
    modules = {
        name
        for name in names
        if name.startswith(f"{PACKAGE.name}/_core/") and Path(name).suffix in COMPILED
    }
    described = [name.partition(".dist-info/")[2] for name in files - names]
    # Beside LICENSE what is said of the libraries, the license, and its exception.
    licenses = [name for name in described if name.startswith("licenses/")]
    if libraries and (len(licenses) < 4 or "sboms/auditwheel.cdx.json" not in described):
        sys.exit(f"{wheel.name}: {libraries} without licenses or bill of materials: {described}")
    wrong = expected ^ (names - libraries - modules)
    size = wheel.stat().st_size
    if wrong or not modules or size > MOST_BYTES:
        sys.exit(f"{wheel.name}: {size} bytes; missing, or too much: {sorted(wrong)}")
    print(f"{wheel.name}: {size} bytes, {len(modules)} compiled modules, libraries: {libraries}")


def test(wheel: Path, python: Path, folder: Path) -> None:
    """Run the tests of the source distribution, without its sources, against a wheel."""
    run(python, "-m", "pip", "install", "--quiet", wheel.resolve())
    run(python, "-m", "pip", "install", "--quiet", "--group", folder / "pyproject.toml:test")
    run(python, "-m", "pytest", "-q", "-n", "auto", cwd=folder)


def main() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--sdist")
    (sdist,) = DIST.glob("*.tar.gz")
    make_reproducible(sdist)
    with tempfile.TemporaryDirectory(prefix="fastlayers-") as temporary:
        work = Path(temporary)
        tests = unpack(sdist, work)
        shutil.rmtree(tests / "src")
        for number, interpreter in enumerate(interpreters()):
            python = environment(interpreter, work / f"environment-{number}")
            built = work / f"built-{number}"
            source = unpack(sdist, work / f"source-{number}")
            add_licenses(source)
            run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", built, source)
            (wheel,) = built.glob("*.whl")
            run(sys.executable, "-m", "check_wheel_contents", wheel)
            wheel = repair(wheel)
            check_contents(wheel)
            test(wheel, python, tests)
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.iterdir()))


if __name__ == "__main__":
    main()
