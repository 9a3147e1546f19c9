"""The configuration reference in docs/configuration.md, written from the annotations that configuration is read by.

``make reference`` runs this module, which writes the tables anew; a test of tests/docs says when that is to be done.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from gofer.agent.config.agent import AGENT
from gofer.agent.config.descriptor import DESCRIPTOR
from gofer.agent.config.keys import Schema
from gofer.agent.config.keys import written as default_of

__all__ = ["PAGE", "tables", "written"]

PAGE = Path(__file__).parents[2] / "docs/configuration.md"

#: The chapters of the page that end with the tables of a schema.
_CHAPTERS = {"## The agent: `agent.conf` and `conf.d`\n": AGENT, "## Plugins: descriptors\n": DESCRIPTOR}


def written(page: str) -> str:
    """Return the page's text with the tables as they should be."""
    chapters = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    for heading, schema in _CHAPTERS.items():
        (number,) = [number for number, chapter in enumerate(chapters) if chapter.startswith(heading)]
        text = chapters[number].partition("\n### `[")[0].rstrip("\n")
        last = number == len(chapters) - 1
        chapters[number] = f"{text}\n\n{tables(schema)}" + ("" if last else "\n")
    return "".join(chapters)


def tables(schema: Schema) -> str:
    """Write the section of each section."""
    return "\n".join(f"### `[{section}]`\n\n{_table(schema, section)}" for section in schema.sections)


def _table(schema: Schema, section: str) -> str:
    lines = [f"{schema.sections[section]}", "", "| key | default | what it says |", "|---|---|---|"]
    for key in schema.of(section):
        instead = f" Write `{key.instead}` instead." if key.instead else ""
        default = None if key.pattern else default_of(key.default)
        lines.append(f"| `{key.name}` | {default or 'none'} | {key.sentence}{instead} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    before = PAGE.read_text("utf-8")
    PAGE.write_text(written(before), "utf-8")
    print(f"{PAGE.name}: {'as it was' if written(before) == before else 'written anew'}", file=sys.stderr)
