"""Stubs: what stands for a remote class, a remote method, and a request that is sent later."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from gofer.messaging.document import VERSION
from gofer.messaging.value import plain
from gofer.rmi.client.options import OPTION_NAMES, Options

__all__ = ["Invoke", "Method", "Stub", "Trigger", "fixed", "new_request"]


#: Does what a remote method's call asks for: class, method, constructor's arguments, arguments, keyword arguments.
Invoke = Callable[[str, str, list[Any] | None, tuple[Any, ...], dict[str, Any]], Any]


class Stub:
    """A remote class, or a module. Calling it sets the constructor's arguments; an attribute or item is a method.

    Later arguments replace earlier ones. Threads that want different ones make their own stubs.
    """

    _name: str
    _invoke: Invoke
    _cntr: list[Any] | None

    def __init__(self, name: str | tuple[str, str], invoke: Invoke) -> None:
        """Stand for the class of this name; ``("Dog", "2")``: for a version of it."""
        versioned = isinstance(name, tuple) and len(name) == 2
        vars(self).update(_name="@".join(map(_named, name)) if versioned else _named(name), _invoke=invoke, _cntr=None)

    def __call__(self, /, *args: Any, **kws: Any) -> Stub:
        """Set the arguments that the remote class is constructed with.

        Raises:
            TypeError: an argument is not plain JSON, or is an option of the call (those go to the agent).
        """
        options = sorted(OPTION_NAMES.intersection(kws))
        callables = [f"argument {n}" for n, arg in enumerate(args) if callable(arg)]
        callables += [name for name, value in kws.items() if callable(value) and name not in options]
        if options or callables:
            name = (options or ["progress"])[0]
            raise TypeError(
                f"{', '.join(options or callables)}: {self._name}() takes the arguments of the remote class. "
                f"Options go to the agent: agent({name}={'fn' if name == 'progress' else '...'}).{self._name}()"
            )
        vars(self)["_cntr"] = [plain(list(args), "constructor argument"), plain(kws, "constructor argument")]
        return self

    def __getattr__(self, name: str) -> Method:
        if name.startswith("_"):
            raise AttributeError(f"remote names do not start with '_': {name!r}")
        return self[name]

    def __setattr__(self, name: str, value: object) -> None:
        fixed(self, name, "a remote object has no attributes to set from here")
        object.__setattr__(self, name, value)

    def __getitem__(self, name: str) -> Method:
        return self._method(self._name, _named(name), self._cntr, self._invoke)

    def _method(self, classname: str, name: str, cntr: list[Any] | None, invoke: Invoke) -> Method:
        """Make what stands for a method: for subclasses that have more of it."""
        return Method(classname, name, cntr, invoke)

    def __repr__(self) -> str:
        return f"<remote {self._name}>"


class Method:
    """A remote method or function. Calling it sends a request."""

    def __init__(self, classname: str, name: str, cntr: list[Any] | None, invoke: Invoke) -> None:
        self._of = (classname, name, cntr)
        self._invoke = invoke

    def __call__(self, /, *args: Any, **kws: Any) -> Any:
        """Call the method with plain JSON values.

        Raises:
            TypeError: an argument is not plain JSON.
        """
        return self._invoke(*self._of, args, kws)

    def __repr__(self) -> str:
        return f"<remote {self._of[0]}.{self._of[1]}>"


class Trigger:
    """A request that is sent when it is called, once."""

    def __init__(self, sn: str, pull: Callable[[], Any]) -> None:
        self.sn = sn
        self._pulls = [pull]  # to pop from it is one step, whatever other threads do

    def __call__(self) -> Any:
        """Send the request, and return what the call would have returned.

        Raises:
            RuntimeError: it was pulled before.
        """
        try:
            pull = self._pulls.pop()
        except IndexError:
            raise RuntimeError(f"request {self.sn} was sent already: a trigger sends its request once") from None
        return pull()

    def __repr__(self) -> str:
        return f"<Trigger {self.sn}{'' if self._pulls else ' (pulled)'}>"


def fixed(thing: object, name: str, instead: str) -> None:
    """Raise AttributeError for an attribute that would hide a remote name; a class's own may be set.

    Args:
        instead: what to do instead.
    """
    if not name.startswith("_") and not hasattr(type(thing), name):
        raise AttributeError(f"cannot set {name!r}: it names something remote; {instead}")


def new_request(
    of: tuple[str, str, list[Any] | None],
    args: tuple[Any, ...],
    kws: dict[str, Any],
    address: str,
    options: Options,
) -> dict[str, Any]:
    """Make the document of a request, all but its ``replyto``.

    Raises:
        TypeError: an argument is not plain JSON.
    """
    classname, method, cntr = of
    request: dict[str, Any] = {
        "classname": classname,
        "method": method,
        "cntr": cntr,
        "args": plain(args, "argument"),
        "kws": plain(kws, "argument") if kws else {},
    }
    if kws:
        request["kwargs"] = request["kws"]  # all that agents of 2.12 look at
    document: dict[str, Any] = {
        "sn": _new_sn(),
        "version": VERSION,
        "routing": [None, address],
        "replyto": None,
        "request": request,
        "data": options.data,
        "secret": options.secret,
        "pam": options.login,
    }
    if options.timeout is not None:
        document["timeout"] = options.timeout
    return document


def _new_sn() -> str:
    """Make the text of a random UUID; ``uuid.uuid4`` makes an object first, at twice the price."""
    random = bytearray(os.urandom(16))
    random[6] = random[6] & 0x0F | 0x40
    random[8] = random[8] & 0x3F | 0x80
    text = random.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _named(name: object) -> str:
    # Python asks whatever it iterates over for its items 0, 1, 2 ...: without this, for ever.
    if not isinstance(name, str):
        raise TypeError(f"a remote name must be text, not {type(name).__name__} (it cannot be iterated over)")
    return str(plain(name, "name"))
