"""Messages between an agent and the process of a forked call."""

from __future__ import annotations

import pytest
from gofer.rmi.model.pipe import CALL, PROGRESS, VALUE, Messages, head

MESSAGES = [(CALL, b""), (PROGRESS, b"{}"), (VALUE, b"x" * 300)]
STREAM = b"".join(head(kind, len(body)) + body for kind, body in MESSAGES)


@pytest.mark.parametrize("size", [1, 2, 7, 9, 100, len(STREAM)])
def test_messages_come_out_whole_however_they_were_cut(size: int) -> None:
    frames = Messages()
    found = [one for at in range(0, len(STREAM), size) for one in frames.feed(STREAM[at : at + size])]

    assert found == MESSAGES


def test_a_message_over_the_limit_is_refused_before_its_body_comes() -> None:
    frames = Messages(limit=300)
    assert frames.feed(STREAM) == MESSAGES
    with pytest.raises(ValueError, match="301 bytes, and 300 is the limit"):
        frames.feed(head(VALUE, 301))
