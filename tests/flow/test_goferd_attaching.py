"""Plugins that go to another queue, leave theirs and come back, while goferd runs: agents register that way."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import GoferError, NotFound, Rejected, RequestTimeout
from gofer.messaging.auth import Authenticator, ValidationFailed
from gofer.proxy import Agent
from gofer.rmi.reply import ReplyConsumer
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.waiting import eventually

DOG = """
    import time
    from pathlib import Path

    from gofer.agent.plugin import Plugin
    from gofer.decorators import remote

    plugin = Plugin.find(__name__)

    class Dog:
        @remote
        def bark(self, words="woof"):
            return words

        @remote
        def hold(self, gate):
            Path(gate + ".held").touch()
            while not Path(gate).exists():
                time.sleep(0.005)
            return "held"
"""

KEEPER = """
    from hashlib import sha256

    from gofer.agent.plugin import Plugin
    from gofer.decorators import remote
    from gofer.messaging.auth import ValidationFailed

    class Shared:
        def sign(self, digest):
            return sha256(digest.encode()).hexdigest()

        def validate(self, document, digest, signature):
            if signature != self.sign(digest):
                raise ValidationFailed("not ours")

    def dog():
        return Plugin.find("dog")

    @remote
    def move(queue):
        dog().queue = queue
        dog().attach()

    @remote
    def move_by_settings(queue, url):
        dog().cfg.model.queue = queue
        dog().cfg.messaging.url = url
        dog().attach()
        return [dog().queue, str(dog().url)]

    @remote
    def set_and_attach(section, key, value):
        setattr(getattr(dog().cfg, section), key, value)
        dog().attach()

    @remote
    def sign():
        dog().authenticator = Shared()
        dog().attach()

    @remote
    def leave():
        dog().detach()

    @remote
    def come():
        dog().attach()

    @remote
    def attached():
        return [dog().attached, dog().pending]
"""


class Shared(Authenticator):
    """That of the keeper."""

    def sign(self, digest: str) -> str:
        return sha256(digest.encode()).hexdigest()

    def validate(self, document: Any, digest: str, signature: object) -> None:
        if signature != self.sign(digest):
            raise ValidationFailed("not ours", document)


class Place:
    """A goferd with two plugins, of which one moves the other."""

    def __init__(self, root: Path, url: str) -> None:
        self.url = url
        self.goferd = AgentProcess(root)
        self.agent = Agent(url, "keeper", wait=20)
        self.keeper = self.agent["keeper"]

    def start(self, model: str = "", dog: str = "", keeper: str = "") -> None:
        for name, (code, main) in {"dog": (DOG, dog), "keeper": (KEEPER, keeper)}.items():
            text = f"[main]\nenabled=1\n{main}\n[messaging]\nurl={self.url}\n[model]\nqueue={name}\n"
            self.goferd.plugin(name, code, text + (model if name == "dog" else ""))
        self.goferd.start()
        for name in ("dog", "keeper"):
            with Agent(self.url, name) as agent:
                until_it_answers(agent)


@pytest.fixture
def place(root: Path) -> Iterator[Place]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        place = Place(root, broker.url)
        yield place
        place.agent.close()
        place.goferd.stop()


def unread(url: str, queue: str) -> bool:
    """Whether nobody takes from a queue that is there."""
    with Agent(url, queue, wait=0.5, ttl=0.5) as agent:
        try:
            agent.Dog().bark()
        except RequestTimeout:
            return True
    return False


def test_a_plugin_that_is_given_another_queue_serves_that_one_once_it_attaches(place: Place) -> None:
    place.start()

    place.keeper.move("r2")

    with Agent(place.url, "r2", wait=20) as agent:
        until_it_answers(agent)
        assert agent.Dog().bark("here") == "here"
    eventually(lambda: unread(place.url, "dog"))  # it is left, and not deleted: it may be another's by now
    place.keeper.move("dog")
    with Agent(place.url, "dog", wait=20) as agent:
        until_it_answers(agent)


def test_a_plugin_moves_to_another_broker_by_its_settings(place: Place, tmp_path: Path) -> None:
    place.start()

    with LocalBroker(str(tmp_path / "other.sock")) as other:
        assert place.keeper.move_by_settings("r3", other.url) == ["r3", other.url]
        with Agent(other.url, "r3", wait=20) as agent:
            until_it_answers(agent)
            assert agent.Dog().bark("there") == "there"
        eventually(lambda: unread(place.url, "dog"))
        place.goferd.stop()


def test_what_a_plugin_has_accepted_before_it_moves_is_answered(place: Place, tmp_path: Path) -> None:
    place.start()
    gate = tmp_path / "gate"

    with ThreadPoolExecutor(1) as threads, Agent(place.url, "dog", wait=30) as agent:
        held = threads.submit(agent.Dog().hold, str(gate))
        eventually((tmp_path / "gate.held").exists)
        place.keeper.move("r2")
        with Agent(place.url, "r2", wait=20) as moved:
            until_it_answers(moved)
        gate.touch()
        assert held.result(30) == "held"


def test_settings_that_cannot_be_used_leave_it_where_it_is(place: Place) -> None:
    place.start()

    with pytest.raises(ValueError, match=r"dog\.conf: \[messaging\] url: .*protocol"):
        place.keeper.move_by_settings("r2", "pigeon://nowhere")
    with Agent(place.url, "dog", wait=20) as agent:
        assert agent.Dog().bark() == "woof"


@pytest.mark.parametrize(
    ("section", "key", "value", "says"),
    [
        ("messaging", "authenticator", "keeper.Shared", r"\[messaging\] authenticator: .* set plugin\.authenticator"),
        ("main", "admin", "jane", r"\[main\] admin: counts only in the file"),
        ("main", "accept", "*", r"\[main\] accept: counts only in the file"),
        ("model", "managed", 7, r"\[model\] managed: .* out of range; allowed: a whole number from 0 to 2"),
    ],
)
def test_what_would_not_count_is_refused(place: Place, section: str, key: str, value: object, says: str) -> None:
    place.start()

    with pytest.raises(ValueError, match=says):
        place.keeper.set_and_attach(section, key, value)
    place.keeper.set_and_attach(section, key, None)
    with Agent(place.url, "dog", wait=20) as agent:
        assert agent.Dog().bark() == "woof"


def test_an_authenticator_that_is_set_later_is_taken_up_by_attaching(place: Place) -> None:
    place.start()

    place.keeper.sign()

    with Agent(place.url, "dog", wait=20) as agent:
        eventually(lambda: rejected(agent))
        assert agent(authenticator=Shared()).Dog().bark("signed") == "signed"


def test_one_that_lets_others_in_is_refused_an_authenticator_that_these_have_not(place: Place) -> None:
    place.start(dog="accept=keeper", keeper="forward=dog")

    with pytest.raises(GoferError, match=r"\[main\] accept: "):  # as itself where its module is imported
        place.keeper.sign()
    with Agent(place.url, "dog", wait=20) as agent:
        assert agent.Dog().bark() == "woof"


def rejected(agent: Agent) -> bool:
    try:
        agent.Dog().bark()
    except Rejected as refused:
        return refused.code == "security.authentication"
    return False


class Waiting:
    """One call that runs, and one that waits in the queue."""

    def __init__(self, place: Place, folder: Path, threads: ThreadPoolExecutor, agent: Agent) -> None:
        self._gate = folder / "gate"
        self.told: list[Any] = []
        self._consumer = ReplyConsumer("tasks", place.url).start(self._hear)
        self.held = threads.submit(agent.Dog().hold, str(self._gate))
        eventually((folder / "gate.held").exists)
        agent(reply="tasks", confirm=True).Dog().bark("second")

    def _hear(self, reply: Any) -> None:
        if reply.done:
            self.told.append(reply)

    def release(self) -> None:
        self._gate.touch()
        assert self.held.result(30) == "held"

    def end(self) -> Any:
        """What the second one ended with."""
        eventually(lambda: self.told)
        self._consumer.stop()
        return self.told[0]


def test_detached_it_rejects_what_waits_and_deletes_its_queue(place: Place, tmp_path: Path) -> None:
    place.start("prefetch=1\n")

    with ThreadPoolExecutor(1) as threads, Agent(place.url, "dog", wait=30) as agent:
        waiting = Waiting(place, tmp_path, threads, agent)
        place.keeper.leave()
        assert place.keeper.attached()[0] is False
        assert waiting.end().code == "plugin.detached"
        waiting.release()
        eventually(lambda: gone(place.url))

        place.keeper.come()  # and it may come back
        until_it_answers(agent)
        assert place.keeper.attached() == [True, 0]


@pytest.mark.parametrize("managed", [0, 1])
def test_detached_it_leaves_what_waits_in_a_queue_that_is_not_its_own_to_delete(
    place: Place, tmp_path: Path, managed: int
) -> None:
    if managed == 0:  # another program has declared it
        place.start("prefetch=1\nmanaged=1\n")
        place.goferd.stop()
    place.start(f"prefetch=1\nmanaged={managed}\n")

    with ThreadPoolExecutor(1) as threads, Agent(place.url, "dog", wait=30) as agent:
        waiting = Waiting(place, tmp_path, threads, agent)
        place.keeper.leave()
        waiting.release()
        eventually(lambda: place.keeper.attached() == [False, 0])
        assert waiting.told == []
        place.keeper.come()
        assert waiting.end().retval == "second"


def test_it_may_come_back_at_once(place: Place) -> None:
    place.start()

    with Agent(place.url, "dog", wait=30) as agent:
        for _ in range(5):
            place.keeper.leave()
            place.keeper.come()
        eventually(lambda: barks(agent))  # what came while it was leaving was rejected
        for _ in range(5):
            assert agent.Dog().bark("back") == "back"


def barks(agent: Agent) -> bool:
    try:
        return bool(agent.Dog().bark("back") == "back")
    except (NotFound, Rejected, RequestTimeout):
        return False


def gone(url: str) -> bool:
    with Agent(url, "dog", wait=2) as agent:
        try:
            agent.Dog().bark()
        except NotFound:
            return True
        except (Rejected, RequestTimeout):
            return False
    return False
