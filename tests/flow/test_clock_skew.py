"""Clocks that differ, in both directions: each side says by how much, a caller also what it did not believe."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.signing import QUEUE, Serving, hmac_scheme, serving

#: A caller whose clock is so many seconds ahead (or behind); it prints how its call ended.
CALLER = """
    import sys
    import time

    ahead, url, queue, keys, door = float(sys.argv[1]), *sys.argv[2:]
    real = time.time
    time.time = lambda: real() + ahead

    from gofer.errors import GoferError
    from gofer_authenticator_hmac import HmacAuthenticator

    def call(**options):
        if door == "threads":
            from gofer.proxy import Agent
            Agent(url, queue, **options).Probe().echo("x")
        else:
            import asyncio
            from gofer.aio import Agent

            async def call():
                async with Agent(url, queue, **options) as agent:
                    await agent.Probe().echo("x")

            asyncio.run(call())

    told = ""
    for wait in 1, 4, 16:  # on a busy machine a reply may take longer
        try:
            call(wait=wait, authenticator=HmacAuthenticator(keys))
        except GoferError as error:
            told = f"{type(error).__name__} {error}"
        if "no word from the agent" not in told:
            break
    print(told)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("skew")
    with serving(folder, hmac_scheme(folder)) as one:
        yield one


def called(served: Serving, folder: Path, ahead: float, door: str) -> str:
    keys = folder / "keys"
    served.scheme.named("ops")  # writes them
    keys.write_bytes((served.process.root.parent / "ops.keys").read_bytes())
    keys.chmod(0o600)
    command = [sys.executable, "-c", textwrap.dedent(CALLER), str(ahead), served.broker.url, QUEUE, str(keys), door]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("door", ["threads", "asyncio"])
def test_a_caller_that_is_behind_is_told_that_replies_came_and_why_they_were_not_believed(
    served: Serving, tmp_path: Path, door: str
) -> None:
    told = called(served, tmp_path, -600, door)
    assert told.startswith("RequestTimeout"), told
    assert "no word from the agent" not in told
    assert re.search(
        r"Replies arrived that could not be verified: \d+ for 'signed (59\d|60\d) s in the future", told
    ), told
    assert "clock" in told
    assert re.search(r"rejected \(security\.expired\): 'signed (59\d|60\d) s ago, allowed: \d(\.\d)? s", served.log), (
        served.log
    )


def test_a_caller_that_is_ahead_is_rejected_and_both_sides_name_the_seconds(served: Serving, tmp_path: Path) -> None:
    told = called(served, tmp_path, 600, "threads")
    assert told.startswith("Rejected"), told
    said = r"signed (59\d|60\d) s in the future, allowed: 300 s between clocks"
    assert re.search(said, told), told
    assert re.search(rf"rejected \(security\.expired\): '{said}", served.log), served.log
