"""``gofer audit``: whether an audit log is as it was written."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from gofer.tools.output import complain, harmless

from gofer_plugin_audit.chain import Verification, lines_of
from gofer_plugin_audit.log import files_in

__all__ = ["audit"]


@click.group()
def audit() -> None:
    """Look at audit logs of gofer-plugin-audit."""


def _expected(_: object, __: object, text: str | None) -> tuple[int, str] | None:
    found = re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64})", text or "")
    if text is not None and found is None:
        raise click.BadParameter(f"{text[:100]!r} is not NUMBER:HASH, as the agent's log names a record")
    return None if found is None else (int(found[1]), found[2])


@audit.command()
@click.option(
    "--expect",
    callback=_expected,
    metavar="NUMBER:HASH",
    help="This record was written: the agent's log names the last one at each start, stop and new file.",
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(exists=True, path_type=Path))
def verify(files: Sequence[Path], expect: tuple[int, str] | None) -> int:
    """Verify that an audit log is as it was written.

    FILE... are its files in their order, or its directory. Names the first line that does not fit, and says whether it
    was changed, records are missing before it, or the log is truncated.

    \b
    Exit status:
      0    all lines fit
      1    a line does not fit
      2    wrong arguments
    """
    paths = [path for one in files for path in (files_in(one) if one.is_dir() else [one])]
    for path in paths:
        if not path.is_file():
            raise click.UsageError(f"{path} is no file")
    if not paths:
        raise click.UsageError(f"no file named audit-*.jsonl in {', '.join(map(str, files))}")
    looked = Verification(expect)
    try:
        for path in paths:
            with path.open("rb") as opened:
                looked.read(str(path), lines_of(opened))
            if looked.finding is not None:
                break
        else:
            looked.end(str(paths[-1]))
    except OSError as failed:
        complain("gofer audit verify", failed)
        return 1
    for note in looked.notes:
        print(f"note: {harmless(note)}", file=sys.stderr)
    last = "no record" if looked.last is None else f"last record {looked.last.seq}:{looked.last.hash}"
    if looked.finding is None:
        print(f"{looked.records} records fit; {last}")
        return 0
    file, line, kind, text = looked.finding
    where = file if not line else f"{file}, line {line}"
    print(f"{kind}: {harmless(where)}: {text}; {looked.records} records before it fit, {last}")
    return 1
