"""Tests get a real agent on a broker of its own from gofer's pytest plugin."""

pytest_plugins = ["gofer.testing.plugin"]
