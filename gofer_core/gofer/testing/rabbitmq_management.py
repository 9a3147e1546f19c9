"""Ask a test RabbitMQ's management API: what the broker itself says about connections and queues."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

__all__ = ["BrokerError", "Management"]


class BrokerError(RuntimeError):
    """The test broker cannot be started, stopped or asked. The text has the end of its log."""


class Management:
    """The part of a test RabbitMQ that asks its management API, as guest."""

    host: str
    management: bool
    management_port: int

    def api(self, method: str, path: str, body: object = None, timeout: float = 10.0) -> Any:
        """Ask the management API as guest: ``api("GET", "/queues")``; the path's names are already quoted.

        Returns:
            The answer's JSON, or None when it has no body.

        Raises:
            BrokerError: the API said no; the text has its status and words.
        """
        if not self.management:
            raise BrokerError("this RabbitMQ was made without management=True")
        request = urllib.request.Request(
            f"http://{self.host}:{self.management_port}/api{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": "Basic " + base64.b64encode(b"guest:guest").decode(),
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - the scheme is written above
                text = answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                words = refused.read().decode(errors="replace")
            raise BrokerError(f"{method} {path}: {refused.code} {words}") from None
        return json.loads(text) if text else None

    def connections(self) -> list[dict[str, Any]]:
        """The connections that the server knows, as the management API shows them."""
        return list(self.api("GET", "/connections"))

    def queues(self, vhost: str = "/") -> list[dict[str, Any]]:
        """The queues of a virtual host, as the management API shows them."""
        return list(self.api("GET", f"/queues/{quote(vhost, safe='')}"))

    def add_user(self, name: str, password: str, *, vhost: str = "/", permissions: str = ".*") -> None:
        """Make a user that may configure, write and read what the regular expression matches."""
        self.api("PUT", f"/users/{quote(name, safe='')}", {"password": password, "tags": ""})
        rights = {"configure": permissions, "write": permissions, "read": permissions}
        self.api("PUT", f"/permissions/{quote(vhost, safe='')}/{quote(name, safe='')}", rights)
