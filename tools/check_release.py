"""Refuse a release that does not fit the sources: `check_release.py REPOSITORY TAG` in a clone.

The workflow that publishes runs it first. A release comes from the repository in pyproject.toml
alone, its tag names the version, and the changelog has that version, with a date.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def problems(root: Path, repository: str, tag: str) -> list[str]:
    """Return what speaks against publishing the sources in `root`."""
    source = tomllib.loads(read(root / "pyproject.toml"))["project"]["urls"]["Source"]
    (version,) = re.findall('(?m)^__version__ = "(.+?)"', read(root / "src/fastlayers/__init__.py"))
    dated = rf"(?m)^## \[{re.escape(version)}\] - \d{{4}}-\d{{2}}-\d{{2}}$"
    checks = {
        f"{repository} is not the repository in pyproject.toml, {source}": source
        == f"https://github.com/{repository}",
        f"the tag {tag} is not v{version}, the version in __init__.py": tag == f"v{version}",
        f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD'": re.search(
            dated, read(root / "CHANGELOG.md")
        ),
    }
    return [problem for problem, is_fine in checks.items() if not is_fine]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit("\n".join(problems(Path(), *sys.argv[1:])) or None)
