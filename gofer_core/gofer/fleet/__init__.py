"""Many machines at once: who is there, and one method called on all that are meant."""
