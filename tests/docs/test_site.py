"""The pages of docs/ make a site: every link leads somewhere, and every page is in the menu."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.repository import TOP


def build(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Build the site of a folder."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", *options],
        cwd=folder,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """A page that is in no menu, or a link that leads nowhere, is one: nav in mkdocs.yml says what is in the menu."""
    done = build(TOP, "--quiet", "--site-dir", str(tmp_path / "site"))
    assert (done.returncode, done.stdout) == (0, "")
    pages = {path.with_suffix(".html").name for path in TOP.glob("docs/*.md")}
    assert pages <= {path.name for path in (tmp_path / "site").glob("*.html")}


@pytest.mark.slow
def test_a_link_that_leads_nowhere_fails(tmp_path: Path) -> None:
    """What the test above relies on."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("[nowhere](nowhere.md)\n")
    (tmp_path / "mkdocs.yml").write_text((TOP / "mkdocs.yml").read_text().partition("nav:")[0])
    done = build(tmp_path)
    assert done.returncode != 0
    assert "nowhere.md" in done.stdout
