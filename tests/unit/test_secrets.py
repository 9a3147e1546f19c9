"""What methods ask of their callers: compared whole, and shown to nobody."""

from __future__ import annotations

import io
import json
import logging
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.decorators import mark_of, remote
from gofer.errors import NotAuthorized
from gofer.messaging.document import decode_request, encode
from gofer.rmi import description
from gofer.rmi.api import API
from gofer.rmi.client.options import Options
from gofer.rmi.server import dispatch
from gofer.rmi.server.dispatch import authorize
from support.receiving import Served, request, served

SECRETS = ("s3cr3t-one", "s3cr3t-two-longer", "s3cr3t-3", "s3cr3t-\u00e4")


def guarded(secret: Any) -> API:
    @remote(secret=secret)
    def door() -> str:
        return "in"

    module = types.ModuleType("doors")
    door.__module__ = "doors"
    vars(module)["door"] = door
    return API.of_module(module)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """All that was logged, as a handler would write it, tracebacks included."""
    caplog.set_level(logging.DEBUG)
    return lambda: "\n".join(logging.Formatter("%(message)s %(args)s").format(record) for record in caplog.records)


def asked(secret: object) -> Any:
    """A request, as ``authorize`` looks at it."""
    document = decode_request(
        encode(request("doors", "door", secret=secret, pam={"user": "me", "password": "s3cr3t-p"}))
    )
    return types.SimpleNamespace(document=document, authenticated=None)


@pytest.mark.parametrize("given", [*SECRETS, "", "s3cr3t", "another"])
def test_every_candidate_is_compared_whole(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is right, and whether one is: as many comparisons, all of digests of one length."""
    compared: list[tuple[bytes, bytes]] = []
    real = dispatch.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(dispatch, "compare_digest", watched)
    target = guarded(SECRETS).find("doors", "door")
    if given in SECRETS:
        authorize(target, asked(given))
    else:
        with pytest.raises(NotAuthorized):
            authorize(target, asked(given))
    assert len(compared) == len(SECRETS)
    assert {len(side) for pair in compared for side in pair} == {32}
    assert len({one for one, _ in compared}) == len(SECRETS)  # each of them
    assert len({other for _, other in compared}) == 1  # with what was given


def raises(kind: type[BaseException]) -> Callable[[], str]:
    def secret() -> str:
        raise kind("s3cr3t-one")  # a line that a traceback would show

    return secret


@pytest.mark.parametrize(
    "secret",
    [
        *[raises(kind) for kind in (ValueError, SystemExit, KeyboardInterrupt, GeneratorExit)],
        lambda: b"s3cr3t-one",  # no text: nobody may
        lambda: ["s3cr3t-one", 5],
        lambda: {"s3cr3t-one": 1},
        lambda: ["s3cr3t-one", ""],
    ],
)
def test_a_secret_that_cannot_be_had_is_reported_to_nobody(secret: Any, tmp_path: Path, log: Callable[[], str]) -> None:
    with served(tmp_path) as serving:
        serving.plugin.api.add(guarded(secret))
        for given in (None, "s3cr3t-one"):
            error = serving.caller.error("doors", "door", secret=given)
            assert error["xclass"] == "NotAuthorized"
            assert "s3cr3t" not in json.dumps(error)
        assert serving.caller.value("Dog", "echo", 1) == 1  # the worker lives
    assert "doors.door(): " in log()
    assert "s3cr3t" not in log()


def test_neither_the_right_one_nor_a_wrong_one_is_shown_anywhere(tmp_path: Path, log: Callable[[], str]) -> None:
    def shown(serving: Served) -> Iterator[object]:
        for given in (None, "s3cr3t-wrong", ["s3cr3t-wrong"]):
            yield serving.caller.error("doors", "door", secret=given, pam={"user": "me", "password": "s3cr3t-p"})
        yield description.of_api(serving.plugin.api)
        target = serving.plugin.api.find("doors", "door")
        yield from (target, target.mark, mark_of(target.function), asked("s3cr3t-wrong").document)
        yield Options().having({"secret": "s3cr3t-wrong", "user": "me", "password": "s3cr3t-p"})
        yield Options().having({"pam": {"user": "me", "password": "s3cr3t-p"}})

    with served(tmp_path) as serving:
        serving.plugin.api.add(guarded(list(SECRETS)))
        for one in shown(serving):
            assert "s3cr3t" not in f"{one!r} {one}"
        target, wrong = serving.plugin.api.find("doors", "door"), asked("s3cr3t-wrong")
        try:
            authorize(target, wrong)
        except NotAuthorized:
            text = io.StringIO()
            traceback.print_exc(file=text)
        assert "s3cr3t" not in text.getvalue()
    assert "s3cr3t" not in log()
