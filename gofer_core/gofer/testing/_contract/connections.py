# ruff: noqa: S101 - these are tests, shipped
"""The contract on connections: opening, closing, forking, and peers that are not what they should be."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from gofer.errors import AdapterError, ConnectionLost
from gofer.messaging.url import URL
from gofer.testing._contract.base import Base
from gofer.testing._contract.driver import WAIT, Connect, Driver

__all__ = ["Connections"]

_NONSENSE = {
    "nothing": b"",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "zeros": b"\0" * 4096,
    "ones": b"\xff" * 4096,
    "half a word": b"A",
}


class Connections(Base):
    """A connection opens and closes cleanly, or fails with the right error in time."""

    # -- opening ---------------------------------------------------------------------------------------------

    def test_a_refused_connection_is_lost_at_once(self, url: URL) -> None:
        with _bound(url) as (_, place):
            adapter = self.adapter(self.connector(place))
            start = time.monotonic()
            with pytest.raises(ConnectionLost) as caught:
                adapter.connect(WAIT)
            assert time.monotonic() - start < 2.0
            adapter.close()
        assert str(place.path if place.protocol == "local" else place.port) in str(caught.value)

    def test_a_peer_that_never_answers_is_given_up_in_time(self, url: URL) -> None:
        with _bound(url) as (listener, place):
            listener.listen(8)
            self.check_gives_up(place)

    def test_a_peer_that_takes_no_connection_is_given_up_in_time(self, url: URL) -> None:
        with _bound(url) as (listener, place):
            listener.listen(0)
            waiting = [socket.socket(listener.family) for _ in range(4)]
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(listener.getsockname())
            self.check_gives_up(place)
            for sock in waiting:
                sock.close()

    def check_gives_up(self, place: URL) -> None:
        """Check that connecting takes the timeout and no longer."""
        adapter = self.adapter(self.connector(place))
        start = time.monotonic()
        with pytest.raises(ConnectionLost):
            adapter.connect(0.5)
        assert 0.3 < time.monotonic() - start < 2.0
        adapter.close()

    @pytest.mark.parametrize("said", _NONSENSE.values(), ids=_NONSENSE.keys())
    def test_a_peer_that_talks_nonsense_raises_only_our_errors(self, url: URL, said: bytes) -> None:
        with _bound(url) as (listener, place):
            listener.listen(8)

            def talk() -> None:
                sock, _ = listener.accept()
                with sock:
                    sock.sendall(said)
                    sock.shutdown(socket.SHUT_WR)
                    sock.settimeout(WAIT)
                    try:
                        while sock.recv(65536):
                            pass
                    except ConnectionError:
                        pass  # the adapter closed with unread bytes: a reset is as good an end as any

            thread = threading.Thread(target=talk)
            thread.start()
            adapter = self.adapter(self.connector(place))
            with pytest.raises((ConnectionLost, AdapterError)):
                adapter.connect(WAIT)
            adapter.close()
            thread.join(WAIT)
            assert not thread.is_alive()

    def test_a_bad_login_is_refused_without_telling_the_password(self, bad_login: URL) -> None:
        if not self.has_logins:
            pytest.skip("this broker has none")
        adapter = self.adapter(self.connector(bad_login))
        with pytest.raises(AdapterError) as caught:
            adapter.connect(WAIT)
        adapter.close()
        assert str(bad_login.user) in str(caught.value)
        assert str(bad_login.password) not in repr(caught.value)

    def test_its_state_is_plain_at_the_beginning(self, connect: Connect, driver: Driver) -> None:
        assert driver.adapter.blocked is None
        assert driver.adapter.fileno() >= 0
        assert driver.adapter.unwritten == 0
        driver.adapter.flush()
        assert list(driver.adapter.process()) == []
        if driver.adapter.durable:
            assert driver.adapter.instance is None
        else:
            assert driver.adapter.instance
            assert driver.adapter.instance == connect().adapter.instance

    # -- closing ---------------------------------------------------------------------------------------------

    def test_closing_twice_or_unopened_does_nothing(self, url: URL, driver: Driver) -> None:
        driver.adapter.close()
        driver.adapter.close()
        driver.adapter.abandon()
        for end in ("close", "abandon"):
            never = self.adapter(self.connector(url))
            getattr(never, end)()
            never.close()

    def test_what_is_in_the_outbox_is_written_before_the_close(
        self, connect: Connect, driver: Driver, queue: str
    ) -> None:
        for n in range(20):
            driver.post(queue, b"%d" % n)
        driver.close()
        other = connect()
        other.subscribe(queue, prefetch=20)
        assert [d.body for d in other.take(20)] == [b"%d" % n for n in range(20)]

    def test_no_thread_and_no_descriptor_stays_behind(self, url: URL, queue: str) -> None:
        def use(end: str) -> None:
            driver = Driver(self.adapter(self.connector(url)))
            driver.adapter.connect(WAIT)
            driver.subscribe(queue)
            driver.give(queue, b"x")
            driver.accept(driver.one())
            getattr(driver.adapter, end)()

        def fail() -> None:
            with _bound(url) as (listener, place):
                for listening in (False, True):
                    if listening:
                        listener.listen(8)
                    with pytest.raises(ConnectionLost):
                        self.adapter(self.connector(place)).connect(0.1)

        for act in (partial(use, "close"), partial(use, "abandon"), fail):
            act()  # what is opened once in a process, on first use, is none of ours
            before = _held()
            for _ in range(3):
                act()
            # A broker in this very process needs a moment to notice; so it may have held more before than it does now.
            deadline = time.monotonic() + WAIT
            while (after := _held())[0] > before[0] or after[1] > before[1]:
                assert time.monotonic() < deadline, f"(threads, descriptors) went from {before} to {after}"
                time.sleep(0.01)

    # -- forking ---------------------------------------------------------------------------------------------

    def test_a_forked_child_that_abandons_it_disturbs_nothing(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue)
        driver.give(queue, b"held")
        held = driver.one()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the child touches nothing a thread could have locked
            child = os.fork()
        if child == 0:
            try:
                driver.adapter.abandon()
                driver.adapter.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        driver.accept(held)
        driver.give(queue, b"still ours")
        delivery = driver.one()
        assert (delivery.body, delivery.redelivered) == (
            b"still ours",
            False if self.adapter.tells_redelivered else None,
        )


def _held() -> tuple[int, int]:
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


@contextmanager
def _bound(url: URL) -> Iterator[tuple[socket.socket, URL]]:
    """Give a bound socket of the URL's kind and its URL. Until it listens, connecting to it is refused."""
    with tempfile.TemporaryDirectory(prefix="contract") as directory:
        if url.protocol == "local":
            path = str(Path(directory) / "peer.sock")
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(path)
                yield sock, replace(url, path=path)
        else:
            with socket.socket(socket.AF_INET) as sock:
                sock.bind(("127.0.0.1", 0))
                yield sock, replace(url, host="127.0.0.1", port=sock.getsockname()[1])
