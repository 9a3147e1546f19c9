"""Users and passwords: who is asked for them, and that wrong ones cost nobody else's time."""

from __future__ import annotations

import gc
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from gofer.decorators import Login
from gofer.errors import NotAuthenticated, NotAuthorized, PasswordRequired, UserNotAuthorized, UserRequired
from gofer.rmi.server.logins import Attempt, Logins, attempt, pam_service
from support.waiting import eventually

LONG_NAME = "j" * 257
WHO = (Login("jane"), Login("root", "login"), Login(LONG_NAME))
PASSWORD = "s3cr3t-password"


@pytest.mark.parametrize(
    ("given", "raised"),
    [
        (None, UserRequired),
        ([], UserRequired),
        ({}, UserRequired),
        ({"password": "x"}, UserRequired),
        ({"user": "", "password": "x"}, UserRequired),
        ({"user": 5, "password": "x"}, UserRequired),
        ({"user": "jane"}, PasswordRequired),
        ({"user": "jane", "password": ""}, PasswordRequired),
        ({"user": "jane", "password": ["x"]}, PasswordRequired),
        ({"user": "joe", "password": PASSWORD}, UserNotAuthorized),
        ({"user": "jane\0", "password": PASSWORD}, UserNotAuthorized),
        ({"user": LONG_NAME, "password": PASSWORD}, UserNotAuthorized),
    ],
)
def test_what_is_missing_is_reported(given: Any, raised: type[NotAuthorized]) -> None:
    with pytest.raises(NotAuthorized) as caught:
        attempt("Dog.bark", WHO, given)
    assert type(caught.value) is raised
    assert PASSWORD not in str(caught.value)


def test_the_caller_chooses_no_service() -> None:
    asked = attempt("Dog.bark", WHO, {"user": "jane", "password": PASSWORD, "service": "su"})
    assert asked == Attempt("Dog.bark", "jane", None, PASSWORD)
    assert attempt("Dog.bark", WHO, {"user": "root", "password": "x"}).service == "login"
    assert PASSWORD not in repr(asked)


@pytest.mark.parametrize(
    "service", ["su", "su-l", "sudo", "sudo-i", "nothing-of-this-name", "../shadow", "/etc/passwd", ".", "", " ", "a\0"]
)
def test_a_service_that_takes_any_password_or_is_not_there_is_never_asked(service: str) -> None:
    if service:
        with pytest.raises(NotAuthorized):
            pam_service(service, None)
        with pytest.raises(NotAuthorized):
            pam_service(None, service)
    assert pam_service("passwd", service) == "passwd"


def test_the_methods_service_comes_before_the_agents() -> None:
    assert pam_service(None, "login") == "login"
    assert pam_service("passwd", "login") == "passwd"
    assert pam_service(None, None) in ("gofer", "passwd")


@pytest.mark.parametrize(
    ("wanted", "configured", "installed", "asked"),
    [
        ("door", "agents", ["door", "agents", "gofer", "passwd"], "door"),
        (None, "agents", ["door", "agents", "gofer", "passwd"], "agents"),
        (None, None, ["door", "agents", "gofer", "passwd"], "gofer"),
        (None, None, ["door", "agents", "passwd"], "passwd"),
        ("passwd", None, ["gofer", "passwd"], "passwd"),
        ("", "", ["gofer", "passwd"], "gofer"),
        # One that was named and is not there is told. Another one could let others in.
        ("door", "agents", ["agents", "gofer", "passwd"], None),
        (None, "agents", ["gofer", "passwd"], None),
        (None, None, ["other"], None),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_the_service_is_the_methods_the_agents_gofer_or_passwd(
    *,
    wanted: str | None,
    configured: str | None,
    installed: list[str],
    asked: str | None,
    place: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = [tmp_path / "etc", tmp_path / "usr"]
    monkeypatch.setattr("gofer.rmi.server.logins._SERVICES", tuple(map(str, folders)))
    folders[place].mkdir()
    for name in installed:
        (folders[place] / name).touch()
    if asked is None:
        with pytest.raises(NotAuthorized, match=f"no PAM service '{wanted or configured or 'passwd'}'"):
            pam_service(wanted, configured)
    else:
        assert pam_service(wanted, configured) == asked


def test_a_directory_of_that_name_is_no_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gofer.rmi.server.logins._SERVICES", (str(tmp_path),))
    (tmp_path / "gofer").mkdir()
    (tmp_path / "passwd").touch()
    assert pam_service(None, None) == "passwd"


class Pam:
    """Takes ``right`` for right, and as long as a gate is closed for anything else."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked: list[str] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, user: str, password: bytes, service: str) -> bool:
        with self._lock:
            self.asked.append(user)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            if password == b"right":
                return True
            assert self.gate.wait(30)
            if password == b"broken":
                raise OSError(PASSWORD)
            return False
        finally:
            with self._lock:
                self._now -= 1


class Ends:
    """What became of attempts, by user."""

    def __init__(self, logins: Logins) -> None:
        self.logins = logins
        self.of: dict[str, list[NotAuthorized | None]] = {}
        self._more = threading.Condition()

    def ask(self, user: str, password: str, service: str | None = "passwd") -> None:
        def ended(refused: NotAuthorized | None) -> None:
            with self._more:
                self.of.setdefault(user, []).append(refused)
                self._more.notify_all()

        self.logins.check(Attempt("Dog.bark", user, service, password), ended)

    def until(self, user: str, count: int) -> list[NotAuthorized | None]:
        with self._more:
            assert self._more.wait_for(lambda: len(self.of.get(user, [])) == count, 40), str(self.of)
        return self.of[user]


@pytest.fixture
def pam() -> Pam:
    return Pam()


@pytest.fixture
def ends(pam: Pam) -> Ends:
    return Ends(Logins(check=pam))


def test_ten_wrong_passwords_of_one_do_not_delay_another(pam: Pam, ends: Ends) -> None:
    for _ in range(10):
        ends.ask("mallory", "wrong")
    for n in range(20):
        ends.ask("jane", "right")
        assert ends.until("jane", n + 1)[-1] is None
    assert ends.of.get("mallory") is None
    assert pam.asked.count("mallory") == 1  # one at a time
    pam.gate.set()
    refused = ends.until("mallory", 10)
    assert {type(one) for one in refused} == {NotAuthenticated}
    assert pam.asked.count("mallory") == 3  # the others were not worth asking
    assert "try again in" in str(refused[-1])


def test_one_who_was_wrong_too_often_waits_a_while_and_is_heard_again(pam: Pam, ends: Ends) -> None:
    pam.gate.set()
    for n in range(3):
        ends.ask("jane", "wrong")
        ends.until("jane", n + 1)
    ends.ask("jane", "right")
    assert isinstance(ends.until("jane", 4)[-1], NotAuthenticated)

    def right() -> bool:
        count = len(ends.of["jane"])
        ends.ask("jane", "right")
        return ends.until("jane", count + 1)[-1] is None

    eventually(right)
    for n in range(2):  # and begins anew
        count = len(ends.of["jane"])
        ends.ask("jane", "wrong")
        assert "try again" not in str(ends.until("jane", count + 1)[-1]), n


def test_no_more_than_four_are_checked_at_once_and_none_is_forgotten(pam: Pam, ends: Ends) -> None:
    for n in range(12):
        ends.ask(f"user{n}", "wrong")
    eventually(lambda: len(pam.asked) == 4)
    pam.gate.set()
    for n in range(12):
        assert len(ends.until(f"user{n}", 1)) == 1
    assert pam.most == 4


def test_attempts_of_one_user_do_not_pile_up(pam: Pam, ends: Ends) -> None:
    for _ in range(100):
        ends.ask("jane", "wrong")
    assert "too many attempts" in str(ends.of["jane"][-1])
    pam.gate.set()
    ends.until("jane", 100)


def test_names_that_callers_make_up_do_not_pile_up(pam: Pam, ends: Ends) -> None:
    """A plugin may let the caller name any user: each name was remembered for ever."""
    pam.gate.set()
    for n in range(3000):
        ends.ask(f"user{n}", "wrong")
        ends.until(f"user{n}", 1)
    assert sum(type(one).__name__ == "_User" for one in gc.get_objects()) < 1500


@pytest.mark.parametrize("password", ["x" * 513, "right\0more", "\ud800"])
def test_what_pam_would_cut_is_refused(pam: Pam, ends: Ends, password: str) -> None:
    ends.ask("jane", password)
    assert isinstance(ends.until("jane", 1)[0], NotAuthenticated)
    ends.ask("root\0jane", "right")
    assert isinstance(ends.until("root\0jane", 1)[0], NotAuthenticated)
    assert pam.asked == []


def test_a_pam_that_fails_lets_nobody_in_and_tells_no_password(
    pam: Pam, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    pam.gate.set()
    with caplog.at_level(logging.DEBUG):
        ends.ask("jane", "broken")
        refused = ends.until("jane", 1)[0]
    assert type(refused) is NotAuthorized
    assert "OSError" in caplog.text
    assert PASSWORD not in caplog.text + str(refused)


def test_a_service_that_must_not_be_asked_is_reported_in_the_log(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        ends.ask("root", "anything", "su")
        assert type(ends.until("root", 1)[0]) is NotAuthorized
    assert "'su'" in caplog.text
