"""A container of plugins under a private root, without a process of its own."""

from __future__ import annotations

import textwrap
from pathlib import Path

from gofer.agent import PluginContainer
from gofer.agent.config import AgentConfig, read_descriptors
from gofer.agent.plugin import Plugin
from gofer.root import Root

from support.plugins import describe, install

__all__ = ["DOG", "Kennel"]

DOG = """
    from gofer.decorators import remote

    class Dog:
        @remote
        def bark(self):
            return "woof"

    @remote
    def whistle():
        return "fweet"
"""


class Kennel:
    """A container under a private root, with plugins that are installed as they are described."""

    def __init__(self, root: Path, site: Path) -> None:
        self.root = root
        self.site = site
        self.container = PluginContainer(Root(root), AgentConfig())

    def plugin(self, name: str, code: str, main: str = "enabled=1", more: str = "") -> Path:
        install(self.site, name, code)
        return describe(self.root, name, f"[main]\n{main}\n{more}")

    def change(self, name: str, code: str) -> None:
        """Write new code for a plugin."""
        (self.site / f"{name}_module.py").write_text(textwrap.dedent(code))

    def start(self) -> PluginContainer:
        descriptors, problems = read_descriptors(Root(self.root))
        assert not [problem for problem in problems if problem.severity == "error"]
        self.container.start(descriptors)
        return self.container

    def update(self) -> None:
        self.container.update(read_descriptors(Root(self.root))[0])

    def __getitem__(self, name: str) -> Plugin:
        return self.container.plugins[name]
