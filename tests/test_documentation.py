"""The code in the documents runs, page by page, and says what it is said to say."""

from __future__ import annotations

import doctest
import re
from collections import Counter
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    if "\n```python\n" in page.read_text(encoding="utf-8")
)


def blocks(page):
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    return [token for token in tokens if token.type == "fence" and token.info == "python"]


def test_there_are_pages():
    assert {page.name for page in PAGES} >= {"README.md", "drop-in.md", "memory.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_in_documents_runs(page):
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        if block.content.startswith(">>>"):
            example = doctest.DocTestParser().get_doctest(
                block.content, names, page.name, str(page), block.map[0]
            )
            assert doctest.DocTestRunner().run(example, clear_globs=False).failed == 0
            names.update(example.globs)
        else:
            # As many lines before it as on the page: a traceback names the right one.
            source = "\n" * (block.map[0] + 1) + block.content
            exec(compile(source, page, "exec"), names)


# Both READMEs say the same: what of them needs no translation is equal.
COMMENT = re.compile(r" *#.*")
FIGURE = re.compile(r"(?<![\w.-])\d[\d,.]*\d|(?<![\w.-])\d")
LINK = re.compile(r"\]\(([^)]*)\)")
CODE = re.compile(r"`([^`]+)`")
README, CHINESE = (ROOT / name for name in ("README.md", "README.zh-CN.md"))


def commands_of(page):
    """All code, without the comments, which are translated."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    return [
        (token.info, [COMMENT.sub("", line) for line in token.content.splitlines()])
        for token in tokens
        if token.type == "fence"
    ]


def prose_of(page):
    """A page without its blocks of code."""
    return re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))


def test_readmes_have_the_same_code():
    commands = commands_of(README)
    assert commands == commands_of(CHINESE)
    lines = [line for _, block in commands for line in block]
    assert {"pip install .", "make demo", "make test", "make bench"} <= set(lines)


@pytest.mark.parametrize("what", [FIGURE, CODE, LINK], ids=["figures", "code", "links"])
def test_readmes_have_the_same(what):
    found = [Counter(what.findall(prose_of(page))) for page in (README, CHINESE)]
    assert len(found[0]) > 8
    languages = Counter({"README.zh-CN.md": 1}), Counter({"README.md": 1})
    english, chinese = (all_ - other for all_, other in zip(found, languages, strict=True))
    assert english == chinese


def test_readmes_have_the_same_sections():
    for level in ("#", "##", "|"):
        counts = [
            sum(line.startswith(f"{level} ") for line in prose_of(page).splitlines())
            for page in (README, CHINESE)
        ]
        assert counts[0] == counts[1] > 0
