"""The agent's half of gofer.rmi. CONTRIBUTING.md follows a request through its files."""

__all__: list[str] = []
