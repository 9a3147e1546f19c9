"""The man pages say what the help and the documentation say, and a reader of man pages understands them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from gofer.agent.config.agent import AGENT
from gofer.agent.config.descriptor import DESCRIPTOR
from support.commands import run_gofer
from support.manpages import pages

PAGES = pages()
LISTED = run_gofer("--help").stdout.partition("Commands:")[2].partition("\n\n")[0]
COMMANDS = re.findall(r"^  (\w+) ", LISTED, re.MULTILINE)


def shown(page: str) -> str:
    """The text of a page, without what only troff reads."""
    text = re.sub(r"\\f[BRI]|\\&", "", PAGES[page]).replace("\\-", "-").replace("\\e", "\\")
    return re.sub(r"^\.[A-Z]{1,2} ", "", text, flags=re.MULTILINE)


def test_there_is_a_page_for_each_command_and_kind_of_file() -> None:
    assert "service" in COMMANDS
    wanted = {f"gofer-{name}.1" for name in COMMANDS} | {"gofer.1", "goferd.8", "agent.conf.5", "gofer-plugin.5"}
    assert set(PAGES) == wanted


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_has_all_options_of_the_help(command: str) -> None:
    said = run_gofer(command, "--help").stdout
    below = re.findall(r"^  (\w+) ", said.partition("Commands:")[2].partition("\n\n")[0], re.MULTILINE)
    for words in [[command], *([command, name] for name in below)]:
        options = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", run_gofer(*words, "--help").stdout))
        assert options
        missing = {option for option in options if option not in shown(f"gofer-{command}.1")}
        assert not missing, words


@pytest.mark.parametrize(("page", "schema"), [("agent.conf.5", AGENT), ("gofer-plugin.5", DESCRIPTOR)])
def test_a_page_of_a_file_has_all_its_keys(page: str, schema: object) -> None:
    text = shown(page)
    for section in schema.sections:
        chapter = re.split(r'^"', text.partition(f'"[{section}]"')[2], maxsplit=1, flags=re.MULTILINE)[0]
        for key in schema.of(section):
            assert re.search(rf"^{re.escape(key.name)}$", chapter, re.MULTILINE), (section, key.name)


@pytest.mark.parametrize("page", PAGES)
def test_no_line_begins_as_a_request_that_is_none(page: str) -> None:
    known = {".TH", ".SH", ".SS", ".PP", ".TP", ".IP", ".B", ".BR", ".nf", ".fi", ".RS", ".RE", ".sp"}
    found = {line.split()[0] for line in PAGES[page].splitlines() if line[:1] in (".", "'")}
    assert found <= known


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("page", PAGES)
def test_troff_has_nothing_to_complain_of(page: str, tmp_path: Path) -> None:
    (tmp_path / page).write_text(PAGES[page], "utf-8")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-Kutf8", "-rLL=78n", page],
        cwd=tmp_path, env={**os.environ, "LC_ALL": "C.UTF-8"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "SEE ALSO" in re.sub(".\b", "", done.stdout)
