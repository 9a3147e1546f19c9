"""The man pages: written from the help of the commands, the annotations of the configuration, and pages of docs/.

``make man`` runs this module, which writes goferd(8), gofer(1), a page for each command of gofer, agent.conf(5) and
gofer-plugin(5) into a directory, compressed as packages have them if it is told ``--gzip``.
"""

from __future__ import annotations

import argparse
import gzip
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from gofer.agent.config.agent import AGENT
from gofer.agent.config.descriptor import DESCRIPTOR
from gofer.agent.config.keys import Schema
from gofer.agent.config.keys import written as default_of
from gofer.agent.main import _parser
from gofer.tools.main import _gofer

from support.repository import TOP, settings

__all__ = ["pages"]

_CONFIGURATION = "docs/configuration.md"


def pages() -> dict[str, str]:
    """Return the text of each page, by the name of its file."""
    group, context = _gofer, click.Context(_gofer, info_name="gofer")
    assert isinstance(group, click.Group)
    names = group.list_commands(context)
    found = {"gofer.1": _page("gofer", 1, _first(group.help), [*_command(context), *_see("goferd(8)")])}
    for name in names:
        command = group.get_command(context, name)
        assert command is not None
        below = click.Context(command, info_name=name, parent=context)
        found[f"gofer-{name}.1"] = _page(
            f"gofer-{name}", 1, _first(command.help), [*_command(below), *_see("gofer(1)")]
        )
    found["goferd.8"] = _page("goferd", 8, "the agent of gofer", [*_goferd(), *_see("gofer(1)", "agent.conf(5)")])
    for name, heading, schema, what in (
        ("agent.conf", "The agent", AGENT, "settings of the agent of gofer"),
        ("gofer-plugin", "Plugins", DESCRIPTOR, "descriptors of the plugins of gofer"),
    ):
        body = [*_configuration(heading, schema), *_see("goferd(8)", "gofer(1)")]
        found[f"{name}.5"] = _page(name, 5, what, body)
    return found


def _page(name: str, section: int, what: str, body: Iterable[str]) -> str:
    version = settings()["tool"]["gofer"]["version"]
    what = what.rstrip(".")
    head = [
        f'.TH {_word(name.upper())} {section} "" "gofer {version}" gofer',
        ".SH NAME",
        f"{_plain(name)} \\- {_plain(what)}",
    ]
    lines = [*head, *body]
    # A paragraph begins by itself behind a heading.
    kept = [
        line
        for line, above in zip(lines[1:], lines, strict=False)
        if line != ".PP" or above[:3] not in (".SH", ".SS", ".PP")
    ]
    return "\n".join([lines[0], *kept]) + "\n"


def _see(*others: str) -> Iterator[str]:
    yield ".SH SEE ALSO"
    yield ",\n".join(f".BR {_word(name)} ({number}" for name, _, number in (one.partition("(") for one in others))


def _first(text: str | None) -> str:
    """Return the first sentence of a help text, as it stands in the middle of a line."""
    sentence = re.split(r"(?<=[.])\s", " ".join((text or "").split()))[0]
    return sentence[:1].lower() + sentence[1:]


# Commands


def _command(context: click.Context) -> Iterator[str]:
    yield ".SH SYNOPSIS"
    yield from _synopsis(context)
    yield ".SH DESCRIPTION"
    yield from _help(context.command.help or "")
    yield from _options(context, ".SH")
    if isinstance(context.command, click.Group):
        commands = {name: context.command.get_command(context, name) for name in context.command.list_commands(context)}
        if context.parent is None:
            rows = [(f"gofer-{name}(1)", _first(one.help) if one else "") for name, one in commands.items()]
            yield ".SH COMMANDS"
            yield from _definitions(rows)
        else:
            for name, one in commands.items():
                assert one is not None
                below = click.Context(one, info_name=name, parent=context)
                yield f".SH {_word(f'{context.info_name} {name}'.upper())}"
                yield from _synopsis(below)
                yield ".PP"
                yield from _help(one.help or "", sections=False)
                yield from _options(below, ".SS")
    epilog = context.command.epilog or ""
    yield from _help(epilog)


def _synopsis(context: click.Context) -> Iterator[str]:
    pieces = " ".join(context.command.collect_usage_pieces(context))
    yield f".B {_plain(context.command_path)}"
    yield _plain(pieces)


def _options(context: click.Context, heading: str) -> Iterator[str]:
    rows = [row for one in context.command.get_params(context) if (row := one.get_help_record(context)) is not None]
    yield f"{heading} OPTIONS"
    yield from _definitions(rows)


def _goferd() -> Iterator[str]:
    parser = _parser()
    yield ".SH SYNOPSIS"
    yield ".B goferd"
    yield _plain(" ".join(parser.format_usage().split()[2:]))
    yield ".SH DESCRIPTION"
    yield _plain(parser.description or "")
    yield ".SH OPTIONS"
    rows = []
    for action in parser._actions:
        value = f" {action.metavar}" if action.metavar else ""
        rows.append((", ".join(action.option_strings) + value, action.help or ""))
    yield from _definitions(rows)
    yield from _help("\b\n" + (parser.epilog or "").replace("\n\n", "\n\n\b\n"))
    yield ".SH ENVIRONMENT"
    yield from _definitions(
        [("GOFER_ROOT", "The directory before /etc/gofer and all others, unless --root names one.")]
    )
    yield ".SH FILES"
    yield from _markdown(_chapter("docs/operations.md", "Files").partition("\n\ngoferd creates")[0])


def _help(text: str, sections: bool = True) -> Iterator[str]:
    """Write a help text. A paragraph after \\b keeps its lines; one that begins with a title is a section."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(text))):
        if not paragraph.strip():
            continue
        if not paragraph.startswith("\b"):
            yield from [".PP"] if number else []
            yield _text(" ".join(paragraph.split()))
            continue
        title, *lines = paragraph.removeprefix("\b\n").splitlines()
        if re.fullmatch(r"[\w ]+:", title):
            yield f".SH {title[:-1].upper()}" if sections else f".PP\n{_plain(title)}"
        else:
            yield ".PP"
            lines.insert(0, title)
        yield from _verbatim(lines)


# Configuration


def _configuration(heading: str, schema: Schema) -> Iterator[str]:
    path = "/etc/gofer/agent.conf, /etc/gofer/conf.d/*" if schema is AGENT else "/etc/gofer/plugins/*"
    yield ".SH FILES"
    yield _plain(path)
    yield ".SH DESCRIPTION"
    page = (TOP / _CONFIGURATION).read_text("utf-8")
    yield from _markdown(page.partition("\n\n")[2].partition("\n## ")[0])
    yield ".PP"
    yield from _markdown(_chapter(_CONFIGURATION, heading).partition("\n### `[")[0])
    for section, says in schema.sections.items():
        yield f".SH {_word(f'[{section}]')}"
        yield _text(says)
        rows = []
        for key in schema.of(section):
            default = None if key.pattern else default_of(key.default)
            instead = f" Write `{key.instead}` instead." if key.instead else ""
            rows.append((key.name, f"{key.sentence}{instead}" + (f" Default: {default}" if default else "")))
        yield from _definitions(rows)


def _chapter(page: str, heading: str) -> str:
    """Return the text of the chapter of a page whose heading begins so."""
    chapters = re.split(r"^## ", (TOP / page).read_text("utf-8"), flags=re.MULTILINE)
    (found,) = [chapter for chapter in chapters if chapter.startswith(heading)]
    return found.partition("\n")[2].strip()


def _markdown(text: str) -> Iterator[str]:
    """Write what our documentation uses of Markdown: paragraphs, lists, tables, headings and blocks of code."""
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    for number, block in enumerate(
        re.split(r"\n{2,}(?=(?:[^`]*```[^`]*```)*[^`]*\Z)", text) if "```" in text else text.split("\n\n")
    ):
        lines = block.strip("\n").splitlines()
        if not lines:
            continue
        if lines[0].startswith("```"):
            yield ".PP"
            yield from _verbatim(lines[1:-1])
        elif lines[0].startswith("#"):
            yield f".SS {_word(lines[0].lstrip('# '))}"
        elif lines[0].startswith("|"):
            rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in lines[2:]]
            yield from _definitions([(row[0].replace("`", ""), " ".join(row[1:])) for row in rows])
        elif lines[0].startswith("- "):
            for item in re.split(r"\n(?=- )", "\n".join(lines)):
                yield ".IP \\(bu 2"
                yield _text(" ".join(item.removeprefix("- ").split()))
        else:
            yield from [".PP"] if number else []
            yield _text(" ".join(block.split()))


# roff


def _definitions(rows: Iterable[tuple[str, str]] | Sequence[Any]) -> Iterator[str]:
    for term, says in rows:
        yield ".TP"
        yield f".B {_plain(term)}"
        yield _text(says) or "\\&"


def _verbatim(lines: Iterable[str]) -> Iterator[str]:
    yield ".nf"
    yield ".RS 4"
    for line in textwrap.dedent("\n".join(lines)).splitlines():
        yield _plain(line) or ".sp"
    yield ".RE"
    yield ".fi"


def _text(text: str) -> str:
    """Write a line of prose: code and links as they are, each sentence in a line of its own, as troff wants it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    parts = re.split(r"`([^`]*)`", text)
    written = "".join(rf"\fB{_escape(part)}\fR" if number % 2 else _escape(part) for number, part in enumerate(parts))
    return re.sub(r"^([.'])", r"\\&\1", re.sub(r"(?<=[.:]) (?=[A-Z])", "\n", written), flags=re.MULTILINE)


def _plain(text: str) -> str:
    """Write text as it is."""
    return re.sub(r"^(?=[.'])", r"\\&", _escape(text))


def _word(text: str) -> str:
    """Write text as one argument of a macro."""
    return '"' + _escape(text).replace('"', "\\(dq") + '"'


def _escape(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("directory", type=Path)
    options.add_argument("--gzip", action="store_true")
    given = options.parse_args()
    for name, text in pages().items():
        folder = given.directory / f"man{name[-1]}"
        folder.mkdir(parents=True, exist_ok=True)
        if given.gzip:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        else:
            (folder / name).write_text(text, "utf-8")
    print(f"{given.directory}: {len(pages())} man pages", file=sys.stderr)
