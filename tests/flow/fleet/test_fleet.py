"""Fleets: who is there, one method called on many, and what stays when something is killed, damaged or forged."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gofer.card import ALL, EXCHANGE, NAMED_METHODS, Answer, Card, PluginCard
from gofer.errors import ConfigError
from gofer.fleet import Fleet
from gofer.fleet.discovery import discover
from gofer.fleet.members import Members
from gofer.messaging.adapter import DeleteExchange, Unbind
from gofer.messaging.connector import Connector
from gofer.messaging.document import VERSION, encode
from gofer.messaging.url import URL
from gofer.rmi.exceptions import to_result
from gofer.targets import Targets
from gofer.testing.emulator import Emulator, Script
from gofer.testing.proxy import Filter, Proxy
from gofer_authenticator_hmac import HmacAuthenticator
from support.company import connected, linked
from support.echo import EchoAgent
from support.fleets import DESCRIPTOR, DOGS, gofer, kinds, names, sent, started
from support.frozen import freeze
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("fleet")


# -- who is there ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        ("all", ["web-0", "web-1"]),
        ("group=g1", ["web-1"]),
        ("name=web-0", ["web-0"]),
        ("group=web and not name=web-0", ["web-1"]),
        ("group=nobody", []),
        ("class=Dog and facts.cpus>=1 and facts.kennel.dogs=3", ["web-0", "web-1"]),
        ("facts.os.kernel and plugin=dogs", ["web-0", "web-1"]),  # a plugin cannot say what gofer says
    ],
)
def test_machines_answer_that_are_meant(
    broker: LocalBroker, agents: list[AgentProcess], targets: str, found: list[str]
) -> None:
    assert names(broker, targets) == found


def test_the_card_says_what_a_machine_is(broker: LocalBroker, agents: list[AgentProcess]) -> None:
    meant, expected = Targets("name=web-0"), ["kennel-0"]
    found = asyncio.run(discover(Connector.of(broker.url), meant, wait=60, jitter=0.0, expected=expected))
    (card,) = found.cards.values()
    assert (card.name, card.address, card.groups) == ("web-0", "kennel-0", ["web", "g0"])
    assert card.plugins["dogs"].address == "kennel-0"
    assert "Dog" in card.plugins["dogs"].classes
    assert card.facts["host"] == os.uname().nodename
    assert not found.refused


def test_a_machine_whose_binding_or_exchange_was_removed_is_found_again(root: Path, tmp_path: Path) -> None:
    """No broker tells it: its queue is still there, and read."""
    with LocalBroker(str(tmp_path / "broker.sock")) as broker, AgentProcess(root) as agent:
        agent.configure("[fleet]\nenabled=1\nname=lonely\ngroups=web\ninterval=0.5\n")
        agent.plugin("dogs", DOGS, DESCRIPTOR.format(url=broker.url, queue="lonely"))
        agent.start()
        eventually(lambda: names(broker) == ["lonely"], what=agent.tail())
        with linked(connected(broker.url)) as link:
            for removal in (Unbind("fleet.lonely", EXCHANGE, ALL), DeleteExchange(EXCHANGE)):
                link.ask(removal, 10.0)
                eventually(lambda: names(broker) == ["lonely"], what=agent.tail())
        assert "hear no questions" not in agent.tail(1000)


def test_a_machine_that_was_there_and_is_not_is_missing_by_name(
    broker: LocalBroker, agents: list[AgentProcess], state: Path, web: None
) -> None:
    agents[1].stop()
    try:
        listed = gofer("ls", "-w", "2", "--json")
        assert listed.returncode == 1
        assert {one["name"]: one["state"] for one in json.loads(listed.stdout)} == {
            "web-0": "answers",
            "web-1": "missing",
        }
        pinged = gofer("ping", "-w", "2")
        assert pinged.returncode == 1
        assert pinged.stdout == "1 machine answered, 1 missing\nmissing: web-1\n"
    finally:
        agents[1].start()
        eventually(lambda: len(names(broker)) == 2)
    freeze(agents[1].pid)
    try:
        command = started("ping", "-w", "60")
        with pytest.raises(subprocess.TimeoutExpired):  # the other one has answered: this one has time, too
            command.communicate(timeout=2)
    finally:
        os.kill(agents[1].pid, signal.SIGCONT)
    assert command.communicate(timeout=120)[0] == "2 machines answered, 0 missing\n"
    assert gofer("forget", "--machine", "name=web-1").stdout == "1 machine forgotten\n"
    assert "web-1" not in gofer("ls", "--no-ask").stdout


def test_a_caller_that_knows_nobody_gives_a_slow_machine_all_of_the_time(
    state: Path, broker: LocalBroker, agents: list[AgentProcess]
) -> None:
    freeze(agents[1].pid)
    try:
        command = started("ping", "-w", "8")
        with pytest.raises(subprocess.TimeoutExpired):  # the silence after the first answer says nothing
            command.communicate(timeout=3)
    finally:
        os.kill(agents[1].pid, signal.SIGCONT)
    assert command.communicate(timeout=120)[0] == "2 machines answered, 0 missing\n"


def test_machines_without_fleet_are_added_by_address(state: Path, agents: list[AgentProcess], tmp_path: Path) -> None:
    machines = tmp_path / "old.ini"
    machines.write_text("[kennel-0]\nname = old\ngroups = attic, web\n\n[nowhere]\n")
    assert gofer("add", str(machines)).stdout == "2 machines added\n"
    done = gofer("call", "group=attic", "Dog.bark", "2", "--no-ask", "--json")
    assert [(one["name"], one["value"]) for one in json.loads(done.stdout)["outcomes"]] == [("old", "ww")]
    machines.write_text("[kennel-0]\ngroup = attic\n")
    refused = gofer("add", str(machines))
    assert refused.returncode == 2
    assert "[kennel-0] group: unknown; allowed: name, groups" in refused.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no machine; allowed: a section for each address"),
        ("kennel-0\nnowhere\n", "line 1 stands before any section; allowed: [address] for each machine"),
        ("[kennel-0]\nname = old\nnowhere\n", "[kennel-0] line 3 has no key"),
    ],
)
def test_a_line_that_names_no_machine_is_refused(state: Path, tmp_path: Path, text: str, says: str) -> None:
    machines = tmp_path / "old.ini"
    machines.write_text(text)
    refused = gofer("add", str(machines))
    assert (refused.returncode, refused.stdout, says in refused.stderr) == (2, "", True), refused.stderr


def test_a_list_of_machines_that_is_no_utf_8_is_refused_with_what_to_type(
    state: Path, web: None, tmp_path: Path
) -> None:
    listed = tmp_path / "listed"
    utf16 = "is UTF-16 text; allowed: UTF-8 without a byte order mark (iconv -f UTF-16 -t UTF-8 converts it)"
    for data, says in (
        ("kennel-0\n".encode("utf-16"), utf16),
        ("kennel-0\n".encode("utf-8-sig"), "starts with a byte order mark; allowed: UTF-8 without one"),
        ("größe\n".encode("latin-1"), "has byte 0xf6 at offset 2; allowed: UTF-8 text"),
    ):
        listed.write_bytes(data)
        added, called = gofer("add", str(listed)), gofer("call", f"@{listed}", "Dog.bark", "1")
        assert (added.returncode, added.stderr) == (2, f"gofer fleet: {listed}: {says}\n")
        assert (called.returncode, called.stderr) == (2, f"gofer fleet: @{listed}: {says}\n")
    listed.write_bytes(b"kennel-0\r\nkennel-1\r\n")
    assert gofer("call", f"@{listed}", "Dog.bark", "1").stdout.startswith("2 \u00d7 w\n")


def test_what_is_forged_doubled_or_too_large_is_refused_and_counted(broker: LocalBroker) -> None:
    """A machine that answers a thousand times, under another's address, to other questions, and too much."""
    connector = Connector.of(broker.url)

    async def ask() -> Any:
        from gofer.fleet.discovery import _Asking
        from gofer.messaging.adapter import Delivery
        from gofer.messaging.pool import pool

        connection = pool.acquire_asyncio(connector, asyncio.get_running_loop())
        asking = _Asking(connection, None, ())
        await connection.subscribe(asking._subscription, 10.0)
        card = Card(name="a", address="a")

        def body(sn: str, origin: str, card: Card, size: int = 0) -> bytes:
            answer = Answer(sn=sn, version=VERSION, routing=[None, "x"], origin=origin, card=card)
            return encode({**msgspec.to_builtins(answer), "padding": "x" * size})

        answers = [body(asking._sn, "a", card)] * 1000
        answers += [body("another", "b", Card(name="b", address="b")), body(asking._sn, "c", card)]
        answers += [body(asking._sn, "d", Card(name="d\n", address="d")), b"no document", b"{}"]
        answers += [body(asking._sn, "e", Card(name="e", address="e"), 70_000)]
        for one in answers:
            asking._on_delivery(Delivery(0, one, False, None, None))
        asking.stop()
        pool.release(connection)
        return asking._found

    found = asyncio.run(ask())
    assert list(found.cards) == ["a"]
    assert found.refused["a second answer of the same machine"] == 999
    assert sum(found.refused.values()) == 999 + 6


def test_the_time_for_answers_begins_when_the_broker_has_the_question(broker: LocalBroker) -> None:
    """A broker takes seconds to copy it into ten thousand queues: until then no answer is missed."""

    async def go() -> list[str]:
        def stalling() -> Filter:
            def passes(data: bytes) -> bytes:
                proxy.to_client.stalled |= b"Publish" in data
                return data

            return passes

        proxy = Proxy(URL.parse(broker.url), to_broker=stalling)
        async with Emulator(broker.url, 1, Script(groups=("slow",)), prefix="slow"):
            with proxy:
                asking = asyncio.create_task(
                    discover(Connector.of(proxy.url), Targets("group=slow"), wait=60.0, jitter=0.0, expected=())
                )
                await asyncio.to_thread(eventually, lambda: proxy.to_client.stalled)
                ended, _ = await asyncio.wait({asking}, timeout=1.5)  # three times the silence that ends it
                proxy.to_client.stalled = False
                found = await asking
        assert not ended
        return list(found.cards)

    assert asyncio.run(go()) == ["slow-00000"]


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "given"),
    [
        ("AdapterError", ["login refused"]),
        ("ConnectionLost", ["no connection"]),
        ("NotFound", ["no such queue"]),
        ("Rejected", ["a", "access.denied", "not you"]),
        ("RequestTimeout", ["a", 1.0, "started", "it may still run"]),
    ],
)
def test_what_a_method_has_raised_is_not_told_of_the_way_to_it(
    state: Path, broker: LocalBroker, web: None, error: str, given: list[Any]
) -> None:
    """A method that makes calls itself raises what a call raises. It ran: the run stops at its budget."""

    async def go() -> None:
        async with Fleet(broker.url, wait=10) as fleet:
            await fleet.ask()
            summary = await fleet.where("group=web")(batch=1, stop_after=1).Dog().fail(error, given)
            assert summary.counts == {"exception": 1, "untouched": 1}

    asyncio.run(go())


def test_each_machine_has_one_outcome(state: Path, broker: LocalBroker, web: None) -> None:
    async def go() -> None:
        async with Fleet(broker.url, wait=10) as fleet:
            await fleet.ask()
            fleet.add([Card(name="gone", address="nowhere")])
            summary = await fleet.where().Dog().bark(3)
            assert {one.name: (one.kind, one.ok) for one in summary.outcomes} == {
                "web-0": ("value", True),
                "web-1": ("value", True),
                "gone": ("unreachable", False),
            }
            assert summary.counts == {"value": 2, "unreachable": 1}
            assert sum(summary.counts.values()) == summary.total == 3
            seen = [outcome async for outcome in fleet.where("group=web").Dog().fail()]
            assert kinds(seen) == {"web-0": "exception", "web-1": "exception"}
            assert {one.value for one in seen} == {"ValueError: no"}
            assert kinds((await fleet.where("group=web").Dog().nope()).outcomes) == {
                "web-0": "refused",
                "web-1": "refused",
            }

    asyncio.run(go())


def test_what_has_not_ended_is_collected_later(state: Path, web: None, awake: Path) -> None:
    first = gofer("call", "group=web", "Dog.sleep", str(awake), "-w", "1")
    assert first.returncode == 1
    assert "2 × running" in first.stdout  # noqa: RUF001 - the sign is meant
    awake.touch()
    second = gofer("resume", "last", "-w", "30")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "2 × awake" in second.stdout  # noqa: RUF001 - as above
    words = gofer("why", "last", "web-0").stdout
    assert [line.split()[1] for line in words.splitlines()[1:]] == [
        "sent",
        "accepted",
        "started",
        "succeeded",
        "value:",
    ]


def test_a_run_stops_and_goes_on(state: Path, web: None) -> None:
    stopped = gofer("call", "group=web", "Dog.fail", "--ramp", "1,100%", "--stop-after", "1")
    assert stopped.returncode == 3
    assert "1 failure of 2 machines" in stopped.stderr
    assert "run" in gofer("status").stdout
    assert "untouched: not called" in gofer("status", "last").stdout
    again = gofer("resume", "last", "--stop-after", "100%")
    assert again.returncode == 1
    assert "2 × exception: ValueError: no" in again.stdout  # noqa: RUF001 - as above
    assert gofer("retry", "last", "--outcome", "value").stdout.endswith("has no machine with value\n")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["call", "nme=3", "Dog.bark"], 2, "no such thing to test: 'nme'"),
        (["call", "all", "Dog"], 2, "is not Class.method"),
        (["call", "group=nobody", "Dog.bark"], 2, "no machine is meant by 'group=nobody'"),
        (["call", "all", "Dog.bark", "--limit", "x"], 2, "limit is 'x'; allowed: a number like 5"),
        (["call", "all", "Dog.bark", "--ramp", "100%,1"], 2, "each step has more"),
        (["call", "all", "Dog.bark", "--health", "Dog"], 2, "health is 'Dog'; allowed: Class.method"),
        (["call", "@/no/such/file", "Dog.bark"], 2, "cannot be read"),
        (["call", "@", "Dog.bark"], 2, "@ names no file; allowed: @FILE"),
        (["resume", "zzz"], 2, "no run begins with 'zzz'"),
        (["why", "zzz", "x"], 2, "no run begins with 'zzz'"),
        (["-u", "amqp://127.0.0.1:1", "ping"], 6, "127.0.0.1:1"),
    ],
)
def test_what_is_wrong_is_said(state: Path, web: None, arguments: list[str], status: int, words: str) -> None:
    done = gofer(*arguments)
    assert (done.returncode, words in done.stderr) == (status, True), done


def test_addresses_come_from_standard_input(state: Path, web: None) -> None:
    done = gofer("call", "-", "Dog.bark", "1", "--jsonl", stdin="kennel-0\n# a comment\n\nkennel-1\nkennel-0\n")
    assert done.returncode == 0
    assert sorted(json.loads(line)["address"] for line in done.stdout.splitlines()) == ["kennel-0", "kennel-1"]


def test_the_health_of_a_wave_decides_about_the_next(state: Path, broker: LocalBroker, web: None) -> None:
    async def go() -> None:
        async with Fleet(broker.url, wait=10) as fleet:
            await fleet.ask()
            well = await fleet.where("group=web")(ramp="1", health="Admin.hello").Dog().bark(1)
            assert well.counts == {"value": 2}
            ill = await fleet.where("group=web")(ramp="1", health="Dog.fail").Dog().bark(1)
            assert ill.counts == {"value": 1, "untouched": 1}
            assert "web-0 is not well: Dog.fail" in str(ill.stopped)
            asked: list[int] = []

            def confirm(following: int, counts: Counter[str]) -> bool:
                asked.append(following)
                return False

            refused = await fleet.where("group=web")(ramp="1", confirm=confirm).Dog().bark(1)
            assert (refused.counts, asked, refused.stopped) == ({"value": 1, "untouched": 1}, [1], "not confirmed")

    asyncio.run(go())


# -- many, by the emulator ---------------------------------------------------------------------------------------------


def test_the_sum_of_outcomes_is_the_fleet(state: Path, broker: LocalBroker) -> None:
    """Some fail, are frozen, or gone: the run ends when it said it would, and each machine has an outcome."""

    async def go() -> None:
        script = Script(fail=0.05, frozen=0.05, gone=0.05, seed=7, groups=("sum",), version="2.0")
        async with Emulator(broker.url, 200, script, prefix="sum") as emulator:
            for wait in (3, 12, 48):  # on a busy machine all 200 take longer
                async with Fleet(broker.url, wait=wait) as fleet:
                    found = await fleet.ask(
                        "group=sum", wait=30, jitter=0.2, expected=[one.name for one in emulator.agents]
                    )
                    assert len(found.cards) == 200
                    summary = await fleet.where("group=sum and gofer=2.0").Emulated().work(1)
                if set(summary.counts) == {"value", "exception", "unreachable"}:
                    break
            assert summary.counts == {"value": 170, "exception": 10, "unreachable": 20}
            assert sum(summary.counts.values()) == summary.total == 200

    asyncio.run(go())


def test_a_run_stops_at_its_budget_the_same_way_each_time(state: Path, broker: LocalBroker) -> None:
    async def go() -> list[set[str]]:
        untouched = []
        for _ in range(2):
            script = Script(fail=0.05, seed=3, groups=("budget",))
            async with Emulator(broker.url, 100, script, prefix="budget") as many, Fleet(broker.url, wait=20) as fleet:
                await fleet.ask("group=budget", wait=30, jitter=0.2, expected=[one.name for one in many.agents])
                meant = fleet.where("group=budget")
                summary = await meant(ramp="1,10%,100%", stop_after="2%", batch="1").Emulated().work(1)
                assert summary.counts["exception"] == 2
                assert "2 failures of 100 machines" in str(summary.stopped)
                assert summary.counts["untouched"] == 100 - summary.counts["value"] - 2 > 0
                untouched.append({one.name for one in summary.outcomes if one.kind == "untouched"})
        return untouched

    first, second = asyncio.run(go())
    assert first == second


def test_two_processes_do_not_run_the_same(state: Path, broker: LocalBroker, web: None, awake: Path) -> None:
    command = started("call", "group=web", "Dog.sleep", str(awake))
    eventually(lambda: sent(state) == 2)
    second = gofer("resume", "last")
    assert second.returncode == 2
    assert "is being run by another process" in second.stderr
    awake.touch()
    assert "2 × awake" in command.communicate()[0]  # noqa: RUF001 - as above


def test_a_run_is_cancelled_by_another_command(state: Path, web: None, awake: Path) -> None:
    command = started("call", "group=web", "Dog.sleep", str(awake))
    eventually(lambda: sent(state) == 2)
    assert eventually(lambda: gofer("cancel", "last").stdout == "2 machines asked to cancel\n")
    awake.touch()
    out = command.communicate(timeout=60)[0]
    assert "2 cancelled" in out or "2 value" in out  # its methods do not look whether they are cancelled


def test_an_agent_that_cannot_keep_a_cancel_was_asked_all_the_same(state: Path, broker: LocalBroker) -> None:
    """It says so by a RuntimeError of its own: its disk is full."""

    async def go() -> None:
        with EchoAgent(broker.url, "full-disk", hold=True) as agent:
            async with Fleet(broker.url, wait=60) as fleet:
                fleet.add([Card(name="full", address="full-disk")])
                run = fleet.where("name=full").Dog().bark(1)
                running = asyncio.ensure_future(run)
                await asyncio.to_thread(eventually, lambda: len(agent.seen) == 1)
                cancelling = asyncio.create_task(fleet.cancel(run.id))
                await asyncio.to_thread(eventually, lambda: len(agent.seen) == 2)
                agent.answer(agent.seen[1], result=to_result(RuntimeError("the ledger cannot be used")))
                assert await cancelling == 1
                agent.answer(agent.seen[0])
                assert (await running).counts == {"value": 1}

    asyncio.run(go())


def test_an_unknown_option_is_refused(state: Path, broker: LocalBroker) -> None:
    with pytest.raises(TypeError, match="no option 'reply' for a fleet; allowed: wait, ttl"):
        Fleet(broker.url, reply="x")
    fleet = Fleet(broker.url)
    with pytest.raises(ConfigError, match="no 'rampe' for waves; allowed: limit, batch, ramp"):
        fleet.where()(rampe="1")
    fleet.close()


def test_with_an_authenticator_only_signed_questions_are_answered(broker: LocalBroker, tmp_path: Path) -> None:
    for name, key in (("keys", b"k" * 32), ("other", b"o" * 32)):
        (tmp_path / name).write_text(f"fleet {base64.b64encode(key).decode()}\n")
        (tmp_path / name).chmod(0o600)
    trusted, stranger = (HmacAuthenticator.from_settings({"keys": name}, tmp_path) for name in ("keys", "other"))
    with AgentProcess(tmp_path / "signed") as agent:
        (agent.root / "etc/gofer/agent.conf").write_text("[fleet]\nenabled=1\nname=signed\n")
        described = DESCRIPTOR.format(url=broker.url, queue="signed").replace("[model]", "authenticator=hmac\n[model]")
        agent.plugin("dogs", DOGS, f"{described}[hmac]\nkeys={tmp_path / 'keys'}\n")
        agent.start()
        eventually(lambda: names(broker, "name=signed", authenticator=trusted) == ["signed"])
        assert names(broker, "name=signed") == []
        assert names(broker, "name=signed", authenticator=stranger) == []
        assert "a question of the fleet is not answered: " in agent.tail()


def test_questions_that_cannot_be_read_do_not_keep_others_from_being_answered(
    broker: LocalBroker, agents: list[AgentProcess]
) -> None:
    """One that is refused must not count as one that waits for its answer: of those there are fifty at most."""

    async def ask() -> None:
        from gofer.card import EXCHANGE, Question, Who
        from gofer.messaging.address import Address
        from gofer.messaging.pool import pool

        connection = pool.acquire_asyncio(Connector.of(broker.url), asyncio.get_running_loop())
        await connection.wait_sendable(time.monotonic() + 30)
        settled: asyncio.Queue[object] = asyncio.Queue()
        whole = Question(
            sn="x", version=VERSION, routing=[None, f"{EXCHANGE}/all"], replyto="nowhere", who=Who(targets="all")
        )
        wrong = ["nme=3", "x" * 1_000_000, "(" * 10_000 + "all" + ")" * 10_000, "not " * 1000 + "all"]
        asked = [msgspec.structs.replace(whole, who=Who(targets=text)) for text in wrong]
        bodies = [b"no question", b'{"sn": "x"}', *(encode(msgspec.to_builtins(one)) for one in asked)]
        for body in bodies * 10:
            connection.publish_nowait(
                Address(EXCHANGE, "all"), body, durable=False, settled=lambda *how: settled.put_nowait(how)
            )
        for _ in bodies * 10:
            await asyncio.wait_for(settled.get(), 30)
        if pool.leave(connection):
            await connection.aclose()

    asyncio.run(ask())
    assert eventually(lambda: names(broker) == ["web-0", "web-1"])


def test_a_card_tells_a_caller_what_that_caller_may_call(broker: LocalBroker, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(
        "".join(f"{name} {base64.b64encode(name.encode().ljust(32)).decode()}\n" for name in ("ops", "guest"))
    )
    keys.chmod(0o600)
    with AgentProcess(tmp_path / "rules") as agent:
        (agent.root / "etc/gofer/agent.conf").write_text("[fleet]\nenabled=1\nname=rules\n")
        described = DESCRIPTOR.format(url=broker.url, queue="rules").replace("[model]", "authenticator=hmac\n[model]")
        agent.plugin("dogs", DOGS, f"{described}[hmac]\nkeys={keys}\n[access]\nDog.* = ops\nAdmin.* = *\n")
        agent.start()

        def told(name: str) -> tuple[list[str], ...] | None:
            caller = HmacAuthenticator.from_settings({"keys": str(keys), "key": name}, tmp_path)
            how = {"wait": 10, "jitter": 0.0, "authenticator": caller, "expected": ()}
            found = asyncio.run(discover(Connector.of(broker.url), Targets("name=rules"), **how))
            if "rules" not in found.cards:
                return None
            dogs = found.cards["rules"].plugins["dogs"]
            return dogs.classes, dogs.destructive, dogs.methods

        assert eventually(lambda: told("ops")) == (
            ["Dog"],
            ["Dog.forget"],
            ["Dog.bark", "Dog.fail", "Dog.forget", "Dog.sleep"],
        )
        assert eventually(lambda: told("guest")) == ([], [], [])


def test_a_machine_with_more_methods_than_a_card_names_is_found(broker: LocalBroker, tmp_path: Path) -> None:
    methods = "".join(f"    @remote\n    def method_{n:04}(self): ...\n" for n in range(2000))
    with AgentProcess(tmp_path / "many") as agent:
        (agent.root / "etc/gofer/agent.conf").write_text("[fleet]\nenabled=1\nname=many\n")
        described = DESCRIPTOR.format(url=broker.url, queue="many")
        agent.plugin("large", f"from gofer.decorators import remote\n\nclass Large:\n{methods}", described)
        agent.plugin("small", DOGS, described.replace("many", "few"))
        agent.start()
        eventually(lambda: names(broker, "name=many and class=Large and class=Dog") == ["many"])
        meant, expected = Targets("name=many"), ["many"]
        found = asyncio.run(discover(Connector.of(broker.url), meant, wait=60, jitter=0.0, expected=expected))
        named = {name: one.methods for name, one in found.cards["many"].plugins.items()}
        count = NAMED_METHODS // len("Large.method_0000")
        assert named == {"large": [f"Large.method_{n:04}" for n in range(count)], "small": ["Dog.bark"]}  # just fits


def test_what_is_refused_leaves_no_run_and_a_run_in_use_is_not_forgotten(state: Path, web: None, awake: Path) -> None:
    refused = gofer("call", "group=web", "Dog.bark", "1", "--require", "200%")
    assert (refused.returncode, gofer("status", "--json").stdout) == (2, "[]\n")
    command = started("call", "group=web", "Dog.sleep", str(awake))
    eventually(lambda: sent(state) == 2)
    kept = gofer("forget", "last")
    assert (kept.returncode, "is being run by another process" in kept.stderr) == (2, True)
    awake.touch()
    command.communicate()
    assert gofer("forget", "last").returncode == 0


def test_two_machines_with_one_address_are_not_called(state: Path, broker: LocalBroker) -> None:
    async def go() -> None:
        async with Fleet(broker.url) as fleet:
            fleet.add([Card(name="one", address="x"), Card(name="two", address="y")])
            trap = Card(name="trap", address="z", plugins={"p": PluginCard("1", "x", ["Dog"])})
            fleet.add([trap])
            with pytest.raises(ConfigError, match="'one' and 'trap' have the same address 'x': forget one of them"):
                fleet.where().Dog().bark(1)
            assert fleet.record.runs() == []

    asyncio.run(go())


def test_another_signer_does_not_take_the_address_of_a_machine(broker: LocalBroker, tmp_path: Path) -> None:
    """Of two who sign for an address nobody is believed; and who was known first stays."""
    for name in ("first", "second"):
        (tmp_path / f"{name}.key").write_text(f"{name} {base64.b64encode(name.encode().ljust(32)).decode()}\n")
    keys = tmp_path / "keys"
    keys.write_text("".join((tmp_path / f"{name}.key").read_text() for name in ("first", "second")))
    keys.chmod(0o600)
    signers = {
        name: HmacAuthenticator.from_settings({"keys": str(keys), "key": name}, tmp_path)
        for name in ("first", "second")
    }

    async def go() -> None:
        from gofer.fleet.discovery import _Asking
        from gofer.messaging.adapter import Delivery
        from gofer.messaging.auth import sign
        from gofer.messaging.pool import pool

        connection = pool.acquire_asyncio(Connector.of(broker.url), asyncio.get_running_loop())
        asking = _Asking(connection, signers["first"], ())
        answer = Answer(
            sn=asking._sn, version=VERSION, routing=[None, "x"], origin="a", card=Card(name="a", address="a")
        )
        for name in ("first", "second", "second"):
            body = sign(encode(msgspec.to_builtins(answer)), signers[name])
            asking._on_delivery(Delivery(0, body, False, None, None))
        assert asking._found.cards == {}
        assert asking._found.refused == {"several have signed for the address 'a'": 2}
        pool.release(connection)

    asyncio.run(go())
    members = Members(URL.parse(broker.url), tmp_path / "fleet.db")
    members.remember([Card(name="a", address="a")], signers={"a": "first"})
    assert members.signers() == {"a": "first"}
    members.close()
