"""Plugins of a real goferd that are loaded again and unloaded while they are called."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from gofer.errors import Cancelled, NotFound, Rejected, RequestTimeout
from gofer.proxy import Agent
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.plugins import describe, install
from support.presence import until_it_answers
from support.reloads import Storm, manage
from support.waiting import eventually

CODE = """
import asyncio, os, time
from gofer.agent.plugin import Plugin
from gofer.agent.rmi import Context
from gofer.decorators import fork, remote, unload

class Dog:
    @remote
    def version(self):
        return {version}

    @remote
    @fork
    def forked(self):
        return [{version}, os.getppid()]

    @remote
    def hold(self, begun, go):
        open(begun, "w").close()
        while not os.path.exists(go):
            time.sleep(0.005)
        return None if Context.current().cancelled() else {version}

    @remote
    async def hold_later(self, begun, go):
        open(begun, "w").close()
        while not os.path.exists(go):
            await asyncio.sleep(0.005)
        return {version}

    @remote
    @fork
    def hold_forked(self, begun, go):
        return self.hold(begun, go)

    @remote
    def renew(self):
        Plugin.find(__name__).container.reload("dog")
        return {version}

    @remote
    def leave(self):
        Plugin.find(__name__).container.unload("dog")
        return {version}
"""


@pytest.fixture
def broker(root: Path) -> Iterator[LocalBroker]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        yield broker


class Yard:
    """A goferd with one plugin, two threads of it, and callers in threads of their own."""

    def __init__(self, root: Path, site: Path, broker: LocalBroker) -> None:
        self.root = root
        self.site = site
        self.url = broker.url
        self.goferd = AgentProcess(root, path=(site,))
        self.threads = ThreadPoolExecutor(8)
        self._agents: list[Agent] = []

    def start(self, more: str = "", main: str = "threads=2") -> Agent:
        install(self.site, "dog", "")
        self.write(1)
        self.describe("dog", more, main)
        self.goferd.start()
        return until_it_answers(self.agent("dog"), self.goferd.tail())

    def describe(self, queue: str, more: str = "", main: str = "threads=2") -> None:
        messaging = f"[messaging]\nurl={self.url}\n[model]\nqueue={queue}\n"
        describe(self.root, "dog", f"[main]\nenabled=1\n{main}\n{messaging}{more}\n")

    def write(self, version: int) -> None:
        (self.site / "dog_module.py").write_text(CODE.format(version=version))

    def agent(self, queue: str) -> Agent:
        agent = Agent(self.url, queue, wait=20)
        self._agents.append(agent)
        return agent

    def held(self, agent: Agent, name: str = "held", method: str = "hold") -> Future[int]:
        """Begin a call that runs until ``go``."""
        begun = self.site / name
        call = self.threads.submit(getattr(agent.Dog(), method), str(begun), str(self.site / "go"))
        eventually(begun.exists)
        return call

    def go(self) -> None:
        (self.site / "go").touch()

    def manage(self, do: str) -> Future[object]:
        return self.threads.submit(manage, self.root, do=do, which="dog")

    def close(self) -> None:
        self.go()
        self.threads.shutdown()
        for agent in self._agents:
            agent.close()
        self.goferd.stop()


@pytest.fixture
def yard(root: Path, tmp_path: Path, broker: LocalBroker) -> Iterator[Yard]:
    yard = Yard(root, tmp_path, broker)
    yield yard
    yard.close()


@pytest.mark.slow
def test_of_a_thousand_calls_in_flight_each_has_one_outcome(root: Path, tmp_path: Path, broker: LocalBroker) -> None:
    storm = Storm(root, tmp_path, broker.url)

    storm.run()

    storm.check()


class TestReload:
    def test_what_runs_ends_in_the_old_code_and_what_waits_is_run_by_the_new(self, yard: Yard) -> None:
        agent = yard.start()
        held = [yard.held(agent, f"held{n}") for n in range(2)]
        waiting = yard.threads.submit(agent.Dog().version)
        eventually(lambda: agent.Admin().echo("it has come"))
        yard.write(2)

        reloading = yard.manage("reload")
        eventually(lambda: "its new code waits until 2 calls" in yard.goferd.tail())
        assert agent.Admin().echo("it answers meanwhile")
        assert not any(one.done() for one in [*held, waiting, reloading])
        yard.go()

        assert [one.result(20) for one in held] == [1, 1]
        assert waiting.result(20) == 2
        reloading.result(20)

    def test_what_runs_for_longer_than_may_be_waited_for_is_answered_all_the_same(self, yard: Yard) -> None:
        yard.goferd.configure("[main]\nshutdown_timeout = 0.2\n")
        agent = yard.start(main="threads=4")
        held = [yard.held(agent, method, method) for method in ("hold", "hold_later", "hold_forked")]
        yard.write(2)

        yard.manage("reload").result(20)
        assert agent.Dog().version() == 2
        assert not any(one.done() for one in held)
        yard.go()

        assert [one.result(20) for one in held] == [1, 1, 1]

    def test_it_can_still_be_cancelled(self, yard: Yard) -> None:
        yard.goferd.configure("[main]\nshutdown_timeout = 0.2\n")
        agent = yard.start()
        held = yard.held(agent)
        yard.manage("reload").result(20)

        (running,) = listing(yard)
        assert agent.Admin().cancel(sn=running["sn"]) == [running["sn"]]  # by the new one's Admin, too
        yard.go()
        with pytest.raises(Cancelled, match="cancelled while it ran"):
            held.result(20)

    def test_forked_methods_are_new_and_the_process_that_forks_is_another(self, yard: Yard) -> None:
        agent = yard.start()
        version, helper = agent.Dog().forked()
        assert version == 1
        yard.write(2)

        yard.manage("reload").result(20)

        assert agent.Dog().forked()[0] == 2
        eventually(lambda: not psutil.pid_exists(helper))

    def test_a_method_may_reload_its_own_plugin(self, yard: Yard) -> None:
        agent = yard.start()
        yard.write(2)

        assert agent.Dog().renew() == 1
        assert agent.Dog().version() == 2

    def test_with_another_queue_what_came_by_the_old_one_is_answered(self, yard: Yard) -> None:
        agent = yard.start()
        held = [yard.held(agent, f"held{n}") for n in range(2)]
        waiting = [yard.threads.submit(agent.Dog().version) for _ in range(3)]
        eventually(lambda: agent.Admin().echo("they have come"))
        yard.write(2)
        yard.describe("puppy")

        reloading = yard.manage("reload")
        eventually(lambda: "its new code waits until 2 calls" in yard.goferd.tail())
        yard.go()
        reloading.result(20)

        assert [one.result(20) for one in held] == [1, 1]
        assert [one.result(20) for one in waiting] == [2, 2, 2]
        assert until_it_answers(yard.agent("puppy")).Dog().version() == 2
        with pytest.raises(RequestTimeout):  # it is still there, and nobody reads it
            agent(wait=0.3).Dog().version()

    def test_a_new_authenticator_is_used_at_once(self, yard: Yard) -> None:
        agent = yard.start()
        module = yard.site / "stamps.py"
        module.write_text(
            "class Refuser:\n    def sign(self, digest): return b'x'\n"
            "    def validate(self, document, digest, signature):\n"
            "        from gofer.messaging.auth import ValidationFailed\n        raise ValidationFailed('no')\n"
        )
        file = yard.root / "etc/gofer/plugins/dog.conf"
        file.write_text(file.read_text().replace("[messaging]", "[messaging]\nauthenticator=stamps.Refuser"))

        yard.manage("reload").result(20)

        with pytest.raises(Rejected):
            agent.Dog().version()


class TestUnload:
    def test_what_was_accepted_is_finished_what_waits_is_rejected_and_the_queue_goes(self, yard: Yard) -> None:
        agent = yard.start("prefetch=3")
        held = [yard.held(agent, f"held{n}") for n in range(2)]
        waiting = [yard.threads.submit(agent.Dog().version) for _ in range(4)]
        eventually(lambda: len(listing(yard)) >= 3)

        unloading = yard.manage("unload")
        eventually(lambda: any(one.done() for one in waiting))  # rejected: none of them can have begun
        assert not unloading.done()
        yard.go()
        unloading.result(20)

        assert [one.result(20) for one in held] == [1, 1]
        errors = [error for one in waiting if (error := one.exception(20)) is not None]
        assert errors
        assert {error.code for error in errors if isinstance(error, Rejected)} == {"plugin.unloaded"}
        assert [one.result() for one in waiting if one.exception() is None] == [1] * (4 - len(errors))
        with pytest.raises(NotFound):
            agent.Dog().version()

    def test_what_has_not_begun_in_time_is_rejected(self, yard: Yard) -> None:
        yard.goferd.configure("[main]\nshutdown_timeout = 0.3\n")
        agent = yard.start(main="threads=1")
        held = yard.held(agent)
        waiting = yard.threads.submit(agent.Dog().version)
        eventually(lambda: len(listing(yard)) == 2)

        yard.manage("unload").result(20)

        with pytest.raises(Rejected, match="the plugin that this was for has been unloaded"):
            waiting.result(20)
        assert not held.done()  # it goes on
        yard.go()
        assert held.result(20) == 1

    @pytest.mark.parametrize("managed", [0, 1])
    def test_a_queue_that_is_not_its_own_keeps_what_waits(self, yard: Yard, managed: int) -> None:
        yard.start()  # which declares it
        yard.describe("dog", f"managed={managed}\nprefetch=1", "threads=1")
        yard.manage("reload").result(20)
        agent = until_it_answers(yard.agent("dog"))

        yard.manage("unload").result(20)
        waiting = yard.threads.submit(agent.Dog().version)
        manage(yard.root, do="load", path="dog.conf")

        assert waiting.result(20) == 1

    def test_the_queue_that_another_agent_reads_is_left_to_that(self, yard: Yard, tmp_path: Path) -> None:
        agent = yard.start()
        other = AgentProcess(tmp_path / "other", path=(yard.site,))
        (other.root / "etc/gofer/plugins/dog.conf").write_text((yard.root / "etc/gofer/plugins/dog.conf").read_text())
        (other.root / "etc/gofer/plugins/dog.conf").chmod(0o644)
        with other:
            other.start()
            eventually(lambda: reads(other.root, "dog"))

            yard.manage("unload").result(20)

            assert agent.Dog().version() == 1
            assert "queue 'dog' stays as it is: " in yard.goferd.tail()

    def test_a_method_may_unload_its_own_plugin(self, yard: Yard) -> None:
        agent = yard.start()

        assert agent.Dog().leave() == 1
        with pytest.raises(NotFound):
            agent.Dog().version()

    def test_its_connection_is_closed(self, yard: Yard) -> None:
        yard.start()
        process = psutil.Process(yard.goferd.pid)

        before = len(process.net_connections("unix"))
        yard.manage("unload").result(20)

        eventually(lambda: len(process.net_connections("unix")) < before)


def reads(root: Path, name: str) -> bool:
    """Tell whether a plugin of the goferd under a root reads its queue; connected, it may be on its way there."""
    for plugin in manage(root, do="show")["plugins"]:
        if plugin["name"] == name and plugin["connection"] is not None:
            return bool(plugin["connection"]["reading"])
    return False


def listing(yard: Yard) -> list[dict[str, Any]]:
    """The requests that goferd has."""
    return list(manage(yard.root, do="requests")["entries"])
