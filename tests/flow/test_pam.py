"""``@user`` and ``@pam``, with real users of this machine, checked by its PAM through a goferd."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from gofer.errors import (
    NotAuthenticated,
    NotAuthorized,
    PasswordRequired,
    SecretNotMatched,
    SecretRequired,
    UserNotAuthorized,
    UserRequired,
)
from gofer.proxy import Agent
from gofer.rmi.server.logins import check_by_pam
from support.commands import gofer
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.people import Person
from support.presence import until_it_answers
from support.probe import runs
from support.waiting import eventually

PLUGIN = """
from gofer.decorators import pam, remote, user
from gofer.pam import authenticate


def note(text):
    with open(TRACE, "a") as file:
        file.write(text + "\\n")
    return text


class Door:
    @remote
    @user(name=JANE)
    def jane(self):
        return note("jane")

    @remote
    @user(name=JANE)
    @pam(user=JOE, service="login")
    def either(self):
        return note("either")

    @remote(secret="open")
    @user(name=JANE)
    def both(self):
        return note("both")

    @remote
    @pam(user=JANE, service="su")
    def careless(self):
        return note("careless")

    @remote
    @user(name=JANE)
    async def later(self):
        return note("later")

    @remote
    def free(self):
        return "free"

    @remote
    def ask(self, *how):
        return authenticate(*how)
"""


@pytest.mark.xdist_group("pam")
class TestUsers:
    @pytest.fixture(scope="class")
    @classmethod
    def people(cls) -> Iterator[tuple[Person, Person]]:
        with Person("jane") as jane, Person("joe") as joe:
            yield jane, joe

    @pytest.fixture(scope="class")
    @classmethod
    def jane(cls, people: tuple[Person, Person]) -> Person:
        return people[0]

    @pytest.fixture(scope="class")
    @classmethod
    def joe(cls, people: tuple[Person, Person]) -> Person:
        return people[1]

    @pytest.fixture(scope="class")
    @classmethod
    def trace(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("trace") / "trace"

    @pytest.fixture
    def process(self, jane: Person, joe: Person, trace: Path, root: Path, tmp_path: Path) -> Iterator[AgentProcess]:
        trace.unlink(missing_ok=True)
        with LocalBroker(str(tmp_path / "broker.sock")) as broker, AgentProcess(root) as process:
            names = f"JANE, JOE, TRACE = {jane.name!r}, {joe.name!r}, {str(trace)!r}\n"
            text = f"[main]\nenabled = 1\n[messaging]\nurl = {broker.url}\n[model]\nqueue = door\n"
            process.configure("[logging]\nroot = debug\n")
            process.plugin("door", names + PLUGIN, text)
            yield process.start()
            log = process.log.read_text()
            assert jane.password not in log
            assert joe.password not in log

    @pytest.fixture
    def agent(self, process: AgentProcess, tmp_path: Path) -> Iterator[Agent]:
        with Agent(f"local://{tmp_path / 'broker.sock'}", "door", wait=60) as agent:
            yield until_it_answers(agent, process.tail())

    def test_a_plugin_asks_for_itself_as_in_gofer_2(self, agent: Agent, jane: Person, joe: Person) -> None:
        door = agent.Door()
        assert door.ask(jane.name, jane.password) is True
        assert door.ask(jane.name, jane.password, "login") is True
        assert door.ask(jane.name, joe.password) is False
        with pytest.raises(NotAuthorized, match="there is no PAM service 'no-such-service'"):
            door.ask(jane.name, jane.password, "no-such-service")

    def test_the_right_password_opens(self, agent: Agent, jane: Person, joe: Person, trace: Path) -> None:
        mine = agent(user=jane.name, password=jane.password)
        assert (mine.Door().jane(), mine.Door().later(), mine.Door().either()) == ("jane", "later", "either")
        assert agent(pam={"user": jane.name, "password": jane.password}).Door().jane() == "jane"
        assert agent(user=joe.name, password=joe.password).Door().either() == "either"
        assert runs(trace) == {"jane": 2, "either": 2, "later": 1}

    def test_what_is_missing_or_wrong_is_reported_and_nothing_runs(
        self, agent: Agent, jane: Person, joe: Person, trace: Path
    ) -> None:
        for options, raised in (
            ({}, UserRequired),
            ({"user": jane.name}, PasswordRequired),
            ({"user": joe.name, "password": joe.password}, UserNotAuthorized),
            ({"user": "root", "password": "x"}, UserNotAuthorized),
            ({"user": jane.name, "password": joe.password}, NotAuthenticated),
            ({"user": jane.name, "password": jane.password + "\0more"}, NotAuthenticated),
        ):
            with pytest.raises(NotAuthorized) as caught:
                agent(**options).Door().jane()
            assert type(caught.value) is raised
            told = f"{caught.value!r} {caught.value} {getattr(caught.value, 'trace', '')} {vars(caught.value)}"
            assert jane.password not in told
            assert joe.password not in told
        assert not trace.exists()

    def test_secret_and_password_must_both_be_right(self, agent: Agent, jane: Person, trace: Path) -> None:
        mine = agent(user=jane.name, password=jane.password)
        assert mine(secret="open").Door().both() == "both"
        with pytest.raises(SecretRequired):
            mine.Door().both()
        with pytest.raises(SecretNotMatched):
            mine(secret="sesame").Door().both()
        with pytest.raises(UserRequired):
            agent(secret="open").Door().both()
        with pytest.raises(NotAuthenticated):
            agent(secret="open", user=jane.name, password="wrong").Door().both()
        assert runs(trace) == {"both": 1}

    def test_a_service_that_takes_any_password_is_not_asked(
        self, agent: Agent, jane: Person, process: AgentProcess, trace: Path
    ) -> None:
        for password in (jane.password, "anything"):
            with pytest.raises(NotAuthorized, match="PAM service 'su'"):
                agent(user=jane.name, password=password).Door().careless()
        assert not trace.exists()
        assert "'su'" in process.log.read_text()

    def test_the_agents_own_service_is_asked_where_a_method_names_none(
        self, agent: Agent, jane: Person, process: AgentProcess, trace: Path
    ) -> None:
        process.configure("[pam]\nservice = no-such-service\n[logging]\nroot = debug\n")
        process.stop()
        process.start()
        until_it_answers(agent, process.tail())
        with pytest.raises(NotAuthorized, match="no PAM service 'no-such-service'"):
            agent(user=jane.name, password=jane.password).Door().jane()
        assert not trace.exists()

    @pytest.mark.slow
    def test_ten_wrong_passwords_delay_nobody(self, agent: Agent, jane: Person, joe: Person) -> None:
        """The plugin has one worker. It goes on while PAM takes its seconds over each wrong password."""
        with ThreadPoolExecutor(10) as threads:
            wrong = [threads.submit(agent(user=jane.name, password=f"wrong-{n}").Door().jane) for n in range(10)]
            eventually(lambda: any(one.done() for one in wrong), 60)  # now PAM is busy with the next
            for _ in range(5):
                assert agent.Door().free() == "free"
            assert agent(user=joe.name, password=joe.password).Door().either() == "either"
            assert not all(one.done() for one in wrong)
            refused = [one.exception(60) for one in wrong]
        assert {type(one) for one in refused} == {NotAuthenticated}


@pytest.mark.xdist_group("pam")
class TestTheServiceThatComesWithGofer:
    """``/etc/pam.d/gofer``, as `gofer service install` writes it."""

    @pytest.fixture(scope="class")
    @classmethod
    def text(cls, tmp_path_factory: pytest.TempPathFactory) -> str:
        folder = tmp_path_factory.mktemp("destdir")
        done = gofer("service", "install", "--destdir", str(folder), environ={"GOFER_ROOT": ""})
        assert done.returncode == 0, done.stderr
        return (folder / "etc/pam.d/gofer").read_text()

    @pytest.fixture(scope="class")
    @classmethod
    def jane(cls) -> Iterator[Person]:
        with Person("jim") as jane:
            yield jane

    @pytest.mark.slow  # PAM takes two seconds to refuse a password
    def test_it_takes_the_right_password_of_an_account_that_is_open(self, text: str, jane: Person) -> None:
        with pam_file(f"gofer-test-{os.getpid()}", text) as service:
            right = jane.password.encode()
            assert check_by_pam(jane.name, right, service)
            assert not check_by_pam(jane.name, b"wrong", service)
            assert not check_by_pam("root", b"anything", service)
            assert not check_by_pam("nobody-of-this-name", right, service)
            for close, reopen in (
                (("usermod", "-e", "1"), ("usermod", "-e", "")),
                (("passwd", "-l"), ("passwd", "-u")),
            ):
                subprocess.run([*close, jane.name], check=True, capture_output=True, timeout=30)
                assert not check_by_pam(jane.name, right, service), close
                subprocess.run([*reopen, jane.name], check=True, capture_output=True, timeout=30)
                assert check_by_pam(jane.name, right, service), reopen

    def test_an_agent_asks_it_where_nothing_else_is_named(
        self, text: str, jane: Person, root: Path, broker: LocalBroker
    ) -> None:
        """It refuses this user whatever the password is, while ``passwd`` takes the right one."""
        if os.path.exists("/etc/pam.d/gofer"):
            pytest.skip("this machine has a PAM service gofer of its own, which is left alone")
        refusing = f"auth requisite pam_succeed_if.so quiet user != {jane.name}\n{text}"
        names = f"JANE, JOE, TRACE = {jane.name!r}, 'nobody', {str(root / 'trace')!r}\n"
        with AgentProcess(root) as process, Agent(broker.url, "door", wait=60) as agent:
            process.plugin(
                "door", names + PLUGIN, f"[main]\nenabled = 1\n[messaging]\nurl = {broker.url}\n[model]\nqueue = door\n"
            )
            process.start()
            mine = until_it_answers(agent, process.tail())(user=jane.name, password=jane.password)
            assert mine.Door().jane() == "jane"
            with pam_file("gofer", refusing):
                with pytest.raises(NotAuthenticated):
                    mine.Door().jane()
                process.configure("[pam]\nservice = passwd\n")
                process.stop()
                process.start()
                assert until_it_answers(mine, process.tail()).Door().jane() == "jane"
            assert mine.Door().jane() == "jane"


@contextmanager
def pam_file(name: str, text: str) -> Iterator[str]:
    """A PAM service of this machine, for a while."""
    path = Path("/etc/pam.d") / name
    with path.open("x") as file:  # another test's, or the machine's own, is not overwritten
        file.write(text)
    try:
        yield name
    finally:
        path.unlink()
