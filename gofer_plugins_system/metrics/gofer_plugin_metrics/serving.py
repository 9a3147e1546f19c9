"""The server that Prometheus asks: HTTP on the loopback address, each caller in a thread of its own."""

from __future__ import annotations

import threading
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

__all__ = ["serve"]

#: Others must not reach it: nobody is asked for a password.
_HOST = "127.0.0.1"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds in which a caller must say what it wants, and take the answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a line for every scrape would be most of the log."""


def serve(port: int, registry: CollectorRegistry) -> tuple[WSGIServer, threading.Thread]:
    """Serve a registry, in a thread of its own.

    Raises:
        OSError: the port cannot be had.
    """
    server = make_server(_HOST, port, make_wsgi_app(registry), _Server, _Handler)
    thread = threading.Thread(target=server.serve_forever, name="gofer-metrics", daemon=True)
    thread.start()
    return server, thread
