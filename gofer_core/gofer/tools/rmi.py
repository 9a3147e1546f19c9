"""``gofer rmi``: call one method from a shell."""

from __future__ import annotations

import logging
import shlex
import sys
from contextlib import ExitStack
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import click

from gofer import errors
from gofer.messaging.caller_conf import profile
from gofer.tools.arguments import address, call_arguments, call_input, duration, input_option, json_value, target
from gofer.tools.completion import targets
from gofer.tools.connecting import agent_options, connector_of, proof_options, proofs
from gofer.tools.output import complain, harmless, print_json
from gofer.tools.progress import Bar

if TYPE_CHECKING:
    from gofer.proxy import Agent
    from gofer.rmi.client.options import CallOptions

__all__ = ["answer", "rmi"]

_RAISED, _USAGE, _TIMEOUT, _NOT_FOUND, _REFUSED, _NO_CONNECTION = range(1, 7)
_Meanings = tuple[tuple[tuple[type[Exception], ...], int], ...]
# The first that fits counts. An error that came as a reply is the method's own, unless there was none to run.
_ANSWERED: _Meanings = (
    ((errors.NamespaceNotFound, errors.MemberNotFound), _NOT_FOUND),
    ((errors.DispatchError,), _REFUSED),
    ((Exception,), _RAISED),
)
_UNANSWERED: _Meanings = (
    ((errors.RequestTimeout,), _TIMEOUT),
    ((errors.NotFound,), _NOT_FOUND),
    ((errors.Rejected,), _REFUSED),
    ((errors.ConnectionLost, errors.AdapterError), _NO_CONNECTION),
    ((errors.CallError,), _RAISED),
    ((errors.ConfigError, errors.PluginError, TypeError, ValueError), _USAGE),
)


@click.command()
@agent_options
@click.option(
    "-t",
    "--target",
    type=target,
    required=True,
    metavar="NAME.NAME",
    shell_complete=targets,
    help="Class.method, Class@version.method or module.function.",
)
@click.option(
    "-w",
    "--wait",
    type=duration,
    metavar="TIME",
    help="Wait at most this long for the value: 5, 2m (default: 90s). 0: do not wait.",
)
@click.option(
    "--wait-for-agent",
    type=duration,
    metavar="TIME",
    help="Before the call, wait at most this long until the agent answers.",
)
@click.option("--timeout", type=duration, metavar="TIME", help="The method may run this long.")
@click.option(
    "-r", "--reply", type=address, metavar="ADDRESS", help="The agent sends replies to this address; do not wait."
)
@click.option("-T", "--ttl", type=duration, metavar="TIME", help="The agent must accept the request within this time.")
@click.option("-d", "--data", type=json_value, metavar="JSON", help="Comes back in every reply.")
@input_option
@click.option("-c", "--constructor", type=call_input, metavar="JSON", help="Arguments of the remote class, as for -i.")
@click.option("-p", "--progress", metavar="PREFIX", help="Show progress on standard error, PREFIX in front.")
@click.option("--secret", "ask_secret", is_flag=True, help="Ask for the secret that the method requires.")
@proof_options
@click.option("--password", "ask_password", is_flag=True, help="Ask for the password, as --user does.")
@click.option("-v", "--verbose", is_flag=True, help="Print the connection's events on standard error.")
@click.option("--json", "as_json", is_flag=True, help="Print the value as JSON even if it is text.")
@click.argument("arguments", nargs=-1)
def rmi(*, arguments: tuple[str, ...], verbose: bool, as_json: bool, **how: Any) -> int:
    """Call a method on an agent and print its value.

    ARGUMENTS are the method's, keywords as name=value. One that is JSON of a number, true, false, null, an object or an
    array is that value; anything else is text. -i takes what this rule cannot express. Put -- before arguments that
    begin with -.

    Text is printed as it is, any other value as JSON: indented on a terminal, else on one line. With -w 0, or -r, the
    request's serial number is printed when the broker has the request.

    A URL with a password, a secret and a password do not belong on the command line, where every user of the machine
    can see them. GOFER_URL and [profile NAME] in caller.conf hold the URL; --secret-file and --password-file name
    files. /etc/gofer/caller.conf, or the file that GOFER_CALLER_CONF names, holds profiles.

    \b
    Exit status:
      0    the method's value was printed, or the request was sent
      1    the method raised: the remote trace is on standard error
      2    wrong arguments; a file that cannot be read is one
      3    no value, or no confirmation, in time; the message says how far the request got
      4    no agent at the address, or no such class or method there
      5    rejected, or not authorized
      6    no connection to the broker: it is not there, refuses it, or one of the certificates will not do
    """
    args, kws = call_arguments(how["given"], arguments)
    logging.basicConfig(level=logging.INFO if verbose else logging.CRITICAL, format="%(name)s: %(message)s")
    status, value = answer("gofer rmi", args, kws, how)
    if status != 0:
        return status
    if as_json or not isinstance(value, str):
        print_json(value)
    else:
        print(value)
    return 0


def answer(command: str, args: list[Any], kws: dict[str, Any], how: dict[str, Any]) -> tuple[int, Any]:
    """Call a method by the options of a command, and return the exit status and the value; tell what went wrong.

    Args:
        how: ``target``, and any of the options of ``gofer rmi``.
    """
    try:
        return 0, _call(args, kws, how)
    except Exception as error:
        status = _status(error)
        if status is None:
            raise
        _tell(command, error, status)
        return status, None


def _call(args: list[Any], kws: dict[str, Any], how: dict[str, Any]) -> Any:
    from gofer.proxy import Agent

    settings = profile(how.get("profile_name"))
    at = how.get("address") or settings.get("address")
    if at is None:
        raise click.UsageError("no address: give -a ADDRESS, or put address = ADDRESS into a profile of caller.conf")
    connector = connector_of(how, settings)
    options: CallOptions = {"trigger": 1, "confirm": how.get("reply") is not None or how.get("wait") == 0}
    for name in ("wait", "reply", "ttl", "data", "timeout"):
        if how.get(name) is not None:
            options[name] = how[name]
    options.update(proofs(how, settings))
    with ExitStack() as stack:
        if how.get("progress") is not None:
            options["progress"] = stack.enter_context(Bar(how["progress"]))
        agent = stack.enter_context(Agent(connector, at, **options))
        if how.get("wait_for_agent") is not None:
            _wait_for(agent, how["wait_for_agent"])
        namespace, method = how["target"]
        stub = agent[namespace]
        if how.get("constructor") is not None:
            positional, keywords = how["constructor"]
            stub = stub(*positional, **keywords)
        request = stub[method](*args, **kws)
        try:
            return request()
        except KeyboardInterrupt:
            url = str(connector.url) if how.get("url") else None
            given = {"-u": url, "--profile": how.get("profile_name"), "-a": at, "-A": how.get("authenticator")}
            words = [word for option, value in given.items() if value is not None for word in (option, value)]
            cancel = shlex.join(["gofer", "rmi", *words, "-t", "Admin.cancel", f"sn={request.sn}"])
            complain("gofer rmi", f"interrupted; request {request.sn} may still run. To cancel it: {cancel}")
            raise


def _wait_for(agent: Agent, seconds: float) -> None:
    """Wait until the agent answers.

    Raises:
        NotFound, ConnectionLost, RequestTimeout: it has not answered in time.
    """
    deadline = monotonic() + seconds
    known: errors.NotFound | errors.ConnectionLost | None = None
    while True:
        left = max(0.1, deadline - monotonic())
        try:
            agent(wait=left, ttl=None, reply=None, trigger=0, progress=None).Admin().hello()
            return
        except (errors.Rejected, errors.NotAuthorized):
            return  # it answers, but not this
        except (errors.NotFound, errors.ConnectionLost) as why:
            if monotonic() >= deadline:
                raise
            known = why
        except errors.RequestTimeout:
            if known is not None:  # the last try had little time: an earlier one tells more
                raise known from None
            raise
        sleep(0.1)


def _status(error: Exception) -> int | None:
    """Tell the exit status that an error means; None: it is a fault of ours."""
    answered = _trace(error) != ""
    if not answered and isinstance(error, errors.RequestTimeout) and error.state == "not sent":
        return _NO_CONNECTION
    if not answered and isinstance(error, errors.NotTaken):
        reason = next(iter(error.reasons.values()))
        known = {": no agent at this address": _NOT_FOUND, ": refused": _NO_CONNECTION}
        # Without a word of the broker it may have arrived, and run.
        return next((status for words, status in known.items() if words in reason), _TIMEOUT)
    meanings = _ANSWERED if answered else _UNANSWERED
    return next((status for kinds, status in meanings if isinstance(error, kinds)), None)


def _trace(error: Exception) -> str:
    """Return the remote trace of an exception that came as a reply, else nothing."""
    trace = getattr(error, "trace", None)
    return trace if isinstance(trace, str) else ""


def _tell(command: str, error: Exception, status: int) -> None:
    trace = _trace(error).rstrip()
    if status == _RAISED and "\n" in trace:  # else the line below says all of it
        print(harmless(trace), file=sys.stderr)
    if isinstance(error, errors.RemoteException):
        name = f"{error.xmodule}.{error.xclass}"
        said = (line for line in error.trace.splitlines() if line.startswith(name))  # the traceback's own last part
        complain(command, next(said, f"{name}: {error.xargs}"))
    elif status == _RAISED or not str(error):
        complain(command, f"{type(error).__name__}: {error}")
    else:
        complain(command, error)
