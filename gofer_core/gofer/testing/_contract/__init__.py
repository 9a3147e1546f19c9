"""The parts of the adapter contract, by subject."""
