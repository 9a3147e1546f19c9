"""gofer's adapter for AMQP 1.0."""

from gofer_adapter_proton.adapter import ProtonAdapter

__all__ = ["ProtonAdapter"]
