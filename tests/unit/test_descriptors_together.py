"""What descriptors say about each other: told by ``goferd --check`` before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from gofer.agent.check import check
from gofer.agent.config import AgentConfig, check_together, read_descriptors
from gofer.messaging.url import URL, broker_of
from gofer.root import Root
from support.plugins import describe

Write = Callable[..., Path]


@pytest.fixture
def write(root: Path) -> Write:
    """Write the descriptor of an enabled plugin: more lines of [main], its URL, and its queue."""

    def write(name: str, main: str = "", url: str | None = None, queue: str | None = None) -> Path:
        text = f"[main]\nenabled=1\n{main}\n[messaging]\n" + ("" if url is None else f"url={url}\n")
        return describe(root, name, text + "[model]\n" + ("" if queue is None else f"queue={queue}\n"))

    return write


def found(root: Path) -> list[str]:
    descriptors, problems = read_descriptors(Root(root))
    assert not [problem for problem in problems if problem.severity == "error"]
    return [f"{problem.severity}: {problem}" for problem in check_together(descriptors)]


def test_a_company_that_agrees_is_not_mentioned(root: Path, write: Write) -> None:
    write("animals", "forward=dog,cat\naccept=dog", "local://", "animals")
    write("cat", "accept=*", "local:///other.sock", "animals")
    write("dog", "accept=animals\nforward=*\nextends=animals", "local://", "dogs")
    write("eel", url="local://")  # a uuid for each
    write("fox", url="local://")
    write("gnu", "accept=*")
    assert found(root) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("amqp://broker", "amqp://user:secret@broker:5672", True),
        ("amqp://broker", "amqp+tcp://Broker", True),
        ("amqps://broker", "amqps://broker:5671/", True),
        ("amqp://broker", "amqps://broker", False),
        ("amqp://broker/one", "amqp://broker/other", False),
        ("amqp://broker", "amqp://other", False),
        ("local://", "local:///else.sock", False),
    ],
)
def test_brokers_are_distinguished_by_what_leads_to_other_queues(one: str, other: str, same: bool) -> None:
    assert (broker_of(URL.parse(one)) == broker_of(URL.parse(other))) is same


def test_three_plugins_at_one_queue_are_two_errors(root: Path, write: Write) -> None:
    first = write("a", url="amqp://broker", queue="kennel")
    others = [write("b", url="amqp://me:mine@broker:5672", queue="kennel"), write("c", "", "amqp://broker", "x/kennel")]
    shown = ["amqp://me:***@broker:5672", "amqp://broker:5672"]
    assert found(root) == [
        f"error: {file}: [model] queue: 'kennel' at {url} is the queue of plugin 'a' ({first}); "
        "allowed: one plugin of an agent for each queue"
        for file, url in zip(others, shown, strict=True)
    ]


def test_a_queue_without_a_url_is_odd(root: Path, write: Write) -> None:
    file = write("dog", queue="kennel")
    (line,) = found(root)
    assert line.startswith(f"warning: {file}: [model] queue: has no effect, because [messaging] url is not set; ")


def test_forwarding_needs_both_sides(root: Path, write: Write) -> None:
    write("cat")
    dog = write("dog", "forward=cat,cow,cta\naccept=cow,cat")
    cow = describe(root, "cow", "[main]\nenabled=0\n")
    enabled = f"that plugin is not enabled; set [main] enabled = 1 in {cow}"
    accept = f"plugin 'cat' does not accept from 'dog'; add accept = dog to [main] of {cow.with_name('cat.conf')}"
    assert [line.removeprefix(f"warning: {dog}: [main] ") for line in found(root)] == [
        f"forward: nothing is forwarded to 'cat': {accept}",
        f"forward: nothing is forwarded to 'cow': {enabled}",
        "forward: nothing is forwarded to 'cta': there is no plugin 'cta'; did you mean 'cat'? enabled: cat, dog",
        f"accept: nothing comes from 'cow': {enabled}",
    ]


@pytest.mark.parametrize(
    ("extends", "says"),
    [("cow", "there is no plugin 'cow'; enabled: dog"), ("dog", "a plugin cannot extend itself")],
)
def test_what_cannot_be_extended_is_an_error(root: Path, write: Write, extends: str, says: str) -> None:
    file = write("dog", f"extends={extends}")
    (line,) = found(root)
    assert line.startswith(f"error: {file}: [main] extends: {says}")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("plugin=os", "warning: {}: [main] plugin: 'os' is a module of Python's own library; allowed: a plugin"),
        ("plugin=a..b", "error: {}: [main] plugin: 'a..b' has a dot too many; allowed: "),
        ("plugin=a.", "error: {}: [main] plugin: 'a.' has a dot too many; allowed: "),
        ("authenticator=../x", "error: {}: [messaging] authenticator: '../x' is neither a name nor "),
        ("authenticator=a b", "error: {}: [messaging] authenticator: 'a b' is neither a name nor "),
        ("authenticator=no.Such", "error: {}: [messaging] authenticator: there is no module 'no' for "),
        ("authenticator=nosuch", "error: {}: [messaging] authenticator: no authenticator 'nosuch' is "),
    ],
)
def test_odd_names_are_reported(root: Path, capsys: pytest.CaptureFixture[str], line: str, says: str) -> None:
    more = f"{line}\n" if line.startswith("plugin") else f"plugin=json\n[messaging]\n{line}\n"
    file = describe(root, "one", f"[main]\nenabled=1\n{more}")
    check(Root(root), AgentConfig(), [])
    assert [told for told in capsys.readouterr().out.splitlines() if told.startswith(says.format(file))]
