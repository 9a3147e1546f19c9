"""Rules in ``[access]``: who may call what, whichever way a call takes, and at once when the rules change."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from gofer.aio import Agent as AsyncAgent
from gofer.errors import MemberNotFound, NotAuthorized, Rejected, SecretRequired
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer_authenticator_hmac import HmacAuthenticator
from support.commands import check_goferd, run_gofer
from support.goferd import AgentProcess
from support.guarded import Guarded
from support.localbroker import LocalBroker
from support.plugins import describe
from support.presence import until_it_answers
from support.reloads import manage
from support.waiting import eventually

DOG = """
import time
from pathlib import Path
from gofer.agent.rmi import Context
from gofer.decorators import fork, remote

TRACE = Path({trace!r})


def note():
    with TRACE.open("a") as file:
        file.write(Context.current().sn + "\\n")


class Dog:
    @remote
    def bark(self, number=0):
        note()
        return number

    @remote
    def wait(self, path):
        note()
        while not Path(path).exists():
            time.sleep(0.005)
        return "waited"

    @remote
    async def howl(self):
        note()
        return "howl"

    @remote
    @fork
    def dig(self):
        note()
        return "dug"

    @remote(secret="sesame")
    def vault(self):
        note()
        return "gold"


@remote
def count():
    note()
    return 1
"""

CAT = """
from gofer.decorators import remote


class Cat:
    @remote
    def purr(self):
        return "purr"

    @remote
    def scratch(self):
        return "scratch"
"""


@pytest.fixture
def house(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    monkeypatch.syspath_prepend(tmp_path)
    with (
        LocalBroker(str(tmp_path / "broker.sock")) as broker,
        AgentProcess(root, path=(tmp_path,)) as process,
    ):
        one = Guarded(process, broker, tmp_path)
        one.code("dog", DOG.format(trace=str(tmp_path / "trace")))
        one.code("cat", CAT)
        yield one


def ran(house: Guarded) -> list[str]:
    trace = house.site / "trace"
    return trace.read_text().split() if trace.exists() else []


def started(house: Guarded, *, identity: str = "alice", address: str = "dog") -> None:
    house.process.start()
    with house.agent(identity, address) as agent:
        until_it_answers(agent, house.process.tail())


def denied(call: Any, *says: str) -> Rejected:
    with pytest.raises(Rejected) as refused:
        call()
    assert refused.value.code == "access.denied"
    assert [one for one in says if one not in str(refused.value)] == [], str(refused.value)
    return refused.value


def test_what_no_rule_allows_is_denied_whatever_the_model(house: Guarded) -> None:
    file = house.describe("dog", "Admin.hello = alice, bob\nDog.* = alice\nDog.bark = bob\ndog.count = bob")
    started(house)
    with house.agent("alice") as alice, house.agent("bob") as bob, house.agent("carol") as carol:
        assert [alice.Dog().bark(1), alice.Dog().howl(), alice.Dog().dig()] == [1, "howl", "dug"]
        assert [bob.Dog().bark(2), bob.dog.count()] == [2, 1]
        done = ran(house)
        says = "no rule lets 'bob' call Dog.dig of plugin 'dog'", "adds `Dog.dig = bob` to [access]", str(file)
        denied(bob.Dog().dig, *says)
        denied(bob.Dog().howl)
        denied(lambda: bob.Dog().wait("/"))
        denied(alice.dog.count)
        denied(carol.Dog().bark)
        assert ran(house) == done
    (plugin,) = manage(house.root, do="show")["plugins"]
    assert (plugin["counters"]["denied"], plugin["counters"]["rejected"]) == (5, 5)
    assert house.log("is denied: no rule lets 'bob' call Dog.dig of plugin 'dog'") == 1
    eventually(lambda: house.log(" bob dog Dog.dig rejected ") or house.log("'bob' dog Dog.dig rejected"))


def test_a_denied_caller_does_not_hear_what_there_is(house: Guarded) -> None:
    house.describe("dog", "Admin.hello = *\nDog.b* = bob")
    started(house)
    with house.agent("bob") as bob, house.agent("carol") as carol:
        denied(carol.Dog().nothing)
        denied(carol.Nothing().bark)
        denied(bob.Dog().nothing)
        with pytest.raises(MemberNotFound):
            bob.Dog().bite()


def test_an_access_section_without_a_rule_lets_nobody_in(house: Guarded) -> None:
    house.describe("dog", "# nobody yet")
    started(house)
    with house.agent("alice") as alice:
        denied(alice.Dog().bark)
        denied(alice.Admin().hello)


def test_without_the_section_all_is_as_before(house: Guarded) -> None:
    house.describe("dog", None)
    started(house)
    with house.agent("carol") as carol:
        assert carol.Dog().bark(3) == 3


def test_who_does_not_sign_is_meant_by_anonymous_alone(house: Guarded) -> None:
    house.describe("dog", "Admin.hello = anonymous\nDog.bark = *\nDog.howl = anonymous", signed=False)
    house.process.start()
    with house.agent(None) as nobody:
        until_it_answers(nobody, house.process.tail())
        assert nobody.Dog().howl() == "howl"
        says = "anonymous (a caller without identity: the plugin has no authenticator)", "`Dog.bark = anonymous`"
        denied(nobody.Dog().bark, *says)


def test_a_group_is_defined_once_and_an_unknown_one_is_reported_and_has_nobody(house: Guarded) -> None:
    house.groups(operators="alice, bob")
    house.describe("dog", "Admin.hello = *\nDog.bark = @operators, @nobody\nDog.dig = @nobody")
    house.describe("cat", "*.purr = @operators\nAdmin.hello = *")
    started(house)
    for name in ("alice", "bob"):
        with house.agent(name) as dog, house.agent(name, "cat") as cat:
            assert (dog.Dog().bark(1), cat.Cat().purr()) == (1, "purr")
            denied(dog.Dog().dig)
            denied(cat.Cat().scratch)
    with house.agent("carol") as carol:
        denied(carol.Dog().bark)
    assert house.log("there is no group 'nobody'") == 2


def test_members_change_with_a_reload_and_broken_groups_change_nothing(house: Guarded) -> None:
    house.groups(operators="alice, bob")
    house.describe("dog", "Admin.hello = *\nDog.bark = @operators")
    started(house)
    with house.agent("bob") as bob, house.agent("carol") as carol:
        assert bob.Dog().bark(1) == 1
        house.groups(operators="alice, carol")
        manage(house.root, do="reload", which="dog")
        denied(bob.Dog().bark)
        assert carol.Dog().bark(2) == 2
        for broken in ("[groups]\noperators =\n", "[groups\n", "[groups]\noperators = @others\n"):
            house.process.configure(broken)
            before = house.log("the groups stay as they were")
            os.kill(house.process.pid, signal.SIGHUP)
            eventually(lambda before=before: house.log("the groups stay as they were") > before)  # type: ignore[misc]  # as everywhere
            assert carol.Dog().bark(3) == 3
        house.groups(operators="bob")
        (house.root / "etc/gofer/agent.conf").chmod(0o666)  # anybody could have written that
        manage(house.root, do="reload", which="dog")
        assert carol.Dog().bark(4) == 4
        assert house.log("lets its group and others write to it") == 1


def test_admin_is_under_the_rules_and_tells_only_what_its_caller_may_call(house: Guarded, tmp_path: Path) -> None:
    rules = "Admin.hello = *\nAdmin.* = bob, carol\nDog.wait = bob\nDog.bark = bob, carol"
    house.describe("dog", rules)
    house.describe("cat", "Cat.purr = bob\nAdmin.hello = alice")
    started(house)
    with house.agent("alice") as alice, house.agent("bob") as bob, house.agent("carol") as carol:
        for method in ("describe", "help", "echo", "cancel"):
            denied(alice.Admin()[method] if method != "echo" else lambda: alice.Admin().echo("x"))
        told = {one["plugin"]: one for one in carol.Admin().describe()["plugins"]}
        assert [(one["name"], [m["name"] for m in one["methods"]]) for one in told["dog"]["classes"]] == [
            ("Dog", ["bark"])
        ]
        assert (told["cat"]["classes"], told["dog"]["functions"]) == ([], [])
        text = bob.Admin().help()
        assert [word for word in ("bark", "wait", "purr") if word not in text] == []
        assert [word for word in ("dig", "scratch", "count") if word in text] == []
        # Who may call cancel still cancels only what is theirs.
        sn = bob(wait=0).Dog().wait(str(tmp_path / "go"))
        eventually(lambda: sn in ran(house))
        with pytest.raises(NotAuthorized, match="not signed by you"):
            carol.Admin().cancel(sn)
        denied(lambda: alice.Admin().cancel(sn))
        assert bob.Admin().cancel(sn) == [sn]
        (tmp_path / "go").touch()


def test_help_lists_only_the_actions_that_the_rules_open_to_its_caller(house: Guarded) -> None:
    house.code(
        "clock",
        "from gofer.decorators import action\n\n\n@action(hours=1)\ndef wind():\n    pass\n\n\n"
        "class Hand:\n    @action(hours=2)\n    def turn(self):\n        pass\n",
    )
    house.describe("dog", "Admin.* = *")
    house.describe("clock", "Hand.* = bob\nclock.wind = carol, bob")
    started(house)
    found = {}
    for name in ("alice", "bob", "carol"):
        with house.agent(name) as agent:
            found[name] = agent.Admin().help().partition("Actions:")[2].split()
    assert found["alice"] == []
    assert found["bob"] == ["clock.wind()", "1:00:00", "clock.Hand.turn()", "2:00:00"]
    assert found["carol"] == ["clock.wind()", "1:00:00"]


def test_main_admin_and_a_secret_are_asked_for_too(house: Guarded) -> None:
    house.describe("dog", "* = *", "admin = bob")
    house.process.start()
    with house.agent("alice") as alice, house.agent("bob") as bob:
        until_it_answers(bob, house.process.tail())
        with pytest.raises(NotAuthorized, match=r"\[main\] admin"):
            alice.Admin().hello()
        with pytest.raises(SecretRequired):
            alice.Dog().vault()
        assert alice(secret="sesame").Dog().vault() == "gold"


def test_forwarded_methods_need_the_rules_of_both_plugins(house: Guarded) -> None:
    house.describe("dog", "Admin.hello = *\nCat.* = alice, bob", "forward = cat")
    house.describe("cat", "Cat.purr = alice\nCat.scratch = carol", "accept = dog")
    started(house)
    with house.agent("alice") as alice, house.agent("bob") as bob, house.agent("carol") as carol:
        assert alice.Cat().purr() == "purr"
        denied(alice.Cat().scratch, "of plugin 'cat'", "cat.conf")
        denied(bob.Cat().purr, "of plugin 'cat'")
        denied(carol.Cat().scratch, "of plugin 'dog'", "dog.conf")


def test_a_plugin_without_rules_opens_no_way_past_those_of_another(house: Guarded) -> None:
    house.code(
        "kit",
        "from gofer.agent.plugin import Plugin\nfrom gofer.decorators import remote\n"
        "cat = Plugin.find('cat')\nplugin = Plugin.find(__name__)\nplugin += cat['Cat']\n\n\n"
        "class Kitten(cat['Cat']):\n    @remote\n    def play(self):\n        return 'plays'\n",
    )
    house.describe("dog", None, "forward = cat")
    house.describe("cat", "Cat.purr = alice", "accept = dog\nextends = pack")
    house.code("pack", "from gofer.decorators import remote\n\n\n@remote\ndef run():\n    return 'runs'\n")
    house.describe("pack", None)
    house.describe("kit", None)
    started(house)
    for address in ("dog", "pack", "kit"):
        with house.agent("alice", address) as alice, house.agent("bob", address) as bob:
            assert alice.Cat().purr() == "purr"
            denied(alice.Cat().scratch, "of plugin 'cat'")
            denied(bob.Cat().purr, "of plugin 'cat'")
    with house.agent("bob", "kit") as bob, house.agent("bob", "pack") as pack:
        assert (bob.Kitten().play(), pack.pack.run()) == ("plays", "runs")
        denied(bob.Kitten().purr, "of plugin 'cat'")  # its code is the cat's


def test_rules_count_at_once_and_the_code_is_not_loaded_again(house: Guarded) -> None:
    house.describe("dog", "Admin.hello = *\nDog.bark = bob")
    started(house)
    with house.agent("bob") as bob, house.agent("carol") as carol:
        house.describe("dog", "Admin.hello = *\nDog.bark = carol")
        house.reread()
        denied(bob.Dog().bark)
        assert carol.Dog().bark(1) == 1
        assert house.log("reloaded") == 0
        # Code that cannot be loaded keeps nobody in who is out, and the old code answers.
        house.describe("dog", "Admin.hello = *\nDog.bark = bob", "timeout = 10m")
        (house.site / "dog_module.py").write_text("oops(")
        house.reread("it is not reloaded")
        denied(carol.Dog().bark)
        assert bob.Dog().bark(2) == 2
        # A descriptor with a slip changes nothing.
        for slip in ("Dog.bark =", "Dog bark = carol", "Dog.bark = carol  # she, too", "Dog.[b]ark = carol"):
            house.describe("dog", slip)
            house.reread("[access]")
            assert bob.Dog().bark(3) == 3
        file = house.root / "etc/gofer/plugins/dog.conf"
        file.write_text(file.read_text().replace("[access]", "[acess]"))
        house.reread("if it is meant to be [access], rename it")
        denied(carol.Dog().bark)
        house.describe("dog", None)
        house.process.stop()


def test_what_waits_when_the_rules_change_is_decided_by_the_new_ones(house: Guarded, tmp_path: Path) -> None:
    house.describe("dog", "Admin.* = *\nDog.* = bob, carol", "threads = 1")
    started(house)
    go = tmp_path / "go"
    with house.agent("bob") as bob, house.agent("carol", ttl=60) as carol:
        bob(wait=0).Dog().wait(str(go))
        eventually(lambda: len(ran(house)) == 1)
        trigger = carol(trigger=1).Dog().bark(1)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(trigger)
            eventually(lambda: len(manage(house.root, do="requests", most=10)["entries"]) == 2)
            house.describe("dog", "Admin.* = *\nDog.* = bob", "threads = 1")
            house.reread()
            go.touch()
            denied(waiting.result)
        assert len(ran(house)) == 1


RELOADS = 12


@pytest.mark.slow
def test_under_load_no_call_slips_through_and_none_is_denied_wrongly(house: Guarded) -> None:
    rules = "Admin.hello = *\nDog.bark = alice{}\nDog.howl = alice{}\nDog.dig = alice"
    house.describe("dog", rules.format("", ""))
    started(house)
    asyncio.run(_storm(house, rules))
    assert house.log("who may call it has changed") == RELOADS // 2
    assert house.log("reloaded from") == RELOADS // 2


async def _storm(house: Guarded, rules: str) -> None:
    """Call on and on, as three callers; carol's right to call comes and goes."""
    connector = Connector(URL.parse(house.url), reconnect_max=1.0)
    wrong: list[str] = []
    counts: dict[tuple[str, str], int] = {}
    epoch, allowed, over = 0, False, False  # an odd epoch: the rules are being changed

    def note(who: str, sn: str, outcome: str, before: int, right: str | None) -> None:
        counts[who, outcome] = counts.get((who, outcome), 0) + 1
        steady = before == epoch and not epoch % 2
        if outcome not in ("value", "access.denied") or (right is not None and outcome != right and steady):
            wrong.append(f"{who} {sn}: {outcome}, not {right}, in epoch {before}")

    async def call(agent: AsyncAgent, who: str, number: int) -> None:
        while not over:
            before = epoch
            right = {"alice": "value", "bob": "access.denied"}.get(who) or ("value" if allowed else "access.denied")
            dog = agent(trigger=1).Dog()
            trigger = dog.bark(number) if number % 2 else dog.howl()
            try:
                await trigger()
                outcome = "value"
            except Rejected as refused:
                outcome = refused.code
                refusals.append(trigger.sn)
            except Exception as other:  # noqa: BLE001 - told below
                outcome = repr(other)
            note(who, str(trigger.sn), outcome, before, right)

    refusals: list[str] = []
    agents: dict[str, AsyncAgent] = {}
    async with AsyncExitStack() as stack:
        group = asyncio.TaskGroup()
        for who in ("alice", "bob", "carol"):
            signer = HmacAuthenticator(house.keys, key=who)
            agents[who] = await stack.enter_async_context(AsyncAgent(connector, "dog", wait=60, authenticator=signer))
        await stack.enter_async_context(group)
        for who, agent in agents.items():
            for number in range(16):
                group.create_task(call(agent, who, number))
        for number in range(RELOADS):
            seen = sum(counts.values())
            async with asyncio.timeout(30):
                while sum(counts.values()) < seen + 60:  # noqa: ASYNC110 - the calls count
                    await asyncio.sleep(0.005)
            epoch += 1
            allowed = not allowed
            more = ", carol" if allowed else ""
            house.describe("dog", rules.format(more, more))
            if number % 2:
                await asyncio.to_thread(manage, house.root, do="reload", which="dog")
            else:
                await asyncio.to_thread(house.reread)
            epoch += 1
        over = True
    assert wrong == []
    assert set(refusals) & set(ran(house)) == set(), "what was denied has run"
    assert min(counts.get(one, 0) for one in (("alice", "value"), ("bob", "access.denied"))) > 100
    assert counts["carol", "value"] > 20 < counts["carol", "access.denied"]
    assert {("alice", "access.denied"), ("bob", "value")} & counts.keys() == set()


# -- gofer can, and goferd --check -------------------------------------------------------------------------------------


def test_can_reports_which_rule_decides_without_an_agent(house: Guarded) -> None:
    house.groups(operators="alice, erin")
    dog = house.describe("dog", "Admin.* = @operators\n# more\nDog.b?rk = bob, @operators\ncat.* = *", "forward = cat")
    cat = house.describe("cat", "Cat.purr = alice", "accept = dog")
    numbers = {line.partition(" =")[0]: n for n, line in enumerate(dog.read_text().splitlines(), 1)}
    assert can(house, "alice", "dog", "Dog.bark") == (
        0,
        ["yes", f"  dog: {dog}, line {numbers['Dog.b?rk']}: Dog.b?rk = bob, @operators (alice is in @operators)"],
        "",
    )
    status, lines, _ = can(house, "bob", "dog", "Dog.dig")
    assert (status, lines) == (
        1,
        [
            "no",
            f"  dog: no rule in [access] of {dog} lets bob call Dog.dig",
            "  dog: rules about Dog.dig: none",
            (
                f"  dog: rules for bob: line {numbers['Dog.b?rk']}: Dog.b?rk = bob, @operators; "
                f"line {numbers['cat.*']}: cat.* = *"
            ),
            "  dog: to allow it, add: Dog.dig = bob",
        ],
    )
    assert can(house, "anonymous", "dog", "Dog.bark")[0] == 1
    status, lines, _ = can(house, "alice", "dog", "Cat.purr")
    assert (status, lines[1]) == (1, f"  dog: no rule in [access] of {dog} lets alice call Cat.purr")
    assert lines[-1] == f"  cat: {cat}, line {len(cat.read_text().splitlines())}: Cat.purr = alice"
    status, _, said = can(house, "alice", "dog", "Dog.brk")
    assert "plugin 'dog' has no remote method Dog.brk (did you mean 'Dog.bark'?)" in said
    assert "there is no" not in said
    status, lines, _ = can(house, "alice", "dog", "Dog.bark", "--json")
    assert (status, json.loads("".join(lines))["allowed"]) == (0, True)
    for words, says in (
        (("alice", "dgo", "Dog.bark"), "did you mean 'dog'"),
        (("@operators", "dog", "Dog.bark"), "is a group"),
        (("alice", "dog", "bark"), "is not Class.method"),
    ):
        status, _, said = can(house, *words)
        assert (status, says in said) == (2, True)


@pytest.mark.slow
def test_can_says_what_the_agent_does(house: Guarded) -> None:
    house.groups(operators="bob")
    house.describe("dog", "Admin.hello = *\nCat.purr = *\nDog.* = @operators\ndog.count = alice", "forward = cat")
    house.describe("cat", "Cat.purr = bob\nAdmin.hello = alice\n", "accept = dog\nadmin = bob")
    started(house)
    for who in ("alice", "bob", None):
        for address, called in (
            ("dog", "Dog.bark"),
            ("dog", "dog.count"),
            ("dog", "Cat.purr"),
            ("dog", "Cat.scratch"),
            ("dog", "Admin.hello"),
            ("cat", "Cat.purr"),
            ("cat", "Admin.hello"),
        ):
            namespace, _, method = called.partition(".")
            with house.agent(who, address) as agent:
                try:
                    agent[namespace][method]()
                    may = True
                except (Rejected, NotAuthorized):
                    may = False
            assert can(house, who or "anonymous", address, called)[0] == (0 if may else 1), (who, address, called)


def test_check_finds_rules_that_cannot_be_meant(house: Guarded) -> None:
    house.groups(operators="alice")
    house.describe("dog", "Dog.bark = @operators\nDog.brak = alice\nAdmin.hello = @oprators\nDog.* = anonymous")
    house.describe("cat", "Cat.purr = alice\nCat.scratch = anonymous", signed=False)
    status, lines, _ = check(house)
    lines = [line.replace(str(house.root), "") for line in lines if line.startswith(("warning", "error"))]
    assert (status, [re.sub(r"line \d+", "line N", line) for line in lines]) == (
        0,
        [
            (
                "warning: /etc/gofer/plugins/cat.conf: [access] Cat.purr: line N: plugin 'cat' has no authenticator, "
                "so its callers have no identity; add authenticator to [messaging], or name anonymous"
            ),
            (
                "warning: /etc/gofer/plugins/dog.conf: [access] Admin.hello: line N: there is no group 'oprators' "
                "(did you mean 'operators'?); [groups] of agent.conf has: operators"
            ),
            (
                "warning: /etc/gofer/plugins/dog.conf: [access] Dog.brak: line N: matches no method (did you mean "
                "'Dog.bark'?)among the plugins that could be imported"
            ),
        ],
    )


def test_check_and_goferd_warn_of_identities_that_nobody_can_mean(house: Guarded) -> None:
    house.groups(operators="alice, 'bob'")
    rules = (
        "Dog.bark = @, alice\nDog.dig = 'alice', bob*\nDog.* = \"bob, carol\", dave\ndog.count = *, O'Neill, a@b.org"
    )
    house.describe("dog", rules, "admin = @operators, bob")
    odd = {
        "agent.conf: [groups] operators": ["\"'bob'\" has a quote"],
        "dog.conf: [main] admin": ["'@operators' is read as an identity"],
        "dog.conf: [access] Dog.bark": ["'@' names no group"],
        "dog.conf: [access] Dog.dig": ["\"'alice'\" has a quote", "'bob*' has a * in it"],
        "dog.conf: [access] Dog.*": ["'\"bob' has a quote", "'carol\"' has a quote"],
    }
    status, lines, _ = check(house)
    started(house)
    for told in (lines, house.process.log.read_text().splitlines()):
        for place, texts in odd.items():
            found = [line for line in told if f"{place}: " in line]
            assert (len(found), [text for text in texts if not any(text in line for line in found)]) == (len(texts), [])
        assert [line for line in told if "O'Neill" in line or "a@b.org" in line] == []
    assert status == 0


def test_check_and_can_live_with_a_plugin_that_ends_the_process(house: Guarded) -> None:
    house.describe("dog", "Dog.bark = alice")
    house.code("bad", "import os\nos._exit(3)\n")
    house.describe("bad", None)
    status, lines, _ = check(house)
    assert status == 1
    assert [line for line in lines if "the rules of [access] are not checked" in line]
    status, _, said = can(house, "alice", "dog", "Dog.bark")
    assert (status, "only the rules of 'dog' are looked at" in said) == (0, True)


def test_check_refuses_what_is_no_rule(house: Guarded) -> None:
    for rule, says in (
        ("Dog.bark =", "has no value"),
        ("bark = alice", "is no method"),
        ("Dog.[b]ark = alice", "is no method"),
        ("Dog.bark = alice # she", "has a comment after its value"),
        ("Dog.bark = ,", "has no value"),
        ("Dog.bark = alice\n  Dog.dig = bob", None),
    ):
        house.describe("dog", rule)
        status, lines, _ = check(house)
        assert (status, says is None or any(says in line for line in lines)) == (0 if says is None else 1, True), lines


def can(house: Guarded, *words: str) -> tuple[int, list[str], str]:
    done = run_gofer("can", *words)
    return done.returncode, done.stdout.splitlines(), done.stderr


def check(house: Guarded) -> tuple[int, list[str], str]:
    done = check_goferd(house.root)
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("how", ["runs", "unloaded", "switched off", "broken", "broken later"])
def test_the_rules_of_a_plugin_that_does_not_run_hold_for_what_another_has_of_it(house: Guarded, how: str) -> None:
    house.code("heir", "from cat_module import Cat\n\n\nclass Heir(Cat):\n    pass\n")
    file = house.describe("cat", "* = alice")
    rules = file.read_text()
    house.describe("heir", None, signed=False)
    if how == "broken later":
        file.unlink()
    if how == "switched off":
        file.write_text(file.read_text().replace("enabled=1", "enabled=0"))
    elif how == "broken":
        file.write_text(file.read_text().replace("threads=4", "threads=none"))
    house.process.start()
    with house.agent(None, "heir") as nobody:
        until_it_answers(nobody, house.process.tail())
        if how == "unloaded":
            assert run_gofer("agent", "unload", "cat").returncode == 0
        elif how == "broken later":
            assert nobody.Heir().purr() == "purr"  # nobody has said anything of it
            file.write_text(rules.replace("threads=4", "threads=none"))
            os.kill(house.process.pid, signal.SIGHUP)
            eventually(lambda: "'none' is not a whole number" in house.process.tail())
            eventually(lambda: _is_denied(nobody.Heir().purr))
        denied(nobody.Heir().purr)
    closed = f"{file} cannot be used and may have [access] rules"
    assert (house.log(closed) > 0) is how.startswith("broken")
    status, lines, _ = can(house, "anonymous", "heir", "Heir.purr")
    says = f"cat: {file} cannot be used" if how.startswith("broken") else "cat: no rule in [access]"
    assert (status, any(says in line for line in lines)) == (1, True), lines


def test_a_second_descriptor_of_a_plugin_closes_it_if_it_has_rules_and_the_log_says_so(house: Guarded) -> None:
    first = house.describe("dog", "* = alice")
    text = first.read_text().replace("[main]\n", "[main]\nname = dog\nplugin = dog\n")
    second = describe(house.root, "second", text)
    house.process.start()
    with house.agent("alice") as alice:
        denied(alice.Dog().bark)
        assert house.log(f"{second} cannot be used and may have [access] rules") == 1
        second.unlink()
        os.kill(house.process.pid, signal.SIGHUP)
        eventually(lambda: not _is_denied(alice.Dog().bark))


@pytest.mark.parametrize("how", ["removed", "renamed", "mended"])
def test_what_a_broken_descriptor_closed_opens_again_when_that_is_gone(house: Guarded, how: str) -> None:
    house.code("heir", "from cat_module import Cat\n\n\nclass Heir(Cat):\n    pass\n")
    file = house.describe("cat", "*.purr = anonymous", signed=False)
    whole = file.read_text()
    file.write_text(whole.replace("threads=4", "threads=none"))
    house.describe("heir", None, signed=False)
    house.process.start()
    with house.agent(None, "heir") as nobody:
        until_it_answers(nobody, house.process.tail())
        denied(nobody.Heir().purr)
        if how == "mended":
            file.write_text(whole)
        else:
            file.rename(file.with_suffix(".orig")) if how == "renamed" else file.unlink()
        os.kill(house.process.pid, signal.SIGHUP)
        eventually(lambda: not _is_denied(nobody.Heir().purr))
        assert nobody.Heir().purr() == "purr"
        if how == "mended":
            denied(nobody.Heir().scratch, "of plugin 'cat'")
        assert can(house, "anonymous", "heir", "Heir.purr")[0] == 0


def test_the_rules_of_a_plugin_go_with_its_descriptor(house: Guarded) -> None:
    house.code("heir", "from cat_module import Cat\n\n\nclass Heir(Cat):\n    pass\n")
    file = house.describe("cat", "* = alice")
    house.describe("heir", None, signed=False)
    house.process.start()
    with house.agent(None, "heir") as nobody:
        until_it_answers(nobody, house.process.tail())
        denied(nobody.Heir().purr)
        file.unlink()
        os.kill(house.process.pid, signal.SIGHUP)
        eventually(lambda: not _is_denied(nobody.Heir().purr))


def test_can_says_no_for_a_plugin_whose_descriptor_is_broken(house: Guarded) -> None:
    file = house.describe("dog", "* = alice")
    assert can(house, "alice", "dog", "Dog.bark")[:2] == (
        0,
        ["yes", f"  dog: {file}, line {len(file.read_text().splitlines())}: * = alice"],
    )
    file.write_text(file.read_text().replace("threads=4", "threads=none"))
    status, lines, said = can(house, "alice", "dog", "Dog.bark")
    assert (status, lines) == (1, ["no", f"  dog: {file} cannot be used, so goferd does not load the plugin"])
    assert "'none' is not a whole number" in said
    assert json.loads("".join(can(house, "alice", "dog", "Dog.bark", "--json")[1]))["allowed"] is False


def _is_denied(call: Any) -> bool:
    try:
        call()
    except Rejected as refused:
        return refused.code == "access.denied"
    return False
