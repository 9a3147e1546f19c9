"""What becomes of plugins that are loaded again: new code or, if that fails, the old one as it was."""

from __future__ import annotations

import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from gofer.agent.plugin import State
from gofer.errors import PluginError
from msgspec.structs import replace
from support.containers import DOG, Kennel
from support.plugins import describe, install
from support.waiting import eventually

VERSION = """
    from gofer.decorators import load, remote, unload
    from gofer.agent.plugin import Plugin

    @remote
    def version():
        return {version}

    def tell(what):
        with open(Plugin.find(__name__).container.root.path / "told", "a") as file:
            file.write(f"{{what}} {version}\\n")

    @load
    def begin():
        tell("load")
        {load}

    @unload
    def end():
        tell("unload")
"""
TAKES = """
    from gofer.agent.plugin import Plugin
    from gofer.decorators import remote

    class {name}(Plugin.find("dog")["Dog"]):
        @remote
        def fetch(self):
            return self.bark()
"""


def code(version: int, load: str = "") -> str:
    return VERSION.format(version=version, load=load)


def told(kennel: Kennel) -> list[str]:
    return list((kennel.root / "told").read_text().splitlines())


class TestCode:
    def test_all_of_a_package_is_new_with_what_stands_beside_the_plugins_module(self, kennel: Kennel) -> None:
        package = kennel.site / "farm"
        (package / "inner").mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "inner/__init__.py").write_text("")
        files = [package / "helpers.py", package / "inner/deep.py"]
        for file in files:
            file.write_text("number = 1\n")
        (package / "plugin.py").write_text(
            "from farm import helpers\nimport farm.inner.deep\nfrom gofer.decorators import remote\n"
            "@remote\ndef numbers():\n    return [helpers.number, farm.inner.deep.number]\n"
        )
        install(kennel.site, "dog", None, module="farm.plugin")
        describe(kennel.root, "dog", "[main]\nenabled=1\n")
        kennel.start()
        assert kennel["dog"]["numbers"]() == [1, 1]

        for file in files:  # in the same second, and of the same size: what is compiled already looks new enough
            file.write_text("number = 2\n")
        kennel.container.reload("dog")

        assert kennel["dog"]["numbers"]() == [2, 2]

    def test_the_code_of_another_plugin_in_the_package_stays(self, kennel: Kennel) -> None:
        package = kennel.site / "farm"
        package.mkdir()
        (package / "__init__.py").write_text("")
        for name in ("dog", "cat"):
            (package / f"{name}.py").write_text(textwrap.dedent(DOG))
            install(kennel.site, name, None, module=f"farm.{name}")
            describe(kennel.root, name, "[main]\nenabled=1\n")
        kennel.start()
        cat, dog = sys.modules["farm.cat"], sys.modules["farm.dog"]

        kennel.container.reload("dog")

        assert sys.modules["farm.cat"] is cat
        assert sys.modules["farm"].cat is cat
        assert sys.modules["farm.dog"] is not dog
        assert sys.modules["farm"].dog is sys.modules["farm.dog"]

    def test_the_old_one_is_unloaded_before_the_new_one_is_loaded(self, kennel: Kennel) -> None:
        kennel.plugin("dog", code(1))
        kennel.start()
        kennel.change("dog", code(2))

        kennel.container.reload("dog")

        assert told(kennel) == ["load 1", "unload 1", "load 2"]

    def test_a_plugin_that_somebody_keeps_gives_what_the_new_one_has(self, kennel: Kennel) -> None:
        kennel.plugin("dog", code(1))
        kennel.start()
        kept = kennel["dog"]
        kennel.change("dog", code(2))

        kennel.container.reload("dog")
        kennel.container.reload("dog")

        assert kept["version"]() == 2


class TestFailing:
    @pytest.mark.parametrize(
        ("broken", "says"),
        [
            ("1 / 0", "module dog_module cannot be imported: ZeroDivisionError"),
            ("raise SystemExit(3)", "it ended the process by exit status 3"),
            (
                "from gofer.hooks import hookimpl\n@hookimpl\ndef gofer_laod(plugin): pass",
                "unknown hook 'gofer_laod'",
            ),
            (code(2, load="raise OSError('no disk')"), "its @load or a gofer_load hook failed: OSError: no disk"),
            (code(2, load="Plugin.find('dog').url = 'pigeon+amqp://h'"), ".messaging. url: .*the adapter 'pigeon' of"),
        ],
    )
    def test_the_old_code_runs_on(
        self, kennel: Kennel, errors: Callable[[], list[str]], broken: str, says: str
    ) -> None:
        kennel.plugin("dog", code(1))
        kennel.start()
        before, module = kennel["dog"], sys.modules["dog_module"]
        kennel.change("dog", broken)

        with pytest.raises(PluginError, match=says):
            kennel.container.reload("dog")

        assert kennel["dog"] is before
        assert before.state is State.RUNNING
        assert before["version"]() == 1
        assert sys.modules["dog_module"] is module
        assert kennel.container.hooks.is_registered(module)
        assert before.error is not None
        (line,) = errors()
        assert line == f"{before.error}; it is not reloaded"

        kennel.change("dog", code(3))
        kennel.container.reload("dog")
        assert kennel["dog"]["version"]() == 3
        assert kennel["dog"].error is None

    def test_one_that_can_be_loaded_neither_way_is_quarantined(self, kennel: Kennel) -> None:
        once = "first = not (Plugin.find('dog').container.root.path / 'once').exists()\n"
        once += "        (Plugin.find('dog').container.root.path / 'once').touch()\n        assert first, 'only once'"
        kennel.plugin("dog", code(1, load=once))
        kennel.start()
        kennel.change("dog", code(2, load="1 / 0"))

        with pytest.raises(PluginError, match="ZeroDivisionError"):
            kennel.container.reload("dog")

        assert kennel["dog"].state is State.QUARANTINED
        assert "only once" in (kennel["dog"].error or "")

    def test_an_import_that_hangs_is_given_up(self, kennel: Kennel, monkeypatch: pytest.MonkeyPatch) -> None:
        kennel.plugin("dog", code(1))
        kennel.start()
        module = sys.modules["dog_module"]
        hangs = "threading.gate.wait(20) if hasattr(threading, 'gate') else None  # in the agent alone"
        kennel.change("dog", f"import threading\n{hangs}\n")
        gate = threading.Event()
        monkeypatch.setattr(threading, "gate", gate, raising=False)
        self.impatient(kennel)

        with pytest.raises(PluginError, match=r"importing it has taken 0\.5 s; given up"):
            kennel.container.reload("dog")

        gate.set()
        assert kennel["dog"]["version"]() == 1
        assert sys.modules["dog_module"] is module

    @pytest.fixture
    def gate(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
        """What the code of plugins waits for, ``threading.gate``."""
        gate = threading.Event()
        monkeypatch.setattr(threading, "gate", gate, raising=False)
        yield gate
        gate.set()

    @staticmethod
    def impatient(kennel: Kennel) -> None:
        config = kennel.container.config
        kennel.container.config = replace(config, main=replace(config.main, shutdown_timeout=0.5))
        kennel.container.loader.imports.patience = 0.5

    def test_a_load_that_hangs_is_given_up_and_undone_when_it_returns(
        self, kennel: Kennel, gate: threading.Event
    ) -> None:
        kennel.plugin("dog", code(1))
        kennel.start()
        kennel.change("dog", code(2, load="import threading; threading.gate.wait(20)"))
        self.impatient(kennel)

        with pytest.raises(PluginError, match=r"its @load or a gofer_load hook has taken 0\.5 s; given up"):
            kennel.container.reload("dog")

        assert kennel["dog"]["version"]() == 1
        assert kennel["dog"].state is State.RUNNING
        assert told(kennel) == ["load 1", "unload 1", "load 2", "load 1"]
        kennel.change("dog", code(3))
        kennel.container.reload("dog")
        assert kennel["dog"]["version"]() == 3
        gate.set()
        eventually(lambda: told(kennel)[-1] == "unload 2")

    def test_nothing_waits_for_an_unload_that_hangs(
        self, kennel: Kennel, gate: threading.Event, errors: Callable[[], list[str]]
    ) -> None:
        hangs = code(1) + "        import threading; threading.gate.wait(20)\n"
        kennel.plugin("dog", hangs)
        kennel.plugin("cat", DOG)
        kennel.start()
        self.impatient(kennel)

        kennel.container.reload("dog")
        kennel.container.unload("dog")
        kennel.container.reload("cat")

        assert "dog" not in kennel.container.plugins
        says = "plugin dog: its @unload has taken 0.5 s; gofer no longer waits for it"
        assert errors() == [says, says]


class TestCompany:
    def test_who_took_a_class_is_loaded_again_too(self, kennel: Kennel) -> None:
        kennel.plugin("aardvark", TAKES.format(name="Retriever"))
        kennel.plugin("dog", DOG)
        kennel.plugin(
            "zoo",
            "from gofer.agent.plugin import Plugin\nplugin = Plugin.find(__name__)\nplugin += Plugin.find('dog')\n",
        )
        kennel.plugin("other", DOG)
        kennel.start()
        other = kennel["other"]
        kennel.change("dog", DOG.replace("woof", "wuff"))

        kennel.container.reload("dog")

        assert kennel["aardvark"]["Retriever"]().fetch() == "wuff"
        assert kennel["zoo"]["Dog"]().bark() == "wuff"
        assert kennel["zoo"].api.has("dog", "whistle")
        assert kennel["other"] is other
        assert {plugin.state for plugin in kennel.container.plugins.values()} == {State.RUNNING}

    def test_if_one_of_them_fails_all_stay(self, kennel: Kennel) -> None:
        kennel.plugin("dog", DOG)
        file = kennel.plugin("retriever", TAKES.format(name="Retriever"))
        kennel.start()
        before = [kennel["dog"], kennel["retriever"]]
        kennel.change("dog", DOG.replace("Dog", "Wolf"))

        with pytest.raises(PluginError, match=f"{file}: .* 'dog' has no remote class or function 'Dog'; it has: Wolf"):
            kennel.container.reload("dog")

        assert [kennel["dog"], kennel["retriever"]] == before
        assert kennel["retriever"]["Retriever"]().fetch() == "woof"

    def test_those_that_share_a_module_are_loaded_again_together(self, kennel: Kennel) -> None:
        kennel.plugin("one", DOG)
        describe(kennel.root, "two", "[main]\nenabled=1\nplugin=one\n")
        kennel.start()
        kennel.change("one", DOG.replace("woof", "wuff"))

        kennel.container.reload("two")

        assert [kennel[name]["Dog"]().bark() for name in ("one", "two")] == ["wuff", "wuff"]

    def test_what_it_put_into_others_by_its_descriptor_is_new_there_however_far(self, kennel: Kennel) -> None:
        kennel.plugin("animals", "")
        kennel.plugin("dog", "", main="enabled=1\nextends=animals")
        file = kennel.plugin("puppy", DOG, main="enabled=1\nextends=dog")
        kennel.start()
        animals = kennel["animals"]
        kennel.change("puppy", DOG.replace("woof", "yap"))

        kennel.container.reload("puppy")

        assert kennel["animals"] is animals
        assert [kennel[name]["Dog"]().bark() for name in ("puppy", "dog", "animals")] == ["yap"] * 3

        file.write_text("[main]\nenabled=1\n")
        kennel.container.reload("puppy")
        assert [kennel[name].api.has("Dog", "bark") for name in ("puppy", "dog", "animals")] == [True, False, False]

    def test_what_others_put_into_it_is_there_again(self, kennel: Kennel) -> None:
        kennel.plugin("animals", "")
        kennel.plugin("dog", DOG, main="enabled=1\nextends=animals")
        kennel.start()

        kennel.container.reload("animals")

        assert kennel["animals"]["Dog"]().bark() == "woof"

    def test_a_clash_with_what_another_has_leaves_all_as_it_was(self, kennel: Kennel) -> None:
        kennel.plugin("animals", DOG.replace("Dog", "Cat").replace("whistle", "call"))
        file = kennel.plugin("dog", DOG, main="enabled=1\nextends=animals")
        kennel.start()
        kennel.change("dog", DOG.replace("Dog", "Cat"))

        with pytest.raises(PluginError, match=f"{file}: .main. extends: name clash: .*'dog'.*'animals'"):
            kennel.container.reload("dog")

        assert kennel["animals"]["Dog"]().bark() == "woof"


class TestHooks:
    HOOK = """
        from gofer.hooks import hookimpl

        @hookimpl
        def gofer_load(plugin):
            with open(plugin.container.root.path / "told", "a") as file:
                file.write(f"{} saw {{plugin.name}}\\n")
    """

    def test_the_new_ones_are_called_and_the_old_ones_no_more(self, kennel: Kennel) -> None:
        kennel.plugin("watch", self.HOOK.format("one"))
        kennel.plugin("zebra", DOG)
        kennel.start()
        kennel.change("watch", self.HOOK.format("two"))

        kennel.container.reload("watch")
        kennel.container.reload("zebra")

        assert told(kennel) == ["one saw watch", "one saw zebra", "two saw watch", "two saw zebra"]


class TestMeanwhile:
    """While new code is being loaded, which takes as long as ``threading.gate`` says."""

    WAITS = "import threading; threading.begun.set(); assert threading.gate.wait(20)"

    @pytest.fixture
    def reloading(self, kennel: Kennel, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Thread]:
        begun, gate = threading.Event(), threading.Event()
        monkeypatch.setattr(threading, "begun", begun, raising=False)
        monkeypatch.setattr(threading, "gate", gate, raising=False)
        kennel.plugin("front", "", main="enabled=1\nforward=dog")
        install(kennel.site, "dog", code(1))
        describe(kennel.root, "dog", "[main]\nenabled=1\naccept=*\n")
        kennel.start()
        kennel.change("dog", code(2, load=self.WAITS))
        thread = threading.Thread(target=lambda: kennel.container.reload("dog"))
        thread.start()
        assert begun.wait(20)
        yield thread
        gate.set()
        thread.join(20)

    def test_what_is_forwarded_to_it_waits_for_it(
        self, kennel: Kennel, reloading: threading.Thread, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with ThreadPoolExecutor(1) as threads:
            forwarded = threads.submit(lambda: list(kennel.container.forwards(kennel["front"])))
            with pytest.raises(TimeoutError):
                forwarded.result(0.1)
            threading.gate.set()  # type: ignore[attr-defined]  # of this test

            (plugin,) = forwarded.result(20)
            assert plugin["version"]() == 2

    def test_the_agent_stops_all_the_same(self, kennel: Kennel, reloading: threading.Thread) -> None:
        kennel.container.stop(0.1)

        assert reloading.is_alive()  # a plugin's code holds it up, and nothing waits for that

    def test_another_change_waits(self, kennel: Kennel, reloading: threading.Thread) -> None:
        with ThreadPoolExecutor(1) as threads:
            unloaded = threads.submit(kennel.container.unload, "dog")
            with pytest.raises(TimeoutError):
                unloaded.result(0.1)
            threading.gate.set()  # type: ignore[attr-defined]  # of this test
            unloaded.result(20)
        assert "dog" not in kennel.container.plugins

    def test_code_that_is_being_loaded_changes_nothing(self, kennel: Kennel, errors: Callable[[], list[str]]) -> None:
        kennel.plugin("dog", DOG)
        meddle = "Plugin.find(__name__).container.unload('dog')"
        kennel.plugin("meddler", f"from gofer.agent.plugin import Plugin\n{meddle}")

        kennel.start()

        (line,) = errors()
        assert "plugin 'meddler' is being loaded: nothing can be loaded or unloaded by it now" in line
        assert kennel["dog"].state is State.RUNNING
