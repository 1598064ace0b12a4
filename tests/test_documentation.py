"""The code in the documents runs, page by page, and says what it is said to say."""

from __future__ import annotations

import doctest
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
