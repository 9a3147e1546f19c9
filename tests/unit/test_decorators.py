"""Decorators put a mark on a function, and nothing else; wrong use raises at import, with the function's name."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
from gofer.decorators import (
    DIRECT,
    FORK,
    Action,
    Login,
    Mark,
    action,
    direct,
    fork,
    initializer,
    load,
    mark_of,
    once,
    pam,
    remote,
    unload,
    user,
)


def marked(*decorators: Callable[[Any], Any]) -> Mark:
    """The mark that these leave on a function, the last one applied first, as Python does."""

    def function() -> str:
        return "as it was"

    decorated: Any = function
    for decorator in reversed(decorators):
        decorated = decorator(decorated)
    assert decorated is function
    assert decorated() == "as it was"
    found = mark_of(decorated)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("decorator", "mark"),
    [
        (remote, Mark(remote=True)),
        (remote(), Mark(remote=True)),
        (remote(secret="s"), Mark(remote=True, secret="s")),
        (remote(secret=["a", "b"]), Mark(remote=True, secret=["a", "b"])),
        (remote(model=FORK, timeout=5), Mark(remote=True, model=FORK, timeout=5.0)),
        (direct, Mark(model=DIRECT)),
        (fork, Mark(model=FORK)),
        (once, Mark(once=True)),
        (load, Mark(load=True)),
        (load(fork=True), Mark(load=True, load_in_fork=True)),
        (initializer, Mark(load=True)),
        (initializer(), Mark(load=True)),
        (unload, Mark(unload=True)),
        (unload(), Mark(unload=True)),
        (direct(), Mark(model=DIRECT)),
        (fork(), Mark(model=FORK)),
        (once(), Mark(once=True)),
        (pam("root"), Mark(logins=(Login("root"),))),
        (pam("root", "su"), Mark(logins=(Login("root", "su"),))),
        (pam("root", service="su"), Mark(logins=(Login("root", "su"),))),
        (user("root"), Mark(logins=(Login("root"),))),
        (action(minutes="240"), Mark(action=Action(14400.0))),
        (action(hours="0.5", seconds="1"), Mark(action=Action(1801.0))),
        (pam(user="root"), Mark(logins=(Login("root"),))),
        (pam(user="root", identity=True), Mark(logins=(Login("root", identity=True),))),
        (user(name="root", service="su"), Mark(logins=(Login("root", "su"),))),
        (action, Mark(action=Action())),
        (action(minutes=1, seconds=30), Mark(action=Action(90.0))),
        (action(weeks=1, splay=60), Mark(action=Action(604800.0, None, 60))),
        (action(cron="0 4 * * *", splay=0), Mark(action=Action(None, "0 4 * * *", 0))),
    ],
)
def test_each_leaves_its_mark(decorator: Callable[[Any], Any], mark: Mark) -> None:
    assert marked(decorator) == mark


@pytest.mark.parametrize("order", list(permutations([remote(secret="s"), fork, once, user(name="root")])))
def test_they_are_stacked_in_any_order(order: tuple[Callable[[Any], Any], ...]) -> None:
    assert marked(*order) == Mark(remote=True, secret="s", model=FORK, once=True, logins=(Login("root"),))


def test_logins_add_up() -> None:
    assert {login.user for login in marked(user(name="root"), pam(user="guest")).logins} == {"root", "guest"}


def test_methods_static_and_class_methods_and_coroutines_are_marked() -> None:
    class Dog:
        @remote
        def bark(self) -> None: ...

        @remote
        @staticmethod
        def sit() -> None: ...

        @classmethod
        @remote
        def breed(cls) -> None: ...

        @remote
        async def sleep(self) -> None: ...

        def hidden(self) -> None: ...

    for name in ("bark", "sit", "breed", "sleep"):
        assert mark_of(vars(Dog)[name]) == Mark(remote=True), name
        assert mark_of(getattr(Dog(), name)) == Mark(remote=True), name
    assert mark_of(Dog.hidden) is None
    assert mark_of("no function at all") is None


def test_a_function_that_was_not_decorated_has_no_part_in_its_neighbours_mark() -> None:
    def one() -> None: ...

    def other() -> None: ...

    remote(secret="s")(one)
    remote(other)

    assert mark_of(other) == Mark(remote=True)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (remote(model="spoon"), "model is 'spoon', allowed: 'direct', 'fork'"),
        (remote(secret=7), "secret is text"),  # type: ignore[arg-type]  # that is the point
        (remote(secret=[]), "secret is text"),
        (remote(timeout=0), "timeout is a number of seconds above 0, not 0"),
        (remote(timeout=True), "timeout is a number of seconds above 0, not True"),
        (lambda f: fork(direct(f)), "it is 'direct' already"),
        (lambda f: remote(secret="a")(remote(secret="b")(f)), "secret is given twice"),
        (lambda f: action(hours=1)(action(days=1)(f)), "action is given twice"),
        (action(seconds=-1), "seconds is a number, 0 or more, not -1"),
        (action(minutes="often"), "minutes is a number, 0 or more, not 'often'"),
        (action(minutes="inf"), "minutes is a number, 0 or more, not 'inf'"),
        (action(minutes=""), "minutes is a number, 0 or more, not ''"),
        (action(minuts=5), "unexpected keyword argument 'minuts'; it takes seconds, minutes"),  # type: ignore[call-overload]  # as above
        (action(90), "too many positional arguments; it takes seconds, minutes"),  # type: ignore[call-overload]  # as above
        (remote(secrt="s"), "unexpected keyword argument 'secrt'; it takes secret, model, timeout"),  # type: ignore[call-overload]  # as above
        (remote("s"), "too many positional arguments; it takes secret"),  # type: ignore[type-var]  # as above
        (fork(timeout=1), "unexpected keyword argument 'timeout'; it takes none"),  # type: ignore[call-overload]  # as above
        (pam(), "missing a required argument: 'user'; it takes user, service, identity"),  # type: ignore[call-overload]  # as above
        (pam(name="root"), "missing a required argument: 'user'; it takes user, service, identity"),  # type: ignore[call-overload]  # as above
        (pam, "@pam on "),
        (lambda f: user(staticmethod(f)), "missing a required argument: 'name'"),
        (action(cron="often"), "cron 'often' has not five fields"),
        (action(cron="0 25 * * *"), "cron '0 25 * * *' hour is '25': '25' is not in 0-23"),
        (action(cron=5), "cron is a line of five fields"),  # type: ignore[call-overload]  # as above
        (action(seconds=0.001), "an interval is 0.01 seconds to 10 years, not 0.001 seconds"),
        (action(hours=1, splay=-1), "splay is a number of seconds, 0 or more, not -1"),
        (action(cron="* * * * *", hours=1), "given without an interval"),
        (pam(user=""), "user is a user's name, not ''"),
        (pam(user="root", identity="yes"), "identity is True or False, not 'yes'"),  # type: ignore[arg-type]  # so it is refused
        (user(name="root", service=""), "service is the name of a PAM service, not ''"),
    ],
)
def test_wrong_use_is_reported_with_the_functions_name(wrong: Callable[[Any], Any], says: str) -> None:
    def feed() -> None: ...

    with pytest.raises(TypeError) as caught:
        wrong(feed)

    assert says in str(caught.value)
    assert "feed" in str(caught.value)


@pytest.mark.parametrize("decorator", [remote, fork, load, unload, action, user(name="root")])
def test_they_go_on_functions_alone(decorator: Callable[[Any], Any]) -> None:
    class Dog: ...

    for target in (Dog, object(), property(lambda self: 1)):
        with pytest.raises(TypeError):
            decorator(target)
