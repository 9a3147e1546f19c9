"""The animals of gofer's documentation."""
