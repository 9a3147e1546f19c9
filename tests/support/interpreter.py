"""The interpreter that works through the Python blocks of a page: one JSON text a line in, ``[printed, wrong]`` out."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import sys
import traceback
from typing import Any

__all__: list[str] = []

_SAID = re.compile(r"#\s+(->|raises)\s+(.*?)\s*$")


def run(code: str, names: dict[str, Any]) -> None:
    """Run a block, and compare what its statements' comments say."""
    lines = code.splitlines()
    for statement in ast.parse(code).body:
        said = _SAID.search(lines[(statement.end_lineno or 1) - 1])
        line = f"line {statement.lineno} of the block"
        try:
            if isinstance(statement, ast.Expr):
                value = eval(compile(ast.Expression(statement.value), "<page>", "eval"), names)
            else:
                value = None
                exec(compile(ast.Module([statement], []), "<page>", "exec"), names)
        except Exception as error:
            if said is None or said[1] != "raises" or not matches(said[2], type(error).__name__, error):
                raise
            continue
        if said is not None and said[1] == "raises":
            raise AssertionError(f"{line}: it raised nothing, and the page says {said[2]}")
        if said is not None and not matches(said[2], repr(value)):
            raise AssertionError(f"{line}: it is {value!r}, and the page says {said[2]}")


def matches(said: str, what: str, error: Exception | None = None) -> bool:
    """Tell whether a comment says what it was; ``...`` stands for anything."""
    if error is not None and ":" in said:
        what = f"{what}: {error}"
    return re.fullmatch(re.escape(said).replace(re.escape("..."), ".*"), what, re.DOTALL) is not None


def main() -> None:
    """Work through the blocks that come on standard input."""
    sys.path[0] = ""  # as the reader's own interpreter has it
    answers = os.fdopen(os.dup(1), "w")
    names: dict[str, Any] = {"__name__": "__main__"}
    for line in sys.stdin:
        printed = io.StringIO()
        wrong = None
        with contextlib.redirect_stdout(printed):
            try:
                run(json.loads(line), names)
            except BaseException:  # noqa: BLE001 - told to the test, which fails by it
                wrong = traceback.format_exc()
        answers.write(json.dumps([printed.getvalue(), wrong]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
