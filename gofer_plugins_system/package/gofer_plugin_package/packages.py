"""Packages: installed, updated, removed, and what could be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

from gofer.agent.plugin import Plugin
from gofer.agent.rmi import Context
from gofer.decorators import once, pam, remote
from gofer.rmi import shell

from gofer_plugin_package.apt import Apt
from gofer_plugin_package.changes import Change, difference, rollback
from gofer_plugin_package.dnf import Dnf
from gofer_plugin_package.managers import QUIET, Manager, Wanted, parse_names
from gofer_plugin_package.settings import read_settings
from gofer_plugin_package.transactions import run_transaction

__all__ = ["Ended", "Package"]

#: The exit status of the package manager, and what it has done.
Ended = tuple[int, dict[str, Any]]

_AGAIN = 1.0  # seconds between two tries, while the database is locked
_LOOK = 0.1
_CANCELLED = -2  # the status of a call that was cancelled while it waited: SIGINT, as later


class Package:
    """The packages of the agent's machine.

    ``names`` is a text or a list of texts: ``"vim"``, ``"vim=2:9.0.1378-2"``, ``"libc6:i386"``.

    The methods that change packages return ``[status, {...}]``, as ``Shell.run`` does. ``status`` is the exit status of
    the package manager. Beside ``stdout`` and ``stderr`` there are

    - ``manager``: ``"apt"``, ``"dnf"`` or ``"yum"``
    - ``changes``: what has changed, or would (``dry_run``): a list of ``{"name", "from", "to"}``; None: not installed
    - ``rollback``: what to hand to ``remove`` and to ``install`` to go back: ``{"remove": [...], "install": [...]}``
    - ``unfinished``: packages that are not set up completely
    - ``cancelled``: whether the call was cancelled meanwhile
    """

    @remote
    @once
    @pam(user="root", identity=True)
    def install(self, names: str | list[str], dry_run: bool = False) -> Ended:
        """Install packages, and what they need.

        Args:
            names: see the class. A version may be older than the one installed.
            dry_run: only tell what would change.

        Raises:
            TypeError, ValueError: what was named is no package's name.
            LookupError: there is no such package (apt; dnf says so in ``stderr``).
            TimeoutError: another program has locked the package database for too long; nothing was changed.
        """
        return _Call().change("install", parse_names(names), dry_run)

    @remote
    @once
    @pam(user="root", identity=True)
    def update(self, names: str | list[str] | None = None, dry_run: bool = False) -> Ended:
        """Update packages that are installed; all, where none is named. Otherwise as ``install``.

        Call ``refresh`` before, for the newest versions.
        """
        return _Call().change("update", [] if names is None else parse_names(names), dry_run)

    @remote
    @once
    @pam(user="root", identity=True)
    def remove(self, names: str | list[str], dry_run: bool = False) -> Ended:
        """Remove packages, and those that need them. Configuration files stay. Otherwise as ``install``.

        ``dry_run`` tells which other packages would go. What the removed ones have needed stays.
        """
        return _Call().change("remove", parse_names(names), dry_run)

    @remote
    @pam(user="root", identity=True)
    def refresh(self) -> Ended:
        """Ask the repositories what packages there are. Returns as ``Shell.run``; not 0 if one cannot be read.

        Raises:
            TimeoutError: see ``install``.
        """
        call = _Call()
        status, out, err = call.patiently(lambda: call.shell(call.manager.refresh()))
        return status, {"stdout": out, "stderr": err}

    @remote
    @pam(user="root", identity=True)
    def upgradable(self) -> list[Change]:
        """List the packages of which there is a newer version: ``[{"name", "from", "to"}, ...]``.

        Raises:
            RuntimeError: the package manager cannot tell; the text holds what it says.
            TimeoutError: see ``install``.
        """
        call = _Call()
        ended = call.patiently(lambda: call.shell(call.manager.upgradable()))
        listed = call.manager.listed(ended, call.manager.installed())
        if listed is None:
            status, out, err = ended
            raise RuntimeError(f"{call.manager.name} has ended with status {status}: {(err or out).strip()[-2000:]}")
        return listed


class _Call:
    """One call: its settings, its package manager, and how long it still waits for a locked database."""

    def __init__(self) -> None:
        settings = read_settings(Plugin.find(__name__).cfg)
        self.manager: Manager = Apt(settings.conffiles) if settings.manager == "apt" else Dnf(settings.manager)
        self._stop_wait = settings.stop_wait
        self._lock_wait = settings.lock_wait
        self._deadline = monotonic() + settings.lock_wait
        self._context = Context.current()
        self._never = threading.Event()  # to wait with

    def change(self, what: str, wanted: Sequence[Wanted], dry_run: bool) -> Ended:
        """Do what a method says."""
        manager = self.manager
        manager.check(wanted, remove=what == "remove")
        command = manager.change(what, wanted, dry_run=dry_run)
        before = manager.installed()
        if dry_run:
            ended = self.patiently(lambda: self.shell(command))
            status, changes = manager.planned(ended, before)
            more = {"rollback": {"remove": [], "install": []}, "unfinished": list(before.unfinished)}
            return self._result((status, *ended[1:]), changes, more)

        self._repair()

        def attempt() -> tuple[int, str, str]:
            nonlocal before
            before = manager.installed()  # anew each time: who had the lock may have changed it
            return self._transaction(command)

        ended = self.patiently(attempt)
        if self._context.cancelled() and ended[0] >= 0:  # it has ended at a safe point; else a script may hang
            self._repair()
        after = manager.installed()
        changes = difference(before, after)
        more = {"rollback": rollback(changes, after), "unfinished": list(after.unfinished)}
        return self._result(ended, changes, more)

    def patiently(self, attempt: Callable[[], tuple[int, str, str]]) -> tuple[int, str, str]:
        """Try something until the database is not locked.

        Raises:
            TimeoutError: it has been locked for too long.
        """
        said = None
        ended = (_CANCELLED, "", "")
        while not self._context.cancelled():
            ended = attempt()
            holder = self.manager.locked(ended[0], ended[2])
            if holder is None:
                return ended
            if monotonic() >= self._deadline:
                raise TimeoutError(
                    f"the package database is locked by {holder}. The agent has waited {self._lock_wait:g} s and "
                    "changed nothing. Try again later, or set [package] lock_wait in the descriptor"
                )
            if holder != said:
                said = holder
                self.tell(f"the package database is locked by {holder}; waiting\n")
            until = min(self._deadline, monotonic() + _AGAIN)
            while monotonic() < until and not self._context.cancelled():
                self._never.wait(_LOOK)
        return _CANCELLED, *ended[1:]

    def shell(self, command: Sequence[str]) -> tuple[int, str, str]:
        """Run a command that may end at any time."""
        quiet = [f"{name}={value}" for name, value in QUIET.items()]
        status, said = shell.Shell().run("env", *quiet, *command)
        return status, said["stdout"], said["stderr"]

    def tell(self, text: str) -> None:
        """Report text as progress."""
        if text:
            progress = self._context.progress
            progress.relay(progress.total, progress.completed, text)

    def _repair(self) -> None:
        """End what was left half done: by an agent's cancelled call, a power failure, or anybody."""
        for command in self.manager.repair():
            self.tell(f"packages are not set up completely: {' '.join(command)}\n")
            # Its status does not matter: what it could not set up shows in the result, and may be why it is removed.
            if self._context.cancelled():
                self._transaction(command, stoppable=False)
            else:
                self.patiently(partial(self._transaction, command, stoppable=command[0] != "dpkg"))

    def _transaction(self, command: Sequence[str], *, stoppable: bool = True) -> tuple[int, str, str]:
        return run_transaction(command, self.tell, stop_wait=self._stop_wait, stoppable=stoppable)

    def _result(self, ended: tuple[int, str, str], changes: list[Change], more: dict[str, Any]) -> Ended:
        status, out, err = ended
        told = {"manager": self.manager.name, "changes": changes, **more}
        return status, {"stdout": out, "stderr": err, **told, "cancelled": self._context.cancelled()}
