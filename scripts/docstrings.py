"""A griffe extension for `make docs`: docstrings are Sphinx's dialect of reStructuredText, the site is Markdown.

``:class:`~gofer.errors.Rejected` `` becomes a link to that name if it has an entry in the API reference, and the mark
``::`` before a literal block becomes a colon.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`(~?)([\w.]+)`")
_LITERAL = re.compile(r":: *$", re.MULTILINE)


def _link(role: re.Match[str]) -> str:
    name = role[2].rpartition(".")[2] if role[1] else role[2]
    return f"<autoref identifier='{role[2]}' optional><code>{name}</code></autoref>"


class Docstrings(griffe.Extension):
    """Writes the docstrings of each object as Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite an object's docstring."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = _LITERAL.sub(":", _ROLE.sub(_link, text)).removeprefix(":")
