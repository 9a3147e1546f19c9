"""What type checkers, and so editors, know about the options of agents: py.typed is a promise."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gofer.errors import ConfigError
from gofer.proxy import Agent
from gofer.rmi.client.options import OPTION_NAMES, CallOptions
from gofer.rmi.reply import ReplyConsumer

CALLER = """\
from typing import Any

from gofer import aio, proxy
from gofer.proxy import Agent


def report(what: dict[str, Any]) -> None: ...


def right(settings: dict[str, Any]) -> None:
    Agent("local://", "kennel", wait="30s", ttl=5, progress=report, data=[1])(wait=None, confirm=True)
    aio.Agent("local://", "kennel", wait=5)(reply="answers", secret=("a", "b"))
    Agent("local://", "kennel", **settings)


def wrong() -> None:
    Agent("local://", "kennel", wiat=5)
    Agent("local://", "kennel")(wait=[5])
    aio.Agent("local://", "kennel", progress=5)
    aio.Agent("local://", "kennel")(ttl=report)
    proxy.agent("local://", "kennel", wiat=5)
"""


@pytest.mark.slow
def test_mypy_knows_the_options(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "caller.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    told = [int(number) for number in re.findall(r"^caller.py:(\d+): error", done.stdout, re.MULTILINE)]
    first = CALLER.splitlines().index("def wrong() -> None:") + 2
    assert told == list(range(first, first + 5)), done.stdout


def test_no_option_is_left_out() -> None:
    assert set(CallOptions.__annotations__) == OPTION_NAMES


@pytest.mark.parametrize(
    "swapped",
    [
        lambda: Agent("kennel", "amqp://jane:hidden@broker"),
        lambda: Agent("kennel", "rabbitmq+amqps://jane:hidden@broker/fleet"),
        lambda: Agent("kennel", "local://"),
        lambda: Agent("local://", "kennel", reply="amqp://jane:hidden@broker"),
        lambda: ReplyConsumer("amqp://jane:hidden@broker", "answers"),
    ],
)
def test_a_url_in_the_place_of_an_address_is_reported(swapped: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=r"is a broker's URL, not an address.*swapped?") as caught:
        swapped()
    assert "hidden" not in str(caught.value)
