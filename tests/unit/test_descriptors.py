"""Descriptors: what is read from good ones, the one line said about each broken one, and that its neighbour lives."""

from __future__ import annotations

import copy
import json
import os
import pickle
import pwd
import re
import shutil
import socket
import stat
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gofer.agent.config import (
    Descriptor,
    MessagingConfig,
    Problem,
    asks_to_be_required,
    find_plugin_dirs,
    read_descriptor,
    read_descriptors,
    read_url_file,
    ruled_plugin,
    stable_uuid,
)
from gofer.errors import ConfigError
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.ownership import distrust
from gofer.root import Root
from hypothesis import given
from hypothesis import strategies as st

GOOD = "[main]\nenabled=1\n[messaging]\nurl=amqp://localhost\n[model]\nqueue=good\n"
NAME = "letters, digits, '_', '-' and '.', not starting with '-' or '.', at most 100 of them"
NAMES = "plugin names with commas between, or * for all"
URL_SHAPE = (
    "[adapter+]protocol://[user[:password]@]host[:port][/virtual-host], "
    "protocols amqp, amqps, ssl, tcp; or local:// or local:///path/to.sock"
)
SECONDS = "seconds, or a number followed by s, m, h or d, like 30s or 5m"
ADDRESS = "<queue> or <exchange>/<queue>, each at most 255 bytes"
FLAG = "0, 1, yes, no, true, false, on, off"
REGULAR = "a regular file, or a link to one"
MAIN_KEYS = (
    "name, plugin, enabled, threads, latency, timeout, max_age, typed, accept, forward, extends, admin, trust, required"
)
MESSAGING_KEYS = "url, url_file, authenticator, cacert, clientcert, clientkey, host_validation, heartbeat, audience"
SPACE = "has a space in it, which callers must write, too; remove it if that is not meant"


@pytest.fixture
def plugins(root: Path) -> Path:
    """The directory of the descriptors, with a good one in it."""
    directory = Root(root).descriptors
    write(directory / "good.conf", GOOD)
    return directory


def write(path: Path, content: str | bytes | object) -> Path:
    """Write a file that others cannot write to, whatever the umask: text, bytes, or an object as JSON."""
    if isinstance(content, str):
        content = content.encode()
    elif not isinstance(content, bytes):
        content = json.dumps(content).encode()
    path.write_bytes(content)
    path.chmod(0o644)
    return path


def read(root: Path) -> tuple[dict[str, Descriptor], list[Problem]]:
    """Read all descriptors, by plugin name."""
    descriptors, problems = read_descriptors(Root(root))
    return {descriptor.name: descriptor for descriptor in descriptors}, problems


def read_one(plugins: Path, content: str | object, name: str = "dog") -> tuple[Descriptor, list[str]]:
    """Write and read a descriptor that has no errors; return it with the lines said about it."""
    path = write(plugins / f"{name}{'.conf' if isinstance(content, str) else '.json'}", content)
    descriptor, problems = read_descriptor(Root(plugins.parents[2]), path)
    assert descriptor is not None, [str(problem) for problem in problems]
    assert {problem.severity for problem in problems} <= {"warning"}
    return descriptor, [str(problem).removeprefix(f"{path}: ") for problem in problems]


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Be somebody whom file permissions concern: root lends itself to user 65534 for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# -- good ones -----------------------------------------------------------------------------------------------------


def test_a_descriptor_that_says_little_has_the_documented_defaults(plugins: Path) -> None:
    dog, said = read_one(plugins, "[main]\n")

    assert said == []
    assert dog == Descriptor(
        file=plugins / "dog.conf",
        name="dog",
        entry="dog",
        plugin=None,
        enabled=False,
        threads=1,
        latency=0.0,
        timeout=None,
        max_age=None,
        accept=(),
        forward=(),
        extends=None,
        admin=None,
        trust=(),
        required=False,
        url=None,
        url_file=None,
        authenticator=None,
        cacert=None,
        clientcert=None,
        clientkey=None,
        host_validation=True,
        heartbeat=10.0,
        audience=(),
        managed=2,
        queue=None,
        exchange="",
        expiration=None,
        exclusive=False,
        prefetch=200,
        kind="classic",
        sections={"main": {}},
    )


EVERYTHING = {
    "main": {
        "name": "rex",
        "plugin": "zoo.dogs",
        "enabled": "1",
        "threads": "4",
        "latency": "1.5",
        "timeout": "5m",
        "max_age": "7d",
        "accept": "*",
        "forward": "cat, bird,cat",
        "extends": "animals",
        "admin": "alice, bob",
        "trust": "bird",
        "required": "yes",
    },
    "messaging": {
        "url": "amqp+amqps://user:p%40ss@broker.example/zoo",
        "authenticator": "zoo.auth.Hmac",
        "cacert": "ca.pem",
        "clientcert": "client.pem",
        "clientkey": "keys/client.pem",
        "host_validation": "no",
        "heartbeat": "20s",
        "audience": "zoo/rex, rex",
    },
    "model": {
        "managed": "1",
        "queue": "zoo/dogs",
        "expiration": "1d",
        "exclusive": "Yes",
        "prefetch": "10",
        "type": "Quorum",
    },
}
TYPED = {
    "main": {
        "enabled": True,
        "threads": 4,
        "latency": 1.5,
        "timeout": 300,
        "max_age": 604800,
        "accept": ["*"],
        "forward": ["cat", "bird"],
        "trust": ["bird"],
        "required": True,
    },
    "messaging": {"host_validation": False, "heartbeat": 20},
    "model": {"managed": 1, "expiration": 86400, "exclusive": 1, "prefetch": 10},
}


def ini(sections: dict[str, dict[str, str]]) -> str:
    """Write sections as an ini file."""
    return "".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items()) for name, keys in sections.items()
    )


@pytest.mark.parametrize("form", ["ini", "json of text", "json of types"])
def test_every_key_is_read_from_either_kind_of_file(plugins: Path, form: str) -> None:
    for name in ("ca.pem", "client.pem"):
        write(plugins / name, "")
    (plugins / "keys").mkdir()
    write(plugins / "keys/client.pem", "")
    content: str | object = ini(EVERYTHING)
    if form == "json of text":
        content = EVERYTHING
    elif form == "json of types":
        content = {name: keys | TYPED[name] for name, keys in EVERYTHING.items()}
    dog, said = read_one(plugins, content)

    assert said == []
    assert (dog.name, dog.entry, dog.plugin, dog.enabled) == ("rex", "dog", "zoo.dogs", True)
    assert (dog.threads, dog.latency, dog.timeout, dog.max_age) == (4, 1.5, 300.0, 604800.0)
    assert (dog.accept, dog.forward, dog.extends, dog.admin) == (("*",), ("cat", "bird"), "animals", ("alice", "bob"))
    assert (dog.trust, dog.required) == (("bird",), True)
    assert dog.url == URL("broker.example", "amqps", "amqp", 5671, "user", "p@ss", "zoo")
    assert (dog.authenticator, dog.audience) == ("zoo.auth.Hmac", ("zoo/rex", "rex"))
    assert (dog.managed, dog.queue, dog.exchange) == (1, Address("zoo", "dogs"), "zoo")
    assert (dog.expiration, dog.exclusive, dog.prefetch, dog.kind) == (86400.0, True, 10, "quorum")
    assert dog.connector(MessagingConfig("proton", 2.0, 1 << 20)) == Connector(
        url=URL("broker.example", "amqps", "amqp", 5671, "user", "p@ss", "zoo"),
        cacert=str(plugins / "ca.pem"),
        clientcert=str(plugins / "client.pem"),
        clientkey=str(plugins / "keys/client.pem"),
        host_validation=False,
        heartbeat=20.0,
        adapter="proton",
        reconnect_max=2.0,
        max_message=1 << 20,
        proxy="",
    )


def test_blank_keys_of_a_template_count_as_not_given(plugins: Path) -> None:
    dog, said = read_one(plugins, "[main]\nenabled=\nthreads=\n[messaging]\nurl=\nuuid=\n[model]\nqueue=\n")

    assert (said, dog.enabled, dog.threads, dog.url, dog.queue) == ([], False, 1, None, None)


def test_a_value_is_everything_behind_the_first_equals_sign(plugins: Path) -> None:
    dog, said = read_one(plugins, "[main]\n[messaging]\nurl=amqp://u:%25#;=%20@host\n[x]\ny=%(z)s #1\n")

    assert said == ["[x] y: has a comment after its value, which becomes part of it; write comments on their own lines"]
    assert dog.url is not None
    assert dog.url.password == "%#;= "
    assert dog.sections["x"]["y"] == "%(z)s #1"


def test_without_a_url_there_is_no_connector_until_the_plugin_brings_one(plugins: Path) -> None:
    dog, _ = read_one(plugins, "[main]\n[messaging]\nheartbeat=3\n")

    assert dog.connector(url=URL.parse("amqp://elsewhere")) == Connector(
        URL.parse("amqp://elsewhere"), heartbeat=3.0, proxy=""
    )
    with pytest.raises(ConfigError, match=r"dog\.conf: \[messaging\] url: is not given, and plugin 'dog' has set none"):
        dog.connector()


@pytest.mark.parametrize(
    ("keys", "queue", "exchange", "said"),
    [
        ({"model": {"queue": "q"}}, Address("", "q"), "", []),
        ({"model": {"queue": "ex/q"}}, Address("ex", "q"), "ex", []),
        (
            {"messaging": {"uuid": "old"}},
            Address("", "old"),
            "",
            ["[messaging] uuid: is deprecated; write [model] queue instead"],
        ),
        (
            {"messaging": {"uuid": "old"}, "model": {"queue": "new"}},
            Address("", "new"),
            "",
            [
                "[messaging] uuid: is deprecated; write [model] queue instead",
                "[messaging] uuid: is not used, because [model] queue is given",
            ],
        ),
        (
            {"messaging": {"exchange": "ex"}, "model": {"queue": "q"}},
            Address("ex", "q"),
            "ex",
            ["[messaging] exchange: is deprecated; write [model] queue as <exchange>/<queue> instead"],
        ),
        (
            {"model": {"exchange": "ex", "queue": "q"}},
            Address("ex", "q"),
            "ex",
            ["[model] exchange: is deprecated; write [model] queue as <exchange>/<queue> instead"],
        ),
        (
            {"model": {"exchange": "ex"}},
            None,
            "ex",
            ["[model] exchange: is deprecated; write [model] queue as <exchange>/<queue> instead"],
        ),
        (
            {"model": {"exchange": "other", "queue": "ex/q"}},
            Address("ex", "q"),
            "ex",
            [
                "[model] exchange: is deprecated; write [model] queue as <exchange>/<queue> instead",
                "[model] exchange: is not used, because the exchange is 'ex' already",
            ],
        ),
    ],
)
def test_old_ways_to_name_the_queue_still_work_and_the_new_one_wins(
    plugins: Path, keys: dict[str, dict[str, str]], queue: Address | None, exchange: str, said: list[str]
) -> None:
    dog, lines = read_one(plugins, {"main": {}} | keys)

    assert (dog.queue, dog.exchange, lines) == (queue, exchange, said)


def test_only_conf_and_json_files_that_are_not_hidden_are_descriptors(root: Path, plugins: Path) -> None:
    for name in (".hidden.conf", "good.conf~", "good.conf.rpmsave", "README", "a.json"):
        write(plugins / name, '{"main": {}}' if name == "a.json" else "junk")

    found, problems = read(root)
    assert list(found) == ["a", "good"]
    assert [str(one) for one in problems] == [
        f"{plugins / 'README'}: is not read; allowed: names that end in .conf or .json"
    ]


def test_a_file_that_looks_like_a_descriptor_and_is_none_is_reported(root: Path, plugins: Path) -> None:
    for name in ("foo.yaml", "foo.CONF", "foo.conf.txt", "foo", "foo.py", "key.pem", "ca", ".cache", "a.conf.bak"):
        write(plugins / name, "[main]\nenabled=1\n")
    (plugins / "more").mkdir()
    (plugins / "authorities").mkdir()
    write(plugins / "dog.conf", "[main]\n[messaging]\nclientcert=key.pem\ncacert=./ca\n[x]\ndirectory=authorities\n")

    found, problems = read(root)
    assert list(found) == ["dog", "good"]
    assert {problem.severity for problem in problems} == {"warning"}
    assert [str(problem).removeprefix(f"{plugins}/").partition(" is not read; ")[0] for problem in problems] == [
        *("foo:", "foo.CONF:", "foo.conf.txt:", "foo.py:", "foo.yaml:", "more:")
    ]
    assert str(problems[1]).endswith("if it has lines of [section] and key = value, rename it to foo.conf")


def test_a_missing_directory_is_a_warning_and_no_descriptors(root: Path) -> None:
    shutil.rmtree(Root(root).descriptors)

    assert read(root) == (
        {},
        [
            Problem(
                "warning",
                str(Root(root).descriptors),
                None,
                None,
                "directory does not exist, so no plugin is described",
            )
        ],
    )


def test_descriptors_are_equal_exactly_when_they_say_the_same(plugins: Path) -> None:
    one, _ = read_one(plugins, "[main]\n[own]\nx=1\n")
    same, _ = read_one(plugins, "# a comment\n[main]\n\n[own]\nx = 1\n")
    other, _ = read_one(plugins, "[main]\n[own]\nx=2\n")

    assert one == same
    assert hash(one) == hash(same)
    assert one != other


# -- broken ones: the content, and the whole line that is said about it --------------------------------------------

BROKEN: dict[str, tuple[str, str | bytes | object, str | None]] = {
    "empty": (
        "x.conf",
        "",
        "[main]: the file has no section; add [main] and below it enabled = 1",
    ),
    "no main": ("x.conf", "[model]\nqueue=q\n", "[main]: the section is missing; add [main] and below it enabled = 1"),
    "main misspelt": (
        "x.conf",
        "[mian]\nenabled=1\n",
        "[main]: the section is missing; is it the one named [mian]? Rename that to [main]",
    ),
    "threads is no number": (
        "x.conf",
        "[main]\nthreads=many\n",
        "[main] threads: 'many' is not a whole number; allowed: a whole number from 1 to 1000",
    ),
    "threads out of range": (
        "x.conf",
        "[main]\nthreads=0\n",
        "[main] threads: '0' is out of range; allowed: a whole number from 1 to 1000",
    ),
    "threads is true": (
        "x.json",
        {"main": {"threads": True}},
        "[main] threads: True is not a whole number; allowed: a whole number from 1 to 1000",
    ),
    "threads is a fraction": (
        "x.json",
        {"main": {"threads": 1.5}},
        "[main] threads: 1.5 is not a whole number; allowed: a whole number from 1 to 1000",
    ),
    "enabled is neither": (
        "x.conf",
        "[main]\nenabled=maybe\n",
        f"[main] enabled: 'maybe' is neither yes nor no; allowed: {FLAG}",
    ),
    "enabled is 2": ("x.json", {"main": {"enabled": 2}}, f"[main] enabled: 2 is neither yes nor no; allowed: {FLAG}"),
    "an indented line continues the one above": (
        "x.conf",
        "[main]\nenabled=1\n and more\n",
        rf"[main] enabled: '1\nand more' is neither yes nor no; allowed: {FLAG}",
    ),
    "latency negative": (
        "x.conf",
        "[main]\nlatency=-1\n",
        f"[main] latency: '-1' is not a duration; allowed: {SECONDS}",
    ),
    "latency nan": ("x.conf", "[main]\nlatency=nan\n", f"[main] latency: 'nan' is not a duration; allowed: {SECONDS}"),
    "timeout unit unknown": (
        "x.conf",
        "[main]\ntimeout=5w\n",
        f"[main] timeout: '5w' is not a duration; allowed: {SECONDS}, more than 0",
    ),
    "timeout 0": (
        "x.conf",
        "[main]\ntimeout=0\n",
        f"[main] timeout: '0' is out of range; allowed: {SECONDS}, more than 0",
    ),
    "timeout is a list": (
        "x.json",
        {"main": {"timeout": [5]}},
        f"[main] timeout: a list is not a duration; allowed: {SECONDS}, more than 0",
    ),
    "name would leave its directory": (
        "x.conf",
        "[main]\nname=../../etc/passwd\n",
        f"[main] name: '../../etc/passwd' is not a name; allowed: {NAME}",
    ),
    "base name unfit": (
        "two words.conf",
        "[main]\n",
        f"[main] name: is not given, and the file's base name will not do: 'two words' is not a name; allowed: {NAME}",
    ),
    "accept has a path": (
        "x.conf",
        "[main]\naccept=cat, ../dog\n",
        f"[main] accept: '../dog' is not a name; allowed: {NAMES}",
    ),
    "forward is an object": (
        "x.json",
        {"main": {"forward": {"a": 1}}},
        f"[main] forward: an object is not a list; allowed: {NAMES}",
    ),
    "admin without a value": (
        "x.conf",
        "[main]\nadmin=\n",
        ("[main] admin: has no value; allowed: identities with commas between; or remove the line"),
    ),
    "admin is a star": (
        "x.conf",
        "[main]\nadmin=*\n",
        "[main] admin: '*' is not allowed in this list; allowed: identities with commas between",
    ),
    "authenticator without a value": (
        "x.json",
        {"main": {}, "messaging": {"authenticator": None}},
        (
            "[messaging] authenticator: has no value; allowed: the name of an installed "
            "authenticator, or the dotted path of a class; or remove the line"
        ),
    ),
    "url of an unknown protocol": (
        "x.conf",
        "[main]\n[messaging]\nurl=http://user:hunter2@host\n",
        f"[messaging] url: unknown protocol 'http' in 'http://user:***@host'; allowed: {URL_SHAPE}",
    ),
    "url without a host": (
        "x.conf",
        "[main]\n[messaging]\nurl=amqp://user:hunter2@\n",
        f"[messaging] url: no host in 'amqp://user:***@'; allowed: {URL_SHAPE}",
    ),
    "url with an impossible port": (
        "x.conf",
        "[main]\n[messaging]\nurl=user:hunter2@host:99999\n",
        f"[messaging] url: port 99999 in 'user:***@host:99999' is not between 1 and 65535; allowed: {URL_SHAPE}",
    ),
    "url whose host was forgotten": (
        "x.conf",
        "[main]\n[messaging]\nurl=amqp://user:hunter2\n",
        f"[messaging] url: not a URL: 'amqp://user:***'; allowed: {URL_SHAPE}",
    ),
    "url with an unquoted password": (
        "x.conf",
        "[main]\n[messaging]\nurl=amqp://user:hunter2@x@host\n",
        (
            "[messaging] url: not a URL: 'amqp://user:***@host' (in a user or password write ':', '/' and '@' "
            f"as %3A, %2F and %40); allowed: {URL_SHAPE}"
        ),
    ),
    "url with a space in its host": (
        "x.conf",
        "[main]\n[messaging]\nurl=amqp://my host\n",
        f"[messaging] url: the host 'my host' has spaces or control characters in it; allowed: {URL_SHAPE}",
    ),
    "url is a number": (
        "x.json",
        {"main": {}, "messaging": {"url": 5672}},
        f"[messaging] url: a number is not a URL; allowed: {URL_SHAPE}",
    ),
    "clientkey alone": (
        "x.conf",
        "[main]\n[messaging]\nclientkey=/dev/null\n",
        "[messaging] clientkey: is given without clientcert; allowed: both, or clientcert alone",
    ),
    "heartbeat of a day": (
        "x.conf",
        "[main]\n[messaging]\nheartbeat=1d\n",
        f"[messaging] heartbeat: '1d' is out of range; allowed: {SECONDS}, at most 3600",
    ),
    "managed 3": (
        "x.conf",
        "[main]\n[model]\nmanaged=3\n",
        "[model] managed: '3' is out of range; allowed: a whole number from 0 to 2",
    ),
    "queue without a name": (
        "x.conf",
        "[main]\n[model]\nqueue=exchange/\n",
        f"[model] queue: address 'exchange/' names no queue; allowed: {ADDRESS}",
    ),
    "queue too long": (
        "x.conf",
        f"[main]\n[model]\nqueue={'q' * 300}\n",
        f"[model] queue: address '{'q' * 60}'... is longer than 255 bytes; allowed: {ADDRESS}",
    ),
    "queue is a number": (
        "x.json",
        {"main": {}, "model": {"queue": 123}},
        f"[model] queue: a number is not an address; allowed: {ADDRESS}",
    ),
    "exchange with a slash": (
        "x.conf",
        "[main]\n[model]\nexchange=a/b\n",
        "[model] exchange: 'a/b' is not an exchange's name; allowed: an exchange's name: no '/', at most 255 bytes",
    ),
    "prefetch 65536": (
        "x.conf",
        "[main]\n[model]\nprefetch=65536\n",
        "[model] prefetch: '65536' is out of range; allowed: a whole number from 1 to 65535",
    ),
    "type unknown": (
        "x.conf",
        "[main]\n[model]\ntype=stream\n",
        "[model] type: invalid value 'stream'; allowed: classic, quorum",
    ),
    "a value of 300 characters": (
        "x.conf",
        f"[main]\n[model]\ntype={'t' * 300}\n",
        f"[model] type: invalid value '{'t' * 196}...; allowed: classic, quorum",
    ),
    "type misspelt": (
        "x.conf",
        "[main]\n[model]\ntype=quorom\n",
        "[model] type: invalid value 'quorom' (did you mean quorum?); allowed: classic, quorum",
    ),
    "a comment behind a value": (
        "x.conf",
        "[main]\n[model]\nqueue=k # comment\n",
        "[model] queue: has a comment after its value; write comments on their own lines",
    ),
    "a comment behind a url": (
        "x.conf",
        "[main]\n[messaging]\nurl=amqp://u:hunter2@h ; comment\n",
        "[messaging] url: has a comment after its value; write comments on their own lines",
    ),
    "a comment behind an identity": (
        "x.conf",
        "[main]\nadmin = ops\t# them\n",
        "[main] admin: has a comment after its value; write comments on their own lines",
    ),
    "an authenticator lost with the first of two sections": (
        "x.conf",
        "[main]\n[messaging]\nauthenticator=hmac\n[messaging]\nurl=local://\n",
        (
            "[messaging]: the section is there twice, and the last one, which counts, has no authenticator; "
            "allowed: each section once"
        ),
    ),
    "identities lost with the first of two sections in json": (
        "x.json",
        '{"main": {"admin": "ops"}, "main": {"enabled": 1}}',
        (
            "[main]: the section is there twice, and the last one, which counts, has no admin; "
            "allowed: each section once"
        ),
    ),
    "an authenticator without its equals sign": (
        "x.conf",
        "[main]\n[messaging]\nauthenticator hmac\n",
        (
            "[messaging]: line 3 has no key, or no '=' after it, and it may be authenticator; "
            "allowed: authenticator = value"
        ),
    ),
    "identities before any section": (
        "x.conf",
        "Admin=ops\n[main]\n",
        "line 1 stands before any section, and it may be admin; allowed: admin = value, below a [section]",
    ),
    "a line in the settings of the authenticator": (
        "x.conf",
        "[main]\n[messaging]\nauthenticator=hmac\n[hmac]\nkeys=x\npeers web\n",
        "[hmac]: some of it is not used, and these are the settings of the authenticator; correct that first",
    ),
    "key on the header's line": (
        "x.conf",
        "[main]\n[messaging] url=amqp://u:hunter2@host\n",
        "line 2 is not a section header; allowed: [name] alone on its line",
    ),
    "header not closed": (
        "x.conf",
        "[main\nenabled=1\n",
        "line 1 is not a section header; allowed: [name] alone on its line",
    ),
    "NUL byte": ("x.conf", b"[main]\nenabled=1\0\n", "has a NUL byte at offset 16; allowed: UTF-8 text"),
    "binary junk": ("x.conf", b"\x7fELF\x02\x01\x01\xfe\xdc", "has byte 0xfe at offset 7; allowed: UTF-8 text"),
    "control characters": (
        "x.conf",
        b"[main]\nname=a\x1b[31m\n",
        r"has control character '\x1b' in line 2; allowed: UTF-8 text",
    ),
    "latin-1": ("x.conf", "[main]\n# caf\u00e9\n".encode("latin-1"), "has byte 0xe9 at offset 12; allowed: UTF-8 text"),
    "UTF-16": (
        "x.conf",
        "[main]\n".encode("utf-16"),
        "is UTF-16 text; allowed: UTF-8 without a byte order mark (iconv -f UTF-16 -t UTF-8 converts it)",
    ),
    "byte order mark": (
        "x.conf",
        b"\xef\xbb\xbf[main]\n",
        "starts with a byte order mark; allowed: UTF-8 without one",
    ),
    "over 1 MiB": ("x.conf", b"[main]\n" + b"#" * (1 << 20), "is too large; allowed: at most 1048576 bytes"),
    "json empty": ("x.json", "", "is empty; allowed: a JSON object of objects"),
    "json is a list": (
        "x.json",
        [1],
        "is not a JSON object; allowed: an object of sections, each an object of keys",
    ),
    "json section is text": (
        "x.json",
        {"main": "enabled"},
        "[main]: the section is no JSON object; allowed: a JSON object of keys",
    ),
    "json cut off": ("x.json", '{"main": {', None),
    "json of NaN": ("x.json", '{"main": {"latency": NaN}}', "has NaN, which is not JSON"),
    "json too deep": (
        "x.json",
        '{"main": ' + "[" * 100_000,
        "is nested too deeply; allowed: a JSON object of objects",
    ),
    "json number too long": (
        "x.json",
        '{"main": {"threads": ' + "9" * 5000 + "}}",
        "has a number that is too long; allowed: a JSON object of objects",
    ),
    "json is an ini file": ("x.json", "[main]\nenabled=1\n", None),
    "ini is a JSON file": (
        "x.conf",
        '{"main": {}}',
        "holds JSON; allowed: lines of [section] and key = value, or a name that ends in .json",
    ),
}
# The words for bad JSON are Python's, and differ between its versions.
JSON_SYNTAX = r"is not JSON: [^;\n]+ \(line \d+, column \d+\)"


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_descriptor_is_one_clear_line_and_its_neighbour_is_read(root: Path, plugins: Path, case: str) -> None:
    name, content, line = BROKEN[case]
    path = write(plugins / name, content)

    found, problems = read(root)

    assert list(found) == ["good"]
    (error,) = [problem for problem in problems if problem.severity == "error"]
    said = str(error)
    if line is None:
        assert re.fullmatch(JSON_SYNTAX, said.removeprefix(f"{path}: "))
    else:
        assert said == f"{path}: {line}"
    assert "hunter2" not in repr(problems)
    assert said.isprintable()


INI = st.text(st.sampled_from("[]=:#; \t\n%\"'amqp/@.5\u00e9\u2028\x85") | st.characters(codec="utf-8"), max_size=200)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
SECTION = st.sampled_from(sorted(EVERYTHING))
KEY = st.sampled_from(sorted({key for keys in EVERYTHING.values() for key in keys} | {"uuid", "exchange", "url_file"}))


@given(
    st.tuples(st.just(".conf"), st.binary(max_size=200))
    | st.tuples(st.just(".conf"), INI.map("[main]\n".__add__))
    | st.tuples(st.just(".conf"), st.builds("[main]\n[messaging]\n[model]\n{}={}\n".format, KEY, INI))
    | st.tuples(st.just(".json"), JSON)
    | st.tuples(st.just(".json"), st.dictionaries(SECTION, st.dictionaries(KEY, JSON, max_size=4)))
)
def test_whatever_is_in_a_file_it_is_a_descriptor_or_lines_that_say_why_not(case: tuple[str, object]) -> None:
    suffix, content = case
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        path = write(Path(top) / f"x{suffix}", content)
        descriptor, problems = read_descriptor(Root(Path(top)), path)

    assert (descriptor is None) == any(problem.severity == "error" for problem in problems)
    assert all(str(problem).isprintable() for problem in problems)
    assert all(str(problem).startswith(f"{path}: ") for problem in problems)


def test_every_error_of_a_file_is_reported_at_once(root: Path, plugins: Path) -> None:
    write(plugins / "x.conf", "[main]\nthreads=no\nlatency=x\n[model]\nmanaged=9\n")

    _, problems = read(root)
    assert [(problem.section, problem.key) for problem in problems] == [
        ("main", "threads"),
        ("main", "latency"),
        ("model", "managed"),
    ]


# -- files that are none -------------------------------------------------------------------------------------------


def make_directory(path: Path) -> str:
    path.mkdir()
    return f"is a directory; allowed: {REGULAR}"


def make_fifo(path: Path) -> str:
    os.mkfifo(path)
    return f"is a FIFO; allowed: {REGULAR}"


def make_socket(path: Path) -> str:
    here = os.open(path.parent, os.O_RDONLY)
    try:  # a path of the test may be longer than a socket's may
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)
    return f"is a socket or a device; allowed: {REGULAR}"


def make_device_link(path: Path) -> str:
    path.symlink_to("/dev/null")
    return f"is a device; allowed: {REGULAR}"


def make_dangling_link(path: Path) -> str:
    path.symlink_to("no/such.conf")
    return f"is a symbolic link to '{path.parent}/no/such.conf', which does not exist"


def make_looping_link(path: Path) -> str:
    path.symlink_to(path.name)
    return "is a symbolic link that leads back to itself"


@pytest.mark.parametrize(
    "make", [make_directory, make_fifo, make_socket, make_device_link, make_dangling_link, make_looping_link]
)
@pytest.mark.timeout(60)
def test_what_is_no_file_is_one_line_and_never_waited_for(
    root: Path, plugins: Path, make: Callable[[Path], str]
) -> None:
    line = make(plugins / "x.conf")

    found, problems = read(root)
    assert list(found) == ["good"]
    assert [str(problem) for problem in problems] == [f"{plugins / 'x.conf'}: {line}"]


@pytest.fixture
def open_root() -> Iterator[Path]:
    """A root that every user can reach, for the tests in which root is an ordinary user for a while."""
    with tempfile.TemporaryDirectory() as top:
        plugins = Root(Path(top)).descriptors
        plugins.mkdir(parents=True)
        for directory in [Path(top), *Path(top).rglob("*")]:
            directory.chmod(0o755)
        write(plugins / "good.conf", GOOD)
        yield Path(top)


def test_a_file_that_may_not_be_read_is_one_line(open_root: Path) -> None:
    secret = write(Root(open_root).descriptors / "x.conf", "[main]\n")
    secret.chmod(0o000)

    with ordinary_user():
        found, problems = read(open_root)
    assert list(found) == ["good"]
    assert [str(problem) for problem in problems] == [f"{secret}: cannot be read: Permission denied"]


def test_a_directory_that_may_not_be_read_is_one_line(open_root: Path) -> None:
    plugins = Root(open_root).descriptors
    plugins.chmod(0o000)

    with ordinary_user():
        found, problems = read(open_root)
    plugins.chmod(0o755)
    assert found == {}
    assert [str(problem) for problem in problems] == [f"{plugins}: directory cannot be read: Permission denied"]


# -- whom a descriptor must belong to ------------------------------------------------------------------------------


def owner() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def allowed_owner() -> str:
    return "allowed: root (uid 0)" if os.geteuid() == 0 else f"allowed: root (uid 0) or {owner()} (uid {os.geteuid()})"


@pytest.mark.parametrize(
    ("mode", "who"),
    [(0o664, "its group"), (0o646, "others"), (0o620, "its group"), (0o602, "others"), (0o666, "its group and others")],
)
def test_a_descriptor_that_others_may_write_to_is_refused(root: Path, plugins: Path, mode: int, who: str) -> None:
    path = write(plugins / "x.conf", "[main]\n")
    path.chmod(mode)

    found, problems = read(root)
    assert list(found) == ["good"]
    assert str(problems[0]) == f"{path}: mode {mode:04o} lets {who} write to it. Fix: chmod go-w {path}"


def test_a_directory_that_others_may_write_to_is_refused_with_all_in_it(root: Path, plugins: Path) -> None:
    plugins.chmod(0o1777)

    found, problems = read(root)
    assert found == {}
    assert len(problems) == 1
    line = f"{plugins}: mode 1777 lets its group and others write to it. Fix: chmod go-w {plugins}"
    assert str(problems[0]) == line

    descriptor, problems = read_descriptor(Root(root), plugins / "good.conf")
    assert descriptor is None
    assert str(problems[0]) == line


def test_a_link_is_as_safe_as_what_it_leads_to(root: Path, plugins: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    target = write(elsewhere / "dog.conf", "[main]\n")
    (plugins / "dog.conf").symlink_to(target)
    assert list(read(root)[0]) == ["dog", "good"]

    target.chmod(0o666)
    found, problems = read(root)
    assert list(found) == ["good"]
    assert "mode 0666 lets its group and others write to it" in str(problems[0])

    target.chmod(0o644)
    elsewhere.chmod(0o777)  # the file in it can be replaced by anybody
    found, problems = read(root)
    assert list(found) == ["good"]
    assert f": is a link into {elsewhere}, which others can change: mode 0777 lets " in str(problems[0])

    elsewhere.chmod(0o1777)  # now only by its owner
    assert list(read(root)[0]) == ["dog", "good"]


def test_what_belongs_to_somebody_else_is_refused(root: Path, plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(plugins / "x.conf", "[main]\n")
    stranger = 54321
    if os.geteuid() == 0:
        os.chown(path, stranger, 0)
        found, problems = read(root)
        assert list(found) == ["good"]
        assert [str(problem) for problem in problems] == [
            f"{path}: belongs to uid {stranger}; {allowed_owner()}. Fix: chown {owner()} {path}"
        ]
    else:  # seen with the stranger's eyes, our own file is somebody else's
        assert distrust(path) is None
        monkeypatch.setattr(os, "geteuid", lambda: stranger)
        assert str(distrust(path)).endswith(f"uid {stranger}. Fix: chown {stranger} {path}")


def test_a_link_of_somebody_else_is_refused(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = plugins / "x.conf"
    link.symlink_to("/etc/passwd" if os.geteuid() != 0 else plugins / "good.conf")
    stranger = 54321
    if os.geteuid() == 0:
        os.chown(link, stranger, 0, follow_symlinks=False)
        me: str | int = owner()
    else:
        monkeypatch.setattr(os, "geteuid", lambda: stranger)
        me = stranger
    reason = distrust(link)
    assert str(reason).startswith("the link belongs to ")
    assert f". Fix: chown -h {me} {link}" in str(reason)


def test_code_directories_follow_the_same_rule(root: Path) -> None:
    share, _, _, opt = Root(root).plugin_dirs
    opt.mkdir(parents=True)
    opt.chmod(0o775)

    found, problems = find_plugin_dirs(Root(root))
    assert found == [share]
    assert [problem.file for problem in problems] == [str(opt)]
    assert "mode 0775" in str(problems[0])


# -- warnings: read, and told --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[main]\nthread=3\n", f"[main] thread: unknown key, ignored; did you mean threads? allowed: {MAIN_KEYS}"),
        ("[main]\nEnabled=1\n", f"[main] Enabled: unknown key, ignored; did you mean enabled? allowed: {MAIN_KEYS}"),
        ("[main]\nzzzz=1\n", f"[main] zzzz: unknown key, ignored; allowed: {MAIN_KEYS}"),
        (
            "[main]\n[messaging]\nqueue=q\n",
            f"[messaging] queue: unknown key, ignored; it belongs in [model]; allowed: {MESSAGING_KEYS}",
        ),
        (
            "[main]\n[messaging]\ntransport=qpid\n",
            "[messaging] transport: no longer used: the adapter is named in the url, like amqp+amqps://host",
        ),
        (
            "[main]\n[mesaging]\nurl=amqp://u:hunter2@h\n",
            "[mesaging]: unknown section; did you mean [messaging]? The plugin gets it as a section of its own",
        ),
        (
            "[main]\n[messaging]\n[mesaging]\n",
            "[mesaging]: unknown section; did you mean [messaging]? The plugin gets it as a section of its own",
        ),
        (
            "[main]\n[Model]\n",
            "[Model]: unknown section; did you mean [model]? The plugin gets it as a section of its own",
        ),
        ("password=hunter2\n[main]\n", "line 1 stands before any section; it is ignored"),
        (
            "@import:file\n[main]\n",
            (
                "line 1 is @import, which gofer 2 ignored, too: write the keys of that file here, or put it into "
                "conf.d; it is ignored"
            ),
        ),
        ("[main]\nhunter2\n", "[main]: line 2 has no key, or no '=' after it; it is ignored"),
        ("[main]\n[x]\n= hunter2\n", "[x]: line 3 has no key, or no '=' after it; it is ignored"),
        (
            "[main]\nenabled=1\nenabled=0\n",
            "[main] enabled: the key is there twice, in lines 2 and 3; the last one is used",
        ),
        ("[main]\n[main]\n", "[main]: the section is there twice, in lines 1 and 2; the last one is used as a whole"),
        ("[main]\n[model]\nqueue=my dogs\n", f"[model] queue: 'my dogs' {SPACE}"),
        ("[main]\n[model]\nqueue=my exchange/dogs\n", f"[model] queue: 'my exchange/dogs' {SPACE}"),
        (
            '[main]\n[model]\nqueue="dogs"\n',
            "[model] queue: has quotes around its value, which are part of it; remove them",
        ),
    ],
)
def test_a_slip_is_a_warning_that_names_what_was_meant(root: Path, plugins: Path, text: str, line: str) -> None:
    path = write(plugins / "dog.conf", text)

    found, problems = read(root)
    assert list(found) == ["dog", "good"]
    assert [(problem.severity, str(problem)) for problem in problems] == [("warning", f"{path}: {line}")]
    assert "hunter2" not in repr(found)


def test_what_gofer_2_took_without_a_word_means_what_it_meant(plugins: Path) -> None:
    dog, said = read_one(
        plugins,
        """\
@import:somewhere
threads=9
[ main ]
enabled=0
threads=3
[foobar]
  a=1
  b=2
prose
[main] # once more
enabled=0
  enabled=1
accept=,
forward = ,
   latency = 2

[model]
expiration=0
queue=q
""",
    )
    assert (dog.enabled, dog.threads, dog.accept, dog.forward, dog.latency) == (True, 1, (), (), 2.0)
    assert dog.expiration is None
    assert (dog.sections["foobar"]["a"], dog.sections["foobar"]["b"]) == ("1", "2")
    assert [line.partition(";")[0] for line in said] == [
        "line 1 is @import, which gofer 2 ignored, too: write the keys of that file here, or put it into conf.d",
        "line 2 stands before any section",
        "[foobar]: line 9 has no key, or no '=' after it",
        "[main]: the section is there twice, in lines 3 and 10",
        "[main] enabled: the key is there twice, in lines 11 and 12",
        "[main]: not used, because the section is there twice: threads",
    ]


def test_json_in_which_something_is_twice_is_read_as_gofer_2_did(plugins: Path) -> None:
    text = '{"main": {"enabled": 0, "threads": 2}, "main": {"enabled": 0, "enabled": 1}}'
    write(plugins / "dog.json", text)
    found, problems = read_descriptors(Root(plugins.parents[2]))
    (dog,) = [one for one in found if one.name == "dog"]
    assert (dog.enabled, dog.threads) == (True, 1)
    assert [str(one).partition(": ")[2] for one in problems] == [
        "'enabled' is there twice in one object; the last one is used",
        "'main' is there twice in one object; the last one is used",
        "[main]: not used, because the section is there twice: threads",
    ]


def test_values_may_go_on_in_indented_lines(plugins: Path) -> None:
    dog, said = read_one(plugins, "[main]\naccept = cat,\n    bird\n[x]\na = 1\n\n   b: 2\n # no\n   c\nd=4\n\n")
    assert (dog.accept, said) == (("cat", "bird"), [])
    assert (dog.sections["x"]["a"], dog.sections["x"]["d"]) == ("1\n\nb: 2\nc", "4")


def test_a_section_of_ones_own_is_no_slip(plugins: Path) -> None:
    dog, said = read_one(plugins, "[main]\n[domain]\na=1\n[DEFAULT]\nb=2\n[foobar]\nc=3\n")

    assert said == []
    assert list(dog.sections) == ["main", "domain", "DEFAULT", "foobar"]
    assert list(dog.sections["foobar"]) == ["c"]


def test_certificates_are_missed_before_they_are_needed(plugins: Path) -> None:
    _, said = read_one(plugins, "[main]\n[messaging]\nurl=amqps://host\ncacert=/no/such/ca.pem\n")
    assert said == ["[messaging] cacert: no file '/no/such/ca.pem' yet; connecting will fail until it is there"]

    _, said = read_one(plugins, "[main]\n[messaging]\nurl=amqp://host\ncacert=/dev/null\n")
    assert said == ["[messaging] cacert: is not used: amqp has no TLS; allowed: with amqps or ssl"]


@pytest.mark.parametrize("section", ["a\nb", "a\x1b[31m", "s" * 200, "\ud800", ""])
def test_names_out_of_a_file_cannot_break_the_line(root: Path, plugins: Path, section: str) -> None:
    write(plugins / "x.json", {"main": {section: 1}, section: 5})

    _, problems = read(root)
    assert all(str(problem).isprintable() for problem in problems)
    assert max(len(str(problem)) for problem in problems) < 4096
    assert problems[-1].severity == "error"


# -- what broken ones ask for --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "asks"),
    [
        ("x.conf", "[main]\nenabled=1\nrequired=1\nthreads=no\n", True),
        ("x.conf", "[main]\nenabled=yes\nrequired = TRUE\n[main\n", True),
        ("x.conf", "[main]\nenabled=1\nrequired=perhaps\n", True),
        ("x.conf", b"[main]\nenabled=1\nrequired=1\n# caf\xe9\n", True),
        ("x.conf", "[main]\nenabled=1\nrequired=1\n".encode("utf-16"), True),
        ("x.conf", b"\xef\xbb\xbf[main]\r\nenabled=1\r\nrequired=1\r\n", True),
        ("x.conf", "[main]\nenabled=1\nrequired=0\nthreads=no\n", False),
        ("x.conf", "[main]\nenabled=0\nrequired=1\nthreads=no\n", False),
        ("x.conf", "[main]\nenabled=1\n#required=1\n[main\n", False),
        ("x.conf", "[main]\nenabled=1\n[x]\nrequired=1\n", False),
        ("x.json", '{"main": {"enabled": 1, "required": true}}', True),
        ("x.json", '{"main": {"enabled": 1,\n "required": true,}}', True),
        ("x.json", '{"main": {"enabled": 1,\n "required": false,}}', False),
        ("x.json", "[]", False),
        ("x.conf", "", False),
    ],
)
def test_a_broken_descriptor_is_asked_whether_its_plugin_is_required(
    tmp_path: Path, name: str, content: str | bytes, asks: bool
) -> None:
    assert asks_to_be_required(write(tmp_path / name, content)) is asks


@pytest.mark.parametrize(
    "make", [make_directory, make_fifo, make_socket, make_device_link, make_dangling_link, make_looping_link]
)
@pytest.mark.timeout(60)
def test_what_is_no_file_requires_nothing(tmp_path: Path, make: Callable[[Path], str]) -> None:
    make(tmp_path / "x.conf")
    assert not asks_to_be_required(tmp_path / "x.conf")


@pytest.mark.parametrize(
    ("name", "content", "plugin"),
    [
        ("dog.conf", "[main]\nthreads = none\n[access]\n* = alice\n", "dog"),
        ("dog.conf", "[main]\nplugin = zoo.dog\n[access\n", "zoo.dog"),
        ("dog.json", '{"main": {\n"plugin": "zoo"\n}, "access": ', "zoo"),
        ("dog.json", '{"main": {"plugin":"zoo"}, "access": {"*": 5}}', "zoo"),
        ("dog.conf", "[main]\n#plugin = zoo\n[access]\n*=\n", "dog"),
        ("dog.conf", b"\xff\xfe" + "[main]\nplugin = zoo\n[access]\n".encode("utf-16-le"), "zoo"),
        ("dog.conf", b"\xef\xbb\xbf[main]\n[ACCESS]\n\0", "dog"),
        ("dog.conf", "[main]\nthreads = none\nplugin = zoo\n", None),
        ("dog.conf", "", None),
    ],
)
def test_which_plugin_a_broken_descriptor_may_have_rules_for(
    tmp_path: Path, name: str, content: str | bytes, plugin: str | None
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert ruled_plugin(path) == plugin


def test_nobody_knows_what_a_descriptor_has_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "dog.conf").mkdir()
    os.mkfifo(tmp_path / "cat.conf")
    assert (ruled_plugin(tmp_path / "dog.conf"), ruled_plugin(tmp_path / "cat.conf")) == ("dog", "cat")


# -- two with one name ---------------------------------------------------------------------------------------------


def test_of_two_with_one_name_the_second_is_refused_and_both_are_named(root: Path, plugins: Path) -> None:
    write(plugins / "b.conf", "[main]\nname=dog\nthreads=2\n")
    write(plugins / "c.json", {"main": {"name": "dog", "threads": 3}})

    found, problems = read(root)
    assert {name: descriptor.threads for name, descriptor in found.items()} == {"dog": 2, "good": 1}
    assert [str(problem) for problem in problems] == [
        (
            f"{plugins / 'c.json'}: [main] name: plugin 'dog' is described by {plugins / 'b.conf'}, which is used; "
            "this one is not; allowed: each name once"
        )
    ]


def test_one_base_name_with_both_suffixes_is_two_with_one_name(root: Path, plugins: Path) -> None:
    write(plugins / "good.json", {"main": {}})

    found, problems = read(root)
    assert found["good"].file.suffix == ".conf"
    assert [problem.file for problem in problems] == [str(plugins / "good.json")]


# -- one, by its path ----------------------------------------------------------------------------------------------


def test_a_descriptor_may_be_anywhere_that_is_as_safe(root: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = write(tmp_path / "package.conf", "[main]\n")

    descriptor, problems = read_descriptor(Root(root), path)
    assert descriptor is not None
    assert (descriptor.name, problems) == ("package", [])


def test_a_path_that_leads_to_no_descriptor_is_one_line(root: Path, plugins: Path) -> None:
    descriptor, problems = read_descriptor(Root(root), Path("nowhere.conf"))
    assert descriptor is None
    assert [str(problem) for problem in problems] == [
        f"{plugins / 'nowhere.conf'}: cannot be read: No such file or directory"
    ]

    write(plugins / "dog.ini", "[main]\n")
    descriptor, problems = read_descriptor(Root(root), Path("dog.ini"))
    assert descriptor is None
    assert [str(problem) for problem in problems] == [
        f"{plugins / 'dog.ini'}: is not named as a descriptor; allowed: a name that ends in .conf or .json"
    ]


# -- url_file ------------------------------------------------------------------------------------------------------


def test_the_url_may_be_kept_in_a_file_of_its_own(plugins: Path) -> None:
    file = write(plugins / "broker.url", "amqps://u:hunter2@host/zoo\n")
    dog, said = read_one(plugins, "[main]\n[messaging]\nurl_file=broker.url\n")

    assert said == []
    assert (dog.url, dog.url_file) == (URL.parse("amqps://u:hunter2@host/zoo"), file)
    write(file, "amqp://elsewhere")
    assert read_url_file(file) == URL.parse("amqp://elsewhere")


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (None, 0, "cannot be read: No such file or directory"),
        ("", 0o600, "no host in ''"),
        ("ftp://u:hunter2@host", 0o600, r"unknown protocol 'ftp' in 'ftp://u:\*\*\*@host'"),
        ("amqp://u:hunter2@host", 0o666, "mode 0666 lets its group and others write to it"),
    ],
)
def test_a_url_file_that_will_not_do_is_one_line(
    root: Path, plugins: Path, content: str | None, mode: int, why: str
) -> None:
    file = plugins / "broker.url"
    if content is not None:
        write(file, content).chmod(mode)
    write(plugins / "x.conf", "[main]\n[messaging]\nurl_file=broker.url\n")

    found, problems = read(root)
    assert list(found) == ["good"]
    assert len(problems) == 1
    assert (problems[0].section, problems[0].key) == ("messaging", "url_file")
    assert "hunter2" not in str(problems[0])
    with pytest.raises(ConfigError, match=f"broker.url: {why}"):
        read_url_file(file)


def test_url_and_url_file_together_are_an_error(root: Path, plugins: Path) -> None:
    path = write(plugins / "x.conf", "[main]\n[messaging]\nurl=amqp://a\nurl_file=b\n")

    _, problems = read(root)
    assert [str(problem) for problem in problems] == [
        f"{path}: [messaging] url_file: is given beside url; allowed: one of them"
    ]


# -- all sections, as they stand in the file ----------------------------------------------------------------------


def test_sections_of_json_keep_their_types(plugins: Path) -> None:
    own = {"n": 1, "f": 1.5, "b": True, "none": None, "l": [1, {"x": 2}], "o": {"y": "z"}}
    dog, _ = read_one(plugins, {"main": {"threads": 2}, "own": own})

    assert dog.sections == {"main": {"threads": 2}, "own": own}


def test_descriptors_cannot_be_changed_and_show_no_values(plugins: Path) -> None:
    dog, _ = read_one(plugins, "[main]\n[messaging]\nurl=amqp://u:hunter2@h\n")

    with pytest.raises(AttributeError):
        dog.threads = 2  # type: ignore[misc]  # that is the point
    assert "hunter2" not in repr(dog) + str(dog.connector())


def test_descriptors_can_be_copied_and_sent_to_another_process(plugins: Path) -> None:
    dog, _ = read_one(plugins, {"main": {}, "own": {"l": [1]}})

    assert pickle.loads(pickle.dumps(dog)) == dog
    assert copy.deepcopy(dog) == dog


# -- the identity of a plugin that names no queue ------------------------------------------------------------------


def test_the_stable_uuid_is_made_once_and_kept_privately(root: Path) -> None:
    first = stable_uuid(Root(root), "dog")
    kept = Root(root).lib / "identity/dog"

    assert str(uuid.UUID(first)) == first
    assert stable_uuid(Root(root), "dog") == first
    assert stable_uuid(Root(root), "cat") != first
    assert kept.read_text() == f"{first}\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert sorted(os.listdir(kept.parent)) == ["cat", "dog"]


def test_the_stable_uuid_is_one_for_all_who_ask_at_once(root: Path) -> None:
    found: list[str] = []
    ready = threading.Barrier(8)

    def ask() -> None:
        ready.wait(10)
        found.append(stable_uuid(Root(root), "dog"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    "content", [b"", b"not a uuid\n", b"\xff\x00", b"0" * 1000, str(uuid.UUID(int=7)).encode() * 2]
)
def test_a_corrupt_identity_is_an_error_that_names_the_file(root: Path, content: bytes) -> None:
    stable_uuid(Root(root), "dog")
    kept = Root(root).lib / "identity/dog"
    kept.write_bytes(content)

    with pytest.raises(ConfigError, match=f"^{kept}: is not a plugin's identity: .*allowed: one uuid"):
        stable_uuid(Root(root), "dog")
    assert kept.read_bytes() == content


def test_an_identity_that_cannot_be_kept_is_an_error_that_names_the_file(root: Path) -> None:
    kept = Root(root).lib / "identity/dog"
    kept.parent.mkdir(mode=0o700)
    kept.mkdir()

    with pytest.raises(ConfigError, match=f"^{kept}: the plugin's identity cannot be kept there: Is a directory$"):
        stable_uuid(Root(root), "dog")


@pytest.mark.parametrize("name", ["../dog", "a/b", "", ".", "-x", "x" * 101, "a\nb"])
def test_an_identity_is_kept_only_for_a_name(root: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not a plugin's name"):
        stable_uuid(Root(root), name)
