"""Nothing is published yet: no page may send its readers to a package index, where anybody could own gofer's names."""

from __future__ import annotations

import re

import pytest
from support.repository import TOP, distributions

READMES = [distribution.folder / "README.md" for distribution in distributions()]
PAGES = [str(path.relative_to(TOP)) for path in [TOP / "README.md", *TOP.glob("docs/**/*.md"), *READMES]]
OURS = re.compile(r"pip install\s[^`\n]*?(?<![./\w-])gofer-(core|adapter|authenticator|plugin)")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_installs_gofer_from_a_clone_or_from_wheels(page: str) -> None:
    text = (TOP / page).read_text("utf-8")
    assert [match[0] for match in OURS.finditer(text.replace("pip install\n", "pip install "))] == []


@pytest.mark.parametrize("page", PAGES)
def test_the_folders_that_a_page_installs_are_there(page: str) -> None:
    folders = {f"./{distribution.folder.relative_to(TOP)}" for distribution in distributions()}
    text = (TOP / page).read_text("utf-8")
    for line in re.findall(r"pip install[^`\n#]*", text):
        assert set(re.findall(r"\./gofer_\w+(?:/\w+)?", line)) <= folders, line


def test_the_readme_says_that_nothing_is_published() -> None:
    assert "No release is on a package index yet" in (TOP / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("pip install gofer-core", True),
        ("`pip install 'gofer-core[pam]'`", True),
        ("/opt/gofer/bin/pip install --upgrade gofer-plugin-system", True),
        ("pip install ./gofer_core ./gofer_adapters/amqp", False),
        ("pip install dist/gofer_core-*.whl", False),
        ("pip install ./gofer-plugin-dogs", False),
    ],
)
def test_what_counts(line: str, refused: bool) -> None:
    assert (OURS.search(line) is not None) is refused
