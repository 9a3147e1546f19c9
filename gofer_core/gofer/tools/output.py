"""What the commands print and write: complaints of one line, traces made harmless, tables, and filled templates."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["complain", "filled", "harmless", "print_json", "print_table", "text_of"]

# All control characters but tab and newline: a terminal would obey them. And what turns the direction of text round.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


#: Characters of a complaint that are printed: somebody has to read it, even if an argument has a megabyte.
_MOST = 2000


def complain(command: str, what: object) -> None:
    """Print one line on standard error. Of a longer one than people read, its beginning and its end."""
    line = harmless(" ".join(str(what).split()))
    if len(line) > _MOST:
        line = f"{line[: _MOST // 2]} ... {line[-_MOST // 4 :]}"
    print(f"{command}: {line}", file=sys.stderr)


def harmless(text: str) -> str:
    """Return text that came over the wire with its control characters spelled out, tabs and newlines left alone."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def filled(template: str, /, **values: object) -> str:
    """Return a template, a path below ``templates`` without ``.template``, with its ``$names`` filled in."""
    from importlib.resources import files  # most commands print only
    from string import Template

    return Template((files(__package__) / f"templates/{template}.template").read_text("utf-8")).substitute(values)


def text_of(value: Any) -> str:
    """Return a value as people read it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def print_json(value: Any) -> None:
    """Print a value as JSON: indented on a terminal, on one line where a program reads."""
    print(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: framed on a terminal, columns with two spaces between where a program reads."""
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    lines = [columns, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
