"""gofer."""
