"""Plugins that are loaded, loaded again and unloaded by whoever manages the agent: by name, or by descriptor."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
from gofer.agent.plugin import State
from gofer.errors import ConfigError, PluginError
from support.containers import DOG, Kennel
from support.plugins import describe, install

VERSION = """
    from gofer.decorators import remote

    @remote
    def version():
        return {}
"""


def version(kennel: Kennel, name: str = "dog") -> object:
    return kennel[name]["version"]()


class TestLoading:
    def test_by_the_path_of_a_descriptor_wherever_that_is(self, kennel: Kennel, tmp_path: Path) -> None:
        kennel.start()
        install(kennel.site, "dog", DOG)
        tmp_path.chmod(0o755)
        elsewhere = tmp_path / "dog.conf"
        elsewhere.write_text("[main]\nenabled=1\n")
        elsewhere.chmod(0o644)

        plugin = kennel.container.load(str(elsewhere))

        assert kennel["dog"] is plugin
        assert plugin.state is State.RUNNING
        kennel.update()
        assert kennel["dog"] is plugin  # what is described elsewhere is not gone from among the root's descriptors
        elsewhere.write_text("[main]\nenabled=1\nthreads=2\n")
        kennel.update()
        assert kennel["dog"].descriptor.threads == 2
        elsewhere.unlink()
        kennel.update()
        assert kennel.container.plugins == {}

    def test_a_relative_path_is_among_the_roots_descriptors(self, kennel: Kennel) -> None:
        kennel.start()
        kennel.plugin("dog", DOG)

        assert kennel.container.load("dog.conf").state is State.RUNNING

    def test_what_is_loaded_already_is_reported_and_stays(self, kennel: Kennel) -> None:
        file = kennel.plugin("dog", DOG)
        kennel.start()
        before = kennel["dog"]

        with pytest.raises(PluginError, match=f"'dog' is loaded already, from {file}"):
            kennel.container.load(file)

        assert kennel["dog"] is before

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (None, "cannot be read: No such file or directory"),
            ("rubbish", ".main.: the file has no section; add .main. "),
            ("[main]\nenabled=maybe\n", r"\[main\] enabled: 'maybe' is neither yes nor no"),
        ],
    )
    def test_a_descriptor_that_cannot_be_used_is_reported_by_its_lines(
        self, kennel: Kennel, text: str | None, says: str
    ) -> None:
        kennel.start()
        if text is not None:
            describe(kennel.root, "dog", text)

        with pytest.raises(ConfigError, match=f"{kennel.root}/etc/gofer/plugins/dog.conf: {says}"):
            kennel.container.load("dog.conf")

        assert kennel.container.plugins == {}

    def test_one_that_is_not_enabled_is_not_loaded(self, kennel: Kennel) -> None:
        kennel.start()
        file = kennel.plugin("dog", DOG, main="enabled=0")

        with pytest.raises(PluginError, match=f"{file}: .main. enabled: is 0, so plugin 'dog' is not loaded"):
            kennel.container.load(file)

    def test_one_that_fails_is_reported_and_quarantined_and_may_be_tried_again(self, kennel: Kennel) -> None:
        kennel.start()
        file = kennel.plugin("dog", "1 / 0")

        with pytest.raises(PluginError, match="module dog_module cannot be imported: ZeroDivisionError"):
            kennel.container.load(file)
        assert kennel["dog"].state is State.QUARANTINED

        kennel.change("dog", DOG)
        assert kennel.container.load(file).state is State.RUNNING

    def test_what_was_unloaded_is_loaded_with_its_code_of_now(self, kennel: Kennel) -> None:
        kennel.plugin("dog", VERSION.format(1))
        kennel.start()
        kennel.container.unload("dog")
        kennel.change("dog", VERSION.format(2))

        kennel.container.load("dog.conf")

        assert version(kennel) == 2

    def test_so_is_one_of_a_plugin_directory(self, kennel: Kennel) -> None:
        file = kennel.root / "usr/share/gofer/plugins/dog.py"
        file.write_text(textwrap.dedent(VERSION.format(1)))
        describe(kennel.root, "dog")
        kennel.start()

        for number in (2, 3):
            file.write_text(textwrap.dedent(VERSION.format(number)))
            kennel.container.reload("dog")
            assert version(kennel) == number


class TestUnloading:
    @pytest.mark.parametrize("by", ["name", "path", "relative path"])
    def test_by_name_or_by_the_path_of_its_descriptor(self, kennel: Kennel, by: str) -> None:
        file = kennel.plugin("dog", DOG)
        kennel.start()

        kennel.container.unload({"name": "dog", "path": str(file), "relative path": "dog.conf"}[by])

        assert kennel.container.plugins == {}
        assert "dog_module" not in sys.modules

    def test_what_is_not_there_is_reported_with_what_is(self, kennel: Kennel) -> None:
        file = kennel.plugin("dog", DOG)
        kennel.start()

        for change in (kennel.container.unload, kennel.container.reload):
            with pytest.raises(PluginError, match="there is no plugin 'cat'; there are: dog"):
                change("cat")
            with pytest.raises(PluginError, match=f"no plugin is loaded from .*/cat.conf; descriptors in use: {file}"):
                change("cat.conf")


class TestReloading:
    @pytest.mark.parametrize("by", ["name", "path"])
    def test_the_code_is_new(self, kennel: Kennel, by: str) -> None:
        file = kennel.plugin("dog", VERSION.format(1))
        kennel.start()
        assert version(kennel) == 1
        kennel.change("dog", VERSION.format(2))

        kennel.container.reload("dog" if by == "name" else file)

        assert version(kennel) == 2

    def test_the_descriptor_is_read_again(self, kennel: Kennel) -> None:
        file = kennel.plugin("dog", DOG)
        kennel.start()
        file.write_text("[main]\nenabled=1\nthreads=3\n")

        assert kennel.container.reload("dog").descriptor.threads == 3

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("rubbish", ".main.: the file has no section; add .main. "),
            ("[main]\nenabled=0\n", ".main. enabled: is 0, so plugin 'dog' is not loaded"),
            ("[main]\nenabled=1\nname=cat\n", ".main. name: its name is 'cat' now; unload plugin 'dog', and load it"),
        ],
    )
    def test_what_it_cannot_be_is_reported_and_the_old_one_stays(self, kennel: Kennel, text: str, says: str) -> None:
        file = kennel.plugin("dog", DOG)
        kennel.start()
        before = kennel["dog"]
        file.write_text(text)

        with pytest.raises((ConfigError, PluginError), match=f"{file}: {says}"):
            kennel.container.reload("dog")

        assert kennel["dog"] is before
        assert before.state is State.RUNNING
