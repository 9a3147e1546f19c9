"""The one tree of gofer's errors.

::

    GoferError
    ├── ConfigError (ValueError)            a file or an argument is wrong; the text names file, section, key
    ├── PluginError                         a plugin cannot be found, loaded or changed
    ├── MessagingError
    │   ├── AdapterError                    the broker refused, or its adapter is missing or wrong
    │   ├── NotFound (LookupError)          no such queue or exchange, or no route to one
    │   ├── ConnectionLost (ConnectionError)  no connection, or it went away
    │   └── DocumentError (ValueError)      a document that cannot be read, signed or verified
    └── CallError                           what a caller gets instead of a value
        ├── RequestTimeout (TimeoutError)   no result in time; says how far the request got
        ├── Rejected                        the agent refused the request, with a code
        ├── NotTaken                        requests sent without waiting that the broker did not confirm
        ├── Cancelled                       cancelled before it ended
        ├── Interrupted                     started, and its end is unknown
        ├── ExecutionTimeout (TimeoutError) ran longer than its limit
        ├── ProcessDied                     the process of a forked call ended without a result
        ├── ResultTooLarge                  a result over the size limit
        ├── InvalidOperator (ValueError)    criteria with an unknown operator
        ├── RemoteException                 a remote exception whose class is not known here
        └── DispatchError                   the agent has no such method, or not for this caller
            ├── NamespaceNotFound (LookupError)
            ├── MemberNotFound (LookupError)
            └── NotAuthorized (PermissionError)
                ├── SecretRequired, SecretNotMatched
                └── UserRequired, PasswordRequired, UserNotAuthorized, NotAuthenticated

Everything gofer raises on purpose is in this tree, but for a TypeError or ValueError where an argument itself is wrong.
"""

from __future__ import annotations

__all__ = [
    "GoferError",
    "ConfigError",
    "PluginError",
    "MessagingError",
    "AdapterError",
    "NotFound",
    "ConnectionLost",
    "DocumentError",
    "CallError",
    "RequestTimeout",
    "Rejected",
    "NotTaken",
    "Cancelled",
    "Interrupted",
    "ExecutionTimeout",
    "ProcessDied",
    "ResultTooLarge",
    "InvalidOperator",
    "RemoteException",
    "DispatchError",
    "NamespaceNotFound",
    "MemberNotFound",
    "NotAuthorized",
    "SecretRequired",
    "SecretNotMatched",
    "UserRequired",
    "PasswordRequired",
    "UserNotAuthorized",
    "NotAuthenticated",
]


class GoferError(Exception):
    """Root of the tree."""


class ConfigError(GoferError, ValueError):
    """A configuration file or an argument is wrong. The text names it and says what is allowed."""


class PluginError(GoferError):
    """A plugin cannot be found, loaded, changed or unloaded."""


class MessagingError(GoferError):
    """Root of the errors of brokers, connections and messages."""


class AdapterError(MessagingError):
    """The broker refused (login, permission, arguments), or no adapter serves the URL."""


class NotFound(MessagingError, LookupError):
    """A queue or an exchange that does not exist, or an address that leads to none."""


class ConnectionLost(MessagingError, ConnectionError):
    """No connection to the broker: refused, timed out, gone, or silent for two heartbeats."""


class DocumentError(MessagingError, ValueError):
    """A document that cannot be read, signed or verified.

    ``code`` is what a rejection carries: ``model.invalid``, ``model.version``, ``security.authentication`` ...
    """

    def __init__(self, code: str, description: str, details: object = None) -> None:
        super().__init__(code, description, details)
        self.code = code
        self.description = description
        self.details = details

    def __str__(self) -> str:
        return _sentence(self.code, self.description, self.details)


class CallError(GoferError):
    """Root of what a caller gets instead of a value.

    ``method`` and ``address`` name the call that failed, where the caller's own process knows them; else they are None.
    """

    method: str | None = None
    address: str | None = None

    def __str__(self) -> str:
        return self._named(super().__str__())

    def _named(self, text: str) -> str:
        """Put the method and the agent's address in front of a text, unless it begins with the method already."""
        if self.address is None:
            return text
        called = f"{self.method}()"
        where = f"{called} at {self.address!r}"
        return where + text.removeprefix(called) if text.startswith(called) else f"{where}: {text}"


class _SerialNumber(str):
    """A serial number, which may also be called for: gofer 2 had methods where there are attributes now."""

    __slots__ = ()

    def __call__(self) -> str:
        return str(self)


class RequestTimeout(CallError, TimeoutError):
    """No result within ``wait``. ``state`` is how far the request is known to have got.

    ``state``: ``not sent``, ``sent`` (no word from the agent), ``accepted``, ``started`` or ``progress``; ``report`` is
    the last progress report, if any. Whatever the state, the request may still run until its ttl.
    """

    def __init__(self, sn: str, wait: float | None, state: str, detail: str, report: object = None) -> None:
        # Not the next in line: OSError would take the arguments for an error number, a text and file names.
        Exception.__init__(self, sn, wait, state, detail, report)
        self.wait = wait
        self.state = state
        self.detail = detail
        self.report = report

    @property
    def sn(self) -> _SerialNumber:
        """The request's serial number; ``sn()`` is the same."""
        return _SerialNumber(self.args[0])

    def __str__(self) -> str:
        waited = "" if self.wait is None else f" after {self.wait:g} s"
        text = f"no result{waited}: {self.detail}"
        return f"request {self.sn}: {text}" if self.address is None else self._named(f"{text} (request {self.sn})")


class Rejected(CallError):
    """The agent refused the request. ``code`` is for programs, ``description`` and ``details`` for people."""

    def __init__(self, sn: str | None, code: str, description: str, details: object = None) -> None:
        super().__init__(sn, code, description, details)
        self.sn = sn
        self.code = code
        self.description = description
        self.details = details

    def __str__(self) -> str:
        text = f"rejected: {_sentence(self.code, self.description, self.details)}"
        return f"request {self.sn} {text}" if self.address is None else self._named(f"{text} (request {self.sn})")


class NotTaken(CallError):
    """Requests sent without waiting that the broker did not confirm. ``reasons``: a sentence by serial number."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__(reasons)
        self.reasons = reasons

    def __str__(self) -> str:
        shown = "; ".join(f"{sn}: {why}" for sn, why in list(self.reasons.items())[:3])
        more = f" (and {len(self.reasons) - 3} more)" if len(self.reasons) > 3 else ""
        return f"{len(self.reasons)} request(s) sent without waiting were not taken: {shown}{more}"


class Cancelled(CallError):
    """The request was cancelled before it ended."""


class Interrupted(CallError):
    """The request was started, and its end is unknown: its agent died, and it may not be run again."""


class ExecutionTimeout(CallError, TimeoutError):
    """The method ran longer than its limit."""


class ProcessDied(CallError):
    """The process of a forked call ended without a result; the text names the signal or the exit status."""


class ResultTooLarge(CallError):
    """The result is over the size limit of a message."""


class InvalidOperator(CallError, ValueError):
    """Criteria with an unknown operator."""


class RemoteException(CallError):
    """A remote exception whose class is not known here. The text is the remote trace.

    ``xmodule`` and ``xclass`` name the class, ``xargs`` and ``xstate`` are its arguments and attributes as plain data.
    """

    def __init__(
        self,
        trace: str = "",
        xmodule: str | None = None,
        xclass: str | None = None,
        xargs: object = None,
        xstate: object = None,
    ) -> None:
        super().__init__(trace)
        self.trace = trace
        self.xmodule = xmodule
        self.xclass = xclass
        self.xargs = xargs
        self.xstate = xstate

    def __str__(self) -> str:
        return Exception.__str__(self)  # not named: the trace is many lines, and a note names the call


class DispatchError(CallError):
    """The agent cannot give this request to a method."""


class NamespaceNotFound(DispatchError, LookupError):
    """No such class or module at this address."""


class MemberNotFound(DispatchError, LookupError):
    """The class or module has no such remote method. ``args`` is the method's name alone, as in gofer 2.12."""

    #: The sentence; agents of gofer 2.12 send none.
    description: str | None = None

    def __init__(self, method: str = "", description: str | None = None) -> None:
        super().__init__(method)
        if description is not None:
            self.description = description

    def __str__(self) -> str:
        name = str(self.args[0]) if self.args else ""
        bare = f"no remote method {name!r}" if name.isidentifier() else name
        return self._named(bare if self.description is None else str(self.description))


class NotAuthorized(DispatchError, PermissionError):
    """The method is not for this caller."""


class SecretRequired(NotAuthorized):
    """A secret is required and none was passed."""


class SecretNotMatched(NotAuthorized):
    """The secret passed is not the right one. The text never tells which would be."""


class UserRequired(NotAuthorized):
    """A user name is required and none was passed."""


class PasswordRequired(NotAuthorized):
    """A password is required and none was passed."""


class UserNotAuthorized(NotAuthorized):
    """The user passed may not call the method."""


class NotAuthenticated(NotAuthorized):
    """User and password were refused."""


def _sentence(code: str, description: str, details: object) -> str:
    return f"{description} ({code})" if details is None else f"{description} ({code}): {details}"
