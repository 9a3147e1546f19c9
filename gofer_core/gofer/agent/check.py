"""``goferd --check``: all that is wrong with the configuration, one line each, with no plugin imported or started."""

from __future__ import annotations

from collections.abc import Iterable

from gofer.agent.config import AgentConfig, Descriptor, Problem, read_descriptors
from gofer.agent.loading import locate
from gofer.errors import AdapterError
from gofer.messaging.adapter import find
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
    found = [*problems, *more, *(problem for one in enabled for problem in _missing(root, config, one, descriptors))]
    for problem in found:
        print(f"{problem.severity}: {problem}")
    errors = sum(problem.severity == "error" for problem in found)
    names = ", ".join(descriptor.name for descriptor in enabled) or "none"
    print(f"{len(descriptors)} descriptors read from {root.descriptors}; enabled: {names}; errors: {errors}")
    return 1 if errors else 0


def _missing(
    root: Root, config: AgentConfig, descriptor: Descriptor, all_of_them: Iterable[Descriptor]
) -> Iterable[Problem]:
    """Find what a descriptor names that is not there."""
    source = locate(root, descriptor)
    if isinstance(source, Problem):
        yield source
    if descriptor.extends is not None and not any(
        one.name == descriptor.extends and one.enabled for one in all_of_them
    ):
        text = f"no enabled plugin {descriptor.extends!r} is described in {root.descriptors}"
        yield Problem("error", str(descriptor.file), "main", "extends", text)
    if descriptor.url is not None:
        try:
            find(descriptor.url, config.messaging.adapter)
        except AdapterError as error:
            yield Problem("error", str(descriptor.file), "messaging", "url", str(error))
    if descriptor.authenticator is not None and (missing := missing_authenticator(descriptor.authenticator)):
        yield Problem("error", str(descriptor.file), "messaging", "authenticator", missing)
