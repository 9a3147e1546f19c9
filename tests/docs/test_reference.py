"""docs/configuration.md holds every section and key, as the tables say that configuration is read by."""

from __future__ import annotations

import pytest
from gofer.agent.config.schema import AGENT, DESCRIPTOR, Schema
from support.repository import TOP

PAGE = "docs/configuration.md"


def default(value: object) -> str:
    """Write a default as one would in a file."""
    if value in (None, ()):
        return "none"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int) and value >= 1 << 20:
        return f"{value >> 20}M"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(schema: Schema, section: str) -> str:
    """Write the table of a section's keys."""
    lines = [f"{schema.sections[section]}", "", "| key | default | what it says |", "|---|---|---|"]
    for key in schema.keys:
        if key.section == section:
            instead = f" Write `{key.instead}` instead." if key.instead else ""
            lines.append(f"| `{key.name}` | {default(key.default)} | {key.doc}{instead} |")
    lines += [f"| `{free.name}` | none | {free.doc} |" for free in schema.free if free.section == section]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("schema", "section"),
    [(schema, section) for schema in (AGENT, DESCRIPTOR) for section in schema.sections],
    ids=lambda value: value if isinstance(value, str) else "agent" if value is AGENT else "descriptor",
)
def test_the_table_of_a_section_is_the_one_that_is_read_by(schema: Schema, section: str) -> None:
    wanted = f"### `[{section}]`\n\n{table(schema, section)}"
    print(wanted)  # shown when the next line fails, ready to be copied

    assert wanted in (TOP / PAGE).read_text("utf-8"), f"{PAGE} says otherwise; what it should say is above"
