"""Users and passwords, checked by PAM in threads of their own: a wrong password takes seconds of nobody else's time."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from gofer.decorators import Login
from gofer.errors import NotAuthenticated, NotAuthorized, PasswordRequired, UserNotAuthorized, UserRequired
from gofer.messaging.document import shown
from gofer.rmi.server.serial import SerialThread

__all__ = ["Attempt", "Logins", "attempt", "pam_service"]

log = logging.getLogger(__name__)

_SERVICES = ("/etc/pam.d", "/usr/lib/pam.d")  # where Linux-PAM looks; some systems have their own files in the second
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MOST = 4  # passwords that are checked at the same time, each of another user
_WAITING = 32  # of one user
_FREE = 3  # wrong passwords of a user in a row before the next ones must wait
_LONGEST = 30.0  # seconds of that wait
_LONG = 512  # bytes of a password, as PAM has it
_LONG_NAME = 256  # characters of a user's name
_REMEMBERED = 1000  # users with a failure: plugins may let callers name any user


class Attempt(NamedTuple):
    """A user and a password, to be checked. ``target`` names the method that asks for them."""

    target: str
    user: str
    service: str | None
    password: str

    def __repr__(self) -> str:
        return f"<Attempt of {self.user!r} for {self.target}>"


Checked = Callable[[NotAuthorized | None], None]
Check = Callable[[str, bytes, str], bool]


def attempt(name: str, logins: tuple[Login, ...], given: Any) -> Attempt:
    """Read the ``pam`` field of a request for a method that only these users may call.

    Of what the caller has sent, only user and password count.

    Raises:
        UserRequired, PasswordRequired: none was given.
        UserNotAuthorized: another user.
    """
    fields = given if isinstance(given, Mapping) else {}
    user, password = fields.get("user"), fields.get("password")
    if not isinstance(user, str) or not user:
        raise UserRequired(f"{name}(): a user is required")
    if not isinstance(password, str) or not password:
        raise PasswordRequired(f"{name}(): a password is required")
    found = next((login for login in logins if login.user == user), None)
    if found is None or len(user) > _LONG_NAME:
        raise UserNotAuthorized(f"{name}(): this user may not call it")
    return Attempt(name, found.user, found.service, password)


def pam_service(wanted: str | None, default: str | None) -> str:
    """Return the PAM service to ask: the one wanted, else the default, else ``gofer`` if there is one, or ``passwd``.

    Raises:
        NotAuthorized: that one must not be asked. PAM takes an unknown name for another service, and ``su`` takes any
            password from root.
    """
    service = wanted or default or ("gofer" if _exists("gofer") else "passwd")
    if not _NAME.fullmatch(service) or not _exists(service):
        raise NotAuthorized(f"the agent cannot check passwords: there is no PAM service {service!r}")
    if service.lower().startswith("su"):
        raise NotAuthorized(f"the agent cannot check passwords: the PAM service {service!r} may take any from root")
    return service


def _exists(service: str) -> bool:
    return any(os.path.isfile(f"{folder}/{service}") for folder in _SERVICES)


def check_by_pam(user: str, password: bytes, service: str) -> bool:
    """Ask PAM. Takes up to three seconds for a wrong password.

    Raises:
        ImportError: python-pam is not installed.
    """
    import pam

    return bool(pam.pam().authenticate(user, password, service=service))  # a new one: they are for one thread


class _User:
    """What is known of one user: attempts that wait, and what became of the last ones."""

    def __init__(self) -> None:
        self.thread = SerialThread("gofer-login", idle=0.0)
        self.failures = 0
        self.not_before = 0.0

    def refuses(self, asked: Attempt) -> NotAuthorized | None:
        """Say why an attempt is refused without a look at its password; None: it is not."""
        left = self.not_before - time.monotonic()
        if left <= 0:
            return None
        return NotAuthenticated(f"{asked.target}(): too many wrong passwords of this user; try again in {left:.0f} s")

    def note(self, refused: NotAuthorized | None) -> None:
        """Count wrong passwords in a row."""
        if refused is None:
            self.failures, self.not_before = 0, 0.0
        elif isinstance(refused, NotAuthenticated):
            self.failures += 1
            if self.failures >= _FREE:
                self.not_before = time.monotonic() + min(_LONGEST, 2.0 ** (self.failures - _FREE))


class Logins:
    """Checks users and passwords. Any thread; nothing here waits.

    One check at a time for each user, and four at all. After three wrong passwords in a row a user's attempts are
    refused at once for a second, then for two, four ... 30 seconds after each further one. Nobody else notices.

    Args:
        service: the PAM service for methods that name none.
        check: asks whether a user's password is right at a service.
    """

    def __init__(self, service: str | None = None, *, check: Check = check_by_pam) -> None:
        self._service = service
        self._check = check
        self._lock = threading.Lock()
        self._users: dict[str, _User] = {}  # the one who has tried last is the last
        self._places = threading.Semaphore(_MOST)

    def unavailable(self) -> str | None:
        """Say why no password can be checked on this machine; None: they can."""
        try:
            pam_service(None, self._service)
        except NotAuthorized as unsafe:
            return str(unsafe)
        if importlib.util.find_spec("pam") is None:
            return "passwords cannot be checked: pip install gofer-core[pam]"
        return None

    def check(self, asked: Attempt, done: Checked) -> None:
        """Check a user and a password.

        Args:
            done: called once, by any thread: with None when they are right, else with why not.
        """
        with self._lock:
            user = self._users[asked.user] = self._users.pop(asked.user, _User())
            refused = user.refuses(asked)
            if refused is None and user.thread.waiting >= _WAITING:
                refused = NotAuthenticated(f"{asked.target}(): too many attempts of this user at once; try again later")
            if refused is None:
                user.thread.put(partial(self._check_next, user, asked, done))
            self._shrink()
        if refused is not None:
            done(refused)

    def _shrink(self) -> None:
        """Forget the users who tried longest ago, but none who must still wait, or is being checked."""
        if len(self._users) > _REMEMBERED:
            now = time.monotonic()
            idle = [name for name, user in self._users.items() if user.not_before <= now and not user.thread.busy]
            for name in idle[: _REMEMBERED // 10]:
                del self._users[name]

    def _check_next(self, user: _User, asked: Attempt, done: Checked) -> None:
        refused = user.refuses(asked)
        if refused is None:
            with self._places:
                refused = self._ask(asked)
            user.note(refused)
        done(refused)

    def _ask(self, asked: Attempt) -> NotAuthorized | None:
        try:
            service = pam_service(asked.service, self._service)
            password = asked.password.encode()
        except NotAuthorized as unsafe:
            log.error("%s(): %s", asked.target, unsafe)
            return unsafe
        except UnicodeEncodeError:
            password = b""
        try:
            # PAM reads up to a NUL, and so much more would be taken as right.
            text = 0 < len(password) <= _LONG and b"\0" not in password and "\0" not in asked.user
            right = text and self._check(asked.user, password, service)
        except ImportError:
            log.error("%s(): passwords cannot be checked: pip install gofer-core[pam]", asked.target)
            return NotAuthorized(f"{asked.target}(): the agent cannot check passwords")
        except Exception as broken:  # noqa: BLE001 - told, and nobody is let in
            # Its text, and its traceback's frames, may hold the password.
            log.error("%s(): the password cannot be checked: %s", asked.target, type(broken).__name__)
            return NotAuthorized(f"{asked.target}(): the agent cannot check passwords")
        if right:
            return None
        log.warning("%s(): user %s was not authenticated", asked.target, shown(asked.user))
        return NotAuthenticated(f"{asked.target}(): user and password were refused")
