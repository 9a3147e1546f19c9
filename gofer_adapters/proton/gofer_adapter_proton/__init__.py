"""gofer's adapter for AMQP 1.0."""

import atexit

import cproton

from gofer_adapter_proton.adapter import ProtonAdapter

__all__ = ["ProtonAdapter"]

# At the end of the process proton frees the Python objects that its C objects point to. gofer closes its connections
# later, and a connection that is still in use would read freed memory: the process would abort.
atexit.unregister(cproton.clear_retained_objects)
