"""``gofer fleet`` and its twin in programs: careful waves, plans, watching, what is shown, and what is completed."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from gofer.card import Card, PluginCard
from gofer.errors import ConfigError
from gofer.fleet import BlockingFleet, Fleet
from gofer.testing.emulator import Emulator, Script
from support import forkserver
from support.fleets import gofer, kinds, sent, started, watches
from support.forkserver import GOFER
from support.localbroker import LocalBroker
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("fleet-commands")

CARE = (
    "it is called on one machine, then on a tenth, then on the rest, up to the first failure; "
    "--ramp, --batch or --stop-after says otherwise"
)


# -- methods that are marked destructive -------------------------------------------------------------------------------


def test_a_destructive_method_stops_at_the_first_failure(state: Path, web: None) -> None:
    stopped = gofer("call", "group=web", "Dog.forget", "fail=true")
    assert stopped.returncode == 3
    assert f"Dog.forget is marked destructive at web-0, web-1: {CARE}" in stopped.stderr
    assert "was stopped: 1 failure of 2 machines; allowed: fewer than 1" in stopped.stderr
    assert "untouched: not called" in stopped.stdout
    again = gofer("resume", "last")  # which is no leave to go on
    assert (again.returncode, "untouched: not called" in again.stdout) == (3, True)
    assert gofer("resume", "last", "--stop-after", "100%").stdout.startswith("2 × exception")  # noqa: RUF001 - the sign is meant


@pytest.mark.parametrize("given", [("--ramp", "100%"), ("--batch", "2"), ("--stop-after", "100%")])
def test_who_gives_waves_has_no_others(state: Path, web: None, given: tuple[str, str]) -> None:
    done = gofer("call", "group=web", "Dog.forget", "fail=true", *given)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("2 × exception: ValueError: no")  # noqa: RUF001 - as above


def test_a_retry_is_as_careful(state: Path, web: None) -> None:
    assert gofer("call", "group=web", "Dog.forget", "fail=true", "--batch", "2").returncode == 1
    again = gofer("retry", "last")
    assert (again.returncode, CARE in again.stderr) == (3, True)
    more = gofer("call", "@run:last exception", "Dog.forget", "fail=true")
    assert (more.returncode, CARE in more.stderr) == (1, False)  # one machine needs no waves


def test_one_machine_that_marks_it_is_enough(state: Path, broker: LocalBroker) -> None:
    """A mixed fleet: only the last of 40 machines says that its method destroys something."""

    def card(n: int) -> Card:
        name = f"mixed-{n:05}"
        marked = ["Emulated.wipe"] if n == 39 else []
        return Card(name=name, address=name, plugins={"emulated": PluginCard("1", name, ["Emulated"], marked)})

    async def go() -> None:
        emulator = Emulator(broker.url, 40, Script(), prefix="mixed")
        async with emulator, Fleet(broker.url, wait=20) as fleet:
            fleet.add(map(card, range(40)))
            mixed = fleet.where("name=mixed-*")
            assert mixed.plan("Emulated", "wipe").ends == [1, 4, 40]
            assert mixed.plan("Emulated", "work").ends == [40]
            assert mixed(soak="1s").plan("Emulated", "wipe").ends == [1, 4, 40]
            assert mixed(limit=20).plan("Emulated", "wipe").ends == [20]  # the one that marks it is not called
            assert mixed(batch=10).plan("Emulated", "wipe").ends == [40]
            emulator.agents[2].kind = "failing"
            summary = await mixed.Emulated().wipe()
            assert summary.counts == {"value": 3, "exception": 1, "untouched": 36}
            assert summary.stopped == "1 failure of 40 machines; allowed: fewer than 1"
            assert {one.wave for one in summary.outcomes if one.kind != "untouched"} == {0, 1}

    asyncio.run(go())


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_plan_tells_all_and_calls_nothing(state: Path, web: None) -> None:
    for command in (["plan", "group=web", "Dog.forget"], ["call", "group=web", "Dog.forget", "--plan"]):
        planned = gofer(*command)
        assert planned.stderr == ""
        assert planned.stdout.splitlines() == [
            "Dog.forget(*, fail: bool = False) -> str  @destructive",
            "        Forget all tricks.",
            "",
            "        They have to be learnt again.",
            "(from web-0)",
            "",
            f"Dog.forget is marked destructive at web-0, web-1: {CARE}",
            "wave 1 of 2: Dog.forget on 1 machine",
            "  web-0 (kennel-0)",
            "wave 2 of 2: Dog.forget on 1 machine",
            "  web-1 (kennel-1)",
        ]
    told = json.loads(gofer("plan", "group=web", "Dog.forget", "--json").stdout)
    assert (told["waves"], told["destructive"]) == ([["web-0"], ["web-1"]], ["web-0", "web-1"])
    assert told["documentation"][1] == "        Forget all tricks."
    assert gofer("status", "--json").stdout == "[]\n"


def test_a_plan_says_why_it_has_no_documentation(state: Path, web: None) -> None:
    assert gofer("plan", "group=web", "Dog.meow").stdout.startswith(
        "Dog.meow: web-0 has no such method that you may call\n\nwave 1 of 1: Dog.meow on 2 machines\n"
    )
    planned = gofer("plan", "-", "Dog.bark", stdin="nowhere\nkennel-1\n").stdout
    assert planned.splitlines()[:2] == ["Dog.bark(n)", "(from web-1)"]
    assert gofer("plan", "-", "Dog.bark", stdin="nowhere\n").stdout.startswith(
        "Dog.bark: nowhere does not tell of it: "
    )


# -- watching ----------------------------------------------------------------------------------------------------------


def test_a_run_is_watched_to_its_end(state: Path, web: None, awake: Path) -> None:
    command = started("call", "group=web", "Dog.sleep", str(awake))
    eventually(lambda: sent(state) == 2)
    watch = started("watch", "--jsonl")
    eventually(lambda: watches(watch, state))
    awake.touch()
    assert command.communicate()[0].startswith("2 × awake")  # noqa: RUF001 - as above
    out, err = watch.communicate(timeout=60)
    assert watch.returncode == 0, (out, err)
    assert {(one["name"], one["value"]) for one in map(json.loads, out.splitlines())} == {
        ("web-0", "awake"),
        ("web-1", "awake"),
    }
    later = gofer("watch", "last", "--require", "1")
    assert (later.returncode, later.stdout.splitlines()[0]) == (0, "2 × awake")  # noqa: RUF001 - as above


def test_the_end_of_a_run_is_that_of_the_watch(state: Path, web: None) -> None:
    assert gofer("call", "group=web", "Dog.fail").returncode == 1
    assert gofer("watch").returncode == 1
    assert gofer("call", "group=web", "Dog.fail", "--ramp", "1", "--stop-after", "1").returncode == 3
    watched = gofer("watch")
    assert (watched.returncode, "1 failure of 2 machines" in watched.stderr) == (3, True)
    assert gofer("watch", "zzz").returncode == 2


def test_whoever_watches_hears_that_nobody_runs_it_any_more(state: Path, web: None, awake: Path) -> None:
    command = started("call", "group=web", "Dog.sleep", str(awake))
    eventually(lambda: sent(state) == 2)
    watch = started("watch", "last")
    eventually(lambda: watches(watch, state))
    command.send_signal(signal.SIGKILL)
    command.communicate()
    out, err = watch.communicate(timeout=60)
    assert watch.returncode == 3, (out, err)
    run = out.rpartition("run ")[2].partition(":")[0]
    assert f"run {run} was stopped: the process that ran it was killed, or has failed" in err
    assert f"to go on: gofer fleet resume {run}" in err
    awake.touch()
    assert gofer("resume").stdout.startswith("2 × awake")  # noqa: RUF001 - as above
    assert gofer("watch").returncode == 0


def test_a_watch_does_not_keep_others_from_a_run(state: Path, broker: LocalBroker) -> None:
    """Whoever watches looks for the lock again and again; whoever takes the run up gets it nevertheless."""

    async def go() -> None:
        async with Fleet(broker.url) as fleet:
            fleet.add([Card(name="a", address="a")])
            row = fleet.record.run(fleet.where().Dog().bark().id)
            ended = threading.Event()

            def look() -> None:
                while not ended.is_set():
                    fleet.record.is_held(row)

            looks = threading.Thread(target=look)
            looks.start()
            try:
                for _ in range(20):
                    with fleet.record.held(row):
                        assert fleet.record.is_held(row)
            finally:
                ended.set()
                looks.join()
            assert not fleet.record.is_held(row)

    asyncio.run(go())


# -- waves of a run that is taken up -----------------------------------------------------------------------------------


def test_a_person_is_asked_between_waves_and_again_when_it_is_resumed(state: Path, web: None) -> None:
    first = gofer("call", "group=web", "Dog.bark", "1", "--ramp", "1", "--confirm", stdin="n\n")
    assert (first.returncode, "1 value. Call the next 1 machine? [y/N] " in first.stderr) == (3, True)
    second = gofer("resume", stdin="")
    assert (second.returncode, "was stopped: not confirmed; to go on: gofer fleet resume " in second.stderr) == (
        3,
        True,
    )
    assert gofer("resume", stdin="yes\n").stdout.startswith("2 × w\n")  # noqa: RUF001 - as above


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["call", "@run:last nonsense", "Dog.bark"], "no outcome 'nonsense'; allowed: value, exception, refused, "),
        (["call", "@run:last excepton", "Dog.bark"], "no outcome 'excepton' (did you mean 'exception'?); allowed: "),
        (["ls", "@machines"], "'@machines' is for call and plan; allowed: an expression, like name=web-*"),
        (["ping", "-"], "'-' is for call and plan; allowed: an expression"),
        (["call", "@run:", "Dog.bark"], "@run: names no run; allowed: a run's id or last"),
        (["retry", "--outcome", "nonsense"], "no outcome 'nonsense'; allowed: value, exception, refused, "),
        (["resume", "--ramp", "1"], "no option '--ramp'"),
        (["watch", "--require", "x"], "--require is 'x'; allowed: a number"),
    ],
)
def test_what_is_wrong_is_said_by_name(state: Path, web: None, arguments: list[str], words: str) -> None:
    gofer("call", "group=web", "Dog.bark", "1")
    done = gofer(*arguments)
    assert (done.returncode, words in done.stderr) == (2, True), done


def test_the_waves_of_a_run_stay(state: Path, broker: LocalBroker) -> None:
    async def go() -> None:
        async with Fleet(broker.url) as fleet:
            fleet.add([Card(name="a", address="a")])
            run = fleet.where().Dog().bark()
            with pytest.raises(ConfigError, match="ramp: the machines and waves of a run stay; allowed: batch, soak"):
                fleet.resume(run.id, ramp="1")

    asyncio.run(go())


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_numbers_are_shown_as_they_are_spread(state: Path, broker: LocalBroker) -> None:
    async def serve(ready: threading.Event, ended: asyncio.Event) -> None:
        async with Emulator(broker.url, 30, Script(), prefix="spread"):
            ready.set()
            await ended.wait()

    ready, loop, ended = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(ready, ended),))
    thread.start()
    try:
        assert ready.wait(60)
        done = gofer(
            "call", "name=spread-*", "Emulated.work", "-i", "[[7, 0.5]]", "--hist", "args.0", "--sum", "args.1"
        )
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert lines[:2] == ["sum of args.1: 15.0", "spread of args.0: 30 numbers"]
    assert lines[2].startswith("7  30  ####")
    assert max(map(len, lines)) < 80


# -- in programs without an event loop ---------------------------------------------------------------------------------


def test_the_blocking_twin(state: Path, broker: LocalBroker, web: None) -> None:
    before = threading.active_count()
    with BlockingFleet(broker.url, wait=10) as fleet:
        assert set(fleet.ask("group=web").cards) <= {"kennel-0", "kennel-1"}
        fleet.add([Card(name="gone", address="nowhere")])
        two = fleet.where("group=web")
        run = two.Dog().bark(2)
        assert [(one.name, one.value) for one in sorted(run)] == [("web-0", "ww"), ("web-1", "ww")]
        assert kinds(fleet.where().Dog().bark(1).summary().outcomes) == {
            "web-0": "value",
            "web-1": "value",
            "gone": "unreachable",
        }
        assert len(fleet.retry("last")) == 1
        with pytest.raises(ConfigError, match="no run begins with"):
            fleet.resume("zzz")
        careful = two(ramp="1", stop_after=1).Dog().fail()
        assert careful.summary().counts == {"exception": 1, "untouched": 1}
        for outcome in two(batch=1).Dog().bark(3):
            assert outcome.ok
            break  # the other one is not called
        assert fleet.resume("last").summary().counts == {"value": 2}
    with pytest.raises(RuntimeError, match="closed"):
        fleet.where()
    assert threading.active_count() == before


def test_a_blocking_run_is_stopped_by_another_thread(state: Path, broker: LocalBroker, web: None) -> None:
    def confirm(*_: object) -> bool:
        run.stop("enough")
        return True

    with BlockingFleet(broker.url, wait=30) as fleet:
        run = fleet.where("group=web")(ramp="1", confirm=confirm).Dog().bark(1)
        summary = run.summary()
        assert (summary.stopped, summary.counts) == ("enough", {"value": 1, "untouched": 1})


# -- completion --------------------------------------------------------------------------------------------------------


def complete(words: list[str]) -> list[str]:
    """Return what zsh is given for words of which the last is unfinished; without the descriptions."""
    asked = {"_GOFER_COMPLETE": "zsh_complete", "COMP_WORDS": shlex.join(words), "COMP_CWORD": str(len(words) - 1)}
    done = forkserver.run([GOFER], env={**os.environ, **asked}, text=True, timeout=60)
    assert done.stderr == ""
    return list(done.stdout.splitlines()[1::3])


def test_names_groups_classes_and_runs_are_completed_and_nobody_is_asked(
    state: Path, broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert complete(["gofer", "fleet", "call", "name="]) == []
    monkeypatch.setenv("GOFER_URL", "amqp://127.0.0.1:1/")  # where nobody is

    async def go() -> str:
        async with Fleet("amqp://127.0.0.1:1/") as fleet:
            plugin = PluginCard("1", None, ["Dog", "Cat"], ["Dog.forget"])
            for name in ("web-1", "web-2", "db-1"):
                groups = [name.partition("-")[0], "eu"]
                fleet.add([Card(name=name, address=name, groups=groups, plugins={"pets": plugin})])
            evil = PluginCard("1", None, ["$(reboot)", "a\nb", "*"], [";reboot"])
            fleet.add([Card(name="`reboot`", address="evil", plugins={"&": evil})])
            return str(fleet.where("name=web-1").Dog().bark("x").id)

    run = asyncio.run(go())
    assert complete(["gofer", "fleet", "call", "na"]) == ["name="]
    assert complete(["gofer", "fleet", "call", "name=w"]) == ["name=web-1", "name=web-2"]
    assert complete(["gofer", "fleet", "call", "all", "Dog."]) == ["Dog.bark", "Dog.forget"]
    assert complete(["gofer", "fleet", "ls", "group="]) == ["group=db", "group=eu", "group=web"]
    assert complete(["gofer", "fleet", "ls", "group=web,d"]) == ["group=web,db"]
    assert complete(["gofer", "fleet", "ls", "group=eu and (name=d"]) == ["group=eu and (name=db-1"]
    assert complete(["gofer", "fleet", "call", "all", ""]) == ["Cat.", "Dog.", "Dog.bark", "Dog.forget"]
    assert complete(["gofer", "fleet", "plan", "all", "Dog.f"]) == ["Dog.forget"]
    assert complete(["gofer", "fleet", "call", f"@run:{run[:2]}"]) == [f"@run:{run}"]
    assert complete(["gofer", "fleet", "watch", ""]) == ["last", run]
    assert complete(["gofer", "fleet", "why", run, "d"]) == ["db-1"]
    assert complete(["gofer", "fleet", "retry", "--outcome", "un"]) == ["unreachable", "untouched"]
    assert complete(["gofer", "fleet", "-u", "amqp://127.0.0.1:2/", "ls", "name="]) == []
    (state / "fleet.db").write_bytes(b"no database" * 1000)
    assert complete(["gofer", "fleet", "call", "name=w"]) == []


def test_the_methods_of_the_machines_that_are_meant_are_completed(state: Path, broker: LocalBroker, web: None) -> None:
    async def go() -> None:
        async with Fleet(broker.url) as fleet:
            later = PluginCard("1", None, ["Cat"], [], ["Cat.purr", "Cat.$(reboot)"])
            fleet.add([Card(name="db-1", address="db-1", groups=["db"], plugins={"cats": later})])
            earlier = PluginCard("1", None, ["Cow", "Dog"], ["Dog.forget"])  # tells no methods
            fleet.add([Card(name="db-2", address="db-2", groups=["db"], plugins={"farm": earlier})])

    asyncio.run(go())
    dogs = ["Dog.bark", "Dog.fail", "Dog.forget", "Dog.sleep"]
    assert complete(["gofer", "fleet", "call", "group=web", ""]) == dogs
    assert complete(["gofer", "fleet", "plan", "name=web-0", "Dog.f"]) == ["Dog.fail", "Dog.forget"]
    assert complete(["gofer", "fleet", "call", "group=db", ""]) == ["Cat.purr", "Cow.", "Dog.", "Dog.forget"]
    for targets in ("all", "-", "@machines.txt", "@run:last value"):
        assert complete(["gofer", "fleet", "call", targets, ""]) == ["Cat.purr", "Cow.", *dogs]
    assert complete(["gofer", "fleet", "call", "nme=3", ""]) == []


@pytest.mark.parametrize(
    ("line", "words", "reply"),
    [
        ("group=w", ["gofer", "fleet", "ls", "group", "=", "w"], "web"),
        ("group=", ["gofer", "fleet", "ls", "group", "="], "web"),
        ("name=w", ["gofer", "fleet", "ls", "name", "=", "w"], "web-1"),
        ("'group=web and name=w", ["gofer", "fleet", "ls", "'group=web and name=w"], "group=web and name=web-1"),
        ("na", ["gofer", "fleet", "ls", "na"], "name="),
    ],
)
def test_bash_completes_what_it_takes_apart(
    state: Path, broker: LocalBroker, line: str, words: list[str], reply: str
) -> None:
    async def go() -> None:
        async with Fleet(broker.url) as fleet:
            fleet.add([Card(name="web-1", address="web-1", groups=["web"])])

    asyncio.run(go())
    whole = f"gofer fleet ls {line}"
    code = f"""
export PATH={shlex.quote(os.path.dirname(GOFER))}:$PATH
eval "$(gofer completion bash)"
COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1} COMP_LINE={shlex.quote(whole)} COMP_POINT={len(whole)}
_gofer_completion gofer
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == (f"{reply}\n", "")
