"""Which brokers the tests run on: those that the environment variable ``GOFER_BROKERS`` names, with commas."""

from __future__ import annotations

import os

import pytest

__all__ = ["BROKERS", "chosen_brokers", "choose_tests"]

#: The fixtures of brokers, and the broker that each is when nothing else is said.
BROKERS = ("rabbitmq", "rabbitmq4", "brokerj", "artemis")


def chosen_brokers() -> list[str]:
    """Return the names of the brokers to test on; without the variable: the one that every developer has."""
    names = [name.strip() for name in os.environ.get("GOFER_BROKERS", "rabbitmq").split(",") if name.strip()]
    unknown = sorted(set(names) - set(BROKERS))
    if unknown or not names:
        raise pytest.UsageError(f"GOFER_BROKERS names {unknown or 'no broker'}; allowed: {', '.join(BROKERS)}")
    return names


def choose_tests(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of brokers that were not chosen. All that use one broker are run by one process."""
    chosen = set(chosen_brokers())
    left_out = []
    for item in list(items):
        used = [name for name in BROKERS if name in getattr(item, "fixturenames", ())]
        if not set(used) <= chosen:
            left_out.append(item)
            items.remove(item)
        elif used:
            item.add_marker(pytest.mark.xdist_group(used[0]))
    if left_out:
        config.hook.pytest_deselected(items=left_out)
