"""The ``gofer`` command: ``main`` is its entry point, and each subcommand a module."""

__all__: list[str] = []
