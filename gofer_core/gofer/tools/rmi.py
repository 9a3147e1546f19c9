"""``gofer rmi``: call one method from a shell."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from typing import Any

import click

from gofer.errors import (
    AdapterError,
    CallError,
    ConfigError,
    ConnectionLost,
    DispatchError,
    MemberNotFound,
    NamespaceNotFound,
    NotFound,
    NotTaken,
    PluginError,
    Rejected,
    RemoteException,
    RequestTimeout,
)
from gofer.tools.arguments import address, call_input, duration, json_value, read_arguments, target
from gofer.tools.output import complain, harmless, print_json, text_of
from gofer.tools.progress import Bar

__all__ = ["rmi"]

_RAISED, _USAGE, _TIMEOUT, _NOT_FOUND, _REFUSED, _NO_CONNECTION = range(1, 7)
_FILE = click.Path(exists=True, dir_okay=False, readable=True)
_Meanings = tuple[tuple[tuple[type[Exception], ...], int], ...]
# The first that fits counts. An error that came as a reply is the method's own, unless there was none to run.
_ANSWERED: _Meanings = (
    ((NamespaceNotFound, MemberNotFound), _NOT_FOUND),
    ((DispatchError,), _REFUSED),
    ((Exception,), _RAISED),
)
_UNANSWERED: _Meanings = (
    ((RequestTimeout,), _TIMEOUT),
    ((NotFound, NotTaken), _NOT_FOUND),
    ((Rejected,), _REFUSED),
    ((ConnectionLost, AdapterError), _NO_CONNECTION),
    ((CallError,), _RAISED),
    ((ConfigError, PluginError, TypeError, ValueError), _USAGE),
)


@click.command()
@click.option("-u", "--url", default="local://", show_default=True, help="The broker's URL.")
@click.option(
    "-a",
    "--address",
    type=address,
    metavar="ADDRESS",
    required=True,
    help="The agent's address: queue or exchange/queue.",
)
@click.option(
    "-t",
    "--target",
    type=target,
    required=True,
    metavar="NAME.NAME",
    help="Class.method, Class@version.method or module.function.",
)
@click.option(
    "-w",
    "--wait",
    type=duration,
    metavar="TIME",
    help="Wait so long for the value, like 5, 30s, 2m (default: 90s); 0: do not.",
)
@click.option(
    "-r", "--reply", type=address, metavar="ADDRESS", help="Have replies sent to this address, and do not wait."
)
@click.option("-T", "--ttl", type=duration, metavar="TIME", help="The agent must accept the request within this time.")
@click.option("-d", "--data", type=json_value, metavar="JSON", help="Comes back in every reply.")
@click.option(
    "-i", "--input", "given", type=call_input, metavar="JSON", help="[[arguments], {keywords}]; - reads standard input."
)
@click.option(
    "-c", "--constructor", type=call_input, metavar="JSON", help="[[arguments], {keywords}] of the remote class."
)
@click.option("-p", "--progress", metavar="PREFIX", help="Show progress on standard error, PREFIX in front.")
@click.option(
    "-A", "--authenticator", metavar="NAME", help="Signs and verifies: an installed one, or a class's dotted path."
)
@click.option(
    "--cacert", type=_FILE, metavar="FILE", help="The CA certificates that the broker's is checked against (PEM)."
)
@click.option(
    "--clientcert", type=_FILE, metavar="FILE", help="The certificate shown to the broker (PEM); may hold the key too."
)
@click.option("--clientkey", type=_FILE, metavar="FILE", help="The key of the client certificate (PEM).")
@click.option("--no-host-validation", is_flag=True, help="Take a broker's certificate for any host.")
@click.option("-v", "--verbose", is_flag=True, help="Tell on standard error what becomes of the connection.")
@click.option("--json", "as_json", is_flag=True, help="Print the value as JSON even if it is text.")
@click.argument("arguments", nargs=-1)
def rmi(*, arguments: tuple[str, ...], verbose: bool, as_json: bool, **how: Any) -> int:
    """Call a method on an agent and print its value.

    ARGUMENTS are the method's, keywords as name=value. One that is JSON of a number, true, false, null, an object or an
    array is that value; anything else is text as it stands. What that rule cannot say is said by -i. An argument that
    begins with - goes behind a --.

    Text is printed as it is, any other value as one line of JSON. With -w 0, or -r, the request's serial number is
    printed as soon as the broker has the request.

    \b
    Exit status:
      0    the method's value was printed, or the request was sent
      1    the method raised: the remote trace is on standard error
      2    wrong arguments; a file that cannot be read is one
      3    no value in time; the message says how far the request got
      4    nobody listens at the address, or no such class or method there
      5    rejected, or not authorized
      6    no connection to the broker: it is not there, refuses it, or one of the certificates will not do
    """
    if how["given"] is None:
        args, kws = read_arguments(arguments)
    elif arguments:
        raise click.UsageError("-i gives all arguments: none may follow")
    else:
        args, kws = how["given"]
    logging.basicConfig(level=logging.INFO if verbose else logging.CRITICAL, format="%(name)s: %(message)s")
    try:
        value = _call(args, kws, how)
    except Exception as error:
        status = _status(error)
        if status is None:
            raise
        _tell(error, status)
        return status
    if as_json:
        print_json(value)
    else:
        print(text_of(value))
    return 0


def _call(args: list[Any], kws: dict[str, Any], how: dict[str, Any]) -> Any:
    from gofer.messaging.connector import Connector
    from gofer.messaging.url import URL
    from gofer.proxy import Agent

    connector = Connector(
        URL.parse(how["url"]),
        how["cacert"],
        how["clientcert"],
        how["clientkey"],
        not how["no_host_validation"],
    )
    options = {name: how[name] for name in ("wait", "reply", "ttl", "data") if how[name] is not None}
    if how["authenticator"] is not None:
        options["authenticator"] = how["authenticator"]
    # Not waited for: the exit status still tells whether the broker took the request.
    options["confirm"] = how["reply"] is not None or how["wait"] == 0
    with ExitStack() as stack:
        if how["progress"] is not None:
            options["progress"] = stack.enter_context(Bar(how["progress"]))
        agent = stack.enter_context(Agent(connector, how["address"], **options))
        namespace, method = how["target"]
        stub = agent[namespace]
        if how["constructor"] is not None:
            positional, keywords = how["constructor"]
            stub = stub(*positional, **keywords)
        return stub[method](*args, **kws)


def _status(error: Exception) -> int | None:
    """Tell the exit status that an error means; None: it is a fault of ours."""
    answered = _trace(error) != ""
    if not answered and isinstance(error, RequestTimeout) and error.state == "not sent":
        return _NO_CONNECTION
    meanings = _ANSWERED if answered else _UNANSWERED
    return next((status for kinds, status in meanings if isinstance(error, kinds)), None)


def _trace(error: Exception) -> str:
    """Return the remote trace of an exception that came as a reply, else nothing."""
    trace = getattr(error, "trace", None)
    return trace if isinstance(trace, str) else ""


def _tell(error: Exception, status: int) -> None:
    trace = _trace(error).rstrip()
    if status == _RAISED and "\n" in trace:  # else the line below says all of it
        print(harmless(trace), file=sys.stderr)
    if isinstance(error, RemoteException):
        name = f"{error.xmodule}.{error.xclass}"
        said = (line for line in error.trace.splitlines() if line.startswith(name))  # the traceback's own last part
        complain("gofer rmi", next(said, f"{name}: {error.xargs}"))
    elif status == _RAISED or not str(error):
        complain("gofer rmi", f"{type(error).__name__}: {error}")
    else:
        complain("gofer rmi", error)
