"""List the types, controls, commands and structs of AMQP 0-10, as far as a client needs them.

Written by spec/generate.py from amqp.0-10-qpid-errata.stripped.xml; do not edit. The specification is
Copyright (c) 2009 AMQP Working Group; its terms stand in that file.
"""

# ruff: noqa: E501 - one control, command or struct a line

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CLOSE_CODES", "COMMANDS", "CONTROLS", "DETACH_CODES", "ERROR_CODES", "Layout", "STRUCTS", "TYPES", "Type"]


class Type(NamedTuple):
    """A primitive type: its code (None: it has none and stands only where it is expected) and its width in bytes.

    ``prefix``: the width of the size that stands before a value of variable width; 0: the width is fixed.
    """

    code: int | None
    width: int
    prefix: int


class Layout(NamedTuple):
    """A control, a command or a struct: what is encoded after its code.

    ``size`` and ``pack`` are the widths of the size before it and of its packing flags; ``fields`` are names and types;
    ``result`` is the struct that execution.result brings as the answer to a command.
    """

    name: str
    code: int
    size: int
    pack: int
    fields: tuple[tuple[str, str], ...]
    result: str | None = None


TYPES: dict[str, Type] = {
    "bin8": Type(0x00, 1, 0),
    "int8": Type(0x01, 1, 0),
    "uint8": Type(0x02, 1, 0),
    "char": Type(0x04, 1, 0),
    "boolean": Type(0x08, 1, 0),
    "bin16": Type(0x10, 2, 0),
    "int16": Type(0x11, 2, 0),
    "uint16": Type(0x12, 2, 0),
    "bin32": Type(0x20, 4, 0),
    "int32": Type(0x21, 4, 0),
    "uint32": Type(0x22, 4, 0),
    "float": Type(0x23, 4, 0),
    "char-utf32": Type(0x27, 4, 0),
    "sequence-no": Type(None, 4, 0),
    "bin64": Type(0x30, 8, 0),
    "int64": Type(0x31, 8, 0),
    "uint64": Type(0x32, 8, 0),
    "double": Type(0x33, 8, 0),
    "datetime": Type(0x38, 8, 0),
    "bin128": Type(0x40, 16, 0),
    "uuid": Type(0x48, 16, 0),
    "bin256": Type(0x50, 32, 0),
    "bin512": Type(0x60, 64, 0),
    "bin1024": Type(0x70, 128, 0),
    "vbin8": Type(0x80, 0, 1),
    "str8-latin": Type(0x84, 0, 1),
    "str8": Type(0x85, 0, 1),
    "str8-utf16": Type(0x86, 0, 1),
    "vbin16": Type(0x90, 0, 2),
    "str16-latin": Type(0x94, 0, 2),
    "str16": Type(0x95, 0, 2),
    "str16-utf16": Type(0x96, 0, 2),
    "byte-ranges": Type(None, 0, 2),
    "sequence-set": Type(None, 0, 2),
    "vbin32": Type(0xa0, 0, 4),
    "map": Type(0xa8, 0, 4),
    "list": Type(0xa9, 0, 4),
    "array": Type(0xaa, 0, 4),
    "struct32": Type(0xab, 0, 4),
    "bin40": Type(0xc0, 5, 0),
    "dec32": Type(0xc8, 5, 0),
    "bin72": Type(0xd0, 9, 0),
    "dec64": Type(0xd8, 9, 0),
    "void": Type(0xf0, 0, 0),
    "bit": Type(0xf1, 0, 0),
}

CLOSE_CODES: dict[int, str] = {
    200: "normal",
    320: "connection-forced",
    402: "invalid-path",
    501: "framing-error",
}

DETACH_CODES: dict[int, str] = {
    0: "normal",
    1: "session-busy",
    2: "transport-busy",
    3: "not-attached",
    4: "unknown-ids",
}

ERROR_CODES: dict[int, str] = {
    403: "unauthorized-access",
    404: "not-found",
    405: "resource-locked",
    406: "precondition-failed",
    408: "resource-deleted",
    409: "illegal-state",
    503: "command-invalid",
    506: "resource-limit-exceeded",
    530: "not-allowed",
    531: "illegal-argument",
    540: "not-implemented",
    541: "internal-error",
    542: "invalid-argument",
}

CONTROLS: dict[str, Layout] = {
    "connection.start": Layout("connection.start", 0x0101, 0, 2, (("server_properties", "map"), ("mechanisms", "array"), ("locales", "array"))),
    "connection.start-ok": Layout("connection.start-ok", 0x0102, 0, 2, (("client_properties", "map"), ("mechanism", "str8"), ("response", "vbin32"), ("locale", "str8"))),
    "connection.secure": Layout("connection.secure", 0x0103, 0, 2, (("challenge", "vbin32"),)),
    "connection.secure-ok": Layout("connection.secure-ok", 0x0104, 0, 2, (("response", "vbin32"),)),
    "connection.tune": Layout("connection.tune", 0x0105, 0, 2, (("channel_max", "uint16"), ("max_frame_size", "uint16"), ("heartbeat_min", "uint16"), ("heartbeat_max", "uint16"))),
    "connection.tune-ok": Layout("connection.tune-ok", 0x0106, 0, 2, (("channel_max", "uint16"), ("max_frame_size", "uint16"), ("heartbeat", "uint16"))),
    "connection.open": Layout("connection.open", 0x0107, 0, 2, (("virtual_host", "str8"), ("capabilities", "array"), ("insist", "bit"))),
    "connection.open-ok": Layout("connection.open-ok", 0x0108, 0, 2, (("known_hosts", "array"),)),
    "connection.redirect": Layout("connection.redirect", 0x0109, 0, 2, (("host", "str16"), ("known_hosts", "array"))),
    "connection.heartbeat": Layout("connection.heartbeat", 0x010a, 0, 2, ()),
    "connection.close": Layout("connection.close", 0x010b, 0, 2, (("reply_code", "uint16"), ("reply_text", "str8"))),
    "connection.close-ok": Layout("connection.close-ok", 0x010c, 0, 2, ()),
    "session.attach": Layout("session.attach", 0x0201, 0, 2, (("name", "vbin16"), ("force", "bit"))),
    "session.attached": Layout("session.attached", 0x0202, 0, 2, (("name", "vbin16"),)),
    "session.detach": Layout("session.detach", 0x0203, 0, 2, (("name", "vbin16"),)),
    "session.detached": Layout("session.detached", 0x0204, 0, 2, (("name", "vbin16"), ("code", "uint8"))),
    "session.request-timeout": Layout("session.request-timeout", 0x0205, 0, 2, (("timeout", "uint32"),)),
    "session.timeout": Layout("session.timeout", 0x0206, 0, 2, (("timeout", "uint32"),)),
    "session.command-point": Layout("session.command-point", 0x0207, 0, 2, (("command_id", "sequence-no"), ("command_offset", "uint64"))),
    "session.expected": Layout("session.expected", 0x0208, 0, 2, (("commands", "sequence-set"), ("fragments", "array"))),
    "session.confirmed": Layout("session.confirmed", 0x0209, 0, 2, (("commands", "sequence-set"), ("fragments", "array"))),
    "session.completed": Layout("session.completed", 0x020a, 0, 2, (("commands", "sequence-set"), ("timely_reply", "bit"))),
    "session.known-completed": Layout("session.known-completed", 0x020b, 0, 2, (("commands", "sequence-set"),)),
    "session.flush": Layout("session.flush", 0x020c, 0, 2, (("expected", "bit"), ("confirmed", "bit"), ("completed", "bit"))),
    "session.gap": Layout("session.gap", 0x020d, 0, 2, (("commands", "sequence-set"),)),
}

COMMANDS: dict[str, Layout] = {
    "execution.sync": Layout("execution.sync", 0x0301, 0, 2, ()),
    "execution.result": Layout("execution.result", 0x0302, 0, 2, (("command_id", "sequence-no"), ("value", "struct32"))),
    "execution.exception": Layout("execution.exception", 0x0303, 0, 2, (("error_code", "uint16"), ("command_id", "sequence-no"), ("class_code", "uint8"), ("command_code", "uint8"), ("field_index", "uint8"), ("description", "str16"), ("error_info", "map"))),
    "message.transfer": Layout("message.transfer", 0x0401, 0, 2, (("destination", "str8"), ("accept_mode", "uint8"), ("acquire_mode", "uint8"))),
    "message.accept": Layout("message.accept", 0x0402, 0, 2, (("transfers", "sequence-set"),)),
    "message.reject": Layout("message.reject", 0x0403, 0, 2, (("transfers", "sequence-set"), ("code", "uint16"), ("text", "str8"))),
    "message.release": Layout("message.release", 0x0404, 0, 2, (("transfers", "sequence-set"), ("set_redelivered", "bit"))),
    "message.acquire": Layout("message.acquire", 0x0405, 0, 2, (("transfers", "sequence-set"),), "message.acquired"),
    "message.resume": Layout("message.resume", 0x0406, 0, 2, (("destination", "str8"), ("resume_id", "str16")), "message.message-resume-result"),
    "message.subscribe": Layout("message.subscribe", 0x0407, 0, 2, (("queue", "str8"), ("destination", "str8"), ("accept_mode", "uint8"), ("acquire_mode", "uint8"), ("exclusive", "bit"), ("resume_id", "str16"), ("resume_ttl", "uint64"), ("arguments", "map"))),
    "message.cancel": Layout("message.cancel", 0x0408, 0, 2, (("destination", "str8"),)),
    "message.set-flow-mode": Layout("message.set-flow-mode", 0x0409, 0, 2, (("destination", "str8"), ("flow_mode", "uint8"))),
    "message.flow": Layout("message.flow", 0x040a, 0, 2, (("destination", "str8"), ("unit", "uint8"), ("value", "uint32"))),
    "message.flush": Layout("message.flush", 0x040b, 0, 2, (("destination", "str8"),)),
    "message.stop": Layout("message.stop", 0x040c, 0, 2, (("destination", "str8"),)),
    "exchange.declare": Layout("exchange.declare", 0x0701, 0, 2, (("exchange", "str8"), ("type", "str8"), ("alternate_exchange", "str8"), ("passive", "bit"), ("durable", "bit"), ("auto_delete", "bit"), ("arguments", "map"))),
    "exchange.delete": Layout("exchange.delete", 0x0702, 0, 2, (("exchange", "str8"), ("if_unused", "bit"))),
    "exchange.query": Layout("exchange.query", 0x0703, 0, 2, (("name", "str8"),), "exchange.exchange-query-result"),
    "exchange.bind": Layout("exchange.bind", 0x0704, 0, 2, (("queue", "str8"), ("exchange", "str8"), ("binding_key", "str8"), ("arguments", "map"))),
    "exchange.unbind": Layout("exchange.unbind", 0x0705, 0, 2, (("queue", "str8"), ("exchange", "str8"), ("binding_key", "str8"))),
    "exchange.bound": Layout("exchange.bound", 0x0706, 0, 2, (("exchange", "str8"), ("queue", "str8"), ("binding_key", "str8"), ("arguments", "map")), "exchange.exchange-bound-result"),
    "queue.declare": Layout("queue.declare", 0x0801, 0, 2, (("queue", "str8"), ("alternate_exchange", "str8"), ("passive", "bit"), ("durable", "bit"), ("exclusive", "bit"), ("auto_delete", "bit"), ("arguments", "map"))),
    "queue.delete": Layout("queue.delete", 0x0802, 0, 2, (("queue", "str8"), ("if_unused", "bit"), ("if_empty", "bit"))),
    "queue.purge": Layout("queue.purge", 0x0803, 0, 2, (("queue", "str8"),)),
    "queue.query": Layout("queue.query", 0x0804, 0, 2, (("queue", "str8"),), "queue.queue-query-result"),
}

STRUCTS: dict[str, Layout] = {
    "session.header": Layout("session.header", 0x0000, 1, 1, (("sync", "bit"),)),
    "session.command-fragment": Layout("session.command-fragment", 0x0000, 0, 0, (("command_id", "sequence-no"), ("byte_ranges", "byte-ranges"))),
    "message.delivery-properties": Layout("message.delivery-properties", 0x0401, 4, 2, (("discard_unroutable", "bit"), ("immediate", "bit"), ("redelivered", "bit"), ("priority", "uint8"), ("delivery_mode", "uint8"), ("ttl", "uint64"), ("timestamp", "datetime"), ("expiration", "datetime"), ("exchange", "str8"), ("routing_key", "str8"), ("resume_id", "str16"), ("resume_ttl", "uint64"))),
    "message.fragment-properties": Layout("message.fragment-properties", 0x0402, 4, 2, (("first", "bit"), ("last", "bit"), ("fragment_size", "uint64"))),
    "message.reply-to": Layout("message.reply-to", 0x0000, 2, 2, (("exchange", "str8"), ("routing_key", "str8"))),
    "message.message-properties": Layout("message.message-properties", 0x0403, 4, 2, (("content_length", "uint64"), ("message_id", "uuid"), ("correlation_id", "vbin16"), ("reply_to", "message.reply-to"), ("content_type", "str8"), ("content_encoding", "str8"), ("user_id", "vbin16"), ("app_id", "vbin16"), ("application_headers", "map"))),
    "message.acquired": Layout("message.acquired", 0x0404, 4, 2, (("transfers", "sequence-set"),)),
    "message.message-resume-result": Layout("message.message-resume-result", 0x0405, 4, 2, (("offset", "uint64"),)),
    "exchange.exchange-query-result": Layout("exchange.exchange-query-result", 0x0701, 4, 2, (("type", "str8"), ("durable", "bit"), ("not_found", "bit"), ("arguments", "map"))),
    "exchange.exchange-bound-result": Layout("exchange.exchange-bound-result", 0x0702, 4, 2, (("exchange_not_found", "bit"), ("queue_not_found", "bit"), ("queue_not_matched", "bit"), ("key_not_matched", "bit"), ("args_not_matched", "bit"))),
    "queue.queue-query-result": Layout("queue.queue-query-result", 0x0801, 4, 2, (("queue", "str8"), ("alternate_exchange", "str8"), ("durable", "bit"), ("exclusive", "bit"), ("auto_delete", "bit"), ("arguments", "map"), ("message_count", "uint32"), ("subscriber_count", "uint32"))),
}
