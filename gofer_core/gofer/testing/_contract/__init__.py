"""The parts of the adapter contract, by subject. ``gofer.testing.contract`` puts them together."""

__all__: list[str] = []
