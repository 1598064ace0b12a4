"""The code in the documents runs, page by page, and says what it is said to say."""

from __future__ import annotations

import doctest
import importlib.metadata
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

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


# A page and its translation say the same: what of them needs no translation is equal.
TRANSLATED = ["README", "docs/graph"]
COMMENT = re.compile(r" *#.*")
FIGURE = re.compile(r"(?<![\w.-])\d[\d,.]*\d|(?<![\w.-])\d")
LINK = re.compile(r"\]\(([^)]*)\)")
CODE = re.compile(r"`([^`]+)`")
HEADING = re.compile(r"^(#+|\|) ", re.M)  # also how many rows its tables have


def commands_of(page):
    """All code, without the comments, which are translated."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    return [
        (token.info, [COMMENT.sub("", line) for line in token.content.splitlines()])
        for token in tokens
        if token.type == "fence"
    ]


def found(page, pattern):
    """What matches in a page without its blocks of code, and without the links between the two."""
    prose = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    name = page.name.partition(".")[0]
    return Counter(pattern.findall(prose)) - Counter([f"{name}.md"]) - Counter([f"{name}.zh-CN.md"])


EQUAL = {
    "code": commands_of,
    "figures": lambda page: found(page, FIGURE),
    "words of code": lambda page: found(page, CODE),
    "links": lambda page: found(page, LINK),
    "headings": lambda page: found(page, HEADING),
}


@pytest.mark.parametrize("page", TRANSLATED)
@pytest.mark.parametrize("what", EQUAL)
def test_translations_have_the_same(page, what):
    english, chinese = (EQUAL[what](ROOT / f"{page}{end}") for end in (".md", ".zh-CN.md"))
    assert english == chinese
    assert len(english) > 2


def test_readme_has_the_commands():
    lines = [line for _, block in commands_of(ROOT / "README.md") for line in block]
    assert {"pip install .", "make demo", "make test", "make bench"} <= set(lines)


def test_links_of_the_installed_readme_are_absolute():
    # PyPI shows it where no relative link leads anywhere.
    installed = importlib.metadata.metadata("fastlayers")
    project_urls = dict(url.split(", ") for url in installed.get_all("Project-URL"))
    found = LINK.findall(installed["Description"])
    assert all(link.startswith("https://") for link in found)

    def folder(kind):
        return f"{project_urls['Source']}/{kind}/v{installed['Version']}/"

    relative = [link.removeprefix(folder("blob")).removeprefix(folder("raw")) for link in found]
    assert relative == LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    pictures = [link for link in found if link.startswith(folder("raw"))]
    assert pictures == [link for link in found if link.endswith(".svg")]
    assert len(pictures) == 1


@pytest.mark.parametrize(
    ("page", "graph", "operands"),
    [("README.md", "loss", ()), ("docs/graph.md", "shop", (100, 2, 150, 3, 1.1))],
)
def test_pictures_are_what_draw_gives(page, graph, operands):
    names: dict[str, Any] = {}
    block = blocks(ROOT / page)[0].content
    exec(compile(block, f"{graph}.py", "exec"), names)  # the picture's nodes name their line
    picture = str(names[graph].draw(*operands))
    assert picture == (ROOT / "docs" / f"{graph}.svg").read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


# In a process of its own: other tests define gradients.
CURRENT = """
import runpy, sys
tool = runpy.run_path(sys.argv[1])
text = tool["PAGE"].read_text(encoding="utf-8")
sys.exit(None if tool["page"](text) == text else "run python tools/functions_table.py")
"""


def test_table_of_functions_is_what_the_operations_say():
    tool = str(ROOT / "tools" / "functions_table.py")
    subprocess.run([sys.executable, "-c", CURRENT, tool], check=True)
