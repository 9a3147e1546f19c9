"""Actions of plugins: by a clock that is set by hand, and in a container."""

from __future__ import annotations

import logging
import sched
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gofer.agent import PluginContainer
from gofer.agent.actions import Actions, Moment
from gofer.agent.config import AgentConfig, read_descriptors
from gofer.agent.plugin import State
from gofer.decorators import action, fork, remote
from gofer.errors import PluginError
from gofer.rmi.api import API
from gofer.rmi.clock import Timer
from gofer.rmi.model.coroutines import Loop
from gofer.rmi.server.workers import Workers
from gofer.root import Root
from support.plugins import describe, install
from support.waiting import eventually


class Clock:
    """A clock that is set by hand, and what is to be called at its times."""

    def __init__(self) -> None:
        self.time = 0.0
        self._scheduler = sched.scheduler(lambda: self.time)

    def now(self) -> Moment:
        return Moment(self.time, datetime(2026, 6, 1, tzinfo=UTC) + timedelta(seconds=self.time))

    def call_after(self, delay: float, function: Callable[[], object]) -> Timer:
        return Timer(self._scheduler, self._scheduler.enter(delay, 0, function))

    def go(self, seconds: float) -> None:
        until = self.time + seconds
        while self._scheduler.queue and self._scheduler.queue[0].time <= until:
            self.time = self._scheduler.queue[0].time
            self._scheduler.run(blocking=False)
        self.time = until


class Dog:
    """A plugin of one function or class, whose worker works when it is told to."""

    def __init__(self, clock: Clock, **members: Any) -> None:
        self.name = "dog"
        module = ModuleType("dog")
        for name, member in members.items():
            member.__module__ = "dog"
            setattr(module, name, member)
        self.api = API.of_module(module)
        self.workers = Workers("dog", 1)
        self.loop = Loop("dog")
        self.entering = 0
        self.actions = Actions(self, clock, clock.now)

    def entered(self) -> Dog:
        return self

    def __enter__(self) -> None:
        self.entering += 1

    def __exit__(self, *raised: object) -> None:
        self.entering -= 1

    def work(self) -> int:
        """Do what waits for a worker; return how much that was."""
        tasks = self.workers.withdraw()
        for task in tasks:
            task.run()
        return len(tasks)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_runs_at_its_interval_and_reports_when(clock: Clock) -> None:
    ran = []
    dog = Dog(clock, sweep=action(seconds=600, splay=0)(lambda: ran.append(clock.time)))
    dog.actions.start()
    for _ in range(3):
        assert dog.work() == 1
        clock.go(600)
    assert ran == [0, 600, 1200]
    (told,) = dog.actions.describe()
    last = told.pop("last")
    assert told == {
        "name": "dog.sweep",
        "schedule": "every 0:10:00",
        "state": "queued",
        "runs": 3,
        "failures": 0,
        "began": None,
        "next": None,
    }
    assert (last["outcome"], last["error"]) == ("done", None)
    assert last["began"].endswith("Z")
    dog.work()
    assert dog.actions.describe()[0]["next"] == "2026-06-01T00:40:00.000Z"


def test_it_never_runs_beside_itself_however_busy_the_workers_are(clock: Clock) -> None:
    ran: list[float] = []
    dog = Dog(clock, sweep=action(seconds=1, splay=0)(lambda: ran.append(clock.time)))
    dog.actions.start()
    clock.go(10)
    assert dog.work() == 1
    clock.go(0.5)
    assert dog.work() == 0
    clock.go(0.5)
    assert dog.work() == 1
    assert ran == [10, 11]


def test_one_that_raises_is_reported_with_its_trace_and_runs_again(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    raising: list[BaseException] = [ZeroDivisionError("no bones"), SystemExit(3), KeyboardInterrupt()]

    def sweep() -> None:
        if raising:
            raise raising.pop(0)

    dog = Dog(clock, sweep=action(seconds=1, splay=0)(sweep))
    dog.actions.start()
    for _ in range(3):
        assert dog.work() == 1
        clock.go(1)
    errors = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert [one.getMessage().partition(" after")[0] for one in errors] == ["plugin dog: action dog.sweep failed"] * 3
    assert "ZeroDivisionError: no bones" in caplog.text
    assert "in sweep" in caplog.text
    (told,) = dog.actions.describe()
    assert (told["runs"], told["failures"], told["last"]["outcome"]) == (3, 3, "failed")
    assert told["last"]["error"].startswith("KeyboardInterrupt")
    dog.work()
    (told,) = dog.actions.describe()
    assert (told["runs"], told["failures"], told["last"]["outcome"]) == (4, 3, "done")


def test_one_without_an_interval_runs_once(clock: Clock) -> None:
    dog = Dog(clock, sweep=action(lambda: None))
    dog.actions.start()
    assert dog.work() == 1
    clock.go(1e9)
    assert dog.work() == 0
    (told,) = dog.actions.describe()
    assert (told["schedule"], told["state"], told["runs"], told["next"]) == ("once", "ended", 1, None)


def test_methods_run_on_a_new_object_each_time(clock: Clock) -> None:
    ran = []

    class Broom:
        def __init__(self) -> None:
            ran.append("new")

        @action(seconds=1, splay=0)
        def sweep(self) -> None:
            ran.append("sweep")

        @staticmethod
        @action
        def begin() -> None:
            ran.append("begin")

        @action
        @classmethod
        def called(cls) -> None:
            ran.append(cls.__name__)

    dog = Dog(clock, Broom=Broom, Same=Broom)
    dog.actions.start()
    dog.work()
    assert ran == ["new", "sweep", "new", "begin", "new", "Broom"]
    clock.go(1)
    dog.work()
    assert ran[6:] == ["new", "sweep"]
    assert [one["name"] for one in dog.actions.describe()] == ["Broom.sweep", "Broom.begin", "Broom.called"]


def test_coroutines_run_on_the_plugins_loop(clock: Clock) -> None:
    ended = threading.Event()

    async def sweep() -> None:
        ended.wait()

    dog = Dog(clock, sweep=action(seconds=1, splay=0)(sweep))
    dog.actions.start()
    assert dog.work() == 1
    assert dog.actions.describe()[0]["state"] == "running"
    clock.go(100)
    assert dog.work() == 0
    ended.set()
    eventually(lambda: dog.actions.describe()[0]["runs"] == 1)
    clock.go(1)
    assert dog.work() == 1
    assert dog.loop.stop(5) == 0


def test_a_coroutine_that_is_not_declared_is_reported(clock: Clock) -> None:
    async def later() -> None: ...

    dog = Dog(clock, sweep=action(lambda: [later()][0]))
    dog.actions.start()
    dog.work()
    assert "returned a coroutine: declare it `async def`" in dog.actions.describe()[0]["last"]["error"]


def test_forked_ones_are_refused(clock: Clock) -> None:
    with pytest.raises(
        PluginError, match=r"@action on dog\.sweep: actions run in the agent's process; @fork is for calls"
    ):
        Dog(clock, sweep=fork(action(lambda: None)))
    assert len(Dog(clock, sweep=remote(fork(action(lambda: None)))).api.actions) == 1


def test_after_stop_nothing_begins(clock: Clock) -> None:
    ran: list[int] = []
    dog = Dog(clock, sweep=action(seconds=1, splay=0)(lambda: ran.append(1)))
    dog.actions.start()
    dog.actions.stop()
    dog.actions.stop()
    assert dog.work() == 1  # it was in the queue, and does nothing
    clock.go(100)
    assert dog.work() == 0
    assert not ran
    assert dog.actions.describe()[0]["state"] == "stopped"


class TestReloading:
    def reloaded(self, clock: Clock, old: Dog, **members: Any) -> Dog:
        old.actions.stop()
        new = Dog(clock, **members)
        new.actions.start(old.actions)
        return new

    def test_an_interval_goes_on_where_it_was(self, clock: Clock) -> None:
        ran: list[str] = []
        old = Dog(clock, sweep=action(seconds=600, splay=0)(lambda: ran.append("old")))
        old.actions.start()
        old.work()
        clock.go(400)
        new = self.reloaded(clock, old, sweep=action(seconds=600, splay=0)(lambda: ran.append("new")))
        assert new.work() == 0
        clock.go(199)
        assert new.work() == 0
        clock.go(1)
        assert (new.work(), old.work()) == (1, 0)
        assert ran == ["old", "new"]
        assert new.actions.describe()[0]["runs"] == 2

    def test_what_has_other_times_or_runs_once_begins_anew(self, clock: Clock) -> None:
        old = Dog(clock, sweep=action(seconds=600, splay=0)(lambda: None), begin=action(lambda: None))
        old.actions.start()
        assert old.work() == 2
        clock.go(400)
        new = self.reloaded(clock, old, sweep=action(seconds=900, splay=0)(lambda: None), begin=action(lambda: None))
        assert new.work() == 2

    def test_old_code_that_stays_goes_on_also_with_what_runs_once(self, clock: Clock) -> None:
        begin, sweep = action(lambda: None), action(seconds=600, splay=0)(lambda: None)
        old = Dog(clock, begin=begin, sweep=sweep)
        old.actions.start()
        assert old.work() == 2
        same = self.reloaded(clock, old, begin=begin, sweep=sweep)
        assert same.work() == 0
        assert [one["state"] for one in same.actions.describe()] == ["ended", "waiting"]
        clock.go(600)
        assert same.work() == 1

    def test_new_code_waits_until_the_old_ones_run_has_ended(self, clock: Clock) -> None:
        running, ended = threading.Event(), threading.Event()

        def sweep() -> None:
            running.set()
            ended.wait()

        old = Dog(clock, sweep=action(seconds=1, splay=0)(sweep))
        old.actions.start()
        thread = threading.Thread(target=old.work)
        thread.start()
        assert running.wait(30)
        new = self.reloaded(clock, old, sweep=action(seconds=1, splay=0)(lambda: None))
        clock.go(100)
        assert new.work() == 0
        ended.set()
        thread.join()
        clock.go(1)
        assert new.work() == 1

    def test_one_that_waited_for_a_worker_runs_with_new_code(self, clock: Clock) -> None:
        ran: list[str] = []
        old = Dog(clock, sweep=action(seconds=600, splay=0)(lambda: ran.append("old")))
        old.actions.start()
        new = self.reloaded(clock, old, sweep=action(seconds=600, splay=0)(lambda: ran.append("new")))
        for task in old.workers.withdraw():
            new.workers.put(task)
        new.work()
        assert ran == ["new"]


TICKING = """
    import threading
    from gofer.agent.plugin import Plugin
    from gofer.decorators import action

    found = []

    @action(seconds=0.02)
    def tick():
        found.append((Plugin.find(__name__).name, threading.current_thread().name))

    @action
    def fail():
        raise OSError("no broom")
"""


class TestInAContainer:
    @pytest.fixture
    def container(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginContainer]:
        site = tmp_path / "site"
        site.mkdir()
        monkeypatch.syspath_prepend(str(site))
        install(site, "ticking", TICKING)
        describe(root, "ticking", "[main]\nenabled=1\n")
        container = PluginContainer(Root(root), AgentConfig())
        container.start(read_descriptors(Root(root))[0])
        yield container
        container.stop(5)
        sys.modules.pop("ticking_module", None)

    def test_a_plugin_without_a_url_runs_its_actions_on_its_workers(self, container: PluginContainer) -> None:
        plugin = container.plugins["ticking"]
        assert not plugin.attached
        found = sys.modules["ticking_module"].found
        eventually(lambda: len(found) > 2)
        assert set(found) == {("ticking", "gofer-ticking-1")}
        eventually(lambda: plugin.actions.describe()[1]["state"] == "ended")
        assert plugin.actions.describe()[1]["last"]["error"].startswith("OSError: no broom")

    def test_they_end_when_it_is_unloaded(self, container: PluginContainer) -> None:
        plugin = container.plugins["ticking"]
        found = sys.modules["ticking_module"].found
        eventually(lambda: found)
        container.unload("ticking")
        after = len(found)
        assert plugin.state is State.STOPPED
        assert {one["state"] for one in plugin.actions.describe()} <= {"stopped", "ended"}
        threading.Event().wait(0.1)
        assert len(found) == after

    def test_one_that_runs_may_end_before_the_agent_does(
        self, container: PluginContainer, caplog: pytest.LogCaptureFixture
    ) -> None:
        plugin = container.plugins["ticking"]
        module = sys.modules["ticking_module"]
        running, may_end = threading.Event(), threading.Event()
        ended: list[bool] = []

        class Slow(list[Any]):
            def append(self, item: Any) -> None:
                running.set()
                ended.append(may_end.wait(20))

        module.found = Slow()
        assert running.wait(10)
        stopping = threading.Thread(target=container.stop, args=(20,))
        stopping.start()
        eventually(lambda: {one["state"] for one in plugin.actions.describe()} <= {"running", "stopped"})
        assert stopping.is_alive()
        may_end.set()
        stopping.join(10)
        assert ended == [True]
        assert not [one for one in caplog.records if "has not ended" in one.getMessage()]


def test_what_times_them_is_imported_only_for_a_plugin_that_has_some() -> None:
    code = """
import sys, types
from gofer.agent.actions import Actions
from gofer.agent.main import main
from gofer.decorators import action
from gofer.rmi.api import API
from gofer.rmi.clock import Clock
class Plugin:
    name = "x"
    api = API("x")
Actions(Plugin(), Clock()).start()
assert not {"apscheduler", "tzlocal", "zoneinfo"} & set(sys.modules)
module = types.ModuleType("x")
module.tick = action(cron="0 4 * * *")(lambda: None)
module.tick.__module__ = "x"
Plugin.api = API.of_module(module)
Actions(Plugin(), Clock()).start()
assert "apscheduler" in sys.modules
assert not [name for name in sys.modules if name.startswith(("apscheduler.schedulers", "apscheduler.executors"))]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
