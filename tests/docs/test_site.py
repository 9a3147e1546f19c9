"""The pages of docs/ make a site: every link leads somewhere, every page is in the menu, and a phone can show it."""

from __future__ import annotations

import os
import pkgutil
import re
from dataclasses import fields
from pathlib import Path

import pytest
from gofer import errors
from gofer.rmi.client.options import Options
from support.pages import Block, read_page
from support.repository import TOP
from support.site import CHROMIUM, HtmlPage, build, dead_links, measure, read_site

pytestmark = pytest.mark.xdist_group("site")  # it is built once

_IMPORT = re.compile(r"^ *from (gofer[\w.]*) import (.+)$", re.MULTILINE)
#: Errors that only the base of others, or the API below calls, raises.
_NO_CALL = {"GoferError", "MessagingError", "CallError", "DocumentError"}
#: What examples import, and the API reference leaves to the pages that the examples are on.
_ELSEWHERE = {"aio", "mock"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(TOP, "--quiet", "--site-dir", str(folder))
    assert (done.returncode, done.stdout) == (0, "")
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, HtmlPage]:
    return read_site(site)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(site: Path) -> None:
    """A page that is in no menu, or a link that leads nowhere, is one: nav in mkdocs.yml says what is in the menu."""
    docs = TOP / "docs"
    wanted = {str(path.relative_to(docs).with_suffix(".html")) for path in docs.rglob("*.md")}
    assert wanted <= {str(path.relative_to(site)) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_a_link_that_leads_nowhere_fails(tmp_path: Path) -> None:
    """What the test above relies on."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("[nowhere](nowhere.md)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: small\nplugins: []\nstrict: true\n")
    done = build(tmp_path)
    assert done.returncode != 0
    assert "nowhere.md" in done.stdout


@pytest.mark.slow
def test_every_link_leads_to_a_file_and_an_anchor(site: Path, pages: dict[str, HtmlPage]) -> None:
    assert sum(len(page.links) for page in pages.values()) > 1000
    assert dead_links(site, pages) == []


@pytest.mark.parametrize(
    ("link", "dead"),
    [
        ("there.html", []),
        ("there.html#place", []),
        ("#here", []),
        ("https://elsewhere.example.com/x#y", []),
        ("gone.html", ["index.html: gone.html: no such file"]),
        ("there.html#no", ["index.html: there.html#no: no such anchor"]),
        ("#there", ["index.html: #there: no such anchor"]),
        ("../outside.html", ["index.html: ../outside.html: no such file"]),
    ],
)
def test_a_dead_link_is_found(tmp_path: Path, link: str, dead: list[str]) -> None:
    (tmp_path / "index.html").write_text(f'<p id="here"><a href="{link}">x</a></p>')
    (tmp_path / "there.html").write_text('<h2 id="place">x</h2>')
    assert dead_links(tmp_path, read_site(tmp_path)) == dead


@pytest.mark.slow
def test_every_picture_has_a_text_alternative(pages: dict[str, HtmlPage]) -> None:
    assert {name: page.without_alternative for name, page in pages.items() if page.without_alternative} == {}


def test_a_relative_link_outside_of_the_site_leads_to_a_file() -> None:
    """The README, and the pages that are not part of the site."""
    dead = []
    for path in [TOP / "README.md", TOP / "CONTRIBUTING.md", *TOP.glob("bench/**/README.md")]:
        links = re.findall(r"\]\(([^)#\s]+)", path.read_text("utf-8"))
        dead += [f"{path}: {link}" for link in links if "://" not in link and not (path.parent / link).exists()]
    assert dead == []


def test_every_option_is_in_the_table_of_options_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", (TOP / "docs/options.md").read_text("utf-8"), re.M))
    assert set(rows) == {option.name for option in fields(Options)}
    for option in fields(Options):
        if option.name not in {"wait", "ttl"}:  # a number without its fraction, and a rule
            assert rows[option.name] == str(option.default), option.name
    assert float(rows["wait"]) == Options().wait


def test_every_error_of_a_call_is_in_the_table_of_errors() -> None:
    page = (TOP / "docs/errors.md").read_text("utf-8")
    table, _, tree = page.partition("## May I repeat")[0], *page.partition("## The tree")[1:]
    missing = {name for name in errors.__all__ if f"`{name}`" not in table and name not in _NO_CALL}
    assert missing == set()
    for name in errors.__all__:
        assert re.search(rf"\b{name}\b", tree), name
    for name, base in re.findall(r"`(\w+)` \(`(\w+)`\)", table):
        builtin = getattr(errors, name).__mro__
        assert base in {kind.__name__ for kind in builtin}, name


def test_every_code_of_a_rejection_is_in_the_table_of_codes() -> None:
    page = (TOP / "docs/errors.md").read_text("utf-8").partition("## Rejected")[2].partition("## The tree")[0]
    named = set(re.findall(r"`((?:[a-z]+)\.(?:[a-z]+))`", page))
    code = re.compile(r'"((?:model|security|access|hook|request|ledger|agent)\.[a-z]+|plugin\.(?:unloaded|detached))"')
    sources = [*TOP.glob("gofer_core/gofer/rmi/**/*.py"), *TOP.glob("gofer_core/gofer/messaging/*.py")]
    sources += TOP.glob("gofer_core/gofer/agent/*.py")
    used = {each for path in sources for each in code.findall(path.read_text("utf-8"))}
    used -= {"agent.conf", "ledger.db"}  # files
    assert len(used) > 10
    assert used - named == set()


@pytest.mark.slow
def test_what_the_examples_import_is_in_the_api_reference(pages: dict[str, HtmlPage]) -> None:
    anchors = {anchor for name, page in pages.items() if name.startswith("api/") for anchor in page.anchors}
    missing = set()
    for path in [TOP / "README.md", *TOP.glob("docs/*.md")]:
        blocks = [item for item in read_page(path.read_text("utf-8")) if isinstance(item, Block)]
        for block in blocks:
            for module, names in _IMPORT.findall(block.text if block.language == "python" else ""):
                if module.partition(".")[0] == "gofer":  # other distributions have a README
                    wanted = {name.strip() for name in names.split(",")} - _ELSEWHERE
                    missing |= {name for name in wanted if not {f"{module}.{name}", _home(module, name)} & anchors}
    assert missing == set()


def _home(module: str, name: str) -> str:
    """Return where a class is defined that a documented module may only re-export."""
    found = pkgutil.resolve_name(f"{module}:{name}")
    return f"{found.__module__}.{found.__qualname__}" if isinstance(found, type) else f"{module}.{name}"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="there is no Chromium here")
@pytest.mark.parametrize("width", [400, 1280])
def test_no_page_is_wider_than_its_reader_sees(
    site: Path, pages: dict[str, HtmlPage], width: int, tmp_path: Path
) -> None:
    assert CHROMIUM is not None, "install Chromium: apt-get install chromium-headless-shell"
    seen = measure(site, [name for name in pages if name != "404.html"], width, tmp_path / "profile")
    assert len(seen) == len(pages) - 1
    assert {name: found[:3] for name, found in seen.items() if found} == {}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="there is no Chromium here")
def test_what_is_too_wide_is_found(tmp_path: Path) -> None:
    """What the test above relies on."""
    wide = '<div style="width: 500px">wide</div>'
    texts = {
        "right.html": "<p>right</p>",
        "scrolls.html": f'<div style="overflow-x: auto">{wide}</div>',
        "wide.html": wide,
        "picture.html": '<img src="no-such.svg" alt="x">',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(f"<!doctype html><body>{text}</body>")
    seen = measure(tmp_path, list(texts), 400, tmp_path / "profile")
    assert [seen["/right.html"], seen["/scrolls.html"]] == [[], []]
    assert any("<div" in found and "wide" in found for found in seen["/wide.html"])
    assert ["no-such.svg is not shown" in found for found in seen["/picture.html"]] == [True]
