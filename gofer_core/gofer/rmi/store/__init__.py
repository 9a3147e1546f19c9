"""The store: one SQLite database for what an agent must not forget."""

from gofer.rmi.store.database import Database, Unavailable

__all__ = ["Database", "Unavailable"]
