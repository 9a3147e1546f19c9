"""``gofer broker``: the broker of this machine, in the foreground."""

from __future__ import annotations

import os
import signal
from types import FrameType

import click

__all__ = ["broker"]


@click.command()
@click.option("--root", metavar="DIR", help="Serve DIR/run/gofer/broker.sock (default: GOFER_ROOT, else /).")
@click.option("--socket", metavar="PATH", help="Serve this socket instead; its URL is local://PATH.")
def broker(root: str | None, socket: str | None) -> int:
    """Run the broker for this machine until SIGTERM or SIGINT.

    The broker prints the URL for agents and callers. It serves processes of its own user, and of root, by a Unix
    socket. Messages are in memory only: they are lost when the broker ends.

    \b
    Exit status:
      0  stopped as asked
      1  not started: another broker has the socket, or it cannot be made
      2  wrong arguments
    """
    from gofer.messaging.local import default_path
    from gofer.messaging.local.server import Broker
    from gofer.messaging.url import URL
    from gofer.root import Root

    if root is not None and socket is not None:
        raise click.UsageError("--root and --socket cannot be used together")
    if socket is None:
        place = Root.from_environ(os.environ, root)
        place.ensure(place.run)
        path = default_path({"GOFER_ROOT": str(place.path)})
    else:
        path = os.path.abspath(socket)
    served = Broker(path)

    def stop(number: int, frame: FrameType | None) -> None:
        served.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with served:
        click.echo(URL(host="", protocol="local", adapter="local", path=path))
        served.serve_forever()
    return 0
