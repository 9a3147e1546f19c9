"""``goferd --check``: all that is wrong with the configuration, one line each, with no plugin imported or started."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from gofer.agent.config import AgentConfig, Descriptor, Problem, check_company, read_descriptors
from gofer.agent.loading import locate
from gofer.errors import AdapterError
from gofer.messaging.adapters import find
from gofer.messaging.authenticators import missing_authenticator
from gofer.root import Root

__all__ = ["check"]


def check(root: Root, config: AgentConfig, problems: Iterable[Problem]) -> int:
    """Print what is wrong with the agent's settings (``problems``, read before) and with the descriptors.

    Returns:
        The exit status: 0 when there is no error, else 1. Warnings alone are no error.
    """
    descriptors, more = read_descriptors(root)
    enabled = [descriptor for descriptor in descriptors if descriptor.enabled]
    missing = [problem for one in enabled for problem in _missing(root, config, one)]
    found = [*problems, *more, *missing, *check_company(descriptors)]
    for problem in found:
        print(f"{problem.severity}: {problem}")
    errors = sum(problem.severity == "error" for problem in found)
    names = ", ".join(descriptor.name for descriptor in enabled) or "none"
    print(f"{len(descriptors)} descriptors read from {root.descriptors}; enabled: {names}; errors: {errors}")
    return 1 if errors else 0


def _missing(root: Root, config: AgentConfig, descriptor: Descriptor) -> Iterable[Problem]:
    """Find what a descriptor names that is not there."""
    source = locate(root, descriptor)
    if isinstance(source, Problem):
        yield source
    elif source.file is None and source.module.partition(".")[0] in sys.stdlib_module_names:
        text = f"{source.module!r} is a module of Python's own library; allowed: a plugin"
        yield Problem("warning", str(descriptor.file), "main", "plugin", text)
    if descriptor.url is not None:
        try:
            find(descriptor.url, config.messaging.adapter)
        except AdapterError as error:
            yield Problem("error", str(descriptor.file), "messaging", "url", str(error))
    if descriptor.authenticator is not None and (missing := missing_authenticator(descriptor.authenticator)):
        yield Problem("error", str(descriptor.file), "messaging", "authenticator", missing)
