"""What is wrong with a signed message: each is rejected with its code, counted, and not run."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gofer.messaging.auth import sign
from gofer.messaging.document import encode
from gofer_authenticator_hmac import HmacAuthenticator
from support import kennel
from support.receiving import Served, request, served
from support.waiting import eventually

DAY = 86400.0


def codes(serving: Served) -> Counter[str | None]:
    """The codes of the replies so far."""
    return Counter(json.loads(wrapper["message"]).get("code") for wrapper in list(serving.caller.replies))


class At:
    """Signs as if it were another time."""

    def __init__(self, signer: HmacAuthenticator, seconds: float) -> None:
        self.sign = lambda digest: signer.sign_at(digest, time.time() + seconds)
        self.validate = signer.validate


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    for name, secret in (("ours", b"o"), ("theirs", b"t")):
        file = folder / name
        file.touch(0o600)
        file.write_text(f"ops {base64.b64encode(secret * 32).decode()}\n")
    return folder


def test_each_is_rejected_with_its_code_counted_and_not_run(
    tmp_path: Path, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = HmacAuthenticator(keys / "ours"), HmacAuthenticator(keys / "theirs")

    def asked(**more: Any) -> bytes:
        return encode(request("Dog", "echo", "never", secret="s3cr3t", pam={"user": "u", "password": "s3cr3t"}, **more))

    def tampered(body: bytes) -> bytes:
        return body.replace(b"never", b"hurry")

    wrong = {
        "unsigned": (asked(), "security.authentication"),
        "tampered": (tampered(sign(asked(), ours)), "security.authentication"),
        "wrongly signed": (sign(asked(), theirs), "security.authentication"),
        "expired": (sign(asked(), At(ours, -8 * DAY)), "security.expired"),
        "of the future": (sign(asked(), At(ours, DAY)), "security.expired"),
        "older than its ttl": (sign(asked(ttl=5), At(ours, -400)), "security.expired"),
        "for another agent": (sign(asked(routing=[None, "another"]), ours), "security.addressee"),
    }
    with served(tmp_path, authenticator=ours) as serving:
        for body, _ in wrong.values():
            serving.caller.send(body)
        eventually(lambda: len(serving.caller.replies) == len(wrong))
        heard = [json.loads(wrapper["message"]) for wrapper in serving.caller.replies]
        assert [one["code"] for one in heard] == [code for _, code in wrong.values()]
        assert {one["status"] for one in heard} == {"rejected"}
        assert all(one["description"] and one["details"] and one["data"] is None for one in heard)
        assert serving.counted == {"rejected": len(wrong)}
        assert kennel.ran() == []

        good = sign(encode(request("Dog", "echo", "once")), ours)
        serving.caller.send(good)
        eventually(lambda: serving.counted.get("done") == 1)
        serving.idle()
        serving.caller.send(good)  # a copy of it
        eventually(lambda: serving.counted["rejected"] == len(wrong) + 1)
        eventually(lambda: codes(serving)["security.replayed"] == 1)
        assert kennel.ran() == ["once"]
        assert serving.counted["accepted"] == 1
    assert "s3cr3t" not in caplog.text
    assert base64.b64encode(b"o" * 32).decode() not in caplog.text
