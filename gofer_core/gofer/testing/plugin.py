"""A pytest plugin: a broker, an agent with your plugins, an Agent to call it, and mocks.

It is off until a test suite asks for it, in its topmost ``conftest.py``::

    pytest_plugins = ["gofer.testing.plugin"]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gofer.messaging.local.server import Broker
    from gofer.proxy import Agent
    from gofer.testing.agents import AgentProcess

# What the fixtures need is imported by them: a suite that loads this and uses one of them pays for that one.

__all__ = ["gofer_agent", "gofer_agents", "gofer_broker", "gofer_mock", "gofer_plugins", "gofer_process", "gofer_url"]

#: Seconds until an agent that was started must answer.
_ANSWERS = 20.0

Plugins = Mapping[str, "str | Path | ModuleType"]


@pytest.fixture(scope="session")
def gofer_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A local broker in a thread of this process, for the whole session."""
    from gofer.messaging.local.server import serving

    with serving(str(tmp_path_factory.mktemp("gofer-broker") / "broker.sock")) as broker:
        yield broker


@pytest.fixture(scope="session")
def gofer_url(gofer_broker: Broker) -> str:
    """The URL of the broker that agents are started at. Override it to use another broker."""
    return f"local://{gofer_broker.path}"


@pytest.fixture(scope="module")
def gofer_plugins() -> Plugins:
    """The plugins of the running agent by name: each a module, its name, or the path of a file. To be overridden."""
    raise pytest.UsageError(
        "say which plugins the agent has: override the fixture gofer_plugins, see gofer.testing.plugin"
    )


@pytest.fixture(scope="module")
def gofer_process(
    gofer_url: str, gofer_plugins: Plugins, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AgentProcess]:
    """A goferd with the plugins, each at a queue that has its name, in a process and under a root of its own.

    Its Python looks for modules where this one does. ``tail()`` is the end of its log; ``kill`` and ``start`` do so.
    """
    from gofer.testing.agents import AgentProcess

    path = tuple(Path(each).resolve() for each in sys.path if Path(each).is_dir())
    with AgentProcess(tmp_path_factory.mktemp("gofer-agent"), path=path) as process:
        for name, source in gofer_plugins.items():
            _add(process, name, source, gofer_url)
        yield process.start()


@pytest.fixture(scope="module")
def gofer_agents(gofer_process: AgentProcess, gofer_plugins: Plugins, gofer_url: str) -> Iterator[dict[str, Agent]]:
    """An :class:`gofer.proxy.Agent` for each plugin of the running agent, by the plugin's name."""
    from gofer.proxy import Agent

    agents = {name: Agent(gofer_url, name, wait=30) for name in gofer_plugins}
    try:
        for name, agent in agents.items():
            _await(agent, name, gofer_process)
        yield agents
    finally:
        for agent in agents.values():
            agent.close()


@pytest.fixture(scope="module")
def gofer_agent(gofer_agents: dict[str, Agent]) -> Agent:
    """Return the :class:`gofer.proxy.Agent` for the running agent's only plugin."""
    if len(gofer_agents) != 1:
        raise pytest.UsageError(f"gofer_agent is for one plugin; use gofer_agents: there are {', '.join(gofer_agents)}")
    return next(iter(gofer_agents.values()))


@pytest.fixture
def gofer_mock() -> Iterator[ModuleType]:
    """:mod:`gofer.messaging.mock`, installed for one test: ``gofer_mock.register(Dog=Dog)``."""
    from gofer.messaging import mock

    mock.install()
    try:
        yield mock
    finally:
        mock.uninstall()


def _add(process: AgentProcess, name: str, source: str | Path | ModuleType, url: str) -> None:
    """Write the descriptor of a plugin, and its code where that is a file."""
    if re.fullmatch(r"[A-Za-z0-9_.-]+", name) is None:
        raise pytest.UsageError(f"gofer_plugins: {name!r} is no name for a plugin and its queue")
    descriptor = f"[main]\nenabled = 1\n{{}}\n[messaging]\nurl = {url}\n\n[model]\nqueue = {name}\n"
    if isinstance(source, Path):
        process.plugin(name, source.read_text("utf-8"), descriptor.format(""))
    elif isinstance(source, str | ModuleType):
        module = source if isinstance(source, str) else source.__name__
        process.descriptor(name, descriptor.format(f"plugin = {module}\n"))
    else:
        raise pytest.UsageError(f"gofer_plugins: {name} is a module, a module's name or a Path, not {source!r}")


def _await(agent: Any, name: str, process: AgentProcess) -> None:
    from gofer.errors import NotFound, RequestTimeout

    deadline = monotonic() + _ANSWERS
    while True:
        try:
            agent(wait=2).Admin().hello()
            return
        except (NotFound, RequestTimeout) as nobody:
            loaded = f"plugin {name}: loaded" in process.tail(10_000)  # or never, once it is ready
            if not loaded or monotonic() > deadline:
                raise RuntimeError(
                    f"plugin {name} does not answer; the agent's log ends:\n{process.tail()}"
                ) from nobody
        sleep(0.01)
