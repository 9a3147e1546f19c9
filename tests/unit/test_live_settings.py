"""A plugin's settings as its code has them: read as gofer 2.12 had them, and set."""

from __future__ import annotations

from pathlib import Path

import pytest
from gofer.agent.config import Descriptor, LiveSettings, read_descriptor, redescribe
from gofer.errors import ConfigError
from gofer.root import Root

INI = "[main]\nenabled=1\n[foobar]\ntimeout=100\nMixedCase=x\nget=y\n"


def described(root: Path, text: str, name: str = "dog.conf") -> Descriptor:
    path = root / "etc/gofer/plugins" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    descriptor, problems = read_descriptor(Root(root), path)
    assert descriptor is not None, problems
    return descriptor


def live(root: Path, text: str = INI) -> LiveSettings:
    descriptor = described(root, text)
    return LiveSettings(str(descriptor.file), descriptor.sections)


def test_they_are_read_by_attribute_by_call_and_by_item(root: Path) -> None:
    cfg = live(root)

    assert cfg.foobar.timeout == cfg().foobar.timeout == cfg["foobar"]["timeout"] == "100"
    assert (cfg.foobar.MixedCase, cfg.foobar.get, cfg.main.enabled) == ("x", "y", "1")
    assert ("foobar" in cfg, "nothing" in cfg, "messaging" in cfg, len(cfg)) == (True, False, False, 2)
    assert ("timeout" in cfg.foobar, "x" in cfg.foobar, "threads" in cfg.main, len(cfg.foobar)) == (
        True,
        False,
        False,
        3,
    )
    assert "timeout" in dir(cfg.foobar)
    assert "foobar" in dir(cfg)


def test_what_is_missing_is_none_and_what_gofer_knows_has_its_default(root: Path) -> None:
    cfg = live(root)

    assert cfg.foobar.nothing is None
    assert cfg.nothing.at_all is None
    assert not cfg.nothing
    assert (cfg.main.threads, cfg.main.latency, cfg.main.plugin, cfg.main.accept) == ("1", "0", None, None)
    assert (cfg.messaging.heartbeat, cfg.messaging.host_validation, cfg.messaging.url) == ("10", "1", None)
    assert (cfg.model.managed, cfg["main"]["threads"]) == ("2", "1")
    with pytest.raises(KeyError, match=r"no section 'nothing' in .*/dog\.conf; it has: main, foobar"):
        _ = cfg["nothing"]
    with pytest.raises(KeyError, match=r"no 'nothing' in \[foobar\] of .*/dog\.conf; it has: timeout, MixedCase, get"):
        _ = cfg["foobar"]["nothing"]
    assert "nothing" not in cfg  # looking made none
    assert [name for name, _ in cfg] == ["main", "foobar"]


def test_iteration_gives_pairs(root: Path) -> None:
    cfg = live(root)

    assert {name: dict(section) for name, section in cfg} == {
        "main": {"enabled": "1"},
        "foobar": {"timeout": "100", "MixedCase": "x", "get": "y"},
    }
    assert dict(cfg)["foobar"] is cfg.foobar
    assert sorted(cfg.foobar) == [("MixedCase", "x"), ("get", "y"), ("timeout", "100")]


def test_values_and_sections_are_set_and_deleted(root: Path) -> None:
    cfg = live(root)

    cfg.model.queue = "q"
    cfg.foobar["color"] = "red"
    cfg.mine = {"a": 1}
    cfg["yours"] = {"b": 2}
    del cfg.foobar.timeout
    del cfg.foobar["get"]

    assert {name: dict(section) for name, section in cfg} == {
        "main": {"enabled": "1"},
        "foobar": {"MixedCase": "x", "color": "red"},
        "model": {"queue": "q"},
        "mine": {"a": 1},
        "yours": {"b": 2},
    }
    with pytest.raises(AttributeError, match="no 'nothing' in"):
        del cfg.foobar.nothing
    with pytest.raises(TypeError, match=r"section 'mine' of .* is a mapping of names to values, not 5"):
        cfg.mine = 5


def test_a_section_that_was_looked_at_before_is_the_one_that_is_set(root: Path) -> None:
    cfg = live(root)
    section = cfg.later

    section.a = 1

    assert cfg.later.a == 1
    assert "later" in cfg


def test_those_of_json_keep_their_types(root: Path) -> None:
    descriptor = described(root, '{"main": {"threads": 2}, "own": {"n": 1, "none": null}}', "dog.json")
    cfg = LiveSettings(str(descriptor.file), descriptor.sections, texts=False)

    assert (cfg.main.threads, cfg.main.latency, cfg.messaging.host_validation, cfg.own.n) == (2, 0.0, True, 1)
    assert dict(cfg.own) == {"n": 1, "none": None}


def test_they_show_no_values(root: Path) -> None:
    cfg = live(root, "[main]\n[messaging]\nurl=amqp://u:hunter2@h\n")

    assert "url" in repr(cfg.messaging)
    assert "hunter2" not in repr(cfg) + repr(cfg.messaging) + str(cfg)


def test_the_descriptor_itself_stays_as_it_is(root: Path) -> None:
    descriptor = described(root, INI)
    cfg = LiveSettings(str(descriptor.file), descriptor.sections)

    cfg.foobar.timeout = "5"

    assert descriptor.sections["foobar"]["timeout"] == "100"


def test_changed_sections_are_described_and_checked_as_a_file_is(root: Path) -> None:
    descriptor = described(root, INI)

    found, _ = redescribe(descriptor.file, {"main": {}, "messaging": {"url": "amqp://h", "heartbeat": 5}})
    assert (str(found.url), found.heartbeat, found.name) == ("amqp://h:5672", 5.0, "dog")
    with pytest.raises(ConfigError) as caught:
        redescribe(descriptor.file, {"main": {}, "messaging": {"url": "nope://h"}, "model": {"managed": 7}})
    assert len(str(caught.value).splitlines()) == 2
    assert "[messaging] url" in str(caught.value)
