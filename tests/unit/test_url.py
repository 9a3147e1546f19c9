"""URLs: what is read from one, what is refused, and that no text of ours shows the password."""

from __future__ import annotations

import pytest
from gofer.errors import ConfigError
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from hypothesis import assume, example, given
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,20}", fullmatch=True)


@st.composite
def urls(draw: st.DrawFn) -> URL:
    """Draw a URL as ``parse`` may return one."""
    adapter = draw(st.none() | st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,9}", fullmatch=True))
    assume(adapter != "local")
    if draw(st.integers(0, 9)) == 0:
        return URL("", "local", adapter or "local", None, None, None, draw(st.none() | TEXT.map(lambda t: f"/{t}x")))
    user, password = draw(st.tuples(TEXT, st.none() | TEXT) | st.just((None, None)))
    if user == "" and password is None:
        user = None
    return URL(
        draw(NAME | st.ip_addresses().map(str)),
        draw(st.sampled_from(["amqp", "tcp", "amqps", "ssl"])),
        adapter,
        draw(st.integers(1, 65535)),
        user,
        password,
        draw(st.none() | TEXT.filter(bool)),
    )


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("amqp://h", URL("h", "amqp", None, 5672)),
        ("h", URL("h", "amqp", None, 5672)),
        ("h:5673", URL("h", "amqp", None, 5673)),
        ("guest:secret@h", URL("h", "amqp", None, 5672, "guest", "secret")),
        ("tcp://h", URL("h", "tcp", None, 5672)),
        ("ssl://h", URL("h", "ssl", None, 5671)),
        ("amqps://h:1/", URL("h", "amqps", None, 1)),
        ("AMQP://h", URL("h", "amqp", None, 5672)),
        ("qpid+amqp://u@h/zoo", URL("h", "amqp", "qpid", 5672, "u", None, "zoo")),
        ("amqp://u:p%40%2Fss@h/%2F", URL("h", "amqp", None, 5672, "u", "p@/ss", "/")),
        ("amqp://u:@h", URL("h", "amqp", None, 5672, "u", "")),
        ("amqp://:p@h", URL("h", "amqp", None, 5672, "", "p")),
        ("amqp://@h", URL("h", "amqp", None, 5672)),
        ("amqp://[::1]:5/x", URL("::1", "amqp", None, 5, None, None, "x")),
        ("amqp://[fe80::1%eth0]", URL("fe80::1%eth0", "amqp", None, 5672)),
        ("  amqp://h \n", URL("h", "amqp", None, 5672)),
        ("local://", URL("", "local", "local")),
        ("local:///", URL("", "local", "local")),
        ("local:///run/a b.sock", URL("", "local", "local", path="/run/a b.sock")),
        ("other+local:///x", URL("", "local", "other", path="/x")),
    ],
)
def test_a_url_is_read(text: str, url: URL) -> None:
    assert URL.parse(text) == url
    assert URL.parse(url) is url
    assert URL.parse(url.text) == url
    assert Connector.of(text) == Connector.of(url) == Connector(url)


@given(urls())
def test_text_and_parse_are_inverse(url: URL) -> None:
    assert URL.parse(url.text) == url


@given(st.text() | st.text("amqplocs+:/@[]%.1 \n", max_size=30))
@example("amqp://@h")
@example("local://:p@/x")
@example("amqp://h:" + "9" * 5000)
@example("amqp://\udc80@h")
def test_any_text_is_a_url_or_a_config_error(text: str) -> None:
    try:
        url = URL.parse(text)
    except ConfigError:
        return
    assert URL.parse(url.text) == url
    assert str(url) != ""


@given(urls(), st.text("abcXYZ0!$/:@ \n\u20ac", min_size=1).map(lambda text: f"<{text}>"))
def test_neither_str_nor_repr_shows_the_password(url: URL, password: str) -> None:
    if url.protocol != "local":
        url = URL(url.host, url.protocol, url.adapter, url.port, "me", password, url.path)
        assert ":***@" in str(url)
    for text in (str(url), repr(url), repr(Connector(url)), f"{url}", f"{url!r}"):
        assert password not in text
        # Of a local broker the path may have such a character, and there is no password.
        assert url.password is None or "%3C" not in text.partition("@")[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no host"),
        ("amqp://", "no host"),
        ("amqp://u:<pw>@", "no host"),
        ("http://u:<pw>@h", "unknown protocol 'http'"),
        ("amqp://u:<pw>@h:0", "port 0"),
        ("u:<pw>@h:99999", "port 99999"),
        ("amqp://u:<pw>@h:x", "not a URL"),
        ("amqp://u:<pw>", "not a URL"),
        ("u:<pw>", "not a URL"),
        ("amqp://u:<p@w>@h:0", "not a URL"),
        ("amqp://us@er:<pw>@h", "not a URL"),
        ("amqp://us/er:<pw>@h", "not a URL"),
        ("amqp://u:<p\nw>@h:0", "port 0"),
        ("amqp://u:<p/w>@h", "not a URL"),
        ("amqp://u:<pw>@a b", "spaces or control characters"),
        ("amqp://u:<pw>@a\nb", "spaces or control characters"),
        ("amqp://u:<pw>@h\udc80", "not UTF-8"),
        ("local://u:<pw>@/x", "local takes only a path"),
        ("local://:<pw>@/x", "local takes only a path"),
        ("local://h", "local takes only a path"),
        ("local://:1", "local takes only a path"),
        ("local+amqp://u:<pw>@h", "the adapter local has no hosts. Write local:// .* or amqp:// without local"),
    ],
)
def test_what_is_no_url_is_refused_without_showing_a_password(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        URL.parse(text)
    assert "<p" not in str(caught.value)
    assert "w>" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 5, b"amqp://h", ["amqp://h"]])
def test_a_url_is_text(value: object) -> None:
    with pytest.raises(ConfigError, match="a URL is text"):
        URL.parse(value)  # type: ignore[arg-type]  # what the test is about


def test_only_amqps_and_ssl_are_tls() -> None:
    assert {protocol for protocol in ("amqp", "tcp", "amqps", "ssl") if URL.parse(f"{protocol}://h").tls} == {
        "amqps",
        "ssl",
    }


def test_equal_connectors_are_one_key() -> None:
    assert len({Connector.of("amqp://h"), Connector.of("amqp://h:5672/"), Connector.of(URL.parse("h"))}) == 1
    assert Connector.of("amqp://a") != Connector.of("amqp://b")
    assert Connector.of("amqp://u:x@h") != Connector.of("amqp://u:y@h")
    connector = Connector(URL.parse("amqp://h"), heartbeat=3)
    assert Connector.of(connector) is connector


@pytest.mark.parametrize("text", ["amqp://u:hidden@h:5/v", "qpid+amqps://h", "u:hidden@h", "h/v"])
def test_the_text_of_a_url_is_not_taken_for_a_host(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write URL\.parse\('") as caught:
        URL(text)
    assert "hidden" not in str(caught.value)
