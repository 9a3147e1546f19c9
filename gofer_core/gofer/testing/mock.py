"""Mocks of agents, for tests of programs that call some::

    from gofer.messaging import mock
    from gofer.proxy import Agent

    class Dog:
        def bark(self, words):
            return f"mock Dog, called with: {words}"

    mock.install()
    mock.register(Dog=Dog)
    dog = Agent("amqp://broker.example.com", "web-42").Dog()
    dog.bark("hello")                     # 'mock Dog, called with: hello'
    dog.bark.history()[-1].args[0]        # 'hello'
    dog.bark.push(ValueError("no"))       # the next call raises
    mock.uninstall()

While installed, no agent of this process sends anything, nor does it need a broker. What is checked before a request
is sent (options, arguments, addresses) is checked as ever.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections import deque
from typing import Any, NamedTuple

from gofer.errors import MemberNotFound, NamespaceNotFound
from gofer.messaging.document import encode
from gofer.messaging.value import plain
from gofer.proxy import seam
from gofer.rmi.client.options import Options
from gofer.rmi.client.stub import Invoke, Method, Stub

__all__ = ["Call", "install", "register", "uninstall"]


class Call(NamedTuple):
    """One call of a mocked method, with its arguments as an agent would have had them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def install() -> None:
    """Have all agents of this process answered by what is registered, those made before included. Idempotent.

    Stubs that were taken from an agent before that still send.
    """
    if not isinstance(seam.double, _Mocks):
        seam.double = _Mocks()


def uninstall() -> None:
    """Have agents send again, and forget what was registered and called. Idempotent."""
    seam.double = None


def register(**items: Any) -> None:
    """Name what answers, in place of what was registered under a name before.

    ``register(**{"Dog@2": DogV2})`` is what answers ``agent["Dog", "2"]``.
    A class is constructed once for each agent and constructor's arguments, and each agent has a history of its own. An
    instance or a module is shared by all agents, and so is its history.

    Raises:
        RuntimeError: nothing is installed.
    """
    mocks = seam.double
    if not isinstance(mocks, _Mocks):
        raise RuntimeError("no mocks are installed: mock.install() comes before mock.register()")
    mocks.register(items)


class _Record(NamedTuple):
    """What is known of one method: how it was called, and what its next calls end with."""

    calls: list[Call]
    pushed: deque[Any]


class _Own(NamedTuple):
    """What belongs together: of one agent for a class, of all agents for an instance or a module.

    ``objects``: those of a class, by the arguments of its constructor. ``records``: by method.
    """

    objects: dict[bytes, Any]
    records: dict[str, _Record]


class _Registered:
    """What is registered under a name."""

    def __init__(self, item: Any) -> None:
        self.item = item
        self._by_owner: weakref.WeakKeyDictionary[Any, _Own] = weakref.WeakKeyDictionary()

    def of(self, agent: object) -> _Own:
        owner = agent if isinstance(self.item, type) else self  # all agents share an instance, and a module
        return self._by_owner.setdefault(owner, _Own({}, {}))


class _MockMethod(Method):
    """A mocked method: called like a remote one."""

    _mocks: _Mocks
    _agent: object

    def history(self) -> list[Call]:
        """Return its calls, in their order."""
        return list(self._mocks.record(self._agent, *self._of[:2]).calls)

    def push(self, outcome: Any) -> None:
        """Have one call to come raise an exception, or return a value, in place of what is registered.

        What is pushed is used up in the order in which it was pushed.
        """
        self._mocks.record(self._agent, *self._of[:2]).pushed.append(outcome)


class _MockStub(Stub):
    """A mocked class, instance or module: used like a remote one."""

    def __init__(self, name: str | tuple[str, str], invoke: Invoke, mocks: _Mocks, agent: object) -> None:
        super().__init__(name, invoke)
        self._mocks = mocks
        self._agent = agent

    def _method(self, classname: str, name: str, cntr: list[Any] | None, invoke: Invoke) -> Method:
        method = _MockMethod(classname, name, cntr, invoke)
        method._mocks, method._agent = self._mocks, self._agent
        return method


class _Mocks:
    """All that is registered. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a mock may be a caller itself
        self._items: dict[str, _Registered] = {}

    def register(self, items: dict[str, Any]) -> None:
        with self._lock:
            self._items.update((name, _Registered(item)) for name, item in items.items())

    def stub(self, name: str | tuple[str, str], invoke: Invoke, agent: object) -> Stub:
        return _MockStub(name, invoke, self, agent)

    def record(self, agent: object, classname: str, method: str) -> _Record:
        with self._lock:
            return self._find(classname, method).of(agent).records.setdefault(method, _Record([], deque()))

    def answer(self, agent: object, document: dict[str, Any], options: Options) -> Any:
        request = document["request"]
        classname, method = request["classname"], request["method"]
        record = self.record(agent, classname, method)
        record.calls.append(Call(tuple(plain(request["args"])), plain(request["kws"])))
        waiting = options.reply is None and options.wait != 0
        try:
            value = self._end(agent, request, record)
        except Exception:
            if waiting:
                raise
            return document["sn"]  # whoever waits for nothing hears nothing
        return value if waiting else document["sn"]

    def _end(self, agent: object, request: dict[str, Any], record: _Record) -> Any:
        try:
            value = record.pushed.popleft()
        except IndexError:
            value = self._call(agent, request)
        else:
            if isinstance(value, BaseException) or (isinstance(value, type) and issubclass(value, BaseException)):
                raise value
        return plain(value, "result")

    def _call(self, agent: object, request: dict[str, Any]) -> Any:
        args, kws = request["cntr"] or ([], {})
        with self._lock:
            registered = self._find(request["classname"], request["method"])
            target, objects = registered.item, registered.of(agent).objects
            if isinstance(target, type):
                key = encode({"": [args, kws]})
                if key not in objects:
                    objects[key] = target(*args, **kws)
                target = objects[key]
        value = getattr(target, request["method"])(*request["args"], **request["kws"])
        if inspect.iscoroutine(value):
            value.close()
            raise TypeError(f"{request['method']} is async, and mocks are called, not awaited")
        return value

    def _find(self, classname: str, method: str) -> _Registered:
        found = self._items.get(classname)
        if found is None:
            known = f"registered: {', '.join(sorted(self._items))}" if self._items else "nothing is registered"
            raise NamespaceNotFound(f"no mock for {classname!r}: mock.register({classname}=...) makes one; {known}")
        if method.startswith("_") or not callable(getattr(found.item, method, None)):
            raise MemberNotFound(method, f"what is registered for {classname!r} has no method {method!r}")
        return found
