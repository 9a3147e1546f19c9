"""Adapters: the interface, and finding the one that a URL asks for."""
