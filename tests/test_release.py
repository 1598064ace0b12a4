"""tools/check_release.py: only sources that fit together, and their repository, are published."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "tools" / "check_release.py"
URL = "https://github.com/owner/name"
FITTING = {"repository": "owner/name", "tag": "v1.2.0", "heading": "## [1.2.0] - 2030-01-31"}


def check(root, repository, tag, heading):
    (root / "src/fastlayers").mkdir(parents=True)
    files = {
        "pyproject.toml": f'[project.urls]\nSource = "{URL}"\n',
        "src/fastlayers/__init__.py": '__version__ = "1.2.0"  # here\n',
        "CHANGELOG.md": f"# Changelog\n\n{heading}\n\n- Something.\n",
    }
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    command = [sys.executable, str(SCRIPT), repository, tag]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, None),
        ({"repository": "somebody/name"}, "somebody/name is not the repository"),
        ({"tag": "v1.2.1"}, "the tag v1.2.1 is not v1.2.0"),
        ({"tag": "1.2.0"}, "the tag 1.2.0 is not v1.2.0"),
        ({"tag": "main"}, "the tag main is not v1.2.0"),
        ({"heading": "## [Unreleased]"}, "has no section '## [1.2.0] - "),
        ({"heading": "## [1.2.0]"}, "has no section '## [1.2.0] - "),
        ({"heading": "## [1.2.0] - soon"}, "has no section '## [1.2.0] - "),
        ({"heading": "## [1x2.0] - 2030-01-31"}, "has no section '## [1.2.0] - "),
    ],
)
def test_a_release_fits_or_is_refused(tmp_path, wrong, words):
    result = check(tmp_path, **(FITTING | wrong))
    assert (result.returncode, result.stdout) == (words is not None, "")
    assert len(result.stderr.splitlines()) == (words is not None)
    assert (words or "") in result.stderr
