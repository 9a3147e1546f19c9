"""Expressions that say which machines are meant: what they mean, what is refused, and that none takes long."""

from __future__ import annotations

import time
from typing import Any

import pytest
from gofer.errors import ConfigError
from gofer.targets import Targets
from hypothesis import given
from hypothesis import strategies as st

CARD: dict[str, Any] = {
    "name": "web-1",
    "address": "exchange/web-1",
    "groups": ["web", "eu"],
    "version": "3.1.0",
    "plugins": {
        "dogs": {"version": "1.10", "address": "web-1", "classes": ["Dog", "Cat"]},
        "cats": {"version": None, "address": None, "classes": []},
    },
    "facts": {
        "os": {"id": "debian", "version": "12", "kernel": "6.1.0-18-amd64"},
        "cpus": 4,
        "load": 0.25,
        "vm": True,
        "none": None,
        "disks": ["sda", "sdb"],
        "brackets": "a[1]",
    },
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "all",
        "name=web-1",
        "name=web-*",
        "name=web-?",
        "name=db,web-1",
        "name!=db,mail",
        "name~eb",
        "address=exchange/web-1",
        "group=web",
        "group=db,eu",
        "group!=db",
        "gofer>=3.1",
        "plugin=dogs",
        "plugin.dogs",
        "plugin.cats",
        "plugin.dogs>1.9",
        "plugin.dogs>=1.10rc1",
        "plugin.dogs<1.10.1",
        "class=Cat",
        "facts.os.id=debian",
        'facts.os.id="debian"',
        "facts.os.id='debian'",
        "facts.os.kernel~amd64",
        "facts.os.kernel>=6.1",
        "facts.cpus=4",
        "facts.cpus>3",
        "facts.load<0.3",
        "facts.vm",
        "facts.vm=true",
        "facts.disks=sdb",
        "facts.disks!=sdc",
        "facts.brackets=a[1]",
        "not facts.gone",
        "not facts.none",
        "group=web and facts.os.id=debian and plugin.dogs>=1.2 and not name~test-",
        "group=db or group=web",
        "not (group=db or group=mail)",
        "group=db and group=mail or name=web-1",
        "not not all",
    ],
)
def test_what_means_the_machine(text: str) -> None:
    assert Targets(text).matches(CARD)
    assert not Targets(f"not ({text or 'all'})").matches(CARD)


@pytest.mark.parametrize(
    "text",
    [
        "name=web",
        "group=w*b and group=db",
        "plugin.dogs>1.10",
        "plugin.dogs>=1.11",
        "plugin.birds",
        "plugin.birds>=0",
        "facts.cpus>4",
        "facts.cpus>many",
        "facts.os.id>1",  # a word is no version
        "facts.os=debian",
        "facts.os.id.more=debian",
        "facts.gone",
        "facts.gone=1",
        "facts.brackets=a1",
        "group=db and (group=mail or name=web-1)",
    ],
)
def test_what_does_not_mean_it(text: str) -> None:
    assert not Targets(text).matches(CARD)


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ("group=", 7, "expected a value"),
        ("group=web nad x", 11, "expected 'and', 'or', or the end"),
        ("(group=web", 11, "expected ')'"),
        ("group=web)", 10, "expected 'and'"),
        ("nme=3", 1, "no such thing to test: 'nme'; allowed: name, address, group"),
        ("facts.=3", 1, "no such thing"),
        ("name='web", 6, "a quote that is not closed"),
        ("name=web,", 10, "expected a value"),
        ("name ! web", 6, "not expected here"),
        ("and", 1, "expected a test"),
        ("not " * 40 + "all", 133, "more than 32"),
        (" or ".join(["facts.a"] * 200), 1409, "more than 128 tests"),
    ],
)
def test_what_is_refused_points_to_its_place(text: str, at: int, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Targets(text)
    first, excerpt, pointer = str(refused.value).split("\n")
    assert words in first
    assert first.endswith(f"at character {at}:")
    rest = " ".join(text.split())[at - 1 :]
    assert excerpt[pointer.index("^") :] == rest[:30]


def test_a_long_expression_is_refused() -> None:
    with pytest.raises(ConfigError, match="1000000 characters; allowed: 4096"):
        Targets("x" * 1_000_000)


def test_what_takes_longest_is_quick() -> None:
    card = {**CARD, "facts": {"text": "a" * 100_000, "many": ["a" * 1000] * 10_000}}
    text = " or ".join(f"facts.many={'*a' * 10}b{n}" for n in range(60)) + " or facts.text=" + "*a" * 100 + "b"
    begin = time.process_time()
    assert not Targets(text).matches(card)
    assert time.process_time() - begin < 5  # with backtracking it would take years


@given(st.text(max_size=60) | st.text("()=!~<>,'\" andornotgroupfactsname.x", max_size=60))
def test_any_text_is_read_or_refused_and_reads_the_same_again(text: str) -> None:
    try:
        targets = Targets(text)
    except ConfigError:
        return
    targets.matches(CARD)
    assert Targets(str(targets)).matches(CARD) == targets.matches(CARD)


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("group=web", "web"),
        ("group=web and name=x", "web"),
        ("name=x and group=web", "web"),
        ("group=web or name=x", None),
        ("not group=web", None),
        ("group=web,db", None),
        ("group=we*", None),
        ("all", None),
    ],
)
def test_a_group_that_all_are_in_is_asked_alone(text: str, group: str | None) -> None:
    assert Targets(text).group == group
