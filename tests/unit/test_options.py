"""The options of a call: what each takes, and what is said about anything else."""

from __future__ import annotations

import math
from base64 import b64encode
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from gofer.errors import ConfigError, PluginError
from gofer.rmi.client.options import OPTION_NAMES, Options
from hypothesis import given
from hypothesis import strategies as st
from support.captured import HexAuthenticator


def test_the_defaults_are_a_wait_of_90_seconds_and_nothing_else() -> None:
    options = Options()
    given_ = {name: value for name in OPTION_NAMES if (value := getattr(options, name))}

    assert given_ == {"wait": 90.0}
    assert options.having({}) == options


def test_the_options_are_these() -> None:
    """Who adds one tells it in the class's text."""
    names = "authenticator confirm data exchange pam password progress reply secret timeout trigger ttl user wait"
    assert sorted(OPTION_NAMES) == names.split()
    assert all(name in (Options.__doc__ or "") for name in OPTION_NAMES)


def test_others_stay_as_they_were_and_the_given_one_is_left_alone() -> None:
    first = Options().having({"wait": 5, "data": {"a": 1}})
    second = first.having({"wait": "1m"})

    assert (first.wait, second.wait) == (5.0, 60.0)
    assert first.data == second.data == {"a": 1}


@pytest.mark.parametrize("name", ["wait", "ttl", "timeout"])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (5, 5.0), (0.25, 0.25), ("5", 5.0), ("30s", 30.0), ("5m", 300.0), ("2h", 7200.0), ("1d", 86400.0),
        (" 1.5 m ", 90.0), (None, None),
    ],
)  # fmt: skip
def test_times_are_seconds_or_text_with_a_unit(name: str, value: Any, seconds: float | None) -> None:
    found = getattr(Options().having({name: value}), name)
    assert found == seconds
    assert isinstance(found, float | None)


@pytest.mark.parametrize("name", ["wait", "ttl", "timeout"])
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("soon", ConfigError), ("", ConfigError), ("5 parsecs", ConfigError), ("-5s", ConfigError), (-1, ConfigError),
        (math.nan, ConfigError), (math.inf, ConfigError), (True, TypeError), ([5], TypeError), (b"5", TypeError),
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused_by_the_options_name(name: str, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"^{name}: "):
        Options().having({name: value})


def test_only_wait_may_be_nothing_at_all() -> None:
    assert Options().having({"wait": 0}).wait == 0
    for name in ("ttl", "timeout"):
        for value in (0, "0s", 0.0):
            with pytest.raises(TypeError, match=f"{name} must be more than 0 seconds"):
                Options().having({name: value})


@pytest.mark.parametrize("name", sorted(OPTION_NAMES - {"trigger", "confirm"}))
def test_none_means_no_limit_or_nothing_and_never_the_default(name: str) -> None:
    assert getattr(Options().having({name: None}), name) is None


@pytest.mark.parametrize("name", ["trigger", "confirm"])
def test_switches_are_on_or_off(name: str) -> None:
    assert [getattr(Options().having({name: value}), name) for value in (0, 1, False, True)] == [0, 1, 0, 1]
    for value in (None, 2, -1, "1", 1.0):
        with pytest.raises(TypeError, match=f"{name} must be 0 or 1, not {value!r}"):
            Options().having({name: value})


@pytest.mark.parametrize("name", ["data", "secret"])
def test_data_and_secret_are_any_json_value_copied(name: str) -> None:
    value: dict[str, Any] = {"a": (1, [2])}
    options = Options().having({name: value})
    value["a"][1].append(3)
    assert getattr(options, name) == {"a": [1, [2]]}

    for bad in (object(), {1: 2}, math.nan, b"x", "\udc80"):
        with pytest.raises(TypeError, match=f"^{name}"):
            Options().having({name: bad})


def test_progress_is_callable() -> None:
    assert Options().having({"progress": print}).progress is print
    for value in (5, "print", [print]):
        with pytest.raises(TypeError, match=f"progress must be callable, not {type(value).__name__}"):
            Options().having({"progress": value})


def test_reply_is_an_address() -> None:
    assert Options().having({"reply": "amq.direct/q"}).reply == "amq.direct/q"
    for value in ("", "exchange/", 5, "a\nb", "x" * 300):
        with pytest.raises(ConfigError, match="address"):
            Options().having({"reply": value})


def test_exchange_is_the_name_of_one() -> None:
    """It stands before a '/' in the address of the reply queue."""
    assert Options().having({"exchange": "amq.direct"}).exchange == "amq.direct"
    assert Options().having({"exchange": ""}).exchange is None
    for value in ("a/b", "/", "x" * 300, "a\nb"):
        with pytest.raises(ConfigError):
            Options().having({"exchange": value})
    with pytest.raises(TypeError, match="exchange must be text"):
        Options().having({"exchange": 5})


@pytest.mark.parametrize("name", ["user", "password"])
def test_user_and_password_are_text(name: str) -> None:
    assert getattr(Options().having({name: "grün"}), name) == "grün"
    for value in (5, b"x", ["x"], "\udc80"):
        with pytest.raises(TypeError, match=f"^{name} (must be|is) text"):
            Options().having({name: value})


@pytest.mark.parametrize(
    ("given_", "login"),
    [
        ({}, None),
        ({"password": "p"}, None),
        ({"user": "u"}, {"user": "u", "password": None}),
        ({"user": "u", "password": "p"}, {"user": "u", "password": "p"}),
        ({"pam": {"user": "u", "password": "p"}}, {"user": "u", "password": "p"}),
        ({"pam": MappingProxyType({"user": "u"}), "user": "other"}, {"user": "u"}),
        ({"pam": {}}, {}),
    ],
)
def test_the_login_is_that_of_user_and_password_unless_pam_is_given(given_: dict[str, Any], login: Any) -> None:
    assert Options().having(given_).login == login


def test_pam_is_a_mapping_of_plain_values() -> None:
    for value in ("me", 5, [("user", "me")], {"user": object()}, {5: "x"}):
        with pytest.raises(TypeError, match="pam"):
            Options().having({"pam": value})


def test_an_authenticator_signs_and_validates() -> None:
    authenticator = HexAuthenticator()
    assert Options().having({"authenticator": authenticator}).authenticator is authenticator
    with pytest.raises(TypeError, match="authenticator must be a name, or an object with sign"):
        Options().having({"authenticator": {}})


def test_an_authenticator_may_be_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings are a section of a file: of caller.conf, or of one that the environment names."""
    with pytest.raises(PluginError, match=r"key 'keys' is missing.*caller\.conf"):
        Options().having({"authenticator": "hmac"})
    folder = root / "etc/gofer"
    keys = folder / "keys"
    keys.touch(0o600)
    keys.write_text(f"me {b64encode(bytes(32)).decode()}\n")
    (folder / "caller.conf").write_text("[hmac]\nkeys = keys\n")
    (folder / "caller.conf").chmod(0o644)
    made = Options().having({"authenticator": "hmac"}).authenticator
    assert made.validate({}, "d", made.sign("d").encode()) == "me"

    other = folder / "other.conf"
    other.write_text("[hmac]\nkeys = keys\npeers = you\n")
    other.chmod(0o644)
    monkeypatch.setenv("GOFER_CALLER_CONF", str(other))
    assert Options().having({"authenticator": "hmac"}).authenticator.peers == {"you"}
    other.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod"):
        Options().having({"authenticator": "hmac"})
    monkeypatch.setenv("GOFER_CALLER_CONF", str(folder / "none.conf"))
    with pytest.raises(ConfigError, match="No such file"):
        Options().having({"authenticator": "hmac"})

    monkeypatch.delenv("GOFER_CALLER_CONF")
    named = Options().having({"authenticator": "support.captured.HexAuthenticator"}).authenticator
    assert isinstance(named, HexAuthenticator)
    for wrong in ("nope", "support.captured.Nope", "json.dumps"):
        with pytest.raises(PluginError, match=wrong):
            Options().having({"authenticator": wrong})


@given(st.dictionaries(st.text().filter(lambda name: name not in OPTION_NAMES), st.none(), min_size=1, max_size=3))
def test_an_unknown_option_is_refused_with_the_names_of_all(unknown: dict[str, None]) -> None:
    with pytest.raises(TypeError) as caught:
        Options().having({**unknown, "wait": 5})
    text = str(caught.value)
    assert all(repr(name) in text for name in unknown)
    assert text.endswith(f"allowed: {', '.join(sorted(OPTION_NAMES))}")


def test_nothing_shows_what_is_secret() -> None:
    options = Options().having({"secret": "s3cret", "password": "pa55", "pam": {"password": "w0rd"}, "user": "me"})
    text = repr(options)
    assert "me" in text
    assert not any(hidden in text for hidden in ("s3cret", "pa55", "w0rd"))
