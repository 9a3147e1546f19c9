"""Which brokers the tests run on: those that the environment variable ``GOFER_BROKERS`` names, with commas."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

__all__ = ["FIXTURES", "choose_tests", "chosen_brokers"]

#: The brokers, and the fixture of each.
FIXTURES = {"rabbitmq": "rabbitmq3", "rabbitmq4": "rabbitmq4", "brokerj": "brokerj", "artemis": "artemis"}

# Files whose tests of RabbitMQ take as long as those of all files that are not named here.
_THIRDS = {
    "too": ("contract.py", "_deaf_agents.py", "_goferd_queues.py"),
    "as-well": ("_broken.py", "_fleet.py", "_asking_again.py", "_hosts.py", "_amqp.py"),
}


def chosen_brokers() -> list[str]:
    """Return the names of the brokers to test on; without the variable: the one that every developer has."""
    names = [name.strip() for name in os.environ.get("GOFER_BROKERS", "rabbitmq").split(",") if name.strip()]
    unknown = sorted(set(names) - set(FIXTURES))
    if unknown or not names:
        raise pytest.UsageError(f"GOFER_BROKERS names {unknown or 'no broker'}; allowed: {', '.join(FIXTURES)}")
    return names


def choose_tests(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of brokers that were not chosen. All that use one broker are run by one process, or by three.

    A test that uses none of them belongs to the one that every developer has.
    """
    chosen = set(chosen_brokers())
    left_out = []
    for item in list(items):
        used = list(_brokers(item))
        if not set(used or ["rabbitmq"]) <= chosen:
            left_out.append(item)
            items.remove(item)
        elif used:
            # Where there is one broker, its tests would keep one process busy for longer than all others have to do.
            third = [third for third, names in _THIRDS.items() if item.path.name.endswith(names)]
            item.add_marker(pytest.mark.xdist_group("-".join(used[:1] + third * (used[0] == "rabbitmq"))))
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def _brokers(item: pytest.Item) -> Iterator[str]:
    """Yield the brokers that a test uses, by its fixtures, or by parameters that are names of these."""
    names = getattr(item, "fixturenames", ())
    given = item.callspec.params if hasattr(item, "callspec") else {}
    for fixture in ("rabbitmq", "programs"):
        if fixture in names:
            yield given.get(fixture, "rabbitmq")
    if "pair" in names:
        yield getattr(given["pair"], "broker", "none")  # where no pair was chosen there is no broker either
    for broker, fixture in FIXTURES.items():
        if fixture in names or fixture in given.values():
            yield broker
