"""The contract of adapters on a broker of one's own: what gofer can do there. ``gofer adapters --test URL`` runs it.

It makes queues and exchanges with names of its own (``contract-`` and random digits), and deletes them. Nothing else at
the broker is read, changed or deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from typing import Any, ClassVar

import pytest

from gofer.errors import ConnectionLost, MessagingError
from gofer.messaging import adapter as api
from gofer.messaging.adapter import DeleteExchange, DeleteQueue
from gofer.messaging.adapters import find
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.testing._contract.driver import Driver
from gofer.testing.contract import AdapterContract

__all__ = ["Finding", "TestOwnBroker", "check_login", "run_contract"]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One promise of the contract: ``kept``, or not, and ``why``; None: it was not tried."""

    promise: str
    kept: bool | None
    why: str


def _try_queue(driver: Driver, **how: Any) -> str | None:
    return driver.ask(api.DeclareQueue(driver.name(), **how))


def _try_deletion(driver: Driver, **how: Any) -> str | None:
    return driver.ask(DeleteQueue(driver.queue(), **how))


def _try_exchanges(driver: Driver) -> None:
    driver.bind(driver.queue(), driver.exchange(), "key")


def _try_subscription(driver: Driver) -> None:
    driver.subscribe(driver.queue(), exclusive=True)


def _try_silence(driver: Driver) -> str | None:
    driver.adapter.tick(driver.now)
    return None if driver.adapter.deadline == inf else "the broker asks for heartbeats of its own"


#: Tries each capability that the contract asks about. Each returns or raises the words for what is missing, or None.
_CAPABILITIES: dict[str, Callable[[Driver], str | None]] = {
    "has_deletes": _try_deletion,
    "has_exchanges": _try_exchanges,
    "has_exclusive_queues": partial(_try_queue, exclusive=True),
    "has_auto_delete": partial(_try_queue, auto_delete=True),
    "has_expiring_queues": partial(_try_queue, expires=60.0),
    "has_conditional_deletes": partial(_try_deletion, if_empty=True),
    "has_exclusive_subscriptions": _try_subscription,
    "has_no_heartbeats_of_peers": _try_silence,
}


class TestOwnBroker(AdapterContract):
    """The contract, as pytest collects it here. ``adapter``, ``options`` and ``broker`` are set before it runs."""

    limits = dict.fromkeys(("alarm", "frozen"), "only who runs the broker can do that")

    #: How to connect.
    broker: ClassVar[Connector]

    @pytest.fixture
    def url(self) -> URL:
        """Give the URL of the broker."""
        return self.broker.url

    @pytest.fixture
    def tls(self) -> Connector:
        """Give the connector itself, if it is one with TLS."""
        if not self.broker.url.tls:
            pytest.skip("the URL is not one of amqps:// or ssl://")
        return self.broker


def check_login(connector: Connector) -> None:
    """Connect once, and close.

    Raises:
        GoferError: there is no such adapter, or no such broker, or it lets nobody in like this.
    """
    driver = Driver(find(connector.url, connector.adapter)(connector))
    try:
        driver.open()
    except AssertionError as late:  # it says what was waited for
        raise ConnectionLost(f"{connector.url}: {late}. Does a broker with this protocol listen there?") from None
    driver.close()


def run_contract(connector: Connector, heard: Callable[[Finding], None] = lambda _: None) -> list[Finding]:
    """Run the contract over a connector's broker, in this process and its main thread.

    SIGTERM and SIGHUP end it like SIGINT: what it has made is deleted first. What the broker can do is tried first, and
    what needs more is not kept. Takes half a minute, and up to ten seconds more for each promise that fails.

    Args:
        heard: called with each finding when it is known.

    Returns:
        One finding for each promise, in the order in which they were tried.

    Raises:
        KeyboardInterrupt: one of these signals came.
    """
    suite = TestOwnBroker
    with _interruptible():
        lacks = _find_lacks(connector)
    suite.adapter, suite.options, suite.broker = find(connector.url, connector.adapter), _options(connector), connector
    suite.limits = {**suite.limits, **lacks}
    for capability in _CAPABILITIES:
        setattr(suite, capability, capability not in lacks)
    with tempfile.TemporaryDirectory() as folder, _interruptible() as signals, _alone() as output:
        findings = _Findings(heard, set(lacks.values()), signals)
        arguments = ["-q", "-c", os.devnull, "--rootdir", folder, "--noconftest", "-p", "no:cacheprovider"]
        status = pytest.main([*arguments, __file__], plugins=[findings])
    if status == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest {pytest.__version__} did not run the contract:\n{output.getvalue()}")
    return list(findings.found.values())


def _find_lacks(connector: Connector) -> dict[str, str]:
    """Try each capability once. Return those that the broker lacks, each with its own words.

    What needs one is not tried then: it could only fail, after a long wait perhaps.
    """
    lacks = {}
    for capability, attempt in _CAPABILITIES.items():
        driver = Driver(find(connector.url, connector.adapter)(dataclasses.replace(connector, heartbeat=0.0))).open()
        try:
            words = attempt(driver)
        except MessagingError as error:
            words = str(error)
        finally:
            try:
                _clean_up(connector, driver)
            except KeyboardInterrupt:  # the only one: what came after it is noted
                _clean_up(connector, driver)
                raise
        if words is not None:
            lacks[capability] = words
    return lacks


def _clean_up(connector: Connector, used: Driver) -> None:
    """Close a connection, and delete its queues and exchanges, as far as they are there and the broker can do that."""
    used.close()
    driver = Driver(find(connector.url, connector.adapter)(connector)).open()
    for name in used.names:
        for operation in (DeleteQueue(name), DeleteExchange(name)):
            with contextlib.suppress(MessagingError):
                driver.ask(operation)
    driver.close()


class _Findings:
    """A plugin of pytest: gathers in ``found`` what comes of the tests."""

    def __init__(self, heard: Callable[[Finding], None], lacks: set[str], signals: list[int]) -> None:
        self._heard, self._lacks, self._signals = heard, lacks, signals
        self.found: dict[str, Finding] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a phase of a test. What fails for one parameter fails."""
        if self._signals:
            raise KeyboardInterrupt
        promise = report.nodeid.rpartition("::test_")[2].partition("[")[0].replace("_", " ")
        before = self.found.get(promise)
        if report.failed:
            found = Finding(promise, False, _reason(report))
        elif report.skipped:
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")  # type: ignore[index] # file, line, reason
            found = Finding(promise, False if reason in self._lacks else None, reason)
        elif report.when == "call":
            found = Finding(promise, True, "")
        else:
            return
        if before is None or (before.kept is not False and found.kept is not True):
            self.found[promise] = found
        if report.when != "setup":
            self._heard(self.found[promise])


def _reason(report: pytest.TestReport) -> str:
    """Return the line that says what failed, or the statement that did."""
    crash, entries = getattr(report.longrepr, "reprcrash", None), getattr(report.longrepr, "reprtraceback", None)
    words = str(crash.message if crash is not None else report.longrepr).strip().splitlines()
    if words and words[0] != "AssertionError":
        return words[0]
    lines = entries.reprentries[-1].lines if entries is not None else []
    return next((line[1:].strip() for line in lines if line.startswith(">")), "it failed")


def _options(connector: Connector) -> dict[str, object]:
    names = ("cacert", "clientcert", "clientkey", "host_validation", "proxy")
    return {name: getattr(connector, name) for name in names}


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Have SIGTERM and SIGHUP interrupt this process, as SIGINT does, which pytest tidies up after.

    The first one does: those that follow do not keep it from tidying up. An interrupt may strike where Python drops it,
    or where another error takes its place. So the signals that came are yielded, and the block ends with
    KeyboardInterrupt if there was one.
    """
    signals: list[int] = []

    def interrupt(number: int, _: object) -> None:
        signals.append(number)
        if len(signals) == 1:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # as nohup has it
                signal.signal(number, interrupt)
        yield signals
    except BaseException as error:  # pytest's own failures, and groups with them, are no Exception
        if signals and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _alone() -> Iterator[io.StringIO]:
    """Keep pytest's words, and other people's plugins and options of pytest, out of it."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as environ:
        for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
            environ.delenv(name, raising=False)
        environ.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            yield output
