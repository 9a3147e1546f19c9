"""Documents to which something happened on their way: for tests of whoever reads some."""

from __future__ import annotations

from hypothesis import strategies as st

from support.captured import CAPTURED

__all__ = ["BODIES", "FIELDS", "JUNK", "VALUES", "mangled", "swapped"]

BODIES = [message.body for message in CAPTURED.values()] + [message.inner for message in CAPTURED.values()]
JUNK = [
    b"", b" ", b"\0", b"[]", b"{}", b"5", b'""', b"null", b"NaN", b"nope", b"{", b'{"a"', b'{"sn": 5}', b"9" * 5000,
    b"1e999", b'"\\ud800"', b'"\xff"', b"\xef\xbb\xbf{}", b'{"message":1,"signature":2}',
    b'{"message":"","signature":""}', b'{"message": "{}", "signature": "\\ud800"}', b"[" * 100_000, b'{"a":' * 100_000,
]  # fmt: skip
VALUES = [
    "null", "true", "-1", "1.5", "NaN", "Infinity", "-Infinity", "1e999", "9" * 30, "9" * 5000, "nul", "",
    '"text"', '""', '"\\ud800"', '"\\u0000"', '"' + "[" * 300 + '"',
    "[]", "[null]", "[1, 2]", "[[], {}]", "[{}, []]",
    "[" * 50 + "]" * 50, "[" * 200 + "]" * 200, "[" * 9999 + "]" * 9999,
    "{}", '{"a": 1}', '{"a": 1, "a": 2}', '{"a":' * 150 + "1" + "}" * 150,
]  # fmt: skip
FIELDS = [
    "sn", "version", "routing", "replyto", "timestamp", "origin", "data", "secret", "pam", "wait", "again", "timeout",
    "request", "classname", "method", "cntr", "args", "kws", "kwargs", "status", "result", "retval", "exval", "xmodule",
    "xclass", "xstate", "xargs", "code", "description", "details", "total", "completed", "unknown",
]  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """Draw a real document to which something happened on its way."""
    body = bytearray(draw(st.sampled_from(BODIES)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        match draw(st.sampled_from(["flip", "cut", "drop", "insert", "double", "wide"])):
            case "flip" if at < len(body):
                body[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del body[at:]
            case "drop":
                del body[at : at + draw(st.integers(1, 20))]
            case "insert":
                body[at:at] = draw(st.binary(max_size=6) | st.sampled_from(JUNK[:-2]))
            case "double":
                body += body[at:]
            case "wide":
                text = bytes(body).decode("latin-1")
                body[:] = text.encode(draw(st.sampled_from(["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])))
            case _:
                pass
    return bytes(body)


@st.composite
def swapped(draw: st.DrawFn) -> bytes:
    """Draw a document of the right names with values of the wrong kinds, some of them twice."""
    fields = draw(st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(VALUES)), max_size=8))
    inner = ", ".join(f'"{name}": {value}' for name, value in draw(st.permutations(fields))[:4])
    outer = ", ".join(f'"{name}": {value}' for name, value in fields)
    box = draw(st.sampled_from(["request", "result", "message", "data"]))
    version = draw(st.sampled_from(['"version": "2.0", ', '"version": "1.0", ', ""]))
    core = '"classname": "A", "method": "b"' + (", " if inner else "")
    return f'{{{version}"{box}": {{{core}{inner}}}{", " if outer else ""}{outer}}}'.encode()
