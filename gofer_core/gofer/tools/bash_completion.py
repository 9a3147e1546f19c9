"""Completion for bash, which splits a line at ``=``, ``:`` and ``@``, too. Here it is split at spaces."""

from __future__ import annotations

import os
from typing import Any

from click.shell_completion import BashComplete, CompletionItem, split_arg_string

__all__ = ["Bash"]

_LINE = 'COMP_LINE="${COMP_LINE:0:${COMP_POINT:-0}}" COMP_WORD="${COMP_WORDS[COMP_CWORD]}"'
_NO_SPACE = "[[ $COMPREPLY == *[.=:] ]] && compopt -o nospace 2> /dev/null"  # somebody goes on typing
_BREAKS = frozenset("=:@<>")


class Bash(BashComplete):
    """click's completion, given the line as it is, and the word that bash is going to replace."""

    source_template = BashComplete.source_template.replace("$(env ", f"$(env {_LINE} ").replace(
        "    return 0", f"    {_NO_SPACE}\n    return 0"
    )
    _kept = ""  # what stands before that word, with no space between

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the unfinished one."""
        line, word = os.environ.get("COMP_LINE"), os.environ.get("COMP_WORD", "")
        if not line:
            return super().get_completion_args()
        *words, last = split_arg_string(f"{line}x")  # or a last space would be lost
        incomplete = last[:-1]
        replaced = "" if _BREAKS.issuperset(word) else word
        if word[:1] not in ("'", '"') and incomplete.endswith(replaced):
            self._kept = incomplete.removesuffix(replaced)
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return an item as the script reads it."""
        item.value = str(item.value).removeprefix(self._kept)
        return super().format_completion(item)
