"""Signed calls through a goferd: who is believed, and what is told of all others."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import ConfigError, NotAuthorized, Rejected, RequestTimeout
from gofer.messaging.auth import ValidationFailed, sign
from gofer.messaging.stamped import StampedAuthenticator
from gofer.proxy import Agent
from support.calls import Mailbox
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import PROBE, runs
from support.signing import ALIAS, QUEUE, SCHEMES, Serving, hmac_scheme, serving, x509_scheme
from support.waiting import eventually

SECRET = "s3cr3t-of-the-caller"


@pytest.mark.xdist_group("signed")
@pytest.mark.parametrize("served", ["hmac", "x509"], indirect=True)
class TestSigned:
    @pytest.fixture(scope="class")
    @classmethod
    def served(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
        folder = tmp_path_factory.mktemp(request.param)
        scheme = SCHEMES[request.param](folder)
        with serving(folder, scheme) as one:
            yield one

    @pytest.fixture
    def trace(self, tmp_path: Path) -> Path:
        return tmp_path / "trace"

    @pytest.fixture
    def mailbox(self, served: Serving) -> Iterator[Mailbox]:
        with Mailbox(served.connector) as mailbox:
            yield mailbox

    def test_both_sides_sign_and_the_method_knows_who_calls(self, served: Serving) -> None:
        for name in ("ops", "guest"):
            with served.agent(name) as agent:
                assert agent.Who().am_i() == name
                assert [agent.Probe().echo(n) for n in range(50)] == list(range(50))
        heard: list[Any] = []
        with served.agent() as agent:
            assert agent(progress=heard.append).Probe().work(2) == 2
        assert heard

    def test_hooks_know_who_calls(self, served: Serving) -> None:
        with served.agent("banned") as agent, pytest.raises(Rejected, match="not banned") as caught:
            agent.Who().am_i()
        assert caught.value.code == "hook.refused"

    def test_admin_is_for_those_that_the_descriptor_names(self, served: Serving) -> None:
        with served.agent("ops") as agent:
            assert agent.Admin().hello()
        with served.agent("guest") as agent, pytest.raises(NotAuthorized, match="identities"):
            agent.Admin().hello()

    def test_who_does_not_sign_is_rejected(self, served: Serving, trace: Path) -> None:
        with served.agent(None) as agent, pytest.raises(Rejected) as caught:
            agent(secret=SECRET).Probe().note(str(trace), "ran")
        assert (caught.value.code, caught.value.details) == ("security.authentication", "not signed")
        assert not trace.exists()

    def test_who_signs_with_a_key_that_is_not_known_is_not_run_nor_believes_the_rejection(
        self, served: Serving, trace: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for wait in (0.7, 4, 12):  # on a busy machine the rejection may take longer
            with served.agent("stranger", wait=wait) as agent, pytest.raises(RequestTimeout):
                agent.Probe().note(str(trace), "ran")
            if "cannot be verified" in caplog.text:
                break
        assert "cannot be verified" in caplog.text
        assert not trace.exists()

    def test_who_believes_nobody_but_others_is_told_nothing(self, served: Serving, trace: Path) -> None:
        """The agent runs it; its replies are signed by ``agent``, and this caller takes those of ``web-9`` alone."""
        signer = served.scheme.named("ops")
        signer.peers = frozenset({"web-9"})
        with Agent(served.connector, QUEUE, wait=1, authenticator=signer) as agent, pytest.raises(RequestTimeout):
            agent.Probe().note(str(trace), "ran")
        eventually(lambda: set(runs(trace)) == {"ran"})

    def test_what_cannot_be_signed_is_not_sent_and_that_is_reported_at_once(self, served: Serving, trace: Path) -> None:
        class Broken(type(served.scheme.named("ops"))):  # type: ignore[misc]  # whichever it is
            def __init__(self) -> None:
                self.peers, self.max_age = None, 1.0

            def signer(self) -> bytes:
                raise ConfigError("the key has gone")

        for options in ({}, {"wait": 0}):
            with Agent(served.connector, QUEUE, authenticator=Broken(), **options) as agent:  # type: ignore[arg-type]  # as above
                start = time.monotonic()
                with pytest.raises(ConfigError, match="the key has gone"):
                    agent.Probe().note(str(trace), "ran")
                assert time.monotonic() - start < 30  # of 90
        assert not trace.exists()

    def test_what_is_wrong_with_a_message_is_reported_by_a_code_and_nothing_runs(
        self, served: Serving, mailbox: Mailbox, trace: Path
    ) -> None:
        ops, stranger = served.scheme.named("ops"), served.scheme.named("stranger")
        now = time.time()

        def wrapped(document: dict[str, Any], at: float = now, by: StampedAuthenticator = ops) -> dict[str, Any]:
            body = json.dumps(document).encode()
            return dict(json.loads(sign(body, _At(by, at))))

        def asked(**more: Any) -> dict[str, Any]:
            return {**mailbox.request(str(trace), "ran"), "routing": [None, QUEUE], "secret": SECRET, **more}

        good = wrapped(asked())
        other = wrapped(asked())
        tampered = {**good, "message": good["message"].replace('"ran"', '"RAN"')}
        assert tampered != good
        authentication, addressee, expired = "security.authentication", "security.addressee", "security.expired"
        cases = [
            ("unsigned", asked(), authentication),
            ("tampered", tampered, authentication),
            ("another's signature", {**good, "signature": other["signature"]}, authentication),
            ("no base64", {**good, "signature": "***"}, authentication),
            ("empty", {**good, "signature": ""}, authentication),
            ("by a stranger", wrapped(asked(), by=stranger), authentication),
            ("for another agent", wrapped(asked(routing=[None, "other"])), addressee),
            ("for nobody", wrapped(asked(routing=None)), addressee),
            ("too old", wrapped(asked(), now - 8 * 86400), expired),
            ("older than its ttl", wrapped(asked(ttl=10), now - 400), expired),
            ("of the future", wrapped(asked(), now + 400), expired),
        ]
        for what, message, code in cases:
            mailbox.send(QUEUE, json.dumps(message).encode())
            answer = self._answer(mailbox)
            assert (answer["status"], answer["code"]) == ("rejected", code), what
            assert answer["data"] is None
        mailbox.send(QUEUE, json.dumps(wrapped(asked(routing=[None, ALIAS]), now - 3600)).encode())
        eventually(lambda: runs(trace), what=served.process.tail())
        assert runs(trace) == {"ran": 1}
        log = served.process.log.read_text()
        assert re.search(r"rejected \(security\.expired\): 'signed (400|3\d\d) s in the future", log)
        assert SECRET not in log

    def test_a_copy_is_rejected_while_the_first_runs_and_after(
        self, served: Serving, mailbox: Mailbox, trace: Path
    ) -> None:
        ops = served.scheme.named("ops")
        request = mailbox.request(str(trace), "ran")
        go, copies = trace.with_name("go"), "a message is dropped (security.replayed"
        request["request"]["args"] = [str(trace), "ran", 0, str(go)]
        body = sign(json.dumps({**request, "routing": [None, QUEUE]}).encode(), ops)
        before = served.log.count(copies)
        for _ in range(3):
            mailbox.send(QUEUE, body)
        eventually(lambda: served.log.count(copies) == before + 2)
        go.touch()
        words = []
        while "result" not in words:
            words.append(self._answer(mailbox).get("status", "result"))
        assert "rejected" not in words  # the caller who waits would take that for the end

        def again() -> bool:
            mailbox.send(QUEUE, body)
            return mailbox.waits(1.0)

        eventually(again)  # its result is here before the agent knows that, and until then it runs
        rejected = self._answer(mailbox)
        assert (rejected["status"], rejected["code"]) == ("rejected", "security.replayed")
        assert runs(trace) == {"ran": 1}

    def test_a_copy_is_rejected_after_a_restart_of_the_agent(
        self, served: Serving, mailbox: Mailbox, trace: Path
    ) -> None:
        ops = served.scheme.named("ops")
        body = sign(json.dumps({**mailbox.request(str(trace), "ran"), "routing": [None, QUEUE]}).encode(), ops)
        mailbox.send(QUEUE, body)
        while "result" not in self._answer(mailbox):
            pass
        served.process.stop()  # which leaves nothing that the broker would deliver again
        served.process.start()
        mailbox.send(QUEUE, body)
        rejected = self._answer(mailbox)
        assert (rejected["status"], rejected["code"]) == ("rejected", "security.replayed")
        assert runs(trace) == {"ran": 1}

    def test_what_an_agent_took_when_it_was_killed_runs_again(self, served: Serving, trace: Path) -> None:
        """The broker delivers it again, and says so: that is no copy."""
        with served.agent(wait=60) as agent, ThreadPoolExecutor(8) as threads:
            calls = [threads.submit(agent.Probe().note, str(trace), f"n{n}", 0.7) for n in range(8)]
            eventually(lambda: len(runs(trace)) >= 4)
            served.process.kill()
            served.process.start()
            assert sorted(call.result(60) for call in calls) == [f"n{n}" for n in range(8)]
        assert set(runs(trace).values()) <= {1, 2}

    def test_secret_and_signature_both_count(self, served: Serving) -> None:
        with served.agent() as agent:
            assert agent(secret="second").Who().knows() == "in"
            with pytest.raises(NotAuthorized, match="secret"):
                agent(secret=SECRET).Who().knows()
        assert SECRET not in served.process.log.read_text()

    def test_replies_that_were_tampered_with_do_not_validate(self, served: Serving, mailbox: Mailbox) -> None:
        ops = served.scheme.named("ops")
        document = {**mailbox.request("", ""), "routing": [None, QUEUE], "wait": 10}
        document["request"] = {"classname": "Probe", "method": "echo", "args": [1]}
        mailbox.send(QUEUE, sign(json.dumps(document).encode(), ops))
        wrapper = mailbox.receive()
        while "result" not in json.loads(wrapper["message"]):  # an agent that has much to do says first how far it is
            wrapper = mailbox.receive()

        def check(text: str) -> str | None:
            digest = hashlib.sha256(text.encode()).hexdigest()
            return ops.validate(json.loads(text), digest, base64.b64decode(wrapper["signature"]))

        assert check(wrapper["message"]) == "agent"
        with pytest.raises(ValidationFailed):
            check(wrapper["message"].replace('"retval":1', '"retval":2'))

    @staticmethod
    def _answer(mailbox: Mailbox) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(mailbox.receive()["message"])
        return found


class _At:
    """Signs as if it were another time."""

    def __init__(self, signer: StampedAuthenticator, seconds: float) -> None:
        self._signer = signer
        self._seconds = seconds

    def sign(self, digest: str) -> str:
        return self._signer.sign_at(digest, self._seconds)

    def validate(self, document: Any, digest: str, signature: Any) -> str:
        return self._signer.validate(document, digest, signature)


@pytest.mark.parametrize(
    ("who", "why"),
    [("web server", "the certificate is not for clientAuth"), ("unknown extension", "a critical extension")],
)
def test_a_certificate_that_its_authority_has_issued_for_something_else_signs_nothing(
    tmp_path: Path, who: str, why: str
) -> None:
    with serving(tmp_path, x509_scheme(tmp_path)) as served, served.agent(who) as agent:
        with pytest.raises(Rejected) as refused:
            agent.Probe().note(str(tmp_path / "trace"), "ran")
        assert refused.value.code == "security.authentication"
        assert why in str(refused.value.details)
    assert not (tmp_path / "trace").exists()


def test_an_agent_without_the_x509_authenticator_imports_no_cryptography(root: Path, tmp_path: Path) -> None:
    scheme = hmac_scheme(tmp_path)
    look = (
        "\n\nclass Look:\n    @remote\n    def modules(self):\n        import sys\n        return sorted(sys.modules)\n"
    )
    with LocalBroker(str(tmp_path / "broker.sock")) as broker, AgentProcess(root) as process:
        process.plugin(
            "probe",
            PROBE + look,
            f"[main]\nenabled = 1\n[messaging]\nurl = {broker.url}\nauthenticator = hmac\n"
            f"[model]\nqueue = {QUEUE}\n[hmac]\n{scheme.section}",
        )
        process.start()
        with Agent(broker.url, QUEUE, wait=20, authenticator=scheme.named("ops")) as agent:
            until_it_answers(agent, process.tail())
            modules = {name.partition(".")[0] for name in agent.Look().modules()}
    assert "gofer_authenticator_hmac" in modules
    assert not modules & {"cryptography", "gofer_authenticator_x509", "pam", "click", "rich"}


def test_keys_that_are_wrong_quarantine_the_plugin_and_its_line_says_why(root: Path, tmp_path: Path) -> None:
    with LocalBroker(str(tmp_path / "broker.sock")) as broker, AgentProcess(root) as process:
        text = f"[main]\nenabled = 1\n[messaging]\nurl = {broker.url}\nauthenticator = hmac\n[model]\nqueue = {QUEUE}\n"
        process.plugin("probe", PROBE, f"{text}[hmac]\nkeys = {tmp_path / uuid.uuid4().hex}\n")
        process.start()
        eventually(lambda: "cannot be made of section [hmac]" in process.log.read_text(), what=process.tail())
