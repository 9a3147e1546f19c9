"""Every example in the README, in docs/ and in examples/ runs, and prints what the page says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.pages import Block, Note, Page, read_page
from support.repository import TOP

PAGES = sorted(str(path.relative_to(TOP)) for path in [TOP / "README.md", *TOP.glob("docs/*.md")])
EXAMPLES = sorted(str(path.relative_to(TOP)) for path in TOP.glob("examples/*/README.md"))


def items_of(page: str) -> list[Block | Note]:
    return read_page((TOP / page).read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_says_to_type(name: str, tmp_path: Path) -> None:
    items = items_of(name)
    if name == "README.md":  # its first screen has a test of its own
        start = (TOP / name).read_text("utf-8").split("\n## ")[0].count("\n")
        items = [item for item in items if item.line > start]
    with Page(name, tmp_path) as page:
        page.work_through(items)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_what_an_example_says_to_type(name: str, tmp_path: Path) -> None:
    """Its reader stands at the top of a clone."""
    with Page(name, tmp_path) as page:
        shutil.copytree(TOP / "examples", page.home / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        page.work_through(items_of(name))


def test_every_example_is_in_the_index_and_the_index_is_linked() -> None:
    index = (TOP / "examples/README.md").read_text("utf-8")
    assert [name for name in EXAMPLES if f"({name.removeprefix('examples/')})" not in index] == []
    assert "(examples/README.md)" in (TOP / "README.md").read_text("utf-8")
    assert "`examples/`" in (TOP / "docs/index.md").read_text("utf-8")


def test_the_first_screen_of_the_readme(tmp_path: Path) -> None:
    text = (TOP / "README.md").read_text("utf-8")
    screen = text.split("\n## ")[0]
    assert screen.count("\n") < 50  # it is one screen
    plugin, call, output = [item for item in read_page(screen) if isinstance(item, Block) and item.language != "sh"]
    assert (plugin.language, call.language, output.language) == ("python", "python", "text")
    assert len([line for line in plugin.text.splitlines() if line.strip()]) <= 10
    descriptor = "[main]\nenabled = 1\nplugin = dogs\n\n[messaging]\nurl = local://\n\n[model]\nqueue = kennel\n"
    with Page("README.md", tmp_path) as page:
        page.work_through(
            [
                Block(plugin.line, "python", plugin.text, {"file": "dogs.py"}),
                Block(0, "ini", descriptor, {"file": "/etc/gofer/plugins/dogs.conf"}),
                Note(0, "agent"),
                call,
                Block(output.line, "text", output.text, {"output": ""}),
            ]
        )


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (TOP / "README.md").read_text("utf-8")
    assert [page for page in PAGES if page != "README.md" and f"({page})" not in readme] == []


# -- the way pages are read ---------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page("page", tmp_path)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("```sh\nfalse\ntrue\n```", "status 1"),
        ("<!-- status: 3 -->\n```sh\nexit_with() { return 4; }; exit_with\n```", "status 4"),
        ("```sh\necho one\n```\n<!-- output -->\n```text\ntwo\n```", "it printed:\none"),
        ("```python\n1 / 0\n```", "ZeroDivisionError"),
        ("```python\n1 + 1  # -> 3\n```", "it is 2, and the page says 3"),
        ("```python\n1 + 1  # raises TypeError\n```", "it raised nothing"),
        ("```python\n1 / 0  # raises TypeError\n```", "ZeroDivisionError"),
        ("```ini\n[main]\n```", "nothing says what this is"),
        ("<!-- descriptor -->\n```ini\n[main]\nenabled = perhaps\n```", "[main] enabled"),
        ("<!-- agent.conf -->\n```ini\n[messagin]\n```", "messagin"),
        ("<!-- not run: -->\n```sh\ntrue\n```", "nobody says why"),
        ("<!-- outptu -->\n```text\n```", "unknown comment"),
        ("<!-- until: true -->\n```sh\ntrue\n```", "unknown comment"),  # a reader does not see it, and would not wait
    ],
)
def test_a_page_that_is_wrong_fails(page: Page, text: str, wrong: str) -> None:
    with pytest.raises(AssertionError) as failed, page:
        page.work_through(read_page(text))
    assert wrong in str(failed.value)
    assert str(failed.value).startswith("page, line ")


def test_a_page_that_is_right_passes(page: Page) -> None:
    text = """
```sh
export ONE=1
cd / && echo "$ONE ... two"
```
<!-- output -->
```text
1 ... two
```
<!-- status: 3 -->
```sh
(exit 3)
```
```python
import os
os.environ["ONE"]  # -> '1'
print(max(
    1,
    2,
))
int("x")  # raises ValueError: invalid literal...
```
<!-- output -->
```text
2
```
"""
    with page:
        page.work_through(read_page(text))
