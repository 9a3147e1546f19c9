"""Modules and names that plugins and programs of gofer 2.12 import: they work, or say what to write instead."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import os
import pickle
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.config import Config, Graph, get_bool
from gofer.decorators import mark_of, remote
from gofer.errors import ConfigError, NotAuthorized
from gofer.messaging import Connector
from gofer.messaging.connector import added
from gofer.messaging.url import URL
from gofer.metrics import Timer, timestamp
from gofer.pam import authenticate
from gofer.pmon import PathMonitor
from support.waiting import eventually

RHSM = """
# as subscription-manager writes it
[server]
hostname = subscription.example.com
port=443
password=100%#1

[rhsm]
ca_cert_dir = /etc/rhsm/ca/
repo_ca_cert = %(ca_cert_dir)sredhat-uep.pem
repo_ca_cert = %(ca_cert_dir)slast.pem
"""


class TestConfig:
    def test_a_file_of_another_program_is_a_dict_of_dicts(self, tmp_path: Path) -> None:
        path = tmp_path / "rhsm.conf"
        path.write_text(RHSM)

        config = Config(str(path))

        assert config["server"] == {"hostname": "subscription.example.com", "port": "443", "password": "100%#1"}
        assert "ca_cert_dir" in config["rhsm"]
        assert config["rhsm"]["repo_ca_cert"] % config["rhsm"] == "/etc/rhsm/ca/last.pem"

    def test_later_sources_stand_over_earlier_ones(self, tmp_path: Path) -> None:
        path = tmp_path / "more.json"
        path.write_text('{"server": {"port": 8443}}')

        config = Config({"server": {"hostname": "a", "port": "1"}}, path)

        assert config == {"server": {"hostname": "a", "port": 8443}}

    def test_a_graph_has_its_values_as_attributes(self) -> None:
        config = Config({"server": {"hostname": "a"}})

        for graph in (config.graph(), Graph(config)):
            assert (graph.server.hostname, graph.server.nothing, graph.nothing.at_all) == ("a", None, None)
        graph.server.port = "2"
        assert config["server"]["port"] == "2"
        assert "hostname" in repr(graph.server)

    @pytest.mark.parametrize(
        ("name", "text", "says"),
        [
            ("a.conf", b"[main]\nhunter2 hunter2\n", r"a\.conf: is neither .* \(line 2\)"),
            ("a.conf", b"hunter2=1\n", r"a\.conf: is neither .* \(line 1\)"),
            ("a.conf", b"\xff", r"a\.conf: is not UTF-8"),
            ("a.json", b"[", r"a\.json: is not JSON"),
            ("a.json", b"[]", r"a\.json: is not a JSON object"),
            ("a.json", b'{"main": 5}', r"a\.json: \[main\]: the section is no JSON object"),
        ],
    )
    def test_what_is_no_configuration_is_reported_without_its_text(
        self, tmp_path: Path, name: str, text: bytes, says: str
    ) -> None:
        (tmp_path / name).write_bytes(text)
        with pytest.raises(ConfigError, match=says) as caught:
            Config(tmp_path / name)
        assert "hunter2" not in str(caught.value)

    def test_a_file_that_is_not_there_is_an_os_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Config(tmp_path / "nothing.conf")

    def test_words_for_yes_and_no(self) -> None:
        assert [get_bool(word) for word in ("1", "Yes", "true", True, 1)] == [True] * 5
        assert [get_bool(word) for word in ("0", "No", "false", False, 0, "", None)] == [False] * 7
        with pytest.raises(ValueError, match="'perhaps' is neither yes nor no"):
            get_bool("perhaps")


class TestPathMonitor:
    def test_changes_are_reported_with_the_path(self, tmp_path: Path) -> None:
        path, other = tmp_path / "cert.pem", tmp_path / "other.pem"
        path.write_text("a")
        told: list[str] = []
        monitor = PathMonitor()
        monitor.add(str(path), told.append)
        monitor.add(other, told.append)
        monitor.check()
        assert told == []

        path.write_text("ab")
        monitor.check()
        assert told == [str(path)]
        other.write_text("it has come")
        path.unlink()
        monitor.check()
        assert sorted(told[1:]) == [str(path), str(other)]
        monitor.delete(path)
        path.write_text("again")
        monitor.check()
        assert len(told) == 3

    def test_it_looks_by_itself_until_it_is_aborted_and_outlives_a_function_that_raises(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "cert.pem"
        told = threading.Semaphore(0)

        def changed(which: str) -> None:
            told.release()
            raise RuntimeError("no such luck")

        monitor = PathMonitor(0.01)
        monitor.add(path, changed)
        monitor.start()
        monitor.start()
        for size in (1, 2):
            path.write_text("x" * size)
            assert told.acquire(timeout=20)
        monitor.abort()
        assert monitor.join(20)
        assert "no such luck" in caplog.text
        assert str(path) in caplog.text
        monitor.start()  # not again
        assert monitor.join(20)

    def test_one_that_was_never_started_has_nothing_to_end(self) -> None:
        monitor = PathMonitor()
        monitor.stop()
        assert monitor.join(0)


class TestTimer:
    def test_it_measures(self) -> None:
        timer = Timer()
        assert (timer.started, timer.stopped, timer.duration(), str(timer)) == (0, 0, 0, "not started")
        with timer as same:
            assert same is timer
            eventually(lambda: timer.duration() > 0)
        assert timer.started > 0
        assert timer.stopped >= timer.started
        took = timer.duration()
        assert took == timer.duration() > 0
        assert str(timer).endswith((" (ms)", " (seconds)"))

    def test_as_a_decorator_it_logs_each_call(self, caplog: pytest.LogCaptureFixture) -> None:
        @Timer()
        def work(words: str) -> str:
            """Do it."""
            return words

        @Timer()
        def fail() -> None:
            raise ValueError("no")

        @Timer()
        async def later(words: str) -> str:
            await asyncio.sleep(0.02)
            return words

        with caplog.at_level(logging.DEBUG, logger=__name__):
            assert work("now") == "now"
            with pytest.raises(ValueError, match="no"):
                fail()
            assert asyncio.run(later("later")) == "later"
        assert (work.__name__, work.__doc__) == ("work", "Do it.")
        assert inspect.iscoroutinefunction(later)
        said = [(one.name, one.getMessage()) for one in caplog.records if " took " in one.getMessage()]
        assert [name for name, _ in said] == [__name__] * 3
        assert [re.sub(r"[0-9.]+ \(ms\)", "N (ms)", text).rpartition(".")[2] for _, text in said] == [
            "work() took N (ms)",
            "fail() took N (ms)",
            "later() took N (ms)",
        ]
        assert float(said[2][1].split()[2]) >= 20

    def test_decorators_of_gofer_stand_above_or_below_it(self) -> None:
        @remote(timeout=5)
        @Timer()
        def above() -> None: ...

        @Timer()
        @remote(timeout=5)
        def below() -> None: ...

        for function in (above, below):
            mark = mark_of(function)
            assert mark is not None
            assert mark.remote
            assert mark.timeout == 5

    def test_a_timestamp_is_utc(self) -> None:
        assert len(timestamp()) == len("2018-06-29T00:00:00Z")
        assert timestamp().endswith("Z")


class TestPam:
    def test_a_service_that_is_none_is_reported(self) -> None:
        with pytest.raises(NotAuthorized, match="there is no PAM service 'no-such-service'"):
            authenticate("root", "guess", "no-such-service")

    @pytest.mark.skipif(not os.path.isfile("/etc/pam.d/passwd"), reason="needs a PAM service to name")
    @pytest.mark.parametrize(("user", "password"), [("", "x"), ("root", ""), ("root", "a\0b"), ("root", "x" * 600)])
    def test_what_pam_would_misread_is_wrong(self, user: str, password: str) -> None:
        assert authenticate(user, password, "passwd") is False


class TestConnector:
    @pytest.fixture(autouse=True)
    def forget(self) -> Iterator[None]:
        yield
        added.clear()

    def test_one_is_made_of_text_and_set_up(self) -> None:
        connector = Connector("amqps://broker.example.com")
        connector.ssl.ca_certificate = "/etc/pki/ca.pem"
        connector.ssl.client_certificate = "/etc/pki/client.pem"
        connector.ssl.client_key = "/etc/pki/key.pem"
        connector.ssl.host_validation = False
        connector.heartbeat = 20

        assert connector == Connector(
            URL.parse("amqps://broker.example.com"),
            "/etc/pki/ca.pem",
            "/etc/pki/client.pem",
            "/etc/pki/key.pem",
            False,
            20,
        )
        ssl = connector.ssl
        assert (ssl.ca_certificate, ssl.client_certificate) == (connector.cacert, connector.clientcert)
        assert (ssl.client_key, ssl.host_validation) == (connector.clientkey, False)

    def test_one_that_is_added_is_meant_by_its_url(self) -> None:
        connector = Connector("amqps://broker.example.com")
        connector.ssl.ca_certificate = "/etc/pki/ca.pem"
        connector.add()

        assert Connector.of("amqps://broker.example.com:5671") is connector
        assert Connector.of(URL.parse("amqps://broker.example.com")) is connector
        assert Connector.of("amqps://other.example.com").cacert is None
        later = Connector("amqps://broker.example.com", heartbeat=1)
        later.add()
        assert Connector.of("amqps://broker.example.com") is later

    def test_one_that_is_used_cannot_be_set_any_more(self) -> None:
        for use in (lambda c: c.add(), hash, lambda c: {c: 1}):
            connector = Connector("amqp://broker.example.com")
            use(connector)
            with pytest.raises(AttributeError, match=r"heartbeat of .* cannot be set: it is used"):
                connector.heartbeat = 5
            with pytest.raises(AttributeError, match="cacert of"):
                connector.ssl.ca_certificate = "x"

    def test_one_can_be_sent_to_another_process(self) -> None:
        connector = Connector("amqp://u:p@h", heartbeat=3.0)
        hash(connector)
        assert pickle.loads(pickle.dumps(connector)) == connector


@pytest.mark.parametrize(
    ("module", "name", "says"),
    [
        (
            "gofer.messaging",
            "Node",
            "gofer.messaging has no Node in this version of gofer: from gofer.messaging import Queue",
        ),
        ("gofer.messaging", "Authenticator", "from gofer.messaging.auth import Authenticator"),
        ("gofer.rmi.async", "ReplyConsumer", "from gofer.rmi.reply import ReplyConsumer"),
    ],
)
def test_what_is_not_there_says_what_to_write_instead(module: str, name: str, says: str) -> None:
    with pytest.raises(ImportError) as caught:
        getattr(importlib.import_module(module), name)
    assert says in str(caught.value)


def test_what_never_was_there_is_an_attribute_error() -> None:
    assert not hasattr(importlib.import_module("gofer.messaging"), "Spoon")
    assert not hasattr(importlib.import_module("gofer.rmi.async"), "__path__")
