"""Where a plugin's code is found, and what its import may do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path

import pytest
from gofer.agent.config import Descriptor, Problem, read_descriptor
from gofer.agent.failures import Broken
from gofer.agent.sources import Source, forget, import_source, locate
from gofer.root import Root
from support.plugins import describe, install


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of the Python path, whose modules are forgotten after the test."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)
    yield site
    for name in set(sys.modules) - before:
        del sys.modules[name]


def descriptor(root: Path, name: str, text: str = "[main]\nenabled = 1\n") -> Descriptor:
    found, problems = read_descriptor(Root(root), describe(root, name, text))
    assert found is not None, problems
    return found


class TestWhere:
    def test_an_installed_plugin_is_found_by_the_descriptors_base_name(self, root: Path, site: Path) -> None:
        install(site, "dog", "", version="2.5")

        found = locate(Root(root), descriptor(root, "dog"))

        assert found == Source("dog_module", None, "gofer-plugin-dog", "2.5", "dog")
        assert "dog_module" not in sys.modules  # nothing is imported by looking

    def test_the_name_of_the_plugin_is_not_where_it_is_looked_for(self, root: Path, site: Path) -> None:
        install(site, "dog", "")

        found = locate(Root(root), descriptor(root, "dog", "[main]\nenabled=1\nname=rover\n"))

        assert isinstance(found, Source)
        assert found.module == "dog_module"

    def test_plugin_names_an_installed_one_before_a_module(self, root: Path, site: Path) -> None:
        install(site, "dog", "", module="hound")
        (site / "dog.py").touch()

        found = locate(Root(root), descriptor(root, "any", "[main]\nenabled=1\nplugin=dog\n"))

        assert isinstance(found, Source)
        assert found.module == "hound"

    def test_plugin_may_be_a_dotted_module(self, root: Path, site: Path) -> None:
        (site / "shop").mkdir()
        (site / "shop/__init__.py").write_text("raise RuntimeError('imported by looking')")
        (site / "shop/agent.py").touch()

        found = locate(Root(root), descriptor(root, "any", "[main]\nenabled=1\nplugin=shop.agent\n"))

        assert found == Source("shop.agent")

    def test_a_module_on_the_path_is_not_taken_for_the_base_name(self, root: Path, site: Path) -> None:
        (site / "dog.py").touch()

        found = locate(Root(root), descriptor(root, "dog"))

        assert isinstance(found, Problem)
        assert "no installed plugin is called 'dog'; installed: " in str(found)

    def test_pip_is_named_for_the_plugins_of_this_project_alone(
        self, root: Path, site: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Anybody may publish a distribution under a name that somebody has mistyped."""
        install(site, "dogs", "")
        there = [one for one in entry_points(group="gofer.plugins") if one.name not in ("demo", "system")]
        monkeypatch.setattr("gofer.entry_points.importlib.metadata.entry_points", lambda: EntryPoints(there))

        for name in ("demo", "system"):
            assert str(locate(Root(root), descriptor(root, name))).endswith(f"pip install gofer-plugin-{name}")
        mistyped = str(locate(Root(root), descriptor(root, "dgos")))
        assert "(did you mean 'dogs'?); installed: " in mistyped
        assert "pip install" not in mistyped

    def test_a_file_in_a_plugin_directory_is_the_last_resort(self, root: Path, site: Path) -> None:
        file = root / "usr/share/gofer/plugins/dog.py"
        file.touch(0o644)

        assert locate(Root(root), descriptor(root, "dog")) == Source("dog", file)

        install(site, "dog", "")
        found = locate(Root(root), descriptor(root, "dog"))
        assert isinstance(found, Source)
        assert found.module == "dog_module"

    def test_a_file_does_not_hide_a_module_of_its_name(self, root: Path) -> None:
        file = root / "usr/share/gofer/plugins/json.py"
        file.touch(0o644)

        assert locate(Root(root), descriptor(root, "json")) == Source("json_plugin", file)

    def test_a_file_that_others_may_write_is_refused(self, root: Path) -> None:
        file = root / "usr/share/gofer/plugins/dog.py"
        file.touch()
        file.chmod(0o666)

        found = locate(Root(root), descriptor(root, "dog"))

        assert isinstance(found, Problem)
        wrong = f"mode 0666 lets its group and others write to it. Fix: chmod go-w {file}"
        assert str(found) == f"{file}: is needed by {root}/etc/gofer/plugins/dog.conf, but {wrong}"

    def test_a_plugin_directory_that_others_may_write_is_refused(self, root: Path) -> None:
        directory = root / "usr/share/gofer/plugins"
        (directory / "dog.py").touch(0o644)
        directory.chmod(0o777)

        found = locate(Root(root), descriptor(root, "dog"))

        assert isinstance(found, Problem)
        assert str(found).startswith(f"{directory}: mode 0777 lets ")

    @pytest.mark.parametrize(
        ("main", "says"),
        [
            ("plugin=nope.agent", "'nope.agent' is neither an installed plugin nor a module on the Python path"),
            (
                "plugin=nope.py",
                "'nope.py' is neither an installed plugin nor a module on the Python path (a module is na",
            ),
            ("plugin=os.nope", "'os.nope' is neither an installed plugin nor a module on the Python path"),
            ("plugin=__main__", "'__main__' is neither an installed plugin nor a module on the Python path"),
        ],
    )
    def test_what_is_nowhere_is_reported_with_file_section_and_key(self, root: Path, main: str, says: str) -> None:
        one = descriptor(root, "dog", f"[main]\nenabled=1\n{main}\n")

        found = str(locate(Root(root), one))

        assert found.startswith(f"{one.file}: [main] plugin: {says}")
        assert "; installed: " in found
        assert "pip install" not in found

    def test_two_distributions_of_one_name_are_named_and_neither_is_taken(self, root: Path, site: Path) -> None:
        install(site, "dog", "", distribution="one")
        install(site, "dog", None, distribution="two", version="7")

        found = locate(Root(root), descriptor(root, "dog"))

        assert isinstance(found, Problem)
        assert "'dog' in gofer.plugins is claimed by one 1.0 and two 7; uninstall all but one" in str(found)

    def test_an_entry_point_names_a_module_and_nothing_in_it(self, root: Path, site: Path) -> None:
        install(site, "dog", "", entry="dog_module:Dog")

        found = locate(Root(root), descriptor(root, "dog"))

        assert isinstance(found, Problem)
        assert "names 'Dog' in dog_module; allowed: a module" in str(found)


class TestImport:
    def test_it_returns_the_module_that_is_there_already(self, site: Path) -> None:
        (site / "hound.py").write_text("value = object()")

        first = import_source(Source("hound"))

        assert import_source(Source("hound")) is first

    def test_a_forgotten_module_is_read_again_with_those_in_its_package(self, site: Path) -> None:
        (site / "shop").mkdir()
        (site / "shop/__init__.py").write_text("from shop.stock import amount")
        (site / "shop/stock.py").write_text("amount = 1")
        first = import_source(Source("shop"))
        (site / "shop/stock.py").write_text("amount = 20")

        forget({"shop"}, "shop")
        second = import_source(Source("shop"))

        assert (first.amount, second.amount) == (1, 20)

    def test_what_was_not_imported_for_a_plugin_is_never_forgotten(self) -> None:
        import json

        assert import_source(Source("json")) is json
        forget({"json"}, "json")

        assert sys.modules["json"] is json

    @pytest.mark.parametrize(
        ("code", "says"),
        [
            ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all' ("),
            ("raise ValueError('bad\\nworse')", "ValueError: bad worse ("),
            ("import sys; sys.exit(3)", "SystemExit: it ended the process by exit status 3 ("),
            ("raise KeyboardInterrupt", "KeyboardInterrupt ("),
            ("def broken(:", "SyntaxError: invalid syntax ("),
            ("class Odd(Exception):\n    def __str__(self): raise OSError\nraise Odd", "Odd ("),
        ],
    )
    @pytest.mark.parametrize("as_file", [False, True])
    def test_whatever_it_raises_is_one_line_with_the_place(
        self, site: Path, code: str, says: str, as_file: bool
    ) -> None:
        file = site / "broken_one.py"
        file.write_text(code)

        with pytest.raises(Broken) as caught:
            import_source(Source("broken_one", file if as_file else None))

        line = str(caught.value)
        assert line.startswith(says)
        assert line.endswith(f"({file}, line {code.count(chr(10)) + 1})")
        assert "\n" not in line
        assert caught.value.trace.count("\n") > 1
        assert "broken_one" not in sys.modules
