"""The audit log of gofer-plugin-audit: what is in it, after a kill, and on a full disk."""

from __future__ import annotations

import json
import resource
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import GoferError, NotAuthorized, Rejected, SecretNotMatched
from gofer_plugin_audit.chain import Verification, read_line
from gofer_plugin_audit.log import files_in
from support.baddisk import BadDisk
from support.goferd import AgentProcess
from support.guarded import Guarded
from support.localbroker import LocalBroker
from support.plugins import describe
from support.presence import until_it_answers
from support.reloads import manage
from support.waiting import eventually

DOG = """
from pathlib import Path
from gofer.agent.rmi import Context
from gofer.decorators import fork, remote


class Dog:
    def __init__(self, name="nobody"):
        self.name = name

    @remote
    def bark(self, trace=None):
        if trace is not None:
            with open(trace, "a") as file:
                file.write(Context.current().sn + "\\n")
        return "bark"

    @remote
    @fork
    def dig(self):
        return "dug"

    @remote
    def fail(self):
        raise ValueError("no")

    @remote(secret="sesame-42")
    def vault(self, password):
        return "gold"
"""


class House(Guarded):
    """With an audit log."""

    def audit(self, text: str = "", main: str = "required = 1") -> None:
        describe(self.root, "audit", f"[main]\nenabled = 1\n{main}\n[audit]\n{text}\n")

    @property
    def logs(self) -> Path:
        return self.root / "var/log/gofer/audit"

    def records(self) -> list[dict[str, Any]]:
        found = [read_line(line) for file in files_in(self.logs) for line in file.read_bytes().splitlines()]
        return [{**one.fields, "hash": one.hash} for one in found if one is not None]

    def verified(self) -> Verification:
        looked = Verification()
        for file in files_in(self.logs):
            with file.open("rb") as lines:
                looked.read(file.name, lines)
        looked.end("")
        assert looked.finding is None
        return looked


@contextmanager
def housed(root: Path, tmp_path: Path, wrapper: tuple[str, ...] = ()) -> Iterator[House]:
    with (
        LocalBroker(str(tmp_path / "broker.sock")) as broker,
        AgentProcess(root, path=(tmp_path,), wrapper=wrapper) as process,
    ):
        one = House(process, broker, tmp_path)
        one.code("dog", DOG)
        one.describe("dog", "Admin.* = *\nDog.* = alice")
        yield one


@pytest.fixture
def house(root: Path, tmp_path: Path) -> Iterator[House]:
    with housed(root, tmp_path) as one:
        yield one


def started(house: House) -> None:
    house.process.start()
    with house.agent() as agent:
        until_it_answers(agent, house.process.tail())


def test_each_call_is_noted_before_it_runs_and_when_it_has_ended(house: House) -> None:
    house.audit()
    started(house)
    with house.agent("alice") as alice, house.agent("bob") as bob:
        assert [alice.Dog("rex").bark(), alice.Dog().dig()] == ["bark", "dug"]
        with pytest.raises(ValueError, match="no"):
            alice.Dog().fail()
        with pytest.raises(SecretNotMatched):
            alice(secret="guess-77").Dog().vault("word-1")
        assert alice(secret="sesame-42").Dog().vault("word-2") == "gold"
        with pytest.raises(Rejected, match=r"access\.denied"):
            bob.Dog().bark()
        assert bob.Admin().echo("x") == "x"

        def ends() -> list[tuple[Any, ...]]:
            fields = ("who", "plugin", "called", "of", "outcome", "code")
            return [tuple(map(one.get, fields)) for one in house.records() if one["event"] == "end"]

        eventually(lambda: ends() and ends()[-1][2] == "Admin.echo")
    assert ends()[-7:] == [
        ("alice", "dog", "Dog.bark", "dog", "value", None),
        ("alice", "dog", "Dog.dig", "dog", "value", None),
        ("alice", "dog", "Dog.fail", "dog", "exception", None),
        ("alice", "dog", "Dog.vault", "dog", "exception", None),
        ("alice", "dog", "Dog.vault", "dog", "value", None),
        ("bob", "dog", "Dog.bark", None, "rejected", "access.denied"),
        ("bob", "dog", "Admin.echo", "Admin", "value", None),
    ]
    records = house.records()
    calls = [one for one in records if one["event"] == "call"]
    assert [one["called"] for one in calls][-5:] == ["Dog.bark", "Dog.dig", "Dog.fail", "Dog.vault", "Admin.echo"]
    for call in calls:
        end = next(one for one in records if one["event"] == "end" and one["sn"] == call["sn"])
        assert (end["seq"] > call["seq"], end["who"] == call["who"]) == (True, True)
    text = "".join(file.read_text() for file in files_in(house.logs))
    assert [word for word in ("guess-77", "sesame-42", "word-1", "word-2", "rex", "arguments") if word in text] == []
    house.process.stop()
    assert house.records()[-1]["event"] == "stop"
    assert house.verified().notes == []
    assert house.logs.stat().st_mode & 0o777 == 0o700


def test_arguments_are_written_where_that_is_asked_for_and_no_secret_is(house: House) -> None:
    house.audit("arguments = 1\nsync = 0\ndirectory = trail")
    started(house)
    with house.agent("alice") as alice:
        assert alice(secret="sesame-42").Dog("rex").vault("x" * 9000) == "gold"
    (file,) = files_in(house.root / "var/log/gofer/trail")
    call = next(one for line in file.read_bytes().splitlines() if (one := read_line(line)) and "vault" in str(one))
    assert call.fields["arguments"].startswith('{"cntr": [["rex"], {}], "args": ["xxxx')
    assert len(call.fields["arguments"]) == 4000
    assert "sesame" not in file.read_text()


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("max_size = 5", "[audit] max_size: '5' is out of range; allowed: bytes"),
        ("sync = often", "[audit] sync: 'often' is not a duration"),
        ("maxsize = 5M", "[audit] maxsize: unknown key; allowed: directory, max_size"),
        ("directory = /proc/audit", "/proc/audit"),
    ],
)
def test_a_wrong_setting_keeps_the_agent_from_taking_requests(house: House, section: str, says: str) -> None:
    house.audit(section)
    house.process.start()
    eventually(lambda: house.log(says) > 0, what=house.process.tail())
    assert "required plugin 'audit'" in manage(house.root, do="show")["agent"]["closed"][0]


@pytest.mark.slow
def test_a_killed_agent_leaves_a_log_that_fits_and_knows_all_that_ran(house: House, tmp_path: Path) -> None:
    """Kill it again and again under load, and cut the last record each time as a kill in a write would."""
    house.audit()
    started(house)
    trace, sent = tmp_path / "trace", Counter[str]()
    over = threading.Event()

    def call() -> None:
        with house.agent("alice", wait=5.0) as alice:
            while not over.is_set():
                try:
                    sent[alice.Dog().bark(str(trace))] += 1
                except GoferError:
                    sent["failed"] += 1

    torn = 0
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(call) for _ in range(4)]
        try:
            for _ in range(5):
                seen = sent["bark"]
                eventually(lambda seen=seen: sent["bark"] > seen + 30, what=lambda: f"{sent}\n{house.process.tail()}")  # type: ignore[misc]  # as everywhere
                house.process.kill()
                file = files_in(house.logs)[-1]
                data = file.read_bytes()
                at = data.rindex(b'{"seq":')
                file.write_bytes(data[: at + 25])
                torn += 1
                house.process.start()
        finally:
            over.set()
        for one in calls:
            one.result()
    house.process.stop()
    looked = house.verified()
    assert len([one for one in looked.notes if "cut short" in one]) == torn
    events = Counter(one["event"] for one in house.records())
    assert (events["recovered"], events["start"], events["stop"]) == (torn, torn + 1, 1)
    ran = set(trace.read_text().split())
    noted = {one["sn"] for one in house.records() if one["event"] == "call"}
    assert len(ran) > 150
    assert len(ran - noted) <= torn  # the records that this test has cut


@pytest.mark.parametrize("required", [True, False])
def test_on_a_full_disk_nothing_runs_or_the_log_says_how_much_it_lacks(
    house: House, tmp_path: Path, required: bool
) -> None:
    house.audit("sync = 0", f"required = {int(required)}")
    started(house)
    trace = tmp_path / "trace"
    trace.touch()
    with house.agent("alice") as alice:
        assert alice.Dog().bark(str(trace)) == "bark"
        ran = len(trace.read_text().split())
        (file,) = files_in(house.logs)
        limit = file.stat().st_size + 100  # within a record
        resource.prlimit(house.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for _ in range(20):
            if required:
                with pytest.raises(NotAuthorized, match="not run: the audit log cannot be written: File too large"):
                    alice.Dog().bark(str(trace))
                with pytest.raises(NotAuthorized):
                    alice.Admin().hello()
            else:
                assert alice.Dog().bark(str(trace)) == "bark"
        assert len(trace.read_text().split()) == ran + (0 if required else 20)
        resource.prlimit(house.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert alice.Dog().bark(str(trace)) == "bark"

    asked = 40 if required else 20  # with no room

    def lost() -> int:
        return sum(one["records"] for one in house.records() if one["event"] == "lost")

    def all_are_known() -> bool:
        # Of each call that has run both records; of those that were refused, also Admin's, both, too.
        known = [one for one in house.records() if one["event"] in ("call", "end")]
        hellos = sum((one["event"], one["called"]) == ("call", "Admin.hello") for one in known)
        return len(known) + lost() == 2 * (hellos + asked + 2)

    eventually(all_are_known)  # the ends are written later than callers hear of them: some when there is room again
    assert lost() >= asked
    house.process.stop()
    assert len(house.verified().notes) == 1


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["0", "1h"])  # before each call; or when a new file is begun
def test_a_log_that_the_disk_has_failed_to_sync_is_not_continued(root: Path, tmp_path: Path, sync: str) -> None:
    disk = BadDisk(tmp_path, "/audit/")
    with housed(root, tmp_path, disk.wrapper) as house:
        house.audit(f"sync = {sync}\nmax_size = 64K")
        started(house)
        with house.agent("alice") as alice:

            def refused() -> bool:
                try:
                    alice.Dog().bark()
                except NotAuthorized as error:
                    return "Input/output error when it was synced; reload the plugin" in str(error)
                return False

            disk.fail()
            eventually(refused)
            disk.heal()
            assert refused()
            manage(house.root, do="reload", which="audit")
            assert alice.Dog().bark() == "bark"
        house.verified()


@pytest.mark.slow
def test_reloads_under_load_lose_no_record(house: House) -> None:
    house.audit()
    started(house)
    over = threading.Event()
    values = Counter[str]()

    def call() -> None:
        with house.agent("alice", wait=60.0) as alice:
            while not over.is_set():
                values[alice.Dog().bark()] += 1

    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(call) for _ in range(4)]
        try:
            for _ in range(5):
                seen = values["bark"]
                eventually(lambda seen=seen: values["bark"] > seen + 20)  # type: ignore[misc]  # as everywhere
                manage(house.root, do="reload", which="audit")
        finally:
            over.set()
        for one in calls:
            one.result()
    house.process.stop()
    house.verified()
    events = Counter(one["event"] for one in house.records() if one.get("called") != "Admin.hello")
    assert (events["start"], events["stop"], events["lost"]) == (6, 6, 0)
    assert events["call"] == values["bark"]


def test_the_log_names_its_last_record_for_who_verifies_it(house: House) -> None:
    house.audit()
    started(house)
    house.process.stop()
    last = house.records()[-1]
    assert house.log(f"audit: the log is closed; last record {last['seq']}:{last['hash']}") == 1
    assert json.loads(files_in(house.logs)[0].read_text().splitlines()[0])["pid"] == house.records()[0]["pid"]
