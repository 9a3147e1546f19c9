"""The way from a request to a method: what is found, who may call it, and what hooks can do about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gofer.errors
import pytest
from gofer.hooks import hookimpl
from gofer.rmi import dispatcher
from gofer.rmi.api import API
from gofer.rmi.request import Received
from support import kennel
from support.receiving import Served, served


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as serving:
        yield serving


@pytest.mark.parametrize(
    "name",
    [
        "DispatchError", "MemberNotFound", "NamespaceNotFound", "NotAuthenticated", "NotAuthorized", "PasswordRequired",
        "RemoteException", "SecretNotMatched", "SecretRequired", "UserNotAuthorized", "UserRequired",
    ],
)  # fmt: skip
def test_the_documented_names_are_here(name: str) -> None:
    assert getattr(dispatcher, name) is getattr(gofer.errors, name)


# -- finding -------------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_named_with_what_is(serving: Served) -> None:
    missing = serving.caller.error("Nope", "echo")
    assert (missing["xmodule"], missing["xclass"]) == ("gofer.rmi.dispatcher", "NamespaceNotFound")
    (text,) = missing["xargs"]
    assert text.startswith("plugin 'kennel' has no remote class or module 'Nope'. Available: ")
    assert "Dog" in text
    for classname, method in (("Dog", "nope"), ("Dog", "hidden"), ("Dog", "_private"), ("kennel", "quiet")):
        missing = serving.caller.error(classname, method)
        assert (missing["xmodule"], missing["xclass"]) == ("gofer.collation", "MemberNotFound")
        assert missing["xargs"] == [method]  # as gofer 2.12 has it
        assert missing["xstate"]["description"].startswith(f"{classname} has no remote method '{method}'")
    assert kennel.ran() == []


# -- secrets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "secret"),
    [
        ("guarded", "garfield"),
        ("guarded_by_two", "one"),
        ("guarded_by_two", "zwei\u00e4"),
        ("guarded_by_call", "made"),
        ("guarded_by_call", "up"),
    ],
)
def test_the_right_secret_opens(serving: Served, method: str, secret: str) -> None:
    assert serving.caller.value("Dog", method, secret=secret) == "in"


@pytest.mark.parametrize("method", ["guarded", "guarded_by_two", "guarded_by_call"])
def test_no_secret_gets_an_error(serving: Served, method: str) -> None:
    error = serving.caller.error("Dog", method)
    assert (error["xclass"], error["xargs"]) == ("SecretRequired", [f"Dog.{method}(): a secret is required"])


@pytest.mark.parametrize("secret", ["", "wrong", "garfiel", "garfield ", "g\u00e4rfield", 5, ["garfield"], {}, False])
def test_a_wrong_secret_is_refused_and_the_right_one_not_reported(serving: Served, secret: object) -> None:
    for method in ("guarded", "guarded_by_two", "guarded_by_call"):
        error = serving.caller.error("Dog", method, secret=secret)
        assert error["xclass"] == "SecretNotMatched"
        told = str(error)
        assert not [right for right in ("'garfield'", "zwei", "'one'", "'made'", "'up'") if right in told]


def test_a_secret_that_cannot_be_had_lets_nobody_in(serving: Served, caplog: pytest.LogCaptureFixture) -> None:
    for secret in (None, "x", ""):
        error = serving.caller.error("Dog", "guarded_by_failure", secret=secret)
        assert error["xclass"] == "NotAuthorized"
        assert "ZeroDivisionError" not in str(error)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.slow  # PAM takes two seconds to refuse a password
def test_secrets_and_passwords_are_not_logged(serving: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    serving.caller.error("Dog", "guarded", secret="s3cr3t-given")
    serving.caller.error("Dog", "reboot", pam={"user": "root", "password": "s3cr3t-given"})
    assert "s3cr3t-given" not in caplog.text
    assert "garfield" not in caplog.text


@pytest.mark.parametrize(
    ("pam", "raised"),
    [
        (None, "UserRequired"),
        ({"user": "root"}, "PasswordRequired"),
        ({"user": "joe", "password": "x"}, "UserNotAuthorized"),
    ],
)
def test_a_method_for_users_is_called_by_nobody_else(serving: Served, pam: object, raised: str) -> None:
    assert serving.caller.error("Dog", "reboot", pam=pam)["xclass"] == raised
    assert kennel.ran() == []


def test_a_forked_method_is_never_run_in_the_agent(serving: Served) -> None:
    error = serving.caller.error("Dog", "forked")
    assert (error["xclass"], error["xmodule"]) == ("DispatchError", "gofer.rmi.dispatcher")
    assert "@fork" in error["xargs"][0]
    assert kennel.ran() == []


# -- hooks ---------------------------------------------------------------------------------------------------------


def test_a_hook_names_the_plugin_that_answers(serving: Served) -> None:
    other = SimpleNamespace(api=API("zoo"))
    other.api.add(kennel.hello)

    class Route:
        @hookimpl
        def gofer_route(self, request: Received) -> object:
            return other if request.classname == "zoo" else None

    serving.plugin.manager.register(Route())
    assert serving.caller.value("zoo", "hello", "there") == "hello there"
    assert serving.caller.value("Dog", "echo", 1) == 1
    assert serving.caller.error("zoo", "nope")["xclass"] == "MemberNotFound"


def test_a_hook_that_raises_is_the_calls_exception(serving: Served) -> None:
    class Route:
        @hookimpl
        def gofer_route(self) -> None:
            raise LookupError("lost")

    serving.plugin.manager.register(Route())
    assert serving.caller.error("Dog", "echo", 1)["xargs"] == ["lost"]
    assert kennel.ran() == []


def test_a_wrapper_sees_the_call_and_its_value(serving: Served) -> None:
    seen: list[Any] = []

    class Audit:
        @hookimpl(wrapper=True)
        def gofer_call(self, request: Received) -> Generator[None, Any, Any]:
            assert request.api is not None
            seen.append((request.api.plugin, request.api.name, request.api.cls, list(kennel.ran())))
            value = yield
            seen.append((value, list(kennel.ran())))
            return [value, "wrapped"]

    serving.plugin.manager.register(Audit())
    assert serving.caller.value("Dog", "echo", 5) == [5, "wrapped"]
    assert seen == [("kennel", "Dog.echo", kennel.Dog, []), (5, [5])]
    assert serving.caller.value("Dog", "echo", None) == [None, "wrapped"]
    assert kennel.ran() == [5, None]


def test_a_wrapper_that_raises_first_keeps_the_method_from_running(serving: Served) -> None:
    class Guard:
        @hookimpl(wrapper=True)
        def gofer_call(self, request: Received) -> Generator[None, Any, Any]:
            raise gofer.errors.NotAuthorized("not today")
            yield

    serving.plugin.manager.register(Guard())
    assert serving.caller.error("Dog", "echo", 1)["xargs"] == ["not today"]
    assert kennel.ran() == []


@pytest.mark.parametrize("value", [None, 7])
def test_a_method_runs_once_however_often_hooks_invoke_it(serving: Served, value: object) -> None:
    class Twice:
        @hookimpl
        def gofer_call(self, invoke: Callable[[], Any]) -> Any:
            invoke()
            return invoke()

    serving.plugin.manager.register(Twice())
    assert serving.caller.value("Dog", "echo", value) == value
    assert kennel.ran() == [value]


def test_an_exception_is_the_same_for_every_hook(serving: Served) -> None:
    class Retry:
        @hookimpl
        def gofer_call(self, invoke: Callable[[], Any]) -> Any:
            try:
                return invoke()
            except Exception:  # noqa: BLE001 - what is tested
                return invoke()

    serving.plugin.manager.register(Retry())
    assert serving.caller.error("Dog", "fail", "no", 3)["xstate"]["code"] == 3


def test_a_hook_may_answer_instead_of_the_method(serving: Served) -> None:
    class Cache:
        @hookimpl
        def gofer_call(self) -> str:
            return "cached"

    serving.plugin.manager.register(Cache())
    assert serving.caller.value("Dog", "echo", 1) == "cached"
    assert kennel.ran() == []


def test_a_hook_may_wrap_a_coroutine(serving: Served) -> None:
    class Slow:
        @hookimpl(wrapper=True)
        def gofer_call(self) -> Generator[None, Any, Any]:
            coroutine = yield

            async def around() -> Any:
                return ["around", await coroutine]

            return around()

    serving.plugin.manager.register(Slow())
    end = serving.caller.value("Dog", "later", 1)
    assert end[0] == "around"
    assert end[1][0] == 1
