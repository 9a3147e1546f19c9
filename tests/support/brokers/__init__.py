"""Brokers for tests: each on free ports of 127.0.0.1, with files of its own."""

from __future__ import annotations

from support.brokers.artemis import Artemis
from support.brokers.brokerj import BrokerJ
from support.brokers.rabbitmq import RabbitMQ3, RabbitMQ4
from support.brokers.server import Server, ServerTLS

#: Any of them.
Broker = RabbitMQ3 | RabbitMQ4 | BrokerJ | Artemis

__all__ = ["Artemis", "Broker", "BrokerJ", "RabbitMQ3", "RabbitMQ4", "Server", "ServerTLS"]
