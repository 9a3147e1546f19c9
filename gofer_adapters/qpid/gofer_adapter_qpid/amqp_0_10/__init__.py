"""A client of AMQP 0-10 without I/O. It knows nothing of gofer.

:class:`Connection` logs in and keeps the channels; :class:`Session` sends and takes commands. The tables are written
from the specification, whose parts the modules name.
"""

from gofer_adapter_qpid.amqp_0_10.connection import Connection, Login, logins
from gofer_adapter_qpid.amqp_0_10.errors import (
    AmqpError,
    ConnectionClosed,
    LoginRefused,
    PeerSilent,
    ProtocolError,
    SessionClosed,
)
from gofer_adapter_qpid.amqp_0_10.frames import Ends
from gofer_adapter_qpid.amqp_0_10.messages import Message, Transfer, encode_header, encode_transfer
from gofer_adapter_qpid.amqp_0_10.publisher import Outcomes, Publisher
from gofer_adapter_qpid.amqp_0_10.session import Ranges, Session, to_ranges
from gofer_adapter_qpid.amqp_0_10.subscription import Subscription
from gofer_adapter_qpid.amqp_0_10.tasks import Fields, Question, Steps, Tasks, drain

__all__ = ["Connection", "Login", "Session", "Transfer", "logins", "encode_header", "encode_transfer"]
__all__ += ["Message", "Outcomes", "Publisher", "Question", "Fields", "Steps", "Subscription", "Tasks", "drain"]
__all__ += ["Ends", "Ranges", "to_ranges"]
__all__ += ["AmqpError", "ConnectionClosed", "LoginRefused", "PeerSilent", "ProtocolError", "SessionClosed"]
