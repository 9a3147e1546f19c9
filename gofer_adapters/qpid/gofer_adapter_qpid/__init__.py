"""gofer's adapter for AMQP 0-10."""

from gofer_adapter_qpid.adapter import QpidAdapter

__all__ = ["QpidAdapter"]
