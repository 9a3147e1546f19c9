"""gofer-authenticator-hmac: shared keys in a file."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path

import pytest
from gofer.errors import ConfigError
from gofer.messaging.auth import ValidationFailed
from gofer.testing import AuthenticatorContract
from gofer.testing.authenticators import Make
from gofer_authenticator_hmac import HmacAuthenticator
from support.waiting import eventually

DIGEST = "ab" * 32


def line(name: str, byte: int, size: int = 32) -> str:
    return f"{name} {b64encode(bytes([byte]) * size).decode()}\n"


def key_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.touch(0o600)
    path.chmod(0o600)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return key_file(tmp_path / "keys", "# ours\n" + line("new", 1) + "\n" + line("old", 2) + "# the end\n")


class TestHmacContract(AuthenticatorContract):
    identity = "new"

    @pytest.fixture
    def make(self, keys: Path) -> Make:
        return lambda **limits: HmacAuthenticator(keys, **limits)

    @pytest.fixture
    def stranger(self, tmp_path: Path) -> HmacAuthenticator:
        return HmacAuthenticator(key_file(tmp_path / "others", line("new", 9)))


def test_any_key_of_the_file_is_taken_and_its_id_is_who_signed(keys: Path) -> None:
    one = HmacAuthenticator(keys)
    assert one.validate({}, DIGEST, HmacAuthenticator(keys, key="old").sign(DIGEST).encode()) == "old"


def test_a_key_that_is_taken_out_is_taken_no_more_and_a_new_one_is(keys: Path, tmp_path: Path) -> None:
    one = HmacAuthenticator(keys)
    old = HmacAuthenticator(keys, key="old").sign(DIGEST).encode()
    newest = HmacAuthenticator(key_file(tmp_path / "next", line("newest", 3))).sign(DIGEST).encode()
    assert one.validate({}, DIGEST, old) == "old"

    def refused(signature: bytes) -> bool:
        try:
            one.validate({}, DIGEST, signature)
        except ValidationFailed:
            return True
        return False

    assert refused(newest)
    key_file(keys, line("newest", 3) + line("new", 1))
    eventually(lambda: not refused(newest))
    assert refused(old)
    assert one.stamp(one.sign(DIGEST).encode()).key == b"newest"


def test_a_file_that_goes_wrong_signs_and_takes_nothing_until_it_is_right(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gofer.messaging.keyfiles._LOOK", 0.0)
    one = HmacAuthenticator(keys)
    text = one.sign(DIGEST).encode()
    keys.chmod(0o644)
    for _ in range(2):
        with pytest.raises(ConfigError, match="0644"):
            one.sign(DIGEST)
        with pytest.raises(ConfigError, match="0644"):
            one.validate({}, DIGEST, text)
    keys.chmod(0o640)
    assert one.validate({}, DIGEST, text) == "new"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o620, 0o660, 0o777, 0o601])
def test_a_file_that_others_can_use_is_refused(keys: Path, mode: int) -> None:
    keys.chmod(mode)
    with pytest.raises(ConfigError, match=f"{mode:04o}"):
        HmacAuthenticator(keys)


def test_a_file_of_somebody_else_is_refused(keys: Path) -> None:
    if os.geteuid() != 0:
        pytest.fail("these tests run as root")
    os.chown(keys, 12345, 0)
    with pytest.raises(ConfigError, match="belongs to uid 12345"):
        HmacAuthenticator(keys)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "has no key"),
        ("# nothing\n", "has no key"),
        ("alone\n", "line 1: is not a key's id and the key"),
        ("a b c\n", "line 1: is not"),
        (line("new", 1) + line("new", 2), "line 2: 'new' is there already"),
        (line("short", 1, 31), "line 1: the key has 31 bytes"),
        ("bad s3cr3t-not-base64!\n", "line 1: the key is not base64"),
        (line("../etc", 1), "line 1: a key's id has letters"),
        ("grün s3cr3t\n", "not text of ASCII"),
    ],
)
def test_a_file_that_is_wrong_is_reported_without_its_keys(tmp_path: Path, text: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong) as caught:
        HmacAuthenticator(key_file(tmp_path / "keys", text))
    assert "s3cr3t" not in str(caught.value)


def test_its_settings(keys: Path) -> None:
    made = HmacAuthenticator.from_settings(
        {"keys": keys.name, "key": "old", "max_age": "2h", "peers": "new, old"}, keys.parent
    )
    assert (made.max_age, made.peers) == (7200.0, {"new", "old"})
    assert made.validate({}, DIGEST, made.sign(DIGEST).encode()) == "old"
    assert "AQEB" not in repr(made)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({}, "key 'keys' is missing; required: keys"),
        ({"keys": ""}, "key 'keys' is missing"),
        ({"keys": "none"}, "cannot be read: No such file"),
        ({"keys": "."}, "is a directory"),
        ({"keys": "keys", "key": "nope"}, "has no key 'nope'; it has: new, old"),
        (
            {"keys": "keys", "kay": "x"},
            "unknown key 'kay' \\(did you mean 'keys?'\\?\\); allowed: keys, key, max_age, peers",
        ),
        ({"keys": "keys", "max_age": "soon"}, "'soon' is not a duration"),
        ({"keys": "keys", "max_age": "0"}, "max_age must be more than 0 seconds"),
        ({"keys": "keys", "peers": " , "}, "peers names nobody"),
    ],
)
def test_settings_that_are_wrong(keys: Path, settings: dict[str, str], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        HmacAuthenticator.from_settings(settings, keys.parent)
