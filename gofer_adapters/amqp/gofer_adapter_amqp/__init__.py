"""gofer's adapter for AMQP 0-9-1."""

from gofer_adapter_amqp.adapter import AmqpAdapter

__all__ = ["AmqpAdapter"]
