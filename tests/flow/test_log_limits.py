"""Lines about messages that anybody may send: enough to be seen, never as many as there are messages."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gofer.messaging import Consumer, Document, Queue
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.rmi.reply import ReplyConsumer
from support.calls import Mailbox
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import PROBE, descriptor
from support.signing import hmac_scheme, serving
from support.waiting import eventually

MANY = 1500
LEFT_OUT = "more such lines were left out"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(str(tmp_path_factory.mktemp("broker") / "broker.sock")) as broker:
        yield broker


@pytest.fixture(scope="module")
def process(broker: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path_factory.mktemp("limits") / "root") as process:
        process.plugin("dog", PROBE, descriptor(broker.url, "dog", threads=4))
        process.start()
        yield process


@pytest.fixture
def mailbox(broker: LocalBroker) -> Iterator[Mailbox]:
    with Mailbox(Connector(URL.parse(broker.url), reconnect_max=1.0)) as mailbox:
        yield mailbox


def lines(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


def test_replies_that_cannot_be_read(
    process: AgentProcess, broker: LocalBroker, mailbox: Mailbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Agent(broker.url, "dog", wait=60) as dog, ThreadPoolExecutor(1) as threads:
        until_it_answers(dog, process.tail())
        dog.Probe().twice("here I am")
        found = eventually(lambda: re.findall(r"'([0-9a-f-]{36})' \S+ Probe\.twice", process.log.read_text()))
        call = threads.submit(dog.Probe().until, str(tmp_path / "go"))
        for _ in range(MANY):
            mailbox.send(found[-1], b"this is no reply")
        (tmp_path / "go").touch()
        assert call.result(60)
    told = lines(caplog, "cannot be read was dropped")
    assert 1 <= len(told) < 100


def test_replies_that_a_consumer_cannot_read(
    broker: LocalBroker, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[object] = []
    with ReplyConsumer("limits-replies", broker.url).start(heard.append):
        for _ in range(MANY):
            mailbox.send("limits-replies", b"this is no reply")
        reply = {**mailbox.request("", ""), "status": "accepted", "request": None}
        mailbox.send("limits-replies", json.dumps(reply).encode())
        eventually(lambda: heard)
    assert 1 <= len(lines(caplog, "a reply is dropped")) < 100


def test_documents_that_a_plain_consumer_cannot_read(
    broker: LocalBroker, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does one end it: what is nested far too deep did, and was delivered again and again."""
    heard: list[object] = []

    class Keeping(Consumer):
        def dispatch(self, document: Document) -> None:
            heard.append(document.sn)

    Queue("limits-plain", broker.url).declare()
    for _ in range(MANY):
        mailbox.send("limits-plain", b"this is no document")
    mailbox.send("limits-plain", b'{"sn": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    mailbox.send("limits-plain", b'{"sn": "last", "data": NaN}')
    consumer = Keeping("limits-plain", broker.url)
    consumer.start()
    try:
        eventually(lambda: heard == ["last"])
    finally:
        consumer.stop()
        consumer.join(30)
    assert 1 <= len(lines(caplog, "a message is dropped")) < 100


def test_replies_that_are_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = tmp_path / "told"
    with (
        serving(tmp_path, hmac_scheme(tmp_path)) as served,
        Mailbox(served.connector) as mailbox,
        served.agent(wait=60) as agent,
        ThreadPoolExecutor(1) as threads,
    ):
        call = threads.submit(agent.Who().tell, str(told), str(tmp_path / "go"))
        eventually(lambda: told.exists() and told.read_text().endswith("!"))
        sn, replyto = told.read_text().rstrip("!").split()
        for _ in range(300):
            mailbox.send(replyto, json.dumps({"sn": sn, "version": "2.0", "result": {"retval": "false"}}).encode())
        (tmp_path / "go").touch()
        assert call.result(60) == "told"
    assert len(lines(caplog, "cannot be verified")) == 1


def test_results_that_nobody_takes(process: AgentProcess, broker: LocalBroker, mailbox: Mailbox) -> None:
    with Agent(broker.url, "dog", wait=60) as dog:
        until_it_answers(dog, process.tail())
        start = time.monotonic()
        for n in range(400):
            document = mailbox.request("", "", replyto=f"nobody-{n}")
            document["request"] = {"classname": "Probe", "method": "echo", "args": [n]}
            mailbox.send("dog", json.dumps(document).encode())
        eventually(lambda: "cannot be delivered" in process.log.read_text())
        assert dog.Probe().echo("behind them") == "behind them"
    assert process.log.read_text().count("cannot be delivered") < 60 + time.monotonic() - start


def test_messages_that_are_no_requests(process: AgentProcess, broker: LocalBroker, mailbox: Mailbox) -> None:
    with Agent(broker.url, "dog", wait=60) as dog:
        until_it_answers(dog, process.tail())
        start = time.monotonic()
        for _ in range(MANY):
            mailbox.send("dog", b"this is no request")
        assert dog.Probe().echo("behind them") == "behind them"
        eventually(lambda: dropped(mailbox, process) and LEFT_OUT in process.log.read_text())
    assert process.log.read_text().count("a message is dropped") < 100 + 10 * (time.monotonic() - start)


def dropped(mailbox: Mailbox, process: AgentProcess) -> int:
    mailbox.send("dog", b"this is no request")
    return process.log.read_text().count("a message is dropped")
