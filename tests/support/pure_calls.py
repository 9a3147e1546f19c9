"""Calls without a connection, and notices as replies bring them."""

from __future__ import annotations

from typing import Any

from gofer.messaging.document import VERSION, encode
from gofer.rmi.client.call import Call
from gofer.rmi.client.notices import Notice, read_reply
from gofer.rmi.client.options import Options

__all__ = ["new_call", "notice_of"]


def new_call(sn: str, address: str = "queue", method: str = "Dog.bark", **options: Any) -> Call:
    """Make a call whose request is not sent."""
    classname, _, name = method.partition(".")
    document = {"sn": sn, "routing": [None, address], "request": {"classname": classname, "method": name}}
    return Call(document, Options().having(options), lambda: None)


def notice_of(**said: Any) -> Notice:
    """Read a reply to the request ``a``."""
    return read_reply(encode({"sn": "a", "version": VERSION, "origin": "queue", **said})).notice
