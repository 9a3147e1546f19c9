"""Rules of access: what they cover, whom they mean, and how they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from gofer.agent.config import read_agent, read_descriptor
from gofer.rmi.server.access import Access, Rule, why_denied
from gofer.root import Root

GROUPS = {"ops": frozenset({"alice", "@ops"}), "empty": frozenset[str]()}


@pytest.mark.parametrize(
    ("called", "classname", "method", "covers"),
    [
        ("Dog.bark", "Dog", "bark", True),
        ("Dog.bark", "dog", "bark", False),
        ("Dog.bark", "Dog", "barks", False),
        ("Dog.bark", "Dog@2", "bark", False),
        ("Dog@2.bark", "Dog@2", "bark", True),
        ("Dog*.bark", "Dog@2", "bark", True),
        ("Dog.*", "Dog", "", True),
        ("Dog.*", "Dog.x", "bark", False),
        ("*.bark", "a.b", "bark", True),
        ("*.b?rk", "Dog", "bark", True),
        ("*.b?rk", "Dog", "brk", False),
        ("*", "", "\n", True),
        ("*.*", "Dog\n", "b\nark", True),
        ("Dog.b.rk", "Dog", "bark", False),
        ("a.b.c", "a.b", "c", True),
    ],
)
def test_a_rule_covers_what_its_two_patterns_match(called: str, classname: str, method: str, covers: bool) -> None:
    assert Rule.is_valid(called)
    assert Rule(called, ("alice",)).covers(classname, method) is covers


@pytest.mark.parametrize(
    "called", ["", "bark", "Dog.", ".bark", "Dog.[a]", "Dog bark", "Dog.b ark", "Dog.bark\n", "(.*"]
)
def test_anything_else_is_no_rule(called: str) -> None:
    assert not Rule.is_valid(called)


@pytest.mark.parametrize(
    ("who", "identity", "word"),
    [
        (("alice",), "alice", "alice"),
        (("alice",), "Alice", None),
        (("bob", "@ops"), "alice", "@ops"),
        (("@ops",), "bob", None),
        (("@ops",), "@ops", "@ops"),  # a member by that name
        (("@empty",), "@empty", None),  # an identity that looks like a group is none
        (("@nobody",), "alice", None),
        (("*",), "alice", "*"),
        (("*",), "*", "*"),
        (("*",), None, None),
        (("anonymous",), None, "anonymous"),
        (("@ops", "alice"), None, None),
        (("alice",), "*", None),
    ],
)
def test_a_rule_means_those_whom_it_names(who: tuple[str, ...], identity: str | None, word: str | None) -> None:
    assert Rule("*", who).names(identity, GROUPS) == word


def test_all_plugins_that_have_rules_must_allow_a_call() -> None:
    access = Access({"dog": (Rule("Dog.*", ("*",)),), "cat": (Rule("*", ("bob",)),), "shut": ()}, GROUPS)
    assert access.refusing(["dog"], "alice", "Dog", "bark") is None
    assert access.refusing(["dog", "open"], "alice", "Dog", "bark") is None
    assert access.refusing(["open", "dog", "cat"], "alice", "Dog", "bark") == "cat"
    assert access.refusing(["dog", "cat"], "bob", "Dog", "bark") is None
    assert access.refusing(["dog"], None, "Dog", "bark") == "dog"
    assert access.refusing(["shut"], "bob", "Dog", "bark") == "shut"
    verdict = access.explain("dog", "alice", "Dog", "bark")
    assert (verdict.allowed, verdict.word, verdict.about == verdict.theirs) == (True, "*", True)
    assert access.explain("open", None, "Dog", "bark").allowed


def test_however_many_names_are_asked_for_each_is_decided_and_few_are_remembered() -> None:
    access = Access({"dog": (Rule("Dog.*", ("bob",)),)})
    for number in range(5000):
        assert access.refusing(["dog"], "bob", f"Cat{number}", "bark") == "dog"
        assert access.refusing(["dog"], "bob", "Dog", f"bark{number}") is None
    assert len(access._decided) <= 1000


def test_why_names_who_must_do_what() -> None:
    told = why_denied("alice", "dog", "Dog.bark", Path("/etc/dog.conf"))
    assert "no rule lets 'alice' call Dog.bark of plugin 'dog'" in told
    assert "operator adds `Dog.bark = alice` to [access] in /etc/dog.conf, and reloads" in told
    assert "the request is not signed" in why_denied(None, "dog", "Dog.bark", "x")
    assert len(why_denied("a" * 5000, "dog", "Dog.bark", "x")) < 500


def test_rules_are_read_with_their_lines(root: Path) -> None:
    file = root / "etc/gofer/plugins/dog.conf"
    file.write_text(
        "[main]\nenabled=1\n[access]\n# who\nDog.* = alice,\n  bob\n\n  Cat.* = @ops\n* : anonymous\nDog.* = carol, *\n"
    )
    found, problems = read_descriptor(Root(root), file)
    assert found is not None
    assert found.access is not None
    assert [(one.called, one.who, one.line) for one in found.access] == [
        ("Dog.*", ("carol", "*"), 10),
        ("Cat.*", ("@ops",), 8),
        ("*", ("anonymous",), 9),
    ]
    assert ["the key is there twice" in one.text for one in problems] == [True]
    other = root / "etc/gofer/plugins/dog.json"
    other.write_text(
        '{"main": {"enabled": true}, "access": {"Dog.*": ["carol", "*"], "Cat.*": "@ops", "*": ["anonymous"]}}'
    )
    same, _ = read_descriptor(Root(root), other)
    assert same is not None
    assert same.access == found.access
    assert [one.line for one in same.access or ()] == [None] * 3


def test_a_descriptor_with_other_rules_differs_in_these_alone(root: Path) -> None:
    file, text = root / "etc/gofer/plugins/dog.conf", "[main]\nenabled=1\n"

    def read(more: str) -> object:
        file.write_text(text + more)
        return read_descriptor(Root(root), file)[0]

    plain, ruled, other = read(""), read("[access]\nDog.* = bob\n"), read("timeout = 3\n[access]\nDog.* = bob\n")
    moved = read("\n\n[access]\nDog.* = bob\n")
    assert ruled == moved
    assert [ruled.differs_in_access_alone(one) for one in (plain, ruled, moved, other)] == [True, False, False, False]  # type: ignore[attr-defined]  # they are descriptors


@pytest.mark.parametrize("section", ["[Access]", "[acess]", "[ACCESS]", "[acccess]"])
def test_a_slip_in_the_section_s_name_keeps_the_plugin_from_being_open(root: Path, section: str) -> None:
    file = root / "etc/gofer/plugins/dog.conf"
    file.write_text(f"[main]\nenabled=1\n{section}\nDog.* = bob\n")
    found, problems = read_descriptor(Root(root), file)
    assert found is None
    assert "if it is meant to be [access], rename it" in str(problems[0])


def test_groups_are_read_from_all_files_and_only_from_safe_ones(root: Path) -> None:
    conf, more = root / "etc/gofer/agent.conf", root / "etc/gofer/conf.d/10.conf"
    conf.write_text("[groups]\nops = alice, bob\nweb = carol\nbad = @ops\nworse = anonymous\nblank =\n")
    more.write_text("[groups]\nweb = dave\n")
    config, problems = read_agent(Root(root))
    assert config.groups == {"ops": {"alice", "bob"}, "web": {"dave"}}
    assert [(one.severity, one.key) for one in problems] == [("error", "blank"), ("error", "bad"), ("error", "worse")]
    more.chmod(0o666)
    config, problems = read_agent(Root(root))
    assert config.groups["web"] == {"carol"}
    assert next(one.text for one in problems if one.file == str(more)).endswith(f"Fix: chmod go-w {more}")
